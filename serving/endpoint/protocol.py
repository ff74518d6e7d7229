"""HTTP over one connection, as uvicorn speaks it, but for what a client can make it hold.

What is said of a body (`serving.endpoint.intake`) begins when the headers of its request are complete; until then, where a body goes on
after it was answered, and for what an answer waits in memory until it is read, the bounds are here.
"""

from __future__ import annotations

import logging
import uuid
from asyncio import BaseTransport, TimerHandle, Transport
from typing import Any, cast

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from registry.errors import BlankslideError, InputError
from serving.errors import HeadersTimeoutError, HeadersTooLargeError, OverloadedError, status_of
from serving.schema import ErrorAnswer
from serving.settings import Settings

#: bytes of a body that may wait in memory before its connection is told to stop
READ_AHEAD = 2**20
#: bytes of a request line and its headers, or of what follows the last chunk of a body
MOST_HEAD = 2**16
#: requests that may wait on a connection behind the one that is answered; each takes a hundred times its own bytes
MOST_WAITING = 16
#: who is refused while it still sends would see a broken connection instead of the answer: for so long, what comes is dropped
LINGER_S = 2.0
#: seconds after which a client may try again
RETRY_AFTER = "1"
#: where the scope of a request has the status with which its connection refused the rest of its body
REFUSED = "blankslide.refused"
#: where the state of the application has what counts a request that was refused before it was one, by its status
UNREAD = "blankslide.unread"
log = logging.getLogger("blankslide")


class Protocol(HttpToolsProtocol):
    """Reads a body `READ_AHEAD` bytes ahead, headers only to a size and for a time, and waits only so long for an answer to be read.

    uvicorn stops a connection after 64 KiB of a body and lets it go on when they are taken: an image of half a megabyte is eight stops, each
    a turn of the loop and a client that is put to sleep and woken, on cores that the networks want. Headers it takes for ever, requests before
    the first is answered as many as come, and what nobody reads it keeps for ever.

    Attributes:
        patience_s: how long headers may take, a body that nobody waits for any more, and an answer to be read.
        most_connections: of one process; others are answered 429.
    """

    patience_s = 30.0
    most_connections = 512

    def __init__(self, *args: Any, **named: Any) -> None:
        super().__init__(*args, **named)
        #: bytes since headers were last complete, or part of a body came
        self._loose = 0
        self._in_body = False
        self._refused = False
        self._crowded = False
        self._timer: TimerHandle | None = None
        #: runs while an answer waits for its reader
        self._unread: TimerHandle | None = None

    def connection_made(self, transport: BaseTransport) -> None:
        """A connection that says nothing is waited for as one that begins; one too many is refused."""
        super().connection_made(cast(Transport, transport))
        self._timer = self.loop.call_later(self.patience_s, self._waited)
        if len(self.connections) > 2 * self.most_connections:
            # refusals wait for their readers too
            self.transport.abort()
        elif len(self.connections) > self.most_connections:
            self._refuse(OverloadedError(f"There are {self.most_connections} connections already, which is all that may be. Try again in a moment."))

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget what was waited for."""
        self._stop_waiting()
        self._stop_waiting_for_reader()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """More of an answer waits than the transport likes to hold: it is to be read in time."""
        super().pause_writing()
        self._wait_for_reader()

    def resume_writing(self) -> None:
        """Most of it was read; of a connection that closes, the rest is to be read in the same time."""
        super().resume_writing()
        if not self.transport.is_closing():
            self._stop_waiting_for_reader()

    def on_response_complete(self) -> None:
        """The last answer of a connection is waited for as others are: closing it would wait for ever."""
        super().on_response_complete()
        if self.transport.is_closing():
            self._wait_for_reader()

    def timeout_keep_alive_handler(self) -> None:
        """Nothing more was asked."""
        self._hang_up()

    def shutdown(self) -> None:
        """The service ends."""
        super().shutdown()
        if self.transport.is_closing():
            self._wait_for_reader()

    def data_received(self, data: bytes) -> None:
        """Take what came, of headers at most `MOST_HEAD` bytes."""
        while data and not self._refused and not self.transport.is_closing():
            if self._in_body:
                now, data = data, b""
            else:
                now, data = data[: MOST_HEAD - self._loose], data[MOST_HEAD - self._loose :]
            self._loose += len(now)
            super().data_received(now)
            if not self._refused and (self._loose > MOST_HEAD or (self._loose == MOST_HEAD and data)):
                self._refuse(HeadersTooLargeError(f"Expected at most {MOST_HEAD} bytes of headers, got more. Send fewer or shorter ones."))
        if not self._refused:
            self._wait_or_not()

    def send_400_response(self, msg: str) -> None:
        """What is no HTTP is answered as every other error."""
        if self._crowded:
            msg = f"Expected at most {MOST_WAITING} requests behind one that is not answered, got more."
            self._refuse(InputError(f"{msg} Wait for the answers, or use several connections."))
            return
        self._refuse(InputError(f"{msg} Expected HTTP/1.1, without TLS. Send it with a client for HTTP."))

    def on_message_begin(self) -> None:
        """A request begins, maybe behind another in what one read brought."""
        super().on_message_begin()
        self._loose = self._loose or 1

    def on_headers_complete(self) -> None:
        """What comes next is a body.

        Raises:
            InputError: too many requests wait; the parser stops at any error, with most of what it was given unread.
        """
        if len(self.pipeline) >= MOST_WAITING:
            self._crowded = True
            raise InputError(f"More than {MOST_WAITING} requests wait.")
        super().on_headers_complete()
        self._loose, self._in_body = 0, True

    def on_body(self, body: bytes) -> None:
        """Take a part of the body; what stopped the connection for another reason, such as a request before this one, is left as it is."""
        self._loose = 0
        stopped = self.flow.read_paused
        super().on_body(body)
        if not stopped and len(self.cycle.body) <= READ_AHEAD:
            self.flow.resume_reading()

    def on_message_complete(self) -> None:
        """What comes next is another request."""
        super().on_message_complete()
        self._loose, self._in_body = 0, False

    def _wait_or_not(self) -> None:
        """A timer runs where the client has begun something that nothing else waits for."""
        if not (self.cycle.response_complete if self._in_body else self._loose):
            self._stop_waiting()
        elif self._timer is None:
            self._timer = self.loop.call_later(self.patience_s, self._waited)

    def _stop_waiting(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _waited(self) -> None:
        self._timer = None
        if self._answering:
            # its connection is needed, and has limits of its own
            self._wait_or_not()
        elif self._in_body:
            self._hang_up()
        else:
            message = f"Expected the headers of a request within {self.patience_s:g} s, they were not complete by then. Send it again."
            self._refuse(HeadersTimeoutError(message))

    def _wait_for_reader(self) -> None:
        if self._unread is None:
            self._unread = self.loop.call_later(self.patience_s, self.transport.abort)

    def _stop_waiting_for_reader(self) -> None:
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None

    def _hang_up(self) -> None:
        """Close when all is read that was written, or when that takes too long."""
        if not self.transport.is_closing():
            self.transport.close()
            self._wait_for_reader()

    @property
    def _answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _refuse(self, error: BlankslideError) -> None:
        """Answer with an error and hang up; take nothing more."""
        self._refused = True
        self._unset_keepalive_if_required()
        self._stop_waiting()
        if self._answering and (not self._in_body or self.cycle.response_started or self.pipeline):
            # a second answer would be read as the first: that is the last, if its request was whole
            self.cycle.keep_alive = False
            if self._in_body:
                self._hang_up()
            return
        if self._answering:
            # its request is the one that is refused, and is counted as others are
            cast("dict[str, Any]", self.cycle.scope)[REFUSED] = int(status_of(error))
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        elif count := self.app_state.get(UNREAD):
            count(status_of(error))
        request_id, status = uuid.uuid4().hex, status_of(error)
        body = ErrorAnswer(error=str(error), kind=type(error).__name__, status=status).model_dump_json().encode()
        headers = {"content-type": "application/json", "content-length": len(body), "x-request-id": request_id, "connection": "close"}
        headers["x-content-type-options"] = "nosniff"
        if isinstance(error, OverloadedError):
            headers["retry-after"] = RETRY_AFTER
        head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        self.transport.write(STATUS_LINE[status] + f"{head}\r\n".encode() + body)
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self._timer = self.loop.call_later(LINGER_S, self._hang_up)
        log.info("connection refused", extra={"facts": {"id": request_id, "status": int(status)}})


def protocol_of(settings: Settings) -> type[Protocol]:
    """The protocol of a service: uvicorn makes one for each connection, and knows none of our settings."""

    class Limited(Protocol):
        patience_s = settings.body_timeout_s
        most_connections = settings.max_connections

    return Limited

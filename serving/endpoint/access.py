"""What surrounds every request: its id, the token or the host it asks, one line in the log, the counters. Nothing of a body is ever logged."""

from __future__ import annotations

import asyncio
import hmac
import logging
import re
import uuid
from functools import lru_cache
from time import perf_counter

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.endpoint.metrics import UNKNOWN, Metrics
from serving.endpoint.protocol import REFUSED, RETRY_AFTER
from serving.errors import STATUS, MisdirectedError, TooSlowError, UnauthorizedError
from serving.schema import ErrorAnswer
from serving.settings import PREFIX, is_loopback

#: paths that answer without a token: whether the service lives, and the page, which asks for the token itself
OPEN = frozenset({"/", "/docs", "/page.css", "/page.js", "/healthz", "/readyz", "/v2/health/live", "/v2/health/ready"})
_UNAUTHORIZED = ErrorAnswer(
    error="Expected `Authorization: Bearer TOKEN` with this service's token. Whoever runs the service has it.",
    kind=UnauthorizedError.__name__,
    status=STATUS[UnauthorizedError],
)
_STOPPING = ErrorAnswer(
    error="The service stopped before this was answered. Try again: it may be back, or another may answer.",
    kind=TooSlowError.__name__,
    status=STATUS[TooSlowError],
)
_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_HOST = re.compile(r"(\[(?P<v6>[0-9a-fA-F:.]+)\]|(?P<name>[^:\[\]]+))(:[0-9]*)?")
#: in the log and the counters: the client hung up before its body was whole, so that nobody was answered (as nginx says it)
HUNG_UP = 499
#: where a request's scope has its id
REQUEST_ID = "blankslide.request_id"
log = logging.getLogger("blankslide")


class Access:
    """ASGI middleware around the whole application.

    Args:
        app: the application.
        metrics: where requests are counted.
        token: that every request must carry as `Authorization: Bearer`; "" if none is asked for, but only under names of this machine.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics, token: str = "") -> None:
        self._app = app
        self._metrics = metrics
        self._token = token.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start, headers = perf_counter(), Headers(scope=scope)
        given = headers.get("x-request-id", "")
        request_id = given if _ID.fullmatch(given) else uuid.uuid4().hex
        scope[REQUEST_ID] = request_id
        method, status = scope["method"], 0
        if method == "HEAD":
            # answered as GET: the server leaves the body away
            scope = {**scope, "method": "GET"}

        async def answered(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                sent = MutableHeaders(scope=message)
                sent["x-request-id"] = request_id
                # a browser takes it for what it says it is: no answer becomes a script or a page by its content
                sent["x-content-type-options"] = "nosniff"
            await send(message)

        try:
            if not self._token and (other := [host for host in headers.getlist("host") if not _of_this_machine(host)]):
                await _send(answered, _misdirected(other[0]))
            elif self._admits(scope["path"], headers):
                await self._app(scope, receive, answered)
            else:
                await _send(answered, _UNAUTHORIZED, (b"www-authenticate", b"Bearer"))
        except ClientDisconnect:
            # not a fault: nobody is there to be answered, or the connection has said why it takes no more
            status = scope.get(REFUSED, HUNG_UP)
        except asyncio.CancelledError:
            # the server gives requests up when its drain is over
            if status:
                status = _STOPPING.status
                raise
            await _send(answered, _STOPPING, (b"retry-after", RETRY_AFTER.encode()), (b"connection", b"close"))
        except Exception as error:
            log.exception("request failed", extra={"facts": {"id": request_id}})
            if status:
                # half an answer is no answer: the connection ends
                status = 500
                raise
            message = f"The service failed on this request; its log says where, under {request_id}. Please report it."
            await _send(answered, ErrorAnswer(error=message, kind=type(error).__name__, status=500, request_id=request_id))
        finally:
            seconds = perf_counter() - start
            # the template, not the path: a request must not choose what is counted
            route = getattr(scope.get("route"), "path", "") or UNKNOWN
            self._metrics.request(route, status, seconds)
            facts = {"id": request_id, "method": method, "path": scope["path"][:200], "status": status, "ms": round(1000 * seconds, 2)}
            log.info("request", extra={"facts": facts})

    def _admits(self, path: str, headers: Headers) -> bool:
        if not self._token or path in OPEN:
            return True
        kind, _, given = headers.get("authorization", "").partition(" ")
        return kind.lower() == "bearer" and hmac.compare_digest(given.strip().encode(), self._token)


@lru_cache(64)
def _of_this_machine(host: str) -> bool:
    """Whether a `Host` names this machine alone. A browser always sends one: a page whose own name leads here (DNS rebinding) is found by it."""
    found = _HOST.fullmatch(host)
    return found is not None and is_loopback((found["name"] or found["v6"]).lower())


def _misdirected(host: str) -> ErrorAnswer:
    message = (
        f"Expected `Host` to be localhost, 127.0.0.1 or [::1], got `{host[:80]}`. Without a token the service answers under no other name,"
        f" or any web page could ask it. For another name, or behind a proxy, set {PREFIX}TOKEN."
    )
    return ErrorAnswer(error=message, kind=MisdirectedError.__name__, status=STATUS[MisdirectedError])


async def _send(send: Send, said: ErrorAnswer, *more: tuple[bytes, bytes]) -> None:
    body = said.model_dump_json().encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode()), *more]
    await send({"type": "http.response.start", "status": said.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})

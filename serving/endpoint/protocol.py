"""HTTP over one connection, as uvicorn speaks it, but for how far a body is read ahead of who takes it."""

from __future__ import annotations

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

#: bytes of a body that may wait in memory before its connection is told to stop
READ_AHEAD = 2**20


class Protocol(HttpToolsProtocol):
    """Reads a body `READ_AHEAD` bytes ahead.

    uvicorn stops a connection after 64 KiB and lets it go on when they are taken: an image of half a megabyte is eight stops, each
    a turn of the loop and a client that is put to sleep and woken, on cores that the networks want.
    """

    def on_body(self, body: bytes) -> None:
        """Take a part of the body; what stopped the connection for another reason, such as a request before this one, is left as it is."""
        stopped = self.flow.read_paused
        super().on_body(body)
        if not stopped and len(self.cycle.body) <= READ_AHEAD:
            self.flow.resume_reading()

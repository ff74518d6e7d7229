"""A real TCP front before a real server: it does to a connection what a network, a proxy or a busy service may do, then passes bytes on."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import httpx

RESET = "reset"
HANG_UP = "hang up"
SILENT = "say nothing"
PASS = "pass on"


def refusal(status: int, retry_after: str = "", body: str = "") -> bytes:
    """An answer as it goes over the wire."""
    said = body or f'{{"schema": 1, "error": "Busy.", "kind": "OverloadedError", "status": {status}}}'
    extra = f"Retry-After: {retry_after}\r\n" if retry_after else ""
    return f"HTTP/1.1 {status} X\r\n{extra}Content-Length: {len(said)}\r\nConnection: close\r\n\r\n{said}".encode()


#: one of the above, bytes to answer, or what makes them when the request is there
Action = str | bytes | Callable[[], bytes]


@dataclass
class Front:
    """What was done so far.

    Attributes:
        url: of the front.
        heads: of the requests that were not passed on, as text.
        connections: how many there were.
    """

    url: str
    heads: list[str] = field(default_factory=list)
    connections: int = 0


@contextmanager
def front(behind: str, script: Sequence[Action]) -> Iterator[Front]:
    """Do to the first connections what the script says (PASS, RESET, HANG_UP, SILENT, or an answer); pass all later ones on."""
    target = urlsplit(behind)
    actions = list(script)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        state = Front(f"http://127.0.0.1:{listener.getsockname()[1]}")
        thread = threading.Thread(target=_accept, args=(listener, (target.hostname, target.port), actions, state), daemon=True)
        thread.start()
        yield state
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()


def _accept(listener: socket.socket, behind: tuple[str, int], actions: list[Action], state: Front) -> None:
    while True:
        try:
            connection, _ = listener.accept()
        except OSError:
            return
        state.connections += 1
        action = actions.pop(0) if actions else PASS
        threading.Thread(target=_serve, args=(connection, behind, action, state), daemon=True).start()


def _serve(connection: socket.socket, behind: tuple[str, int], action: Action, state: Front) -> None:
    with connection:
        if action == PASS:
            _pass_on(connection, behind)
            return
        state.heads.append(_read_request(connection))
        if callable(action):
            action = action()
        if isinstance(action, bytes):
            connection.sendall(action)
        elif action == RESET:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        elif action == SILENT:
            connection.recv(1)


def _read_request(connection: socket.socket) -> str:
    """The head of one request; its body is read and dropped, so that nothing is reset that should be answered."""
    data = b""
    while b"\r\n\r\n" not in data:
        data += connection.recv(65536)
    head, _, body = data.partition(b"\r\n\r\n")
    length = int(httpx.Headers([line.split(": ", 1) for line in head.decode().split("\r\n")[1:]]).get("content-length", 0))
    left = length - len(body)
    while left > 0:
        left -= len(connection.recv(65536))
    return head.decode()


def _pass_on(connection: socket.socket, behind: tuple[str, int]) -> None:
    with socket.create_connection(behind) as other:
        back = threading.Thread(target=_pump, args=(other, connection), daemon=True)
        back.start()
        _pump(connection, other)
        back.join()


def _pump(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)
    with contextlib.suppress(OSError):
        sink.shutdown(socket.SHUT_WR)

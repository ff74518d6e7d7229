"""A body is read ahead of who takes it as far as is said, and no farther, over a real connection."""

from __future__ import annotations

import asyncio
import hashlib
import socket

import pytest
from starlette.types import Receive, Scope, Send

from serving.endpoint.protocol import READ_AHEAD, Protocol
from serving.endpoint.workers import server_of
from serving.settings import Settings


@pytest.mark.parametrize("size", [2**19, 2**24], ids=["an image", "more than is read ahead"])
def test_a_body_is_read_ahead(size: int) -> None:
    body = hashlib.shake_128(b"body").digest(size)
    asyncio.run(_story(body))


async def _story(body: bytes) -> None:
    begun, go = asyncio.Event(), asyncio.Event()
    taken = hashlib.sha256()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        begun.set()
        await go.wait()
        more = True
        while more:
            message = await receive()
            taken.update(message["body"])
            more = message["more_body"]
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        server = server_of(app, Settings())
        server.config.load()
        serving = asyncio.create_task(server._serve([listener]))
        reader, writer = await _connection(listener)
        writer.write(b"POST / HTTP/1.1\r\nHost: here\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        await asyncio.wait_for(begun.wait(), 10)
        (connection,) = server.server_state.connections
        assert isinstance(connection, Protocol)
        ahead = await _settled(connection)
        # what one read brings may lie above the line
        assert min(len(body), READ_AHEAD) <= ahead <= min(len(body), READ_AHEAD + 2**18)
        assert connection.flow.read_paused == (len(body) > READ_AHEAD)
        go.set()
        assert (await asyncio.wait_for(reader.readuntil(b"ok"), 10)).startswith(b"HTTP/1.1 200")
        assert taken.digest() == hashlib.sha256(body).digest()
        writer.close()
        server.should_exit = True
        await asyncio.wait_for(serving, 10)


async def _connection(listener: socket.socket) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    for _ in range(200):
        try:
            return await asyncio.open_connection(*listener.getsockname())
        except ConnectionRefusedError:
            await asyncio.sleep(0.02)
    raise AssertionError("nobody listens")


async def _settled(connection: Protocol) -> int:
    """Bytes that wait, once no more come."""
    before = -1
    while (now := len(connection.cycle.body)) != before:
        before = now
        await asyncio.sleep(0.1)
    return now

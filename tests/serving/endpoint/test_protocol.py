"""What a connection may hold, over a real one: a body is read ahead as far as is said, and headers end."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import re
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from starlette.types import Receive, Scope, Send

from serving.endpoint.protocol import MOST_HEAD, MOST_WAITING, READ_AHEAD, Protocol
from serving.endpoint.server import answering
from serving.endpoint.workers import server_of
from serving.schema import ErrorAnswer
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


PATIENCE_S = 1.0
GET = b"GET / HTTP/1.1\r\nHost: here\r\n"
LATE = b"GET /late HTTP/1.1\r\nHost: here\r\n"
LARGE_BYTES = 2**25
CHUNKED = b"POST / HTTP/1.1\r\nHost: here\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n"


async def answer(scope: Scope, receive: Receive, send: Send) -> None:
    """Waits for the end of a body, but for `/early`; `/late` takes its time, `/large` gives more than sockets hold."""
    if scope["type"] != "http":
        return
    more = scope["path"] != "/early"
    while more:
        more = (await receive()).get("more_body", False)
    if scope["path"] == "/late":
        await asyncio.sleep(1.5 * PATIENCE_S)
    body = b"ok" if scope["path"] != "/large" else b"o" * (LARGE_BYTES - 1) + b"k"
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})


@pytest.fixture(scope="module")
def patient() -> Iterator[int]:
    """The port of a service that waits for headers."""
    with answering(lambda _url: answer, Settings()) as url:
        yield int(url.rpartition(":")[2])


@pytest.fixture(scope="module")
def impatient() -> Iterator[int]:
    """The port of one that does not."""
    with answering(lambda _url: answer, Settings(body_timeout_s=PATIENCE_S)) as url:
        yield int(url.rpartition(":")[2])


@contextmanager
def connected(port: int, again: bool = False) -> Iterator[socket.socket]:
    """A connection that stays open to write; `again`: on which a request was answered before."""
    with socket.create_connection(("127.0.0.1", port), 20) as client:
        if again:
            client.sendall(GET + b"\r\n")
            until_ok(client)
        yield client


def until_ok(client: socket.socket) -> None:
    found = b""
    while b"ok" not in found:
        piece = client.recv(4096)
        assert piece, found
        found += piece
    assert found.startswith(b"HTTP/1.1 200 ")


def rest(client: socket.socket) -> bytes:
    """All that comes until the service hangs up."""
    return b"".join(iter(lambda: client.recv(65536), b""))


def error_of(said: bytes) -> tuple[int, str]:
    head, _, body = said.partition(b"\r\n\r\n")
    assert re.search(rb"\r\nx-request-id: [0-9a-f]{32}\r\n", head)
    error = ErrorAnswer.model_validate_json(body)
    assert error.status == int(head.split(b" ", 2)[1])
    return error.status, error.kind


@pytest.mark.parametrize("again", [False, True])
class TestHeaders:
    @pytest.mark.parametrize(("start", "more"), [(GET + b"X-A: ", b"a"), (GET, b"X-A: b\r\n"), (b"GET /", b"a"), (b"", b"\r\n")])
    def test_that_go_on_are_refused(self, patient: int, again: bool, start: bytes, more: bytes) -> None:
        with connected(patient, again) as client:
            client.sendall(start + more * (MOST_HEAD // len(more) + 1))
            assert error_of(rest(client)) == (431, "HeadersTooLargeError")

    @pytest.mark.parametrize("above", [0, 1])
    def test_the_largest(self, patient: int, again: bool, above: int) -> None:
        start, end = GET + b"Connection: close\r\nX-A: ", b"\r\n\r\n"
        with connected(patient, again) as client:
            client.sendall(start + b"a" * (MOST_HEAD + above - len(start) - len(end)) + end)
            assert rest(client).split(b" ", 2)[1] == (b"431" if above else b"200")

    def test_an_answer_that_is_due_comes_before_the_end(self, patient: int, again: bool) -> None:
        with connected(patient, again) as client:
            client.sendall(LATE + b"\r\n" + GET + b"X-A: " + b"a" * 2 * MOST_HEAD)
            until_ok(client)
            assert rest(client) == b""

    def test_behind_a_body_they_end_too(self, patient: int, again: bool) -> None:
        with connected(patient, again) as client:
            client.sendall(CHUNKED + b"X-A: " + b"a" * 2**20)
            assert error_of(rest(client)) == (431, "HeadersTooLargeError")

    @pytest.mark.parametrize("start", [b"\r\n", GET + b"X-A: b\r\n"])
    def test_that_stop_are_not_waited_for(self, impatient: int, again: bool, start: bytes) -> None:
        with connected(impatient, again) as client:
            client.sendall(start)
            assert error_of(rest(client)) == (408, "HeadersTimeoutError")

    def test_an_answer_may_take_longer_than_they_may(self, impatient: int, again: bool) -> None:
        with connected(impatient, again) as client:
            client.sendall(LATE + b"\r\n" + GET)
            until_ok(client)


def test_a_connection_without_a_word(impatient: int) -> None:
    with connected(impatient) as client:
        assert error_of(rest(client)) == (408, "HeadersTimeoutError")


def test_a_body_that_was_answered_is_not_waited_for(impatient: int) -> None:
    with connected(impatient) as client:
        client.sendall(b"POST /early HTTP/1.1\r\nHost: here\r\nContent-Length: 9\r\n\r\n")
        until_ok(client)
        client.sendall(b"a")
        assert rest(client) == b""


@pytest.mark.parametrize("again", [False, True])
@pytest.mark.parametrize("said", [b"\x16\x03\x01\x02\x00\x01\x00", b"GET / HTTP/9.9\r\n\r\n", CHUNKED.replace(b"\r\n2\r\n", b"\r\nzz\r\n")])
def test_what_is_no_http_is_answered_as_other_errors_are(patient: int, again: bool, said: bytes) -> None:
    with connected(patient, again) as client:
        client.sendall(said)
        assert error_of(rest(client)) == (400, "InputError")


@pytest.mark.parametrize("end", [b"", b"Connection: close\r\n"])
class TestReaders:
    def test_an_answer_that_nobody_reads_is_given_up(self, impatient: int, end: bytes) -> None:
        with connected(impatient) as client:
            client.sendall(b"GET /large HTTP/1.1\r\nHost: here\r\n" + end + b"\r\n")
            time.sleep(2 * PATIENCE_S)
            assert unread(client) < LARGE_BYTES

    def test_one_that_is_read_late_is_whole(self, impatient: int, end: bytes) -> None:
        with connected(impatient) as client:
            client.sendall(b"GET /large HTTP/1.1\r\nHost: here\r\n" + end + b"\r\n")
            time.sleep(PATIENCE_S / 4)
            assert unread(client) > LARGE_BYTES


def unread(client: socket.socket) -> int:
    """Bytes that still come, until the end of the large answer or of the connection."""
    count = 0
    try:
        while piece := client.recv(2**20):
            count += len(piece)
            if piece.endswith(b"ok"):
                break
    except ConnectionResetError:
        pass
    return count


@pytest.mark.parametrize("more", [0, 1, 5000])
def test_as_many_requests_as_may_wait_are_answered_and_no_more(patient: int, more: int) -> None:
    with connected(patient) as client:
        client.sendall(LATE + b"\r\n" + (GET + b"\r\n") * (MOST_WAITING + more))
        found = b""
        while found.count(b"\r\n\r\nok") < 1 + MOST_WAITING:
            piece = client.recv(65536)
            assert piece, found
            found += piece
        if more:
            found += rest(client)
    assert found.count(b"HTTP/1.1 200 ") == 1 + MOST_WAITING


def test_one_connection_too_many_is_refused_and_may_come_again() -> None:
    with answering(lambda _url: answer, Settings(max_connections=2)) as url:
        port = int(url.rpartition(":")[2])
        with connected(port, again=True), connected(port, again=True) as second:
            with connected(port) as third:
                said = rest(third)
                assert error_of(said) == (429, "OverloadedError")
                assert b"\r\nretry-after: 1\r\n" in said
            second.sendall(GET + b"\r\n")
            until_ok(second)
        until = time.monotonic() + 20
        while True:
            with connected(port) as client:
                client.sendall(GET + b"\r\n")
                if client.recv(65536).startswith(b"HTTP/1.1 200 "):
                    break
            assert time.monotonic() < until
            time.sleep(0.1)


def test_of_very_many_connections_some_are_not_even_answered() -> None:
    with answering(lambda _url: answer, Settings(max_connections=1)) as url, contextlib.ExitStack() as stack:
        port = int(url.rpartition(":")[2])
        clients = [stack.enter_context(connected(port)) for _ in range(4)]
        assert [bool(unread(client)) for client in clients[1:]] == [True, False, False]

"""What request bodies take together: bounded, given back, and refused so that a client can come again."""

from __future__ import annotations

import gzip
import socket
import time
from collections.abc import Callable, Iterator

import httpx
import pytest

from serving.endpoint.intake import Bodies
from serving.endpoint.server import running
from serving.scoring import Scorer
from serving.settings import Settings
from tests.serving.bundles import TinyBundle, npy

SIZE = 100_000


@pytest.fixture
def url(tiny: TinyBundle) -> Iterator[str]:
    with running([Scorer.open(tiny.folder)], Settings(max_body_bytes=SIZE, max_bodies_bytes=2 * SIZE, body_timeout_s=20)) as address:
        yield address


def half_sent(url: str, path: str, size: int) -> socket.socket:
    """A request whose body stops after `size` bytes."""
    client = socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2])))
    client.sendall(f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {size + 1}\r\n\r\n".encode() + bytes(size))
    return client


@pytest.mark.parametrize("path", ["/v1/embed?model=tiny", "/v1/score?model=tiny", "/v1/channels?model=tiny", "/v2/models/tiny/infer"])
def test_bodies_share_a_bound(url: str, tiny: TinyBundle, path: str) -> None:
    with httpx.Client(base_url=url, timeout=20, params={"model": "tiny"}) as http:
        held = [half_sent(url, path, SIZE - 1) for _ in range(2)]
        try:
            refused = until_status(http, 429, npy(tiny.images[0]))
            assert refused.headers["retry-after"] == "1"
            assert refused.json()["kind"] == "OverloadedError"
            # who asks something else is answered
            assert http.get("/healthz").status_code == 200
        finally:
            for client in held:
                client.close()
        until_status(http, 200, npy(tiny.images[0]))


def test_what_a_body_unpacks_to_counts(url: str) -> None:
    packed = gzip.compress(bytes(SIZE))

    def ask(http: httpx.Client) -> int:
        return http.post("/v2/models/tiny/infer", content=packed, headers={"Content-Encoding": "gzip"}).status_code

    with httpx.Client(base_url=url, timeout=20, params={"model": "tiny"}) as http:
        assert ask(http) == 400, "no tensor, but there is room for it"
        held = [half_sent(url, "/v1/embed?model=tiny", SIZE - 1)]
        try:
            until(lambda: ask(http) == 429)
        finally:
            held[0].close()
        until(lambda: ask(http) == 400)


def until(true: Callable[[], bool]) -> None:
    for _ in range(100):
        if true():
            return
        time.sleep(0.05)
    raise AssertionError("never")


def until_status(http: httpx.Client, status: int, body: bytes) -> httpx.Response:
    for _ in range(100):
        answer = http.post("/v1/embed", content=body)
        if answer.status_code == status:
            return answer
        time.sleep(0.05)
    raise AssertionError(f"always {answer.status_code}, not {status}")


def test_all_room_is_given_back(url: str, tiny: TinyBundle) -> None:
    good, bad, large = npy(tiny.images[0]), b"nonsense" * 1000, bytes(SIZE + 1)
    expected = {good: 200, bad: 422, large: 413}
    with httpx.Client(base_url=url, timeout=20, params={"model": "tiny"}) as http:
        for _ in range(30):
            for body, status in expected.items():
                assert http.post("/v1/embed", content=body).status_code == status


def test_room() -> None:
    bodies = Bodies(10)
    with bodies.room() as one, bodies.room() as other:
        assert one.take(6)
        assert not other.take(5)
        assert other.take(4)
        one.clear()
        assert bodies.held == 4
        with pytest.raises(ZeroDivisionError):
            fail_with(bodies, 6)
        assert bodies.held == 4
    assert bodies.held == 0


def fail_with(bodies: Bodies, size: int) -> None:
    with bodies.room() as room:
        assert room.take(size)
        raise ZeroDivisionError

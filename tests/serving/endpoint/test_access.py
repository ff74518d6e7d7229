"""Tokens, request ids, log lines and counters, over real HTTP."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import os
import re
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from pathlib import Path
from typing import Any, TypeVar

import httpx
import pytest
from starlette.types import Receive, Scope, Send

from registry.errors import ParamsError
from serving.endpoint.access import OPEN, Access, log
from serving.endpoint.logs import JsonLines
from serving.endpoint.metrics import Metrics
from serving.endpoint.server import answering, running, serve
from serving.scoring import Scorer
from serving.settings import Settings, is_loopback
from tests.serving.bundles import TinyBundle, npy

ROOT = Path(__file__).resolve().parents[3]
TOKEN = "a-token-of-this-test"
T = TypeVar("T")


@pytest.fixture
def records() -> Iterator[io.StringIO]:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonLines())
    before = log.level
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    yield stream
    log.removeHandler(handler)
    log.setLevel(before)


@pytest.fixture(scope="module")
def url(tiny: TinyBundle) -> Iterator[str]:
    with running([Scorer.open(tiny.folder)], Settings(token=TOKEN)) as address:
        yield address


@pytest.fixture(scope="module")
def without(tiny: TinyBundle) -> Iterator[str]:
    """A service that asks for no token."""
    with running([Scorer.open(tiny.folder)]) as address:
        yield address


class TestToken:
    @pytest.mark.parametrize("path", ["/v1/models", "/v1/models/tiny", "/metrics", "/openapi.json", "/v2", "/v2/models/tiny", "/nothing"])
    @pytest.mark.parametrize("given", [None, "", "Bearer", "Bearer wrong", f"Basic {TOKEN}", f"Bearer {TOKEN}x", "Bearer \u00e9"])
    def test_refused_without(self, url: str, path: str, given: str | None) -> None:
        headers = {} if given is None else {"Authorization": given.encode("latin-1")}
        answer = httpx.get(url + path, headers=headers)
        assert (answer.status_code, answer.json()["kind"], answer.headers["www-authenticate"]) == (401, "UnauthorizedError", "Bearer")

    def test_admitted_with(self, url: str, tiny: TinyBundle) -> None:
        answer = httpx.post(f"{url}/v1/embed?model=tiny", content=npy(tiny.images[0]), headers={"Authorization": f"Bearer {TOKEN}"})
        assert answer.status_code == 200

    @pytest.mark.parametrize("path", ["/", "/healthz", "/readyz", "/v2/health/live", "/v2/health/ready"])
    def test_whether_it_lives_anybody_may_know(self, url: str, path: str) -> None:
        assert httpx.get(url + path).status_code == 200

    def test_the_paths_that_need_none_are_those_of_the_documentation(self) -> None:
        safety = (ROOT / "docs" / "serving.md").read_text().partition("### Safety")[2]
        listed = safety.partition("but for these paths")[2].partition("`/metrics` and")[0]
        assert set(re.findall(r"`(/[^`]*)`", listed)) == OPEN

    def test_examples_carry_it_where_no_other_user_sees_it(self, url: str, tmp_path: Path) -> None:
        """Arguments can be read by every user of a machine (`ps`): curl gets the token another way."""
        document = httpx.get(f"{url}/openapi.json", headers={"Authorization": f"Bearer {TOKEN}"}).json()
        assert TOKEN not in json.dumps(document)
        curl, arguments = shutil.which("curl"), tmp_path / "arguments"
        for name in ("curl", "printf", "tail", "wc"):
            program = tmp_path / "bin" / name
            program.parent.mkdir(exist_ok=True)
            program.write_text(f'#!/bin/bash\necho "{name} $*" >> {arguments}\nexec {curl if name == "curl" else shutil.which(name)} "$@"\n')
            program.chmod(0o755)
        around = {**os.environ, "BLANKSLIDE_TOKEN": TOKEN, "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"}
        samples = [operation["x-codeSamples"][0]["source"] for methods in document["paths"].values() for operation in methods.values()]
        for source in samples:
            for shell in ("bash", "sh"):
                subprocess.run([shell, "-ec", source], cwd=tmp_path, env=around, capture_output=True, check=True)
        said = arguments.read_text().splitlines()
        assert sum(line.startswith("curl ") for line in said) > 2 * len(samples)
        # the shell's own `printf` is no program
        assert not [line for line in said if TOKEN in line or line.startswith("printf")]
        # and without it they are refused
        refused = subprocess.run(
            ["bash", "-ec", samples[0]], cwd=tmp_path, env={**around, "BLANKSLIDE_TOKEN": "another"}, capture_output=True, check=False
        )
        assert refused.returncode != 0
        assert b"401" in refused.stderr

    def test_the_manual_puts_it_nowhere_else(self) -> None:
        for path in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")):
            for line in path.read_text().splitlines():
                assert "curl" not in line or not re.search(r"Authorization.*(\$|TOKEN)", line.partition("curl")[2]), f"{path.name}: {line}"

    @pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.2", "example.org", "127.0.0.1.example.org"])
    def test_another_address_needs_one(self, tiny: TinyBundle, host: str) -> None:
        with pytest.raises(ParamsError, match="can be reached from other machines, and there is no token"):
            serve([tiny.folder], host, 0, Settings())

    @pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.1", "::1", "localhost"])
    def test_loopback(self, host: str) -> None:
        assert is_loopback(host)

    def test_from_a_file(self, tmp_path: Path) -> None:
        path = tmp_path / "token"
        path.write_text(f"{TOKEN}\n")
        assert Settings(token_file=str(path)).secret() == TOKEN

    @pytest.mark.parametrize("text", ["short", "with a space in between", "\u00e9" * 20, ""])
    def test_a_token_that_is_none(self, tmp_path: Path, text: str) -> None:
        path = tmp_path / "token"
        path.write_text(text)
        with pytest.raises(ParamsError, match="token"):
            Settings(token_file=str(path)).secret()

    def test_is_refused_before_anything_is_loaded(self, tiny: TinyBundle, tmp_path: Path) -> None:
        said: list[str] = []
        for settings in (Settings(token="short"), Settings(token_file=str(tmp_path / "none"))):
            with pytest.raises(ParamsError, match="token"):
                serve([tiny.folder], port=0, settings=settings, say=said.append)
        assert said == []

    def test_a_file_that_is_not_there(self, tmp_path: Path) -> None:
        with pytest.raises(ParamsError, match="cannot be read"):
            Settings(token_file=str(tmp_path / "none")).secret()

    def test_it_is_not_printed_nor_handed_on(self) -> None:
        settings = Settings(token=TOKEN)
        assert TOKEN not in repr(settings)
        assert TOKEN not in str(settings.as_environment())


class TestHost:
    @pytest.mark.parametrize(
        "host",
        ["example.org", "example.org:8000", "127.0.0.1.example.org", "localhost.example.org:1", "192.168.1.2", "[::2]:1", "", "a:b:1", "x@localhost"],
    )
    @pytest.mark.parametrize("path", ["/", "/healthz", "/v1/models", "/nothing"])
    def test_another_is_refused_where_no_token_is_asked_for(self, without: str, host: str, path: str) -> None:
        answer = httpx.get(without + path, headers={"Host": host})
        said = answer.json()
        assert (answer.status_code, said["status"], said["kind"]) == (421, 421, "MisdirectedError")
        assert f"[::1], got `{host}`" in said["error"]

    @pytest.mark.parametrize("host", ["localhost", "LOCALHOST:1", "127.0.0.1:80", "127.8.9.1", "[::1]", "[::1]:8000", "localhost:"])
    def test_this_machines(self, without: str, host: str) -> None:
        assert httpx.get(f"{without}/v1/models", headers={"Host": host}).status_code == 200

    def test_one_of_two(self, without: str) -> None:
        connection = HTTPConnection(without.removeprefix("http://"), timeout=20)
        connection.putrequest("GET", "/healthz", skip_host=True)
        for host in ("localhost", "example.org"):
            connection.putheader("Host", host)
        connection.endheaders()
        assert connection.getresponse().status == 421
        connection.close()

    def test_with_a_token_any(self, url: str) -> None:
        headers = {"Host": "example.org", "Authorization": f"Bearer {TOKEN}"}
        assert httpx.get(f"{url}/v1/models", headers=headers).status_code == 200


class TestRequestIds:
    def test_the_clients_is_taken_over(self, url: str) -> None:
        assert httpx.get(f"{url}/healthz", headers={"X-Request-ID": "run-7.a"}).headers["x-request-id"] == "run-7.a"

    @pytest.mark.parametrize("given", ["", "a b", "x" * 65, "{}"])
    def test_otherwise_one_is_made(self, url: str, given: str) -> None:
        came = httpx.get(f"{url}/healthz", headers={"X-Request-ID": given}).headers["x-request-id"]
        assert came != given
        assert len(came) == 32


def test_a_line_per_request_without_its_content(url: str, tiny: TinyBundle, records: io.StringIO) -> None:
    body = npy(tiny.images[0])
    headers = {"Authorization": f"Bearer {TOKEN}", "X-Request-ID": "one"}
    httpx.post(f"{url}/v1/embed?model=tiny", content=body, headers=headers)
    httpx.get(f"{url}/v1/models")
    lines = [json.loads(line) for line in records.getvalue().splitlines()]
    assert [(line["message"], line["method"], line["path"], line["status"]) for line in lines] == [
        ("request", "POST", "/v1/embed", 200),
        ("request", "GET", "/v1/models", 401),
    ]
    assert lines[0]["id"] == "one"
    assert lines[0]["ms"] > 0
    assert TOKEN not in records.getvalue()
    assert len(records.getvalue()) < 600


def test_counters(tiny: TinyBundle) -> None:
    with running([Scorer.open(tiny.folder)]) as url, httpx.Client(base_url=url) as http:
        for i in range(3):
            http.post("/v1/score?model=tiny", content=npy(tiny.images[i]))
        http.post("/v1/score?model=tiny", content=b"nothing")
        http.get("/v1/nothing")
        text = http.get("/metrics").text
    said = {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in text.splitlines() if not line.startswith("#")}
    assert said['blankslide_requests_total{route="/v1/score",status="200"}'] == 3
    assert said['blankslide_requests_total{route="/v1/score",status="422"}'] == 1
    assert said['blankslide_requests_total{route="unknown",status="404"}'] == 1
    assert said['blankslide_request_seconds_count{route="/v1/score"}'] == 4
    assert said['blankslide_batch_images_sum{model="tiny"}'] == 3
    stages = {name: said[f'blankslide_stage_seconds_count{{model="tiny",stage="{name}"}}'] for name in ("read", "wait", "decode", "embed", "score")}
    assert stages == {"read": 4, "wait": 4, "decode": 4, "embed": 3, "score": 3}
    assert said['blankslide_queue_images{model="tiny"}'] == 0


@pytest.mark.parametrize(
    ("head", "path"),
    [
        ("Content-Length: 100000\r\n\r\n", "/v1/score?model=tiny"),
        ("Transfer-Encoding: chunked\r\n\r\n5\r\n", "/v1/embed?model=tiny"),
        ("Content-Length: 100000\r\n\r\n", "/v2/models/tiny/infer"),
    ],
)
def test_a_client_that_hangs_up_is_no_fault_of_the_service(tiny: TinyBundle, records: io.StringIO, head: str, path: str) -> None:
    with running([Scorer.open(tiny.folder)]) as url:
        host, _, port = url.removeprefix("http://").rpartition(":")
        with socket.create_connection((host, int(port)), 20) as client:
            client.sendall(f"POST {path} HTTP/1.1\r\nHost: localhost\r\nX-Request-ID: gone\r\n{head}abcde".encode())
        line = wait_for(lambda: next((line for line in lines(records) if line["id"] == "gone"), None))
        text = httpx.get(f"{url}/metrics").text
    assert (line["message"], line["level"], line["status"]) == ("request", "info", 499)
    assert "request failed" not in records.getvalue()
    route = "/v2/models/{name}/infer" if "infer" in path else path.partition("?")[0]
    assert f'blankslide_requests_total{{route="{route}",status="499"}} 1.0' in text
    assert 'status="5' not in text


def test_a_body_that_its_connection_refuses_has_the_status_that_was_answered(tiny: TinyBundle, records: io.StringIO) -> None:
    with running([Scorer.open(tiny.folder)]) as url:
        host, _, port = url.removeprefix("http://").rpartition(":")
        with socket.create_connection((host, int(port)), 20) as client:
            client.sendall(b"POST /v1/score?model=tiny HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n")
            assert client.recv(4096).startswith(b"HTTP/1.1 400 ")
        line = wait_for(lambda: next((line for line in lines(records) if line["message"] == "request"), None))
    assert line["status"] == 400
    assert "request failed" not in records.getvalue()


@pytest.mark.parametrize(
    ("said", "status"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00", 400),
        (b"GET / HTTP/1.1\r\nHost: here\r\nX-A: " + b"a" * 2**17, 431),
        (b"GET / HTTP/1.1\r\nHost:", 408),
        (b"POST /v1/score?model=tiny HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", 400),
    ],
    ids=["no HTTP", "endless headers", "late headers", "no chunk"],
)
def test_what_a_connection_refuses_is_counted_once(tiny: TinyBundle, said: bytes, status: int) -> None:
    with running([Scorer.open(tiny.folder)], Settings(body_timeout_s=0.5)) as url:
        host, _, port = url.removeprefix("http://").rpartition(":")
        with socket.create_connection((host, int(port)), 20) as client:
            client.sendall(said)
            assert client.recv(4096).startswith(b"HTTP/1.1 %d " % status)
        time.sleep(0.2)
        found = re.findall(r'blankslide_requests_total{route="(.*)",status="(.*)"} (.*)', httpx.get(f"{url}/metrics").text)
    assert found == [("/v1/score" if b"score" in said else "unknown", str(status), "1.0")]


def test_the_other_protocol_says_how_long_bodies_take(tiny: TinyBundle) -> None:
    with running([Scorer.open(tiny.folder)]) as url:
        assert httpx.post(f"{url}/v2/models/tiny/infer", content=b"{}").status_code == 400
        assert 'blankslide_stage_seconds_count{model="tiny",stage="read"} 1.0' in httpx.get(f"{url}/metrics").text


def test_what_is_given_up_at_the_end_is_answered(records: io.StringIO) -> None:
    begun = threading.Event()

    async def slow(scope: Scope, _receive: Receive, _send: Send) -> None:
        if scope["type"] == "http":
            begun.set()
            await asyncio.sleep(60)

    with ThreadPoolExecutor(1) as pool:
        with answering(lambda _url: Access(slow, Metrics()), Settings(drain_s=1.0)) as url:
            asked = pool.submit(httpx.get, f"{url}/v1/models", timeout=20)
            assert begun.wait(20)
        answer = asked.result()
    assert (answer.status_code, answer.json()["status"], answer.headers["retry-after"]) == (503, 503, "1")
    assert [line["status"] for line in lines(records) if line["message"] == "request"] == [503]


def lines(records: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in records.getvalue().splitlines()]


def wait_for(found: Callable[[], T]) -> T:
    """What is found as soon as it is there."""
    until = time.monotonic() + 20
    while not (value := found()):
        assert time.monotonic() < until, "it did not come"
        time.sleep(0.02)
    return value

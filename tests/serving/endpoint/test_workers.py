"""The supervised service: several processes on one port, one killed under load, and an end that drops nothing."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import numpy as np
import psutil
import pytest

from registry.files import write_json
from serving.scoring import embedding_tolerance
from tests.serving.bundles import Exported, TinyBundle, make_bundle, npy
from tests.serving.service import ROOT, service

HEAVY = ("torch", "mlflow", "dvc", "sklearn", "pandas", "matplotlib")


@dataclass
class Clients:
    """Threads that send the same image again and again; what came back, by kind."""

    url: str
    body: bytes
    embedding: np.ndarray
    tolerance: float
    answers: int = 0
    wrong: int = 0
    retryable: list[str] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)
    ended: bool = False

    def run(self) -> None:
        with httpx.Client(base_url=self.url, timeout=20) as http:
            while not self.ended:
                try:
                    answer = http.post("/v1/embed?model=tiny", content=self.body)
                except httpx.TransportError as error:
                    self.retryable.append(type(error).__name__)
                    time.sleep(0.02)
                    continue
                if answer.status_code == 200:
                    self.answers += 1
                    self.wrong += not np.allclose(answer.json()["embedding"], self.embedding, rtol=0, atol=self.tolerance)
                else:
                    self.statuses.append(answer.status_code)


@contextmanager
def under_load(url: str, tiny: TinyBundle, count: int = 4) -> Iterator[Clients]:
    clients = Clients(url, npy(tiny.images[0]), tiny.embedding[0], embedding_tolerance(tiny.embedding))
    threads = [threading.Thread(target=clients.run) for _ in range(count)]
    for thread in threads:
        thread.start()
    try:
        yield clients
    finally:
        clients.ended = True
        for thread in threads:
            thread.join()


def until(true: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def counted(text: str, name: str) -> float:
    return sum(float(line.rpartition(" ")[2]) for line in text.splitlines() if line.startswith(name))


def test_a_worker_killed_under_load_comes_back_and_nobody_gets_a_wrong_answer(tiny: TinyBundle, tmp_path: Path) -> None:
    with service(["--bundle", str(tiny.folder)], tmp_path / "log", processes=2) as running:
        assert len(running.workers) == 2
        with under_load(running.url, tiny) as clients:
            until(lambda: clients.answers > 40)
            killed = running.workers[0]
            killed.kill()
            answered = clients.answers
            until(lambda: clients.answers > answered + 40)
            until(lambda: len(running.workers) == 2 and killed.pid not in [w.pid for w in running.workers])
        assert (clients.wrong, clients.statuses) == (0, [])
        assert set(clients.retryable) <= {"ReadError", "RemoteProtocolError", "ConnectError", "WriteError"}
        # what the dead worker had counted is still in the sums
        with httpx.Client(base_url=running.url) as http:
            text = http.get("/metrics").text
        assert counted(text, 'blankslide_requests_total{route="/v1/embed",status="200"}') >= clients.answers
        assert counted(text, "blankslide_queue_images") == 0
    assert '"worker ended"' in running.log.read_text()


def test_counters_are_those_of_all_processes(tiny: TinyBundle, tmp_path: Path) -> None:
    with service(["--bundle", str(tiny.folder)], tmp_path / "log", processes=2) as running:
        for _ in range(30):
            httpx.post(f"{running.url}/v1/embed?model=tiny", content=npy(tiny.images[0])).raise_for_status()
        for _ in range(6):
            text = httpx.get(f"{running.url}/metrics").text
            assert counted(text, 'blankslide_requests_total{route="/v1/embed",status="200"}') == 30
            assert counted(text, 'blankslide_batch_images_sum{model="tiny"}') == 30
        lines = [json.loads(line) for line in running.log.read_text().splitlines()]
        assert sum(line["message"] == "request" and line["path"] == "/v1/embed" for line in lines) == 30


@pytest.mark.parametrize("processes", [1, 2])
def test_sigterm_under_load_answers_what_was_taken(tiny: TinyBundle, tmp_path: Path, processes: int) -> None:
    with service(["--bundle", str(tiny.folder)], tmp_path / "log", processes=processes) as running, under_load(running.url, tiny) as clients:
        until(lambda: clients.answers > 20)
        running.process.send_signal(signal.SIGTERM)
        assert running.process.wait(20) == 0
        clients.ended = True
    assert (clients.wrong, clients.statuses) == (0, [])
    # a connection that is closed between two requests, or refused, is not an answer lost in the middle
    assert "ReadTimeout" not in clients.retryable


@pytest.mark.parametrize("processes", [1, 2])
def test_a_request_that_was_begun_before_sigterm_is_answered(tiny: TinyBundle, tmp_path: Path, processes: int) -> None:
    body = npy(tiny.images[0])
    with service(["--bundle", str(tiny.folder)], tmp_path / "log", processes=processes) as running:
        port = int(running.url.rpartition(":")[2])
        with socket.create_connection(("127.0.0.1", port), 20) as connection:
            head = f"POST /v1/embed?model=tiny HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n".encode()
            connection.sendall(head + body[:1000])
            time.sleep(0.3)
            running.process.send_signal(signal.SIGTERM)
            # nobody new is let in, and who is in is waited for
            until(lambda: refused(port))
            connection.sendall(body[1000:])
            said = b""
            while piece := connection.recv(65536):
                said += piece
        assert said.startswith(b"HTTP/1.1 200")
        embedding = json.loads(said.partition(b"\r\n\r\n")[2])["embedding"]
        np.testing.assert_allclose(embedding, tiny.embedding[0], rtol=0, atol=embedding_tolerance(tiny.embedding))
        assert running.process.wait(20) == 0


def refused(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return True
    return False


def test_why_a_worker_cannot_come_back_is_said_and_it_comes_back_when_it_can(exported: dict[str, Exported], tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "tiny", exported)
    card = bundle.folder / "card.json"
    whole = card.read_bytes()
    with service(["--bundle", str(bundle.folder)], tmp_path / "log") as running:
        card.write_bytes(b"{}")
        running.workers[0].kill()
        until(lambda: "The file was altered; fetch the bundle again." in running.log.read_text())
        card.write_bytes(whole)
        until(lambda: answers(running.url, npy(bundle.images[0])))


def test_a_worker_that_cannot_come_back_delays_no_other(exported: dict[str, Exported], tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "tiny", exported)
    with service(["--bundle", str(bundle.folder)], tmp_path / "log", processes=2) as running:
        broken, other = running.workers
        (bundle.folder / "card.json").write_bytes(b"{}")
        broken.kill()
        until(lambda: '"again_in_s":3.5' in running.log.read_text(), 120)
        other.kill()
        until(lambda: f'"pid":{other.pid}' in running.log.read_text(), 3)


def answers(url: str, body: bytes) -> bool:
    try:
        return httpx.post(f"{url}/v1/embed?model=tiny", content=body, timeout=5).status_code == 200
    except httpx.TransportError:
        return False


def test_workers_end_with_their_supervisor(tiny: TinyBundle, tmp_path: Path) -> None:
    with service(["--bundle", str(tiny.folder)], tmp_path / "log", processes=2) as running:
        workers = running.workers
        running.process.kill()
        _, alive = psutil.wait_procs(workers, timeout=20)
        assert alive == []


def test_no_process_holds_a_heavy_package(tiny: TinyBundle, tmp_path: Path) -> None:
    with service(["--bundle", str(tiny.folder)], tmp_path / "log") as running:
        httpx.post(f"{running.url}/v1/score?model=tiny", content=npy(tiny.images[0])).raise_for_status()
        for process in (psutil.Process(running.process.pid), *running.workers):
            mapped = {Path(found.path).parts for found in process.memory_maps()}
            held = {part for parts in mapped for part in parts} & {*HEAVY, "nvidia"}
            assert held == set(), process.cmdline()


def test_a_bad_bundle_refuses_to_start_and_says_why(tmp_path: Path) -> None:
    folder = tmp_path / "tiny"
    folder.mkdir()
    write_json(folder / "manifest.json", {"format": 1, "files": {}})
    command = [sys.executable, "-m", "pipelines.cli", "serve", "--bundle", str(folder), "--port", "0"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "card.json" in done.stderr
    assert "Traceback" not in done.stderr


def test_cuda_that_is_not_there_refuses_to_start(tiny: TinyBundle) -> None:
    command = [sys.executable, "-m", "pipelines.cli", "serve", "--bundle", str(tiny.folder), "--port", "0", "--provider", "cuda"]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "Ask for `--provider cpu`" in done.stderr

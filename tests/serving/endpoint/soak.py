"""`make soak`: thousands of hostile requests to a real service, then what is left of it.

    python -m tests.serving.endpoint.soak --requests 10000

First a few large requests to a service with the usual limits, which must say within two seconds that it lives. Then four clients send what
`tests.serving.endpoint.hostile` draws, one in five what schemathesis makes of the service's own OpenAPI document, and every fiftieth is valid and
must be answered. Fails on an answer of 500 or more, on a request without an end, on a valid one that is not answered, on a worker that died, and
where memory at the end is more than 1.1 of what it was after the first tenth (at 10,000 the first 1,000).
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import threading
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil

from serving.endpoint.memory import EVERY_S
from tests.serving.bundles import TinyBundle, export_networks, make_bundle
from tests.serving.endpoint.hostile import Hostile, Request, large, send
from tests.serving.service import service

CLIENTS = 4
LONGEST_S = 30.0
MOST_GROWTH = 1.1
#: who asks whether a service lives waits no longer
LIVES_S = 2.0


@dataclass
class Outcome:
    """What came of the requests.

    Attributes:
        statuses: how many answers of each status; None where the service hung up.
        faults: what must not be.
        memory: resident bytes of the service's workers after the first tenth and at the end, each when they have given back what is free.
    """

    statuses: Counter[int | None] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    memory: tuple[int, int] = (0, 0)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def note(self, kind: str, status: int | None) -> None:
        with self.lock:
            self.statuses[status] += 1
            if status is not None and status >= 500:
                self.faults.append(f"{kind}: answered {status}")
            if kind == "valid" and status != 200:
                self.faults.append(f"a valid request was answered {status}")


def documented(document: dict[str, Any], count: int, seed: int) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Requests that schemathesis makes of an OpenAPI document, right ones and wrong ones: (method, path, arguments for httpx)."""
    import schemathesis

    operations = [result.ok() for result in schemathesis.openapi.from_dict(document).get_all_operations()]
    modes = (schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE)
    each = -(-count // (len(operations) * len(modes)))
    for operation in operations:
        for mode in modes:
            for case in _cases(operation.as_strategy(generation_mode=mode), each, seed):
                arguments = case.as_transport_kwargs(base_url="http://127.0.0.1")
                yield arguments.pop("method"), arguments.pop("url").removeprefix("http://127.0.0.1"), arguments


def _cases(strategy: Any, count: int, number: int) -> list[Any]:
    from hypothesis import HealthCheck, Phase, given, seed, settings
    from hypothesis.errors import Unsatisfiable

    made: list[Any] = []

    @seed(number)
    @settings(max_examples=count, database=None, deadline=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
    @given(case=strategy)
    def draw(case: Any) -> None:
        made.append(case)

    with suppress(Unsatisfiable):  # nothing is wrong about an operation without parameters
        draw()
    return made


def soak(tiny: TinyBundle, requests: int, log: Path, seed: int = 0, say: Any = print) -> Outcome:
    """Send `requests` hostile requests to a service of its own."""
    outcome = Outcome()
    with service(["--bundle", str(tiny.folder)], log, max_body_bytes=2_000_000, max_pixels=4_000_000, body_timeout_s=2.0, queue_length=64) as running:
        port = int(running.url.rpartition(":")[2])
        before = {worker.pid for worker in running.workers}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # schemathesis says what it cannot make
            made = list(documented(httpx.get(f"{running.url}/openapi.json").json(), requests // 5, seed))
        first = requests // 10
        _send_all(running.url, port, tiny, first, made[: first // 5], seed, outcome)
        level = _settled(running.workers)
        start = time.monotonic()
        for part in range(1, 10):
            share = made[part * requests // 50 : (part + 1) * requests // 50]
            _send_all(running.url, port, tiny, first, share, seed + part, outcome)
            say(f"{(part + 1) * first} requests, {time.monotonic() - start:.0f} s, {_resident(running.workers) / 2**20:.0f} MB", flush=True)
        outcome.memory = (level, _settled(running.workers))
        if {worker.pid for worker in running.workers} != before:
            outcome.faults.append("a worker died")
        outcome.note("valid", send(port, Hostile(tiny.images[0], seed).valid(), LONGEST_S))
    return outcome


def at_the_usual_limits(tiny: TinyBundle, log: Path, size: int = 20_000_000) -> Outcome:
    """Large requests, one after another, to a service of one process with the usual limits; meanwhile it must say that it lives."""
    outcome, ended, sent = Outcome(), threading.Event(), [""]

    def ask(url: str) -> None:
        with httpx.Client(timeout=LONGEST_S) as http:
            while not ended.wait(0.02):
                during, start = sent[-1], time.monotonic()
                try:
                    outcome.note("valid", http.get(f"{url}/healthz").status_code)
                except httpx.TransportError as error:
                    outcome.note("valid", None)
                    outcome.faults.append(f"{during}: /healthz was not answered, {type(error).__name__}")
                if (waited := time.monotonic() - start) > LIVES_S:
                    outcome.faults.append(f"{during}: /healthz was answered after {waited:.1f} s")

    with service(["--bundle", str(tiny.folder)], log, processes=1) as running:
        asking = threading.Thread(target=ask, args=(running.url,))
        asking.start()
        try:
            for request in large(size):
                sent.append(request.kind)
                try:
                    outcome.note(request.kind, send(int(running.url.rpartition(":")[2]), request, LONGEST_S))
                except TimeoutError:
                    outcome.faults.append(f"{request.kind}: no end within {LONGEST_S:g} s")
        finally:
            ended.set()
            asking.join()
    return outcome


def _settled(workers: list[psutil.Process]) -> int:
    """When the workers have given back what they have free."""
    time.sleep(EVERY_S + 1)
    return _resident(workers)


def _resident(workers: list[psutil.Process]) -> int:
    return sum(worker.memory_info().rss for worker in workers)


def _send_all(url: str, port: int, tiny: TinyBundle, count: int, made: list[tuple[str, str, dict[str, Any]]], seed: int, outcome: Outcome) -> None:
    hostile = Hostile(tiny.images[0], seed)
    drawn = [hostile.valid() if i % 50 == 0 else hostile.draw() for i in range(count - len(made))]
    todo: list[Any] = [*drawn, *made]
    order = hostile.rng.permutation(len(todo))
    lock, place = threading.Lock(), iter(order.tolist())

    def client() -> None:
        with httpx.Client(base_url=url, timeout=LONGEST_S) as http:
            while True:
                with lock:
                    i = next(place, None)
                if i is None:
                    return
                _one(http, port, todo[i], outcome)

    threads = [threading.Thread(target=client) for _ in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _one(http: httpx.Client, port: int, request: Any, outcome: Outcome) -> None:
    kind = request.kind if isinstance(request, Request) else f"{request[0]} {request[1]} by the document"
    try:
        if isinstance(request, Request):
            outcome.note(kind, send(port, request, LONGEST_S))
        elif (built := _built(http, *request)) is not None:
            outcome.note(kind, http.send(built).status_code)
    except (TimeoutError, httpx.TimeoutException):
        with outcome.lock:
            outcome.faults.append(f"{kind}: no end within {LONGEST_S:g} s")
    except httpx.TransportError:
        outcome.note(kind, None)
    except Exception as error:  # a client that ends would leave its requests unsent, unseen
        with outcome.lock:
            outcome.faults.append(f"{kind}: could not be sent, {type(error).__name__}: {error}")


def _built(http: httpx.Client, method: str, path: str, arguments: dict[str, Any]) -> httpx.Request | None:
    """None for what httpx cannot write down, such as a header with a line break or a form's file that is a number."""
    if isinstance(arguments.get("data"), bytes | str):
        arguments["content"] = arguments.pop("data")
    try:
        built = http.build_request(method, path, **arguments)
        built.read()
        return built
    except (httpx.InvalidURL, UnicodeError, ValueError, TypeError, AttributeError):
        return None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        tiny = make_bundle(Path(folder) / "tiny", export_networks(Path(folder)))
        usual = at_the_usual_limits(tiny, Path(folder) / "log")
        outcome = soak(tiny, options.requests, Path(folder) / "log", options.seed)
        outcome.faults[:0] = usual.faults
        if outcome.faults:
            lines = [json.loads(line) for line in (Path(folder) / "log").read_text().splitlines()]
            print(*(line["traceback"] for line in lines if line["message"] == "request failed"), sep="\n")
    growth = outcome.memory[1] / outcome.memory[0]
    print("answers:", ", ".join(f"{status or 'hung up'}: {count}" for status, count in sorted(outcome.statuses.items(), key=lambda kv: kv[0] or 0)))
    print(f"memory: {outcome.memory[0] / 2**20:.0f} MB after the first tenth, {outcome.memory[1] / 2**20:.0f} MB at the end ({growth:.3f})")
    if growth > MOST_GROWTH:
        outcome.faults.append(f"memory grew to {growth:.3f} (at most {MOST_GROWTH})")
    for fault in outcome.faults[:50]:
        print("FAULT", fault)
    return bool(outcome.faults)


if __name__ == "__main__":
    sys.exit(main())

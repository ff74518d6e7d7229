"""Load for an HTTP server, from a process of its own: prepared bytes, as little work per request as can be."""

from __future__ import annotations

import asyncio
import multiprocessing
import signal
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Target:
    """Where a contender listens, the bytes of one request, and the process it started as."""

    port: int
    request: bytes
    pid: int = 0


@contextmanager
def awake(target: Target) -> Iterator[None]:
    """Let a contender run for the block, and no longer: servers that poll while idle would take from the others."""
    _signal(target, signal.SIGCONT)
    try:
        yield
    finally:
        _signal(target, signal.SIGSTOP)


@contextmanager
def asleep(targets: Iterable[Target]) -> Iterator[None]:
    """Stop contenders until each is `awake`, and wake all at the end: who sleeps cannot end."""
    stopped = list(targets)
    for target in stopped:
        _signal(target, signal.SIGSTOP)
    try:
        yield
    finally:
        for target in stopped:
            _signal(target, signal.SIGCONT)


def _signal(target: Target, number: int) -> None:
    import psutil

    own = psutil.Process(target.pid)
    for process in (own, *own.children(recursive=True)):
        with suppress(psutil.NoSuchProcess):
            process.send_signal(number)


@dataclass(frozen=True)
class Load:
    """What one turn came to.

    Attributes:
        latencies: seconds of every request.
        elapsed: of the whole turn.
        processor: seconds that the load itself took.
    """

    latencies: list[float]
    elapsed: float
    processor: float

    @property
    def rate(self) -> float:
        return len(self.latencies) / self.elapsed


def post(path: str, body: bytes, *headers: str) -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Host: 127.0.0.1", f"Content-Length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


async def exchange(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes) -> None:
    writer.write(request)
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    if not head.startswith(b"http/1.1 200"):
        raise RuntimeError(head.decode(errors="replace") + (await reader.read(2000)).decode(errors="replace"))
    if b"transfer-encoding: chunked" in head:
        while await reader.readuntil(b"\r\n") != b"0\r\n":
            pass
        await reader.readuntil(b"\r\n")
        return
    length = next(line for line in head.split(b"\r\n") if line.startswith(b"content-length:"))
    await reader.readexactly(int(length.partition(b":")[2]))


async def closed_loop(target: Target, clients: int, seconds: float) -> list[float]:
    """As many requests as `clients` get answered, each sending its next when the last is back."""
    latencies: list[float] = []
    end = time.perf_counter() + seconds

    async def client() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", target.port, limit=2**22)
        while (start := time.perf_counter()) < end:
            await exchange(reader, writer, target.request)
            latencies.append(time.perf_counter() - start)
        writer.close()

    await asyncio.gather(*(client() for _ in range(clients)))
    return latencies


async def open_loop(target: Target, rate: float, seconds: float, bursts: bool) -> list[float]:
    """Requests at a stated rate, however long answers take, evenly or (a Poisson process) in bursts; latencies count from when each was due."""
    count = int(rate * seconds)
    gaps = np.random.default_rng(0).exponential(1 / rate, count) if bursts else np.full(count, 1 / rate)
    due = time.perf_counter() + np.cumsum(gaps)
    free: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
    latencies: list[float] = []

    async def one(at: float) -> None:
        await asyncio.sleep(max(0.0, at - time.perf_counter()))
        connection = free.pop() if free else None
        try:
            if connection is None:
                raise ConnectionResetError
            await exchange(*connection, target.request)
        except (ConnectionResetError, asyncio.IncompleteReadError):  # servers close connections that were idle
            connection = await asyncio.open_connection("127.0.0.1", target.port, limit=2**22)
            await exchange(*connection, target.request)
        latencies.append(time.perf_counter() - at)
        free.append(connection)

    await asyncio.gather(*(one(float(at)) for at in due))
    for _, writer in free:
        writer.close()
    return latencies


def load(target: Target, clients: int, rate: float, bursts: bool, seconds: float, answer: Any) -> None:
    """In a process of its own."""
    import uvloop

    start, busy = time.perf_counter(), time.process_time()
    work = open_loop(target, rate, seconds, bursts) if rate else closed_loop(target, clients, seconds)
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            latencies = runner.run(work)
    except Exception as error:
        answer.put(RuntimeError(f"{type(error).__name__}: {error}"))
        return
    answer.put(Load(latencies, time.perf_counter() - start, time.process_time() - busy))


def turn(target: Target, seconds: float, clients: int = 1, rate: float = 0.0, bursts: bool = False) -> Load:
    context = multiprocessing.get_context("spawn")
    answer = context.Queue()
    process = context.Process(target=load, args=(target, clients, rate, bursts, seconds, answer))
    process.start()
    found: Load | RuntimeError = answer.get()
    process.join()
    if isinstance(found, RuntimeError):
        raise found
    return found

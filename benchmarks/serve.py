"""The ONNX endpoint against the bare network.

    python benchmarks/serve.py

One ViT-Tiny of 5 channels at 224 px, one image of 5 x 224 x 224 uint16 as npy, one machine. Bare ONNX Runtime is 1.00: the same session options,
the decoded image in memory, in the better of two set-ups (one session of all threads, one session of one thread called from as many
threads). Rounds of every contender are alternated and medians taken. The load comes from a process of its own, whose share of the
processor is said: it has no core to itself.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
SHAPE = (5, 224, 224)
NAME = "vit-tiny"


# ---------------------------------------------------------------------------------------------- the model


def make_bundle(folder: Path) -> Path:
    """An untrained ViT-Tiny as a bundle: how fast it is does not depend on what it has learned."""
    from registry.bundle import BundleCard, Golden, write_bundle
    from registry.cards import EncoderCard
    from registry.encoders.rows import encoder_members
    from registry.evidence import Scorecard
    from registry.export import export_onnx
    from registry.images import ImageSpec
    from registry.representation import Batch, Facts

    spec = ImageSpec(("dna", "er", "rna", "agp", "mito"), "uint16", *SHAPE[1:], ((0.0, 4095.0),) * 5)
    card = EncoderCard(NAME, "negative", "An untrained ViT-Tiny.", "timm:vit_tiny_patch16_224", "random", input_px=224)
    (member,) = encoder_members(card, Facts("bench", "cells", spec), seeds=1)
    representation = member.make()
    pixels = np.stack([image(seed) for seed in range(2)]).astype(np.float32)
    import pandas as pd

    embedding = representation.embed(Batch(("0", "1"), pixels, pd.DataFrame(index=[0, 1]), None))
    network = representation.network()
    if network is None:
        raise RuntimeError("Expected a network that can be exported.")
    report = export_onnx(network, pixels, folder / "network.onnx")
    bundle = BundleCard(card, "bench", spec, embedding.shape[1], {}, report.sha256, member.name, "", report.as_dict())
    golden = Golden(pixels.astype(np.uint16), embedding)
    return write_bundle(
        folder / NAME, bundle, Scorecard(NAME, "negative", "bench", "Benchmark", "", "image"), onnx=folder / "network.onnx", golden=golden
    ).folder


def image(seed: int) -> np.ndarray[Any, np.dtype[np.uint16]]:
    return np.random.default_rng(seed).integers(0, 4096, SHAPE).astype(np.uint16)


def body() -> bytes:
    stream = io.BytesIO()
    np.save(stream, image(7))
    return stream.getvalue()


# ---------------------------------------------------------------------------------------------- the load


@dataclass(frozen=True)
class Target:
    """Where a contender listens, and the bytes of one request."""

    port: int
    request: bytes


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


async def open_loop(target: Target, rate: float, seconds: float) -> list[float]:
    """Requests at random times of a stated rate, however long answers take; latencies count from when each was due."""
    gaps = np.random.default_rng(0).exponential(1 / rate, int(rate * seconds))
    due = time.perf_counter() + np.cumsum(gaps)
    free: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
    latencies: list[float] = []

    async def one(at: float) -> None:
        await asyncio.sleep(max(0.0, at - time.perf_counter()))
        connection = free.pop() if free else await asyncio.open_connection("127.0.0.1", target.port, limit=2**22)
        await exchange(*connection, target.request)
        latencies.append(time.perf_counter() - at)
        free.append(connection)

    await asyncio.gather(*(one(float(at)) for at in due))
    for _, writer in free:
        writer.close()
    return latencies


def load(target: Target, clients: int, rate: float, seconds: float, answer: Any) -> None:
    """In a process of its own."""
    import uvloop

    start, busy = time.perf_counter(), time.process_time()
    work = open_loop(target, rate, seconds) if rate else closed_loop(target, clients, seconds)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        latencies = runner.run(work)
    answer.put(Load(latencies, time.perf_counter() - start, time.process_time() - busy))


def turn(target: Target, seconds: float, clients: int = 1, rate: float = 0.0) -> Load:
    context = multiprocessing.get_context("spawn")
    answer = context.Queue()
    process = context.Process(target=load, args=(target, clients, rate, seconds, answer))
    process.start()
    found: Load = answer.get()
    process.join()
    return found


# ---------------------------------------------------------------------------------------------- contenders


class Bare:
    """ONNX Runtime in this process, without a server."""

    def __init__(self, bundle: Path, threads: int) -> None:
        from serving.embedders import OnnxEmbedder

        model = (bundle / "encoder.onnx").read_bytes()
        self.pixels = image(7).astype(np.float32)[None]
        self.wide = OnnxEmbedder(model, threads=threads)
        self.narrow = OnnxEmbedder(model, threads=1)
        self.threads = threads

    def alone(self, seconds: float) -> list[float]:
        latencies, end = [], time.perf_counter() + seconds
        while (start := time.perf_counter()) < end:
            self.wide.embed(self.pixels)
            latencies.append(time.perf_counter() - start)
        return latencies

    def side_by_side(self, seconds: float) -> float:
        """Images per second."""
        counts = [0] * self.threads
        start = time.perf_counter()

        def run(i: int) -> None:
            while time.perf_counter() < start + seconds:
                self.narrow.embed(self.pixels)
                counts[i] += 1

        threads = [threading.Thread(target=run, args=(i,)) for i in range(self.threads)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return sum(counts) / (time.perf_counter() - start)

    def measure(self, seconds: float, found: dict[str, list[float]]) -> str:
        alone, together = self.alone(seconds), self.side_by_side(seconds)
        wide, latency = len(alone) / seconds, statistics.median(alone)
        found.setdefault("bare/alone", []).append(latency)
        found.setdefault("bare/full", []).append(max(together, wide))
        return f"bare: {1000 * latency:.1f} ms alone, {wide:.1f}/s by one session of all threads, {together:.1f}/s by threads side by side"


class Endpoint:
    """`blankslide serve`."""

    def __init__(self, bundle: Path, **settings: object) -> None:
        environment = {**os.environ, **{f"BLANKSLIDE_SERVE_{name.upper()}": str(value) for name, value in settings.items()}}
        command = [sys.executable, "-u", "-m", "pipelines.cli", "serve", "--bundle", str(bundle), "--port", "0"]
        self.process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        for line in self.process.stdout or ():
            if line.startswith("Serving on "):
                port = int(line.split()[2].rpartition(":")[2])
                self.target = Target(port, post(f"/v1/embed?model={NAME}", body(), "Content-Type: application/octet-stream"))
                return
        raise RuntimeError("The endpoint did not start: `blankslide serve --bundle` says why.")

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(30)


def measure(name: str, target: Target, seconds: float, found: dict[str, list[float]]) -> str:
    alone = turn(target, seconds)
    full = turn(target, seconds, clients=8)
    steady = turn(target, seconds * 2, rate=0.8 * full.rate)
    p50, p99 = np.percentile(steady.latencies, [50, 99])
    for key, value in (
        ("alone", statistics.median(alone.latencies)),
        ("full", full.rate),
        ("tail", p99 / p50),
        ("load", full.processor / full.elapsed / (os.cpu_count() or 1)),
    ):
        found.setdefault(f"{name}/{key}", []).append(float(value))
    return f"{name}: {1000 * statistics.median(alone.latencies):.1f} ms alone, {full.rate:.1f}/s, p50 {1000 * p50:.0f} p99 {1000 * p99:.0f} ms at 0.8"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--set", action="append", default=[], metavar="NAME:SETTING=VALUE[,...]", help="a further endpoint with other settings")
    options = parser.parse_args()
    threads = len(os.sched_getaffinity(0))
    found: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as temporary:
        bundle = make_bundle(Path(temporary))
        bare = Bare(bundle, threads)
        chosen = {"endpoint": {}} | {text.partition(":")[0]: dict(s.split("=") for s in text.partition(":")[2].split(",")) for text in options.set}
        endpoints = {name: Endpoint(bundle, **settings) for name, settings in chosen.items()}
        try:
            for number in range(options.rounds):
                print(f"[{number + 1}] {bare.measure(options.seconds, found)}", flush=True)
                for name, endpoint in endpoints.items():
                    print(f"[{number + 1}] {measure(name, endpoint.target, options.seconds, found)}", flush=True)
        finally:
            for endpoint in endpoints.values():
                endpoint.stop()
    for name in endpoints:
        print(f"{name}: {compared(name, found)}")
    return 0


def compared(name: str, found: dict[str, list[float]]) -> str:
    """Medians over rounds, against the bare network of the same round."""
    full, alone = (statistics.median(a / b for a, b in zip(found[f"{name}/{key}"], found[f"bare/{key}"], strict=True)) for key in ("full", "alone"))
    tail, share = (statistics.median(found[f"{name}/{key}"]) for key in ("tail", "load"))
    return f"throughput {full:.3f} and latency {alone:.3f} of bare, p99 {tail:.2f} times p50 at 0.8 load, load {100 * share:.1f} % of the processor"


if __name__ == "__main__":
    sys.exit(main())

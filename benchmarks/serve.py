"""The ONNX endpoint against the bare network, and beside other servers.

    python benchmarks/serve.py                       # the endpoint alone
    python benchmarks/serve.py --peers --write       # beside TorchServe, MLflow, LitServe and BentoML; the table goes into docs/performance.md
    python benchmarks/serve.py --memory --soak 100000

One ViT-Tiny of 5 channels at 224 px, one image of 5 x 224 x 224 uint16 as npy, one machine. Bare ONNX Runtime is 1.00: the same session options,
the decoded image in memory, in the better of two set-ups (one session of all threads, one session of one thread called from as many
threads). Rounds of every contender are alternated and medians taken. The load comes from a process of its own, whose share of the
processor is said: it has no core to itself. Peers get the same network, threads and image, in the form their own guides send images
in; LitServe and BentoML, which are not among this project's packages, are installed from the package index into environments of their own.

Bounds: throughput with 8 clients at least 0.95 of bare, latency of one client at most 1.12 times, p99 at an even load of 0.8 of the throughput
at most 3 times p50, and no peer before it. Exit code 1 where one does not hold. Bursts (a Poisson process of the same rate) are shown beside, without
a bound: there requests wait for each other whatever computes them.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from serve_contenders import ROOT, SMALL, Bare, Endpoint, endpoint, make_bundle, peers
from serve_load import Target, asleep, awake, turn


def measure(name: str, target: Target, seconds: float, found: dict[str, list[float]]) -> str:
    alone = turn(target, seconds)
    full = turn(target, seconds, clients=8)
    tails = {}
    for key, bursts in (("tail", False), ("bursts", True)):
        steady = turn(target, 3 * seconds, rate=0.8 * full.rate, bursts=bursts)
        p50, p99 = (1000 * float(p) for p in np.percentile(steady.latencies, [50, 99]))
        tails[key] = p99 / p50
        found.setdefault(f"{name}/{key}", []).append(p99 / p50)
    latency, share = statistics.median(alone.latencies), full.processor / full.elapsed / (os.cpu_count() or 1)
    for key, value in (("alone", latency), ("full", full.rate), ("load", share)):
        found.setdefault(f"{name}/{key}", []).append(value)
    return f"{name}: {1000 * latency:.1f} ms alone, {full.rate:.1f}/s, p99 / p50 {tails['tail']:.1f} evenly, {tails['bursts']:.1f} in bursts"


@dataclass(frozen=True)
class Result:
    """Medians over rounds; `throughput` and `latency` against the bare network of the same round."""

    name: str
    throughput: float
    latency: float
    tail: float
    bursts: float
    load: float
    rate: float
    alone_ms: float

    @classmethod
    def of(cls, name: str, found: dict[str, list[float]]) -> Result:
        def of_bare(key: str) -> float:
            return statistics.median(a / b for a, b in zip(found[f"{name}/{key}"], found[f"bare/{key}"], strict=True))

        def median(key: str) -> float:
            return statistics.median(found[f"{name}/{key}"])

        ratios = of_bare("full"), of_bare("alone"), median("tail"), median("bursts")
        return cls(name, *ratios, median("load"), median("full"), 1000 * median("alone"))

    def line(self) -> str:
        ratios = f"{self.throughput:.2f} | {self.latency:.2f} | {self.tail:.1f} | {self.bursts:.1f}"
        return f"| {self.name} | {ratios} | {self.rate:.1f} | {self.alone_ms:.1f} | {100 * self.load:.1f} % |"


HEAD = (
    "| server | throughput of bare, 8 clients | latency of bare, 1 client | p99 / p50 at 0.8 load | in bursts | images/s | ms | load generator |",
    "|---|---|---|---|---|---|---|---|",
)


def race(options: argparse.Namespace, bundle: Path, scratch: Path) -> list[Result]:
    found: dict[str, list[float]] = {}
    bare = Bare(bundle, len(os.sched_getaffinity(0)))
    with ExitStack() as stack:
        contenders = {"endpoint": stack.enter_context(endpoint(bundle))}
        for text in options.set:
            name, _, settings = text.partition(":")
            contenders[name] = stack.enter_context(endpoint(bundle, **dict(s.split("=") for s in settings.split(","))))
        if options.peers:
            contenders |= {name: stack.enter_context(peer) for name, peer in peers(bundle, scratch).items()}
        stack.enter_context(asleep(contenders.values()))
        for number in range(options.rounds):
            print(f"[{number + 1}] {bare.measure(options.seconds, found)}", flush=True)
            for name, target in contenders.items():
                with awake(target):
                    print(f"[{number + 1}] {measure(name, target, options.seconds, found)}", flush=True)
    return [Result.of(name, found) for name in contenders]


def memory(bundle: Path) -> list[str]:
    lines = ["| processes | memory, MB | start, s |", "|---|---|---|"]
    for processes in (1, 2, 3):
        running = Endpoint(bundle, processes=processes, threads=1)
        turn(running.target, 2.0, clients=8)
        lines.append(f"| {processes} | {running.resident() / 2**20:.0f} | {running.started_s:.1f} |")
        running.stop()
    return lines


def soak(requests: int, scratch: Path) -> bool:
    """Whether memory after `requests` is at most 1.1 of what it was after the first hundredth."""
    running = Endpoint(make_bundle(scratch, "cnn:small", SMALL), SMALL)
    try:
        sent, level = 0, 0
        while sent < requests:
            sent += len(turn(running.target, 2.0 if not level else 10.0, clients=8).latencies)
            if not level and sent >= requests / 100:
                level = running.resident()
            print(f"{sent} requests, {running.resident() / 2**20:.0f} MB", flush=True)
        growth = running.resident() / level
        print(f"soak: {sent} requests, memory {growth:.3f} of what it was after the first hundredth (at most 1.1)")
        return growth <= 1.1
    finally:
        running.stop()


def write(lines: Sequence[str]) -> None:
    path, begin, end = ROOT / "docs" / "performance.md", "<!-- benchmarks/serve.py -->\n", "<!-- end -->"
    before, _, rest = path.read_text(encoding="utf-8").partition(begin)
    path.write_text(before + begin + "\n".join(lines) + "\n" + end + rest.partition(end)[2], encoding="utf-8")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--set", action="append", default=[], metavar="NAME:SETTING=VALUE[,...]", help="a further endpoint with other settings")
    parser.add_argument("--peers", action="store_true")
    parser.add_argument("--write", action="store_true", help="put the table into docs/performance.md")
    parser.add_argument("--memory", action="store_true", help="memory and start-up of 1, 2 and 3 processes instead")
    parser.add_argument("--soak", type=int, default=0, metavar="N", help="N requests of a small network instead")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        scratch = Path(temporary)
        if options.memory:
            print("\n".join(memory(make_bundle(scratch))))
        if options.soak:
            return 0 if soak(options.soak, scratch) else 1
        if options.memory:
            return 0
        results = race(options, make_bundle(scratch), scratch)
    lines = [*HEAD, *(result.line() for result in results)]
    print("\n".join(lines))
    if options.write:
        write(lines)
    own, others = results[0], results[1:] if options.peers else []
    held = own.throughput >= 0.95 and own.latency <= 1.12 and own.tail <= 3
    first = all(own.throughput >= other.throughput and own.latency <= other.latency for other in others)
    print(f"bounds {'hold' if held else 'DO NOT HOLD'}; {'first' if first else 'NOT first'} of {len(others) + 1}")
    return 0 if held and first else 1


if __name__ == "__main__":
    sys.exit(main())

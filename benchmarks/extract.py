"""How much of a network's bare speed is left when images are read, decoded, checked and published: extraction against its forward pass.

    python benchmarks/extract.py                         # CPU, MobileNetV2 at 128 px on 512 px images of 3 channels, minutes
    python benchmarks/extract.py --device cuda --workers 8 --batch 256 --images 8192
    python benchmarks/extract.py --quick                 # one small round: the same lines, no verdict

Extraction is `pipelines.extract.extract` whole, as the stage runs it: building the network, reading and decoding files, conforming them,
the forward pass, checking and publishing shards, joining them into Parquet. The forward pass is the same network (raw pixels in, vectors
out, so the resize to its input size is part of it) with the same batch size on pixels that are already float32 tensors in memory.

Both use the hardware alike. On a CPU the program binds itself to as many cores as there are `--workers`, and both run one process of one
thread on each: in extraction each of these processes also decodes. Processes start cold in both, and both keep their memory between
batches (`pipelines.memory`), which makes the forward pass itself faster; `--plain` leaves that out of the forward pass. On CUDA
both run one process; extraction decodes in `--workers` threads, and the tensors of the forward pass are on the device beforehand. Files are
in the page cache: the disk is not measured.

Rounds alternate between the two within one run. Printed: images per second of each round, medians over rounds and their ratio; on a CPU also
the ratio of processor seconds per image, which other programs on the machine disturb less. Exit code 1 when the ratio on a CPU is below 0.9.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import shutil
import statistics
import sys
import tempfile
import time
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
import tifffile
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor

from pipelines.benchmarks.card import BenchmarkCard, Task
from pipelines.benchmarks.index import Benchmark, write_benchmark
from pipelines.extract import ExtractSettings, extract
from pipelines.extraction.plan import MemberPlan, RowPlan
from pipelines.memory import kept_memory
from pipelines.parallel import in_parallel
from pipelines.rows import facts_of
from registry.cards import EncoderCard
from registry.encoders.encoder import Placement
from registry.encoders.network import EncoderNetwork
from registry.encoders.rows import encoder_members
from registry.files import sha256_of_file
from registry.images import ImageSpec

BOUND = 0.9
#: images that differ; the others are the same files under other names
DISTINCT = 16
#: batches of the forward pass that differ; together they exceed a processor's cache
PRELOADED = 2


@dataclass(frozen=True)
class Speed:
    """Of one round.

    Attributes:
        wall: images per second.
        processor_s: seconds of all processes per image; 0 where it says nothing (CUDA).
    """

    wall: float
    processor_s: float


def draw_images(folder: Path, arguments: argparse.Namespace) -> Benchmark:
    """Blurred spots on a noisy ground, as TIFF of `channels` x `side` x `side` uint16."""
    rng = np.random.default_rng(0)
    shape = (arguments.channels, arguments.side, arguments.side)
    (folder / "images").mkdir(parents=True)
    records: list[dict[str, Any]] = []
    for number in range(arguments.images):
        path = folder / "images" / f"{number:06d}.tiff"
        if number < DISTINCT:
            spots = gaussian_filter(np.where(rng.random(shape) < 0.002, 60_000.0, 0.0), (0, 2.5, 2.5))
            pixels = (spots + rng.poisson(200, shape)).clip(0, 65_535).astype(np.uint16)
            compression = None if arguments.compression == "none" else arguments.compression
            tifffile.imwrite(path, pixels, photometric="minisblack", metadata={"axes": "CYX"}, compression=compression)
            sha256 = sha256_of_file(path)
        else:
            os.link(folder / records[number % DISTINCT]["path"], path)
            sha256 = records[number % DISTINCT]["sha256"]
        unit = number % 4
        fields = {"image_id": path.stem, "path": f"images/{path.name}", "Metadata_Plate": f"p{unit}", "unit": f"p{unit}", "fold": unit // 2 - 1}
        records.append({**fields, "label_half": "ab"[number // 4 % 2], "sha256": sha256})
    names = tuple(f"c{i}" for i in range(arguments.channels))
    image = ImageSpec(names, "uint16", arguments.side, arguments.side, ((0.0, 3000.0),) * len(names))
    card = BenchmarkCard("speed", "Images to measure speed with", "cells", image, "plate", (Task("half", "Which half?"),))
    return write_benchmark(folder, card, pd.DataFrame(records))


def plan(benchmark: Benchmark, arguments: argparse.Namespace) -> RowPlan:
    """One network with fresh weights."""
    card = EncoderCard("net", "twin", "As initialised.", arguments.encoder, "random", input_px=arguments.input_px)
    placement = Placement(arguments.device, arguments.precision)
    member = encoder_members(card, facts_of(benchmark), None, placement, seeds=1)[0]
    return RowPlan(card, (MemberPlan(member.name, member.make),), "", placement.describe(), arguments.precision)


def extraction(benchmark: Benchmark, row: RowPlan, out: Path, arguments: argparse.Namespace) -> Speed:
    """One run of the stage into an empty folder."""
    settings = ExtractSettings(batch=arguments.batch, threads=arguments.workers)
    before, start_s = os.times(), time.perf_counter()
    extract(benchmark, [row], out, settings)
    wall_s, after = time.perf_counter() - start_s, os.times()
    shutil.rmtree(out)
    return Speed(len(benchmark.index) / wall_s, sum(after[:4], -sum(before[:4])) / len(benchmark.index))


class Forward:
    """The bare forward pass over as many images."""

    def __init__(self, benchmark: Benchmark, row: RowPlan, arguments: argparse.Namespace) -> None:
        self.network, self.arguments = cast(EncoderNetwork, row.members[0].make().network()), arguments
        rows = [[(number * arguments.batch + i) % len(benchmark.index) for i in range(arguments.batch)] for number in range(PRELOADED)]
        self.pixels: list[Tensor] = [torch.from_numpy(np.stack([benchmark.pixels(row) for row in chunk])).to(arguments.device) for chunk in rows]
        self.batches = len(benchmark.index) // arguments.batch
        self.workers = arguments.workers if arguments.device == "cpu" else 1

    def run(self) -> Speed:
        """All batches, shared out among as many processes as extraction has."""
        barrier = multiprocessing.get_context("fork").Barrier(self.workers)
        with nullcontext() if self.arguments.plain else kept_memory():
            done = list(in_parallel(partial(self._share, barrier), range(self.workers), self.workers))
        wall_s = max(end for _, end, _ in done) - min(start for start, _, _ in done)
        images = self.batches * self.arguments.batch
        return Speed(images / wall_s, sum(spent for _, _, spent in done) / images)

    def _share(self, barrier: Any, number: int) -> tuple[float, float, float]:
        """Start and end, and processor time, in seconds."""
        mixed = self.arguments.precision.removeprefix("amp-")
        context = torch.autocast(self.arguments.device, getattr(torch, mixed), enabled=mixed != "float32")
        with torch.inference_mode():
            barrier.wait()
            start_s, spent_s = time.perf_counter(), time.process_time()
            for batch in range(number, self.batches, self.workers):
                self._pass(batch, context)
            if self.arguments.device == "cuda":
                torch.cuda.synchronize()
        return start_s, time.perf_counter(), time.process_time() - spent_s

    def _pass(self, batch: int, context: Any) -> None:
        inputs = self.network.preprocess(self.pixels[batch % PRELOADED])
        with context:
            self.network.vectors(inputs)


def shares(benchmark: Benchmark, forward: Forward) -> str:
    """Where the time goes, per image in one process: milliseconds of decoding, of preprocessing and of the backbone."""
    start_s = time.process_time()
    for row in range(DISTINCT):
        benchmark.pixels(row)
    decode_s = (time.process_time() - start_s) / DISTINCT
    with torch.inference_mode():
        start_s = time.process_time()
        inputs = forward.network.preprocess(forward.pixels[0])
        between_s = time.process_time()
        forward.network.vectors(inputs)
        end_s = time.process_time()
    preprocess_s, backbone_s = ((b - a) / len(inputs) for a, b in ((start_s, between_s), (between_s, end_s)))
    return f"one image in one process: decoding {1e3 * decode_s:.1f} ms, resizing {1e3 * preprocess_s:.1f} ms, backbone {1e3 * backbone_s:.1f} ms"


def measure(arguments: argparse.Namespace, folder: Path) -> float:
    """Print the rounds; returns the ratio of the medians of images per second."""
    benchmark = draw_images(folder / "data", arguments)
    row = plan(benchmark, arguments)
    forward = Forward(benchmark, row, arguments)
    megabytes = benchmark.paths(0)[0].stat().st_size / 1e6
    spec = benchmark.card.image
    print(f"{arguments.images} TIFF images of {spec.shape} {spec.dtype}, {megabytes:.2f} MB each, compression {arguments.compression}")
    how = f"{arguments.workers} decoding threads"
    if row.device == "cpu":
        how = f"{arguments.workers} processes of one thread on {len(os.sched_getaffinity(0))} cores"
    print(f"{arguments.encoder} at {arguments.input_px} px, batch {arguments.batch}, {arguments.precision}, {row.device}, {how}")
    if row.device == "cpu":
        print(shares(benchmark, forward))
    else:
        forward.run()  # sets up the kernels
    bare: list[Speed] = []
    whole: list[Speed] = []
    for number in range(arguments.rounds):
        # the one that goes first takes turns, so that a machine that grows busier favours neither
        for turn in (number, number + 1):
            if turn % 2:
                whole.append(extraction(benchmark, row, folder / "out" / "cell", arguments))
            else:
                bare.append(forward.run())
        print(
            f"round {number + 1}: forward pass {bare[-1].wall:.1f} images/s, extraction {whole[-1].wall:.1f} images/s,"
            f" ratio {whole[-1].wall / bare[-1].wall:.3f}",
            flush=True,
        )
    ratio = statistics.median(speed.wall for speed in whole) / statistics.median(speed.wall for speed in bare)
    print(f"medians of {arguments.rounds} rounds: extraction at {ratio:.3f} of the bare forward pass")
    if row.device == "cpu":
        spent = statistics.median(speed.processor_s for speed in bare) / statistics.median(speed.processor_s for speed in whole)
        print(f"in processor seconds per image: {spent:.3f}")
    return ratio


def main() -> int:
    """Measure and judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--precision", default="float32", help="float32, amp-bfloat16 or amp-float16")
    parser.add_argument("--encoder", default="timm:mobilenetv2_100", help="architecture of the network")
    parser.add_argument("--input-px", type=int, default=128, help="side of what the network sees; 0 keeps the images' size")
    parser.add_argument("--images", type=int, default=4096)
    parser.add_argument("--side", type=int, default=512, help="of the images, px")
    parser.add_argument("--channels", type=int, default=3)
    parser.add_argument("--compression", choices=("none", "zlib", "lzw", "zstd"), default="none")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)), help="processes on a CPU, decoding threads on CUDA")
    parser.add_argument("--plain", action="store_true", help="a forward pass as a loop usually is, without memory kept between batches")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="one round of 128 images, no verdict")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.images, arguments.rounds = 128, 1
    if arguments.device == "cpu":
        # both on the same cores, and one thread each: torch's pool does not survive a fork
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: arguments.workers])
        torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="blankslide-") as folder:
        ratio = measure(arguments, Path(folder))
    if arguments.device == "cpu" and ratio < BOUND and not arguments.quick:
        print(f"Below the bound of {BOUND}.")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

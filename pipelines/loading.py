"""Images of a benchmark as batches, read ahead of whoever consumes them."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from pipelines.benchmarks.index import Benchmark
from pipelines.memory import memory_for
from registry.arrays import PixelBatch
from registry.errors import ImageError
from registry.representation import Batch

#: batches decoded ahead of the one in use; with the batch size it bounds the memory, whatever the number of images
AHEAD = 2
#: bad images a message names; all are counted
NAMED = 5


def metadata_columns(benchmark: Benchmark) -> list[str]:
    """The index's `Metadata_*` columns, in order."""
    return [column for column in benchmark.index.columns if column.startswith("Metadata_")]


@dataclass
class Unreadable:
    """The images that could not be read, and how many may be.

    Attributes:
        tolerance: how many unreadable images do not fail the stage.
        reasons: reason by image id.
    """

    tolerance: int = 0
    reasons: dict[str, str] = field(default_factory=dict)

    @property
    def too_many(self) -> bool:
        """Whether the tolerance is exceeded."""
        return len(self.reasons) > self.tolerance

    def error(self, images: int) -> ImageError:
        """What the stage fails with, once all images were looked at."""
        named = [f"`{name}`: {self.reasons[name]}" for name in sorted(self.reasons)[:NAMED]]
        more = f" and {len(self.reasons) - NAMED} more" if len(self.reasons) > NAMED else ""
        return ImageError(
            f"{len(self.reasons)} of {images} images cannot be used, {self.tolerance} are tolerated: {' '.join(named)}{more}"
            " Repair or remove them, or raise the tolerance."
        )


class ImageLoader:
    """Decodes images of one benchmark and keeps account of those that cannot be read.

    Args:
        benchmark: whose images.
        decoders: threads that decode ahead. 0 decodes each batch when it is asked for, while the disk is already told to
            fetch the files of the next: best where other processes use the other cores anyway, because two threads that
            take turns on one core cost each other its cache.
        unreadable: where bad images are noted; they are left out of their batch.
        device: what the batches are for: "cpu", or "cuda:" and the card's name.
    """

    def __init__(self, benchmark: Benchmark, decoders: int, unreadable: Unreadable, device: str = "cpu") -> None:
        self.benchmark = benchmark
        self._memory = memory_for(device)
        self.decoders = decoders
        self.unreadable = unreadable
        self._ids: list[str] = benchmark.index["image_id"].tolist()
        self._metadata = benchmark.index[metadata_columns(benchmark)]

    def batches(self, chunks: Iterable[Sequence[int]]) -> Iterator[Batch]:
        """One batch for each chunk of index rows, in order; it lacks the images that cannot be read and may be empty."""
        return self._ahead(chunks) if self.decoders else self._in_turn(chunks)

    def _ahead(self, chunks: Iterable[Sequence[int]]) -> Iterator[Batch]:
        pending: deque[_Decoding] = deque()
        pool = ThreadPoolExecutor(self.decoders, thread_name_prefix="decode")
        try:
            for rows in chunks:
                pixels = self._empty(rows)
                pending.append(_Decoding(rows, pixels, [pool.submit(self._decode, row, pixels[place]) for place, row in enumerate(rows)]))
                if len(pending) > AHEAD:
                    yield self._finish(pending.popleft())
            while pending:
                yield self._finish(pending.popleft())
        finally:
            pool.shutdown(cancel_futures=True)

    def _finish(self, decoding: _Decoding) -> Batch:
        return self._batch(decoding.rows, decoding.pixels, [future.result() for future in decoding.futures])

    def _in_turn(self, chunks: Iterable[Sequence[int]]) -> Iterator[Batch]:
        following = iter(chunks)
        rows = next(following, None)
        while rows is not None:
            after = next(following, None)
            for row in after or ():
                for path in self.benchmark.paths(row):
                    _fetch(path)
            # no name here holds on to the batch: its memory serves the next one
            yield self._decoded(rows)
            rows = after

    def _decoded(self, rows: Sequence[int]) -> Batch:
        pixels = self._empty(rows)
        return self._batch(rows, pixels, [self._decode(row, pixels[place]) for place, row in enumerate(rows)])

    def _empty(self, rows: Sequence[int]) -> PixelBatch:
        return self._memory((len(rows), *self.benchmark.card.image.shape))

    def _decode(self, row: int, into: PixelBatch) -> str:
        """Decode one image into its place; returns why it cannot be read, "" if it can."""
        try:
            self.benchmark.pixels(row, into)
        except ImageError as error:
            # outputs hold no paths of this machine
            return str(error).replace(f"{self.benchmark.folder}/", "")
        return ""

    def _batch(self, rows: Sequence[int], pixels: PixelBatch, reasons: Sequence[str]) -> Batch:
        self.unreadable.reasons.update({self._ids[row]: reason for row, reason in zip(rows, reasons, strict=True) if reason})
        kept = [place for place, reason in enumerate(reasons) if not reason]
        rows = [rows[place] for place in kept]
        return Batch(
            image_ids=tuple(self._ids[row] for row in rows),
            pixels=pixels if len(kept) == len(reasons) else pixels[kept],
            metadata=self._metadata.iloc[rows].reset_index(drop=True),
            nuclei=self._nuclei(rows),
        )

    def _nuclei(self, rows: Sequence[int]) -> tuple[pd.DataFrame, ...] | None:
        if not self.benchmark.card.structure:
            return None
        tables = self.benchmark.nuclei
        nothing = next(iter(tables.values())).iloc[:0]
        return tuple(tables.get(self._ids[row], nothing) for row in rows)


@dataclass(frozen=True)
class _Decoding:
    """A batch whose images are being decoded."""

    rows: Sequence[int]
    pixels: PixelBatch
    futures: list[Future[str]]


def _fetch(path: Path) -> None:
    """Tell the kernel to read a file into its cache; returns at once. A file that is not there is found out when it is decoded."""
    if not hasattr(os, "posix_fadvise"):
        return
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        return
    try:
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_WILLNEED)
    finally:
        os.close(descriptor)


def chunked(rows: Sequence[int], size: int) -> list[list[int]]:
    """`rows` in pieces of `size`, the last one smaller."""
    return [list(rows[start : start + size]) for start in range(0, len(rows), size)]

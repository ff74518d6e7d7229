"""A tiny benchmark on disk, and representations of a few lines, for the tests of training and extraction."""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path
from typing import ClassVar

import numpy as np
import pandas as pd
import tifffile
from numpy.typing import NDArray

from pipelines.benchmarks.card import BenchmarkCard, Task
from pipelines.benchmarks.index import Benchmark, write_benchmark
from pipelines.extraction.plan import MemberPlan, RowPlan
from registry.cards import EncoderCard
from registry.files import sha256_of_file
from registry.images import ImageSpec
from registry.representation import Batch, State

CHANNELS = ("DNA", "ER")
SIZE = 16


def write_images(folder: Path, plates: int = 4, wells: int = 5, folds: int = 1, dtype: str = "uint16", seed: int = 0) -> Benchmark:
    """Plates x wells images of 2 x 16 x 16 pixels; the label is whether the first channel is bright.

    With one fold the last half of the plates is the test set; with several, plates are dealt out to the folds.
    """
    rng = np.random.default_rng(seed)
    records = []
    for plate in range(plates):
        for well in range(wells):
            bright = bool((plate + well) % 2)
            name = f"p{plate}-w{well}"
            pixels = rng.integers(0, 500, (2, SIZE, SIZE)) + np.array([500 if bright else 0, 0])[:, None, None]
            path = folder / "images" / f"{name}.tiff"
            path.parent.mkdir(parents=True, exist_ok=True)
            tifffile.imwrite(path, pixels.astype(dtype), photometric="minisblack", metadata={"axes": "CYX"})
            records.append(
                {
                    "image_id": name,
                    "path": f"images/{name}.tiff",
                    "Metadata_Plate": f"p{plate}",
                    "Metadata_Well": f"A{well + 1:02d}",
                    "Metadata_Treatment": f"t{well % 3}",
                    "unit": f"p{plate}",
                    "fold": (0 if plate >= plates / 2 else -1) if folds == 1 else plate % folds,
                    "label_bright": "bright" if bright else "dim",
                    "label_half": None if well == 0 else ("early" if well < 3 else "late"),
                    "sha256": sha256_of_file(path),
                }
            )
    tasks = (Task("bright", "Is it bright?"), Task("half", "Which wells?"))
    image = ImageSpec(CHANNELS, dtype, SIZE, SIZE, ((0.0, 1000.0),) * 2)
    card = BenchmarkCard("tiny", "Tiny", "cells", image, "plate", tasks)
    return write_benchmark(folder, card, pd.DataFrame(records))


def repaint(benchmark: Benchmark, rows: Iterable[int], seed: int = 9) -> None:
    """Other pixels for these images; nothing else changes."""
    rng = np.random.default_rng(seed)
    for row in rows:
        pixels = rng.integers(0, 1000, (2, SIZE, SIZE)).astype(benchmark.card.image.dtype)
        tifffile.imwrite(benchmark.paths(row)[0], pixels, photometric="minisblack", metadata={"axes": "CYX"})


class Moments:
    """Mean and variance of each channel; not fitted."""

    fitted = False

    def __init__(self, name: str = "moments") -> None:
        self.card = EncoderCard(name, "negative", "Mean and variance of each channel.")

    def fit(self, batches: Iterable[Batch]) -> None:
        """Nothing."""

    def embed(self, batch: Batch) -> NDArray[np.float32]:
        """(n, 4)"""
        return np.concatenate([batch.pixels.mean(axis=(2, 3)), batch.pixels.var(axis=(2, 3))], axis=1)

    def state(self) -> dict[str, NDArray[np.float32]]:
        """Nothing."""
        return {}

    def load_state(self, state: State) -> None:
        """Nothing."""

    def network(self) -> None:
        """None."""

    def unservable(self) -> str:
        """Why."""
        return "it is a formula"


class Centred(Moments):
    """The same minus the mean over the training images: fitted."""

    fitted = True

    def __init__(self, name: str = "centred") -> None:
        super().__init__(name)
        self.mean = np.zeros(4, np.float32)
        self.seen: list[str] = []

    def fit(self, batches: Iterable[Batch]) -> None:
        """Learn the mean."""
        values = []
        for batch in batches:
            values.append(super().embed(batch))
            self.seen += batch.image_ids
        self.mean = np.concatenate(values).mean(axis=0)

    def embed(self, batch: Batch) -> NDArray[np.float32]:
        """(n, 4)"""
        return super().embed(batch) - self.mean

    def state(self) -> dict[str, NDArray[np.float32]]:
        """The mean."""
        return {"mean": self.mean}

    def load_state(self, state: State) -> None:
        """The mean."""
        self.mean = np.asarray(state["mean"], np.float32)


class Logged(Centred):
    """The same, writing down every image it embeds, from whatever process."""

    log: ClassVar[Path]
    pause_s: ClassVar[float] = 0.0

    def embed(self, batch: Batch) -> NDArray[np.float32]:
        """(n, 4)"""
        time.sleep(self.pause_s)
        with self.log.open("a") as stream:
            stream.write("".join(f"{name}\n" for name in batch.image_ids))
        return super().embed(batch)


def rows_of(*representations: type[Moments]) -> list[RowPlan]:
    """One row with one member for each."""
    return [RowPlan(made.card, (MemberPlan("main", kind),)) for kind in representations for made in [kind()]]

"""A benchmark whose labels are planted in pure noise, and rows of chosen vectors on it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from pipelines.benchmarks.card import BenchmarkCard, Task
from pipelines.benchmarks.index import Benchmark, write_benchmark
from pipelines.embeddings import Manifest, member_file, write_member
from registry.cards import EncoderCard
from registry.images import ImageSpec

SPEC = ImageSpec(("dna",), "uint8", 8, 8, ((0.0, 255.0),))


def noise_benchmark(folder: Path, units: int = 12, per_unit: int = 24, folds: int = 3, seed: int = 0) -> Benchmark:
    """Labels balanced within every unit and independent of everything else."""
    rng = np.random.default_rng(seed)
    rows = []
    for unit in range(units):
        labels = rng.permutation(np.arange(per_unit) % 2)
        for i, label in enumerate(labels):
            rows.append(
                {
                    "image_id": f"u{unit:02d}-{i:03d}",
                    "path": "images/none.png",
                    "unit": f"plate-{unit:02d}",
                    "fold": unit % folds,
                    "sha256": "0" * 64,
                    "label_planted": f"class-{label}",
                    "Metadata_Plate": f"plate-{unit:02d}",
                    "Metadata_Well": f"A{i:02d}",
                }
            )
    card = BenchmarkCard("noise", "Labels planted in noise", "cells", SPEC, "plate", (Task("planted", "Is there anything?"),))
    return write_benchmark(folder, card, pd.DataFrame(rows))


def write_row(
    cell: Path, benchmark: Benchmark, name: str, members: dict[str, np.ndarray], card: EncoderCard | None = None, fitted: bool = False
) -> None:
    """One row of given (n, d) vectors; a fitted row gets the same vectors for every fold."""
    ids = benchmark.index["image_id"].tolist()
    folds = [f.number for f in benchmark.folds] if fitted else []
    card = card or EncoderCard(name, "negative", "vectors of a test")
    for member, values in members.items():
        for fold in folds or (None,):
            write_member(cell / name / member_file(member, fold), ids, benchmark.index.filter(like="Metadata_"), values.astype(np.float32))
    dim = next(iter(members.values())).shape[1]
    Manifest(
        name, benchmark.card.name, card.as_dict(), "hash", benchmark.data_hash(), SPEC.as_dict(), list(members), fitted, folds, dim, unservable="test"
    ).write(cell / name)

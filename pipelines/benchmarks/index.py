"""The index of a benchmark: one row per image, checked whenever it is written or read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipelines.benchmarks.card import BenchmarkCard, Task
from pipelines.benchmarks.known import NANOMOLAR, RELATIONS, TARGETS
from registry.arrays import Mask
from registry.errors import BenchmarkError
from registry.files import published, sha256_of_file
from registry.images import Image, conform, read_channels

EXPRESSION = "expression.parquet"
REQUIRED = ("image_id", "path", "unit", "fold", "sha256")


@dataclass(frozen=True)
class Fold:
    """One outer split: boolean masks over the rows of the index.

    Attributes:
        number: 0, 1, ...
        train: (n,) everything that is fitted sees these only.
        test: (n,) scored once.
    """

    number: int
    train: Mask
    test: Mask


@dataclass(frozen=True)
class Benchmark:
    """A benchmark on disk: its folder, card and index (sorted by `image_id`)."""

    folder: Path
    card: BenchmarkCard
    index: pd.DataFrame

    @classmethod
    def read(cls, folder: Path) -> Benchmark:
        """Read and check a benchmark.

        Raises:
            BenchmarkError: files missing, or the index does not hold what the card says.
        """
        card = BenchmarkCard.read(folder)
        index = pd.read_parquet(folder / "index.parquet")
        check_index(index, card)
        return cls(folder, card, index)

    @property
    def folds(self) -> list[Fold]:
        """The outer folds, in order."""
        number = self.index["fold"].to_numpy()
        return [Fold(int(f), number != f, number == f) for f in sorted(set(number[number >= 0].tolist()))]

    @cached_property
    def _files(self) -> list[list[str]]:
        # a look into the index costs as much as reading a file's header
        return [str(names).split(";") for names in self.index["path"]]

    def labels(self, task: Task) -> pd.Series:
        """Labels of one task, null where an image does not take part."""
        labels: pd.Series = self.index[task.column]
        return labels

    def paths(self, row: int) -> list[Path]:
        """The file or files of one image."""
        return [self.folder / part for part in self._files[row]]

    def image(self, row: int) -> Image:
        """Decode one image."""
        return read_channels(self.paths(row), self.card.image.channels)

    def pixels(self, row: int, out: NDArray[np.float32] | None = None) -> NDArray[np.float32]:
        """(c, y, x) float32: one image, conformed to the card's ImageSpec; put into `out` if it is given. (0, 0, 0) where there are no images."""
        if not self.card.image.present:
            return np.empty(self.card.image.shape, np.float32)
        return conform(self.image(row), self.card.image, out)

    @cached_property
    def nuclei(self) -> dict[str, pd.DataFrame]:
        """Nuclei per `image_id` (columns nucleus, x_um, y_um, area_um2, type); {} where the benchmark has none."""
        if not self.card.structure:
            return {}
        table = pd.read_parquet(self.folder / "nuclei.parquet")
        return {str(name): group.reset_index(drop=True) for name, group in table.groupby("image_id", sort=True)}

    @cached_property
    def expression(self) -> pd.DataFrame | None:
        """Raw counts of genes by `image_id`, one column per gene, of the images that have them; None where the benchmark has none."""
        if EXPRESSION not in self.card.checksums:
            return None
        return pd.read_parquet(self.folder / EXPRESSION).set_index("image_id")

    @cached_property
    def relations(self) -> pd.DataFrame:
        """Known relations between entities (columns source, entity1, entity2); empty where none were stated."""
        return self._known(RELATIONS, ["source", "entity1", "entity2"])

    @cached_property
    def targets(self) -> pd.DataFrame:
        """Known targets of treatments (columns compound, gene, nanomolar); empty where none were stated."""
        return self._known(TARGETS, ["compound", "gene", NANOMOLAR])

    def _known(self, name: str, columns: list[str]) -> pd.DataFrame:
        if name not in self.card.checksums:
            return pd.DataFrame(columns=columns)
        path = self.folder / name
        if not path.is_file() or sha256_of_file(path) != self.card.checksums[name]:
            raise BenchmarkError(f"`{path}` is not the file that the card names. Import the benchmark again with `--replace`.")
        return pd.read_parquet(path)

    def data_hash(self) -> str:
        """Identifies pixels, labels and split: sha256 of the index file (which holds every image's sha256)."""
        return sha256_of_file(self.folder / "index.parquet")

    def __iter__(self) -> Iterator[int]:
        return iter(range(len(self.index)))


def check_index(index: pd.DataFrame, card: BenchmarkCard) -> None:
    """Refuse an index that contradicts itself or its card.

    Raises:
        BenchmarkError: missing column, duplicate image id, a unit in train and test of one fold, a task with one class.
    """
    missing = [c for c in (*REQUIRED, *(t.column for t in card.tasks)) if c not in index.columns]
    if missing:
        raise BenchmarkError(f"`{card.name}`: the index lacks {', '.join(f'`{c}`' for c in missing)}. It has: {', '.join(index.columns)}.")
    if index.empty:
        raise BenchmarkError(f"`{card.name}`: the index has no images.")
    repeated = index["image_id"][index["image_id"].duplicated()].unique()
    if len(repeated):
        raise BenchmarkError(f"`{card.name}`: image id `{repeated[0]}` occurs more than once ({len(repeated)} such ids). Image ids must be unique.")
    if not index["image_id"].is_monotonic_increasing:
        raise BenchmarkError(f"`{card.name}`: the index is not sorted by `image_id`.")
    if (index["fold"] < 0).all():
        raise BenchmarkError(f"`{card.name}`: every image is training (`fold` -1); expected a test fold 0.")
    folds_per_unit = index.groupby("unit")["fold"].nunique()
    torn = folds_per_unit[folds_per_unit > 1]
    if len(torn):
        raise BenchmarkError(f"`{card.name}`: unit `{torn.index[0]}` is in training and test. Keep each unit in one fold.")
    for task in card.tasks:
        classes = index[task.column].dropna().unique()
        if len(classes) < 2:
            raise BenchmarkError(f"`{card.name}`: task `{task.name}` has {len(classes)} class; expected at least two.")


def write_benchmark(
    folder: Path,
    card: BenchmarkCard,
    index: pd.DataFrame,
    nuclei: pd.DataFrame | None = None,
    expression: pd.DataFrame | None = None,
    known: Mapping[str, pd.DataFrame] = MappingProxyType({}),
) -> Benchmark:
    """Check and publish index, nuclei, expression, what is known and card (the card last: a folder without a card is not a benchmark).

    Args:
        folder: the benchmark's folder; its images are already there.
        card: its `checksums` and `structure` are filled in here.
        index: one row per image, any order; sorted here.
        nuclei: columns image_id, nucleus, x_um, y_um, area_um2, type.
        expression: column image_id and one of raw counts per gene.
        known: what is known about the perturbations, by file name (`known.known_tables`).
    """
    index = index.sort_values("image_id", kind="stable").reset_index(drop=True)
    card = replace(card, structure=nuclei is not None)
    check_index(index, card)
    checksums = {"index.parquet": _publish_parquet(folder / "index.parquet", index)}
    if nuclei is not None:
        ordered = nuclei.sort_values(["image_id", "nucleus"], kind="stable").reset_index(drop=True)
        checksums["nuclei.parquet"] = _publish_parquet(folder / "nuclei.parquet", ordered)
    if expression is not None:
        ordered = expression.sort_values("image_id", kind="stable").reset_index(drop=True)
        checksums[EXPRESSION] = _publish_parquet(folder / EXPRESSION, ordered)
    checksums |= {name: _publish_parquet(folder / name, table) for name, table in known.items()}
    replace(card, checksums=checksums).write(folder)
    return Benchmark.read(folder)


def _publish_parquet(path: Path, table: pd.DataFrame) -> str:
    with published(path) as temporary:
        table.to_parquet(temporary, index=False, compression="zstd")
    return sha256_of_file(path)

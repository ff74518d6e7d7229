"""A task of a benchmark as arrays, the vectors of a row for its folds, and the one rule of the probes: what every scorer of rows starts from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from pipelines.benchmarks.card import Task
from pipelines.benchmarks.index import Benchmark
from pipelines.embeddings import Row
from pipelines.metrics.names import whole_names
from pipelines.metrics.probes import ProbeSettings
from pipelines.metrics.statistic import Statistic, inflation_of
from pipelines.params import EvaluateParams
from registry.arrays import Floats, Ints, Mask

#: one row's vectors by the fold they were fitted for
FoldFeatures = Mapping[int, Floats]


@dataclass(frozen=True)
class Question:
    """One task of a benchmark as arrays over its n images.

    Attributes:
        task: the task.
        codes: (n,) class codes, -1 where an image takes no part.
        classes: the vocabulary, sorted.
        units: (n,) unit names.
        folds: (n,) test folds, -1 = always training.
        profiles: (n,) the retrieval profile of each image: one label in one well (or one image, where there are no wells).
    """

    task: Task
    codes: Ints
    classes: tuple[str, ...]
    units: NDArray[np.str_]
    folds: Ints
    profiles: Ints

    @classmethod
    def of(cls, benchmark: Benchmark, task: Task) -> Question:
        """Code the labels of one task with one vocabulary over all images."""
        index = benchmark.index
        labels = benchmark.labels(task)
        present = labels.notna().to_numpy()
        names = whole_names(labels, "labels", missing="")
        classes = tuple(np.unique(names[present]).tolist())
        codes = np.where(present, np.searchsorted(np.array(classes), names), -1).astype(np.int64)
        units = whole_names(index["unit"], "units")
        wells = index["Metadata_Well"].fillna(index["image_id"]) if "Metadata_Well" in index else index["image_id"]
        keys = [f"{unit}/{well}/{code}" for unit, well, code in zip(units, wells, codes, strict=True)]
        profiles = np.unique(np.array(keys), return_inverse=True)[1].astype(np.int64)
        return cls(task, codes, classes, units, index["fold"].to_numpy(np.int64), profiles)

    def train(self, number: int) -> Mask:
        """(n,) the training images of a fold that take part."""
        return np.asarray((self.codes >= 0) & (self.folds != number))


def inflated(statistic: Statistic, question: Question) -> Statistic:
    """A probe's statistic with the inflation of its variance, for what the units that train do to it."""
    taking_part = question.codes >= 0
    return replace(statistic, inflation=inflation_of(question.folds[taking_part], question.units[taking_part]))


def fold_features(row: Row, member: str, benchmark: Benchmark) -> FoldFeatures:
    """(n, d) vectors of one member for every fold; the same array for all where nothing was fitted."""
    ids = benchmark.index["image_id"].tolist()
    numbers = [fold.number for fold in benchmark.folds]
    if not row.manifest.folds:
        shared = row.embedding(member, 0, ids).astype(np.float64)
        return dict.fromkeys(numbers, shared)
    return {number: row.embedding(member, number, ids).astype(np.float64) for number in numbers}


def probe_settings(params: EvaluateParams) -> ProbeSettings:
    """The one rule of every row."""
    return ProbeSettings(max_dim=params.max_dim, inner_folds=params.inner_folds, neighbours=params.neighbours)

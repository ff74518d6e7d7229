"""The benchmark card and its tasks."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from registry.errors import BenchmarkError
from registry.files import read_json, write_json
from registry.images import ImageSpec

NAME = re.compile(r"[a-z0-9][a-z0-9_-]*")
MODALITIES = ("cells", "tissue", "natural")
#: what a verdict can be about
PRIMARY_METRICS = ("logistic.balanced_accuracy", "knn.balanced_accuracy", "logistic.auroc", "retrieval.map")


def check_name(name: str) -> None:
    """Refuse what is no name of a benchmark.

    Raises:
        BenchmarkError: says which characters there may be.
    """
    if not NAME.fullmatch(name):
        raise BenchmarkError(f"Expected a benchmark name of small letters, digits, `_` and `-` that starts with a letter or digit, got `{name}`.")


@dataclass(frozen=True)
class Task:
    """One question on a benchmark.

    Attributes:
        name: `[a-z0-9][a-z0-9_-]*`; its labels are the index column `label_<name>`.
        question: one sentence a stranger understands.
        metric: the primary metric a verdict is about, one of PRIMARY_METRICS.
        expectation: the planted truth in words, "" for real data.
        nuisance: a confound that is decoded and shown (where did the well lie?); nothing is promoted or refused by it.
    """

    name: str
    question: str
    metric: str = "logistic.balanced_accuracy"
    expectation: str = ""
    nuisance: bool = False

    def __post_init__(self) -> None:
        if not NAME.fullmatch(self.name):
            raise BenchmarkError(f"Expected a task name like `[a-z0-9][a-z0-9_-]*`, got `{self.name}`.")
        if self.metric not in PRIMARY_METRICS:
            raise BenchmarkError(f"`{self.name}`: expected a metric of {', '.join(PRIMARY_METRICS)}, got `{self.metric}`.")

    @property
    def column(self) -> str:
        """The label column of the index."""
        return f"label_{self.name}"


@dataclass(frozen=True)
class BenchmarkCard:
    """Everything about a benchmark that is not a pixel or a label.

    Attributes:
        name: `[a-z0-9][a-z0-9_-]*`.
        title: one line for people.
        modality: "cells", "tissue" or "natural".
        image: what every image looks like.
        unit: what is independent, in words: "plate", "patient", "image".
        tasks: the questions.
        structure: whether `nuclei.parquet` exists.
        licence: of the images.
        citation: how to cite them.
        source: where they come from.
        notes: sentences the report prints beside every result ("images as units: optimistic", excluded labels).
        truth: planted truth of a simulator: its parameters and what they mean; {} for real data.
        checksums: sha256 of `index.parquet` and, where present, `nuclei.parquet`, `expression.parquet`, `relations.parquet` and `targets.parquet`.
    """

    name: str
    title: str
    modality: str
    image: ImageSpec
    unit: str
    tasks: tuple[Task, ...]
    structure: bool = False
    licence: str = "not stated"
    citation: str = ""
    source: str = ""
    notes: tuple[str, ...] = ()
    truth: dict[str, Any] = field(default_factory=dict)
    checksums: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_name(self.name)
        if self.modality not in MODALITIES:
            raise BenchmarkError(f"`{self.name}`: expected a modality of {', '.join(MODALITIES)}, got `{self.modality}`.")
        names = [task.name for task in self.tasks]
        if not names or len(set(names)) < len(names):
            raise BenchmarkError(f"`{self.name}`: expected at least one task and no name twice, got {names}.")

    def task(self, name: str) -> Task:
        """The task of that name."""
        for task in self.tasks:
            if task.name == name:
                return task
        raise BenchmarkError(f"`{self.name}` has no task `{name}`. Its tasks: {', '.join(t.name for t in self.tasks)}.")

    def write(self, folder: Path) -> None:
        """Publish as `folder/card.json`."""
        value = asdict(self)
        value["image"] = self.image.as_dict()
        write_json(folder / "card.json", value)

    @classmethod
    def read(cls, folder: Path) -> BenchmarkCard:
        """Read `folder/card.json`."""
        path = folder / "card.json"
        if not path.is_file():
            raise BenchmarkError(f"`{folder}` is not a benchmark: expected `card.json` in it. Import one with `blankslide data import`.")
        value = read_json(path)
        return cls(
            **{
                **value,
                "image": ImageSpec.from_dict(value["image"]),
                "tasks": tuple(Task(**task) for task in value["tasks"]),
                "notes": tuple(value["notes"]),
            }
        )

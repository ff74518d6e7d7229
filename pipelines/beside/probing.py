"""How soon and how plainly a task can be read from each row: few-shot curves, the code length of its labels, selectivity against control tasks.

One rule for every row, one draw of each: of twins the first. Code length is that of test images, because a network may know by heart what it
was trained on; few-shot curves and selectivity keep the folds of every other score.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipelines.benchmarks.index import Benchmark
from pipelines.beside.confounding import COMPOUNDS
from pipelines.lines import UNVERSIONED, lines_of_cells, write_lines
from pipelines.metrics.code_length import online_code
from pipelines.metrics.few_shot import few_shot
from pipelines.metrics.jackknife import interval
from pipelines.metrics.names import whole_names
from pipelines.metrics.probes import ProbeSettings
from pipelines.metrics.selectivity import selectivity, share_recurring
from pipelines.metrics.statistic import Statistic
from pipelines.tasks import FoldFeatures, Question
from registry.arrays import Ints
from registry.errors import InputError

FILE = "probing.parquet"
#: names the rules in every result
PROTOCOL = "probing:v2:few-shot:code-length:selectivity"
FEW_SHOT, CODE_LENGTH, SELECTIVITY, CONTROL_TASK = "few-shot", "code length", "selectivity", "control task"
#: `shots` of the end of a few-shot curve
ALL = 0
#: what an image is of, finer than a class and met again in other units: the first of these that the task allows
TYPES = (*COMPOUNDS, "Metadata_Well")
#: share of the test images whose type training must know
MOSTLY = 0.5
#: more labelled images than this are thinned out evenly, in the order of the index: probes are fitted anew for every block and control task
MOST = 1500
#: control tasks
DRAWS = 5


@dataclass(frozen=True)
class Probed:
    """One score of one row on one task.

    Attributes:
        row: name of the encoder or control.
        member: its draw.
        task: name of the task.
        score: FEW_SHOT (balanced accuracy of the nearest class mean), CODE_LENGTH (bits of a label for one who holds the vectors; smaller is
            better), SELECTIVITY (balanced accuracy of the logistic probe on the task minus that on control tasks) or CONTROL_TASK (the latter).
        shots: training images of each class of a few-shot score, ALL where all were used; ALL for other scores.
        about: what is coded one after the other (the unit), or what has a label of its own in a control task; "" for few-shot scores.
        value: the score; NaN where it is not estimable.
        low: lower bound of the 95 % interval of selectivity over units, these control tasks given; NaN for other scores and where there is none.
        high: upper bound.
        sd: over draws of training images (few-shot) or of control tasks; NaN where nothing was drawn.
        reference: the value of knowing nothing: chance, log2 of the number of classes, 0 for selectivity.
        n_images: test images it was computed on.
        note: "" or why it is not estimable.
        protocol_id: names the rule.
    """

    row: str
    member: str
    task: str
    score: str
    shots: int
    about: str
    value: float
    low: float
    high: float
    sd: float
    reference: float
    n_images: int
    note: str
    protocol_id: str = UNVERSIONED


@dataclass(frozen=True, eq=False)
class Types:
    """What the images of a task are of, for its control tasks.

    Attributes:
        column: in lower case, without "Metadata_"; "" where there is none.
        names: n names, "" where an image has none; empty where there is no column.
        why_not: why there is none; "".
    """

    column: str
    names: NDArray[np.str_]
    why_not: str


def types_of(benchmark: Benchmark, question: Question) -> Types:
    """The first of TYPES that is finer than the classes of a task and recurs: training knows the type of at least half of the test images."""
    labelled = question.codes >= 0
    for column in TYPES:
        if column not in benchmark.index:
            continue
        found = benchmark.index[column]
        names = whole_names(found, column, missing="")
        taking_part = np.flatnonzero(labelled & (names != ""))
        tested = taking_part[question.folds[taking_part] >= 0]
        finer = len(np.unique(names[taking_part])) > len(question.classes)
        if finer and len(tested) and share_recurring(names, question.folds, taking_part, tested) >= MOSTLY:
            return Types(column.removeprefix("Metadata_").lower(), names, "")
    unit = benchmark.card.unit
    return Types("", np.zeros(0, np.str_), f"no compound, treatment or well is met in one {unit} and another and divides the classes further")


def probed(
    row: str, member: str, features: FoldFeatures, question: Question, types: Types, settings: ProbeSettings, unit: str, seed: int = 0
) -> list[Probed]:
    """Every score of one row on one task.

    Args:
        row: its name.
        member: the draw the vectors are of.
        features: (n, d) of all images for every fold.
        question: the task.
        types: from `types_of`.
        settings: of the logistic probe.
        unit: what a unit is, in words.
        seed: of all draws.
    """
    asked = _Asked(row, member, features, question, settings, seed)
    return [*asked.few_shot(), asked.code_length(unit), *asked.selectivity(types)]


@dataclass(frozen=True, eq=False)
class _Asked:
    row: str
    member: str
    features: FoldFeatures
    question: Question
    settings: ProbeSettings
    seed: int

    def few_shot(self) -> list[Probed]:
        question = self.question
        found = few_shot(self.features, question.codes, question.folds, len(question.classes), seed=self.seed)
        n = int(((question.codes >= 0) & (question.folds >= 0)).sum())
        scores = []
        for shots, mean, sd in zip(found.shots, found.mean, found.sd, strict=True):
            note = "" if np.isfinite(mean) else f"not estimable: a class has fewer than {shots} training images"
            scores.append(self._score(FEW_SHOT, "", float(mean), found.chance, n, shots=shots, sd=float(sd), note=note))
        return [*scores, self._score(FEW_SHOT, "", found.whole, found.chance, n)]

    def code_length(self, unit: str) -> Probed:
        question, vectors = self.question, list(self.features.values())
        images = _thinned(np.flatnonzero((question.codes >= 0) & (question.folds >= 0)))
        uniform = float(np.log2(len(question.classes)))
        if not all(np.array_equal(vectors[0], other) for other in vectors[1:]):
            reason = "it is fitted anew for every fold, and vectors of different folds cannot be compared"
            return self._none(CODE_LENGTH, unit, uniform, len(images), reason)
        labels, units = question.codes[images], question.units[images]
        try:
            code = online_code(vectors[0][images], labels, units, len(question.classes), self.settings, seed=self.seed)
        except InputError as error:
            return self._none(CODE_LENGTH, unit, uniform, len(images), str(error))
        # no interval: what the labels of a unit take hangs on its place in the order, which the jackknife would count as scatter
        return self._score(CODE_LENGTH, unit, code.online_bits / len(images), code.uniform, len(images))

    def selectivity(self, types: Types) -> list[Probed]:
        question, chance = self.question, 1 / len(self.question.classes)
        if types.why_not:
            return [self._none(SELECTIVITY, "", 0.0, 0, types.why_not), self._none(CONTROL_TASK, "", chance, 0, types.why_not)]
        kept = _thinned(np.flatnonzero((question.codes >= 0) & (types.names != "")))
        codes = np.full(len(question.codes), -1)
        codes[kept] = question.codes[kept]
        n = int((question.folds[kept] >= 0).sum())
        try:
            found = selectivity(
                self.features, codes, types.names, question.folds, question.units, len(question.classes), self.settings, draws=DRAWS, seed=self.seed
            )
        except InputError as error:
            return [self._none(score, types.column, 0.0, n, str(error)) for score in (SELECTIVITY, CONTROL_TASK)]
        sd, mean = float(found.control.std(ddof=1)), float(found.control.mean())
        return [
            self._score(SELECTIVITY, types.column, found.selectivity.value, 0.0, n, found.selectivity, sd=sd),
            self._score(CONTROL_TASK, types.column, mean, chance, n, sd=sd),
        ]

    def _score(
        self,
        score: str,
        about: str,
        value: float,
        reference: float,
        n_images: int,
        statistic: Statistic | None = None,
        *,
        shots: int = ALL,
        sd: float = np.nan,
        note: str = "",
    ) -> Probed:
        low, high = (interval(statistic) if statistic is not None else None) or (np.nan, np.nan)
        task = self.question.task.name
        return Probed(self.row, self.member, task, score, shots, about, value, low, high, sd, reference, n_images, note, PROTOCOL)

    def _none(self, score: str, about: str, reference: float, n_images: int, reason: str) -> Probed:
        return self._score(score, about, np.nan, reference, n_images, note=f"not estimable: {reason.rstrip('.')}")


def _thinned(images: Ints) -> Ints:
    return np.asarray(images[np.linspace(0, len(images) - 1, min(len(images), MOST)).round().astype(np.int64)])


def write(folder: Path, found: Sequence[Probed]) -> None:
    """Publish `probing.parquet`; an empty table where nothing was asked."""
    write_lines(folder / FILE, Probed, found)


def read_all(folder: Path) -> list[Probed]:
    """What the cells of one benchmark found, in order of their names; a cell that was scored before these were asked has none."""
    return lines_of_cells(folder, FILE, Probed)

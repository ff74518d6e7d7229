"""What the template prints, computed: plots per verdict and task, rows, scores and the summary of one benchmark."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from pipelines.benchmarks.card import BenchmarkCard, Task
from pipelines.benchmarks.index import Benchmark
from pipelines.embeddings import Row
from pipelines.reporting import words
from pipelines.reporting.contact import Contact, Sheet
from pipelines.reporting.lanes import Axis, Lane, Tick
from registry.evidence import Comparison, Scorecard, ScoreEntry, TaskEvidence

#: what a row without an extracted embedding is
ORACLE = "the best of a network supervised on the training images and a linear probe on all rows together"
#: order of the rows of a benchmark
ROLE_ORDER = ("encoder", "twin", "negative", "positive")
KINDS = {"twin": "Its twins", "negative": "Controls", "aside": "Shown beside, decide nothing"}


@dataclass(frozen=True)
class ForestLine:
    """One control in a forest plot."""

    control: str
    kind: str
    control_value: str
    gain: str
    interval: str
    lane: Lane


@dataclass(frozen=True)
class Forest:
    """An encoder against its controls on one task.

    Attributes:
        ticks: of the shared axis.
        zero: where a gain of 0 lies.
        band: (start, width) of the margin of equivalence.
        groups: (heading, lines) for twins, controls and what is shown beside.
        verdict: the smallest gain with its interval; None where the units are too few.
    """

    ticks: list[Tick]
    zero: str
    band: tuple[str, str]
    groups: list[tuple[str, list[ForestLine]]]
    verdict: ForestLine | None


@dataclass(frozen=True)
class UnitValue:
    """The score of one unit, where the units are too few for an interval."""

    unit: str
    value: str
    lane: Lane


@dataclass(frozen=True)
class VerdictView:
    """One encoder on one task."""

    encoder: str
    anchor: str
    evidence: TaskEvidence
    forest: Forest
    units: list[UnitValue]
    unit_ticks: list[Tick]


@dataclass(frozen=True)
class StripLine:
    """One row of the plot of all scores."""

    row: str
    role: str
    draws: str
    value: str
    interval: str
    lane: Lane


@dataclass(frozen=True)
class Strip:
    """All rows on one task by its primary metric.

    Attributes:
        metric: in words.
        ticks: of the axis.
        chance: where knowing nothing lies; "" if no row has a score.
        chance_value: what it is.
        lines: best first.
    """

    metric: str
    ticks: list[Tick]
    chance: str
    chance_value: str
    lines: list[StripLine]


@dataclass(frozen=True)
class TaskView:
    """One task with its pictures, verdicts and scores."""

    task: Task
    anchor: str
    sheet: Sheet
    verdicts: list[VerdictView]
    strip: Strip


@dataclass(frozen=True)
class RowView:
    """What one row is, and why it has no scores where it has none."""

    name: str
    role: str
    summary: str
    dim: int
    device: str
    flags: list[str]
    not_applicable: str


@dataclass(frozen=True)
class ScoreView:
    """One line of the table of all scores."""

    row: str
    role: str
    score: ScoreEntry


@dataclass(frozen=True)
class BenchmarkView:
    """Everything the report says of one benchmark."""

    card: BenchmarkCard
    data_hash: str
    notes: list[str]
    n_images: int
    n_training: int
    n_test: int
    n_units: int
    n_test_units: int
    n_folds: int
    contact: Contact
    tasks: list[TaskView]
    rows: list[RowView]
    scores: list[ScoreView]
    protocols: list[str]
    unreadable: dict[str, str]
    encoders: list[str]

    def verdict(self, task: str, encoder: str) -> VerdictView | None:
        """One cell of the summary; None where the encoder was not compared."""
        return next((v for t in self.tasks if t.task.name == task for v in t.verdicts if v.encoder == encoder), None)


def benchmark_view(benchmark: Benchmark, scorecards: Sequence[Scorecard], rows: dict[str, Row], contact: Contact, margin: float) -> BenchmarkView:
    """Put one benchmark together.

    Args:
        benchmark: the benchmark.
        scorecards: one per row, any order.
        rows: extracted rows by name.
        contact: its example images.
        margin: of equivalence, drawn in the forest plots.
    """
    cards = sorted(scorecards, key=lambda c: (ROLE_ORDER.index(c.role), c.row))
    index = benchmark.index
    test = index["fold"] >= 0
    sheets = {sheet.task: sheet for sheet in contact.sheets}
    return BenchmarkView(
        card=benchmark.card,
        data_hash=benchmark.data_hash(),
        notes=list(benchmark.card.notes),
        n_images=len(index),
        n_training=int((~test).sum()),
        n_test=int(test.sum()),
        n_units=int(index["unit"].nunique()),
        n_test_units=int(index["unit"][test].nunique()),
        n_folds=len(benchmark.folds),
        contact=contact,
        tasks=[_task(benchmark.card, task, cards, sheets[task.name], margin) for task in benchmark.card.tasks],
        rows=[_row(card, rows.get(card.row)) for card in cards],
        scores=[ScoreView(card.row, card.role, score) for card in cards for score in card.scores],
        protocols=sorted({score.protocol_id for card in cards for score in card.scores}),
        unreadable={name: why for row in rows.values() for name, why in row.manifest.unreadable.items()},
        encoders=[card.row for card in cards if card.tasks],
    )


def _task(card: BenchmarkCard, task: Task, scorecards: Sequence[Scorecard], sheet: Sheet, margin: float) -> TaskView:
    found = [(c.row, evidence) for c in scorecards if (evidence := c.task(task.name)) is not None]
    axis = _forest_axis([evidence for _, evidence in found], margin)
    verdicts = [_verdict(card.name, encoder, evidence, axis, margin) for encoder, evidence in found]
    return TaskView(task, f"{card.name}--{task.name}", sheet, verdicts, _strip(task, scorecards))


def _verdict(benchmark: str, encoder: str, evidence: TaskEvidence, axis: Axis, margin: float) -> VerdictView:
    units = Axis.around([0.0, 1.0])
    return VerdictView(
        encoder,
        f"{benchmark}--{evidence.task}--{encoder}",
        evidence,
        _forest(evidence, axis, margin),
        [UnitValue(unit, words.number(value), units.lane(value)) for unit, value in sorted(evidence.per_unit.items())],
        units.ticks(),
    )


def _forest_axis(found: Sequence[TaskEvidence], margin: float) -> Axis:
    """One axis for all encoders of a task, so that their plots can be compared."""
    ends = [v for e in found for c in e.comparisons for v in (c.gain, c.low, c.high)] + [v for e in found for v in (e.gain, e.low, e.high)]
    return Axis.around([*ends, -margin, margin])


def _forest(evidence: TaskEvidence, axis: Axis, margin: float) -> Forest:
    groups = [(heading, [_line(c, axis) for c in _ordered(evidence.comparisons, kind)]) for kind, heading in KINDS.items()]
    verdict = (
        ForestLine(
            evidence.against,
            "smallest",
            "",
            words.signed(evidence.gain),
            words.interval(evidence.low, evidence.high),
            axis.lane(evidence.gain, evidence.low, evidence.high),
        )
        if evidence.gain is not None and evidence.low is not None
        else None
    )
    return Forest(axis.ticks(signed=True), axis.at(0.0), axis.span(-margin, margin), [(h, lines) for h, lines in groups if lines], verdict)


def _ordered(comparisons: Sequence[Comparison], kind: str) -> list[Comparison]:
    """Strongest control first."""
    return sorted((c for c in comparisons if c.role == kind), key=lambda c: (c.gain, c.control))


def _line(comparison: Comparison, axis: Axis) -> ForestLine:
    return ForestLine(
        comparison.control,
        comparison.role,
        words.number(comparison.control_value),
        words.signed(comparison.gain),
        words.interval(comparison.low, comparison.high),
        axis.lane(comparison.gain, comparison.low, comparison.high),
    )


def _strip(task: Task, scorecards: Sequence[Scorecard]) -> Strip:
    found = [(card, s) for card in scorecards for s in card.scores if s.task == task.name and s.metric == task.metric]
    found.sort(key=lambda pair: (-pair[1].value, pair[0].row, pair[1].variant))
    axis = Axis.around([v for _, s in found for v in (s.value, s.low, s.high, s.chance)])
    chance = found[0][1].chance if found else None
    return Strip(
        words.metric(task.metric),
        axis.ticks(),
        "" if chance is None else axis.at(chance),
        words.number(chance, 2),
        [
            StripLine(card.row, card.role, draws(s), words.number(s.value), words.interval(s.low, s.high), axis.lane(s.value, s.low, s.high))
            for card, s in found
        ],
    )


def draws(score: ScoreEntry) -> str:
    """ "fresh, 10 draws, sd 0.021", "" for a row of one draw."""
    several = [f"{score.members} draws", f"sd {words.number(score.sd_members)}"] if score.members > 1 else []
    return ", ".join([*([score.variant] if score.variant else []), *several])


def _row(card: Scorecard, extracted: Row | None) -> RowView:
    manifest = extracted.manifest if extracted is not None else None
    summary = str(manifest.card.get("summary", "")) if manifest is not None else ORACLE if card.row == "oracle" else ""
    return RowView(
        card.row,
        card.role,
        re.sub(r"\.$", "", summary),
        manifest.dim if manifest is not None else 0,
        f"{manifest.device}, {manifest.precision}" if manifest is not None and manifest.dim else "",
        card.flags,
        card.not_applicable or (manifest.not_applicable if manifest is not None else ""),
    )

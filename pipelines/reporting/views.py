"""What the template prints, computed: plots per verdict and task, rows, scores and the summary of one benchmark."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipelines.benchmarks.card import BenchmarkCard, Task
from pipelines.benchmarks.index import Benchmark
from pipelines.beside.knowledge import Knowledge
from pipelines.beside.probing import Probed
from pipelines.beside.replicates import Replicates
from pipelines.embeddings import Row
from pipelines.reporting import words
from pipelines.reporting.contact import Contact, Sheet
from pipelines.reporting.expression import ExpressionView
from pipelines.reporting.known import KnownTable, known_table
from pipelines.reporting.ladders import LadderView
from pipelines.reporting.lanes import Axis, Lane, Tick
from pipelines.reporting.plots import Forest, Strip, forest, forest_axis, strip
from pipelines.reporting.probing import ProbingView, probing_view
from pipelines.scores import Confound
from registry.evidence import Scorecard, ScoreEntry, TaskEvidence
from registry.licences import may_pass_on

#: what a row without an extracted embedding is
ORACLE = "the best of every row alone and of all rows together, chosen for each task on the training images"
#: the place on the plate alone
LAYOUT = "layout"
#: the score of reading a column from the vectors
DECODING = "decoding"
#: order of the rows of a benchmark
ROLE_ORDER = ("encoder", "twin", "negative", "positive")


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
class Decoded:
    """The score of one encoder on a nuisance, which is shown and not judged, beside what the place on the plate alone gives.

    Attributes:
        encoder: its name.
        value: its score.
        interval: of it; "" where the units do not allow one.
        layout: the score of `layout`; "" where it has none.
        chance: of knowing nothing.
    """

    encoder: str
    value: str
    interval: str
    layout: str
    chance: str


@dataclass(frozen=True)
class TaskView:
    """One task with its pictures, verdicts and scores; `decoded` is {} unless the task is a nuisance."""

    task: Task
    anchor: str
    sheet: Sheet
    verdicts: list[VerdictView]
    decoded: dict[str, Decoded]
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
    """One line of the table of all scores; `narrow` is the same score at the common dimension, None where it was not run again."""

    row: str
    role: str
    score: ScoreEntry
    narrow: ScoreEntry | None


@dataclass(frozen=True)
class ConfoundCell:
    """One score; "" where it is not estimable, and `title` says why."""

    value: str
    reference: str
    title: str


@dataclass(frozen=True)
class ConfoundTable:
    """How much of each row is batch and place.

    Attributes:
        batch: what the batch is: "plate", "batch", or the unit.
        headings: (text, what more of the batch does to it) of each column.
        lines: (row, its cells), in the order of the page.
        reasons: what is not estimable in any row, and why.
    """

    batch: str
    headings: list[tuple[str, str]]
    lines: list[tuple[str, list[ConfoundCell]]]
    reasons: list[str]


@dataclass(frozen=True)
class ReplicateLine:
    """What the questions about replicates found of one row.

    Attributes:
        row: its name.
        answers: by question (value, what stands beside it, why there is none): share found, the same by copairs, ties, drop.
        replicating: percent replicating.
        controls: (the same of control wells by position, of how many positions or why there is none).
    """

    row: str
    answers: list[tuple[str, str, str]]
    replicating: str
    controls: tuple[str, str]


@dataclass(frozen=True)
class ReplicateTable:
    """The questions that were asked of a screen's rows, and what is not estimable in any of them."""

    questions: list[str]
    treatments: int
    lines: list[ReplicateLine]
    reasons: list[str]


@dataclass(frozen=True)
class BenchmarkView:
    """Everything the report says of one benchmark; `ladder` is None where nothing was asked about its metrics."""

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
    confounds: ConfoundTable | None
    replicates: ReplicateTable | None
    probing: ProbingView | None
    expression: ExpressionView | None
    known: KnownTable | None
    protocols: list[str]
    unreadable: dict[str, str]
    encoders: list[str]
    ladder: LadderView | None

    @property
    def withheld(self) -> str:
        """Why the pictures of the benchmark's images may not be passed on, as a clause; "" where they may or there are none."""
        permission = may_pass_on(self.card.licence)
        return "" if permission.allowed or not self.card.image.present else permission.reason

    def verdict(self, task: str, encoder: str) -> VerdictView | None:
        """One cell of the summary; None where the encoder was not compared."""
        return next((v for t in self.tasks if t.task.name == task for v in t.verdicts if v.encoder == encoder), None)


def benchmark_view(
    benchmark: Benchmark,
    scorecards: Sequence[Scorecard],
    rows: dict[str, Row],
    contact: Contact,
    margin: float,
    confounds: Sequence[Confound] = (),
    ladder: LadderView | None = None,
    replicates: Sequence[Replicates] = (),
    probing: Sequence[Probed] = (),
    expression: ExpressionView | None = None,
    known: Sequence[Knowledge] = (),
) -> BenchmarkView:
    """Put one benchmark together.

    Args:
        benchmark: the benchmark.
        scorecards: one per row, any order.
        rows: extracted rows by name.
        contact: its example images.
        margin: of equivalence, drawn in the forest plots.
        confounds: how much of each row is batch and place.
        ladder: what was found about its metrics.
        replicates: the questions about replicates, of a screen.
        probing: how soon and how plainly each task can be read from each row.
        expression: what the rows say of gene expression.
        known: those about what is known of its perturbations.
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
        scores=[ScoreView(card.row, card.role, score, _narrow(card, score)) for card in cards for score in card.scores],
        confounds=_confounds([card.row for card in cards], confounds),
        replicates=_replicates([card.row for card in cards], replicates),
        probing=probing_view(cards, probing, [task.name for task in benchmark.card.tasks]),
        expression=expression,
        known=known_table([card.row for card in cards], known),
        protocols=sorted({score.protocol_id for card in cards for score in [*card.scores, *card.at_common_dim]}),
        unreadable={name: why for row in rows.values() for name, why in row.manifest.unreadable.items()},
        encoders=[card.row for card in cards if card.tasks],
        ladder=ladder,
    )


def _task(card: BenchmarkCard, task: Task, scorecards: Sequence[Scorecard], sheet: Sheet, margin: float) -> TaskView:
    found = [(c.row, evidence) for c in scorecards if (evidence := c.task(task.name)) is not None]
    axis = forest_axis([evidence for _, evidence in found], margin)
    verdicts = [_verdict(card.name, encoder, evidence, axis, margin) for encoder, evidence in found]
    decoded = _decoded(task, scorecards) if task.nuisance else {}
    return TaskView(task, f"{card.name}--{task.name}", sheet, verdicts, decoded, strip(task, scorecards))


def _confounds(rows: Sequence[str], found: Sequence[Confound]) -> ConfoundTable | None:
    """One line per row; a score that is not estimable in any row is a reason instead of a column. None where nothing was computed."""
    if not found:
        return None
    by_row = {(c.row, c.score, c.column): c for c in found}
    keys = list(dict.fromkeys((c.score, c.column) for c in found))
    known = [key for key in keys if any(not c.note for c in found if (c.score, c.column) == key)]
    reasons: dict[str, list[str]] = {}
    for key in (key for key in keys if key not in known):
        why = next(c.note for c in found if (c.score, c.column) == key)
        reasons.setdefault(why, []).append(_heading(*key)[0])
    return ConfoundTable(
        batch=next((c.column for c in found if c.score != DECODING), ""),
        headings=[_heading(*key) for key in known],
        lines=[(row, [_confound(by_row.get((row, *key))) for key in known]) for row in rows if any(c.row == row for c in found)],
        reasons=[f"{', '.join(scores)}: {why}" for why, scores in reasons.items()],
    )


def _replicates(rows: Sequence[str], found: Sequence[Replicates]) -> ReplicateTable | None:
    """One line per row that was asked; a question that is estimable in none is a reason instead of a column. None where nothing was asked."""
    if not found:
        return None
    known = [q for q in dict.fromkeys(r.question for r in found) if any(r.question == q and not r.note for r in found)]
    by_row = {(r.row, r.question): r for r in found}
    reasons = [f"{q}: {next(r.note for r in found if r.question == q)}" for q in dict.fromkeys(r.question for r in found) if q not in known]
    drops = {r.drop_note for r in found if r.drop_note}
    reasons += [f"The drop is {note}" for note in sorted(drops)]
    floors = [(r.question, words.floor_of_found(r.least, r.treatments, "treatments")) for r in found]
    reasons += [
        f"{', '.join(dict.fromkeys(question for question, said in floors if said == floor))}: {floor}"
        for floor in sorted({floor for _, floor in floors if floor})
    ]
    positions = {r.row: r for r in found}
    if all(r.controls_note for r in positions.values()):
        reasons += [f"Control wells by position: {note}" for note in sorted({r.controls_note for r in positions.values()})]
    asked = [row for row in rows if any((row, q) in by_row for q in known)]
    lines = [(row, [by_row.get((row, q)) for q in known]) for row in asked]
    return ReplicateTable(
        questions=known,
        treatments=max((r.treatments for r in found), default=0),
        lines=[ReplicateLine(row, [_answer(one) for one in answers], _replicating(answers), _controls(positions[row])) for row, answers in lines],
        reasons=reasons,
    )


def _answer(found: Replicates | None) -> tuple[str, str, str]:
    if found is None or found.note:
        return "", "", found.note if found else ""
    shares = ((found.significant, "{:.0%} found"), (found.copairs, "{:.0%} by copairs (parity)"), (found.ties, "{:.0%} tied"))
    beside = [said.format(share) for share, said in shares if not np.isnan(share)]
    return (
        words.number(found.value),
        ", ".join(beside + ([] if np.isnan(found.drop) else [words.elsewhere(found.drop, found.drop_share)])),
        "",
    )


def _replicating(found: Sequence[Replicates | None]) -> str:
    return next((f"{r.replicating:.0%}" for r in found if r is not None and not np.isnan(r.replicating)), "–")


def _controls(found: Replicates) -> tuple[str, str]:
    if np.isnan(found.controls_replicating):
        return "", found.controls_note
    return f"{found.controls_replicating:.0%}", f"of {found.control_positions} positions"


def _heading(score: str, column: str) -> tuple[str, str]:
    return (f"{column} decoded", words.CONFOUNDS[DECODING]) if score == DECODING else (score, words.CONFOUNDS[score])


def _confound(found: Confound | None) -> ConfoundCell:
    if found is None or found.note:
        return ConfoundCell("", "", found.note if found else "")
    interval = words.interval(found.low, found.high) if np.isfinite(found.low) else ""
    reference = words.number(found.reference) if np.isfinite(found.reference) else ""
    return ConfoundCell(words.number(found.value), reference, f"{found.n_images} images{f', interval {interval}' if interval else ''}")


def _decoded(task: Task, scorecards: Sequence[Scorecard]) -> dict[str, Decoded]:
    found = {(c.row, c.role): s for c in scorecards for s in c.scores if (s.task, s.metric) == (task.name, task.metric)}
    layout = next((words.number(s.value) for (row, _), s in found.items() if row == LAYOUT), "")
    return {
        row: Decoded(row, words.number(s.value), words.interval(s.low, s.high), layout, words.number(s.chance, 2))
        for (row, role), s in found.items()
        if role == "encoder"
    }


def _verdict(benchmark: str, encoder: str, evidence: TaskEvidence, axis: Axis, margin: float) -> VerdictView:
    units = Axis.around([0.0, 1.0])
    return VerdictView(
        encoder,
        f"{benchmark}--{evidence.task}--{encoder}",
        evidence,
        forest(evidence, axis, margin),
        [UnitValue(unit, words.number(value), units.lane(value)) for unit, value in sorted(evidence.per_unit.items())],
        units.ticks(),
    )


def _narrow(card: Scorecard, score: ScoreEntry) -> ScoreEntry | None:
    return next((s for s in card.at_common_dim if (s.task, s.metric, s.variant) == (score.task, score.metric, score.variant)), None)


def _row(card: Scorecard, extracted: Row | None) -> RowView:
    manifest = extracted.manifest if extracted is not None else None
    summary = str(manifest.card.get("summary", "")) if manifest is not None else ORACLE if card.row == "oracle" else ""
    not_applicable = card.not_applicable or (manifest.not_applicable if manifest is not None else "")
    # the card of a control that does not apply has the reason for a summary
    repeated = not_applicable and not_applicable in summary
    return RowView(
        card.row,
        card.role,
        "" if repeated else summary.rstrip("."),
        manifest.dim if manifest is not None else 0,
        f"{manifest.device}, {manifest.precision}" if manifest is not None and manifest.dim else "",
        card.flags,
        not_applicable,
    )

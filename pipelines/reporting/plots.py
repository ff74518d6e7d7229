"""The two plots of the report as lines on one axis: an encoder against its controls, and all rows of a task."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pipelines.benchmarks.card import Task
from pipelines.reporting import words
from pipelines.reporting.lanes import Axis, Lane, Tick
from registry.evidence import Comparison, Scorecard, ScoreEntry, TaskEvidence

KINDS = {"twin": "Its twins", "negative": "Controls", "aside": "Shown beside, decide nothing"}


@dataclass(frozen=True)
class ForestLine:
    """One control in a forest plot.

    Attributes:
        control: its name; of the line of the verdict the control that gives the smallest gain.
        kind: "twin", "negative", "aside" or "smallest".
        control_value: its score.
        gain: encoder minus control.
        interval: of one more draw, for a control of several draws; of the line of the verdict the one that decided its word.
        lane: the same drawn.
        mean: the interval over the mean of several draws; "" for a single row.
        mean_lane: the same drawn; None likewise.
    """

    control: str
    kind: str
    control_value: str
    gain: str
    interval: str
    lane: Lane
    mean: str = ""
    mean_lane: Lane | None = None


@dataclass(frozen=True)
class Forest:
    """An encoder against its controls on one task.

    Attributes:
        ticks: of the shared axis.
        zero: where a gain of 0 lies.
        band: (start, width) of the margin of equivalence.
        groups: (heading, lines) for twins, controls and what is shown beside.
        verdict: the smallest gain with its interval; None where the units are too few.
        by_mean: the verdict's interval is over the means of the twins' draws.
    """

    ticks: list[Tick]
    zero: str
    band: tuple[str, str]
    groups: list[tuple[str, list[ForestLine]]]
    verdict: ForestLine | None
    by_mean: bool


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


def forest_axis(found: Sequence[TaskEvidence], margin: float) -> Axis:
    """One axis for all encoders of a task, so that their plots can be compared."""
    ends = [v for e in found for c in e.comparisons for v in (c.gain, c.low, c.high, c.low_of_mean, c.high_of_mean)]
    return Axis.around([*ends, *(v for e in found for v in (e.gain, *e.interval)), -margin, margin])


def forest(evidence: TaskEvidence, axis: Axis, margin: float) -> Forest:
    """One encoder against each of its controls, strongest first."""
    groups = [(heading, [_line(c, axis) for c in _ordered(evidence.comparisons, kind)]) for kind, heading in KINDS.items()]
    low, high = evidence.interval
    verdict = (
        ForestLine(
            evidence.against,
            "smallest",
            "",
            words.signed(evidence.gain),
            words.interval(low, high),
            axis.lane(evidence.gain, low, high),
        )
        if evidence.gain is not None and low is not None
        else None
    )
    shown = [(heading, lines) for heading, lines in groups if lines]
    return Forest(axis.ticks(signed=True), axis.at(0.0), axis.span(-margin, margin), shown, verdict, evidence.by_mean)


def _ordered(comparisons: Sequence[Comparison], kind: str) -> list[Comparison]:
    return sorted((c for c in comparisons if c.role == kind), key=lambda c: (c.gain, c.control))


def _line(comparison: Comparison, axis: Axis) -> ForestLine:
    low, high = comparison.low_of_mean, comparison.high_of_mean
    return ForestLine(
        comparison.control,
        comparison.role,
        words.number(comparison.control_value),
        words.signed(comparison.gain),
        words.interval(comparison.low, comparison.high),
        axis.lane(comparison.gain, comparison.low, comparison.high),
        words.interval(low, high) if comparison.several else "",
        axis.lane(comparison.gain, low, high) if comparison.several else None,
    )


def strip(task: Task, scorecards: Sequence[Scorecard]) -> Strip:
    """Every row on one task, best first."""
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

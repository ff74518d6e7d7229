"""The gate: a pure function from evidence to a decision. An alias moves only when it passes.

An encoder passes if

- on at least one task, after Holm over all its tasks, it beats its twins and every negative control (`layout` is a
  confound, not a control to beat);
- on no task the smallest upper bound of its gains lies below -`max_loss`;
- its ONNX file computes what its source computes;
- none of its evidence is stale.

A benchmark on which `layout` beats the encoder is confounded: its tasks support no promotion, their losses still count.
Controls are never promoted, the positive ones neither. A loss that the evidence does not exclude is said.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from registry.errors import InputError
from registry.evidence import Comparison, Scorecard, TaskEvidence
from registry.export import parity_faults
from registry.staleness import Staleness

ALPHA = 0.025
MAX_LOSS = 0.02
LAYOUT = "layout"
#: what a comparison must be for its outcome to count
DECIDING = ("twin", "negative")


@dataclass(frozen=True)
class TaskLine:
    """What the gate read from one task.

    Attributes:
        benchmark: name.
        task: name.
        p: largest one-sided p over twins and negative controls (intersection-union), 1 if one is not assessable.
        p_holm: after Holm over the encoder's tasks.
        beats: p_holm is at most alpha, on a benchmark that is not confounded.
        smallest_low: smallest lower bound of the gains; None if not assessable.
        smallest_high: smallest upper bound at alpha / m; None if not assessable.
        against: the control with the smallest upper bound, or the one that could not be assessed.
        loses: the smallest upper bound is below -max_loss.
        loss_excluded: the smallest lower bound is at least -max_loss.
        confounded: `layout` beats the encoder on the benchmark.
    """

    benchmark: str
    task: str
    p: float
    p_holm: float
    beats: bool
    smallest_low: float | None
    smallest_high: float | None
    against: str
    loses: bool
    loss_excluded: bool
    confounded: bool


@dataclass(frozen=True)
class Decision:
    """Whether a version may be promoted, and why.

    Attributes:
        passed: the alias may move.
        reasons: sentences; what refused it, or what carries it, then what is not excluded.
        tasks: one line per task.
        alpha: one-sided level of Holm.
        max_loss: largest loss that is tolerated.
    """

    passed: bool
    reasons: tuple[str, ...]
    tasks: tuple[TaskLine, ...]
    alpha: float
    max_loss: float

    @property
    def word(self) -> str:
        """ "promoted" or "refused"."""
        return "promoted" if self.passed else "refused"

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {"decision": self.word, **asdict(self)}


def decide(
    scorecards: Sequence[Scorecard],
    parity: dict[str, Any],
    max_loss: float = MAX_LOSS,
    alpha: float = ALPHA,
    staleness: Mapping[str, Staleness] | None = None,
) -> Decision:
    """Whether the evidence carries a promotion.

    Args:
        scorecards: all current scorecards of one version, one per benchmark.
        parity: `registry.export.ExportReport.as_dict()` of its ONNX file; {} if there is none.
        max_loss: largest loss that is tolerated, on the scale of the scores.
        alpha: one-sided level; Holm runs over all tasks of all scorecards.
        staleness: by benchmark, what is known about the evidence.

    Raises:
        InputError: no scorecard, two of one benchmark, scorecards of several rows, or a negative `max_loss`.
    """
    _check(scorecards, max_loss)
    lines = task_lines(scorecards, max_loss, alpha)
    known = staleness or {}
    refusals = [*_role_refusal(scorecards[0]), *_stale(known), *_refusals(scorecards, lines, alpha, max_loss), *parity_faults(parity)]
    carried = [] if refusals else [_carries(line, len(lines)) for line in lines if line.beats]
    reasons = (*(refusals or carried), *_remarks(lines, max_loss), *_unchecked(known))
    return Decision(not refusals, reasons, lines, alpha, max_loss)


def task_lines(scorecards: Sequence[Scorecard], max_loss: float = MAX_LOSS, alpha: float = ALPHA) -> tuple[TaskLine, ...]:
    """Every task of one encoder as the gate sees it, Holm over all of them.

    A task that is not assessable counts as p = 1: it was declared, so it stays in the family.
    """
    found = [(scorecard, task) for scorecard in scorecards for task in scorecard.tasks]
    confounded = {scorecard.benchmark for scorecard, task in found if task.confounded}
    p_values = [_largest_p(task) for _, task in found]
    adjusted = holm(p_values)
    return tuple(
        _line(scorecard.benchmark, task, p, p_holm, scorecard.benchmark in confounded, max_loss, alpha)
        for (scorecard, task), p, p_holm in zip(found, p_values, adjusted, strict=True)
    )


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjusted p-values (Holm 1979), in the order given."""
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    adjusted, largest = [1.0] * len(p_values), 0.0
    for rank, i in enumerate(order):
        largest = max(largest, min(1.0, p_values[i] * (len(p_values) - rank)))
        adjusted[i] = largest
    return adjusted


def _check(scorecards: Sequence[Scorecard], max_loss: float) -> None:
    rows, benchmarks = {s.row for s in scorecards}, [s.benchmark for s in scorecards]
    if len(rows) != 1 or len(set(benchmarks)) < len(benchmarks):
        raise InputError(f"Expected scorecards of one row, one per benchmark, got rows {sorted(rows)} on benchmarks {benchmarks}.")
    if max_loss < 0:
        raise InputError(f"Expected a `max_loss` of at least 0, got {max_loss}.")


def _deciding(task: TaskEvidence) -> list[Comparison]:
    return [c for c in task.comparisons if c.role in DECIDING and c.control != LAYOUT]


def _largest_p(task: TaskEvidence) -> float:
    comparisons = _deciding(task)
    if {c.role for c in comparisons} != set(DECIDING):
        return 1.0  # without twins, or without any control, there is nothing it could have beaten
    return max(1.0 if c.p is None else c.p for c in comparisons)


def _line(benchmark: str, task: TaskEvidence, p: float, p_holm: float, confounded: bool, max_loss: float, alpha: float) -> TaskLine:
    comparisons = _deciding(task)
    lows = [c.low for c in comparisons if c.low is not None]
    highs = [(c.high_corrected, c.control) for c in comparisons if c.high_corrected is not None]
    assessed = len(lows) == len(highs) == len(comparisons) > 0
    smallest_high, against = min(highs) if highs else (None, next((c.control for c in comparisons), ""))
    return TaskLine(
        benchmark=benchmark,
        task=task.task,
        p=p,
        p_holm=p_holm,
        beats=p_holm <= alpha and not confounded,
        smallest_low=min(lows) if assessed else None,
        smallest_high=smallest_high,
        against=against,
        loses=smallest_high is not None and smallest_high < -max_loss,
        loss_excluded=assessed and min(lows) >= -max_loss,
        confounded=confounded,
    )


def _role_refusal(scorecard: Scorecard) -> list[str]:
    if scorecard.role == "encoder":
        return []
    kind = {"twin": "an untrained or shuffled twin", "positive": "a positive control"}.get(scorecard.role, "a negative control")
    return [f"`{scorecard.row}` is {kind}; controls are never promoted."]


def _stale(known: Mapping[str, Staleness]) -> list[str]:
    return [f"Its evidence on `{name}` is stale: {found.because}. Run `blankslide rescore`." for name, found in known.items() if found.stale]


def _unchecked(known: Mapping[str, Staleness]) -> list[str]:
    return [f"Whether its evidence on `{name}` is stale was not checked: {found.unchecked}." for name, found in known.items() if found.unchecked]


def _refusals(scorecards: Sequence[Scorecard], lines: Sequence[TaskLine], alpha: float, max_loss: float) -> list[str]:
    reasons = [f"It does not apply to `{s.benchmark}`: {s.not_applicable}" for s in scorecards if s.not_applicable]
    if not any(line.beats for line in lines):
        reasons += [*_confounds(lines), _closest(lines, alpha)]
    reasons += [
        f"On `{line.task}` it loses more than {max_loss:g} to `{line.against}`: the upper bound of its gain is {line.smallest_high:.3f}."
        for line in lines
        if line.loses
    ]
    return reasons


def _confounds(lines: Sequence[TaskLine]) -> list[str]:
    names = sorted({line.benchmark for line in lines if line.confounded})
    return [
        f"`{name}` is confounded: `{LAYOUT}` (plate, row and column alone) beats the encoder there, so it supports no promotion." for name in names
    ]


def _closest(lines: Sequence[TaskLine], alpha: float) -> str:
    refusal = "On no task does it beat its twins and every negative control."
    if not lines:
        return f"{refusal} It has no verdict on any task."
    best = min(lines, key=lambda line: (line.confounded, line.p_holm))
    return f"{refusal} The closest is `{best.task}`: p = {best.p_holm:.3g} after Holm over {_count(len(lines))}, at most {alpha:g} is needed."


def _carries(line: TaskLine, family: int) -> str:
    return (
        f"On `{line.task}` ({line.benchmark}) it beats its twins and every negative control:"
        f" p = {line.p_holm:.3g} after Holm over {_count(family)} of this encoder."
    )


def _count(tasks: int) -> str:
    return "1 task" if tasks == 1 else f"{tasks} tasks"


def _remarks(lines: Sequence[TaskLine], max_loss: float) -> list[str]:
    remarks = _confounds(lines) if any(line.beats for line in lines) else []
    for line in lines:
        if line.smallest_low is None:
            remarks.append(f"On `{line.task}` no interval can be given, so a loss of more than {max_loss:g} is not excluded.")
        elif not line.loss_excluded and not line.loses:
            remarks.append(
                f"On `{line.task}` a loss of more than {max_loss:g} is not excluded: the lower bound of its gain is {line.smallest_low:.3f}."
            )
    return remarks

"""The verdict: one encoder against all its controls on one task, in one of five words.

- `beats`: it beats every control (intersection-union: the p is the largest p, no correction among controls).
- `loses`: the smallest upper bound at alpha / m is below 0.
- `equivalent`: the whole interval of the gain lies inside the margin.
- `undecided`: none of these; it says which difference could have been detected and how many units `equivalent` would take.
- `not assessable`: too few units, or no scatter to judge by.

The gain is the smallest gain, [smallest lower bound, smallest upper bound at alpha / m], and is biased down by the choice of the
best control. The same is said of the twins alone and of the other controls alone, because a sentence needs both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from pipelines.metrics.ceiling import ShareOfGap, share_of_gap
from pipelines.metrics.contrasts import Contrast, contrast
from pipelines.metrics.jackknife import ALPHA, mean_of
from pipelines.metrics.statistic import Statistic
from registry.errors import InputError

MARGIN = 0.02
#: below this many seeds a verdict stands, but a table of several tasks can hardly reach `beats`
SEEDS_FOR_TABLES = 10

Row = Statistic | Sequence[Statistic]


@dataclass(frozen=True)
class Comparison:
    """One line of the forest plot.

    Attributes:
        control: name of the control or of the set of twins.
        role: "twins", "control" or "aside" (shown, never part of a verdict: a confound, a positive control).
        word: the five words for this control alone.
        control_value: its statistic, the mean over its seeds.
        gain: encoder minus control.
        low: lower bound at alpha; None if not assessable, like the next six.
        high: upper bound at alpha.
        high_corrected: upper bound at alpha / m of the whole verdict.
        p: one-sided p of "the encoder is better".
        p_units: its jackknife part.
        p_seeds: its seed part; None for a single row.
        detectable: gain detected with 80 % power.
        se: jackknife standard error of the gain.
        n_seeds: k, 0 for a single row.
        sd_seeds: standard deviation over seeds.
        n_eff_needed: effective units for `equivalent` with 80 % power at a true 0; None where out of reach or not assessable.
        reason: why it is not assessable, or "".
    """

    control: str
    role: str
    word: str
    control_value: float
    gain: float
    low: float | None
    high: float | None
    high_corrected: float | None
    p: float | None
    p_units: float | None
    p_seeds: float | None
    detectable: float | None
    se: float
    n_seeds: int
    sd_seeds: float
    n_eff_needed: int | None
    reason: str


@dataclass(frozen=True)
class Finding:
    """What holds against a set of controls.

    Attributes:
        word: one of the five.
        against: the control that gives the smallest gain.
        gain: that gain.
        low: smallest lower bound at alpha; None if not assessable, like `high` and `p`.
        high: smallest upper bound at alpha / m.
        p: largest p over the set.
        m: number of controls in the set.
        negligible: the whole equivalence interval lies inside the margin, whatever the word.
        detectable: the true gain that is detected with 80 % power against each control of the set.
        n_eff_needed: effective units for `equivalent` to each; None where out of reach or not assessable.
        reason: why it is not assessable, or "".
    """

    word: str
    against: str
    gain: float
    low: float | None
    high: float | None
    p: float | None
    m: int
    negligible: bool
    detectable: float | None
    n_eff_needed: int | None
    reason: str


@dataclass(frozen=True)
class Verdict:
    """One encoder on one task.

    Attributes:
        encoder: name.
        task: name.
        metric: of the statistic.
        unit: what is left out, in words ("patient").
        value: the encoder's statistic.
        n_images: images.
        n_units: U.
        n_eff: effective number of units.
        alpha: one-sided level.
        margin: of equivalence.
        overall: against twins and controls together; its p is before any correction for several tasks.
        twins: against the sets of twins alone; None without twins.
        controls: against the other negative controls alone; None without any.
        best_control: the negative control, not a twin, with the highest statistic; "" without any.
        comparisons: every one, in the order given: twins, controls, aside.
        share_of_gap: against the best positive control; None without one.
        p_adjusted: `overall.p` after Holm; None before `holm_table` or if not assessable.
        family: how many cells Holm ran over; 1 before.
        notes: sentences that belong beside the verdict.
    """

    encoder: str
    task: str
    metric: str
    unit: str
    value: float
    n_images: int
    n_units: int
    n_eff: float
    alpha: float
    margin: float
    overall: Finding
    twins: Finding | None
    controls: Finding | None
    best_control: str
    comparisons: tuple[Comparison, ...]
    share_of_gap: ShareOfGap | None
    p_adjusted: float | None = None
    family: int = 1
    notes: tuple[str, ...] = ()

    @property
    def word(self) -> str:
        """The overall word."""
        return self.overall.word

    def comparison(self, control: str) -> Comparison:
        """The comparison with one control."""
        for found in self.comparisons:
            if found.control == control:
                return found
        raise InputError(f"`{self.encoder}` was not compared with `{control}`. It was with: {', '.join(c.control for c in self.comparisons)}.")

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def judge(
    encoder: str,
    task: str,
    metric: str,
    subject: Statistic,
    *,
    twins: Mapping[str, Sequence[Statistic]] | None = None,
    controls: Mapping[str, Row] | None = None,
    aside: Mapping[str, Row] | None = None,
    positive: Mapping[str, Statistic] | None = None,
    unit: str = "unit",
    alpha: float = ALPHA,
    margin: float = MARGIN,
) -> Verdict:
    """Reach a verdict.

    Args:
        encoder: its name.
        task: its name.
        metric: of `subject` and every other statistic here.
        subject: the encoder's statistic.
        twins: sets of seeds of the encoder's own architecture, by name ("fresh", "calibrated", "shuffled"): each must be beaten.
        controls: other negative controls, a single row or the seeds of one.
        aside: rows that are compared and shown but decide nothing (`layout`).
        positive: rows that are supposed to know the answer; compared aside, and the ceiling of the share of the gap.
        unit: what is left out, in words; "image" adds the note that such intervals are optimistic.
        alpha: one-sided level.
        margin: of equivalence, on the scale of the metric.

    Raises:
        InputError: no control at all, a name twice, or rows scored on different images.
    """
    twins, controls, aside, positive = twins or {}, controls or {}, aside or {}, positive or {}
    names = [*twins, *controls, *aside, *positive]
    if not twins and not controls:
        raise InputError(
            f"`{encoder}` on `{task}`: expected at least one control or set of twins, got none. A score without controls has no verdict."
        )
    if len(set(names)) < len(names):
        twice = ", ".join(f"`{name}`" for name in sorted({n for n in names if names.count(n) > 1}))
        raise InputError(f"`{encoder}` on `{task}`: expected each control once, got {twice} more than once.")
    of_twins = [contrast(subject, seeds, name) for name, seeds in twins.items()]
    of_controls = [contrast(subject, row, name) for name, row in controls.items()]
    of_aside = [contrast(subject, row, name) for name, row in [*aside.items(), *positive.items()]]
    m = len(of_twins) + len(of_controls)
    roles = [("twins", of_twins), ("control", of_controls), ("aside", of_aside)]
    overall = _find([*of_twins, *of_controls], alpha, margin)
    best = max(of_controls, key=lambda c: c.control_value).against if of_controls else ""
    return Verdict(
        encoder=encoder,
        task=task,
        metric=metric,
        unit=unit,
        value=subject.value,
        n_images=subject.n_images,
        n_units=subject.n_units,
        n_eff=subject.n_eff,
        alpha=alpha,
        margin=margin,
        overall=overall,
        twins=_find(of_twins, alpha, margin) if of_twins else None,
        controls=_find(of_controls, alpha, margin) if of_controls else None,
        best_control=best,
        comparisons=tuple(_line(c, role, alpha, margin, m) for role, found in roles for c in found),
        share_of_gap=_gap(subject, {**twins, **controls}, positive, alpha),
        p_adjusted=None,
        notes=tuple(_notes(unit, m, of_twins)),
    )


def holm_table(verdicts: Sequence[Verdict]) -> tuple[Verdict, ...]:
    """Correct the words of a declared table for the number of its cells (Holm 1979 on `overall.p`).

    A cell that is not assessable counts as p = 1: it was declared, so it stays in the family. `loses` and `equivalent`
    are not claims of superiority and keep their own levels.

    Args:
        verdicts: every cell of the table: encoders x tasks in a report, one encoder's tasks in a gate.
    """
    adjusted = holm([1.0 if v.overall.p is None else v.overall.p for v in verdicts])
    return tuple(_corrected(v, p, len(verdicts)) for v, p in zip(verdicts, adjusted, strict=True))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjusted p values, in the order given."""
    adjusted = [0.0] * len(p_values)
    running = 0.0
    for rank, i in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        running = max(running, min(1.0, (len(p_values) - rank) * p_values[i]))
        adjusted[i] = running
    return adjusted


def _corrected(verdict: Verdict, p: float, family: int) -> Verdict:
    found = verdict.overall
    if found.p is None:
        return replace(verdict, p_adjusted=None, family=family)
    if found.word == "beats" and p > verdict.alpha:
        found = replace(found, word="equivalent" if found.negligible else "undecided")
    return replace(verdict, overall=found, p_adjusted=p, family=family)


def _find(contrasts: Sequence[Contrast], alpha: float, margin: float) -> Finding:
    """Points 5 and 6 of the definitions on one set of controls."""
    m = len(contrasts)
    judged = [c for c in contrasts if c.assessable]
    reason = next((c.reason for c in contrasts if not c.assessable), "")
    loses = bool(judged) and min(c.high(alpha / m) for c in judged) < 0
    # a loss to one control stands whatever can be said of the others
    weakest = min(judged if loses else contrasts, key=lambda c: c.gain)
    if reason:
        word = "loses" if loses else "not assessable"
        return Finding(word, weakest.against, weakest.gain, None, None, None, m, False, None, None, reason)
    low, high = min(c.low(alpha) for c in contrasts), min(c.high(alpha / m) for c in contrasts)
    inside = -margin <= min(c.low_of_mean(alpha) for c in contrasts) and min(c.high_of_mean(alpha / m) for c in contrasts) <= margin
    p = max(c.p for c in contrasts)
    word = "beats" if p <= alpha else "loses" if loses else "equivalent" if inside else "undecided"
    return Finding(word, weakest.against, weakest.gain, low, high, p, m, inside, max(c.detectable for c in contrasts), _needed(contrasts, margin), "")


def _needed(contrasts: Sequence[Contrast], margin: float) -> int | None:
    needed = [c.n_eff_needed(margin) for c in contrasts]
    return None if any(n is None for n in needed) else max(n for n in needed if n is not None)


def _line(found: Contrast, role: str, alpha: float, margin: float, m: int) -> Comparison:
    alone = _find([found], alpha, margin)
    known = found.assessable
    return Comparison(
        control=found.against,
        role=role,
        word=alone.word,
        control_value=found.control_value,
        gain=found.gain,
        low=found.low(alpha) if known else None,
        high=found.high(alpha) if known else None,
        high_corrected=found.high(alpha / max(m, 1)) if known else None,
        p=found.p if known else None,
        p_units=found.p_units if known else None,
        p_seeds=found.p_seeds if known and found.n_seeds else None,
        detectable=found.detectable if known else None,
        se=found.estimate.se,
        n_seeds=found.n_seeds,
        sd_seeds=found.sd_seeds,
        n_eff_needed=found.n_eff_needed(margin) if known else None,
        reason=found.reason,
    )


def _gap(subject: Statistic, negative: Mapping[str, Row], positive: Mapping[str, Statistic], alpha: float) -> ShareOfGap | None:
    """The share of the gap between the best negative and the best positive control, both chosen by their statistic."""
    if not positive:
        return None
    floors = {name: row if isinstance(row, Statistic) else mean_of(row) for name, row in negative.items()}
    floor = max(floors, key=lambda name: floors[name].value)
    ceiling = max(positive, key=lambda name: positive[name].value)
    return share_of_gap(subject, floors[floor], positive[ceiling], floor, ceiling, alpha)


def _notes(unit: str, m: int, twins: Sequence[Contrast]) -> list[str]:
    notes = ["Intervals condition on the fitted probes: training variance is not in them."]
    if m > 1:
        notes.append("The gain is biased down by the choice of the best control.")
    if unit == "image":
        notes.append("Images as units: optimistic.")
    notes += [
        f"`{c.against}` has {c.n_seeds} seeds; with fewer than {SEEDS_FOR_TABLES} `beats` is nearly out of reach in a table of several tasks."
        for c in twins
        if c.n_seeds < SEEDS_FOR_TABLES
    ]
    return notes

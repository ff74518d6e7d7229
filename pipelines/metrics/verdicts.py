"""The verdict: one encoder against all its controls on one task, in one of five words.

- `beats`: it beats every control (intersection-union: the p is the largest p, no correction among controls).
- `loses`: the smallest upper bound at alpha / m is below 0.
- `equivalent`: the whole interval of the gain lies inside the margin.
- `undecided`: none of these; it says which difference could have been detected and how many units `equivalent` would take.
- `not assessable`: too few units, or no scatter to judge by.

A small sure difference is both `beats` and `equivalent`: scores say `beats` and that it is smaller than the margin, bits beyond the
controls say `equivalent` (`margin_first`, docs/decisions/0007-small-bits.md).

The gain is the smallest gain, [smallest lower bound, smallest upper bound at alpha / m], and is biased down by the choice of the
best control. Against twins there are two intervals: `beats` and `loses` ask whether the encoder is one more draw of them,
`equivalent` asks about their mean. The same is said of the twins alone and of the other controls alone, because a sentence needs both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from pipelines.metrics.ceiling import ShareOfGap, share_of_gap
from pipelines.metrics.contrasts import Contrast, contrast
from pipelines.metrics.findings import Comparison, Finding, find, line_of
from pipelines.metrics.jackknife import ALPHA, mean_of
from pipelines.metrics.statistic import Statistic
from registry.errors import InputError
from registry.gates import holm

MARGIN = 0.02
#: names the rule of the words, their intervals and p, the share of the gap and the units and seeds they ask for; a changed rule is counted up
PROTOCOL = "verdict:v1:jackknife-t:one-more-seed:intersection-union:holm:fieller"
#: below this many seeds a verdict stands, but a table of several tasks can hardly reach `beats`
SEEDS_FOR_TABLES = 10

Row = Statistic | Sequence[Statistic]


@dataclass(frozen=True)
class Verdict:
    """One encoder on one task.

    Attributes:
        encoder: name.
        task: name.
        metric: of the statistic.
        unit: what is left out, in words ("patient").
        value: the encoder's statistic, of which larger is better; NaN where it does not exist.
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
    margin_first: bool = False,
) -> Verdict:
    """Reach a verdict: points 2 to 7 of the definitions.

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
        margin_first: a difference that is certainly inside the margin is `equivalent` even where it is certainly not 0.

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
    overall = find([*of_twins, *of_controls], alpha, margin, margin_first)
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
        twins=find(of_twins, alpha, margin, margin_first) if of_twins else None,
        controls=find(of_controls, alpha, margin, margin_first) if of_controls else None,
        best_control=best,
        comparisons=tuple(line_of(c, role, alpha, margin, margin_first, m) for role, found in roles for c in found),
        share_of_gap=_gap(subject, {**twins, **controls}, positive, alpha),
        p_adjusted=None,
        notes=tuple(_notes(unit, m, of_twins, subject.inflation)),
    )


def holm_table(verdicts: Sequence[Verdict]) -> tuple[Verdict, ...]:
    """Correct the words of a declared table for the number of its cells (Holm 1979 on `overall.p`).

    A cell that is not assessable counts as p = 1: it was declared, so it stays in the family. `loses` and `equivalent`
    are not claims of superiority and keep their own levels.

    Args:
        verdicts: every cell of the table: encoders x tasks in a report, one encoder's tasks in a gate.

    Raises:
        InputError: no cell.
    """
    if not verdicts:
        raise InputError("Expected the verdicts of at least one cell, got none. An empty table has nothing to correct.")
    adjusted = holm([1.0 if v.overall.p is None else v.overall.p for v in verdicts])
    return tuple(_corrected(v, p, len(verdicts)) for v, p in zip(verdicts, adjusted, strict=True))


def _corrected(verdict: Verdict, p: float, family: int) -> Verdict:
    found = verdict.overall
    if found.p is None:
        return replace(verdict, p_adjusted=None, family=family)
    if found.word == "beats" and p > verdict.alpha:
        found = replace(found, word="equivalent" if found.negligible else "undecided")
    return replace(verdict, overall=found, p_adjusted=p, family=family)


def _gap(subject: Statistic, negative: Mapping[str, Row], positive: Mapping[str, Statistic], alpha: float) -> ShareOfGap | None:
    """The share of the gap between the best negative and the best positive control, both chosen by their statistic."""
    if not positive:
        return None
    floors = {name: row if isinstance(row, Statistic) else mean_of(row) for name, row in negative.items()}
    floor = max(floors, key=lambda name: floors[name].value)
    ceiling = max(positive, key=lambda name: positive[name].value)
    return share_of_gap(subject, floors[floor], positive[ceiling], floor, ceiling, alpha)


def _notes(unit: str, m: int, twins: Sequence[Contrast], inflation: float) -> list[str]:
    notes = []
    if inflation > 1:
        notes.append(f"Which units train a probe is luck too: variances are multiplied by {inflation:.3g} for it.")
    if m > 1:
        notes.append("The gain is biased down by the choice of the best control.")
    if not twins:
        notes.append("No untrained twins were given: what its architecture alone would score is not known, and nothing is promoted.")
    if unit == "image":
        notes.append("Images as units: optimistic.")
    notes += [
        f"`{c.against}` has {c.n_seeds} seeds; with fewer than {SEEDS_FOR_TABLES} `beats` is nearly out of reach in a table of several tasks."
        for c in twins
        if c.n_seeds < SEEDS_FOR_TABLES
    ]
    return notes

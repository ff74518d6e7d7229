"""What holds against a set of controls, in one of the five words: points 5 and 6 of the definitions.

The gain is the smallest gain, [smallest lower bound, smallest upper bound at alpha / m]. Against twins there are two intervals:
`beats` and `loses` ask whether the encoder is one more draw of them, `equivalent` asks about their mean.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipelines.metrics.contrasts import Contrast
from registry.errors import InputError


@dataclass(frozen=True)
class Comparison:
    """One line of the forest plot.

    Attributes:
        control: name of the control or of the set of twins.
        role: "twins", "control" or "aside" (shown, never part of a verdict: a confound, a positive control).
        word: the five words for this control alone.
        control_value: its statistic, the mean over its seeds; NaN where it does not exist.
        gain: encoder minus control; NaN likewise.
        low: lower bound at alpha; None if not assessable, like the next eight.
        high: upper bound at alpha.
        high_corrected: upper bound at alpha / m of the whole verdict.
        low_of_mean: lower bound at alpha of the gain over the mean of the seeds, by which `equivalent` is decided; `low` for a single row.
        high_of_mean: upper bound of it.
        p: one-sided p of "the encoder is better".
        p_units: its jackknife part.
        p_seeds: its seed part; None for a single row.
        detectable: gain detected with 80 % power.
        se: jackknife standard error of the gain; NaN where it does not exist without one of the units.
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
    low_of_mean: float | None
    high_of_mean: float | None
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
        gain: that gain; larger is better; NaN where one of the statistics does not exist.
        low: smallest lower bound at alpha; None if not assessable, like the next four.
        high: smallest upper bound at alpha / m.
        low_of_mean: as `low`, over the means of the seeds: the interval by which `equivalent` is decided.
        high_of_mean: as `high`, likewise.
        p: largest p over the set.
        m: number of controls in the set.
        negligible: the whole interval [low_of_mean, high_of_mean] lies inside the margin, whatever the word.
        detectable: the true gain that is detected with 80 % power against each control of the set.
        n_eff_needed: effective units for `equivalent` to each; None where out of reach or not assessable.
        reason: why it is not assessable, or "".
    """

    word: str
    against: str
    gain: float
    low: float | None
    high: float | None
    low_of_mean: float | None
    high_of_mean: float | None
    p: float | None
    m: int
    negligible: bool
    detectable: float | None
    n_eff_needed: int | None
    reason: str

    @property
    def by_mean(self) -> bool:
        """Whether the interval that decided is the one over the means of the seeds and differs from the other."""
        return self.word == "equivalent" and (self.low_of_mean, self.high_of_mean) != (self.low, self.high)

    @property
    def interval(self) -> tuple[float | None, float | None]:
        """The interval that decided the word: over the means of the seeds for `equivalent`, else [low, high]."""
        return (self.low_of_mean, self.high_of_mean) if self.word == "equivalent" else (self.low, self.high)


def find(contrasts: Sequence[Contrast], alpha: float, margin: float, margin_first: bool) -> Finding:
    """Points 5 and 6 of the definitions on one set of controls.

    Args:
        contrasts: the encoder against each control, at least one.
        alpha: one-sided level; upper bounds are at alpha / number of controls.
        margin: of equivalence.
        margin_first: a difference that is certainly inside the margin is `equivalent` even where it is certainly not 0.

    Raises:
        InputError: no contrast.
    """
    if not contrasts:
        raise InputError("Expected at least one control to compare with, got none. A score without controls has no verdict.")
    m = len(contrasts)
    judged = [c for c in contrasts if c.assessable]
    reason = next((c.reason for c in contrasts if not c.assessable), "")
    low_of_mean = min((c.low_of_mean(alpha) for c in judged), default=-np.inf)
    high_of_mean = min((c.high_of_mean(alpha / m) for c in judged), default=np.inf)
    inside = -margin <= low_of_mean and high_of_mean <= margin
    loses = bool(judged) and min(c.high(alpha / m) for c in judged) < 0 and not (margin_first and inside)
    # a loss to one control stands whatever can be said of the others
    weakest = min(judged if loses else contrasts, key=lambda c: c.gain)
    if reason:
        word = "loses" if loses else "not assessable"
        return Finding(word, weakest.against, weakest.gain, None, None, None, None, None, m, False, None, None, reason)
    low, high = min(c.low(alpha) for c in contrasts), min(c.high(alpha / m) for c in contrasts)
    p = max(c.p for c in contrasts)
    beats = p <= alpha and not (margin_first and inside)
    return Finding(
        word="beats" if beats else "loses" if loses else "equivalent" if inside else "undecided",
        against=weakest.against,
        gain=weakest.gain,
        low=low,
        high=high,
        low_of_mean=low_of_mean,
        high_of_mean=high_of_mean,
        p=p,
        m=m,
        negligible=inside,
        detectable=max(c.detectable for c in contrasts),
        n_eff_needed=_needed(contrasts, margin),
        reason="",
    )


def _needed(contrasts: Sequence[Contrast], margin: float) -> int | None:
    needed = [c.n_eff_needed(margin) for c in contrasts]
    return None if any(n is None for n in needed) else max(n for n in needed if n is not None)


def line_of(found: Contrast, role: str, alpha: float, margin: float, margin_first: bool, m: int) -> Comparison:
    """One contrast as a line of the forest plot, with its word alone; m is the number of controls of the whole verdict."""
    alone = find([found], alpha, margin, margin_first)
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
        low_of_mean=found.low_of_mean(alpha) if known else None,
        high_of_mean=found.high_of_mean(alpha) if known else None,
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

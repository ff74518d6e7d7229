"""One encoder against one control: a single deterministic row, or one that was drawn k times with different seeds.

Against one row the difference has a unit jackknife. Against seeds (untrained twins, random-feature networks) the null is
"the encoder is one more draw": the seeds (prediction t on k - 1) and the units (jackknife of the difference to the seeds' mean)
must both let the claim pass, and the two variances are never added, because the spread of seeds already holds unit noise.
Equivalence to seeds is about their mean and adds the variance of that mean. The obvious test against the mean of the seeds
calls 6 to 40 % of identical encoders better.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from pipelines.metrics.jackknife import ALPHA, ROUNDING, Estimate, difference, estimate, mean_of, t_quantile, t_tail, why_not_assessable
from pipelines.metrics.statistic import Statistic
from registry.errors import InputError

MIN_SEEDS = 5
#: normal quantiles of 80 % power: to show equivalence (two one-sided tests at a true 0), and to detect a difference
POWER_EQUIVALENCE, POWER_DETECTION = 1.2815515655446004, 0.8416212335729143
_MOST_UNITS = 1_000_000


@dataclass(frozen=True)
class Contrast:
    """The gain of a subject over one control.

    Attributes:
        against: the control's name.
        estimate: of subject - control (mean of its seeds); above 0 is better where a larger statistic is better.
        subject_value: the subject's statistic; NaN where it does not exist.
        control_value: the control's, or the mean of its seeds; NaN likewise.
        n_seeds: k; 0 for a single deterministic row.
        sd_seeds: standard deviation of the seeds (ddof 1); 0 for a single row.
        reason: "" or why nothing may be claimed.
    """

    against: str
    estimate: Estimate
    subject_value: float
    control_value: float
    n_seeds: int
    sd_seeds: float
    reason: str

    @property
    def assessable(self) -> bool:
        """Whether bounds and p mean anything."""
        return not self.reason

    @property
    def gain(self) -> float:
        """Subject minus control."""
        return self.estimate.value

    @property
    def p_units(self) -> float:
        """One-sided p of the unit jackknife."""
        return self.estimate.p

    @property
    def p_seeds(self) -> float:
        """One-sided p of "one more seed"; 0 for a single row, which has no seeds to be one of."""
        return t_tail(self.gain, self._sd_of_one_more_seed, self.n_seeds - 1) if self.n_seeds else 0.0

    @property
    def p(self) -> float:
        """The larger of the two."""
        return max(self.p_units, self.p_seeds)

    def low(self, alpha: float = ALPHA) -> float:
        """Lower bound of the gain at one-sided `alpha`."""
        return self.gain - self._reach(alpha)

    def high(self, alpha: float = ALPHA) -> float:
        """Upper bound of the gain at one-sided `alpha`."""
        return self.gain + self._reach(alpha)

    def low_of_mean(self, alpha: float = ALPHA) -> float:
        """Lower bound of the gain over the seeds' mean, for equivalence; the same as `low` for a single row."""
        return self.gain - self._reach_of_mean(alpha)

    def high_of_mean(self, alpha: float = ALPHA) -> float:
        """Upper bound of the gain over the seeds' mean, for equivalence."""
        return self.gain + self._reach_of_mean(alpha)

    @property
    def detectable(self) -> float:
        """The gain that these units and seeds detect with 80 % power."""
        by_units = (t_quantile(ALPHA, self.estimate.n_eff - 1) + POWER_DETECTION) * self.estimate.se
        if not self.n_seeds:
            return by_units
        return max(by_units, (t_quantile(ALPHA, self.n_seeds - 1) + POWER_DETECTION) * self._sd_of_one_more_seed)

    def n_eff_needed(self, margin: float) -> int | None:
        """The effective number of units at which `equivalent` would be reached with 80 % power at a true gain of 0.

        Smallest n with (t + z.90) sqrt(c^2 / n + s^2 / k) <= margin, where c^2 = V_J n_eff; None where the seeds alone forbid it.
        """
        lo, hi = 2, _MOST_UNITS
        if self._half_width(hi) > margin:
            return None
        while lo < hi:
            middle = (lo + hi) // 2
            lo, hi = (lo, middle) if self._half_width(middle) <= margin else (middle + 1, hi)
        return lo

    @property
    def _sd_of_one_more_seed(self) -> float:
        return self.sd_seeds * float(np.sqrt(1 + 1 / self.n_seeds))

    def _reach(self, alpha: float) -> float:
        by_units = t_quantile(alpha, self.estimate.n_eff - 1) * self.estimate.se
        if not self.n_seeds:
            return by_units
        return max(by_units, t_quantile(alpha, self.n_seeds - 1) * self._sd_of_one_more_seed)

    def _reach_of_mean(self, alpha: float) -> float:
        if not self.n_seeds:
            return self._reach(alpha)
        spread, df = self._variance_of_mean(self.estimate.variance, self.estimate.n_eff)
        return t_quantile(alpha, df) * float(np.sqrt(spread)) if spread > 0 else 0.0

    def _variance_of_mean(self, variance: float, n_eff: float) -> tuple[float, float]:
        """W = V + s^2/k and its Welch-Satterthwaite degrees of freedom."""
        seeds = self.sd_seeds**2 / self.n_seeds if self.n_seeds else 0.0
        total = variance + seeds
        if total == 0.0:
            return 0.0, n_eff - 1
        return total, total**2 / (variance**2 / (n_eff - 1) + (seeds**2 / (self.n_seeds - 1) if self.n_seeds else 0.0))

    def _half_width(self, n: int) -> float:
        spread, df = self._variance_of_mean(self.estimate.variance * self.estimate.n_eff / n, float(n))
        return (t_quantile(ALPHA, df) + POWER_EQUIVALENCE) * float(np.sqrt(spread))


def contrast(subject: Statistic, control: Statistic | Sequence[Statistic], against: str) -> Contrast:
    """Compare a row with one control on the same images: points 2 to 4 of the definitions.

    Args:
        subject: the encoder.
        control: one row, or the k seeds of one; of fewer than MIN_SEEDS nothing is claimed.
        against: the control's name.

    Raises:
        InputError: different images, units or shares; a sequence without a seed.
    """
    seeds = [] if isinstance(control, Statistic) else list(control)
    if not isinstance(control, Statistic) and not seeds:
        raise InputError(f"`{against}`: expected a row or the seeds of one, got no seed.")
    centre = control if isinstance(control, Statistic) else mean_of(seeds)
    gap = difference(subject, centre)
    found = estimate(gap)
    if found.variance == 0.0 and abs(found.value) <= ROUNDING:
        found = replace(found, value=0.0)
    sd = float(np.std([s.value for s in seeds], ddof=1)) if len(seeds) > 1 else 0.0
    reason = why_not_assessable(gap)
    if not reason and 0 < len(seeds) < MIN_SEEDS:
        reason = f"{len(seeds)} seed{'s' if len(seeds) > 1 else ''} of `{against}`, at least {MIN_SEEDS} are needed"
    if not reason and found.variance == 0.0 and found.value != 0.0:
        reason = f"the difference to `{against}` is the same whichever unit is left out, so there is no scatter to judge it by"
    return Contrast(against, found, subject.value, centre.value, len(seeds), sd if sd > ROUNDING else 0.0, reason)

"""Share of the gap between a control and a positive control that an encoder closes, with Fieller's interval."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from pipelines.metrics.interplay import second_order
from pipelines.metrics.jackknife import ALPHA, ROUNDING, covariance, difference, t_quantile, variance_of, why_not_assessable
from pipelines.metrics.statistic import Statistic


@dataclass(frozen=True)
class ShareOfGap:
    """(encoder - floor) / (ceiling - floor).

    Attributes:
        floor: name of the control below, fixed beforehand.
        ceiling: name of the positive control.
        value: the share, larger is better, 0 at the floor and 1 at the ceiling; None unless its interval is narrower than 1.
        low: lower bound; None where the ceiling is not above the floor, or the units give no interval.
        high: upper bound.
        note: "" or why there is no number.
    """

    floor: str
    ceiling: str
    value: float | None
    low: float | None
    high: float | None
    note: str

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def share_of_gap(subject: Statistic, floor: Statistic, ceiling: Statistic, floor_name: str, ceiling_name: str, alpha: float = ALPHA) -> ShareOfGap:
    """Point 7 of the definitions (Fieller 1954 with jackknife covariances, t on n_eff - 1).

    Args:
        subject: the encoder.
        floor: the control, chosen before the interval is computed (its choice is not in the interval).
        ceiling: the positive control.
        floor_name: for the result.
        ceiling_name: for the result.
        alpha: one-sided level.

    Raises:
        InputError: scored on different images.
    """
    a, g = difference(subject, floor), difference(ceiling, floor)
    reason = why_not_assessable(a) or why_not_assessable(g)
    if reason:
        return ShareOfGap(floor_name, ceiling_name, None, None, None, f"not assessable: {reason}")
    if np.ptp(a.without) <= ROUNDING and np.ptp(g.without) <= ROUNDING:
        return ShareOfGap(floor_name, ceiling_name, None, None, None, "not assessable: no scatter between units")
    q2 = t_quantile(alpha, a.n_eff - 1) ** 2
    v_aa, v_gg = variance_of(a), variance_of(g)
    v_ag = max(a.inflation, g.inflation) * (covariance(a.without, g.without) - second_order(a.pairs, g.pairs))
    if g.value <= 0 or g.value**2 <= q2 * v_gg:
        return ShareOfGap(
            floor_name, ceiling_name, None, None, None, f"ceiling not above floor: `{ceiling_name}` is not clearly above `{floor_name}`"
        )
    curve, slope, level = g.value**2 - q2 * v_gg, a.value * g.value - q2 * v_ag, a.value**2 - q2 * v_aa
    under_root = slope**2 - curve * level
    # 0 up to rounding where the share is the same without any unit
    if under_root < -ROUNDING * (slope**2 + abs(curve * level)):
        why = "not assessable: the covariance of the two differences is larger than their variances allow"
        return ShareOfGap(floor_name, ceiling_name, None, None, None, why)
    root = float(np.sqrt(max(under_root, 0.0)))
    low, high = (slope - root) / curve, (slope + root) / curve
    if high - low >= 1:
        return ShareOfGap(floor_name, ceiling_name, None, low, high, "the interval is wider than the whole gap")
    return ShareOfGap(floor_name, ceiling_name, a.value / g.value, low, high, "")

"""What pairs of units do together: the part of a retrieval score that deleting one unit at a time counts twice.

A retrieval score looks at every unit twice, as queries and as candidates. What unit u's queries and unit v's candidates do together, beyond
what each does alone, changes when u is left out and again when v is, so the delete-one jackknife counts its variance twice (Efron & Stein
1981: its variance is too large by the second order). Here that part is read off what the queries of u lose when the candidates of v are
taken out, and `jackknife.estimate` takes it from the variance once. Efron and Stein delete pairs of units, one more score for each pair; this
is a by-product of deleting one. What it does to coverage: docs/calibration.md.
"""

from __future__ import annotations

import numpy as np

from registry.arrays import Floats

#: with more units than this the second order is small beside the first, and U x U numbers are many
MOST_UNITS = 200
#: rounds of alternating means; each takes the rest down by about the largest share
_ROUNDS = 30


def interplay(lost: Floats, share: Floats) -> Floats:
    """What each pair of units does together.

    Args:
        lost: (U, U) what the statistic owes to the queries of unit u with the candidates of unit v: the sum over those queries of their value less
            their value without v, each weighted as in the statistic. The diagonal is not looked at.
        share: (U,) of the statistic, >= 0, sums to 1.

    Returns:
        (U, U) symmetric with a diagonal of 0: what is left of `lost` when each unit's part as queries and as candidates is taken out (a
        two-way fit weighted by the product of the shares), both directions of a pair added, and scaled up for what the fit took. The units of
        the statistic, mean about 0.
    """
    weight = np.outer(share, share)
    np.fill_diagonal(weight, 0.0)
    # per image, so that large units are large for their size only
    scaled = np.divide(lost, weight, out=np.zeros_like(lost), where=weight > 0)
    totals = weight.sum(axis=1)
    as_queries, as_candidates = np.zeros(len(share)), np.zeros(len(share))
    for _ in range(_ROUNDS):
        as_queries = _mean(weight * (scaled - as_candidates), totals)
        as_candidates = _mean((weight * (scaled - as_queries[:, None])).T, totals)
    rest = weight * (scaled - as_queries[:, None] - as_candidates)
    # the fit has taken one degree of freedom for each unit and role
    pairs, fitted = int((weight > 0).sum()), 2 * int((totals > 0).sum()) - 1
    return np.asarray((rest + rest.T) * np.sqrt(pairs / max(pairs - fitted, 1)))


def second_order(a: Floats | None, b: Floats | None) -> float:
    """What the jackknife covariance of two rows holds once too often: the sum over pairs of units of the product; 0 where a row has no pairs."""
    if a is None or b is None:
        return 0.0
    return float(np.sum(a * b) / 2)


def _mean(weighted: Floats, totals: Floats) -> Floats:
    found: Floats = np.divide(weighted.sum(axis=1), totals, out=np.zeros_like(totals), where=totals > 0)
    return found

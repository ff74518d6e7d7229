"""Average precision of ranked lists with ties in expectation, and what becomes of it when a unit's candidates are taken out.

Closed form (McSherry & Najork 2008): with t candidates and R positives in earlier tie groups, a group of n candidates with r
positives adds (r/n) * sum_{i=1..n} (R + 1 + (i-1)(r-1)/(n-1)) / (t+i) to M * AP, which harmonic numbers sum.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from pipelines.metrics.statistic import tally
from registry.arrays import Floats, Ints, Mask
from registry.errors import InputError


def expected_ap(n_positive: int, n_negative: int) -> float:
    """AP of a random order (mu0), 0..1, where larger is better: expected_ap(3, 32) = 0.170334, expected_ap(1, 16) = 0.202327.

    Args:
        n_positive: relevant candidates.
        n_negative: other candidates.

    Raises:
        InputError: no positive, or fewer than 0 negatives.
    """
    if n_positive < 1 or n_negative < 0:
        raise InputError(f"Expected at least one positive and no fewer than 0 negatives, got {n_positive} and {n_negative}.")
    return float(chance_ap(np.array([n_positive]), np.array([n_negative]))[0])


def tie_aware_ap(similarity: Floats, relevant: Mask) -> float:
    """Expected AP of one ranked list, largest similarity first, equal similarities in random order; 0..1, larger is better.

    Scikit-learn's `average_precision_score` agrees where nothing ties.

    Args:
        similarity: (n,) finite.
        relevant: (n,) which candidates are positives.

    Raises:
        InputError: nothing is relevant, other lengths, NaN or infinity.
    """
    similarity, relevant = np.asarray(similarity, dtype=np.float64), np.asarray(relevant, dtype=bool)
    if similarity.ndim != 1 or similarity.shape != relevant.shape or not np.isfinite(similarity).all():
        raise InputError(
            f"Expected finite similarities, one for each of {relevant.size} candidates, got shape {similarity.shape} or NaN or infinity."
        )
    if not relevant.any():
        raise InputError("Expected at least one relevant candidate, got none. Average precision does not exist for such a query.")
    _, group = np.unique(-similarity, return_inverse=True)
    items, positives = np.bincount(group), tally(group, relevant)
    return float(ap_sum(items, positives) / relevant.sum())


def ap_sum(items: Ints, positives: Floats) -> Floats:
    """M times the expected AP of tie groups (g,) with `items` places and `positives` among them, in rank order."""
    return np.asarray(contributions(items, np.cumsum(items) - items, positives).sum(axis=-1))


def contributions(items: Ints, before: Ints, positives: Floats) -> Floats:
    """What each tie group (..., g) adds to M * AP; `before` places are ahead of it, and every group with a positive is there."""
    reached = np.cumsum(positives, axis=-1)
    if items.max(initial=0) <= 1:
        return np.asarray(positives * reached / (before + 1.0))
    first, more = group_weights(items, before)
    return np.asarray(positives * (first * (reached - positives + 1) + more * (positives - 1)))


def group_weights(items: Ints, before: Ints) -> tuple[Floats, Floats]:
    """The two coefficients of a tie group's contribution r * (first * (R + 1) + more * (r - 1)) to M * AP; 0 for an empty group."""
    n = items.astype(np.float64)
    first = (n > 0) / (before + 1.0)
    if n.max(initial=0.0) <= 1:
        return first, np.zeros_like(first)
    harmonic = _harmonic(int(np.max(before + items)).bit_length())
    gained = harmonic[before + items] - harmonic[before]
    several = n > 1
    first[several] = gained[several] / n[several]
    more = np.zeros_like(first)
    more[several] = (n - (before + 1) * gained)[several] / (n * (n - 1))[several]
    return first, more


@lru_cache(maxsize=32)
def _harmonic(bits: int) -> Floats:
    """H_0 .. H_(2^bits), read-only."""
    table = np.zeros((1 << bits) + 1)
    np.cumsum(1.0 / np.arange(1, len(table)), out=table[1:])
    table.flags.writeable = False
    return table


def chance_ap(n_positive: Ints, n_negative: Ints) -> Floats:
    """Element-wise expected AP of a random order: everything in one tie group."""
    items = n_positive + n_negative
    first, more = group_weights(items, np.zeros_like(items))
    return np.asarray(first + more * (n_positive - 1), dtype=np.float64)


def sums_by_unit(group: Ints, relevant: Mask, unit: Ints, n_units: int) -> Floats:
    """(U,) M * AP without each unit: every unit's own list, for few large units."""
    items, positives = np.bincount(group), tally(group, relevant)
    contributing = np.flatnonzero(positives)
    size = n_units * len(items)
    left = items - np.bincount(unit * len(items) + group, minlength=size).reshape(n_units, len(items))
    before = (np.cumsum(left, axis=1) - left)[:, contributing]
    flat = unit[relevant] * len(items) + group[relevant]
    taken = tally(flat, size=size).reshape(n_units, len(items))[:, contributing]
    return np.asarray(contributions(left[:, contributing], before, positives[contributing] - taken).sum(axis=1))


def sums_without_ties(relevant: Mask, unit: Ints, n_units: int) -> tuple[Floats, Ints, Ints]:
    """(b, U) M * AP of b lists in which nothing ties without each unit, and how many positives and candidates of it each list has.

    A positive counts at its place among those that are left.

    Args:
        relevant: (b, n) in rank order; False where a list has ended.
        unit: (b, n); -1 where a list has ended.
        n_units: U.
    """
    each = np.arange(n_units)[:, None]
    ahead = np.cumsum(unit[:, None] == each, axis=2, dtype=np.int32)
    found = relevant.sum(axis=1)
    # places of the positives, the first places where there are fewer
    at = np.argsort(~relevant, axis=1, kind="stable")[:, : int(found.max())]
    number = np.arange(1, at.shape[1] + 1)
    own = np.where(number <= found[:, None], np.take_along_axis(unit, at, axis=1), -1)[:, None] == each
    mine = np.cumsum(own, axis=2, dtype=np.int32)
    terms = (number - mine) / np.maximum((at + 1)[:, None] - np.take_along_axis(ahead, at[:, None], axis=2), 1)
    terms[own] = 0.0
    terms *= (number <= found[:, None])[:, None]
    return terms.sum(axis=2), mine[:, :, -1].astype(np.int64), ahead[:, :, -1].astype(np.int64)


def sums_by_count(group: Ints, relevant: Mask, unit: Ints, n_units: int) -> Floats:
    """(U,) M * AP without each unit, for many small units.

    Between two of a unit's own candidates the list only moves up by the number a of its candidates before, of which b are
    positive; a group's contribution is linear in b, so prefix sums for each a give every stretch in one subtraction.
    """
    items, positives = np.bincount(group), tally(group, relevant)
    before, positives_before = np.cumsum(items) - items, np.cumsum(positives) - positives
    runs = _runs(group, relevant, unit)
    shift = np.arange(int(runs.a_after.max()) + 1)[:, None]
    first, more = group_weights(np.broadcast_to(items, (len(shift), len(items))), np.maximum(before - shift, 0))
    zero = np.zeros((len(shift), 1))
    whole = np.hstack([zero, np.cumsum(positives * (first * (positives_before + 1) + more * (positives - 1)), axis=1)])
    per_b = np.hstack([zero, np.cumsum(positives * first, axis=1)])

    def stretch(a: Ints, b: Floats, start: Ints, stop: Ints) -> Floats:
        return np.asarray(whole[a, stop] - whole[a, start] - b * (per_b[a, stop] - per_b[a, start]))

    g = runs.group
    own_first, own_more = group_weights(items[g] - runs.items, before[g] - runs.a)
    left = positives[g] - runs.positives
    own = left * (own_first * (positives_before[g] - runs.b + 1) + own_more * (left - 1))
    sums = tally(runs.unit, stretch(runs.a, runs.b, runs.start, g) + own, n_units)
    last = runs.last
    end = np.full(last.sum(), len(items))
    sums[runs.unit[last]] += stretch(runs.a_after[last], runs.b[last] + runs.positives[last], g[last] + 1, end)
    # units without a candidate in this list leave it as it is
    sums[tally(runs.unit, size=n_units) == 0] = whole[0, -1]
    return sums


@dataclass(frozen=True, eq=False)
class _Runs:
    """One entry for each (unit, tie group) that holds candidates of the unit, sorted by unit and then group.

    a and b count the unit's candidates and positives in earlier groups, `a_after` its candidates up to and with this group; `start`
    is where the stretch before this group begins; `last` marks a unit's last entry.
    """

    unit: Ints
    group: Ints
    items: Ints
    positives: Floats
    a: Ints
    a_after: Ints
    b: Floats
    start: Ints
    last: Mask


def _runs(group: Ints, relevant: Mask, unit: Ints) -> _Runs:
    by_unit = np.argsort(unit, kind="stable")
    u, g = unit[by_unit], group[by_unit]
    opens = np.concatenate([[True], (u[1:] != u[:-1]) | (g[1:] != g[:-1])])
    at = np.flatnonzero(opens)
    items = np.diff(np.concatenate([at, [len(u)]]))
    positives = np.add.reduceat(relevant[by_unit].astype(np.float64), at)
    u, g = u[at], g[at]
    new_unit = np.concatenate([[True], u[1:] != u[:-1]])
    head = np.flatnonzero(new_unit)[np.cumsum(new_unit) - 1]
    a, b = np.cumsum(items) - items, np.cumsum(positives) - positives
    a, b = a - a[head], b - b[head]
    start = np.where(new_unit, 0, np.concatenate([[0], g[:-1] + 1]))
    return _Runs(u, g, items, positives, a, a + items, b, start, np.concatenate([new_unit[1:], [True]]))

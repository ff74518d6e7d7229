"""Groups of queries, such as the replicates of a compound: their mean average precision and its p-value, under two nulls.

- `label_permutation` (the default): who belongs to the group is drawn anew among the group and its negatives, within strata (plates), and
  the draw is scored by the same rule. p = (1 + draws at or above the group) / (1 + draws) is uniform when membership is exchangeable
  within strata, whatever the size of the group and whatever ties there are.
- `copairs` (parity with copairs 0.5.5 from a fresh cache): every query gets the null of one random list, and the nulls of a group's
  queries are averaged draw by draw. Queries with as many positives and candidates share *one* null, so the average is no mean of several
  lists: for four replicates it is conservative, and averaging independent nulls instead would be anti-conservative. Reported for
  comparison with the literature, never used in a verdict.

p-values are adjusted over groups as Benjamini and Hochberg (1995) do.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.metrics.counts import check_count
from pipelines.metrics.geometry import check_features
from pipelines.metrics.pairs import Columns, PairRule, PairScores, Similarities, asked_queries, column_values, combined_codes, pair_scores
from pipelines.metrics.ranking import chance_ap, contributions
from registry.arrays import Floats, Ints, Mask
from registry.errors import InputError

#: draws that equal a group up to rounding count against it
_EQUAL = 1e-12
#: profiles of a pool up to which all its lists are held at once, and how many of their entries are scored at once
_POOL_AT_ONCE, _CELLS_AT_ONCE = 2_000, 1_000_000
#: seeds of copairs lie below this number
_COPAIRS_SEEDS = 8096


@dataclass(frozen=True)
class Groups:
    """Which queries belong together, and what a permutation leaves in place.

    Attributes:
        sameby: columns whose values name a group.
        strata: columns within whose values membership is permuted; () = anywhere. What a rule asks of these columns, of
            `pos_diffby` and of `neg_sameby` belongs to a place and stays there.
    """

    sameby: tuple[str, ...]
    strata: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class GroupScores:
    """One entry per group with a scored query, in order of name.

    Attributes:
        names: values of `sameby`, joined by ` | `.
        map: (g,) mean AP of the group's queries, 0..1, larger is better.
        normalised: (g,) mean normalised AP: 0 is chance, 1 is perfect.
        queries: (g,) scored queries.
        null: (g,) mean normalised AP of the draws: what the design alone gives, where negatives are not like positives for other reasons than the
            label; NaN where there is no p-value, and of copairs' null.
        p: (g,) one-sided; NaN where it is not estimable.
        p_adjusted: (g,) over the groups that have one.
        reasons: "" or why there is no p-value.
    """

    names: tuple[str, ...]
    map: Floats
    normalised: Floats
    queries: Ints
    null: Floats
    p: Floats
    p_adjusted: Floats
    reasons: tuple[str, ...]


#: p-value, mean of the null, and why there is none
Tested = tuple[float, float, str]
Each = Callable[[Callable[[int], Tested], Sequence[int]], Iterable[Tested]]


def group_scores(
    features: Floats,
    columns: Columns,
    rule: PairRule,
    groups: Groups,
    *,
    distance: str = "cosine",
    queries: Mask | None = None,
    n_permutations: int = 999,
    seed: int = 0,
    each: Each = map,
) -> GroupScores:
    """Score every group, with the p-value of `label_permutation`.

    The cost of a pool (a group and its negatives; groups that could take each other's places share one) is about `n_permutations` x
    the group's size x the pool's.

    Args:
        features: (n, d) finite profiles.
        columns: n values for each column that is named.
        rule: what makes a pair positive or negative.
        groups: what a group is.
        distance: "cosine" or "euclidean".
        queries: (n,) which profiles are queries, such as treated wells among control wells; None = all. A group without one is none.
        n_permutations: draws per group; no p is below 1 / (1 + draws).
        seed: of the draws, which depend on it and on how many profiles of each stratum are drawn from how many, not on which other groups there are.
            Groups that are drawn alike from the same pool share their draws.
        each: applies a function to every group, in order; one that works in parallel gives the same.

    Raises:
        InputError: as `pair_scores`; a column of `groups` is missing; a group of which some are queries and others are not; no draw.
    """
    check_count(n_permutations, "a number of permutations", instead="Every p would be 1.")
    features = check_features(features)
    scored = pair_scores(features, columns, rule, distance, queries)
    names, codes = group_codes(columns, groups.sameby, len(features))
    asked = asked_queries(queries, len(features))
    if len(mixed := np.intersect1d(codes[asked], codes[~asked])):
        raise InputError(f"Expected all profiles of a group to be queries or none, got some of `{names[mixed[0]]}`.")
    null = _PermutationNull(features, columns, rule, groups, distance)
    kept = _scored_groups(scored, codes, len(names))

    def tested(group: int) -> Tested:
        return null.test(np.flatnonzero(codes == group), n_permutations, seed)

    found = list(each(tested, kept))
    p, means = np.array([p for p, _, _ in found]), np.array([mean for _, mean, _ in found])
    return _grouped(scored, scored.normalised, codes, names, kept, p, means, tuple(reason for _, _, reason in found))


def copairs_group_scores(scored: PairScores, columns: Columns, groups: Groups, *, null_size: int = 10_000, seed: int = 0) -> GroupScores:
    """The groups of `pair_scores` or `multilabel_scores` with the p-value copairs 0.5.5 computes from a fresh cache: parity, not a verdict.

    Draws compare strictly (`>`) and in float32, as there: a group is not below a draw of the same AP. A query with positives and without a negative
    counts as perfect, as there. The draws of a configuration depend on which other configurations the call has: seeds are handed out in
    sorted order.

    Args:
        scored: every query's AP.
        columns: n values for each column of `sameby`.
        groups: `strata` says nothing here.
        null_size: draws per configuration of positives and candidates.
        seed: of the draws.

    Raises:
        InputError: no column that names a group, one that is missing or too short, no draw.
    """
    check_count(null_size, "a size of the null", instead="Every p would be 1.")
    names, codes = group_codes(columns, groups.sameby, int(max(len(values) for values in columns.values())))
    alone = (scored.n_positive > 0) & (scored.n_total == scored.n_positive)
    scored, normalised = replace(scored, ap=np.where(alone, 1.0, scored.ap)), np.where(alone, 0.0, scored.normalised)
    kept = _scored_groups(scored, codes, len(names))
    usable = ~np.isnan(scored.ap)
    configurations, which = np.unique(np.stack([scored.n_positive[usable], scored.n_total[usable]], axis=1), axis=0, return_inverse=True)
    seeds = np.random.default_rng(seed).integers(_COPAIRS_SEEDS, size=len(configurations))
    nulls = np.stack([_random_lists(int(m), int(total), null_size, int(s)) for (m, total), s in zip(configurations, seeds, strict=True)])
    of_query, ap = codes[scored.query[usable]], scored.ap[usable]
    p = np.empty(len(kept))
    for place, group in enumerate(kept):
        mine = of_query == group
        # a scalar of numpy would have the draws compared in float64, where rounding lifts some above their equal
        observed = float(ap[mine].mean())
        p[place] = (1 + int((nulls[which[mine]].mean(axis=0) > observed).sum())) / (1 + null_size)
    return _grouped(scored, normalised, codes, names, kept, p, np.full(len(kept), np.nan), ("",) * len(kept))


def _random_lists(n_positive: int, n_total: int, draws: int, seed: int) -> NDArray[np.float32]:
    """(draws,) AP of random lists, drawn and rounded as copairs does."""
    rng = np.random.default_rng(seed)
    places = np.tile(np.arange(n_total, dtype=np.uint16 if n_total < 2**16 else np.uint32), (draws, 1))
    rng.permuted(places, axis=1, out=places)
    ranks = np.sort(places[:, :n_positive], axis=1)
    hits: Any = np.arange(1, n_positive + 1, dtype=np.float32)
    precision = hits / (ranks + 1)
    return np.asarray(precision.sum(axis=1) / n_positive, dtype=np.float32)


def benjamini_hochberg(p: Floats) -> Floats:
    """(g,) p-values adjusted for the false discovery rate (Benjamini & Hochberg 1995); NaN stays NaN and counts for nothing.

    Args:
        p: (g,) p-values.

    Raises:
        InputError: something outside 0..1.
    """
    p = np.asarray(p, dtype=np.float64)
    if p.ndim != 1 or ((p < 0) | (p > 1)).any():
        raise InputError(f"Expected p-values from 0 to 1 in one row, NaN where there is none, got shape {p.shape} and {np.nanmax(p, initial=0):g}.")
    adjusted = np.full(len(p), np.nan)
    known = np.flatnonzero(~np.isnan(p))
    order = known[np.argsort(p[known], kind="stable")]
    raised = p[order] * len(order) / np.arange(1, len(order) + 1)
    adjusted[order] = np.minimum(np.minimum.accumulate(raised[::-1])[::-1], 1.0)
    return adjusted


def least_found(n: int, draws: int, rate: float) -> int:
    """The least number of groups, other than none, that `benjamini_hochberg` can find: p is never below 1 / (1 + draws), so that few alone cannot be.

    Of 320 groups and 999 draws at 5 % it is 7. It is the best case: a design with few ways to permute has a larger least p. More draws lower it.

    Args:
        n: groups that have a p.
        draws: of each null.
        rate: of false discoveries; what is found has an adjusted p below it.

    Returns:
        More than n where none can be found, however strong.

    Raises:
        InputError: no draw, fewer than 0 groups, a rate outside of 0..1.
    """
    check_count(draws, "a number of draws", instead="Every p would be 1.")
    check_count(n, "a number of groups", 0, instead="Count those that have a p.")
    if not 0 < rate <= 1:
        raise InputError(f"Expected a rate of false discoveries above 0 and at most 1, got {rate}. 0.05 is usual.")
    floor = 1 / (1 + draws)
    # the rank at which a p at the floor is adjusted to less than the rate, by the same division
    return next(k for k in range(min(max(int(floor * n / rate), 1), n + 1), n + 2) if k > n or floor * n / k < rate)


def group_codes(columns: Columns, sameby: Sequence[str], n: int) -> tuple[tuple[str, ...], Ints]:
    """Names of the groups, sorted, and (n,) which of them a profile is in.

    Args:
        columns: n values for each column of `sameby`.
        sameby: columns whose values name a group.
        n: profiles.

    Raises:
        InputError: no column, one that is missing or too short.
    """
    if not sameby:
        raise InputError("Expected at least one column that names a group, got none.")
    joined = [column_values(columns, name, n) for name in sameby]
    names, codes = np.unique([" | ".join(row) for row in zip(*joined, strict=True)], return_inverse=True)
    return tuple(names.tolist()), codes.astype(np.int64)


def _scored_groups(scored: PairScores, codes: Ints, n_groups: int) -> list[int]:
    usable = ~np.isnan(scored.ap)
    return np.flatnonzero(np.bincount(codes[scored.query[usable]], minlength=n_groups)).tolist()


def _grouped(
    scored: PairScores, each: Floats, codes: Ints, names: Sequence[str], kept: Sequence[int], p: Floats, null: Floats, reasons: tuple[str, ...]
) -> GroupScores:
    """Means over the queries of a group; `each` (q,) is the normalised AP of every query."""
    usable = ~np.isnan(scored.ap)
    of_query = codes[scored.query[usable]]
    queries = np.bincount(of_query, minlength=len(names))[kept]
    ap = np.bincount(of_query, scored.ap[usable], len(names))[kept] / queries
    normalised = np.bincount(of_query, each[usable], len(names))[kept] / queries
    return GroupScores(tuple(names[group] for group in kept), ap, normalised, queries, null, p, benjamini_hochberg(p), reasons)


@dataclass(frozen=True, eq=False)
class _Lists:
    """A pool of p profiles as each of them sees it.

    Attributes:
        places: (p, p) at which place of the list of the first the second lies, from nearest to farthest.
        similar: (p, p) whether the second may be a positive of the first.
        dissimilar: (p, p) whether it may be a negative.
        ahead: (p, p) by query and place, how many dissimilar profiles lie before.
    """

    places: Ints
    similar: Mask
    dissimilar: Mask
    ahead: Ints


class _PermutationNull:
    """Draws of who belongs to a group, each scored by the rule.

    What of the rule speaks of places (strata, `pos_diffby`, `neg_sameby`) is asked of the profiles as they are; what speaks of labels
    (the rest of `pos_sameby` and `neg_diffby`) is what a draw decides: two members agree, a member and another do not.
    """

    def __init__(self, features: Floats, columns: Columns, rule: PairRule, groups: Groups, distance: str) -> None:
        n = len(features)
        places = {*groups.strata, *rule.pos_diffby, *rule.neg_sameby}
        self._similarities = Similarities(features, distance)
        self._rule_pairs = rule.pairs(columns, n)
        self._labels = [
            (name, combined_codes(columns, (name,), n)) for name in dict.fromkeys((*rule.pos_sameby, *rule.neg_diffby)) if name not in places
        ]
        of_places = PairRule(
            tuple(c for c in rule.pos_sameby if c in places), rule.pos_diffby, rule.neg_sameby, tuple(c for c in rule.neg_diffby if c in places)
        )
        self._place_pairs = of_places.pairs(columns, n)
        self._strata = combined_codes(columns, groups.strata, n)
        self._drawn: dict[bytes, Floats | None] = {}

    def test(self, members: Ints, draws: int, seed: int) -> Tested:
        """The p-value of a group and the mean of its null, or NaN and why there is none."""
        mixed = [name for name, codes in self._labels if len(np.unique(codes[members])) > 1]
        if mixed:
            return np.nan, np.nan, f"not estimable: its members differ in `{mixed[0]}`, by which the rule tells groups apart"
        negatives = np.zeros(len(self._strata), dtype=bool)
        for query in members.tolist():
            negatives |= self._rule_pairs.negative(query)
        negatives[members] = True
        pool = np.flatnonzero(negatives)
        own = np.isin(pool, members)
        key = hashlib.sha256(pool.tobytes() + np.bincount(self._strata[members]).tobytes()).digest()
        if key not in self._drawn:
            drawn = self._draws(pool, own, draws, seed)
            self._drawn[key] = None if drawn is None else self._means(pool, drawn)
        null = self._drawn[key]
        if null is None:
            return np.nan, np.nan, "not estimable: no stratum holds a member beside a negative, so membership cannot be permuted"
        at_least = int((null >= self._means(pool, own[None])[0] - _EQUAL).sum())
        return (1 + at_least) / (1 + draws), float(null.mean()), ""

    def _draws(self, pool: Ints, own: Mask, draws: int, seed: int) -> Mask | None:
        """(draws, pool) members: as many in each stratum as the group has there; None where that leaves one way only."""
        strata = self._strata[pool]
        counts = [(int(own[strata == stratum].sum()), int((strata == stratum).sum())) for stratum in np.unique(strata)]
        rng = np.random.default_rng([seed, int.from_bytes(hashlib.sha256(repr(counts).encode()).digest()[:8], "big")])
        drawn = np.zeros((draws, len(pool)), dtype=bool)
        permuted = False
        for stratum, (taken, there) in zip(np.unique(strata), counts, strict=True):
            here = np.flatnonzero(strata == stratum)
            if taken == there:
                drawn[:, here] = True
            elif taken:
                permuted = True
                chosen = np.argpartition(rng.random((draws, there)), taken - 1, axis=1)[:, :taken]
                drawn[np.arange(draws)[:, None], here[chosen]] = True
        return drawn if permuted else None

    def _means(self, pool: Ints, drawn: Mask) -> Floats:
        """(draws,) mean normalised AP over the members that can be scored; a draw with none is at chance, 0."""
        lists = self._lists(pool) if len(pool) <= _POOL_AT_ONCE and len(drawn) > 1 else None
        sums, scored = self._at_once(lists, drawn) if lists is not None else self._one_by_one(pool, drawn)
        return np.divide(sums, scored, out=np.zeros_like(sums), where=scored > 0)

    def _lists(self, pool: Ints) -> _Lists | None:
        """The pool as each of its profiles sees it; None if any candidates tie."""
        similar, dissimilar = (
            np.stack([of(query)[pool] for query in pool.tolist()]) for of in (self._place_pairs.positive, self._place_pairs.negative)
        )
        similarity, tolerance = self._similarities.among(pool)
        candidates = similar | dissimilar
        # what is no candidate comes last, where it neither ties nor counts
        similarity[~candidates] = -np.inf
        orders = np.argsort(-similarity, axis=1, kind="stable")
        sorted_ = np.take_along_axis(similarity, orders, axis=1)
        listed = np.arange(1, len(pool)) < np.count_nonzero(candidates, axis=1)[:, None]
        with np.errstate(invalid="ignore"):  # of two that are no candidates
            if ((np.diff(sorted_, axis=1) >= -tolerance) & listed).any():
                return None
        places = np.empty_like(orders)
        np.put_along_axis(places, orders, np.arange(len(pool))[None, :], axis=1)
        apart = np.take_along_axis(dissimilar, orders, axis=1).astype(np.int32)
        return _Lists(places, similar, dissimilar, np.cumsum(apart, axis=1, dtype=np.int32) - apart)

    @staticmethod
    def _at_once(lists: _Lists, drawn: Mask) -> tuple[Floats, Floats]:
        """Sums of normalised AP and numbers of scored members of each draw, where nothing ties; every draw has as many members.

        Only the places of members are looked at, which are few in a long list: of what lies before a member all dissimilar profiles are
        negatives but those that are members themselves.
        """
        members = np.nonzero(drawn)[1].reshape(len(drawn), -1)
        unlike = np.count_nonzero(lists.dissimilar, axis=1)
        sums, scored = np.zeros(len(drawn)), np.zeros(len(drawn))
        step = max(1, _CELLS_AT_ONCE // max(members.shape[1] ** 2, 1))
        for start in range(0, len(drawn), step):
            here = members[start : start + step]
            query, other = here[:, :, None], here[:, None, :]
            place = lists.places[query, other]
            order = np.argsort(place, axis=2)
            place = np.take_along_axis(place, order, axis=2)
            positive = np.take_along_axis(lists.similar[query, other], order, axis=2)
            member = np.take_along_axis(lists.dissimilar[query, other], order, axis=2).astype(np.int64)
            reached, inside = np.cumsum(positive, axis=2, dtype=np.int64), np.cumsum(member, axis=2)
            ahead = reached + lists.ahead[query, place] - (inside - member)
            precision = np.where(positive, reached / np.maximum(ahead, 1), 0.0).sum(axis=2)
            m = reached[:, :, -1]
            negatives = unlike[here] - inside[:, :, -1]
            usable = (m > 0) & (negatives > 0)
            chance = chance_ap(m[usable], negatives[usable])
            row = np.nonzero(usable)[0] + start
            np.add.at(sums, row, (precision[usable] / m[usable] - chance) / (1 - chance))
            np.add.at(scored, row, 1)
        return sums, scored

    def _one_by_one(self, pool: Ints, drawn: Mask) -> tuple[Floats, Floats]:
        """As `_at_once`, query after query: for any ties and pools of any size."""
        sums, scored = np.zeros(len(drawn)), np.zeros(len(drawn))
        for place, query in enumerate(pool.tolist()):
            rows = np.flatnonzero(drawn[:, place])
            if not len(rows):
                continue
            similar, dissimilar = self._place_pairs.positive(query)[pool], self._place_pairs.negative(query)[pool]
            candidates = np.flatnonzero(similar | dissimilar)
            if not len(candidates):
                continue
            similarity, tolerance = self._similarities.to(query, pool[candidates])
            order = np.argsort(-similarity, kind="stable")
            candidates = candidates[order]
            opens = np.flatnonzero(np.concatenate([[True], np.diff(similarity[order]) < -tolerance]))
            inside = drawn[rows][:, candidates]
            positive = (inside & similar[candidates]).astype(np.float64)
            listed = positive + (~inside & dissimilar[candidates])
            if len(opens) < len(candidates):
                positive, listed = (np.add.reduceat(values, opens, axis=1) for values in (positive, listed))
            ap, usable = _normalised_ap(listed.astype(np.int64), positive)
            sums[rows[usable]] += ap
            scored[rows[usable]] += 1
        return sums, scored


def _normalised_ap(items: Ints, positive: Floats) -> tuple[Floats, Mask]:
    """Normalised AP of the lists that have a positive and a negative, and which these are.

    Args:
        items: (r, k) how many are listed in each tie, from nearest to farthest.
        positive: (r, k) how many of them are positive.
    """
    m, total = positive.sum(axis=1).astype(np.int64), items.sum(axis=1)
    usable = (m > 0) & (m < total)
    items, positive, m, total = items[usable], positive[usable], m[usable], total[usable]
    ap = contributions(items, np.cumsum(items, axis=1) - items, positive).sum(axis=1) / m
    chance = chance_ap(m, total - m)
    return (ap - chance) / (1 - chance), usable

"""Replicate retrieval: mean average precision with ties counted in expectation, and its permutation null.

The rule (`PROTOCOL`): each image is a query; its candidates are the images of *other* units of the same fold, ranked by euclidean
distance of the features as given; positives carry the query's label, negatives another. Candidates that tie share their places
in expectation (McSherry & Najork 2008), so a constant embedding scores chance exactly, where ranking ties positives-first, as
copairs 0.5.5 does, gives it 1.0. Without ties the AP equals copairs with `pos_sameby=[label], pos_diffby=[unit],
neg_diffby=[label, unit], distance="euclidean"`. The mean is over queries within a class, then over classes.

With `places`, positives are candidates of the query's label in another place (`OTHER_WELLS`, copairs' `pos_diffby=[unit, well]`), and those in the
query's own place are in no list: replicates in the same well of every plate are also alike if only the well leaves a trace.

The normalised AP is (AP - chance) / (1 - chance), as in copairs, but not clipped at -1: clipping lifts the mean of pure noise above 0.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipelines.metrics.counts import check_count
from pipelines.metrics.geometry import check_features
from pipelines.metrics.interplay import MOST_UNITS, interplay
from pipelines.metrics.names import whole_names
from pipelines.metrics.pairs import Similarities
from pipelines.metrics.ranking import ap_sum, chance_ap, group_weights, sums_by_count, sums_by_unit, sums_without_ties
from pipelines.metrics.statistic import Statistic, UnitIndex, check_labels, index_units, tally
from registry.arrays import Floats, Ints, Mask
from registry.errors import InputError

PROTOCOL = "retrieval/euclidean/candidates-other-units/tie-aware/v4"
#: the same with positives in other wells only
OTHER_WELLS = f"{PROTOCOL}/positives-in-other-wells/v1"
#: places x units of the lists that are looked at together
_AT_ONCE = 500_000
_NO_QUERY = "Expected an image with a positive and a negative in another unit, got none. Retrieval needs labels in at least two units."

Units = Sequence[str] | NDArray[np.str_]


@dataclass(frozen=True, eq=False)
class Retrieval:
    """Retrieval scores of one row.

    Attributes:
        map: mean AP over the queries of a class, then over classes; 0..1, larger is better. Share of unit u: mean over classes of its queries in u /
            its queries. Without unit u: u is no query and no candidate.
        normalised: the same of the normalised AP: 0 is chance, 1 is perfect.
        ap: (n,) AP per image; NaN where an image has no positive or no negative.
        chance: (n,) expected AP of a random order.
        tie_rate: mean over queries of the share of candidates that tie with another candidate.
    """

    map: Statistic
    normalised: Statistic
    ap: Floats
    chance: Floats
    tie_rate: float


@dataclass(frozen=True)
class PermutationNull:
    """Whether labels matter for retrieval beyond the unit (plate) they are on.

    Attributes:
        p: (1 + draws at or above the observed mean normalised AP) / (1 + draws); None where it is not estimable.
        observed: the mean normalised AP; larger is better, 0 is chance.
        mean: of the draws; NaN where there are none.
        sd: of the draws; NaN likewise.
        n_permutations: draws.
        reason: "" or why it is not estimable.
    """

    p: float | None
    observed: float
    mean: float
    sd: float
    n_permutations: int
    reason: str


@dataclass(frozen=True, eq=False)
class _Ranked:
    """Candidates of one query, nearest first; `group` numbers places that tie, from 0."""

    query: int
    order: Ints
    group: Ints


def has_query(labels: Ints, units: Units, folds: Ints, places: Units | None = None) -> bool:
    """Whether any image has a positive and a negative among the images of other units of its fold.

    Args:
        labels: (n,) class codes.
        units: n unit names.
        folds: (n,) as in `retrieve`.
        places: n places, as in `retrieve`.

    Raises:
        InputError: other lengths.
    """
    names, labels, folds = whole_names(units, "units"), np.asarray(labels, dtype=np.int64), np.asarray(folds, dtype=np.int64)
    if names.shape != labels.shape or folds.shape != labels.shape:
        raise InputError(f"Expected a unit and a fold for each of {len(labels)} images, got shapes {names.shape} and {folds.shape}.")
    return bool(_queries(labels, np.unique(names, return_inverse=True)[1], folds, _place_codes(places, len(labels))).any())


def retrieve(features: Floats, labels: Ints, units: Units, n_classes: int, folds: Ints | None = None, places: Units | None = None) -> Retrieval:
    """Score every image as a query.

    Args:
        features: (n, d) finite, on the scale on which distances are meant (standardised by training images).
        labels: (n,) class codes.
        units: n unit names.
        n_classes: size of the vocabulary.
        folds: (n,) candidates come from the query's own fold, for rows whose features were fitted per fold; None = one fold.
        places: n places, such as wells, in which positives must differ from the query; an image whose place is missing ("") has no positives and is
            none. None = positives lie anywhere.

    Raises:
        InputError: NaN or infinity, other lengths, or no query has both a positive and a negative.
    """
    features = check_features(features)
    index = index_units(units, len(features))
    labels = check_labels(labels, len(features), n_classes)
    ap, chance, tied = (np.full(len(features), np.nan) for _ in range(3))
    apart = _place_codes(places, len(features))
    weights = _query_weights(labels, index, folds, apart, n_classes)
    raw, normalised = _Deletions(weights, len(index.names)), _Deletions(weights, len(index.names))
    for lists in _scored_lists(features, labels, index, folds, apart):
        q, m, n = lists.queries, lists.positives.sum(axis=1), lists.negatives.sum(axis=1)
        ap[q], tied[q] = lists.ap, lists.tied
        chance[q] = chance_ap(m, n)
        m_left, n_left = m[:, None] - lists.positives, n[:, None] - lists.negatives
        left = (m_left > 0) & (n_left > 0)
        # without its own unit a query is none
        left[np.arange(len(q)), index.codes[q]] = False
        without, by_chance = lists.sums[left] / m_left[left], chance_ap(m_left[left], n_left[left])
        raw.add(labels[q], index.codes[q], ap[q], left, without)
        normalised.add(labels[q], index.codes[q], _above(ap[q], chance[q]), left, _above(without, by_chance))
    scored = ~np.isnan(ap)
    if not scored.any():
        raise InputError(_NO_QUERY)
    return Retrieval(
        map=raw.statistic(ap, labels, index),
        normalised=normalised.statistic(_above(ap, chance), labels, index),
        ap=ap,
        chance=chance,
        tie_rate=float(np.nanmean(tied)),
    )


def permutation_null(
    features: Floats,
    labels: Ints,
    units: Units,
    n_classes: int,
    *,
    strata: Units | None = None,
    folds: Ints | None = None,
    n_permutations: int = 199,
    seed: int = 0,
) -> PermutationNull:
    """Permute labels within each stratum and score again.

    Args:
        features: (n, d) as for `retrieve`.
        labels: (n,) class codes.
        units: n unit names; candidates come from other units in every draw.
        n_classes: size of the vocabulary.
        strata: labels are permuted within these; None = within units.
        folds: as for `retrieve`.
        n_permutations: draws.
        seed: of the draws.

    Returns:
        p is uniform when labels are exchangeable within strata. Where no stratum holds two labels, nothing can be permuted: p is None.

    Raises:
        InputError: as `retrieve`; no draw.
    """
    check_count(n_permutations, "a number of permutations", instead="p would be 1, and the null has no mean.")
    features = check_features(features)
    index = index_units(units, len(features))
    labels = check_labels(labels, len(features), n_classes)
    stratum = index if strata is None else index_units(strata, len(features))
    n = len(labels)
    rng = np.random.default_rng(seed)
    blocks = np.argsort(stratum.codes, kind="stable")
    drawn = np.empty((n, n_permutations + 1), dtype=np.int64)
    drawn[:, 0] = labels
    for b in range(1, n_permutations + 1):
        drawn[blocks, b] = labels[np.lexsort((rng.random(n), stratum.codes))]
    scores = _class_means(features, index.codes, folds, drawn, n_classes)
    if (stratum.counts_by_class(labels, n_classes) > 0).sum(axis=1).max() < 2:
        return PermutationNull(
            None, float(scores[0]), float("nan"), float("nan"), 0, "not estimable: no unit holds two labels, so none can be permuted"
        )
    null = scores[1:]
    # draws that equal the observed value up to rounding count against it
    p = (1 + int(np.sum(null >= scores[0] - 1e-12))) / (1 + n_permutations)
    return PermutationNull(p, float(scores[0]), float(null.mean()), float(null.std()), n_permutations, "")


@dataclass(frozen=True, eq=False)
class _Lists:
    """The ranked lists of b queries that have positives and negatives.

    Attributes:
        queries: (b,).
        ap: (b,) AP.
        tied: (b,) share of the candidates that tie with another.
        positives: (b, U) positives of each unit among the candidates.
        negatives: (b, U).
        sums: (b, U) positives x AP without each unit.
    """

    queries: Ints
    ap: Floats
    tied: Floats
    positives: Ints
    negatives: Ints
    sums: Floats


def _scored_lists(features: Floats, labels: Ints, index: UnitIndex, folds: Ints | None, places: Ints | None) -> Iterator[_Lists]:
    """The lists of all queries that can be scored; many at a time where nothing ties and there are few large units, or lists are short."""
    n, n_units = len(features), len(index.names)
    few_units = n_units <= 2 * int(index.counts().max()) or n * n_units <= 40_000
    waiting: list[_Ranked] = []
    for ranked in _rankings(features, index.codes, folds):
        if places is not None:
            ranked = _elsewhere(ranked, labels, places)
        positives = int(np.sum(labels[ranked.order] == labels[ranked.query]))
        if positives in (0, len(ranked.order)):
            continue
        if not few_units or ranked.group[-1] + 1 < len(ranked.group):
            yield _list(ranked, labels, index.codes, n_units, sums_by_unit if few_units else sums_by_count)
            continue
        waiting.append(ranked)
        if len(waiting) * n * n_units > _AT_ONCE:
            yield _lists_without_ties(waiting, labels, index.codes, n_units)
            waiting = []
    if waiting:
        yield _lists_without_ties(waiting, labels, index.codes, n_units)


def _elsewhere(ranked: _Ranked, labels: Ints, places: Ints) -> _Ranked:
    """Without candidates of the query's label that lie in its place, or of which that is not known."""
    here, there = places[ranked.query], places[ranked.order]
    kept = (labels[ranked.order] != labels[ranked.query]) | ((there >= 0) & (there != here) & (here >= 0))
    return _Ranked(ranked.query, ranked.order[kept], np.unique(ranked.group[kept], return_inverse=True)[1])


def _list(ranked: _Ranked, labels: Ints, codes: Ints, n_units: int, sums: Callable[[Ints, Mask, Ints, int], Floats]) -> _Lists:
    relevant, unit, group = labels[ranked.order] == labels[ranked.query], codes[ranked.order], ranked.group
    items, positives = np.bincount(group), tally(group, relevant)
    return _Lists(
        queries=np.array([ranked.query]),
        ap=np.array([ap_sum(items, positives) / relevant.sum()]),
        tied=np.array([items[items > 1].sum() / len(relevant)]),
        positives=np.bincount(unit[relevant], minlength=n_units)[None],
        negatives=np.bincount(unit[~relevant], minlength=n_units)[None],
        sums=sums(group, relevant, unit, n_units)[None],
    )


def _lists_without_ties(lists: list[_Ranked], labels: Ints, codes: Ints, n_units: int) -> _Lists:
    queries = np.array([ranked.query for ranked in lists])
    order = np.full((len(lists), max(len(ranked.order) for ranked in lists)), -1)
    for row, ranked in zip(order, lists, strict=True):
        row[: len(ranked.order)] = ranked.order
    relevant = (labels[order] == labels[queries][:, None]) & (order >= 0)
    unit = np.where(order >= 0, codes[order], -1)
    sums, positives, items = sums_without_ties(relevant, unit, n_units)
    reached = np.cumsum(relevant, axis=1)
    ap = np.sum(relevant * reached / np.arange(1, order.shape[1] + 1), axis=1) / reached[:, -1]
    return _Lists(queries, ap, np.zeros(len(lists)), positives, items - positives, sums)


def _above(ap: Floats, chance: Floats) -> Floats:
    """AP normalised against chance."""
    return np.asarray((ap - chance) / (1 - chance))


class _Deletions:
    """What one score of the queries becomes without each unit.

    Args:
        weights: (k,) of one query of each class in the statistic.
        n_units: U.
    """

    def __init__(self, weights: Floats, n_units: int) -> None:
        self._weights = weights
        self._sums = np.zeros((len(weights), n_units))
        self._queries = np.zeros((len(weights), n_units))
        self._lost = np.zeros((n_units, n_units)) if n_units <= MOST_UNITS else None

    def add(self, labels: Ints, own_units: Ints, whole: Floats, left: Mask, values: Floats) -> None:
        """Count some queries.

        Args:
            labels: (b,) their classes.
            own_units: (b,) their units.
            whole: (b,) their values with all units.
            left: (b, U) whether a query has positives and negatives without a unit; not without its own.
            values: their values where `left`.
        """
        without = np.zeros(left.shape)
        without[left] = values
        np.add.at(self._sums, labels, without)
        np.add.at(self._queries, labels, left)
        if self._lost is not None:
            np.add.at(self._lost, own_units, self._weights[labels][:, None] * np.where(left, whole[:, None] - without, 0.0))

    def statistic(self, per_query: Floats, labels: Ints, index: UnitIndex) -> Statistic:
        """Mean over queries and then classes; without a unit NaN where a class has lost its queries."""
        n_classes = len(self._weights)
        scored = ~np.isnan(per_query)
        counts = index.counts_by_class(labels, n_classes)
        queries = UnitIndex(index.names, index.codes[scored]).counts_by_class(labels[scored], n_classes)
        total = queries.sum(axis=0)
        seen = total > 0
        sums = tally(labels[scored], per_query[scored], n_classes)
        left = np.where(self._queries > 0, self._queries, np.nan)[seen]
        share = np.mean(queries[:, seen] / total[seen], axis=1)
        return Statistic(
            value=float(np.mean(sums[seen] / total[seen])),
            units=index.names,
            without=(self._sums[seen] / left).mean(axis=0),
            share=share,
            n_images=int(scored.sum()),
            class_in_units=int((counts > 0).sum(axis=0).min()),
            pairs=None if self._lost is None else interplay(self._lost, share),
        )


def _query_weights(labels: Ints, index: UnitIndex, folds: Ints | None, places: Ints | None, n_classes: int) -> Floats:
    """(k,) 1 / (queries of the class x classes that have queries); 0 for a class without."""
    fold = np.zeros(len(labels), dtype=np.int64) if folds is None else np.asarray(folds, dtype=np.int64)
    queries = tally(labels, _queries(labels, index.codes, fold, places), n_classes)
    weights: Floats = np.divide(1.0, queries * max((queries > 0).sum(), 1), out=np.zeros(n_classes), where=queries > 0)
    return weights


def _queries(labels: Ints, codes: Ints, folds: Ints, places: Ints | None) -> Mask:
    """(n,) which images have a positive and a negative."""
    every = np.ones(len(labels), dtype=bool)
    same_label, same_label_and_unit = _alike(every, folds, labels), _alike(every, folds, labels, codes)
    negatives = _alike(every, folds) - _alike(every, folds, codes) - (same_label - same_label_and_unit)
    positives = same_label - same_label_and_unit
    if places is not None:
        known = places >= 0
        here = _alike(known, folds, labels, places) - _alike(known, folds, labels, places, codes)
        positives = _alike(known, folds, labels) - _alike(known, folds, labels, codes) - here
    return np.asarray((positives > 0) & (negatives > 0))


def _alike(counted: Mask, *codes: Ints) -> Ints:
    """(n,) images that agree with an image in all codes, itself included; 0 for those that are not counted."""
    found = np.zeros(len(counted), dtype=np.int64)
    if counted.any():
        _, inverse, counts = np.unique(np.stack([each[counted] for each in codes]), axis=1, return_inverse=True, return_counts=True)
        found[counted] = counts[inverse.reshape(-1)]
    return found


def _place_codes(places: Units | None, n: int) -> Ints | None:
    """(n,) codes of places, -1 where one is missing; None where positives lie anywhere."""
    if places is None:
        return None
    names = whole_names(places, "places", missing="")
    if names.shape != (n,):
        raise InputError(f"Expected a place for each of {n} images, got shape {names.shape}.")
    return np.where(names == "", -1, np.unique(names, return_inverse=True)[1]).astype(np.int64)


def _rankings(features: Floats, codes: Ints, folds: Ints | None) -> Iterator[_Ranked]:
    """The ranked candidates of each query, in order."""
    fold = np.zeros(len(features), dtype=np.int64) if folds is None else np.asarray(folds, dtype=np.int64)
    if fold.shape != codes.shape:
        raise InputError(f"Expected a fold for each of {len(codes)} images, got shape {fold.shape}.")
    for query, similarity, tolerance in Similarities(features, "euclidean").each():
        candidates = np.flatnonzero((codes != codes[query]) & (fold == fold[query]))
        order = np.argsort(-similarity[candidates], kind="stable")
        near = similarity[candidates][order]
        group = np.concatenate([[0], np.cumsum(np.diff(near) < -tolerance)]) if len(near) else np.zeros(0, dtype=np.int64)
        yield _Ranked(query, candidates[order], group.astype(np.int64))


def _class_means(features: Floats, codes: Ints, folds: Ints | None, drawn: Ints, n_classes: int) -> Floats:
    """(b,) mean normalised AP, over queries and then classes, for each column of labels in `drawn` (n, b)."""
    n_draws = drawn.shape[1]
    sums, queries = np.zeros((n_classes, n_draws)), np.zeros((n_classes, n_draws))
    every = np.arange(n_draws)
    for ranked in _rankings(features, codes, folds):
        n = len(ranked.order)
        if n == 0:
            continue
        own = drawn[ranked.query]
        relevant = (drawn[ranked.order] == own).astype(np.float64)
        m = relevant.sum(axis=0).astype(np.int64)
        items = np.bincount(ranked.group)
        positives = relevant if len(items) == n else np.add.reduceat(relevant, np.cumsum(items) - items, axis=0)
        first, more = group_weights(items, np.cumsum(items) - items)
        reached = np.cumsum(positives, axis=0)
        reached *= positives
        total = first @ reached
        if len(items) < n:
            # r * (first * (R + 1) + more * (r - 1)) with R the positives before the group, not in it
            total += (more - first) @ (positives * (positives - 1))
        scored = (m > 0) & (m < n)
        chance = chance_ap(m[scored], n - m[scored])
        sums[own[scored], every[scored]] += (total[scored] / m[scored] - chance) / (1 - chance)
        queries[own[scored], every[scored]] += 1
    if not queries.any(axis=0).all():
        raise InputError(_NO_QUERY)
    means = np.divide(sums, queries, out=np.zeros_like(sums), where=queries > 0)
    return np.asarray(means.sum(axis=0) / (queries > 0).sum(axis=0))

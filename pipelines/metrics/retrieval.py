"""Replicate retrieval: mean average precision with ties counted in expectation, and its permutation null.

The rule (`PROTOCOL`): each image is a query; its candidates are the images of *other* units of the same fold, ranked by euclidean
distance of the features as given; positives carry the query's label, negatives another. Candidates that tie share their places
in expectation (McSherry & Najork 2008), so a constant embedding scores chance exactly, where ranking ties positives-first, as
copairs 0.5.5 does, gives it 1.0. Without ties the AP equals copairs with `pos_sameby=[label], pos_diffby=[unit],
neg_diffby=[label, unit], distance="euclidean"`. The mean is over queries within a class, then over classes.

The normalised AP is (AP - chance) / (1 - chance), as in copairs, but not clipped at -1: clipping lifts the mean of pure noise above 0.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipelines.metrics.geometry import check_features
from pipelines.metrics.pairs import Similarities
from pipelines.metrics.ranking import ap_sum, chance_ap, group_weights, sums_by_count, sums_by_unit
from pipelines.metrics.statistic import Statistic, UnitIndex, check_labels, index_units, tally
from registry.arrays import Floats, Ints
from registry.errors import InputError

PROTOCOL = "retrieval/euclidean/candidates-other-units/tie-aware/v1"
_NO_QUERY = "Expected an image with a positive and a negative in another unit, got none. Retrieval needs labels in at least two units."

Units = Sequence[str] | NDArray[np.str_]


@dataclass(frozen=True, eq=False)
class Retrieval:
    """Retrieval scores of one row.

    Attributes:
        map: mean AP over the queries of a class, then over classes. Share of unit u: mean over classes of its queries in u / its
            queries. Without unit u: u is no query and no candidate.
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
        observed: the mean normalised AP.
        mean: of the draws.
        sd: of the draws.
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


def has_query(labels: Ints, units: Units, folds: Ints) -> bool:
    """Whether any image has a positive and a negative among the images of other units of its fold.

    Args:
        labels: (n,) class codes.
        units: n unit names.
        folds: (n,) as in `retrieve`.
    """
    names = np.asarray(units, dtype=np.str_)
    for fold in np.unique(folds):
        cells = {(str(unit), int(label)) for unit, label in zip(names[folds == fold], labels[folds == fold], strict=True)}
        for unit, label in cells:
            elsewhere = {other_label for other, other_label in cells if other != unit}
            if label in elsewhere and len(elsewhere) > 1:
                return True
    return False


def retrieve(features: Floats, labels: Ints, units: Units, n_classes: int, folds: Ints | None = None) -> Retrieval:
    """Score every image as a query.

    Args:
        features: (n, d) finite, on the scale on which distances are meant (standardised by training images).
        labels: (n,) class codes.
        units: n unit names.
        n_classes: size of the vocabulary.
        folds: (n,) candidates come from the query's own fold, for rows whose features were fitted per fold; None = one fold.

    Raises:
        InputError: NaN features, or no query has both a positive and a negative.
    """
    features, index = check_features(features), index_units(units)
    labels = check_labels(labels, len(features), n_classes)
    n, n_units = len(features), len(index.names)
    ap, chance, ties = np.full(n, np.nan), np.full(n, np.nan), []
    deletions = _Deletions(n_units, n_classes)
    # where `sums_by_unit` is the quicker of the two: few large units, or a short list
    few_units = n_units <= 2 * int(index.counts().max()) or n * n_units <= 40_000
    for ranked in _rankings(features, index.codes, folds):
        query, relevant = ranked.query, labels[ranked.order] == labels[ranked.query]
        m = int(relevant.sum())
        if m == 0 or m == len(relevant):
            continue
        items = np.bincount(ranked.group)
        positives = tally(ranked.group, relevant)
        ap[query] = ap_sum(items, positives) / m
        chance[query] = chance_ap(np.array([m]), np.array([len(relevant) - m]))[0]
        ties.append(items[items > 1].sum() / len(relevant))
        unit = index.codes[ranked.order]
        sums = sums_by_unit if few_units else sums_by_count
        deletions.add(
            label=int(labels[query]),
            own_unit=int(index.codes[query]),
            sums=sums(ranked.group, relevant, unit, n_units),
            m=m - tally(unit, relevant, n_units),
            n=len(relevant) - m - tally(unit, ~relevant, n_units),
        )
    scored = ~np.isnan(ap)
    if not scored.any():
        raise InputError(_NO_QUERY)
    raw, normalised = deletions.without()
    return Retrieval(
        map=_statistic(ap, labels, index, n_classes, raw),
        normalised=_statistic((ap - chance) / (1 - chance), labels, index, n_classes, normalised),
        ap=ap,
        chance=chance,
        tie_rate=float(np.mean(ties)),
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
    """
    features, index = check_features(features), index_units(units)
    labels = check_labels(labels, len(features), n_classes)
    stratum = index if strata is None else index_units(strata)
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


class _Deletions:
    """Sums over queries of AP and normalised AP without each unit, per class."""

    def __init__(self, n_units: int, n_classes: int) -> None:
        self.raw = np.zeros((n_classes, n_units))
        self.normalised = np.zeros((n_classes, n_units))
        self.queries = np.zeros((n_classes, n_units))
        self.seen = np.zeros(n_classes, dtype=bool)

    def add(self, *, label: int, own_unit: int, sums: Floats, m: Floats, n: Floats) -> None:
        """Count one query in all deletions but that of its own unit; one that is left without positive or negative drops out.

        `sums` are M * AP without each unit, `m` and `n` the positives and negatives that are left, all (U,).
        """
        counts = (m > 0) & (n > 0)
        counts[own_unit] = False
        ap = sums[counts] / m[counts]
        chance = chance_ap(m[counts].astype(np.int64), n[counts].astype(np.int64))
        self.raw[label, counts] += ap
        self.normalised[label, counts] += (ap - chance) / (1 - chance)
        self.queries[label, counts] += 1
        self.seen[label] = True

    def without(self) -> tuple[Floats, Floats]:
        """(U,) AP and (U,) normalised AP, mean over queries and then classes; NaN where a class has lost its queries."""
        queries = np.where(self.queries > 0, self.queries, np.nan)[self.seen]
        return (self.raw[self.seen] / queries).mean(axis=0), (self.normalised[self.seen] / queries).mean(axis=0)


def _statistic(per_query: Floats, labels: Ints, index: UnitIndex, n_classes: int, without: Floats) -> Statistic:
    scored = ~np.isnan(per_query)
    counts = index.counts_by_class(labels, n_classes)
    queries = UnitIndex(index.names, index.codes[scored]).counts_by_class(labels[scored], n_classes)
    total = queries.sum(axis=0)
    seen = total > 0
    sums = tally(labels[scored], per_query[scored], n_classes)
    return Statistic(
        value=float(np.mean(sums[seen] / total[seen])),
        units=index.names,
        without=without,
        share=np.mean(queries[:, seen] / total[seen], axis=1),
        n_images=int(scored.sum()),
        class_in_units=int((counts > 0).sum(axis=0).min()),
    )


def _rankings(features: Floats, codes: Ints, folds: Ints | None) -> Iterator[_Ranked]:
    """The ranked candidates of each query, in order."""
    fold = np.zeros(len(features), dtype=np.int64) if folds is None else np.asarray(folds, dtype=np.int64)
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

"""Profiles of several labels each, such as mechanisms of compounds: does a profile find the others of its label, and more than by chance?

The question is copairs' consistency with a multi-label column (`pairs.multilabel_scores` gives the same average precisions): each profile is
a query once for each of its labels, positives have that label, negatives share no label with it. Two differences: a label's mean is compared with
its mean after profiles were permuted among the label sets, so that how labels overlap and how alike profiles are stay as they were, where copairs
takes every query's null alone; and ties share their places in expectation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipelines.metrics.geometry import check_features
from pipelines.metrics.groups import benjamini_hochberg
from pipelines.metrics.pairs import Similarities
from pipelines.metrics.ranking import chance_ap, group_weights
from registry.arrays import Floats, Ints, Mask
from registry.errors import InputError

#: permutations that equal what was found up to rounding count against it
_EQUAL = 1e-12


@dataclass(frozen=True, eq=False)
class LabelScores:
    """One entry per label that two profiles or more have, and that some profile without a label in common can be told from.

    Attributes:
        names: of the labels, in the order given.
        normalised: (k,) mean normalised AP of the profiles that have the label: 0 is chance, 1 is perfect, larger is better.
        profiles: (k,) how many have it.
        p: (k,) (1 + permutations at or above) / (1 + permutations); NaN without permutations.
        p_adjusted: (k,) over the labels, as Benjamini and Hochberg do.
        value: mean over labels.
        p_value: of that mean.
    """

    names: tuple[str, ...]
    normalised: Floats
    profiles: Ints
    p: Floats
    p_adjusted: Floats
    value: float
    p_value: float


def label_scores(
    features: Floats, membership: Mask, names: Sequence[str], *, distance: str = "cosine", permutations: int = 999, seed: int = 0
) -> LabelScores:
    """Score every label.

    Args:
        features: (n, d) finite, one profile per compound.
        membership: (n, k) which labels a profile has.
        names: of the k labels.
        distance: "cosine" or "euclidean".
        permutations: of the profiles; one costs a sort of as many numbers as there are pairs of profiles with a label in common.
        seed: of the permutations.

    Raises:
        InputError: NaN features, membership of another shape, or no profile has both a positive and a negative.
    """
    features, membership = check_features(features), np.asarray(membership, dtype=bool)
    if membership.shape != (len(features), len(names)):
        raise InputError(f"Expected {len(features)} rows of {len(names)} labels, got shape {membership.shape}.")
    lists = _Lists(membership)
    place, among = _places(features, distance)
    observed = lists.means(place, among, np.arange(len(features)))
    rng = np.random.default_rng(seed)
    draws = np.array([lists.means(place, among, rng.permutation(len(features))) for _ in range(permutations)])
    p, p_value = np.full(len(observed), np.nan), np.nan
    if permutations:
        p = (1 + (draws >= observed - _EQUAL).sum(axis=0)) / (1 + permutations)
        p_value = float((1 + (draws.mean(axis=1) >= observed.mean() - _EQUAL).sum()) / (1 + permutations))
    found = tuple(names[label] for label in lists.labels.tolist())
    return LabelScores(found, observed, lists.profiles, p, benjamini_hochberg(p), float(observed.mean()), p_value)


def _places(features: Floats, distance: str) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """(n, n) how many others are nearer to a query than a candidate is, and how many lie as far as it does, itself included."""
    n = len(features)
    place, among = np.zeros((n, n), dtype=np.int32), np.zeros((n, n), dtype=np.int32)
    for query, similarity, tolerance in Similarities(features, distance).each():
        order = np.argsort(-similarity, kind="stable")
        order = order[order != query]
        opens = np.concatenate([[True], np.diff(similarity[order]) < -tolerance])[: len(order)]
        starts = np.flatnonzero(opens)
        group = np.cumsum(opens) - 1
        place[query, order] = starts[group]
        among[query, order] = np.diff(np.append(starts, len(order)))[group]
    return place, among


class _Lists:
    """The ranked lists: a profile with one of its labels each; who is positive in it and who is left out of it."""

    def __init__(self, membership: Mask) -> None:
        n = len(membership)
        query, label = np.nonzero(membership)
        shared = (membership.astype(np.float32) @ membership.T.astype(np.float32)) > 0
        positive = membership.T[label]
        positive[np.arange(len(query)), query] = False
        left_out = shared[query] & ~membership.T[label]
        m, total = positive.sum(axis=1), n - 1 - left_out.sum(axis=1)
        kept = (m > 0) & (m < total)
        if not kept.any():
            raise InputError("Expected a label that two profiles have and another lacks altogether, got none. Check the column of labels.")
        self._n, self._query, self._m = n, query[kept], m[kept]
        self._chance = chance_ap(m[kept], (total - m)[kept])
        self.labels, self._label, self.profiles = np.unique(label[kept], return_inverse=True, return_counts=True)
        self._positive, self._left_out = np.nonzero(positive[kept]), np.nonzero(left_out[kept])

    def means(self, place: NDArray[np.int32], among: NDArray[np.int32], profile: Ints) -> Floats:
        """(k,) mean normalised AP of each label, where `profile` says whose profile each one has."""
        query = profile[self._query]
        lists, other = self._positive
        at = query[lists], profile[other]
        # ties of positives of one list, in order
        keys, first, r = np.unique(lists * self._n + place[at], return_index=True, return_counts=True)
        lists = keys // self._n
        aside, other = self._left_out
        gone = np.sort(aside * self._n + place[query[aside], profile[other]])
        ahead = np.searchsorted(gone, keys, side="left")
        before = keys % self._n - (ahead - np.searchsorted(gone, lists * self._n, side="left"))
        items = among[at][first] - (np.searchsorted(gone, keys, side="right") - ahead)
        reached = np.cumsum(r) - r
        reached -= reached[np.searchsorted(lists, lists, side="left")]
        one, more = group_weights(items.astype(np.int64), before)
        ap = np.bincount(lists, r * (one * (reached + 1) + more * (r - 1)), len(query)) / self._m
        return np.asarray(np.bincount(self._label, (ap - self._chance) / (1 - self._chance)) / self.profiles)

"""Profiles of several labels each, such as mechanisms of compounds: does a profile find the others of its label, and more than by chance?

The question is copairs' consistency with a multi-label column (`pairs.multilabel_scores` gives the same average precisions): each profile is
a query once for each of its labels, positives have that label, negatives share no label with it. Two differences: a label's mean is compared with
its mean after profiles were permuted among the label sets, so that how labels overlap and how alike profiles are stay as they were, where copairs
takes every query's null alone; and ties share their places in expectation.

Profiles of one label often come from the same wells, and then a score can be one of the place. `label_position_control` asks the same question with
positives in other places only, as `pos_diffby=[Well]` of copairs does, and says where the design forbids to ask. A profile is a mean over wells here
and keeps a trace of each, so that two of them share a place where any well of the one lies where any well of the other does.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipelines.metrics.counts import check_count
from pipelines.metrics.geometry import check_features
from pipelines.metrics.groups import benjamini_hochberg
from pipelines.metrics.pairs import Similarities
from pipelines.metrics.places import packed_places, together
from pipelines.metrics.ranking import chance_ap, group_weights
from registry.arrays import Floats, Ints, Mask
from registry.errors import InputError

#: permutations that equal what was found up to rounding count against it
_EQUAL = 1e-12
#: places (queries x candidates), and pairs of a list and a profile, that are looked at together
_PLACES, _PAIRS = 4_000_000, 500_000
#: pairs of a list and a profile that is left out of it that are kept, at most
_LEFT_OUT = 20_000_000


@dataclass(frozen=True, eq=False)
class LabelScores:
    """One entry per label that two profiles or more have (that share no place, where places are given), and that some profile without a label in
    common can be told from.

    Attributes:
        names: of the labels, in the order given.
        normalised: (k,) mean normalised AP of the profiles that have the label: 0 is chance, 1 is perfect, larger is better.
        profiles: (k,) how many have it and another to find.
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
    features: Floats,
    membership: Mask,
    names: Sequence[str],
    *,
    distance: str = "cosine",
    permutations: int = 999,
    seed: int = 0,
    places: Mask | None = None,
) -> LabelScores:
    """Score every label.

    Args:
        features: (n, d) finite, one profile per compound.
        membership: (n, k) which labels a profile has.
        names: of the k labels.
        distance: "cosine" or "euclidean".
        permutations: of the profiles; one costs a sort of as many numbers as there are pairs of profiles with a label in common.
        seed: of the permutations.
        places: (n, w) in which places, such as wells, a profile lies; profiles that share one are no positives of each other, and one that lies
            nowhere has none. Negatives lie anywhere. None = positives lie anywhere too. Permuted profiles leave their places behind, so that p is
            of all that tells profiles apart, the place included.

    Raises:
        InputError: NaN features, membership or places of another shape, fewer than 0 permutations, or no profile has both a positive and a negative.
    """
    check_count(permutations, "a number of permutations", 0, instead="With 0 there is no p-value.")
    features, membership = _checked(features, membership, names)
    lists = _Lists(membership, None if places is None else packed_places(places, len(features)))
    if not len(lists):
        elsewhere = "" if places is None else " in different places"
        raise InputError(f"Expected a label that two profiles{elsewhere} have and another lacks altogether, got none. Check the column of labels.")
    rng = np.random.default_rng(seed)
    drawn = np.empty((permutations + 1, len(features)), dtype=np.int32)
    drawn[0] = np.arange(len(features))
    for draw in drawn[1:]:
        draw[:] = rng.permutation(len(features))
    observed, draws = np.split(_means(lists, features, distance, drawn), [1])
    observed = observed[0]
    p, p_value = np.full(len(observed), np.nan), np.nan
    if permutations:
        p = (1 + (draws >= observed - _EQUAL).sum(axis=0)) / (1 + permutations)
        p_value = float((1 + (draws.mean(axis=1) >= observed.mean() - _EQUAL).sum()) / (1 + permutations))
    found = tuple(names[label] for label in lists.labels.tolist())
    return LabelScores(found, observed, lists.profiles, p, benjamini_hochberg(p), float(observed.mean()), p_value)


@dataclass(frozen=True, eq=False)
class LabelPositionControl:
    """The question of `label_scores` asked twice.

    Attributes:
        anywhere: (k,) mean normalised AP of each label, positives wherever they lie: 0 is chance, 1 is perfect, larger is better.
        elsewhere: (j,) of those labels that have them, with positives in other places only; () where the design forbids to ask.
        value: mean of `elsewhere`; NaN likewise.
        drop: how much lower than anywhere that is for the same profiles and labels, mean over labels; NaN likewise.
        share: of the pairs of a profile and its label that are scored anywhere, those that are scored elsewhere. A drop over few of them says
            little of the rest.
        dropped: share of the positives that share a place with their query, or of which that is not known. At 0 nothing drops, by design.
        reason: "" or why it is not estimable.
    """

    anywhere: Floats
    elsewhere: Floats
    value: float
    drop: float
    share: float
    dropped: float
    reason: str


def label_position_control(
    features: Floats, membership: Mask, names: Sequence[str], places: Mask, *, distance: str = "cosine"
) -> LabelPositionControl:
    """Score every label with positives anywhere and with positives in other places only.

    Args:
        features: (n, d) finite, one profile per compound.
        membership: (n, k) which labels a profile has.
        names: of the k labels.
        places: (n, w) in which wells a profile lies; see `label_scores`.
        distance: "cosine" or "euclidean".

    Raises:
        InputError: as `label_scores`, for the question as it is; places of another shape.
    """
    features, membership = _checked(features, membership, names)
    packed = packed_places(places, len(features))
    both = _Lists(membership), _Lists(membership, packed)
    anywhere, elsewhere = both
    if not len(anywhere):
        raise InputError("Expected a label that two profiles have and another lacks altogether, got none. Check the column of labels.")
    asked = both if len(elsewhere) else both[:1]
    found = [np.empty(len(lists)) for lists in asked]
    identity = np.arange(len(features), dtype=np.int32)
    for start, place, among in _places(features, distance):
        for lists, normalised in zip(asked, found, strict=True):
            for part, values in lists.normalised(start, place, among, identity):
                normalised[part] = values
    of_all = anywhere.means(found[0])
    if not len(elsewhere):
        reason = _why_nowhere(membership, packed)
        return LabelPositionControl(of_all, np.zeros(0), np.nan, np.nan, 0.0, 1.0, f"not estimable: {reason}")
    # a list that is scored elsewhere is scored anywhere too
    lost = found[0][np.searchsorted(anywhere.keys, elsewhere.keys)] - found[1]
    means, dropped = elsewhere.means(found[1]), 1 - elsewhere.positives / anywhere.positives
    return LabelPositionControl(of_all, means, float(means.mean()), float(elsewhere.means(lost).mean()), len(elsewhere) / len(anywhere), dropped, "")


def _why_nowhere(membership: Mask, packed: NDArray[np.uint64]) -> str:
    labelled = np.asarray(membership.any(axis=1))
    known = np.asarray(packed.any(axis=1))[labelled]
    if not known.any():
        return "it is not known in which wells profiles lie"
    of_known = "" if known.all() else " whose wells are known"
    return f"no two profiles of a label{of_known} lie in different wells"


def _checked(features: Floats, membership: Mask, names: Sequence[str]) -> tuple[Floats, Mask]:
    features, membership = check_features(features), np.asarray(membership, dtype=bool)
    if membership.shape != (len(features), len(names)):
        raise InputError(f"Expected {len(features)} rows of {len(names)} labels, got shape {membership.shape}.")
    return features, membership


def _means(lists: _Lists, features: Floats, distance: str, drawn: NDArray[np.int32]) -> Floats:
    """(b, k) mean normalised AP of each label, where `drawn` (b, n) says whose profile each one has; the places of few queries at a time."""
    sums = np.zeros((len(drawn), len(lists.labels)))
    for start, place, among in _places(features, distance):
        for draw, profile in enumerate(drawn):
            sums[draw] += lists.sums(start, place, among, profile)
    return np.asarray(sums / lists.profiles)


def _places(features: Floats, distance: str) -> Iterator[tuple[int, NDArray[np.int32], NDArray[np.int32]]]:
    """The first of some queries that follow each other and, for these, (q, n) how many others are nearer to a query than a candidate is, and how
    many lie as far as it does, itself included."""
    n = len(features)
    rows = min(n, max(1, _PLACES // n))
    place, among = np.zeros((rows, n), dtype=np.int32), np.zeros((rows, n), dtype=np.int32)
    for query, similarity, tolerance in Similarities(features, distance).each():
        row = query % rows
        order = np.argsort(-similarity, kind="stable")
        order = order[order != query]
        opens = np.concatenate([[True], np.diff(similarity[order]) < -tolerance])[: len(order)]
        starts = np.flatnonzero(opens)
        group = np.cumsum(opens) - 1
        place[row, order] = starts[group]
        among[row, order] = np.diff(np.append(starts, len(order)))[group]
        if row == rows - 1 or query == n - 1:
            yield query - row, place[: row + 1], among[: row + 1]


class _Lists:
    """The ranked lists: a profile with one of its labels each; who is positive in it and who is left out of it."""

    def __init__(self, membership: Mask, places: NDArray[np.uint64] | None = None) -> None:
        self._membership, self._places = membership, places
        # the profiles of each label and the labels of each profile, one after the other, and where each one's begin
        self._members, self._size = np.nonzero(membership.T)[1], membership.sum(axis=0)
        self._first = np.cumsum(self._size) - self._size
        self._query, self._label = np.nonzero(membership)
        self._labels_of, self._own = self._label, membership.sum(axis=1)
        self._first_of = np.cumsum(self._own) - self._own
        # of a list of each profile at most
        self._pairs = membership.astype(np.int64) @ self._size
        m, aside, known = self._size[self._label] - 1, np.zeros(len(self._query), dtype=np.int64), [np.zeros(0, dtype=np.int32)]
        for part in self._parts(np.arange(len(self._query))):
            lists, other = self._find_left_out(part)
            aside[part] = np.bincount(lists, minlength=len(part))
            if places is not None:
                m[part] = np.bincount(self._positives(part)[0], minlength=len(part))
            if aside.sum() <= _LEFT_OUT:
                known.append(other.astype(np.int32))
        total = len(membership) - 1 - aside
        kept = (m > 0) & (m < total)
        self._query, self._label, self._m = self._query[kept], self._label[kept], m[kept]
        self._chance = chance_ap(m[kept], (total - m)[kept])
        # those left out are found once and kept where they are few enough
        self._known = np.concatenate(known) if aside.sum() <= _LEFT_OUT else None
        self._aside, self._first_aside = aside[kept], (np.cumsum(aside) - aside)[kept]
        self.labels, self._code, self.profiles = np.unique(self._label, return_inverse=True, return_counts=True)

    def __len__(self) -> int:
        """How many there are."""
        return len(self._query)

    @property
    def keys(self) -> Ints:
        """(l,) profile and label of each list as one number, ascending."""
        return np.asarray(self._query * self._membership.shape[1] + self._label)

    @property
    def positives(self) -> int:
        """In all lists together."""
        return int(self._m.sum())

    def means(self, values: Floats) -> Floats:
        """(k,) mean of each label over its lists, of (l,) values."""
        return np.asarray(np.bincount(self._code, values, len(self.labels)) / self.profiles)

    def sums(self, start: int, place: NDArray[np.int32], among: NDArray[np.int32], profile: NDArray[np.int32]) -> Floats:
        """(k,) sums over lists of what `normalised` gives."""
        found = np.zeros(len(self.labels))
        for part, values in self.normalised(start, place, among, profile):
            found += np.bincount(self._code[part], values, len(found))
        return found

    def normalised(self, start: int, place: NDArray[np.int32], among: NDArray[np.int32], profile: NDArray[np.int32]) -> Iterator[tuple[Ints, Floats]]:
        """Some lists after others, and their normalised AP: those of the queries from `start` on whose places are given, where `profile` says whose
        profile each one has."""
        inside = (profile >= start) & (profile < start + len(place))
        for part in self._parts(np.flatnonzero(inside[self._query])):
            ap, chance = self._ap(part, profile[self._query[part]].astype(np.int64) - start, place, among, profile), self._chance[part]
            yield part, (ap - chance) / (1 - chance)

    def _ap(self, part: Ints, row: Ints, place: NDArray[np.int32], among: NDArray[np.int32], profile: NDArray[np.int32]) -> Floats:
        """(l,) average precision of some lists, of which `row` says where the places of their queries are."""
        n = len(profile)
        lists, other = self._positives(part)
        at = row[lists], profile[other]
        # ties of positives of one list, in order
        keys, first, r = np.unique(lists * n + place[at], return_index=True, return_counts=True)
        items, lists = among[at][first].astype(np.int64), keys // n
        aside, other = self._left_out(part)
        gone = np.sort(aside * n + place[row[aside], profile[other]])
        ahead = np.searchsorted(gone, keys, side="left")
        before = keys % n - (ahead - np.searchsorted(gone, lists * n, side="left"))
        items -= np.searchsorted(gone, keys, side="right") - ahead
        reached = np.cumsum(r) - r
        reached -= reached[np.searchsorted(lists, lists, side="left")]
        one, more = group_weights(items, before)
        return np.asarray(np.bincount(lists, r * (one * (reached + 1) + more * (r - 1)), len(part)) / self._m[part])

    def _parts(self, lists: Ints) -> list[Ints]:
        """Some lists in parts that hold about as many pairs."""
        part = np.cumsum(self._pairs[self._query[lists]]) // _PAIRS
        return np.split(lists, np.flatnonzero(np.diff(part)) + 1) if len(lists) else []

    def _positives(self, part: Ints) -> tuple[Ints, Ints]:
        """Which of some lists, and who has its label beside the query, in another place where places are known."""
        lists, other = self._alike(part)
        if self._places is None:
            return lists, other
        kept = ~together(self._places, self._query[part][lists], other)
        return lists[kept], other[kept]

    def _alike(self, part: Ints) -> tuple[Ints, Ints]:
        """Which of some lists, and who has its label beside the query."""
        label = self._label[part]
        lists, other = np.repeat(np.arange(len(part)), self._size[label]), self._members[_ranges(self._first[label], self._size[label])]
        kept = other != self._query[part][lists]
        return lists[kept], other[kept]

    def _left_out(self, part: Ints) -> tuple[Ints, Ints]:
        """Which of some lists, and who is neither positive nor negative in it: who has another label of the query but not this one, and who has
        this one and shares a place."""
        if self._known is None:
            return self._find_left_out(part)
        count = self._aside[part]
        return np.repeat(np.arange(len(part)), count), self._known[_ranges(self._first_aside[part], count)].astype(np.int64)

    def _find_left_out(self, part: Ints) -> tuple[Ints, Ints]:
        query, own = self._query[part], self._label[part]
        lists, label = np.repeat(np.arange(len(part)), self._own[query]), self._labels_of[_ranges(self._first_of[query], self._own[query])]
        others = label != own[lists]
        lists, label = lists[others], label[others]
        lists, other = np.repeat(lists, self._size[label]), self._members[_ranges(self._first[label], self._size[label])]
        kept = ~self._membership[other, own[lists]]
        lists, other = lists[kept], other[kept]
        if self._own[query].max(initial=0) > 2:
            # who shares several of them is there several times
            keys = np.unique(lists * len(self._own) + other)
            lists, other = keys // len(self._own), keys % len(self._own)
        if self._places is not None:
            alike, here = self._alike(part)
            gone = together(self._places, query[alike], here)
            # those of a list stay one after the other
            order = np.argsort(np.concatenate([lists, alike[gone]]), kind="stable")
            lists, other = np.concatenate([lists, alike[gone]])[order], np.concatenate([other, here[gone]])[order]
        return lists, other


def _ranges(first: Ints, count: Ints) -> Ints:
    """The numbers from each `first` on, as many as `count` says, one range after the other."""
    return np.repeat(first - (np.cumsum(count) - count), count) + np.arange(count.sum())

"""Known relationships and perturbation signal: does a map of perturbations hold what biology knows?

Reference: EFAAR_benchmarking, `efaar.py` at commit 2248f40 (Celik et al. 2024; Kraus et al. 2024). Each function says how it differs. A
representation of one or two numbers has cosines of hardly anything but 1 and -1 and can reach any recall; `describe` flags it as
`low_rank`, and its recall must be read against permuted names, not against the chance of a random map.

Entities that lie in the same wells look alike for that alone. `recall_position_control` asks for the recall of pairs that share no well, among pairs
that share none, and says where the design forbids to ask; the reference has no such control.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from pipelines.metrics.counts import check_count
from pipelines.metrics.geometry import check_features, directions
from pipelines.metrics.places import packed_places, together
from registry.arrays import Floats, Ints, Mask
from registry.errors import InputError

#: shares of the null below and above which a pair counts as found
THRESHOLDS = (0.05, 0.95)
#: entities below which there is no recall (`MIN_REQ_ENT_CNT`)
MIN_ENTITIES = 20
#: pairs below which their tails say nothing: those of as many entities
MIN_PAIRS = MIN_ENTITIES * (MIN_ENTITIES - 1) // 2
NULL_SCOPES = ("genes", "all")
_BLOCK = 512
#: draws that equal a recall up to rounding count against it
_EQUAL = 1e-12

Names = Sequence[str] | NDArray[np.str_]


@dataclass(frozen=True)
class Recall:
    """Recall of known relationships.

    Attributes:
        value: share of the known pairs among the most similar and the most dissimilar pairs of the null; larger is better.
        chance: what a random map has, 1 - high + low.
        pairs: known pairs with both members in the map.
        entities: of the map.
        null_scope: "genes" or "all": over which entities the null runs.
        thresholds: low and high.
        permuted: mean recall after the names were permuted: what this very map has by chance. NaN without permutations.
        p: (1 + permutations at or above the value) / (1 + permutations); NaN likewise.
    """

    value: float
    chance: float
    pairs: int
    entities: int
    null_scope: str
    thresholds: tuple[float, float]
    permuted: float = np.nan
    p: float = np.nan


def recall(
    features: Floats,
    names: Names,
    known: Sequence[tuple[str, str]],
    *,
    genes: Mask | None = None,
    null_scope: str = "genes",
    thresholds: tuple[float, float] = THRESHOLDS,
    permutations: int = 0,
    seed: int = 0,
) -> Recall:
    """Share of known pairs whose cosine lies in the tails of all cosines of the map.

    A pair counts where at most `low` of the null is as small or smaller, or at least `high` of it is smaller. Published maps of RxRx3-core
    take the null over genes and compounds together ("all"); compounds resemble each other, which moves the tails, so the default is the
    genes alone. Differences: the null is exact however large the map (never sampled), too few entities and duplicate names are errors
    where the reference builds one and does not raise it, ties at a threshold are decided on cosines rounded to 1e-9, and the recall is compared
    with that of the same map and the same relations after the names were permuted, which leaves in place how often a gene is named and whatever
    few cosines a map has. Memory: 4 bytes for each pair of entities squared, 5 with permutations.

    Args:
        features: (p, d) one aggregated profile per perturbation.
        names: p names, each once.
        known: pairs of names, in any order; repeats, self-pairs and pairs that the map lacks are left out.
        genes: (p,) which entities are genes; None = all.
        null_scope: "genes" or "all".
        thresholds: shares of the null, low and high.
        permutations: of the names of the genes.
        seed: of the permutations.

    Raises:
        InputError: fewer than 20 entities in the null, a name twice, no known pair, a zero profile, thresholds out of order, fewer than 0
            permutations.
    """
    check_count(permutations, "a number of permutations", 0, instead="With 0 there is no p-value.")
    entities = _Entities.of(features, names, known, genes, null_scope, thresholds)
    low, high = thresholds
    tails = _cuts(_null(entities.unit[entities.inside]), thresholds)
    value = float(np.mean(_found(entities.asked, tails)))
    n = len(entities.unit)
    found = Recall(value, 1 - high + low, len(entities.first), n, null_scope, (low, high))
    if not permutations:
        return found
    labels = np.asarray(names, dtype=np.str_)
    movable = np.arange(n) if genes is None else np.flatnonzero(genes)
    movable = movable[np.argsort(labels[movable])]
    draws = _permuted(entities.unit, entities.first, entities.second, tails, movable, permutations, np.random.default_rng(seed))
    return replace(found, permuted=float(draws.mean()), p=float((1 + (draws >= value - _EQUAL).sum()) / (1 + permutations)))


@dataclass(frozen=True)
class RecallPositionControl:
    """The question of `recall` asked twice.

    Attributes:
        anywhere: the recall of all known pairs, 0..1; larger is better.
        value: the recall of those that share no place, in the tails of the pairs of the null that share none; NaN where it is not estimable. A random
            map has the same chance both ways.
        drop: anywhere - value: how much of the recall the pairs that share a place bring. These are other pairs than those that are left, because a
            pair is all that there is of a relation. NaN where no value is estimable, and where no known pair shares a place: nothing can drop.
        share: of the known pairs, those that share no place.
        reason: why there is no value; "".
    """

    anywhere: float
    value: float
    drop: float
    share: float
    reason: str


def recall_position_control(
    features: Floats,
    names: Names,
    known: Sequence[tuple[str, str]],
    places: Mask,
    *,
    genes: Mask | None = None,
    null_scope: str = "genes",
    thresholds: tuple[float, float] = THRESHOLDS,
) -> RecallPositionControl:
    """Recall of known pairs wherever they lie, and of those that share no place among the pairs of the null that share none.

    Two entities share a place where any well of the one lies where any of the other does, because a profile is a mean and keeps a trace of each. Both
    sides keep to the same rule: known pairs apart would be compared with a null that places stretch, and lose for that alone. An entity of which no
    place is known shares one with all others. Needs 190 pairs of the null apart, as many as 20 entities have. Memory: 9 bytes for each pair of
    entities squared.

    Args:
        features: as for `recall`.
        names: as for `recall`.
        known: as for `recall`.
        places: (p, w) in which places an entity lies.
        genes: as for `recall`.
        null_scope: as for `recall`.
        thresholds: as for `recall`.

    Raises:
        InputError: as `recall`, for the question as it is; places of another shape.
    """
    entities = _Entities.of(features, names, known, genes, null_scope, thresholds)
    packed = packed_places(places, len(entities.unit))
    apart = ~together(packed, entities.first, entities.second)
    unit, placed = entities.unit[entities.inside], packed[entities.inside]
    null = _null(unit)
    anywhere, share = float(np.mean(_found(entities.asked, _cuts(null, thresholds)))), float(apart.mean())
    reason = "" if apart.any() else _why_nowhere(packed[np.union1d(entities.first, entities.second)])
    if not reason and len(null := null[_pairs_apart(placed)]) < MIN_PAIRS:
        reason = f"{len(null)} pairs of the null share no well, at least {MIN_PAIRS} are needed for its tails"
    if reason:
        return RecallPositionControl(anywhere, np.nan, np.nan, share, f"not estimable: {reason}")
    value = float(np.mean(_found(entities.asked[apart], _cuts(null, thresholds))))
    return RecallPositionControl(anywhere, value, np.nan if apart.all() else anywhere - value, share, "")


def _why_nowhere(packed: NDArray[np.uint64]) -> str:
    known = packed.any(axis=1)
    if not known.any():
        return "it is not known in which wells profiles lie"
    return f"no two entities of a known pair{'' if known.all() else ' whose wells are known'} lie in different wells"


@dataclass(frozen=True, eq=False)
class _Entities:
    """A map and the known pairs in it.

    Attributes:
        unit: (p, d) directions.
        inside: (p,) which entities the null runs over.
        first: (k,) one end of each known pair, once each.
        second: (k,) the other.
        asked: (k,) their cosines, rounded.
    """

    unit: Floats
    inside: Mask
    first: Ints
    second: Ints
    asked: Floats

    @classmethod
    def of(
        cls, features: Floats, names: Names, known: Sequence[tuple[str, str]], genes: Mask | None, null_scope: str, thresholds: tuple[float, float]
    ) -> _Entities:
        """Check what `recall` is given."""
        features, labels = check_features(features), np.asarray(names, dtype=np.str_)
        low, high = thresholds
        if null_scope not in NULL_SCOPES or not 0 < low < high < 1:
            raise InputError(f"Expected a null over {' or '.join(NULL_SCOPES)} and 0 < low < high < 1, got `{null_scope}` and {thresholds}.")
        place = {name: number for number, name in enumerate(labels.tolist())}
        if len(place) < len(labels) or len(labels) != len(features):
            raise InputError(f"Expected {len(features)} profiles of different names, got {len(place)} names. Aggregate replicates first.")
        inside = np.ones(len(labels), dtype=bool) if genes is None or null_scope == "all" else np.asarray(genes, dtype=bool)
        if inside.sum() < MIN_ENTITIES:
            raise InputError(f"Expected at least {MIN_ENTITIES} entities for a null, got {int(inside.sum())}. A recall of so few says nothing.")
        unit = directions(features, labels)
        wanted = sorted({tuple(sorted((place[a], place[b]))) for a, b in known if a in place and b in place and a != b})
        if not wanted:
            raise InputError(f"None of the {len(known)} known pairs is in the map of {len(labels)} entities. Compare how both name their genes.")
        first, second = (np.array(ends) for ends in zip(*wanted, strict=True))
        return cls(unit, inside, first, second, np.round(np.einsum("ij,ij->i", unit[first], unit[second]), 9))


def _found(cosines: Floats, tails: tuple[float, float]) -> Mask:
    return np.asarray((cosines < tails[0]) | (cosines > tails[1]))


def _null(unit: Floats) -> Floats:
    """(n (n - 1) / 2,) cosines of all pairs, rounded."""
    n, filled = len(unit), 0
    cosines = np.empty(n * (n - 1) // 2)
    for start in range(0, n, _BLOCK):
        block = unit[start : start + _BLOCK] @ unit[start:].T
        upper = block[np.triu(np.ones(block.shape, dtype=bool), 1)]
        cosines[filled : filled + len(upper)] = np.round(upper, 9)
        filled += len(upper)
    return cosines


def _pairs_apart(packed: NDArray[np.uint64]) -> Mask:
    """(n (n - 1) / 2,) which pairs share no place, in the order of `_null`."""
    n, filled = len(packed), 0
    apart = np.empty(n * (n - 1) // 2, dtype=bool)
    for start in range(0, n, _BLOCK):
        rows, columns = np.arange(start, min(start + _BLOCK, n)), np.arange(start, n)
        block = ~together(packed, rows[:, None], columns[None, :])
        upper = block[np.triu(np.ones(block.shape, dtype=bool), 1)]
        apart[filled : filled + len(upper)] = upper
        filled += len(upper)
    return apart


def _cuts(null: Floats, thresholds: tuple[float, float]) -> tuple[float, float]:
    """The values of the null below the first and above the second of which a cosine lies in its tails: ties count against both tails."""
    total, (low, high) = len(null), thresholds
    # as many of the null as may be as small or smaller, and as many as must be smaller, by the same division as the reference
    most = next(k for k in range(int(low * total) + 1, -1, -1) if k / total <= low)
    least = next(k for k in range(max(int(high * total) - 1, 0), total + 1) if k / total >= high)
    ordered = np.partition(null, (most, least - 1))
    return float(ordered[most]), float(ordered[least - 1])


def _permuted(
    unit: Floats, first: Ints, second: Ints, cuts: tuple[float, float], movable: Ints, permutations: int, rng: np.random.Generator
) -> Floats:
    """(permutations,) the recall after the names of the movable entities were permuted."""
    tails = np.empty((len(unit), len(unit)), dtype=bool)
    for start in range(0, len(unit), _BLOCK):
        cosines = np.round(unit[start : start + _BLOCK] @ unit.T, 9)
        tails[start : start + _BLOCK] = _found(cosines, cuts)
    draws, place = np.empty(permutations), np.arange(len(unit))
    for draw in range(permutations):
        place[movable] = rng.permutation(movable)
        draws[draw] = tails[place[first], place[second]].mean()
    return draws


@dataclass(frozen=True, eq=False)
class Signal:
    """One statistic per perturbation, against the same statistic of negative controls.

    Attributes:
        names: sorted.
        value: (p,) the statistic, larger is better; NaN where there are too few replicates.
        p: (p,) (1 + null at or above the value) / (1 + null); NaN likewise.
        p_published: (p,) as the reference has it, null at or above the value / null for consistency, null above the value / null for magnitude: it
            can be 0, and is for parity alone; NaN likewise.
        null: the size of the null.
    """

    names: tuple[str, ...]
    value: Floats
    p: Floats
    p_published: Floats
    null: int


def consistency(features: Floats, names: Names, negatives: Sequence[str]) -> Signal:
    """Mean cosine of the pairs of a perturbation's replicates, against that of perturbations that should do nothing.

    In -1..1, compared at 1e-9, so that rounding does not decide between values that tie. Published p: the share of the null that is at or above it.
    Differences: NaN of negatives with one replicate are left out of the null, where in the reference they dilute every p.

    Args:
        features: (n, d) aligned replicates.
        names: n perturbations.
        negatives: perturbations that make the null (genes that are not expressed); they get no p themselves.

    Raises:
        InputError: no negative with two replicates, a zero profile.
    """
    features, labels = check_features(features), np.asarray(names, dtype=np.str_)
    _one_name_each(labels, len(features))
    unit = directions(features, labels)
    unique, codes, counts = np.unique(labels, return_inverse=True, return_counts=True)
    sums = np.zeros((len(unique), features.shape[1]))
    np.add.at(sums, codes, unit)
    value = np.full(len(unique), np.nan)
    several = counts > 1
    # |sum of unit vectors|^2 = n + twice the sum over pairs
    value[several] = (np.sum(sums[several] ** 2, axis=1) - counts[several]) / (counts[several] * (counts[several] - 1))
    return _against_null(unique, value, np.isin(unique, negatives), published="left", decimals=9)


def magnitude(
    features: Floats,
    names: Names,
    controls: Mask,
    negatives: Sequence[str],
    *,
    least_replicates: int = 5,
    most_controls: int = 1000,
    seed: int = 0,
) -> Signal:
    """Energy distance of a perturbation's replicates to the controls, against that of perturbations that should do nothing.

    2 E|X - Y| - E|X - X'| - E|Y - Y'|, 0 or more, with each expectation over all pairs, a profile with itself included. Published p: the share of the
    null that is above it. Differences: the controls that are drawn where there are many depend on `seed` (the reference draws them anew each time).

    Args:
        features: (n, d) aligned profiles.
        names: n perturbations; those of controls do not matter.
        controls: (n,) which profiles are controls.
        negatives: as for `consistency`.
        least_replicates: below these there is no value; 5 is the reference's. The fewer a perturbation has, the larger its distance for that
            alone: with fewer, compare it with negatives of as many.
        most_controls: more than these are sampled.
        seed: of that sample.

    Raises:
        InputError: no control, or no negative with enough replicates; fewer than one replicate or control asked for.
    """
    check_count(least_replicates, "a number of replicates", instead="With 1 every perturbation has a value.")
    check_count(most_controls, "a number of controls", instead="A magnitude is a distance to controls.")
    features, labels, controls = check_features(features), np.asarray(names, dtype=np.str_), np.asarray(controls, dtype=bool)
    _one_name_each(labels, len(features))
    _one_name_each(controls, len(features), "control flag")
    reference = features[controls]
    if not len(reference):
        raise InputError("Expected at least one control profile, got none. A magnitude is a distance to controls.")
    if len(reference) > most_controls:
        reference = reference[np.sort(np.random.default_rng(seed).choice(len(reference), most_controls, replace=False))]
    centre = reference.mean(axis=0)
    features, reference = features - centre, reference - centre
    inside = float(_mean_distances(reference, reference).mean())
    own = np.flatnonzero(~controls)
    to_reference = np.full(len(features), np.nan)
    to_reference[own] = _mean_distances(features[own], reference)
    unique, codes = np.unique(labels[own], return_inverse=True)
    value = np.full(len(unique), np.nan)
    for number in np.flatnonzero(np.bincount(codes) >= least_replicates):
        mine = own[codes == number]
        value[number] = 2 * to_reference[mine].mean() - _mean_distances(features[mine], features[mine]).mean() - inside
    return _against_null(unique, value, np.isin(unique, negatives), published="right")


def _one_name_each(values: NDArray[Any], n: int, what: str = "name") -> None:
    if values.shape != (n,):
        raise InputError(f"Expected a {what} for each of {n} profiles, got shape {values.shape}.")


def _mean_distances(a: Floats, b: Floats) -> Floats:
    """(n,) the mean euclidean distance of each of a to all of b."""
    found, lengths = np.empty(len(a)), np.sum(b**2, axis=1)
    for start in range(0, len(a), _BLOCK):
        block = a[start : start + _BLOCK]
        squared = np.sum(block**2, axis=1)[:, None] + lengths - 2 * block @ b.T
        found[start : start + _BLOCK] = np.sqrt(np.maximum(squared, 0)).mean(axis=1)
    return found


def _against_null(names: NDArray[np.str_], value: Floats, negative: Mask, published: Literal["left", "right"], decimals: int | None = None) -> Signal:
    """Both p-values; values of the null that equal a value, to so many decimals, count for the published one where it asks on the left of them."""
    compared = value if decimals is None else np.round(value, decimals)
    null = np.sort(compared[negative & ~np.isnan(value)])
    if not len(null):
        raise InputError("Expected a negative perturbation with enough replicates, got none. Without a null there is no p-value.")
    asked = ~negative & ~np.isnan(value)
    p, parity = np.full(len(value), np.nan), np.full(len(value), np.nan)
    p[asked] = (1 + len(null) - np.searchsorted(null, compared[asked], side="left")) / (1 + len(null))
    parity[asked] = (len(null) - np.searchsorted(null, compared[asked], side=published)) / len(null)
    return Signal(tuple(names.tolist()), value, p, parity, len(null))

"""The field's standard questions about replicates, as rules about pairs, each with its control for position on the plate.

| question | positives | negatives | source |
|---|---|---|---|
| activity | other wells of the compound | control wells | documentation of copairs |
| activity-within-plates | the same | control wells of the query's plate | CPJUMP1 in CHAMMI-75 |
| activity-other-wells | wells of the compound in other positions | control wells of the query's plate | JUMP production (Arevalo et al. 2024) |
| replicability | other wells of the compound | other compounds on the query's plate | the same |
| consistency | other compounds with the same target | profiles that share no target | copairs (`multilabel_scores`) |

Replicates often lie in the same well of every plate, and then a score can be one of the position. `position_control` asks the same question with
positives in other wells only, and says where the design forbids to ask.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from pipelines.metrics.geometry import check_features
from pipelines.metrics.pairs import Columns, PairRule, PairScores, pair_scores
from registry.arrays import Floats, Mask
from registry.errors import InputError

#: names of columns in the rules below
PERTURBATION, REFERENCE, PLATE, WELL, KIND = "perturbation", "reference", "plate", "well", "kind"
RULES = {
    "activity": PairRule((PERTURBATION, REFERENCE), (), (), (PERTURBATION, REFERENCE)),
    "activity-within-plates": PairRule((PERTURBATION,), (), (PLATE,), (REFERENCE,)),
    "activity-other-wells": PairRule((PERTURBATION,), (WELL,), (PLATE,), (KIND, PERTURBATION)),
    "replicability": PairRule((PERTURBATION,), (), (PLATE,), (PERTURBATION,)),
    "consistency": PairRule((), (PERTURBATION,), (), ()),
}
#: pairs that a median of the null of percent replicating is taken over, at most
_MOST_PAIRS = 50


def reference_index(controls: Mask) -> NDArray[np.str_]:
    """(n,) the row's own number for a control well, -1 for all others: no two control wells agree in it (copairs' `assign_reference_index`).

    Args:
        controls: (n,) which profiles are control wells.
    """
    controls = np.asarray(controls, dtype=bool)
    return np.where(controls, np.arange(len(controls)), -1).astype(np.str_)


@dataclass(frozen=True, eq=False)
class PositionControl:
    """A question asked twice.

    Attributes:
        anywhere: positives wherever they lie.
        elsewhere: positives in other wells only; None where the design forbids to ask.
        drop: mean normalised AP anywhere minus elsewhere, over queries that have both; None likewise.
        share: of the queries that are scored anywhere, those that have both. A drop over few of them says little of the rest.
        reason: "" or why it is not estimable.
    """

    anywhere: PairScores
    elsewhere: PairScores | None
    drop: float | None
    share: float
    reason: str


def position_control(features: Floats, columns: Columns, rule: PairRule, well: str = WELL, distance: str = "cosine") -> PositionControl:
    """Ask a question with positives anywhere and with positives in other wells only.

    Args:
        features: (n, d) finite profiles.
        columns: n values for each column that is named.
        rule: the question, such as one of `RULES`.
        well: the column of positions.
        distance: "cosine" or "euclidean".

    Raises:
        InputError: as `pair_scores`, for the question as it is.
    """
    anywhere = pair_scores(features, columns, rule, distance)
    if well in rule.pos_diffby:
        return PositionControl(anywhere, anywhere, 0.0, 1.0, "")
    try:
        elsewhere = pair_scores(features, columns, replace(rule, pos_diffby=(*rule.pos_diffby, well)), distance)
    except InputError:
        return PositionControl(anywhere, None, None, 0.0, "not estimable: all replicates lie in the same well of their plates")
    both = ~np.isnan(anywhere.ap) & ~np.isnan(elsewhere.ap)
    if not both.any():
        return PositionControl(anywhere, elsewhere, None, 0.0, "not estimable: no query has positives both ways")
    drop = float((anywhere.normalised[both] - elsewhere.normalised[both]).mean())
    return PositionControl(anywhere, elsewhere, drop, float(both.sum() / (~np.isnan(anywhere.ap)).sum()), "")


@dataclass(frozen=True, eq=False)
class Replicating:
    """Percent replicating, as the older literature has it.

    Attributes:
        share: of groups whose median correlation is above the null's 95th percentile, 0..1; larger is better, chance is 0.05.
        names: of the groups with at least two profiles, sorted.
        medians: (g,) median Pearson correlation over the pairs of a group.
        threshold: the null's 95th percentile.
        null: (s,) medians over pairs of profiles of different groups.
    """

    share: float
    names: tuple[str, ...]
    medians: Floats
    threshold: float
    null: Floats


def percent_replicating(features: Floats, groups: Sequence[str] | NDArray[np.str_], *, samples: int = 1000, seed: int = 0) -> Replicating:
    """Share of groups that correlate better than pairs of different groups (Bray et al. 2016; `copairs.replicating`).

    A null value is the median over min(median group size, 50) random pairs of different groups. Correlation is blind to the size of an effect
    and the threshold to the number of pairs of a group, which is why mean average precision replaced it; it is here to be compared with older
    numbers. The draws depend on `seed` and on the order of profiles; the reference's depend on its sampler.

    Args:
        features: (n, d) finite profiles.
        groups: n names, such as compounds.
        samples: medians of the null.
        seed: of its pairs.

    Raises:
        InputError: no group of two, one group only, a profile without variance.
    """
    features, names = check_features(features), np.asarray(groups, dtype=np.str_)
    if names.shape != (len(features),):
        raise InputError(f"Expected a group for each of {len(features)} profiles, got shape {names.shape}.")
    unique, codes, counts = np.unique(names, return_inverse=True, return_counts=True)
    if len(unique) < 2 or counts.max() < 2:
        raise InputError(f"Expected several groups, one of them of at least two profiles, got {len(unique)} of at most {counts.max(initial=0)}.")
    centred = features - features.mean(axis=1, keepdims=True)
    lengths = np.linalg.norm(centred, axis=1)
    if (lengths <= 1e-12 * np.abs(features).max(axis=1, initial=1e-300)).any() or features.shape[1] < 2:
        raise InputError("Expected profiles of several different values, got one that is constant: a correlation does not exist. Leave it out.")
    x = centred / lengths[:, None]
    several = np.flatnonzero(counts > 1)
    medians = np.array([_median_of_pairs(x[codes == group]) for group in several])
    pairs = min(int(np.median(counts[several])), _MOST_PAIRS)
    rng = np.random.default_rng(seed)
    first, second = _pairs_of_different(codes, samples * pairs, rng)
    null = np.median(np.einsum("ij,ij->i", x[first], x[second]).reshape(samples, pairs), axis=1)
    threshold = float(np.quantile(null, 0.95))
    return Replicating(float(np.mean(medians > threshold)), tuple(unique[several].tolist()), medians, threshold, null)


def _median_of_pairs(x: Floats) -> float:
    return float(np.median((x @ x.T)[np.triu_indices(len(x), 1)]))


def _pairs_of_different(codes: NDArray[np.int64], n: int, rng: np.random.Generator) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    first, second = rng.integers(0, len(codes), n), rng.integers(0, len(codes), n)
    while (same := np.flatnonzero(codes[first] == codes[second])).size:
        first[same], second[same] = rng.integers(0, len(codes), len(same)), rng.integers(0, len(codes), len(same))
    return first, second

"""The field's standard questions about replicates, as rules about pairs, each with its control for position on the plate.

| question | positives | negatives | source |
|---|---|---|---|
| activity | other wells of the compound | control wells | documentation of copairs |
| activity-within-plates | the same | control wells of the query's plate | CPJUMP1 in CHAMMI-75 |
| activity-other-wells | wells of the compound in other positions | control wells of the query's plate | JUMP production (Arevalo et al. 2024) |
| replicability | other wells of the compound | other compounds on the query's plate | the same |
| consistency | other compounds with the same target | profiles that share no target | copairs (`multilabel_scores`) |

The field asks consistency of the median profiles of compounds that are active. The flow asks it of the mean profiles of all that have a target, so
that every row is asked about the same (`pipelines/beside/knowledge.py`); its control for position is `multilabel.label_position_control`.

Replicates often lie in the same well of every plate, and then a score can be one of the position. `position_control` asks the same question with
positives in other wells only, and says where the design forbids to ask. `control_positions` asks it of wells to which nothing was done: do control
wells of one position correlate from plate to plate?
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from pipelines.metrics.counts import check_count
from pipelines.metrics.geometry import check_features
from pipelines.metrics.names import whole_names
from pipelines.metrics.pairs import Columns, PairRule, PairScores, asked_queries, column_values, pair_scores
from registry.arrays import Floats, Ints, Mask
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
#: correlations that differ by less are the same, as those of two columns are, which are 1 or -1
_ROUNDING = 1e-9
#: pairs that a median of the null of percent replicating is taken over, at most
_MOST_PAIRS = 50
#: column in which two profiles agree where the positions of both are known
_PLACED = "position known"


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


def position_control(
    features: Floats, columns: Columns, rule: PairRule, well: str = WELL, distance: str = "cosine", queries: Mask | None = None
) -> PositionControl:
    """Ask a question with positives anywhere and with positives in other wells only.

    Args:
        features: (n, d) finite profiles.
        columns: n values for each column that is named.
        rule: the question, such as one of `RULES`.
        well: the column of positions; a profile whose position is missing has no positives elsewhere and is none.
        distance: "cosine" or "euclidean".
        queries: (n,) which profiles are queries, such as treated wells; None = all.

    Raises:
        InputError: as `pair_scores`, for the question as it is; positions or queries of another length.
    """
    asked = asked_queries(queries, len(features))
    anywhere = pair_scores(features, columns, rule, distance, asked)
    if well in rule.pos_diffby:
        return PositionControl(anywhere, anywhere, 0.0, 1.0, "")
    if well not in columns:
        return _no_control(anywhere, f"there is no column `{well}` of positions")
    positions = _positions(columns, well, len(features))
    known = positions != ""
    if not known.any():
        return _no_control(anywhere, f"the positions in `{well}` are missing")
    # two wells whose positions are not known cannot be said to differ in them: they are no positives of any
    places = {**columns, well: positions, _PLACED: np.where(known, "", np.arange(len(known)).astype(np.str_))}
    apart = replace(rule, pos_sameby=(*rule.pos_sameby, _PLACED), pos_diffby=(*rule.pos_diffby, well))
    pairs = apart.pairs(places, len(features))
    with_positives = [query for query in np.flatnonzero(asked).tolist() if pairs.positive(query).any()]
    if not with_positives:
        of_known = "" if known.all() else " whose positions are known"
        return _no_control(anywhere, f"all replicates{of_known} lie in the same well of their plates")
    if not any(pairs.negative(query).any() for query in with_positives):
        return _no_control(anywhere, "no query that has replicates in other wells has negatives")
    elsewhere = pair_scores(features, places, apart, distance, asked)
    usable = ~np.isnan(anywhere.ap)
    both = usable & ~np.isnan(elsewhere.ap)
    if not both.any():
        return PositionControl(anywhere, elsewhere, None, 0.0, "not estimable: no query has positives both ways")
    drop = float((anywhere.normalised[both] - elsewhere.normalised[both]).mean())
    return PositionControl(anywhere, elsewhere, drop, float(both.sum() / usable.sum()), "")


def _no_control(anywhere: PairScores, reason: str) -> PositionControl:
    return PositionControl(anywhere, None, None, 0.0, f"not estimable: {reason}")


@dataclass(frozen=True, eq=False)
class Replicating:
    """Percent replicating, as the older literature has it.

    Attributes:
        share: of groups whose median correlation is above the null's 95th percentile, 0..1; larger is better, chance is 0.05.
        names: of the groups with at least one pair, sorted.
        medians: (g,) median Pearson correlation over the pairs of a group.
        threshold: the null's 95th percentile.
        null: (s,) medians over pairs of profiles of different groups.
    """

    share: float
    names: tuple[str, ...]
    medians: Floats
    threshold: float
    null: Floats


def percent_replicating(
    features: Floats,
    groups: Sequence[str] | NDArray[np.str_],
    apart: Sequence[str] | NDArray[np.str_] | None = None,
    *,
    samples: int = 1000,
    seed: int = 0,
) -> Replicating:
    """Share of groups that correlate better than pairs of different groups (Bray et al. 2016; `copairs.replicating`).

    A null value is the median over min(median group size, 50) random pairs of different groups. Correlation is blind to the size of an effect
    and the threshold to the number of pairs of a group, which is why mean average precision replaced it; it is here to be compared with older
    numbers. The draws depend on `seed` and on the order of profiles; the reference's depend on its sampler.

    Args:
        features: (n, d) finite profiles.
        groups: n names, such as compounds.
        apart: n names in which every pair differs, of a group and of the null alike, such as plates (the reference's `diffby`); None = any pair.
        samples: medians of the null.
        seed: of its pairs.

    Raises:
        InputError: no group of two (that differ in `apart`), one group only, a profile without variance, no sample.
    """
    check_count(samples, "a number of samples of the null", instead="Its 95th percentile is of them.")
    features, names = check_features(features), np.asarray(groups, dtype=np.str_)
    # without a rule each profile is a place of its own
    places = np.arange(len(features)) if apart is None else np.unique(np.asarray(apart, dtype=np.str_), return_inverse=True)[1]
    if names.shape != (len(features),) or places.shape != names.shape:
        raise InputError(f"Expected a group for each of {len(features)} profiles, got shapes {names.shape} and {places.shape}.")
    unique, codes, counts = np.unique(names, return_inverse=True, return_counts=True)
    reach = np.bincount(np.unique(np.stack([codes, places]), axis=1)[0], minlength=len(unique))
    if len(unique) < 2 or reach.max() < 2:
        raise InputError(f"Expected several groups, one of them of at least two profiles, got {len(unique)} of at most {reach.max(initial=0)}.")
    centred = features - features.mean(axis=1, keepdims=True)
    lengths = np.linalg.norm(centred, axis=1)
    if (lengths <= 1e-12 * np.abs(features).max(axis=1, initial=1e-300)).any() or features.shape[1] < 2:
        raise InputError("Expected profiles of several different values, got one that is constant: a correlation does not exist. Leave it out.")
    x = centred / lengths[:, None]
    several = np.flatnonzero(reach > 1)
    medians = np.array([_median_of_pairs(x[codes == group], places[codes == group]) for group in several])
    pairs = min(int(np.median(counts[several])), _MOST_PAIRS)
    rng = np.random.default_rng(seed)
    first, second = _pairs_of_different(codes, places, samples * pairs, rng)
    null = np.median(np.einsum("ij,ij->i", x[first], x[second]).reshape(samples, pairs), axis=1)
    threshold = float(np.quantile(null, 0.95))
    return Replicating(float(np.mean(medians > threshold + _ROUNDING)), tuple(unique[several].tolist()), medians, threshold, null)


def _median_of_pairs(x: Floats, places: Ints) -> float:
    first, second = np.triu_indices(len(x), 1)
    return float(np.median((x @ x.T)[first, second][places[first] != places[second]]))


def _pairs_of_different(codes: Ints, places: Ints, n: int, rng: np.random.Generator) -> tuple[Ints, Ints]:
    """(n,) and (n,) profiles that differ in both: there is such a pair wherever there are two codes and two places."""
    first, second = rng.integers(0, len(codes), n), rng.integers(0, len(codes), n)
    while (same := np.flatnonzero((codes[first] == codes[second]) | (places[first] == places[second]))).size:
        first[same], second[same] = rng.integers(0, len(codes), len(same)), rng.integers(0, len(codes), len(same))
    return first, second


def control_positions(features: Floats, columns: Columns, *, samples: int = 1000, seed: int = 0) -> Replicating:
    """Percent replicating of control wells by their position: 0.05 where a position leaves no trace (less where plates differ), more where it does.

    Nothing was done to these wells, so that what one position has in common from plate to plate is the position (CPJUMP1, issue 25, where 53.1 % of
    positions replicate in plate-normalised CellProfiler profiles). The pairs of a position lie on different plates, and those of the null in
    different positions on different plates: a plate is on neither side. In CPJUMP1 the null may hold pairs of one plate.

    Args:
        features: (n, d) finite profiles of control wells.
        columns: n values each of `plate` and `well`; a well whose position is missing takes no part.
        samples: medians of the null.
        seed: of its pairs.

    Raises:
        InputError: a column is missing or too short, one plate, one position, no position on two plates; as `percent_replicating`.
    """
    features = check_features(features)
    plates, wells = column_values(columns, PLATE, len(features)), _positions(columns, WELL, len(features))
    known = wells != ""
    if not known.any():
        raise InputError(f"Expected control wells with a position, got {len(known)} without.")
    features, plates, wells = features[known], plates[known], wells[known]
    for what, values in (("on several plates", plates), ("in several positions", wells)):
        if len(np.unique(values)) < 2:
            raise InputError(f"Expected control wells {what}, got all of them at `{values[0]}`.")
    if len(np.unique(np.stack([plates, wells]), axis=1)[0]) == len(np.unique(wells)):
        raise InputError("Expected a position with control wells on two plates, got none: no position is met again.")
    return percent_replicating(features, wells, plates, samples=samples, seed=seed)


def _positions(columns: Columns, name: str, n: int) -> NDArray[np.str_]:
    """(n,) values of a column, "" where they are missing; errors as `column_values`."""
    filled = {name: whole_names(columns[name], "positions", missing="")} if name in columns else {}
    return column_values({**columns, **filled}, name, n)

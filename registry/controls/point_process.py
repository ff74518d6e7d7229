"""`point-process`: the classical statistics of point patterns, of all nuclei, of each type and between types."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import numpy as np

from registry.arrays import Floats
from registry.controls.base import FormulaControl, control_card
from registry.controls.pattern import Pattern, Window, patterns
from registry.controls.second_order import Pairs, bandwidth_um, pair_correlation, pairs_between, pairs_within, ripley_l
from registry.controls.spacing import (
    PROBES,
    clark_evans,
    count_shape,
    counts_within,
    distances_to,
    excess_of_j,
    neighbour_distances,
    occupied,
    probes,
    quantiles,
)
from registry.representation import Batch, Facts

NAME = "point-process"
#: distances at which functions of distance are read; those up to a quarter of the window's shorter side are used
RADII_UM = (4.0, 6.0, 9.0, 13.0, 19.0, 28.0, 42.0, 63.0)
QUANTILES = (0.1, 0.25, 0.5, 0.75, 0.9)
#: in place of the index of a type: all points, typed or not
EVERY = -2
#: fewer points than this have no statistics
LEAST_POINTS = 3
WITHIN = ("L - r", "g - 1", "G", "F", "J - 1", "count dispersion", "count skewness", "neighbour dispersion", "neighbour skewness")
BETWEEN = ("L - r", "g - 1")
NEAREST = ("mean", "sd", *(f"quantile {q:g}" for q in QUANTILES))


class PointProcess(FormulaControl):
    """Point process statistics in um, with edge correction in the ordinary window of the image.

    For all nuclei and for each type: nearest-neighbour distances, Clark-Evans R, L(r) - r and g(r) - 1 (translation correction),
    G, F, J - 1 and counts in discs about probes and about points (border correction). For each pair of types: L(r) - r, g(r) - 1 and
    nearest-neighbour distances both ways. A statistic that is not defined (fewer than LEAST_POINTS points, an empty sample)
    is 0, and the `undefined` column of its block says which share of the block that is.

    Args:
        facts: the types of nuclei and the size of the images.
    """

    def __init__(self, facts: Facts) -> None:
        card = control_card(
            NAME,
            "Point patterns of the nuclei, per type and between types: distances, Clark-Evans, L, pair correlation, G, F, J, counts in cells.",
            citation="Baddeley, Rubak and Turner (2015), Spatial Point Patterns",
        )
        super().__init__(card, facts, "it needs the table of nuclei, which a new image does not have")
        self._types = facts.nuclear_types if len(facts.nuclear_types) > 1 else ()
        self._radii_um = radii_within(Window.of(facts.image))

    @property
    def columns(self) -> tuple[str, ...]:
        """Names such as `all: G(9 um)`."""
        at = [f"({radius:g} um)" for radius in self._radii_um]
        within = [*(f"nearest {n}" for n in NEAREST), "Clark-Evans - 1", *(f"{name}{r}" for name in WITHIN for r in at), "undefined"]
        between = [*(f"{name}{r}" for name in BETWEEN for r in at), *(f"nearest {n} {way}" for way in ("to", "from") for n in NEAREST), "undefined"]
        blocks = [f"{block}: {name}" for block in ("all", *self._types) for name in within]
        return (*blocks, *(f"{a} to {b}: {name}" for a, b in combinations(self._types, 2) for name in between))

    def describe(self, batch: Batch) -> Floats:
        """(n, d) statistics of each image's nuclei."""
        return np.stack([self._statistics(pattern) for pattern in patterns(batch, self.facts)])

    def _statistics(self, pattern: Pattern) -> Floats:
        neighbourhood = Neighbourhood.of(pattern, len(self._types), self._radii_um)
        blocks = [within_block(neighbourhood, mark) for mark in (EVERY, *range(len(self._types)))]
        blocks += [between_block(neighbourhood, a, b) for a, b in combinations(range(len(self._types)), 2)]
        return np.concatenate([indicated(block) for block in blocks])


def radii_within(window: Window) -> Floats:
    """The radii used in a window: those of RADII_UM up to a quarter of its shorter side, at least the first two."""
    limit = min(window.width_um, window.height_um) / 4
    return np.array([radius for i, radius in enumerate(RADII_UM) if i < 2 or radius <= limit])


def indicated(values: Floats) -> Floats:
    """Values with NaN replaced by 0 and one more column, the share that was NaN."""
    undefined = np.isnan(values)
    return np.concatenate([np.where(undefined, 0.0, values), [undefined.mean()]])


@dataclass(frozen=True)
class Neighbourhood:
    """A pattern, its parts by type, and who is near whom: found once, used by every block.

    Attributes:
        parts: all points at EVERY, those of each type at its index.
        pairs: pairs of points.
        from_probes: pairs of a probe (first) and a point (second).
        radii_um: where functions of distance are read.
    """

    parts: dict[int, Pattern]
    pairs: Pairs
    from_probes: Pairs
    radii_um: Floats

    @classmethod
    def of(cls, pattern: Pattern, types: int, radii_um: Floats) -> Neighbourhood:
        """Find the pairs that any block needs."""
        parts = {EVERY: pattern} | {mark: pattern.of_mark(mark) for mark in range(types)}
        widest_um = max((bandwidth_um(part) for part in parts.values() if len(part) >= LEAST_POINTS), default=0.0)
        from_probes = pairs_between(probes(pattern.window), pattern, radii_um[-1])
        return cls(parts, pairs_within(pattern, radii_um[-1] + widest_um), from_probes, radii_um)

    def pairs_of(self, a: int, b: int) -> Pairs:
        """Pairs of one point of each type."""
        if a == EVERY:
            return self.pairs
        mark = self.parts[EVERY].mark
        one, other = mark[self.pairs.first], mark[self.pairs.second]
        return self.pairs.chosen(((one == a) & (other == b)) | ((one == b) & (other == a)))

    def discs_about_probes(self, mark: int) -> Floats:
        """(r, probes) points of a type within each radius of each probe."""
        near = self.from_probes
        if mark != EVERY:
            near = near.chosen(self.parts[EVERY].mark[near.second] == mark)
        return counts_within(near.first, near.distance_um, PROBES**2, self.radii_um)

    def discs_about_points(self, mark: int, pairs: Pairs) -> Floats:
        """(r, points of the type) other points of the type within each radius of each."""
        pattern = self.parts[EVERY]
        ends, distance_um = np.concatenate([pairs.first, pairs.second]), np.tile(pairs.distance_um, 2)
        counts = counts_within(ends, distance_um, len(pattern), self.radii_um)
        return counts if mark == EVERY else counts[:, pattern.mark == mark]


def within_block(near: Neighbourhood, mark: int) -> Floats:
    """Statistics of the points of one type; NaN where undefined."""
    pattern, radii_um = near.parts[mark], near.radii_um
    n, area_um2 = len(pattern), pattern.window.area_um2
    if n < LEAST_POINTS:
        return np.full(len(NEAREST) + 1 + len(WITHIN) * len(radii_um), np.nan)
    nearest_um = neighbour_distances(pattern, 1)[:, 0]
    pairs, possible = near.pairs_of(mark, mark), n * (n - 1) // 2
    about_probes, about_points = near.discs_about_probes(mark), near.discs_about_points(mark, pairs)
    probes_inside, points_inside = (p.border_um[None, :] >= radii_um[:, None] for p in (probes(pattern.window), pattern))
    g, f = occupied(about_points, points_inside), occupied(about_probes, probes_inside)
    functions = [
        ripley_l(pairs, possible, area_um2, radii_um),
        pair_correlation(pairs, possible, area_um2, radii_um, bandwidth_um(pattern)) - 1,
        *(g, f, excess_of_j(g, f)),
        *count_shape(about_probes, probes_inside),
        *count_shape(about_points, points_inside),
    ]
    return np.concatenate([_spread(nearest_um), [clark_evans(pattern, nearest_um) - 1], *functions])


def between_block(near: Neighbourhood, a: int, b: int) -> Floats:
    """Statistics between the points of two types; NaN where undefined."""
    first, second, radii_um = near.parts[a], near.parts[b], near.radii_um
    if min(len(first), len(second)) < LEAST_POINTS:
        return np.full(len(BETWEEN) * len(radii_um) + 2 * len(NEAREST), np.nan)
    pairs, possible, area_um2 = near.pairs_of(a, b), len(first) * len(second), first.window.area_um2
    g = pair_correlation(pairs, possible, area_um2, radii_um, bandwidth_um(second))
    return np.concatenate(
        [ripley_l(pairs, possible, area_um2, radii_um), g - 1, _spread(distances_to(first, second)), _spread(distances_to(second, first))]
    )


def _spread(distances_um: Floats) -> Floats:
    return np.array([distances_um.mean(), distances_um.std(), *quantiles(distances_um, np.array(QUANTILES))])

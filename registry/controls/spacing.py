"""Nearest-neighbour distances, empty space and counts in discs of point patterns, with edge correction."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np

from registry.arrays import Floats, Ints, Mask
from registry.controls.pattern import Pattern, Window

#: rows and columns of the grid of probes that empty space is measured from
PROBES = 24
#: J = (1 - G) / (1 - F) is left undefined where fewer probes than this are farther than r from any point
LEAST_EMPTY = 0.05


def neighbour_distances(pattern: Pattern, number: int) -> Floats:
    """(n, number) distances in um from each point to its nearest other points, by rising distance; inf where there are fewer."""
    distances = np.asarray(pattern.tree.query(pattern.xy_um, k=number + 1)[0])
    return distances[:, 1:]


def distances_to(places: Pattern, pattern: Pattern) -> Floats:
    """(places,) distance in um from each place to the nearest point of another pattern."""
    return np.asarray(pattern.tree.query(places.xy_um)[0])


def clark_evans(pattern: Pattern, nearest_um: Floats) -> float:
    """Clark and Evans' R: the mean nearest-neighbour distance over that of complete spatial randomness, by Donnelly's edge correction.

    1 under randomness, 2.149 for a hexagonal lattice, 2 for a square one, less than 1 for clusters. Donnelly (1978) adds
    (0.0514 + 0.041 / sqrt(n)) * perimeter / n to the expected distance 1 / (2 sqrt(density)): points near the border have lost neighbours.
    """
    n, window = len(pattern), pattern.window
    perimeter_um = 2 * (window.width_um + window.height_um)
    expected = 0.5 / np.sqrt(pattern.density_per_um2) + (0.0514 + 0.041 / np.sqrt(n)) * perimeter_um / n
    return float(nearest_um.mean() / expected)


@lru_cache(maxsize=8)
def probes(window: Window) -> Pattern:
    """Centres of a regular PROBES x PROBES grid over the window."""
    steps = (np.arange(PROBES) + 0.5) / PROBES
    grid = np.stack(np.meshgrid(steps * window.width_um, steps * window.height_um), axis=-1).reshape(-1, 2)
    return Pattern(window, grid, np.full(len(grid), -1, dtype=np.int64))


def counts_within(place: Ints, distance_um: Floats, places: int, radii_um: Floats) -> Floats:
    """(r, places) points within each radius of each place, from the places of pairs (place, point) and their distances."""
    ring = np.searchsorted(radii_um, distance_um)
    near = ring < len(radii_um)
    per_ring = np.bincount(ring[near] * places + place[near], minlength=len(radii_um) * places).reshape(len(radii_um), places)
    return np.cumsum(per_ring, axis=0).astype(np.float64)


def occupied(counts: Floats, used: Mask) -> Floats:
    """(r,) share of discs that hold a point, NaN where no disc is used.

    Of discs about points that is G, the distribution of the distance to the nearest neighbour; about probes it is F, that of empty space;
    both by the border ("reduced sample") correction if only discs inside the window are used.
    """
    return _ratio(((counts > 0) & used).sum(axis=1), used.sum(axis=1))


def excess_of_j(g: Floats, f: Floats) -> Floats:
    """(r,) J(r) - 1 with J = (1 - G) / (1 - F): below 0 for clusters, above for regular patterns; NaN where F leaves too little empty."""
    empty = np.where(1 - f >= LEAST_EMPTY, 1 - f, np.nan)
    return (1 - g) / empty - 1


class CountShape(NamedTuple):
    """How counts in discs are distributed, per radius.

    Attributes:
        dispersion: (r,) log of variance over mean, 0 for a Poisson process; NaN where the counts do not vary.
        skewness: (r,) the third order, beyond what K holds; NaN where the counts do not vary.
    """

    dispersion: Floats
    skewness: Floats


def count_shape(counts: Floats, used: Mask) -> CountShape:
    """Second and third order of counts in discs.

    Args:
        counts: (r, m) counts.
        used: (r, m) which discs count (those inside the window).
    """
    number = used.sum(axis=1)
    mean = _ratio((counts * used).sum(axis=1), number)
    centred = (counts - mean[:, None]) * used
    squared = centred * centred
    variance, third = _ratio(squared.sum(axis=1), number), _ratio((squared * centred).sum(axis=1), number)
    varying = np.where(variance > 0, variance, np.nan)
    return CountShape(np.log(varying / mean), third / varying**1.5)


def quantiles(values: Floats, levels: Floats) -> Floats:
    """Quantiles of a sample that is not empty, by linear interpolation as `numpy.quantile`, which takes longer to start than to sort."""
    return np.interp(levels * (len(values) - 1), np.arange(len(values)), np.sort(values))


def _ratio(numerator: np.ndarray, denominator: np.ndarray) -> Floats:
    return numerator / np.where(denominator > 0, denominator, np.nan)

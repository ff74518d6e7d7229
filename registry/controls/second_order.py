"""Ripley's K and L and the pair correlation of point patterns, with translation edge correction."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from registry.arrays import Floats, Ints, Mask
from registry.controls.pattern import Pattern

#: half-width of the pair correlation's kernel, in units of the mean spacing (Stoyan and Stoyan 1994; spatstat's default)
STOYAN = 0.15


@dataclass(frozen=True)
class Pairs:
    """Pairs of points that are not too far apart, each once.

    Attributes:
        first: (m,) index of one point.
        second: (m,) index of the other point.
        distance_um: (m,) their distances.
        weight: (m,) |W| over the area in which the window and the window shifted by the pair's difference overlap (Ohser 1983).
    """

    first: Ints
    second: Ints
    distance_um: Floats
    weight: Floats

    def chosen(self, which: Mask) -> Pairs:
        """Some of the pairs."""
        return Pairs(self.first[which], self.second[which], self.distance_um[which], self.weight[which])


def pairs_within(pattern: Pattern, reach_um: float) -> Pairs:
    """All pairs of distinct points of one pattern at most `reach_um` apart."""
    found = pattern.tree.query_pairs(reach_um, output_type="ndarray")
    return _pairs(pattern, pattern, found[:, 0], found[:, 1])


def pairs_between(first: Pattern, second: Pattern, reach_um: float) -> Pairs:
    """All pairs of a point of `first` and a point of `second` at most `reach_um` apart."""
    found = first.tree.sparse_distance_matrix(second.tree, reach_um, output_type="ndarray")
    return _pairs(first, second, found["i"], found["j"])


def _pairs(one: Pattern, other: Pattern, i: Ints, j: Ints) -> Pairs:
    window = one.window
    dx, dy = np.abs(one.xy_um[i] - other.xy_um[j]).T
    overlap = (window.width_um - dx) * (window.height_um - dy)
    weight = window.area_um2 / np.maximum(overlap, 1e-12 * window.area_um2)
    return Pairs(i.astype(np.int64), j.astype(np.int64), np.hypot(dx, dy), weight)


def bandwidth_um(pattern: Pattern) -> float:
    """Half-width of the pair correlation's kernel for the spacing of a pattern with at least one point."""
    return STOYAN / math.sqrt(pattern.density_per_um2)


def ripley_l(pairs: Pairs, possible: int, area_um2: float, radii_um: Floats) -> Floats:
    """(r,) L(r) - r in um, 0 in expectation under complete spatial randomness.

    L = sqrt(K / pi), K(r) = |W| / possible * sum of the weights of pairs with distance <= r, as astropy's `RipleysKEstimator` with
    `mode="translation"`; of pairs between two types, the cross-type K.

    Args:
        pairs: all that are at most the largest radius apart.
        possible: pairs there are at any distance: n (n - 1) / 2 within one pattern, n_a n_b between two.
        area_um2: of the window.
        radii_um: (r,) where to read the function.
    """
    order = np.argsort(pairs.distance_um, kind="stable")
    cumulative = np.concatenate([[0.0], np.cumsum(pairs.weight[order])])
    within = np.searchsorted(pairs.distance_um[order], radii_um, side="right")
    result: Floats = np.sqrt(area_um2 / possible * cumulative[within] / np.pi) - radii_um
    return result


def pair_correlation(pairs: Pairs, possible: int, area_um2: float, radii_um: Floats, width_um: float) -> Floats:
    """(r,) g(r), 1 in expectation under complete spatial randomness.

    g(r) = K'(r) / (2 pi r) with an Epanechnikov kernel and translation correction. The kernel is renormalised where it would reach
    below distance 0 (spatstat's `pcf` leaves that bias in).

    Args:
        pairs: all that are at most the largest radius and the kernel's width apart.
        possible: as in `ripley_l`.
        area_um2: of the window.
        radii_um: (r,) where to read the function.
        width_um: half-width of the kernel.
    """
    offset = (radii_um[:, None] - pairs.distance_um[None, :]) / width_um
    kernel = 0.75 / width_um * np.clip(1 - offset**2, 0, None)
    below = np.clip(radii_um / width_um, 0, 1)
    mass = 0.5 + 0.75 * (below - below**3 / 3)
    result: Floats = area_um2 / possible * (kernel @ pairs.weight) / (2 * np.pi * radii_um * mass)
    return result

"""Graphs of nuclei: Delaunay triangulation with its Voronoi cells, nearest neighbours, clustering and assortativity."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from registry.arrays import Floats, Ints, Mask
from registry.controls.pattern import Pattern


@dataclass(frozen=True)
class Triangulation:
    """Delaunay triangulation of a pattern.

    Attributes:
        edges: (e, 2) pairs of points, smaller index first, each once.
        length_um: (e,) their lengths.
        neighbours: (n,) edges at each point.
        hull: (n,) points on the convex hull.
        cell_um2: (n,) Voronoi areas; NaN where the cell is not wholly inside the window.
        cell_perimeter_um: (n,) Voronoi perimeters; NaN in the same places.
    """

    edges: Ints
    length_um: Floats
    neighbours: Ints
    hull: Mask
    cell_um2: Floats
    cell_perimeter_um: Floats


def triangulate(pattern: Pattern) -> Triangulation | None:
    """Delaunay triangulation; None where there is none (fewer than three points, or all on one line)."""
    from scipy.spatial import Delaunay, QhullError

    if len(pattern) < 3:
        return None
    try:
        delaunay = Delaunay(pattern.xy_um)
    except QhullError:
        return None
    n = len(pattern)
    edges = _edges(delaunay.simplices, n)
    length = np.linalg.norm(pattern.xy_um[edges[:, 0]] - pattern.xy_um[edges[:, 1]], axis=1)
    hull = np.zeros(n, dtype=bool)
    hull[delaunay.convex_hull] = True
    # qhull leaves out points that coincide with others
    hull[delaunay.coplanar[:, 0]] = True
    area, perimeter = _cells(pattern, delaunay.simplices.astype(np.int64), delaunay.neighbors.astype(np.int64), hull)
    return Triangulation(edges, length, np.bincount(edges.ravel(), minlength=n), hull, area, perimeter)


def _edges(triangles: NDArray[np.integer], n: int) -> Ints:
    """Each side of the triangles once."""
    sides = np.sort(np.concatenate([triangles[:, [0, 1]], triangles[:, [1, 2]], triangles[:, [2, 0]]]).astype(np.int64), axis=1)
    key = np.unique(sides[:, 0] * n + sides[:, 1])
    return np.stack([key // n, key % n], axis=1)


def _cells(pattern: Pattern, triangles: Ints, neighbours: Ints, hull: Mask) -> tuple[Floats, Floats]:
    """Areas and perimeters of the Voronoi cells that lie inside the window.

    A Voronoi edge joins the circumcentres of the two triangles at a Delaunay edge and lies on the perpendicular bisector, so
    that edge and point span a triangle of area length * |Delaunay edge| / 4.
    """
    n = len(pattern)
    centre = _circumcentres(pattern.xy_um[triangles])
    inside: Mask = pattern.window.distance_to_border_um(centre) >= 0
    whole = ~hull
    whole[triangles[~inside]] = False
    # side k of a triangle lies opposite its corner k, towards neighbours[:, k]
    triangle, side = np.nonzero(neighbours >= 0)
    a, b = triangles[triangle, (side + 1) % 3], triangles[triangle, (side + 2) % 3]
    dual = np.linalg.norm(centre[triangle] - centre[neighbours[triangle, side]], axis=1)
    piece = dual * np.linalg.norm(pattern.xy_um[a] - pattern.xy_um[b], axis=1) / 4
    # every inner side is met from both of its triangles, and each time counted for both ends
    ends = np.concatenate([a, b])
    area = np.bincount(ends, np.tile(piece, 2), minlength=n) / 2
    perimeter = np.bincount(ends, np.tile(dual, 2), minlength=n) / 2
    return np.where(whole, area, np.nan), np.where(whole, perimeter, np.nan)


def _circumcentres(corners: Floats) -> Floats:
    """(t, 2) centres of the circles through (t, 3, 2) corners; flat triangles have theirs far outside."""
    origin = corners[:, 0]
    p, q = corners[:, 1] - origin, corners[:, 2] - origin
    twice_area = 2 * (p[:, 0] * q[:, 1] - p[:, 1] * q[:, 0])
    twice_area = np.where(np.abs(twice_area) > 1e-12, twice_area, 1e-12)
    pp, qq = (p**2).sum(axis=1), (q**2).sum(axis=1)
    x = (q[:, 1] * pp - p[:, 1] * qq) / twice_area
    y = (p[:, 0] * qq - q[:, 0] * pp) / twice_area
    centre: Floats = origin + np.stack([x, y], axis=1)
    return centre


def nearest_edges(pattern: Pattern, k: int) -> Ints:
    """(e, 2) undirected edges from each point to its k nearest others, each once."""
    n = len(pattern)
    near = pattern.tree.query(pattern.xy_um, k=k + 1)[1].astype(np.int64)
    start, end = np.repeat(np.arange(n), k + 1), near.ravel()
    proper = start != end
    low, high = np.minimum(start, end)[proper], np.maximum(start, end)[proper]
    key = np.unique(low * n + high)
    return np.stack([key // n, key % n], axis=1)


def clustering(edges: Ints, n: int) -> Floats:
    """(n,) local clustering coefficient (Watts and Strogatz 1998): the share of a point's neighbours that are neighbours; 0 below two."""
    from scipy.sparse import coo_array

    ones = np.ones(2 * len(edges))
    adjacency = coo_array((ones, (edges.ravel(order="F"), edges[:, ::-1].ravel(order="F"))), shape=(n, n)).tocsr()
    closed: Floats = np.asarray((adjacency @ adjacency).multiply(adjacency).sum(axis=1), dtype=np.float64)
    degree = np.bincount(edges.ravel(), minlength=n)
    possible = degree * (degree - 1)
    return closed / np.where(possible > 0, possible, 1)


def mixing(edges: Ints, mark: Ints, types: int) -> Floats:
    """(types, types) share of edge ends that lead from one type to another; untyped points are left out; zeros without edges."""
    a, b = mark[edges[:, 0]], mark[edges[:, 1]]
    typed = (a >= 0) & (b >= 0)
    counts = np.bincount(a[typed] * types + b[typed], minlength=types * types).reshape(types, types).astype(np.float64)
    both = counts + counts.T
    result: Floats = both / max(both.sum(), 1.0)
    return result


def assortativity(mixed: Floats) -> float:
    """Newman's attribute assortativity of a mixing matrix (2003): 1 if edges join like to like, 0 at random; NaN with one type."""
    expected = float((mixed.sum(axis=0) * mixed.sum(axis=1)).sum())
    if mixed.sum() == 0 or expected >= 1 - 1e-12:
        return float("nan")
    return (float(np.trace(mixed)) - expected) / (1 - expected)

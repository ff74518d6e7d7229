"""`cell-graph`: Delaunay and nearest-neighbour graphs of the nuclei, their Voronoi cells and how types mix on them."""

from __future__ import annotations

from itertools import combinations_with_replacement

import numpy as np

from registry.arrays import Floats
from registry.controls.base import FormulaControl, control_card
from registry.controls.graph import Triangulation, assortativity, clustering, mixing, nearest_edges, triangulate
from registry.controls.pattern import Pattern, patterns
from registry.controls.point_process import indicated
from registry.controls.spacing import neighbour_distances, quantiles
from registry.representation import Batch, Facts

NAME = "cell-graph"
#: neighbours of the nearest-neighbour graph (squidpy's default is 6)
NEIGHBOURS = 6
#: which neighbour's distance is described
RANKS = (1, 2, 3, 4, 6, 8, 12)
DEGREES = (3, 4, 5, 6, 7, 8)
QUANTILES = (0.1, 0.5, 0.9)
SHAPE = ("mean", "sd", "coefficient of variation", "skewness", *(f"quantile {q:g}" for q in QUANTILES))


class CellGraph(FormulaControl):
    """Statistics of the graphs of nuclei, in um and per type.

    Delaunay: degrees and edge lengths away from the hull (hull edges are as long as the window lets them be), clustering; Voronoi areas
    and roundness of the cells wholly inside the window; distances to the n-th neighbour of points that far from the border; the graph of
    nearest neighbours; on both graphs how types mix. A statistic that is not defined is 0, and the `undefined` column of its
    block says which share of the block that is.

    Args:
        facts: the types of nuclei and the size of the images.
    """

    def __init__(self, facts: Facts) -> None:
        card = control_card(
            NAME,
            "Degrees, edge lengths, clustering, Voronoi areas and class assortativity of the Delaunay and nearest-neighbour graphs of the nuclei.",
        )
        super().__init__(card, facts, "it needs the table of nuclei, which a new image does not have")
        self._types = facts.nuclear_types if len(facts.nuclear_types) > 1 else ()

    @property
    def columns(self) -> tuple[str, ...]:
        """Names such as `delaunay: length mean`."""
        return (
            *(f"delaunay: {name}" for name in ("degree mean", "degree sd", *(f"degree {d}" for d in DEGREES), "clustering")),
            *(f"delaunay: length {name}" for name in SHAPE),
            *(f"voronoi: {what} {name}" for what in ("area", "roundness") for name in SHAPE),
            *("voronoi: disorder", "delaunay: undefined"),
            *(f"neighbour {rank}: distance {name}" for rank in RANKS for name in SHAPE),
            *(f"nearest: {name}" for name in ("degree mean", "degree sd", "clustering", "undefined")),
            *self._mixing_columns(),
        )

    def _mixing_columns(self) -> tuple[str, ...]:
        if not self._types:
            return ()
        pairs = [f"{a} with {b}" for a, b in combinations_with_replacement(self._types, 2)]
        of_graph = [f"{graph}: {name}" for graph in ("delaunay", "nearest") for name in ("assortativity", *(f"excess of {p}" for p in pairs))]
        return (*of_graph, *(f"voronoi: area of {t} over mean" for t in self._types), "mixing: undefined")

    def describe(self, batch: Batch) -> Floats:
        """(n, d) statistics of each image's nuclei."""
        return np.stack([self._statistics(pattern) for pattern in patterns(batch, self.facts)])

    def _statistics(self, pattern: Pattern) -> Floats:
        graph = triangulate(pattern)
        near = nearest_edges(pattern, min(NEIGHBOURS, len(pattern) - 1)) if len(pattern) > 1 else np.zeros((0, 2), dtype=np.int64)
        blocks = [delaunay_block(graph), np.concatenate([distance_block(pattern), nearest_block(near, len(pattern))])]
        if self._types:
            blocks.append(self._mixing(pattern, graph, near))
        return np.concatenate([indicated(block) for block in blocks])

    def _mixing(self, pattern: Pattern, graph: Triangulation | None, near: np.ndarray) -> Floats:
        k = len(self._types)
        edges = graph.edges if graph else np.zeros((0, 2), dtype=np.int64)
        area = graph.cell_um2 if graph else np.full(len(pattern), np.nan)
        relative = area / _mean(area)
        by_type = [_mean(relative[pattern.mark == mark]) for mark in range(k)]
        return np.concatenate([mixing_block(edges, pattern, k), mixing_block(near, pattern, k), by_type])


def delaunay_block(graph: Triangulation | None) -> Floats:
    """Degrees, clustering, edge lengths and Voronoi cells; NaN where undefined."""
    if graph is None:
        return np.full(2 + len(DEGREES) + 1 + 3 * len(SHAPE) + 1, np.nan)
    inner = ~graph.hull
    degree = graph.neighbours[inner]
    counts = np.clip(degree, DEGREES[0], DEGREES[-1])
    shares = [_mean((counts == d).astype(np.float64)) for d in DEGREES]
    lengths = graph.length_um[inner[graph.edges].any(axis=1)]
    area, perimeter = graph.cell_um2, graph.cell_perimeter_um
    whole = ~np.isnan(area)
    cells = area[whole]
    disorder = 1 / (1 + cells.std() / cells.mean()) if len(cells) else np.nan
    return np.concatenate(
        [
            [_mean(degree), degree.std() if len(degree) else np.nan, *shares, _mean(clustering(graph.edges, len(inner))[inner])],
            shape(lengths),
            shape(cells),
            shape(4 * np.pi * cells / perimeter[whole] ** 2),
            [disorder],
        ]
    )


def distance_block(pattern: Pattern) -> Floats:
    """Distances in um to the n-th neighbour for each n of RANKS, of points farther than that from the border; NaN where undefined."""
    if len(pattern) < 2:
        return np.full(len(RANKS) * len(SHAPE), np.nan)
    distances = neighbour_distances(pattern, RANKS[-1])
    return np.concatenate([shape(d[np.isfinite(d) & (d <= pattern.border_um)]) for d in (distances[:, rank - 1] for rank in RANKS)])


def nearest_block(edges: np.ndarray, n: int) -> Floats:
    """Degrees and clustering of the graph of nearest neighbours; NaN where undefined."""
    if not len(edges):
        return np.full(3, np.nan)
    degree = np.bincount(edges.ravel(), minlength=n)
    return np.array([degree.mean(), degree.std(), clustering(edges, n).mean()])


def mixing_block(edges: np.ndarray, pattern: Pattern, types: int) -> Floats:
    """Assortativity, and per pair of types the log ratio of edges found to edges expected if types were dealt to nuclei at random.

    One edge is added to both numbers, so that a pair that never meets has a finite excess; NaN for types that are not there.
    """
    mixed = mixing(edges, pattern.mark, types)
    share = np.bincount(pattern.mark[pattern.mark >= 0], minlength=types) / max((pattern.mark >= 0).sum(), 1)
    excess = []
    for a, b in combinations_with_replacement(range(types), 2):
        expected = share[a] * share[b] * (1 if a == b else 2)
        found = mixed[a, b] * (1 if a == b else 2)
        excess.append(np.log((found * len(edges) + 1) / (expected * len(edges) + 1)) if expected > 0 and len(edges) else np.nan)
    return np.array([assortativity(mixed), *excess])


def shape(values: Floats) -> Floats:
    """(7,) SHAPE of a sample; NaN for fewer than two values, skewness and variation 0 for equal ones."""
    if len(values) < 2:
        return np.full(len(SHAPE), np.nan)
    mean, sd = float(values.mean()), float(values.std())
    varies = sd > 1e-9 * abs(mean)
    skewness = float(((values - mean) ** 3).mean()) / sd**3 if varies else 0.0
    return np.array([mean, sd, sd / mean if varies else 0.0, skewness, *quantiles(values, np.array(QUANTILES))])


def _mean(values: np.ndarray) -> float:
    finite = values[~np.isnan(values)]
    return float(finite.mean()) if len(finite) else float("nan")

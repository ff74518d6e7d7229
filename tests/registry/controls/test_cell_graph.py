"""Graphs of nuclei against networkx, scipy's Voronoi cells and lattices."""

from __future__ import annotations

import networkx as nx
import numpy as np
import pytest
from scipy.spatial import Voronoi

from registry.arrays import Floats, Ints
from registry.controls.cell_graph import CellGraph, mixing_block, shape
from registry.controls.graph import assortativity, clustering, mixing, nearest_edges, triangulate
from registry.controls.pattern import Pattern, Window
from tests.registry.controls.samples import TYPES, batch_of, facts_for, nuclei_table

WINDOW = Window(200.0, 150.0)


def pattern_of(xy_um: Floats, mark: Ints | None = None, window: Window = WINDOW) -> Pattern:
    return Pattern(window, xy_um, np.zeros(len(xy_um), dtype=np.int64) if mark is None else mark)


def at_random(n: int, seed: int) -> Pattern:
    rng = np.random.default_rng(seed)
    return pattern_of(rng.uniform(0, 1, (n, 2)) * [200, 150], rng.integers(0, 3, n))


def as_networkx(edges: Ints, mark: Ints) -> nx.Graph:
    graph = nx.Graph()
    for node, kind in enumerate(mark.tolist()):
        graph.add_node(node, kind=kind)
    graph.add_edges_from(edges.tolist())
    return graph


@pytest.mark.parametrize("seed", range(3))
def test_clustering_and_assortativity_are_those_of_networkx(seed: int) -> None:
    pattern = at_random(70, seed)
    graph = triangulate(pattern)
    assert graph is not None
    for edges in (graph.edges, nearest_edges(pattern, 4)):
        reference = as_networkx(edges, pattern.mark)
        np.testing.assert_allclose(clustering(edges, 70), [nx.clustering(reference, i) for i in range(70)])
        assert assortativity(mixing(edges, pattern.mark, 3)) == pytest.approx(nx.attribute_assortativity_coefficient(reference, "kind"))
    assert np.array_equal(graph.neighbours, [d for _, d in sorted(as_networkx(graph.edges, pattern.mark).degree)])


def polygon(corners: Floats) -> tuple[float, float]:
    """Area and perimeter of a convex polygon given by unordered corners."""
    centred = corners - corners.mean(axis=0)
    ordered = corners[np.argsort(np.arctan2(centred[:, 1], centred[:, 0]))]
    following = np.roll(ordered, -1, axis=0)
    area = abs((ordered[:, 0] * following[:, 1] - ordered[:, 1] * following[:, 0]).sum()) / 2
    return area, np.linalg.norm(ordered - following, axis=1).sum()


def test_voronoi_cells_are_those_of_scipy() -> None:
    pattern = at_random(80, 4)
    graph, voronoi = triangulate(pattern), Voronoi(pattern.xy_um)
    assert graph is not None
    whole = 0
    for point in range(80):
        region = voronoi.regions[voronoi.point_region[point]]
        corners = voronoi.vertices[[v for v in region if v >= 0]]
        inside = -1 not in region and (corners >= 0).all() and (corners <= [200, 150]).all()
        assert np.isfinite(graph.cell_um2[point]) == inside
        if inside:
            whole += 1
            np.testing.assert_allclose([graph.cell_um2[point], graph.cell_perimeter_um[point]], polygon(corners))
    assert whole > 30


def test_a_hexagonal_lattice() -> None:
    step, height = 10.0, 10.0 * np.sqrt(3) / 2
    x, y = (axis.ravel() for axis in np.meshgrid(np.arange(15) + 0.25, np.arange(15) + 0.5))
    xy_um = np.stack([(x + 0.5 * (np.floor(y) % 2)) * step, y * height], axis=1)
    pattern = pattern_of(xy_um, window=Window(15.5 * step, 15 * height))
    graph = triangulate(pattern)
    assert graph is not None
    deep = pattern.border_um > 1.5 * step
    assert (graph.neighbours[deep] == 6).all()
    np.testing.assert_allclose(graph.cell_um2[deep], step * height)
    np.testing.assert_allclose(clustering(graph.edges, len(pattern))[deep], 0.4)
    roundness = 4 * np.pi * graph.cell_um2[deep] / graph.cell_perimeter_um[deep] ** 2
    np.testing.assert_allclose(roundness, np.pi / (2 * np.sqrt(3)))


def test_a_square_lattice() -> None:
    x, y = (axis.ravel() * 10.0 + 5 for axis in np.meshgrid(np.arange(12), np.arange(12)))
    facts = facts_for(("a",), (60, 60), nuclei=True)
    control = CellGraph(facts)
    table = nuclei_table(np.stack([x, y], axis=1), [TYPES[int(i)] for i in (x // 10 + y // 10) % 2])
    found = dict(zip(control.columns, control.embed(batch_of(np.zeros((1, 1, 60, 60), np.float32), [table]))[0], strict=True))
    assert found["voronoi: area mean"] == pytest.approx(100)
    assert found["voronoi: area coefficient of variation"] == pytest.approx(0, abs=1e-5)
    assert found["voronoi: disorder"] == pytest.approx(1, abs=1e-5)
    assert found["voronoi: roundness mean"] == pytest.approx(np.pi / 4, rel=1e-5)
    assert found["delaunay: length quantile 0.1"] == pytest.approx(10)
    assert found["delaunay: length quantile 0.9"] == pytest.approx(10 * np.sqrt(2))
    assert found["neighbour 4: distance mean"] == pytest.approx(10)
    # sides join unlike squares of the board, and the triangulation adds one diagonal between like ones
    assert found["delaunay: assortativity"] == pytest.approx(-1 / 3, abs=0.05)
    assert found["delaunay: undefined"] == found["mixing: undefined"] == 0


def test_nearest_edges_are_those_of_a_loop() -> None:
    pattern = at_random(40, 7)
    distance = np.hypot(*(pattern.xy_um[:, None] - pattern.xy_um[None]).transpose(2, 0, 1))
    expected = {tuple(sorted((i, int(j)))) for i in range(40) for j in np.argsort(distance[i])[1:4]}
    assert {tuple(edge) for edge in nearest_edges(pattern, 3).tolist()} == expected


def test_mixing_knows_sorted_from_shuffled() -> None:
    pattern = at_random(120, 8)
    halves = Pattern(WINDOW, pattern.xy_um, (pattern.xy_um[:, 0] > 100).astype(np.int64))
    shuffled = Pattern(WINDOW, pattern.xy_um, np.random.default_rng(0).permutation(halves.mark))
    edges = nearest_edges(pattern, 6)
    sorted_block, shuffled_block = mixing_block(edges, halves, 2), mixing_block(edges, shuffled, 2)
    assert sorted_block[0] > 0.8
    assert abs(shuffled_block[0]) < 0.15
    assert sorted_block[2] < -1
    assert np.abs(shuffled_block[1:]).max() < 0.2
    assert np.isnan(mixing_block(edges, Pattern(WINDOW, pattern.xy_um, np.zeros(120, dtype=np.int64)), 2)[:1]).all()


def test_there_is_no_triangulation_of_a_line_or_of_two_points() -> None:
    line = np.stack([np.arange(6.0), np.arange(6.0)], axis=1)
    assert triangulate(pattern_of(line)) is None
    assert triangulate(pattern_of(line[:2])) is None
    assert triangulate(pattern_of(np.full((5, 2), 3.0))) is None


def test_shape_of_a_sample() -> None:
    values = np.array([1.0, 2.0, 2.0, 9.0])
    centred = values - 3.5
    expected = [3.5, values.std(), values.std() / 3.5, (centred**3).mean() / values.std() ** 3, *np.quantile(values, [0.1, 0.5, 0.9])]
    np.testing.assert_allclose(shape(values), expected)
    assert shape(np.array([2.0, 2.0])).tolist() == [2, 0, 0, 0, 2, 2, 2]
    assert np.isnan(shape(np.array([2.0]))).all()

"""Point process statistics against astropy, known lattices, complete spatial randomness and loops."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from astropy.stats import RipleysKEstimator

from registry.arrays import Floats, Mask
from registry.controls.pattern import Pattern, Window
from registry.controls.point_process import RADII_UM, Neighbourhood, PointProcess, indicated, radii_within
from registry.controls.second_order import bandwidth_um, pair_correlation, pairs_between, pairs_within, ripley_l
from registry.controls.spacing import PROBES, clark_evans, count_shape, counts_within, excess_of_j, neighbour_distances, occupied, probes, quantiles
from tests.registry.controls.samples import batch_of, facts_for, nuclei_table

WINDOW = Window(240.0, 180.0)
RADII = np.array([5.0, 12.0, 25.0, 40.0])


def pattern_of(xy_um: Floats, window: Window = WINDOW, mark: Floats | None = None) -> Pattern:
    return Pattern(window, xy_um, np.zeros(len(xy_um), dtype=np.int64) if mark is None else mark.astype(np.int64))


def at_random(n: int, seed: int, window: Window = WINDOW) -> Pattern:
    rng = np.random.default_rng(seed)
    return pattern_of(rng.uniform(0, 1, (n, 2)) * [window.width_um, window.height_um], window, rng.integers(0, 2, n))


def clusters(n: int, seed: int) -> Pattern:
    rng = np.random.default_rng(seed)
    centres = rng.uniform(20, 160, (8, 2))
    return pattern_of(np.clip(centres[rng.integers(0, 8, n)] + rng.normal(0, 6, (n, 2)), 0, [240, 180]))


def test_l_is_that_of_astropy() -> None:
    estimator = RipleysKEstimator(area=WINDOW.area_um2, x_min=0.0, y_min=0.0, x_max=240.0, y_max=180.0)
    for pattern in (at_random(80, 0), clusters(120, 1)):
        k = estimator(pattern.xy_um, RADII, mode="translation")
        found = ripley_l(pairs_within(pattern, 60.0), len(pattern) * (len(pattern) - 1) // 2, WINDOW.area_um2, RADII)
        np.testing.assert_allclose(found, np.sqrt(k / np.pi) - RADII, rtol=1e-10)


def test_cross_l_is_that_of_a_loop() -> None:
    first, second = at_random(30, 0), at_random(45, 1)
    k = np.zeros(len(RADII))
    for a in first.xy_um:
        for b in second.xy_um:
            dx, dy = np.abs(a - b)
            k += (np.hypot(dx, dy) <= RADII) / ((240 - dx) * (180 - dy))
    k *= WINDOW.area_um2**2 / (30 * 45)
    found = ripley_l(pairs_between(first, second, 40.0), 30 * 45, WINDOW.area_um2, RADII)
    np.testing.assert_allclose(found, np.sqrt(k / np.pi) - RADII, rtol=1e-10)


def test_pair_correlation_is_that_of_a_loop() -> None:
    pattern, h = at_random(60, 3), bandwidth_um(at_random(60, 3))
    assert h == pytest.approx(0.15 / np.sqrt(60 / (240 * 180)))
    g = np.zeros(len(RADII))
    for i, a in enumerate(pattern.xy_um):
        for j, b in enumerate(pattern.xy_um):
            dx, dy = np.abs(a - b)
            u = (RADII - np.hypot(dx, dy)) / h
            if i != j:
                g += 0.75 / h * np.maximum(1 - u**2, 0) / ((240 - dx) * (180 - dy)) / (2 * np.pi * RADII)
    found = pair_correlation(pairs_within(pattern, 50.0), 60 * 59 // 2, WINDOW.area_um2, RADII, h)
    # the loop does not renormalise the kernel, which reaches below 0 at no radius here but the first
    np.testing.assert_allclose(found, g * WINDOW.area_um2**2 / (60 * 59), rtol=0.05)
    np.testing.assert_allclose(found[1:], (g * WINDOW.area_um2**2 / (60 * 59))[1:], rtol=1e-10)


def over_draws(statistic: Callable[[Pattern], Floats], draws: int = 150) -> Floats:
    return np.mean([statistic(at_random(80, 100 + seed)) for seed in range(draws)], axis=0)


def test_randomness_has_l_and_g_of_randomness() -> None:
    def l_and_g(pattern: Pattern) -> Floats:
        pairs, possible = pairs_within(pattern, 50.0), 80 * 79 // 2
        l_function = ripley_l(pairs, possible, WINDOW.area_um2, RADII)
        return np.stack([l_function / RADII, pair_correlation(pairs, possible, WINDOW.area_um2, RADII, bandwidth_um(pattern)) - 1])

    l_excess, g_excess = over_draws(l_and_g)
    np.testing.assert_allclose(l_excess[1:], 0, atol=0.03)
    np.testing.assert_allclose(g_excess, 0, atol=0.06)


def test_clark_evans_of_randomness_is_one() -> None:
    assert over_draws(lambda p: np.array(clark_evans(p, neighbour_distances(p, 1)[:, 0]))) == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize(("lattice", "expected"), [("hexagonal", 2.149), ("square", 2.0)])
def test_clark_evans_of_lattices(lattice: str, expected: float) -> None:
    step = 10.0
    height = step * (np.sqrt(3) / 2 if lattice == "hexagonal" else 1)
    window = Window(step * 200, height * 200)
    x, y = (axis.ravel() for axis in np.meshgrid(np.arange(200) + 0.25, np.arange(200) + 0.5))
    shift = 0.5 * (np.floor(y) % 2) if lattice == "hexagonal" else 0.0
    pattern = pattern_of(np.stack([(x + shift) * step, y * height], axis=1), window)
    assert clark_evans(pattern, neighbour_distances(pattern, 1)[:, 0]) == pytest.approx(expected, rel=0.005)


def test_clusters_are_seen() -> None:
    pattern = clusters(100, 0)
    assert clark_evans(pattern, neighbour_distances(pattern, 1)[:, 0]) < 0.7
    assert (ripley_l(pairs_within(pattern, 40.0), 100 * 99 // 2, WINDOW.area_um2, RADII) > 4).all()


def discs(pattern: Pattern) -> tuple[Floats, Floats, Mask, Mask]:
    """Counts about points and about probes, and which discs lie inside the window."""
    pairs, near = pairs_within(pattern, RADII[-1]), pairs_between(probes(WINDOW), pattern, RADII[-1])
    ends = np.concatenate([pairs.first, pairs.second])
    about_points = counts_within(ends, np.tile(pairs.distance_um, 2), len(pattern), RADII)
    about_probes = counts_within(near.first, near.distance_um, PROBES**2, RADII)
    inside = [p.border_um[None, :] >= RADII[:, None] for p in (pattern, probes(WINDOW))]
    return about_points, about_probes, inside[0], inside[1]


def test_g_f_and_counts_are_those_of_a_loop() -> None:
    pattern = clusters(50, 2)
    about_points, about_probes, points_inside, probes_inside = discs(pattern)
    for places, counts, inside, own in ((pattern, about_points, points_inside, 1), (probes(WINDOW), about_probes, probes_inside, 0)):
        for row, radius in enumerate(RADII):
            found, deep = [], []
            for place in places.xy_um:
                found.append(int((np.hypot(*(pattern.xy_um - place).T) <= radius).sum()) - own)
                deep.append(min(place[0], 240 - place[0], place[1], 180 - place[1]) >= radius)
            np.testing.assert_array_equal(counts[row], found)
            np.testing.assert_array_equal(inside[row], deep)
            inner = np.array(found)[deep]
            assert occupied(counts, inside)[row] == pytest.approx((inner > 0).mean())
            shape = count_shape(counts, inside)
            assert shape.dispersion[row] == pytest.approx(np.log(inner.var() / inner.mean()))
            assert shape.skewness[row] == pytest.approx(((inner - inner.mean()) ** 3).mean() / inner.std() ** 3)


def test_randomness_has_g_f_and_j_of_randomness() -> None:
    def g_and_f(pattern: Pattern) -> Floats:
        about_points, about_probes, points_inside, probes_inside = discs(pattern)
        return np.stack([occupied(about_points, points_inside), occupied(about_probes, probes_inside)])

    g, f = over_draws(g_and_f)
    expected = 1 - np.exp(-80 / WINDOW.area_um2 * np.pi * RADII**2)
    np.testing.assert_allclose(g[:3], expected[:3], atol=0.02)
    np.testing.assert_allclose(f[:3], expected[:3], atol=0.02)
    np.testing.assert_allclose(excess_of_j(expected, expected)[:2], 0, atol=1e-12)
    assert np.isnan(excess_of_j(np.array([1.0]), np.array([0.99]))).all()


def test_quantiles_are_those_of_numpy() -> None:
    for n in (1, 2, 7, 100):
        values, levels = np.random.default_rng(n).normal(size=n), np.array([0.0, 0.1, 0.5, 0.77, 1.0])
        np.testing.assert_allclose(quantiles(values, levels), np.quantile(values, levels))


def test_radii_fit_the_window() -> None:
    assert radii_within(Window(240, 1000)).tolist() == [r for r in RADII_UM if r <= 60]
    assert radii_within(Window(8, 8)).tolist() == list(RADII_UM[:2])


def test_the_pairs_of_types_are_those_found_type_by_type() -> None:
    pattern = at_random(90, 5)
    near = Neighbourhood.of(pattern, 2, RADII)
    for a, b in ((0, 0), (1, 1), (0, 1)):
        found = near.pairs_of(a, b)
        alone = pairs_within(pattern.of_mark(a), 60.0) if a == b else pairs_between(pattern.of_mark(a), pattern.of_mark(b), 60.0)
        for radius in RADII:
            assert found.weight[found.distance_um <= radius].sum() == pytest.approx(alone.weight[alone.distance_um <= radius].sum())


def test_what_is_undefined_is_zero_and_counted() -> None:
    assert indicated(np.array([1.0, np.nan, 3.0, np.nan])).tolist() == [1.0, 0.0, 3.0, 0.0, 0.5]
    facts = facts_for(("a",), (96, 96), nuclei=True)
    control = PointProcess(facts)
    one_type = nuclei_table(at_random(40, 0, Window(192.0, 192.0)).xy_um, ["tumour"] * 40)
    found = dict(zip(control.columns, control.embed(batch_of(np.zeros((1, 1, 96, 96), np.float32), [one_type]))[0], strict=True))
    assert found["stroma: undefined"] == found["stroma to tumour: undefined"] == 1
    assert found["stroma: Clark-Evans - 1"] == 0
    assert found["all: undefined"] == found["tumour: undefined"] < 0.2
    assert found["all: L - r(13 um)"] == found["tumour: L - r(13 um)"] != 0

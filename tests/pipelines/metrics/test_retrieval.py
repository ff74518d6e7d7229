from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import kstest

from pipelines.metrics.geometry import describe
from pipelines.metrics.ranking import expected_ap, tie_aware_ap
from pipelines.metrics.retrieval import has_query, permutation_null, retrieve
from registry.errors import InputError
from tests.pipelines.metrics.data import images


def _slow(x: np.ndarray, labels: np.ndarray, units: np.ndarray, folds: np.ndarray | None = None) -> tuple[float, float]:
    """Mean AP and mean normalised AP, query by query, with distances rounded so that equal ones tie."""
    fold = np.zeros(len(x)) if folds is None else folds
    by_class: dict[int, list[tuple[float, float]]] = {}
    for q in range(len(x)):
        candidates = (units != units[q]) & (fold == fold[q])
        relevant = labels[candidates] == labels[q]
        m, n = int(relevant.sum()), int((~relevant).sum())
        if m and n:
            distance = np.sqrt(((x[candidates] - x[q]) ** 2).sum(axis=1)).round(9)
            ap, chance = tie_aware_ap(-distance, relevant), expected_ap(m, n)
            by_class.setdefault(int(labels[q]), []).append((ap, (ap - chance) / (1 - chance)))
    means = np.mean([np.mean(rows, axis=0) for rows in by_class.values()], axis=0)
    return float(means[0]), float(means[1])


@pytest.mark.parametrize("n_units", [4, 25])
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("k", [2, 3])
def test_leaving_a_unit_out_is_computing_without_it(n_units: int, tied: bool, k: int) -> None:
    data = images(75, n_units, k, seed=n_units + k)
    x = data.noise[:, :1].round() if tied else data.noise
    found = retrieve(x, data.labels, data.units, k)
    assert (found.map.value, found.normalised.value) == pytest.approx(_slow(x, data.labels, data.units), abs=1e-12)
    for i, unit in enumerate(found.map.units):
        keep = data.units != unit
        expected = _slow(x[keep], data.labels[keep], data.units[keep])
        assert (found.map.without[i], found.normalised.without[i]) == pytest.approx(expected, abs=1e-12)


def test_candidates_stay_in_the_fold_of_their_query() -> None:
    data = images(80, 8, 2, seed=3)
    _, codes = np.unique(data.units, return_inverse=True)
    found = retrieve(data.noise, data.labels, data.units, 2, folds=codes % 2)
    assert (found.map.value, found.normalised.value) == pytest.approx(_slow(data.noise, data.labels, data.units, codes % 2), abs=1e-12)
    keep = data.units != found.map.units[5]
    expected = _slow(data.noise[keep], data.labels[keep], data.units[keep], (codes % 2)[keep])
    assert found.map.without[5] == pytest.approx(expected[0], abs=1e-12)


def test_share_is_of_queries_within_a_class() -> None:
    labels = np.array([0, 0, 0, 0, 1, 1, 1])
    units = np.array(["a", "a", "b", "c", "a", "b", "c"])
    found = retrieve(np.arange(7.0)[:, None], labels, units, 2)
    assert found.map.share == pytest.approx([(2 / 4 + 1 / 3) / 2, (1 / 4 + 1 / 3) / 2, (1 / 4 + 1 / 3) / 2])


def test_average_precision_equals_copairs_without_ties(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))  # copairs keeps caches there
    from copairs.map import average_precision

    data = images(120, 6, 5, seed=4)
    meta = pd.DataFrame({"label": data.labels, "unit": data.units})
    reference = average_precision(meta, data.noise, ["label"], ["unit"], [], ["label", "unit"], distance="euclidean", progress_bar=False)
    found = retrieve(data.noise, data.labels, data.units, 5)
    assert found.ap == pytest.approx(reference["average_precision"].to_numpy(), abs=1e-12)
    normalised = ((found.ap - found.chance) / (1 - found.chance)).clip(-1, 1)
    assert normalised == pytest.approx(reference["normalized_average_precision"].to_numpy(), abs=1e-6)


@pytest.mark.parametrize("value", [0.0, 3.7, -1e6])
def test_constant_embeddings_are_at_chance_exactly_and_flagged(value: float) -> None:
    data = images(100, 12, 3, seed=6)
    x = np.full((100, 16), value, dtype=np.float32)
    found = retrieve(x, data.labels, data.units, 3)
    assert found.ap == pytest.approx(found.chance, abs=1e-15)
    assert found.normalised.value == pytest.approx(0, abs=1e-14)
    assert found.normalised.without == pytest.approx(np.zeros(12), abs=1e-14)
    assert found.tie_rate == 1.0
    assert describe(x).flags == ["collapsed", "low_rank"]
    assert permutation_null(x, data.labels, data.units, 3, n_permutations=19).p == 1.0


def test_float32_rounding_of_a_constant_is_still_a_constant() -> None:
    rng = np.random.default_rng(0)
    data = images(100, 12, 2, seed=6)
    x = (np.float32(0.3) + 3e-8 * rng.normal(size=(100, 16))).astype(np.float32)
    assert np.ptp(x) > 0
    assert describe(x).collapsed
    assert retrieve(x, data.labels, data.units, 2).normalised.value == pytest.approx(0, abs=1e-14)


def test_a_random_count_is_at_chance_where_ranking_ties_first_would_be_perfect() -> None:
    rng = np.random.default_rng(7)
    data = images(240, 12, 20, seed=7)
    count = rng.poisson(6, size=(240, 1)).astype(float)
    found = retrieve(count, data.labels, data.units, 20)
    null = permutation_null(count, data.labels, data.units, 20, n_permutations=99, seed=1)
    assert abs(found.normalised.value) < 0.03
    assert null.p is not None
    assert null.p > 0.05
    assert found.tie_rate > 0.9
    assert describe(count).flags == ["low_rank"]


def test_a_count_that_carries_the_label_is_above_chance_and_flagged() -> None:
    rng = np.random.default_rng(8)
    data = images(200, 12, 2, seed=8)
    count = rng.poisson(4 + 4 * data.labels)[:, None].astype(float)
    found = retrieve(count, data.labels, data.units, 2)
    assert found.normalised.value > 0.2
    assert permutation_null(count, data.labels, data.units, 2, n_permutations=99).p == 0.01
    assert describe(count).flags == ["low_rank"]


def test_permutation_p_is_uniform_under_the_null_with_unit_effects() -> None:
    """Units shift features and hold labels in different shares: what makes a free permutation wrong."""
    p = []
    for seed in range(250):
        rng = np.random.default_rng(seed)
        unit = np.repeat(np.arange(5), 8)
        labels = (rng.random(40) < 0.2 + 0.15 * unit).astype(int)
        x = rng.normal(size=(40, 3)) + 0.7 * rng.normal(size=(5, 3))[unit]
        names = np.array([f"u{u}" for u in unit])
        if np.unique(labels).size == 2:
            p.append(permutation_null(x, labels, names, 2, n_permutations=99, seed=seed).p)
    drawn = np.array([value for value in p if value is not None])
    assert len(drawn) > 230
    assert kstest(drawn - np.random.default_rng(0).random(len(drawn)) / 100, "uniform").pvalue > 0.01


def test_labels_that_do_not_vary_within_units_are_not_estimable() -> None:
    units = np.repeat(["a", "b", "c", "d"], 5)
    labels = np.repeat([0, 1, 0, 1], 5)
    found = permutation_null(np.random.default_rng(0).normal(size=(20, 2)), labels, units, 2)
    assert found.p is None
    assert "not estimable" in found.reason


def test_the_observed_value_is_among_the_draws() -> None:
    data = images(60, 5, 3, seed=9)
    null = permutation_null(data.noise, data.labels, data.units, 3, n_permutations=19)
    assert null.observed == pytest.approx(retrieve(data.noise, data.labels, data.units, 3).normalised.value, abs=1e-12)


def test_a_planted_label_is_found_and_swapping_labels_with_units_loses_it() -> None:
    data = images(120, 6, 2, seed=10)
    x = data.noise + 2.0 * data.labels[:, None]
    right = retrieve(x, data.labels, data.units, 2).normalised.value
    _, codes = np.unique(data.units, return_inverse=True)
    swapped = retrieve(x, codes, data.labels.astype(str), 6).normalised.value
    assert right > 0.5
    assert swapped < 0.1


def test_labels_in_one_unit_each_are_refused_in_words() -> None:
    with pytest.raises(InputError, match="labels in at least two units"):
        retrieve(np.arange(4.0)[:, None], np.array([0, 0, 1, 1]), np.array(["a", "a", "b", "b"]), 2)


def test_there_is_a_query_exactly_where_retrieval_finds_one() -> None:
    rng, answers = np.random.default_rng(0), set()
    for _ in range(200):
        n = int(rng.integers(2, 7))
        labels, units, folds = rng.integers(0, 2, n), rng.integers(0, 3, n).astype(str), rng.integers(0, 2, n)
        try:
            retrieve(rng.normal(size=(n, 2)), labels, units, 2, folds)
            found = True
        except InputError:
            found = False
        assert has_query(labels, units, folds) == found, (labels, units, folds)
        answers.add(found)
    assert answers == {True, False}


def _slow_elsewhere(x: np.ndarray, labels: np.ndarray, units: np.ndarray, places: np.ndarray) -> tuple[float, float]:
    """As `_slow`, with positives in other places only: those in the query's place, or in none that is known, are in no list."""
    by_class: dict[int, list[tuple[float, float]]] = {}
    for q in range(len(x)):
        relevant = (labels == labels[q]) & (units != units[q]) & (places != places[q]) & (places != "") & (places[q] != "")
        others = (labels != labels[q]) & (units != units[q])
        m, n = int(relevant.sum()), int(others.sum())
        if m and n:
            candidates = relevant | others
            distance = np.sqrt(((x[candidates] - x[q]) ** 2).sum(axis=1)).round(9)
            ap, chance = tie_aware_ap(-distance, relevant[candidates]), expected_ap(m, n)
            by_class.setdefault(int(labels[q]), []).append((ap, (ap - chance) / (1 - chance)))
    means = np.mean([np.mean(rows, axis=0) for rows in by_class.values()], axis=0)
    return float(means[0]), float(means[1])


@pytest.mark.parametrize("n_units", [4, 25])
@pytest.mark.parametrize("tied", [False, True])
def test_in_other_places_too_leaving_a_unit_out_is_computing_without_it(n_units: int, tied: bool) -> None:
    data, rng = images(75, n_units, 2, seed=n_units), np.random.default_rng(n_units)
    x = data.noise[:, :1].round() if tied else data.noise
    places = rng.choice(["A01", "A02", "B01", ""], size=75)
    found = retrieve(x, data.labels, data.units, 2, places=places)
    assert (found.map.value, found.normalised.value) == pytest.approx(_slow_elsewhere(x, data.labels, data.units, places), abs=1e-12)
    assert np.isnan(found.ap[places == ""]).all()
    for i, unit in enumerate(found.map.units):
        keep = data.units != unit
        expected = _slow_elsewhere(x[keep], data.labels[keep], data.units[keep], places[keep])
        assert (found.map.without[i], found.normalised.without[i]) == pytest.approx(expected, abs=1e-12)


def test_in_other_places_it_is_the_rule_of_copairs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))  # copairs keeps caches there
    from copairs.map import average_precision

    data = images(120, 6, 5, seed=4)
    places = np.random.default_rng(2).choice(["A01", "A02", "B01", "B02"], size=120)
    meta = pd.DataFrame({"label": data.labels, "unit": data.units, "well": places})
    pairs = (["label"], ["unit", "well"], [], ["label", "unit"])
    reference = average_precision(meta, data.noise, *pairs, distance="euclidean", progress_bar=False)
    found = retrieve(data.noise, data.labels, data.units, 5, places=places)
    assert found.ap == pytest.approx(reference["average_precision"].to_numpy(), abs=1e-12)


def test_with_places_there_is_a_query_exactly_where_retrieval_finds_one() -> None:
    rng, answers = np.random.default_rng(0), set()
    for _ in range(200):
        n = int(rng.integers(2, 8))
        labels, units, folds = rng.integers(0, 2, n), rng.integers(0, 3, n).astype(str), rng.integers(0, 2, n)
        places = rng.choice(["a", "b", ""], size=n)
        try:
            retrieve(rng.normal(size=(n, 2)), labels, units, 2, folds, places)
            found = True
        except InputError:
            found = False
        assert has_query(labels, units, folds, places) == found, (labels, units, folds, places)
        answers.add(found)
    assert answers == {True, False}
    with pytest.raises(InputError, match="Expected a place for each of 3 images"):
        has_query(np.array([0, 1, 0]), np.array(["a", "b", "c"]), np.zeros(3, dtype=int), np.array(["A01"]))

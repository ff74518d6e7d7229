from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from pipelines.metrics.ranking import expected_ap, sums_by_count, sums_by_unit, sums_without_ties, tie_aware_ap
from registry.errors import InputError


def test_golden_average_precision() -> None:
    assert tie_aware_ap(np.array([3.0, 2.0, 1.0]), np.array([True, False, True])) == pytest.approx((1 + 2 / 3) / 2, abs=1e-15)
    assert expected_ap(3, 32) == pytest.approx(0.1703336180, abs=5e-11)
    assert expected_ap(1, 16) == pytest.approx(0.2023266189, abs=1e-10)


@pytest.mark.parametrize(("m", "n"), [(1, 1), (3, 32), (1, 16), (40, 5)])
def test_all_tied_is_chance(m: int, n: int) -> None:
    assert tie_aware_ap(np.zeros(m + n), np.arange(m + n) < m) == pytest.approx(expected_ap(m, n), abs=1e-15)


def test_chance_is_the_mean_over_random_orders() -> None:
    rng = np.random.default_rng(0)
    drawn = [tie_aware_ap(rng.random(35), np.arange(35) < 3) for _ in range(8_000)]
    assert np.mean(drawn) == pytest.approx(expected_ap(3, 32), abs=0.003)


def test_ties_count_as_the_mean_over_orders_within_them() -> None:
    rng = np.random.default_rng(1)
    similarity, relevant = rng.integers(0, 4, 20).astype(float), rng.random(20) < 0.3
    broken = [tie_aware_ap(similarity + 0.5 * rng.random(20), relevant) for _ in range(8_000)]
    assert tie_aware_ap(similarity, relevant) == pytest.approx(np.mean(broken), abs=4 * np.std(broken) / np.sqrt(8_000))


@pytest.mark.parametrize("sums", [sums_by_unit, sums_by_count])
@pytest.mark.parametrize("places", [7, 10**6])  # many ties, none
def test_a_list_without_each_unit_is_the_list_of_the_others(sums: Callable[..., np.ndarray], places: int) -> None:
    rng = np.random.default_rng(places)
    similarity, relevant, unit = -np.sort(rng.integers(0, places, 60)).astype(float), rng.random(60) < 0.4, rng.integers(0, 9, 60)
    _, group = np.unique(-similarity, return_inverse=True)
    # the tenth unit has no candidate in this list
    found = sums(group, relevant, unit, 10)
    for u in range(10):
        left = unit != u
        assert found[u] == pytest.approx(tie_aware_ap(similarity[left], relevant[left]) * relevant[left].sum(), abs=1e-12)


def test_lists_without_ties_are_taken_together() -> None:
    rng = np.random.default_rng(3)
    lengths = [40, 25, 40, 3]
    relevant, unit = np.zeros((4, 40), dtype=bool), np.full((4, 40), -1)
    for i, length in enumerate(lengths):
        relevant[i, :length], unit[i, :length] = rng.random(length) < 0.5, rng.integers(0, 5, length)
        relevant[i, 0] = True
    sums, positives, items = sums_without_ties(relevant, unit, 6)
    for i, length in enumerate(lengths):
        rel, of = relevant[i, :length], unit[i, :length]
        for u in range(6):
            left = of != u
            expected = tie_aware_ap(-np.flatnonzero(left).astype(float), rel[left]) * rel[left].sum() if rel[left].any() else 0.0
            assert sums[i, u] == pytest.approx(expected, abs=1e-12)
            assert (positives[i, u], items[i, u]) == (np.sum(rel & ~left), np.sum(~left))


def test_nothing_relevant_is_refused() -> None:
    with pytest.raises(InputError, match="at least one relevant candidate"):
        tie_aware_ap(np.arange(3.0), np.zeros(3, dtype=bool))

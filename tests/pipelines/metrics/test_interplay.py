from __future__ import annotations

import numpy as np
import pytest

from pipelines.metrics.interplay import interplay, second_order
from pipelines.metrics.jackknife import covariance, difference, estimate, mean_of
from pipelines.metrics.ranking import tie_aware_ap
from pipelines.metrics.retrieval import retrieve
from pipelines.metrics.statistic import Statistic
from registry.errors import InputError
from tests.pipelines.metrics.data import images

UNITS = 12


def _of_pairs(kernel: np.ndarray) -> Statistic:
    """The mean of a kernel over ordered pairs of units, with what each unit's removal makes of it."""
    share = np.full(UNITS, 1 / UNITS)
    others = ~np.eye(UNITS, dtype=bool)
    without = []
    for u in range(UNITS):
        left = others.copy()
        left[u] = left[:, u] = False
        without.append(kernel[left].mean())
    # a query's value is the mean over the other units; without one of them it is that of the rest
    of_query = (kernel * others).sum(axis=1) / (UNITS - 1)
    lost = (of_query[:, None] - (of_query[:, None] * (UNITS - 1) - kernel) / (UNITS - 2)) * others / UNITS
    names = tuple(f"u{u:02d}" for u in range(UNITS))
    return Statistic(float(kernel[others].mean()), names, np.array(without), share, UNITS, UNITS, interplay(lost, share))


def test_what_units_do_alone_is_no_interplay() -> None:
    rng = np.random.default_rng(0)
    share = rng.dirichlet(np.full(UNITS, 2.0))
    alone = np.outer(share, share) * (rng.normal(size=(UNITS, 1)) + rng.normal(size=(1, UNITS)))
    found = interplay(alone, share)
    assert np.abs(found).max() < 1e-6 * np.abs(alone).max()
    together = rng.normal(size=(UNITS, UNITS)) * np.outer(share, share)
    np.testing.assert_allclose(interplay(alone + together, share), interplay(together, share), atol=1e-8)
    assert (np.diag(found) == 0).all()


@pytest.mark.parametrize(("alone", "without_correction"), [(0.0, 2.0), (3.0, 1.0)])
def test_the_variance_of_a_statistic_of_pairs_is_held_twice_by_the_jackknife_and_once_here(alone: float, without_correction: float) -> None:
    rng = np.random.default_rng(1)
    drawn = []
    for _ in range(1500):
        units = alone * rng.normal(size=UNITS)
        drawn.append(_of_pairs(units[:, None] + units[None, :] + rng.normal(size=(UNITS, UNITS))))
    true = np.var([s.value for s in drawn])
    jackknife = np.mean([covariance(s.without, s.without) for s in drawn])
    twice = np.mean([second_order(s.pairs, s.pairs) for s in drawn])
    assert jackknife / true == pytest.approx(without_correction, rel=0.15)
    assert (jackknife - twice) / true == pytest.approx(1.0, rel=0.15)
    # what is taken off is bounded in each draw, which leaves the mean a little too large
    assert (jackknife - twice) / true <= np.mean([estimate(s).variance for s in drawn]) / true <= 1.3


def test_of_retrieval_it_is_what_queries_of_one_unit_lose_without_the_candidates_of_another() -> None:
    data = images(40, 5, 2, seed=4)
    found = retrieve(data.noise, data.labels, data.units, 2)
    names = np.unique(data.units)
    lost = np.zeros((len(names), len(names)))
    for q in range(len(data.labels)):
        for v, name in enumerate(names):
            if name == data.units[q]:
                continue
            values = []
            for left in (data.units != data.units[q], (data.units != data.units[q]) & (data.units != name)):
                distance = np.sqrt(((data.noise[left] - data.noise[q]) ** 2).sum(axis=1))
                values.append(tie_aware_ap(-distance, data.labels[left] == data.labels[q]))
            lost[np.searchsorted(names, data.units[q]), v] += (values[0] - values[1]) / (2 * np.sum(data.labels == data.labels[q]))
    assert found.map.pairs is not None
    np.testing.assert_allclose(found.map.pairs, interplay(lost, found.map.share), atol=1e-12)


def test_differences_and_means_carry_it() -> None:
    rng = np.random.default_rng(2)
    a, b = (_of_pairs(rng.normal(size=(UNITS, UNITS))) for _ in range(2))
    assert a.pairs is not None
    assert b.pairs is not None
    gap, mean = difference(a, b), mean_of([a, b])
    assert gap.pairs is not None
    assert mean.pairs is not None
    np.testing.assert_array_equal(gap.pairs, a.pairs - b.pairs)
    np.testing.assert_allclose(mean.pairs, (a.pairs + b.pairs) / 2)
    assert estimate(gap).variance >= covariance(gap.without, gap.without) / 2


def test_pairs_of_other_units_are_refused() -> None:
    one = _of_pairs(np.eye(UNITS))
    with pytest.raises(InputError, match="got shape"):
        Statistic(one.value, one.units, one.without, one.share, 1, 1, np.zeros((3, 3)))

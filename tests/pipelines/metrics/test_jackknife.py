from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from pipelines.metrics.ceiling import share_of_gap
from pipelines.metrics.classification import balanced_accuracy
from pipelines.metrics.jackknife import difference, estimate, interval, mean_of, t_quantile, why_not_assessable
from pipelines.metrics.statistic import Statistic, image_mean, inflation_of
from registry.errors import InputError
from tests.pipelines.metrics.data import mean_statistic, statistic


def test_jackknife_of_a_mean_of_equal_units_is_the_t_interval() -> None:
    x = np.random.default_rng(0).normal(1, 2, size=14)
    found = estimate(mean_statistic(x))
    assert found.variance == pytest.approx(x.var(ddof=1) / 14)
    expected = stats.t.interval(0.95, 13, loc=x.mean(), scale=stats.sem(x))
    assert (found.low(), found.high()) == pytest.approx(expected)
    assert interval(mean_statistic(x)) == pytest.approx(expected)
    assert found.p == pytest.approx(stats.ttest_1samp(x, 0, alternative="greater").pvalue)


def test_degrees_of_freedom_are_real_valued_and_from_the_shares() -> None:
    labels, units = np.array([0, 1] * 12), np.array(["a"] * 10 + list("bcdefghijklmno"))
    found = estimate(balanced_accuracy(labels, np.roll(labels, 3) | (np.arange(24) < 9), units, 2))
    assert found.n_eff == pytest.approx(1 / np.sum((np.array([10] + [1] * 14) / 24) ** 2), rel=0.05)
    assert found.high() - found.value == pytest.approx(stats.t.ppf(0.975, found.n_eff - 1) * np.sqrt(found.variance))
    assert t_quantile(0.025, 4.7) == pytest.approx(stats.t.ppf(0.975, 4.7))


@pytest.mark.parametrize(
    ("found", "reason"),
    [
        (statistic(0.5, np.linspace(0.4, 0.6, 9)), "9 units, at least 10 are needed"),
        (statistic(0.5, np.linspace(0.4, 0.6, 12), class_in_units=2), "a class occurs in 2 units only, at least 3 are needed"),
        (statistic(0.5, np.array([np.nan] + [0.5] * 11)), "does not exist when one of the units is left out"),
        (statistic(0.5, np.linspace(0.4, 0.6, 10)), ""),
    ],
)
def test_when_a_statistic_may_be_judged(found: Statistic, reason: str) -> None:
    assert (why_not_assessable(found) == "") == (reason == "")
    assert reason in why_not_assessable(found)
    assert (interval(found) is None) == bool(reason)


def test_units_of_very_unequal_size_are_not_assessable() -> None:
    units = np.array(["big"] * 500 + [f"u{i}" for i in range(20)])
    found = image_mean(np.random.default_rng(0).normal(size=520), units, np.arange(520) % 2, 2)
    assert "21 units of very unequal size count as 1.1" in why_not_assessable(found)


def test_rows_on_different_images_are_not_compared() -> None:
    a = mean_statistic(np.arange(12.0))
    with pytest.raises(InputError, match="only on the same images"):
        difference(a, mean_statistic(np.arange(13.0)))
    fewer = Statistic(a.value, a.units, a.without, a.share, a.n_images - 1, 10)
    with pytest.raises(InputError, match="expected 120 images in 12 units with equal shares, got 119"):
        difference(a, fewer)
    with pytest.raises(InputError, match="at least one seed"):
        mean_of([])


def test_mean_of_seeds_is_taken_unit_by_unit() -> None:
    a, b = mean_statistic(np.arange(12.0)), mean_statistic(np.arange(12.0) ** 2)
    found = mean_of([a, b])
    assert found.value == pytest.approx((a.value + b.value) / 2)
    assert found.without == pytest.approx((a.without + b.without) / 2)


def test_intervals_of_paired_balanced_accuracy_cover_the_truth() -> None:
    """Units of log-normal size, unit effects and row x unit interactions, true difference 0: the 95 % interval covers 0.93 to 0.98."""
    covered, n_units = 0, 20
    for seed in range(300):
        rng = np.random.default_rng(seed)
        size = np.ceil(12 * np.exp(rng.normal(size=n_units)) / np.exp(0.5)).astype(int) + 1
        codes = np.repeat(np.arange(n_units), size)
        names = np.array([f"u{c:02d}" for c in codes])
        labels = rng.integers(0, 2, len(codes))
        shared = 0.8 + 0.3 * rng.normal(size=n_units)[codes] + rng.normal(size=len(codes))
        rows = []
        for _ in range(2):
            right = shared + 0.2 * rng.normal(size=n_units)[codes] + 0.5 * rng.normal(size=len(codes)) > 0
            rows.append(balanced_accuracy(labels, np.where(right, labels, 1 - labels), names, 2))
        found = estimate(difference(*rows))
        covered += found.low() <= 0 <= found.high()
    assert 0.92 <= covered / 300 <= 0.985


def test_fieller_bounds_are_where_the_contrast_is_at_its_critical_value() -> None:
    rng = np.random.default_rng(3)
    shared = rng.normal(size=30)
    b, e = mean_statistic(0.5 + 0.1 * shared), mean_statistic(0.65 + 0.1 * shared + 0.05 * rng.normal(size=30))
    p = mean_statistic(0.9 + 0.1 * shared + 0.05 * rng.normal(size=30))
    found = share_of_gap(e, b, p, "density", "oracle")
    assert found.value == pytest.approx((e.value - b.value) / (p.value - b.value))
    assert found.note == ""
    for bound in (found.low, found.high):
        assert bound is not None
        a, g = difference(e, b), difference(p, b)
        contrast = Statistic(a.value - bound * g.value, a.units, a.without - bound * g.without, a.share, a.n_images, 10)
        at = estimate(contrast)
        assert abs(at.value) == pytest.approx(t_quantile(0.025, at.n_eff - 1) * at.se, rel=1e-6)


def test_share_of_the_gap_needs_a_ceiling_and_a_narrow_interval() -> None:
    rng = np.random.default_rng(4)
    noise = rng.normal(size=(3, 12))
    low = share_of_gap(*(mean_statistic(0.5 + 0.2 * z) for z in noise), "density", "oracle")
    assert (low.value, low.low, low.note) == (None, None, "ceiling not above floor: `oracle` is not clearly above `density`")
    e, b, p = mean_statistic(0.6 + 0.25 * noise[0]), mean_statistic(0.5 + 0.02 * noise[1]), mean_statistic(0.75 + 0.25 * noise[2])
    wide = share_of_gap(e, b, p, "density", "oracle")
    assert wide.value is None
    assert wide.low is not None
    assert wide.note == "the interval is wider than the whole gap"
    few = share_of_gap(*(mean_statistic(z[:5]) for z in noise), "density", "oracle")
    assert few.note.startswith("not assessable: 5 units")


def test_a_covariance_that_two_variances_cannot_have_gives_no_share_of_the_gap() -> None:
    rng = np.random.default_rng(5)
    one = 0.5 + 0.02 * rng.normal(size=20)
    floor, ceiling = mean_statistic(np.full(20, 0.2)), mean_statistic(one)
    # the encoder is cross-fitted and the ceiling is not: the covariance is multiplied as the larger variance is
    encoder = replace(mean_statistic(one + 0.001 * rng.normal(size=20)), inflation=2.0)
    found = share_of_gap(encoder, floor, ceiling, "floor", "oracle")
    assert (found.value, found.low, found.high) == (None, None, None)
    assert found.note == "not assessable: the covariance of the two differences is larger than their variances allow"
    # where the share is the same without any unit, it is known, and rounding does not hide it
    for row in (ceiling, mean_statistic(0.2 + 0.7 * (one - 0.2))):
        same = share_of_gap(row, floor, ceiling, "floor", "oracle")
        assert same.value == pytest.approx(same.low) == pytest.approx(same.high)
        assert same.note == ""


def stretched(found: Statistic, factor: float) -> Statistic:
    """The statistic whose jackknife variance is `factor` times as large, without saying so."""
    centre = found.without.mean()
    return replace(found, without=centre + np.sqrt(factor) * (found.without - centre))


def test_an_inflated_statistic_is_judged_like_one_that_scatters_so_much() -> None:
    rng = np.random.default_rng(4)
    rows = [mean_statistic(rng.normal(mean, 1, size=20)) for mean in (1.2, 0.2, 2.5)]
    inflated = [replace(row, inflation=1.6) for row in rows]
    wide = [stretched(row, 1.6) for row in rows]
    assert interval(inflated[0]) == pytest.approx(interval(wide[0]))
    assert interval(difference(inflated[0], inflated[1])) == pytest.approx(interval(difference(wide[0], wide[1])))
    assert estimate(mean_of(inflated)).variance == pytest.approx(estimate(mean_of(wide)).variance)
    found, expected = share_of_gap(*inflated, "floor", "ceiling"), share_of_gap(*wide, "floor", "ceiling")
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    assert found.low < share_of_gap(*rows, "floor", "ceiling").low
    # a difference from what is not cross-fitted is inflated too
    assert difference(inflated[0], rows[1]).inflation == difference(rows[1], inflated[0]).inflation == 1.6


def test_the_units_that_train_inflate_by_how_many_they_are_and_how_often_they_are_tested() -> None:
    units = np.repeat([f"u{number:02d}" for number in range(15)], 3)
    number = np.repeat(np.arange(15), 3)
    for n_test, expected in ((3, 1 + 3 / 12 / 4), (5, 1.125), (12, 2.0)):
        assert inflation_of(np.where(number < n_test, 0, -1), units) == pytest.approx(expected)
    # the number of images of a unit says nothing
    assert inflation_of(np.array([4, -1, -1, -1]), np.array(["a", "b", "b", "b"])) == 1.25
    assert inflation_of(number % 2, units) == 2.0
    assert inflation_of(np.where(number < 3, -1, number % 2), units) == 2.0
    assert inflation_of(number % 5, units) == inflation_of(number % 3, units) == 1.6
    for folds in (np.zeros(45, dtype=np.int64), np.full(45, -1)):
        with pytest.raises(InputError, match="Expected test and training images"):
            inflation_of(folds, units)


def test_inflation_makes_nothing_smaller() -> None:
    with pytest.raises(InputError, match=r"`inflation` of at least 1, got 0\.5"):
        replace(mean_statistic(np.arange(12.0)), inflation=0.5)

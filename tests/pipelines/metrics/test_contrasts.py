from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from pipelines.metrics.contrasts import Contrast, contrast
from pipelines.metrics.jackknife import Estimate, difference, estimate, mean_of
from pipelines.metrics.statistic import Statistic
from registry.errors import InputError
from tests.pipelines.metrics.data import mean_statistic, statistic


def _rows(seed: int, k: int, *, n_units: int = 24, gain: float = 0.0, sd_seed: float = 0.03, interaction: float = 0.05) -> list[Statistic]:
    """An encoder and k seeds that are draws of one distribution, the encoder `gain` better."""
    rng = np.random.default_rng(seed)
    unit = 0.1 * rng.normal(size=n_units)
    own = sd_seed * rng.normal(size=k + 1)
    own[0] += gain
    return [mean_statistic(0.7 + unit + own[i] + interaction * rng.normal(size=n_units)) for i in range(k + 1)]


def test_one_row_is_a_paired_t_test() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 15))
    found = contrast(mean_statistic(a), mean_statistic(b), "density")
    expected = stats.ttest_rel(a, b, alternative="greater")
    assert found.p == pytest.approx(expected.pvalue)
    both = stats.ttest_rel(a, b).confidence_interval(0.95)
    assert (found.low(), found.high()) == pytest.approx((both.low, both.high))
    assert (found.low_of_mean(), found.high_of_mean()) == (found.low(), found.high())


def test_seeds_give_the_larger_of_two_tests_and_never_their_sum() -> None:
    encoder, *seeds = _rows(1, 10, gain=0.05)
    found = contrast(encoder, seeds, "fresh")
    d = encoder.value - np.mean([s.value for s in seeds])
    sd = np.std([s.value for s in seeds], ddof=1)
    units = estimate(difference(encoder, mean_of(seeds)))
    of_seeds = stats.t.ppf(0.975, 9) * sd * np.sqrt(1.1)
    of_units = stats.t.ppf(0.975, units.n_eff - 1) * units.se
    assert found.gain == pytest.approx(d)
    assert found.gain - found.low() == pytest.approx(max(of_seeds, of_units))
    assert found.high() - found.gain == pytest.approx(max(of_seeds, of_units))
    assert found.p == pytest.approx(max(stats.t.sf(d / (sd * np.sqrt(1.1)), 9), stats.t.sf(d / units.se, units.n_eff - 1)))


def test_equivalence_to_seeds_is_about_their_mean_with_welch_degrees_of_freedom() -> None:
    encoder, *seeds = _rows(2, 10)
    found = contrast(encoder, seeds, "fresh")
    v, n_eff = found.estimate.variance, found.estimate.n_eff
    of_mean = found.sd_seeds**2 / 10
    nu = (v + of_mean) ** 2 / (v**2 / (n_eff - 1) + of_mean**2 / 9)
    assert found.high_of_mean() - found.gain == pytest.approx(stats.t.ppf(0.975, nu) * np.sqrt(v + of_mean))


@pytest.mark.parametrize(("c", "needed"), [(0.02, 13), (0.03, 26), (0.05, 68), (0.08, 170), (0.10, 265), (0.15, 593)])
def test_golden_units_needed_for_equivalence(c: float, needed: int) -> None:
    """c = se * sqrt(n_eff), margin 0.02, 80 % power."""
    found = Contrast("density", Estimate(0.0, c**2 / 20, 20.0, 20), 0.5, 0.5, 0, 0.0, "")
    assert found.n_eff_needed(0.02) == needed


def test_seeds_alone_can_put_equivalence_out_of_reach() -> None:
    encoder, *seeds = _rows(3, 10, sd_seed=0.05)
    assert contrast(encoder, seeds, "fresh").n_eff_needed(0.02) is None


def test_detectable_difference_is_of_the_larger_scatter() -> None:
    few = Contrast("fresh", Estimate(0.0, 0.01**2, 20.0, 20), 0.5, 0.5, 10, 0.05, "")
    assert few.detectable == pytest.approx((stats.t.ppf(0.975, 9) + stats.norm.ppf(0.8)) * 0.05 * np.sqrt(1.1))
    row = Contrast("density", Estimate(0.0, 0.01**2, 20.0, 20), 0.5, 0.5, 0, 0.0, "")
    assert row.detectable == pytest.approx((stats.t.ppf(0.975, 19) + stats.norm.ppf(0.8)) * 0.01)


def test_identical_rows_differ_by_nothing() -> None:
    row = mean_statistic(np.random.default_rng(0).normal(size=12))
    found = contrast(row, row, "itself")
    assert (found.reason, found.gain, found.low(), found.high(), found.p) == ("", 0.0, 0.0, 0.0, 1.0)
    assert contrast(row, [row] * 10, "itself").p == 1.0


def test_a_difference_without_scatter_is_not_judged() -> None:
    row = mean_statistic(np.random.default_rng(0).normal(size=12))
    shifted = Statistic(row.value + 0.5, row.units, row.without + 0.5, row.share, row.n_images, row.class_in_units)
    assert "there is no scatter to judge it by" in contrast(shifted, row, "density").reason


def test_too_few_seeds_are_not_judged() -> None:
    encoder, *seeds = _rows(4, 4)
    assert contrast(encoder, seeds, "fresh").reason == "4 seeds of `fresh`, at least 5 are needed"
    one = contrast(encoder, seeds[:1], "fresh")
    assert one.reason == "1 seed of `fresh`, at least 5 are needed"
    assert (one.gain, one.n_seeds, one.sd_seeds) == (encoder.value - seeds[0].value, 1, 0.0)
    with pytest.raises(InputError, match="got no seed"):
        contrast(encoder, [], "fresh")


def test_one_more_seed_rarely_beats_its_twins_where_the_obvious_test_often_does() -> None:
    """A/A: the encoder is drawn like its twins. Nominal 2.5 %; the test against the mean of the seeds knows units only."""
    ours, obvious = 0, 0
    for seed in range(400):
        encoder, *seeds = _rows(1000 + seed, 10)
        found = contrast(encoder, seeds, "fresh")
        ours += found.p <= 0.025
        obvious += found.p_units <= 0.025
    assert ours <= 0.05 * 400
    assert obvious >= 0.10 * 400


def test_an_encoder_that_hangs_on_units_more_than_its_twins_rarely_beats_them() -> None:
    """Equal true means, the encoder interacts 4 times more with units: the seeds alone would be fooled."""
    ours, by_seeds = 0, 0
    for seed in range(400):
        _, *seeds = _rows(5000 + seed, 10, sd_seed=0.005, interaction=0.03)
        rng = np.random.default_rng(9000 + seed)
        encoder = mean_statistic(0.7 + 0.12 * rng.normal(size=24))
        found = contrast(encoder, seeds, "fresh")
        ours += found.p <= 0.025
        by_seeds += found.p_seeds <= 0.025
    assert ours <= 0.05 * 400
    assert by_seeds >= 0.10 * 400


def test_a_planted_gain_is_found() -> None:
    found = [contrast(rows[0], rows[1:], "fresh").p <= 0.025 for rows in (_rows(2000 + s, 10, n_units=50, gain=0.15) for s in range(100))]
    assert np.mean(found) >= 0.85


def test_a_statistic_that_is_nan_without_a_unit_is_not_judged() -> None:
    broken = statistic(0.5, np.array([np.nan] + [0.5] * 11))
    assert contrast(broken, broken, "density").reason

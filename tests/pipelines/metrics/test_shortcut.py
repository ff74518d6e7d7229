from __future__ import annotations

import numpy as np
import pytest

from pipelines.metrics.classification import balanced_accuracy
from pipelines.metrics.jackknife import covariance, t_quantile
from pipelines.metrics.probes import ProbeSettings, out_of_fold
from pipelines.metrics.shortcut import shortcut_features, shortcut_share
from pipelines.metrics.statistic import Statistic
from registry.errors import InputError


def statistic(values: np.ndarray) -> Statistic:
    """The mean over units of equal size."""
    n = len(values)
    without = (values.sum() - values) / (n - 1)
    return Statistic(float(values.mean()), tuple(f"u{i:02d}" for i in range(n)), without, np.full(n, 1 / n), 100 * n, n)


def scores(encoder: float, shortcut: float, noise: float, seed: int, n: int = 20) -> tuple[Statistic, Statistic]:
    rng = np.random.default_rng(seed)
    shared = rng.normal(size=n)
    of_encoder, of_shortcut = (statistic(level + noise * (shared + rng.normal(size=n)) / np.sqrt(2)) for level in (encoder, shortcut))
    return of_encoder, of_shortcut


def test_the_interval_is_the_shares_that_a_t_test_does_not_reject() -> None:
    encoder, shortcut = scores(0.8, 0.6, 0.08, 0)
    found = shortcut_share(encoder, shortcut, 0.5)
    accepted = []
    for share in np.linspace(-1, 2, 6001):
        gap = (shortcut.value - 0.5) - share * (encoder.value - 0.5)
        without = (shortcut.without - 0.5) - share * (encoder.without - 0.5)
        if abs(gap) <= t_quantile(0.025, encoder.n_eff - 1) * np.sqrt(covariance(without, without)):
            accepted.append(share)
    assert (found.low, found.high) == pytest.approx((min(accepted), max(accepted)), abs=1e-3)
    assert found.value == pytest.approx((shortcut.value - 0.5) / (encoder.value - 0.5))
    assert found.note == ""


def test_the_interval_covers_the_true_share() -> None:
    covered = 0
    for seed in range(300):
        found = shortcut_share(*scores(0.9, 0.7, 0.1, seed), 0.5)
        assert found.low is not None
        assert found.high is not None
        covered += found.low <= 0.5 <= found.high
    assert 0.92 <= covered / 300 <= 0.98


def test_roles_matter_and_a_shortcut_may_reach_further() -> None:
    encoder, shortcut = scores(0.9, 0.7, 0.02, 1)
    plain, swapped = shortcut_share(encoder, shortcut, 0.5), shortcut_share(shortcut, encoder, 0.5)
    assert plain.value == pytest.approx(0.5, abs=0.05)
    assert swapped.value == pytest.approx(2.0, abs=0.2)
    none = shortcut_share(*scores(0.9, 0.5, 0.02, 2), 0.5)
    assert none.low is not None
    assert none.high is not None
    assert none.low < 0 < none.high < 0.1


def test_what_cannot_be_estimated_has_a_reason() -> None:
    assert shortcut_share(*scores(0.5, 0.5, 0.1, 3), 0.5).note == "not estimable: the encoder is not clearly above chance"
    assert shortcut_share(*scores(0.4, 0.6, 0.01, 3), 0.5).note == "not estimable: the encoder is not clearly above chance"
    assert shortcut_share(*scores(0.9, 0.7, 0.1, 3, n=6), 0.5).note == "not estimable: 6 units, at least 10 are needed"
    same = statistic(np.full(20, 0.8))
    assert shortcut_share(same, same, 0.5).note == "not estimable: no scatter between units"
    wide = shortcut_share(*scores(0.58, 0.56, 0.1, 0), 0.5)
    assert (wide.value, wide.note) == (None, "the interval is wider than the encoder's whole distance from chance")
    assert wide.low is not None
    assert set(wide.as_dict()) == {"value", "low", "high", "note"}
    with pytest.raises(InputError, match="only on the same images"):
        shortcut_share(scores(0.8, 0.6, 0.1, 0)[0], scores(0.8, 0.6, 0.1, 0, n=21)[1], 0.5)
    with pytest.raises(InputError, match="finite chance"):
        shortcut_share(*scores(0.8, 0.6, 0.1, 0), float("nan"))
    with pytest.raises(InputError, match="of the same images"):
        shortcut_features(np.zeros((3, 2)), np.zeros((4, 2)))


def test_an_encoder_that_knows_brightness_only_is_explained_by_it_and_one_that_knows_shape_is_not() -> None:
    """Four classes: brightness tells two pairs apart, shape tells the two of each pair apart."""
    rng = np.random.default_rng(4)
    n, units = 600, 20
    labels = rng.integers(0, 4, n)
    unit = np.array([f"u{u:02d}" for u in np.arange(n) % units])
    bright, shape = (labels // 2) * 3.0, (labels % 2) * 3.0
    intensity = (bright + rng.normal(size=n))[:, None] * np.ones((1, 3)) + 0.1 * rng.normal(size=(n, 3))
    histogram = (bright + rng.normal(size=n))[:, None] * np.ones((1, 5)) + 0.1 * rng.normal(size=(n, 5))

    def score(x: np.ndarray) -> Statistic:
        found = out_of_fold(x, labels, np.arange(n) % units % 5, unit, 4, ProbeSettings())
        return balanced_accuracy(found.labels, found.predicted, unit[found.images], 4)

    shortcut = score(shortcut_features(intensity, histogram))
    only = shortcut_share(score(np.stack([bright, bright], axis=1) + rng.normal(size=(n, 2))), shortcut, 0.25)
    both = shortcut_share(score(np.stack([bright, shape], axis=1) + 0.5 * rng.normal(size=(n, 2))), shortcut, 0.25)
    assert only.value == pytest.approx(1.0, abs=0.15)
    # one bit of two: 1/2 against 1, above a chance of 1/4
    assert both.value == pytest.approx(1 / 3, abs=0.1)

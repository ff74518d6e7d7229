from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score
from sklearn.neighbors import NearestCentroid
from sklearn.preprocessing import StandardScaler, normalize

from pipelines.metrics.few_shot import class_means, few_shot
from registry.errors import InputError


def screen(effect: float, n: int = 240, k: int = 3, d: int = 10, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, k, n)
    return rng.normal(size=(n, d)) + effect * rng.normal(size=(k, d))[labels], labels, np.arange(n) % 3 - 1


def test_the_nearest_mean_is_scikit_learns() -> None:
    x, labels, folds = screen(0.7)
    train = folds == -1
    scaler = StandardScaler().fit(x[train])
    a, b = normalize(scaler.transform(x[train])), normalize(scaler.transform(x[~train]))
    expected = NearestCentroid().fit(a, labels[train]).predict(b)
    np.testing.assert_array_equal(class_means(x[train], labels[train], 3, x[~train]).argmax(axis=1), expected)


def test_every_fold_may_have_vectors_of_its_own() -> None:
    x, labels, folds = screen(1.0)
    found = few_shot({0: x, 1: 3 * x[:, ::-1] + 1}, labels, folds, 3)
    np.testing.assert_allclose(found.mean, few_shot(x, labels, folds, 3).mean)
    other = few_shot({0: x, 1: np.random.default_rng(5).normal(size=x.shape)}, labels, folds, 3)
    assert other.whole < found.whole - 0.1


def test_more_images_help_where_there_is_something_to_learn() -> None:
    x, labels, folds = screen(1.0)
    found = few_shot(x, labels, folds, 3)
    assert found.mean[0] > 0.45
    assert (np.diff(found.mean) > -0.02).all()
    assert found.whole >= found.mean[-1] - 0.02
    assert found.chance == pytest.approx(1 / 3)
    whole = []
    for number in (0, 1):
        test = folds == number
        whole.append((labels[test], class_means(x[~test], labels[~test], 3, x[test]).argmax(axis=1)))
    truth, said = (np.concatenate(parts) for parts in zip(*whole, strict=True))
    assert found.whole == pytest.approx(balanced_accuracy_score(truth, said))


def test_noise_is_at_chance_whatever_the_number() -> None:
    curves = np.array([few_shot(*screen(0.0, seed=seed), 3, draws=5).mean for seed in range(30)])
    np.testing.assert_allclose(curves.mean(axis=0), 1 / 3, atol=0.025)


@pytest.mark.parametrize("value", [0.0, 7.3])
def test_a_constant_embedding_is_at_chance_exactly(value: float) -> None:
    _, labels, folds = screen(0.0)
    found = few_shot(np.full((240, 4), value), labels, folds, 3, draws=2)
    np.testing.assert_allclose([*found.mean, found.whole], 1 / 3, atol=1e-12)


def test_too_few_images_of_a_class_have_no_score() -> None:
    x, labels, folds = screen(1.0)
    labels = np.where((labels == 2) & (np.cumsum(labels == 2) > 9), -1, labels)
    found = few_shot(x, labels, folds, 3, draws=3)
    assert np.isnan(found.mean[-1])
    assert np.isfinite(found.mean[:2]).all()


def test_every_row_meets_the_same_images() -> None:
    x, labels, folds = screen(1.0)
    first, second = few_shot(x, labels, folds, 3), few_shot(2 * x + 1, labels, folds, 3)
    np.testing.assert_allclose(first.mean, second.mean)
    assert not np.array_equal(first.mean, few_shot(x, labels, folds, 3, seed=1).mean)


def test_what_cannot_be_drawn() -> None:
    x, labels, folds = screen(1.0)
    with pytest.raises(InputError, match="Expected ascending numbers of shots"):
        few_shot(x, labels, folds, 3, shots=(4, 2))
    with pytest.raises(InputError, match="got none"):
        few_shot(x, labels, np.full(240, -1), 3)

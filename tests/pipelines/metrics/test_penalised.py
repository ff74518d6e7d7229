from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from pipelines.metrics.logistic import softmax
from pipelines.metrics.penalised import Fit, fit


def _data(k: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = np.concatenate([np.arange(k), rng.integers(0, k, 200)])
    return rng.normal(size=(len(labels), 12)) + 0.5 * rng.normal(size=(k, 12))[labels], labels


@pytest.mark.parametrize("k", [2, 3, 6])
@pytest.mark.parametrize("penalty", [0.5, 50.0])
def test_one_penalty_is_scikit_learns(k: int, penalty: float) -> None:
    x, labels = _data(k, k)
    found = softmax(fit(x, labels, k, np.full(12, penalty)).logits(x))
    expected = LogisticRegression(C=1 / penalty, tol=1e-12, max_iter=500, solver="newton-cholesky").fit(x, labels).predict_proba(x)
    assert found == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("k", [2, 4])
def test_a_penalty_per_column_is_a_scale_per_column(k: int) -> None:
    x, labels = _data(k, 10 + k)
    penalty = np.geomspace(0.1, 100, 12)
    found = softmax(fit(x, labels, k, penalty).logits(x))
    scaled = x / np.sqrt(penalty)
    expected = LogisticRegression(C=1.0, tol=1e-12, max_iter=500, solver="newton-cholesky").fit(scaled, labels).predict_proba(scaled)
    assert found == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("k", [2, 4])
def test_where_a_fit_starts_does_not_matter(k: int) -> None:
    x, labels = _data(k, 20 + k)
    penalty = np.full(12, 2.0)
    narrow = fit(x[:, :5], labels, k, penalty[:5])
    assert softmax(fit(x, labels, k, penalty, narrow).logits(x)) == pytest.approx(softmax(fit(x, labels, k, penalty).logits(x)), abs=2e-6)


@pytest.mark.parametrize("k", [2, 3])
def test_separable_classes_and_a_class_without_images_stay_finite(k: int) -> None:
    labels = np.repeat([0, 1], 30)
    x = np.random.default_rng(0).normal(size=(60, 3))
    x[:, 0] = np.where(labels == 1, 5, -5)
    found: Fit = fit(x, labels, k, np.full(3, 1e-3))
    assert np.isfinite(found.weights).all()
    assert (softmax(found.logits(x)).argmax(axis=1) == labels).all()
    alone = fit(x, np.zeros(60, dtype=int), k, np.full(3, 1e-3))
    assert softmax(alone.logits(x))[:, 0].min() > 0.999


def test_nearly_separable_classes_are_fitted_to_the_end() -> None:
    """Where hundreds of quasi-Newton steps stop short; scikit-learn factorises the whole Hessian."""
    rng = np.random.default_rng(3)
    labels = rng.integers(0, 5, 300)
    x = 1.1 * rng.normal(size=(5, 40))[labels] + rng.normal(size=(300, 40))
    found = fit(x, labels, 5, np.full(40, 1e-3)).logits(x)
    expected = LogisticRegression(C=1e3, tol=1e-12, max_iter=500, solver="newton-cholesky").fit(x, labels).decision_function(x)
    assert softmax(found) == pytest.approx(softmax(expected), abs=1e-6)
    centred = found - found.mean(axis=1, keepdims=True)
    assert centred == pytest.approx(expected - expected.mean(axis=1, keepdims=True), rel=1e-3, abs=0.02)

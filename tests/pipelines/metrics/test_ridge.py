from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import RidgeClassifier

from pipelines.metrics.classification import balanced_accuracy
from pipelines.metrics.folds import inner_folds
from pipelines.metrics.probes import ProbeSettings
from pipelines.metrics.ridge import PENALTIES, fit_ridge, protocol_id
from registry.errors import InputError
from tests.pipelines.metrics.data import halves, images


def planted(k: int, signal: float, n: int = 240, d: int = 20, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features, labels of very unequal frequency, units."""
    rng = np.random.default_rng(seed)
    data = images(n, 12, k, seed=seed)
    labels = np.where(rng.random(n) < 0.5, 0, data.labels)
    return rng.normal(size=(n, d)) + signal * rng.normal(size=(k, d))[labels], labels, data.units


def reference_scores(x: np.ndarray, labels: np.ndarray, alpha: float, queries: np.ndarray) -> np.ndarray:
    model = RidgeClassifier(alpha=alpha, class_weight="balanced", solver="cholesky").fit(x, labels)
    found = model.decision_function(queries)
    return (np.stack([-found, found], axis=1) if found.ndim == 1 else found) / 2 + 0.5


@pytest.mark.parametrize("k", [2, 5])
@pytest.mark.parametrize("penalty", [1e-3, 0.1, 30.0])
def test_one_penalty_is_scikit_learns(k: int, penalty: float) -> None:
    x, labels, units = planted(k, 0.3)
    found = fit_ridge(x, labels, units, k, penalties=(penalty,))
    np.testing.assert_allclose(found.scores(x), reference_scores(x, labels, penalty * len(x), x), atol=1e-10)
    np.testing.assert_array_equal(found.predict(x), RidgeClassifier(alpha=penalty * len(x), class_weight="balanced").fit(x, labels).predict(x))
    assert found.penalty == penalty


@pytest.mark.parametrize("k", [2, 5])
@pytest.mark.parametrize("signal", [0.1, 0.3, 1.0])
def test_the_penalty_is_the_one_a_search_with_scikit_learn_finds(k: int, signal: float) -> None:
    x, labels, units = planted(k, signal, seed=k)
    inner = inner_folds(labels, units, k, 3)
    slow = np.zeros(len(PENALTIES))
    for i, penalty in enumerate(PENALTIES):
        for fold in range(3):
            held = inner.fold == fold
            scores = reference_scores(x[~held], labels[~held], penalty * (~held).sum(), x[held])
            error = np.sum((np.eye(k)[labels[held]] - scores) ** 2, axis=1)
            slow[i] += np.mean([error[labels[held] == c].mean() for c in range(k)])
    assert fit_ridge(x, labels, units, k).penalty == PENALTIES[int(np.argmin(slow))]


def test_no_unit_is_in_two_inner_folds() -> None:
    """Features that know the unit and labels that hang on it: leaving single images out would take the weakest penalty."""
    rng = np.random.default_rng(3)
    unit = np.repeat(np.arange(12), 20)
    labels = (rng.permutation(12) % 2)[unit]
    x = np.eye(12)[unit] * 5 + 0.01 * rng.normal(size=(240, 12))
    assert fit_ridge(x, labels, np.array([f"u{u:02d}" for u in unit]), 2).penalty > 10
    assert fit_ridge(x, labels, np.array([f"u{u:02d}" for u in rng.permutation(unit)]), 2).penalty < 1e-2


def test_a_planted_label_is_found_and_noise_is_at_chance() -> None:
    scores = []
    for seed in range(8):
        data = images(400, 16, 3, seed=100 + seed, d=30)
        test = halves(data.units) == 0
        for signal in (0.0, 2.0):
            x = data.noise + signal * np.eye(30)[data.labels]
            said = fit_ridge(x[~test], data.labels[~test], data.units[~test], 3).predict(x[test])
            scores.append(balanced_accuracy(data.labels[test], said, data.units[test], 3).value)
    noise, signal = np.mean(np.reshape(scores, (8, 2)), axis=0)
    assert noise == pytest.approx(1 / 3, abs=0.035)
    assert signal > 0.8


def test_swapping_labels_and_units_changes_the_answer() -> None:
    data = images(400, 8, 2, seed=4)
    _, unit = np.unique(data.units, return_inverse=True)
    x = data.noise + 3.0 * data.labels[:, None]
    test = np.random.default_rng(0).random(400) < 0.5

    def score(labels: np.ndarray, groups: np.ndarray, k: int) -> float:
        said = fit_ridge(x[~test], labels[~test], groups[~test], k).predict(x[test])
        return balanced_accuracy(labels[test], said, groups[test], k).value

    assert score(data.labels, data.units, 2) > 0.95
    assert score(unit, data.labels.astype(str), 8) < 0.3


def test_what_says_nothing_gives_every_class_of_training_the_same() -> None:
    labels, units = np.array([0, 2] * 20), np.repeat(["a", "b", "c", "d"], 10)
    nothing = fit_ridge(np.zeros((40, 0)), labels, units, 3)
    assert nothing.scores(np.zeros((2, 0))).tolist() == [[0.5, -np.inf, 0.5]] * 2
    constant = fit_ridge(np.full((40, 3), 7.3), labels, units, 3).scores(np.full((1, 3), 7.3))
    np.testing.assert_allclose(constant, [[0.5, -np.inf, 0.5]], atol=1e-12)
    alone = fit_ridge(np.random.default_rng(0).normal(size=(40, 3)), np.zeros(40, dtype=int), units, 2)
    assert alone.scores(np.ones((1, 3))).tolist() == [[1.0, -np.inf]]
    assert np.isnan(alone.penalty)


def test_a_class_that_training_lacks_is_never_named() -> None:
    x, labels, units = planted(2, 1.0)
    assert set(fit_ridge(x, labels + 1, units, 4).predict(x).tolist()) == {1, 2}


def test_more_columns_than_images_and_copies_of_columns() -> None:
    x, labels, units = planted(3, 0.5, n=40, d=100)
    assert np.isfinite(fit_ridge(np.hstack([x, x]), labels, units, 3).scores(np.hstack([x, x]))).all()


def test_one_training_group_is_said() -> None:
    x, labels, _ = planted(2, 1.0)
    assert "only one training group" in fit_ridge(x, labels, np.repeat("a", 240), 2).notes[0]


def test_what_cannot_be_fitted_is_refused_in_words() -> None:
    x, labels, units = planted(2, 1.0)
    with pytest.raises(InputError, match="Expected positive penalties"):
        fit_ridge(x, labels, units, 2, penalties=(1.0, 0.1))
    with pytest.raises(InputError, match="Expected training images, got none"):
        fit_ridge(x[:0], labels[:0], units[:0], 2)
    with pytest.raises(InputError, match="Expected 20 features as in training, got 3"):
        fit_ridge(x, labels, units, 2).scores(x[:, :3])
    x[3, 1] = np.nan
    with pytest.raises(InputError, match="got nan in image 3"):
        fit_ridge(x, labels, units, 2)


def test_protocol_id_names_every_rule() -> None:
    found = protocol_id(ProbeSettings(max_dim=16, inner_folds=5))
    assert found.startswith("ridge/standardise/pca16/one-hot/balanced/alpha-per-image=0.0001,0.000316,0.001,")
    assert found.endswith(",31.6,100/inner5-by-group/v5")

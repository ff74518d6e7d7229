from __future__ import annotations

import numpy as np
import pytest
from sklearn.decomposition import PCA
from sklearn.preprocessing import StandardScaler

from pipelines.metrics.projection import fit_projection
from registry.errors import InputError


@pytest.mark.parametrize("n", [60, 300])  # fewer and more images than columns
def test_projection_equals_exact_pca_of_standardised_features(n: int) -> None:
    x = np.random.default_rng(0).normal(size=(n, 100)) @ np.random.default_rng(1).normal(size=(100, 100)) + 5
    found = fit_projection(x, 20)
    expected = PCA(20, svd_solver="full").fit_transform(StandardScaler().fit_transform(x))
    scores = found.transform(x)
    assert np.abs(scores) == pytest.approx(np.abs(expected), abs=1e-8)
    assert found.components @ found.components.T == pytest.approx(np.eye(20), abs=1e-9)
    assert (found.components[np.arange(20), np.abs(found.components).argmax(axis=1)] > 0).all()


def test_few_columns_are_only_standardised() -> None:
    x = np.random.default_rng(0).normal(3, 2, size=(50, 6))
    x[:, 2] = 7
    found = fit_projection(x, 10)
    assert found.dim == 5
    assert found.transform(x) == pytest.approx(StandardScaler().fit_transform(np.delete(x, 2, axis=1)))


def test_a_column_that_is_constant_in_training_is_ignored_later() -> None:
    x = np.random.default_rng(0).normal(size=(50, 3))
    x[:, 1] = 4
    later = x.copy()
    later[:, 1] = 1e9
    found = fit_projection(x, 3)
    assert (found.transform(later) == found.transform(x)).all()


def test_rank_below_max_dim_leaves_fewer_components() -> None:
    rng = np.random.default_rng(0)
    assert fit_projection(rng.normal(size=(80, 4)) @ rng.normal(size=(4, 200)), 50).dim == 4


def test_constant_features_project_to_nothing() -> None:
    assert fit_projection(np.ones((10, 300)), 64).transform(np.ones((2, 300))).shape == (2, 0)


def test_bad_features_are_refused_in_words() -> None:
    with pytest.raises(InputError, match="Expected 3 features as in training, got 2"):
        fit_projection(np.eye(3), 3).transform(np.zeros((1, 2)))
    with pytest.raises(InputError, match="training images, got none"):
        fit_projection(np.zeros((0, 3)), 3)

from __future__ import annotations

import numpy as np
import pytest
from scipy.linalg import fractional_matrix_power
from sklearn.decomposition import PCA
from sklearn.preprocessing import StandardScaler

from pipelines.metrics.alignment import ALIGNMENTS, aggregate, centre_scale, pca_centre_scale, tvn, tvn_global
from registry.errors import InputError


def screen(batches: int = 3, controls: int = 30, treated: int = 20, d: int = 6) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Profiles of correlated features, a shift and a scale of its own for each batch."""
    rng = np.random.default_rng(0)
    n = controls + treated
    mixing = rng.normal(size=(d, d))
    parts = [(rng.normal(size=(n, d)) @ mixing) * rng.uniform(0.5, 2) + 3 * rng.normal(size=d) for _ in range(batches)]
    control = np.tile(np.arange(n) < controls, batches)
    return np.concatenate(parts), control, np.repeat([f"b{i}" for i in range(batches)], n)


def reference_tvn(x: np.ndarray, controls: np.ndarray, batches: np.ndarray) -> np.ndarray:
    """The steps of the reference with its libraries."""
    x = StandardScaler().fit(x[controls]).transform(x)
    x = PCA().fit(x[controls]).transform(x)
    x = StandardScaler().fit(x[controls]).transform(x)
    for batch in np.unique(batches):
        here = batches == batch
        covariance = np.cov(x[here & controls], rowvar=False, ddof=1) + 0.5 * np.eye(x.shape[1])
        x[here] = x[here] @ fractional_matrix_power(covariance, -0.5)
    return x


def cosines(x: np.ndarray) -> np.ndarray:
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    return np.asarray(unit @ unit.T)


def test_tvn_is_the_reference_up_to_the_sign_of_components() -> None:
    x, controls, batches = screen()
    np.testing.assert_allclose(cosines(tvn(x, controls, batches)), cosines(reference_tvn(x, controls, batches)), atol=1e-10)


def test_the_earlier_tvn_whitens_all_controls_at_once() -> None:
    x, controls, batches = screen()
    found = tvn_global(x, controls)
    turned = PCA().fit(x[controls]).transform(x)
    turned = StandardScaler().fit(turned[controls]).transform(turned)
    covariance = np.cov(turned[controls], rowvar=False) + 0.5 * np.eye(6)
    np.testing.assert_allclose(cosines(found), cosines(turned @ fractional_matrix_power(covariance, -0.5)), atol=1e-10)
    assert np.abs(cosines(found) - cosines(tvn(x, controls, batches))).max() > 0.05


def test_centre_scale_is_scikit_learns_scaler_on_the_controls_of_each_batch() -> None:
    x, controls, batches = screen()
    x[:, 2] = 7.0
    found = centre_scale(x, controls, batches)
    for batch in np.unique(batches):
        here = batches == batch
        np.testing.assert_allclose(found[here], StandardScaler().fit(x[here & controls]).transform(x[here]), atol=1e-9)


def test_components_then_centre_and_scale() -> None:
    x, controls, batches = screen()
    expected = centre_scale(PCA(n_components=3).fit(x[controls]).transform(x), controls, batches)
    np.testing.assert_allclose(cosines(pca_centre_scale(x, controls, batches, dims=3)), cosines(expected), atol=1e-10)


@pytest.mark.parametrize("name", [name for name in ALIGNMENTS if name not in ("none", "tvn-global")])
def test_a_batch_effect_is_gone(name: str) -> None:
    """Shift and scale of each batch were planted: afterwards the controls of all batches have one mean and one variance."""
    x, controls, batches = screen()
    found = ALIGNMENTS[name](x, controls, batches)
    means = np.array([found[controls & (batches == b)].mean(axis=0) for b in np.unique(batches)])
    raw = np.array([x[controls & (batches == b)].mean(axis=0) for b in np.unique(batches)])
    assert np.ptp(raw, axis=0).max() > 2
    if name != "tvn":  # which centres all controls together, not each batch
        np.testing.assert_allclose(means, 0, atol=1e-9)
    assert np.isfinite(found).all()


def test_swapping_batches_and_controls_changes_everything() -> None:
    x, controls, batches = screen()
    assert np.abs(centre_scale(x, controls, batches) - centre_scale(x, ~controls, batches)).max() > 0.5
    assert np.abs(centre_scale(x, controls, batches) - centre_scale(x, controls, np.roll(batches, 25))).max() > 0.5


def test_a_batch_without_controls_is_refused_by_name() -> None:
    x, controls, batches = screen()
    controls = controls & (batches != "b1")
    for rule in (centre_scale, pca_centre_scale, tvn):
        with pytest.raises(InputError, match=r"Batch `b1` has 0 controls"):
            rule(x, controls, batches)


def test_more_features_than_controls() -> None:
    rng = np.random.default_rng(1)
    x, controls, batches = rng.normal(size=(40, 64)), np.tile([True, False], 20), np.repeat(["a", "b"], 20)
    for name, rule in ALIGNMENTS.items():
        assert np.isfinite(rule(x, controls, batches)).all(), name


def test_means_of_replicates() -> None:
    names, means = aggregate(np.array([[1.0], [2.0], [5.0]]), ["b", "a", "b"])
    assert names == ("a", "b")
    assert means.tolist() == [[2.0], [3.0]]

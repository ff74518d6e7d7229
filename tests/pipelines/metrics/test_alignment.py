from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.linalg import fractional_matrix_power
from sklearn.decomposition import PCA
from sklearn.preprocessing import StandardScaler

from pipelines.metrics.alignment import ALIGNMENTS, aggregate, alignments, centre_scale, pca_centre_scale, spherize, tvn, tvn_global
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


@pytest.mark.parametrize("name", ["centre-scale", "pca128-centre-scale", "tvn"])
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


def test_another_epsilon_has_another_name() -> None:
    x, controls, batches = screen()
    rules = alignments(1e-3)
    assert [name for name in rules if name not in ALIGNMENTS] == ["spherize-1.7.1-epsilon-0.001", "spherize-1.6.0-epsilon-0.001"]
    assert list(alignments()) == list(ALIGNMENTS)
    for name, uncentred in (("spherize-1.7.1", False), ("spherize-1.6.0", True)):
        found = rules[f"{name}-epsilon-0.001"](x, controls, batches)
        np.testing.assert_array_equal(found, spherize(x, controls, epsilon=1e-3, uncentred=uncentred))
        assert np.abs(found - ALIGNMENTS[name](x, controls, batches)).max() > 1e-6
    np.testing.assert_array_equal(rules["tvn"](x, controls, batches), ALIGNMENTS["tvn"](x, controls, batches))
    for epsilon in (-1e-9, np.nan, np.inf):
        with pytest.raises(InputError, match="Expected an epsilon of at least 0"):
            alignments(epsilon)


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
        aligned = rule(x, controls, batches)
        assert np.isfinite(aligned).all(), name
        # 20 controls span 19 directions: a 20th, of rounding, would make of every other profile a number of 13 digits
        assert np.abs(aligned).max() < 1e4, name


def answers(version: str) -> list[dict[str, Any]]:
    stored = json.loads((Path(__file__).parent / "golden" / f"spherize-{version}.json").read_text())
    assert stored["pycytominer"] == version
    return list(stored["cases"])


@pytest.mark.parametrize(("version", "uncentred"), [("1.2.2", False), ("1.6.0", True), ("1.7.1", False)])
def test_sphering_is_pycytominers_of_each_version(version: str, uncentred: bool) -> None:
    cases = answers(version)
    assert {(case["name"], case["method"], case["epsilon"]) for case in cases} >= {("few controls", "ZCA-cor", 1e-3), ("many controls", "ZCA", 1e-6)}
    for case in cases:
        x, expected = np.array(case["x"]), np.array(case["expected"])
        controls = np.arange(len(x)) < case["controls"]
        found = spherize(x, controls, method=case["method"], epsilon=case["epsilon"], uncentred=uncentred)
        np.testing.assert_allclose(found, expected, atol=1e-9 * np.abs(expected).max(), err_msg=case["name"])
        assert np.abs(spherize(x, controls, method=case["method"], epsilon=case["epsilon"], uncentred=not uncentred) - expected).max() > 0.5
        if (case["method"], case["epsilon"]) == ("ZCA-cor", 1e-6):
            batches = np.repeat("a", len(x))
            np.testing.assert_array_equal(ALIGNMENTS["spherize-1.6.0" if uncentred else "spherize-1.7.1"](x, controls, batches), found)


@pytest.mark.parametrize("method", ["ZCA", "ZCA-cor"])
def test_sphered_controls_have_the_identity_as_covariance(method: str) -> None:
    x, controls, _ = screen()
    found = spherize(x, controls, method=method)
    np.testing.assert_allclose(found[controls].mean(axis=0), 0, atol=1e-9)
    np.testing.assert_allclose(np.cov(found[controls], rowvar=False), np.eye(6), atol=1e-5)
    broken = spherize(x, controls, method=method, uncentred=True)
    assert np.abs(np.cov(broken[controls], rowvar=False) - np.eye(6)).max() > 0.1
    swapped = spherize(x, ~controls, method=method)
    assert np.abs(np.cov(swapped[controls], rowvar=False) - np.eye(6)).max() > 0.1


def test_sphering_with_fewer_controls_than_features_knows_n_minus_1_directions() -> None:
    rng = np.random.default_rng(2)
    x, controls = rng.normal(size=(30, 12)) @ rng.normal(size=(12, 12)), np.arange(30) < 8
    values = np.linalg.eigvalsh(np.cov(spherize(x, controls)[controls], rowvar=False))
    np.testing.assert_allclose(values, [0] * 5 + [1] * 7, atol=1e-4)


def test_what_cannot_be_sphered_is_refused_in_words() -> None:
    x, controls, _ = screen()
    with pytest.raises(InputError, match="Batch `all` has 1 controls, at least 2"):
        spherize(x, np.arange(len(x)) == 3)
    with pytest.raises(InputError, match="Column 4 is constant among the controls"):
        spherize(np.where(np.arange(6) == 4, 7.3, x), controls)
    with pytest.raises(InputError, match="90 controls span fewer than the 7 directions"):
        spherize(np.hstack([x, x[:, :1] + x[:, 1:2]]), controls)
    with pytest.raises(InputError, match=r"`ZCA-cor`, `ZCA`.*got `PCA`"):
        spherize(x, controls, method="PCA")
    with pytest.raises(InputError, match="at least one feature"):
        spherize(x[:, :0], controls)
    with pytest.raises(InputError, match="a batch and a control flag"):
        spherize(x, controls[:-1])


def test_means_of_replicates() -> None:
    names, means = aggregate(np.array([[1.0], [2.0], [5.0]]), ["b", "a", "b"])
    assert names == ("a", "b")
    assert means.tolist() == [[2.0], [3.0]]

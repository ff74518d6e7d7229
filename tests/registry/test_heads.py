"""A head gives the probabilities of the scikit-learn pipeline it was taken from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from registry.bundle import read_arrays, write_arrays
from registry.errors import BundleError
from registry.heads import Head, heads_of

RNG = np.random.default_rng(0)


def fitted(classes: int, components: int | None) -> tuple[Head, np.ndarray, np.ndarray]:
    """A head, embeddings (n, d), and scikit-learn's own probabilities of them."""
    embedding = RNG.normal(3.0, 2.0, (120, 6)).astype(np.float32)
    labels = np.array([f"class-{i % classes}" for i in range(120)])
    embedding[:, 0] += 3 * (labels == "class-1")
    scaler = StandardScaler().fit(embedding.astype(np.float64))
    features = scaler.transform(embedding.astype(np.float64))
    pca = PCA(components).fit(features) if components else None
    if pca is not None:
        pca.mean_[:] = 0.0
        features = pca.transform(features)
    model = LogisticRegression().fit(features, labels)
    head = Head.of(model.classes_, scaler.mean_, scaler.scale_, pca.components_ if pca is not None else None, model.coef_, model.intercept_)
    return head, embedding, model.predict_proba(features)


@pytest.mark.parametrize("classes", [2, 3, 5])
@pytest.mark.parametrize("components", [None, 4])
def test_probabilities_are_scikit_learns(classes: int, components: int | None, tmp_path: Path) -> None:
    head, embedding, expected = fitted(classes, components)
    write_arrays(tmp_path / "heads.npz", {**head.as_arrays("phase"), **head.as_arrays("other/task")})
    read = heads_of(read_arrays(tmp_path / "heads.npz"))
    assert list(read) == ["other/task", "phase"]
    assert read["phase"].classes == tuple(f"class-{i}" for i in range(classes))
    np.testing.assert_allclose(read["phase"].predict_proba(embedding), expected, rtol=0, atol=1e-12)


def test_large_logits_do_not_overflow() -> None:
    head = Head.of(["a", "b", "c"], [0.0], [1.0], None, [[1e4], [0.0], [-1e4]], [0.0, 0.0, 0.0])
    np.testing.assert_array_equal(head.predict_proba([[1.0], [-1.0]]), [[1, 0, 0], [0, 0, 1]])


def test_refusals() -> None:
    head, embedding, _ = fitted(3, None)
    with pytest.raises(BundleError, match=r"Expected embeddings \(n, 6\) for this head, got shape \(120, 5\)"):
        head.predict_proba(embedding[:, :5])
    arrays = head.as_arrays("phase")
    with pytest.raises(BundleError, match=r"`phase` lacks `scale`"):
        heads_of({name: array for name, array in arrays.items() if not name.endswith("scale")})
    with pytest.raises(BundleError, match=r"expected finite `coef` of shape \(3, 6\), got \(3, 4\)"):
        heads_of({**arrays, "phase/coef": arrays["phase/coef"][:, :4]})
    with pytest.raises(BundleError, match="`scale` is positive"):
        heads_of({**arrays, "phase/scale": np.zeros(6)})
    with pytest.raises(BundleError, match="at least two different classes"):
        Head.of(["a", "a"], [0.0], [1.0], None, [[1.0], [1.0]], [0.0, 0.0])

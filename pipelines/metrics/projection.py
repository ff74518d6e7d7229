"""Standardise on training images, then keep at most `max_dim` principal components."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipelines.metrics.counts import check_count
from pipelines.metrics.geometry import check_features, varying_columns
from registry.arrays import Floats
from registry.errors import InputError

#: components with less than this share of the largest eigenvalue are rounding
_RANK = 1e-10


@dataclass(frozen=True, eq=False)
class Projection:
    """(x - mean) / scale, then `components`.

    Attributes:
        mean: (d,).
        scale: (d,) standard deviation (ddof 0); 1 where a column is constant.
        components: (p, d), p <= max_dim; columns of constant features are 0, so p is 0 for a constant embedding.
    """

    mean: Floats
    scale: Floats
    components: Floats

    @property
    def dim(self) -> int:
        """p."""
        return len(self.components)

    def transform(self, features: Floats) -> Floats:
        """(n, d) features -> (n, p).

        Raises:
            InputError: another d than in training, NaN or infinity.
        """
        features = check_features(features)
        if features.shape[1] != len(self.mean):
            raise InputError(f"Expected {len(self.mean)} features as in training, got {features.shape[1]}.")
        return np.asarray(((features - self.mean) / self.scale) @ self.components.T)


def fit_projection(features: Floats, max_dim: int) -> Projection:
    """Fit on training images.

    Up to `max_dim` varying columns are kept as they are. More go to their leading principal components, from an exact symmetric
    eigendecomposition of the smaller of covariance and Gram matrix: no randomised solver, so no seed. Each component's largest loading is
    positive. Scores are not whitened.

    Args:
        features: (n, d) training features.
        max_dim: most components kept.

    Raises:
        InputError: no image, NaN or infinity, features that vary and no component to keep.
    """
    features = check_features(features)
    n, d = features.shape
    if n == 0:
        raise InputError("Expected training images, got none. Look at `fold` and at the label column of the index.")
    varying = varying_columns(features)
    mean = features.mean(axis=0)
    scale = np.where(varying, features.std(axis=0), 1.0)
    kept = np.flatnonzero(varying)
    if len(kept) <= max_dim:
        return Projection(mean, scale, np.eye(d)[kept])
    check_count(max_dim, "a number of components", instead="With none, nothing of the features is left.")
    z = (features[:, kept] - mean[kept]) / scale[kept]
    leading = _leading_directions(z, max_dim)
    components = np.zeros((len(leading), d))
    components[:, kept] = leading
    return Projection(mean, scale, components)


def _leading_directions(z: Floats, p: int) -> Floats:
    """(<= p, d) orthonormal principal directions of centred z, largest variance first."""
    from scipy.linalg import eigh

    n, d = z.shape
    small = z @ z.T if n < d else z.T @ z
    top = min(p, len(small))
    values, vectors = eigh(small, subset_by_index=[len(small) - top, len(small) - 1])
    values, vectors = values[::-1], vectors[:, ::-1]
    vectors = vectors[:, values > _RANK * values[0]]
    if n < d:
        vectors = z.T @ vectors
        vectors = vectors / np.linalg.norm(vectors, axis=0)
    largest = vectors[np.argmax(np.abs(vectors), axis=0), np.arange(vectors.shape[1])]
    return np.asarray((vectors * np.sign(largest)).T)

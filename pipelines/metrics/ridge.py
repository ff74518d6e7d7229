"""Classification by ridge regression on one-hot targets: every penalty from one eigendecomposition, so it is the cheapest fitted probe.

An image goes to the class with the highest regression score. Classes weigh the same whatever their size. At one penalty it is scikit-learn's
`RidgeClassifier(alpha, class_weight="balanced")`, whose targets are -1 and 1: its scores are twice ours minus 1. The penalty is chosen on inner
folds of whole units, where `RidgeClassifierCV` leaves single images out. Scores are no probabilities; there is no log-loss of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipelines.metrics.folds import inner_folds
from pipelines.metrics.geometry import check_features
from pipelines.metrics.probes import ProbeSettings
from pipelines.metrics.statistic import check_labels
from registry.arrays import Floats, Ints
from registry.errors import InputError

#: squared length of the coefficients against the squared error of one image: scikit-learn's alpha over the number of images
PENALTIES = tuple(float(f"{10 ** (e / 2):.3g}") for e in range(-8, 5))


@dataclass(frozen=True, eq=False)
class RidgeProbe:
    """z @ coefficients.T + intercept: one score for each class.

    Attributes:
        coefficients: (k, p).
        intercept: (k,); -inf for a class without training images.
        penalty: the chosen one of `PENALTIES`; NaN where there was nothing to choose.
        notes: what was out of the ordinary.
    """

    coefficients: Floats
    intercept: Floats
    penalty: float
    notes: tuple[str, ...] = ()

    def scores(self, z: Floats) -> Floats:
        """(n, k) scores of (n, p) projected features; those of the classes of training sum to 1.

        Raises:
            InputError: another p than in training, NaN or infinity.
        """
        z = check_features(z)
        if z.shape[1] != self.coefficients.shape[1]:
            raise InputError(f"Expected {self.coefficients.shape[1]} features as in training, got {z.shape[1]}.")
        return np.asarray(z @ self.coefficients.T + self.intercept)

    def predict(self, z: Floats) -> Ints:
        """(n,) codes of the highest scores; of equal ones the first of the vocabulary."""
        return np.asarray(self.scores(z).argmax(axis=1), dtype=np.int64)


def protocol_id(settings: ProbeSettings) -> str:
    """Names every rule behind `ridge.balanced_accuracy`."""
    grid = ",".join(f"{penalty:g}" for penalty in PENALTIES)
    return f"ridge/standardise/pca{settings.max_dim}/one-hot/balanced/alpha-per-image={grid}/inner{settings.inner_folds}-by-group/v5"


def fit_ridge(
    z: Floats,
    labels: Ints,
    groups: Sequence[str] | NDArray[np.str_],
    n_classes: int,
    n_folds: int = 3,
    penalties: Sequence[float] = PENALTIES,
) -> RidgeProbe:
    """Fit on training images.

    The penalty is the one with the smallest class-balanced squared error over inner folds that hold groups out; of equal ones the largest. With a
    single training group the inner folds divide images, and a note says so.

    Args:
        z: (n, p) features, standardised: the penalty is the same for all columns (`projection.fit_projection`).
        labels: (n,) class codes.
        groups: n names; a group is never in two inner folds.
        n_classes: size of the vocabulary.
        n_folds: inner folds wanted.
        penalties: ascending, per image.

    Raises:
        InputError: no image, NaN or infinity, labels outside the vocabulary, penalties that are not positive and ascending.
    """
    z = check_features(z)
    labels = check_labels(labels, len(z), n_classes)
    if not penalties or list(penalties) != sorted(set(penalties)) or penalties[0] <= 0:
        raise InputError(f"Expected positive penalties, ascending and without repeats, got {tuple(penalties)}.")
    if len(labels) == 0:
        raise InputError("Expected training images, got none. Look at `fold` and at the label column of the index.")
    path = _Path.of(z, labels, n_classes)
    if z.shape[1] == 0 or len(np.unique(labels)) < 2:
        return RidgeProbe(np.zeros((n_classes, z.shape[1])), path.intercept, float("nan"))
    inner = inner_folds(labels, groups, n_classes, n_folds)
    notes = ("The penalty was chosen on inner folds of images: there is only one training group.",) if inner.kind == "images" else ()
    losses = np.zeros(len(penalties))
    for fold in range(inner.n_folds):
        held = inner.fold == fold
        if held.any() and not held.all():
            losses += _Path.of(z[~held], labels[~held], n_classes).losses(z[held], labels[held], penalties)
    # losses closer than this are equal up to rounding
    chosen = penalties[int(np.flatnonzero(losses <= losses.min() * (1 + 1e-9))[-1])]
    coefficients = path.coefficients(chosen)
    return RidgeProbe(coefficients, path.intercept - coefficients @ path.centre, chosen, notes)


@dataclass(frozen=True, eq=False)
class _Path:
    """The weighted fit to n images for every penalty.

    Attributes:
        centre: (p,) mean of the class means.
        intercept: (k,) scores there: the same for every class of training, -inf for others.
        values: (p,) eigenvalues of the weighted scatter, per image.
        vectors: (p, p) its eigenvectors.
        turned: (p, k) vectors.T @ the weighted products of features and targets, per image.
    """

    centre: Floats
    intercept: Floats
    values: Floats
    vectors: Floats
    turned: Floats

    @classmethod
    def of(cls, z: Floats, labels: Ints, n_classes: int) -> _Path:
        counts = np.bincount(labels, minlength=n_classes)
        present = counts > 0
        intercept = np.where(present, 1 / present.sum(), -np.inf)
        # sum to 1: each class has the same share
        weights = 1.0 / (counts[labels] * present.sum())
        centre = weights @ z
        centred = z - centre
        targets = np.eye(n_classes)[labels] - np.where(present, intercept, 0.0)
        weighted = centred * weights[:, None]
        values, vectors = np.linalg.eigh(weighted.T @ centred)
        return cls(centre, intercept, np.maximum(values, 0.0), vectors, vectors.T @ (weighted.T @ targets))

    def coefficients(self, penalty: float) -> Floats:
        """(k, p)."""
        return np.asarray((self.vectors @ (self.turned / (self.values + penalty)[:, None])).T)

    def losses(self, z: Floats, labels: Ints, penalties: Sequence[float]) -> Floats:
        """(len(penalties),) squared error of other images, each class with the same share; a class that was not fitted scores 0."""
        counts = np.bincount(labels, minlength=len(self.intercept))
        weights = 1.0 / (counts[labels] * np.count_nonzero(counts))
        queries = (z - self.centre) @ self.vectors
        wanted = np.eye(len(self.intercept))[labels] - np.where(np.isfinite(self.intercept), self.intercept, 0.0)
        found = [np.sum((wanted - (queries / (self.values + penalty)) @ self.turned) ** 2, axis=1) for penalty in penalties]
        return np.array([float(weights @ each) for each in found])

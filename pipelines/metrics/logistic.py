"""Class-balanced multinomial logistic regression over a path of penalties (each fit started from the one before)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from pipelines.metrics.penalised import Fit, fit
from registry.arrays import Floats, Ints


@dataclass(frozen=True, eq=False)
class Linear:
    """softmax(z @ coefficients.T + intercept) over the whole vocabulary.

    Attributes:
        coefficients: (k, p); with two classes the first row is 0.
        intercept: (k,); -inf for a class without training images.
    """

    coefficients: Floats
    intercept: Floats

    def predict_proba(self, z: Floats) -> Floats:
        """(n, k) probabilities of (n, p) projected features."""
        return softmax(z @ self.coefficients.T + self.intercept)


def softmax(logits: Floats) -> Floats:
    """(n, k) probabilities; a logit of -inf gives 0."""
    raised = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(raised / raised.sum(axis=1, keepdims=True))


def uninformed(labels: Ints, p: int, n_classes: int) -> Linear:
    """The fit to features that say nothing, or to one class: every class of training is as probable as the next."""
    return Linear(np.zeros((n_classes, p)), np.where(np.bincount(labels, minlength=n_classes) > 0, 0.0, -np.inf))


def path(z: Floats, labels: Ints, n_classes: int, grid: Sequence[float]) -> Iterator[Linear]:
    """Fits for each inverse penalty of an ascending grid, each started from the one before.

    The optimum is that of scikit-learn's `LogisticRegression(C=c, class_weight="balanced")`.

    Args:
        z: (n, p) projected training features.
        labels: (n,) class codes.
        n_classes: size of the vocabulary.
        grid: scikit-learn's C: sum over images of (balanced weight x loss) + |w|^2 / (2 C).
    """
    present, codes = np.unique(labels, return_inverse=True)
    if len(present) < 2 or z.shape[1] == 0:
        yield from (uninformed(labels, z.shape[1], n_classes) for _ in grid)
        return
    balanced = (len(labels) / (len(present) * np.bincount(codes)))[codes]
    found: Fit | None = None
    for c in grid:
        found = fit(z, codes, len(present), np.full(z.shape[1], 1 / c), found, balanced)
        weights = np.hstack([np.zeros_like(found.weights), found.weights]) if len(present) == 2 else found.weights
        coefficients, intercept = np.zeros((n_classes, z.shape[1])), np.full(n_classes, -np.inf)
        coefficients[present], intercept[present] = weights[1:].T, weights[0]
        yield Linear(coefficients, intercept)

"""Class-balanced multinomial logistic regression over a path of penalties (scikit-learn, warm-started)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from registry.arrays import Floats, Ints

#: gradient tolerance on the mean loss: tight, so that another BLAS gives the same predictions
TOLERANCE = 1e-7
_MAX_ITERATIONS = 10_000
#: columns up to which a Newton step, cubic in them, is cheap
_MOST_NEWTON = 256


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


def path(z: Floats, labels: Ints, n_classes: int, grid: Sequence[float], tolerance: float = TOLERANCE) -> Iterator[Linear]:
    """Fits for each inverse penalty of an ascending grid, each started from the one before.

    Args:
        z: (n, p) projected training features.
        labels: (n,) class codes.
        n_classes: size of the vocabulary.
        grid: scikit-learn's C: sum over images of (balanced weight x loss) + |w|^2 / (2 C).
        tolerance: largest gradient of the mean loss at which a fit ends.
    """
    from sklearn.linear_model import LogisticRegression

    present = np.unique(labels)
    if len(present) < 2 or z.shape[1] == 0:
        yield from (uninformed(labels, z.shape[1], n_classes) for _ in grid)
        return
    # the same optimum either way; for two classes Newton's steps reach it several times sooner on the correlated columns of real embeddings
    solver = "newton-cholesky" if len(present) == 2 and z.shape[1] <= _MOST_NEWTON else "lbfgs"
    model = LogisticRegression(class_weight="balanced", tol=tolerance, max_iter=_MAX_ITERATIONS, warm_start=True, solver=solver)
    for c in grid:
        model.set_params(C=c).fit(z, labels)
        rows = np.vstack([np.zeros_like(model.coef_), model.coef_]) if len(present) == 2 else model.coef_
        levels = np.concatenate([[0.0], model.intercept_]) if len(present) == 2 else model.intercept_
        coefficients, intercept = np.zeros((n_classes, z.shape[1])), np.full(n_classes, -np.inf)
        coefficients[present], intercept[present] = rows, levels
        yield Linear(coefficients, intercept)

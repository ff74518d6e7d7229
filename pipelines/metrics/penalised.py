"""Multinomial logistic regression with its own ridge penalty for every column, started from an earlier fit.

Minimises sum over images of weight * -ln p(label) + sum over columns of penalty/2 |w|^2; the intercept is all but free (1e-6).
Two classes: Newton steps on the one logit. More: L-BFGS in coordinates where the bound 1/2 X'X on the Hessian (Boehning 1992)
is the identity. Scikit-learn knows one penalty only; with equal penalties and C = 1 / penalty the minimum is the same, and on the
columns of real embeddings, whose spreads differ tenfold, it is reached several times sooner here.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from registry.arrays import Floats, Ints

#: gradient norm per image at which a fit stops
_TOLERANCE = 1e-7
_MAX_NEWTON, _MAX_LBFGS = 100, 5000
#: keeps a minimum in being where a class has no image
_PENALTY_OF_INTERCEPT = 1e-6


@dataclass(frozen=True, eq=False)
class Fit:
    """Logits x @ weights[1:] + weights[0].

    Attributes:
        weights: (1 + p, k - 1 or k): one column for two classes (the logit of the second), else one for each class.
    """

    weights: Floats

    def logits(self, x: Floats) -> Floats:
        """(n, k) logits."""
        found = x @ self.weights[1:] + self.weights[0]
        return np.hstack([np.zeros_like(found), found]) if found.shape[1] == 1 else found


def fit(x: Floats, labels: Ints, n_classes: int, penalty: Floats, start: Fit | None = None, image_weights: Floats | None = None) -> Fit:
    """Fit to (n, p) features.

    Args:
        x: (n, p).
        labels: (n,) codes 0..n_classes-1.
        n_classes: at least 2.
        penalty: (p,) positive.
        start: an earlier fit to columns of which these are the same or a continuation; the new ones start at 0.
        image_weights: (n,) positive; None = 1 each.
    """
    design = np.hstack([np.ones((len(x), 1)), x])
    ridge = np.concatenate([[_PENALTY_OF_INTERCEPT], penalty])
    weights = np.zeros((design.shape[1], 1 if n_classes == 2 else n_classes))
    if start is not None:
        weights[: len(start.weights)] = start.weights
    solve = _newton if n_classes == 2 else _lbfgs
    return Fit(solve(design, labels, ridge, weights, np.ones(len(x)) if image_weights is None else image_weights))


def _newton(x: Floats, labels: Ints, ridge: Floats, weights: Floats, counts: Floats) -> Floats:
    """Damped Newton: a step is halved until the objective falls."""
    from scipy.linalg import cho_factor, cho_solve
    from scipy.special import expit

    sign = np.where(labels == 1, 1.0, -1.0)

    def objective(candidate: Floats) -> float:
        return float(counts @ np.logaddexp(0.0, -sign * (x @ candidate)) + 0.5 * ridge @ candidate**2)

    w = weights[:, 0]
    value = objective(w)
    for _ in range(_MAX_NEWTON):
        p = expit(x @ w)
        gradient = x.T @ (counts * (p - (labels == 1))) + ridge * w
        if np.linalg.norm(gradient) <= _TOLERANCE * len(x):
            break
        hessian = (x * (counts * p * (1 - p))[:, None]).T @ x + np.diag(ridge)
        step = cho_solve(cho_factor(hessian), gradient)
        scale = 1.0
        while (found := objective(w - scale * step)) > value and scale > 1e-6:
            scale /= 2
        if found > value:
            break
        w, value = w - scale * step, found
    return w[:, None]


def _lbfgs(x: Floats, labels: Ints, ridge: Floats, weights: Floats, counts: Floats) -> Floats:
    from scipy.linalg import cholesky, solve_triangular
    from scipy.optimize import fmin_l_bfgs_b

    n, k = len(x), weights.shape[1]
    bound = 0.5 * (x * counts[:, None]).T @ x + np.diag(ridge)
    root = cholesky(bound, lower=True)
    # the features in the new coordinates, once: every step is then a product and no solve over images
    turned = solve_triangular(root, x.T, lower=True, check_finite=False).T
    one_hot = np.eye(k)[labels]

    def objective(flat: Floats) -> tuple[float, Floats]:
        w = solve_triangular(root, flat.reshape(weights.shape), lower=True, trans="T", check_finite=False)
        logits = turned @ flat.reshape(weights.shape)
        logits -= logits.max(axis=1, keepdims=True)
        odds = np.exp(logits)
        total = odds.sum(axis=1)
        value = counts @ (np.log(total) - logits[np.arange(n), labels]) + 0.5 * np.sum(ridge[:, None] * w**2)
        gradient = turned.T @ (counts[:, None] * (odds / total[:, None] - one_hot))
        gradient += solve_triangular(root, ridge[:, None] * w, lower=True, check_finite=False)
        return float(value), gradient.ravel()

    # in these coordinates the bound is the identity, so a gradient of size g is at most about g from the minimum
    found, _, _ = fmin_l_bfgs_b(objective, (root.T @ weights).ravel(), pgtol=1e-6, factr=10.0, m=20, maxiter=_MAX_LBFGS)
    return np.asarray(solve_triangular(root, np.asarray(found).reshape(weights.shape), lower=True, trans="T"))

"""Multinomial logistic regression with its own ridge penalty for every column, started from an earlier fit.

Minimises sum over images of weight * -ln p(label) + sum over columns of penalty/2 |w|^2; the intercept is all but free (1e-6).
Two classes: Newton steps on the one logit. More: Newton steps by conjugate gradients. Scikit-learn knows one penalty only; with equal
penalties and C = 1 / penalty the minimum is the same, and on the columns of real embeddings, whose spreads differ tenfold, it is
reached many times sooner here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from registry.arrays import Floats, Ints

#: gradient norm per image at which a fit stops
_TOLERANCE = 1e-7
#: nats per image that are left to gain at which a fit to several classes stops
TO_GAIN = 1e-13
_MAX_NEWTON, _MAX_CG = 100, 200
#: conjugate gradient passes of one step after which the blocks that precondition it are computed again
_PASSES_OF_BLOCKS = 12
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


def fit(
    x: Floats,
    labels: Ints,
    n_classes: int,
    penalty: Floats,
    start: Fit | None = None,
    image_weights: Floats | None = None,
    to_gain: float = TO_GAIN,
) -> Fit:
    """Fit to (n, p) features.

    Args:
        x: (n, p).
        labels: (n,) codes 0..n_classes-1.
        n_classes: at least 2.
        penalty: (p,) positive.
        start: an earlier fit to columns of which these are the same or a continuation; the new ones start at 0.
        image_weights: (n,) positive; None = 1 each.
        to_gain: with several classes, nats per image that are left to gain, roughly, at which it stops; probabilities are right to its root.
    """
    design = np.hstack([np.ones((len(x), 1)), x])
    ridge = np.concatenate([[_PENALTY_OF_INTERCEPT], penalty])
    weights = np.zeros((design.shape[1], 1 if n_classes == 2 else n_classes))
    if start is not None:
        weights[: len(start.weights)] = start.weights
    counts = np.ones(len(x)) if image_weights is None else image_weights
    if n_classes == 2:
        return Fit(_newton(design, labels, ridge, weights, counts))
    return Fit(_newton_cg(design, labels, ridge, weights, counts, to_gain * float(counts.sum())))


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


def _newton_cg(x: Floats, labels: Ints, ridge: Floats, weights: Floats, counts: Floats, enough: float) -> Floats:
    """Damped Newton; its steps come from conjugate gradients, to a tenth of the gradient (Dembo, Eisenstat and Steihaug 1982).

    The preconditioner is each class's own block of the Hessian. One block for all classes is cheaper by the number of classes, and where
    classes are as unequal as in real screens took twenty times as many passes over the images; quasi-Newton steps on the bound of Boehning
    (1992) took hundreds where classes are nearly separable, and stopped 1e-4 bits per image short.
    """
    n, k = len(x), weights.shape[1]
    images, penalties = np.arange(n), ridge[:, None]
    one_hot = np.eye(k)[labels]

    def at(w: Floats, logits: Floats) -> tuple[float, Floats]:
        """The objective and (n, k) probabilities."""
        logits = logits - logits.max(axis=1, keepdims=True)
        odds = np.exp(logits)
        sums = odds.sum(axis=1)
        return float(counts @ (np.log(sums) - logits[images, labels]) + 0.5 * np.sum(penalties * w**2)), odds / sums[:, None]

    w, logits = weights.copy(), x @ weights
    value, p = at(w, logits)
    factors: list[Floats] = []
    fresh = False
    for _ in range(_MAX_NEWTON):
        if not factors:
            factors, fresh = [_factor(x, counts * p[:, c] * (1 - p[:, c]), ridge) for c in range(k)], True
        gradient = x.T @ (counts[:, None] * (p - one_hot)) + penalties * w
        steepest = _solve(factors, -gradient)
        # about twice what is left to gain, up to a factor of the order of the number of classes; by blocks of an earlier step less surely
        left = -float(np.sum(gradient * steepest))
        if left <= (enough if fresh else 0.1 * enough):
            break
        step = np.zeros_like(w)
        residual, direction, size = -gradient, steepest, left
        passes = 0
        for _ in range(_MAX_CG):
            passes += 1
            change = x @ direction
            change -= (p * change).sum(axis=1, keepdims=True)
            bent = x.T @ (change * p * counts[:, None]) + penalties * direction
            scale = size / float(np.sum(direction * bent))
            step += scale * direction
            residual = residual - scale * bent
            turned = _solve(factors, residual)
            before, size = size, float(np.sum(residual * turned))
            if size <= 0.01 * left:
                break
            direction = turned + (size / before) * direction
        along, slope, scale = x @ step, float(np.sum(gradient * step)), 1.0
        while (found := at(w + scale * step, logits + scale * along))[0] > value + 1e-4 * scale * slope and scale > 1e-6:
            scale /= 2
        if found[0] > value:
            break
        w, logits = w + scale * step, logits + scale * along
        value, p = found
        # blocks cost as much as dozens of passes: they serve until they no longer fit
        fresh = False
        if passes > _PASSES_OF_BLOCKS:
            factors = []
    return w


def _factor(x: Floats, curvature: Floats, ridge: Floats) -> Floats:
    """(p, p) lower Cholesky factor of one class's block of the Hessian."""
    from scipy.linalg import cholesky
    from scipy.linalg.blas import dsyrk

    block = dsyrk(1.0, (x * np.sqrt(curvature)[:, None]).T, lower=1)
    block[np.diag_indices(len(ridge))] += ridge
    return np.asarray(cholesky(block, lower=True, overwrite_a=True, check_finite=False))


def _solve(factors: Sequence[Floats], values: Floats) -> Floats:
    """(p, k) each column solved by its class's block, and then without the part that all classes share.

    Such a part changes no probability, only the penalty, so at the minimum there is none; left in, it takes hundreds of steps to get rid of.
    """
    from scipy.linalg import cho_solve

    columns = [cho_solve((factor, True), values[:, c], check_finite=False) for c, factor in enumerate(factors)]
    solved = np.stack(columns, axis=1)
    return np.asarray(solved - solved.mean(axis=1, keepdims=True))

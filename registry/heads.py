"""The head of a task: the fitted logistic probe as arrays, applied in numpy.

A head is what an offline probe has learned, so that a server turns an embedding into the very probabilities of
the offline prediction without scikit-learn.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from registry.arrays import Floats
from registry.errors import BundleError

ARRAYS = ("mean", "scale", "components", "coef", "intercept", "classes")


@dataclass(frozen=True)
class Head:
    """A multinomial (or, for two classes, binary) logistic regression on a standardised, perhaps projected, embedding.

    Attributes:
        classes: k labels, in the order of the columns of `predict_proba`.
        mean: (d,) subtracted from the embedding.
        scale: (d,) divides afterwards; positive.
        components: (q, d) rows project the standardised embedding; (0, d) where there is no projection.
        coef: (k, q or d), or (1, q or d) for two classes: scikit-learn's layout.
        intercept: (k,) or (1,).
    """

    classes: tuple[str, ...]
    mean: Floats
    scale: Floats
    components: Floats
    coef: Floats
    intercept: Floats

    def __post_init__(self) -> None:
        d = self.dim
        width = len(self.components) or d
        rows = 1 if len(self.classes) == 2 and len(self.coef) == 1 else len(self.classes)
        shapes = {"mean": (d,), "scale": (d,), "components": (len(self.components), d), "coef": (rows, width), "intercept": (rows,)}
        for name, expected in shapes.items():
            array = getattr(self, name)
            if array.shape != expected or not np.isfinite(array).all():
                raise BundleError(f"A head of {len(self.classes)} classes: expected finite `{name}` of shape {expected}, got {array.shape}.")
        if len(self.classes) < 2 or len(set(self.classes)) != len(self.classes):
            raise BundleError(f"Expected a head with at least two different classes, got {self.classes}.")
        if not (self.scale > 0).all():
            raise BundleError("Expected a head whose `scale` is positive; a constant dimension has scale 1.")

    @property
    def dim(self) -> int:
        """Embedding dimension d it takes."""
        return len(self.mean)

    @classmethod
    def of(cls, classes: ArrayLike, mean: ArrayLike, scale: ArrayLike, components: ArrayLike | None, coef: ArrayLike, intercept: ArrayLike) -> Head:
        """From anything array-like; `components` None or empty means no projection."""
        centre = np.asarray(mean, np.float64)
        projection = np.asarray(components if components is not None else (), np.float64)
        if projection.size == 0:
            projection = np.zeros((0, len(centre)))
        return cls(
            tuple(str(label) for label in np.asarray(classes)),
            centre,
            np.asarray(scale, np.float64),
            projection,
            np.atleast_2d(np.asarray(coef, np.float64)),
            np.atleast_1d(np.asarray(intercept, np.float64)),
        )

    def predict_proba(self, embedding: ArrayLike) -> Floats:
        """(n, k) probabilities of (n, d) embeddings; rows sum to 1.

        Raises:
            BundleError: embeddings of another dimension.
        """
        values = np.asarray(embedding, np.float64)
        if values.ndim != 2 or values.shape[1] != self.dim:
            raise BundleError(f"Expected embeddings (n, {self.dim}) for this head, got shape {values.shape}.")
        standardised = (values - self.mean) / self.scale
        if len(self.components):
            standardised = standardised @ self.components.T
        logits = standardised @ self.coef.T + self.intercept
        if logits.shape[1] == 1:
            # a binary regression's one logit against a logit of 0 is the softmax of the two
            logits = np.hstack([np.zeros_like(logits), logits])
        logits -= logits.max(axis=1, keepdims=True)
        odds = np.exp(logits)
        probabilities: Floats = odds / odds.sum(axis=1, keepdims=True)
        return probabilities

    def as_arrays(self, task: str) -> dict[str, NDArray[Any]]:
        """ "<task>/<array>" for `heads.npz`."""
        values = {name: getattr(self, name) for name in ARRAYS if name != "classes"}
        return {f"{task}/{name}": array for name, array in values.items()} | {f"{task}/classes": np.array(self.classes, dtype=np.str_)}


def heads_of(arrays: Mapping[str, NDArray[Any]]) -> dict[str, Head]:
    """Heads by task, in order, from the arrays of `heads.npz`.

    Raises:
        BundleError: an array is missing or of the wrong shape.
    """
    heads = {}
    for task in sorted({name.rpartition("/")[0] for name in arrays}):
        missing = [name for name in ARRAYS if f"{task}/{name}" not in arrays]
        if missing:
            raise BundleError(f"The head of task `{task}` lacks {', '.join(f'`{name}`' for name in missing)}. Write it with `Head.as_arrays`.")
        heads[task] = Head.of(**{name: arrays[f"{task}/{name}"] for name in ARRAYS})
    return heads

"""How far a new image lies from the images a bundle's heads were trained on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from registry.arrays import Floats, Mask
from serving.schema import Distance

#: a dimension that varies by less than this share of its own size is constant as far as float16 can tell
CONSTANT = 2e-3


@dataclass(frozen=True)
class Reference:
    """Training embeddings, standardised, and how far each lies from its own nearest neighbour.

    Attributes:
        mean: (d,) over the training embeddings.
        scale: (d,) standard deviations, 1 where a dimension does not vary.
        varies: (d,) dimensions that take part.
        points: (n, d') standardised training embeddings over the dimensions that vary, divided by sqrt(d').
        own: (n,) distance of each to its nearest neighbour among the others, sorted.
    """

    mean: Floats
    scale: Floats
    varies: Mask
    points: Floats
    own: Floats

    @classmethod
    def of(cls, embeddings: NDArray[np.floating]) -> Reference | None:
        """From (n, d) training embeddings; None where fewer than three, or where no dimension varies."""
        values = embeddings.astype(np.float64)
        if len(values) < 3:
            return None
        mean, spread = values.mean(axis=0), values.std(axis=0)
        varies = spread > CONSTANT * np.sqrt((values**2).mean(axis=0))
        if not varies.any():
            return None
        scale = np.where(varies, spread, 1.0)
        points = ((values - mean) / scale)[:, varies] / np.sqrt(varies.sum())
        squares = (points**2).sum(axis=1)
        gram = squares[:, None] + squares[None, :] - 2 * points @ points.T
        np.fill_diagonal(gram, np.inf)
        # The Gram form loses digits of small distances: the nearest is found by it and measured directly.
        own = np.linalg.norm(points - points[gram.argmin(axis=1)], axis=1)
        return cls(mean, scale, varies, points, np.sort(own))

    def distance(self, embedding: ArrayLike) -> Distance:
        """Distance of one embedding (d,) to its nearest training image, and the percentile of that among the training images' own."""
        point = ((np.asarray(embedding, np.float64) - self.mean) / self.scale)[self.varies] / np.sqrt(self.varies.sum())
        nearest = float(np.linalg.norm(self.points - point, axis=1).min())
        below, upto = np.searchsorted(self.own, nearest, "left"), np.searchsorted(self.own, nearest, "right")
        percentile = 100 * float(below + upto) / 2 / len(self.own)
        return Distance(nearest=nearest, percentile=percentile, n_reference=len(self.own), sentence=_sentence(percentile))


def _sentence(percentile: float) -> str:
    said = f"Of the training images, {percentile:.0f} % lie closer to their own nearest neighbour than this image lies to any of them"
    if percentile > 99:
        return f"{said}: it is unlike the known data, and the probabilities are an extrapolation."
    if percentile > 95:
        return f"{said}: it lies at the edge of the known data."
    return f"{said}: it lies among the known data."

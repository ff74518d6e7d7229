"""How far a new image lies from the images a bundle's heads were trained on, whether that is unlike all of them, and which are nearest.

An image is looked at twice: by its embedding, which is what the encoder makes of it, and by its appearance (`registry.appearance`), which no
network has learned to overlook. It is unlike anything scored before if either lies beyond its limit. The limits travel in the bundle;
`pipelines.unlike` sets them so that a stated share of the images of a new unit is beyond.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from registry.appearance import appearance, appearance_names
from registry.arrays import Floats, Mask, PixelBatch
from registry.errors import BundleError, ImageError
from registry.images import ImageSpec
from registry.reference import Limits, ReferenceSet
from serving.schema import Distance, Neighbour

#: a dimension that varies by less than this share of its own size is constant as far as float16 can tell
CONSTANT = 2e-3
#: nearest reference images that a reading shows
NEIGHBOURS = 5


@dataclass(frozen=True)
class Space:
    """Reference vectors in which distances are taken: every dimension standardised, those that do not vary left out.

    Attributes:
        mean: (d,) over the reference vectors.
        scale: (d,) standard deviations, 1 where a dimension does not vary.
        varies: (d,) dimensions that take part.
        points: (n, d') standardised reference vectors over the dimensions that vary, divided by sqrt(d').
    """

    mean: Floats
    scale: Floats
    varies: Mask
    points: Floats

    @classmethod
    def of(cls, vectors: NDArray[np.floating]) -> Space | None:
        """From (n, d) vectors; None where fewer than three, or where no dimension varies."""
        values = vectors.astype(np.float64)
        if len(values) < 3:
            return None
        mean, spread = values.mean(axis=0), values.std(axis=0)
        varies = spread > CONSTANT * np.sqrt((values**2).mean(axis=0))
        if not varies.any():
            return None
        scale = np.where(varies, spread, 1.0)
        return cls(mean, scale, varies, ((values - mean) / scale)[:, varies] / np.sqrt(varies.sum()))

    def distances(self, vector: ArrayLike) -> Floats:
        """(n,) distances of one vector (d,) from the reference vectors.

        Raises:
            ImageError: the vector is not finite, so that no distance says anything.
        """
        values = np.asarray(vector, np.float64)
        if not np.isfinite(values).all():
            raise ImageError(
                "Expected finite numbers to measure distances of, got NaN or infinity. The image's intensities are far outside any known."
            )
        point = ((values - self.mean) / self.scale)[self.varies] / np.sqrt(self.varies.sum())
        found: Floats = np.linalg.norm(self.points - point, axis=1)
        return found

    def deviation(self, vector: ArrayLike) -> Floats:
        """(d,) standard deviations that one vector lies from the mean; 0 for dimensions that do not vary."""
        found: Floats = np.where(self.varies, (np.asarray(vector, np.float64) - self.mean) / self.scale, 0.0)
        return found

    def own(self) -> Floats:
        """(n,) distance of each reference vector to its nearest neighbour among the others, sorted."""
        squares = (self.points**2).sum(axis=1)
        gram = squares[:, None] + squares[None, :] - 2 * self.points @ self.points.T
        np.fill_diagonal(gram, np.inf)
        # The Gram form loses digits of small distances: the nearest is found by it and measured directly.
        return np.sort(np.linalg.norm(self.points - self.points[gram.argmin(axis=1)], axis=1))


@dataclass(frozen=True)
class Placed:
    """One image among the reference images.

    Attributes:
        distance: how far it lies.
        nearest: the nearest reference images, nearest first; [] where the bundle does not say which they are.
        thumbnails: whose the pictures are, or why there are none.
    """

    distance: Distance
    nearest: list[Neighbour]
    thumbnails: str


@dataclass(frozen=True)
class Reference:
    """The reference images of a bundle, ready to compare with.

    Attributes:
        images: as they travel.
        spec: the image the model takes.
        embedding: where distances of embeddings are taken.
        appearance: where distances of appearances are taken; None where the bundle has none, or they do not vary.
        own: (n,) distance of each embedding to its nearest neighbour among the others, sorted.
    """

    images: ReferenceSet
    spec: ImageSpec
    embedding: Space
    appearance: Space | None
    own: Floats

    @classmethod
    def of(cls, images: ReferenceSet, spec: ImageSpec) -> Reference | None:
        """None where there are fewer than three images, or where nothing in their embeddings varies.

        Raises:
            BundleError: the appearances are not of images that the model takes.
        """
        embedding = Space.of(images.embedding)
        if embedding is None:
            return None
        looks = images.appearance
        if looks is not None and looks.shape[1] != len(appearance_names(spec.channels)):
            raise BundleError(
                f"Expected {len(appearance_names(spec.channels))} numbers for the appearance of {len(spec.channels)} channels,"
                f" the bundle has {looks.shape[1]}. Package the benchmark again."
            )
        return cls(images, spec, embedding, Space.of(looks) if looks is not None else None, embedding.own())

    def place(self, embedding: ArrayLike, pixels: PixelBatch) -> Placed:
        """One image among the reference images.

        Args:
            embedding: (d,) of the image.
            pixels: (c, y, x) of the image, conformed.

        Raises:
            ImageError: the embedding is not finite.
        """
        away = self.embedding.distances(embedding)
        return Placed(self._distance(float(away.min()), pixels), self._nearest(away), self.images.terms)

    def _distance(self, nearest: float, pixels: PixelBatch) -> Distance:
        own, limits = self.own, self.images.limits
        below, upto = np.searchsorted(own, nearest, "left"), np.searchsorted(own, nearest, "right")
        percentile = 100 * float(below + upto) / 2 / len(own)
        looks = appearance(pixels, self.spec) if self.appearance is not None else None
        seen = float(self.appearance.distances(looks).min()) if self.appearance is not None and looks is not None else None
        unlike = None
        if limits is None:
            sentence = f"{_among(percentile)} Whether it is unlike anything scored before is not calibrated: {self.images.why_no_limits}."
        else:
            strange, odd = nearest > limits.embedding, seen is not None and limits.appearance is not None and seen > limits.appearance
            unlike = strange or odd
            sentence = self._sentence(limits, nearest, looks, strange=strange, odd=odd)
        return Distance(
            nearest=nearest,
            percentile=percentile,
            n_reference=len(own),
            threshold=limits.embedding if limits else None,
            appearance=seen,
            appearance_threshold=limits.appearance if limits else None,
            unlike=unlike,
            sentence=sentence,
        )

    def _sentence(self, limits: Limits, nearest: float, looks: Floats | None, *, strange: bool, odd: bool) -> str:
        lies = f"it lies {nearest:.2f} from the nearest of {len(self.images)} training images (limit {limits.embedding:.2f})"
        if not strange and not odd:
            return f"Like images scored before: {lies}."
        reasons = [f"to the encoder {lies}"] if strange else []
        if odd and self.appearance is not None and looks is not None:
            most = int(np.abs(self.appearance.deviation(looks)).argmax())
            reasons.append(f"it looks like none of them, least of all in the {appearance_names(self.spec.channels)[most]}")
        others = "new images" if limits.unit == "image" else f"images of a new {limits.unit}"
        so_too = f"{100 * limits.rate:g} % of {others} like the known ones are called so too"
        return f"Unlike anything scored before: {', and '.join(reasons)}. The probabilities are an extrapolation; {so_too}."

    def _nearest(self, away: Floats) -> list[Neighbour]:
        ids, pictures = self.images.image_id, self.images.thumbnails
        if ids is None:
            return []
        # of equally near images the first in order of the index
        return [
            Neighbour(
                image_id=str(ids[i]),
                distance=float(away[i]),
                labels={task: str(labels[i]) for task, labels in self.images.labels.items() if labels[i] != ""},
                thumbnail=_data_uri(pictures.files[i]) if pictures is not None else None,
            )
            for i in np.argsort(away, kind="stable")[:NEIGHBOURS]
        ]


def _data_uri(jpeg: bytes) -> str:
    return "data:image/jpeg;base64," + base64.b64encode(jpeg).decode("ascii")


def _among(percentile: float) -> str:
    said = f"Of the training images, {percentile:.0f} % lie closer to their own nearest neighbour than this image lies to any of them"
    if percentile > 99:
        return f"{said}: it is unlike the known data, and the probabilities are an extrapolation."
    if percentile > 95:
        return f"{said}: it lies at the edge of the known data."
    return f"{said}: it lies among the known data."

"""The images a fitted member learns from: the training images of one fold and no other."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol, runtime_checkable

import numpy as np

from pipelines.benchmarks.index import Fold
from pipelines.loading import ImageLoader, chunked
from registry.representation import Batch, Representation

#: decoded training images kept for the next member that is fitted to them; more are decoded again
KEPT_BYTES = 256_000_000


@runtime_checkable
class FitsOnSample(Protocol):
    """A representation that learns from a sample of the training images.

    Attributes:
        fit_images: how many it looks at; they are spread evenly over the training images in index order.
    """

    fit_images: int


def sample_size(representation: Representation) -> int | None:
    """How many training images it looks at; None for all."""
    return representation.fit_images if isinstance(representation, FitsOnSample) else None


class TrainingImages:
    """Batches of one fold's training images in index order; may be iterated several times.

    Args:
        loader: decodes them.
        fold: whose training images.
        size: how many, evenly spread; None for all.
        batch: images of one batch.
    """

    def __init__(self, loader: ImageLoader, fold: Fold, size: int | None, batch: int) -> None:
        rows = np.flatnonzero(fold.train)
        if size is not None and size < len(rows):
            rows = rows[np.linspace(0, len(rows) - 1, size).round().astype(np.int64)]
        self.rows: list[int] = rows.tolist()
        self._loader, self._batch = loader, batch
        self._keep = len(rows) * 4 * int(np.prod(loader.benchmark.card.image.shape)) <= KEPT_BYTES
        self._kept: list[Batch] = []

    def keep(self) -> None:
        """Decode the images now if they are few enough to be kept, so that processes forked from here share them."""
        if self._keep and not self._kept:
            self._kept = [batch for batch in self._decoded() if batch.image_ids]

    def __iter__(self) -> Iterator[Batch]:
        yield from self._kept or (batch for batch in self._decoded() if batch.image_ids)

    def _decoded(self) -> Iterator[Batch]:
        return self._loader.batches(chunked(self.rows, self._batch))

"""Which training images travel with a bundle, and everything said of them but their embeddings, made once for all rows of a benchmark."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipelines.benchmarks.card import BenchmarkCard
from pipelines.benchmarks.index import Benchmark
from pipelines.metrics.names import whole_names
from pipelines.parallel import in_parallel
from pipelines.reporting.contact import Renderer, jpeg
from pipelines.unlike import HeldOut, with_limits
from registry.appearance import appearance
from registry.arrays import Embedding, Floats, Ints, PixelBatch
from registry.images import resize_linear
from registry.licences import may_pass_on
from registry.reference import ReferenceSet, Strings, Thumbnails

#: training images a server keeps to compare a new image with
REFERENCE_IMAGES = 512
#: test images that say how far images of new units lie
HELD_OUT_IMAGES = 1024
#: longest side of a thumbnail, and its JPEG quality: about 2 kB
THUMBNAIL_PX, THUMBNAIL_QUALITY = 64, 80


@dataclass(frozen=True)
class References:
    """The reference images of a benchmark's fold 0, without embeddings.

    Attributes:
        rows: n rows of the index that are references, evenly spread over the training images.
        held_out: m rows of the index, evenly spread over the test images.
        units: (all rows,) codes.
        unit: what a unit is, in a word.
        image_id: (n,).
        labels: (n,) per task, "" where an image takes no part.
        appearance: (n, p), and (m, p) of the held-out images.
        thumbnails: of the references; None where they may not travel.
        terms: whose they are, or why there are none.
    """

    rows: Ints
    held_out: Ints
    units: Ints
    unit: str
    image_id: Strings
    labels: dict[str, Strings]
    appearance: tuple[Embedding, Embedding]
    thumbnails: Thumbnails | None
    terms: str

    @classmethod
    def of(cls, benchmark: Benchmark, workers: int) -> References:
        """Look at the images of a benchmark.

        Args:
            benchmark: has images.
            workers: processes that decode; the result does not depend on it.

        Raises:
            ImageError: an image cannot be read.
        """
        fold, index = benchmark.folds[0], benchmark.index
        rows, held_out = _spread(np.flatnonzero(fold.train), REFERENCE_IMAGES), _spread(np.flatnonzero(fold.test), HELD_OUT_IMAGES)
        permission = may_pass_on(benchmark.card.licence)

        def look(row: int) -> tuple[Floats, PixelBatch | None]:
            pixels = benchmark.pixels(row)
            return appearance(pixels, benchmark.card.image), _small(pixels) if permission.allowed and row in shown else None

        shown = set(rows.tolist())
        seen = list(in_parallel(look, [*rows.tolist(), *held_out.tolist()], workers))
        looks = np.stack([found for found, _ in seen]).astype(np.float32)
        small = [picture for _, picture in seen if picture is not None]
        return cls(
            rows=rows,
            held_out=held_out,
            units=np.unique(whole_names(index["unit"], "units"), return_inverse=True)[1].astype(np.int64),
            unit=benchmark.card.unit,
            image_id=whole_names(index["image_id"], "images")[rows],
            labels={task.name: whole_names(benchmark.labels(task), "labels", missing="")[rows] for task in benchmark.card.tasks},
            appearance=(looks[: len(rows)], looks[len(rows) :]),
            thumbnails=_thumbnails(benchmark.card, small) if permission.allowed else None,
            terms=terms_of_images("Pictures made smaller from images", benchmark.card)
            if permission.allowed
            else f"There are no pictures: {permission.reason}.",
        )

    def of_row(self, embedding: Embedding, *, learned: bool) -> ReferenceSet:
        """With the embeddings of one row, and limits.

        Args:
            embedding: (all rows of the index, d).
            learned: whether the row may have learned from the training images (`unlike.has_learned`).
        """
        references, held_out = self.appearance
        found = ReferenceSet(
            embedding=embedding[self.rows],
            image_id=self.image_id,
            unit=self.units[self.rows],
            labels=self.labels,
            appearance=references,
            thumbnails=self.thumbnails,
            terms=self.terms,
        )
        others = HeldOut(embedding[self.held_out], held_out, self.units[self.held_out])
        return with_limits(found, others, learned=learned, unit=self.unit)


def _spread(rows: Ints, most: int) -> Ints:
    """At most `most` of the rows, evenly spread over them; all rows if there are no more."""
    spread: Ints = rows[np.unique(np.linspace(0, len(rows) - 1, most).astype(int))]
    return spread


def _small(pixels: PixelBatch) -> PixelBatch:
    """(c, y, x) brought to the size of a thumbnail."""
    height, width = pixels.shape[1:]
    scale = min(1.0, THUMBNAIL_PX / max(height, width))
    return resize_linear(pixels, max(1, round(height * scale)), max(1, round(width * scale))) if scale < 1 else pixels


def _thumbnails(card: BenchmarkCard, small: Sequence[PixelBatch]) -> Thumbnails:
    """All on one scale of intensity, fluorescence as a colour composite."""
    renderer = Renderer.of(card.image, small)
    return Thumbnails(tuple(jpeg(renderer(pixels), THUMBNAIL_QUALITY) for pixels in small))


def terms_of_images(what: str, card: BenchmarkCard) -> str:
    """Whose images they are and under which licence, as attribution asks for it: `what` says what was made of them."""
    whose = "; ".join(part for part in (card.citation, card.source) if part)
    return f"{what} of `{card.name}`, {card.licence}{f': {whose}' if whose else ''}."

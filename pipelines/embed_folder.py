"""Embed a folder of images into one Parquet file, offline or through an endpoint: the same columns and the same numbers."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, islice
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import pandas as pd

from pipelines.embeddings import Part, write_parts
from pipelines.extraction.shards import code_digest
from pipelines.folder_parts import FolderImage, Listing, Parts, Piece, Vectors, list_folder, work_folder
from pipelines.parallel import threaded
from registry.arrays import Embedding
from registry.errors import BlankslideError, ImageError
from registry.files import published
from serving.client import ScoringClient
from serving.client.flow import progress_bar
from serving.framing import Framing
from serving.schema import EmbeddingAnswer, ModelRef
from serving.scoring import Answer, Asked, Scorer
from serving.sources import FileSource

Field = Literal["refuse", "grid"]
#: code that decides what a vector is
COMPUTING = ("registry", "serving", "pipelines/embed_folder.py", "pipelines/folder_parts.py")
#: rows of one row group of the file, about
GROUP = 4096
#: images of one pass on a device; on the CPU every image is a pass of its own on one core
DEVICE_BATCH = 32


@dataclass(frozen=True)
class Cutting:
    """What is done with an image that is not of the model's size.

    Attributes:
        field: "refuse" it, or "grid": cut it into tiles, each of which becomes a row.
        resample: whether an image of other micrometres per pixel is resampled to the model's.
    """

    field: Field = "refuse"
    resample: bool = False


class Embeds(Protocol):
    """What makes vectors of image files."""

    @property
    def model(self) -> ModelRef:
        """Which version it is."""

    @property
    def facts(self) -> dict[str, Any]:
        """What its numbers depend on, beside the code."""

    def each(self, root: Path, names: Iterable[str]) -> Iterator[Vectors]:
        """Vectors of the files of a folder, in their order."""


class Offline:
    """A bundle in this process.

    Args:
        scorer: opened with one thread per network, so that the numbers do not depend on how many threads there are.
        cutting: what is done with other sizes.
        threads: that read, decode and compute.
    """

    def __init__(self, scorer: Scorer, cutting: Cutting, threads: int) -> None:
        self._scorer = scorer
        self._framing = Framing(cutting.field, resample=cutting.resample)
        self._threads = threads
        self._batch = 1 if scorer.ref.provider == "cpu" else DEVICE_BATCH

    @property
    def model(self) -> ModelRef:
        """Of the bundle."""
        return self._scorer.ref

    @property
    def facts(self) -> dict[str, Any]:
        """The provider rounds in its own way."""
        return {"through": "bundle", "provider": self.model.provider}

    def each(self, root: Path, names: Iterable[str]) -> Iterator[Vectors]:
        """See `Embeds.each`."""
        numbered = iter(names)
        batches = iter(lambda: list(islice(numbered, self._batch)), [])
        for found in threaded(lambda batch: self._together(root, batch), batches, self._threads):
            yield from found

    def _together(self, root: Path, names: list[str]) -> list[Vectors]:
        asked: dict[str, Asked] = {}
        found: dict[str, Vectors] = {}
        for name in names:
            try:
                source = FileSource(_bytes(root, name), name)
                asked[name] = Asked(self._scorer.frames(source, self._framing), score=False)
            except ImageError as error:
                found[name] = Vectors(errors=(str(error),))
        answers = self._scorer.answers(list(asked.values()), alone=False)
        found |= {name: _vectors(tiles) for name, tiles in zip(asked, answers, strict=True)}
        return [found[name] for name in names]


class Endpoint:
    """A model that a service answers for.

    Args:
        client: of the service.
        model: the version.
        cutting: what is done with other sizes.
    """

    def __init__(self, client: ScoringClient, model: ModelRef, cutting: Cutting) -> None:
        self._client = client
        self._model = model
        self._cutting = cutting

    @property
    def model(self) -> ModelRef:
        """As the service named it before the first image."""
        return self._model

    @property
    def facts(self) -> dict[str, Any]:
        """The service's provider rounds in its own way."""
        return {"through": "endpoint", "provider": self._model.provider}

    def each(self, root: Path, names: Iterable[str]) -> Iterator[Vectors]:
        """See `Embeds.each`.

        Raises:
            ServiceError: the service does not answer, or serves another version by now.
        """
        paths = (root / name for name in names)
        answers = self._client.embed_many(self._model.name, paths, progress=False, field=self._cutting.field, resample=self._cutting.resample)
        for _, tiles in groupby(answers, key=lambda answered: answered.name):
            yield _vectors([self._checked(answer) for _, answer in tiles])

    def _checked(self, answer: EmbeddingAnswer | BlankslideError) -> EmbeddingAnswer | BlankslideError:
        if isinstance(answer, EmbeddingAnswer) and answer.model.identity != self._model.identity:
            raise BlankslideError(
                f"`{self._model.name}` was replaced while images were sent: {self._model.identity[:12]} before, {answer.model.identity[:12]} now."
                " Run the command again; it begins anew with that version."
            )
        return answer


@dataclass(frozen=True)
class Made:
    """What came of a folder.

    Attributes:
        images: how many there are.
        rows: how many vectors were written; 0 if there is no file.
        dim: length of a vector.
        failed: images with an error.
        strange: rows with a warning.
        errors: the file that lists them; None where there is none.
    """

    images: int
    rows: int
    dim: int
    failed: int
    strange: int
    errors: Path | None


def embed_folder(root: Path, out: Path, embeds: Embeds, cutting: Cutting, progress: bool = True) -> Made:
    """Embed the images under a folder.

    The file has `image_id` (as `blankslide data import` names the image), `Metadata_image` (its path from the folder), `Metadata_model`,
    `Metadata_identity`, `Metadata_benchmark`, `Metadata_warnings`, for tiles `Metadata_tile_y` and `Metadata_tile_x`, and `embedding`.
    Images that fail are listed in a CSV beside it. A run that was killed goes on where it was, to the same bytes.

    Args:
        root: the folder.
        out: the Parquet file.
        embeds: what makes the vectors.
        cutting: as it was made with.
        progress: whether a bar is drawn on stderr.

    Raises:
        BenchmarkError: no folder, or no image in it.
        ParamsError: another process makes that file.
        ServiceError: the service does not answer; what was finished is kept.
    """
    listing = list_folder(root)
    with work_folder(out) as work:
        identity = {
            "model": embeds.model.identity,
            **embeds.facts,
            "field": cutting.field,
            "resample": cutting.resample,
            "code": code_digest(COMPUTING),
        }
        parts = Parts(work, listing.images, identity)
        _make(root, parts, embeds, len(listing.images), progress)
        return _publish(out, listing, parts, embeds.model, tiled=cutting.field != "refuse")


def _make(root: Path, parts: Parts, embeds: Embeds, total: int, progress: bool) -> None:
    missing = parts.missing()
    left = sum(len(parts.images(number)) for number in missing)
    found = embeds.each(root, (image.name for number in missing for image in parts.images(number)))
    with progress_bar(total, total - left, progress) as bar:
        for number in missing:
            vectors = []
            for one in islice(found, len(parts.images(number))):
                vectors.append(one)
                bar.update()
            parts.write(number, vectors)


def _publish(out: Path, listing: Listing, parts: Parts, model: ModelRef, tiled: bool) -> Made:
    errors = [(name, "Its name is not UTF-8, no table can hold it. Rename the file.") for name in listing.unnamed]
    counts = {"rows": 0, "dim": 0, "strange": 0}

    def groups() -> Iterator[Part]:
        waiting: list[_Row] = []
        for number in range(len(parts)):
            images, piece = parts.images(number), parts.read(number)
            errors.extend((images[i].name, text) for i, text in piece.errors)
            waiting += _rows(images, piece)
            while len(waiting) >= GROUP:
                yield _table(waiting[:GROUP], model, tiled)
                del waiting[:GROUP]
        if waiting:
            yield _table(waiting, model, tiled)

    def counted() -> Iterator[Part]:
        for group in groups():
            counts["rows"] += len(group.values)
            counts["dim"] = group.values.shape[1]
            counts["strange"] += int((group.metadata["Metadata_warnings"] != "").sum())
            yield group

    tables = counted()
    first = next(tables, None)
    if first is not None:
        write_parts(out, _chain(first, tables))
    listed = _write_errors(out.with_suffix(".errors.csv"), errors)
    failed = len({name for name, _ in errors})
    return Made(len(listing.images) + len(listing.unnamed), counts["rows"], counts["dim"], failed, counts["strange"], listed)


def _chain(first: Part, others: Iterator[Part]) -> Iterator[Part]:
    yield first
    yield from others


@dataclass(frozen=True)
class _Row:
    image: FolderImage
    corner: tuple[int, int]
    values: Embedding
    warnings: str


def _rows(images: Sequence[FolderImage], piece: Piece) -> list[_Row]:
    columns = zip(piece.image, piece.corners, piece.values, piece.warnings, strict=True)
    return [_Row(images[i], corner, values, warnings) for i, corner, values, warnings in columns]


def _table(rows: list[_Row], model: ModelRef, tiled: bool) -> Part:
    n = len(rows)
    facts: dict[str, Any] = {
        "Metadata_image": [row.image.name for row in rows],
        "Metadata_model": [model.name] * n,
        "Metadata_identity": [model.identity] * n,
        "Metadata_benchmark": [model.benchmark] * n,
        "Metadata_warnings": [row.warnings for row in rows],
    }
    if tiled:
        facts |= {f"Metadata_tile_{axis}": np.array([row.corner[k] for row in rows], np.int32) for k, axis in enumerate("yx")}
    ids = [f"{row.image.image_id}_y{row.corner[0]}_x{row.corner[1]}" if tiled else row.image.image_id for row in rows]
    return Part(ids, pd.DataFrame(facts), np.stack([row.values for row in rows]))


def _write_errors(path: Path, errors: list[tuple[str, str]]) -> Path | None:
    """The list of what failed; a list of an earlier run is removed where nothing did."""
    if not errors:
        path.unlink(missing_ok=True)
        return None
    with published(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerows([("image", "error"), *sorted(errors)])
    return path


def _vectors(tiles: Sequence[Answer | BlankslideError]) -> Vectors:
    good = [tile for tile in tiles if isinstance(tile, EmbeddingAnswer)]
    errors = tuple(str(tile) for tile in tiles if isinstance(tile, BlankslideError))
    if not good:
        return Vectors(errors=errors)
    corners = tuple((tile.tile.y, tile.tile.x) if tile.tile else (0, 0) for tile in good)
    return Vectors(np.array([tile.embedding for tile in good], np.float32), corners, errors, " ".join(good[0].warnings))


def _bytes(root: Path, name: str) -> bytes:
    try:
        return (root / name).read_bytes()
    except OSError as error:
        raise ImageError(f"`{name}`: cannot be read ({error.strerror}).") from error

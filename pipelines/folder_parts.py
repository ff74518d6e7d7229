"""A folder of images on its way to a table of vectors: what was finished is kept in parts beside the table until that is published.

A part holds what came of some consecutive images, under a name that tells their paths, sizes and times of change: a run that was
killed takes up the parts of images that are the same, and ends with the bytes of one that was not killed.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.benchmarks.tables import ImageFiles, relative_ids
from registry.arrays import Embedding
from registry.bundle import read_arrays, write_arrays
from registry.errors import BenchmarkError, BundleError, ParamsError
from registry.files import read_json, sha256_of_json, write_json

#: images of one part: what a run that is killed loses of its work
PART = 64


@dataclass(frozen=True)
class FolderImage:
    """One image file of a folder.

    Attributes:
        name: its path from the folder, with `/`.
        image_id: as `blankslide data import` names it.
        size: in bytes; -1 where the file is gone.
        changed_ns: when it was last changed.
    """

    name: str
    image_id: str
    size: int
    changed_ns: int


@dataclass(frozen=True)
class Listing:
    """The image files of a folder.

    Attributes:
        images: those that can be named, in order.
        unnamed: files whose name is not UTF-8, which no table can hold; written with escapes.
        others: how many files there are of image kinds that are not read, per suffix.
    """

    images: tuple[FolderImage, ...]
    unnamed: tuple[str, ...]
    others: Mapping[str, int]


def list_folder(root: Path) -> Listing:
    """The image files under a folder; hidden ones are left out.

    Raises:
        BenchmarkError: there is no such folder, or no image in it.
    """
    files = ImageFiles.scan(root)
    named = [path for path in files.paths if shown(path) == path]
    if not files.paths:
        kinds = ", ".join(f"{count} of {suffix}" for suffix, count in files.others.items())
        raise BenchmarkError(f"`{root}` holds no image that is read (TIFF, OME-TIFF, PNG, JPEG, npy){f', but {kinds}' if kinds else ''}.")
    images = (FolderImage(name, image_id, *_facts(root / name)) for name, image_id in zip(named, relative_ids(named), strict=True))
    return Listing(tuple(images), tuple(shown(path) for path in files.paths if shown(path) != path), files.others)


def shown(name: str) -> str:
    """A file's name with escapes for bytes that are not UTF-8."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _facts(path: Path) -> tuple[int, int]:
    try:
        found = path.stat()
    except OSError:
        return -1, 0
    return found.st_size, found.st_mtime_ns


@dataclass(frozen=True)
class Vectors:
    """What came of one image.

    Attributes:
        values: (t, d) float32, one row per tile; one for a whole image, none for one that failed.
        corners: (y, x) of each tile's first pixel.
        errors: what went wrong with the image or with a tile.
        warnings: what is strange about the image, though it was embedded; "" if nothing is.
    """

    values: Embedding = field(default_factory=lambda: np.zeros((0, 0), np.float32))
    corners: tuple[tuple[int, int], ...] = ()
    errors: tuple[str, ...] = ()
    warnings: str = ""


@dataclass(frozen=True)
class Piece:
    """What came of the images of one part.

    Attributes:
        image: (m,) which image of the part each row is of.
        corners: (m, 2) y and x of its first pixel.
        values: (m, d) float32.
        warnings: (m,) what is strange about the image of each row.
        errors: (which image of the part, what went wrong).
    """

    image: list[int]
    corners: list[tuple[int, int]]
    values: Embedding
    warnings: list[str]
    errors: list[tuple[int, str]]


class Parts:
    """The parts of one folder's images.

    Args:
        work: where they are kept.
        images: all images, in order.
        facts: everything the vectors depend on but the images; parts of other facts are removed.
    """

    def __init__(self, work: Path, images: Sequence[FolderImage], facts: Mapping[str, Any]) -> None:
        self.work = work
        self._images = images
        stamp, identity = work / "plan.json", {"identity": sha256_of_json(facts)}
        if not stamp.is_file() or read_json(stamp) != identity:
            for old in work.iterdir():
                old.unlink()
            write_json(stamp, identity)
        # what a killed process was still writing has no name a reader would look for; it only takes up space
        for leftover in work.glob(".*.part"):
            leftover.unlink()

    def __len__(self) -> int:
        return -(-len(self._images) // PART)

    def images(self, number: int) -> Sequence[FolderImage]:
        """The images of one part."""
        return self._images[number * PART : (number + 1) * PART]

    def missing(self) -> list[int]:
        """Parts that are still to be made; a damaged one is."""
        return [number for number in range(len(self)) if self._kept(number) is None]

    def write(self, number: int, found: Sequence[Vectors]) -> None:
        """Publish what came of the images of one part."""
        rows = [(i, corner) for i, one in enumerate(found) for corner in one.corners]
        values = [one.values for one in found if len(one.values)]
        errors = [(i, text) for i, one in enumerate(found) for text in one.errors]
        arrays: dict[str, NDArray[Any]] = {
            "image": np.array([i for i, _ in rows], np.int64),
            "corner": np.array([corner for _, corner in rows], np.int64).reshape(-1, 2),
            "values": np.concatenate(values) if values else np.zeros((0, 0), np.float32),
            "failed": np.array([i for i, _ in errors], np.int64),
            "warnings": _texts([found[i].warnings for i, _ in rows]),
            "errors": _texts([text for _, text in errors]),
        }
        write_arrays(self._path(number), arrays)

    def read(self, number: int) -> Piece:
        """What came of the images of one part.

        Raises:
            BundleError: it is not there, or damaged.
        """
        kept = self._kept(number)
        if kept is None:
            raise BundleError(f"A part of `{self.work}` is not there any more. Run the same command again.")
        return kept

    def _kept(self, number: int) -> Piece | None:
        path = self._path(number)
        if not path.is_file():
            return None
        try:
            arrays = read_arrays(path)
            errors = list(zip(arrays["failed"].tolist(), arrays["errors"].tolist(), strict=True))
            corners = [(int(y), int(x)) for y, x in arrays["corner"]]
            return Piece(arrays["image"].tolist(), corners, arrays["values"].astype(np.float32, copy=False), arrays["warnings"].tolist(), errors)
        except (BundleError, KeyError, ValueError):
            return None

    def _path(self, number: int) -> Path:
        facts = [[image.name, image.size, image.changed_ns] for image in self.images(number)]
        return self.work / f"{number:06d}-{sha256_of_json(facts)[:32]}.npz"


def _texts(texts: Sequence[str]) -> NDArray[np.str_]:
    # an empty array of strings has no width of its own
    return np.array(texts, np.str_) if texts else np.zeros(0, "<U1")


@contextmanager
def work_folder(out: Path) -> Iterator[Path]:
    """A work folder beside a file to be made, for one process at a time; removed if the block ends well.

    Raises:
        ParamsError: another process makes that file.
    """
    work = out.with_name(f".{out.name}.work")
    work.mkdir(parents=True, exist_ok=True)
    # the kernel frees the lock of a process that is killed
    descriptor = os.open(work, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ParamsError(f"Another process is making `{out}`. Wait until it has ended, or choose another output.") from error
        yield work
        shutil.rmtree(work)
    finally:
        os.close(descriptor)

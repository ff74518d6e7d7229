"""Finished pieces of an extraction on disk: what is there is whole, and belongs to this very run."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from registry.arrays import Embedding, Ints
from registry.bundle import write_arrays
from registry.errors import BundleError
from registry.files import read_json, sha256_of_bytes, sha256_of_file, write_json

#: code that decides what is computed, here and in training
COMPUTING = (
    "registry",
    "pipelines/benchmarks/index.py",
    "pipelines/extract.py",
    "pipelines/extraction",
    "pipelines/loading.py",
    "pipelines/train.py",
    "pipelines/training",
)
#: endings of what a draw learned from all its images, and of what it learned while some were unreadable
WHOLE_STATE, PARTIAL_STATE = ".state.npz", ".partial-state.npz"


@dataclass(frozen=True)
class Shard:
    """A run of consecutive rows of the index.

    Attributes:
        number: 0, 1, ...
        rows: first to last, without a gap.
    """

    number: int
    rows: range


@dataclass(frozen=True)
class Piece:
    """What one draw made of one shard.

    Attributes:
        rows: (m,) positions in the index of the images that could be read.
        values: (m, d) float32.
    """

    rows: Ints
    values: Embedding


class Shards:
    """The shards of one extraction, one npz file each.

    Args:
        folder: the work folder; anything in it that belongs to a run of another identity is removed by `open`.
        images: rows of the index.
        size: images of one shard.
        identity: names everything the vectors depend on.
    """

    def __init__(self, folder: Path, images: int, size: int, identity: str) -> None:
        self.folder, self.identity = folder, identity
        starts = range(0, images, size)
        self.all = [Shard(number, range(start, min(start + size, images))) for number, start in enumerate(starts)]

    def open(self) -> None:
        """Make the work folder, or keep the whole shards of the same run that was killed.

        What lacks unreadable images, a shard or a fitted state, is made again: they may have been repaired.
        """
        plan = self.folder / "plan.json"
        if not plan.is_file() or read_json(plan) != {"identity": self.identity}:
            shutil.rmtree(self.folder, ignore_errors=True)
            write_json(plan, {"identity": self.identity})
            return
        # what a killed process was still writing has no name a reader would look for; it only takes up space
        for leftover in (*self.folder.glob(".*.part"), *self.folder.glob(f"*{PARTIAL_STATE}")):
            leftover.unlink()
        for shard in self.all:
            if self.path(shard).is_file() and not self._complete(shard):
                self.path(shard).unlink()

    def _complete(self, shard: Shard) -> bool:
        try:
            return len(self._array(shard, "rows")) == len(shard.rows)
        except BundleError:
            return False

    def missing(self) -> list[Shard]:
        """The shards that are still to be made."""
        return [shard for shard in self.all if not self.path(shard).is_file()]

    def path(self, shard: Shard) -> Path:
        """The file of one shard."""
        return self.folder / f"shard-{shard.number:05d}.npz"

    def state(self, key: str, whole: bool) -> Path:
        """Where what one fitted draw learned is put; `whole` if no image was unreadable."""
        return self.folder / (key.replace("/", ".") + (WHOLE_STATE if whole else PARTIAL_STATE))

    def fitted(self, key: str) -> Path:
        """The file of what one draw learned."""
        return next(path for path in (self.state(key, True), self.state(key, False)) if path.is_file())

    def keep_if_fitted_so(self, fitted: str) -> None:
        """Remove the finished shards unless they were made with these very fitted states.

        Args:
            fitted: digest of all states; they differ from those of a killed run if an image was repaired since.
        """
        path = self.folder / "fitted.json"
        if path.is_file() and read_json(path) != {"fitted": fitted}:
            for shard in self.all:
                self.path(shard).unlink(missing_ok=True)
        write_json(path, {"fitted": fitted})

    def write(self, shard: Shard, rows: Ints, vectors: Mapping[str, Embedding]) -> None:
        """Publish one shard.

        Args:
            shard: which.
            rows: (m,) positions in the index of the images that could be read.
            vectors: (m, d) float32 by draw.
        """
        write_arrays(self.path(shard), {"rows": rows} | {f"vectors/{key}": values for key, values in vectors.items()})

    def pieces(self, key: str) -> Iterator[Piece]:
        """What one draw made of each shard, in index order; shards without a readable image are left out."""
        for shard in self.all:
            rows = self._array(shard, "rows").astype(np.int64)
            if len(rows):
                yield Piece(rows, self._array(shard, f"vectors/{key}").astype(np.float32, copy=False))

    def _array(self, shard: Shard, name: str) -> NDArray[np.generic]:
        path = self.path(shard)
        try:
            # numpy leaves a damaged file that it opened itself open
            with path.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
                array: NDArray[np.generic] = archive[name]
        except (ValueError, KeyError, EOFError, BadZipFile) as error:
            raise BundleError(f"`{path}` is damaged ({type(error).__name__}). Remove `{self.folder}` and extract again.") from error
        return array


@lru_cache(maxsize=2)
def code_digest(places: tuple[str, ...] = COMPUTING) -> str:
    """Changes whenever code that decides what is computed changes, so that no shard of older code is taken up.

    Args:
        places: files and folders of the code, from where the packages lie.
    """
    root = Path(__file__).resolve().parents[2]
    named = [root / name for name in places]
    files = sorted(path for place in named for path in ([place] if place.suffix else place.rglob("*.py")))
    return sha256_of_bytes("".join(f"{path.relative_to(root)}{sha256_of_file(path)}" for path in files).encode())

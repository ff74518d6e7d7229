"""Vectors that were made elsewhere: a row that is looked up by image id instead of computed from pixels.

The file is an archive of arrays (NumPy's .npz without pickle): "image_id" (n,) strings, "columns" (d,) what each value is, and
one array (n, d) float32 for each member: "main", or "fresh-00", "fresh-01", ... for draws of an untrained twin.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from registry.arrays import Embedding
from registry.bundle import read_arrays, write_arrays
from registry.cards import EncoderCard
from registry.errors import CardError, InputError
from registry.representation import Batch, State

if TYPE_CHECKING:
    from torch import nn

UNSERVABLE = "its vectors were made elsewhere; a new image cannot be embedded here"
_FACTS = ("image_id", "columns")


@dataclass(frozen=True)
class VectorTable:
    """Vectors of one row for the images (or wells) of one benchmark.

    Attributes:
        image_ids: n ids, unique.
        columns: d names.
        members: (n, d) float32, finite, by member.
    """

    image_ids: tuple[str, ...]
    columns: tuple[str, ...]
    members: dict[str, Embedding]

    def __post_init__(self) -> None:
        expected = (len(self.image_ids), len(self.columns))
        if not self.members or len(set(self.image_ids)) < len(self.image_ids):
            raise InputError(f"Expected at least one member and every image id once, got {len(self.members)} members for {expected[0]} ids.")
        for name, values in self.members.items():
            if values.shape != expected or not np.isfinite(values).all():
                raise InputError(f"Vectors of `{name}`: expected finite values of shape {expected}, got shape {values.shape}.")

    def write(self, path: Path) -> None:
        """Publish it; equal tables have equal bytes."""
        ids, columns = (np.array(names, dtype=np.str_) for names in (self.image_ids, self.columns))
        write_arrays(path, {"image_id": ids, "columns": columns, **{name: v.astype(np.float32) for name, v in self.members.items()}})

    @classmethod
    def read(cls, path: Path) -> VectorTable:
        """Read a file that `write` wrote.

        Raises:
            CardError: it is not one.
        """
        arrays = read_arrays(path)
        if not set(_FACTS) < set(arrays):
            raise CardError(
                f"`{path.name}` is no table of vectors: expected arrays `image_id`, `columns` and one per member, got {', '.join(sorted(arrays))}."
            )
        members = {name: values for name, values in arrays.items() if name not in _FACTS}
        ids, columns = (tuple(str(v) for v in arrays[name]) for name in _FACTS)
        return cls(ids, columns, members)


def table_members(path: Path) -> tuple[str, ...]:
    """Names of the members of a file, in order."""
    return tuple(sorted(VectorTable.read(path).members))


class TableEncoder:
    """One member of a table as a representation: nothing is computed, nothing is fitted, nothing can be exported.

    Args:
        card: its facts.
        path: the file of its vectors.
        member: which of them.
    """

    fitted = False

    def __init__(self, card: EncoderCard, path: Path, member: str) -> None:
        self.card = card
        table = VectorTable.read(path)
        self._vectors = table.members[member]
        self._places = {name: place for place, name in enumerate(table.image_ids)}

    def fit(self, batches: Iterable[Batch]) -> None:
        """Nothing is learned; the batches are not read."""

    def embed(self, batch: Batch) -> Embedding:
        """(n, d) float32: the vectors of the batch's ids.

        Raises:
            InputError: the table lacks an id.
        """
        return self._vectors[self._find(batch.image_ids)]

    def _find(self, names: Sequence[str]) -> list[int]:
        missing = [name for name in names if name not in self._places]
        if missing:
            raise InputError(
                f"`{self.card.name}`: its table has no vector for `{missing[0]}` ({len(missing)} of {len(names)}). Import a table with every image."
            )
        return [self._places[name] for name in names]

    def state(self) -> dict[str, NDArray[np.float32]]:
        """Empty: nothing is learned."""
        return {}

    def load_state(self, state: State) -> None:
        """Refuse a state that belongs to something else."""
        if state:
            raise InputError(f"`{self.card.name}` learns nothing, got a state. Load the row it belongs to.")

    def network(self) -> nn.Module | None:
        """None: there is no network."""
        return None

    def unservable(self) -> str:
        """Why a new image cannot be embedded by the service."""
        return UNSERVABLE

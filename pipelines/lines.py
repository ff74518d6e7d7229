"""Dataclasses as the lines of a table on disk: one column per field."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import pandas as pd

from registry.files import published

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

#: the protocol of a line that was written before such lines named one
UNVERSIONED = "unversioned"

Line = TypeVar("Line", bound="DataclassInstance")


def write_lines(path: Path, kind: type[Line], lines: Sequence[Line]) -> None:
    """Publish a Parquet table; without lines an empty one that has its columns."""
    table = pd.DataFrame([asdict(line) for line in lines], columns=[field.name for field in fields(kind)])
    with published(path) as temporary:
        table.to_parquet(temporary, index=False, compression="zstd")


def read_lines(path: Path, kind: type[Line]) -> list[Line]:
    """Read what `write_lines` wrote."""
    return [kind(**{str(name): value for name, value in record.items()}) for record in pd.read_parquet(path).to_dict("records")]


def lines_of_cells(folder: Path, name: str, kind: type[Line]) -> list[Line]:
    """The lines of all cells of one benchmark (`W/out/scores/<benchmark>`), in order of the cells' names; a cell without that table has none."""
    return [line for path in sorted(folder.glob(f"*/{name}")) for line in read_lines(path, kind)]

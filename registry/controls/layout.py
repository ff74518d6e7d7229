"""`layout`: where an image lay on its plate, and nothing of what it shows."""

from __future__ import annotations

import re
from typing import NamedTuple
from zlib import crc32

import numpy as np
import pandas as pd

from registry.arrays import Floats
from registry.controls.base import FormulaControl, control_card
from registry.representation import Batch, Facts

NAME = "layout"
PLATE, WELL, ROW, COLUMN = "Metadata_Plate", "Metadata_Well", "Metadata_Row", "Metadata_Column"
#: rows and columns of plates with 16, 24, 96, 384 and 1,536 wells
PLATES = ((4, 4), (4, 6), (8, 12), (16, 24), (32, 48))
ROWS, COLUMNS = PLATES[-1]
WELL_BUCKETS, PLATE_BUCKETS = 128, 32
WELL_NAME = re.compile(r"([A-Za-z]{1,2})0*(\d+)")


class Position(NamedTuple):
    """A well's place on the plate, both counted from 1; 0 where it is not known."""

    row: int
    column: int


class Layout(FormulaControl):
    """Plate, row and column: a pure confound. What it predicts, the experiment's design gave away.

    Row and column are there as numbers (gradients), as one-hot columns (single rows, and any single well as their sum),
    with the distance to the edge of each usual plate size, and the well's name as a hashed one-hot column for names that are not like `B07`.
    The plate is a hashed one-hot column: of a plate that training never saw it tells nothing beyond a chance collision,
    but where units are not plates (images, patients) it is the confound that matters.

    Args:
        facts: names the metadata columns there are.
    """

    columns = (
        *("row", "column", "position unknown"),
        *(f"edge distance on {rows * columns} wells" for rows, columns in PLATES),
        *(f"row {i + 1}" for i in range(ROWS)),
        *(f"column {i + 1}" for i in range(COLUMNS)),
        *(f"well bucket {i}" for i in range(WELL_BUCKETS)),
        *(f"plate bucket {i}" for i in range(PLATE_BUCKETS)),
    )

    def __init__(self, facts: Facts) -> None:
        card = control_card(NAME, "Plate, row and column of the well, from the metadata: what the plate layout gives away.")
        super().__init__(card, facts, "it needs the position on the plate, which a new image does not have")

    def describe(self, batch: Batch) -> Floats:
        """(n, 248) values from the metadata alone."""
        values = np.zeros((len(batch.image_ids), len(self.columns)))
        wells, plates = _texts(batch.metadata, WELL), _texts(batch.metadata, PLATE)
        for row, record, well, plate in zip(values, positions(batch.metadata), wells, plates, strict=True):
            known = record.row > 0 and record.column > 0
            row[:3] = (record.row, record.column, not known)
            row[3 : 3 + len(PLATES)] = [edge_distance(record, *plate_size) for plate_size in PLATES]
            start = 3 + len(PLATES)
            if known:
                row[start + min(record.row, ROWS) - 1] = 1
                row[start + ROWS + min(record.column, COLUMNS) - 1] = 1
            start += ROWS + COLUMNS
            row[start + crc32((well or str(record)).encode()) % WELL_BUCKETS] = 1
            if plate:
                row[start + WELL_BUCKETS + crc32(plate.encode()) % PLATE_BUCKETS] = 1
        return values


def has_positions(facts: Facts) -> bool:
    """Whether the index says where on a plate an image lay."""
    return WELL in facts.metadata or (ROW in facts.metadata and COLUMN in facts.metadata)


def positions(metadata: pd.DataFrame) -> list[Position]:
    """Row and column of every image: from their own columns where there are any, else from well names like `B07` or `AA12`."""
    if ROW in metadata.columns and COLUMN in metadata.columns:
        return [Position(_number(r), _number(c)) for r, c in zip(_texts(metadata, ROW), _texts(metadata, COLUMN), strict=True)]
    matches = [WELL_NAME.fullmatch(well) for well in _texts(metadata, WELL)]
    return [Position(_letters(m[1]), int(m[2])) if m else Position(0, 0) for m in matches]


def _texts(metadata: pd.DataFrame, name: str) -> list[str]:
    """One column as texts; "" where it is missing."""
    if name not in metadata.columns:
        return [""] * len(metadata)
    return ["" if pd.isna(value) else str(value) for value in metadata[name]]


def _number(text: str) -> int:
    """A row or column as a number: `3`, `3.0` or `C`; 0 where it is neither."""
    if text.isalpha() and len(text) <= 2:
        return _letters(text)
    number = text.removesuffix(".0")
    return int(number) if number.isdigit() else 0


def _letters(text: str) -> int:
    number = 0
    for letter in text.upper():
        number = 26 * number + ord(letter) - ord("A") + 1
    return number


def edge_distance(position: Position, rows: int, columns: int) -> int:
    """Wells between the position and the nearest edge of a plate of that size; 0 where the position is unknown or off it."""
    return max(0, min(position.row - 1, rows - position.row, position.column - 1, columns - position.column))

"""Point patterns: the nuclei of one image as marked points in its window."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
from scipy.spatial import cKDTree

from registry.arrays import Floats, Ints
from registry.errors import BenchmarkError
from registry.images import ImageSpec
from registry.representation import Batch, Facts

#: mark of a nucleus whose type is not stated
UNTYPED = -1


@dataclass(frozen=True)
class Window:
    """The field of view, a rectangle whose corner lies at (0, 0).

    Attributes:
        width_um: extent in x.
        height_um: extent in y.
    """

    width_um: float
    height_um: float

    @classmethod
    def of(cls, image: ImageSpec) -> Window:
        """The window of every image of a benchmark; a benchmark that does not state its pixel size counts in pixels."""
        return cls(image.width * (image.pixel_size_um or 1.0), image.height * (image.pixel_size_um or 1.0))

    @property
    def area_um2(self) -> float:
        """Width times height."""
        return self.width_um * self.height_um

    def distance_to_border_um(self, points: Floats) -> Floats:
        """(n,) distance of each of (n, 2) points to the nearest side."""
        x, y = points[:, 0], points[:, 1]
        nearest: Floats = np.minimum.reduce([x, self.width_um - x, y, self.height_um - y])
        return nearest


@dataclass(frozen=True)
class Pattern:
    """Points with marks in a window.

    Attributes:
        window: where points could have been seen.
        xy_um: (n, 2) positions.
        mark: (n,) index of each point's type, UNTYPED where it is not stated.
    """

    window: Window
    xy_um: Floats
    mark: Ints

    def __len__(self) -> int:
        return len(self.xy_um)

    @property
    def density_per_um2(self) -> float:
        """Points per area."""
        return len(self) / self.window.area_um2

    @cached_property
    def tree(self) -> cKDTree[None]:
        """A k-d tree over the points."""
        return cKDTree(self.xy_um)

    @cached_property
    def border_um(self) -> Floats:
        """(n,) distance of each point to the nearest side of the window."""
        return self.window.distance_to_border_um(self.xy_um)

    def of_mark(self, mark: int) -> Pattern:
        """The points of one type."""
        chosen = self.mark == mark
        return Pattern(self.window, self.xy_um[chosen], self.mark[chosen])


def patterns(batch: Batch, facts: Facts) -> list[Pattern]:
    """The nuclei of each image of a batch.

    Raises:
        BenchmarkError: there is no table of nuclei, or a nucleus lies outside its image by more than a pixel.
    """
    tables = tables_of(batch, facts)
    window = Window.of(facts.image)
    marks = marks_of(tables, facts.nuclear_types)
    together = pd.concat([table[["x_um", "y_um"]] for table in tables]).to_numpy(dtype=np.float64)
    positions = np.split(together, np.cumsum([len(table) for table in tables])[:-1])
    # centres may be stated from the corner or the middle of a pixel
    slack_um = facts.image.pixel_size_um or 1.0
    return [
        Pattern(window, _placed(xy_um, window, slack_um, image_id), mark)
        for image_id, xy_um, mark in zip(batch.image_ids, positions, marks, strict=True)
    ]


def tables_of(batch: Batch, facts: Facts) -> tuple[pd.DataFrame, ...]:
    """The tables of nuclei of a batch.

    Raises:
        BenchmarkError: there are none.
    """
    if batch.nuclei is None:
        raise BenchmarkError(f"`{facts.benchmark}`: expected a table of nuclei for each image, got none. Leave out the controls of tissue structure.")
    return batch.nuclei


def marks_of(tables: tuple[pd.DataFrame, ...], types: tuple[str, ...]) -> list[Ints]:
    """Per table (n,) index of each nucleus' type in `types`, UNTYPED where it is missing or not among them."""
    ends = np.cumsum([len(table) for table in tables])
    if not types:
        return np.split(np.full(ends[-1], UNTYPED, dtype=np.int64), ends[:-1])
    # one call for the batch: on a table of a hundred nuclei pandas takes longer to start than to work
    codes = pd.Categorical(pd.concat([table["type"] for table in tables]), categories=list(types)).codes
    return np.split(codes.astype(np.int64), ends[:-1])


def _placed(xy_um: Floats, window: Window, slack_um: float, image_id: str) -> Floats:
    """Positions, those up to `slack_um` outside the window moved to its side."""
    inside = np.clip(xy_um, 0, [window.width_um, window.height_um])
    wrong = ~(np.abs(xy_um - inside) <= slack_um).all(axis=1)
    if wrong.any():
        x, y = xy_um[np.flatnonzero(wrong)[0]]
        raise BenchmarkError(
            f"Image `{image_id}`: expected nuclei within {window.width_um:g} x {window.height_um:g} um (x, y), got one at ({x:g}, {y:g})."
            " Check the pixel size of the card and the unit of the table."
        )
    return inside

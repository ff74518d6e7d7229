"""The nuclei table of imported images."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from pipelines.benchmarks.tables import require
from registry.errors import BenchmarkError

NUMBERS = ("x_px", "y_px", "area_px")


@dataclass(frozen=True)
class NucleiTable:
    """Nuclei as a benchmark stores them.

    Attributes:
        table: image_id, nucleus, x_um, y_um, area_um2, type; sizes in pixels where the pixel size is not known.
        notes: sentences for the card.
    """

    table: pd.DataFrame
    notes: tuple[str, ...]


def convert_nuclei(raw: pd.DataFrame, sizes: pd.DataFrame, target: tuple[int, int], pixel_size_um: float | None) -> NucleiTable:
    """Nuclei of the imported images, in micrometres of the image as models see it.

    Where images are brought to a common size, positions and areas are stretched with them.

    Args:
        raw: columns image_id, x_px, y_px, area_px as text; optionally nucleus and type.
        sizes: index image_id; columns height, width of the stored image in pixels.
        target: (height, width) every image is brought to.
        pixel_size_um: micrometres per pixel; None: lengths stay in pixels, as a note says.

    Raises:
        BenchmarkError: missing column, a value that is no number, a nucleus outside its image, or no nucleus in any imported image.
    """
    for column in ("image_id", *NUMBERS):
        require(raw, column, "nuclei table")
    known = raw[raw["image_id"].isin(sizes.index)].reset_index(drop=True)
    if known.empty:
        raise BenchmarkError(
            f"No nucleus belongs to an imported image. The nuclei table has ids like `{raw['image_id'].iloc[0]}`, the images like `{sizes.index[0]}`."
        )
    numbers = known[list(NUMBERS)].apply(pd.to_numeric, errors="coerce")
    bad = ~np.isfinite(numbers.to_numpy(float)).all(axis=1)
    if bad.any():
        first = known["image_id"][bad.argmax()]
        raise BenchmarkError(f"The nuclei table has {int(bad.sum())} rows whose position or area is no number (first: image `{first}`).")
    height, width = (sizes.loc[known["image_id"], side].to_numpy(float) for side in ("height", "width"))
    x, y, area = (numbers[c].to_numpy(float) for c in NUMBERS)
    outside = (x < -0.5) | (y < -0.5) | (x > width) | (y > height)
    if outside.any():
        at = int(outside.argmax())
        raise BenchmarkError(
            f"{int(outside.sum())} nuclei lie outside their image (first: `{known['image_id'][at]}` at x {x[at]:g}, y {y[at]:g} of"
            f" {width[at]:g} x {height[at]:g} pixels). Expected positions in pixels of the image file."
        )
    unit = pixel_size_um or 1.0
    across, down = target[1] / width, target[0] / height
    columns = {
        "image_id": known["image_id"].astype(str),
        "nucleus": _numbers(known),
        "x_um": x * across * unit,
        "y_um": y * down * unit,
        "area_um2": area * across * down * unit**2,
        "type": known["type"].astype("string") if "type" in known else pd.Series(pd.NA, index=known.index, dtype="string"),
    }
    return NucleiTable(pd.DataFrame(columns), tuple(_notes(raw, known, sizes, target, pixel_size_um)))


def _numbers(known: pd.DataFrame) -> pd.Series:
    """The table's own numbers where they are whole, so that they still name the objects of a mask; else 1, 2, ... per image."""
    if "nucleus" in known and known["nucleus"].astype(str).str.fullmatch(r"\d+").all():
        return known["nucleus"].astype(int)
    return known.groupby("image_id").cumcount() + 1


def _notes(raw: pd.DataFrame, known: pd.DataFrame, sizes: pd.DataFrame, target: tuple[int, int], pixel_size_um: float | None) -> list[str]:
    notes = []
    if pixel_size_um is None:
        notes.append("The pixel size is not known: lengths and areas of nuclei are in pixels.")
    if len(raw) > len(known):
        notes.append(f"{len(raw) - len(known)} nuclei belong to images that were not imported and were left out.")
    without = len(sizes) - known["image_id"].nunique()
    if without:
        notes.append(f"{without} images have no nucleus.")
    if (sizes != list(target)).to_numpy().any():
        notes.append("Positions and areas of nuclei were stretched with their images to the common size.")
    return notes

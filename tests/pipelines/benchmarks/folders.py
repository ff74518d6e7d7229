"""Small real folders of images in the layouts that are imported."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import tifffile
from numpy.typing import NDArray
from PIL import Image as Pillow

Array = NDArray[np.generic]


def noise(seed: int, shape: tuple[int, ...] = (16, 16), dtype: str = "uint8", high: int = 250) -> Array:
    rng = np.random.default_rng(seed)
    pixels = rng.random(shape) * high
    return pixels.astype(dtype)


def write(path: Path, pixels: Array, channels: tuple[str, ...] = (), pixel_size_um: float | None = None) -> Path:
    """(y, x), (y, x, 3) to PNG and JPEG; (c, y, x) to TIFF, OME-TIFF and npy."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.name.endswith((".ome.tif", ".ome.tiff")):
        metadata: dict[str, object] = {"axes": "CYX", "Channel": {"Name": list(channels)}} if channels else {"axes": "CYX"}
        if pixel_size_um:
            metadata |= {"PhysicalSizeX": pixel_size_um, "PhysicalSizeXUnit": "µm", "PhysicalSizeY": pixel_size_um, "PhysicalSizeYUnit": "µm"}
        tifffile.imwrite(path, pixels, ome=True, photometric="minisblack", metadata=metadata)
    elif path.suffix in (".tif", ".tiff"):
        tifffile.imwrite(path, pixels, photometric="minisblack")
    elif path.suffix == ".npy":
        np.save(path, pixels)
    else:
        Pillow.fromarray(pixels).save(path)
    return path


def classes(root: Path, n: int = 6, names: tuple[str, ...] = ("alive", "dead")) -> Path:
    """Class folders of `n` grey PNGs each."""
    for k, name in enumerate(names):
        for i in range(n):
            write(root / name / f"{i:02d}.png", noise(100 * k + i))
    return root


def table(root: Path, rows: int = 24, plates: int = 6, suffix: str = ".png", shape: tuple[int, ...] = (16, 16), dtype: str = "uint8") -> pd.DataFrame:
    """A folder with `cells.csv`: columns file, phenotype, plate, well."""
    frame = pd.DataFrame(
        {
            "file": [f"images/{i:03d}{suffix}" for i in range(rows)],
            "phenotype": [("round", "flat")[i % 2] for i in range(rows)],
            "plate": [f"P{i % plates}" for i in range(rows)],
            "well": [f"{'ABCD'[i % 4]}{1 + i // 4:02d}" for i in range(rows)],
        }
    )
    for i, name in enumerate(frame["file"]):
        write(root / name, noise(i, shape, dtype))
    frame.to_csv(root / "cells.csv", index=False)
    return frame

"""Small batches with known content, for the tests of controls."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from registry.arrays import Floats, PixelBatch
from registry.images import ImageSpec
from registry.representation import Batch, Facts

TYPES = ("stroma", "tumour")


def facts_for(
    channels: Sequence[str], size_px: tuple[int, int], high: float = 255.0, nuclei: bool = False, pixel_size_um: float | None = 2.0, **more: object
) -> Facts:
    spec = ImageSpec(tuple(channels), "uint8" if high <= 255 else "uint16", *size_px, ((0.0, high),) * len(channels), pixel_size_um)
    types = TYPES if nuclei else ()
    return Facts("sample", "tissue" if nuclei else "cells", spec, ("Metadata_Plate", "Metadata_Well"), nuclei, types, **more)  # type: ignore[arg-type]


def smooth_noise(n: int, channels: int, height: int, width: int, seed: int = 0, high: float = 255.0) -> PixelBatch:
    """Correlated whole numbers between 0 and `high`, different in every image."""
    from scipy.ndimage import gaussian_filter

    rng = np.random.default_rng(seed)
    field = gaussian_filter(rng.normal(size=(n, channels, height, width)), (0, 0, 1.5, 1.5))
    gain = rng.uniform(0.5, 1.5, (n, channels, 1, 1))
    return np.clip(np.rint(high * (0.4 + 0.8 * gain * field)), 0, high).astype(np.float32)


def nuclei_table(xy_um: Floats, types: Sequence[str | None] | None = None) -> pd.DataFrame:
    n = len(xy_um)
    return pd.DataFrame(
        {
            "nucleus": np.arange(n),
            "x_um": xy_um[:, 0].astype(np.float64),
            "y_um": xy_um[:, 1].astype(np.float64),
            "area_um2": np.linspace(20, 60, n),
            "type": pd.array([TYPES[i % 2] for i in range(n)] if types is None else list(types), dtype="string"),
        }
    )


def batch_of(pixels: PixelBatch, nuclei: Sequence[pd.DataFrame] | None = None, start: int = 0) -> Batch:
    ids = tuple(f"image-{start + i:03d}" for i in range(len(pixels)))
    wells = [f"{'ABCD'[(start + i) // 4 % 4]}{(start + i) % 4 + 1:02d}" for i in range(len(pixels))]
    metadata = pd.DataFrame({"Metadata_Plate": [f"P{(start + i) // 16}" for i in range(len(pixels))], "Metadata_Well": wells})
    return Batch(ids, pixels, metadata, None if nuclei is None else tuple(nuclei))


def tissue_batch(n: int, size_px: int = 96, channels: int = 3, seed: int = 0, points: int = 60) -> Batch:
    """Noise with as many random nuclei in every image, in a window of 2 um per pixel."""
    rng = np.random.default_rng(seed)
    tables = [nuclei_table(rng.uniform(0, 2.0 * size_px, (points, 2)), list(rng.choice(TYPES, points))) for _ in range(n)]
    return batch_of(smooth_noise(n, channels, size_px, size_px, seed), tables)


def part(batch: Batch, rows: Sequence[int]) -> Batch:
    """Some images of a batch."""
    nuclei = None if batch.nuclei is None else tuple(batch.nuclei[i] for i in rows)
    ids = tuple(batch.image_ids[i] for i in rows)
    return Batch(ids, batch.pixels[list(rows)], batch.metadata.iloc[list(rows)].reset_index(drop=True), nuclei)

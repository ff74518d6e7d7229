"""What simulators draw with: named random streams, random fields, OME-TIFF files.

Every random number comes from a stream named by what it is for (`stream(seed, "culture", plate, well)`), so a screen
with more plates or more sites holds the smaller one unchanged.
"""

from __future__ import annotations

import math
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import pandas as pd

from pipelines.benchmarks.card import BenchmarkCard
from registry.arrays import Floats, Pixels
from registry.errors import ParamsError
from registry.files import sha256_of_bytes, sha256_of_file


@dataclass(frozen=True)
class Drawn:
    """What a simulator hands over once its images lie in the folder.

    Attributes:
        card: the benchmark card, without checksums.
        index: one row per image.
        nuclei: the nuclei table, None where the simulator keeps none.
        expression: counts of genes, likewise.
    """

    card: BenchmarkCard
    index: pd.DataFrame
    nuclei: pd.DataFrame | None = None
    expression: pd.DataFrame | None = None


def check_ranges(parameters: Any, at_least: Mapping[str, float]) -> None:
    """Refuse settings below their smallest sensible value and numbers that are not finite.

    Args:
        parameters: the settings, a dataclass.
        at_least: smallest value per setting; settings that are not named must be 0 or more.

    Raises:
        ParamsError: names the setting, the bound and the value.
    """
    for f in fields(parameters):
        value = getattr(parameters, f.name)
        bound = at_least.get(f.name, 0)
        values = value if isinstance(value, tuple) else (value,)
        if isinstance(value, tuple) and len(value) != 2:
            raise ParamsError(f"`{f.name}`: expected two values, the smaller first, got {list(value)}.")
        if not all(math.isfinite(v) and v >= bound for v in values):
            raise ParamsError(f"`{f.name}`: expected {bound:g} or more, got {value}.")
        if list(values) != sorted(values):
            raise ParamsError(f"`{f.name}`: expected the smaller value first, got {list(value)}.")


def stream(seed: int, *names: str | int) -> np.random.Generator:
    """The random stream of this seed and these names (`stream(0, "culture", 3, "plate")`)."""
    keys = [crc32(n.encode("utf-8")) if isinstance(n, str) else n for n in names]
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, *keys])))


def radial_frequency(size_px: int) -> Floats:
    """(y, x // 2 + 1) spatial frequency in cycles per pixel, in the layout of `numpy.fft.rfft2`."""
    squared = np.fft.fftfreq(size_px)[:, None] ** 2 + np.fft.rfftfreq(size_px)[None, :] ** 2
    frequency: Floats = np.sqrt(squared)
    return frequency


def random_field(rng: np.random.Generator, transfer: Floats, size_px: int) -> Floats:
    """(y, x) isotropic periodic Gaussian field of mean 0 and standard deviation 1 in every draw.

    Args:
        rng: the stream.
        transfer: (y, x // 2 + 1) amplitude per spatial frequency, as `radial_frequency` lays them out.
        size_px: rows and columns.
    """
    noise = rng.standard_normal((size_px, size_px))
    field: Floats = np.fft.irfft2(np.fft.rfft2(noise) * transfer, s=(size_px, size_px))
    standard: Floats = (field - field.mean()) / field.std()
    return standard


def write_ome_tiff(path: Path, pixels: Pixels, channel_names: tuple[str, ...], pixel_size_um: float) -> str:
    """Write (c, y, x) pixels as an uncompressed OME-TIFF, one page per channel; return the file's sha256.

    The UUID that OME wants is derived from the content, so the same pixels give the same bytes. The file is not synced
    to disk: `simulate` publishes the whole folder, and the index holds the hash that finds a damaged file.
    """
    import tifffile

    content = f"{pixels.dtype}{pixels.shape}{channel_names}{pixel_size_um!r}{sha256_of_bytes(pixels.tobytes())}"
    path.parent.mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(
        path,
        pixels,
        ome=True,
        photometric="minisblack",
        metadata={
            "axes": "CYX",
            "Channel": {"Name": list(channel_names)},
            "PhysicalSizeX": pixel_size_um,
            "PhysicalSizeXUnit": "µm",
            "PhysicalSizeY": pixel_size_um,
            "PhysicalSizeYUnit": "µm",
            "UUID": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_OID, content)}",
        },
    )
    return sha256_of_file(path)

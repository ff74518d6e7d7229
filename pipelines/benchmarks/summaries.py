"""Hand-made numbers that say in which order of statistics two classes of images differ.

First order: how bright pixels are, wherever they lie. Second order: pairs of pixels, that is power per spatial frequency
and coherence between channels. Third order: triples. They illustrate a simulator's truth on its page of pictures and prove it in
`benchmarks/simulators.py`; the controls that verdicts are about are those of `registry.controls`.
"""

from __future__ import annotations

from itertools import combinations, pairwise
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipelines.benchmarks.drawing import radial_frequency
from pipelines.benchmarks.index import Benchmark
from registry.arrays import Floats

#: wavelengths in pixels that separate the bands of the spectrum
BAND_EDGES_PX = (3.0, 6.0, 14.0)
#: windows in which the nuclei of a patch are counted, on the torus
COUNT_WINDOW_PX = 12
#: light farther than this from a nucleus is not its cell's
REACH_PX = 8


def summary(benchmark: Benchmark, row: int) -> dict[str, float]:
    """Numbers of one image by name, in the order of the page: first order, cells, second order, third order."""
    pixels = benchmark.pixels(row).astype(np.float64)
    channels = benchmark.card.image.channels
    values = brightness(pixels, channels)
    if benchmark.card.structure:
        values |= nuclei_counts(benchmark.nuclei[str(benchmark.index["image_id"].iloc[row])])
    values |= second_order(pixels, channels)
    if benchmark.card.structure:
        side_um = benchmark.card.image.height * (benchmark.card.image.pixel_size_um or 1.0)
        values |= window_moments(benchmark.nuclei[str(benchmark.index["image_id"].iloc[row])], side_um, benchmark.card.image.height)
    elif {"DNA", "AGP", "Mito"} <= set(channels):
        dna, golgi, mitochondria = (pixels[channels.index(name)] for name in ("DNA", "AGP", "Mito"))
        peaks = nuclear_peaks(dna)
        values["number of nuclei"] = float(len(peaks))
        values["handedness of Golgi and mitochondria"] = handedness(peaks, golgi, mitochondria)
    return values


def order_of(name: str) -> str:
    """What a number of `summary` looks at: "brightness", "cells", "pairs" or "triples"."""
    if name.startswith(("power", "coherence", "pairs")):
        return "pairs"
    if name.startswith(("handedness", "triples")):
        return "triples"
    return "cells" if name.startswith(("number", "fraction", "area")) else "brightness"


def brightness(pixels: Floats, channels: tuple[str, ...]) -> dict[str, float]:
    """Mean and spread of each channel."""
    values = {f"mean of {name}": float(p.mean()) for name, p in zip(channels, pixels, strict=True)}
    return values | {f"spread of {name}": float(p.std()) for name, p in zip(channels, pixels, strict=True)}


def second_order(pixels: Floats, channels: tuple[str, ...]) -> dict[str, float]:
    """Log power of each channel in bands of wavelength, and the coherence of each pair of channels."""
    transform = np.fft.rfft2(pixels - pixels.mean(axis=(1, 2), keepdims=True))
    with np.errstate(divide="ignore"):
        wavelength = 1 / radial_frequency(pixels.shape[1])
    band = np.digitize(wavelength, BAND_EDGES_PX)
    power = np.abs(transform) ** 2
    names = (f"under {BAND_EDGES_PX[0]:g} px", *(f"{a:g}-{b:g} px" for a, b in pairwise(BAND_EDGES_PX)))
    values = {
        f"power of {channel}, {name}": float(np.log(power[c][band == number].mean()))
        for c, channel in enumerate(channels)
        for number, name in enumerate((*names, f"over {BAND_EDGES_PX[-1]:g} px"))
    }
    for a, b in combinations(range(len(channels)), 2):
        cross = (transform[a] * transform[b].conj()).real.sum()
        values[f"coherence of {channels[a]} and {channels[b]}"] = float(cross / np.sqrt(power[a].sum() * power[b].sum()))
    return values


def nuclei_counts(table: pd.DataFrame) -> dict[str, float]:
    """Number of nuclei, their mean area and the fraction of dark ones."""
    return {
        "number of nuclei": float(len(table)),
        "fraction of dark nuclei": float((table["type"] == "lymphocyte").mean()),
        "area of nuclei": float(table["area_um2"].mean()),
    }


def window_moments(table: pd.DataFrame, side_um: float, side_px: int) -> dict[str, float]:
    """Pairs and triples of nuclei, and pairs of dark nuclei, that share a square window, per window.

    Factorial moments N (N - 1) and N (N - 1) (N - 2) averaged over all placings of a window of COUNT_WINDOW_PX on the torus.
    """
    scale = side_px / side_um
    occupied = np.floor(table[["y_um", "x_um"]].to_numpy() * scale).astype(np.int64) % side_px
    n = _window_counts(occupied, side_px)
    dark = _window_counts(occupied[(table["type"] == "lymphocyte").to_numpy()], side_px)
    return {
        "pairs of nuclei per window": float((n * (n - 1)).mean()),
        "pairs of dark nuclei per window": float((dark * (dark - 1)).mean()),
        "triples of nuclei per window": float((n * (n - 1) * (n - 2)).mean()),
    }


def _window_counts(occupied: NDArray[np.int64], side_px: int) -> Floats:
    """(y, x) points in the window that begins at each pixel."""
    grid = np.zeros((side_px, side_px))
    np.add.at(grid, (occupied[:, 0], occupied[:, 1]), 1.0)
    for axis in (0, 1):
        grid = sum((np.roll(grid, -shift, axis) for shift in range(COUNT_WINDOW_PX)), start=np.zeros_like(grid))
    return grid


def nuclear_peaks(nuclei: NDArray[Any]) -> NDArray[np.int64]:
    """(n, 2) pixels (y, x) where the smoothed nuclear channel is highest within REACH_PX and above half of its range."""
    from scipy.ndimage import gaussian_filter, maximum_filter

    smooth = gaussian_filter(nuclei, 1.0)
    highest = maximum_filter(smooth, 2 * REACH_PX + 1)
    peaks: NDArray[np.int64] = np.argwhere((highest == smooth) & (smooth > (smooth.min() + smooth.max()) / 2))
    return peaks


def handedness(peaks: NDArray[np.int64], golgi: NDArray[Any], mitochondria: NDArray[Any]) -> float:
    """Sine of the turn from Golgi to mitochondria about the nucleus, mean over nuclei; clockwise as the image is seen is positive.

    Nucleus, Golgi and mitochondria, three channels at three places: a third-order statistic, odd under reflection.

    Args:
        peaks: (n, 2) nuclei, at least one.
        golgi: (y, x) light of the Golgi's channel.
        mitochondria: (y, x) light of the mitochondria's channel.
    """
    dy, dx = np.indices((2 * REACH_PX + 1,) * 2) - REACH_PX
    disc = dy**2 + dx**2 <= REACH_PX**2
    padded = [np.pad(channel, REACH_PX, mode="reflect") for channel in (golgi, mitochondria)]
    turns = []
    for y, x in peaks.tolist():
        light = [channel[y : y + 2 * REACH_PX + 1, x : x + 2 * REACH_PX + 1] for channel in padded]
        g, m = (np.where(disc, np.clip(p - np.median(p[disc]), 0, None) ** 2, 0.0) for p in light)
        turns.append(((g * dx).sum() * (m * dy).sum() - (g * dy).sum() * (m * dx).sum()) / (_moment(g, dy, dx) * _moment(m, dy, dx)))
    return float(np.mean(turns))


def _moment(light: Floats, dy: NDArray[np.int64], dx: NDArray[np.int64]) -> float:
    return float(np.hypot((light * dy).sum(), (light * dx).sum()))

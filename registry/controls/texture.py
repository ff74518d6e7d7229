"""`texture`: grey-level co-occurrence (Haralick) and local binary patterns of each channel."""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

from registry.arrays import Floats
from registry.controls.base import FormulaControl, control_card
from registry.representation import Batch, Facts

NAME = "texture"
GREY_LEVELS = 16
#: the pixels between these quantiles of an image are spread over the grey levels, so that gain and background do not matter
RANGE = (0.01, 0.99)
DISTANCES_PX = (1, 2, 4)
ANGLES = (0.0, np.pi / 4, np.pi / 2, 3 * np.pi / 4)
HARALICK = ("contrast", "dissimilarity", "homogeneity", "energy", "correlation", "entropy")
#: distances of the eight neighbours of the local binary patterns
RADII_PX = (1, 2)
#: the eight neighbours in order around the centre, (y, x)
RING = ((0, 1), (-1, 1), (-1, 0), (-1, -1), (0, -1), (1, -1), (1, 0), (1, 1))
#: uniform patterns by the number of brighter neighbours (0 to 8), and one class for all others
CLASSES = len(RING) + 2


class Texture(FormulaControl):
    """Haralick's co-occurrence statistics (1973), averaged over orientation, and uniform local binary patterns (Ojala 2002).

    Args:
        facts: the benchmark's channels.
    """

    def __init__(self, facts: Facts) -> None:
        card = control_card(NAME, "Haralick statistics of grey-level co-occurrence and local binary patterns of each channel.")
        super().__init__(card, facts, "it counts co-occurring grey levels with scikit-image, which is not an ONNX graph")

    @property
    def columns(self) -> tuple[str, ...]:
        """Names such as `DNA: contrast (1 px)`."""
        haralick = [f"{name} {what} ({d} px)" for name in HARALICK for what in ("mean", "range") for d in DISTANCES_PX]
        patterns = [f"pattern {i} ({radius} px)" for radius in RADII_PX for i in range(CLASSES)]
        return tuple(f"{channel}: {name}" for channel in self.facts.image.channels for name in (*haralick, *patterns))

    def describe(self, batch: Batch) -> Floats:
        """(n, c * 56) statistics."""
        return np.stack([np.concatenate([describe_channel(channel) for channel in pixels]) for pixels in batch.pixels])


def describe_channel(channel: NDArray[np.float32]) -> Floats:
    """(56,) texture of one channel (y, x)."""
    grey = grey_levels(channel)
    return np.concatenate([haralick(grey), *(local_patterns(channel, radius) for radius in RADII_PX)])


def grey_levels(channel: NDArray[np.float32]) -> NDArray[np.uint8]:
    """(y, x) levels 0 .. GREY_LEVELS - 1, equal steps between the image's own RANGE quantiles; 0 for a constant image."""
    low, high = np.quantile(channel, RANGE)
    if high <= low:
        low, high = channel.min(), channel.max()
    if high <= low:
        return np.zeros(channel.shape, dtype=np.uint8)
    scaled = (channel - low) * (GREY_LEVELS / (high - low))
    levels: NDArray[np.uint8] = np.clip(scaled, 0, GREY_LEVELS - 1).astype(np.uint8)
    return levels


def haralick(grey: NDArray[np.uint8]) -> Floats:
    """(36,) HARALICK, each as mean and range over the angles, for each distance; as scikit-image's `graycoprops`, energy = sqrt(ASM).

    The correlation of a constant image is 1 and its entropy (bits) 0.
    """
    from skimage.feature import graycomatrix

    distances = [d for d in DISTANCES_PX if d < min(grey.shape)] or [1]
    counts = graycomatrix(grey, distances, ANGLES, levels=GREY_LEVELS, symmetric=True, normed=False).astype(np.float64)
    p = counts.reshape(GREY_LEVELS**2, -1) / counts.sum(axis=(0, 1)).ravel()
    statistics = _co_occurrence(p).reshape(len(HARALICK), len(distances), len(ANGLES))
    summary = np.stack([statistics.mean(axis=2), np.ptp(statistics, axis=2)], axis=1)
    return np.pad(summary, ((0, 0), (0, 0), (0, len(DISTANCES_PX) - len(distances))), mode="edge").ravel()


@cache
def _weights() -> Floats:
    """(6, levels^2): what contrast, dissimilarity, homogeneity, mean, mean square and mean product weigh each pair of grey levels with."""
    one, other = (level.ravel().astype(np.float64) for level in np.mgrid[:GREY_LEVELS, :GREY_LEVELS])
    step = np.abs(one - other)
    return np.stack([step**2, step, 1 / (1 + step**2), one, one**2, one * other])


def _co_occurrence(p: Floats) -> Floats:
    """(6, k) HARALICK of (levels^2, k) probabilities of pairs of grey levels."""
    contrast, dissimilarity, homogeneity, mean, square, product = _weights() @ p
    variance = square - mean**2
    flat = variance < 1e-12
    correlation = np.where(flat, 1.0, (product - mean**2) / np.where(flat, 1.0, variance))
    entropy = -(p * np.log2(np.where(p > 0, p, 1.0))).sum(axis=0)
    return np.stack([contrast, dissimilarity, homogeneity, np.sqrt((p**2).sum(axis=0)), correlation, entropy])


def local_patterns(channel: NDArray[np.float32], radius_px: int) -> Floats:
    """(10,) shares of the rotation-invariant uniform patterns, away from the border.

    A pattern says which of the eight neighbours at -radius, 0 and +radius in y and x are as bright as the centre or brighter. Unlike
    scikit-image's `local_binary_pattern`, which interpolates on a circle, the neighbours are pixels: exact on noise, and many times
    faster. Zeros for an image that has no pixel this far from the border.
    """
    height, width = (side - 2 * radius_px for side in channel.shape)
    if min(height, width) < 1:
        return np.zeros(CLASSES)
    centre = channel[radius_px : radius_px + height, radius_px : radius_px + width]
    code = np.zeros((height, width), dtype=np.uint8)
    for bit, (dy, dx) in enumerate(RING):
        y, x = radius_px * (1 + dy), radius_px * (1 + dx)
        code |= (channel[y : y + height, x : x + width] >= centre).view(np.uint8) << np.uint8(bit)
    per_code = np.bincount(code.ravel(), minlength=256)
    shares: Floats = np.bincount(pattern_classes(), weights=per_code, minlength=CLASSES) / code.size
    return shares


@cache
def pattern_classes() -> NDArray[np.int64]:
    """(256,) class of every code: its number of ones if they lie in one run around the ring, else the last class."""
    bits = (np.arange(256)[:, None] >> np.arange(8)) & 1
    changes = (bits != np.roll(bits, 1, axis=1)).sum(axis=1)
    return np.where(changes <= 2, bits.sum(axis=1), CLASSES - 1)

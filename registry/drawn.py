"""Images that show nothing real, in place of those whose licence does not let them be passed on: blobs of light, drawn from a seed."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from registry.images import ImageSpec

BLOBS = 24
#: brightness as shares of a channel's range of intensity: ground, most that a blob adds, noise to either side
_GROUND, _LIGHT, _NOISE = 0.15, 0.5, 0.03


def drawn_images(spec: ImageSpec, count: int, seed: int = 0) -> NDArray[np.float32]:
    """Images as a model takes them: every channel lights the same blobs, each as brightly as chance has it.

    They are smooth but for a little noise, so that what counts or thresholds them does not hang on the last digit of a pixel.

    Args:
        spec: what the model takes.
        count: how many, n; the first of them are the same for any n.
        seed: other seeds give other images.

    Returns:
        (n, c, y, x): within each channel's range of intensity, whole numbers where files hold those.
    """
    channels, height, width = spec.shape
    low, high = (np.array(end)[:, None, None] for end in zip(*spec.intensity, strict=True))
    images = np.empty((count, *spec.shape), np.float32)
    for i in range(count):
        rng = np.random.default_rng([seed, i])
        radius = rng.uniform(0.02, 0.08, BLOBS) * max(height, width)
        down, across = (_bells(rng.uniform(0, side, BLOBS), radius, side) for side in (height, width))
        light = np.einsum("cb,by,bx->cyx", rng.uniform(0, _LIGHT, (channels, BLOBS)), down, across)
        shares = _GROUND + light + rng.uniform(-_NOISE, _NOISE, spec.shape)
        drawn = low + np.clip(shares, 0, 1) * (high - low)
        if np.dtype(spec.dtype).kind == "u":
            drawn = np.clip(np.rint(drawn), 0, np.iinfo(spec.dtype).max)
        images[i] = drawn
    return images


def _bells(centre: NDArray[np.float64], radius: NDArray[np.float64], side: int) -> NDArray[np.float64]:
    """(blobs, side) bell curves along one axis."""
    away = np.arange(side) - centre[:, None]
    found: NDArray[np.float64] = np.exp(-((away / np.maximum(radius, 1.0)[:, None]) ** 2) / 2)
    return found

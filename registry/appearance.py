"""What an image looks like in plain numbers: brightness, contrast, fine detail and how its channels go together.

An encoder may have learned to overlook exactly what makes an image strange (another stain, a blur), so its vector alone cannot tell that
an image is unlike those it was trained on. These numbers are of the pixels and not of any network. Computed offline for a bundle's
reference images and online for the image that came, by the same function.
"""

from __future__ import annotations

import math

import numpy as np

from registry.arrays import Floats, PixelBatch
from registry.images import ImageSpec

#: which numbers these are: whoever changes them counts on, so that a bundle's are never compared with others
VERSION = 1
#: ranks of a channel's pixels, on the scale on which `ImageSpec.intensity` is 0 to 1
QUANTILES = (0.01, 0.25, 0.5, 0.75, 0.99)
#: distances in pixels over which intensities are compared: fine detail first
LAGS_PX = (1, 2, 4)
#: rows and columns that are looked at: larger images are sampled evenly, at their own resolution
SAMPLED = 256
#: added to mean squares before the logarithm; a spread of a hundredth of the intensity range counts as none
FLOOR = 1e-4


def appearance(pixels: PixelBatch, spec: ImageSpec) -> Floats:
    """What one image looks like.

    Args:
        pixels: (c, y, x) after `registry.images.conform`.
        spec: says which intensities are 0 and 1.

    Returns:
        (p,) as `appearance_names` names them; finite if the pixels are.
    """
    low, high = (np.array(side, np.float64)[:, None, None] for side in zip(*spec.intensity, strict=True))

    def scaled(part: PixelBatch) -> Floats:
        values: Floats = (part.astype(np.float64) - low) / (high - low)
        return values

    down, across = (max(1, math.ceil(side / SAMPLED)) for side in pixels.shape[1:])
    rows = scaled(pixels[:, ::down])
    columns = scaled(pixels[:, :, ::across]) if (down, across) != (1, 1) else rows
    values = np.ascontiguousarray(rows[:, :, ::across]).reshape(len(pixels), -1)
    # the value at a rank, not one between two: partitioning is several times as fast as interpolating
    ranks = [int(share * (values.shape[1] - 1)) for share in QUANTILES]
    per_channel = [*np.partition(values, ranks, axis=1)[:, ranks].T, values.mean(axis=1), np.log(FLOOR + values.var(axis=1))]
    for lag in LAGS_PX:
        per_channel.append(np.log(FLOOR + _mean_square(rows[:, :, lag:] - rows[:, :, :-lag]) + _mean_square(columns[:, lag:] - columns[:, :-lag])))
    found = np.stack(per_channel, axis=1).ravel()
    return found if len(pixels) == 1 else np.concatenate([found, _together(values)])


def appearance_names(channels: tuple[str, ...]) -> list[str]:
    """(p,) what each number of `appearance` is, as a noun with its channel."""
    of_channel = [*["brightness"] * (len(QUANTILES) + 1), "contrast", *["fine detail"] * len(LAGS_PX)]
    names = [f"{what} of `{channel}`" for channel in channels for what in of_channel]
    return names if len(channels) == 1 else [*names, *(f"likeness of `{channel}` to the other channels" for channel in channels)]


def _mean_square(values: Floats) -> Floats:
    """(c,) over all pixels; 0 where an image is too small to compare any."""
    found: Floats = np.einsum("cyx,cyx->c", values, values) / max(1, values[0].size)
    return found


def _together(values: Floats) -> Floats:
    """(c,) correlation of each channel (c, pixels) with the sum of the others; 0 where one of the two does not vary."""
    centred = values - values.mean(axis=1, keepdims=True)
    others = centred.sum(axis=0) - centred
    lengths = np.sqrt((centred**2).sum(axis=1) * (others**2).sum(axis=1))
    found: Floats = (centred * others).sum(axis=1) / np.maximum(lengths, FLOOR * values.shape[1])
    return found

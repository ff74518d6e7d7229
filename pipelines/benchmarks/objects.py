"""Objects of a larger image: squares cut around the objects of a label mask."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from registry.arrays import Floats, Ints, Pixels
from registry.errors import ImageError
from registry.images import read_image


def read_mask(path: Path, shape: tuple[int, int] | None = None) -> Ints:
    """A label mask: 0 is background, n the pixels of object n.

    Args:
        path: a single-channel integer image.
        shape: (y, x) of the image it belongs to, where that is to be compared.

    Raises:
        ImageError: unreadable, several channels, not integers, or another size than its image.
    """
    pixels = read_image(path).pixels
    if pixels.shape[0] != 1 or pixels.dtype.kind != "u":
        raise ImageError(f"`{path}`: expected a label mask with one channel of whole numbers, got {pixels.shape[0]} of {pixels.dtype.name}.")
    if shape is not None and pixels.shape[1:] != shape:
        raise ImageError(f"`{path}`: expected a mask of {shape[0]} x {shape[1]} pixels like its image, got {pixels.shape[1]} x {pixels.shape[2]}.")
    mask: Ints = pixels[0].astype(np.int64)
    return mask


def centroids(mask: Ints) -> dict[int, tuple[float, float]]:
    """Centre (y, x) in pixels of every object: the mean position of its pixels."""
    numbers, inverse, areas = np.unique(mask, return_inverse=True, return_counts=True)
    rows, columns = np.indices(mask.shape)
    flat = inverse.ravel()
    y: Floats = np.bincount(flat, rows.ravel()) / areas
    x: Floats = np.bincount(flat, columns.ravel()) / areas
    return {int(n): (float(y[i]), float(x[i])) for i, n in enumerate(numbers) if n != 0}


def object_sides(mask: Ints) -> list[int]:
    """The longer side of every object's bounding box, in pixels."""
    from scipy.ndimage import find_objects

    compact = np.unique(mask, return_inverse=True)[1].reshape(mask.shape)
    boxes = find_objects(compact.astype(np.int32) + (1 if mask.min() > 0 else 0))
    return [max(s.stop - s.start for s in box) for box in boxes if box is not None]


def crop_side(sides: list[int]) -> int:
    """The side used when none is asked for: twice the median of the objects' sides, rounded up to a multiple of 8, at least 16."""
    return max(16, int(np.ceil(2 * float(np.median(sides)) / 8)) * 8) if sides else 16


def corner(centre: tuple[float, float], side: int) -> tuple[int, int]:
    """(y, x) of the first pixel of the square around a centre; may be negative."""
    top, left = (int(np.floor(position + 0.5)) - side // 2 for position in centre)
    return top, left


def crop(pixels: Pixels, centre: tuple[float, float], side: int) -> Pixels:
    """(c, side, side) around a centre (y, x); beyond the image's edge the image is mirrored (without repeating the edge).

    Raises:
        ImageError: the square is larger than the image.
    """
    _, height, width = pixels.shape
    if side > min(height, width):
        raise ImageError(f"expected crops of at most {min(height, width)} pixels for an image of {height} x {width}, got {side}.")
    top, left = corner(centre, side)
    padding = (max(0, -top, top + side - height), max(0, -left, left + side - width))
    if any(padding):
        pixels = np.pad(pixels, ((0, 0), *((p, p) for p in padding)), mode="reflect")
        top, left = top + padding[0], left + padding[1]
    return np.ascontiguousarray(pixels[:, top : top + side, left : left + side])

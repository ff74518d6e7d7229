"""The same picture twice: exact copies, near copies and overlapping crops that lie on both sides of a split.

What is said of an image whose copy was trained on was seen in training. Copies are looked for before any probe runs, among images of different
folds; images of one fold never meet as training and test image.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from registry.arrays import Floats, Ints, Pixels

#: thumbnails are SIDE x SIDE
SIDE = 16
#: of detail vectors: candidates are at least so alike and stand out, or are so alike that nothing need stand out
ALIKE, SAME = 0.85, 0.98
#: to stand out is to differ by at most this share of what the tenth most similar image differs by
STANDS_OUT, RANK = 0.2, 10
#: of the structures of 1 to 4 pixels, at the full size, after the best shift of up to SHIFT pixels
SAME_DETAIL, SHIFT = 0.75, 2
#: candidates an image may have, and candidates that are compared at full size
PER_IMAGE, MOST = 5, 5000
#: a deviation below this share of the largest counts as that much, so that no coefficient is all noise
_FLOOR = 0.1
_BLOCK = 256

Thumbnail = NDArray[np.float32]
#: one image at full size, (c, y, x)
Read = Callable[[int], NDArray[np.float32]]


@dataclass(frozen=True)
class Pair:
    """Two images by their positions, `first` < `second`, and how alike they are in 0..1: correlation at full size, or the shared part of crops."""

    first: int
    second: int
    alike: float


@dataclass(frozen=True)
class NearCopies:
    """Near copies in different folds.

    Attributes:
        pairs: the most alike first.
        unchecked: further candidates that were not compared at full size, because there are too many.
    """

    pairs: tuple[Pair, ...]
    unchecked: int = 0


def thumbnail(pixels: Pixels) -> Thumbnail:
    """(SIDE * SIDE,) float32: mean over channels of the standardised picture in SIDE x SIDE equal areas, the same for brighter or fainter channels.

    A picture without any contrast, or with values that are not finite, has a thumbnail of zeros: it is a near copy of nothing.
    """
    _, height, width = pixels.shape
    rows, columns = _areas(height), _areas(width)
    total = np.zeros((SIDE, SIDE))
    for channel in pixels.astype(np.float64):
        spread = float(channel.std())
        if np.isfinite(spread) and spread > 1e-9 * float(np.abs(channel).max()):
            total += rows @ ((channel - channel.mean()) / spread) @ columns.T
    return total.ravel().astype(np.float32)


@lru_cache(maxsize=64)
def _areas(side: int) -> Floats:
    """(SIDE, side) how far each pixel of a line belongs to each of SIDE equal parts; rows sum to 1."""
    edges, pixel = np.linspace(0, side, SIDE + 1), np.arange(side)
    inside = np.minimum(edges[1:, None], pixel + 1) - np.maximum(edges[:-1, None], pixel)
    return np.asarray(np.clip(inside, 0, None) * SIDE / side)


def exact_copies(hashes: Sequence[str], folds: Ints) -> list[Pair]:
    """Pairs of images with the same pixels in different folds: every image with the first image of another fold that has its pixels."""
    of_pixels: dict[str, list[int]] = {}
    for i, pixels in enumerate(hashes):
        of_pixels.setdefault(pixels, []).append(i)
    pairs = set()
    for members in of_pixels.values():
        for i in members if len(members) > 1 else ():
            other = next((j for j in members if folds[j] != folds[i]), None)
            if other is not None:
                pairs.add((min(i, other), max(i, other)))
    return [Pair(first, second, 1.0) for first, second in sorted(pairs)]


def near_copies(thumbnails: NDArray[np.float32], folds: Ints, hashes: Sequence[str], read: Read) -> NearCopies:
    """Images that show the same picture though their pixels differ: compressed again, brighter or fainter, shifted or cut by a pixel or two.

    1. The cosine transforms of the thumbnails, each coefficient centred and divided by its deviation over all images: what all images share
       (a bright cell in the middle, a dark border) is no likeness. Candidates are pairs of different folds whose vectors correlate by at least
       0.85 and differ by at most a fifth of what either differs from its tenth most similar image; a correlation of 0.98 is enough by itself.
    2. Candidates are compared at full size: structures of 1 to 4 pixels (difference of two Gaussians) must correlate by at least 0.75, mean over
       channels, after the best shift of up to 2 pixels.

    Memory is one block of similarities; candidates are the five most similar to each image, and the 5,000 most similar of all are read.
    Mirrored and turned copies are not looked for.

    Args:
        thumbnails: (n, SIDE * SIDE).
        folds: (n,) the test fold of each image, -1 = always training.
        hashes: n hashes of pixels; exact copies are not near copies.
        read: gives one image by its position; all of one shape.
    """
    candidates = _candidates(thumbnails, folds, np.unique(np.asarray(hashes, dtype=np.str_), return_inverse=True)[1])
    pairs = []
    for first, second in candidates[:MOST]:
        detail = same_detail(read(first), read(second))
        if detail >= SAME_DETAIL:
            pairs.append(Pair(first, second, detail))
    return NearCopies(tuple(sorted(pairs, key=lambda pair: (-pair.alike, pair.first, pair.second))), max(0, len(candidates) - MOST))


def _candidates(thumbnails: NDArray[np.float32], folds: Ints, pixels: Ints) -> list[tuple[int, int]]:
    """Pairs by position, the most similar first."""
    vectors = _vectors(thumbnails)
    n = len(vectors)
    if n < 3 or len(np.unique(folds)) < 2:
        return []
    usual = np.empty(n, dtype=np.float32)
    found: list[tuple[Ints, Ints, NDArray[np.float32]]] = []
    rank = min(RANK, n - 1)
    for start in range(0, n, _BLOCK):
        rows = np.arange(start, min(start + _BLOCK, n))
        alike = vectors[rows] @ vectors.T
        alike[rows - start, rows] = -1.0
        usual[rows] = np.partition(alike, n - rank, axis=1)[:, n - rank]
        alike[(folds[rows][:, None] == folds) | (pixels[rows][:, None] == pixels)] = -1.0
        nearest = np.argpartition(-alike, min(PER_IMAGE, n - 1), axis=1)[:, :PER_IMAGE]
        value = np.take_along_axis(alike, nearest, axis=1)
        row, column = np.nonzero(value >= ALIKE)
        found.append((rows[row], nearest[row, column], value[row, column]))
    one, two, value = (np.concatenate([part[i] for part in found]) for i in range(3))
    keep = (value >= SAME) | (1 - value <= STANDS_OUT * (1 - np.maximum(usual[one], usual[two])))
    ordered = sorted(
        {(min(a, b), max(a, b)): v for a, b, v in zip(one[keep], two[keep], value[keep], strict=True)}.items(), key=lambda e: (-e[1], e[0])
    )
    return [(int(a), int(b)) for (a, b), _ in ordered]


def _vectors(thumbnails: NDArray[np.float32]) -> NDArray[np.float32]:
    """(n, SIDE^2 - 1) unit vectors of what distinguishes each thumbnail; zeros for one without contrast."""
    from scipy.fft import dctn

    flat = np.asarray(~thumbnails.any(axis=1))
    norms = np.linalg.norm(thumbnails, axis=1, keepdims=True)
    pictures = (thumbnails / np.where(flat[:, None], 1, norms)).reshape(-1, SIDE, SIDE)
    coefficients = dctn(pictures, axes=(1, 2), norm="ortho").reshape(len(pictures), -1)[:, 1:].astype(np.float32)
    if flat.all():
        return coefficients
    deviation = coefficients[~flat].std(axis=0)
    vectors = (coefficients - coefficients[~flat].mean(axis=0)) / np.maximum(deviation, max(_FLOOR * float(deviation.max()), 1e-12))
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.where(flat[:, None] | (length == 0), 0, vectors / np.where(length == 0, 1, length)).astype(np.float32)


def same_detail(first: NDArray[np.float32], second: NDArray[np.float32]) -> float:
    """Correlation of the fine structures of two pictures (c, y, x) of one shape, -1..1: mean over channels, at the shift that makes it largest.

    A channel that has no structure in either picture does not count; one that has it in one of them only counts 0.
    """
    from scipy.fft import fft2, ifft2

    height, width = first.shape[1:]
    frequency = np.fft.fftfreq(height)[:, None] ** 2 + np.fft.fftfreq(width)[None] ** 2
    band = np.exp(-2 * np.pi**2 * frequency) - np.exp(-2 * np.pi**2 * 16 * frequency)
    a, b = (fft2(picture.astype(np.float64)) * band for picture in (first, second))
    power = np.sqrt(np.sum(np.abs(a) ** 2, axis=(1, 2))), np.sqrt(np.sum(np.abs(b) ** 2, axis=(1, 2)))
    there = [p > 1e-9 * np.abs(picture).sum(axis=(1, 2)) for p, picture in zip(power, (first, second), strict=True)]
    scale = np.where(there[0] & there[1], power[0] * power[1], np.inf) / (height * width)
    matched = np.real(ifft2(a * np.conj(b))) / scale[:, None, None]
    if not (there[0] | there[1]).any():
        return 0.0
    near = matched[there[0] | there[1]].mean(axis=0)
    shifts_y, shifts_x = (np.arange(-min(SHIFT, side - 1), min(SHIFT, side - 1) + 1) for side in (height, width))
    return float(near[np.ix_(shifts_y, shifts_x)].max())


def overlapping_crops(
    sources: Sequence[Hashable], corners: Sequence[tuple[float, float]], sides: Sequence[tuple[int, int]], apart: Ints
) -> list[Pair]:
    """Rectangles cut from one image that share pixels, though `apart` differs; the share of the smaller one that is in both, the largest first.

    Args:
        sources: what each was cut from.
        corners: (y, x) of its first pixel.
        sides: (height, width) of each.
        apart: (n,) fold or unit code of each.
    """
    from scipy.spatial import cKDTree

    of_source: dict[Hashable, list[int]] = {}
    for i, source in enumerate(sources):
        of_source.setdefault(source, []).append(i)
    pairs = []
    for members in of_source.values():
        if len(members) < 2 or len({int(apart[i]) for i in members}) < 2:
            continue
        low, extent = (np.array([values[i] for i in members], dtype=np.float64) for values in (corners, sides))
        high = low + extent
        # those that may touch: no two corners are farther apart than the largest side
        close = cKDTree(low).query_pairs(extent.max(), p=np.inf, output_type="ndarray")
        for one, two in close.tolist():
            first, second = sorted((members[one], members[two]))
            both = np.minimum(high[one], high[two]) - np.maximum(low[one], low[two])
            if apart[first] != apart[second] and (both > 0).all():
                pairs.append(Pair(first, second, float(both.prod() / min(extent[one].prod(), extent[two].prod()))))
    return sorted(pairs, key=lambda pair: (-pair.alike, pair.first, pair.second))


def copy_notes(exact: Sequence[Pair], near: NearCopies, hashes: Sequence[str], ids: Sequence[str]) -> list[str]:
    """Sentences for the benchmark's card about copies."""
    notes = []
    if exact:
        notes.append(f"{_images(exact)} have an exact copy in another fold ({_named(exact, ids)}): what is said of them was seen in training.")
    elif len(set(hashes)) < len(hashes):
        copies = sum(n for n in Counter(hashes).values() if n > 1)
        notes.append(f"{copies} images are exact copies of one another; copies lie in one fold.")
    if near.pairs:
        notes.append(
            f"{_images(near.pairs)} have a near copy in another fold ({_named(near.pairs, ids)}): the same picture with other pixels. Look at"
            " them, and take one of each pair out or name a unit that holds both."
        )
    if near.unchecked:
        notes.append(
            f"{near.unchecked} further pairs of images in different folds are alike at {SIDE} x {SIDE} pixels and were not compared in full."
        )
    return notes


def overlap_notes(pairs: Sequence[Pair], folds: Ints, ids: Sequence[str]) -> list[str]:
    """Sentences about crops of different units that share pixels."""
    torn = [pair for pair in pairs if folds[pair.first] != folds[pair.second]]
    inside = [pair for pair in pairs if folds[pair.first] == folds[pair.second]]
    notes = []
    if torn:
        notes.append(
            f"{_images(torn)} are crops that overlap a crop in another fold, by up to {torn[0].alike:.0%} ({_named(torn, ids)}): part of what is"
            " said of them was seen in training. Name a unit that keeps the crops of an image together."
        )
    if inside:
        notes.append(
            f"{_images(inside)} are crops that overlap a crop of another unit in the same fold, by up to {inside[0].alike:.0%}"
            f" ({_named(inside, ids)}): these units are not independent, and intervals are too narrow."
        )
    return notes


def _images(pairs: Sequence[Pair]) -> str:
    return f"{len({i for pair in pairs for i in (pair.first, pair.second)})} images"


def _named(pairs: Sequence[Pair], ids: Sequence[str], most: int = 3) -> str:
    """The first pairs in words: "`a` and `b`; `c` and `d`; ..."."""
    shown = "; ".join(f"`{ids[pair.first]}` and `{ids[pair.second]}`" for pair in pairs[:most])
    return f"{shown}{'; ...' if len(pairs) > most else ''}"

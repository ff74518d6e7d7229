"""What all images of a benchmark have in common, and which images do not fit it."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass

import numpy as np

from pipelines.benchmarks.intensities import HIGH, LOW, Intensities
from pipelines.benchmarks.preparing import Bad, Prepared
from registry.errors import BenchmarkError
from registry.images import ImageSpec

#: as `registry.images.conform` compares pixel sizes
PIXEL_SIZE_TOLERANCE = 0.05


@dataclass(frozen=True)
class Consensus:
    """The specification the images agree on.

    Attributes:
        spec: what every image looks like.
        images: those that fit it.
        bad: those that do not, with the reason.
        notes: sentences for the card.
    """

    spec: ImageSpec
    images: list[Prepared]
    bad: list[Bad]
    notes: tuple[str, ...]


def settle(images: list[Prepared], intensities: Intensities, asked_channels: tuple[str, ...], asked_pixel_size_um: float | None) -> Consensus:
    """Find the specification of a set of images.

    Number of channels and dtype are those of most images (of `asked_channels`, where given), channel names and pixel size those that
    most files carry. What is asked fills in where files are silent; where it contradicts them, that is an error. Images of one size
    are left as they are, images of several are brought to their median size. uint8 keeps its range (0, 255); other intensities are
    scaled by quantiles over all images, which needs no label.

    Args:
        images: at least one.
        intensities: counted over them.
        asked_channels: names in order, () where nothing was asked.
        asked_pixel_size_um: micrometres per pixel, or None.

    Raises:
        BenchmarkError: the names or the pixel size that were asked for contradict the files.
    """
    kind, number = _kind(images, asked_channels)
    channels = _channels([i for i in images if (i.dtype, i.shape[0]) == (kind, number)], number, asked_channels)
    pixel_size = _pixel_size(images, asked_pixel_size_um)
    fitting, bad = [], []
    for image in images:
        reason = _misfit(image, kind, channels, pixel_size)
        if reason:
            bad.append(Bad((image.row,), f"`{image.paths[0]}`: {reason}"))
        else:
            fitting.append(image)
    notes = [] if pixel_size else ["The pixel size is not known."]
    sizes = sorted({image.shape[1:] for image in fitting})
    height, width = (int(np.median([image.shape[axis] for image in fitting])) for axis in (1, 2))
    if len(sizes) > 1:
        notes.append(
            f"Images have {len(sizes)} sizes, {_size(sizes[0])} to {_size(sizes[-1])}; all are resampled linearly to the median {height} x {width}."
        )
    intensity, remarks = _intensity(kind, channels, intensities)
    spec = ImageSpec(channels, kind, height, width, intensity, pixel_size, "linear" if len(sizes) > 1 else "refuse")
    return Consensus(spec, fitting, bad, (*notes, *remarks))


def _kind(images: list[Prepared], asked_channels: tuple[str, ...]) -> tuple[str, int]:
    kinds = Counter((image.dtype, image.shape[0]) for image in images)
    wanted = {kind: n for kind, n in kinds.items() if not asked_channels or kind[1] == len(asked_channels)}
    if not wanted:
        got = " or ".join(sorted({str(number) for _, number in kinds}))
        raise BenchmarkError(f"Expected images with {len(asked_channels)} channels ({', '.join(asked_channels)}), the files have {got}.")
    return max(wanted, key=lambda kind: (wanted[kind], kind))


def _channels(images: list[Prepared], number: int, asked: tuple[str, ...]) -> tuple[str, ...]:
    carried = Counter(image.channels for image in images if image.channels)
    if not carried:
        return asked or tuple(f"channel_{i + 1}" for i in range(number))
    usual = max(carried, key=lambda names: (carried[names], names))
    if asked and sorted(asked) != sorted(usual):
        raise BenchmarkError(
            f"The files name their channels {', '.join(usual)}, but {', '.join(asked)} were asked for. Leave `channels` out, or rename."
        )
    return asked or usual


def _pixel_size(images: list[Prepared], asked: float | None) -> float | None:
    carried = [image.pixel_size_um for image in images if image.pixel_size_um]
    if not carried:
        return asked
    usual = float(np.median(carried))
    if asked is not None and not math.isclose(asked, usual, rel_tol=PIXEL_SIZE_TOLERANCE):
        raise BenchmarkError(f"The files state {usual:g} um per pixel, but {asked:g} was asked for. Leave `pixel_size_um` out, or correct the files.")
    return asked or usual


def _misfit(image: Prepared, kind: str, channels: tuple[str, ...], pixel_size: float | None) -> str:
    if image.shape[0] != len(channels):
        return f"expected {len(channels)} channels ({', '.join(channels)}) like most images, got {image.shape[0]}."
    if image.dtype != kind:
        return f"expected {kind} like most images, got {image.dtype}."
    if image.channels and sorted(image.channels) != sorted(channels):
        return f"expected the channels {', '.join(channels)} like most images, got {', '.join(image.channels)}."
    if image.pixel_size_um and pixel_size and not math.isclose(image.pixel_size_um, pixel_size, rel_tol=PIXEL_SIZE_TOLERANCE):
        return f"expected {pixel_size:g} um per pixel like most images, got {image.pixel_size_um:g}."
    return ""


def _intensity(kind: str, channels: tuple[str, ...], intensities: Intensities) -> tuple[tuple[tuple[float, float], ...], list[str]]:
    if kind == "uint8":
        return tuple((0.0, 255.0) for _ in channels), []
    pairs = intensities.quantiles(kind, channels)
    flat = [name for name, (low, high) in zip(channels, pairs, strict=True) if low >= high]
    notes = [f"Intensities are scaled by each channel's {LOW:.1%} and {HIGH:.1%} quantiles over all images, taken without labels."]
    if flat:
        notes.append(f"Channel {', '.join(f'`{name}`' for name in flat)} is constant; its intensity range was widened by 1.")
    return tuple((low, high if high > low else low + 1.0) for low, high in pairs), notes


def _size(size: tuple[int, ...]) -> str:
    return " x ".join(map(str, size))

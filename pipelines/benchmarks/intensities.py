"""How bright the images of a benchmark are: quantiles over all pixels, counted in one pass and constant memory."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from registry.arrays import Ints, Pixels

#: the raw intensities that networks map to 0 and 1
LOW, HIGH = 0.001, 0.999
#: float32 is counted by its upper 20 bits: sign, exponent and 11 bits of the mantissa, 0.05 % of the value
_DROPPED_BITS = 12


@dataclass
class Intensities:
    """Counts of pixel values, apart for every dtype, number of channels and order of channel names; several threads may add.

    uint16 is counted exactly, float32 in bins of 0.05 % of the value, so that memory does not grow with the images. uint8 is not
    counted: its range is 0 to 255.
    """

    _counts: dict[tuple[str, int, tuple[str, ...]], list[Ints]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, pixels: Pixels, names: tuple[str, ...]) -> None:
        """Count the pixels (c, y, x) of one image, whose channels have these names or none."""
        dtype = pixels.dtype.name
        if dtype == "uint8":
            return
        key = (dtype, pixels.shape[0], names)
        counted = [np.unique(_to_bin(channel), return_counts=True) for channel in pixels]
        with self._lock:
            totals = self._counts.setdefault(key, [])
            if not totals:
                totals += [np.zeros(_bins(dtype), dtype=np.int64) for _ in pixels]
            for total, (bins, times) in zip(totals, counted, strict=True):
                total[bins] += times

    def quantiles(self, dtype: str, channels: tuple[str, ...]) -> list[tuple[float, float]]:
        """(LOW, HIGH) quantiles per channel of uint16 or float32 over all images of that dtype and those channels (named in any order, or unnamed).

        The quantile is the smallest value that at least that share of pixels does not exceed (numpy's "inverted_cdf").
        """
        totals = [np.zeros(_bins(dtype), dtype=np.int64) for _ in channels]
        for (kind, number, names), counts in self._counts.items():
            if kind == dtype and number == len(channels) and (not names or set(names) == set(channels)):
                for position, counted in enumerate(counts):
                    totals[channels.index(names[position]) if names else position] += counted
        return [(_quantile(total, LOW, dtype), _quantile(total, HIGH, dtype)) for total in totals]


def _bins(dtype: str) -> int:
    return 1 << (16 if dtype == "uint16" else 32 - _DROPPED_BITS)


def _to_bin(channel: Pixels) -> NDArray[np.int64]:
    """Bin numbers in the order of the values: a float's bits sort like its value once negative ones are inverted and the sign is flipped."""
    if channel.dtype.kind == "u":
        return channel.astype(np.int64)
    bits = np.ascontiguousarray(channel, dtype=np.float32).view(np.uint32)
    ordered = np.where(bits >> 31, ~bits, bits | np.uint32(1 << 31))
    return (ordered >> _DROPPED_BITS).astype(np.int64)


def _quantile(counts: Ints, share: float, dtype: str) -> float:
    cumulated = np.cumsum(counts)
    position = int(np.searchsorted(cumulated, share * cumulated[-1]))
    if dtype != "float32":
        return float(position)
    ordered = np.uint32(position << _DROPPED_BITS)
    bits = ordered & np.uint32(0x7FFFFFFF) if ordered >> 31 else ~ordered
    return float(np.array([bits], dtype=np.uint32).view(np.float32)[0])

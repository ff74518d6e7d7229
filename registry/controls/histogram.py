"""`histogram`: the share of pixels in intensity bins, whose edges are quantiles of the pooled training pixels."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from registry.arrays import Ints
from registry.controls.base import control_card
from registry.controls.network import NetworkControl
from registry.errors import InputError
from registry.representation import Batch, Facts

NAME = "histogram"
#: sixteenths, with the tails refined: in fluorescence the cells may be a few per cent of the pixels
LEVELS = (0.005, 0.02, *(i / 16 for i in range(1, 16)), 0.98, 0.995, 0.999)
#: float32 bits that are dropped when pixels are counted; the 20 kept hold whole numbers up to 4096 exactly, others to 1 in 4096
DROPPED_BITS = 12
KEYS = 1 << (32 - DROPPED_BITS)


class HistogramModule(nn.Module):
    """(n, c, y, x) raw pixels -> (n, c * (edges + 1)) shares of pixels; the bins of a channel are (-inf, e1], (e1, e2], ..., (ek, inf).

    Edges may coincide (a background of one value); the bins between them are empty in every image.
    """

    edges: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("edges", torch.zeros(channels, len(LEVELS)))

    def forward(self, pixels: Tensor) -> Tensor:
        """(n, c, y, x) -> (n, c * (edges + 1))."""
        values = pixels.flatten(2)
        above = [(values > self.edges[:, i].view(-1, 1)).to(values.dtype).mean(dim=2) for i in range(len(LEVELS))]
        everything = torch.ones_like(above[0])
        shares = [more - less for more, less in zip([everything, *above], [*above, torch.zeros_like(everything)], strict=True)]
        return torch.stack(shares, dim=2).flatten(1)


class Histogram(NetworkControl):
    """Per-channel histograms: what the distribution of brightness tells, without place.

    Args:
        facts: the benchmark's channels.
    """

    def __init__(self, facts: Facts) -> None:
        card = control_card(NAME, "Share of pixels per intensity bin and channel; bin edges are quantiles of the pooled training pixels.")
        self._histogram = HistogramModule(len(facts.image.channels))
        super().__init__(card, self._histogram, learned=("edges",))

    def fit(self, batches: Iterable[Batch]) -> None:
        """Place the edges at the LEVELS of all training pixels of a channel, in one pass and constant memory.

        Pixels are counted by the leading bits of their float32 value, so memory and result do not depend on how many
        images there are or how they are batched.

        Raises:
            InputError: there are no training images.
        """
        counts = np.zeros((self._histogram.edges.shape[0], KEYS), dtype=np.int64)
        for batch in batches:
            for channel in range(len(counts)):
                counts[channel] += np.bincount(ordered_keys(batch.pixels[:, channel]), minlength=KEYS)
        if not counts.any():
            raise InputError(f"`{NAME}`: expected at least one training image, got none. Check the split.")
        edges = np.stack([_quantiles(per_key) for per_key in counts])
        self.load_state({"edges": edges})


def ordered_keys(values: NDArray[np.float32]) -> Ints:
    """(p,) integers in the order of the float32 values: their leading bits, flipped so that negative numbers come first."""
    bits = np.ascontiguousarray(values).ravel().view(np.uint32)
    flipped = np.where(bits >> 31, ~bits, bits | np.uint32(0x80000000))
    return (flipped >> DROPPED_BITS).astype(np.int64)


def values_of_keys(keys: Ints) -> NDArray[np.float32]:
    """The float32 value of smallest magnitude with that key, the inverse of `ordered_keys`."""
    flipped = (keys << DROPPED_BITS).astype(np.uint32)
    negative = flipped < 0x80000000
    bits = np.where(negative, ~(flipped | np.uint32((1 << DROPPED_BITS) - 1)), flipped & np.uint32(0x7FFFFFFF))
    return bits.astype(np.uint32).view(np.float32)


def _quantiles(per_key: Ints) -> NDArray[np.float32]:
    """Quantiles of counted values: the smallest value whose cumulative share reaches the level (`inverted_cdf` of numpy)."""
    cumulative = np.cumsum(per_key)
    ranks = np.ceil(np.array(LEVELS) * cumulative[-1]).astype(np.int64)
    return values_of_keys(np.searchsorted(cumulative, np.maximum(ranks, 1)).astype(np.int64))

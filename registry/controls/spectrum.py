"""`spectrum`: radial power of every channel and radial coherence of every pair of channels."""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from registry.arrays import Floats
from registry.controls.base import control_card
from registry.controls.network import NetworkControl, UnitIntensity
from registry.representation import Facts

NAME = "spectrum"
#: larger images are cut into equal tiles of at most this side, whose tapered spectra are averaged (Welch 1967)
MAX_TILE_PX = 256
#: the least power, in units of the intensity range squared: far below the rounding noise of 8 bits
TINY_POWER = 1e-10


class SpectrumModule(nn.Module):
    """(n, c, y, x) raw pixels -> (n, rings * (c + pairs)): log power per channel, then coherence per pair of channels.

    Every tile is multiplied by a sine taper (Riedel and Sidorenko 1995), or the jump between opposite borders would spread over
    all frequencies. Power is |F|^2 / pixels, averaged over a ring: white noise of variance v has power v in every ring.
    Coherence is Re(F_a F_b*) averaged over the ring, over the root of the product of both powers: -1..1, with its sign.
    Rings are thirds of an octave, at least one step of the shorter side's frequency wide; the last holds the corners.
    Frequencies come from matrix products with cosine and sine matrices, because ONNX has no Fourier transform that every
    runtime carries out.
    """

    taper: Tensor
    cosine_x: Tensor
    sine_x: Tensor
    cosine_y: Tensor
    sine_y: Tensor
    ring: Tensor

    def __init__(self, facts: Facts) -> None:
        super().__init__()
        channels, height, width = facts.image.shape
        self.unit = UnitIntensity(facts)
        self.tiles = math.ceil(height / MAX_TILE_PX), math.ceil(width / MAX_TILE_PX)
        self.side = height // self.tiles[0], width // self.tiles[1]
        self.first, self.second = ([pair[i] for pair in combinations(range(channels), 2)] for i in (0, 1))
        for axis, length, kept in (("y", self.side[0], self.side[0]), ("x", self.side[1], self.side[1] // 2 + 1)):
            angle = 2 * np.pi * (np.outer(np.arange(length), np.arange(kept)) % length) / length
            self.register_buffer(f"cosine_{axis}", torch.tensor(np.cos(angle), dtype=torch.float32))
            self.register_buffer(f"sine_{axis}", torch.tensor(np.sin(angle), dtype=torch.float32))
        self.register_buffer("taper", torch.tensor(sine_taper(*self.side), dtype=torch.float32))
        self.register_buffer("ring", torch.tensor(ring_weights(*self.side) / (self.side[0] * self.side[1]), dtype=torch.float32))

    def forward(self, pixels: Tensor) -> Tensor:
        """(n, c, y, x) -> (n, rings * (c + pairs))."""
        real, imaginary = self._transform(self._cut(pixels))
        power = self._rings(real * real + imaginary * imaginary)
        # not `+ TINY_POWER`: the ONNX exporter takes so small a constant for 0 and leaves it out
        power = power.clamp(min=TINY_POWER)
        parts = [power.log()]
        if self.first:
            a, b = self.first, self.second
            product = self._rings(real[:, :, a] * real[:, :, b] + imaginary[:, :, a] * imaginary[:, :, b])
            parts.append(product / (power[:, a].sqrt() * power[:, b].sqrt()))
        return torch.cat(parts, dim=1).flatten(1)

    def _cut(self, values: Tensor) -> Tensor:
        """(n, c, y, x) -> (n, tiles, c, tile y, tile x), each tile and channel tapered, without its (tapered) mean."""
        (down, across), (height, width) = self.tiles, self.side
        values = values[:, :, : down * height, : across * width]
        values = values.reshape(-1, values.shape[1], down, height, across, width).permute(0, 2, 4, 1, 3, 5).flatten(1, 2)
        values = values - values.mean(dim=(3, 4), keepdim=True)
        mean = (values * self.taper).mean(dim=(3, 4), keepdim=True) / self.taper.mean()
        # scaled last: raw whole numbers are exact in float32, fractions of the range are not
        return (values - mean) * self.taper / self.unit.span

    def _transform(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """Real and imaginary part of the half-plane Fourier transform, (..., tile y, tile x // 2 + 1)."""
        along_x, across_x = values @ self.cosine_x, values @ self.sine_x
        real = self.cosine_y @ along_x - self.sine_y @ across_x
        return real, self.sine_y @ along_x + self.cosine_y @ across_x

    def _rings(self, values: Tensor) -> Tensor:
        """(n, tiles, k, frequencies y, x) -> (n, k, rings): means over each ring and over the tiles."""
        return values.flatten(3).mean(dim=1) @ self.ring


def sine_taper(height: int, width: int) -> Floats:
    """(height, width) half a sine wave along either axis, of mean square 1, so that the power of noise does not change."""
    y, x = (np.sin(np.pi * (np.arange(length) + 0.5) / length) for length in (height, width))
    taper: Floats = np.outer(y, x) / np.sqrt((y**2).mean() * (x**2).mean())
    return taper


def ring_edges(height: int, width: int) -> list[float]:
    """Inner radii of the rings, in steps of the shorter side's frequency (1 = one wave across it).

    Frequencies below half a step (0, and along the longer side a few more) are in none.
    """
    edges, nyquist = [0.5], min(height, width) / 2
    while edges[-1] < nyquist:
        edges.append(max(edges[-1] + 1, edges[-1] * 2 ** (1 / 3)))
    return edges[:-1] if len(edges) > 2 and edges[-1] > nyquist + 0.5 else edges


def ring_weights(height: int, width: int) -> Floats:
    """(height * (width // 2 + 1), rings) columns that sum to 1: the mean over a ring of the whole plane from its half."""
    y, x = np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None, :]
    radius = np.hypot(y, x) * min(height, width)
    mirrored = (x > 0) & (x < 0.5)
    number: NDArray[np.int64] = np.digitize(radius, ring_edges(height, width)) - 1
    weights = np.zeros((radius.size, number.max() + 1))
    inside = number.ravel() >= 0
    weights[np.flatnonzero(inside), number.ravel()[inside]] = np.where(np.broadcast_to(mirrored, radius.shape), 2.0, 1.0).ravel()[inside]
    result: Floats = weights / weights.sum(axis=0)
    return result


class Spectrum(NetworkControl):
    """Power and cross spectra: everything of second order, averaged over orientation.

    Args:
        facts: the benchmark's intensity range and image size.
    """

    def __init__(self, facts: Facts) -> None:
        card = control_card(NAME, "Log power per spatial frequency and channel, and signed coherence of every pair of channels.")
        super().__init__(card, SpectrumModule(facts))

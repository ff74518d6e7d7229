"""`intensity`: moments and quantiles of the pixels of each channel."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from registry.controls.base import control_card
from registry.controls.network import NetworkControl, UnitIntensity
from registry.representation import Facts

NAME = "intensity"
MOMENTS = ("mean", "sd", "skewness", "kurtosis")
QUANTILES = (0.0, 0.01, 0.05, 0.10, 0.25, 0.50, 0.75, 0.90, 0.95, 0.99, 1.0)
#: the least variance that divides, in units of the intensity range squared: far below one step of 8 or 16 bits
TINY_VARIANCE = 1e-12


class IntensityModule(nn.Module):
    """(n, c, y, x) raw pixels -> (n, c * 15): per channel MOMENTS, then QUANTILES.

    In units of the benchmark's intensity range. Moments are those of `scipy.stats` (population, excess kurtosis); they are
    divided by TINY_VARIANCE at least, so that a constant channel has skewness 0 and kurtosis -3; quantiles are those of
    `numpy.quantile` (linear interpolation).
    """

    def __init__(self, facts: Facts) -> None:
        super().__init__()
        self.unit = UnitIntensity(facts)
        self.last = facts.image.height * facts.image.width - 1

    def forward(self, pixels: Tensor) -> Tensor:
        """(n, c, y, x) -> (n, c * 15)."""
        values = pixels.flatten(2)
        return torch.cat([self._moments(pixels), self._quantiles(values)], dim=2).flatten(1)

    def _moments(self, pixels: Tensor) -> Tensor:
        """(n, c, y, x) raw -> (n, c, 4)."""
        rough = _mean(pixels)
        centred = pixels - rough
        # the mean of float32 pixels is off in its last digits; one more pass removes that from all moments
        remainder = _mean(centred)
        # scaled last: raw whole numbers are exact in float32, fractions of the range are not
        mean, centred = self.unit(rough + remainder), (centred - remainder) / self.unit.span
        squared = centred * centred
        variance = _mean(squared)
        # not `variance + TINY_VARIANCE`: the ONNX exporter takes so small a constant for 0 and leaves it out
        safe = variance.clamp(min=TINY_VARIANCE)
        skewness = _mean(squared * centred) / (safe * safe.sqrt())
        kurtosis = _mean(squared * squared) / (safe * safe) - 3
        return torch.cat([mean, variance.sqrt(), skewness, kurtosis], dim=2)[..., 0]

    def _quantiles(self, values: Tensor) -> Tensor:
        """(n, c, p) raw -> (n, c, 11)."""
        ordered = values.sort(dim=2).values
        found = []
        for level in QUANTILES:
            position = level * self.last
            below = int(position)
            above = min(below + 1, self.last)
            lower, upper = ordered[:, :, below], ordered[:, :, above]
            found.append(lower + (upper - lower) * (position - below))
        quantiles: Tensor = self.unit(torch.stack(found, dim=2)[..., None])[..., 0]
        return quantiles


def _mean(pixels: Tensor) -> Tensor:
    """(n, c, y, x) -> (n, c, 1, 1), row by row: a runtime that adds up a whole image in float32 loses the fourth digit of a kurtosis."""
    return pixels.mean(dim=3, keepdim=True).mean(dim=2, keepdim=True)


class Intensity(NetworkControl):
    """Moments and quantiles of each channel: what brightness alone tells.

    Args:
        facts: the benchmark's intensity range and image size.
    """

    def __init__(self, facts: Facts) -> None:
        card = control_card(NAME, "Mean, spread, skewness, kurtosis and quantiles of the pixels of each channel.")
        super().__init__(card, IntensityModule(facts))

"""`pixels-pca`: principal components of shrunken images."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from registry.arrays import Floats
from registry.controls.base import control_card
from registry.controls.network import NetworkControl, UnitIntensity
from registry.errors import InputError
from registry.images import resampling_matrix
from registry.representation import Batch, Facts

NAME = "pixels-pca"
MAX_SIDE_PX = 32
#: values of one shrunken image, over all channels; the covariance has its square
MAX_VALUES = 2048
COMPONENTS = 64


class PixelsPcaModule(nn.Module):
    """(n, c, y, x) raw pixels -> (n, components): shrink, subtract the training mean, project.

    Images are shrunk to at most MAX_SIDE_PX per side (halved until all channels together have at most MAX_VALUES values) by the
    antialiased linear resampling of `registry.images`, never enlarged.
    """

    rows: Tensor
    columns: Tensor
    mean: Tensor
    components: Tensor

    def __init__(self, facts: Facts) -> None:
        super().__init__()
        channels, height, width = facts.image.shape
        side = shrunken_side(channels)
        self.unit = UnitIntensity(facts)
        rows, columns = resampling_matrix(height, min(side, height)), resampling_matrix(width, min(side, width))
        self.register_buffer("rows", torch.tensor(rows))
        self.register_buffer("columns", torch.tensor(columns.T.copy()))
        values = channels * len(rows) * len(columns)
        self.register_buffer("mean", torch.zeros(values))
        self.register_buffer("components", torch.zeros(min(COMPONENTS, values), values))

    def forward(self, pixels: Tensor) -> Tensor:
        """(n, c, y, x) -> (n, components)."""
        return (self.shrink(pixels) - self.mean) @ self.components.T

    def shrink(self, pixels: Tensor) -> Tensor:
        """(n, c, y, x) -> (n, values) in units of the intensity range."""
        shrunk: Tensor = self.rows @ self.unit(pixels) @ self.columns
        return shrunk.flatten(1)


def shrunken_side(channels: int) -> int:
    """Side in pixels of the shrunken images: 32 for one and two channels, 16 for three to eight, then less."""
    side = MAX_SIDE_PX
    while side > 1 and channels * side * side > MAX_VALUES:
        side //= 2
    return side


@dataclass
class Scatter:
    """Mean and scatter of vectors that arrive in batches, in float64 and constant memory (Chan, Golub and LeVeque 1983).

    Attributes:
        count: vectors so far.
        mean: (d,) their mean.
        scatter: (d, d) sum of outer products of their deviations from the mean.
    """

    count: int
    mean: Floats
    scatter: Floats

    def add(self, values: NDArray[np.float32]) -> None:
        """Take in (n, d) more vectors."""
        exact = values.astype(np.float64)
        mean = exact.mean(axis=0)
        centred, shift = exact - mean, mean - self.mean
        total = self.count + len(exact)
        self.scatter += centred.T @ centred + np.outer(shift, shift) * (self.count * len(exact) / total)
        self.mean = self.mean + shift * (len(exact) / total)
        self.count = total

    def components(self, number: int) -> Floats:
        """(number, d) principal axes by falling variance; the largest entry of each is positive; zeros beyond the rank."""
        from scipy.linalg import eigh

        d = len(self.mean)
        variance, axes = eigh(self.scatter, subset_by_index=(d - number, d - 1))
        variance, axes = variance[::-1], axes[:, ::-1].T
        sign = np.sign(axes[np.arange(number), np.abs(axes).argmax(axis=1)])
        kept = variance > 1e-10 * max(variance[0], np.finfo(np.float64).tiny)
        result: Floats = axes * (sign * kept)[:, None]
        return result


class PixelsPca(NetworkControl):
    """Principal components of shrunken images: what is linear in blurred pixels.

    Args:
        facts: the benchmark's intensity range and image size.
    """

    def __init__(self, facts: Facts) -> None:
        card = control_card(NAME, f"The first {COMPONENTS} principal components of images shrunk to at most {MAX_SIDE_PX} x {MAX_SIDE_PX} pixels.")
        self._pca = PixelsPcaModule(facts)
        super().__init__(card, self._pca, learned=("mean", "components"))

    def fit(self, batches: Iterable[Batch]) -> None:
        """Mean and components of the training images, exactly, in one pass and constant memory.

        Raises:
            InputError: fewer than two training images.
        """
        d = len(self._pca.mean)
        scatter = Scatter(0, np.zeros(d), np.zeros((d, d)))
        for batch in batches:
            with torch.no_grad():
                scatter.add(self._pca.shrink(torch.from_numpy(batch.pixels)).numpy())
        if scatter.count < 2:
            raise InputError(f"`{NAME}`: expected at least two training images, got {scatter.count}. Check the split.")
        components = scatter.components(len(self._pca.components))
        self.load_state({"mean": scatter.mean.astype(np.float32), "components": components.astype(np.float32)})

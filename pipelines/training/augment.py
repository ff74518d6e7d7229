"""Random views of images that leave what they show unchanged, on whole batches at once."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from registry.errors import ParamsError

#: smallest transmitted light, so that its optical density is finite
DARKEST = 1.0 / 255.0


@dataclass(frozen=True)
class Augmentation:
    """How views are drawn; every image of a batch gets its own.

    Attributes:
        crop_px: side of a random square crop; 0 keeps the whole image.
        rotate: rotations by multiples of 90 degrees, which need no interpolation.
        mirror: reflections. They make handedness unlearnable by construction: never where chirality may matter.
        roll: shifts that wrap around, for images of a torus.
        gain_sd: standard deviation of the log of a factor per image and channel on the light (fluorescence).
        density_sd: the same on the optical density (stained tissue in transmitted light).
    """

    crop_px: int = 0
    rotate: bool = True
    mirror: bool = False
    roll: bool = False
    gain_sd: float = 0.0
    density_sd: float = 0.0

    def __post_init__(self) -> None:
        if self.crop_px < 0 or self.gain_sd < 0 or self.density_sd < 0:
            raise ParamsError(f"Expected `crop_px`, `gain_sd` and `density_sd` of at least 0, got {self.crop_px}, {self.gain_sd}, {self.density_sd}.")


def view(images: Tensor, how: Augmentation, generator: torch.Generator) -> Tensor:
    """One random view of each image.

    Args:
        images: (n, c, y, x) intensities, 0..1.
        how: what is varied.
        generator: on the CPU; the same state gives the same views.

    Returns:
        (n, c, y, x), or (n, c, crop, crop).

    Raises:
        ParamsError: the crop is larger than the image, or a rotation would need square images.
    """
    n, _, height, width = images.shape
    if how.crop_px > min(height, width):
        raise ParamsError(f"Expected a crop of at most {min(height, width)} px, got {how.crop_px}.")
    if how.rotate and not how.crop_px and height != width:
        raise ParamsError(f"Images of {height} x {width} px cannot be rotated by 90 degrees as they are. Set `crop_px` or `rotate: false`.")
    rows = _positions(n, height, how.crop_px or height, how.roll, generator)
    columns = _positions(n, width, how.crop_px or width, how.roll, generator)
    if how.mirror:
        flipped = torch.rand(n, generator=generator) < 0.5
        columns = torch.where(flipped[:, None], columns.flip(1), columns)
    images = images[torch.arange(n)[:, None, None], :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
    if how.rotate:
        images = _rotated(images, generator)
    if how.gain_sd:
        images = images * _factors(images, how.gain_sd, generator)
    if how.density_sd:
        images = images.clamp(DARKEST, 1.0) ** _factors(images, how.density_sd, generator)
    return images.contiguous()


def _positions(n: int, size: int, kept: int, roll: bool, generator: torch.Generator) -> Tensor:
    """(n, kept) positions along one axis: a random start for each image, around the edge if it is a torus."""
    starts = torch.randint(0, size if roll else size - kept + 1, (n, 1), generator=generator)
    return (starts + torch.arange(kept)) % size


def _rotated(images: Tensor, generator: torch.Generator) -> Tensor:
    quarter = torch.randint(0, 4, (len(images),), generator=generator)
    rotated = torch.empty_like(images, memory_format=torch.contiguous_format)
    for turns in range(4):
        chosen = quarter == turns
        rotated[chosen] = torch.rot90(images[chosen], turns, dims=(2, 3))
    return rotated


def _factors(images: Tensor, sd: float, generator: torch.Generator) -> Tensor:
    """(n, c, 1, 1) log-normal factors."""
    return torch.exp(sd * torch.randn((*images.shape[:2], 1, 1), generator=generator))

"""The product's own small convolutional networks: a few ten thousand parameters, trained in seconds on a CPU."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

#: output channels of the stages of each network; every stage halves the image, and the last width is the embedding's dimension
WIDTHS = {"small": (16, 32, 64, 128)}
#: side of the square of neighbouring pixels that become channels of one position
SQUARE = 2


class SmallCnn(nn.Module):
    """Squares of 2 x 2 pixels as channels, then stages of 3 x 3 convolution, BatchNorm, ReLU and 2 x 2 average pooling, then the mean.

    The first convolution thus sees 6 x 6 pixels, loses none of them, and works at half the resolution: three times as fast as one
    at full resolution. Average pooling keeps the phase of fine texture from aliasing, and reflection needs no weights: a
    network that is blind to mirror images could not learn handedness, so nothing here is symmetric by construction.

    Args:
        channels: input channels.
        widths: output channels of each stage.
    """

    def __init__(self, channels: int, widths: tuple[int, ...]) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for before, after in zip((channels * SQUARE**2, *widths), widths, strict=False):
            layers += [nn.Conv2d(before, after, 3, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU(), nn.AvgPool2d(2, ceil_mode=True)]
        self.stages = nn.Sequential(*layers[:-1])
        self.num_features = widths[-1]

    def forward(self, pixels: Tensor) -> Tensor:
        """(n, c, y, x) to (n, d)."""
        height, width = pixels.shape[-2:]
        # an odd side is repeated at its end
        even = functional.pad(pixels, (0, width % SQUARE, 0, height % SQUARE), mode="replicate")
        features: Tensor = self.stages(functional.pixel_unshuffle(even, SQUARE))
        return features.mean(dim=(2, 3))

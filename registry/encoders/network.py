"""From raw pixels to one vector: preprocessing and backbone in one module that can be exported."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn

from registry.cards import EncoderCard
from registry.encoders.architecture import Architecture
from registry.errors import CardError
from registry.images import ImageSpec, resampling_matrix


class EncoderNetwork(nn.Module):
    """Raw pixels (n, c, y, x) float32 to embeddings (n, d) float32.

    In order: intensities to 0..1 by the ImageSpec, antialiased linear resize to the card's `input_px` (two constant
    matrix products, so that it is the same everywhere), the card's channel strategy, the card's normalisation,
    the backbone and its pooling. The pooling is the backbone's own where it pools a map of features (average
    pooling in convolutional networks); where it yields tokens, the mean over all tokens that stand for patches.

    Args:
        card: architecture, channel strategy, size and normalisation.
        image: what every image looks like; fixes the input's shape but for n.

    Raises:
        CardError: the card's normalisation does not fit the channels, or the backbone cannot take this image size.
        NotFoundError: the card's architecture is unknown.
    """

    scale_by: Tensor
    offset: Tensor
    mean: Tensor
    std: Tensor
    rows: Tensor
    columns: Tensor

    def __init__(self, card: EncoderCard, image: ImageSpec, backbone: nn.Module | None = None) -> None:
        super().__init__()
        architecture = Architecture.parse(card.architecture)
        self.input_shape = image.shape
        self.each = card.channel_strategy == "each"
        self.backbone_channels = backbone_channels(card, image)
        backbone = architecture.build(self.backbone_channels) if backbone is None else backbone
        # channels last in memory: convolutions are up to twice as fast on a CPU, and the numbers are those of the layout
        self.backbone = backbone.to(memory_format=torch.channels_last)
        low = torch.tensor([pair[0] for pair in image.intensity], dtype=torch.float32).view(-1, 1, 1)
        high = torch.tensor([pair[1] for pair in image.intensity], dtype=torch.float32).view(-1, 1, 1)
        self._constant("offset", low)
        self._constant("scale_by", 1.0 / (high - low))
        self._constant("mean", _per_channel(card, "mean", self.backbone_channels))
        self._constant("std", _per_channel(card, "std", self.backbone_channels))
        size = (card.input_px, card.input_px) if card.input_px else (image.height, image.width)
        self.resized = size != (image.height, image.width)
        if self.resized:
            self._constant("rows", torch.from_numpy(resampling_matrix(image.height, size[0]).copy()))
            self._constant("columns", torch.from_numpy(resampling_matrix(image.width, size[1]).T.copy()))
        self.tokens = False
        self.prefix_tokens = 0
        self.dim = self._probe(card, size)
        self.eval()

    def _constant(self, name: str, value: Tensor) -> None:
        # not persistent: these follow from card and ImageSpec, the state dict is the backbone's alone
        self.register_buffer(name, value.to(torch.float32), persistent=False)

    def _probe(self, card: EncoderCard, size: tuple[int, int]) -> int:
        """Run one black image through the backbone: learns its kind of output and d, and refuses a size it cannot take."""
        self.backbone.eval()
        zeros = torch.zeros((1, self.backbone_channels, *size), device="cpu")
        try:
            with torch.no_grad():
                if hasattr(self.backbone, "num_prefix_tokens") and hasattr(self.backbone, "forward_features"):
                    self.tokens = self._features(zeros).ndim == 3
                    self.prefix_tokens = int(cast(int, self.backbone.num_prefix_tokens))
                vector = self.vectors(self.normalise(torch.zeros((1, *self.input_shape))))
        except (AssertionError, RuntimeError, ValueError, IndexError) as error:
            raise CardError(
                f"`{card.architecture}` cannot take {self.backbone_channels} channels of {size[0]} x {size[1]} pixels ({error})."
                f" Set `input_px` of `{card.name}` to a size it takes, or add an option such as `?img_size={size[0]}`."
            ) from error
        if vector.ndim != 2:
            raise CardError(f"`{card.architecture}` gives shape {tuple(vector.shape)}; expected one vector for each image.")
        return int(vector.shape[1])

    def to_unit(self, pixels: Tensor) -> Tensor:
        """Raw pixels (n, c, y, x) to 0..1 by the ImageSpec's intensities; nothing is clipped."""
        return (pixels - self.offset) * self.scale_by

    def normalise(self, images: Tensor) -> Tensor:
        """0..1 intensities (n, c, y, x) to what the backbone sees: (n, c, ...), or under `each` (n * c, backbone channels, ...)."""
        if self.resized:
            images = self.rows @ images @ self.columns
        if self.each:
            height, width = images.shape[-2:]
            images = images.reshape(-1, 1, height, width).expand(-1, self.backbone_channels, -1, -1)
        return (images - self.mean) / self.std

    def preprocess(self, pixels: Tensor) -> Tensor:
        """Raw pixels (n, c, y, x) to what the backbone sees."""
        return self.normalise(self.to_unit(pixels))

    def vectors(self, inputs: Tensor) -> Tensor:
        """What `preprocess` gives to (n, d)."""
        inputs = inputs.contiguous(memory_format=torch.channels_last)
        if self.tokens:
            vectors = self._features(inputs)[:, self.prefix_tokens :].mean(dim=1)
        else:
            vectors = self.backbone(inputs)
        if self.each:
            vectors = vectors.reshape(-1, self.input_shape[0] * vectors.shape[1])
        return vectors

    def _features(self, inputs: Tensor) -> Tensor:
        forward = cast("Callable[[Tensor], Tensor]", self.backbone.forward_features)
        return forward(inputs)

    def forward(self, pixels: Tensor) -> Tensor:
        """(n, c, y, x) float32 raw intensities to (n, d)."""
        return self.vectors(self.preprocess(pixels))


def backbone_channels(card: EncoderCard, image: ImageSpec) -> int:
    """Input channels of the card's backbone on these images."""
    return len(image.channels) if card.channel_strategy == "native" else Architecture.parse(card.architecture).default_channels()


def batch_norms(network: nn.Module) -> dict[str, nn.modules.batchnorm._BatchNorm]:
    """The BatchNorm layers that keep running statistics, by name."""
    kind = nn.modules.batchnorm._BatchNorm
    return {name: layer for name, layer in network.named_modules() if isinstance(layer, kind) and layer.track_running_stats}


def _per_channel(card: EncoderCard, field: str, channels: int) -> Tensor:
    values: tuple[float, ...] = getattr(card, field)
    if len(values) not in (1, channels):
        raise CardError(f"`{card.name}`: expected one `{field}` or one for each of the backbone's {channels} channels, got {len(values)}.")
    return torch.tensor(values, dtype=torch.float32).view(-1, 1, 1)

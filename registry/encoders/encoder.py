"""A network as a representation: where it runs, at which precision, and how its BatchNorm is calibrated."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from registry.arrays import Embedding, PixelBatch
from registry.cards import EncoderCard
from registry.encoders.network import EncoderNetwork, batch_norms
from registry.errors import BlankslideError, CardError, ParamsError, ProviderError
from registry.representation import Batch, State

DEVICES = ("cpu", "cuda")
PRECISIONS = ("float32", "amp-bfloat16", "amp-float16")
#: images per forward pass of a calibration: part of the frozen recipe, the statistics depend on it
CALIBRATION_BATCH = 32


@dataclass(frozen=True)
class Placement:
    """Where and how precisely networks compute.

    Attributes:
        device: "cpu" or "cuda".
        precision: "float32", or "amp-bfloat16"/"amp-float16" for automatic mixed precision of the backbone;
            preprocessing and the embedding itself are always float32.
    """

    device: str = "cpu"
    precision: str = "float32"

    def __post_init__(self) -> None:
        if self.device not in DEVICES:
            raise ParamsError(f"Expected device {' or '.join(DEVICES)}, got `{self.device}`.")
        if self.precision not in PRECISIONS:
            raise ParamsError(f"Expected precision {', '.join(PRECISIONS)}, got `{self.precision}`.")
        if (self.device, self.precision) == ("cpu", "amp-float16"):
            raise ParamsError("Precision `amp-float16` needs device `cuda`; on a CPU use `amp-bfloat16` or `float32`.")

    def resolve(self) -> torch.device:
        """The torch device.

        Raises:
            ProviderError: CUDA was asked for and is not there. Nothing falls back silently.
        """
        if self.device == "cuda" and not torch.cuda.is_available():
            raise ProviderError("Device `cuda` was asked for, but torch finds no CUDA device here. Check the driver, or set `extract.device: cpu`.")
        if self.device == "cuda":
            # TF32 keeps 10 bits: what is called float32 would differ from what is served
            torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
        return torch.device(self.device)

    def describe(self) -> str:
        """The device by name: `cpu`, or `cuda:` and what the card calls itself."""
        return f"cuda:{torch.cuda.get_device_name()}" if self.device == "cuda" else "cpu"


class TorchEncoder:
    """A network as a `Representation`.

    Args:
        card: its facts.
        network: raw pixels to vectors.
        placement: where it runs.
        calibrate: re-estimate BatchNorm's statistics on training images, without labels: the cumulative average over at
            most `fit_images` of them in index order, in batches of 32 (a last, smaller batch is left out).

    Raises:
        CardError: a calibration of a network without BatchNorm.
        ProviderError: the device is not there.
    """

    #: how many training images a calibration looks at; whoever calls `fit` spreads them over the training images
    fit_images: ClassVar[int] = 256

    def __init__(self, card: EncoderCard, network: EncoderNetwork, placement: Placement | None = None, calibrate: bool = False) -> None:
        self.card = card
        self.placement = placement or Placement()
        self.fitted = calibrate
        self._device = self.placement.resolve()
        self._network = network.eval().to(self._device)
        if calibrate and not batch_norms(network):
            raise CardError(f"`{card.architecture}` has no BatchNorm to calibrate. Leave out its `calibrated` twins.")

    def embed(self, batch: Batch) -> Embedding:
        """(n, d) float32."""
        with torch.inference_mode():
            return self._vectors(self._pixels(batch)).float().cpu().numpy()

    def _pixels(self, batch: Batch) -> Tensor:
        """The batch on this device; a card gets it once for all the encoders of a pass."""
        if self._device.type == "cpu":
            return self._to_device(batch.pixels)
        name = str(self._device)
        if name not in batch.elsewhere:
            batch.elsewhere[name] = self._to_device(batch.pixels)
        pixels: Tensor = batch.elsewhere[name]
        return pixels

    def _to_device(self, pixels: PixelBatch) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(pixels, dtype=np.float32)).to(self._device)

    def _vectors(self, pixels: Tensor) -> Tensor:
        inputs = self._network.preprocess(pixels)
        mixed = self.placement.precision.removeprefix("amp-")
        context = nullcontext() if mixed == "float32" else torch.autocast(self._device.type, dtype=getattr(torch, mixed))
        with context:
            return self._network.vectors(inputs)

    def fit(self, batches: Iterable[Batch]) -> None:
        """Re-estimate BatchNorm's running statistics; nothing else changes, and nothing at all unless `calibrate` was asked for.

        Raises:
            BlankslideError: there are no images.
        """
        if not self.fitted:
            return
        layers = list(batch_norms(self._network).values())
        momenta = [layer.momentum for layer in layers]
        for layer in layers:
            layer.reset_running_stats()
            layer.momentum = None  # torch then keeps the cumulative average
            layer.train()
        seen = 0
        with torch.inference_mode():
            for pixels in _rebatched(batches, CALIBRATION_BATCH, self.fit_images):
                self._network(self._to_device(pixels))
                seen += len(pixels)
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum = momentum
            layer.eval()
        if not seen:
            raise BlankslideError(f"`{self.card.name}`: there is no training image to calibrate on. Check the folds of the benchmark.")

    def state(self) -> dict[str, NDArray[np.float32]]:
        """BatchNorm's running means and variances by layer, if they were calibrated; {} otherwise."""
        if not self.fitted:
            return {}
        return {
            f"{name}.{buffer}": getattr(layer, buffer).cpu().numpy().copy()
            for name, layer in batch_norms(self._network).items()
            for buffer in ("running_mean", "running_var")
        }

    def load_state(self, state: State) -> None:
        """Restore what `state` gave.

        Raises:
            CardError: the state belongs to another network.
        """
        expected = self.state()
        if {name: value.shape for name, value in expected.items()} != {name: value.shape for name, value in state.items()}:
            raise CardError(f"`{self.card.name}`: the stored BatchNorm statistics belong to another network. Extract it again.")
        for name, layer in batch_norms(self._network).items() if self.fitted else ():
            for buffer in ("running_mean", "running_var"):
                getattr(layer, buffer).copy_(torch.from_numpy(np.asarray(state[f"{name}.{buffer}"])))

    def network(self) -> EncoderNetwork:
        """The whole computation on raw pixels (n, c, y, x) float32."""
        return self._network

    def unservable(self) -> str:
        """Always empty: every network here can be exported."""
        return ""


def _rebatched(batches: Iterable[Batch], size: int, limit: int) -> Iterator[PixelBatch]:
    """The first `limit` images in arrays of exactly `size`; what is left over counts only if there is nothing else."""
    held: list[NDArray[np.float32]] = []
    taken = 0
    for batch in batches:
        for image in batch.pixels[: limit - taken]:
            held.append(image)
            if len(held) == size:
                yield np.stack(held)
                held = []
        taken += min(len(batch.pixels), limit - taken)
        if taken >= limit:
            break
    if held and taken < size:
        yield np.stack(held)

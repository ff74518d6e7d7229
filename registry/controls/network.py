"""Controls whose whole computation is a torch module on raw pixels, so that offline, exported and served are one."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from registry.arrays import Embedding
from registry.cards import EncoderCard
from registry.errors import InputError
from registry.representation import Batch, Facts, State


class UnitIntensity(nn.Module):
    """Map raw intensities to 0..1 per channel by the benchmark's stated range; nothing is clipped.

    Args:
        facts: its ImageSpec states (low, high) for every channel.
    """

    low: Tensor
    span: Tensor

    def __init__(self, facts: Facts) -> None:
        super().__init__()
        low, high = np.array(facts.image.intensity, dtype=np.float64).T
        self.register_buffer("low", torch.tensor(low, dtype=torch.float32).view(-1, 1, 1))
        self.register_buffer("span", torch.tensor(high - low, dtype=torch.float32).view(-1, 1, 1))

    def forward(self, pixels: Tensor) -> Tensor:
        """(n, c, y, x) raw -> (n, c, y, x) in units of the range."""
        return (pixels - self.low) / self.span


class NetworkControl:
    """A control that is a torch module; what `fit` learns, if anything, lives in the module's buffers.

    Args:
        card: its facts.
        module: raw pixels (n, c, y, x) float32 -> (n, d) float32.
        learned: names of the buffers that `fit` fills; () if nothing is fitted.
    """

    def __init__(self, card: EncoderCard, module: nn.Module, learned: tuple[str, ...] = ()) -> None:
        self.card = card
        self.fitted = bool(learned)
        self._module = module.eval()
        self._learned = learned
        self._ready = not learned

    def fit(self, batches: Iterable[Batch]) -> None:
        """Nothing is learned; the batches are not read."""

    def embed(self, batch: Batch) -> Embedding:
        """(n, d) float32: the module that is exported, run by torch."""
        with torch.no_grad():
            values: Embedding = self._prepared()(torch.from_numpy(batch.pixels)).numpy()
        return values

    def state(self) -> dict[str, NDArray[np.float32]]:
        """The learned buffers by name."""
        return {name: self._prepared().get_buffer(name).numpy().copy() for name in self._learned}

    def load_state(self, state: State) -> None:
        """Restore the learned buffers.

        Raises:
            InputError: other names or shapes than this control has.
        """
        expected = {name: tuple(self._module.get_buffer(name).shape) for name in self._learned}
        came = {name: tuple(value.shape) for name, value in state.items()}
        if came != expected:
            raise InputError(f"`{self.card.name}`: expected a state of shapes {expected}, got {came}. Load the state of this control and benchmark.")
        for name, value in state.items():
            self._module.get_buffer(name).copy_(torch.from_numpy(np.array(value, dtype=np.float32)))
        self._ready = True

    def network(self) -> nn.Module:
        """The module itself."""
        return self._prepared()

    def unservable(self) -> str:
        """Empty: it can be served."""
        return ""

    def _prepared(self) -> nn.Module:
        if not self._ready:
            raise InputError(f"`{self.card.name}` has not been fitted. Call `fit` with training images or `load_state` first.")
        return self._module

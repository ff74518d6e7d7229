"""What hand-made controls share: a card, and the parts of `Representation` that are the same for all of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from registry.arrays import Embedding, Floats
from registry.cards import EncoderCard
from registry.errors import InputError
from registry.representation import Batch, Facts, State

if TYPE_CHECKING:
    from torch import nn


def control_card(name: str, summary: str, citation: str = "") -> EncoderCard:
    """The card of a hand-made control: a negative control that is computed, without weights."""
    return EncoderCard(name=name, role="negative", summary=summary, pooling="none", citation=citation)


class FormulaControl(ABC):
    """A control that is computed by a formula: nothing is fitted and nothing is exported.

    Args:
        card: its facts.
        facts: what is known of the benchmark.
        reason: why it cannot be served, in words.
    """

    fitted = False

    def __init__(self, card: EncoderCard, facts: Facts, reason: str) -> None:
        self.card = card
        self.facts = facts
        self._reason = reason

    @property
    @abstractmethod
    def columns(self) -> tuple[str, ...]:
        """What each of the d values is, in order."""

    @abstractmethod
    def describe(self, batch: Batch) -> Floats:
        """(n, d) values of the columns; NaN where a value is not defined is an error here."""

    def fit(self, batches: Iterable[Batch]) -> None:  # noqa: B027 - a formula has nothing to learn, which is no omission
        """Nothing is learned; the batches are not read."""

    def embed(self, batch: Batch) -> Embedding:
        """(n, d) float32, one value per column."""
        values = self.describe(batch)
        expected = (len(batch.image_ids), len(self.columns))
        if values.shape != expected or not np.isfinite(values).all():
            raise InputError(f"`{self.card.name}`: expected finite values of shape {expected}, got shape {values.shape}. Check the images.")
        return values.astype(np.float32)

    def state(self) -> dict[str, NDArray[np.float32]]:
        """Empty: nothing is learned."""
        return {}

    def load_state(self, state: State) -> None:
        """Refuse a state that belongs to something else."""
        if state:
            raise InputError(
                f"`{self.card.name}` learns nothing, got a state with {', '.join(f'`{k}`' for k in sorted(state))}. Load the row it belongs to."
            )

    def network(self) -> nn.Module | None:
        """None: a formula is not exported."""
        return None

    def unservable(self) -> str:
        """Why a new image cannot be embedded by the service."""
        return self._reason

"""The encoder card: frozen facts about an encoder or control, and the identity of a registered version."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, field
from typing import Any

from registry.errors import CardError
from registry.files import sha256_of_json
from registry.images import ImageSpec

#: architecture of a row whose vectors were made elsewhere (`registry.table`)
TABLE = "table"
NAME = re.compile(r"[a-z0-9][a-z0-9_-]*")
ROLES = ("encoder", "twin", "negative", "positive")
CHANNEL_STRATEGIES = ("native", "each")


@dataclass(frozen=True)
class EncoderCard:
    """Facts about one encoder or control, the same on every benchmark.

    Attributes:
        name: `[a-z0-9][a-z0-9_-]*`.
        role: "encoder" (on trial), "twin" (untrained or shuffled), "negative" or "positive" control.
        summary: one sentence for people.
        architecture: "timm:<tag>", "cnn:<tag>" for the product's own small networks, "formula" for a control that is computed, or
            "table" for vectors that were made elsewhere.
        weights: "trained here", "file:<name>", "hub:<tag>", "random" or "none".
        weights_sha256: of the weights' file; "" where there is none.
        channel_strategy: "native" (the network takes all channels at once) or "each" (every channel alone, repeated to
            the network's input channels, the vectors concatenated).
        input_px: side of the square the network sees; 0 = the image's own size.
        mean: subtracted from intensities scaled to 0..1 by the ImageSpec, one value for all channels or one each.
        std: divides afterwards.
        pooling: "average" or "none".
        twins: names of the rows that are its twins; only an encoder that is a table may have none, and is never promoted without.
        licence: of the weights.
        citation: how to cite it.
        training: what it was trained on and how; {} if untrained.
    """

    name: str
    role: str
    summary: str
    architecture: str = "formula"
    weights: str = "none"
    weights_sha256: str = ""
    channel_strategy: str = "native"
    input_px: int = 0
    mean: tuple[float, ...] = (0.5,)
    std: tuple[float, ...] = (0.5,)
    pooling: str = "average"
    twins: tuple[str, ...] = ()
    licence: str = "Apache-2.0"
    citation: str = ""
    training: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not NAME.fullmatch(self.name):
            raise CardError(f"Expected an encoder name like `[a-z0-9][a-z0-9_-]*`, got `{self.name}`. A timm tag belongs in `architecture`.")
        if self.role not in ROLES:
            raise CardError(f"`{self.name}`: expected a role of {', '.join(ROLES)}, got `{self.role}`.")
        if self.channel_strategy not in CHANNEL_STRATEGIES:
            raise CardError(f"`{self.name}`: expected a channel strategy of {', '.join(CHANNEL_STRATEGIES)}, got `{self.channel_strategy}`.")
        if self.role == "encoder" and not self.twins and self.architecture != TABLE:
            raise CardError(f"`{self.name}` has no twins: no encoder stands without its controls. Name its `untrained-...` row in `twins`.")
        if any(s <= 0 for s in self.std):
            raise CardError(f"`{self.name}`: expected a positive `std`, got {self.std}.")

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        value = asdict(self)
        return {**value, "mean": list(self.mean), "std": list(self.std), "twins": list(self.twins)}

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> EncoderCard:
        """The inverse of `as_dict`; unknown keys are refused."""
        unknown = sorted(set(value) - set(cls.__dataclass_fields__))
        if unknown:
            raise CardError(f"An encoder card has no field {', '.join(f'`{u}`' for u in unknown)}. Fields: {', '.join(cls.__dataclass_fields__)}.")
        tuples: dict[str, Any] = {key: tuple(value[key]) for key in ("mean", "std", "twins") if key in value}
        return cls(**(value | tuples))


def version_identity(card: EncoderCard, image: ImageSpec, weights_sha256: str, fitted_to: dict[str, str]) -> str:
    """Hex SHA-256 that identifies a registered version: card, weights and preprocessing, never scores.

    Args:
        card: facts of the encoder.
        image: what its graph takes; part of the preprocessing.
        weights_sha256: of the exported weights (the bundle's `encoder.onnx`, or the state of a fitted control; "" if none).
        fitted_to: what it was fitted to ({"benchmark": ..., "data": ..., "fold": ...}); {} when nothing was fitted here.
    """
    return sha256_of_json({"card": card.as_dict(), "image": image.as_dict(), "weights": weights_sha256, "fitted_to": fitted_to})

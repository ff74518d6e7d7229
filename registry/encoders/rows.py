"""Which members a row of networks has: the trained network, or the seeds of its twins."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from registry.cards import EncoderCard
from registry.encoders.architecture import Architecture
from registry.encoders.encoder import Placement, TorchEncoder
from registry.encoders.network import EncoderNetwork, backbone_channels, batch_norms
from registry.encoders.weights import fresh_backbone, hub_file, load_backbone, read_weights, shuffle_weights
from registry.errors import CardError
from registry.files import sha256_of_bytes
from registry.images import ImageSpec
from registry.representation import Facts, Representation

#: seeds of a twin: with ten, a table corrected for five tasks can still say `beats` at a gain of 3.4 sd
TWIN_SEEDS = 10


@dataclass(frozen=True)
class Member:
    """One draw of a row.

    Attributes:
        name: `main`, or `fresh-00`, `calibrated-00`, `shuffled-00`, ...
        make: builds it; called anew for every fold it is fitted to.
    """

    name: str
    make: Callable[[], Representation]


def untrained_card(card: EncoderCard) -> EncoderCard:
    """The twin of `card` with fresh weights: same architecture, preprocessing and pooling, named `untrained-<architecture>`."""
    return replace(
        _twin(card),
        name=f"untrained-{Architecture.parse(card.architecture).label}",
        summary=f"The network `{card.architecture}` as initialised, never trained; with its BatchNorm as initialised and calibrated.",
        weights="random",
        weights_sha256="",
        licence="Apache-2.0",
        citation="",
    )


def shuffled_card(card: EncoderCard) -> EncoderCard:
    """The twin of `card` with its own trained weights in random order within each layer, named `shuffled-<name>`."""
    return replace(
        _twin(card),
        name=f"shuffled-{card.name}",
        summary=f"The weights of `{card.name}` permuted within each layer: the same distribution of weights, nothing learned.",
    )


def _twin(card: EncoderCard) -> EncoderCard:
    if card.architecture == "formula":
        raise CardError(f"`{card.name}` is computed, not a network; it has no twins.")
    return replace(card, role="twin", twins=(), training={})


def encoder_members(
    card: EncoderCard, facts: Facts, weights: Path | None = None, placement: Placement | None = None, seeds: int = TWIN_SEEDS
) -> list[Member]:
    """The members of a row of networks, by its card.

    Trained weights (`trained here`, `file:...`, `hub:...`) give one member `main`, for a twin `shuffled-00` ...;
    random weights give `fresh-00` ... and, where the network has BatchNorm, `calibrated-00` ... from the same draws.

    Args:
        card: an encoder's, a trained control's or a twin's.
        facts: of the benchmark.
        weights: the weights' file; None for random weights or the hub's.
        placement: device and precision.
        seeds: draws of each kind of twin.

    Raises:
        CardError: not a network, or no file where one is needed.
    """
    placement = placement or Placement()
    if card.weights == "random":
        members = [Member(f"fresh-{seed:02d}", partial(_untrained, card, facts.image, placement, seed, False)) for seed in range(seeds)]
        if batch_norms(Architecture.parse(card.architecture).build(backbone_channels(card, facts.image))):
            members += [Member(f"calibrated-{seed:02d}", partial(_untrained, card, facts.image, placement, seed, True)) for seed in range(seeds)]
        return members
    if not card.weights.startswith("hub:") and weights is None:
        raise CardError(f"`{card.name}`: its weights are `{card.weights}`; expected the path of their file.")
    if card.role == "twin":
        return [Member(f"shuffled-{seed:02d}", partial(_trained, card, facts.image, weights, placement, seed)) for seed in range(seeds)]
    return [Member("main", partial(_trained, card, facts.image, weights, placement, None))]


def draw_seed(kind: str, draw: int) -> int:
    """The torch seed of one draw: hashed, so that no twin starts from the weights a training run with a small seed starts from."""
    return int(sha256_of_bytes(f"{kind}/{draw}".encode())[:12], 16)


def _untrained(card: EncoderCard, image: ImageSpec, placement: Placement, draw: int, calibrate: bool) -> TorchEncoder:
    backbone = fresh_backbone(Architecture.parse(card.architecture), backbone_channels(card, image), draw_seed("fresh", draw))
    return TorchEncoder(card, EncoderNetwork(card, image, backbone), placement, calibrate)


def _trained(card: EncoderCard, image: ImageSpec, weights: Path | None, placement: Placement, shuffle: int | None) -> TorchEncoder:
    path = weights if weights is not None else hub_file(card.weights.removeprefix("hub:"))
    tensors = read_weights(path, card.weights_sha256)
    backbone = load_backbone(Architecture.parse(card.architecture), backbone_channels(card, image), tensors, path.name)
    if shuffle is not None:
        shuffle_weights(backbone, draw_seed("shuffled", shuffle))
    return TorchEncoder(card, EncoderNetwork(card, image, backbone), placement)

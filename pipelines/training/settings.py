"""What a training run may be told, with defaults for each method on each kind of image."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from pipelines.params import parse
from pipelines.training.augment import Augmentation
from registry.errors import NotFoundError, ParamsError

METHODS = ("simclr", "weak", "supervised")


@dataclass(frozen=True)
class TrainSettings:
    """How a network is trained.

    Attributes:
        epochs: passes over the training images.
        batch: images of one step.
        learning_rate: at its peak, of AdamW.
        weight_decay: of AdamW, decoupled.
        warm_up: share of the steps in which the learning rate rises.
        labels: `weak` and `supervised`: index columns that are learned; () for all tasks of the benchmark.
        temperature: `simclr`: of the softmax over views.
        group: `simclr`: index columns; images that agree in them share a group. () mixes all images.
        groups: `simclr`: how many groups share a batch.
        augmentation: how views are drawn.
    """

    epochs: int
    batch: int
    learning_rate: float = 3e-3
    weight_decay: float = 1e-2
    warm_up: float = 0.25
    labels: tuple[str, ...] = ()
    temperature: float = 0.2
    group: tuple[str, ...] = ()
    groups: int = 0
    augmentation: Augmentation = field(default_factory=Augmentation)

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.batch < 2:
            raise ParamsError(f"Expected at least one epoch and batches of at least 2 images, got {self.epochs} and {self.batch}.")
        if bool(self.group) != bool(self.groups) or (self.groups and self.batch % self.groups):
            raise ParamsError(
                f"Expected `group` and `groups` together, and `batch` a multiple of `groups`; got {self.group}, {self.groups}, {self.batch}."
            )
        if min(self.learning_rate, self.temperature) <= 0 or self.weight_decay < 0:
            raise ParamsError("Expected a positive `learning_rate` and `temperature` and a `weight_decay` of at least 0.")
        if not 0 <= self.warm_up < 1:
            raise ParamsError(f"Expected a `warm_up` of at least 0 and below 1, got {self.warm_up}.")


def settings_for(method: str, modality: str, stated: dict[str, Any]) -> TrainSettings:
    """The defaults of a method on a kind of image, with what is stated put over them.

    Args:
        method: one of METHODS.
        modality: of the benchmark.
        stated: fields of TrainSettings; `augmentation` may state some of its fields.

    Raises:
        NotFoundError: no such method; lists them.
        ParamsError: an unknown key, a wrong type or a value out of range.
    """
    if method not in METHODS:
        raise NotFoundError("training method", method, METHODS)
    defaults = asdict(_DEFAULTS[method, "tissue" if modality == "tissue" else "cells"])
    views = stated.get("augmentation", {})
    if not isinstance(views, dict):
        raise ParamsError(f"`settings: augmentation`: expected keys and values, got {views!r}.")
    return parse(TrainSettings, {**defaults, **stated, "augmentation": {**defaults["augmentation"], **views}}, "settings")


_DEFAULTS = {
    ("simclr", "cells"): TrainSettings(8, 64, augmentation=Augmentation(crop_px=56, gain_sd=0.2)),
    ("weak", "cells"): TrainSettings(20, 16, labels=("Metadata_Treatment",)),
    ("supervised", "cells"): TrainSettings(20, 16),
    ("simclr", "tissue"): TrainSettings(
        12, 48, group=("Metadata_Patient",), groups=4, augmentation=Augmentation(crop_px=72, mirror=True, roll=True, density_sd=0.2)
    ),
    ("weak", "tissue"): TrainSettings(12, 32, labels=("Metadata_Treatment",), augmentation=Augmentation(mirror=True, density_sd=0.1)),
    ("supervised", "tissue"): TrainSettings(12, 32, augmentation=Augmentation(mirror=True, roll=True, density_sd=0.1)),
}

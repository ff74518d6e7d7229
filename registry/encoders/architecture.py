"""The architecture field of a card, parsed: which backbone is built, with which options.

`timm:mobilenetv2_100?pad_type=same&act_layer=relu` is a timm model with two keyword arguments of `timm.create_model`;
`cnn:small` is one of the product's own networks, which take no options.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from registry.errors import CardError, NotFoundError

if TYPE_CHECKING:
    from torch import nn

FAMILIES = ("timm", "cnn")
#: what `timm.create_model` is told by the product itself
RESERVED = ("pretrained", "checkpoint_path", "num_classes", "in_chans")


@dataclass(frozen=True)
class Architecture:
    """One parsed architecture.

    Attributes:
        family: "timm" or "cnn".
        tag: the model's name within the family.
        options: keyword arguments of the constructor, in the order given.
    """

    family: str
    tag: str
    options: tuple[tuple[str, bool | int | float | str], ...] = ()

    @classmethod
    def parse(cls, text: str) -> Architecture:
        """Parse "family:tag" or "family:tag?key=value&key=value"; values are read as true/false, int, float or text.

        Raises:
            CardError: another form, an option given twice or one that the product sets itself.
        """
        family, colon, rest = text.partition(":")
        tag, _, query = rest.partition("?")
        if not colon or family not in FAMILIES or not tag:
            raise CardError(f"Expected an architecture like `timm:<tag>` or `cnn:<tag>`, got `{text}`.")
        options: dict[str, bool | int | float | str] = {}
        for part in query.split("&") if query else []:
            key, equals, value = part.partition("=")
            if not equals or not key.isidentifier() or key in options:
                raise CardError(f"`{text}`: expected options like `?key=value&key=value`, each key once, got `{part}`.")
            if key in RESERVED:
                raise CardError(f"`{text}`: option `{key}` follows from the card and the images. Leave it out.")
            options[key] = _literal(value)
        if family == "cnn" and options:
            raise CardError(f"`{text}`: the product's own networks take no options.")
        return cls(family, tag, tuple(options.items()))

    @property
    def label(self) -> str:
        """The architecture as part of an encoder name: `mobilenetv2_100`, `cnn-small`."""
        tag = self.tag.split(".", 1)[0] if self.family == "timm" else f"{self.family}-{self.tag}"
        return re.sub(r"[^a-z0-9_-]", "-", tag.lower())

    def default_channels(self) -> int:
        """Input channels the backbone is made for: those of timm's pretrained configuration, 1 for the product's own."""
        if self.family == "cnn":
            return 1
        from timm.models import get_pretrained_cfg

        self._check_known()
        configuration = get_pretrained_cfg(self.tag)
        return int(configuration.input_size[0]) if configuration is not None and configuration.input_size else 3

    def normalisation(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and standard deviation that timm states with the pretrained weights; 0.5 where it states none."""
        from timm.models import get_pretrained_cfg

        configuration = get_pretrained_cfg(self.tag) if self.family == "timm" else None
        if configuration is None:
            return (0.5,), (0.5,)
        return tuple(map(float, configuration.mean)), tuple(map(float, configuration.std))

    def build(self, channels: int, classes: int = 0) -> nn.Module:
        """The backbone with fresh weights from torch's current random state; `classes` 0 leaves out the classifier.

        Raises:
            NotFoundError: no such model.
            CardError: timm refuses the options.
        """
        self._check_known()
        if self.family == "cnn":
            from registry.encoders.cnn import WIDTHS, SmallCnn

            return SmallCnn(channels, WIDTHS[self.tag])
        import timm

        options: dict[str, Any] = dict(self.options)
        try:
            return cast("nn.Module", timm.create_model(self.tag, pretrained=False, num_classes=classes, in_chans=channels, **options))
        except (TypeError, ValueError, AssertionError, RuntimeError) as error:
            raise CardError(f"timm cannot build `{self.tag}` with {channels} channels and options {options}: {error}. Correct the card.") from error

    def _check_known(self) -> None:
        if self.family == "cnn":
            from registry.encoders.cnn import WIDTHS

            if self.tag not in WIDTHS:
                raise NotFoundError("architecture", f"cnn:{self.tag}", [f"cnn:{tag}" for tag in WIDTHS])
            return
        import timm

        if not timm.is_model(self.tag):
            names = timm.list_models()
            close = difflib.get_close_matches(self.tag, names, n=8, cutoff=0.3)
            raise NotFoundError(f"timm model (closest of {len(names)})", self.tag, close)


def _literal(value: str) -> bool | int | float | str:
    if value in ("true", "false"):
        return value == "true"
    for kind in (int, float):
        try:
            return kind(value)
        except ValueError:
            continue
    return value

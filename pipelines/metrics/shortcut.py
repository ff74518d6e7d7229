"""How much of an encoder's score brightness alone explains: the share of its distance from chance that `intensity` and `histogram` reach together."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from pipelines.metrics.ceiling import share_of_gap
from pipelines.metrics.geometry import check_features
from pipelines.metrics.jackknife import ALPHA
from pipelines.metrics.statistic import Statistic
from registry.arrays import Floats
from registry.errors import InputError


@dataclass(frozen=True)
class Shortcut:
    """(shortcut - chance) / (encoder - chance).

    Attributes:
        value: the share: 0 = brightness knows nothing of it, 1 = it reaches as far as the encoder, above 1 further; smaller is better for the
            encoder. None unless its interval is narrower than 1.
        low: lower bound of the 95 % interval; None where it is not estimable.
        high: upper bound.
        note: "" or why there is no number.
    """

    value: float | None
    low: float | None
    high: float | None
    note: str

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def shortcut_features(intensity: Floats, histogram: Floats) -> Floats:
    """(n, d1 + d2) the two colour and intensity controls side by side, for the probe that scores the encoder.

    Args:
        intensity: (n, d1) finite.
        histogram: (n, d2) finite, of the same images.

    Raises:
        InputError: of different images, NaN or infinity.
    """
    intensity, histogram = check_features(intensity), check_features(histogram)
    if len(intensity) != len(histogram):
        raise InputError(f"Expected two arrays of features of the same images, got shapes {intensity.shape} and {histogram.shape}.")
    return np.concatenate([intensity, histogram], axis=1)


def shortcut_share(encoder: Statistic, shortcut: Statistic, chance: float, alpha: float = ALPHA) -> Shortcut:
    """Share of the encoder's score above chance that the shortcut reaches, with Fieller's interval (1954; as `ceiling.share_of_gap`).

    A large share does not say that the encoder uses brightness, only that brightness would do for that much of the task; what it knows beyond
    is measured in bits by `information`.

    Args:
        encoder: its probe score on a task, larger is better.
        shortcut: the same probe and metric of `shortcut_features`, on the same images.
        chance: the score of knowing nothing.
        alpha: one-sided level.

    Returns:
        "not estimable" where the units do not carry an interval, or the encoder is not clearly above chance.

    Raises:
        InputError: scored on different images, or chance is not finite.
    """
    if not np.isfinite(chance):
        raise InputError(f"Expected a finite chance level, got {chance}.")
    floor = Statistic(chance, encoder.units, np.full(encoder.n_units, chance), encoder.share, encoder.n_images, encoder.class_in_units)
    found = share_of_gap(shortcut, floor, encoder, "chance", "the encoder", alpha)
    if found.low is None:
        reason = found.note.removeprefix("not assessable: ")
        if reason.startswith("ceiling not above floor"):
            reason = "the encoder is not clearly above chance"
        return Shortcut(None, None, None, f"not estimable: {reason}")
    note = "" if found.value is not None else "the interval is wider than the encoder's whole distance from chance"
    return Shortcut(found.value, found.low, found.high, note)

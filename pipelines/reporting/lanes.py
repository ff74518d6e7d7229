"""Plots whose lines are rows of an HTML table: each row holds one strip ("lane") of an axis they all share.

Such a plot is readable as a table, prints, follows light and dark, and keeps its text legible on a phone, where a
scaled-down picture does not. Positions are percentages of the lane's width.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

#: share of the axis that stays empty at either end
PADDING = 0.04


@dataclass(frozen=True)
class Tick:
    """A labelled position on an axis."""

    label: str
    at: str


@dataclass(frozen=True)
class Lane:
    """One row of a plot, in percent of the lane's width.

    Attributes:
        point: the value.
        start: left end of the interval; "" where there is none.
        width: of the interval; "" likewise.
        peak: the point in percent of the interval's width; "" likewise.
    """

    point: str
    start: str = ""
    width: str = ""
    peak: str = ""


@dataclass(frozen=True)
class Axis:
    """A linear axis from `low` to `high` in the unit of the values."""

    low: float
    high: float

    @classmethod
    def around(cls, values: Iterable[float | None]) -> Axis:
        """The axis that shows all of `values` (None is left out), with padding; at least 0.1 long."""
        known = [v for v in values if v is not None]
        low, high = (min(known), max(known)) if known else (0.0, 1.0)
        missing = max(0.1 - (high - low), 0.0) / 2
        low, high = low - missing, high + missing
        return cls(low - PADDING * (high - low), high + PADDING * (high - low))

    def at(self, value: float) -> str:
        """Position of `value`, clipped to the axis."""
        return _percent(100 * min(max((value - self.low) / (self.high - self.low), 0.0), 1.0))

    def span(self, low: float, high: float) -> tuple[str, str]:
        """(start, width) of the stretch from `low` to `high`."""
        start, end = float(self.at(low)[:-1]), float(self.at(high)[:-1])
        return _percent(start), _percent(end - start)

    def lane(self, value: float, low: float | None = None, high: float | None = None) -> Lane:
        """The lane of a value with its interval."""
        if low is None or high is None:
            return Lane(self.at(value))
        start, width = self.span(low, high)
        peak = 100 * min(max((value - low) / (high - low), 0.0), 1.0) if high > low else 50.0
        return Lane(self.at(value), start, width, f"{peak:.1f}")

    def ticks(self, signed: bool = False) -> list[Tick]:
        """Three to six ticks at round numbers."""
        step = _round_step((self.high - self.low) / 6)
        digits = max(0, -math.floor(math.log10(step) + 1e-9))
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [Tick(_label(i * step, digits, signed), self.at(i * step)) for i in range(first, last + 1)]


def _round_step(at_least: float) -> float:
    """The smallest of 1, 2, 5 x a power of ten that is not below `at_least`."""
    magnitude: float = 10.0 ** math.floor(math.log10(at_least))
    return next((magnitude * m for m in (1, 2, 5) if magnitude * m >= at_least * (1 - 1e-9)), magnitude * 10)


def _label(value: float, digits: int, signed: bool) -> str:
    text = f"{abs(value):.{digits}f}"
    if float(text) == 0:
        return "0"
    return f"−{text}" if value < 0 else f"+{text}" if signed else text


def _percent(value: float) -> str:
    return f"{value:.2f}%"

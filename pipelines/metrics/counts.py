"""How often something is drawn, and how many of something are taken."""

from __future__ import annotations

from registry.errors import InputError


def check_count(value: int, what: str, least: int = 1, *, instead: str) -> None:
    """Without draws a p-value is 1 and a mean is NaN, and neither says that nothing was drawn.

    Args:
        value: the number given.
        what: it is of, for the error.
        least: that makes sense.
        instead: the next step, for the error.

    Raises:
        InputError: fewer than that.
    """
    if not value >= least:
        raise InputError(f"Expected {what} of at least {least}, got {value}. {instead}")

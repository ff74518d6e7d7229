"""Names as text: units, groups, labels and what profiles are told apart by."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from registry.errors import InputError


def whole_names(values: ArrayLike, what: str, missing: str | None = None) -> NDArray[np.str_]:
    """(n,) names as text, each in full.

    pandas' own `to_numpy(np.str_)` cuts every name of a text column that lacks some to its first letter, and NumPy calls what lacks a name
    "nan" or "None", as if it were one.

    Args:
        values: n names: text, numbers, None, NaN.
        what: they are, for the error.
        missing: stands for a name that is missing; None = there must be none.

    Raises:
        InputError: a name is missing and nothing stands for it.
    """
    if isinstance(values, np.ndarray) and values.dtype.kind == "U":
        return values
    found = np.asarray(values, dtype=object)
    lacking = np.array([_is_missing(value) for value in found.ravel()], dtype=bool).reshape(found.shape)
    if lacking.any():
        if missing is None:
            first = int(np.flatnonzero(lacking)[0])
            raise InputError(f"Expected a name for each of {found.size} {what}, got none for {lacking.sum()}, the first at {first}. Leave those out.")
        found = np.where(lacking, missing, found)
    return np.asarray(found, dtype=np.str_)


def _is_missing(value: object) -> bool:
    try:
        return value is None or bool(value != value)
    except TypeError:  # pandas' NA does not say whether it is another
        return True

"""In which places, such as wells of a plate, profiles lie: whether two of them share one, asked of many pairs at once.

A profile is a mean over wells and keeps a trace of each, so that two share a place where any well of the one lies where any well of the other does.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from registry.arrays import Ints, Mask
from registry.errors import InputError


def packed_places(places: Mask, n: int) -> NDArray[np.uint64]:
    """(n, w / 64) places as bits.

    Args:
        places: (n, w) in which places a profile lies.
        n: profiles.

    Raises:
        InputError: places of another shape.
    """
    places = np.asarray(places, dtype=bool)
    if places.ndim != 2 or len(places) != n:
        raise InputError(f"Expected a row of places for each of {n} profiles, got shape {places.shape}.")
    bits = np.packbits(np.pad(places, ((0, 0), (0, -places.shape[1] % 64))), axis=1)
    return np.ascontiguousarray(bits).view(np.uint64)


def together(packed: NDArray[np.uint64], first: Ints, second: Ints) -> Mask:
    """Whether two profiles share a place, or one of them lies nowhere that is known, for each pair of `first` and `second`.

    Args:
        packed: from `packed_places`.
        first: profiles; any shape that fits that of `second`.
        second: profiles.
    """
    nowhere = np.asarray(~packed.any(axis=1))
    found = nowhere[first] | nowhere[second]
    for bits in packed.T:
        found |= (bits[first] & bits[second]) != 0
    return np.asarray(found)

"""Is there anything in an embedding: effective rank, collapse, and which columns vary at all.

Reference metrics give a collapsed or scalar "encoder" a perfect retrieval score by how they break ties, so every score of this
project is computed tie-aware and carries these flags.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from registry.arrays import Floats, Mask
from registry.errors import InputError

#: fewer effective dimensions than this and a row is flagged `low_rank`
MIN_RANK = 3.0
#: squared distances closer than this share of the largest squared norm (but for profiles far out) are ties: far above rounding, far below a real gap
TIE = 1e-11
#: a column whose spread is below this share of its magnitude is float32 rounding of a constant
_ROUNDING = 8 * float(np.finfo(np.float32).eps)


@dataclass(frozen=True)
class Geometry:
    """The shape of one embedding.

    Attributes:
        n: images.
        d: columns.
        varying: columns that are not constant.
        participation_ratio: (sum l)^2 / sum l^2 over the eigenvalues l of the covariance of the standardised columns, which is
            what every probe sees (Gao & Ganguli 2017); 0 when collapsed.
        participation_ratio_raw: the same without standardising.
        collapsed: constant or zero: no image differs from another.
        low_rank: fewer than 3 effective dimensions.
    """

    n: int
    d: int
    varying: int
    participation_ratio: float
    participation_ratio_raw: float
    collapsed: bool
    low_rank: bool

    @property
    def flags(self) -> list[str]:
        """Names of the flags that are up."""
        return [name for name in ("collapsed", "low_rank") if getattr(self, name)]

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def check_features(features: Floats) -> Floats:
    """(n, d) features as finite float64.

    Args:
        features: (n, d) numbers.

    Raises:
        InputError: another number of axes, NaN or infinity; names the first image and column.
    """
    features = np.asarray(features, dtype=np.float64)
    if features.ndim != 2:
        raise InputError(f"Expected features of shape (n, d), got {features.shape}.")
    bad = np.argwhere(~np.isfinite(features))
    if len(bad):
        row, column = bad[0].tolist()
        raise InputError(
            f"Expected finite features, got {features[row, column]} in image {row}, column {column} ({len(bad)} such values). "
            "Mend the encoder, or drop the image and say so."
        )
    return features


def directions(features: Floats, names: Sequence[str] | NDArray[np.str_]) -> Floats:
    """(n, d) profiles of length 1, whose products are cosines.

    Args:
        features: (n, d) finite.
        names: n names, for the message.

    Raises:
        InputError: a profile is 0; names the first. NaN or infinity.
    """
    features = check_features(features)
    lengths = np.linalg.norm(features, axis=1, keepdims=True)
    if (lengths == 0).any():
        raise InputError(f"The profile of `{names[int(np.argmin(lengths))]}` is 0 and has no direction. Leave it out.")
    return np.asarray(features / lengths)


def varying_columns(features: Floats) -> Mask:
    """(d,) which columns differ between images by more than the rounding of float32."""
    if not features.size:
        return np.zeros(features.shape[1], dtype=bool)
    return np.asarray(np.ptp(features, axis=0) > _ROUNDING * np.abs(features).max(axis=0), dtype=bool)


def describe(features: Floats) -> Geometry:
    """Effective rank and flags of (n, d) features; no image, like a constant, is collapsed.

    Args:
        features: (n, d) finite.

    Raises:
        InputError: NaN or infinity.
    """
    features = check_features(features)
    n, d = features.shape
    varying = varying_columns(features)
    if not varying.any():
        return Geometry(n, d, 0, 0.0, 0.0, True, True)
    x = features[:, varying] - features[:, varying].mean(axis=0)
    scaled = x / x.std(axis=0)
    rank = _participation_ratio(scaled)
    return Geometry(n, d, int(varying.sum()), rank, _participation_ratio(x), False, rank < MIN_RANK)


def _participation_ratio(centred: Floats) -> float:
    """(sum l)^2 / sum l^2 = tr(C)^2 / ||C||_F^2: no eigenvalue is needed."""
    x = centred / np.abs(centred).max()
    small = x @ x.T if x.shape[0] < x.shape[1] else x.T @ x
    return float(np.trace(small) ** 2 / np.sum(small**2))

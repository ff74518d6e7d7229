"""The images that a bundle's heads were trained on, as far as they travel with it: `reference.npz`.

::

    embedding             (n, d) float32
    image_id              (n,) strings
    unit                  (n,) int64: codes, equal where two images share a unit; names do not travel
    labels/<task>         (n,) strings, "" where an image takes no part
    appearance            (n, p) float32, as `registry.appearance`
    appearance_version    of that module
    limits/embedding      how far from its nearest reference an image may lie before it is unlike them all
    limits/appearance     the same of its appearance; absent where that was not looked at
    limits/rate, limits/units, limits/unit     the share of images of a new unit that is beyond a limit, and how many units of what said so
    limits/why_not        why there are no limits
    thumbnails/bytes, thumbnails/ends          JPEG files one after the other (uint8), and where each ends
    thumbnails/terms      whose they are and under which licence, or why there are none

Only `embedding` is needed: bundles written before the rest existed are read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from registry.appearance import VERSION
from registry.arrays import Embedding, Ints
from registry.errors import BundleError

Strings = NDArray[np.str_]

#: said of a bundle that was written before there were limits
NO_LIMITS = "the bundle holds no limits; write it again with `blankslide package`"
OTHER_APPEARANCE = "the bundle describes appearances as another release did; write it again with `blankslide package`"
NO_THUMBNAILS = "The bundle holds no pictures; write it again with `blankslide package`."
_JPEG = b"\xff\xd8\xff"


@dataclass(frozen=True)
class Limits:
    """How far an image may lie from its nearest reference image.

    Attributes:
        embedding: largest distance of its embedding, as `serving.reference` measures it.
        appearance: largest distance of its appearance; None where that was not looked at.
        rate: the share of images of a new unit that lie beyond either limit.
        units: how many units, none of them known to the references, said so.
        unit: what a unit is, in a word ("plate").
    """

    embedding: float
    appearance: float | None
    rate: float
    units: int
    unit: str

    def __post_init__(self) -> None:
        known = [self.embedding, self.rate, *([self.appearance] if self.appearance is not None else [])]
        if not all(np.isfinite(value) and value >= 0 for value in known) or self.rate >= 1:
            raise BundleError(f"Expected finite limits that are not negative and a rate below 1, got {self}.")


@dataclass(frozen=True)
class Thumbnails:
    """Small pictures, one per reference image.

    Attributes:
        files: JPEG.
    """

    files: tuple[bytes, ...]

    def __post_init__(self) -> None:
        bad = [i for i, data in enumerate(self.files) if not data.startswith(_JPEG)]
        if bad:
            raise BundleError(f"Expected thumbnails that are JPEG files, number {bad[0]} is not.")


@dataclass(frozen=True)
class ReferenceSet:
    """Reference images as they travel.

    Attributes:
        embedding: (n, d) finite.
        image_id: (n,) their ids; None in a bundle that does not say.
        unit: (n,) codes, equal where two images share a unit; None in a bundle that does not say.
        labels: (n,) per task, "" where an image takes no part.
        appearance: (n, p) finite; None where it was not looked at.
        limits: None where it could not be calibrated, or in an old bundle.
        why_no_limits: the reason, as a clause; "" if there are limits.
        thumbnails: None where they may not travel, or in an old bundle.
        terms: whose thumbnails they are and under which licence, or why there are none; a sentence.
    """

    embedding: Embedding
    image_id: Strings | None = None
    unit: Ints | None = None
    labels: Mapping[str, Strings] = field(default_factory=dict)
    appearance: NDArray[np.float32] | None = None
    limits: Limits | None = None
    why_no_limits: str = NO_LIMITS
    thumbnails: Thumbnails | None = None
    terms: str = NO_THUMBNAILS

    def __post_init__(self) -> None:
        for name, width in (("embedding", 2), ("appearance", 2), ("image_id", 1), ("unit", 1)):
            self._check(name, getattr(self, name), width)
        for task, labels in self.labels.items():
            self._check(f"labels/{task}", labels, 1)
        if self.thumbnails is not None and len(self.thumbnails.files) != len(self):
            raise BundleError(f"Expected one thumbnail for each of {len(self)} reference images, got {len(self.thumbnails.files)}.")
        if self.limits is not None and (self.limits.appearance is None) != (self.appearance is None):
            raise BundleError("Expected a limit of the appearance exactly where reference images have one.")

    def __len__(self) -> int:
        return len(self.embedding)

    def _check(self, name: str, values: NDArray[Any] | None, axes: int) -> None:
        if values is None:
            return
        if values.ndim != axes or len(values) != len(self.embedding):
            raise BundleError(f"Reference images: expected `{name}` of {axes} axes for {len(self.embedding)} images, got shape {values.shape}.")
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            raise BundleError(f"Reference images: `{name}` holds values that are not finite. Package the benchmark again.")

    def as_arrays(self) -> dict[str, NDArray[Any]]:
        """As `reference.npz` holds them."""
        some: dict[str, NDArray[Any] | None] = {"image_id": self.image_id, "unit": self.unit, "appearance": self.appearance}
        arrays = {"embedding": self.embedding} | {name: values for name, values in some.items() if values is not None}
        arrays |= {f"labels/{task}": values for task, values in self.labels.items()}
        if self.appearance is not None:
            arrays["appearance_version"] = np.array(VERSION)
        if self.limits is None:
            arrays["limits/why_not"] = np.array(self.why_no_limits)
        else:
            values = {name: getattr(self.limits, name) for name in ("embedding", "appearance", "rate", "units", "unit")}
            arrays |= {f"limits/{name}": np.array(value) for name, value in values.items() if value is not None}
        if self.thumbnails is not None:
            files = self.thumbnails.files
            arrays |= {
                "thumbnails/bytes": np.frombuffer(b"".join(files), np.uint8),
                "thumbnails/ends": np.cumsum([len(data) for data in files], dtype=np.int64),
            }
        return {**arrays, "thumbnails/terms": np.array(self.terms)}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> ReferenceSet:
        """The inverse of `as_arrays`.

        Raises:
            BundleError: the arrays contradict each other, or lack the embedding.
        """
        arrays = dict(arrays)
        try:
            limits = None
            if "appearance" in arrays and arrays["appearance_version"].item() != VERSION:
                arrays = {name: values for name, values in arrays.items() if name != "appearance" and not name.startswith("limits/")}
                arrays["limits/why_not"] = np.array(OTHER_APPEARANCE)
            if "limits/embedding" in arrays:
                beyond = arrays.get("limits/appearance")
                limits = Limits(
                    embedding=float(arrays["limits/embedding"].item()),
                    appearance=None if beyond is None else float(beyond.item()),
                    rate=float(arrays["limits/rate"].item()),
                    units=int(arrays["limits/units"].item()),
                    unit=str(arrays["limits/unit"].item()),
                )
            return cls(
                embedding=arrays["embedding"],
                image_id=arrays.get("image_id"),
                unit=arrays.get("unit"),
                labels={name.removeprefix("labels/"): values for name, values in sorted(arrays.items()) if name.startswith("labels/")},
                appearance=arrays.get("appearance"),
                limits=limits,
                why_no_limits="" if limits else _text(arrays, "limits/why_not", NO_LIMITS),
                thumbnails=_cut(arrays["thumbnails/bytes"], arrays["thumbnails/ends"]) if "thumbnails/bytes" in arrays else None,
                terms=_text(arrays, "thumbnails/terms", NO_THUMBNAILS),
            )
        except BundleError:
            raise
        except Exception as error:  # strings where numbers belong, infinity as a count: its data is at fault
            raise BundleError(f"`reference.npz` cannot be read ({type(error).__name__}: {error}). Package the benchmark again.") from error


def _text(arrays: Mapping[str, NDArray[Any]], name: str, otherwise: str) -> str:
    return str(arrays[name].item()) if name in arrays else otherwise


def _cut(data: NDArray[Any], ends: NDArray[Any]) -> Thumbnails:
    """Files of one run of bytes."""
    edges = [0, *(int(end) for end in ends)]
    if data.dtype != np.uint8 or edges != sorted(edges) or edges[-1] != len(data):
        raise BundleError("`reference.npz`: expected thumbnails as bytes with rising ends, the last of them the number of bytes.")
    whole = data.tobytes()
    return Thumbnails(tuple(whole[start:end] for start, end in pairwise(edges)))

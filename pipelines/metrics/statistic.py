"""A statistic together with what it becomes when each unit is left out.

Everything a verdict needs is in four columns: the value, the value without unit u, the share of unit u, and the unit's name; and for a statistic
of pairs of images, what pairs of units do together.
The evaluate stage stores them; `jackknife` and `verdicts` compute from them alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pipelines.metrics.names import whole_names
from registry.arrays import Floats, Ints
from registry.errors import InputError

#: A unit of a cross-fitted statistic takes part twice: it is tested, and it trains what tests others. In simulation the variance of a difference
#: is 0.9 to 1.9 times the jackknife's with five folds and 1.9 to 2.2 times with two, which train each other whole; with these factors intervals
#: cover .93 to .98 (docs/decisions/0017-cross-fitting.md).
CROSS_FITTED = 1.6
CROSS_FITTED_BY_HALVES = 2.0
#: With one held-out split the units that train add luck of their own, which no test unit shows. Its variance is this times test units / training
#: units of the jackknife's: the form of Nadeau and Bengio (2003), who take 1, which is far too wide here; this is measured (the same decision).
LUCK_IN_TRAINING = 0.25


@dataclass(frozen=True, eq=False)
class Statistic:
    """One statistic of one row on one task.

    Attributes:
        value: the statistic on all images; NaN where it does not exist.
        units: U names, sorted, no name twice.
        without: (U,) the statistic recomputed with unit u left out; NaN where it does not exist.
        share: (U,) how much of the statistic rests on unit u; sums to 1 (each metric says which).
        n_images: images that take part.
        class_in_units: the smallest number of units that any class of the vocabulary occurs in; 0 when one does not occur.
        pairs: (U, U) what pairs of units do together (`interplay`); None for statistics of single images, and where there are very many units.
        inflation: by what the jackknife's variance is multiplied, for what leaving a test unit out does not show of the units that train:
            `inflation_of` where something is trained, else 1.
    """

    value: float
    units: tuple[str, ...]
    without: Floats
    share: Floats
    n_images: int
    class_in_units: int
    pairs: Floats | None = None
    inflation: float = 1.0

    def __post_init__(self) -> None:
        shape = (len(self.units),)
        if self.pairs is not None and self.pairs.shape != shape * 2:
            raise InputError(f"Expected `pairs` with a row and a column for each of {len(self.units)} units, got shape {self.pairs.shape}.")
        if self.without.shape != shape or self.share.shape != shape:
            raise InputError(
                f"Expected `without` and `share` with one entry for each of {len(self.units)} units, "
                f"got shapes {self.without.shape} and {self.share.shape}."
            )
        if not self.inflation >= 1.0:
            raise InputError(f"Expected `inflation` of at least 1, got {self.inflation}.")
        if not self.units:
            raise InputError("Expected a statistic of at least one unit, got none. Score at least one image.")
        if np.isinf(self.value) or np.isinf(self.without).any():
            raise InputError(
                f"Expected finite numbers, or NaN where one does not exist, got a value of {self.value} or an infinite one without a unit."
            )
        if list(self.units) != sorted(set(self.units)):
            raise InputError("Expected the unit names sorted and each once. Sort rows by unit before making a statistic of them.")

    @property
    def n_units(self) -> int:
        """U."""
        return len(self.units)

    @property
    def n_eff(self) -> float:
        """Effective number of units, 1 / sum of squared shares (Kish 1965, on the statistic's own shares)."""
        return float(1.0 / np.sum(self.share**2))


def inflation_of(folds: Ints, units: Sequence[str] | NDArray[np.str_]) -> float:
    """The `inflation` of a probe's statistic, at least 1, for what the training units do to it.

    One tested fold: 1 + (test units / training units) / 4. Several, which train each other: 1.6, with two 2.

    Args:
        folds: (n,) the fold an image that takes part is tested in; -1 = always training.
        units: n unit names.

    Raises:
        InputError: no test image, no training image, or not a unit for each.
    """
    folds = np.asarray(folds, dtype=np.int64)
    index = index_units(units, len(folds))
    tested = len(np.unique(folds[folds >= 0]))
    if tested > 1:
        return CROSS_FITTED_BY_HALVES if tested == 2 else CROSS_FITTED
    test, train = (len(np.unique(index.codes[mask])) for mask in (folds >= 0, folds < 0))
    if not test or not train:
        raise InputError(f"Expected test and training images, got {test} units with test and {train} with training images.")
    return 1.0 + LUCK_IN_TRAINING * test / train


@dataclass(frozen=True, eq=False)
class UnitIndex:
    """Units as codes.

    Attributes:
        names: U sorted names.
        codes: (n,) position of each image's unit in `names`.
    """

    names: tuple[str, ...]
    codes: Ints

    def counts(self, weights: ArrayLike | None = None) -> Floats:
        """(U,) sum of `weights` (default 1) per unit."""
        return tally(self.codes, weights, len(self.names))

    def counts_by_class(self, labels: Ints, n_classes: int) -> Floats:
        """(U, k) images of each class in each unit."""
        return tally(self.codes * n_classes + labels, size=len(self.names) * n_classes).reshape(len(self.names), n_classes)


def tally(codes: Ints, weights: ArrayLike | None = None, size: int = 0) -> Floats:
    """Sum of weights (default 1) for each code from 0 to size - 1 (at least to the largest code), as float64."""
    return np.asarray(np.bincount(codes, weights=weights, minlength=size), dtype=np.float64)


def index_units(units: Sequence[str] | NDArray[np.str_], n: int | None = None) -> UnitIndex:
    """Code the names of n units in sorted order.

    Raises:
        InputError: no image at all, another number of names than `n`, or a name that is missing.
    """
    if n is not None and np.shape(units) != (n,):
        raise InputError(f"Expected a unit name for each of {n} images, got shape {np.shape(units)}.")
    if len(units) == 0:
        raise InputError("Expected at least one image with a label, got none. Look at the label column of the index.")
    names, codes = np.unique(whole_names(units, "units"), return_inverse=True)
    return UnitIndex(tuple(names.tolist()), codes.astype(np.int64))


def check_labels(labels: Ints, n: int, n_classes: int) -> Ints:
    """Labels as int64 codes into a vocabulary of `n_classes`.

    Raises:
        InputError: wrong length or a code outside the vocabulary.
    """
    labels = np.asarray(labels, dtype=np.int64)
    if labels.shape != (n,):
        raise InputError(f"Expected one label for each of {n} images, got shape {labels.shape}.")
    if n and (labels.min() < 0 or labels.max() >= n_classes):
        raise InputError(
            f"Expected label codes from 0 to {n_classes - 1}, got {labels.min()} to {labels.max()}. Code labels with one vocabulary per task."
        )
    return labels


def image_mean(values: Floats, units: Sequence[str] | NDArray[np.str_], labels: Ints, n_classes: int) -> Statistic:
    """Mean over images of one number per image, e.g. bits of information or a hit.

    Args:
        values: (n,) finite, in any unit and direction, which are the mean's.
        units: n unit names.
        labels: (n,) class codes; they only decide `class_in_units`.
        n_classes: size of the vocabulary.

    Returns:
        The mean; unit u has the share n_u / n. Without the only unit it is NaN.

    Raises:
        InputError: no image, other lengths, labels outside the vocabulary, NaN or infinity.
    """
    index = index_units(units)
    values = np.asarray(values, dtype=np.float64)
    labels = check_labels(labels, len(index.codes), n_classes)
    if values.shape != labels.shape:
        raise InputError(f"Expected one value for each of {len(labels)} images, got shape {values.shape}.")
    bad = np.flatnonzero(~np.isfinite(values))
    if len(bad):
        raise InputError(
            f"Expected finite values, got {values[bad[0]]} in image {bad[0]} ({len(bad)} such values). Leave those images out and say so."
        )
    counts, sums = index.counts(), index.counts(values)
    left = counts.sum() - counts
    without = np.divide(sums.sum() - sums, left, out=np.full_like(left, np.nan), where=left > 0)
    spread = int((index.counts_by_class(labels, n_classes) > 0).sum(axis=0).min())
    return Statistic(float(values.mean()), index.names, without, counts / counts.sum(), len(values), spread)

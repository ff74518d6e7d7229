"""Inner folds: how the images of one training split are divided again to choose a hyper-parameter."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipelines.metrics.statistic import check_labels, index_units
from registry.arrays import Floats, Ints
from registry.errors import InputError

#: shares of classes that differ by less are equal but for rounding
ROUNDING = 1e-9


@dataclass(frozen=True, eq=False)
class InnerFolds:
    """A division of n training images.

    Attributes:
        fold: (n,) 0..n_folds-1.
        n_folds: at least 2, except for a single image.
        kind: "groups" when every group stays in one fold, "images" when there is only one group to divide.
    """

    fold: Ints
    n_folds: int
    kind: str


def inner_folds(labels: Ints, groups: Sequence[str] | NDArray[np.str_], n_classes: int, n_folds: int) -> InnerFolds:
    """Divide training images by group, each fold with about the same share of every class.

    Groups go one by one, the largest first and then by name, to the fold that has least of what they bring. No random number is
    drawn. With a single group, images are dealt in turn within each class instead, and `kind` says so.

    Args:
        labels: (n,) class codes.
        groups: n group names.
        n_classes: size of the vocabulary.
        n_folds: folds wanted, at least 2; fewer where there are fewer groups.

    Raises:
        InputError: no image, other lengths, labels outside the vocabulary, fewer than 2 folds.
    """
    index = index_units(groups)
    labels = check_labels(labels, len(index.codes), n_classes)
    if n_folds < 2:
        raise InputError(f"Expected at least 2 inner folds, got {n_folds}.")
    n_groups = len(index.names)
    if n_groups == 1:
        dealt = np.empty(len(labels), dtype=np.int64)
        for c in range(n_classes):
            mine = np.flatnonzero(labels == c)
            dealt[mine] = np.arange(len(mine)) % n_folds
        return InnerFolds(dealt, n_folds, "images")
    n_folds = min(n_folds, n_groups)
    counts = index.counts_by_class(labels, n_classes)
    brings = counts / np.maximum(counts.sum(axis=0), 1)
    load = np.zeros((n_folds, n_classes))
    of_group = np.empty(n_groups, dtype=np.int64)
    for rank, g in enumerate(np.argsort(-counts.sum(axis=1), kind="stable")):
        # the first groups open one fold each, so that none stays empty
        of_group[g] = rank if rank < n_folds else _least(load @ brings[g])
        load[of_group[g]] += brings[g]
    return InnerFolds(of_group[index.codes], n_folds, "groups")


def _least(overlap: Floats) -> int:
    """The first fold of those that have least, up to rounding.

    Of groups that bring exactly as much of each class, which is what a balanced design has, rounding would choose, and processors round
    products of matrices differently.
    """
    return int(np.flatnonzero(overlap <= overlap.min() + ROUNDING)[0])

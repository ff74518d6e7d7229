"""Faults that are put into the code that judges real encoders, each of which `benchmarks/calibration.py` must catch.

Functions of the product are replaced in the modules that call them, for as long as the process and those that it forks live.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import numpy as np

from pipelines.metrics import classification, contrasts, decoding, groups, pairs, probes, ranking, retrieval, statistic
from pipelines.metrics.statistic import UnitIndex


def _instead(name: str, fault: Any, *owners: Any) -> None:
    """Put a fault where modules or a class look a name up.

    Raises:
        AttributeError: an owner has no such name any more, and the fault would be put in without effect.
    """
    for owner in owners:
        getattr(owner, name)
        setattr(owner, name, fault)


def images_for_units() -> None:
    """`unit`: what the jackknife leaves out is an image, not a plate."""
    checked = statistic.index_units

    def index_units(units: Any, n: int | None = None) -> UnitIndex:
        size = len(checked(units, n).codes)
        return UnitIndex(tuple(f"i{number:07d}" for number in range(size)), np.arange(size))

    _instead("index_units", index_units, statistic, classification, retrieval)


def test_images_train() -> None:
    """`split`: every fold is tested by what it has trained itself too."""
    honest = probes.out_of_fold

    @wraps(honest)
    def out_of_fold(features: Any, labels: Any, folds: Any, units: Any, *args: Any, **named: Any) -> probes.OutOfFold:
        # every image once more, as one that always trains
        twice = {number: np.vstack([features_of, features_of]) for number, features_of in _by_fold(features, folds)}
        return honest(twice, np.tile(labels, 2), np.append(folds, np.full(len(folds), -1)), np.tile(units, 2), *args, **named)

    _instead("out_of_fold", out_of_fold, probes, decoding)


def _by_fold(features: Any, folds: Any) -> list[tuple[int, Any]]:
    numbers = np.unique(folds[folds >= 0]).tolist()
    return [(number, probes.features_of_fold(features, number)) for number in numbers]


def mean_of_the_twins() -> None:
    """`twin`: the encoder need not be better than one more draw, only than the mean of the draws."""
    _instead("_sd_of_one_more_seed", property(lambda _contrast: 0.0), contrasts.Contrast)


def positives_first() -> None:
    """`ties`: of candidates that tie the positives are ranked first."""
    expected = ranking.contributions

    def contributions(_items: Any, before: Any, positives: Any) -> Any:
        return expected(np.asarray(positives).astype(np.int64), before, positives)

    _instead("contributions", contributions, ranking, pairs, groups)


def across_plates() -> None:
    """`null`: labels, and who belongs to a group, are permuted across plates."""
    within, drawn = retrieval.permutation_null, groups._PermutationNull._draws

    @wraps(within)
    def permutation_null(features: Any, labels: Any, *args: Any, **named: Any) -> retrieval.PermutationNull:
        return within(features, labels, *args, **{**named, "strata": np.full(len(labels), "all")})

    def _draws(null: Any, *args: Any) -> Any:
        null._strata = np.zeros_like(null._strata)
        return drawn(null, *args)

    _instead("permutation_null", permutation_null, retrieval)
    _instead("_draws", _draws, groups._PermutationNull)


_PUT_IN: dict[str, Callable[[], None]] = {
    "unit": images_for_units,
    "split": test_images_train,
    "twin": mean_of_the_twins,
    "ties": positives_first,
    "null": across_plates,
}
FAULTS = tuple(_PUT_IN)


def put_in(fault: str) -> None:
    """Put one of `FAULTS` in, for good."""
    _PUT_IN[fault]()

"""The outer split: units to folds, never torn, balanced over classes, the same for the same units in any order."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import pandas as pd

from registry.arrays import Floats, Ints
from registry.errors import BenchmarkError

#: folds of a benchmark with enough units
USUAL_FOLDS = 5
#: what a stated split calls images that are never tested
ALWAYS_TRAINING = ("-1", "train")


def default_folds(n_units: int) -> int:
    """The number of outer folds unless one is asked for: 5, or one per unit where there are fewer than 5 units."""
    return min(USUAL_FOLDS, n_units)


@dataclass(frozen=True)
class Stated:
    """A split that others have made.

    Attributes:
        fold: (n,) in which an image is tested, -1 = always training.
        names: what the folds are called, in their order.
    """

    fold: Ints
    names: tuple[str, ...]


def stated_folds(values: pd.Series, units: pd.Series) -> Stated:
    """A split as a column states it: of each image the name of the fold in which it is tested.

    Every fold is trained on all images that are not its own: a published split in which some are neither is not of this kind.

    Args:
        values: (n,) names; `-1` and `train` stand for images that are never tested. Whole numbers are ordered as numbers, other names as text.
        units: (n,) what must not be torn.

    Raises:
        BenchmarkError: an image without a fold, a unit in two folds, no fold, or nothing to train on.
    """
    names = values.astype(object).where(values.notna(), "").astype(str).str.strip()
    if (names == "").any():
        missing = int((names == "").sum())
        raise BenchmarkError(
            f"Column `{values.name}` states no fold of {missing} of {len(values)} images. State the fold in which each is tested, or `-1` for none."
        )
    trained = names.str.lower().isin(ALWAYS_TRAINING)
    torn = names.groupby(units).nunique()
    if (torn > 1).any():
        unit = torn.index[torn > 1][0]
        listed = ", ".join(f"`{name}`" for name in sorted(set(names[units == unit]))[:5])
        raise BenchmarkError(
            f"Column `{values.name}` puts unit `{unit}` into several folds ({listed}), so that it would be tested by what has learned from it."
            " Name another unit, or correct the column."
        )
    found = sorted(set(names[~trained]), key=lambda name: (0, int(name), name) if name.isdecimal() else (1, 0, name))
    if not found or (len(found) == 1 and not trained.any()):
        raise BenchmarkError(
            f"Expected `{values.name}` to name two folds or more, or one beside images that are always training (`-1`, `train`),"
            f" got {', '.join(f'`{name}`' for name in sorted(set(names)))}."
        )
    number = {name: i for i, name in enumerate(found)}
    return Stated(np.array([-1 if always else number[name] for name, always in zip(names, trained, strict=True)], np.int64), tuple(found))


def assign_folds(units: pd.Series, labels: pd.DataFrame, folds: int, seed: int) -> Ints:
    """Assign every image's unit to a fold.

    Stratified grouped k-fold, greedily, as scikit-learn's `StratifiedGroupKFold`: the units with the most uneven class counts come
    first, each to the fold where the classes' shares of all folds then differ least. Unlike there, the number of images counts as one
    more class, so that folds are also of similar size; ties are broken by a hash of seed and unit instead of the order of the rows;
    no fold stays empty; and at the end a class whose units all came to lie in one fold has one of them moved, so that every class
    of two or more units is in the training images of every fold (as far as moving single units can do it).

    Args:
        units: (n,) what is never torn.
        labels: (n, tasks) one column per task, null where an image takes no part.
        folds: 1 gives one held-out half, as fold 0, with the rest always training (-1).
        seed: of the tie-breaking.

    Returns:
        (n,) fold per image.

    Raises:
        BenchmarkError: fewer units than folds (than 2, for one held-out half).
    """
    groups = max(folds, 2)
    names = sorted(set(units))
    if len(names) < groups:
        raise BenchmarkError(
            f"Expected at least {groups} units for {folds} fold{'s' if folds > 1 else ''}, got {len(names)}."
            " Ask for fewer folds, or name another unit (`image`: every image for itself)."
        )
    counts = _class_counts(units, labels, names)
    fold_of_unit = _greedy(counts, _visiting_order(counts, names, seed), groups)
    _spread_classes(fold_of_unit, counts[:, :-1], groups)
    position = {name: i for i, name in enumerate(names)}
    numbers = fold_of_unit if folds > 1 else np.where(fold_of_unit == 0, 0, -1)
    assigned: Ints = numbers[[position[u] for u in units]].astype(np.int64)
    return assigned


def _class_counts(units: pd.Series, labels: pd.DataFrame, names: list[str]) -> Floats:
    """(units, classes of all tasks + 1) images per unit and class; the last column counts all images."""
    columns = [pd.crosstab(units, labels[task]).reindex(names, fill_value=0) for task in labels.columns if labels[task].notna().any()]
    total = units.value_counts().reindex(names).rename("images")
    return np.column_stack([*(c.to_numpy(float) for c in columns), total.to_numpy(float)])


def _visiting_order(counts: Floats, names: list[str], seed: int) -> list[int]:
    """Most uneven units first; equals by a hash, so that neither row order nor the names' alphabet matters."""
    spread = np.round(counts[:, :-1].std(axis=1), 9) if counts.shape[1] > 1 else counts[:, 0]
    ties = [hashlib.sha256(f"{seed}:{name}".encode()).digest() for name in names]
    return sorted(range(len(names)), key=lambda i: (-spread[i], -counts[i, -1], ties[i]))


def _greedy(counts: Floats, order: list[int], folds: int) -> Ints:
    shares = counts / np.maximum(counts.sum(axis=0), 1.0)
    filled = np.zeros((folds, counts.shape[1]))
    units_in = np.zeros(folds, dtype=int)
    fold_of_unit = np.zeros(len(counts), dtype=np.int64)
    for done, unit in enumerate(order):
        empty = np.flatnonzero(units_in == 0)
        candidates = empty if len(empty) and len(order) - done <= len(empty) else np.arange(folds)
        # adding s to fold f changes the sum of squares by 2 filled_f.s + s.s, and the mean over folds alike for every f
        cost = filled[candidates] @ shares[unit]
        best = np.flatnonzero(cost <= cost.min() + 1e-12)
        chosen = candidates[best[np.lexsort((units_in[candidates[best]], filled[candidates[best], -1]))[0]]]
        fold_of_unit[unit] = chosen
        filled[chosen] += shares[unit]
        units_in[chosen] += 1
    return fold_of_unit


def _spread_classes(fold_of_unit: Ints, counts: Floats, folds: int) -> None:
    """Move, in place, one unit of each class that lies in one fold only, where that robs no other class and empties no fold."""
    for column in range(counts.shape[1]):
        holders = np.flatnonzero(counts[:, column])
        if len(holders) < 2 or len(set(fold_of_unit[holders].tolist())) > 1:
            continue
        for unit, target in ((u, f) for u in holders[::-1] for f in range(folds) if f != fold_of_unit[u]):
            trial = fold_of_unit.copy()
            trial[unit] = target
            if len(set(trial.tolist())) == folds and _confined(trial, counts) < _confined(fold_of_unit, counts):
                fold_of_unit[:] = trial
                break


def _confined(fold_of_unit: Ints, counts: Floats) -> int:
    """How many classes of two or more units lie in one fold only."""
    holders = counts > 0
    several = holders.sum(axis=0) > 1
    in_folds = np.stack([holders[fold_of_unit == f].any(axis=0) for f in sorted(set(fold_of_unit.tolist()))])
    return int((several & (in_folds.sum(axis=0) < 2)).sum())

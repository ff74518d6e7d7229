"""Can plate, batch, row, column, site or centre be read from an embedding, when the question is put fairly?

An image's neighbours in the same well or on the same plate share everything with it, so a split that tears them says "yes" to any question.
Here positions (row, column, site) are decoded on plates that were held out whole, and what was acquired together (plate, batch, centre, ...) on
wells that were held out whole, the same well of every plate at once, so that no well position lies on both sides; without wells, on units that
were held out (scikit-learn's `GroupKFold`, but for which group goes into which fold). Intervals are widened for what units train
(docs/decisions/0017-cross-fitting.md); those of noise hold chance .95 of the time (docs/calibration.md).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from pipelines.metrics.classification import balanced_accuracy
from pipelines.metrics.folds import inner_folds
from pipelines.metrics.geometry import check_features
from pipelines.metrics.jackknife import interval
from pipelines.metrics.names import whole_names
from pipelines.metrics.probes import Groups, ProbeSettings, out_of_fold
from pipelines.metrics.statistic import Statistic, inflation_of
from registry.arrays import Floats, Ints
from registry.errors import InputError

#: columns that say where on a plate an image lies
POSITIONS = ("Row", "Column", "Site", "Well")
#: groups are held out in this many folds; fewer where there are fewer groups
FOLDS = 5

Columns = Mapping[str, Groups]


@dataclass(frozen=True)
class Decoded:
    """How well one column is decoded; or why that cannot be asked.

    Attributes:
        column: its name.
        held_out: what no fold tears: "plate", "well" or "unit".
        statistic: balanced accuracy, 0..1, with every held-out group left out in turn; smaller is better; None where it is not estimable.
        chance: 1 / values.
        of_label: balanced accuracy of guessing the column from the label alone, under the same folds: what is due to the design and not to the
            embedding; None where no labels were given.
        left_out: values that are not asked for, because they do not occur on both sides of any split.
        note: "" or "not estimable: <reason>".
    """

    column: str
    held_out: str
    statistic: Statistic | None
    chance: float
    of_label: float | None
    left_out: int
    note: str

    @property
    def interval(self) -> tuple[float, float] | None:
        """95 % interval over held-out groups; None where there are too few of them."""
        return interval(self.statistic) if self.statistic else None


def decode(
    features: Floats,
    column: str,
    columns: Columns,
    units: Groups,
    settings: ProbeSettings,
    kind: str = "logistic",
    labels: Groups | None = None,
) -> Decoded:
    """Decode one column from an embedding with one of the probes that score it.

    Values are left out that occur in one held-out group only, or whose groups all come to lie in one fold. "Not estimable" is a column with fewer
    than two values left, a position without two plates to hold out, and anything with fewer than two groups.

    Args:
        features: (n, d).
        column: a key of `columns`.
        columns: n values each, "" = missing; "Plate" and "Well" decide what is held out. Wells have the same name on every plate.
        units: n unit names, held out where there are no wells.
        settings: of the probe.
        kind: "logistic" or "knn".
        labels: n labels, "" = none; only for `of_label`.

    Raises:
        InputError: no such column, a column of another length, NaN or infinity.
    """
    features = check_features(features)
    values, groups = _column(columns, column, len(features)), whole_names(units, "units")
    held_out = "unit"
    if column in POSITIONS:
        held_out, groups = "plate", _column(columns, "Plate", len(features)) if "Plate" in columns else np.full(len(features), "")
    elif "Well" in columns:
        held_out, groups = "well", _column(columns, "Well", len(features))
    if groups.shape != values.shape:
        raise InputError(f"Expected {len(features)} unit names, got shape {groups.shape}.")
    present = (values != "") & (groups != "")
    n_groups = len(np.unique(groups[present]))
    if n_groups < 2:
        return _not(column, held_out, f"there are {n_groups} {held_out}s to hold out, at least 2 are needed")
    names = np.unique(values[present])
    if len(names) < 2:
        return _not(column, held_out, f"there are {len(names)} values, at least 2 are needed")
    kept, folds = _folds(values, groups, present)
    left_out = len(names) - len(kept)
    if len(kept) < 2:
        return _not(column, held_out, f"{len(names) - len(kept)} of {len(names)} values occur in one {held_out} only", left_out)
    inside = np.isin(values, kept) & present
    codes = np.where(inside, np.searchsorted(kept, np.where(inside, values, kept[0])), -1).astype(np.int64)
    found = out_of_fold(features, codes, folds, groups, len(kept), settings, kind)
    score = balanced_accuracy(found.labels, found.predicted, groups[found.images], len(kept))
    statistic = replace(score, inflation=inflation_of(folds[codes >= 0], groups[codes >= 0]))
    of_label = None if labels is None else _of_label(whole_names(labels, "labels", missing=""), codes, folds, len(kept))
    return Decoded(column, held_out, statistic, 1 / len(kept), of_label, left_out, "")


def _not(column: str, held_out: str, reason: str, left_out: int = 0) -> Decoded:
    return Decoded(column, held_out, None, float("nan"), None, left_out, f"not estimable: {reason}")


def _column(columns: Columns, name: str, n: int) -> NDArray[np.str_]:
    if name not in columns:
        raise InputError(f"Expected a column of {', '.join(f'`{c}`' for c in columns)}, got `{name}`.")
    values = whole_names(columns[name], f"values of `{name}`", missing="")
    if values.shape != (n,):
        raise InputError(f"Expected {n} values of `{name}`, got shape {values.shape}.")
    return values


def _folds(values: NDArray[np.str_], groups: NDArray[np.str_], present: NDArray[np.bool_]) -> tuple[NDArray[np.str_], Ints]:
    """The values that can be asked for, and (n,) folds of whole groups; -1 where an image has no value."""
    kept, folds = np.unique(values[present]), np.full(len(values), -1, dtype=np.int64)
    while len(kept) >= 2:
        inside = present & np.isin(values, kept)
        codes = np.searchsorted(kept, values[inside])
        folds[:] = -1
        folds[inside] = inner_folds(codes.astype(np.int64), groups[inside], len(kept), FOLDS).fold
        several = [c for c in range(len(kept)) if len(np.unique(folds[inside][codes == c])) > 1]
        if len(several) == len(kept):
            break
        kept = kept[several]
    return kept, folds


def _of_label(labels: NDArray[np.str_], codes: Ints, folds: Ints, n_classes: int) -> float:
    """Balanced accuracy of the value that is most frequent with an image's label in training, values weighing the same; ties share."""
    if labels.shape != codes.shape:
        raise InputError(f"Expected {len(codes)} labels, got shape {labels.shape}.")
    known = np.unique(labels, return_inverse=True)[1]
    hits, total = np.zeros(n_classes), np.zeros(n_classes)
    for fold in np.unique(folds[folds >= 0]):
        train, test = (codes >= 0) & (folds != fold), (codes >= 0) & (folds == fold)
        table = np.zeros((known.max() + 1, n_classes))
        np.add.at(table, (known[train], codes[train]), 1)
        table /= np.maximum(table.sum(axis=0), 1)
        best = table >= table.max(axis=1, keepdims=True) - 1e-12
        right = best[known[test], codes[test]] / best.sum(axis=1)[known[test]]
        np.add.at(hits, codes[test], right)
        np.add.at(total, codes[test], 1)
    return float(np.mean(hits / total))

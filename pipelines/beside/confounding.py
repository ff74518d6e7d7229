"""How much of each row is batch and place: what stands beside the biological scores of a benchmark."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from pipelines.benchmarks.index import Benchmark
from pipelines.metrics import confounds
from pipelines.metrics.decoding import decode
from pipelines.metrics.names import whole_names
from pipelines.metrics.probes import ProbeSettings
from pipelines.metrics.projection import fit_projection
from pipelines.scores import Confound
from registry.arrays import Floats, Ints, Mask
from registry.errors import InputError

T = TypeVar("T", bound=np.generic)
#: names the rules in every result
PROTOCOL = "confounds:v4:decoding:mixing"
#: more test images than this are thinned out evenly, in the order of the index
MOST = 1500
#: what is decoded, of the columns that exist
DECODED = ("Batch", "Plate", "Patient", "Centre", "Center", "Row", "Column", "Site")
#: what is a compound for NSC and NSCB: the first of these that exists
COMPOUNDS = ("Metadata_Compound", "Metadata_Treatment", "Metadata_Perturbation")
#: images of one class that kBET asks for, and images of one batch that any score of mixing asks for
LEAST_OF_CLASS, LEAST_OF_BATCH = 40, 3


@dataclass(frozen=True, eq=False)
class Design:
    """The test images of a benchmark (all of them, or MOST) and what is known of each; the same for every row.

    Attributes:
        images: (m,) their positions in the index.
        train: (n,) the training images of the first fold, on which vectors are standardised.
        columns: decoded columns, and "Well", "" where an image has no value.
        units: m unit names.
        batch_column: "Batch", "Plate" or the card's unit.
        batch: m names.
        classes: m labels of the first task, "" where an image takes no part.
        compounds: m names; empty where no column holds any.
        seed: of the permutations.
    """

    images: Ints
    train: Mask
    columns: dict[str, NDArray[np.str_]]
    units: NDArray[np.str_]
    batch_column: str
    batch: NDArray[np.str_]
    classes: NDArray[np.str_]
    compounds: NDArray[np.str_]
    seed: int

    @classmethod
    def of(cls, benchmark: Benchmark, seed: int) -> Design:
        """Read it off the index; `about` asks about another task than the first."""
        index, fold = benchmark.index, benchmark.folds[0]
        images = np.flatnonzero(index["fold"].to_numpy() >= 0)
        images = images[np.linspace(0, len(images) - 1, min(len(images), MOST)).round().astype(np.int64)]

        def values(column: str) -> NDArray[np.str_]:
            found = index[column].iloc[images]
            return whole_names(found, column, missing="")

        columns = {name: values(f"Metadata_{name}") for name in (*DECODED, "Well") if f"Metadata_{name}" in index}
        columns = {name: found for name, found in columns.items() if name == "Well" or len(set(found.tolist()) - {""}) > 1}
        batch_column = next((name for name in ("Batch", "Plate") if name in columns), benchmark.card.unit)
        compound = next((column for column in COMPOUNDS if column in index), None)
        return cls(
            images,
            fold.train,
            columns,
            values("unit"),
            batch_column,
            columns.get(batch_column, values("unit")),
            values(benchmark.card.tasks[0].column),
            values(compound) if compound else np.zeros(0, np.str_),
            seed,
        )

    def about(self, codes: Ints) -> Design:
        """The same images with other classes.

        Args:
            codes: (n,) class codes of all images of the benchmark, -1 where an image takes no part.
        """
        mine = np.asarray(codes, dtype=np.int64)[self.images]
        return replace(self, classes=np.where(mine >= 0, mine.astype(np.str_), "").astype(np.str_))


@dataclass(frozen=True)
class _Asked:
    """What the scores of mixing are computed from: images that have a class and a batch."""

    x: Floats
    classes: NDArray[np.str_]
    batch: NDArray[np.str_]
    compounds: NDArray[np.str_]
    seed: int
    reference: bool

    @cached_property
    def other_batch(self) -> NDArray[np.str_]:
        """Batches permuted within classes."""
        return permuted(self.batch, self.classes, self.seed)

    @cached_property
    def other_classes(self) -> NDArray[np.str_]:
        """Classes permuted within batches."""
        return permuted(self.classes, self.batch, self.seed)

    @cached_property
    def lisi(self) -> Floats:
        """(4,) mean LISI of batches, classes, and where a reference is wanted other batches and other classes; else (2,)."""
        names = [self.batch, self.classes, *([self.other_batch, self.other_classes] if self.reference else [])]
        return np.asarray(confounds.lisi_of(self.x, names, self.k(90)).mean(axis=1))

    @cached_property
    def not_same(self) -> confounds.NotSame:
        """NSC and NSCB of the compounds."""
        return confounds.not_same_compound(self.x, self.classes, self.compounds, self.batch)

    def k(self, usual: int) -> int:
        """A quarter of the images at most."""
        return max(1, min(usual, len(self.x) // 4))


def confounds_of(row: str, member: str, vectors: Floats, design: Design, settings: ProbeSettings) -> list[Confound]:
    """Every score of one row: decoding by nearest neighbours, and mixing in the space that all probes see.

    Args:
        row: its name.
        member: the draw the vectors are of.
        vectors: (n, d) of all images, as fitted for the first fold.
        design: of the benchmark.
        settings: of the probes: standardised on training images, at most `max_dim` principal components.
    """
    return [*decodings(row, member, vectors, design, settings), *mixing(row, member, vectors, design, settings)]


def decodings(row: str, member: str, vectors: Floats, design: Design, settings: ProbeSettings) -> list[Confound]:
    """The scores that look at no class: every column that is decoded. Arguments as of `confounds_of`."""
    found = []
    for column in design.columns:
        if column == "Well":
            continue
        decoded = decode(vectors[design.images], column, design.columns, design.units, settings, "knn", design.classes)
        value, n = (decoded.statistic.value, decoded.statistic.n_images) if decoded.statistic else (np.nan, 0)
        low, high = decoded.interval or (np.nan, np.nan)
        # a row that knows the class and no more reads as much of the column as the design ties to the class
        reference = decoded.chance if decoded.of_label is None else max(decoded.chance, decoded.of_label)
        found.append(Confound(row, member, "decoding", column.lower(), value, low, high, reference, n, decoded.note, PROTOCOL))
    return found


def mixing(row: str, member: str, vectors: Floats, design: Design, settings: ProbeSettings, *, reference: bool = True) -> list[Confound]:
    """The scores of batches and classes among the images that have both. Arguments as of `confounds_of`; without `reference` it is NaN, in half
    the time.
    """
    x = fit_projection(vectors[design.train], settings.max_dim).transform(vectors[design.images])
    known = (design.classes != "") & (design.batch != "")
    compounds = design.compounds[known] if len(design.compounds) else design.compounds
    asked = _Asked(x[known], design.classes[known], design.batch[known], compounds, design.seed, reference)
    reason = _why_not(asked, design.batch_column)
    found = []
    for score, compute in SCORES.items():
        value, expected, note = np.nan, np.nan, reason
        if not reason:
            try:
                value, expected = compute(asked)
                note = "" if np.isfinite(value) else "not estimable: no class has images of two batches to compare"
            except InputError as error:
                note = f"not estimable: {str(error).rstrip('.')}"
        found.append(Confound(row, member, score, design.batch_column.lower(), value, np.nan, np.nan, expected, len(asked.x), note, PROTOCOL))
    return found


def _why_not(asked: _Asked, column: str) -> str:
    column, batches = column.lower(), len(set(asked.batch.tolist()))
    if asked.x.shape[1] == 0 or len(asked.x) == 0:
        return "not estimable: the vectors do not differ between images"
    if batches < 2 or len(set(asked.classes.tolist())) < 2:
        return f"not estimable: the test images have {batches} {column} and {len(set(asked.classes.tolist()))} classes, at least 2 are needed of both"
    if len(asked.x) < LEAST_OF_BATCH * batches:
        return f"not estimable: there are fewer than {LEAST_OF_BATCH} images per {column}"
    return ""


def permuted(names: NDArray[T], within: NDArray[np.str_], *seed: int) -> NDArray[T]:
    """`names` permuted among the images that share a value of `within`."""
    rng, found = np.random.default_rng(list(seed)), names.copy()
    for value in np.unique(within):
        inside = np.flatnonzero(within == value)
        found[inside] = names[rng.permutation(inside)]
    return found


def _of_batch(score: Callable[[_Asked, NDArray[np.str_]], float]) -> Callable[[_Asked], tuple[float, float]]:
    return lambda asked: (score(asked, asked.batch), score(asked, asked.other_batch) if asked.reference else np.nan)


def _lisi(asked: _Asked, number: int, of: Callable[[float], float]) -> tuple[float, float]:
    """Of batches (0) or classes (1), and its reference."""
    return of(float(asked.lisi[number])), of(float(asked.lisi[number + 2])) if asked.reference else np.nan


def _regression(asked: _Asked) -> tuple[float, float]:
    found = confounds.principal_component_regression(asked.x, asked.batch)
    return found.share, found.expected


def _connectivity(asked: _Asked) -> tuple[float, float]:
    k = asked.k(15)
    expected = confounds.graph_connectivity(asked.x, asked.other_classes, k) if asked.reference else np.nan
    return confounds.graph_connectivity(asked.x, asked.classes, k), expected


def _kbet(asked: _Asked, batch: NDArray[np.str_]) -> float:
    """Mean over classes of LEAST_OF_CLASS images and two batches."""
    rates = []
    for name in np.unique(asked.classes):
        inside = asked.classes == name
        if inside.sum() >= LEAST_OF_CLASS and len(np.unique(batch[inside])) > 1:
            rates.append(confounds.kbet(asked.x[inside], batch[inside], min(50, int(inside.sum()) // 4)))
    return float(np.mean(rates)) if rates else float("nan")


def _not_same(asked: _Asked, of_batch: bool) -> tuple[float, float]:
    if not len(asked.compounds):
        raise InputError("no column says which compound an image shows.")
    return (asked.not_same.nscb if of_batch else asked.not_same.nsc), float("nan")


#: name -> (score, reference)
SCORES: dict[str, Callable[[_Asked], tuple[float, float]]] = {
    "component regression": _regression,
    "kBET": _of_batch(_kbet),
    "iLISI": lambda asked: _lisi(asked, 0, lambda value: value),
    "cLISI": lambda asked: _lisi(asked, 1, lambda value: 1 - value),
    "BRAS": _of_batch(lambda asked, batch: confounds.bras(asked.x, asked.classes, batch)),
    "connectivity": _connectivity,
    "robustness index": _of_batch(lambda asked, batch: confounds.robustness_index(asked.x, asked.classes, batch, asked.k(50))),
    "NSC": lambda asked: _not_same(asked, False),
    "NSCB": lambda asked: _not_same(asked, True),
}

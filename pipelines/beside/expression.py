"""What rows say of the genes that their images express: HEST-Bench's regression, asked of every row of a benchmark that has counts.

The headline is `hest_cv`, which takes encoders and controls of any dimension by one rule (where a fold has one training patient, its penalty is
chosen inside of that patient, and the protocol id says so); encoders are compared by it alone, with every draw of
their twins. `hest_a1` and `hest_a2` are for parity with the published numbers: they stand beside it, and no difference is taken of them, so that
nothing else of them is kept.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipelines.benchmarks.index import Benchmark
from pipelines.benchmarks.options import IMAGE_UNIT
from pipelines.beside.confounding import permuted
from pipelines.board import CONFOUND, variant
from pipelines.lines import lines_of_cells, write_lines
from pipelines.metrics.expression import PROTOCOLS, Expression, expression_scores, protocol_id
from pipelines.metrics.jackknife import interval, why_not_assessable
from pipelines.metrics.names import whole_names
from pipelines.metrics.probes import FoldFeatures, features_of_fold
from pipelines.metrics.statistic import Statistic
from pipelines.metrics.verdicts import Verdict, judge
from registry.arrays import Floats, Ints
from registry.errors import InputError

HEADLINE = "hest_cv"
BATCH = "Metadata_Batch"
SCORES, GENES, WITHOUT = "expression.parquet", "expression-genes.parquet", "expression-jackknife.parquet"


@dataclass(frozen=True, eq=False)
class Spots:
    """The images of a benchmark that have counts, always-training ones included; the same for every row.

    Attributes:
        images: (m,) their positions in the index.
        genes: g names.
        counts: (m, g) raw counts.
        permuted: (m, g) the same, permuted among the images of a patient.
        units: m names of what is independent: patients.
        folds: (m,) the fold each is tested in, -1 = always training.
        unit: what is independent, in words.
        sections: m names of slides or samples (`Metadata_Batch`); None where the index does not name them for all.
    """

    images: Ints
    genes: tuple[str, ...]
    counts: Floats
    permuted: Floats
    units: NDArray[np.str_]
    folds: Ints
    unit: str
    sections: NDArray[np.str_] | None = None

    @classmethod
    def of(cls, benchmark: Benchmark, seed: int) -> Spots | None:
        """Read them; None where the benchmark has no counts."""
        table = benchmark.expression
        if table is None:
            return None
        images = np.flatnonzero(benchmark.index["image_id"].isin(table.index).to_numpy())
        index = benchmark.index.iloc[images]
        counts = table.loc[index["image_id"]].to_numpy(np.float64)
        units = whole_names(index["unit"], "units")
        other = counts[permuted(np.arange(len(images)), units, seed)]
        folds = index["fold"].to_numpy(np.int64)
        return cls(images, tuple(map(str, table.columns)), counts, other, units, folds, benchmark.card.unit, _sections(index))


def _sections(index: pd.DataFrame) -> NDArray[np.str_] | None:
    """The batch of each image, which of tissue is its slide or sample; None where the index does not name it for all."""
    if BATCH not in index or index[BATCH].isna().any():
        return None
    return whole_names(index[BATCH], "batches", missing="")


@dataclass(frozen=True)
class Expressed:
    """One protocol's score of one draw of a row.

    Attributes:
        row: name of the encoder or control.
        member: its draw.
        protocol: "hest_a1", "hest_a2" or "hest_cv".
        protocol_id: names every rule.
        value: mean over folds and genes of Pearson's r, -1..1, larger is better; NaN where it is not estimable.
        low: lower bound of its 95 % interval over patients; NaN where there is none.
        high: upper bound.
        reference: what is left after counts were permuted once among the spots of each patient: 0, unless the row tells patients apart who
            differ in expression. Of the headline and the first draw; else NaN.
        n_spots: tested spots.
        n_units: patients they are of.
        n_genes: genes.
        note: "", or why there is no value ("not estimable: ...") or no interval.
        constant: pairs of fold and gene that count as r = 0 because prediction or truth does not vary; the reference has NaN there.
    """

    row: str
    member: str
    protocol: str
    protocol_id: str
    value: float
    low: float
    high: float
    reference: float
    n_spots: int
    n_units: int
    n_genes: int
    note: str
    constant: int = 0


@dataclass(frozen=True)
class Gene:
    """One gene by the headline: mean over folds of r, and of the permuted counts."""

    row: str
    member: str
    gene: str
    value: float
    reference: float


@dataclass(frozen=True, eq=False)
class Answer:
    """What one draw of a row gives; `statistic` is the headline's, None where it is not estimable, `genes` of the first draw only."""

    scores: list[Expressed]
    genes: list[Gene]
    statistic: Statistic | None


def expressed(row: str, member: str, features: FoldFeatures, spots: Spots, first: bool) -> Answer:
    """Ask one draw of a row.

    Args:
        row: its name.
        member: the draw.
        features: (n, d) of all images of the benchmark, by fold where they were fitted to several.
        spots: of the benchmark.
        first: whether this draw gets everything; the other draws of a twin get what a comparison needs, the headline.
    """
    numbers = sorted(set(spots.folds[spots.folds >= 0].tolist()))
    several = len({id(features_of_fold(features, number)) for number in numbers}) > 1
    mine = {number: features_of_fold(features, number)[spots.images] for number in (numbers if several else numbers[:1])}
    vectors: FoldFeatures = mine if several else mine[numbers[0]] if numbers else np.zeros((len(spots.images), 0))
    scores, genes, statistic = [], [], None
    for protocol in PROTOCOLS if first else (HEADLINE,):
        blank = Expressed(row, member, protocol, protocol_id(protocol), np.nan, np.nan, np.nan, np.nan, 0, 0, len(spots.genes), "")
        ask = partial(expression_scores, vectors, units=spots.units, folds=spots.folds, protocol=protocol, sections=spots.sections)
        try:
            if spots.unit == IMAGE_UNIT:
                raise InputError("every image is its own unit here, and spots of one patient would be on both sides. Import with `--unit PATIENT`.")
            found = ask(spots.counts)
            chance = ask(spots.permuted) if first and protocol == HEADLINE else None
        except InputError as error:
            scores.append(replace(blank, note=f"not estimable: {str(error).rstrip('.')}"))
            continue
        scores.append(_scored(blank, found, chance))
        if protocol == HEADLINE:
            statistic = found.r
        if chance is not None:
            genes = [Gene(row, member, *one) for one in zip(spots.genes, found.per_gene.tolist(), chance.per_gene.tolist(), strict=True)]
    return Answer(scores, genes, statistic)


def _scored(blank: Expressed, found: Expression, chance: Expression | None) -> Expressed:
    low, high = interval(found.r) or (np.nan, np.nan)
    reason = why_not_assessable(found.r)
    return replace(
        blank,
        protocol_id=found.protocol_id,
        value=found.r.value,
        low=low,
        high=high,
        reference=chance.r.value if chance else np.nan,
        n_spots=found.r.n_images,
        n_units=found.r.n_units,
        constant=found.constant,
        note=f"no interval: {reason}" if reason else "",
    )


def write(folder: Path, answers: Sequence[Answer]) -> None:
    """Publish the scores, the genes and the headline without each patient; empty tables where nothing was asked."""
    write_lines(folder / GENES, Gene, [gene for answer in answers for gene in answer.genes])
    write_lines(folder / WITHOUT, _Without, [left for answer in answers for left in _without(answer)])
    write_lines(folder / SCORES, Expressed, [score for answer in answers for score in answer.scores])


@dataclass(frozen=True)
class _Without:
    """The headline of one draw without one unit, the unit's share, and what the variance is multiplied by."""

    row: str
    member: str
    unit: str
    without: float
    share: float
    inflation: float


def _without(answer: Answer) -> list[_Without]:
    found, score = answer.statistic, answer.scores[-1]
    if found is None:
        return []
    lines = zip(found.units, found.without.tolist(), found.share.tolist(), strict=True)
    return [_Without(score.row, score.member, *line, found.inflation) for line in lines]


def read_scores(folder: Path) -> list[Expressed]:
    """Every score below `W/out/scores/<benchmark>`."""
    return lines_of_cells(folder, SCORES, Expressed)


def read_genes(folder: Path) -> list[Gene]:
    """Every gene below `W/out/scores/<benchmark>`."""
    return lines_of_cells(folder, GENES, Gene)


def read_statistics(folder: Path) -> dict[str, dict[str, list[Statistic]]]:
    """The headline of every row below `W/out/scores/<benchmark>` by kind of draw ("main", "fresh", ...), draws in order."""
    without: dict[tuple[str, str], list[_Without]] = {}
    for left in lines_of_cells(folder, WITHOUT, _Without):
        without.setdefault((left.row, left.member), []).append(left)
    found: dict[str, dict[str, list[Statistic]]] = {}
    for score in read_scores(folder):
        part = without.get((score.row, score.member))
        if score.protocol == HEADLINE and part:
            units, left_out, share = tuple(p.unit for p in part), np.array([p.without for p in part]), np.array([p.share for p in part])
            statistic = Statistic(score.value, units, left_out, share, score.n_spots, score.n_units, inflation=part[0].inflation)
            found.setdefault(score.row, {}).setdefault(variant(score.member), []).append(statistic)
    return found


def compare(
    statistics: Mapping[str, Mapping[str, Sequence[Statistic]]], cards: Mapping[str, Mapping[str, Any]], unit: str, alpha: float, margin: float
) -> list[Verdict]:
    """Every encoder against its twins and the controls by the headline, as in a verdict; nothing is promoted or refused by it.

    Args:
        statistics: from `read_statistics`.
        cards: of the rows: role and twins.
        unit: what is independent, in words.
        alpha: one-sided level.
        margin: of equivalence, on the scale of r.
    """
    single = {name: found["main"][0] for name, found in statistics.items() if "main" in found}
    controls = {name: one for name, one in single.items() if cards[name]["role"] == "negative" and name != CONFOUND}
    verdicts = []
    for name, subject in single.items():
        twins = {f"{twin}/{kind}": seeds for twin in cards[name]["twins"] for kind, seeds in statistics.get(twin, {}).items()}
        if cards[name]["role"] == "encoder" and (twins or controls):
            found = judge(name, "expression", HEADLINE, subject, twins=twins, controls=controls, unit=unit, alpha=alpha, margin=margin)
            verdicts.append(found)
    return verdicts

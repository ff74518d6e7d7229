"""Counts of genes in the images of a benchmark, as they are imported: a row per image (a spot of tissue), a column per gene."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from pipelines.benchmarks.tables import ANNDATA, PREFIX, read_table
from registry.arrays import Floats, Ints
from registry.errors import BenchmarkError

#: most genes that are asked about, as in HEST-Bench
GENES = 50


@dataclass(frozen=True)
class ExpressionTable:
    """Counts as a benchmark stores them.

    Attributes:
        table: image_id and one column of counts of 0 or more per gene, for the images that have them.
        notes: sentences for the card.
    """

    table: pd.DataFrame
    notes: tuple[str, ...]


def read_expression(path: Path, images: Sequence[str]) -> ExpressionTable:
    """The counts of the images of a benchmark.

    Of more than GENES genes those vary most that are kept: by the variance of log(1 + count) over the images. An image without a row takes no
    part, as an image without a label takes no part in a task.

    Args:
        path: CSV, TSV (also gzipped) or Parquet with `image_id` and one column of raw counts per gene (`Metadata_` columns are left out), or
            AnnData (`obs_names` are the ids, `var_names` the genes).
        images: ids of the benchmark.

    Raises:
        BenchmarkError: the file cannot be read, an id or gene occurs twice, no image has a row, or a count is missing, below 0 or no number.
    """
    found = _read_anndata(path) if path.name.lower().endswith(ANNDATA) else _read_table(path)
    twice = found.ids[found.ids.duplicated()]
    if len(twice):
        raise BenchmarkError(f"`{path}`: image `{twice[0]}` has {int((found.ids == twice[0]).sum())} rows; expected one. Sum or drop them.")
    if not found.genes.is_unique:
        raise BenchmarkError(f"`{path}`: gene `{found.genes[found.genes.duplicated()][0]}` occurs more than once. Give each gene one column.")
    known = pd.Index(sorted(images)).intersection(found.ids)
    if known.empty:
        raise BenchmarkError(
            f"No row of `{path}` belongs to an image: it has ids like `{found.ids[0]}`, the images like `{min(images)}`. Name the rows as the images."
        )
    counts = found.dense(found.ids.get_indexer(known))
    wrong = ~np.isfinite(counts) | (counts < 0)
    if wrong.any():
        row, gene = np.argwhere(wrong)[0]
        raise BenchmarkError(
            f"`{path}`: expected counts of 0 or more for every image and gene, got {counts[row, gene]:g} of `{found.genes[gene]}` in image"
            f" `{known[row]}` ({int(wrong.sum())} such). Give raw counts: the logarithm is taken when they are scored."
        )
    kept = _varying_most(counts)
    table = pd.DataFrame(counts[:, kept], columns=found.genes[kept])
    table.insert(0, "image_id", known.to_numpy())
    return ExpressionTable(table, tuple(_notes(images, found, table, counts[:, kept])))


@dataclass(frozen=True)
class _Counts:
    """What a file holds: ids of rows, names of genes, and (n, g) counts, dense or sparse."""

    ids: pd.Index[str]
    genes: pd.Index[str]
    values: Floats

    def dense(self, rows: Ints) -> Floats:
        """(m, g) float32 of these rows: exact for counts up to 2^24, and half the memory of thousands of genes."""
        chosen = self.values[rows]
        return np.asarray(chosen.toarray() if hasattr(chosen, "toarray") else chosen, dtype=np.float32)


def _read_anndata(path: Path) -> _Counts:
    import anndata

    try:
        data = anndata.read_h5ad(path)
    except (OSError, ValueError, KeyError) as error:
        raise BenchmarkError(f"`{path}` cannot be read as AnnData ({type(error).__name__}: {error}).") from error
    if data.X is None or 0 in data.shape:
        raise BenchmarkError(f"`{path}`: expected counts in `X`, a row per image and a column per gene, got none.")
    return _Counts(data.obs_names.astype(str), data.var_names.astype(str), data.X)


def _read_table(path: Path) -> _Counts:
    if path.name.lower().endswith(".parquet"):
        try:
            table = pd.read_parquet(path)
        except (OSError, ValueError) as error:
            raise BenchmarkError(f"`{path}` cannot be read as a table ({type(error).__name__}: {error}).") from error
    else:
        table = read_table(path)
    if "image_id" not in table:
        raise BenchmarkError(f"`{path}`: expected a column `image_id` and a column of counts per gene, got {', '.join(map(str, table.columns[:6]))}.")
    genes = [c for c in table.columns if c != "image_id" and not str(c).startswith((PREFIX, "Unnamed: "))]
    numbers = table[genes].apply(pd.to_numeric, errors="coerce")
    words = numbers.isna() & table[genes].notna()
    if not genes or words.to_numpy().any():
        text = f"`{table[genes].to_numpy()[words.to_numpy()][0]}` in `{words.columns[words.any()][0]}`" if genes else "no other column"
        raise BenchmarkError(
            f"`{path}`: expected `image_id` and columns of counts, got {text}. Name columns that are no genes `{PREFIX}...`, or leave them out."
        )
    return _Counts(pd.Index(table["image_id"].astype(str)), pd.Index([str(g) for g in genes]), numbers.to_numpy(np.float64))


def _varying_most(counts: Floats) -> list[int]:
    """Positions of at most GENES genes, in order; of equally varying ones the first."""
    # a few at a time: the logarithm of thousands of genes would take as much memory again
    variance = [np.log1p(counts[:, i : i + GENES]).var(axis=0, dtype=np.float64) for i in range(0, counts.shape[1], GENES)]
    return sorted(np.argsort(-np.concatenate(variance), kind="stable")[:GENES].tolist())


def _notes(images: Sequence[str], found: _Counts, table: pd.DataFrame, kept: Floats) -> list[str]:
    notes = []
    if len(found.genes) > GENES:
        notes.append(f"Expression: {GENES} of {len(found.genes)} genes are asked about, those whose log(1 + count) varies most between images.")
    if len(table) < len(images):
        notes.append(f"Expression: {len(images) - len(table)} of {len(images)} images have no counts and take no part in it.")
    if len(found.ids) > len(table):
        notes.append(f"Expression: {len(found.ids) - len(table)} rows of counts belong to no image and were left out.")
    if (kept % 1 != 0).any():
        notes.append("Expression: not all counts are whole numbers. If their logarithm was taken before, it is taken twice.")
    return notes

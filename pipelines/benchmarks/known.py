"""What is known about the perturbations of a screen: relations between genes, targets of compounds, and several labels for each."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from pipelines.benchmarks.options import ImportOptions, benchmark_name
from pipelines.benchmarks.tables import read_table, require
from registry.errors import BenchmarkError, ParamsError

ENTITY, TREATMENT = "Metadata_Entity", "Metadata_Treatment"
#: index columns of several labels, joined by SEPARATOR
PREFIX, SEPARATOR = "labels_", "|"
RELATIONS, TARGETS = "relations.parquet", "targets.parquet"
#: what a target table calls the concentration at which compound and gene interact
NANOMOLAR = "nanomolar"


def known_tables(index: pd.DataFrame, options: ImportOptions) -> tuple[dict[str, pd.DataFrame], list[str]]:
    """The tables that are stored with a benchmark, by file name, and what must be said about them.

    Only what can be asked of this benchmark is kept: relations between its entities, and targets among them.

    Args:
        index: of the benchmark.
        options: `relations` and `targets`.

    Raises:
        BenchmarkError: a table lacks a column, or names nothing that the benchmark has.
        ParamsError: tables without the column that they are about.
    """
    if not (options.relations or options.targets):
        return {}, []
    if ENTITY not in index:
        raise ParamsError("Relations and targets are about genes or the like. Say with `--entity COLUMN` which one a well perturbs.")
    entities = set(index[ENTITY].dropna())
    tables, notes = {}, []
    if options.relations:
        tables[RELATIONS], said = read_relations(options.relations, entities)
        notes += said
    if options.targets:
        if TREATMENT not in index:
            raise ParamsError("Targets are those of compounds. Say with `--treatment COLUMN` which one a well got.")
        tables[TARGETS], note = read_targets(options.targets, entities, set(index.loc[index[ENTITY].isna(), TREATMENT].dropna()))
        notes.append(note)
    return tables, notes


def read_relations(paths: Sequence[Path], entities: set[str]) -> tuple[pd.DataFrame, list[str]]:
    """Known relations between entities: columns source (the file's name), entity1, entity2, each pair once and in order; and a note for each file.

    Raises:
        BenchmarkError: no columns `entity1` and `entity2`, none of the pairs is between two of the entities, or two files of one name.
    """
    found, notes = [], []
    for path in paths:
        table = read_table(path)
        ends = np.sort(np.stack([require(table, c, f"relations of `{path.name}`").fillna("").astype(str) for c in ("entity1", "entity2")], axis=1))
        pairs = pd.DataFrame(ends, columns=["entity1", "entity2"]).drop_duplicates()
        pairs = pairs[(pairs["entity1"] != pairs["entity2"]) & (pairs["entity1"] != "")]
        kept = pairs[pairs.isin(entities).all(axis=1)].sort_values(["entity1", "entity2"])
        if kept.empty:
            raise BenchmarkError(
                f"None of the {len(pairs)} pairs of `{path.name}` is between two of the {len(entities)} entities here"
                f" ({_some(table['entity1'])} there, {_some(entities)} here). Compare how both name them."
            )
        source = path.name.partition(".")[0]
        found.append(kept.assign(source=source)[["source", "entity1", "entity2"]])
        notes.append(f"`{source}`: {len(kept)} of its {len(pairs)} relations are between two of the {len(entities)} entities here.")
    names = [table["source"].iloc[0] for table in found]
    if len(set(names)) < len(names):
        raise BenchmarkError(f"Expected relation tables of different names, got {', '.join(f'`{n}`' for n in names)}. Rename one.")
    return pd.concat(found, ignore_index=True), notes


def read_targets(path: Path, entities: set[str], compounds: set[str]) -> tuple[pd.DataFrame, str]:
    """Known targets of compounds: columns compound, gene, nanomolar (0 where the table has no such column); and a note.

    Args:
        path: with columns `compound`, `gene` and, where the strength is known, `nanomolar`.
        entities: genes that are perturbed here.
        compounds: treatments that perturb none of them themselves: the profile of a compound that counts as its target's would find itself.

    Raises:
        BenchmarkError: a column is missing or holds no numbers of at least 0, or nothing is about these compounds and genes.
    """
    table = read_table(path)
    pairs = pd.DataFrame({c: require(table, c, f"targets of `{path.name}`") for c in ("compound", "gene")})
    pairs[NANOMOLAR] = pd.to_numeric(table[NANOMOLAR], errors="coerce") if NANOMOLAR in table else 0.0
    odd = int((~(pairs[NANOMOLAR] >= 0)).sum())
    if odd:
        raise BenchmarkError(f"`{path.name}`: {odd} values of `{NANOMOLAR}` are no numbers of at least 0. Fill them, or drop the column.")
    kept = pairs[pairs["compound"].isin(compounds) & pairs["gene"].isin(entities)].drop_duplicates().sort_values(["compound", "gene", NANOMOLAR])
    if kept.empty:
        raise BenchmarkError(
            f"`{path.name}`: none of the {len(pairs)} pairs is of a compound and a gene of this benchmark: it has {len(entities)} entities"
            f" ({_some(entities)}) and {len(compounds)} treatments without one ({_some(compounds)}); the table has {_some(pairs['compound'])} and"
            f" {_some(pairs['gene'])}. A treatment whose wells name an entity is part of that entity's profile and is not asked for its target."
        )
    of = f"{kept['compound'].nunique()} compounds and {kept['gene'].nunique()} genes"
    return kept.reset_index(drop=True), f"`{path.name}`: {len(kept)} of its {len(pairs)} pairs are of treatments and entities here, {of}."


def label_columns(rows: pd.DataFrame, stated: Sequence[tuple[str, str]]) -> pd.DataFrame:
    """Columns of several labels for the index: each row's labels sorted, once each, joined by `|`; null where there is none.

    Args:
        rows: of the manifest.
        stated: (column, what separates its labels).

    Raises:
        BenchmarkError: no such column, or a label holds a `|` although something else separates them.
    """
    found = {}
    for column, separator in stated:
        values = require(rows, column, "several labels")
        sets = [tuple(sorted({part.strip() for part in str(v).split(separator)} - {""})) if pd.notna(v) else () for v in values]
        odd = next((label for labels in sets for label in labels if SEPARATOR in label), None)
        if odd is not None:
            raise BenchmarkError(
                f"`{column}`: expected labels without `{SEPARATOR}` between `{separator}`, got `{odd}`. State which of them separates."
            )
        name = f"{PREFIX}{benchmark_name(column.removeprefix('Metadata_'))}"
        found[name] = pd.Series([SEPARATOR.join(labels) or None for labels in sets], index=rows.index, dtype=object)
    return pd.DataFrame(found, index=rows.index)


def label_sets(values: pd.Series) -> list[frozenset[str]]:
    """The labels of each row of such a column."""
    return [frozenset(str(v).split(SEPARATOR)) if pd.notna(v) else frozenset() for v in values]


def _some(values: Iterable[str]) -> str:
    shown = sorted({str(v) for v in values} - {"nan", "None"})[:3]
    return ", ".join(f"`{v}`" for v in shown) or "none"

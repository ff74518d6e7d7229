"""What a benchmark asks: label columns become tasks, units become folds, and what must be said about both becomes notes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import pandas as pd

from pipelines.benchmarks.annotations import confound_notes, metadata, position_notes, settle_labels, unit_notes
from pipelines.benchmarks.card import Task
from pipelines.benchmarks.known import label_columns
from pipelines.benchmarks.options import IMAGE_UNIT, ImportOptions, benchmark_name
from pipelines.benchmarks.splits import assign_folds, default_folds, stated_folds
from pipelines.benchmarks.tables import require
from registry.arrays import Ints


@dataclass(frozen=True)
class Asked:
    """An index without files.

    Attributes:
        index: image_id, `Metadata_*`, `labels_*` of several labels, unit, `label_*`, fold.
        tasks: one per label column.
        notes: sentences for the card.
    """

    index: pd.DataFrame
    tasks: tuple[Task, ...]
    notes: tuple[str, ...]


def ask(rows: pd.DataFrame, units: pd.Series, labels: Sequence[str], options: ImportOptions, thing: str = "image") -> Asked:
    """Tasks, folds and notes of a benchmark.

    Args:
        rows: one row per image (or profile) with `image_id`, the label columns and whatever `metadata` reads.
        units: (n,) what is independent.
        labels: columns, one task each.
        options: the unit's name, the rule for rare labels, folds, columns of metadata.
        thing: what a row is, in words.

    Raises:
        BenchmarkError: labels or units cannot be used.
    """
    unit = str(options.unit)
    meta = metadata(rows, options)
    index = rows[["image_id"]].join(meta).join(label_columns(rows, options.multilabels))
    index["unit"] = units
    tasks, notes = [], [*unit_notes(unit, units), *position_notes(meta)]
    for column in labels:
        task = Task(_task_name(column), "", options.metric)
        settled = settle_labels(column, rows[column], units, options.rare_labels, options.least_units)
        index[task.column] = settled.values
        tasks.append(replace(task, question=_question(column, settled.values.nunique(), unit, thing)))
        notes += [*settled.notes, *confound_notes(column, settled.values, meta, units)]
    index["fold"], how = _split(rows, units, index[[task.column for task in tasks]], options)
    notes.append(how)
    return Asked(index, tuple(tasks), tuple(notes))


def _split(rows: pd.DataFrame, units: pd.Series, labels: pd.DataFrame, options: ImportOptions) -> tuple[Ints, str]:
    """The fold of each row, and a sentence that says whose the split is."""
    if isinstance(options.folds, str):
        stated = stated_folds(require(rows, options.folds, "folds"), units)
        names = ", ".join(f"`{name}`" for name in stated.names)
        always = f"; {int((stated.fold < 0).sum())} are never tested" if (stated.fold < 0).any() else ""
        return stated.fold, f"Split as column `{options.folds}` states: tested in {names}{always}."
    folds = options.folds or default_folds(units.nunique())
    how = f"{folds} folds" if folds > 1 else "One half of the units held out"
    return assign_folds(units, labels, folds, options.seed), f"{how} by `{options.unit}`, balanced over classes."


def _task_name(column: str) -> str:
    return benchmark_name(re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "-", column.removeprefix("Metadata_")))


def _question(column: str, classes: int, unit: str, thing: str) -> str:
    held_out = f"on {thing}s" if unit == IMAGE_UNIT else f"on a {unit} that was"
    return f"Which of {classes} kinds of `{column}` does {'an' if thing[0] in 'aeiou' else 'a'} {thing} show, {held_out} never seen in training?"

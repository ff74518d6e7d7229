"""What is said about each image: labels, the unit, plate, well and the like, and what must be told about them."""

from __future__ import annotations

import re
from dataclasses import dataclass

import pandas as pd

from pipelines.benchmarks.options import IMAGE_UNIT, LEAST_UNITS, ImportOptions
from pipelines.benchmarks.tables import require
from registry.errors import BenchmarkError

#: no interval below this number of units per class, and below this number of units (`metrics.jackknife`)
UNITS_FOR_INTERVAL, UNITS_FOR_VERDICT = 3, 10
METADATA = ("plate", "well", "site", "batch", "patient", "treatment", "entity")
#: rows A to AF of plates with up to 1536 wells
_WELL = re.compile(r"([A-Z]|A[A-F])[-_ ]?0*([1-9]\d?)")


@dataclass(frozen=True)
class Labels:
    """Labels of one task after the rule for rare ones.

    Attributes:
        values: (n,) label, or null where the image takes no part.
        notes: sentences for the card.
    """

    values: pd.Series
    notes: tuple[str, ...]


def settle_labels(task: str, raw: pd.Series, units: pd.Series, rule: str, least: int = LEAST_UNITS) -> Labels:
    """Apply the rule for labels that occur in too few units, and say which labels have too few units for an interval.

    Args:
        task: the task's name, for messages.
        raw: (n,) label or null.
        units: (n,) unit.
        rule: "exclude": images with such a label take no part; "keep": they do, and cannot be predicted when their unit is held out.
        least: units from which on a label is not rare.

    Raises:
        BenchmarkError: fewer than two classes, before or after the rule.
    """
    per_label = units.groupby(raw).nunique()
    if len(per_label) < 2:
        got = f"one class, `{per_label.index[0]}`" if len(per_label) else "no label at all"
        raise BenchmarkError(f"`{task}`: expected at least two classes, got {got}. Name another label column, or widen the selection.")
    rare = sorted(str(label) for label in per_label.index[per_label < least])
    few_units = "in one unit only" if least == LEAST_UNITS else f"in fewer than {least} units"
    notes = []
    if rare:
        action = "excluded" if rule == "exclude" else "kept, and cannot be predicted when no other unit has it"
        images = int(raw.isin(rare).sum())
        notes.append(f"`{task}`: {_listed(rare)} {few_units} ({images} images): {action}.")
    kept = raw.where(~raw.isin(rare)) if rule == "exclude" else raw
    if kept.nunique() < 2:
        raise BenchmarkError(
            f"`{task}`: {len(rare)} of {len(per_label)} classes occur {few_units}, so fewer than two can be predicted on units that were"
            " held out. Name a smaller unit (`image` at the least), keep them (`--rare-labels keep`), or collect more units."
        )
    few = sorted(str(label) for label, n in per_label.items() if max(least, LEAST_UNITS) <= n < UNITS_FOR_INTERVAL)
    if few:
        notes.append(f"`{task}`: {_listed(few)} in two units only; an interval needs {UNITS_FOR_INTERVAL} units of every class.")
    missing = int(raw.isna().sum())
    if missing:
        notes.append(f"`{task}`: {missing} images have no label and take no part.")
    return Labels(kept.astype(object).where(kept.notna(), None), tuple(notes))


def _listed(labels: list[str]) -> str:
    shown = ", ".join(f"`{label}`" for label in labels[:8])
    return f"label {shown}" if len(labels) == 1 else f"{len(labels)} labels ({shown}{', ...' if len(labels) > 8 else ''})"


def settle_units(rows: pd.DataFrame, column: str | None, images: pd.Series, controls: pd.Series | None = None) -> pd.Series:
    """What is independent.

    Args:
        rows: the manifest's rows.
        column: a column, or "image".
        images: (n,) the units of "image": the image's id; for copies the id of the first of them, so that no copy of a test image is
            trained on; for objects the image they were cut from.
        controls: (n,) control wells: where they have no unit they are one each, since they take part in no task.

    Returns:
        (n,) text.

    Raises:
        BenchmarkError: no unit stated, no such column, or nulls in it.
    """
    if column is None:
        raise BenchmarkError(
            "Nothing says what is independent in this experiment. State `--unit COLUMN` (plate, patient, donor, slide, ...) or, where there"
            f" are no groups, `--unit {IMAGE_UNIT}`. The columns are {', '.join(f'`{c}`' for c in rows.columns)}."
        )
    if column == IMAGE_UNIT:
        return images
    values = require(rows, column, "unit")
    if controls is not None:
        values = values.where(values.notna() | ~controls, rows["image_id"])
    if values.isna().any():
        empty = int(values.isna().sum())
        raise BenchmarkError(f"The unit column `{column}` is empty for {empty} of {len(values)} images. Fill it, or select with `--where`.")
    return values.astype(str)


def unit_notes(unit: str, units: pd.Series) -> list[str]:
    """What the kind and number of units mean for the results."""
    notes = ["images as units: optimistic"] if unit == IMAGE_UNIT else []
    if units.nunique() < UNITS_FOR_VERDICT:
        notes.append(f"{units.nunique()} units of `{unit}`: too few for an interval or a verdict, which need {UNITS_FOR_VERDICT}.")
    return notes


def metadata(rows: pd.DataFrame, options: ImportOptions) -> pd.DataFrame:
    """`Metadata_Plate`, `_Well`, `_Site`, `_Batch`, `_Patient`, `_Treatment`, `_Entity` where columns hold them; `_Row` and `_Column`
    (from 1) from names like `B03`; `Metadata_control`, whether it is a control well, where `options.negcon` says how they are known.

    Positions are only derived when every well is a letter-number name: a plain number does not say how its plate is counted.

    Raises:
        BenchmarkError: a column that was asked for does not exist.
    """
    found: dict[str, pd.Series] = {}
    for name in METADATA:
        asked = getattr(options, name)
        column = asked or next((c for c in rows.columns if c.lower() in (name, f"metadata_{name}")), None)
        if column is not None:
            found[f"Metadata_{name.capitalize()}"] = require(rows, column, name)
    wells = found.get("Metadata_Well")
    if wells is not None:
        matches = [_WELL.fullmatch(str(w).upper()) for w in wells]
        if all(matches):
            found["Metadata_Row"] = pd.Series([_row_number(m[1]) for m in matches if m], index=rows.index)
            found["Metadata_Column"] = pd.Series([int(m[2]) for m in matches if m], index=rows.index)
    if options.negcon is not None:
        controls = found["Metadata_control"] = control_rows(rows, options)
        if "Metadata_Treatment" in found:
            treatments = found["Metadata_Treatment"]
            found["Metadata_Treatment"] = treatments.where(treatments.notna() | ~controls, "control")
        if "Metadata_Entity" in found:
            # what controls are called (`NO-TARGET`, `LacZ`) is nothing that relations are known of
            found["Metadata_Entity"] = found["Metadata_Entity"].where(~controls, None)
    return pd.DataFrame(found, index=rows.index)


def control_rows(rows: pd.DataFrame, options: ImportOptions) -> pd.Series:
    """(n,) whether each row is a control well.

    Raises:
        BenchmarkError: no such column, or none is.
    """
    if options.negcon is None:
        return pd.Series(False, index=rows.index)
    column, value = options.negcon
    found = require(rows, column, "control wells") == value
    if not found.any():
        there = ", ".join(f"`{v}`" for v in sorted(rows[column].dropna().unique())[:12])
        raise BenchmarkError(f"No row has `{value}` in `{column}`, which is to name the control wells. There are: {there}.")
    return found


def _row_number(letters: str) -> int:
    number = 0
    for letter in letters:
        number = 26 * number + ord(letter) - ord("A") + 1
    return number


def confound_notes(task: str, labels: pd.Series, meta: pd.DataFrame, units: pd.Series) -> list[str]:
    """Sentences about plates, batches or patients (other than the units) that could give the class away: classes found in one of them only."""
    notes = []
    for column in ("Metadata_Plate", "Metadata_Batch", "Metadata_Patient"):
        if column not in meta or meta[column].nunique() < 2 or (meta[column] == units).all():
            continue
        per_label = meta[column].groupby(labels).nunique()
        alone = int((per_label == 1).sum())
        if alone:
            name = column.removeprefix("Metadata_").lower()
            notes.append(f"`{task}`: {alone} of {len(per_label)} classes occur in one {name} only: recognising the {name} would do for them.")
    return notes


def position_notes(meta: pd.DataFrame) -> list[str]:
    """Says so where there are wells, but no rows and columns could be read from their names."""
    if "Metadata_Well" in meta and "Metadata_Row" not in meta:
        return [f"Wells like `{meta['Metadata_Well'].iloc[0]}` do not name a row and a column: positions on the plate are not known."]
    return []

"""What a user says about a folder of images that is to become a benchmark."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.benchmarks.card import MODALITIES, NAME, PRIMARY_METRICS
from registry.errors import ParamsError

#: the value of `unit` with which every image counts as independent
IMAGE_UNIT = "image"
RARE_RULES = ("exclude", "keep")
#: labels must occur in this many units to be scored on a unit that was never seen in training
LEAST_UNITS = 2
#: a line of keys as they may be written in blankslide.yaml for the plural fields
_ALIASES = {"label": "labels", "channel": "channels", "multilabel": "multilabels"}
_TUPLES = ("path", "labels", "channels", "patches")
_INTEGERS = ("crop", "least_units", "tolerate", "seed", "workers")


@dataclass(frozen=True)
class ImportOptions:
    """How the images of a folder are found, read and labelled. Columns are those of the table, or the fields of the pattern.

    Attributes:
        table: CSV, TSV or Parquet, relative to the folder or to the working directory. None: the only table of the folder that
            names its images if `labels` are given, otherwise class folders (each sub-folder is a class).
        path: column of the image file (path, file name or name without suffix); several columns: one file per channel.
            (): found by the rule in `tables.path_columns`.
        pattern: files of the folder, as `{well}_{site}_{channel}.tif`: every field becomes a column, `{channel}` joins the files of
            one image, `*` stands for anything inside a name and `**/` for any folders. With a table, it is joined on the shared columns.
        image_id: column of the unique id; None: the column `image_id` where there is one, else the file's name.
        labels: columns, one task each; () with class folders, whose task is `class`.
        unit: what is independent: a column, or "image". There is no default.
        plate, well, site, batch, patient, treatment, entity: columns of that metadata; None: the column of exactly that name, or
            `Metadata_<Name>`. The entity is what a treatment acts on, such as a gene; null where that is not known.
        negcon: (column, value) that control wells have; they need no label, treatment, entity or unit.
        relations: tables of known relations between entities (`known.read_relations`), relative to the folder or to the working
            directory.
        targets: table of known targets of compounds (`known.read_targets`), likewise.
        multilabels: (column, separator): columns that hold several labels of a treatment, such as its mechanisms.
        where: (column, value) pairs that a row must have; several values of one column are alternatives.
        channels: names in order; with one file per channel, the values of `{channel}`. (): what the files say, else `channel_1`, ...
        pixel_size_um: micrometres per pixel; None: what the files say.
        modality: "cells", "tissue" or "natural".
        title, licence, citation, source: for the card.
        nuclei: table with image_id, x_px, y_px, area_px and optionally nucleus, type.
        expression: table of raw counts of genes: image_id and a column per gene, or AnnData.
        mask: column of a label mask; with `object` each row is one object of the image.
        object: column of the object's number in the mask.
        patches: columns of the larger image that an image was cut from, and of the y and x of its first pixel there, in its own pixels: so that
            overlapping ones are found.
        crop: side in pixels of the square cut around each object; None: `objects.crop_side`.
        folds: outer folds; 1: one held-out half; None: `splits.default_folds`; a column that states each image's test fold: `splits.stated_folds`.
        rare_labels: what becomes of a label that occurs in fewer than `least_units` units: "exclude" or "keep".
        least_units: see `rare_labels`; an interval needs 3 units of every class.
        metric: what verdicts are about, of all tasks.
        tolerate: how many unusable images may be left out.
        seed: of the split's tie-breaking.
        replace: whether a benchmark of that name may be overwritten.
        workers: threads that read images.
    """

    table: Path | None = None
    path: tuple[str, ...] = ()
    pattern: str | None = None
    image_id: str | None = None
    labels: tuple[str, ...] = ()
    unit: str | None = None
    plate: str | None = None
    well: str | None = None
    site: str | None = None
    batch: str | None = None
    patient: str | None = None
    treatment: str | None = None
    entity: str | None = None
    negcon: tuple[str, str] | None = None
    relations: tuple[Path, ...] = ()
    targets: Path | None = None
    multilabels: tuple[tuple[str, str], ...] = ()
    where: tuple[tuple[str, str], ...] = ()
    channels: tuple[str, ...] = ()
    pixel_size_um: float | None = None
    modality: str = "cells"
    title: str = ""
    licence: str = "not stated"
    citation: str = ""
    source: str = ""
    nuclei: Path | None = None
    expression: Path | None = None
    mask: str | None = None
    object: str | None = None
    patches: tuple[str, ...] = ()
    crop: int | None = None
    folds: int | str | None = None
    rare_labels: str = "exclude"
    least_units: int = LEAST_UNITS
    metric: str = PRIMARY_METRICS[0]
    tolerate: int = 0
    seed: int = 0
    replace: bool = False
    workers: int = 4

    def __post_init__(self) -> None:
        _one_of("modality", self.modality, MODALITIES)
        _one_of("rare_labels", self.rare_labels, RARE_RULES)
        _one_of("metric", self.metric, PRIMARY_METRICS)
        for name, value, least in (
            ("folds", self.folds, 1),
            ("crop", self.crop, 2),
            ("least_units", self.least_units, LEAST_UNITS),
            ("tolerate", self.tolerate, 0),
            ("seed", self.seed, 0),
            ("workers", self.workers, 1),
        ):
            if isinstance(value, int) and value < least:
                raise ParamsError(f"Expected `{name}` to be at least {least}, got {value}.")
        if self.pixel_size_um is not None and self.pixel_size_um <= 0:
            raise ParamsError(f"Expected `pixel_size_um` to be more than 0, got {self.pixel_size_um}.")
        if (self.mask is None) != (self.object is None):
            raise ParamsError("Objects need both `mask` (the column of the label mask) and `object` (the column of the object's number in it).")
        if self.patches and (len(self.patches) != 3 or self.object is not None):
            other = "beside `object`, whose places are known" if self.object is not None else f"`{','.join(self.patches)}`"
            raise ParamsError(
                f"Expected `patches` to be three columns, of the larger image, y and x, and images that were cut elsewhere, got {other}."
            )
        if self.pattern is not None and self.path:
            raise ParamsError("Expected either `path` columns or a `pattern`, got both. Leave one out.")

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any], source: str) -> ImportOptions:
        """Options from plain values (YAML); `label: x` may stand for `labels: [x]`, `where` is a mapping.

        Args:
            values: key to value; keys are the fields.
            source: what the mapping is called in messages.

        Raises:
            ParamsError: unknown key, or a value that does not fit.
        """
        known = {field.name for field in dataclasses.fields(cls)}
        fields: dict[str, Any] = {}
        for key, value in values.items():
            name = _ALIASES.get(key, key)
            if name not in known:
                raise ParamsError(f"`{source}`: there is no option `{key}`. Known: {', '.join(sorted(known))}.")
            if name in fields:
                raise ParamsError(f"`{source}`: `{name}` is given twice.")
            fields[name] = _converted(name, value, source)
        try:
            return cls(**fields)
        except ParamsError as error:
            raise ParamsError(f"`{source}`: {error}") from error


def parse_where(text: str) -> tuple[str, str]:
    """`column=value` of the command line as a pair.

    Raises:
        ParamsError: no `=`, or no column before it.
    """
    column, equals, value = text.partition("=")
    if not equals or not column:
        raise ParamsError(f"Expected a condition `column=value`, got `{text}`.")
    return column, value


def parse_multilabel(text: str) -> tuple[str, str]:
    """`column` or `column=separator` of the command line as a pair; labels are separated by `|` where nothing else is said.

    Raises:
        ParamsError: no column, or nothing after `=`.
    """
    column, equals, separator = text.partition("=")
    if not column or (equals and not separator):
        raise ParamsError(f"Expected a column of several labels as `column` or `column=separator`, got `{text}`.")
    return column, separator or "|"


def parse_folds(text: str) -> int | str:
    """A number of outer folds, or the column that states them."""
    return int(text) if text.isdecimal() else text


def benchmark_name(text: str) -> str:
    """`text` as a benchmark name: lower case, anything but letters, digits, `_` and `-` replaced by `-`.

    Raises:
        ParamsError: nothing is left.
    """
    name = re.sub(r"[^a-z0-9_-]+", "-", text.lower()).strip("-_")
    if not NAME.fullmatch(name):
        raise ParamsError(f"`{text}` cannot be made a benchmark name. State one of `[a-z0-9][a-z0-9_-]*`.")
    return name


def _one_of(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ParamsError(f"Expected `{name}` to be {' or '.join(f'`{k}`' for k in known)}, got `{value}`.")


def _converted(name: str, value: Any, source: str) -> Any:
    if value is None:
        raise ParamsError(f"`{source}`: `{name}` has no value. Leave the key out.")
    if name in _TUPLES:
        return tuple(str(v) for v in value) if isinstance(value, (list, tuple)) else (str(value),)
    if name == "where":
        return _conditions(value, source)
    if name == "negcon":
        return parse_where(str(value))
    if name == "relations":
        return tuple(Path(str(v)) for v in (value if isinstance(value, (list, tuple)) else [value]))
    if name == "multilabels":
        return tuple(parse_multilabel(str(v)) for v in (value if isinstance(value, (list, tuple)) else [value]))
    if name in ("table", "nuclei", "expression", "targets"):
        return Path(str(value))
    if name == "replace":
        if not isinstance(value, bool):
            raise ParamsError(f"`{source}`: expected `replace` to be true or false, got `{value}`.")
        return value
    if name == "folds" and isinstance(value, str):
        return parse_folds(value)
    if name in (*_INTEGERS, "folds", "pixel_size_um"):
        expected, kinds = ("a number", (int, float)) if name == "pixel_size_um" else ("a whole number", (int,))
        if isinstance(value, bool) or not isinstance(value, kinds):
            raise ParamsError(f"`{source}`: expected `{name}` to be {expected}, got `{value}`.")
        return value
    if isinstance(value, (list, dict)):
        raise ParamsError(f"`{source}`: expected one value for `{name}`, got `{value}`.")
    return str(value)


def _conditions(value: Any, source: str) -> tuple[tuple[str, str], ...]:
    if not isinstance(value, Mapping):
        raise ParamsError(f"`{source}`: expected `where` to be a mapping of columns to values, got `{value}`.")
    return tuple((str(column), str(v)) for column, values in value.items() for v in (values if isinstance(values, list) else [values]))

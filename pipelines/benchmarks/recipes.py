"""A folder of data sets: how each is to be imported, from what it states or else by a rule that says what it chose."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from pipelines.benchmarks.layout import class_layout, is_dataset
from pipelines.benchmarks.manifests import CLASS
from pipelines.benchmarks.options import IMAGE_UNIT, LEAST_UNITS, ImportOptions, benchmark_name
from pipelines.benchmarks.reading import inside
from pipelines.benchmarks.tables import ImageFiles, masklike, normal, path_columns, read_table
from registry.errors import BenchmarkError, ParamsError

#: a data set's own statement
STATEMENT = "blankslide.yaml"
#: key of a recipe for a second benchmark of a sub-folder
FOLDER = "folder"
#: column names (see `tables.normal`) of labels, in the order of preference
LABEL_NAMES = (
    *("label", "labels", "class", "classname", "classlabel", "phenotype", "phase", "cellcyclephase", "celltype", "cellclass", "category"),
    *("diagnosis", "grade", "stage", "state", "condition", "treatment", "perturbation", "compound", "moa", "gene", "target", "genotype", "crowding"),
)
#: column names of what may be independent, in the order of preference: the individual, the glass or plastic, the day, the well
UNIT_NAMES = (
    *("patient", "patientid", "donor", "donorid", "subject", "subjectid", "case", "caseid", "individual", "animal", "animalid", "mouse", "embryo"),
    *("slide", "slideid", "plate", "plateid", "platename", "platebarcode", "assayplatebarcode", "barcode", "batch", "batchid", "experiment"),
    *("experimentid", "run", "runid", "sample", "sampleid", "well", "wellid"),
)
METADATA_NAMES = {
    "plate": ("plate", "plateid", "platename", "platebarcode", "assayplatebarcode", "barcode"),
    "well": ("well", "wellid", "wellname", "wellposition"),
    "site": ("site", "siteid", "field", "fieldid", "fov"),
    "batch": ("batch", "batchid", "experiment", "experimentid", "run", "runid"),
    "patient": ("patient", "patientid", "donor", "donorid", "subject", "subjectid"),
}
OBJECT_NAMES = ("object", "objectid", "objectnumber", "cellnb", "cellnumber", "cellid", "celllabel", "cell", "nucleus", "nucleusid")
_NUCLEI = {"image_id", "x_px", "y_px", "area_px"}
_MOST_CLASSES = 50


@dataclass(frozen=True)
class Recipe:
    """How one data set is imported, or why it is not.

    Attributes:
        name: of the benchmark.
        folder: of the data set.
        options: for `importer.import_folder`.
        notes: what was chosen by rule, for the card.
        skipped: the reason why it is left out; "" where it is imported.
    """

    name: str
    folder: Path
    options: ImportOptions = field(default_factory=ImportOptions)
    notes: tuple[str, ...] = ()
    skipped: str = ""


def find_datasets(folder: Path, recipes: Path | None = None) -> list[Recipe]:
    """The data sets in the sub-folders of a folder (or the folder itself, where it is one), in the order of their names.

    What a data set states in `blankslide.yaml` and what `recipes` states under its folder's name (this wins) are options of
    `ImportOptions`, or `skip: <reason>`. What nobody states is chosen by rule, and every choice becomes a note:

    - layout: the table with most rows that name image files; else class folders. A folder without images is skipped.
    - label: the first of the usual names (LABEL_NAMES) with at least two classes that occur twice; else the first column of text
      with 2 to 50 classes.
    - unit: the first of the usual names (UNIT_NAMES) that groups the images such that at least two classes, with at least half of the
      images, occur in two groups or more; else "image". Every candidate that fails is named with the reason.
    - objects: where rows share image files, the column of masks and the column of object numbers; the unit is then at least the image.
    - nuclei: a table with image_id, x_px, y_px, area_px; the modality is then tissue, otherwise cells.

    `recipes` may state further benchmarks of a sub-folder, under a name of their own and `folder: <sub-folder>`: the same images under
    another label, selection or unit.

    Args:
        folder: a folder whose sub-folders are data sets.
        recipes: YAML: name of a sub-folder, or of a benchmark with its `folder`, to its options.

    Raises:
        BenchmarkError: no such folder, or nothing in it.
        ParamsError: a statement cannot be read or holds an unknown key, or two data sets get one name.
    """
    if not folder.is_dir():
        raise BenchmarkError(f"`{folder}` is not a folder. Expected a folder whose sub-folders are data sets.")
    stated = _read_yaml(recipes) if recipes else {}
    children = sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith((".", "__")))
    datasets = [folder] if (folder / STATEMENT).is_file() or is_dataset(folder, children) else children
    if not datasets:
        raise BenchmarkError(f"`{folder}` has no sub-folders. Expected one per data set, or a table or class folders of images in it.")
    there = {child.name: child for child in datasets}
    found = [_recipe(benchmark_name(name), child, stated.get(name, {}), recipes) for name, child in there.items()]
    for name, entry in stated.items():
        if name in there:
            continue
        of = str(entry.get(FOLDER, name))
        if of in there:
            values = {key: value for key, value in entry.items() if key != FOLDER}
            found.append(_recipe(benchmark_name(name), there[of], values, recipes))
        else:
            found.append(Recipe(benchmark_name(name), folder / of, skipped=f"`{recipes}` states it, but there is no such folder."))
    names = [recipe.name for recipe in found]
    if len(set(names)) < len(names):
        raise ParamsError(f"Two data sets in `{folder}` would have the same benchmark name: {', '.join(sorted(names))}. Rename a folder.")
    return found


def _read_yaml(path: Path) -> dict[str, dict[str, Any]]:
    value = _load(path)
    for name, entry in value.items():
        if not isinstance(entry, dict):
            raise ParamsError(f"`{path}`: expected the options of `{name}` as a mapping, got `{entry}`.")
    return value


def _load(path: Path) -> dict[str, Any]:
    try:
        value = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ParamsError(f"`{path}` cannot be read ({error.strerror}).") from error
    except yaml.YAMLError as error:
        raise ParamsError(f"`{path}` is not YAML: {error}") from error
    if not isinstance(value, dict):
        raise ParamsError(f"`{path}`: expected a mapping, got {type(value).__name__}.")
    return value


def _recipe(name: str, folder: Path, stated: Mapping[str, Any], recipes: Path | None) -> Recipe:
    own = _load(folder / STATEMENT) if (folder / STATEMENT).is_file() else {}
    values = {**own, **stated}
    reason = values.pop("skip", None)
    sources = [str(folder / STATEMENT)] * bool(own) + [str(recipes)] * bool(stated)
    options = ImportOptions.from_mapping(values, " and ".join(sources) or str(folder))
    if reason is not None:
        return Recipe(name, folder, options, skipped=str(reason))
    files = ImageFiles.scan(folder)
    if not files.paths:
        return Recipe(name, folder, options, skipped=_without_images(files))
    return _by_rule(Recipe(name, folder, options), files, set(values))


def _without_images(files: ImageFiles) -> str:
    others = ", ".join(f"{n} {suffix}" for suffix, n in sorted(files.others.items()))
    if others:
        return f"It holds no images of a kind that is read, but {others}. Convert them to TIFF."
    return f"It holds no images ({len(files.tables)} tables)." if files.tables else "It holds no images."


def _by_rule(recipe: Recipe, files: ImageFiles, stated: set[str]) -> Recipe:
    """Fill in what was not stated."""
    if recipe.options.pattern:
        return recipe if recipe.options.unit else _changed(recipe, unit=IMAGE_UNIT, note=_IMAGE_NOTE)
    counts = inside(recipe.options.expression, files.root) if recipe.options.expression is not None else ""
    tables = {t: read_table(files.root / t) for t in files.tables if t != counts} if recipe.options.table is None else {}
    if recipe.options.table is not None:
        tables = {recipe.options.table.as_posix(): read_table(files.root / recipe.options.table)}
    nuclei = next((t for t, table in tables.items() if set(table.columns) >= _NUCLEI), None)
    chosen = _main_table({t: table for t, table in tables.items() if t != nuclei}, files)
    if chosen is not None and recipe.options.labels == (CLASS,) and CLASS not in tables[chosen]:
        chosen = None
    if nuclei and chosen and "nuclei" not in stated:
        recipe = _changed(recipe, nuclei=Path(nuclei), note=f"nuclei table `{nuclei}` found by rule")
    if nuclei and chosen and "modality" not in stated:
        recipe = _changed(recipe, modality="tissue", note="modality `tissue` by rule, because there is a nuclei table")
    elif "modality" not in stated:
        recipe = _changed(recipe, note="modality `cells` by default")
    if chosen is None:
        return _from_folders(recipe, files)
    by_table = _from_table(recipe, files, chosen, tables[chosen])
    if by_table.skipped and not recipe.options.labels and not class_layout(files).reason:
        return _from_folders(_changed(recipe, table=None, note=f"table `{chosen}` has no column of labels and is not used"), files)
    return by_table


_IMAGE_NOTE = "no column was found that groups independent images; unit `image` by rule"


def _main_table(tables: dict[str, pd.DataFrame], files: ImageFiles) -> str | None:
    """The table with most rows that name images."""
    counts = {}
    for where, table in tables.items():
        beside = where.rpartition("/")[0]
        columns = path_columns(table, files, beside)
        if columns:
            counts[where] = sum(files.resolve(value, beside) is not None for value in table[columns[0]])
    return max(counts, key=lambda where: (counts[where], -list(counts).index(where))) if counts else None


def _from_folders(recipe: Recipe, files: ImageFiles) -> Recipe:
    layout = class_layout(files)
    if layout.reason:
        return Recipe(recipe.name, recipe.folder, recipe.options, skipped=layout.reason)
    if layout.pattern:
        recipe = _changed(recipe, pattern=layout.pattern, labels=(CLASS,), note=f"files found by the pattern `{layout.pattern}`")
    if layout.note:
        recipe = _changed(recipe, note=layout.note)
    return recipe if recipe.options.unit else _changed(recipe, unit=IMAGE_UNIT, note=_IMAGE_NOTE)


def _from_table(recipe: Recipe, files: ImageFiles, where: str, table: pd.DataFrame) -> Recipe:
    options = recipe.options
    beside = where.rpartition("/")[0]
    paths = options.path or path_columns(table, files, beside)
    if options.table is None:
        recipe = _changed(recipe, table=Path(where), note=f"table `{where}` found by rule")
    for column in dict.fromkeys(c for c, _ in options.where if c in table.columns):
        table = table[table[column].isin([v for c, v in options.where if c == column])]
    if options.object is None and table[paths[0]].duplicated().any():
        recipe = _with_objects(recipe, files, table, beside)
        if recipe.skipped:
            return recipe
    for kind, usual in METADATA_NAMES.items():
        found = _usual(table, usual)
        if found is not None and getattr(options, kind) is None and found.lower() not in (kind, f"metadata_{kind}"):
            recipe = _changed(recipe, **{kind: found}, note=f"{kind} column `{found}` chosen by rule")
    if not options.labels:
        recipe = _with_label(recipe, table, paths)
    if recipe.skipped or options.unit is not None:
        return recipe
    return _with_unit(recipe, table, table.get(recipe.options.labels[0]), paths)


def _with_objects(recipe: Recipe, files: ImageFiles, table: pd.DataFrame, beside: str) -> Recipe:
    mask = next((c for c in table.columns if masklike(c) and files.resolve(table[c].iloc[0], beside) is not None), None)
    number = _usual(table, OBJECT_NAMES)
    if mask is None or number is None:
        return Recipe(
            recipe.name,
            recipe.folder,
            recipe.options,
            skipped="Rows of its table share image files, but no columns of a mask and an object number were found: state `mask` and `object`.",
        )
    return _changed(recipe, mask=mask, object=number, note=f"objects by rule: mask column `{mask}`, number column `{number}`")


def _with_label(recipe: Recipe, table: pd.DataFrame, paths: tuple[str, ...]) -> Recipe:
    taken = {*paths, recipe.options.mask, recipe.options.object, *(getattr(recipe.options, field) for field in METADATA_NAMES)}
    taken |= {c for c in table.columns if normal(c) in UNIT_NAMES or any(normal(c) in usual for usual in METADATA_NAMES.values())}
    able = [c for c in table.columns if c not in taken and not masklike(c) and _classes(table[c])]
    usual = [c for wanted in LABEL_NAMES for c in able if normal(c) == wanted]
    texts = [c for c in able if pd.to_numeric(table[c], errors="coerce").isna().any() and table[c].nunique() <= _MOST_CLASSES]
    choice = next(iter([*usual, *texts]), None)
    if choice is None:
        return Recipe(
            recipe.name,
            recipe.folder,
            recipe.options,
            skipped=f"No column looks like a label ({', '.join(f'`{c}`' for c in table.columns)}): state `label` in `{STATEMENT}`.",
        )
    others = [c for c in dict.fromkeys([*usual, *texts]) if c != choice]
    rest = f"; other columns that could be labels: {', '.join(f'`{c}`' for c in others)}" if others else ""
    return _changed(recipe, labels=(choice,), note=f"label column `{choice}` chosen by rule{rest}")


def _classes(values: pd.Series) -> bool:
    """Whether a column could be a label: two or more values occur more than once, and there are far fewer values than rows."""
    counts = values.value_counts()
    return int((counts > 1).sum()) >= 2 and 2 * len(counts) <= int(counts.sum())


def _with_unit(recipe: Recipe, table: pd.DataFrame, labels: pd.Series | None, paths: tuple[str, ...]) -> Recipe:
    candidates = [c for wanted in UNIT_NAMES for c in table.columns if normal(c) == wanted and c not in recipe.options.labels]
    if recipe.options.object is not None:
        candidates.append(paths[0])
    for column in candidates:
        fault = _unit_fault(table[column], labels)
        if not fault:
            return _changed(recipe, unit=column, note=f"unit column `{column}` chosen by rule")
        recipe = _changed(recipe, note=f"`{column}` is no unit here: {fault}")
    return _changed(recipe, unit=IMAGE_UNIT, note=_IMAGE_NOTE)


def _unit_fault(units: pd.Series, labels: pd.Series | None) -> str:
    if units.isna().any():
        return "it is empty in some rows"
    if units.nunique() < 2:
        return "it has one value"
    if units.nunique() == len(units):
        return "it is different in every row"
    if labels is None:
        return ""
    spread = units.groupby(labels).nunique()
    shared = spread.index[spread >= LEAST_UNITS]
    share = labels.isin(shared).sum() / max(1, labels.notna().sum())
    if len(shared) < 2 or share < 0.5:
        return f"{len(shared)} of {len(spread)} labels ({share:.0%} of the images) occur in two of its values or more"
    return ""


def _usual(table: pd.DataFrame, names: Iterable[str]) -> str | None:
    return next((c for wanted in names for c in table.columns if normal(c) == wanted), None)


def _changed(recipe: Recipe, note: str = "", **fields: Any) -> Recipe:
    notes = (*recipe.notes, f"{note[0].upper()}{note[1:]}.") if note else recipe.notes
    return replace(recipe, options=replace(recipe.options, **fields), notes=notes)

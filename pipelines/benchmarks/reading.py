"""From a folder and its options to the manifest of images: which rows there are, what they are called, which are selected."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from pipelines.benchmarks.manifests import CLASS, Manifest, from_class_folders, from_pattern, from_table
from pipelines.benchmarks.options import ImportOptions
from pipelines.benchmarks.tables import ImageFiles, path_columns, read_table, require, stem
from registry.errors import BenchmarkError


def read_manifest(folder: Path, options: ImportOptions) -> Manifest:
    """The images of a folder and what is said about them, by pattern, table or class folders (in this order of precedence).

    Raises:
        BenchmarkError: no images, no table where labels are named, or a table that names no images.
    """
    files = ImageFiles.scan(folder)
    if options.expression is not None:
        # its ids may be names of images
        files = replace(files, tables=tuple(t for t in files.tables if t != inside(options.expression, folder)))
    table = read_table(located(options.table, folder)) if options.table else None
    if options.pattern:
        manifest = from_pattern(files, options.pattern, options.channels, table)
    elif table is not None and options.table is not None:
        manifest = from_table(files, table, inside(options.table, folder), options.path)
    elif options.labels and (options.labels != (CLASS,) or naming_tables(files)):
        where = find_table(files)
        manifest = from_table(files, read_table(folder / where), where, options.path)
    else:
        manifest = from_class_folders(files)
    return _identified(manifest, options)


def naming_tables(files: ImageFiles) -> list[str]:
    """The tables of a folder, relative to it, of which a column names images."""
    return [t for t in files.tables if path_columns(read_table(files.root / t), files, t.rpartition("/")[0])]


def find_table(files: ImageFiles) -> str:
    """The only table of a folder that names images, relative to it.

    Raises:
        BenchmarkError: none does, or several do.
    """
    naming = naming_tables(files)
    if len(naming) != 1:
        what = f"several do: {', '.join(f'`{t}`' for t in naming)}" if naming else f"none of its {len(files.tables)} tables does"
        raise BenchmarkError(f"Expected one table under `{files.root}` that names its images; {what}. State it with `--table`.")
    return naming[0]


def located(path: Path, folder: Path) -> Path:
    """A table's path: from the folder where it exists there, else from the working directory."""
    return folder / path if (folder / path).exists() else path


def inside(path: Path, folder: Path) -> str:
    """A table's path relative to the folder, "" where it lies elsewhere."""
    absolute = located(path, folder).resolve()
    return absolute.relative_to(folder.resolve()).as_posix() if absolute.is_relative_to(folder.resolve()) else ""


def _identified(manifest: Manifest, options: ImportOptions) -> Manifest:
    rows = manifest.rows.copy()
    if options.image_id is not None:
        rows["image_id"] = require(rows, options.image_id, "image id")
    elif options.object is not None:
        numbers = require(rows, options.object, "object number").astype(str)
        rows["image_id"] = [
            f"{stem(files[0].name) if files[0] else 'missing'}-{number}" for files, number in zip(manifest.files, numbers, strict=True)
        ]
    if rows["image_id"].isna().any():
        raise BenchmarkError(f"{int(rows['image_id'].isna().sum())} rows have no image id. Fill the column, or name another one with `--image-id`.")
    rows["image_id"] = rows["image_id"].astype(str)
    return replace(manifest, rows=rows)


def select(manifest: Manifest, options: ImportOptions) -> Manifest:
    """The rows that fulfil `where`, with unique image ids.

    Raises:
        BenchmarkError: no such column, no row left, or an image id that occurs twice.
    """
    notes = list(manifest.notes)
    for column in dict.fromkeys(c for c, _ in options.where):
        wanted = [v for c, v in options.where if c == column]
        values = require(manifest.rows, column, "selection")
        kept = manifest.keep(values.isin(wanted))
        if kept.rows.empty:
            there = ", ".join(f"`{v}`" for v in sorted(values.dropna().unique())[:12])
            raise BenchmarkError(f"No image has `{column}` = {' or '.join(f'`{v}`' for v in wanted)}. Its values are {there}.")
        notes.append(f"Only images with `{column}` = {' or '.join(wanted)}: {len(kept.rows)} of {len(manifest.rows)}.")
        manifest = kept
    repeated = manifest.rows.loc[manifest.rows["image_id"].duplicated(), "image_id"]
    if len(repeated):
        raise BenchmarkError(
            f"Image id `{repeated.iloc[0]}` occurs more than once ({repeated.nunique()} such ids). Ids must be unique: name their column with"
            " `--image-id`, or the objects of an image with `--mask` and `--object`."
        )
    return replace(manifest, notes=tuple(notes))

"""Class folders, a table, or a file-name pattern: three ways to say which images there are, one manifest."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from pipelines.benchmarks.tables import IMAGE_SUFFIXES, ImageFiles, channel_names, masklike, path_columns, relative_ids, require
from registry.errors import BenchmarkError

#: the label column of class folders
CLASS = "class"
_FIELD = re.compile(r"\{(\w+)\}|\*\*/|\*")


@dataclass(frozen=True)
class Manifest:
    """What is to be imported, before any image was opened.

    Attributes:
        rows: one row per image (or object): `image_id` and every column of the table, as text or null.
        files: the image file or, in the order of `channels`, one per channel; None where it was not found.
        channels: names from the pattern or the columns where there is one file per channel, else ().
        notes: sentences for the card.
    """

    rows: pd.DataFrame
    files: tuple[tuple[Path | None, ...], ...]
    channels: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def keep(self, chosen: pd.Series) -> Manifest:
        """The rows for which `chosen` is true."""
        files = tuple(f for f, keep in zip(self.files, chosen, strict=True) if keep)
        return replace(self, rows=self.rows[chosen.to_numpy()].reset_index(drop=True), files=files)


def from_table(files: ImageFiles, table: pd.DataFrame, where: str, columns: tuple[str, ...]) -> Manifest:
    """A manifest from a table.

    Args:
        files: the folder.
        table: the rows.
        where: the table's path relative to the folder (its paths may be relative to either), "" where it lies elsewhere.
        columns: the path column, or one per channel; () to look for it.

    Raises:
        BenchmarkError: no column names image files.
    """
    beside = where.rsplit("/", 1)[0] if "/" in where else ""
    chosen = columns or path_columns(table, files, beside)
    if not chosen:
        raise BenchmarkError(
            f"No column of the table names the images under `{files.root}`. Its columns are {', '.join(f'`{c}`' for c in table.columns)}."
            " State it with `--path COLUMN`."
        )
    paths = tuple(tuple(files.resolve(v, beside) for v in values) for values in zip(*(require(table, c, "image path") for c in chosen), strict=True))
    notes = [] if columns else [f"Image files are named by {', '.join(f'`{c}`' for c in chosen)} (found by rule)."]
    listed = {path for row in paths for path in row}
    left = [p for p in files.paths if files.root / p not in listed and not masklike(p)]
    if left:
        notes.append(f"{len(left)} image files are not in the table and were left out (first: `{left[0]}`).")
    rows = table.reset_index(drop=True).copy()
    if "image_id" not in rows.columns:
        rows["image_id"] = relative_ids([_shown(row[0], files.root) if row[0] else str(v) for row, v in zip(paths, table[chosen[0]], strict=True)])
    return Manifest(rows, paths, channel_names(chosen) if len(chosen) > 1 else (), tuple(notes))


def from_class_folders(files: ImageFiles) -> Manifest:
    """A manifest of sub-folders that are classes; the label column is `class`.

    Raises:
        BenchmarkError: no images, or no two sub-folders with images directly in the folder.
    """
    paths = [p for p in files.paths if "/" in p and not masklike(p.split("/")[0])]
    classes = sorted({p.split("/")[0] for p in paths})
    if len(classes) < 2:
        raise BenchmarkError(
            f"`{files.root}`: expected a table, or one sub-folder per class (at least two), got {_inventory(files)}."
            " State `--table` and `--label`, or sort the images into class folders."
        )
    loose = len(files.paths) - len(paths)
    notes = (f"{loose} image files lie outside the class folders and were left out.",) if loose else ()
    rows = pd.DataFrame({"image_id": relative_ids(paths), CLASS: [p.split("/")[0] for p in paths]})
    return Manifest(rows, tuple((files.root / p,) for p in paths), (), notes)


def _inventory(files: ImageFiles) -> str:
    if not files.paths:
        others = ", ".join(f"{n} {s}" for s, n in files.others.items())
        return "no image files" + (f" of a kind that is read ({', '.join(IMAGE_SUFFIXES)}), but {others}" if others else "")
    folders = sorted({p.rsplit("/", 1)[0] if "/" in p else "." for p in files.paths})
    return f"{len(files.paths)} image files in {', '.join(f'`{f}`' for f in folders[:4])}{' and more' if len(folders) > 4 else ''}"


def from_pattern(files: ImageFiles, pattern: str, channels: tuple[str, ...], table: pd.DataFrame | None) -> Manifest:
    """A manifest of the files whose path from the folder fits a pattern; fields become columns, `{channel}` joins files.

    Args:
        files: the folder.
        pattern: as `{well}_{site}_{channel}.tif`.
        channels: the values of `{channel}` in order; () sorts them.
        table: joined on the columns it shares with the fields, if there is one.

    Raises:
        BenchmarkError: nothing fits, two files for one channel, unknown channels, or a table that cannot be joined.
    """
    expression, fields = pattern_expression(pattern)
    keys = [f for f in fields if f != "channel"]
    groups: dict[tuple[str, ...], dict[str, str]] = {}
    for path in files.paths:
        match = expression.fullmatch(path)
        if match is None:
            continue
        key = tuple(match[f] for f in keys) if "channel" in fields else (path,)
        found = groups.setdefault(key, {})
        channel = match["channel"] if "channel" in fields else ""
        if channel in found:
            raise BenchmarkError(f"`{path}` and `{found[channel]}` are the same channel of one image by the pattern `{pattern}`. Add a field.")
        found[channel] = path
    if not groups:
        raise BenchmarkError(f"No image file under `{files.root}` fits the pattern `{pattern}`. It holds {_inventory(files)}.")
    seen = sorted({c for found in groups.values() for c in found})
    names = () if seen == [""] else channels or tuple(seen)
    if names and set(names) - set(seen):
        raise BenchmarkError(f"The pattern `{pattern}` finds the channels {', '.join(seen)}; expected {', '.join(names)}.")
    records = [{f: expression.fullmatch(next(iter(found.values())))[f] for f in keys} for found in groups.values()]  # type: ignore[index]
    rows = pd.DataFrame(records, columns=keys, dtype=object)
    rows["image_id"] = relative_ids([key[0] for key in groups]) if not names else ["_".join(key) for key in groups]
    paths = tuple(tuple(files.root / found[c] if c in found else None for c in names or ("",)) for found in groups.values())
    left = len(files.paths) - sum(len(found) for found in groups.values())
    notes = (f"{left} image files do not fit the pattern `{pattern}` and were left out.",) if left else ()
    return _joined(Manifest(rows, paths, names, notes), table)


def pattern_expression(pattern: str) -> tuple[re.Pattern[str], list[str]]:
    """The regular expression of a pattern and its fields in order; a field that occurs again must have the same value.

    Raises:
        BenchmarkError: no field at all.
    """
    parts, fields, position = [], list[str](), 0
    for match in _FIELD.finditer(pattern):
        parts.append(re.escape(pattern[position : match.start()]))
        name = match[1]
        if name is None:
            parts.append("(?:.*/)?" if match[0] == "**/" else "[^/]*")
        elif name in fields:
            parts.append(f"(?P={name})")
        else:
            parts.append(f"(?P<{name}>[^/]+?)")
            fields.append(name)
        position = match.end()
    if not fields:
        raise BenchmarkError(f"The pattern `{pattern}` has no field. Expected one like `{{well}}_{{site}}_{{channel}}.tif`.")
    return re.compile("".join(parts) + re.escape(pattern[position:])), fields


def _joined(manifest: Manifest, table: pd.DataFrame | None) -> Manifest:
    if table is None:
        return manifest
    shared = [c for c in table.columns if c in manifest.rows.columns]
    if not shared:
        raise BenchmarkError(
            f"The table and the pattern share no column. Table: {', '.join(table.columns)}. Pattern: {', '.join(manifest.rows.columns)}."
        )
    repeated = table.duplicated(shared)
    if repeated.any():
        row = table.loc[repeated, shared].iloc[0]
        raise BenchmarkError(f"The table has several rows for {', '.join(f'{c} `{v}`' for c, v in row.items())}. Expected one.")
    rows = manifest.rows.merge(table, on=shared, how="left", indicator=True, sort=False)
    unmatched = int((rows["_merge"] == "left_only").sum())
    if unmatched == len(rows):
        raise BenchmarkError(f"No image has a row in the table by {', '.join(f'`{c}`' for c in shared)}.")
    absent = len(table) - len(table.merge(manifest.rows[shared].drop_duplicates(), on=shared))
    notes = [f"{unmatched} images have no row in the table."] * bool(unmatched) + [f"{absent} rows of the table have no image."] * bool(absent)
    return replace(manifest, rows=rows.drop(columns="_merge"), notes=(*manifest.notes, *notes))


def _shown(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else path.name

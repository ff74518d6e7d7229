"""What lies in a folder: its image files, its tables, and which column of a table names which file."""

from __future__ import annotations

import os
import posixpath
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pandas as pd

from registry.errors import BenchmarkError

IMAGE_SUFFIXES = (".ome.tiff", ".ome.tif", ".tiff", ".tif", ".png", ".jpeg", ".jpg", ".npy")
#: images of kinds that are not read: they are counted, so that nobody wonders where they went
OTHER_SUFFIXES = (".bmp", ".gif", ".webp", ".czi", ".nd2", ".lif", ".svs", ".ndpi", ".zarr", ".h5", ".dcm", ".cif", ".flex", ".vsi")
TABLE_SUFFIXES = (".csv", ".tsv", ".csv.gz", ".tsv.gz", ".parquet")
ANNDATA = ".h5ad"
#: of columns that say something about a row
PREFIX = "Metadata_"
#: how missing values are written; any other text, also `None`, is a value
NULLS = ["", "NA", "NaN", "nan"]
#: column names (see `normal`) that usually hold the image file, in the order of preference
PATH_NAMES = ("path", "imagepath", "filepath", "file", "filename", "imagefile", "image", "imagename", "img", "imageid", "id", "name")
_MASKLIKE = re.compile(r"mask|segmentation|annotation|outline", re.IGNORECASE)


def normal(name: str) -> str:
    """A column name without case, separators and `Metadata_`: `CellType` and `cell_type` are one name."""
    return re.sub(r"[^a-z0-9]", "", name.lower().removeprefix("metadata_"))


def masklike(path: str) -> bool:
    """Whether a relative path or column name says that it holds masks rather than images."""
    return bool(_MASKLIKE.search(path))


def stem(path: str) -> str:
    """A relative path without its image suffix."""
    return next((path[: -len(s)] for s in IMAGE_SUFFIXES if path.lower().endswith(s)), path)


@dataclass(frozen=True)
class ImageFiles:
    """The image files under a folder.

    Attributes:
        root: the folder.
        paths: relative to the folder with `/`, sorted; hidden files and folders are left out.
        others: how many files there are of image kinds that are not read, per suffix.
        tables: tables under the folder, relative, the shallowest first.
    """

    root: Path
    paths: tuple[str, ...]
    others: dict[str, int]
    tables: tuple[str, ...]

    @classmethod
    def scan(cls, root: Path) -> ImageFiles:
        """Look through a folder.

        Raises:
            BenchmarkError: there is no such folder.
        """
        if not root.is_dir():
            raise BenchmarkError(f"`{root}` is not a folder. Expected a folder of images.")
        images, tables, others = [], [], Counter[str]()
        for folder, names, files in os.walk(root):
            names[:] = sorted(n for n in names if not n.startswith((".", "__")))
            for name in files:
                relative = (Path(folder) / name).relative_to(root).as_posix()
                lower = name.lower()
                if name.startswith("."):
                    continue
                if lower.endswith(IMAGE_SUFFIXES):
                    images.append(relative)
                elif lower.endswith(TABLE_SUFFIXES):
                    tables.append(relative)
                elif lower.endswith(OTHER_SUFFIXES):
                    others[Path(lower).suffix] += 1
        return cls(root, tuple(sorted(images)), dict(others), tuple(sorted(tables, key=lambda t: (t.count("/"), t))))

    @cached_property
    def by_name(self) -> dict[str, str | None]:
        """File name, and name without suffix, to path; None where several files have that name."""
        found: dict[str, str | None] = {}
        for path in self.paths:
            for key in {path.rsplit("/", 1)[-1], stem(path.rsplit("/", 1)[-1]), stem(path)}:
                found[key] = None if key in found else path
        return found

    @cached_property
    def _known(self) -> frozenset[str]:
        return frozenset(self.paths)

    def resolve(self, value: object, beside: str = "") -> Path | None:
        """The file a table's cell names: a path from the table's folder or from the root, a unique name, a name without suffix, or absolute."""
        if not isinstance(value, str):
            return None
        text = value.replace("\\", "/")
        for candidate in (posixpath.normpath(posixpath.join(beside, text)), posixpath.normpath(text)):
            if candidate in self._known:
                return self.root / candidate
        found = self.by_name.get(text)
        if found is not None:
            return self.root / found
        if text.startswith("/"):
            return Path(text) if text.lower().endswith(IMAGE_SUFFIXES) and Path(text).is_file() else None
        return None


def read_table(path: Path) -> pd.DataFrame:
    """Read CSV, TSV (also gzipped) or Parquet; every value as text, null where empty, `NA` or `NaN`.

    Raises:
        BenchmarkError: missing, unreadable, or without rows.
    """
    lower = path.name.lower()
    if not lower.endswith(TABLE_SUFFIXES):
        raise BenchmarkError(f"`{path}`: expected a table {', '.join(TABLE_SUFFIXES)}.")
    try:
        if lower.endswith(".parquet"):
            table = _as_text(pd.read_parquet(path))
        else:
            separator = "\t" if ".tsv" in lower else ","
            table = pd.read_csv(path, sep=separator, dtype=str, keep_default_na=False, na_values=NULLS, encoding="utf-8-sig")
            if table.shape[1] == 1 and ";" in str(table.columns[0]):
                table = pd.read_csv(path, sep=";", dtype=str, keep_default_na=False, na_values=NULLS, encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise BenchmarkError(f"There is no table `{path}`.") from error
    except (OSError, ValueError) as error:
        raise BenchmarkError(f"`{path}` cannot be read as a table ({type(error).__name__}: {error}).") from error
    if table.empty:
        raise BenchmarkError(f"The table `{path}` has no rows.")
    return table.rename(columns=str)


def _as_text(table: pd.DataFrame) -> pd.DataFrame:
    """Parquet's typed columns as text: whole numbers without a decimal point, also where nulls made them floats."""
    columns = {}
    for name in table.columns:
        values = table[name]
        if pd.api.types.is_float_dtype(values) and (values.dropna() % 1 == 0).all():
            values = values.astype("Int64")
        columns[name] = values.astype("string").astype(object).where(values.notna(), None)
    return pd.DataFrame(columns)


def require(rows: pd.DataFrame, column: str, purpose: str) -> pd.Series:
    """One column.

    Raises:
        BenchmarkError: there is no such column; lists the columns.
    """
    if column not in rows.columns:
        listing = ", ".join(f"`{c}`" for c in rows.columns)
        raise BenchmarkError(f"There is no column `{column}` for the {purpose}. The columns are {listing}.")
    values: pd.Series = rows[column]
    return values


def path_columns(table: pd.DataFrame, files: ImageFiles, beside: str = "") -> tuple[str, ...]:
    """The column that names the image files: one whose values are files for at least half of the rows.

    Usual names come first (`path`, `file`, `image`, ...), then any other column; columns named after masks are passed over. If the
    only such columns share a stem and differ in the rest (`FileName_DNA`, `FileName_ER`), they are one file per channel.

    Returns:
        The column or columns, () where no column names files.
    """
    sample = table if len(table) <= 500 else table.iloc[:: len(table) // 500]
    hits = {c: sum(files.resolve(v, beside) is not None for v in sample[c]) for c in table.columns if not masklike(c)}
    named = [c for c in table.columns if 2 * hits.get(c, 0) >= len(sample)]
    for wanted in PATH_NAMES:
        usual = [c for c in named if normal(c) == wanted]
        if usual:
            return (usual[0],)
    if len(named) > 1 and _common([_words(c) for c in named]):
        return tuple(named)
    return tuple(named[:1])


def channel_names(columns: Sequence[str]) -> tuple[str, ...]:
    """What distinguishes columns: their names without the words they all begin and end with (`FileName_DNA`, `FileName_ER`: DNA, ER)."""
    words = [_words(c) for c in columns]
    before = _common(words)
    after = _common([w[before:][::-1] for w in words])
    return tuple("_".join(w[before : len(w) - after]) or c for w, c in zip(words, columns, strict=True))


def _words(name: str) -> list[str]:
    return re.split(r"[_\-. ]+", name)


def _common(parts: Sequence[Sequence[str]]) -> int:
    """How many leading elements all sequences share."""
    return next((i for i, column in enumerate(zip(*parts, strict=False)) if len(set(column)) > 1), min(map(len, parts), default=0))


def relative_ids(paths: Sequence[str]) -> list[str]:
    """Image ids: paths without suffix and without the folders they all share; with the suffix where two would be the same."""
    shared = _common([p.split("/")[:-1] for p in paths])
    short = ["/".join(p.split("/")[shared:]) for p in paths]
    stems = [stem(s) for s in short]
    return short if len(set(stems)) < len(set(short)) else stems

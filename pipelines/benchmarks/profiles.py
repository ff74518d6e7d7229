"""Tables of vectors that were made elsewhere: read, joined, checked, and turned into a benchmark without images.

A table has one row per image or well, `Metadata_*` columns (the pycytominer convention) and numeric columns, which are the vector;
or it is an AnnData file, whose `obs` are the metadata. Further tables of the same rows become further encoders of the benchmark.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np
import pandas as pd

from pipelines.benchmarks.annotations import control_rows, settle_units
from pipelines.benchmarks.card import BenchmarkCard, check_name
from pipelines.benchmarks.expression import read_expression
from pipelines.benchmarks.index import Benchmark, write_benchmark
from pipelines.benchmarks.known import known_tables
from pipelines.benchmarks.options import IMAGE_UNIT, ImportOptions
from pipelines.benchmarks.preparing import Say
from pipelines.benchmarks.publishing import published_folder
from pipelines.benchmarks.questions import ask
from pipelines.benchmarks.tables import ANNDATA, NULLS, PREFIX, normal, read_table, require
from registry.arrays import Embedding
from registry.errors import BenchmarkError, ParamsError
from registry.images import ImageSpec
from registry.table import VectorTable

#: columns that name a profile where the table has no `image_id`
PLACE = ("Metadata_Batch", "Metadata_Plate", "Metadata_Well", "Metadata_Site")
#: numeric columns (see `tables.normal`) that say something about a profile and are never part of the vector
ABOUT = ("imageid", "plate", "well", "site", "batch", "patient", "row", "col", "column", "fold", "split", "unit", "label", "class", "index")


@dataclass(frozen=True)
class Profiles:
    """Vectors with what is said about each.

    Attributes:
        rows: n rows of text, null where empty; `image_id` is unique.
        values: n rows of numeric columns, one per component of the vector.
        notes: sentences for the card.
    """

    rows: pd.DataFrame
    values: pd.DataFrame
    notes: tuple[str, ...] = ()

    def chosen(self, patterns: Sequence[str], what: str, about: bool = False) -> pd.DataFrame:
        """Columns of numbers that match one of the patterns (`Cells_*`, `*_Intensity_*`), in order.

        Args:
            patterns: with `*` and `?`.
            what: they are chosen for, in words.
            about: look among what is said about the profiles too (`Metadata_Count_Cells`).

        Raises:
            BenchmarkError: none matches.
        """
        found = {c: self.values[c] for c in self.values.columns if _matches(c, patterns)}
        if about:
            found |= {c: n for c in map(str, self.rows) if _matches(c, patterns) and (n := _as_numbers(self.rows[c])) is not None and n.notna().all()}
        if not found:
            first = ", ".join(f"`{c}`" for c in self.values.columns[:6])
            raise BenchmarkError(f"No column of numbers matches {', '.join(f'`{p}`' for p in patterns)} ({what}). There are {first}, ...")
        return pd.DataFrame(found)


def read_profiles(
    paths: Sequence[Path], about: Iterable[str] = (), obsm: str | None = None, image_id: str | None = None, drop_incomplete: bool = False
) -> Profiles:
    """Read tables of vectors, one below the other.

    Args:
        paths: CSV, TSV (also gzipped), Parquet or AnnData. Several files keep the numeric columns they share.
        about: columns that say something about a profile even where they hold numbers (labels, units); so do `Metadata_*` and ABOUT.
        obsm: of AnnData, the array that is the vector; None: `X`.
        image_id: column of the unique id; None: `image_id` where there is one, else the profile's batch, plate, well and site.
        drop_incomplete: leave out numeric columns that have a value that is missing or infinite, instead of refusing them.

    Raises:
        BenchmarkError: a file cannot be read, has no numeric column, or names a profile twice; or values are missing.
    """
    known = frozenset(about) | ({image_id} if image_id else set())
    parts = [_read(path, known, obsm) for path in paths]
    notes = []
    shared = [c for c in parts[0].values.columns if all(c in part.values.columns for part in parts)]
    most = max(part.values.shape[1] for part in parts)
    if len(shared) < most:
        notes.append(f"The tables share {len(shared)} of up to {most} numeric columns; the others are left out.")
    if not shared:
        raise BenchmarkError(f"Expected numeric columns that {', '.join(f'`{p.name}`' for p in paths)} share, found none.")
    rows = pd.concat([part.rows for part in parts], ignore_index=True)
    values = pd.concat([part.values[shared] for part in parts], ignore_index=True)
    complete = np.isfinite(values.to_numpy(np.float64)).all(axis=0)
    if not complete.all():
        names = [c for c, whole in zip(values.columns, complete, strict=True) if not whole]
        if not drop_incomplete or not complete.any():
            raise BenchmarkError(
                f"{len(names)} of {len(complete)} numeric columns have missing or infinite values (first: `{names[0]}`). Repair them, or leave"
                " those columns out with `--drop-incomplete`."
            )
        notes.append(f"{len(names)} numeric columns with missing or infinite values are left out.")
        values = values.loc[:, complete]
    return Profiles(_named(rows, image_id), values, tuple(notes))


def _read(path: Path, about: frozenset[str], obsm: str | None) -> Profiles:
    lower = path.name.lower()
    if lower.endswith(ANNDATA):
        return _read_anndata(path, obsm)
    if lower.endswith(".parquet"):
        return _read_parquet(path, about)
    texts = read_table(path)
    numbers = {c: converted for c in texts.columns if not _is_about(c, about) and (converted := _as_numbers(texts[c])) is not None}
    return _split(path, texts, pd.DataFrame(numbers, index=texts.index))


def _read_parquet(path: Path, about: frozenset[str]) -> Profiles:
    try:
        table = pd.read_parquet(path)
    except (OSError, ValueError) as error:
        raise BenchmarkError(f"`{path}` cannot be read as a table ({type(error).__name__}: {error}).") from error
    lists = [c for c in table.columns if len(table) and isinstance(table[c].iloc[0], (list, np.ndarray))]
    if len(lists) > 1:
        raise BenchmarkError(f"`{path}` has {len(lists)} columns of lists ({', '.join(f'`{c}`' for c in lists)}); expected one, the vector.")
    if lists:
        lengths = table[lists[0]].map(len)
        if lengths.nunique() != 1:
            raise BenchmarkError(f"`{path}`: vectors in `{lists[0]}` have {lengths.min()} to {lengths.max()} values; expected the same for all.")
        vectors = np.stack(table[lists[0]].tolist())
        texts = table.drop(columns=lists)
        numbers = pd.DataFrame(vectors, index=table.index, columns=[f"{lists[0]}_{i}" for i in range(vectors.shape[1])])
    else:
        numeric = [c for c in table.columns if not _is_about(c, about) and pd.api.types.is_numeric_dtype(table[c]) and table[c].dtype != bool]
        texts, numbers = table.drop(columns=numeric), table[numeric].astype(np.float64)
    return _split(path, _texts(texts), numbers)


def _read_anndata(path: Path, obsm: str | None) -> Profiles:
    import anndata

    try:
        data = anndata.read_h5ad(path)
    except (OSError, ValueError, KeyError) as error:
        raise BenchmarkError(f"`{path}` cannot be read as AnnData ({type(error).__name__}: {error}).") from error
    if obsm is not None and obsm not in data.obsm:
        raise BenchmarkError(f"`{path}` has no `obsm` named `{obsm}`. There are: {', '.join(f'`{k}`' for k in data.obsm) or 'none'}.")
    matrix = data.X if obsm is None else data.obsm[obsm]
    if matrix is None:
        raise BenchmarkError(f"`{path}` has no `X`. Name the array that is the vector with `--obsm`: {', '.join(f'`{k}`' for k in data.obsm)}.")
    dense = np.asarray(matrix.toarray() if hasattr(matrix, "toarray") else matrix, dtype=np.float64)
    names = [str(c) for c in data.var_names] if obsm is None else [f"{obsm}_{i}" for i in range(dense.shape[1])]
    rows = data.obs.reset_index(drop=True)
    rows = rows.rename(columns={c: c if str(c).startswith(PREFIX) or c == "image_id" else f"{PREFIX}{c}" for c in rows.columns})
    if "image_id" not in rows:
        rows.insert(0, "image_id", [str(name) for name in data.obs_names])
    return _split(path, _texts(rows), pd.DataFrame(dense, columns=names))


def _split(path: Path, texts: pd.DataFrame, numbers: pd.DataFrame) -> Profiles:
    if numbers.empty:
        raise BenchmarkError(f"`{path}`: expected numeric columns that are the vector, and found none beside {', '.join(texts.columns[:6])}, ...")
    return Profiles(texts[[c for c in texts.columns if c not in numbers.columns]].reset_index(drop=True), numbers.reset_index(drop=True))


def _matches(column: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(column, pattern) for pattern in patterns)


def _is_about(column: str, named: frozenset[str]) -> bool:
    return column.startswith((PREFIX, "Unnamed: ")) or column in named or normal(column) in ABOUT


def _as_numbers(values: pd.Series) -> pd.Series | None:
    """A column of text as numbers, missing ones NaN; None where it holds anything else."""
    converted = pd.to_numeric(values, errors="coerce")
    return converted.astype(np.float64) if converted.notna().any() and (converted.notna() | values.isna()).all() else None


def _texts(table: pd.DataFrame) -> pd.DataFrame:
    """Every value as text: whole numbers without a decimal point; null where empty, `NA` or `NaN`."""
    columns = {}
    for name in table.columns:
        values = table[name]
        if pd.api.types.is_float_dtype(values) and (values.dropna() % 1 == 0).all():
            values = values.astype("Int64")
        text = values.astype("string").astype(object)
        columns[str(name)] = text.where(values.notna() & ~text.isin(NULLS), None)
    return pd.DataFrame(columns, index=table.index)


def _named(rows: pd.DataFrame, image_id: str | None) -> pd.DataFrame:
    if image_id is not None:
        names = require(rows, image_id, "profile id")
    elif "image_id" in rows:
        names = rows["image_id"]
    else:
        parts = [rows[c] for c in PLACE if c in rows]
        if not parts:
            raise BenchmarkError(f"Nothing names the profiles. Expected `image_id`, {', '.join(f'`{c}`' for c in PLACE)}, or `--image-id COLUMN`.")
        names = pd.Series(["_".join(str(v) for v in values) for values in zip(*parts, strict=True)], index=rows.index)
    if names.isna().any():
        raise BenchmarkError(f"{int(names.isna().sum())} profiles have no id in `{image_id or 'image_id'}`. Fill it, or name another column.")
    twice = names[names.duplicated()]
    if len(twice):
        raise BenchmarkError(f"Profile `{twice.iloc[0]}` occurs more than once ({twice.nunique()} such). Name a unique column with `--image-id`.")
    return rows.assign(image_id=names.astype(str))


def annotated(profiles: Profiles, path: Path, on: str) -> Profiles:
    """Add the columns of another table.

    Args:
        profiles: what they are added to.
        path: CSV, TSV or Parquet.
        on: "COLUMN" of both, or "COLUMN=ITS_COLUMN": that of the profiles and that of the other table, where it is unique.

    Raises:
        BenchmarkError: a column is not there, is not unique, or nothing matches.
    """
    mine, _, theirs = on.partition("=")
    table = read_table(path)
    key, other = require(profiles.rows, mine, "join"), require(table, theirs or mine, f"join with `{path.name}`")
    known = table[other.notna()].drop_duplicates()
    other = known[other.name]
    if other.duplicated().any():
        raise BenchmarkError(f"`{path.name}`: `{other.iloc[int(other.duplicated().argmax())]}` occurs more than once in `{other.name}`.")
    if not key.isin(other).any():
        raise BenchmarkError(f"No value of `{mine}` occurs in `{other.name}` of `{path.name}` (`{key.dropna().iloc[0]}`, `{other.iloc[0]}`).")
    added = known.set_index(other.name)
    added = added[[c for c in added.columns if c not in profiles.rows.columns]]
    looked_up = added.reindex(key).set_index(profiles.rows.index)
    return Profiles(profiles.rows.join(looked_up), profiles.values, profiles.notes)


def make_benchmark(profiles: Profiles, name: str, out: Path, options: ImportOptions, say: Say = print) -> Benchmark:
    """A benchmark without images: the index of the profiles that are selected, its tasks and its card.

    Args:
        profiles: read, and annotated.
        name: of the benchmark.
        out: its folder, created here.
        options: `labels`, `unit`, `where`, columns of metadata, what is known about perturbations, `folds`, `rare_labels`, and what the card says.
        say: receives remarks, a line at a time.

    Raises:
        BenchmarkError: it exists, nothing is selected, or labels or units cannot be used.
        ParamsError: no label is named.
    """
    check_name(name)
    if out.exists() and not options.replace:
        raise BenchmarkError(f"`{out}` already exists. Choose another name, or overwrite it with `--replace`.")
    if not options.labels:
        raise ParamsError(f"Name what is asked about the profiles with `--label`. The columns are {', '.join(f'`{c}`' for c in profiles.rows)}.")
    rows, notes = profiles.rows, [*profiles.notes]
    for column in dict.fromkeys(c for c, _ in options.where):
        wanted = [v for c, v in options.where if c == column]
        rows = rows[require(rows, column, "selection").isin(wanted)]
        notes.append(f"Selected by `{column}`: {', '.join(f'`{v}`' for v in wanted)}.")
    if rows.empty:
        raise BenchmarkError("No profile is left by `--where`. Check its values.")
    rows = rows.reset_index(drop=True)
    for column in options.labels:
        require(rows, column, "labels")
    units = settle_units(rows, options.unit, rows["image_id"], control_rows(rows, options))
    asked = ask(rows, units, options.labels, options, "profile")
    known, remarks = known_tables(asked.index, options)
    # the values belong to the encoder, not to the benchmark: a profile is its name
    index = asked.index.assign(path="", sha256="")
    expression = read_expression(options.expression, index["image_id"].tolist()) if options.expression else None
    card = BenchmarkCard(
        name=name,
        title=options.title or name,
        modality=options.modality,
        image=ImageSpec.none(),
        unit=str(options.unit) if options.unit == IMAGE_UNIT else str(options.unit).removeprefix(PREFIX),
        tasks=asked.tasks,
        licence=options.licence,
        citation=options.citation,
        source=options.source,
        notes=(
            "Profiles made elsewhere: without images, most controls cannot be computed.",
            *notes,
            *asked.notes,
            *remarks,
            *(expression.notes if expression else ()),
        ),
    )
    with published_folder(out) as staging:
        write_benchmark(staging, card, index, expression=expression.table if expression else None, known=known)
    for note in card.notes:
        say(f"`{name}`: {note}")
    return Benchmark.read(out)


def vectors(profiles: Profiles, chosen: pd.DataFrame, benchmark: Benchmark) -> Embedding:
    """(n, d) float32: chosen columns of the profiles, in the order of the benchmark's index.

    Raises:
        BenchmarkError: a profile of the benchmark is not in the table.
    """
    places = pd.Series(np.arange(len(profiles.rows)), index=profiles.rows["image_id"])
    wanted = benchmark.index["image_id"]
    missing = wanted[~wanted.isin(places.index)]
    if len(missing):
        raise BenchmarkError(
            f"The table lacks {len(missing)} of the {len(wanted)} images of `{benchmark.card.name}` (first: `{missing.iloc[0]}`; the table has"
            f" `{profiles.rows['image_id'].iloc[0]}`). Import a table with every image, named as in the benchmark."
        )
    ordered: Embedding = chosen.to_numpy(np.float32)[places[wanted].to_numpy()]
    return ordered


def write_table(path: Path, benchmark: Benchmark, columns: Iterable[str], members: dict[str, Embedding]) -> None:
    """Publish the vectors of one row of a benchmark."""
    VectorTable(tuple(benchmark.index["image_id"].astype(str)), tuple(columns), members).write(path)

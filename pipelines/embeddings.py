"""Embeddings on disk: one Parquet file per member (and fold), one manifest per row."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from registry.arrays import Embedding
from registry.bundle import read_arrays
from registry.errors import BenchmarkError, NotFoundError
from registry.files import published, read_json, write_json


@dataclass(frozen=True)
class Manifest:
    """What was extracted, from what, by what.

    Attributes:
        row: name of the encoder or control.
        benchmark: name of the benchmark.
        card: the encoder card.
        card_hash: sha256 of the card.
        data_hash: sha256 of the benchmark's index.
        image: the ImageSpec.
        members: names of its draws, in order.
        fitted: whether members are fitted to training images.
        folds: the folds for which fitted members have a file of their own; [] if one file serves all.
        dim: embedding dimension.
        device: "cpu" or "cuda:<name>".
        precision: "float32" or "amp-<dtype>".
        unreadable: image ids that could not be read, with the reason, under the stated tolerance.
        not_applicable: the reason the row does not apply here; "" if it does.
        unservable: why it cannot be served; "" if it can.
        content: sha256 of the embedding values per file.
        versions: of the libraries that computed them.
    """

    row: str
    benchmark: str
    card: dict[str, Any]
    card_hash: str
    data_hash: str
    image: dict[str, Any]
    members: list[str] = field(default_factory=list)
    fitted: bool = False
    folds: list[int] = field(default_factory=list)
    dim: int = 0
    device: str = "cpu"
    precision: str = "float32"
    unreadable: dict[str, str] = field(default_factory=dict)
    not_applicable: str = ""
    unservable: str = ""
    content: dict[str, str] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)

    def write(self, folder: Path) -> None:
        """Publish `folder/manifest.json`, last of all: a row without a manifest does not exist."""
        write_json(folder / "manifest.json", asdict(self))

    @classmethod
    def read(cls, folder: Path) -> Manifest:
        """Read `folder/manifest.json`."""
        return cls(**read_json(folder / "manifest.json"))


def member_file(member: str, fold: int | None) -> str:
    """File name of one member, for one fold if it is fitted to several."""
    return f"{member}.parquet" if fold is None else f"{member}.fold{fold}.parquet"


def state_file(member: str, fold: int | None) -> str:
    """File name of what one fitted member learned."""
    return f"{Path(member_file(member, fold)).stem}.state.npz"


@dataclass(frozen=True)
class Part:
    """Consecutive rows of one member's embeddings.

    Attributes:
        image_ids: n ids in index order.
        metadata: n rows of `Metadata_*` columns.
        values: (n, d) float32, finite.
    """

    image_ids: list[str]
    metadata: pd.DataFrame
    values: Embedding


def write_member(path: Path, image_ids: list[str], metadata: pd.DataFrame, values: Embedding) -> str:
    """Publish one member's embeddings; returns the sha256 of the values.

    Args:
        path: the Parquet file.
        image_ids: n ids in index order.
        metadata: n rows of `Metadata_*` columns.
        values: (n, d) float32, finite.

    Raises:
        BenchmarkError: values are not finite or do not match the ids.
    """
    return write_parts(path, [Part(image_ids, metadata, values)])


def write_parts(path: Path, parts: Iterable[Part]) -> str:
    """As `write_member`, from parts that need never be in memory together; one row group each.

    Raises:
        BenchmarkError: values are not finite, do not match the ids or differ in d; or there are no parts.
    """
    import pyarrow.parquet as pq

    digest = hashlib.sha256()
    with published(path) as temporary:
        writer = None
        try:
            for part in parts:
                table = _table(path.name, part)
                if writer is None:
                    writer = pq.ParquetWriter(
                        temporary,
                        table.schema,
                        compression="zstd",
                        compression_level=1,
                        use_dictionary=False,
                        column_encoding={"embedding.list.element": "BYTE_STREAM_SPLIT"},
                    )
                if table.schema != writer.schema:
                    raise BenchmarkError(f"`{path.name}`: expected parts of one kind, got {table.schema} after {writer.schema}.")
                writer.write_table(table)
                digest.update(np.ascontiguousarray(part.values, dtype=np.float32).tobytes())
            if writer is None:
                raise BenchmarkError(f"`{path.name}`: there is nothing to write.")
        finally:
            if writer is not None:
                writer.close()
    return digest.hexdigest()


def _table(name: str, part: Part) -> Any:
    import pyarrow as pa

    values = np.ascontiguousarray(part.values, dtype=np.float32)
    if values.ndim != 2 or len(values) != len(part.image_ids):
        raise BenchmarkError(f"`{name}`: expected one vector for each of {len(part.image_ids)} images, got shape {values.shape}.")
    if not np.isfinite(values).all():
        bad = part.image_ids[int(np.flatnonzero(~np.isfinite(values).all(axis=1))[0])]
        raise BenchmarkError(f"`{name}`: the embedding of image `{bad}` is not finite.")
    columns: dict[str, Any] = {"image_id": pa.array(part.image_ids, type=pa.string())}
    for column in part.metadata.columns:
        columns[column] = pa.Array.from_pandas(part.metadata[column])
    element = pa.field("element", pa.float32(), False)
    columns["embedding"] = pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), type=pa.list_(element, values.shape[1]))
    return pa.table(columns).combine_chunks()


def read_member(path: Path) -> tuple[list[str], Embedding]:
    """Image ids and (n, d) float32 embeddings of one file."""
    import pyarrow.parquet as pq

    table = pq.read_table(path, columns=["image_id", "embedding"]).combine_chunks()
    column = table["embedding"].chunk(0) if table.num_rows else None
    if column is None:
        return [], np.zeros((0, 0), np.float32)
    values = column.flatten().to_numpy(zero_copy_only=False).astype(np.float32, copy=False)
    return table["image_id"].to_pylist(), values.reshape(table.num_rows, -1)


@dataclass(frozen=True)
class Row:
    """One extracted row on disk."""

    folder: Path
    manifest: Manifest

    @classmethod
    def read(cls, folder: Path) -> Row:
        """Open a row's folder."""
        return cls(folder, Manifest.read(folder))

    @property
    def name(self) -> str:
        """The row's name."""
        return self.manifest.row

    def embedding(self, member: str, fold: int, image_ids: list[str]) -> Embedding:
        """(n, d) embeddings of one member as fitted for `fold`, in the order of `image_ids`.

        Raises:
            NotFoundError: no such member.
            BenchmarkError: the file holds other images than the index.
        """
        if member not in self.manifest.members:
            raise NotFoundError("member", f"{self.name}/{member}", self.manifest.members)
        ids, values = read_member(self.folder / self._file(member, fold))
        if ids != image_ids:
            raise BenchmarkError(f"`{self.folder}` holds other images than the index ({len(ids)} against {len(image_ids)}). Extract it again.")
        return values

    def _file(self, member: str, fold: int) -> str:
        """The file that serves this fold: its own for a member that was fitted to several folds, the one there is otherwise.

        A row may hold both kinds: the fresh draws of a twin are the same whatever the fold, the calibrated ones are not.
        """
        own = member_file(member, fold)
        return own if self.manifest.folds and (self.folder / own).is_file() else member_file(member, None)

    def state(self, member: str, fold: int) -> dict[str, NDArray[Any]]:
        """What one fitted member learned for `fold`, as `Representation.load_state` takes it."""
        return read_arrays(self.folder / state_file(member, fold if self.manifest.folds else None))


def read_rows(folder: Path) -> dict[str, Row]:
    """Every row below `W/out/embeddings/<benchmark>`, by name, in order; refuses a name that occurs in two cells."""
    rows: dict[str, Row] = {}
    for path in sorted(folder.glob("*/*/manifest.json")):
        row = Row.read(path.parent)
        if row.name in rows:
            raise BenchmarkError(f"Row `{row.name}` occurs in two cells below `{folder}`. Give each encoder one cell.")
        rows[row.name] = row
    return rows

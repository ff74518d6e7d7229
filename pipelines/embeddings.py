"""Embeddings on disk: one Parquet file per member (and fold), one manifest per row."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from registry.arrays import Embedding
from registry.bundle import read_arrays
from registry.errors import BenchmarkError, NotFoundError
from registry.files import published, read_json, sha256_of_bytes, write_json


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
    import pyarrow as pa
    import pyarrow.parquet as pq

    if values.ndim != 2 or len(values) != len(image_ids):
        raise BenchmarkError(f"`{path.name}`: expected one vector for each of {len(image_ids)} images, got shape {values.shape}.")
    if not np.isfinite(values).all():
        bad = image_ids[int(np.flatnonzero(~np.isfinite(values).all(axis=1))[0])]
        raise BenchmarkError(f"`{path.name}`: the embedding of image `{bad}` is not finite.")
    values = np.ascontiguousarray(values, dtype=np.float32)
    flat = pa.array(values.reshape(-1), type=pa.float32())
    columns: dict[str, Any] = {"image_id": pa.array(image_ids, type=pa.string())}
    for name in metadata.columns:
        columns[name] = pa.Array.from_pandas(metadata[name])
    columns["embedding"] = pa.FixedSizeListArray.from_arrays(flat, type=pa.list_(pa.field("element", pa.float32(), False), values.shape[1]))
    with published(path) as temporary:
        pq.write_table(
            pa.table(columns).combine_chunks(),
            temporary,
            compression="zstd",
            compression_level=1,
            use_dictionary=False,
            column_encoding={"embedding.list.element": "BYTE_STREAM_SPLIT"},
        )
    return sha256_of_bytes(values.tobytes())


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
        ids, values = read_member(self.folder / member_file(member, fold if self.manifest.folds else None))
        if ids != image_ids:
            raise BenchmarkError(f"`{self.folder}` holds other images than the index ({len(ids)} against {len(image_ids)}). Extract it again.")
        return values

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

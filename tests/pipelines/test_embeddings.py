from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pipelines.embeddings import Manifest, Row, member_file, read_member, read_rows, write_member
from registry.errors import BenchmarkError, NotFoundError

IDS = ["a", "b", "c"]
METADATA = pd.DataFrame({"Metadata_Plate": ["p", "p", "q"]})


def values(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(3, 5)).astype(np.float32)


def row(folder: Path, name: str = "density", folds: tuple[int, ...] = ()) -> Row:
    for fold in folds or (None,):
        write_member(folder / member_file("main", fold), IDS, METADATA, values(fold or 0))
    Manifest(name, "b", {"role": "negative"}, "h", "d", {}, members=["main"], fitted=bool(folds), folds=list(folds), dim=5).write(folder)
    return Row.read(folder)


def test_values_come_back_bit_for_bit(tmp_path: Path) -> None:
    write_member(tmp_path / "m.parquet", IDS, METADATA, values())
    ids, found = read_member(tmp_path / "m.parquet")
    assert ids == IDS
    np.testing.assert_array_equal(found, values())
    assert list(pd.read_parquet(tmp_path / "m.parquet")["Metadata_Plate"]) == ["p", "p", "q"]


def test_the_same_values_give_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_member(tmp_path / name, IDS, METADATA, values())
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_fitted_row_has_a_file_per_fold(tmp_path: Path) -> None:
    fitted = row(tmp_path, folds=(0, 1))
    np.testing.assert_array_equal(fitted.embedding("main", 1, IDS), values(1))


def test_other_images_than_the_index_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BenchmarkError, match="other images than the index"):
        row(tmp_path).embedding("main", 0, ["a", "b", "d"])


def test_an_unknown_member_lists_the_known(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="Known: `main`"):
        row(tmp_path).embedding("fresh-00", 0, IDS)


def test_values_that_are_not_finite_name_the_image(tmp_path: Path) -> None:
    broken = values()
    broken[1, 2] = np.nan
    with pytest.raises(BenchmarkError, match="the embedding of image `b` is not finite"):
        write_member(tmp_path / "m.parquet", IDS, METADATA, broken)
    assert list(tmp_path.iterdir()) == []


def test_a_row_in_two_cells_is_refused(tmp_path: Path) -> None:
    for cell in ("x", "y"):
        row(tmp_path / cell / "density")
    with pytest.raises(BenchmarkError, match="`density` occurs in two cells"):
        read_rows(tmp_path)

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from registry.arrays import Embedding
from registry.bundle import write_arrays
from registry.cards import EncoderCard
from registry.errors import CardError, InputError
from registry.representation import Batch
from registry.table import TableEncoder, VectorTable, table_members

IDS = ("a", "b", "c")
VALUES = np.arange(6, dtype=np.float32).reshape(3, 2)
CARD = EncoderCard("mine", "encoder", "s", architecture="table", weights="file:mine.npz")


def batch(*names: str) -> Batch:
    return Batch(names, np.empty((len(names), 0, 0, 0), np.float32), pd.DataFrame(index=range(len(names))))


def test_vectors_are_looked_up_by_id(tmp_path: Path) -> None:
    path = tmp_path / "mine.npz"
    VectorTable(IDS, ("x", "y"), {"main": VALUES, "fresh-00": -VALUES}).write(path)
    assert table_members(path) == ("fresh-00", "main")
    np.testing.assert_array_equal(TableEncoder(CARD, path, "main").embed(batch("c", "a")), VALUES[[2, 0]])
    np.testing.assert_array_equal(TableEncoder(CARD, path, "fresh-00").embed(batch("b")), -VALUES[[1]])
    with pytest.raises(InputError, match=r"no vector for `d` \(1 of 2\)"):
        TableEncoder(CARD, path, "main").embed(batch("a", "d"))


def test_equal_tables_have_equal_bytes(tmp_path: Path) -> None:
    for name in ("one", "other"):
        VectorTable(IDS, ("x", "y"), {"main": VALUES}).write(tmp_path / name)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "other").read_bytes()


@pytest.mark.parametrize(
    ("ids", "members"),
    [(("a", "a", "b"), {"main": VALUES}), (IDS, {}), (IDS, {"main": VALUES[:2]}), (IDS, {"main": np.full((3, 2), np.nan, np.float32)})],
)
def test_what_is_no_table_is_refused(ids: tuple[str, ...], members: dict[str, Embedding]) -> None:
    with pytest.raises(InputError):
        VectorTable(ids, ("x", "y"), members)


def test_another_archive_is_refused(tmp_path: Path) -> None:
    write_arrays(tmp_path / "x.npz", {"weights": VALUES})
    with pytest.raises(CardError, match=r"expected arrays `image_id`.*got weights"):
        VectorTable.read(tmp_path / "x.npz")


def test_an_encoder_that_is_no_table_needs_twins() -> None:
    with pytest.raises(CardError, match="no twins"):
        EncoderCard("mine", "encoder", "s", architecture="cnn:small")
    assert CARD.twins == ()

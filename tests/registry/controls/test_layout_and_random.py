"""Controls that never look at an image."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from registry.controls.layout import Layout, Position, edge_distance, positions
from registry.controls.random import Random
from registry.representation import Batch
from tests.registry.controls.samples import batch_of, facts_for, smooth_noise

FACTS = facts_for(("a",), (8, 8))


def placed(**columns: list[object]) -> Batch:
    metadata = pd.DataFrame({f"Metadata_{name}": values for name, values in columns.items()})
    return replace(batch_of(smooth_noise(len(metadata), 1, 8, 8)), metadata=metadata)


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({"Well": ["A01", "H12", "P24", "AA2", "b7"]}, [(1, 1), (8, 12), (16, 24), (27, 2), (2, 7)]),
        ({"Well": ["00123", "W-1", None]}, [(0, 0)] * 3),
        ({"Row": [1, 8], "Column": [2, 12]}, [(1, 2), (8, 12)]),
        ({"Row": ["A", "c"], "Column": ["01", "7.0"]}, [(1, 1), (3, 7)]),
        ({"Row": [2.0, None], "Column": [3.0, 4.0]}, [(2, 3), (0, 4)]),
        ({"Row": [5], "Column": [6], "Well": ["A01"]}, [(5, 6)]),
    ],
)
def test_positions(columns: dict[str, list[object]], expected: list[tuple[int, int]]) -> None:
    assert positions(placed(**columns).metadata) == [Position(*p) for p in expected]


def test_edge_distance() -> None:
    assert [edge_distance(Position(*p), 8, 12) for p in ((1, 1), (4, 6), (8, 6), (7, 11), (9, 1), (0, 0))] == [0, 3, 0, 1, 0, 0]


def test_layout_tells_wells_and_plates_apart_and_repeats_itself() -> None:
    wells = [f"{row}{column:02d}" for row in "ABCDEFGH" for column in range(1, 13)]
    one = Layout(FACTS).embed(placed(Well=list(wells), Plate=["P1"] * 96))
    again = Layout(FACTS).embed(placed(Well=list(wells), Plate=["P1"] * 96))
    other = Layout(FACTS).embed(placed(Well=list(wells), Plate=["P2"] * 96))
    np.testing.assert_array_equal(one, again)
    assert len(np.unique(one, axis=0)) == 96
    assert ((one != other).sum(axis=1) == 2).all()


def test_layout_without_letters_still_tells_wells_apart() -> None:
    found = Layout(FACTS).embed(placed(Well=[f"{i:05d}" for i in (1, 2, 1, 77)]))
    assert (found[0] == found[2]).all()
    assert (found[0] != found[1]).any()
    assert (found[:, Layout.columns.index("position unknown")] == 1).all()


def test_random_belongs_to_the_image_and_the_seed() -> None:
    batch = batch_of(smooth_noise(4, 1, 8, 8))
    one = Random(FACTS, 0).embed(batch)
    np.testing.assert_array_equal(one, Random(FACTS, 0).embed(replace(batch, pixels=batch.pixels * 0)))
    assert not np.isclose(one, Random(FACTS, 1).embed(batch)).any()
    assert not np.isclose(one[0], one[1]).any()


def test_random_is_standard_normal() -> None:
    batch = batch_of(np.zeros((500, 1, 2, 2), np.float32))
    values = Random(FACTS, 3).embed(batch)
    assert values.mean() == pytest.approx(0, abs=0.02)
    assert values.std() == pytest.approx(1, abs=0.02)
    assert np.abs(np.corrcoef(values.T) - np.eye(64)).max() < 0.25


def test_random_is_the_same_everywhere() -> None:
    """A golden number: another library version or machine must draw the same noise."""
    batch = replace(batch_of(np.zeros((1, 1, 2, 2), np.float32)), image_ids=("P001-A01-s1",))
    np.testing.assert_allclose(Random(FACTS, 0).embed(batch)[0, :3], GOLDEN, rtol=1e-6)


GOLDEN = (-0.54757994, -0.68245101, -0.71312428)

from __future__ import annotations

import math
from pathlib import Path

import pytest

from registry.files import canonical_json, published, sha256_of_bytes, sha256_of_file, write_json


def test_a_failing_block_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    target.write_text("old")
    with pytest.raises(RuntimeError), published(target) as temporary:  # noqa: PT012  # the write before the failure is the point
        temporary.write_text("half")
        raise RuntimeError
    assert target.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_a_reader_never_sees_the_file_before_the_block_ends(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "a.txt"
    with published(target) as temporary:
        temporary.write_text("new")
        assert not target.exists()
    assert target.read_text() == "new"


def test_canonical_json_does_not_depend_on_key_order_and_refuses_nan() -> None:
    assert canonical_json({"b": 1, "a": 0.1}) == canonical_json({"a": 0.1, "b": 1})
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical_json({"a": math.nan})


def test_hash_of_a_file_is_that_of_its_bytes(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", [1])
    assert sha256_of_file(tmp_path / "a.json") == sha256_of_bytes(b"[\n 1\n]\n")

"""The pointer between a follower and an endpoint: read whole or refused, and never out of its folder."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from registry.errors import BundleError
from serving.live import Live, Refusal, clear_refusal, names, pointer_path, retire

DIGESTS = [f"{i:064x}" for i in range(1, 6)]


def live(digest: str = DIGESTS[0], **changes: Any) -> Live:
    pointer = Live(f"tiny/{digest}", digest, "tiny@promoted", 3, "a" * 64, "current")
    return replace(pointer, **changes)


def placed(root: Path, *digests: str) -> None:
    for i, digest in enumerate(digests):
        (root / "tiny" / digest).mkdir(parents=True)
        os.utime(root / "tiny" / digest, (1000 + i, 1000 + i))


def test_a_pointer_comes_back_as_it_was_written(tmp_path: Path) -> None:
    placed(tmp_path, *DIGESTS[:2])
    assert names(tmp_path) == []
    live().write(tmp_path)
    assert Live.read(tmp_path, "tiny") == live()
    assert json.loads((tmp_path / "tiny.json").read_text()) == asdict(live())
    live(DIGESTS[1], evidence="stale: the plates are others").write(tmp_path)
    read = Live.read(tmp_path, "tiny")
    assert (read.digest, read.evidence, read.name) == (DIGESTS[1], "stale: the plates are others", "tiny")
    assert read.bundle(tmp_path) == tmp_path / "tiny" / DIGESTS[1]
    assert names(tmp_path) == ["tiny"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tiny", "tiny.json"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"folder": "../elsewhere"}, "as `folder`, got `../elsewhere`"),
        ({"folder": "/etc"}, "as `folder`, got `/etc`"),
        ({"folder": f"tiny/{DIGESTS[1]}"}, "as `folder`"),
        ({"folder": f"other/{DIGESTS[0]}", "reference": "other@promoted"}, "expected a pointer to a bundle of `tiny`"),
        ({"digest": "../x"}, "as `digest`, got `../x`"),
        ({"reference": "tiny"}, "expected `NAME@ALIAS` as `reference`"),
        ({"reference": "../tiny@promoted"}, "as `reference`"),
        ({"version": 0}, "as `version`"),
        ({"version": True}, "`version` (int)"),
        ({"version": "3"}, "got `folder` (str), `digest` (str), `reference` (str), `version` (str)"),
        ({"identity": None}, "`identity` (NoneType)"),
        ({"identity": "short"}, "as `identity`"),
        ({"evidence": ""}, "as `evidence`"),
        ({"command": "rm"}, "`command` (str)"),
        ({"digest": DIGESTS[2], "folder": f"tiny/{DIGESTS[2]}"}, "which is not there"),
    ],
)
def test_a_pointer_that_is_not_one_is_refused(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    placed(tmp_path, *DIGESTS[:2])
    (tmp_path / "other" / DIGESTS[0]).mkdir(parents=True)
    pointer_path(tmp_path, "tiny").write_text(json.dumps(asdict(live()) | changes))
    with pytest.raises(BundleError) as caught:
        Live.read(tmp_path, "tiny")
    assert words in str(caught.value)


@pytest.mark.parametrize("size", [0, 1, 40, 200])
def test_a_half_written_pointer_is_refused(tmp_path: Path, size: int) -> None:
    placed(tmp_path, DIGESTS[0])
    live().write(tmp_path)
    path = pointer_path(tmp_path, "tiny")
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(BundleError, match="is not whole JSON"):
        Live.read(tmp_path, "tiny")


@pytest.mark.parametrize("text", ["[]", "3", '"tiny"', "null", "{}"])
def test_other_json_is_refused(tmp_path: Path, text: str) -> None:
    pointer_path(tmp_path, "tiny").write_text(text)
    with pytest.raises(BundleError, match="expected exactly `folder` \\(str\\)"):
        Live.read(tmp_path, "tiny")


def test_a_link_out_of_the_folder_is_not_followed(tmp_path: Path) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    (root / "tiny").mkdir(parents=True)
    outside.mkdir()
    (root / "tiny" / DIGESTS[0]).symlink_to(outside)
    with pytest.raises(BundleError, match="is not below"):
        live().write(root)
    pointer_path(root, "tiny").write_text(json.dumps(asdict(live())))
    with pytest.raises(BundleError, match="is not below"):
        Live.read(root, "tiny")


@pytest.mark.parametrize("name", ["../tiny", "", "Tiny", "tiny.refused", "a/b"])
def test_a_name_is_no_path(tmp_path: Path, name: str) -> None:
    with pytest.raises(BundleError, match="Expected the name of a model"):
        Live.read(tmp_path, name)


def test_without_a_pointer_it_says_who_writes_one(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"`blankslide follow tiny --into .*` writes it"):
        Live.read(tmp_path, "tiny")
    assert names(tmp_path / "nowhere") == []


def test_a_refusal_is_no_pointer(tmp_path: Path) -> None:
    assert Refusal.read(tmp_path, "tiny") is None
    said = Refusal(DIGESTS[0], 4, "A file was altered.", "2026-07-30T10:00:00+00:00")
    said.write(tmp_path, "tiny")
    assert Refusal.read(tmp_path, "tiny") == said
    assert names(tmp_path) == []
    (tmp_path / "tiny.refused.json").write_text('{"digest": ""')
    with pytest.raises(BundleError, match="is not whole JSON"):
        Refusal.read(tmp_path, "tiny")
    clear_refusal(tmp_path, "tiny")
    clear_refusal(tmp_path, "tiny")
    assert Refusal.read(tmp_path, "tiny") is None


def test_bundles_that_are_not_live_are_retired_but_the_last(tmp_path: Path) -> None:
    placed(tmp_path, *DIGESTS)
    (tmp_path / "tiny" / "notes").mkdir()
    with pytest.raises(BundleError, match="There is no"):
        retire(tmp_path, "tiny", 0)
    live(DIGESTS[1]).write(tmp_path)
    assert retire(tmp_path, "tiny", 2) == [DIGESTS[2], DIGESTS[0]]
    assert sorted(path.name for path in (tmp_path / "tiny").iterdir()) == [DIGESTS[1], DIGESTS[3], DIGESTS[4], "notes"]
    assert retire(tmp_path, "tiny", 2) == []
    assert retire(tmp_path, "tiny", 0) == [DIGESTS[4], DIGESTS[3]]
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []
    assert Live.read(tmp_path, "tiny").digest == DIGESTS[1]

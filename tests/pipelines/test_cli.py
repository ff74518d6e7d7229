"""The command as it is typed: what it prints, what it exits with, what it leaves behind."""

from __future__ import annotations

import json
import shutil
import zipfile
from pathlib import Path

import pytest

from pipelines.benchmarks.index import Benchmark
from pipelines.cli import main
from registry.registration import register
from registry.store import Store
from serving.archive import BUNDLE, INSIDE
from tests.pipelines.benchmarks.folders import classes, table
from tests.registry.scorecards import Against, controls, make_bundle, scorecard, task

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    # mlflow puts the last URI of a process there
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    folder = tmp_path / "workspace"
    folder.mkdir()
    shutil.copy(ROOT / "params.yaml", folder)
    return folder


@pytest.fixture
def store(workspace: Path) -> Store:
    return Store(f"sqlite:///{workspace / 'mlflow.db'}")


def run(workspace: Path, *arguments: str) -> int:
    return main(["--workspace", str(workspace), *arguments])


def test_import_makes_a_benchmark_and_says_what_comes_next(workspace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table(tmp_path / "raw")
    stated = ["--table", "cells.csv", "--label", "phenotype", "--unit", "plate", "--plate", "plate", "--well", "well", "--channel", "dna"]
    facts = ["--pixel-size-um", "0.5", "--modality", "cells", "--licence", "CC0"]
    assert run(workspace, "data", "import", str(tmp_path / "raw"), "--name", "mine", *stated, *facts) == 0
    made = Benchmark.read(workspace / "data" / "mine")
    assert made.card.image.channels == ("dna",)
    assert made.card.licence == "CC0"
    printed = capsys.readouterr().out
    assert "`mine`: 24 images, 6 units (plate), 5 folds" in printed
    assert "Next: add cells for it to params.yaml" in printed


def test_an_import_never_overwrites_unasked(workspace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    raw = classes(tmp_path / "raw")
    command = ["data", "import", str(raw), "--name", "mine", "--unit", "image"]
    assert run(workspace, *command) == 0
    before = {path: path.read_bytes() for path in (workspace / "data" / "mine").rglob("*") if path.is_file()}
    classes(tmp_path / "raw", n=8)
    assert run(workspace, *command) == 2
    assert "--replace" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in (workspace / "data" / "mine").rglob("*") if path.is_file()} == before
    assert run(workspace, *command, "--replace") == 0
    assert len(Benchmark.read(workspace / "data" / "mine").index) == 16


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--table", "cells.csv", "--label", "genotype", "--unit", "plate"], "`genotype`"),
        (["--table", "cells.csv", "--label", "phenotype", "--unit", "donor"], "`donor`"),
        (["--table", "none.csv", "--label", "phenotype", "--unit", "plate"], "none.csv"),
        (["--table", "cells.csv", "--label", "phenotype", "--unit", "plate", "--where", "plate"], "`column=value`"),
    ],
)
def test_what_an_import_lacks_is_named(workspace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str) -> None:
    table(tmp_path / "raw")
    assert run(workspace, "data", "import", str(tmp_path / "raw"), "--name", "mine", *arguments) == 2
    assert words in capsys.readouterr().err
    assert not (workspace / "data" / "mine").exists()


def test_promote_moves_the_alias_or_exits_with_1_and_the_reason(
    workspace: Path, store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lost = (task("count", controls(0.12, density=Against(-0.2, half=0.02, p=1.0)), word="loses"),)
    register(store, make_bundle(tmp_path / "good"))
    register(store, make_bundle(tmp_path / "bad", row="worse", card=scorecard("worse", tasks=lost)))
    assert run(workspace, "promote", "simclr") == 0
    assert "`simclr`: promoted" in capsys.readouterr().out
    assert "promoted" in store.version("simclr").aliases
    assert run(workspace, "promote", "worse@culture") == 1
    assert "On `count` it loses more than 0.02 to `density`" in capsys.readouterr().err
    assert store.version("worse@culture").aliases == ("culture",)
    assert run(workspace, "promote", "nobody") == 2
    assert "Known: `simclr`, `worse`" in capsys.readouterr().err


def test_rollback_says_what_it_did_and_show_lists_it(workspace: Path, store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for seed in (0, 1):
        register(store, make_bundle(tmp_path / str(seed), seed=seed))
        assert run(workspace, "promote", f"simclr/{seed + 1}") == 0
    capsys.readouterr()
    assert run(workspace, "rollback", "simclr", "--reason", "plate 7 comes out as noise") == 0
    said, gate, *_ = capsys.readouterr().out.splitlines()
    assert said.startswith("The alias `promoted` of `simclr` went back from `simclr/2` to `simclr/1`, promoted on ")
    assert said.endswith(" UTC: plate 7 comes out as noise.")
    assert gate.startswith("  On `chirality` (culture) it beats its twins")
    assert "promoted" in store.version("simclr/1").aliases
    assert run(workspace, "registry", "show", "simclr") == 0
    lines = [line.partition(" UTC  ")[2] for line in capsys.readouterr().out.splitlines() if " UTC  " in line]
    assert [line.partition(":")[0] for line in lines] == ["promoted simclr/1", "promoted simclr/2", "rolled back to simclr/1"]
    assert lines[2].endswith(": plate 7 comes out as noise.")
    assert run(workspace, "rollback", "simclr") == 2
    assert "There is no version of `simclr` promoted before `simclr/1`" in capsys.readouterr().err
    store.tag_version(store.version("simclr/2"), {"stale.culture": "the plates are others"})
    assert run(workspace, "rollback", "simclr", "--to", "2") == 1
    assert "the gate refuses `simclr/2` now. Its evidence on `culture` is stale: the plates are others." in capsys.readouterr().err
    assert run(workspace, "rollback", "simclr", "--to", "2", "--force") == 2
    assert run(workspace, "rollback", "simclr", "--to", "2", "--force", "--reason", "it was the microscope") == 0
    assert "it was the microscope. The gate refuses it now; it was forced." in capsys.readouterr().out


def test_list_names_every_version(workspace: Path, store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(workspace, "registry", "list") == 0
    assert "blankslide registry sync" in capsys.readouterr().out
    for seed in (0, 1):
        register(store, make_bundle(tmp_path / str(seed), seed=seed))
    assert run(workspace, "registry", "list") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["simclr/1", "simclr/2"]
    assert all(line.endswith("culture") for line in lines)


def test_reproduce_says_why_it_cannot(workspace: Path, store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    register(store, make_bundle(tmp_path / "simclr"))
    assert run(workspace, "reproduce", "simclr@culture") == 2
    assert "`simclr/1` cannot be reproduced" in capsys.readouterr().err


def test_archive_packs_a_registered_bundle_and_a_folder(workspace: Path, store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = make_bundle(tmp_path / "simclr")
    register(store, made)
    packed = []
    for number, which in enumerate((["simclr@culture"], ["--bundle", str(made.folder)], ["simclr@culture", "--inside", "torch"])):
        out = tmp_path / f"archives{number}"
        assert run(workspace, "archive", *which, "--out", str(out)) == 0
        path = Path(capsys.readouterr().out.splitlines()[-1])
        assert path.parent == out
        with zipfile.ZipFile(path) as archive:
            assert "torchserve_handler.py" in archive.namelist()
            packed.append(archive.read(BUNDLE))
            assert json.loads(archive.read(INSIDE)) == {"inside": "torch" if "torch" in which else "onnx"}
    # the archive itself holds the time it was made at
    assert packed[0] == packed[1] == packed[2]


def test_a_folder_that_nobody_fills_is_not_served(workspace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(workspace, "serve", "--live", str(tmp_path / "live")) == 2
    assert f"found none. `blankslide follow NAME --into {tmp_path / 'live'}` puts them there" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["serve", "archive", "torchserve"])
def test_what_to_serve_must_be_said(workspace: Path, capsys: pytest.CaptureFixture[str], command: str) -> None:
    assert run(workspace, command) == 2
    assert "Expected a registered NAME[@ALIAS], or --bundle FOLDER" in capsys.readouterr().err


def test_where_prints_commands_that_name_this_workspace(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(workspace, "where") == 0
    printed = capsys.readouterr().out
    assert f"xdg-open {workspace.resolve()}/reports/index.html" in printed
    assert f"mlflow ui --backend-store-uri sqlite:///{workspace / 'mlflow.db'}" in printed
    assert f"blankslide --workspace {workspace.resolve()} serve" in printed


def test_an_unknown_option_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["report", "--fast"])
    assert caught.value.code == 2
    assert "unrecognized arguments: --fast" in capsys.readouterr().err

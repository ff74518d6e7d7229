"""Stale evidence is listed and made again by real DVC in a real store: exactly that, once, by one process at a time."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from pipelines.beside import confounding, replicates
from pipelines.cli import main
from pipelines.current import Judge, protocols
from pipelines.metrics import retrieval
from pipelines.metrics.verdicts import PROTOCOL as VERDICT
from pipelines.params import CellParams, EncoderParams, Params, TrainParams
from pipelines.rescore import Journal, _facts, _journal, plan, rescore, survey
from pipelines.study import asdict_without_none
from pipelines.workspace_files import dvc, make_workspace
from registry.evidence import Scorecard
from registry.files import read_json, write_json
from registry.promote import promote
from registry.receipts import sync, write_receipts
from registry.records import Version
from registry.staleness import Reason, Staleness, installed
from registry.store import Store
from registry.upkeep import Standing, look
from tests.registry.scorecards import make_bundle

ROOT = Path(__file__).resolve().parents[2]
SIMCLR = EncoderParams("simclr", "trained here", "cnn:small", "trained", twins=["untrained-cnn"])
NET = EncoderParams("net", "given", "cnn:small", "file:net.bin", twins=["untrained-cnn"])
CELLS = (
    CellParams("culture", "controls", ["density"], "code.txt"),
    CellParams("culture", "simclr", ["simclr"], "out/weights/culture/simclr", SIMCLR),
    CellParams("tissue", "controls", ["density"], "code.txt"),
    CellParams("tissue", "net", ["net"], "net.bin", NET),
)
BESIDE = {"replicates": replicates.PROTOCOL, "confounds": confounding.PROTOCOL, "verdict": VERDICT}
PARAMS = Params(
    seed=0,
    threads=1,
    cells={f"{cell.benchmark}--{cell.cell}": cell for cell in CELLS},
    compare=["culture", "tissue"],
    train={"culture--simclr": TrainParams("culture", "simclr", "simclr")},
)
TISSUE = [
    *("extract@tissue--controls", "extract@tissue--net", "evaluate@tissue--controls", "evaluate@tissue--net"),
    *("oracle@tissue", "diagnose@tissue", "package@tissue", "report"),
]


def stage(name: str, arguments: str, deps: list[str], outs: list[str]) -> dict[str, Any]:
    command = f"{sys.executable} {ROOT / 'tests' / 'pipelines' / 'rescore_flow.py'} {name} {arguments}"
    return {"cmd": command.strip(), "deps": deps, "outs": outs}


def flow() -> dict[str, Any]:
    """The stages of the product's dvc.yaml and how they hang together."""
    cell, scores = "${item.benchmark}/${item.cell}", ["out/scores/${item}", "out/oracle/${item}"]
    return {
        "train": {
            "foreach": "${train}",
            "do": stage("train", "${item.benchmark} ${item.encoder}", ["data/${item.benchmark}"], ["out/weights/${item.benchmark}/${item.encoder}"]),
        },
        "extract": {
            "foreach": "${cells}",
            "do": stage("extract", cell.replace("/", " "), ["data/${item.benchmark}", "${item.made_from}"], [f"out/embeddings/{cell}"]),
        },
        "evaluate": {"foreach": "${cells}", "do": stage("evaluate", cell.replace("/", " "), [f"out/embeddings/{cell}"], [f"out/scores/{cell}"])},
        "oracle": {"foreach": "${compare}", "do": stage("oracle", "${item}", ["out/embeddings/${item}"], ["out/oracle/${item}"])},
        "diagnose": {"foreach": "${compare}", "do": stage("diagnose", "${item}", scores, ["out/verdicts/${item}"])},
        "package": {
            "foreach": "${compare}",
            "do": stage("package", "${item}", ["out/verdicts/${item}"], ["out/bundles/${item}", "out/receipts/${item}.json"]),
        },
        "report": stage("report", "", ["out/verdicts"], ["reports/index.html"]),
    }


def write_index(folder: Path, image: str) -> None:
    """An index that names one image and nothing of wells."""
    pd.DataFrame({"image_id": [image]}).to_parquet(folder / "index.parquet")


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished flow; the evidence on `tissue` was made with an earlier numpy."""
    root = tmp_path_factory.mktemp("template") / "workspace"
    make_workspace(root)
    for name in PARAMS.compare:
        folder = root / "data" / name
        folder.mkdir(parents=True)
        write_index(folder, f"the index of {name}")
        (folder / "gain.txt").write_text("0.12")
        write_json(folder / "card.json", {"name": name})
    for name in ("code.txt", "net.bin"):
        (root / name).write_text(name)
    now = {name: installed()[name] for name in ("numpy", "torch")}
    write_json(
        root / "world.json",
        {"protocols": {**protocols(PARAMS), **BESIDE}, "versions": {"culture": now, "tissue": {**now, "numpy": "0.0.1"}}},
    )
    (root / "params.yaml").write_text(yaml.safe_dump(asdict_without_none(PARAMS)))
    (root / "dvc.yaml").write_text(yaml.safe_dump({"stages": flow()}))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT))
        dvc(root, "repro", "--quiet")
    (root / "ran.log").unlink()
    Store(f"sqlite:///{root / 'mlflow.db'}")
    return root


@pytest.fixture
def workspace(template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    shutil.copytree(template, tmp_path / "workspace", symlinks=True)
    return tmp_path / "workspace"


@pytest.fixture
def store(workspace: Path) -> Store:
    return Store(f"sqlite:///{workspace / 'mlflow.db'}")


def ran(workspace: Path) -> list[str]:
    log = workspace / "ran.log"
    return log.read_text().split() if log.is_file() else []


def change(workspace: Path, **facts: Any) -> None:
    write_json(workspace / "world.json", {**read_json(workspace / "world.json"), **facts})


def upgrade(workspace: Path) -> None:
    """From now on everything is made with what is installed."""
    versions = read_json(workspace / "world.json")["versions"]
    change(workspace, versions={**versions, "tissue": versions["culture"]})


def run(workspace: Path, *arguments: str) -> int:
    return main(["--workspace", str(workspace), *arguments])


def stages(workspace: Path) -> dict[str, list[str]]:
    judge = Judge(workspace)
    return {name: plan(judge, name) for name in PARAMS.compare}


# ------------------------------------------------------------------------------------------------ what would be done


def test_a_library_runs_the_cells_it_made_and_what_comes_after(workspace: Path) -> None:
    assert stages(workspace) == {"culture": [], "tissue": TISSUE[:-1]}


def test_another_index_runs_that_benchmark_and_trains_what_was_trained_on_it(workspace: Path) -> None:
    write_index(workspace / "data" / "culture", "another split")
    assert stages(workspace)["culture"] == [
        *("train@culture--simclr", "extract@culture--controls", "extract@culture--simclr"),
        *("evaluate@culture--controls", "evaluate@culture--simclr", "oracle@culture", "diagnose@culture", "package@culture"),
    ]
    # the same images under another card: weights are kept
    write_index(workspace / "data" / "culture", "the index of culture")
    write_json(workspace / "data" / "culture" / "card.json", {"name": "culture", "title": "Another"})
    assert stages(workspace)["culture"][0] == "extract@culture--controls"


def test_another_protocol_runs_no_extraction_and_no_benchmark_without_such_scores(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tissue = stages(workspace)["tissue"]
    monkeypatch.setattr(retrieval, "PROTOCOL", "retrieval/another/v9")
    assert stages(workspace) == {
        "culture": ["evaluate@culture--controls", "evaluate@culture--simclr", "oracle@culture", "diagnose@culture", "package@culture"],
        "tissue": tissue,
    }


def test_another_rule_beside_the_tasks_runs_the_rows_that_were_asked_by_it(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tissue = stages(workspace)["tissue"]
    monkeypatch.setattr(replicates, "PROTOCOL", "replicates:v99")
    culture = ["evaluate@culture--controls", "evaluate@culture--simclr", "diagnose@culture", "package@culture"]
    assert stages(workspace) == {"culture": culture, "tissue": tissue}


def test_another_margin_runs_verdicts_alone(workspace: Path) -> None:
    for path in (workspace / "out" / "verdicts" / "culture").glob("*.scorecard.json"):
        value = read_json(path)
        write_json(path, {**value, "provenance": {**value["provenance"], "diagnose": {"margin": 0.9}}})
    assert stages(workspace)["culture"] == ["diagnose@culture", "package@culture"]


def test_one_stale_cell_runs_alone(workspace: Path) -> None:
    path = workspace / "out" / "verdicts" / "culture" / "simclr.scorecard.json"
    path.write_text(path.read_text().replace(retrieval.PROTOCOL, "retrieval/old/v0"))
    assert stages(workspace)["culture"] == ["evaluate@culture--simclr", "diagnose@culture", "package@culture"]


def test_bundles_of_other_scorecards_are_made_again(workspace: Path) -> None:
    path = workspace / "out" / "verdicts" / "culture" / "simclr.scorecard.json"
    write_json(path, {**read_json(path), "notes": ["a verdict was reached after the bundle was made"]})
    assert stages(workspace)["culture"] == ["package@culture"]


def test_a_row_that_was_never_scored_joins_the_table_that_is_made_again(workspace: Path) -> None:
    (workspace / "out" / "verdicts" / "tissue" / "net.scorecard.json").unlink()
    (workspace / "out" / "verdicts" / "culture" / "simclr.scorecard.json").unlink()
    assert stages(workspace) == {"culture": [], "tissue": TISSUE[:-1]}


@pytest.mark.parametrize("killed", ["evaluate@tissue--net", "diagnose@tissue", "package@tissue", "report"])
def test_what_a_killed_run_left_is_known_though_dvc_had_removed_what_the_stage_makes(workspace: Path, killed: str) -> None:
    """As the files lie when a stage is killed: what came before it is new, what it makes is gone, what comes after it is old."""
    done = TISSUE[: TISSUE.index(killed)]
    judge, out = Judge(workspace), workspace / "out"
    Journal(out / ".rescore-tissue.json", _facts(judge, "tissue"), tuple(TISSUE), tuple(done)).write()
    if "diagnose@tissue" in done:
        for path in (out / "verdicts" / "tissue").glob("*.scorecard.json"):
            path.write_text(path.read_text().replace('"0.0.1"', f'"{installed()["numpy"]}"'))
    makes = {"evaluate@tissue--net": "scores/tissue/net", "diagnose@tissue": "verdicts/tissue", "package@tissue": "bundles/tissue"}
    if killed in makes:
        shutil.rmtree(out / makes[killed])
    if killed == "package@tissue":
        (out / "receipts" / "tissue.json").unlink()
    judge = Judge(workspace)
    found = survey(judge, [promoted("net", "tissue")])
    assert found.unfinished == ("tissue",)
    assert found.benchmarks == ["tissue"]
    assert {line.obstacle for line in found.lines} == {""}
    journal = _journal(judge, "tissue")
    assert journal is not None
    assert journal.left == TISSUE[TISSUE.index(killed) :]
    # under other facts all of it is chosen anew
    write_index(workspace / "data" / "tissue", "another split")
    assert _journal(Judge(workspace), "tissue") is None


def promoted(name: str, *stale: str) -> Standing:
    """A promoted version with evidence on one benchmark after another."""
    tags = {"gate.decision": "promoted", **{f"registered.{benchmark}": "hash:digest" for benchmark in stale}}
    return Standing(Version(name, 1, "m", tags, ("promoted",)), {b: Staleness((Reason("data", "train", "the index is another"),)) for b in stale})


def test_what_another_workspace_holds_is_listed_and_left_to_it(workspace: Path) -> None:
    found = survey(Judge(workspace), [promoted("graphnet", "plants"), promoted("net", "tissue")])
    (line,) = [line for line in found.lines if line.benchmark == "plants"]
    assert str(line) == (
        "graphnet@plants (graphnet/1 promoted): stale: the index is another. It cannot be made again here: `plants` is not in this workspace."
    )
    assert found.benchmarks == ["tissue"]
    assert [standing.version.name for standing in found.promoted] == ["net"]


def test_a_version_that_the_workspace_does_not_make_any_more_is_said(workspace: Path) -> None:
    found = survey(Judge(workspace), [promoted("net", "tissue")])
    assert "It cannot be made again here: the workspace makes another version of it, or none." in str(found.lines[-1])
    shutil.rmtree(workspace / "out" / "verdicts")
    found = survey(Judge(workspace), [promoted("net", "tissue")])
    assert "the workspace has no scorecards of `tissue`. Run `dvc repro`" in str(found.lines[0])
    assert found.benchmarks == []


# ------------------------------------------------------------------------------------------------ what is done


def test_stale_evidence_is_listed_and_made_again_and_nothing_else(workspace: Path, store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    sync(store, workspace)
    assert promote(store, "net").passed
    assert promote(store, "simclr").passed
    before = {name: store.versions(name) for name in store.models()}
    assert run(workspace, "rescore", "--list") == 0
    said = capsys.readouterr()
    lines = said.out.splitlines()
    assert [line.partition(":")[0] for line in lines] == [
        "density@tissue (workspace, density/1)",
        "net@tissue (workspace, net/1 promoted)",
        "oracle@tissue (workspace, oracle/1)",
    ]
    assert "stale: its vectors were made with numpy 0.0.1 (" in lines[0]
    assert "`net/1` is promoted, and its evidence on `tissue` is stale" in said.err
    assert ran(workspace) == []
    assert {name: store.versions(name) for name in store.models()} == before
    assert run(workspace, "promote", "net") == 1
    assert "Its evidence on `tissue` is stale" in capsys.readouterr().err

    upgrade(workspace)
    assert run(workspace, "rescore") == 0
    printed = capsys.readouterr().out
    assert ran(workspace) == TISSUE
    assert "[rescore] `net/1` keeps the alias `promoted`" in printed
    assert "Nothing is stale." in printed
    net = store.version("net")
    assert (net.number, net.tags["stale"], net.tags["gate.decision"]) == (1, "false", "promoted")
    assert net.tags["gate.evidence"] == f"tissue:{net.evidence('tissue')}"
    earlier, now = store.history(net, "tissue")
    assert [earlier.tags["evidence"], now.tags["evidence"]] == [before["net"][0].evidence("tissue"), net.evidence("tissue")]
    assert store.scorecard_of(earlier.run_id).provenance["versions"]["numpy"] == "0.0.1"
    # what was not stale is what it was, the decision about it too
    assert store.versions("simclr")[0].tags == {**before["simclr"][0].tags, "stale": "false", "stale.culture": "no"}

    assert run(workspace, "rescore") == 0
    assert "Nothing is stale." in capsys.readouterr().out
    assert ran(workspace) == TISSUE
    assert run(workspace, "registry", "show", "net@tissue") == 0
    shown = capsys.readouterr().out
    assert f"tissue: evidence {net.evidence('tissue')[:12]}, current" in shown
    assert f"earlier: evidence {earlier.tags['evidence'][:12]} in run {earlier.run_id}" in shown


def test_a_registry_that_is_behind_its_workspace_is_only_filled(workspace: Path, store: Store) -> None:
    """As after `dvc repro`: bundles are new, and the registry has what an earlier numpy made."""
    sync(store, workspace)
    old = store.version("net@tissue")
    shutil.rmtree(workspace / "out" / "bundles" / "tissue")
    for path in (workspace / "out" / "verdicts" / "tissue").glob("*.scorecard.json"):
        path.write_text(path.read_text().replace('"0.0.1"', f'"{installed()["numpy"]}"'))
        card = Scorecard.from_dict(read_json(path))
        made = make_bundle(workspace.parent / card.row, row=card.row, role=card.role, card=card, onnx=card.row != "oracle")
        shutil.copytree(made.folder, workspace / "out" / "bundles" / "tissue" / card.row)
    write_receipts(workspace, "tissue")
    done = rescore(store, workspace)
    assert (done.stages, done.registered) == ((), ("density/1", "net/1", "oracle/1"))
    assert not done.left.anything
    assert ran(workspace) == []
    assert store.version("net@tissue").evidence("tissue") != old.evidence("tissue")


@pytest.mark.slow
def test_a_promotion_does_not_outlive_its_evidence(workspace: Path, store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    """New plates: what was trained on the old ones is trained again and is another version; on tissue the encoder now loses."""
    sync(store, workspace)
    assert promote(store, "net").passed
    assert promote(store, "simclr").passed
    upgrade(workspace)
    write_index(workspace / "data" / "culture", "another split")
    (workspace / "data" / "tissue" / "gain.txt").write_text("-0.1")
    assert run(workspace, "registry", "list") == 0
    said = capsys.readouterr()
    assert "  culture: stale: the index of `culture` has sha256" in said.out
    assert "`simclr/1` is promoted, and its evidence on `culture` is stale" in said.err
    assert run(workspace, "rescore") == 1
    said = capsys.readouterr()
    assert "`net/1` has lost the alias `promoted`: On no task does it beat" in said.out
    assert "`simclr/1` has lost the alias `promoted`: Its evidence on `culture` is stale" in said.out
    assert "The alias `promoted` was taken from `net/1`, `simclr/1`" in said.err
    assert ran(workspace)[0] == "train@culture--simclr"
    assert [v.aliases for v in store.versions("simclr")] == [(), ("culture",)]
    assert store.version("net/1").tags["gate.decision"] == "withdrawn"
    assert run(workspace, "rescore") == 0
    assert "Nothing is stale." in capsys.readouterr().out


@pytest.mark.slow
def test_targets_choose_benchmarks(workspace: Path, store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    sync(store, workspace)
    assert promote(store, "simclr").passed
    write_index(workspace / "data" / "culture", "another split")
    judge = Judge(workspace)
    standings = look(store, judge)
    assert survey(judge, standings, ["density"]).benchmarks == ["culture", "tissue"]
    assert survey(judge, standings, ["density@culture"]).benchmarks == ["culture"]
    assert survey(judge, standings, ["net"]).benchmarks == ["tissue"]
    assert run(workspace, "rescore", "nobody") == 2
    assert "There is no scored row `nobody`. Known: `density@culture`" in capsys.readouterr().err
    upgrade(workspace)
    assert run(workspace, "rescore", "net") == 0
    assert ran(workspace) == TISSUE
    assert survey(Judge(workspace), look(store, Judge(workspace))).benchmarks == ["culture"]
    # only evidence on tissue was asked for
    assert store.version("simclr").number == 1


def command(workspace: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "pipelines.cli", "--workspace", str(workspace), "rescore"],
        cwd=ROOT,
        env={**os.environ},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


@pytest.mark.slow
@pytest.mark.parametrize("dies_in", ["evaluate@tissue--net", "diagnose@tissue", "package@tissue", "report"])
def test_a_run_that_is_killed_is_finished_by_the_next(workspace: Path, store: Store, dies_in: str) -> None:
    sync(store, workspace)
    before = store.version("net@tissue")
    upgrade(workspace)
    change(workspace, dies_in=dies_in)
    process = command(workspace)
    process.communicate(timeout=300)
    assert process.returncode == -signal.SIGKILL
    done = ran(workspace)
    assert done == TISSUE[: TISSUE.index(dies_in) + 1]
    # evidence that was there is there, and still says what it is
    assert store.version("net@tissue").evidence("tissue") == before.evidence("tissue")
    change(workspace, dies_in="")
    assert run(workspace, "rescore") == 0
    assert ran(workspace) == [*done, *TISSUE[TISSUE.index(dies_in) :]]
    assert store.version("net@tissue").tags["stale"] == "false"
    assert len(store.history(store.version("net@tissue"), "tissue")) == 2
    assert run(workspace, "rescore") == 0
    assert ran(workspace) == [*done, *TISSUE[TISSUE.index(dies_in) :]]


@pytest.mark.slow
def test_of_two_at_once_one_does_the_work(workspace: Path, store: Store) -> None:
    sync(store, workspace)
    upgrade(workspace)
    both = [command(workspace) for _ in range(2)]
    said = [process.communicate(timeout=300)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert ran(workspace) == TISSUE
    assert all("Nothing is stale." in each for each in said)
    assert len(store.history(store.version("net@tissue"), "tissue")) == 2

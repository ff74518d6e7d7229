"""What a run of `mlflow run` says about itself, checked against DVC's own lock file, git and the store."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
import yaml

from pipelines.cli import _parser, main
from pipelines.extract import extract_cell
from pipelines.params import CellParams, EvaluateParams, ExtractParams, Params
from pipelines.tracking import flat, inside_mlflow_run, machine, read_inputs, stage_name
from pipelines.workspace import Workspace
from registry.errors import BenchmarkError
from registry.flow_experiment import FlowExperiment
from registry.store import Store
from tests.pipelines.folder import write_images

ROOT = Path(__file__).resolve().parents[2]
VALUES = {"seed": 3, "threads": 1, "cells": {}, "compare": [], "evaluate": {"max_dim": 16, "neighbours": 5, "permutations": 20}}
STEPS = ("simulate", "train", "extract", "evaluate", "oracle", "diagnose", "package", "report")
STAGES = {
    "evaluate": {
        "foreach": {"culture--simclr": "x"},
        "do": {
            "cmd": "mkdir -p out && cp code/one.py out/copied",
            "deps": ["code", "data.txt"],
            "params": ["evaluate", "seed"],
            "outs": ["out/copied"],
        },
    },
    "package": {"cmd": "cp out/copied out/packed", "deps": ["out/copied"], "outs": ["out/packed"]},
}


def sh(folder: Path, *command: str) -> str:
    # commands of this environment, whether or not it was activated
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    return subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True, env={**os.environ, "PATH": path}).stdout.strip()


def commit(folder: Path) -> None:
    sh(folder, "git", "add", ".")
    sh(folder, "git", "-c", "user.name=Test", "-c", "user.email=test@example.org", "commit", "--quiet", "--allow-empty", "-m", "all")


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A git and DVC repository of two stages, reproduced and committed."""
    folder = tmp_path_factory.mktemp("repository")
    (folder / "code").mkdir()
    (folder / "code" / "one.py").write_text("one\n")
    (folder / "code" / "two.py").write_text("two\n")
    (folder / "data.txt").write_text("data\n")
    (folder / "params.yaml").write_text(yaml.safe_dump(VALUES))
    (folder / "dvc.yaml").write_text(yaml.safe_dump({"stages": STAGES}))
    sh(folder, "git", "init", "--quiet")
    sh(folder, "dvc", "init", "--quiet")
    sh(folder, "dvc", "config", "core.analytics", "false")
    sh(folder, "dvc", "repro", "--quiet")
    commit(folder)
    return folder


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A run as `mlflow run` makes one before it starts our command."""
    from mlflow import MlflowClient

    store = Store(f"sqlite:///{tmp_path / 'mlflow.db'}")
    experiment = store.ensure_experiment("Flow", "runs", "flow")
    run_id: str = MlflowClient(store.uri).create_run(experiment).info.run_id
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store.uri)
    monkeypatch.setenv("MLFLOW_RUN_ID", run_id)
    return run_id


def test_inputs_are_those_of_dvcs_lock_file_until_something_changes(repository: Path) -> None:
    lock = yaml.safe_load((repository / "dvc.lock").read_text())["stages"]["evaluate@culture--simclr"]
    found = read_inputs(repository, "evaluate@culture--simclr")
    assert found.hashes == {dep["path"]: dep["md5"] for dep in lock["deps"]}
    assert found.params == {"evaluate.max_dim": "16", "evaluate.neighbours": "5", "evaluate.permutations": "20", "seed": "3"}
    assert found.unknown == ""
    (repository / "code" / "two.py").write_text("three\n")
    (repository / "data.txt").rename(repository / "away")
    changed = read_inputs(repository, "evaluate@culture--simclr").hashes
    assert changed["code"] != found.hashes["code"]
    assert changed["data.txt"] == "missing"
    (repository / "code" / "two.py").write_text("two\n")
    (repository / "away").rename(repository / "data.txt")


def test_inputs_of_everything_above_a_stage(repository: Path) -> None:
    assert set(read_inputs(repository, "package").hashes) == {"out/copied"}
    whole = read_inputs(repository, "package", whole=True)
    assert set(whole.hashes) == {"out/copied", "code", "data.txt"}
    assert whole.params["seed"] == "3"


def test_a_stage_that_dvc_does_not_know_is_said(repository: Path, tmp_path: Path) -> None:
    assert "evaluate@nothing" in read_inputs(repository, "evaluate@nothing").as_tags()["dvc.unknown"]
    assert "dvc" in read_inputs(tmp_path, "evaluate").unknown.lower()
    assert read_inputs(tmp_path, "").as_tags() == {}


def test_stages_are_named_as_in_dvc_yaml() -> None:
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    assert "foreach" not in stages["report"]
    assert (stage_name("report", []), stage_name("oracle", ["culture"])) == ("report", "oracle@culture")
    assert stage_name("extract", ["culture", "simclr"]).removeprefix("extract@") in yaml.safe_load((ROOT / "params.yaml").read_text())["cells"]


def test_values_are_flattened_as_text() -> None:
    values = {"a": {"b": 1, "c": {"d": None, "e": {}}}, "f": [1, "x"], "g": "text", "h": False}
    assert dict(flat(values)) == {"a.b": "1", "a.c.d": "null", "a.c.e": "{}", "f": '[1, "x"]', "g": "text", "h": "false"}


def test_the_machine_is_named() -> None:
    found = machine()
    assert found["device"].startswith(("cpu", "cuda: "))
    assert found["processor"] in Path("/proc/cpuinfo").read_text()


def test_outside_of_mlflow_run_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_RUN_ID", raising=False)
    with inside_mlflow_run(tmp_path, ["evaluate"], "evaluate") as run_id:
        assert run_id is None
    assert list(tmp_path.iterdir()) == []


def test_a_run_is_stamped_before_the_work_and_nothing_below_finds_it(repository: Path, run: str) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(os.environ["MLFLOW_TRACKING_URI"])
    with inside_mlflow_run(repository, ["evaluate", "culture", "simclr"], "evaluate@culture--simclr") as run_id:
        assert run_id == run
        assert "MLFLOW_RUN_ID" not in os.environ
        data = client.get_run(run).data
    assert data.tags["blankslide.command"] == "evaluate culture simclr"
    assert data.tags["git.commit"] == sh(repository, "git", "rev-parse", "HEAD")
    assert data.tags["git.dirty"] == "false"
    assert data.tags["dvc.data.txt"] == read_inputs(repository, "evaluate@culture--simclr").hashes["data.txt"]
    assert data.tags["version.torch"] == metadata.version("torch")
    assert {"device", "processor", "dvc.lock"} <= set(data.tags)
    assert data.params["evaluate.max_dim"] == "16"
    assert sorted(f.path for f in client.list_artifacts(run)) == ["dvc.lock", "params.yaml"]


def test_a_run_that_fails_is_stamped_too(repository: Path, run: str) -> None:
    from mlflow import MlflowClient

    with pytest.raises(BenchmarkError), inside_mlflow_run(repository, ["experiment"], "package", whole=True):
        raise BenchmarkError("no")
    tags = MlflowClient(os.environ["MLFLOW_TRACKING_URI"]).get_run(run).data.tags
    assert tags["git.commit"] == sh(repository, "git", "rev-parse", "HEAD")
    # what it would have brought up to date is not known
    assert "dvc.out/copied" not in tags


def test_inputs_of_a_whole_flow_are_those_after_it_ran(repository: Path, run: str) -> None:
    from mlflow import MlflowClient

    with inside_mlflow_run(repository, ["experiment"], "package", whole=True):
        (repository / "code" / "two.py").write_text("during\n")
    tags = MlflowClient(os.environ["MLFLOW_TRACKING_URI"]).get_run(run).data.tags
    assert tags["dvc.code"] == read_inputs(repository, "package", whole=True).hashes["code"]
    (repository / "code" / "two.py").write_text("two\n")
    assert tags["dvc.code"] != read_inputs(repository, "package", whole=True).hashes["code"]


def test_every_entry_point_is_a_command_that_can_be_parsed() -> None:
    entries = yaml.safe_load((ROOT / "MLproject").read_text())["entry_points"]
    assert set(entries) == {"main", *STEPS, "register", "rescore", "ladder"}
    for name, entry in entries.items():
        given = {parameter: stated["default"] for parameter, stated in entry.get("parameters", {}).items()}
        interpreter, module, cli, *arguments = shlex.split(entry["command"].format(**given))
        assert (interpreter, module, cli) == ("python", "-m", "pipelines.cli")
        assert arguments[0] == {"main": "experiment", "register": "registry"}.get(name, name)
        options = vars(_parser().parse_args(arguments))
        assert {parameter: options[parameter] for parameter in given} == given


@pytest.mark.parametrize(("command", "code"), [(["ladder", "nothing"], 2), (["rescore"], 0)])
def test_commands_that_are_no_stages_stamp_their_run_too(repository: Path, run: str, command: list[str], code: int) -> None:
    from mlflow import MlflowClient

    assert main(["--workspace", str(repository), *command]) == code
    assert "MLFLOW_RUN_ID" not in os.environ
    tags = MlflowClient(os.environ["MLFLOW_TRACKING_URI"]).get_run(run).data.tags
    assert tags["blankslide.command"] == " ".join(command)
    assert tags["git.commit"] == sh(repository, "git", "rev-parse", "HEAD")


def test_mlflow_is_told_where_runs_of_a_checkout_belong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (plugin,) = (p for p in metadata.entry_points(group="mlflow.default_experiment_provider") if p.name == "blankslide")
    assert plugin.load() is FlowExperiment
    monkeypatch.chdir(tmp_path)
    assert not FlowExperiment().in_context()
    (tmp_path / "MLproject").write_text("name: somebody-elses\n")
    assert not FlowExperiment().in_context()
    (tmp_path / "MLproject").write_text((ROOT / "MLproject").read_text())
    assert FlowExperiment().in_context()


@pytest.mark.slow
def test_mlflow_run_of_the_project_file(tmp_path: Path) -> None:
    """The real command line in a folder with this repository's MLproject: one run that works, two that do not."""
    cell = CellParams("tiny", "controls", ["intensity", "random"], "registry/controls")
    params = Params(0, 1, {"tiny--controls": cell}, ["tiny"], extract=ExtractParams(device="cpu"), evaluate=EvaluateParams(16, 5, 3, 20))
    workspace = Workspace(tmp_path)
    extract_cell(write_images(workspace.data("tiny"), plates=8), cell, params, workspace)
    cells = {"tiny--controls": {"benchmark": "tiny", "cell": "controls", "rows": cell.rows, "made_from": cell.made_from}}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump({**VALUES, "cells": cells, "compare": ["tiny"]}))
    for name in ("MLproject", "python_env.yaml", "requirements.lock"):
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    (tmp_path / "dvc.yaml").write_text("stages: {}\n")
    sh(tmp_path, "git", "init", "--quiet")
    commit(tmp_path)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
    environment |= {"PYTHONPATH": str(ROOT), "MLFLOW_DISABLE_TELEMETRY": "true"}
    environment["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])

    def mlflow_run(*arguments: str) -> int:
        command = ["mlflow", "run", ".", "--env-manager=local", *arguments]
        return subprocess.run(command, cwd=tmp_path, env=environment, check=False, capture_output=True).returncode

    assert mlflow_run("-e", "evaluate", "-P", "benchmark=tiny", "-P", "cell=controls") == 0
    assert mlflow_run("-e", "evaluate", "-P", "benchmark=tiny", "-P", "cell=nothing") != 0
    assert mlflow_run("-e", "evaluate", "-P", "benchmark=tiny", "-P", "cell=controls", "-P", "unknown=1") != 0
    assert (workspace.scores("tiny") / "controls" / "scores.parquet").is_file()
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("Flow")
    assert experiment is not None
    runs = client.search_runs([e.experiment_id for e in client.search_experiments()], order_by=["attributes.start_time ASC"])
    assert {r.info.experiment_id for r in runs} == {experiment.experiment_id}
    assert [r.info.status for r in runs] == ["FINISHED", "FAILED", "FAILED"]
    assert [r.data.tags.get("blankslide.command") for r in runs] == ["evaluate tiny controls", "evaluate tiny nothing", None]
    assert all("mlflow.parentRunId" not in r.data.tags for r in runs)
    assert runs[0].data.tags["git.commit"] == sh(tmp_path, "git", "rev-parse", "HEAD")

"""Receipts are deterministic, name what must be registered, and `sync` registers what is missing."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from registry.errors import BundleError, StoreError
from registry.provenance import Provenance, read_provenance
from registry.receipts import make_receipts, read_curves, sync, write_receipts
from registry.store import Store
from tests.registry.scorecards import make_bundle, scorecard


def make_workspace(root: Path) -> Path:
    bundles = root / "out" / "bundles"
    making = root.parent / f"making-{root.name}"
    for name, role in (("simclr", "encoder"), ("density", "negative")):
        shutil.copytree(make_bundle(making / name, row=name, role=role).folder, bundles / "culture" / name)
    tissue = make_bundle(making / "tissue", card=scorecard(benchmark="tissue", modality="tissue"))
    shutil.copytree(tissue.folder, bundles / "tissue" / "simclr")
    for benchmark in ("culture", "tissue"):
        write_receipts(root, benchmark)
    return root


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    return make_workspace(tmp_path / "workspace")


def git(folder: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=Test", "-c", "user.email=test@example.org")
    return subprocess.run(["git", "-C", str(folder), *identity, *arguments], check=True, capture_output=True, text=True).stdout.strip()


def test_receipts_name_every_bundle_and_are_the_same_elsewhere(workspace: Path, tmp_path: Path) -> None:
    receipts = make_receipts(workspace, "culture")
    assert [(r.row, r.role, r.benchmark, r.bundle) for r in receipts] == [
        ("density", "negative", "culture", "out/bundles/culture/density"),
        ("simclr", "encoder", "culture", "out/bundles/culture/simclr"),
    ]
    text = (workspace / "out" / "receipts" / "culture.json").read_text()
    again = make_workspace(tmp_path / "elsewhere" / "clone")
    assert (again / "out" / "receipts" / "culture.json").read_text() == text
    assert str(tmp_path) not in text


def test_sync_registers_what_is_missing_and_nothing_twice(store: Store, workspace: Path) -> None:
    said: list[str] = []
    report = sync(store, workspace, said.append)
    assert report.registered == ("density/1", "simclr/1", "simclr/1")
    assert report.already == ()
    assert said[0] == "1/3 density/1 registered (culture)"
    report = sync(store, workspace)
    assert (report.registered, report.already) == ((), ("density/1", "simclr/1", "simclr/1"))
    assert store.version("simclr@tissue").benchmarks == ("culture", "tissue")


def test_a_colleagues_empty_registry_is_filled_from_the_same_files(store: Store, workspace: Path, empty_database: Path, tmp_path: Path) -> None:
    sync(store, workspace)
    (tmp_path / "colleague").mkdir()
    shutil.copy(empty_database, tmp_path / "colleague" / "mlflow.db")
    other = Store(f"sqlite:///{tmp_path / 'colleague' / 'mlflow.db'}")
    assert sync(other, workspace).registered == ("density/1", "simclr/1", "simclr/1")
    assert [v.identity for v in other.versions("simclr")] == [v.identity for v in store.versions("simclr")]


def test_plots_and_training_curves_are_taken_along(store: Store, workspace: Path) -> None:
    plots, weights = workspace / "out" / "plots" / "culture" / "simclr", workspace / "out" / "weights" / "culture" / "simclr"
    for folder in (plots, weights):
        folder.mkdir(parents=True)
    (plots / "chirality.png").write_bytes(b"\x89PNG")
    (weights / "history.csv").write_text("epoch,loss,note\n0,3.5,warm\n1,2.25,\n")
    sync(store, workspace)
    run = store.version("simclr@culture").tags["run.culture"]
    assert [m.value for m in store._client.get_metric_history(run, "training/loss")] == [3.5, 2.25]
    assert [f.path for f in store._client.list_artifacts(run, "plots")] == ["plots/chirality.png"]


def test_curves_are_the_numeric_columns(tmp_path: Path) -> None:
    (tmp_path / "history.csv").write_text("step,loss,rate,word,gap\n0,1.5,1e-3,a,\n1,0.5,5e-4,b,2\n")
    assert read_curves(tmp_path / "history.csv") == {"loss": [1.5, 0.5], "rate": [0.001, 0.0005]}
    (tmp_path / "empty.csv").write_text("step,loss\n")
    assert read_curves(tmp_path / "empty.csv") == {}


def test_nothing_is_registered_if_a_bundle_is_not_the_one_of_its_receipt(store: Store, workspace: Path) -> None:
    with pytest.raises(StoreError, match="Run `dvc repro`"):
        sync(store, workspace / "out")
    path = workspace / "out" / "receipts" / "tissue.json"
    (receipt,) = json.loads(path.read_text())
    path.write_text(json.dumps([{**receipt, "evidence": "0" * 64}]))
    with pytest.raises(StoreError, match="is not the bundle its receipt names"):
        sync(store, workspace)
    path.write_text(json.dumps([{**receipt, "bundle": "../elsewhere"}]))
    with pytest.raises(StoreError, match=r"names `\.\./elsewhere`, which is not there"):
        sync(store, workspace)
    path.write_text(json.dumps([{"row": "simclr"}]))
    with pytest.raises(StoreError, match="expected receipts"):
        sync(store, workspace)
    write_receipts(workspace, "tissue")
    (workspace / "out" / "bundles" / "tissue" / "simclr" / "encoder.onnx").write_bytes(b"")
    with pytest.raises(BundleError, match="expected sha256"):
        sync(store, workspace)
    assert store.models() == []


@pytest.fixture
def repository(workspace: Path) -> Path:
    """The workspace as a committed git repository whose `dvc.lock` names its receipts."""
    outs = [
        {"path": f"out/receipts/{name}.json", "md5": hashlib.md5((workspace / "out" / "receipts" / f"{name}.json").read_bytes()).hexdigest()}
        for name in ("culture", "tissue")
    ]
    (workspace / "dvc.lock").write_text(yaml.safe_dump({"schema": "2.0", "stages": {"package": {"cmd": "x", "outs": outs}}}))
    (workspace / "dvc.yaml").write_text("stages: {}\n")
    (workspace / ".gitignore").write_text("/out\n")
    git(workspace.parent, "init", "--quiet", str(workspace))
    git(workspace, "add", ".")
    git(workspace, "commit", "--quiet", "-m", "all")
    return workspace


def test_provenance_is_the_commit_and_the_lock_file(repository: Path) -> None:
    found = read_provenance(repository)
    assert found == Provenance(git(repository, "rev-parse", "HEAD"), False, "", (repository / "dvc.lock").read_bytes())
    assert found.obstacle() == ""
    assert found.covers(repository / "out" / "receipts" / "culture.json")
    # DVC itself rewrites these two
    (repository / ".gitignore").write_text("/out\n/data\n")
    (repository / "dvc.lock").write_text("stages: {}\n")
    assert not read_provenance(repository).dirty
    (repository / "dvc.yaml").write_text("stages: {a: {}}\n")
    assert read_provenance(repository).dirty
    assert "changes that commit" in read_provenance(repository).obstacle()


def test_a_flow_that_is_not_in_git_has_no_commit(repository: Path, tmp_path: Path) -> None:
    below = repository / "out" / "study"
    below.mkdir()
    (below / "dvc.yaml").write_text("stages: {}\n")
    assert read_provenance(below) == Provenance()
    assert "not in a git repository" in read_provenance(tmp_path).obstacle()
    (repository / "sub").mkdir()
    (repository / "sub" / "dvc.yaml").write_text("stages: {}\n")
    git(repository, "add", ".")
    git(repository, "commit", "--quiet", "-m", "sub")
    assert read_provenance(repository / "sub").prefix == "sub"


def test_sync_records_where_a_result_came_from(store: Store, repository: Path) -> None:
    (repository / "dvc.yaml").write_text("stages: {a: {}}\n")
    sync(store, repository)
    version = store.version("simclr@culture")
    assert "changes that commit" in store.provenance(version, "culture").obstacle()
    git(repository, "commit", "--quiet", "-a", "-m", "committed")
    assert sync(store, repository).registered == ()
    assert store.provenance(version, "culture") == read_provenance(repository)


def test_a_lock_file_of_other_receipts_is_not_recorded(store: Store, repository: Path) -> None:
    (repository / "dvc.lock").write_text((repository / "dvc.lock").read_text().replace("culture.json", "other.json"))
    sync(store, repository)
    assert "without a `dvc.lock`" in store.provenance(store.version("simclr@culture"), "culture").obstacle()
    assert store.provenance(store.version("simclr@tissue"), "tissue").obstacle() == ""

"""A version is repeated from its commit by the code of that commit, with data and `dvc.lock` of then, and compared byte by byte."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from registry.errors import NotFoundError, StoreError
from registry.provenance import Provenance
from registry.receipts import sync
from registry.registration import register
from registry.reproduce import differences, producing_stage, reproduce
from registry.store import Store
from tests.registry.scorecards import make_bundle

#: the whole flow of a very small project: data tracked by DVC, a rule in a module of its own, one bundle and its receipt
FLOW = """
import csv
import os
from pathlib import Path

import rule  # the module of the commit, found only if the stage runs with the worktree's code
from registry.bundle import BundleCard, write_bundle
from registry.cards import EncoderCard
from registry.evidence import Scorecard, ScoreEntry
from registry.images import ImageSpec
from registry.receipts import write_receipts

numbers = [float(row["x"]) for row in csv.DictReader(open("data/table.csv"))]
value = rule.score(numbers) + float(os.environ.get("UNCONTROLLED", "0"))
score = ScoreEntry("mean", "logistic.balanced_accuracy", "", "p1", value, 1, 0.0, None, None, len(numbers), 3, 3.0, 0.5, True)
image = ImageSpec(("dna",), "uint8", 4, 4, ((0.0, 255.0),))
card = BundleCard(EncoderCard("density", "negative", "a count"), "tiny", image, 1, unservable="no graph")
scorecard = Scorecard("density", "negative", "tiny", "Tiny", "0" * 64, "plate", scores=[score], modality="cells")
write_bundle(Path("out/bundles/tiny/density"), card, scorecard)
write_receipts(Path("."), "tiny")
"""
STAGES = """
stages:
  package:
    foreach: [tiny]
    do:
      cmd: python flow.py
      deps:
        - flow.py
        - rule.py
        - data/table.csv
      outs:
        - out/bundles/${item}
        - out/receipts/${item}.json
"""


def run(folder: Path, *command: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(folder), "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def commit(folder: Path, message: str) -> str:
    run(folder, "git", "add", ".")
    run(folder, "git", "-c", "user.name=Test", "-c", "user.email=test@example.org", "commit", "--quiet", "-m", message)
    return run(folder, "git", "rev-parse", "HEAD").strip()


@dataclass(frozen=True)
class Project:
    """A repository that has gone on since its version was registered."""

    folder: Path
    store: Store
    commit: str


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, empty_database: Path) -> Project:
    folder = tmp_path_factory.mktemp("project") / "repository"
    (folder / "data").mkdir(parents=True)
    (folder / "flow.py").write_text(FLOW)
    (folder / "rule.py").write_text("def score(numbers):\n    return sum(numbers) / len(numbers)\n")
    (folder / "dvc.yaml").write_text(STAGES)
    (folder / "data" / "table.csv").write_text("x\n0.25\n0.75\n0.5\n")
    run(folder, "git", "init", "--quiet")
    dvc = (sys.executable, "-m", "dvc")
    run(folder, *dvc, "init", "--quiet")
    run(folder, *dvc, "config", "core.analytics", "false")
    run(folder, *dvc, "config", "core.autostage", "true")
    run(folder, *dvc, "add", "--quiet", "data/table.csv")
    run(folder, *dvc, "repro", "--quiet")
    made = commit(folder, "the experiment")
    shutil.copy(empty_database, folder.parent / "mlflow.db")
    store = Store(f"sqlite:///{folder.parent / 'mlflow.db'}")
    assert sync(store, folder).registered == ("density/1",)
    # the project goes on: another rule, other data, another flow
    (folder / "rule.py").write_text("def score(numbers):\n    return max(numbers)\n")
    (folder / "data" / "table.csv").write_text("x\n0.9\n")
    commit(folder, "another rule")
    return Project(folder, store, made)


@pytest.mark.slow
def test_a_version_is_repeated_by_the_code_and_data_of_its_commit(project: Project) -> None:
    said: list[str] = []
    found = reproduce(project.store, "density/1", project.folder, say=said.append)
    assert found.commit == project.commit
    assert found.identical
    assert found.differences == ()
    assert found.same_identity
    assert found.notes == ()
    assert said[0] == f"running `package@tiny` and all it depends on at commit {project.commit[:12]}"
    assert "Running stage 'package@tiny':" in said
    assert run(project.folder, "git", "worktree", "list").count("\n") == 1
    assert run(project.folder, "git", "status", "--porcelain") == ""
    assert (project.folder / "data" / "table.csv").read_text() == "x\n0.9\n"


def test_what_differs_is_said_exactly(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNCONTROLLED", "0.125")
    found = reproduce(project.store, "density@tiny", project.folder)
    assert not found.identical
    assert found.differences == ("`scores[mean logistic.balanced_accuracy].value` is 0.625, it was 0.5",)
    assert found.same_identity
    assert found.notes == ("Stages whose outputs are not those of the registered `dvc.lock`: `package@tiny`.",)


@pytest.mark.slow
def test_a_stage_that_fails_is_told_in_its_own_words(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNCONTROLLED", "not a number")
    with pytest.raises(StoreError, match=r"`dvc repro package@tiny` failed(?s:.*)could not convert string to float"):
        reproduce(project.store, "density/1", project.folder)
    assert run(project.folder, "git", "worktree", "list").count("\n") == 1


def test_a_version_that_was_not_registered_from_a_commit_is_refused_with_the_reason(store: Store, tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "simclr")
    lock = b"stages:\n  package:\n    outs:\n    - path: out/bundles/culture\n"
    reasons = [
        (Provenance(), "not in a git repository"),
        (Provenance("a" * 40, dirty=True, dvc_lock=lock), "changes that commit aaaaaaaaaaaa does not hold"),
        (Provenance("a" * 40), "without a `dvc.lock` that names its receipts"),
    ]
    for provenance, words in reasons:
        register(store, bundle, provenance)
        with pytest.raises(StoreError, match=f"`simclr/1` cannot be reproduced: .*{words}"):
            reproduce(store, "simclr/1", tmp_path)
    register(store, bundle, Provenance("a" * 40, False, "", lock))
    with pytest.raises(StoreError, match="is not in a git repository"):
        reproduce(store, "simclr/1", tmp_path)
    run(tmp_path, "git", "init", "--quiet")
    with pytest.raises(StoreError, match="git cannot check the commit out"):
        reproduce(store, "simclr/1", tmp_path)
    with pytest.raises(NotFoundError, match="no version `simclr/2`"):
        reproduce(store, "simclr/2", tmp_path)


def test_the_stage_that_makes_a_bundle_is_found_in_the_lock_file() -> None:
    lock = b"stages:\n  a@x:\n    outs:\n    - path: out/bundles/x1\n  b:\n    outs:\n    - path: out/bundles/x\n    - path: r.json\n  c: {cmd: x}\n"
    found = Provenance("a" * 40, dvc_lock=lock)
    assert producing_stage(found, "out/bundles/x/density") == "b"
    assert producing_stage(found, "out/bundles/x1/density") == "a@x"
    with pytest.raises(StoreError, match="no stage that makes `out/bundles/y/density`"):
        producing_stage(found, "out/bundles/y/density")


def test_differences_name_the_leaf_and_both_values() -> None:
    before = {"tasks": [{"task": "a", "value": 0.5}, {"task": "b", "value": 1}], "notes": ["x"], "gone": None, "same": {"k": [1, 2]}}
    after = {"tasks": [{"task": "a", "value": 0.5}, {"task": "b", "value": 1.0}], "notes": ["x", "y"], "new": "n" * 200, "same": {"k": [1, 2]}}
    assert list(differences(before, before)) == []
    assert list(differences(before, after)) == [
        "`gone` is missing, it was None",
        f"`new` is new: '{'n' * 76}...",
        "`notes` has 2 entries, it had 1",
        "`tasks[b].value` is 1.0, it was 1",
    ]

"""Reproduction: a version's commit and `dvc.lock` in a git worktree, its stages run again, its scorecard compared byte by byte."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from registry.bundle import Bundle, read_bundle
from registry.errors import StoreError
from registry.files import read_json
from registry.provenance import Provenance, locked_stages
from registry.store import Store

#: differences that are listed one by one
LISTED = 20


@dataclass(frozen=True)
class Reproduction:
    """What came of repeating a version.

    Attributes:
        version: `NAME/VERSION`.
        benchmark: whose scorecard was compared.
        commit: that was checked out.
        identical: the scorecard has the same bytes.
        differences: what differs, one sentence each; [] if identical.
        same_identity: card, weights and preprocessing are the same too.
        notes: what else may explain a difference.
    """

    version: str
    benchmark: str
    commit: str
    identical: bool
    differences: tuple[str, ...]
    same_identity: bool
    notes: tuple[str, ...]


def reproduce(store: Store, reference: str, repository: Path, benchmark: str = "", say: Callable[[str], None] | None = None) -> Reproduction:
    """Repeat a version from its commit and compare the scorecard.

    Every stage that the bundle depends on runs: nothing is taken from DVC's run cache. Data that DVC tracks comes from
    the repository's own cache.

    Args:
        store: the registry.
        reference: `NAME/VERSION` or `NAME@ALIAS`.
        repository: a clone that holds the commit.
        benchmark: whose evidence; default: the only one there is.
        say: told what is done, a line at a time.

    Raises:
        StoreError: the version cannot be reproduced, with the reason, or a stage fails.
        NotFoundError: no such version or benchmark.
    """
    say = say or (lambda _: None)
    version = store.version(reference)
    with tempfile.TemporaryDirectory(prefix="blankslide-reproduce-") as scratch:
        registered = store.fetch_bundle(reference, Path(scratch) / "registered", benchmark)
        name = registered.card.benchmark
        provenance = store.provenance(version, name)
        if provenance.obstacle():
            raise StoreError(
                f"`{version}` cannot be reproduced: {provenance.obstacle()}. A version can be where its workspace is a git checkout:"
                " commit, run `dvc repro` and `blankslide registry sync`."
            )
        folder = f"out/bundles/{name}/{registered.name}"
        stage = producing_stage(provenance, folder)
        with _worktree(repository, provenance, Path(scratch) / "worktree") as workspace:
            say(f"running `{stage}` and all it depends on at commit {provenance.commit[:12]}")
            _repro(workspace, stage, _top(repository) / provenance.prefix, say)
            notes = _notes(workspace, provenance, repository)
            return _compare(str(version), registered, read_bundle(workspace / folder), provenance, notes)


def producing_stage(provenance: Provenance, folder: str) -> str:
    """The stage of a `dvc.lock` among whose outputs a folder lies.

    Raises:
        StoreError: none.
    """
    for stage, facts in locked_stages(provenance.dvc_lock).items():
        if any(Path(folder).is_relative_to(out["path"]) for out in facts.get("outs", [])):
            return stage
    raise StoreError(f"The registered `dvc.lock` names no stage that makes `{folder}`. Run `dvc repro` and `blankslide registry sync` again.")


def differences(expected: Any, came: Any, path: str = "") -> Iterator[str]:
    """What differs between two JSON values, one sentence per leaf."""
    if isinstance(expected, dict) and isinstance(came, dict):
        for key in sorted(expected.keys() | came.keys()):
            below = f"{path}.{key}" if path else key
            if key not in came:
                yield f"`{below}` is missing, it was {_shown(expected[key])}"
            elif key not in expected:
                yield f"`{below}` is new: {_shown(came[key])}"
            else:
                yield from differences(expected[key], came[key], below)
    elif isinstance(expected, list) and isinstance(came, list):
        if len(expected) != len(came):
            yield f"`{path}` has {len(came)} entries, it had {len(expected)}"
        for number, (one, other) in enumerate(zip(expected, came, strict=False)):
            yield from differences(one, other, f"{path}[{_label(one, number)}]")
    elif expected != came or type(expected) is not type(came):
        yield f"`{path}` is {_shown(came)}, it was {_shown(expected)}"


def _label(value: Any, number: int) -> str:
    """Entries of a scorecard's lists by the names people know them by."""
    if not isinstance(value, dict):
        return str(number)
    names = [str(value[key]) for key in ("task", "metric", "variant", "control") if value.get(key)]
    return " ".join(names) or str(number)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _compare(version: str, registered: Bundle, repeated: Bundle, provenance: Provenance, notes: tuple[str, ...]) -> Reproduction:
    identical = registered.evidence_hash == repeated.evidence_hash
    found: list[str] = []
    if not identical:
        found = list(differences(*(read_json(b.folder / "scorecard.json") for b in (registered, repeated))))
        if len(found) > LISTED:
            found = [*found[:LISTED], f"and {len(found) - LISTED} more"]
    same = registered.identity == repeated.identity
    return Reproduction(version, registered.card.benchmark, provenance.commit, identical, tuple(found), same, notes)


@contextmanager
def _worktree(repository: Path, provenance: Provenance, folder: Path) -> Iterator[Path]:
    """A git worktree at the commit, `dvc.lock` as registered; yields the workspace in it and removes it afterwards."""
    top = _top(repository)
    _run(["git", "-C", str(top), "worktree", "add", "--detach", "--force", str(folder), provenance.commit], "git cannot check the commit out")
    try:
        workspace = folder / provenance.prefix
        (workspace / "dvc.lock").write_bytes(provenance.dvc_lock)
        yield workspace
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        subprocess.run(["git", "-C", str(top), "worktree", "prune"], check=False, capture_output=True)


def _repro(workspace: Path, stage: str, repository: Path, say: Callable[[str], None]) -> None:
    """`dvc repro` of one stage and everything above it, by the worktree's own code."""
    top, dvc = _top(workspace), [sys.executable, "-m", "dvc"]
    # the repository's own settings say where its cache lies
    cache = _run([*dvc, "cache", "dir"], f"`{repository}` is not a DVC repository", repository).splitlines()[-1]
    _run([*dvc, "cache", "dir", "--local", cache], "dvc cannot use the repository's cache", workspace)
    tracked = _run(["git", "-C", str(workspace), "ls-files", "*.dvc"], "git cannot list the data that DVC tracks").split()
    if tracked:
        _run([*dvc, "checkout", *tracked], "the data is not in the repository's DVC cache; run `dvc pull` there", workspace)
    # stages call commands of this environment, and those must import the worktree's packages, not the ones installed here
    search = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    code = {"PYTHONPATH": str(top), "PATH": search}
    _run([*dvc, "repro", "--force", "--no-run-cache", stage], f"`dvc repro {stage}` failed", workspace, code, say)


def _notes(workspace: Path, provenance: Provenance, repository: Path) -> tuple[str, ...]:
    notes = []
    here, there = _top(repository) / "requirements.lock", _top(workspace) / "requirements.lock"
    if here.is_file() and there.is_file() and here.read_bytes() != there.read_bytes():
        notes.append("The environment here follows another `requirements.lock` than the commit's.")
    before, after = locked_stages(provenance.dvc_lock), locked_stages((workspace / "dvc.lock").read_bytes())
    changed = [stage for stage in before if stage in after and before[stage].get("outs") != after[stage].get("outs")]
    if changed:
        notes.append(f"Stages whose outputs are not those of the registered `dvc.lock`: {', '.join(f'`{stage}`' for stage in changed)}.")
    return tuple(notes)


def _top(folder: Path) -> Path:
    return Path(_run(["git", "-C", str(folder), "rev-parse", "--show-toplevel"], f"`{folder}` is not in a git repository").strip())


def _run(
    command: list[str], failure: str, cwd: Path | None = None, extra: dict[str, str] | None = None, say: Callable[[str], None] | None = None
) -> str:
    """Output of a command, each line told as it comes."""
    # what `mlflow run` sets is about this process, not about the stages below it
    environment = {key: value for key, value in os.environ.items() if key not in ("MLFLOW_RUN_ID", "GIT_DIR", "GIT_WORK_TREE")}
    lines = []
    with subprocess.Popen(
        command, cwd=cwd, env={**environment, **(extra or {})}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    ) as process:
        for line in process.stdout or ():
            lines.append(line.rstrip("\n"))
            if say and line.strip():
                say(lines[-1])
    if process.returncode != 0:
        raise StoreError(f"{failure} (exit code {process.returncode}):\n" + "\n".join(lines[-15:]))
    return "\n".join(lines)

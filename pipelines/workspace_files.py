"""A workspace of one's own: params.yaml and dvc.yaml for benchmarks that were imported rather than simulated.

The flow is the repository's dvc.yaml without the stages that simulate and train; dependencies on the product's code become
paths of the installed packages, so that a change of code computes again what it touches.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import yaml

from registry.errors import BenchmarkError
from registry.files import published

#: where the installed packages lie: the checkout, for an editable install
CODE = Path(__file__).resolve().parents[1]
#: stages of the embedded experiment that a workspace of imported benchmarks has no use for
EMBEDDED_ONLY = ("simulate", "train")


def make_workspace(root: Path) -> None:
    """Make the folder a DVC repository of its own, whatever repository it lies in; one that is there is left as it is.

    Raises:
        BenchmarkError: dvc refuses the folder.
    """
    root.mkdir(parents=True, exist_ok=True)
    if not (root / ".dvc").is_dir():
        dvc(root, "init", "--no-scm", "--quiet")
        for name, value in (("core.analytics", "false"), ("core.check_update", "false")):
            dvc(root, "config", name, value)


def write_flow(root: Path, params: dict[str, Any]) -> None:
    """Publish `params.yaml` and `dvc.yaml`.

    Raises:
        BenchmarkError: the product was installed without its dvc.yaml.
    """
    template = CODE / "dvc.yaml"
    if not template.is_file():
        raise BenchmarkError(f"Expected `dvc.yaml` beside the installed packages in `{CODE}`. Install from a checkout with `make env`.")
    flow = yaml.safe_load(template.read_text(encoding="utf-8"))
    stages = {name: _with_installed_code(stage) for name, stage in flow["stages"].items() if name not in EMBEDDED_ONLY}
    _write_yaml(root / "dvc.yaml", {"stages": stages})
    _write_yaml(root / "params.yaml", params)


def _with_installed_code(stage: dict[str, Any]) -> dict[str, Any]:
    if "foreach" in stage:
        return {**stage, "do": _with_installed_code(stage["do"])}
    deps = [str(CODE / d) if d.partition("/")[0] in ("pipelines", "registry", "serving") else d for d in stage["deps"]]
    return {**stage, "deps": deps}


def _write_yaml(path: Path, value: dict[str, Any]) -> None:
    with published(path) as temporary:
        temporary.write_text(yaml.safe_dump(value, sort_keys=False, width=140), encoding="utf-8")


def await_dvc(root: Path, most_s: float = 600.0) -> None:
    """Wait for a dvc that still works in a workspace: one whose parent was killed goes on to the end of its stage, and holds its files so long.

    Of one that is dead the list of who holds what is taken away. Dvc does that too, but not while the system has yet to clear the process away.

    Raises:
        BenchmarkError: it is still there after `most_s` seconds.
    """
    until, said = time.monotonic() + most_s, False
    while (holders := _holders(root)) and any(map(_is_dvc, holders)):
        busy = next(filter(_is_dvc, holders), 0)
        if time.monotonic() >= until:
            raise BenchmarkError(f"Process {busy} has been at work in `{root}` for {most_s:.0f} s. Wait for it, or end it, and repeat.")
        if not said:
            print(f"[dvc] waiting for process {busy}, which an earlier run left at work in `{root}`", flush=True)
            said = True
        time.sleep(0.2)
    if holders:
        _list_of(root).unlink(missing_ok=True)


def _list_of(root: Path) -> Path:
    """Dvc's own list of who reads or writes what."""
    return root / ".dvc" / "tmp" / "rwlock"


def _holders(root: Path) -> list[int]:
    """Processes in dvc's list, this one aside; none where there is no list, or it is being written."""
    try:
        listed = json.loads(_list_of(root).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    holders = [*listed.get("write", {}).values(), *(one for several in listed.get("read", {}).values() for one in several)]
    return sorted({int(holder["pid"]) for holder in holders} - {os.getpid()})


def _is_dvc(pid: int) -> bool:
    """Whether that process lives and is dvc: a number may have gone to another one since."""
    try:
        return b"dvc" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def dvc(root: Path, *arguments: str) -> None:
    """Run one dvc command in a workspace, its output going to ours.

    Raises:
        BenchmarkError: dvc says no; its own words are above.
    """
    # stages call `blankslide`: the one of this environment, whether or not the environment was activated
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    done = subprocess.run([sys.executable, "-m", "dvc", *arguments], cwd=root, env={**os.environ, "PATH": path}, check=False)
    if done.returncode:
        raise BenchmarkError(f"`dvc {' '.join(arguments)}` ended with {done.returncode} in `{root}`; the reason is above.")

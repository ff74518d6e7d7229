"""Where a number comes from: commit, parameters, data hashes, package versions, device.

Stages started by `mlflow run` stamp this on the run that started them. The stages themselves write no times, run ids or
paths into their outputs, so that two clones give the same bytes.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml

PACKAGES = ("torch", "timm", "numpy", "scipy", "scikit-learn", "onnxruntime-gpu", "pyarrow", "mlflow", "dvc")


def versions() -> dict[str, str]:
    """Versions of the packages a number depends on, without importing them."""
    return {name: metadata.version(name) for name in PACKAGES}


def git_facts(root: Path) -> dict[str, str]:
    """`git.commit` and `git.dirty` ("true"/"false"); {} where the workspace is not in a repository."""
    commit = _git(root, "rev-parse", "HEAD")
    if commit is None:
        return {}
    return {"git.commit": commit, "git.dirty": "true" if _git(root, "status", "--porcelain", "--untracked-files=no") else "false"}


def _git(root: Path, *arguments: str) -> str | None:
    done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else None


def dvc_hashes(root: Path, stage: str) -> dict[str, str]:
    """Hashes of one stage's inputs as dvc.lock records them: {"dvc.<path>": md5}; {} where it has not run."""
    lock = root / "dvc.lock"
    if not lock.is_file():
        return {}
    stages: dict[str, Any] = (yaml.safe_load(lock.read_text(encoding="utf-8")) or {}).get("stages", {})
    return {f"dvc.{dep['path']}": str(dep.get("md5", "")) for dep in stages.get(stage, {}).get("deps", [])}


@contextmanager
def inside_mlflow_run(root: Path, stage: str, arguments: Mapping[str, str]) -> Iterator[None]:
    """If `mlflow run` started this process, stamp its run with provenance; otherwise do nothing.

    MLFLOW_RUN_ID is taken out of the environment: every process started below would otherwise write into the same run.
    """
    run_id = os.environ.pop("MLFLOW_RUN_ID", None)
    yield
    if run_id is None:
        return
    from registry.store import stamp_run

    key = "--".join(arguments.values())
    tags = {"blankslide.stage": stage, **git_facts(root), **dvc_hashes(root, f"{stage}@{key}"), **{f"version.{k}": v for k, v in versions().items()}}
    stamp_run(run_id, {**tags, "device": _device()})


def _device() -> str:
    """The CUDA device there is, or "cpu"; asks the driver's device files rather than importing torch."""
    return "cuda" if Path("/dev/nvidia0").exists() else "cpu"

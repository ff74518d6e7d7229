"""A fresh clone to measure in: this environment's packages with the clone's code, and nothing of the process that made it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

#: what belongs to the process that started this one, not to a flow
#: (the kernels a machine is told to use, such as OPENBLAS_CORETYPE, stay: both flows run on that machine)
NOT_INHERITED = ("MLFLOW_", "DVC_", "GIT_", "OMP_", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "PYTHONPATH")


class Refused(Exception):
    """There is nothing to measure, in words."""


def clone(repository: Path, folder: Path) -> dict[str, str]:
    """Clone HEAD of `repository` into `folder`; returns the environment in which its code is used.

    Raises:
        Refused: git fails, or other code would be run.
    """
    run(["git", "clone", "--quiet", "--no-local", str(repository.resolve()), str(folder)], folder.parent, dict(os.environ))
    environment = environment_of(folder)
    imported = run([sys.executable, "-c", "import registry; print(registry.__file__)"], folder, environment).strip()
    if (folder / "registry").is_dir() and not Path(imported).is_relative_to(folder.resolve()):
        raise Refused(f"`{folder}` would run the code of `{Path(imported).parent}`.")
    return environment


def environment_of(clone: Path) -> dict[str, str]:
    """This environment's packages with the clone's code, and nothing that two clones on two machines would not share."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(NOT_INHERITED)}
    nowhere = clone.parent / f"{clone.name}-dvc"
    folders = {name: str(nowhere / name.lower()) for name in ("DVC_GLOBAL_CONFIG_DIR", "DVC_SYSTEM_CONFIG_DIR", "DVC_SITE_CACHE_DIR")}
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    return {**kept, **folders, "PATH": path, "PYTHONPATH": str(clone.resolve())}


def dvc(folder: Path, environment: dict[str, str] | os._Environ[str], *arguments: str, check: bool = True) -> int:
    """A dvc command whose output is seen as it comes."""
    return subprocess.run([sys.executable, "-m", "dvc", *arguments], cwd=folder, env=dict(environment), check=check).returncode


def run(command: list[str], folder: Path, environment: dict[str, str]) -> str:
    """Output of a command.

    Raises:
        Refused: it failed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(command, cwd=folder, env=environment, check=False, capture_output=True, text=True)
    if done.returncode:
        raise Refused(f"`{' '.join(command)}` ended with {done.returncode} in `{folder}`:\n{done.stdout}{done.stderr}")
    return done.stdout

"""A fresh clone to measure in: this environment's packages with the clone's code, and nothing of the process that made it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

#: `import time:      self [us] | cumulative | imported package`, of which the first line is the heading
REPORTED = re.compile(r"import time:\s+(\d+) \|\s+\d+ \|\s*([^\s.]+)")
#: what belongs to the process that started this one, not to a flow
#: (the kernels a machine is told to use, such as OPENBLAS_CORETYPE, stay: both flows run on that machine)
NOT_INHERITED = ("MLFLOW_", "DVC_", "GIT_", "OMP_", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "PYTHONPATH", "PYTHONDONTWRITEBYTECODE")


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


def reproduce(folder: Path, environment: dict[str, str], targets: list[str]) -> tuple[float, dict[str, float]]:
    """Run `dvc repro` whole; returns its seconds and how many of them went into imports, by package.

    Every process that dvc starts, and dvc itself, reports its imports (PYTHONPROFILEIMPORTTIME: microseconds that each import took
    without those it led to), wherever in a stage they happen.

    Raises:
        Refused: a stage failed.
    """
    started = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-m", "dvc", "repro", "--no-run-cache", *targets],
        cwd=folder,
        env={**environment, "PYTHONPROFILEIMPORTTIME": "1"},
        stderr=subprocess.PIPE,
        text=True,
    )
    imports_s = imported_s(process.stderr or ())
    if process.wait():
        raise Refused(f"`dvc repro` failed in `{folder}`; the reason is above.")
    return time.monotonic() - started, imports_s


def imported_s(lines: Iterable[str]) -> dict[str, float]:
    """Seconds spent in imports by package; every other line is passed on."""
    seconds: dict[str, float] = {}
    for line in lines:
        found = REPORTED.search(line)
        if found:
            seconds[found[2]] = seconds.get(found[2], 0.0) + int(found[1]) / 1e6
        elif "import time:" not in line:
            sys.stderr.write(line)
            sys.stderr.flush()
    return seconds


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

"""A benchmark's folder appears whole or not at all, and DVC is told of it."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from registry.errors import BenchmarkError, BlankslideError


@contextmanager
def published_folder(out: Path) -> Iterator[Path]:
    """A folder beside `out` that takes its place when the block ends well and vanishes otherwise; what a killed import left is cleared."""
    from filelock import FileLock, Timeout

    out.parent.mkdir(parents=True, exist_ok=True)
    staging, former, lock = (out.parent / f".{out.name}.{kind}" for kind in ("part", "former", "lock"))
    try:
        with FileLock(lock, timeout=0):
            if former.exists() and not out.exists():
                former.rename(out)
            for leftover in (staging, former):
                shutil.rmtree(leftover, ignore_errors=True)
            staging.mkdir()
            try:
                yield staging
                if out.exists():
                    out.rename(former)
                staging.rename(out)
            finally:
                shutil.rmtree(staging, ignore_errors=True)
                shutil.rmtree(former, ignore_errors=True)
                lock.unlink(missing_ok=True)
    except Timeout as error:
        raise BenchmarkError(f"Another process is importing into `{out}`. Wait for it.") from error


def track(folder: Path) -> Path | None:
    """Put a benchmark under DVC's control with `dvc add`, where its folder lies in a DVC repository.

    Returns:
        The `.dvc` file to commit, None outside of a repository.

    Raises:
        BlankslideError: `dvc add` failed; says what it said.
    """
    if not any((parent / ".dvc").is_dir() for parent in folder.resolve().parents):
        return None
    done = subprocess.run([sys.executable, "-m", "dvc", "add", folder.name], cwd=folder.parent, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BlankslideError(f"`dvc add {folder}` failed: {done.stderr.strip() or done.stdout.strip()}")
    return folder.parent / f"{folder.name}.dvc"


def track_again(folder: Path) -> None:
    """Track a benchmark that an earlier run published and was ended before it could; one that is tracked is left as it is."""
    if not (folder.parent / f"{folder.name}.dvc").is_file():
        track(folder)

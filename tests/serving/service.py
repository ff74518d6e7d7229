"""A real `blankslide serve` in processes of its own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[2]


@dataclass
class Service:
    """A started `blankslide serve`."""

    process: subprocess.Popen[str]
    url: str
    said: list[str]
    log: Path

    @property
    def workers(self) -> list[psutil.Process]:
        """Processes that have the port open for answering: children that are no resource tracker."""
        children = psutil.Process(self.process.pid).children()
        return [child for child in children if "spawn_main" in " ".join(child.cmdline())]


@contextmanager
def service(models: Sequence[str], log: Path, **settings: object) -> Iterator[Service]:
    """Start `blankslide serve` with some models and settings; yields when it answers, and ends it."""
    environment = {**os.environ, **{f"BLANKSLIDE_SERVE_{name.upper()}": str(value) for name, value in settings.items()}}
    command = [sys.executable, "-u", "-m", "pipelines.cli", "serve", *models, "--port", "0"]
    with log.open("wb") as stream:
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=stream, text=True)
    try:
        said = []
        assert process.stdout is not None
        for line in process.stdout:
            said.append(line.strip())
            if found := re.match(r"Serving on (\S+) with", line):
                yield Service(process, found[1], said, log)
                break
        else:
            process.wait(10)
            raise AssertionError(f"It did not start: {said} {log.read_text()}")
    finally:
        process.terminate()
        process.wait(30)

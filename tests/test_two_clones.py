"""The comparison of two clones on the smallest flow there is: it finds nothing where nothing differs, and a difference where there is one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
FLOW = """
import json, pathlib
for part in ("scores", "oracle", "verdicts"):
    pathlib.Path("out", part).mkdir(parents=True)
    pathlib.Path("out", part, "a.json").write_text(json.dumps({"value": VALUE}))
"""


def sh(folder: Path, *command: str) -> None:
    subprocess.run(command, cwd=folder, check=True, capture_output=True)


def make(folder: Path, value: str) -> Path:
    folder.mkdir()
    (folder / "flow.py").write_text(FLOW.replace("VALUE", value))
    outs = [f"out/{part}" for part in ("scores", "oracle", "verdicts")]
    (folder / "dvc.yaml").write_text(yaml.safe_dump({"stages": {"all": {"cmd": f"{sys.executable} flow.py", "deps": ["flow.py"], "outs": outs}}}))
    (folder / ".gitignore").write_text("/out\n")
    sh(folder, "git", "init", "--quiet")
    sh(folder, sys.executable, "-m", "dvc", "init", "--quiet")
    sh(folder, sys.executable, "-m", "dvc", "config", "core.analytics", "false")
    sh(folder, "git", "add", ".")
    sh(folder, "git", "-c", "user.name=Test", "-c", "user.email=test@example.org", "commit", "--quiet", "-m", "flow")
    return folder


def two_clones(checkout: Path, *options: str) -> tuple[int, str]:
    command = [sys.executable, str(ROOT / "benchmarks" / "two_clones.py"), "--workspace", str(checkout), *options]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=False)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.slow
def test_the_same_flow_twice(tmp_path: Path) -> None:
    checkout = make(tmp_path / "checkout", "0.25")
    code, said = two_clones(checkout)
    assert code == 2
    assert "is not up to date" in said
    sh(checkout, sys.executable, "-m", "dvc", "repro")
    code, said = two_clones(checkout, "--idle", "60")
    assert code == 0, said
    assert "scores and verdicts: identical" in said
    code, said = two_clones(checkout, "--idle", "0.001")
    assert code == 1
    assert "TOO SLOW" in said
    (checkout / "flow.py").write_text("pass\n")
    assert two_clones(checkout)[0] == 2


@pytest.mark.slow
def test_a_flow_that_depends_on_the_folder_it_runs_in(tmp_path: Path) -> None:
    checkout = make(tmp_path / "checkout", "str(pathlib.Path.cwd())")
    sh(checkout, sys.executable, "-m", "dvc", "repro")
    code, said = two_clones(checkout, "--idle", "60")
    assert code == 1
    assert "out/verdicts/a.json" in said
    assert "`value` is" in said
    assert "scores and verdicts: DIFFERENT" in said

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipelines.workspace_files import await_dvc
from registry.errors import BenchmarkError


def hold(root: Path, pid: int) -> None:
    path = root / ".dvc" / "tmp" / "rwlock"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"write": {"out": {"pid": pid, "cmd": "dvc repro"}}, "read": {"data": [{"pid": pid, "cmd": "dvc repro"}]}}))


def test_a_dvc_that_a_killed_run_left_at_work_is_waited_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = "import time; print('up', flush=True); time.sleep(1.5)"
    working = subprocess.Popen([sys.executable, "-c", code, "dvc"], stdout=subprocess.PIPE, text=True)
    assert working.stdout is not None
    assert working.stdout.readline() == "up\n"
    hold(tmp_path, working.pid)
    with pytest.raises(BenchmarkError, match=f"Process {working.pid} has been at work"):
        await_dvc(tmp_path, most_s=0.1)
    # a child of this process would stay as a zombie, without a command line
    await_dvc(tmp_path, most_s=60)
    assert working.poll() is not None
    assert f"waiting for process {working.pid}" in capsys.readouterr().out


def test_the_dead_other_programs_and_a_list_that_is_being_written_are_not(tmp_path: Path) -> None:
    started = time.monotonic()
    await_dvc(tmp_path)
    other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(30)"])
    hold(tmp_path, other.pid)
    await_dvc(tmp_path)
    other.kill()
    # killed and not yet cleared away: dvc would take it for one at work
    hold(tmp_path, other.pid)
    await_dvc(tmp_path)
    assert not (tmp_path / ".dvc" / "tmp" / "rwlock").exists()
    other.wait()
    (tmp_path / ".dvc" / "tmp" / "rwlock").write_text('{"write": {')
    await_dvc(tmp_path)
    assert time.monotonic() - started < 10

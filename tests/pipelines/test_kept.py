"""Scoring that is killed in the middle: nothing scored is lost, nothing half-written is read, and the bytes are those of one go."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipelines.benchmarks.index import Benchmark
from pipelines.diagnose import diagnose
from pipelines.evaluate import evaluate_cell, evaluate_oracle
from pipelines.kept import Kept
from pipelines.metrics.statistic import Statistic
from pipelines.params import CellParams, DiagnoseParams, EvaluateParams, Params
from pipelines.progress import Progress
from pipelines.workspace import Workspace
from registry.cards import EncoderCard
from tests.pipelines.noise import noise_benchmark, write_row

PARAMS = Params(
    seed=0,
    threads=1,
    cells={"noise--x": CellParams("noise", "x", [], ".")},
    compare=["noise"],
    evaluate=EvaluateParams(max_dim=16, neighbours=5, permutations=20),
    diagnose=DiagnoseParams(beyond=True, common_dim=3),
)
NET = EncoderCard("net", "encoder", "on trial", architecture="cnn:small", weights="trained here", twins=("untrained-net",))
TWIN = EncoderCard("untrained-net", "twin", "fresh weights", architecture="cnn:small", weights="random")


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    made = Workspace(tmp_path_factory.mktemp("flow"))
    benchmark = noise_benchmark(made.data("noise"), units=12, per_unit=8, folds=2)
    rng = np.random.default_rng(0)
    shape = (len(benchmark.index), 6)
    cell = made.embeddings("noise") / "cell"
    write_row(cell, benchmark, "net", {"main": rng.normal(size=shape)}, NET)
    write_row(cell, benchmark, "untrained-net", {f"fresh-{k:02d}": rng.normal(size=shape) for k in range(3)}, TWIN)
    write_row(cell, benchmark, "intensity", {"main": rng.normal(size=shape)})
    for stage in ("evaluate", "oracle", "diagnose"):
        run(stage, made)
    return made


def run(stage: str, made: Workspace, out: Path | None = None) -> None:
    """One stage of the flow, into its own folder or another one."""
    benchmark = Benchmark.read(made.data("noise"))
    if stage == "evaluate":
        evaluate_cell(benchmark, made.embeddings("noise") / "cell", PARAMS, out or made.scores("noise") / "cell")
    elif stage == "oracle":
        evaluate_oracle(benchmark, made.embeddings("noise"), PARAMS, out or made.oracle("noise"))
    else:
        diagnose(made if out is None else _Elsewhere(made.root, out), PARAMS, "noise")


@dataclass(frozen=True)
class _Elsewhere(Workspace):
    """The same workspace with the verdicts on `noise` elsewhere."""

    out: Path

    def verdicts(self, benchmark: str) -> Path:
        return self.out if benchmark == "noise" else super().verdicts(benchmark)


RUN = """
import sys, os, signal
from pathlib import Path
import pipelines.kept
from pipelines.workspace import Workspace
from tests.pipelines.test_kept import run

write, pieces = pipelines.kept.write_arrays, []

def stopping(path, arrays):
    # the third piece is half-written when the process is killed
    if len(pieces) == 2:
        path.with_name(f".{path.name}.half.part").write_bytes(b"PK half a piece")
        os.kill(os.getpid(), signal.SIGKILL)
    pieces.append(path)
    write(path, arrays)

pipelines.kept.write_arrays = stopping
run(sys.argv[1], Workspace(Path(sys.argv[2])), Path(sys.argv[3]))
"""


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.mark.parametrize("stage", ["evaluate", "oracle", "diagnose"])
def test_a_killed_stage_loses_nothing_and_ends_with_the_same_bytes(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    out, work = tmp_path / "out", tmp_path / ".out.work"
    command = [sys.executable, "-c", RUN, stage, str(workspace.root), str(out)]
    assert subprocess.run(command, cwd=Path(__file__).parents[2], check=False, capture_output=True).returncode == -signal.SIGKILL
    assert not out.exists()
    finished = {path.name for path in work.glob("*.npz")}
    assert len(finished) == 2
    assert len(list(work.glob(".*.part"))) == 1
    made: list[str] = []
    make = Kept._make

    def noted(self: Kept, function: Any, progress: Progress, job: Any) -> Any:
        made.append(job[0].name)
        return make(self, function, progress, job)

    monkeypatch.setattr(Kept, "_make", noted)
    run(stage, workspace, out)
    assert made
    assert not set(made) & finished
    assert len(made) == len(set(made))
    assert not work.exists()
    whole = {"evaluate": workspace.scores("noise") / "cell", "oracle": workspace.oracle("noise"), "diagnose": workspace.verdicts("noise")}[stage]
    assert files(out) == files(whole)


def test_an_evaluation_killed_from_outside_is_taken_up_by_two_workers(workspace: Workspace, tmp_path: Path) -> None:
    out, work = tmp_path / "out", tmp_path / ".out.work"
    script = "import sys; from pathlib import Path; from pipelines.workspace import Workspace; import tests.pipelines.test_kept as t; "
    script += (
        "from dataclasses import replace; t.PARAMS = replace(t.PARAMS, threads=2); t.run('evaluate', Workspace(Path(sys.argv[1])), Path(sys.argv[2]))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(workspace.root), str(out)], cwd=Path(__file__).parents[2], stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 120
    while not list(work.glob("*.npz")) and time.monotonic() < deadline:
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    # its workers end with it
    time.sleep(0.2)
    assert not (out / "scores.parquet").exists()
    assert list(work.glob("*.npz"))
    run("evaluate", workspace, out)
    assert files(out) == files(workspace.scores("noise") / "cell")


# ------------------------------------------------------------------------------------------------ pieces


def statistic(seed: int) -> Statistic:
    rng = np.random.default_rng(seed)
    return Statistic(float(rng.normal()), ("a", "b"), np.array([float("nan"), rng.normal()]), np.array([0.5, 0.5]), 7, 1)


def piece(seed: int) -> dict[Any, Any]:
    """Everything a piece may hold."""
    return {
        ("task", seed): [statistic(seed), np.array(["x", "yy"]), None, True, 3, "text", float("inf"), np.float64(0.1) * seed],
        "empty": (np.zeros((0, 3), np.float32), np.array(1.5)),
    }


def test_a_piece_is_read_to_the_last_bit(tmp_path: Path) -> None:
    items = {str(seed): seed for seed in range(3)}
    first = list(Kept(tmp_path / ".x.work", "stage x", {"a": 1}, ("pipelines/kept.py",), Statistic).each("p", piece, items, 2))
    again = list(Kept(tmp_path / ".x.work", "stage x", {"a": 1}, ("pipelines/kept.py",), Statistic).each("p", not_called, items, 2))
    for one, two, seed in zip(first, again, range(3), strict=True):
        assert list(one) == list(two) == [("task", seed), "empty"]
        (a, names, *plain), (b, others, *same) = one["task", seed], two["task", seed]
        assert (a.value, a.units, a.n_images, a.class_in_units) == (b.value, b.units, b.n_images, b.class_in_units)
        assert a.without.tobytes() == b.without.tobytes()
        assert names.tolist() == others.tolist()
        assert plain == same
        assert two["empty"][0].shape == (0, 3)
        assert two["empty"][0].dtype == np.float32
        assert two["empty"][1].shape == ()


def not_called(_: int) -> dict[Any, Any]:
    raise AssertionError


@pytest.mark.parametrize("change", ["facts", "a damaged piece", "another kind", "a library"])
def test_nothing_else_is_taken_for_a_piece(tmp_path: Path, change: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def kept(fact: int = 1) -> Kept:
        return Kept(tmp_path / ".x.work", "stage x", {"a": fact}, ("pipelines/kept.py",), Statistic)

    called: list[int] = []

    def make(seed: int) -> int:
        called.append(seed)
        return seed

    items = {"0": 0, "1": 1}
    assert list(kept().each("p", make, items, 1)) == [0, 1]
    if change == "a damaged piece":
        damaged = min((tmp_path / ".x.work").glob("*.npz"))
        damaged.write_bytes(damaged.read_bytes()[:-30])
    if change == "a library":
        monkeypatch.setattr("pipelines.kept.installed", lambda: {"scipy": "99"})
    assert list(kept(2 if change == "facts" else 1).each("q" if change == "another kind" else "p", make, items, 1)) == [0, 1]
    assert len(called) == (3 if change == "a damaged piece" else 4)

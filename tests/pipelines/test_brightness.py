"""How much of an encoder's score brightness alone reaches: planted, absent, unknown, through the real files of the stages."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipelines.benchmarks.index import write_benchmark
from pipelines.board import read_board
from pipelines.brightness import PROTOCOL, brightness_all, why_not
from pipelines.diagnose import diagnose
from pipelines.evaluate import evaluate_cell, evaluate_oracle
from pipelines.params import DiagnoseParams
from pipelines.scores import read_scores
from pipelines.workspace import Workspace
from registry.cards import TABLE, EncoderCard
from tests.pipelines.noise import noise_benchmark, write_row
from tests.pipelines.test_diagnose import PARAMS as DIAGNOSED
from tests.pipelines.test_diagnose import card_of

PARAMS = replace(DIAGNOSED, diagnose=DiagnoseParams(beyond=False))


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """`good` holds the label, `intensity` some of it and `histogram` as much again in other noise, `blank` nothing."""
    workspace = Workspace(tmp_path_factory.mktemp("bright"))
    made = noise_benchmark(workspace.data("noise"), units=28, per_unit=20)
    split = made.index.assign(fold=np.where(made.index["unit"] < "plate-14", -1, 0))
    benchmark = write_benchmark(workspace.data("noise"), made.card, split)
    label, rng = (split["label_planted"] == "class-1").to_numpy(float), np.random.default_rng(11)
    for name, signal in {"good": 1.5, "blank": 0.0, "intensity": 0.6, "histogram": 0.6}.items():
        x = rng.normal(size=(len(label), 6))
        x[:, 0] += signal * label
        card = EncoderCard(name, "encoder", "on trial", architecture=TABLE) if name in ("good", "blank") else None
        write_row(workspace.embeddings("noise") / "all", benchmark, name, {"main": x}, card)
    evaluate_cell(benchmark, workspace.embeddings("noise") / "all", PARAMS, workspace.scores("noise") / "all")
    evaluate_oracle(benchmark, workspace.embeddings("noise"), PARAMS, workspace.oracle("noise"))
    diagnose(workspace, PARAMS, "noise")
    return workspace


def test_the_share_is_that_of_both_side_by_side_under_the_encoders_probe(workspace: Workspace, tmp_path: Path) -> None:
    board = read_board(workspace, "noise")
    ids, cells = board.benchmark.index["image_id"].tolist(), tmp_path / "cell"
    both = np.hstack([board.rows[name].embedding("main", 0, ids) for name in ("intensity", "histogram")])
    write_row(cells, board.benchmark, "both", {"main": both})
    evaluate_cell(board.benchmark, cells, PARAMS, tmp_path / "scores")
    (together,) = [s.statistic for s in read_scores(tmp_path / "scores") if s.metric == "logistic.balanced_accuracy"]
    (task,) = card_of(workspace, "good").tasks
    share = task.shortcut
    assert share["score"] == together.value
    assert share["value"] == pytest.approx((together.value - 0.5) / (task.value - 0.5), abs=1e-12)
    assert 0.2 < share["low"] < share["value"] < share["high"] < 0.9
    assert (share["note"], share["protocol_id"]) == ("", PROTOCOL)
    said = f"`intensity` and `histogram` together reach {share['value']:.2f} [{share['low']:.2f}, {share['high']:.2f}] of its score above chance."
    assert share["sentence"] == said
    assert said in task.detail


def test_an_encoder_at_chance_has_no_share(workspace: Workspace) -> None:
    (task,) = card_of(workspace, "blank").tasks
    assert task.shortcut["value"] is None
    assert task.shortcut["note"] == "not estimable: the encoder is not clearly above chance"
    assert "reach together is not estimable: the encoder is not clearly above chance." in task.detail


def test_brightness_that_knows_nothing_reaches_nothing(tmp_path: Path, workspace: Workspace) -> None:
    board = read_board(workspace, "noise")
    for name, seed in (("intensity", 1), ("histogram", 2)):
        noise = np.random.default_rng(seed).normal(size=(len(board.benchmark.index), 6))
        write_row(tmp_path / "cell", board.benchmark, name, {"main": noise})
    rows = {**board.rows, **{name: replace(board.rows[name], folder=tmp_path / "cell" / name) for name in ("intensity", "histogram")}}
    found = brightness_all(replace(board, rows=rows), PARAMS)["good", "planted"]
    assert found["low"] < 0 < found["high"] < 0.5


def test_a_control_that_is_not_there_or_does_not_apply_is_said(workspace: Workspace) -> None:
    board = read_board(workspace, "noise")
    without = replace(board, rows={n: r for n, r in board.rows.items() if n != "histogram"}, scored=[s for s in board.scored if s.row != "histogram"])
    assert why_not(board) == ""
    assert why_not(without) == "not estimable: `histogram` was not extracted"
    unfit = replace(board.rows["histogram"], manifest=replace(board.rows["histogram"].manifest, not_applicable="there are no images"))
    absent = replace(without, rows={**without.rows, "histogram": unfit})
    found = brightness_all(absent, PARAMS)
    assert set(found) == {("good", "planted"), ("blank", "planted")}
    assert found["good", "planted"]["note"] == "not estimable: `histogram` does not apply here, there are no images"
    assert found["good", "planted"]["sentence"].endswith("is not estimable: `histogram` does not apply here, there are no images.")

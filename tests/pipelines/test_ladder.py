"""The ladder on a tiny benchmark, from images to words: what is scored, that nothing is done twice, and that a kill costs nothing."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

import pipelines.train
from pipelines.benchmarks.index import Benchmark
from pipelines.beside.probing import ALL, FEW_SHOT, Probed
from pipelines.beside.probing import read_all as read_probing
from pipelines.beside.replicates import QUESTIONS, permuted_wells
from pipelines.beside.replicates import read_all as read_replicates
from pipelines.beside.wells import wells_of
from pipelines.cli import main
from pipelines.current import metric_facts
from pipelines.embeddings import Row
from pipelines.evaluate import evaluate_cell
from pipelines.every_metric import TREATMENTS, permuted_question
from pipelines.extract import extract_cell
from pipelines.ladder import conclude, ladder
from pipelines.metrics.geometry import describe
from pipelines.params import CellParams
from pipelines.reporting.ladders import ladder_tables, ladder_view, read_ladder
from pipelines.rungs import Rungs, dilutions, first_split, kept_epochs, ladder_values, with_batch
from pipelines.scores import Confound, read_confounds, read_scores
from pipelines.tasks import Question
from pipelines.workspace import Workspace
from registry.cards import EncoderCard
from registry.errors import BenchmarkError, ParamsError
from registry.evidence import Scorecard, ScoreEntry
from registry.files import sha256_of_file
from registry.images import ImageSpec

from .folder import write_images
from .noise import noise_benchmark, write_row

ROOT = Path(__file__).resolve().parents[2]
SETTINGS = {"epochs": 5, "batch": 4, "augmentation": {"crop_px": 0}}
TRAINING = {"tiny--simclr": SETTINGS, "tiny--supervised": {**SETTINGS, "labels": ["label_bright"], "learning_rate": 0.01}}
PARAMS = {
    "seed": 0,
    "threads": 1,
    "cells": {},
    "compare": [],
    "evaluate": {"neighbours": 3, "inner_folds": 2},
    "ladder": {"seeds": 5, "noise": 3, "settings": TRAINING},
}
FEW = {"seeds": 2, "noise": 1, "settings": TRAINING}
FILES = ("ladder.json", "ladder.md", "ladder.parquet")


def make_workspace(root: Path, **changed: Any) -> Workspace:
    benchmark = write_images(root / "data" / "tiny", plates=8)
    (root / "params.yaml").write_text(yaml.safe_dump(PARAMS | changed), encoding="utf-8")
    workspace = Workspace(root)
    extract_cell(benchmark, CellParams("tiny", "controls", ["intensity", "histogram"], "registry/controls"), workspace.params(), workspace)
    return workspace


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    made = make_workspace(tmp_path_factory.mktemp("ladder"))
    assert main(["--workspace", str(made.root), "ladder", "tiny"]) == 0
    return made


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """Two runs of each ladder: enough for what is not about words."""
    made = make_workspace(tmp_path_factory.mktemp("small"), ladder=FEW)
    ladder(made, made.params(), "tiny")
    return made


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """Which runs were trained since, in this process."""
    found: list[tuple[str, int]] = []
    train = pipelines.train.train

    def counting(*arguments: Any) -> Any:
        found.append((arguments[2], arguments[5]))
        return train(*arguments)

    monkeypatch.setattr(pipelines.train, "train", counting)
    return found


def found(workspace: Workspace) -> dict[str, Any]:
    value: dict[str, Any] = json.loads((workspace.ladder("tiny") / "ladder.json").read_text(encoding="utf-8"))
    return value


# ------------------------------------------------------------------------------------------------ values


def test_every_rung_of_every_run_is_scored_by_every_metric_of_the_flow(workspace: Workspace) -> None:
    table = pd.read_parquet(workspace.ladder("tiny") / "ladder.parquet")
    metrics = {s.metric for s in scores_of(workspace, "simclr-0")} | {"geometry.participation_ratio", "geometry.participation_ratio_raw"}
    assert {"logistic.balanced_accuracy", "logistic.log_loss_bits", "knn.balanced_accuracy", "simpleshot.balanced_accuracy"} < metrics
    assert "retrieval.map" in metrics
    confounds = {f"confounds.decoding_{c.column}" if c.score == "decoding" else metric_of(c.score) for c in confounds_of_run(workspace)}
    assert {"confounds.iLISI", "confounds.robustness_index", "confounds.component_regression", "confounds.decoding_plate"} < confounds
    questions = {f"replicates.{q}{part}" for q in QUESTIONS for part in ("", ".found", ".copairs", ".drop")} - {
        "replicates.activity-other-wells.drop"
    }
    questions |= {"replicates.percent_replicating", "replicates.controls_replicating"}
    shots = {f"probing.few_shot_{p.shots}" for p in probed_of_run(workspace) if p.score == FEW_SHOT and p.shots != ALL}
    beside = shots | {"probing.code_length", "probing.selectivity", "probing.control_task", "information.beyond_controls_bits", "shortcut.share"}
    metrics |= beside
    by_task = {str(task): set(part["metric"]) for task, part in table.groupby("task")}
    assert by_task == {"bright": metrics | confounds, "half": metrics | confounds, "all treatments": questions}
    key = ["ladder", "seed", "rung", "labels", "task", "metric"]
    assert not table.duplicated(key).any()
    per = table.groupby(["ladder", "labels"]).size().to_dict()
    each = 2 * len(metrics | confounds) + len(questions)
    assert per == {
        ("constant", "true"): each,
        ("noise", "true"): 3 * each,
        ("simclr", "true"): 20 * each,
        ("simclr", "permuted"): 5 * each,
        ("simclr", "batch"): 5 * 3 * 2 * len(confounds),
        ("supervised", "true"): 20 * each,
        ("supervised", "permuted"): 5 * each,
    }
    assert set(table["at"][table["ladder"] == "simclr"]) == {0, 1, 2, 5}
    assert set(table["rung"][table["labels"] == "permuted"]) == {3}


def metric_of(score: str) -> str:
    return f"confounds.{score.replace(' ', '_')}"


def confounds_of_run(workspace: Workspace) -> list[Confound]:
    """What is batch and place in the last rung of a run, by the evaluate stage itself."""
    scores_of(workspace, "supervised-3")
    return [c for c in read_confounds(workspace.root / "again") if c.row == "supervised-3-rung-3"]


def probed_of_run(workspace: Workspace) -> list[Probed]:
    """What few-shot curves, code length and selectivity are of the last rung of a run, by the evaluate stage itself."""
    scores_of(workspace, "supervised-3")
    return [p for p in read_probing(workspace.root / "again") if p.row == "supervised-3-rung-3" and p.task == "bright"]


def scores_of(workspace: Workspace, run: str) -> list[Any]:
    """Scores of the embeddings of one run by the evaluate stage itself."""
    benchmark = Benchmark.read(workspace.data("tiny"))
    folder, out = workspace.ladder("tiny") / "runs" / run / "embeddings", workspace.root / "again" / run
    if not out.is_dir():
        evaluate_cell(benchmark, folder, workspace.params(), out)
    return read_scores(out)


def test_values_are_those_of_the_evaluate_stage(workspace: Workspace) -> None:
    table = pd.read_parquet(workspace.ladder("tiny") / "ladder.parquet")
    mine = table[(table["ladder"] == "supervised") & (table["seed"] == 3) & (table["labels"] == "true")].set_index(["rung", "task", "metric"])[
        "value"
    ]
    scored = scores_of(workspace, "supervised-3")
    assert len(scored) > 60
    for s in scored:
        assert mine[int(s.row.rpartition("-")[2]), s.task, s.metric] == s.statistic.value


def test_rungs_are_the_run_on_its_way(workspace: Workspace) -> None:
    benchmark = Benchmark.read(workspace.data("tiny"))
    folder = workspace.ladder("tiny") / "runs" / "supervised-0"
    rows = [Row.read(folder / "embeddings" / f"supervised-0-rung-{rung}") for rung in range(4)]
    names = ["after-0000", "after-0001", "after-0002", "weights"]
    assert [row.manifest.card["weights_sha256"] for row in rows] == [sha256_of_file(folder / "weights" / f"{n}.safetensors") for n in names]
    assert len({row.manifest.card["weights_sha256"] for row in rows}) == 4
    ids = benchmark.index["image_id"].tolist()
    shapes = [describe(row.embedding("main", 0, ids)).participation_ratio for row in rows]
    table = pd.read_parquet(workspace.ladder("tiny") / "ladder.parquet")
    mine = table[(table["ladder"] == "supervised") & (table["seed"] == 0) & (table["metric"] == "geometry.participation_ratio")]
    assert mine[(mine["task"] == "bright") & (mine["labels"] == "true")].sort_values("rung")["value"].tolist() == shapes


def test_what_knows_nothing_has_what_knowing_nothing_gives(workspace: Workspace) -> None:
    (bright,) = [task for task in found(workspace)["tasks"] if task["task"] == "bright"]
    metrics = {m["metric"]: m for m in bright["metrics"]}
    for name in ("logistic.balanced_accuracy", "knn.balanced_accuracy", "simpleshot.balanced_accuracy", "logistic.auroc"):
        assert metrics[name]["constant"] == pytest.approx(0.5)
    assert metrics["logistic.log_loss_bits"]["constant"] == pytest.approx(1.0, abs=0.05)
    assert metrics["geometry.participation_ratio"]["constant"] == 0.0
    assert metrics["geometry.participation_ratio"]["noise"] > 5
    # what looks at no label is the same with labels that say nothing
    values = metrics["geometry.participation_ratio"]["ladders"]["simclr"]
    assert values["leads"]["permuted"] == {"gain": 0.0, "low": 0.0, "high": 0.0, "clear": False}


def test_a_planted_effect_that_is_learned_makes_a_ladder(workspace: Workspace) -> None:
    """`bright` is the brightness of a channel, and supervision learns it; geometry sees that something is learned, and rewards noise."""
    (bright,) = [task for task in found(workspace)["tasks"] if task["task"] == "bright"]
    assert found(workspace)["learned"] == {"simclr": [], "supervised": ["label_bright"]}
    auroc = next(m for m in bright["metrics"] if m["metric"] == "logistic.auroc")["ladders"]["supervised"]["values"]
    assert np.mean(auroc, axis=0)[-1] > 0.9


def test_permuted_labels_keep_every_unit_as_it_was(workspace: Workspace) -> None:
    benchmark = Benchmark.read(workspace.data("tiny"))
    question = Question.of(benchmark, benchmark.card.task("bright"))
    drawn = permuted_question(question, 0, 0)
    assert drawn is not None
    assert (drawn.codes != question.codes).any()
    for unit in set(question.units.tolist()):
        assert sorted(drawn.codes[question.units == unit]) == sorted(question.codes[question.units == unit])


def test_batch_and_replicates_are_those_of_the_evaluate_stage(workspace: Workspace) -> None:
    """The stage asks about the classes of the first task, `bright`."""
    table = pd.read_parquet(workspace.ladder("tiny") / "ladder.parquet")
    mine = table[(table["ladder"] == "supervised") & (table["seed"] == 3) & (table["rung"] == 3) & (table["labels"] == "true")]
    values = mine.set_index(["task", "metric"])["value"]
    confounds = confounds_of_run(workspace)
    assert len(confounds) == 10
    assert sum(np.isfinite(c.value) for c in confounds) > 5
    for c in confounds:
        name = "confounds.decoding_plate" if c.score == "decoding" else metric_of(c.score)
        assert values["bright", name] == pytest.approx(c.value, abs=0, nan_ok=True), name
    asked = [one for one in read_replicates(workspace.root / "again") if one.row == "supervised-3-rung-3"]
    assert [one.question for one in asked] == list(QUESTIONS)
    for one in asked:
        for part, value in (("", one.value), (".found", one.significant), (".copairs", one.copairs), (".drop", one.drop)):
            if (one.question, part) != ("activity-other-wells", ".drop"):
                assert values["all treatments", f"replicates.{one.question}{part}"] == pytest.approx(value, abs=0, nan_ok=True), part
    assert np.isfinite(values["all treatments", "replicates.replicability"])
    assert values["all treatments", "replicates.percent_replicating"] == asked[-1].replicating
    assert values["all treatments", "replicates.controls_replicating"] == pytest.approx(asked[-1].controls_replicating, abs=0, nan_ok=True)


def test_wells_with_treatments_that_say_nothing_keep_their_plates(workspace: Workspace) -> None:
    wells = wells_of(Benchmark.read(workspace.data("tiny")))
    assert wells is not None
    drawn = permuted_wells(wells, (0, 1))
    assert drawn is not None
    assert (drawn.columns["perturbation"] != wells.columns["perturbation"]).any()
    for plate in set(wells.columns["plate"].tolist()):
        inside = wells.columns["plate"] == plate
        assert sorted(drawn.columns["perturbation"][inside]) == sorted(wells.columns["perturbation"][inside])
    assert all((drawn.columns[name] == wells.columns[name]).all() for name in ("plate", "well"))
    # what makes a well a control goes with its treatment
    control = replace(wells, controls=wells.columns["perturbation"] == "t0")
    moved = permuted_wells(control, (0, 1))
    assert moved is not None
    assert (moved.controls == (moved.columns["perturbation"] == "t0")).all()
    same = {**wells.columns, "perturbation": wells.columns["plate"]}
    assert permuted_wells(replace(wells, columns=same), (0,)) is None


def test_a_batch_that_is_added_moves_batches_as_a_whole() -> None:
    x, batch = np.random.default_rng(0).normal(size=(12, 5)), np.array(["a", "b", "c"])[np.arange(12) % 3]
    assert (with_batch(x, batch, 0.0, 1) == x).all()
    shift = {amount: with_batch(x, batch, amount, 1) - x for amount in (1.0, 2.0)}
    assert np.allclose(shift[2.0], 2 * shift[1.0])
    for name in "abc":
        assert np.ptp(shift[1.0][batch == name], axis=0).max() < 1e-12
    assert np.abs(shift[1.0][0] - shift[1.0][1]).min() > 0
    # in standard deviations of each column
    assert np.allclose(with_batch(10 * x, batch, 1.0, 1), 10 * with_batch(x, batch, 1.0, 1))


# ------------------------------------------------------------------------------------------------ again


@pytest.mark.slow
def test_a_second_time_nothing_is_done_and_with_more_seeds_only_those(small: Workspace, tmp_path: Path, trained: list[tuple[str, int]]) -> None:
    shutil.copytree(small.root, tmp_path / "copy")
    copy = Workspace(tmp_path / "copy")
    files = list(copy.ladder("tiny").glob("runs/*/values.json"))
    before = [path.stat().st_mtime_ns for path in files]
    params = copy.params()
    ladder(copy, params, "tiny")
    assert len(files) == 6
    assert [path.stat().st_mtime_ns for path in files] == before
    assert all((copy.ladder("tiny") / name).read_bytes() == (small.ladder("tiny") / name).read_bytes() for name in FILES)
    ladder(copy, replace(params, ladder=replace(params.ladder, seeds=3)), "tiny")
    assert trained == [("simclr", 2), ("supervised", 2)]
    # other rules of scoring score again and train nothing
    ladder(copy, replace(params, evaluate=replace(params.evaluate, neighbours=2)), "tiny")
    assert len(trained) == 2
    assert (copy.ladder("tiny") / "ladder.parquet").read_bytes() != (small.ladder("tiny") / "ladder.parquet").read_bytes()


def pieces(workspace: Workspace, name: str) -> set[str]:
    """The runs that have published a file."""
    return {path.parent.name for path in workspace.ladder("tiny").glob(f"runs/*/{name}")}


@pytest.mark.slow
def test_two_workers_elsewhere_give_the_same_bytes_after_a_kill(small: Workspace, tmp_path: Path, trained: list[tuple[str, int]]) -> None:
    made = make_workspace(tmp_path / "elsewhere", threads=2, ladder=FEW)
    command = [sys.executable, "-m", "pipelines.cli", "--workspace", str(made.root), "ladder", "tiny"]
    process = subprocess.Popen(command, cwd=ROOT)
    deadline = time.monotonic() + 300
    while not pieces(made, "values.json") and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (made.ladder("tiny") / "ladder.json").exists()
    assert 1 <= len(pieces(made, "values.json")) < 4
    # workers of the killed command end with it; this process trains by itself, so that it can be counted
    time.sleep(0.2)
    params = replace(made.params(), threads=1)
    done = pieces(made, "values.json") | pieces(made, "trained.json")
    ladder(made, params, "tiny")
    assert {f"{method}-{seed}" for method, seed in trained} == {f"{m}-{s}" for m in ("simclr", "supervised") for s in range(2)} - done
    for name in FILES:
        assert (made.ladder("tiny") / name).read_bytes() == (small.ladder("tiny") / name).read_bytes(), name


@pytest.mark.slow
def test_the_command_takes_seeds_and_epochs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = make_workspace(tmp_path)
    assert main(["--workspace", str(made.root), "ladder", "tiny", "--seeds", "2", "--epochs", "6"]) == 0
    assert found(made)["rungs"] == {name: {"of": "epochs", "at": [0, 1, 2, 6]} for name in ("simclr", "supervised")}
    assert "[ladder] tiny: No ladder rises on any task" in capsys.readouterr().out
    words = {m["ladders"][name]["word"] for task in found(made)["tasks"] for m in task["metrics"] for name in ("simclr", "supervised")}
    assert words == {"undecided"}


# ------------------------------------------------------------------------------------------------ what is refused


@pytest.mark.parametrize(
    ("epochs", "kept"), [(5, (0, 1, 2, 5)), (8, (0, 1, 2, 8)), (12, (0, 1, 4, 12)), (20, (0, 2, 6, 20)), (110, (0, 11, 33, 110))]
)
def test_rungs_are_the_nearest_epochs(epochs: int, kept: tuple[int, ...]) -> None:
    assert kept_epochs(epochs, (0.0, 0.1, 0.3, 1.0)) == kept


def test_rungs_that_are_none_are_refused() -> None:
    with pytest.raises(ParamsError, match=r"of 4 epochs are \[0, 1, 1, 4\], which cannot be told apart\. Train more epochs"):
        kept_epochs(4, (0.0, 0.1, 0.3, 1.0))
    for shares in ((0.0, 0.5), (0.1, 1.0), (0.0, 0.5, 0.3, 1.0), (1.0,)):
        with pytest.raises(ParamsError, match="shares of the epochs that rise from 0 to 1"):
            kept_epochs(20, shares)


def test_too_few_seeds_and_nothing_to_make_encoders_of_are_refused(tmp_path: Path, workspace: Workspace) -> None:
    made = make_workspace(tmp_path)
    params = made.params()
    for wanted in (replace(params.ladder, seeds=1), replace(params.ladder, noise=0)):
        with pytest.raises(ParamsError, match="at least 2 `seeds` and 1 draw of `noise`"):
            ladder(made, replace(params, ladder=wanted), "tiny")
    benchmark = Benchmark.read(workspace.data("tiny"))
    without_images = replace(benchmark, card=replace(benchmark.card, image=ImageSpec.none()))
    with pytest.raises(BenchmarkError, match="`tiny` has no images to train on and no vectors of an encoder"):
        ladder_values(without_images, {}, params, tmp_path)
    assert read_ladder(tmp_path / "nowhere", {}) is None
    now = metric_facts(workspace, workspace.params(), "tiny")
    view = read_ladder(workspace.ladder("tiny"), now)
    assert view is not None
    assert (view.summary, view.stale) == (found(workspace)["summary"], "")
    other = read_ladder(workspace.ladder("tiny"), now | {"data": {"tiny": "another"}})
    assert other is not None
    assert other.stale == "the index of `tiny` changed since"


# ------------------------------------------------------------------------------------------------ several splits, and no images


@pytest.mark.slow
def test_of_several_splits_the_first_is_trained_and_tested_on(tmp_path: Path) -> None:
    benchmark = write_images(tmp_path / "data" / "tiny", plates=9, folds=3)
    only = first_split(benchmark)
    assert [fold.number for fold in only.folds] == [0]
    assert only.folds[0].test.tolist() == benchmark.folds[0].test.tolist()
    assert only.folds[0].train.tolist() == benchmark.folds[0].train.tolist()
    assert first_split(only) is only
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(PARAMS), encoding="utf-8")
    assert main(["--workspace", str(tmp_path), "ladder", "tiny", "--seeds", "2"]) == 0
    made = Workspace(tmp_path)
    first, without = found(made)["notes"]
    assert first == "Trained and tested on the first of 3 outer splits."
    assert without.startswith("Bits beyond the controls and the share that brightness reaches were not asked")
    assert ladder_tables(found(made)).startswith(f"{first}\n\n{without}\n\nLadders that rise")
    rows = [Row.read(path.parent) for path in sorted(made.ladder("tiny").glob("runs/simclr-0/embeddings/*/manifest.json"))]
    assert len(rows) == 4
    images = int(json.loads((made.ladder("tiny") / "runs" / "simclr-0" / "weights" / "card.json").read_text())["training"]["images"])
    assert images == int(benchmark.folds[0].train.sum())


@pytest.mark.slow
def test_vectors_that_noise_was_added_to_are_a_ladder_where_nothing_can_be_trained(tmp_path: Path) -> None:
    """An encoder that knows its label is told from one that does not: only the first of two ladders rises."""
    workspace = Workspace(tmp_path)
    with_images = noise_benchmark(workspace.data("noise"), units=16, per_unit=8, folds=2)
    replace(with_images.card, image=ImageSpec.none()).write(with_images.folder)
    benchmark = Benchmark.read(with_images.folder)
    label = (benchmark.index["label_planted"] == "class-1").to_numpy(float)
    rng = np.random.default_rng(1)
    for name, strength in (("knows", 3.0), ("guesses", 0.0)):
        values = rng.normal(size=(len(label), 6)) + strength * label[:, None] * np.eye(6)[0]
        card = EncoderCard(name, "encoder", "on trial", architecture="elsewhere", weights="trained elsewhere", twins=("untrained-net",))
        write_row(workspace.embeddings("noise") / name, benchmark, name, {"main": values}, card)
    told = PARAMS | {"evaluate": {"max_dim": 16, "neighbours": 3}, "ladder": {"seeds": 5, "noise": 3}}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(told), encoding="utf-8")
    assert main(["--workspace", str(tmp_path), "ladder", "noise"]) == 0
    said = json.loads((workspace.ladder("noise") / "ladder.json").read_text(encoding="utf-8"))
    assert set(said["rungs"]) == {"diluted knows", "diluted guesses"}
    assert said["rungs"]["diluted knows"] == {"of": "dilution", "at": [8.0, 2.0, 0.5, 0.0]}
    (planted,) = [task for task in said["tasks"] if task["task"] == "planted"]
    assert {name: ladder["rises"] for name, ladder in planted["ladders"].items()} == {"diluted knows": True, "diluted guesses": False}
    words = {m["metric"]: m["word"] for m in planted["metrics"]}
    assert words["logistic.balanced_accuracy"] == words["knn.balanced_accuracy"] == "orders"
    view = ladder_view(said)
    assert view.rungs == [f"diluted {name}: noise of 8, 2, 0.5 and 0 standard deviations added" for name in ("guesses", "knows")]
    # the end of a ladder is the encoder itself
    evaluate_cell(benchmark, workspace.embeddings("noise") / "knows", workspace.params(), tmp_path / "again")
    direct = {s.metric: s.statistic.value for s in read_scores(tmp_path / "again") if s.task == "planted"}
    table = pd.read_parquet(workspace.ladder("noise") / "ladder.parquet")
    last = table[(table["ladder"] == "diluted knows") & (table["rung"] == 3) & (table["seed"] == 4) & (table["labels"] == "true")]
    assert last[last["task"] == "planted"].set_index("metric")["value"]["logistic.auroc"] == direct["logistic.auroc"]


def test_more_noise_is_the_same_noise_and_more_of_it() -> None:
    x = np.random.default_rng(0).normal(size=(50, 4)) * np.array([1.0, 2.0, 0.0, 5.0])
    most, less, none = dilutions(x, (4.0, 1.0, 0.0), 0, 1)
    assert (none == x).all()
    assert np.allclose(most - x, 4 * (less - x))
    # in standard deviations of each column; one that does not vary keeps its value
    assert np.allclose((less - x).std(axis=0) / x.std(axis=0).clip(1e-9), [1, 1, 0, 1], atol=0.25)
    assert (dilutions(x, (1.0,), 0, 2)[0] != less).any()


# ------------------------------------------------------------------------------------------------ what is concluded


RUNGS = {"simclr": Rungs("epochs", (0, 1, 2, 8)), "supervised": Rungs("epochs", (0, 2, 6, 20))}


def planted() -> pd.DataFrame:
    """Two ladders of five runs: `good` and `loss` rise, `collapse` gives its best to a constant, `still` never moves, `partial` has no value.

    `confounds.mixed` notices an added batch, falls as encoders learn, gives its best to noise and refuses a constant; `confounds.deaf` notices none.
    """
    rng = np.random.default_rng(0)
    records: list[dict[str, Any]] = []

    def put(ladder: str, seed: int, rung: int, labels: str, **values: float | None) -> None:
        records.extend(
            {"ladder": ladder, "seed": seed, "rung": rung, "labels": labels, "task": "t", "metric": m, "value": v} for m, v in values.items()
        )

    def metrics(quality: float) -> dict[str, float | None]:
        jitter = rng.normal(0, 1e-4, 3)
        good = 0.5 + 0.1 * quality + jitter[0]
        return {
            "a.good": good,
            "b.good": good + jitter[1],
            "logistic.log_loss_bits": 1 - 0.2 * quality + jitter[2],
            "still": 0.5,
            "collapse": 0.3 + 0.1 * quality,
            "partial": None if quality == 0 else 1.0,
            "confounds.mixed": 0.9 - 0.05 * quality,
            "confounds.deaf": 0.5 + 0.1 * quality,
        }

    for name in ("simclr", "supervised"):
        for seed in range(5):
            for rung in range(4):
                put(name, seed, rung, "true", **metrics(rung))
            put(name, seed, 3, "permuted", **metrics(0))
            for rung in range(3 if name == "simclr" else 0):
                put(name, seed, rung, "batch", **{"confounds.mixed": 0.2 * rung, "confounds.deaf": 0.8})
    put("constant", 0, -1, "true", **metrics(0) | {"collapse": 1.0, "confounds.mixed": None})
    for draw in range(4):
        put("noise", draw, -1, "true", **metrics(0))
    return pd.DataFrame(records)


def scorecard(row: str, *values: float) -> Scorecard:
    names = ("a.good", "b.good", "logistic.log_loss_bits")
    scores = [ScoreEntry("t", name, "", "p", value, 1, 0.0, None, None, 10, 10, 10.0, 0.5, False) for name, value in zip(names, values, strict=True)]
    return Scorecard(row, "negative", "b", "B", "hash", "plate", [], scores=scores)


def test_planted_metrics_get_the_words_they_deserve() -> None:
    cards = [scorecard("x", 0.9, 0.8, 0.1), scorecard("y", 0.8, 0.7, 0.2), scorecard("z", 0.7, 0.9, 0.3)]
    said = conclude(planted(), RUNGS, cards)
    (task,) = said["tasks"]
    assert {m["metric"]: (m["word"], m["rewards"]) for m in task["metrics"]} == {
        "a.good": ("orders", []),
        "b.good": ("orders", []),
        "logistic.log_loss_bits": ("orders", []),
        "still": ("blind", ["constant", "noise", "permuted"]),
        "collapse": ("blind", ["constant"]),
        "confounds.mixed": ("blind", ["noise", "permuted"]),
        "confounds.deaf": ("orders", []),
    }
    mixed = next(m for m in task["metrics"] if m["metric"] == "confounds.mixed")
    assert (mixed["constant"], mixed["noise"], mixed["batch"]["tau"]) == (None, 0.9, 1.0)
    said_of_batch = "these get better as it becomes less, on every task: `confounds.mixed`; these do not: `confounds.deaf`."
    assert said["summary"].endswith(f"A batch was added to trained encoders: {said_of_batch}")
    assert task["without_value"] == ["partial"]
    assert "Not judged, because some encoder has no value: `partial` on `t`." in said["summary"]
    assert {name: (each["rises"], each["ahead"]) for name, each in task["ladders"].items()} == dict.fromkeys(("simclr", "supervised"), (True, 0.6))
    assert "Blind here: `still` (scores a constant, noise and permuted labels as high); `collapse` (scores a constant as high);" in said["summary"]
    encoders, rows = said["agreement"]["encoders"], said["agreement"]["rows"]
    assert (encoders["n"], rows["n"]) == (40, 3)
    # of 780 pairs of encoders those of one rung, 4 x 45, are in no particular order
    assert encoders["kendall"][0][2] == pytest.approx(600 / 780, abs=0.1)
    # the losses of the rows fall as the first metric rises, and the second orders one pair of three
    assert np.round(rows["kendall"], 3).tolist() == [[1.0, -0.333, 1.0], [-0.333, 1.0, -0.333], [1.0, -0.333, 1.0]]
    assert conclude(planted(), RUNGS, cards[:2])["agreement"]["rows"] is None


def test_what_a_position_explains_and_parity_have_no_say_in_which_ladders_rise() -> None:
    """Each question about replicates has four such numbers at most: together they would be more than the questions."""
    table = planted().assign(task=TREATMENTS)
    good, still = (table[table["metric"] == name] for name in ("a.good", "still"))
    beside = [f"replicates.{question}{part}" for question in QUESTIONS for part in (".copairs", ".drop")] + ["replicates.controls_replicating"]
    without_say = [still.assign(metric=name) for name in beside]
    (task,) = conclude(pd.concat([good.assign(metric="replicates.activity"), *without_say]), RUNGS)["tasks"]
    assert [each["rises"] for each in task["ladders"].values()] == [True, True]
    assert {m["metric"]: m["word"] for m in task["metrics"]} == {"replicates.activity": "orders"} | dict.fromkeys(beside, "blind")
    # treatments that lie in one well each are asked nothing, and the positions of control wells make no ladder
    said = conclude(pd.concat([table.assign(task="t"), good.assign(metric="replicates.controls_replicating")]), RUNGS)
    alone = said["tasks"][1]
    assert [(m["metric"], m["word"]) for m in alone["metrics"]] == [("replicates.controls_replicating", "no ladder")]
    assert "`all treatments`" in said["summary"]
    assert "no ladder" in ladder_tables(said | {"notes": []})


def test_tables_say_what_was_concluded() -> None:
    said = conclude(planted(), RUNGS) | {"settings": {"seeds": 5}, "notes": []}
    text = ladder_tables(said)
    assert text.startswith(
        "Ladders that rise: `t`: simclr, supervised.\n\n| metric | `t` |\n| --- | --- |\n| `a.good` | orders 1 [.71, 1] 1 [.71, 1] |\n"
    )
    assert said["summary"] in text
    words, nothing, batch = text.split("| metric | `t` |")[1:]
    assert "| `still` | **blind** 0 [−.29, .29] 0 [−.29, .29] |" in words
    # trained, a constant, noise, permuted labels
    assert "| `collapse` | .60 / **1** / .30 / .30 |" in nothing
    assert "| `confounds.mixed` | .75 / – / **.90** / **.90** |" in nothing
    assert batch.count("confounds.") == 2
    assert "| `confounds.mixed` | 1 [.71, 1] |" in batch
    (task,) = ladder_view(said).tasks
    lines = {line.metric: line for line in task.lines}
    assert [cell.constant for cell in lines["confounds.mixed"].ladders] == ["", ""]
    assert [cell.value for cell in lines["confounds.mixed"].nothing] == ["–", "0.900", "0.900"]
    assert (lines["a.good"].batch, lines["confounds.mixed"].batch) == ("", "1.00 [0.71, 1.00]")
    assert ladder_view(said).batch


def test_words_hang_on_the_rungs_and_not_on_the_order_of_the_table() -> None:
    table = planted()
    order_of_metrics = table.drop_duplicates("metric")["metric"].tolist()
    mixed = table.sample(frac=1, random_state=1)
    mixed = mixed.sort_values("metric", key=lambda names: names.map(order_of_metrics.index), kind="stable")
    assert conclude(mixed, RUNGS) == conclude(table, RUNGS)
    swapped = table.assign(rung=table["rung"].where(table["rung"] < 0, 3 - table["rung"]), labels=table["labels"])
    assert {m["word"] for m in conclude(swapped, RUNGS)["tasks"][0]["metrics"]} == {"no ladder"}

"""Labels that are noise, through everything that looks at labels: training, fitted controls, probes, the choice of the oracle.

Whatever lets a test label into a fit lifts a row above chance here.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pipelines.benchmarks.card import Task
from pipelines.benchmarks.culture_design import CultureParameters
from pipelines.benchmarks.index import Benchmark, write_benchmark
from pipelines.benchmarks.simulate import simulate
from pipelines.evaluate import evaluate_cell, evaluate_oracle
from pipelines.extract import extract_cell
from pipelines.params import CellParams, EncoderParams, EvaluateParams, ExtractParams, Params
from pipelines.train import train
from pipelines.workspace import Workspace
from registry.controls.catalogue import control_names

pytestmark = pytest.mark.slow

PARAMS = Params(seed=0, threads=2, cells={}, compare=["noise"], extract=ExtractParams(device="cpu", twin_seeds=1), evaluate=EvaluateParams())
LEARNS = {"labels": ["label_noise"], "epochs": 30}
TRAINED = {"simclr": {}, "weak": LEARNS, "supervised": LEARNS}


def noise_labels(folder: Path) -> Benchmark:
    """A screen whose one task is a coin thrown for each image."""
    screen = simulate("noise", folder, CultureParameters(train_plates=8, test_plates=8, sites_per_well=2), 3)
    labels = np.random.default_rng(5).permutation(np.arange(len(screen.index)) % 2)
    kept = [name for name in screen.index if not name.startswith("label_")]
    index = screen.index[kept].assign(label_noise=np.where(labels == 1, "heads", "tails"))
    return write_benchmark(folder, replace(screen.card, tasks=(Task("noise", "Heads or tails?"),)), index)


def test_noise_labels_leave_every_row_at_chance(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    benchmark = noise_labels(workspace.data("noise"))
    card = EncoderParams("net", "trained on noise", "cnn:small", "trained", twins=["untrained-cnn-small"])
    cells = [CellParams("noise", "controls", list(control_names()), "registry/controls")]
    untrained = EncoderParams("untrained-cnn-small", "fresh", "cnn:small", "random", role="twin")
    cells.append(CellParams("noise", "untrained", [untrained.name], "registry/encoders", untrained))
    for method, settings in TRAINED.items():
        mine = replace(card, name=f"{method}-net")
        train(benchmark, mine, method, settings, workspace.weights("noise", mine.name), 0, 2)
        cells.append(CellParams("noise", method, [mine.name], str(workspace.weights("noise", mine.name)), mine))
    params = replace(PARAMS, cells={f"noise--{cell.cell}": cell for cell in cells})
    for cell in cells:
        extract_cell(benchmark, cell, params, workspace)
        evaluate_cell(benchmark, workspace.embeddings("noise") / cell.cell, params, workspace.scores("noise") / cell.cell)
    evaluate_oracle(benchmark, workspace.embeddings("noise"), params, workspace.oracle("noise"))

    folders = [*(workspace.scores("noise") / cell.cell for cell in cells), workspace.oracle("noise")]
    scores = pd.concat([pd.read_parquet(folder / "scores.parquet") for folder in folders])
    assert {"weak-net", "supervised-net", "simclr-net", "pixels-pca", "layout", "texture", "oracle"} <= set(scores["row"])
    far = far_from_chance(scores, benchmark)
    assert far.empty, far[["row", "member", "metric", "value"]]


def far_from_chance(scores: pd.DataFrame, benchmark: Benchmark) -> pd.DataFrame:
    """Accuracies more than four standard deviations of a coin on that many test images away from 1/2."""
    n = int((benchmark.index["fold"] == 0).sum())
    accuracy = scores[scores["metric"].isin(["logistic.balanced_accuracy", "knn.balanced_accuracy"])]
    return accuracy[(accuracy["value"] - 0.5).abs() > 4 * 0.5 / np.sqrt(n)]


def test_a_network_that_saw_the_test_labels_is_found(tmp_path: Path) -> None:
    """That the check above can fail."""
    workspace = Workspace(tmp_path)
    benchmark = noise_labels(workspace.data("noise"))
    everything_but_a_plate = np.where(benchmark.index["unit"] == benchmark.index["unit"].max(), 0, -1)
    card = EncoderParams("net", "trained on noise", "cnn:small", "trained", twins=["untrained-cnn-small"])
    leaky = replace(benchmark, index=benchmark.index.assign(fold=everything_but_a_plate))
    train(leaky, card, "supervised", LEARNS, workspace.weights("noise", "net"), 0, 2)
    cell = CellParams("noise", "net", ["net"], str(workspace.weights("noise", "net")), card)
    params = replace(PARAMS, cells={"noise--net": cell})
    extract_cell(benchmark, cell, params, workspace)
    evaluate_cell(benchmark, workspace.embeddings("noise") / "net", params, workspace.scores("noise") / "net")
    assert not far_from_chance(pd.read_parquet(workspace.scores("noise") / "net" / "scores.parquet"), benchmark).empty

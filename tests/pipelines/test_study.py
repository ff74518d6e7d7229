"""One command from a folder of data sets to a filled registry, as a user runs it: in a checkout whose git ignores the workspace."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import save_file

from pipelines.study import StudiedEncoder, encoder_params, untrained_params
from registry.encoders.architecture import Architecture
from registry.encoders.weights import fresh_backbone
from registry.files import read_json
from registry.store import Store, default_uri


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Bright and dim images in class folders, a table without the label its recipe names, and a folder without images."""
    folder = tmp_path / "data"
    rng = np.random.default_rng(0)
    for label, level in (("bright", 160), ("dim", 60)):
        (folder / "levels" / label).mkdir(parents=True)
        for number in range(15):
            pixels = rng.integers(level - 40, level + 40, (24, 24)).astype(np.uint8)
            Image.fromarray(pixels).save(folder / "levels" / label / f"{label}-{number}.png")
    (folder / "broken").mkdir()
    (folder / "broken" / "cells.csv").write_text("file,phase\na.png,G1\n")
    Image.fromarray(np.zeros((24, 24), np.uint8)).save(folder / "broken" / "a.png")
    (folder / "tables").mkdir()
    (folder / "tables" / "profiles.csv").write_text("a,b\n1,2\n")
    (folder / "recipes.yaml").write_text("broken: {table: cells.csv, label: fase}\n")
    save_file(fresh_backbone(Architecture.parse("cnn:small"), 1, 3).state_dict(), folder / "weights.safetensors")
    return folder


def study(checkout: Path, data: Path, *more: str) -> subprocess.CompletedProcess[str]:
    command: Sequence[str | Path] = [
        *(sys.executable, "-m", "pipelines.cli", "--workspace", "study", "study", data, "--recipes", data / "recipes.yaml"),
        *("--weights", data / "weights.safetensors", "--architecture", "cnn:small", "--encoder", "given", "--input-px", "16", "--twin-seeds", "2"),
        *more,
    ]
    return subprocess.run(command, cwd=checkout, env={**os.environ}, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_a_folder_of_data_sets_becomes_a_registry(tmp_path: Path, data: Path) -> None:
    checkout = tmp_path / "checkout"
    checkout.mkdir()
    subprocess.run(["git", "init", "--quiet"], cwd=checkout, check=True)
    subprocess.run([sys.executable, "-m", "dvc", "init", "--quiet"], cwd=checkout, check=True)
    (checkout / ".gitignore").write_text("/study/\n")

    done = study(checkout, data)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "[study] broken: not imported." in done.stdout
    assert "`fase`" in done.stdout
    assert "[study] tables: skipped." in done.stdout
    root = checkout / "study"
    assert (root / "data" / "levels.dvc").is_file()
    assert (root / "reports" / "index.html").is_file()
    verdicts = read_json(root / "out" / "verdicts" / "levels" / "given.scorecard.json")
    assert verdicts["row"] == "given"
    found = set(Store(default_uri(root)).models())
    assert {"given", "untrained-cnn-small", "shuffled-given", "intensity", "oracle"} <= found

    again = study(checkout, data)
    assert again.returncode == 0, again.stderr[-3000:]
    assert "[study] levels: already imported" in again.stdout
    assert "up to date" in again.stdout
    assert "[registry] 0 registered" in again.stdout


def test_the_encoder_is_described_with_what_its_weights_were_trained_with(tmp_path: Path) -> None:
    hub = encoder_params(StudiedEncoder("net", "timm:resnet50.a1_in1k?pad_type=same", None, 64), "native")
    assert hub.weights == "hub:resnet50.a1_in1k"
    assert hub.mean == pytest.approx([0.485, 0.456, 0.406])
    assert untrained_params(hub).std == hub.std == pytest.approx([0.229, 0.224, 0.225])
    given = encoder_params(StudiedEncoder("net", "timm:resnet50", tmp_path / "net.pt", 64), "native")
    assert (given.weights, given.mean, given.std) == ("file:weights/net.pt", [0.5], [0.5])
    stated = encoder_params(StudiedEncoder("net", "timm:resnet50", tmp_path / "net.pt", 64, (0.1,), (0.2,)), "native")
    assert (stated.mean, stated.std) == ([0.1], [0.2])


@pytest.mark.slow
def test_a_data_set_that_is_not_there_is_named_before_anything_is_written(tmp_path: Path, data: Path) -> None:
    done = study(tmp_path, data, "--only", "nobody")
    assert done.returncode == 2
    assert "There is no data set `nobody`" in done.stderr
    assert not (tmp_path / "study").exists()

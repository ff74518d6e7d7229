"""Import of real data sets, where they are at hand: the folder is named by BLANKSLIDE_REAL_DATA (default: `../shared/data` beside the repository)."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pipelines.benchmarks.importer import import_folder
from pipelines.benchmarks.index import Benchmark
from pipelines.benchmarks.objects import read_mask
from pipelines.benchmarks.recipes import Recipe, find_datasets
from registry.images import read_image

ROOT = Path(__file__).resolve().parents[3]
DATA = Path(os.environ.get("BLANKSLIDE_REAL_DATA", ROOT.parent / "shared" / "data"))
STATED = ROOT / "docs" / "real-data-recipes.yaml"

pytestmark = pytest.mark.skipif(
    not DATA.is_dir(), reason=f"the real data are not at hand: `{DATA}` does not exist (BLANKSLIDE_REAL_DATA names the folder)"
)


@pytest.fixture(scope="module")
def recipes() -> dict[str, Recipe]:
    return {recipe.name: recipe for recipe in find_datasets(DATA, STATED)}


@pytest.fixture(scope="module")
def imported(recipes: dict[str, Recipe], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Benchmark]:
    out = tmp_path_factory.mktemp("data")
    wanted = {name: recipe for name, recipe in recipes.items() if not recipe.skipped}
    return {name: import_folder(r.folder, name, out / name, replace(r.options, workers=2), r.notes, say=lambda _: None) for name, r in wanted.items()}


#: number of images, then channels, dtype, height, width and resize of the specification, then the numbers of classes, units and folds
EXPECTED = {
    "mitocheck_cells": (2236, (1, "uint8", 64, 64, "refuse"), 16, 45, 5),
    "jurkat_ifc": (1055, (3, "uint16", 40, 40, "refuse"), 7, 1055, 5),
    "pbc_blood": (640, (3, "uint8", 363, 360, "linear"), 8, 640, 5),
    "cifar10_test": (1500, (3, "uint8", 32, 32, "refuse"), 10, 1500, 5),
    "dsb_tissue": (107, (3, "uint8", 256, 320, "refuse"), 3, 107, 5),
    "imc_pancreas": (362, (5, "float32", 24, 24, "refuse"), 3, 3, 3),
}


@pytest.mark.slow
def test_every_data_set_is_imported(imported: dict[str, Benchmark]) -> None:
    assert set(EXPECTED) <= set(imported)
    for name, (images, shape, classes, units, folds) in EXPECTED.items():
        benchmark = imported[name]
        spec, (task,) = benchmark.card.image, benchmark.card.tasks
        assert (len(spec.channels), spec.dtype, spec.height, spec.width, spec.resize) == shape
        assert (len(benchmark.index), benchmark.labels(task).nunique(), benchmark.index["unit"].nunique(), len(benchmark.folds)) == (
            (images, classes, units, folds)
        )
        for fold in benchmark.folds:
            labels = benchmark.labels(task)
            assert set(labels[fold.train].dropna()) == set(labels.dropna())
        assert benchmark.pixels(0).shape == spec.shape


def test_what_must_be_said_is_said(imported: dict[str, Benchmark]) -> None:
    notes = {name: "\n".join(benchmark.card.notes) for name, benchmark in imported.items()}
    for name in ("jurkat_ifc", "pbc_blood", "cifar10_test", "dsb_tissue"):
        assert "images as units: optimistic" in notes[name]
    assert "Only images with `experiment` = Experiment_1: 1055 of 1305" in notes["jurkat_ifc"]
    assert "3 units of `ImageName`: too few for an interval or a verdict" in notes["imc_pancreas"]
    assert "3 sizes, 360 x 360 to 369 x 366" in notes["pbc_blood"]
    assert "do not name a row and a column" in notes["mitocheck_cells"]
    assert imported["jurkat_ifc"].card.image.channels == ("brightfield", "PI_DNA", "side_scatter")


def test_folders_without_images_or_labels_are_skipped_with_the_reason(recipes: dict[str, Recipe]) -> None:
    skipped = {name: recipe.skipped for name, recipe in recipes.items() if recipe.skipped}
    assert {"nf1_fields", "jump_cpjump1", "gene_relations", "weights"} <= set(skipped)
    assert skipped["jump_cpjump1"].startswith("It holds no images")


def test_the_rule_finds_the_same_labels_and_units_without_being_told(recipes: dict[str, Recipe]) -> None:
    by_rule = {recipe.name: recipe for recipe in find_datasets(DATA)}
    for name in EXPECTED:
        found, stated = by_rule[name].options, recipes[name].options
        assert not by_rule[name].skipped
        assert (found.labels, found.unit, found.nuclei, found.mask, found.object) == (
            (stated.labels, stated.unit, stated.nuclei, stated.mask, stated.object)
        )
    assert any("`experiment` is no unit here: 1 of 7 labels" in note for note in by_rule["jurkat_ifc"].notes)


def test_a_montage_holds_every_phase_alone_so_it_cannot_be_a_unit() -> None:
    cells = pd.read_csv(DATA / "jurkat_ifc" / "cells.csv").query("experiment == 'Experiment_1'")
    assert (cells.groupby("phase")["montage"].nunique() == 1).all()


def test_nuclei_counts_carry_the_crowding(imported: dict[str, Benchmark]) -> None:
    benchmark = imported["dsb_tissue"]
    counts = benchmark.index["image_id"].map({name: len(nuclei) for name, nuclei in benchmark.nuclei.items()})
    ranges = counts.groupby(benchmark.index["label_crowding"]).agg(["min", "max"]).loc[["sparse", "medium", "dense"]]
    assert (ranges["max"].to_numpy()[:-1] <= ranges["min"].to_numpy()[1:]).all()


def test_the_mask_and_not_the_table_says_where_a_cell_is(imported: dict[str, Benchmark]) -> None:
    cells = pd.read_csv(DATA / "imc_pancreas" / "cells.csv")
    index = imported["imc_pancreas"].index
    for image, group in cells.groupby("ImageName"):
        pixels = read_image(DATA / "imc_pancreas" / str(image)).pixels
        mask = read_mask(DATA / "imc_pancreas" / group["MaskName"].iloc[0])
        means = np.array([[channel[mask == number].mean() for channel in pixels] for number in group["CellNb"]])
        # the published mean counts are those of the whole slide's mask, which the stack's edge cuts
        for channel in range(5):
            assert np.corrcoef(means[:, channel], group[f"counts_{channel}"])[0, 1] > 0.85
        assert group["Pos_X"].max() > pixels.shape[2]
        assert set(index["image_id"]) >= {f"{str(image)[:-5]}-{number}" for number in group["CellNb"]}

"""Rows with a planted batch, a planted class or neither, through the table that stands beside their scores."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipelines.benchmarks.index import Benchmark, write_benchmark
from pipelines.beside.confounding import MOST, SCORES, Design, confounds_of
from pipelines.evaluate import evaluate_cell
from pipelines.metrics.confounds import principal_component_regression
from pipelines.metrics.probes import ProbeSettings
from pipelines.metrics.projection import fit_projection
from pipelines.params import CellParams, EvaluateParams, Params
from pipelines.scores import Confound, read_confounds
from tests.pipelines.noise import noise_benchmark, write_row

PARAMS = Params(
    seed=0,
    threads=1,
    cells={"noise--x": CellParams("noise", "x", [], ".")},
    compare=["noise"],
    evaluate=EvaluateParams(max_dim=16, neighbours=5, permutations=50),
)
SETTINGS = ProbeSettings(max_dim=16, neighbours=5)


@pytest.fixture(scope="module")
def noise(tmp_path_factory: pytest.TempPathFactory) -> Benchmark:
    return noise_benchmark(tmp_path_factory.mktemp("noise"))


def vectors(benchmark: Benchmark, of_plate: float = 0.0, of_class: float = 0.0, seed: int = 0) -> np.ndarray:
    """Noise, plus a direction for every plate and every class."""
    rng = np.random.default_rng(seed)
    plate = np.unique(benchmark.index["unit"], return_inverse=True)[1]
    label = np.unique(benchmark.index["label_planted"], return_inverse=True)[1]
    x = rng.normal(size=(len(plate), 8))
    return np.asarray(x + of_plate * rng.normal(size=(12, 8))[plate] + of_class * rng.normal(size=(2, 8))[label])


def table(benchmark: Benchmark, x: np.ndarray) -> dict[str, Confound]:
    found = confounds_of("row", "main", x, Design.of(benchmark, 0), SETTINGS)
    return {c.score if c.score != "decoding" else f"decoding {c.column}": c for c in found}


#: larger or smaller than the reference, where the batch shows
SHOWS = {"decoding plate": 1, "component regression": 1, "kBET": -1, "iLISI": -1, "BRAS": -1, "robustness index": -1}


def test_a_batch_shows_in_every_score_about_batches_and_a_class_in_none(noise: Benchmark) -> None:
    nothing, plates, classes = table(noise, vectors(noise)), table(noise, vectors(noise, of_plate=2)), table(noise, vectors(noise, of_class=2))
    for score, sign in SHOWS.items():
        assert plates[score].column == "plate"
        assert sign * (plates[score].value - plates[score].reference) > 0.1, score
        assert abs(nothing[score].value - nothing[score].reference) < 0.06, score
        assert abs(classes[score].value - classes[score].reference) < 0.06, score
    for score in ("cLISI", "connectivity"):
        assert abs(nothing[score].value - nothing[score].reference) < 0.06, score
    assert classes["cLISI"].value > classes["cLISI"].reference + 0.3
    assert abs(plates["cLISI"].value - plates["cLISI"].reference) < 0.1


def test_a_number_is_that_of_the_test_images_in_the_space_of_the_probes(noise: Benchmark) -> None:
    index = noise.index.copy()
    index["fold"] = np.where(np.unique(index["unit"], return_inverse=True)[1] < 4, -1, 0)
    split = Benchmark(noise.folder, noise.card, index)
    x = vectors(noise, of_plate=1)
    test = (index["fold"] == 0).to_numpy()
    seen = fit_projection(x[~test], 16).transform(x[test])
    found = table(split, x)
    assert found["component regression"].value == principal_component_regression(seen, index["unit"][test].to_numpy(np.str_)).share
    assert found["component regression"].n_images == test.sum()
    # what was trained on may be known by heart: it does not enter
    x[~test] += 100 * np.unique(index["unit"], return_inverse=True)[1][~test, None]
    assert table(split, x)["decoding plate"].value == found["decoding plate"].value


def test_the_evaluate_stage_writes_one_line_per_row_and_score(tmp_path: Path, noise: Benchmark) -> None:
    cell = tmp_path / "out" / "cell"
    write_row(cell, noise, "plates", {"main": vectors(noise, of_plate=2)})
    write_row(cell, noise, "twin", {"fresh-00": vectors(noise), "fresh-01": vectors(noise, of_plate=3)}, fitted=True)
    evaluate_cell(noise, cell, PARAMS, tmp_path / "scores" / "cell")
    found = read_confounds(tmp_path / "scores")
    assert [(c.row, c.member) for c in found] == [("plates", "main")] * 10 + [("twin", "fresh-00")] * 10
    assert [c.score for c in found[:10]] == ["decoding", *SCORES]
    by_hand = confounds_of("plates", "main", vectors(noise, of_plate=2).astype(np.float32).astype(float), Design.of(noise, 0), SETTINGS)
    for one, other in zip(found[:10], by_hand, strict=True):
        assert one.note == other.note
        assert (one.value, one.reference) == pytest.approx((other.value, other.reference), nan_ok=True)
    assert read_confounds(tmp_path / "nothing") == []


def test_a_class_that_lies_on_few_plates_gives_them_away_and_that_is_no_trace_of_the_plate(noise: Benchmark) -> None:
    index = noise.index.copy()
    plate = np.unique(index["unit"], return_inverse=True)[1]
    # classes by lot, and classes that each have four plates of the twelve
    by_lot = table(noise, vectors(noise))["decoding plate"].reference
    assert by_lot == pytest.approx(1 / 12, abs=0.06)
    index["label_planted"] = [f"class-{number}" for number in plate // 4]
    tied = Benchmark(noise.folder, noise.card, index)
    knows_the_class = np.asarray(vectors(noise) + 8 * np.eye(8)[plate // 4])
    found = table(tied, knows_the_class)["decoding plate"]
    assert found.reference == pytest.approx(1 / 4, abs=0.01)
    assert abs(found.value - found.reference) < 0.08
    assert found.value > 1 / 12 + 0.1


def test_compounds_give_the_leak_of_a_shared_batch(noise: Benchmark) -> None:
    index = noise.index.copy()
    label = np.unique(index["label_planted"], return_inverse=True)[1]
    index["Metadata_Compound"] = [f"{name}-{i % 3}" for i, name in enumerate(label)]
    found = table(Benchmark(noise.folder, noise.card, index), vectors(noise, of_plate=2))
    assert (found["NSC"].note, found["NSCB"].note) == ("", "")
    assert 0 < found["NSCB"].value < 1
    assert table(noise, vectors(noise))["NSC"].note == "not estimable: no column says which compound an image shows"


def test_what_the_design_forbids_has_a_reason(tmp_path: Path, noise: Benchmark) -> None:
    constant = table(noise, np.full((len(noise.index), 4), 0.3))
    assert constant["kBET"].note == "not estimable: the vectors do not differ between images"
    assert np.isnan(constant["kBET"].value)
    assert constant["decoding plate"].value == pytest.approx(1 / 12)
    index = noise.index.drop(columns=["Metadata_Plate", "Metadata_Well"])
    index["unit"] = index["image_id"]
    images = write_benchmark(tmp_path / "images", replace(noise.card, unit="image"), index)
    assert {c.note for c in table(images, vectors(noise)).values()} == {"not estimable: there are fewer than 3 images per image"}
    index["unit"] = noise.index["unit"]
    index["label_planted"] = noise.index["unit"].str.replace("plate", "class")
    assert table(Benchmark(images.folder, noise.card, index), vectors(noise))["BRAS"].note == (
        "not estimable: no class has images of two batches to compare"
    )
    index["label_planted"] = noise.index["label_planted"]
    index["fold"] = np.where(index["unit"] == "plate-00", 0, -1)
    one = table(Benchmark(images.folder, noise.card, index), vectors(noise))
    assert one["iLISI"].note == "not estimable: the test images have 1 plate and 2 classes, at least 2 are needed of both"


def test_the_batch_is_the_first_of_batch_plate_and_unit_that_differs(noise: Benchmark) -> None:
    index = noise.index.copy()
    assert Design.of(noise, 0).batch_column == "Plate"
    index["Metadata_Batch"] = "monday"
    assert Design.of(Benchmark(noise.folder, noise.card, index), 0).batch_column == "Plate"
    index["Metadata_Batch"] = np.where(np.arange(len(index)) % 2, "monday", "tuesday")
    assert Design.of(Benchmark(noise.folder, noise.card, index), 0).batch_column == "Batch"
    bare = Design.of(Benchmark(noise.folder, noise.card, index.drop(columns=["Metadata_Batch", "Metadata_Plate"])), 0)
    assert bare.batch_column == "plate"
    assert bare.batch.tolist() == index["unit"].tolist()


def test_more_images_than_the_most_are_thinned_out_over_all_plates(tmp_path: Path) -> None:
    large = noise_benchmark(tmp_path, units=20, per_unit=120)
    design = Design.of(large, 0)
    assert len(design.images) == MOST == len(set(design.images.tolist()))
    counts = np.unique(design.units, return_counts=True)[1]
    assert counts.tolist() == pytest.approx([75] * 20, abs=1)

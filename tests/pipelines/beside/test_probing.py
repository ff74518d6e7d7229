"""Rows with a planted class, a planted treatment or nothing, through the questions how soon and how plainly a task can be read."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipelines.benchmarks.index import Benchmark, write_benchmark
from pipelines.beside.probing import ALL, CODE_LENGTH, CONTROL_TASK, DRAWS, FEW_SHOT, MOST, SELECTIVITY, Probed, probed, read_all, types_of
from pipelines.evaluate import evaluate_cell
from pipelines.metrics.code_length import online_code
from pipelines.metrics.few_shot import SHOTS
from pipelines.metrics.probes import ProbeSettings
from pipelines.metrics.selectivity import selectivity
from pipelines.params import CellParams, EvaluateParams, Params
from pipelines.tasks import Question
from tests.pipelines.noise import noise_benchmark, write_row

SETTINGS = ProbeSettings(max_dim=16, neighbours=5)
PARAMS = Params(
    seed=0,
    threads=1,
    cells={"noise--x": CellParams("noise", "x", [], ".")},
    compare=["noise"],
    evaluate=EvaluateParams(max_dim=16, neighbours=5, permutations=20),
)
EVERY = [(FEW_SHOT, shots) for shots in (*SHOTS, ALL)] + [(CODE_LENGTH, ALL), (SELECTIVITY, ALL), (CONTROL_TASK, ALL)]


@pytest.fixture(scope="module")
def screen(tmp_path_factory: pytest.TempPathFactory) -> Benchmark:
    """Sixteen treatments, eight of each class, on every one of twelve plates."""
    made = noise_benchmark(tmp_path_factory.mktemp("noise"), per_unit=16)
    kind = (made.index["label_planted"] == "class-1").to_numpy(int)
    within = made.index.groupby(["unit", "label_planted"]).cumcount().to_numpy()
    return Benchmark(made.folder, made.card, made.index.assign(Metadata_Treatment=[f"t{k}{i}" for k, i in zip(kind, within, strict=True)]))


def vectors(benchmark: Benchmark, of_class: float = 0.0, of_treatment: float = 0.0, seed: int = 0) -> np.ndarray:
    """Noise, plus a direction for every class and every treatment."""
    rng = np.random.default_rng(seed)
    kind = np.unique(benchmark.index["label_planted"], return_inverse=True)[1]
    treatment = np.unique(benchmark.index["Metadata_Treatment"], return_inverse=True)[1]
    x = rng.normal(size=(len(kind), 16))
    return np.asarray(x + of_class * rng.normal(size=(2, 16))[kind] + of_treatment * np.eye(16)[treatment])


def table(benchmark: Benchmark, x: np.ndarray) -> dict[tuple[str, int], Probed]:
    question = Question.of(benchmark, benchmark.card.tasks[0])
    features = {fold.number: x for fold in benchmark.folds}
    found = probed("row", "main", features, question, types_of(benchmark, question), SETTINGS, "plate")
    return {(p.score, p.shots): p for p in found}


def test_a_class_shows_in_every_score_and_noise_in_none(screen: Benchmark) -> None:
    nothing, planted = table(screen, vectors(screen)), table(screen, vectors(screen, of_class=1.0))
    assert list(nothing) == list(planted) == EVERY
    for key, one in nothing.items():
        assert one.value == pytest.approx(one.reference, abs=0.15 if key[1] == 1 else 0.09), key
    curve = [planted[FEW_SHOT, shots] for shots in (*SHOTS, ALL)]
    assert (np.diff([p.value for p in curve]) > -0.01).all()
    assert curve[0].value > 0.75
    assert curve[-1].value > 0.9
    assert all(p.sd > 0 for p in curve[:-1])
    assert planted[CODE_LENGTH, ALL].value < 0.7 * planted[CODE_LENGTH, ALL].reference == 0.7
    assert planted[SELECTIVITY, ALL].low > 0.3
    assert planted[SELECTIVITY, ALL].about == "treatment"
    assert planted[CONTROL_TASK, ALL].value < 0.7


def test_treatments_known_by_heart_are_not_selective(screen: Benchmark) -> None:
    """A probe that tells all treatments apart learns any grouping of them as well as the task."""
    by_heart = table(screen, vectors(screen, of_treatment=5.0))
    assert by_heart[FEW_SHOT, 1].value < 0.6 < 0.8 < by_heart[FEW_SHOT, ALL].value
    assert by_heart[CONTROL_TASK, ALL].value > 0.8
    assert by_heart[SELECTIVITY, ALL].low < 0 < by_heart[SELECTIVITY, ALL].high


def test_numbers_are_those_of_the_functions_on_the_images_that_count(screen: Benchmark) -> None:
    index = screen.index.assign(fold=np.where(screen.index["fold"] == 0, 0, -1))
    split = Benchmark(screen.folder, screen.card, index)
    x, question = vectors(split, of_class=0.5), Question.of(split, split.card.tasks[0])
    test = (index["fold"] == 0).to_numpy()
    found = table(split, x)
    code = online_code(x[test], question.codes[test], question.units[test], 2, SETTINGS)
    assert found[CODE_LENGTH, ALL].value == pytest.approx(code.online_bits / test.sum(), abs=1e-12)
    assert found[CODE_LENGTH, ALL].n_images == test.sum()
    types = index["Metadata_Treatment"].to_numpy(str)
    by_hand = selectivity(x, question.codes, types, question.folds, question.units, 2, SETTINGS, draws=DRAWS)
    assert found[SELECTIVITY, ALL].value == by_hand.selectivity.value
    assert found[CONTROL_TASK, ALL].value == by_hand.control.mean()
    # what was trained on may be known by heart: it does not enter the code
    x[~test] += 100 * (2 * question.codes[~test, None] - 1)
    assert table(split, x)[CODE_LENGTH, ALL].value == found[CODE_LENGTH, ALL].value


def test_what_the_design_forbids_has_a_reason(screen: Benchmark) -> None:
    index = screen.index.drop(columns=["Metadata_Treatment"]).assign(Metadata_Well=screen.index["image_id"])
    patients = replace(screen, index=index, card=replace(screen.card, unit="patient"))
    question = Question.of(patients, patients.card.tasks[0])
    why = "no compound, treatment or well is met in one patient and another and divides the classes further"
    assert types_of(patients, question).why_not == why
    x = vectors(screen)
    found = {(p.score, p.shots): p for p in probed("row", "main", {0: x, 1: x, 2: x}, question, types_of(patients, question), SETTINGS, "patient")}
    for score in (SELECTIVITY, CONTROL_TASK):
        assert found[score, ALL].note == f"not estimable: {why}"
        assert np.isnan(found[score, ALL].value)
    # a treatment that is the class asks nothing new; wells of the same place on every plate do
    same = screen.index.assign(Metadata_Treatment=screen.index["label_planted"], Metadata_Well=screen.index["Metadata_Well"])
    assert types_of(Benchmark(screen.folder, screen.card, same), question).column == "well"
    apart = {0: x, 1: x + 1, 2: x}
    found = {(p.score, p.shots): p for p in probed("row", "main", apart, question, types_of(screen, question), SETTINGS, "plate")}
    assert found[CODE_LENGTH, ALL].note.startswith("not estimable: it is fitted anew for every fold")
    assert found[FEW_SHOT, 4].note == found[SELECTIVITY, ALL].note == ""
    one = screen.index.assign(fold=np.where(screen.index["unit"] == "plate-00", 0, -1))
    assert table(Benchmark(screen.folder, screen.card, one), x)[CODE_LENGTH, ALL].note.startswith(
        "not estimable: Expected at least 2 classes and units"
    )
    few = screen.index.assign(fold=np.where(screen.index["unit"] == "plate-00", -1, 0))
    found = table(Benchmark(screen.folder, screen.card, few), x)
    assert found[FEW_SHOT, 8].note == ""
    assert found[FEW_SHOT, 16].note == "not estimable: a class has fewer than 16 training images"


def test_a_constant_knows_nothing(screen: Benchmark) -> None:
    found = table(screen, np.full((len(screen.index), 3), 0.7))
    for key, one in found.items():
        assert (one.value, one.note) == (pytest.approx(one.reference, abs=1e-6), ""), key


def test_many_images_are_thinned_out_where_probes_are_fitted_anew(tmp_path: Path) -> None:
    large = noise_benchmark(tmp_path, units=20, per_unit=120, folds=2)
    x = np.random.default_rng(0).normal(size=(len(large.index), 3))
    question = Question.of(large, large.card.tasks[0])
    found = {(p.score, p.shots): p for p in probed("row", "main", {0: x, 1: x}, question, types_of(large, question), SETTINGS, "plate")}
    assert found[FEW_SHOT, ALL].n_images == 2400
    assert found[CODE_LENGTH, ALL].n_images == MOST


def test_the_evaluate_stage_asks_one_draw_of_every_row_and_leaves_a_random_row_at_chance(tmp_path: Path, screen: Benchmark) -> None:
    nuisance = replace(screen.card.tasks[0], name="where", nuisance=True)
    index = screen.index.assign(label_where=screen.index["label_planted"])
    asked = write_benchmark(tmp_path / "screen", replace(screen.card, tasks=(*screen.card.tasks, nuisance)), index)
    cell = tmp_path / "out" / "cell"
    write_row(cell, asked, "random", {"main": vectors(asked, seed=3)})
    write_row(cell, asked, "twin", {"fresh-00": vectors(asked, seed=4), "fresh-01": vectors(asked, of_class=2)}, fitted=True)
    evaluate_cell(asked, cell, PARAMS, tmp_path / "scores" / "cell")
    found = read_all(tmp_path / "scores")
    assert [(p.row, p.member, p.task) for p in found] == [("random", "main", "planted")] * 9 + [("twin", "fresh-00", "planted")] * 9
    assert [(p.score, p.shots) for p in found[:9]] == EVERY
    for one in found:
        assert one.note == ""
        assert one.value == pytest.approx(one.reference, abs=0.12), one
    evaluate_cell(asked, cell, replace(PARAMS, threads=2), tmp_path / "again" / "cell")
    first, second = ((tmp_path / name / "cell" / "probing.parquet").read_bytes() for name in ("scores", "again"))
    assert first == second
    assert read_all(tmp_path / "nothing") == []

"""Every metric of chosen vectors: what is planted shows in each family, labels drawn anew say nothing, and no embedding hangs on those beside it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pipelines.benchmarks.index import Benchmark, write_benchmark
from pipelines.beside.knowledge import Screen, permuted_screen
from pipelines.beside.wells import wells_of
from pipelines.beyond import controls_together, information_settings
from pipelines.embeddings import Row, read_rows
from pipelines.every_metric import GENES, TREATMENTS, Asked, ByTask, every_metric
from pipelines.metrics.information import beyond_controls
from pipelines.params import EvaluateParams, Params
from pipelines.tasks import Question, fold_features
from registry.arrays import Floats
from tests.pipelines.beside.test_knowledge import PAIRS, screen
from tests.pipelines.beside.test_knowledge import vectors as screen_vectors
from tests.pipelines.noise import noise_benchmark, write_row

PARAMS = Params(seed=0, threads=1, cells={}, compare=[], evaluate=EvaluateParams(max_dim=16, neighbours=5, permutations=1))
BITS, SHARE = "information.beyond_controls_bits", "shortcut.share"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Benchmark, dict[str, Row], dict[str, Floats]]:
    """24 plates whose images have a label, with a strong control of brightness, a weak one of texture, and encoders."""
    root = tmp_path_factory.mktemp("made")
    benchmark = noise_benchmark(root / "data", units=24, per_unit=12, folds=2)
    label = (benchmark.index["label_planted"] == "class-1").to_numpy(float)
    rng = np.random.default_rng(3)

    def vectors(strength: float, dim: int = 6) -> Floats:
        found = rng.normal(size=(len(label), dim))
        found[:, 0] += strength * label
        return found

    bright = vectors(1.5)
    for name, values in (
        ("intensity", bright),
        ("histogram", vectors(0.0)),
        ("texture", vectors(0.3)),
        ("layout", vectors(9.0)),
        ("random", vectors(9.0)),
    ):
        write_row(root / "embeddings" / "controls", benchmark, name, {"main": values})
    embeddings = {"knows": vectors(3.0), "echoes": bright @ rng.normal(size=(6, 6)), "nothing": vectors(0.0)}
    return benchmark, read_rows(root / "embeddings"), embeddings


@pytest.fixture(scope="module")
def found(made: tuple[Benchmark, dict[str, Row], dict[str, Floats]]) -> dict[str, ByTask]:
    benchmark, rows, embeddings = made
    return dict(zip(embeddings, every_metric(list(embeddings.values()), benchmark, Asked.of(benchmark, rows, PARAMS), PARAMS), strict=True))


def test_what_is_planted_shows_in_every_family_and_an_echo_of_the_controls_in_no_bits(found: dict[str, ByTask]) -> None:
    known, echo, nothing = (found[name]["planted"] for name in ("knows", "echoes", "nothing"))
    higher = ("logistic.auroc", "knn.balanced_accuracy", "probing.few_shot_8", BITS)
    for name in higher:
        assert (known[name] or 0) > (nothing[name] or 0) + 0.2, name
    assert (known["probing.code_length"] or 0) < 0.6 < 0.95 < (nothing["probing.code_length"] or 0)
    # layout and random are no part of what bits are beyond: both hold the label
    for one in (echo, nothing):
        # of 144 training images, a penalty that is chosen for nothing costs a little
        assert -0.06 < (one[BITS] or 0) < 0.02
    # brightness reaches an echo of it, falls short of who knows, and who knows nothing has no share
    assert echo[SHARE] == pytest.approx(1.0, abs=0.25)
    assert 0.3 < (known[SHARE] or 0) < 0.9
    assert nothing[SHARE] is None


def test_an_embedding_has_the_same_values_alone(made: tuple[Benchmark, dict[str, Row], dict[str, Floats]], found: dict[str, ByTask]) -> None:
    benchmark, rows, embeddings = made
    asked, done = Asked.of(benchmark, rows, PARAMS), list[int]()
    (alone,) = every_metric([embeddings["echoes"]], benchmark, asked, PARAMS, done.append)
    assert alone == found["echoes"]
    assert done == [1]


def test_bits_are_those_of_the_diagnosis(made: tuple[Benchmark, dict[str, Row], dict[str, Floats]], found: dict[str, ByTask]) -> None:
    benchmark, rows, embeddings = made
    question = Question.of(benchmark, benchmark.card.task("planted"))
    parts = [fold_features(rows[name], "main", benchmark) for name in ("histogram", "intensity", "texture")]
    controls = {fold.number: np.concatenate([part[fold.number] for part in parts], axis=1) for fold in benchmark.folds}
    assert all(np.array_equal(controls[number], each) for number, each in controls_together(benchmark, rows).items())
    labels = question.codes, question.folds, question.units, len(question.classes)
    direct = beyond_controls(controls, embeddings["knows"], {}, *labels, replace(information_settings(PARAMS), random_networks=0))
    assert found["knows"]["planted"][BITS] == direct.encoder.value


def test_labels_that_say_nothing_leave_nothing(made: tuple[Benchmark, dict[str, Row], dict[str, Floats]]) -> None:
    benchmark, rows, embeddings = made
    drawn = Asked.of(benchmark, rows, PARAMS).permuted(PARAMS, 0, 1)
    (values,) = every_metric([embeddings["knows"]], benchmark, drawn, PARAMS)
    planted = values["planted"]
    assert planted["logistic.auroc"] == pytest.approx(0.5, abs=0.15)
    assert abs(planted[BITS] or 0) < 0.05
    assert planted["probing.code_length"] == pytest.approx(1.0, abs=0.1)


def test_without_controls_there_are_no_bits_and_no_share(made: tuple[Benchmark, dict[str, Row], dict[str, Floats]]) -> None:
    benchmark, rows, embeddings = made
    values = {
        names: every_metric([embeddings["knows"]], benchmark, Asked.of(benchmark, {name: rows[name] for name in names}, PARAMS), PARAMS)[0]["planted"]
        for names in ((), ("layout", "random"), ("texture",), ("intensity", "texture"))
    }
    assert {names: (BITS in of, SHARE in of) for names, of in values.items()} == {
        (): (False, False),
        ("layout", "random"): (False, False),
        ("texture",): (True, False),
        ("intensity", "texture"): (True, False),
    }


def test_known_biology_is_asked_and_moves_with_its_treatment(tmp_path: Path) -> None:
    made = screen(tmp_path)
    benchmark = replace(made, index=made.index.assign(fold=made.index["unit"].isin(["p0", "p1"]).astype(int)))
    asked = Asked.of(benchmark, {}, PARAMS)
    (true,) = every_metric([screen_vectors(benchmark, effect=2.0)], benchmark, asked, PARAMS)
    (drawn,) = every_metric([screen_vectors(benchmark, effect=2.0)], benchmark, asked.permuted(PARAMS, 0, 1), PARAMS)
    names = {name for name in true[TREATMENTS] if name.startswith("knowledge.")}
    values = {
        "knowledge.recall of paths, null over genes",
        "knowledge.recall of paths, null over all",
        "knowledge.consistency",
        "knowledge.magnitude",
        "knowledge.targets AP",
        "knowledge.targets AUROC",
        "knowledge.labels of moa",
        "knowledge.labels found of moa",
    }
    elsewhere = {
        f"{name}.elsewhere" for name in values if not name.startswith(("knowledge.labels found", "knowledge.consistency", "knowledge.magnitude"))
    }
    published = {"knowledge.consistency.published", "knowledge.magnitude.published"}
    drops = {name.replace(".elsewhere", ".drop") for name in elsewhere}
    assert names == values | elsewhere | published | drops
    for name in names - drops:
        assert (true[TREATMENTS][name] or 0) > (drawn[TREATMENTS][name] or 0) + 0.2, name
    # of one layout nothing can drop
    assert {true[TREATMENTS][name] for name in drops} == {None, 0.0}
    assert (true[TREATMENTS]["replicates.replicability"] or 0) > 0.5 > abs(drawn[TREATMENTS]["replicates.replicability"] or 0)


def test_everything_known_of_a_well_goes_with_its_treatment(tmp_path: Path) -> None:
    benchmark = screen(tmp_path)
    wells = wells_of(benchmark)
    assert wells is not None
    before = Screen.of(benchmark, wells)
    after = permuted_screen(before, (0, 1))
    assert after is not None

    def facts(of: Screen) -> set[tuple[str, str, frozenset[str]]]:
        return set(zip(of.treatments.tolist(), of.entities.tolist(), of.labels["moa"], strict=True))

    assert facts(after) == facts(before)
    assert (after.treatments != before.treatments).mean() > 0.8
    assert set(after.treatments[after.negatives != ""]) == {"DMSO"}
    assert after.relations == before.relations == {"paths": PAIRS}
    one_each = wells.columns | {"perturbation": wells.columns["plate"]}
    assert permuted_screen(replace(before, wells=replace(wells, columns=one_each)), (0, 1)) is None


def test_genes_are_asked_and_counts_that_say_nothing_leave_none(tmp_path: Path) -> None:
    bare = noise_benchmark(tmp_path / "bare", units=12, per_unit=20, folds=3)
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(len(bare.index), 6))
    counts = pd.DataFrame({"A": rng.poisson(np.exp(1.5 + vectors[:, 0])), "B": rng.poisson(np.exp(1.5 + vectors[:, 1]))}).astype(np.int64)
    benchmark = write_benchmark(tmp_path / "bare", bare.card, bare.index, expression=counts.assign(image_id=bare.index["image_id"]))
    asked = Asked.of(benchmark, {}, PARAMS)
    (true,) = every_metric([vectors], benchmark, asked, PARAMS)
    (drawn,) = every_metric([vectors], benchmark, asked.permuted(PARAMS, 0, 1), PARAMS)
    assert set(true[GENES]) == {"expression.hest_a1", "expression.hest_a2", "expression.hest_cv"}
    # the first protocol needs 256 dimensions
    assert true[GENES]["expression.hest_a1"] is None
    for name in ("expression.hest_a2", "expression.hest_cv"):
        assert (true[GENES][name] or 0) > 0.6, name
        assert abs(drawn[GENES][name] or 0) < 0.2, name

"""Rows whose scores are known beforehand, through the real files of the evaluate stage."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, balanced_accuracy_score

from pipelines.benchmarks.index import Benchmark, write_benchmark
from pipelines.diagnose import _position_control
from pipelines.evaluate import evaluate_cell, evaluate_oracle
from pipelines.metrics.projection import fit_projection
from pipelines.metrics.retrieval import OTHER_WELLS
from pipelines.metrics.ridge import fit_ridge
from pipelines.metrics.statistic import CROSS_FITTED
from pipelines.params import CellParams, EvaluateParams, Params
from pipelines.scores import Scored, read_scores
from registry.bundle import read_arrays
from registry.cards import EncoderCard
from registry.errors import BenchmarkError
from registry.files import read_json
from registry.heads import heads_of
from registry.images import ImageSpec
from tests.pipelines.noise import noise_benchmark, write_row

PARAMS = Params(
    seed=0,
    threads=1,
    cells={"noise--x": CellParams("noise", "x", [], ".")},
    compare=["noise"],
    evaluate=EvaluateParams(max_dim=16, neighbours=5, permutations=50),
)


@pytest.fixture(scope="module")
def benchmark_on_disk(tmp_path_factory: pytest.TempPathFactory) -> Benchmark:
    return noise_benchmark(tmp_path_factory.mktemp("noise"))


def truth(benchmark: Benchmark) -> np.ndarray:
    return (benchmark.index["label_planted"] == "class-1").to_numpy(float)


def scores_of(tmp_path: Path, benchmark: Benchmark, members: dict[str, np.ndarray], fitted: bool = False) -> dict[str, Scored]:
    write_row(tmp_path / "cell", benchmark, "row", members, fitted=fitted)
    evaluate_cell(benchmark, tmp_path / "cell", PARAMS, tmp_path / "scores")
    return {s.metric: s for s in read_scores(tmp_path / "scores")}


def test_a_constant_embedding_is_at_chance_everywhere_and_collapsed(tmp_path: Path, benchmark_on_disk: Benchmark) -> None:
    n = len(benchmark_on_disk.index)
    for name, vectors in (("zero", np.zeros((n, 4))), ("constant", np.full((n, 4), 7.3))):
        for s in scores_of(tmp_path / name, benchmark_on_disk, {"main": vectors}).values():
            assert s.statistic.value == pytest.approx(s.chance, abs=1e-6), s.metric
            assert s.flags == "collapsed low_rank"


def test_without_replicates_in_a_fold_there_is_no_retrieval_and_all_else_is_scored(tmp_path: Path, benchmark_on_disk: Benchmark) -> None:
    """Three donors and three folds: every fold tests one donor."""
    index = benchmark_on_disk.index.copy()
    donor = np.arange(len(index)) % 3
    index["unit"], index["fold"] = [f"donor-{d}" for d in donor], donor
    donors = write_benchmark(tmp_path / "donors", replace(benchmark_on_disk.card, unit="donor"), index)
    found = scores_of(tmp_path, donors, {"main": np.random.default_rng(1).normal(size=(len(index), 4))})
    assert "retrieval.map" not in found
    assert found["logistic.balanced_accuracy"].statistic.n_units == 3


def test_vectors_made_elsewhere_are_retrieved_from_all_of_them(tmp_path: Path, benchmark_on_disk: Benchmark) -> None:
    """Eight classes of three compounds and five folds: folds would tear every class. Unlabelled rows are in no list."""
    rng = np.random.default_rng(3)
    compound = np.repeat(np.arange(27), 4)
    index = benchmark_on_disk.index.iloc[: len(compound)].assign(
        unit=[f"c{c:02d}" for c in compound], fold=compound % 5, label_planted=[f"class-{c // 3}" if c < 24 else None for c in compound]
    )
    card = replace(benchmark_on_disk.card, unit="compound", image=ImageSpec.none())
    screen = write_benchmark(tmp_path / "screen", card, index)
    x = rng.normal(size=(len(compound), 6)) + 1.5 * rng.normal(size=(9, 6))[compound // 3]
    found = scores_of(tmp_path, screen, {"main": x})["retrieval.map"].statistic

    standard = (x - x.mean(axis=0)) / x.std(axis=0)
    labelled = np.flatnonzero(compound < 24)
    scores: dict[int, list[float]] = {}
    for query in labelled:
        others = labelled[compound[labelled] != compound[query]]
        near = others[np.argsort(np.linalg.norm(standard[others] - standard[query], axis=1))]
        mine = compound[query] // 3
        scores.setdefault(mine, []).append(average_precision_score(compound[near] // 3 == mine, -np.arange(len(near))))
    assert found.value == pytest.approx(np.mean([np.mean(ap) for ap in scores.values()]), abs=1e-9)
    assert found.n_units == 24
    assert np.isfinite(found.without).all()
    assert found.n_eff == pytest.approx(24)


def plates_of_one_layout(folder: Path, benchmark: Benchmark, moved: int, wells: int = 24) -> tuple[Benchmark, np.ndarray, np.ndarray]:
    """12 plates with a treatment in each well, the same on all of them but the first `moved`, and what is where: (n,) wells and treatments."""
    rng = np.random.default_rng(8)
    plate, well = np.repeat(np.arange(12), wells), np.tile(np.arange(wells), 12)
    treatment = np.concatenate([rng.permutation(wells) if p < moved else np.arange(wells) for p in range(12)])
    index = benchmark.index.assign(
        unit=[f"p{p:02d}" for p in plate],
        fold=plate % 3,
        label_planted=[f"t{t:02d}" for t in treatment],
        Metadata_Plate=[f"p{p:02d}" for p in plate],
        Metadata_Well=[f"{'AB'[w // 12]}{1 + w % 12:02d}" for w in well],
    )
    # vectors that were made elsewhere are all looked for among each other
    return write_benchmark(folder, replace(benchmark.card, image=ImageSpec.none()), index), well, treatment


def test_what_the_position_alone_tells_is_at_chance_in_other_wells(tmp_path: Path, benchmark_on_disk: Benchmark) -> None:
    rng = np.random.default_rng(9)
    screen, well, treatment = plates_of_one_layout(tmp_path / "screen", benchmark_on_disk, moved=3)
    noise = rng.normal(size=(len(well), 16))
    place = scores_of(tmp_path / "place", screen, {"main": noise + 3 * rng.normal(size=(24, 16))[well]})
    found, control = place["retrieval.map"], place["retrieval.other_wells_map"]
    assert found.statistic.value > control.chance + 0.4
    assert control.statistic.value == pytest.approx(control.chance, abs=0.03)
    assert control.protocol_id == OTHER_WELLS
    assert control.statistic.n_units == 12
    # what the treatment does is found wherever it lies
    effect = scores_of(tmp_path / "effect", screen, {"main": noise + 3 * rng.normal(size=(24, 16))[treatment]})
    assert effect["retrieval.other_wells_map"].statistic.value > 0.9
    # beside the score in the scorecard
    entry = _position_control(found, [control])
    assert (entry["value"], entry["chance"], entry["n_images"]) == (control.statistic.value, control.chance, control.statistic.n_images)
    assert entry["low"] < entry["value"] < entry["high"]


def test_where_the_design_forbids_the_position_control_it_says_why(tmp_path: Path, benchmark_on_disk: Benchmark) -> None:
    screen, well, _ = plates_of_one_layout(tmp_path / "screen", benchmark_on_disk, moved=0)
    x = {"main": np.random.default_rng(9).normal(size=(len(well), 4))}
    found = scores_of(tmp_path / "fixed", screen, x)
    assert "retrieval.other_wells_map" not in found
    why = found["retrieval.map"].no_position_control
    assert why == ("not estimable: all images of a label lie in the same well of every plate, and position and label cannot be told apart")
    entry = _position_control(found["retrieval.map"], [])
    assert (entry["value"], entry["note"], entry["protocol_id"]) == (None, why, OTHER_WELLS)
    placeless = write_benchmark(tmp_path / "placeless", screen.card, screen.index.drop(columns="Metadata_Well"))
    assert scores_of(tmp_path / "none", placeless, x)["retrieval.map"].no_position_control == "not estimable: the index names no wells"


def test_a_random_count_is_at_chance_and_low_rank(tmp_path: Path, benchmark_on_disk: Benchmark) -> None:
    count = np.random.default_rng(1).poisson(20, size=(len(benchmark_on_disk.index), 1))
    found = scores_of(tmp_path, benchmark_on_disk, {"main": count.astype(float)})
    assert found["logistic.balanced_accuracy"].statistic.value == pytest.approx(0.5, abs=0.09)
    assert found["retrieval.map"].statistic.value == pytest.approx(found["retrieval.map"].chance, abs=0.03)
    assert found["retrieval.map"].flags == "low_rank"


def test_a_count_that_carries_the_label_is_above_chance_and_low_rank(tmp_path: Path, benchmark_on_disk: Benchmark) -> None:
    count = np.random.default_rng(1).poisson(20 + 15 * truth(benchmark_on_disk))[:, None]
    found = scores_of(tmp_path, benchmark_on_disk, {"main": count.astype(float)})
    for metric in ("logistic.balanced_accuracy", "ridge.balanced_accuracy", "knn.balanced_accuracy", "logistic.auroc"):
        assert found[metric].statistic.value > 0.9
    assert found["retrieval.map"].statistic.value > found["retrieval.map"].chance + 0.2
    assert found["logistic.auroc"].flags == "low_rank"


def test_labels_planted_in_noise_leave_every_row_and_the_oracle_at_chance(tmp_path: Path, benchmark_on_disk: Benchmark) -> None:
    n = len(benchmark_on_disk.index)
    for i in range(3):
        vectors = np.random.default_rng(i).normal(size=(n, 40))
        write_row(tmp_path / "out" / "cell", benchmark_on_disk, f"row-{i}", {"main": vectors}, fitted=i == 2)
    evaluate_cell(benchmark_on_disk, tmp_path / "out" / "cell", PARAMS, tmp_path / "scores")
    evaluate_oracle(benchmark_on_disk, tmp_path / "out", PARAMS, tmp_path / "oracle")
    for s in [*read_scores(tmp_path / "scores"), *read_scores(tmp_path / "oracle")]:
        if s.metric.endswith(("accuracy", "auroc")):
            # 288 images: a standard error of 0.03
            assert s.statistic.value == pytest.approx(0.5, abs=0.1), (s.row, s.metric)


def test_the_oracle_finds_what_two_rows_hold_together(tmp_path: Path, benchmark_on_disk: Benchmark) -> None:
    rng = np.random.default_rng(5)
    hidden = rng.normal(size=len(benchmark_on_disk.index))
    write_row(tmp_path / "out" / "cell", benchmark_on_disk, "masked", {"main": (truth(benchmark_on_disk) + 3 * hidden)[:, None]})
    write_row(tmp_path / "out" / "cell", benchmark_on_disk, "mask", {"main": hidden[:, None]})
    evaluate_cell(benchmark_on_disk, tmp_path / "out" / "cell", PARAMS, tmp_path / "scores")
    evaluate_oracle(benchmark_on_disk, tmp_path / "out", PARAMS, tmp_path / "oracle")
    alone = [s.statistic.value for s in read_scores(tmp_path / "scores") if s.metric == "logistic.balanced_accuracy"]
    together = [s.statistic.value for s in read_scores(tmp_path / "oracle") if s.metric == "logistic.balanced_accuracy"]
    assert max(alone) < 0.7
    assert together[0] > 0.95


def oracle(tmp_path: Path, benchmark: Benchmark) -> tuple[dict[str, float], dict[str, str]]:
    """Scores of the oracle on the planted task, and what it chose in each fold."""
    evaluate_oracle(benchmark, tmp_path / "out", PARAMS, tmp_path / "oracle")
    card = EncoderCard.from_dict(read_json(tmp_path / "oracle" / "card.json"))
    assert (card.name, card.role) == ("oracle", "positive")
    return {s.metric: s.statistic.value for s in read_scores(tmp_path / "oracle")}, card.training["chosen"]["planted"]


def test_the_oracle_is_no_worse_than_the_best_row_alone(tmp_path: Path, benchmark_on_disk: Benchmark) -> None:
    """One column that solves the task beside rows so wide that a probe on all of them sees little of it."""
    n, rng = len(benchmark_on_disk.index), np.random.default_rng(6)
    write_row(tmp_path / "out" / "cell", benchmark_on_disk, "count", {"main": (truth(benchmark_on_disk) + 0.1 * rng.normal(size=n))[:, None]})
    for i in range(3):
        write_row(tmp_path / "out" / "cell", benchmark_on_disk, f"wide-{i}", {"main": rng.normal(size=(n, 60))})
    evaluate_cell(benchmark_on_disk, tmp_path / "out" / "cell", PARAMS, tmp_path / "scores")
    alone = {s.metric: s.statistic.value for s in read_scores(tmp_path / "scores") if s.row == "count"}
    found, chosen = oracle(tmp_path, benchmark_on_disk)
    assert found == alone
    assert set(chosen.values()) == {"count"}


def test_a_draw_of_a_twin_is_a_candidate_like_any_row(tmp_path: Path, benchmark_on_disk: Benchmark) -> None:
    n, rng = len(benchmark_on_disk.index), np.random.default_rng(7)
    draws = {f"fresh-{i:02d}": rng.normal(size=(n, 4)) + truth(benchmark_on_disk)[:, None] for i in range(2)}
    write_row(tmp_path / "out" / "cell", benchmark_on_disk, "untrained", draws)
    write_row(tmp_path / "out" / "cell", benchmark_on_disk, "noise", {"main": rng.normal(size=(n, 4))})
    assert set(oracle(tmp_path, benchmark_on_disk)[1].values()) == {"untrained/fresh-00"}


def memorised(benchmark: Benchmark, generalises: float) -> np.ndarray:
    """A network that knows its training labels by heart, and of the images of fold 0 as much as `generalises`."""
    rng = np.random.default_rng(8)
    known = np.where(benchmark.folds[0].train, 1.0, generalises)
    return (2 * truth(benchmark) - 1)[:, None] * known[:, None] + 0.05 * rng.normal(size=(len(benchmark.index), 1))


@pytest.fixture(scope="module")
def one_split(tmp_path_factory: pytest.TempPathFactory) -> Benchmark:
    """As a network is trained on: fold 0 is tested, all other units only ever train."""
    made = noise_benchmark(tmp_path_factory.mktemp("split"))
    index = made.index.assign(fold=np.where(made.index["fold"] == 0, 0, -1))
    return write_benchmark(tmp_path_factory.mktemp("split") / "again", made.card, index)


def test_labels_known_by_heart_do_not_win_over_a_row_that_knows(tmp_path: Path, one_split: Benchmark) -> None:
    trained = EncoderCard("supervised", "positive", "trained on the labels", training={"learned": ["label_planted"]})
    write_row(tmp_path / "out" / "cell", one_split, "supervised", {"main": memorised(one_split, 0.0)}, trained)
    honest = truth(one_split)[:, None] + 0.3 * np.random.default_rng(9).normal(size=(len(one_split.index), 1))
    write_row(tmp_path / "out" / "cell", one_split, "honest", {"main": honest})
    found, chosen = oracle(tmp_path, one_split)
    assert chosen == {"0": "honest"}
    assert found["logistic.balanced_accuracy"] > 0.9


def test_a_trained_network_is_the_oracle_where_nothing_else_knows(tmp_path: Path, one_split: Benchmark) -> None:
    trained = EncoderCard("supervised", "positive", "trained on the labels", training={"learned": ["label_planted"]})
    write_row(tmp_path / "out" / "cell", one_split, "supervised", {"main": memorised(one_split, 0.8)}, trained)
    write_row(tmp_path / "out" / "cell", one_split, "noise", {"main": np.random.default_rng(10).normal(size=(len(one_split.index), 6))})
    found, chosen = oracle(tmp_path, one_split)
    assert chosen == {"0": "supervised"}
    assert found["logistic.balanced_accuracy"] > 0.95


def test_the_choice_for_a_fold_does_not_look_at_its_test_images(tmp_path: Path, benchmark_on_disk: Benchmark) -> None:
    """A row that knows the labels of fold 0 only is good for choosing in folds 1 and 2, and must say nothing about fold 0."""
    first = (benchmark_on_disk.index["fold"] == 0).to_numpy()
    rng = np.random.default_rng(11)
    knows_fold_0 = rng.normal(size=len(first)) + np.where(first, 20 * (2 * truth(benchmark_on_disk) - 1), 0.0)
    weak = 0.6 * truth(benchmark_on_disk) + rng.normal(size=len(first))
    write_row(tmp_path / "out" / "cell", benchmark_on_disk, "knows-fold-0", {"main": knows_fold_0[:, None]})
    write_row(tmp_path / "out" / "cell", benchmark_on_disk, "weak", {"main": weak[:, None]})
    assert oracle(tmp_path, benchmark_on_disk)[1]["0"] == "weak"


def test_a_row_that_knows_the_test_labels_of_another_fold_gains_nothing(tmp_path: Path, benchmark_on_disk: Benchmark) -> None:
    """Vectors that hold the labels of training images only: a probe that saw test images would score above chance."""
    index, rng = benchmark_on_disk.index, np.random.default_rng(2)
    leaky = {}
    for fold in benchmark_on_disk.folds:
        values = rng.normal(size=(len(index), 3))
        values[fold.train, 0] += 5 * truth(benchmark_on_disk)[fold.train]
        leaky[fold.number] = values
    write_row(tmp_path / "cell", benchmark_on_disk, "row", {"main": leaky[0]}, fitted=True)
    from pipelines.embeddings import member_file, write_member

    for fold, values in leaky.items():
        path = tmp_path / "cell" / "row" / member_file("main", fold)
        write_member(path, index["image_id"].tolist(), index.filter(like="Metadata_"), values.astype(np.float32))
    evaluate_cell(benchmark_on_disk, tmp_path / "cell", PARAMS, tmp_path / "scores")
    found = {s.metric: s.statistic.value for s in read_scores(tmp_path / "scores")}
    assert found["logistic.balanced_accuracy"] == pytest.approx(0.5, abs=0.1)
    assert found["ridge.balanced_accuracy"] == pytest.approx(0.5, abs=0.1)


def test_the_ridge_probe_is_fitted_to_the_training_images_of_each_fold(tmp_path: Path, benchmark_on_disk: Benchmark) -> None:
    index, label = benchmark_on_disk.index, truth(benchmark_on_disk)
    vectors = np.random.default_rng(12).normal(size=(len(index), 40)) + 0.3 * label[:, None]
    found = scores_of(tmp_path, benchmark_on_disk, {"main": vectors})["ridge.balanced_accuracy"]
    x, units, said = vectors.astype(np.float32).astype(float), index["unit"].to_numpy(str), np.full(len(index), -1)
    for fold in benchmark_on_disk.folds:
        projection = fit_projection(x[fold.train], PARAMS.evaluate.max_dim)
        probe = fit_ridge(projection.transform(x[fold.train]), label[fold.train].astype(int), units[fold.train], 2, PARAMS.evaluate.inner_folds)
        said[fold.test] = probe.predict(projection.transform(x[fold.test]))
    assert found.statistic.value == pytest.approx(balanced_accuracy_score(label, said), abs=1e-12)
    assert found.statistic.value > 0.7
    without = [balanced_accuracy_score(label[units != unit], said[units != unit]) for unit in found.statistic.units]
    assert found.statistic.without == pytest.approx(without, abs=1e-12)


def test_scores_agree_with_the_stored_predictions_and_heads_with_fold_0(tmp_path: Path, benchmark_on_disk: Benchmark) -> None:
    import pandas as pd

    vectors = np.random.default_rng(3).normal(size=(len(benchmark_on_disk.index), 5)) + truth(benchmark_on_disk)[:, None]
    found = scores_of(tmp_path, benchmark_on_disk, {"main": vectors})
    table = pd.read_parquet(tmp_path / "scores" / "predictions.parquet")
    mine = table[table["probe"] == "logistic"]
    assert found["logistic.balanced_accuracy"].statistic.value == pytest.approx(balanced_accuracy_score(mine["label"], mine["predicted"]))
    heads = read_arrays(tmp_path / "scores" / "heads.npz")
    head = heads_of({name.removeprefix("row/main/"): array for name, array in heads.items()})["planted"]
    first = mine[mine["fold"] == 0].set_index("image_id")
    rows = benchmark_on_disk.index["image_id"].isin(first.index).to_numpy()
    again = head.predict_proba(vectors.astype(np.float32)[rows])
    expected = np.stack(first.loc[benchmark_on_disk.index["image_id"][rows]]["probabilities"].tolist())
    np.testing.assert_allclose(again, expected, atol=1e-6)


def test_statistics_come_back_as_they_were_written(tmp_path: Path, benchmark_on_disk: Benchmark) -> None:
    vectors = np.random.default_rng(4).normal(size=(len(benchmark_on_disk.index), 5))
    found = scores_of(tmp_path, benchmark_on_disk, {"fresh-00": vectors, "fresh-01": vectors[:, ::-1]})
    s = found["logistic.balanced_accuracy"]
    assert s.member == "fresh-01"
    assert s.statistic.units == tuple(sorted(benchmark_on_disk.index["unit"].unique()))
    assert s.statistic.share.sum() == pytest.approx(1)


def test_scores_of_what_is_trained_are_inflated(tmp_path: Path, benchmark_on_disk: Benchmark, one_split: Benchmark) -> None:
    units = one_split.index.groupby("fold")["unit"].nunique()
    for benchmark, expected in ((benchmark_on_disk, CROSS_FITTED), (one_split, 1 + units[0] / units[-1] / 4)):
        vectors = np.random.default_rng(4).normal(size=(len(benchmark.index), 5))
        found = scores_of(tmp_path / str(expected), benchmark, {"main": vectors})
        trained = {metric for metric in found if not metric.startswith("retrieval.")}
        assert trained >= {
            "logistic.balanced_accuracy",
            "logistic.auroc",
            "knn.balanced_accuracy",
            "ridge.balanced_accuracy",
            "simpleshot.balanced_accuracy",
        }
        assert {found[metric].statistic.inflation for metric in trained} == {expected}
        assert {found[metric].statistic.inflation for metric in set(found) - trained} == {1.0}


def test_two_workers_give_the_bytes_of_one(tmp_path: Path, benchmark_on_disk: Benchmark) -> None:
    from dataclasses import replace

    for i in range(2):
        write_row(
            tmp_path / "cell", benchmark_on_disk, f"row-{i}", {"main": np.random.default_rng(i).normal(size=(len(benchmark_on_disk.index), 20))}
        )
    for workers in (1, 2):
        evaluate_cell(benchmark_on_disk, tmp_path / "cell", replace(PARAMS, threads=workers), tmp_path / str(workers))
        evaluate_oracle(benchmark_on_disk, tmp_path, replace(PARAMS, threads=workers), tmp_path / f"oracle-{workers}")
    for name in ("scores.parquet", "jackknife.parquet", "predictions.parquet", "heads.npz"):
        assert (tmp_path / "1" / name).read_bytes() == (tmp_path / "2" / name).read_bytes(), name
    for name in ("scores.parquet", "predictions.parquet", "heads.npz", "card.json"):
        assert (tmp_path / "oracle-1" / name).read_bytes() == (tmp_path / "oracle-2" / name).read_bytes(), name


def test_a_cell_that_was_not_extracted_is_refused(tmp_path: Path, benchmark_on_disk: Benchmark) -> None:
    with pytest.raises(BenchmarkError, match="holds no rows"):
        evaluate_cell(benchmark_on_disk, tmp_path, PARAMS, tmp_path / "scores")

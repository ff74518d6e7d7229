"""From vectors whose worth is known to verdicts and scorecards, through the real files of evaluate, oracle and diagnose."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipelines.benchmarks.index import Benchmark
from pipelines.board import read_board
from pipelines.diagnose import diagnose, kept_of
from pipelines.evaluate import evaluate_cell, evaluate_oracle
from pipelines.params import CellParams, DiagnoseParams, EvaluateParams, Params
from pipelines.scores import read_scores
from pipelines.sensitivity import at_common_dim
from pipelines.workspace import Workspace
from registry.cards import EncoderCard
from registry.errors import NotFoundError
from registry.evidence import Scorecard
from registry.files import read_json
from tests.pipelines.noise import noise_benchmark, write_row

PARAMS = Params(
    seed=0,
    threads=1,
    cells={"noise--x": CellParams("noise", "x", [], ".")},
    compare=["noise"],
    evaluate=EvaluateParams(max_dim=16, neighbours=5, permutations=20),
    diagnose=DiagnoseParams(beyond=True),
)
TWIN = EncoderCard("untrained-net", "twin", "fresh weights", architecture="cnn:small", weights="random")


def encoder(name: str, twins: tuple[str, ...] = ("untrained-net",)) -> EncoderCard:
    return EncoderCard(name, "encoder", "on trial", architecture="cnn:small", weights="trained here", twins=twins)


def run(root: Path, units: int = 24, signal: float = 1.5, control: float = 0.4) -> tuple[Workspace, Benchmark]:
    """An encoder that holds the label, one that is another draw of its twins, a weak control, and noise."""
    workspace = Workspace(root)
    benchmark = noise_benchmark(workspace.data("noise"), units=units, per_unit=20, folds=2)
    label = (benchmark.index["label_planted"] == "class-1").to_numpy(float)
    rng = np.random.default_rng(7)

    def vectors(strength: float) -> np.ndarray:
        noise = rng.normal(size=(len(label), 8))
        noise[:, 0] += strength * label
        return noise

    cells = workspace.embeddings("noise")
    write_row(cells / "good", benchmark, "good", {"main": vectors(signal)}, encoder("good"))
    write_row(cells / "drawn", benchmark, "drawn", {"main": vectors(0.2)}, encoder("drawn"))
    write_row(cells / "twins", benchmark, "untrained-net", {f"fresh-{i:02d}": vectors(0.2) for i in range(10)}, TWIN)
    write_row(cells / "controls", benchmark, "intensity", {"main": vectors(control)})
    write_row(cells / "controls", benchmark, "random", {"main": vectors(0.0)})
    for cell in ("good", "drawn", "twins", "controls"):
        evaluate_cell(benchmark, cells / cell, PARAMS, workspace.scores("noise") / cell)
    evaluate_oracle(benchmark, cells, PARAMS, workspace.oracle("noise"))
    return workspace, benchmark


def card_of(workspace: Workspace, row: str) -> Scorecard:
    return Scorecard.from_dict(read_json(workspace.verdicts("noise") / f"{row}.scorecard.json"))


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    workspace, _ = run(tmp_path_factory.mktemp("judged"))
    diagnose(workspace, PARAMS, "noise")
    return workspace


def test_a_planted_effect_is_found(judged: Workspace) -> None:
    (task,) = card_of(judged, "good").tasks
    assert task.word == "beats"
    assert task.twin_word == "beats"
    assert task.p_holm is not None
    assert task.p_holm <= 0.025
    assert {c.control for c in task.comparisons} == {"untrained-net/fresh", "intensity", "random", "oracle"}
    assert "good beats its" in task.sentence


def test_one_more_draw_of_the_twins_does_not_beat_them(judged: Workspace) -> None:
    (task,) = card_of(judged, "drawn").tasks
    assert task.word != "beats"
    assert task.twin_word in ("undecided", "equivalent")


def test_what_is_beyond_the_controls_is_told_from_what_is_not(judged: Workspace) -> None:
    good, drawn = card_of(judged, "good").tasks[0].beyond, card_of(judged, "drawn").tasks[0].beyond
    assert good["word"] == "beats"
    assert good["bits"] > 0.1
    assert drawn["word"] != "beats"
    assert abs(drawn["bits"]) < 0.03
    assert good["sentence"].startswith("on `planted`, good adds 0.")


def test_every_row_has_a_scorecard_and_the_oracle_is_aside(judged: Workspace) -> None:
    for row in ("good", "drawn", "untrained-net", "intensity", "random", "oracle"):
        assert card_of(judged, row).scores
    roles = {c.control: c.role for c in card_of(judged, "good").tasks[0].comparisons}
    assert roles == {"untrained-net/fresh": "twin", "intensity": "negative", "random": "negative", "oracle": "aside"}
    fresh = [s for s in card_of(judged, "untrained-net").scores if s.metric == "logistic.balanced_accuracy"]
    assert [(s.variant, s.members) for s in fresh] == [("fresh", 10)]


def test_diagnosing_again_gives_the_same_bytes(judged: Workspace) -> None:
    before = {p.name: p.read_bytes() for p in judged.verdicts("noise").iterdir()}
    diagnose(judged, replace(PARAMS, threads=2), "noise")
    assert {p.name: p.read_bytes() for p in judged.verdicts("noise").iterdir()} == before


def test_rows_that_are_small_enough_keep_their_scores_at_the_common_dimension(judged: Workspace) -> None:
    card = card_of(judged, "good")
    (task,) = card.tasks
    assert task.at_common_dim is not None
    assert (task.at_common_dim.word, task.at_common_dim.value, task.at_common_dim.refitted) == (task.word, task.value, [])
    assert task.detail.endswith("No row compared here has more than 16 components, so the verdict is the same at that size.")
    primary = [s for s in card.scores if s.primary]
    assert [(s.metric, s.value, s.low) for s in card.at_common_dim] == [(s.metric, s.value, s.low) for s in primary]
    assert card_of(judged, "untrained-net").at_common_dim[0].members == 10
    assert card_of(judged, "oracle").at_common_dim == []


def test_scores_at_a_common_dimension_are_those_of_an_evaluation_at_that_dimension(tmp_path: Path) -> None:
    workspace, benchmark = run(tmp_path, units=12)
    board, params = read_board(workspace, "noise"), replace(PARAMS, diagnose=DiagnoseParams(common_dim=3))
    narrow = at_common_dim(board, params, kept_of(board, params, workspace.verdicts("noise")))
    assert narrow.refitted == {(row, "planted") for row in ("good", "drawn", "untrained-net", "intensity", "random")}
    small = replace(PARAMS, evaluate=replace(PARAMS.evaluate, max_dim=3))
    for cell in ("good", "twins"):
        evaluate_cell(benchmark, workspace.embeddings("noise") / cell, small, tmp_path / "small" / cell)
        for wanted in read_scores(tmp_path / "small" / cell):
            if wanted.metric == "logistic.balanced_accuracy":
                (found,) = [s for s in narrow.board.scored if (s.row, s.member, s.metric) == (wanted.row, wanted.member, wanted.metric)]
                assert (found.statistic.value, found.protocol_id) == (wanted.statistic.value, wanted.protocol_id)
                assert (found.statistic.without == wanted.statistic.without).all()


def test_a_verdict_that_hangs_on_a_small_component_is_said_to(tmp_path: Path) -> None:
    """Twelve factors, each in three columns, and the label in a column of its own: the first twelve components leave it out."""
    workspace, benchmark = run(tmp_path)
    rng = np.random.default_rng(3)
    label = (benchmark.index["label_planted"] == "class-1").to_numpy(float)
    factors = np.repeat(rng.normal(size=(len(label), 12)), 3, axis=1) + 0.1 * rng.normal(size=(len(label), 36))
    vectors = np.column_stack([factors, 2 * label + rng.normal(size=len(label))])
    write_row(workspace.embeddings("noise") / "good", benchmark, "good", {"main": vectors}, encoder("good"))
    params = replace(PARAMS, evaluate=replace(PARAMS.evaluate, max_dim=64), diagnose=DiagnoseParams(common_dim=12, beyond=False))
    evaluate_cell(benchmark, workspace.embeddings("noise") / "good", params, workspace.scores("noise") / "good")
    diagnose(workspace, params, "noise")
    (task,) = card_of(workspace, "good").tasks
    again = task.at_common_dim
    assert again is not None
    assert (task.word, again.dim, again.refitted) == ("beats", 12, ["good"])
    assert again.word != "beats"
    assert again.value < 0.6 < 0.7 < task.value
    assert f"The verdict is `{again.word}` with at most 12 principal components of every row" in task.detail
    (entry,) = card_of(workspace, "good").at_common_dim
    assert entry.value == again.value
    assert "pca12" in entry.protocol_id


def test_too_few_units_show_values_and_no_interval(tmp_path: Path) -> None:
    workspace, _ = run(tmp_path, units=4)
    diagnose(workspace, PARAMS, "noise")
    (task,) = card_of(workspace, "good").tasks
    assert task.word == task.beyond["word"] == "not assessable"
    assert task.low is None
    assert task.beyond["bits"] is None
    assert task.beyond["sentence"].endswith("good adds to its controls is not assessable: 4 plates, at least 10 are needed")
    assert set(task.per_unit) == {f"plate-{i:02d}" for i in range(4)}


def test_calibration_error_has_no_interval_and_other_scores_have(judged: Workspace) -> None:
    cards = [card_of(judged, row) for row in ("good", "untrained-net")]
    bounds = [(s.low is None, s.high is None) for card in cards for s in card.scores if s.metric == "logistic.calibration_error"]
    assert bounds == [(True, True)] * 2  # of one draw, and of ten
    (good,) = [s for s in cards[0].scores if s.metric == "logistic.calibration_error"]
    assert 0 < good.value < 1
    assert not [s.metric for card in cards for s in card.scores if s.low is None and s.metric != "logistic.calibration_error"]


def test_twins_that_were_not_extracted_are_named(tmp_path: Path) -> None:
    workspace, benchmark = run(tmp_path, units=4)
    cells = workspace.embeddings("noise")
    write_row(cells / "alone", benchmark, "alone", {"main": np.zeros((len(benchmark.index), 2))}, encoder("alone", ("untrained-other",)))
    evaluate_cell(benchmark, cells / "alone", PARAMS, workspace.scores("noise") / "alone")
    with pytest.raises(NotFoundError, match="twins of `alone` `untrained-other`"):
        diagnose(workspace, PARAMS, "noise")

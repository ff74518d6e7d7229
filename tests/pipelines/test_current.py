"""What the real stages record is what a workspace would compute now, until one thing changes; then exactly that is said."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import pandas as pd
import pytest
import yaml
from safetensors.torch import save_file

from pipelines.benchmarks.index import Benchmark
from pipelines.beside import replicates
from pipelines.current import Judge
from pipelines.diagnose import diagnose
from pipelines.evaluate import evaluate_cell, evaluate_oracle
from pipelines.extract import extract_cell
from pipelines.metrics import few_shot, retrieval
from pipelines.params import CellParams, DiagnoseParams, EncoderParams, EvaluateParams, ExtractParams, Params
from pipelines.rescore import plan
from pipelines.study import asdict_without_none
from pipelines.workspace import Workspace
from registry.encoders.architecture import Architecture
from registry.encoders.weights import fresh_backbone
from registry.evidence import Scorecard
from registry.files import read_json, write_json
from registry.staleness import Reason, installed
from tests.pipelines.folder import write_images

CARD = EncoderParams("net", "drawn fresh", "cnn:small", "file:weights.safetensors", twins=["untrained-cnn-small"])
TWIN = replace(CARD, name="untrained-cnn-small", role="twin", weights="random", twins=[])
CELLS = (
    CellParams("tiny", "controls", ["intensity", "layout", "random", "composition"], "registry/controls"),
    CellParams("tiny", "untrained", ["untrained-cnn-small"], "registry/encoders", TWIN),
    CellParams("tiny", "net", ["net"], "weights.safetensors", CARD),
)
PARAMS = Params(
    seed=0,
    threads=1,
    cells={f"tiny--{cell.cell}": cell for cell in CELLS},
    compare=["tiny"],
    extract=ExtractParams(device="cpu", twin_seeds=2),
    evaluate=EvaluateParams(max_dim=16, neighbours=5, permutations=20),
    diagnose=DiagnoseParams(common_dim=8),
)
ROWS = {"composition", "intensity", "layout", "net", "oracle", "random", "untrained-cnn-small"}


def run_flow(workspace: Workspace, params: Params) -> None:
    """From images to scorecards."""
    benchmark = Benchmark.read(workspace.data("tiny"))
    for cell in params.cells_of("tiny"):
        extract_cell(benchmark, cell, params, workspace)
        evaluate_cell(benchmark, workspace.embeddings("tiny") / cell.cell, params, workspace.scores("tiny") / cell.cell)
    evaluate_oracle(benchmark, workspace.embeddings("tiny"), params, workspace.oracle("tiny"))
    diagnose(workspace, params, "tiny")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    workspace = Workspace(tmp_path_factory.mktemp("made"))
    write_images(workspace.data("tiny"), plates=24, wells=4)
    save_file(fresh_backbone(Architecture.parse("cnn:small"), 2, 3).state_dict(), workspace.root / "weights.safetensors")
    write_params(workspace, PARAMS)
    run_flow(workspace, PARAMS)
    return workspace


def write_params(workspace: Workspace, params: Params) -> None:
    (workspace.root / "params.yaml").write_text(yaml.safe_dump(asdict_without_none(params)))


@pytest.fixture
def workspace(made: Workspace, tmp_path: Path) -> Workspace:
    shutil.copytree(made.root, tmp_path / "workspace")
    return Workspace(tmp_path / "workspace")


def stale(workspace: Workspace) -> dict[str, tuple[Reason, ...]]:
    """Reasons by row, as a fresh process would find them."""
    judge = Judge(workspace.root)
    cards = judge.cards("tiny")
    found = {row: judge(card, cards.get(row, "")) for row, card in judge.scorecards("tiny").items()}
    assert set(found) == ROWS
    assert not any(each.unchecked for each in found.values())
    return {row: each.reasons for row, each in found.items() if each.stale}


def test_nothing_is_stale_after_the_flow(workspace: Workspace) -> None:
    assert stale(workspace) == {}
    cards = Judge(workspace.root).scorecards("tiny")
    # what is compared is there: every kind of score, the run at a common dimension, bits beyond the controls
    assert {e.metric.partition(".")[0] for e in cards["net"].scores} == {"logistic", "knn", "ridge", "simpleshot", "retrieval"}
    assert cards["net"].at_common_dim
    assert cards["net"].tasks[0].beyond["protocol_id"]
    assert cards["net"].tasks[0].shortcut["protocol_id"]


def test_each_step_records_the_libraries_it_used(workspace: Workspace) -> None:
    cards, now = Judge(workspace.root).scorecards("tiny"), installed()
    scores = {name: now[name] for name in ("numpy", "scikit-learn", "scipy")}
    assert cards["net"].provenance["made_by"] == {
        "vectors": {name: now[name] for name in ("imagecodecs", "numpy", "pillow", "tifffile", "torch")},
        "scores": scores,
    }
    assert cards["random"].provenance["made_by"]["vectors"]["scikit-image"] == now["scikit-image"]
    assert cards["net"].provenance["compared_with"]["scikit-image"] == [now["scikit-image"]]
    assert "compared_with" not in cards["random"].provenance
    assert cards["oracle"].provenance["made_by"] == {"vectors": {}, "scores": scores}
    assert cards["oracle"].provenance["compared_with"]["torch"] == [now["torch"]]


def test_another_index_makes_every_row_of_that_benchmark_stale(workspace: Workspace) -> None:
    path = workspace.data("tiny") / "index.parquet"
    index = pd.read_parquet(path)
    index.loc[0, "label_bright"] = {"dim": "bright", "bright": "dim"}[index.loc[0, "label_bright"]]
    index.to_parquet(path, index=False)
    found = stale(workspace)
    assert set(found) == ROWS
    assert {(reason.cause, reason.step) for reasons in found.values() for reason in reasons} == {("data", "train")}


def test_another_benchmark_card_counts_though_the_index_is_the_same(workspace: Workspace) -> None:
    path = workspace.data("tiny") / "card.json"
    write_json(path, {**read_json(path), "title": "Another"})
    assert {(r.cause, r.step) for reasons in stale(workspace).values() for r in reasons} == {("data", "extract")}


def test_another_rule_of_what_is_asked_beside_the_tasks_evaluates_again_the_rows_that_were_asked(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replicates, "PROTOCOL", "replicates:v99")
    found = stale(workspace)
    # one has no vectors, and the positive control is another row for each task
    assert set(found) == ROWS - {"composition", "oracle"}
    assert {(r.cause, r.step, r.sentence.partition(" now,")[0]) for reasons in found.values() for r in reasons} == {
        ("protocol", "evaluate", "`replicates` follows `replicates:v99`")
    }
    # neither extraction nor the positive control
    assert plan(Judge(workspace.root), "tiny") == [*sorted(f"evaluate@tiny--{cell.cell}" for cell in CELLS), "diagnose@tiny", "package@tiny"]


@pytest.mark.parametrize(("module", "prefix"), [(retrieval, "`retrieval."), (few_shot, "`simpleshot.")])
def test_another_protocol_is_said_of_its_scores_alone(workspace: Workspace, monkeypatch: pytest.MonkeyPatch, module: object, prefix: str) -> None:
    monkeypatch.setattr(module, "PROTOCOL", "another/v9")
    found = stale(workspace)
    assert set(found) == ROWS - {"composition"}  # it does not apply, so it has no scores
    for reasons in found.values():
        (reason,) = reasons
        assert (reason.cause, reason.step) == ("protocol", "evaluate")
        assert reason.sentence.startswith(prefix)
        assert "follows `another/v9` now" in reason.sentence


def test_another_rule_of_the_position_control_is_said_beside_its_score(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = next(e for e in Judge(workspace.root).scorecards("tiny")["net"].scores if (e.task, e.metric) == ("bright", "retrieval.map"))
    assert entry.other_wells["n_images"] > 0
    assert entry.other_wells["low"] < entry.other_wells["value"] < entry.other_wells["high"]
    monkeypatch.setattr(retrieval, "OTHER_WELLS", "another/v9")
    found = stale(workspace)
    assert set(found) == ROWS - {"composition"}
    assert {(r.cause, r.step, r.sentence.partition(" now,")[0]) for reasons in found.values() for r in reasons} == {
        ("protocol", "evaluate", "`retrieval.map in other wells` follows `another/v9`")
    }


def test_only_the_row_with_a_score_of_another_protocol_is_stale(workspace: Workspace) -> None:
    path = workspace.verdicts("tiny") / "intensity.scorecard.json"
    path.write_text(path.read_text().replace(retrieval.PROTOCOL, "retrieval/old/v0"))
    assert set(stale(workspace)) == {"intensity"}


def test_a_library_that_changed_is_said_of_the_rows_it_made_and_of_what_is_compared_with_them(workspace: Workspace) -> None:
    """Vectors of one cell were made before an upgrade; all that came after was done again since."""
    manifest = workspace.embeddings("tiny") / "controls" / "random" / "manifest.json"
    written = read_json(manifest)
    write_json(manifest, {**written, "versions": {**written["versions"], "scikit-image": "0.0.1"}})
    benchmark = Benchmark.read(workspace.data("tiny"))
    evaluate_cell(benchmark, workspace.embeddings("tiny") / "controls", PARAMS, workspace.scores("tiny") / "controls")
    evaluate_oracle(benchmark, workspace.embeddings("tiny"), PARAMS, workspace.oracle("tiny"))
    diagnose(workspace, replace(PARAMS, diagnose=replace(PARAMS.diagnose, beyond=False)), "tiny")
    write_params(workspace, replace(PARAMS, diagnose=replace(PARAMS.diagnose, beyond=False)))
    # `random` is no candidate of the oracle
    found = stale(workspace)
    assert {row: reasons[0].step for row, reasons in found.items()} == {"random": "extract", "net": "diagnose"}
    assert found["random"][0].sentence.startswith("its vectors were made with scikit-image 0.0.1 (")
    assert found["net"][0].sentence.startswith("rows it is made from or compared with were made with scikit-image 0.0.1 (")


def test_parameters_and_cards_count(workspace: Workspace) -> None:
    write_params(workspace, replace(PARAMS, diagnose=replace(PARAMS.diagnose, margin=0.05)))
    assert {r.sentence for reasons in stale(workspace).values() for r in reasons} == {"`diagnose.margin` is 0.05 now, it was 0.02"}
    changed = replace(PARAMS, cells={**PARAMS.cells, "tiny--net": replace(CELLS[2], card=replace(CARD, input_px=8))})
    write_params(workspace, changed)
    assert {row: reasons[0].cause for row, reasons in stale(workspace).items()} == {"net": "card"}
    # probes of another width are another protocol, which says it once
    write_params(workspace, replace(PARAMS, evaluate=replace(PARAMS.evaluate, max_dim=12)))
    assert {r.cause for reasons in stale(workspace).values() for r in reasons} == {"protocol", "settings"}
    assert all(r.cause == "protocol" for r in stale(workspace)["net"])


def test_what_the_workspace_does_not_hold_is_not_judged(workspace: Workspace, tmp_path: Path) -> None:
    card = Judge(workspace.root).scorecards("tiny")["net"]
    elsewhere = replace(card, benchmark="other", data_hash="0" * 64)
    assert Judge(workspace.root)(elsewhere).unchecked == "`other` is not in this workspace"
    assert Judge(tmp_path)(card).unchecked == "this folder is no workspace"
    shutil.rmtree(workspace.data("tiny"))
    assert not Judge(workspace.root)(card).stale


def test_scorecards_of_before_are_still_read(workspace: Workspace) -> None:
    card = Judge(workspace.root).scorecards("tiny")["net"]
    old = {key: value for key, value in card.provenance.items() if key not in ("made_by", "compared_with", "benchmark_card")}
    assert not Judge(workspace.root)(Scorecard.from_dict(json.loads(json.dumps({**asdict(card), "provenance": old})))).stale

"""Answers beside the tasks carry the ids of their rules into scorecards: a rule that is counted up makes the rows stale that were asked by it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pipelines.beside import confounding, expression, knowledge, probing, replicates
from pipelines.beside.protocols import asked_of, current, recorded
from pipelines.beside.wells import wells_of
from pipelines.metrics import expression as genes
from pipelines.metrics.probes import ProbeSettings
from pipelines.params import EvaluateParams
from pipelines.scores import Confound, write_confounds
from pipelines.tasks import Question
from registry.evidence import Scorecard
from registry.staleness import Current, staleness
from tests.pipelines.beside.test_expression import ask, spots
from tests.pipelines.beside.test_knowledge import screen
from tests.pipelines.noise import noise_benchmark
from tests.registry.scorecards import scorecard

ROWS = {
    "seen": {"replicates", "knowledge", "confounds", "probing"},
    "refitted": {"replicates", "knowledge"},
    "tissue": {"hest_a1", "hest_a2", "hest_cv"},
    "oracle": set(),
}


@pytest.fixture(scope="module")
def scorecards(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Scorecard]:
    """Of a row that was asked about a screen, one that is refused there, one that was asked about genes, and one that nothing was asked of."""
    root = tmp_path_factory.mktemp("asked")
    benchmark = screen(root / "screen")
    wells = wells_of(benchmark)
    assert wells is not None
    about = knowledge.Screen.of(benchmark, wells)
    x = np.random.default_rng(0).normal(size=(len(benchmark.index), 6))
    for cell, row in enumerate(("seen", "refitted")):
        refused = row == "refitted"
        asked = replicates.not_asked(row, "why") if refused else replicates.replicates(row, x, wells, permutations=3)
        known = knowledge.not_asked(row, about, "why") if refused else knowledge.knowledge(row, x, about, permutations=3)
        (root / "scores" / f"cell-{cell}").mkdir(parents=True)
        replicates.write(root / "scores" / f"cell-{cell}", asked)
        knowledge.write(root / "scores" / f"cell-{cell}", known)
    noise = noise_benchmark(root / "noise")
    settings, question = ProbeSettings(max_dim=6, neighbours=5), Question.of(noise, noise.card.tasks[0])
    x = np.random.default_rng(1).normal(size=(len(noise.index), 6))
    write_confounds(root / "scores" / "cell-0", confounding.confounds_of("seen", "main", x, confounding.Design.of(noise, 0), settings))
    types = probing.types_of(noise, question)
    probing.write(root / "scores" / "cell-0", probing.probed("seen", "main", {f.number: x for f in noise.folds}, question, types, settings, "plate"))
    answer = ask(*spots())
    # four dimensions are too few for one of the protocols: its rule is recorded all the same
    assert [one.note.partition(":")[0] for one in answer.scores] == ["not estimable", "", ""]
    expression.write(root / "scores" / "cell-0", [replace(answer, scores=[replace(one, row="tissue") for one in answer.scores])])
    assert asked_of(root / "screen") == ("confounds", "probing")
    found = recorded(root / "scores")
    return {row: replace(scorecard(row, role="positive" if row == "oracle" else "encoder"), beside=found.get(row, {})) for row in ROWS}


def stale(scorecards: dict[str, Scorecard]) -> dict[str, list[str]]:
    """What is said of each row, as if nothing but these protocols were known."""
    now = current(EvaluateParams())
    found = {}
    for row, card in scorecards.items():
        bare = replace(card, scores=[], tasks=[], at_common_dim=[], not_applicable="nothing but what stands beside")
        reasons = staleness(bare, Current(data_hash=card.data_hash, beside=now)).reasons
        assert all((reason.cause, reason.step) == ("protocol", "evaluate") for reason in reasons)
        if reasons:
            found[row] = [reason.sentence for reason in reasons]
    return found


def test_answers_of_now_are_not_stale(scorecards: dict[str, Scorecard]) -> None:
    assert {row: set(card.beside or {}) for row, card in scorecards.items()} == ROWS
    refitted = scorecards["refitted"].beside or {}
    assert refitted == {asked: ids for asked, ids in (scorecards["seen"].beside or {}).items() if asked in ROWS["refitted"]}
    assert stale(scorecards) == {}
    again = {row: Scorecard.from_dict(card.as_dict()) for row, card in scorecards.items()}
    assert again == scorecards


COUNTED_UP: dict[str, tuple[Callable[[pytest.MonkeyPatch], None], set[str], list[str]]] = {
    "replicates": (lambda patch: patch.setattr(replicates, "PROTOCOL", "replicates:v99"), {"seen", "refitted"}, ["replicates"]),
    "knowledge": (lambda patch: patch.setattr(knowledge, "PROTOCOL", "knowledge:v99"), {"seen", "refitted"}, ["knowledge"]),
    "confounds": (lambda patch: patch.setattr(confounding, "PROTOCOL", "confounds:v99"), {"seen"}, ["confounds"]),
    "probing": (lambda patch: patch.setattr(probing, "PROTOCOL", "probing:v99"), {"seen"}, ["probing"]),
    "hest_a1": (lambda patch: patch.setattr(genes, "COMPONENTS", 128), {"tissue"}, ["hest_a1"]),
    "hest_cv": (lambda patch: patch.setattr(genes, "GRID", genes.GRID[:-1]), {"tissue"}, ["hest_cv"]),
}


@pytest.mark.parametrize("protocol", COUNTED_UP)
def test_a_rule_that_is_counted_up_is_said_of_the_rows_that_were_asked_by_it(
    scorecards: dict[str, Scorecard], monkeypatch: pytest.MonkeyPatch, protocol: str
) -> None:
    count_up, rows, asked = COUNTED_UP[protocol]
    count_up(monkeypatch)
    found = stale(scorecards)
    assert set(found) == rows
    assert all([sentence.split("`")[1] for sentence in sentences] == asked for sentences in found.values())
    assert all(" now, it followed `" in sentence for sentences in found.values() for sentence in sentences)


def test_a_table_of_before_such_answers_named_their_rule_is_of_an_unknown_one(tmp_path: Path) -> None:
    lines = [Confound("row", "main", "kBET", "plate", 0.5, 0.4, 0.6, 0.9, 20, "")]
    write_confounds(tmp_path / "cell", lines)
    path = tmp_path / "cell" / "confounds.parquet"
    pd.read_parquet(path).drop(columns="protocol_id").to_parquet(path)
    card = replace(scorecard("row"), scores=[], tasks=[], not_applicable="nothing but what stands beside", beside=recorded(tmp_path)["row"])
    (reason,) = staleness(card, Current(data_hash=card.data_hash, beside=current(EvaluateParams()))).reasons
    assert reason.sentence == f"`confounds` follows `{confounding.PROTOCOL}` now, it followed `unversioned`"


def test_a_question_that_is_not_asked_any_more_is_said(scorecards: dict[str, Scorecard]) -> None:
    now = {asked: ids for asked, ids in current(EvaluateParams()).items() if asked != "replicates"}
    seen = replace(scorecards["seen"], scores=[], tasks=[], not_applicable="nothing but what stands beside")
    (reason,) = staleness(seen, Current(data_hash=seen.data_hash, beside=now)).reasons
    assert reason.sentence == f"`replicates` is not asked any more, it followed `{replicates.PROTOCOL}`"


def test_evidence_that_records_no_rules_is_stale_where_something_is_asked() -> None:
    old = Scorecard.from_dict({key: value for key, value in scorecard().as_dict().items() if key != "beside"})
    bare = replace(old, scores=[], tasks=[], provenance={"versions": {"mlflow": "1"}})
    asks = Current(data_hash=old.data_hash, asked=("confounds", "probing"))
    (reason,) = staleness(bare, asks).reasons
    assert (reason.cause, reason.step) == ("protocol", "evaluate")
    assert reason.sentence == "which protocols its answers beside the tasks follow was not recorded"
    (reason,) = staleness(replace(bare, beside={}), asks).reasons
    assert reason.sentence == "which protocol `confounds` and `probing` follow was not recorded"
    (reason,) = staleness(replace(bare, beside={"confounds": ["c1"]}), replace(asks, beside={"confounds": ("c1",)})).reasons
    assert reason.sentence == "which protocol `probing` follows was not recorded"
    assert not staleness(replace(bare, beside={}), replace(asks, asked=())).stale
    # nothing is asked of these
    assert not staleness(replace(bare, role="positive"), asks).stale
    assert not staleness(replace(bare, not_applicable="it has no vectors"), asks).stale

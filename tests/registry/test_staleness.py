"""What is stale, in words: each cause alone, and nothing where nothing changed; the gate, the tags and the alias follow."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from registry.errors import GateRefusedError
from registry.evidence import Scorecard
from registry.promote import outdated, promote, review
from registry.registration import register
from registry.staleness import Current, Staleness, from_tags, installed, staleness, tags_of, versions_of
from registry.store import Store
from registry.upkeep import look, mark
from tests.registry.scorecards import Against, controls, entry, make_bundle, scorecard, task

NOW = Current(
    data_hash=f"{'culture':0<64}",
    benchmark_card="b" * 64,
    protocols={"logistic": "p1", "retrieval": "r1"},
    common_dim={"logistic": "p1-narrow"},
    beyond="i2",
    versions={"numpy": "2.4.6", "scipy": "1.17.1", "torch": "2.14.1", "scikit-learn": "1.9.1"},
    settings={"evaluate": {"max_dim": 128, "permutations": 200}, "diagnose": {"alpha": 0.025, "margin": 0.02}, "seed": 0},
    card_hash="c" * 64,
)
PROVENANCE = {
    "versions": {"numpy": "2.4.6", "scikit-learn": "1.9.1", "mlflow": "3.0.0", "torch": "1.0.0"},
    "made_by": {"vectors": {"numpy": "2.4.6", "torch": "2.14.1"}, "scores": {"numpy": "2.4.6", "scikit-learn": "1.9.1"}},
    "compared_with": {"numpy": ["2.4.6"], "torch": ["2.14.1"]},
    "card_hash": "c" * 64,
    "benchmark_card": "b" * 64,
    "evaluate": {"max_dim": 128, "permutations": 200},
    "diagnose": {"alpha": 0.025, "margin": 0.02},
    "seed": 0,
}


def evidence(**provenance: object) -> Scorecard:
    made = scorecard()
    scores = [entry("chirality"), entry("chirality", "retrieval.map", protocol_id="r1"), entry("count", "retrieval.map", protocol_id="r1")]
    tasks = [replace(made.tasks[0], beyond={"bits": 0.1, "protocol_id": "i2"})]
    narrow = [entry("chirality", protocol_id="p1-narrow")]
    return replace(made, scores=scores, tasks=tasks, at_common_dim=narrow, provenance={**PROVENANCE, **provenance})


def found(card: Scorecard, now: Current = NOW) -> list[tuple[str, str, str]]:
    return [(reason.cause, reason.step, reason.sentence) for reason in staleness(card, now).reasons]


def test_what_is_as_it_would_be_now_is_not_stale() -> None:
    assert found(evidence()) == []
    assert str(staleness(evidence(), NOW)) == "current"


def test_another_index_or_benchmark_card() -> None:
    assert found(evidence(), replace(NOW, data_hash="d" * 64)) == [
        ("data", "train", "the index of `culture` has sha256 dddddddddddd now, it had culture00000")
    ]
    ((cause, step, sentence),) = found(evidence(), replace(NOW, benchmark_card="e" * 64))
    assert (cause, step) == ("data", "extract")
    assert "the card of `culture` has sha256 eeeeeeeeeeee now" in sentence


def test_only_scores_of_the_protocol_that_changed_are_named() -> None:
    ((cause, step, sentence),) = found(evidence(), replace(NOW, protocols={"logistic": "p1", "retrieval": "r2"}))
    assert (cause, step, sentence) == ("protocol", "evaluate", "`retrieval.map` follows `r2` now, it followed `r1`")
    without = replace(evidence(), scores=[entry("chirality")])
    assert found(without, replace(NOW, protocols={"logistic": "p1", "retrieval": "r2"})) == []
    ((_, step, sentence),) = found(evidence(), replace(NOW, common_dim={"logistic": "p2"}))
    assert (step, sentence) == ("diagnose", "`logistic.balanced_accuracy` at the common dimension follows `p2` now, it followed `p1-narrow`")
    ((_, step, sentence),) = found(evidence(), replace(NOW, beyond=""))
    assert (step, sentence) == ("diagnose", "`bits beyond the controls` is not computed any more, it followed `i2`")


def test_another_rule_of_the_share_that_brightness_reaches() -> None:
    asked = replace(evidence(), tasks=[replace(evidence().tasks[0], shortcut={"value": 0.4, "protocol_id": "s1"})])
    assert found(asked, replace(NOW, shortcut="s1")) == []
    ((cause, step, sentence),) = found(asked, replace(NOW, shortcut="s2"))
    assert (cause, step, sentence) == ("protocol", "diagnose", "`share that brightness reaches` follows `s2` now, it followed `s1`")
    # evidence of before it was asked is not stale for that
    assert found(evidence(), replace(NOW, shortcut="s1")) == []
    read = asked.as_dict()
    del read["tasks"][0]["shortcut"]
    assert Scorecard.from_dict(read).tasks[0].shortcut == {}


def test_another_rule_of_the_verdict() -> None:
    judged = replace(evidence(), tasks=[replace(evidence().tasks[0], verdict_protocol="v1")])
    assert found(judged, replace(NOW, verdict="v1")) == []
    assert found(judged, replace(NOW, verdict="v2")) == [("protocol", "diagnose", "its verdicts follow `v2` now, they followed `v1`")]
    read = judged.as_dict()
    del read["tasks"][0]["verdict_protocol"]
    ((_, step, sentence),) = found(Scorecard.from_dict(read), replace(NOW, verdict="v1"))
    assert (step, sentence) == ("diagnose", "which rule its verdicts follow was not recorded")
    assert found(replace(judged, tasks=[]), replace(NOW, verdict="v2")) == []


def test_a_score_that_no_protocol_gives_any_more_is_stale() -> None:
    ((_, step, sentence),) = found(evidence(), replace(NOW, protocols={"logistic": "p1"}))
    assert (step, sentence) == ("evaluate", "`retrieval.map` is not computed any more, it followed `r1`")


def test_another_setting_or_seed() -> None:
    changed = {"evaluate": {"max_dim": 128, "permutations": 500}, "diagnose": {"alpha": 0.025, "margin": 0.05}, "seed": 7}
    assert found(evidence(), replace(NOW, settings=changed)) == [
        ("settings", "evaluate", "`evaluate.permutations` is 500 now, it was 200"),
        ("settings", "diagnose", "`diagnose.margin` is 0.05 now, it was 0.02"),
        ("settings", "extract", "`seed` is 7 now, it was 0"),
    ]


@pytest.mark.parametrize(
    ("recorded", "step", "words"),
    [
        ({"vectors": {"torch": "2.14.0"}, "scores": {}}, "extract", "its vectors were made with torch 2.14.0 (2.14.1 is installed)"),
        ({"vectors": {}, "scores": {"scikit-learn": "1.9.0"}}, "evaluate", "its scores were made with scikit-learn 1.9.0 (1.9.1 is installed)"),
        ({"vectors": {"timm": "1.0.0"}, "scores": {}}, "extract", "its vectors were made with timm 1.0.0 (none is installed)"),
    ],
)
def test_a_patch_release_of_a_library_that_counts(recorded: dict[str, dict[str, str]], step: str, words: str) -> None:
    assert found(evidence(made_by=recorded)) == [("library", step, words)]


def test_libraries_are_those_of_the_step_that_used_them() -> None:
    # `versions` is of the verdict: vectors that are older than it are not made new by it
    assert found(evidence(versions={"numpy": "2.4.5"})) == [
        ("library", "diagnose", "its verdicts and bundle were made with numpy 2.4.5 (2.4.6 is installed)")
    ]
    assert found(evidence(compared_with={"torch": ["2.14.0", "2.14.1"], "numpy": ["2.4.6"]})) == [
        ("library", "diagnose", "rows it is made from or compared with were made with torch 2.14.0 (2.14.1 is installed)")
    ]
    # one that is not counted is not looked at
    assert found(evidence(versions={"mlflow": "1.0", "pandas": "1.0"})) == []


def test_evidence_that_does_not_say_what_made_it() -> None:
    old = {key: value for key, value in PROVENANCE.items() if key not in ("made_by", "compared_with")}
    ((_, step, sentence),) = found(replace(evidence(), provenance=old))
    assert (step, sentence) == ("extract", "its vectors were made with torch 1.0.0 (2.14.1 is installed)")
    ((_, step, sentence),) = found(replace(evidence(), provenance={}))
    assert (step, sentence) == ("extract", "the versions of its libraries were not recorded")
    assert found(replace(evidence(), scores=[], tasks=[], at_common_dim=[], not_applicable="no wells", provenance={})) == []


def test_another_card() -> None:
    ((cause, step, _),) = found(evidence(), replace(NOW, card_hash="f" * 64))
    assert (cause, step) == ("card", "extract")
    assert found(evidence(), replace(NOW, card_hash="")) == []


def test_installed_versions_are_those_of_the_packages() -> None:
    assert installed()["numpy"] == np.__version__
    assert versions_of(["numpy", "no-such-package"]) == {"numpy": np.__version__}


def test_tags_say_it_and_are_read_back() -> None:
    stale = staleness(evidence(), replace(NOW, data_hash="d" * 64))
    tags = tags_of({"culture": stale, "tissue": Staleness(), "plants": Staleness(unchecked="it is not here")}, {})
    assert tags == {"stale.culture": stale.because, "stale.tissue": "no", "stale": "true"}
    assert from_tags(tags, "culture").because == stale.because
    assert not from_tags(tags, "tissue").stale
    assert from_tags(tags, "plants").unchecked
    assert tags_of({"culture": Staleness()}, tags)["stale"] == "false"
    assert tags_of({"tissue": Staleness()}, tags)["stale"] == "true"
    assert tags_of({"plants": Staleness(unchecked="it is not here")}, {}) == {}


def test_many_reasons_are_counted_beyond_a_few() -> None:
    ids = {f"m{i}": "new" for i in range(9)}
    card = replace(evidence(), scores=[entry("chirality", f"m{i}.x", protocol_id=f"old-{i}") for i in range(9)])
    assert staleness(card, replace(NOW, protocols=ids)).because.endswith("; and 5 more")


# ------------------------------------------------------------------------------------------------ in the registry


class Workplace:
    """Judges evidence on one benchmark by the hash of its index."""

    def __init__(self, data_hash: str, benchmark: str = "culture") -> None:
        self.data_hash, self.benchmark = data_hash, benchmark

    def __call__(self, card: Scorecard, card_hash: str) -> Staleness:
        if card.benchmark != self.benchmark:
            return Staleness(unchecked=f"`{card.benchmark}` is not in this workspace")
        return staleness(card, replace(NOW, data_hash=self.data_hash, card_hash=card_hash, beyond=""))


def bundle_evidence(data_hash: str = NOW.data_hash, gain: float = 0.12, **changed: Any) -> Scorecard:
    made = scorecard(tasks=(task("chirality", controls(gain), word="beats" if gain > 0 else "loses"),), **changed)
    return replace(made, data_hash=data_hash, provenance={"versions": {"numpy": "2.4.6"}})


FRESH, CHANGED = Workplace(NOW.data_hash), Workplace("d" * 64)


def test_the_gate_refuses_stale_evidence_and_says_why(store: Store, tmp_path: Path) -> None:
    register(store, make_bundle(tmp_path / "simclr", card=bundle_evidence()))
    with pytest.raises(GateRefusedError, match=r"Its evidence on `culture` is stale: the index .* Run `blankslide rescore`"):
        promote(store, "simclr", judge=CHANGED)
    assert store.version("simclr/1").aliases == ("culture",)
    assert promote(store, "simclr", judge=FRESH).passed


def test_evidence_of_another_card_than_the_bundles_is_refused(store: Store, tmp_path: Path) -> None:
    card = bundle_evidence()
    register(store, make_bundle(tmp_path / "simclr", card=replace(card, provenance={**card.provenance, "card_hash": "a" * 64})))
    with pytest.raises(GateRefusedError, match="the card of `simclr` has sha256"):
        promote(store, "simclr", judge=FRESH)


def test_who_does_not_hold_the_benchmark_hears_what_the_registry_says(store: Store, tmp_path: Path) -> None:
    register(store, make_bundle(tmp_path / "simclr", card=bundle_evidence()))
    elsewhere = Workplace("", "tissue")
    decision = promote(store, "simclr", judge=elsewhere)
    assert decision.passed
    assert decision.reasons[-1] == "Whether its evidence on `culture` is stale was not checked: `culture` is not in this workspace."
    mark(store, CHANGED)
    for judge in (elsewhere, None):
        with pytest.raises(GateRefusedError, match="is stale: the index of `culture`"):
            promote(store, "simclr", judge=judge)
    (standing,) = look(store, elsewhere)
    assert standing.found["culture"].stale


def test_marking_is_seen_in_the_tags_and_undone_when_it_is_over(store: Store, tmp_path: Path) -> None:
    register(store, make_bundle(tmp_path / "simclr", card=bundle_evidence()))
    register(store, make_bundle(tmp_path / "tissue", card=replace(bundle_evidence(benchmark="tissue", modality="tissue"), data_hash="t" * 64)))
    mark(store, FRESH)
    assert store.version("simclr/1").tags["stale"] == "false"
    assert store._client.search_model_versions("tags.stale = 'true'") == []
    (standing,) = mark(store, CHANGED)
    assert {name: each.stale for name, each in standing.found.items()} == {"culture": True, "tissue": False}
    (hit,) = store._client.search_model_versions("tags.stale = 'true'")
    assert hit.tags["stale.culture"].startswith("the index of `culture` has sha256 dddddddddddd now")
    assert "stale.tissue" not in hit.tags
    assert [m.name for m in store._client.search_registered_models("tags.stale = 'true'")] == ["simclr"]
    before = store.version("simclr/1")
    look(store, FRESH)
    assert store.version("simclr/1") == before
    mark(store, FRESH)
    assert store.version("simclr/1").tags["stale"] == "false"


def test_new_evidence_is_not_called_what_the_old_was(store: Store, tmp_path: Path) -> None:
    register(store, make_bundle(tmp_path / "one", card=bundle_evidence()))
    mark(store, CHANGED)
    register(store, make_bundle(tmp_path / "two", card=bundle_evidence("d" * 64)))
    assert from_tags(store.version("simclr/1").tags, "culture").unchecked
    mark(store, CHANGED)
    assert store.version("simclr/1").tags["stale"] == "false"


def test_earlier_evidence_stays_readable_under_its_own_hash(store: Store, tmp_path: Path) -> None:
    one = make_bundle(tmp_path / "one", card=bundle_evidence())
    two = make_bundle(tmp_path / "two", card=bundle_evidence("d" * 64, 0.2))
    for bundle in (one, two):
        register(store, bundle)
    version = store.version("simclr@culture")
    assert version.number == 1
    assert version.evidence("culture") == two.evidence_hash
    runs = store.history(version, "culture")
    assert [run.tags["evidence"] for run in runs] == [one.evidence_hash, two.evidence_hash]
    assert [store.scorecard_of(run.run_id) for run in runs] == [one.scorecard, two.scorecard]
    history = store._client.get_metric_history(runs[0].run_id, "chirality/gain")
    assert [metric.value for metric in history] == [pytest.approx(0.12)]
    assert store.scorecard(version, "culture") == two.scorecard


def promoted_then_changed(store: Store, tmp_path: Path, gain: float) -> None:
    register(store, make_bundle(tmp_path / "one", card=bundle_evidence()))
    promote(store, "simclr", judge=FRESH)
    (standing,) = mark(store, CHANGED)
    assert "`simclr/1` is promoted, and its evidence on `culture` is stale: the index" in standing.warning
    register(store, make_bundle(tmp_path / "two", card=bundle_evidence("d" * 64, gain)))
    (standing,) = mark(store, CHANGED)
    assert standing.warning == "`simclr/1` is promoted, and its evidence on `culture` is not what it was promoted on. Run `blankslide rescore`."


def decisions(store: Store, tmp_path: Path) -> list[dict[str, object]]:
    import mlflow

    version = store.version("simclr/1")
    got = Path(mlflow.artifacts.download_artifacts(f"models:/simclr/{version.number}/gate", dst_path=str(tmp_path / "gate")))
    return [json.loads(path.read_text()) for path in sorted(got.iterdir())]


def test_a_promotion_is_renewed_on_new_evidence_that_carries_it(store: Store, tmp_path: Path) -> None:
    promoted_then_changed(store, tmp_path, 0.2)
    assert review(store, store.version("simclr"), judge=CHANGED).passed
    version = store.version("simclr")
    assert version.tags["gate.decision"] == "promoted"
    assert version.tags["gate.evidence"] == f"culture:{version.evidence('culture')}"
    assert outdated(version) == []
    assert mark(store, CHANGED)[0].warning == ""
    assert [d["decision"] for d in decisions(store, tmp_path)] == ["promoted", "promoted"]


@pytest.mark.parametrize("kind", ["sqlite_uri", "postgresql_uri"])
def test_a_promotion_is_taken_away_on_new_evidence_that_does_not(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    store = Store(request.getfixturevalue(kind), str(tmp_path / "artifacts"))
    promoted_then_changed(store, tmp_path, -0.1)
    decision = review(store, store.version("simclr"), judge=CHANGED)
    assert not decision.passed
    version = store.version("simclr/1")
    assert version.aliases == ("culture",)
    assert version.tags["gate.decision"] == "withdrawn"
    assert version.tags["gate.reasons"].endswith("The alias `promoted` was taken away.")
    last = decisions(store, tmp_path)[-1]
    assert last["decision"] == "withdrawn"
    assert last["evidence"] == {"culture": version.evidence("culture")}
    # a second look finds nothing to take
    assert not review(store, version, judge=CHANGED).passed
    assert len(decisions(store, tmp_path)) == 2


def test_a_review_that_was_killed_before_the_alias_was_taken_is_found(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    promoted_then_changed(store, tmp_path, -0.1)

    class Killed(Exception):
        pass

    def dies(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as during:
        during.setattr(store, "remove_alias", dies)
        with pytest.raises(Killed):
            review(store, store.version("simclr"), judge=CHANGED)
    version = store.version("simclr")
    assert "promoted" in version.aliases
    assert outdated(version) == ["culture"]
    assert "promoted" in mark(store, CHANGED)[0].warning
    review(store, version, judge=CHANGED)
    assert store.version("simclr/1").aliases == ("culture",)


def test_evidence_on_one_more_benchmark_does_not_outdate_a_promotion(store: Store, tmp_path: Path) -> None:
    register(store, make_bundle(tmp_path / "one", card=bundle_evidence()))
    promote(store, "simclr", judge=FRESH)
    lost = (task("arrangement", controls(0.1, density=Against(-0.2, p=1.0)), word="loses"),)
    register(store, make_bundle(tmp_path / "two", card=scorecard(benchmark="tissue", modality="tissue", tasks=lost)))
    assert outdated(store.version("simclr")) == []

"""The alias `promoted` moves only through the gate, and every decision stays on the version it was about."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from registry.errors import GateRefusedError, NotFoundError
from registry.promote import promote
from registry.registration import register
from registry.store import Store
from tests.registry.scorecards import Against, controls, make_bundle, scorecard, task

LOST = (task("chirality", controls(0.12)), task("count", controls(0.12, density=Against(-0.2, half=0.02, p=1.0)), word="loses"))


def recorded(store: Store, reference: str, folder: Path) -> list[dict[str, object]]:
    """Every decision among the files of a version, oldest first."""
    import mlflow

    version = store.version(reference)
    got = Path(mlflow.artifacts.download_artifacts(f"models:/{version.name}/{version.number}/gate", dst_path=str(folder)))
    return [json.loads(path.read_text()) for path in sorted(got.iterdir())]


def test_an_encoder_that_beats_its_controls_is_promoted_with_reasons(store: Store, tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "simclr")
    register(store, bundle)
    decision = promote(store, "simclr")
    assert decision.passed
    version = store.version("simclr")
    assert version.aliases == ("culture", "promoted")
    assert version.tags["gate.decision"] == "promoted"
    assert version.tags["gate.reasons"] == decision.reasons[0]
    assert version.tags["gate.evidence"] == f"culture:{bundle.evidence_hash}"
    (written,) = recorded(store, "simclr", tmp_path / "gate")
    assert written["decision"] == "promoted"
    assert written["version"] == "simclr/1"
    assert written["evidence"] == {"culture": bundle.evidence_hash}
    assert [t["task"] for t in written["tasks"]] == ["chirality"]  # type: ignore[attr-defined]
    assert store.fetch_bundle("simclr@promoted", tmp_path / "served").digest == bundle.digest


def test_a_refused_encoder_keeps_its_place_and_is_told_why(store: Store, tmp_path: Path) -> None:
    register(store, make_bundle(tmp_path / "simclr", card=scorecard(tasks=LOST)))
    with pytest.raises(GateRefusedError, match=r"`simclr/1` is not promoted\. On `count` it loses more than 0\.02 to `density`"):
        promote(store, "simclr@culture")
    version = store.version("simclr@culture")
    assert version.aliases == ("culture",)
    assert version.tags["gate.decision"] == "refused"
    assert "`density`" in version.tags["gate.reasons"]
    (written,) = recorded(store, "simclr@culture", tmp_path / "gate")
    assert written["decision"] == "refused"
    assert promote(store, "simclr", max_loss=0.5).passed
    assert [d["decision"] for d in recorded(store, "simclr", tmp_path / "gate")] == ["refused", "promoted"]


def test_a_better_version_takes_the_alias_and_a_worse_one_does_not(store: Store, tmp_path: Path) -> None:
    register(store, make_bundle(tmp_path / "one"))
    promote(store, "simclr")
    register(store, make_bundle(tmp_path / "two", seed=1, card=scorecard(tasks=LOST)))
    with pytest.raises(GateRefusedError, match="simclr/2"):
        promote(store, "simclr")
    assert store.version("simclr").number == 1
    register(store, make_bundle(tmp_path / "three", seed=2))
    promote(store, "simclr/3")
    assert store.version("simclr").number == 3


def test_new_evidence_against_a_promoted_version_is_said(store: Store, tmp_path: Path) -> None:
    register(store, make_bundle(tmp_path / "one"))
    promote(store, "simclr")
    register(store, make_bundle(tmp_path / "two", card=scorecard(tasks=LOST)))
    with pytest.raises(GateRefusedError, match="still carries the alias `promoted`"):
        promote(store, "simclr")
    assert store.version("simclr").tags["gate.decision"] == "refused"


def test_a_loss_on_another_benchmark_counts(store: Store, tmp_path: Path) -> None:
    register(store, make_bundle(tmp_path / "cells"))
    lost = (task("arrangement", controls(-0.1), word="loses"),)
    register(store, make_bundle(tmp_path / "tissue", card=scorecard(benchmark="tissue", modality="tissue", tasks=lost)))
    with pytest.raises(GateRefusedError, match="On `arrangement` it loses"):
        promote(store, "simclr/1")


@pytest.mark.parametrize("role", ["negative", "positive", "twin"])
def test_controls_are_never_promoted(store: Store, tmp_path: Path, role: str) -> None:
    tasks = (task("chirality", controls(0.3)),)
    register(store, make_bundle(tmp_path / "control", row="control", role=role, card=scorecard("control", role=role, tasks=tasks)))
    with pytest.raises(GateRefusedError, match="controls are never promoted"):
        promote(store, "control")


def test_without_onnx_there_is_no_promotion(store: Store, tmp_path: Path) -> None:
    register(store, make_bundle(tmp_path / "simclr", onnx=False))
    with pytest.raises(GateRefusedError, match="No parity"):
        promote(store, "simclr")


def test_what_to_promote_must_be_clear(store: Store, tmp_path: Path) -> None:
    register(store, make_bundle(tmp_path / "one"))
    other = scorecard(benchmark="tissue", modality="tissue")
    register(store, make_bundle(tmp_path / "two", seed=1, card=other))
    with pytest.raises(NotFoundError, match="no single current version `simclr`. Known: `simclr@culture`, `simclr@tissue`".replace(".", r"\.")):
        promote(store, "simclr")
    assert promote(store, "simclr@tissue").passed
    with pytest.raises(NotFoundError, match="no registered model `nope`"):
        promote(store, "nope")

"""The same evidence in a bundle that was packed anew, as after a change of what bundles hold: registered, nothing logged twice."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from registry.registration import register
from registry.store import Store
from tests.registry.scorecards import make_bundle, scorecard


def test_the_same_evidence_in_another_bundle(store: Store, tmp_path: Path) -> None:
    # more scores than MLflow takes at a time
    one = scorecard("simclr")
    many = replace(one, scores=[replace(score, metric=f"probe{i}.accuracy") for i in range(700) for score in one.scores[:1]])
    before, after = (make_bundle(tmp_path / name / "simclr", card=many, nearer=nearer) for name, nearer in (("before", 1.0), ("after", 2.0)))
    assert before.evidence_hash == after.evidence_hash
    assert before.digest != after.digest
    version = register(store, before).version
    again = register(store, after)
    assert again.added
    assert again.version.number == version.number
    assert store.fetch_bundle("simclr@culture", tmp_path / "fetched").digest == after.digest
    assert not register(store, after).added

"""A few hundred of the hostile requests of `make soak`; the whole run is a command."""

from __future__ import annotations

from pathlib import Path

from tests.serving.bundles import TinyBundle
from tests.serving.endpoint.soak import soak


def test_nothing_hostile_is_answered_by_a_fault(tiny: TinyBundle, tmp_path: Path) -> None:
    outcome = soak(tiny, 300, tmp_path / "log", seed=1)
    assert outcome.faults == []
    assert sum(outcome.statuses.values()) > 280
    assert {200, 400, 404, 415, 422} <= set(outcome.statuses)

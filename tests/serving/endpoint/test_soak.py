"""A few hundred of the hostile requests of `make soak`; the whole run is a command."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.serving.bundles import TinyBundle
from tests.serving.endpoint.soak import at_the_usual_limits, soak


@pytest.mark.slow
def test_nothing_hostile_is_answered_by_a_fault(tiny: TinyBundle, tmp_path: Path) -> None:
    outcome = soak(tiny, 300, tmp_path / "log", seed=1)
    assert outcome.faults == []
    assert sum(outcome.statuses.values()) > 280
    assert {200, 400, 404, 415, 422} <= set(outcome.statuses)


def test_a_service_with_large_bodies_says_that_it_lives(tiny: TinyBundle, tmp_path: Path) -> None:
    outcome = at_the_usual_limits(tiny, tmp_path / "log")
    assert outcome.faults == []
    assert outcome.statuses.pop(200) > 0
    assert outcome.statuses == {400: 3, 413: 4, 422: 4, 431: 1}

"""What every process of a service sees is counted by one of them, and what says so does not pile up."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from serving.endpoint.metrics import KEPT, MULTIPROCESS, Metrics

EVENTS = 5 * KEPT


def value(metrics: Metrics, name: str, model: str) -> float:
    found = re.search(rf'^{name}\{{model="{model}"\}} (\S+)$', metrics.text().decode(), re.MULTILINE)
    return float(found.group(1)) if found else 0.0


@pytest.fixture(params=["one process", "several"])
def processes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Metrics]:
    if request.param == "one process":
        monkeypatch.delenv(MULTIPROCESS, raising=False)
        return [Metrics()]
    monkeypatch.setenv(MULTIPROCESS, str(tmp_path))
    return [Metrics() for _ in range(3)]


@pytest.fixture
def total(processes: list[Metrics], monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], float]:
    def added(name: str, model: str) -> float:
        with monkeypatch.context() as patched:
            # each says its own: these processes were not started as workers are
            patched.delenv(MULTIPROCESS, raising=False)
            return sum(value(process, name, model) for process in processes)

    return added


def test_each_event_is_counted_once_however_late_a_process_is(processes: list[Metrics], total: Callable[[str, str], float], tmp_path: Path) -> None:
    for process in processes:
        process.bad_bundle("late", "0")
    for i in range(EVENTS):
        for process in processes:
            process.swapped("late", str(i))
            process.bad_bundle("other", str(i))
        # one that loaded the bundle of some time ago until now
        processes[-1].swapped("late", str(max(0, i - KEPT + 1)))
    assert total("blankslide_bundle_swaps_total", "late") == EVENTS
    assert total("blankslide_bundles_refused_total", "other") == EVENTS
    assert total("blankslide_bundle_swaps_total", "other") == 0
    # many events of one model, or of one kind, make no other forgotten: it may be said again after any time
    for process in processes:
        process.bad_bundle("late", "0")
    assert total("blankslide_bundles_refused_total", "late") == 1
    assert len(list(tmp_path.glob("*.counted"))) in (0, 2 * KEPT + 1)


def test_a_marker_that_another_process_removed_first_is_no_fault(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(MULTIPROCESS, str(tmp_path))
    metrics, glob = Metrics(), Path.glob

    def gone(self: Path, pattern: str) -> list[Path]:
        return [*glob(self, pattern), self / "gone-1.counted"]

    monkeypatch.setattr(Path, "glob", gone)
    for i in range(2 * KEPT):
        metrics.swapped("tiny", str(i))
    assert len(list(tmp_path.iterdir())) == KEPT

"""The instrument that vouches for the verdicts: quiet as it is, and not when a fault is put in."""

from __future__ import annotations

import importlib
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]


def calibrate(*options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "benchmarks" / "calibration.py"), "--quick", *options]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "part", "claim"),
    [
        ("unit", "coverage", "50 units, true difference 0"),
        ("split", "probes", "features of noise, one fold: chance"),
        ("twin", "a/a", "false `beats`"),
        ("ties", "p-values", "random counts that tie"),
        ("null", "p-values", "labels that follow the kind of plate"),
    ],
)
def test_a_fault_is_caught_where_it_lies(fault: str, part: str, claim: str) -> None:
    whole, broken = calibrate("--only", part), calibrate("--only", part, "--break", fault)
    assert whole.returncode == 0, whole.stdout + whole.stderr
    assert broken.returncode == 1, broken.stdout + broken.stderr
    assert any(line.startswith("FAILS") and claim in line for line in broken.stdout.splitlines())


@pytest.mark.slow
def test_the_same_seed_gives_the_same_lines() -> None:
    first, second = (calibrate("--only", "probes", "--workers", workers) for workers in ("1", "2"))
    assert first.stdout == second.stdout
    assert "holds  probes:" in first.stdout


@pytest.fixture
def calibration(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("calibration")


def reduced(calibration: ModuleType, about: str) -> Any:
    return calibration.Plan(*calibration.REDUCED, workers=1, about=about)


#: which intervals do not hold: none, one in ten, one in twenty
MISSES: dict[str, tuple[Callable[[int], bool], bool]] = {
    "always": (lambda _seed: False, False),
    "nine in ten": (lambda seed: seed % 10 == 0, False),
    "as they should": (lambda seed: seed % 20 == 0, True),
}


@pytest.mark.parametrize("how", MISSES)
def test_a_reduced_run_sees_intervals_that_hold_too_often_or_too_seldom(how: str, calibration: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    misses, expected = MISSES[how]

    def paired(_kind: Any, _design: Any, _gap: float, seed: int) -> tuple[float, float, float]:
        return 0.0, math.inf if misses(seed) else -math.inf, math.inf

    monkeypatch.setattr(calibration, "paired", paired)
    # the kind with the fewest designs
    *lines, all_of_them = calibration.coverage_of_intervals(reduced(calibration, "mean over images"))
    assert len(lines) == 8
    assert all_of_them.claim == "mean over images, 6 designs together"
    assert all_of_them.holds == expected
    # which none of them shows by itself
    assert all(line.holds for line in lines)


@pytest.mark.parametrize("how", MISSES)
def test_so_does_a_reduced_run_of_what_is_cross_fitted(how: str, calibration: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    misses, expected = MISSES[how]
    for kind, designs in calibration.CROSS_FITTED.items():
        faked = [(said, lambda seed: calibration.Compared(not misses(seed), 0.5), folds, False) for said, _, folds, _ in designs]
        monkeypatch.setitem(calibration.CROSS_FITTED, kind, faked)
    monkeypatch.setattr(calibration, "decoding_covered", lambda _seed: True)
    lines = {line.claim: line.holds for line in calibration.cross_fitting(reduced(calibration, ""))}
    assert {claim: holds for claim, holds in lines.items() if claim.endswith("together")} == {
        f"{kind}, {len(designs)} designs together": expected for kind, designs in calibration.CROSS_FITTED.items()
    }


def test_designs_that_are_counted_together_share_no_screen(calibration: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, int, int]] = []

    def paired(_kind: Any, design: Any, _gap: float, seed: int) -> tuple[float, float, float]:
        asked.append((seed, design.units, design.classes))  # what `screen_of` draws from
        return 0.0, -1.0, 1.0

    monkeypatch.setattr(calibration, "paired", paired)
    list(calibration.coverage_of_intervals(reduced(calibration, "AUROC")))
    assert len(asked) == len(set(asked)) == 16 * 150


def test_power_that_does_not_grow_is_seen(calibration: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    assert calibration.grows([0.1, 0.5, 0.48, 0.9], 400)
    assert not calibration.grows([0.1, 0.5, 0.3, 0.9], 400)
    assert not calibration.grows([0.4, 0.4, 0.4, 0.4], 400)
    for word in ("beats", "undecided"):
        monkeypatch.setattr(calibration, "power_word", lambda *_, word=word: word)
        lines = [line.holds for line in calibration.power(reduced(calibration, ""))]
        assert lines == [word != "beats", *[False] * 4]

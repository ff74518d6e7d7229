"""The instrument that vouches for the verdicts: quiet as it is, and not when a fault is put in."""

from __future__ import annotations

import importlib
import subprocess
import sys
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


def test_power_that_does_not_grow_is_seen(calibration: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    assert calibration.grows([0.1, 0.5, 0.48, 0.9], 400)
    assert not calibration.grows([0.1, 0.5, 0.3, 0.9], 400)
    assert not calibration.grows([0.4, 0.4, 0.4, 0.4], 400)
    for word in ("beats", "undecided"):
        monkeypatch.setattr(calibration, "power_word", lambda *_, word=word: word)
        lines = [line.holds for line in calibration.power(reduced(calibration, ""))]
        assert lines == [word != "beats", *[False] * 4]

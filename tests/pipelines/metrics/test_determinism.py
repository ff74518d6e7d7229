"""The same numbers, to the last bit, whatever the order in which Python hashes strings."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.pipelines.metrics.fingerprint import fingerprint


def test_results_are_identical_under_two_hash_seeds() -> None:
    other = "4242" if os.environ.get("PYTHONHASHSEED") != "4242" else "1"
    found = subprocess.run(
        [sys.executable, "-W", "error", "-m", "tests.pipelines.metrics.fingerprint"],
        env={**os.environ, "PYTHONHASHSEED": other},
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout.strip() == fingerprint()

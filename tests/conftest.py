"""What every test runs under: no library phones home."""

from __future__ import annotations

import os

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("DO_NOT_TRACK", "true")

# Processes that run tests side by side share the cores: without this each would take all of them, and wait for the others in busy loops.
side_by_side = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
if side_by_side > 1:
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(variable, str(max(1, len(os.sched_getaffinity(0)) // side_by_side)))

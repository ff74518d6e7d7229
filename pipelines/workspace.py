"""Where the files of one workspace lie (docs/architecture.md), and how many threads the libraries of its processes use."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from pipelines.params import Params


@dataclass(frozen=True)
class Workspace:
    """Where the files of one workspace lie."""

    root: Path

    def data(self, benchmark: str) -> Path:
        """The benchmark's folder."""
        return self.root / "data" / benchmark

    def weights(self, benchmark: str, encoder: str) -> Path:
        """Weights trained here."""
        return self.root / "out" / "weights" / benchmark / encoder

    def embeddings(self, benchmark: str) -> Path:
        """Embeddings of all cells of a benchmark."""
        return self.root / "out" / "embeddings" / benchmark

    def scores(self, benchmark: str) -> Path:
        """Scores of all cells of a benchmark."""
        return self.root / "out" / "scores" / benchmark

    def oracle(self, benchmark: str) -> Path:
        """Scores of the positive control."""
        return self.root / "out" / "oracle" / benchmark

    def verdicts(self, benchmark: str) -> Path:
        """Verdicts and scorecards."""
        return self.root / "out" / "verdicts" / benchmark

    def ladder(self, benchmark: str) -> Path:
        """What was found about the metrics."""
        return self.root / "out" / "ladder" / benchmark

    def bundles(self, benchmark: str) -> Path:
        """Bundles."""
        return self.root / "out" / "bundles" / benchmark

    def plots(self, benchmark: str) -> Path:
        """Forest plots the registry keeps."""
        return self.root / "out" / "plots" / benchmark

    def receipts(self, benchmark: str) -> Path:
        """What must be in the registry."""
        return self.root / "out" / "receipts" / f"{benchmark}.json"

    def params(self) -> Params:
        """The workspace's parameters."""
        return Params.read(self.root / "params.yaml")


def limit_threads(threads: int) -> None:
    """Make numerical libraries use `threads` threads; must run before they are imported."""
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(variable, str(threads))
    # threads that wait sleep: on a shared machine spinning takes the cores from those that work
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

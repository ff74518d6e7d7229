"""Both doors against the offline flow: images of a benchmark are sent as files, and what comes back is compared with what was extracted.

    python benchmarks/doors.py --workspace study mobilenetv2-imagenet@mitocheck_cells mobilenetv2-imagenet@jurkat_ifc

For each registered NAME@BENCHMARK: the ONNX endpoint and a real TorchServe are started, and some test images of the benchmark are posted as they
lie on disk. Exit code 1 when an embedding differs from the offline one by more than 1e-4 of its root mean square, or the doors differ
from each other. Benchmarks of several files per image are passed over: a door takes one file.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np

from pipelines.benchmarks.index import Benchmark
from pipelines.board import read_board
from pipelines.commands import fetched
from pipelines.workspace import Workspace
from serving.archive import make_archive
from serving.endpoint.server import running
from serving.scoring import Scorer
from serving.torchserve import TorchServe

MOST = 1e-4
IMAGES = 8


def chosen(benchmark: Benchmark, n: int) -> list[int]:
    """Test images of fold 0, evenly spread over the index."""
    test = np.flatnonzero(benchmark.folds[0].test)
    return [int(i) for i in test[np.unique(np.linspace(0, len(test) - 1, n).astype(int))]]


def compare(workspace: Workspace, name: str, bundle: Path, scratch: Path) -> bool:
    from serving.client import ScoringClient

    scorer = Scorer.open(bundle)
    benchmark = Benchmark.read(workspace.data(scorer.bundle.card.benchmark))
    rows = chosen(benchmark, IMAGES)
    files = [benchmark.paths(row) for row in rows]
    if any(len(paths) > 1 for paths in files):
        print(f"{name}: an image is several files, a door takes one")
        return True
    offline = read_board(workspace, benchmark.card.name).rows[scorer.name].embedding("main", 0, benchmark.index["image_id"].tolist())
    scale = float(np.sqrt(np.mean(offline.astype(np.float64) ** 2)))
    archive = make_archive(bundle, scratch)
    with running([scorer]) as url, ScoringClient(url) as onnx, TorchServe([archive]) as server, server.client() as torchserve:
        found = [(onnx.score(scorer.name, paths[0]), torchserve.score(scorer.name, paths[0])) for paths in files]
    worst = max(float(np.abs(np.array(reading.embedding) - offline[row]).max()) / scale for (reading, _), row in zip(found, rows, strict=True))
    same = all(one == other for one, other in found)
    doors = "agree" if same else "differ"
    print(f"{name}: {len(rows)} images ({files[0][0].suffix}), largest difference {worst:.2g} of the root mean square, doors {doors}")
    task = found[0][0].tasks[0]
    print(f"  for example `{task.task}`: {task.encoder.predicted}; {task.verdict.sentence if task.verdict else 'no verdict'}")
    return same and worst <= MOST


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="+", metavar="NAME@BENCHMARK")
    parser.add_argument("--workspace", type=Path, default=Path())
    options = parser.parse_args()
    options.tracking_uri, options.artifact_location = None, ""
    with tempfile.TemporaryDirectory(prefix="doors-") as folder:
        bundles = fetched(options, options.names, Path(folder))
        # no early end: every name is said
        fine = [compare(Workspace(options.workspace), name, bundle, Path(folder)) for name, bundle in zip(options.names, bundles, strict=True)]
    return 0 if all(fine) else 1


if __name__ == "__main__":
    sys.exit(main())

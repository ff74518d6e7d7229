"""Retrieval by rules about pairs against copairs: the same average precision, how much sooner and in how much less memory.

    python benchmarks/retrieval.py            # 6,000 profiles against copairs, then 20,000 alone, also of several labels each; minutes
    python benchmarks/retrieval.py --quick    # 1,500 and 3,000 profiles, no verdict
    python benchmarks/retrieval.py --labels   # the 20,000 of several labels alone, also with positives in other wells

Profiles are noise of 384 dimensions in float32. Positives are the wells of the same compound, negatives the wells of all others. Each side
runs in a process of its own; its time is that of the call, its memory the most the process ever held, less what it held before the call
(libraries and profiles). Exit code 1: an average precision differs by more than 1e-12 for more than 1 query in 100 (copairs' similarities are
float32, so that a positive and a negative that are next to each other may change places) or by more than 0.01 for any, less than 8 times as
fast, more than a quarter of the memory, or more than 600 MB for any large set.

Of several labels each (`label_scores`) every profile has one or two of 400 labels, 9 permutations; each further one holds 4 bytes for each profile.
With positives anywhere and in other wells (`label_position_control`) each of the same profiles lies in one to four of 384 wells; no permutations.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd

DIMENSIONS = 384
REPLICATES = 4
LABELS, PERMUTATIONS, WELLS = 400, 9, 384
FASTER, LESS, MOST_MB = 8.0, 0.25, 600.0


def screen(n: int) -> tuple[np.ndarray, pd.DataFrame]:
    """n wells, four replicates of each compound."""
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"Metadata_Compound": np.arange(n) // REPLICATES}).astype(str)
    return rng.normal(size=(n, DIMENSIONS)).astype(np.float32), table


def resident_mb(field: str) -> float:
    found = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(found[1]) / 1024 if found else float("nan")


def child(side: str, n: int, out: Path) -> None:
    """Score every profile; prints seconds and megabytes, writes the average precisions."""
    features, table = screen(n)
    if side == "copairs":
        from copairs.map import average_precision

        before_mb, start_s = resident_mb("VmRSS"), time.perf_counter()
        lists = (["Metadata_Compound"], [], [], ["Metadata_Compound"])
        ap = average_precision(table, features, *lists, progress_bar=False)["average_precision"].to_numpy()
    elif side in ("labels", "elsewhere"):
        from pipelines.metrics.multilabel import label_position_control, label_scores

        rng, names = np.random.default_rng(1), [str(k) for k in range(LABELS)]
        membership = np.zeros((n, LABELS), dtype=bool)
        membership[np.arange(n), rng.integers(0, LABELS, n)] = True
        membership[np.arange(0, n, 2), rng.integers(0, LABELS, len(range(0, n, 2)))] = True
        places = np.zeros((n, WELLS), dtype=bool)
        for _ in range(REPLICATES):
            places[np.arange(n), rng.integers(0, WELLS, n)] = True
        before_mb, start_s = resident_mb("VmRSS"), time.perf_counter()
        if side == "labels":
            ap = label_scores(features, membership, names, permutations=PERMUTATIONS).normalised
        else:
            ap = label_position_control(features, membership, names, places).elsewhere
    else:
        from pipelines.metrics.pairs import PairRule, pair_scores

        columns = {name: table[name].to_numpy(dtype=np.str_) for name in table}
        rule = PairRule(pos_sameby=("Metadata_Compound",), neg_diffby=("Metadata_Compound",))
        before_mb, start_s = resident_mb("VmRSS"), time.perf_counter()
        ap = pair_scores(features, columns, rule).ap
    print(time.perf_counter() - start_s, resident_mb("VmHWM") - before_mb)
    np.save(out, ap)


def measured(side: str, n: int, folder: Path) -> tuple[float, float, np.ndarray]:
    """Seconds, megabytes and (n,) average precision of one side."""
    out = folder / f"{side}-{n}.npy"
    command = [sys.executable, __file__, "--child", side, str(n), str(out)]
    seconds, megabytes = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-2:]
    print(f"{side}, {n} profiles x {DIMENSIONS}: {float(seconds):.1f} s, {float(megabytes):.0f} MB", flush=True)
    return float(seconds), float(megabytes), np.load(out)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--labels", action="store_true")
    parser.add_argument("--child", nargs=3, metavar=("SIDE", "N", "OUT"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(options.child[0], int(options.child[1]), Path(options.child[2]))
        return 0
    few, many = (1_500, 3_000) if options.quick else (6_000, 20_000)
    with tempfile.TemporaryDirectory(prefix="blankslide-") as name:
        folder = Path(name)
        labels_mb = max(measured(side, many, folder)[1] for side in ("labels", "elsewhere"))
        if options.labels:
            return 0 if labels_mb <= MOST_MB or options.quick else 1
        ours_s, ours_mb, ours = measured("blankslide", few, folder)
        theirs_s, theirs_mb, theirs = measured("copairs", few, folder)
        _, large_mb, _ = measured("blankslide", many, folder)
    apart = np.abs(ours - theirs)
    same = float(np.mean(apart <= 1e-12))
    speed, memory = theirs_s / ours_s, ours_mb / theirs_mb
    print(f"{same:.4f} of the average precisions are the same, the largest difference is {apart.max():.1e}")
    print(f"{speed:.1f} times as fast in {memory:.2f} of the memory")
    print(f"{large_mb:.0f} MB for {many} profiles, {labels_mb:.0f} MB at most of several labels")
    good = same >= 0.99 and apart.max() <= 0.01 and speed >= FASTER and memory <= LESS and max(large_mb, labels_mb) <= MOST_MB
    return 0 if good or options.quick else 1


if __name__ == "__main__":
    sys.exit(main())

"""How long the embedded experiment takes in a fresh clone, and what share of it is start-up: importing libraries, stage after stage.

    python benchmarks/startup.py                       # the whole flow, minutes
    python benchmarks/startup.py simulate@culture      # some of its stages

Every process that `dvc repro` starts, and `dvc` itself, reports its imports (PYTHONPROFILEIMPORTTIME: microseconds that each
import took without those it led to), wherever in the stage they happen. Their sum over the wall-clock time of the same run is
the share. Training, scoring and everything else of a stage is the rest. Exit code 1 when the share is 20 % or more, or when the
whole flow takes ten minutes or more.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

from clones import Refused, clone

MOST_SHARE = 0.2
MOST_S = 600.0
#: `import time:      self [us] | cumulative | imported package`, of which the first line is the heading
REPORTED = re.compile(r"import time:\s+(\d+) \|\s+\d+ \|")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("targets", nargs="*", help="stages of dvc.yaml; default: all")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="startup-") as scratch:
        folder = Path(scratch) / "clone"
        try:
            environment = clone(Path(__file__).resolve().parents[1], folder)
        except Refused as error:
            print(f"startup: {error}", file=sys.stderr)
            return 2
        started = time.monotonic()
        process = subprocess.Popen(
            [sys.executable, "-m", "dvc", "repro", "--no-run-cache", *options.targets],
            cwd=folder,
            env={**environment, "PYTHONPROFILEIMPORTTIME": "1"},
            stderr=subprocess.PIPE,
            text=True,
        )
        imports_s = imported_s(process.stderr or ())
        if process.wait():
            print("startup: `dvc repro` failed; the reason is above.", file=sys.stderr)
            return 2
        whole_s = time.monotonic() - started
    share = imports_s / whole_s
    print(f"{whole_s:.0f} s altogether, {imports_s:.0f} s of them imports: {share:.1%} (at most {MOST_SHARE:.0%} and {MOST_S:.0f} s)")
    return 0 if share < MOST_SHARE and whole_s < MOST_S else 1


def imported_s(lines: Iterable[str]) -> float:
    """Seconds spent in imports; every other line is passed on."""
    microseconds = 0
    for line in lines:
        found = REPORTED.search(line)
        if found:
            microseconds += int(found[1])
        elif "import time:" not in line:
            sys.stderr.write(line)
            sys.stderr.flush()
    return microseconds / 1e6


if __name__ == "__main__":
    sys.exit(main())

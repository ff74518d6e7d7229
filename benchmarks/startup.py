"""How long the embedded experiment takes in a fresh clone, and what share of it is start-up: importing libraries, stage after stage.

    python benchmarks/startup.py                       # the whole flow, minutes
    python benchmarks/startup.py simulate@culture      # some of its stages

Start-up is what Python itself reports of every import in every stage (`clones.reproduce`); everything else of a stage is the rest.
Exit code 1 when the share is 20 % or more, or when the whole flow takes ten minutes or more.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from clones import Refused, clone, reproduce

MOST_SHARE = 0.2
MOST_S = 600.0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("targets", nargs="*", help="stages of dvc.yaml; default: all")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="startup-") as scratch:
        folder = Path(scratch) / "clone"
        try:
            environment = clone(Path(__file__).resolve().parents[1], folder)
            whole_s, by_package = reproduce(folder, environment, options.targets)
        except Refused as error:
            print(f"startup: {error}", file=sys.stderr)
            return 2
    imports_s = sum(by_package.values())
    share = imports_s / whole_s
    print("most of it: " + ", ".join(f"{package} {seconds:.1f} s" for package, seconds in sorted(by_package.items(), key=lambda item: -item[1])[:12]))
    print(f"{whole_s:.0f} s altogether, {imports_s:.0f} s of them imports: {share:.1%} (at most {MOST_SHARE:.0%} and {MOST_S:.0f} s)")
    return 0 if share < MOST_SHARE and whole_s < MOST_S else 1


if __name__ == "__main__":
    sys.exit(main())

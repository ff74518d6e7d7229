"""Proof that two clean clones give byte-identical scores and verdicts, and that repeating `dvc repro` does nothing, quickly.

    python benchmarks/two_clones.py                    # HEAD cloned twice, the whole flow in each
    python benchmarks/two_clones.py --workspace .      # the finished run of this checkout against one clone

Each clone has a DVC cache, a DVC configuration and code of its own; nothing is taken from a run cache. Threads are those of
params.yaml. Compared are the bytes of every file. Scores, the oracle's scores and verdicts must be the same; data, weights,
embeddings, bundles, plots, receipts and the report are shown too, so that a difference is seen where it begins.
Exit code 1 when they differ, or when `dvc repro` with nothing to do takes longer than `--idle` seconds; 2 when there is nothing to compare.
"""

from __future__ import annotations

import argparse
import itertools
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from clones import Refused, clone, reproduce, run

from registry.files import read_json, sha256_of_file
from registry.provenance import read_provenance
from registry.reproduce import differences

MUST_BE_THE_SAME = ("out/scores", "out/oracle", "out/verdicts")
SHOWN = ("data", "out/weights", "out/embeddings", "out/bundles", "out/plots", "out/receipts", "reports/index.html", "reports/claims.html", "dvc.lock")
#: differing files, and differing values of a JSON file, that are listed one by one
LISTED = 8


@dataclass(frozen=True)
class Place:
    """A finished flow.

    Attributes:
        folder: its files.
        idle_s: how long `dvc repro` took there with nothing to do.
    """

    folder: Path
    idle_s: float


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workspace", type=Path, help="a checkout whose `dvc repro` is done, instead of a first clone")
    parser.add_argument("--idle", type=float, default=10.0, help="most seconds that `dvc repro` may take with nothing to do")
    parser.add_argument("--folder", type=Path, help="make the clones here and keep them")
    parser.add_argument("targets", nargs="*", help="stages of dvc.yaml; default: all")
    options = parser.parse_args()
    repository = options.workspace or Path(__file__).resolve().parents[1]
    try:
        with tempfile.TemporaryDirectory(prefix="two-clones-") as scratch:
            folder = options.folder or Path(scratch)
            first = finished(repository, options.targets) if options.workspace else reproduced(repository, folder / "first", options.targets)
            second = reproduced(repository, folder / "second", options.targets)
            parts = (*SHOWN[:3], *MUST_BE_THE_SAME, *SHOWN[3:])
            compared = [compare(first.folder, second.folder, part, part in MUST_BE_THE_SAME) for part in parts]
            same = all(compared)
            quick = max(first.idle_s, second.idle_s) <= options.idle
    except Refused as error:
        print(f"two_clones: {error}", file=sys.stderr)
        return 2
    for place in (first, second):
        print(f"`dvc repro` with nothing to do: {place.idle_s:.1f} s (at most {options.idle:g})")
    print(f"scores and verdicts: {'identical' if same else 'DIFFERENT'}{'' if quick else '; `dvc repro` with nothing to do: TOO SLOW'}")
    return 0 if same and quick else 1


def finished(checkout: Path, targets: list[str]) -> Place:
    """The flow of a checkout as it lies there.

    Raises:
        Refused: it is not that of the checkout's commit, or not up to date.
    """
    found = read_provenance(checkout)
    if not found.commit or found.dirty:
        raise Refused(f"`{checkout}` has changes that its commit does not hold, so no clone can repeat it. Commit them and run `dvc repro`.")
    if subprocess.run([sys.executable, "-m", "dvc", "status", "--quiet", *targets], cwd=checkout, check=False).returncode:
        raise Refused(f"The flow of `{checkout}` is not up to date. Run `dvc repro` there.")
    return Place(checkout, idle(checkout, dict(os.environ), targets))


def reproduced(repository: Path, folder: Path, targets: list[str]) -> Place:
    """A fresh clone with the whole flow run in it."""
    environment = clone(repository, folder)
    print(f"[{folder.name}] dvc repro", flush=True)
    whole_s, by_package = reproduce(folder, environment, targets)
    imports_s = sum(by_package.values())
    print(f"[{folder.name}] done after {whole_s:.0f} s, {imports_s:.0f} s of them imports ({imports_s / whole_s:.1%})", flush=True)
    return Place(folder, idle(folder, environment, targets))


def idle(folder: Path, environment: dict[str, str], targets: list[str]) -> float:
    """Seconds of a `dvc repro` that finds nothing to do.

    Raises:
        Refused: it did something.
    """
    before = (folder / "dvc.lock").read_bytes()
    started = time.monotonic()
    said = run([sys.executable, "-m", "dvc", "repro", *targets], folder, environment)
    spent = time.monotonic() - started
    if "up to date" not in said or (folder / "dvc.lock").read_bytes() != before:
        raise Refused(f"`dvc repro` in `{folder}` found something to do though it had just run:\n{said}")
    return spent


def compare(first: Path, second: Path, part: str, must: bool) -> bool:
    """Print how the files of one part compare; False if they differ and must not."""
    one, other = hashes(first / part), hashes(second / part)
    different = sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name))
    size = sum(path.stat().st_size for path in files_of(first / part))
    if must and not one:
        raise Refused(f"`{first / part}` holds no files: there is nothing to compare.")
    print(f"{part:20s} {len(one):6d} files {size / 1e6:8.1f} MB  {'identical' if not different else f'{len(different)} differ'}")
    for name in different[:LISTED]:
        absent = [str(place / part) for place, found in ((first, one), (second, other)) if name not in found]
        print(f"    {part}/{name}{f': only outside of {absent[0]}' if absent else ''}")
        if not absent and name.endswith(".json"):
            for line in itertools.islice(differences(read_json(first / part / name), read_json(second / part / name)), LISTED):
                print(f"        {line}")
    if len(different) > LISTED:
        print(f"    and {len(different) - LISTED} more")
    return not (must and different)


def files_of(folder: Path) -> list[Path]:
    """Files of a part, in order; DVC's own `.gitignore` and folders of interrupted work are none of its."""
    if folder.is_file():
        return [folder]
    return [p for p in sorted(folder.rglob("*")) if p.is_file() and not any(name.startswith(".") for name in p.relative_to(folder).parts)]


def hashes(folder: Path) -> dict[str, str]:
    """sha256 by path from `folder`."""
    return {path.relative_to(folder).as_posix(): sha256_of_file(path) for path in files_of(folder)}


if __name__ == "__main__":
    sys.exit(main())

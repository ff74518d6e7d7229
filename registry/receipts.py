"""Receipts: what must be in the registry, as files.

DVC does not run a stage whose outputs it can pull or has in its cache, so a stage must not register anything itself. It
writes receipts, which are deterministic; `sync` registers whatever they name and the registry lacks.
"""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from registry.bundle import Bundle, read_bundle
from registry.errors import StoreError
from registry.files import read_json, write_json
from registry.provenance import Provenance, read_provenance
from registry.registration import Extras, register
from registry.store import Store


@dataclass(frozen=True)
class Receipt:
    """One bundle that must be registered.

    Attributes:
        row: name of the encoder or control.
        role: its role.
        benchmark: name.
        identity: of the version.
        evidence: sha256 of the scorecard.
        digest: sha256 of the bundle's manifest.
        bundle: its folder, relative to the workspace.
    """

    row: str
    role: str
    benchmark: str
    identity: str
    evidence: str
    digest: str
    bundle: str


@dataclass(frozen=True)
class SyncReport:
    """What `sync` did: versions as `NAME/VERSION`, in the order of the receipts."""

    registered: tuple[str, ...]
    already: tuple[str, ...]


def make_receipts(workspace: Path, benchmark: str) -> list[Receipt]:
    """Receipts of all bundles below `out/bundles/<benchmark>`, by row.

    Raises:
        BundleError: one of them is not whole.
    """
    folders = sorted(path.parent for path in (workspace / "out" / "bundles" / benchmark).glob("[!.]*/manifest.json"))
    return [_receipt(read_bundle(folder), folder.relative_to(workspace).as_posix()) for folder in folders]


def write_receipts(workspace: Path, benchmark: str) -> Path:
    """Publish `out/receipts/<benchmark>.json`; returns its path."""
    path = workspace / "out" / "receipts" / f"{benchmark}.json"
    write_json(path, [asdict(receipt) for receipt in make_receipts(workspace, benchmark)])
    return path


def read_receipts(path: Path) -> list[Receipt]:
    """Receipts of one benchmark.

    Raises:
        StoreError: the file is not one of receipts.
    """
    try:
        return [Receipt(**value) for value in read_json(path)]
    except (TypeError, ValueError) as error:
        raise StoreError(f"`{path}`: expected receipts, which it is not ({error}). Run `dvc repro`.") from error


def sync(store: Store, workspace: Path, say: Callable[[str], None] | None = None) -> SyncReport:
    """Register what the receipts of a workspace name and the registry lacks; complete what was interrupted.

    Args:
        store: the registry.
        workspace: its `out/receipts/*.json`, bundles, and where they exist `out/plots` and training histories are read.
        say: told what is done, a line at a time.

    Raises:
        StoreError: no receipts, or a bundle that a receipt names is missing or another one; nothing is registered then.
    """
    files = sorted((workspace / "out" / "receipts").glob("[!.]*.json"))
    if not files:
        raise StoreError(f"Expected receipts in `{workspace / 'out' / 'receipts'}`, found none. Run `dvc repro` or `dvc pull`.")
    provenance = read_provenance(workspace)
    jobs = [(_bundle(workspace, receipt), _of_receipts(provenance, path)) for path in files for receipt in read_receipts(path)]
    registered: list[str] = []
    already: list[str] = []
    for number, (bundle, where) in enumerate(jobs, 1):
        done = register(store, bundle, where, _extras(workspace, bundle))
        (registered if done.added else already).append(str(done.version))
        if say:
            say(f"{number}/{len(jobs)} {done.version} {'registered' if done.added else 'was there'} ({bundle.card.benchmark})")
    return SyncReport(tuple(registered), tuple(already))


def _receipt(bundle: Bundle, folder: str) -> Receipt:
    card = bundle.card
    return Receipt(bundle.name, card.card.role, card.benchmark, bundle.identity, bundle.evidence_hash, bundle.digest, folder)


def _bundle(workspace: Path, receipt: Receipt) -> Bundle:
    folder = workspace / receipt.bundle
    if not folder.resolve().is_relative_to(workspace.resolve()) or not (folder / "manifest.json").is_file():
        raise StoreError(f"The receipt of `{receipt.row}` names `{receipt.bundle}`, which is not there. Run `dvc repro` or `dvc pull`.")
    bundle = read_bundle(folder)
    if _receipt(bundle, receipt.bundle) != receipt:
        raise StoreError(f"`{receipt.bundle}` is not the bundle its receipt names. Run `dvc repro`: bundles and receipts are made together.")
    return bundle


def _of_receipts(provenance: Provenance, receipts: Path) -> Provenance:
    """Provenance of one file of receipts: a `dvc.lock` that names other receipts says nothing about these."""
    return provenance if provenance.covers(receipts) else replace(provenance, dvc_lock=b"")


def _extras(workspace: Path, bundle: Bundle) -> Extras:
    out, benchmark = workspace / "out", bundle.card.benchmark
    history = out / "weights" / benchmark / bundle.name / "history.csv"
    return Extras(out / "plots" / benchmark / bundle.name, read_curves(history) if history.is_file() else {})


def read_curves(path: Path) -> dict[str, list[float]]:
    """Numeric columns of a CSV file of training steps, by name, without the column that counts them."""
    with path.open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    names = [name for name in (rows[0] if rows else ()) if name not in ("epoch", "step")]
    return {name: [float(row[name]) for row in rows] for name in names if all(_is_number(row[name]) for row in rows)}


def _is_number(text: str | None) -> bool:
    try:
        return text is not None and abs(float(text)) < float("inf")
    except ValueError:
        return False

"""Promotion: the alias `promoted` moves only through the gate, and every decision is recorded on the version it was about."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from registry.bundle import Bundle
from registry.errors import GateRefusedError, NotFoundError
from registry.export import parity_faults
from registry.files import write_json
from registry.gates import ALPHA, MAX_LOSS, Decision, decide
from registry.records import Reference, Version
from registry.store import PROMOTED, Store


def promote(store: Store, reference: str, max_loss: float = MAX_LOSS, alpha: float = ALPHA) -> Decision:
    """Ask the gate about a version; move the alias `promoted` to it if it passes.

    The decision is recorded either way: tags `gate.decision`, `gate.reasons`, `gate.evidence` and `gate.decided_at` of the
    version, and `gate/<moment>.json` among its files, which holds every task the gate read. A version that was promoted
    earlier and is refused now keeps the alias, which the reasons say: a gate guards the way in.

    Args:
        store: the registry.
        reference: `NAME/VERSION`, `NAME@ALIAS`, or `NAME` for the one version that carries a benchmark's alias.
        max_loss: largest loss on any task that is tolerated.
        alpha: one-sided level.

    Raises:
        NotFoundError: no such version, or `NAME` is ambiguous.
        GateRefusedError: the evidence does not carry it; holds the reasons.
    """
    with store.writing():
        version = candidate(store, reference)
        bundles = _bundles(store, version)
        decision = decide([bundle.scorecard for bundle in bundles], _parity(bundles), max_loss, alpha)
        reasons = [*decision.reasons, *_still_promoted(version, decision)]
        _record(store, version, bundles, decision, reasons)
        if decision.passed:
            store.move_alias(version, PROMOTED)
    if not decision.passed:
        raise GateRefusedError(f"`{version}` is not promoted. " + " ".join(reasons))
    return decision


def candidate(store: Store, reference: str) -> Version:
    """The version a promotion is about: for `NAME` alone the one that carries a benchmark's alias.

    Raises:
        NotFoundError: no such version, or several benchmarks point to different versions of `NAME`.
    """
    wanted = Reference.parse(reference)
    if wanted.alias or wanted.version:
        return store.version(reference)
    versions = store.versions(wanted.name)
    if not versions:
        raise NotFoundError("registered model", wanted.name, store.models())
    current = [version for version in versions if set(version.aliases) & set(version.benchmarks)]
    if len(current) != 1:
        known = [f"{wanted.name}@{alias}" for version in versions for alias in version.aliases]
        raise NotFoundError("single current version", wanted.name, known or map(str, versions))
    return current[0]


def _bundles(store: Store, version: Version) -> list[Bundle]:
    if not version.benchmarks:
        raise NotFoundError(f"completely registered benchmark of `{version}`", str(version), ())
    bundles = []
    for benchmark in version.benchmarks:
        with tempfile.TemporaryDirectory() as scratch:
            bundle = store.fetch_bundle(str(version), Path(scratch) / "bundle", benchmark)
            _ = bundle.scorecard  # read while the files are there
        bundles.append(bundle)
    return bundles


def _parity(bundles: Sequence[Bundle]) -> dict[str, float]:
    """The parity of the version's one ONNX file; where benchmarks recorded several, one that is out of bounds if there is one."""
    return next((b.card.parity for b in bundles if parity_faults(b.card.parity)), bundles[0].card.parity)


def _still_promoted(version: Version, decision: Decision) -> list[str]:
    if decision.passed or PROMOTED not in version.aliases:
        return []
    return [f"It still carries the alias `{PROMOTED}` from an earlier decision; promote another version to move it."]


def _record(store: Store, version: Version, bundles: Sequence[Bundle], decision: Decision, reasons: Sequence[str]) -> None:
    now = datetime.now(UTC)
    evidence = {bundle.card.benchmark: bundle.evidence_hash for bundle in bundles}
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / f"{now:%Y%m%dT%H%M%S.%fZ}.json"
        written = {"version": str(version), "identity": version.identity, "evidence": evidence, "decided_at": now.isoformat()}
        write_json(path, {**decision.as_dict(), **written, "reasons": list(reasons)})
        store.log_model_file(version.model_id, path, "gate")
    facts = {"gate.decision": decision.word, "gate.reasons": " ".join(reasons), "gate.decided_at": now.isoformat(timespec="seconds")}
    store.tag_version(version, {**facts, "gate.evidence": " ".join(f"{name}:{digest}" for name, digest in evidence.items())})

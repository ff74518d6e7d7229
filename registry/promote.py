"""Promotion: the alias `promoted` moves only through the gate, and every decision is recorded on the version it was about.

A version keeps the alias only while its decision is about the evidence it has: `review` asks the gate again.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from registry.bundle import Bundle
from registry.errors import GateRefusedError, NotFoundError
from registry.export import parity_faults
from registry.files import sha256_of_json, write_json
from registry.gates import ALPHA, MAX_LOSS, Decision, decide
from registry.promotions import PROMOTION, WITHDRAWAL, move, remember
from registry.records import Reference, Version
from registry.staleness import Judge, Staleness, from_tags
from registry.store import PROMOTED, Store

#: the decision about a version to which `registry.rollback` went although the gate refuses it
FORCED = "forced"


def promote(store: Store, reference: str, max_loss: float = MAX_LOSS, alpha: float = ALPHA, judge: Judge | None = None) -> Decision:
    """Ask the gate about a version; move the alias `promoted` to it if it passes.

    The decision is recorded either way: tags `gate.decision`, `gate.reasons`, `gate.evidence` and `gate.decided_at` of the
    version, and `gate/<moment>.json` among its files, which holds every task the gate read. A version that was promoted
    earlier and is refused now keeps the alias, which the reasons say: a gate guards the way in.

    Args:
        store: the registry.
        reference: `NAME/VERSION`, `NAME@ALIAS`, or `NAME` for the one version that carries a benchmark's alias.
        max_loss: largest loss on any task that is tolerated.
        alpha: one-sided level.
        judge: says whether evidence is stale; what it cannot check is as the registry's tags say.

    Raises:
        NotFoundError: no such version, or `NAME` is ambiguous.
        GateRefusedError: the evidence does not carry it; holds the reasons.
    """
    with store.writing():
        version = candidate(store, reference)
        bundles = bundles_of(store, version)
        decision = ask_gate(version, bundles, max_loss, alpha, judge)
        reasons = [*decision.reasons, *_still_promoted(version, decision)]
        remember(store, version.name)
        record(store, version, bundles, decision, decision.word, reasons)
        if decision.passed and PROMOTED not in version.aliases:
            move(store, version, PROMOTION, " ".join(reasons))
    if not decision.passed:
        raise GateRefusedError(f"`{version}` is not promoted. " + " ".join(reasons))
    return decision


def review(store: Store, version: Version, max_loss: float = MAX_LOSS, alpha: float = ALPHA, judge: Judge | None = None) -> Decision:
    """Ask the gate again about a version that carries the alias `promoted`; take the alias away if it does not pass.

    The decision is recorded as one of `promote` is; its word is "promoted" or "withdrawn". The record comes first, so a process that
    is killed in between leaves an alias without its decision, which the next review finds.

    Args:
        store: the registry.
        version: carries the alias.
        max_loss: largest loss on any task that is tolerated.
        alpha: one-sided level.
        judge: as for `promote`.
    """
    with store.writing():
        version = store.version(str(version))
        bundles = bundles_of(store, version)
        decision = ask_gate(version, bundles, max_loss, alpha, judge)
        if PROMOTED not in version.aliases:
            return decision
        remember(store, version.name)
        taken = [] if decision.passed else [f"The alias `{PROMOTED}` was taken away."]
        record(store, version, bundles, decision, decision.word if decision.passed else "withdrawn", [*decision.reasons, *taken])
        if not decision.passed:
            move(store, version, WITHDRAWAL, " ".join(decision.reasons))
    return decision


def outdated(version: Version) -> list[str]:
    """Benchmarks on which a promoted version has other evidence than its last decision was about."""
    if PROMOTED not in version.aliases:
        return []
    if version.tags.get("gate.decision") not in ("promoted", FORCED):
        return list(version.benchmarks)
    decided = dict(pair.rpartition(":")[::2] for pair in version.tags.get("gate.evidence", "").split())
    return [name for name, digest in decided.items() if version.evidence(name) != digest]


def ask_gate(version: Version, bundles: Sequence[Bundle], max_loss: float, alpha: float, judge: Judge | None) -> Decision:
    """What the gate says of a version now; arguments as `promote`, and its bundles, one per benchmark."""
    return decide([bundle.scorecard for bundle in bundles], _parity(bundles), max_loss, alpha, _staleness(version, bundles, judge))


def _staleness(version: Version, bundles: Sequence[Bundle], judge: Judge | None) -> Mapping[str, Staleness]:
    """What is known of each benchmark's evidence: by the judge, else by the registry."""
    found = {}
    for bundle in bundles:
        name = bundle.card.benchmark
        here = judge(bundle.scorecard, sha256_of_json(bundle.card.card.as_dict())) if judge else Staleness(unchecked="nobody was asked")
        noted = from_tags(version.tags, name)
        found[name] = noted if here.unchecked and not noted.unchecked else here
    # without a judge nothing was to be checked
    return found if judge else {name: each for name, each in found.items() if each.stale}


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


def bundles_of(store: Store, version: Version) -> list[Bundle]:
    """The current bundles of a version, one per benchmark, with their scorecards read; their files are gone again.

    Raises:
        NotFoundError: nothing of it is completely registered.
    """
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


def record(store: Store, version: Version, bundles: Sequence[Bundle], decision: Decision, word: str, reasons: Sequence[str]) -> None:
    """Write a decision on the version it was about: tags, and a file with every task the gate read."""
    now = datetime.now(UTC)
    evidence = {bundle.card.benchmark: bundle.evidence_hash for bundle in bundles}
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / f"{now:%Y%m%dT%H%M%S.%fZ}.json"
        written = {"version": str(version), "identity": version.identity, "evidence": evidence, "decided_at": now.isoformat()}
        write_json(path, {**decision.as_dict(), **written, "decision": word, "reasons": list(reasons)})
        store.log_model_file(version.model_id, path, "gate")
    facts = {"gate.decision": word, "gate.reasons": " ".join(reasons), "gate.decided_at": now.isoformat(timespec="seconds")}
    store.tag_version(version, {**facts, "gate.evidence": " ".join(f"{name}:{digest}" for name, digest in evidence.items())})

"""What registering a bundle means, step by step.

**Registering twice adds nothing, and a registration that was killed is completed by the next one.** Each step looks up what
it would make, and what it logs is the same bytes under the same name and time. The tag `registered.<benchmark>` and the
alias `<benchmark>` come last: until both are there nothing is skipped, and nobody is shown half a version.

One host: a file lock lets one process write at a time. PostgreSQL: an advisory lock does so for all hosts. Several hosts on
one MLflow server: there is never more than one version of an identity after the last of them is done
(`Store.ensure_version`); at worst a run is there twice, and the earliest counts.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from registry import tags
from registry.bundle import Bundle
from registry.errors import StoreError
from registry.files import sha256_of_file, sha256_of_json
from registry.provenance import Provenance
from registry.records import ModelRecord, RunRecord, Version
from registry.store import PROMOTED, Store

#: aliases that MLflow gives a meaning of its own, and the one that only the gate moves
RESERVED = re.compile(rf"latest|v\d+|{PROMOTED}")


@dataclass(frozen=True)
class Registration:
    """What became of one bundle: its version, and whether anything was added."""

    version: Version
    added: bool


@dataclass(frozen=True)
class Extras:
    """What is logged beside a bundle where it exists.

    Attributes:
        plots: a folder of PNG files.
        curves: training curves, one value per step, by name.
    """

    plots: Path | None = None
    curves: Mapping[str, Sequence[float]] = field(default_factory=dict)


def register(store: Store, bundle: Bundle, provenance: Provenance | None = None, extras: Extras | None = None) -> Registration:
    """Register a bundle, or complete its registration, or find that there is nothing to do.

    Args:
        store: where.
        bundle: verified.
        provenance: recorded with the run; one that can be reproduced replaces one that cannot.
        extras: plots and training curves; new ones are added to a run that is already there.

    Raises:
        StoreError: the store refused, or the benchmark's name cannot be an alias.
    """
    benchmark = bundle.card.benchmark
    if RESERVED.fullmatch(benchmark):
        raise StoreError(f"A benchmark cannot be called `{benchmark}`: that alias has a meaning of its own. Rename the benchmark.")
    with store.writing():
        version = store.find(bundle.name, bundle.identity)
        added = version is None or not _complete(version, bundle)
        if added:
            _register(store, bundle, provenance or Provenance())
            version = store.find(bundle.name, bundle.identity)
        if version is None:
            raise StoreError(f"`{bundle.name}` was registered and is not there any more. Look who else writes to `{store.uri}`.")
        _add_later(store, store.run(version.tags[f"run.{benchmark}"]), provenance or Provenance(), extras or Extras())
    return Registration(version, added)


def _content(bundle: Bundle) -> str:
    """What `registered.<benchmark>` says: evidence and bundle."""
    return f"{bundle.evidence_hash}:{bundle.digest}"


def _complete(version: Version, bundle: Bundle) -> bool:
    benchmark = bundle.card.benchmark
    return version.tags.get(f"registered.{benchmark}") == _content(bundle) and benchmark in version.aliases


def _register(store: Store, bundle: Bundle, provenance: Provenance) -> None:
    card, scorecard, benchmark = bundle.card, bundle.scorecard, bundle.card.benchmark
    path = f"bundles/{benchmark}/{bundle.digest[:16]}"
    fixed = tags.fixed_tags(bundle)
    run = _run(store, bundle, provenance)
    existing = store.find(bundle.name, bundle.identity)
    kind = "encoder" if card.card.role == "encoder" else "control"
    params = tags.params(card.card, card.dim)
    model = store.model(existing.model_id) if existing else store.ensure_model(run, bundle.name, fixed, params, kind)
    _store(store, run, model, bundle, path)
    version = store.ensure_version(bundle.name, card.card.summary, model, fixed)
    if version.model_id != model.model_id:
        # another host was first: what was stored belongs to its model
        _store(store, run, store.model(version.model_id), bundle, path)
    evidence = {f"run.{benchmark}": run.run_id, f"bundle.{benchmark}": path, **tags.evidence_tags(scorecard)}
    if version.tags.get(f"stale.{benchmark}"):
        # that was said of the evidence before; nobody has looked at this one yet
        evidence[f"stale.{benchmark}"] = ""
    summary = tags.summary_tags({**version.tags, **evidence})
    store.tag_version(version, {**evidence, **summary})
    store.describe_version(version, tags.description(bundle), {**fixed, **evidence, **summary})
    store.tag_registered_model(bundle.name, tags.model_tags(_current(store, version, benchmark)))
    store.finish_run(run)
    store.tag_version(version, {f"registered.{benchmark}": _content(bundle)})
    store.move_alias(version, benchmark)


def _current(store: Store, version: Version, benchmark: str) -> list[dict[str, str]]:
    """Tags of the versions that carry a benchmark's alias once `version` has taken that of `benchmark`."""
    return [
        v.tags
        for v in store.versions(version.name)
        if v.number == version.number or any(f"bundle.{alias}" in v.tags for alias in v.aliases if alias != benchmark)
    ]


def _run(store: Store, bundle: Bundle, provenance: Provenance) -> RunRecord:
    card = bundle.card
    key = sha256_of_json([bundle.identity, card.benchmark, bundle.evidence_hash])
    facts = {tags.IDENTITY: bundle.identity, "role": card.card.role, "benchmark": card.benchmark, "evidence": bundle.evidence_hash}
    facts |= {"mlflow.note.content": tags.description(bundle), "mlflow.source.name": "blankslide", **provenance.as_tags()}
    # `dvc.lock` says that the file is stored beside the run, which it is not yet
    return store.ensure_run(store.ensure_experiment(card.benchmark, bundle.scorecard.benchmark_title), key, bundle.name, {**facts, "dvc.lock": ""})


def _store(store: Store, run: RunRecord, model: ModelRecord, bundle: Bundle, path: str) -> None:
    scorecard = bundle.scorecard
    store.upload(model, bundle, path)
    store.log_scores(run, model, tags.metrics(scorecard), tags.params(bundle.card.card, bundle.card.dim), scorecard.benchmark, scorecard.data_hash)
    store.log_file(run.run_id, bundle.folder / "scorecard.json")


def _add_later(store: Store, run: RunRecord, provenance: Provenance, extras: Extras) -> None:
    """What may change or appear after the evidence: where it was reproduced, plots, curves."""
    reproducible = run.tags.get("git.commit") and run.tags.get("git.dirty") == "false" and run.tags.get("dvc.lock")
    if not reproducible and (provenance.commit or provenance.dvc_lock):
        if provenance.dvc_lock:
            with tempfile.TemporaryDirectory() as scratch:
                path = Path(scratch) / "dvc.lock"
                path.write_bytes(provenance.dvc_lock)
                store.log_file(run.run_id, path)
        store.tag_run(run, provenance.as_tags())
    if extras.plots is not None and (images := sorted(extras.plots.glob("*.png"))):
        digest = sha256_of_json({path.name: sha256_of_file(path) for path in images})
        if run.tags.get("plots") != digest:
            for image in images:
                store.log_file(run.run_id, image, "plots")
            store.tag_run(run, {"plots": digest})
    if extras.curves:
        digest = sha256_of_json({name: list(values) for name, values in extras.curves.items()})
        if run.tags.get("curves") != digest:
            store.log_curves(run, {f"training/{name}": values for name, values in extras.curves.items()})
            store.tag_run(run, {"curves": digest})

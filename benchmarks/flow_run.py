"""Reads the latest run of `mlflow run .` back from the store and checks what it says against git, dvc.lock and the bundle on disk.

    mlflow run . -P encoder=simclr-culture -P benchmark=culture --env-manager=uv
    python benchmarks/flow_run.py --encoder simclr-culture --benchmark culture --env-manager uv

    mlflow run . -P encoder=nobody --env-manager=local      # fails
    python benchmarks/flow_run.py --encoder nobody --benchmark culture --status FAILED

Run it in the checkout. The store is MLFLOW_TRACKING_URI or `mlflow.db` here. Exit code 1 when something is not as it should be; each is said.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from registry.bundle import read_bundle
from registry.provenance import read_provenance
from registry.store import FLOW, Store, default_uri
from registry.tags import metrics


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", required=True)
    parser.add_argument("--benchmark", required=True)
    parser.add_argument("--env-manager", choices=("local", "uv"), default="local")
    parser.add_argument("--status", choices=("FINISHED", "FAILED"), default="FINISHED")
    options = parser.parse_args()
    store = Store(default_uri(Path()))
    run = latest(store)
    if run is None:
        print(f"There is no run in the experiment `{FLOW}` of {store.uri}.", file=sys.stderr)
        return 1
    faults = list(of_every_run(run, options))
    if options.status == "FINISHED":
        faults += of_a_finished_run(run, store, options)
    tags = run.data.tags
    print(f"run {run.info.run_id}: {run.info.status}, `{tags.get('blankslide.command')}`, commit {tags.get('git.commit', '')[:12]},", end=" ")
    inputs = [key for key in tags if key.startswith("dvc.") and key != "dvc.lock"]
    print(f"{len(run.data.params)} params, {len(run.data.metrics)} metrics, {len(inputs)} hashes of inputs")
    for fault in faults:
        print(f"flow_run: {fault}", file=sys.stderr)
    return 1 if faults else 0


def latest(store: Store) -> Any:
    """The run of the flow that was started last, by MLflow's own client; None if there is none."""
    from mlflow import MlflowClient

    client = MlflowClient(store.uri)
    experiment = client.get_experiment_by_name(FLOW)
    runs = client.search_runs([experiment.experiment_id], order_by=["attributes.start_time DESC"], max_results=1) if experiment else []
    return runs[0] if runs else None


def of_every_run(run: Any, options: argparse.Namespace) -> Iterator[str]:
    """What is not as it should be of any run, in words."""
    tags, params = run.data.tags, run.data.params
    here = read_provenance(Path())
    expected = {
        "status": (run.info.status, options.status),
        "params.encoder": (params.get("encoder"), options.encoder),
        "params.benchmark": (params.get("benchmark"), options.benchmark),
        "params.seed": (params.get("seed"), str(yaml.safe_load(Path("params.yaml").read_text(encoding="utf-8"))["seed"])),
        "tags.mlflow.project.env": (tags.get("mlflow.project.env", "local"), options.env_manager),
        "tags.mlflow.parentRunId": (tags.get("mlflow.parentRunId"), None),
        "tags.git.commit": (tags.get("git.commit"), here.commit),
        "tags.git.dirty": (tags.get("git.dirty"), "true" if here.dirty else "false"),
        "tags.blankslide.command": (tags.get("blankslide.command"), f"experiment {options.encoder} {options.benchmark}"),
    }
    for what, (came, wanted) in expected.items():
        if came != wanted:
            yield f"`{what}`: expected {wanted!r}, got {came!r}"
    for name in ("device", "processor", "version.torch", "version.mlflow"):
        if not tags.get(name):
            yield f"`tags.{name}` is not there"


def of_a_finished_run(run: Any, store: Store, options: argparse.Namespace) -> Iterator[str]:
    """What is not as it should be of a run that ended well, in words."""
    stage = yaml.safe_load(Path("dvc.lock").read_text(encoding="utf-8"))["stages"][f"package@{options.benchmark}"]
    for dependency in stage["deps"]:
        came = run.data.tags.get(f"dvc.{dependency['path']}")
        if came != dependency["md5"]:
            yield f"`tags.dvc.{dependency['path']}`: expected {dependency['md5']} as in dvc.lock, got {came}"
    bundle = read_bundle(Path("out/bundles") / options.benchmark / options.encoder)
    version = store.find(options.encoder, bundle.identity)
    if version is None or run.data.tags.get("blankslide.version") != str(version):
        yield f"`tags.blankslide.version`: expected {version}, got {run.data.tags.get('blankslide.version')}"
    if run.data.metrics != metrics(bundle.scorecard):
        yield f"the metrics are not those of the scorecard of `{options.encoder}`"


if __name__ == "__main__":
    sys.exit(main())

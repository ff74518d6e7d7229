"""Where a number comes from: commit, parameters, hashes of inputs, package versions, device.

A command that `mlflow run` started stamps this on its run. The stages themselves write no times, run ids or paths into their
outputs, so that two clones give the same bytes.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from pipelines.workspace import Workspace, limit_threads

PACKAGES = ("torch", "timm", "numpy", "scipy", "scikit-learn", "onnxruntime-gpu", "pyarrow", "mlflow", "dvc")


def versions() -> dict[str, str]:
    """Versions of the packages a number depends on, without importing them."""
    return {name: metadata.version(name) for name in PACKAGES}


@contextmanager
def inside_mlflow_run(root: Path, command: Sequence[str], stage: str = "", whole: bool = False) -> Iterator[str | None]:
    """If `mlflow run` started this process, stamp its run with provenance, before the work and so also if it fails.

    MLFLOW_RUN_ID is taken out of the environment: every process started below would otherwise write into the same run.

    Args:
        root: the workspace.
        command: the sub-command and its arguments.
        stage: the stage of dvc.yaml that it runs; "" if none.
        whole: the command first brings everything that the stage depends on up to date: hashes of inputs are taken afterwards.

    Yields:
        The run's id; None outside of `mlflow run`.

    Raises:
        ParamsError: params.yaml cannot be read.
        StoreError: the run cannot be written.
    """
    run_id = os.environ.pop("MLFLOW_RUN_ID", None)
    if run_id is None:
        yield None
        return
    # before mlflow loads numpy: a stage must compute as it does under dvc
    limit_threads(Workspace(root).params().threads)
    from registry.provenance import read_provenance
    from registry.store import stamp_run

    found = read_inputs(root, stage, whole)
    facts = {"blankslide.command": " ".join(command), **read_provenance(root).as_tags(), **machine()}
    facts |= {f"version.{name}": version for name, version in versions().items()}
    stamp_run(run_id, {**facts, **({} if whole else found.as_tags())}, params=found.params, files=[root / "params.yaml", root / "dvc.lock"])
    yield run_id
    if whole:
        after = read_inputs(root, stage, whole)
        stamp_run(run_id, {**read_provenance(root).as_tags(), **after.as_tags()}, files=[root / "dvc.lock"])


def stage_name(command: str, arguments: Sequence[str]) -> str:
    """How dvc.yaml calls the stage of a command: "extract@culture--simclr", "report"."""
    return f"{command}@{'--'.join(arguments)}" if arguments else command


@dataclass(frozen=True)
class Inputs:
    """What a stage reads.

    Attributes:
        hashes: DVC's hash of each dependency as it is now, by path; "missing" where it is not there.
        params: values of params.yaml by dotted name.
        unknown: why there is nothing to say, in words; "" otherwise.
    """

    hashes: Mapping[str, str] = field(default_factory=dict)
    params: Mapping[str, str] = field(default_factory=dict)
    unknown: str = ""

    def as_tags(self) -> dict[str, str]:
        """Tags of a run."""
        return {f"dvc.{path}": value for path, value in self.hashes.items()} | ({"dvc.unknown": self.unknown} if self.unknown else {})


def read_inputs(root: Path, stage: str, whole: bool = False) -> Inputs:
    """Hashes and parameters of a stage's inputs, by DVC itself: what lies there now, whatever dvc.lock says.

    Args:
        root: a workspace.
        stage: name in dvc.yaml; "" has no inputs.
        whole: of all stages above it too.
    """
    if not stage:
        return Inputs()
    from dvc.dependency.param import ParamsDependency
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    hashes: dict[str, str] = {}
    params: dict[str, str] = {}
    try:
        with Repo(str(root)) as repo:
            # a name alone would be looked up in the current folder's dvc.yaml
            found = repo.stage.collect(f"{Path(root).resolve() / 'dvc.yaml'}:{stage}", with_deps=whole)
            for dependency in (d for each in found for d in each.deps):
                if isinstance(dependency, ParamsDependency):
                    params |= dict(flat(dependency.read_params()))
                else:
                    hashes[dependency.def_path] = str(dependency.get_hash().value) if dependency.exists else "missing"
    except DvcException as error:
        return Inputs(unknown=str(error))
    return Inputs(hashes, params)


def flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Nested values by dotted name, as text; lists and empty mappings as JSON."""
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value if isinstance(value, str) else json.dumps(value)


def machine() -> dict[str, str]:
    """What computes here: `device` (the CUDA device or "cpu") and `processor`; read from the kernel rather than by importing torch."""
    cards = [_field(path, "Model") for path in sorted(Path("/proc/driver/nvidia/gpus").glob("*/information"))]
    return {"device": f"cuda: {', '.join(cards)}" if cards else "cpu", "processor": _field(Path("/proc/cpuinfo"), "model name")}


def _field(path: Path, name: str) -> str:
    """The first `name : value` of a file of the kernel's; "unknown" where there is none."""
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []
    return next((value.strip() for key, _, value in (line.partition(":") for line in lines) if key.strip() == name), "unknown")

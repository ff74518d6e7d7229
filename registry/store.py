"""MLflow as the registry sees it. The only importer of mlflow, and a late one: opening a store costs its import, not this module.

| Blankslide | MLflow |
|---|---|
| benchmark | experiment of that name |
| row x benchmark x evidence | run, found again by the tag `blankslide.key` |
| row | registered model of that name |
| identity (card, weights, preprocessing) | logged model, and one version of the registered model |
| bundle | artifacts of the logged model, `bundles/<benchmark>/<digest>` |
| current evidence on a benchmark | alias `<benchmark>` and the tags of `registry.tags` |

`ensure_...` looks an object up before it makes it, by tags that are written in the same transaction as the object, so
each may be repeated after a kill. What is registered, and in which order, is `registry.registration`.
"""

from __future__ import annotations

import logging
import math
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from importlib import metadata
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np

from registry.arrays import PixelBatch
from registry.bundle import Bundle, read_bundle
from registry.drawn import drawn_images
from registry.errors import BundleError, NotFoundError, StoreError
from registry.evidence import Scorecard
from registry.files import canonical_json, read_json
from registry.locks import exclusive, sqlite_path
from registry.provenance import Provenance
from registry.records import ModelRecord, Reference, RunRecord, Version
from registry.tags import IDENTITY, metrics

if TYPE_CHECKING:
    from mlflow import MlflowClient

KEY = "blankslide.key"
#: tag of an experiment: what its runs are
KIND = "blankslide"
#: experiment of `mlflow run`; no benchmark can be called so
FLOW = "Flow"
PROMOTED = "promoted"
#: values of one image above which the flavour carries no input example: it is stored as JSON
MAX_EXAMPLE = 1_000_000
_PAGE = 1000
_BATCH = 100
_EXISTS = "RESOURCE_ALREADY_EXISTS"


def default_uri(workspace: Path) -> str:
    """MLFLOW_TRACKING_URI, or `mlflow.db` in the workspace."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{workspace.resolve() / 'mlflow.db'}"


def artifact_root(uri: str, stated: str = "") -> str:
    """Where files of new experiments go: a URI or an absolute folder.

    `stated`, else MLFLOW_DEFAULT_ARTIFACT_ROOT (as `mlflow server` takes it), else `mlartifacts` beside an SQLite
    database. "" where an MLflow server decides, or where nothing is stated for another database.
    """
    database = sqlite_path(uri)
    if not stated and not uri.startswith("http"):
        stated = os.environ.get("MLFLOW_DEFAULT_ARTIFACT_ROOT", "")
    if not stated and database is not None:
        stated = str(database.resolve().parent / "mlartifacts")
    if not stated or "://" in stated:
        return stated.rstrip("/")
    return str(Path(stated).expanduser().resolve())


def flow_experiment() -> str:
    """Id of the experiment of `mlflow run` in the process's default store."""
    import mlflow

    return Store(mlflow.get_tracking_uri()).ensure_experiment(FLOW, "Runs of the flow, started by `mlflow run`", "flow")


def stamp_run(
    run_id: str, facts: Mapping[str, str], params: Mapping[str, str] | None = None, files: Sequence[Path] = (), bundle: Bundle | None = None
) -> None:
    """Write what is known to the run with which `mlflow run` started this process, in the store that MLFLOW_TRACKING_URI names.

    Args:
        run_id: of that run.
        facts: tags.
        params: values by dotted name.
        files: stored among the run's artifacts where they exist.
        bundle: whose scores are logged as metrics, with the dataset.
    """
    _prepare()
    from mlflow import MlflowClient
    from mlflow.entities import Dataset, DatasetInput, Metric, Param, RunTag

    client = MlflowClient()
    with _errors(f"Run `{run_id}` cannot be written"):
        started_ms = int(client.get_run(run_id).info.start_time)
        for batch in _batches([RunTag(key, value) for key, value in facts.items()]):
            client.log_batch(run_id, tags=batch)
        for batch in _batches([Param(key, value) for key, value in (params or {}).items()]):
            client.log_batch(run_id, params=batch)
        if bundle is not None:
            card = bundle.scorecard
            dataset = Dataset(card.benchmark, card.data_hash[:32], "blankslide", canonical_json({"benchmark": card.benchmark}))
            client.log_inputs(run_id, [DatasetInput(dataset, [])])
            for batch in _batches(
                [Metric(key, value, started_ms, 0, None, dataset.name, dataset.digest, run_id) for key, value in metrics(card).items()]
            ):
                client.log_batch(run_id, metrics=batch)
        for path in files:
            if path.is_file():
                client.log_artifact(run_id, str(path))


class Store:
    """A tracking store and model registry, its schema made; from then on also the process's default for mlflow.

    Args:
        uri: `sqlite:////absolute/mlflow.db`, `postgresql+psycopg://...` or `http://...`.
        artifacts: where files of new experiments go (a folder or `s3://...`); default: see `artifact_root`.

    Raises:
        StoreError: a store that cannot be opened.
    """

    def __init__(self, uri: str, artifacts: str = "") -> None:
        self.uri = uri
        self._artifacts = artifact_root(uri, artifacts)
        _prepare()
        import mlflow

        # of several processes that open an empty database at once all but one die on a half-made schema
        with exclusive(uri, "schema"), _errors(f"The store `{uri}` cannot be opened"):
            mlflow.set_tracking_uri(uri)
            self._client: MlflowClient = mlflow.MlflowClient(uri, uri)
            self._client.search_experiments(max_results=1)
            self._client.search_registered_models(max_results=1)

    @classmethod
    def watched(cls, uri: str) -> Store:
        """The store of a process that looks at it again and again, and must not make one.

        No connection outlives a look: one that does goes on reading an SQLite file that was moved away. A server that does not
        answer is given up after seconds; MLflow alone tries for minutes.

        Raises:
            StoreError: not there, or it cannot be opened.
        """
        _require_file(uri)
        for name, value in (("SQLALCHEMYSTORE_POOLCLASS", "NullPool"), ("HTTP_REQUEST_MAX_RETRIES", "1"), ("HTTP_REQUEST_TIMEOUT", "30")):
            os.environ.setdefault(f"MLFLOW_{name}", value)
        return cls(uri)

    def require(self) -> None:
        """Make sure that a look does not make an empty database where the registry's was.

        Raises:
            StoreError: the file of an SQLite database is gone.
        """
        _require_file(self.uri)

    def writing(self) -> AbstractContextManager[None]:
        """Hold the store's lock for one registration or decision."""
        return exclusive(self.uri, "register")

    # ------------------------------------------------------------------------------------------ reading

    def model_tags(self, name: str) -> dict[str, str]:
        """Tags of a registered model.

        Raises:
            StoreError: no such model.
        """
        with _errors(f"The tags of `{name}` cannot be read"):
            return dict(self._client.get_registered_model(name).tags)

    def models(self) -> list[str]:
        """Names of all registered models, sorted."""
        with _errors("The registered models cannot be listed"):
            return sorted(model.name for model in _all(self._client.search_registered_models))

    def versions(self, name: str) -> list[Version]:
        """All versions of one registered model, oldest first; [] if there is no such model."""
        return self._search(f"name = '{name}'", name)

    def find(self, name: str, identity: str) -> Version | None:
        """The version of that identity, the first if there should be two; None if it is not registered."""
        found = self._search(f"name = '{name}' and tags.`{IDENTITY}` = '{identity}'", name)
        return found[0] if found else None

    def version(self, reference: str) -> Version:
        """The version a reference names; `NAME` alone means its alias `promoted`.

        Raises:
            NotFoundError: no such model, version or alias; lists what there is.
            StoreError: the registry is empty.
        """
        wanted = Reference.parse(reference)
        versions = self.versions(wanted.name)
        if not versions:
            known = self.models()
            if not known:
                raise StoreError(f"`{self.uri}` holds no registered model, so no `{wanted.name}`. Fill it with `blankslide registry sync`.")
            raise NotFoundError("registered model", wanted.name, known)
        alias = wanted.alias or PROMOTED
        for version in versions:
            if version.number == wanted.version or (not wanted.version and alias in version.aliases):
                return version
        known = [*(f"{v.name}@{a}" for v in versions for a in v.aliases), *map(str, versions)]
        raise NotFoundError("version", reference if wanted.version else f"{wanted.name}@{alias}", known)

    def fetch_bundle(self, reference: str, folder: Path, benchmark: str = "") -> Bundle:
        """Download, verify and rename into place the bundle of a version; an old one at `folder` is replaced.

        Args:
            reference: `NAME`, `NAME@ALIAS` or `NAME/VERSION`.
            folder: where the bundle will lie.
            benchmark: whose heads and scores; default: the alias, if it is one, or the only one there is.

        Raises:
            NotFoundError: no such version, or it has no evidence on that benchmark.
            BundleError: what came is not what was registered.
        """
        version = self.version(reference)
        return self.fetch(version, version.benchmark_of(reference, benchmark), folder)

    def fetch(self, version: Version, benchmark: str, folder: Path) -> Bundle:
        """As `fetch_bundle`, of a version that was looked up already.

        Raises:
            NotFoundError: it has no evidence on that benchmark.
            BundleError: what came is not what was registered.
        """
        if benchmark not in version.benchmarks:
            raise NotFoundError(f"benchmark of `{version}`", benchmark, version.benchmarks)
        path = version.tags[f"bundle.{benchmark}"]
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", suffix=".part", dir=folder.parent) as scratch:
            fetched = self._download(version, path, Path(scratch))
            came = read_bundle(fetched).digest
            if not came.startswith(PurePosixPath(path).name):
                raise BundleError(
                    f"The files of `{version}` at `{path}` are a bundle of digest {came}: another one than was registered there."
                    " Restore the artifact store, then register it again."
                )
            if folder.exists():
                os.replace(folder, Path(scratch) / "replaced")
            os.replace(fetched, folder)
        return read_bundle(folder)

    def provenance(self, version: Version, benchmark: str) -> Provenance:
        """Commit and `dvc.lock` recorded with the evidence on one benchmark.

        Raises:
            NotFoundError: the version has no evidence on it.
        """
        if benchmark not in version.benchmarks:
            raise NotFoundError(f"benchmark of `{version}`", benchmark, version.benchmarks)
        run_id = version.tags[f"run.{benchmark}"]
        with tempfile.TemporaryDirectory() as scratch, _errors(f"The run of `{version}` cannot be read"):
            facts = self._client.get_run(run_id).data.tags
            path = Path(self._client.download_artifacts(run_id, "dvc.lock", scratch)) if facts.get("dvc.lock") else None
            lock = path.read_bytes() if path else b""
        return Provenance(facts.get("git.commit", ""), facts.get("git.dirty") != "false", facts.get("git.prefix", ""), lock)

    def scorecard(self, version: Version, benchmark: str) -> Scorecard:
        """The current scorecard of a version on one benchmark, without the rest of its bundle.

        Raises:
            NotFoundError: the version has no evidence on it.
        """
        if benchmark not in version.benchmarks:
            raise NotFoundError(f"benchmark of `{version}`", benchmark, version.benchmarks)
        return self.scorecard_of(version.tags[f"run.{benchmark}"])

    def scorecard_of(self, run_id: str) -> Scorecard:
        """The scorecard of one run: one set of evidence, current or earlier."""
        with tempfile.TemporaryDirectory() as scratch, _errors(f"The scorecard of run `{run_id}` cannot be read"):
            path = Path(self._client.download_artifacts(run_id, "scorecard.json", scratch))
            return Scorecard.from_dict(read_json(path))

    def history(self, version: Version, benchmark: str) -> list[RunRecord]:
        """Every set of evidence a version ever had on one benchmark, oldest first."""
        with _errors(f"The evidence of `{version}` cannot be listed"):
            experiment = self._client.get_experiment_by_name(benchmark)
            if experiment is None:
                return []
            wanted = f"tags.`{IDENTITY}` = '{version.identity}' AND attributes.run_name = '{version.name}'"
            found = self._client.search_runs([experiment.experiment_id], wanted, order_by=["attributes.start_time ASC"], max_results=_PAGE)
        # what a killed process left has no scorecard yet
        return [_run_record(run) for run in found if run.info.status == "FINISHED"]

    def run(self, run_id: str) -> RunRecord:
        """One run by its id."""
        with _errors(f"Run `{run_id}` cannot be read"):
            return _run_record(self._client.get_run(run_id))

    # ------------------------------------------------------------------------------------------ making

    def ensure_experiment(self, name: str, title: str, kind: str = "benchmark") -> str:
        """Id of an experiment; one that somebody else made under that name is taken over as it is.

        Args:
            name: of the experiment; a benchmark's experiment is called as the benchmark.
            title: its description.
            kind: "benchmark" (evidence of registered versions) or "flow" (runs of `mlflow run`).

        Raises:
            StoreError: it was deleted, or it would be the first on a database and nothing says where files go.
        """
        with _errors(f"The experiment `{name}` cannot be made"):
            existing = self._client.get_experiment_by_name(name)
            if existing is None:
                self._unless_exists(lambda: self._client.create_experiment(name, self._location(name), {KIND: kind, "mlflow.note.content": title}))
                existing = self._client.get_experiment_by_name(name)
            if existing is None or existing.lifecycle_stage != "active":
                raise StoreError(f"The experiment `{name}` was deleted in MLflow. Restore it, or delete it for good with `mlflow gc`.")
            if KIND not in existing.tags:
                # made by `mlflow run --experiment-name` or by hand: models are searched for in experiments of this mark
                self._client.set_experiment_tag(existing.experiment_id, KIND, kind)
            return str(existing.experiment_id)

    def _location(self, name: str) -> str | None:
        if not self._artifacts and not self.uri.startswith("http"):
            raise StoreError(
                "This database holds no files: expected a folder or `s3://...` that every user of the store reaches, in --artifact-location"
                " or MLFLOW_DEFAULT_ARTIFACT_ROOT."
            )
        return f"{self._artifacts}/{name}" if self._artifacts else None

    def ensure_run(self, experiment: str, key: str, name: str, facts: Mapping[str, str]) -> RunRecord:
        """The run of that key, the earliest if there should be two."""
        with _errors(f"The run of `{name}` cannot be made"):
            found = self._client.search_runs([experiment], f"tags.`{KEY}` = '{key}'", order_by=["attributes.start_time ASC"])
            return _run_record(found[0] if found else self._client.create_run(experiment, tags={**facts, KEY: key}, run_name=name))

    def ensure_model(self, run: RunRecord, name: str, facts: Mapping[str, str], params: Mapping[str, str], kind: str) -> ModelRecord:
        """The logged model of the identity in `facts`, the earliest if there should be two."""
        with _errors(f"The logged model of `{name}` cannot be made"):
            ours = [e.experiment_id for e in self._client.search_experiments(filter_string=f"tags.`{KIND}` = 'benchmark'", max_results=_PAGE)]
            wanted = f"tags.`{IDENTITY}` = '{facts[IDENTITY]}' AND name = '{name}'"
            found = self._client.search_logged_models(ours, wanted, order_by=[{"field_name": "creation_timestamp", "ascending": True}])
            if found:
                return _model_record(found[0])
            return _model_record(self._client.create_logged_model(run.experiment, name, run.run_id, dict(facts), dict(params), kind))

    def model(self, model_id: str) -> ModelRecord:
        """One logged model by its id."""
        with _errors(f"The logged model `{model_id}` cannot be read"):
            return _model_record(self._client.get_logged_model(model_id))

    def upload(self, model: ModelRecord, bundle: Bundle, path: str) -> None:
        """Put a bundle at `path` among a logged model's files, with MLflow's ONNX flavour if there is ONNX, and finalise it."""
        with tempfile.TemporaryDirectory() as scratch, _errors(f"The files of `{bundle.name}` cannot be stored"):
            content = Path(scratch) / "content"
            if bundle.onnx is not None and not model.ready:
                _write_flavour(bundle, model.model_id, content)
            shutil.copytree(bundle.folder, content / path)
            self._client.log_model_artifacts(model.model_id, str(content))
            self._client.finalize_logged_model(model.model_id, "READY")

    def ensure_version(self, name: str, summary: str, model: ModelRecord, facts: Mapping[str, str]) -> Version:
        """The version of the identity in `facts`.

        Without a common lock two hosts may each make one. Numbers follow the order of commits, so whoever then sees a
        smaller number came second and withdraws its own.
        """
        import mlflow

        existing = self.find(name, facts[IDENTITY])
        if existing is not None:
            return existing
        with _errors(f"A version of `{name}` cannot be made"):
            self._unless_exists(lambda: self._client.create_registered_model(name, {"role": facts["role"]}, summary))
            # a direct store looks the logged model up in the process's default store, not in the client's
            mlflow.set_tracking_uri(self.uri)
            source = f"models:/{model.model_id}"
            made = self._client.create_model_version(name, source, model.source_run, dict(facts), model_id=model.model_id)
            first = self.find(name, facts[IDENTITY])
            if first is not None and first.number < int(made.version):
                self._client.delete_model_version(name, str(made.version))
                self._client.delete_logged_model(model.model_id)
        if first is None:
            raise StoreError(f"Version {made.version} of `{name}` was made and is not there. Look who else writes to `{self.uri}`.")
        return first

    def log_scores(
        self, run: RunRecord, model: ModelRecord, values: Mapping[str, float], params: Mapping[str, str], benchmark: str, data_hash: str
    ) -> None:
        """Log scores to a run and its logged model with the dataset attached; logging them again adds nothing."""
        from mlflow.entities import Dataset, DatasetInput, LoggedModelInput, LoggedModelOutput, Metric, Param

        dataset = Dataset(benchmark, data_hash[:32], "blankslide", canonical_json({"benchmark": benchmark}))
        with _errors(f"The scores on `{benchmark}` cannot be logged"):
            linked = [] if model.model_id in run.models or model.source_run == run.run_id else [LoggedModelInput(model.model_id)]
            self._client.log_inputs(run.run_id, [DatasetInput(dataset, [])], linked)
            if model.source_run == run.run_id and model.model_id not in run.models:
                self._client.log_outputs(run.run_id, [LoggedModelOutput(model.model_id, 0)])
            # MLflow refuses a model's metric that it has already: the same evidence comes again with a bundle that was packed anew
            there = {metric.key for metric in self._client.get_logged_model(model.model_id).metrics or [] if metric.run_id == run.run_id}
            metrics = [
                Metric(key, value, run.started_ms, 0, model.model_id, dataset.name, dataset.digest, run.run_id)
                for key, value in values.items()
                if key not in there
            ]
            for start in range(0, len(metrics), _PAGE):
                self._client.log_batch(run.run_id, metrics[start : start + _PAGE])
            self._client.log_batch(run.run_id, params=[Param(key, value) for key, value in params.items()])

    def log_curves(self, run: RunRecord, curves: Mapping[str, Sequence[float]]) -> None:
        """Log curves to a run, one value per step."""
        from mlflow.entities import Metric

        metrics = [Metric(key, v, run.started_ms, step, run_id=run.run_id) for key, values in curves.items() for step, v in enumerate(values)]
        with _errors("The training curves cannot be logged"):
            for start in range(0, len(metrics), _PAGE):
                self._client.log_batch(run.run_id, metrics[start : start + _PAGE])

    def log_file(self, run_id: str, path: Path, folder: str = "") -> None:
        """Put a file, or the files of a directory, among a run's artifacts."""
        with _errors(f"`{path.name}` cannot be stored"):
            if path.is_dir():
                self._client.log_artifacts(run_id, str(path), folder or None)
            else:
                self._client.log_artifact(run_id, str(path), folder or None)

    def log_model_file(self, model_id: str, path: Path, folder: str) -> None:
        """Put a file among a logged model's artifacts."""
        with _errors(f"`{path.name}` cannot be stored"):
            self._client.log_model_artifact(model_id, str(path), folder)

    # ------------------------------------------------------------------------------------------ marking

    def tag_run(self, run: RunRecord, facts: Mapping[str, str]) -> None:
        """Set those tags of a run that differ."""
        with _errors(f"Run `{run.run_id}` cannot be tagged"):
            for key, value in facts.items():
                if run.tags.get(key) != value:
                    self._client.set_tag(run.run_id, key, value)

    def finish_run(self, run: RunRecord) -> None:
        """Mark a run as finished."""
        with _errors(f"Run `{run.run_id}` cannot be finished"):
            self._client.set_terminated(run.run_id, "FINISHED")

    def tag_version(self, version: Version, facts: Mapping[str, str]) -> None:
        """Set those tags of a version that differ."""
        with _errors(f"`{version}` cannot be tagged"):
            for key, value in facts.items():
                if version.tags.get(key) != value:
                    self._client.set_model_version_tag(version.name, str(version.number), key, value)

    def describe_version(self, version: Version, description: str, facts: Mapping[str, str]) -> None:
        """Set a version's description, and tags of its logged model."""
        with _errors(f"`{version}` cannot be described"):
            self._client.update_model_version(version.name, str(version.number), description)
            linked = canonical_json([{"name": version.name, "version": version.number}])
            # MLflow's own pages follow this tag from the logged model to the version
            self._client.set_logged_model_tags(version.model_id, {**facts, "mlflow.modelVersions": linked})

    def tag_registered_model(self, name: str, facts: Mapping[str, str]) -> None:
        """Set those tags of a registered model that differ."""
        with _errors(f"`{name}` cannot be tagged"):
            present = self._client.get_registered_model(name).tags
            for key, value in facts.items():
                if present.get(key) != value:
                    self._client.set_registered_model_tag(name, key, value)

    def move_alias(self, version: Version, alias: str) -> None:
        """Point an alias to a version."""
        with _errors(f"The alias `{alias}` cannot be moved to `{version}`"):
            self._client.set_registered_model_alias(version.name, alias, str(version.number))

    def remove_alias(self, version: Version, alias: str) -> None:
        """Take an alias from the version it points to; one that points elsewhere by now is left alone."""
        if alias in self.version(str(version)).aliases:
            with _errors(f"The alias `{alias}` cannot be taken from `{version}`"):
                self._client.delete_registered_model_alias(version.name, alias)

    # ------------------------------------------------------------------------------------------ inside

    def _search(self, wanted: str, name: str) -> list[Version]:
        with _errors(f"Versions of `{name}` cannot be searched"):
            found = _all(self._client.search_model_versions, filter_string=wanted)
            # a search leaves the aliases of its results empty
            pointing = self._client.get_registered_model(name).aliases if found else {}
        versions = [
            Version(
                v.name,
                int(v.version),
                v.source.removeprefix("models:/"),
                dict(v.tags),
                tuple(sorted(alias for alias, number in pointing.items() if int(number) == int(v.version))),
            )
            for v in found
        ]
        return sorted(versions, key=lambda v: v.number)

    def _download(self, version: Version, path: str, scratch: Path) -> Path:
        import mlflow

        source = f"models:/{version.name}/{version.number}/{path}"
        with _errors(f"The files of `{version}` cannot be downloaded"):
            # without a destination MLflow may return the store's own directory
            return Path(mlflow.artifacts.download_artifacts(source, dst_path=str(scratch), tracking_uri=self.uri, registry_uri=self.uri))

    @staticmethod
    def _unless_exists(make: Any) -> None:
        from mlflow.exceptions import MlflowException

        try:
            make()
        except MlflowException as error:
            if error.error_code != _EXISTS:
                raise


def _require_file(uri: str) -> None:
    database = sqlite_path(uri)
    if database is not None and not database.is_file():
        raise StoreError(f"The registry's database `{database}` is not there. Put it back, or fill a new one with `blankslide registry sync`.")


def _write_flavour(bundle: Bundle, model_id: str, folder: Path) -> None:
    """MLflow's ONNX flavour with signature and input example: `mlflow.onnx.load_model("models:/NAME@ALIAS")` needs nothing else."""
    import mlflow.onnx
    import onnx
    from mlflow.models import Model, ModelSignature
    from mlflow.types import Schema, TensorSpec

    card, example = bundle.card, _input_example(bundle)
    pixels = TensorSpec(np.dtype(np.float32), (-1, *card.image.shape), "pixels")
    embedding = TensorSpec(np.dtype(np.float32), (-1, card.dim), "embedding")
    mlflow.onnx.save_model(
        onnx.load_model_from_string(bundle.verified_bytes("encoder.onnx")),
        str(folder),
        mlflow_model=Model(model_id=model_id),
        signature=ModelSignature(inputs=Schema([pixels]), outputs=Schema([embedding])),
        input_example={"pixels": example} if example is not None else None,
        pip_requirements=[f"{name}=={metadata.version(name)}" for name in ("mlflow", "onnx", "onnxruntime-gpu", "numpy")],
        onnx_execution_providers=["CPUExecutionProvider"],
        metadata={"identity": bundle.identity, "row": bundle.name, "input_example": _whose(bundle)},
        save_as_external_data=False,
    )


def _input_example(bundle: Bundle) -> PixelBatch | None:
    """(1, c, y, x): a golden image where its licence lets it be passed on, else one that is drawn; None where images are too large."""
    golden, image = bundle.golden, bundle.card.image
    if golden is None or math.prod(image.shape) > MAX_EXAMPLE:
        return None
    return drawn_images(image, 1) if golden.withheld else golden.pixels[:1].astype(np.float32)


def _whose(bundle: Bundle) -> str:
    """What the input example shows: whose image, under which licence."""
    golden = bundle.golden
    if golden is None:
        return ""
    return f"Drawn, shows nothing: {golden.withheld}." if golden.withheld else golden.terms


def _run_record(run: Any) -> RunRecord:
    outputs = run.outputs.model_outputs if run.outputs else []
    models = [m.model_id for m in (*outputs, *(run.inputs.model_inputs if run.inputs else []))]
    return RunRecord(run.info.run_id, str(run.info.experiment_id), int(run.info.start_time), dict(run.data.tags), tuple(models))


def _model_record(model: Any) -> ModelRecord:
    return ModelRecord(model.model_id, str(model.status) == "READY", model.source_run_id or "")


def _batches(items: Sequence[Any]) -> Iterator[list[Any]]:
    """As many at once as MLflow takes."""
    for start in range(0, len(items), _BATCH):
        yield list(items[start : start + _BATCH])


def _all(search: Any, **arguments: Any) -> list[Any]:
    """Every page of an MLflow search."""
    found, token = [], None
    while True:
        page = search(max_results=_PAGE, page_token=token, **arguments)
        found += list(page)
        token = page.token
        if not token:
            return found


def _prepare() -> None:
    """mlflow without its look-ups at home, its progress bars, and its notes on schemas and on environments without pip."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    import mlflow  # noqa: F401  (its import sets up the logger that is quieted here)

    logging.getLogger("mlflow.store.db.utils").setLevel(logging.WARNING)
    logging.getLogger("mlflow.utils.environment").setLevel(logging.ERROR)


@contextmanager
def _errors(what: str) -> Iterator[None]:
    """MLflow's errors in our words."""
    from mlflow.exceptions import MlflowException

    try:
        yield
    except MlflowException as error:
        raise StoreError(f"{what}: {str(error).splitlines()[0]}") from error

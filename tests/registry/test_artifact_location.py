"""Where files go, through the command line: a folder and S3, with SQLite and a real PostgreSQL server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipelines.cli import main
from registry.errors import StoreError
from registry.store import Store, artifact_root
from tests.registry.test_receipts import make_workspace


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    return make_workspace(tmp_path / "workspace")


@pytest.fixture(autouse=True)
def nothing_stated(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_DEFAULT_ARTIFACT_ROOT"):
        monkeypatch.delenv(name, raising=False)


def sync(workspace: Path, *options: str) -> int:
    return main(["--workspace", str(workspace), "registry", "sync", *options])


def check(uri: str, workspace: Path, scratch: Path) -> None:
    """Everything is registered and comes back verified, by a store that is told nothing: an experiment knows where its files are."""
    store = Store(uri)
    assert store.models() == ["density", "simclr"]
    for reference in ("simclr@culture", "simclr@tissue", "density@culture"):
        bundle = store.fetch_bundle(reference, scratch / "fetched")
        assert (workspace / "out" / "bundles" / bundle.card.benchmark / bundle.name / "manifest.json").read_bytes() == (
            scratch / "fetched" / "manifest.json"
        ).read_bytes()


def test_postgresql_with_a_folder(workspace: Path, postgresql_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert sync(workspace, "--tracking-uri", postgresql_uri, "--artifact-location", "files") == 0
    check(postgresql_uri, workspace, tmp_path)
    # a path is from where the command ran, and every later client must find it from anywhere
    assert len(list((tmp_path / "files" / "culture").rglob("scorecard.json"))) > 2
    assert Store(postgresql_uri)._client.get_experiment_by_name("culture").artifact_location == str(tmp_path / "files" / "culture")
    assert sync(workspace, "--tracking-uri", postgresql_uri) == 0


def test_postgresql_with_environment_variables(workspace: Path, postgresql_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", postgresql_uri)
    monkeypatch.setenv("MLFLOW_DEFAULT_ARTIFACT_ROOT", str(tmp_path / "files"))
    assert sync(workspace) == 0
    check(postgresql_uri, workspace, tmp_path)
    assert (tmp_path / "files" / "tissue").is_dir()


def test_postgresql_without_a_place_for_files_registers_nothing(workspace: Path, postgresql_uri: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert sync(workspace, "--tracking-uri", postgresql_uri) == 2
    assert "--artifact-location or MLFLOW_DEFAULT_ARTIFACT_ROOT" in capsys.readouterr().err
    assert Store(postgresql_uri).models() == []
    # what only reads needs no place
    assert main(["registry", "list", "--tracking-uri", postgresql_uri]) == 0


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The S3 protocol over HTTP on loopback."""
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    for name, value in (
        ("MLFLOW_S3_ENDPOINT_URL", f"http://{host}:{port}"),
        ("AWS_ACCESS_KEY_ID", "key"),
        ("AWS_SECRET_ACCESS_KEY", "secret"),
        ("AWS_DEFAULT_REGION", "us-east-1"),
    ):
        monkeypatch.setenv(name, value)
    client = boto3.client("s3", endpoint_url=f"http://{host}:{port}")
    client.create_bucket(Bucket="registry")
    yield client
    server.stop()


def test_files_in_s3(workspace: Path, sqlite_uri: str, bucket: Any, tmp_path: Path) -> None:
    assert sync(workspace, "--tracking-uri", sqlite_uri, "--artifact-location", "s3://registry/blankslide/") == 0
    check(sqlite_uri, workspace, tmp_path)
    keys = [item["Key"] for item in bucket.list_objects_v2(Bucket="registry")["Contents"]]
    assert all(key.startswith(("blankslide/culture/", "blankslide/tissue/")) for key in keys)
    assert any(key.endswith("encoder.onnx") for key in keys)


def test_where_files_go_unless_it_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sqlite, server, postgresql = f"sqlite:///{tmp_path}/mlflow.db", "http://127.0.0.1:5000", "postgresql+psycopg://app@/registry"
    assert artifact_root(sqlite) == str(tmp_path / "mlartifacts")
    assert artifact_root(server) == artifact_root(postgresql) == ""
    monkeypatch.setenv("MLFLOW_DEFAULT_ARTIFACT_ROOT", "s3://bucket/registry/")
    assert artifact_root(sqlite) == artifact_root(postgresql) == "s3://bucket/registry"
    # the variable is the server's own there; its clients ask it for files
    assert artifact_root(server) == ""
    assert artifact_root(server, "s3://other") == "s3://other"
    monkeypatch.chdir(tmp_path)
    assert artifact_root(postgresql, "files") == str(tmp_path / "files")


def test_an_experiment_that_somebody_made_before_is_taken_over(workspace: Path, sqlite_uri: str, tmp_path: Path) -> None:
    """`mlflow run --experiment-name culture` makes it without our mark; registering twice must still add nothing."""
    store = Store(sqlite_uri)
    store._client.create_experiment("culture", str(tmp_path / "elsewhere"))
    assert sync(workspace, "--tracking-uri", sqlite_uri) == 0
    check(sqlite_uri, workspace, tmp_path)
    experiment = store._client.get_experiment_by_name("culture")
    assert experiment.tags["blankslide"] == "benchmark"
    assert (tmp_path / "elsewhere").is_dir()
    store._client.delete_experiment(experiment.experiment_id)
    with pytest.raises(StoreError, match="was deleted in MLflow"):
        store.ensure_experiment("culture", "title")

"""What the processes of a test do; the fork server loads this module, and so mlflow, once for all of them."""

from __future__ import annotations

import os
import signal
import tempfile
import threading
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

# loaded here so that the fork server pays for it and no process does
import mlflow.onnx
import mlflow.store.model_registry.sqlalchemy_store  # noqa: F401
import mlflow.store.tracking.sqlalchemy_store  # noqa: F401
import onnx
import psycopg  # noqa: F401
import sqlalchemy.orm

from registry.bundle import read_bundle
from registry.registration import register
from registry.store import Store
from tests.registry.scorecards import tiny_onnx

sqlalchemy.orm.configure_mappers()
with tempfile.TemporaryDirectory() as scratch:
    # mlflow reads the metadata of all installed packages when it first saves a model
    saved = onnx.load(tiny_onnx(Path(scratch) / "tiny.onnx"))
    mlflow.onnx.save_model(saved, f"{scratch}/model", pip_requirements=["onnx"])

WRITES = ("create_", "log_", "set_", "update_", "finalize_", "delete_")


def register_all(uri: str, artifacts: str, folders: list[str], barrier: Barrier, failures: Any) -> None:
    """Open the store and register bundles, all processes at once."""
    try:
        barrier.wait(timeout=120)
        store = Store(uri, artifacts)
        for folder in folders:
            register(store, read_bundle(Path(folder)))
    except BaseException as error:
        failures.put(f"{os.getpid()}: {type(error).__name__}: {error}")
        raise


class Mortal:
    """An MLflow client whose process dies, uncaught and unflushed, just before a write: its n-th, or the first of a name."""

    def __init__(self, client: Any, dies_before: int | str) -> None:
        self._client, self._dies_before = client, dies_before
        self.writes: list[str] = []

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._client, name)
        if name.startswith(WRITES):
            self.writes.append(name)
            if self._dies_before in (name, len(self.writes)):
                os.kill(os.getpid(), signal.SIGKILL)
        return method


def register_and_die(uri: str, folder: str, dies_before: int | str, artifacts: str = "") -> None:
    """Register a bundle, killed before one of its writes."""
    store = Store(uri, artifacts)
    store._client = Mortal(store._client, dies_before)  # type: ignore[assignment]
    register(store, read_bundle(Path(folder)))


def register_and_die_while_copying(uri: str, folder: str, artifacts: str) -> None:
    """Register a bundle, killed as soon as a part of a large file is in the store."""

    def watch() -> None:
        while True:
            for path in Path(artifacts).rglob("golden.npz"):
                if path.stat().st_size > 0:
                    os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()
    register(Store(uri), read_bundle(Path(folder)))

"""The registry through a real MLflow server: the same calls, over HTTP."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from registry.errors import GateRefusedError
from registry.promote import promote
from registry.provenance import Provenance
from registry.registration import Extras, register
from registry.store import Store
from tests.registry.scorecards import make_bundle

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("server")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    stores = ["--backend-store-uri", f"sqlite:///{folder / 'mlflow.db'}", "--artifacts-destination", str(folder / "artifacts")]
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    with (folder / "log").open("w") as log:
        # a session of its own: the server leaves children behind unless its whole group is ended
        process = subprocess.Popen([*command, *stores], stdout=log, stderr=log, env=environment, start_new_session=True)
        try:
            wait_until_healthy(f"http://127.0.0.1:{port}/health", process, folder / "log")
            yield f"http://127.0.0.1:{port}"
        finally:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait(timeout=60)


def wait_until_healthy(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(600):
        assert process.poll() is None, log.read_text()
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                if answer.status == 200:
                    return
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            time.sleep(0.5)
    raise AssertionError(log.read_text())


def test_everything_works_over_http(server: str, tmp_path: Path) -> None:
    store = Store(server)
    bundle = make_bundle(tmp_path / "simclr")
    provenance = Provenance("a" * 40, False, "", b"stages: {}\n")
    assert register(store, bundle, provenance, Extras(curves={"loss": [2.0, 1.0]})).added
    assert not register(store, bundle, provenance).added
    version = store.version("simclr@culture")
    assert (version.number, version.benchmarks) == (1, ("culture",))
    assert store.provenance(version, "culture") == provenance
    assert promote(store, "simclr").passed
    assert store.fetch_bundle("simclr@promoted", tmp_path / "served").digest == bundle.digest
    control = make_bundle(tmp_path / "density", row="density", role="negative")
    register(store, control)
    with pytest.raises(GateRefusedError, match="controls are never promoted"):
        promote(store, "density")
    assert store.models() == ["density", "simclr"]
    import mlflow

    assert mlflow.onnx.load_model("models:/simclr@promoted").graph.output[0].name == "embedding"

"""What the command line does beside the stages, in processes of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from registry.registration import register
from registry.store import Store
from tests.registry.scorecards import make_bundle

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("registry")
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    register(Store(uri), make_bundle(folder / "simclr"))
    return uri


def fetch(uri: str, name: str) -> subprocess.CompletedProcess[str]:
    """Resolve a name as `serve` does; prints the bundle's card and which heavy packages the process holds."""
    code = f"""
import argparse, sys
from pathlib import Path
from pipelines.commands import bundles

if __name__ == "__main__":
    options = argparse.Namespace(workspace=Path(), tracking_uri={uri!r}, artifact_location="", bundle=[])
    with bundles(options, [{name!r}]) as found:
        print((found[0] / "manifest.json").is_file(), *({{"mlflow", "torch", "pandas", "dvc"}} & set(sys.modules)))
"""
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)


def test_a_server_resolves_names_without_importing_mlflow(registry: str) -> None:
    assert fetch(registry, "simclr@culture").stdout.split() == ["True"]


def test_a_name_that_is_not_registered_is_said_with_those_that_are(registry: str) -> None:
    assert "There is no registered model `nobody`. Known: `simclr`." in fetch(registry, "nobody").stderr

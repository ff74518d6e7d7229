"""What the command line does beside the stages, in processes of its own."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.commands import bundles
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
    """Resolve a name as `serve` does; prints whether the bundle is there, what is known of its evidence, and heavy packages the process holds."""
    code = f"""
import argparse, sys
from pathlib import Path
from pipelines.commands import bundles

if __name__ == "__main__":
    options = argparse.Namespace(workspace=Path(), tracking_uri={uri!r}, artifact_location="", bundle=[])
    evidence = {{}}
    with bundles(options, [{name!r}], evidence) as found:
        heavy = {{"mlflow", "torch", "pandas", "dvc"}} & set(sys.modules)
        print((found[0] / "manifest.json").is_file(), evidence[found[0]].replace(" ", "-"), *heavy)
"""
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)


def test_a_server_resolves_names_without_importing_mlflow(registry: str) -> None:
    said, evidence, *heavy = fetch(registry, "simclr@culture").stdout.split()
    assert (said, heavy) == ("True", [])
    # the checkout may hold a benchmark of that name, and then this is not its evidence
    assert evidence.startswith(("not-checked:", "stale:"))


def test_what_a_workspace_found_is_handed_to_the_server(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    store = Store(uri)
    version = register(store, make_bundle(tmp_path / "simclr")).version
    store.tag_version(version, {"stale": "true", "stale.culture": "the plates are others"})
    options = argparse.Namespace(workspace=tmp_path, tracking_uri=uri, artifact_location="", bundle=[])
    evidence: dict[Path, str] = {}
    with bundles(options, ["simclr@culture"], evidence) as (folder,):
        assert evidence == {folder: "stale: the plates are others"}
    with bundles(options, ["simclr@culture"]) as (folder,):
        assert (folder / "manifest.json").is_file()


def test_a_name_that_is_not_registered_is_said_with_those_that_are(registry: str) -> None:
    assert "There is no registered model `nobody`. Known: `simclr`." in fetch(registry, "nobody").stderr

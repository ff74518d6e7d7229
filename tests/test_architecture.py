"""Layers hold, imports are light, the lock file is clean, and the checker that says so can fail."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def modules_after(statement: str) -> set[str]:
    """Top-level modules in a fresh interpreter after one statement."""
    code = f"{statement}\nimport sys\nprint(' '.join({{name.split('.')[0] for name in sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    return set(done.stdout.split())


def all_modules() -> list[str]:
    files = [path for package in ("registry", "serving", "pipelines") for path in sorted((ROOT / package).rglob("*.py"))]
    names = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in files]
    return [name.removesuffix(".__init__") for name in names]


def test_the_import_checker_can_fail() -> None:
    assert "sqlite3" in modules_after("import sqlite3")
    assert "sqlite3" not in modules_after("import json")


@pytest.mark.parametrize("heavy", ["mlflow", "torch", "dvc", "matplotlib", "sklearn"])
def test_the_command_line_starts_light(heavy: str) -> None:
    assert heavy not in modules_after("import pipelines.cli, pipelines.stages, pipelines.params, pipelines.tracking")


def test_importing_every_module_has_no_effect_on_the_folder(tmp_path: Path) -> None:
    names = [name for name in all_modules() if name != "serving.torchserve_handler"]
    code = "import importlib\n" + "\n".join(f"importlib.import_module({name!r})" for name in names)
    subprocess.run([sys.executable, "-W", "error::Warning:registry", "-c", code], check=True, cwd=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_mlflow_is_imported_in_one_module_only() -> None:
    users = [p for package in ("registry", "serving", "pipelines") for p in (ROOT / package).rglob("*.py") if "import mlflow" in p.read_text()]
    assert [p.name for p in users] == ["store.py"]


def test_every_test_folder_is_a_package() -> None:
    folders = {path.parent for path in (ROOT / "tests").rglob("test_*.py")}
    assert [f for f in folders if not (f / "__init__.py").is_file()] == []


def test_the_lock_names_hashes_and_no_host() -> None:
    text = (ROOT / "requirements.lock").read_text()
    assert "://" not in text
    assert "--hash=sha256:" in text


def test_the_packages_the_product_is_built_on_are_declared() -> None:
    declared = " ".join(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"])
    for name in ("mlflow", "torch", "torchserve", "timm", "onnxruntime-gpu", "scikit-learn", "dvc", "boto3"):
        assert f"{name}==" in declared


def test_exactly_one_onnx_runtime_is_installed() -> None:
    installed = [name for name in ("onnxruntime", "onnxruntime-gpu") if any(d.metadata["Name"] == name for d in metadata.distributions())]
    assert installed == ["onnxruntime-gpu"]

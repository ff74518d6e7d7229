from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.serving.bundles import TISSUE, Exported, TinyBundle, export_networks, make_bundle


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Exported]:
    """The exporter takes seconds: once for all bundles."""
    return export_networks(tmp_path_factory.mktemp("exported"))


@pytest.fixture(scope="session")
def tiny(exported: dict[str, Exported], tmp_path_factory: pytest.TempPathFactory) -> TinyBundle:
    """A bundle for three fluorescence channels of 16 bits."""
    return make_bundle(tmp_path_factory.mktemp("bundles") / "tiny", exported)


@pytest.fixture(scope="session")
def tissue(exported: dict[str, Exported], tmp_path_factory: pytest.TempPathFactory) -> TinyBundle:
    """A bundle for RGB of 8 bits."""
    return make_bundle(tmp_path_factory.mktemp("bundles") / "tissue", exported, TISSUE)


@pytest.fixture
def altered(exported: dict[str, Exported], tmp_path: Path) -> Callable[..., TinyBundle]:
    """Makes a bundle named "tiny" in which parts are replaced."""
    return lambda **changes: make_bundle(tmp_path / "tiny", exported, **changes)

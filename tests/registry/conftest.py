"""Real stores for tests: an SQLite database whose schema is made once, a PostgreSQL server of one's own."""

from __future__ import annotations

import shutil
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from registry.store import Store


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An SQLite database with MLflow's schema and nothing in it: making it takes seconds, copying it does not."""
    path = tmp_path_factory.mktemp("schema") / "mlflow.db"
    Store(f"sqlite:///{path}")
    return path


@pytest.fixture
def sqlite_uri(empty_database: Path, tmp_path: Path) -> str:
    folder = tmp_path / "registry"
    folder.mkdir()
    shutil.copy(empty_database, folder / "mlflow.db")
    return f"sqlite:///{folder / 'mlflow.db'}"


@pytest.fixture
def store(sqlite_uri: str) -> Store:
    return Store(sqlite_uri)


@pytest.fixture(scope="session")
def postgresql() -> Iterator[str]:
    """URI of a PostgreSQL server on a unix socket."""
    import pgserver

    # the server's own user must be able to walk to it, and a socket's path is at most 107 bytes
    folder = Path(tempfile.mkdtemp(prefix="blankslide-pg-"))
    folder.chmod(0o755)
    server = pgserver.get_server(folder, cleanup_mode="delete")
    try:
        yield server.get_uri()
    finally:
        server.cleanup()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def postgresql_uri(postgresql: str) -> str:
    """An empty database of the server."""
    import psycopg
    import sqlalchemy

    name = f"test_{uuid.uuid4().hex}"
    with psycopg.connect(postgresql, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")  # type: ignore[arg-type]
    uri = sqlalchemy.make_url(postgresql).set(drivername="postgresql+psycopg", database=name)
    return uri.render_as_string(hide_password=False)

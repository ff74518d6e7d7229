"""One writer at a time per tracking store.

A file lock serialises the processes of one host and is freed by the kernel when its holder is killed. On PostgreSQL an
advisory lock does the same for all hosts, freed by the server when the connection dies. Where neither reaches (several
hosts on one MLflow server) registration stays correct because what it creates is checked afterwards (`registry.store`).
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from registry.errors import StoreError

WAIT_S = 900


def sqlite_path(uri: str) -> Path | None:
    """The database file of an SQLite URI, None for any other."""
    return Path(uri.removeprefix("sqlite:///")) if uri.startswith("sqlite:///") else None


@contextmanager
def exclusive(uri: str, purpose: str) -> Iterator[None]:
    """Hold the store's lock for one purpose.

    Args:
        uri: the tracking URI.
        purpose: "schema" or "register"; different purposes do not wait for each other.

    Raises:
        StoreError: another process held it for WAIT_S seconds.
    """
    path = _lock_file(uri, purpose)
    try:
        with FileLock(path, timeout=WAIT_S), _advisory(uri, purpose):
            yield
    except Timeout as error:
        raise StoreError(f"Expected the lock `{path}` within {WAIT_S} s; another process holds it. End that process and repeat.") from error


def _lock_file(uri: str, purpose: str) -> Path:
    database = sqlite_path(uri)
    if database is not None:
        database.parent.mkdir(parents=True, exist_ok=True)
        return database.with_name(f"{database.name}.{purpose}.lock")
    name = hashlib.sha256(uri.encode()).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"blankslide-{os.getuid()}-{name}.{purpose}.lock"


@contextmanager
def _advisory(uri: str, purpose: str) -> Iterator[None]:
    if not uri.startswith("postgresql"):
        yield
        return
    import sqlalchemy
    from sqlalchemy.pool import NullPool

    key = int.from_bytes(hashlib.sha256(f"blankslide {purpose}".encode()).digest()[:8], "big", signed=True)
    engine = sqlalchemy.create_engine(uri, poolclass=NullPool, isolation_level="AUTOCOMMIT")
    with ExitStack() as stack:
        stack.callback(engine.dispose)
        try:
            connection = stack.enter_context(engine.connect())
            connection.execute(sqlalchemy.text(f"SET lock_timeout = '{WAIT_S}s'"))
            connection.execute(sqlalchemy.text("SELECT pg_advisory_lock(:key)"), {"key": key})
        except sqlalchemy.exc.OperationalError as error:
            raise StoreError(f"The tracking store cannot be locked: {error.orig}. Check that PostgreSQL runs and accepts the user.") from error
        yield

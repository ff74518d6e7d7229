"""Files that are published whole or not at all, and the hashes that identify them."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def published(path: Path) -> Iterator[Path]:
    """Yield a temporary path in the same directory; rename it to `path` only when the block ends well.

    The file is flushed to disk before the rename and the directory after it, so a reader sees either the old
    file or the whole new one, also after a power cut. A failing block leaves nothing behind.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb+") as stream:
            os.fsync(stream.fileno())
        temporary.chmod(0o644)
        os.replace(temporary, path)
        _sync_directory(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def _sync_directory(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_tree(folder: Path) -> None:
    """Flush every file and directory of a tree to disk: what is renamed after that is whole, also after a power cut."""
    for base, _, files in os.walk(folder):
        for name in files:
            with Path(base, name).open("rb") as stream:
                os.fsync(stream.fileno())
        _sync_directory(Path(base))


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no NaN: the same value gives the same bytes (floats by shortest repr)."""
    return json.dumps(value, sort_keys=True, indent=1, allow_nan=False, ensure_ascii=False) + "\n"


def write_json(path: Path, value: Any) -> None:
    """Publish `value` as canonical JSON."""
    with published(path) as temporary:
        temporary.write_text(canonical_json(value), encoding="utf-8")


def read_json(path: Path) -> Any:
    """Read a JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))


def sha256_of_bytes(data: bytes) -> str:
    """Hex SHA-256 of `data`."""
    return hashlib.sha256(data).hexdigest()


def sha256_of_file(path: Path) -> str:
    """Hex SHA-256 of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def sha256_of_json(value: Any) -> str:
    """Hex SHA-256 of a value's canonical JSON."""
    return sha256_of_bytes(canonical_json(value).encode("utf-8"))

"""What a follower tells an endpoint, through a folder between them: which verified bundle is live.

::

    ROOT/<NAME>.json              Live: the pointer, replaced as a whole
    ROOT/<NAME>/<digest>/         bundles, each renamed into place after it was verified
    ROOT/<NAME>.refused.json      Refusal: what was not taken, absent while there is nothing to say
    ROOT/.<NAME>.*                where a follower works; nobody else reads it

Both sides trust nothing: a pointer is checked field by field, and what it names must lie below ROOT.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Self

from registry.cards import NAME
from registry.errors import BundleError
from registry.files import read_json, write_json

_SHA256 = re.compile(r"[0-9a-f]{64}")
_REFUSED = ".refused.json"


@dataclass(frozen=True)
class Live:
    """Which bundle of a name is served from now on.

    Attributes:
        folder: "<NAME>/<digest>", below ROOT.
        digest: hex SHA-256 of the bundle's manifest, so of everything in it.
        reference: "NAME@ALIAS" that is followed.
        version: number of the registered version.
        identity: hex SHA-256 over its card, weights and preprocessing.
        evidence: words of `registry.staleness.Staleness`; they may change while the bundle stays.
    """

    folder: str
    digest: str
    reference: str
    version: int
    identity: str
    evidence: str

    def __post_init__(self) -> None:
        name, at, alias = self.reference.partition("@")
        wrong = [
            *_unless(bool(_SHA256.fullmatch(self.digest)), "digest", "a hex SHA-256", self.digest),
            *_unless(bool(NAME.fullmatch(name) and at and alias), "reference", "`NAME@ALIAS`", self.reference),
            *_unless(self.folder == f"{name}/{self.digest}", "folder", f"`{name}/{self.digest}`, below the folder that is followed", self.folder),
            *_unless(self.version > 0, "version", "a number from 1", self.version),
            *_unless(bool(_SHA256.fullmatch(self.identity)), "identity", "a hex SHA-256", self.identity),
            *_unless(bool(self.evidence), "evidence", "words", self.evidence),
        ]
        if wrong:
            raise BundleError(f"A pointer to a bundle cannot be used: {'; '.join(wrong)}. Let `blankslide follow` write it.")

    @property
    def name(self) -> str:
        """Name of the registered model, which is the served model's."""
        return self.reference.partition("@")[0]

    def bundle(self, root: Path) -> Path:
        """The bundle's folder.

        Raises:
            BundleError: it is not there, or a link leads out of `root`.
        """
        folder = root / self.folder
        if not folder.resolve().is_relative_to(root.resolve()):
            raise BundleError(f"`{pointer_path(root, self.name)}` leads to `{folder.resolve()}`, which is not below `{root}`. It is not followed.")
        if not folder.is_dir():
            raise BundleError(f"`{pointer_path(root, self.name)}` names `{self.folder}`, which is not there. Start `blankslide follow` again.")
        return folder

    @classmethod
    def read(cls, root: Path, name: str) -> Live:
        """The pointer of one name.

        Raises:
            BundleError: there is none, or it is half-written, of another shape, or leads out of `root`; says which.
        """
        path = pointer_path(root, name)
        live = cls(**_fields_of(path, cls))
        if live.name != name:
            raise BundleError(f"`{path}`: expected a pointer to a bundle of `{name}`, got one to `{live.folder}`. Let `blankslide follow` write it.")
        live.bundle(root)
        return live

    def write(self, root: Path) -> None:
        """Replace the pointer of this name; who reads it sees the old one or this one.

        Raises:
            BundleError: the bundle is not there.
        """
        self.bundle(root)
        write_json(pointer_path(root, self.name), asdict(self))


@dataclass(frozen=True)
class Refusal:
    """Why what a reference names now is not served.

    Attributes:
        digest: of the bundle that was refused; "" where the reference names none.
        version: its number; 0 where the reference names none.
        reason: a sentence.
        time: ISO 8601, UTC.
    """

    digest: str
    version: int
    reason: str
    time: str

    @classmethod
    def read(cls, root: Path, name: str) -> Self | None:
        """What is refused of one name; None if nothing is.

        Raises:
            BundleError: the file is half-written or of another shape.
        """
        path = refusal_path(root, name)
        return cls(**_fields_of(path, cls)) if path.is_file() else None

    def write(self, root: Path, name: str) -> None:
        """Replace what is said of one name."""
        write_json(refusal_path(root, name), asdict(self))


def clear_refusal(root: Path, name: str) -> None:
    """Nothing of that name is refused any more."""
    refusal_path(root, name).unlink(missing_ok=True)


def pointer_path(root: Path, name: str) -> Path:
    """Where the pointer of a name lies.

    Raises:
        BundleError: not a name, so perhaps a way out of `root`.
    """
    return _beside(root, name, ".json")


def refusal_path(root: Path, name: str) -> Path:
    """Where it is said what is refused of a name; errors as `pointer_path`."""
    return _beside(root, name, _REFUSED)


def names(root: Path) -> list[str]:
    """Names that have a pointer, sorted; [] where there is no such folder."""
    return sorted(path.stem for path in root.glob("*.json") if NAME.fullmatch(path.stem))


def retire(root: Path, name: str, keep: int) -> list[str]:
    """Remove bundles of a name to which its pointer does not lead.

    Args:
        root: the folder that is followed.
        name: of the model.
        keep: how many of them stay, those that were live last.

    Returns:
        Digests of the removed ones.

    Raises:
        BundleError: the pointer cannot be read; then nothing is removed.
    """
    live = Live.read(root, name)
    others = [path for path in (root / name).iterdir() if _SHA256.fullmatch(path.name) and path.name != live.digest and not path.is_symlink()]
    removed = sorted(others, key=lambda path: path.stat().st_mtime_ns, reverse=True)[max(0, keep) :]
    for path in removed:
        # gone in one step: who opens it meanwhile finds a whole bundle or none
        aside = Path(tempfile.mkdtemp(prefix=f".{name}.", suffix=".part", dir=root))
        os.replace(path, aside / "retired")
        shutil.rmtree(aside, ignore_errors=True)
    return [path.name for path in removed]


def _beside(root: Path, name: str, ending: str) -> Path:
    if not NAME.fullmatch(name):
        raise BundleError(f"Expected the name of a model ({NAME.pattern}), got `{name}`.")
    return root / f"{name}{ending}"


def _unless(right: bool, field: str, expected: str, came: object) -> list[str]:
    return [] if right else [f"expected {expected} as `{field}`, got `{came}`"]


def _fields_of(path: Path, kind: type[Live] | type[Refusal]) -> dict[str, Any]:
    """The fields of a dataclass of strings and whole numbers, from a JSON file that holds exactly them."""
    try:
        value = read_json(path)
    except FileNotFoundError as error:
        raise BundleError(f"There is no `{path}`. `blankslide follow {path.stem} --into {path.parent}` writes it.") from error
    except (OSError, ValueError) as error:
        raise BundleError(f"`{path}` is not whole JSON ({type(error).__name__}: {error}). Let `blankslide follow` write it.") from error
    wanted = {field.name: {"str": str, "int": int}[str(field.type)] for field in fields(kind)}
    # `bool` is an `int` to isinstance
    if not isinstance(value, dict) or {key: type(item) for key, item in value.items()} != wanted:
        shape = ", ".join(f"`{key}` ({kind.__name__})" for key, kind in wanted.items())
        raise BundleError(f"`{path}`: expected exactly {shape}, got {_shape(value)}. Let `blankslide follow` write it.")
    return value


def _shape(value: object) -> str:
    if not isinstance(value, dict):
        return f"a {type(value).__name__}"
    return ", ".join(f"`{key}` ({type(item).__name__})" for key, item in value.items()) or "nothing"

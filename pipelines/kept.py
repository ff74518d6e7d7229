"""Finished pieces of a stage, kept on disk until it has published everything: a run that was killed goes on where it was.

A piece is what a function made of one item (the scores of one member), published by the process that made it, as numbers and plain text in
one npz file. It is read to the last bit, so a run that was killed and one that was not end with the same bytes.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from pipelines.extraction.shards import code_digest
from pipelines.parallel import in_parallel
from pipelines.progress import Progress
from registry.bundle import read_arrays, write_arrays
from registry.errors import BundleError
from registry.files import read_json, sha256_of_bytes, sha256_of_json, write_json
from registry.staleness import installed

A = TypeVar("A")
B = TypeVar("B")

#: name of the text in a piece; arrays are numbered
TEXT = "text"


class Kept:
    """The finished pieces of one stage.

    Args:
        folder: the work folder; what belongs to a run of another identity is removed.
        stage: the stage and what it works on, in words, for what is said on the way.
        facts: everything the pieces depend on but the code and the libraries: data, vectors, parameters.
        code: files and folders of the code they depend on.
        types: dataclasses that pieces are made of.
    """

    def __init__(self, folder: Path, stage: str, facts: Mapping[str, Any], code: tuple[str, ...], *types: type) -> None:
        self.folder, self.stage, self._types = folder, stage, {kind.__name__: kind for kind in types}
        # what is published says that one version of each library made it
        made_with = {"code": code_digest(code), "versions": installed()}
        stamp, identity = folder / "plan.json", {"identity": sha256_of_json({**facts, **made_with})}
        if not stamp.is_file() or read_json(stamp) != identity:
            shutil.rmtree(folder, ignore_errors=True)
            write_json(stamp, identity)
        # what a killed process was still writing has no name a reader would look for; it only takes up space
        for leftover in folder.glob(".*.part"):
            leftover.unlink()

    def each(self, kind: str, function: Callable[[A], B], items: Mapping[str, A], workers: int, thing: str = "rows") -> Iterator[B]:
        """`function(item)` for each item, in order, as `in_parallel`; what is kept is read instead. Says every few seconds how far it is.

        Args:
            kind: what is made of the items; begins the names of pieces.
            function: gives numbers, text, arrays, the dataclasses of `types` and tuples, lists and dicts of them.
            items: by name.
            workers: processes.
            thing: what items are, in the plural.
        """
        found = {name: self._read(self._path(kind, name)) for name in items}
        missing = {name: item for name, item in items.items() if found[name] is None}
        if len(missing) < len(items):
            print(f"[{self.stage}] {kind}: {len(items) - len(missing)} of {len(items)} are kept from a run that was ended", flush=True)
        progress = Progress(f"[{self.stage}] {kind}", len(items), thing, at_end=False)
        progress.skip(len(items) - len(missing))
        jobs = [(self._path(kind, name), item) for name, item in missing.items()]
        made = in_parallel(partial(self._make, function, progress), jobs, workers)
        for name in items:
            kept = found.pop(name)
            yield next(made) if kept is None else kept[0]

    def done(self) -> None:
        """Everything was published: nothing need be kept."""
        shutil.rmtree(self.folder)

    def _path(self, kind: str, name: str) -> Path:
        return self.folder / f"{kind}-{sha256_of_bytes(name.encode())[:32]}.npz"

    def _make(self, function: Callable[[A], B], progress: Progress, job: tuple[Path, A]) -> B:
        path, item = job
        made = function(item)
        arrays: dict[str, NDArray[Any]] = {}
        text = json.dumps(self._packed(made, arrays))
        write_arrays(path, {**arrays, TEXT: np.array(text)})
        progress.advance(1)
        return made

    def _read(self, path: Path) -> tuple[Any] | None:
        """The piece, alone in a tuple; None where there is none, or a damaged one."""
        if not path.is_file():
            return None
        try:
            arrays = read_arrays(path)
            return (self._unpacked(json.loads(arrays[TEXT].item()), arrays),)
        except (BundleError, KeyError, ValueError):
            path.unlink()
            return None

    def _packed(self, value: Any, arrays: dict[str, NDArray[Any]]) -> Any:
        """As JSON; arrays are put aside under their number."""
        if is_dataclass(value) and type(value).__name__ in self._types:
            return {"is": type(value).__name__, "of": {f.name: self._packed(getattr(value, f.name), arrays) for f in fields(value)}}
        if isinstance(value, np.ndarray):
            arrays[str(len(arrays))] = value
            return {"array": str(len(arrays) - 1), "shape": list(value.shape)}
        if isinstance(value, dict):
            return {"dict": [[self._packed(key, arrays), self._packed(part, arrays)] for key, part in value.items()]}
        if isinstance(value, tuple):
            return {"tuple": [self._packed(part, arrays) for part in value]}
        if isinstance(value, list):
            return [self._packed(part, arrays) for part in value]
        return value.item() if isinstance(value, np.generic) else value

    def _unpacked(self, value: Any, arrays: Mapping[str, NDArray[Any]]) -> Any:
        if isinstance(value, list):
            return [self._unpacked(part, arrays) for part in value]
        if not isinstance(value, dict):
            return value
        if "is" in value:
            return self._types[value["is"]](**{name: self._unpacked(part, arrays) for name, part in value["of"].items()})
        if "array" in value:
            # a file has no array without an axis
            return arrays[value["array"]].reshape(value["shape"])
        if "tuple" in value:
            return tuple(self._unpacked(part, arrays) for part in value["tuple"])
        return {self._unpacked(key, arrays): self._unpacked(part, arrays) for key, part in value["dict"]}

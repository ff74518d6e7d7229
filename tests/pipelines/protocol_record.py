"""The recorded answers of every protocol: what a rule computed when its id was counted up, and what is said where it computes something else.

Run as a module it records the answers of new ids and forgets those of ids that are no more. What is recorded of an id that stays is never written
anew, but where the libraries are others: evidence reads stale by that already (docs/decisions/0020-counted-protocols.md).
"""

from __future__ import annotations

import ast
import json
import math
import re
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any

from pipelines.current import facts_of
from pipelines.workspace import Workspace
from registry.errors import BlankslideError
from registry.files import read_json
from registry.staleness import SCORES, Current, versions_of
from tests.pipelines.protocol_answers import PARAMS, answers, screen

ROOT = Path(__file__).resolve().parents[2]
FILE = Path(__file__).parent / "golden" / "protocols.json"
COMMAND = "python -m tests.pipelines.protocol_record"
#: numbers that differ by less are the same on another processor or BLAS. A p of permutations and a count move by far more or not at all.
RELATIVE, ABSOLUTE = 1e-6, 1e-12
#: what `Current` holds beside ids
FACTS = {"data_hash", "benchmark_card", "asked", "versions", "settings", "card_hash"}
#: how an id is counted
COUNT = re.compile(r"[:/]v\d+(?=$|[:/])")

Answers = Mapping[str, Mapping[str, Any]]


class SameIdError(BlankslideError):
    """Other answers were to be recorded under an id that stays."""


@dataclass(frozen=True)
class Record:
    """What was recorded.

    Attributes:
        versions: of the libraries that computed it.
        answers: by id and by what was asked.
    """

    versions: Mapping[str, str]
    answers: Answers

    @classmethod
    def read(cls, path: Path = FILE) -> Record:
        """Read what `write` wrote; where nothing was, nothing is recorded."""
        return cls(**read_json(path)) if path.is_file() else cls(libraries(), {})

    def write(self, path: Path = FILE) -> None:
        """A line for each answer, so that a change of one is a line of a diff."""
        ids = [
            f"  {json.dumps(one)}: {{\n"
            + ",\n".join(f"   {json.dumps(name)}: {json.dumps(answer, separators=(',', ':'))}" for name, answer in sorted(asked.items()))
            + "\n  }"
            for one, asked in sorted(self.answers.items())
        ]
        path.write_text(f'{{\n "versions": {json.dumps(dict(self.versions))},\n "answers": {{\n' + ",\n".join(ids) + "\n }\n}\n", encoding="utf-8")


def libraries() -> dict[str, str]:
    """Versions of the libraries that scores hang on."""
    return versions_of(SCORES)


def ids_of_now(root: Path) -> set[str]:
    """Every id that evidence may carry now, where parameters are those that nobody stated.

    Args:
        root: a folder for a benchmark.
    """
    workspace = Workspace(root)
    facts = facts_of(workspace, PARAMS, screen(workspace.data("screen")).card.name)
    return {one for f in fields(Current) if f.name not in FACTS for one in _texts(getattr(facts, f.name))}


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    else:
        for each in value.values() if isinstance(value, Mapping) else value:
            yield from _texts(each)


@dataclass(frozen=True)
class Literal:
    """A string of the code with a count in it, from which ids begin.

    Attributes:
        file: from the root of the repository.
        text: with `*` where the code puts something in.
    """

    file: str
    text: str

    def begins(self, one: str) -> bool:
        """Whether an id is this or goes on from it."""
        return re.match(".*".join(map(re.escape, self.text.split("*"))) + "(?=$|[:/])", one) is not None


@cache
def literals(root: Path = ROOT) -> tuple[Literal, ...]:
    """Every string with a count in it in the code that computes; what documents something is none."""
    found = []
    for path in sorted((root / "pipelines").rglob("*.py")):
        code = path.read_text(encoding="utf-8")
        if not re.search(r"[:/]v\d", code):
            continue
        tree = ast.parse(code)
        parts = {id(value) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for value in node.values}
        said = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        for node in ast.walk(tree):
            if id(node) not in parts | said and COUNT.search(text := _text_of(node)):
                found.append(Literal(path.relative_to(root).as_posix(), text))
    return tuple(found)


def _text_of(node: ast.AST) -> str:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(_text_of(value) if isinstance(value, ast.Constant) else "*" for value in node.values)
    return ""


def counted_in(one: str) -> str:
    """The files in which an id is counted."""
    return " or ".join(dict.fromkeys(f"`{literal.file}`" for literal in literals() if literal.begins(one))) or "no file"


def faults(recorded: Record, found: Answers, ids: set[str], installed: Mapping[str, str]) -> list[str]:
    """What is wrong, in sentences; [] where every id that there is answers as it did when it was recorded.

    Args:
        recorded: the file.
        found: the answers of now.
        ids: that evidence may carry now.
        installed: versions of the libraries.
    """
    said = [f"`{one}` is new: record its answers by `{COMMAND}`." for one in sorted(ids & set(found) - set(recorded.answers))]
    said += [f"`{one}` is no more: forget its answers by `{COMMAND}`." for one in sorted(set(recorded.answers) - ids)]
    said += [f"Nothing that `tests/pipelines/protocol_answers.py` asks carries `{one}`: ask it there." for one in sorted(ids - set(found))]
    said += [
        f"An answer carries `{one}`, which `pipelines/current.py` does not name: evidence would be stale for ever."
        for one in sorted(set(found) - ids)
    ]
    said += [*map(str, differences(recorded, found))]
    if dict(recorded.versions) != dict(installed):
        was, now = (", ".join(f"{name} {version}" for name, version in each.items()) for each in (recorded.versions, installed))
        said.append(f"Recorded with {was}; {now} are installed, by which evidence is stale already: record by `{COMMAND}`.")
    return said


@dataclass(frozen=True)
class Difference:
    """One answer that is another one under the same id."""

    followed: str
    asked: str
    where: str
    expected: Any
    got: Any

    def __str__(self) -> str:
        expected, got = json.dumps(self.expected), json.dumps(self.got)
        return (
            f"`{self.asked}`{self.where} under `{self.followed}`: expected {expected}, got {got};"
            f" if the change is meant, count the id up in {counted_in(self.followed)} and record by `{COMMAND}`."
        )


def differences(recorded: Record, found: Answers) -> list[Difference]:
    """The first difference of each answer of ids that stay; a question that was not asked before, or is not any more, is one."""
    said = []
    for one in sorted(set(recorded.answers) & set(found)):
        was, now = recorded.answers[one], found[one]
        for asked in sorted({*was, *now}):
            where, expected, got = _unlike(was.get(asked), now.get(asked)) or ("", None, None)
            if (expected, got) != (None, None):
                said.append(Difference(one, asked, where, expected, got))
    return said


def _unlike(was: Any, now: Any, where: str = "") -> tuple[str, Any, Any] | None:
    """Where two answers differ first, and in what; None where they do not."""
    if isinstance(was, Mapping) and isinstance(now, Mapping) and set(was) == set(now):
        return next((found for key in was if (found := _unlike(was[key], now[key], f"{where}.{key}"))), None)
    if isinstance(was, list) and isinstance(now, list) and len(was) == len(now):
        return next((found for i, pair in enumerate(zip(was, now, strict=True)) if (found := _unlike(*pair, f"{where}[{i}]"))), None)
    if {type(was), type(now)} in ({float}, {float, int}):
        return None if math.isclose(now, was, rel_tol=RELATIVE, abs_tol=ABSOLUTE) else (where, was, now)
    return None if was == now else (where, was, now)


def record(path: Path, found: Answers, ids: set[str], installed: Mapping[str, str]) -> list[str]:
    """Add the answers of new ids and forget those of ids that are no more; what was done, in sentences.

    A question that was not asked of an id before is added too. Where the libraries are others than those recorded, all is recorded anew.

    Args:
        path: the file.
        found: the answers of now.
        ids: that evidence may carry now.
        installed: versions of the libraries.

    Raises:
        SameIdError: an id that stays would get other answers. Nothing is written.
    """
    recorded = Record.read(path)
    same_libraries = dict(recorded.versions) == dict(installed)
    refused = [one for one in differences(recorded, found) if one.expected is not None or one.where]
    if same_libraries and refused:
        raise SameIdError("\n".join(["An id that stays keeps its answers; nothing was written.", *map(str, refused)]))
    kept = {one: recorded.answers[one] for one in set(recorded.answers) & ids if same_libraries or one not in found}
    Record(installed, {one: {**found.get(one, {}), **kept.get(one, {})} for one in ids & {*found, *kept}}).write(path)
    done = [] if same_libraries else [f"recorded all anew with {', '.join(f'{name} {version}' for name, version in installed.items())}"]
    done += [f"recorded `{one}`" for one in sorted(ids & set(found) - set(recorded.answers))]
    done += [f"recorded `{asked}` of `{one}`" for one in sorted(kept) for asked in sorted(set(found.get(one, {})) - set(kept[one]))]
    return done + [f"forgot `{one}`" for one in sorted(set(recorded.answers) - ids)]


def main() -> int:
    """Record into `FILE`; 1 where it is refused."""
    with tempfile.TemporaryDirectory() as folder:
        found, ids = answers(Path(folder)), ids_of_now(Path(folder) / "now")
    try:
        done = record(FILE, found, ids, libraries())
    except SameIdError as error:
        print(error, file=sys.stderr)
        return 1
    print("\n".join(done or ["Nothing to record."]))
    return 0


if __name__ == "__main__":
    sys.exit(main())

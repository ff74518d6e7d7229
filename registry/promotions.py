"""Which version carried the alias `promoted`, when, and why it moved: one tag of the registered model per movement.

::

    promotion.20260730T101112.123456Z    promoted 2: On `phase` (culture) it beats its twins and every negative control ...
    promotion.20260731T081500.000000Z    rolled back to 1: half of the images of plate 7 come out as noise
    promotion.20260801T093000.000000Z    withdrawn 1: Its evidence on `culture` is stale ...

Movements are only ever added. Each is written before the alias moves, so of a process that is killed in between a line is left
that did not happen; `earlier` starts from the version that carries the alias, not from the last line.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from registry.records import Version
from registry.store import PROMOTED, Store

PROMOTION, ROLLBACK, WITHDRAWAL = "promoted", "rolled back to", "withdrawn"
_PREFIX = "promotion."
_FORMAT = "%Y%m%dT%H%M%S.%fZ"
_VALUE = re.compile(rf"({PROMOTION}|{ROLLBACK}|{WITHDRAWAL}) (\d+): (.*)", re.DOTALL)
#: a tag of a registered model holds 5000 characters in MLflow's databases
_LONGEST = 1000


@dataclass(frozen=True)
class Movement:
    """One movement of the alias.

    Attributes:
        moment: UTC.
        word: PROMOTION, ROLLBACK or WITHDRAWAL.
        number: of the version that got the alias; of a withdrawal, that lost it.
        reason: sentences.
    """

    moment: datetime
    word: str
    number: int
    reason: str

    def as_tag(self) -> dict[str, str]:
        """The tag of the registered model."""
        words = self.reason if len(self.reason) <= _LONGEST else f"{self.reason[:_LONGEST]} ..."
        return {f"{_PREFIX}{self.moment.strftime(_FORMAT)}": f"{self.word} {self.number}: {words}"}


def movements(tags: Mapping[str, str], versions: Sequence[Version] = ()) -> list[Movement]:
    """Every movement that is known, oldest first.

    Args:
        tags: of the registered model.
        versions: all of that model. One that was promoted before movements were recorded is known by its last decision.
    """
    found = [_movement(key, value) for key, value in tags.items() if key.startswith(_PREFIX)]
    recorded = [each for each in found if each is not None]
    known = {each.number for each in recorded}
    older = [_before_records(version) for version in versions if version.number not in known]
    return sorted((*recorded, *(each for each in older if each is not None)), key=lambda each: each.moment)


def remember(store: Store, name: str) -> list[Movement]:
    """Every movement that is known, oldest first; what was known without a record is recorded, because the next decision overwrites it.

    Call it under `store.writing()`, before a decision is written.
    """
    tags = store.model_tags(name)
    history = movements(tags, store.versions(name))
    store.tag_registered_model(name, {key: value for each in history for key, value in each.as_tag().items() if key not in tags})
    return history


def move(store: Store, version: Version, word: str, reason: str) -> None:
    """Move the alias to a version, or of a withdrawal take it away; recorded first. Call it under `store.writing()`."""
    store.tag_registered_model(version.name, Movement(datetime.now(UTC), word, version.number, reason).as_tag())
    if word == WITHDRAWAL:
        store.remove_alias(version, PROMOTED)
    else:
        store.move_alias(version, PROMOTED)


def earlier(history: Iterable[Movement], holder: int | None, present: Iterable[int]) -> list[int]:
    """Versions to which the alias can go back, the nearest first, each once.

    A rollback takes back what came after the version it went to: the next one goes further back, never to what was left.

    Args:
        history: oldest first.
        holder: the version that carries the alias now; None if none does.
        present: numbers of the versions that are still registered.
    """
    stack: list[int] = []
    for each in history:
        if each.word == ROLLBACK and each.number in stack:
            while stack[-1] != each.number:
                stack.pop()
        elif each.word == WITHDRAWAL:
            stack = stack[:-1] if stack and stack[-1] == each.number else stack
        elif not stack or stack[-1] != each.number:
            stack.append(each.number)
    if holder in stack:
        while stack.pop() != holder:
            pass
    there = set(present) - {holder}
    return [number for number in dict.fromkeys(reversed(stack)) if number in there]


def _movement(key: str, value: str) -> Movement | None:
    """A tag read again; None for one that a person wrote differently: it must not be in the way of a rollback."""
    found = _VALUE.fullmatch(value)
    try:
        moment = datetime.strptime(key.removeprefix(_PREFIX), _FORMAT).replace(tzinfo=UTC)
    except ValueError:
        return None
    return Movement(moment, found[1], int(found[2]), found[3]) if found else None


def _before_records(version: Version) -> Movement | None:
    if PROMOTED not in version.aliases and version.tags.get("gate.decision") != "promoted":
        return None
    try:
        moment = datetime.fromisoformat(version.tags.get("gate.decided_at", "")).astimezone(UTC)
    except ValueError:
        moment = datetime(1970, 1, 1, tzinfo=UTC)
    # decisions are dated in seconds, and a movement's moment is its name
    return Movement(
        moment.replace(microsecond=version.number % 1_000_000), PROMOTION, version.number, version.tags.get("gate.reasons", "") or "not recorded"
    )

"""Taking a promotion back: the alias `promoted` returns to a version that carried it before, for a reason that is recorded.

The gate is asked again. What it refuses now, for stale evidence above all, needs `force`, and then its reasons are recorded too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from registry.errors import GateRefusedError, NotFoundError, ParamsError
from registry.gates import ALPHA, MAX_LOSS, Decision
from registry.promote import FORCED, ask_gate, bundles_of, record
from registry.promotions import ROLLBACK, WITHDRAWAL, Movement, earlier, move, remember
from registry.records import Reference, Version
from registry.staleness import Judge
from registry.store import PROMOTED, Store

#: the decision about the version that was left
LEFT = "rolled back"


@dataclass(frozen=True)
class Rollback:
    """What was done.

    Attributes:
        version: carries the alias now.
        left: carried it before; None if none did.
        since: when `version` had become promoted; None if that is not known.
        reason: why it went back.
        decision: what the gate says of `version` now.
    """

    version: Version
    left: Version | None
    since: datetime | None
    reason: str
    decision: Decision

    @property
    def sentence(self) -> str:
        """What was done, in words."""
        since = f", promoted on {self.since:%Y-%m-%d %H:%M} UTC" if self.since else ""
        start = f" from `{self.left}`" if self.left else ", which no version carried,"
        forced = "" if self.decision.passed else " The gate refuses it now; it was forced."
        return f"The alias `{PROMOTED}` of `{self.version.name}` went back{start} to `{self.version}`{since}: {self.reason}{forced}"


def rollback(
    store: Store,
    name: str,
    to: int = 0,
    reason: str = "",
    force: bool = False,
    max_loss: float = MAX_LOSS,
    alpha: float = ALPHA,
    judge: Judge | None = None,
) -> Rollback:
    """Move the alias `promoted` back.

    The record comes first (tags `promotion.<moment>` of the model, decisions on both versions), the alias last: what a killed
    process left is done by repeating the command.

    Args:
        store: the registry.
        name: of the registered model.
        to: number of a version that was promoted earlier; 0: the one that was promoted before.
        reason: a sentence; needed with `force`.
        force: go there although the gate refuses it now.
        max_loss: as for `registry.promote.promote`, like `alpha` and `judge`.

    Raises:
        NotFoundError: no such model, or no version to go back to.
        ParamsError: the version carries the alias already, or nothing says why it is forced.
        GateRefusedError: the gate refuses the version now; nothing was moved.
    """
    if force and not reason.strip():
        raise ParamsError("Expected `--reason` with `--force`: why the alias goes to a version that the gate refuses is recorded.")
    with store.writing():
        versions = _versions(store, name)
        left = next((version for version in versions if PROMOTED in version.aliases), None)
        history = remember(store, name)
        version = _target(name, to, versions, left, history)
        bundles = bundles_of(store, version)
        decision = ask_gate(version, bundles, max_loss, alpha, judge)
        why = _sentence(reason) or (f"`{left}` is taken back." if left else "No version was promoted.")
        if not decision.passed and not force:
            record(store, version, bundles, decision, decision.word, decision.reasons)
            raise GateRefusedError(
                f"`{name}` stays {f'at `{left}`' if left else 'without a promoted version'}: the gate refuses `{version}` now."
                f" {' '.join(decision.reasons)} `--force --reason WORDS` goes there all the same, `--to` to another."
            )
        line = f"Rolled back from `{left}`: {why}" if left else f"Rolled back to: {why}"
        record(store, version, bundles, decision, decision.word if decision.passed else FORCED, [line, *decision.reasons])
        if left is not None:
            _note_left(store, left, version, why)
        move(store, version, ROLLBACK, why if decision.passed else f"{why} Forced: {' '.join(decision.reasons)}")
    since = next((each.moment for each in reversed(history) if each.number == version.number and each.word != WITHDRAWAL), None)
    return Rollback(version, left, since, why, decision)


def _versions(store: Store, name: str) -> list[Version]:
    if Reference.parse(name) != Reference(name):
        raise ParamsError(f"Expected the name of a registered model, got `{name}`. `--to` says which version.")
    versions = store.versions(name)
    if not versions:
        raise NotFoundError("registered model", name, store.models())
    return versions


def _target(name: str, to: int, versions: Sequence[Version], left: Version | None, history: Sequence[Movement]) -> Version:
    there = {version.number: version for version in versions}
    if not to:
        before = earlier(history, left.number if left else None, there)
        if not before:
            raise NotFoundError(f"version of `{name}` promoted before", str(left or name), ())
        return there[before[0]]
    if left is not None and left.number == to:
        raise ParamsError(f"`{left}` carries the alias `{PROMOTED}` now. `blankslide registry show {name}` lists those that carried it before.")
    promoted = {each.number for each in history}
    if to not in there or to not in promoted:
        known = [f"{name}/{number}" for number in sorted(promoted & there.keys()) if left is None or number != left.number]
        raise NotFoundError("version promoted earlier", f"{name}/{to}", known)
    return there[to]


def _sentence(reason: str) -> str:
    words = " ".join(reason.split())
    return words if not words or words.endswith((".", "!", "?")) else f"{words}."


def _note_left(store: Store, left: Version, version: Version, why: str) -> None:
    now = datetime.now(UTC).isoformat(timespec="seconds")
    words = f"The alias `{PROMOTED}` went back to `{version}`: {why}"
    store.tag_version(left, {"gate.decision": LEFT, "gate.reasons": words, "gate.decided_at": now})

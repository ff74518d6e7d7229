"""What a registry's evidence is worth now: every version looked at, and marked where it can be seen.

`look` reads only. `mark` also writes the tags `stale` and `stale.<benchmark>` (`registry.tags`), so that the UI shows them
and a process that does not hold the benchmark still knows.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from registry.promote import outdated
from registry.records import Version
from registry.staleness import STALE, Judge, Staleness, from_tags, tags_of
from registry.store import PROMOTED, Store


@dataclass(frozen=True)
class Standing:
    """What is known of a version's evidence.

    Attributes:
        version: of the registry.
        found: by benchmark, where evidence is completely registered.
    """

    version: Version
    found: dict[str, Staleness]

    @property
    def promoted(self) -> bool:
        """Whether it carries the alias `promoted`."""
        return PROMOTED in self.version.aliases

    @property
    def current(self) -> dict[str, Staleness]:
        """Its evidence that somebody is shown: on benchmarks whose alias it carries, all of it if it is promoted."""
        return {name: each for name, each in self.found.items() if self.promoted or name in self.version.aliases}

    @property
    def warning(self) -> str:
        """Why a promoted version must not be kept as it is, in a sentence; "" if there is nothing to say."""
        if not self.promoted:
            return ""
        stale = [f"its evidence on `{name}` is stale: {each.because}" for name, each in self.found.items() if each.stale]
        stale += [f"its evidence on `{name}` is not what it was promoted on" for name in outdated(self.version)]
        return f"`{self.version}` is promoted, and {'; '.join(stale)}. Run `blankslide rescore`." if stale else ""


def look(store: Store, judge: Judge, names: Iterable[str] | None = None) -> list[Standing]:
    """What is known of all versions, oldest first; where the judge cannot check, what the registry's tags say.

    Args:
        store: the registry.
        judge: says of a scorecard whether it is stale.
        names: of registered models; default: all.
    """
    return [_standing(store, judge, version) for name in (store.models() if names is None else names) for version in store.versions(name)]


def mark(store: Store, judge: Judge) -> list[Standing]:
    """As `look`, and tag every version with what was found, and every registered model with whether it shows something stale."""
    standings = []
    for name in store.models():
        # under the lock: evidence may not change between the look and the tag
        with store.writing():
            here = [_standing(store, judge, version) for version in store.versions(name)]
            for standing in here:
                store.tag_version(standing.version, tags_of(standing.found, standing.version.tags))
            shown = [each for standing in here for each in standing.current.values() if not each.unchecked]
            if shown:
                store.tag_registered_model(name, {STALE: "true" if any(each.stale for each in shown) else "false"})
        standings += here
    return standings


def _standing(store: Store, judge: Judge, version: Version) -> Standing:
    found = {}
    for benchmark in version.benchmarks:
        here, noted = judge(store.scorecard(version, benchmark), ""), from_tags(version.tags, benchmark)
        found[benchmark] = noted if here.unchecked and not noted.unchecked else here
    return Standing(version, found)

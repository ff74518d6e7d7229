"""An endpoint's side of following: what a follower points to is loaded beside what is served, checked, and put in its place."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from registry.errors import BlankslideError, BundleError
from serving.endpoint.served import ServedModels
from serving.live import Live, Refusal, names, pointer_path
from serving.scoring import Scorer

#: opens a bundle, given its folder and what is known of its evidence
Opener = Callable[[Path, str], Scorer]
log = logging.getLogger("blankslide.watch")


class Watch:
    """Keeps served models at what the pointers in a folder name.

    A bundle that cannot be served is said once, in the log and the metrics; the one before goes on, and it is not tried again until its
    pointer changes. The same goes for what the follower itself has refused.

    Args:
        models: what is served.
        root: the folder that is followed.
        opener: opens a bundle.
        known: pointers whose bundles are served already, by name.
    """

    def __init__(self, models: ServedModels, root: Path, opener: Opener, known: dict[str, Live]) -> None:
        self._models = models
        self._root = root
        self._open = opener
        self._seen: dict[str, Live | str] = dict(known)
        self._refused: dict[str, Refusal | str | None] = {}

    async def run(self, poll_s: float) -> None:
        """Look again and again."""
        while True:
            await asyncio.sleep(poll_s)
            try:
                for name in await asyncio.to_thread(names, self._root):
                    await self.look(name)
            except Exception:  # a file that went while it was read, say: whatever it is, following must not end by it
                log.exception("looking failed, tried again at the next look")

    async def look(self, name: str) -> None:
        """Serve what the pointer of one name names now, unless it is served or was refused."""
        try:
            written, live = await asyncio.to_thread(self._pointer, name)
        except BundleError as error:
            self._refuse(name, str(error), str(error), await asyncio.to_thread(self._written, name))
            return
        if self._seen.get(name) != live:
            try:
                # a second at least, and nobody waits for it
                scorer = await asyncio.to_thread(self._opened, live)
            except BlankslideError as error:
                self._refuse(name, live, str(error), written)
            else:
                self._models.replace(scorer, written)
                self._seen[name] = live
                log.info("bundle served", extra={"facts": {"model": name, "version": live.version, "identity": live.identity}})
        await self._note_refusal(name)

    def _pointer(self, name: str) -> tuple[str, Live]:
        """When the pointer of a name was written, and what it says."""
        while True:
            written = self._written(name)
            live = Live.read(self._root, name)
            if written == self._written(name):
                return written, live

    def _written(self, name: str) -> str:
        """Tells a pointer from those before it, also from an equal one: to go back to a bundle is another event than to come to it."""
        try:
            return str(pointer_path(self._root, name).stat().st_mtime_ns)
        except OSError:
            return ""

    def _opened(self, live: Live) -> Scorer:
        scorer = self._open(live.bundle(self._root), live.evidence)
        if (scorer.name, scorer.bundle.digest) != (live.name, live.digest):
            raise BundleError(f"The pointer of `{live.name}` names {live.digest}, its folder holds `{scorer.name}` {scorer.bundle.digest}.")
        return scorer

    def _refuse(self, name: str, seen: Live | str, reason: str, event: str) -> None:
        if self._seen.get(name) == seen:
            return
        self._seen[name] = seen
        self._say(name, reason, event)

    async def _note_refusal(self, name: str) -> None:
        """What the follower did not take is said by the endpoint too: people watch its metrics."""
        try:
            refusal: Refusal | str | None = await asyncio.to_thread(Refusal.read, self._root, name)
        except BundleError as error:
            refusal = str(error)
        if refusal is not None and self._refused.get(name) != refusal:
            self._say(name, refusal if isinstance(refusal, str) else refusal.reason, str(refusal))
        self._refused[name] = refusal

    def _say(self, name: str, reason: str, event: str) -> None:
        self._models.metrics.bad_bundle(name, event)
        log.error("bundle refused", extra={"facts": {"model": name, "reason": reason}})


@asynccontextmanager
async def watching(watch: Watch, poll_s: float) -> AsyncIterator[None]:
    """Watch as long as the block runs."""
    task = asyncio.create_task(watch.run(poll_s))
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

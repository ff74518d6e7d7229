"""The models an endpoint serves: found by name, each with its queue, and replaced without dropping a request."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from registry.errors import BundleError, NotFoundError
from serving.endpoint.batching import Batcher
from serving.endpoint.intake import Bodies
from serving.endpoint.metrics import Metrics
from serving.errors import OverloadedError, TooSlowError
from serving.scoring import Scorer
from serving.settings import Settings

T = TypeVar("T")


class ServedModels:
    """Models by name. Replaced and looked up in the event loop's thread, so that a request that found a model can still use it.

    Args:
        scorers: opened and checked against their golden images; their names must differ.
        settings: limits.
        metrics: where times and sizes are counted.

    Raises:
        BundleError: no scorer, or two of one name.
    """

    def __init__(self, scorers: Sequence[Scorer], settings: Settings, metrics: Metrics) -> None:
        names = [scorer.name for scorer in scorers]
        if not names or len(set(names)) < len(names):
            raise BundleError(f"Expected bundles of different names, got {names}. Serve each name once.")
        self.metrics = metrics
        self.bodies = Bodies(settings.bodies_bytes)
        self._settings = settings
        self._hands, self._waiting = ThreadPoolExecutor(settings.runners, "aside"), 0
        self._by_name = {scorer.name: self._batcher(scorer) for scorer in scorers}

    def _batcher(self, scorer: Scorer) -> Batcher:
        return Batcher(scorer, self._settings.runners, self._settings.batch, self._settings.queue_length, self.metrics)

    def __iter__(self) -> Iterator[Scorer]:
        return iter([batcher.scorer for batcher in self._by_name.values()])

    @property
    def names(self) -> list[str]:
        """Names in order."""
        return list(self._by_name)

    def scorer(self, name: str) -> Scorer:
        """What answers for a model.

        Raises:
            NotFoundError: no such model; lists those there are.
        """
        return self.batcher(name).scorer

    def batcher(self, name: str) -> Batcher:
        """A model's queue; errors as `scorer`."""
        if name not in self._by_name:
            raise NotFoundError("served model", name, self._by_name)
        return self._by_name[name]

    async def aside(self, work: Callable[[], T]) -> T:
        """Do something beside the queues, in a thread: as much at a time as there are runners, as many wait as in a queue.

        Raises:
            OverloadedError: that many wait already.
            TooSlowError: not done within `settings.answer_timeout_s`.
        """
        if self._waiting >= self._settings.queue_length:
            raise OverloadedError(f"{self._waiting} requests wait to be unpacked or drawn, which is all that may. Try again in a moment.")
        self._waiting += 1
        limit = self._settings.answer_timeout_s
        try:
            async with asyncio.timeout(limit):
                # a thread cannot be stopped: what is given up there keeps its turn to its end
                return await asyncio.get_running_loop().run_in_executor(self._hands, work)
        except TimeoutError as error:
            raise TooSlowError(f"The body was not unpacked or drawn within {limit:g} s. Try again later.") from error
        finally:
            self._waiting -= 1

    def replace(self, scorer: Scorer, event: str) -> None:
        """Serve `scorer` under its name from the next request on; what waits for the one before is answered by it.

        Args:
            scorer: opened and checked.
            event: what tells this time from others, the same in all processes.
        """
        before = self._by_name.get(scorer.name)
        self._by_name[scorer.name] = self._batcher(scorer)
        if before is not None:
            if before.scorer.bundle.digest != scorer.bundle.digest:
                self.metrics.swapped(scorer.name, event)
            # its last images take their time, and the event loop has none
            threading.Thread(target=before.close, name=f"closing-{scorer.name}", daemon=True).start()

    def close(self) -> None:
        """Finish what waits and end all runners."""
        for batcher in self._by_name.values():
            batcher.close()
        self._hands.shutdown(cancel_futures=True)

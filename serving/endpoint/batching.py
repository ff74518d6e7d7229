"""Micro-batching: images of many requests go through a network together, as many as have come while it was busy.

Threads ("runners") take images from one bounded queue per model. A runner that is free takes what is there at once, so a
single image waits for nobody; while runners are busy, images gather and the next runner takes its share of them. The
queue is bounded: what does not fit is refused at once, which a client can repeat, instead of answered too late.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from time import perf_counter

from registry.errors import BlankslideError
from serving.endpoint.answers import Found
from serving.endpoint.metrics import Metrics
from serving.errors import OverloadedError, TooSlowError
from serving.framing import Framing
from serving.scoring import Answer, Asked, Scorer
from serving.sources import Source

#: hands over what is said to one image
Said = Callable[[], None]


class Item:
    """One image on its way through a model.

    Args:
        source: the image, not yet decoded.
        framing: how a field is cut.
        score: whether a reading is asked for, or the embedding alone.
        loop: where its answers are awaited.

    Attributes:
        future: its answers, one per tile, or one error.
        since: when it was submitted (`perf_counter`).
        abandoned: whether nobody waits for it any more: it is not worked on.
    """

    def __init__(self, source: Source, framing: Framing, score: bool, loop: asyncio.AbstractEventLoop) -> None:
        self.source = source
        self.framing = framing
        self.score = score
        self.future: asyncio.Future[list[Found]] = loop.create_future()
        self.since = perf_counter()
        self.abandoned = False
        self._loop = loop

    def answered(self, answers: Sequence[Answer | BlankslideError]) -> None:
        """Hand over the answers, from any thread."""
        self._hand_over(lambda: self.future.set_result([Found(self.source.name, answer) for answer in answers]))

    def failed(self, error: BaseException) -> None:
        """Hand over what went wrong with the service, not with the image."""
        self._hand_over(lambda: self.future.set_exception(error))

    def _hand_over(self, settle: Callable[[], None]) -> None:
        def unless_given_up() -> None:
            if not self.future.done():
                settle()

        with contextlib.suppress(RuntimeError):  # the loop has ended: nobody waits
            self._loop.call_soon_threadsafe(unless_given_up)


class Batcher:
    """The queue and the runners of one model.

    Args:
        scorer: what answers.
        runners: threads that take images.
        max_batch: most images of one pass; a field of more is one pass of its own.
        queue_length: most images that wait.
        metrics: where times and sizes are counted.
    """

    def __init__(self, scorer: Scorer, runners: int, max_batch: int, queue_length: int, metrics: Metrics) -> None:
        self.scorer = scorer
        self._max_batch = max_batch
        self._queue_length = queue_length
        self._metrics = metrics
        self._waiting: deque[Item] = deque()
        self._changed = threading.Condition()
        self._idle = 0
        self._working = 0
        self._closed = False
        self._threads = [threading.Thread(target=self._run, name=f"{scorer.name}-{i}", daemon=True) for i in range(runners)]
        for thread in self._threads:
            thread.start()

    async def answers(self, sources: Sequence[Source], framing: Framing, score: bool, timeout_s: float) -> list[Found]:
        """The answers to the images of one request, in order, one per tile; a bad image is answered by its error.

        Raises:
            OverloadedError: they do not fit into the queue.
            TooSlowError: not all were answered within `timeout_s`.
        """
        loop = asyncio.get_running_loop()
        items = [Item(source, framing, score, loop) for source in sources]
        self._submit(items)
        try:
            async with asyncio.timeout(timeout_s):
                return [one for item in items for one in await item.future]
        except TimeoutError as error:
            raise TooSlowError(f"`{self.scorer.name}` did not answer within {timeout_s:g} s. Try again later.") from error
        finally:
            for item in items:
                item.abandoned = True

    def close(self) -> None:
        """Take nothing more, finish what waits, end the runners; returns when they have ended."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def _submit(self, items: Sequence[Item]) -> None:
        with self._changed:
            if self._closed or len(self._waiting) + len(items) > self._queue_length:
                self._metrics.refused(self.scorer.name, "closed" if self._closed else "queue full", len(items))
                raise OverloadedError(
                    f"`{self.scorer.name}` has {len(self._waiting)} images waiting and takes {self._queue_length}: no room for {len(items)} more."
                    " Try again in a moment."
                )
            self._waiting.extend(items)
            self._metrics.queued(self.scorer.name, len(items))
            self._changed.notify(len(items))

    def _take(self) -> tuple[list[Item], bool]:
        """Items for one pass, and whether nobody else works; nothing once the batcher is closed and empty."""
        with self._changed:
            self._idle += 1
            while not self._waiting and not self._closed:
                self._changed.wait()
            # those that wait are shared among the runners that are free
            share = -(-len(self._waiting) // self._idle)
            self._idle -= 1
            items = [self._waiting.popleft() for _ in range(min(share, self._max_batch))]
            alone = not self._working and not self._waiting
            self._working += bool(items)
        self._metrics.queued(self.scorer.name, -len(items))
        return items, alone

    def _run(self) -> None:
        while True:
            items, alone = self._take()
            if not items:
                return
            said: list[Said] = []
            try:
                said = self._work(items, alone)
            finally:
                # before the last answers: who has them asks again at once, and is alone then
                with self._changed:
                    self._working -= 1
            for answer in said:
                answer()

    def _work(self, items: list[Item], alone: bool) -> list[Said]:
        """Answer items; what is said to the last of them is left to the caller."""
        said: list[Said] = []
        pending: list[tuple[Item, Asked]] = []
        for item in items:
            asked = self._decoded(item, said)
            if asked is None:
                continue
            # a field is many images: what is in memory at a time is one field, or one pass
            if pending and _images(pending) + len(asked.frames.tiles) > self._max_batch:
                for answer in said + self._answers(pending, alone):
                    answer()
                said, pending = [], []
            pending.append((item, asked))
        return said + self._answers(pending, alone) if pending else said

    def _decoded(self, item: Item, said: list[Said]) -> Asked | None:
        """An image as the model takes it; None if it was given up or cannot be used, which is then to be said."""
        if item.abandoned:
            return None
        name, start = self.scorer.name, perf_counter()
        self._metrics.stage(name, "wait", start - item.since)
        try:
            return Asked(self.scorer.frames(item.source, item.framing), item.score)
        except BlankslideError as error:
            said.append(partial(item.answered, [error]))
        except Exception as error:  # a fault of ours: this request fails, the runner goes on
            said.append(partial(item.failed, error))
        finally:
            self._metrics.stage(name, "decode", perf_counter() - start)
        return None

    def _answers(self, pending: list[tuple[Item, Asked]], alone: bool) -> list[Said]:
        name, metrics = self.scorer.name, self._metrics
        metrics.batch(name, _images(pending))
        try:
            answers = self.scorer.answers([asked for _, asked in pending], alone, lambda stage, seconds: metrics.stage(name, stage, seconds))
        except Exception as error:
            return [partial(item.failed, error) for item, _ in pending]
        return [partial(item.answered, found) for (item, _), found in zip(pending, answers, strict=True)]


def _images(pending: Sequence[tuple[Item, Asked]]) -> int:
    return sum(len(asked.frames.tiles) for _, asked in pending)

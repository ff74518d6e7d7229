"""What is done beside the queues is bounded too."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
import weakref

import pytest

from serving.endpoint.metrics import Metrics
from serving.endpoint.served import ServedModels
from serving.errors import OverloadedError, TooSlowError
from serving.scoring import Scorer
from serving.settings import Settings
from tests.serving.bundles import TinyBundle


def test_it_takes_turns_and_does_not_pile_up(tiny: TinyBundle) -> None:
    at_work: list[int] = []
    most: list[int] = []
    go = threading.Event()

    def work() -> int:
        at_work.append(1)
        most.append(len(at_work))
        go.wait(20)
        at_work.pop()
        return len(most)

    async def story() -> list[int]:
        tasks = [asyncio.create_task(models.aside(work)) for _ in range(4)]
        await asyncio.sleep(0.1)
        with pytest.raises(OverloadedError, match="4 requests wait"):
            await models.aside(work)
        go.set()
        found = [await task for task in tasks]
        assert await models.aside(work) == 5
        return found

    models = ServedModels([Scorer.open(tiny.folder)], Settings(threads=2, max_images=4, queue_length=4), Metrics())
    assert len(asyncio.run(story())) == 4
    assert max(most) == 2
    models.close()


def test_it_is_given_up_and_keeps_its_turn_to_its_end(tiny: TinyBundle) -> None:
    go = threading.Event()

    async def story() -> int:
        for _ in range(2):
            with pytest.raises(TooSlowError, match=r"within 1 s"):
                await models.aside(lambda: go.wait(20))
        go.set()
        return await models.aside(lambda: 7)

    models = ServedModels([Scorer.open(tiny.folder)], Settings(threads=1, answer_timeout_s=1.0), Metrics())
    try:
        assert asyncio.run(story()) == 7
    finally:
        go.set()
        models.close()


def test_a_replaced_model_is_freed_though_nobody_searches_for_what_was_loaded_at_the_start(tiny: TinyBundle) -> None:
    before = Scorer.open(tiny.folder)
    models = ServedModels([before], Settings(threads=2), Metrics())
    known = weakref.ref(before)
    gc.collect()
    gc.disable()
    gc.freeze()
    try:
        del before
        assert known() is not None
        models.replace(Scorer.open(tiny.folder), "again")
        deadline = time.monotonic() + 10
        while known() is not None and time.monotonic() < deadline:
            time.sleep(0.01)
        assert known() is None
    finally:
        gc.unfreeze()
        gc.enable()
        models.close()

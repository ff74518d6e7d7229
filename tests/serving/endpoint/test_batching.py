"""Micro-batching: images of many requests share passes, nobody waits for company, and what does not fit is refused at once."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Sequence

import numpy as np
import pytest

from registry.errors import ImageError
from serving.endpoint.answers import Found
from serving.endpoint.batching import Batcher
from serving.endpoint.metrics import Metrics
from serving.errors import OverloadedError, TooSlowError
from serving.framing import WHOLE, Framing
from serving.schema import EmbeddingAnswer, Reading
from serving.scoring import Answer, Asked, Scorer, embedding_tolerance
from serving.sources import FileSource, TensorSource
from tests.serving.bundles import TinyBundle, npy


class Held:
    """A real Scorer whose passes wait until they are let go; remembers how large each was."""

    def __init__(self, scorer: Scorer) -> None:
        self.passes: list[tuple[int, bool]] = []
        self.go = threading.Event()
        self.scorer = scorer
        inner = scorer.answers

        def answers(
            asked: Sequence[Asked], alone: bool = True, timed: Callable[[str, float], None] = lambda *_: None
        ) -> list[list[Answer | ImageError]]:
            self.passes.append((len(asked), alone))
            self.go.wait(20)
            return inner(asked, alone, timed)

        scorer.answers = answers


@pytest.fixture
def held(tiny: TinyBundle) -> Held:
    return Held(Scorer.open(tiny.folder))


def ask(batcher: Batcher, tiny: TinyBundle, i: int, score: bool = False, timeout_s: float = 20.0) -> asyncio.Task[list[Found]]:
    return asyncio.create_task(batcher.answers([TensorSource(tiny.images[i % 8])], WHOLE, score, timeout_s))


async def until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not true():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.005)


def test_what_comes_while_a_pass_runs_shares_the_next(held: Held, tiny: TinyBundle) -> None:
    async def story() -> list[list[Found]]:
        first = ask(batcher, tiny, 0)
        await until(lambda: len(held.passes) == 1)
        rest = [ask(batcher, tiny, i, score=i % 2 == 0) for i in range(1, 8)]
        await until(lambda: waiting() == 7)
        held.go.set()
        return [await task for task in (first, *rest)]

    metrics = Metrics()
    batcher = Batcher(held.scorer, runners=1, max_batch=5, queue_length=100, metrics=metrics)

    def waiting() -> float:
        line = next(line for line in metrics.text().decode().splitlines() if line.startswith("blankslide_queue_images{"))
        return float(line.rpartition(" ")[2])

    found = asyncio.run(story())
    batcher.close()
    assert [size for size, _ in held.passes] == [1, 5, 2]
    answers = [one.answer for (one,) in found]
    assert [isinstance(answer, Reading) for answer in answers] == [False, False, True, False, True, False, True, False]
    embedding = [answer.embedding for answer in answers if isinstance(answer, EmbeddingAnswer)]
    np.testing.assert_allclose(embedding, tiny.embedding[:8], rtol=0, atol=embedding_tolerance(tiny.embedding))
    assert waiting() == 0


def test_free_runners_share_what_waits(held: Held, tiny: TinyBundle) -> None:
    async def story() -> None:
        first = [ask(batcher, tiny, i) for i in range(2)]
        await until(lambda: len(held.passes) == 2)
        rest = [ask(batcher, tiny, i) for i in range(6)]
        await asyncio.sleep(0.05)
        held.go.set()
        await asyncio.gather(*first, *rest)

    batcher = Batcher(held.scorer, runners=2, max_batch=8, queue_length=100, metrics=Metrics())
    asyncio.run(story())
    batcher.close()
    assert sum(size for size, _ in held.passes) == 8
    assert [size for size, _ in held.passes[:2]] == [1, 1]
    assert not held.passes[1][1], "the first still runs"


def test_who_has_an_answer_is_alone_with_the_next_question(held: Held, tiny: TinyBundle) -> None:
    async def story() -> None:
        for i in range(20):
            await ask(batcher, tiny, i)

    held.go.set()
    batcher = Batcher(held.scorer, runners=2, max_batch=8, queue_length=100, metrics=Metrics())
    asyncio.run(story())
    batcher.close()
    assert held.passes == [(1, True)] * 20


def test_fields_do_not_gather_in_one_pass(held: Held, tiny: TinyBundle) -> None:
    async def story() -> list[list[Found]]:
        first = ask(batcher, tiny, 0)
        await until(lambda: len(held.passes) == 1)
        field = TensorSource(np.tile(tiny.images[0], (1, 2, 2)))
        rest = [asyncio.create_task(batcher.answers([field, TensorSource(tiny.images[1])], Framing("grid"), False, 20)) for _ in range(2)]
        await asyncio.sleep(0.05)
        held.go.set()
        return [await task for task in (first, *rest)]

    metrics = Metrics()
    batcher = Batcher(held.scorer, runners=1, max_batch=5, queue_length=100, metrics=metrics)
    found = asyncio.run(story())
    batcher.close()
    assert [len(one) for one in found] == [1, 5, 5]
    # one image; then a field of four tiles and an image, twice: five images at most
    assert [size for size, _ in held.passes] == [1, 2, 2]
    assert 'blankslide_batch_images_bucket{le="4.0",model="tiny"} 1.0' in metrics.text().decode()
    assert 'blankslide_batch_images_sum{model="tiny"} 11.0' in metrics.text().decode()


def test_a_full_queue_refuses_at_once_and_whole(held: Held, tiny: TinyBundle) -> None:
    async def story() -> None:
        first = ask(batcher, tiny, 0)
        await until(lambda: len(held.passes) == 1)
        second = ask(batcher, tiny, 1)
        await asyncio.sleep(0)
        with pytest.raises(OverloadedError, match="has 1 images waiting and takes 2: no room for 2 more"):
            await batcher.answers([TensorSource(tiny.images[0])] * 2, WHOLE, False, 20)
        held.go.set()
        await asyncio.gather(first, second)

    metrics = Metrics()
    batcher = Batcher(held.scorer, runners=1, max_batch=8, queue_length=2, metrics=metrics)
    asyncio.run(story())
    batcher.close()
    assert 'blankslide_images_refused_total{model="tiny",reason="queue full"} 2.0' in metrics.text().decode()


def test_what_is_given_up_is_not_computed(held: Held, tiny: TinyBundle) -> None:
    async def story() -> None:
        first = ask(batcher, tiny, 0)
        await until(lambda: len(held.passes) == 1)
        with pytest.raises(TooSlowError, match=r"did not answer within 0\.05 s"):
            await ask(batcher, tiny, 1, timeout_s=0.05)
        held.go.set()
        await first
        await ask(batcher, tiny, 2)

    batcher = Batcher(held.scorer, runners=1, max_batch=8, queue_length=10, metrics=Metrics())
    asyncio.run(story())
    batcher.close()
    assert [size for size, _ in held.passes] == [1, 1]


def test_closing_finishes_what_waits_and_takes_nothing_more(held: Held, tiny: TinyBundle) -> None:
    async def story() -> list[list[Found]]:
        tasks = [ask(batcher, tiny, i) for i in range(3)]
        await until(lambda: len(held.passes) == 1)
        closing = threading.Thread(target=batcher.close)
        closing.start()
        await asyncio.sleep(0.05)
        with pytest.raises(OverloadedError):
            await ask(batcher, tiny, 0)
        held.go.set()
        found = [await task for task in tasks]
        closing.join(10)
        assert not closing.is_alive()
        return found

    batcher = Batcher(held.scorer, runners=1, max_batch=1, queue_length=10, metrics=Metrics())
    assert all(isinstance(one.answer, EmbeddingAnswer) for (one,) in asyncio.run(story()))


def test_a_fault_of_the_service_fails_its_request_and_the_runner_goes_on(held: Held, tiny: TinyBundle) -> None:
    class Broken(FileSource):
        def image(self, max_pixels: int) -> None:
            raise ZeroDivisionError(max_pixels)

    async def story() -> None:
        with pytest.raises(ZeroDivisionError):
            await batcher.answers([Broken(b"")], WHOLE, False, 20)
        (found,) = await batcher.answers([FileSource(b"nothing", "bad.tif")], WHOLE, False, 20)
        assert isinstance(found.answer, ImageError)
        (found,) = await batcher.answers([FileSource(npy(tiny.images[0]))], WHOLE, False, 20)
        assert isinstance(found.answer, EmbeddingAnswer)

    held.go.set()
    batcher = Batcher(held.scorer, runners=1, max_batch=8, queue_length=10, metrics=Metrics())
    asyncio.run(story())
    batcher.close()

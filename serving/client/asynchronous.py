"""The typed client of the endpoint for an event loop."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar, Unpack
from urllib.parse import quote

import httpx

from serving.client.exchange import EMBED, SCORE, Answered, Door, ImageFile, Outcome, Part, Send, Steps, found_in, query_of
from serving.client.flow import Done, Flow, Options, forget, open_exchange, planned
from serving.client.retries import Came, Retries
from serving.schema import EmbeddingAnswer, Health, ModelPage, Models, Reading

A = TypeVar("A")
T = TypeVar("T")


class AsyncScoringClient:
    """Talks to one endpoint from an event loop; close it with `aclose`, or use it in an `async with` block. Arguments and errors as `ScoringClient`.

    Args:
        url: for example "http://127.0.0.1:8080".
        token: what the endpoint was started with; None: the environment's BLANKSLIDE_TOKEN; "" for none.
        timeout_s: for each phase of a try.
        retries: when a request is sent again.
        wait: takes seconds to wait.
        clock: seconds that only go forward.
    """

    def __init__(
        self,
        url: str,
        token: str | None = None,
        timeout_s: float = 60.0,
        retries: Retries | None = None,
        wait: Callable[[float], Awaitable[object]] = asyncio.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._exchange = open_exchange(url, token, timeout_s, retries, clock)
        self._http = httpx.AsyncClient(timeout=timeout_s)
        self._wait = wait
        self._clock = clock

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.aclose()

    @property
    def url(self) -> str:
        """Of the service, as given."""
        return self._exchange.url

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def health(self) -> Health:
        """Whether the service is ready."""
        return await self._carry_out(self._exchange.get(Health, "/healthz"))

    async def models(self) -> Models:
        """The served models."""
        return await self._carry_out(self._exchange.get(Models, "/v1/models"))

    async def model(self, name: str) -> ModelPage:
        """See `ScoringClient.model`."""
        return await self._carry_out(self._exchange.get(ModelPage, f"/v1/models/{quote(name, safe='')}"))

    async def embed(self, model: str, image: bytes | str | Path, *, resample: bool = False) -> EmbeddingAnswer:
        """See `ScoringClient.embed`."""
        return await self._carry_out(self._exchange.about(EMBED, query_of(model, resample=resample), await asyncio.to_thread(Part.of, image)))

    async def score(self, model: str, image: bytes | str | Path, *, resample: bool = False, pictures: bool = True) -> Reading:
        """See `ScoringClient.score`."""
        query = query_of(model, resample=resample, pictures=pictures)
        return await self._carry_out(self._exchange.about(SCORE, query, await asyncio.to_thread(Part.of, image)))

    def embed_many(
        self, model: str, images: Iterable[ImageFile] | AsyncIterable[ImageFile] | str | Path, **options: Unpack[Options]
    ) -> AsyncGenerator[Answered[EmbeddingAnswer], None]:
        """See `ScoringClient.embed_many`; the images may come from an asynchronous iterable."""
        return self._each(EMBED, *planned(model, options), images)

    def score_many(
        self, model: str, images: Iterable[ImageFile] | AsyncIterable[ImageFile] | str | Path, **options: Unpack[Options]
    ) -> AsyncGenerator[Answered[Reading], None]:
        """See `embed_many`."""
        return self._each(SCORE, *planned(model, options), images)

    async def _each(
        self, door: Door[A], query: dict[str, str], flow: Flow, images: Iterable[ImageFile] | AsyncIterable[ImageFile] | str | Path
    ) -> AsyncGenerator[Answered[A], None]:
        images = await asyncio.to_thread(found_in, images) if isinstance(images, str | Path) else images
        turn = asyncio.Semaphore(flow.concurrency)

        async def answers(group: list[ImageFile]) -> Done[A]:
            async with turn:
                parts = await asyncio.to_thread(lambda: [Part.of(image) for image in group])
                return Done(len(parts), await self._carry_out(self._exchange.about_each(door, query, parts)))

        waiting: deque[asyncio.Task[Done[A]]] = deque()
        files = aiter(images) if isinstance(images, AsyncIterable) else _awaited(images)
        try:
            with flow.bar(images) as bar:
                more = True
                while more or waiting:
                    if more and len(waiting) < flow.held and not (waiting and waiting[0].done()):
                        group = [image async for image in _first(files, flow.batch)]
                        more = bool(group)
                        if group:
                            waiting.append(asyncio.create_task(answers(group)))
                        continue
                    done = await waiting.popleft()
                    for answer in done.answers:
                        yield answer
                    bar.advance(done)
        finally:
            for task in waiting:
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)

    async def _carry_out(self, steps: Steps[A]) -> A:
        came: Outcome = None
        while True:
            try:
                step = steps.send(came)
            except StopIteration as end:
                answer: A = end.value
                return answer
            if isinstance(step, Send):
                came = await self._send(step)
            else:
                came = None
                await self._wait(step.seconds)

    async def _send(self, step: Send) -> Came | httpx.TransportError:
        try:
            response = await self._http.send(step.request, stream=True)
            try:
                pieces = []
                async for piece in response.aiter_bytes():
                    pieces.append(piece)
                    if self._clock() > step.end_s:
                        return httpx.ReadTimeout("the answer takes too long to arrive")
                return Came(response.status_code, response.headers, b"".join(pieces))
            finally:
                await response.aclose()
                forget(response)
        except httpx.TransportError as error:
            return error


async def _awaited(items: Iterable[T]) -> AsyncIterator[T]:
    for item in items:
        yield item


async def _first(items: AsyncIterator[T], count: int) -> AsyncIterator[T]:
    for _ in range(count):
        try:
            yield await anext(items)
        except StopAsyncIteration:
            return

"""Typed clients of the endpoint and of TorchServe. They send and wait; what is said and understood is in `serving.client.exchange`."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar, Unpack
from urllib.parse import quote

import httpx

from serving.client.exchange import EMBED, SCORE, Answered, Door, Exchange, ImageFile, Outcome, Part, Pause, Send, Steps, found_in, query_of
from serving.client.flow import Done, Flow, Options, forget, open_exchange, planned
from serving.client.retries import Came, Retries
from serving.schema import EmbeddingAnswer, Health, ModelPage, Models, Reading

A = TypeVar("A")


class _StoppedError(Exception):
    """Nobody waits for the answer any more."""


def _wait(seconds: float, stop: threading.Event) -> None:
    stop.wait(seconds)


class _Blocking:
    """Carries conversations out with blocking calls; safe to call from several threads."""

    def __init__(self, exchange: Exchange, timeout_s: float, wait: Callable[[float, threading.Event], object], clock: Callable[[], float]) -> None:
        self._exchange = exchange
        self._http = httpx.Client(timeout=timeout_s)
        self._wait = wait
        self._clock = clock

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    @property
    def url(self) -> str:
        """Of the service, as given."""
        return self._exchange.url

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def _carry_out(self, steps: Steps[A], stop: threading.Event | None = None) -> A:
        stop = stop or threading.Event()
        came: Outcome = None
        while True:
            try:
                step = steps.send(came)
            except StopIteration as end:
                answer: A = end.value
                return answer
            if isinstance(step, Pause):
                self._wait(step.seconds, stop)
            if stop.is_set():
                raise _StoppedError
            came = self._send(step) if isinstance(step, Send) else None

    def _send(self, step: Send) -> Came | httpx.TransportError:
        try:
            response = self._http.send(step.request, stream=True)
            try:
                pieces = []
                for piece in response.iter_bytes():
                    pieces.append(piece)
                    if self._clock() > step.end_s:
                        return httpx.ReadTimeout("the answer takes too long to arrive")
                return Came(response.status_code, response.headers, b"".join(pieces))
            finally:
                response.close()
                forget(response)
        except httpx.TransportError as error:
            return error


class ScoringClient(_Blocking):
    """Talks to one endpoint; close it, or use it in a `with` block. Safe to use from several threads.

    Args:
        url: for example "http://127.0.0.1:8080".
        token: what the endpoint was started with; None: the environment's BLANKSLIDE_TOKEN; "" for none.
        timeout_s: for each phase of a try: connecting, sending, waiting for the next piece of the answer.
        retries: when a request is sent again; no call takes longer than `retries.total_s` and one more try.
        wait: takes seconds to wait and the event at which to stop waiting.
        clock: seconds that only go forward.

    Every method raises `ServiceError` with the service's own words when it refuses or does not answer, and `ImageError` where an
    image file cannot be read.

    Raises:
        ParamsError: the URL or the token cannot be used.
    """

    def __init__(
        self,
        url: str,
        token: str | None = None,
        timeout_s: float = 60.0,
        retries: Retries | None = None,
        wait: Callable[[float, threading.Event], object] = _wait,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(open_exchange(url, token, timeout_s, retries, clock), timeout_s, wait, clock)

    def health(self) -> Health:
        """Whether the service is ready."""
        return self._carry_out(self._exchange.get(Health, "/healthz"))

    def models(self) -> Models:
        """The served models."""
        return self._carry_out(self._exchange.get(Models, "/v1/models"))

    def model(self, name: str) -> ModelPage:
        """Everything the service says of one model: card, scorecard, verdicts, licence."""
        return self._carry_out(self._exchange.get(ModelPage, f"/v1/models/{quote(name, safe='')}"))

    def embed(self, model: str, image: bytes | str | Path, *, resample: bool = False) -> EmbeddingAnswer:
        """The embedding of one image file, given as its bytes or its path.

        Args:
            model: its name.
            image: the file.
            resample: whether an image of other micrometres per pixel is resampled to the model's; otherwise it is refused.
        """
        return self._carry_out(self._exchange.about(EMBED, query_of(model, resample=resample), Part.of(image)))

    def score(self, model: str, image: bytes | str | Path, *, resample: bool = False, pictures: bool = True) -> Reading:
        """The reading of one image file; arguments as `embed`.

        Args:
            model: its name.
            image: the file.
            resample: as `embed`.
            pictures: whether it comes with pictures of the nearest training images, which are most of the answer.
        """
        return self._carry_out(self._exchange.about(SCORE, query_of(model, resample=resample, pictures=pictures), Part.of(image)))

    def embed_many(
        self, model: str, images: Iterable[ImageFile] | str | Path, **options: Unpack[Options]
    ) -> Generator[Answered[EmbeddingAnswer], None, None]:
        """The embeddings of many image files, in their order, while they are read: at most 3 x `concurrency` x `batch` are held at a time.

        Args:
            model: its name.
            images: paths, or names with the files' bytes; any iterable, also one without end. One path alone: that file, or the images below
                that folder.
            options: see `serving.client.flow.Options`.

        Yields:
            For each image its name, and its answer or the error instead: one bad image spoils no other. For a field, once per tile.

        Raises:
            ServiceError: no image can be answered: no such model, no access, or no answer after all tries.
            ParamsError: options that contradict each other, or a folder without an image.
        """
        return self._each(EMBED, *planned(model, options), images)

    def score_many(
        self, model: str, images: Iterable[ImageFile] | str | Path, **options: Unpack[Options]
    ) -> Generator[Answered[Reading], None, None]:
        """The readings of many image files; as `embed_many`."""
        return self._each(SCORE, *planned(model, options), images)

    def _each(self, door: Door[A], query: dict[str, str], flow: Flow, images: Iterable[ImageFile] | str | Path) -> Generator[Answered[A], None, None]:
        images = found_in(images) if isinstance(images, str | Path) else images
        stop = threading.Event()

        def answers(group: list[ImageFile]) -> Done[A]:
            parts = [Part.of(image) for image in group]
            return Done(len(parts), self._carry_out(self._exchange.about_each(door, query, parts), stop))

        waiting: deque[Future[Done[A]]] = deque()
        files = iter(images)
        pool = ThreadPoolExecutor(flow.concurrency, thread_name_prefix="client")
        try:
            with flow.bar(images) as bar:
                more = True
                while more or waiting:
                    if more and len(waiting) < flow.held and not (waiting and waiting[0].done()):
                        group = list(islice(files, flow.batch))
                        more = bool(group)
                        if group:
                            waiting.append(pool.submit(answers, group))
                        continue
                    done = waiting.popleft().result()
                    yield from done.answers
                    bar.advance(done)
        finally:
            stop.set()
            pool.shutdown(cancel_futures=True)


class TorchServeClient(_Blocking):
    """Talks to one TorchServe that serves archives of bundles; errors as `ScoringClient`.

    Args:
        url: of its inference interface, for example "http://127.0.0.1:8080".
        token: its inference token.
        timeout_s: as `ScoringClient`.
    """

    def __init__(self, url: str, token: str, timeout_s: float = 60.0) -> None:
        super().__init__(open_exchange(url, token, timeout_s, None, time.monotonic), timeout_s, _wait, time.monotonic)

    def score(self, model: str, image: bytes | str | Path) -> Reading:
        """The reading of one image file, given as its bytes or its path."""
        at = Door(f"/predictions/{quote(model, safe='')}", SCORE.one, SCORE.many)
        return self._carry_out(self._exchange.about(at, {}, Part.of(image)))

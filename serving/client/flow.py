"""Many images on their way: how many at a time, what a request's worth of them came to, the progress bar. Both clients share it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypedDict, TypeVar

import httpx

from registry.errors import BlankslideError, ParamsError
from serving.client.exchange import Answered, Exchange, Field, query_of
from serving.client.retries import Retries
from serving.settings import token_from_environment

if TYPE_CHECKING:
    from tqdm import tqdm

A = TypeVar("A")

#: batches that wait for their turn beside those that are sent, per connection: a slow one does not hold up the others
AHEAD = 2


@dataclass(frozen=True)
class Flow:
    """How many images are on their way.

    Attributes:
        batch: images of one request.
        concurrency: requests at a time.
        progress: whether a bar is drawn.
    """

    batch: int
    concurrency: int
    progress: bool

    def __post_init__(self) -> None:
        if self.batch < 1 or self.concurrency < 1:
            raise ParamsError(f"Expected at least one image per request and one request at a time, got {self.batch} and {self.concurrency}.")

    @property
    def held(self) -> int:
        """Most requests that are sent, answered or wait at a time."""
        return (1 + AHEAD) * self.concurrency

    @contextmanager
    def bar(self, images: object) -> Iterator[Bar]:
        """A progress bar on stderr; how many images there will be is not known of an iterator."""
        with progress_bar(len(images) if isinstance(images, Sized) else None, shown=self.progress) as drawn:
            yield Bar(drawn)


class Options(TypedDict, total=False):
    """How many images are sent, and what is done with each.

    Attributes:
        batch: images of one request; 8 unless given.
        concurrency: requests at a time; 4 unless given.
        progress: whether a progress bar is drawn on stderr, as it is unless refused.
        field: what is done with an image larger than the model's: "refuse" it, "grid": cut it into tiles, "centres": cut tiles around points.
        centres: these points, (y, x) in pixels.
        resample: whether an image of other micrometres per pixel is resampled to the model's; otherwise it is refused.
        pictures: whether readings come with pictures of the nearest training images, as they do unless refused.
    """

    batch: int
    concurrency: int
    progress: bool
    field: Field
    centres: Iterable[tuple[float, float]]
    resample: bool
    pictures: bool


def planned(model: str, options: Options) -> tuple[dict[str, str], Flow]:
    """The query of every request, and how many are on their way.

    Raises:
        ParamsError: options that contradict each other.
    """
    query = query_of(model, options.get("field", "refuse"), options.get("centres", ()), options.get("resample", False), options.get("pictures", True))
    return query, Flow(options.get("batch", 8), options.get("concurrency", 4), options.get("progress", True))


def progress_bar(total: int | None, initial: int = 0, shown: bool = True) -> tqdm[Any]:
    """A bar of images on stderr; in a log a line every ten seconds."""
    from tqdm import tqdm

    every_s = 0.1 if sys.stderr.isatty() else 10.0
    return tqdm(total=total, initial=initial, unit="image", disable=not shown, mininterval=every_s, maxinterval=max(every_s, 10.0))


@dataclass(frozen=True)
class Done(Generic[A]):
    """One request's worth of images.

    Attributes:
        images: how many.
        answers: theirs, one or several each.
    """

    images: int
    answers: list[Answered[A]]


class Bar:
    """Counts images that are answered, and those that failed.

    Args:
        drawn: the bar.
    """

    def __init__(self, drawn: tqdm[Any]) -> None:
        self._drawn = drawn
        self._failed = 0

    def advance(self, done: Done[A]) -> None:
        """Note a request's worth of images."""
        self._failed += sum(isinstance(answer, BlankslideError) for _, answer in done.answers)
        if self._failed:
            self._drawn.set_postfix_str(f"{self._failed} failed", refresh=False)
        self._drawn.update(done.images)


def open_exchange(url: str, token: str | None, timeout_s: float, retries: Retries | None, clock: Callable[[], float]) -> Exchange:
    """Conversations with a service: the token is the environment's and the retries are the usual ones where none are given."""
    return Exchange(url, token_from_environment() if token is None else token, timeout_s, retries or Retries(), clock)


def forget(response: httpx.Response) -> None:
    """Let go of what was sent: a response and its stream refer to each other, and would keep the images until the collector comes by."""
    response.stream = httpx.ByteStream(b"")

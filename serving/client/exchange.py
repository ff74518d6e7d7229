"""What a client of a scoring service says and understands, without sending anything: requests, tries, answers, errors.

A conversation is a generator: it yields what to do next (`Send`, `Pause`), is sent what came of it, and returns the answer. A
client carries the steps out, one with blocking calls, one with awaits (`serving.client`), and decides nothing.
"""

from __future__ import annotations

import io
import uuid
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Generic, Literal, NamedTuple, Protocol, TypeVar
from urllib.parse import urlsplit

import httpx
from pydantic import BaseModel, ValidationError

from registry.errors import BlankslideError, ImageError, ParamsError
from serving.client.retries import REFUSED_FOR_NOW, Came, Retries, Tries
from serving.errors import ServiceError
from serving.schema import EmbeddingAnswer, EmbeddingBatch, ErrorAnswer, Reading, ReadingBatch

A = TypeVar("A")
A_co = TypeVar("A_co", covariant=True)
B = TypeVar("B", bound=BaseModel)

#: an image file by its path, or its name and bytes
ImageFile = str | Path | tuple[str, bytes]
#: files of a folder that are sent
SUFFIXES = (".tiff", ".tif", ".png", ".jpeg", ".jpg", ".npy")
Field = Literal["refuse", "grid", "centres"]
#: one image of several may be at fault: they are sent again in two halves, down to the one
SPLIT = (HTTPStatus.REQUEST_ENTITY_TOO_LARGE, HTTPStatus.UNPROCESSABLE_ENTITY, HTTPStatus.INTERNAL_SERVER_ERROR)
#: characters of a name that a form can carry as they are; others become `_`
_SENDABLE = frozenset(" !#$&'()+,-.=@[]^_`{}~")
_LONGEST_NAME = 120


@dataclass(frozen=True)
class Send:
    """Send this; comes back as a `Came`, or as the error of the connection.

    Attributes:
        request: whole, with its timeout for each phase: connecting, sending, waiting for the next piece.
        end_s: by the clock, when to give up even if pieces go on coming.
    """

    request: httpx.Request
    end_s: float


@dataclass(frozen=True)
class Pause:
    """Wait this long; nothing comes back."""

    seconds: float


Outcome = Came | httpx.TransportError | None
Steps = Generator[Send | Pause, Outcome, A]


class Answered(NamedTuple, Generic[A]):
    """What came of one image, or of one tile of a field.

    Attributes:
        name: as it was given: the path, or the name beside the bytes.
        answer: its answer, or the error instead of one.
    """

    name: str
    answer: A | BlankslideError


@dataclass(frozen=True)
class Part:
    """One image of several.

    Attributes:
        name: as it was given.
        data: the file's bytes, or why there are none.
    """

    name: str
    data: bytes | ImageError

    @classmethod
    def of(cls, image: ImageFile | bytes) -> Part:
        """Read the file, if it is one."""
        if isinstance(image, bytes):
            return cls("image", image)
        if isinstance(image, tuple):
            return cls(*image)
        try:
            return cls(str(image), Path(image).read_bytes())
        except OSError as error:
            return cls(str(image), ImageError(f"`{image}`: cannot be read ({error.strerror})."))


def found_in(path: str | Path) -> list[ImageFile]:
    """The file itself, or the image files below a folder in the order of their paths; hidden ones are left out.

    Raises:
        ParamsError: a folder without an image that is read.
    """
    folder = Path(path)
    if not folder.is_dir():
        return [folder]
    below = [file for file in sorted(folder.rglob("*")) if file.suffix.lower() in SUFFIXES and file.is_file()]
    found: list[ImageFile] = [file for file in below if not any(part.startswith(".") for part in file.relative_to(folder).parts)]
    if not found:
        raise ParamsError(f"`{path}` holds no image that is read ({', '.join(SUFFIXES)}). Name another folder, or the files.")
    return found


class _Item(Protocol[A_co]):
    @property
    def image(self) -> str: ...
    @property
    def answer(self) -> A_co | None: ...
    @property
    def error(self) -> ErrorAnswer | None: ...


@dataclass(frozen=True)
class Door(Generic[A]):
    """One thing that can be asked about images.

    Attributes:
        path: where.
        one: reads the answer to one image.
        many: reads the answers to several.
    """

    path: str
    one: Callable[[bytes], A]
    many: Callable[[bytes], Sequence[_Item[A]]]


EMBED = Door("/v1/embed", EmbeddingAnswer.model_validate_json, lambda body: EmbeddingBatch.model_validate_json(body).images)
SCORE = Door("/v1/score", Reading.model_validate_json, lambda body: ReadingBatch.model_validate_json(body).images)


def query_of(
    model: str, field: Field = "refuse", centres: Iterable[tuple[float, float]] = (), resample: bool = False, pictures: bool = True
) -> dict[str, str]:
    """The query of a request about images; what says nothing new is left out.

    Args:
        model: name of the model.
        field: "refuse" another size; "grid": cut the field into tiles; "centres": cut tiles around points.
        centres: (y, x) in pixels of the image as it is sent.
        resample: whether an image of other micrometres per pixel is resampled to the model's.
        pictures: whether readings come with pictures of the nearest training images.

    Raises:
        ParamsError: centres without `field="centres"`, or the reverse.
    """
    points = ";".join(f"{y:.10g},{x:.10g}" for y, x in centres)
    if bool(points) != (field == "centres"):
        raise ParamsError(f'Expected points together with `field="centres"`, and only then; got field `{field}` and {points or "no points"}.')
    policy, sizes, shown = "" if field == "refuse" else field, "true" if resample else "", "" if pictures else "false"
    given = {"model": model, "field": policy, "centres": points, "resample": sizes, "pictures": shown}
    return {name: text for name, text in given.items() if text}


class Exchange:
    """Conversations with one service.

    Args:
        url: "http://127.0.0.1:8080"; a path in it stays before every path that is asked.
        token: sent as `Authorization: Bearer`; "" for none.
        timeout_s: for each phase of a try: connecting, sending, waiting for the next piece.
        retries: when a request is sent again.
        clock: seconds that only go forward.

    Raises:
        ParamsError: the URL or the token cannot be used.
    """

    def __init__(self, url: str, token: str, timeout_s: float, retries: Retries, clock: Callable[[], float]) -> None:
        self.url = _checked_url(url)
        self._headers = {"Accept": "application/json", **({"Authorization": f"Bearer {checked_token(token)}"} if token else {})}
        self._timeout_s = timeout_s
        self._retries = retries
        self._clock = clock

    def get(self, kind: type[B], path: str) -> Steps[B]:
        """What is at a path."""
        return (yield from self._ask(kind.model_validate_json, "GET", path, {}, {}))

    def about(self, door: Door[A], query: Mapping[str, str], part: Part) -> Steps[A]:
        """The answer to one image.

        Raises:
            ImageError: the file could not be read.
            ServiceError: the service refuses or does not answer.
        """
        if isinstance(part.data, ImageError):
            raise part.data
        headers = {"Content-Type": "application/octet-stream"}
        return (yield from self._ask(door.one, "POST", door.path, query, headers, content=part.data))

    def about_each(self, door: Door[A], query: Mapping[str, str], parts: Sequence[Part]) -> Steps[list[Answered[A]]]:
        """The answers to several images that are sent together, in their order; several per image where a field is cut into tiles.

        An image that is at fault gets an error, also where the service refuses the request as a whole (too large together, or failing
        on one of them): it is then sent again in halves. An image that a busy service left out is sent again.

        Raises:
            ServiceError: the request is at fault whatever the image (no such model, no access), or the service does not answer.
        """
        found: dict[int, list[Answered[A]]] = {
            i: [Answered(part.name, part.data)] for i, part in enumerate(parts) if isinstance(part.data, ImageError)
        }
        tries = Tries(self._retries, self._clock)
        while missing := {i: (part.name, part.data) for i, part in enumerate(parts) if i not in found and isinstance(part.data, bytes)}:
            came = yield from self._sent_together(door, query, missing)
            busy = [i for i, answers in came.items() if any(_is_busy(answer) for _, answer in answers)]
            wait = tries.refused(None) if busy else None
            found |= {i: answers for i, answers in came.items() if wait is None or i not in busy}
            if wait is not None:
                yield Pause(wait)
        return [answer for i in range(len(parts)) for answer in found[i]]

    def _sent_together(self, door: Door[A], query: Mapping[str, str], images: Mapping[int, tuple[str, bytes]]) -> Steps[dict[int, list[Answered[A]]]]:
        sent = _sent_names({i: name for i, (name, _) in images.items()})
        files = [(name, images[i][1]) for name, i in sent.items()]
        try:
            items = yield from self._ask(door.many, "POST", door.path, query, {}, files=files)
        except ServiceError as error:
            if error.status not in SPLIT:
                raise
            if len(images) == 1:
                return {i: [Answered(name, error)] for i, (name, _) in images.items()}
            places = list(images)
            first, second = places[: len(places) // 2], places[len(places) // 2 :]
            found = yield from self._sent_together(door, query, {i: images[i] for i in first})
            return found | (yield from self._sent_together(door, query, {i: images[i] for i in second}))
        return self._sorted_out({i: name for i, (name, _) in images.items()}, sent, items, door.path)

    def _sorted_out(self, names: Mapping[int, str], sent: Mapping[str, int], items: Sequence[_Item[A]], path: str) -> dict[int, list[Answered[A]]]:
        found: dict[int, list[Answered[A]]] = {i: [] for i in names}
        for item in items:
            place = sent.get(item.image, -1)
            # tiles follow one another
            if place not in found or any(found[later] for later in found if later > place):
                raise ServiceError(
                    f"{self.url}{path} answered about `{item.image}` where it was not asked. Is something between it and the client?", 200
                )
            found[place].append(Answered(names[place], _answer_in(item)))
        if lacking := [names[i] for i, answers in found.items() if not answers]:
            raise ServiceError(f"{self.url}{path} left out {len(lacking)} of {len(names)} images (first: `{lacking[0]}`). Send them again.", 200)
        return found

    def _ask(
        self,
        read: Callable[[bytes], A],
        method: str,
        path: str,
        query: Mapping[str, str],
        headers: Mapping[str, str],
        content: bytes | None = None,
        files: Sequence[tuple[str, bytes]] = (),
    ) -> Steps[A]:
        """One request, as often as it takes; every try has the same `X-Request-ID`, by which the service's log tells them apart from others."""
        request_id = uuid.uuid4().hex
        tries = Tries(self._retries, self._clock)
        while True:
            request = httpx.Request(
                method,
                self.url + path,
                params=query or None,
                headers={**self._headers, "X-Request-ID": request_id, **headers},
                content=content,
                # a file is sent in small pieces; bytes would be copied again with each piece that the socket takes
                files=[("image", (name, io.BytesIO(data), "application/octet-stream")) for name, data in files] or None,
                extensions={"timeout": httpx.Timeout(self._timeout_s).as_dict()},
            )
            came = yield Send(request, tries.end_s(self._timeout_s))
            if not isinstance(came, Came | httpx.TransportError):
                raise TypeError(f"Expected what came of a request, got {came!r}.")
            wait = tries.wait_s(came)
            if wait is None:
                return _read(read, came, request.url, request_id, str(tries))
            yield Pause(wait)


def _read(read: Callable[[bytes], A], came: Came | httpx.TransportError, url: httpx.URL, request_id: str, tried: str) -> A:
    """The answer.

    Raises:
        ServiceError: there is none, or it is not one that is understood.
    """
    tried = f" ({tried})" if tried else ""
    if isinstance(came, httpx.TransportError):
        why = f"{type(came).__name__}: {came}" if str(came) else type(came).__name__
        advice = "Start the service with `blankslide serve NAME`, or check the URL."
        if isinstance(came, httpx.ReadTimeout):
            advice = "Send fewer images at once, or give it more time."
        raise ServiceError(f"No answer from {url} ({why}){tried}. {advice}", 0, type(came).__name__, request_id) from came
    try:
        if 200 <= came.status < 300:
            return read(came.body)
        said = ErrorAnswer.model_validate_json(came.body)
    except ValidationError as error:
        text = " ".join(came.body[:2000].decode("utf-8", "replace").split())[:200]
        message = f"{url} answered {came.status}, expected an answer of schema 1, got: {text or 'nothing'}{tried}. Request {request_id}."
        raise ServiceError(message, came.status, request_id=request_id) from error
    raise ServiceError(said.error + tried, came.status, said.kind, request_id)


def _answer_in(item: _Item[A]) -> A | BlankslideError:
    if item.error is not None:
        return ServiceError(item.error.error, item.error.status, item.error.kind)
    if item.answer is None:
        return ServiceError("The service gave neither an answer nor an error.", 200)
    return item.answer


def _is_busy(answer: object) -> bool:
    return isinstance(answer, ServiceError) and answer.status in REFUSED_FOR_NOW


def _sent_names(names: Mapping[int, str]) -> dict[str, int]:
    """A file name for each image that every form carries unchanged and that no other image of the request has."""
    sent: dict[str, int] = {}
    for i, name in names.items():
        plain = "".join(c if c.isalnum() or c in _SENDABLE else "_" for c in name.replace("\\", "/").rpartition("/")[2])[-_LONGEST_NAME:] or "image"
        sent[plain if plain not in sent else f"{i}-{plain}"] = i
    # a name that looks like another's with its number
    return sent if len(sent) == len(names) else {f"{i}-image": i for i in names}


def _checked_url(url: str) -> str:
    try:
        parsed = urlsplit(url)
        httpx.URL(url)
        sound = parsed.scheme in ("http", "https") and bool(parsed.hostname) and parsed.port != 0 and not (parsed.query or parsed.fragment)
    except (ValueError, httpx.InvalidURL):
        sound = False
    if not sound:
        raise ParamsError(f"Expected a URL such as http://127.0.0.1:8080, got `{url}`.")
    return url.rstrip("/")


def checked_token(text: str) -> str:
    """A bearer token without the white space around it; what is refused is not quoted, it may be a secret.

    Raises:
        ParamsError: empty, or with characters that no header carries.
    """
    token = text.strip()
    if not token or not token.isascii() or not all(c.isprintable() and c != " " for c in token):
        raise ParamsError("Expected a token of one word of ASCII characters. The file or variable holds something else.")
    return token

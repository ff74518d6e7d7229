"""Request bodies: bounded in size and time while they arrive, and taken apart into image files."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import python_multipart
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import parse_options_header
from starlette.requests import Request

from registry.errors import InputError
from serving.errors import BodyKindError, BodyTimeoutError, BodyTooLargeError, OverloadedError
from serving.settings import Settings
from serving.sources import FileSource

_PLAIN = ("", "identity")
#: parts of a form beside its images: fields that are no files
FIELDS = 16
Aside = Callable[[Callable[[], bytes]], Awaitable[bytes]]


class Bodies:
    """How much of all requests' bodies is in memory. Used in the event loop's thread.

    Args:
        limit: most bytes at a time.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.held = 0

    @contextmanager
    def room(self) -> Iterator[Room]:
        """Room for the body of one request, as long as the block."""
        room = Room(self)
        try:
            yield room
        finally:
            room.clear()


class Room:
    """What one request holds of `Bodies`."""

    def __init__(self, bodies: Bodies) -> None:
        self._bodies = bodies
        self._size = 0

    def take(self, size: int) -> bool:
        """Take `size` bytes more; False where they are not there."""
        if self._bodies.held + size > self._bodies.limit:
            return False
        self._size += size
        self._bodies.held += size
        return True

    def clear(self) -> None:
        """Give back what was taken."""
        self._bodies.held -= self._size
        self._size = 0


async def read_body(request: Request, settings: Settings, room: Room, unpack: Aside | None = None) -> bytes:
    """The body of a request.

    Args:
        request: its body is not read yet.
        settings: limits.
        room: what the body takes.
        unpack: does what takes long beside the event loop: there a body compressed by gzip is unpacked, at most to the limit. None: it is refused.

    Raises:
        BodyKindError: compressed.
        BodyTooLargeError: more than `settings.max_body_bytes`.
        BodyTimeoutError: not there after `settings.body_timeout_s`.
        OverloadedError: no room for it beside the bodies of other requests.
        InputError: empty.
    """
    encoding = request.headers.get("content-encoding", "").lower()
    if encoding not in _PLAIN and (unpack is None or encoding != "gzip"):
        raise BodyKindError(f"Expected the file's bytes as they are, got `Content-Encoding: {encoding[:40]}`. Send it uncompressed.")
    try:
        async with asyncio.timeout(settings.body_timeout_s):
            body = await _read_at_most(request, settings.max_body_bytes, room)
    except TimeoutError as error:
        raise BodyTimeoutError(f"Expected the body within {settings.body_timeout_s:g} s, it was not complete by then. Send it again.") from error
    if not body:
        raise InputError("Expected the bytes of an image file as the body, got none. With curl: `--data-binary @FILE`.")
    if encoding != "gzip" or unpack is None:
        return body
    data = await unpack(lambda: unzipped(body, settings.max_body_bytes))
    if not room.take(len(data)):
        raise _crowded()
    return data


def _crowded() -> OverloadedError:
    return OverloadedError("The images of other requests take all the memory there is for them. Try again in a moment.")


async def _read_at_most(request: Request, limit: int, room: Room) -> bytes:
    chunks, size, fits = [], 0, True
    async for chunk in request.stream():
        size += len(chunk)
        fits = fits and size <= limit and room.take(len(chunk))
        if fits:
            chunks.append(chunk)
            continue
        chunks.clear()
        room.clear()
        # What still comes is dropped unread for a while: a client that sends all before it listens would
        # otherwise see a broken connection instead of the answer.
        if size > 2 * limit:
            break
    if size > limit:
        raise BodyTooLargeError(f"Expected a body of at most {limit} bytes, got more ({_announced(request)}). Crop the image or raise the limit.")
    if not fits:
        raise _crowded()
    return b"".join(chunks)


def _announced(request: Request) -> str:
    length = request.headers.get("content-length")
    return f"{length[:20]} announced" if length else "sent in chunks"


def unzipped(body: bytes, limit: int) -> bytes:
    """What a gzip body holds.

    Raises:
        BodyTooLargeError: more than `limit` bytes.
        InputError: not gzip, or truncated.
    """
    unpacker = zlib.decompressobj(wbits=31)
    try:
        data = unpacker.decompress(body, limit + 1)
    except zlib.error as error:
        raise InputError("Expected a body compressed by gzip, which it is not. Send it again, or uncompressed.") from error
    if len(data) > limit:
        raise BodyTooLargeError(f"Expected at most {limit} bytes after unpacking, got more. Send less at once or raise the limit.")
    if not unpacker.eof:
        raise InputError("The body compressed by gzip is truncated. Send it again.")
    return data


def is_form(request: Request) -> bool:
    """Whether several images may come in the body."""
    return request.headers.get("content-type", "").lower().startswith("multipart/")


def files_of(body: bytes, content_type: str, max_images: int) -> list[FileSource]:
    """The files of a multipart form, in order; fields that are no files are left out. A large form takes long: not for the event loop.

    Raises:
        InputError: not a form, truncated, without a file, or with more than `max_images`, or `FIELDS` parts beside them.
    """
    kind, options = parse_options_header(content_type.encode("latin-1", "replace"))
    boundary = options.get(b"boundary")
    if kind != b"multipart/form-data" or not boundary:
        raise InputError("Expected `multipart/form-data` with its boundary. With curl: `-F image=@FILE -F image=@FILE`.")
    form = _Form(max_images)
    try:
        parser = python_multipart.MultipartParser(
            boundary,
            {
                "on_part_begin": form.begin,
                "on_header_field": form.header_field,
                "on_header_value": form.header_value,
                "on_header_end": form.header_end,
                "on_part_data": form.data,
                "on_part_end": form.end,
                "on_end": form.finish,
            },
        )
        _check_parts(body, boundary, max_images + FIELDS)
        parser.write(body)
    except FormParserError as error:
        raise InputError("The multipart form cannot be read. Send it again.") from error
    if not form.finished:
        raise InputError("The multipart form is truncated: its closing boundary is missing. Send it again.")
    if not form.files:
        raise InputError("Expected at least one file in the multipart form, got none. With curl: `-F image=@FILE`.")
    return form.files


def _check_parts(body: bytes, boundary: bytes, most: int) -> None:
    """Counted before they are parsed, which for small parts takes a thousand times as long."""
    parts = body.count(b"\r\n--" + boundary) + body.startswith(b"--" + boundary) - 1
    if parts > most:
        raise InputError(f"Expected at most {most} parts in the multipart form, got {parts}. Send several requests.")


@dataclass
class _Part:
    disposition: bytes = b""
    field: bytes = b""
    value: bytes = b""


class _Form:
    """Gathers the parts of a form as its parser finds them."""

    def __init__(self, max_images: int) -> None:
        self.files: list[FileSource] = []
        self.finished = False
        self._max_images = max_images
        self._part = _Part()
        self._chunks: list[bytes] = []

    def begin(self) -> None:
        self._part, self._chunks = _Part(), []

    def header_field(self, data: bytes, start: int, end: int) -> None:
        self._part.field += data[start:end]

    def header_value(self, data: bytes, start: int, end: int) -> None:
        self._part.value += data[start:end]

    def header_end(self) -> None:
        if self._part.field.lower() == b"content-disposition":
            self._part.disposition = self._part.value
        self._part.field = self._part.value = b""

    def data(self, data: bytes, start: int, end: int) -> None:
        self._chunks.append(data[start:end])

    def end(self) -> None:
        _, options = parse_options_header(self._part.disposition)
        if b"filename" not in options:
            return
        if len(self.files) == self._max_images:
            raise InputError(f"Expected at most {self._max_images} images in one request, got more. Send several requests.")
        name = options[b"filename"].decode("utf-8", "replace")[:200]
        self.files.append(FileSource(b"".join(self._chunks), name or f"image {len(self.files)}"))

    def finish(self) -> None:
        self.finished = True

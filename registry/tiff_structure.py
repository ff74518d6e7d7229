"""The structure of a TIFF, proved whole before a byte of pixels is decoded (TIFF 6.0, section 2; BigTIFF).

tifffile is made to salvage what it can: of a truncated file it returns the pages it can still find, and it fills
missing strips with zeros. For measurements that is worse than an error, so `check_structure` walks the file
itself and refuses a file in which a page, a tag's values or a strip lies outside the bytes there are. The same
walk bounds what a hostile file can make the decoders allocate.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace

from registry.errors import ImageError
from registry.jpeg import MAX_PASSES, read_jpeg

MAX_PAGES = 1024
MAX_TAGS = 256
MAX_SAMPLES = 1024
MAX_SEGMENTS = 100_000
#: bytes per value of each TIFF field type
TYPE_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
#: of those that are integers, the format of `struct`
INTEGER_TYPES = {1: "B", 3: "H", 4: "I", 13: "I", 16: "Q"}
#: codecs whose output is bounded by the header; other codecs carry a size of their own that nothing checks
COMPRESSIONS = {1: "none", 5: "LZW", 7: "JPEG", 8: "deflate", 32773: "PackBits", 32946: "deflate", 50000: "Zstandard"}
PHOTOMETRIC_REFUSED = {0: "white is zero", 3: "a colour palette", 4: "a transparency mask", 5: "CMYK"}


@dataclass(frozen=True)
class Page:
    """What one image file directory says.

    `alpha` is true where the last sample is an alpha channel; `passes` counts the values that the scans of JPEG tiles pass over.
    """

    width: int
    height: int
    samples: int
    photometric: int
    alpha: bool
    reduced: bool
    passes: int = 0

    @property
    def size(self) -> int:
        """Values in the page."""
        return self.width * self.height * self.samples


@dataclass(frozen=True)
class Structure:
    """What the walk found.

    Attributes:
        pages: of the chain of directories.
        read: (start, end) of every directory and of every tag's values, in bytes of the file.
        nested: some page names directories outside the chain (SubIFDs), which are not walked.
    """

    pages: tuple[Page, ...]
    read: tuple[tuple[int, int], ...]
    nested: bool


def check_structure(data: bytes, source: str, max_pixels: int) -> Structure:
    """Walk every directory of the chain.

    Raises:
        ImageError: something lies outside the file, announces more than `max_pixels` values over all pages, or uses a codec or
            photometric interpretation that is not read.
    """
    read: list[tuple[int, int]] = []
    pages, nested = [], False
    try:
        for tags in _directories(data, source, read):
            pages.append(_page(tags, data, source, max_pixels))
            nested = nested or _SUB_DIRECTORIES in tags
    except (struct.error, OverflowError, ValueError) as error:
        raise ImageError(f"`{source}`: a TIFF directory lies outside the file's {len(data)} bytes. The file is truncated: save it again.") from error
    total = sum(page.size for page in pages)
    if total > max_pixels:
        raise ImageError(f"`{source}`: expected at most {max_pixels} values over all pages, the header announces {total}. Crop the image.")
    if sum(page.passes for page in pages) > MAX_PASSES * max_pixels:
        raise ImageError(f"`{source}`: its JPEG tiles have too many scans for their size. Save the file again, with baseline JPEG or deflate.")
    if not pages:
        raise ImageError(f"`{source}`: the TIFF holds no page. Save it again.")
    return Structure(tuple(pages), tuple(read), nested)


#: tag -> its values as integers; other tags are checked and left out
_Tags = dict[int, tuple[int, ...]]
_WIDTH, _HEIGHT, _COMPRESSION, _PHOTOMETRIC, _SAMPLES = 256, 257, 259, 262, 277
_SUBFILE, _EXTRA_SAMPLES, _TILE_WIDTH, _TILE_HEIGHT = 254, 338, 322, 323
_SUB_DIRECTORIES = 330
_STRIPS, _TILES = (273, 279), (324, 325)
_ONE_VALUE = (_WIDTH, _HEIGHT, _COMPRESSION, _PHOTOMETRIC, _SAMPLES, _SUBFILE, _EXTRA_SAMPLES, _TILE_WIDTH, _TILE_HEIGHT, _SUB_DIRECTORIES)
_READ = frozenset((*_ONE_VALUE, *_STRIPS, *_TILES))


def _directories(data: bytes, source: str, read: list[tuple[int, int]]) -> Iterator[_Tags]:
    """The integer tags of each directory in the chain; adds to `read` which bytes were looked at."""
    order = "<" if data[:2] == b"II" else ">"
    big = data[2:4] in (b"+\x00", b"\x00+")
    count_format, entry_format, offset_format = (f"{order}Q", f"{order}HHQ", f"{order}Q") if big else (f"{order}H", f"{order}HHI", f"{order}I")
    inline, entry_bytes = (8, 20) if big else (4, 12)
    (offset,) = struct.unpack_from(offset_format, data, 8 if big else 4)
    seen: set[int] = set()
    while offset:
        if offset in seen or len(seen) >= MAX_PAGES:
            raise ImageError(f"`{source}`: expected at most {MAX_PAGES} TIFF pages, got more or pages that form a loop. Save one image.")
        seen.add(offset)
        (count,) = struct.unpack_from(count_format, data, offset)
        if count > MAX_TAGS:
            raise ImageError(f"`{source}`: expected at most {MAX_TAGS} tags per TIFF page, got {count}. The file is damaged: save it again.")
        start, tags = offset + struct.calcsize(count_format), _Tags()
        read.append((offset, start + count * entry_bytes + inline))
        for tag, kind, values, held in struct.iter_unpack(f"{entry_format}{inline}s", data[start : start + count * entry_bytes]):
            size = TYPE_BYTES.get(kind, 0) * values
            if size > inline:
                (at,) = struct.unpack(offset_format, held)
                if at + size > len(data):
                    raise ImageError(
                        f"`{source}`: the values of TIFF tag {tag} end at byte {at + size}, the file has {len(data)}."
                        " The file is truncated: save it again."
                    )
                held = data[at : at + size]
                read.append((at, at + size))
            if tag in _READ and kind in INTEGER_TYPES and values <= MAX_SEGMENTS:
                tags[tag] = struct.unpack_from(f"{order}{values}{INTEGER_TYPES[kind]}", held)
        yield tags
        # fails where the directory is cut off
        (offset,) = struct.unpack_from(offset_format, data, start + count * entry_bytes)


def _page(tags: _Tags, data: bytes, source: str, max_pixels: int) -> Page:
    def value(tag: int, default: int) -> int:
        return next(iter(tags.get(tag, ())), default)

    extra = tags.get(_EXTRA_SAMPLES)
    page = Page(
        width=value(_WIDTH, 0),
        height=value(_HEIGHT, 0),
        samples=value(_SAMPLES, 1),
        photometric=value(_PHOTOMETRIC, 1),
        alpha=extra in ((1,), (2,)),
        reduced=bool(value(_SUBFILE, 0) & 1),
    )
    if page.width < 1 or page.height < 1 or page.samples < 1:
        raise ImageError(f"`{source}`: a TIFF page of {page.height} x {page.width} pixels (y, x) and {page.samples} samples is empty. Save it again.")
    if page.samples > MAX_SAMPLES:
        raise ImageError(
            f"`{source}`: expected at most {MAX_SAMPLES} samples per pixel of a TIFF page, got {page.samples}. Save one plane per channel."
        )
    if page.size > max_pixels:
        raise ImageError(f"`{source}`: expected at most {max_pixels} values, the header announces {page.size} in one page. Crop the image.")
    if page.photometric in PHOTOMETRIC_REFUSED:
        raise ImageError(f"`{source}`: expected grey with black as zero, or RGB, got {PHOTOMETRIC_REFUSED[page.photometric]}. Convert the file.")
    compression = value(_COMPRESSION, 1)
    if compression not in COMPRESSIONS:
        names = ", ".join(dict.fromkeys(COMPRESSIONS.values()))
        raise ImageError(f"`{source}`: expected TIFF compression {names}, got code {compression}. Save the file with one of these.")
    segment = value(_TILE_WIDTH, page.width) * value(_TILE_HEIGHT, page.height) * page.samples
    if segment > max(4 * page.size, 1 << 20) or segment > max_pixels:
        raise ImageError(f"`{source}`: a TIFF tile announces {segment} values, its page {page.size}. The file is damaged: save it again.")
    passes = _check_segments(tags, data, source, jpeg_limit=segment if compression == 7 else None)
    return replace(page, passes=passes)


def _check_segments(tags: _Tags, data: bytes, source: str, jpeg_limit: int | None) -> int:
    """Every strip or tile must lie in the file; a JPEG one must not announce more pixels than its tile has.

    Returns:
        Values that the scans of JPEG tiles pass over.
    """
    offset_tag, count_tag = _TILES if _TILES[0] in tags else _STRIPS
    offsets, counts = tags.get(offset_tag, ()), tags.get(count_tag, ())
    if not offsets or len(offsets) != len(counts):
        raise ImageError(f"`{source}`: a TIFF page does not say where its pixels are. The file is damaged: save it again.")
    if any(count <= 0 or offset <= 0 or offset + count > len(data) for offset, count in zip(offsets, counts, strict=True)):
        raise ImageError(f"`{source}`: a TIFF page's pixels lie outside the file's {len(data)} bytes. The file is truncated: save it again.")
    if jpeg_limit is None:
        return 0
    passes = 0
    for offset, count in zip(offsets, counts, strict=True):
        try:
            jpeg = read_jpeg(data[offset : offset + count])
        except ValueError as error:
            raise ImageError(f"`{source}`: a JPEG tile of the TIFF has {error}. Save the file again, with baseline JPEG or deflate.") from error
        if jpeg.height * jpeg.width > jpeg_limit:
            raise ImageError(
                f"`{source}`: a JPEG tile announces {jpeg.height} x {jpeg.width} pixels, more than its page. The file is damaged: save it again."
            )
        passes += jpeg.passes
    return passes

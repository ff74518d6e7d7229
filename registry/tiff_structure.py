"""The structure of a TIFF, proved whole before a byte of pixels is decoded (TIFF 6.0, section 2; BigTIFF; SubIFDs).

tifffile is made to salvage what it can: of a truncated file it returns the pages it can still find, and it fills
missing strips with zeros. For measurements that is worse than an error, so `check_structure` walks the file
itself and refuses a file in which a page, a tag's values or a strip is missing or lies outside the bytes there are.
The same walk bounds what a hostile file can make tifffile and the decoders allocate: directories outside the chain
are held to the same rules as those in it, and what pages could share (tags' values, strips) is counted for each.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass, field

from registry.errors import ImageError
from registry.jpeg import MAX_PASSES, read_jpeg

#: of the chain and outside it
MAX_PAGES = 1024
MAX_TAGS = 256
MAX_SAMPLES = 1024
#: strips and tiles of all pages
MAX_SEGMENTS = 100_000
#: bytes of ImageDescription over all pages, where OME-XML lies, and pieces that tifffile parses: tags and lines of descriptions, entries of ImageJ's
#: metadata, properties of MetaMorph; while it does nothing else runs
MAX_DESCRIPTION = 2 << 20
MAX_PIECES = 20_000
#: what tags of several pages may share: the values of all of them take at most so many bytes more than the file has
SHARED_BYTES = 1 << 20
#: values that tiles have in excess of their pages, as a multiple of the values an image may have
MAX_PADDED = 2
#: bytes per value of each TIFF field type
TYPE_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
#: of those that are integers, the format of `struct`
INTEGER_TYPES = {1: "B", 3: "H", 4: "I", 13: "I", 16: "Q", 18: "Q"}
#: codecs whose output is bounded by the header; other codecs carry a size of their own that nothing checks
COMPRESSIONS = {1: "none", 5: "LZW", 7: "JPEG", 8: "deflate", 32773: "PackBits", 32946: "deflate", 50000: "Zstandard"}
_JPEG, _SEPARATE = 7, 2
#: the header lies before
_FIRST = 8
PHOTOMETRIC_REFUSED = {0: "white is zero", 3: "a colour palette", 4: "a transparency mask", 5: "CMYK"}


@dataclass(frozen=True)
class Page:
    """What one image file directory says. `alpha` is true where the last sample is an alpha channel."""

    width: int
    height: int
    samples: int
    photometric: int
    alpha: bool
    reduced: bool

    @property
    def size(self) -> int:
        """Values in the page."""
        return self.width * self.height * self.samples


@dataclass(frozen=True)
class Structure:
    """What the walk found.

    Attributes:
        pages: of the chain of directories.
        offsets: where their directories lie.
        read: (start, end) of every directory and of every tag's values, in bytes of the file.
        nested: some page names directories outside the chain (SubIFDs), as the levels of a pyramid are.
    """

    pages: tuple[Page, ...]
    offsets: tuple[int, ...]
    read: tuple[tuple[int, int], ...]
    nested: bool


def check_structure(data: bytes, source: str, max_pixels: int) -> Structure:
    """Walk every directory of the chain and all that these name.

    Raises:
        ImageError: something lies outside the file, announces more than `max_pixels` values over all pages, or uses a codec or
            photometric interpretation that is not read.
    """
    walk = _Walk(data, source, max_pixels)
    try:
        pages, offsets, nested = walk.chain()
    except (struct.error, OverflowError, ValueError) as error:
        raise ImageError(f"`{source}`: a TIFF directory lies outside the file's {len(data)} bytes. The file is truncated: save it again.") from error
    total = sum(page.size for page in pages)
    if total > max_pixels:
        raise ImageError(f"`{source}`: expected at most {max_pixels} values over all pages, the header announces {total}. Crop the image.")
    if not pages:
        raise ImageError(f"`{source}`: the TIFF holds no page. Save it again.")
    return Structure(tuple(pages), tuple(offsets), tuple(walk.read), nested)


#: tag -> its values as integers; other tags are checked and left out
_Tags = dict[int, tuple[int, ...]]
_WIDTH, _HEIGHT, _COMPRESSION, _PHOTOMETRIC, _SAMPLES, _STRIP_ROWS, _PLANAR = 256, 257, 259, 262, 277, 278, 284
_SUBFILE, _EXTRA_SAMPLES, _TILE_WIDTH, _TILE_HEIGHT = 254, 338, 322, 323
_DEPTH, _TILE_DEPTH = 32997, 32998
_DESCRIPTION, _SUB_DIRECTORIES = 270, 330
#: tags of makers: MetaMorph's list of properties, and its planes, of which all but the first lie behind the page; entries of ImageJ's metadata;
#: Hamamatsu's slides, whose tiles lie elsewhere
_UIC_PROPERTIES, _UIC_PLANES, _IMAGEJ_ENTRIES, _NDPI = 33628, 33629, 50838, 65420
_STRIPS, _TILES = (273, 279), (324, 325)
_ONE_VALUE = (_WIDTH, _HEIGHT, _COMPRESSION, _PHOTOMETRIC, _SAMPLES, _STRIP_ROWS, _PLANAR, _SUBFILE, _TILE_WIDTH, _TILE_HEIGHT, _DEPTH, _TILE_DEPTH)
_READ = frozenset((*_ONE_VALUE, _EXTRA_SAMPLES, _SUB_DIRECTORIES, *_STRIPS, *_TILES))


@dataclass
class _Walk:
    """The directories of one file, each of which is read once, and what they announce together."""

    data: bytes
    source: str
    max_pixels: int
    read: list[tuple[int, int]] = field(default_factory=list)
    seen: set[int] = field(default_factory=set)
    value_bytes: int = 0
    described: int = 0
    pieces: int = 0
    segments: int = 0
    padded: int = 0
    passes: int = 0

    def __post_init__(self) -> None:
        self.order = "<" if self.data[:2] == b"II" else ">"
        self.big = self.data[2:4] in (b"+\x00", b"\x00+")
        self.offset_format = f"{self.order}{'Q' if self.big else 'I'}"

    def chain(self) -> tuple[list[Page], list[int], bool]:
        """The pages of the chain, where they lie, and whether they name others, which are held to the same rules."""
        pages, offsets, nested = [], [], False
        offset = self._offset(8 if self.big else 4)
        while offset:
            tags, following = self._directory(offset)
            pages.append(self._page(tags))
            offsets.append(offset)
            inner = list(tags.get(_SUB_DIRECTORIES, ()))
            nested = nested or bool(inner)
            while inner:
                # a level that a writer left out lies nowhere
                if (at := inner.pop()) >= _FIRST:
                    tags, _ = self._directory(at)
                    self._page(tags)
                    inner += tags.get(_SUB_DIRECTORIES, ())
            offset = following
        return pages, offsets, nested

    def _offset(self, at: int) -> int:
        (offset,) = struct.unpack_from(self.offset_format, self.data, at)
        return int(offset)

    def _directory(self, offset: int) -> tuple[_Tags, int]:
        """Its integer tags, and where the next one lies; notes which bytes were looked at."""
        if offset in self.seen or len(self.seen) >= MAX_PAGES:
            raise ImageError(f"`{self.source}`: expected at most {MAX_PAGES} TIFF pages, got more or pages that form a loop. Save one image.")
        self.seen.add(offset)
        order, data, source = self.order, self.data, self.source
        count_format, entry_format = (f"{order}Q", f"{order}HHQ") if self.big else (f"{order}H", f"{order}HHI")
        inline, entry_bytes = (8, 20) if self.big else (4, 12)
        (count,) = struct.unpack_from(count_format, data, offset)
        if count > MAX_TAGS:
            raise ImageError(f"`{source}`: expected at most {MAX_TAGS} tags per TIFF page, got {count}. The file is damaged: save it again.")
        start, tags = offset + struct.calcsize(count_format), _Tags()
        self.read.append((offset, start + count * entry_bytes + inline))
        for tag, kind, values, held in struct.iter_unpack(f"{entry_format}{inline}s", data[start : start + count * entry_bytes]):
            size = TYPE_BYTES.get(kind, 0) * values
            if size > inline:
                (at,) = struct.unpack(self.offset_format, held)
                if at + size > len(data):
                    raise ImageError(
                        f"`{source}`: the values of TIFF tag {tag} end at byte {at + size}, the file has {len(data)}."
                        " The file is truncated: save it again."
                    )
                self.value_bytes += size
                if self.value_bytes > len(data) + SHARED_BYTES:
                    raise ImageError(f"`{source}`: its TIFF tags have more values than the file has bytes. The file is damaged: save it again.")
                held = data[at : at + size]
                self.read.append((at, at + size))
            if tag == _NDPI:
                raise ImageError(f"`{source}`: expected TIFF or OME-TIFF, got an NDPI slide. Save the field as OME-TIFF.")
            if tag == _UIC_PLANES and values > 1:
                raise ImageError(f"`{source}`: expected one plane, got {values} of MetaMorph. Save the image as OME-TIFF.")
            if tag in (_UIC_PROPERTIES, _IMAGEJ_ENTRIES):
                self._announce(pieces=values)
            if tag == _DESCRIPTION:
                self._announce(size)
                # as tifffile takes lines apart
                self._announce(pieces=max(held.count(b"<"), len(held.decode("utf-8", "replace").splitlines())))
            if tag in _READ:
                # tifffile takes signed and broken numbers too, and of two tags the first
                if tag in tags or kind not in INTEGER_TYPES or values > MAX_SEGMENTS:
                    raise ImageError(
                        f"`{source}`: expected TIFF tag {tag} once, with at most {MAX_SEGMENTS} unsigned integers, got another,"
                        f" or {values} values of type {kind}. Save the file again."
                    )
                tags[tag] = struct.unpack_from(f"{order}{values}{INTEGER_TYPES[kind]}", held)
        # fails where the directory is cut off
        return tags, self._offset(start + count * entry_bytes)

    def _announce(self, described: int = 0, pieces: int = 0) -> None:
        self.described += described
        self.pieces += pieces
        if self.described > MAX_DESCRIPTION or self.pieces > MAX_PIECES:
            raise ImageError(
                f"`{self.source}`: expected at most {MAX_DESCRIPTION} bytes of ImageDescription (OME-XML) and {MAX_PIECES} tags, lines or entries of"
                f" metadata, got {self.described} and {self.pieces}. Save the file without annotations of its maker."
            )

    def _page(self, tags: _Tags) -> Page:
        source, max_pixels = self.source, self.max_pixels

        def value(tag: int, default: int) -> int:
            return next(iter(tags.get(tag, ())), default)

        page = Page(
            width=value(_WIDTH, 0),
            height=value(_HEIGHT, 0),
            samples=value(_SAMPLES, 1),
            photometric=value(_PHOTOMETRIC, 1),
            alpha=tags.get(_EXTRA_SAMPLES) in ((1,), (2,)),
            reduced=bool(value(_SUBFILE, 0) & 1),
        )
        if page.width < 1 or page.height < 1 or page.samples < 1:
            raise ImageError(
                f"`{source}`: a TIFF page of {page.height} x {page.width} pixels (y, x) and {page.samples} samples is empty. Save it again."
            )
        if page.samples > MAX_SAMPLES:
            raise ImageError(
                f"`{source}`: expected at most {MAX_SAMPLES} samples per pixel of a TIFF page, got {page.samples}. Save one plane per channel."
            )
        if page.size > max_pixels:
            raise ImageError(f"`{source}`: expected at most {max_pixels} values, the header announces {page.size} in one page. Crop the image.")
        if value(_DEPTH, 1) != 1 or value(_TILE_DEPTH, 1) != 1:
            raise ImageError(f"`{source}`: expected flat TIFF pages, got one of {value(_DEPTH, 1)} planes in depth. Save one plane per channel.")
        if page.photometric in PHOTOMETRIC_REFUSED:
            raise ImageError(f"`{source}`: expected grey with black as zero, or RGB, got {PHOTOMETRIC_REFUSED[page.photometric]}. Convert the file.")
        compression = value(_COMPRESSION, 1)
        if compression not in COMPRESSIONS:
            names = ", ".join(dict.fromkeys(COMPRESSIONS.values()))
            raise ImageError(f"`{source}`: expected TIFF compression {names}, got code {compression}. Save the file with one of these.")
        tile = value(_TILE_WIDTH, page.width), value(_TILE_HEIGHT, page.height)
        segment = math.prod(tile) * page.samples
        if segment > max(4 * page.size, 1 << 20) or segment > max_pixels:
            raise ImageError(f"`{source}`: a TIFF tile announces {segment} values, its page {page.size}. The file is damaged: save it again.")
        rows = tags.get(_STRIP_ROWS, ())
        if _TILE_WIDTH not in tags and len(rows) == 1:
            tile = page.width, min(rows[0], page.height)
        if min(tile) < 1:
            raise ImageError(f"`{source}`: a TIFF page has strips or tiles of no pixels. The file is damaged: save it again.")
        expected = math.ceil(page.width / tile[0]) * math.ceil(page.height / tile[1])
        each = page.samples
        if value(_PLANAR, 1) == _SEPARATE:
            expected, each = expected * page.samples, 1
        self.padded += expected * math.prod(tile) * each
        if self.padded > MAX_PADDED * max_pixels:
            raise ImageError(f"`{source}`: its TIFF tiles are much larger than its pages. Save the file with smaller tiles.")
        self._check_segments(tags, expected, jpeg_limit=segment if compression == _JPEG else None)
        return page

    def _check_segments(self, tags: _Tags, expected: int, jpeg_limit: int | None) -> None:
        """Every strip or tile must lie in the file; a JPEG one must not announce more pixels than its tile has."""
        data, source = self.data, self.source
        offset_tag, count_tag = _TILES if _TILES[0] in tags else _STRIPS
        offsets, counts = tags.get(offset_tag, ()), tags.get(count_tag, ())
        if not offsets or len(offsets) != len(counts):
            raise ImageError(f"`{source}`: a TIFF page does not say where its pixels are. The file is damaged: save it again.")
        self.segments += len(offsets)
        if self.segments > MAX_SEGMENTS:
            raise ImageError(f"`{source}`: expected at most {MAX_SEGMENTS} strips and tiles, got more. Save the file with larger ones.")
        if len(offsets) != expected:
            raise ImageError(
                f"`{source}`: expected {expected} strips or tiles in a TIFF page, got {len(offsets)}. The file is damaged: save it again."
            )
        if any(count <= 0 or offset <= 0 or offset + count > len(data) for offset, count in zip(offsets, counts, strict=True)):
            raise ImageError(f"`{source}`: a TIFF page's pixels lie outside the file's {len(data)} bytes. The file is truncated: save it again.")
        if jpeg_limit is None:
            return
        for offset, count in zip(offsets, counts, strict=True):
            try:
                jpeg = read_jpeg(data[offset : offset + count])
            except ValueError as error:
                raise ImageError(f"`{source}`: a JPEG tile of the TIFF has {error}. Save the file again, with baseline JPEG or deflate.") from error
            if jpeg.height * jpeg.width > jpeg_limit:
                raise ImageError(
                    f"`{source}`: a JPEG tile announces {jpeg.height} x {jpeg.width} pixels, more than its page. The file is damaged: save it again."
                )
            self.passes += jpeg.passes
            if self.passes > MAX_PASSES * self.max_pixels:
                raise ImageError(
                    f"`{source}`: its JPEG tiles have too many scans for their size. Save the file again, with baseline JPEG or deflate."
                )

"""TIFF and OME-TIFF: the structure is proved whole before a byte of pixels is decoded.

tifffile is made to salvage what it can: of a truncated file it returns the pages it can still find, and it fills
missing strips with zeros. For measurements that is worse than an error, so `check_structure` walks the file
itself (TIFF 6.0, section 2; BigTIFF) and refuses a file in which a page, a tag's values or a strip lies outside the bytes there
are. The same walk bounds what a hostile file can make the decoders allocate.
"""

from __future__ import annotations

import io
import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from registry.errors import ImageError

if TYPE_CHECKING:
    import tifffile

MAGIC = (b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+")
MAX_PAGES = 1024
MAX_TAGS = 256
MAX_SEGMENTS = 100_000
#: bytes per value of each TIFF field type
TYPE_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
#: of those that are integers, the format of `struct`
INTEGER_TYPES = {1: "B", 3: "H", 4: "I", 13: "I", 16: "Q"}
#: codecs whose output is bounded by the header; other codecs carry a size of their own that nothing checks
COMPRESSIONS = {1: "none", 5: "LZW", 7: "JPEG", 8: "deflate", 32773: "PackBits", 32946: "deflate", 50000: "Zstandard"}
PHOTOMETRIC_REFUSED = {0: "white is zero", 3: "a colour palette", 4: "a transparency mask", 5: "CMYK"}
RGB = 2
MICROMETRES = {"µm": 1.0, "μm": 1.0, "um": 1.0, "micron": 1.0, "microns": 1.0, "\\u00b5m": 1.0, "nm": 1e-3, "mm": 1e3}


@dataclass(frozen=True)
class Tiff:
    """A decoded TIFF.

    Attributes:
        pixels: (c, y, x) in the stored dtype.
        channel_names: from the OME-XML, () where it does not name every channel; red, green, blue for RGB.
        pixel_size_um: from the OME-XML or ImageJ's metadata, None where neither says.
    """

    pixels: NDArray[Any]
    channel_names: tuple[str, ...]
    pixel_size_um: float | None


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
class _OmeFacts:
    channel_names: tuple[str, ...] = ()
    pixel_size_um: float | None = None
    planes: int | None = None


def decode_tiff(data: bytes, source: str, max_pixels: int) -> Tiff:
    """Decode the one image of a TIFF.

    Args:
        data: the file's bytes.
        source: what to call it in messages.
        max_pixels: refuse a header that announces more values over all pages.

    Raises:
        ImageError: truncated, damaged, hostile, or not one image with axes C, Y, X.
    """
    import tifffile

    pages = check_structure(data, source, max_pixels)
    try:
        with tifffile.TiffFile(io.BytesIO(data), _multifile=False) as tiff:
            # The XML is checked before tifffile parses it to find the series.
            facts = _ome_facts(tiff.ome_metadata, source) if tiff.is_ome else _OmeFacts()
            series = _only_series(tiff, facts, source)
            if math.prod(series.shape) > max_pixels:
                raise ImageError(f"`{source}`: expected at most {max_pixels} values, the header announces {math.prod(series.shape)}.")
            pixels = _pixels(series, data)
            size_um = facts.pixel_size_um or _imagej_pixel_size_um(tiff)
            shape, axes = tuple(series.shape), series.axes
    except ImageError:
        raise
    except Exception as error:  # the decoders raise what they like on damaged bytes
        raise ImageError(f"`{source}`: the TIFF cannot be decoded ({type(error).__name__}). The file is damaged.") from error
    if pixels.shape != shape:
        raise ImageError(f"`{source}`: the header announces shape {shape}, the file holds {pixels.shape}. The file is truncated.")
    channels = _to_cyx(pixels, axes, source)
    if pages[0].photometric == RGB:
        channels = _drop_opaque_alpha(channels, pages[0], source)
    channels = np.ascontiguousarray(channels, dtype=channels.dtype.newbyteorder("="))
    names = facts.channel_names if len(facts.channel_names) == len(channels) else ()
    if not names and pages[0].photometric == RGB and len(channels) == 3:
        names = ("red", "green", "blue")
    return Tiff(channels, names, size_um)


def _only_series(tiff: tifffile.TiffFile, facts: _OmeFacts, source: str) -> tifffile.TiffPageSeries:
    """The one full-resolution series, with all its planes in this file."""
    series = [s for s in tiff.series if not s.keyframe.is_reduced]
    if len(series) != 1:
        raise ImageError(f"`{source}`: expected one image, the file holds {len(series)} of different shapes. Save each in a file of its own.")
    found = series[0]
    stored = math.prod(found.shape) // math.prod(size for axis, size in zip(found.axes, found.shape, strict=True) if axis in "YX")
    announced = facts.planes
    if tiff.is_imagej and tiff.imagej_metadata:
        announced = int(tiff.imagej_metadata.get("images", 1))
    # Where OME-XML places a plane in no page or in another file, tifffile falls back to guessing or fills in zeros.
    misplaced = tiff.is_ome and (found.kind != "ome" or any(page is None for page in found))
    if misplaced or (announced is not None and stored < announced):
        raise ImageError(
            f"`{source}`: the metadata announces {announced} planes, not all of them lie in this file."
            " The file is truncated or part of a set; save all planes in one file."
        )
    return found


def _pixels(series: tifffile.TiffPageSeries, data: bytes) -> NDArray[Any]:
    """The values of a series; where they lie in the file as they are, they are not copied (and cannot be written to)."""
    if series.dataoffset is None:
        decoded: NDArray[Any] = series.asarray()
        return decoded
    dtype = np.dtype(series.keyframe.parent.byteorder + series.dtype.char)
    return np.frombuffer(data, dtype, math.prod(series.shape), series.dataoffset).reshape(series.shape)


def _to_cyx(pixels: NDArray[Any], axes: str, source: str) -> NDArray[Any]:
    """Move the named axes to (c, y, x).

    Samples (S), and pages whose axis the file does not name (I, Q), count as channels; axes of length 1 are dropped. A stack
    in depth or time is refused: its planes are not channels.
    """
    keep = [i for i, (axis, size) in enumerate(zip(axes, pixels.shape, strict=True)) if size > 1 or axis in "YX"]
    pixels = pixels.reshape([pixels.shape[i] for i in keep])
    axes = "".join(axes[i] for i in keep)
    others = [axis for axis in axes if axis not in "YX"]
    if "Y" not in axes or "X" not in axes or len(others) > 1 or not set(others) <= set("CSIQ"):
        raise ImageError(f"`{source}`: expected axes C, Y, X, got `{axes}` with shape {pixels.shape}. Save one plane per channel.")
    if not others:
        return pixels[None]
    return np.moveaxis(pixels, [axes.index(others[0]), axes.index("Y"), axes.index("X")], [0, 1, 2])


def _drop_opaque_alpha(channels: NDArray[Any], page: Page, source: str) -> NDArray[Any]:
    if not page.alpha or len(channels) != 4:
        return channels
    opaque = np.iinfo(channels.dtype).max if channels.dtype.kind == "u" else 1
    if not (channels[3] == opaque).all():
        raise ImageError(f"`{source}`: has a transparent alpha channel, whose meaning is not known. Save it as RGB.")
    return channels[:3]


def _ome_facts(xml: str | None, source: str) -> _OmeFacts:
    """Channel names, pixel size and plane count from OME-XML; an XML that cannot be parsed is an error, not a guess."""
    if not xml:
        return _OmeFacts()
    from xml.etree import ElementTree

    if "<!DOCTYPE" in xml or "<!ENTITY" in xml:
        raise ImageError(f"`{source}`: its OME-XML declares entities, which are not read.")
    try:
        root = ElementTree.fromstring(xml)
    except ElementTree.ParseError as error:
        raise ImageError(f"`{source}`: its OME-XML cannot be parsed ({error}).") from error
    images = [e for e in root.iter() if _tag(e) == "Pixels"]
    if len(images) > 1:
        raise ImageError(f"`{source}`: expected one image, its OME-XML describes {len(images)}. Save each in a file of its own.")
    if not images:
        return _OmeFacts()
    pixels = images[0]
    names = tuple(e.get("Name") or "" for e in pixels.iter() if _tag(e) == "Channel")
    try:
        planes = math.prod(int(pixels.get(f"Size{axis}", "1")) for axis in "CZT")
        sizes = [size for axis in "XY" if (size := _length_um(pixels, axis)) is not None]
    except ValueError as error:
        raise ImageError(f"`{source}`: its OME-XML gives a size that is not a number ({error}).") from error
    if len(sizes) == 2 and not math.isclose(*sizes, rel_tol=0.05):
        raise ImageError(f"`{source}`: expected square pixels, got {sizes[0]:g} x {sizes[1]:g} um (x, y). Resample the image.")
    return _OmeFacts(names if all(names) and len(set(names)) == len(names) else (), sizes[0] if sizes else None, planes)


def _tag(element: Any) -> str:
    return str(element.tag).rsplit("}", 1)[-1]


def _length_um(pixels: Any, axis: str) -> float | None:
    """`PhysicalSizeX` or `Y` in micrometres; None if absent or in a unit that is no length."""
    text, factor = pixels.get(f"PhysicalSize{axis}"), MICROMETRES.get(pixels.get(f"PhysicalSize{axis}Unit", "µm"))
    return float(text) * factor if text is not None and factor is not None else None


def _imagej_pixel_size_um(tiff: tifffile.TiffFile) -> float | None:
    """ImageJ keeps the unit in its description and pixels per unit in XResolution."""
    if not tiff.is_imagej or not tiff.imagej_metadata:
        return None
    factor = MICROMETRES.get(str(tiff.imagej_metadata.get("unit", "")).lower())
    resolution = tiff.pages[0].tags.valueof("XResolution")
    if factor is None or not resolution or not resolution[0]:
        return None
    return factor * float(resolution[1]) / float(resolution[0])


def check_structure(data: bytes, source: str, max_pixels: int) -> list[Page]:
    """Walk every directory of the chain; returns its pages.

    Raises:
        ImageError: something lies outside the file, announces more than `max_pixels` values over all pages, or uses a codec or
            photometric interpretation that is not read.
    """
    try:
        pages = [_page(tags, data, source, max_pixels) for tags in _directories(data, source)]
    except (struct.error, OverflowError, ValueError) as error:
        raise ImageError(f"`{source}`: a TIFF directory lies outside the file's {len(data)} bytes. The file is truncated.") from error
    total = sum(page.size for page in pages)
    if total > max_pixels:
        raise ImageError(f"`{source}`: expected at most {max_pixels} values over all pages, the header announces {total}.")
    if not pages:
        raise ImageError(f"`{source}`: the TIFF holds no page.")
    return pages


#: tag -> its values as integers; other tags are checked and left out
_Tags = dict[int, tuple[int, ...]]
_WIDTH, _HEIGHT, _COMPRESSION, _PHOTOMETRIC, _SAMPLES = 256, 257, 259, 262, 277
_SUBFILE, _EXTRA_SAMPLES, _TILE_WIDTH, _TILE_HEIGHT = 254, 338, 322, 323
_STRIPS, _TILES = (273, 279), (324, 325)
_READ = frozenset((_WIDTH, _HEIGHT, _COMPRESSION, _PHOTOMETRIC, _SAMPLES, _SUBFILE, _EXTRA_SAMPLES, _TILE_WIDTH, _TILE_HEIGHT, *_STRIPS, *_TILES))


def _directories(data: bytes, source: str) -> Iterator[_Tags]:
    """The integer tags of each directory in the chain."""
    order = "<" if data[:2] == b"II" else ">"
    big = data[2:4] in (b"+\x00", b"\x00+")
    count_format, entry_format, offset_format = (f"{order}Q", f"{order}HHQ", f"{order}Q") if big else (f"{order}H", f"{order}HHI", f"{order}I")
    inline, entry_bytes = (8, 20) if big else (4, 12)
    (offset,) = struct.unpack_from(offset_format, data, 8 if big else 4)
    seen: set[int] = set()
    while offset:
        if offset in seen or len(seen) >= MAX_PAGES:
            raise ImageError(f"`{source}`: expected at most {MAX_PAGES} TIFF pages, got more or pages that form a loop.")
        seen.add(offset)
        (count,) = struct.unpack_from(count_format, data, offset)
        if count > MAX_TAGS:
            raise ImageError(f"`{source}`: expected at most {MAX_TAGS} tags per TIFF page, got {count}. The file is damaged.")
        start, tags = offset + struct.calcsize(count_format), _Tags()
        for tag, kind, values, held in struct.iter_unpack(f"{entry_format}{inline}s", data[start : start + count * entry_bytes]):
            size = TYPE_BYTES.get(kind, 0) * values
            if size > inline:
                (at,) = struct.unpack(offset_format, held)
                if at + size > len(data):
                    raise ImageError(
                        f"`{source}`: the values of TIFF tag {tag} end at byte {at + size}, the file has {len(data)}. The file is truncated."
                    )
                held = data[at : at + size]
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
        raise ImageError(f"`{source}`: a TIFF page of {page.height} x {page.width} pixels (y, x) and {page.samples} samples is empty.")
    if page.size > max_pixels:
        raise ImageError(f"`{source}`: expected at most {max_pixels} values, the header announces {page.size} in one page.")
    if page.photometric in PHOTOMETRIC_REFUSED:
        raise ImageError(f"`{source}`: expected grey with black as zero, or RGB, got {PHOTOMETRIC_REFUSED[page.photometric]}. Convert the file.")
    compression = value(_COMPRESSION, 1)
    if compression not in COMPRESSIONS:
        names = ", ".join(dict.fromkeys(COMPRESSIONS.values()))
        raise ImageError(f"`{source}`: expected TIFF compression {names}, got code {compression}. Save the file with one of these.")
    segment = value(_TILE_WIDTH, page.width) * value(_TILE_HEIGHT, page.height) * page.samples
    if segment > max(4 * page.size, 1 << 20) or segment > max_pixels:
        raise ImageError(f"`{source}`: a TIFF tile announces {segment} values, its page {page.size}. The file is damaged.")
    _check_segments(tags, data, source, jpeg_limit=segment if compression == 7 else None)
    return page


def _check_segments(tags: _Tags, data: bytes, source: str, jpeg_limit: int | None) -> None:
    """Every strip or tile must lie in the file; a JPEG one must not announce more pixels than its tile has."""
    offset_tag, count_tag = _TILES if _TILES[0] in tags else _STRIPS
    offsets, counts = tags.get(offset_tag, ()), tags.get(count_tag, ())
    if not offsets or len(offsets) != len(counts):
        raise ImageError(f"`{source}`: a TIFF page does not say where its pixels are. The file is damaged.")
    if any(count <= 0 or offset <= 0 or offset + count > len(data) for offset, count in zip(offsets, counts, strict=True)):
        raise ImageError(f"`{source}`: a TIFF page's pixels lie outside the file's {len(data)} bytes. The file is truncated.")
    if jpeg_limit is None:
        return
    for offset, count in zip(offsets, counts, strict=True):
        try:
            height, width = jpeg_size(data[offset : offset + count])
        except (ValueError, struct.error) as error:
            raise ImageError(f"`{source}`: a JPEG tile of the TIFF has no frame header. The file is damaged.") from error
        if height * width > jpeg_limit:
            raise ImageError(f"`{source}`: a JPEG tile announces {height} x {width} pixels, more than its page. The file is damaged.")


def jpeg_size(data: bytes) -> tuple[int, int]:
    """(height, width) in a JPEG stream's frame header (ITU-T T.81, B.2.2).

    Raises:
        ValueError: no frame header.
    """
    at = 2
    while at + 9 <= len(data):
        if data[at] != 0xFF:
            break
        marker = data[at + 1]
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack_from(">HH", data, at + 5)
            return height, width
        at += 1 if marker == 0xFF else 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    raise ValueError("no JPEG frame header")

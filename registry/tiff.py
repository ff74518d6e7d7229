"""TIFF and OME-TIFF to one image of (c, y, x), decoded by tifffile once the structure is proved whole (`registry.tiff_structure`)."""

from __future__ import annotations

import io
import math
from collections import deque
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from registry.errors import ImageError
from registry.tiff_structure import MAX_PAGES, Page, Structure, check_structure

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

    import tifffile

MAGIC = (b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+")
RGB = 2
#: float32's; wider ones are not read, and would take several times the memory that the limit on values allows
MAX_ITEM_BYTES = 4
#: attributes that number or count planes in OME-XML
_PLANE_NUMBERS = ("IFD", "PlaneCount", "NumPlanes", "FirstC", "FirstZ", "FirstT", "SamplesPerPixel")
#: dialects whose own account of their pages is not read, by tifffile's names: it is parsed for as long as the file goes on, or makes lists as
#: long as it says; it would say whether pages are channels or planes in depth or time. Nor is Micro-Manager's index of planes, which places them
#: anywhere and announces any number of them: its pages are
_UNREAD = {"lsm": "Zeiss LSM", "scanimage": "ScanImage", "scn": "Leica SCN", "sis": "Olympus SIS", "stk": "MetaMorph"}
#: series of pages of which nothing is said
_UNSAID = ("uniform", "generic")
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
    known = next((known for known in tuple(_RECENT) if known.is_of(data, max_pixels)), None)
    layout, pixels = (known.layout, known.block.view(data)) if known else _read(data, source, max_pixels)
    channels = _to_cyx(pixels, layout.axes, source)
    if layout.first.photometric == RGB:
        channels = _drop_opaque_alpha(channels, layout.first, source)
    channels = np.ascontiguousarray(channels, dtype=channels.dtype.newbyteorder("="))
    names = layout.facts.channel_names if len(layout.facts.channel_names) == len(channels) else ()
    if not names and layout.first.photometric == RGB and len(channels) == 3:
        names = ("red", "green", "blue")
    return Tiff(channels, names, layout.facts.pixel_size_um)


@dataclass(frozen=True)
class _Layout:
    """What a header says of its image."""

    first: Page
    axes: str
    facts: _OmeFacts


@dataclass(frozen=True)
class _Block:
    """Pixels that lie in a file as they are, in one piece from byte `start`."""

    start: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def end(self) -> int:
        return self.start + math.prod(self.shape) * self.dtype.itemsize

    def view(self, data: bytes) -> NDArray[Any]:
        """The pixels, not copied (and so they cannot be written to)."""
        return np.frombuffer(data, self.dtype, math.prod(self.shape), self.start).reshape(self.shape)


@dataclass(frozen=True)
class _Known:
    """A file that was read: whatever has the same bytes around its pixels, and as many of them, has the same layout.

    The images of a screen often differ in nothing else, and to parse a header takes as long as to read a small image.
    OME-TIFF with a UUID in each file is parsed each time.
    """

    layout: _Layout
    block: _Block
    before: bytes
    after: bytes
    size: int
    max_pixels: int

    def is_of(self, data: bytes, max_pixels: int) -> bool:
        if len(data) != self.size or max_pixels != self.max_pixels:
            return False
        return data.startswith(self.before) and data.endswith(self.after)


#: appending to a deque is atomic: threads decode side by side
_RECENT: deque[_Known] = deque(maxlen=4)
_KNOWN_BYTES = 65_536


def _remember(layout: _Layout, block: _Block, structure: Structure, data: bytes, max_pixels: int) -> None:
    """Keep a layout for the next file, where no byte that says something lies among the pixels."""
    around = len(data) - (block.end - block.start)
    if not structure.nested and around <= _KNOWN_BYTES and all(end <= block.start or start >= block.end for start, end in structure.read):
        _RECENT.append(_Known(layout, block, data[: block.start], data[block.end :], len(data), max_pixels))


def _read(data: bytes, source: str, max_pixels: int) -> tuple[_Layout, NDArray[Any]]:
    """Parse the header and decode the pixels."""
    import tifffile

    structure = check_structure(data, source, max_pixels)
    try:
        unread = {f"is_{name}": False for name in ("mmstack", *_UNREAD)}
        with tifffile.TiffFile(io.BytesIO(data), _multifile=False, **unread) as tiff:
            maker = next((maker for name, maker in _UNREAD.items() if getattr(tiff.pages.first, f"is_{name}")), "")
            # The XML is checked before tifffile parses it to find the series.
            facts = _ome_facts(tiff.ome_metadata, source, structure) if tiff.is_ome else _OmeFacts()
            series = _only_series(tiff, facts, source, structure)
            if maker and len(series) > 1 and series.kind in _UNSAID:
                raise ImageError(
                    f"`{source}`: expected one page, got {len(series)} of {maker}, whose account of what they are is not read."
                    " Save the image as OME-TIFF."
                )
            if math.prod(series.shape) > max_pixels:
                raise ImageError(f"`{source}`: expected at most {max_pixels} values, the header announces {math.prod(series.shape)}. Crop the image.")
            if series.dtype.itemsize > MAX_ITEM_BYTES:
                raise ImageError(f"`{source}`: expected at most {MAX_ITEM_BYTES} bytes per value, got {series.dtype}. Convert the file.")
            facts = replace(facts, pixel_size_um=facts.pixel_size_um or _imagej_pixel_size_um(tiff))
            layout, shape = _Layout(structure.pages[0], series.axes, facts), tuple(series.shape)
            if series.dataoffset is not None:
                block = _Block(series.dataoffset, shape, np.dtype(tiff.byteorder + series.dtype.char))
                pixels = block.view(data)
                _remember(layout, block, structure, data, max_pixels)
            else:
                pixels = series.asarray()
    except ImageError:
        raise
    except Exception as error:  # the decoders raise what they like on damaged bytes
        raise ImageError(f"`{source}`: the TIFF cannot be decoded ({type(error).__name__}). The file is damaged: save it again.") from error
    if pixels.shape != shape:
        raise ImageError(f"`{source}`: the header announces shape {shape}, the file holds {pixels.shape}. The file is truncated: save it again.")
    return layout, pixels


def _only_series(tiff: tifffile.TiffFile, facts: _OmeFacts, source: str, structure: Structure) -> tifffile.TiffPageSeries:
    """The one full-resolution series, with all its planes in this file."""
    series = [s for s in tiff.series if not s.keyframe.is_reduced]
    if len(series) != 1:
        raise ImageError(f"`{source}`: expected one image, the file holds {len(series)} of different shapes. Save each in a file of its own.")
    found = series[0]
    if structure.nested and (len(found) > MAX_PAGES or any(page is not None and page.offset not in structure.offsets for page in found)):
        raise ImageError(f"`{source}`: its full-resolution image lies in a SubIFD, where only the levels of a pyramid may. Save it as a page.")
    stored = math.prod(found.shape) // math.prod(size for axis, size in zip(found.axes, found.shape, strict=True) if axis in "YX")
    announced = facts.planes
    if tiff.is_imagej and tiff.imagej_metadata:
        announced = int(tiff.imagej_metadata.get("images", 1))
    # Where OME-XML places a plane in no page or in another file, tifffile falls back to guessing or fills in zeros.
    misplaced = tiff.is_ome and (found.kind != "ome" or any(page is None for page in found))
    if misplaced or (announced is not None and stored < announced):
        raise _missing_planes(announced, source)
    return found


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


def _ome_facts(xml: str | None, source: str, structure: Structure) -> _OmeFacts:
    """Channel names, pixel size and plane count from OME-XML; an XML that cannot be parsed is an error, not a guess."""
    if not xml:
        return _OmeFacts()
    from xml.etree import ElementTree

    if "<!DOCTYPE" in xml or "<!ENTITY" in xml:
        raise ImageError(f"`{source}`: its OME-XML declares entities, which are not read. Save the file without them.")
    try:
        root = ElementTree.fromstring(xml)
    except ElementTree.ParseError as error:
        raise ImageError(f"`{source}`: its OME-XML cannot be parsed ({error}). Save the file again.") from error
    # tifffile takes every tag that ends so
    images = [e for e in root.iter() if _tag(e).endswith("Pixels")]
    if len(images) > 1:
        raise ImageError(f"`{source}`: expected one image, its OME-XML describes {len(images)}. Save each in a file of its own.")
    if not images:
        return _OmeFacts()
    pixels = images[0]
    try:
        _check_announced(root, pixels, source, structure)
    except (ValueError, OverflowError, ZeroDivisionError) as error:
        raise ImageError(f"`{source}`: its OME-XML gives a number of planes that is not a number ({error}). Save the file again.") from error
    names = tuple(e.get("Name") or "" for e in pixels.iter() if _tag(e) == "Channel")
    try:
        planes = math.prod(int(pixels.get(f"Size{axis}", "1")) for axis in "CZT")
        sizes = [size for axis in "XY" if (size := _length_um(pixels, axis)) is not None]
    except ValueError as error:
        raise ImageError(f"`{source}`: its OME-XML gives a size that is not a number ({error}). Save the file again.") from error
    if len(sizes) == 2 and not math.isclose(*sizes, rel_tol=0.05):
        raise ImageError(f"`{source}`: expected square pixels, got {sizes[0]:g} x {sizes[1]:g} um (x, y). Resample the image.")
    return _OmeFacts(names if all(names) and len(set(names)) == len(names) else (), sizes[0] if sizes else None, planes)


def _check_announced(root: Element, pixels: Element, source: str, structure: Structure) -> None:
    """No number of planes may exceed those the file's pages have: tifffile makes lists that are as long as the XML says.

    Raises:
        ImageError: one does.
        ValueError: one is not a number; other arithmetic errors likewise.
    """
    pages, planes = len(structure.pages), sum(page.samples for page in structure.pages)
    order = pixels.get("DimensionOrder", "XYZCT")
    if sorted(order) != sorted("XYZCT"):
        raise ImageError(f"`{source}`: expected the axes X, Y, Z, C and T in its OME-XML, each once, got `{order[:20]}`. Save the file again.")
    sizes = {axis: int(pixels.get(f"Size{axis}", "1")) for axis in "XYZCT"}
    if (announced := math.prod(sizes[axis] for axis in "CZT")) > planes:
        raise _missing_planes(announced, source)
    if min(sizes.values()) < 1 or math.prod(sizes.values()) > sum(page.size for page in structure.pages):
        raise ImageError(
            f"`{source}`: its OME-XML announces planes of {sizes['Y']} x {sizes['X']} pixels (y, x), which its pages do not hold."
            " The file is damaged: save it again."
        )
    numbers = [(name, int(value)) for element in pixels.iter() for name in _PLANE_NUMBERS if (value := element.get(name)) is not None]
    numbers.append(("TiffData", sum(_placed(element, pages) for element in pixels.iter() if _tag(element).endswith("TiffData"))))
    for element in root.iter():
        if _tag(element)[:-1].endswith("Along") and element.get("Start") is not None:
            # labels along an axis that is made of two: from `Start` to `End` by `Step`
            span = float(element.get("End", "nan")) - float(element.get("Start", "nan"))
            numbers.append(("Along", int(span / float(element.get("Step", "1"))) + 1))
    for name, number in numbers:
        if not 0 <= number <= planes:
            raise ImageError(
                f"`{source}`: expected its OME-XML to place at most the {planes} planes of its pages, got {number} for `{name}`."
                " The file is damaged or part of a set; save all planes in one file."
            )


def _placed(element: Element, pages: int) -> int:
    """How many planes a `TiffData` places, as tifffile reads it."""
    number = int(element.get("PlaneCount", element.get("NumPlanes", "1" if "IFD" in element.attrib else "0")))
    return number or pages


def _missing_planes(announced: int | None, source: str) -> ImageError:
    return ImageError(
        f"`{source}`: the metadata announces {announced} planes, not all of them lie in this file."
        " The file is truncated or part of a set; save all planes in one file."
    )


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

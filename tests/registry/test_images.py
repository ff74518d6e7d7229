"""Decoding and conforming: what is written is what is read, and what cannot be trusted is refused in words."""

from __future__ import annotations

import io
import re
import struct
import weakref
import zlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import ome_types
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image as Pillow

from registry.errors import ImageError
from registry.images import Image, ImageSpec, conform, decode_image, read_channels, read_image, resampling_matrix, resize_linear
from registry.jpeg import read_jpeg

NAMES = ("dna", "er", "rna", "actin", "mito")
RNG = np.random.default_rng(7)
CELLS: NDArray[np.uint16] = RNG.integers(0, 60_000, (5, 48, 40)).astype(np.uint16)
TISSUE: NDArray[np.uint8] = RNG.integers(0, 256, (48, 40, 3)).astype(np.uint8)


def tiff(pixels: NDArray[Any], **options: Any) -> bytes:
    stream = io.BytesIO()
    tifffile.imwrite(stream, pixels, **options)
    return stream.getvalue()


def ome(pixels: NDArray[Any] = CELLS, names: tuple[str, ...] = NAMES, size_um: float = 0.65, unit: str = "µm", **options: Any) -> bytes:
    metadata = {
        "axes": "CYX",
        "Channel": {"Name": list(names)},
        "PhysicalSizeX": size_um,
        "PhysicalSizeY": size_um,
        "PhysicalSizeXUnit": unit,
        "PhysicalSizeYUnit": unit,
    }
    return tiff(pixels, ome=True, photometric="minisblack", metadata=metadata, **options)


def npy(pixels: NDArray[Any]) -> bytes:
    stream = io.BytesIO()
    np.save(stream, pixels)
    return stream.getvalue()


def pillow(pixels: NDArray[Any], kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    Pillow.fromarray(pixels).save(stream, kind, **options)
    return stream.getvalue()


def spec(**changes: Any) -> ImageSpec:
    facts: dict[str, Any] = {
        "channels": NAMES,
        "dtype": "uint16",
        "height": 48,
        "width": 40,
        "intensity": ((0.0, 65535.0),) * 5,
        "pixel_size_um": 0.65,
    }
    return ImageSpec(**{**facts, **changes})


CELL_FILES: dict[str, bytes] = {
    "ome": ome(),
    "ome deflate": ome(compression="zlib"),
    "pages": tiff(CELLS, photometric="minisblack"),
    "pages without metadata": tiff(CELLS, photometric="minisblack", metadata=None),
    "pages lzw, several strips": tiff(CELLS, photometric="minisblack", metadata=None, compression="lzw", rowsperstrip=16),
    "pages packbits": tiff(CELLS, photometric="minisblack", metadata=None, compression="packbits"),
    "pages zstd with predictor": tiff(CELLS, photometric="minisblack", compression="zstd", predictor=True),
    "tiles": tiff(CELLS, photometric="minisblack", tile=(16, 16)),
    "planar samples": tiff(CELLS, photometric="minisblack", planarconfig="separate"),
    "interleaved samples": tiff(np.moveaxis(CELLS, 0, -1), photometric="minisblack", planarconfig="contig"),
    "big-endian": tiff(CELLS, photometric="minisblack", byteorder=">"),
    "BigTIFF": tiff(CELLS, photometric="minisblack", bigtiff=True),
    "ImageJ": tiff(CELLS, imagej=True, metadata={"axes": "CYX"}),
    "npy": npy(CELLS),
    "npy big-endian": npy(CELLS.astype(">u2")),
    "npy Fortran order": npy(np.asfortranarray(CELLS)),
}


class TestDecode:
    @pytest.mark.parametrize("name", CELL_FILES)
    def test_five_channels(self, name: str) -> None:
        image = decode_image(CELL_FILES[name])
        assert image.pixels.dtype == np.uint16
        assert image.pixels.dtype.isnative
        np.testing.assert_array_equal(image.pixels, CELLS)

    def test_ome_metadata_is_what_ome_types_reads(self) -> None:
        data = ome(size_um=650.0, unit="nm")
        image = decode_image(data)
        with tifffile.TiffFile(io.BytesIO(data)) as file:
            pixels = ome_types.from_xml(file.ome_metadata or "").images[0].pixels
        assert image.channel_names == tuple(channel.name for channel in pixels.channels) == NAMES
        assert (pixels.physical_size_x, pixels.physical_size_x_unit.value) == (650.0, "nm")
        assert image.pixel_size_um == pytest.approx(0.65)

    def test_imagej_pixel_size(self) -> None:
        data = tiff(CELLS, imagej=True, resolution=(1 / 0.65, 1 / 0.65), metadata={"axes": "CYX", "unit": "um"})
        assert decode_image(data).pixel_size_um == pytest.approx(0.65, rel=1e-4)

    def test_resolution_without_a_unit_is_no_pixel_size(self) -> None:
        assert decode_image(tiff(CELLS, photometric="minisblack", resolution=(72, 72))).pixel_size_um is None

    @pytest.mark.parametrize("unit", ["pixel", "reference frame"])
    def test_a_unit_that_is_no_length_is_no_pixel_size(self, unit: str) -> None:
        assert decode_image(ome(unit=unit)).pixel_size_um is None

    def test_png_of_16_bits_stays_16_bits(self) -> None:
        np.testing.assert_array_equal(decode_image(pillow(CELLS[0], "PNG")).pixels, CELLS[:1])

    def test_png_of_16_bits_and_three_colours_stays_16_bits(self) -> None:
        image = decode_image(imagecodecs.png_encode(np.ascontiguousarray(np.moveaxis(CELLS[:3], 0, -1))))
        assert image.channel_names == ("red", "green", "blue")
        np.testing.assert_array_equal(image.pixels, CELLS[:3])

    @pytest.mark.parametrize(
        "data",
        [
            pillow(TISSUE, "PNG"),
            pillow(np.dstack([TISSUE, np.full((48, 40), 255, np.uint8)]), "PNG"),
            tiff(TISSUE, photometric="rgb"),
            tiff(np.dstack([TISSUE, np.full((48, 40), 255, np.uint8)]), photometric="rgb", extrasamples=["unassalpha"]),
            tiff(np.moveaxis(TISSUE, -1, 0), photometric="rgb", planarconfig="separate"),
        ],
        ids=["png", "png with alpha", "tiff", "tiff with alpha", "tiff planar"],
    )
    def test_rgb(self, data: bytes) -> None:
        image = decode_image(data)
        assert image.channel_names == ("red", "green", "blue")
        np.testing.assert_array_equal(np.moveaxis(image.pixels, 0, -1), TISSUE)

    def test_jpeg_is_what_pillow_decodes(self) -> None:
        data = pillow(TISSUE, "JPEG", quality=90)
        np.testing.assert_array_equal(np.moveaxis(decode_image(data).pixels, 0, -1), np.asarray(Pillow.open(io.BytesIO(data))))
        assert decode_image(pillow(TISSUE[..., 0], "JPEG")).pixels.shape == (1, 48, 40)

    @pytest.mark.parametrize("restarts", [0, 1])
    def test_a_progressive_jpeg_of_many_scans(self, restarts: int) -> None:
        """A camera's: about ten scans, stuffed bytes and restart markers among their bits."""
        data = pillow(TISSUE, "JPEG", progressive=True, quality=99, restart_marker_blocks=restarts, exif=b"Exif\x00\x00" + b"\xff\xda" * 500)
        assert b"\xff\x00" in data
        assert (b"\xff\xd3" in data) == bool(restarts)
        assert (read_jpeg(data).height, read_jpeg(data).width, read_jpeg(data).components, read_jpeg(data).scans) == (48, 40, 3, 10)
        np.testing.assert_array_equal(np.moveaxis(decode_image(data).pixels, 0, -1), np.asarray(Pillow.open(io.BytesIO(data))))
        assert decode_image(with_scans(data, 90)).pixels.shape == (3, 48, 40)

    def test_a_progressive_jpeg_in_a_tiff(self) -> None:
        data = pillow(TISSUE[..., 0], "JPEG", progressive=True)
        np.testing.assert_array_equal(decode_image(jpeg_strip(data)).pixels[0], np.asarray(Pillow.open(io.BytesIO(data))))

    def test_jpeg_tiles_in_a_tiff(self) -> None:
        smooth = np.broadcast_to(np.arange(64, dtype=np.uint8)[:, None, None], (64, 64, 3))
        image = decode_image(tiff(smooth, photometric="rgb", compression="jpeg", tile=(32, 32)))
        assert image.pixels.shape == (3, 64, 64)
        np.testing.assert_allclose(np.moveaxis(image.pixels, 0, -1), smooth, atol=6)

    def test_float32(self) -> None:
        values = RNG.normal(size=(2, 8, 9)).astype(np.float32)
        for data in (npy(values), tiff(values, photometric="minisblack"), tiff(values, photometric="minisblack", compression="zlib", predictor=True)):
            np.testing.assert_array_equal(decode_image(data).pixels, values)

    def test_one_file_per_channel(self, tmp_path: Path) -> None:
        paths = [tmp_path / f"{name}.png" for name in NAMES]
        for path, plane in zip(paths, CELLS, strict=True):
            path.write_bytes(pillow(plane, "PNG"))
        image = read_channels(paths, NAMES)
        assert image.channel_names == NAMES
        np.testing.assert_array_equal(image.pixels, CELLS)
        paths[2].write_bytes(pillow(CELLS[0, :9], "PNG"))
        with pytest.raises(ImageError, match="differ"):
            read_channels(paths, NAMES)

    def test_a_missing_file_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(ImageError, match=r"gone\.tif`: cannot be read"):
            read_image(tmp_path / "gone.tif")

    def test_a_reduced_page_is_not_a_second_image(self) -> None:
        stream = io.BytesIO()
        with tifffile.TiffWriter(stream) as writer:
            writer.write(CELLS[0], photometric="minisblack")
            writer.write(CELLS[0, ::2, ::2], photometric="minisblack", subfiletype=1)
        np.testing.assert_array_equal(decode_image(stream.getvalue()).pixels, CELLS[:1])


class TestTruncated:
    """Every prefix of a file is refused, or holds every pixel (a writer may pad the end)."""

    @pytest.mark.parametrize("name", CELL_FILES)
    def test_prefixes(self, name: str) -> None:
        data = CELL_FILES[name]
        cuts = {*range(1, len(data), len(data) // 40), *range(len(data) - 40, len(data))}
        for cut in sorted(cuts):
            try:
                image = decode_image(data[:cut])
            except ImageError:
                continue
            np.testing.assert_array_equal(image.pixels, CELLS, err_msg=f"{cut} of {len(data)} bytes")

    @pytest.mark.parametrize("data", [pillow(TISSUE, "PNG"), pillow(CELLS[0], "PNG"), pillow(TISSUE, "JPEG"), npy(CELLS)])
    def test_halves_of_other_formats(self, data: bytes) -> None:
        for cut in (9, 30, len(data) // 2, len(data) - 40):
            with pytest.raises(ImageError, match=r"truncated|expected"):
                decode_image(data[:cut])

    def test_what_tifffile_would_salvage_is_refused(self) -> None:
        data = CELL_FILES["pages without metadata"]
        half = data[: len(data) // 2]
        with tifffile.TiffFile(io.BytesIO(half)) as file:
            assert file.asarray().shape == (48, 40)  # the trap: one page of five, and no error
        with pytest.raises(ImageError, match="The file is truncated"):
            decode_image(half)


def without_plane(data: bytes) -> bytes:
    """An OME-TIFF whose XML still announces five channels while the chain ends after four pages."""
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        fourth = file.pages[3].offset
    altered = bytearray(data)
    (count,) = struct.unpack_from("<H", altered, fourth)
    struct.pack_into("<I", altered, fourth + 2 + 12 * count, 0)
    return bytes(altered)


def looped(data: bytes) -> bytes:
    """A TIFF whose first page names itself as the next."""
    altered = bytearray(data)
    (first,) = struct.unpack_from("<I", altered, 4)
    (count,) = struct.unpack_from("<H", altered, first)
    struct.pack_into("<I", altered, first + 2 + 12 * count, first)
    return bytes(altered)


def with_tag(data: bytes, tag: int, value: int) -> bytes:
    """A TIFF in which a tag of the first page has another value."""
    altered = bytearray(data)
    (first,) = struct.unpack_from("<I", altered, 4)
    (count,) = struct.unpack_from("<H", altered, first)
    for entry in range(first + 2, first + 2 + 12 * count, 12):
        found, kind = struct.unpack_from("<HH", altered, entry)
        if found == tag:
            struct.pack_into("<H" if kind == 3 else "<I", altered, entry + 8, value)
            return bytes(altered)
    raise LookupError(tag)


def png_header(width: int, height: int, depth: int, colour: int) -> bytes:
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header)) + b"\x00" * 40


def npy_header(text: str) -> bytes:
    body = text.encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(body)) + body


HOSTILE: dict[str, tuple[Callable[[], bytes], str]] = {
    "nothing": (lambda: b"", "got 0 bytes"),
    "text": (lambda: b"hello, this is no image", "expected TIFF, OME-TIFF, PNG, JPEG or npy"),
    "a zip archive": (lambda: b"PK\x03\x04" + b"\x00" * 64, "expected TIFF"),
    "a plane less than announced": (lambda: without_plane(ome()), "announces 5 planes, not all of them lie in this file. The file is truncated"),
    "vast numbers of planes": (lambda: with_xml('SizeC="5"', 'SizeC="100000000"'), "announces 100000000 planes, not all of them lie in this file"),
    "vast planes": (lambda: with_xml('SizeX="40"', 'SizeX="100000000"'), "announces planes of 48 x 100000000 pixels"),
    "many planes in one place": (
        lambda: with_xml(PLACED, '<TiffData PlaneCount="100000000"/>'),
        "at most the 5 planes of its pages, got 100000000 for `PlaneCount`",
    ),
    "a plane far away": (lambda: with_xml(PLACED, '<TiffData IFD="0" FirstC="100000000"/>'), "got 100000000 for `FirstC`"),
    "a page far away": (lambda: with_xml(PLACED, '<TiffData IFD="100000000"/>'), "got 100000000 for `IFD`"),
    "a page before the first": (lambda: with_xml(PLACED, '<TiffData IFD="-1"/>'), "got -1 for `IFD`"),
    "planes placed time and again": (lambda: with_xml(PLACED, "<TiffData/>" * 3), "got 15 for `TiffData`"),
    "an axis time and again": (lambda: with_xml('"XYCZT"', '"XYCCCCCCCC"'), "each once, got `XYCCCCCCCC`"),
    "planes that are no number": (lambda: with_xml(PLACED, '<TiffData PlaneCount="many"/>'), "a number of planes that is not a number"),
    "a vast axis of two": (lambda: modulo("1e12"), "got 1000000000001 for `Along`"),
    "an endless axis of two": (lambda: modulo("inf"), "a number of planes that is not a number"),
    "many samples": (lambda: with_tag(tiff(CELLS[0]), 277, 2000), "at most 1024 samples per pixel of a TIFF page, got 2000"),
    "pages in a loop": (lambda: looped(tiff(CELLS[0])), "form a loop"),
    "a terapixel TIFF": (lambda: with_tag(tiff(CELLS[0]), 256, 60_000_000), "expected at most 64000000 values"),
    "a vast tile": (lambda: with_tag(tiff(CELLS[0], tile=(16, 16)), 322, 1 << 30), "a TIFF tile announces"),
    "a strip outside the file": (lambda: with_tag(tiff(CELLS[0]), 273, 1 << 30), "pixels lie outside"),
    "an empty strip": (lambda: with_tag(tiff(CELLS[0]), 279, 0), "pixels lie outside"),
    "an unknown codec": (lambda: with_tag(tiff(CELLS[0]), 259, 34712), "expected TIFF compression none, LZW, .*got code 34712"),
    "white is zero": (lambda: tiff(CELLS[0], photometric="miniswhite"), "got white is zero"),
    "a palette TIFF": (lambda: tiff(TISSUE[..., 0], photometric="palette", colormap=np.zeros((3, 256), np.uint16)), "got a colour palette"),
    "a stack in depth": (lambda: tiff(CELLS, imagej=True, metadata={"axes": "ZYX"}), "expected axes C, Y, X, got `ZYX`"),
    "two images": (lambda: two_images(), "the file holds 2 of different shapes"),
    "XML entities": (lambda: ome(names=("<!ENTITY>", *NAMES[1:])).replace(b"&lt;!ENTITY&gt;", b"<!ENTITY a 'b'>"), "declares entities"),
    "oblong pixels": (lambda: ome().replace(b'PhysicalSizeY="0.65"', b'PhysicalSizeY="0.99"'), "expected square pixels, got 0.65 x 0.99"),
    "a size that is no number": (lambda: ome().replace(b'PhysicalSizeY="0.65"', b'PhysicalSizeY="wide"'), "a size that is not a number"),
    "a transparent PNG": (lambda: pillow(np.dstack([TISSUE, TISSUE[..., 0]]), "PNG"), "transparent alpha channel"),
    "a transparent TIFF": (
        lambda: tiff(np.dstack([TISSUE, TISSUE[..., 0]]), photometric="rgb", extrasamples=["unassalpha"]),
        "transparent alpha channel",
    ),
    "a palette PNG": (lambda: palette_png(), "of colour type 3. Save it without a palette"),
    "a PNG of one bit": (lambda: png_header(8, 8, 1, 0), "got 1 bit of colour type 0"),
    "a gigapixel PNG": (lambda: png_header(100_000, 100_000, 8, 2), "the header announces 30000000000"),
    "a 16-bit RGB PNG without pixels": (lambda: png_header(8, 8, 16, 2), "truncated or damaged"),
    "a CMYK JPEG": (lambda: cmyk_jpeg(), "expected grey or RGB, got mode `CMYK`"),
    "a JPEG of many scans": (lambda: with_scans(pillow(TISSUE, "JPEG", progressive=True), 200), "the JPEG has 210 scans, more than 100"),
    "a large JPEG of some scans": (lambda: with_scans(large_jpeg(), 20), "expected at most 16 scans of a JPEG of that size, got 26"),
    "a JPEG of many markers": (lambda: in_jpeg(b"\xff\xdb", b"\xff\xe1\x00\x02" * 20_000 + b"\xff\xdb"), "more than 10000 markers"),
    "a JPEG of two frames": (lambda: in_jpeg(FRAME, FRAME + FRAME), "the JPEG has two frame headers"),
    "an arithmetic JPEG": (lambda: in_jpeg(b"\xff\xc0", b"\xff\xc9"), "the JPEG has arithmetic coding"),
    "a TIFF of a JPEG of many scans": (
        lambda: jpeg_strip(with_scans(pillow(TISSUE[..., 0], "JPEG", progressive=True), 200)),
        "tile of the TIFF has 206 scans",
    ),
    "a TIFF of JPEG tiles with too many scans": (lambda: jpeg_strip(with_scans(large_jpeg(), 20), 8000), "too many scans for their size"),
    "a TIFF of JPEG without a frame": (lambda: jpeg_strip(b"\xff\xd8" + bytes(600)), "tile of the TIFF has no frame header"),
    "a vast npy": (lambda: npy_header("{'descr': '<u2', 'fortran_order': False, 'shape': (99999, 99999, 99999)}"), "expected at most 64000000"),
    "a negative npy": (lambda: npy_header("{'descr': '<u2', 'fortran_order': False, 'shape': (-5, 8, 8)}"), r"got \(-5, 8, 8\)"),
    "an npy of objects": (lambda: npy_header("{'descr': '|O', 'fortran_order': False, 'shape': (1, 8, 8)}"), "got object"),
    "an npy of nonsense": (lambda: npy_header("(" * 3000), "npy header cannot be read"),
    "four axes": (lambda: npy(CELLS[None]), r"expected shape \(c, y, x\) or \(y, x\), got \(1, 5, 48, 40\)"),
    "an empty npy": (lambda: npy(np.zeros((0, 8, 8), np.uint16)), "expected shape"),
    "float64": (lambda: npy(CELLS.astype(np.float64)), "expected dtype uint8 or uint16 or float32, got float64"),
    "signed TIFF": (lambda: tiff(CELLS.astype(np.int16), photometric="minisblack"), "got int16. Convert the file"),
    "wide numbers in a TIFF": (lambda: tiff(CELLS[0] * 1j, photometric="minisblack"), "expected at most 4 bytes per value, got complex128"),
    "NaN": (lambda: npy(np.array([[[1.0, np.nan, np.inf]]], np.float32)), "2 of 3 pixels are NaN or infinite"),
    "NaN in a TIFF": (lambda: tiff(np.full((8, 8), np.nan, np.float32)), "64 of 64 pixels are NaN"),
}


PLACED = '<TiffData IFD="0" PlaneCount="5"/>'


def with_xml(old: str, new: str) -> bytes:
    """The OME-TIFF of five channels with another OME-XML."""
    with tifffile.TiffFile(io.BytesIO(ome())) as file:
        xml = file.ome_metadata or ""
    assert old in xml
    return tiff(CELLS, photometric="minisblack", description=xml.replace(old, new).encode(), metadata=None)


def modulo(end: str) -> bytes:
    """An OME-XML in which channels are made of two axes."""
    along = f'<StructuredAnnotations><A ID="a" Namespace="x/modulo"><V><M><ModuloAlongC Start="0" End="{end}"/></M></V></A></StructuredAnnotations>'
    return with_xml("</OME>", f"{along}</OME>")


def two_images() -> bytes:
    stream = io.BytesIO()
    with tifffile.TiffWriter(stream) as writer:
        writer.write(CELLS[0], photometric="minisblack")
        writer.write(CELLS[0, ::2, ::2], photometric="minisblack")
    return stream.getvalue()


def palette_png() -> bytes:
    stream = io.BytesIO()
    Pillow.fromarray(TISSUE).quantize(16).save(stream, "PNG")
    return stream.getvalue()


def cmyk_jpeg() -> bytes:
    stream = io.BytesIO()
    Pillow.fromarray(TISSUE).convert("CMYK").save(stream, "JPEG")
    return stream.getvalue()


def with_scans(jpeg: bytes, more: int) -> bytes:
    """A progressive JPEG whose last scan comes time and again."""
    return jpeg[:-2] + jpeg[jpeg.rindex(b"\xff\xda") : -2] * more + jpeg[-2:]


@cache
def large_jpeg() -> bytes:
    """64 million pixels, six scans."""
    return pillow(np.zeros((8000, 8000), np.uint8), "JPEG", progressive=True)


#: the frame header of a grey JPEG of 48 x 40
FRAME = bytes.fromhex("ffc0000b080030002801011100")


def in_jpeg(old: bytes, new: bytes) -> bytes:
    """A grey JPEG with other bytes in one place."""
    data = pillow(TISSUE[..., 0], "JPEG")
    assert old in data
    return data.replace(old, new, 1)


def jpeg_strip(jpeg: bytes, side: int = 0) -> bytes:
    """A TIFF of one page, whose one strip is a JPEG."""
    height, width = (side, side) if side else (48, 40)
    entries = [(256, width), (257, height), (258, 8), (259, 7), (262, 1), (273, 8), (277, 1), (278, height), (279, len(jpeg))]
    directory = struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in entries) + bytes(4)
    return b"II*\x00" + struct.pack("<I", 8 + len(jpeg)) + jpeg + directory


def assert_ends_in_a_step(message: str) -> None:
    """What was expected and what came, and then what to do."""
    said, _, step = message.rstrip(".").rpartition(". ")
    assert said, message
    assert re.search(r"\b([Ss]ave|[Cc]onvert|[Cc]rop|[Rr]epair|[Rr]esample|[Tt]ake|[Nn]ame) ", step), message


class TestRefused:
    @pytest.mark.parametrize("name", HOSTILE)
    def test_says_why(self, name: str) -> None:
        make, message = HOSTILE[name]
        with pytest.raises(ImageError, match=message) as caught:
            decode_image(make(), source="cell-17")
        assert "`cell-17`" in str(caught.value)
        assert_ends_in_a_step(str(caught.value))

    def test_an_ome_tiff_never_opens_another_file(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        Path("secret.ome.tif").write_bytes(ome())
        with tifffile.TiffFile(io.BytesIO(ome())) as file:
            xml = file.ome_metadata or ""
        before, found, after = xml.partition('<TiffData IFD="0" PlaneCount="5"/>')
        assert found
        other = '<TiffData IFD="0" PlaneCount="5"><UUID FileName="secret.ome.tif">urn:uuid:0</UUID></TiffData>'
        altered = tiff(CELLS[0], description=(before + other + after).encode(), metadata=None)
        with pytest.raises(ImageError, match="part of a set"):
            decode_image(altered)

    def test_a_plane_placed_outside_the_file_is_not_filled_with_zeros(self) -> None:
        assert b'IFD="0" PlaneCount="5"' in ome()
        for first in (b'IFD="7"', b'IFD="2"'):
            with pytest.raises(ImageError, match="save all planes in one file"):
                decode_image(ome().replace(b'IFD="0"', first))

    def test_random_damage_gives_an_image_or_an_image_error(self) -> None:
        generator = np.random.default_rng(3)
        files = [*CELL_FILES.values(), pillow(TISSUE, "PNG"), pillow(TISSUE, "JPEG"), tiff(TISSUE, photometric="rgb", compression="jpeg")]
        for data in files:
            for _ in range(40):
                damaged = bytearray(data)
                for _ in range(generator.integers(1, 6)):
                    span = min(len(damaged), int(generator.choice([200, len(damaged)])))
                    at = int(generator.integers(0, span))
                    damaged[at if generator.random() < 0.6 else -at - 1] = int(generator.integers(0, 256))
                try:
                    image = decode_image(bytes(damaged))
                except ImageError:
                    continue
                assert image.pixels.ndim == 3


class TestConform:
    def test_exact(self) -> None:
        batch = conform(decode_image(ome()), spec())
        assert batch.dtype == np.float32
        np.testing.assert_array_equal(batch, CELLS.astype(np.float32))

    def test_channels_are_put_in_order_by_name(self) -> None:
        shuffled = ("mito", "dna", "actin", "er", "rna")
        data = ome(CELLS[[NAMES.index(name) for name in shuffled]], shuffled)
        np.testing.assert_array_equal(conform(decode_image(data), spec()), CELLS.astype(np.float32))

    @pytest.mark.parametrize(
        ("data", "message"),
        [
            (npy(CELLS[:3]), r"expected 5 channels \(dna, er, rna, actin, mito\), got 3"),
            (ome(names=("dna", "er", "rna", "actin", "brightfield")), "expected channels dna, er, rna, actin, mito, got dna, er, rna, actin, bright"),
            (npy(CELLS[:, :30]), r"expected 48 x 40 pixels \(y, x\), got 30 x 40"),
            (npy((CELLS >> 8).astype(np.uint8)), "expected dtype uint16, got uint8"),
            (ome(size_um=1.3), "expected 0.65 um per pixel, got 1.3"),
        ],
    )
    def test_refused(self, data: bytes, message: str) -> None:
        with pytest.raises(ImageError, match=message) as caught:
            conform(decode_image(data), spec())
        assert_ends_in_a_step(str(caught.value))

    def test_a_file_that_says_rgb_is_not_three_stains(self) -> None:
        three = spec(channels=("dna", "er", "rna"), dtype="uint8", intensity=((0.0, 255.0),) * 3)
        with pytest.raises(ImageError, match="expected channels dna, er, rna, got red, green, blue"):
            conform(decode_image(pillow(TISSUE, "PNG")), three)

    @pytest.mark.parametrize(("height", "width"), [(24, 20), (31, 77), (96, 80), (48, 40)])
    def test_linear_resize_is_pillows(self, height: int, width: int) -> None:
        plane = RNG.random((48, 40)).astype(np.float32)
        expected = np.asarray(Pillow.fromarray(plane).resize((width, height), Pillow.Resampling.BILINEAR))
        np.testing.assert_allclose(resize_linear(plane[None], height, width)[0], expected, atol=2e-6)

    def test_what_is_kept_for_the_next_image_is_bounded(self) -> None:
        """Sides come from whoever sends an image; each takes a dense matrix, of which the last that are small are kept."""
        assert resampling_matrix(2048, 224) is resampling_matrix(2048, 224)
        for vast in (2400, 16_384):
            first = weakref.ref(resampling_matrix(vast, 224))
            assert first() is None

    def test_vast_sides_are_not_resampled(self) -> None:
        image = Image(np.zeros((5, 1, 20_000), np.uint16))
        with pytest.raises(ImageError, match="expected sides of at most 16384 pixels"):
            conform(image, spec(resize="linear"))

    def test_spec_round_trip(self) -> None:
        assert ImageSpec.from_dict(spec(resize="linear").as_dict()) == spec(resize="linear")

    @pytest.mark.parametrize("changes", [{"dtype": "int16"}, {"resize": "cubic"}, {"channels": ()}, {"height": 0}, {"intensity": ((1.0, 1.0),) * 5}])
    def test_a_spec_that_contradicts_itself(self, changes: dict[str, Any]) -> None:
        with pytest.raises(ImageError, match="expected"):
            spec(**changes)

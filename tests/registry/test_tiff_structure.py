"""What no whole TIFF says is refused before tifffile sees it, in the chain and in the directories outside it."""

from __future__ import annotations

import io
import lzma
import struct
import time
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray

from registry.errors import ImageError
from registry.images import decode_image
from registry.tiff_structure import check_structure
from tests.tiff_parts import LONG, START, Entry, indexed, nested, one_page, page, sharing, with_entries

LIMIT = 64_000_000
IMAGE: NDArray[np.uint16] = np.random.default_rng(4).integers(0, 60_000, (3, 64, 48)).astype(np.uint16)
PACKED = zlib.compress(b"\x05\x00" * 240)
#: offsets and counts of two strips, of which the second lies nowhere
HALF = struct.pack("<IIII", START + 16, 0, len(PACKED), 0) + PACKED
RAW = bytes(960)


def two_strips(payload: bytes) -> tuple[list[Entry], bytes]:
    return with_entries(page(24, 20, 0, 0, 8), (273, LONG, 2, START), (278, LONG, 1, 12), (279, LONG, 2, START + 8)), payload


def tile(side: int, payload: bytes) -> tuple[list[Entry], bytes]:
    strips = [entry for entry in page(24, 20, 0, 0, 8) if entry[0] not in (273, 278, 279)]
    places = (322, side), (323, side), (324, START), (325, len(payload))
    return with_entries(strips, *((tag, LONG, 1, value) for tag, value in places)), payload


def strip(payload: bytes = RAW, *others: Entry, compression: int = 1) -> tuple[list[Entry], bytes]:
    return with_entries(page(24, 20, START, len(payload), compression), *others), payload


WRONG: dict[str, tuple[Callable[[], tuple[list[Entry], bytes]], str]] = {
    "a strip that lies nowhere": (lambda: two_strips(HALF), "pixels lie outside"),
    "a strip less than the rows take": (lambda: strip(PACKED, (278, LONG, 1, 12), compression=8), "expected 2 strips or tiles in a TIFF page, got 1"),
    "a strip outside the file": (lambda: strip(RAW, (273, LONG, 1, 10_000_000)), "pixels lie outside"),
    "strips of no rows": (lambda: strip(RAW, (278, LONG, 1, 0)), "strips or tiles of no pixels"),
    "a codec of LZMA": (lambda: strip(lzma.compress(RAW), compression=34925), "got code 34925"),
    "a codec of WebP": (lambda: strip(RAW, compression=50001), "got code 50001"),
    "a vast tile": (lambda: tile(16_384, zlib.compress(bytes(1000))), "a TIFF tile announces 268435456 values, its page 480"),
    "a tile of no width": (lambda: tile(0, PACKED), "strips or tiles of no pixels"),
    "a signed number": (lambda: strip(RAW, (277, 9, 1, 2)), "got another, or 1 values of type 9"),
    "a number twice": (lambda: ([(256, LONG, 1, 10), *strip()[0]], RAW), "expected TIFF tag 256 once"),
    "an NDPI slide": (lambda: strip(RAW, (65420, LONG, 1, 1)), "expected TIFF or OME-TIFF, got an NDPI slide"),
    "properties of MetaMorph": (
        lambda: strip(bytes(80_004), (33628, LONG, 20_001, START)),
        "20000 tags, lines or entries of metadata, got 0 and 20001",
    ),
    "planes of MetaMorph": (lambda: strip(bytes(960), (33629, 5, 2, START)), "expected one plane, got 2 of MetaMorph"),
    "entries of ImageJ": (lambda: strip(bytes(80_004), (50838, LONG, 20_001, START)), "20000 tags, lines or entries of metadata, got 0 and 20001"),
    "planes in depth": (lambda: strip(RAW, (32997, LONG, 1, 2)), "expected flat TIFF pages, got one of 2 planes in depth"),
}


class TestWrong:
    @pytest.mark.parametrize("name", WRONG)
    def test_in_the_chain(self, name: str) -> None:
        make, message = WRONG[name]
        with pytest.raises(ImageError, match=message):
            decode_image(one_page(*make()))

    @pytest.mark.parametrize("reduced", [False, True])
    @pytest.mark.parametrize("name", WRONG)
    def test_outside_the_chain(self, name: str, reduced: bool) -> None:
        make, message = WRONG[name]
        with pytest.raises(ImageError, match=message):
            decode_image(nested(*make(), reduced=reduced))

    def test_an_image_outside_the_chain_is_not_taken_for_the_file_s(self) -> None:
        assert decode_image(one_page(*strip())).pixels.shape == (1, 24, 20)
        with pytest.raises(ImageError, match="its full-resolution image lies in a SubIFD"):
            decode_image(nested(*strip()))
        with pytest.raises(ImageError, match="its full-resolution image lies in a SubIFD"):
            decode_image(nested(page(10, 10, START, 200), bytes(200), reduced=False))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (lambda: sharing(8, 2000), "expected at most 1024 TIFF pages, got more or pages that form a loop"),
        (lambda: sharing(2, 2), "expected at most 1024 TIFF pages, got more or pages that form a loop"),
        (lambda: sharing(20, 100_000, tag=273), "expected at most 100000 strips and tiles, got more"),
        (lambda: sharing(20, 20_000, tag=65000), "its TIFF tags have more values than the file has bytes"),
        (lambda: sharing(200, 2000, tag=273), "expected at most 100000 strips and tiles, got more"),
        (lambda: many_padded(), "its TIFF tiles are much larger than its pages"),
    ],
)
def test_what_pages_share_is_counted_for_each(data: Callable[[], bytes], message: str) -> None:
    made = data()
    start = time.process_time()
    with pytest.raises(ImageError, match=message):
        check_structure(made, "x", LIMIT)
    assert time.process_time() - start < 0.2


@pytest.mark.parametrize("planes", [(0,), (0, 1), (0, 50_000_000)])
def test_an_index_of_micro_manager_places_nothing(planes: tuple[int, ...]) -> None:
    """It may name any number of planes, and places outside the pages: what the pages hold is the image."""
    assert decode_image(indexed(planes)).pixels.shape == (1, 24, 20)


XML = (
    '<OME xmlns="http://www.openome.org/Schemas/OME/2016-06"><Image ID="Image:0"><Pixels ID="Pixels:0" DimensionOrder="XYZCT" Type="uint16"'
    ' SizeX="48" SizeY="64" SizeC="3" SizeZ="1" SizeT="1"><TiffData/></Pixels></Image>{}</OME>'
)


def described(inner: str) -> bytes:
    return tiff(IMAGE, description=XML.format(inner), metadata=None)


class TestDescription:
    @pytest.mark.parametrize(
        "data",
        [
            lambda: described("<a/>" * 4_000_000),
            lambda: described("<a>" * 110_000 + "</a>" * 110_000),
            lambda: described("x" * (2 << 20)),
            lambda: described("<a " + " ".join(f"a{i}=''" for i in range(300_000)) + "/>"),
            lambda: pages_described("<a/>" * 5_000),
            lambda: tiff(IMAGE, description="ImageJ=1.53\n" + "a=b\n" * 20_000, metadata=None),
            lambda: tiff(IMAGE, description="ImageJ=1.53\n" + "a=b\x1c" * 20_000, metadata=None),
            lambda: pages_described("ImageJ=1.53\r" + "a=b\r" * 1_000),
        ],
        ids=["many", "deep", "long", "attributes", "on every page", "lines", "lines of another kind", "lines of every page"],
    )
    def test_more_than_any_image_has(self, data: Callable[[], bytes]) -> None:
        made = data()
        start = time.process_time()
        with pytest.raises(
            ImageError,
            match=r"at most 2097152 bytes of ImageDescription \(OME-XML\) and 20000 tags, lines or entries of metadata, got \d+ and \d+\. Save",
        ):
            decode_image(made)
        assert time.process_time() - start < 0.3

    @pytest.mark.parametrize("inner", ["<a/>" * 19_000, "<a>" * 9_000 + "</a>" * 9_000, "x" * 2_000_000, "<!--" + "<" * 19_000 + "-->"])
    def test_the_most_that_is_read(self, inner: str) -> None:
        made = described(inner)
        start = time.process_time()
        np.testing.assert_array_equal(decode_image(made).pixels, IMAGE)
        assert time.process_time() - start < 1.5


def lsm_record() -> bytes:
    """Two channels of one plane, and blocks of settings that lie in the pixels."""
    record = np.zeros(1, tifffile.TIFF.CZ_LSMINFO)
    sizes = {"DimensionX": 48, "DimensionY": 64, "DimensionZ": 1, "DimensionChannels": 3, "DimensionTime": 1}
    blocks = {name: 16 for name in record.dtype.names if name.startswith("Offset")}
    for name, value in {"MagicNumber": 67127628, "StructureSize": record.nbytes, **sizes, **blocks}.items():
        record[name] = value
    return record.tobytes()


def with_thumbnail(pixels: NDArray[Any], **options: Any) -> bytes:
    stream = io.BytesIO()
    with tifffile.TiffWriter(stream) as writer:
        writer.write(pixels, photometric="minisblack", metadata=None, **options)
        writer.write(pixels[0, ::4, ::4], photometric="minisblack", metadata=None, subfiletype=1)
    return stream.getvalue()


SCN = '<scn><collection><image><pixels><dimension c="100000" ifd="0"/></pixels></image></collection></scn>'
#: by maker: what makes a file one of theirs
MAKERS: dict[str, dict[str, Any]] = {
    "MetaMorph": {"extratags": [(33628, "I", 4, (2, 0, 2, 0), True), (33629, "2I", 1, (0, 1), True), (33631, "I", 1, 7, True)]},
    "Olympus SIS": {"extratags": [(33471, "s", 0, "[Dimension]\nBand=100000\n[Band]\n[ASD]\nCount=100000\n", True), (33560, "I", 1, 7, True)]},
    "ScanImage": {"software": "SI.VERSION_MAJOR = 5"},
    "Leica SCN": {"description": SCN},
    "Zeiss LSM": {"extratags": [(34412, "B", len(lsm_record()), lsm_record(), True)]},
}


class TestMakers:
    """What a maker says of the pages in a structure of its own is not read: one page needs none of it."""

    @pytest.fixture
    def parsed(self, monkeypatch: pytest.MonkeyPatch) -> list[str]:
        """Which of tifffile's readers of such structures are called."""
        called: list[str] = []

        def noted(name: str) -> Callable[..., Any]:
            return lambda *_, **__: called.append(name)

        for tag in (33629, 33630, 33631, 33471, 33560, 34412):
            monkeypatch.setitem(tifffile.TIFF.TAG_READERS, tag, noted(str(tag)))
        monkeypatch.setattr(tifffile.tifffile, "read_scanimage_metadata", noted("ScanImage"))
        monkeypatch.setattr(tifffile.TiffFile, "_series_scn", noted("SCN"))
        return called

    @pytest.mark.parametrize("maker", MAKERS)
    def test_one_page_is_read_without_it(self, maker: str, parsed: list[str]) -> None:
        data = with_thumbnail(IMAGE[:1], **MAKERS[maker]) if maker == "Zeiss LSM" else tiff(IMAGE[0], metadata=None, **MAKERS[maker])
        with tifffile.TiffFile(io.BytesIO(data)) as file:
            # what tifffile alone parses
            _ = file.series
        assert parsed
        parsed.clear()
        np.testing.assert_array_equal(decode_image(data).pixels, IMAGE[:1])
        assert parsed == []

    @pytest.mark.parametrize("maker", MAKERS)
    def test_of_several_pages_nobody_knows_what_they_are(self, maker: str, parsed: list[str]) -> None:
        with pytest.raises(ImageError, match=f"expected one page, got 3 of {maker}, whose account of what they are is not read"):
            decode_image(tiff(IMAGE, metadata=None, **MAKERS[maker]))
        assert parsed == []

    @pytest.mark.parametrize("maker", sorted(set(MAKERS) - {"Leica SCN"}))
    def test_an_ome_tiff_says_it_itself(self, maker: str) -> None:
        np.testing.assert_array_equal(decode_image(tiff(IMAGE, ome=True, metadata={"axes": "CYX"}, **MAKERS[maker])).pixels, IMAGE)

    def test_channels_of_a_microscope_s_one_page_are_as_tifffile_reads_them(self) -> None:
        data = with_thumbnail(IMAGE, planarconfig="separate", **MAKERS["Zeiss LSM"])
        with tifffile.TiffFile(io.BytesIO(data)) as file:
            assert file.series[0].kind == "lsm"
            expected = file.series[0].asarray()
        np.testing.assert_array_equal(decode_image(data).pixels, expected)
        np.testing.assert_array_equal(expected, IMAGE)


def pages_described(text: str) -> bytes:
    stream = io.BytesIO()
    with tifffile.TiffWriter(stream) as writer:
        for _ in range(30):
            writer.write(IMAGE[0], photometric="minisblack", description=text, metadata=None)
    return stream.getvalue()


def many_padded() -> bytes:
    """A pixel in a tile of a million, two hundred times."""
    return tiff(np.zeros((200, 1, 1), np.uint8), tile=(1024, 1024), compression="zlib", metadata=None)


def tiff(pixels: NDArray[Any], **options: Any) -> bytes:
    stream = io.BytesIO()
    tifffile.imwrite(stream, pixels, photometric="minisblack", **options)
    return stream.getvalue()


@pytest.mark.parametrize("bigtiff", [False, True])
@pytest.mark.parametrize("options", [{"ome": True, "metadata": {"axes": "CYX"}}, {"ome": False}, {"ome": False, "metadata": None}])
@pytest.mark.parametrize("compression", [None, "zlib"])
def test_a_pyramid_is_its_full_resolution(bigtiff: bool, options: dict[str, Any], compression: str | None) -> None:
    """Levels in SubIFDs, as OME-TIFF has them; in parts that do not divide the sides."""
    stream = io.BytesIO()
    file = {key: value for key, value in options.items() if key == "ome"}
    parts: dict[str, Any] = {"photometric": "minisblack", "compression": compression, "tile": (16, 32)}
    with tifffile.TiffWriter(stream, bigtiff=bigtiff, **file) as writer:
        writer.write(IMAGE, subifds=2, **({"metadata": options["metadata"]} if "metadata" in options else {}), **parts)
        for factor in (2, 4):
            writer.write(IMAGE[:, ::factor, ::factor], subfiletype=1, **parts)
    np.testing.assert_array_equal(decode_image(stream.getvalue()).pixels, IMAGE)


@pytest.mark.parametrize(
    "options",
    [
        {"rowsperstrip": 7},
        {"rowsperstrip": 7, "compression": "zlib"},
        {"rowsperstrip": 1, "compression": "lzw"},
        {"tile": (16, 32), "compression": "zlib", "planarconfig": "separate"},
        {"rowsperstrip": 7, "planarconfig": "separate", "compression": "packbits"},
        {"tile": (256, 256), "compression": "zlib"},
    ],
)
def test_every_way_of_cutting_is_read(options: dict[str, Any]) -> None:
    np.testing.assert_array_equal(decode_image(tiff(IMAGE, **options)).pixels, IMAGE)

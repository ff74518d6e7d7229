"""A header that was read before is not parsed again, and nothing but the same bytes passes for one."""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray

from registry import tiff as module
from registry.errors import ImageError
from registry.tiff import decode_tiff

LIMIT = 100_000
SHAPE = (3, 24, 20)


@pytest.fixture(autouse=True)
def _nothing_known() -> Iterator[None]:
    module._RECENT.clear()
    yield
    module._RECENT.clear()


def pixels(seed: int) -> NDArray[np.uint16]:
    return np.random.default_rng(seed).integers(0, 60_000, SHAPE).astype(np.uint16)


def written(image: NDArray[Any], **options: Any) -> bytes:
    stream = io.BytesIO()
    tifffile.imwrite(stream, image, photometric="minisblack", **options)
    return stream.getvalue()


def ome(image: NDArray[Any], names: tuple[str, ...] = ("dna", "er", "actin"), size_um: float = 0.5) -> bytes:
    metadata = {"axes": "CYX", "Channel": {"Name": list(names)}, "PhysicalSizeX": size_um, "PhysicalSizeY": size_um}
    return written(image, ome=True, metadata=metadata)


def outcome(data: bytes) -> tuple[Any, ...]:
    """What comes of the bytes: everything that is decoded, or the error's words."""
    try:
        found = decode_tiff(data, "x", LIMIT)
    except ImageError as error:
        return (str(error),)
    return found.pixels.tobytes(), found.pixels.shape, found.pixels.dtype, found.channel_names, found.pixel_size_um


def parsed(data: bytes) -> tuple[Any, ...]:
    """The outcome where nothing was read before."""
    module._RECENT.clear()
    return outcome(data)


KINDS: dict[str, dict[str, Any]] = {
    "OME with one UUID": {"ome": True, "metadata": {"axes": "CYX", "UUID": "urn:uuid:0"}},
    "big-endian": {"byteorder": ">"},
    "BigTIFF": {"bigtiff": True},
    "ImageJ": {"imagej": True, "metadata": {"axes": "CYX"}},
    "without metadata": {"metadata": None, "contiguous": True},
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_next_file_of_a_kind_has_its_own_pixels(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = (written(pixels(seed), **KINDS[kind]) for seed in (1, 2))
    expected = parsed(second)
    parsed(first)
    monkeypatch.setattr(tifffile, "TiffFile", None)
    assert outcome(second) == expected
    np.testing.assert_array_equal(decode_tiff(second, "x", LIMIT).pixels, pixels(2))


def test_a_difference_anywhere_around_the_pixels_is_read() -> None:
    decode_tiff(ome(pixels(1)), "x", LIMIT)
    other = decode_tiff(ome(pixels(2), ("dna", "rna", "mitos"), 0.7), "x", LIMIT)
    assert (other.channel_names, other.pixel_size_um) == (("dna", "rna", "mitos"), 0.7)
    assert decode_tiff(ome(pixels(3)), "x", LIMIT).channel_names == ("dna", "er", "actin")


def test_any_damage_has_the_outcome_it_has_in_a_file_that_is_read_first() -> None:
    generator = np.random.default_rng(5)
    for data in (ome(pixels(1)), written(pixels(1), bigtiff=True)):
        start = data.index(pixels(1).tobytes())
        around = [*range(start), *range(start + pixels(1).nbytes, len(data))]
        for _ in range(150):
            damaged = bytearray(data)
            damaged[generator.choice(around)] = generator.integers(0, 256)
            for changed in (bytes(damaged), data[: generator.integers(1, len(data))], data + bytes(2)):
                expected = parsed(changed)
                parsed(data)
                assert outcome(changed) == expected


def test_what_is_announced_for_one_limit_is_not_taken_for_another() -> None:
    data = written(pixels(1))
    decode_tiff(data, "x", LIMIT)
    with pytest.raises(ImageError, match="at most 100 values"):
        decode_tiff(data, "x", 100)


def test_a_directory_among_the_pixels_is_read_in_every_file() -> None:
    """Two files that differ only inside the one strip, where their directory lies: 32 x 16 pixels and 16 x 32."""

    def file(width: int, height: int) -> bytes:
        entries = [(256, width), (257, height), (258, 8), (259, 1), (262, 1), (273, 8), (277, 1), (278, height), (279, 512)]
        directory = struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in entries) + bytes(4)
        return b"II*\x00" + struct.pack("<I", 108) + bytes(100) + directory + bytes(412 - len(directory))

    assert decode_tiff(file(32, 16), "x", LIMIT).pixels.shape == (1, 16, 32)
    assert decode_tiff(file(16, 32), "x", LIMIT).pixels.shape == (1, 32, 16)
    assert not module._RECENT


def test_large_metadata_is_not_kept() -> None:
    decode_tiff(written(pixels(1), description="x" * 70_000), "x", LIMIT)
    assert not module._RECENT

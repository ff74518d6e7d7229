"""TIFF files put together tag by tag, to say what no writer would."""

from __future__ import annotations

import struct
from collections.abc import Sequence

LONG = 4
#: where what comes behind the header lies
START = 8
Entry = tuple[int, int, int, int]


def page(height: int, width: int, at: int, size: int, compression: int = 1, bits: int = 16) -> list[Entry]:
    """The tags of a grey page of one strip: (tag, type, count, value or where the values lie)."""
    values = {256: width, 257: height, 258: bits, 259: compression, 262: 1, 273: at, 277: 1, 278: height, 279: size}
    return [(tag, LONG, 1, value) for tag, value in values.items()]


def with_entries(entries: Sequence[Entry], *others: Entry) -> list[Entry]:
    """The tags with others in place of those of the same number."""
    return sorted([*(entry for entry in entries if entry[0] not in {other[0] for other in others}), *others])


def directory(entries: Sequence[Entry], following: int = 0) -> bytes:
    return struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHII", *entry) for entry in entries) + struct.pack("<I", following)


def file(first: int, *parts: bytes) -> bytes:
    """The parts, one behind the other, under a header that says where the first directory lies."""
    return b"II*\x00" + struct.pack("<I", first) + b"".join(parts)


def one_page(entries: Sequence[Entry], payload: bytes) -> bytes:
    """`payload` at `START`, then the one page."""
    return file(START + len(payload), payload, directory(entries))


def nested(inner: Sequence[Entry], payload: bytes, *, reduced: bool = True) -> bytes:
    """`payload` at `START`, a directory outside the chain, and a page of 10 x 10 grey pixels that names it and says it is a smaller copy."""
    sub = directory(inner)
    small, place = START + len(payload), START + len(payload) + 200
    outer = with_entries(page(10, 10, small, 200), (254, LONG, 1, int(reduced)), (330, LONG, 1, place))
    return file(place + len(sub), payload, bytes(range(200)), sub, directory(outer))


def sharing(pages: int, values: int, *, tag: int = 330) -> bytes:
    """Pages that all name one array: of `values` directories, of so many strips of one row, or of numbers of another tag."""
    inner = directory(with_entries(page(24, 10, START, 480), (254, LONG, 1, 1)))
    array = START + 960 + len(inner)
    shared = struct.pack("<I", START if tag == 273 else START + 960) * values
    counts = struct.pack("<I", 40) * values if tag == 273 else b""
    if tag != 273:
        entries = with_entries(page(24, 20, START, 960), (tag, LONG, values, array))
    else:
        entries = with_entries(page(values, 20, START, 960), (273, LONG, values, array), (278, LONG, 1, 1), (279, LONG, values, array + len(shared)))
    first = array + len(shared) + len(counts)
    step = len(directory(entries))
    chain = [directory(entries, first + (i + 1) * step if i + 1 < pages else 0) for i in range(pages)]
    return file(first, bytes(960), inner, shared, counts, *chain)


def indexed(planes: Sequence[int]) -> bytes:
    """A page of 24 x 20 in a file with an index as Micro-Manager writes it, which places that page as each of these channels."""
    summary = b'{"MicroManagerVersion": "1.4", "Frames": 1}'
    index = START + 32 + len(summary)
    pixels = index + 8 + 20 * len(planes)
    first = pixels + 960
    head = struct.pack("<8I", 54773648, index, 0, 0, 0, 0, 2355492, len(summary)) + summary
    entries = struct.pack("<2I", 3453623, len(planes)) + b"".join(struct.pack("<5I", plane, 0, 0, 0, first) for plane in planes)
    return file(first, head, entries, bytes(960), directory(with_entries(page(24, 20, pixels, 960), (51123, 2, 2, START))))

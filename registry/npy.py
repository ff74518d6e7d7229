"""The header of an npy file, read by many threads at once.

NumPy reads it with `ast.literal_eval`, which in CPython 3.11 fails now and then when several threads do so (`SystemError: AST constructor
recursion depth mismatch`): of two good files that come together, one would be called damaged. The header of a plain array is three entries of
known form, and nothing else is taken here.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from typing import Any

import numpy as np

MAGIC = b"\x93NUMPY"
#: longest header in bytes, as NumPy's own limit
MAX_HEADER = 10_000
#: bytes of a file that hold any header that is read
MAX_READ = 12 + MAX_HEADER
_ENTRY = re.compile(
    r"""\s*(['"])(?P<key>descr|fortran_order|shape)\1\s*:\s*
    (?:(['"])(?P<descr>[<>|=]?[A-Za-z][0-9]{0,8})\3 | (?P<order>True|False) | \((?P<shape>[-0-9,\s]{0,200})\))\s*(?:,|$)""",
    re.VERBOSE,
)
_FORMS = {"descr": "descr", "fortran_order": "order", "shape": "shape"}


@dataclass(frozen=True)
class NpyHeader:
    """What an npy file announces.

    Attributes:
        shape: as announced, not checked.
        dtype: of the elements.
        fortran: whether the first axis varies fastest.
        start: bytes before the elements.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    fortran: bool
    start: int


def read_header(data: bytes) -> NpyHeader:
    """The header of format versions 1.0 to 3.0.

    Args:
        data: the file, or its beginning.

    Raises:
        ValueError: not an npy file, truncated, or not a plain array: fields, subarrays, entries that are unknown, missing or twice there.
    """
    size = {1: "<H", 2: "<I", 3: "<I"}.get(data[6] if len(data) > 7 and data[7] == 0 else 0)
    if data[:6] != MAGIC or size is None:
        raise ValueError("not an npy file of version 1.0, 2.0 or 3.0")
    start = 8 + struct.calcsize(size)
    if len(data) < start:
        raise ValueError("truncated")
    (length,) = struct.unpack_from(size, data, 8)
    if length > MAX_HEADER or len(data) < start + length:
        raise ValueError("truncated, or the header is too long")
    found = _entries(data[start : start + length].decode("utf-8" if data[6] == 3 else "latin-1").strip())
    parts = [int(part) for part in found["shape"].split(",") if part.strip()]
    try:
        return NpyHeader(tuple(parts), np.dtype(found["descr"]), found["fortran_order"] == "True", start + length)
    except TypeError as error:
        raise ValueError(f"unknown type {found['descr']}") from error


def _entries(text: str) -> dict[str, str]:
    if text[:1] != "{" or text[-1:] != "}":
        raise ValueError("not a dictionary")
    inside, place = text[1:-1].strip(), 0
    found: dict[str, str] = {}
    while place < len(inside):
        entry = _ENTRY.match(inside, place)
        value = entry and entry[_FORMS[entry["key"]]]
        if entry is None or value is None or entry["key"] in found:
            raise ValueError("an entry is unknown, twice there, or of another form")
        found[entry["key"]], place = value, entry.end()
    if set(found) != set(_FORMS):
        raise ValueError("an entry is missing")
    return found

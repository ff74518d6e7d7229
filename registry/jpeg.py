"""What a JPEG stream says of itself, read before it is decoded (ITU-T T.81, annex B)."""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass

#: a picture of a camera has 1, a progressive one about 10; each costs a pass over the whole picture, however few bytes it has
MAX_SCANS = 100
#: most values that the scans together pass over, as a multiple of the values an image may have: a second of work at the usual limit
MAX_PASSES = 16
#: an image has dozens; each is a step here and in Pillow
MAX_MARKERS = 10_000
_SCAN, _END = 0xDA, 0xD9
_FRAMES = frozenset({0xC0, 0xC1, 0xC2, 0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF})
_ARITHMETIC = frozenset({0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF})
#: as libjpeg looks for the next one: not a stuffed byte, not filling, none of those that stand alone within or between scans
_MARKER = re.compile(rb"\xff[^\x00\x01\xd0-\xd7\xff]")


@dataclass(frozen=True)
class Jpeg:
    """The frame header, and how many scans follow."""

    height: int
    width: int
    components: int
    scans: int

    @property
    def passes(self) -> int:
        """Values that the decoder passes over."""
        return self.height * self.width * self.components * max(1, self.scans)


def read_jpeg(data: bytes) -> Jpeg:
    """Walk the stream from marker to marker.

    Raises:
        ValueError: not one frame header, arithmetic coding, or more scans or markers than any image has; says which.
    """
    at, scans = 2, 0
    frame: tuple[int, int, int] | None = None
    for _ in range(MAX_MARKERS):
        found = _MARKER.search(data, at)
        if found is None or data[found.end() - 1] == _END:
            break
        marker, at = data[found.end() - 1], found.end()
        if marker in _FRAMES:
            if frame is not None or marker in _ARITHMETIC:
                raise ValueError("arithmetic coding" if frame is None else "two frame headers")
            if len(data) < at + 8:
                break
            height, width, components = struct.unpack_from(">HHB", data, at + 3)
            frame = (height, width, components)
        scans += marker == _SCAN
        at += max(2, int.from_bytes(data[at : at + 2], "big"))
    else:
        raise ValueError(f"more than {MAX_MARKERS} markers")
    if frame is None:
        raise ValueError("no frame header")
    if scans > MAX_SCANS:
        raise ValueError(f"{scans} scans, more than {MAX_SCANS}")
    return Jpeg(*frame, scans)

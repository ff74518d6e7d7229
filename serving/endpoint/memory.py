"""Memory of a worker: what large images took goes back to the kernel with them."""

from __future__ import annotations

import ctypes

#: a float32 image of 5 channels at 224 px still comes from memory that is at hand; larger arrays get pages of their own
LARGE_BYTES = 1 << 20
#: <malloc.h>
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3


def give_back_large_arrays() -> None:
    """Arrays of `LARGE_BYTES` or more are given back to the kernel when they are freed, whatever was freed before.

    glibc raises its own limit, up to 32 MB, with every larger array that is freed. From then on arrays below it lie among small things that
    live on, and what the most unlucky moment of all threads took is never given back: requests whose headers announce large images, few of
    which come at once, let a service grow for hours. Other C libraries are left alone.
    """
    library = ctypes.CDLL(None)
    if hasattr(library, "mallopt"):
        library.mallopt(_M_MMAP_THRESHOLD, LARGE_BYTES)
        library.mallopt(_M_TRIM_THRESHOLD, 2 * LARGE_BYTES)

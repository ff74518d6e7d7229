"""Memory that is kept between batches: without it half of an extraction of large images is spent on fetching pages from the kernel."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager

#: <malloc.h>, with the C library's own defaults
M_TRIM_THRESHOLD, DEFAULT_TRIM_BYTES = -1, 128 * 1024
M_MMAP_MAX, DEFAULT_MMAPS = -4, 65_536
#: the largest number mallopt takes: nothing is given back
NEVER = 2**31 - 1


@contextmanager
def kept_memory() -> Iterator[None]:
    """What is freed stays with this process, and with those forked from it, for the next batch, which needs the same again.

    glibc gives every array above 32 MB back to the kernel when it is freed and gets it anew, page by page and zeroed, for the
    next one. The most that is held at a time stays what it is. At the end what is free is given back. Other C libraries are
    left alone.
    """
    library = ctypes.CDLL(None)
    if not hasattr(library, "mallopt"):
        yield
        return
    library.mallopt(M_MMAP_MAX, 0)
    library.mallopt(M_TRIM_THRESHOLD, NEVER)
    try:
        yield
    finally:
        library.mallopt(M_MMAP_MAX, DEFAULT_MMAPS)
        library.mallopt(M_TRIM_THRESHOLD, DEFAULT_TRIM_BYTES)
        library.malloc_trim(0)

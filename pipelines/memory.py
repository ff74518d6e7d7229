"""Memory of batches: kept from one to the next, without which half of an extraction of large images is spent on fetching pages from the
kernel, and for a card where the card can read it by itself.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np

from registry.arrays import PixelBatch

#: (n, c, y, x) to float32 of that shape, not initialised
MakeBatch = Callable[[tuple[int, ...]], PixelBatch]

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


def memory_for(device: str) -> MakeBatch:
    """What makes the array of a batch for a device ("cpu", or "cuda:" and the card's name)."""
    return _on_the_heap if device == "cpu" else _page_locked


def _on_the_heap(shape: tuple[int, ...]) -> PixelBatch:
    return np.empty(shape, np.float32)


def _page_locked(shape: tuple[int, ...]) -> PixelBatch:
    """A card copies from it several times as fast; torch keeps what is freed for the next batch."""
    import torch

    made: PixelBatch = torch.empty(shape, dtype=torch.float32, pin_memory=True).numpy()
    return made

"""Memory of a worker: what large images took goes back to the kernel after them."""

from __future__ import annotations

import ctypes
import gc
import threading

#: what the worst moment took is kept this long at most; the pages of some tens of MB are fetched anew in milliseconds
EVERY_S = 10.0
#: <malloc.h>: how many heaps the threads of a process share
M_ARENA_MAX = -8


def one_heap() -> None:
    """All threads of this process take memory from one heap; to be called before there are threads. Other C libraries than glibc are left alone.

    glibc gives every few threads a heap of their own. Whatever lives on lies scattered over all of them, and holds pages of each.
    """
    library = ctypes.CDLL(None)
    if hasattr(library, "mallopt"):
        library.mallopt(M_ARENA_MAX, 1)


def give_back_from_now_on() -> None:
    """Give memory that is free back to the kernel every few seconds, in a thread that ends with the process; to be called when all is loaded.

    glibc keeps what is freed among small things that live on, and raises its own limit of what it keeps with every larger array that is freed.
    What the most unlucky moment of all threads took would never be given back: requests whose headers announce large images, few of which come
    at once, let a service grow for hours. Giving every large array back when it is freed would cost a busy service page faults in every
    batch.

    What refers to itself, as a parsed TIFF does, is free only when it was looked for. What is loaded by now is left out of that: it stays, and
    nobody is answered while the search goes through it.
    """
    gc.collect()
    gc.freeze()
    if hasattr(ctypes.CDLL(None), "malloc_trim"):
        threading.Thread(target=_keep_giving_back, name="memory", daemon=True).start()


def give_back() -> None:
    """Free what only refers to itself, and give memory that is free back to the kernel; C libraries other than glibc are left alone."""
    gc.collect()
    library = ctypes.CDLL(None)
    if hasattr(library, "malloc_trim"):
        library.malloc_trim(0)


def _keep_giving_back() -> None:
    pause = threading.Event()
    while not pause.wait(EVERY_S):
        give_back()

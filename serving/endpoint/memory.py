"""Memory of a worker: what large images took goes back to the kernel after them."""

from __future__ import annotations

import ctypes
import threading

#: what the worst moment took is kept this long at most; the pages of some tens of MB are fetched anew in milliseconds
EVERY_S = 10.0


def give_back_from_now_on() -> None:
    """Give memory that is free back to the kernel every few seconds, in a thread that ends with the process.

    glibc keeps what is freed among small things that live on, and raises its own limit of what it keeps with every larger array that is freed.
    What the most unlucky moment of all threads took would never be given back: requests whose headers announce large images, few of which come
    at once, let a service grow for hours. Giving every large array back when it is freed would cost a busy service page faults in every
    batch.
    """
    if hasattr(ctypes.CDLL(None), "malloc_trim"):
        threading.Thread(target=_keep_giving_back, name="memory", daemon=True).start()


def give_back() -> None:
    """Give memory that is free back to the kernel; C libraries other than glibc are left alone."""
    library = ctypes.CDLL(None)
    if hasattr(library, "malloc_trim"):
        library.malloc_trim(0)


def _keep_giving_back() -> None:
    pause = threading.Event()
    while not pause.wait(EVERY_S):
        give_back()

"""What requests took goes back to the kernel, in a process of its own, whose memory nothing else touches."""

from __future__ import annotations

import subprocess
import sys

# Threads free a large array, which raises glibc's limit, then fill the heap with arrays between which something small lives on.
GROW = """
import os, sys, threading
import numpy as np
from serving.endpoint.memory import give_back

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

kept = []

def answer():
    np.ones(30_000_000, np.uint8)
    for _ in range(8):
        large = [np.ones(3_000_000, np.uint8), np.ones(1_000, np.uint8)]
        kept.append(large)

before = resident()
threads = [threading.Thread(target=answer) for _ in range(4)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
for large in kept:
    del large[0]
if sys.argv[1] == "given back":
    give_back()
print(resident() - before)
"""


def grown_by(how: str) -> int:
    result = subprocess.run([sys.executable, "-c", GROW, how], capture_output=True, text=True, check=True)
    return int(result.stdout)


def test_large_arrays_leave_nothing_behind() -> None:
    assert grown_by("as it is") > 50_000_000  # or else this shows nothing
    assert grown_by("given back") < 5_000_000


# glibc writes of each heap a line into what `malloc_info` says
HEAPS = """
import ctypes, sys, threading
from serving.endpoint.memory import one_heap

if sys.argv[1] == "one heap":
    one_heap()
library, together = ctypes.CDLL(None), threading.Barrier(4)
library.malloc.restype = library.fopen.restype = ctypes.c_void_p

def answer():
    together.wait()
    library.malloc(1000)
    together.wait()

threads = [threading.Thread(target=answer) for _ in range(4)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
stream = ctypes.c_void_p(library.fopen(b"/dev/stdout", b"w"))
library.malloc_info(0, stream)
library.fflush(stream)
"""


def heaps(how: str) -> int:
    result = subprocess.run([sys.executable, "-c", HEAPS, how], capture_output=True, text=True, check=True)
    return result.stdout.count("<heap nr=")


def test_threads_share_one_heap() -> None:
    assert heaps("as it is") > 1  # or else this shows nothing
    assert heaps("one heap") == 1


def test_what_refers_to_itself_is_freed_and_what_was_loaded_is_not_searched() -> None:
    said = subprocess.run([sys.executable, "-c", CYCLE], capture_output=True, text=True, check=True).stdout
    assert said.split() == ["kept", "gone", "True"]


# as a parsed TIFF is: its pages know the file, and the file its pages
CYCLE = """
import gc, time, weakref
import numpy as np
from serving.endpoint import memory

class File:
    pass

gc.disable()
file = File()
file.itself = file
known = weakref.ref(file)
del file
print("gone" if known() is None else "kept")
before = len(gc.get_objects())
memory.EVERY_S = 0.01
memory.give_back_from_now_on()
file = File()
file.itself = file
known = weakref.ref(file)
del file
deadline = time.monotonic() + 10
while known() is not None and time.monotonic() < deadline:
    time.sleep(0.01)
print("gone" if known() is None else "kept")
print(gc.get_freeze_count() > 0.9 * before)
"""

"""What large arrays took goes back to the kernel, in a process of its own, whose memory nothing else touches."""

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

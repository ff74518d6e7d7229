"""Work on several cores gives what one core gives, in the same order."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from pipelines.parallel import in_parallel, made_ahead
from registry.errors import BlankslideError


def test_results_come_in_order_from_other_processes() -> None:
    found = list(in_parallel(lambda number: (number**2, os.getpid()), range(6), 2))
    assert [square for square, _ in found] == [0, 1, 4, 9, 16, 25]
    assert os.getpid() not in {process for _, process in found}
    assert [square for square, _ in in_parallel(lambda number: (number**2, os.getpid()), range(6), 1)] == [0, 1, 4, 9, 16, 25]


def test_a_worker_that_is_killed_is_an_error_in_words() -> None:
    def die(number: int) -> int:
        if number == 1:
            os.kill(os.getpid(), 9)
        return number

    with pytest.raises(BlankslideError, match="ended from outside"):
        list(in_parallel(die, range(3), 2))


def test_the_next_item_is_made_while_the_one_before_is_in_use() -> None:
    second = threading.Event()

    def items() -> Iterator[int]:
        yield 1
        second.set()
        yield 2

    ahead = made_ahead(items())
    assert next(ahead) == 1
    assert second.wait(timeout=30)
    assert list(ahead) == [2]


def test_an_error_in_making_an_item_comes_after_the_items_before_it() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise ValueError("no second item")

    ahead = made_ahead(items())
    assert next(ahead) == 1
    with pytest.raises(ValueError, match="no second item"):
        next(ahead)


LATE = """
import sys
from pipelines.parallel import in_parallel
assert "scipy" not in sys.modules

def threads(_):
    import numpy, scipy.linalg
    from threadpoolctl import threadpool_info
    return sorted(library["num_threads"] for library in threadpool_info())

if __name__ == "__main__":
    # forked before this process loads it
    for workers in (2, 1):
        print(*[found for found in in_parallel(threads, range(2), workers)])
"""


def test_libraries_that_a_worker_loads_itself_take_one_thread_too() -> None:
    """SciPy brings linear algebra of its own, and loads it at the first use."""
    done = subprocess.run([sys.executable, "-c", LATE], capture_output=True, text=True, check=True)
    counts = re.findall(r"\d+", done.stdout)
    assert len(counts) >= 4
    assert set(counts) == {"1"}

"""Independent pieces of work on several cores, results in order."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

A = TypeVar("A")
B = TypeVar("B")


def in_parallel(function: Callable[[A], B], items: Sequence[A], workers: int) -> Iterator[B]:
    """Yield `function(item)` for each item, in order, on `workers` forked processes (in this one if there is no gain).

    Forked workers share what is already imported and read; each limits its numerical libraries to one thread, so results do
    not depend on the number of workers.
    """
    if workers <= 1 or len(items) <= 1:
        from threadpoolctl import threadpool_limits

        with threadpool_limits(1):
            for item in items:
                yield function(item)
        return
    with multiprocessing.get_context("fork").Pool(min(workers, len(items)), initializer=_limit_this_process) as pool:
        yield from pool.imap(function, items)


def _limit_this_process() -> None:
    from threadpoolctl import threadpool_limits

    threadpool_limits(1)

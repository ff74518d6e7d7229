"""Independent pieces of work on several cores: forked processes that inherit everything they need, so that only results travel."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any, TypeVar

from registry.errors import BlankslideError

A = TypeVar("A")
B = TypeVar("B")

#: <linux/prctl.h>: the signal a process gets when its parent dies
PR_SET_PDEATHSIG = 1
#: where numerical libraries read how many threads they may take
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
#: what a worker process was forked with; empty in the parent
_inherited: list[tuple[Callable[[Any], Any], Sequence[Any]]] = []


def in_parallel(function: Callable[[A], B], items: Sequence[A], workers: int) -> Iterator[B]:
    """Yield `function(item)` for each item, in order, on `workers` forked processes (in this one if there is no gain).

    Function and items are inherited, never pickled; results are pickled. Each worker limits its numerical libraries to one
    thread, so results do not depend on the number of workers. Workers end with their parent, however it ends.

    Raises:
        BlankslideError: a worker was ended from outside.
    """
    if workers <= 1 or len(items) <= 1:
        with one_thread():
            for item in items:
                yield function(item)
        return
    pool = ProcessPoolExecutor(
        min(workers, len(items)),
        mp_context=multiprocessing.get_context("fork"),
        initializer=_inherit,
        initargs=(os.getpid(), function, items),
    )
    try:
        yield from pool.map(_do, range(len(items)))
    except BrokenProcessPool as error:
        raise BlankslideError(
            "A worker process was ended from outside, most often because memory ran out. What was finished is kept: run the same command again."
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def made_ahead(items: Iterator[A]) -> Iterator[A]:
    """The same items in the same order; a thread makes each of them while the one before it is in use."""
    nothing = object()
    with ThreadPoolExecutor(1, thread_name_prefix="ahead") as pool:
        following = pool.submit(next, items, nothing)
        while (item := following.result()) is not nothing:
            following = pool.submit(next, items, nothing)
            yield item  # type: ignore[misc]  # not `nothing`


def threaded(function: Callable[[A], B], items: Iterable[A], threads: int) -> Iterator[B]:
    """Yield `function(item)` for each item, in order, on several threads; at most three items per thread are taken ahead of use."""
    waiting: deque[Future[B]] = deque()
    pool = ThreadPoolExecutor(threads, thread_name_prefix="worker")
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            while len(waiting) >= 3 * threads or (waiting and waiting[0].done()):
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _inherit(parent: int, function: Callable[[Any], Any], items: Sequence[Any]) -> None:
    _inherited[:] = [(function, items)]
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)
    _limit_to_one_thread()


@contextmanager
def one_thread() -> Iterator[None]:
    """Numerical libraries of this process on one thread."""
    # torch keeps a count of its own; formulas import it only if one of them needs it
    torch = sys.modules.get("torch")
    before = torch.get_num_threads() if torch else 0
    stated = {name: os.environ.get(name) for name in THREADS}
    limits = _limit_to_one_thread()
    try:
        yield
    finally:
        limits.restore_original_limits()
        for name, value in stated.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        if torch:
            torch.set_num_threads(before)


def _limit_to_one_thread() -> Any:
    """From now on; returns threadpoolctl's handle that undoes it for all libraries but torch."""
    from threadpoolctl import threadpool_limits

    # libraries that load later, as SciPy's own linear algebra does, read how many threads to take when they load
    os.environ.update(dict.fromkeys(THREADS, "1"))
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)
    return threadpool_limits(1)


def _do(number: int) -> Any:
    function, items = _inherited[0]
    return function(items[number])

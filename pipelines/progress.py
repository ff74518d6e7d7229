"""Lines on stderr that say how far a long piece of work is and how long it will take."""

from __future__ import annotations

import multiprocessing
import sys
import time


class Progress:
    """Counts what is done and prints a line at most every few seconds; forked processes count together.

    Args:
        what: the work, as the beginning of each line ("culture/simclr").
        total: things to do.
        thing: what they are ("images").
        every_s: seconds between lines.
        at_end: also say when everything is done, however short it took.
    """

    def __init__(self, what: str, total: int, thing: str, every_s: float = 5.0, at_end: bool = True) -> None:
        self.what, self.total, self.thing, self.every_s, self.at_end = what, total, thing, every_s, at_end
        self._before = 0
        self._start_s = time.monotonic()
        shared = multiprocessing.get_context("fork")
        self._done = shared.Value("q", 0)
        self._printed_s = shared.Value("d", self._start_s)

    def skip(self, count: int) -> None:
        """Note things that were done before; they do not count towards the speed."""
        self._before += count

    def advance(self, count: int, note: str = "") -> None:
        """Note things done now; prints when a line is due or everything is done."""
        with self._done.get_lock():
            self._done.value += count
            done, now_s = self._done.value, time.monotonic()
            finished = self.at_end and self._before + done >= self.total
            if now_s - self._printed_s.value < self.every_s and not finished:
                return
            self._printed_s.value = now_s
        rate = done / max(now_s - self._start_s, 1e-9)
        left_s = max(self.total - self._before - done, 0) / max(rate, 1e-9)
        print(
            f"{self.what}: {self._before + done} of {self.total} {self.thing}{note}, {rate:.3g} {self.thing}/s, {left_s:.0f} s left",
            file=sys.stderr,
            flush=True,
        )

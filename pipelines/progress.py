"""Lines on stderr that say how far a long piece of work is and how long it will take."""

from __future__ import annotations

import sys
import time


class Progress:
    """Counts what is done and prints a line at most every few seconds.

    Args:
        what: the work, as the beginning of each line ("culture/simclr").
        total: things to do.
        thing: what they are ("images").
        every_s: seconds between lines.
    """

    def __init__(self, what: str, total: int, thing: str, every_s: float = 5.0) -> None:
        self.what, self.total, self.thing, self.every_s = what, total, thing, every_s
        self.done = 0
        self._counted = 0
        self._start_s = self._last_s = time.monotonic()

    def skip(self, count: int) -> None:
        """Note things that were done before; they do not count towards the speed."""
        self.done += count

    def advance(self, count: int, note: str = "") -> None:
        """Note things done now; prints when a line is due or everything is done."""
        self.done += count
        self._counted += count
        now_s = time.monotonic()
        if now_s - self._last_s >= self.every_s or self.done >= self.total:
            self._last_s = now_s
            rate = self._counted / max(now_s - self._start_s, 1e-9)
            left_s = (self.total - self.done) / max(rate, 1e-9)
            print(
                f"{self.what}: {self.done} of {self.total} {self.thing}{note}, {rate:.3g} {self.thing}/s, {left_s:.0f} s left",
                file=sys.stderr,
                flush=True,
            )

"""When a client sends a request again and how long it waits before: one rule for every client. Nothing here sends or waits.

Scoring changes nothing in the service, so a request that may or may not have arrived can be sent again.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from http import HTTPStatus

import httpx

from registry.errors import ParamsError

#: the service (or a proxy before it) is there and cannot answer now; any other answer is final
REFUSED_FOR_NOW = (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.BAD_GATEWAY, HTTPStatus.SERVICE_UNAVAILABLE)
#: no answer, and nothing that says that the request is still worked on, as a timeout would
BROKEN = (httpx.ConnectError, httpx.ConnectTimeout, httpx.ReadError, httpx.WriteError, httpx.CloseError, httpx.RemoteProtocolError)


@dataclass(frozen=True)
class Came:
    """An answer, read whole.

    Attributes:
        status: HTTP status.
        headers: their names in any case.
        body: the bytes, decompressed.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True)
class Retries:
    """How long a client goes on.

    Attributes:
        unanswered: most tries while nobody answers (connection refused, reset, or closed before the answer).
        total_s: no try begins later than this after the first; until then a service that refuses for now (429, 502, 503) is asked again.
        first_s: about how long is waited before the second try; then twice as long each time.
        longest_s: longest wait that is the client's own choice; the service's `Retry-After` may be longer.
        chance: gives numbers in [0, 1): waits differ, so that clients that were refused together do not come back together.
    """

    unanswered: int = 6
    total_s: float = 300.0
    first_s: float = 0.25
    longest_s: float = 20.0
    chance: Callable[[], float] = field(default=random.random, compare=False)

    def __post_init__(self) -> None:
        if self.unanswered < 1 or not (self.total_s >= 0 and self.first_s > 0 and self.longest_s > 0):
            raise ParamsError(f"Expected at least one try and waits above 0 s, got {self}.")


#: one try, whatever comes
ONCE = Retries(unanswered=1, total_s=0.0)


class Tries:
    """The tries of one request.

    Args:
        retries: how long to go on.
        clock: seconds that only go forward.
    """

    def __init__(self, retries: Retries, clock: Callable[[], float]) -> None:
        self._retries = retries
        self._clock = clock
        self._start_s = clock()
        self._waits = 0
        self._broken = 0

    def wait_s(self, came: Came | httpx.TransportError) -> float | None:
        """Seconds to wait before the next try; None if this outcome is final."""
        if isinstance(came, Came):
            return self.refused(retry_after_s(came.headers)) if came.status in REFUSED_FOR_NOW else None
        self._broken += 1
        return self.refused(None) if isinstance(came, BROKEN) and self._broken < self._retries.unanswered else None

    def refused(self, asked_s: float | None) -> float | None:
        """Seconds to wait after a refusal, at least `asked_s`; None if the next try would begin too late."""
        rule, chance = self._retries, self._retries.chance()
        own = min(rule.longest_s, rule.first_s * 2 ** min(self._waits, 60)) * (0.5 + 0.5 * chance)
        wait = own if asked_s is None else asked_s + rule.first_s * chance
        self._waits += 1
        return wait if self.spent_s + wait <= rule.total_s else None

    @property
    def spent_s(self) -> float:
        """Seconds since before the first try."""
        return self._clock() - self._start_s

    def end_s(self, timeout_s: float) -> float:
        """When, by the clock, the last possible try must have been answered."""
        return self._start_s + self._retries.total_s + timeout_s

    def __str__(self) -> str:
        return f"tried {self._waits + 1} times in {self.spent_s:.0f} s" if self._waits else ""


def retry_after_s(headers: Mapping[str, str], now: Callable[[], float] = time.time) -> float | None:
    """Seconds that `Retry-After` asks for, as a number or as a date (RFC 9110, 10.2.3); None without one that can be read."""
    text = headers.get("retry-after", "").strip()
    try:
        seconds = float(text)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(text).timestamp() - now()
        except (ValueError, OverflowError):  # a year beyond all numbers of the clock
            return None
    return max(seconds, 0.0) if math.isfinite(seconds) else None

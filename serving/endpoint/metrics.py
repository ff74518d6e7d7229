"""What the endpoint counts, under Prometheus names; correct across its processes.

With several processes the supervisor sets `PROMETHEUS_MULTIPROC_DIR` before a worker starts: each writes files of its own
there, and whichever process is asked adds them up. Every label is one of the service's own names, never a word of a request.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections import defaultdict, deque
from collections.abc import Iterable
from pathlib import Path

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

#: read by prometheus_client when it is imported
MULTIPROCESS = "PROMETHEUS_MULTIPROC_DIR"
CONTENT_TYPE = CONTENT_TYPE_LATEST
#: instead of a path that is none of the service's
UNKNOWN = "unknown"
#: events of a kind and model that are known as counted: more than follow on each other while one process loads a bundle
KEPT = 64
_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_IMAGES = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0)


class Metrics:
    """The counters of one endpoint."""

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        self._requests = Counter(
            "blankslide_requests",
            "Requests by the status of their answer; 499: the client hung up before its body was whole. Route unknown: no such path, or refused"
            " before one was read: no HTTP, endless or late headers, a connection too many.",
            ("route", "status"),
            registry=registry,
        )
        self._seconds = Histogram(
            "blankslide_request_seconds", "From a request's headers to the end of its answer.", ("route",), buckets=_SECONDS, registry=registry
        )
        self._stages = Histogram(
            "blankslide_stage_seconds",
            "Of a request: read (its body); of an image: wait (in the queue), decode; of a batch: embed (the encoder), score (controls, heads).",
            ("model", "stage"),
            buckets=_SECONDS,
            registry=registry,
        )
        self._batches = Histogram("blankslide_batch_images", "Images in one pass.", ("model",), buckets=_IMAGES, registry=registry)
        self._queue = Gauge("blankslide_queue_images", "Images that wait.", ("model",), multiprocess_mode="livesum", registry=registry)
        self._refused = Counter("blankslide_images_refused", "Images not taken.", ("model", "reason"), registry=registry)
        self._swaps = Counter(
            "blankslide_bundle_swaps",
            "Other bundles put in the place of a served one, each once however many processes serve it; not counted: new evidence for the same.",
            ("model",),
            registry=registry,
        )
        self._bad = Counter(
            "blankslide_bundles_refused",
            "Bundles not served, each once however many processes refuse it; the one before goes on.",
            ("model",),
            registry=registry,
        )
        self._counted: dict[str, deque[str]] = defaultdict(lambda: deque(maxlen=KEPT))

    def request(self, route: str, status: int, seconds: float) -> None:
        """Count a request by the path template that answered it."""
        self._requests.labels(route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def unread(self, status: int) -> None:
        """Count what its connection refused before it was a request."""
        self._requests.labels(UNKNOWN, str(status)).inc()

    def stage(self, model: str, stage: str, seconds: float) -> None:
        """Time one stage."""
        self._stages.labels(model, stage).observe(seconds)

    def batch(self, model: str, images: int) -> None:
        """Count a pass."""
        self._batches.labels(model).observe(images)

    def queued(self, model: str, change: int) -> None:
        """Images that came into the queue, or left it."""
        self._queue.labels(model).inc(change)

    def refused(self, model: str, reason: str, images: int) -> None:
        """Count images that were not taken."""
        self._refused.labels(model, reason).inc(images)

    def swapped(self, model: str, event: str) -> None:
        """Count a bundle that took the place of another, unless another process has; `event` is the same in all of them and of no other time."""
        if self._first(f"swapped {model}", event):
            self._swaps.labels(model).inc()

    def bad_bundle(self, model: str, event: str) -> None:
        """Count a bundle that was not served, as `swapped`."""
        if self._first(f"refused {model}", event):
            self._bad.labels(model).inc()

    def _first(self, kind: str, event: str) -> bool:
        """Whether no process of the service has counted this event of a kind: the first makes a file of that name.

        The files of the last events are kept: one process may still load what others have replaced again.
        """
        if not (folder := os.environ.get(MULTIPROCESS)):
            known = self._counted[kind]
            if event in known:
                return False
            known.append(event)
            return True
        of_kind, of_event = (hashlib.sha256(word.encode()).hexdigest()[:32] for word in (kind, event))
        try:
            Path(folder, f"{of_kind}-{of_event}.counted").touch(exist_ok=False)
        except FileExistsError:
            return False
        _keep_newest(Path(folder).glob(f"{of_kind}-*.counted"))
        return True

    def text(self) -> bytes:
        """In Prometheus' text format: of all processes where there are several."""
        if not os.environ.get(MULTIPROCESS):
            return generate_latest(self._registry)
        together = CollectorRegistry()
        MultiProcessCollector(together)  # type: ignore[no-untyped-call]  # prometheus_client types all but this
        return generate_latest(together)


def _keep_newest(markers: Iterable[Path]) -> None:
    """Remove all but the last `KEPT`; another process may be doing the same."""
    dated = []
    for marker in markers:
        with contextlib.suppress(FileNotFoundError):
            dated.append((marker.stat().st_mtime_ns, marker))
    for _, marker in sorted(dated)[:-KEPT]:
        marker.unlink(missing_ok=True)

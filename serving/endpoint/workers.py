"""The processes of an endpoint: workers that answer, and the supervisor that keeps them."""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import signal
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from time import monotonic
from types import FrameType
from typing import TYPE_CHECKING

import uvicorn
from starlette.types import ASGIApp

from registry.errors import BlankslideError, BundleError, InputError, ParamsError, ProviderError
from serving.endpoint.logs import log_json_lines
from serving.endpoint.memory import give_back_from_now_on, one_heap
from serving.endpoint.protocol import protocol_of
from serving.live import Live
from serving.live import names as live_names
from serving.scoring import Scorer
from serving.settings import Settings

if TYPE_CHECKING:
    from serving.endpoint.served import ServedModels

#: as `serving.endpoint.metrics.MULTIPROCESS`: the supervisor must not import what reads it
_METRICS = "PROMETHEUS_MULTIPROC_DIR"
#: a worker that has answered and lived this long had started well
STABLE_S = 10.0
LONGEST_PAUSE_S = 30.0
#: after the drain
KILL_S = 5.0
#: errors that a worker passes on, the more special first; not every error survives the way between processes
REFUSALS: dict[str, type[BlankslideError]] = {kind.__name__: kind for kind in (BundleError, ProviderError, ParamsError, InputError, BlankslideError)}
log = logging.getLogger("blankslide.supervisor")


@dataclass(frozen=True)
class Plan:
    """What every worker does.

    Attributes:
        bundles: bundle directories, and what is known of the evidence of each.
        settings: limits and provider.
        url: where the service is reached.
        live: folder in which a follower points to bundles; None if nothing is followed.
    """

    bundles: list[tuple[Path, str]]
    settings: Settings
    url: str
    live: Path | None = None


@dataclass
class Worker:
    """One process, and the connection on which it says how far it is."""

    process: BaseProcess
    said: Connection
    since: float
    ready: bool = False


def server_of(app: ASGIApp, settings: Settings) -> uvicorn.Server:
    """A server for one process; requests in flight may take `settings.drain_s` when it ends."""
    config = uvicorn.Config(
        app,
        loop="uvloop",
        http=protocol_of(settings),
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=max(1, round(settings.drain_s)),
    )
    return uvicorn.Server(config)


def supervise(plan: Plan, listener: socket.socket, count: int, say: Callable[[str], None]) -> None:
    """Run `count` workers on `listener` until SIGINT or SIGTERM.

    Raises:
        BundleError, ProviderError, ParamsError, InputError: a worker could not start, for the reason it gives.
        ProviderError: also where a worker ended without a word before it was ready.
    """
    log_json_lines()
    with _metrics_folder(), _stopping() as stop:
        workers: list[Worker] = []
        try:
            for number in range(count):
                workers.append(_started(plan, listener))
                if not number:
                    _until_ready(workers[0], say, stop)  # one that is refused is refused once
            for worker in workers[1:]:
                _until_ready(worker, lambda _line: None, stop)
            names = f"{count} process{'es' if count > 1 else ''} of {plan.settings.cores} thread{'s' if plan.settings.cores > 1 else ''}"
            say(f"Serving on {plan.url} with {names}. Page and examples: {plan.url}/docs. Stop with Ctrl-C.")
            _keep(workers, plan, listener, stop)
        finally:
            listener.close()
            _end(workers, plan.settings.drain_s)
    say("The service has stopped.")


def _keep(workers: list[Worker], plan: Plan, listener: socket.socket, stop: threading.Event) -> None:
    """Replace workers that end, at once if they had started well, each on its own: one that cannot start delays no other."""
    due: dict[int, float] = {}
    pauses = [0.0] * len(workers)
    while not stop.is_set():
        wait([worker.process.sentinel for i, worker in enumerate(workers) if i not in due], timeout=0.2)
        for i, worker in enumerate(workers):
            if i not in due and not worker.process.is_alive():
                reason = _last_words(worker)
                _forget(worker)
                pauses[i] = 0.0 if worker.ready and monotonic() - worker.since > STABLE_S else min(LONGEST_PAUSE_S, 2 * pauses[i] + 0.5)
                due[i] = monotonic() + pauses[i]
                facts = {"pid": worker.process.pid, "status": worker.process.exitcode, "reason": reason, "again_in_s": pauses[i]}
                log.error("worker ended", extra={"facts": facts})
            if i in due and monotonic() >= due[i] and not stop.is_set():
                del due[i]
                workers[i] = _started(plan, listener)


def _started(plan: Plan, listener: socket.socket) -> Worker:
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=work, args=(plan, listener, there), name="worker")
    process.start()
    there.close()
    return Worker(process, here, monotonic())


def _until_ready(worker: Worker, say: Callable[[str], None], stop: threading.Event) -> None:
    while not stop.is_set():
        if not worker.said.poll(0.2):
            continue
        try:
            kind, text = worker.said.recv()
        except (EOFError, OSError) as error:
            worker.process.join()
            raise ProviderError(f"A worker ended with status {worker.process.exitcode} before it was ready; its log says why.") from error
        if kind == "ready":
            worker.ready = True
            return
        if kind in REFUSALS:
            raise REFUSALS[kind](text)
        say(text)


def _last_words(worker: Worker) -> str:
    """Why a worker that has ended could not start; "" if it did not say."""
    reason = ""
    with contextlib.suppress(EOFError, OSError):
        while worker.said.poll():
            kind, text = worker.said.recv()
            worker.ready |= kind == "ready"
            reason = text if kind in REFUSALS else reason
    return reason


def _forget(worker: Worker) -> None:
    """Take a dead worker's gauges out of the sums."""
    from prometheus_client.multiprocess import mark_process_dead

    worker.said.close()
    if worker.process.pid is not None:
        mark_process_dead(worker.process.pid, os.environ[_METRICS])  # type: ignore[no-untyped-call]  # prometheus_client types all but this


def _end(workers: list[Worker], drain_s: float) -> None:
    for worker in workers:
        worker.process.terminate()
    deadline = monotonic() + drain_s + KILL_S
    for worker in workers:
        worker.process.join(max(0.0, deadline - monotonic()))
        if worker.process.is_alive():
            worker.process.kill()
            worker.process.join()


@contextmanager
def _metrics_folder() -> Iterator[None]:
    """A folder in which the workers of this service count."""
    before = os.environ.get(_METRICS)
    with tempfile.TemporaryDirectory(prefix="blankslide-metrics-") as folder:
        os.environ[_METRICS] = folder
        try:
            yield
        finally:
            if before is None:
                del os.environ[_METRICS]
            else:
                os.environ[_METRICS] = before


@contextmanager
def _stopping() -> Iterator[threading.Event]:
    """An event that SIGINT and SIGTERM set."""
    stop = threading.Event()

    def end(_number: int, _frame: FrameType | None) -> None:
        stop.set()

    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.signal(number, end) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


# ---------------------------------------------------------------------------------------------- in the worker


class _Announcing(uvicorn.Server):
    """Says when it answers."""

    def __init__(self, config: uvicorn.Config, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn's, then say so."""
        await super().startup(sockets)
        if self.started:
            self._ready()


def work(plan: Plan, listener: socket.socket, said: Connection) -> None:
    """One worker's life: load, check, answer until it is told to end or its supervisor is gone."""
    # Ctrl-C reaches the whole group: the supervisor decides what it means
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    log_json_lines()
    one_heap()
    try:
        app = app_of(plan, lambda line: said.send(("said", line)))
    except BlankslideError as error:
        said.send((next(name for name, known in REFUSALS.items() if isinstance(error, known)), str(error)))
        return
    server = _Announcing(server_of(app, plan.settings).config, lambda: said.send(("ready", "")))
    give_back_from_now_on()
    threading.Thread(target=_end_with_supervisor, args=(server, said), name="supervisor-watch", daemon=True).start()
    server.run(sockets=[listener])


def app_of(plan: Plan, say: Callable[[str], None]) -> ASGIApp:
    """The application of a plan: its bundles and what is followed, verified and loaded.

    Raises:
        BundleError, ProviderError, ParamsError: a bundle cannot be served.
    """
    from serving.endpoint.app import create_app
    from serving.endpoint.watching import Watch, watching

    root = plan.live
    live = {} if root is None else {name: Live.read(root, name) for name in live_names(root)}
    followed = [] if root is None else [(pointer.bundle(root), pointer.evidence) for pointer in live.values()]
    scorers = opened(plan.settings, [*plan.bundles, *followed], say)
    if root is None:
        return create_app(scorers, plan.settings, plan.url)

    def beside(models: ServedModels) -> AbstractAsyncContextManager[None]:
        return watching(Watch(models, root, partial(open_bundle, plan.settings), live), plan.settings.poll_s)

    return create_app(scorers, plan.settings, plan.url, beside)


def open_bundle(settings: Settings, bundle: Path, evidence: str) -> Scorer:
    """One bundle, verified and loaded as the settings say."""
    return Scorer.open(bundle, settings.provider, settings.cores, settings.max_pixels, evidence, shared=settings.runners > 1)


def opened(settings: Settings, bundles: Sequence[tuple[Path, str]], say: Callable[[str], None]) -> list[Scorer]:
    """Several bundles with their evidence, verified and loaded; says of each how."""
    scorers = []
    for bundle, evidence in bundles:
        start = monotonic()
        scorer = open_bundle(settings, bundle, evidence)
        scorers.append(scorer)
        say(f"`{scorer.name}` {scorer.bundle.identity[:12]} on {settings.provider}: loaded in {monotonic() - start:.1f} s, {scorer.checked}.")
        if scorer.evidence.startswith("stale"):
            say(f"`{scorer.name}`: the scores and verdicts it quotes are {scorer.evidence}. Run `blankslide rescore`.")
    return scorers


def _end_with_supervisor(server: uvicorn.Server, said: Connection) -> None:
    with contextlib.suppress(EOFError, OSError):
        said.recv()
    server.should_exit = True

"""Running the ONNX endpoint: processes that answer on one port, watched by one that does not.

The supervisor opens the port, starts the workers and waits until each has loaded its bundles and checked their golden
images; it prints where the service is, starts a worker again that has died, and passes SIGTERM on. A worker accepts
connections itself from the shared port, so one that dies takes only its own requests with it.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from time import monotonic

import uvicorn
from starlette.types import ASGIApp

from registry.errors import ParamsError, ProviderError
from serving.endpoint.workers import Plan, server_of, supervise
from serving.scoring import UNCHECKED, Scorer
from serving.settings import Settings

HOST = "127.0.0.1"


def serve(
    bundles: Sequence[Path],
    host: str = HOST,
    port: int = 8000,
    settings: Settings | None = None,
    say: Callable[[str], None] = print,
    evidence: Mapping[Path, str] | None = None,
    live: Path | None = None,
) -> None:
    """Serve bundles until SIGINT or SIGTERM; requests in flight are finished.

    Args:
        bundles: bundle directories, one per name.
        host: loopback unless told otherwise; any other address needs a token.
        port: 0 chooses a free one.
        settings: limits and provider; from the environment unless given.
        say: prints a line for people.
        evidence: what is known of the evidence of a bundle, in words; one that is missing was not checked.
        live: folder in which a follower points to bundles (`serving.live`); they are served too, and replaced when it points elsewhere.

    Raises:
        BundleError: a bundle is altered, incomplete, cannot be served, or does not compute what it should on this machine.
        ProviderError: the provider asked for is not there.
        ParamsError: the port is taken, the token cannot be used, there is none and others reach the port, or the environment's settings are wrong.
    """
    settings = settings or Settings.from_environment()
    settings.check_address(host)
    known = evidence or {}
    with _bound(host, port) as listener:
        url = _url(host, listener)
        plan = Plan([(bundle, known.get(bundle, UNCHECKED)) for bundle in bundles], settings, url, live)
        supervise(plan, listener, settings.workers, say)


@contextmanager
def running(scorers: Sequence[Scorer], settings: Settings | None = None) -> Iterator[str]:
    """Serve on a free loopback port from a thread of this process; yields the URL and stops at the end of the block."""
    from serving.endpoint.app import create_app

    settings = settings or Settings()
    with answering(lambda url: create_app(scorers, settings, url), settings) as url:
        yield url


@contextmanager
def answering(make: Callable[[str], ASGIApp], settings: Settings) -> Iterator[str]:
    """As `running`, for an application that is made when its URL is known."""
    with _bound(HOST, 0) as listener:
        url = _url(HOST, listener)
        server = server_of(make(url), settings)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, name="onnx-endpoint")
        thread.start()
        try:
            _wait_until_started(server, thread)
            yield url
        finally:
            server.should_exit = True
            thread.join()


def _wait_until_started(server: uvicorn.Server, thread: threading.Thread, patience_s: float = 30.0) -> None:
    deadline = monotonic() + patience_s
    while not server.started:
        if not thread.is_alive() or monotonic() > deadline:
            raise ProviderError(f"The endpoint did not start within {patience_s:g} s; its log says why.")
        thread.join(0.01)


@contextmanager
def _bound(host: str, port: int) -> Iterator[socket.socket]:
    """A bound socket: the port is known, and known to be free, before minutes go into loading models."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
        except OSError as error:
            raise ParamsError(
                f"Cannot listen on {host}:{port} ({error.strerror}). Choose another with `--port`, or `--port 0` for a free one."
            ) from error
        yield listener


def _url(host: str, listener: socket.socket) -> str:
    name = f"[{host}]" if ":" in host else host
    return f"http://{name}:{listener.getsockname()[1]}"

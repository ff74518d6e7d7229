"""The follower as a process beside a server: started with it, started again if it dies, ended with it.

A server's process holds no MLflow; what it is given of the follower is a folder (`serving.live`).
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from pipelines.follow import name_followed
from registry.errors import BundleError, ParamsError, StoreError
from serving.live import Refusal, clear_refusal, names, pointer_path
from serving.settings import PREFIX

_STOP_S = 10.0
_RESTART_S = 5.0


@contextmanager
def followed(
    references: Sequence[str], root: Path, options: Sequence[str] = (), arguments: Sequence[str] = (), say: Callable[[str], None] = print
) -> Iterator[None]:
    """Follow references into a folder while the block runs; it is entered when there is a pointer for each.

    SIGTERM ends the block as SystemExit does: a server passes on the signal that stopped it, and what was started here must end too.

    Args:
        references: `NAME` or `NAME@ALIAS`; a name once.
        root: of pointers and bundles.
        options: of `blankslide` before the command.
        arguments: of `blankslide follow`, such as `--tracking-uri URI`.
        say: prints a line for people.

    Raises:
        ParamsError: a name twice, or a version instead of an alias.
        BundleError: what a reference names is refused, and there is nothing older.
        StoreError: the follower ended before there was anything to serve.
    """
    followed_names = [name_followed(reference) for reference in references]
    if len(set(followed_names)) < len(followed_names):
        raise ParamsError(f"Expected names that differ, got {', '.join(references)}. A server serves each name once.")
    for name in followed_names:
        if not pointer_path(root, name).is_file():
            # of an earlier server: it must not be taken for an answer of now
            clear_refusal(root, name)
    ours = ["--into", str(root), "--while", str(os.getpid()), *arguments]
    process = _Process([sys.executable, "-m", "pipelines.cli", *options, "follow", *references, *ours], say)
    before = signal.signal(signal.SIGTERM, _end)
    try:
        process.start()
        _wait_for_pointers(root, followed_names, process, say)
        process.keep()
        yield
    finally:
        process.stop()
        signal.signal(signal.SIGTERM, before)


def _end(number: int, _frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


def _wait_for_pointers(root: Path, wanted: Sequence[str], process: _Process, say: Callable[[str], None]) -> None:
    waiting, told = list(wanted), False
    while waiting := [name for name in waiting if name not in names(root)]:
        for name in waiting:
            if (refusal := Refusal.read(root, name)) is not None:
                raise BundleError(refusal.reason)
        if (status := process.status()) is not None:
            raise StoreError(f"The follower ended with status {status} before there was anything to serve; its lines above say why.")
        if not told:
            say(f"Waiting for the registry: {', '.join(f'`{name}`' for name in waiting)}.")
            told = True
        time.sleep(0.1)


class _Process:
    """A follower in a session of its own: a terminal's Ctrl-C does not reach it, and it ends as a whole."""

    def __init__(self, command: Sequence[str], say: Callable[[str], None]) -> None:
        self._command = list(command)
        self._say = say
        self._stopping = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None
        self._keeper: threading.Thread | None = None

    def start(self) -> None:
        self._process = subprocess.Popen(self._command, env=_environment(os.environ), stdin=subprocess.DEVNULL, start_new_session=True)

    def status(self) -> int | None:
        """The exit status; None while it runs."""
        return self._process.poll() if self._process else None

    def keep(self) -> None:
        """Start it again when something ended it, from a thread; not when it says itself that it cannot be (status 2)."""
        self._keeper = threading.Thread(target=self._restart, name="follower", daemon=True)
        self._keeper.start()

    def stop(self) -> None:
        """End it and whatever it started."""
        self._stopping.set()
        if self._keeper is not None:
            self._keeper.join()
        if self._process is None:
            return
        self._process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_STOP_S)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def _restart(self) -> None:
        while not self._stopping.wait(0.5):
            status = self.status()
            if status == 2:
                self._say("The follower cannot go on, its lines above say why; what is served stays and nothing follows the registry.")
                return
            if status is not None:
                self._say(f"The follower ended with status {status}; what is served stays, it is started again.")
                if not self._stopping.wait(_RESTART_S):
                    self.start()


def _environment(caller: Mapping[str, str]) -> dict[str, str]:
    """The caller's without the server's settings, with this code first on the path."""
    kept = {name: value for name, value in caller.items() if not name.startswith(PREFIX)}
    code = str(Path(__file__).resolve().parents[1])
    return kept | {"PYTHONPATH": os.pathsep.join(filter(None, [code, caller.get("PYTHONPATH", "")]))}

"""A follower that is killed at a chosen moment, as a process of a test."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

from pipelines import follow
from pipelines.follow import Follower
from registry.store import Store
from serving.live import Live
from tests.registry import workers

#: loading them is what takes time: a fork server that preloads this module has done so
__all__ = ["step_and_die", "workers"]


def _die(*_arguments: Any, **_named: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def step_and_die(uri: str, reference: str, root: str, moment: str) -> None:
    """One look that ends, uncaught, after the fetch ("rename") or after the rename ("pointer")."""
    if moment == "rename":
        follow.sync_tree = _die
    else:
        Live.write = _die
    with Follower(lambda: Store(uri), reference, Path(root)) as follower:
        follower.step()

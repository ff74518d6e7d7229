"""Settings of a service: the environment is read here and nowhere else in `serving`."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from registry.errors import ParamsError

PREFIX = "BLANKSLIDE_SERVE_"
#: of clients
TOKEN = "BLANKSLIDE_TOKEN"
PROVIDERS = ("cpu", "cuda", "tensorrt")
#: more cores than this are shared by several processes: one interpreter decodes and answers for no more
CORES_PER_PROCESS = 8
#: a shorter token can be guessed
MIN_TOKEN = 16


def is_loopback(host: str) -> bool:
    """Whether an address is of this machine alone."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def available_cores() -> int:
    """Cores this process may run on, or fewer where its control group (a container, a systemd unit) has the time of fewer."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([allowed, *map(int, granted_cores())]))


def granted_cores(groups: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> Iterator[float]:
    """Limits of processor time, in cores, of a process's control group and those around it.

    Args:
        groups: where they are mounted.
        own: lists the groups of the process: `0::/path` of version 2, `4:cpu,cpuacct:/path` of version 1.
    """
    for line in _text(own).splitlines():
        kinds, _, path = line.partition(":")[2].partition(":")
        if kinds and "cpu" not in kinds.split(","):
            continue
        top = groups / "cpu" if kinds else groups
        parts = path.strip("/").split("/")
        # a path that is not below the mount, as a container may see it, leaves what is mounted itself
        for folder in {top.joinpath(*parts[:count]) for count in range(len(parts) + 1)}:
            if kinds:
                quota, period = _text(folder / "cpu.cfs_quota_us"), _text(folder / "cpu.cfs_period_us")
            else:
                quota, _, period = _text(folder / "cpu.max").partition(" ")
            # "max" or -1: as much as there is
            if quota.isdecimal() and period.isdecimal() and int(period):
                yield int(quota) / int(period)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return ""


@dataclass(frozen=True)
class Settings:
    """How a service runs; each field can be set by `BLANKSLIDE_SERVE_<FIELD>`.

    Attributes:
        provider: "cpu", "cuda" or "tensorrt"; the one asked for is used or the service does not start.
        processes: that answer requests, each with networks of its own; 0 = one on a device, else one for every `CORES_PER_PROCESS` cores.
        threads: per process and network; 0 = the cores of the process.
        max_batch: most images in one pass; 0 = 8 on the CPU, 32 on a device.
        queue_length: images that may wait per model and process; what does not fit is answered 429.
        max_images: images of one request, and tiles of one image.
        max_body_bytes: largest request body.
        max_bodies_bytes: bodies of all requests that are in memory at a time, per process; what does not fit is answered 429. 0 = eight of
            the largest.
        max_pixels: largest image, over all channels.
        max_connections: open at a time, per process; others are answered 429.
        body_timeout_s: headers, or a body, that take longer to arrive are refused; an answer that takes longer to be read is given up.
        answer_timeout_s: an image that takes longer is given up.
        drain_s: requests in flight may take this long after the service is told to stop.
        poll_s: how often a followed bundle is looked at.
        token: every request must carry it; "" = none asked for, on loopback only.
        token_file: a file that holds the token, instead.
    """

    provider: str = "cpu"
    processes: int = 0
    threads: int = 0
    max_batch: int = 0
    queue_length: int = 256
    max_images: int = 64
    max_body_bytes: int = 64 * 2**20
    max_bodies_bytes: int = 0
    max_pixels: int = 64_000_000
    max_connections: int = 512
    body_timeout_s: float = 30.0
    answer_timeout_s: float = 60.0
    drain_s: float = 10.0
    poll_s: float = 1.0
    token: str = field(default="", repr=False)
    token_file: str = ""

    def __post_init__(self) -> None:
        if self.provider not in PROVIDERS:
            raise ParamsError(f"Expected `provider` to be one of {', '.join(PROVIDERS)}, got `{self.provider}`.")
        for name in (
            *("queue_length", "max_images", "max_body_bytes", "max_pixels", "max_connections"),
            *("body_timeout_s", "answer_timeout_s", "drain_s", "poll_s"),
        ):
            if not getattr(self, name) > 0:
                raise ParamsError(f"Expected `{name}` above 0, got {getattr(self, name)}.")
        for name in ("processes", "threads", "max_batch", "max_bodies_bytes"):
            if getattr(self, name) < 0:
                raise ParamsError(f"Expected `{name}` to be 0 (chosen for the machine) or more, got {getattr(self, name)}.")
        if self.queue_length < self.max_images:
            raise ParamsError(
                f"Expected `queue_length` of at least `max_images`, got {self.queue_length} and {self.max_images}:"
                " a request of that many images could never be taken."
            )
        if self.bodies_bytes < self.max_body_bytes:
            raise ParamsError(
                f"Expected `max_bodies_bytes` of at least `max_body_bytes`, got {self.max_bodies_bytes} and {self.max_body_bytes}:"
                " the largest body could never be taken."
            )
        if self.token and self.token_file:
            raise ParamsError("Expected `token` or `token_file`, got both.")

    @property
    def workers(self) -> int:
        """Processes in numbers."""
        return self.processes or (1 if self.provider != "cpu" else max(1, available_cores() // CORES_PER_PROCESS))

    @property
    def cores(self) -> int:
        """Threads of one process in numbers."""
        return self.threads or max(1, available_cores() // self.workers)

    @property
    def runners(self) -> int:
        """Threads of one process that take images; two on a device, so that one decodes while the other computes."""
        return self.cores if self.provider == "cpu" else 2

    @property
    def batch(self) -> int:
        """Most images of one pass in numbers."""
        return self.max_batch or (8 if self.provider == "cpu" else 32)

    @property
    def bodies_bytes(self) -> int:
        """Bodies that are in memory at a time, in bytes."""
        return self.max_bodies_bytes or 8 * self.max_body_bytes

    def secret(self) -> str:
        """The token, from wherever it is.

        Raises:
            ParamsError: the file cannot be read, holds none, or one that is shorter than 16 characters.
        """
        if not self.token_file:
            token, source = self.token, f"{PREFIX}TOKEN"
        else:
            source = self.token_file
            try:
                token = Path(self.token_file).read_text(encoding="utf-8").strip()
            except (OSError, UnicodeDecodeError) as error:
                raise ParamsError(f"The token's file `{self.token_file}` cannot be read ({type(error).__name__}).") from error
            if not token:
                raise ParamsError(f"The token's file `{self.token_file}` is empty.")
        if token and (len(token) < MIN_TOKEN or not token.isascii() or not token.isprintable() or " " in token):
            raise ParamsError(
                f"Expected a token of at least {MIN_TOKEN} printable ASCII characters without spaces in `{source}`. Make one with"
                " `python -c 'import secrets; print(secrets.token_urlsafe(32))'`."
            )
        return token

    def check_address(self, host: str) -> None:
        """Refuse a token that cannot be used, and to listen beyond this machine without one.

        Raises:
            ParamsError: as `secret`; `host` is not loopback and there is no token.
        """
        token = self.secret()
        if not is_loopback(host) and not token:
            raise ParamsError(
                f"`{host}` can be reached from other machines, and there is no token."
                f" Set {PREFIX}TOKEN or {PREFIX}TOKEN_FILE, or listen on 127.0.0.1."
            )

    def as_environment(self) -> dict[str, str]:
        """For a process that reads them again; secrets are left out."""
        return {f"{PREFIX}{f.name.upper()}": str(getattr(self, f.name)) for f in fields(self) if f.name not in ("token", "token_file")}

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> Settings:
        """Read `BLANKSLIDE_SERVE_*`; an unknown name or a value that cannot be cast is refused.

        Args:
            environment: `os.environ` unless given.
        """
        given = {name: value for name, value in (environment if environment is not None else os.environ).items() if name.startswith(PREFIX)}
        casts: dict[str, tuple[str, type[str] | type[int] | type[float]]] = {
            f"{PREFIX}{f.name.upper()}": (f.name, {"str": str, "int": int, "float": float}[str(f.type)]) for f in fields(cls)
        }
        unknown = sorted(set(given) - set(casts))
        if unknown:
            raise ParamsError(
                f"The environment sets {', '.join(f'`{name}`' for name in unknown)}. Known: {', '.join(f'`{name}`' for name in casts)}."
            )
        values: dict[str, Any] = {}
        for name, text in given.items():
            field_name, cast = casts[name]
            try:
                values[field_name] = cast(text)
            except ValueError as error:
                raise ParamsError(f"Expected `{name}` to be of type {cast.__name__}, got `{text}`.") from error
        return cls(**values)


def token_from_environment(environment: Mapping[str, str] | None = None) -> str:
    """The token a client shows, from `BLANKSLIDE_TOKEN`; "" where it is not set.

    Args:
        environment: `os.environ` unless given.
    """
    return (environment if environment is not None else os.environ).get(TOKEN, "")

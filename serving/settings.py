"""Settings of a service: the environment is read here and nowhere else in `serving`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from registry.errors import ParamsError

PREFIX = "BLANKSLIDE_SERVE_"
PROVIDERS = ("cpu", "cuda")


def available_cores() -> int:
    """Cores this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(frozen=True)
class Settings:
    """How a service runs; each field can be set by `BLANKSLIDE_SERVE_<FIELD>`.

    Attributes:
        provider: "cpu" or "cuda"; the one asked for is used or the service does not start.
        threads: ONNX Runtime threads per network; 0 = the cores of the process.
        max_body_bytes: largest request body.
        max_pixels: largest image, over all channels.
        body_timeout_s: a body that takes longer to arrive is refused.
        drain_s: requests in flight may take this long after the service is told to stop.
    """

    provider: str = "cpu"
    threads: int = 0
    max_body_bytes: int = 64 * 2**20
    max_pixels: int = 64_000_000
    body_timeout_s: float = 30.0
    drain_s: float = 10.0

    def __post_init__(self) -> None:
        if self.provider not in PROVIDERS:
            raise ParamsError(f"Expected `provider` to be one of {', '.join(PROVIDERS)}, got `{self.provider}`.")
        for name in ("max_body_bytes", "max_pixels", "body_timeout_s", "drain_s"):
            if not getattr(self, name) > 0:
                raise ParamsError(f"Expected `{name}` above 0, got {getattr(self, name)}.")
        if self.threads < 0:
            raise ParamsError(f"Expected `threads` to be 0 (all cores) or more, got {self.threads}.")

    @property
    def cores(self) -> int:
        """Threads in numbers."""
        return self.threads or available_cores()

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> Settings:
        """Read `BLANKSLIDE_SERVE_*`; an unknown name or a value that cannot be cast is refused.

        Args:
            environment: `os.environ` unless given.
        """
        given = {name: value for name, value in (environment if environment is not None else os.environ).items() if name.startswith(PREFIX)}
        casts: dict[str, tuple[str, type[str] | type[int] | type[float]]] = {
            f"{PREFIX}{field.name.upper()}": (field.name, {"str": str, "int": int, "float": float}[str(field.type)]) for field in fields(cls)
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

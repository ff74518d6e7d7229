"""The service's log: one JSON object per line on standard error."""

from __future__ import annotations

import logging
import sys
import traceback
import warnings
from datetime import UTC, datetime
from typing import Any, TextIO

import orjson

#: whose words are logged
OURS = ("blankslide", "uvicorn")
#: these say what is strange about an image, and quote it: what matters of that is in the request's answer
READERS = ("tifffile", "PIL")


class JsonLines(logging.Formatter):
    """One JSON object per record: time, level, logger, message, and the record's `facts`."""

    def format(self, record: logging.LogRecord) -> str:
        """A line."""
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            **self.said(record),
        }
        return orjson.dumps(line, default=str).decode()

    def said(self, record: logging.LogRecord) -> dict[str, Any]:
        """Message, facts, and the traceback of an error."""
        facts: dict[str, Any] = getattr(record, "facts", {})
        line = {"message": record.getMessage(), **facts}
        return {**line, "traceback": self.formatException(record.exc_info)} if record.exc_info else line


class WithoutWords(JsonLines):
    """The same of what is not ours: who spoke and where, not what was said, which may quote an image."""

    def said(self, record: logging.LogRecord) -> dict[str, Any]:
        """The place instead of the message; of an error its kind and frames."""
        facts: dict[str, Any] = getattr(record, "facts", {})
        line = {"message": "said by a library, its words are left out", "at": f"{record.pathname}:{record.lineno}", **facts}
        if record.exc_info and record.exc_info[0] is not None:
            kind, _, frames = record.exc_info
            line |= {"kind": kind.__name__, "traceback": "".join(traceback.format_tb(frames))}
        return line


def log_json_lines(level: int = logging.INFO) -> None:
    """Send the service's records, and uvicorn's, to standard error as JSON lines; of what libraries warn of, only that they did."""
    for name in OURS:
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [_to_standard_error(JsonLines())], False
        logger.setLevel(level)
    for name in READERS:
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [logging.NullHandler()], False
        logger.setLevel(logging.CRITICAL)
    logging.getLogger().handlers = [_to_standard_error(WithoutWords())]
    warnings.showwarning = _warned


def _to_standard_error(formatter: logging.Formatter) -> logging.Handler:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter)
    return handler


def _warned(
    message: Warning | str,  # noqa: ARG001  # named as Python names them
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,  # noqa: ARG001
    line: str | None = None,  # noqa: ARG001
) -> None:
    """As Python's `warnings.showwarning`, which prints the message and a line of source."""
    logging.getLogger("py.warnings").warning("", extra={"facts": {"kind": category.__name__, "at": f"{filename}:{lineno}"}})

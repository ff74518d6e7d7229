"""The log of a real process: JSON, and nothing of an image, whoever speaks of it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx

from tests.serving.bundles import TinyBundle, tiff
from tests.serving.service import ROOT, service

SECRET = "Patient Jane Doe"
IMAGEJ = f"ImageJ=1.11a\nimages=3\nchannels=3\norder={SECRET}, MRN 12345\nhyperstack=true\n"


def lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_what_a_file_says_is_not_in_the_log(tiny: TinyBundle, tmp_path: Path) -> None:
    body = tiff(tiny.images[0], photometric="minisblack", description=IMAGEJ, metadata=None)
    with service(["--bundle", str(tiny.folder)], tmp_path / "log") as running:
        httpx.post(f"{running.url}/v1/score?model=tiny", content=body)
    text = running.log.read_text()
    assert "request" in {line["message"] for line in lines(text)}
    assert SECRET not in text


def said(code: str) -> str:
    """Standard error of a process that logs as the service does."""
    before = "import logging, warnings; from serving.endpoint.logs import log_json_lines; log_json_lines()\n"
    done = subprocess.run([sys.executable, "-c", before + code], cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stderr


def test_libraries_are_heard_without_their_words() -> None:
    text = said(
        f"""
logging.getLogger("somebody").warning("%s has no pixels", {SECRET!r})
warnings.warn({SECRET!r})
try:
    raise ValueError({SECRET!r})
except ValueError:
    logging.getLogger("somebody").exception({SECRET!r})
"""
    )
    assert SECRET not in text
    assert [(line["logger"], line["level"], line.get("kind")) for line in lines(text)] == [
        ("somebody", "warning", None),
        ("py.warnings", "warning", "UserWarning"),
        ("somebody", "error", "ValueError"),
    ]
    assert all("<string>:" in line["at"] for line in lines(text))
    assert "<string>" in lines(text)[2]["traceback"]


def test_readers_of_images_are_not_heard() -> None:
    assert said("for name in ('tifffile', 'PIL.Image'): logging.getLogger(name).error('Jane Doe')") == ""


def test_our_own_words_are() -> None:
    (line,) = lines(said("logging.getLogger('blankslide').info('request', extra={'facts': {'status': 200}})"))
    assert (line["message"], line["status"]) == ("request", 200)

"""The TorchServe door: bodies in, the Scorer's readings out. TorchServe wants exactly one class in this file."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from registry.errors import BlankslideError
from serving.archive import BUNDLE, unpack_bundle
from serving.errors import BodyKindError, status_of
from serving.schema import ErrorAnswer
from serving.scoring import Scorer
from serving.settings import Settings


class Handler:
    """One worker's Scorer."""

    def initialize(self, context: Any) -> None:
        """Unpack, verify and load the bundle of the archive that TorchServe unpacked."""
        settings = Settings.from_environment()
        # Workers of one model share its folder: each unpacks for itself.
        self._folder = tempfile.TemporaryDirectory(prefix="bundle-")
        unpack_bundle(Path(context.system_properties["model_dir"]) / BUNDLE, Path(self._folder.name))
        self.scorer = Scorer.open(Path(self._folder.name), settings.provider, settings.cores, settings.max_pixels)

    def handle(self, data: list[dict[str, Any]], context: Any) -> list[str]:
        """One reading (or error) as JSON per request of the batch, in order."""
        bodies = [item.get("body", item.get("data")) for item in data]
        files = {i: bytes(body) for i, body in enumerate(bodies) if isinstance(body, (bytes, bytearray))}
        answers: dict[int, Any] = dict(zip(files, self.scorer.read_all(list(files.values())), strict=True))
        return [self._answer(answers.get(i), i, context) for i in range(len(data))]

    def _answer(self, answer: Any, index: int, context: Any) -> str:
        context.set_response_content_type(index, "application/json")
        if answer is None:
            answer = BodyKindError("Expected the bytes of an image file as the body, got another kind. Send it as `application/octet-stream`.")
        if not isinstance(answer, BlankslideError):
            return str(answer.model_dump_json())
        status = status_of(answer)
        context.set_response_status(code=int(status), idx=index, phrase=status.phrase)
        expected = self.scorer.expected.model_dump()
        return ErrorAnswer(error=str(answer), kind=type(answer).__name__, status=status, expected=expected).model_dump_json()

"""The TorchServe door: bodies in, the Scorer's readings out. TorchServe wants exactly one class in this file."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from registry.bundle import Bundle
from registry.errors import BlankslideError, InputError
from serving.archive import BUNDLE, inside_of, unpack_bundle
from serving.embedders import EmbedderKind, OnnxEmbedder
from serving.errors import BodyKindError, status_of
from serving.schema import ErrorAnswer
from serving.scoring import Scorer
from serving.settings import Settings


class Handler:
    """One worker's Scorer."""

    def initialize(self, context: Any) -> None:
        """Unpack, verify and load the bundle of the archive that TorchServe unpacked."""
        settings, archive = Settings.from_environment(), Path(context.system_properties["model_dir"])
        # Workers of one model share its folder: each unpacks for itself.
        self._folder = tempfile.TemporaryDirectory(prefix="bundle-")
        folder = Path(self._folder.name)
        bundle = unpack_bundle(archive / BUNDLE, folder)
        kind = _torch(bundle, settings) if inside_of(archive) == "torch" else OnnxEmbedder
        self.scorer = Scorer.open(folder, settings.provider, settings.cores, settings.max_pixels, kind=kind)

    def handle(self, data: list[dict[str, Any]], context: Any) -> list[str]:
        """One reading (or error) as JSON per request of the batch, in order."""
        bodies = {i: _body(item) for i, item in enumerate(data)}
        files = {i: body for i, body in bodies.items() if isinstance(body, bytes)}
        answers: dict[int, Any] = {**bodies, **dict(zip(files, self.scorer.read_all(list(files.values())), strict=True))}
        return [self._answer(answers[i], i, context) for i in range(len(data))]

    def _answer(self, answer: Any, index: int, context: Any) -> str:
        context.set_response_content_type(index, "application/json")
        if not isinstance(answer, BlankslideError):
            return str(answer.model_dump_json())
        status = status_of(answer)
        context.set_response_status(code=int(status), idx=index, phrase=status.phrase)
        expected = self.scorer.expected.model_dump()
        return ErrorAnswer(error=str(answer), kind=type(answer).__name__, status=status, expected=expected).model_dump_json()


def _torch(bundle: Bundle, settings: Settings) -> EmbedderKind:
    """Torch as what runs the networks, once it has given the embeddings of ONNX Runtime on this machine; torch is imported only here."""
    from serving.torch_embedder import TorchEmbedder, check_torch

    check_torch(bundle, settings.provider, settings.cores)
    return TorchEmbedder


def _body(item: dict[str, Any]) -> bytes | InputError:
    """The image of one request. TorchServe gives the body, or the parts of a form, by name; parameters of the address it drops."""
    if len(item) > 1 or not item.keys() <= {"body", "data"}:
        came = ", ".join(f"`{name[:40]}`" for name in sorted(item))
        return InputError(
            f"Expected one image as the body or as the form's part `data`, and nothing else, got {came}."
            " Several images and fields are for the ONNX endpoint: `blankslide serve NAME`."
        )
    body = next(iter(item.values()), None)
    if isinstance(body, (bytes, bytearray)):
        return bytes(body)
    return BodyKindError("Expected the bytes of an image file as the body, got another kind. Send it as `application/octet-stream`.")

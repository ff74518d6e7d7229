"""Typed clients of both doors."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

import httpx
from pydantic import BaseModel, ValidationError

from serving.errors import ServiceError
from serving.schema import EmbeddingAnswer, ErrorAnswer, Health, Models, Reading

Answer = TypeVar("Answer", bound=BaseModel)


class Client:
    """Talks to one endpoint; close it, or use it in a `with` block.

    Args:
        url: for example "http://127.0.0.1:8000".
        timeout_s: for each request as a whole phase: connecting, sending, waiting.

    Every method raises `ServiceError` with the service's own words when it refuses or does not answer.
    """

    def __init__(self, url: str, timeout_s: float = 60.0) -> None:
        self.url = url.rstrip("/")
        self._http = httpx.Client(base_url=self.url, timeout=timeout_s)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def health(self) -> Health:
        """Whether the service is ready."""
        return self._ask(Health, "GET", "/healthz")

    def models(self) -> Models:
        """The served models."""
        return self._ask(Models, "GET", "/v1/models")

    def embed(self, model: str, image: bytes | Path) -> EmbeddingAnswer:
        """The embedding of one image file, given as its bytes or its path."""
        return self._ask(EmbeddingAnswer, "POST", "/v1/embed", model, image)

    def score(self, model: str, image: bytes | Path) -> Reading:
        """The reading of one image file, given as its bytes or its path."""
        return self._ask(Reading, "POST", "/v1/score", model, image)

    def _ask(self, kind: type[Answer], method: str, path: str, model: str = "", image: bytes | Path | None = None) -> Answer:
        params = {"model": model} if model else None
        return _answer(kind, self._http, self._http.build_request(method, path, params=params, content=_bytes(image)))


class TorchServeClient:
    """Talks to one TorchServe that serves archives of bundles; errors as `Client`.

    Args:
        url: of its inference interface, for example "http://127.0.0.1:8080".
        token: its inference token.
        timeout_s: as `Client`.
    """

    def __init__(self, url: str, token: str, timeout_s: float = 60.0) -> None:
        self.url = url.rstrip("/")
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/octet-stream"}
        self._http = httpx.Client(base_url=self.url, timeout=timeout_s, headers=headers)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._http.close()

    def score(self, model: str, image: bytes | Path) -> Reading:
        """The reading of one image file, given as its bytes or its path."""
        return _answer(Reading, self._http, self._http.build_request("POST", f"/predictions/{model}", content=_bytes(image)))


def _bytes(image: bytes | Path | None) -> bytes | None:
    return image.read_bytes() if isinstance(image, Path) else image


def _answer(kind: type[Answer], http: httpx.Client, request: httpx.Request) -> Answer:
    try:
        response = http.send(request)
    except httpx.HTTPError as error:
        message = f"No answer from {request.url} ({type(error).__name__}). Start the service with `blankslide serve NAME`, or check the URL."
        raise ServiceError(message, 0) from error
    try:
        if response.is_success:
            return kind.model_validate_json(response.content)
        raise ServiceError(ErrorAnswer.model_validate_json(response.content).error, response.status_code)
    except ValidationError as error:
        came = " ".join(response.text.split())[:200]
        message = f"{request.url} answered {response.status_code}, expected `{kind.__name__}` of schema 1, got: {came or 'nothing'}."
        raise ServiceError(message, response.status_code) from error

"""The ONNX endpoint: HTTP in, the Scorer's answer out.

The process that runs it holds no torch, no MLflow and no DVC: it is given bundles.
"""

from __future__ import annotations

import asyncio
import io
from collections.abc import Sequence
from importlib import metadata, resources
from typing import Annotated, Any

import numpy as np
from fastapi import FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from registry.errors import BlankslideError, BundleError, ImageError, InputError, NotFoundError
from serving.errors import BodyKindError, BodyTimeoutError, BodyTooLargeError, status_of
from serving.schema import EmbeddingAnswer, ErrorAnswer, Health, Models, Reading
from serving.scoring import Scorer
from serving.settings import Settings

DEFAULT_URL = "http://127.0.0.1:8000"
_ENCODINGS_READ = ("", "identity")
_BODY = {
    "description": "The bytes of the image file.",
    "required": True,
    "content": {
        kind: {"schema": {"type": "string", "format": "binary"}} for kind in ("application/octet-stream", "image/tiff", "image/png", "image/jpeg")
    },
}
_ERRORS: dict[int | str, dict[str, Any]] = {
    400: {"model": ErrorAnswer, "description": "A parameter is missing."},
    404: {"model": ErrorAnswer, "description": "No such model; lists those there are."},
    408: {"model": ErrorAnswer, "description": "The body did not arrive in time."},
    413: {"model": ErrorAnswer, "description": "The body is too large."},
    415: {"model": ErrorAnswer, "description": "The body is compressed or wrapped in a form."},
    422: {"model": ErrorAnswer, "description": "The body is not the image the model takes: says what was expected and what came."},
}
_PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; img-src data:",
    "X-Content-Type-Options": "nosniff",
}
ModelName = Annotated[str, Query(description="Name of a served model, see `/v1/models`.")]


def create_app(scorers: Sequence[Scorer], settings: Settings | None = None, url: str = DEFAULT_URL) -> FastAPI:
    """The application for one or several bundles.

    Args:
        scorers: opened and checked against their golden images; their names must differ.
        settings: limits; the defaults unless given.
        url: where it will be reached, for the examples in the OpenAPI document.

    Raises:
        BundleError: no scorer, or two of one name.
    """
    settings = settings or Settings()
    models = {scorer.name: scorer for scorer in scorers}
    if not models or len(models) < len(scorers):
        raise BundleError(f"Expected bundles of different names, got {[scorer.name for scorer in scorers]}. Serve each name once.")
    app = FastAPI(
        title="Blankslide",
        version=metadata.version("blankslide"),
        summary="Embeds and scores microscopy images, each answer beside those of its controls.",
        description="Send the bytes of an image file as the body. `/docs` is a page on which this can be tried.",
        servers=[{"url": url}],
        docs_url=None,
        redoc_url=None,
        telemetry={"tracing": False},
    )
    _add_error_handlers(app, models)
    _add_information(app, models, url)
    _add_scoring(app, models, settings, url)
    return app


def _find(models: dict[str, Scorer], name: str) -> Scorer:
    if name not in models:
        raise NotFoundError("served model", name, models)
    return models[name]


def _sample(*lines: str) -> dict[str, Any]:
    """An example for the OpenAPI document: shell lines that run as they stand."""
    return {"x-codeSamples": [{"lang": "Shell", "source": "\n".join(lines)}]}


def _add_scoring(app: FastAPI, models: dict[str, Scorer], settings: Settings, url: str) -> None:
    first = next(iter(models))
    fetch = f"curl -sSf '{url}/v1/example?model={first}' -o example.npy"

    def operation(path: str) -> dict[str, Any]:
        return {"requestBody": _BODY, **_sample(fetch, f"curl -sSf --data-binary @example.npy '{url}{path}?model={first}'")}

    @app.post("/v1/embed", responses=_ERRORS, openapi_extra=operation("/v1/embed"), tags=["images"])
    async def embed(request: Request, model: ModelName) -> EmbeddingAnswer:
        """The embedding of one image."""
        scorer = _find(models, model)
        return await run_in_threadpool(scorer.embed, await read_body(request, settings))

    @app.post("/v1/score", responses=_ERRORS, openapi_extra=operation("/v1/score"), tags=["images"])
    async def score(request: Request, model: ModelName) -> Reading:
        """The reading of one image: embedding, probabilities beside those of twin and control, verdict, distance to known data."""
        scorer = _find(models, model)
        return await run_in_threadpool(scorer.read, await read_body(request, settings))

    @app.get(
        "/v1/example",
        response_class=Response,
        responses={200: {"content": {"application/octet-stream": {}}, "description": "An npy file."}, 404: _ERRORS[404]},
        openapi_extra=_sample(fetch),
        tags=["images"],
    )
    def example(model: ModelName) -> Response:
        """A real image that the model takes, as an npy file."""
        image = _find(models, model).example()
        if image is None:
            raise NotFoundError("example image for model", model, [name for name, scorer in models.items() if scorer.example() is not None])
        stream = io.BytesIO()
        np.save(stream, image.pixels, allow_pickle=False)
        return Response(stream.getvalue(), media_type="application/octet-stream")


def _add_information(app: FastAPI, models: dict[str, Scorer], url: str) -> None:
    stale = {name: scorer.evidence for name, scorer in models.items() if scorer.evidence.startswith("stale")}
    health = Health(live=True, ready=True, models=list(models), stale=stale)
    page = resources.files("serving").joinpath("web", "index.html").read_text(encoding="utf-8")

    @app.get("/v1/models", openapi_extra=_sample(f"curl -sSf '{url}/v1/models'"), tags=["models"])
    def list_models() -> Models:
        """The served models: what each takes and which controls it is read beside."""
        return Models(models=[scorer.facts for scorer in models.values()])

    # Models are loaded and checked against their golden images before the port is opened: who answers is ready.
    @app.get("/health", openapi_extra=_sample(f"curl -sSf '{url}/health'"), tags=["health"])
    @app.get("/health/live", include_in_schema=False)
    @app.get("/health/ready", include_in_schema=False)
    def get_health() -> Health:
        """Whether the service runs and answers for all its models."""
        return health

    @app.get("/", include_in_schema=False)
    @app.get("/docs", include_in_schema=False)
    def get_page() -> HTMLResponse:
        return HTMLResponse(page, headers=_PAGE_HEADERS)


async def read_body(request: Request, settings: Settings) -> bytes:
    """The body of a request, bounded in size and time while it is read.

    Raises:
        BodyKindError: compressed or wrapped in a form.
        BodyTooLargeError: more than `settings.max_body_bytes`.
        BodyTimeoutError: not there after `settings.body_timeout_s`.
        InputError: empty.
    """
    encoding = request.headers.get("content-encoding", "").lower()
    if encoding not in _ENCODINGS_READ:
        raise BodyKindError(f"Expected the file's bytes as they are, got `Content-Encoding: {encoding}`. Send it uncompressed.")
    if request.headers.get("content-type", "").lower().startswith("multipart/"):
        raise BodyKindError("Expected the file's bytes as the body, got a multipart form. With curl: `--data-binary @FILE` instead of `-F`.")
    try:
        async with asyncio.timeout(settings.body_timeout_s):
            body = await _read_at_most(request, settings.max_body_bytes)
    except TimeoutError as error:
        raise BodyTimeoutError(f"Expected the body within {settings.body_timeout_s:g} s, it was not complete by then. Send it again.") from error
    if not body:
        raise InputError("Expected the bytes of an image file as the body, got none. With curl: `--data-binary @FILE`.")
    return body


async def _read_at_most(request: Request, limit: int) -> bytes:
    chunks, size = [], 0
    async for chunk in request.stream():
        size += len(chunk)
        if size <= limit:
            chunks.append(chunk)
            continue
        chunks.clear()
        # What still comes is dropped unread for a while: a client that sends all before it listens would
        # otherwise see a broken connection instead of the answer.
        if size > 2 * limit:
            break
    if size > limit:
        raise BodyTooLargeError(f"Expected a body of at most {limit} bytes, got more ({_announced(request)}). Crop the image or raise the limit.")
    return b"".join(chunks)


def _announced(request: Request) -> str:
    length = request.headers.get("content-length")
    return f"{length} announced" if length else "sent in chunks"


def _add_error_handlers(app: FastAPI, models: dict[str, Scorer]) -> None:
    def answer(status: int, kind: str, message: str, expected: dict[str, Any] | None = None) -> JSONResponse:
        return JSONResponse(ErrorAnswer(error=message, kind=kind, status=status, expected=expected).model_dump(), status)

    @app.exception_handler(BlankslideError)
    async def on_known(request: Request, error: BlankslideError) -> JSONResponse:
        expected = None
        if isinstance(error, ImageError):
            expected = models[request.query_params["model"]].expected.model_dump()
        elif isinstance(error, NotFoundError):
            expected = {"known": error.known}
        return answer(status_of(error), type(error).__name__, str(error), expected)

    @app.exception_handler(RequestValidationError)
    async def on_invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        fields = ", ".join(f"`{fault['loc'][-1]}`" for fault in error.errors())
        return answer(
            400, "ParamsError", f"Expected the query parameter {fields}, for example `?model={next(iter(models))}`.", {"known": list(models)}
        )

    @app.exception_handler(HTTPException)
    async def on_http(request: Request, error: HTTPException) -> JSONResponse:
        paths = sorted(app.openapi()["paths"])
        message = f"`{request.method} {request.url.path}` is not served ({error.detail}). There is: {', '.join(paths)}."
        return answer(error.status_code, "HTTPException", message, {"paths": paths})

    @app.exception_handler(Exception)
    async def on_unknown(_: Request, error: Exception) -> JSONResponse:
        return answer(500, type(error).__name__, "The service failed on this request; its log says where. Please report it.")

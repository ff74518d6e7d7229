"""The paths of the Open Inference Protocol, version 2: the same answers as `/v1`, for clients that speak in tensors.

https://github.com/kserve/open-inference-protocol
"""

from __future__ import annotations

from enum import Enum
from functools import partial
from importlib import metadata
from time import perf_counter
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse

from registry.errors import BlankslideError, NotFoundError
from serving.endpoint.batching import Batcher
from serving.endpoint.examples import Examples
from serving.endpoint.intake import read_body
from serving.endpoint.responses import BODY, NOT_FOUND, json_of, object_of
from serving.endpoint.served import ServedModels
from serving.endpoint.tensors import DATATYPES, EMBEDDING, HEADER_LENGTH, Inference, model_metadata, parse, respond, split
from serving.errors import BodyKindError
from serving.framing import WHOLE
from serving.scoring import Scorer
from serving.settings import Settings
from serving.sources import TensorSource

EXTENSIONS = ["binary_tensor_data"]
#: JSON of so many bytes is parsed sooner than a thread takes it over
SHORT_BYTES = 2**14
_REQUEST: dict[str, Any] = {
    "requestBody": {
        "description": "JSON; with `Inference-Header-Content-Length`, JSON and then the bytes of tensors. gzip is unpacked.",
        "required": True,
        "content": {
            "application/json": {"schema": {"type": "object"}},
            "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
        },
    }
}
_WORD: dict[str, Any] = {"type": "string"}
_YES: dict[str, Any] = {"type": "boolean"}
_WORDS: dict[str, Any] = {"type": "array", "items": _WORD}
_PARAMETERS: dict[str, Any] = {"type": "object", "additionalProperties": {"type": ["string", "number", "boolean"]}}
_SHAPE: dict[str, Any] = {"type": "array", "items": {"type": "integer"}}
_TENSOR = object_of(name=_WORD, datatype={"enum": list(DATATYPES.values())}, shape=_SHAPE)
_TENSOR["properties"]["parameters"] = _PARAMETERS
_TENSORS: dict[str, Any] = {"type": "array", "items": _TENSOR}
_NUMBERS: dict[str, Any] = {"type": "array", "items": {"type": "number"}, "description": "Row by row; left out where they follow as bytes."}
_OUTPUT: dict[str, Any] = {**_TENSOR, "properties": {**_TENSOR["properties"], "data": _NUMBERS}}
_SERVER = json_of("The server.", object_of(name=_WORD, version=_WORD, extensions=_WORDS))
_MODEL = json_of("The model.", object_of(name=_WORD, versions=_WORDS, platform=_WORD, inputs=_TENSORS, outputs=_TENSORS))
_ANSWER = object_of(model_name=_WORD, model_version=_WORD, parameters=_PARAMETERS, outputs={"type": "array", "items": _OUTPUT})
_ANSWER["properties"]["id"] = _WORD
_INFERRED = json_of("JSON; where outputs are asked for as bytes, JSON and then these.", _ANSWER)
_INFERRED[200]["content"]["application/octet-stream"] = {"schema": {"type": "string", "format": "binary"}}
_INFERRED[200]["headers"] = {HEADER_LENGTH: {"description": "Bytes of JSON before those of tensors.", "schema": {"type": "integer"}}}


def add_routes(app: FastAPI, models: ServedModels, settings: Settings, examples: Examples) -> None:
    """The protocol's paths below `/v2`."""
    tags: list[str | Enum] = ["Open Inference Protocol"]

    @app.get("/v2", responses=_SERVER, openapi_extra=examples.get("/v2"), tags=tags)
    def server_metadata() -> JSONResponse:
        """The server's name, version and extensions."""
        return JSONResponse({"name": "blankslide", "version": metadata.version("blankslide"), "extensions": EXTENSIONS})

    @app.get("/v2/health/live", responses=json_of("It runs.", object_of(live=_YES)), openapi_extra=examples.get("/v2/health/live"), tags=tags)
    def server_live() -> JSONResponse:
        """Whether the server runs."""
        return JSONResponse({"live": True})

    @app.get("/v2/health/ready", responses=json_of("It answers.", object_of(ready=_YES)), openapi_extra=examples.get("/v2/health/ready"), tags=tags)
    def server_ready() -> JSONResponse:
        """Whether all models answer: they are loaded and checked before the port is opened."""
        return JSONResponse({"ready": True})

    @app.get("/v2/models/{name}", responses={**_MODEL, **NOT_FOUND}, openapi_extra=examples.get(f"/v2/models/{examples.model}"), tags=tags)
    @app.get("/v2/models/{name}/versions/{version}", include_in_schema=False)
    def get_metadata(name: str, version: str = "") -> JSONResponse:
        """Tensors that a model takes and gives, and their labels."""
        return JSONResponse(model_metadata(_version(models, name, version)))

    ready = json_of("It answers.", object_of(name=_WORD, ready=_YES))

    @app.get("/v2/models/{name}/ready", responses={**ready, **NOT_FOUND}, openapi_extra=examples.get(f"/v2/models/{examples.model}/ready"), tags=tags)
    @app.get("/v2/models/{name}/versions/{version}/ready", include_in_schema=False)
    def model_ready(name: str, version: str = "") -> JSONResponse:
        """Whether a model answers."""
        return JSONResponse({"name": _version(models, name, version).name, "ready": True})

    @app.post("/v2/models/{name}/infer", responses={**_INFERRED, **BODY}, openapi_extra={**_REQUEST, **examples.infer()}, tags=tags)
    @app.post("/v2/models/{name}/versions/{version}/infer", include_in_schema=False)
    async def infer(request: Request, name: str, version: str = "") -> Response:
        """Embeddings and probabilities of a tensor of images."""
        _version(models, name, version)
        with models.bodies.room() as room:
            start = perf_counter()
            try:
                body = await read_body(request, settings, room, models.aside)
            except BodyKindError as error:
                raise BodyKindError(f"{str(error).removesuffix('.')}, or by gzip, which is read here.") from error
            models.metrics.stage(name, "read", perf_counter() - start)
            return await answered(*split(body, request.headers.get(HEADER_LENGTH)), name)

    async def parsed(head: bytes, rest: bytes, name: str) -> tuple[Batcher, Inference]:
        while True:
            batcher = models.batcher(name)
            work = partial(parse, head, rest, batcher.scorer, settings.max_images)
            inference = work() if len(head) <= SHORT_BYTES else await models.aside(work)
            # one that was replaced meanwhile takes no more, and the next may take other images
            if models.batcher(name) is batcher:
                return batcher, inference

    async def answered(head: bytes, rest: bytes, name: str) -> Response:
        batcher, inference = await parsed(head, rest, name)
        score = any(one.name != EMBEDDING for one in inference.wanted)
        sources = [TensorSource(pixels, f"image {i}") for i, pixels in enumerate(inference.pixels)]
        found = await batcher.answers(sources, WHOLE, score, settings.answer_timeout_s)
        answers = []
        for one in found:
            if isinstance(one.answer, BlankslideError):
                raise one.answer
            answers.append(one.answer)
        return respond(inference, answers, batcher.scorer)


def _version(models: ServedModels, name: str, version: str) -> Scorer:
    scorer = models.scorer(name)
    known = scorer.bundle.identity[:12]
    if version not in ("", known):
        raise NotFoundError(f"version of `{name}`", version[:80], [known])
    return scorer

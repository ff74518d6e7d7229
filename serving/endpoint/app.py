"""The ONNX endpoint: HTTP in, the Scorer's answer out.

The process that runs it holds no torch, no MLflow and no DVC: it is given bundles.
"""

from __future__ import annotations

import io
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from http import HTTPStatus
from importlib import metadata, resources
from time import perf_counter
from typing import Annotated, Any

import numpy as np
from fastapi import FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from registry.errors import BlankslideError, ImageError, InputError, NotFoundError
from serving.endpoint.access import OPEN, REQUEST_ID, Access, log
from serving.endpoint.answers import ARROW, ATTRIBUTION, NPY, Found, accepted, attribution_headers, error_answer, render, without_pictures
from serving.endpoint.examples import Examples
from serving.endpoint.intake import files_of, is_form, read_body
from serving.endpoint.metrics import CONTENT_TYPE, Metrics
from serving.endpoint.openinference import add_routes as add_open_inference
from serving.endpoint.protocol import RETRY_AFTER, UNREAD
from serving.endpoint.responses import BODY, FORMS, NOT_FOUND, complete
from serving.endpoint.served import ServedModels
from serving.errors import BodyKindError, OverloadedError, TooSlowError, status_of
from serving.framing import POLICIES, Framing
from serving.schema import Channels, EmbeddingAnswer, EmbeddingBatch, ErrorAnswer, Health, ModelPage, Models, Reading, ReadingBatch
from serving.scoring import Scorer
from serving.settings import Settings
from serving.sources import FileSource

DEFAULT_URL = "http://127.0.0.1:8000"
_BINARY = {"schema": {"type": "string", "format": "binary"}}
_OF_OTHERS = {
    "Link": {"description": '`<...>; rel="license"`: where the licence of the image is, if that is known.', "schema": {"type": "string"}},
    ATTRIBUTION: {"description": "Whose the image is and under which licence, as a JSON string.", "schema": {"type": "string"}},
}
_IMAGE = dict.fromkeys(("application/octet-stream", "image/tiff", "image/png", "image/jpeg"), _BINARY)
_FORM = {"schema": {"type": "object", "properties": {"image": {"type": "array", "items": {"type": "string", "format": "binary"}}}}}
_BODY = {"description": "The bytes of an image file.", "required": True, "content": _IMAGE}
_BODIES = {
    "description": "The bytes of an image file, or a form of several.",
    "required": True,
    "content": {**_IMAGE, "multipart/form-data": _FORM},
}
# nothing from elsewhere, nothing inline: what a file's name or a label says can never become code
_PAGE_POLICY = (
    "default-src 'none'",
    "style-src 'self'",
    "script-src 'self'",
    "connect-src 'self'",
    "img-src data:",
    "base-uri 'none'",
    "form-action 'none'",
    "frame-ancestors 'none'",
)
_PAGE_HEADERS = {"Content-Security-Policy": "; ".join(_PAGE_POLICY)}
ModelName = Annotated[str, Query(description="Name of a served model, see `/v1/models`.")]
Field = Annotated[
    str,
    Query(
        description="What is done with a field that is larger than the model's input: `refuse`, `grid` or `centres`.",
        json_schema_extra={"enum": list(POLICIES)},
    ),
]
Centres = Annotated[str, Query(description="With `field=centres`: `y,x;y,x` in pixels.")]
# not booleans: FastAPI would take `yes`, `1` and others for them
_YES_OR_NO = {"enum": ["true", "false"]}
Resample = Annotated[str, Query(description="`true`: an image of another pixel size is resampled to the model's.", json_schema_extra=_YES_OR_NO)]
Pictures = Annotated[
    str,
    Query(
        description="`false`: the nearest training images come without their pictures, which are most of the answer.", json_schema_extra=_YES_OR_NO
    ),
]
_DESCRIPTION = (
    "Send the bytes of an image file as the body. `/` is a page on which this can be tried."
    " `HEAD` is answered wherever `GET` is; any other method than those listed is answered 405, and `Allow` says which there are."
)
Lifespan = Callable[[ServedModels], AbstractAsyncContextManager[None]]


class Application(FastAPI):
    """FastAPI, with a document that says what this service says.

    Attributes:
        asks_for_token: whether it does.
    """

    asks_for_token = False

    def openapi(self) -> dict[str, Any]:
        """The OpenAPI document, made once."""
        if self.openapi_schema is None:
            self.openapi_schema = complete(super().openapi(), self.asks_for_token, OPEN)
        return self.openapi_schema


def create_app(scorers: Sequence[Scorer], settings: Settings | None = None, url: str = DEFAULT_URL, beside: Lifespan | None = None) -> FastAPI:
    """The application for one or several bundles.

    Args:
        scorers: opened and checked against their golden images; their names must differ.
        settings: limits; the defaults unless given.
        url: where it will be reached, for the examples in the OpenAPI document.
        beside: runs as long as the application, for example what replaces models.

    Raises:
        BundleError: no scorer, or two of one name.
    """
    settings = settings or Settings()
    metrics = Metrics()
    models = ServedModels(scorers, settings, metrics)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[dict[str, Any]]:
        # the server's connections have this too: they count what they refuse
        state = {UNREAD: metrics.unread}
        try:
            if beside is None:
                yield state
            else:
                async with beside(models):
                    yield state
        finally:
            models.close()

    token = settings.secret()
    app = Application(
        title="Blankslide",
        version=metadata.version("blankslide"),
        summary="Embeds and scores microscopy images, each answer beside those of its controls.",
        description=_DESCRIPTION,
        servers=[{"url": url}],
        # else `/v1/models/` leads to whatever `Host` says
        redirect_slashes=False,
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
        telemetry={"tracing": False},
    )
    app.asks_for_token = bool(token)
    app.add_middleware(Access, metrics=metrics, token=token)
    _add_error_handlers(app, models)
    examples = Examples(url, models.names[0], scorers[0].bundle.card.image, bool(token), given=not scorers[0].withheld)
    _add_information(app, models, examples)
    _add_scoring(app, models, settings, examples)
    _add_page(app)
    add_open_inference(app, models, settings, examples)
    return app


def _add_scoring(app: FastAPI, models: ServedModels, settings: Settings, examples: Examples) -> None:
    def described(path: str, one: type[Any], several: type[Any], kinds: Sequence[str]) -> dict[str, Any]:
        forms = dict.fromkeys(kinds, _BINARY)
        answer = {"description": f"`{one.__name__}`; of a form of several images, or of a field that is cut, `{several.__name__}`.", "content": forms}
        return {
            "responses": {200: {"model": one | several, **answer}, **BODY, **FORMS},
            "openapi_extra": {"requestBody": _BODIES, **examples.post(path)},
            "tags": ["images"],
        }

    async def answered(request: Request, model: str, framing: Framing, score: bool, pictures: bool = True) -> Response:
        kind = accepted(request.headers.get("accept", ""))
        models.scorer(model)  # before the body is read
        with models.bodies.room() as room:
            start = perf_counter()
            body = await read_body(request, settings, room)
            models.metrics.stage(model, "read", perf_counter() - start)
            return await of_body(request, body, model, framing, score, kind, pictures)

    async def of_body(request: Request, body: bytes, model: str, framing: Framing, score: bool, kind: str, pictures: bool) -> Response:
        form = is_form(request)
        sources = [FileSource(body)]
        if form:
            sources = await models.aside(lambda: files_of(body, request.headers["content-type"], settings.max_images))
        batcher = models.batcher(model)
        found: list[Found] = await batcher.answers(sources, framing, score, settings.answer_timeout_s)
        several = form or framing.policy != "refuse"
        if not form and len(found) == 1 and isinstance(found[0].answer, ImageError):
            raise found[0].answer
        return render(found if pictures else without_pictures(found), batcher.scorer.ref, kind, several, score)

    @app.post("/v1/embed", **described("/v1/embed", EmbeddingAnswer, EmbeddingBatch, (NPY, ARROW)))
    async def embed(request: Request, model: ModelName, field: Field = "refuse", centres: Centres = "", resample: Resample = "false") -> Response:
        """The embeddings of one image or several."""
        return await answered(request, model, Framing.parse(field, centres, resample, settings.max_images), score=False)

    @app.post("/v1/score", **described("/v1/score", Reading, ReadingBatch, (ARROW,)))
    async def score(
        request: Request,
        model: ModelName,
        field: Field = "refuse",
        centres: Centres = "",
        resample: Resample = "false",
        pictures: Pictures = "true",
    ) -> Response:
        """Readings: embedding, probabilities beside those of twin and control, verdict, distance to known data."""
        if pictures not in ("true", "false"):
            raise InputError(f"Expected `pictures` to be `true` or `false`, got `{pictures[:40]}`. Leave it out for `true`.")
        framing = Framing.parse(field, centres, resample, settings.max_images)
        return await answered(request, model, framing, score=True, pictures=pictures == "true")

    @app.post("/v1/channels", responses=BODY, openapi_extra={"requestBody": _BODY, **examples.post("/v1/channels")}, tags=["images"])
    async def channels(request: Request, model: ModelName) -> Channels:
        """Small grey pictures of an image's channels, for looking at; of any size."""
        scorer = models.scorer(model)
        if is_form(request):
            raise BodyKindError("Expected the bytes of one image file as the body, got a form. With curl: `--data-binary @FILE`.")
        with models.bodies.room() as room:
            source = FileSource(await read_body(request, settings, room))
            return await models.aside(lambda: scorer.channels(source))

    @app.get(
        "/v1/example",
        response_class=Response,
        responses={200: {"content": {"application/octet-stream": _BINARY}, "description": "An npy file.", "headers": _OF_OTHERS}, **NOT_FOUND},
        openapi_extra=examples.fetch(),
        tags=["images"],
    )
    def example(model: ModelName) -> Response:
        """A real image that the model takes, as an npy file, where the licence of the images allows that it is passed on."""
        scorer = models.scorer(model)
        image = scorer.example()
        if image is None:
            raise NotFoundError("example image for model", model, [s.name for s in models if not s.withheld], scorer.withheld)
        stream = io.BytesIO()
        np.save(stream, image.pixels, allow_pickle=False)
        return Response(stream.getvalue(), media_type="application/octet-stream", headers=attribution_headers(*scorer.example_terms))


def _add_information(app: FastAPI, models: ServedModels, examples: Examples) -> None:
    @app.get("/v1/models", openapi_extra=examples.get("/v1/models"), tags=["models"])
    def list_models() -> Models:
        """The served models: what each takes and which controls it is read beside."""
        return Models(models=[scorer.facts for scorer in models])

    @app.get("/v1/models/{name}", responses=NOT_FOUND, openapi_extra=examples.get(f"/v1/models/{models.names[0]}"), tags=["models"])
    def get_model(name: str) -> ModelPage:
        """One model: its card, its scorecard with every comparison, its verdicts, its licence."""
        return models.scorer(name).page

    # Models are loaded and checked against their golden images before the port is opened: who answers is ready.
    @app.get("/healthz", openapi_extra=examples.get("/healthz"), tags=["operations"])
    @app.get("/readyz", include_in_schema=False)
    def get_health() -> Health:
        """Whether the service runs and answers for all its models."""
        stale = {scorer.name: scorer.evidence for scorer in models if scorer.evidence.startswith("stale")}
        return Health(live=True, ready=True, models=models.names, stale=stale)

    text = {"description": "Prometheus' text format.", "content": {"text/plain": {"schema": {"type": "string"}}}}

    @app.get("/metrics", response_class=Response, responses={200: text}, openapi_extra=examples.get("/metrics"), tags=["operations"])
    def get_metrics() -> Response:
        """Counters and times in Prometheus' text format."""
        return Response(models.metrics.text(), media_type=CONTENT_TYPE)


def _add_page(app: FastAPI) -> None:
    kinds = {"index.html": "text/html", "page.css": "text/css", "page.js": "text/javascript"}
    files = {name: resources.files("serving.endpoint").joinpath("web", name).read_bytes() for name in kinds}

    def get(name: str) -> Callable[[], Response]:
        return lambda: Response(files[name], media_type=kinds[name], headers=_PAGE_HEADERS)

    for path, name in (("/", "index.html"), ("/docs", "index.html"), ("/page.css", "page.css"), ("/page.js", "page.js")):
        app.add_api_route(path, get(name), methods=["GET"], include_in_schema=False)


def _add_error_handlers(app: FastAPI, models: ServedModels) -> None:
    def answer(said: ErrorAnswer) -> JSONResponse:
        return JSONResponse(said.model_dump(), said.status)

    @app.exception_handler(BlankslideError)
    async def on_known(request: Request, error: BlankslideError) -> JSONResponse:
        expected, request_id = None, None
        if isinstance(error, ImageError) and request.query_params.get("model") in models.names:
            expected = models.scorer(request.query_params["model"]).expected.model_dump()
        elif isinstance(error, NotFoundError):
            expected = {"known": error.known}
        if status_of(error) == HTTPStatus.INTERNAL_SERVER_ERROR:
            request_id = request.scope[REQUEST_ID]
            log.error("request failed", exc_info=error, extra={"facts": {"id": request_id}})
        response = answer(error_answer(error, expected, request_id))
        if isinstance(error, OverloadedError | TooSlowError):
            response.headers["Retry-After"] = RETRY_AFTER
        return response

    @app.exception_handler(RequestValidationError)
    async def on_invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        fields = ", ".join(f"`{fault['loc'][-1]}`" for fault in error.errors())
        message = f"Expected the query parameter {fields}, for example `?model={models.names[0]}`."
        return answer(ErrorAnswer(error=message, kind="ParamsError", status=400, expected={"known": models.names}))

    @app.exception_handler(HTTPException)
    async def on_http(request: Request, error: HTTPException) -> JSONResponse:
        paths = sorted(app.openapi()["paths"])
        message = f"`{request.method} {request.url.path[:200]}` is not served ({error.detail}). There is: {', '.join(paths)}."
        response = answer(ErrorAnswer(error=message, kind="HTTPException", status=error.status_code, expected={"paths": paths}))
        for name, value in (error.headers or {}).items():
            response.headers[name] = f"{value}, HEAD" if (name, value) == ("Allow", "GET") else value
        return response

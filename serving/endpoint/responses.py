"""How the OpenAPI document describes answers, for every route: what comes from the routes, and what can come from around them."""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import Any

from serving.schema import ErrorAnswer

Responses = dict[int | str, dict[str, Any]]
_BEARER = "token"


def _said(text: str, **headers: str) -> dict[str, Any]:
    described = {name.replace("_", "-"): {"description": about, "schema": {"type": "string"}} for name, about in headers.items()}
    return {"model": ErrorAnswer, "description": text, **({"headers": described} if described else {})}


_RETRY = {"Retry_After": "Seconds after which the same request may succeed."}
NOT_FOUND: Responses = {404: _said("No such model; lists those there are.")}
#: of a route that takes a body
BODY: Responses = {
    **NOT_FOUND,
    413: _said("The body is too large."),
    415: _said("The body is compressed, or a form where one image is asked for."),
    422: _said("The body is not the image the model takes: says what was expected and what came."),
}
#: of one whose answer has several forms
FORMS: Responses = {406: _said("The answer does not come in the form that is asked for.")}
#: of every route
_ANYWHERE: Responses = {
    400: _said("A parameter or the body cannot be used, or what came is no HTTP."),
    408: _said("The headers or the body did not arrive in time."),
    429: _said("Too many images wait, or too many connections are open.", **_RETRY),
    431: _said("The headers are larger than 64 KiB."),
    500: _said("The service failed; its log has the request under `request_id`."),
    503: _said("No answer in time, or the service stops.", **_RETRY),
}
_UNAUTHORIZED: Responses = {401: _said("The service asks for a token.", WWW_Authenticate="`Bearer`.")}
_MISDIRECTED: Responses = {421: _said("Without a token the service answers only under names of this machine.")}
#: where the document describes every error
_ERROR = {"application/json": {"schema": {"$ref": f"#/components/schemas/{ErrorAnswer.__name__}"}}}


def json_of(description: str, schema: dict[str, Any], **more: Any) -> Responses:
    """An answer that is JSON of a schema; `more` are other forms of it."""
    return {200: {"description": description, "content": {"application/json": {"schema": schema}, **more}}}


def object_of(**properties: dict[str, Any]) -> dict[str, Any]:
    """The schema of an object with all of these, and maybe others."""
    return {"type": "object", "required": list(properties), "properties": properties}


def complete(document: dict[str, Any], token: bool, unguarded: Collection[str]) -> dict[str, Any]:
    """Say of every operation what the service says to any request, and how access is asked for; what never comes is left out.

    Args:
        document: as FastAPI made it.
        token: whether the service asks for one.
        unguarded: paths that need none.
    """
    for path, operations in document["paths"].items():
        guarded = token and path not in unguarded
        common = _ANYWHERE | ({} if token else _MISDIRECTED) | (_UNAUTHORIZED if guarded else {})
        for operation in operations.values():
            responses = operation["responses"]
            if "HTTPValidationError" in json.dumps(responses.get("422")):
                # FastAPI's own: here these are 400
                del responses["422"]
            for status, said in common.items():
                responses[str(status)] = {**{name: value for name, value in said.items() if name != "model"}, "content": _ERROR}
            operation["responses"] = dict(sorted(responses.items()))
            if guarded:
                operation["security"] = [{_BEARER: []}]
    components = document["components"]
    for name in ("HTTPValidationError", "ValidationError"):
        components["schemas"].pop(name, None)
    if token:
        components["securitySchemes"] = {_BEARER: {"type": "http", "scheme": "bearer", "description": "Whoever runs the service has it."}}
    return document

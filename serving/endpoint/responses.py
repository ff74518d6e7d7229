"""How the OpenAPI document describes errors, for every route."""

from __future__ import annotations

from typing import Any

from serving.schema import ErrorAnswer


def _said(text: str) -> dict[str, Any]:
    return {"model": ErrorAnswer, "description": text}


NOT_FOUND: dict[int | str, dict[str, Any]] = {
    401: _said("The service asks for a token."),
    404: _said("No such model; lists those there are."),
    421: _said("Without a token the service answers only under names of this machine."),
}
ERRORS: dict[int | str, dict[str, Any]] = {
    400: _said("A parameter or the body cannot be used."),
    401: _said("The service asks for a token."),
    404: _said("No such model; lists those there are."),
    406: _said("The answer does not come in the form that is asked for."),
    408: _said("The body did not arrive in time."),
    413: _said("The body is too large."),
    415: _said("The body is compressed, or a form where one image is asked for."),
    421: _said("Without a token the service answers only under names of this machine."),
    422: _said("The body is not the image the model takes: says what was expected and what came."),
    429: _said("Too many images wait: try again after `Retry-After` seconds."),
    503: _said("No answer in time: try again after `Retry-After` seconds."),
}

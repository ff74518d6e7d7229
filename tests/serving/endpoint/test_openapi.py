"""The OpenAPI document against what a service really answers."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest
from jsonschema import Draft202012Validator, ValidationError

from serving.endpoint.access import OPEN
from serving.endpoint.server import running
from serving.scoring import Scorer
from serving.settings import Settings
from tests.serving.bundles import TinyBundle, npy

TOKEN = "a-token-of-this-test"
ARROW = "application/vnd.apache.arrow.stream"


@pytest.fixture(scope="module")
def without(tiny: TinyBundle) -> Iterator[str]:
    """A service that asks for no token."""
    with running([Scorer.open(tiny.folder)], Settings(max_body_bytes=200_000)) as address:
        yield address


@pytest.fixture(scope="module")
def document(without: str) -> dict[str, Any]:
    found: dict[str, Any] = httpx.get(f"{without}/openapi.json").json()
    return found


@pytest.fixture(scope="module")
def guarded(tiny: TinyBundle) -> Iterator[str]:
    with running([Scorer.open(tiny.folder)], Settings(token=TOKEN)) as address:
        yield address


def described(document: dict[str, Any], template: str, answer: httpx.Response) -> dict[str, Any]:
    """What the document says of a real answer, which must be like it."""
    said = document["paths"][template][answer.request.method.lower()]["responses"]
    assert str(answer.status_code) in said, answer.text[:300]
    response: dict[str, Any] = said[str(answer.status_code)]
    kind = answer.headers["content-type"].partition(";")[0]
    assert kind in response["content"]
    schema = response["content"][kind]["schema"]
    assert schema
    if kind == "application/json":
        Draft202012Validator({**schema, "components": document["components"]}).validate(answer.json())
    return response


def tensor(tiny: TinyBundle, **more: Any) -> dict[str, Any]:
    image = tiny.images[0]
    return {"inputs": [{"name": "pixels", "datatype": "UINT16", "shape": [1, *image.shape], "data": image.ravel().tolist()}], **more}


@pytest.mark.parametrize(
    ("template", "path", "status"),
    [
        ("/v1/models", "/v1/models", 200),
        ("/v1/models/{name}", "/v1/models/tiny", 200),
        ("/v1/models/{name}", "/v1/models/nobody", 404),
        ("/healthz", "/healthz", 200),
        ("/metrics", "/metrics", 200),
        ("/v1/example", "/v1/example?model=tiny", 200),
        ("/v1/example", "/v1/example", 400),
        ("/v1/example", "/v1/example?model=nobody", 404),
        ("/v2", "/v2", 200),
        ("/v2/health/live", "/v2/health/live", 200),
        ("/v2/health/ready", "/v2/health/ready", 200),
        ("/v2/models/{name}", "/v2/models/tiny", 200),
        ("/v2/models/{name}", "/v2/models/nobody", 404),
        ("/v2/models/{name}/ready", "/v2/models/tiny/ready", 200),
        ("/v2/models/{name}/ready", "/v2/models/nobody/ready", 404),
    ],
)
def test_of_what_is_asked(without: str, document: dict[str, Any], template: str, path: str, status: int) -> None:
    answer = httpx.get(without + path)
    assert answer.status_code == status
    response = described(document, template, answer)
    if (template, status) == ("/v1/example", 200):
        assert set(response["headers"]) == {"Link", "X-Attribution"}


@pytest.mark.parametrize(
    ("path", "accept", "status"),
    [
        ("/v1/embed", "application/json", 200),
        ("/v1/embed", "application/x-npy", 200),
        ("/v1/embed", ARROW, 200),
        ("/v1/embed", "text/html", 406),
        ("/v1/score", "application/json", 200),
        ("/v1/score", ARROW, 200),
        ("/v1/score", "application/x-npy", 406),
        ("/v1/channels", "application/json", 200),
    ],
)
def test_of_an_image(without: str, document: dict[str, Any], tiny: TinyBundle, path: str, accept: str, status: int) -> None:
    answer = httpx.post(without + path, params={"model": "tiny"}, content=npy(tiny.images[0]), headers={"Accept": accept})
    assert answer.status_code == status
    described(document, path, answer)


@pytest.mark.parametrize("path", ["/v1/embed", "/v1/score", "/v1/channels"])
def test_of_what_is_no_image(without: str, document: dict[str, Any], tiny: TinyBundle, path: str) -> None:
    url, good = without + path, npy(tiny.images[0])
    answers = [
        httpx.post(url, content=good),
        httpx.post(url, params={"model": "nobody"}, content=good),
        httpx.post(url, params={"model": "tiny"}, content=bytes(300_000)),
        httpx.post(url, params={"model": "tiny"}, content=good, headers={"Content-Encoding": "gzip"}),
        httpx.post(url, params={"model": "tiny"}, content=b"no image"),
    ]
    assert [answer.status_code for answer in answers] == [400, 404, 413, 415, 422]
    for answer in answers:
        described(document, path, answer)
    form = httpx.post(url, params={"model": "tiny"}, files=[("image", good), ("image", b"no image")])
    assert form.status_code == (415 if path == "/v1/channels" else 200)
    described(document, path, form)


def test_of_tensors(without: str, document: dict[str, Any], tiny: TinyBundle) -> None:
    template, url = "/v2/models/{name}/infer", f"{without}/v2/models/tiny/infer"
    plain = httpx.post(url, json=tensor(tiny, id="one"))
    assert plain.json()["id"] == "one"
    binary = httpx.post(url, json=tensor(tiny, parameters={"binary_data_output": True}))
    assert binary.headers["content-type"] == "application/octet-stream"
    assert {name.lower() for name in described(document, template, binary)["headers"]} <= set(binary.headers)
    bad = httpx.post(url, json={})
    assert (plain.status_code, binary.status_code, bad.status_code) == (200, 200, 400)
    for answer in (plain, bad, httpx.post(f"{without}/v2/models/nobody/infer", json=tensor(tiny))):
        described(document, template, answer)


def test_a_wrong_description_is_found(without: str, document: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        described(document, "/healthz", httpx.get(f"{without}/v1/models"))
    with pytest.raises(AssertionError):
        described(document, "/healthz", httpx.get(f"{without}/nothing"))


def paths(document: dict[str, Any]) -> list[tuple[str, str]]:
    return [(method, template) for template, operations in document["paths"].items() for method in operations]


def asked(url: str, method: str, template: str, **headers: str) -> httpx.Response:
    answer = httpx.request(method, url + template.replace("{name}", "tiny"), headers=headers)
    # as it is in the document
    answer.request.method = method
    return answer


def test_access(without: str, guarded: str, document: dict[str, Any]) -> None:
    with_token = httpx.get(f"{guarded}/openapi.json", headers={"Authorization": f"Bearer {TOKEN}"}).json()
    assert "securitySchemes" not in document["components"]
    ((name, scheme),) = with_token["components"]["securitySchemes"].items()
    assert (scheme["type"], scheme["scheme"]) == ("http", "bearer")
    assert paths(with_token) == paths(document)
    for method, template in paths(document):
        misdirected = asked(without, method, template, Host="example.org")
        assert misdirected.status_code == 421
        described(document, template, misdirected)
        operation = with_token["paths"][template][method]
        assert ("security" in operation, "401" in operation["responses"], "421" in operation["responses"]) == (*2 * (template not in OPEN,), False)
        answer = asked(guarded, method, template)
        assert (answer.status_code == 401) == ("security" in operation)
        if "security" in operation:
            assert operation["security"] == [{name: []}]
            assert set(described(with_token, template, answer)["headers"]) == {"WWW-Authenticate"}


def test_what_can_come_of_any_request_is_said_of_every_one(document: dict[str, Any]) -> None:
    for method, template in paths(document):
        responses = document["paths"][template][method]["responses"]
        assert {"400", "408", "429", "431", "500", "503"} <= set(responses)
        # what a client that is told to come again waits for
        assert [status for status, response in responses.items() if "Retry-After" in response.get("headers", {})] == ["429", "503"]
        assert all(content["schema"] for response in responses.values() for content in response["content"].values())
    assert "HTTPValidationError" not in str(document)
    assert "405" in document["info"]["description"]


def test_words_that_a_parameter_takes(without: str, document: dict[str, Any], tiny: TinyBundle) -> None:
    parameters = {one["name"]: one["schema"] for one in document["paths"]["/v1/score"]["post"]["parameters"]}
    body = npy(np.concatenate([tiny.images[0]] * 2, axis=2))
    for name in ("field", "resample", "pictures"):
        for word in (*parameters[name]["enum"], "other"):
            answer = httpx.post(
                f"{without}/v1/score", params={"model": "tiny", "centres": "12,10" if word == "centres" else "", name: word}, content=body
            )
            assert answer.status_code == (400 if word == "other" else 200 if word in ("grid", "centres") else 422)
    assert parameters["field"]["enum"] == ["refuse", "grid", "centres"]


@pytest.mark.parametrize("path", ["/v1/models/", "/healthz/", "//example.org/v1/models/"])
def test_no_answer_leads_elsewhere(guarded: str, path: str) -> None:
    answer = httpx.get(guarded + path, headers={"Host": "example.org", "Authorization": f"Bearer {TOKEN}"})
    assert (answer.status_code, answer.headers.get("location")) == (404, None)


@pytest.mark.parametrize("path", ["/", "/page.js", "/healthz", "/v1/models", "/metrics", "/v2", "/nothing"])
def test_no_answer_is_taken_for_another_kind_or_framed(without: str, path: str) -> None:
    answer = httpx.get(without + path)
    assert answer.headers["x-content-type-options"] == "nosniff"
    if path == "/":
        assert re.search(r"frame-ancestors 'none'", answer.headers["content-security-policy"])

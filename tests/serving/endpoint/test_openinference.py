"""The Open Inference Protocol, by its own client (tritonclient) and by hand."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException

from serving.endpoint.intake import unzipped
from serving.endpoint.server import running
from serving.endpoint.tensors import parse
from serving.scoring import Scorer, embedding_tolerance
from serving.settings import Settings
from tests.serving.bundles import TinyBundle, npy


@pytest.fixture(scope="module")
def url(tiny: TinyBundle, tissue: TinyBundle) -> Iterator[str]:
    with running([Scorer.open(bundle.folder) for bundle in (tiny, tissue)], Settings(max_images=16, max_body_bytes=300_000)) as address:
        yield address


@pytest.fixture
def client(url: str) -> Iterator[Any]:
    found = triton.InferenceServerClient(url.removeprefix("http://"))
    yield found
    found.close()


def inputs(tiny: TinyBundle, count: int, binary: bool = True) -> list[Any]:
    tensor = triton.InferInput("pixels", [count, 3, 24, 20], "UINT16")
    tensor.set_data_from_numpy(tiny.images[:count], binary_data=binary)
    return [tensor]


class TestClient:
    def test_health_and_metadata(self, client: Any) -> None:
        assert client.is_server_live()
        assert client.is_server_ready()
        assert client.is_model_ready("tiny")
        assert client.get_server_metadata()["extensions"] == ["binary_tensor_data"]
        found = client.get_model_metadata("tiny")
        assert found["inputs"][0] | {"parameters": {}} == {"name": "pixels", "datatype": "UINT16", "shape": [-1, 3, 24, 20], "parameters": {}}
        assert found["inputs"][0]["parameters"]["channels"] == "dna,er,actin"
        assert json.loads(found["inputs"][0]["parameters"]["intensity"]) == [[0.0, 4095.0]] * 3
        assert [output["name"] for output in found["outputs"]] == [
            "embedding",
            *(f"{task}{voice}" for task in ("phase", "treated") for voice in ("", ".twin", ".control")),
        ]
        assert client.is_model_ready("tiny", found["versions"][0])

    @pytest.mark.parametrize("binary", [True, False])
    @pytest.mark.parametrize("compression", [None, "gzip"])
    def test_answers_are_the_readings(self, url: str, client: Any, tiny: TinyBundle, binary: bool, compression: str | None) -> None:
        wanted = [triton.InferRequestedOutput(name, binary_data=binary) for name in ("phase.twin", "embedding", "treated")]
        found = client.infer("tiny", inputs(tiny, 5, binary), outputs=wanted, request_id="7", request_compression_algorithm=compression)
        assert found.get_response()["id"] == "7"
        np.testing.assert_allclose(found.as_numpy("embedding"), tiny.embedding[:5], rtol=0, atol=embedding_tolerance(tiny.embedding))
        for i in range(5):
            reading = httpx.post(f"{url}/v1/score?model=tiny", content=npy(tiny.images[i])).json()
            phase, treated = reading["tasks"]
            np.testing.assert_allclose(found.as_numpy("phase.twin")[i], list(phase["twin"]["probabilities"].values()), atol=1e-5)
            np.testing.assert_allclose(found.as_numpy("treated")[i], list(treated["encoder"]["probabilities"].values()), atol=1e-5)

    @pytest.mark.parametrize("binary", [True, False])
    def test_warnings_are_those_of_the_readings(self, url: str, client: Any, tiny: TinyBundle, binary: bool) -> None:
        dark = tiny.images[1] // 1000
        tensor = triton.InferInput("pixels", [2, 3, 24, 20], "UINT16")
        tensor.set_data_from_numpy(np.stack([tiny.images[0], dark]), binary_data=binary)
        found = client.infer("tiny", [tensor]).get_response()["parameters"]
        reading = httpx.post(f"{url}/v1/score?model=tiny", content=npy(dark)).json()
        assert reading["warnings"]
        assert json.loads(found["warnings"]) == [[], reading["warnings"]]
        assert found["evidence"] == reading["model"]["evidence"]
        assert found["provider"] == reading["model"]["provider"] == "cpu"

    def test_all_outputs_unless_some_are_named(self, client: Any, tiny: TinyBundle) -> None:
        found = client.infer("tiny", inputs(tiny, 2))
        assert len(found.get_response()["outputs"]) == 7
        assert found.as_numpy("phase.control").shape == (2, 3)

    def test_another_compression_than_gzip_is_told_of_gzip(self, client: Any, tiny: TinyBundle) -> None:
        with pytest.raises(InferenceServerException, match=r"`Content-Encoding: deflate`\. Send it uncompressed, or by gzip"):
            client.infer("tiny", inputs(tiny, 1), request_compression_algorithm="deflate")

    def test_errors_are_said_in_the_clients_way(self, client: Any, tiny: TinyBundle) -> None:
        with pytest.raises(InferenceServerException, match="There is no served model `nobody`"):
            client.infer("nobody", inputs(tiny, 1))
        with pytest.raises(InferenceServerException, match=r"There is no version of `tiny` `9`"):
            client.infer("tiny", inputs(tiny, 1), model_version="9")
        with pytest.raises(InferenceServerException, match="There is no output `nothing`"):
            client.infer("tiny", inputs(tiny, 1), outputs=[triton.InferRequestedOutput("nothing")])

    @pytest.mark.parametrize(
        ("shape", "message"),
        [
            ((1, 3, 24, 21), r"Expected `pixels` of shape \[-1, 3, 24, 20\], got \[1, 3, 24, 21\]"),
            ((17, 3, 24, 20), "Expected 1 to 16 images in one request, got 17"),
        ],
    )
    def test_tensors_of_another_shape(self, client: Any, shape: tuple[int, ...], message: str) -> None:
        tensor = triton.InferInput("pixels", list(shape), "UINT16")
        tensor.set_data_from_numpy(np.zeros(shape, np.uint16))
        with pytest.raises(InferenceServerException, match=message):
            client.infer("tiny", [tensor])


PIXELS = {"name": "pixels", "datatype": "UINT16", "shape": [1, 3, 24, 20]}
SIZE = 2 * 3 * 24 * 20


class TestRefused:
    @pytest.mark.parametrize(
        ("said", "message"),
        [
            ([], "as a JSON object"),
            ({}, "one input named `pixels`"),
            ({"inputs": [PIXELS, PIXELS]}, "one input named `pixels`"),
            ({"inputs": [{**PIXELS, "datatype": "FP32"}]}, "of datatype UINT16, got FP32"),
            ({"inputs": [{**PIXELS, "shape": [True, 3, 24, 20]}]}, "of shape"),
            ({"inputs": [{**PIXELS, "shape": [10**30, 3, 24, 20]}]}, "Expected"),
            ({"inputs": [{**PIXELS, "data": [1, 2]}]}, "Expected 1440 numbers in `data` of `pixels`, got 2"),
            ({"inputs": [{**PIXELS, "data": [1] * 1441}]}, "Expected 1440 numbers in `data` of `pixels`, got more"),
            ({"inputs": [{**PIXELS, "data": [[[1] * 7, [[]]], [1]]}]}, "Expected 1440 numbers in `data` of `pixels`, got 8"),
            ({"inputs": [{**PIXELS, "data": ["a"] * 1440}]}, "Expected numbers in `data`"),
            ({"inputs": [{**PIXELS, "data": [0.5] * 1440}]}, "Expected whole numbers of UINT16"),
            ({"inputs": [{**PIXELS, "data": [-1] * 1440}]}, "Expected whole numbers of UINT16"),
            ({"inputs": [{**PIXELS, "parameters": {"binary_data_size": SIZE}}]}, f"Expected {SIZE} bytes of `pixels` after the JSON, got 0"),
            ({"inputs": [{**PIXELS, "data": [1] * 1440}], "outputs": [3]}, "Expected `outputs` as a list"),
        ],
    )
    def test_says_what_was_expected(self, url: str, said: Any, message: str) -> None:
        answer = httpx.post(f"{url}/v2/models/tiny/infer", json=said)
        assert answer.status_code == 400
        assert message in answer.json()["error"]

    @pytest.mark.parametrize("length", ["-1", "x", "99999999", "9" * 40])
    def test_a_wrong_header_length(self, url: str, length: str) -> None:
        answer = httpx.post(f"{url}/v2/models/tiny/infer", content=b"{}", headers={"Inference-Header-Content-Length": length})
        assert (answer.status_code, "of at most the body's 2 bytes" in answer.json()["error"]) == (400, True)

    def test_too_few_bytes(self, url: str) -> None:
        head = json.dumps({"inputs": [{**PIXELS, "parameters": {"binary_data_size": SIZE}}]}).encode()
        answer = httpx.post(
            f"{url}/v2/models/tiny/infer", content=head + bytes(SIZE - 1), headers={"Inference-Header-Content-Length": str(len(head))}
        )
        assert (answer.status_code, f"got {SIZE - 1}" in answer.json()["error"]) == (400, True)

    def test_a_bomb_of_gzip(self, url: str) -> None:
        answer = httpx.post(f"{url}/v2/models/tiny/infer", content=gzip.compress(bytes(10_000_000)), headers={"Content-Encoding": "gzip"})
        assert (answer.status_code, "after unpacking" in answer.json()["error"]) == (413, True)

    def test_truncated_gzip(self, url: str) -> None:
        answer = httpx.post(f"{url}/v2/models/tiny/infer", content=gzip.compress(bytes(1000))[:-9], headers={"Content-Encoding": "gzip"})
        assert (answer.status_code, "truncated" in answer.json()["error"]) == (400, True)

    @pytest.mark.parametrize("text", [b"[" + b"0," * 90_000 + b"0]", b"[" + b"[]," * 90_000 + b"[]]", b'"' + b"x" * 1_600_000 + b'"'])
    def test_more_text_than_any_request_needs(self, generous: str, text: bytes) -> None:
        said = json.dumps({"inputs": [{**PIXELS, "data": 0}]}).encode().replace(b'"data": 0', b'"data": ' + text)
        answer = httpx.post(f"{generous}/v2/models/tiny/infer", content=said)
        assert (answer.status_code, "bytes and 23040 numbers (16 images), got" in answer.json()["error"]) == (413, True)

    def test_the_most_wasteful_layout(self, generous: str) -> None:
        data = np.full((16, 3, 24, 20), 65535.0).tolist()
        said = json.dumps({"inputs": [{**PIXELS, "shape": [16, 3, 24, 20], "data": data}]}, indent=4)
        assert httpx.post(f"{generous}/v2/models/tiny/infer", content=said, timeout=60).status_code == 200


@pytest.fixture(scope="module")
def generous(tiny: TinyBundle) -> Iterator[str]:
    """A service at the usual limit of a body."""
    with running([Scorer.open(tiny.folder)], Settings(max_images=16)) as address:
        yield address


@pytest.mark.parametrize(("place", "compress"), [("openinference.parse", False), ("intake.unzipped", True)])
def test_is_parsed_beside_the_event_loop(generous: str, place: str, compress: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    real = {"openinference.parse": parse, "intake.unzipped": unzipped}[place]

    def while_others_are_answered(*given: Any) -> Any:
        httpx.get(f"{generous}/healthz", timeout=20).raise_for_status()
        return real(*given)

    monkeypatch.setattr(f"serving.endpoint.{place}", while_others_are_answered)
    body = json.dumps({"inputs": [{**PIXELS, "shape": [8, 3, 24, 20], "data": [1] * 8 * 1440}]}).encode()
    headers = {"Content-Encoding": "gzip"} if compress else {}
    answer = httpx.post(f"{generous}/v2/models/tiny/infer", content=gzip.compress(body) if compress else body, headers=headers, timeout=60)
    assert answer.status_code == 200

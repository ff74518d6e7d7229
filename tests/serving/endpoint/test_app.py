"""The ONNX endpoint over real HTTP: the Scorer's answers, and a clear 4xx for whatever is not an image it takes."""

from __future__ import annotations

import ast
import builtins
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest
from starlette.types import Receive, Scope, Send

from registry.bundle import read_arrays, write_arrays
from registry.errors import BundleError, ParamsError
from serving import settings
from serving.client import ScoringClient
from serving.client.retries import ONCE
from serving.endpoint.access import Access
from serving.endpoint.answers import MOST_HEADER, attribution_headers
from serving.endpoint.app import create_app
from serving.endpoint.metrics import Metrics
from serving.endpoint.server import answering, running, serve
from serving.errors import ServiceError
from serving.schema import ErrorAnswer
from serving.scoring import Scorer, embedding_tolerance
from serving.settings import Settings, available_cores, granted_cores
from tests.serving.bundles import TinyBundle, npy, ome, png, seal, tiff

ROOT = Path(__file__).resolve().parents[3]
LIMIT = 200_000


@pytest.fixture(scope="module")
def url(tiny: TinyBundle, tissue: TinyBundle) -> Iterator[str]:
    scorers = [Scorer.open(bundle.folder) for bundle in (tiny, tissue)]
    with running(scorers, Settings(max_body_bytes=LIMIT, body_timeout_s=1.0)) as address:
        yield address


@pytest.fixture
def http(url: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=url, timeout=20) as client:
        yield client


class TestAnswers:
    @pytest.mark.parametrize("kind", ["ome", "tiff", "npy"])
    def test_embedding_is_the_offline_one(self, url: str, tiny: TinyBundle, kind: str) -> None:
        image = tiny.images[6]
        body = {"ome": ome(image), "tiff": tiff(image, photometric="minisblack", compression="zlib"), "npy": npy(image)}[kind]
        with ScoringClient(url) as client:
            embedding, reading = client.embed("tiny", body), client.score("tiny", body)
        np.testing.assert_allclose(embedding.embedding, tiny.embedding[6], rtol=0, atol=embedding_tolerance(tiny.embedding))
        assert reading.embedding == embedding.embedding
        assert reading == Scorer.open(tiny.folder).read(body)

    def test_png_and_npy_bodies(self, url: str, tissue: TinyBundle, tmp_path: Path) -> None:
        path = tmp_path / "cell.png"
        path.write_bytes(png(tissue.images[1]))
        with ScoringClient(url) as client:
            assert client.score("tissue", path) == client.score("tissue", npy(tissue.images[1]))

    def test_models(self, url: str, tiny: TinyBundle) -> None:
        with ScoringClient(url) as client:
            models = {model.name: model for model in client.models().models}
        assert list(models) == ["tiny", "tissue"]
        assert models["tiny"].companions == ["intensity", "untrained-tiny"]
        assert models["tissue"].image.channels == ["red", "green", "blue"]
        assert [models[name].image.intensity for name in ("tiny", "tissue")] == [[(0.0, 4095.0)] * 3, [(0.0, 255.0)] * 3]
        with ScoringClient(url) as client:
            assert client.model("tiny").model.image == models["tiny"].image
        assert models["tiny"].dim == tiny.embedding.shape[1]

    @pytest.mark.parametrize("path", ["/healthz", "/readyz"])
    def test_health(self, http: httpx.Client, path: str) -> None:
        assert http.get(path).json() == {"schema": 1, "live": True, "ready": True, "models": ["tiny", "tissue"], "stale": {}}

    def test_stale_evidence_is_said_and_the_model_answers(self, tiny: TinyBundle, tissue: TinyBundle) -> None:
        scorers = [Scorer.open(tiny.folder, evidence="stale: numpy is another"), Scorer.open(tissue.folder, evidence="current")]
        with running(scorers) as address, ScoringClient(address) as client:
            health, models = client.health(), {model.name: model.evidence for model in client.models().models}
            reading = client.score("tiny", npy(tiny.images[0]))
        assert health.ready
        assert health.stale == {"tiny": "stale: numpy is another"}
        assert models == {"tiny": "stale: numpy is another", "tissue": "current"}
        assert reading.model.evidence == "stale: numpy is another"

    def test_many_clients_at_once_each_get_their_own_answer(self, url: str, tiny: TinyBundle) -> None:
        with ScoringClient(url) as client, ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda n: client.embed("tiny", npy(tiny.images[n % 8])).embedding, range(64)))
        np.testing.assert_allclose(answers, tiny.embedding[np.arange(64) % 8], rtol=0, atol=embedding_tolerance(tiny.embedding))


#: how the file is made, what is said of it, and the next step
BAD_IMAGES = {
    "text": (lambda _: b"not an image", "expected TIFF, OME-TIFF, PNG, JPEG or npy, got 12 bytes", "Save the image as one of these."),
    "half a file": (lambda image: ome(image)[:1500], "end at byte|lie outside|holds", "The file is truncated: save it again."),
    "two channels": (
        lambda image: npy(image[:2]),
        r"expected 3 channels \(dna, er, actin\), got 2",
        "Save these channels, and no others, in one file.",
    ),
    "other channels": (
        lambda image: ome(image, ("dna", "er", "mito")),
        "expected channels dna, er, actin, got dna, er, mito",
        "name them so in the file; otherwise take an image of these channels.",
    ),
    "a small image": (lambda image: npy(image[:, :9]), r"expected 24 x 20 pixels \(y, x\), got 9 x 20", "Take an image of a larger field."),
    "a field": (
        lambda image: npy(np.concatenate([image, image], axis=2)),
        r"expected 24 x 20 pixels \(y, x\), got 24 x 40",
        "`field=grid` (`--field grid`) cuts it into tiles of that size.",
    ),
    "another dtype": (
        lambda image: npy(image.astype(np.float32)),
        "expected dtype uint16, got float32",
        "save the image as uint16, on the scale of the model's images.",
    ),
    "a dtype that is never read": (
        lambda image: npy(image.astype(np.int64)),
        "expected dtype uint8 or uint16 or float32, got int64",
        "Convert the array.",
    ),
    "four axes": (lambda image: npy(image[None]), r"expected shape \(c, y, x\) or \(y, x\), got \(1, 3", "Save one image, channels first."),
    "NaN": (lambda _: npy(np.full((3, 24, 20), np.nan, np.float32)), "1440 of 1440 pixels are NaN", "Repair or leave out the image."),
    "another magnification": (
        lambda image: ome(image, size_um=0.325),
        "expected 0.65 um per pixel, got 0.325",
        "`resample=true` (`--resample`) does that.",
    ),
    "RGB": (
        lambda image: png(image.astype(np.uint8)),
        "expected channels dna, er, actin, got red, green, blue",
        "otherwise take an image of these channels.",
    ),
}


class TestRefused:
    @pytest.mark.parametrize("name", BAD_IMAGES)
    def test_says_what_was_expected_and_what_came(self, http: httpx.Client, tiny: TinyBundle, name: str) -> None:
        make, message, step = BAD_IMAGES[name]
        for path in ("/v1/embed", "/v1/score"):
            answer = http.post(path, params={"model": "tiny"}, content=make(tiny.images[0]))
            assert answer.status_code == 422
            said = answer.json()
            assert re.search(message, said["error"])
            assert said["error"].endswith(step)
            assert (said["schema"], said["kind"], said["status"]) == (1, "ImageError", 422)
            assert said["expected"]["channels"] == ["dna", "er", "actin"]
            assert said["expected"]["dtype"] == "uint16"

    def test_unknown_model_lists_those_there_are(self, http: httpx.Client) -> None:
        answer = http.post("/v1/score", params={"model": "resnet"}, content=b"x")
        assert (answer.status_code, answer.json()["error"]) == (404, "There is no served model `resnet`. Known: `tiny`, `tissue`.")
        assert answer.json()["expected"] == {"known": ["tiny", "tissue"]}

    def test_no_model(self, http: httpx.Client) -> None:
        answer = http.post("/v1/score", content=b"x")
        assert (answer.status_code, answer.json()["error"]) == (400, "Expected the query parameter `model`, for example `?model=tiny`.")

    def test_no_body(self, http: httpx.Client) -> None:
        answer = http.post("/v1/score?model=tiny")
        assert answer.status_code == 400
        assert "Expected the bytes of an image file as the body, got none" in answer.json()["error"]

    def test_a_compressed_body(self, http: httpx.Client) -> None:
        answer = http.post("/v1/score?model=tiny", content=b"x", headers={"Content-Encoding": "gzip"})
        assert (answer.status_code, "got `Content-Encoding: gzip`" in answer.json()["error"]) == (415, True)

    @pytest.mark.parametrize("factor", [1, 3, 40])
    @pytest.mark.parametrize("chunked", [False, True])
    def test_too_large(self, http: httpx.Client, factor: int, chunked: bool) -> None:
        chunk = b"\x00" * 50_000
        count = factor * LIMIT // len(chunk) + 1
        answer = http.post("/v1/score?model=tiny", content=(chunk for _ in range(count)) if chunked else chunk * count)
        assert answer.status_code == 413
        assert f"Expected a body of at most {LIMIT} bytes" in answer.json()["error"]

    def test_a_body_that_never_ends_is_not_waited_for(self, http: httpx.Client) -> None:
        def trickle() -> Iterator[bytes]:
            for _ in range(40):
                yield b"x"
                time.sleep(0.05)

        answer = http.post("/v1/score?model=tiny", content=trickle())
        assert (answer.status_code, answer.json()["kind"]) == (408, "BodyTimeoutError")

    def test_unknown_path_and_method(self, http: httpx.Client) -> None:
        answer = http.get("/v1/scores")
        assert answer.status_code == 404
        assert (
            "There is: /healthz, /metrics, /v1/channels, /v1/embed, /v1/example, /v1/models, /v1/models/{name}, /v1/score, /v2"
            in answer.json()["error"]
        )
        for method, path, allowed in (("GET", "/v1/score", "POST"), ("HEAD", "/v1/score", "POST"), ("POST", "/v1/models", "GET, HEAD")):
            answer = http.request(method, path, params={"model": "tiny"})
            assert (answer.status_code, answer.headers["allow"]) == (405, allowed)

    @pytest.mark.parametrize("begun", [False, True])
    def test_a_fault_of_the_service_can_be_found_in_its_log(self, begun: bool, caplog: pytest.LogCaptureFixture) -> None:
        async def broken(scope: Scope, _receive: Receive, send: Send) -> None:
            if begun and scope["type"] == "http":
                await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"9")]})
            raise ZeroDivisionError

        with answering(lambda _url: Access(broken, Metrics()), Settings()) as address, caplog.at_level("INFO", "blankslide"):
            if begun:
                with pytest.raises(httpx.RemoteProtocolError):
                    httpx.get(address)
            else:
                answer = httpx.get(address)
                said = ErrorAnswer.model_validate(answer.json())
                assert (answer.status_code, said.status, said.kind) == (500, 500, "ZeroDivisionError")
                assert said.request_id == answer.headers["x-request-id"]
                assert said.request_id in said.error
        facts = {record.message: vars(record)["facts"] for record in caplog.records if record.name == "blankslide"}
        assert facts["request"]["status"] == 500
        assert facts["request failed"]["id"] == facts["request"]["id"]
        assert begun or facts["request"]["id"] == said.request_id

    def test_a_bundle_at_fault_is_answered_in_its_own_words_and_found_in_the_log(
        self, tiny: TinyBundle, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def broken(_: Scorer) -> None:
            raise BundleError("The golden images are gone. Package the benchmark again.")

        monkeypatch.setattr(Scorer, "example", broken)
        with running([Scorer.open(tiny.folder)]) as address, caplog.at_level("INFO", "blankslide"):
            answer = httpx.get(f"{address}/v1/example?model=tiny")
        said = ErrorAnswer.model_validate(answer.json())
        assert (answer.status_code, said.status, said.kind) == (500, 500, "BundleError")
        assert said.error == "The golden images are gone. Package the benchmark again."
        assert said.request_id == answer.headers["x-request-id"]
        (record,) = [record for record in caplog.records if record.message == "request failed"]
        assert vars(record)["facts"] == {"id": said.request_id}
        assert record.exc_info is not None
        assert isinstance(record.exc_info[1], BundleError)

    @pytest.mark.parametrize("path", ["/healthz", "/readyz", "/v1/models", "/nothing"])
    def test_head_says_what_get_says_without_it(self, http: httpx.Client, path: str) -> None:
        head, get = http.head(path), http.get(path)
        assert (head.status_code, head.headers["content-length"], head.content) == (get.status_code, get.headers["content-length"], b"")

    def test_two_bundles_of_one_name(self, tiny: TinyBundle) -> None:
        with pytest.raises(BundleError, match="Serve each name once"):
            create_app([Scorer.open(tiny.folder)] * 2)

    def test_the_client_repeats_the_services_words(self, url: str) -> None:
        with ScoringClient(url) as client, pytest.raises(ServiceError, match="There is no served model `x`") as caught:
            client.embed("x", b"y")
        assert caught.value.status == 404

    def test_the_client_says_when_nobody_answers(self) -> None:
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            with (
                ScoringClient(f"http://127.0.0.1:{listener.getsockname()[1]}", retries=ONCE) as client,
                pytest.raises(ServiceError, match=r"No answer from .*blankslide serve"),
            ):
                client.models()


class TestDocumentation:
    def test_every_example_of_the_openapi_document_runs(self, http: httpx.Client, url: str, tmp_path: Path) -> None:
        document = http.get("/openapi.json").json()
        assert document["openapi"].startswith("3.1")
        ran = {}
        for path, methods in document["paths"].items():
            for operation in methods.values():
                source = operation["x-codeSamples"][0]["source"]
                assert url in source
                done = subprocess.run(["bash", "-ec", source], cwd=tmp_path, capture_output=True, check=True)
                ran[path] = done.stdout
        assert len(ran) == 14
        assert json.loads(ran["/v1/models/{name}"])["licence"] == {
            "stated": "Apache-2.0",
            "open": True,
            "noncommercial": False,
            "no_derivatives": False,
        }
        assert json.loads(ran["/v2/models/{name}/infer"])["outputs"][0]["data"] == json.loads(ran["/v1/embed"])["embedding"]
        assert len(json.loads(ran["/v1/score"])["tasks"]) == 2
        assert np.load(tmp_path / "example.npy").shape == (3, 24, 20)

    @pytest.mark.parametrize("name", ["tiny", "tissue"])
    def test_where_no_image_may_be_handed_out_the_examples_run_on_noise(self, request: pytest.FixtureRequest, tmp_path: Path, name: str) -> None:
        shutil.copytree(request.getfixturevalue(name).folder, tmp_path / name)
        arrays = read_arrays(tmp_path / name / "golden.npz")
        write_arrays(tmp_path / name / "golden.npz", {**arrays, "withheld": np.array(["`CC-BY-NC-4.0` limits the purpose"])})
        seal(tmp_path / name)
        ran: dict[str, bytes] = {}
        with running([Scorer.open(tmp_path / name)]) as address:
            refused = httpx.get(f"{address}/v1/example?model={name}")
            for path, methods in httpx.get(f"{address}/openapi.json").json()["paths"].items():
                for sample in (sample for operation in methods.values() for sample in operation.get("x-codeSamples", [])):
                    ran[path] = subprocess.run(["bash", "-ec", sample["source"]], cwd=tmp_path, capture_output=True, check=True).stdout
        assert refused.status_code == 404
        assert "link" not in refused.headers
        assert refused.json()["error"] == f"There is no example image for model `{name}`: `CC-BY-NC-4.0` limits the purpose. Known: none."
        assert len(ran) == 13
        reading = json.loads(ran["/v1/score"])
        assert (len(reading["tasks"]), reading["warnings"]) == (2, [])
        noise, high = np.load(tmp_path / "example.npy"), {"tiny": 4095, "tissue": 255}[name]
        assert (noise.shape, noise.dtype.name) == ((3, 24, 20), {"tiny": "uint16", "tissue": "uint8"}[name])
        assert 0.2 * high < noise.min() < noise.max() < 0.8 * high

    @pytest.mark.parametrize(
        ("licence", "link"),
        [
            ("CC-BY-4.0", '<https://creativecommons.org/licenses/by/4.0/>; rel="license"'),
            ("CC0-1.0", '<https://creativecommons.org/publicdomain/zero/1.0/>; rel="license"'),
            ("Public Domain", None),
        ],
    )
    def test_an_image_of_others_comes_with_its_licence_and_whose_it_is(
        self, tiny: TinyBundle, tmp_path: Path, licence: str, link: str | None
    ) -> None:
        terms = f"Image of `cells`, {licence}: Müller, 李 & A. Author (2020), 10.1000/1; https://example.org."
        shutil.copytree(tiny.folder, tmp_path / "tiny")
        arrays = read_arrays(tmp_path / "tiny" / "golden.npz")
        write_arrays(tmp_path / "tiny" / "golden.npz", {**arrays, "licence": np.array([licence]), "terms": np.array([terms])})
        seal(tmp_path / "tiny")
        with running([Scorer.open(tmp_path / "tiny")]) as address:
            answers = [httpx.request(method, f"{address}/v1/example?model=tiny") for method in ("GET", "HEAD")]
            page = httpx.get(f"{address}/v1/models/tiny").json()
        for answer in answers:
            assert (answer.status_code, answer.headers.get("link")) == (200, link)
            assert json.loads(answer.headers["x-attribution"]) == terms
        assert answers[0].links == ({"license": {"url": link[1:].partition(">")[0], "rel": "license"}} if link else {})
        assert page["example"] == terms
        # the licence of the weights is another
        assert page["licence"]["stated"] == "Apache-2.0"

    def test_a_bundle_that_does_not_say_whose_its_images_are(self, http: httpx.Client) -> None:
        answer = http.get("/v1/example?model=tiny")
        assert answer.status_code == 200
        assert not {"link", "x-attribution"} & set(answer.headers)
        assert http.get("/v1/models/tiny").json()["example"] == ""

    @pytest.mark.parametrize("letter", ["a", "é", "\U0001d4d0", '"', "\n"])
    def test_whose_an_image_is_fits_a_header(self, letter: str) -> None:
        headers = attribution_headers("CC-BY-4.0", letter * 10_000)
        assert len(headers["X-Attribution"]) <= MOST_HEADER
        assert headers["X-Attribution"].isascii()
        assert "\n" not in headers["X-Attribution"]
        said = json.loads(headers["X-Attribution"])
        assert (letter * 10_000).startswith(said.removesuffix(" ..."))
        assert len(said) > 300
        assert attribution_headers("", "") == {}

    def test_every_python_example_of_the_manual_knows_its_names(self) -> None:
        blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "serving.md").read_text(), re.DOTALL)
        assert len(blocks) >= 3
        for block in blocks:
            nodes = list(ast.walk(ast.parse(block)))
            known = set(dir(builtins)) | {
                alias.asname or alias.name for node in nodes if isinstance(node, ast.Import | ast.ImportFrom) for alias in node.names
            }
            known |= {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
            assert {node.id for node in nodes if isinstance(node, ast.Name)} - known == set()

    def test_every_field_of_an_answer_is_in_the_document(self, http: httpx.Client, tiny: TinyBundle) -> None:
        schemas = http.get("/openapi.json").json()["components"]["schemas"]
        answer = http.post("/v1/score?model=tiny", content=npy(tiny.images[0])).json()
        assert set(answer) == set(schemas["Reading"]["properties"])
        assert set(answer["tasks"][0]) == set(schemas["TaskReading"]["properties"])
        assert set(answer["tasks"][0]["encoder"]) == set(schemas["Opinion"]["properties"])

    def test_a_form_is_taken_where_the_document_says_so(self, http: httpx.Client, tiny: TinyBundle) -> None:
        paths = http.get("/openapi.json").json()["paths"]
        for path, takes in {"/v1/embed": True, "/v1/score": True, "/v1/channels": False}.items():
            answer = http.post(path, params={"model": "tiny"}, files={"image": npy(tiny.images[0])})
            assert ("multipart/form-data" in paths[path]["post"]["requestBody"]["content"], answer.status_code) == (takes, 200 if takes else 415)

    @pytest.mark.parametrize(("path", "kind"), [("/", "html"), ("/docs", "html"), ("/page.css", "css"), ("/page.js", "javascript")])
    def test_the_page_needs_no_other_host(self, http: httpx.Client, path: str, kind: str) -> None:
        page = http.get(path)
        assert page.headers["content-type"].startswith(f"text/{kind}")
        assert "://" not in page.text
        assert "default-src 'none'" in page.headers["content-security-policy"]


HEAVY = ("torch", "mlflow", "dvc", "sklearn", "pandas", "matplotlib")


def modules_of_an_endpoint(folder: Path, before: str = "") -> set[str]:
    """Top-level modules of a process that has loaded a bundle and answered a request."""
    code = f"""
import sys
{before}
import httpx, numpy, io
from pathlib import Path
from serving.schema import ErrorAnswer
from serving.scoring import Scorer
from serving.endpoint.server import running
scorer = Scorer.open(Path({str(folder)!r}))
stream = io.BytesIO()
numpy.save(stream, scorer.example().pixels)
with running([scorer]) as url:
    httpx.post(url + "/v1/score?model=tiny", content=stream.getvalue()).raise_for_status()
print(*sorted({{name.partition(".")[0] for name in sys.modules}}))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    return set(done.stdout.split())


def test_the_endpoints_process_holds_no_heavy_package(tiny: TinyBundle) -> None:
    assert modules_of_an_endpoint(tiny.folder) & set(HEAVY) == set()


def test_that_check_can_fail(tiny: TinyBundle) -> None:
    assert modules_of_an_endpoint(tiny.folder, before="import dvc") & set(HEAVY) == {"dvc"}


class TestServe:
    def test_sigterm_ends_it_after_the_last_answer(self, tiny: TinyBundle) -> None:
        code = f"from pathlib import Path; from serving.endpoint.server import serve; serve([Path({str(tiny.folder)!r})], port=0)"
        process = subprocess.Popen([sys.executable, "-u", "-c", code], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        try:
            assert process.stdout is not None
            assert "its golden images agree" in process.stdout.readline()
            address = re.findall(r"Serving on (\S+) with", process.stdout.readline())[0]
            with ScoringClient(address) as client:
                assert client.health().ready
            process.send_signal(signal.SIGTERM)
            assert process.wait(20) in (0, -signal.SIGTERM)
        finally:
            process.kill()
            process.wait()

    def test_a_taken_port(self, tiny: TinyBundle) -> None:
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            listener.listen()
            with pytest.raises(ParamsError, match=r"Cannot listen on 127\.0\.0\.1:\d+ .*`--port 0`"):
                serve([tiny.folder], port=listener.getsockname()[1])


class TestSettings:
    def test_from_the_environment(self) -> None:
        given = {"BLANKSLIDE_SERVE_MAX_BODY_BYTES": "1000", "BLANKSLIDE_SERVE_DRAIN_S": "2.5", "BLANKSLIDE_REAL_DATA": "x", **os.environ}
        assert Settings.from_environment(given) == Settings(max_body_bytes=1000, drain_s=2.5)

    @pytest.mark.parametrize(
        ("name", "value", "message"),
        [
            ("MAX_BODY", "1", r"`BLANKSLIDE_SERVE_MAX_BODY`\. Known: `BLANKSLIDE_SERVE_PROVIDER`"),
            ("THREADS", "two", "`BLANKSLIDE_SERVE_THREADS` to be of type int, got `two`"),
            ("THREADS", "-1", "`threads` to be 0"),
            ("PROVIDER", "tpu", "one of cpu, cuda, tensorrt, got `tpu`"),
            ("QUEUE_LENGTH", "9", "`queue_length` of at least `max_images`, got 9 and 64"),
            ("MAX_BODIES_BYTES", "1000", "`max_bodies_bytes` of at least `max_body_bytes`, got 1000 and 67108864"),
            ("BODY_TIMEOUT_S", "nan", "`body_timeout_s` above 0, got nan"),
        ],
    )
    def test_refused(self, name: str, value: str, message: str) -> None:
        with pytest.raises(ParamsError, match=message):
            Settings.from_environment({f"BLANKSLIDE_SERVE_{name}": value})

    @pytest.mark.parametrize(
        ("own", "files", "expected"),
        [
            ("0::/\n", {"cpu.max": "150000 100000"}, [1.5]),
            ("0::/\n", {"cpu.max": "max 100000"}, []),
            ("0::/a/b\n", {"a/cpu.max": "200000 100000", "a/b/cpu.max": "400000 100000"}, [2, 4]),
            ("0::/../b\n", {"cpu.max": "200000 100000"}, [2]),
            ("3:cpu,cpuacct:/docker/x\n0::/\n", {"cpu/cpu.cfs_quota_us": "50000", "cpu/cpu.cfs_period_us": "100000"}, [0.5]),
            ("3:cpuset:/\n4:cpuacct,cpu:/a\n", {"cpu/a/cpu.cfs_quota_us": "-1", "cpu/a/cpu.cfs_period_us": "100000"}, []),
            # of version 1 only the group of processor time limits it, and not another controller's group of the same name
            (
                "3:cpuset:/a\n4:cpuacct:/a\n5:cpu:/b\n",
                {
                    f"cpu/{group}/cpu.cfs_{name}_us": value
                    for group, quota in (("a", "50000"), ("b", "300000"))
                    for name, value in (("quota", quota), ("period", "100000"))
                },
                [3],
            ),
            ("0::/\n", {"cpu.max": "100000 0"}, []),
            ("0::/\n", {"cpu.max": "\u00bd 100000"}, []),
            ("0::/\n", {"cpu.max": "nonsense"}, []),
            ("", {}, []),
        ],
    )
    def test_limits_of_control_groups(self, tmp_path: Path, own: str, files: dict[str, str], expected: list[float]) -> None:
        for name, text in files.items():
            (tmp_path / "groups" / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "groups" / name).write_text(f"{text}\n")
        (tmp_path / "own").write_text(own)
        assert sorted(granted_cores(tmp_path / "groups", tmp_path / "own")) == expected

    @pytest.mark.parametrize(("granted", "cores"), [([], 16), ([8.5], 8), ([40], 16), ([12, 3], 3), ([0.5], 1)])
    def test_a_container_of_less_time_has_fewer_cores(self, monkeypatch: pytest.MonkeyPatch, granted: list[float], cores: int) -> None:
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)))
        monkeypatch.setattr(settings, "granted_cores", lambda: iter(granted))
        chosen = Settings()
        assert available_cores() == cores
        assert chosen.workers * chosen.cores == cores

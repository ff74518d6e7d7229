"""The real TorchServe gives the ONNX endpoint's readings, with ONNX or torch inside, asks for a token, and leaves no process behind."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import tracemalloc
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import pytest

from pipelines.cli import main
from registry.bundle import read_bundle
from registry.errors import BundleError, ParamsError, ProviderError
from serving.archive import BUNDLE, INSIDE, ArchiveFacts, Inside, copy_trusted, inside_of, make_archive, pack_bundle, unpack_bundle
from serving.client import ScoringClient, TorchServeClient
from serving.endpoint.server import running
from serving.errors import ServiceError
from serving.schema import Reading
from serving.scoring import Scorer, embedding_tolerance
from serving.settings import available_cores
from serving.torch_embedder import MOST
from serving.torch_operators import OPERATORS
from serving.torchserve import Ports, TorchServe
from serving.torchserve_log import SERVER, WORKERS, is_whole, story, worker_failed
from tests.serving.bundles import Exported, TinyBundle, make_bundle, npy, ome, png, tiff

ROOT = Path(__file__).resolve().parents[2]
SECRET = "a-secret-of-the-caller"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("store")


@pytest.fixture(scope="module")
def archive(tiny: TinyBundle, store: Path) -> Path:
    return make_archive(tiny.folder, store)


@pytest.fixture(scope="module")
def tiny_torch(exported: dict[str, Exported], tmp_path_factory: pytest.TempPathFactory) -> TinyBundle:
    """As `tiny` under another name, for an archive with torch inside."""
    return make_bundle(tmp_path_factory.mktemp("torch") / "tiny-torch", exported)


@pytest.fixture(scope="module")
def torch_archive(tiny_torch: TinyBundle, store: Path) -> Path:
    return make_archive(tiny_torch.folder, store, "torch")


@pytest.fixture(scope="module")
def server(archive: Path, torch_archive: Path, tissue: TinyBundle, store: Path) -> Iterator[TorchServe]:
    """One for the module: a start takes seconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
        with TorchServe([archive, torch_archive, make_archive(tissue.folder, store)]) as running_server:
            yield running_server


@pytest.fixture
def inference(server: TorchServe) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, headers={"Authorization": f"Bearer {server.token('inference')}"}, timeout=60) as client:
        yield client


@pytest.fixture
def management(server: TorchServe) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=f"http://127.0.0.1:{server.ports.management}", timeout=60) as client:
        yield client


def bearer(server: TorchServe, kind: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {server.token(kind)}"}


def group_members(leader: int) -> list[int]:
    """Processes of a group that still run."""
    found = []
    for process in psutil.process_iter():
        try:
            if os.getpgid(process.pid) == leader and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process.pid)
        except (ProcessLookupError, psutil.NoSuchProcess):
            continue
    return found


class TestArchive:
    def test_holds_the_bundle_and_one_handler(self, archive: Path, tiny: TinyBundle, tmp_path: Path) -> None:
        assert archive.name == "tiny.mar"
        with zipfile.ZipFile(archive) as found:
            assert sorted(found.namelist()) == ["MAR-INF/MANIFEST.json", BUNDLE, INSIDE, "torchserve_handler.py"]
            found.extractall(tmp_path)
        assert inside_of(tmp_path) == "onnx"
        unpacked, packed = unpack_bundle(tmp_path / BUNDLE, tmp_path / "bundle"), read_bundle(tiny.folder)
        assert (unpacked.digest, unpacked.files) == (packed.digest, packed.files)

    def test_the_same_bundle_packs_to_the_same_bytes(self, tiny: TinyBundle, tmp_path: Path) -> None:
        bundle = read_bundle(tiny.folder)
        for name in ("a", "b"):
            pack_bundle(bundle, tmp_path / name)
        assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()

    def test_a_name_that_leaves_the_folder(self, tmp_path: Path) -> None:
        with zipfile.ZipFile(tmp_path / "evil.zip", "w") as evil:
            evil.writestr("../escaped.txt", "x")
        with pytest.raises(BundleError, match=r"`\.\./escaped\.txt` would be written outside"):
            unpack_bundle(tmp_path / "evil.zip", tmp_path / "inside")
        assert not (tmp_path / "escaped.txt").exists()

    def test_compressed_entries_are_not_unpacked(self, tmp_path: Path) -> None:
        with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as bomb:
            bomb.writestr("manifest.json", b" " * 2**20)
        with pytest.raises(BundleError, match="got compressed or shared ones"):
            unpack_bundle(tmp_path / "bomb.zip", tmp_path / "inside")
        assert not (tmp_path / "inside").exists()

    def test_not_a_zip(self, tmp_path: Path) -> None:
        (tmp_path / "x.zip").write_bytes(b"nothing")
        with pytest.raises(BundleError, match="expected a packed bundle"):
            unpack_bundle(tmp_path / "x.zip", tmp_path / "inside")

    def test_an_altered_bundle_is_not_archived(self, tiny: TinyBundle, tmp_path: Path) -> None:
        folder = Path(shutil.copytree(tiny.folder, tmp_path / "tiny"))
        (folder / "card.json").write_text((folder / "card.json").read_text() + " ")
        with pytest.raises(BundleError, match="was altered"):
            make_archive(folder, tmp_path / "out")
        assert not (tmp_path / "out").exists()

    def test_torch_inside_is_the_same_data(self, torch_archive: Path, tiny_torch: TinyBundle, tmp_path: Path) -> None:
        pack_bundle(read_bundle(tiny_torch.folder), tmp_path / "packed")
        with zipfile.ZipFile(torch_archive) as found:
            assert sorted(found.namelist()) == ["MAR-INF/MANIFEST.json", BUNDLE, INSIDE, "torchserve_handler.py"]
            assert found.read(BUNDLE) == (tmp_path / "packed").read_bytes()
            assert json.loads(found.read(INSIDE)) == {"inside": "torch"}
            assert found.read("torchserve_handler.py") == (ROOT / "serving" / "torchserve_handler.py").read_bytes()

    def test_what_torch_does_not_compute_is_not_archived_with_it(self, tiny: TinyBundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delitem(OPERATORS, "Conv")
        with pytest.raises(BundleError, match=r"no ONNX operator `Conv` here\. Archive it with `--inside onnx`"):
            make_archive(tiny.folder, tmp_path / "out", "torch")
        assert not (tmp_path / "out").exists()

    @pytest.mark.parametrize("text", ["", "[]", "{}", '{"inside": "pickle"}', '{"inside": ["torch"]}'])
    def test_it_says_what_is_inside_or_is_refused(self, text: str, tmp_path: Path) -> None:
        (tmp_path / INSIDE).write_text(text)
        with pytest.raises(BundleError, match="expected one of onnx, torch"):
            inside_of(tmp_path)

    def test_facts_of_an_archive(self, archive: Path, tiny: TinyBundle, tmp_path: Path) -> None:
        assert ArchiveFacts.read(archive) == ArchiveFacts("tiny", read_bundle(tiny.folder).identity[:12])
        # a name becomes a line of TorchServe's settings
        foreign = mar(tmp_path / "x.mar", "pass", name="x\nallowed_urls=.*")
        with pytest.raises(BundleError, match="expected a model's name and version of letters, digits"):
            ArchiveFacts.read(foreign)
        (tmp_path / "y.mar").write_bytes(b"nothing")
        with pytest.raises(BundleError, match=r"expected a TorchServe archive, which it is not \(BadZipFile\)"):
            ArchiveFacts.read(tmp_path / "y.mar")


def mar(path: Path, handler: str, name: str = "broken") -> Path:
    """An archive of someone else, by hand."""
    manifest = {"model": {"modelName": name, "modelVersion": "1.0", "handler": "handler.py"}, "archiverVersion": "0.12.0", "runtime": "python"}
    with zipfile.ZipFile(path, "w") as target:
        target.writestr("MAR-INF/MANIFEST.json", json.dumps(manifest))
        target.writestr("handler.py", handler)
    return path


class TestTrust:
    """An archive is code: what is not known here is not run."""

    def altered(self, archive: Path, target: Path, **changed: bytes) -> Path:
        with zipfile.ZipFile(archive) as source, zipfile.ZipFile(target, "w") as written:
            parts = {name: source.read(name) for name in source.namelist()} | {name.replace("__", "/"): data for name, data in changed.items()}
            for name, data in parts.items():
                written.writestr(name, data)
        return target

    def test_its_own_archive_is_copied_without_anything_else(self, archive: Path, tmp_path: Path) -> None:
        # before the first entry that Python's reader knows of; a reader that goes through from the start would unpack it
        stream = io.BytesIO()
        with zipfile.ZipFile(stream, "w") as smuggled:
            smuggled.writestr("numpy.py", "import os")
        (tmp_path / "more.mar").write_bytes(stream.getvalue()[: stream.getvalue().index(b"PK\x01\x02")] + archive.read_bytes())
        copy_trusted(tmp_path / "more.mar", tmp_path / "copy.mar")
        assert b"numpy.py" not in (tmp_path / "copy.mar").read_bytes()
        with zipfile.ZipFile(archive) as first, zipfile.ZipFile(tmp_path / "copy.mar") as second:
            assert sorted(first.namelist()) == sorted(second.namelist())
            for name in (BUNDLE, INSIDE, "torchserve_handler.py"):
                assert first.read(name) == second.read(name)
        assert ArchiveFacts.read(tmp_path / "copy.mar") == ArchiveFacts.read(archive)

    @pytest.mark.parametrize(
        "changed",
        [
            {"torchserve_handler.py": b"import os\n"},
            {"numpy.py": b"import os\n"},
            {"serving__scoring.py": b"import os\n"},
            {"MAR-INF__MANIFEST.json": b'{"model": {"modelName": "tiny", "modelVersion": "1.0", "handler": "torchserve_handler.py:run"}}'},
        ],
        ids=["its handler", "beside it", "below it", "its entry"],
    )
    def test_other_code_is_refused_unless_it_is_trusted(
        self, archive: Path, tmp_path: Path, changed: dict[str, bytes], capsys: pytest.CaptureFixture[str]
    ) -> None:
        foreign = self.altered(archive, tmp_path / "foreign.mar", **changed)
        with pytest.raises(BundleError, match=r"TorchServe would run it.*`--trust-handler` if you trust"), TorchServe([foreign]):
            pass
        assert main(["torchserve", "--bundle", str(foreign), "--port", "0"]) == 2
        assert "--trust-handler" in capsys.readouterr().err

    @pytest.mark.parametrize("name", [BUNDLE, INSIDE, "MAR-INF/MANIFEST.json"])
    def test_what_unpacks_to_far_more_than_it_is_packed_to_is_refused(self, archive: Path, tmp_path: Path, name: str) -> None:
        # 1000 times as many bytes
        with zipfile.ZipFile(archive) as source, zipfile.ZipFile(tmp_path / "bomb.mar", "w", zipfile.ZIP_DEFLATED) as written:
            for each in source.namelist():
                written.writestr(each, b" " * 64 * 2**20 if each == name else source.read(each))
        tracemalloc.start()
        try:
            with pytest.raises(BundleError, match=r"expected (a bundle of )?at most .* bytes"):
                copy_trusted(tmp_path / "bomb.mar", tmp_path / "copy.mar")
            assert tracemalloc.get_traced_memory()[1] < 16 * 2**20
        finally:
            tracemalloc.stop()

    def test_an_entry_that_is_larger_than_it_says_is_not_unpacked(self, archive: Path, tmp_path: Path) -> None:
        with zipfile.ZipFile(archive) as source, zipfile.ZipFile(tmp_path / "bomb.mar", "w", zipfile.ZIP_DEFLATED) as written:
            for each in source.namelist():
                written.writestr(each, b" " * 64 * 2**20 if each == INSIDE else source.read(each))
        data = (tmp_path / "bomb.mar").read_bytes()
        (tmp_path / "bomb.mar").write_bytes(data.replace(struct.pack("<I", 64 * 2**20), struct.pack("<I", 20)))
        tracemalloc.start()
        try:
            with pytest.raises(BundleError, match="expected a TorchServe archive, which it is not"):
                copy_trusted(tmp_path / "bomb.mar", tmp_path / "copy.mar")
            assert tracemalloc.get_traced_memory()[1] < 16 * 2**20
        finally:
            tracemalloc.stop()

    def test_strange_archives_are_refused_in_words(self, archive: Path, tmp_path: Path) -> None:
        deep = self.altered(archive, tmp_path / "deep.mar", **{"MAR-INF__MANIFEST.json": b"[" * 100_000 + b"]" * 100_000})
        with pytest.raises(BundleError, match=r"expected a TorchServe archive, which it is not \(RecursionError\)"):
            ArchiveFacts.read(deep)


class TestHandler:
    """The file in the archive, loaded by TorchServe's own loader."""

    def load(self, archive: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
        from ts.model_loader import TsModelLoader

        with zipfile.ZipFile(archive) as found:
            found.extractall(folder)
        monkeypatch.syspath_prepend(str(folder))
        monkeypatch.delitem(sys.modules, "torchserve_handler", raising=False)
        monkeypatch.setenv("BLANKSLIDE_SERVE_THREADS", "1")
        return TsModelLoader().load("tiny", str(folder), "torchserve_handler.py", batch_size=8)

    def ask(self, service: Any, items: list[dict[str, Any]]) -> tuple[list[Any], Any]:
        from ts.context import Context, RequestProcessor

        made = service.context
        context = Context("tiny", str(made.system_properties["model_dir"]), made.manifest, 8, None, None)
        context.request_processor = [RequestProcessor({}) for _ in items]
        return [json.loads(answer) for answer in service._entry_point(items, context)], context

    @pytest.mark.parametrize("inside", ["onnx", "torch"])
    def test_a_batch_is_one_pass_of_the_scorer(
        self, tiny: TinyBundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, inside: Inside, archive: Path
    ) -> None:
        packed = archive if inside == "onnx" else make_archive(tiny.folder, tmp_path / "out", "torch")
        service = self.load(packed, tmp_path / "unpacked", monkeypatch)
        bodies = [npy(image) for image in tiny.images]
        bodies[5] = b"bad"
        answers, context = self.ask(service, [{"body": bytearray(body)} for body in bodies])
        expected = Scorer.open(tiny.folder, threads=1).read_all(bodies)
        assert [context.get_response_status(i)[0] for i in range(8)] == [422 if i == 5 else 200 for i in range(8)]
        for i in {*range(8)} - {5}:
            came, wanted = Reading.model_validate(answers[i]), expected[i]
            assert isinstance(wanted, Reading)
            assert came.model.provider == {"onnx": "cpu", "torch": "torch-cpu"}[inside]
            if inside == "onnx":
                assert came == wanted
            else:
                assert_within(came, wanted, tiny)

    def test_what_is_no_single_image(self, tiny: TinyBundle, archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        service = self.load(archive, tmp_path / "unpacked", monkeypatch)
        body = bytearray(npy(tiny.images[0]))
        items = [{"data": body, "field": "grid"}, {"image": body}, {"body": {"pixels": [1]}}, {}, {"data": body}]
        answers, context = self.ask(service, items)
        assert [context.get_response_status(i)[0] for i in range(5)] == [400, 400, 415, 415, 200]
        assert "nothing else, got `data`, `field`. Several images and fields are for the ONNX endpoint" in answers[0]["error"]
        assert "nothing else, got `image`" in answers[1]["error"]
        assert "Expected the bytes of an image file" in answers[2]["error"]
        assert {context.get_response_content_type(i) for i in range(5)} == {"application/json"}

    def test_a_bundle_altered_inside_the_archive(self, archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        altered = tmp_path / "tiny.mar"
        with zipfile.ZipFile(archive) as source, zipfile.ZipFile(altered, "w") as target:
            for name in source.namelist():
                data = source.read(name)
                target.writestr(name, with_altered_card(data) if name == BUNDLE else data)
        with pytest.raises(BundleError, match=r"card\.json.*was altered"):
            self.load(altered, tmp_path / "unpacked", monkeypatch)


def assert_within(came: Reading, expected: Reading, tiny: TinyBundle) -> None:
    """The same reading but for what runs the networks; the measure is that of `serving.torch_embedder.check_torch`."""
    scale = float(np.sqrt(np.mean(tiny.embedding.astype(np.float64) ** 2)))
    assert np.abs(np.array(came.embedding) - np.array(expected.embedding)).max() <= MOST * scale
    for one, other in zip(came.tasks, expected.tasks, strict=True):
        for a, b in ((one.encoder, other.encoder), (one.twin, other.twin), (one.control, other.control)):
            assert a is not None
            assert b is not None
            assert a.predicted == b.predicted
            np.testing.assert_allclose([*a.probabilities.values()], [*b.probabilities.values()], rtol=0, atol=1e-4)
        assert one.verdict == other.verdict


class TestReadings:
    def test_are_exactly_those_of_the_onnx_endpoint(self, server: TorchServe, tiny: TinyBundle) -> None:
        """One image at a time: the same pass and as many threads."""
        scorer = Scorer.open(tiny.folder, threads=available_cores())
        with running([scorer]) as url, ScoringClient(url) as onnx, server.client() as torchserve:
            for n in range(4):
                for body in (ome(tiny.images[n]), tiff(tiny.images[n], photometric="minisblack"), npy(tiny.images[n])):
                    there, here = torchserve.score("tiny", body), onnx.score("tiny", body)
                    np.testing.assert_allclose(there.embedding, tiny.embedding[n], rtol=0, atol=embedding_tolerance(tiny.embedding))
                    assert there == here

    @pytest.mark.parametrize("name", ["tiny", "tiny-torch"])
    def test_many_at_once_are_those_of_the_onnx_endpoint(self, server: TorchServe, tiny: TinyBundle, tiny_torch: TinyBundle, name: str) -> None:
        def ask(n: int) -> Reading | int:
            try:
                return client.score(name, b"bad" if n % 8 == 5 else npy(tiny.images[n % 8]))
            except ServiceError as error:
                return error.status

        with server.client() as client, ThreadPoolExecutor(16) as pool:
            answers = list(pool.map(ask, range(48)))
        with running([Scorer.open((tiny if name == "tiny" else tiny_torch).folder)]) as url, ScoringClient(url) as onnx:
            expected = [onnx.score(name, npy(image)) for image in tiny.images]
        for n, answer in enumerate(answers):
            if n % 8 == 5:
                assert answer == 422
            else:
                assert isinstance(answer, Reading)
                assert answer.model.provider == ("cpu" if name == "tiny" else "torch-cpu")
                assert_within(answer, expected[n % 8], tiny)

    def test_each_model_answers_for_itself(self, server: TorchServe, tissue: TinyBundle) -> None:
        with server.client() as client:
            reading = client.score("tissue", png(tissue.images[2]))
            assert reading.model.name == "tissue"
            np.testing.assert_allclose(reading.embedding, tissue.embedding[2], rtol=0, atol=embedding_tolerance(tissue.embedding))
            with pytest.raises(ServiceError, match="Model not found: nope") as caught:
                client.score("nope", b"x")
        assert caught.value.status == 404

    def test_a_bad_image_is_a_clear_4xx(self, server: TorchServe, tiny: TinyBundle) -> None:
        headers = {"Authorization": f"Bearer {server.token('inference')}", "Content-Type": "application/octet-stream"}
        answer = httpx.post(server.prediction_url("tiny"), headers=headers, content=npy(tiny.images[0][:2]), timeout=20)
        assert answer.status_code == 422
        assert "expected 3 channels (dna, er, actin), got 2" in answer.json()["error"]
        assert answer.json()["expected"]["channels"] == ["dna", "er", "actin"]

    def test_a_form_works_too(self, server: TorchServe, tiny: TinyBundle) -> None:
        headers = {"Authorization": f"Bearer {server.token('inference')}"}
        answer = httpx.post(server.prediction_url("tiny"), headers=headers, files={"data": npy(tiny.images[0])}, timeout=20)
        np.testing.assert_allclose(answer.json()["embedding"], tiny.embedding[0], rtol=0, atol=embedding_tolerance(tiny.embedding))

    def test_json_is_no_image(self, inference: httpx.Client) -> None:
        answer = inference.post("/predictions/tiny", json={"pixels": [1]})
        assert answer.status_code == 415
        assert "Expected the bytes of an image file" in answer.json()["error"]

    def test_parts_of_a_form_that_are_not_read(self, inference: httpx.Client, tiny: TinyBundle) -> None:
        body = npy(tiny.images[0])
        answer = inference.post("/predictions/tiny", files={"data": body, "centres": b"1,2"})
        assert answer.status_code == 400
        assert "got `centres`, `data`. Several images and fields are for the ONNX endpoint" in answer.json()["error"]


class TestSafety:
    @pytest.mark.parametrize("kind", ["wrong", "management", "API"])
    def test_an_inference_token_is_needed(self, server: TorchServe, tiny: TinyBundle, kind: str) -> None:
        token = "wrong" if kind == "wrong" else server.token(kind)
        with TorchServeClient(server.url, token) as client, pytest.raises(ServiceError, match="Token Authorization failed") as caught:
            client.score("tiny", npy(tiny.images[0]))
        assert caught.value.status == 400

    @pytest.mark.parametrize("path", ["/v1/models/tiny:predict", "/v2/models/tiny/infer", "/explanations/tiny", "/invocations", "/ping"])
    def test_on_every_path_of_the_inference_port(self, server: TorchServe, path: str) -> None:
        answer = httpx.post(server.url + path, content=b"x", timeout=20)
        assert (answer.status_code, answer.json()["type"]) == (400, "InvalidKeyException")

    def test_management_needs_its_token(self, server: TorchServe, management: httpx.Client) -> None:
        for headers in ({}, bearer(server, "inference"), bearer(server, "API")):
            for method, path in (("GET", "/models"), ("PUT", "/models/tiny?min_worker=0"), ("DELETE", "/models/tiny"), ("POST", "/models?url=x.mar")):
                answer = management.request(method, path, headers=headers)
                assert (answer.status_code, answer.json()["type"]) == (400, "InvalidKeyException")
        answer = management.get("/models/tiny", headers=bearer(server, "management"))
        assert answer.json()[0]["workers"][0]["status"] == "READY"
        assert answer.json()[0]["batchSize"] == 8

    def test_nothing_is_registered_or_taken_away(self, server: TorchServe, management: httpx.Client, tmp_path: Path) -> None:
        outside = mar(tmp_path / "outside.mar", "pass", "outside")
        headers = bearer(server, "management")
        with socket.create_server(("127.0.0.1", 0)) as listener:
            listener.settimeout(0.2)
            places = [f"http://127.0.0.1:{listener.getsockname()[1]}/outside.mar", outside.as_uri(), str(outside), "../outside.mar", "tiny.mar"]
            for place in places:
                answer = management.post("/models", params={"url": place, "model_name": "other"}, headers=headers)
                assert (answer.status_code, answer.json()["type"]) == (405, "MethodNotAllowedException"), place
            with pytest.raises(TimeoutError):
                listener.accept()
        assert management.delete("/models/tiny", headers=headers).status_code == 405
        names = [model["modelName"] for model in management.get("/models", headers=headers).json()["models"]]
        assert sorted(names) == ["tiny", "tiny-torch", "tissue"]

    def test_urls_are_closed_should_registering_be_allowed(self, server: TorchServe) -> None:
        settings = dict(line.split("=", 1) for line in (server.home / "config.properties").read_text().splitlines())
        for url in ("http://127.0.0.1/x.mar", "https://example.com/x.mar", "file:///tmp/x.mar", "s3://bucket/x.mar"):
            assert re.fullmatch(settings["allowed_urls"], url) is None

    def test_grpc_asks_for_a_token_and_registers_nothing(self, server: TorchServe) -> None:
        def call(port: int, method: str, *headers: str) -> str:
            command = ["curl", "-sS", "--max-time", "20", "--http2-prior-knowledge", "-D", "-", "--data-binary", "@-"]
            command += [part for header in ("content-type: application/grpc", "te: trailers", *headers) for part in ("-H", header)]
            # an empty message
            return subprocess.run([*command, f"http://127.0.0.1:{port}/{method}"], input=bytes(5), capture_output=True, check=True).stdout.decode()

        service, token = "org.pytorch.serve.grpc.management.ManagementAPIsService", f"authorization: Bearer {server.token('management')}"
        for method in ("ListModels", "RegisterModel", "UnregisterModel"):
            assert "Token Authorization failed" in call(server.ports.grpc_management, f"{service}/{method}")
        assert "Token Authorization failed" in call(server.ports.grpc_inference, "org.pytorch.serve.grpc.inference.InferenceAPIsService/Predictions")
        for method in ("RegisterModel", "UnregisterModel"):
            assert "Model API disabled" in call(server.ports.grpc_management, f"{service}/{method}", token)

    def test_metrics(self, server: TorchServe, tiny: TinyBundle) -> None:
        with server.client() as client:
            client.score("tiny", npy(tiny.images[0]))
        for headers in ({}, bearer(server, "inference")):
            text = httpx.get(f"http://127.0.0.1:{server.ports.metrics}/metrics", headers=headers, timeout=20).text
            assert re.search(r'^ts_inference_requests_total\{model_name="tiny".* [1-9]', text, re.MULTILINE)
            assert re.search(r'^PredictionTime\{ModelName="tiny"', text, re.MULTILINE)

    def test_a_token_can_be_renewed(self, server: TorchServe, management: httpx.Client, tiny: TinyBundle) -> None:
        before = server.token("inference")
        assert management.get("/token", params={"type": "inference"}, headers=bearer(server, "API")).status_code == 200
        assert server.token("inference") != before
        assert server.keys.stat().st_mode & 0o077 == 0
        with server.client() as client:
            assert client.score("tiny", npy(tiny.images[0])).model.name == "tiny"

    def test_no_snapshot_is_written(self, server: TorchServe) -> None:
        written = {path.relative_to(server.home).parts[0] for path in server.home.rglob("*") if path.is_file()}
        assert written == {"key_file.json", "config.properties", "log4j2.xml", "logs", "store", "tmp"}
        assert {path.name for path in (server.home / "logs").iterdir()} == {"access.log", "console.log", SERVER, WORKERS}

    def test_logs_are_bounded(self, server: TorchServe, tiny: TinyBundle) -> None:
        sizes = {}
        with server.client() as client:
            for name in ("first", "second"):
                client.score("tiny", npy(tiny.images[0]))
                sizes[name] = [(server.home / "logs" / log).stat().st_size for log in ("console.log", SERVER)]
        assert sizes["first"] == sizes["second"]
        configuration = (server.home / "log4j2.xml").read_text()
        assert configuration.count("<RollingFile") == configuration.count('<SizeBasedTriggeringPolicy size="10 MB"/>') == 3

    def test_workers_know_nothing_of_the_caller(self, server: TorchServe) -> None:
        members = [psutil.Process(pid) for pid in group_members(server.process_group)]
        assert len(members) == 6
        for process in members:
            assert SECRET not in process.environ().values()
            assert "AWS_SECRET_ACCESS_KEY" not in process.environ()
        assert all(process.environ()["TMPDIR"].startswith(str(server.home)) for process in members)

    def test_keys_and_folder_are_private(self, server: TorchServe) -> None:
        assert server.keys.stat().st_mode & 0o077 == 0
        assert server.home.stat().st_mode & 0o077 == 0

    def test_every_port_is_on_loopback(self, server: TorchServe) -> None:
        listening = {
            (connection.laddr.ip, connection.laddr.port)
            for pid in group_members(server.process_group)
            for connection in psutil.Process(pid).net_connections("tcp")
            if connection.status == psutil.CONN_LISTEN
        }
        assert {port for _, port in listening} == set(vars(server.ports).values())
        assert {address.removeprefix("::ffff:") for address, _ in listening} == {"127.0.0.1"}


def traceback_lines(worker: str, *texts: str) -> str:
    return "".join(f"2026-11-26T22:46:16,338 {worker} {text}\n" for text in texts)


class TestLog:
    """Lines as TorchServe 0.12.0 writes them."""

    START = "s_name_part0=/tmp/.ts.sock, s_name_part1=9000, pid=1"
    FIRST = (
        "Backend worker process died.",
        "Traceback (most recent call last):",
        '  File "model_loader.py", line 108, in load',
        "    module, function_name = self._load_handler_file(handler)",
        "ModuleNotFoundError: No module named 'nonexistent'",
    )
    HIDING = (
        "",
        "During handling of the above exception, another exception occurred:",
        "",
        "Traceback (most recent call last):",
        '  File "model_loader.py", line 159, in _load_default_handler',
        "ModuleNotFoundError: No module named 'ts.torch_handler.handler'",
    )

    def test_the_first_traceback_without_what_hides_it(self, tmp_path: Path) -> None:
        other = traceback_lines("W-9001-fine_1.0-stdout", "Torch worker started.")
        lines = (self.START, *self.FIRST, *self.HIDING, self.START, *self.FIRST)
        (tmp_path / WORKERS).write_text(other + traceback_lines("W-9000-broken_1.0-stdout", *lines))
        assert story(tmp_path).splitlines() == list(self.FIRST[1:])
        assert is_whole(story(tmp_path))

    def test_a_cause_belongs_to_it(self, tmp_path: Path) -> None:
        cause = ("", "The above exception was the direct cause of the following exception:", "", "Traceback (most recent call last):")
        lines = (*self.FIRST, *cause, "  raise BundleError", "registry.errors.BundleError: Make the archive again.", "It has two lines.")
        (tmp_path / WORKERS).write_text(traceback_lines("W-9000-broken_1.0-stdout", *lines))
        assert story(tmp_path).splitlines() == list(lines[1:])

    def test_lines_that_torchserve_lost_come_again_with_the_next_process(self, tmp_path: Path) -> None:
        lines = (self.START, *self.FIRST[:4], self.START, "Torch worker started.", self.START, *self.FIRST, self.START)
        (tmp_path / WORKERS).write_text(traceback_lines("W-9000-broken_1.0-stdout", *lines))
        assert story(tmp_path).splitlines() == list(self.FIRST[1:])

    @pytest.mark.parametrize("written", [1, 2, 3, 4, 7, 9, 10])
    def test_half_a_traceback_is_not_whole(self, tmp_path: Path, written: int) -> None:
        cause = ("", "The above exception was the direct cause of the following exception:", "", "Traceback (most recent call last):", "  x", "Error")
        (tmp_path / WORKERS).write_text(traceback_lines("W-9000-broken_1.0-stdout", *(*self.FIRST, *cause)[:written]))
        assert not is_whole(story(tmp_path))

    def test_a_worker_that_ends_without_a_word(self, tmp_path: Path) -> None:
        assert story(tmp_path) == "nothing"
        (tmp_path / SERVER).write_text("2026 ERROR epollEventLoopGroup org.pytorch.serve - Failed to update key file\n")
        assert not worker_failed(tmp_path)
        (tmp_path / SERVER).write_text(
            "2026 WARN W-9000-exits_1.0 org.pytorch.serve.wlm.BatchAggregator - Load model failed: exits, error: Worker died."
        )
        assert worker_failed(tmp_path)
        (tmp_path / WORKERS).write_text(traceback_lines("W-9000-exits_1.0-stdout", self.START, "model_name: exits, batchSize: 8", "going down"))
        assert story(tmp_path).endswith("going down")


class TestStarting:
    def test_a_handler_that_cannot_be_imported_is_shown_whole_and_nothing_stays(self, tmp_path: Path) -> None:
        """A worker whose environment lacks the package fails in the same way."""
        broken = mar(tmp_path / "someone-elses.mar", "import blankslide_that_is_not_there\n")
        # a worker's socket lies in it, and a socket's path is at most 107 bytes
        with tempfile.TemporaryDirectory(prefix="ts-") as short:
            place = Path(short)
            command = [sys.executable, "-m", "pipelines.cli", "torchserve", "--bundle", str(broken), "--port", "0", "--trust-handler"]
            start = time.monotonic()
            done = subprocess.run(command, cwd=ROOT, env={**os.environ, "TMPDIR": str(place)}, capture_output=True, text=True, check=False)
            # TorchServe itself would try again for minutes, and the start may take two
            assert time.monotonic() - start < 110
            assert done.returncode == 2
            assert "TorchServe could not start `broken`. Its log says:\nTraceback (most recent call last):\n" in done.stderr
            assert 'handler.py", line 1, in <module>\n    import blankslide_that_is_not_there\n' in done.stderr
            assert done.stderr.rstrip().endswith("ModuleNotFoundError: No module named 'blankslide_that_is_not_there'")
            assert list(place.iterdir()) == []
            assert [process for process in psutil.process_iter(["cmdline"]) if str(place) in " ".join(process.info["cmdline"] or [])] == []

    def test_a_folder_too_long_for_sockets(self, archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        place = tmp_path / ("x" * 80)
        place.mkdir()
        monkeypatch.setattr(tempfile, "tempdir", str(place))
        with pytest.raises(ProviderError, match="Set TMPDIR to a shorter folder"), TorchServe([archive]):
            pass
        assert list(place.iterdir()) == []

    def test_no_archive(self, tmp_path: Path) -> None:
        with pytest.raises(BundleError, match="Make one with `blankslide archive NAME`"), TorchServe([tmp_path / "x.mar"]):
            pass

    def test_two_archives_of_one_model(self, archive: Path, tmp_path: Path) -> None:
        with pytest.raises(BundleError, match="Serve each name once"):
            TorchServe([archive, Path(shutil.copy(archive, tmp_path / "another-name.mar"))])

    def test_ports(self) -> None:
        assert Ports.beside(9000) == Ports(9000, 9001, 9002, 0, 0)
        assert len({*vars(Ports.beside(0).chosen()).values()}) == 5

    def test_a_taken_port(self) -> None:
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            listener.listen()
            with pytest.raises(ParamsError, match="The management port"):
                Ports(0, listener.getsockname()[1], 0, 0, 0).chosen()

    @pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL])
    def test_a_signal_to_the_command_ends_java_and_workers(self, tiny: TinyBundle, end: signal.Signals) -> None:
        arguments = ["torchserve", "--bundle", str(tiny.folder), "--port", "0", "--inside", "torch"]
        command = subprocess.Popen([sys.executable, "-u", "-m", "pipelines.cli", *arguments], cwd=ROOT, stdout=subprocess.PIPE, text=True)
        try:
            assert command.stdout is not None
            assert "Starting TorchServe with `tiny`" in command.stdout.readline()
            assert "Serving 1 model on http://127.0.0.1:" in command.stdout.readline()
            assert "Tokens are in" in command.stdout.readline()
            java = [child for child in psutil.Process(command.pid).children(recursive=True) if child.name() == "java"]
            assert len(java) == 1
            group = os.getpgid(java[0].pid)
            example = command.stdout.readline()
            assert len(group_members(group)) >= 3
            assert_example_runs(example, tiny)
            command.send_signal(end)
            assert ("TorchServe has stopped." in command.stdout.read()) == (end == signal.SIGTERM)
            assert command.wait(30) == (0 if end == signal.SIGTERM else -signal.SIGKILL)
            deadline = time.monotonic() + 5
            while group_members(group) and time.monotonic() < deadline:
                time.sleep(0.05)
            assert group_members(group) == []
        finally:
            command.kill()
            command.wait()


def test_the_client_asks_for_the_model_it_was_told_whatever_its_name() -> None:
    asked: list[str] = []

    class Door(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked.append(self.path)
            self.send_error(404)

        def log_message(self, *_: object) -> None:
            """Not in the output of tests."""

    with HTTPServer(("127.0.0.1", 0), Door) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with TorchServeClient(f"http://127.0.0.1:{server.server_port}", "token") as client, pytest.raises(ServiceError):
            client.score("a/../b?c=d#e", b"image")
        server.shutdown()
    assert asked == ["/predictions/a%2F..%2Fb%3Fc%3Dd%23e"]


def assert_example_runs(example: str, tiny: TinyBundle) -> None:
    """The curl line that the command prints, with a real file in the place of IMAGE.tif."""
    with tempfile.NamedTemporaryFile(suffix=".tif") as image:
        image.write(ome(tiny.images[0]))
        image.flush()
        line = example.replace("@IMAGE.tif", f"@{image.name}")
        # a token in the arguments could be read by every user of the machine
        assert "Authorization" not in line.partition("| curl")[2]
        done = subprocess.run(["bash", "-c", f"{line.strip()} -sS --fail"], capture_output=True, check=True)
    assert b'"embedding":[' in done.stdout
    assert b'"provider":"torch-cpu"' in done.stdout


def with_altered_card(packed: bytes) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(packed)) as source, zipfile.ZipFile(stream, "w") as target:
        for name in source.namelist():
            target.writestr(name, source.read(name) + (b" " if name == "card.json" else b""))
    return stream.getvalue()

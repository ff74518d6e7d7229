"""The real TorchServe gives the ONNX endpoint's readings, asks for a token, and leaves no process behind."""

from __future__ import annotations

import io
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import psutil
import pytest

from registry.bundle import read_bundle
from registry.errors import BundleError, ParamsError, ProviderError
from serving.archive import BUNDLE, make_archive, pack_bundle, unpack_bundle
from serving.client import ScoringClient, TorchServeClient
from serving.endpoint.server import running
from serving.errors import ServiceError
from serving.scoring import Scorer, embedding_tolerance
from serving.torchserve import Ports, TorchServe
from tests.serving.bundles import TinyBundle, npy, ome, png, tiff

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("store")


@pytest.fixture(scope="module")
def archive(tiny: TinyBundle, store: Path) -> Path:
    return make_archive(tiny.folder, store)


@pytest.fixture(scope="module")
def server(archive: Path, tissue: TinyBundle, store: Path) -> Iterator[TorchServe]:
    with TorchServe([archive, make_archive(tissue.folder, store)]) as running_server:
        yield running_server


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
            assert sorted(found.namelist()) == ["MAR-INF/MANIFEST.json", BUNDLE, "inside.json", "torchserve_handler.py"]
            found.extract(BUNDLE, tmp_path)
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


class TestReadings:
    def test_are_those_of_the_onnx_endpoint(self, server: TorchServe, tiny: TinyBundle) -> None:
        scorer = Scorer.open(tiny.folder)
        with running([scorer]) as url, ScoringClient(url) as onnx, server.client() as torchserve:
            for n in range(4):
                for body in (ome(tiny.images[n]), tiff(tiny.images[n], photometric="minisblack"), npy(tiny.images[n])):
                    there, here = torchserve.score("tiny", body), onnx.score("tiny", body)
                    np.testing.assert_allclose(there.embedding, tiny.embedding[n], rtol=0, atol=embedding_tolerance(tiny.embedding))
                    assert there == here

    def test_many_at_once_each_get_their_own(self, server: TorchServe, tiny: TinyBundle) -> None:
        def ask(n: int) -> list[float] | int:
            try:
                return client.score("tiny", b"bad" if n % 8 == 5 else npy(tiny.images[n % 8])).embedding
            except ServiceError as error:
                return error.status

        with server.client() as client, ThreadPoolExecutor(16) as pool:
            answers = list(pool.map(ask, range(48)))
        for n, answer in enumerate(answers):
            if n % 8 == 5:
                assert answer == 422
            else:
                np.testing.assert_allclose(answer, tiny.embedding[n % 8], rtol=0, atol=embedding_tolerance(tiny.embedding))

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

    def test_json_is_no_image(self, server: TorchServe) -> None:
        answer = httpx.post(
            server.prediction_url("tiny"), headers={"Authorization": f"Bearer {server.token('inference')}"}, json={"pixels": [1]}, timeout=20
        )
        assert answer.status_code == 415
        assert "Expected the bytes of an image file" in answer.json()["error"]

    @pytest.mark.parametrize("kind", ["wrong", "management"])
    def test_a_token_is_needed(self, server: TorchServe, tiny: TinyBundle, kind: str) -> None:
        token = "wrong" if kind == "wrong" else server.token(kind)
        with TorchServeClient(server.url, token) as client, pytest.raises(ServiceError, match="Token Authorization failed") as caught:
            client.score("tiny", npy(tiny.images[0]))
        assert caught.value.status == 400

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


class TestStarting:
    def test_a_bundle_altered_inside_the_archive_is_named_and_nothing_stays(self, archive: Path, tmp_path: Path) -> None:
        altered = tmp_path / "tiny.mar"
        with zipfile.ZipFile(archive) as source, zipfile.ZipFile(altered, "w") as target:
            for name in source.namelist():
                data = source.read(name)
                target.writestr(name, with_altered_card(data) if name == BUNDLE else data)
        server = TorchServe([altered])
        with pytest.raises(ProviderError, match=r"(?s)could not start `tiny`.*Traceback.*BundleError.*card\.json.*was altered"), server:
            pass
        assert group_members(server.process_group) == []
        assert not server.home.exists()

    def test_no_archive(self, tmp_path: Path) -> None:
        with pytest.raises(BundleError, match="Make one with `blankslide archive NAME`"), TorchServe([tmp_path / "x.mar"]):
            pass

    def test_two_archives_of_one_name(self, archive: Path) -> None:
        with pytest.raises(BundleError, match="Serve each name once"):
            TorchServe([archive, archive])

    def test_ports(self) -> None:
        assert Ports.beside(9000) == Ports(9000, 9001, 9002, 0, 0)
        assert len({*vars(Ports.beside(0).chosen()).values()}) == 5

    def test_a_taken_port(self) -> None:
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            listener.listen()
            with pytest.raises(ParamsError, match="The management port"):
                Ports(0, listener.getsockname()[1], 0, 0, 0).chosen()

    def test_sigterm_to_the_command_ends_java_and_workers(self, tiny: TinyBundle) -> None:
        code = f"from pathlib import Path; from serving.torchserve import run; run([Path({str(tiny.folder)!r})], 0)"
        command = subprocess.Popen([sys.executable, "-u", "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True)
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
            command.send_signal(signal.SIGTERM)
            assert "TorchServe has stopped." in command.stdout.read()
            assert command.wait(30) == 0
            deadline = time.monotonic() + 5
            while group_members(group) and time.monotonic() < deadline:
                time.sleep(0.05)
            assert group_members(group) == []
        finally:
            command.kill()
            command.wait()


def assert_example_runs(example: str, tiny: TinyBundle) -> None:
    """The curl line that the command prints, with a real file in the place of IMAGE.tif."""
    line = example.replace("--data-binary @IMAGE.tif", "--data-binary @-")
    done = subprocess.run(["bash", "-c", f"{line.strip()} -sS --fail"], input=ome(tiny.images[0]), capture_output=True, check=True)
    assert b'"embedding":[' in done.stdout


def with_altered_card(packed: bytes) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(packed)) as source, zipfile.ZipFile(stream, "w") as target:
        for name in source.namelist():
            target.writestr(name, source.read(name) + (b" " if name == "card.json" else b""))
    return stream.getvalue()

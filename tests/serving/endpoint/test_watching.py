"""A model is replaced under load without a dropped request; a bad bundle is said and the one before goes on."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import numpy as np
import pytest

from registry.bundle import read_bundle
from registry.errors import BundleError
from serving.endpoint.metrics import Metrics
from serving.endpoint.served import ServedModels
from serving.endpoint.server import answering
from serving.endpoint.watching import Watch, watching
from serving.endpoint.workers import Plan, app_of
from serving.live import Live, Refusal
from serving.scoring import Scorer, embedding_tolerance
from serving.settings import Settings
from tests.serving.bundles import Exported, TinyBundle, make_bundle, npy
from tests.serving.service import service


def publish(root: Path, bundle: TinyBundle, version: int, altered: bool = False) -> Live:
    """As a follower does: the bundle is renamed into place, then the pointer is replaced."""
    found = read_bundle(bundle.folder)
    name, digest, identity = found.name, found.digest, found.identity
    (root / name).mkdir(exist_ok=True)
    bundle.folder.rename(root / name / digest)
    if altered:
        (root / name / digest / "encoder.onnx").write_bytes(b"nothing of the kind")
    live = Live(f"{name}/{digest}", digest, f"{name}@promoted", version, identity, "current")
    live.write(root)
    return live


@pytest.fixture
def one(exported: dict[str, Exported], tmp_path: Path) -> TinyBundle:
    return make_bundle(tmp_path / "one" / "tiny", exported)


@pytest.fixture
def other(exported: dict[str, Exported], tmp_path: Path) -> TinyBundle:
    """The same name, another network: the twin's."""
    return make_bundle(tmp_path / "other" / "tiny", {**exported, "encoder": replace(exported["untrained-tiny"], role="encoder")})


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "live"
    folder.mkdir()
    return folder


@pytest.fixture
def url(root: Path, one: TinyBundle) -> Iterator[str]:
    publish(root, one, 1)
    settings = Settings(poll_s=0.05)
    with answering(lambda address: app_of(Plan([], settings, address, root), lambda _line: None), settings) as address:
        yield address


def until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 40
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def counted(url: str, name: str) -> float:
    text = httpx.get(f"{url}/metrics").text
    return sum(float(line.rpartition(" ")[2]) for line in text.splitlines() if line.startswith(name))


def identity(url: str) -> str:
    return str(httpx.get(f"{url}/v1/models").json()["models"][0]["identity"])


def test_swapped_under_load_without_a_dropped_request(root: Path, url: str, one: TinyBundle, other: TinyBundle) -> None:
    image = one.images[0]
    expected = {"one": one.embedding[0], "other": other.embedding[0]}
    came: list[str] = []
    ended = threading.Event()

    def client() -> None:
        with httpx.Client(base_url=url, timeout=20) as http:
            while not ended.is_set():
                answer = http.post("/v1/embed?model=tiny", content=npy(image))
                embedding = answer.json()["embedding"] if answer.status_code == 200 else []
                near = [name for name, value in expected.items() if np.allclose(embedding, value, rtol=0, atol=embedding_tolerance(value))]
                came.append(near[0] if near else f"{answer.status_code}")

    threads = [threading.Thread(target=client) for _ in range(4)]
    for thread in threads:
        thread.start()
    until(lambda: len(came) > 30)
    second = publish(root, other, 2)
    until(lambda: "other" in came)
    answered = len(came)
    until(lambda: len(came) > answered + 30)
    ended.set()
    for thread in threads:
        thread.join()
    assert set(came) == {"one", "other"}
    assert came[0] == "one"
    assert came[-1] == "other"
    assert identity(url) == second.identity
    assert counted(url, "blankslide_bundle_swaps_total") == 1


def test_a_bad_bundle_is_said_once_and_the_one_before_goes_on(root: Path, url: str, other: TinyBundle) -> None:
    before = identity(url)
    publish(root, other, 2, altered=True)
    until(lambda: counted(url, "blankslide_bundles_refused_total") > 0)
    time.sleep(0.3)
    assert counted(url, "blankslide_bundles_refused_total") == 1
    assert identity(url) == before
    assert httpx.post(f"{url}/v1/embed?model=tiny", content=npy(other.images[0])).status_code == 200


def test_an_error_nobody_thought_of_does_not_end_the_following(root: Path, one: TinyBundle, other: TinyBundle) -> None:
    first = publish(root, one, 1)
    opened: list[Path] = []

    def opener(bundle: Path, evidence: str) -> Scorer:
        opened.append(bundle)
        if len(opened) == 1:
            raise FileNotFoundError(bundle)
        return Scorer.open(bundle, evidence=evidence)

    async def story() -> str:
        watch = Watch(models, root, opener, {"tiny": first})
        second = publish(root, other, 2)
        async with watching(watch, 0.02):
            deadline = time.monotonic() + 20
            while models.scorer("tiny").bundle.digest != second.digest:
                assert time.monotonic() < deadline
                await asyncio.sleep(0.02)
        return second.digest

    models = ServedModels([Scorer.open(first.bundle(root))], Settings(), Metrics())
    assert asyncio.run(story()) == models.scorer("tiny").bundle.digest
    assert len(opened) == 2
    models.close()


def test_what_the_follower_refused_is_counted(root: Path, url: str) -> None:
    Refusal("0" * 64, 2, "Golden images differ.", "2026-01-01T00:00:00Z").write(root, "tiny")
    until(lambda: counted(url, "blankslide_bundles_refused_total") == 1)


def test_a_pointer_that_cannot_be_read(root: Path, url: str) -> None:
    before = identity(url)
    (root / "tiny.json").write_text('{"folder": ')
    until(lambda: counted(url, "blankslide_bundles_refused_total") == 1)
    assert identity(url) == before


def test_evidence_that_went_stale_is_said(root: Path, url: str) -> None:
    found = Live.read(root, "tiny")
    Live(found.folder, found.digest, found.reference, found.version, found.identity, "stale: numpy is another").write(root)
    until(lambda: httpx.get(f"{url}/healthz").json()["stale"] == {"tiny": "stale: numpy is another"})
    assert counted(url, "blankslide_bundle_swaps_total") == 0


def test_a_bad_pointer_at_the_start_refuses(root: Path, one: TinyBundle) -> None:
    live = publish(root, one, 1)
    (root / live.folder / "card.json").write_text("{}")
    with pytest.raises(BundleError, match=r"card\.json"):
        app_of(Plan([], Settings(), "", root), lambda _line: None)


def test_what_every_process_does_is_counted_once(root: Path, one: TinyBundle, other: TinyBundle, tmp_path: Path) -> None:
    first = publish(root, one, 1)

    def logged(message: str) -> int:
        return running.log.read_text().count(f'"message":"{message}"')

    with service(["--live", str(root)], tmp_path / "log", processes=2, threads=1, poll_s=0.1) as running:
        second = publish(root, other, 2)
        until(lambda: logged("bundle served") == 2)
        assert counted(running.url, "blankslide_bundle_swaps_total") == 1
        replace(first, evidence="stale: numpy is another").write(root)
        until(lambda: logged("bundle served") == 4)
        assert counted(running.url, "blankslide_bundle_swaps_total") == 2
        replace(first, evidence="current").write(root)
        until(lambda: logged("bundle served") == 6)
        second.write(root)
        until(lambda: logged("bundle served") == 8)
        assert counted(running.url, "blankslide_bundle_swaps_total") == 3
        Refusal("0" * 64, 2, "Golden images differ.", "2026-01-01T00:00:00Z").write(root, "tiny")
        until(lambda: logged("bundle refused") == 2)
        assert counted(running.url, "blankslide_bundles_refused_total") == 1
        # one that comes back says so again, and counts nothing
        running.workers[0].kill()
        until(lambda: logged("bundle refused") == 3)
        assert counted(running.url, "blankslide_bundles_refused_total") == 1

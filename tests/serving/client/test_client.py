"""The clients against real HTTP: what is asked again and when, many images in order without holding them all, errors that spoil nothing else."""

from __future__ import annotations

import asyncio
import gc
import itertools
import json
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import contextmanager
from email.utils import formatdate
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from registry.errors import ImageError, ParamsError
from serving.client import ScoringClient
from serving.client.asynchronous import AsyncScoringClient
from serving.client.exchange import Answered, _sent_names
from serving.client.retries import Retries, retry_after_s
from serving.endpoint.server import running
from serving.errors import ServiceError
from serving.schema import EmbeddingAnswer, Reading
from serving.scoring import Scorer, embedding_tolerance
from serving.settings import Settings
from tests.serving.bundles import TinyBundle, npy, ome, png, tiff
from tests.serving.client.front import HANG_UP, RESET, SILENT, front, refusal

TOKEN = "a-token-of-the-test"


class FakeTime:
    """A clock that goes forward when somebody waits."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.waits: list[float] = []

    def clock(self) -> float:
        return self.now

    def wait(self, seconds: float, _stop: threading.Event) -> None:
        self.waits.append(seconds)
        self.now += seconds

    async def wait_async(self, seconds: float) -> None:
        self.waits.append(seconds)
        self.now += seconds


def blocking(url: str, act: Callable[[Any], Any], times: FakeTime | None = None, **options: Any) -> Any:
    """What one call of the blocking client gives; what it yields as a list."""
    given = options | ({"wait": times.wait, "clock": times.clock} if times else {})
    with ScoringClient(url, **given) as client:
        found = act(client)
        return list(found) if isinstance(found, Iterator) else found


def asynchronous(url: str, act: Callable[[Any], Any], times: FakeTime | None = None, **options: Any) -> Any:
    """The same of the asynchronous client."""
    given = options | ({"wait": times.wait_async, "clock": times.clock} if times else {})

    async def run() -> Any:
        async with AsyncScoringClient(url, **given) as client:
            found = act(client)
            return [one async for one in found] if isinstance(found, AsyncIterator) else await found

    return asyncio.run(run())


Ask = Callable[..., Any]


@pytest.fixture(params=[blocking, asynchronous])
def ask(request: pytest.FixtureRequest) -> Ask:
    ask: Ask = request.param
    return ask


@pytest.fixture(scope="module")
def scorer(tiny: TinyBundle) -> Scorer:
    return Scorer.open(tiny.folder)


@pytest.fixture(scope="module")
def url(scorer: Scorer) -> Iterator[str]:
    with running([scorer]) as address:
        yield address


def steady(**changes: Any) -> Retries:
    return Retries(**{"chance": lambda: 0.0, **changes})


class TestAskedAgain:
    def test_a_busy_service_after_the_time_it_states(self, ask: Ask, url: str, scorer: Scorer, tiny: TinyBundle) -> None:
        times = FakeTime()
        with front(url, [refusal(429, "3"), refusal(503, "2.5"), refusal(429)]) as state:
            reading = ask(state.url, lambda client: client.score("tiny", npy(tiny.images[6])), times, retries=steady())
        assert reading == scorer.read(npy(tiny.images[6]))
        # without a stated time the client's own: the third wait of 0.25, 0.5, 1 s, halved by chance
        assert times.waits == [3.0, 2.5, 0.5]
        ids = [line for head in state.heads for line in head.splitlines() if line.lower().startswith("x-request-id")]
        assert len(ids) == 3
        assert len(set(ids)) == 1

    @pytest.mark.parametrize("trouble", [RESET, HANG_UP])
    def test_a_broken_connection(self, ask: Ask, url: str, scorer: Scorer, tiny: TinyBundle, trouble: str) -> None:
        times = FakeTime()
        with front(url, [trouble, trouble]) as state:
            answer = ask(state.url, lambda client: client.embed("tiny", ome(tiny.images[6])), times, retries=steady())
        assert answer == scorer.embed(ome(tiny.images[6]))
        assert times.waits == [0.125, 0.25]

    def test_nobody_there_a_few_times(self, ask: Ask, free_url: str) -> None:
        times = FakeTime()
        with pytest.raises(
            ServiceError, match=r"No answer from .*/v1/models \(ConnectError.*\) \(tried 3 times in 0 s\)\. Start the service"
        ) as caught:
            ask(free_url, lambda client: client.models(), times, retries=steady(unanswered=3))
        assert times.waits == [0.125, 0.25]
        assert caught.value.status == 0

    def test_not_for_longer_than_it_may(self, ask: Ask, url: str) -> None:
        times = FakeTime()
        with front(url, [refusal(429, "100")] * 9) as state, pytest.raises(ServiceError, match=r"Busy\. \(tried 4 times in 200 s\)") as caught:
            ask(state.url, lambda client: client.models(), times, retries=steady(total_s=250.0))
        assert times.waits == [100.0, 100.0]
        assert (caught.value.status, caught.value.kind) == (429, "OverloadedError")
        assert caught.value.request_id in state.heads[0]

    @pytest.mark.parametrize("status", [400, 401, 404, 408, 413, 415, 422, 500])
    def test_any_other_refusal_is_final(self, ask: Ask, url: str, status: int) -> None:
        with front(url, [refusal(status, "1")]) as state, pytest.raises(ServiceError, match=r"^Busy\.$") as caught:
            ask(state.url, lambda client: client.models(), FakeTime())
        assert state.connections == 1
        assert caught.value.status == status

    def test_a_request_that_may_still_be_worked_on_is_not_sent_again(self, ask: Ask, url: str) -> None:
        with front(url, [SILENT]) as state, pytest.raises(ServiceError, match=r"No answer .*ReadTimeout.* give it more time"):
            ask(state.url, lambda client: client.models(), timeout_s=0.2)
        assert state.connections == 1

    def test_an_answer_that_never_ends_is_not_waited_for(self, ask: Ask, url: str) -> None:
        class Hurried(FakeTime):
            def clock(self) -> float:
                self.now += 1.0
                return self.now

        endless = b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + b" " * 10**6
        with front(url, [endless]) as state, pytest.raises(ServiceError, match="takes too long to arrive"):
            ask(state.url, lambda client: client.models(), Hurried(), timeout_s=1.0, retries=steady(total_s=1.0))

    def test_chance_spreads_waits(self, url: str) -> None:
        times = FakeTime()
        with front(url, [refusal(429, "3"), refusal(429)]) as state:
            blocking(state.url, lambda client: client.models(), times, retries=Retries(chance=lambda: 0.5))
        assert times.waits == [3.125, 0.375]

    @pytest.mark.parametrize(
        ("text", "seconds"),
        [
            *(("7", 7.0), ("0", 0.0), ("-3", 0.0), ("", None), ("soon", None), ("nan", None), ("inf", None), (formatdate(1060, usegmt=True), 60.0)),
            (f"Wed, 21 Oct {10**20} 07:28:00 GMT", None),
        ],
    )
    def test_stated_times(self, text: str, seconds: float | None) -> None:
        assert retry_after_s({"retry-after": text}, lambda: 1000.0) == seconds


@pytest.fixture(scope="module")
def closed(scorer: Scorer) -> Iterator[str]:
    with running([scorer], Settings(token=TOKEN)) as address:
        yield address


def test_what_is_served(ask: Ask, url: str, scorer: Scorer) -> None:
    assert ask(url, lambda client: client.health()).ready
    assert ask(url, lambda client: client.models()).models == [scorer.facts]
    assert ask(url, lambda client: client.model("tiny")) == scorer.page
    with pytest.raises(ServiceError, match=r"There is no served model `a\?c`"):
        ask(url, lambda client: client.model("a?c"))


class TestAccess:
    def test_by_argument_or_environment(self, ask: Ask, closed: str, tiny: TinyBundle, monkeypatch: pytest.MonkeyPatch) -> None:
        def embed(client: Any) -> Any:
            return client.embed("tiny", npy(tiny.images[0]))

        monkeypatch.delenv("BLANKSLIDE_TOKEN", raising=False)
        with pytest.raises(ServiceError, match="token") as caught:
            ask(closed, embed)
        assert caught.value.status == 401
        assert ask(closed, embed, token=f"{TOKEN}\n")
        monkeypatch.setenv("BLANKSLIDE_TOKEN", TOKEN)
        assert ask(closed, embed)
        with pytest.raises(ServiceError, match="token"):
            ask(closed, embed, token="")

    @pytest.mark.parametrize("token", ["two words", "ümlaut", "line\nbreak", "\n"])
    def test_what_cannot_be_a_token_is_not_repeated(self, token: str) -> None:
        with pytest.raises(ParamsError, match="one word of ASCII") as caught:
            ScoringClient("http://x", token=token)
        assert not token.strip() or token not in str(caught.value)

    @pytest.mark.parametrize("url", ["127.0.0.1:80", "ftp://x", "http://", "http://x?y=1", "http://[", ""])
    def test_urls(self, url: str) -> None:
        with pytest.raises(ParamsError, match="Expected a URL such as"):
            ScoringClient(url)


def test_something_else_answers(ask: Ask, url: str) -> None:
    with front(url, [refusal(200, body="<html>A\nproxy</html>"), refusal(404, body="gone")]) as state:
        with pytest.raises(ServiceError, match="answered 200, expected an answer of schema 1, got: <html>A proxy</html>"):
            ask(state.url, lambda client: client.models())
        with pytest.raises(ServiceError, match="answered 404, expected an answer of schema 1, got: gone"):
            ask(state.url, lambda client: client.models())


def test_a_later_schema_is_not_misread(url: str) -> None:
    with front(url, [refusal(200, body='{"schema": 2, "models": []}')]) as state, pytest.raises(ServiceError, match="expected an answer of schema 1"):
        blocking(state.url, lambda client: client.models())


def test_a_file_that_is_not_there(ask: Ask, url: str, tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"none\.tif`: cannot be read \(No such file"):
        ask(url, lambda client: client.score("tiny", tmp_path / "none.tif"))


@contextmanager
def endless(tiny: TinyBundle) -> Iterator[tuple[Iterable[tuple[str, bytes]], list[int]]]:
    """Images without end, and the numbers of those that were taken."""
    taken: list[int] = []

    def images() -> Iterator[tuple[str, bytes]]:
        for number in itertools.count():
            taken.append(number)
            yield f"{number}.npy", npy(tiny.images[number % 8])

    yield images(), taken


class TestMany:
    @pytest.fixture
    def files(self, tiny: TinyBundle, tmp_path: Path) -> list[Path]:
        """Eight images, each in another kind of file or under a name that a form does not carry."""
        odd = tmp_path / 'a "b"; 100%\n.tif'
        kinds: list[tuple[Path, Callable[[Any], bytes]]] = [
            (tmp_path / "plain.tif", partial(tiff, photometric="minisblack")),
            (tmp_path / "packed.tif", partial(tiff, photometric="minisblack", compression="zlib")),
            (tmp_path / "named.ome.tif", ome),
            (tmp_path / "Zellkörper-細胞.ome.tif", ome),
            (odd, ome),
            (tmp_path / "one" / "cell.npy", npy),
            (tmp_path / "two" / "cell.npy", npy),
            (tmp_path / ("long" * 50 + ".npy"), npy),
        ]
        for (path, write), image in zip(kinds, tiny.images, strict=True):
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(write(image))
        return [path for path, _ in kinds]

    @pytest.mark.parametrize("batch", [1, 3, 8])
    def test_of_every_kind_in_order(self, ask: Ask, url: str, files: list[Path], tiny: TinyBundle, batch: int) -> None:
        found: list[Answered[EmbeddingAnswer]] = ask(url, lambda client: client.embed_many("tiny", files, batch=batch, progress=False))
        assert [name for name, _ in found] == [str(path) for path in files]
        vectors = [answer.embedding for _, answer in found if isinstance(answer, EmbeddingAnswer)]
        np.testing.assert_allclose(vectors, tiny.embedding, rtol=0, atol=embedding_tolerance(tiny.embedding))

    def test_readings_of_rgb(self, ask: Ask, tissue: TinyBundle) -> None:
        scorer = Scorer.open(tissue.folder)
        with running([scorer]) as address:
            named = [(f"{i}.png", png(image)) for i, image in enumerate(tissue.images)]
            found: list[Answered[Reading]] = ask(address, lambda client: client.score_many("tissue", named, batch=5, progress=False))
        assert [answer for _, answer in found] == [scorer.read(body) for _, body in named]

    def test_one_bad_image_spoils_no_other(self, ask: Ask, url: str, files: list[Path], tmp_path: Path) -> None:
        bad = tmp_path / "bad.tif"
        bad.write_bytes(files[0].read_bytes()[:700])
        given = [files[0], bad, tmp_path / "none.tif", files[1], ("text.txt", b"text"), ("empty.tif", b"")]
        found = ask(url, lambda client: client.score_many("tiny", given, batch=4, progress=False))
        assert [type(answer).__name__ for _, answer in found] == ["Reading", "ServiceError", "ImageError", "Reading", "ServiceError", "ServiceError"]
        assert found[1].answer.status == 422
        assert found[1].answer.kind == "ImageError"
        assert "truncated" in str(found[1].answer)

    def test_paths_may_be_plain_texts_and_a_folder_alone(self, ask: Ask, url: str, files: list[Path], tmp_path: Path) -> None:
        expected = ask(url, lambda client: client.embed("tiny", files[0]))
        assert ask(url, lambda client: client.embed("tiny", str(files[0]))) == expected
        assert ask(url, lambda client: client.score("tiny", str(files[0]))).embedding == expected.embedding
        named = [str(path) for path in files]
        assert [name for name, _ in ask(url, lambda client: client.embed_many("tiny", named, progress=False))] == named
        (tmp_path / ".hidden.npy").touch()
        (tmp_path / "notes.txt").touch()
        for folder in (tmp_path, str(tmp_path)):
            found = ask(url, lambda client, folder=folder: client.score_many("tiny", folder, progress=False))
            assert [name for name, _ in found] == sorted(named)
            assert all(isinstance(answer, Reading) for _, answer in found)
        ((name, answer),) = ask(url, lambda client: client.embed_many("tiny", named[0], progress=False))
        assert (name, answer.embedding) == (named[0], expected.embedding)
        (tmp_path / "empty").mkdir()
        with pytest.raises(ParamsError, match="empty` holds no image that is read"):
            ask(url, lambda client: client.embed_many("tiny", str(tmp_path / "empty"), progress=False))

    def test_nothing(self, ask: Ask, free_url: str, tmp_path: Path) -> None:
        assert ask(free_url, lambda client: client.score_many("tiny", [], progress=False)) == []
        (only,) = ask(free_url, lambda client: client.score_many("tiny", [tmp_path / "none.tif"], progress=False))
        assert isinstance(only.answer, ImageError)

    def test_order_is_kept_when_the_first_request_has_to_wait(self, ask: Ask, url: str, tiny: TinyBundle) -> None:
        named = [(str(i), npy(tiny.images[i % 8])) for i in range(40)]
        with front(url, [refusal(429, "0.3"), RESET]) as state:
            found = ask(state.url, lambda client: client.embed_many("tiny", named, batch=4, concurrency=3, progress=False))
        assert [name for name, _ in found] == [str(i) for i in range(40)]
        vectors = np.array([answer.embedding for _, answer in found])
        np.testing.assert_allclose(vectors, tiny.embedding[np.arange(40) % 8], rtol=0, atol=embedding_tolerance(tiny.embedding))

    def test_images_that_are_answered_are_let_go(self, ask: Ask, url: str, tiny: TinyBundle) -> None:
        named = [(str(i), bytes(bytearray(npy(tiny.images[i])))) for i in range(8)]
        gc.collect()
        gc.disable()
        try:
            ask(url, lambda client: client.embed_many("tiny", iter(named), batch=2, concurrency=2, progress=False))
            # the pair and the argument
            assert [sys.getrefcount(data) for _, data in named] == [3] * 8
        finally:
            gc.enable()

    def test_images_without_end_are_not_piled_up(self, url: str, tiny: TinyBundle) -> None:
        with endless(tiny) as (images, taken), ScoringClient(url) as client:
            answers = client.embed_many("tiny", images, batch=2, concurrency=3, progress=False)
            assert taken == []
            for expected, (name, answer) in zip(range(50), answers, strict=False):
                assert name == f"{expected}.npy"
                assert isinstance(answer, EmbeddingAnswer)
                assert len(taken) <= expected + 1 + 2 * 3 * 3
            answers.close()
            count = len(taken)
            assert not [thread for thread in threading.enumerate() if thread.name.startswith("client")]
            time.sleep(0.05)
            assert len(taken) == count

    def test_asynchronous_images_without_end(self, url: str, tiny: TinyBundle) -> None:
        async def run() -> None:
            with endless(tiny) as (images, taken):

                async def arriving() -> AsyncIterator[tuple[str, bytes]]:
                    for image in images:
                        await asyncio.sleep(0)
                        yield image

                async with AsyncScoringClient(url) as client:
                    answers = client.embed_many("tiny", arriving(), batch=2, concurrency=3, progress=False)
                    seen = 0
                    async for name, answer in answers:
                        assert name == f"{seen}.npy"
                        assert isinstance(answer, EmbeddingAnswer)
                        assert len(taken) <= seen + 1 + 2 * 3 * 3
                        seen += 1
                        if seen == 30:
                            break
                    await answers.aclose()
                    assert len(asyncio.all_tasks()) == 1

        asyncio.run(run())

    def test_leaving_early_does_not_sit_out_a_wait(self, url: str, scorer: Scorer, tiny: TinyBundle) -> None:
        start = time.monotonic()
        answer = scorer.embed(npy(tiny.images[0])).model_dump()
        first = json.dumps({"schema": 1, "model": scorer.ref.model_dump(), "images": [{"image": "0", "answer": answer}]})
        sent = threading.Event()

        def images() -> Iterator[tuple[str, bytes]]:
            yield "0", b"x"
            sent.set()
            yield "1", b"x"

        def once_both_are_sent() -> bytes:
            sent.wait(20)
            return refusal(200, body=first)

        with front(url, [once_both_are_sent, refusal(429, "200")]) as state, ScoringClient(state.url) as client:
            answers = client.embed_many("tiny", images(), batch=1, concurrency=1, progress=False)
            assert isinstance(next(answers).answer, EmbeddingAnswer)
            while len(state.heads) < 2 and time.monotonic() - start < 20:
                time.sleep(0.01)
            answers.close()
        assert time.monotonic() - start < 20

    def test_a_request_at_fault_ends_it(self, ask: Ask, url: str, tiny: TinyBundle) -> None:
        with endless(tiny) as (images, taken):
            with pytest.raises(ServiceError, match="There is no served model `x`") as caught:
                ask(url, lambda client: client.score_many("x", images, progress=False))
            assert caught.value.status == 404
            assert len(taken) <= 8 * 4 * 3

    def test_what_is_too_large_together_is_sent_apart(self, ask: Ask, scorer: Scorer, tiny: TinyBundle) -> None:
        one = len(npy(tiny.images[0]))
        named = [(str(i), npy(image)) for i, image in enumerate(tiny.images)]
        named[5] = ("5", bytes(4 * one))
        with running([scorer], Settings(max_body_bytes=3 * one + 2000)) as address:
            found = ask(address, lambda client: client.embed_many("tiny", named, batch=8, progress=False))
        assert [name for name, _ in found] == [str(i) for i in range(8)]
        assert [type(answer).__name__ for _, answer in found] == ["EmbeddingAnswer"] * 5 + ["ServiceError"] + ["EmbeddingAnswer"] * 2
        assert found[5].answer.status == 413

    def test_an_image_that_a_busy_service_left_out_is_sent_again(self, ask: Ask, url: str, scorer: Scorer, tiny: TinyBundle) -> None:
        bodies = [npy(image) for image in tiny.images[:3]]
        busy = {"schema": 1, "error": "Full.", "kind": "OverloadedError", "status": 429}
        images = [
            {"image": str(i), "error": busy} if i == 1 else {"image": str(i), "answer": scorer.read(b).model_dump()} for i, b in enumerate(bodies)
        ]
        said = json.dumps({"schema": 1, "model": scorer.ref.model_dump(), "images": images})
        times = FakeTime()
        with front(url, [refusal(200, body=said)]) as state:
            named = [(str(i), body) for i, body in enumerate(bodies)]
            found = ask(state.url, lambda client: client.score_many("tiny", named, progress=False), times, retries=steady())
        assert [answer for _, answer in found] == [scorer.read(body) for body in bodies]
        assert times.waits == [0.125]

    @pytest.mark.parametrize("names", [["0", "1"], ["1", "0", "2"], ["0", "1", "x"]])
    def test_answers_about_other_images_are_not_believed(self, url: str, scorer: Scorer, tiny: TinyBundle, names: list[str]) -> None:
        answer = scorer.embed(npy(tiny.images[0])).model_dump()
        said = json.dumps({"schema": 1, "model": scorer.ref.model_dump(), "images": [{"image": name, "answer": answer} for name in names]})
        with front(url, [refusal(200, body=said)]) as state, pytest.raises(ServiceError, match=r"left out 1 of 3|where it was not asked"):
            blocking(state.url, lambda client: client.embed_many("tiny", [(str(i), b"x") for i in range(3)], progress=False))

    def test_tiles_of_a_field_follow_one_another(self, ask: Ask, url: str, scorer: Scorer, tiny: TinyBundle) -> None:
        wide = np.concatenate([*tiny.images[:3]], axis=2)
        named = [("one", npy(wide)), ("bad", b"bad"), ("one", npy(tiny.images[3])), ("other", npy(wide[:, :, :40]))]
        found = ask(url, lambda client: client.score_many("tiny", named, field="grid", batch=3, progress=False))
        assert [name for name, _ in found] == ["one"] * 3 + ["bad", "one"] + ["other"] * 2
        corners = [(a.tile.y, a.tile.x) if isinstance(a, Reading) and a.tile else None for _, a in found]
        assert corners == [(0, 0), (0, 20), (0, 40), None, (0, 0), (0, 0), (0, 20)]
        expected = scorer.read(npy(tiny.images[1]))
        np.testing.assert_allclose(found[1].answer.embedding, expected.embedding, rtol=0, atol=embedding_tolerance(tiny.embedding))
        around = ask(url, lambda client: client.embed_many("tiny", named[:1], field="centres", centres=[(12, 30.0), (12, 11)], progress=False))
        assert [answer.tile.x for _, answer in around] == [20, 1]

    def test_another_pixel_size(self, ask: Ask, url: str, tiny: TinyBundle) -> None:
        double = ome(tiny.images[0].repeat(2, axis=1).repeat(2, axis=2), size_um=0.325)
        with pytest.raises(ServiceError, match=r"expected 0\.65 um per pixel, got 0\.325"):
            ask(url, lambda client: client.embed("tiny", double))
        assert ask(url, lambda client: client.score("tiny", double, resample=True)).tile.resampled_from_um == 0.325

    def test_a_bar_says_how_far_it_is(self, ask: Ask, url: str, tiny: TinyBundle, capsys: pytest.CaptureFixture[str]) -> None:
        named = [(str(i), npy(image)) for i, image in enumerate(tiny.images)]
        ask(url, lambda client: client.embed_many("tiny", [*named, ("bad", b"bad")], batch=4))
        assert "9/9" in (said := capsys.readouterr().err)
        assert "1 failed" in said

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"batch": 0}, "at least one image per request"),
            ({"concurrency": 0}, "one request at a time"),
            ({"field": "centres"}, "Expected points together"),
            ({"centres": [(1.0, 2.0)]}, "Expected points together"),
        ],
    )
    def test_options_are_checked_before_anything_is_sent(self, ask: Ask, free_url: str, options: dict[str, Any], message: str) -> None:
        with pytest.raises(ParamsError, match=message):
            ask(free_url, lambda client: client.embed_many("tiny", [], **options))

    def test_options_reach_the_service(self, url: str) -> None:
        options = {"field": "centres", "centres": [(10, 20.5), (30, 40)], "resample": True}
        with front(url, [refusal(400)]) as state, pytest.raises(ServiceError, match="Busy"):
            blocking(state.url, lambda client: client.embed_many("tiny", [("a", b"x")], progress=False, **options))
        assert state.heads[0].startswith("POST /v1/embed?model=tiny&field=centres&centres=10%2C20.5%3B30%2C40&resample=true ")


def test_names_that_are_sent_are_plain_and_unique() -> None:
    names = {0: "a/x.tif", 1: "b/x.tif", 2: 'q"%\r\n.tif', 3: "1-x.tif", 4: "", 5: "c\\y.tif"}
    sent = _sent_names(names)
    assert sorted(sent.values()) == list(names)
    assert not any(set(name) & set('"%\r\n/\\') or not name for name in sent)


@pytest.fixture(scope="module")
def free_url() -> str:
    """Where nobody listens."""
    with front("http://127.0.0.1:1", []) as state:
        return state.url

"""Several images in one request, fields in tiles, and answers as JSON, npy and Arrow: the same numbers as one by one."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pyarrow
import pytest

from serving.endpoint.answers import ARROW, JSON, NPY, accepted
from serving.endpoint.server import running
from serving.errors import AcceptError
from serving.schema import EmbeddingBatch, ReadingBatch
from serving.scoring import Scorer, embedding_tolerance
from serving.settings import Settings
from tests.serving.bundles import TinyBundle, npy, ome


@pytest.fixture(scope="module")
def http(tiny: TinyBundle) -> Iterator[httpx.Client]:
    with (
        running([Scorer.open(tiny.folder)], Settings(max_images=9)) as url,
        httpx.Client(base_url=url, timeout=20, params={"model": "tiny"}) as client,
    ):
        yield client


def form(tiny: TinyBundle, which: list[int]) -> list[tuple[str, Any]]:
    return [("image", (f"{i}.tif", ome(tiny.images[i]))) for i in which]


def field(tiny: TinyBundle) -> bytes:
    """Four images as the quarters of one."""
    return npy(np.block([[tiny.images[0], tiny.images[1]], [tiny.images[2], tiny.images[3]]]))


class TestSeveral:
    def test_each_is_answered_as_alone(self, http: httpx.Client, tiny: TinyBundle) -> None:
        batch = ReadingBatch.model_validate(http.post("/v1/score", files=form(tiny, [3, 1, 4])).json())
        alone = [http.post("/v1/score", content=npy(tiny.images[i])).json() for i in (3, 1, 4)]
        assert [one.image for one in batch.images] == ["3.tif", "1.tif", "4.tif"]
        for one, expected in zip(batch.images, alone, strict=True):
            assert one.answer is not None
            np.testing.assert_allclose(one.answer.embedding, expected["embedding"], rtol=0, atol=embedding_tolerance(tiny.embedding))
            assert one.answer.tasks[0].encoder.predicted == expected["tasks"][0]["encoder"]["predicted"]

    def test_a_bad_image_spoils_no_other(self, http: httpx.Client, tiny: TinyBundle) -> None:
        files = [*form(tiny, [0]), ("image", ("bad.tif", b"nothing of the kind")), *form(tiny, [2])]
        answer = http.post("/v1/embed", files=files)
        batch = EmbeddingBatch.model_validate(answer.json())
        assert answer.status_code == 200
        assert [one.error is None for one in batch.images] == [True, False, True]
        assert batch.images[1].error is not None
        assert "`bad.tif`: expected TIFF" in batch.images[1].error.error

    def test_a_form_of_one_bad_image_is_answered_as_a_form(self, http: httpx.Client) -> None:
        answer = http.post("/v1/embed", files=[("image", ("bad.tif", b"nothing of the kind"))])
        (one,) = EmbeddingBatch.model_validate(answer.json()).images
        assert answer.status_code == 200
        assert one.error is not None
        assert (one.image, one.error.status) == ("bad.tif", 422)

    def test_too_many(self, http: httpx.Client, tiny: TinyBundle) -> None:
        answer = http.post("/v1/embed", files=form(tiny, [0] * 10))
        assert (answer.status_code, answer.json()["error"][:45]) == (400, "Expected at most 9 images in one request, got")

    def test_a_truncated_form(self, http: httpx.Client, tiny: TinyBundle) -> None:
        request = http.build_request("POST", "/v1/embed", files=form(tiny, [0, 1]))
        body = request.read()
        for end in (len(body) - 4, len(body) // 2, 40):
            answer = http.post("/v1/embed", content=body[:end], headers={"Content-Type": request.headers["content-type"]})
            assert answer.status_code == 400
            assert "multipart form is truncated" in answer.json()["error"]

    @pytest.mark.parametrize("kind", ["multipart/form-data", "multipart/form-data; boundary=", "multipart/mixed; boundary=x"])
    def test_a_form_without_its_boundary(self, http: httpx.Client, kind: str) -> None:
        answer = http.post("/v1/embed", content=b"--x\r\n", headers={"Content-Type": kind})
        assert (answer.status_code, "`multipart/form-data` with its boundary" in answer.json()["error"]) == (400, True)

    def test_a_form_without_files(self, http: httpx.Client) -> None:
        body = b'--x\r\nContent-Disposition: form-data; name="a"\r\n\r\n1\r\n--x--\r\n'
        answer = http.post("/v1/embed", content=body, headers={"Content-Type": "multipart/form-data; boundary=x"})
        assert (answer.status_code, "at least one file" in answer.json()["error"]) == (400, True)


class TestFields:
    def test_tiles_are_the_images_the_field_is_made_of(self, http: httpx.Client, tiny: TinyBundle) -> None:
        batch = EmbeddingBatch.model_validate(http.post("/v1/embed", params={"field": "grid"}, content=field(tiny)).json())
        tiles = [one.answer.tile for one in batch.images if one.answer and one.answer.tile]
        assert [(tile.policy, tile.y, tile.x) for tile in tiles] == [("grid", 0, 0), ("grid", 0, 20), ("grid", 24, 0), ("grid", 24, 20)]
        embedding = [one.answer.embedding for one in batch.images if one.answer]
        np.testing.assert_allclose(embedding, tiny.embedding[:4], rtol=0, atol=embedding_tolerance(tiny.embedding))

    def test_centres(self, http: httpx.Client, tiny: TinyBundle) -> None:
        answer = http.post("/v1/score", params={"field": "centres", "centres": "36,30"}, content=field(tiny))
        (one,) = ReadingBatch.model_validate(answer.json()).images
        assert one.answer is not None
        np.testing.assert_allclose(one.answer.embedding, tiny.embedding[3], rtol=0, atol=embedding_tolerance(tiny.embedding))

    def test_a_field_is_refused_without_a_policy(self, http: httpx.Client, tiny: TinyBundle) -> None:
        answer = http.post("/v1/embed", content=field(tiny))
        assert (answer.status_code, "expected 24 x 20 pixels (y, x), got 48 x 40" in answer.json()["error"]) == (422, True)

    def test_another_pixel_size_is_resampled_when_asked_and_said(self, http: httpx.Client, tiny: TinyBundle) -> None:
        body = ome(np.repeat(np.repeat(tiny.images[0], 2, axis=1), 2, axis=2), size_um=0.325)
        assert http.post("/v1/embed", content=body).status_code == 422
        answer = http.post("/v1/embed", params={"resample": "true"}, content=body).json()
        assert answer["tile"]["resampled_from_um"] == pytest.approx(0.325)


class TestForms:
    def test_npy(self, http: httpx.Client, tiny: TinyBundle) -> None:
        answer = http.post("/v1/embed", files=form(tiny, [0, 1, 2]), headers={"Accept": NPY})
        embedding = np.load(io.BytesIO(answer.content), allow_pickle=False)
        assert (answer.headers["content-type"], embedding.dtype, embedding.shape) == (NPY, np.float32, (3, 6))
        np.testing.assert_allclose(embedding, tiny.embedding[:3], rtol=0, atol=embedding_tolerance(tiny.embedding))

    def test_npy_has_no_place_for_an_error(self, http: httpx.Client, tiny: TinyBundle) -> None:
        files = [*form(tiny, [0]), ("image", ("bad.tif", b"nothing"))]
        answer = http.post("/v1/embed", files=files, headers={"Accept": NPY})
        assert (answer.status_code, "`bad.tif`" in answer.json()["error"]) == (422, True)

    def test_arrow_embeddings(self, http: httpx.Client, tiny: TinyBundle) -> None:
        files = [*form(tiny, [0]), ("image", ("bad.tif", b"nothing")), *form(tiny, [1])]
        answer = http.post("/v1/embed", files=files, headers={"Accept": ARROW})
        table = pyarrow.ipc.open_stream(answer.content).read_all()
        assert table.column("image").to_pylist() == ["0.tif", "bad.tif", "1.tif"]
        embedding = table.column("embedding").to_pylist()
        assert embedding[1] is None
        assert "expected TIFF" in table.column("error")[1].as_py()
        np.testing.assert_allclose([embedding[0], embedding[2]], tiny.embedding[:2], rtol=0, atol=embedding_tolerance(tiny.embedding))

    def test_arrow_readings_hold_every_probability(self, http: httpx.Client, tiny: TinyBundle) -> None:
        reading = http.post("/v1/score", content=npy(tiny.images[0])).json()
        table = pyarrow.ipc.open_stream(http.post("/v1/score", content=npy(tiny.images[0]), headers={"Accept": ARROW}).content).read_all()
        said = {(line["task"], line["role"], line["label"]): line["probability"] for line in table.to_pylist()}
        for task in reading["tasks"]:
            for role in ("encoder", "twin", "control"):
                for label, probability in task[role]["probabilities"].items():
                    assert said.pop((task["task"], role, label)) == pytest.approx(probability, abs=1e-12)
        assert said == {}

    def test_a_reading_is_no_array(self, http: httpx.Client, tiny: TinyBundle) -> None:
        answer = http.post("/v1/score", content=npy(tiny.images[0]), headers={"Accept": NPY})
        assert (answer.status_code, answer.json()["kind"]) == (406, "AcceptError")

    @pytest.mark.parametrize(
        ("header", "kind"),
        [("", JSON), ("*/*", JSON), ("application/*;q=0.5", JSON), (f"text/html, {ARROW};q=0.9, {JSON}", ARROW), (f"{NPY}, */*", NPY)],
    )
    def test_accept(self, header: str, kind: str) -> None:
        assert accepted(header) == kind

    def test_accept_refused(self) -> None:
        with pytest.raises(AcceptError, match="got `image/png`"):
            accepted("image/png")

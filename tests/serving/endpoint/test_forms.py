"""Several images in one request, fields in tiles, and answers as JSON, npy and Arrow: the same numbers as one by one."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pyarrow
import pytest

from registry.errors import ImageError
from serving.endpoint.answers import ARROW, JSON, MOST_HEADER, NPY, Found, accepted, arrow, warnings_header
from serving.endpoint.intake import files_of
from serving.endpoint.server import running
from serving.errors import AcceptError
from serving.schema import EmbeddingBatch, Reading, ReadingBatch
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

    @pytest.mark.parametrize("lead", [b"", b"\r\n"])
    def test_more_parts_than_images_and_fields(self, http: httpx.Client, tiny: TinyBundle, lead: bytes) -> None:
        image = b'--x\r\nContent-Disposition: form-data; name="image"; filename="a.npy"\r\n\r\n' + npy(tiny.images[0]) + b"\r\n"
        for fields, status in ((24, 200), (26, 400), (1_000_000, 400)):
            body = lead + image + b"--x\r\nA:b\r\n\r\n\r\n" * fields + b"--x--\r\n"
            answer = http.post("/v1/embed", content=body, headers={"Content-Type": "multipart/form-data; boundary=x"})
            assert answer.status_code == status
            assert status == 200 or f"at most 25 parts in the multipart form, got {fields + 1}" in answer.json()["error"]

    def test_is_taken_apart_beside_the_event_loop(self, http: httpx.Client, tiny: TinyBundle, monkeypatch: pytest.MonkeyPatch) -> None:
        def while_others_are_answered(*given: Any) -> Any:
            httpx.get(f"{http.base_url}/healthz", timeout=20).raise_for_status()
            return files_of(*given)

        monkeypatch.setattr("serving.endpoint.app.files_of", while_others_are_answered)
        assert http.post("/v1/embed", files=form(tiny, [0]), timeout=60).status_code == 200


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


def unlike_all_others(value: Any, found: list[str | float], key: str = "") -> Any:
    """The same with every text and number another one, which are listed; what a table leaves out, names of tasks and words of the schema stay."""
    if key in ("embedding", "thumbnail", "schema", "policy", "task") or isinstance(value, bool):
        return value
    if isinstance(value, dict):
        # labels are facts too
        keys = {name: f"label-{len(found)}-{i}" for i, name in enumerate(value)} if key == "probabilities" else {name: name for name in value}
        found += [new for name, new in keys.items() if new != name]
        return {keys[name]: unlike_all_others(item, found, name) for name, item in value.items()}
    if isinstance(value, list):
        return [unlike_all_others(item, found, key) for item in value]
    assert value is not None, key
    found.append(f"text-{len(found)}" if isinstance(value, str) else 1000 + len(found) if isinstance(value, int) else 0.5 + len(found))
    return found[-1]


class TestForms:
    def test_npy(self, http: httpx.Client, tiny: TinyBundle) -> None:
        answer = http.post("/v1/embed", files=form(tiny, [0, 1, 2]), headers={"Accept": NPY})
        embedding = np.load(io.BytesIO(answer.content), allow_pickle=False)
        assert (answer.headers["content-type"], embedding.dtype, embedding.shape) == (NPY, np.float32, (3, 6))
        assert answer.headers["x-provider"] == "cpu"
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

    def test_npy_says_warnings_in_a_header(self, http: httpx.Client, tiny: TinyBundle) -> None:
        files = [*form(tiny, [0]), ("image", ("dark.npy", npy(tiny.images[1] // 1000)))]
        warnings = http.post("/v1/embed", files=files).json()["images"][1]["answer"]["warnings"]
        answer = http.post("/v1/embed", files=files, headers={"Accept": NPY})
        assert json.loads(answer.headers["x-warnings"]) == {"1": warnings}
        assert "x-warnings" not in http.post("/v1/embed", files=form(tiny, [0]), headers={"Accept": NPY}).headers

    def test_a_header_of_warnings_is_short_and_ascii(self) -> None:
        said = warnings_header([["µ\n"], [], *([["dark"] * 10] * 100)])
        assert len(said) <= MOST_HEADER
        assert said.isascii()
        assert said.isprintable()
        found = json.loads(said)
        assert found["0"] == ["µ\n"]
        assert found["more"] + len(found) - 1 == 101
        assert warnings_header([[], []]) == ""
        assert json.loads(warnings_header([["x" * MOST_HEADER]])) == {"more": 1}

    def test_a_table_holds_every_fact_of_a_reading(self, http: httpx.Client, tiny: TinyBundle) -> None:
        """Each value is made the only one of its kind, and looked for."""
        reading = http.post("/v1/score", content=npy(tiny.images[0])).json()
        assert reading["distance"]
        reading |= {
            "warnings": ["", ""],
            "tile": {"policy": "grid", "y": 0, "x": 0, "height": 0, "width": 0, "resampled_from_um": 0.0},
            "distance": {**dict.fromkeys(reading["distance"], 0.0), "n_reference": 0, "unlike": True, "sentence": ""},
            "nearest": [{"image_id": "", "distance": 0.0, "labels": {task["task"]: "" for task in reading["tasks"]}, "thumbnail": ""}] * 2,
            "thumbnails": "",
        }
        reading["tasks"][0]["verdict"]["confounded"] = True
        # what the schema has beside that comes with its default, and is looked for too
        reading = Reading.model_validate(reading).model_dump()
        found: list[str | float] = []
        different = Reading.model_validate(unlike_all_others(reading, found))
        table = pyarrow.ipc.open_stream(arrow([Found("a.tif", different)], different.model, scored=True)).read_all()
        cells = {cell for line in table.to_pylist() for cell in line.values() if cell is not None}
        texts = " ".join(cell for cell in cells if isinstance(cell, str)).replace(";", " ").replace(":", " ").replace("(", " ").split()
        assert len(found) > 70
        assert [value for value in found if value not in cells and str(value) not in texts] == []
        lines = table.to_pylist()
        assert {line["tile_policy"] for line in lines} == {"grid"}
        assert {line["unlike"] for line in lines} == {True}
        assert {(line["task"], line["confounded"]) for line in lines} == {("phase", True), ("treated", False)}

    def test_a_table_of_embeddings_says_what_is_strange_and_which_model(self, http: httpx.Client, tiny: TinyBundle) -> None:
        body = npy(tiny.images[1] // 1000)
        said = http.post("/v1/embed", content=body).json()
        (line,) = pyarrow.ipc.open_stream(http.post("/v1/embed", content=body, headers={"Accept": ARROW}).content).read_all().to_pylist()
        assert line["warnings"] == " ".join(said["warnings"])
        assert (line["model"], line["identity"], line["evidence"]) == ("tiny", said["model"]["identity"], said["model"]["evidence"])

    def test_an_image_that_failed_and_a_model_without_tasks_have_a_line(self, http: httpx.Client, tiny: TinyBundle) -> None:
        reading = Reading.model_validate(http.post("/v1/score", content=npy(tiny.images[0])).json()).model_copy(update={"tasks": []})
        found = [Found("a.tif", reading), Found("b.tif", ImageError("bad"))]
        lines = pyarrow.ipc.open_stream(arrow(found, reading.model, scored=True)).read_all().to_pylist()
        assert [(line["image"], line["error"], line["model"]) for line in lines] == [("a.tif", None, "tiny"), ("b.tif", "bad", "tiny")]

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

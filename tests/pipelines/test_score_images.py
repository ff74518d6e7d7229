"""`blankslide score`: readings said and written, and nothing lost when an image, or the service, fails."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from pipelines.cli import main
from pipelines.readings import plain, said_of
from pipelines.score_images import find_images, parse_centres, score_images
from registry.errors import ParamsError
from serving.client import ScoringClient
from serving.client.exchange import Answered
from serving.endpoint.answers import ABOUT, AWAY, JUDGED, OPINION, PLACE, Found
from serving.endpoint.server import running
from serving.errors import ServiceError
from serving.schema import Reading, ReadingBatch
from serving.scoring import Scorer
from serving.settings import Settings
from tests.pipelines.benchmarks.folders import write
from tests.pipelines.light_bundle import light_bundle, pixels
from tests.registry.scorecards import IMAGE


@pytest.fixture(scope="module")
def scorer(tmp_path_factory: pytest.TempPathFactory) -> Scorer:
    return Scorer.open(light_bundle(tmp_path_factory.mktemp("bundles") / "simclr"))


@pytest.fixture(scope="module")
def url(scorer: Scorer) -> Iterator[str]:
    with running([scorer]) as address:
        yield address


@pytest.fixture
def images(tmp_path: Path) -> list[Path]:
    """A file beside a folder of ten."""
    paths = [tmp_path / "first.ome.tif", *(tmp_path / "plate" / f"{i}.tif" for i in range(10))]
    for path, image in zip(paths, pixels(11), strict=True):
        write(path, image, IMAGE.channels, IMAGE.pixel_size_um)
    return paths


def score(*arguments: object) -> int:
    return main(["score", *map(str, arguments)])


def test_each_image_is_said_with_its_controls(images: list[Path], url: str, scorer: Scorer, capsys: pytest.CaptureFixture[str]) -> None:
    assert score(images[0], images[1].parent, "--server", url) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if line.endswith(".tif")] == [str(path) for path in images]
    reading = scorer.read(images[0].read_bytes())
    task = reading.tasks[0]
    assert task.twin is not None
    shares = {label: (task.encoder.probabilities[label], task.twin.probabilities[label]) for label in ("left", "right")}
    marks = {label: ">" if label == task.encoder.predicted else " " for label in shares}
    assert lines[1:7] == [
        "  chirality: which chirality?",
        "                              simclr  untrained-cnn (twin)",
        *(f"  {marks[label]} {label:<24}  {own:6.3f}  {twins:>20.3f}" for label, (own, twins) in shares.items()),
        "    (score on the benchmark)   0.700                 0.580",
        "  on `chirality`, the encoder beats its controls",
    ]
    assert reading.distance is not None
    assert lines[7] == f"  {reading.distance.sentence}"
    assert lines[-3].startswith("`simclr` ")
    assert lines[-2].startswith("`chirality`: `density` (0.800 on the benchmark) is stronger than the control shown")
    assert lines[-1] == "A note."


def test_a_warning_is_said(url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert score(write(tmp_path / "dim.npy", pixels(1)[0] // 1000), "--server", url) == 0
    assert "  Warning: " in capsys.readouterr().out


def test_json_is_the_endpoints_answer(images: list[Path], url: str, scorer: Scorer, tmp_path: Path) -> None:
    assert score(*images, "--server", url, "--model", "simclr", "--out", tmp_path / "r.json", "--quiet") == 0
    batch = ReadingBatch.model_validate_json((tmp_path / "r.json").read_bytes())
    assert batch.model == scorer.ref
    assert [one.image for one in batch.images] == [str(path) for path in images]
    assert [one.answer for one in batch.images] == [scorer.read(path.read_bytes()) for path in images]


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_tables_have_a_line_per_voice_and_label(images: list[Path], url: str, scorer: Scorer, tmp_path: Path, suffix: str) -> None:
    out = tmp_path / f"r{suffix}"
    assert score(*images, "--server", url, "--out", out, "--quiet") == 0
    table = pd.read_csv(out) if suffix == ".csv" else pd.read_parquet(out)
    assert len(table) == 11 * 2 * 2
    assert list(table.columns) == list(PLACE | OPINION | ABOUT | JUDGED | AWAY)
    assert list(table.columns)[:11] == ["image", "tile_y", "tile_x", "error", "task", "role", "row", "member", "predicted", "label", "probability"]
    assert set(table["identity"]) == {scorer.ref.identity}
    assert set(table["verdict"]) == {"beats"}
    one = table[(table["image"] == str(images[3])) & (table["role"] == "twin") & (table["label"] == "left")]
    twin = scorer.read(images[3].read_bytes()).tasks[0].twin
    assert twin is not None
    assert one["probability"].item() == twin.probabilities["left"]


def test_a_bad_image_fails_alone(images: list[Path], url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images[4].write_bytes(images[4].read_bytes()[:200])
    out = tmp_path / "r.json"
    assert score(*images, tmp_path / "none.tif", "--server", url, "--out", out, "--quiet") == 1
    printed = capsys.readouterr()
    assert f"10 of 12 images are scored by `simclr`, in {out}." in printed.out
    assert f"{images[4]}: `3.tif`: " in printed.err
    assert "none.tif`: cannot be read (No such file" in printed.err
    assert "blankslide: 2 of 12 images failed" in printed.err
    found = json.loads(out.read_text())["images"]
    assert [i for i, one in enumerate(found) if one["error"]] == [4, 11]
    assert found[4]["error"]["status"] == 422


def test_tiles(tmp_path: Path, url: str, capsys: pytest.CaptureFixture[str]) -> None:
    field = write(tmp_path / "field.npy", np.concatenate([*pixels(3)], axis=2))
    assert score(field, "--server", url, "--field", "grid", "--out", tmp_path / "r.csv") == 0
    assert f"{field}  (tile at y 0, x 10, 6 x 5)" in capsys.readouterr().out
    assert pd.read_csv(tmp_path / "r.csv")["tile_x"].drop_duplicates().tolist() == [0, 5, 10]
    assert score(field, "--server", url, "--field", "centres", "--centres", "3,4;3,9.5") == 0
    assert "x 7, 6 x 5" in capsys.readouterr().out
    assert score(field, "--server", url, "--field", "centres", "--centres", "3;4") == 2
    assert "Expected `--centres` as `y,x;y,x`" in capsys.readouterr().err


def test_which_model_must_be_said_where_there_are_several(
    images: list[Path], scorer: Scorer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = Scorer.open(light_bundle(tmp_path / "other"))
    with running([scorer, other]) as address:
        assert score(images[0], "--server", address) == 2
        assert "(`simclr`, `other`), got no `--model`" in capsys.readouterr().err
        assert score(images[0], "--server", address, "--model", "third") == 2
        assert "got `--model third`" in capsys.readouterr().err
        assert score(images[0], "--server", address, "--model", "other") == 0


class Failing(ScoringClient):
    """Answers three images, then something else happens."""

    then: BaseException = ServiceError("No answer.", 0, "ConnectError")

    def score_many(self, model: str, images: Any, **options: Any) -> Iterator[Answered[Reading]]:
        yield from super().score_many(model, list(images)[:3], **options)
        raise self.then


@pytest.mark.parametrize("then", [ServiceError("No answer.", 0, "ConnectError"), KeyboardInterrupt()])
def test_what_came_before_the_service_went_is_written(images: list[Path], url: str, scorer: Scorer, tmp_path: Path, then: BaseException) -> None:
    out = tmp_path / "r.json"
    said: list[str] = []
    with Failing(url) as client:
        client.then = then
        if isinstance(then, KeyboardInterrupt):
            with pytest.raises(KeyboardInterrupt):
                score_images(client, scorer.ref, images, out, said.append)
        else:
            done = score_images(client, scorer.ref, images, out, said.append)
            assert (done.images, done.failed, done.stopped) == (11, 8, "No answer.")
    batch = ReadingBatch.model_validate_json(out.read_bytes())
    assert [one.image for one in batch.images] == [str(path) for path in images]
    assert [one.error is None for one in batch.images] == [True] * 3 + [False] * 8


def test_nothing_is_written_where_the_request_is_at_fault(images: list[Path], url: str, scorer: Scorer, tmp_path: Path) -> None:
    with ScoringClient(url) as client, pytest.raises(ServiceError, match="There is no served model"):
        score_images(client, scorer.ref.model_copy(update={"name": "x"}), images, tmp_path / "r.csv")
    assert not list(tmp_path.glob("*r.csv*"))


def test_a_service_that_asks_for_a_token_is_answered_by_where_to_put_it(
    images: list[Path], scorer: Scorer, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("BLANKSLIDE_TOKEN", raising=False)
    (tmp_path / "token").write_text("a-token-of-this-test\n")
    with running([scorer], Settings(token="a-token-of-this-test")) as address:
        assert score(images[0], "--server", address) == 2
        assert "Give it by `--token-file FILE` or in the variable BLANKSLIDE_TOKEN." in capsys.readouterr().err
        assert main(["embed", str(images[1].parent), "--server", address, "-o", str(tmp_path / "v.parquet")]) == 2
        assert "Give it by `--token-file FILE` or in the variable BLANKSLIDE_TOKEN." in capsys.readouterr().err
        assert score(images[0], "--server", address, "--token-file", tmp_path / "token") == 0


def test_another_kind_of_file(images: list[Path], url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert score(images[0], "--server", url, "--out", tmp_path / "r.xlsx") == 2
    assert "Expected a file .json, .csv, .parquet" in capsys.readouterr().err


def test_images_are_found_once(images: list[Path], tmp_path: Path) -> None:
    (tmp_path / "plate" / ".hidden.tif").touch()
    (tmp_path / "plate" / "notes.txt").touch()
    assert find_images([images[0], tmp_path / "plate", images[2], tmp_path]) == images
    (tmp_path / "empty").mkdir()
    with pytest.raises(ParamsError, match="holds no image that is read"):
        find_images([tmp_path / "empty"])


def test_many_labels_are_cut_short(scorer: Scorer, images: list[Path]) -> None:
    reading = scorer.read(images[0].read_bytes())
    task = reading.tasks[0]
    many = {f"label {i:02d}": (i + 1) / 210 for i in range(20)}
    opinion = task.encoder.model_copy(update={"probabilities": many, "predicted": "label 19"})
    changed = reading.model_copy(update={"tasks": [task.model_copy(update={"encoder": opinion, "control": None})]})
    text = "\n".join(said_of(Found("a.tif", changed)))
    assert "and 8 labels that the encoder gives less" in text
    assert "label 08" in text
    assert "label 07" not in text


def test_text_cannot_steer_a_terminal() -> None:
    assert plain("a\x1b[31m\rb\u202e") == "a?[31m?b?"


def test_centres() -> None:
    assert parse_centres("") == ()
    assert parse_centres("1,2.5;3,4") == ((1.0, 2.5), (3.0, 4.0))

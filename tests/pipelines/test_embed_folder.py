"""`blankslide embed`: a folder becomes one table, offline and through an endpoint, whatever happens on the way."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pipelines.benchmarks.importer import import_folder
from pipelines.benchmarks.options import ImportOptions
from pipelines.benchmarks.profiles import annotated, make_benchmark, read_profiles, vectors
from pipelines.cli import main
from pipelines.embed_folder import Cutting, Endpoint, Offline, embed_folder
from pipelines.embeddings import read_member
from pipelines.folder_parts import PART, FolderImage, Parts, Vectors, list_folder, work_folder
from registry.bundle import read_bundle
from registry.errors import BenchmarkError, BlankslideError, BundleError, ParamsError
from registry.registration import register
from registry.store import Store
from serving.client import ScoringClient
from serving.endpoint.server import running
from serving.scoring import Scorer, embedding_tolerance
from serving.settings import Settings
from tests.pipelines.benchmarks.folders import write
from tests.pipelines.light_bundle import RGB, light_bundle, pixels
from tests.registry.scorecards import IMAGE

ROOT = Path(__file__).resolve().parents[2]
ENDINGS = (".tif", ".ome.tif", ".npy")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return light_bundle(tmp_path_factory.mktemp("bundles") / "simclr")


@pytest.fixture(scope="module")
def scorer(bundle: Path) -> Scorer:
    return Scorer.open(bundle)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Thirty images in two class folders: TIFF, OME-TIFF and npy."""
    root = tmp_path / "plates"
    for number, image in enumerate(pixels(30)):
        place = root / ("dead" if number % 2 else "alive") / f"{number:02d}{ENDINGS[number % 3]}"
        write(place, image, IMAGE.channels, IMAGE.pixel_size_um)
    return root


def embed(folder: Path, out: Path, *arguments: str) -> int:
    return main(["embed", str(folder), "-o", str(out), *arguments])


def names(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_a_row_per_image_with_the_endpoints_numbers(
    folder: Path, bundle: Path, scorer: Scorer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.parquet"
    assert embed(folder, out, "--bundle", str(bundle)) == 0
    assert f"30 vectors of 5 numbers by `simclr` {scorer.bundle.identity[:12]}" in capsys.readouterr().out
    table = pd.read_parquet(out)
    about = [f"Metadata_{name}" for name in ("image", "model", "identity", "benchmark", "warnings")]
    assert list(table.columns) == ["image_id", *about, "embedding"]
    assert table["Metadata_image"].tolist() == names(folder)
    assert set(table["Metadata_identity"]) == {scorer.bundle.identity}
    ids, values = read_member(out)
    assert ids[:2] == ["alive/00", "alive/02"]
    np.testing.assert_array_equal(values, [scorer.embed((folder / name).read_bytes()).embedding for name in names(folder)])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.parquet", "plates"]


def test_through_an_endpoint_it_is_the_same_file(folder: Path, bundle: Path, tmp_path: Path) -> None:
    with running([Scorer.open(bundle)]) as url:
        assert embed(folder, tmp_path / "online.parquet", "--server", url) == 0
    assert embed(folder, tmp_path / "offline.parquet", "--bundle", str(bundle)) == 0
    assert (tmp_path / "online.parquet").read_bytes() == (tmp_path / "offline.parquet").read_bytes()


def test_by_the_name_it_is_registered_under(folder: Path, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    register(Store(f"sqlite:///{tmp_path / 'mlflow.db'}"), read_bundle(bundle))
    out = tmp_path / "out.parquet"
    assert main(["--workspace", str(tmp_path), "embed", str(folder), "simclr@culture", "-o", str(out)]) == 0
    assert set(pd.read_parquet(out)["Metadata_identity"]) == {read_bundle(bundle).identity}


def test_of_png_files(tmp_path: Path) -> None:
    rgb = light_bundle(tmp_path / "rgb", RGB)
    images = pixels(3, 1, RGB)
    for number, image in enumerate(images):
        write(tmp_path / "slides" / f"{number}.png", np.moveaxis(image, 0, -1))
    assert embed(tmp_path / "slides", tmp_path / "out.parquet", "--bundle", str(rgb)) == 0
    _, values = read_member(tmp_path / "out.parquet")
    expected = images.mean(axis=(2, 3)) @ np.random.default_rng(0).normal(size=(3, 5))
    np.testing.assert_allclose(values, expected, rtol=0, atol=embedding_tolerance(expected))


def test_the_numbers_do_not_depend_on_threads(folder: Path, scorer: Scorer, tmp_path: Path) -> None:
    for threads in (1, 5):
        embed_folder(folder, tmp_path / f"{threads}.parquet", Offline(scorer, Cutting(), threads), Cutting(), progress=False)
    assert (tmp_path / "1.parquet").read_bytes() == (tmp_path / "5.parquet").read_bytes()


def test_bad_images_are_listed_and_the_others_written(folder: Path, bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, listed = tmp_path / "out.parquet", tmp_path / "out.errors.csv"
    whole = (folder / "alive" / "00.tif").read_bytes()
    (folder / "alive" / "00.tif").write_bytes(whole[:150])
    (folder / "nowhere.npy").symlink_to(tmp_path / "gone.npy")
    Path(os.fsdecode(os.fsencode(folder) + b"/\xff.tif")).write_bytes(whole)
    assert embed(folder, out, "--bundle", str(bundle)) == 1
    assert f"3 of 32 images failed; `{listed}` says why." in capsys.readouterr().err
    errors = pd.read_csv(listed).set_index("image")["error"]
    assert list(errors.index) == ["\\xff.tif", "alive/00.tif", "nowhere.npy"]
    assert "truncated" in errors["alive/00.tif"]
    assert "cannot be read (No such file" in errors["nowhere.npy"]
    assert "not UTF-8" in errors["\\xff.tif"]
    assert len(pd.read_parquet(out)) == 29
    (folder / "alive" / "00.tif").write_bytes(whole)
    (folder / "nowhere.npy").unlink()
    Path(os.fsdecode(os.fsencode(folder) + b"/\xff.tif")).unlink()
    assert embed(folder, out, "--bundle", str(bundle)) == 0
    assert len(pd.read_parquet(out)) == 30
    assert not listed.exists()


def test_what_is_strange_is_noted_in_its_row(folder: Path, bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dim = folder / "alive" / "02.npy"
    np.save(dim, np.load(dim) // 1000)
    for name, which in (("offline", ["--bundle", str(bundle)]), ("online", [])):
        with running([Scorer.open(bundle)]) as url:
            assert embed(folder, tmp_path / f"{name}.parquet", *(which or ["--server", url])) == 0
        assert "`Metadata_warnings`: 1." in capsys.readouterr().out
        table = pd.read_parquet(tmp_path / f"{name}.parquet").set_index("image_id")["Metadata_warnings"]
        assert table[table != ""].index.tolist() == ["alive/02"]
    assert (tmp_path / "online.parquet").read_bytes() == (tmp_path / "offline.parquet").read_bytes()


def test_nothing_is_written_where_every_image_is_bad(tmp_path: Path, bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "plates" / "one.npy", pixels(1)[0][:, :4])
    assert embed(tmp_path / "plates", tmp_path / "out.parquet", "--bundle", str(bundle)) == 1
    assert "No image could be embedded" in capsys.readouterr().err
    assert not (tmp_path / "out.parquet").exists()
    assert "expected 6 x 5 pixels" in (tmp_path / "out.errors.csv").read_text()


def test_tiles_of_fields(tmp_path: Path, scorer: Scorer, bundle: Path) -> None:
    wide = np.concatenate([*pixels(3)], axis=2)
    write(tmp_path / "plates" / "field.npy", wide)
    assert embed(tmp_path / "plates", tmp_path / "out.parquet", "--bundle", str(bundle), "--field", "grid") == 0
    table = pd.read_parquet(tmp_path / "out.parquet")
    assert table["image_id"].tolist() == ["field_y0_x0", "field_y0_x5", "field_y0_x10"]
    assert table[["Metadata_tile_y", "Metadata_tile_x"]].to_numpy().tolist() == [[0, 0], [0, 5], [0, 10]]
    expected = pixels(3).astype(np.float32).mean(axis=(2, 3)) @ np.random.default_rng(0).normal(size=(2, 5))
    np.testing.assert_allclose(np.stack(table["embedding"].tolist()), expected, rtol=0, atol=embedding_tolerance(expected))
    with running([scorer]) as url:
        assert embed(tmp_path / "plates", tmp_path / "online.parquet", "--server", url, "--field", "grid") == 0
    assert (tmp_path / "online.parquet").read_bytes() == (tmp_path / "out.parquet").read_bytes()


SLOWLY = """
import sys, time
from serving.scoring import Scorer
quick = Scorer.frames
Scorer.frames = lambda *given: (time.sleep(0.004), quick(*given))[1]
from pipelines.cli import main
sys.exit(main(sys.argv[1:]))
"""


class Counting(Offline):
    """Remembers what it was asked for."""

    asked: list[str]

    def each(self, root: Path, names: Iterable[str]) -> Iterator[Vectors]:
        self.asked = list(names)
        return super().each(root, self.asked)


def test_killed_it_goes_on_to_the_same_bytes(tmp_path: Path, bundle: Path, scorer: Scorer) -> None:
    root = tmp_path / "plates"
    root.mkdir()
    for number, image in enumerate(pixels(10 * PART + 7)):
        np.save(root / f"{number:04d}.npy", image if number % 50 else image[:1])
    out, work = tmp_path / "out.parquet", tmp_path / ".out.parquet.work"
    command = [sys.executable, "-c", SLOWLY, "embed", str(root), "-o", str(out), "--bundle", str(bundle), "--threads", "2"]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while len(list(work.glob("[0-9]*.npz"))) < 3 and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    assert process.wait(20) == -signal.SIGKILL
    kept = len(list(work.glob("[0-9]*.npz")))
    assert 3 <= kept < 11
    assert not out.exists()
    again = Counting(scorer, Cutting(), 2)
    made = embed_folder(root, out, again, Cutting(), progress=False)
    assert len(again.asked) == 10 * PART + 7 - kept * PART
    assert not work.exists()
    assert (made.images, made.failed, made.rows) == (647, 13, 634)
    other = tmp_path / "other.parquet"
    embed_folder(root, other, Offline(scorer, Cutting(), 1), Cutting(), progress=False)
    assert out.read_bytes() == other.read_bytes()
    assert (tmp_path / "out.errors.csv").read_bytes() == (tmp_path / "other.errors.csv").read_bytes()


class TestParts:
    @pytest.fixture
    def images(self) -> list[FolderImage]:
        return [FolderImage(f"{i}.tif", f"{i}", 10, 1) for i in range(PART + 3)]

    def made(self, count: int) -> list[Vectors]:
        return [Vectors(np.full((1, 2), i, np.float32), ((0, 0),)) if i else Vectors(errors=("Bad.",)) for i in range(count)]

    def test_what_changed_is_made_again(self, tmp_path: Path, images: list[FolderImage]) -> None:
        parts = Parts(tmp_path, images, {"model": "a"})
        assert parts.missing() == [0, 1]
        parts.write(0, self.made(PART))
        parts.write(1, self.made(3))
        assert Parts(tmp_path, images, {"model": "a"}).missing() == []
        assert parts.read(1).errors == [(0, "Bad.")]
        np.testing.assert_array_equal(parts.read(1).values, [[1, 1], [2, 2]])
        touched = [replace(image, changed_ns=2) if image.name == "64.tif" else image for image in images]
        assert Parts(tmp_path, touched, {"model": "a"}).missing() == [1]
        assert Parts(tmp_path, images, {"model": "b"}).missing() == [0, 1]

    def test_a_part_in_which_nothing_could_be_read(self, tmp_path: Path, images: list[FolderImage]) -> None:
        parts = Parts(tmp_path, images[:1], {})
        parts.write(0, self.made(1))
        assert parts.read(0).values.shape == (0, 0)
        assert parts.missing() == []

    def test_a_damaged_part_is_made_again(self, tmp_path: Path, images: list[FolderImage]) -> None:
        parts = Parts(tmp_path, images, {})
        parts.write(0, self.made(PART))
        (path,) = tmp_path.glob("[0-9]*.npz")
        path.write_bytes(path.read_bytes()[:-40])
        assert parts.missing() == [0, 1]
        with pytest.raises(BundleError, match="Run the same command again"):
            parts.read(0)

    def test_one_process_at_a_time(self, tmp_path: Path) -> None:
        with work_folder(tmp_path / "out.parquet") as work:
            assert work.is_dir()
            with pytest.raises(ParamsError, match="Another process is making"), work_folder(tmp_path / "out.parquet"):
                raise AssertionError
        assert not work.exists()

    def test_what_was_kept_outlives_an_error(self, tmp_path: Path) -> None:
        with contextlib.suppress(KeyError), work_folder(tmp_path / "out.parquet") as work:
            (work / "piece").touch()
            raise KeyError
        assert (tmp_path / ".out.parquet.work" / "piece").exists()


def test_a_model_that_is_replaced_meanwhile(folder: Path, scorer: Scorer, tmp_path: Path) -> None:
    with running([scorer]) as url, ScoringClient(url) as client:
        endpoint = Endpoint(client, scorer.ref.model_copy(update={"identity": "0" * 64}), Cutting())
        with pytest.raises(BlankslideError, match="`simclr` was replaced while images were sent: 000000000000 before"):
            embed_folder(folder, tmp_path / "out.parquet", endpoint, Cutting(), progress=False)
    assert not (tmp_path / "out.parquet").exists()


def test_profiles_read_it_beside_a_table_of_labels(folder: Path, bundle: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.parquet"
    assert embed(folder, out, "--bundle", str(bundle)) == 0
    labels = pd.DataFrame({"file": names(folder)})
    labels["phenotype"], labels["plate"] = labels["file"].str.partition("/")[0], [f"P{i % 6}" for i in range(30)]
    labels.to_csv(tmp_path / "labels.csv", index=False)
    profiles = annotated(read_profiles([out], ("phenotype", "plate")), tmp_path / "labels.csv", "Metadata_image=file")
    made = make_benchmark(profiles, "mine", tmp_path / "mine", ImportOptions(labels=("phenotype",), unit="plate"))
    assert made.index["label_phenotype"].tolist() == labels["phenotype"].tolist()
    np.testing.assert_array_equal(vectors(profiles, profiles.chosen(("*",), "the vector"), made), read_member(out)[1])


def test_its_ids_are_those_of_the_folder_as_a_benchmark(folder: Path, bundle: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.parquet"
    assert embed(folder, out, "--bundle", str(bundle)) == 0
    benchmark = import_folder(folder, "mine", tmp_path / "mine", ImportOptions(unit="image", channels=IMAGE.channels, pixel_size_um=0.65))
    profiles = read_profiles([out])
    assert vectors(profiles, profiles.chosen(("*",), "the vector"), benchmark).shape == (30, 5)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "Expected one of NAME[@ALIAS], --bundle FOLDER and --server URL"),
        (["--bundle", "a", "--server", "http://127.0.0.1:1"], "Expected one of NAME"),
        (["--bundle", "a", "--bundle", "b"], "Expected one of NAME"),
        (["--server", "nowhere"], "Expected a URL such as"),
        (["--bundle", "nowhere"], "nowhere"),
    ],
)
def test_what_must_be_said(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str) -> None:
    assert embed(folder, tmp_path / "out.parquet", *arguments) == 2
    assert words in capsys.readouterr().err


def test_the_output_is_a_parquet_file(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert embed(folder, tmp_path / "out.csv", "--bundle", "x") == 2
    assert "Expected a Parquet file" in capsys.readouterr().err


def test_a_folder_without_images(tmp_path: Path) -> None:
    with pytest.raises(BenchmarkError, match="is not a folder"):
        list_folder(tmp_path / "none")
    (tmp_path / "scan.czi").touch()
    with pytest.raises(BenchmarkError, match=r"holds no image that is read .*, but 1 of \.czi"):
        list_folder(tmp_path)


def test_a_token_from_a_file(
    folder: Path, scorer: Scorer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("BLANKSLIDE_TOKEN", raising=False)
    secret = "a-token-of-this-test"
    (tmp_path / "token").write_text(f"{secret}\n")
    with running([scorer], Settings(token=secret)) as url:
        assert embed(folder, tmp_path / "out.parquet", "--server", url) == 2
        assert embed(folder, tmp_path / "out.parquet", "--server", url, "--token-file", str(tmp_path / "token")) == 0
        assert embed(folder, tmp_path / "out.parquet", "--server", url, "--token-file", str(tmp_path / "none")) == 2
    printed = capsys.readouterr()
    assert "cannot be read (FileNotFoundError)" in printed.err
    assert secret not in printed.err + printed.out

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from zipfile import is_zipfile

import numpy as np
import pandas as pd
import pytest
import tifffile
import torch
from huggingface_hub import constants as hub

from pipelines.benchmarks.index import Benchmark
from pipelines.embeddings import Row, read_rows
from pipelines.extract import ExtractSettings, extract
from pipelines.extraction.plan import RowPlan, plan_cell
from pipelines.loading import ImageLoader, Unreadable, chunked
from pipelines.params import CellParams, EncoderParams
from registry.errors import BlankslideError, HubUnreachableError, ImageError, InputError, NotFoundError, ParamsError, ProviderError
from registry.representation import Batch

from .folder import SIZE, Centred, Logged, Moments, repaint, rows_of, write_images

SETTINGS = ExtractSettings(batch=3, shard=6, threads=2)
UNTRAINED = EncoderParams("untrained-cnn-small", "s", "cnn:small", "random", role="twin")


@pytest.fixture
def benchmark(tmp_path: Path) -> Benchmark:
    return write_images(tmp_path / "data" / "tiny")


def cell(out: Path) -> dict[str, bytes]:
    """Every file of a cell."""
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()}


def ids(benchmark: Benchmark) -> list[str]:
    return list(benchmark.index["image_id"])


def twins(benchmark: Benchmark, root: Path, seeds: int = 2, device: str = "cpu") -> list[RowPlan]:
    params = CellParams("tiny", "untrained", [UNTRAINED.name], "registry/encoders", UNTRAINED)
    return plan_cell(benchmark, params, root, device, "float32", seeds, 0)


def test_values_are_those_of_every_image_alone(benchmark: Benchmark, tmp_path: Path) -> None:
    extract(benchmark, rows_of(Moments, Centred), tmp_path / "out", SETTINGS)
    raw = np.stack([benchmark.pixels(row) for row in benchmark])
    by_hand = np.concatenate([raw.mean(axis=(2, 3)), raw.var(axis=(2, 3))], axis=1)
    rows = read_rows(tmp_path)
    np.testing.assert_allclose(rows["moments"].embedding("main", 0, ids(benchmark)), by_hand, rtol=1e-5)
    train = benchmark.folds[0].train
    np.testing.assert_allclose(rows["centred"].embedding("main", 0, ids(benchmark)), by_hand - by_hand[train].mean(axis=0), rtol=1e-4, atol=1e-2)
    np.testing.assert_allclose(rows["centred"].state("main", 0)["mean"], by_hand[train].mean(axis=0), rtol=1e-4)


def test_the_manifest_says_what_was_done(benchmark: Benchmark, tmp_path: Path) -> None:
    extract(benchmark, rows_of(Centred), tmp_path / "out", SETTINGS)
    manifest = Row.read(tmp_path / "out" / "centred").manifest
    assert (manifest.row, manifest.benchmark, manifest.members, manifest.dim) == ("centred", "tiny", ["main"], 4)
    assert (manifest.fitted, manifest.folds, manifest.unservable) == (True, [], "it is a formula")
    assert (manifest.device, manifest.precision, manifest.data_hash) == ("cpu", "float32", benchmark.data_hash())
    metadata = pd.read_parquet(tmp_path / "out" / "centred" / "main.parquet")
    assert list(metadata["Metadata_Plate"]) == list(benchmark.index["Metadata_Plate"])


def test_nothing_but_the_rows_is_left(benchmark: Benchmark, tmp_path: Path) -> None:
    extract(benchmark, rows_of(Moments), tmp_path / "w" / "out", SETTINGS)
    assert sorted(cell(tmp_path / "w")) == ["out/moments/main.parquet", "out/moments/manifest.json"]


def test_neither_threads_nor_shards_change_a_value(benchmark: Benchmark, tmp_path: Path) -> None:
    rows = [*rows_of(Centred), *twins(benchmark, tmp_path)]
    for name, settings in (("a", SETTINGS), ("b", replace(SETTINGS, threads=1)), ("c", replace(SETTINGS, shard=500))):
        extract(benchmark, rows, tmp_path / name, settings)
    for row in ("centred", UNTRAINED.name):
        contents = [Row.read(tmp_path / name / row).manifest.content for name in ("a", "b", "c")]
        assert contents[0] == contents[1] == contents[2]


def test_a_row_that_does_not_apply_is_a_manifest_with_the_reason(benchmark: Benchmark, tmp_path: Path) -> None:
    panel = CellParams("tiny", "controls", ["intensity", "composition"], "registry/controls")
    extract(benchmark, plan_cell(benchmark, panel, tmp_path, "cpu", "float32", 2, 0), tmp_path / "out", SETTINGS)
    rows = read_rows(tmp_path)
    assert rows["composition"].manifest.not_applicable == "the benchmark has no table of nuclei"
    assert rows["composition"].manifest.members == []
    assert rows["intensity"].embedding("main", 0, ids(benchmark)).shape[0] == len(benchmark.index)


def test_rows_of_an_earlier_extraction_do_not_linger(benchmark: Benchmark, tmp_path: Path) -> None:
    extract(benchmark, rows_of(Moments, Centred), tmp_path / "out", SETTINGS)
    extract(benchmark, rows_of(Moments), tmp_path / "out", SETTINGS)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["moments"]


# ------------------------------------------------------------------------------------------------ folds and leaks


def test_under_several_folds_a_fitted_member_has_a_file_for_each_and_a_fresh_one_has_one(tmp_path: Path) -> None:
    benchmark = write_images(tmp_path / "data", folds=2)
    extract(benchmark, twins(benchmark, tmp_path, seeds=1), tmp_path / "out", SETTINGS)
    row = Row.read(tmp_path / "out" / UNTRAINED.name)
    assert row.manifest.folds == [0, 1]
    assert sorted(row.manifest.content) == ["calibrated-00.fold0.parquet", "calibrated-00.fold1.parquet", "fresh-00.parquet"]
    fresh = [row.embedding("fresh-00", fold, ids(benchmark)) for fold in (0, 1)]
    calibrated = [row.embedding("calibrated-00", fold, ids(benchmark)) for fold in (0, 1)]
    np.testing.assert_array_equal(fresh[0], fresh[1])
    assert not np.allclose(calibrated[0], calibrated[1])
    assert not np.allclose(fresh[0], calibrated[0])


@pytest.mark.parametrize("folds", [1, 2])
def test_what_is_fitted_sees_training_images_only(tmp_path: Path, folds: int) -> None:
    """Other pixels in the test images change their own vectors, and neither a state nor a vector of a training image."""
    benchmark = write_images(tmp_path / "data", folds=folds)
    fold = benchmark.folds[0]
    rows = [*rows_of(Centred), *twins(benchmark, tmp_path, seeds=1)]
    extract(benchmark, rows, tmp_path / "before" / "cell", SETTINGS)
    repaint(benchmark, np.flatnonzero(fold.test))
    extract(benchmark, rows, tmp_path / "after" / "cell", SETTINGS)
    before, after = read_rows(tmp_path / "before"), read_rows(tmp_path / "after")
    for row, member in (("centred", "main"), (UNTRAINED.name, "calibrated-00")):
        states = [found[row].state(member, 0) for found in (before, after)]
        for name, value in states[0].items():
            np.testing.assert_array_equal(value, states[1][name])
        vectors = [found[row].embedding(member, 0, ids(benchmark)) for found in (before, after)]
        np.testing.assert_array_equal(vectors[0][fold.train], vectors[1][fold.train])
        assert not np.allclose(vectors[0][fold.test], vectors[1][fold.test])


def test_the_leak_test_can_fail(tmp_path: Path) -> None:
    """Other pixels in training images do change the state."""
    benchmark = write_images(tmp_path / "data")
    rows = twins(benchmark, tmp_path, seeds=1)
    extract(benchmark, rows, tmp_path / "before", SETTINGS)
    repaint(benchmark, np.flatnonzero(benchmark.folds[0].train))
    extract(benchmark, rows, tmp_path / "after", SETTINGS)
    states = [Row.read(tmp_path / name / UNTRAINED.name).state("calibrated-00", 0) for name in ("before", "after")]
    assert any(not np.array_equal(value, states[1][name]) for name, value in states[0].items())


# ------------------------------------------------------------------------------------------------ bad images


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-200])


def test_every_bad_image_is_counted_and_named_and_nothing_is_published(benchmark: Benchmark, tmp_path: Path) -> None:
    truncate(benchmark.paths(17)[0])
    tifffile.imwrite(benchmark.paths(3)[0], np.zeros((3, SIZE, SIZE), np.uint16), photometric="minisblack", metadata={"axes": "CYX"})
    with pytest.raises(
        ImageError, match=r"2 of 20 images cannot be used, 0 are tolerated: `p0-w3`: .*expected 2 channels .*got 3.*`p3-w2`.*truncated"
    ):
        extract(benchmark, rows_of(Moments, Centred), tmp_path / "out", SETTINGS)
    assert not (tmp_path / "out").exists()


def test_nan_pixels_are_named(tmp_path: Path) -> None:
    benchmark = write_images(tmp_path / "data", dtype="float32")
    pixels = np.ones((2, SIZE, SIZE), np.float32)
    pixels[1, 3, 4] = np.nan
    tifffile.imwrite(benchmark.paths(5)[0], pixels, photometric="minisblack", metadata={"axes": "CYX"})
    with pytest.raises(ImageError, match=r"`p1-w0`: .*1 of 512 pixels are NaN"):
        extract(benchmark, rows_of(Moments), tmp_path / "out", SETTINGS)


def test_tolerated_images_are_left_out_of_every_file_and_named_in_every_manifest(benchmark: Benchmark, tmp_path: Path) -> None:
    truncate(benchmark.paths(2)[0])
    extract(benchmark, [*rows_of(Moments, Centred), *twins(benchmark, tmp_path, 1)], tmp_path / "out", replace(SETTINGS, tolerance=1))
    left = [name for name in ids(benchmark) if name != "p0-w2"]
    for row in read_rows(tmp_path).values():
        assert list(row.manifest.unreadable) == ["p0-w2"]
        assert str(tmp_path) not in row.manifest.unreadable["p0-w2"]
        for member in row.manifest.members:
            assert row.embedding(member, 0, left).shape[0] == 19


def test_an_image_that_was_repaired_is_taken_up(benchmark: Benchmark, tmp_path: Path) -> None:
    path = benchmark.paths(2)[0]
    whole = path.read_bytes()
    truncate(path)
    with pytest.raises(ImageError):
        extract(benchmark, rows_of(Moments, Centred), tmp_path / "out", SETTINGS)
    path.write_bytes(whole)
    extract(benchmark, rows_of(Moments, Centred), tmp_path / "out", SETTINGS)
    extract(benchmark, rows_of(Moments, Centred), tmp_path / "other", SETTINGS)
    assert cell(tmp_path / "out") == cell(tmp_path / "other")


def test_an_image_that_was_repaired_after_a_kill_is_taken_up(benchmark: Benchmark, tmp_path: Path) -> None:
    """A tolerated training image had no part in what was fitted; shards made with that must not outlive its repair."""
    settings = replace(SETTINGS, threads=1, tolerance=1)
    path = benchmark.paths(2)[0]
    whole = path.read_bytes()
    truncate(path)
    with pytest.raises(Interrupted):
        extract(benchmark, rows_of(stopping_at("p3-w4", Centred)), tmp_path / "out", settings)
    assert list((tmp_path / ".out.work").glob("shard-*.npz"))
    path.write_bytes(whole)
    extract(benchmark, rows_of(Centred), tmp_path / "out", settings)
    extract(benchmark, rows_of(Centred), tmp_path / "other", settings)
    assert cell(tmp_path / "out") == cell(tmp_path / "other")


def test_a_benchmark_without_a_readable_training_image_says_so(benchmark: Benchmark, tmp_path: Path) -> None:
    for row in np.flatnonzero(benchmark.folds[0].train):
        truncate(benchmark.paths(row)[0])
    with pytest.raises(ImageError, match=r"10 of 20 images cannot be used.*`p0-w0`: .*and 5 more Repair"):
        extract(benchmark, twins(benchmark, tmp_path), tmp_path / "out", SETTINGS)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_an_embedding_that_is_not_finite_names_image_and_row(benchmark: Benchmark, tmp_path: Path, value: float) -> None:
    class Broken(Moments):
        def embed(self, batch: Batch) -> np.ndarray:
            values = super().embed(batch)
            values[[name == "p1-w3" for name in batch.image_ids], 2] = value
            return values

    with pytest.raises(InputError, match="`moments/main`: the embedding of image `p1-w3` is not finite"):
        extract(benchmark, rows_of(Broken), tmp_path / "out", SETTINGS)
    assert not (tmp_path / "out").exists()


# ------------------------------------------------------------------------------------------------ kills


class Interrupted(Exception):
    """Stands for any end in the middle."""


def stopping_at(image: str, kind: type[Moments]) -> type[Moments]:
    """`kind`, which ends the run when it meets an image."""

    class Stopping(kind):
        def embed(self, batch: Batch) -> np.ndarray:
            if image in batch.image_ids:
                raise Interrupted
            return np.asarray(super().embed(batch))

    return Stopping


RUN = """
import resource, signal, sys
from pathlib import Path
from pipelines.benchmarks.index import Benchmark
from pipelines.extract import ExtractSettings, extract
from tests.pipelines.folder import Logged, rows_of

class Limited(Logged):
    # past the limit the kernel ends the process in the middle of a write, as a power cut would
    def embed(self, batch):
        if "p2-w3" in batch.image_ids and sys.argv[5] == "limited":
            signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
            resource.setrlimit(resource.RLIMIT_FSIZE, (300, 300))
        return super().embed(batch)

Logged.log, Logged.pause_s = Path(sys.argv[3]), float(sys.argv[4])
threads = 1 if sys.argv[5] == "limited" else 2
extract(Benchmark.read(Path(sys.argv[1])), rows_of(Limited), Path(sys.argv[2]), ExtractSettings(3, 6, threads))
"""


def start(benchmark: Benchmark, out: Path, log: Path, pause_s: float, how: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", RUN, str(benchmark.folder), str(out), str(log), str(pause_s), how]
    return subprocess.Popen(command, cwd=Path(__file__).parents[2])


def forked(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def images_of(shards: Iterable[Path], benchmark: Benchmark) -> set[str]:
    rows = [row for path in shards for row in np.load(path)["rows"].tolist()]
    return set(benchmark.index["image_id"].iloc[rows])


def check_resumed(benchmark: Benchmark, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, threads: int) -> None:
    """Go on in `tmp_path / "out"`: no image of a finished shard is embedded again, all others once, and the bytes are those of one go."""
    work = tmp_path / ".out.work"
    finished = images_of(work.glob("shard-*.npz"), benchmark)
    assert 6 <= len(finished) < 20
    assert not (tmp_path / "out").exists()
    settings = replace(SETTINGS, threads=threads)
    monkeypatch.setattr(Logged, "log", tmp_path / "again.log", raising=False)
    extract(benchmark, rows_of(Logged), tmp_path / "out", settings)
    again = (tmp_path / "again.log").read_text().split()
    assert sorted(again) == sorted(set(ids(benchmark)) - finished)
    assert not work.exists()
    extract(benchmark, rows_of(Centred), tmp_path / "whole", settings)
    assert cell(tmp_path / "out") == cell(tmp_path / "whole")


def test_a_killed_extraction_goes_on_to_the_same_bytes(benchmark: Benchmark, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    process = start(benchmark, tmp_path / "out", tmp_path / "killed.log", 0.3, "unlimited")
    deadline = time.monotonic() + 60
    while len(list((tmp_path / ".out.work").glob("shard-*.npz"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    children = forked(process.pid)
    process.send_signal(signal.SIGKILL)
    process.wait()
    while any(alive(child) for child in children) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert len(children) == 2
    assert not any(alive(child) for child in children)
    check_resumed(benchmark, tmp_path, monkeypatch, threads=2)


def test_a_shard_that_was_being_written_at_the_kill_is_never_read(benchmark: Benchmark, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel ends the process after 300 bytes of its third shard."""
    assert start(benchmark, tmp_path / "out", tmp_path / "killed.log", 0.0, "limited").wait(60) == -signal.SIGXFSZ
    (half,) = (tmp_path / ".out.work").glob(".shard-*.part")
    assert half.stat().st_size == 300
    assert len(list((tmp_path / ".out.work").glob("shard-*.npz"))) == 2
    check_resumed(benchmark, tmp_path, monkeypatch, threads=1)


def test_shards_of_another_library_are_made_again(benchmark: Benchmark, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = replace(SETTINGS, threads=1)
    with pytest.raises(Interrupted):
        extract(benchmark, rows_of(stopping_at("p2-w3", Centred)), tmp_path / "out", settings)
    assert list((tmp_path / ".out.work").glob("shard-*.npz"))
    # the manifest names one version of each
    monkeypatch.setattr("pipelines.extract.vector_versions", lambda _architecture: {"numpy": "99"})
    monkeypatch.setattr(Logged, "log", tmp_path / "log", raising=False)
    extract(benchmark, rows_of(Logged), tmp_path / "out", settings)
    assert sorted((tmp_path / "log").read_text().split()) == ids(benchmark)


def test_a_damaged_shard_is_made_again(benchmark: Benchmark, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Interrupted):
        extract(benchmark, rows_of(stopping_at("p2-w3", Centred)), tmp_path / "out", replace(SETTINGS, threads=1))
    first = min((tmp_path / ".out.work").glob("shard-*.npz"))
    first.write_bytes(first.read_bytes()[:-50])
    assert not is_zipfile(first)
    monkeypatch.setattr(Logged, "log", tmp_path / "log", raising=False)
    extract(benchmark, rows_of(Logged), tmp_path / "out", replace(SETTINGS, threads=1))
    assert sorted((tmp_path / "log").read_text().split()) == ids(benchmark)[:6] + ids(benchmark)[12:]
    extract(benchmark, rows_of(Centred), tmp_path / "whole", replace(SETTINGS, threads=1))
    assert cell(tmp_path / "out") == cell(tmp_path / "whole")


@pytest.mark.parametrize("change", ["settings", "card", "data"])
def test_another_run_takes_no_shard_over(benchmark: Benchmark, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str) -> None:
    settings = replace(SETTINGS, threads=1)
    with pytest.raises(Interrupted):
        extract(benchmark, rows_of(stopping_at("p3-w4", Centred)), tmp_path / "out", settings)
    assert len(list((tmp_path / ".out.work").glob("shard-*.npz"))) == 3
    monkeypatch.setattr(Logged, "log", tmp_path / "log", raising=False)
    rows = rows_of(Logged)
    if change == "settings":
        settings = replace(settings, batch=2)
    if change == "card":
        rows = [replace(rows[0], card=replace(rows[0].card, summary="Another."))]
    if change == "data":
        benchmark = write_images(tmp_path / "data" / "tiny", seed=1)
    extract(benchmark, rows, tmp_path / "out", settings)
    assert sorted((tmp_path / "log").read_text().split()) == ids(benchmark)


def test_a_worker_that_is_killed_is_an_error_and_the_next_run_goes_on(benchmark: Benchmark, tmp_path: Path) -> None:
    class Dying(Centred):
        def embed(self, batch: Batch) -> np.ndarray:
            if "p3-w4" in batch.image_ids and not (tmp_path / "died").exists():
                (tmp_path / "died").touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return super().embed(batch)

    with pytest.raises(BlankslideError, match=r"worker process was ended.*memory ran out.*run the same command again"):
        extract(benchmark, rows_of(Dying), tmp_path / "out", SETTINGS)
    assert not (tmp_path / "out").exists()
    extract(benchmark, rows_of(Dying), tmp_path / "out", SETTINGS)
    extract(benchmark, rows_of(Centred), tmp_path / "whole", SETTINGS)
    assert cell(tmp_path / "out") == cell(tmp_path / "whole")


# ------------------------------------------------------------------------------------------------ full disks


@dataclass(frozen=True)
class SmallDisk:
    """A folder that takes 256 KB, until it is made larger."""

    folder: Path
    enlarge: Callable[[], object]


@pytest.fixture(params=["tmpfs", "dev-full"])
def small_disk(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SmallDisk]:
    """A file system of that size; where none may be mounted, files that are /dev/full once the folder holds that much."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)]
    if request.param == "tmpfs" and os.geteuid() == 0 and subprocess.run(mount, check=False, capture_output=True).returncode == 0:
        yield SmallDisk(folder, partial(subprocess.run, ["mount", "-o", "remount,size=16m", str(folder)], check=True))
        subprocess.run(["umount", str(folder)], check=True)
        return
    make = tempfile.mkstemp

    def make_or_full(prefix: str, suffix: str, dir: Path) -> tuple[int, str]:
        handle, name = make(prefix=prefix, suffix=suffix, dir=dir)
        if sum(path.stat().st_size for path in folder.rglob("*")) > 150_000:
            Path(name).unlink()
            Path(name).symlink_to("/dev/full")
        return handle, name

    monkeypatch.setattr(tempfile, "mkstemp", make_or_full)
    yield SmallDisk(folder, partial(monkeypatch.setattr, tempfile, "mkstemp", make))


class Wide(Moments):
    """Vectors of 16 KB."""

    def embed(self, batch: Batch) -> np.ndarray:
        seeds = batch.pixels.sum(axis=(1, 2, 3)).astype(int)
        return np.stack([np.random.default_rng(seed).random(4096) for seed in seeds]).astype(np.float32)


@pytest.mark.parametrize("threads", [1, 2])
def test_a_full_disk_leaves_whole_shards_and_goes_on_when_there_is_space(
    benchmark: Benchmark, tmp_path: Path, small_disk: SmallDisk, threads: int
) -> None:
    settings = replace(SETTINGS, threads=threads)
    out, work = small_disk.folder / "out", small_disk.folder / ".out.work"
    with pytest.raises(BlankslideError, match=r"no space left on the disk.*Nothing is half-written.*free some space"):
        extract(benchmark, rows_of(Wide), out, settings)
    assert not out.exists()
    assert {path.name for path in work.iterdir() if not path.name.startswith("shard-")} == {"plan.json", "fitted.json"}
    shards = {path: path.stat().st_mtime_ns for path in work.glob("shard-*.npz")}
    assert shards
    for path in shards:
        with np.load(path) as shard:
            assert shard["vectors/moments/main"].shape == (len(shard["rows"]), 4096)
    small_disk.enlarge()
    finished = images_of(shards, benchmark)
    extract(benchmark, rows_of(stopping_at(min(finished), Wide)), out, settings)
    extract(benchmark, rows_of(Wide), tmp_path / "whole", settings)
    assert cell(out) == cell(tmp_path / "whole")


# ------------------------------------------------------------------------------------------------ cells, devices, memory


def test_an_unknown_encoder_lists_the_known(benchmark: Benchmark, tmp_path: Path) -> None:
    panel = CellParams("tiny", "controls", ["densities"], "registry/controls")
    with pytest.raises(NotFoundError, match=r"no control `densities`\. Known: .*`density`"):
        plan_cell(benchmark, panel, tmp_path, "cpu", "float32", 2, 0)
    card = replace(UNTRAINED, architecture="cnn:huge")
    with pytest.raises(NotFoundError, match=r"`cnn:huge`\. Known: .*`cnn:small`"):
        plan_cell(benchmark, CellParams("tiny", "x", [card.name], "registry/encoders", card), tmp_path, "cpu", "float32", 2, 0)


def test_a_hub_that_does_not_answer_says_the_next_step_before_anything_is_written(
    benchmark: Benchmark, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Port 9 of this machine refuses connections."""
    monkeypatch.setattr(hub, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(hub, "HF_HUB_CACHE", str(tmp_path / "empty"))
    card = EncoderParams("mobile", "s", "timm:mobilenetv2_100.ra_in1k", "hub:mobilenetv2_100.ra_in1k", "encoder", "each", twins=["untrained"])
    rows = plan_cell(benchmark, CellParams("tiny", "mobile", [card.name], "registry/encoders", card), tmp_path, "cpu", "float32", 2, 0)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(
        HubUnreachableError, match=r"`hub:mobilenetv2_100\.ra_in1k` cannot be fetched from http://127\.0\.0\.1:9.*`weights: file:<path>`"
    ):
        extract(benchmark, rows, tmp_path / "out", SETTINGS)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no CUDA device")
def test_extraction_on_a_gpu_gives_the_vectors_of_the_cpu_and_goes_on_after_an_end_in_the_middle(benchmark: Benchmark, tmp_path: Path) -> None:
    extract(benchmark, twins(benchmark, tmp_path), tmp_path / "cpu" / "cell", SETTINGS)
    rows = twins(benchmark, tmp_path, device="cuda")
    bad = benchmark.paths(13)[0]
    whole = bad.read_bytes()
    truncate(bad)
    with pytest.raises(ImageError, match="`p2-w3`"):
        extract(benchmark, rows, tmp_path / "cuda" / "cell", SETTINGS)
    bad.write_bytes(whole)
    assert list((tmp_path / "cuda" / ".cell.work").glob("shard-*.npz"))
    extract(benchmark, rows, tmp_path / "cuda" / "cell", SETTINGS)
    here, there = (read_rows(tmp_path / name)[UNTRAINED.name] for name in ("cpu", "cuda"))
    assert there.manifest.device == f"cuda:{torch.cuda.get_device_name()}"
    for member in here.manifest.members:
        vectors = [row.embedding(member, 0, ids(benchmark)) for row in (here, there)]
        # with TF32, which keeps ten bits, the difference would be near 1e-3
        np.testing.assert_allclose(vectors[1], vectors[0], rtol=0, atol=1e-4 * np.abs(vectors[0]).max())


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")
def test_a_device_that_is_not_there_is_an_error_before_anything_is_written(benchmark: Benchmark, tmp_path: Path) -> None:
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ProviderError, match="`cuda` was asked for"):
        twins(benchmark, tmp_path, device="cuda")
    assert sorted(tmp_path.rglob("*")) == before


def test_settings_out_of_range_are_refused() -> None:
    with pytest.raises(ParamsError, match="`batch`, `shard` and `threads`"):
        ExtractSettings(batch=0)


def test_batches_come_in_order_whatever_decodes_first(benchmark: Benchmark) -> None:
    loader = ImageLoader(benchmark, 4, Unreadable())
    batches = list(loader.batches(chunked(range(20), 3)))
    assert [name for batch in batches for name in batch.image_ids] == ids(benchmark)
    np.testing.assert_array_equal(np.concatenate([batch.pixels for batch in batches]), np.stack([benchmark.pixels(row) for row in benchmark]))


MEMORY = """
import re, resource, sys, time
from pathlib import Path
from pipelines.benchmarks.index import Benchmark
from pipelines.extract import ExtractSettings, extract
from tests.pipelines.folder import Moments, rows_of

class Slow(Moments):
    # slower than decoding, so that whatever is decoded ahead piles up
    def embed(self, batch):
        time.sleep(0.05)
        return super().embed(batch)

extract(Benchmark.read(Path(sys.argv[1])), rows_of(Slow), Path(sys.argv[2]), ExtractSettings(4, 16, int(sys.argv[3])))
# not ru_maxrss for this process: it starts from the memory of whoever started it
own = int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])
print(max(own, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss))
"""


def peak_kb(folder: Path, out: Path, threads: int) -> int:
    """The most memory a process of the extraction ever held."""
    command = [sys.executable, "-c", MEMORY, str(folder), str(out), str(threads)]
    return int(subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=True).stdout)


@pytest.mark.parametrize("threads", [1, 2])
def test_memory_does_not_grow_with_the_number_of_images(tmp_path: Path, threads: int) -> None:
    """Images of 2 MB in memory; four times as many would add 190 MB if they were kept, or 24 MB if an eighth of them was."""
    few = write_big(tmp_path / "few", 32)
    many = write_big(tmp_path / "many", 128)
    grown = peak_kb(many, tmp_path / "b", threads) - peak_kb(few, tmp_path / "a", threads)
    assert grown < 20_000


def write_big(folder: Path, images: int) -> Path:
    """One image of 2 x 512 x 512 uint16, under many names."""
    benchmark = write_images(folder, plates=2, wells=images // 2)
    pixels = np.random.default_rng(0).integers(0, 999, (2, 512, 512)).astype(np.uint16)
    first = benchmark.paths(0)[0]
    tifffile.imwrite(first, pixels, photometric="minisblack", metadata={"axes": "CYX"})
    for row in range(1, images):
        path = benchmark.paths(row)[0]
        path.unlink()
        os.link(first, path)
    replace(benchmark.card, image=replace(benchmark.card.image, height=512, width=512)).write(folder)
    return folder

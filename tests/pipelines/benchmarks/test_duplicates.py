from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from PIL import Image as Pillow
from scipy.fft import dctn
from scipy.ndimage import gaussian_filter

from pipelines.benchmarks.culture_design import CultureParameters
from pipelines.benchmarks.duplicates import (
    MOST,
    SIDE,
    NearCopies,
    Pair,
    exact_copies,
    near_copies,
    overlap_notes,
    overlapping_crops,
    same_detail,
    thumbnail,
)
from pipelines.benchmarks.importer import import_folder
from pipelines.benchmarks.index import Benchmark
from pipelines.benchmarks.objects import crop
from pipelines.benchmarks.options import ImportOptions
from pipelines.benchmarks.simulate import simulate
from pipelines.benchmarks.tissue_design import TissueParameters
from registry.errors import BenchmarkError, ParamsError
from registry.images import resize_linear
from tests.pipelines.benchmarks.folders import table, write

Picture = NDArray[np.float32]


def look(pictures: list[Picture], folds: NDArray[np.int64]) -> NearCopies:
    hashes = [picture.tobytes().hex()[:4000] for picture in pictures]
    return near_copies(np.stack([thumbnail(p) for p in pictures]), folds, hashes, lambda i: pictures[i])


def jpeg(picture: Picture) -> Picture:
    """Every channel compressed with quality 75 in 8 bits, as one saves a picture to look at."""
    channels = []
    for channel in picture:
        low, high = float(channel.min()), float(channel.max())
        buffer = io.BytesIO()
        Pillow.fromarray(((channel - low) / max(high - low, 1) * 255).astype(np.uint8)).save(buffer, "JPEG", quality=75)
        channels.append(np.asarray(Pillow.open(buffer), dtype=np.float32))
    return np.stack(channels)


def brighter(picture: Picture) -> Picture:
    return np.round(picture * np.float32(1.3) + np.float32(12))


def cut(picture: Picture) -> Picture:
    """Without its first row and column, brought back to the size of the others."""
    return resize_linear(np.ascontiguousarray(picture[:, 1:, 1:]), *picture.shape[1:]).astype(np.float32)


def moved(picture: Picture) -> Picture:
    """A pixel further, with what the microscope sees there."""
    return np.pad(picture, ((0, 0), (1, 0), (0, 0)), mode="reflect")[:, :-1]


def all_of(benchmark: Benchmark) -> tuple[list[Picture], NDArray[np.int64]]:
    units = np.unique(benchmark.index["unit"], return_inverse=True)[1]
    return [benchmark.pixels(i) for i in benchmark], units.astype(np.int64) % 5


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[list[Picture], NDArray[np.int64]]]:
    """Wells, tissue, and crops around single nuclei of the tissue; units dealt to five folds."""
    out = tmp_path_factory.mktemp("sets")
    culture = simulate("culture", out / "culture", CultureParameters(train_plates=6, test_plates=4, sites_per_well=1), 3)
    tissue = simulate("tissue", out / "tissue", TissueParameters(train_patients=6, test_patients=4, patches_per_task=4), 3)
    crops, folds = [], []
    for row, (name, fold) in enumerate(zip(tissue.index["image_id"], all_of(tissue)[1], strict=True)):
        pixels = tissue.pixels(row)
        for nucleus in tissue.nuclei[name].iloc[:8].itertuples():
            crops.append(crop(pixels, (float(str(nucleus.y_um)) / 2.5, float(str(nucleus.x_um)) / 2.5), 24))
            folds.append(fold)
    return {"culture": all_of(culture), "tissue": all_of(tissue), "nuclei": (crops, np.array(folds))}


@pytest.mark.parametrize("name", ["culture", "tissue", "nuclei"])
def test_ordinary_images_of_different_units_raise_no_alarm(sets: dict[str, tuple[list[Picture], NDArray[np.int64]]], name: str) -> None:
    pictures, folds = sets[name]
    assert len(pictures) > 100
    # crops around neighbouring nuclei overlap, but they come from one image and so lie in one fold
    assert look(pictures, folds) == NearCopies(())


@pytest.mark.parametrize("name", ["culture", "tissue"])
@pytest.mark.parametrize("change", [jpeg, brighter, cut, moved])
def test_near_copies_in_another_fold_are_found(
    sets: dict[str, tuple[list[Picture], NDArray[np.int64]]], name: str, change: Callable[[Picture], Picture]
) -> None:
    pictures, folds = sets[name]
    originals = [3, 40, 77, 110]
    more = [*pictures, *(change(pictures[i]) for i in originals)]
    found = look(more, np.concatenate([folds, (folds[originals] + 1) % 5]))
    assert sorted((pair.first, pair.second) for pair in found.pairs) == [(i, len(pictures) + n) for n, i in enumerate(originals)]
    assert all(0.75 <= pair.alike <= 1 for pair in found.pairs)
    # the same copies in the folds of their originals: nothing is trained on what it is tested with
    assert look(more, np.concatenate([folds, folds[originals]])).pairs == ()


def test_single_nuclei_compressed_again_are_found(sets: dict[str, tuple[list[Picture], NDArray[np.int64]]]) -> None:
    pictures, folds = sets["nuclei"]
    originals = list(range(0, len(pictures), 50))
    found = look([*pictures, *(jpeg(pictures[i]) for i in originals)], np.concatenate([folds, (folds[originals] + 1) % 5]))
    assert sorted(pair.first for pair in found.pairs) == originals


def test_many_copies_of_one_picture_do_not_hide_each_other() -> None:
    rng = np.random.default_rng(0)
    pictures = [gaussian_filter(rng.normal(size=(1, 32, 32)), (0, 1.5, 1.5)).astype(np.float32) for _ in range(30)]
    more = [*pictures, *(pictures[0] * np.float32(1 + n / 10) for n in range(1, 16))]
    found = look(more, np.arange(45) % 4)
    assert {i for pair in found.pairs for i in (pair.first, pair.second)} == {0, *range(30, 45)}


def test_candidates_are_those_of_the_slow_rule() -> None:
    rng = np.random.default_rng(1)
    base = rng.normal(size=(40, 1, 16, 16))
    mixed = [base[i] + (0.3 + 0.05 * (i % 10)) * rng.normal(size=(1, 16, 16)) for i in range(40)]
    pictures = [p.astype(np.float32) for p in (*base, *mixed)]
    folds = np.repeat([0, 1], 40)
    thumbs = np.stack([thumbnail(p) for p in pictures]).astype(np.float64)
    waves = np.stack([dctn((t / np.linalg.norm(t)).reshape(SIDE, SIDE), norm="ortho").ravel()[1:] for t in thumbs])
    waves = (waves - waves.mean(axis=0)) / np.maximum(waves.std(axis=0), 0.1 * waves.std(axis=0).max())
    alike = np.array([[a @ b / np.linalg.norm(a) / np.linalg.norm(b) for a in waves] for b in waves])
    expected = set()
    for i in range(40):
        for j in range(40, 80):
            tenth = max(np.sort(np.delete(alike[k], k))[-10] for k in (i, j))
            if (alike[i, j] >= 0.98 or (alike[i, j] >= 0.85 and 1 - alike[i, j] <= 0.2 * (1 - tenth))) and same_detail(
                pictures[i], pictures[j]
            ) >= 0.75:
                expected.add((i, j))
    assert {(pair.first, pair.second) for pair in look(pictures, folds).pairs} == expected
    assert 5 < len(expected) < 40


def test_detail_is_a_correlation_of_band_passed_pictures_at_the_best_shift() -> None:
    rng = np.random.default_rng(2)
    a = gaussian_filter(rng.normal(size=(2, 40, 56)), (0, 1, 1))
    b = np.roll(a, (2, -1), (1, 2)) + 0.1 * rng.normal(size=a.shape)

    def band(picture: NDArray[np.float64]) -> NDArray[np.float64]:
        fine, coarse = (gaussian_filter(picture, (0, sigma, sigma), mode="wrap", truncate=8) for sigma in (1, 4))
        return np.asarray(fine - coarse)

    shifted = [np.roll(band(b), (dy, dx), (1, 2)) for dy in range(-2, 3) for dx in range(-2, 3)]
    slow = max(np.mean([np.corrcoef(band(a)[c].ravel(), s[c].ravel())[0, 1] for c in range(2)]) for s in shifted)
    found = same_detail(a.astype(np.float32), b.astype(np.float32))
    assert found == pytest.approx(slow, abs=2e-3)
    assert found > 0.9
    assert same_detail(a.astype(np.float32), np.roll(b, 5, 2).astype(np.float32)) < 0.5
    half = np.stack([a[0], np.zeros((40, 56))]).astype(np.float32)
    assert same_detail(half, half) == pytest.approx(1.0)
    assert same_detail(half, a.astype(np.float32)) == pytest.approx(0.5)
    assert same_detail(np.zeros((1, 9, 9), np.float32), np.zeros((1, 9, 9), np.float32)) == 0.0


def test_a_thumbnail_is_the_mean_of_equal_areas_whatever_the_size_and_the_exposure() -> None:
    rng = np.random.default_rng(3)
    picture = rng.integers(0, 60000, (2, 48, 80)).astype(np.uint16)
    standard = [(c - c.mean()) / c.std() for c in picture.astype(np.float64)]
    slow = sum(c.reshape(16, 3, 16, 5).mean(axis=(1, 3)) for c in standard)
    assert thumbnail(picture) == pytest.approx(np.asarray(slow).ravel(), rel=1e-5)
    scaled = picture.astype(np.float32) * np.array([0.1, 0.7], np.float32)[:, None, None] + 5
    assert thumbnail(scaled[::-1]) == pytest.approx(thumbnail(picture), abs=1e-4)
    assert thumbnail(picture[:, :5, :7]).shape == (256,)
    for empty in (np.full((3, 20, 20), 7, np.uint8), np.full((1, 20, 20), np.nan, np.float32), np.full((1, 9, 9), 1e9, np.float32)):
        assert not thumbnail(empty).any()


def test_too_many_candidates_are_counted_not_compared() -> None:
    rng = np.random.default_rng(4)
    base = rng.normal(size=(4, 1, 16, 16)).astype(np.float32)
    n = 1400
    pictures = [base[i % 4] * np.float32(1 + i) for i in range(n)]
    found = near_copies(np.stack([thumbnail(p) for p in pictures]), np.arange(n) % 7, [str(i) for i in range(n)], lambda i: pictures[i])
    assert len(found.pairs) == MOST
    assert 0 < found.unchecked <= 5 * n - MOST


def test_exact_copies_and_overlaps_by_hand() -> None:
    assert exact_copies(["a", "b", "a", "a", "b"], np.array([0, 1, 0, 2, 1])) == [Pair(0, 3, 1.0), Pair(2, 3, 1.0)]
    sources, corners = ["x", "x", "y", "x", "x"], [(0, 0), (5, -2), (0, 0), (9, 0), (40, 40)]
    found = overlapping_crops(sources, corners, [(10, 10)] * 5, np.array([0, 1, 1, 0, 1]))
    # (0, 0) and (5, -2) share 5 x 8 of 100 pixels, (5, -2) and (9, 0) 6 x 8; (0, 0) and (9, 0) are of one unit
    assert found == [Pair(1, 3, 0.48), Pair(0, 1, 0.4)]
    assert overlapping_crops(sources, [(0, 0), (10, 0), (0, 0), (20, 0), (30, 0)], [(10, 10)] * 5, np.arange(5)) == []
    # 4 x 20 pixels of the smaller one, 8 x 20
    assert overlapping_crops(["x", "x"], [(0.0, 0.0), (16.0, 5.0)], [(20, 40), (8, 20)], np.arange(2)) == [Pair(0, 1, 0.5)]
    notes = overlap_notes(found, np.array([0, 1, 0, 1, 0]), list("abcde"))
    assert notes[0].startswith("2 images are crops that overlap a crop in another fold, by up to 40% (`a` and `b`)")
    assert notes[1].startswith("2 images are crops that overlap a crop of another unit in the same fold, by up to 48% (`b` and `d`)")


def test_the_import_reports_near_copies_before_anything_is_scored(tmp_path: Path) -> None:
    frame = table(tmp_path / "raw", rows=30, shape=(32, 32))
    rng = np.random.default_rng(5)
    for name in frame["file"]:
        picture = gaussian_filter(rng.normal(size=(32, 32)), 1.5)
        write(tmp_path / "raw" / name, ((picture - picture.min()) / np.ptp(picture) * 250).astype(np.uint8))
    # row 7 lies on plate P1, row 20 on P2
    with Pillow.open(tmp_path / "raw" / frame["file"][7]) as picture:
        Pillow.fromarray(np.asarray(picture) // 2 + 30).save(tmp_path / "raw" / frame["file"][20])
    said: list[str] = []
    options = ImportOptions(table=Path("cells.csv"), labels=("phenotype",), unit="plate", folds=6)
    benchmark = import_folder(tmp_path / "raw", "mine", tmp_path / "data" / "mine", options, say=said.append)
    (note,) = [note for note in benchmark.card.notes if "near copy" in note]
    assert note.startswith("2 images have a near copy in another fold (`007` and `020`): the same picture with other pixels.")
    assert f"`mine`: {note}" in said
    # in one unit, and so in one fold, they harm nobody
    frame["plate"] = frame["plate"].where(frame["plate"] != "P2", "P1")
    frame.to_csv(tmp_path / "raw" / "cells.csv", index=False)
    together = import_folder(tmp_path / "raw", "together", tmp_path / "data" / "together", replace(options, folds=5), say=said.append)
    assert not any("near copy" in note for note in together.card.notes)


def crowded(root: Path) -> pd.DataFrame:
    """Six images with three objects; the first two are 6 pixels apart."""
    rows = []
    for image in range(6):
        mask = np.zeros((64, 64), np.uint16)
        for k, (y, x) in enumerate(((20, 20), (20, 26), (50, 50)), start=1):
            mask[y - 1 : y + 2, x - 1 : x + 2] = k
            rows.append({"image": f"s{image}.tif", "mask": f"s{image}_mask.tif", "cell": k, "kind": "ab"[k % 2], "donor": f"d{k}"})
        write(root / f"s{image}.tif", np.random.default_rng(image).integers(0, 255, (1, 64, 64)).astype(np.uint8))
        write(root / f"s{image}_mask.tif", mask)
    frame = pd.DataFrame(rows)
    frame.to_csv(root / "cells.csv", index=False)
    return frame


def test_overlapping_crops_are_reported_unless_an_image_is_a_unit(tmp_path: Path) -> None:
    crowded(tmp_path / "raw")
    objects = ImportOptions(table=Path("cells.csv"), labels=("kind",), unit="image", mask="mask", object="cell", crop=16, rare_labels="keep")
    by_image = import_folder(tmp_path / "raw", "images", tmp_path / "data" / "images", objects, say=lambda _: None)
    assert by_image.index.groupby("unit")["fold"].nunique().tolist() == [1] * 6
    assert not any("overlap" in note for note in by_image.card.notes)
    # donors tear images apart: `d1` and `d2` stand side by side in each
    torn = import_folder(tmp_path / "raw", "donors", tmp_path / "data" / "donors", replace(objects, unit="donor"), say=lambda _: None)
    (note,) = [note for note in torn.card.notes if "overlap" in note]
    assert note.startswith("12 images are crops that overlap a crop in another fold, by up to 62% (`s0-1` and `s0-2`; `s1-1` and `s1-2`;")


def test_patches_that_were_cut_elsewhere_are_compared_by_their_places(tmp_path: Path) -> None:
    frame = table(tmp_path / "raw", rows=30, shape=(32, 32))
    frame["slide"], frame["y"] = "s" + (np.arange(30) % 3).astype(str), 0
    # tiles of a slide lie side by side; only the second and the third of the first slide share half, and are of two plates
    frame["x"] = 32 * (np.arange(30) // 3)
    frame.loc[6, "x"] = 48
    frame.to_csv(tmp_path / "raw" / "cells.csv", index=False)
    options = ImportOptions(table=Path("cells.csv"), labels=("phenotype",), unit="plate", patches=("slide", "y", "x"), folds=6)
    said: list[str] = []
    found = import_folder(tmp_path / "raw", "tiles", tmp_path / "data" / "tiles", options, say=said.append)
    (note,) = [note for note in found.card.notes if "overlap" in note]
    assert note.startswith("2 images are crops that overlap a crop in another fold, by up to 50% (`003` and `006`)")
    frame["x"] = frame["x"].astype(object)
    frame.loc[3, "x"] = "far"
    frame.to_csv(tmp_path / "raw" / "cells.csv", index=False)
    with pytest.raises(BenchmarkError, match=r"1 of 30 images have no larger image or no place in it \(`slide`, `y`, `x`\), the first is `003`"):
        import_folder(tmp_path / "raw", "other", tmp_path / "data" / "other", options, say=said.append)
    with pytest.raises(ParamsError, match="three columns"):
        replace(options, patches=("slide", "y"))

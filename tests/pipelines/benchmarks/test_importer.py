from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import textwrap
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pipelines.benchmarks.importer import import_folder
from pipelines.benchmarks.index import Benchmark
from pipelines.benchmarks.intensities import Intensities
from pipelines.benchmarks.objects import centroids, crop, crop_side, object_sides
from pipelines.benchmarks.options import ImportOptions, parse_where
from pipelines.benchmarks.publishing import track
from registry.errors import BenchmarkError, ParamsError
from registry.images import read_image
from tests.pipelines.benchmarks.folders import classes, noise, table, write

TABLE = ImportOptions(table=Path("cells.csv"), labels=("phenotype",), unit="plate")
CLASSES = ImportOptions(unit="image")
PATTERN = "plate1/{well}_{site}_w*_{channel}.tif"


def quiet(_: str) -> None:
    pass


def imported(folder: Path, options: ImportOptions, name: str = "mine") -> Benchmark:
    return import_folder(folder, name, folder.parent / "data" / name, options, say=quiet)


def refused(folder: Path, options: ImportOptions) -> str:
    """The message of the refusal, after which nothing lies in the data folder."""
    with pytest.raises(BenchmarkError) as caught:
        imported(folder, options)
    left = list((folder.parent / "data").iterdir()) if (folder.parent / "data").exists() else []
    assert left == []
    return str(caught.value)


def test_class_folders(tmp_path: Path) -> None:
    benchmark = imported(classes(tmp_path / "raw"), CLASSES)
    index = benchmark.index
    assert index["label_class"].tolist() == ["alive"] * 6 + ["dead"] * 6
    assert index["image_id"].tolist()[:2] == ["alive/00", "alive/01"]
    assert benchmark.card.image.shape == (1, 16, 16)
    assert benchmark.card.image.intensity == ((0.0, 255.0),)
    assert benchmark.card.image.resize == "refuse"
    assert "images as units: optimistic" in benchmark.card.notes
    source = tmp_path / "raw" / "alive" / "00.png"
    assert index["sha256"][0] == hashlib.sha256(source.read_bytes()).hexdigest()
    assert np.array_equal(benchmark.pixels(0)[0], noise(0).astype(np.float32))
    assert source.exists()


def test_a_table_with_plates_and_wells(tmp_path: Path) -> None:
    frame = table(tmp_path / "raw")
    benchmark = imported(tmp_path / "raw", replace(TABLE, title="Mine", licence="CC0", source="here", citation="me", pixel_size_um=0.5))
    index = benchmark.index
    assert index["Metadata_Plate"].tolist() == frame["plate"].tolist()
    assert index["Metadata_Row"].tolist() == [1 + i % 4 for i in range(24)]
    assert index["Metadata_Column"].tolist() == [1 + i // 4 for i in range(24)]
    assert index.groupby("unit")["fold"].nunique().max() == 1
    assert sorted(index["fold"].unique()) == [0, 1, 2, 3, 4]
    card = benchmark.card
    assert (card.title, card.licence, card.source, card.citation, card.unit) == ("Mine", "CC0", "here", "me", "plate")
    assert card.image.pixel_size_um == 0.5
    assert card.tasks[0].name == "phenotype"


@pytest.mark.parametrize("suffix", [".tsv", ".parquet", ".csv.gz"])
def test_other_tables_say_the_same(tmp_path: Path, suffix: str) -> None:
    frame = table(tmp_path / "raw")
    frame["count"] = [3.0, np.nan] * 12
    path = tmp_path / "raw" / f"cells{suffix}"
    if suffix == ".parquet":
        frame.to_parquet(path)
    else:
        frame.to_csv(path, index=False, sep="\t" if suffix == ".tsv" else ",")
    first = imported(tmp_path / "raw", TABLE)
    second = imported(tmp_path / "raw", replace(TABLE, table=Path(path.name)), "other")
    pd.testing.assert_frame_equal(first.index, second.index)


@pytest.mark.parametrize(
    ("suffix", "shape", "dtype"),
    [
        (".jpg", (16, 16, 3), "uint8"),
        (".png", (16, 16, 3), "uint8"),
        (".png", (16, 16), "uint16"),
        (".tif", (5, 16, 16), "uint8"),
        (".tiff", (2, 16, 16), "uint16"),
        (".tif", (7, 16, 16), "float32"),
        (".ome.tif", (3, 16, 16), "float32"),
        (".npy", (4, 16, 16), "uint16"),
    ],
)
def test_every_format_dtype_and_number_of_channels(tmp_path: Path, suffix: str, shape: tuple[int, ...], dtype: str) -> None:
    frame = table(tmp_path / "raw", suffix=suffix, shape=shape, dtype=dtype)
    benchmark = imported(tmp_path / "raw", TABLE)
    spec = benchmark.card.image
    channels = {2: 1}.get(len(shape), shape[-1] if suffix in (".png", ".jpg") else shape[0])
    assert (len(spec.channels), spec.dtype, spec.height, spec.width) == (channels, dtype, 16, 16)
    assert len(benchmark.index) == len(frame)
    expected = read_image(tmp_path / "raw" / frame["file"][3]).pixels
    assert np.array_equal(benchmark.pixels(3), expected.astype(np.float32))


def test_channel_names_and_pixel_size_come_from_the_files_and_contradictions_are_errors(tmp_path: Path) -> None:
    frame = table(tmp_path / "raw")
    frame["file"] = frame["file"].str.replace(".png", ".ome.tif")
    for i, name in enumerate(frame["file"]):
        write(tmp_path / "raw" / name, noise(i, (2, 16, 16), "uint16", 900), ("DNA", "Actin") if i % 2 else ("Actin", "DNA"), 0.65)
    frame.to_csv(tmp_path / "raw" / "cells.csv", index=False)
    assert "DNA, Actin, but ER, DNA were asked for" in refused(tmp_path / "raw", replace(TABLE, channels=("ER", "DNA")))
    assert "state 0.65 um per pixel, but 2 was asked for" in refused(tmp_path / "raw", replace(TABLE, pixel_size_um=2.0))
    assert "Expected images with 3 channels" in refused(tmp_path / "raw", replace(TABLE, channels=("a", "b", "c")))
    benchmark = imported(tmp_path / "raw", replace(TABLE, channels=("DNA", "Actin")))
    assert benchmark.card.image.channels == ("DNA", "Actin")
    assert benchmark.card.image.pixel_size_um == 0.65
    # the order of the card, whatever the file's own order is
    assert np.array_equal(benchmark.pixels(0), noise(0, (2, 16, 16), "uint16", 900)[::-1].astype(np.float32))
    assert np.array_equal(benchmark.pixels(1), noise(1, (2, 16, 16), "uint16", 900).astype(np.float32))


def test_one_file_per_channel_by_pattern_joined_with_a_table(tmp_path: Path) -> None:
    wells = [f"{row}{column:02d}" for row in "ABC" for column in (1, 2, 3, 4)]
    for k, well in enumerate(wells):
        for site in "12":
            for c, channel in enumerate(("DNA", "ER")):
                write(tmp_path / "raw" / "plate1" / f"{well}_{site}_w{c}_{channel}.tif", np.full((8, 8), 100 * k + 10 * c + int(site), np.uint16))
    write(tmp_path / "raw" / "plate1" / "thumbnail.png", noise(0))
    layout = pd.DataFrame({"well": wells, "treatment": ["dmso", "drug"] * 6})
    layout.to_csv(tmp_path / "raw" / "layout.csv", index=False)
    options = ImportOptions(table=Path("layout.csv"), pattern=PATTERN, labels=("treatment",), unit="well")
    benchmark = imported(tmp_path / "raw", options)
    assert benchmark.card.image.channels == ("DNA", "ER")
    assert len(benchmark.index) == 24
    row = benchmark.index.set_index("image_id").loc["B02_2"]
    assert (row["Metadata_Well"], row["Metadata_Row"], row["Metadata_Site"], row["label_treatment"]) == ("B02", 2, "2", "drug")
    position = benchmark.index["image_id"].tolist().index("B02_2")
    assert benchmark.pixels(position)[:, 0, 0].tolist() == [502.0, 512.0]
    assert any("1 image files do not fit the pattern" in note for note in benchmark.card.notes)
    reordered = imported(tmp_path / "raw", replace(options, channels=("ER", "DNA")), "reordered")
    assert reordered.pixels(position)[:, 0, 0].tolist() == [512.0, 502.0]
    (tmp_path / "raw" / "plate1" / "A01_1_w1_ER.tif").unlink()
    with pytest.raises(BenchmarkError, match=r"1 of 24 images cannot be used, 0 are tolerated.*\n  A01_1: the file of channel `ER` was not found"):
        imported(tmp_path / "raw", options, "lacking")


def test_one_file_per_channel_by_columns(tmp_path: Path) -> None:
    frame = pd.DataFrame({"phenotype": ["a", "b"] * 6, "plate": [f"P{i // 2}" for i in range(12)]})
    for channel, level in (("DNA", 10), ("DAPI2", 20)):
        frame[f"FileName_{channel}"] = [f"{i}_{channel}.tif" for i in range(12)]
        for i in range(12):
            write(tmp_path / "raw" / "deep" / f"{i}_{channel}.tif", np.full((8, 8), level + i, np.uint8))
    frame.to_csv(tmp_path / "raw" / "cells.csv", index=False)
    benchmark = imported(tmp_path / "raw", TABLE)
    assert benchmark.card.image.channels == ("DNA", "DAPI2")
    assert benchmark.pixels(0)[:, 0, 0].tolist() == [10.0, 20.0]


def test_paths_may_be_names_without_folder_or_suffix_and_ids_a_column(tmp_path: Path) -> None:
    frame = table(tmp_path / "raw")
    frame["id"] = [name[7:-4] for name in frame["file"]]
    frame["key"] = [f"cell {i}/x" for i in range(24)]
    frame.drop(columns="file").to_csv(tmp_path / "raw" / "cells.csv", index=False)
    benchmark = imported(tmp_path / "raw", replace(TABLE, image_id="key"))
    assert sorted(benchmark.index["image_id"]) == sorted(frame["key"])
    assert benchmark.index["path"][0] == "images/cell_0/x.png"
    assert np.array_equal(benchmark.pixels(0)[0], noise(0).astype(np.float32))


def test_ids_that_differ_only_in_case_or_forbidden_letters_get_files_of_their_own(tmp_path: Path) -> None:
    frame = table(tmp_path / "raw")
    frame["key"] = ["a b", "a_b", "A_B", *map(str, range(21))]
    frame.to_csv(tmp_path / "raw" / "cells.csv", index=False)
    benchmark = imported(tmp_path / "raw", replace(TABLE, image_id="key"))
    assert benchmark.index["path"].str.lower().nunique() == 24


def test_rows_are_selected_and_labels_may_be_missing(tmp_path: Path) -> None:
    frame = table(tmp_path / "raw", rows=48, plates=8)
    frame["run"] = ["one"] * 36 + ["two"] * 12
    frame.loc[[0, 5], "phenotype"] = [None, "NA"]
    frame.to_csv(tmp_path / "raw" / "cells.csv", index=False)
    benchmark = imported(tmp_path / "raw", replace(TABLE, where=(("run", "one"),)))
    assert len(benchmark.index) == 36
    assert benchmark.index.loc[[0, 5], "label_phenotype"].isna().all()
    assert any("2 images have no label and take no part" in note for note in benchmark.card.notes)
    assert any("Only images with `run` = one: 36 of 48" in note for note in benchmark.card.notes)
    with pytest.raises(BenchmarkError, match=r"No image has `run` = `3`\. Its values are `one`, `two`"):
        imported(tmp_path / "raw", replace(TABLE, where=(("run", "3"),)), "none")


def test_the_only_table_that_names_images_is_found(tmp_path: Path) -> None:
    frame = table(tmp_path / "raw")
    frame.rename(columns={"phenotype": "class"}).to_csv(tmp_path / "raw" / "cells.csv", index=False)
    pd.DataFrame({"compound": ["x"], "dose": [1]}).to_csv(tmp_path / "raw" / "compounds.csv", index=False)
    benchmark = imported(tmp_path / "raw", replace(TABLE, table=None, labels=("class",)))
    assert benchmark.index["label_class"].tolist() == frame["phenotype"].tolist()
    frame.to_csv(tmp_path / "raw" / "second.csv", index=False)
    with pytest.raises(BenchmarkError, match=r"several do: `cells.csv`, `second.csv`\. State it with `--table`"):
        imported(tmp_path / "raw", replace(TABLE, table=None), "other")


def test_several_label_columns_are_several_tasks(tmp_path: Path) -> None:
    frame = table(tmp_path / "raw")
    frame["CellType"] = ["T", "T", "B"] * 8
    frame.to_csv(tmp_path / "raw" / "cells.csv", index=False)
    benchmark = imported(tmp_path / "raw", replace(TABLE, labels=("phenotype", "CellType")))
    assert [task.column for task in benchmark.card.tasks] == ["label_phenotype", "label_cell-type"]


def test_rare_labels_are_excluded_or_kept_by_a_stated_rule(tmp_path: Path) -> None:
    frame = table(tmp_path / "raw")
    frame.loc[frame["plate"] == "P2", "phenotype"] = ["odd", "round", "odd", "round"]
    frame.loc[[0, 7], "phenotype"] = "pair"
    frame.to_csv(tmp_path / "raw" / "cells.csv", index=False)
    excluded = imported(tmp_path / "raw", TABLE)
    assert excluded.index["label_phenotype"].isna().sum() == 2
    assert "`phenotype`: label `odd` in one unit only (2 images): excluded." in excluded.card.notes
    assert "`phenotype`: label `pair` in two units only; an interval needs 3 units of every class." in excluded.card.notes
    kept = imported(tmp_path / "raw", replace(TABLE, rare_labels="keep"), "kept")
    assert (kept.index["label_phenotype"] == "odd").sum() == 2
    assert any("kept, and cannot be predicted" in note for note in kept.card.notes)


def test_copies_lie_in_one_fold_when_images_are_units_and_are_reported_otherwise(tmp_path: Path) -> None:
    frame = table(tmp_path / "raw")
    write(tmp_path / "raw" / frame["file"][1], noise(0))
    write(tmp_path / "raw" / frame["file"][14], noise(0))
    by_image = imported(tmp_path / "raw", replace(TABLE, unit="image"))
    assert by_image.index.loc[[0, 1, 14], "fold"].nunique() == 1
    assert by_image.index.loc[[0, 1, 14], "unit"].unique().tolist() == ["000"]
    assert any("3 images are exact copies" in note for note in by_image.card.notes)
    by_plate = imported(tmp_path / "raw", replace(TABLE, folds=6), "plates")
    assert any("3 images have an exact copy in another fold" in note for note in by_plate.card.notes)


def test_a_published_split_is_taken_as_it_is_stated(tmp_path: Path) -> None:
    frame = table(tmp_path / "raw")
    frame["split"] = frame["plate"].map({"P0": "second", "P1": "first", "P2": "first", "P3": "train", "P4": "second", "P5": "train"})
    frame.to_csv(tmp_path / "raw" / "cells.csv", index=False)
    made = imported(tmp_path / "raw", replace(TABLE, folds="split"))
    by_plate = made.index.groupby("unit")["fold"].unique().map(list).to_dict()
    assert by_plate == {"P0": [1], "P1": [0], "P2": [0], "P3": [-1], "P4": [1], "P5": [-1]}
    assert "Split as column `split` states: tested in `first`, `second`; 8 are never tested." in made.card.notes
    assert not any("balanced over classes" in note for note in made.card.notes)


def test_a_batch_that_gives_the_class_away_is_told(tmp_path: Path) -> None:
    frame = table(tmp_path / "raw")
    frame["batch"] = frame["phenotype"].map({"round": "monday", "flat": "tuesday"})
    frame.to_csv(tmp_path / "raw" / "cells.csv", index=False)
    notes = imported(tmp_path / "raw", TABLE).card.notes
    assert "`phenotype`: 2 of 2 classes occur in one batch only: recognising the batch would do for them." in notes


def test_wells_that_are_plain_numbers_give_no_position(tmp_path: Path) -> None:
    frame = table(tmp_path / "raw")
    frame["well"] = range(24)
    frame.to_csv(tmp_path / "raw" / "cells.csv", index=False)
    benchmark = imported(tmp_path / "raw", TABLE)
    assert "Metadata_Well" in benchmark.index
    assert "Metadata_Row" not in benchmark.index
    assert any("do not name a row and a column" in note for note in benchmark.card.notes)


def test_images_of_several_sizes_are_brought_to_the_median(tmp_path: Path) -> None:
    frame = table(tmp_path / "raw")
    for i, name in enumerate(frame["file"][:5]):
        write(tmp_path / "raw" / name, noise(i, (20, 30)))
    benchmark = imported(tmp_path / "raw", TABLE)
    assert (benchmark.card.image.resize, benchmark.pixels(0).shape) == ("linear", (1, 16, 16))
    assert any("2 sizes, 16 x 16 to 20 x 30; all are resampled linearly to the median 16 x 16" in note for note in benchmark.card.notes)


@pytest.mark.parametrize(("dtype", "tolerance"), [("uint16", 0.0), ("float32", 5e-4)])
def test_intensities_are_quantiles_over_all_images(tmp_path: Path, dtype: str, tolerance: float) -> None:
    rng = np.random.default_rng(1)
    frame = table(tmp_path / "raw", rows=12, plates=6, suffix=".tif")
    stack = np.concatenate([rng.normal(500, 90, (12, 1, 32, 32)), np.full((12, 1, 32, 32), 7)], axis=1).astype(dtype)
    for name, pixels in zip(frame["file"], stack, strict=True):
        write(tmp_path / "raw" / name, pixels)
    (low, high), constant = imported(tmp_path / "raw", TABLE).card.image.intensity
    expected = np.quantile(stack[:, 0], [0.001, 0.999], method="inverted_cdf")
    assert [low, high] == pytest.approx(expected.tolist(), rel=tolerance)
    assert constant == (7.0, 8.0)


def test_float_quantiles_hold_for_negative_tiny_and_huge_values() -> None:
    rng = np.random.default_rng(2)
    values = (rng.normal(0, 1, (1, 100, 100)) * 10.0 ** rng.integers(-20, 20, (1, 100, 100))).astype(np.float32)
    counts = Intensities()
    for part in np.split(values, 4, axis=1):
        counts.add(part, ())
    ((low, high),) = counts.quantiles("float32", ("a",))
    assert [low, high] == pytest.approx(np.quantile(values, [0.001, 0.999], method="inverted_cdf").tolist(), rel=1e-3)
    assert low < 0 < high


def object_folder(root: Path) -> pd.DataFrame:
    """Six stacks of 3 x 64 x 64 with a label mask each; object k is a 5 x 7 box whose channel 0 is 10 k."""
    rows = []
    for image in range(6):
        pixels, mask = noise(image, (3, 64, 64), "float32"), np.zeros((64, 64), np.uint16)
        for k, (y, x) in enumerate(((2, 3), (30, 40), (57, 50)), start=11):
            mask[y : y + 5, x : x + 7] = k
            pixels[0][mask == k] = 10 * k
            rows.append(
                {"ImageName": f"s{image}.tiff", "MaskName": f"s{image}_mask.tiff", "CellNb": k, "CellType": "ab"[(image + k) % 2], "Pos_X": 0}
            )
        write(root / f"s{image}.tiff", pixels)
        write(root / f"s{image}_mask.tiff", mask)
    frame = pd.DataFrame(rows)
    frame.to_csv(root / "cells.csv", index=False)
    return frame


OBJECTS = ImportOptions(table=Path("cells.csv"), labels=("CellType",), unit="ImageName", mask="MaskName", object="CellNb", crop=16)


def test_objects_are_cut_out_around_the_centre_of_their_mask(tmp_path: Path) -> None:
    object_folder(tmp_path / "raw")
    benchmark = imported(tmp_path / "raw", OBJECTS)
    assert benchmark.index["image_id"].tolist()[:4] == ["s0-11", "s0-12", "s0-13", "s1-11"]
    assert benchmark.card.image.shape == (3, 16, 16)
    whole = read_image(tmp_path / "raw" / "s0.tiff").pixels
    # box rows 30-34, columns 40-46: centre (32, 43)
    assert np.array_equal(benchmark.pixels(1), whole[:, 24:40, 35:51])
    assert benchmark.index.groupby("unit").size().tolist() == [3] * 6
    assert not any("not in the table" in note for note in benchmark.card.notes)
    assert "Objects were cut out as squares of 16 pixels around their centre." in benchmark.card.notes
    by_image = imported(tmp_path / "raw", replace(OBJECTS, unit="image", crop=None), "image")
    assert by_image.index["unit"].nunique() == 6
    assert "images as units: optimistic" in by_image.card.notes


def test_the_edge_is_mirrored() -> None:
    pixels = np.arange(100, dtype=np.uint8).reshape(1, 10, 10)
    cut = crop(pixels, (1.0, 8.0), 6)
    rows, columns = [2, 1, 0, 1, 2, 3], [5, 6, 7, 8, 9, 8]
    assert np.array_equal(cut[0], pixels[0][np.ix_(rows, columns)])


def test_centroids_and_sides_of_objects() -> None:
    mask = np.zeros((20, 30), np.int64)
    mask[2:5, 4:14] = 900
    mask[10, 20] = 3
    assert centroids(mask) == {900: (3.0, 8.5), 3: (10.0, 20.0)}
    assert sorted(object_sides(mask)) == [1, 10]
    assert crop_side([10, 10, 12]) == 24
    assert crop_side([3]) == 16


def test_objects_that_are_not_in_their_mask_are_named(tmp_path: Path) -> None:
    frame = object_folder(tmp_path / "raw")
    frame.loc[0, "CellNb"] = 99
    frame.to_csv(tmp_path / "raw" / "cells.csv", index=False)
    assert "s0_mask.tiff` has no object `99`" in refused(tmp_path / "raw", OBJECTS)
    assert len(imported(tmp_path / "raw", replace(OBJECTS, tolerate=1)).index) == 17
    (tmp_path / "raw" / "s3_mask.tiff").unlink()
    with pytest.raises(BenchmarkError, match="its mask was not found"):
        imported(tmp_path / "raw", OBJECTS, "again")


def nuclei_table(root: Path, ids: list[str]) -> pd.DataFrame:
    frame = pd.DataFrame({"image_id": ids, "x_px": 2.5, "y_px": 8.0, "area_px": 20, "type": ["dark", None] * (len(ids) // 2)})
    frame.to_csv(root / "nuclei.csv", index=False)
    return frame


def test_nuclei_are_stored_in_micrometres(tmp_path: Path) -> None:
    table(tmp_path / "raw")
    nuclei_table(tmp_path / "raw", ["003"] * 4 + ["gone"] * 2)
    benchmark = imported(tmp_path / "raw", replace(TABLE, nuclei=Path("nuclei.csv"), modality="tissue", pixel_size_um=0.5))
    assert benchmark.card.structure
    found = benchmark.nuclei["003"]
    assert found["nucleus"].tolist() == [1, 2, 3, 4]
    assert (found["x_um"].tolist(), found["y_um"].tolist(), found["area_um2"].tolist()) == ([1.25] * 4, [4.0] * 4, [5.0] * 4)
    assert found["type"].fillna("none").tolist() == ["dark", "none"] * 2
    assert "2 nuclei belong to images that were not imported and were left out." in benchmark.card.notes
    in_pixels = imported(tmp_path / "raw", replace(TABLE, nuclei=Path("nuclei.csv"), modality="tissue"), "pixels")
    assert in_pixels.nuclei["003"]["x_um"].tolist() == [2.5] * 4
    assert any("lengths and areas of nuclei are in pixels" in note for note in in_pixels.card.notes)


def test_nuclei_are_stretched_with_their_images(tmp_path: Path) -> None:
    frame = table(tmp_path / "raw")
    write(tmp_path / "raw" / frame["file"][3], noise(3, (32, 64)))
    nuclei_table(tmp_path / "raw", ["003", "004"])
    nuclei = imported(tmp_path / "raw", replace(TABLE, nuclei=Path("nuclei.csv"))).nuclei
    assert nuclei["003"][["x_um", "y_um", "area_um2"]].to_numpy().tolist() == [[2.5 / 4, 4.0, 20 / 8]]
    assert nuclei["004"][["x_um", "y_um", "area_um2"]].to_numpy().tolist() == [[2.5, 8.0, 20.0]]


def test_bad_nuclei_are_refused(tmp_path: Path) -> None:
    table(tmp_path / "raw")
    options = replace(TABLE, nuclei=Path("nuclei.csv"))
    frame = nuclei_table(tmp_path / "raw", ["003"] * 2)
    frame.assign(x_px=16.5).to_csv(tmp_path / "raw" / "nuclei.csv", index=False)
    assert "2 nuclei lie outside their image (first: `003` at x 16.5" in refused(tmp_path / "raw", options)
    frame.assign(area_px="large").to_csv(tmp_path / "raw" / "nuclei.csv", index=False)
    assert "2 rows whose position or area is no number" in refused(tmp_path / "raw", options)
    frame.drop(columns="y_px").to_csv(tmp_path / "raw" / "nuclei.csv", index=False)
    assert "There is no column `y_px` for the nuclei table" in refused(tmp_path / "raw", options)
    frame.assign(image_id="x").to_csv(tmp_path / "raw" / "nuclei.csv", index=False)
    assert "No nucleus belongs to an imported image" in refused(tmp_path / "raw", options)


def damage(path: Path, how: str) -> None:
    if how == "truncated":
        path.write_bytes(path.read_bytes()[:-300])
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "text":
        path.write_text("not an image")
    elif how == "channels":
        write(path, noise(0, (3, 16, 16), "float32"))
    elif how == "dtype":
        write(path, noise(0, (2, 16, 16), "uint16"))
    elif how == "nan":
        pixels = noise(0, (2, 16, 16), "float32")
        pixels[0, 3, 4] = np.nan
        write(path, pixels)
    else:
        path.unlink()


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("truncated", "truncated"),
        ("empty", "expected TIFF, OME-TIFF, PNG, JPEG or npy, got 0 bytes"),
        ("text", "expected TIFF, OME-TIFF, PNG, JPEG or npy"),
        ("channels", r"expected 2 channels \(channel_1, channel_2\) like most images, got 3"),
        ("dtype", "expected float32 like most images, got uint16"),
        ("nan", "1 of 512 pixels are NaN or infinite"),
        ("missing", "the file of the image was not found"),
    ],
)
def test_bad_images_are_all_named_with_the_reason_and_left_out_only_if_tolerated(tmp_path: Path, how: str, reason: str) -> None:
    frame = table(tmp_path / "raw", suffix=".tif", shape=(2, 16, 16), dtype="float32")
    for row in (4, 11):
        damage(tmp_path / "raw" / frame["file"][row], how)
    said: list[str] = []
    with pytest.raises(
        BenchmarkError, match=rf"2 of 24 images cannot be used, 0 are tolerated(.|\n)*  \S*004\S*: .*{reason}(.|\n)*  \S*011\S*: .*{reason}"
    ):
        import_folder(tmp_path / "raw", "mine", tmp_path / "data" / "mine", TABLE, say=said.append)
    assert len([line for line in said if line.startswith("unusable: ")]) == 2
    assert list((tmp_path / "data").iterdir()) == []
    benchmark = imported(tmp_path / "raw", replace(TABLE, tolerate=2))
    assert len(benchmark.index) == 22
    assert "2 images could not be used and were left out." in benchmark.card.notes
    stored = sorted(p.relative_to(benchmark.folder).as_posix() for p in (benchmark.folder / "images").rglob("*.tif"))
    assert stored == sorted(benchmark.index["path"])


def test_an_image_of_another_pixel_size_is_named(tmp_path: Path) -> None:
    frame = table(tmp_path / "raw", suffix=".ome.tif", shape=(2, 16, 16))
    for i, name in enumerate(frame["file"]):
        write(tmp_path / "raw" / name, noise(i, (2, 16, 16)), ("a", "b"), 1.3 if i == 7 else 0.65)
    assert "007.ome.tif`: expected 0.65 um per pixel like most images, got 1.3" in refused(tmp_path / "raw", TABLE)


def test_bad_tables_are_refused(tmp_path: Path) -> None:
    frame = table(tmp_path / "raw")
    assert "There is no column `nothing` for the labels. The columns are `file`, `phenotype`" in refused(
        tmp_path / "raw", replace(TABLE, labels=("nothing",))
    )
    assert "There is no column `donor` for the unit" in refused(tmp_path / "raw", replace(TABLE, unit="donor"))
    assert "State `--unit COLUMN`" in refused(tmp_path / "raw", replace(TABLE, unit=None))
    assert "There is no column `rig` for the batch" in refused(tmp_path / "raw", replace(TABLE, batch="rig"))
    assert "There is no table" in refused(tmp_path / "raw", replace(TABLE, table=Path("no.csv")))
    assert "at least 9 units for 9 folds, got 6" in refused(tmp_path / "raw", replace(TABLE, folds=9))
    assert "There is no column `split` for the folds" in refused(tmp_path / "raw", replace(TABLE, folds="split"))
    assert "puts unit `P0` into several folds" in refused(tmp_path / "raw", replace(TABLE, folds="well"))
    for change, message in (
        ({"phenotype": "round"}, "expected at least two classes, got one class, `round`"),
        ({"phenotype": None}, "no label at all"),
        ({"phenotype": frame["plate"]}, "6 of 6 classes occur in one unit only"),
        ({"plate": "P0"}, "occur in one unit only"),
        ({"plate": [None, *frame["plate"][1:]]}, "The unit column `plate` is empty for 1 of 24 images"),
        ({"image_id": "same"}, "Image id `same` occurs more than once (1 such ids)"),
        ({"file": frame["file"][0]}, "Image id `000` occurs more than once"),
        ({"file": "elsewhere.txt"}, "No column of the table names the images"),
    ):
        frame.assign(**change).to_csv(tmp_path / "raw" / "cells.csv", index=False)
        assert message in refused(tmp_path / "raw", TABLE)
    (tmp_path / "raw" / "cells.csv").write_text("file,phenotype,plate\n")
    assert "has no rows" in refused(tmp_path / "raw", TABLE)
    (tmp_path / "raw" / "cells.csv").write_text("")
    assert "cannot be read as a table" in refused(tmp_path / "raw", TABLE)


def test_bad_folders_are_refused(tmp_path: Path) -> None:
    assert "is not a folder" in refused(tmp_path / "none", CLASSES)
    (tmp_path / "empty").mkdir()
    assert "got no image files" in refused(tmp_path / "empty", CLASSES)
    (tmp_path / "empty" / "a.bmp").write_bytes(b"BM")
    assert "but 1 .bmp" in refused(tmp_path / "empty", CLASSES)
    assert "one sub-folder per class (at least two), got 6 image files in `only`" in refused(classes(tmp_path / "one", names=("only",)), CLASSES)
    assert "Expected one table" in refused(classes(tmp_path / "tableless"), replace(CLASSES, labels=("phenotype",)))
    assert "No image file" in refused(tmp_path / "one", replace(CLASSES, pattern="{well}_{channel}.tif", labels=("well",)))


def test_files_that_are_not_in_the_table_are_reported(tmp_path: Path) -> None:
    table(tmp_path / "raw")
    write(tmp_path / "raw" / "images" / "extra.png", noise(5))
    write(tmp_path / "raw" / "masks" / "000.png", noise(5))
    notes = imported(tmp_path / "raw", TABLE).card.notes
    assert "1 image files are not in the table and were left out (first: `images/extra.png`)." in notes


def test_options_are_checked() -> None:
    with pytest.raises(ParamsError, match=r"`x\.yaml`: there is no option `lable`\. Known: batch"):
        ImportOptions.from_mapping({"lable": "a"}, "x.yaml")
    with pytest.raises(ParamsError, match=r"`x\.yaml`: Expected `modality` to be `cells` or `tissue` or `natural`, got `cell`"):
        ImportOptions.from_mapping({"modality": "cell"}, "x.yaml")
    with pytest.raises(ParamsError, match=r"expected `folds` to be a whole number, got `2\.5`"):
        ImportOptions.from_mapping({"folds": 2.5}, "x.yaml")
    assert [ImportOptions.from_mapping({"folds": value}, "x.yaml").folds for value in (3, "3", "split")] == [3, 3, "split"]
    with pytest.raises(ParamsError, match="Objects need both `mask`"):
        ImportOptions(mask="m")
    assert parse_where("run=a=b") == ("run", "a=b")
    with pytest.raises(ParamsError, match="Expected a condition `column=value`, got `run`"):
        parse_where("run")
    mapped = ImportOptions.from_mapping({"label": "a", "where": {"run": [1, 2]}, "channels": ["x"]}, "y")
    assert mapped == ImportOptions(labels=("a",), where=(("run", "1"), ("run", "2")), channels=("x",))


def test_an_existing_benchmark_is_only_overwritten_when_asked_and_survives_a_failure(tmp_path: Path) -> None:
    frame = table(tmp_path / "raw")
    first = imported(tmp_path / "raw", TABLE)
    with pytest.raises(BenchmarkError, match=r"already exists\. Choose another name, or overwrite it with `--replace`"):
        imported(tmp_path / "raw", TABLE)
    damaged = tmp_path / "raw" / frame["file"][4]
    damaged.unlink()
    with pytest.raises(BenchmarkError, match="cannot be used"):
        imported(tmp_path / "raw", replace(TABLE, replace=True))
    assert Benchmark.read(first.folder).data_hash() == first.data_hash()
    write(damaged, noise(4))
    again = imported(tmp_path / "raw", replace(TABLE, replace=True, folds=3))
    assert sorted(again.index["fold"].unique()) == [0, 1, 2]
    assert [p.name for p in (tmp_path / "data").iterdir()] == ["mine"]


def test_the_same_folder_gives_the_same_bytes(tmp_path: Path) -> None:
    object_folder(tmp_path / "raw")
    first, second = (imported(tmp_path / "raw", OBJECTS, name) for name in ("one", "two"))
    for path in sorted(first.folder.rglob("*.*")):
        if path.name != "card.json":
            assert path.read_bytes() == (second.folder / path.relative_to(first.folder)).read_bytes()
    assert first.card == replace(second.card, name="one", title="one")


def test_an_import_that_is_killed_leaves_nothing_and_can_be_repeated(tmp_path: Path) -> None:
    table(tmp_path / "raw", rows=400, plates=8, shape=(64, 64))
    script = textwrap.dedent("""
        import sys
        from pathlib import Path
        from pipelines.benchmarks.importer import import_folder
        from pipelines.benchmarks.options import ImportOptions
        options = ImportOptions(table=Path("cells.csv"), labels=("phenotype",), unit="plate", workers=1)
        import_folder(Path(sys.argv[1]), "mine", Path(sys.argv[2]), options)
    """)
    out = tmp_path / "data" / "mine"
    with subprocess.Popen([sys.executable, "-c", script, tmp_path / "raw", out], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        staging = tmp_path / "data" / ".mine.part" / "images"
        deadline = time.monotonic() + 60
        while not (staging.is_dir() and any(staging.iterdir())) and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert not out.exists()
    assert len(imported(tmp_path / "raw", TABLE).index) == 400
    assert [p.name for p in (tmp_path / "data").iterdir()] == ["mine"]


def test_a_full_disk_is_said_and_leaves_nothing(tmp_path: Path) -> None:
    object_folder(tmp_path / "raw")
    script = textwrap.dedent("""
        import resource, sys
        from pathlib import Path
        from pipelines.benchmarks.importer import import_folder
        from pipelines.benchmarks.options import ImportOptions
        from registry.errors import BenchmarkError
        options = ImportOptions(table=Path("cells.csv"), labels=("CellType",), unit="ImageName", mask="MaskName", object="CellNb", crop=32)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
        try:
            import_folder(Path(sys.argv[1]), "mine", Path(sys.argv[2]), options)
        except BenchmarkError as error:
            print(error)
    """)
    done = subprocess.run([sys.executable, "-c", script, tmp_path / "raw", tmp_path / "data" / "mine"], capture_output=True, text=True, check=True)
    assert "The images could not be written beside" in done.stdout
    assert list((tmp_path / "data").iterdir()) == []


def test_two_imports_into_one_place_exclude_each_other(tmp_path: Path) -> None:
    from filelock import FileLock

    table(tmp_path / "raw")
    (tmp_path / "data").mkdir()
    with FileLock(tmp_path / "data" / ".mine.lock"), pytest.raises(BenchmarkError, match="Another process is importing"):
        imported(tmp_path / "raw", TABLE)


def test_the_source_is_neither_moved_nor_changed(tmp_path: Path) -> None:
    table(tmp_path / "raw")
    before = {p: (p.stat().st_ino, p.stat().st_mode, p.read_bytes()) for p in (tmp_path / "raw").rglob("*") if p.is_file()}
    imported(tmp_path / "raw", replace(TABLE, tolerate=3))
    assert {p: (p.stat().st_ino, p.stat().st_mode, p.read_bytes()) for p in (tmp_path / "raw").rglob("*") if p.is_file()} == before


def test_a_benchmark_is_tracked_where_there_is_a_dvc_repository(tmp_path: Path) -> None:
    benchmark = imported(classes(tmp_path / "raw"), CLASSES)
    assert track(benchmark.folder) is None
    subprocess.run(
        [sys.executable, "-m", "dvc", "init", "--no-scm", "--quiet"], cwd=tmp_path, check=True, env={**os.environ, "DVC_NO_ANALYTICS": "1"}
    )
    tracked = track(benchmark.folder)
    assert tracked == tmp_path / "data" / "mine.dvc"
    assert "path: mine" in tracked.read_text()
    assert (tmp_path / "raw" / "alive" / "00.png").stat().st_mode & 0o200
    assert Benchmark.read(benchmark.folder).data_hash() == benchmark.data_hash()

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
import yaml

from pipelines.benchmarks.importer import import_folder
from pipelines.benchmarks.recipes import Recipe, find_datasets
from registry.errors import BenchmarkError, ParamsError
from tests.pipelines.benchmarks.folders import classes, noise, table, write


def found(root: Path, recipes: Path | None = None) -> dict[str, Recipe]:
    return {recipe.name: recipe for recipe in find_datasets(root, recipes)}


def test_every_layout_is_recognised_said_and_can_be_imported(tmp_path: Path) -> None:
    root = tmp_path / "raw"
    classes(root / "Plain Classes")
    classes(root / "nested" / "images")
    classes(root / "given" / "train")
    classes(root / "given" / "test", n=3)
    table(root / "screen")
    recipes = found(root)
    assert list(recipes) == ["plain-classes", "given", "nested", "screen"]
    assert recipes["screen"].options.labels == ("phenotype",)
    assert recipes["screen"].options.unit == "plate"
    assert "Label column `phenotype` chosen by rule." in recipes["screen"].notes
    assert "Unit column `plate` chosen by rule." in recipes["screen"].notes
    assert recipes["given"].notes == (
        "Modality `cells` by default.",
        "Files found by the pattern `{given_split}/{class}/{file}`.",
        "Given splits (`test`, `train`) are not used.",
        "No column was found that groups independent images; unit `image` by rule.",
    )
    for recipe in recipes.values():
        benchmark = import_folder(recipe.folder, recipe.name, tmp_path / "data" / recipe.name, recipe.options, recipe.notes, say=lambda _: None)
        assert set(recipe.notes) <= set(benchmark.card.notes)
        assert len(benchmark.index) == {"given": 18, "screen": 24}.get(recipe.name, 12)


def test_what_cannot_be_imported_is_skipped_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "profiles").mkdir()
    pd.DataFrame({"gene": ["a"], "x": [1.0]}).to_csv(tmp_path / "profiles" / "wells.csv.gz", index=False)
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "net.pt").write_bytes(b"")
    (tmp_path / "slides").mkdir()
    (tmp_path / "slides" / "a.svs").write_bytes(b"")
    for i in range(4):
        write(tmp_path / "fields" / "plate_images" / f"{i}.png", noise(i))
        write(tmp_path / "fields" / "plate_masks" / f"{i}.png", noise(i))
    classes(tmp_path / "deep" / "patient1")
    classes(tmp_path / "deep" / "patient2")
    frame = table(tmp_path / "unlabelled")
    frame.drop(columns="phenotype").assign(well="x").to_csv(tmp_path / "unlabelled" / "cells.csv", index=False)
    reasons = {name: recipe.skipped for name, recipe in found(tmp_path).items()}
    assert reasons == {
        "deep": "Two levels of folders (`patient1/alive`): state a `pattern` such as `{patient}/{class}/{file}`, the label and the unit.",
        "fields": "Nothing labels its 4 images (in `plate_images`): no table names them, and there are no class folders.",
        "profiles": "It holds no images (1 tables).",
        "slides": "It holds no images of a kind that is read, but 1 .svs. Convert them to TIFF.",
        "unlabelled": "No column looks like a label (`file`, `plate`, `well`): state `label` in `blankslide.yaml`.",
        "weights": "It holds no images.",
    }


def test_a_unit_must_not_be_nested_in_the_label(tmp_path: Path) -> None:
    frame = table(tmp_path / "jail", rows=24)
    frame["donor"] = frame["phenotype"].map({"round": "d1", "flat": "d2"})
    frame["experiment"] = [f"e{i // 4}" for i in range(24)]
    frame.drop(columns="plate").to_csv(tmp_path / "jail" / "cells.csv", index=False)
    recipe = found(tmp_path)["jail"]
    assert recipe.options.unit == "experiment"
    assert "`donor` is no unit here: 0 of 2 labels (0% of the images) occur in two of its values or more." in recipe.notes
    assert recipe.options.patient == "donor"


def test_the_wells_of_a_single_plate_are_units(tmp_path: Path) -> None:
    frame = table(tmp_path / "one", plates=1)
    frame.assign(well=[f"A{1 + i // 4:02d}" for i in range(24)]).to_csv(tmp_path / "one" / "cells.csv", index=False)
    recipe = found(tmp_path)["one"]
    assert recipe.options.unit == "well"
    assert "`plate` is no unit here: it has one value." in recipe.notes


def test_a_statement_in_the_folder_and_one_in_a_file_are_followed(tmp_path: Path) -> None:
    frame = table(tmp_path / "raw" / "screen")
    frame.assign(kind=["a", "a", "b"] * 8).to_csv(tmp_path / "raw" / "screen" / "cells.csv", index=False)
    (tmp_path / "raw" / "screen" / "blankslide.yaml").write_text(yaml.safe_dump({"label": "kind", "licence": "CC0", "modality": "natural"}))
    classes(tmp_path / "raw" / "other")
    own = found(tmp_path / "raw")["screen"]
    assert (own.options.labels, own.options.licence, own.options.modality, own.options.unit) == (("kind",), "CC0", "natural", "plate")
    statement = tmp_path / "recipes.yaml"
    statement.write_text(yaml.safe_dump({"screen": {"licence": "MIT", "unit": "well"}, "other": {"skip": "not mine"}, "gone": {"unit": "image"}}))
    both = found(tmp_path / "raw", statement)
    assert (both["screen"].options.labels, both["screen"].options.licence, both["screen"].options.unit) == (("kind",), "MIT", "well")
    assert both["other"].skipped == "not mine"
    assert both["gone"].skipped.endswith("states it, but there is no such folder.")


def test_one_folder_can_be_two_benchmarks(tmp_path: Path) -> None:
    table(tmp_path / "raw" / "screen")
    statement = tmp_path / "recipes.yaml"
    statement.write_text(yaml.safe_dump({"screen-by-well": {"folder": "screen", "unit": "well"}, "lost": {"folder": "nowhere"}}))
    both = found(tmp_path / "raw", statement)
    assert {name: recipe.options.unit for name, recipe in both.items() if not recipe.skipped} == {"screen": "plate", "screen-by-well": "well"}
    assert both["screen-by-well"].folder == both["screen"].folder
    assert "no such folder" in both["lost"].skipped


def test_a_statement_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    classes(tmp_path / "raw" / "one")
    classes(tmp_path / "raw" / "two" / "images")
    statement = tmp_path / "recipes.yaml"
    for text, message in (
        ("one: {lable: x}", "there is no option `lable`"),
        ("one: [", "is not YAML"),
        ("one: 3", "expected the options of `one` as a mapping, got `3`"),
        ("- one", "expected a mapping, got list"),
    ):
        statement.write_text(text)
        with pytest.raises(ParamsError, match=message):
            find_datasets(tmp_path / "raw", statement)
    with pytest.raises(ParamsError, match="cannot be read"):
        find_datasets(tmp_path / "raw", tmp_path / "none.yaml")


def test_a_data_set_given_instead_of_a_folder_of_them_is_taken_as_one(tmp_path: Path) -> None:
    table(tmp_path / "screen")
    assert [recipe.folder for recipe in find_datasets(tmp_path / "screen")] == [tmp_path / "screen"]
    assert [recipe.folder for recipe in find_datasets(classes(tmp_path / "folders"))] == [tmp_path / "folders"]
    (tmp_path / "bare").mkdir()
    with pytest.raises(BenchmarkError, match="has no sub-folders"):
        find_datasets(tmp_path / "bare")
    with pytest.raises(BenchmarkError, match="is not a folder"):
        find_datasets(tmp_path / "none")


def test_a_table_without_labels_does_not_hide_class_folders(tmp_path: Path) -> None:
    classes(tmp_path / "raw" / "one")
    names = [f"{k}/{i:02d}.png" for k in ("alive", "dead") for i in range(6)]
    pd.DataFrame({"file": names, "width": range(12)}).to_csv(tmp_path / "raw" / "one" / "sizes.csv", index=False)
    classes(tmp_path / "raw" / "two")
    recipe = found(tmp_path / "raw")["one"]
    assert recipe.skipped == ""
    assert recipe.options.table is None
    assert "Table `sizes.csv` has no column of labels and is not used." in recipe.notes


def test_nuclei_and_objects_are_recognised(tmp_path: Path) -> None:
    frame = table(tmp_path / "tissue")
    frame["image_id"] = [f"{i:03d}" for i in range(24)]
    frame.to_csv(tmp_path / "tissue" / "cells.csv", index=False)
    nuclei = pd.DataFrame({"image_id": ["001", "002"] * 30, "x_px": 1.0, "y_px": 2.0, "area_px": 9})
    nuclei.to_csv(tmp_path / "tissue" / "nuclei.csv", index=False)
    rows = [(f"s{i}.tiff", f"s{i}_mask.tiff", k, "ab"[k % 2]) for i in range(4) for k in range(1, 5)]
    pd.DataFrame(rows, columns=["file", "mask_file", "cell_id", "cell_type"]).to_csv(write_stack(tmp_path / "cut") / "cells.csv", index=False)
    recipes = found(tmp_path)
    tissue, cut = recipes["tissue"].options, recipes["cut"].options
    assert (tissue.nuclei, tissue.modality, tissue.labels) == (Path("nuclei.csv"), "tissue", ("phenotype",))
    assert (cut.mask, cut.object, cut.unit, cut.labels) == ("mask_file", "cell_id", "file", ("cell_type",))


def write_stack(root: Path) -> Path:
    for i in range(4):
        write(root / f"s{i}.tiff", noise(i, (3, 32, 32), "float32"))
        write(root / f"s{i}_mask.tiff", noise(i, (32, 32), "uint8", 5))
    return root

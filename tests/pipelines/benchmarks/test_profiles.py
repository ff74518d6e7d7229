from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse

from pipelines.benchmarks.index import Benchmark
from pipelines.benchmarks.options import ImportOptions
from pipelines.benchmarks.profiles import Profiles, annotated, make_benchmark, read_profiles, vectors
from registry.errors import BenchmarkError, ParamsError

OPTIONS = ImportOptions(labels=("Metadata_moa",), unit="Metadata_compound")


def screen(plates: int = 2, compounds: int = 12, dim: int = 3, seed: int = 0) -> pd.DataFrame:
    """Wells of a small screen as pycytominer writes them: compounds in the same well of every plate, four of each of three mechanisms."""
    rng = np.random.default_rng(seed)
    rows = [
        {"Metadata_Plate": f"P{plate}", "Metadata_Well": f"A{c + 1:02d}", "Metadata_compound": f"c{c:02d}", "Metadata_moa": f"m{c % 3}"}
        for plate in range(plates)
        for c in range(compounds)
    ]
    values = rng.normal(size=(len(rows), dim)).astype(np.float32)
    return pd.DataFrame(rows).join(pd.DataFrame(values, columns=[f"Cells_f{i}" for i in range(dim)]))


def to_csv(table: pd.DataFrame, folder: Path) -> Path:
    table.to_csv(folder / "t.csv.gz", index=True)  # with the unnamed column that to_csv leaves by default
    return folder / "t.csv.gz"


def to_tsv(table: pd.DataFrame, folder: Path) -> Path:
    table.to_csv(folder / "t.tsv", sep="\t", index=False)
    return folder / "t.tsv"


def to_parquet(table: pd.DataFrame, folder: Path) -> Path:
    table.to_parquet(folder / "t.parquet")
    return folder / "t.parquet"


def to_lists(table: pd.DataFrame, folder: Path) -> Path:
    numbers = table.filter(like="Cells_").to_numpy()
    table.filter(like="Metadata_").assign(embedding=list(numbers)).to_parquet(folder / "l.parquet")
    return folder / "l.parquet"


def to_anndata(table: pd.DataFrame, folder: Path) -> Path:
    obs = table.filter(like="Metadata_").rename(columns=lambda c: c.removeprefix("Metadata_")).astype("category")
    obs.index = pd.Index([f"{p}_{w}" for p, w in zip(table["Metadata_Plate"], table["Metadata_Well"], strict=True)], dtype=object)
    for column in obs:
        # the writer of AnnData does not know pandas' newer strings
        obs[column] = obs[column].cat.rename_categories(obs[column].cat.categories.astype(object))
    numbers = table.filter(like="Cells_")
    data = anndata.AnnData(scipy.sparse.csr_matrix(numbers.to_numpy()), obs=obs, var=pd.DataFrame(index=pd.Index(list(numbers), dtype=object)))
    data.write_h5ad(folder / "t.h5ad")
    return folder / "t.h5ad"


@pytest.mark.parametrize("write", [to_csv, to_tsv, to_parquet, to_lists, to_anndata])
def test_every_kind_of_table_gives_the_same_profiles(tmp_path: Path, write: Callable[[pd.DataFrame, Path], Path]) -> None:
    table = screen()
    found = read_profiles([write(table, tmp_path)])
    np.testing.assert_allclose(found.values.to_numpy(), table.filter(like="Cells_").to_numpy(), rtol=1e-6)
    for column in ("Metadata_Plate", "Metadata_Well", "Metadata_compound", "Metadata_moa"):
        assert found.rows[column].tolist() == table[column].tolist()
    assert found.rows["image_id"].iloc[0] == "P0_A01"
    assert found.rows["image_id"].is_unique


def test_numbers_that_say_something_about_a_profile_are_never_part_of_its_vector(tmp_path: Path) -> None:
    table = screen().assign(plate=1, Site=2, answer=[i % 3 for i in range(24)], Metadata_dose=0.5)
    found = read_profiles([to_csv(table, tmp_path)], about=["answer"])
    assert list(found.values.columns) == ["Cells_f0", "Cells_f1", "Cells_f2"]
    assert found.rows["answer"].tolist()[:4] == ["0", "1", "2", "0"]


def test_several_tables_keep_the_columns_they_share(tmp_path: Path) -> None:
    one, other = screen(), screen(seed=1).replace({"P0": "P2", "P1": "P3"}).rename(columns={"Cells_f1": "Nuclei_f1"})
    found = read_profiles([to_csv(one, tmp_path), to_parquet(other, tmp_path)])
    assert len(found.rows) == 48
    assert list(found.values.columns) == ["Cells_f0", "Cells_f2"]
    assert found.notes == ("The tables share 2 of up to 3 numeric columns; the others are left out.",)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_missing_values_are_refused_or_left_out_by_column(tmp_path: Path, value: float) -> None:
    table = screen()
    table.loc[3, "Cells_f1"] = value
    path = to_parquet(table, tmp_path)
    with pytest.raises(BenchmarkError, match=r"1 of 3 numeric columns .*`Cells_f1`.*--drop-incomplete"):
        read_profiles([path])
    assert list(read_profiles([path], drop_incomplete=True).values.columns) == ["Cells_f0", "Cells_f2"]


def test_a_table_that_cannot_be_used_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BenchmarkError, match="There is no table"):
        read_profiles([tmp_path / "none.csv"])
    with pytest.raises(BenchmarkError, match="occurs more than once"):
        read_profiles([to_csv(pd.concat([screen(), screen()]), tmp_path)])
    with pytest.raises(BenchmarkError, match="expected numeric columns"):
        read_profiles([to_csv(screen().filter(like="Metadata_"), tmp_path)])
    with pytest.raises(BenchmarkError, match="Nothing names the profiles"):
        read_profiles([to_csv(screen().filter(like="Cells_"), tmp_path)])
    with pytest.raises(BenchmarkError, match="no `obsm` named `emb`"):
        read_profiles([to_anndata(screen(), tmp_path)], obsm="emb")


def test_annotations_are_joined_on_a_column(tmp_path: Path) -> None:
    profiles = read_profiles([to_csv(screen(), tmp_path)])
    about = pd.DataFrame({"sample": [f"c{c:02d}" for c in range(11)], "target": [f"t{c % 2}" for c in range(11)]})
    path = tmp_path / "about.tsv"
    about.to_csv(path, sep="\t", index=False)
    joined = annotated(profiles, path, "Metadata_compound=sample")
    by_compound = dict(zip(joined.rows["Metadata_compound"], joined.rows["target"], strict=True))
    assert (by_compound["c00"], by_compound["c03"]) == ("t0", "t1")
    assert pd.isna(by_compound["c11"])
    assert joined.values.equals(profiles.values)
    with pytest.raises(BenchmarkError, match="No value of `Metadata_moa`"):
        annotated(profiles, path, "Metadata_moa=sample")
    pd.concat([about, about.assign(target="t9")]).to_csv(path, sep="\t", index=False)
    with pytest.raises(BenchmarkError, match="`c00` occurs more than once"):
        annotated(profiles, path, "Metadata_compound=sample")


def made(tmp_path: Path, options: ImportOptions = OPTIONS) -> tuple[Profiles, Benchmark]:
    profiles = read_profiles([to_csv(screen(), tmp_path)])
    return profiles, make_benchmark(profiles, "screen", tmp_path / "data" / "screen", options, say=lambda _: None)


def test_a_benchmark_without_images_has_an_index_tasks_and_folds(tmp_path: Path) -> None:
    _, benchmark = made(tmp_path)
    assert not benchmark.card.image.present
    assert benchmark.card.image.shape == (0, 0, 0)
    assert benchmark.pixels(0).shape == (0, 0, 0)
    assert [task.name for task in benchmark.card.tasks] == ["moa"]
    assert benchmark.card.unit == "compound"
    assert len(benchmark.folds) == 5
    assert (benchmark.index.groupby("unit")["fold"].nunique() == 1).all()
    assert {"Metadata_Plate", "Metadata_Well", "Metadata_Row", "Metadata_Column"} <= set(benchmark.index.columns)


def test_labels_in_too_few_units_take_no_part(tmp_path: Path) -> None:
    table = screen()
    table.loc[table["Metadata_compound"] == "c00", "Metadata_moa"] = "rare"
    table.loc[table["Metadata_compound"] == "c03", "Metadata_moa"] = "rare"
    profiles = read_profiles([to_csv(table, tmp_path)])
    options = ImportOptions(labels=("Metadata_moa",), unit="Metadata_compound", least_units=3)
    benchmark = make_benchmark(profiles, "screen", tmp_path / "screen", options, say=lambda _: None)
    assert "rare" not in set(benchmark.index["label_moa"].dropna())
    assert "m0" not in set(benchmark.index["label_moa"].dropna())
    assert any("in fewer than 3 units" in note for note in benchmark.card.notes)


def test_rows_are_selected(tmp_path: Path) -> None:
    options = ImportOptions(labels=("Metadata_moa",), unit="Metadata_compound", where=(("Metadata_Plate", "P1"),))
    _, benchmark = made(tmp_path, options)
    assert set(benchmark.index["Metadata_Plate"]) == {"P1"}


def test_control_wells_need_no_label_treatment_or_unit(tmp_path: Path) -> None:
    table = screen().assign(Metadata_kind="trt")
    table.loc[table["Metadata_compound"] == "c00", ["Metadata_compound", "Metadata_moa", "Metadata_kind"]] = [None, None, "negcon"]
    profiles = read_profiles([to_csv(table, tmp_path)])
    options = ImportOptions(labels=("Metadata_moa",), unit="Metadata_compound", treatment="Metadata_compound", negcon=("Metadata_kind", "negcon"))
    index = make_benchmark(profiles, "screen", tmp_path / "screen", options, say=lambda _: None).index
    assert index["Metadata_control"].sum() == 2
    controls = index[index["Metadata_control"]]
    assert set(controls["Metadata_Treatment"]) == {"control"}
    assert controls["label_moa"].isna().all()
    assert controls["unit"].nunique() == 2
    with pytest.raises(BenchmarkError, match="No row has `water` in `Metadata_kind`"):
        make_benchmark(profiles, "other", tmp_path / "other", replace(options, negcon=("Metadata_kind", "water")), say=lambda _: None)
    with pytest.raises(BenchmarkError, match="unit column `Metadata_compound` is empty"):
        make_benchmark(profiles, "other", tmp_path / "other", replace(options, negcon=None), say=lambda _: None)


def test_what_cannot_be_a_benchmark_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ParamsError, match="--label"):
        made(tmp_path, ImportOptions(unit="Metadata_compound"))
    with pytest.raises(BenchmarkError, match="--unit"):
        made(tmp_path, ImportOptions(labels=("Metadata_moa",)))
    with pytest.raises(BenchmarkError, match="No profile is left"):
        made(tmp_path, ImportOptions(labels=("Metadata_moa",), unit="Metadata_compound", where=(("Metadata_Plate", "P9"),)))
    assert not (tmp_path / "data" / "screen").exists()
    made(tmp_path)
    with pytest.raises(BenchmarkError, match="already exists"):
        made(tmp_path)


def test_vectors_come_in_the_order_of_the_index_whatever_that_of_the_table(tmp_path: Path) -> None:
    profiles, benchmark = made(tmp_path)
    order = np.random.default_rng(0).permutation(len(profiles.rows))
    shuffled = Profiles(profiles.rows.iloc[order].reset_index(drop=True), profiles.values.iloc[order].reset_index(drop=True))
    one, other = (vectors(p, p.chosen(["Cells_*"], "test"), benchmark) for p in (profiles, shuffled))
    np.testing.assert_array_equal(one, other)
    by_name = dict(zip(profiles.rows["image_id"], profiles.values["Cells_f0"], strict=True))
    np.testing.assert_allclose(one[:, 0], [by_name[name] for name in benchmark.index["image_id"]], rtol=1e-6)
    fewer = Profiles(profiles.rows.iloc[1:], profiles.values.iloc[1:])
    with pytest.raises(BenchmarkError, match=r"lacks 1 of the 24 .*`P0_A01`"):
        vectors(fewer, fewer.chosen(["*"], "test"), benchmark)


def test_columns_are_chosen_by_pattern(tmp_path: Path) -> None:
    table = screen().assign(Metadata_Count_Cells=range(24))
    profiles = read_profiles([to_csv(table, tmp_path)])
    assert list(profiles.chosen(["*_f[02]"], "test").columns) == ["Cells_f0", "Cells_f2"]
    with pytest.raises(BenchmarkError, match=r"No column of numbers matches `\*Count\*` \(test\)"):
        profiles.chosen(["*Count*"], "test")
    assert profiles.chosen(["*Count*"], "test", about=True)["Metadata_Count_Cells"].tolist() == list(range(24))

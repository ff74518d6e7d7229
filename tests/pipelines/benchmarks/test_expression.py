"""Counts of genes as they are imported, in every format, with what is refused and what is said."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_matrix

from pipelines.benchmarks.expression import GENES, read_expression
from pipelines.benchmarks.importer import import_folder
from pipelines.benchmarks.index import Benchmark, write_benchmark
from pipelines.benchmarks.options import ImportOptions
from pipelines.benchmarks.profiles import make_benchmark, read_profiles
from pipelines.benchmarks.recipes import find_datasets
from registry.errors import BenchmarkError
from registry.files import sha256_of_file
from tests.pipelines.benchmarks.folders import table

IMAGES = [f"{i:03d}" for i in range(24)]
OPTIONS = ImportOptions(labels=("phenotype",), unit="plate", expression=Path("counts.csv"))


def counts(genes: int = 3, images: list[str] = IMAGES) -> pd.DataFrame:
    values = np.random.default_rng(0).poisson(np.arange(1, genes + 1), (len(images), genes))
    return pd.DataFrame(values, columns=[f"G{i:03d}" for i in range(genes)]).assign(image_id=images)


def _named(names: list[str]) -> pd.DataFrame:
    return pd.DataFrame(index=pd.Index(names, dtype=object))


def refused(path: Path) -> str:
    with pytest.raises(BenchmarkError) as caught:
        read_expression(path, IMAGES)
    return str(caught.value)


def test_every_format_gives_the_same_counts(tmp_path: Path) -> None:
    frame = counts().sample(frac=1, random_state=0)
    frame.assign(Metadata_Patient="p").to_csv(tmp_path / "counts.csv", index=False)
    frame.to_csv(tmp_path / "counts.tsv.gz", sep="\t", index=False)
    frame.to_parquet(tmp_path / "counts.parquet")
    genes = frame.drop(columns="image_id")
    sparse = csr_matrix(genes.to_numpy(np.float32))
    anndata.AnnData(sparse, obs=_named(frame["image_id"].tolist()), var=_named(list(genes))).write_h5ad(tmp_path / "counts.h5ad")
    expected = counts()
    for name in ("counts.csv", "counts.tsv.gz", "counts.parquet", "counts.h5ad"):
        found = read_expression(tmp_path / name, IMAGES[::-1])
        assert found.notes == ()
        assert found.table["image_id"].tolist() == IMAGES
        assert list(found.table.columns) == ["image_id", "G000", "G001", "G002"]
        np.testing.assert_array_equal(found.table.drop(columns="image_id"), expected.drop(columns="image_id"))


def test_a_folder_is_imported_with_its_counts(tmp_path: Path) -> None:
    table(tmp_path / "raw")
    counts().to_csv(tmp_path / "raw" / "counts.csv", index=False)
    # the ids of the counts are names of images too: only one table is asked which images there are
    made = import_folder(tmp_path / "raw", "mine", tmp_path / "data" / "mine", OPTIONS, say=lambda _: None)
    assert made.expression is not None
    assert made.expression.index.tolist() == made.index["image_id"].tolist() == IMAGES
    np.testing.assert_array_equal(made.expression, counts().drop(columns="image_id"))
    assert made.card.checksums["expression.parquet"] == sha256_of_file(made.folder / "expression.parquet")
    plain = import_folder(tmp_path / "raw", "plain", tmp_path / "data" / "plain", replace(OPTIONS, expression=None, table=Path("cells.csv")))
    assert plain.expression is None
    assert plain.data_hash() == made.data_hash()


def test_a_data_set_states_its_counts(tmp_path: Path) -> None:
    table(tmp_path / "set")
    counts().to_csv(tmp_path / "set" / "counts.csv", index=False)
    (tmp_path / "set" / "blankslide.yaml").write_text("expression: counts.csv\nunit: plate\n")
    (recipe,) = find_datasets(tmp_path)
    assert (recipe.options.table, recipe.options.expression) == (Path("cells.csv"), Path("counts.csv"))


def test_profiles_may_have_counts(tmp_path: Path) -> None:
    frame = pd.DataFrame({"image_id": IMAGES, "Metadata_kind": ["a", "b"] * 12, "Metadata_Patient": [f"p{i // 4}" for i in range(24)]})
    frame.assign(x=np.arange(24.0)).to_csv(tmp_path / "profiles.csv", index=False)
    counts().to_csv(tmp_path / "counts.csv", index=False)
    stated = ImportOptions(labels=("Metadata_kind",), unit="Metadata_Patient", expression=tmp_path / "counts.csv")
    made = make_benchmark(read_profiles([tmp_path / "profiles.csv"]), "mine", tmp_path / "data", stated, say=lambda _: None)
    assert made.expression is not None
    assert made.expression.shape == (24, 3)


def test_images_without_counts_take_no_part_and_the_card_says_so(tmp_path: Path) -> None:
    counts(images=[*IMAGES[4:], "elsewhere"]).to_csv(tmp_path / "counts.csv", index=False)
    found = read_expression(tmp_path / "counts.csv", IMAGES)
    assert found.table["image_id"].tolist() == IMAGES[4:]
    assert found.notes == (
        "Expression: 4 of 24 images have no counts and take no part in it.",
        "Expression: 1 rows of counts belong to no image and were left out.",
    )


def test_of_many_genes_those_that_vary_most_are_asked_about(tmp_path: Path) -> None:
    frame = counts(genes=GENES + 20)
    frame["G010"] = 7
    frame["G011"] = np.arange(24) % 2 * 1000
    frame.to_parquet(tmp_path / "counts.parquet")
    found = read_expression(tmp_path / "counts.parquet", IMAGES)
    spread = np.log1p(frame.drop(columns="image_id")).var(ddof=0)
    assert set(found.table.columns[1:]) == set(spread.nlargest(GENES).index)
    assert list(found.table.columns[1:]) == sorted(found.table.columns[1:])
    assert found.notes == ("Expression: 50 of 70 genes are asked about, those whose log(1 + count) varies most between images.",)


@pytest.mark.filterwarnings("ignore:Variable names are not unique")
def test_what_cannot_be_counts_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "counts.csv"
    frame = counts()
    frame.assign(G001=frame["G001"].where(frame["image_id"] != "003")).to_csv(path, index=False)
    assert "got nan of `G001` in image `003` (1 such). Give raw counts" in refused(path)
    frame.assign(G000=frame["G000"] - 5.0).to_csv(path, index=False)
    assert "expected counts of 0 or more" in refused(path)
    pd.concat([frame, frame.iloc[:1]]).to_csv(path, index=False)
    assert "image `000` has 2 rows; expected one" in refused(path)
    frame.assign(cluster="immune").to_csv(path, index=False)
    assert "got `immune` in `cluster`. Name columns that are no genes `Metadata_...`" in refused(path)
    frame.assign(image_id="x" + frame["image_id"]).to_csv(path, index=False)
    assert "it has ids like `x000`, the images like `000`" in refused(path)
    frame.drop(columns="image_id").to_csv(path, index=False)
    assert "expected a column `image_id`" in refused(path)
    frame[["image_id"]].to_csv(path, index=False)
    assert "got no other column" in refused(path)
    assert "There is no table" in refused(tmp_path / "none.csv")
    (tmp_path / "broken.h5ad").write_text("no")
    assert "cannot be read as AnnData" in refused(tmp_path / "broken.h5ad")
    repeated = anndata.AnnData(np.ones((24, 2), np.float32), obs=_named(IMAGES), var=_named(["G", "G"]))
    repeated.write_h5ad(tmp_path / "repeated.h5ad")
    assert "gene `G` occurs more than once" in refused(tmp_path / "repeated.h5ad")


def test_logarithms_are_named(tmp_path: Path) -> None:
    frame = counts()
    frame.assign(G000=np.log1p(frame["G000"])).to_csv(tmp_path / "counts.csv", index=False)
    (note,) = read_expression(tmp_path / "counts.csv", IMAGES).notes
    assert "If their logarithm was taken before, it is taken twice" in note


def test_a_benchmark_reads_what_was_written(tmp_path: Path) -> None:
    table(tmp_path / "raw")
    made = import_folder(tmp_path / "raw", "mine", tmp_path / "data", replace(OPTIONS, expression=None), say=lambda _: None)
    again = write_benchmark(made.folder, made.card, made.index, expression=counts().iloc[::-1])
    assert isinstance(again, Benchmark)
    assert again.expression is not None
    np.testing.assert_array_equal(again.expression, counts().drop(columns="image_id"))

"""Genes planted in images, from a folder and its counts through every stage to the report; and rows of chosen vectors."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image

from pipelines import cli, stages
from pipelines.benchmarks.index import Benchmark
from pipelines.benchmarks.options import ImportOptions
from pipelines.beside.expression import HEADLINE, Answer, Spots, _sections, expressed, read_genes, read_scores, read_statistics
from pipelines.metrics.expression import expression_scores
from pipelines.metrics.jackknife import interval
from pipelines.params import CellParams, EvaluateParams, Params
from pipelines.profiles import TableEncoder, write_rows
from pipelines.profiles import read as read_tables
from pipelines.reporting import words
from pipelines.reporting.expression import _penalty
from pipelines.study import asdict_without_none
from registry.errors import ParamsError

PATIENTS, SPOTS = 12, 20


def folder(root: Path) -> pd.DataFrame:
    """Grey images of 12 patients; BRIGHT follows their brightness, NOTHING follows nothing, and patients differ in both."""
    rng = np.random.default_rng(0)
    root.mkdir()
    rows = []
    for i in range(PATIENTS * SPOTS):
        name, patient, level = f"s{i:03d}", i // SPOTS, rng.uniform(40, 200)
        Image.fromarray(np.clip(level + 10 * rng.normal(size=(16, 16)), 0, 255).astype(np.uint8)).save(root / f"{name}.png")
        rows.append({"file": f"{name}.png", "image_id": name, "patient": f"P{patient:02d}", "site": ("core", "edge")[i % 2], "level": level})
    index = pd.DataFrame(rows)
    index.drop(columns="level").to_csv(root / "spots.csv", index=False)
    bright = rng.poisson(np.exp(1 + (index["level"] - 120) / 50))
    pd.DataFrame({"image_id": index["image_id"], "BRIGHT": bright, "NOTHING": rng.poisson(6, len(index))}).to_csv(root / "counts.csv", index=False)
    return index


def tables(root: Path, index: pd.DataFrame) -> TableEncoder:
    """An encoder that knows the brightness among much noise, and draws of it that know nothing."""

    def write(name: str, seed: int, knows: float) -> Path:
        values = np.random.default_rng(seed).normal(size=(len(index), 6))
        values[:, 0] += knows * (index["level"] - 120) / 50
        path = root / f"{name}.csv"
        pd.DataFrame(values, columns=[f"f{i}" for i in range(6)]).assign(image_id=index["image_id"]).to_csv(path, index=False)
        return path

    return TableEncoder("mine", (write("mine", 1, 3.0),), untrained=tuple(write(f"untrained-{k}", 10 + k, 0.0) for k in range(8)))


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The workspace after every stage up to the report."""
    base = tmp_path_factory.mktemp("expression")
    root, raw = base / "work", base / "raw"
    index = folder(raw)
    root.mkdir()
    stated = ["--label", "site", "--unit", "patient", "--patient", "patient", "--modality", "tissue", "--expression", "counts.csv", "--folds", "3"]
    assert cli.main(["--workspace", str(root), "data", "import", str(raw), "--name", "spots", "--table", "spots.csv", *stated]) == 0
    benchmark, encoder = Benchmark.read(root / "data" / "spots"), tables(base, index)
    cells = write_rows(root, benchmark, encoder, read_tables(encoder, ImportOptions()))
    cells["spots--controls"] = CellParams("spots", "controls", ["intensity", "random"], ".")
    params = Params(0, 1, cells, ["spots"], evaluate=EvaluateParams(permutations=20))
    (root / "params.yaml").write_text(yaml.safe_dump(asdict_without_none(params)))
    for stage in ("extract", "evaluate"):
        for cell in params.cells_of("spots"):
            stages.run(stage, root, "spots", cell.cell)
    for stage in ("oracle", "diagnose"):
        stages.run(stage, root, "spots")
    stages.run("report", root)
    return root


def test_a_planted_gene_is_found_by_the_rows_that_can_know_it(work: Path) -> None:
    scores = {(s.row, s.member, s.protocol): s for s in read_scores(work / "out" / "scores" / "spots")}
    genes = {(g.row, g.gene): g for g in read_genes(work / "out" / "scores" / "spots")}
    for row in ("intensity", "mine"):
        assert genes[row, "BRIGHT"].value > 0.75
        assert scores[row, "main", HEADLINE].low > 0.2
    # it is one gene of two, so what nothing explains halves the score
    for row in ("intensity", "mine", "random"):
        assert abs(genes[row, "NOTHING"].value) < 0.2
        assert abs(scores[row, "main", HEADLINE].reference) < 0.15
        assert abs(genes[row, "BRIGHT"].reference) < 0.2
    assert scores["random", "main", HEADLINE].low < 0 < scores["random", "main", HEADLINE].high
    assert (scores["mine", "main", HEADLINE].n_spots, scores["mine", "main", HEADLINE].n_units) == (PATIENTS * SPOTS, PATIENTS)


def test_every_row_and_draw_has_the_headline_and_the_first_draw_the_rest(work: Path) -> None:
    scores = read_scores(work / "out" / "scores" / "spots")
    asked = {(s.row, s.member): {t.protocol for t in scores if (t.row, t.member) == (s.row, s.member)} for s in scores}
    everything = {"hest_a1", "hest_a2", HEADLINE}
    draws = {("untrained-mine", f"fresh-{k:02d}"): everything if k == 0 else {HEADLINE} for k in range(8)}
    assert asked == {(row, "main"): everything for row in ("intensity", "random", "mine")} | draws
    a1 = [s for s in scores if s.protocol == "hest_a1"]
    assert all(s.note.startswith("not estimable: `hest_a1` needs at least 256 dimensions") and np.isnan(s.value) for s in a1)
    # what was read back is what the arrays give
    benchmark = Benchmark.read(work / "data" / "spots")
    spots = Spots.of(benchmark, 0)
    assert spots is not None
    (kept,) = read_statistics(work / "out" / "scores" / "spots")["mine"]["main"]
    stored = pd.read_parquet(work / "out" / "embeddings" / "spots" / "mine" / "mine" / "main.parquet")
    vectors = np.stack(stored["embedding"].tolist()).astype(np.float64)
    by_hand = expression_scores(vectors, spots.counts, spots.units, spots.folds).r
    assert (kept.value, kept.units, kept.n_images) == (by_hand.value, by_hand.units, by_hand.n_images)
    np.testing.assert_array_equal(kept.without, by_hand.without)
    assert interval(kept) == interval(by_hand)


def test_the_report_compares_by_the_headline_and_calls_parity_parity(work: Path) -> None:
    html = (work / "reports" / "index.html").read_text()
    section = html.partition('<h3 id="spots-expression">')[2].partition("</section>")[0]
    assert "2 genes, predicted by ridge regression from the vectors of 240 test images of 12 patients" in section
    mine = next(s for s in read_scores(work / "out" / "scores" / "spots") if (s.row, s.protocol) == ("mine", HEADLINE))
    assert f"mine ({words.number(mine.value)}) against its untrained twins: smallest gain +" in section
    assert "over <code>untrained-mine/fresh</code>" in section
    assert "]: beats.</li>" in section
    assert "over <code>intensity</code>" in section
    assert '<span class="soft">fresh, 8 draws, sd' in section
    assert section.count("(parity)") == 2
    assert "its penalty chosen by leaving out one training patient at a time)" in section
    assert '<th scope="col" class="n">constant</th>' in section
    assert section.count('<td class="n">0</td>') == 4
    assert "<code>hest_a1</code>: not estimable: <code>hest_a1</code> needs at least 256 dimensions" in section
    assert '<th scope="row">BRIGHT</th>' in section
    assert section.index("BRIGHT") < section.index("NOTHING")


def spots(unit: str = "patient", folds: int = 3, seed: int = 0, effect: float = 1.0) -> tuple[np.ndarray, Spots]:
    rng = np.random.default_rng(seed)
    codes = np.repeat(np.arange(PATIENTS), SPOTS)
    x = rng.normal(size=(len(codes) + 5, 4))
    counts = rng.poisson(np.exp(1 + effect * x[5:, :2])).astype(float)
    names = np.array([f"p{c:02d}" for c in codes])
    order = np.concatenate([rng.permutation(np.flatnonzero(codes == c)) for c in range(PATIENTS)])
    # five images of the benchmark have no counts
    return x, Spots(np.arange(5, len(x)), ("A", "B"), counts, counts[order], names, codes % folds, unit)


def ask(x: np.ndarray, found: Spots) -> Answer:
    return expressed("row", "main", x, found, first=True)


def test_permuted_spots_and_noise_stay_at_zero() -> None:
    answers = [ask(*spots(seed=seed)) for seed in range(8)]
    assert all(answer.scores[-1].value > 0.5 for answer in answers)
    assert abs(np.mean([answer.scores[-1].reference for answer in answers])) < 0.05
    nothing = [ask(*spots(seed=seed, effect=0.0)) for seed in range(8)]
    assert abs(np.mean([answer.scores[-1].value for answer in nothing])) < 0.05


def test_counts_permuted_within_patients_keep_what_tells_patients_apart() -> None:
    x, found = spots()
    x[5:] = np.repeat(np.random.default_rng(1).normal(size=(PATIENTS, 4)), SPOTS, axis=0)
    counts = np.random.default_rng(2).poisson(np.exp(2 + x[5:, :2])).astype(float)
    order = np.concatenate([i * SPOTS + np.random.default_rng(3).permutation(SPOTS) for i in range(PATIENTS)])
    patients = ask(x, replace(found, counts=counts, permuted=counts[order]))
    assert patients.scores[-1].reference == pytest.approx(patients.scores[-1].value, abs=0.1)
    assert patients.scores[-1].value > 0.5


def test_what_cannot_be_asked_is_said() -> None:
    x, found = spots("image")
    assert all("every image is its own unit here" in score.note for score in ask(x, found).scores)
    x, found = spots()
    few = replace(found, units=np.array([f"p{int(u[1:]) % 3}" for u in found.units]), folds=np.array([int(u[1:]) % 3 for u in found.units]))
    answer = ask(x, few)
    assert answer.statistic is not None
    assert answer.scores[-1].note == "no interval: 3 units, at least 10 are needed"
    assert np.isnan(answer.scores[-1].low)
    assert answer.scores[-1].constant == 0
    constant = ask(np.ones_like(x), found)
    # two genes in three folds
    assert [score.constant for score in constant.scores] == [0, 6, 6]
    assert (constant.scores[-1].value, constant.scores[-1].reference) == (0.0, 0.0)


def test_two_patients_are_asked_by_a_protocol_of_its_own() -> None:
    x, found = spots()
    halves = np.array([f"p{int(u[1:]) % 2}" for u in found.units])
    two = replace(found, units=halves, folds=(halves == "p1").astype(np.int64))
    headline = ask(x, two).scores[-1]
    assert headline.value > 0.5
    assert headline.note == "no interval: 2 units, at least 10 are needed"
    assert headline.protocol_id.startswith("hest_cv_one_patient/alpha=1e-2..1e6x17-by-contiguous-fifths/")
    sections = ask(x, replace(two, sections=found.units)).scores[-1]
    assert sections.protocol_id.startswith("hest_cv_one_patient/alpha=1e-2..1e6x17-by-section/")
    # and the report says how
    ids = (headline.protocol_id, sections.protocol_id)
    said = [_penalty([one], "patient") for one in ids]
    assert "a contiguous fifth of its images at a time" in said[0]
    assert "a section at a time" in said[1]


def test_batches_are_sections_where_every_image_has_one() -> None:
    index = pd.DataFrame({"Metadata_Patient": ["a", "a"], "Metadata_Batch": ["s1", "s2"]})
    found = _sections(index)
    assert found is not None
    assert found.tolist() == ["s1", "s2"]
    assert _sections(index.assign(Metadata_Batch=["s1", None])) is None
    assert _sections(index[["Metadata_Patient"]]) is None


def test_a_row_fitted_for_every_fold_is_read_in_its_fold() -> None:
    x, found = spots()
    same = expressed("row", "main", {0: x, 1: x.copy(), 2: x.copy()}, found, first=True)
    assert same.scores == ask(x, found).scores
    other = expressed("row", "main", {0: x, 1: np.ones_like(x), 2: x}, found, first=False)
    assert other.scores[0].value < same.scores[-1].value - 0.1
    assert other.genes == []


def test_a_benchmark_that_is_there_does_not_get_counts_from_a_further_encoder(work: Path, tmp_path: Path) -> None:
    from pipelines.profiles import _benchmark

    profiles = read_tables(TableEncoder("x", (work.parent / "mine.csv",)), ImportOptions())
    stated = ImportOptions(expression=work.parent / "raw" / "counts.csv")
    assert _benchmark(work, "spots", profiles, stated).expression is not None
    plain = tmp_path / "data" / "spots"
    plain.mkdir(parents=True)
    for name in ("index.parquet", "card.json"):
        (plain / name).write_bytes((work / "data" / "spots" / name).read_bytes())
    card = (plain / "card.json").read_text()
    (plain / "card.json").write_text(card.replace('"expression.parquet"', '"other.parquet"'))
    with pytest.raises(ParamsError, match="is there without expression"):
        _benchmark(tmp_path, "spots", profiles, stated)

"""An encoder that comes as tables, from the files to verdicts, bundles and the report."""

from __future__ import annotations

import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from pipelines import stages
from pipelines.benchmarks.index import Benchmark
from pipelines.benchmarks.options import ImportOptions
from pipelines.beside.knowledge import read as read_knowledge
from pipelines.beside.replicates import read as read_replicates
from pipelines.params import EvaluateParams, Params, parse
from pipelines.profiles import TableEncoder, _benchmark, snippet, with_cells, write_rows
from pipelines.profiles import read as read_tables
from pipelines.study import asdict_without_none
from registry.errors import BenchmarkError, ParamsError
from registry.evidence import Scorecard
from registry.files import read_json
from registry.gates import decide
from registry.receipts import sync
from registry.store import Store, default_uri

from .folder import write_images

OPTIONS = ImportOptions(
    labels=("Metadata_moa",),
    unit="Metadata_compound",
    treatment="Metadata_compound",
    entity="Metadata_target",
    multilabels=(("Metadata_classes", ";"),),
    title="A small screen",
)


def table(path: Path, signal: float, seed: int) -> Path:
    """Two plates of 24 compounds in three mechanisms; `signal` is how far the mechanisms lie apart in the first three of eight numbers."""
    rng = np.random.default_rng(seed)
    compounds = np.tile(np.arange(24), 2)
    values = rng.normal(size=(48, 8)) + rng.normal(size=(24, 8))[compounds]
    values[:, :3] += signal * np.eye(3)[compounds % 3]
    about = {
        "Metadata_Plate": np.repeat(["P0", "P1"], 24),
        "Metadata_Well": [f"{'ABCD'[c // 6]}{1 + c % 6:02d}" for c in compounds],
        "Metadata_compound": [f"c{c:02d}" for c in compounds],
        "Metadata_moa": [f"m{c % 3}" for c in compounds],
        "Metadata_target": [f"G{c:02d}" for c in compounds],
        "Metadata_classes": [f"m{c % 3}; odd" if c % 2 else f"m{c % 3}" for c in compounds],
        "Metadata_Count_Cells": rng.poisson(100, 48),
    }
    pd.DataFrame(about).join(pd.DataFrame(values.astype(np.float32), columns=[f"f{i}" for i in range(8)])).to_csv(path, index=False)
    return path


def relations(path: Path) -> Path:
    """Genes in a ring: those of one mechanism that follow on each other, both ways, and one that is in no screen."""
    pairs = [(f"G{c:02d}", f"G{(c + 3) % 24:02d}") for c in range(24)]
    pd.DataFrame([*pairs, *[(b, a) for a, b in pairs], ("G00", "TP53")], columns=["entity1", "entity2"]).to_csv(path, index=False)
    return path


def prepare(
    root: Path, folder: Path, signal: float, controls: tuple[tuple[str, tuple[str, ...]], ...] = (("count", ("Metadata_Count_*",)),), draws: int = 10
) -> Params:
    """Everything of the command but DVC."""
    encoder = TableEncoder(
        "mine",
        (table(folder / "mine.csv", signal, 1),),
        controls=controls,
        untrained=tuple(table(folder / f"untrained-{k}.csv", 0.0, 10 + k) for k in range(draws)),
    )
    options = replace(OPTIONS, relations=(relations(folder / "paths.csv"),))
    profiles = read_tables(encoder, options)
    benchmark = _benchmark(root, "screen", profiles, options)
    cells = write_rows(root, benchmark, encoder, profiles)
    params = with_cells(root, benchmark, cells, 1)
    (root / "params.yaml").write_text(yaml.safe_dump(asdict_without_none(params)))
    return params


def flow(root: Path, params: Params) -> Scorecard:
    for stage in ("extract", "evaluate"):
        for cell in params.cells_of("screen"):
            stages.run(stage, root, "screen", cell.cell)
    for stage in ("oracle", "diagnose", "package"):
        stages.run(stage, root, "screen")
    stages.run("report", root)
    return Scorecard.from_dict(read_json(root / "out" / "verdicts" / "screen" / "mine.scorecard.json"))


def test_a_table_alone_is_judged_against_noise_and_positions_and_its_bits_have_nothing_to_stand_on(tmp_path: Path) -> None:
    root = tmp_path / "work"
    root.mkdir()
    (evidence,) = flow(root, prepare(root, tmp_path, signal=6.0, controls=(), draws=0)).tasks
    assert evidence.word == "beats"
    assert {c.control for c in evidence.comparisons} == {"layout", "random", "oracle"}
    assert evidence.beyond["bits"] is None
    assert evidence.beyond["sentence"].endswith("there is no control but noise and positions to measure beyond")


def test_a_single_untrained_table_is_too_few_and_said_to_be(tmp_path: Path) -> None:
    root = tmp_path / "work"
    root.mkdir()
    (evidence,) = flow(root, prepare(root, tmp_path, signal=6.0, draws=1)).tasks
    assert evidence.word == "not assessable"
    assert "1 seed of `untrained-mine/fresh`, at least 5 are needed" in evidence.sentence


@pytest.mark.slow
def test_a_table_that_knows_the_answer_beats_its_controls_and_twins(tmp_path: Path) -> None:
    root = tmp_path / "work"
    root.mkdir()
    card = flow(root, prepare(root, tmp_path, signal=6.0))
    (evidence,) = card.tasks
    assert evidence.word == "beats"
    assert {c.control for c in evidence.comparisons} == {"layout", "random", "count", "untrained-mine/fresh", "oracle"}
    assert evidence.n_units == 24
    asked = {found.question: found for found in read_replicates(root / "out" / "scores" / "screen" / "mine")}
    assert asked["activity"].note == "not estimable: the index names no control wells"
    assert asked["replicability"].value > 0.3
    assert asked["replicability"].treatments == 24
    assert "same well" in asked["replicability"].drop_note
    of_row = {
        row: {k.question: k for k in read_knowledge(root / "out" / "scores" / "screen" / cell) if k.row == row and k.alignment == "none"}
        for row, cell in (("mine", "mine"), ("layout", "controls"), ("random", "controls"), ("untrained-mine", "untrained-mine"))
    }
    assert of_row["mine"]["recall"].about == "paths, null over genes"
    assert (of_row["mine"]["recall"].n, of_row["mine"]["labels"].n) == (24, 4)
    assert of_row["mine"]["recall"].p < 0.02
    assert of_row["mine"]["labels"].value > 0.4
    assert of_row["mine"]["labels"].p == 0.001
    for row in ("layout", "random", "untrained-mine"):
        assert of_row[row]["recall"].p > 0.02, row
        assert abs(of_row[row]["labels"].value) < 0.15, row
    unlike = read_json(root / "out" / "verdicts" / "screen" / "intensity.scorecard.json")
    assert "there are no images" in unlike["not_applicable"]
    page = (root / "reports" / "index.html").read_text(encoding="utf-8")
    table = page.partition('id="screen-known"')[2].partition("</section>")[0]
    for heading in ("recall, paths, null over genes", "labels, classes", "labels found, classes"):
        assert f">{heading}</th>" in table
    for row in ("mine", "layout", "random", "count", "untrained-mine"):
        assert f'<tr><th scope="row">{row}</th>' in table
    assert f"<b>{of_row['mine']['recall'].value:.3f}</b>" in table
    assert "<code>tvn</code>: not estimable: the index names no control wells." in table
    assert "There are no images: the vectors were made elsewhere." in page
    assert "Example" not in page.partition('id="screen--moa"')[2].partition("</figure>")[0]
    bundle = read_json(root / "out" / "bundles" / "screen" / "mine" / "card.json")
    assert bundle["unservable"] == "its vectors were made elsewhere; a new image cannot be embedded here"
    store = Store(default_uri(root))
    sync(store, root, lambda _: None)
    assert {"mine", "count", "untrained-mine", "layout", "random"} <= set(store.models())


PREPARE = """
import os, signal, sys
from pathlib import Path
import pipelines.profiles as profiles
from tests.pipelines.test_profiles import prepare

write, written = profiles.write_table, []

def stopping(path, *rest):
    if len(written) == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    written.append(path)
    write(path, *rest)

profiles.write_table = stopping
prepare(Path(sys.argv[1]), Path(sys.argv[2]), 1.0)
"""


def test_an_import_of_tables_that_is_killed_is_repeated_to_the_same_bytes(tmp_path: Path) -> None:
    for name in ("killed", "whole"):
        (tmp_path / name).mkdir()
    command = [sys.executable, "-c", PREPARE, str(tmp_path / "killed"), str(tmp_path)]
    assert subprocess.run(command, cwd=Path(__file__).parents[2], check=False).returncode == -signal.SIGKILL
    assert len(list((tmp_path / "killed" / "tables" / "screen").iterdir())) == 2
    prepare(tmp_path / "killed", tmp_path, signal=1.0)
    prepare(tmp_path / "whole", tmp_path, signal=1.0)
    killed, whole = (
        {str(path.relative_to(tmp_path / name)): path.read_bytes() for path in (tmp_path / name).rglob("*") if path.is_file()}
        for name in ("killed", "whole")
    )
    assert killed == whole


@pytest.mark.slow
def test_noise_beats_nothing_and_without_twins_nothing_is_promoted(tmp_path: Path) -> None:
    root = tmp_path / "work"
    root.mkdir()
    params = prepare(root, tmp_path, signal=0.0)
    assert flow(root, params).tasks[0].word != "beats"

    loud = TableEncoder("alone", (table(tmp_path / "alone.csv", 6.0, 2),))
    cells = write_rows(root, Benchmark.read(root / "data" / "screen"), loud, read_tables(loud, OPTIONS))
    assert cells["screen--alone"].card is not None
    params = Params(0, 1, params.cells | cells, ["screen"], evaluate=EvaluateParams())
    (root / "params.yaml").write_text(yaml.safe_dump(asdict_without_none(params)))
    for stage in ("extract", "evaluate"):
        stages.run(stage, root, "screen", "alone")
    for stage in ("oracle", "diagnose"):
        stages.run(stage, root, "screen")
    card = Scorecard.from_dict(read_json(root / "out" / "verdicts" / "screen" / "alone.scorecard.json"))
    assert card.tasks[0].word == "beats"
    assert "No untrained twins were given" in card.tasks[0].detail
    decision = decide([card], {})
    assert not decision.passed


def test_a_table_joins_a_benchmark_with_images_by_image_id(tmp_path: Path) -> None:
    benchmark = write_images(tmp_path / "data" / "tiny")
    numbers = np.arange(2.0 * len(benchmark.index)).reshape(-1, 2)
    frame = pd.DataFrame({"image_id": benchmark.index["image_id"], "x": numbers[:, 0], "y": numbers[:, 1]}).iloc[::-1]
    frame.to_parquet(tmp_path / "closed.parquet")
    encoder = TableEncoder("closed", (tmp_path / "closed.parquet",))
    cells = write_rows(tmp_path, benchmark, encoder, read_tables(encoder, ImportOptions()))
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(asdict_without_none(Params(0, 1, cells, ["tiny"]))))
    stages.run("extract", tmp_path, "tiny", "closed")
    stored = pd.read_parquet(tmp_path / "out" / "embeddings" / "tiny" / "closed" / "closed" / "main.parquet")
    np.testing.assert_array_equal(np.stack(stored["embedding"].tolist()), numbers)
    fewer = TableEncoder("closed", (tmp_path / "fewer.parquet",))
    frame.iloc[1:].to_parquet(tmp_path / "fewer.parquet")
    with pytest.raises(BenchmarkError, match=r"lacks 1 of the"):
        write_rows(tmp_path, benchmark, fewer, read_tables(fewer, ImportOptions()))


def test_names_and_twins_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    path = table(tmp_path / "mine.csv", 0.0, 1)
    root = tmp_path / "work"
    root.mkdir()
    prepare(root, tmp_path, 0.0)
    benchmark = Benchmark.read(root / "data" / "screen")
    twice = TableEncoder("mine", (path,), controls=(("mine", ("f0",)),))
    with pytest.raises(ParamsError, match="a name of its own"):
        write_rows(root, benchmark, twice, read_tables(twice, OPTIONS))
    pd.read_csv(path).drop(columns="f3").to_csv(tmp_path / "narrow.csv", index=False)
    narrow = TableEncoder("mine", (path,), untrained=(tmp_path / "narrow.csv",))
    with pytest.raises(BenchmarkError, match=r"it lacks 1 \(first: `f3`\)"):
        write_rows(root, benchmark, narrow, read_tables(narrow, OPTIONS))


def test_cells_for_parameters_written_by_hand_are_printed_as_they_are_read(tmp_path: Path) -> None:
    benchmark = write_images(tmp_path / "data" / "tiny")
    frame = pd.DataFrame({"image_id": benchmark.index["image_id"], "x": np.arange(float(len(benchmark.index)))})
    frame.to_parquet(tmp_path / "closed.parquet")
    encoder = TableEncoder("closed", (tmp_path / "closed.parquet",))
    cells = write_rows(tmp_path, benchmark, encoder, read_tables(encoder, ImportOptions()))
    assert parse(Params, {"seed": 0, "threads": 1, "compare": ["tiny"], **yaml.safe_load(snippet(cells))}, "here").cells == cells


@pytest.mark.slow
def test_one_command_from_a_table_to_a_registry(tmp_path: Path) -> None:
    root, path = tmp_path / "work", table(tmp_path / "mine.csv", 6.0, 1)
    command = [sys.executable, "-m", "pipelines.cli", "--workspace", str(root), "profiles", str(path), "--name", "screen", "--label", "Metadata_moa"]
    command += ["--unit", "Metadata_compound", "--threads", "1", "--control", "count=Metadata_Count_*", "--entity", "Metadata_target"]
    command += ["--relations", str(relations(tmp_path / "paths.csv")), "--multilabel", "Metadata_classes=;"]
    done = subprocess.run([*command, "--encoder", "mine"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "on `moa`, mine beats" in done.stdout
    assert "`paths`: 24 of its 25 relations are between two of the 24 entities here." in done.stdout
    assert ">recall, paths, null over genes</th>" in (root / "reports" / "index.html").read_text(encoding="utf-8")
    other = [part if part != str(path) else str(table(tmp_path / "other.csv", 0.0, 2)) for part in command]
    again = subprocess.run([*other, "--encoder", "other"], capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr[-3000:]
    assert {"mine", "other", "count", "layout", "random"} <= set(Store(default_uri(root)).models())
    third = subprocess.run([*other, "--encoder", "other"], capture_output=True, text=True, check=False)
    assert "up to date" in third.stdout


def test_looking_vectors_up_does_not_load_torch(tmp_path: Path) -> None:
    root = tmp_path / "work"
    root.mkdir()
    prepare(root, tmp_path, 0.0)
    code = f"import sys; from pipelines import stages; from pathlib import Path; stages.run('extract', Path({str(root)!r}), 'screen', 'mine')"
    done = subprocess.run([sys.executable, "-c", f"{code}; print('torch' in sys.modules)"], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"

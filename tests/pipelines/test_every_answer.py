"""The ladder asks every number that the stages answer with: one that it does not ask is no metric, for a reason that stands here.

A new column of a table of scores, a new table, a new question or a new part of a scorecard fails until it is asked in `pipelines/every_metric.py`, or
named here with the reason why it says nothing of an encoder.
"""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pipelines.benchmarks.index import write_benchmark
from pipelines.benchmarks.known import RELATIONS, TARGETS
from pipelines.beside.knowledge import SHOWN
from pipelines.embeddings import read_rows
from pipelines.evaluate import evaluate_cell
from pipelines.every_metric import GENES, TREATMENTS, Asked, ByTask, every_metric
from pipelines.params import EvaluateParams, Params
from registry.evidence import TaskEvidence
from tests.pipelines.beside.test_knowledge import screen, vectors
from tests.pipelines.noise import write_row

PARAMS = Params(seed=0, threads=1, cells={}, compare=[], evaluate=EvaluateParams(max_dim=16, neighbours=5, permutations=1))
SIZE, CHANCE, BOUND = "how much it was computed on", "what knowing nothing gets", "how sure a value is, not how much"
#: tables of a cell that are the answers of another one in detail
DETAIL = {
    "jackknife.parquet": "the scores without each unit",
    "predictions.parquet": "what the scores are computed from",
    "expression-genes.parquet": "gene expression, gene by gene",
    "expression-jackknife.parquet": "gene expression without each patient",
}
#: by table, the numbers that the ladder asks
ASKED = {
    "scores.parquet": {"value"},
    "confounds.parquet": {"value"},
    "probing.parquet": {"value"},
    "replicates.parquet": {"value", "significant", "copairs", "drop", "replicating", "controls_replicating"},
    "knowledge.parquet": {"value", "published", "elsewhere", "drop"},
    "expression.parquet": {"value"},
}
#: and those that are no metric
NO_METRIC = {
    "scores.parquet": {"chance": CHANCE, "n_images": SIZE, "n_units": SIZE, "n_eff": SIZE, "class_in_units": SIZE},
    "confounds.parquet": {"low": BOUND, "high": BOUND, "reference": CHANCE, "n_images": SIZE},
    "probing.parquet": {"shots": "names the question", "low": BOUND, "high": BOUND, "sd": BOUND, "reference": CHANCE, "n_images": SIZE},
    "replicates.parquet": {
        "null": "what plates alone give: it is taken out of the value",
        "treatments": SIZE,
        "drop_share": SIZE,
        "control_positions": SIZE,
        "ties": "says how far `copairs` is to be trusted: 0 for all vectors that differ, a constant has 1",
        "least": "what `significant` can be at least, by the design",
    },
    "knowledge.parquet": {
        "reference": CHANCE,
        "p": BOUND,
        "n": SIZE,
        "drop_share": SIZE,
        "least": "what `labels found` can be at least, by the design",
    },
    "expression.parquet": {
        "low": BOUND,
        "high": BOUND,
        "reference": CHANCE,
        "n_spots": SIZE,
        "n_units": SIZE,
        "n_genes": SIZE,
        "constant": "how many genes of a fold have no correlation: they count as 0 in the value",
    },
}
#: of what `diagnose` says of an encoder and a task, what the ladder asks under which name
EVIDENCE = {"value": "the primary metric", "beyond": "information.beyond_controls_bits", "shortcut": "shortcut.share"}
VERDICT = "compares an encoder with its controls, which those of a ladder do not have"
NO_EVIDENCE = {
    **dict.fromkeys(("p", "p_holm", "gain", "low", "high", "low_of_mean", "high_of_mean", "comparisons", "unservable"), VERDICT),
    "share_of_gap": "the primary metric once more, on a scale that the oracle ends",
    "at_common_dim": "the primary metric once more, of fewer principal components",
    "per_unit": "the share of right predictions, unit by unit",
    "n_units": SIZE,
    "n_eff": SIZE,
}


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ByTask]:
    """The tables of a cell of one row, by the evaluate stage itself, and every metric of the same vectors.

    Of this screen everything is known, every plate has a layout of its own, and its images have counts of genes.
    """
    root = tmp_path_factory.mktemp("answers")
    made = screen(root / "data")
    rng = np.random.default_rng(0)
    index = made.index.assign(
        fold=made.index["unit"].isin(["p0", "p1"]).astype(int),
        Metadata_Well=made.index.groupby("Metadata_Plate")["Metadata_Well"].transform(lambda wells: rng.permutation(wells.to_numpy())),
    )
    x = vectors(made, effect=1.0)
    counts = pd.DataFrame({"A": rng.poisson(np.exp(1 + x[:, 0] / 4)), "B": rng.poisson(np.exp(1 + x[:, 1] / 4))}).astype(np.int64)
    known = {RELATIONS: made.relations, TARGETS: made.targets}
    benchmark = write_benchmark(root / "data", made.card, index, known=known, expression=counts.assign(image_id=index["image_id"]))
    write_row(root / "embeddings" / "cell", benchmark, "mine", {"main": x})
    evaluate_cell(benchmark, root / "embeddings" / "cell", PARAMS, root / "scores")
    row = read_rows(root / "embeddings")["mine"]
    ours = row.embedding("main", 0, index["image_id"].tolist()).astype(np.float64)
    (found,) = every_metric([ours], benchmark, Asked.of(benchmark, {}, PARAMS), PARAMS)
    return root / "scores", found


def test_every_table_of_a_cell_is_asked_or_is_detail(answers: tuple[Path, ByTask]) -> None:
    tables = {path.name for path in answers[0].glob("*.parquet")}
    assert tables == ASKED.keys() | DETAIL.keys()
    assert ASKED.keys() == NO_METRIC.keys()


@pytest.mark.parametrize("name", ASKED)
def test_every_number_of_a_table_is_asked_or_is_no_metric(answers: tuple[Path, ByTask], name: str) -> None:
    folder, found = answers
    table = pd.read_parquet(folder / name)
    assert len(table)
    numbers = {str(column) for column in table.select_dtypes("number")}
    assert numbers == ASKED[name] | NO_METRIC[name].keys()
    assert not ASKED[name] & NO_METRIC[name].keys()
    if "alignment" in table:
        # another alignment is asked the same questions
        table = table[table["alignment"] == SHOWN]
    elsewhere = {"replicates.parquet": TREATMENTS, "knowledge.parquet": TREATMENTS, "expression.parquet": GENES}
    for column in sorted(ASKED[name]):
        answered = table[table[column].notna()]
        # a column that this screen leaves empty would go unseen
        assert len(answered), column
        for line in answered.to_dict("records"):
            task = elsewhere[name] if name in elsewhere else line.get("task", "kind")
            assert line[column] in list(found[task].values()), (column, line)


def test_every_part_of_the_evidence_is_asked_or_is_no_metric() -> None:
    """What is text or a word is no number; all else is."""
    parts = {part.name for part in fields(TaskEvidence) if part.type not in ("str", "bool")}
    assert parts == EVIDENCE.keys() | NO_EVIDENCE.keys()

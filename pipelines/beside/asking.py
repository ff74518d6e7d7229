"""Everything that is asked of a row beside its tasks, row after row; each answer has a table of its own in the cell."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from pipelines.benchmarks.index import Benchmark
from pipelines.beside import expression, knowledge, probing, replicates
from pipelines.beside.confounding import Design, confounds_of
from pipelines.beside.expression import Answer, Expressed, Gene, Spots
from pipelines.beside.knowledge import Knowledge, Rules, Screen
from pipelines.beside.probing import Probed, Types
from pipelines.beside.replicates import Replicates
from pipelines.beside.wells import Wells, wells_of
from pipelines.embeddings import Row
from pipelines.kept import Kept
from pipelines.params import Params
from pipelines.scores import Confound, write_confounds
from pipelines.tasks import Question, fold_features, probe_settings
from registry.arrays import Floats

#: what answers are made of
ANSWERS = (Confound, Replicates, Knowledge, Probed, Answer, Expressed, Gene)
#: why a row is asked nothing that compares images of several folds
_REFITTED = "it is fitted anew for every fold, and vectors of different folds cannot be compared"


def ask_beside(benchmark: Benchmark, questions: Sequence[Question], rows: list[Row], params: Params, kept: Kept, out: Path) -> None:
    """Ask one draw of every row (of twins the first; gene expression every draw) and publish one table for each kind of question.

    Args:
        benchmark: of the rows.
        questions: its tasks.
        rows: those that were extracted.
        params: of the flow.
        kept: answers of a run that was ended.
        out: folder of the cell's scores.
    """
    write_confounds(out, _confounds(benchmark, rows, params, kept))
    wells = wells_of(benchmark)
    if wells is not None and wells.left_out:
        print(f"[evaluate] {benchmark.card.name}: {wells.left_out} images have no plate or no well and are in no profile of a well", flush=True)
    replicates.write(out, _replicates(benchmark, wells, rows, params, kept))
    knowledge.write(out, _knowledge(benchmark, wells, rows, params, kept))
    probing.write(out, _probing(benchmark, questions, rows, params, kept))
    expression.write(out, _expression(benchmark, rows, params, kept))


def _confounds(benchmark: Benchmark, rows: list[Row], params: Params, kept: Kept) -> list[Confound]:
    """How much of one draw of every row is batch and place: of twins the first."""
    design = Design.of(benchmark, params.seed)
    found = kept.each("confounds", partial(_confounds_of, benchmark, design, params), {row.name: row for row in rows}, params.threads)
    return [one for each in found for one in each]


def _confounds_of(benchmark: Benchmark, design: Design, params: Params, row: Row) -> list[Confound]:
    member, first = row.manifest.members[0], benchmark.folds[0].number
    vectors = row.embedding(member, first, benchmark.index["image_id"].tolist()).astype(np.float64)
    return confounds_of(row.name, member, vectors, design, probe_settings(params.evaluate))


def _replicates(benchmark: Benchmark, wells: Wells | None, rows: list[Row], params: Params, kept: Kept) -> list[Replicates]:
    """The questions about replicates, asked of one draw of every row: of twins the first."""
    if wells is None or not wells.placed:
        return []
    # a question at a time: a cell of one row keeps all cores at work
    jobs = {f"{row.name}/{question}": (row, question) for row in rows for question in replicates.QUESTIONS}
    found = kept.each("replicates", partial(_replicates_of, benchmark, wells, params.seed), jobs, params.threads, "questions")
    return [one for each in found for one in each]


def _replicates_of(benchmark: Benchmark, wells: Wells, seed: int, job: tuple[Row, str]) -> list[Replicates]:
    row, question = job
    if row.manifest.folds:
        return replicates.not_asked(row.name, _REFITTED, (question,))
    return replicates.replicates(row.name, _first_draw(row, benchmark), wells, seed=seed, questions=(question,))


def _first_draw(row: Row, benchmark: Benchmark) -> Floats:
    return row.embedding(row.manifest.members[0], 0, benchmark.index["image_id"].tolist()).astype(np.float64)


def _knowledge(benchmark: Benchmark, wells: Wells | None, rows: list[Row], params: Params, kept: Kept) -> list[Knowledge]:
    """The questions about what is known of the perturbations, asked of one draw of every row: of twins the first."""
    if wells is None:
        return []
    screen = Screen.of(benchmark, wells)
    rules = Rules.of(params.evaluate)
    jobs = {f"{row.name}/{alignment}": (row, alignment) for row in rows for alignment in rules.alignments}
    found = kept.each("knowledge", partial(_knowledge_of, benchmark, screen, params.seed, rules), jobs, params.threads, "alignments")
    return [one for each in found for one in each]


def _knowledge_of(benchmark: Benchmark, screen: Screen, seed: int, rules: Rules, job: tuple[Row, str]) -> list[Knowledge]:
    row, alignment = job
    if row.manifest.folds:
        return knowledge.not_asked(row.name, screen, _REFITTED, rules, (alignment,))
    return knowledge.knowledge(row.name, _first_draw(row, benchmark), screen, seed=seed, rules=rules, alignments=(alignment,))


def _probing(benchmark: Benchmark, questions: Sequence[Question], rows: list[Row], params: Params, kept: Kept) -> list[Probed]:
    """How soon and how plainly each task can be read from one draw of every row: of twins the first. A nuisance is not asked about."""
    asked = [(q, probing.types_of(benchmark, q)) for q in questions if not q.task.nuisance]
    jobs = {f"{row.name}/{question.task.name}": (row, question, types) for row in rows for question, types in asked}
    return [one for each in kept.each("probing", partial(_probing_of, benchmark, params), jobs, params.threads, "tasks") for one in each]


def _probing_of(benchmark: Benchmark, params: Params, job: tuple[Row, Question, Types]) -> list[Probed]:
    row, question, types = job
    member, rule = row.manifest.members[0], probe_settings(params.evaluate)
    features = fold_features(row, member, benchmark)
    return probing.probed(row.name, member, features, question, types, rule, benchmark.card.unit, params.seed)


def _expression(benchmark: Benchmark, rows: list[Row], params: Params, kept: Kept) -> list[Answer]:
    """Gene expression, of every draw of every row; none where the benchmark has no counts."""
    spots = Spots.of(benchmark, params.seed)
    if spots is None:
        return []
    jobs = {f"{row.name}/{member}": (row, member) for row in rows for member in row.manifest.members}
    return list(kept.each("expression", partial(_expression_of, benchmark, spots), jobs, params.threads))


def _expression_of(benchmark: Benchmark, spots: Spots, job: tuple[Row, str]) -> Answer:
    row, member = job
    return expression.expressed(row.name, member, fold_features(row, member, benchmark), spots, member == row.manifest.members[0])

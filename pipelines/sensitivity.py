"""A sensitivity run: does a verdict hang on how many dimensions a row has? Every row at most `diagnose.common_dim` principal components.

The probe standardises, projects and fits once more, under the one rule of every row, only narrower. A row that had no more components
than that keeps its statistic: the narrower rule does the same to it, step by step.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

from pipelines.benchmarks.card import Task
from pipelines.benchmarks.index import Benchmark
from pipelines.board import Board, questions
from pipelines.embeddings import Row
from pipelines.evaluate import probe_statistic
from pipelines.kept import Kept
from pipelines.metrics.geometry import varying_columns
from pipelines.metrics.probes import FoldFeatures, ProbeSettings, features_of_fold, out_of_fold
from pipelines.metrics.statistic import Statistic
from pipelines.params import Params
from pipelines.scores import Scored
from pipelines.tasks import Question, fold_features, inflated, probe_settings

#: primary metrics that are computed again: "<probe>.<metric>"
METRICS = ("logistic.balanced_accuracy", "logistic.auroc", "knn.balanced_accuracy")


@dataclass(frozen=True)
class CommonDim:
    """One benchmark at the common dimension.

    Attributes:
        dim: most principal components.
        board: all scores, the primary ones of `common_tasks` at that dimension.
        refitted: (row, task) of what had more components and was fitted again.
    """

    dim: int
    board: Board
    refitted: frozenset[tuple[str, str]]


def common_tasks(board: Board) -> list[Task]:
    """The tasks that are run again: those a verdict is about whose primary metric is a probe's."""
    return [task for task in questions(board) if task.metric in METRICS]


def common_rule(params: Params) -> ProbeSettings:
    """The one rule of every row, at the common dimension."""
    return replace(probe_settings(params.evaluate), max_dim=min(params.diagnose.common_dim, params.evaluate.max_dim))


def at_common_dim(board: Board, params: Params, kept: Kept) -> CommonDim:
    """The primary scores of `common_tasks` at the common dimension; those of a run that was ended are kept.

    The oracle is no row of vectors: its scores, like those of retrieval, stay as they are.
    """
    rule = common_rule(params)
    tasks = common_tasks(board)
    scored_rows = {s.row for s in board.scored}
    wide = [row for name, row in board.rows.items() if name in scored_rows and row.manifest.dim > rule.max_dim]
    jobs = [(row, member) for row in wide for member in row.manifest.members] if rule.max_dim < params.evaluate.max_dim else []
    if jobs and tasks:
        print(f"[diagnose] {board.benchmark.card.name}: {len(jobs)} members at no more than {rule.max_dim} principal components", flush=True)
        importlib.import_module("scipy.linalg")  # once, before the workers fork
    asked = [Question.of(board.benchmark, task) for task in tasks]
    named = {f"{row.name}/{member}": (row, member) for row, member in jobs}
    found = kept.each("common-dim", partial(refitted, board.benchmark, asked, rule), named, params.threads, "members")
    again = {(row.name, member, task): statistic for (row, member), each in zip(jobs, found, strict=True) for task, statistic in each.items()}
    primary = {(task.name, task.metric) for task in tasks}

    def narrowed(s: Scored) -> Scored:
        if (s.task, s.metric) not in primary or s.row not in board.rows:
            return s
        statistic = again.get((s.row, s.member, s.task), s.statistic)
        return replace(s, statistic=statistic, protocol_id=rule.protocol_id(s.metric.partition(".")[0]))

    narrow = replace(board, scored=[narrowed(s) for s in board.scored])
    return CommonDim(rule.max_dim, narrow, frozenset((row, task) for row, _, task in again))


def refitted(benchmark: Benchmark, asked: Sequence[Question], rule: ProbeSettings, job: tuple[Row, str]) -> dict[str, Statistic]:
    """The primary statistic of one member on each task where the rule leaves something out of its vectors."""
    row, member = job
    features = fold_features(row, member, benchmark)
    return {q.task.name: primary_statistic(q, features, rule) for q in asked if _is_wider(q, features, rule.max_dim)}


def primary_statistic(question: Question, features: FoldFeatures, rule: ProbeSettings) -> Statistic:
    """The primary metric of one task from out-of-fold predictions under `rule`."""
    kind, _, metric = question.task.metric.partition(".")
    found = out_of_fold(features, question.codes, question.folds, question.units, len(question.classes), rule, kind)
    return inflated(probe_statistic(metric, found, question), question)


def _is_wider(question: Question, features: FoldFeatures, dim: int) -> bool:
    """Whether more than `dim` columns vary over the training images of some fold."""
    taking_part = question.codes >= 0
    numbers = sorted(set(question.folds[taking_part & (question.folds >= 0)].tolist()))
    return any(varying_columns(features_of_fold(features, n)[taking_part & (question.folds != n)]).sum() > dim for n in numbers)

"""What an encoder knows beyond all controls together, for every encoder x classification task of a benchmark."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np

from pipelines.benchmarks.card import Task
from pipelines.benchmarks.index import Benchmark
from pipelines.board import CONFOUND, Board, questions, variant
from pipelines.embeddings import Row
from pipelines.evaluate import RETRIEVAL
from pipelines.kept import Kept
from pipelines.metrics.baseline import InformationSettings
from pipelines.metrics.information import Information, beyond_controls, judge_information
from pipelines.metrics.jackknife import interval, why_not_assessable
from pipelines.metrics.probes import FoldFeatures
from pipelines.metrics.sentences import information_sentence, unknown_information_sentence
from pipelines.parallel import in_parallel
from pipelines.params import Params
from pipelines.progress import Progress
from pipelines.tasks import Question, fold_features
from registry.arrays import Floats

#: noise says nothing, and a position is no content of an image
LEFT_OUT = (CONFOUND, "random")
NO_CONTROLS = "there is no control but noise and positions to measure beyond"


def beyond_controls_all(board: Board, params: Params, kept: Kept) -> dict[tuple[str, str], dict[str, Any]]:
    """Findings by (encoder, task), as a scorecard holds them; those of a run that was ended are kept."""
    jobs = [(name, task) for name in board.names("encoder") for task in questions(board) if task.metric != RETRIEVAL]
    nothing = "" if controls_of(board.rows) else NO_CONTROLS
    reasons = {job: nothing or why_not(board, *job) for job in jobs if board.statistics(job[0], job[1].name, job[1].metric)}
    # it costs minutes to learn a number that no interval could be given for
    asked = [job for job, reason in reasons.items() if not reason]
    # side by side are questions, or the folds of one question where there are several
    inner = params.threads if len(board.benchmark.folds) > 1 else 1
    outer = 1 if inner > 1 else params.threads
    named = {f"{encoder}/{task.name}": (encoder, task) for encoder, task in asked}
    found = dict(zip(asked, kept.each("bits", partial(_finding, board, params, inner), named, outer, "questions"), strict=True))
    return {(job[0], job[1].name): found[job] if job in found else unknown(board, *job, reason) for job, reason in reasons.items()}


def why_not(board: Board, encoder: str, task: Task) -> str:
    """Why an encoder's own score on a task has no interval, in words; "" if it has one."""
    return next((reason for s in board.statistics(encoder, task.name, task.metric)["main"] if (reason := why_not_assessable(s))), "")


def unknown(board: Board, encoder: str, task: Task, reason: str) -> dict[str, Any]:
    """What a scorecard holds where the units are too few to say anything: no bits, and why."""
    sentence = unknown_information_sentence(encoder, task.name, reason, board.benchmark.card.unit)
    return {"bits": None, "low": None, "high": None, "word": "not assessable", "sentence": sentence, "note": "", "against": []}


def information_settings(params: Params) -> InformationSettings:
    """The one rule of every encoder."""
    return InformationSettings(inner_folds=params.evaluate.inner_folds, seed=params.seed)


def _finding(board: Board, params: Params, workers: int, job: tuple[str, Task]) -> dict[str, Any]:
    encoder, task = job
    question = Question.of(board.benchmark, task)
    settings = information_settings(params)
    twins = twin_features(board, encoder)
    fits = len(board.benchmark.folds) * (1 + sum(map(len, twins.values())) + settings.random_networks)
    progress = Progress(f"[diagnose {board.benchmark.card.name}] bits of {encoder} on {task.name}", fits, "fits", at_end=False)
    found = beyond_controls(
        controls_together(board.benchmark, board.rows),
        fold_features(board.rows[encoder], "main", board.benchmark),
        twins,
        question.codes,
        question.folds,
        question.units,
        len(question.classes),
        settings,
        partial(in_parallel, workers=workers),
        progress.advance,
    )
    print(f"[diagnose] {board.benchmark.card.name}: {encoder} on `{task.name}` adds {found.encoder.value:.3f} bits to its controls", flush=True)
    return described(encoder, task, found, settings, board, params)


def controls_of(rows: Mapping[str, Row]) -> list[Row]:
    """The negative controls that apply, but noise and positions: what bits are measured beyond.

    Args:
        rows: that were extracted, by name.
    """
    controls = [row for name, row in rows.items() if row.manifest.card["role"] == "negative" and name not in LEFT_OUT]
    return [row for row in controls if not row.manifest.not_applicable]


def controls_together(benchmark: Benchmark, rows: Mapping[str, Row]) -> dict[int, Floats]:
    """All negative controls that apply side by side, for each fold; {} where there are none.

    Args:
        benchmark: of the rows.
        rows: that were extracted, by name.
    """
    parts = [fold_features(row, "main", benchmark) for row in controls_of(rows)]
    return {fold.number: np.concatenate([part[fold.number] for part in parts], axis=1) for fold in benchmark.folds} if parts else {}


def twin_features(board: Board, encoder: str) -> dict[str, list[FoldFeatures]]:
    """Each kind of draw of each of the encoder's twins."""
    kinds: dict[str, list[FoldFeatures]] = {}
    for twin in board.rows[encoder].manifest.card["twins"]:
        row = board.rows[twin]
        for member in row.manifest.members:
            kinds.setdefault(f"{twin}/{variant(member)}", []).append(fold_features(row, member, board.benchmark))
    return kinds


def described(encoder: str, task: Task, found: Information, settings: InformationSettings, board: Board, params: Params) -> dict[str, Any]:
    """Plain values: bits with interval and verdict, what the controls leave unknown, and the three comparisons."""
    verdict = judge_information(encoder, task.name, found, unit=board.benchmark.card.unit, alpha=params.diagnose.alpha)
    bounds = interval(found.encoder, params.diagnose.alpha)
    against = [{"control": c.control, "bits": c.control_value, "gain": c.gain, "low": c.low, "high": c.high, "p": c.p} for c in verdict.comparisons]
    note = f"{found.prior.value:.3f} bits to know, {found.baseline.value:.3f} left by the controls; p is not corrected for several tasks."
    if found.baseline.value < verdict.margin:
        note += f" The controls leave less than the margin of {verdict.margin:g} bits: no encoder could add what matters."
    return {
        "bits": found.encoder.value,
        "low": bounds[0] if bounds else None,
        "high": bounds[1] if bounds else None,
        "word": verdict.word,
        "sentence": information_sentence(verdict),
        "note": " ".join([note, *found.notes]),
        "against": against,
        "protocol_id": settings.protocol_id,
    }

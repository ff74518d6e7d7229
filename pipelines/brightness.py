"""How much of each encoder's score brightness alone reaches: `intensity` and `histogram` side by side, under the encoder's own probe and folds."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from functools import partial
from typing import Any

from pipelines.benchmarks.index import Benchmark
from pipelines.board import Board
from pipelines.embeddings import Row
from pipelines.metrics.sentences import shortcut_sentence
from pipelines.metrics.shortcut import Shortcut, shortcut_features, shortcut_share
from pipelines.metrics.statistic import Statistic
from pipelines.parallel import in_parallel
from pipelines.params import Params
from pipelines.sensitivity import common_tasks, primary_statistic
from pipelines.tasks import Question, fold_features, probe_settings
from registry.arrays import Floats

INTENSITY, HISTOGRAM = "intensity", "histogram"
#: names the rule of the share; that of the probe is the task's own protocol
PROTOCOL = "shortcut/intensity+histogram/above-chance/fieller/v2"


def brightness_all(board: Board, params: Params) -> dict[tuple[str, str], dict[str, Any]]:
    """Shares by (encoder, task), as a scorecard holds them; a task whose primary metric is no probe's has none."""
    tasks, reason = common_tasks(board), why_not(board)
    importlib.import_module("scipy.linalg")  # once, before the workers fork
    features = None if reason else brightness_features(board.benchmark, board.rows)
    asked = [] if features is None else [Question.of(board.benchmark, task) for task in tasks]
    score_of = partial(primary_statistic, features=features or {}, rule=probe_settings(params.evaluate))
    scores = {q.task.name: score for q, score in zip(asked, in_parallel(score_of, asked, params.threads), strict=True)}
    shares = {}
    for s in board.scored:
        if board.roles[s.row] == "encoder" and (s.task, s.metric) in {(task.name, task.metric) for task in tasks}:
            score = scores.get(s.task)
            share = Shortcut(None, None, None, reason) if score is None else shortcut_share(s.statistic, score, s.chance, params.diagnose.alpha)
            shares[s.row, s.task] = described(share, score, board.benchmark.card.unit)
    return shares


def why_not(board: Board) -> str:
    """Why there is no share on this benchmark: a control of the two is not there, or does not apply; "" if there is one."""
    scored = {s.row for s in board.scored}
    for name in (INTENSITY, HISTOGRAM):
        if name not in scored:
            row = board.rows.get(name)
            return f"not estimable: `{name}` {f'does not apply here, {row.manifest.not_applicable}' if row else 'was not extracted'}"
    return ""


def described(share: Shortcut, score: Statistic | None, unit: str) -> dict[str, Any]:
    """Plain values: the share, what the two controls score together, and both in words."""
    sentence = shortcut_sentence(share, unit)
    return {**share.as_dict(), "score": score.value if score is not None else None, "sentence": sentence, "protocol_id": PROTOCOL}


def brightness_features(benchmark: Benchmark, rows: Mapping[str, Row]) -> dict[int, Floats] | None:
    """`intensity` and `histogram` side by side, for each fold; None where one of them was not extracted or does not apply.

    Args:
        benchmark: of the rows.
        rows: that were extracted, by name.
    """
    found = [rows[name] for name in (INTENSITY, HISTOGRAM) if name in rows and not rows[name].manifest.not_applicable]
    if len(found) < 2:
        return None
    parts = [fold_features(row, "main", benchmark) for row in found]
    return {number: shortcut_features(*(part[number] for part in parts)) for number in parts[0]}

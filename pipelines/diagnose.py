"""Scores to verdicts: every encoder of a benchmark against its twins and controls, one scorecard for every row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pipelines.benchmarks.card import Task
from pipelines.beside import protocols as beside_protocols
from pipelines.beyond import beyond_controls_all
from pipelines.board import CONFOUND, ORACLE, Board, questions, read_board, variant
from pipelines.brightness import brightness_all
from pipelines.evaluate import OTHER_WELLS, RETRIEVAL
from pipelines.kept import Kept
from pipelines.made_by import of_row, read_made_by
from pipelines.metrics.classification import WITHOUT_INTERVAL
from pipelines.metrics.jackknife import interval, mean_of
from pipelines.metrics.retrieval import OTHER_WELLS as PROTOCOL_OF_OTHER_WELLS
from pipelines.metrics.sentences import detail, sensitivity_sentence, sentence
from pipelines.metrics.statistic import Statistic
from pipelines.metrics.verdicts import PROTOCOL, Verdict, holm_table, judge
from pipelines.params import Params
from pipelines.scores import Scored
from pipelines.sensitivity import CommonDim, at_common_dim, common_tasks
from pipelines.tracking import versions
from pipelines.workspace import Workspace
from registry.errors import NotFoundError
from registry.evidence import AtCommonDim, Comparison, Scorecard, ScoreEntry, TaskEvidence
from registry.files import sha256_of_file, write_json

#: code that decides what is computed from vectors here
COMPUTING = (
    "pipelines/beyond.py",
    "pipelines/sensitivity.py",
    "pipelines/board.py",
    "pipelines/evaluate.py",
    "pipelines/tasks.py",
    "pipelines/metrics",
)


def diagnose(workspace: Workspace, params: Params, benchmark: str) -> None:
    """Write `verdicts.json` and one `<row>.scorecard.json` per row; what takes minutes is kept beside them until they are written.

    Raises:
        NotFoundError: an encoder names twins that were not extracted.
    """
    board = read_board(workspace, benchmark)
    folder = workspace.verdicts(benchmark)
    kept = kept_of(board, params, folder)
    verdicts = judge_all(board, params)
    narrow = at_common_dim(board, params, kept)
    again = sensitivity(verdicts, narrow, params)
    beyond = beyond_controls_all(board, params, kept) if params.diagnose.beyond else {}
    bright = brightness_all(board, params)
    evidence: dict[str, list[TaskEvidence]] = {}
    for v in verdicts:
        key = v.encoder, v.task
        found, narrower = _evidence(v, board, beyond.get(key, {}), bright.get(key, {}), workspace), again.get(key)
        if narrower is not None:
            found = replace(found, at_common_dim=narrower, detail=f"{found.detail} {narrower.sentence}")
        evidence.setdefault(v.encoder, []).append(found)
    narrowed = {name: _primary_entries(name, narrow.board) for name in board.roles}
    made = read_made_by(workspace, benchmark, [row.manifest for row in board.rows.values()])
    asked = beside_protocols.recorded(workspace.scores(benchmark))
    cards = [
        replace(_scorecard(name, board, evidence.get(name, []), params, made), at_common_dim=narrowed[name], beside=asked.get(name, {}))
        for name in board.roles
    ]
    for card in cards:
        write_json(folder / f"{card.row}.scorecard.json", card.as_dict())
    write_json(
        folder / "verdicts.json",
        {"benchmark": benchmark, "verdicts": [asdict(t) | {"encoder": name} for name, tasks in evidence.items() for t in tasks]},
    )
    for name, tasks in evidence.items():
        for task in tasks:
            print(f"[diagnose] {name}: {task.sentence}", flush=True)
    kept.done()


def kept_of(board: Board, params: Params, folder: Path) -> Kept:
    """What a run into `folder` that was ended has computed from the vectors of this board."""
    benchmark = board.benchmark
    facts = {
        "data": [benchmark.data_hash(), sha256_of_file(benchmark.folder / "card.json")],
        "vectors": {name: sha256_of_file(row.folder / "manifest.json") for name, row in board.rows.items()},
        "evaluate": asdict(params.evaluate),
        "diagnose": asdict(params.diagnose),
        "seed": params.seed,
    }
    return Kept(folder.with_name(f".{folder.name}.work"), f"diagnose {benchmark.card.name}", facts, COMPUTING, Statistic)


def judge_all(board: Board, params: Params) -> list[Verdict]:
    """A verdict for every encoder x task of the benchmark, Holm over the whole table."""
    verdicts = [_judge(board, name, task, params) for name in board.names("encoder") for task in questions(board) if _has(board, name, task)]
    return list(holm_table(verdicts)) if verdicts else []


def sensitivity(verdicts: Sequence[Verdict], narrow: CommonDim, params: Params) -> dict[tuple[str, str], AtCommonDim]:
    """What becomes of each verdict at the common dimension by (encoder, task), Holm over the same cells."""
    tasks = {task.name for task in common_tasks(narrow.board)}
    pairs = zip(verdicts, judge_all(narrow.board, params), strict=True)
    return {(main.encoder, main.task): _at_common_dim(main, again, narrow) for main, again in pairs if main.task in tasks}


def _at_common_dim(main: Verdict, again: Verdict, narrow: CommonDim) -> AtCommonDim:
    found = again.overall
    low, high = found.interval
    # twins are compared as "<row>/<kind of draw>"
    compared = {main.encoder, *(c.control.partition("/")[0] for c in main.comparisons)}
    refitted = sorted(row for row in compared if (row, main.task) in narrow.refitted)
    said = sensitivity_sentence(main, again, narrow.dim, refitted=bool(refitted))
    return AtCommonDim(narrow.dim, found.word, again.value, found.gain, low, high, found.against, refitted, said)


def _has(board: Board, row: str, task: Task) -> bool:
    return bool(board.statistics(row, task.name, task.metric))


def _judge(board: Board, encoder: str, task: Task, params: Params) -> Verdict:
    def single(name: str) -> Statistic:
        return board.statistics(name, task.name, task.metric)["main"][0]

    missing = [twin for twin in board.rows[encoder].manifest.card["twins"] if twin not in board.rows]
    if missing:
        raise NotFoundError(f"row of the twins of `{encoder}`", missing[0], board.rows)
    twins = {
        f"{twin}/{kind}": seeds
        for twin in board.rows[encoder].manifest.card["twins"]
        for kind, seeds in board.statistics(twin, task.name, task.metric).items()
    }
    negative = [name for name in board.names("negative") if _has(board, name, task)]
    positive = [name for name in board.names("positive") if _has(board, name, task) and name == ORACLE]
    return judge(
        encoder,
        task.name,
        task.metric,
        single(encoder),
        twins=twins,
        controls={name: single(name) for name in negative if name != CONFOUND},
        aside={name: single(name) for name in negative if name == CONFOUND},
        positive={name: single(name) for name in positive},
        unit=board.benchmark.card.unit,
        alpha=params.diagnose.alpha,
        margin=params.diagnose.margin,
    )


def _evidence(verdict: Verdict, board: Board, beyond: dict[str, Any], shortcut: dict[str, Any], workspace: Workspace) -> TaskEvidence:
    task = board.benchmark.card.task(verdict.task)
    protocol = next(s.protocol_id for s in board.scored if (s.row, s.task, s.metric) == (verdict.encoder, task.name, task.metric))
    controls = sorted((c for c in verdict.comparisons if c.role == "control"), key=lambda c: -c.control_value)
    servable = next((c.control for c in controls if not board.rows[c.control].manifest.unservable), "")
    stronger = [c for c in controls if board.rows[c.control].manifest.unservable]
    floor = next((c.control_value for c in controls if c.control == servable), -np.inf)
    layout = next((c for c in verdict.comparisons if c.control == CONFOUND), None)
    found = verdict.overall
    gap = verdict.share_of_gap
    return TaskEvidence(
        task=task.name,
        question=task.question,
        metric=task.metric,
        protocol_id=protocol,
        value=verdict.value,
        word=verdict.word,
        twin_word=verdict.twins.word if verdict.twins else "not assessable",
        p=found.p,
        p_holm=verdict.p_adjusted,
        gain=found.gain,
        low=found.low,
        high=found.high,
        against=found.against,
        n_units=verdict.n_units,
        n_eff=verdict.n_eff,
        sentence=sentence(verdict),
        detail=" ".join(part for part in (detail(verdict), shortcut.get("sentence", "")) if part),
        comparisons=[
            Comparison(
                c.control,
                {"twins": "twin", "control": "negative"}.get(c.role, "aside"),
                c.gain,
                c.low,
                c.high,
                c.high_corrected,
                c.p,
                c.control_value,
                c.low_of_mean,
                c.high_of_mean,
            )
            for c in verdict.comparisons
        ],
        share_of_gap={"value": gap.value, "low": gap.low, "high": gap.high, "note": gap.note} if gap else {},
        beyond=beyond,
        servable_control=servable,
        unservable=[
            {"name": c.control, "value": c.control_value, "reason": board.rows[c.control].manifest.unservable}
            for c in stronger
            if c.control_value > floor
        ],
        confounded=layout is not None and layout.word == "loses",
        per_unit=per_unit_scores(workspace, board, verdict.encoder, task) if verdict.word == "not assessable" else {},
        low_of_mean=found.low_of_mean,
        high_of_mean=found.high_of_mean,
        negligible=found.negligible,
        shortcut=shortcut,
        verdict_protocol=PROTOCOL,
    )


def per_unit_scores(workspace: Workspace, board: Board, row: str, task: Task) -> dict[str, float]:
    """Share of right predictions in each unit (logistic probe): what is shown where units are too few for an interval."""
    tables = [pd.read_parquet(path) for path in sorted(workspace.scores(board.benchmark.card.name).glob("*/predictions.parquet"))]
    found = pd.concat([t for t in tables if not t.empty], ignore_index=True)
    mine = found[(found["row"] == row) & (found["task"] == task.name) & (found["probe"] == "logistic")]
    units = board.benchmark.index.set_index("image_id")["unit"]
    right = (mine["label"] == mine["predicted"]).groupby(mine["image_id"].map(units)).mean()
    return {str(unit): float(value) for unit, value in right.items()} if len(right) <= 20 else {}


def _scorecard(row: str, board: Board, evidence: list[TaskEvidence], params: Params, made: Mapping[str, Mapping[str, Any]]) -> Scorecard:
    card = board.benchmark.card
    extracted = board.rows.get(row)
    mine = [s for s in board.scored if s.row == row]
    return Scorecard(
        row=row,
        role=board.roles[row],
        benchmark=card.name,
        benchmark_title=card.title,
        modality=card.modality,
        data_hash=board.benchmark.data_hash(),
        unit=card.unit,
        notes=list(card.notes),
        not_applicable=extracted.manifest.not_applicable if extracted else "",
        flags=sorted({flag for s in mine for flag in s.flags.split()}),
        scores=_entries(mine, board),
        tasks=evidence,
        provenance={
            "versions": versions(),
            **of_row(made, row, board.roles[row]),
            "card_hash": extracted.manifest.card_hash if extracted else "",
            "benchmark_card": sha256_of_file(board.benchmark.folder / "card.json"),
            "evaluate": asdict(params.evaluate),
            "diagnose": asdict(params.diagnose),
            "seed": params.seed,
        },
    )


def _primary_entries(row: str, board: Board) -> list[ScoreEntry]:
    """The primary scores of a row's probes on the tasks that are run again, as the board holds them."""
    primary = {(task.name, task.metric) for task in common_tasks(board)} if row in board.rows else set()
    return _entries([s for s in board.scored if s.row == row and (s.task, s.metric) in primary], board)


def _entries(scored: Sequence[Scored], board: Board) -> list[ScoreEntry]:
    groups: dict[tuple[str, str, str], list[Scored]] = {}
    for s in scored:
        groups.setdefault((s.task, s.metric, variant(s.member)), []).append(s)
    found = []
    for (task, metric, kind), members in groups.items():
        if metric != OTHER_WELLS:
            entry = _entry(kind, members, board.benchmark.card.task(task).metric == metric)
            position = _position_control(members[0], groups.get((task, OTHER_WELLS, kind), [])) if metric == RETRIEVAL else {}
            found.append(replace(entry, other_wells=position))
    return found


def _position_control(anywhere: Scored, elsewhere: list[Scored]) -> dict[str, Any]:
    """Retrieval with positives in other wells only, or why there is none; {} where that was not asked."""
    if elsewhere:
        found = _entry("main", elsewhere, primary=False)
        return {name: getattr(found, name) for name in ("value", "low", "high", "chance", "n_images", "protocol_id")} | {"note": ""}
    if not anywhere.no_position_control:
        return {}
    nothing = dict.fromkeys(("value", "low", "high", "chance"))
    return {**nothing, "n_images": 0, "protocol_id": PROTOCOL_OF_OTHER_WELLS, "note": anywhere.no_position_control}


def _entry(kind: str, members: list[Scored], primary: bool) -> ScoreEntry:
    first = members[0]
    statistics = [s.statistic for s in members]
    centre = mean_of(statistics) if len(statistics) > 1 else statistics[0]
    bounds = None if first.metric.partition(".")[2] in WITHOUT_INTERVAL else interval(centre)
    low, high = bounds if bounds is not None else (None, None)
    values = [s.value for s in statistics]
    return ScoreEntry(
        task=first.task,
        metric=first.metric,
        variant="" if kind == "main" else kind,
        protocol_id=first.protocol_id,
        value=centre.value,
        members=len(members),
        sd_members=float(np.std(values, ddof=1)) if len(values) > 1 else 0.0,
        low=low,
        high=high,
        n_images=centre.n_images,
        n_units=centre.n_units,
        n_eff=centre.n_eff,
        chance=first.chance,
        primary=primary,
    )

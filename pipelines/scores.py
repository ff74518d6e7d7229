"""Scores on disk: every statistic of a cell with what it becomes when each unit is left out, and the predictions behind it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipelines.lines import UNVERSIONED, lines_of_cells, write_lines
from pipelines.metrics.statistic import Statistic
from registry.arrays import Floats
from registry.errors import BenchmarkError
from registry.files import published

CONFOUNDS = "confounds.parquet"


@dataclass(frozen=True)
class Scored:
    """One statistic of one member on one task.

    Attributes:
        row: name of the encoder or control.
        member: its draw.
        task: name of the task.
        metric: "<probe>.<metric>".
        protocol_id: names every rule behind the number.
        chance: the score of knowing nothing.
        flags: "collapsed" and "low_rank", joined by a space; "" if neither.
        statistic: the number, and the number without each unit.
        note: what a reader must know, for example a permutation p; "".
        no_position_control: of retrieval, why it is not estimable with positives in other wells only; "" where that score stands beside it.
    """

    row: str
    member: str
    task: str
    metric: str
    protocol_id: str
    chance: float
    flags: str
    statistic: Statistic
    note: str = ""
    no_position_control: str = ""


@dataclass(frozen=True)
class Predictions:
    """Out-of-fold predictions of one member on one task; n images, k classes.

    Attributes:
        row: name of the encoder or control.
        member: its draw.
        task: name of the task.
        probe: "logistic" or "knn".
        image_ids: n ids.
        folds: (n,) the fold whose training images the probe saw.
        labels: (n,) class codes.
        classes: k class names.
        probabilities: (n, k).
    """

    row: str
    member: str
    task: str
    probe: str
    image_ids: tuple[str, ...]
    folds: NDArray[np.int64]
    labels: NDArray[np.int64]
    classes: tuple[str, ...]
    probabilities: NDArray[np.float64]


@dataclass(frozen=True)
class Confound:
    """One score of one row.

    Attributes:
        row: name of the encoder or control.
        member: its draw.
        score: "decoding", "component regression", "kBET", "iLISI", "cLISI", "BRAS", "connectivity", "robustness index", "NSC" or "NSCB".
        column: what the score is about: the batch, or the column decoded.
        value: the score; NaN where it is not estimable.
        low: lower bound of its 95 % interval; NaN where there is none.
        high: upper bound.
        reference: what it would be if nothing of the column were in the row: chance, or for decoding what the class alone gives away where that is
            more (a class that lies on few plates); for scores of mixing the same score after batches were permuted among the images of a class (for
            cLISI and connectivity: classes among the images of a batch), once.
        n_images: images it was computed on.
        note: "" or why it is not estimable.
        protocol_id: names the rule.
    """

    row: str
    member: str
    score: str
    column: str
    value: float
    low: float
    high: float
    reference: float
    n_images: int
    note: str
    protocol_id: str = UNVERSIONED


def write_scores(folder: Path, scored: Sequence[Scored], predictions: Sequence[Predictions]) -> None:
    """Publish `scores.parquet`, `jackknife.parquet` and `predictions.parquet`; `scores.parquet` last."""
    jackknife = [
        pd.DataFrame(
            {
                "row": s.row,
                "member": s.member,
                "task": s.task,
                "metric": s.metric,
                "unit": list(s.statistic.units),
                "without": s.statistic.without,
                "share": s.statistic.share,
                "pairs": [None] * s.statistic.n_units if s.statistic.pairs is None else list(s.statistic.pairs),
                "inflation": s.statistic.inflation,
            }
        )
        for s in scored
    ]
    _publish(folder / "jackknife.parquet", pd.concat(jackknife, ignore_index=True) if jackknife else pd.DataFrame())
    _publish(folder / "predictions.parquet", _prediction_table(predictions))
    table = pd.DataFrame(
        [
            {
                "row": s.row,
                "member": s.member,
                "task": s.task,
                "metric": s.metric,
                "protocol_id": s.protocol_id,
                "value": s.statistic.value,
                "chance": s.chance,
                "n_images": s.statistic.n_images,
                "n_units": s.statistic.n_units,
                "n_eff": s.statistic.n_eff,
                "class_in_units": s.statistic.class_in_units,
                "flags": s.flags,
                "note": s.note,
                "no_position_control": s.no_position_control,
            }
            for s in scored
        ]
    )
    _publish(folder / "scores.parquet", table)


def _prediction_table(predictions: Sequence[Predictions]) -> pd.DataFrame:
    parts = [
        pd.DataFrame(
            {
                "row": p.row,
                "member": p.member,
                "task": p.task,
                "probe": p.probe,
                "image_id": list(p.image_ids),
                "fold": p.folds,
                "label": [p.classes[code] for code in p.labels],
                "predicted": [p.classes[code] for code in p.probabilities.argmax(axis=1)],
                "probabilities": list(p.probabilities.astype(np.float32)),
            }
        )
        for p in predictions
    ]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


def _publish(path: Path, table: pd.DataFrame) -> None:
    with published(path) as temporary:
        table.to_parquet(temporary, index=False, compression="zstd")


def read_scores(folder: Path) -> list[Scored]:
    """Read what `write_scores` wrote, in its order.

    Raises:
        BenchmarkError: the folder holds no scores.
    """
    if not (folder / "scores.parquet").is_file():
        raise BenchmarkError(f"`{folder}` holds no scores. Run `blankslide evaluate` for that cell.")
    table = pd.read_parquet(folder / "scores.parquet")
    if table.empty:
        return []
    key = ["row", "member", "task", "metric"]
    units = dict(iter(pd.read_parquet(folder / "jackknife.parquet").groupby(key, sort=False)))
    found = []
    for record in table.to_dict("records"):
        part = units[tuple(record[k] for k in key)]
        statistic = Statistic(
            float(record["value"]),
            tuple(part["unit"]),
            part["without"].to_numpy(np.float64),
            part["share"].to_numpy(np.float64),
            int(record["n_images"]),
            int(record["class_in_units"]),
            _pairs(part),
            float(part["inflation"].iloc[0]) if "inflation" in part else 1.0,
        )
        found.append(
            Scored(
                row=str(record["row"]),
                member=str(record["member"]),
                task=str(record["task"]),
                metric=str(record["metric"]),
                protocol_id=str(record["protocol_id"]),
                chance=float(record["chance"]),
                flags=str(record["flags"]),
                statistic=statistic,
                note=str(record["note"]),
                no_position_control=str(record.get("no_position_control", "")),
            )
        )
    return found


def _pairs(part: pd.DataFrame) -> Floats | None:
    rows = part["pairs"].tolist()
    return None if any(row is None for row in rows) else np.array(rows, dtype=np.float64)


def write_confounds(folder: Path, found: list[Confound]) -> None:
    """Publish `confounds.parquet`, one line per row and score."""
    write_lines(folder / CONFOUNDS, Confound, found)


def read_confounds(folder: Path) -> list[Confound]:
    """Everything below `W/out/scores/<benchmark>`, by cell; [] where there is nothing."""
    return lines_of_cells(folder, CONFOUNDS, Confound)

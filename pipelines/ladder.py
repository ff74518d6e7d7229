"""Can the metrics of the flow tell: what encoders of known quality, and embeddings that know nothing, say of each of them.

The values are made by `pipelines.rungs`, the rules by which they are judged are in `pipelines.metrics.ladder`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd

from pipelines.benchmarks.index import Benchmark
from pipelines.current import metric_facts
from pipelines.embeddings import read_rows
from pipelines.evaluate import OTHER_WELLS
from pipelines.every_metric import (
    BY_COPAIRS,
    CONFOUNDS,
    CONTROLS_REPLICATING,
    DROP,
    GENES,
    GEOMETRY,
    INFORMATION,
    KNOWLEDGE,
    PROBING,
    SHORTCUT,
    TREATMENTS,
)
from pipelines.metrics import ladder as judging
from pipelines.metrics.ladder import CONSTANT, NOISE, PERMUTED, Agreement, Judged, Lead, Order, Rise, orientation
from pipelines.params import Params
from pipelines.reporting.ladders import ladder_tables
from pipelines.rungs import BATCH, METHODS, TRUE, Rungs, ladder_values, stated_settings
from pipelines.workspace import Workspace
from registry.arrays import Floats
from registry.evidence import Scorecard
from registry.files import published, read_json, write_json

#: stand where tasks are
NO_TASK = (TREATMENTS, GENES)
#: begin the names of metrics that are asked beside others about the same thing
BESIDE = (PROBING, INFORMATION, SHORTCUT, KNOWLEDGE, OTHER_WELLS)
#: begin the names of metrics that do not say how much an encoder knows of labels, and end those of how much of a metric a position explains
NO_LABELS, OF_POSITION = (GEOMETRY, CONFOUNDS, CONTROLS_REPLICATING), DROP
#: where no metric looks at a label, such as of a screen whose treatments lie in one well each
NO_RISE = Rise(Order(0.0, -1.0, 1.0, ()), 0.0)


def ladder(workspace: Workspace, params: Params, name: str) -> None:
    """Write `out/ladder/<benchmark>/ladder.json` (what is said of each metric), `ladder.md` (the same as tables) and `ladder.parquet` (every value).

    Metrics are compared over the registered rows too, where there are scorecards. Bits and the share of brightness need the controls, and without
    images an encoder: both are read from the embeddings of the workspace.

    Args:
        workspace: holds the benchmark.
        params: its section `ladder` says how.
        name: of the benchmark.

    Raises:
        BlankslideError: as `ladder_values`.
    """
    benchmark, folder = Benchmark.read(workspace.data(name)), workspace.ladder(name)
    found = ladder_values(benchmark, read_rows(workspace.embeddings(name)), params, folder)
    with published(folder / "ladder.parquet") as temporary:
        found.table.to_parquet(temporary, index=False, compression="zstd")
    scorecards = [Scorecard.from_dict(read_json(path)) for path in sorted(workspace.verdicts(name).glob("*.scorecard.json"))]
    concluded = conclude(found.table, found.rungs, scorecards)
    facts = {
        "benchmark": name,
        "made_with": metric_facts(workspace, params, name),
        "settings": asdict(params.ladder),
        "training": {method: stated_settings(params, name, method) for method in METHODS if method in found.rungs},
        "learned": found.learned,
        "notes": found.notes,
    }
    with published(folder / "ladder.md") as temporary:
        temporary.write_text(ladder_tables(facts | concluded), encoding="utf-8")
    write_json(folder / "ladder.json", facts | concluded)
    print(f"[ladder] {name}: {concluded['summary']}", flush=True)


def conclude(table: pd.DataFrame, rungs: Mapping[str, Rungs], scorecards: Sequence[Scorecard] = ()) -> dict[str, Any]:
    """What the values say of every metric, as plain values for `ladder.json`.

    Args:
        table: columns ladder, seed, rung, labels, task, metric, value, as in `pipelines.rungs.Values`.
        rungs: by ladder.
        scorecards: of the benchmark's registered rows.
    """
    n_rungs = {name: len(found.at) for name, found in rungs.items()}
    # what is asked about no task may be estimable for no encoder
    parts = {str(name): part for name, part in table.groupby("task", sort=False) if name not in NO_TASK or part["value"].notna().any()}
    tasks = [_Task.of(name, part, n_rungs) for name, part in parts.items()]
    judged: dict[str, dict[str, Judged]] = {}
    for task in tasks:
        for metric in task.metrics:
            judged.setdefault(metric.name, {})[task.name] = metric.judged
    asked = [task for task in tasks if task.name not in NO_TASK]
    known = [task for task in asked if any(m.judged.word != judging.NO_LADDER for m in task.metrics)] or asked
    beside = [metric for task in tasks if task.name in NO_TASK for metric in task.metrics]
    batch: dict[str, list[Order]] = {}
    for metric in (metric for task in tasks for metric in task.metrics):
        if metric.batch is not None:
            batch.setdefault(metric.name, []).append(metric.batch)
    over_rows = [found for task in known if (found := _over_rows(task.name, scorecards)) is not None]
    return {
        "rungs": {name: asdict(found) for name, found in rungs.items()},
        "tasks": [task.as_dict() for task in tasks],
        "agreement": {
            "tasks": [task.name for task in known],
            "encoders": _mean_agreement([task.agreement(beside) for task in known]),
            "rows": _mean_agreement(over_rows),
        },
        "summary": " ".join(filter(None, [judging.summary(judged), _not_judged(tasks), judging.batch_summary(batch)])),
    }


def _not_judged(tasks: Sequence[_Task]) -> str:
    """Which metrics could not be asked, because an encoder has no value; "" where all could."""
    where: dict[str, list[str]] = {}
    for task in tasks:
        for metric in task.without_value:
            where.setdefault(metric, []).append(f"`{task.name}`")
    said = [f"`{metric}` on {', '.join(names)}" for metric, names in where.items()]
    return f"Not judged, because some encoder has no value: {'; '.join(said)}." if said else ""


@dataclass(frozen=True)
class _Metric:
    """One metric on one task.

    Attributes:
        name: of the metric.
        grids: (S, R) values of S runs on R rungs, by ladder.
        nothing: values on "constant" and "noise"; without a kind that the metric gives no value.
        permuted: (S,) on permuted labels, by ladder; empty where the design allows none.
        orders: by ladder.
        leads: by ladder and kind of embedding that knows nothing.
        judged: what is said of it.
        batch: of scores of batch and place, whether they get better as a batch that was added to trained encoders becomes less.
    """

    name: str
    grids: dict[str, Floats]
    nothing: dict[str, Floats]
    permuted: dict[str, Floats]
    orders: dict[str, Order]
    leads: dict[str, dict[str, Lead]]
    judged: Judged
    batch: Order | None

    def as_dict(self) -> dict[str, Any]:
        """Plain values."""
        noise, permuted = self.nothing.get(NOISE, np.zeros(0)), np.concatenate(list(self.permuted.values()))
        return {
            "metric": self.name,
            "word": self.judged.word,
            "rewards": list(self.judged.rewards),
            "judged_on": list(self.judged.ladders),
            "larger_is_better": orientation(self.name) > 0,
            "ladders": {
                name: asdict(self.orders[name])
                | {
                    "word": self.orders[name].word,
                    "values": grid.tolist(),
                    "leads": {kind: asdict(found) | {"clear": found.clear} for kind, found in self.leads[name].items()},
                }
                for name, grid in self.grids.items()
            },
            BATCH: asdict(self.batch) | {"word": self.batch.word} if self.batch is not None else None,
            CONSTANT: float(self.nothing[CONSTANT].mean()) if CONSTANT in self.nothing else None,
            NOISE: float(noise.mean()) if len(noise) else None,
            "noise_sd": float(noise.std(ddof=1)) if len(noise) > 1 else 0.0,
            PERMUTED: float(permuted.mean()) if len(permuted) else None,
        }


@dataclass(frozen=True)
class _Task:
    """Every metric on one task; `rises` is what those that look at labels say of each ladder, `without_value` names those that do not exist."""

    name: str
    metrics: tuple[_Metric, ...]
    rises: dict[str, Rise]
    without_value: tuple[str, ...]

    @classmethod
    def of(cls, name: str, table: pd.DataFrame, n_rungs: Mapping[str, int]) -> _Task:
        """Judge every metric that has a value for every encoder; what knows nothing may have none, and tells nothing unless all of its draws have."""
        parts = {str(metric): part for metric, part in table.groupby("metric", sort=False)}
        gone = tuple(sorted(metric for metric, part in parts.items() if not _has_value(part)))
        parts = {metric: part for metric, part in parts.items() if metric not in gone}
        grids = {metric: {ladder: _grid(part, ladder) for ladder in n_rungs} for metric, part in parts.items()}
        orders = {m: {ladder: judging.order(grid, orientation(m)) for ladder, grid in of.items()} for m, of in grids.items()}

        nothing = {m: {kind: found for kind in (CONSTANT, NOISE) if len(found := _on_nothing(part, kind))} for m, part in parts.items()}
        permuted = {m: {ladder: _on_permuted(part, ladder) for ladder in n_rungs} for m, part in parts.items()}
        leads = {
            m: {ladder: _leads(grid[:, -1], nothing[m], permuted[m][ladder], orientation(m)) for ladder, grid in of.items()}
            for m, of in grids.items()
        }
        labelled = [m for m in grids if not m.startswith(NO_LABELS) and not m.endswith(OF_POSITION)]
        # what is asked beside the scores of a task has no say where there are such scores: several shots are one question asked often
        asked = [m for m in labelled if not m.startswith(BESIDE) and not m.endswith(BY_COPAIRS)] or labelled
        rises = {
            name: judging.rise([orders[m][name] for m in asked], [leads[m][name] for m in asked], n) if asked else NO_RISE
            for name, n in n_rungs.items()
        }
        metrics = [
            _Metric(m, grids[m], nothing[m], permuted[m], orders[m], leads[m], judging.judge_metric(orders[m], rises, leads[m]), _batch(parts[m]))
            for m in grids
        ]
        return cls(name, tuple(metrics), rises, gone)

    def agreement(self, beside: Sequence[_Metric] = ()) -> Agreement:
        """Of the metrics, and of those `beside` that ask another question of the same encoders, over all rungs of all runs."""
        return judging.agreement({m.name: np.concatenate([grid.ravel() for grid in m.grids.values()]) for m in (*self.metrics, *beside)})

    def as_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "task": self.name,
            "ladders": {name: asdict(found) | {"rises": found.rises} for name, found in self.rises.items()},
            "metrics": [metric.as_dict() for metric in self.metrics],
            "without_value": list(self.without_value),
            "agreement": _plain(self.agreement()),
        }


def _grid(part: pd.DataFrame, ladder: str) -> Floats:
    """(S, R) values of one metric on one ladder."""
    mine = part[(part["ladder"] == ladder) & (part["labels"] == TRUE)]
    return mine.pivot(index="seed", columns="rung", values="value").to_numpy(np.float64)


def _has_value(part: pd.DataFrame) -> bool:
    """Whether every encoder has a value."""
    return not part["value"][(part["labels"] == TRUE) & (part["rung"] >= 0)].isna().any()


def _on_nothing(part: pd.DataFrame, kind: str) -> Floats:
    """(K,) values on draws of an embedding that knows nothing, in order of their seeds; none unless all have one."""
    return _all_or_none(part[part["ladder"] == kind])


def _all_or_none(draws: pd.DataFrame) -> Floats:
    values = draws.sort_values("seed", kind="stable")["value"].to_numpy(np.float64)
    return np.zeros(0) if np.isnan(values).any() else values


def _batch(part: pd.DataFrame) -> Order | None:
    """Of the trained ends with a batch added, most first, and of those ends themselves; None where no batch was added, or one has no value."""
    added = part[part["labels"] == BATCH]
    if added.empty or added["value"].isna().any():
        return None
    grid = added.pivot(index="seed", columns="rung", values="value").to_numpy(np.float64)
    return judging.order(np.column_stack([grid, _grid(part, str(added["ladder"].iloc[0]))[:, -1]]), orientation(str(part["metric"].iloc[0])))


def _on_permuted(part: pd.DataFrame, ladder: str) -> Floats:
    """(S,) values on permuted labels in the order of the seeds; none unless all have one."""
    return _all_or_none(part[(part["ladder"] == ladder) & (part["labels"] == PERMUTED)])


def _leads(trained: Floats, nothing: Mapping[str, Floats], permuted: Floats, direction: int) -> dict[str, Lead]:
    found = {kind: judging.lead(trained, drawn, direction) for kind, drawn in nothing.items()}
    return found | ({PERMUTED: judging.lead(trained, permuted, direction, paired=True)} if len(permuted) else {})


def _over_rows(task: str, scorecards: Sequence[Scorecard]) -> Agreement | None:
    """Agreement over the registered rows, each kind of draws of a twin by its mean; None where fewer than 3 are scored."""
    found: dict[tuple[str, str], dict[str, float]] = {}
    for card in scorecards:
        for entry in card.scores:
            if entry.task == task:
                found.setdefault((card.row, entry.variant), {})[entry.metric] = entry.value
    if len(found) < 3:
        return None
    metrics = [m for m in next(iter(found.values())) if all(np.isfinite(row.get(m, np.nan)) for row in found.values())]
    return judging.agreement({m: np.array([row[m] for row in found.values()]) for m in metrics}) if metrics else None


def _mean_agreement(found: Sequence[Agreement]) -> dict[str, Any] | None:
    """The mean over tasks, for the metrics that all of them have."""
    metrics = [m for m in found[0].metrics if all(m in each.metrics for each in found)] if found else []
    if not metrics:
        return None
    at = [np.ix_(*[[each.metrics.index(m) for m in metrics]] * 2) for each in found]
    kendall = np.mean([each.kendall[place] for each, place in zip(found, at, strict=True)], axis=0)
    spearman = np.mean([each.spearman[place] for each, place in zip(found, at, strict=True)], axis=0)
    return _plain(Agreement(tuple(metrics), found[0].n, kendall, spearman))


def _plain(found: Agreement) -> dict[str, Any]:
    return {"metrics": list(found.metrics), "n": found.n, "kendall": found.kendall.tolist(), "spearman": found.spearman.tolist()}

"""Which metrics can tell: what `blankslide ladder` found about a benchmark, as the report prints it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pipelines.current import differences
from pipelines.metrics.ladder import EPOCHS
from pipelines.reporting import words
from registry.errors import BenchmarkError
from registry.files import read_json

#: size of the drawing of one ladder, in its own units, with what stays empty at the edges
WIDTH, HEIGHT, EDGE = 64, 22, 2
#: kinds of embeddings that know nothing, in the order of the columns
NOTHING = ("constant", "noise", "permuted")
#: what a word on a metric says
LADDER_WORDS = {
    "orders": "More training, better values: the whole interval of tau lies above 0 on every ladder that rises.",
    "blind": (
        "It does not follow training (the interval holds 0 and excludes a clear order, tau 2/3), or an embedding that knows nothing"
        " does not score clearly worse than a trained encoder."
    ),
    "reversed": "It falls where most metrics rise.",
    "undecided": "These runs cannot tell, or there are fewer than five.",
    "no ladder": "No ladder of this task rises by the median of its metrics and ends clear of knowing nothing: there was nothing to see.",
}


@dataclass(frozen=True)
class LadderCell:
    """One metric on one ladder.

    Attributes:
        tau: in words.
        interval: of it.
        ends: mean value on the first and on the last rung.
        counts: whether the ladder rises, and so says something of the metric.
        runs: points of a line for each run.
        mean: points of the line of their mean.
        constant: height of what a constant gets; "" where it gets no value.
    """

    tau: str
    interval: str
    ends: str
    counts: bool
    runs: list[str]
    mean: str
    constant: str


@dataclass(frozen=True)
class NothingCell:
    """What a metric gives to embeddings that know nothing.

    Attributes:
        value: in words.
        rewarded: whether trained encoders are not clearly ahead of it.
    """

    value: str
    rewarded: bool


@dataclass(frozen=True)
class MetricLine:
    """One metric on one task; `ladders` and `nothing` in the order of the columns, `batch` the tau as an added batch becomes less, or ""."""

    metric: str
    word: str
    ladders: list[LadderCell]
    nothing: list[NothingCell]
    batch: str


@dataclass(frozen=True)
class LadderTask:
    """One task; `rises` says in words which of its ladders do."""

    task: str
    rises: str
    lines: list[MetricLine]


@dataclass(frozen=True)
class HeatCell:
    """How alike two metrics rank, and its shade: "" or "h1" .. "h5", with "below" for a negative one."""

    value: str
    shade: str


@dataclass(frozen=True)
class Heat:
    """Rank agreement of every two metrics: above the diagonal over the encoders of the ladders, below it over the rows of the benchmark.

    Attributes:
        metrics: m names.
        cells: m rows of m cells.
        encoders: how many.
        rows: how many; 0 if they were not compared.
    """

    metrics: list[str]
    cells: list[list[HeatCell]]
    encoders: int
    rows: int


@dataclass(frozen=True)
class LadderView:
    """What the report says about the metrics of one benchmark.

    Attributes:
        summary: which metrics are blind, in words.
        stale: what has changed since it was found, in words; "" where nothing has.
        notes: sentences on what is not as usual.
        ladders: their names.
        rungs: of each, in words.
        seeds: runs of each.
        tasks: with a line for each metric.
        heat: None where no metric is on all tasks.
        agreement_on: tasks over which the agreement is averaged.
        batch: whether a batch was added.
    """

    summary: str
    stale: str
    notes: list[str]
    ladders: list[str]
    rungs: list[str]
    seeds: int
    tasks: list[LadderTask]
    heat: Heat | None
    agreement_on: str
    batch: bool


def read_ladder(folder: Path, now: Mapping[str, Mapping[str, Any]]) -> LadderView | None:
    """What was found about the metrics of a benchmark; None where the command was not run.

    Args:
        folder: `out/ladder/<benchmark>`.
        now: what values of metrics hang on now, from `current.metric_facts`.

    Raises:
        BenchmarkError: it was written by an earlier version.
    """
    path = folder / "ladder.json"
    if not path.is_file():
        return None
    found: dict[str, Any] = read_json(path)
    if "made_with" not in found:
        raise BenchmarkError(
            f"`out/ladder/{folder.name}` was written by an earlier version. Repeat `blankslide ladder {folder.name}`, or remove the folder."
        )
    changed = differences(found["made_with"], now)
    return replace(ladder_view(found), stale=f"{', '.join(changed)} changed since" if changed else "")


def ladder_view(found: Mapping[str, Any]) -> LadderView:
    """Put `ladder.json` into words and drawings."""
    ladders = list(found["rungs"])
    return LadderView(
        summary=found["summary"],
        stale="",
        notes=found["notes"],
        ladders=ladders,
        rungs=[rungs_in_words(name, **found["rungs"][name]) for name in ladders],
        seeds=found["settings"]["seeds"],
        tasks=(tasks := [_task(task, ladders) for task in found["tasks"]]),
        heat=_heat(found["agreement"]),
        agreement_on=", ".join(found["agreement"]["tasks"]),
        batch=any(line.batch for task in tasks for line in task.lines),
    )


def rungs_in_words(ladder: str, of: str, at: Sequence[float]) -> str:
    """ "simclr: 0, 1, 2 and 5 epochs of training"."""
    numbers = f"{', '.join(f'{one:g}' for one in at[:-1])} and {at[-1]:g}"
    return f"{ladder}: {numbers} epochs of training" if of == EPOCHS else f"{ladder}: noise of {numbers} standard deviations added"


def _task(task: Mapping[str, Any], ladders: Sequence[str]) -> LadderTask:
    rising = [name for name in ladders if task["ladders"][name]["rises"]]
    rises = f"{' and '.join(rising)} {'rises' if len(rising) == 1 else 'rise'}" if rising else "no ladder rises"
    return LadderTask(task["task"], rises, [_line(metric, ladders) for metric in task["metrics"]])


def _line(metric: Mapping[str, Any], ladders: Sequence[str]) -> MetricLine:
    direction = 1 if metric["larger_is_better"] else -1
    constant: float | None = metric["constant"]
    shown = [v for name in ladders for run in metric["ladders"][name]["values"] for v in run] + [constant] * (constant is not None)
    low, high = min(direction * v for v in shown), max(direction * v for v in shown)

    def height(value: float) -> str:
        share = (direction * value - low) / (high - low) if high > low else 0.5
        return f"{HEIGHT - EDGE - share * (HEIGHT - 2 * EDGE):.1f}"

    def points(values: Sequence[float]) -> str:
        step = (WIDTH - 2 * EDGE) / (len(values) - 1)
        return " ".join(f"{EDGE + i * step:.1f},{height(v)}" for i, v in enumerate(values))

    cells = []
    for name in ladders:
        each = metric["ladders"][name]
        mean = [sum(rung) / len(rung) for rung in zip(*each["values"], strict=True)]
        cells.append(
            LadderCell(
                words.number(each["tau"], 2),
                words.interval(each["low"], each["high"], 2),
                f"{words.number(mean[0])} → {words.number(mean[-1])}",
                name in metric["judged_on"],
                [points(run) for run in each["values"]],
                points(mean),
                height(constant) if constant is not None else "",
            )
        )
    nothing = [NothingCell(words.number(metric[kind]), kind in metric["rewards"]) for kind in NOTHING]
    batch = metric["batch"]
    less = f"{words.number(batch['tau'], 2)} {words.interval(batch['low'], batch['high'], 2)}" if batch is not None else ""
    return MetricLine(metric["metric"], metric["word"], cells, nothing, less)


def _heat(agreement: Mapping[str, Any]) -> Heat | None:
    encoders, rows = agreement["encoders"], agreement["rows"]
    if encoders is None:
        return None
    names: list[str] = encoders["metrics"]
    known = {name: i for i, name in enumerate(rows["metrics"])} if rows is not None else {}

    def cell(i: int, j: int) -> HeatCell:
        if i == j:
            return HeatCell("", "")
        if i < j:
            return _shaded(encoders["kendall"][i][j])
        if names[i] in known and names[j] in known:
            return _shaded(rows["kendall"][known[names[i]]][known[names[j]]])
        return HeatCell("–", "")

    cells = [[cell(i, j) for j in range(len(names))] for i in range(len(names))]
    return Heat(names, cells, encoders["n"], rows["n"] if rows is not None else 0)


def _shaded(tau: float) -> HeatCell:
    step = min(int(abs(tau) * 5 + 0.5), 5)
    return HeatCell(words.number(tau, 2), f"h{step}{' below' if tau < 0 else ''}" if step else "")


# ------------------------------------------------------------------------------------------------ as Markdown


def ladder_tables(found: Mapping[str, Any]) -> str:
    """`ladder.json` as the tables of docs/metric-diagnostics.md: the word and tau, what knows nothing gets, and an added batch."""
    tasks: Sequence[Mapping[str, Any]] = found["tasks"]
    metrics = list(dict.fromkeys(metric["metric"] for task in tasks for metric in task["metrics"]))
    by = [{metric["metric"]: metric for metric in task["metrics"]} for task in tasks]

    def table(cell: Callable[[Mapping[str, Any]], str]) -> list[str]:
        lines = [[f"`{name}`", *(cell(of[name]) if name in of else "–" for of in by)] for name in metrics]
        kept = [line for line in lines if set(line[1:]) != {"–"}]
        rows = [["metric", *(f"`{task['task']}`" for task in tasks)], ["---"] * (len(tasks) + 1), *kept]
        return [f"| {' | '.join(row)} |" for row in rows]

    def of_word(metric: Mapping[str, Any]) -> str:
        word = f"**{metric['word']}**" if metric["word"] in ("blind", "reversed") else str(metric["word"])
        return " ".join([word, *(_tau(metric["ladders"][name]) for name in metric["judged_on"])])

    def of_nothing(metric: Mapping[str, Any]) -> str:
        if not metric["judged_on"]:
            return "–"
        ends = [run[-1] for name in metric["judged_on"] for run in metric["ladders"][name]["values"]]
        given = [f"**{_short(metric[kind])}**" if kind in metric["rewards"] else _short(metric[kind]) for kind in NOTHING]
        return " / ".join([_short(sum(ends) / len(ends)), *given])

    rises = [f"`{task['task']}`: {', '.join(n for n, of in task['ladders'].items() if of['rises']) or 'none'}" for task in tasks]
    parts = [
        *found["notes"],
        f"Ladders that rise: {'; '.join(rises)}.",
        "\n".join(table(of_word)),
        found["summary"],
        "What embeddings that know nothing get, beside the mean of the trained ends: trained / a constant / noise / permuted labels."
        " Bold: trained encoders are not clearly ahead of it; – : no value.",
        "\n".join(table(of_nothing)),
    ]
    if any(metric["batch"] is not None for of in by for metric in of.values()):
        said = "Tau with its interval as a batch that was added to trained encoders becomes less."
        parts += [said, "\n".join(table(lambda metric: _tau(metric["batch"]) if metric["batch"] is not None else "–"))]
    return "\n\n".join(parts) + "\n"


def _tau(order: Mapping[str, Any]) -> str:
    """ ".73 [.28, 1]"."""
    return f"{_short(order['tau'])} [{_short(order['low'])}, {_short(order['high'])}]"


def _short(value: float | None) -> str:
    """Two digits without a leading or trailing zero that says nothing: ".73", "−.02", "1", "12.4", "–"."""
    text = words.number(value, 2 if value is None or abs(value) < 10 else 1)
    if text.endswith((".00", ".0")):
        return text.rpartition(".")[0]
    return text.replace("0.", ".", 1) if text.lstrip("−").startswith("0.") else text

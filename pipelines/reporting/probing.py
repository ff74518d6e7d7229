"""How soon and how plainly a task can be read: an encoder beside its twins and its best control, with their few-shot curves in one drawing."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from pipelines.beside.probing import ALL, CODE_LENGTH, CONTROL_TASK, FEW_SHOT, SELECTIVITY, Probed
from pipelines.reporting import words
from registry.evidence import Scorecard, TaskEvidence

#: size of the drawing of the curves, in its own units, with what stays empty at its edges and the height of its labels
WIDTH, HEIGHT, EDGE, LABELS = 170, 112, 8, 14


@dataclass(frozen=True)
class Number:
    """One number as a cell of the table; "" where it is not estimable, and `title` says why.

    Attributes:
        value: in words.
        interval: of it; "" where there is none.
        beside: what it is read against, in words.
        title: what more there is to know.
    """

    value: str
    interval: str = ""
    beside: str = ""
    title: str = ""


@dataclass(frozen=True)
class ProbingLine:
    """One row: its kind ("encoder", "twin", "negative"), the points of its curve and its numbers."""

    row: str
    kind: str
    points: str
    few_shot: Number
    code_length: Number
    selectivity: Number
    brightness: Number | None


@dataclass(frozen=True)
class ProbingGroup:
    """One encoder on one task.

    Attributes:
        task: name.
        encoder: name.
        types: what has a label of its own in the control tasks; "" where there are none.
        lines: the encoder, its twins, its best control.
        ticks: (label, x) of the curves.
        chance: height of knowing nothing.
        spoken: the curves for those who do not see them.
    """

    task: str
    encoder: str
    types: str
    lines: list[ProbingLine]
    ticks: list[tuple[str, str]]
    chance: str
    spoken: str


@dataclass(frozen=True)
class ProbingView:
    """What is said about one benchmark: a group for every encoder and task, and what is not estimable in any of them."""

    groups: list[ProbingGroup]
    reasons: list[str]


def probing_view(cards: Sequence[Scorecard], found: Sequence[Probed], tasks: Sequence[str]) -> ProbingView | None:
    """Put it together; None where nothing was computed or no encoder was compared.

    Args:
        cards: the scorecards of a benchmark, in the order of the page.
        found: every score.
        tasks: names, in the order of the page.
    """
    judged = [(card.row, evidence) for task in tasks for card in cards if (evidence := card.task(task)) is not None]
    groups = [_group(row, evidence, [p for p in found if p.task == evidence.task]) for row, evidence in judged]
    groups = [group for group in groups if group.lines]
    return ProbingView(groups, _reasons(found)) if groups else None


def _group(encoder: str, evidence: TaskEvidence, found: Sequence[Probed]) -> ProbingGroup:
    twins = dict.fromkeys(c.control.partition("/")[0] for c in evidence.comparisons if c.role == "twin")
    controls = sorted((c for c in evidence.comparisons if c.role == "negative"), key=lambda c: (-c.control_value, c.control))
    kinds = {encoder: "encoder"} | dict.fromkeys(twins, "twin") | {c.control: "negative" for c in controls[:1]}
    mine = {row: [p for p in found if p.row == row] for row in kinds}
    mine = {row: scores for row, scores in mine.items() if scores}
    curves = {row: [p for p in scores if p.score == FEW_SHOT] for row, scores in mine.items()}
    shots = [p.shots for p in next(iter(curves.values()), [])]
    places = {shot: EDGE + i * (WIDTH - 2 * EDGE) / max(len(shots) - 1, 1) for i, shot in enumerate(shots)}
    chance = max((p.reference for curve in curves.values() for p in curve), default=0.0)
    shown = [chance, *(p.value for curve in curves.values() for p in curve if np.isfinite(p.value))]
    low, high = min(shown), max(*shown, chance + 0.1)

    def height(value: float) -> str:
        return f"{HEIGHT - LABELS - EDGE - (value - low) / (high - low) * (HEIGHT - LABELS - 2 * EDGE):.1f}"

    return ProbingGroup(
        task=evidence.task,
        encoder=encoder,
        types=next((p.about for p in found if p.score == SELECTIVITY and not p.note), ""),
        lines=[
            ProbingLine(
                row,
                kinds[row],
                " ".join(f"{places[p.shots]:.1f},{height(p.value)}" for p in curves[row] if np.isfinite(p.value)),
                _ends(curves[row]),
                _code_length(scores),
                _selectivity(scores),
                _brightness(evidence) if row == encoder else None,
            )
            for row, scores in mine.items()
        ],
        ticks=[("all" if shot == ALL else str(shot), f"{place:.1f}") for shot, place in places.items()],
        chance=height(chance),
        spoken=f"Few-shot curves on {evidence.task}. " + ". ".join(f"{row}: {_spoken(curve)}" for row, curve in curves.items()),
    )


def _spoken(curve: Iterable[Probed]) -> str:
    known = [p for p in curve if np.isfinite(p.value)]
    return ", ".join(f"{words.number(p.value)} with {'all' if p.shots == ALL else p.shots}" for p in known)


def _ends(curve: Sequence[Probed]) -> Number:
    """From one image of each class to the most that a class has."""
    few = [p for p in curve if p.shots != ALL and np.isfinite(p.value)]
    if not few:
        return Number("", title=next((p.note for p in curve if p.note), ""))
    each = "; ".join(f"{p.shots}: {words.number(p.value)}, sd {words.number(p.sd)}" for p in few)
    whole = next((p for p in curve if p.shots == ALL), None)
    beside = "" if whole is None else f"all {words.number(whole.value)}"
    return Number(f"{words.number(few[0].value)} → {words.number(few[-1].value)}", "", beside, f"images of each class: {each}")


def _code_length(scores: Sequence[Probed]) -> Number:
    found = next((p for p in scores if p.score == CODE_LENGTH), None)
    if found is None or found.note:
        return Number("", title=found.note if found else "")
    return Number(words.number(found.value), "", words.number(found.reference), f"{found.n_images} test images, {found.about} after {found.about}")


def _selectivity(scores: Sequence[Probed]) -> Number:
    by_score = {p.score: p for p in scores}
    found, control = by_score.get(SELECTIVITY), by_score.get(CONTROL_TASK)
    if found is None or control is None or found.note:
        return Number("", title=found.note if found else "")
    beside = f"control task {words.number(control.value)}"
    title = f"control tasks by {found.about}: sd {words.number(control.sd)}, chance {words.number(control.reference)}; {found.n_images} images"
    interval = words.interval(found.low, found.high) if np.isfinite(found.low) else ""
    return Number(words.signed(found.value), interval, beside, title)


def _brightness(evidence: TaskEvidence) -> Number:
    share = evidence.shortcut
    if not share or share["low"] is None:
        return Number("", title=share.get("note", "") or "it has no number for a metric without a probe")
    beside = f"score {words.number(share['score'])}"
    return Number(
        words.number(share["value"], 2) if share["value"] is not None else "", words.interval(share["low"], share["high"], 2), beside, share["note"]
    )


def _reasons(found: Sequence[Probed]) -> list[str]:
    """What no row of a task has, and why; tasks of one reason together."""
    reasons: dict[tuple[str, str], list[str]] = {}
    for task, score in dict.fromkeys((p.task, p.score) for p in found if p.score != CONTROL_TASK):
        of_task = [p for p in found if (p.task, p.score) == (task, score)]
        if all(p.note for p in of_task):
            reasons.setdefault((score, of_task[0].note), []).append(task)
    return [f"{score} on {', '.join(f'`{task}`' for task in tasks)}: {note}" for (score, note), tasks in reasons.items()]

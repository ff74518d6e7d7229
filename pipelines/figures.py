"""Plots that leave the report: a verdict's forest plot as a PNG, for the registry."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

from pipelines.reporting import words
from registry.evidence import Comparison, TaskEvidence

WIDTH_INCHES = 8.0
DPI = 130
INK, SOFT, BAND = "#1c2024", "#5c6369", "#ecece6"
#: kind of control -> heading, colour, matplotlib marker, filled
STYLES = {
    "twin": ("Its twins", "#2456a4", "s", True),
    "negative": ("Controls", "#a2491a", "o", False),
    "aside": ("Shown beside, decide nothing", "#5c6369", "D", False),
}


def forest(evidence: TaskEvidence, title: str = "", margin: float = 0.02) -> bytes:
    """The encoder against each of its controls on one task, as PNG bytes; the same evidence gives the same bytes.

    Args:
        evidence: the verdict.
        title: above the plot; the task's name and question if "".
        margin: of equivalence, drawn as a band.
    """
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    groups = [(kind, found) for kind in STYLES if (found := _ordered(evidence.comparisons, kind))]
    lines = sum(len(found) + 1 for _, found in groups) + 1
    # a person's matplotlibrc must not change what the registry holds
    with matplotlib.rc_context(matplotlib.rcParamsDefault | {"font.size": 8.5}):
        figure = Figure(figsize=(WIDTH_INCHES, 0.24 * lines + 1.5), dpi=DPI, facecolor="white")
        canvas = FigureCanvasAgg(figure)
        axes = figure.add_axes((0.34, 0.62 / figure.get_figheight(), 0.4, 1 - 1.42 / figure.get_figheight()))
        _frame(axes, lines, margin)
        line = 0
        for kind, found in groups:
            _text(axes, line, STYLES[kind][0], "", weight="bold")
            if any(c.several for c in found):
                axes.text(1.05, line, "thick: over their mean", transform=axes.get_yaxis_transform(), va="center", color=SOFT)
            for offset, comparison in enumerate(found, 1):
                _control(axes, line + offset, comparison)
            line += len(found) + 1
        _verdict(axes, line, evidence)
        axes.set_xlim(*_limits(evidence, margin))
        axes.set_xlabel(f"gain in {words.metric(evidence.metric)}\n← control better          encoder better →", color=SOFT)
        figure.text(0.02, 1 - 0.28 / figure.get_figheight(), _plain(title or f"{evidence.task}: {evidence.question}"), weight="bold", color=INK)
        figure.text(0.02, 1 - 0.52 / figure.get_figheight(), _caption(evidence), color=SOFT)
        stream = io.BytesIO()
        canvas.print_png(stream, metadata={"Software": None})
    return stream.getvalue()


def _ordered(comparisons: Sequence[Comparison], kind: str) -> list[Comparison]:
    return sorted((c for c in comparisons if c.role == kind), key=lambda c: (c.gain, c.control))


def _limits(evidence: TaskEvidence, margin: float) -> tuple[float, float]:
    ends = [v for c in evidence.comparisons for v in (c.gain, c.low, c.high, c.low_of_mean, c.high_of_mean) if v is not None]
    ends += [v for v in (evidence.gain, *evidence.interval) if v is not None]
    low, high = min([*ends, -margin]), max([*ends, margin])
    return low - 0.05 * (high - low), high + 0.05 * (high - low)


def _frame(axes: Any, lines: int, margin: float) -> None:
    axes.axvspan(-margin, margin, color=BAND, lw=0)
    axes.axvline(0, color=SOFT, lw=0.8)
    axes.set_ylim(lines - 0.4, -0.6)
    axes.set_yticks([])
    axes.tick_params(colors=SOFT)
    for side, spine in axes.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color(SOFT)


def _control(axes: Any, line: int, comparison: Comparison) -> None:
    _, colour, marker, filled = STYLES[comparison.role]
    if comparison.low is not None and comparison.high is not None:
        axes.plot([comparison.low, comparison.high], [line, line], color=colour, lw=1.2, solid_capstyle="butt")
    if comparison.several:
        # over the mean of several draws: what `equivalent` is decided by
        axes.plot([comparison.low_of_mean, comparison.high_of_mean], [line, line], color=colour, lw=4, alpha=0.4, solid_capstyle="butt")
    axes.plot(comparison.gain, line, marker, color=colour, markerfacecolor=colour if filled else "white", ms=5)
    numbers = f"{words.signed(comparison.gain)} {words.interval(comparison.low, comparison.high) or 'no interval'}"
    _text(axes, line, f"{comparison.control}  {words.number(comparison.control_value)}", numbers)


def _verdict(axes: Any, line: int, evidence: TaskEvidence) -> None:
    if evidence.gain is None:
        _text(axes, line, evidence.word, "", weight="bold")
        return
    low, high = evidence.interval
    if low is not None and high is not None:
        outline = [(low, line), (evidence.gain, line - 0.3), (high, line), (evidence.gain, line + 0.3)]
        axes.fill(*zip(*outline, strict=True), color=INK, lw=0)
    numbers = f"{words.signed(evidence.gain)} {words.interval(low, high)}"
    # an interval too narrow to see is a mark
    axes.plot(evidence.gain, line, "d", color=INK, ms=4, mew=0)
    _text(axes, line, f"smallest gain: {evidence.against}", numbers, weight="bold")


def _text(axes: Any, line: int, left: str, right: str, weight: str = "normal") -> None:
    transform = axes.get_yaxis_transform()
    axes.text(-0.8, line, _plain(left), transform=transform, va="center", weight=weight, color=INK)
    axes.text(1.05, line, right, transform=transform, va="center", weight=weight, color=INK)


def _caption(evidence: TaskEvidence) -> str:
    units = f"{words.count(evidence.n_units, 'unit')}, worth {words.number(evidence.n_eff, 1)} of equal size"
    mean = " (twins by their mean)" if evidence.by_mean else ""
    return f"verdict: {evidence.word}{mean}; {units}; gain with its 95 % interval"


def _plain(text: str) -> str:
    """A dollar sign would start a formula."""
    return text.replace("$", r"\$")

"""A page of pictures that explains a simulated benchmark: how its images are made, what was planted and what was matched.

One HTML file, pictures inside. The same benchmark gives the same bytes.
"""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipelines.benchmarks.card import Task
from pipelines.benchmarks.index import Benchmark
from pipelines.benchmarks.summaries import order_of, summary
from pipelines.metrics.names import whole_names
from registry.arrays import Floats
from registry.errors import BenchmarkError
from registry.files import published

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DPI = 110
#: units whose images are measured for the page
MEASURED_UNITS = 12
EXAMPLES = 4
#: channels shown as red, green and blue where one task is best seen in them
FACE = {"count": ("DNA",), "texture": ("ER",), "chirality": ("AGP", "Mito", "DNA"), "position": ("DNA",), "replicate": ("AGP", "Mito", "ER")}
COLOURS = {"brightness": "#7a7f85", "cells": "#8a5a00", "pairs": "#2456a4", "triples": "#b3261e"}
MEANING = {"brightness": "brightness (first order)", "cells": "cells", "pairs": "pairs (second order)", "triples": "triples (third order)"}
STYLE = """
body{font:16px/1.5 system-ui,sans-serif;color:#1c2024;max-width:62rem;margin:2rem auto;padding:0 1rem}
h1{font-size:1.7rem;line-height:1.2} h2{font-size:1.25rem;margin:2.4rem 0 .3rem} p{margin:.4rem 0}
img{max-width:100%;height:auto;display:block;margin:.6rem 0}
.truth{border-left:4px solid #2456a4;padding:.1rem 0 .1rem .8rem;background:#f4f6fa}
.soft{color:#5c6369} table{border-collapse:collapse;font-size:.85rem}
td,th{text-align:left;padding:.15rem .8rem .15rem 0;border-bottom:1px solid #e3e3de}
"""


def simulation_page(benchmark: Benchmark, out: Path) -> None:
    """Write the page of a simulated benchmark.

    Args:
        benchmark: culture or tissue as `simulate` wrote it.
        out: the HTML file.

    Raises:
        BenchmarkError: the benchmark has no planted truth.
    """
    if not benchmark.card.truth:
        raise BenchmarkError(
            f"`{benchmark.card.name}`: expected a simulated benchmark, whose card holds a planted truth. Real data have no such page."
        )
    import matplotlib

    # a person's matplotlibrc must not change the bytes
    with matplotlib.rc_context(matplotlib.rcParamsDefault | {"font.size": 8.5, "axes.spines.top": False, "axes.spines.right": False}):
        page = _page(benchmark)
    with published(out) as temporary:
        temporary.write_text(page, encoding="utf-8")


def _page(benchmark: Benchmark) -> str:
    card, index = benchmark.card, benchmark.index
    measured = _measured(benchmark)
    made = _culture_pictures(benchmark) if card.modality == "cells" else _tissue_pictures(benchmark)
    units = index["unit"].nunique()
    held_out = index.loc[index["fold"] >= 0, "unit"].nunique()
    parts = [
        f"<h1>{escape(card.title)}</h1>",
        "<p>These images are made by a program, so what each of them can tell is known. A method that claims to see what is not there is found out;"
        " one that misses what is there, too.</p>",
        f"<p>{len(index)} images of {card.image.height} x {card.image.width} pixels ({card.image.pixel_size_um:g} µm per pixel), channels"
        f" {', '.join(card.image.channels)}, from {units} {card.unit}s. Encoders and probes are fitted on {units - held_out} of the {card.unit}s and"
        f" judged on the other {held_out}: the {card.unit} is the unit that was drawn independently. Design: {escape(card.truth['design'])}.</p>",
        *made,
        *(_task(benchmark, task, measured) for task in card.tasks),
        "<h2>Settings</h2>",
        _settings(benchmark),
    ]
    body = "\n".join(parts)
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>{escape(card.title)}</title><style>{STYLE}</style></head>\n<body>\n{body}\n</body></html>\n"
    )


def _settings(benchmark: Benchmark) -> str:
    rows = "".join(f"<tr><td>{escape(str(k))}</td><td>{escape(str(v))}</td></tr>" for k, v in benchmark.card.truth["parameters"].items())
    return f"<p>Seed {benchmark.card.truth['seed']}; the same seed and settings give the same bytes.</p><table>{rows}</table>"


def _task(benchmark: Benchmark, task: Task, measured: pd.DataFrame) -> str:
    """Question, truth, examples of each class and, for two classes, what was measured."""
    matched = benchmark.card.truth["matched"].get(task.name)
    note = f" That {', '.join(matched)} are at chance is shown in <code>benchmarks/simulators.py</code>." if matched else ""
    parts = [
        f"<h2>{escape(task.name)}: {escape(task.question)}</h2>",
        f'<p class="truth">{_prose(benchmark.card.truth["effects"][task.name])}. {_prose(task.expectation)}{note}</p>',
        _examples(benchmark, task),
    ]
    if benchmark.labels(task).nunique() == 2:
        effects = _effects(benchmark, task, measured)
        parts += [_image(_dots(effects), f"differences between the classes of {task.name}"), f'<p class="soft">{_in_words(effects)}</p>']
    return "\n".join(parts)


def _prose(text: str) -> str:
    """A sentence of the card as HTML: capital first, names in backticks as code."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text[:1].upper() + text[1:]))


def _measured(benchmark: Benchmark) -> pd.DataFrame:
    """Summary numbers of the images of the first units, indexed by row."""
    units = sorted(benchmark.index["unit"].unique())[:MEASURED_UNITS]
    rows = np.flatnonzero(benchmark.index["unit"].isin(units).to_numpy()).tolist()
    return pd.DataFrame([summary(benchmark, row) for row in rows], index=rows)


def _effects(benchmark: Benchmark, task: Task, measured: pd.DataFrame) -> pd.DataFrame:
    """Difference of the two class means inside each unit, averaged, in standard deviations of an image; with its 95 % half-width."""
    from scipy.special import stdtrit

    labels = benchmark.labels(task).iloc[measured.index]
    part = labels.notna().to_numpy()
    second = whole_names(labels[part], "labels") == sorted(labels[part].unique())[1]
    values = measured[part].to_numpy()
    unit = whole_names(benchmark.index["unit"].iloc[measured.index[part]], "units")
    differences = np.stack([values[second & (unit == u)].mean(axis=0) - values[~second & (unit == u)].mean(axis=0) for u in np.unique(unit)])
    within = np.sqrt((values[second].var(axis=0) + values[~second].var(axis=0)) / 2)
    constant = within < 1e-9
    scale = np.where(constant, 1.0, within)
    effect = differences.mean(axis=0) / scale
    error = differences.std(axis=0, ddof=1) / np.sqrt(len(differences)) / scale if len(differences) > 1 else np.zeros_like(effect)
    half = stdtrit(max(len(differences) - 1, 1), 0.975) * error
    names = [str(name) for name in measured.columns]
    found = pd.DataFrame({"effect": effect, "half": half, "order": [order_of(name) for name in names]}, index=names)
    # nothing varies and nothing differs: such a number has nothing to show
    shown: pd.DataFrame = found[~(constant & (np.abs(effect) < 1e-9))]
    return shown


def _in_words(effects: pd.DataFrame) -> str:
    largest = []
    for order, meaning in MEANING.items():
        group = effects.loc[effects["order"] == order, "effect"].abs()
        if len(group):
            largest.append(f"{meaning}: {group.max():.2f} ({escape(str(group.idxmax()))})")
    return "Largest difference between the classes, in standard deviations of an image: " + "; ".join(largest) + "."


def _examples(benchmark: Benchmark, task: Task) -> str:
    """A row of images per class, from the same units in every row."""
    labels = benchmark.labels(task)
    classes = sorted(labels.dropna().unique())
    if len(classes) > 4:
        classes = [classes[i] for i in np.linspace(0, len(classes) - 1, 4).astype(int)]
    shown = FACE.get(task.name, benchmark.card.image.channels[:1]) if benchmark.card.modality == "cells" else benchmark.card.image.channels
    figure = _figure(1.75 * EXAMPLES + 1.1, 1.85 * len(classes))
    for r, name in enumerate(classes):
        rows = benchmark.index.index[labels == name]
        first = pd.Series(rows).groupby(benchmark.index.loc[rows, "unit"].to_numpy()).first().to_numpy()[:EXAMPLES]
        for c, row in enumerate(first.tolist()):
            axes = figure.add_subplot(len(classes), EXAMPLES, r * EXAMPLES + c + 1)
            _show(axes, _face(benchmark, row, shown))
            if c == 0:
                axes.set_ylabel(str(name))
            axes.set_title(str(benchmark.index["unit"].iloc[row]), fontsize=7)
    colours = dict(zip(("red", "green", "blue"), shown, strict=False))
    legend = shown[0] if len(shown) == 1 else ", ".join(f"{name} in {colour}" for colour, name in colours.items())
    caption = f'<p class="soft">Shown: {escape(legend)}, one {benchmark.card.unit} per column.</p>' if benchmark.card.modality == "cells" else ""
    return _image(figure, f"examples of each class of {task.name}") + caption


def _face(benchmark: Benchmark, row: int, channels: Sequence[str]) -> Floats:
    """(y, x) or (y, x, 3) in 0..1 on the card's intensity range, as it is shown."""
    names, pixels = benchmark.card.image.channels, benchmark.pixels(row)
    planes = []
    for name in channels:
        low, high = benchmark.card.image.intensity[names.index(name)]
        planes.append(np.clip((pixels[names.index(name)] - low) / (high - low), 0, 1))
    face = planes[0] if len(planes) == 1 else np.stack(planes, axis=-1)
    # fluorescence is mostly dark: brightened for the eye
    return np.sqrt(face) if benchmark.card.modality == "cells" else face


def _culture_pictures(benchmark: Benchmark) -> list[str]:
    """Channels of one site, and one control well of several plates."""
    channels, index = benchmark.card.image.channels, benchmark.index
    control = index["Metadata_control"].to_numpy()
    row = int(np.flatnonzero(control)[0])
    stains = _figure(9, 2)
    for c, name in enumerate(channels):
        axes = stains.add_subplot(1, len(channels), c + 1)
        _show(axes, _face(benchmark, row, (name,)))
        axes.set_title(name)
    plates = _figure(9, 1.9)
    rows = index.index[control & (index["Metadata_Site"] == 1)].tolist()[:6]
    for c, at in enumerate(rows):
        axes = plates.add_subplot(1, len(rows), c + 1)
        _show(axes, _face(benchmark, at, ("RNA",)))
        axes.set_title(str(index["Metadata_Plate"].iloc[at]))
    columns = _figure(4.5, 2.4)
    axes = columns.add_subplot()
    shown = index.index[index["Metadata_Plate"].isin(sorted(index["Metadata_Plate"].unique())[:6])]
    dark = pd.Series([float(np.quantile(benchmark.pixels(at)[0], 0.1)) for at in shown], index=shown)
    for plate, values in dark.groupby(index.loc[shown, "Metadata_Plate"].to_numpy()):
        means = values.groupby(index.loc[values.index, "Metadata_Column"].to_numpy()).mean()
        axes.plot(means.index, means.to_numpy(), marker="o", markersize=3, label=str(plate), linewidth=1)
    axes.set(xlabel="column of the well", ylabel="background of DNA (counts)", xticks=sorted(index["Metadata_Column"].unique()))
    axes.legend(frameon=False, fontsize=6, ncol=2)
    return [
        "<h2>How an image is made</h2>",
        "<p>Cells with a nucleus (DNA), a textured ER, RNA, a Golgi spot (AGP) and a mitochondrial cluster (Mito); then blur, background, vignetting,"
        " photon noise and the camera. Five channels of one control site:</p>",
        _image(stains, "five channels of one site"),
        "<p>What has nothing to do with treatment: every plate has its own gain, background, blur and vignetting. The untreated control"
        " (RNA channel) on six plates:</p>",
        _image(plates, "control wells of six plates"),
        "<p>And the background falls across the columns of every plate, a position effect that no cell knows of:</p>",
        _image(columns, "background by column"),
    ]


def _tissue_pictures(benchmark: Benchmark) -> list[str]:
    """One patch per patient, and the nuclei behind one patch of each class of the spatial tasks."""
    index = benchmark.index
    units = sorted(index["unit"].unique())[:6]
    stains = _figure(9, 1.9)
    for c, unit in enumerate(units):
        axes = stains.add_subplot(1, len(units), c + 1)
        _show(axes, _face(benchmark, int(np.flatnonzero((index["unit"] == unit).to_numpy())[0]), benchmark.card.image.channels))
        axes.set_title(unit)
    spatial = [task for task in benchmark.card.tasks if task.name != "composition"]
    maps = _figure(9, 2.5)
    panels = [(task, label) for task in spatial for label in sorted(benchmark.labels(task).dropna().unique())]
    for c, (task, label) in enumerate(panels):
        axes = maps.add_subplot(1, len(panels), c + 1)
        table = benchmark.nuclei[str(index["image_id"].iloc[int(np.flatnonzero((benchmark.labels(task) == label).to_numpy())[0])])]
        dark = (table["type"] == "lymphocyte").to_numpy()
        for chosen, colour in ((dark, "#2b2350"), (~dark, "#c6b2dd")):
            axes.scatter(table["x_um"][chosen], table["y_um"][chosen], s=7, color=colour)
        side_um = benchmark.card.image.height * (benchmark.card.image.pixel_size_um or 1.0)
        axes.set(xlim=(0, side_um), ylim=(side_um, 0), aspect="equal", xticks=[], yticks=[])
        axes.set_title(f"{task.name}:\n{label}", fontsize=8)
    return [
        "<h2>How an image is made</h2>",
        "<p>Nuclei are placed by a point process, stained with haematoxylin and blended over an eosin background. Every patient has stain and"
        " nuclear size of their own:</p>",
        _image(stains, "patches of six patients"),
        "<p>The table of nuclei of one patch per class (dark: lymphocytes, pale: tumour cells):</p>",
        _image(maps, "nuclei of each class"),
    ]


def _dots(effects: pd.DataFrame) -> Figure:
    """One line per number, coloured by its order; the axis is stretched away from zero so that small and large differences both show."""
    figure = _figure(8.2, 0.155 * len(effects) + 0.9)
    axes = figure.add_subplot()
    position = np.arange(len(effects))[::-1]
    for order, colour in COLOURS.items():
        chosen = (effects["order"] == order).to_numpy()
        if chosen.any():
            axes.errorbar(
                effects["effect"][chosen],
                position[chosen],
                xerr=effects["half"][chosen],
                fmt="o",
                markersize=3.5,
                color=colour,
                elinewidth=1,
                label=MEANING[order],
            )
    axes.axvline(0, color="#1c2024", linewidth=0.6)
    axes.set_xscale("symlog", linthresh=1.0)
    limit = max(1.2, 1.3 * float((effects["effect"].abs() + effects["half"]).max()))
    ticks = [0.0, *(sign * tick for tick in (0.5, 1.0, 3.0, 10.0, 30.0) for sign in (-1, 1) if tick < limit)]
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.set(xlim=(-limit, limit), ylim=(-1, len(effects)), xlabel="difference between the classes (standard deviations of an image)")
    axes.set_yticks(position, [str(name) for name in effects.index], fontsize=6)
    axes.legend(frameon=False, fontsize=7, loc="upper left", bbox_to_anchor=(1, 1))
    return figure


def _figure(width_inches: float, height_inches: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(width_inches, height_inches), dpi=DPI, facecolor="white", layout="constrained")


def _show(axes: Axes, picture: NDArray[np.floating]) -> None:
    axes.imshow(picture, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    axes.set_xticks([])
    axes.set_yticks([])


def _image(figure: Figure, alternative: str) -> str:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    stream = io.BytesIO()
    FigureCanvasAgg(figure).print_png(stream, metadata={"Software": None})
    return f'<img alt="{escape(alternative)}" src="data:image/png;base64,{base64.b64encode(stream.getvalue()).decode("ascii")}">'

"""Example images for people: tiles of each class, fluorescence as a colour composite, all at one scale of intensity.

Pixels come from `Benchmark.pixels`, so a reader sees what the encoders were given. Fluorescence and other measured
channels are stretched between two percentiles of all images shown of that benchmark, the same for every tile; RGB
files of 8 bit are shown as they are.
"""

from __future__ import annotations

import base64
import colorsys
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipelines.benchmarks.card import Task
from pipelines.benchmarks.index import Benchmark
from registry.errors import ImageError
from registry.images import ImageSpec, resize_linear

#: longest side of a tile in pixels; larger images are made smaller, small ones are left alone
TILE_PX = 112
#: classes of one task that are pictured, and images of one class, at most
CLASSES, TILES_PER_CLASS = 24, 8
#: stretch of a measured channel, in percent of the pixels shown: alone, and among others, where background would tint everything
ALONE, AMONG_OTHERS = (0.5, 99.8), (20.0, 99.8)
#: mean light of a channel in a composite: one that fills the image is dimmed to it, down to a quarter, and does not hide the others
FILL = 0.1
JPEG_QUALITY = 88
#: lengths a scale bar may have, in micrometres
BARS_UM = tuple(m * 10.0**e for e in range(-1, 5) for m in (1, 2, 5))

_RED_GREEN_BLUE = (("red", "green", "blue"), ("r", "g", "b"))
_TRANSMITTED = re.compile(r"bright|transmit|phase|\bdic\b|\bbf\b", re.IGNORECASE)
#: light colours that stay distinct when they are added up; the usual order of Cell Painting channels comes out as usual
_COLOURS = {
    1: ((255, 255, 255),),
    2: ((0, 190, 255), (255, 95, 40)),
    3: ((70, 110, 255), (40, 220, 110), (255, 70, 60)),
    4: ((70, 110, 255), (40, 220, 110), (255, 190, 0), (255, 50, 120)),
    5: ((70, 110, 255), (40, 220, 110), (255, 210, 0), (255, 110, 20), (255, 40, 160)),
}

Rgb = NDArray[np.uint8]


@dataclass(frozen=True)
class Channel:
    """One channel of a composite.

    Attributes:
        name: as the card has it.
        colour: "#rrggbb".
        uri: one image in this channel alone, as a data URI.
    """

    name: str
    colour: str
    uri: str


@dataclass(frozen=True)
class ClassTiles:
    """Example images of one class.

    Attributes:
        label: the class.
        count: images of the class in the benchmark.
        image_ids: which are shown.
        uris: their data URIs.
    """

    label: str
    count: int
    image_ids: tuple[str, ...]
    uris: tuple[str, ...]


@dataclass(frozen=True)
class Sheet:
    """The example images of one task.

    Attributes:
        task: its name.
        classes: what is shown, in order.
        left_out: how many classes are not shown.
    """

    task: str
    classes: tuple[ClassTiles, ...]
    left_out: int


@dataclass(frozen=True)
class Contact:
    """All example images of one benchmark.

    Attributes:
        sheets: one per task.
        channels: the legend of the composite; () for RGB.
        width_px: of a tile.
        height_px: of a tile.
        bar: length of the scale bar in words ("20 µm"); "" where the pixel size is not known or images vary in size.
        bar_percent: its length in percent of a tile's width.
        rendering: how intensities became colours, in words.
    """

    sheets: tuple[Sheet, ...]
    channels: tuple[Channel, ...]
    width_px: int
    height_px: int
    bar: str
    bar_percent: str
    rendering: str


@dataclass(frozen=True)
class Renderer:
    """Raw pixels to RGB.

    Attributes:
        low: (c,) raw intensity that becomes black.
        high: (c,) raw intensity that becomes full colour.
        colours: (c, 3) in 0..1; (0, 3) where RGB is shown as it is.
        weights: (c,) brightness of each channel in a composite.
        words: how it renders, for a caption.
    """

    low: NDArray[np.float64]
    high: NDArray[np.float64]
    colours: NDArray[np.float64]
    weights: NDArray[np.float64]
    words: str

    @classmethod
    def of(cls, spec: ImageSpec, shown: Sequence[NDArray[np.float32]]) -> Renderer:
        """Choose the stretch from the images that will be shown, each (c, y, x) raw."""
        number = len(spec.channels)
        if is_rgb(spec):
            low, high = np.asarray(spec.intensity, np.float64).T
            return cls(low, high, np.zeros((0, 3)), np.ones(number), "Colours as in the files.")
        values = np.stack(shown, axis=1).reshape(number, -1) if shown else np.asarray(spec.intensity, np.float32)
        percentiles = AMONG_OTHERS if number > 1 else ALONE
        low, high = np.percentile(values, percentiles, axis=1)
        high = np.maximum(high, low + 1e-6)
        fill = np.clip((values - low[:, None]) / (high - low)[:, None], 0, 1).mean(axis=1)
        words = "{} stretched between the {:g}th and the {:g}th percentile of the images shown, the same for all of them.".format(
            "Every channel is" if number > 1 else "Intensities are", *percentiles
        )
        if number == 1:
            return cls(low, high, channel_colours(spec.channels), np.ones(1), words)
        words += " The composites add the channels up, those that fill the image dimmed so that they do not hide the others."
        return cls(low, high, channel_colours(spec.channels), np.clip(FILL / np.maximum(fill, 1e-6), 0.25, 1.0), words)

    def __call__(self, pixels: NDArray[np.float32], only: int | None = None) -> Rgb:
        """(y, x, 3) uint8 of one image (c, y, x); `only` one channel, in its own colour at full brightness."""
        scaled = np.clip((pixels - self.low[:, None, None]) / (self.high - self.low)[:, None, None], 0.0, 1.0)
        if not len(self.colours):
            return _eight_bit(np.moveaxis(scaled, 0, -1))
        if only is not None:
            return _eight_bit(scaled[only, :, :, None] * self.colours[only])
        light = np.tensordot(np.moveaxis(scaled, 0, -1), self.weights[:, None] * self.colours, 1)
        # where several channels add up beyond full light the hue is kept and only the brightness is limited
        return _eight_bit(light / np.maximum(light.max(axis=-1, keepdims=True), 1.0))


def contact(benchmark: Benchmark, tiles: int) -> Contact:
    """Example images of every task.

    Args:
        benchmark: the benchmark.
        tiles: about how many images each task may show.
    """
    chosen = {task.name: _choose(benchmark, task, tiles) for task in benchmark.card.tasks}
    if not benchmark.card.image.present:
        sheets = tuple(_sheet(benchmark, task, chosen[task.name], {}) for task in benchmark.card.tasks)
        return Contact(sheets, (), 0, 0, "", "", "There are no images: the vectors were made elsewhere.")
    wanted = sorted({row for classes in chosen.values() for _, rows in classes for row in rows})
    pixels = {row: image for row in wanted if (image := _pixels(benchmark, row)) is not None}
    renderer = Renderer.of(benchmark.card.image, list(pixels.values()))
    uris = {row: data_uri(renderer(image)) for row, image in pixels.items()}
    spec = benchmark.card.image
    legend = next(iter(pixels.values()), None)
    channels = (
        tuple(Channel(name, _hex(renderer.colours[c]), data_uri(renderer(legend, only=c))) for c, name in enumerate(spec.channels))
        if legend is not None and len(renderer.colours) > 1
        else ()
    )
    height, width = tile_size(spec.height, spec.width)
    length = scale_bar_um(spec)
    return Contact(
        sheets=tuple(_sheet(benchmark, task, chosen[task.name], uris) for task in benchmark.card.tasks),
        channels=channels,
        width_px=width,
        height_px=height,
        bar=f"{length:g} µm" if length and spec.pixel_size_um else "",
        bar_percent=f"{100 * length / (spec.width * spec.pixel_size_um):.2f}%" if length and spec.pixel_size_um else "",
        rendering=renderer.words,
    )


def is_rgb(spec: ImageSpec) -> bool:
    """Whether the channels are the colours of an ordinary 8-bit picture."""
    return spec.dtype == "uint8" and tuple(name.lower() for name in spec.channels) in _RED_GREEN_BLUE


def channel_colours(names: Sequence[str]) -> NDArray[np.float64]:
    """(c, 3) one light colour per channel in 0..1; a transmitted-light channel beside others is dim grey."""
    number = len(names)
    table = _COLOURS.get(number) or [tuple(255 * v for v in colorsys.hsv_to_rgb(0.62 - i / number, 0.85, 1.0)) for i in range(number)]
    colours = np.array(table, np.float64) / 255
    if number > 1:
        colours[[bool(_TRANSMITTED.search(name)) for name in names]] = 0.45
    return colours


def scale_bar_um(spec: ImageSpec) -> float:
    """The longest round length that is at most 40 % of the image's width; 0 where lengths are not known."""
    if not spec.pixel_size_um or spec.resize != "refuse":
        return 0.0
    return max((b for b in BARS_UM if b <= 0.4 * spec.width * spec.pixel_size_um), default=0.0)


def tile_size(height: int, width: int) -> tuple[int, int]:
    """(y, x) of an image whose longest side is at most TILE_PX."""
    scale = min(1.0, TILE_PX / max(height, width))
    return max(1, round(height * scale)), max(1, round(width * scale))


def shrink(pixels: NDArray[np.float32]) -> NDArray[np.float32]:
    """(c, y, x) brought to the size of a tile."""
    height, width = tile_size(*pixels.shape[1:])
    return pixels if (height, width) == pixels.shape[1:] else resize_linear(pixels, height, width)


def data_uri(rgb: Rgb) -> str:
    """A JPEG as a data URI; arguments as `jpeg`."""
    return "data:image/jpeg;base64," + base64.b64encode(jpeg(rgb)).decode("ascii")


def jpeg(rgb: Rgb, quality: int = JPEG_QUALITY) -> bytes:
    """A JPEG (4:4:4, no metadata) of (y, x, 3); grey pictures as grey."""
    from PIL import Image as Pillow

    grey = bool((rgb[..., 0] == rgb[..., 1]).all() and (rgb[..., 0] == rgb[..., 2]).all())
    stream = io.BytesIO()
    Pillow.fromarray(rgb[..., 0] if grey else rgb).save(stream, "JPEG", quality=quality, subsampling=0, optimize=True)
    return stream.getvalue()


def natural_key(label: str) -> list[tuple[int, str]]:
    """Sorts "9 cells" before "10 cells"."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", label)]


def _choose(benchmark: Benchmark, task: Task, tiles: int) -> list[tuple[str, list[int]]]:
    """Rows of the index to show per class: from as many units as there are tiles, test images first."""
    labels = benchmark.labels(task)
    classes = sorted({str(v) for v in labels.dropna()}, key=natural_key)[:CLASSES]
    each = min(TILES_PER_CLASS, max(1, tiles // len(classes)))
    found = []
    for label in classes:
        mine = benchmark.index[labels.astype("string") == label]
        rank = mine.groupby("unit", sort=True).cumcount()
        order = mine.assign(_rank=rank, _training=mine["fold"] < 0).sort_values(["_training", "_rank", "unit", "image_id"], kind="stable")
        found.append((label, order.index[:each].tolist()))
    return found


def _pixels(benchmark: Benchmark, row: int) -> NDArray[np.float32] | None:
    """One image at the size of a tile, None where the file cannot be read: extraction has named it and counted it."""
    try:
        return shrink(benchmark.pixels(row))
    except ImageError:
        return None


def _sheet(benchmark: Benchmark, task: Task, chosen: list[tuple[str, list[int]]], uris: dict[int, str]) -> Sheet:
    labels = benchmark.labels(task).dropna().astype("string")
    counts = labels.value_counts()
    ids = benchmark.index["image_id"]
    classes = tuple(
        ClassTiles(label, int(counts[label]), tuple(str(ids.iloc[r]) for r in rows if r in uris), tuple(uris[r] for r in rows if r in uris))
        for label, rows in chosen
    )
    return Sheet(task.name, classes, len(counts) - len(classes))


def _hex(colour: NDArray[np.float64]) -> str:
    return "#" + "".join(f"{round(255 * v):02x}" for v in colour.tolist())


def _eight_bit(light: NDArray[np.float64]) -> Rgb:
    return np.rint(255 * light).astype(np.uint8)

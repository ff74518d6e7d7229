"""How an image becomes what a model takes: whole, or a field cut into tiles by a stated policy; resampled only when asked."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from PIL import Image as Pillow

from registry.arrays import PixelBatch
from registry.errors import ImageError, InputError
from registry.images import MAX_PIXELS, Image, ImageSpec, conform, other_dtype
from serving.schema import Tile

Policy = Literal["refuse", "grid", "centres"]
POLICIES: tuple[Policy, ...] = ("refuse", "grid", "centres")
#: tiles of one image; bounds the memory that one small request can ask for
MAX_TILES = 1024
#: rows and columns that intensities are looked at
LOOKED_AT = 32
#: a channel whose bright pixels lie outside these shares of the model's range is said
DARK, BRIGHT = 0.02, 2.0
#: a larger ratio of pixel sizes is refused
MOST_RESAMPLED = 4
#: as in `registry.images.conform`: nearer pixel sizes are the same
SAME_SIZE = 0.05


@dataclass(frozen=True)
class Framing:
    """What is done with an image that is not of the model's size.

    Attributes:
        policy: "refuse": nothing, as offline; "grid": as few tiles of the model's size as cover the field, evenly spread (they overlap where the
            field is no multiple of them); "centres": tiles around given points.
        centres: (y, x) in pixels of the image as it is sent.
        resample: whether an image of another pixel size is resampled to the model's; otherwise it is refused.
        max_tiles: most tiles of one image.
    """

    policy: Policy = "refuse"
    centres: tuple[tuple[float, float], ...] = ()
    resample: bool = False
    max_tiles: int = MAX_TILES

    def __post_init__(self) -> None:
        if self.policy not in POLICIES:
            raise InputError(f"Expected `field` to be one of {', '.join(POLICIES)}, got `{self.policy}`.")
        if bool(self.centres) != (self.policy == "centres"):
            raise InputError("Expected `centres=y,x;y,x` together with `field=centres`, and only then.")

    @classmethod
    def parse(cls, policy: str = "refuse", centres: str = "", resample: str = "false", max_tiles: int = MAX_TILES) -> Framing:
        """From the words of a request.

        Raises:
            InputError: a word that is not known, or centres that are not pairs of numbers.
        """
        if resample not in ("false", "true"):
            raise InputError(f"Expected `resample` to be `true` or `false`, got `{resample[:40]}`.")
        found = next((known for known in POLICIES if known == policy), None)
        if found is None:
            raise InputError(f"Expected `field` to be one of {', '.join(POLICIES)}, got `{policy[:40]}`.")
        return cls(found, _centres(centres, max_tiles), resample == "true", max_tiles)


@dataclass(frozen=True)
class Frames:
    """One image as a model takes it.

    Attributes:
        pixels: (t, c, y, x) float32 raw intensities.
        tiles: one per frame, where it was taken from; None for a whole image as it was sent.
        warnings: what is strange about the image and no reason to refuse it, in sentences.
    """

    pixels: PixelBatch
    tiles: tuple[Tile | None, ...]
    warnings: tuple[str, ...] = ()


WHOLE = Framing()


def frames_of(image: Image, spec: ImageSpec, framing: Framing = WHOLE, max_pixels: int = MAX_PIXELS) -> Frames:
    """Bring an image to what `spec` expects.

    Args:
        image: as decoded.
        spec: of the model.
        framing: what is done where it is not of the model's size.
        max_pixels: most pixels after resampling, over all channels.

    Raises:
        ImageError: not what the model takes, smaller than a tile, a centre too near the rim, too many tiles or pixels; says what was expected
            and what came.
    """
    fitting, spec, resampled_from = _resampled(image, spec, framing.resample, max_pixels)
    frames = _cut(image, fitting, spec, framing, resampled_from)
    return replace(frames, warnings=tuple(intensity_warnings(frames.pixels, spec)))


def intensity_warnings(pixels: PixelBatch, spec: ImageSpec) -> list[str]:
    """Channels whose intensities are of another scale than the model's: what was saved in another range than the benchmark's images.

    Looked at is the 99th percentile of up to `LOOKED_AT` rows and columns, on the scale on which the model's range is 0 to 1. A channel may be dark
    because nothing is there, so this is said and not refused.

    Args:
        pixels: (t, c, y, x) raw intensities.
        spec: of the model.
    """
    step_y, step_x = (max(1, side // LOOKED_AT) for side in pixels.shape[2:])
    values = np.moveaxis(pixels[:, :, ::step_y, ::step_x], 1, 0).reshape(pixels.shape[1], -1)
    rank = int(0.99 * (values.shape[1] - 1))
    bright = np.partition(values, rank, axis=1)[:, rank]
    found = []
    for name, value, (low, high) in zip(spec.channels, bright.tolist(), spec.intensity, strict=True):
        share = (value - low) / (high - low)
        if not DARK <= share <= BRIGHT:
            found.append(
                f"`{name}`: 99 % of the intensities lie below {value:g}, the model was made for {low:g} to {high:g}."
                f" {'Nothing may be there, or the' if share < DARK else 'The'} image may have been saved on another scale."
            )
    return found


def _cut(image: Image, fitting: Image, spec: ImageSpec, framing: Framing, resampled_from: float | None) -> Frames:
    if framing.policy == "refuse":
        pixels = _conformed(fitting, spec)[None]
        height, width = fitting.pixels.shape[1:]
        return Frames(
            pixels, (Tile(policy="whole", y=0, x=0, height=height, width=width, resampled_from_um=resampled_from) if resampled_from else None,)
        )
    corners = _corners(fitting, spec, framing, fitting.pixels.shape[1] / image.pixels.shape[1], fitting.pixels.shape[2] / image.pixels.shape[2])
    pixels = np.empty((len(corners), *spec.shape), np.float32)
    for target, (y, x) in zip(pixels, corners, strict=True):
        conform(replace(fitting, pixels=fitting.pixels[:, y : y + spec.height, x : x + spec.width]), spec, target)
    tiles = tuple(Tile(policy=framing.policy, y=y, x=x, height=spec.height, width=spec.width, resampled_from_um=resampled_from) for y, x in corners)
    return Frames(pixels, tiles)


def _conformed(image: Image, spec: ImageSpec) -> PixelBatch:
    """As `conform`, with what a request can ask for where the image is of another size."""
    try:
        return conform(image, spec)
    except ImageError as error:
        if image.pixels.dtype.name != spec.dtype or image.pixels.shape[0] != len(spec.channels):
            raise
        height, width = image.pixels.shape[1:]
        if image.pixel_size_um and spec.pixel_size_um and not math.isclose(image.pixel_size_um, spec.pixel_size_um, rel_tol=SAME_SIZE):
            raise ImageError(f"{error} `resample=true` (`--resample`) does that.") from error
        if height >= spec.height and width >= spec.width and (height, width) != (spec.height, spec.width) and spec.resize == "refuse":
            raise ImageError(f"{error} `field=grid` (`--field grid`) cuts it into tiles of that size.") from error
        raise


def _resampled(image: Image, spec: ImageSpec, asked: bool, max_pixels: int) -> tuple[Image, ImageSpec, float | None]:
    """The image at the model's pixel size, what is then expected of it, and the size it had; unchanged unless asked for and needed."""
    came, wanted = image.pixel_size_um, spec.pixel_size_um
    if not asked or not came or not wanted or math.isclose(came, wanted, rel_tol=SAME_SIZE):
        return image, spec, None
    if image.pixels.dtype.name != spec.dtype:
        raise other_dtype(image, spec)
    # what a file says may be infinite, or become so: it is not rounded before it is compared
    near = 1 / MOST_RESAMPLED <= came / wanted <= MOST_RESAMPLED
    height, width = (round(side * came / wanted) for side in image.pixels.shape[1:]) if near else (0, 0)
    if min(height, width) < 1:
        raise ImageError(
            f"`{image.source}`: expected a pixel size that differs from the model's {wanted:g} um by at most {MOST_RESAMPLED} times,"
            f" got {came:g} um. What was not seen cannot be resampled: take an image nearer to that size."
        )
    if len(image.pixels) * height * width > max_pixels:
        raise ImageError(
            f"`{image.source}`: resampled it would have {len(image.pixels) * height * width} pixels over all channels, expected at most {max_pixels}."
            " Send parts of it."
        )
    # as `registry.images.resize_linear`, without its dense matrices: a field has many pixels
    planes = [Pillow.fromarray(plane.astype(np.float32)).resize((width, height), Pillow.Resampling.BILINEAR) for plane in image.pixels]
    pixels = np.stack([np.asarray(plane, np.float32) for plane in planes])
    return Image(pixels, image.channel_names, wanted, image.source), replace(spec, dtype="float32"), came


def _corners(image: Image, spec: ImageSpec, framing: Framing, scale_y: float, scale_x: float) -> list[tuple[int, int]]:
    """Upper left corners of the tiles, row by row or in the order of the centres."""
    height, width = image.pixels.shape[1:]
    if height < spec.height or width < spec.width:
        raise ImageError(
            f"`{image.source}`: expected a field of at least {spec.height} x {spec.width} pixels (y, x), which is what the model takes,"
            f" got {height} x {width}. Take a larger field."
        )
    if framing.policy == "centres":
        return [_around(y * scale_y, x * scale_x, image, spec) for y, x in framing.centres]
    rows, columns = _starts(height, spec.height), _starts(width, spec.width)
    if len(rows) * len(columns) > framing.max_tiles:
        raise ImageError(
            f"`{image.source}`: a field of {height} x {width} pixels is {len(rows) * len(columns)} tiles of {spec.height} x {spec.width},"
            f" expected at most {framing.max_tiles}. Send parts of it."
        )
    return [(y, x) for y in rows for x in columns]


def _starts(side: int, tile: int) -> list[int]:
    count = -(-side // tile)
    return [round(i * (side - tile) / (count - 1)) for i in range(count)] if count > 1 else [0]


def _around(y: float, x: float, image: Image, spec: ImageSpec) -> tuple[int, int]:
    height, width = image.pixels.shape[1:]
    # a finite centre may be infinite in the pixels of the resampled image, which no number is rounded to
    inside = 0 <= y <= height and 0 <= x <= width
    top, left = (round(y - spec.height / 2), round(x - spec.width / 2)) if inside else (-1, -1)
    if not (0 <= top <= height - spec.height and 0 <= left <= width - spec.width):
        raise ImageError(
            f"`{image.source}`: a tile of {spec.height} x {spec.width} pixels around (y, x) = ({y:g}, {x:g}) does not lie in the field of"
            f" {height} x {width}. Choose centres farther from the rim."
        )
    return top, left


def _centres(text: str, max_tiles: int) -> tuple[tuple[float, float], ...]:
    if not text:
        return ()
    pairs = text.split(";")
    if len(pairs) > max_tiles:
        raise InputError(f"Expected at most {max_tiles} centres, got {len(pairs)}.")
    try:
        centres = tuple((float(y), float(x)) for y, x in (pair.split(",") for pair in pairs))
    except ValueError as error:
        raise InputError(f"Expected `centres` as `y,x;y,x` in pixels, got `{text[:60]}`.") from error
    if not all(math.isfinite(value) for pair in centres for value in pair):
        raise InputError("Expected `centres` as finite numbers.")
    return centres

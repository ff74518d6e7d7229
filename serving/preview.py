"""Pictures of an image's channels for people: grey, small, stretched to what is in it; a page gives them their colours."""

from __future__ import annotations

import base64
import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow

from registry.images import Image, ImageSpec, ordered_channels
from serving.schema import ChannelPicture, Channels, ModelRef

#: longest side of a picture
SIDE_PX = 512
#: shares of the pixels that may be all black and all white
BLACK, WHITE = 0.005, 0.998


def channels_of(image: Image, spec: ImageSpec, model: ModelRef) -> Channels:
    """Each channel as a picture, in the model's order.

    Args:
        image: as decoded; any size.
        spec: of the model: names and order of the channels.
        model: which version answers.

    Raises:
        ImageError: other channels than the model takes.
    """
    pixels = ordered_channels(image, spec)
    height, width = pixels.shape[1:]
    pictures = []
    for name, plane in zip(spec.channels, pixels, strict=True):
        low, high = _range(plane, image.pixels.dtype == np.uint8)
        pictures.append(ChannelPicture(name=name, low=low, high=high, png=_png(plane, low, high)))
    return Channels(model=model, height=height, width=width, channels=pictures)


def _range(plane: NDArray[np.generic], eight_bits: bool) -> tuple[float, float]:
    """Intensities that are shown black and white; 8-bit files are shown as they are."""
    if eight_bits:
        return 0.0, 255.0
    # every sixteenth row and column of a large field says as much
    step = max(1, max(plane.shape) // 1024)
    low, high = (float(value) for value in np.quantile(plane[::step, ::step].astype(np.float64), (BLACK, WHITE)))
    return low, high if high > low else low + 1.0


def _png(plane: NDArray[np.generic], low: float, high: float) -> str:
    """A data URI."""
    picture = Pillow.fromarray(plane.astype(np.float32))
    picture.thumbnail((SIDE_PX, SIDE_PX), Pillow.Resampling.BILINEAR)
    shown = np.clip((np.asarray(picture, np.float64) - low) * (255 / (high - low)), 0, 255).round().astype(np.uint8)
    stream = io.BytesIO()
    Pillow.fromarray(shown).save(stream, "PNG")
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode()

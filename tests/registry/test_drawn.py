"""Drawn images: the same each time, what files of the kind can hold, and not flat."""

from __future__ import annotations

import numpy as np
import pytest

from registry.drawn import drawn_images
from registry.images import Image, ImageSpec, conform

SPECS = {
    "colours": ImageSpec(("red", "green", "blue"), "uint8", 48, 64, ((0.0, 255.0),) * 3),
    "fluorescence": ImageSpec(("dna", "er"), "uint16", 40, 30, ((200.0, 3000.0), (90.0, 60_000.0))),
    "shares": ImageSpec(("phase",), "float32", 33, 21, ((-0.5, 1.5),)),
    "a pixel": ImageSpec(("phase",), "uint16", 1, 1, ((0.0, 10.0),)),
}


@pytest.mark.parametrize("name", SPECS)
def test_are_images_as_a_model_takes_them(name: str) -> None:
    spec = SPECS[name]
    drawn = drawn_images(spec, 3)
    assert (drawn.shape, drawn.dtype) == ((3, *spec.shape), np.float32)
    np.testing.assert_array_equal(drawn, drawn_images(spec, 3))
    np.testing.assert_array_equal(drawn[:1], drawn_images(spec, 1))
    low, high = (np.array(end)[None, :, None, None] for end in zip(*spec.intensity, strict=True))
    assert (drawn >= low).all()
    assert (drawn <= high).all()
    for pixels in drawn:
        np.testing.assert_array_equal(conform(Image(pixels.astype(spec.dtype), spec.channels), spec), pixels)


@pytest.mark.parametrize("name", ["colours", "fluorescence", "shares"])
def test_show_something_else_in_each_image_and_channel(name: str) -> None:
    spec = SPECS[name]
    drawn = drawn_images(spec, 3)
    ranges = np.array([high - low for low, high in spec.intensity])
    assert (drawn.std(axis=(2, 3)) > 0.05 * ranges).all()
    planes = drawn.reshape(-1, spec.height * spec.width)
    assert len(np.unique(planes, axis=0)) == len(planes)
    assert (drawn_images(spec, 1, seed=1) != drawn[:1]).any()


def test_are_smooth_but_for_a_little_noise() -> None:
    spec = ImageSpec(("dna",), "uint16", 128, 128, ((0.0, 60_000.0),))
    (plane,) = drawn_images(spec, 1)[0].astype(np.float64)
    assert np.abs(np.diff(plane)).mean() < 0.2 * plane.std()

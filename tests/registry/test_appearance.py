"""Plain numbers of an image: what they are, and that each kind of change moves those that are named after it."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from registry.appearance import FLOOR, LAGS_PX, QUANTILES, appearance, appearance_names
from registry.images import ImageSpec


def spec(channels: int, height: int = 40, width: int = 30) -> ImageSpec:
    return ImageSpec(tuple("abcdefgh"[:channels]), "uint16", height, width, ((100.0, 4100.0),) * channels)


def image(channels: int, height: int = 40, width: int = 30, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return gaussian_filter(rng.uniform(100, 4100, (channels, height, width)), (0, 1, 1)).astype(np.float32)


@pytest.mark.parametrize("channels", [1, 2, 5])
def test_is_that_of_a_plain_computation(channels: int) -> None:
    pixels = image(channels)
    found = appearance(pixels, spec(channels))
    scaled = (pixels.astype(np.float64) - 100) / 4000
    expected = []
    for plane in scaled:
        ordered = np.sort(plane.ravel())
        expected += [ordered[int(q * (plane.size - 1))] for q in QUANTILES]
        expected += [plane.mean(), np.log(FLOOR + plane.var())]
        for lag in LAGS_PX:
            down = [(plane[y + lag, x] - plane[y, x]) ** 2 for y in range(40 - lag) for x in range(30)]
            across = [(plane[y, x + lag] - plane[y, x]) ** 2 for y in range(40) for x in range(30 - lag)]
            expected.append(np.log(FLOOR + np.mean(down) + np.mean(across)))
    if channels > 1:
        for c in range(channels):
            others = np.delete(scaled, c, axis=0).sum(axis=0)
            expected.append(np.corrcoef(scaled[c].ravel(), others.ravel())[0, 1])
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)
    assert len(found) == len(appearance_names(spec(channels).channels))


def test_changes_move_what_is_named_after_them() -> None:
    pixels, about, names = image(3), spec(3), np.array(appearance_names(spec(3).channels))
    before = appearance(pixels, about)

    def moved(after: np.ndarray) -> set[str]:
        return set(names[np.abs(appearance(after.astype(np.float32), about) - before) > 0.05])

    assert moved(pixels + np.array([400, 0, 0])[:, None, None]) == {"brightness of `a`"}
    blurred = moved(gaussian_filter(pixels, (0, 1, 1)))
    assert {f"fine detail of `{c}`" for c in "abc"} <= blurred
    turned = pixels.copy()
    turned[1] = turned[1, ::-1, ::-1]
    assert {name for name in moved(turned) if "likeness" not in name} == set()
    assert moved(pixels) == set()


def test_large_images_are_sampled_at_their_own_resolution() -> None:
    large, about = image(2, 900, 700), spec(2, 900, 700)
    found = appearance(large, about)
    scaled = (large.astype(np.float64) - 100) / 4000
    everything = np.log([FLOOR + (np.diff(p, axis=0) ** 2).mean() + (np.diff(p, axis=1) ** 2).mean() for p in scaled])
    finest = [appearance_names(about.channels).index(f"fine detail of `{c}`") for c in "ab"]
    np.testing.assert_allclose(found[finest], everything, atol=0.02)


@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 1, 7), (3, 2, 2), (2, 4, 4)])
@pytest.mark.parametrize("value", [0.0, 100.0, 65_535.0, 3e38])
def test_is_finite_for_blank_and_tiny_images(shape: tuple[int, int, int], value: float) -> None:
    assert np.isfinite(appearance(np.full(shape, value, np.float32), spec(*shape))).all()

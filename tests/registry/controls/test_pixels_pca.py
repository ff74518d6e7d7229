"""Principal components against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.decomposition import PCA

from registry.controls.pixels_pca import COMPONENTS, PixelsPca, shrunken_side
from registry.images import resize_linear
from tests.registry.controls.samples import batch_of, facts_for, smooth_noise


def shrunk(pixels: np.ndarray, side: int) -> np.ndarray:
    return resize_linear(pixels / np.float32(255), side, side).reshape(len(pixels), -1).astype(np.float64)


def test_they_are_those_of_scikit_learn() -> None:
    pixels = smooth_noise(150, 3, 40, 40)
    control = PixelsPca(facts_for(("a", "b", "c"), (40, 40)))
    control.fit(batch_of(pixels[i : i + 32]) for i in range(0, 128, 32))
    train = shrunk(pixels[:128], 16)
    found, expected = control.embed(batch_of(pixels)), PCA(COMPONENTS, svd_solver="full").fit(train).transform(shrunk(pixels, 16))
    signs = np.sign((found * expected).sum(axis=0))
    np.testing.assert_allclose(found, expected * signs, atol=2e-3)


def test_they_do_not_depend_on_batches() -> None:
    pixels = smooth_noise(60, 1, 32, 32)
    one, many = (PixelsPca(facts_for(("a",), (32, 32))) for _ in range(2))
    one.fit([batch_of(pixels)])
    many.fit(batch_of(pixels[i : i + 7]) for i in range(0, 60, 7))
    np.testing.assert_allclose(many.embed(batch_of(pixels)), one.embed(batch_of(pixels)), atol=1e-4)


def test_beyond_the_rank_there_are_zeros() -> None:
    pixels = smooth_noise(10, 1, 32, 32)
    control = PixelsPca(facts_for(("a",), (32, 32)))
    control.fit([batch_of(pixels)])
    found = control.embed(batch_of(smooth_noise(5, 1, 32, 32, seed=1)))
    assert found.shape == (5, COMPONENTS)
    assert (found[:, 9:] == 0).all()
    assert (found[:, :9].std(axis=0) > 0).all()


@pytest.mark.parametrize(("channels", "side"), [(1, 32), (2, 32), (3, 16), (5, 16), (8, 16), (9, 8), (40, 4), (5000, 1)])
def test_the_side_shrinks_with_the_number_of_channels(channels: int, side: int) -> None:
    assert shrunken_side(channels) == side


def test_small_images_are_not_enlarged() -> None:
    control = PixelsPca(facts_for(("a",), (5, 7)))
    pixels = smooth_noise(40, 1, 5, 7)
    control.fit([batch_of(pixels)])
    expected = PCA(35).fit_transform(pixels.reshape(40, -1) / 255)
    np.testing.assert_allclose(np.abs(control.embed(batch_of(pixels))), np.abs(expected), atol=1e-3)

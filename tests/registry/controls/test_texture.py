"""Texture against scikit-image and against loops."""

from __future__ import annotations

import numpy as np
import pytest
from skimage.feature import graycomatrix, graycoprops

from registry.controls.texture import ANGLES, DISTANCES_PX, GREY_LEVELS, HARALICK, RADII_PX, Texture, grey_levels, haralick, local_patterns
from tests.registry.controls.samples import batch_of, facts_for, smooth_noise


def test_haralick_is_that_of_scikit_image() -> None:
    for image in smooth_noise(3, 1, 40, 52)[:, 0]:
        grey = grey_levels(image)
        counts = graycomatrix(grey, DISTANCES_PX, ANGLES, levels=GREY_LEVELS, symmetric=True, normed=True)
        # scikit-image counts entropy in nats, we in bits
        expected = np.stack([graycoprops(counts, name) / (np.log(2) if name == "entropy" else 1) for name in HARALICK])
        found = haralick(grey).reshape(len(HARALICK), 2, len(DISTANCES_PX))
        np.testing.assert_allclose(found[:, 0], expected.mean(axis=2), rtol=1e-9)
        np.testing.assert_allclose(found[:, 1], np.ptp(expected, axis=2), rtol=1e-9, atol=1e-12)


def test_entropy_is_in_bits() -> None:
    grey = np.zeros((16, 16), np.uint8)
    grey[:, ::2] = 1
    entropy = haralick(grey).reshape(len(HARALICK), 2, len(DISTANCES_PX))[HARALICK.index("entropy"), 0, 1]
    assert entropy == pytest.approx(1.0, abs=0.05)


@pytest.mark.parametrize("radius_px", RADII_PX)
def test_local_patterns_are_those_of_a_loop(radius_px: int) -> None:
    image = smooth_noise(1, 1, 14, 17)[0, 0]
    ring = [(0, 1), (-1, 1), (-1, 0), (-1, -1), (0, -1), (1, -1), (1, 0), (1, 1)]
    counts = np.zeros(10)
    for y in range(radius_px, 14 - radius_px):
        for x in range(radius_px, 17 - radius_px):
            bits = [int(image[y + radius_px * dy, x + radius_px * dx] >= image[y, x]) for dy, dx in ring]
            changes = sum(a != b for a, b in zip(bits, bits[1:] + bits[:1], strict=True))
            counts[sum(bits) if changes <= 2 else 9] += 1
    np.testing.assert_allclose(local_patterns(image, radius_px), counts / counts.sum())


def test_gain_and_background_do_not_matter() -> None:
    pixels = smooth_noise(3, 1, 32, 32)
    control = Texture(facts_for(("a",), (32, 32), 65535.0))
    np.testing.assert_allclose(control.embed(batch_of(64 * pixels + 512)), control.embed(batch_of(pixels)), atol=2e-2)


def test_fine_and_coarse_are_told_apart() -> None:
    from scipy.ndimage import gaussian_filter

    noise = np.random.default_rng(0).normal(size=(20, 64, 64))
    fine, coarse = (np.stack([gaussian_filter(n, s) for n in noise])[:, None].astype(np.float32) for s in (1.0, 1.6))
    control = Texture(facts_for(("a",), (64, 64)))
    contrast = control.columns.index("a: contrast mean (2 px)")
    assert control.embed(batch_of(fine))[:, contrast].min() > control.embed(batch_of(coarse))[:, contrast].max()


def test_tiny_images_have_texture_too() -> None:
    control = Texture(facts_for(("a",), (3, 3)))
    assert np.isfinite(control.embed(batch_of(smooth_noise(2, 1, 3, 3)))).all()

"""The spectrum against numpy.fft, and what its values mean."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from registry.arrays import Floats
from registry.controls.spectrum import MAX_TILE_PX, TINY_POWER, Spectrum, ring_edges, ring_weights, sine_taper
from tests.registry.controls.samples import batch_of, facts_for, smooth_noise


def slow_spectrum(image: Floats, edges: list[float]) -> Floats:
    """Rings over the whole Fourier plane, one frequency at a time; one tile."""
    channels, height, width = image.shape
    taper = np.outer(np.sin(np.pi * (np.arange(height) + 0.5) / height), np.sin(np.pi * (np.arange(width) + 0.5) / width))
    taper /= np.sqrt((taper**2).mean())
    mean = (image * taper).sum(axis=(1, 2), keepdims=True) / taper.sum()
    transform = np.fft.fft2((image - mean) * taper)
    ring_of: dict[int, list[tuple[int, int]]] = {}
    for i, v in enumerate(np.fft.fftfreq(height)):
        for j, u in enumerate(np.fft.fftfreq(width)):
            radius = np.hypot(v, u) * min(height, width)
            if radius >= edges[0]:
                ring_of.setdefault(max(k for k, edge in enumerate(edges) if radius >= edge), []).append((i, j))
    rings = [tuple(np.array(ring_of[k]).T) for k in range(len(edges))]

    def over_rings(values: Floats) -> Floats:
        return np.array([values[ring].mean() for ring in rings]) / (height * width)

    power = np.stack([over_rings(np.abs(f) ** 2) for f in transform])
    cross = [over_rings((transform[a] * np.conj(transform[b])).real) / np.sqrt(power[a] * power[b]) for a, b in combinations(range(channels), 2)]
    return np.concatenate([np.log(np.maximum(power, TINY_POWER)), np.array(cross).reshape(-1, len(edges))])


@pytest.mark.parametrize("size_px", [(32, 32), (40, 27), (33, 64)])
def test_it_is_that_of_numpy(size_px: tuple[int, int]) -> None:
    pixels = smooth_noise(2, 3, *size_px)
    found = Spectrum(facts_for(("a", "b", "c"), size_px)).embed(batch_of(pixels))
    edges = ring_edges(*size_px)
    for vector, image in zip(found, pixels.astype(np.float64) / 255, strict=True):
        np.testing.assert_allclose(vector.reshape(6, len(edges)), slow_spectrum(image, edges), atol=1e-3)


def test_rings_cover_every_frequency_but_zero() -> None:
    for size in ((64, 64), (96, 96), (41, 50), (16, 12)):
        weights = ring_weights(*size)
        assert weights.shape[1] == len(ring_edges(*size))
        np.testing.assert_allclose(weights.sum(axis=0), 1)
        assert (weights.sum(axis=1) > 0).sum() == weights.shape[0] - 1


def test_white_noise_has_its_variance_in_every_ring() -> None:
    pixels = np.random.default_rng(0).normal(100, 12.75, (300, 1, 64, 64)).astype(np.float32)
    found = np.exp(Spectrum(facts_for(("a",), (64, 64))).embed(batch_of(pixels))).mean(axis=0)
    np.testing.assert_allclose(found, 0.05**2, rtol=0.12)


def test_coherence_has_the_sign_of_the_coupling() -> None:
    one = smooth_noise(3, 1, 48, 48, seed=1)
    other = smooth_noise(3, 1, 48, 48, seed=2)
    pixels = np.concatenate([one, 255 - one, one, other], axis=1)
    rings = len(ring_edges(48, 48))
    pairs = Spectrum(facts_for(("a", "b", "c", "d"), (48, 48))).embed(batch_of(pixels)).reshape(3, 10, rings)[:, 4:]
    for pair, coherence in ((0, -1.0), (1, 1.0), (3, -1.0)):
        np.testing.assert_allclose(pairs[:, pair], coherence, atol=1e-2)
    assert np.abs(pairs[:, 2, 4:].mean()) < 0.1


def test_coherence_forgets_the_gain_and_power_keeps_it() -> None:
    pixels = smooth_noise(2, 2, 32, 32) / 4
    control = Spectrum(facts_for(("a", "b"), (32, 32)))
    brighter = pixels.copy()
    brighter[:, 1] *= 3
    before, after = (control.embed(batch_of(p)).reshape(2, 3, -1) for p in (pixels, brighter))
    np.testing.assert_allclose(after[:, 2], before[:, 2], atol=1e-3)
    np.testing.assert_allclose(after[:, 1] - before[:, 1], np.log(9), atol=1e-2)


def test_large_images_are_averaged_over_tiles() -> None:
    side = MAX_TILE_PX
    pixels = smooth_noise(1, 1, 2 * side, side + 20)
    found = np.exp(Spectrum(facts_for(("a",), pixels.shape[2:])).embed(batch_of(pixels))[0])
    width = (side + 20) // 2
    tiles = [pixels[0, 0, y : y + side, x : x + width] / 255 for y in (0, side) for x in (0, width)]
    expected = np.mean([np.exp(slow_spectrum(tile[None].astype(np.float64), ring_edges(side, width))[0]) for tile in tiles], axis=0)
    np.testing.assert_allclose(found, expected, rtol=1e-3)


def test_the_taper_keeps_the_power() -> None:
    assert (sine_taper(30, 47) ** 2).mean() == pytest.approx(1)

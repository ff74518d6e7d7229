"""Moments, quantiles and histograms against numpy and scipy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from registry.controls.histogram import LEVELS, Histogram, ordered_keys, values_of_keys
from registry.controls.intensity import MOMENTS, QUANTILES, Intensity
from registry.export import export_onnx
from registry.images import ImageSpec
from registry.representation import Facts
from tests.registry.controls.samples import batch_of, facts_for, smooth_noise


@pytest.mark.parametrize("high", [255.0, 60000.0])
def test_intensity_is_that_of_numpy_and_scipy(high: float) -> None:
    pixels = smooth_noise(5, 2, 33, 41, high=high)
    facts = facts_for(("a", "b"), (33, 41), high)
    found = Intensity(facts).embed(batch_of(pixels)).reshape(5, 2, -1)
    unit = pixels.reshape(5, 2, -1).astype(np.float64) / high
    moments = [unit.mean(2), unit.std(2), stats.skew(unit, axis=2), stats.kurtosis(unit, axis=2)]
    expected = np.stack([*moments, *np.quantile(unit, QUANTILES, axis=2)], axis=2)
    assert found.shape[2] == len(MOMENTS) + len(QUANTILES)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_moments_survive_a_large_background() -> None:
    rng = np.random.default_rng(0)
    pixels = (50000 + rng.integers(0, 3, (1, 1, 256, 256))).astype(np.float32)
    found = Intensity(facts_for(("a",), (256, 256), 65535.0)).embed(batch_of(pixels))[0]
    assert found[1] * 65535 == pytest.approx(pixels.astype(np.float64).std(), rel=1e-3)
    assert found[3] == pytest.approx(stats.kurtosis(pixels.astype(np.float64).ravel()), abs=1e-2)


def test_edges_are_quantiles_of_the_pooled_training_pixels() -> None:
    pixels = smooth_noise(6, 2, 20, 30)
    control = Histogram(facts_for(("a", "b"), (20, 30)))
    control.fit([batch_of(pixels[:4]), batch_of(pixels[4:])])
    expected = np.quantile(pixels.transpose(1, 0, 2, 3).reshape(2, -1), LEVELS, axis=1, method="inverted_cdf").T
    np.testing.assert_array_equal(control.state()["edges"], expected)


def test_edges_do_not_depend_on_batches() -> None:
    pixels = smooth_noise(6, 1, 20, 30)
    one, many = (Histogram(facts_for(("a",), (20, 30))) for _ in range(2))
    one.fit([batch_of(pixels)])
    many.fit(batch_of(pixels[i : i + 1]) for i in (5, 2, 0, 1, 4, 3))
    np.testing.assert_array_equal(one.state()["edges"], many.state()["edges"])


def test_shares_of_pixels_in_bins() -> None:
    pixels = smooth_noise(6, 2, 20, 30)
    control = Histogram(facts_for(("a", "b"), (20, 30)))
    control.fit([batch_of(pixels)])
    found = control.embed(batch_of(pixels)).reshape(6, 2, -1)
    for channel, edges in enumerate(control.state()["edges"]):
        for image in range(6):
            below = np.array([(pixels[image, channel] <= edge).mean() for edge in edges])
            np.testing.assert_allclose(found[image, channel], np.diff([0, *below, 1]), atol=1e-6)
    np.testing.assert_allclose(found.sum(axis=2), 1, atol=1e-6)


def test_keys_order_floats_of_either_sign_and_keep_whole_numbers() -> None:
    whole = np.arange(-4096, 4097).astype(np.float32)
    np.testing.assert_array_equal(values_of_keys(ordered_keys(whole)), whole)
    values = np.sort(np.random.default_rng(0).normal(size=5000) * 10.0 ** np.random.default_rng(1).integers(-20, 20, 5000)).astype(np.float32)
    keys = ordered_keys(values)
    assert (np.diff(keys) >= 0).all()
    np.testing.assert_allclose(values_of_keys(keys), values, rtol=1 / 2048)


def test_moments_of_rare_bright_pixels_survive_a_runtime_that_adds_up_in_float32(tmp_path: Path) -> None:
    """A dark image with a few bright pixels: its kurtosis is in the hundreds, and most of the sum is of small numbers."""
    rng = np.random.default_rng(3)
    pixels = rng.poisson(3, (6, 3, 256, 320)).astype(np.float32)
    pixels[:, :, :5, :5] = 255
    facts = Facts("dark", "tissue", ImageSpec(("red", "green", "blue"), "uint8", 256, 320, ((0.0, 255.0),) * 3))
    report = export_onnx(Intensity(facts).network(), pixels, tmp_path / "intensity.onnx")
    assert report.relative < 1e-5

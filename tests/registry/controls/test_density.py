"""Counts and areas of drawn discs and of tables."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from registry.arrays import Floats
from registry.controls.density import STAINS, Density, count_nuclei, nuclear_channel, nuclear_image
from tests.registry.controls.samples import batch_of, facts_for, nuclei_table

CENTRES = [(12, 12), (12, 40), (30, 25), (50, 14), (48, 48)]


def discs(centres: list[tuple[int, int]], radius_px: float, size_px: int = 64) -> Floats:
    y, x = np.mgrid[:size_px, :size_px]
    return np.max([1 / (1 + np.exp((np.hypot(y - v, x - u) - radius_px) / 0.3)) for v, u in centres], axis=0)


@pytest.mark.parametrize("number", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("noise", [0.0, 0.1])
def test_discs_are_counted(number: int, noise: float) -> None:
    image = discs(CENTRES[:number], 5) + np.random.default_rng(0).normal(0, noise, (64, 64))
    count, components, share = count_nuclei(image)[:3]
    assert count == components == number
    assert share == pytest.approx(number * np.pi * 25 / 64**2, rel=0.16)


def test_touching_nuclei_are_told_apart() -> None:
    count, components = count_nuclei(discs([(20, 20), (20, 29), (45, 40)], 5))[:2]
    assert (count, components) == (3, 2)


def test_debris_does_not_lower_the_scale() -> None:
    rng = np.random.default_rng(1)
    image = discs([(16, 16), (16, 46), (46, 30)], 9) + rng.normal(0, 0.15, (64, 64))
    specks = discs([(60, 4), (4, 60), (60, 60), (4, 32)], 2)
    assert count_nuclei(np.maximum(image, specks))[0] == 7


def test_gain_and_background_do_not_matter() -> None:
    image = discs(CENTRES, 5) + np.random.default_rng(0).normal(0, 0.05, (64, 64))
    np.testing.assert_allclose(count_nuclei(300 * image + 1000), count_nuclei(image), rtol=1e-6)


def test_noise_holds_no_nuclei() -> None:
    rng = np.random.default_rng(0)
    found = np.stack([count_nuclei(rng.normal(100, 5, (64, 64))) for _ in range(40)])
    assert (found[:, 5] == 1).mean() > 0.9
    assert count_nuclei(np.zeros((64, 64))).tolist() == [0, 0, 0, 0, 0, 1]


@pytest.mark.parametrize(
    ("channels", "nuclear"),
    [
        (("DNA", "ER", "RNA", "AGP", "Mito"), 0),
        (("ER", "Hoechst 33342"), 1),
        (("H3", "CD99", "Proinsulin", "CD8a", "E-Cad"), 0),
        (("brightfield", "PI/DNA", "side scatter"), 1),
        (("GFP", "RFP"), 0),
        (("pixel", "PI"), 1),
    ],
)
def test_the_nuclear_channel_is_found_by_its_name(channels: tuple[str, ...], nuclear: int) -> None:
    assert nuclear_channel(channels) == nuclear


def test_haematoxylin_is_separated_from_eosin() -> None:
    stains = np.array(STAINS) / np.linalg.norm(STAINS, axis=1, keepdims=True)
    haematoxylin, eosin = discs(CENTRES, 5), discs([(32, 60), (60, 32)], 8)
    light = 255 * 10 ** -(0.8 * haematoxylin * stains[0][:, None, None] + 0.5 * eosin * stains[1][:, None, None])
    found = nuclear_image(light.astype(np.float32), facts_for(("red", "green", "blue"), (64, 64)).image)
    np.testing.assert_allclose(found, 0.8 * haematoxylin, atol=1e-4)
    assert count_nuclei(found)[0] == len(CENTRES)


def test_rgb_with_a_dark_background_is_fluorescence() -> None:
    pixels = np.zeros((3, 64, 64), np.float32)
    pixels[1], pixels[2] = 40, 200 * discs(CENTRES[:3], 5)
    found = Density(facts_for(("red", "green", "blue"), (64, 64))).embed(batch_of(pixels[None]))
    assert found[0, 0] == 3


def test_a_table_is_believed() -> None:
    table = nuclei_table(np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])).assign(area_um2=[10.0, 20.0, 60.0])
    unmeasured = table.assign(area_um2=pd.array([None, None, None], dtype="Float64"))
    batch = batch_of(np.zeros((2, 1, 32, 32), np.float32), [table, unmeasured])
    found = Density(facts_for(("a",), (32, 32), nuclei=True)).embed(batch)
    np.testing.assert_allclose(found[0], [3, 90, 30, np.std([10, 20, 60]), 0], rtol=1e-6)
    np.testing.assert_allclose(found[1], [3, 0, 0, 0, 1])

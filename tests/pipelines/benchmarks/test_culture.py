"""The simulated screen: what is planted is there, what is matched is matched."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations, pairwise
from pathlib import Path

import numpy as np
import pytest

from pipelines.benchmarks.culture import CHANNELS, TREATMENTS, Site, draw_plate
from pipelines.benchmarks.culture_design import CONTROL, CultureParameters, Treatment
from pipelines.benchmarks.culture_scene import PlateEffects, Scene, draw_scene, expected_photons, plate_effects
from pipelines.benchmarks.drawing import radial_frequency, stream
from pipelines.benchmarks.index import Benchmark
from pipelines.benchmarks.simulate import simulate
from pipelines.benchmarks.summaries import handedness, nuclear_peaks
from registry.images import read_image

PARAMETERS = CultureParameters()
CLEAN = PlateEffects(np.ones(5), np.full(5, 20.0), 0.7, 0.25)
CLOCKWISE, COUNTERCLOCKWISE = Treatment(0, 0, 0, 0), Treatment(0, 0, 1, 0)


@pytest.fixture(scope="module")
def plates() -> list[Site]:
    """Sixteen plates, one site per well."""
    parameters = replace(PARAMETERS, sites_per_well=1)
    return [site for plate in range(16) for site in draw_plate(parameters, 5, plate)]


@pytest.fixture(scope="module")
def benchmark_folder(tmp_path_factory: pytest.TempPathFactory) -> Benchmark:
    parameters = CultureParameters(train_plates=2, test_plates=1, sites_per_well=2)
    return simulate("culture", tmp_path_factory.mktemp("culture") / "culture", parameters, 3)


def scenes(treatment: Treatment, n: int) -> list[Scene]:
    return [draw_scene(PARAMETERS, treatment, stream(11, treatment.name, i)) for i in range(n)]


def test_every_plate_holds_the_full_factorial_once(plates: list[Site]) -> None:
    for plate in range(16):
        assert sorted(s.treatment.name for s in plates if s.plate == plate) == sorted(t.name for t in TREATMENTS)
    assert len({t.name for t in TREATMENTS}) == 16
    assert [t.name for t in TREATMENTS if t.is_control] == [CONTROL]


def test_no_factor_depends_on_position(plates: list[Site]) -> None:
    right = np.array([s.column >= 2 for s in plates])
    top = np.array([s.row < 2 for s in plates])
    for factor in ("count", "texture", "chirality", "rna"):
        level = np.array([getattr(s.treatment, factor) for s in plates]) * 2 - 1
        for half in (right, top):
            # without replacement on a plate: variance of a plate's sum of 8 of 16 balanced signs is 64 / 15
            z = level[half].sum() / np.sqrt(16 * 64 / 15)
            assert abs(z) < 4, factor


def test_counts_are_exact_and_cells_keep_their_distance() -> None:
    for treatment in TREATMENTS:
        scene = draw_scene(PARAMETERS, treatment, stream(1, treatment.name))
        assert len(scene.y) == PARAMETERS.cells[treatment.count]
        closest = min(np.hypot(scene.y[i] - scene.y[j], scene.x[i] - scene.x[j]) for i, j in combinations(range(len(scene.y)), 2))
        assert closest >= PARAMETERS.min_distance_px


def test_cells_can_be_counted_in_the_images(plates: list[Site]) -> None:
    found = [len(nuclear_peaks(s.pixels[0].astype(float))) == PARAMETERS.cells[s.treatment.count] for s in plates]
    assert np.mean(found) > 0.98


def test_a_mirrored_scene_of_one_chirality_is_a_scene_of_the_other_with_the_mirrored_image() -> None:
    for treatment in (CLOCKWISE, COUNTERCLOCKWISE):
        scene = draw_scene(PARAMETERS, treatment, stream(2, "mirror"))
        mirrored = scene.mirrored()
        assert mirrored.counterclockwise != scene.counterclockwise
        image = expected_photons(scene, PARAMETERS, CLEAN)
        np.testing.assert_allclose(expected_photons(mirrored, PARAMETERS, CLEAN), image[:, :, ::-1], rtol=1e-9)


def test_the_mitochondria_lie_a_quarter_turn_from_the_golgi_in_the_direction_the_label_says() -> None:
    cell = Scene(np.array([32.0]), np.array([32.0]), np.array([0.0]), False, np.ones((1, 5)), np.random.default_rng(0).normal(size=(64, 64)), 1.0)
    for counterclockwise, row in ((False, 38), (True, 26)):
        image = expected_photons(replace(cell, counterclockwise=counterclockwise), PARAMETERS, replace(CLEAN, vignette=0.0))
        # Golgi to the right; y points down, so clockwise as seen is below
        assert np.unravel_index(image[3].argmax(), (64, 64)) == (32, 38)
        assert np.unravel_index(image[4].argmax(), (64, 64)) == (row, 32)


def test_auto_and_cross_spectra_of_both_chiralities_agree_and_handedness_does_not() -> None:
    n, ring = 300, np.minimum((radial_frequency(64) * 32).astype(int), 15)
    numbers: list[list[np.ndarray]] = [[], []]
    turns: list[list[float]] = [[], []]
    for label, treatment in enumerate((CLOCKWISE, COUNTERCLOCKWISE)):
        for scene in scenes(treatment, n):
            image = expected_photons(scene, PARAMETERS, CLEAN)
            transform = np.fft.rfft2(image - image.mean(axis=(1, 2), keepdims=True))
            products = [transform[a] * transform[b].conj() for a in range(5) for b in range(a, 5)]
            # real and imaginary part per ring, and the imaginary part along an axis, where a preferred direction would show
            per_ring = [part(p[ring == r]).sum() for p in products for r in range(16) for part in (np.real, np.imag)]
            numbers[label].append(np.array(per_ring + [p[0, 1:8].sum().imag for p in products]))
            turns[label].append(handedness(nuclear_peaks(image[0]), image[3], image[4]))
    first, second = (np.stack(v) for v in numbers)
    spread = np.sqrt((first.var(axis=0) + second.var(axis=0)) / n)
    z = (first.mean(axis=0) - second.mean(axis=0))[spread > 0] / spread[spread > 0]
    assert np.abs(z).max() < 4.5
    assert abs(np.mean(z**2) - 1) < 0.3
    assert min(turns[0]) > 0.5
    assert max(turns[1]) < -0.5


def test_texture_moves_light_about_and_changes_no_total_and_no_sign() -> None:
    for wavelength, treatment in zip(PARAMETERS.texture_wavelength_px, (Treatment(0, 0, 0, 0), Treatment(0, 1, 0, 0)), strict=True):
        scene = draw_scene(PARAMETERS, treatment, stream(4, "texture"))
        dark = replace(CLEAN, background=np.zeros(5), vignette=0.0)
        textured = expected_photons(scene, PARAMETERS, dark)[1]
        smooth = expected_photons(scene, replace(PARAMETERS, texture_contrast=0.0), dark)[1]
        ratio = textured / smooth
        assert textured.sum() == pytest.approx(smooth.sum(), rel=1e-6)
        assert ratio.min() >= 1 - PARAMETERS.texture_contrast - 1e-9
        # weighted by light, the arcsine distribution: variance contrast^2 / 2 in every image
        assert np.average((ratio - 1) ** 2, weights=smooth) == pytest.approx(PARAMETERS.texture_contrast**2 / 2, rel=1e-3)
        frequency = radial_frequency(64)
        power = np.abs(np.fft.rfft2(scene.texture)) ** 2
        assert 1 / np.average(frequency, weights=power) == pytest.approx(wavelength, rel=0.2)


def test_the_background_falls_across_the_columns_and_nothing_else_does(plates: list[Site]) -> None:
    background = np.array([np.quantile(s.pixels[0], 0.1) for s in plates])
    column = np.array([s.column for s in plates])
    by_column = [background[column == c].mean() for c in range(4)]
    assert all(a > b for a, b in pairwise(by_column))
    # the cells' own light: above the background by as much in all columns
    light = np.array([s.pixels[0].mean() - np.median(s.pixels[0]) for s in plates])
    assert abs(light[column < 2].mean() / light[column >= 2].mean() - 1) < 0.15


def test_plates_differ_and_wells_of_a_plate_share_its_optics() -> None:
    effects = [plate_effects(PARAMETERS, stream(0, "culture", plate)) for plate in range(60)]
    assert np.log(np.stack([e.gain for e in effects])).std() == pytest.approx(PARAMETERS.plate_gain_sd, rel=0.2)
    assert np.log(np.stack([e.background for e in effects]) / 20).std() == pytest.approx(PARAMETERS.plate_background_sd, rel=0.2)
    assert all(PARAMETERS.blur_sigma_px[0] <= e.blur_sigma_px <= PARAMETERS.blur_sigma_px[1] for e in effects)


def test_index_and_card(benchmark_folder: Benchmark) -> None:
    index, card = benchmark_folder.index, benchmark_folder.card
    assert len(index) == 3 * 16 * 2
    assert (index["unit"] == index["Metadata_Plate"]).all()
    assert index.groupby("unit")["fold"].first().tolist() == [-1, -1, 0]
    for task in ("count", "texture", "chirality", "position"):
        assert (index.groupby(["unit", f"label_{task}"]).size() == 16).all(), task
    assert (index.groupby(["unit", "label_replicate"]).size() == 2).all()
    assert ((index["Metadata_Treatment"] == CONTROL) == index["Metadata_control"]).all()
    assert ((index["label_position"] == "columns 3-4") == (index["Metadata_Column"] > 2)).all()
    assert card.unit == "plate"
    assert card.task("replicate").metric == "retrieval.map"
    assert all(task.expectation for task in card.tasks)
    assert card.truth["seed"] == 3
    assert card.truth["matched"]["chirality"] == ["intensity", "histogram", "density", "spectrum"]
    assert set(card.truth["effects"]) == {task.name for task in card.tasks}


def test_files_are_ome_tiff_with_channel_names_and_pixel_size(benchmark_folder: Benchmark) -> None:
    from ome_types import from_tiff

    path = benchmark_folder.paths(7)[0]
    pixels = from_tiff(path).images[0].pixels
    assert tuple(channel.name for channel in pixels.channels) == CHANNELS
    assert (pixels.physical_size_x, pixels.physical_size_x_unit.value, pixels.type.value) == (2.0, "µm", "uint16")
    image = read_image(path)
    assert image.pixels.shape == (5, 64, 64)
    assert (image.channel_names, image.pixel_size_um) == (CHANNELS, 2.0)
    low, high = benchmark_folder.card.image.intensity[0]
    every = np.stack([benchmark_folder.pixels(row) for row in range(0, 96, 8)])
    assert low - 40 < every.min()
    assert np.mean(every > high) < 0.01


def test_a_larger_screen_holds_the_smaller_one(benchmark_folder: Benchmark, tmp_path: Path) -> None:
    larger = simulate("culture", tmp_path / "larger", CultureParameters(train_plates=3, test_plates=1, sites_per_well=3), 3)
    both = benchmark_folder.index.merge(larger.index, on="image_id", suffixes=("", "_larger"))
    assert len(both) == len(benchmark_folder.index)
    assert (both["sha256"] == both["sha256_larger"]).all()

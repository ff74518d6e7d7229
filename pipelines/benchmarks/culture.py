"""A Cell-Painting-like screen in which it is known what each image can tell.

Plates of 4 x 4 wells, five channels, nuisances as on real plates (gain, background, blur and vignetting per plate, gain
per well and cell, a background that falls across the columns). Every plate holds a full 2^4 factorial of treatments at
random positions, so each factor is balanced on every plate and independent of position and of the other factors:

- `count`: five cells or six.
- `texture`: the wavelength of a random field that modulates the ER. Its values are rank-mapped per image so that,
  weighted by the light they modulate, they have one fixed distribution: brightness and histogram stay, the spectrum does not.
- `chirality`: Golgi (AGP) and a mitochondrial cluster (Mito) lie at a right angle around the nucleus, at random
  orientation; the mitochondria follow the Golgi clockwise or counterclockwise. One class is in law the mirror image
  of the other, so every statistic that a reflection leaves alone has exactly the same distribution in both, and
  auto- and cross-spectra agree in expectation. Only third-order structure (nucleus, Golgi, mitochondria) tells.
- RNA brightness: a fourth factor that belongs to no task of its own; it separates treatments in `replicate`.

`position` is the planted confound: its label is the half of the plate, nothing in the cells depends on it.
"""

from __future__ import annotations

import itertools
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pipelines.benchmarks.card import BenchmarkCard, Task
from pipelines.benchmarks.simulate import Drawn, check_ranges, radial_frequency, random_field, stream, write_ome_tiff
from registry.arrays import Floats
from registry.errors import ParamsError
from registry.images import ImageSpec

CHANNELS = ("DNA", "ER", "RNA", "AGP", "Mito")
ROWS, COLUMNS = 4, 4
TEXTURE = ("fine", "coarse")
CHIRALITY = ("clockwise", "counterclockwise")
RNA = ("dim", "bright")
POSITION = ("columns 1-2", "columns 3-4")
CONTROL = "DMSO"


@dataclass(frozen=True)
class CultureParameters:
    """Settings of the screen. Lengths in pixels of `pixel_size_um`, intensities in photons unless the name says otherwise.

    Attributes:
        train_plates: plates that are always training.
        test_plates: plates of the test fold.
        sites_per_well: images per well.
        image_size_px: rows and columns of an image.
        pixel_size_um: micrometres per pixel.
        cells: the two cell counts.
        cell_radius_px: radius at half height.
        nucleus_radius_px: radius at half height.
        min_distance_px: smallest distance between two nuclei.
        texture_wavelength_px: wavelength of the ER field, fine and coarse.
        texture_contrast: amplitude of the multiplicative ER field; under 1, so that light never turns negative.
        rna_level: brightness of the RNA channel, dim and bright.
        organelle_amplitude: height of Golgi and mitochondrial cluster, as a multiple of `photons`.
        organelle_sigma_px: their Gaussian width.
        organelle_distance_px: their distance from the nucleus.
        photons: expected photons of a structure of amplitude 1.
        background_photons: median background of a plate.
        column_slope: background of the first column minus that of the last, as a fraction of the plate's.
        plate_gain_sd: standard deviation of a plate's log gain, per channel.
        plate_background_sd: standard deviation of a plate's log background, per channel.
        well_gain_sd: standard deviation of a well's log gain, per channel.
        cell_gain_sd: standard deviation of a cell's log gain, per channel.
        blur_sigma_px: range of a plate's Gaussian blur.
        vignette: range of a plate's loss of light from the centre to a corner, as a fraction.
        camera_offset_counts: camera counts of a dark pixel.
        read_noise_counts: standard deviation of the read noise.
    """

    train_plates: int = 12
    test_plates: int = 12
    sites_per_well: int = 3
    image_size_px: int = 64
    pixel_size_um: float = 2.0
    cells: tuple[int, int] = (5, 6)
    cell_radius_px: float = 8.0
    nucleus_radius_px: float = 3.5
    min_distance_px: float = 13.0
    texture_wavelength_px: tuple[float, float] = (4.0, 12.0)
    texture_contrast: float = 0.95
    rna_level: tuple[float, float] = (0.7, 1.0)
    organelle_amplitude: float = 1.55
    organelle_sigma_px: float = 1.7
    organelle_distance_px: float = 6.0
    photons: float = 150.0
    background_photons: float = 20.0
    column_slope: float = 0.8
    plate_gain_sd: float = 0.2
    plate_background_sd: float = 0.3
    well_gain_sd: float = 0.05
    cell_gain_sd: float = 0.15
    blur_sigma_px: tuple[float, float] = (0.5, 0.9)
    vignette: tuple[float, float] = (0.1, 0.4)
    camera_offset_counts: float = 100.0
    read_noise_counts: float = 6.0

    def __post_init__(self) -> None:
        smallest = {"train_plates": 1, "test_plates": 1, "sites_per_well": 1, "image_size_px": 16, "cells": 1, "pixel_size_um": 1e-3}
        check_ranges(self, smallest | dict.fromkeys(("texture_wavelength_px", "blur_sigma_px"), 0.1) | {"organelle_sigma_px": 0.1})
        if self.texture_contrast >= 1 or max(self.vignette) >= 1 or self.column_slope >= 2:
            raise ParamsError(
                "Expected `texture_contrast` and `vignette` below 1 and `column_slope` below 2 (light is never negative),"
                f" got {self.texture_contrast}, {self.vignette} and {self.column_slope}."
            )
        disc = np.pi / 4 * self.min_distance_px**2 * max(self.cells)
        if disc > 0.5 * self._inner_px**2:
            raise ParamsError(f"`cells`: {max(self.cells)} cells {self.min_distance_px} px apart do not fit {self.image_size_px} px. Take fewer.")

    @property
    def _inner_px(self) -> float:
        return self.image_size_px - 2 * self.cell_radius_px


@dataclass(frozen=True)
class Treatment:
    """One cell of the 2^4 factorial; each level is 0 or 1."""

    count: int
    texture: int
    chirality: int
    rna: int

    @property
    def is_control(self) -> bool:
        """All factors at their low level: the vehicle."""
        return not (self.count or self.texture or self.chirality or self.rna)

    @property
    def name(self) -> str:
        """`DMSO`, or the factors that are up: `treatment-count-chirality`."""
        up = [factor for factor, level in asdict(self).items() if level]
        return CONTROL if self.is_control else "-".join(("treatment", *up))


TREATMENTS = tuple(Treatment(*levels) for levels in itertools.product((0, 1), repeat=4))


@dataclass(frozen=True)
class PlateEffects:
    """What all images of a plate share.

    Attributes:
        gain: (c,) factor on all light of the cells.
        background: (c,) photons.
        blur_sigma_px: standard deviation of the point spread function.
        vignette: loss of light in a corner, as a fraction.
    """

    gain: Floats
    background: Floats
    blur_sigma_px: float
    vignette: float


@dataclass(frozen=True)
class Scene:
    """The cells of one site, before optics.

    Attributes:
        y: (n,) nucleus centres in pixels, downwards.
        x: (n,) nucleus centres in pixels.
        golgi: (n,) direction from the nucleus to the Golgi in radians, from +x towards +y.
        counterclockwise: the mitochondrial cluster follows the Golgi counterclockwise as the image is seen (y down).
        gain: (n, c) brightness of each cell.
        texture: (y, x) Gaussian field that modulates the ER.
        rna_level: brightness of the RNA channel.
    """

    y: Floats
    x: Floats
    golgi: Floats
    counterclockwise: bool
    gain: Floats
    texture: Floats
    rna_level: float

    def mirrored(self) -> Scene:
        """The same scene seen in a mirror (x reversed): a scene of the other chirality."""
        size_px = self.texture.shape[1]
        return Scene(self.y, size_px - 1 - self.x, np.pi - self.golgi, not self.counterclockwise, self.gain, self.texture[:, ::-1], self.rna_level)


def draw_culture(name: str, folder: Path, parameters: CultureParameters, seed: int) -> Drawn:
    """Draw a screen: images into `folder/images/`, index and card as the result."""
    from tqdm import tqdm

    number = parameters.train_plates + parameters.test_plates
    records: list[dict[str, Any]] = []
    for plate in tqdm(range(number), desc=f"simulate {name}", unit="plate", disable=None, leave=False):
        records += _draw_plate(folder, parameters, seed, plate)
    return Drawn(_card(name, parameters, seed), pd.DataFrame.from_records(records))


def plate_effects(parameters: CultureParameters, rng: np.random.Generator) -> PlateEffects:
    """Draw what the images of one plate share."""
    gain = np.exp(rng.normal(0, parameters.plate_gain_sd, len(CHANNELS)))
    background = parameters.background_photons * np.exp(rng.normal(0, parameters.plate_background_sd, len(CHANNELS)))
    return PlateEffects(gain, background, float(rng.uniform(*parameters.blur_sigma_px)), float(rng.uniform(*parameters.vignette)))


def draw_scene(parameters: CultureParameters, treatment: Treatment, rng: np.random.Generator) -> Scene:
    """Draw the cells of one site."""
    n, size_px = parameters.cells[treatment.count], parameters.image_size_px
    wavelength_px = parameters.texture_wavelength_px[treatment.texture]
    y, x = _hard_core(rng, n, parameters)
    return Scene(
        y,
        x,
        rng.uniform(0, 2 * np.pi, n),
        bool(treatment.chirality),
        np.exp(rng.normal(0, parameters.cell_gain_sd, (n, len(CHANNELS)))),
        random_field(rng, _ring(size_px, wavelength_px), size_px),
        parameters.rna_level[treatment.rna],
    )


def _hard_core(rng: np.random.Generator, n: int, parameters: CultureParameters) -> tuple[Floats, Floats]:
    """n points, none closer than `min_distance_px`, by rejection of whole proposals point by point."""
    low, high = parameters.cell_radius_px, parameters.image_size_px - 1 - parameters.cell_radius_px
    while True:
        points: list[tuple[float, float]] = []
        for _ in range(200 * n):
            y, x = rng.uniform(low, high, 2).tolist()
            if all((y - v) ** 2 + (x - u) ** 2 >= parameters.min_distance_px**2 for v, u in points):
                points.append((y, x))
                if len(points) == n:
                    found = np.array(points)
                    return found[:, 0], found[:, 1]


def _ring(size_px: int, wavelength_px: float) -> Floats:
    """Transfer function that passes one octave-wide ring of frequencies around 1 / wavelength."""
    with np.errstate(divide="ignore"):
        octaves = np.log2(radial_frequency(size_px) * wavelength_px)
    ring: Floats = np.exp(-0.5 * (octaves / 0.25) ** 2)
    return ring


def expected_photons(scene: Scene, parameters: CultureParameters, plate: PlateEffects, background: float = 1.0) -> Floats:
    """(c, y, x) expected photons of a scene on a plate; deterministic, and a mirrored scene gives the mirrored image.

    Args:
        scene: the cells.
        parameters: the settings.
        plate: the plate's optics.
        background: factor on the plate's background (the column's).
    """
    from scipy.ndimage import gaussian_filter

    clean = _structures(scene, parameters)
    light = gaussian_filter(clean, (0, plate.blur_sigma_px, plate.blur_sigma_px), mode="nearest")
    light[1] *= 1 + parameters.texture_contrast * _sinusoidal(scene.texture, light[1])
    photons = parameters.photons * plate.gain[:, None, None] * light + background * plate.background[:, None, None]
    axis = np.linspace(-1, 1, parameters.image_size_px) ** 2
    shading = 1 - plate.vignette * (axis[:, None] + axis[None, :]) / 2
    result: Floats = photons * shading
    return result


def _structures(scene: Scene, parameters: CultureParameters) -> Floats:
    """(c, y, x) sharp structures in units of `photons`; light of neighbouring cells adds up."""
    grid = np.arange(parameters.image_size_px)
    dy, dx = grid[None, :] - scene.y[:, None], grid[None, :] - scene.x[:, None]
    distance = np.sqrt(dy[:, :, None] ** 2 + dx[:, None, :] ** 2)
    nucleus = _soft_disc(distance, parameters.nucleus_radius_px, 0.5)
    cytoplasm = _soft_disc(distance, parameters.cell_radius_px, 1.0) * (1 - 0.7 * nucleus)
    # a quarter turn that looks counterclockwise where y points down lowers the angle
    mitochondria = scene.golgi + (-np.pi / 2 if scene.counterclockwise else np.pi / 2)
    spot = parameters.organelle_amplitude
    return np.stack(
        [
            np.tensordot(scene.gain[:, 0], nucleus, 1),
            np.tensordot(scene.gain[:, 1], cytoplasm, 1),
            scene.rna_level * np.tensordot(scene.gain[:, 2], 0.6 * cytoplasm + 0.4 * nucleus, 1),
            np.tensordot(scene.gain[:, 3], 0.4 * cytoplasm, 1) + spot * _spots(dy, dx, scene.golgi, scene.gain[:, 3], parameters),
            np.tensordot(scene.gain[:, 4], 0.4 * cytoplasm, 1) + spot * _spots(dy, dx, mitochondria, scene.gain[:, 4], parameters),
        ]
    )


def _soft_disc(distance: Floats, radius: float, softness: float) -> Floats:
    disc: Floats = 1 / (1 + np.exp((distance - radius) / softness))
    return disc


def _spots(dy: Floats, dx: Floats, direction: Floats, gain: Floats, parameters: CultureParameters) -> Floats:
    """(y, x) sum of one Gaussian spot per cell; separable, so an outer product per cell."""
    r, two_variances = parameters.organelle_distance_px, 2 * parameters.organelle_sigma_px**2
    rows = np.exp(-((dy - r * np.sin(direction)[:, None]) ** 2) / two_variances) * gain[:, None]
    columns = np.exp(-((dx - r * np.cos(direction)[:, None]) ** 2) / two_variances)
    spots: Floats = rows.T @ columns
    return spots


def _sinusoidal(field: Floats, weight: Floats) -> Floats:
    """Rank-map a field to sin(pi (u - 1/2)), u its distribution function weighted by `weight`.

    Weighted by the light it will modulate, the result has the arcsine distribution on [-1, 1] in every image, whatever
    the wavelength: total light, its histogram and the absence of clipping do not depend on the class.
    """
    order = np.argsort(field, axis=None, kind="stable")
    ordered = weight.ravel()[order]
    cumulative = np.cumsum(ordered) - 0.5 * ordered
    mapped = np.empty(field.size)
    mapped[order] = np.sin(np.pi * (cumulative / ordered.sum() - 0.5))
    return mapped.reshape(field.shape)


def _draw_plate(folder: Path, parameters: CultureParameters, seed: int, plate: int) -> list[dict[str, Any]]:
    rng = stream(seed, "culture", plate)
    effects = plate_effects(parameters, rng)
    wells = rng.permutation(len(TREATMENTS))
    records = []
    for well, number in enumerate(wells.tolist()):
        treatment = TREATMENTS[number]
        gain = np.exp(stream(seed, "culture", plate, well, "well").normal(0, parameters.well_gain_sd, len(CHANNELS)))
        row, column = divmod(well, COLUMNS)
        in_well = PlateEffects(effects.gain * gain, effects.background, effects.blur_sigma_px, effects.vignette)
        background = 1 + parameters.column_slope * (0.5 - column / (COLUMNS - 1))
        for site in range(parameters.sites_per_well):
            site_rng = stream(seed, "culture", plate, well, site)
            scene = draw_scene(parameters, treatment, site_rng)
            pixels = _expose(expected_photons(scene, parameters, in_well, background), parameters, site_rng)
            records.append(_record(folder, parameters, plate, row, column, site, treatment, pixels))
    return records


def _expose(photons: Floats, parameters: CultureParameters, rng: np.random.Generator) -> np.ndarray[Any, np.dtype[np.uint16]]:
    """Shot noise, offset and read noise, as uint16 camera counts."""
    # rounded, so that the last bit of a processor's exp does not change a Poisson draw
    shot = rng.poisson(np.round(photons, 3))
    counts = shot + parameters.camera_offset_counts + rng.normal(0, parameters.read_noise_counts, photons.shape)
    return np.clip(np.rint(counts), 0, 65535).astype(np.uint16)


def _record(
    folder: Path,
    parameters: CultureParameters,
    plate: int,
    row: int,
    column: int,
    site: int,
    treatment: Treatment,
    pixels: np.ndarray[Any, np.dtype[np.uint16]],
) -> dict[str, Any]:
    """Write one image and return its row of the index."""
    plate_name, well_name = f"P{plate + 1:03d}", f"{'ABCD'[row]}{column + 1:02d}"
    path = f"images/{plate_name}/{well_name}-s{site + 1}.ome.tiff"
    return {
        "image_id": f"{plate_name}-{well_name}-s{site + 1}",
        "path": path,
        "Metadata_Plate": plate_name,
        "Metadata_Well": well_name,
        "Metadata_Row": row + 1,
        "Metadata_Column": column + 1,
        "Metadata_Site": site + 1,
        "Metadata_Treatment": treatment.name,
        "Metadata_control": treatment.is_control,
        "unit": plate_name,
        "fold": -1 if plate < parameters.train_plates else 0,
        "label_count": f"{parameters.cells[treatment.count]} cells",
        "label_texture": TEXTURE[treatment.texture],
        "label_chirality": CHIRALITY[treatment.chirality],
        "label_position": POSITION[column >= COLUMNS // 2],
        "label_replicate": treatment.name,
        "sha256": write_ome_tiff(folder / path, pixels, CHANNELS, parameters.pixel_size_um),
    }


def _card(name: str, parameters: CultureParameters, seed: int) -> BenchmarkCard:
    size_px, dark = parameters.image_size_px, parameters.camera_offset_counts
    intensity = ((dark, dark + 2.5 * parameters.photons),) * len(CHANNELS)
    few, many = parameters.cells
    fine, coarse = parameters.texture_wavelength_px
    tasks = (
        Task("count", f"Does the image show {few} or {many} cells?", expectation="A cell count (`density`) solves it; no encoder can beat that."),
        Task(
            "texture",
            "Is the ER texture fine or coarse?",
            expectation="An untrained network or `spectrum` solves it; brightness and histogram are matched.",
        ),
        Task(
            "chirality",
            "Do the mitochondria follow the Golgi clockwise or counterclockwise around the nucleus?",
            expectation=(
                "Matched in first and second order: `intensity`, `histogram`, `density` and `spectrum` are at chance; only training solves it."
            ),
        ),
        Task(
            "position",
            "Did the well lie in the left or the right half of the plate?",
            expectation="A confound: `layout` is perfect, and what anything else reaches is the background that falls across the columns.",
        ),
        Task(
            "replicate",
            "Are the wells of a treatment on other plates nearer than wells of other treatments?",
            metric="retrieval.map",
            expectation="Full marks need count, texture, chirality and RNA brightness at once; the layout is random and tells nothing.",
        ),
    )
    return BenchmarkCard(
        name=name,
        title="Simulated Cell-Painting-like screen",
        modality="cells",
        image=ImageSpec(CHANNELS, "uint16", size_px, size_px, intensity, parameters.pixel_size_um),
        unit="plate",
        tasks=tasks,
        licence="CC0-1.0",
        citation="Blankslide, simulated",
        source="blankslide simulator `culture`",
        notes=("Simulated: the truth is planted and known.",),
        truth={
            "simulator": "culture",
            "seed": seed,
            "parameters": asdict(parameters),
            "design": "every plate holds the 16 treatments of a 2^4 factorial (count, texture, chirality, RNA brightness) once, at random positions",
            "effects": {
                "count": f"{few} or {many} cells, exactly",
                "texture": f"ER field of wavelength {fine:g} or {coarse:g} px; its light-weighted distribution is the same in every image",
                "chirality": "one class is in law the mirror image of the other",
                "position": f"background falls by {parameters.column_slope:.0%} of its mean from the first to the last column; cells do not differ",
                "replicate": "treatments differ in four factors; RNA brightness is the one without a task",
            },
            "matched": {"chirality": ["intensity", "histogram", "density", "spectrum"]},
            "solved_by": {"count": "density", "texture": "untrained", "chirality": "training", "position": "layout"},
        },
    )

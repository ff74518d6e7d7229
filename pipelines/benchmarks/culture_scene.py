"""The cells of one site of the simulated screen, and the light and the camera that make an image of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipelines.benchmarks.culture_design import CultureParameters, Treatment
from pipelines.benchmarks.drawing import radial_frequency, random_field
from registry.arrays import Floats

CHANNELS = ("DNA", "ER", "RNA", "AGP", "Mito")


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


def expected_photons(scene: Scene, parameters: CultureParameters, plate: PlateEffects) -> Floats:
    """(c, y, x) expected photons of a scene on a plate; deterministic, and a mirrored scene gives the mirrored image.

    Args:
        scene: the cells.
        parameters: the settings.
        plate: gain, background and optics, with what the well and its column add.
    """
    from scipy.ndimage import gaussian_filter

    clean = _structures(scene, parameters)
    light = gaussian_filter(clean, (0, plate.blur_sigma_px, plate.blur_sigma_px), mode="nearest")
    light[1] *= 1 + parameters.texture_contrast * _sinusoidal(scene.texture, light[1])
    photons = parameters.photons * plate.gain[:, None, None] * light + plate.background[:, None, None]
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


def expose(photons: Floats, parameters: CultureParameters, rng: np.random.Generator) -> NDArray[np.uint16]:
    """(c, y, x) an exposure: shot noise, offset and read noise, as uint16 camera counts."""
    # rounded, so that the last bit of a processor's exp does not change a Poisson draw
    shot = rng.poisson(np.round(photons, 3))
    counts = shot + parameters.camera_offset_counts + rng.normal(0, parameters.read_noise_counts, photons.shape)
    return np.clip(np.rint(counts), 0, 65535).astype(np.uint16)

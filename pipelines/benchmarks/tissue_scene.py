"""The nuclei of one patch of the simulated tissue, and the stain that makes an image of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipelines.benchmarks.drawing import radial_frequency, random_field
from pipelines.benchmarks.tissue_design import BLOCK, BLOCKS, SIDE, TissueParameters
from registry.arrays import Floats, Ints, Mask

#: optical density of haematoxylin and eosin in red, green, blue (Ruifrok and Johnston 2001)
HAEMATOXYLIN, EOSIN = (0.65, 0.70, 0.29), (0.07, 0.99, 0.11)
#: of an empty slide, as a fraction of white; dimmer than white, so that next to nothing is clipped there
ILLUMINATION = 0.72


@dataclass(frozen=True)
class Nuclei:
    """The nuclei of one patch, on a torus.

    Attributes:
        y: (n,) centres in pixels, downwards.
        x: (n,) centres in pixels.
        radius_px: (n,) radius at half height.
        dark: (n,) True for the dark type.
    """

    y: Floats
    x: Floats
    radius_px: Floats
    dark: Mask


@dataclass(frozen=True)
class PatientStain:
    """What all patches of a patient share.

    Attributes:
        strength: factor on both optical densities.
        haematoxylin: (3,) optical density of full stain.
        eosin: (3,) optical density of the background at its median.
        size: factor on nuclear radii.
    """

    strength: float
    haematoxylin: Floats
    eosin: Floats
    size: float


def random_sites(rng: np.random.Generator, n: int) -> Ints:
    """(n,) numbers of distinct random sites of the lattice; site = SIDE * row + column."""
    return rng.choice(SIDE * SIDE, n, replace=False)


def block_counts(sites: Ints) -> Ints:
    """(64,) nuclei per block of BLOCK x BLOCK sites."""
    row, column = np.divmod(sites, SIDE)
    return np.bincount((row // BLOCK) * (SIDE // BLOCK) + column // BLOCK, minlength=BLOCKS)


def cell_process_counts(n: int, ordered_pairs: int) -> Ints:
    """(64,) block counts with `n` nuclei and `ordered_pairs` = sum N (N - 1), in the most skewed form there is room for.

    One block of m, some pairs, singles, the rest empty: m the largest number with m (m - 1) <= `ordered_pairs` for which
    the blocks suffice; the pairs make up the difference, the singles the number of nuclei.
    """
    m = int((1 + np.sqrt(1 + 4 * ordered_pairs)) / 2)
    while True:
        pairs = (ordered_pairs - m * (m - 1)) // 2
        singles = n - m - 2 * pairs
        if singles >= 0 and 1 + pairs + singles <= BLOCKS:
            return np.repeat(np.array([m, 2, 1, 0], dtype=np.int64), [1, pairs, singles, BLOCKS - 1 - pairs - singles])
        m -= 1


def cell_process_sites(rng: np.random.Generator, n: int) -> Ints:
    """(n,) sites whose block counts have the number of pairs of a draw of `random_sites`, rearranged by `cell_process_counts`."""
    counts = block_counts(random_sites(rng, n))
    rearranged = rng.permutation(cell_process_counts(n, int((counts * (counts - 1)).sum())))
    sites = []
    for block in np.flatnonzero(rearranged):
        within = rng.choice(BLOCK * BLOCK, rearranged[block], replace=False)
        block_row, block_column = divmod(int(block), SIDE // BLOCK)
        sites.append((block_row * BLOCK + within // BLOCK) * SIDE + block_column * BLOCK + within % BLOCK)
    return np.concatenate(sites)


def draw_third_order(parameters: TissueParameters, rng: np.random.Generator, n: int, label: int) -> Nuclei:
    """Nuclei on lattice sites: random (0) or the cell process (1); lattice offset random on the torus."""
    sites = cell_process_sites(rng, n) if label else random_sites(rng, n)
    spacing = parameters.image_size_px / SIDE
    offset = rng.uniform(0, parameters.image_size_px, 2)
    jitter = rng.normal(0, parameters.lattice_jitter_px, (n, 2))
    y, x = (np.stack(np.divmod(sites, SIDE), axis=1) * spacing + offset + jitter).T % parameters.image_size_px
    return Nuclei(y, x, np.full(n, parameters.lattice_radius_px) * _spread(parameters, rng, n), np.ones(n, dtype=bool))


def draw_arrangement(parameters: TissueParameters, rng: np.random.Generator, n: int, label: int) -> Nuclei:
    """Hard-core nuclei, an exact fraction of them dark: at random (0) or where a smooth random field is high (1)."""
    y, x = _hard_core(rng, n, parameters)
    rank = rng.standard_normal(n)
    if label:
        size_px, sigma_px = parameters.image_size_px, parameters.cluster_sigma_px
        field = random_field(rng, _gaussian(size_px, sigma_px), size_px)
        rank = field[y.astype(int) % size_px, x.astype(int) % size_px] + parameters.cluster_noise * rank
    dark = np.zeros(n, dtype=bool)
    dark[np.argsort(rank, kind="stable")[n - round(parameters.dark_fraction * n) :]] = True
    return _typed(parameters, rng, y, x, dark)


def draw_composition(parameters: TissueParameters, rng: np.random.Generator, n: int, label: int) -> Nuclei:
    """Hard-core nuclei, types at random, the fraction of dark nuclei by class."""
    y, x = _hard_core(rng, n, parameters)
    fraction = np.clip(rng.normal(parameters.composition_fraction[label], parameters.composition_sd), 0, 1)
    return _typed(parameters, rng, y, x, rng.random(n) < fraction)


def _typed(parameters: TissueParameters, rng: np.random.Generator, y: Floats, x: Floats, dark: Mask) -> Nuclei:
    small, large = parameters.radius_px
    return Nuclei(y, x, np.where(dark, small, large) * _spread(parameters, rng, len(y)), dark)


def _spread(parameters: TissueParameters, rng: np.random.Generator, n: int) -> Floats:
    return np.exp(rng.normal(0, parameters.radius_cv, n))


def _hard_core(rng: np.random.Generator, n: int, parameters: TissueParameters) -> tuple[Floats, Floats]:
    """n points on the torus, none closer than `min_distance_px`: random sequential addition."""
    from scipy.spatial import cKDTree

    accepted = np.empty((0, 2))
    while True:
        points = np.concatenate([accepted, rng.uniform(0, parameters.image_size_px, (4 * n, 2))])
        near: list[list[int]] = [[] for _ in points]
        for first, second in cKDTree(points, boxsize=np.full(2, parameters.image_size_px)).query_pairs(parameters.min_distance_px):
            near[first].append(second)
        free, order = [True] * len(points), []
        for i in range(len(points)):
            if free[i]:
                order.append(i)
                if len(order) == n:
                    return points[order, 0], points[order, 1]
                for j in near[i]:
                    free[j] = False
        accepted = points[order]


def _gaussian(size_px: int, sigma_px: float) -> Floats:
    """Transfer function of a Gaussian filter."""
    transfer: Floats = np.exp(-2 * (np.pi * sigma_px * radial_frequency(size_px)) ** 2)
    return transfer


def _long_waves(size_px: int, wavelength_px: float) -> Floats:
    """Transfer function that passes waves longer than `wavelength_px`, all alike."""
    transfer: Floats = 1 / (1 + (radial_frequency(size_px) * wavelength_px) ** 8)
    return transfer


def coverage(nuclei: Nuclei, stain: Floats, size_px: int) -> Floats:
    """(y, x) sum over nuclei of `stain` times a soft disc, on the torus; additive, also where discs overlap."""
    reach = int(np.ceil(nuclei.radius_px.max() + 4))
    steps = np.arange(-reach, reach + 1)
    row: Ints = np.rint(nuclei.y).astype(np.int64)[:, None] + steps
    column: Ints = np.rint(nuclei.x).astype(np.int64)[:, None] + steps
    dy, dx = row - nuclei.y[:, None], column - nuclei.x[:, None]
    distance = np.sqrt(dy[:, :, None] ** 2 + dx[:, None, :] ** 2)
    disc = stain[:, None, None] / (1 + np.exp((distance - nuclei.radius_px[:, None, None]) / 0.35))
    flat = (row % size_px)[:, :, None] * size_px + (column % size_px)[:, None, :]
    total: Floats = np.bincount(flat.ravel(), disc.ravel(), minlength=size_px * size_px).astype(np.float64)
    return total.reshape(size_px, size_px)


def render(nuclei: Nuclei, patient: PatientStain, parameters: TissueParameters, rng: np.random.Generator) -> NDArray[np.uint8]:
    """(3, y, x) uint8: haematoxylin discs over eosin of uneven strength in a section of uneven thickness.

    The unevenness of the section has more power at long waves than the nuclei have. Without it the spectrum of a single image
    tells one block of many nuclei (power with little scatter) from many blocks of few, though both have the same power on average.
    """
    size_px = parameters.image_size_px
    strength = patient.strength * np.exp(rng.normal(0, parameters.patch_stain_sd))
    fibres = random_field(rng, _gaussian(size_px, 6.0), size_px)
    uneven = np.stack([random_field(rng, _long_waves(size_px, parameters.section_wavelength_px), size_px) for _ in range(4)])
    # half of the variance is thickness, common to the channels, half is tint, each channel's own
    light = ILLUMINATION * np.exp(-parameters.section_sd * (uneven[0] + uneven[1:]) / np.sqrt(2))
    background = light * np.exp(-strength * patient.eosin[:, None, None] * np.exp(0.25 * fibres))
    nuclear = ILLUMINATION * np.exp(-strength * patient.haematoxylin)
    pale, dark = parameters.stain
    ink = coverage(nuclei, np.where(nuclei.dark, dark, pale), size_px)
    noisy = background + ink * (nuclear[:, None, None] - background) + rng.normal(0, parameters.noise, background.shape)
    pixels: NDArray[np.uint8] = np.clip(np.rint(255 * noisy), 0, 255).astype(np.uint8)
    return pixels


def patient_stain(parameters: TissueParameters, rng: np.random.Generator) -> PatientStain:
    """Draw what the patches of one patient share."""
    haematoxylin, eosin = (np.abs(np.array(od) + rng.normal(0, parameters.patient_vector_sd, 3)) for od in (HAEMATOXYLIN, EOSIN))
    return PatientStain(
        float(np.exp(rng.normal(0, parameters.patient_stain_sd))),
        1.2 * haematoxylin,
        0.3 * eosin,
        float(np.exp(rng.normal(0, parameters.patient_size_sd))),
    )

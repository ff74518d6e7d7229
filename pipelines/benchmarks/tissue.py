"""H&E-like tissue patches in which it is known what the arrangement of nuclei can tell.

Patches of a torus (what leaves on one side enters on the other, so no edge tells anything), patients with their own
stain, and three tasks, each on patches of its own, balanced within every patient:

- `arrangement`: nuclei of two types, as many of each in both classes; the types lie at random or in clusters.
- `third-order`: one type. Random sites of a lattice against a lattice form of the cell process of Baddeley and
  Silverman (1984, Biometrics 40:1089): block counts are redrawn so that the number of nuclei and the number of pairs per block
  keep their joint distribution. Ripley's K and the power spectrum agree, composition and count are equal; triples are not.
- `composition`: types at random, the fraction of dark nuclei differs.

Light is blended linearly in the *sum* of soft discs, so that overlap, which depends on triples, removes no ink.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipelines.benchmarks.card import BenchmarkCard, Task
from pipelines.benchmarks.simulate import Drawn, check_ranges, radial_frequency, random_field, stream, write_ome_tiff
from registry.arrays import Floats, Ints, Mask
from registry.errors import ParamsError
from registry.images import ImageSpec

CHANNELS = ("red", "green", "blue")
#: the lattice of `third-order`: SIDE x SIDE sites in blocks of BLOCK x BLOCK
SIDE, BLOCK = 32, 4
BLOCKS = (SIDE // BLOCK) ** 2
TYPES = ("tumour", "lymphocyte")
CLASSES = {"arrangement": ("random", "clustered"), "third-order": ("random", "cell-process"), "composition": ("fewer-dark", "more-dark")}
#: optical density of haematoxylin and eosin in red, green, blue (Ruifrok and Johnston 2001)
HAEMATOXYLIN, EOSIN = (0.65, 0.70, 0.29), (0.07, 0.99, 0.11)


@dataclass(frozen=True)
class TissueParameters:
    """Settings of the tissue. Lengths in pixels of `pixel_size_um`.

    Attributes:
        train_patients: patients that are always training.
        test_patients: patients of the test fold.
        patches_per_task: patches per patient and task, half of each class; even.
        image_size_px: rows and columns of a patch.
        pixel_size_um: micrometres per pixel.
        nuclei: smallest and largest number of nuclei of `arrangement` and `composition`.
        min_distance_px: smallest distance between two of their nuclei.
        radius_px: radius of dark and of pale nuclei.
        stain: haematoxylin of dark and of pale nuclei, as a fraction of full stain, larger last.
        dark_fraction: fraction of dark nuclei in `arrangement`, exactly.
        cluster_sigma_px: Gaussian width of the field whose peaks hold the dark nuclei of `clustered`.
        cluster_noise: standard deviation of the noise added to that field (its own is 1).
        composition_fraction: mean fraction of dark nuclei in the two classes of `composition`.
        composition_sd: standard deviation of that fraction between patches.
        lattice_nuclei: smallest and largest number of nuclei of `third-order`.
        lattice_jitter_px: standard deviation of a nucleus about its site.
        lattice_radius_px: radius of the nuclei of `third-order`.
        radius_cv: standard deviation of a nucleus' log radius.
        patient_stain_sd: standard deviation of a patient's log stain strength.
        patient_vector_sd: standard deviation of each element of a patient's stain vectors.
        patient_size_sd: standard deviation of a patient's log nuclear radius.
        patch_stain_sd: standard deviation of a patch's log stain strength.
        noise: standard deviation of the camera noise; white is 1.
    """

    train_patients: int = 32
    test_patients: int = 16
    patches_per_task: int = 24
    image_size_px: int = 96
    pixel_size_um: float = 2.5
    nuclei: tuple[int, int] = (112, 144)
    min_distance_px: float = 5.5
    radius_px: tuple[float, float] = (1.7, 2.5)
    stain: tuple[float, float] = (0.4, 1.0)
    dark_fraction: float = 0.4
    cluster_sigma_px: float = 10.0
    cluster_noise: float = 0.3
    composition_fraction: tuple[float, float] = (0.40, 0.52)
    composition_sd: float = 0.05
    lattice_nuclei: tuple[int, int] = (56, 72)
    lattice_jitter_px: float = 0.18
    lattice_radius_px: float = 1.15
    radius_cv: float = 0.10
    patient_stain_sd: float = 0.18
    patient_vector_sd: float = 0.05
    patient_size_sd: float = 0.06
    patch_stain_sd: float = 0.10
    noise: float = 0.02

    def __post_init__(self) -> None:
        smallest = {"train_patients": 1, "test_patients": 1, "patches_per_task": 2, "image_size_px": SIDE, "nuclei": 2, "pixel_size_um": 1e-3}
        check_ranges(self, smallest | dict.fromkeys(("radius_px", "lattice_radius_px", "cluster_sigma_px"), 0.1) | {"lattice_nuclei": 8})
        if self.patches_per_task % 2:
            raise ParamsError(f"`patches_per_task`: expected an even number (half of each class), got {self.patches_per_task}.")
        if max(self.lattice_nuclei) > BLOCKS + 8:
            raise ParamsError(f"`lattice_nuclei`: expected at most {BLOCKS + 8} nuclei on {BLOCKS} blocks, got {max(self.lattice_nuclei)}.")
        if max(self.nuclei) * np.pi / 4 * self.min_distance_px**2 > 0.5 * self.image_size_px**2:
            raise ParamsError(f"`nuclei`: {max(self.nuclei)} nuclei {self.min_distance_px} px apart do not fit {self.image_size_px} px. Take fewer.")
        if max(self.dark_fraction, *self.composition_fraction, *self.stain) > 1:
            raise ParamsError("Expected `dark_fraction`, `composition_fraction` and `stain` of at most 1.")


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


def draw_tissue(name: str, folder: Path, parameters: TissueParameters, seed: int) -> Drawn:
    """Draw all patients: images into `folder/images/`; index, nuclei and card as the result."""
    from tqdm import tqdm

    records: list[dict[str, Any]] = []
    tables: list[dict[str, NDArray[Any]]] = []
    number = parameters.train_patients + parameters.test_patients
    for patient in tqdm(range(number), desc=f"simulate {name}", unit="patient", disable=None, leave=False):
        for record, table in _draw_patient(folder, parameters, seed, patient):
            records.append(record)
            tables.append(table)
    nuclei = pd.DataFrame({column: np.concatenate([table[column] for table in tables]) for column in tables[0]})
    return Drawn(_card(name, parameters, seed), pd.DataFrame.from_records(records), nuclei)


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


#: (parameters, stream, number of nuclei, class) -> the nuclei of one patch
DRAW: dict[str, Callable[[TissueParameters, np.random.Generator, int, int], Nuclei]] = {
    "arrangement": draw_arrangement,
    "third-order": draw_third_order,
    "composition": draw_composition,
}


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
    """(3, y, x) uint8: haematoxylin discs over an eosin background with two random fields."""
    size_px = parameters.image_size_px
    strength = patient.strength * np.exp(rng.normal(0, parameters.patch_stain_sd))
    fibres, mottle = (random_field(rng, _gaussian(size_px, sigma_px), size_px) for sigma_px in (6.0, 1.5))
    # dimmer than white, so that no noise is clipped there
    background = 0.92 * np.exp(-strength * patient.eosin[:, None, None] * np.exp(0.25 * fibres)) * (1 + 0.015 * mottle)
    nuclear = 0.92 * np.exp(-strength * patient.haematoxylin)
    pale, dark = parameters.stain
    light = background + coverage(nuclei, np.where(nuclei.dark, dark, pale), size_px) * (nuclear[:, None, None] - background)
    noisy = light + rng.normal(0, parameters.noise, light.shape)
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


def _draw_patient(folder: Path, parameters: TissueParameters, seed: int, patient: int) -> list[tuple[dict[str, Any], dict[str, NDArray[Any]]]]:
    stain = patient_stain(parameters, stream(seed, "tissue", patient))
    drawn = []
    for task in CLASSES:
        low, high = parameters.lattice_nuclei if task == "third-order" else parameters.nuclei
        for patch in range(parameters.patches_per_task):
            pair, label = divmod(patch, 2)
            # both patches of a pair hold as many nuclei, so the count has one distribution in both classes
            n = int(stream(seed, "tissue", patient, task, pair, "count").integers(low, high + 1))
            rng = stream(seed, "tissue", patient, task, patch)
            nuclei = DRAW[task](parameters, rng, n, label)
            nuclei = Nuclei(nuclei.y, nuclei.x, nuclei.radius_px * stain.size, nuclei.dark)
            record = _record(folder, parameters, patient, task, patch, render(nuclei, stain, parameters, rng))
            drawn.append((record, _table(record["image_id"], nuclei, parameters.pixel_size_um)))
    return drawn


def _record(folder: Path, parameters: TissueParameters, patient: int, task: str, patch: int, pixels: NDArray[np.uint8]) -> dict[str, Any]:
    """Write one image and return its row of the index."""
    patient_name = f"T{patient + 1:03d}"
    path = f"images/{patient_name}/{task}-{patch + 1:02d}.ome.tiff"
    return {
        "image_id": f"{patient_name}-{task}-{patch + 1:02d}",
        "path": path,
        "Metadata_Patient": patient_name,
        "Metadata_Set": task,
        "unit": patient_name,
        "fold": -1 if patient < parameters.train_patients else 0,
        **{f"label_{t}": CLASSES[t][patch % 2] if t == task else None for t in CLASSES},
        "sha256": write_ome_tiff(folder / path, pixels, CHANNELS, parameters.pixel_size_um),
    }


def _table(image_id: str, nuclei: Nuclei, pixel_size_um: float) -> dict[str, NDArray[Any]]:
    """Columns of the nuclei table for one image."""
    n = len(nuclei.y)
    return {
        "image_id": np.full(n, image_id, dtype=object),
        "nucleus": np.arange(n),
        "x_um": nuclei.x * pixel_size_um,
        "y_um": nuclei.y * pixel_size_um,
        "area_um2": np.pi * (nuclei.radius_px * pixel_size_um) ** 2,
        "type": np.where(nuclei.dark, TYPES[1], TYPES[0]).astype(object),
    }


def _card(name: str, parameters: TissueParameters, seed: int) -> BenchmarkCard:
    tasks = (
        Task(
            "arrangement",
            "Do the dark nuclei lie at random among the pale ones, or in clusters?",
            expectation=(
                "Counts and sizes are equal, so `composition` is at chance; a graph of nuclei or Ripley's K of the dark ones solves it,"
                " and a trained network reaches it."
            ),
        ),
        Task(
            "third-order",
            "Do the nuclei occupy random sites, or was every block filled so that only triples differ?",
            expectation=(
                "Matched in first and second order: `intensity`, `histogram`, `density`, `spectrum`, `composition` and K are at chance;"
                " nearest-neighbour distances and graphs solve it, a trained network may."
            ),
        ),
        Task(
            "composition",
            "Is the fraction of dark nuclei the lower or the higher one?",
            expectation="Counting types (`composition`) reaches the limit that the overlap of the two classes sets; no encoder can beat it.",
        ),
    )
    return BenchmarkCard(
        name=name,
        title="Simulated H&E-like tissue",
        modality="tissue",
        image=ImageSpec(CHANNELS, "uint8", parameters.image_size_px, parameters.image_size_px, ((0.0, 255.0),) * 3, parameters.pixel_size_um),
        unit="patient",
        tasks=tasks,
        structure=True,
        licence="CC0-1.0",
        citation="Blankslide, simulated",
        source="blankslide simulator `tissue`",
        notes=("Simulated: the truth is planted and known.",),
        truth={
            "simulator": "tissue",
            "seed": seed,
            "parameters": asdict(parameters),
            "design": "every patient has as many patches of each class of each task; each task has patches of its own",
            "effects": {
                "arrangement": f"{parameters.dark_fraction:.0%} of the nuclei are dark: at random, or where a smooth random field is high",
                "third-order": "lattice form of the Baddeley-Silverman cell process against random sites, at equal numbers of nuclei and of pairs",
                "composition": "mean fraction of dark nuclei {:.0%} or {:.0%}".format(*parameters.composition_fraction),
            },
            "matched": {"third-order": ["intensity", "histogram", "density", "spectrum", "composition"]},
            "solved_by": {"arrangement": "cell-graph", "third-order": "cell-graph", "composition": "composition"},
        },
    )

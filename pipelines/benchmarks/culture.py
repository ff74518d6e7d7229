"""A Cell-Painting-like screen in which it is known what each image can tell.

Plates of 4 x 4 wells, five channels, nuisances as on real plates (gain, background, blur and vignetting per plate, gain
per well and cell, a background that falls across the columns). Every plate holds a full 2^4 factorial of treatments at
random positions, so each factor is balanced on every plate and independent of position and of the other factors:

- `count`: five cells or six.
- `texture`: the wavelength of a random field that modulates the ER. Its values are rank-mapped per image so that,
  weighted by the light they modulate, they have one fixed distribution: total light stays, the spectrum does not.
- `chirality`: Golgi (AGP) and a mitochondrial cluster (Mito) lie at a right angle around the nucleus, at random
  orientation; the mitochondria follow the Golgi clockwise or counterclockwise. One class is in law the mirror image
  of the other, so every statistic that a reflection leaves alone has exactly the same distribution in both, and
  auto- and cross-spectra agree in expectation. Only third-order structure (nucleus, Golgi, mitochondria) tells.
- RNA brightness: a fourth factor that belongs to no task of its own; it separates treatments in `replicate`.

`position` is the planted confound: its label is the half of the plate, nothing in the cells depends on it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipelines.benchmarks.card import BenchmarkCard, Task
from pipelines.benchmarks.culture_design import TREATMENTS, CultureParameters, Treatment
from pipelines.benchmarks.culture_scene import CHANNELS, draw_scene, expected_photons, expose, plate_effects
from pipelines.benchmarks.drawing import Drawn, stream, write_ome_tiff
from pipelines.parallel import in_parallel
from registry.images import ImageSpec

ROWS, COLUMNS = 4, 4
TEXTURE = ("fine", "coarse")
CHIRALITY = ("clockwise", "counterclockwise")
RNA = ("dim", "bright")
POSITION = ("columns 1-2", "columns 3-4")


@dataclass(frozen=True)
class Site:
    """One image and where it was taken, all counted from 0.

    Attributes:
        plate: number of the plate.
        row: row of the well.
        column: column of the well.
        site: number of the field in the well.
        treatment: what the well was given.
        pixels: (c, y, x) uint16 camera counts.
    """

    plate: int
    row: int
    column: int
    site: int
    treatment: Treatment
    pixels: NDArray[np.uint16]


def draw_culture(name: str, folder: Path, parameters: CultureParameters, seed: int, workers: int = 1) -> Drawn:
    """Draw a screen, plates side by side: images into `folder/images/`, index and card as the result."""
    from tqdm import tqdm

    number = parameters.train_plates + parameters.test_plates
    drawn = in_parallel(partial(_draw_plate, folder, parameters, seed), range(number), workers)
    records = [record for of_plate in tqdm(drawn, f"simulate {name}", number, unit="plate", disable=None, leave=False) for record in of_plate]
    return Drawn(_card(name, parameters, seed), pd.DataFrame.from_records(records))


def _draw_plate(folder: Path, parameters: CultureParameters, seed: int, plate: int) -> list[dict[str, Any]]:
    """Write the images of one plate and return their rows of the index."""
    return [_record(folder, parameters, site) for site in draw_plate(parameters, seed, plate)]


def draw_plate(parameters: CultureParameters, seed: int, plate: int) -> Iterator[Site]:
    """Draw the sites of one plate, well by well."""
    rng = stream(seed, "culture", plate)
    effects = plate_effects(parameters, rng)
    for well, number in enumerate(rng.permutation(len(TREATMENTS)).tolist()):
        treatment, (row, column) = TREATMENTS[number], divmod(well, COLUMNS)
        gain = np.exp(stream(seed, "culture", plate, well, "well").normal(0, parameters.well_gain_sd, len(CHANNELS)))
        in_well = replace(
            effects,
            gain=effects.gain * gain,
            background=effects.background * (1 + parameters.column_slope * (0.5 - column / (COLUMNS - 1))),
        )
        for site in range(parameters.sites_per_well):
            site_rng = stream(seed, "culture", plate, well, site)
            scene = draw_scene(parameters, treatment, site_rng)
            yield Site(plate, row, column, site, treatment, expose(expected_photons(scene, parameters, in_well), parameters, site_rng))


def _record(folder: Path, parameters: CultureParameters, site: Site) -> dict[str, Any]:
    """Write one image and return its row of the index."""
    plate, well, treatment = f"P{site.plate + 1:03d}", f"{'ABCD'[site.row]}{site.column + 1:02d}", site.treatment
    path = f"images/{plate}/{well}-s{site.site + 1}.ome.tiff"
    return {
        "image_id": f"{plate}-{well}-s{site.site + 1}",
        "path": path,
        "Metadata_Plate": plate,
        "Metadata_Well": well,
        "Metadata_Row": site.row + 1,
        "Metadata_Column": site.column + 1,
        "Metadata_Site": site.site + 1,
        "Metadata_Treatment": treatment.name,
        "Metadata_control": treatment.is_control,
        "unit": plate,
        "fold": -1 if site.plate < parameters.train_plates else 0,
        "label_count": f"{parameters.cells[treatment.count]} cells",
        "label_texture": TEXTURE[treatment.texture],
        "label_chirality": CHIRALITY[treatment.chirality],
        "label_position": POSITION[site.column >= COLUMNS // 2],
        "label_replicate": treatment.name,
        "sha256": write_ome_tiff(folder / path, site.pixels, CHANNELS, parameters.pixel_size_um),
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
            expectation=(
                "An untrained network or `spectrum` solves it. The light of the cells and its distribution before optics are matched;"
                " the extremes of an image's intensities still tell a little, so `intensity` is not quite at chance."
            ),
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
            nuisance=True,
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

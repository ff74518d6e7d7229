"""H&E-like tissue patches in which it is known what the arrangement of nuclei can tell.

Patches of a torus (what leaves on one side enters on the other, so no edge tells anything), patients with their own
stain, and three tasks, each on patches of its own, balanced within every patient:

- `arrangement`: nuclei of two types, as many of each in both classes; the types lie at random or in clusters.
- `third-order`: one type. Random sites of a lattice against a lattice form of the cell process of Baddeley and
  Silverman (1984, Biometrics 40:1089): block counts are redrawn so that the number of nuclei and the number of pairs per block
  keep their joint distribution. Ripley's K and the power spectrum agree, composition and count are equal; triples are not.
- `composition`: types at random, the fraction of dark nuclei differs.

The patches of two tasks have counts of four genes, of which `tissue_expression` says what they follow.

Light is blended linearly in the *sum* of soft discs, so that overlap, which depends on triples, removes no ink.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipelines.benchmarks.card import BenchmarkCard, Task
from pipelines.benchmarks.drawing import Drawn, stream, write_ome_tiff
from pipelines.benchmarks.tissue_design import TissueParameters
from pipelines.benchmarks.tissue_expression import GENES, TASKS, gene_counts
from pipelines.benchmarks.tissue_scene import (
    Nuclei,
    draw_arrangement,
    draw_composition,
    draw_third_order,
    patient_stain,
    render,
)
from pipelines.parallel import in_parallel
from registry.images import ImageSpec

CHANNELS = ("red", "green", "blue")
TYPES = ("tumour", "lymphocyte")
CLASSES = {"arrangement": ("random", "clustered"), "third-order": ("random", "cell-process"), "composition": ("fewer-dark", "more-dark")}


#: (parameters, stream, number of nuclei, class) -> the nuclei of one patch
DRAW: dict[str, Callable[[TissueParameters, np.random.Generator, int, int], Nuclei]] = {
    "arrangement": draw_arrangement,
    "third-order": draw_third_order,
    "composition": draw_composition,
}


@dataclass(frozen=True)
class Patch:
    """One image and what it shows.

    Attributes:
        patient: number of the patient, from 0.
        task: the task it belongs to.
        number: its number among the patient's patches of the task, from 0.
        label: its class, 0 or 1 (`CLASSES`).
        nuclei: its nuclei.
        pixels: (3, y, x) uint8.
    """

    patient: int
    task: str
    number: int
    label: int
    nuclei: Nuclei
    pixels: NDArray[np.uint8]


def draw_patient(parameters: TissueParameters, seed: int, patient: int, tasks: tuple[str, ...] = tuple(CLASSES)) -> Iterator[Patch]:
    """Draw the patches of one patient, task by task; classes alternate."""
    stain = patient_stain(parameters, stream(seed, "tissue", patient))
    for task in tasks:
        low, high = parameters.lattice_nuclei if task == "third-order" else parameters.nuclei
        for number in range(parameters.patches_per_task):
            pair, label = divmod(number, 2)
            # both patches of a pair hold as many nuclei, so the count has one distribution in both classes
            n = int(stream(seed, "tissue", patient, task, pair, "count").integers(low, high + 1))
            rng = stream(seed, "tissue", patient, task, number)
            drawn = DRAW[task](parameters, rng, n, label)
            nuclei = replace(drawn, radius_px=drawn.radius_px * stain.size)
            yield Patch(patient, task, number, label, nuclei, render(nuclei, stain, parameters, rng))


def draw_tissue(name: str, folder: Path, parameters: TissueParameters, seed: int, workers: int = 1) -> Drawn:
    """Draw all patients, side by side: images into `folder/images/`; index, nuclei and card as the result."""
    from tqdm import tqdm

    number = parameters.train_patients + parameters.test_patients
    drawn = in_parallel(partial(_draw_patient, folder, parameters, seed), range(number), workers)
    made = [one for patches in tqdm(drawn, f"simulate {name}", number, unit="patient", disable=None, leave=False) for one in patches]
    nuclei = pd.DataFrame({column: np.concatenate([one.nuclei[column] for one in made]) for column in made[0].nuclei})
    expression = pd.DataFrame.from_records([{"image_id": one.record["image_id"], **one.genes} for one in made if one.genes])
    return Drawn(_card(name, parameters, seed), pd.DataFrame.from_records([one.record for one in made]), nuclei, expression)


@dataclass(frozen=True)
class _Written:
    """What is kept of a patch whose image is written: its row of the index, columns of the nuclei table, and counts ({} where it has none)."""

    record: dict[str, Any]
    nuclei: dict[str, NDArray[Any]]
    genes: dict[str, int]


def _draw_patient(folder: Path, parameters: TissueParameters, seed: int, patient: int) -> list[_Written]:
    """Write the images of one patient."""
    made = []
    for patch in draw_patient(parameters, seed, patient):
        record = _record(folder, parameters, patch)
        counted = patch.task in TASKS
        genes = gene_counts(seed, patient, patch.task, patch.number, patch.nuclei, parameters.image_size_px) if counted else {}
        made.append(_Written(record, nuclei_columns(record["image_id"], patch.nuclei, parameters.pixel_size_um), genes))
    return made


def _record(folder: Path, parameters: TissueParameters, patch: Patch) -> dict[str, Any]:
    """Write one image and return its row of the index."""
    patient = f"T{patch.patient + 1:03d}"
    path = f"images/{patient}/{patch.task}-{patch.number + 1:02d}.ome.tiff"
    return {
        "image_id": f"{patient}-{patch.task}-{patch.number + 1:02d}",
        "path": path,
        "Metadata_Patient": patient,
        "Metadata_Set": patch.task,
        "unit": patient,
        "fold": -1 if patch.patient < parameters.train_patients else 0,
        **{f"label_{task}": CLASSES[task][patch.label] if task == patch.task else None for task in CLASSES},
        "sha256": write_ome_tiff(folder / path, patch.pixels, CHANNELS, parameters.pixel_size_um),
    }


def nuclei_columns(image_id: str, nuclei: Nuclei, pixel_size_um: float) -> dict[str, NDArray[Any]]:
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
            "genes": GENES,
            "solved_by": {"arrangement": "cell-graph", "third-order": "cell-graph", "composition": "composition"},
        },
    )

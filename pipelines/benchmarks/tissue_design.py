"""What the simulated tissue is made of: its settings and its lattice."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipelines.benchmarks.drawing import check_ranges
from registry.errors import ParamsError

#: the lattice of `third-order`: SIDE x SIDE sites in blocks of BLOCK x BLOCK
SIDE, BLOCK = 32, 4
BLOCKS = (SIDE // BLOCK) ** 2


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
        section_sd: standard deviation of the log light that a section of uneven thickness lets through.
        section_wavelength_px: its shortest waves.
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
    section_sd: float = 0.08
    section_wavelength_px: float = 11.0
    noise: float = 0.02

    def __post_init__(self) -> None:
        smallest = {"train_patients": 1, "test_patients": 1, "patches_per_task": 2, "image_size_px": SIDE, "nuclei": 2, "pixel_size_um": 1e-3}
        check_ranges(
            self,
            smallest | dict.fromkeys(("radius_px", "lattice_radius_px", "cluster_sigma_px", "section_wavelength_px"), 0.1) | {"lattice_nuclei": 8},
        )
        if self.patches_per_task % 2:
            raise ParamsError(f"`patches_per_task`: expected an even number (half of each class), got {self.patches_per_task}.")
        if max(self.lattice_nuclei) > BLOCKS + 8:
            raise ParamsError(f"`lattice_nuclei`: expected at most {BLOCKS + 8} nuclei on {BLOCKS} blocks, got {max(self.lattice_nuclei)}.")
        if max(self.nuclei) * np.pi / 4 * self.min_distance_px**2 > 0.5 * self.image_size_px**2:
            raise ParamsError(f"`nuclei`: {max(self.nuclei)} nuclei {self.min_distance_px} px apart do not fit {self.image_size_px} px. Take fewer.")
        if max(self.dark_fraction, *self.composition_fraction, *self.stain) > 1:
            raise ParamsError("Expected `dark_fraction`, `composition_fraction` and `stain` of at most 1.")

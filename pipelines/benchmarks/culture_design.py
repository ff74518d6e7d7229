"""What the simulated screen is made of: its settings and its treatments."""

from __future__ import annotations

import itertools
from dataclasses import asdict, dataclass

import numpy as np

from pipelines.benchmarks.drawing import check_ranges
from registry.errors import ParamsError

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

"""`density`: how many cells there are and how much of the image they cover."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from registry.arrays import Floats, Ints, Mask
from registry.controls.base import FormulaControl, control_card
from registry.controls.pattern import tables_of
from registry.images import ImageSpec
from registry.representation import Batch, Facts

NAME = "density"
#: names of channels that show nuclei, best first
NUCLEAR = tuple(
    re.compile(p) for p in (r"dna|dapi|hoechst|draq5|nuc|haematoxylin|hematoxylin", r"^h3$|h2b|histone", r"\bpi\b|propidium|^ir19[13]|intercalator")
)
RGB = ("red", "green", "blue")
#: optical density of haematoxylin, eosin and their residual in red, green, blue (Ruifrok and Johnston 2001)
STAINS = ((0.65, 0.70, 0.29), (0.07, 0.99, 0.11), (0.27, 0.57, 0.78))
SMOOTHING_PX = 1.0
LEAST_AREA_PX = 9
#: the foreground must stand out from the background by this many of its standard deviations (noise alone gives 2.6); else nothing is counted
LEAST_CONTRAST = 3.0


class Density(FormulaControl):
    """Cell count and area, from the table of nuclei where there is one, else from a segmentation of the nuclear channel.

    The segmentation: the nuclear channel (see `nuclear_image`) smoothed by a Gaussian of SMOOTHING_PX, thresholded at Otsu's threshold
    (1979), components of at least LEAST_AREA_PX; nuclei that touch are told apart as maxima of the Laplacian of Gaussian at the
    scale of a typical component.

    Args:
        facts: the channels, the size of the images and whether there is a table.
    """

    def __init__(self, facts: Facts) -> None:
        card = control_card(
            NAME, "Number of cells and the area they cover: from the table of nuclei, else by Otsu's threshold on the nuclear channel."
        )
        reason = (
            "it needs the table of nuclei, which a new image does not have"
            if facts.nuclei
            else "it segments with scikit-image, which is not an ONNX graph"
        )
        super().__init__(card, facts, reason)

    @property
    def columns(self) -> tuple[str, ...]:
        """Count and area; areas in um2 from a table, else as a share of the image."""
        if self.facts.nuclei:
            return ("count", "total area (um2)", "mean area (um2)", "sd of area (um2)", "no area")
        return ("count", "components", "area share", "mean component (share)", "sd of components (share)", "nothing found")

    def describe(self, batch: Batch) -> Floats:
        """(n, d) counts and areas."""
        if self.facts.nuclei:
            return np.stack([count_table(table) for table in tables_of(batch, self.facts)])
        return np.stack([count_nuclei(nuclear_image(pixels, self.facts.image)) for pixels in batch.pixels])


def count_table(table: pd.DataFrame) -> Floats:
    """(5,) number of nuclei, total, mean and spread of their areas, and whether no area is stated."""
    area = table["area_um2"].to_numpy(dtype=np.float64, na_value=np.nan)
    area = area[np.isfinite(area)]
    none = len(area) == 0
    return np.array([len(table), area.sum(), 0.0 if none else area.mean(), 0.0 if none else area.std(), none])


def nuclear_channel(channels: tuple[str, ...]) -> int:
    """The channel whose name says it shows nuclei; the first where none does."""
    for pattern in NUCLEAR:
        for i, name in enumerate(channels):
            if pattern.search(name.lower()):
                return i
    return 0


def nuclear_image(pixels: NDArray[np.float32], image: ImageSpec) -> Floats:
    """(y, x) an image in which nuclei are bright.

    RGB with a bright background (median above half the range) is stained and seen in transmitted light: the optical density of
    haematoxylin after colour deconvolution. RGB with a dark background is fluorescence, nuclei by custom in blue. Else `nuclear_channel`.
    """
    if image.channels != RGB:
        grey: Floats = pixels[nuclear_channel(image.channels)].astype(np.float64)
        return grey
    low, high = (np.array(bound)[:, None, None] for bound in zip(*image.intensity, strict=True))
    unit = (pixels - low) / (high - low)
    if np.median(unit) < 0.5:
        return np.asarray(unit[2], dtype=np.float64)
    optical_density = -np.log10(np.clip(unit, 1e-3, 1.0))
    stains = np.array(STAINS) / np.linalg.norm(STAINS, axis=1, keepdims=True)
    haematoxylin: Floats = np.tensordot(np.linalg.inv(stains)[:, 0], optical_density, 1)
    return haematoxylin


def count_nuclei(nuclear: Floats) -> Floats:
    """(6,) nuclei, components, area share, mean and spread of component areas (shares), and whether nothing was found."""
    from scipy import ndimage

    smooth = ndimage.gaussian_filter(nuclear, SMOOTHING_PX)
    components, areas = segment(smooth)
    if not len(areas):
        return np.array([0.0, 0.0, 0.0, 0.0, 0.0, 1.0])
    share = areas / nuclear.size
    return np.array([count_maxima(nuclear, components, areas), len(areas), share.sum(), share.mean(), share.std(), 0.0])


def segment(smooth: Floats) -> tuple[Mask, Floats]:
    """The foreground mask without specks, and the areas in pixels of its components."""
    from scipy import ndimage
    from skimage.filters import threshold_otsu

    nothing = np.zeros(smooth.shape, dtype=bool), np.zeros(0)
    if np.ptp(smooth) == 0:
        return nothing
    foreground: Mask = smooth > threshold_otsu(smooth)
    background = smooth[~foreground]
    if not foreground.any() or smooth[foreground].mean() - background.mean() < LEAST_CONTRAST * background.std():
        return nothing
    labels, number = ndimage.label(foreground)
    sizes: Ints = np.bincount(labels.ravel(), minlength=number + 1)
    sizes[0] = 0
    kept = sizes >= LEAST_AREA_PX
    return kept[labels], sizes[kept].astype(np.float64)


def count_maxima(nuclear: Floats, foreground: Mask, areas: Floats) -> float:
    """Nuclei as maxima of the negative Laplacian of Gaussian inside the foreground, at least one per component.

    A disc of radius r answers most at sigma = r / sqrt(2); two maxima nearer than r are one. r^2 is half that of the component the
    median foreground pixel lies in: small debris, however much there is of it, does not lower the scale, and two nuclei that make up
    that component are still two.
    """
    from scipy import ndimage

    rising = np.sort(areas)
    typical = rising[np.searchsorted(np.cumsum(rising), rising.sum() / 2)]
    radius_px = float(np.sqrt(typical / (2 * np.pi)))
    answer = -ndimage.gaussian_laplace(nuclear, radius_px / np.sqrt(2))
    width = 2 * int(np.ceil(radius_px)) + 1
    maxima = (answer == ndimage.maximum_filter(answer, size=width)) & foreground & (answer > 0)
    return float(max(ndimage.label(maxima, structure=np.ones((3, 3)))[1], len(areas)))

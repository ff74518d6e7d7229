"""Proof that the matched tasks of the simulated benchmarks are matched: controls at chance on thousands of images.

    python benchmarks/simulators.py            # about 4,800 images per task, minutes
    python benchmarks/simulators.py --quick    # about 600: the same table, intervals too wide to prove anything

Every row is a set of hand-made numbers per image, standardised, and judged by logistic regression and by 15 nearest neighbours,
cross-fitted in five folds of whole plates or patients. Printed: balanced accuracy and its interval (each unit left out
in turn, t on n_eff - 1). A row is `matched` where both intervals lie within 0.03 of chance. The rows that must be are the
`matched` of the benchmark's card; rows in capitals are third-order statistics that must not be, or the task would be empty.
Exit code 1 when a row that must be matched is not.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipelines.benchmarks.culture import CultureParameters
from pipelines.benchmarks.index import Benchmark
from pipelines.benchmarks.simulate import radial_frequency, simulate
from pipelines.benchmarks.tissue import TissueParameters
from pipelines.metrics.classification import balanced_accuracy
from pipelines.metrics.jackknife import interval
from registry.arrays import Floats, Ints

MARGIN = 0.03
FOLDS = 5
BINS = 32
#: (benchmark, row of its index) -> numbers of one image
Features = Callable[[Benchmark, int], Floats]


def intensity(benchmark: Benchmark, row: int) -> Floats:
    """Per channel: mean, sd, skewness, kurtosis, quantiles."""
    flat = benchmark.pixels(row).reshape(len(benchmark.card.image.channels), -1).astype(np.float64)
    centred = flat - flat.mean(axis=1, keepdims=True)
    sd = flat.std(axis=1, keepdims=True)
    quantiles = np.quantile(flat, (0, 0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 1), axis=1)
    return np.concatenate([flat.mean(axis=1), sd[:, 0], ((centred / sd) ** 3).mean(axis=1), ((centred / sd) ** 4).mean(axis=1), quantiles.ravel()])


def histogram(benchmark: Benchmark, row: int) -> Floats:
    """Per channel: fraction of pixels in bins over the card's intensity range and beyond."""
    pixels = benchmark.pixels(row)
    edges = [np.linspace(low - (high - low) / 16, high, BINS - 1) for low, high in benchmark.card.image.intensity]
    return np.concatenate([np.bincount(np.digitize(p.ravel(), e), minlength=BINS) / p.size for p, e in zip(pixels, edges, strict=True)])


def density(benchmark: Benchmark, row: int) -> Floats:
    """Objects found in the nuclear stain: number, total area, mean and sd of area."""
    from scipy.ndimage import gaussian_filter, label
    from skimage.filters import threshold_otsu

    pixels = benchmark.pixels(row)
    stain = gaussian_filter(pixels[0] if benchmark.card.modality == "cells" else 255 - pixels[0], 0.7)
    objects, _ = label(stain > threshold_otsu(stain))
    areas = np.bincount(objects.ravel())[1:]
    areas = areas[areas >= 3]
    return np.array([len(areas), areas.sum(), areas.mean(), areas.std()])


def spectrum(benchmark: Benchmark, row: int) -> Floats:
    """Radial log power of each channel and log cross-power (real part, signed) of each pair."""
    pixels = benchmark.pixels(row).astype(np.float64)
    transform = np.fft.rfft2(pixels - pixels.mean(axis=(1, 2), keepdims=True))
    frequency = radial_frequency(pixels.shape[1])
    ring = np.minimum((frequency * 2 * 16).astype(int), 15).ravel()
    weight = np.bincount(ring, minlength=16)
    numbers = []
    for a, b in itertools.combinations_with_replacement(range(len(pixels)), 2):
        power = np.bincount(ring, (transform[a] * transform[b].conj()).real.ravel(), minlength=16) / weight / pixels[0].size
        numbers.append(np.log(power) if a == b else np.arcsinh(power))
    return np.concatenate(numbers)


def composition(benchmark: Benchmark, row: int) -> Floats:
    """Nuclei of each type."""
    types = benchmark.nuclei[benchmark.index["image_id"].iloc[row]]["type"]
    return np.array([(types == "lymphocyte").sum(), (types == "tumour").sum(), (types == "lymphocyte").mean()], dtype=np.float64)


def ripley(benchmark: Benchmark, row: int) -> Floats:
    """K on the torus: pairs of nuclei closer than r."""
    distance = _distances(benchmark, row)
    return np.array([(distance < r).mean() for r in np.arange(2.0, 25.0, 1.5) * benchmark.card.truth["parameters"]["pixel_size_um"]])


def nearest(benchmark: Benchmark, row: int) -> Floats:
    """Quantiles of the distances to the first, second and fourth neighbour (G functions): third and higher order."""
    ordered = np.sort(_distances(benchmark, row), axis=1)[:, [1, 2, 4]]
    return np.quantile(ordered, np.linspace(0, 1, 9), axis=0).ravel()


def _distances(benchmark: Benchmark, row: int) -> Floats:
    table = benchmark.nuclei[benchmark.index["image_id"].iloc[row]]
    side_um = benchmark.card.image.height * float(benchmark.card.truth["parameters"]["pixel_size_um"])
    points = table[["y_um", "x_um"]].to_numpy()
    away = np.abs(points[:, None] - points[None, :])
    distance: Floats = np.sqrt((np.minimum(away, side_um - away) ** 2).sum(axis=2))
    return distance


def handedness(benchmark: Benchmark, row: int) -> Floats:
    """Mean over nuclei of the signed area spanned by the directions to the light of Golgi and mitochondria: third order."""
    from scipy.ndimage import gaussian_filter, maximum_filter

    pixels = benchmark.pixels(row).astype(np.float64)
    nuclei, golgi, mitochondria = gaussian_filter(pixels[[0, 3, 4]], (0, 1, 1))
    peaks = np.argwhere((maximum_filter(nuclei, 9) == nuclei) & (nuclei > (nuclei.min() + nuclei.max()) / 2))
    y, x = np.indices(nuclei.shape)
    crosses = []
    for centre in peaks:
        dy, dx = y - centre[0], x - centre[1]
        near = dy**2 + dx**2 <= 64
        g, m = (np.where(near, np.clip(light - np.median(light[near]), 0, None) ** 2, 0) for light in (golgi, mitochondria))
        cross = (g * dx).sum() * (m * dy).sum() - (g * dy).sum() * (m * dx).sum()
        crosses.append(cross / (g.sum() * m.sum()))
    return np.array([np.mean(crosses)])


ROWS: dict[str, dict[str, Features]] = {
    "culture": {"intensity": intensity, "histogram": histogram, "density": density, "spectrum": spectrum, "HANDEDNESS": handedness},
    "tissue": {
        "intensity": intensity,
        "histogram": histogram,
        "density": density,
        "spectrum": spectrum,
        "composition": composition,
        "ripley-k": ripley,
        "NEAREST": nearest,
    },
}


def cross_fitted(features: Floats, labels: Ints, units: NDArray[np.str_], probe: str) -> Ints:
    """(n,) predictions, each from a probe that saw none of the image's unit."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GroupKFold
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    predicted = np.empty_like(labels)
    for train, test in GroupKFold(FOLDS).split(features, labels, units):
        classifier = LogisticRegression(C=0.1, max_iter=2000) if probe == "logistic" else KNeighborsClassifier(15)
        predicted[test] = make_pipeline(StandardScaler(), classifier).fit(features[train], labels[train]).predict(features[test])
    return predicted


def table(benchmark: Benchmark) -> list[str]:
    """Print the table of one benchmark; return the rows that had to be matched and are not."""
    failures = []
    tasks = [task for task in benchmark.card.tasks if task.metric == "logistic.balanced_accuracy"]
    for name, features in ROWS[benchmark.card.name].items():
        values = np.stack([features(benchmark, row) for row in benchmark])
        for task in tasks:
            labels = benchmark.labels(task)
            part = labels.notna().to_numpy()
            codes = np.unique(labels[part].to_numpy(dtype=str), return_inverse=True)[1].astype(np.int64)
            units = benchmark.index["unit"].to_numpy(dtype=str)[part]
            shown, matched = [], True
            for probe in ("logistic", "knn"):
                statistic = balanced_accuracy(codes, cross_fitted(values[part], codes, units, probe), units, 2)
                # no scatter at all: the same hits in every unit
                low, high = interval(statistic) or (statistic.value, statistic.value)
                matched &= low >= 0.5 - MARGIN and high <= 0.5 + MARGIN
                shown.append(f"{probe} {statistic.value:.3f} [{low:.3f}, {high:.3f}]")
            required = name in benchmark.card.truth["matched"].get(task.name, ())
            failed = required and not matched
            if failed:
                failures.append(f"{benchmark.card.name}/{task.name}/{name}")
            word = "NOT MATCHED" if failed else "matched" if matched else ""
            print(f"{benchmark.card.name:8} {task.name:12} {name:11} {shown[0]}  {shown[1]}  {int(part.sum())} images  {word}", flush=True)
    return failures


def main() -> int:
    """Simulate, tabulate, judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="an eighth of the units")
    parser.add_argument("--seed", type=int, default=1000)
    parser.add_argument("--only", choices=sorted(ROWS), help="one benchmark instead of both")
    arguments = parser.parse_args()
    shrink = 8 if arguments.quick else 1
    settings = {
        "culture": CultureParameters(train_plates=50 // shrink, test_plates=50 // shrink),
        "tissue": TissueParameters(train_patients=100 // shrink, test_patients=100 // shrink),
    }
    failures = []
    for name, parameters in settings.items():
        if arguments.only in (None, name):
            with tempfile.TemporaryDirectory(prefix="blankslide-") as folder:
                start_s = time.perf_counter()
                benchmark = simulate(name, Path(folder) / name, parameters, arguments.seed)
                print(f"{name}: {len(benchmark.index)} images simulated in {time.perf_counter() - start_s:.0f} s", flush=True)
                failures += table(benchmark)
    if failures and not arguments.quick:
        print(f"Not matched within {MARGIN}: {', '.join(failures)}.")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

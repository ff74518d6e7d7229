"""Small planted data sets: images in units, with labels that features may or may not know."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipelines.metrics.statistic import Statistic


@dataclass(frozen=True, eq=False)
class Images:
    """n labelled images in units; `noise` knows nothing."""

    labels: NDArray[np.int64]
    units: NDArray[np.str_]
    noise: NDArray[np.float64]


def images(n: int, n_units: int, n_classes: int, seed: int, d: int = 8) -> Images:
    """Unit sizes differ; every class may occur in every unit."""
    rng = np.random.default_rng(seed)
    weights = np.exp(rng.normal(size=n_units))
    units = rng.choice(n_units, size=n, p=weights / weights.sum())
    units[: 2 * n_units] = np.tile(np.arange(n_units), 2)[:n]
    labels = rng.integers(0, n_classes, n)
    return Images(labels, np.array([f"plate-{u:04d}" for u in units]), rng.normal(size=(n, d)))


def halves(units: NDArray[np.str_]) -> NDArray[np.int64]:
    """One outer split: every other unit is tested."""
    _, codes = np.unique(units, return_inverse=True)
    return np.where(codes % 2 == 0, -1, 0)


def statistic(value: float, without: NDArray[np.float64], class_in_units: int = 10) -> Statistic:
    """A statistic of equal units."""
    n = len(without)
    return Statistic(value, tuple(f"u{i:03d}" for i in range(n)), np.asarray(without, float), np.full(n, 1 / n), 10 * n, class_in_units)


def mean_statistic(per_unit: NDArray[np.float64]) -> Statistic:
    """The mean of one number per unit, units equal."""
    n = len(per_unit)
    return statistic(float(per_unit.mean()), (per_unit.sum() - per_unit) / (n - 1))

"""Statistics of what units have trained, on rows that are alike: does the interval of their difference hold 0, and what p does it get?

The truth is that of rows trained on other units of the same kind: over the draws it is 0, which of the two had the luckier training units or not.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from pipelines.metrics import probes
from pipelines.metrics.baseline import InformationSettings
from pipelines.metrics.classification import balanced_accuracy
from pipelines.metrics.decoding import decode
from pipelines.metrics.expression import expression_scores
from pipelines.metrics.information import beyond_controls
from pipelines.metrics.jackknife import difference, estimate, why_not_assessable
from pipelines.metrics.probes import ProbeSettings
from pipelines.metrics.statistic import Statistic, inflation_of

SETTINGS = ProbeSettings(grid=(1e-3, 1e-1, 1e1))


@dataclass(frozen=True)
class Compared:
    """Two rows that are alike.

    Attributes:
        holds: whether the interval of their difference holds 0.
        p: two-sided, of the difference. Widened intervals make it larger than it need be, on both sides, so that it is never too small.
    """

    holds: bool
    p: float

    @classmethod
    def of(cls, first: Statistic, second: Statistic) -> Compared | None:
        """None where the difference is not assessable."""
        gain = difference(first, second)
        if why_not_assessable(gain):
            return None
        e = estimate(gain)
        # two rows that both add nothing do not scatter
        return cls(bool(e.low() <= 0 <= e.high()), 2 * min(e.p, 1 - e.p) if e.variance > 0 else float(e.value == 0))


def probed(x: np.ndarray, labels: np.ndarray, units: np.ndarray, folds: np.ndarray) -> Statistic:
    """Balanced accuracy through the probe that scores real rows, each fold tested by what the rest has trained."""
    found = probes.out_of_fold(x, labels, folds, units, 2, SETTINGS)
    score = balanced_accuracy(found.labels, found.predicted, units[found.images], 2)
    return replace(score, inflation=inflation_of(folds, units))


def probes_compared(folds: int, signal: float, seed: int) -> Compared | None:
    """Balanced accuracy of two rows that are alike, where each fold is tested by what the others have trained."""
    rng = np.random.default_rng([seed, 8])
    codes = np.repeat(np.arange(24), 14)
    units = np.array([f"u{code:02d}" for code in codes])
    labels = rng.integers(0, 2, len(units))
    of_units = codes % max(folds, 2)
    found = []
    for _ in range(2):
        x = rng.normal(size=(len(units), 24))
        x[:, 0] += signal * (2 * labels - 1)
        found.append(probed(x, labels, units, np.where(of_units < folds, of_units, -1)))
    return Compared.of(*found)


@dataclass(frozen=True)
class Tested:
    """Ten images of each unit, in as many test folds; with one, `split` units train and are tested."""

    rng: np.random.Generator
    units: np.ndarray
    folds: np.ndarray
    codes: np.ndarray

    @classmethod
    def of(cls, folds: int, seed: int, split: tuple[int, int] = (12, 12)) -> Tested:
        train, test = split
        codes = np.repeat(np.arange(train + test), 10)
        numbers = codes % folds if folds > 1 else np.where(codes < train, -1, 0)
        return cls(np.random.default_rng([seed, 9]), np.array([f"u{code:02d}" for code in codes]), numbers, codes)


def bits_compared(folds: int, signal: float, seed: int) -> Compared | None:
    """Bits beyond a control of two rows that know as much beside it."""
    design = Tested.of(folds, seed)
    labels = design.rng.integers(0, 2, len(design.units))
    control, first, second = (design.rng.normal(size=(len(labels), width)) for width in (1, 12, 12))
    for row, size in ((control, 0.3), (first, signal), (second, signal)):
        row[:, 0] += size * (2 * labels - 1)
    settings = InformationSettings(random_networks=0)
    found = beyond_controls(control, first, {"other": [second]}, labels, design.folds, design.units, 2, settings)
    return Compared.of(found.encoder, found.twins["other"][0])


def expression_compared(folds: int, signal: float, seed: int, split: tuple[int, int] = (12, 12)) -> Compared | None:
    """The headline of gene expression: four genes that share a state, patients who differ, two rows that see the state as well."""
    design = Tested.of(folds, seed, split)
    state = design.rng.normal(size=(len(design.units), 1))
    patients = 0.5 * design.rng.normal(size=(sum(split), 4))
    counts = design.rng.poisson(np.exp(1 + 0.5 * state + patients[design.codes])).astype(np.float64)
    rows = [design.rng.normal(size=(len(state), 12)) + signal * state * (np.arange(12) == 0) for _ in range(2)]
    first, second = (expression_scores(row, counts, design.units, design.folds).r for row in rows)
    return Compared.of(first, second)


def decoding_covered(seed: int) -> bool | None:
    """A batch of each unit decoded from noise, under the folds that decoding makes: whether the interval holds chance."""
    design = Tested.of(5, seed)
    batches = np.array(["a", "b", "c"])[design.codes % 3]
    found = decode(design.rng.normal(size=(len(batches), 12)), "Batch", {"Batch": batches}, design.units, SETTINGS)
    bounds = found.interval
    return None if bounds is None else bounds[0] <= found.chance <= bounds[1]

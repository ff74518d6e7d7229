"""Statistics whose folds are tested by what the others have trained, on rows that are alike: does the interval of their difference hold 0?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from pipelines.metrics.baseline import InformationSettings
from pipelines.metrics.classification import balanced_accuracy
from pipelines.metrics.decoding import decode
from pipelines.metrics.expression import expression_scores
from pipelines.metrics.information import beyond_controls
from pipelines.metrics.jackknife import difference, estimate, why_not_assessable
from pipelines.metrics.probes import ProbeSettings, fit_probe
from pipelines.metrics.statistic import Statistic, inflation_of

SETTINGS = ProbeSettings(grid=(1e-3, 1e-1, 1e1))


def probed(x: np.ndarray, labels: np.ndarray, units: np.ndarray, tests: Sequence[np.ndarray], leak: bool = False) -> Statistic:
    """Balanced accuracy through the probe that scores real rows, each of `tests` (n,) tested by what the rest has trained; `leak`: and by itself."""
    predicted, folds = np.full(len(units), -1), np.full(len(units), -1)
    for number, test in enumerate(tests):
        folds[test] = number
        seen = np.ones(len(units), dtype=bool) if leak else ~test
        probe = fit_probe(x[seen], labels[seen], units[seen], 2, SETTINGS)
        predicted[test] = probe.predict_proba(x[test]).argmax(axis=1)
    tested = predicted >= 0
    score = balanced_accuracy(labels[tested], predicted[tested], units[tested], 2)
    return replace(score, inflation=inflation_of(folds, units))


def probes_covered(folds: int, signal: float, seed: int) -> bool:
    """Whether the interval of the difference of two rows that are alike holds 0, where each fold is tested by what the others have trained."""
    rng = np.random.default_rng([seed, 8])
    names = np.array([f"u{number:02d}" for number in range(24)])
    units = np.repeat(names, 14)
    labels = rng.integers(0, 2, len(units))
    tests = [np.isin(units, names[number :: max(folds, 2)]) for number in range(folds)]
    found = []
    for _ in range(2):
        x = rng.normal(size=(len(units), 24))
        x[:, 0] += signal * (2 * labels - 1)
        found.append(probed(x, labels, units, tests))
    e = estimate(difference(*found))
    return bool(e.low() <= 0 <= e.high())


@dataclass(frozen=True)
class Tested:
    """Ten images of each of 24 units, in as many test folds; with one, the other half of the units always trains."""

    rng: np.random.Generator
    units: np.ndarray
    folds: np.ndarray
    codes: np.ndarray

    @classmethod
    def of(cls, folds: int, seed: int) -> Tested:
        codes = np.repeat(np.arange(24), 10)
        numbers = codes % folds if folds > 1 else codes % 2 - 1
        return cls(np.random.default_rng([seed, 9]), np.array([f"u{code:02d}" for code in codes]), numbers, codes)


def holds_nothing(first: Statistic, second: Statistic) -> bool | None:
    """Whether the interval of the difference of two rows that are alike holds 0; None where there is none."""
    gain = difference(first, second)
    if why_not_assessable(gain):
        return None
    e = estimate(gain)
    return bool(e.low() <= 0 <= e.high())


def bits_covered(folds: int, signal: float, seed: int) -> bool | None:
    """Bits beyond a control of two rows that know as much beside it."""
    design = Tested.of(folds, seed)
    labels = design.rng.integers(0, 2, len(design.units))
    control, first, second = (design.rng.normal(size=(len(labels), width)) for width in (1, 12, 12))
    for row, size in ((control, 0.3), (first, signal), (second, signal)):
        row[:, 0] += size * (2 * labels - 1)
    settings = InformationSettings(random_networks=0)
    found = beyond_controls(control, first, {"other": [second]}, labels, design.folds, design.units, 2, settings)
    return holds_nothing(found.encoder, found.twins["other"][0])


def expression_covered(folds: int, signal: float, seed: int) -> bool | None:
    """The headline of gene expression: four genes that share a state, patients who differ, two rows that see the state as well."""
    design = Tested.of(folds, seed)
    state = design.rng.normal(size=(len(design.units), 1))
    patients = 0.5 * design.rng.normal(size=(24, 4))
    counts = design.rng.poisson(np.exp(1 + 0.5 * state + patients[design.codes])).astype(np.float64)
    rows = [design.rng.normal(size=(len(state), 12)) + signal * state * (np.arange(12) == 0) for _ in range(2)]
    first, second = (expression_scores(row, counts, design.units, design.folds).r for row in rows)
    return holds_nothing(first, second)


def decoding_covered(seed: int) -> bool | None:
    """A batch of each unit decoded from noise, under the folds that decoding makes: whether the interval holds chance."""
    design = Tested.of(5, seed)
    batches = np.array(["a", "b", "c"])[design.codes % 3]
    found = decode(design.rng.normal(size=(len(batches), 12)), "Batch", {"Batch": batches}, design.units, SETTINGS)
    bounds = found.interval
    return None if bounds is None else bounds[0] <= found.chance <= bounds[1]

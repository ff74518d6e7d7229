"""Proof that the matched tasks of the simulated benchmarks are matched: controls at chance on thousands of images.

    python benchmarks/simulators.py            # chirality and third-order, 9,600 images each, minutes
    python benchmarks/simulators.py --quick    # an eighth of that: the same table, intervals too wide to prove anything

Every row is a control of the registry, judged by logistic regression and by 15 nearest neighbours after standardisation, cross-fitted in
five folds of whole plates or patients. Printed: balanced accuracy and its interval (each unit left out in turn, t on n_eff - 1).
A row is `matched` where the interval of both probes lies within 0.03 of chance. The rows that must be are those the benchmark's card
names; below them stand rows that see third-order structure and must not be, or the task would be empty.
Exit code 1 when a row that must be matched is not.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipelines.benchmarks.card import BenchmarkCard
from pipelines.benchmarks.culture import draw_plate
from pipelines.benchmarks.culture_design import CultureParameters
from pipelines.benchmarks.simulate import simulate
from pipelines.benchmarks.summaries import handedness, nuclear_peaks
from pipelines.benchmarks.tissue import draw_patient, nuclei_columns
from pipelines.benchmarks.tissue_design import TissueParameters
from pipelines.metrics.classification import balanced_accuracy
from pipelines.metrics.jackknife import interval
from pipelines.rows import facts_of
from registry.arrays import Floats, Ints
from registry.controls.catalogue import make_control
from registry.representation import Batch, Facts

MARGIN = 0.03
FOLDS = 5
UNITS = 200
#: units whose images place the edges of `histogram`; labels are not read
FITTED_UNITS = 10
Features = Callable[[Batch], Floats]


@dataclass(frozen=True)
class Unit:
    """The images of one plate or patient and their classes."""

    batch: Batch
    labels: Ints


def culture_unit(seed: int, plate: int) -> Unit:
    """The sites of one plate, labelled by chirality."""
    sites = list(draw_plate(CultureParameters(), seed, plate))
    ids = tuple(f"{plate}-{i}" for i in range(len(sites)))
    pixels = np.stack([site.pixels for site in sites]).astype(np.float32)
    return Unit(Batch(ids, pixels, pd.DataFrame(index=range(len(sites)))), np.array([site.treatment.chirality for site in sites]))


def tissue_unit(seed: int, patient: int) -> Unit:
    """The `third-order` patches of one patient."""
    parameters = replace(TissueParameters(), patches_per_task=48)
    patches = list(draw_patient(parameters, seed, patient, ("third-order",)))
    ids = tuple(f"{patient}-{patch.number}" for patch in patches)
    pixels = np.stack([patch.pixels for patch in patches]).astype(np.float32)
    nuclei = tuple(pd.DataFrame(nuclei_columns(name, patch.nuclei, parameters.pixel_size_um)) for name, patch in zip(ids, patches, strict=True))
    return Unit(Batch(ids, pixels, pd.DataFrame(index=range(len(patches))), nuclei), np.array([patch.label for patch in patches]))


def turn(batch: Batch) -> Floats:
    """The signed turn from Golgi to mitochondria, one number per image."""
    return np.array([[handedness(nuclear_peaks(pixels[0]), pixels[3], pixels[4])] for pixels in batch.pixels])


@dataclass(frozen=True)
class Proof:
    """One matched task.

    Attributes:
        benchmark: the simulator.
        task: the matched task.
        small: settings that make a card in a second.
        unit: (seed, number) -> the images of one unit.
        beside: rows that are not expected to be matched: controls of the registry, or a function.
    """

    benchmark: str
    task: str
    small: CultureParameters | TissueParameters
    unit: Callable[[int, int], Unit]
    beside: dict[str, Features | None]


PROOFS = (
    Proof("culture", "chirality", CultureParameters(1, 1, 1), culture_unit, {"texture": None, "handedness": turn}),
    Proof("tissue", "third-order", TissueParameters(1, 1, 2), tissue_unit, {"texture": None, "point-process": None, "cell-graph": None}),
)


def card_and_facts(proof: Proof, seed: int) -> tuple[BenchmarkCard, Facts]:
    """What the simulator says of itself."""
    with tempfile.TemporaryDirectory(prefix="blankslide-") as folder:
        made = simulate(proof.benchmark, Path(folder) / proof.benchmark, proof.small, seed)
        return made.card, facts_of(made)


def rows_of(proof: Proof, names: list[str], facts: Facts, seed: int) -> dict[str, Features]:
    """The features of each row, fitted where there is something to fit."""

    def fitting() -> Iterator[Batch]:
        return (proof.unit(seed + 1, number).batch for number in range(FITTED_UNITS))

    rows: dict[str, Features] = {}
    for name in (*names, *proof.beside):
        function = proof.beside.get(name)
        rows[name] = function or _control(name, facts, seed, fitting())
    return rows


def _control(name: str, facts: Facts, seed: int, batches: Iterator[Batch]) -> Features:
    control = make_control(name, facts, seed)
    control.fit(batches)
    return lambda batch: control.embed(batch).astype(np.float64)


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


def prove(proof: Proof, seed: int, n_units: int) -> list[str]:
    """Print the table of one task; return the rows that had to be matched and are not."""
    start_s = time.perf_counter()
    card, facts = card_and_facts(proof, seed)
    required = list(card.truth["matched"][proof.task])
    rows = rows_of(proof, required, facts, seed)
    found: dict[str, list[Floats]] = {name: [] for name in rows}
    labels, units = [], []
    for number in range(n_units):
        unit = proof.unit(seed, number)
        labels.append(unit.labels)
        units += [f"{number:04d}"] * len(unit.labels)
        for name, features in rows.items():
            found[name].append(features(unit.batch))
    codes, names = np.concatenate(labels), np.array(units)
    print(f"{proof.benchmark}, {proof.task}: {len(codes)} images in {n_units} units of {card.unit}, seed {seed}")
    failures = []
    for name, parts in found.items():
        shown, matched = [], True
        for probe in ("logistic", "knn"):
            statistic = balanced_accuracy(codes, cross_fitted(np.concatenate(parts), codes, names, probe), names, 2)
            # None: no scatter at all, the same hits in every unit
            low, high = interval(statistic) or (statistic.value, statistic.value)
            matched &= low >= 0.5 - MARGIN and high <= 0.5 + MARGIN
            shown.append(f"{probe} {statistic.value:.3f} [{low:.3f}, {high:.3f}]")
        if name in required and not matched:
            failures.append(f"{proof.task}/{name}")
        word = ("matched" if matched else "not shown to be matched") if name in required else "beside"
        print(f"  {name:14} {shown[0]}   {shown[1]}   {word}", flush=True)
    print(f"  {time.perf_counter() - start_s:.0f} s", flush=True)
    return failures


def main() -> int:
    """Draw, tabulate, judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="an eighth of the units; proves nothing, exit code 0")
    parser.add_argument("--seed", type=int, default=1000)
    parser.add_argument("--only", choices=[proof.benchmark for proof in PROOFS], help="one benchmark instead of both")
    arguments = parser.parse_args()
    n_units = UNITS // 8 if arguments.quick else UNITS
    failures = [row for proof in PROOFS if arguments.only in (None, proof.benchmark) for row in prove(proof, arguments.seed, n_units)]
    if failures and not arguments.quick:
        print(f"Not matched within {MARGIN}: {', '.join(failures)}.")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

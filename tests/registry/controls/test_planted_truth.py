"""What the simulators plant is found by the controls that should find it, and by no other."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from pipelines.benchmarks.tissue import TYPES, Nuclei, draw_arrangement, draw_third_order
from pipelines.benchmarks.tissue_design import TissueParameters
from registry.arrays import Embedding
from registry.controls.catalogue import make_control
from registry.images import ImageSpec
from registry.representation import Batch, Facts
from tests.registry.controls.samples import batch_of, nuclei_table

PARAMETERS = TissueParameters()
SPEC = ImageSpec(("a",), "uint8", 96, 96, ((0.0, 255.0),), PARAMETERS.pixel_size_um)
FACTS = Facts("tissue", "tissue", SPEC, (), True, TYPES)
PATCHES = 240


def patches(task: str) -> Batch:
    """Nuclei of both classes in turn, without pixels."""
    rng = np.random.default_rng(11)
    draw, nuclei = (draw_arrangement, PARAMETERS.nuclei) if task == "arrangement" else (draw_third_order, PARAMETERS.lattice_nuclei)
    drawn = [draw(PARAMETERS, rng, int(rng.integers(nuclei[0], nuclei[1] + 1)), i % 2) for i in range(PATCHES)]
    return batch_of(np.zeros((PATCHES, 1, 1, 1), np.float32), [_table(n) for n in drawn])


def _table(nuclei: Nuclei):  # type: ignore[no-untyped-def]
    xy_um = np.stack([nuclei.x, nuclei.y], axis=1) * PARAMETERS.pixel_size_um
    return nuclei_table(xy_um, [TYPES[int(not dark)] if TYPES[1] == "tumour" else TYPES[int(dark)] for dark in nuclei.dark])


def accuracy(vectors: Embedding) -> float:
    """Trained on the first half, scored on the second."""
    label, half = np.arange(PATCHES) % 2, PATCHES // 2
    probe = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=1000)).fit(vectors[:half], label[:half])
    return float(probe.score(vectors[half:], label[half:]))


@pytest.fixture(scope="module", params=["arrangement", "third-order"])
def task(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def batch(task: str) -> Batch:
    return patches(task)


@pytest.mark.parametrize("name", ["point-process", "cell-graph"])
def test_structure_solves_it(name: str, batch: Batch) -> None:
    assert accuracy(make_control(name, FACTS, 0).embed(batch)) > 0.85


def test_composition_does_not(batch: Batch) -> None:
    assert accuracy(make_control("composition", FACTS, 0).embed(batch)) < 0.65


def test_k_solves_arrangement_and_not_third_order(task: str, batch: Batch) -> None:
    control = make_control("point-process", FACTS, 0)
    second_order = [i for i, name in enumerate(control.columns) if ": L - r(" in name]  # type: ignore[attr-defined]
    score = accuracy(control.embed(batch)[:, second_order])
    assert score > 0.95 if task == "arrangement" else score < 0.65

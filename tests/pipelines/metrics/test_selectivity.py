from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score
from sklearn.preprocessing import StandardScaler

from pipelines.metrics.probes import ProbeSettings
from pipelines.metrics.selectivity import Selectivity, control_labels, selectivity
from registry.errors import InputError

SETTINGS = ProbeSettings(grid=(1e-2, 1.0), neighbours=5)
KINDS = ("logistic", "knn")


@dataclass(frozen=True)
class Screen:
    """24 treatments with one of three mechanisms each, on every one of 12 plates; two folds of plates."""

    treatment: np.ndarray
    mechanism: np.ndarray
    plates: np.ndarray
    folds: np.ndarray
    noise: np.ndarray

    @property
    def types(self) -> np.ndarray:
        return np.array([f"treatment-{t:02d}" for t in self.treatment])


def screen(seed: int = 0) -> Screen:
    treatment, plate = np.tile(np.arange(24), 12), np.repeat(np.arange(12), 24)
    # mechanisms of unequal size
    mechanism = np.searchsorted([4, 10], np.arange(24), side="right")[treatment]
    return Screen(treatment, mechanism, np.array([f"p{p:02d}" for p in plate]), plate % 2, np.random.default_rng(seed).normal(size=(288, 6)))


def found(data: Screen, x: np.ndarray, kind: str = "logistic", **how: int) -> Selectivity:
    return selectivity(x, data.mechanism, data.types, data.folds, data.plates, 3, SETTINGS, kind=kind, **how)


@pytest.mark.parametrize("kind", KINDS)
def test_an_embedding_of_the_mechanism_is_selective_and_one_of_the_treatment_is_not(kind: str) -> None:
    """Both solve the task; the second by heart, and any other grouping of treatments as well."""
    data = screen()
    knows_mechanism = found(data, np.hstack([8 * np.eye(3)[data.mechanism], data.noise]), kind)
    knows_treatment = found(data, np.hstack([30 * np.eye(24)[data.treatment], data.noise]), kind)
    assert knows_mechanism.task.value > 0.97
    assert knows_mechanism.control.mean() < 0.55
    assert knows_mechanism.selectivity.value > 0.45
    assert knows_treatment.task.value > 0.97
    assert knows_treatment.control.min() > 0.97
    assert knows_treatment.selectivity.value == pytest.approx(0, abs=0.02)
    assert knows_treatment.recurring == 1


@pytest.mark.parametrize("kind", KINDS)
def test_noise_is_at_chance_on_both(kind: str) -> None:
    several = [found(screen(seed), screen(seed).noise, kind, seed=seed, draws=3) for seed in range(5)]
    assert np.mean([s.task.value for s in several]) == pytest.approx(1 / 3, abs=0.05)
    assert np.mean([s.control.mean() for s in several]) == pytest.approx(1 / 3, abs=0.05)
    assert np.mean([s.selectivity.value for s in several]) == pytest.approx(0, abs=0.06)


@pytest.mark.parametrize("kind", KINDS)
def test_a_constant_embedding_has_no_selectivity(kind: str) -> None:
    assert found(screen(), np.full((288, 4), 7.3), kind).selectivity.value == pytest.approx(0, abs=1e-12)


def test_both_accuracies_are_those_of_scikit_learns_probe() -> None:
    data = screen()
    x = np.hstack([0.8 * np.eye(3)[data.mechanism], np.eye(24)[data.treatment]]) + np.random.default_rng(1).normal(size=(288, 27))

    def slow(labels: np.ndarray) -> float:
        said = np.empty(288, dtype=int)
        for fold in (0, 1):
            train = data.folds != fold
            scaler = StandardScaler().fit(x[train])
            model = LogisticRegression(C=0.1, class_weight="balanced", tol=1e-10, max_iter=5000).fit(scaler.transform(x[train]), labels[train])
            said[~train] = model.predict(scaler.transform(x[~train]))
        return float(balanced_accuracy_score(labels, said))

    got = selectivity(x, data.mechanism, data.types, data.folds, data.plates, 3, ProbeSettings(grid=(0.1,)), draws=2, seed=7)
    control = [slow(control_labels(data.mechanism, data.types, 3, seed=7, draw=draw)) for draw in (0, 1)]
    np.testing.assert_allclose(got.control, control, atol=1e-12)
    assert got.task.value == pytest.approx(slow(data.mechanism), abs=1e-12)
    assert got.selectivity.value == pytest.approx(slow(data.mechanism) - np.mean(control), abs=1e-12)
    assert got.selectivity.units == got.task.units
    assert np.ptp(got.selectivity.without) > 0


def test_a_control_task_has_one_label_for_a_type_and_the_frequencies_of_the_task() -> None:
    data = screen()
    drawn = [control_labels(data.mechanism, data.types, 3, draw=draw) for draw in range(40)]
    for labels in drawn:
        assert all(len(set(labels[data.treatment == t])) == 1 for t in range(24))
        assert np.bincount(labels).tolist() == np.bincount(data.mechanism).tolist()
    assert len({labels.tobytes() for labels in drawn}) > 30
    # over draws a type has each class as often as the class occurs, whatever its own
    often = np.stack([np.eye(3)[labels] for labels in drawn]).mean(axis=0)
    shares = np.bincount(data.mechanism) / 288
    assert often[data.mechanism == 0].mean(axis=0) == pytest.approx(shares, abs=0.12)
    assert often[data.mechanism == 2].mean(axis=0) == pytest.approx(shares, abs=0.12)


def test_a_control_task_does_not_depend_on_the_order_of_images() -> None:
    data, turned = screen(), np.random.default_rng(0).permutation(288)
    labels = control_labels(data.mechanism, data.types, 3)
    np.testing.assert_array_equal(control_labels(data.mechanism[turned], data.types[turned], 3), labels[turned])


def test_a_rare_class_has_a_type_even_where_types_are_large() -> None:
    labels = np.array([0] * 97 + [1] * 3)
    assert set(control_labels(labels, np.array([f"t{i % 5}" for i in range(100)]), 2).tolist()) == {0, 1}


def test_images_without_a_label_take_no_part() -> None:
    data = screen()
    x = np.hstack([8 * np.eye(3)[data.mechanism], data.noise])
    keep = data.treatment != 23
    part = selectivity(x, np.where(keep, data.mechanism, -1), data.types, data.folds, data.plates, 3, SETTINGS)
    alone = selectivity(x[keep], data.mechanism[keep], data.types[keep], data.folds[keep], data.plates[keep], 3, SETTINGS)
    assert part.selectivity.value == alone.selectivity.value
    np.testing.assert_array_equal(part.control, alone.control)


def test_swapping_labels_types_or_units_changes_the_answer() -> None:
    data = screen()
    x = np.hstack([8 * np.eye(3)[data.mechanism], data.noise])
    _, plate = np.unique(data.plates, return_inverse=True)
    assert found(data, x).selectivity.value > 0.45
    mixed = np.random.default_rng(0).integers(0, 2, 288)
    swapped = selectivity(x, plate, data.types, mixed, data.mechanism.astype(str), 12, SETTINGS)
    assert swapped.selectivity.value < 0.1
    with pytest.raises(InputError, match="Expected more types than the 24 classes, got 3"):
        selectivity(x, data.treatment, data.mechanism.astype(str), data.folds, data.plates, 24, SETTINGS)


def test_types_that_ask_nothing_are_refused_in_words() -> None:
    data = screen()
    with pytest.raises(InputError, match="Expected types that occur in training and test images, got none"):
        selectivity(data.noise, data.mechanism, np.char.add(data.types, data.plates), data.folds, data.plates, 3, SETTINGS)
    with pytest.raises(InputError, match="more types than the 3 classes, got 3"):
        selectivity(data.noise, data.mechanism, data.mechanism.astype(str), data.folds, data.plates, 3, SETTINGS)
    with pytest.raises(InputError, match="at least one draw"):
        found(data, data.noise, draws=0)
    with pytest.raises(InputError, match="a type for each of 288 images"):
        selectivity(data.noise, data.mechanism, data.types[1:], data.folds, data.plates, 3, SETTINGS)


def test_how_often_a_type_recurs_is_said() -> None:
    data = screen()
    types = np.where(data.treatment < 6, np.char.add(data.types, data.plates), data.types)
    assert selectivity(data.noise, data.mechanism, types, data.folds, data.plates, 3, SETTINGS, draws=1).recurring == 0.75

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score, f1_score, roc_auc_score
from sklearn.metrics import log_loss as reference_log_loss

from pipelines.metrics.classification import balanced_accuracy, calibration_error, log_loss, macro_auroc, macro_f1
from pipelines.metrics.statistic import Statistic, image_mean
from registry.errors import InputError
from tests.pipelines.metrics.data import images


def _probabilities(n: int, k: int, seed: int, decimals: int) -> np.ndarray:
    raw = np.random.default_rng(seed).dirichlet(np.ones(k), size=n)
    rounded = raw.round(decimals) + 10.0**-decimals  # rounding makes ties
    return rounded / rounded.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("k", [2, 3, 7])
def test_scores_equal_scikit_learn(k: int) -> None:
    data = images(200, 12, k, seed=k)
    p = _probabilities(200, k, k, decimals=1)
    predicted = p.argmax(axis=1)
    expected = roc_auc_score(data.labels, p[:, 1]) if k == 2 else roc_auc_score(data.labels, p, multi_class="ovr")
    assert macro_auroc(data.labels, p, data.units).value == pytest.approx(expected, abs=1e-12)
    assert balanced_accuracy(data.labels, predicted, data.units, k).value == pytest.approx(balanced_accuracy_score(data.labels, predicted), abs=1e-12)
    assert log_loss(data.labels, p, data.units).value == pytest.approx(reference_log_loss(data.labels, p) / np.log(2), abs=1e-12)
    untied = _probabilities(200, k, k, decimals=9)
    assert macro_f1(data.labels, untied, data.units).value == pytest.approx(f1_score(data.labels, untied.argmax(axis=1), average="macro"), abs=1e-12)


def _slow_calibration_error(labels: np.ndarray, p: np.ndarray, bins: int, weights: np.ndarray) -> float:
    total, confidence = 0.0, p.max(axis=1)
    for low in np.arange(bins) / bins:
        inside = (confidence >= low) & ((confidence < low + 1 / bins) | ((low + 1 / bins > 1 - 1e-9) & (confidence == 1)))
        total += abs(sum(w * (float(y == q.argmax()) - q.max()) for y, q, w in zip(labels[inside], p[inside], weights[inside], strict=True)))
    return total / weights.sum()


@pytest.mark.parametrize("k", [2, 4])
def test_calibration_error_is_the_slow_one_with_classes_that_weigh_the_same(k: int) -> None:
    data = images(150, 9, k, seed=k)
    p = np.random.default_rng(k).dirichlet(np.ones(k), size=150)
    weights = (1 / np.bincount(data.labels))[data.labels]
    found = calibration_error(data.labels, p, data.units, bins=10)
    assert found.value == pytest.approx(_slow_calibration_error(data.labels, p, 10, weights), abs=1e-12)
    for unit, without in zip(found.units, found.without, strict=True):
        keep = data.units != unit
        assert without == pytest.approx(_slow_calibration_error(data.labels[keep], p[keep], 10, weights[keep]), abs=1e-12)
    assert found.share.sum() == pytest.approx(1.0)


def test_probabilities_that_come_true_are_calibrated_and_boasts_are_not() -> None:
    rng = np.random.default_rng(0)
    p = rng.uniform(0, 1, 20_000)
    labels = (rng.random(20_000) < p).astype(int)
    units = np.arange(20_000) % 20
    honest = calibration_error(labels, np.column_stack([1 - p, p]), units.astype(str))
    assert honest.value < 0.01
    sure = np.where(p > 0.5, 0.99, 0.01)
    assert calibration_error(labels, np.column_stack([1 - sure, sure]), units.astype(str)).value == pytest.approx(0.24, abs=0.01)


@pytest.mark.parametrize("k", [2, 4])
def test_leaving_a_unit_out_is_computing_without_it(k: int) -> None:
    data = images(150, 9, k, seed=k + 10)
    p, untied = (_probabilities(150, k, k, decimals=d) for d in (1, 9))
    found = {
        "accuracy": balanced_accuracy(data.labels, p.argmax(axis=1), data.units, k),
        "auroc": macro_auroc(data.labels, p, data.units),
        "loss": log_loss(data.labels, p, data.units),
        "f1": macro_f1(data.labels, untied, data.units),
    }
    for i, unit in enumerate(found["auroc"].units):
        keep = data.units != unit
        assert found["f1"].without[i] == pytest.approx(f1_score(data.labels[keep], untied[keep].argmax(axis=1), average="macro"), abs=1e-12)
        assert found["accuracy"].without[i] == pytest.approx(balanced_accuracy_score(data.labels[keep], p[keep].argmax(axis=1)), abs=1e-12)
        expected = roc_auc_score(data.labels[keep], p[keep][:, 1]) if k == 2 else roc_auc_score(data.labels[keep], p[keep], multi_class="ovr")
        assert found["auroc"].without[i] == pytest.approx(expected, abs=1e-12)
        assert found["loss"].without[i] == pytest.approx(reference_log_loss(data.labels[keep], p[keep]) / np.log(2), abs=1e-12)


def test_shares_follow_their_definitions_and_sum_to_one() -> None:
    labels = np.array([0, 0, 0, 1, 1, 0])
    units = np.array(["a", "a", "b", "b", "c", "c"])
    accuracy = balanced_accuracy(labels, labels, units, 2)
    auroc = macro_auroc(labels, np.column_stack([1 - labels, labels]).astype(float), units)
    assert accuracy.share == pytest.approx([(2 / 4 + 0) / 2, (1 / 4 + 1 / 2) / 2, (1 / 4 + 1 / 2) / 2])
    assert auroc.share == pytest.approx(accuracy.share)
    assert image_mean(labels, units, labels, 2).share == pytest.approx([1 / 3] * 3)
    assert accuracy.n_eff == pytest.approx(1 / np.sum(accuracy.share**2))
    assert accuracy.class_in_units == 2


def test_a_class_in_one_unit_only_has_no_score_without_it() -> None:
    labels = np.array([0, 1, 0, 0, 1, 2])
    units = np.array(["a", "a", "b", "b", "c", "c"])
    found = balanced_accuracy(labels, labels, units, 3)
    assert found.class_in_units == 1
    assert np.isnan(found.without[2])
    assert np.isfinite(found.without[:2]).all()
    p = np.eye(3)[labels] * 0.7 + 0.1
    assert np.isnan(macro_auroc(labels, p, units).without[2])


def test_a_class_of_the_vocabulary_without_images_is_left_out_and_shows() -> None:
    data = images(60, 6, 2, seed=0)
    p = np.column_stack([_probabilities(60, 2, 0, 2) * 0.9, np.full(60, 0.1)])
    found = macro_auroc(data.labels, p, data.units)
    assert found.class_in_units == 0
    assert found.value == pytest.approx(roc_auc_score(data.labels, p[:, 1]) / 2 + roc_auc_score(1 - data.labels, p[:, 0]) / 2)


def test_constant_predictions_are_at_chance_exactly() -> None:
    data = images(90, 8, 3, seed=1)
    assert balanced_accuracy(data.labels, np.zeros(90, dtype=int), data.units, 3).value == 1 / 3
    auroc = macro_auroc(data.labels, np.full((90, 3), 1 / 3), data.units)
    assert auroc.value == 0.5
    assert (auroc.without == 0.5).all()


def test_probability_zero_of_the_true_class_costs_the_floor() -> None:
    found = log_loss(np.array([0, 1]), np.array([[0.0, 1.0], [0.0, 1.0]]), np.array(["a", "b"]))
    assert found.value == pytest.approx(-np.log2(1e-6) / 2)


def test_swapping_labels_and_units_changes_every_score() -> None:
    data = images(120, 2, 2, seed=5)
    codes = np.array([int(u[-1]) for u in data.units])
    p = _probabilities(120, 2, 3, 2)
    swapped = data.labels.astype(str)
    for first, second in (
        (balanced_accuracy(data.labels, p.argmax(axis=1), data.units, 2), balanced_accuracy(codes, p.argmax(axis=1), swapped, 2)),
        (macro_auroc(data.labels, p, data.units), macro_auroc(codes, p, swapped)),
    ):
        assert first.value != second.value
        assert not np.allclose(first.share, second.share)


def test_many_units_and_classes_agree_with_the_slow_way_at_some_units() -> None:
    data = images(3000, 1500, 16, seed=2)
    p = _probabilities(3000, 16, 2, decimals=2)
    found = macro_auroc(data.labels, p, data.units)
    for i in (0, 700, 1499):
        keep = data.units != found.units[i]
        assert found.without[i] == pytest.approx(roc_auc_score(data.labels[keep], p[keep], multi_class="ovr"), abs=1e-12)


@pytest.mark.parametrize(
    ("labels", "probabilities", "message"),
    [
        ([0, 2], [[0.5, 0.5], [0.5, 0.5]], "label codes from 0 to 1, got 0 to 2"),
        ([0, 1], [[0.5, 0.5]], r"shape \(2, k\)"),
        ([0, 1], [[0.5, np.nan], [0.5, 0.5]], "finite probabilities"),
        ([0, 1, 1], [[0.5, 0.5], [0.5, 0.5]], "one label for each of 2 images"),
    ],
)
def test_bad_input_is_refused_in_words(labels: list[int], probabilities: list[list[float]], message: str) -> None:
    with pytest.raises(InputError, match=message):
        macro_auroc(np.array(labels), np.array(probabilities), np.array(["a", "b"]))


def test_no_image_is_refused_in_words() -> None:
    with pytest.raises(InputError, match="at least one image with a label"):
        balanced_accuracy(np.array([], dtype=int), np.array([], dtype=int), np.array([], dtype=str), 2)


def test_a_statistic_checks_itself() -> None:
    with pytest.raises(InputError, match="one entry for each of 2 units"):
        Statistic(0.5, ("a", "b"), np.zeros(3), np.zeros(2), 4, 2)
    with pytest.raises(InputError, match="sorted and each once"):
        Statistic(0.5, ("b", "a"), np.zeros(2), np.zeros(2), 4, 2)

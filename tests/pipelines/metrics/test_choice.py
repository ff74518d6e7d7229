from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.model_selection import GroupKFold
from sklearn.preprocessing import StandardScaler

from pipelines.metrics.choice import chance_loss, choose, inner_loss, side_by_side
from pipelines.metrics.classification import PROBABILITY_FLOOR, balanced_accuracy
from pipelines.metrics.probes import ProbeSettings, out_of_fold
from registry.errors import InputError
from tests.pipelines.metrics.data import halves, images

SETTINGS = ProbeSettings(grid=(1e-2, 1.0), inner_folds=3)


def test_inner_loss_is_scikit_learns_on_groups_held_out() -> None:
    """Nine equal units with the same classes: any division into three threes of them is as good as another, so compare averages."""
    rng = np.random.default_rng(0)
    units = np.repeat([f"plate-{u}" for u in range(9)], 200)
    labels = np.tile(np.arange(200) % 2, 9)
    x = rng.normal(size=(1800, 4)) + labels[:, None]
    expected = 0.0
    standardised = StandardScaler().fit_transform(x)
    for train, held in GroupKFold(3).split(x, labels, units):
        model = LogisticRegression(C=1.0, class_weight="balanced", tol=1e-9).fit(standardised[train], labels[train])
        expected += log_loss(labels[held], model.predict_proba(standardised[held]))
    assert inner_loss(x, labels, units, 2, ProbeSettings(grid=(1.0,))) == pytest.approx(expected, rel=0.01)


def test_knowing_nothing_costs_the_logarithm_of_the_classes() -> None:
    data = images(300, 12, 4, seed=1)
    assert chance_loss(data.labels, data.units, 4, SETTINGS) == pytest.approx(3 * np.log(4))


def test_a_constant_is_never_chosen() -> None:
    data = images(300, 12, 2, seed=2)
    constant = inner_loss(np.ones((300, 5)), data.labels, data.units, 2, SETTINGS)
    assert constant == float("inf")
    noise = inner_loss(data.noise, data.labels, data.units, 2, SETTINGS)
    assert choose({"constant": constant, "noise": noise}, (), 2.0) == "noise"


@given(st.lists(st.floats(0, 3), min_size=2, max_size=6), st.integers(1, 5), st.floats(2.0, 3.0))
def test_a_network_that_saw_the_labels_is_taken_where_its_largest_regret_is_smaller(losses: list[float], seen: int, chance: float) -> None:
    seen = min(seen, len(losses) - 1)
    names = [f"row-{i}" for i in range(len(losses))]
    stated = dict(zip(names, losses, strict=True))
    held_out, network = min(losses[seen:]), min(losses[:seen])
    truths = np.linspace(min(network, chance), max(network, chance), 50)
    regret_of_network = max(float(np.max(truths - held_out)), 0.0)
    regret_of_row = max(float(np.max(held_out - truths)), 0.0)
    chosen = stated[choose(stated, names[:seen], chance)]
    if abs(regret_of_network - regret_of_row) > 1e-9 and network <= chance:
        assert chosen == (network if regret_of_network < regret_of_row else held_out)


def test_without_the_other_kind_the_smallest_loss_decides() -> None:
    assert choose({"a": 0.4, "b": 0.3}, (), 2.0) == "b"
    assert choose({"a": 0.4, "b": 0.3}, ("a", "b"), 2.0) == "b"
    with pytest.raises(InputError, match="got none"):
        choose({}, (), 2.0)


def test_a_narrow_row_is_not_drowned_by_wide_ones() -> None:
    data = images(900, 18, 2, seed=3, d=400)
    folds = halves(data.units)
    known = data.labels[:, None] + 0.4 * np.random.default_rng(4).normal(size=(900, 1))
    settings = ProbeSettings(max_dim=64)

    def score(x: np.ndarray) -> float:
        found = out_of_fold(x, data.labels, folds, data.units, 2, settings)
        return balanced_accuracy(found.labels, found.predicted, data.units[found.images], 2).value

    beside = side_by_side([data.noise, known], folds != 0, 64)
    assert beside.shape == (900, 64)
    alone, together = score(known), score(beside)
    assert together > alone - 0.05
    assert score(np.hstack([data.noise, known])) < alone - 0.15


def test_who_knows_nothing_pays_for_a_class_that_only_the_group_held_out_has() -> None:
    """Two folds of one group each. Without `b` nobody has seen class 2; of the other fold's images all classes are known."""
    labels = np.array([0, 1, 0, 1, 0, 1, 1, 2, 2])
    groups = np.array(["a"] * 4 + ["b"] * 5)
    without_a = np.log(3)
    # classes 0, 1 and 2 weigh the same: two are guessed among two, the third has the least probability that counts
    without_b = (2 * np.log(2) - np.log(PROBABILITY_FLOOR)) / 3
    assert chance_loss(labels, groups, 3, ProbeSettings(inner_folds=2)) == pytest.approx(without_a + without_b)


def test_what_a_narrow_row_leaves_is_shared_by_the_others() -> None:
    rng = np.random.default_rng(5)
    parts = [rng.normal(size=(200, d)) for d in (50, 2, 50)]
    train = np.arange(200) < 150
    beside = side_by_side(parts, train, 32)
    assert beside.shape == (200, 32)
    # the two columns as they are, standardised on the training images
    expected = (parts[1] - parts[1][train].mean(axis=0)) / parts[1][train].std(axis=0)
    np.testing.assert_allclose(beside[:, 15:17], expected)
    # fewer columns than parts: one of them gives none
    assert side_by_side(parts, train, 2).shape == (200, 2)
    # leading components of the same training images, whatever the others hold
    parts[0][~train] += 1.0
    np.testing.assert_allclose(side_by_side(parts, train, 32)[train], beside[train])

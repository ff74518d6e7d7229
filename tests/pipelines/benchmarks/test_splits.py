from __future__ import annotations

import re

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.model_selection import StratifiedGroupKFold

from pipelines.benchmarks.splits import assign_folds, default_folds, stated_folds
from registry.errors import BenchmarkError


def frame(labels: list[str | None]) -> pd.DataFrame:
    return pd.DataFrame({"label_kind": pd.Series(labels, dtype=object)})


@st.composite
def experiments(draw: st.DrawFn) -> tuple[pd.Series, pd.DataFrame, int]:
    n_units = draw(st.integers(3, 15))
    rows = draw(st.lists(st.tuples(st.integers(0, n_units - 1), st.sampled_from(["a", "b", "c", "d", None])), min_size=30, max_size=120))
    rows += [(unit, "a") for unit in range(n_units)]
    units = pd.Series([f"plate-{unit}" for unit, _ in rows])
    return units, frame([label for _, label in rows]), draw(st.integers(1, min(5, n_units)))


@settings(max_examples=25, deadline=None, derandomize=True)
@given(experiments(), st.integers(0, 3), st.randoms(use_true_random=False))
def test_units_are_never_torn_and_nothing_depends_on_the_order_of_rows(experiment, seed, random) -> None:
    units, labels, folds = experiment
    assigned = pd.Series(assign_folds(units, labels, folds, seed))
    assert set(assigned) == (set(range(folds)) if folds > 1 else {-1, 0})
    assert assigned.groupby(units).nunique().max() == 1
    assert (assigned == assign_folds(units, labels, folds, seed)).all()
    order = list(range(len(units)))
    random.shuffle(order)
    again = assign_folds(units.iloc[order].reset_index(drop=True), labels.iloc[order].reset_index(drop=True), folds, seed)
    assert (again == assigned.to_numpy()[order]).all()


@settings(max_examples=25, deadline=None, derandomize=True)
@given(experiments())
def test_a_class_of_several_units_is_in_every_training_set_where_single_moves_can_do_it(experiment) -> None:
    units, labels, _ = experiment
    assigned = pd.Series(assign_folds(units, labels, 3, 0))
    per_class = units.groupby(labels["label_kind"]).nunique()
    spread = assigned.groupby(labels["label_kind"]).nunique()
    # three folds can always be spread for classes of many units; two units of one class may have to lie together
    assert all(spread[c] >= 2 for c in per_class.index if per_class[c] >= 4)


def test_the_rarest_class_is_taken_apart() -> None:
    units = pd.Series([f"u{i:02d}" for i in range(10) for _ in range(20)])
    labels = frame(["rare" if unit in ("u03", "u07") and i % 20 < 2 else "ab"[i % 2] for i, unit in enumerate(units)])
    for seed in range(20):
        assigned = pd.Series(assign_folds(units, labels, 5, seed))
        assert assigned[labels["label_kind"] == "rare"].nunique() == 2


def test_images_as_units_are_balanced_to_one_image_per_class() -> None:
    labels = frame([c for c, n in {"a": 101, "b": 52, "c": 7, "d": 250}.items() for _ in range(n)])
    units = pd.Series([f"image-{i}" for i in range(len(labels))])
    table = pd.crosstab(labels["label_kind"], assign_folds(units, labels, 5, 0))
    assert (table.max(axis=1) - table.min(axis=1)).max() <= 1
    assert table.sum().max() - table.sum().min() <= 4


def test_balance_is_no_worse_than_scikit_learns() -> None:
    rng = np.random.default_rng(0)
    sizes = np.rint(np.exp(rng.normal(3, 1, 40))).astype(int) + 1
    units = pd.Series(np.repeat([f"plate-{i:02d}" for i in range(40)], sizes))
    labels = frame(rng.choice(["a", "b", "c", "d"], len(units), p=[0.5, 0.3, 0.15, 0.05]).tolist())
    y = labels["label_kind"].to_numpy()

    def unevenness(folds: np.ndarray) -> float:
        table = pd.crosstab(y, folds, normalize="index").to_numpy()
        return float(table.std(axis=1).mean())

    theirs = np.zeros(len(units), dtype=int)
    for fold, (_, test) in enumerate(StratifiedGroupKFold(5).split(y, y, units)):
        theirs[test] = fold
    assert unevenness(assign_folds(units, labels, 5, 0)) <= 1.2 * unevenness(theirs)


def test_a_seed_changes_only_how_ties_fall() -> None:
    units = pd.Series([f"u{i}" for i in range(30)])
    labels = frame(["a", "b", "c"] * 10)
    first, second = (assign_folds(units, labels, 5, seed) for seed in (0, 1))
    assert (first != second).any()
    assert (pd.crosstab(labels["label_kind"], first).to_numpy() == 2).all()
    assert (pd.crosstab(labels["label_kind"], second).to_numpy() == 2).all()


def test_one_held_out_half() -> None:
    units = pd.Series([f"u{i}" for i in range(8) for _ in range(5)])
    assigned = assign_folds(units, frame(["a", "b", "a", "b", None] * 8), 1, 0)
    assert np.bincount(assigned + 1).tolist() == [20, 20]


def test_several_tasks_are_balanced_together() -> None:
    units = pd.Series([f"u{i:02d}" for i in range(40)])
    labels = pd.DataFrame({"label_a": ["x"] * 20 + ["y"] * 20, "label_b": ["p", "q"] * 20})
    assigned = assign_folds(units, labels, 5, 0)
    for task in labels:
        table = pd.crosstab(labels[task], assigned).to_numpy()
        assert table.min() >= 3
        assert table.max() <= 5


def test_too_few_units_are_refused() -> None:
    units = pd.Series(["u0", "u0", "u1"])
    with pytest.raises(BenchmarkError, match="at least 5 units for 5 folds, got 2"):
        assign_folds(units, frame(["a", "b", "a"]), 5, 0)
    with pytest.raises(BenchmarkError, match="at least 2 units for 1 fold, got 1"):
        assign_folds(units[:2], frame(["a", "b"]), 1, 0)


@pytest.mark.parametrize(("units", "folds"), [(2, 2), (3, 3), (4, 4), (5, 5), (45, 5), (2000, 5)])
def test_default_folds(units: int, folds: int) -> None:
    assert default_folds(units) == folds


class TestStated:
    UNITS = pd.Series(["p1", "p1", "p2", "p3", "p10"])

    def test_of_each_image_the_fold_in_which_it_is_tested(self) -> None:
        found = stated_folds(pd.Series(["10", "10", " 2", "train", "a"], name="split"), self.UNITS)
        assert found.names == ("2", "10", "a")
        assert found.fold.tolist() == [1, 1, 0, -1, 2]
        assert found.fold.dtype == np.int64

    def test_one_fold_beside_training_images(self) -> None:
        found = stated_folds(pd.Series(["test", "test", "Train", "-1", "train"], name="split"), self.UNITS)
        assert (found.names, found.fold.tolist()) == (("test",), [0, 0, -1, -1, -1])

    @pytest.mark.parametrize(
        ("values", "said"),
        [
            (["0", "0", None, "1", ""], "states no fold of 2 of 5 images"),
            (["0", "1", "1", "1", "1"], "puts unit `p1` into several folds (`0`, `1`)"),
            (["0", "-1", "1", "1", "1"], "puts unit `p1` into several folds (`-1`, `0`)"),
            (["x"] * 5, "two folds or more, or one beside images that are always training (`-1`, `train`), got `x`."),
            (["train"] * 5, "got `train`."),
        ],
    )
    def test_refused(self, values: list[str | None], said: str) -> None:
        with pytest.raises(BenchmarkError, match=re.escape(said)):
            stated_folds(pd.Series(values, name="split", dtype=object), self.UNITS)

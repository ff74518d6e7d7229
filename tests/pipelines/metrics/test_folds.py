"""Inner folds beside a twin that counts in fractions: which fold a group goes to is no matter of rounding."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from pipelines.metrics.folds import inner_folds
from registry.arrays import Ints
from tests.pipelines.metrics.data import images


def exactly(labels: Ints, groups: list[str], n_classes: int, n_folds: int) -> list[int]:
    """The rule as it is stated, in fractions."""
    names = sorted(set(groups))
    of = {
        name: [sum(1 for label, group in zip(labels, groups, strict=True) if (label, group) == (c, name)) for c in range(n_classes)] for name in names
    }
    total = [max(1, sum(each[c] for each in of.values())) for c in range(n_classes)]
    load = [[Fraction(0)] * n_classes for _ in range(n_folds)]
    fold: dict[str, int] = {}
    for rank, name in enumerate(sorted(names, key=lambda name: -sum(of[name]))):
        brings = [Fraction(count, whole) for count, whole in zip(of[name], total, strict=True)]
        overlap = [sum((a * b for a, b in zip(each, brings, strict=True)), Fraction(0)) for each in load]
        fold[name] = rank if rank < n_folds else overlap.index(min(overlap))
        load[fold[name]] = [a + b for a, b in zip(load[fold[name]], brings, strict=True)]
    return [fold[group] for group in groups]


@pytest.mark.parametrize("seed", range(20))
def test_groups_that_bring_the_same_go_to_the_first_fold_that_has_least(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n_classes, n_folds = int(rng.integers(2, 13)), int(rng.integers(2, 6))
    labels, groups = [], []
    for number in range(40):
        # plates of one layout: each class as often as on every other, but on a few
        each = np.full(n_classes, 3) if rng.random() < 0.9 else rng.integers(0, 5, n_classes)
        labels += [c for c, count in enumerate(each) for _ in range(count)]
        groups += [f"p{number:02d}"] * int(each.sum())
    found = inner_folds(np.array(labels), groups, n_classes, n_folds)
    assert found.fold.tolist() == exactly(np.array(labels), groups, n_classes, n_folds)


@pytest.mark.parametrize("n_groups", [2, 3, 10, 150])
def test_inner_folds_keep_groups_whole_and_cover_every_image_once(n_groups: int) -> None:
    data = images(300, n_groups, 4, seed=n_groups)
    found = inner_folds(data.labels, data.units, 4, 3)
    assert found.kind == "groups"
    assert found.n_folds == min(3, n_groups)
    assert all(len(set(found.fold[data.units == u].tolist())) == 1 for u in set(data.units.tolist()))
    assert set(found.fold.tolist()) == set(range(found.n_folds))


def test_inner_folds_do_not_depend_on_the_order_of_images() -> None:
    data = images(200, 12, 3, seed=0)
    order = np.random.default_rng(1).permutation(200)
    assert (inner_folds(data.labels, data.units, 3, 3).fold[order] == inner_folds(data.labels[order], data.units[order], 3, 3).fold).all()


def test_inner_folds_share_out_the_classes() -> None:
    """Groups of one class each: a division that looked at sizes alone could leave a fold without a class."""
    units = np.repeat([f"g{i}" for i in range(12)], 10)
    labels = np.repeat([0, 0, 0, 0, 0, 0, 1, 1, 1, 2, 2, 2], 10)
    fold = inner_folds(labels, units, 3, 3).fold
    assert all(set(labels[fold == f].tolist()) == {0, 1, 2} for f in range(3))


def test_one_group_falls_back_to_images_and_says_so() -> None:
    labels = np.array([0] * 9 + [1] * 6)
    found = inner_folds(labels, ["only"] * 15, 2, 3)
    assert found.kind == "images"
    assert [np.bincount(labels[found.fold == f]).tolist() for f in range(3)] == [[3, 2]] * 3

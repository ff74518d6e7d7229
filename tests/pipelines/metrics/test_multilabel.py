from __future__ import annotations

import numpy as np
import pytest

from pipelines.metrics import multilabel
from pipelines.metrics.multilabel import LabelScores, label_scores
from pipelines.metrics.pairs import PairRule, multilabel_scores
from registry.arrays import Floats, Mask
from registry.errors import InputError

NAMES = ("a", "b", "c", "d", "e")


def compounds(strength: float = 0.0, seed: int = 0, n: int = 40, d: int = 12) -> tuple[Floats, Mask, tuple[str, ...]]:
    """Compounds of none to three of five labels, each label with a direction of its own."""
    rng = np.random.default_rng(seed)
    membership = rng.random((n, len(NAMES))) < 0.2
    return rng.normal(size=(n, d)) + strength * membership @ rng.normal(size=(len(NAMES), d)), membership, NAMES


def slow(x: Floats, membership: Mask, distance: str) -> Floats:
    """(k,) by `multilabel_scores`, which copairs agrees with."""
    scored = multilabel_scores(x, membership, {"compound": np.arange(len(x)).astype(np.str_)}, PairRule((), ("compound",)), distance)
    usable = ~np.isnan(scored.ap)
    labels = np.unique(scored.label[usable])
    return np.array([scored.normalised[usable & (scored.label == label)].mean() for label in labels])


@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
@pytest.mark.parametrize("rounded", [False, True])
def test_is_the_slow_one_with_ties_and_without(distance: str, rounded: bool) -> None:
    x, membership, names = compounds(0.7)
    x = np.round(x[:, :2]) if rounded else x
    found = label_scores(x, membership, names, distance=distance, permutations=0)
    np.testing.assert_allclose(found.normalised, slow(x, membership, distance), atol=1e-12)
    assert found.value == pytest.approx(found.normalised.mean())
    assert np.isnan(found.p_value)


@pytest.mark.parametrize("kept", [0, 10**6])
def test_a_few_queries_and_pairs_at_a_time_give_the_same(monkeypatch: pytest.MonkeyPatch, kept: int) -> None:
    """Profiles of up to five labels, so that others share several with them; ties; blocks that end within a list's profiles."""
    rng = np.random.default_rng(3)
    x, membership = np.round(rng.normal(size=(41, 3))), rng.random((41, len(NAMES))) < 0.45
    whole = label_scores(x, membership, NAMES, permutations=9)
    np.testing.assert_allclose(whole.normalised, slow(x, membership, "cosine"), atol=1e-12)
    for name, value in (("_PLACES", 7 * 41), ("_PAIRS", 50), ("_LEFT_OUT", kept)):
        monkeypatch.setattr(multilabel, name, value)
    found = label_scores(x, membership, NAMES, permutations=9)
    np.testing.assert_allclose(found.normalised, whole.normalised, atol=1e-12)
    np.testing.assert_array_equal(found.p, whole.p)


def test_permutations_are_what_a_slow_loop_gives() -> None:
    x, membership, names = compounds(0.5)
    found = label_scores(x, membership, names, permutations=19, seed=2)
    rng = np.random.default_rng(2)
    draws = np.array([slow(x[rng.permutation(len(x))], membership, "cosine") for _ in range(19)])
    np.testing.assert_array_equal(found.p, (1 + (draws >= found.normalised - 1e-9).sum(axis=0)) / 20)
    assert found.p_value == (1 + (draws.mean(axis=1) >= found.value - 1e-9).sum()) / 20


def test_planted_labels_are_found_and_permuted_ones_are_quiet() -> None:
    there = label_scores(*compounds(3.0), permutations=199)
    assert there.value > 0.3
    assert there.p_value == 1 / 200
    assert (there.p_adjusted < 0.05).all()
    nothing = [label_scores(*compounds(0.0, seed), permutations=39, seed=seed) for seed in range(100)]
    p = np.array([one.p_value for one in nothing])
    assert np.mean(p <= 0.1) == pytest.approx(0.1, abs=0.08)
    assert np.mean(p <= 0.5) == pytest.approx(0.5, abs=0.13)
    assert np.mean([one.value for one in nothing]) == pytest.approx(0.0, abs=0.02)
    assert np.mean([(one.p_adjusted < 0.05).mean() for one in nothing]) < 0.05


def test_profiles_that_are_all_alike_are_chance() -> None:
    _, membership, names = compounds()
    found = label_scores(np.ones((40, 3)), membership, names, permutations=9)
    np.testing.assert_allclose(found.normalised, 0.0, atol=1e-12)
    assert found.p_value == 1.0


def test_labels_that_cannot_be_asked_are_left_out_or_refused() -> None:
    x, membership, names = compounds(1.0)
    membership[:, 1] = False
    membership[:, 3] = np.arange(40) == 5
    found: LabelScores = label_scores(x, membership, names, permutations=0)
    assert found.names == ("a", "c", "e")
    assert found.profiles.tolist() == membership[:, [0, 2, 4]].sum(axis=0).tolist()
    with pytest.raises(InputError, match="a label that two profiles have"):
        label_scores(x, np.ones((40, 1), dtype=bool), ["a"])
    with pytest.raises(InputError, match="40 rows of 4 labels"):
        label_scores(x, membership, names[:4])

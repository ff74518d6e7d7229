from __future__ import annotations

import numpy as np
import pytest

from pipelines.metrics import multilabel
from pipelines.metrics.multilabel import LabelScores, label_position_control, label_scores
from pipelines.metrics.pairs import PairRule, multilabel_scores
from pipelines.metrics.ranking import chance_ap, tie_aware_ap
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


def in_wells(n: int, wells: int, most: int, seed: int = 0) -> Mask:
    """Profiles that lie in one to `most` wells each, at random."""
    rng = np.random.default_rng(seed)
    places = np.zeros((n, wells), dtype=bool)
    for row in places:
        row[rng.choice(wells, rng.integers(1, most + 1), replace=False)] = True
    return places


def slow_elsewhere(x: Floats, membership: Mask, places: Mask) -> dict[tuple[int, int], float]:
    """Normalised AP by profile and label, positives in other wells, one list at a time; places that are not known are no other wells."""
    unit = x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-300)
    found = {}
    for query in range(len(x)):
        similarity = np.round(unit @ unit[query], 9)
        apart = places[query].any() & places.any(axis=1) & ~(places & places[query]).any(axis=1) & (np.arange(len(x)) != query)
        unlike = ~(membership & membership[query]).any(axis=1)
        for label in np.flatnonzero(membership[query]).tolist():
            positive = membership[:, label] & apart
            listed = positive | unlike
            if positive.any() and unlike.any():
                chance = float(chance_ap(positive.sum()[None], unlike.sum()[None])[0])
                found[query, label] = (tie_aware_ap(similarity[listed], positive[listed]) - chance) / (1 - chance)
    return found


@pytest.mark.parametrize("rounded", [False, True])
@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
def test_positives_in_other_wells_are_those_of_the_rule_that_copairs_agrees_with(distance: str, rounded: bool) -> None:
    """Each profile in one well: `pos_diffby=[Well]`."""
    x, membership, names = compounds(0.7)
    x, places = np.round(x[:, :2]) if rounded else x, in_wells(40, 6, 1)
    columns = {"compound": np.arange(40).astype(np.str_), "well": places.argmax(axis=1).astype(np.str_)}
    scored = multilabel_scores(x, membership, columns, PairRule((), ("compound", "well")), distance)
    usable = ~np.isnan(scored.ap)
    expected = [scored.normalised[usable & (scored.label == label)].mean() for label in np.unique(scored.label[usable])]
    found = label_scores(x, membership, names, distance=distance, permutations=0, places=places)
    np.testing.assert_allclose(found.normalised, expected, atol=1e-12)
    assert found.profiles.tolist() == [int((usable & (scored.label == label)).sum()) for label in np.unique(scored.label[usable])]
    assert abs(found.value - label_scores(x, membership, names, distance=distance, permutations=0).value) > 1e-3


@pytest.mark.parametrize("wells", [5, 70])
@pytest.mark.parametrize("cut", [False, True])
def test_profiles_of_several_wells_share_one_where_any_is_the_same(monkeypatch: pytest.MonkeyPatch, wells: int, cut: bool) -> None:
    """Up to four labels and three wells each, ties, some profiles whose wells are not known; whole and a few pairs at a time."""
    rng = np.random.default_rng(4)
    x, membership = np.round(rng.normal(size=(45, 3))), rng.random((45, len(NAMES))) < 0.35
    places = in_wells(45, wells, 3)
    places[[3, 17]] = False
    if cut:
        for name, value in (("_PLACES", 7 * 45), ("_PAIRS", 50), ("_LEFT_OUT", 0)):
            monkeypatch.setattr(multilabel, name, value)
    lists = slow_elsewhere(x, membership, places)
    means = [np.mean([ap for (_, label), ap in lists.items() if label == own]) for own in sorted({label for _, label in lists})]
    np.testing.assert_allclose(label_scores(x, membership, NAMES, permutations=0, places=places).normalised, means, atol=1e-12)
    everywhere = slow_elsewhere(x, membership, np.eye(45, dtype=bool))
    control = label_position_control(x, membership, NAMES, places)
    np.testing.assert_allclose(control.elsewhere, means, atol=1e-12)
    np.testing.assert_allclose(control.anywhere, label_scores(x, membership, NAMES, permutations=0).normalised, atol=1e-12)
    drops = [np.mean([everywhere[key] - ap for key, ap in lists.items() if key[1] == own]) for own in sorted({label for _, label in lists})]
    assert control.drop == pytest.approx(np.mean(drops), abs=1e-12)
    assert control.value == pytest.approx(np.mean(means), abs=1e-12)
    assert control.share == pytest.approx(len(lists) / len(everywhere))
    assert 0 < control.dropped < 1


def test_permutations_with_places_are_what_a_slow_loop_gives() -> None:
    x, membership, names = compounds(0.5)
    places = in_wells(40, 6, 2)
    found = label_scores(x, membership, names, permutations=19, seed=2, places=places)
    rng = np.random.default_rng(2)
    draws = np.array([label_scores(x[rng.permutation(len(x))], membership, names, permutations=0, places=places).normalised for _ in range(19)])
    np.testing.assert_array_equal(found.p, (1 + (draws >= found.normalised - 1e-9).sum(axis=0)) / 20)


def plates(of_label: float, of_well: float, seed: int = 0) -> tuple[Floats, Mask, Mask]:
    """Twelve labels of six compounds in 36 wells: the first three compounds of a label lie in one well, the others in one each."""
    rng = np.random.default_rng(seed)
    label = np.repeat(np.arange(12), 6)
    well = np.where(np.arange(72) % 6 < 3, label, 12 + rng.permutation(72) % 24)
    x = rng.normal(size=(72, 24)) + of_label * rng.normal(size=(12, 24))[label] + of_well * rng.normal(size=(36, 24))[well]
    return x, np.eye(12, dtype=bool)[label], np.eye(36, dtype=bool)[well]


def test_a_score_of_the_position_drops_and_one_of_the_label_does_not() -> None:
    names = [str(label) for label in range(12)]
    found = [
        (label_position_control(*_asked(plates(0.0, 2.0, seed), names)), label_position_control(*_asked(plates(2.0, 0.0, seed), names)))
        for seed in range(8)
    ]
    place, label = ([pair[side] for pair in found] for side in (0, 1))
    assert np.mean([one.anywhere.mean() for one in place]) > 0.2
    assert np.mean([one.value for one in place]) == pytest.approx(0.0, abs=0.03)
    assert np.mean([one.drop for one in place]) > 0.2
    assert np.mean([one.value for one in label]) > 0.5
    assert np.mean([one.drop for one in label]) == pytest.approx(0.0, abs=0.05)
    assert {one.share for one in place} == {1.0}
    # of 5 others of its label, 3 of 6 profiles have 2 in their well
    assert place[0].dropped == pytest.approx(1 / 5)


def test_where_the_design_forbids_other_wells_it_says_why() -> None:
    x, membership, _ = plates(1.0, 0.0)
    names = [str(label) for label in range(12)]
    alike = label_position_control(x, membership, names, membership)
    assert alike.reason == "not estimable: no two profiles of a label lie in different wells"
    assert (np.isnan(alike.value), np.isnan(alike.drop), alike.share, alike.dropped, alike.elsewhere.tolist()) == (True, True, 0.0, 1.0, [])
    some = membership & (np.arange(72) % 2 == 0)[:, None]
    assert label_position_control(x, membership, names, some).reason.endswith(
        "no two profiles of a label whose wells are known lie in different wells"
    )
    for nowhere in (np.zeros((72, 4), dtype=bool), np.zeros((72, 0), dtype=bool)):
        assert label_position_control(x, membership, names, nowhere).reason == "not estimable: it is not known in which wells profiles lie"
        with pytest.raises(InputError, match="a label that two profiles in different places have"):
            label_scores(x, membership, names, places=nowhere)
    of_their_own = label_position_control(x, membership, names, np.eye(72, dtype=bool))
    assert (of_their_own.drop, of_their_own.share, of_their_own.dropped) == (0.0, 1.0, 0.0)
    for function in (label_position_control, label_scores):
        with pytest.raises(InputError, match=r"a row of places for each of 72 profiles, got shape \(71, 12\)"):
            function(x, membership, names, places=membership[1:])


def _asked(made: tuple[Floats, Mask, Mask], names: list[str]) -> tuple[Floats, Mask, list[str], Mask]:
    return made[0], made[1], names, made[2]


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

"""Limits hold their rate on units that nobody has seen: units are simulated, and a quantile over images fails the same test."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from pipelines.unlike import LEAST_UNITS, RATE, Away, HeldOut, effective_number, has_learned, new_unit_limit, with_limits
from registry.cards import EncoderCard
from registry.images import ImageSpec
from registry.reference import ReferenceSet
from serving.reference import Reference, Space

TRAINING, HELD_OUT, IMAGES, NEW, DIM = 16, 12, 12, 40, 16
GREY = ImageSpec(("grey",), "uint8", 4, 4, ((0.0, 255.0),))


def units(rng: np.random.Generator, number: int, images: int, shrunk: float = 1.0) -> np.ndarray:
    """(number x images, DIM) float32: units as far apart as their images."""
    return (shrunk * rng.normal(size=(number, 1, DIM)) + rng.normal(size=(number, images, DIM))).reshape(-1, DIM).astype(np.float32)


def drawn(seed: int, shrunk: float = 1.0, looks: bool = False) -> tuple[ReferenceSet, HeldOut, np.ndarray, np.ndarray | None]:
    """References, held-out images, and embedding and appearance of new images, one of each new unit."""
    rng = np.random.default_rng(seed)
    train, held, new = units(rng, TRAINING, IMAGES, shrunk), units(rng, HELD_OUT, IMAGES), units(rng, NEW, 1)
    seen = [units(rng, TRAINING, IMAGES), units(rng, HELD_OUT, IMAGES), units(rng, NEW, 1)] if looks else [None, None, None]
    codes = np.repeat(np.arange(TRAINING + HELD_OUT), IMAGES)
    return ReferenceSet(train, unit=codes[: len(train)], appearance=seen[0]), HeldOut(held, seen[1], codes[len(train) :]), new, seen[2]


def nearest(references: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    space = Space.of(references)
    assert space is not None
    return np.array([space.distances(vector).min() for vector in vectors])


@pytest.mark.parametrize(("learned", "shrunk"), [(False, 1.0), (True, 0.3)], ids=["not learned", "learned"])
def test_a_new_unit_is_beyond_the_limit_as_often_as_stated(learned: bool, shrunk: float) -> None:
    rule, plain = [], []
    for seed in range(60):
        references, held_out, new, _ = drawn(seed, shrunk)
        limits = with_limits(references, held_out, learned=learned, unit="plate").limits
        space = Space.of(references.embedding)
        assert limits is not None
        assert space is not None
        away = nearest(references.embedding, new)
        rule.append(np.mean(away > limits.embedding))
        plain.append(np.mean(away > np.quantile(space.own(), 1 - RATE)))
    assert RATE - 0.02 <= np.mean(rule) <= RATE + 0.02
    # the percentile among training images' own distances, for all its many images, does not know what a plate is
    assert np.mean(plain) > 4 * RATE


def test_training_units_help_only_a_row_that_has_not_learned_from_them() -> None:
    beyond = []
    for seed in range(30):
        references, held_out, new, _ = drawn(seed, shrunk=0.3)
        limits = with_limits(references, held_out, learned=False, unit="plate").limits
        assert limits is not None
        assert limits.units == TRAINING + HELD_OUT
        everyone = Away.of(references, held_out, learned=False)
        assert everyone is not None
        of_training = everyone.without(*np.unique(held_out.unit).tolist()).limits("plate")
        beyond.append(np.mean(nearest(references.embedding, new) > of_training.embedding))
    assert np.mean(beyond) > 4 * RATE


def test_both_limits_together_have_the_rate() -> None:
    beyond, embedding_alone = [], []
    for seed in range(40):
        references, held_out, new, seen = drawn(seed, looks=True)
        limits = with_limits(references, held_out, learned=True, unit="plate").limits
        assert limits is not None
        assert limits.appearance is not None
        assert references.appearance is not None
        assert seen is not None
        strange = nearest(references.embedding, new) > limits.embedding
        beyond.append(np.mean(strange | (nearest(references.appearance, seen) > limits.appearance)))
        embedding_alone.append(np.mean(strange))
    assert RATE - 0.02 <= np.mean(beyond) <= RATE + 0.02
    assert 0 < np.mean(embedding_alone) < np.mean(beyond)


def test_limits_do_not_depend_on_the_order_of_images_or_on_the_scale() -> None:
    references, held_out, _, _ = drawn(0, looks=True)
    found = with_limits(references, held_out, learned=False, unit="plate")
    assert with_limits(references, held_out, learned=False, unit="plate").limits == found.limits
    order = np.random.default_rng(1).permutation(len(held_out.unit))
    assert held_out.appearance is not None
    mixed = HeldOut(held_out.embedding[order], held_out.appearance[order], held_out.unit[order])
    again = with_limits(references, mixed, learned=False, unit="plate").limits
    assert again is not None
    assert found.limits is not None
    assert again.embedding == pytest.approx(found.limits.embedding)
    away = np.random.default_rng(2).gamma(5, size=120)
    codes = np.repeat(np.arange(12), 10)
    assert new_unit_limit(3 * away, codes) == pytest.approx(3 * new_unit_limit(away, codes))


def test_units_weigh_the_same_whatever_their_size() -> None:
    rng = np.random.default_rng(0)
    away = rng.gamma(5, size=(12, 20))
    codes = np.repeat(np.arange(12), 20)
    # ten times the same images of one unit are no more units
    repeated = np.concatenate([away.ravel(), *[away[0]] * 9])
    several = new_unit_limit(repeated, np.concatenate([codes, np.zeros(180, int)]))
    assert several == pytest.approx(new_unit_limit(away.ravel(), codes), rel=0.03)


def test_images_are_worth_what_their_units_leave_of_them() -> None:
    counts = np.full(20, 30)
    unit = np.repeat(np.arange(20), 30)
    rng = np.random.default_rng(0)
    # whole units beyond: each counts once
    whole = rng.random(20) < 0.3
    assert effective_number(whole[unit], unit, counts) == pytest.approx(20)
    # images beyond whatever their unit: each counts
    assert np.mean([effective_number(rng.random(600) < 0.3, unit, counts) for _ in range(50)]) > 400
    assert effective_number(np.zeros(600, bool), unit, counts) == 600
    # one image each: their number
    assert effective_number(rng.random(40) < 0.3, np.arange(40), np.ones(40, int)) == pytest.approx(40)
    # the variance of a rate of clustered images is that of as many independent ones
    rates, worth = [], []
    for _ in range(400):
        beyond = rng.random(600) < rng.beta(1, 4, 20)[unit]
        rates.append(beyond.mean())
        worth.append(1 / effective_number(beyond, unit, counts))
    assert np.mean(worth) == pytest.approx(np.var(rates) / (0.2 * 0.8), rel=0.15)


def test_images_as_units_give_about_the_usual_quantile() -> None:
    away = np.random.default_rng(0).normal(10, 1, 400)
    assert new_unit_limit(away, np.arange(400)) == pytest.approx(np.quantile(away, 0.95), abs=0.15)


def test_few_units_are_not_calibrated_and_it_is_said_why() -> None:
    references, held_out, _, _ = drawn(0, looks=True)
    few = held_out.unit < TRAINING + LEAST_UNITS - 1
    assert held_out.appearance is not None
    fewer = HeldOut(held_out.embedding[few], held_out.appearance[few], held_out.unit[few])
    found = with_limits(references, fewer, learned=True, unit="plate")
    assert found.limits is None
    assert found.why_no_limits == "it takes 10 units that the model has not learned from, and there are 9 (plate)"
    placed = Reference.of(replace(found, appearance=None), GREY)
    assert placed is not None
    distance = placed.place(found.embedding[0], np.zeros((1, 4, 4), np.float32)).distance
    assert distance.unlike is None
    assert distance.sentence.endswith(f"not calibrated: {found.why_no_limits}.")
    # a row that has not learned from the training units has theirs too
    assert with_limits(references, fewer, learned=False, unit="plate").limits is not None


def test_training_units_as_seen_from_the_others() -> None:
    references, held_out, _, _ = drawn(3)
    away = Away.of(references, held_out, learned=False)
    space = Space.of(references.embedding)
    assert away is not None
    assert space is not None
    assert references.unit is not None
    for i in (0, 50, 191):
        others = references.unit != references.unit[i]
        assert away.embedding[len(held_out.unit) + i] == space.distances(references.embedding[i])[others].min()
    one = Away.of(replace(references, unit=np.zeros(len(references), np.int64)), held_out, learned=False)
    assert one is not None
    assert one.units == HELD_OUT


def test_constant_embeddings_and_appearances_give_no_limits_and_no_nonsense() -> None:
    references, held_out, _, _ = drawn(0, looks=True)
    assert references.appearance is not None
    same = with_limits(replace(references, embedding=np.ones_like(references.embedding)), held_out, learned=True, unit="plate")
    assert (same.limits, same.why_no_limits) == (None, "the embeddings of the training images do not vary")
    flat = with_limits(replace(references, appearance=np.ones_like(references.appearance)), held_out, learned=True, unit="plate")
    assert flat.limits is not None
    assert (flat.appearance, flat.limits.appearance) == (None, None)
    # held-out images that are copies of references: anything else is beyond
    copies = HeldOut(references.embedding[:144], references.appearance[:144], held_out.unit)
    zero = with_limits(references, copies, learned=True, unit="plate").limits
    assert zero is not None
    assert zero.embedding == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize(
    ("facts", "fitted", "learned"),
    [
        ({}, False, False),
        ({}, True, True),
        ({"weights": "random"}, False, False),
        ({"weights": "hub:resnet18"}, False, False),
        ({"weights": "trained here"}, False, True),
        ({"weights": "file:mine.safetensors"}, False, True),
        ({"training": {"units": 12}}, False, True),
    ],
)
def test_who_may_have_learned_from_the_training_images(facts: dict[str, object], fitted: bool, learned: bool) -> None:
    card = EncoderCard("net", "negative", "A row.", **facts)
    assert has_learned(card, fitted=fitted) is learned

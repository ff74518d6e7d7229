"""From which distance on an image is unlike anything scored before: limits that a stated share of the images of a new unit lie beyond.

Images of one plate resemble each other, so the distances of training images from each other say nothing of an image of a new plate; and
units, not images, are independent, so a quantile over all images of a few units is exceeded too often. Measured and chosen in
docs/decisions/0015-unlike.md.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from registry.arrays import Embedding, Floats, Ints, Mask
from registry.cards import EncoderCard
from registry.reference import Limits, ReferenceSet
from serving.reference import Space

#: share of the images of a new unit that are called unlike anything scored before
RATE = 0.05
#: units it takes to say so, as of a verdict
LEAST_UNITS = 10
#: keeps a ratio to a limit of 0 finite
TINY = 1e-12


@dataclass(frozen=True)
class HeldOut:
    """Images of units that are not among the references.

    Attributes:
        embedding: (m, d).
        appearance: (m, p), or None as that of the references.
        unit: (m,) codes, none of which a reference has.
    """

    embedding: Embedding
    appearance: NDArray[np.float32] | None
    unit: Ints


@dataclass(frozen=True)
class Away:
    """How far images of new units lie from their nearest reference.

    Attributes:
        embedding: (m,) distances.
        appearance: (m,) distances; None where it was not looked at, or does not vary.
        unit: (m,) codes.
    """

    embedding: Floats
    appearance: Floats | None
    unit: Ints

    @classmethod
    def of(cls, references: ReferenceSet, held_out: HeldOut, *, learned: bool) -> Away | None:
        """Held-out images, and where the row has learned nothing from the references each of these, as seen from all other units.

        None where the embeddings of the references do not vary. Arguments as of `with_limits`.
        """
        known = references.unit
        # of a single unit there are no others to lie away from
        others = known if known is not None and not learned and len(np.unique(known)) > 1 else None
        seen = _distances(references.embedding, held_out.embedding, others)
        if seen is None:
            return None
        looks = None
        if references.appearance is not None and held_out.appearance is not None:
            looks = _distances(references.appearance, held_out.appearance, others)
        return cls(seen, looks, held_out.unit if others is None else np.concatenate([held_out.unit, others]))

    @property
    def units(self) -> int:
        """How many units there are."""
        return len(np.unique(self.unit))

    def without(self, *units: int) -> Away:
        """All units but these."""
        kept = ~np.isin(self.unit, units)
        return Away(self.embedding[kept], None if self.appearance is None else self.appearance[kept], self.unit[kept])

    def limits(self, unit: str) -> Limits:
        """The limits that a share of `RATE` of the images of a new unit are beyond; `unit` says in a word what a unit is."""
        alone = max(new_unit_limit(self.embedding, self.unit), TINY)
        if self.appearance is None:
            return Limits(alone, None, RATE, self.units, unit)
        # each by its own limit first, so that one distance of both can be taken; then both limits move until together they have the rate
        looks = max(new_unit_limit(self.appearance, self.unit), TINY)
        both = new_unit_limit(np.maximum(self.embedding / alone, self.appearance / looks), self.unit)
        return Limits(both * alone, both * looks, RATE, self.units, unit)


def has_learned(card: EncoderCard, *, fitted: bool) -> bool:
    """Whether a row may have learned from the training images, so that they lie nearer to each other than images of new units do.

    Args:
        card: of the row.
        fitted: whether it was fitted to training images here.
    """
    return fitted or bool(card.training) or card.weights.startswith(("trained", "file:"))


def with_limits(references: ReferenceSet, held_out: HeldOut, *, learned: bool, unit: str) -> ReferenceSet:
    """References with limits, or with the reason why there are none.

    Args:
        references: with units and, where images have one, appearance.
        held_out: other images.
        learned: whether the row may have learned from the references; if not, each of their units is a new one to all others.
        unit: what a unit is, in a word ("plate").
    """
    away = Away.of(references, held_out, learned=learned)
    if away is None:
        return replace(references, limits=None, why_no_limits="the embeddings of the training images do not vary")
    if away.units < LEAST_UNITS:
        why = f"it takes {LEAST_UNITS} units that the model has not learned from, and there are {away.units} ({unit})"
        return replace(references, limits=None, why_no_limits=why)
    looks = references.appearance if away.appearance is not None else None
    return replace(references, appearance=looks, limits=away.limits(unit), why_no_limits="")


def new_unit_limit(distances: Floats, units: Ints, rate: float = RATE) -> float:
    """A limit that an image of a new unit lies beyond with probability `rate`.

    The quantile over images, every unit with the same weight, and a margin: how far images lie beyond that quantile of all other
    units. The margin is what new units add to it; it is near 0 where units do not differ or are many. Its own quantile is of as many
    values as the images are worth (`effective_number`): where whole units lie beyond, a dozen of them are not hundreds of images.

    Args:
        distances: (m,).
        units: (m,) codes; at least two units.
        rate: between 0 and 1.
    """
    # sorted once: sorting what is sorted already, for each unit, takes a tenth of the time
    order = np.argsort(distances, kind="stable")
    distances = distances[order]
    _, unit, counts = np.unique(units[order], return_inverse=True, return_counts=True)
    weights = 1.0 / counts[unit]
    of_others = np.array([quantile_of_units(distances[unit != u], weights[unit != u], 1 - rate) for u in range(len(counts))])
    beyond = distances - of_others[unit]
    margin = quantile_of_units(beyond, weights, 1 - rate, effective_number(beyond > 0, unit, counts))
    return max(0.0, quantile_of_units(distances, weights, 1 - rate) + margin)


def effective_number(beyond: Mask, unit: Ints, counts: Ints) -> float:
    """How many independent images as many images of units are worth, when it comes to how often they lie beyond something.

    Kish's design effect (1965) for units of the same weight, with the intraclass correlation of being beyond by analysis of variance
    (Donner 1986), at least 0. The number of images where units do not differ, the number of units where images of a unit do not.

    Args:
        beyond: (m,).
        unit: (m,) 0, 1, ...
        counts: (units,) images of each; at least two units.
    """
    number, images = len(counts), len(beyond)
    values = beyond.astype(np.float64)
    means = np.bincount(unit, values) / counts
    between = (counts * (means - values.mean()) ** 2).sum() / (number - 1)
    within = ((values - means[unit]) ** 2).sum() / max(1, images - number)
    of_units = max(0.0, between - within) / ((images - (counts**2).sum() / images) / (number - 1))
    correlation = of_units / (of_units + within) if of_units + within > 0 else 0.0
    each = 1 / np.mean(1 / counts)
    return float(number * each / (1 + (each - 1) * correlation))


def quantile_of_units(values: Floats, weights: Floats, share: float, number: float | None = None) -> float:
    """Weighted quantile; of n equal weights the k-th smallest value is that of k / (n + 1), which a new value exceeds as often as it should.

    `number` is n where the values are worth fewer independent ones; the largest value is then that of n / (n + 1) and all above.
    """
    order, number = np.argsort(values, kind="stable"), len(values) if number is None else number
    upto = np.cumsum(weights[order]) / weights.sum() * number / (number + 1)
    return float(np.interp(share, upto, values[order]))


def _distances(references: NDArray[np.float32], held_out: NDArray[np.float32], unit: Ints | None) -> Floats | None:
    """(m,) of held-out images from their nearest reference; with `unit` also (n,) of references from their nearest of another unit.

    None where nothing in the references varies.
    """
    space = Space.of(references)
    if space is None:
        return None
    found = [space.distances(vector).min() for vector in held_out]
    if unit is not None:
        found += [np.where(unit == own, np.inf, space.distances(vector)).min() for vector, own in zip(references, unit, strict=True)]
    return np.array(found, np.float64)

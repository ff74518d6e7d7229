"""MDL probing: how many bits the labels take for one who holds the vectors (the online code of Voita & Titov 2020, arXiv 2003.12298).

Sender and receiver both have the vectors. Labels are sent in blocks: those of the first block by the uniform code, log2 k bits each, those of
every later block by a probe fitted to all blocks before it. A code is short where little data makes a good probe, so it asks not only whether
a label can be read from an embedding but how soon.

Differences from the paper. A block is made of whole units, so no unit is coded by a probe that has seen it; the order of units comes from a
hash of their names. The probe is the logistic probe of every row (`probes.fit_probe`), which weighs classes the same: a probe that knows class
sizes would shorten the code of unequal classes with vectors that say nothing. A class that no earlier block has keeps its uniform share 1 / k,
and every probability is mixed with 1 part in 1000 of the uniform one, so that the code is a code whatever happens: such a class costs
log2 k bits, and no image more than log2(1000 k).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from pipelines.metrics.geometry import check_features
from pipelines.metrics.probes import ProbeSettings, fit_probe
from pipelines.metrics.statistic import Statistic, check_labels, image_mean, index_units
from registry.arrays import Floats, Ints
from registry.errors import InputError

#: shares of the units at which blocks end
FRACTIONS = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1.0)
#: share of the uniform code in every probability
_MIXED = 1e-3


@dataclass(frozen=True, eq=False)
class OnlineCode:
    """The labels of n images, coded.

    Attributes:
        bits: (n,) of each label.
        uniform: log2 of the number of classes: bits of each label without vectors.
        order: names of the units, as they were sent.
        ends: units sent at the end of each block.
        block_bits: (b,) mean bits of a label in each block; the first is `uniform`.
        compression: uniform / online code length; larger is better, 1 = the vectors say nothing, less = they mislead. Without unit u: of the
            labels of all others, by the same probes; its share is n_u / n.
    """

    bits: Floats
    uniform: float
    order: tuple[str, ...]
    ends: tuple[int, ...]
    block_bits: Floats
    compression: Statistic

    @property
    def online_bits(self) -> float:
        """Length of the whole code."""
        return float(self.bits.sum())

    @property
    def uniform_bits(self) -> float:
        """Length of the code without vectors."""
        return self.uniform * len(self.bits)


def online_code(
    features: Floats,
    labels: Ints,
    units: Sequence[str] | NDArray[np.str_],
    n_classes: int,
    settings: ProbeSettings,
    *,
    fractions: Sequence[float] = FRACTIONS,
    seed: int = 0,
) -> OnlineCode:
    """Code the labels of (n, d) features, unit after unit.

    Args:
        features: (n, d).
        labels: (n,) class codes; leave images without a label out.
        units: n unit names.
        n_classes: size of the vocabulary, at least 2.
        settings: of the probe.
        fractions: of the units, ascending, the last 1; each is rounded up to whole units, and ends that fall together are one.
        seed: enters the hash that orders the units.

    Raises:
        InputError: one unit or one class only, NaN or infinity, labels outside the vocabulary, other fractions.
    """
    features, index = check_features(features), index_units(units)
    labels = check_labels(labels, len(features), n_classes)
    if len(index.codes) != len(labels):
        raise InputError(f"Expected a unit for each of {len(labels)} images, got {len(index.codes)}.")
    if list(fractions) != sorted(set(fractions)) or not fractions or fractions[0] <= 0 or fractions[-1] != 1:
        raise InputError(f"Expected ascending fractions of the units, the last of them 1, got {tuple(fractions)}.")
    ends = sorted({int(np.ceil(round(fraction * len(index.names), 9))) for fraction in fractions})
    if n_classes < 2 or len(ends) < 2:
        raise InputError(
            f"Expected at least 2 classes and units for at least 2 blocks, got {n_classes} classes and {len(index.names)} units, whose blocks end "
            f"at {ends}. With one block nothing is coded by a probe."
        )
    order = sorted(range(len(index.names)), key=lambda u: hashlib.sha256(f"{seed}/{index.names[u]}".encode()).digest())
    place = np.empty(len(order), dtype=np.int64)
    place[order] = np.arange(len(order))
    sent = place[index.codes]
    names = np.array(index.names)[index.codes]
    bits = np.full(len(labels), np.log2(n_classes))
    for start, end in pairwise(ends):
        before, block = sent < start, (sent >= start) & (sent < end)
        probe = fit_probe(features[before], labels[before], names[before], n_classes, settings)
        shares = _code(probe.predict_proba(features[block]), np.bincount(labels[before], minlength=n_classes) > 0)
        bits[block] = -np.log2(shares[np.arange(len(shares)), labels[block]])
    block_bits = np.array([bits[(sent >= start) & (sent < end)].mean() for start, end in pairwise([0, *ends])])
    mean, uniform = image_mean(bits, names, labels, n_classes), float(np.log2(n_classes))
    compression = replace(mean, value=uniform / mean.value, without=uniform / mean.without)
    return OnlineCode(bits, uniform, tuple(index.names[u] for u in order), tuple(ends), block_bits, compression)


def _code(probabilities: Floats, seen: NDArray[np.bool_]) -> Floats:
    """(n, k) positive probabilities that sum to 1, from those of a probe that knows the classes seen."""
    k = len(seen)
    shares = np.where(seen, probabilities * seen.sum() / k, 1 / k)
    return np.asarray((1 - _MIXED) * shares + _MIXED / k)

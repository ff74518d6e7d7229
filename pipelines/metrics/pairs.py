"""Retrieval by rules about pairs: which profiles are a query's positives and which its negatives, as Cell Painting asks it.

The four lists of a rule are those of copairs (Kalinin et al. 2025): a pair is positive when it agrees in every column of `pos_sameby`
and differs in every one of `pos_diffby`; negative likewise. How this differs from copairs 0.5.5:

- candidates that tie share their places in expectation (`ranking`); copairs ranks ties positives first, which gives a constant embedding
  or a cell count a perfect score. Without ties the AP is the same;
- similarities are float64, and a profile of zeros is as similar to one profile as to any other (copairs: NaN);
- the normalised AP is not clipped at -1, which would lift the mean of pure noise above 0;
- a query without a positive or without a negative has NaN and stays in place; copairs drops the former and gives the latter 1.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from pipelines.metrics.geometry import TIE, check_features, describe, varying_columns
from pipelines.metrics.names import whole_names
from pipelines.metrics.ranking import chance_ap, contributions
from registry.arrays import Floats, Ints, Mask
from registry.errors import InputError

DISTANCES = ("cosine", "euclidean")
#: queries whose similarities are held at a time
_BLOCK = 128
#: a profile lies far out whose squared norm is so many times that of nine in ten others: it does not say how close those must be to tie
_FAR, _MOST = 1e4, 0.9
#: profiles up to which all their products are kept (72 MB)
_KEPT = 3_000

Columns = Mapping[str, Sequence[str] | NDArray[np.str_]]


class NoQueryError(InputError):
    """No query has both a positive and a negative."""


@dataclass(frozen=True)
class PairRule:
    """Which pairs are positive and which negative, by names of columns; copairs' four lists."""

    pos_sameby: tuple[str, ...] = ()
    pos_diffby: tuple[str, ...] = ()
    neg_sameby: tuple[str, ...] = ()
    neg_diffby: tuple[str, ...] = ()

    @property
    def columns(self) -> tuple[str, ...]:
        """All columns that are named, in order."""
        return tuple(dict.fromkeys((*self.pos_sameby, *self.pos_diffby, *self.neg_sameby, *self.neg_diffby)))

    def pairs(self, columns: Columns, n: int) -> Pairs:
        """The pairs among n profiles with these columns.

        Raises:
            InputError: a column is missing or too short.
        """
        return Pairs(columns, self, n)


@dataclass(frozen=True, eq=False)
class PairScores:
    """One entry per scored list.

    Attributes:
        query: (q,) row of the query.
        label: (q,) of several labels, the one whose positives were looked for; -1 where a profile has one label.
        ap: (q,) average precision in 0..1, larger is better; NaN where there is no positive or no negative.
        chance: (q,) expected AP of a random order; NaN likewise.
        n_positive: (q,) positives.
        n_total: (q,) candidates.
        tied: (q,) share of the positives that tie with another candidate, in 0..1; NaN likewise.
    """

    query: Ints
    label: Ints
    ap: Floats
    chance: Floats
    n_positive: Ints
    n_total: Ints
    tied: Floats

    @property
    def normalised(self) -> Floats:
        """(q,) (AP - chance) / (1 - chance): 0 is chance, 1 is perfect."""
        return np.asarray((self.ap - self.chance) / (1 - self.chance))


def fitting_distance(features: Floats) -> str:
    """ "cosine", or "euclidean" for features of fewer than 3 effective dimensions, where a cosine knows little but a sign.

    Args:
        features: (n, d) finite.

    Raises:
        InputError: NaN or infinity.
    """
    return "euclidean" if describe(features).low_rank else "cosine"


def pair_scores(features: Floats, columns: Columns, rule: PairRule, distance: str = "cosine", queries: Mask | None = None) -> PairScores:
    """Score profiles as queries, each of them if none are named.

    Args:
        features: (n, d) finite profiles.
        columns: n values for each column that the rule names.
        rule: what makes a pair positive or negative.
        distance: "cosine" or "euclidean".
        queries: (n,) which profiles are queries, such as treated wells among control wells; None = all. All are candidates.

    Raises:
        NoQueryError: no query has both a positive and a negative.
        InputError: NaN features, a column that is missing or too short, flags of another length, an unknown distance.
    """
    features = check_features(features)
    pairs, asked = rule.pairs(columns, len(features)), asked_queries(queries, len(features))
    scored = _Scored()
    for query, similarity, tolerance in Similarities(features, distance).each():
        if not asked[query]:
            continue
        scored.add(query, -1, similarity, pairs.positive(query), pairs.negative(query), tolerance)
    return scored.done(rule)


def asked_queries(queries: Mask | None, n: int) -> Mask:
    """(n,) which profiles are queries; all where None says which.

    Raises:
        InputError: flags of another length.
    """
    asked = np.ones(n, dtype=bool) if queries is None else np.asarray(queries, dtype=bool)
    if asked.shape != (n,):
        raise InputError(f"Expected {n} flags of queries, got shape {asked.shape}.")
    return asked


def multilabel_scores(features: Floats, membership: Mask, columns: Columns, rule: PairRule, distance: str = "cosine") -> PairScores:
    """Score every profile once for each of its labels, such as the targets of a compound.

    Positives for a label are the profiles that have it, negatives those that share no label with the query; the rule speaks of other
    columns (`pos_diffby=("compound",)` asks for another compound with the same target). A profile without labels is no query.

    Args:
        features: (n, d) finite profiles.
        membership: (n, k) which labels a profile has.
        columns: as for `pair_scores`.
        rule: as for `pair_scores`.
        distance: as for `pair_scores`.

    Raises:
        InputError: as `pair_scores`.
    """
    features = check_features(features)
    pairs = rule.pairs(columns, len(features))
    if membership.shape[:1] != (len(features),) or membership.ndim != 2:
        raise InputError(f"Expected {len(features)} rows of labels, got shape {membership.shape}.")
    scored = _Scored()
    for query, similarity, tolerance in Similarities(features, distance).each():
        own = np.flatnonzero(membership[query])
        if not len(own):
            continue
        positive, negative = pairs.positive(query), pairs.negative(query) & ~membership[:, own].any(axis=1)
        for label in own.tolist():
            scored.add(query, label, similarity, positive & membership[:, label], negative, tolerance)
    return scored.done(rule)


class Pairs:
    """A rule on n profiles with these columns."""

    def __init__(self, columns: Columns, rule: PairRule, n: int) -> None:
        self._n = n
        self._pos_same, self._pos_diff = combined_codes(columns, rule.pos_sameby, n), [_codes(columns, name, n) for name in rule.pos_diffby]
        self._neg_same, self._neg_diff = combined_codes(columns, rule.neg_sameby, n), [_codes(columns, name, n) for name in rule.neg_diffby]

    def positive(self, query: int) -> Mask:
        """(n,) the query's positives; never itself."""
        return self._pairs(query, self._pos_same, self._pos_diff)

    def negative(self, query: int) -> Mask:
        """(n,) the query's negatives; never itself."""
        return self._pairs(query, self._neg_same, self._neg_diff)

    def _pairs(self, query: int, same: NDArray[np.int32], different: list[NDArray[np.int32]]) -> Mask:
        found = np.asarray(same == same[query])
        for codes in different:
            found &= codes != codes[query]
        found[query] = False
        return found


def combined_codes(columns: Columns, names: Sequence[str], n: int) -> NDArray[np.int32]:
    """(n,) one code for each combination of values; all alike where no column is named.

    Raises:
        InputError: a column is missing or too short.
    """
    if not names:
        return np.zeros(n, dtype=np.int32)
    return np.unique(np.stack([_codes(columns, name, n) for name in names]), axis=1, return_inverse=True)[1].reshape(n).astype(np.int32)


def _codes(columns: Columns, name: str, n: int) -> NDArray[np.int32]:
    return np.unique(column_values(columns, name, n), return_inverse=True)[1].astype(np.int32)


def column_values(columns: Columns, name: str, n: int) -> NDArray[np.str_]:
    """(n,) values of a column.

    Raises:
        InputError: it is missing or too short, or a value of it is missing.
    """
    if name not in columns:
        raise InputError(
            f"There is no column `{name}`, by which profiles are told apart; there are {', '.join(f'`{c}`' for c in columns) or 'none'}."
        )
    values = whole_names(columns[name], f"values of `{name}`")
    if values.shape != (n,):
        raise InputError(f"Expected {n} values of `{name}`, got shape {values.shape}.")
    return values


class _Scored:
    """The lists that were scored so far."""

    def __init__(self) -> None:
        self._entries: list[tuple[int, int, float, int, int, float]] = []

    def add(self, query: int, label: int, similarity: Floats, positive: Mask, negative: Mask, tolerance: float) -> None:
        """Score one list; a candidate that is both positive and negative counts twice, as in copairs."""
        relevant, others = np.sort(similarity[positive])[::-1], np.sort(similarity[negative])
        m, n = len(relevant), len(others)
        if m == 0 or n == 0:
            self._entries.append((query, label, np.nan, m, m + n, np.nan))
            return
        opens = np.flatnonzero(np.concatenate([[True], np.diff(relevant) < -tolerance]))
        ends = np.append(opens[1:], m)
        # of each group of positives that tie: negatives ahead of it and among it
        ahead = n - np.searchsorted(others, relevant[opens] + tolerance, side="right")
        among = n - np.searchsorted(others, relevant[ends - 1] - tolerance, side="left") - ahead
        positives = ends - opens
        items = positives + among
        total = float(contributions(items, opens + ahead, positives.astype(np.float64)).sum())
        self._entries.append((query, label, total / m, m, m + n, float(positives[items > 1].sum()) / m))

    def done(self, rule: PairRule) -> PairScores:
        """Everything as arrays.

        Raises:
            NoQueryError: nothing has both a positive and a negative.
        """
        columns = list(zip(*self._entries, strict=True)) or [()] * 6
        query, label, m, total = (np.array(columns[i], dtype=np.int64) for i in (0, 1, 3, 4))
        ap, tied = (np.array(columns[i], dtype=np.float64) for i in (2, 5))
        scored = ~np.isnan(ap)
        if not scored.any():
            raise NoQueryError(f"Expected a profile with a positive and a negative under {rule}, got none. Check the columns it names.")
        chance = np.full(len(ap), np.nan)
        chance[scored] = chance_ap(m[scored], (total - m)[scored])
        return PairScores(query, label, ap, chance, m, total, tied)


class Similarities:
    """How similar profiles are, larger is nearer, up to what is the same for all candidates of a query.

    Args:
        features: (n, d) finite.
        distance: "cosine" or "euclidean".

    Raises:
        InputError: an unknown distance.
    """

    def __init__(self, features: Floats, distance: str) -> None:
        if distance not in DISTANCES:
            raise InputError(f"Expected a distance of {' or '.join(DISTANCES)}, got `{distance}`.")
        if distance == "cosine":
            lengths = np.sqrt(np.sum(features**2, axis=1))
            self._x = np.divide(features, lengths[:, None], out=np.zeros_like(features), where=lengths[:, None] > 0)
            self._half, self._tolerance = np.zeros(len(features)), TIE
        else:
            x = features[:, varying_columns(features)]
            # one profile far out moves a mean, and with it the lengths of all others
            self._x = x - np.median(x, axis=0) if x.size else x
            lengths = np.sum(self._x**2, axis=1)
            # -|a - b|^2 / 2 up to the query's own length
            self._half = -0.5 * lengths
            apart = lengths[lengths > 0]
            self._tolerance = TIE * min(float(apart.max()), _FAR * float(np.quantile(apart, _MOST, method="lower"))) if len(apart) else 0.0

    def each(self) -> Iterator[tuple[int, Floats, float]]:
        """Each query, its (n,) similarities, and how close two of them must be to tie."""
        for start in range(0, len(self._x), _BLOCK):
            block = self._x[start : start + _BLOCK] @ self._x.T
            block += self._half
            for offset, similarity in enumerate(block):
                yield start + offset, similarity, self._tolerance

    def to(self, query: int, candidates: Ints) -> tuple[Floats, float]:
        """(m,) similarities of some candidates, and how close two of them must be to tie."""
        products = self._products
        return (self._x[candidates] @ self._x[query] if products is None else products[query, candidates]) + self._half[candidates], self._tolerance

    def among(self, profiles: Ints) -> tuple[Floats, float]:
        """(m, m) similarities of some profiles to each other, each row of one query, and how close two of a row must be to tie."""
        products, x = self._products, self._x[profiles]
        return (x @ x.T if products is None else products[np.ix_(profiles, profiles)]) + self._half[profiles], self._tolerance

    @cached_property
    def _products(self) -> Floats | None:
        """(n, n) all products at once, where they are few enough to be kept."""
        return self._x @ self._x.T if len(self._x) <= _KEPT else None

"""How much of an embedding is batch: plate, centre, donor, day. Neighbourhoods, components, and what a leak gives a classifier.

Every function is exact and has no seed. Neighbours are euclidean, never the profile itself, and profiles that tie with the k-th
neighbour all count by their share, so that a constant embedding has all others as neighbours instead of the first k of the file.
How the scores differ from scib-metrics 0.5.10, and what gives its numbers back (tests/pipelines/metrics/golden):

- a profile is not its own neighbour; there it is one of the k. `lisi(k=k-1, perplexity=k//3)`, `kbet(with_self=True)`, `graph_connectivity(k=k-1)`;
- `lisi` is one number per profile to be averaged; there the scaled median is reported. cLISI is 1 - `lisi` of the classes;
- an edge of the neighbour graph holds in both directions; there a part must be reachable forth and back: `graph_connectivity(connection="strong")`;
- `bras` leaves out a profile that is alone with its batch in its class; there it scores a perfect 1: `bras(singletons="perfect")`;
- neighbours are exact and ties are shared; there ties go by the order of the file.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipelines.metrics.geometry import TIE, check_features
from pipelines.metrics.names import whole_names
from pipelines.metrics.pairs import Similarities
from registry.arrays import Floats, Ints, Mask
from registry.errors import InputError

#: directions closer than this are the same up to rounding
ROUNDING = 1e-9

Names = Sequence[str] | NDArray[np.str_]


@dataclass(frozen=True)
class Components:
    """Principal component regression.

    Attributes:
        share: of the embedding's variance that the batch explains, sum of lambda R^2 / sum of lambda, 0..1; smaller is better.
        expected: what a batch drawn at random would explain, (batches - 1) / (n - 1).
        first: R^2 of the first component.
    """

    share: float
    expected: float
    first: float


def principal_component_regression(features: Floats, batch: Names) -> Components:
    """Variance of the principal components explained by the batch (Buettner et al. 2019); all components, so no number of them is chosen.

    Over all components it is the share of the total variance that lies between batch means. A constant embedding has a share of 0.

    Args:
        features: (n, d) finite profiles.
        batch: n names.

    Raises:
        InputError: fewer than two batches, NaN or infinity.
    """
    features, codes = check_features(features), _codes(batch, len(features))
    centred = features - features.mean(axis=0)
    counts = np.bincount(codes)
    means = np.zeros((len(counts), features.shape[1]))
    np.add.at(means, codes, centred)
    means /= counts[:, None]
    total = float(np.sum(centred**2))
    if total <= 1e-24 * float(np.sum(features**2)):
        return Components(0.0, (len(counts) - 1) / (len(features) - 1), 0.0)
    between = float(np.sum(counts[:, None] * means**2))
    first = np.linalg.svd(centred, full_matrices=False)[2][0]
    scores, of_batch = centred @ first, means @ first
    return Components(between / total, (len(counts) - 1) / (len(features) - 1), float(np.sum(counts * of_batch**2) / np.sum(scores**2)))


def lisi(features: Floats, names: Names, k: int = 90, perplexity: float | None = None) -> Floats:
    """(n,) inverse Simpson index of each profile's neighbourhood, scaled to 0..1: 0 = one name only, 1 = all names alike.

    Weights fall off exponentially with distance so that the perplexity is k / 3 unless stated (Korsunsky et al. 2019). Of batches it is iLISI,
    larger is better; of classes it is 1 - cLISI, smaller is better.

    Args:
        features: (n, d) finite profiles.
        names: n batches or classes.
        k: neighbours.
        perplexity: of the weights; None = k / 3.

    Raises:
        InputError: fewer than two names, no more profiles than neighbours, a perplexity outside of 1 to k, NaN or infinity.
    """
    found: Floats = lisi_of(features, [names], k, perplexity)[0]
    return found


def lisi_of(features: Floats, several: Sequence[Names], k: int = 90, perplexity: float | None = None) -> Floats:
    """(m, n) `lisi` of m kinds of names of the same profiles, whose neighbourhoods are searched and weighed once; of batches larger is better.

    Korsunsky et al. 2019; how it differs from scib-metrics is said above.

    Args:
        features: (n, d) finite profiles.
        several: m times n names.
        k: as for `lisi`.
        perplexity: as for `lisi`.

    Raises:
        InputError: as `lisi`.
    """
    features = check_features(features)
    codes = [_codes(names, len(features)) for names in several]
    _enough(len(features), k)
    perplexity = max(1.0, k / 3) if perplexity is None else perplexity
    if not 1 <= perplexity <= k:
        raise InputError(f"Expected a perplexity from 1 to {k}, got {perplexity:g}.")
    sizes = [int(c.max()) + 1 for c in codes]
    found = np.empty((len(codes), len(features)))
    for query, neighbours, share, distance in _neighbourhoods(features, k):
        weight = share * _perplexed(np.sqrt(distance), share, perplexity)
        weight /= weight.sum()
        for m, (of, size) in enumerate(zip(codes, sizes, strict=True)):
            p = np.bincount(of[neighbours], weight, size)
            found[m, query] = (1 / np.sum(p**2) - 1) / (size - 1)
    return found


def _perplexed(distance: Floats, share: Floats, perplexity: float) -> Floats:
    """Gaussian weights whose entropy is the log of the perplexity, by bisection on the precision."""
    gap = distance - distance.min()
    if gap.max() == 0.0:
        return np.ones_like(gap)
    low, high, beta = 0.0, np.inf, 1.0 / float(gap.mean())
    for _ in range(60):
        weight = np.exp(-gap * beta)
        p = share * weight / np.sum(share * weight)
        entropy = -float(np.sum(p[p > 0] * np.log(p[p > 0] / share[p > 0])))
        if abs(entropy - np.log(perplexity)) < 1e-5:
            break
        if entropy > np.log(perplexity):
            low, beta = beta, (beta * 2 if np.isinf(high) else (beta + high) / 2)
        else:
            high, beta = beta, (beta + low) / 2
    return np.asarray(np.exp(-gap * beta))


def kbet(features: Floats, batch: Names, k: int = 50, alpha: float = 0.05, with_self: bool = False) -> float:
    """Share of neighbourhoods in which the batches are as mixed as in the whole (Buettner et al. 2019), 0..1; larger is better, 1 - alpha is perfect.

    A chi-squared test of the k neighbours against the frequencies of all other profiles. Give profiles of one class: where classes differ
    between batches, mixing would be wrong. A constant embedding has all others as neighbours, and so 1.

    Args:
        features: (n, d) finite profiles.
        batch: n names.
        k: neighbours.
        alpha: level of the test.
        with_self: count a profile among its k neighbours, as scib-metrics does.

    Raises:
        InputError: fewer than two batches, no more profiles than neighbours, no neighbour, a level outside of 0..1, NaN or infinity.
    """
    from scipy.special import chdtri

    features, codes = check_features(features), _codes(batch, len(features))
    _enough(len(features), k - with_self)
    if not 0 < alpha < 1:
        raise InputError(f"Expected a level of the test between 0 and 1, got {alpha}. 0.05 is published.")
    counts = np.bincount(codes).astype(np.float64)
    bound = float(chdtri(len(counts) - 1, alpha))
    accepted = 0
    for query, neighbours, share, _ in _neighbourhoods(features, k - with_self):
        others, observed = counts.copy(), np.bincount(codes[neighbours], share, len(counts))
        if with_self:
            observed[codes[query]] += 1
        else:
            others[codes[query]] -= 1
        expected = k * others / others.sum()
        seen = expected > 0
        accepted += float(np.sum((observed - expected)[seen] ** 2 / expected[seen])) <= bound
    return accepted / len(features)


def graph_connectivity(features: Floats, classes: Names, k: int = 15, connection: str = "weak") -> float:
    """Mean over classes of the share of its profiles in its largest connected part of the neighbour graph, 0..1; larger is better.

    An edge joins a profile and each of its k neighbours, either way (Luecken et al. 2022). A constant embedding is connected, and has 1.

    Args:
        features: (n, d) finite profiles.
        classes: n names.
        k: neighbours.
        connection: "weak", or "strong" for a way forth and back.

    Raises:
        InputError: fewer than two classes, no more profiles than neighbours, another connection, NaN or infinity.
    """
    if connection not in ("weak", "strong"):
        raise InputError(f"Expected a connection of `weak` or `strong`, got `{connection}`.")
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    features, codes = check_features(features), _codes(classes, len(features))
    _enough(len(features), k)
    ends = [(query, other) for query, neighbours, _, _ in _neighbourhoods(features, k) for other in neighbours.tolist()]
    first, second = np.array(ends).T
    inside = codes[first] == codes[second]
    graph = coo_matrix((np.ones(int(inside.sum())), (first[inside], second[inside])), shape=(len(codes), len(codes)))
    part = np.asarray(connected_components(graph, directed=connection == "strong", connection="strong")[1], dtype=np.int64)
    return float(np.mean([np.bincount(part[codes == c]).max() / np.sum(codes == c) for c in range(int(codes.max()) + 1)]))


def robustness_index(features: Floats, classes: Names, batch: Names, k: int = 50) -> float:
    """SO / (SO + OS) over all profiles' k nearest neighbours: same class and other batch, against other class and same batch; 0.5 = neither leads.

    0..1, larger is better. Neighbours by cosine (de Jong et al. 2025, PathoROB). NaN where no neighbour is of either kind.

    Args:
        features: (n, d) finite profiles.
        classes: n names.
        batch: n names.
        k: neighbours.

    Raises:
        InputError: fewer than two classes or batches, no more profiles than neighbours, NaN or infinity.
    """
    features = check_features(features)
    y, b = _codes(classes, len(features)), _codes(batch, len(features))
    _enough(len(features), k)
    so = os = 0.0
    for query, neighbours, share, _ in _neighbourhoods(features, k, "cosine"):
        same_class, same_batch = y[neighbours] == y[query], b[neighbours] == b[query]
        so += float(share[same_class & ~same_batch].sum())
        os += float(share[~same_class & same_batch].sum())
    return so / (so + os) if so + os > 0 else float("nan")


def bras(features: Floats, classes: Names, batch: Names, singletons: str = "leave-out") -> float:
    """Batch removal adapted silhouette (Rautenstrauch & Ohler 2025): within each class, are batches as near to one another as to themselves? 0..1.

    1 - |b - a| / max(a, b), a = mean cosine distance to the others of one's batch, b = mean distance to all profiles of other batches, of the
    same class both; mean over profiles, then over classes. Larger is better, 1 = batches do not show. A class with one batch only, or one profile
    per batch, does not count; nor does a profile alone with its batch in its class.

    Args:
        features: (n, d) finite profiles.
        classes: n names.
        batch: n names.
        singletons: "leave-out", or "perfect" to give a profile alone with its batch in its class 1, as the reference does.

    Returns:
        NaN where no class has two batches with two profiles each, or all distances are 0: a constant embedding is not a mixed one.

    Raises:
        InputError: fewer than two batches, NaN or infinity.
    """
    if singletons not in ("leave-out", "perfect"):
        raise InputError(f"Expected singletons to `leave-out` or `perfect`, got `{singletons}`.")
    features = check_features(features)
    y, b = _codes(classes, len(features), least=1), _codes(batch, len(features))
    lengths = np.sqrt(np.sum(features**2, axis=1, keepdims=True))
    unit = np.divide(features, lengths, out=np.zeros_like(features), where=lengths > 0)
    scores = []
    for c in range(int(y.max()) + 1):
        inside = np.flatnonzero(y == c)
        codes = np.unique(b[inside], return_inverse=True)[1]
        found = _silhouettes(unit[inside], codes, singletons == "perfect")
        if len(found):
            scores.append(float(np.mean(1 - np.abs(found))))
    return float(np.mean(scores)) if scores else float("nan")


def _silhouettes(unit: Floats, codes: Ints, singletons: bool) -> Floats:
    """(b - a) / max(a, b) of the profiles of one class that count; none where batches cannot be compared or all profiles are alike."""
    counts = np.bincount(codes)
    if len(counts) < 2 or len(counts) == len(codes) or np.ptp(unit, axis=0).max() <= ROUNDING:
        return np.zeros(0)
    # a sum of cosines is a cosine with the sum
    similar = unit @ np.add.reduceat(unit[np.argsort(codes, kind="stable")], np.concatenate([[0], np.cumsum(counts)[:-1]])).T
    own, n = np.arange(len(codes)), len(codes)
    lengths = np.sum(unit**2, axis=1)
    within = (counts[codes] - 1) - (similar[own, codes] - lengths)
    between = (n - counts[codes]) - (similar.sum(axis=1) - similar[own, codes])
    a, b = np.maximum(within, 0) / np.maximum(counts[codes] - 1, 1), np.maximum(between, 0) / (n - counts[codes])
    alone, largest = counts[codes] == 1, np.maximum(a, b)
    found = np.divide(b - a, largest, out=np.zeros(n), where=(largest > TIE) & ~alone)
    return found if singletons else np.asarray(found[~alone])


@dataclass(frozen=True)
class NotSame:
    """1-nearest-neighbour accuracy of a profile's annotation.

    Attributes:
        nsc: the neighbour is of another compound, 0..1, larger is better.
        nscb: of another compound and another batch.
        queries: profiles that have a candidate of their annotation both ways.
    """

    nsc: float
    nscb: float
    queries: int

    @property
    def leak(self) -> float:
        """What sharing a batch gives: NSC - NSCB."""
        return self.nsc - self.nscb


def not_same_compound(features: Floats, annotation: Names, compound: Names, batch: Names) -> NotSame:
    """Ljosa et al. 2013 and Ando et al. 2017, by cosine; of neighbours that tie each counts by its share.

    Args:
        features: (n, d) finite profiles.
        annotation: n names, such as mechanisms.
        compound: n names.
        batch: n names.

    Raises:
        InputError: no profile has an annotated neighbour of another compound and batch, NaN or infinity.
    """
    features = check_features(features)
    y, c, b = (_codes(names, len(features), least=1) for names in (annotation, compound, batch))
    right: list[tuple[float, float]] = []
    for query, similarity, tolerance in Similarities(features, "cosine").each():
        other = c != c[query]
        elsewhere = other & (b != b[query])
        if (other & (y == y[query])).any() and (elsewhere & (y == y[query])).any():
            right.append((_nearest(similarity, other, y == y[query], tolerance), _nearest(similarity, elsewhere, y == y[query], tolerance)))
    if not right:
        raise InputError("No profile shares its annotation with another compound in another batch, so a leak cannot be measured.")
    nsc, nscb = np.mean(right, axis=0).tolist()
    return NotSame(nsc, nscb, len(right))


def _nearest(similarity: Floats, candidates: Mask, relevant: Mask, tolerance: float) -> float:
    """Share of the nearest candidates that are relevant."""
    nearest = candidates & (similarity >= similarity[candidates].max() - tolerance)
    return float(relevant[nearest].mean())


def _neighbourhoods(features: Floats, k: int, distance: str = "euclidean") -> Iterator[tuple[int, Ints, Floats, Floats]]:
    """Each query, its neighbours, how far each counts (they sum to k), and squared distances; those that tie with 0 are 0."""
    for query, similarity, tolerance in Similarities(features, distance).each():
        itself, similarity = similarity[query], similarity.copy()
        similarity[query] = -np.inf
        kth = np.partition(similarity, len(similarity) - k)[len(similarity) - k]
        near = np.flatnonzero(similarity > kth + tolerance)
        tied = np.flatnonzero(np.abs(similarity - kth) <= tolerance)
        share = np.concatenate([np.ones(len(near)), np.full(len(tied), (k - len(near)) / len(tied))])
        neighbours = np.concatenate([near, tied])
        squared = 2 * (itself - similarity[neighbours])
        yield query, neighbours, share, np.where(squared > 2 * tolerance, squared, 0.0)


def _codes(names: Names, n: int, least: int = 2) -> Ints:
    values = whole_names(names, "names")
    if values.shape != (n,):
        raise InputError(f"Expected {n} names, got shape {values.shape}.")
    unique, codes = np.unique(values, return_inverse=True)
    if len(unique) < least:
        raise InputError(f"Expected at least {least} different names, got {len(unique)}. Where all profiles share one there is nothing to compare.")
    return codes.astype(np.int64)


def _enough(n: int, k: int) -> None:
    if not 1 <= k < n:
        raise InputError(f"Expected at least one neighbour and more profiles than neighbours, got {n} and {k}.")

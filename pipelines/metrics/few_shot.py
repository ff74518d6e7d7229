"""SimpleShot: the nearest class mean, with all training images or with a few of each class.

Features are standardised, brought to the mean of the training images and to length 1 (CL2N; Wang et al. 2019, arXiv 1911.04623); an image
goes to the class with the nearest mean. Nothing is tuned, so what it needs is in the embedding itself. Images at 0 have no direction and are
as near to every class.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipelines.metrics.geometry import TIE, check_features
from pipelines.metrics.probes import FoldFeatures, features_of_fold
from pipelines.metrics.projection import fit_projection
from pipelines.metrics.statistic import check_labels
from registry.arrays import Floats, Ints
from registry.errors import InputError

SHOTS = (1, 2, 4, 8, 16)
PROTOCOL = "simpleshot/standardise/cl2n/nearest-mean/v4"


@dataclass(frozen=True, eq=False)
class FewShot:
    """A curve of balanced accuracy over the number of training images of each class; 0..1, larger is better.

    Attributes:
        shots: (s,) images of each class.
        mean: (s,) over draws; NaN where a class has fewer training images.
        sd: (s,) over draws, of the training images: it is no interval for new units; NaN likewise.
        whole: with all training images.
        chance: 1 / classes.
    """

    shots: tuple[int, ...]
    mean: Floats
    sd: Floats
    whole: float
    chance: float


def class_means(train: Floats, labels: Ints, n_classes: int, queries: Floats) -> Floats:
    """(m, k) shares: 1 for the nearest class mean, shared where several are as near; 0 for classes without training images.

    Args:
        train: (n, d) training features.
        labels: (n,) class codes.
        n_classes: size of the vocabulary.
        queries: (m, d).

    Raises:
        InputError: no training image, other lengths, labels outside the vocabulary, NaN or infinity.
    """
    projection = fit_projection(train, train.shape[1])
    return _nearest(_unit(projection.transform(train)), check_labels(labels, len(train), n_classes), n_classes, _unit(projection.transform(queries)))


def few_shot(
    features: FoldFeatures, labels: Ints, folds: Ints, n_classes: int, *, shots: Sequence[int] = SHOTS, draws: int = 20, seed: int = 0
) -> FewShot:
    """Balanced accuracy on the test images of all folds, trained on a few images of each class.

    Standardisation sees all training images, without labels; only the class means come from the few. The mean over folds is one over test
    images of all folds together. The same seed draws the same images for every row.

    Args:
        features: (n, d), or for a row that is fitted per fold one such array for each fold.
        labels: (n,) class codes; -1 = the image does not take part.
        folds: (n,) the fold an image is tested in; -1 = it is always a training image.
        n_classes: size of the vocabulary.
        shots: numbers of images of each class, ascending.
        draws: of training images.
        seed: of the draws.

    Raises:
        InputError: no test image, other lengths, labels outside the vocabulary, NaN or infinity, shots that are not ascending.
    """
    labels, folds = np.asarray(labels, dtype=np.int64), np.asarray(folds, dtype=np.int64)
    if folds.shape != labels.shape or labels.max(initial=-1) >= n_classes:
        raise InputError(
            f"Expected a label below {n_classes} and a fold for each image, got shapes {labels.shape} and {folds.shape} and labels up to"
            f" {labels.max(initial=-1)}."
        )
    if not shots or list(shots) != sorted(set(shots)) or shots[0] < 1 or draws < 1:
        raise InputError(f"Expected ascending numbers of shots and at least one draw, got {tuple(shots)} and {draws}.")
    numbers = sorted(set(folds[(labels >= 0) & (folds >= 0)].tolist()))
    if not numbers:
        raise InputError("Expected labelled images in a test fold, got none. Look at `fold` and at the label column of the index.")
    hits = np.full((len(shots) + 1, draws, len(labels)), np.nan)
    for number in numbers:
        train, test = np.flatnonzero((labels >= 0) & (folds != number)), np.flatnonzero((labels >= 0) & (folds == number))
        vectors = check_features(features_of_fold(features, number))
        if len(vectors) != len(labels):
            raise InputError(f"Expected one label for each of {len(vectors)} images, got {len(labels)}.")
        projection = fit_projection(vectors[train], vectors.shape[1])
        x, queries, y = _unit(projection.transform(vectors[train])), _unit(projection.transform(vectors[test])), labels[train]
        truth = (np.arange(len(test)), labels[test])
        hits[-1][:, test] = _nearest(x, y, n_classes, queries)[truth]
        fewest = int(np.bincount(y, minlength=n_classes)[np.unique(labels[labels >= 0])].min())
        for draw in range(draws):
            order = np.random.default_rng([seed, number, draw]).permutation(len(train))
            rank = np.empty(len(train), dtype=np.int64)
            for c in range(n_classes):
                mine = order[y[order] == c]
                rank[mine] = np.arange(len(mine))
            for place, count in enumerate(shots):
                if count <= fewest:
                    few = rank < count
                    hits[place, draw, test] = _nearest(x[few], y[few], n_classes, queries)[truth]
    tested = np.flatnonzero((labels >= 0) & (folds >= 0))
    present = np.unique(labels[tested])
    recall = np.stack([hits[:, :, tested[labels[tested] == c]].mean(axis=2) for c in present]).mean(axis=0)
    return FewShot(tuple(shots), recall[:-1].mean(axis=1), recall[:-1].std(axis=1), float(recall[-1, 0]), 1 / len(present))


def _unit(x: Floats) -> Floats:
    lengths = np.linalg.norm(x, axis=1, keepdims=True)
    return np.asarray(np.divide(x, lengths, out=np.zeros_like(x), where=lengths > 0))


def _nearest(x: Floats, labels: Ints, n_classes: int, queries: Floats) -> Floats:
    counts = np.bincount(labels, minlength=n_classes)
    means = np.zeros((n_classes, x.shape[1]))
    np.add.at(means, labels, x)
    means /= np.maximum(counts, 1)[:, None]
    distance = np.sum(means**2, axis=1) - 2 * queries @ means.T
    distance[:, counts == 0] = np.inf
    best = distance <= distance.min(axis=1, keepdims=True) + TIE
    return np.asarray(best / best.sum(axis=1, keepdims=True))

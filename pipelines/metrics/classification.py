"""Balanced accuracy, macro F1, macro AUROC, log-loss and calibration error, each with every unit left out in turn.

Nothing is resampled: leaving a unit out is exact and costs one pass, because all of them are made of counts that units add up to.
Labels are codes 0..k-1 into the task's vocabulary. A class of the vocabulary that no image has is left out of the mean
and shows as `class_in_units` 0, which makes the score not assessable.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pipelines.metrics.counts import check_count
from pipelines.metrics.statistic import Statistic, check_labels, image_mean, index_units, tally
from registry.arrays import Floats, Ints, Mask
from registry.errors import InputError

#: A probability counts as at least this much in a log-loss: a class that training never saw costs 19.9 bits, not infinity.
PROBABILITY_FLOOR = 1e-6
#: metrics whose own bias leaving units out does not show, so that an interval would not cover
WITHOUT_INTERVAL = ("calibration_error",)
#: probabilities kept as float32 sum to 1 up to this
_SUM = 1e-5

Units = Sequence[str] | NDArray[np.str_]


def balanced_accuracy(labels: Ints, predicted: Ints, units: Units, n_classes: int) -> Statistic:
    """Mean over classes of recall, 0..1, larger is better (scikit-learn's `balanced_accuracy_score`).

    Args:
        labels: (n,) true class codes.
        predicted: (n,) predicted class codes.
        units: n unit names.
        n_classes: size of the vocabulary.

    Returns:
        Share of unit u: mean over classes of n_uc / N_c. Without unit u it is NaN when a class occurs in u only.

    Raises:
        InputError: no image, other lengths, labels outside the vocabulary.
    """
    index = index_units(units)
    labels = check_labels(labels, len(index.codes), n_classes)
    predicted = check_labels(predicted, len(index.codes), n_classes)
    present = index.counts_by_class(labels, n_classes)
    right = labels == predicted
    hits = tally(index.codes[right] * n_classes + labels[right], size=present.size).reshape(present.shape)
    occurs = present.sum(axis=0) > 0
    total, hit = present.sum(axis=0)[occurs], hits.sum(axis=0)[occurs]
    recall_without = _ratio(hit - hits[:, occurs], total - present[:, occurs])
    return Statistic(
        value=float(np.mean(hit / total)),
        units=index.names,
        without=recall_without.mean(axis=1),
        share=np.mean(present[:, occurs] / total, axis=1),
        n_images=len(labels),
        class_in_units=int((present > 0).sum(axis=0).min()),
    )


def macro_f1(labels: Ints, probabilities: Floats, units: Units) -> Statistic:
    """Mean over classes of 2 x hits / (images + predictions), 0..1, larger is better (scikit-learn's `f1_score(average="macro")`).

    Classes that tie for the most probable share the prediction, so that a constant embedding has what a random guess has, and not what the first
    class happens to give. A class that is neither there nor predicted is left out of the mean.

    Args:
        labels: (n,) true class codes.
        probabilities: (n, k) one score per class.
        units: n unit names.

    Returns:
        Share of unit u: mean over classes of n_uc / N_c. Without unit u it is NaN when a class occurs in u only.

    Raises:
        InputError: no image, other lengths, labels outside the vocabulary, NaN or infinity.
    """
    index = index_units(units)
    probabilities = _check_probabilities(probabilities, len(index.codes))
    n_classes = probabilities.shape[1]
    labels = check_labels(labels, len(index.codes), n_classes)
    best = (probabilities == probabilities.max(axis=1, keepdims=True)).astype(np.float64)
    best /= best.sum(axis=1, keepdims=True)
    present = index.counts_by_class(labels, n_classes)
    said = np.stack([index.counts(best[:, c]) for c in range(n_classes)], axis=1)
    hits = tally(index.codes * n_classes + labels, best[np.arange(len(labels)), labels], present.size).reshape(present.shape)
    total = present.sum(axis=0)
    occurs = total > 0
    without = _macro_f1(hits.sum(axis=0) - hits, total - present, said.sum(axis=0) - said)
    without[((total - present)[:, occurs] == 0).any(axis=1)] = np.nan
    return Statistic(
        value=float(_macro_f1(hits.sum(axis=0)[None], total[None], said.sum(axis=0)[None])[0]),
        units=index.names,
        without=without,
        share=np.mean(present[:, occurs] / total[occurs], axis=1),
        n_images=len(labels),
        class_in_units=int((present > 0).sum(axis=0).min()),
    )


def _macro_f1(hits: Floats, images: Floats, predictions: Floats) -> Floats:
    """(...,) mean over the classes (..., k) that are there or predicted."""
    both = images + predictions
    # shares of predictions do not subtract to exactly 0
    counts = both > 1e-9
    f1 = np.divide(2 * hits, both, out=np.zeros_like(both), where=counts)
    return np.asarray(f1.sum(axis=-1) / np.maximum(counts.sum(axis=-1), 1))


def calibration_error(labels: Ints, probabilities: Floats, units: Units, bins: int = 15) -> Statistic:
    """Expected calibration error of the most probable class: |right - confidence| over bins of confidence, 0..1, smaller is better.

    Classes weigh the same, as they do where the probe is fitted; with unequal classes the error on the images as they are would be that of
    the prior. Bins are equally wide (Naeini et al. 2015; THUNDER takes 5).

    It is biased up: what a bin is off by chance counts as error, more where bins hold few images. Leaving units out shows the scatter and not the
    bias: a 95 % interval of probabilities that come true would hold 0 on 34 to 40 % of screens (12 to 120 units of 20 to 100 images). No
    interval is given for it (`WITHOUT_INTERVAL`).

    Args:
        labels: (n,) true class codes.
        probabilities: (n, k) rows that sum to 1.
        units: n unit names.
        bins: of confidence.

    Returns:
        Share of unit u: of the weight of all images. Without the only unit it is NaN.

    Raises:
        InputError: no image, other lengths, labels outside the vocabulary, NaN or infinity, rows that do not sum to 1, no bin.
    """
    check_count(bins, "a number of bins of confidence", instead="15 are usual.")
    index = index_units(units)
    probabilities = _check_probabilities(probabilities, len(index.codes), sum_to_1=True)
    n_classes = probabilities.shape[1]
    labels = check_labels(labels, len(index.codes), n_classes)
    present = index.counts_by_class(labels, n_classes)
    weight = (1.0 / present.sum(axis=0).clip(1))[labels]
    confidence = probabilities.max(axis=1)
    place = index.codes * bins + np.minimum((confidence * bins).astype(np.int64), bins - 1)
    gap = weight * ((probabilities.argmax(axis=1) == labels) - confidence)
    gaps = tally(place, gap, len(index.names) * bins).reshape(-1, bins)
    share = index.counts(weight)
    left = share.sum() - share
    without = np.divide(np.abs(gaps.sum(axis=0) - gaps).sum(axis=1), left, out=np.full_like(left, np.nan), where=left > 0)
    return Statistic(
        value=float(np.abs(gaps.sum(axis=0)).sum() / share.sum()),
        units=index.names,
        without=without,
        share=share / share.sum(),
        n_images=len(labels),
        class_in_units=int((present > 0).sum(axis=0).min()),
    )


def macro_auroc(labels: Ints, probabilities: Floats, units: Units) -> Statistic:
    """Mean over classes of the one-versus-rest AUROC, 0..1, larger is better, chance is 0.5; a tie counts one half.

    With two classes this is the AUROC of the second column. Scikit-learn's `roc_auc_score(multi_class="ovr")` agrees;
    it refuses a class without images, where here that class is left out of the mean.

    Args:
        labels: (n,) true class codes.
        probabilities: (n, k) one score per class; only their order within a column matters.
        units: n unit names.

    Returns:
        Share of unit u: mean over classes of (n+_u / N+ + n-_u / N-) / 2. NaN where all images are of one class, and without unit u where
        it holds all images of a class, or all others.

    Raises:
        InputError: no image, other lengths, labels outside the vocabulary, NaN or infinity.
    """
    index = index_units(units)
    probabilities = _check_probabilities(probabilities, len(index.codes))
    n_classes = probabilities.shape[1]
    labels = check_labels(labels, len(index.codes), n_classes)
    present = index.counts_by_class(labels, n_classes)
    total = present.sum(axis=0)
    scored = [c for c in ((1,) if n_classes == 2 else range(n_classes)) if 0 < total[c] < len(labels)]
    values, without, share = [], [], []
    for c in scored:
        positive = labels == c
        wins, wins_without = _wins(probabilities[:, c], positive, index.codes, len(index.names))
        pos_u, neg_u = present[:, c], present.sum(axis=1) - present[:, c]
        pos, neg = pos_u.sum(), neg_u.sum()
        values.append(wins / (pos * neg))
        without.append(_ratio(wins_without, (pos - pos_u) * (neg - neg_u)))
        share.append((pos_u / pos + neg_u / neg) / 2)
    if not scored:
        nothing = np.full(len(index.names), np.nan)
        return Statistic(float("nan"), index.names, nothing, index.counts() / len(labels), len(labels), 0)
    return Statistic(
        value=float(np.mean(values)),
        units=index.names,
        without=np.mean(without, axis=0),
        share=np.mean(share, axis=0),
        n_images=len(labels),
        class_in_units=int((present > 0).sum(axis=0).min()),
    )


def log_loss(labels: Ints, probabilities: Floats, units: Units) -> Statistic:
    """Mean negative log2 probability of the true class, in bits; smaller is better, so it is reported and never the metric of a verdict.

    Scikit-learn's `log_loss` is the same in nats, with a floor of its own.

    Args:
        labels: (n,) true class codes.
        probabilities: (n, k) rows that sum to 1; read as at least `PROBABILITY_FLOOR`.
        units: n unit names.

    Raises:
        InputError: no image, other lengths, labels outside the vocabulary, NaN or infinity, rows that do not sum to 1.
    """
    probabilities = _check_probabilities(probabilities, len(units), sum_to_1=True)
    labels = check_labels(labels, len(probabilities), probabilities.shape[1])
    truth = np.clip(probabilities[np.arange(len(labels)), labels], PROBABILITY_FLOOR, 1.0)
    return image_mean(-np.log2(truth), units, labels, probabilities.shape[1])


def _wins(score: Floats, positive: Mask, codes: Ints, n_units: int) -> tuple[float, Floats]:
    """Positive-over-negative wins (ties one half) of all images, and with each unit's images taken out: W - W(u,.) - W(.,u) + W(u,u)."""
    rank = _midranks(score, np.zeros_like(codes))
    within = _midranks(score, codes)
    n_neg, n_pos = float((~positive).sum()), float(positive.sum())
    pos_rank_in_pos = np.zeros_like(score)
    pos_rank_in_pos[positive] = _midranks(score[positive], np.zeros(int(n_pos), dtype=np.int64))
    neg_rank_in_neg = np.zeros_like(score)
    neg_rank_in_neg[~positive] = _midranks(score[~positive], np.zeros(int(n_neg), dtype=np.int64))
    # a positive beats (its rank among all) - (its rank among positives) negatives; a negative is beaten by the positives above it
    beaten = np.where(positive, rank - pos_rank_in_pos, n_pos - (rank - neg_rank_in_neg))
    by_unit = tally(codes, beaten, n_units)
    ranks_inside = tally(codes[positive], within[positive], n_units)
    count = tally(codes[positive], size=n_units)
    wins = float(beaten[positive].sum())
    return wins, wins - by_unit + (ranks_inside - count * (count + 1) / 2)


def _midranks(score: Floats, group: Ints) -> Floats:
    """Ranks from 1 within each group, ties sharing their mean rank."""
    order = np.lexsort((score, group))
    s, g = score[order], group[order]
    new_group = np.concatenate([[True], g[1:] != g[:-1]])
    new_value = new_group | np.concatenate([[True], s[1:] != s[:-1]])
    position = np.arange(len(s), dtype=np.float64)
    first = np.flatnonzero(new_value)
    last = np.concatenate([first[1:], [len(s)]]) - 1
    mid = (first + last) / 2
    tie = np.cumsum(new_value) - 1
    start = position[new_group][np.cumsum(new_group) - 1]
    ranks = np.empty_like(position)
    ranks[order] = mid[tie] - start + 1
    return ranks


def _ratio(numerator: Floats, denominator: Floats) -> Floats:
    """Element-wise quotient, NaN where the denominator is 0."""
    out: Floats = np.full(np.shape(denominator), np.nan)
    return np.divide(numerator, denominator, out=out, where=denominator > 0)


def _check_probabilities(probabilities: Floats, n: int, *, sum_to_1: bool = False) -> Floats:
    probabilities = np.asarray(probabilities, dtype=np.float64)
    if probabilities.ndim != 2 or len(probabilities) != n or probabilities.shape[1] < 2:
        raise InputError(f"Expected probabilities of shape ({n}, k) with k of at least 2 classes, got {probabilities.shape}.")
    if not np.isfinite(probabilities).all():
        raise InputError("Expected finite probabilities, got NaN or infinity. Look at the probe's input.")
    if sum_to_1 and ((probabilities < 0).any() or (np.abs(probabilities.sum(axis=1) - 1) > _SUM).any()):
        sums = probabilities.sum(axis=1)
        raise InputError(f"Expected rows of probabilities that sum to 1, got sums from {sums.min():g} to {sums.max():g}. Are these scores?")
    return probabilities

"""Which of several representations of the same images holds most about a question, decided on training images alone."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np

from pipelines.metrics.counts import check_count
from pipelines.metrics.folds import inner_folds
from pipelines.metrics.probes import Groups, ProbeSettings, penalty_losses
from pipelines.metrics.projection import fit_projection
from pipelines.metrics.statistic import check_labels
from registry.arrays import Floats, Ints, Mask
from registry.errors import InputError


def inner_loss(features: Floats, labels: Ints, groups: Groups, n_classes: int, settings: ProbeSettings) -> float:
    """Class-balanced log-loss in nats of the logistic probe at its best penalty, summed over inner folds that hold groups out; smaller is better.

    Scikit-learn's `LogisticRegression(class_weight="balanced")` on the same folds has the same loss. Infinite where there is nothing to fit to,
    so that a constant embedding is never chosen.

    Args:
        features: (n, d) training images.
        labels: (n,) class codes.
        groups: n names; a group is never in two inner folds.
        n_classes: size of the vocabulary.
        settings: shared by all rows.

    Raises:
        InputError: no image, NaN or infinity, other lengths, labels outside the vocabulary.
    """
    projection = fit_projection(features, settings.max_dim)
    labels = check_labels(labels, len(features), n_classes)
    if projection.dim == 0 or len(np.unique(labels)) < 2:
        return float("inf")
    inner = inner_folds(labels, groups, n_classes, settings.inner_folds)
    return float(penalty_losses(projection.transform(features), labels, inner, n_classes, settings.grid).min())


def chance_loss(labels: Ints, groups: Groups, n_classes: int, settings: ProbeSettings) -> float:
    """`inner_loss` of a probe that knows nothing, in nats; smaller is better. Scikit-learn's `DummyClassifier(strategy="uniform")` has the same.

    Args:
        labels: (n,) class codes.
        groups: n names.
        n_classes: size of the vocabulary.
        settings: shared by all rows.

    Raises:
        InputError: no image, other lengths, labels outside the vocabulary.
    """
    inner = inner_folds(labels, groups, n_classes, settings.inner_folds)
    return float(penalty_losses(np.zeros((len(labels), 0)), labels, inner, n_classes, settings.grid[:1])[0])


def choose(losses: Mapping[str, float], saw_labels: Collection[str], chance: float) -> str:
    """The candidate with the smallest inner loss, where those that were trained on the labels have no held-out loss.

    A network that learned the labels of the training images has seen those of the inner folds too. Its inner loss `a` is
    therefore only the least that its loss on new images may be; the most is that of knowing nothing, `chance`. Against the best
    other candidate, whose loss `b` is held out, taking the network costs at most chance - b and leaving it at most b - a: it is
    taken where the first is smaller (the least largest regret, Savage 1951).

    Args:
        losses: inner loss by candidate, in order of preference among equals.
        saw_labels: candidates that were trained on labels of the training images.
        chance: `chance_loss`.

    Raises:
        InputError: no candidate, or a loss that is NaN.
    """
    if not losses:
        raise InputError("Expected representations to choose from, got none. Extract the rows of the benchmark first.")
    if any(np.isnan(loss) for loss in losses.values()):
        raise InputError(f"Expected losses that are numbers or infinite, got nan for `{next(n for n, loss in losses.items() if np.isnan(loss))}`.")
    held_out = [name for name in losses if name not in saw_labels]
    seen = [name for name in losses if name in saw_labels]
    if not held_out or not seen:
        return min(losses, key=losses.__getitem__)
    best, network = (min(names, key=losses.__getitem__) for names in (held_out, seen))
    return network if chance - losses[best] < losses[best] - losses[network] else best


def side_by_side(parts: Sequence[Floats], train: Mask, max_dim: int) -> Floats:
    """(n, <= max_dim) all representations beside each other, none of them drowned by a wider one.

    The probe standardises every column, so a row of 6 columns beside one of 280 would be a fiftieth of what is seen. The
    `max_dim` columns that a probe takes are therefore shared evenly: each representation gives its leading principal components,
    and what a narrow one leaves is shared by the others.

    Args:
        parts: (n, d) arrays of the same images.
        train: (n,) images that are fitted to.
        max_dim: columns in all; where there are fewer than parts, some of these give none.

    Raises:
        InputError: NaN or infinity, no column.
    """
    check_count(max_dim, "a number of columns", instead="They are shared by all representations.")
    dims = [fit_projection(part[train], max_dim).dim for part in parts]
    shares = [0] * len(parts)
    left = max_dim
    for rank, i in enumerate(sorted(range(len(parts)), key=lambda i: dims[i])):
        shares[i] = min(dims[i], left // (len(parts) - rank))
        left -= shares[i]
    blocks = [fit_projection(part[train], share).transform(part) for part, share in zip(parts, shares, strict=True) if share]
    return np.concatenate(blocks, axis=1) if blocks else np.zeros((len(train), 0))

"""Conditional usable information: what an encoder knows about the label beyond its controls, in bits per image.

Log2-loss of a probe on the controls minus log2-loss of a probe on the controls and the encoder, out of fold (Hewitt et al. 2021; Xu et
al. 2020). Without care a re-encoding of the controls looks like 0.02 to 0.23 bits of new information; so here

- the controls are enlarged: B+ = [B, logits of a boosted-tree model of B fitted out of fold, squares and products of its leading directions].
  Squares are a block of their own: among five times as many products they are often left out, and a re-encoding by squares then looked like up
  to 0.05 bits;
- B has a penalty of its own, the one that inner folds choose before any encoder is looked at. With next to none, controls that are many for the
  images know the training labels by heart, and any columns beside them, noise too, take some of that back: noise looked like 0.06 bits;
- of the encoder only what is not linear in B+ enters, so that no column of the controls escapes its penalty by being copied; that block has a
  penalty of its own too, and is dropped altogether where inner folds say so;
- the same number is computed for the encoder's untrained twins and for random-feature networks *of the controls*; the encoder
  must beat 0 and both (`judge_information`). A difference to one twin is never taken.

Conditioning on B+ is as good as B+ is: at most `control_dims` directions of the standardised controls enter.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from pipelines.metrics.baseline import TO_GAIN, Baseline, InformationSettings, enlarge, log2_loss
from pipelines.metrics.jackknife import ALPHA
from pipelines.metrics.names import whole_names
from pipelines.metrics.penalised import Fit, fit
from pipelines.metrics.probes import FoldFeatures, features_of_fold
from pipelines.metrics.projection import fit_projection
from pipelines.metrics.statistic import Statistic, image_mean, inflation_of
from pipelines.metrics.verdicts import Row, Verdict, judge
from registry.arrays import Floats, Ints
from registry.errors import InputError

METRIC = "information.beyond_controls_bits"
#: margin of equivalence, in bits
MARGIN_BITS = 0.02


@dataclass(frozen=True, eq=False)
class Information:
    """Bits per image beyond the controls, out of fold; positive is information gained.

    Attributes:
        encoder: of the encoder.
        twins: of the seeds of each set of twins.
        random_features: of the random-feature networks of the controls.
        baseline: log2-loss of B+ alone: what is left to know.
        prior: log2-loss of the class frequencies of training: what there is to know.
        dropped: share of folds in which inner folds dropped the encoder's block.
        notes: what was out of the ordinary.
    """

    encoder: Statistic
    twins: dict[str, tuple[Statistic, ...]]
    random_features: tuple[Statistic, ...]
    baseline: Statistic
    prior: Statistic
    dropped: float
    notes: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class FoldBits:
    """The test images of one fold.

    Attributes:
        test: (m,) which images they are.
        bits: (m,) what each row adds, by (kind, seed).
        left: (m,) loss of the controls alone, in bits.
        prior: (m,) loss of the class frequencies alone, in bits.
        dropped: whether the encoder was left out of the fit.
        notes: on the fit.
    """

    test: Ints
    bits: dict[tuple[str, int], Floats]
    left: Floats
    prior: Floats
    dropped: bool
    notes: tuple[str, ...]


def beyond_controls(
    controls: FoldFeatures,
    encoder: FoldFeatures,
    twins: Mapping[str, Sequence[FoldFeatures]],
    labels: Ints,
    folds: Ints,
    units: Sequence[str] | NDArray[np.str_],
    n_classes: int,
    settings: InformationSettings,
    each: Callable[[Callable[[int], FoldBits], Sequence[int]], Iterable[FoldBits]] = map,
    fitted: Callable[[int], None] = lambda _count: None,
) -> Information:
    """Compute bits beyond the controls for an encoder, its twins and random-feature networks of the controls.

    2,000 images, one fold, 10 twins and 10 networks of width 128 took 2 s on one core with 2 classes and 38 s with 16.

    Args:
        controls: (n, b) features of all negative controls side by side, or such an array for each fold.
        encoder: (n, d), or for each fold; its d is the width of the random-feature networks.
        twins: sets of seeds, each as `encoder`.
        labels: (n,) class codes; -1 = the image does not take part.
        folds: (n,) the fold an image is tested in; -1 = it is always a training image.
        units: n unit names; they bound the inner folds and are left out by the jackknife.
        n_classes: size of the vocabulary.
        settings: shared by all rows.
        each: applies a function to every fold, in order; one that works in parallel gives the same.
        fitted: called with 1 after each row that is fitted beside the controls in a fold.

    Raises:
        InputError: no test image, fewer than two classes in a training fold, NaN or infinity.
    """
    labels, folds, units = np.asarray(labels, dtype=np.int64), np.asarray(folds, dtype=np.int64), whole_names(units, "units")
    if labels.ndim != 1 or folds.shape != labels.shape or units.shape != labels.shape:
        raise InputError(f"Expected a fold and a unit for each of {len(labels)} images, got shapes {folds.shape} and {units.shape}.")
    tested = np.flatnonzero((labels >= 0) & (folds >= 0))
    numbers = sorted(set(folds[tested].tolist()))
    if not numbers:
        raise InputError("Expected labelled images in a test fold, got none. Look at `fold` and at the label column of the index.")
    rows: dict[tuple[str, int], FoldFeatures] = {("encoder", 0): encoder}
    rows |= {(name, seed): features for name, seeds in twins.items() for seed, features in enumerate(seeds)}
    networks = [(_NETWORKS, seed) for seed in range(settings.random_networks)]

    def of_fold(number: int) -> FoldBits:
        train, test = np.flatnonzero((labels >= 0) & (folds != number)), tested[folds[tested] == number]
        b, r = features_of_fold(controls, number), features_of_fold(encoder, number)
        baseline = enlarge(b[train], b[test], labels[train], units[train], n_classes, settings)
        remaining = log2_loss(baseline.fit.logits(baseline.test), baseline, labels[test])
        added = {}
        for key, features in rows.items():
            x = features_of_fold(features, number)
            added[key] = _with_row(baseline, x[train], x[test], labels[test], settings)
            fitted(1)
        for key in networks:
            h_train, h_test = baseline.random_features(key[1], r.shape[1], settings.seed)
            added[key] = _with_row(baseline, h_train, h_test, labels[test], settings)
            fitted(1)
        return FoldBits(
            test=test,
            bits={key: remaining - found.loss for key, found in added.items()},
            left=remaining,
            prior=log2_loss(baseline.prior_logits(len(test)), baseline, labels[test]),
            dropped=bool(np.isinf(added["encoder", 0].penalty)),
            notes=tuple(f"fold {number}: {note}" for note in baseline.notes),
        )

    bits = {key: np.zeros(len(labels)) for key in [*rows, *networks]}
    left, prior, dropped = np.zeros(len(labels)), np.zeros(len(labels)), 0
    notes: list[str] = []
    for found in each(of_fold, numbers):
        left[found.test], prior[found.test] = found.left, found.prior
        for key, values in found.bits.items():
            bits[key][found.test] = values
        dropped += found.dropped
        notes += found.notes

    inflation = inflation_of(folds[labels >= 0], units[labels >= 0])

    def of(values: Floats) -> Statistic:
        return replace(image_mean(values[tested], units[tested], labels[tested], n_classes), inflation=inflation)

    return Information(
        encoder=of(bits["encoder", 0]),
        twins={name: tuple(of(bits[name, seed]) for seed in range(len(seeds))) for name, seeds in twins.items()},
        random_features=tuple(of(bits[key]) for key in networks),
        baseline=of(left),
        prior=of(prior),
        dropped=dropped / len(numbers),
        notes=tuple(notes),
    )


def judge_information(
    encoder: str, task: str, found: Information, *, unit: str = "unit", alpha: float = ALPHA, margin: float = MARGIN_BITS
) -> Verdict:
    """The verdict on bits: against 0, against every set of twins and against random-feature networks of the controls.

    A gain that is certainly inside the margin is `equivalent`, however certainly it is above 0: where the controls leave next to
    nothing to know, probabilities a hair nearer to 1 on every plate are significant at 0.0000006 bits, and a re-encoding of the
    controls has a bias of up to 0.004 (docs/decisions/0007-small-bits.md).

    Args:
        encoder: its name.
        task: its name.
        found: from `beyond_controls`.
        unit: what is left out, in words.
        alpha: one-sided level.
        margin: of equivalence, in bits.

    Raises:
        InputError: rows scored on different images.
    """
    zero = Statistic(
        0.0, found.encoder.units, np.zeros(found.encoder.n_units), found.encoder.share, found.encoder.n_images, found.encoder.class_in_units
    )
    controls: dict[str, Row] = {"nothing": zero}
    if found.random_features:
        controls[_NETWORKS] = found.random_features
    return judge(encoder, task, METRIC, found.encoder, twins=found.twins, controls=controls, unit=unit, alpha=alpha, margin=margin, margin_first=True)


_NETWORKS = "random features of the controls"


#: share of a row's spread below which what the controls leave of it is rounding
_COPY = 1e-4


@dataclass(frozen=True, eq=False)
class _Added:
    """One row beside B+: its penalty (inf = dropped) and (m,) log2-loss of the test images."""

    penalty: float
    loss: Floats


def _with_row(baseline: Baseline, train: Floats, test: Floats, truth: Ints, settings: InformationSettings) -> _Added:
    """Fit [B+, R], R being what of the row is not linear in B+, its penalty chosen by inner folds; inf drops R and leaves B+ as it is."""
    projection = fit_projection(train, settings.row_dims)
    directions = projection.transform(train)
    dropped = _Added(float("inf"), log2_loss(baseline.fit.logits(baseline.test), baseline, truth))
    if not directions.size:
        return dropped
    r_train, r_test = baseline.beside(directions, projection.transform(test))
    size = np.sqrt(np.mean(r_train**2))
    # what is left of a copy is rounding
    if size <= _COPY * np.sqrt(np.mean(directions**2)):
        return dropped
    r_train, r_test = r_train / size, r_test / size
    x = np.hstack([baseline.train, r_train])
    paths = [
        _path_losses(baseline, x, held, start, r_train.shape[1], settings)
        for held, start in zip(baseline.inner_held, baseline.inner_fits, strict=True)
    ]
    # the block left out, then from the strongest penalty on; once the fit gets worse the weaker ones, which take most of the time, are never chosen
    losses = [baseline.inner_loss]
    for parts in zip(*paths, strict=True):
        losses.append(sum(parts))
        if len(losses) > 2 and losses[-1] > losses[-2] > losses[-3]:
            break
    best = int(np.argmin(losses))
    # equal losses, and so a row that adds nothing, go to the simpler fit
    if losses[best] >= baseline.inner_loss - 1e-9:
        return dropped
    penalty = settings.penalties[best - 1]
    final = fit(x, baseline.labels, baseline.n_present, baseline.penalty_with(r_train.shape[1], penalty), baseline.fit, to_gain=TO_GAIN)
    return _Added(penalty, log2_loss(final.logits(np.hstack([baseline.test, r_test])), baseline, truth))


def _path_losses(baseline: Baseline, x: Floats, held: NDArray[np.bool_], start: Fit, width: int, settings: InformationSettings) -> Iterator[float]:
    """Summed loss of the held-out images for each penalty, from the strongest to the weakest, fitted when it is asked for."""
    for penalty in settings.penalties:
        start = baseline.fit_inner(x, held, baseline.penalty_with(width, penalty), start)
        yield baseline.inner_loss_of(start, x, held)

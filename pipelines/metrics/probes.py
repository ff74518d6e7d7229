"""The two probes every row meets, and out-of-fold predictions.

Standardise on the training images, keep at most `max_dim` principal components, then k nearest neighbours or multinomial
logistic regression. Every row meets the same steps and the same grid; `ProbeSettings.protocol_id` names them. Everything fitted, the
choice of C included, sees training images only.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from pipelines.metrics.classification import PROBABILITY_FLOOR
from pipelines.metrics.folds import InnerFolds, inner_folds
from pipelines.metrics.geometry import TIE, check_features
from pipelines.metrics.logistic import Linear, path, uninformed
from pipelines.metrics.names import whole_names
from pipelines.metrics.projection import Projection, fit_projection
from pipelines.metrics.statistic import check_labels
from registry.arrays import Floats, Ints, Mask
from registry.errors import InputError

_BLOCK = 256

Groups = Sequence[str] | NDArray[np.str_]
#: (n, d), or for a row that is fitted per fold such an array for each fold
FoldFeatures = Floats | Mapping[int, Floats]


@dataclass(frozen=True)
class ProbeSettings:
    """What all rows share.

    Attributes:
        max_dim: most principal components.
        grid: inverse penalties C of the logistic regression, ascending (scikit-learn's C: on the summed loss).
        inner_folds: group-held-out folds inside the training images that choose C.
        neighbours: k of the nearest-neighbour probe.
    """

    max_dim: int = 128
    grid: tuple[float, ...] = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
    inner_folds: int = 3
    neighbours: int = 15

    def __post_init__(self) -> None:
        if self.max_dim < 1 or self.neighbours < 1 or self.inner_folds < 2:
            raise InputError(f"Expected `max_dim` and `neighbours` of at least 1 and `inner_folds` of at least 2, got {self}.")
        if not self.grid or list(self.grid) != sorted(set(self.grid)) or self.grid[0] <= 0:
            raise InputError(f"Expected a grid of positive C, ascending and without repeats, got {self.grid}.")

    def protocol_id(self, kind: str) -> str:
        """Names every rule of one probe, e.g. "knn/standardise/pca128/k15/prior-corrected/v4"."""
        if kind == "knn":
            return f"knn/standardise/pca{self.max_dim}/k{self.neighbours}/prior-corrected/v4"
        if kind == "logistic":
            grid = ",".join(f"{c:g}" for c in self.grid)
            return f"logistic/standardise/pca{self.max_dim}/balanced/C={grid}-until-two-rises/inner{self.inner_folds}-by-group/v6"
        raise InputError(f"Expected a probe of `logistic`, `knn`, got `{kind}`.")


@dataclass(frozen=True, eq=False)
class LogisticProbe:
    """softmax(projected @ coefficients.T + intercept), as plain arrays.

    Attributes:
        projection: fitted on the same training images.
        linear: coefficients (k, p) and intercept (k,), which is -inf for a class that training did not have.
        c: the chosen inverse penalty; NaN where there was nothing to choose.
        notes: what was out of the ordinary.
    """

    projection: Projection
    linear: Linear
    c: float
    notes: tuple[str, ...] = ()

    def predict_proba(self, features: Floats) -> Floats:
        """(n, k) probabilities.

        Raises:
            InputError: another d than in training, NaN or infinity.
        """
        return self.linear.predict_proba(self.projection.transform(features))

    def arrays(self) -> dict[str, Floats]:
        """For `numpy.savez`: mean, scale, components, coefficients, intercept, c."""
        return {
            "mean": self.projection.mean,
            "scale": self.projection.scale,
            "components": self.projection.components,
            "coefficients": self.linear.coefficients,
            "intercept": self.linear.intercept,
            "c": np.asarray(self.c),
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Floats]) -> LogisticProbe:
        """The inverse of `arrays`; notes are not kept."""
        projection = Projection(arrays["mean"], arrays["scale"], arrays["components"])
        return cls(projection, Linear(arrays["coefficients"], arrays["intercept"]), float(arrays["c"]))


@dataclass(frozen=True, eq=False)
class KnnProbe:
    """k nearest training images in euclidean distance; votes are divided by the class's count in training.

    Neighbours that tie at the k-th distance share the places that are left, so equal distances favour no class and a constant
    embedding gives every class the same probability.

    Attributes:
        projection: fitted on the same training images.
        train: (m, p) projected training images.
        labels: (m,) their class codes.
        n_classes: size of the vocabulary.
        neighbours: k; fewer training images than that all vote.
        notes: what was out of the ordinary.
    """

    projection: Projection
    train: Floats
    labels: Ints
    n_classes: int
    neighbours: int
    notes: tuple[str, ...] = ()

    def predict_proba(self, features: Floats) -> Floats:
        """(n, k) corrected shares of the votes.

        Raises:
            InputError: another d than in training, NaN or infinity.
        """
        queries = self.projection.transform(features)
        one_hot = np.eye(self.n_classes)[self.labels]
        counts = one_hot.sum(axis=0)
        centre = self.train.mean(axis=0)
        train, queries = self.train - centre, queries - centre
        norms, k = np.sum(train**2, axis=1), min(self.neighbours, len(train))
        votes = [_votes(queries[i : i + _BLOCK], train, norms, one_hot, k) for i in range(0, len(queries), _BLOCK)]
        corrected = np.concatenate([np.zeros((0, self.n_classes)), *votes]) / np.maximum(counts, 1)
        return np.asarray(corrected / corrected.sum(axis=1, keepdims=True))


Probe = LogisticProbe | KnnProbe


@dataclass(frozen=True, eq=False)
class OutOfFold:
    """Predictions of images by probes that never saw them.

    Attributes:
        images: (m,) positions in the arrays given, ascending: those with a label and a test fold.
        fold: (m,) the fold each was a test image of.
        labels: (m,) class codes.
        probabilities: (m, k) of the classes, which sum to 1.
        probes: the fitted probe of each fold.
        notes: what was out of the ordinary, naming the fold.
    """

    images: Ints
    fold: Ints
    labels: Ints
    probabilities: Floats
    probes: dict[int, Probe] = field(repr=False)
    notes: tuple[str, ...] = ()

    @property
    def predicted(self) -> Ints:
        """(m,) the most probable class; of equal ones the first of the vocabulary."""
        return np.asarray(np.argmax(self.probabilities, axis=1), dtype=np.int64)


def fit_probe(features: Floats, labels: Ints, groups: Groups, n_classes: int, settings: ProbeSettings) -> LogisticProbe:
    """Fit the logistic probe on training images.

    Classes weigh the same whatever their size. C is the one with the smallest class-balanced log-loss over inner folds that hold
    groups out; of equal ones the smallest. With a single training group the inner folds divide images, and a note says so.

    Args:
        features: (n, d).
        labels: (n,) class codes.
        groups: n names; a group is never in two inner folds.
        n_classes: size of the vocabulary; classes that training does not have get probability 0 and a note.
        settings: shared by all rows.

    Raises:
        InputError: NaN or infinity, labels outside the vocabulary, no image.
    """
    features = check_features(features)
    labels = check_labels(labels, len(features), n_classes)
    projection = fit_projection(features, settings.max_dim)
    z = projection.transform(features)
    notes = _absent_note(labels, n_classes)
    if projection.dim == 0 or len(np.unique(labels)) < 2:
        return LogisticProbe(projection, uninformed(labels, projection.dim, n_classes), float("nan"), notes)
    inner = inner_folds(labels, groups, n_classes, settings.inner_folds)
    if inner.kind == "images":
        notes += ("C was chosen on inner folds of images: there is only one training group.",)
    losses = penalty_losses(z, labels, inner, n_classes, settings.grid)
    # losses closer than this are equal up to the solver's tolerance
    chosen = int(np.flatnonzero(losses <= losses.min() + 1e-9)[0])
    linear = next(path(z, labels, n_classes, settings.grid[chosen : chosen + 1]))
    return LogisticProbe(projection, linear, settings.grid[chosen], notes)


def fit_knn(features: Floats, labels: Ints, n_classes: int, settings: ProbeSettings) -> KnnProbe:
    """Fit the nearest-neighbour probe on training images.

    Args:
        features: (n, d).
        labels: (n,) class codes.
        n_classes: size of the vocabulary.
        settings: shared by all rows.

    Raises:
        InputError: NaN or infinity, labels outside the vocabulary, no image.
    """
    features = check_features(features)
    labels = check_labels(labels, len(features), n_classes)
    projection = fit_projection(features, settings.max_dim)
    return KnnProbe(projection, projection.transform(features), labels, n_classes, settings.neighbours, _absent_note(labels, n_classes))


def out_of_fold(
    features: FoldFeatures,
    labels: Ints,
    folds: Ints,
    groups: Groups,
    n_classes: int,
    settings: ProbeSettings,
    kind: str = "logistic",
) -> OutOfFold:
    """Predict the test images of every fold with a probe fitted to its training images, which are all others.

    Args:
        features: (n, d), or for a row that is fitted per fold one such array for each fold.
        labels: (n,) class codes; -1 = the image does not take part.
        folds: (n,) the fold an image is tested in; -1 = it is always a training image.
        groups: n unit names, for the inner folds.
        n_classes: size of the vocabulary.
        settings: shared by all rows.
        kind: "logistic" or "knn".

    Raises:
        InputError: no test image, a fold without training images or without features, NaN or infinity in a labelled image.
    """
    labels, folds, groups = np.asarray(labels, dtype=np.int64), np.asarray(folds, dtype=np.int64), whole_names(groups, "groups")
    if labels.ndim != 1 or folds.shape != labels.shape or groups.shape != labels.shape or labels.max(initial=-1) >= n_classes:
        raise InputError(
            f"Expected a label below {n_classes}, a fold and a group for each image, got shapes {labels.shape}, {folds.shape} and {groups.shape} and "
            f"labels up to {labels.max(initial=-1)}."
        )
    taking_part = labels >= 0
    numbers = sorted(set(folds[taking_part & (folds >= 0)].tolist()))
    if not numbers:
        raise InputError("Expected labelled images in a test fold, got none. Look at `fold` and at the label column of the index.")
    settings.protocol_id(kind)
    probabilities = np.zeros((len(labels), n_classes))
    probes: dict[int, Probe] = {}
    notes: list[str] = []
    for number in numbers:
        x = features_of_fold(features, number)
        if len(x) != len(labels):
            raise InputError(f"Expected features of {len(labels)} images for fold {number}, got {len(x)}.")
        train, test = taking_part & (folds != number), taking_part & (folds == number)
        if kind == "logistic":
            probe: Probe = fit_probe(x[train], labels[train], groups[train], n_classes, settings)
        else:
            probe = fit_knn(x[train], labels[train], n_classes, settings)
        probabilities[test] = probe.predict_proba(x[test])
        probes[number] = probe
        notes += [f"fold {number}: {note}" for note in probe.notes]
    images = np.flatnonzero(taking_part & (folds >= 0))
    return OutOfFold(images, folds[images], labels[images], probabilities[images], probes, tuple(notes))


def features_of_fold(features: FoldFeatures, number: int) -> Floats:
    """The (n, d) features that fold `number` uses.

    Raises:
        InputError: a row that is fitted per fold lacks this one.
    """
    if not isinstance(features, Mapping):
        return np.asarray(features)
    if number not in features:
        raise InputError(f"Expected features for fold {number}, got them for {sorted(features)}. Extract the row for every fold.")
    return np.asarray(features[number])


def _absent_note(labels: Ints, n_classes: int) -> tuple[str, ...]:
    absent = np.flatnonzero(np.bincount(labels, minlength=n_classes) == 0).tolist()
    return (f"classes {absent} have no training image and get probability 0.",) if absent else ()


def penalty_losses(z: Floats, labels: Ints, inner: InnerFolds, n_classes: int, grid: Sequence[float]) -> Floats:
    """(len(grid),) class-balanced log-loss in nats of held-out training images for each C, summed over the inner folds.

    The path ends where the loss has risen twice in a row, and what follows is inf: the weakest penalties take most of the time
    and, once the probe overfits, are never chosen.

    Args:
        z: (n, p) projected training features.
        labels: (n,) class codes.
        inner: the division of the n images.
        n_classes: size of the vocabulary.
        grid: inverse penalties, ascending.
    """
    held = [inner.fold == f for f in range(inner.n_folds)]
    paths = [_path_losses(z, labels, h, n_classes, grid) for h in held if h.any() and not h.all()]
    if not paths:
        return np.zeros(len(grid))
    losses = np.full(len(grid), np.inf)
    for i, parts in enumerate(zip(*paths, strict=True)):
        losses[i] = sum(parts)
        if i > 1 and losses[i] > losses[i - 1] > losses[i - 2]:
            break
    return losses


def _path_losses(z: Floats, labels: Ints, held: Mask, n_classes: int, grid: Sequence[float]) -> Iterator[float]:
    """Class-balanced log-loss of the held-out images for each C, fitted when it is asked for."""
    truth = labels[held]
    occurs = np.bincount(truth, minlength=n_classes)
    weight = 1.0 / (occurs[truth] * np.count_nonzero(occurs))
    for linear in path(z[~held], labels[~held], n_classes, grid):
        p = linear.predict_proba(z[held])[np.arange(len(truth)), truth]
        yield -float(np.sum(weight * np.log(np.maximum(p, PROBABILITY_FLOOR))))


def _votes(queries: Floats, train: Floats, norms: Floats, one_hot: Floats, k: int) -> Floats:
    """(n, classes) votes of the k nearest; those that tie at the k-th distance share the places left."""
    query_norms = np.sum(queries**2, axis=1, keepdims=True)
    squared = query_norms + norms - 2 * queries @ train.T
    # per query, so that the votes of an image do not depend on the others in its batch
    tolerance = TIE * np.maximum(query_norms, norms.max())
    kth = np.partition(squared, k - 1, axis=1)[:, k - 1 : k]
    inside, edge = squared < kth - tolerance, np.abs(squared - kth) <= tolerance
    share = (k - inside.sum(axis=1)) / edge.sum(axis=1)
    return np.asarray(inside @ one_hot + share[:, None] * (edge @ one_hot))

"""Selectivity (Hewitt & Liang 2019, arXiv 1909.03368): accuracy on the task minus accuracy on a control task that can only be learned by heart.

In the control task every image of one type has the same label, drawn at random for the type: nothing but knowing the type gives the answer.
A probe with high accuracy and low selectivity may have learned the task by heart too, type by type.

There a type is a word, which training and test text share. For images it has to be chosen, and not every choice asks anything:

- It must recur in training and test units. A well, a profile or an image does not, since whole units are held out: the control task is at chance
  whatever the probe, and selectivity is accuracy minus chance. Where no type recurs this is refused; `recurring` says how often it does.
- It must be finer than the classes. If it is the class itself, the control task is the task with its names changed.
- It must be something an embedding could know. The treatment is, where the task is its mechanism: a probe that tells all treatments apart can
  learn any grouping of them. So is the well position, where plates share positions.

A probe that knows the class and nothing finer is a little above chance on the control task, since the few types of one class do not share its
labels evenly: several draws, and their spread, belong to the result. In tissue nothing recurs from patient to patient, so there is no such
control task there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from pipelines.metrics.classification import balanced_accuracy
from pipelines.metrics.names import whole_names
from pipelines.metrics.probes import FoldFeatures, Groups, ProbeSettings, out_of_fold
from pipelines.metrics.statistic import Statistic, check_labels, index_units, inflation_of
from registry.arrays import Floats, Ints
from registry.errors import InputError

Types = Sequence[str] | NDArray[np.str_]


@dataclass(frozen=True, eq=False)
class Selectivity:
    """The task against its control tasks.

    Attributes:
        selectivity: balanced accuracy on the task minus the mean of those on the control tasks, -1..1, larger is better. Without unit u: of the
            same predictions; its share is that of the task.
        task: balanced accuracy on the task.
        control: (draws,) balanced accuracy on each control task.
        recurring: share of the test images whose type occurs in the training images of their fold; nobody knows the control label of the others.
    """

    selectivity: Statistic
    task: Statistic
    control: Floats
    recurring: float


def selectivity(
    features: FoldFeatures,
    labels: Ints,
    types: Types,
    folds: Ints,
    groups: Groups,
    n_classes: int,
    settings: ProbeSettings,
    *,
    kind: str = "logistic",
    draws: int = 5,
    seed: int = 0,
) -> Selectivity:
    """Score the same probe, on the same folds, on the task and on control tasks with its classes in its frequencies.

    Differences from the paper: accuracies are class-balanced, several control tasks are drawn, and the labels of types are dealt so that class
    frequencies are kept (`control_labels`) instead of being drawn one by one.

    Args:
        features: (n, d), or for a row that is fitted per fold one such array for each fold.
        labels: (n,) class codes; -1 = the image does not take part.
        types: n names; see above for what makes a type.
        folds: (n,) the fold an image is tested in; -1 = it is always a training image.
        groups: n unit names.
        n_classes: size of the vocabulary.
        settings: of the probe.
        kind: "logistic" or "knn".
        draws: control tasks.
        seed: of the draws; the same seed draws the same control tasks for every row.

    Raises:
        InputError: no type that is in training and test images of a fold, not more types than classes, no draw, and whatever `out_of_fold` refuses.
    """
    labels, folds, types = np.asarray(labels, dtype=np.int64), np.asarray(folds, dtype=np.int64), whole_names(types, "types")
    groups = whole_names(groups, "groups")
    if types.shape != labels.shape or draws < 1:
        raise InputError(f"Expected a type for each of {len(labels)} images and at least one draw, got shape {types.shape} and {draws} draws.")
    found = out_of_fold(features, labels, folds, groups, n_classes, settings, kind)
    tested = groups[found.images]
    inflation = inflation_of(folds[labels >= 0], groups[labels >= 0])
    task = replace(balanced_accuracy(found.labels, found.predicted, tested, n_classes), inflation=inflation)
    taking_part = np.flatnonzero(labels >= 0)
    recurring = share_recurring(types, folds, taking_part, found.images)
    if recurring == 0:
        raise InputError(
            "Expected types that occur in training and test images, got none, so that nobody can learn the control task. Take types that recur in "
            "several units, such as the treatment or the well position."
        )
    controls = []
    for draw in range(draws):
        drawn = np.full(len(labels), -1)
        drawn[taking_part] = control_labels(labels[taking_part], types[taking_part], n_classes, seed=seed, draw=draw)
        by_heart = out_of_fold(features, drawn, folds, groups, n_classes, settings, kind)
        controls.append(balanced_accuracy(by_heart.labels, by_heart.predicted, tested, n_classes))
    control = np.array([c.value for c in controls])
    left = Statistic(
        task.value - float(control.mean()),
        task.units,
        task.without - np.mean([c.without for c in controls], axis=0),
        task.share,
        task.n_images,
        task.class_in_units,
        inflation=inflation,
    )
    return Selectivity(left, task, control, recurring)


def control_labels(labels: Ints, types: Types, n_classes: int, *, seed: int = 0, draw: int = 0) -> Ints:
    """(n,) class codes: one for each type, without regard to anything but how often each class occurs.

    Types are shuffled. One goes to each class that occurs, then each next to the class that is furthest below its number of images, so that the
    frequencies are those of the labels up to the size of a type.

    Args:
        labels: (n,) class codes; only their counts matter.
        types: n names.
        n_classes: size of the vocabulary.
        seed: of the shuffle.
        draw: of the shuffle.

    Raises:
        InputError: not more types than classes: the control task would be the task, or nothing.
    """
    index = index_units(types)
    labels = check_labels(labels, len(index.codes), n_classes)
    missing = np.bincount(labels, minlength=n_classes).astype(np.float64)
    occurs = np.flatnonzero(missing)
    if len(index.names) <= len(occurs):
        raise InputError(f"Expected more types than the {len(occurs)} classes, got {len(index.names)}. Take types that are finer than the classes.")
    sizes, given = index.counts(), np.empty(len(index.names), dtype=np.int64)
    for rank, t in enumerate(np.random.default_rng([seed, draw]).permutation(len(index.names))):
        given[t] = occurs[rank] if rank < len(occurs) else int(np.argmax(missing))
        missing[given[t]] -= sizes[t]
    return np.asarray(given[index.codes])


def share_recurring(types: NDArray[np.str_], folds: Ints, taking_part: Ints, tested: Ints) -> float:
    """Share of the tested images whose type occurs among the images they are not tested with.

    Args:
        types: n names.
        folds: (n,) the fold an image is tested in; -1 = it is always a training image.
        taking_part: positions of the images that have a label.
        tested: positions of those that have a test fold too; at least one.
    """
    known = 0
    for number in sorted(set(folds[tested].tolist())):
        train = taking_part[folds[taking_part] != number]
        known += int(np.isin(types[tested[folds[tested] == number]], types[train]).sum())
    return known / len(tested)

"""Simulated screens of which the truth is known: scores of rows on images in units, without networks or pixels.

Image i of unit u has the label y. A row r answers with the margin

    s = strength_r + unit_u + interaction_ru + class_interaction_ruy + shared_i + own_ri

(all normal) and is right where s > 0. Units have log-normal sizes. `unit` and `shared` are the same for all rows, as hard plates and hard
images are; interactions are a row's own. The truth of a statistic is that of many new units.

For retrieval a row answers with a vector, one component per class, in which each of these terms is drawn for each component and `strength` is
added to that of the image's class. Its truth and that of macro F1 have no formula: a true difference is the mean over the screens of a run.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from scipy.stats import norm

from pipelines.metrics.classification import balanced_accuracy, macro_auroc, macro_f1
from pipelines.metrics.retrieval import retrieve
from pipelines.metrics.statistic import Statistic, image_mean


@dataclass(frozen=True)
class Design:
    """What a screen looks like.

    Attributes:
        units: number of units.
        classes: number of classes.
        images: mean images of a unit.
        spread: standard deviation of the log of a unit's size.
        absent: share of the units that lack the second class.
        unit: standard deviation of the effect a unit has on all rows.
        interaction: of the effect it has on one row, and of that on one row and class.
        shared: of the effect an image has on all rows.
        own: of that on one row; of vectors 1.
    """

    units: int
    classes: int = 2
    images: float = 20.0
    spread: float = 1.0
    absent: float = 0.0
    unit: float = 0.4
    interaction: float = 0.2
    shared: float = 0.7
    own: float = 1.0

    @property
    def total(self) -> float:
        """Standard deviation of a margin."""
        return float(np.sqrt(self.unit**2 + 2 * self.interaction**2 + self.shared**2 + self.own**2))

    def strength(self, accuracy: float) -> float:
        """Of a row that is right so often."""
        return float(norm.ppf(accuracy)) * self.total


#: large units that rows hardly interact with
QUIET = Design(50, images=60.0, interaction=0.02, spread=0.5)


@dataclass(frozen=True, eq=False)
class Screen:
    """One draw of units, labels and what all rows share."""

    design: Design
    labels: np.ndarray
    codes: np.ndarray
    units: np.ndarray
    common: np.ndarray
    directions: np.ndarray

    @classmethod
    def draw(cls, design: Design, rng: np.random.Generator) -> Screen:
        sizes = np.ceil(design.images * np.exp(design.spread * rng.normal(size=design.units)) / np.exp(design.spread**2 / 2)).astype(int) + 1
        codes = np.repeat(np.arange(design.units), sizes)
        labels = rng.integers(0, design.classes, len(codes))
        without = rng.random(design.units) < design.absent
        labels = np.where(without[codes] & (labels == 1), 0, labels)
        common = design.unit * rng.normal(size=design.units)[codes] + design.shared * rng.normal(size=len(codes))
        (other,), k = rng.spawn(1), design.classes
        directions = design.unit * other.normal(size=(design.units, k))[codes] + design.shared * other.normal(size=(len(codes), k))
        return cls(design, labels, codes, np.array([f"u{code:04d}" for code in codes]), common, directions)

    @property
    def carries_an_interval(self) -> bool:
        """Whether there are units enough, counted by images: ten, as good as five of equal size, and three that have the rarest class."""
        sizes = np.bincount(self.codes)
        rarest = min(len(set(self.codes[self.labels == c].tolist())) for c in range(self.design.classes))
        return bool(len(sizes) >= 10 and sizes.sum() ** 2 >= 5 * np.sum(sizes**2) and rarest >= 3)

    def margins(self, strength: float, rng: np.random.Generator) -> np.ndarray:
        """(n,) margins of one row."""
        d = self.design
        own = d.interaction * rng.normal(size=d.units)[self.codes]
        own += d.interaction * rng.normal(size=(d.units, d.classes))[self.codes, self.labels]
        return np.asarray(strength + self.common + own + d.own * rng.normal(size=len(self.codes)))

    def vectors(self, strength: float, rng: np.random.Generator) -> np.ndarray:
        """(n, classes) vectors of one row."""
        d, k = self.design, self.design.classes
        own = d.interaction * rng.normal(size=(d.units, k))[self.codes] + d.interaction * rng.normal(size=(d.units, k, k))[self.codes, self.labels]
        return np.asarray(strength * np.eye(k)[self.labels] + self.directions + own + rng.normal(size=(len(self.codes), k)))


#: a screen, (n,) margins of a row -> the row's statistic
Score = Callable[[Screen, np.ndarray], Statistic]


def accuracy_score(screen: Screen, margins: np.ndarray) -> Statistic:
    """Balanced accuracy; a wrong answer is the next class."""
    k = screen.design.classes
    return balanced_accuracy(screen.labels, np.where(margins > 0, screen.labels, (screen.labels + 1) % k), screen.units, k)


def auroc_score(screen: Screen, margins: np.ndarray) -> Statistic:
    """AUROC of the second class."""
    p = norm.cdf(np.where(screen.labels == 1, margins, -margins))
    return macro_auroc(screen.labels, np.stack([1 - p, p], axis=1), screen.units)


def f1_score(screen: Screen, margins: np.ndarray) -> Statistic:
    """Macro F1 of two classes."""
    p = norm.cdf(np.where(screen.labels == 1, margins, -margins))
    return macro_f1(screen.labels, np.stack([1 - p, p], axis=1), screen.units)


def bits_score(screen: Screen, margins: np.ndarray) -> Statistic:
    """A number per image, as bits of information are: the margin itself."""
    return image_mean(margins, screen.units, screen.labels, screen.design.classes)


def map_score(screen: Screen, vectors: np.ndarray) -> Statistic:
    """Mean average precision of retrieval across units."""
    return retrieve(vectors, screen.labels, screen.units, screen.design.classes).map


@dataclass(frozen=True)
class Kind:
    """One kind of statistic.

    Attributes:
        score: computes it.
        classes: of its screens.
        truth: its value in many units, for a strength; None where it has no formula.
        row: what a row of a strength answers.
        images: mean images of a unit; of retrieval, which takes the square of their number, fewer.
        level: how good rows are, as an accuracy; of retrieval, whose intervals are wide near chance, clearly above it.
        quiet: a screen on which `equivalent` is within reach.
        quiet_units: numbers of units there.
        steps: strength for a gain of 1, about, where there is no formula: on screens of that level, and on quiet ones.
    """

    score: Score
    classes: int
    truth: Callable[[Design, float], float] | None
    row: Callable[[Screen, float, np.random.Generator], np.ndarray] = Screen.margins
    images: float = 20.0
    level: float = 0.65
    quiet: Design = QUIET
    quiet_units: tuple[int, ...] = (50, 120)
    steps: tuple[float, float] = (6.0, 18.0)

    def gap(self, design: Design, low: float, high: float) -> float:
        """True difference between two strengths; NaN where it has no formula."""
        if self.truth is None:
            return 0.0 if high == low else np.nan
        return self.truth(design, high) - self.truth(design, low)

    def raised(self, design: Design, strength: float, gain: float) -> float:
        """The strength whose truth is larger by `gain`; by about as much where it has no formula."""
        from scipy.optimize import brentq

        if self.truth is None:
            return strength + gain * self.steps[design.interaction == self.quiet.interaction]
        return float(brentq(lambda found: self.gap(design, strength, found) - gain, strength - 6.0, strength + 6.0))


KINDS = {
    "balanced accuracy": Kind(accuracy_score, 2, lambda design, strength: float(norm.cdf(strength / design.total))),
    "balanced accuracy of five classes": Kind(accuracy_score, 5, lambda design, strength: float(norm.cdf(strength / design.total))),
    # two images of different units: the sum of two margins is above 0
    "AUROC": Kind(auroc_score, 2, lambda design, strength: float(norm.cdf(np.sqrt(2.0) * strength / design.total))),
    # near the accuracy, but what a class gets hangs on what the others do
    "macro F1": Kind(f1_score, 2, None, steps=(3.6, 4.0)),
    "retrieval mAP": Kind(
        map_score, 4, None, Screen.vectors, images=1.5, level=0.88, quiet=replace(QUIET, images=2.0, spread=0.3, shared=1.5), quiet_units=(50,)
    ),
    # margins are not bounded as shares are: rows must agree about images for their means to be as close
    "mean over images": Kind(bits_score, 2, lambda _, strength: strength, quiet=replace(QUIET, own=0.25)),
}

"""Gene expression from images of tissue, as HEST-Bench asks it (Jaume et al. 2024, arXiv 2406.16192), under three named protocols.

- `hest_a1`: the leaderboard's: standardise, 256 principal components, ridge with alpha = 100 / (features x genes) and no intercept. For parity. It
  cannot score a representation of fewer than 256 dimensions, and so none of the structural controls. The components are exact here and the
  protocol id says so; of typical encoders the reference's are those of a randomised solver, which hang on a seed and on scikit-learn's version.
- `hest_a2`: the paper's second table: the same without principal components, alpha by the same formula. For parity.
- `hest_cv` (the headline): standardise, at most 256 exact principal components, an intercept, alpha chosen by leaving out one training patient at a
  time. Encoders and controls of any dimension meet the same rule. Where a fold has one training patient (two patients, one left out, as in several
  HEST tasks), its sections are left out in turn, else contiguous fifths of its spots in the order in which they come, and the
  protocol id begins with `hest_cv_one_patient`. Spots that lie side by side may then be on both sides of a choice, so that alpha may be too weak;
  test spots are another patient's all the same.

Targets are log(1 + counts), without library size. The score of a fold is the mean over genes of Pearson's r over all its test spots pooled;
the score is the mean over folds. A gene whose prediction or truth is constant has r = 0 here; in the reference it is NaN and takes the
mean with it. R^2 is not given: without an intercept it is meaningless.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from pipelines.metrics.geometry import check_features, varying_columns
from pipelines.metrics.probes import FoldFeatures, features_of_fold
from pipelines.metrics.projection import fit_projection
from pipelines.metrics.statistic import Statistic, index_units, inflation_of, tally
from registry.arrays import Floats, Ints
from registry.errors import InputError

PROTOCOLS = ("hest_a1", "hest_a2", "hest_cv")
#: begins the protocol id of `hest_cv` where alpha was chosen inside of one patient in some fold
ONE_PATIENT = "hest_cv_one_patient"
COMPONENTS = 256
#: alphas of hest_cv, on the summed squared error of standardised columns
GRID = tuple(float(a) for a in np.logspace(-2, 6, 17))
#: spots that a left-out training patient must have for its r to say anything
FEWEST_SPOTS = 3
#: parts of a single training patient, at most
_PARTS = 5
_BY_PATIENT, _BY_SECTION, _BY_FIFTHS = _LEFT_OUT = ("patient", "section", "contiguous-fifths")
_CONSTANT = 1e-12
#: axes with less than this share of the largest variance are rounding
_RANK = 1e-13


@dataclass(frozen=True, eq=False)
class Expression:
    """Scores of one row on one task.

    Attributes:
        r: mean over folds of the mean over genes of r, -1..1, larger is better. Share of unit u: mean over folds of its test spots / theirs.
            Without unit u its test spots are left out of their fold; the fits stay as they are, for which there is the inflation.
        folds: (f,) score of each fold, in order of its number.
        spread: population standard deviation over folds, as the leaderboard has it; with two folds it says little.
        per_gene: (g,) mean over folds of r.
        alphas: of each fold.
        constant: pairs of fold and gene that have r = 0 because something does not vary.
        protocol_id: names every rule.
    """

    r: Statistic
    folds: Floats
    spread: float
    per_gene: Floats
    alphas: tuple[float, ...]
    constant: int
    protocol_id: str


def expression_scores(
    features: FoldFeatures,
    counts: Floats,
    units: Sequence[str] | NDArray[np.str_],
    folds: Ints,
    protocol: str = "hest_cv",
    sections: Sequence[str] | NDArray[np.str_] | None = None,
) -> Expression:
    """Fit on the training spots of each fold, predict its test spots.

    Args:
        features: (n, d) one vector per spot; of a representation that is fitted anew for every fold, by fold.
        counts: (n, g) raw counts.
        units: n patients.
        folds: (n,) the fold a spot is tested in; -1 = always training.
        protocol: one of `PROTOCOLS`.
        sections: n slides or samples; they matter to `hest_cv` where there is one training patient. None = not known.

    Raises:
        InputError: an unknown protocol, negative counts, NaN, a fold without training or test spots, too few dimensions for `hest_a1`,
            fewer than 6 spots of a single training patient or none of several spots for `hest_cv`, or a patient in training and test of one fold.
    """
    folds = np.asarray(folds, dtype=np.int64)
    index, targets = index_units(units, len(folds)), np.log1p(_counts(counts, len(folds)))
    slides = None if sections is None else np.unique(np.asarray(sections, dtype=np.str_), return_inverse=True)[1]
    if slides is not None and slides.shape != folds.shape:
        raise InputError(f"Expected a section for each of {len(folds)} spots, got shape {slides.shape}.")
    if protocol not in PROTOCOLS:
        raise InputError(f"Expected a protocol of {', '.join(PROTOCOLS)}, got `{protocol}`.")
    numbers = sorted(set(folds[folds >= 0].tolist()))
    if not numbers:
        raise InputError("Expected test spots in a fold, got none. Look at the folds of the benchmark.")
    values, without, shares, per_gene, alphas, chosen, constant = [], [], [], [], [], set(), 0
    for number in numbers:
        test = folds == number
        if not (~test).any():
            raise InputError(f"Fold {number} leaves no training spots.")
        both = sorted(set(index.codes[test].tolist()) & set(index.codes[~test].tolist()))
        if both:
            raise InputError(f"`{index.names[both[0]]}` is among training and test spots of fold {number}. Give each patient one fold.")
        vectors = check_features(features_of_fold(features, number))
        if len(vectors) != len(folds):
            raise InputError(f"Expected a fold for each of {len(vectors)} spots, got {len(folds)}.")
        parts, by = _left_out(index.codes[~test], None if slides is None else slides[~test]) if protocol == "hest_cv" else (index.codes[~test], "")
        chosen.add(by)
        predicted, alpha = _predict(vectors, targets, parts, test, protocol)
        r, r_without = _correlations(predicted, targets[test], index.codes[test], len(index.names))
        constant += int(np.isnan(r).sum())
        values.append(np.nan_to_num(r).mean())
        without.append(np.nan_to_num(r_without).mean(axis=1))
        # without its only unit a fold is no fold
        counted = tally(index.codes[test], size=len(index.names))
        without[-1][counted == test.sum()] = np.nan
        shares.append(counted / test.sum())
        per_gene.append(np.nan_to_num(r))
        alphas.append(alpha)
    left = np.array(without)
    present = ~np.isnan(left)
    mean_without = np.divide(np.nansum(left, axis=0), present.sum(axis=0), out=np.full(left.shape[1], np.nan), where=present.any(axis=0))
    tested = np.isin(np.arange(len(index.names)), index.codes[folds >= 0])
    statistic = Statistic(
        value=float(np.mean(values)),
        units=tuple(name for name, seen in zip(index.names, tested, strict=True) if seen),
        without=mean_without[tested],
        share=np.mean(shares, axis=0)[tested],
        n_images=int((folds >= 0).sum()),
        class_in_units=int(tested.sum()),
        inflation=inflation_of(folds, units),
    )
    rules = protocol_id(protocol, chosen - {""})
    return Expression(statistic, np.array(values), float(np.std(values)), np.mean(per_gene, axis=0), tuple(alphas), constant, rules)


def protocol_id(protocol: str, by: Collection[str] = ()) -> str:
    """Names every rule of a protocol.

    Args:
        protocol: one of `PROTOCOLS`.
        by: of `hest_cv` what was left out to choose the penalty, over all folds: "patient", "section", "contiguous-fifths"; none where nothing
            could be fitted.
    """
    if protocol == "hest_cv":
        name = ONE_PATIENT if set(by) - {_BY_PATIENT} else protocol
        chosen = f"-by-{'-or-'.join(sorted(by))}" if by else ""
        return f"{name}/alpha=1e-2..1e6x{len(GRID)}{chosen}/log1p/pooled-r/v3"
    return f"hest_a1/pca{COMPONENTS}-exact/log1p/pooled-r/v3" if protocol == "hest_a1" else f"{protocol}/log1p/pooled-r/v3"


def protocol_ids(protocol: str) -> tuple[str, ...]:
    """Every id that a score by one of `PROTOCOLS` may carry: which of several it is hangs on how many patients and sections train a fold."""
    if protocol != "hest_cv":
        return (protocol_id(protocol),)
    # not all three at once: two folds with one training patient each test all others, so that there are two patients and none trains with another
    return tuple(protocol_id(protocol, by) for n in range(len(_LEFT_OUT)) for by in combinations(_LEFT_OUT, n))


def _left_out(patients: Ints, sections: Ints | None) -> tuple[Ints, str]:
    """(m,) which part of training each spot is left out with when alpha is chosen, and what the parts are."""
    if len(np.unique(patients)) > 1:
        return patients, _BY_PATIENT
    if sections is not None and (np.unique(sections, return_counts=True)[1] >= FEWEST_SPOTS).sum() > 1:
        return sections, _BY_SECTION
    parts = min(_PARTS, len(patients) // FEWEST_SPOTS)
    if parts < 2:
        raise InputError(
            f"`hest_cv` chooses its penalty inside of a single training patient, which needs at least {2 * FEWEST_SPOTS} spots, got {len(patients)}."
        )
    return np.arange(len(patients)) * parts // len(patients), _BY_FIFTHS


def _counts(counts: Floats, n: int) -> Floats:
    counts = np.asarray(counts, dtype=np.float64)
    if counts.ndim != 2 or len(counts) != n or counts.shape[1] == 0:
        raise InputError(f"Expected counts of at least one gene for each of {n} spots, got shape {counts.shape}.")
    if not np.isfinite(counts).all() or (counts < 0).any():
        raise InputError("Expected raw counts of 0 or more, got negative or missing ones. The logarithm is taken here.")
    return counts


def _predict(features: Floats, targets: Floats, parts: Ints, test: NDArray[np.bool_], protocol: str) -> tuple[Floats, float]:
    """(m, g) predictions of the test spots and the alpha; `parts` of the training spots are left out in turn to choose it."""
    train = ~test
    if protocol == "hest_cv":
        projection = fit_projection(features[train], COMPONENTS)
        z, z_test = projection.transform(features[train]), projection.transform(features[test])
        ridge = _Ridge.of(z, targets[train])
        alpha = _choose_alpha(z, targets[train], parts, ridge)
        return ridge.predict(z_test, (alpha,))[0], alpha
    if protocol == "hest_a1":
        if min(features[train].shape) < COMPONENTS:
            had = f"{features.shape[1]} and {train.sum()}"
            raise InputError(f"`hest_a1` needs at least {COMPONENTS} dimensions and training spots, got {had}. Use `hest_cv`, which takes any.")
        projection = fit_projection(features[train], COMPONENTS)
        z, z_test, width = projection.transform(features[train]), projection.transform(features[test]), COMPONENTS
    else:
        mean, scale = features[train].mean(axis=0), np.where(varying_columns(features[train]), features[train].std(axis=0), 1.0)
        z, z_test, width = (features[train] - mean) / scale, (features[test] - mean) / scale, features.shape[1]
    # columns that do not vary are counted in the width, as in the reference
    alpha = 100.0 / (width * targets.shape[1])
    return z_test @ _lsqr(z, targets[train], alpha), alpha


def _lsqr(z: Floats, targets: Floats, alpha: float) -> Floats:
    """(p, g) the coefficients that scikit-learn's `Ridge(solver="lsqr", fit_intercept=False)` stops at, with its tolerance of 1e-4.

    The iterations run in the principal axes of z, with one row more for what of a target lies outside of them: rotated like that they are the
    same steps up to rounding, and do not grow with the number of spots.
    """
    from scipy.sparse.linalg import lsqr

    values, vectors = np.linalg.eigh(z.T @ z)
    kept = values > _RANK * values.max(initial=0.0)
    if not kept.any():
        return np.zeros((z.shape[1], targets.shape[1]))
    lengths, vectors = np.sqrt(values[kept]), vectors[:, kept]
    inside = vectors.T @ (z.T @ targets) / lengths[:, None]
    outside = np.sqrt(np.maximum((targets**2).sum(axis=0) - (inside**2).sum(axis=0), 0.0))
    design, wanted = np.vstack([np.diag(lengths), np.zeros(len(lengths))]), np.vstack([inside, outside])
    found = [lsqr(design, one, damp=np.sqrt(alpha), atol=1e-4, btol=1e-4, iter_lim=1000)[0] for one in wanted.T]
    return np.asarray(vectors @ np.stack(found, axis=1))


@dataclass(frozen=True)
class _Ridge:
    """Ridge regression with an intercept as sums over spots, from which the spots of a patient can be taken away.

    Attributes:
        n: spots.
        x: (p,) sums of the features.
        y: (g,) sums of the targets.
        xx: (p, p) products of features.
        xy: (p, g) of features and targets.
    """

    n: int
    x: Floats
    y: Floats
    xx: Floats
    xy: Floats

    @classmethod
    def of(cls, z: Floats, targets: Floats) -> _Ridge:
        return cls(len(z), z.sum(axis=0), targets.sum(axis=0), z.T @ z, z.T @ targets)

    def without(self, other: _Ridge) -> _Ridge:
        return _Ridge(self.n - other.n, self.x - other.x, self.y - other.y, self.xx - other.xx, self.xy - other.xy)

    def predict(self, z_test: Floats, alphas: Sequence[float]) -> Floats:
        """(a, m, g) predictions for each alpha."""
        centre, level = self.x / self.n, self.y / self.n
        covariance = self.xx - self.n * np.outer(centre, centre)
        values, vectors = np.linalg.eigh(covariance) if len(centre) else (np.zeros(0), np.zeros((0, 0)))
        turned = vectors.T @ (self.xy - self.n * np.outer(centre, level))
        weights = turned / (np.maximum(values, 0.0) + np.array(alphas)[:, None])[:, :, None]
        return np.asarray(level + ((z_test - centre) @ vectors) @ weights)


def _choose_alpha(z: Floats, targets: Floats, parts: Ints, ridge: _Ridge) -> float:
    """The alpha with the best mean r over left-out parts of training (patients) and genes; of equally good ones the strongest."""
    names, spots = np.unique(parts, return_counts=True)
    if spots.max() < FEWEST_SPOTS:
        raise InputError(
            f"`hest_cv` correlates the spots of a left-out training patient, and none has {FEWEST_SPOTS} spots. Name the patient, slide or section as"
            " the unit."
        )
    scores = np.zeros(len(GRID))
    for name in names[spots >= FEWEST_SPOTS]:
        held = parts == name
        predicted = ridge.without(_Ridge.of(z[held], targets[held])).predict(z[held], GRID)
        predicted, truth = predicted - predicted.mean(axis=1, keepdims=True), targets[held] - targets[held].mean(axis=0)
        squares = (np.einsum("amg,amg->ag", predicted, predicted), (truth**2).sum(axis=0), np.einsum("amg,mg->ag", predicted, truth))
        scores += np.nan_to_num(_r(np.array(len(truth)), np.array(0.0), np.array(0.0), *squares)).mean(axis=1)
    return GRID[int(np.flatnonzero(scores >= scores.max() - 1e-9)[-1])]


def _correlations(predicted: Floats, truth: Floats, codes: Ints, n_units: int) -> tuple[Floats, Floats]:
    """(g,) Pearson's r and (U, g) without each unit; NaN where something does not vary. From sums that units add up to."""
    predicted, truth = predicted - predicted.mean(axis=0), truth - truth.mean(axis=0)
    parts = np.stack([np.ones_like(truth), predicted, truth, predicted**2, truth**2, predicted * truth])
    order = np.argsort(codes, kind="stable")
    starts = np.flatnonzero(np.diff(codes[order], prepend=-1))
    of_unit = np.zeros((len(parts), n_units, truth.shape[1]))
    of_unit[:, codes[order][starts]] = np.add.reduceat(parts[:, order], starts, axis=1)
    whole = of_unit.sum(axis=1)
    return _r(*whole), _r(*(whole[:, None] - of_unit))


def _r(n: Floats, x: Floats, y: Floats, xx: Floats, yy: Floats, xy: Floats) -> Floats:
    """Pearson's r of sums; NaN where something does not vary."""
    with np.errstate(invalid="ignore", divide="ignore"):
        variance_x, variance_y = xx - x * x / n, yy - y * y / n
        r = (xy - x * y / n) / np.sqrt(variance_x * variance_y)
    return np.where((variance_x > _CONSTANT * n) & (variance_y > _CONSTANT * n), r, np.nan)

"""Gene expression from images of tissue, as HEST-Bench asks it (Jaume et al. 2024, arXiv 2406.16192), under three named protocols.

- `hest_a1`: the leaderboard's: standardise, 256 principal components, ridge with alpha = 100 / (features x genes) and no intercept. For parity. It
  cannot score a representation of fewer than 256 dimensions, and so none of the structural controls.
- `hest_a2`: the paper's second table: the same without principal components, alpha by the same formula. For parity.
- `hest_cv` (the headline): standardise, at most 256 exact principal components, an intercept, alpha chosen by leaving out one training patient at a
  time. Encoders and controls of any dimension meet the same rule.

Targets are log(1 + counts), without library size. The score of a fold is the mean over genes of Pearson's r over all its test spots pooled;
the score is the mean over folds. A gene whose prediction or truth is constant has r = 0 here; in the reference it is NaN and takes the
mean with it. R^2 is not given: without an intercept it is meaningless.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipelines.metrics.geometry import check_features
from pipelines.metrics.projection import fit_projection
from pipelines.metrics.statistic import Statistic, index_units, tally
from registry.arrays import Floats, Ints
from registry.errors import InputError

PROTOCOLS = ("hest_a1", "hest_a2", "hest_cv")
COMPONENTS = 256
#: alphas of hest_cv, on the summed squared error of standardised columns
GRID = tuple(float(a) for a in np.logspace(-2, 6, 17))
_CONSTANT = 1e-12


@dataclass(frozen=True, eq=False)
class Expression:
    """Scores of one row on one task.

    Attributes:
        r: mean over folds of the mean over genes of r, -1..1, larger is better. Share of unit u: mean over folds of its test spots / theirs.
            Without unit u its test spots are left out of their fold; the fits stay as they are.
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
    features: Floats, counts: Floats, units: Sequence[str] | NDArray[np.str_], folds: Ints, protocol: str = "hest_cv"
) -> Expression:
    """Fit on the training spots of each fold, predict its test spots.

    Args:
        features: (n, d) one vector per spot.
        counts: (n, g) raw counts.
        units: n patients.
        folds: (n,) the fold a spot is tested in; -1 = always training.
        protocol: one of `PROTOCOLS`.

    Raises:
        InputError: an unknown protocol, negative counts, NaN, a fold without training or test spots, too few dimensions for `hest_a1`,
            one training patient for `hest_cv`, or a patient in training and test of one fold.
    """
    features, targets = check_features(features), np.log1p(_counts(counts, len(features)))
    index, folds = index_units(units, len(features)), np.asarray(folds, dtype=np.int64)
    if folds.shape != (len(features),):
        raise InputError(f"Expected a fold for each of {len(features)} spots, got shape {folds.shape}.")
    if protocol not in PROTOCOLS:
        raise InputError(f"Expected a protocol of {', '.join(PROTOCOLS)}, got `{protocol}`.")
    numbers = sorted(set(folds[folds >= 0].tolist()))
    if not numbers:
        raise InputError("Expected test spots in a fold, got none. Look at the folds of the benchmark.")
    values, without, shares, per_gene, alphas, constant = [], [], [], [], [], 0
    for number in numbers:
        test = folds == number
        if not (~test).any():
            raise InputError(f"Fold {number} leaves no training spots.")
        both = sorted(set(index.codes[test].tolist()) & set(index.codes[~test].tolist()))
        if both:
            raise InputError(f"`{index.names[both[0]]}` is among training and test spots of fold {number}. Give each patient one fold.")
        predicted, alpha = _predict(features, targets, index.codes, test, protocol)
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
    )
    grid = f"/alpha=1e-2..1e6x{len(GRID)}-by-patient" if protocol == "hest_cv" else ""
    rules = f"{protocol}{grid}/log1p/pooled-r/v1"
    return Expression(statistic, np.array(values), float(np.std(values)), np.mean(per_gene, axis=0), tuple(alphas), constant, rules)


def _counts(counts: Floats, n: int) -> Floats:
    counts = np.asarray(counts, dtype=np.float64)
    if counts.ndim != 2 or len(counts) != n or counts.shape[1] == 0:
        raise InputError(f"Expected counts of at least one gene for each of {n} spots, got shape {counts.shape}.")
    if not np.isfinite(counts).all() or (counts < 0).any():
        raise InputError("Expected raw counts of 0 or more, got negative or missing ones. The logarithm is taken here.")
    return counts


def _predict(features: Floats, targets: Floats, patients: Ints, test: NDArray[np.bool_], protocol: str) -> tuple[Floats, float]:
    """(m, g) predictions of the test spots and the alpha."""
    train = ~test
    if protocol == "hest_cv":
        projection = fit_projection(features[train], COMPONENTS)
        z, z_test = projection.transform(features[train]), projection.transform(features[test])
        alpha = _choose_alpha(z, targets[train], patients[train])
        return _ridge_paths(z, targets[train], z_test, (alpha,))[0], alpha
    from sklearn.decomposition import PCA
    from sklearn.linear_model import Ridge
    from sklearn.preprocessing import StandardScaler

    scaler = StandardScaler().fit(features[train])
    z, z_test = scaler.transform(features[train]), scaler.transform(features[test])
    if protocol == "hest_a1":
        if min(z.shape) < COMPONENTS:
            had = f"{z.shape[1]} and {z.shape[0]}"
            raise InputError(f"`hest_a1` needs at least {COMPONENTS} dimensions and training spots, got {had}. Use `hest_cv`, which takes any.")
        components = PCA(n_components=COMPONENTS, random_state=1)
        z, z_test = components.fit_transform(z), components.transform(z_test)
    alpha = 100.0 / (z.shape[1] * targets.shape[1])
    model = Ridge(solver="lsqr", alpha=alpha, random_state=1, fit_intercept=False, max_iter=1000).fit(z, targets[train])
    return np.asarray(model.predict(z_test)).reshape(len(z_test), -1), alpha


def _choose_alpha(z: Floats, targets: Floats, patients: Ints) -> float:
    """The alpha with the best mean r over left-out training patients and genes; of equally good ones the strongest."""
    names = np.unique(patients)
    if len(names) < 2:
        raise InputError("`hest_cv` chooses its penalty by leaving out training patients, of which there is one. Give the benchmark more patients.")
    scores = np.zeros(len(GRID))
    for name in names:
        held = patients == name
        for number, predicted in enumerate(_ridge_paths(z[~held], targets[~held], z[held], GRID)):
            r, _ = _correlations(predicted, targets[held], np.zeros(int(held.sum()), dtype=np.int64), 1)
            scores[number] += np.nan_to_num(r).mean()
    return GRID[int(np.flatnonzero(scores >= scores.max() - 1e-9)[-1])]


def _ridge_paths(z: Floats, targets: Floats, z_test: Floats, alphas: Sequence[float]) -> list[Floats]:
    """(m, g) predictions for each alpha, with an intercept."""
    centre, level = z.mean(axis=0), targets.mean(axis=0)
    values, vectors = np.linalg.eigh((z - centre).T @ (z - centre)) if z.shape[1] else (np.zeros(0), np.zeros((0, 0)))
    turned = vectors.T @ ((z - centre).T @ (targets - level))
    directions = (z_test - centre) @ vectors
    return [level + directions @ (turned / (np.maximum(values, 0.0) + alpha)[:, None]) for alpha in alphas]


def _correlations(predicted: Floats, truth: Floats, codes: Ints, n_units: int) -> tuple[Floats, Floats]:
    """(g,) Pearson's r and (U, g) without each unit; NaN where something does not vary. From sums that units add up to."""
    predicted, truth = predicted - predicted.mean(axis=0), truth - truth.mean(axis=0)
    parts = [np.ones_like(truth), predicted, truth, predicted**2, truth**2, predicted * truth]
    of_unit = np.zeros((len(parts), n_units, truth.shape[1]))
    for sums, part in zip(of_unit, parts, strict=True):
        np.add.at(sums, codes, part)
    whole = of_unit.sum(axis=1)
    return _r(whole), _r(whole[:, None] - of_unit)


def _r(sums: Floats) -> Floats:
    n, x, y, xx, yy, xy = sums
    with np.errstate(invalid="ignore", divide="ignore"):
        variance_x, variance_y = xx - x * x / n, yy - y * y / n
        r = (xy - x * y / n) / np.sqrt(variance_x * variance_y)
    return np.where((variance_x > _CONSTANT * n) & (variance_y > _CONSTANT * n), r, np.nan)

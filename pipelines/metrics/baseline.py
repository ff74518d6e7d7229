"""What the controls know: the enlarged baseline B+ that an encoder's information is measured beyond."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from pipelines.metrics.folds import InnerFolds, inner_folds
from pipelines.metrics.logistic import softmax
from pipelines.metrics.penalised import Fit, fit
from pipelines.metrics.projection import fit_projection
from registry.arrays import Floats, Ints, Mask
from registry.errors import InputError

#: every probability is mixed with this much of the uniform one, so that one certain error cannot decide a mean of bits
_MIXED = 1e-3
#: penalties per image of the regression of a row on the controls, and what of their largest singular value counts as 0
_RIDGES, _RANK = (1e-8, 1e-4, 1e-2, 0.1, 1.0, 10.0, 100.0, 1e4), 1e-10
#: a probability that is right to 3e-5 costs 1e-5 bits of a loss, and a third of the time of one that is right to the last digit
TO_GAIN = 1e-9


@dataclass(frozen=True)
class InformationSettings:
    """What all rows share.

    Attributes:
        control_dims: most principal directions of the controls.
        product_dims: leading directions whose squares and products enter.
        row_dims: most principal directions of a row.
        penalties: of a block, strongest first (penalty/2 |w|^2 on the summed loss); leaving the block out always competes. Those of a row are
            tried until the inner loss has risen twice.
        control_penalties: of the controls themselves, strongest first, tried in the same way.
        inner_folds: group-held-out folds inside the training images.
        random_networks: random-feature networks of the controls.
        seed: of these networks.
    """

    control_dims: int = 48
    product_dims: int = 12
    row_dims: int = 64
    penalties: tuple[float, ...] = (1e4, 1e3, 1e2, 10.0, 1.0)
    control_penalties: tuple[float, ...] = (1e3, 1e2, 10.0, 1.0, 0.1, 1e-2, 1e-3)
    inner_folds: int = 3
    random_networks: int = 10
    seed: int = 0

    def __post_init__(self) -> None:
        for penalties in (self.penalties, self.control_penalties):
            if list(penalties) != sorted(set(penalties), reverse=True) or not penalties or penalties[-1] <= 0:
                raise InputError(f"Expected positive penalties, strongest first and without repeats, got {penalties}.")
        if min(self.control_dims, self.product_dims, self.row_dims) < 1 or self.inner_folds < 2 or self.random_networks == 1:
            raise InputError(f"Expected dimensions of at least 1, `inner_folds` of at least 2 and no single random network, got {self}.")

    @property
    def protocol_id(self) -> str:
        """Names every rule behind the bits."""
        penalties, of_controls = (",".join(f"{p:g}" for p in of) for of in (self.penalties, self.control_penalties))
        return (
            f"information/controls{self.control_dims}:{of_controls}+trees+squares+products{self.product_dims}/row{self.row_dims}-beside-controls/"
            f"penalties=inf,{penalties}-until-two-rises/inner{self.inner_folds}-by-group/networks{self.random_networks}-seed{self.seed}/v5"
        )


@dataclass(frozen=True, eq=False)
class Baseline:
    """B+ of one fold and its fits.

    Attributes:
        train: (n, p) columns of B+ of the training images.
        test: (m, p) of the test images.
        labels: (n,) training labels as codes into `present`.
        present: classes of the vocabulary that training has.
        n_classes: size of the vocabulary.
        penalty: (p,) of the columns.
        inner_held: (n,) masks of the inner folds.
        inner_fits: B+ fitted without each of them.
        inner_loss: summed log2-loss of B+ over the inner folds.
        fit: B+ fitted to all training images.
        scores_train: (n, q) standardised directions of the controls, the input of the random-feature networks.
        scores_test: (m, q).
        notes: what was out of the ordinary.
    """

    train: Floats
    test: Floats
    labels: Ints
    present: Ints
    n_classes: int
    penalty: Floats
    inner_held: tuple[Mask, ...]
    inner_fits: tuple[Fit, ...]
    inner_loss: float
    fit: Fit
    scores_train: Floats
    scores_test: Floats
    notes: tuple[str, ...]

    @property
    def n_present(self) -> int:
        """Classes that training has."""
        return len(self.present)

    def penalty_with(self, width: int, penalty: float) -> Floats:
        """(p + width,) penalties of B+ and a block beside it."""
        return np.concatenate([self.penalty, np.full(width, penalty)])

    def fit_inner(self, x: Floats, held: Mask, penalty: Floats, start: Fit | None) -> Fit:
        """Fit to the images that are not held out."""
        return fit(x[~held], self.labels[~held], self.n_present, penalty, start, to_gain=TO_GAIN)

    def inner_loss_of(self, found: Fit, x: Floats, held: Mask) -> float:
        """Summed log2-loss of the held-out images."""
        return float(log2_loss(found.logits(x[held]), self, self.present[self.labels[held]]).sum())

    def prior_logits(self, n: int) -> Floats:
        """(n, k) log frequencies of the training classes."""
        return np.tile(np.log(np.bincount(self.labels, minlength=self.n_present) / len(self.labels)), (n, 1))

    def beside(self, train: Floats, test: Floats) -> tuple[Floats, Floats]:
        """What of the columns of a row is not linear in B+: (n, d) of training images, (m, d) of test images.

        Each column less its prediction from B+ by a ridge regression. Training images are predicted out of their inner fold, as test images are
        from all training images, so that both leave as much; the penalty of a column is the one that predicts best so, or none of B+. A copy of
        the controls leaves nothing; what has nothing to do with them stays as it is, however many they are.
        """
        centres = np.mean(train, axis=0)
        # without inner folds the mean is all that is known
        guesses = np.tile(centres, (len(_RIDGES) + 1, len(train), 1))
        for held in self.inner_held:
            x, y = self.train[~held], train[~held]
            guesses[-1, held] = y.mean(axis=0)
            for k, slope in enumerate(_slopes(x, y)):
                guesses[k, held] = y.mean(axis=0) + (self.train[held] - x.mean(axis=0)) @ slope
        best = np.argmin(np.sum((train - guesses) ** 2, axis=1), axis=0)
        columns = np.arange(train.shape[1])
        # the last one is of no column of B+
        slopes = np.array([*_slopes(self.train, train), np.zeros((self.train.shape[1], train.shape[1]))])
        slope = slopes[best, :, columns].T
        left = train - guesses[best, :, columns].T
        return left, test - centres - (self.test - self.train.mean(axis=0)) @ slope

    def random_features(self, network: int, width: int, seed: int) -> tuple[Floats, Floats]:
        """One random-feature network tanh(B W + b) of the controls, without noise: (n, width) of training, (m, width) of test."""
        rng = np.random.default_rng([seed, network])
        q = max(self.scores_train.shape[1], 1)
        weights, shift = rng.normal(size=(self.scores_train.shape[1], width)) / np.sqrt(q), rng.normal(size=width)
        return np.tanh(self.scores_train @ weights + shift), np.tanh(self.scores_test @ weights + shift)


def _slopes(x: Floats, y: Floats) -> list[Floats]:
    """(p, d) slopes of the ridge regressions of (n, d) y on (n, p) x, both centred, one for each of _RIDGES."""
    u, s, vt = np.linalg.svd(x - x.mean(axis=0), full_matrices=False)
    kept = s > _RANK * s.max(initial=1e-300)
    u, s, vt = u[:, kept], s[kept], vt[kept]
    along = u.T @ (y - y.mean(axis=0))
    return [np.asarray(vt.T @ ((s / (s**2 + penalty * len(x)))[:, None] * along)) for penalty in _RIDGES]


def log2_loss(logits: Floats, baseline: Baseline, truth: Ints) -> Floats:
    """(m,) bits that logits of the present classes lose on vocabulary codes `truth`; at most log2(k / 0.001)."""
    p = np.zeros((len(logits), baseline.n_classes))
    p[:, baseline.present] = softmax(logits)
    return np.asarray(-np.log2((1 - _MIXED) * p[np.arange(len(truth)), truth] + _MIXED / baseline.n_classes))


def enlarge(
    b_train: Floats,
    b_test: Floats,
    labels: Ints,
    groups: Sequence[str] | NDArray[np.str_],
    n_classes: int,
    settings: InformationSettings,
) -> Baseline:
    """Build B+ from the controls, everything fitted on training images.

    B gets the penalty that inner group-held-out folds choose. The boosted-tree logits, out of fold inside training, then the squares and then
    the products get each a penalty in the same way; a block that does not help there is left out.

    Args:
        b_train: (n, b).
        b_test: (m, b).
        labels: (n,) class codes of the training images.
        groups: n names; a group is never in two inner folds.
        n_classes: size of the vocabulary.
        settings: shared by all rows.

    Raises:
        InputError: fewer than two classes among the training images, NaN or infinity.
    """
    present, codes = np.unique(labels, return_inverse=True)
    if len(present) < 2:
        raise InputError(
            f"Expected training images of at least two classes, got {len(present)}. Look at `fold` and at the label column of the index."
        )
    projection = fit_projection(b_train, settings.control_dims)
    s_train, s_test = _standardised(projection.transform(b_train), projection.transform(b_test))
    inner = inner_folds(codes, groups, len(present), settings.inner_folds)
    notes = ("Inner folds divide images: there is only one training group.",) if inner.kind == "images" else ()
    held = tuple(mask for f in range(inner.n_folds) if (mask := inner.fold == f).any() and not mask.all())
    columns = s_train.shape[1]
    blank = Baseline(
        train=s_train,
        test=s_test,
        labels=codes,
        present=present,
        n_classes=n_classes,
        penalty=np.zeros(columns),
        inner_held=held,
        inner_fits=(),
        inner_loss=float("nan"),
        fit=Fit(np.zeros((1 + columns, 1 if len(present) == 2 else len(present)))),
        scores_train=s_train,
        scores_test=s_test,
        notes=notes,
    )
    found = _penalised(blank, settings.control_penalties)
    if columns:
        trees = _tree_logits(s_train, s_test, codes, inner, len(present))
        for block in (trees, *_products(s_train, s_test, settings.product_dims)):
            found = _with_block(found, *_standardised(*block), settings.penalties)
    return found


def _penalised(blank: Baseline, penalties: Sequence[float]) -> Baseline:
    """The columns under the penalty with the smallest inner loss; weaker ones, which take most of the time, are tried until it has risen twice."""
    tried: list[Baseline] = []
    for penalty in penalties:
        start = tried[-1].fit if tried else blank.fit
        tried.append(_refitted(replace(blank, penalty=np.full(len(blank.penalty), penalty), fit=start)))
        if len(tried) > 2 and tried[-1].inner_loss > tried[-2].inner_loss > tried[-3].inner_loss:
            break
    return min(tried, key=lambda found: found.inner_loss)


def _with_block(base: Baseline, train: Floats, test: Floats, penalties: Sequence[float]) -> Baseline:
    """The baseline enlarged by a block at the penalty with the smallest inner loss, or as it is."""
    wider = replace(base, train=np.hstack([base.train, train]), test=np.hstack([base.test, test]))
    tried = [_refitted(replace(wider, penalty=base.penalty_with(train.shape[1], penalty))) for penalty in penalties]
    best = min(tried, key=lambda found: found.inner_loss)
    return best if best.inner_loss < base.inner_loss - 1e-9 else base


def _refitted(columns: Baseline) -> Baseline:
    """The same columns and penalties, fitted to all training images and without each inner fold; starts from the fit it has."""
    whole = fit(columns.train, columns.labels, columns.n_present, columns.penalty, columns.fit, to_gain=TO_GAIN)
    fits = tuple(columns.fit_inner(columns.train, held, columns.penalty, whole) for held in columns.inner_held)
    loss = sum(columns.inner_loss_of(one, columns.train, held) for one, held in zip(fits, columns.inner_held, strict=True))
    return replace(columns, fit=whole, inner_fits=fits, inner_loss=loss)


def _standardised(train: Floats, test: Floats) -> tuple[Floats, Floats]:
    """Both on the scale of the training images, constant columns left out."""
    spread = train.std(axis=0)
    keep = spread > 1e-9 * np.abs(train).max(axis=0, initial=1e-300)
    centre = train[:, keep].mean(axis=0)
    return (train[:, keep] - centre) / spread[keep], (test[:, keep] - centre) / spread[keep]


def _products(train: Floats, test: Floats, dims: int) -> Iterator[tuple[Floats, Floats]]:
    """Squares of the `dims` leading directions, and then their pairwise products."""
    leading = fit_projection(train, dims)
    a, b = _standardised(leading.transform(train), leading.transform(test))
    yield a**2, b**2
    first, second = np.triu_indices(a.shape[1], 1)
    yield a[:, first] * a[:, second], b[:, first] * b[:, second]


def _tree_logits(train: Floats, test: Floats, codes: Ints, inner: InnerFolds, n_classes: int) -> tuple[Floats, Floats]:
    """Centred log probabilities of boosted trees: out of fold for training images, from all of them for test images."""
    out = np.zeros((len(train), n_classes))
    for f in range(inner.n_folds):
        held = inner.fold == f
        if held.any() and not held.all():
            out[held] = _trees(train[~held], codes[~held], train[held], n_classes)
    full = _trees(train, codes, test, n_classes)
    # two classes: one logit says all
    return (out[:, 1:], full[:, 1:]) if n_classes == 2 else (out, full)


def _trees(train: Floats, codes: Ints, images: Floats, n_classes: int) -> Floats:
    """(m, k) centred log probabilities; a class without training images gets the floor."""
    from sklearn.ensemble import HistGradientBoostingClassifier
    from threadpoolctl import threadpool_limits

    p = np.zeros((len(images), n_classes))
    present = np.unique(codes)
    if len(present) == 1:
        p[:, present[0]] = 1.0
    else:
        model = HistGradientBoostingClassifier(
            max_iter=50, max_leaf_nodes=8, min_samples_leaf=20, l2_regularization=1.0, early_stopping=False, random_state=0
        )
        # a few thousand images: threads wait for each other longer than they work, and on a busy machine for minutes
        with threadpool_limits(1):
            p[:, present] = model.fit(train, codes).predict_proba(images)
    logs = np.log((1 - _MIXED) * p + _MIXED / n_classes)
    return np.asarray(logs - logs.mean(axis=1, keepdims=True))

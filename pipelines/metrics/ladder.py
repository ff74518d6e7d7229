"""Can a metric tell: whether it orders encoders of known quality, and what it gives to embeddings that know nothing.

A ladder is one training run kept at several shares of its epochs (the rungs); each of several runs (seeds) has its own. Within a run more
training is taken to be better, so a metric that sees anything must rise along it. Where nothing can be trained, noise is added to vectors, less on
each rung. Rungs of one run are not independent of each other, runs are: tau-b (Kendall 1945) is computed within each run, and its interval is the
jackknife over runs; leads have Welch's (1947).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipelines.metrics.jackknife import ALPHA, t_quantile
from pipelines.metrics.statistic import index_units
from registry.arrays import Floats, Ints
from registry.errors import InputError

#: fewer runs than this and no word is given: if a run goes up or down as a whole, five of five go up in 1 of 32 by luck
MIN_SEEDS = 5
#: a tau of which this much cannot be excluded may still be a clear order: five of the six pairs of four rungs
CLEAR = 2 / 3
#: values closer than this are ties: far above rounding, far below one image in a million
TIE = 1e-9
#: metrics of which less is better, by the last part of their name; of batch and place, whatever shows it
SMALLER_IS_BETTER = (
    "calibration_error",
    "log_loss_bits",
    "component_regression",
    "code_length",
    "control_task",
    "share",
    "drop",
    "controls_replicating",
)
#: begins the part of a name that says which column is decoded: less is better too
DECODING = "decoding_"

#: words of a metric on a ladder, on a task, on a benchmark
ORDERS, REVERSED, BLIND, UNDECIDED, NO_LADDER = "orders", "reversed", "blind", "undecided", "no ladder"
#: what an embedding that knows nothing is made of
CONSTANT, NOISE, PERMUTED = "constant", "noise", "permuted"
#: what rungs differ in: training, or noise that was added to vectors
EPOCHS, DILUTION = "epochs", "dilution"


def orientation(metric: str) -> int:
    """1 where more is better, -1 where less is ("logistic.log_loss_bits", "confounds.decoding_plate")."""
    name = metric.rpartition(".")[2]
    return -1 if name in SMALLER_IS_BETTER or name.startswith(DECODING) else 1


def tau_b(first: Floats, second: Floats) -> float:
    """Kendall's tau-b of two series, -1..1; values within 1e-9 tie.

    SciPy's `kendalltau` agrees, but for a constant series, whose tau it leaves undefined: here it is 0, because it orders nothing.

    Args:
        first: (n,) finite.
        second: (n,) finite.

    Raises:
        InputError: different lengths, fewer than 2 values, NaN or infinity.
    """
    signs = [_signs(_finite(series)) for series in (first, second)]
    if signs[0].shape != signs[1].shape:
        raise InputError(f"Expected two series of one length, got {len(first)} and {len(second)} values.")
    norm = float(np.sqrt(np.sum(signs[0] ** 2) * np.sum(signs[1] ** 2)))
    return float(np.sum(signs[0] * signs[1])) / norm if norm > 0 else 0.0


def spearman(first: Floats, second: Floats) -> float:
    """Spearman's rank correlation, -1..1: Pearson's of mid-ranks; values within 1e-9 tie, and a constant series has 0.

    SciPy's `spearmanr` agrees, but for a constant series.

    Args:
        first: (n,) finite.
        second: (n,) finite.

    Raises:
        InputError: as `tau_b`.
    """
    # a mid-rank counts the values below, and half of those that tie; centred, it is half the sum of a row of signs
    ranks = [_signs(_finite(series)).sum(axis=1) for series in (first, second)]
    if ranks[0].shape != ranks[1].shape:
        raise InputError(f"Expected two series of one length, got {len(first)} and {len(second)} values.")
    norm = float(np.sqrt(np.sum(ranks[0] ** 2) * np.sum(ranks[1] ** 2)))
    return float(np.sum(ranks[0] * ranks[1])) / norm if norm > 0 else 0.0


def _finite(series: Floats) -> Floats:
    values = np.asarray(series, dtype=np.float64)
    if values.ndim != 1 or len(values) < 2 or not np.isfinite(values).all():
        raise InputError(
            f"Expected at least 2 finite values in one row, got shape {values.shape}. Leave out a metric that has no value for an encoder."
        )
    return values


def _signs(values: Floats) -> Floats:
    """(n, n) sign of value j minus value i, 0 for ties."""
    difference = values[None, :] - values[:, None]
    return np.asarray(np.where(np.abs(difference) <= TIE, 0.0, np.sign(difference)))


@dataclass(frozen=True)
class Order:
    """How far a metric orders the rungs of several runs.

    Attributes:
        tau: mean over runs of tau-b between rung and value, better counted as more; -1..1.
        low: lower end of its 95 % interval over runs.
        high: upper end.
        of_runs: tau-b of each run.
    """

    tau: float
    low: float
    high: float
    of_runs: tuple[float, ...]

    @property
    def word(self) -> str:
        """One of four words.

        - `orders`: the interval lies above 0.
        - `reversed`: it lies below 0.
        - `blind`: it holds 0 and excludes a clear order (2/3).
        - `undecided`: it holds 0 and a clear order, or there are fewer than 5 runs.
        """
        if len(self.of_runs) < MIN_SEEDS:
            return UNDECIDED
        if self.low > 0:
            return ORDERS
        if self.high < 0:
            return REVERSED
        return BLIND if self.high < CLEAR else UNDECIDED


def order(values: Floats, direction: int = 1) -> Order:
    """Tau-b between rung and value within each run, averaged over runs.

    The variance is that of the jackknife over runs (for a mean s^2 / S) and half a squared step of a run's tau besides, over S: tau moves in
    steps of 4 / (R (R - 1)), and runs that agree by luck would otherwise have an interval of no width. The interval is a t on S - 1 degrees of
    freedom, cut at -1 and 1. In simulation the word `orders` is given to no more than 2.5 % of metrics that know nothing, also where
    a run wanders at random.

    Args:
        values: (S, R) the metric in S runs on R rungs, least trained first.
        direction: 1 where more is better, -1 where less is.

    Raises:
        InputError: fewer than 2 runs or rungs, NaN or infinity.
    """
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 2 or min(values.shape) < 2:
        raise InputError(f"Expected values of at least 2 runs on at least 2 rungs, got shape {values.shape}. Train more seeds.")
    rungs = np.arange(values.shape[1], dtype=np.float64)
    return _over_runs([tau_b(rungs, direction * run) for run in values], values.shape[1])


def _over_runs(taus: Sequence[float], n_rungs: int) -> Order:
    n = len(taus)
    step = 4 / (n_rungs * (n_rungs - 1))
    half = t_quantile(ALPHA, n - 1) * float(np.sqrt((np.var(taus, ddof=1) + step**2 / 2) / n))
    tau = float(np.mean(taus))
    return Order(tau, max(tau - half, -1.0), min(tau + half, 1.0), tuple(taus))


@dataclass(frozen=True)
class Lead:
    """Trained encoders against embeddings that know nothing.

    Attributes:
        gain: mean of the trained minus mean of the others, better counted as more.
        low: lower end of its 95 % interval.
        high: upper end.
    """

    gain: float
    low: float
    high: float

    @property
    def clear(self) -> bool:
        """Whether the trained are better by more than their scatter explains."""
        return self.low > TIE


def lead(trained: Floats, nothing: Floats, direction: int = 1, *, paired: bool = False) -> Lead:
    """How far trained encoders are ahead of embeddings that know nothing.

    Args:
        trained: (S,) the metric on the last rung of S runs.
        nothing: (K,) the metric on K draws; with one draw, as of a constant, it has no scatter of its own.
        direction: 1 where more is better, -1 where less is.
        paired: draw k belongs to run k, as permuted labels of that run's encoder do: a t on S - 1; otherwise Welch's.

    Raises:
        InputError: fewer than 2 runs, no draw, pairs that do not match, NaN or infinity.
    """
    ours, theirs = _finite(trained) * direction, np.asarray(nothing, dtype=np.float64) * direction
    if theirs.ndim != 1 or not len(theirs) or not np.isfinite(theirs).all() or (paired and len(theirs) != len(ours)):
        raise InputError(f"Expected finite values of at least one draw, in pairs one for each run, got shapes {ours.shape} and {theirs.shape}.")
    gain = float(ours.mean() - theirs.mean())
    if paired:
        variance, df = float(np.var(ours - theirs, ddof=1)) / len(ours), len(ours) - 1.0
    else:
        parts = [(float(np.var(x, ddof=1)) / len(x) if len(x) > 1 else 0.0, len(x) - 1) for x in (ours, theirs)]
        variance = sum(v for v, _ in parts)
        # Welch and Satterthwaite
        df = variance**2 / sum(v**2 / n for v, n in parts if v > 0) if variance > 0 else 1.0
    half = t_quantile(ALPHA, df) * float(np.sqrt(variance))
    return Lead(gain, gain - half, gain + half)


@dataclass(frozen=True)
class Rise:
    """Whether a ladder is one: what the metrics that look at labels say of it together.

    Attributes:
        order: of each run the median of their taus, then as `order`.
        ahead: share of them by which its trained end is clearly ahead of everything that knows nothing.
    """

    order: Order
    ahead: float

    @property
    def rises(self) -> bool:
        """Whether it rises, and most metrics can tell where it ends from knowing nothing."""
        return self.order.word == ORDERS and self.ahead >= 0.5


def rise(orders: Sequence[Order], leads: Sequence[Mapping[str, Lead]], n_rungs: int) -> Rise:
    """Ask several metrics about one ladder. The median leaves a few that are blind or upside down without a say.

    Args:
        orders: of each metric on this ladder.
        leads: of each metric on this ladder, by kind of embedding that knows nothing.
        n_rungs: R.

    Raises:
        InputError: no metric, or metrics of different runs.
    """
    if not orders or len(orders) != len(leads) or len({len(o.of_runs) for o in orders}) != 1:
        raise InputError(f"Expected the orders and leads of at least one metric, all of the same runs, got {[len(o.of_runs) for o in orders]} runs.")
    taus: list[float] = np.median([o.of_runs for o in orders], axis=0).tolist()
    return Rise(_over_runs(taus, n_rungs), float(np.mean([all(found.clear for found in of.values()) for of in leads])))


@dataclass(frozen=True)
class Judged:
    """What is said of one metric on one task.

    Attributes:
        word: `orders`, `reversed`, `blind`, `undecided`, or `no ladder`.
        rewards: of "constant", "noise", "permuted" those that trained encoders are not clearly ahead of; () on `no ladder`.
        ladders: names of the ladders that it was judged on.
    """

    word: str
    rewards: tuple[str, ...]
    ladders: tuple[str, ...]


def judge_metric(orders: Mapping[str, Order], rises: Mapping[str, Rise], leads: Mapping[str, Mapping[str, Lead]]) -> Judged:
    """One word for a metric from all its ladders.

    Only ladders that rise count: where hardly any metric sees something there may be nothing, and none can be blamed. On those, in this order:

    - `blind`, if on any of them trained encoders are not clearly ahead of a constant, of noise or of permuted labels: such a value says nothing;
    - `reversed`, if any ladder is; `blind`, if any is; `orders`, if all are; otherwise `undecided`.

    Args:
        orders: of this metric, by ladder.
        rises: of all metrics together, by ladder.
        leads: of this metric, by ladder and kind of embedding that knows nothing.
    """
    rising = tuple(name for name in orders if rises[name].rises)
    if not rising:
        return Judged(NO_LADDER, (), ())
    kinds = dict.fromkeys(kind for name in rising for kind in leads[name])
    rewards = tuple(kind for kind in kinds if not all(leads[name][kind].clear for name in rising if kind in leads[name]))
    words = {orders[name].word for name in rising}
    if rewards or (BLIND in words and REVERSED not in words):
        return Judged(BLIND, rewards, rising)
    if REVERSED in words:
        return Judged(REVERSED, rewards, rising)
    return Judged(ORDERS if words == {ORDERS} else UNDECIDED, rewards, rising)


@dataclass(frozen=True, eq=False)
class Agreement:
    """How alike metrics rank the same encoders.

    Attributes:
        metrics: m names.
        n: encoders.
        kendall: (m, m) tau-b, better counted as more.
        spearman: (m, m) likewise.
    """

    metrics: tuple[str, ...]
    n: int
    kendall: Floats
    spearman: Floats


def agreement(values: Mapping[str, Floats]) -> Agreement:
    """Rank agreement of every two metrics over the same encoders; a metric that is constant over them agrees with none, nor with itself.

    Args:
        values: by metric (n,) finite, in one order of encoders.

    Raises:
        InputError: no metric, fewer than 2 encoders, different numbers of them, NaN or infinity.
    """
    names = tuple(values)
    if not names:
        raise InputError("Expected the values of at least one metric, got none.")
    oriented = [np.asarray(values[name], dtype=np.float64) * orientation(name) for name in names]
    kendall, ranks = (np.array([[of(a, b) for b in oriented] for a in oriented]) for of in (tau_b, spearman))
    return Agreement(names, len(oriented[0]), kendall, ranks)


@dataclass(frozen=True, eq=False)
class PermutedLabels:
    """Labels that say nothing, as the design allows.

    Attributes:
        codes: (n,) class codes, -1 where an image takes no part, as before.
        within: "units" where labels changed places within units, "folds" where whole units changed labels, "" where neither is possible.
        changeable: share of the images that take part whose label could have become another.
    """

    codes: Ints
    within: str
    changeable: float


def permuted_labels(codes: Ints, blocks: Ints, units: Sequence[str] | NDArray[np.str_], folds: Ints, seed: Sequence[int]) -> PermutedLabels:
    """Labels drawn anew among the blocks of each unit; where no unit holds two labels, among the units of each fold.

    Args:
        codes: (n,) class codes, -1 where an image takes no part.
        blocks: (n,) what shares a label, as the sites of a well do; no block lies in two units.
        units: n unit names.
        folds: (n,) test folds, -1 = always training; no unit lies in two.
        seed: of the draw.

    Raises:
        InputError: no image, or other lengths.
    """
    codes, blocks, folds = (np.asarray(x, dtype=np.int64) for x in (codes, blocks, folds))
    unit = index_units(units, len(codes)).codes
    if blocks.shape != codes.shape or folds.shape != codes.shape:
        raise InputError(f"Expected a block and a fold for each of {len(codes)} images, got shapes {blocks.shape} and {folds.shape}.")
    taking_part = codes >= 0
    # an image that takes no part has no label to give
    stratum, block = np.where(taking_part, unit, -1), np.where(taking_part, blocks, -1)
    within = "units"
    if not _several(stratum, codes)[taking_part].any():
        stratum, block, within = np.where(taking_part, folds - folds.min(), -1), stratum, "folds"
    changeable = _several(stratum, codes)[taking_part]
    if not changeable.any():
        return PermutedLabels(codes.copy(), "", 0.0)
    rng = np.random.default_rng(list(seed))
    drawn = codes.copy()
    for s in np.unique(stratum[taking_part]).tolist():
        names, first, member_of = np.unique(block[stratum == s], return_index=True, return_inverse=True)
        drawn[stratum == s] = codes[stratum == s][first][rng.permutation(len(names))][member_of]
    return PermutedLabels(drawn, within, float(changeable.mean()))


def _several(stratum: Ints, codes: Ints) -> NDArray[np.bool_]:
    """(n,) whether an image's stratum holds two labels."""
    pairs = np.unique(np.stack([stratum, codes], axis=1), axis=0)
    names, counts = np.unique(pairs[:, 0], return_counts=True)
    return np.asarray(counts[np.searchsorted(names, stratum)] > 1)


#: embeddings that know nothing, in words
_NOTHING = {CONSTANT: "a constant", NOISE: "noise", PERMUTED: "permuted labels"}


def summary(judged: Mapping[str, Mapping[str, Judged]]) -> str:
    """Which metrics are blind, in words.

    Args:
        judged: by metric and task.
    """
    tasks = list(dict.fromkeys(task for of_metric in judged.values() for task in of_metric))
    known = [t for t in tasks if any(of_metric[t].word != NO_LADDER for of_metric in judged.values() if t in of_metric)]
    if not known:
        return "No ladder rises on any task, so nothing can be said of any metric here."
    words = {metric: {t: j for t, j in of_metric.items() if j.word != NO_LADDER} for metric, of_metric in judged.items()}
    words = {metric: found for metric, found in words.items() if found}
    blind = {metric: [t for t, j in found.items() if j.word == BLIND] for metric, found in words.items()}
    everywhere = [f"`{m}` ({_why(found.values())})" for m, found in words.items() if len(blind[m]) == len(found)]
    sometimes = [
        f"`{m}` on {_ticked(blind[m])} ({_why([found[t] for t in blind[m]])})" for m, found in words.items() if 0 < len(blind[m]) < len(found)
    ]
    turned = [f"`{m}` on {_ticked(where)}" for m, found in words.items() if (where := [t for t, j in found.items() if j.word == REVERSED])]
    orders = [f"`{m}`" for m, found in words.items() if {j.word for j in found.values()} == {ORDERS}]
    parts = [
        f"Blind here: {'; '.join(everywhere)}." if everywhere else "No metric is blind on every task.",
        f"Blind on some tasks: {'; '.join(sometimes)}." if sometimes else "",
        f"Falls where the others rise: {', '.join(turned)}." if turned else "",
        f"Can tell wherever a ladder rises: {', '.join(orders)}." if orders else "",
        f"No ladder rises on {_ticked([t for t in tasks if t not in known])}: no metric is judged there." if len(known) < len(tasks) else "",
    ]
    return " ".join(part for part in parts if part)


def batch_summary(orders: Mapping[str, Sequence[Order]]) -> str:
    """Which scores of batch and place notice a batch, in words; "" where none was added.

    Args:
        orders: by metric, on each task, as the batch that was added becomes less.
    """
    if not orders:
        return ""
    follow = [name for name, of in orders.items() if {one.word for one in of} == {ORDERS}]
    others = [name for name in orders if name not in follow]
    said = [f"get better as it becomes less, on every task: {_ticked(follow)}"] * bool(follow) + [f"do not: {_ticked(others)}"] * bool(others)
    return f"A batch was added to trained encoders: these {'; these '.join(said)}."


def _why(judged: Iterable[Judged]) -> str:
    """ "scores a constant and noise as high, does not follow training"."""
    found = [j for j in judged if j.word == BLIND]
    kinds = [name for kind, name in _NOTHING.items() if any(kind in j.rewards for j in found)]
    parts = [f"scores {' and '.join([', '.join(kinds[:-1])] * (len(kinds) > 1) + kinds[-1:])} as high"] if kinds else []
    return ", ".join(parts + ["does not follow training"] * any(not j.rewards for j in found))


def _ticked(names: Sequence[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)

"""Can the verdicts be trusted? Error rates, coverage and power on simulated screens whose truth is known, and faults that must be caught.

    python benchmarks/calibration.py                      # the full run: docs/calibration.md
    python benchmarks/calibration.py --reduced            # a tenth of the screens, wider bounds by their own counting error
    python benchmarks/calibration.py --quick              # under a minute, without retrieval
    python benchmarks/calibration.py --only coverage      # one part; repeat for several
    python benchmarks/calibration.py --break twin         # with one fault put in: must exit 1

Each line is one claim: the figure, its bound, whether it holds. A rate fails when it is certainly above its bound (Clopper-Pearson, 95 %
one-sided) or, where five errors are expected, when its estimate is above twice the bound; a coverage fails when it is certainly outside its
bounds (Clopper-Pearson, 95 % two-sided; 99.9 % of a line of fewer than 1,000 repeats). What a line of few repeats cannot show, the designs of a kind
together do: they share no screen, and are held against the bounds at 95 % as one line.
Exit code 1 if any line fails. The same seed gives the same lines.

Faults, for `--break`, are put into the code that judges real encoders, not into this script (`benchmarks/faults.py`):

    unit    what is left out is an image, not a plate
    split   probes are fitted to the test images too
    twin    the encoder is compared with the mean of its twins, not with one more draw
    ties    candidates that tie are ranked positives first
    null    labels and membership are permuted across plates
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, product

import numpy as np
from cross_fitted import Compared, bits_compared, decoding_covered, expression_compared, probed, probes_compared
from faults import FAULTS, put_in
from scipy import stats
from screens import KINDS, Design, Kind, Screen

from pipelines.metrics import retrieval
from pipelines.metrics.baseline import InformationSettings
from pipelines.metrics.ceiling import share_of_gap
from pipelines.metrics.contrasts import contrast
from pipelines.metrics.groups import Groups, group_scores
from pipelines.metrics.information import beyond_controls, judge_information
from pipelines.metrics.jackknife import difference, estimate, interval, why_not_assessable
from pipelines.metrics.pairs import PairRule, pair_scores
from pipelines.metrics.statistic import Statistic
from pipelines.metrics.verdicts import MARGIN, Verdict, judge
from pipelines.parallel import in_parallel

TWINS = 10
SIZES = (10, 20, 50, 120)
NOMINAL = 0.025
#: standard deviation of the strength of a draw, 0.03 of accuracy: as that of untrained networks
SEEDS_SD = 0.12
QUIET_SD = 0.01
#: errors that are expected at the bound where an estimate is judged beside its lower bound
ENOUGH = 5
#: assessable screens below which a coverage is no estimate
FEWEST_SCREENS = 20
#: kinds of statistics that are also asked where half of the units lack a class
WITH_RARE_CLASSES = ("balanced accuracy", "balanced accuracy of five classes", "macro F1", "AUROC", "retrieval mAP")
#: repeats from which on a share of intervals is held against its bounds by itself
FULL_LINE = 1000
#: what Clopper-Pearson leaves out on each side: of one line, and of one of some hundred
ONE_LINE, ONE_OF_MANY = 0.025, 0.0005
#: units from which on a design is counted with the others of its kind; with fewer, intervals may be wider
TOGETHER = 20
#: between the seeds of two designs: more than there are repeats
APART = 10_000
#: bits per image that the planted signal adds to the controls
PLANTED_BITS = 0.1


@dataclass(frozen=True)
class Plan:
    """How much is run."""

    screens: int
    repeats: int
    probes: int
    informations: int
    splits: int
    nulls: int
    powers: int
    workers: int
    quick: bool = False
    about: str = ""

    @property
    def kinds(self) -> dict[str, Kind]:
        """Kinds of statistics; of a quick run without retrieval, which takes the square of the images."""
        return {name: kind for name, kind in KINDS.items() if not (self.quick and kind.row is Screen.vectors)}


@dataclass(frozen=True)
class Line:
    """One claim and what was found."""

    part: str
    claim: str
    figure: str
    bound: str
    holds: bool


def rate(part: str, claim: str, hits: Sequence[bool], bound: float) -> Line:
    """A rate of errors that must not be above its bound."""
    n, k = len(hits), int(np.sum(hits))
    low = float(stats.beta.ppf(0.05, k, n - k + 1)) if k else 0.0
    share = k / n
    # one error in ten screens is no estimate
    counted = n * bound >= ENOUGH
    stated = f"lower bound {low:.3f} <= {bound:g}" + (f", rate <= {2 * bound:g}" if counted else "")
    return Line(part, claim, f"{share:.3f} ({k} of {n})", stated, low <= bound and (share <= 2 * bound or not counted))


def coverage(part: str, claim: str, hits: Sequence[bool], low: float, high: float = 1.0, tail: float | None = None) -> Line:
    """A share of intervals that hold the truth, with what it may be given the number counted (Clopper-Pearson, two-sided).

    At 95 % of a full line. A smaller one is one of some hundred, of which five would fail by luck: it is held against 99.9 %, as p-values are.
    """
    n, k = len(hits), int(np.sum(hits))
    tail = tail or (ONE_LINE if n >= FULL_LINE else ONE_OF_MANY)
    least = float(stats.beta.ppf(tail, k, n - k + 1)) if k else 0.0
    most = float(stats.beta.ppf(1 - tail, k + 1, n - k)) if k < n else 1.0
    return Line(part, claim, f"{k / n:.3f} (of {n})", f"{low:g} to {high:g}, counted {least:.3f} to {most:.3f}", least <= high and most >= low)


def together(part: str, kind: str, designs: Sequence[Sequence[bool]], high: float = 0.97) -> Iterator[Line]:
    """Coverage of all designs of one kind as one line, at 95 % whatever the size of the run.

    150 intervals that all hold are no evidence against .97 at 99.9 %; of three designs together they are. Repeats are independent, because no
    two designs share a screen (`seeds_of`, and the number of units is part of a seed).
    """
    if len(designs) > 1 and any(designs):
        yield coverage(part, f"{kind}, {len(designs)} designs together", list(chain(*designs)), 0.93, high, ONE_LINE)


def seeds_of(number: int, repeats: int) -> range:
    """Seeds of the screens of one of several designs; a smaller run has the first screens of a larger one."""
    return range(number * APART, number * APART + repeats)


def uniform(part: str, claim: str, p: Sequence[float], two_sided: bool) -> Line:
    """p-values without an effect: uniform, or where a verdict takes the largest of several, never too small."""
    found = stats.kstest(p, "uniform", alternative="two-sided" if two_sided else "greater")
    small = float(np.mean(np.asarray(p) <= 0.05))
    return Line(part, claim, f"KS p = {found.pvalue:.3f}, share <= .05: {small:.3f} (of {len(p)})", "KS p > 0.001", bool(found.pvalue > 0.001))


# ---------------------------------------------------------------------------------------------- rows of a screen


def screen_of(design: Design, seed: int) -> tuple[Screen, np.random.Generator]:
    """The screen of a seed and what its rows are drawn with."""
    rng = np.random.default_rng([seed, design.units, design.classes])
    return Screen.draw(design, rng), rng


def rows(kind: Kind, design: Design, strengths: Sequence[float], seed: int) -> list[Statistic]:
    """Statistics of rows of these strengths on one screen."""
    screen, rng = screen_of(design, seed)
    return [kind.score(screen, kind.row(screen, strength, rng)) for strength in strengths]


def assessable(statistics: Sequence[Statistic]) -> bool:
    return not any(why_not_assessable(statistic) for statistic in statistics)


# ---------------------------------------------------------------------------------------------- A/A


def twin_verdict(kind: Kind, gain: float, quiet: bool, seed: int) -> Verdict | None:
    """An encoder whose truth is `gain` above that of ten twins, drawn alike; None where the screen is not assessable.

    Where a screen is quiet (many large units, little interaction, twins that hardly differ) `equivalent` is within reach.
    """
    rng = np.random.default_rng([seed, 1])
    if quiet:
        design = replace(kind.quiet, units=int(rng.choice(kind.quiet_units)), classes=kind.classes)
    else:
        design = Design(int(rng.choice([12, 20, 50])), kind.classes, kind.images)
    base = design.strength(0.7 if quiet else kind.level + 0.05)
    # seeds differ in strength, the encoder as they do
    spread = (QUIET_SD if quiet else SEEDS_SD) * rng.normal(size=TWINS + 1)
    lifted = kind.raised(design, base, gain) if gain else base
    found = rows(kind, design, [lifted + spread[0] * (not quiet), *(base + spread[1:])], seed)
    if not assessable(found):
        return None
    return judge("encoder", "task", "score", found[0], twins={"fresh": found[1:]})


def a_a(plan: Plan) -> Iterator[Line]:
    """Verdicts between an encoder and twins that are drawn alike, and `equivalent` where there is a gap of twice the margin."""
    for name, kind in plan.kinds.items():

        def verdicts(gain: float, quiet: bool, kind: Kind = kind) -> list[Verdict]:
            found = in_parallel(partial(twin_verdict, kind, gain, quiet), range(plan.screens), plan.workers)
            return [verdict for verdict in found if verdict is not None]

        yield rate("a/a", f"{name}: false `beats`", [v.word == "beats" for v in verdicts(0.0, False)], NOMINAL)
        apart = verdicts(2 * MARGIN, True)
        yield rate("a/a", f"{name}: false `equivalent` at a true gap of twice the margin", [v.word == "equivalent" for v in apart], NOMINAL)
        if kind.truth is None:
            gap = float(np.mean([v.overall.gain for v in apart]))
            yield Line("a/a", f"{name}: the gap of these screens", f"{gap:.3f}", f"at least {2 * MARGIN:g}", gap >= 2 * MARGIN)
        said = float(np.mean([v.word == "equivalent" for v in verdicts(0.0, True)]))
        yield Line("a/a", f"{name}: `equivalent` on the same screens without a gap", f"{said:.3f}", "at least 0.5", said >= 0.5)


# ---------------------------------------------------------------------------------------------- coverage


def paired(kind: Kind, design: Design, gap: float, seed: int) -> tuple[float, float, float] | None:
    """A paired difference and its 95 % interval; None where it is not assessable."""
    base = design.strength(kind.level)
    found = rows(kind, design, [kind.raised(design, base, gap) if gap else base, base], seed)
    if not assessable(found):
        return None
    e = estimate(difference(*found))
    return e.value, e.low(), e.high()


def covered(kind: Kind, design: Design, gap: float, seeds: range, workers: int) -> list[bool]:
    """Whether each interval holds the truth; without a formula for it, the mean of all differences."""
    found = [one for one in in_parallel(partial(paired, kind, design, gap), seeds, workers) if one is not None]
    base = design.strength(kind.level)
    truth = kind.gap(design, base, kind.raised(design, base, gap) if gap else base)
    if np.isnan(truth) and found:
        truth = float(np.mean([value for value, _, _ in found]))
    return [low <= truth <= high for _, low, high in found]


def cell(claim: str, hits: Sequence[bool], design: Design, seeds: range, high: float) -> Line:
    """Coverage of one design, or that there are too few screens to tell.

    Fewer than half as many assessable screens as carry an interval by a count of their own is a fault.
    """
    if len(hits) >= FEWEST_SCREENS and 2 * len(hits) >= len(seeds):
        return coverage("coverage", claim, hits, 0.93, high)
    carried = sum(screen_of(design, seed)[0].carries_an_interval for seed in seeds)
    enough = 2 * len(hits) >= carried
    if len(hits) >= FEWEST_SCREENS and enough:
        return coverage("coverage", claim, hits, 0.93, high)
    found, asked = f"not assessable: {len(hits)} of {len(seeds)} screens are", f"{FEWEST_SCREENS}; of {carried} with units enough at least half"
    return Line("coverage", claim, found, asked, enough)


def coverage_of_intervals(plan: Plan) -> Iterator[Line]:
    """Paired differences, the gain over the best of several controls, and the share of the gap."""
    for name, kind in plan.kinds.items():
        counted: list[list[bool]] = []
        for units in SIZES:
            for number, (absent, gap) in enumerate(product((0.0, 0.5) if name in WITH_RARE_CLASSES else (0.0,), (0.0, 0.1))):
                design = Design(units, kind.classes, kind.images, absent=absent)
                rare = ", a class absent from half of the units" if absent else ""
                claim = f"{name}, {units} units{rare}, true difference {gap:g}"
                if plan.about not in claim:
                    continue
                # one of these screens takes half a second
                long = kind.row is Screen.vectors and units == SIZES[-1] and plan.repeats < FULL_LINE
                seeds = seeds_of(number, plan.repeats // 3 if long else plan.repeats)
                hits = covered(kind, design, gap, seeds, plan.workers)
                yield cell(claim, hits, design, seeds, 0.98 if units == SIZES[0] else 0.97)
                counted += [hits] if units >= TOGETHER else []
        yield from together("coverage", name, counted)
    counted = []
    for number, m in enumerate((1, 5, 12)):
        for units in SIZES:
            claim = f"gain over the best of {m} controls, {units} units"
            if plan.about not in claim:
                continue
            seeds = seeds_of(number, plan.repeats)
            hits = [hit for hit in in_parallel(partial(best_covered, m, units), seeds, plan.workers) if hit is not None]
            yield cell(claim, hits, Design(units), seeds, 1.0)
            counted += [hits] if units >= TOGETHER else []
    yield from together("coverage", "gain over the best of several controls", counted, 1.0)
    counted = []
    for units in SIZES:
        claim = f"share of the gap, where the ceiling is above the floor (Fieller), {units} units"
        if plan.about not in claim:
            continue
        hits = [hit for hit in in_parallel(partial(share_covered, units), range(plan.repeats), plan.workers) if hit is not None]
        yield open_gate(claim, hits, plan.repeats)
        counted += [hits] if units >= TOGETHER else []
    yield from together("coverage", "share of the gap", counted, 1.0)


def best_covered(m: int, units: int, seed: int) -> bool | None:
    """Whether the interval of the gain over the best of m controls that tie holds the truth."""
    kind, design = KINDS["balanced accuracy"], Design(units)
    base = design.strength(0.65)
    high = kind.raised(design, base, 0.05)
    found = rows(kind, design, [high, *[base] * m], seed)
    if not assessable(found):
        return None
    overall = judge("encoder", "task", "score", found[0], controls={f"c{i}": c for i, c in enumerate(found[1:])}).overall
    low, high_bound = overall.interval
    return None if low is None or high_bound is None else low <= kind.gap(design, base, high) <= high_bound


def share_covered(units: int, seed: int) -> bool | None:
    """Whether Fieller's interval of a share of 0.5 holds it; None where the gate is shut."""
    kind, design = KINDS["balanced accuracy"], Design(units)
    floor = design.strength(0.6)
    middle, ceiling = kind.raised(design, floor, 0.1), kind.raised(design, floor, 0.2)
    found = rows(kind, design, [middle, floor, ceiling], seed)
    if not assessable(found):
        return None
    share = share_of_gap(found[0], found[1], found[2], "floor", "ceiling")
    return None if share.low is None or share.high is None else share.low <= 0.5 <= share.high


def open_gate(claim: str, hits: Sequence[bool], repeats: int) -> Line:
    """Coverage where the gate is open: with a ceiling .2 above the floor, on more than half of the screens of ten units and on most larger ones."""
    shown, asked = f"open on {len(hits)} of {repeats}", "open on at least a third"
    if 3 * len(hits) < repeats:
        return Line("coverage", claim, shown, asked, False)
    found = coverage("coverage", claim, hits, 0.93)
    return replace(found, figure=f"{found.figure}, {shown}", bound=f"{found.bound}, {asked}")


# ---------------------------------------------------------------------------------------------- probes


def probe_words(folds: int, seed: int) -> tuple[str, bool]:
    """The word on an encoder of noise against twins of noise, and whether the interval of its own score holds chance.

    Half of the units are tested (one fold), or each half by the other (two folds).
    """
    rng = np.random.default_rng([seed, 2])
    units = np.repeat([f"u{number:02d}" for number in range(24)], 14)
    labels = rng.integers(0, 2, len(units))
    tested = np.where(np.isin(units, np.unique(units)[:12]), 0, 1 if folds == 2 else -1)
    found = [probed(rng.normal(size=(len(units), 24)), labels, units, tested) for _ in range(TWINS + 1)]
    low, high = interval(found[0]) or (np.nan, np.nan)
    return judge("noise", "task", "balanced accuracy", found[0], twins={"noise": found[1:]}).word, low <= 0.5 <= high


def _by_folds(said: str, compare: Callable[[int, float, int], Compared | None], signal: float) -> list[CrossFitted]:
    """One fold tested of two, both of two, five of five."""
    return [(f"{said}, {folds} of {max(folds, 2)} folds tested", partial(compare, folds, signal), folds, True) for folds in (1, 2, 5)]


def _by_split(train: int, test: int) -> CrossFitted:
    said = f"gene expression, a signal, {train} units train and {test} are tested"
    return said, partial(expression_compared, 1, 1.0, split=(train, test)), 1, False


#: what is said of a design, what compares two rows in it, the folds that are tested, and whether its p-values are looked at
CrossFitted = tuple[str, Callable[[int], Compared | None], int, bool]
CROSS_FITTED: dict[str, list[CrossFitted]] = {
    "probes": [
        *_by_folds("two rows of noise", probes_compared, 0.0),
        *_by_folds("two rows of a signal", probes_compared, 0.5),
    ],
    "bits beyond a control": [
        *_by_folds("bits beyond a control, little to know", bits_compared, 0.2),
        *_by_folds("bits beyond a control, much to know", bits_compared, 0.8),
    ],
    "gene expression": [
        *_by_folds("gene expression, noise", expression_compared, 0.0),
        *_by_folds("gene expression, a signal", expression_compared, 1.0),
        *(_by_split(train, test) for train, test in ((6, 12), (12, 40), (40, 12), (40, 40))),
    ],
}


def cross_fitting(plan: Plan) -> Iterator[Line]:
    """Intervals and p-values of what is trained: what a unit does in training is not left out with it.

    A factor stands for it.
    """
    for kind, designs in CROSS_FITTED.items():
        counted: list[list[bool]] = []
        for number, (said, compare, folds, with_p) in enumerate(designs):
            bits = kind == "bits beyond a control"  # seconds each
            if plan.about not in said or (plan.quick and (bits or folds == 2 or not with_p)):
                continue
            repeats = plan.nulls if not bits else plan.splits if folds == 1 else plan.informations
            found = [one for one in in_parallel(compare, seeds_of(number, repeats), plan.workers) if one is not None]
            counted.append([one.holds for one in found])
            yield coverage("cross-fitting", said, counted[-1], 0.93, 0.97)
            if with_p:
                yield uniform("cross-fitting", f"{said}: p", [one.p for one in found], False)
        yield from together("cross-fitting", kind, counted)
    claim = "a batch decoded from noise: chance"
    if plan.about in claim:
        hits = [hit for hit in in_parallel(decoding_covered, range(plan.nulls), plan.workers) if hit is not None]
        yield coverage("cross-fitting", claim, hits, 0.93, 0.97)


def probes(plan: Plan) -> Iterator[Line]:
    """An encoder that is noise, scored by the probe, against noise."""
    for folds, said in ((1, "one fold"), (2, "two folds that train each other")):
        found = list(in_parallel(partial(probe_words, folds), range(plan.probes), plan.workers))
        yield rate("probes", f"features of noise, {said}: false `beats` through the probe", [word == "beats" for word, _ in found], NOMINAL)
        yield coverage("probes", f"features of noise, {said}: chance", [holds for _, holds in found], 0.93, 0.97)


# ---------------------------------------------------------------------------------------------- beyond controls


#: what the two controls that matter do to the logit, and its variance through them
CONTROLS_LOGIT = (1.2, -0.8)
CONTROLS_VARIANCE = float(np.sum(np.square(CONTROLS_LOGIT)))


def planted_bits(size: float) -> float:
    """I(label; hidden | controls) in bits, the logit being N(0, CONTROLS_VARIANCE) + size x N(0, 1): by Gauss-Hermite quadrature."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(101)
    weights = weights / weights.sum()
    known = 1 / (1 + np.exp(-(np.sqrt(CONTROLS_VARIANCE) * nodes[:, None] + size * nodes[None, :])))
    return float(weights @ stats.bernoulli.entropy(known @ weights) - weights @ stats.bernoulli.entropy(known) @ weights) / float(np.log(2))


def planted_size() -> float:
    """How much the hidden number adds to the logit for PLANTED_BITS."""
    from scipy.optimize import brentq

    return float(brentq(lambda size: planted_bits(size) - PLANTED_BITS, 0.1, 3.0))


def counted_bits(size: float, n: int = 1_000_000) -> tuple[float, float]:
    """The same from labels that are drawn, with its standard error: what they lose without the hidden number less what they lose with it.

    Probabilities without it are means over drawn hidden numbers, and so this and the quadrature have nothing in common.
    """
    rng = np.random.default_rng(0)
    known, hidden = np.sqrt(CONTROLS_VARIANCE) * rng.normal(size=n), size * rng.normal(size=n)
    sign = np.where(rng.random(n) < 1 / (1 + np.exp(-known - hidden)), 1.0, -1.0)
    grid = np.linspace(known.min(), known.max(), 401)
    with_it = np.interp(known, grid, [np.mean(1 / (1 + np.exp(-at - hidden[:20_000]))) for at in grid])
    lost = -np.log2(np.where(sign > 0, with_it, 1 - with_it)) - np.logaddexp(0.0, -sign * (known + hidden)) / np.log(2)
    return float(lost.mean()), float(lost.std() / np.sqrt(n))


def information_verdict(what: str, size: float, seed: int) -> Verdict:
    """On bits beyond the controls for an encoder that re-encodes them, that is noise, or that knows PLANTED_BITS more.

    Noise and a copy of the two controls that matter stand beside controls that are many for the images: these know the training labels by heart.
    """
    rng = np.random.default_rng([seed, 3])
    crowded = what in ("noise", "copies")
    n, b = (300, 24) if crowded else (1000, 8)
    units = np.array([f"u{code:02d}" for code in rng.integers(0, 20, n)])
    controls, hidden = rng.normal(size=(n, b)), rng.normal(size=(n, 1))
    logit = (3.0 if crowded else 1.0) * (controls[:, :2] @ CONTROLS_LOGIT)
    logit += {"squares": 1.0 * (controls[:, 0] ** 2 - 1), "networks": 1.0 * controls[:, 0] * controls[:, 1]}.get(what, 0.0)
    logit += size * hidden[:, 0]
    labels = (rng.random(n) < 1 / (1 + np.exp(-logit))).astype(np.int64)
    squares = np.hstack([controls, controls**2])

    def network(width: int) -> np.ndarray:
        return np.asarray(np.tanh(controls @ rng.normal(size=(b, width)) / np.sqrt(b) + rng.normal(size=width)))

    encoder = {
        "linear": controls @ rng.normal(size=(b, 32)),
        "squares": squares @ rng.normal(size=(2 * b, 32)),
        "networks": network(64),
        "noise": rng.normal(size=(n, 64)),
        "copies": controls[:, :2] + 0.001 * rng.normal(size=(n, 2)),
        "signal": np.hstack([controls, hidden]) @ rng.normal(size=(b + 1, 32)),
    }[what]
    twins = [network(encoder.shape[1]) for _ in range(5)]
    folds = np.array([int(name[1:]) % 2 for name in units])
    settings = InformationSettings(random_networks=5)
    found = beyond_controls(controls, encoder, {"fresh": twins}, labels, folds, units, 2, settings)
    return judge_information("encoder", "task", found)


def beyond(plan: Plan) -> Iterator[Line]:
    """Encoders that only re-encode the controls or know nothing, and one that knows more."""
    for what, claim in (
        ("linear", "encoders that re-encode the controls linearly"),
        ("squares", "encoders that re-encode the controls by squares"),
        ("networks", "encoders that re-encode the controls by random networks"),
        ("noise", "noise beside controls that are many"),
        ("copies", "copies of the two that matter of many controls"),
    ):
        found = list(in_parallel(partial(information_verdict, what, 0.0), range(plan.informations), plan.workers))
        yield rate("beyond", f"{claim}: `beats`", [verdict.word == "beats" for verdict in found], NOMINAL)
        p = [verdict.overall.p for verdict in found if verdict.overall.p is not None]
        yield uniform("beyond", f"{claim}: p (the largest of several)", p, False)
    size = planted_size()
    bits, error = counted_bits(size)
    holds = abs(bits - PLANTED_BITS) <= 4 * error
    yield Line("beyond", "bits that the planted signal holds", f"{bits:.4f}", f"{PLANTED_BITS:g} +- {4 * error:.4f}", holds)
    found = list(in_parallel(partial(information_verdict, "signal", size), range(plan.informations), plan.workers))
    hits = [verdict.word == "beats" for verdict in found]
    yield coverage("beyond", f"a true signal of {PLANTED_BITS:g} bits at 1,000 images: found", hits, 0.8)


# ---------------------------------------------------------------------------------------------- p-values


def paired_p(kind: Kind, seed: int) -> float | None:
    """Of two rows that are equally good."""
    design = Design(50, kind.classes, kind.images)
    found = rows(kind, design, [design.strength(kind.level)] * 2, seed)
    return contrast(found[0], found[1], "control").p if assessable(found) else None


def twin_p(seed: int) -> float | None:
    """Of a twin against its like."""
    verdict = twin_verdict(KINDS["balanced accuracy"], 0.0, False, seed)
    return verdict.overall.p if verdict is not None else None


def wells(rng: np.random.Generator) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Six wells of one compound and ten of controls on each of two plates that differ; the compound has more wells on the first."""
    plate = np.repeat(["p0", "p1"], [14, 12])
    compound = np.array(["drug" if number in (0, 1, 2, 3, 14, 15) else "DMSO" for number in range(26)])
    reference = np.array([str(number) if name == "DMSO" else "-1" for number, name in enumerate(compound)])
    features = rng.normal(size=(26, 8)) + 2.0 * (plate == "p1")[:, None]
    return features, {"plate": plate, "compound": compound, "reference": reference}


def group_p(seed: int) -> float:
    """Of a compound that does nothing."""
    features, columns = wells(np.random.default_rng([seed, 4]))
    rule = PairRule(pos_sameby=("compound", "reference"), neg_diffby=("compound", "reference"))
    found = group_scores(features, columns, rule, Groups(("compound",), ("plate",)), distance="euclidean", n_permutations=199, seed=seed)
    return float(found.p[0])


def label_p(seed: int) -> float:
    """Of labels that say nothing beyond the plate they are on."""
    rng = np.random.default_rng([seed, 5])
    units = np.repeat([f"p{number}" for number in range(6)], 12)
    # plates of two kinds: most images of a kind carry the same label, and plates of a kind look alike
    kind = np.repeat(np.arange(6) % 2, 12)
    labels = np.where(rng.random(len(units)) < 0.75, kind, 1 - kind)
    features = rng.normal(size=(len(units), 6)) + 2.0 * kind[:, None]
    p = retrieval.permutation_null(features, labels, units, 2, n_permutations=99, seed=seed).p
    return 1.0 if p is None else p


def count_score(seed: int) -> float:
    """Mean normalised AP of random counts, of which many tie, as a profile of one number."""
    rng = np.random.default_rng([seed, 6])
    counts = rng.poisson(4, size=(60, 1)).astype(np.float64)
    compound = np.repeat([f"c{number}" for number in range(15)], 4)
    scored = pair_scores(counts, {"compound": compound}, PairRule(pos_sameby=("compound",), neg_diffby=("compound",)), "euclidean")
    return float(scored.normalised.mean())


def p_values(plan: Plan) -> Iterator[Line]:
    """Every test that enters a verdict, where there is nothing to find; and chance where everything ties."""
    tests: list[tuple[str, Callable[[int], float | None], bool]] = [
        *((f"paired difference of two equal rows, {name}", partial(paired_p, kind), True) for name, kind in plan.kinds.items()),
        ("a twin against its like (the larger of two p-values)", twin_p, False),
        ("a compound without effect, plates differ (permutation within plates)", group_p, True),
        ("labels that follow the kind of plate (permutation within plates)", label_p, True),
    ]
    for claim, test, two_sided in tests:
        p = [found for found in in_parallel(test, range(plan.nulls), plan.workers) if found is not None]
        yield uniform("p-values", claim, p, two_sided)
    scores = np.array(list(in_parallel(count_score, range(plan.nulls), plan.workers)))
    error = float(scores.std(ddof=1) / np.sqrt(len(scores)))
    holds = bool(abs(scores.mean()) <= 3 * error)
    yield Line("p-values", "random counts that tie: mean normalised AP", f"{scores.mean():+.4f}", f"0 +- {3 * error:.4f}", holds)


# ---------------------------------------------------------------------------------------------- power

EFFECTS = (0.0, 0.05, 0.1, 0.15, 0.2)
#: share of screens of the most units on which the largest gain must be found
FOUND = 0.95


def power(plan: Plan) -> Iterator[Line]:
    """How often an encoder with a true gain beats ten twins and five controls, and how many units that takes.

    A table. Claimed of it: no gain is found at most as often as an error may be, the largest is found in the most units, and more units find more.
    """
    for gain in EFFECTS:
        words = [list(in_parallel(partial(power_word, gain, units), range(plan.powers), plan.workers)) for units in SIZES]
        beats = [[word == "beats" for word in each] for each in words]
        found = [float(np.mean(each)) for each in beats]
        figure = ", ".join(f"{units}: {share:.2f}" for units, share in zip(SIZES, found, strict=True))
        claim = f"true gain {gain:g}: share of `beats` by number of units"
        if not gain:
            line = rate("power", claim, list(chain(*beats)), NOMINAL)
            yield replace(line, figure=f"{figure}; {line.figure}")
            continue
        bound, holds = "grows with the units up to three standard errors", grows(found, plan.powers)
        if gain == EFFECTS[-1]:
            bound, holds = f"{bound}; {FOUND:g} at {SIZES[-1]} units", holds and found[-1] >= FOUND
        yield Line("power", claim, f"{figure}; 80 % at {_units_for(found, 0.8)}", bound, holds)


def grows(shares: Sequence[float], repeats: int) -> bool:
    """Whether no share is more than three standard errors below the one before, and the last is above the first."""
    found = np.asarray(shares)
    error = np.sqrt((found[:-1] * (1 - found[:-1]) + found[1:] * (1 - found[1:])) / repeats)
    return bool((np.diff(found) >= -3 * error).all() and found[-1] > found[0])


def power_word(gain: float, units: int, seed: int) -> str:
    """The word on an encoder with a true gain over twins and controls."""
    kind, design = KINDS["balanced accuracy"], Design(units=units)
    rng = np.random.default_rng([seed, 7])
    base = design.strength(0.65)
    twins = base + 0.5 * SEEDS_SD * rng.normal(size=TWINS)
    found = rows(kind, design, [kind.raised(design, base, gain), *twins, *[base] * 5], seed)
    controls = {f"c{i}": c for i, c in enumerate(found[TWINS + 1 :])}
    return judge("encoder", "task", "score", found[0], twins={"fresh": found[1 : TWINS + 1]}, controls=controls).word


def _units_for(shares: Sequence[float], wanted: float) -> str:
    """Where the share first reaches what is wanted, on a line over the log of the number of units."""
    if shares[0] >= wanted:
        return f"{SIZES[0]} units or fewer"
    for (a, low), (b, high) in zip(zip(SIZES, shares, strict=True), zip(SIZES[1:], shares[1:], strict=True), strict=False):
        if high >= wanted:
            return f"about {np.exp(np.log(a) + (wanted - low) / (high - low) * np.log(b / a)):.0f} units"
    return f"more than {SIZES[-1]} units"


PARTS: dict[str, Callable[[Plan], Iterator[Line]]] = {
    "a/a": a_a,
    "coverage": coverage_of_intervals,
    "probes": probes,
    "cross-fitting": cross_fitting,
    "beyond": beyond,
    "p-values": p_values,
    "power": power,
}
#: screens of A/A, repeats of coverage, probes, informations, informations with one split, nulls, powers
FULL, REDUCED, QUICK = (1000, 2000, 1000, 200, 1000, 1000, 400), (200, 150, 200, 24, 60, 300, 60), (60, 25, 40, 2, 0, 40, 20)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--quick", action="store_true")
    size.add_argument("--reduced", action="store_true")
    parser.add_argument("--only", action="append", default=[], choices=PARTS)
    parser.add_argument("--break", dest="fault", choices=FAULTS, default="")
    parser.add_argument("--about", default="", metavar="TEXT", help="of coverage and of cross-fitting, only designs in whose claim this occurs")
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    plan = Plan(*(QUICK if options.quick else REDUCED if options.reduced else FULL), options.workers, options.quick, options.about)
    if options.fault:
        put_in(options.fault)
    failed = 0
    for name in options.only or PARTS:
        start_s = time.perf_counter()
        for line in PARTS[name](plan):
            failed += not line.holds
            print(f"{'holds' if line.holds else 'FAILS'}  {line.part}: {line.claim}: {line.figure}  [{line.bound}]", flush=True)
        print(f"       {name}: {time.perf_counter() - start_s:.0f} s", file=sys.stderr, flush=True)
    if failed:
        print(f"{failed} claims do not hold.")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

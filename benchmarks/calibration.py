"""Can the verdicts be trusted? Error rates, coverage and power on simulated screens whose truth is known, and faults that must be caught.

    python benchmarks/calibration.py                      # the full run: docs/calibration.md
    python benchmarks/calibration.py --reduced            # a tenth of the screens, wider bounds by their own counting error
    python benchmarks/calibration.py --quick              # under a minute, without retrieval
    python benchmarks/calibration.py --only coverage      # one part; repeat for several
    python benchmarks/calibration.py --break twin         # with one fault put in: must exit 1

Each line is one claim: the figure, its bound, whether it holds. A rate fails when it is certainly above its bound (Clopper-Pearson, 95 %
one-sided) or, where five errors are expected, when its estimate is above twice the bound; a coverage fails outside its bounds by more than
its own 95 % counting error.
Exit code 1 if any line fails. The same seed gives the same lines.

Faults, for `--break`:

    unit    what is left out is an image, not a plate
    split   the probe of the encoder is fitted to the test images too
    twin    the encoder is compared with the mean of its twins, not with one more draw
    ties    candidates that tie are ranked positives first
    null    labels are permuted across plates
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from cross_fitted import bits_covered, decoding_covered, expression_covered, probed, probes_covered
from scipy import stats
from screens import KINDS, Design, Kind, Screen

from pipelines.metrics.baseline import InformationSettings
from pipelines.metrics.ceiling import share_of_gap
from pipelines.metrics.contrasts import contrast
from pipelines.metrics.groups import Groups, group_scores
from pipelines.metrics.information import beyond_controls, judge_information
from pipelines.metrics.jackknife import difference, estimate, mean_of, why_not_assessable
from pipelines.metrics.pairs import PairRule, pair_scores
from pipelines.metrics.retrieval import permutation_null
from pipelines.metrics.statistic import Statistic
from pipelines.metrics.verdicts import MARGIN, Verdict, judge
from pipelines.parallel import in_parallel

FAULTS = ("unit", "split", "twin", "ties", "null")
TWINS = 10
SIZES = (10, 20, 50, 120)
NOMINAL = 0.025
#: standard deviation of the strength of a draw, 0.03 of accuracy: as that of untrained networks
SEEDS_SD = 0.12
QUIET_SD = 0.01
#: errors that are expected at the bound where an estimate is judged beside its lower bound
ENOUGH = 5


@dataclass(frozen=True)
class Plan:
    """How much is run, and which fault is put in."""

    screens: int
    repeats: int
    probes: int
    informations: int
    nulls: int
    powers: int
    workers: int
    fault: str = ""
    quick: bool = False
    about: str = ""

    @property
    def kinds(self) -> dict[str, Kind]:
        """Kinds of statistics; of a quick run without retrieval, which takes the square of the images."""
        return {name: kind for name, kind in KINDS.items() if not (self.quick and kind.truth is None)}


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


def coverage(part: str, claim: str, hits: Sequence[bool], low: float, high: float = 1.0) -> Line:
    """A share of intervals that hold the truth."""
    share = float(np.mean(hits))
    error = 1.96 * np.sqrt(max(share * (1 - share), 0.01) / len(hits))
    return Line(part, claim, f"{share:.3f} (of {len(hits)})", f"{low:g} to {high:g}, +- {error:.3f}", bool(low - error <= share <= high + error))


def uniform(part: str, claim: str, p: Sequence[float], two_sided: bool) -> Line:
    """p-values without an effect: uniform, or where a verdict takes the largest of several, never too small."""
    found = stats.kstest(p, "uniform", alternative="two-sided" if two_sided else "greater")
    small = float(np.mean(np.asarray(p) <= 0.05))
    return Line(part, claim, f"KS p = {found.pvalue:.3f}, share <= .05: {small:.3f} (of {len(p)})", "KS p > 0.001", bool(found.pvalue > 0.001))


# ---------------------------------------------------------------------------------------------- rows of a screen


def left_out(screen: Screen, plan: Plan) -> np.ndarray:
    """(n,) names of what the jackknife leaves out."""
    return np.array([f"i{number:06d}" for number in range(len(screen.units))]) if plan.fault == "unit" else screen.units


def rows(kind: Kind, design: Design, strengths: Sequence[float], plan: Plan, seed: int) -> list[Statistic]:
    """Statistics of rows of these strengths on one screen."""
    rng = np.random.default_rng([seed, design.units, design.classes])
    screen = Screen.draw(design, rng)
    names = left_out(screen, plan)
    return [kind.score(screen, kind.row(screen, strength, rng), names) for strength in strengths]


def assessable(statistics: Sequence[Statistic]) -> bool:
    return not any(why_not_assessable(statistic) for statistic in statistics)


# ---------------------------------------------------------------------------------------------- A/A


def twin_verdict(kind: Kind, gain: float, quiet: bool, plan: Plan, seed: int) -> Verdict | None:
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
    found = rows(kind, design, [lifted + spread[0] * (not quiet), *(base + spread[1:])], plan, seed)
    if not assessable(found):
        return None
    subject, twins = found[0], found[1:]
    if plan.fault == "twin":
        return judge("encoder", "task", "score", subject, controls={"mean of the twins": mean_of(twins)})
    return judge("encoder", "task", "score", subject, twins={"fresh": twins})


def a_a(plan: Plan) -> list[Line]:
    """Verdicts between an encoder and twins that are drawn alike, and `equivalent` where there is a gap of twice the margin."""
    lines = []
    for name, kind in plan.kinds.items():

        def verdicts(gain: float, quiet: bool, kind: Kind = kind) -> list[Verdict]:
            found = in_parallel(partial(twin_verdict, kind, gain, quiet, plan), range(plan.screens), plan.workers)
            return [verdict for verdict in found if verdict is not None]

        lines.append(rate("a/a", f"{name}: false `beats`", [v.word == "beats" for v in verdicts(0.0, False)], NOMINAL))
        apart = verdicts(2 * MARGIN, True)
        lines.append(rate("a/a", f"{name}: false `equivalent` at a true gap of twice the margin", [v.word == "equivalent" for v in apart], NOMINAL))
        if kind.truth is None:
            gap = float(np.mean([v.overall.gain for v in apart]))
            lines.append(Line("a/a", f"{name}: the gap of these screens", f"{gap:.3f}", f"at least {2 * MARGIN:g}", gap >= 2 * MARGIN))
        if name != "mean over images":
            said = float(np.mean([v.word == "equivalent" for v in verdicts(0.0, True)]))
            lines.append(Line("a/a", f"{name}: `equivalent` on the same screens without a gap", f"{said:.3f}", "at least 0.5", said >= 0.5))
    return lines


# ---------------------------------------------------------------------------------------------- coverage


def paired(kind: Kind, design: Design, gap: float, plan: Plan, seed: int) -> tuple[float, float, float] | None:
    """A paired difference and its 95 % interval; None where it is not assessable."""
    base = design.strength(kind.level)
    found = rows(kind, design, [kind.raised(design, base, gap) if gap else base, base], plan, seed)
    if not assessable(found):
        return None
    e = estimate(difference(*found))
    return e.value, e.low(), e.high()


def covered(kind: Kind, design: Design, gap: float, plan: Plan) -> list[bool]:
    """Whether each interval holds the truth; without a formula for it, the mean of all differences."""
    found = [one for one in in_parallel(partial(paired, kind, design, gap, plan), range(plan.repeats), plan.workers) if one is not None]
    base = design.strength(kind.level)
    truth = kind.gap(design, base, kind.raised(design, base, gap) if gap else base)
    if np.isnan(truth) and found:
        truth = float(np.mean([value for value, _, _ in found]))
    return [low <= truth <= high for _, low, high in found]


def coverage_of_intervals(plan: Plan) -> list[Line]:
    """Paired differences, the gain over the best of several controls, and the share of the gap."""
    lines = []
    for name, kind in plan.kinds.items():
        for units in SIZES:
            for absent in (0.0, 0.5) if name in ("balanced accuracy", "AUROC", "retrieval mAP") else (0.0,):
                design = Design(units, kind.classes, kind.images, absent=absent)
                for gap in (0.0, 0.1):
                    rare = ", a class absent from half of the units" if absent else ""
                    claim = f"{name}, {units} units{rare}, true difference {gap:g}"
                    if plan.about not in claim:
                        continue
                    hits = covered(kind, design, gap, plan)
                    if len(hits) < 20:
                        continue
                    lines.append(coverage("coverage", claim, hits, 0.93, 0.98 if units == SIZES[0] or absent else 0.97))
    if plan.about:
        return lines
    for m in (1, 5, 12):
        found = in_parallel(partial(best_covered, m, plan), range(plan.repeats), plan.workers)
        hits = [hit for hit in found if hit is not None]
        lines.append(coverage("coverage", f"gain over the best of {m} controls, 20 and 50 units", hits, 0.93))
    found = in_parallel(partial(share_covered, plan), range(plan.repeats), plan.workers)
    hits = [hit for hit in found if hit is not None]
    lines.append(coverage("coverage", "share of the gap, where the ceiling is above the floor (Fieller)", hits, 0.93))
    return lines


def best_covered(m: int, plan: Plan, seed: int) -> bool | None:
    """Whether the interval of the gain over the best of m controls that tie holds the truth."""
    kind, design = KINDS["balanced accuracy"], Design(units=(20, 50)[seed % 2])
    base = design.strength(0.65)
    high = kind.raised(design, base, 0.05)
    found = rows(kind, design, [high, *[base] * m], plan, seed)
    if not assessable(found):
        return None
    overall = judge("encoder", "task", "score", found[0], controls={f"c{i}": c for i, c in enumerate(found[1:])}).overall
    low, high_bound = overall.interval
    return None if low is None or high_bound is None else low <= kind.gap(design, base, high) <= high_bound


def share_covered(plan: Plan, seed: int) -> bool | None:
    """Whether Fieller's interval of a share of 0.5 holds it; None where the gate is shut."""
    kind, design = KINDS["balanced accuracy"], Design(units=SIZES[seed % 3])
    floor = design.strength(0.6)
    middle, ceiling = kind.raised(design, floor, 0.1), kind.raised(design, floor, 0.2)
    found = rows(kind, design, [middle, floor, ceiling], plan, seed)
    if not assessable(found):
        return None
    share = share_of_gap(found[0], found[1], found[2], "floor", "ceiling")
    return None if share.low is None or share.high is None else share.low <= 0.5 <= share.high


# ---------------------------------------------------------------------------------------------- probes


def probe_words(plan: Plan, folds: int, seed: int) -> str:
    """The word on an encoder of noise against twins of noise; half of the units are tested (one fold), or each half by the other (two folds)."""
    rng = np.random.default_rng([seed, 2])
    units = np.repeat([f"u{number:02d}" for number in range(24)], 14)
    labels = rng.integers(0, 2, len(units))
    first = np.isin(units, np.unique(units)[:12])
    tests = [first, ~first][:folds]
    leaks = [plan.fault == "split" and number == 0 for number in range(TWINS + 1)]
    found = [probed(rng.normal(size=(len(units), 24)), labels, units, tests, leak) for leak in leaks]
    return judge("noise", "task", "balanced accuracy", found[0], twins={"noise": found[1:]}).word


def cross_fitting(plan: Plan) -> list[Line]:
    """Intervals of probes where all units are tested in turn: what one unit does in training to another's test is not left out with it.

    One factor stands for it, so what is asked is coverage of .93 to .98.
    """
    lines = []
    for signal, said in ((0.0, "noise"), (0.5, "a signal")):
        for folds in (1, 2, 5):
            hits = list(in_parallel(partial(probes_covered, folds, signal), range(plan.nulls), plan.workers))
            lines.append(coverage("cross-fitting", f"difference of two rows of {said}, {folds} of {max(folds, 2)} folds tested", hits, 0.93, 0.98))
    for said, covered_by, signal, repeats in (
        ("bits beyond a control, little to know", bits_covered, 0.2, plan.informations),
        ("bits beyond a control, much to know", bits_covered, 0.8, plan.informations),
        ("gene expression, noise", expression_covered, 0.0, plan.nulls),
        ("gene expression, a signal", expression_covered, 1.0, plan.nulls),
    ):
        for folds in () if plan.quick and covered_by is bits_covered else (1, 2, 5):  # seconds each
            found = in_parallel(partial(covered_by, folds, signal), range(repeats), plan.workers)
            hits = [hit for hit in found if hit is not None]
            lines.append(coverage("cross-fitting", f"{said}, {folds} of {max(folds, 2)} folds tested", hits, 0.93, 0.98))
    hits = [hit for hit in in_parallel(decoding_covered, range(plan.nulls), plan.workers) if hit is not None]
    lines.append(coverage("cross-fitting", "a batch decoded from noise: chance", hits, 0.93, 0.98))
    return lines


def probes(plan: Plan) -> list[Line]:
    """An encoder that is noise, scored by the probe, against noise."""
    lines = []
    for folds, said in ((1, "one fold"), (2, "two folds that train each other")):
        words = list(in_parallel(partial(probe_words, plan, folds), range(plan.probes), plan.workers))
        lines.append(rate("probes", f"features of noise, {said}: false `beats` through the probe", [word == "beats" for word in words], NOMINAL))
    return lines


# ---------------------------------------------------------------------------------------------- beyond controls


def information_word(what: str, seed: int) -> str:
    """The word on bits beyond the controls for an encoder that re-encodes them, or that knows 0.1 bits more."""
    rng = np.random.default_rng([seed, 3])
    n, b = 1000, 8
    units = np.array([f"u{code:02d}" for code in rng.integers(0, 20, n)])
    controls, hidden = rng.normal(size=(n, b)), rng.normal(size=(n, 1))
    logit = 1.2 * controls[:, 0] - 0.8 * controls[:, 1]
    logit += {"squares": 1.0 * (controls[:, 0] ** 2 - 1), "networks": 1.0 * controls[:, 0] * controls[:, 1]}.get(what, 0.0)
    logit += 0.85 * hidden[:, 0] if what == "signal" else 0.0
    labels = (rng.random(n) < 1 / (1 + np.exp(-logit))).astype(np.int64)
    squares = np.hstack([controls, controls**2])

    def network(width: int) -> np.ndarray:
        return np.asarray(np.tanh(controls @ rng.normal(size=(b, width)) / np.sqrt(b) + rng.normal(size=width)))

    encoder = {
        "linear": controls @ rng.normal(size=(b, 32)),
        "squares": squares @ rng.normal(size=(2 * b, 32)),
        "networks": network(64),
        "signal": np.hstack([controls, hidden]) @ rng.normal(size=(b + 1, 32)),
    }[what]
    twins = [network(encoder.shape[1]) for _ in range(5)]
    folds = np.array([int(name[1:]) % 2 for name in units])
    settings = InformationSettings(random_networks=5)
    found = beyond_controls(controls, encoder, {"fresh": twins}, labels, folds, units, 2, settings)
    return judge_information("encoder", "task", found).word


def beyond(plan: Plan) -> list[Line]:
    """Encoders that only re-encode the controls, and one that knows more."""
    lines = []
    for what, words in (("linear", "linearly"), ("squares", "by squares"), ("networks", "by random networks")):
        found = list(in_parallel(partial(information_word, what), range(plan.informations), plan.workers))
        lines.append(rate("beyond", f"encoders that re-encode the controls {words}: `beats`", [word == "beats" for word in found], NOMINAL))
    found = list(in_parallel(partial(information_word, "signal"), range(plan.informations), plan.workers))
    lines.append(coverage("beyond", "a true signal of 0.1 bits at 1,000 images: found", [word == "beats" for word in found], 0.8))
    return lines


# ---------------------------------------------------------------------------------------------- p-values


def paired_p(plan: Plan, seed: int) -> float | None:
    """Of two rows that are equally good."""
    design = Design(units=50)
    found = rows(KINDS["balanced accuracy"], design, [design.strength(0.7)] * 2, plan, seed)
    return contrast(found[0], found[1], "control").p if assessable(found) else None


def twin_p(plan: Plan, seed: int) -> float | None:
    """Of a twin against its like."""
    verdict = twin_verdict(KINDS["balanced accuracy"], 0.0, False, plan, seed)
    return verdict.overall.p if verdict is not None else None


def wells(rng: np.random.Generator) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Six wells of one compound and ten of controls on each of two plates that differ; the compound has more wells on the first."""
    plate = np.repeat(["p0", "p1"], [14, 12])
    compound = np.array(["drug" if number in (0, 1, 2, 3, 14, 15) else "DMSO" for number in range(26)])
    reference = np.array([str(number) if name == "DMSO" else "-1" for number, name in enumerate(compound)])
    features = rng.normal(size=(26, 8)) + 2.0 * (plate == "p1")[:, None]
    return features, {"plate": plate, "compound": compound, "reference": reference}


def group_p(plan: Plan, seed: int) -> float:
    """Of a compound that does nothing."""
    features, columns = wells(np.random.default_rng([seed, 4]))
    rule = PairRule(pos_sameby=("compound", "reference"), neg_diffby=("compound", "reference"))
    strata = () if plan.fault == "null" else ("plate",)
    found = group_scores(features, columns, rule, Groups(("compound",), strata), distance="euclidean", n_permutations=199, seed=seed)
    return float(found.p[0])


def label_p(plan: Plan, seed: int) -> float:
    """Of labels that say nothing beyond the plate they are on."""
    rng = np.random.default_rng([seed, 5])
    units = np.repeat([f"p{number}" for number in range(6)], 12)
    # plates of two kinds: most images of a kind carry the same label, and plates of a kind look alike
    kind = np.repeat(np.arange(6) % 2, 12)
    labels = np.where(rng.random(len(units)) < 0.75, kind, 1 - kind)
    features = rng.normal(size=(len(units), 6)) + 2.0 * kind[:, None]
    strata = np.full(len(units), "all") if plan.fault == "null" else None
    p = permutation_null(features, labels, units, 2, strata=strata, n_permutations=99, seed=seed).p
    return 1.0 if p is None else p


def count_score(plan: Plan, seed: int) -> float:
    """Mean normalised AP of random counts, of which many tie, as a profile of one number."""
    rng = np.random.default_rng([seed, 6])
    counts = rng.poisson(4, size=(60, 1)).astype(np.float64)
    compound = np.repeat([f"c{number}" for number in range(15)], 4)
    if plan.fault == "ties":
        # the nearest positives move a hair nearer: what a stable sort of positives first amounts to
        similarity = -np.abs(counts - counts.T) + 1e-6 * (compound[:, None] == compound[None, :])
        return float(np.mean([_normalised(similarity[i], compound == compound[i], i) for i in range(60)]))
    scored = pair_scores(counts, {"compound": compound}, PairRule(pos_sameby=("compound",), neg_diffby=("compound",)), "euclidean")
    return float(scored.normalised.mean())


def _normalised(similarity: np.ndarray, relevant: np.ndarray, query: int) -> float:
    from pipelines.metrics.ranking import expected_ap, tie_aware_ap

    others = np.arange(len(similarity)) != query
    chance = expected_ap(int(relevant[others].sum()), int((~relevant[others]).sum()))
    return (tie_aware_ap(similarity[others], relevant[others]) - chance) / (1 - chance)


def p_values(plan: Plan) -> list[Line]:
    """Every test that enters a verdict, where there is nothing to find; and chance where everything ties."""
    lines = []
    tests: list[tuple[str, Callable[[Plan, int], float | None], bool]] = [
        ("paired difference of two equal rows", paired_p, True),
        ("a twin against its like (the larger of two p-values)", twin_p, False),
        ("a compound without effect, plates differ (permutation within plates)", group_p, True),
        ("labels that follow the kind of plate (permutation within plates)", label_p, True),
    ]
    for claim, test, two_sided in tests:
        p = [found for found in in_parallel(partial(test, plan), range(plan.nulls), plan.workers) if found is not None]
        lines.append(uniform("p-values", claim, p, two_sided))
    scores = np.array(list(in_parallel(partial(count_score, plan), range(plan.nulls), plan.workers)))
    error = float(scores.std(ddof=1) / np.sqrt(len(scores)))
    holds = bool(abs(scores.mean()) <= 3 * error)
    lines.append(Line("p-values", "random counts that tie: mean normalised AP", f"{scores.mean():+.4f}", f"0 +- {3 * error:.4f}", holds))
    return lines


# ---------------------------------------------------------------------------------------------- power

EFFECTS = (0.05, 0.1, 0.15, 0.2)


def power(plan: Plan) -> list[Line]:
    """How often an encoder with a true gain beats ten twins and five controls, and how many units that takes. A table, no claim but the order."""
    lines = []
    for gain in EFFECTS:
        found = []
        for units in SIZES:
            words = list(in_parallel(partial(power_word, gain, units, plan), range(plan.powers), plan.workers))
            found.append(float(np.mean([word == "beats" for word in words])))
        enough = _units_for(found, 0.8)
        figure = ", ".join(f"{units}: {share:.2f}" for units, share in zip(SIZES, found, strict=True))
        claim = f"true gain {gain:g}: share of `beats` by number of units"
        lines.append(Line("power", claim, f"{figure}; 80 % at {enough}", "grows with the units", found[-1] >= found[0]))
    return lines


def power_word(gain: float, units: int, plan: Plan, seed: int) -> str:
    """The word on an encoder with a true gain over twins and controls."""
    kind, design = KINDS["balanced accuracy"], Design(units=units)
    rng = np.random.default_rng([seed, 7])
    base = design.strength(0.65)
    twins = base + 0.5 * SEEDS_SD * rng.normal(size=TWINS)
    found = rows(kind, design, [kind.raised(design, base, gain), *twins, *[base] * 5], plan, seed)
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


PARTS: dict[str, Callable[[Plan], list[Line]]] = {
    "a/a": a_a,
    "coverage": coverage_of_intervals,
    "probes": probes,
    "cross-fitting": cross_fitting,
    "beyond": beyond,
    "p-values": p_values,
    "power": power,
}
#: screens of A/A, repeats of coverage, probes, informations, nulls, powers
FULL, REDUCED, QUICK = (1000, 2000, 1000, 200, 1000, 400), (200, 150, 200, 24, 300, 60), (60, 30, 60, 4, 60, 20)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--quick", action="store_true")
    size.add_argument("--reduced", action="store_true")
    parser.add_argument("--only", action="append", default=[], choices=PARTS)
    parser.add_argument("--break", dest="fault", choices=FAULTS, default="")
    parser.add_argument("--about", default="", metavar="TEXT", help="of coverage, only designs in whose claim this occurs")
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    plan = Plan(*(QUICK if options.quick else REDUCED if options.reduced else FULL), options.workers, options.fault, options.quick, options.about)
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

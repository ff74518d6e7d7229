"""Every public metric on one small screen, and on what may be wrong with a screen: what each must give, or how it must refuse.

Run as a module it prints a digest of all results.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.metrics import (
    alignment,
    canonical,
    ceiling,
    choice,
    classification,
    code_length,
    confounds,
    contrasts,
    decoding,
    expression,
    few_shot,
    findings,
    folds,
    geometry,
    groups,
    information,
    jackknife,
    ladder,
    multilabel,
    pairs,
    probes,
    projection,
    ranking,
    relations,
    retrieval,
    ridge,
    selectivity,
    shortcut,
    statistic,
    targets,
    verdicts,
)
from pipelines.metrics.baseline import InformationSettings
from pipelines.metrics.canonical import RULES
from pipelines.metrics.groups import Groups
from pipelines.metrics.pairs import PairRule
from pipelines.metrics.probes import ProbeSettings
from pipelines.metrics.statistic import Statistic
from pipelines.metrics.targets import Interaction
from registry.errors import BlankslideError

Array = NDArray[Any]

PLATES, WELLS, CLASSES = 12, 6, 3
PROBE = ProbeSettings(max_dim=8, grid=(0.01, 1.0), neighbours=5)
BITS = InformationSettings(control_dims=2, product_dims=1, row_dims=2, penalties=(100.0,), inner_folds=2, random_networks=2)


# ------------------------------------------------------------------------------------------------ the screen


@dataclass(frozen=True, eq=False)
class Screen:
    """n images of a screen of plates; the arguments of every metric are made of these.

    Attributes:
        ids: (n,) names of the images.
        x: (n, d) features that know the label.
        labels: (n,) class codes.
        plates: (n,) the units.
        wells: (n,) positions on the plate; a compound lies elsewhere on every plate.
        compounds: (n,) six, two of each class; `c4` and `c5` are controls.
        folds: (n,) plates 0 to 3 in fold 0, 4 to 7 in fold 1, the others always training.
        probabilities: (n, k).
        values: (n,) one number for each image.
        counts: (n, g) of genes.
    """

    ids: Array
    x: Array
    labels: Array
    plates: Array
    wells: Array
    compounds: Array
    folds: Array
    probabilities: Array
    values: Array
    counts: Array

    @property
    def controls(self) -> Array:
        """(n,)"""
        return np.isin(self.compounds, ["c4", "c5"])

    @property
    def classes(self) -> Array:
        """(n,) names."""
        return np.array([f"class-{c}" for c in self.labels], dtype=np.str_)

    @property
    def columns(self) -> dict[str, Array]:
        """For rules about pairs."""
        return {"perturbation": self.compounds, "plate": self.plates, "well": self.wells}

    def shuffled(self, order: Array) -> Screen:
        """The same images in another order."""
        return Screen(**{f.name: getattr(self, f.name)[order] for f in fields(self)})


@lru_cache(maxsize=1)
def screen() -> Screen:
    """72 images."""
    rng = np.random.default_rng(0)
    plate, well = (each.ravel() for each in np.indices((PLATES, WELLS)))
    compound = (plate + well) % 6
    labels = compound % CLASSES
    x = rng.normal(size=(len(plate), 6)) + 2 * np.eye(CLASSES, 6)[labels] + np.eye(6)[compound]
    probabilities = rng.dirichlet(np.ones(CLASSES), len(plate)) + np.eye(CLASSES)[labels]
    return Screen(
        ids=np.array([f"i{i:02d}" for i in range(len(plate))]),
        x=x,
        labels=labels,
        plates=np.array([f"p{p:02d}" for p in plate]),
        wells=np.array([f"w{w}" for w in well]),
        compounds=np.array([f"c{c}" for c in compound]),
        folds=np.where(plate < 4, 0, np.where(plate < 8, 1, -1)),
        probabilities=probabilities / probabilities.sum(axis=1, keepdims=True),
        values=rng.normal(size=len(plate)) + 0.5,
        counts=rng.poisson(5 * np.exp(0.3 * x[:, :4])).astype(np.float64),
    )


def _with(value: float) -> Screen:
    s = screen()
    arrays = {name: getattr(s, name).copy() for name in ("x", "probabilities", "counts", "values")}
    for array in arrays.values():
        array[(3, 1) if array.ndim == 2 else 3] = value
    return replace(s, **arrays)


def _constant_column() -> Screen:
    s = screen()
    counts = s.counts.copy()
    counts[:, 1] = 4.0
    return replace(s, x=np.hstack([s.x, np.full((len(s.x), 1), 7.3)]), counts=counts)


def _constant() -> Screen:
    s = screen()
    uniform, same = np.full_like(s.probabilities, 1 / CLASSES), np.full_like(s.values, 0.5)
    return replace(s, x=np.full_like(s.x, 7.3), probabilities=uniform, values=same, counts=np.full_like(s.counts, 4.0))


def _one_class() -> Screen:
    return replace(screen(), labels=np.zeros_like(screen().labels), compounds=np.full_like(screen().compounds, "c0"))


def _group_of_one() -> Screen:
    """The first image is alone on its plate and with its compound."""
    s = screen()
    plates, compounds = s.plates.astype("U3"), s.compounds.astype("U3")
    plates[0], compounds[0] = "p99", "c99"
    return replace(s, plates=plates, compounds=compounds)


def _more_dimensions() -> Screen:
    return replace(screen(), x=np.hstack([screen().x, np.random.default_rng(1).normal(size=(len(screen().x), 94))]))


#: what may be wrong with a screen; a metric is asked about those that change its arguments
CASES: dict[str, Callable[[], Screen]] = {
    "nan": lambda: _with(np.nan),
    "inf": lambda: _with(np.inf),
    "constant column": _constant_column,
    "constant": _constant,
    "one class": _one_class,
    "one unit": lambda: replace(screen(), plates=np.full_like(screen().plates, "p00")),
    "group of one": _group_of_one,
    "more dimensions": _more_dimensions,
    "a unit is missing": lambda: replace(screen(), plates=screen().plates[:-1]),
    "empty": lambda: screen().shuffled(np.arange(0)),
}


# ------------------------------------------------------------------------------------------------ results


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Everything a result holds, as arrays and strings, by the names of attributes and keys."""
    if is_dataclass(value):
        for f in fields(value):
            yield from leaves(getattr(value, f.name), f"{path}.{f.name}".lstrip("."))
    elif isinstance(value, Mapping):
        yield f"{path}.keys", " ".join(map(str, value))
        for key, part in value.items():
            yield from leaves(part, f"{path}.{key}".lstrip("."))
    elif isinstance(value, tuple | list) and not all(isinstance(part, int | float | np.number) for part in value):
        for part in value:
            yield from leaves(part, path)
    elif value is None or isinstance(value, str):
        yield path, str(value)
    else:
        yield path, np.asarray(value)


def not_finite(value: Any) -> set[str]:
    """Where a result holds NaN or infinity."""
    return {path for path, leaf in leaves(value) if isinstance(leaf, np.ndarray) and leaf.dtype.kind == "f" and not np.isfinite(leaf).all()}


def alike(a: Any, b: Any, tolerance: float = 1e-9) -> bool:
    """Whether two results are the same up to rounding."""
    one, two = list(leaves(a)), list(leaves(b))
    return [p for p, _ in one] == [p for p, _ in two] and all(_alike(x, y, tolerance) for (_, x), (_, y) in zip(one, two, strict=True))


def _alike(x: Any, y: Any, tolerance: float) -> bool:
    if isinstance(x, np.ndarray) and x.dtype.kind == "f":
        return x.shape == np.shape(y) and np.allclose(x, y, rtol=tolerance, atol=tolerance, equal_nan=True)
    return bool(np.array_equal(x, y))


def digest(value: Any) -> str:
    """Of every byte of a result."""
    found = hashlib.sha256()
    for path, leaf in leaves(value):
        found.update(path.encode() + (leaf.encode() if isinstance(leaf, str) else np.ascontiguousarray(leaf).tobytes()))
    return found.hexdigest()


# ------------------------------------------------------------------------------------------------ what is expected


@dataclass(frozen=True)
class Refused:
    """An error of the product, whose message matches."""

    words: str


@dataclass(frozen=True)
class Gives:
    """A defined result.

    Attributes:
        check: of the result, the result on the sound screen and the screen: whether it is as it must be.
        missing: attributes that hold NaN or infinity, which their documentation says; none but these do.
    """

    check: Callable[[Any, Any, Screen], object]
    missing: frozenset[str] = frozenset()


Expected = Refused | Gives


def gives(check: Callable[[Any, Any, Screen], object], *missing: str) -> Gives:
    return Gives(check, frozenset(missing))


def equals(value: Any, of: Callable[[Any], Any] = lambda r: r, *missing: str) -> Gives:
    """A number known beforehand."""
    return gives(lambda r, _b, _s: np.allclose(of(r), value, rtol=0, atol=1e-9, equal_nan=True), *missing)


def between(low: float, high: float, of: Callable[[Any], Any] = lambda r: r, *missing: str) -> Gives:
    """Numbers in the range that the documentation gives."""
    return gives(lambda r, _b, _s: np.size(of(r)) and low - 1e-9 <= np.min(of(r)) and np.max(of(r)) <= high + 1e-9, *missing)


def unchanged(*missing: str) -> Gives:
    """As on the sound screen."""
    return gives(lambda r, b, _s: alike(r, b), *missing)


UNCHANGED = unchanged()
NAN, INF = Refused(r"finite .*nan|NaN or infinity"), Refused(r"finite .*inf|NaN or infinity|one without a unit")
FINITE = {"nan": NAN, "inf": INF}
NO_IMAGE, NO_TRAINING, NO_TEST = (
    Refused("Expected at least one image"),
    Refused("Expected training images, got none"),
    Refused("in a test fold, got none"),
)
NO_UNIT = Refused(r"Expected a unit name for each of 72 images, got shape \(71,\)")
PAIR = Refused("Expected a profile with a positive and a negative .*, got none")
QUERY = Refused("Expected an image with a positive and a negative in another unit, got none")
ONE_NAME = Refused("Expected at least 2 different names, got 1")
TOO_FEW = "1 units, at least 10 are needed"


@dataclass(frozen=True)
class Metric:
    """One public function.

    Attributes:
        function: it.
        arguments: made of a screen.
        expected: for each case that changes its arguments.
        missing: as of `Gives`, on the sound screen.
        ordered: attributes that depend on the order of images, and why.
        tolerance: up to which another order gives the same.
        score: it says how good something is, and so in which direction.
        variant: tells two entries of one function apart.
    """

    function: Callable[..., Any]
    arguments: Callable[[Screen], dict[str, Any]]
    expected: Mapping[str, Expected]
    missing: frozenset[str] = frozenset()
    ordered: Mapping[str, str] = field(default_factory=dict)
    tolerance: float = 1e-9
    score: bool = True
    variant: str = ""

    @property
    def qualified(self) -> str:
        """Module and name."""
        return f"{self.function.__module__.rpartition('.')[2]}.{self.function.__name__}"

    @property
    def name(self) -> str:
        """Unique."""
        return f"{self.qualified}/{self.variant}".rstrip("/")


def outcome(metric: Metric, case: str = "") -> Any:
    """Its result on a case, or the error it raises on purpose; computed once."""
    if (metric.name, case) not in _outcomes:
        made = CASES[case]() if case else screen()
        try:
            _outcomes[metric.name, case] = metric.function(**metric.arguments(made))
        except BlankslideError as error:
            _outcomes[metric.name, case] = error
    return _outcomes[metric.name, case]


_outcomes: dict[tuple[str, str], Any] = {}


# ------------------------------------------------------------------------------------------------ arguments


def measured(s: Screen, shift: float = 0.0, seed: int = 0, scatter: float = 0.0) -> Statistic:
    """The mean of `values` over images, shifted, with some scatter of its own between units."""
    plates = s.plates if len(s.plates) == len(s.values) else screen().plates
    names, codes = np.unique(plates, return_inverse=True)
    counts, sums = np.bincount(codes), np.bincount(codes, s.values)
    left = len(codes) - counts
    with np.errstate(invalid="ignore"):
        without = np.divide(sums.sum() - sums, left, out=np.full(len(names), np.nan), where=left > 0)
    without += shift + scatter * np.random.default_rng(seed).normal(size=len(names))
    return Statistic(float(s.values.mean() if len(names) else 0) + shift, tuple(names.tolist()), without, counts / len(codes), len(codes), len(names))


def row(s: Screen, shift: float, seed: int) -> Statistic:
    return measured(s, shift, seed, 0.002)


def draws_of(s: Screen) -> list[Statistic]:
    return [row(s, -0.2 + 0.01 * k, k) for k in range(5)]


def judged_bits(s: Screen) -> information.Information:
    zero = measured(replace(s, values=np.zeros_like(s.values)))
    return information.Information(row(s, 0.2, 1), {"fresh": tuple(draws_of(s))}, tuple(draws_of(s)), zero, zero, 0.0, ())


def climbs(s: Screen) -> ladder.Order:
    return ladder.order(np.sort(s.probabilities[:5], axis=1))


def truth() -> list[Interaction]:
    far = [Interaction("d2", f"i{i:02d}", 1e5) for i in range(60)]
    return [Interaction("d0", "i06", 10.0), Interaction("d0", "i12", 20.0), Interaction("d1", "i07", 5.0), *far]


def fold_zero(s: Screen) -> Screen:
    """Two classes, without the plates of fold 1, for what takes long."""
    keep = s.folds != 1
    cut = Screen(**{f.name: getattr(s, f.name)[keep] if len(getattr(s, f.name)) == len(keep) else getattr(s, f.name) for f in fields(s)})
    return replace(cut, labels=np.where(cut.labels == 2, -1, cut.labels))


RULE = PairRule(("perturbation",), ("plate",), ("plate",), ("perturbation",))

# ------------------------------------------------------------------------------------------------ the catalogue

#: public functions that are no metrics, and who answers for what they are given
PARTS = {
    "alignment.alignments": "the rules by name, each of which has its entry",
    "baseline.enlarge": "the controls of `information.beyond_controls`",
    "baseline.log2_loss": "of logits that `information` fitted",
    "findings.line_of": "one contrast of `verdicts.judge` as a line of a table",
    "geometry.varying_columns": "of features that `check_features` has seen",
    "interplay.interplay": "the pairs of units of `retrieve`",
    "interplay.second_order": "the same",
    "jackknife.covariance": "of leave-one-out values of a `Statistic`",
    "jackknife.variance_of": "of `estimate`",
    "jackknife.t_quantile": "a formula of scalars",
    "jackknife.t_tail": "a formula of scalars",
    "ladder.batch_summary": "words",
    "ladder.orientation": "reads a metric's name",
    "ladder.summary": "words",
    "logistic.path": "fits of `probes`",
    "logistic.softmax": "of logits that were fitted here",
    "logistic.uninformed": "a fit that knows nothing",
    "pairs.column_values": "reads the columns of `pair_scores` and `group_scores`",
    "pairs.combined_codes": "the same",
    "pairs.asked_queries": "reads the queries of `pair_scores` and `group_scores`",
    "penalised.fit": "the solver of `probes` and `information`",
    "places.packed_places": "the places of `label_scores` and of the controls for position",
    "places.together": "the same",
    "probes.features_of_fold": "one of several arrays",
    "probes.penalty_losses": "the inner folds of `fit_probe`",
    "ranking.ap_sum": "sums of `tie_aware_ap` and `retrieve`",
    "ranking.chance_ap": "`expected_ap` of arrays, for lists that have a positive",
    "ranking.contributions": "the same",
    "ranking.group_weights": "the same",
    "ranking.sums_by_count": "the same",
    "ranking.sums_by_unit": "the same",
    "ranking.sums_without_ties": "the same",
    "names.whole_names": "the check itself",
    "counts.check_count": "the check itself",
    "groups.least_found": "a formula of scalars",
    "expression.protocol_id": "a name",
    "expression.protocol_ids": "names",
    "ridge.protocol_id": "a name",
    "selectivity.share_recurring": "whether `selectivity` can be asked",
    "sentences.detail": "words",
    "sentences.information_sentence": "words",
    "sentences.shortcut_sentence": "words",
    "sentences.sensitivity_sentence": "words",
    "sentences.sentence": "words",
    "sentences.unknown_information_sentence": "words",
    "statistic.check_labels": "the check itself",
    "statistic.index_units": "the check itself",
    "statistic.tally": "sums of what was checked",
}


def _alignments() -> Iterator[Metric]:
    none = Refused("Expected profiles to align, got none")
    length = Refused(r"Expected a batch and a control flag for each of 72 profiles, got \(71,\)")

    def batch(s: Screen) -> dict[str, Any]:
        return {"features": s.x, "controls": s.controls, "batches": s.plates}

    def zero(r: Array, _b: Array, _s: Screen) -> bool:
        return not r.any()

    def controls_standard(r: Array, _b: Array, s: Screen) -> bool:
        """z-scores of the controls of every batch: mean 0, standard deviation 1 or, where they are alike, 0."""
        spread = np.array([[r[s.controls & (s.plates == p)].mean(axis=0), r[s.controls & (s.plates == p)].std(axis=0)] for p in np.unique(s.plates)])
        return bool(np.abs(spread[:, 0]).max() < 1e-9 and np.minimum(np.abs(spread[:, 1] - 1), spread[:, 1]).max() < 1e-9)

    def added_zero(r: Array, b: Array, _s: Screen) -> bool:
        return alike(r[:, :6], b) and not r[:, 6:].any()

    def moderate(r: Array, _b: Array, _s: Screen) -> bool:
        """24 controls vary in 23 directions; none of 100 may be blown up by a spread that is rounding."""
        return r.shape == (72, 23) and np.abs(r).max() < 100

    lacks = Refused("has 0 controls, at least")
    same = {"one class": lacks, "empty": none, **FINITE}
    batches = {"group of one": Refused("Batch `p99` has 0 controls"), "a unit is missing": length, "one unit": gives(controls_standard)}
    yield Metric(
        alignment.centre_scale,
        batch,
        {**same, **batches, "constant column": gives(added_zero), "constant": gives(zero), "more dimensions": gives(controls_standard)},
        score=False,
    )
    yield Metric(
        alignment.pca_centre_scale,
        lambda s: {**batch(s), "dims": 3},
        {
            **same,
            **batches,
            "constant column": UNCHANGED,
            "constant": gives(lambda r, _b, _s: r.shape == (72, 0)),
            "more dimensions": gives(controls_standard),
        },
        score=False,
        tolerance=1e-7,
    )
    sphered = {"constant column": UNCHANGED, "constant": gives(lambda r, _b, _s: r.shape == (72, 0)), "more dimensions": gives(moderate)}
    yield Metric(
        alignment.tvn,
        batch,
        {**same, **batches, **sphered, "one unit": gives(lambda r, _b, s: alike(np.cov(r[s.controls].T), np.eye(6) / 1.5, 0.2))},
        score=False,
        tolerance=1e-7,
    )
    yield Metric(alignment.tvn_global, lambda s: {"features": s.x, "controls": s.controls}, {**same, **sphered}, score=False, tolerance=1e-7)
    yield Metric(
        alignment.spherize,
        lambda s: {"features": s.x, "controls": s.controls},
        {
            **same,
            "constant column": Refused("Column 6 is constant among the controls"),
            "constant": Refused("Column 0 is constant among the controls"),
            # the identity in the 23 directions that 24 controls have
            "more dimensions": gives(lambda r, _b, s: np.allclose(np.sort(np.linalg.eigvalsh(np.cov(r[s.controls].T)))[-23:], 1, atol=1e-4)),
        },
        score=False,
    )

    def means(r: Any, _b: Any, s: Screen) -> bool:
        names, found = r
        return np.allclose(found, [s.x[s.compounds == name].mean(axis=0) for name in names])

    yield Metric(
        alignment.aggregate,
        lambda s: {"features": s.x, "names": s.compounds},
        {
            **FINITE,
            **{case: gives(means) for case in ("constant column", "constant", "one class", "group of one", "more dimensions")},
            "empty": gives(lambda r, _b, _s: r[0] == () and r[1].shape == (0, 6)),
        },
        score=False,
    )


def _canonical() -> Iterator[Metric]:
    yield Metric(
        canonical.reference_index,
        lambda s: {"controls": s.controls},
        {"one class": gives(lambda r, _b, _s: set(r.tolist()) == {"-1"}), "empty": gives(lambda r, _b, _s: r.shape == (0,))},
        score=False,
        ordered={"": "it is the number of a row"},
    )
    yield Metric(
        canonical.position_control,
        lambda s: {"features": s.x, "columns": s.columns, "rule": RULES["replicability"]},
        {
            **FINITE,
            "constant column": gives(lambda r, _b, _s: 0 < r.anywhere.normalised.mean() < 1 and abs(r.drop) < 0.1),
            "constant": gives(lambda r, _b, _s: np.allclose(r.anywhere.normalised, 0) and abs(r.drop) < 1e-9 and (r.anywhere.tied == 1).all()),
            "one class": PAIR,
            "one unit": gives(lambda r, _b, _s: r.share == 1 and 0 < r.anywhere.normalised.mean() < 1),
            # alone with its compound it has no positive
            "group of one": gives(
                lambda r, _b, _s: np.flatnonzero(np.isnan(r.anywhere.ap)).tolist() == [0],
                *(f"{w}.{a}" for w in ("anywhere", "elsewhere") for a in ("ap", "chance", "tied")),
            ),
            "more dimensions": between(-1, 1, lambda r: r.anywhere.normalised.mean()),
            "a unit is missing": Refused(r"Expected 72 values of `plate`, got shape \(71,\)"),
            "empty": PAIR,
        },
        ordered={"anywhere.query": "rows", "elsewhere.query": "rows"},
    )
    yield Metric(
        canonical.percent_replicating,
        lambda s: {"features": s.x, "groups": s.compounds, "samples": 40},
        {
            **FINITE,
            "constant column": between(-1, 1, lambda r: [*r.medians, *r.null]),
            "constant": Refused("got one that is constant: a correlation does not exist. Leave it out"),
            "one class": Refused("Expected several groups, .* got 1 of at most 72"),
            "group of one": gives(lambda r, b, _s: r.names == b.names and alike(r.medians[1:], b.medians[1:])),
            "more dimensions": between(-1, 1, lambda r: [*r.medians, *r.null]),
            "empty": Refused("Expected several groups, .* got 0 of at most 0"),
        },
        ordered=dict.fromkeys(("share", "threshold", "null"), "the pairs of the null are drawn by row"),
    )

    def of_positions(r: Any, _b: Any, _s: Screen) -> bool:
        return 0 <= r.share <= 1 and np.abs([*r.medians, *r.null]).max() <= 1 + 1e-12

    yield Metric(
        canonical.control_positions,
        lambda s: {"features": s.x, "columns": {name: s.columns[name] for name in ("plate", "well")}, "samples": 40},
        {
            **FINITE,
            "constant column": gives(of_positions),
            "constant": Refused("got one that is constant: a correlation does not exist. Leave it out"),
            "one unit": Refused("Expected control wells on several plates, got all of them at"),
            "group of one": gives(of_positions),
            "more dimensions": gives(of_positions),
            "a unit is missing": Refused(r"Expected 72 values of `plate`, got shape \(71,\)"),
            "empty": Refused("Expected control wells with a position, got 0 without"),
        },
        ordered=dict.fromkeys(("share", "threshold", "null"), "the pairs of the null are drawn by row"),
    )


def _chosen() -> Iterator[Metric]:
    probe = {"n_classes": CLASSES, "settings": PROBE}
    yield Metric(
        choice.inner_loss,
        lambda s: {"features": s.x, "labels": s.labels, "groups": s.plates, **probe},
        {
            **FINITE,
            "constant column": UNCHANGED,
            "constant": equals(np.inf, lambda r: r, ""),
            "one class": equals(np.inf, lambda r: r, ""),
            "one unit": gives(lambda r, _b, _s: 0 < r < 3 * np.log(3)),
            "group of one": gives(lambda r, _b, _s: 0 < r < 3 * np.log(3)),
            "more dimensions": gives(lambda r, b, _s: b < r < 3 * np.log(3) + 1),
            "a unit is missing": Refused("Expected one label for each of 71 images"),
            "empty": NO_TRAINING,
        },
        tolerance=1e-6,
    )
    yield Metric(
        choice.chance_loss,
        lambda s: {"labels": s.labels, "groups": s.plates, **probe},
        {
            "one class": equals(0.0),
            # three folds of log 3 each, classes weighing the same
            "one unit": equals(3 * np.log(3)),
            "group of one": equals(3 * np.log(3)),
            "a unit is missing": Refused("Expected one label for each of 71 images"),
            "empty": NO_IMAGE,
        },
    )
    yield Metric(
        choice.side_by_side,
        lambda s: {"parts": [s.x, s.counts], "train": s.folds != 0, "max_dim": 4},
        {
            **FINITE,
            "constant column": gives(lambda r, b, _s: alike(r[:, :2], b[:, :2], 1e-7) and r.shape == (72, 4)),
            "constant": gives(lambda r, _b, _s: r.shape == (72, 0)),
            "more dimensions": gives(lambda r, b, _s: alike(r[:, 2:], b[:, 2:]) and r.shape == (72, 4)),
            "empty": NO_TRAINING,
        },
        score=False,
        tolerance=1e-7,
    )
    yield Metric(
        choice.choose,
        lambda s: {"losses": {"a": float(s.values.max()), "b": 9.0} if len(s.values) else {}, "saw_labels": (), "chance": 1.0},
        {
            "nan": Refused("Expected losses .* got nan for `a`"),
            "inf": gives(lambda r, _b, _s: r == "b"),
            "constant": gives(lambda r, _b, _s: r == "a"),
            "empty": Refused("Expected representations to choose from, got none"),
        },
        score=False,
    )


def _classification() -> Iterator[Metric]:
    def args(s: Screen) -> dict[str, Any]:
        return {"labels": s.labels, "probabilities": s.probabilities, "units": s.plates}

    def same_value(r: Statistic, b: Statistic, _s: Screen) -> bool:
        return abs(r.value - b.value) < 1e-12

    one_unit, missing_unit = gives(same_value, "without"), Refused("shape|Expected")
    common = {"one unit": one_unit, "group of one": gives(same_value), "a unit is missing": missing_unit, "empty": NO_IMAGE, **FINITE}

    def value(r: Statistic) -> float:
        return r.value

    yield Metric(
        classification.balanced_accuracy,
        lambda s: {
            "labels": s.labels,
            "predicted": np.where(s.labels == 0, 0, s.labels[::-1] if len(s.labels) else s.labels),
            "units": s.plates,
            "n_classes": CLASSES,
        },
        {
            "one class": equals(1.0, value),
            "one unit": one_unit,
            "group of one": gives(same_value),
            "a unit is missing": Refused("Expected one label for each of 71 images"),
            "empty": NO_IMAGE,
        },
        ordered={"": "predictions are dealt by row in this example"},
    )
    # all predictions are shared alike: 2 x (n/3) / (n + n/3) for the one class that is there, 0 for two that are only predicted
    yield Metric(
        classification.macro_f1,
        args,
        {**common, "constant": equals(1 / 3, value), "one class": gives(lambda r, _b, _s: 0 < r.value < 1 and r.class_in_units == 0)},
    )
    yield Metric(
        classification.calibration_error,
        args,
        {**common, "constant": equals(0.0, value), "one class": between(0, 1, value)},
    )
    yield Metric(
        classification.macro_auroc,
        args,
        {
            **common,
            "constant": equals(0.5, value),
            "one class": gives(lambda r, _b, _s: np.isnan(r.value) and r.class_in_units == 0, "value", "without"),
        },
    )
    yield Metric(
        classification.log_loss,
        args,
        {
            **common,
            "constant": equals(np.log2(3), value),
            "one class": gives(lambda r, _b, s: abs(r.value + np.log2(s.probabilities[:, 0]).mean()) < 1e-12),
        },
    )


def _confounds() -> Iterator[Metric]:
    names = Refused(r"Expected 72 names, got shape \(71,\)")
    none = Refused("Expected at least [12] different names, got 0")
    batch = {"one unit": ONE_NAME, "a unit is missing": names, "empty": none, **FINITE}

    def constant_lisi(r: Array, _b: Array, _s: Screen) -> bool:
        """All others are neighbours: (1 / sum of p^2 - 1) / (12 - 1) with 5 of the own plate and 6 of each other."""
        p = np.array([5, *[6] * 11]) / 71
        return np.allclose(r, (1 / np.sum(p**2) - 1) / 11)

    def of_two(r: Array, b: Array, s: Screen) -> bool:
        return constant_lisi(r[0], b[0], s) and np.allclose(r[1], (1 / ((23 / 71) ** 2 + 2 * (24 / 71) ** 2) - 1) / 2)

    yield Metric(
        confounds.principal_component_regression,
        lambda s: {"features": s.x, "batch": s.plates},
        {
            **batch,
            "constant column": UNCHANGED,
            "constant": gives(lambda r, b, _s: (r.share, r.first, r.expected) == (0.0, 0.0, b.expected)),
            "group of one": gives(lambda r, _b, _s: 0 < r.share < 1 and r.expected == 12 / 71),
            "more dimensions": gives(lambda r, b, _s: 0 < r.share < 1 and r.expected == b.expected),
        },
    )
    near = between(0, 1)
    yield Metric(
        confounds.lisi,
        lambda s: {"features": s.x, "names": s.plates, "k": 15},
        {**batch, "constant column": UNCHANGED, "constant": gives(constant_lisi), "group of one": near, "more dimensions": near},
        tolerance=1e-6,
    )
    yield Metric(
        confounds.lisi_of,
        lambda s: {"features": s.x, "several": [s.plates, s.classes], "k": 15},
        {**batch, "constant column": UNCHANGED, "constant": gives(of_two), "one class": ONE_NAME, "group of one": near, "more dimensions": near},
        tolerance=1e-6,
    )
    yield Metric(
        confounds.kbet,
        lambda s: {"features": s.x, "batch": s.plates, "k": 15},
        {**batch, "constant column": UNCHANGED, "constant": equals(1.0), "group of one": near, "more dimensions": near},
    )
    yield Metric(
        confounds.graph_connectivity,
        lambda s: {"features": s.x, "classes": s.classes, "k": 3},
        {**FINITE, "constant column": UNCHANGED, "constant": equals(1.0), "one class": ONE_NAME, "more dimensions": near, "empty": none},
    )
    # every other profile is a neighbour: 22 of the class on other plates, 4 of other classes on the plate
    yield Metric(
        confounds.robustness_index,
        lambda s: {"features": s.x, "classes": s.classes, "batch": s.plates, "k": 10},
        {**batch, "constant column": near, "constant": equals(22 / (22 + 4)), "one class": ONE_NAME, "group of one": near, "more dimensions": near},
    )
    yield Metric(
        confounds.bras,
        lambda s: {"features": s.x, "classes": s.classes, "batch": s.plates},
        {
            **batch,
            "constant column": near,
            "constant": equals(np.nan, lambda r: r, ""),
            "one class": near,
            "group of one": near,
            "more dimensions": near,
        },
    )
    no_leak = Refused("No profile shares its annotation with another compound in another batch")
    yield Metric(
        confounds.not_same_compound,
        lambda s: {"features": s.x, "annotation": s.classes, "compound": s.compounds, "batch": s.plates},
        {
            **batch,
            "constant column": between(0, 1, lambda r: [r.nsc, r.nscb]),
            # of 60 of another compound 12 have the annotation, of 55 in another batch 11
            "constant": equals([0.2, 0.2], lambda r: [r.nsc, r.nscb]),
            "one class": no_leak,
            "one unit": no_leak,
            "group of one": between(0, 1, lambda r: [r.nsc, r.nscb]),
            "more dimensions": between(0, 1, lambda r: [r.nsc, r.nscb]),
        },
    )


def _statistics() -> Iterator[Metric]:
    no_unit = Refused("Expected a statistic of at least one unit, got none")
    base = {"inf": INF, "empty": no_unit}
    broken = "the score does not exist when one of the units is left out"

    def reason(words: str, of: Callable[[Any], str] = lambda r: r.reason) -> Callable[[Any, Any, Screen], bool]:
        return lambda r, _b, _s: words in of(r)

    lacking = ("estimate.value", "estimate.variance", "subject_value", "control_value")
    for variant, control in (("row", lambda s: row(s, -0.1, 9)), ("seeds", draws_of)):
        yield Metric(
            contrasts.contrast,
            lambda s, control=control: {"subject": measured(s), "control": control(s), "against": "c"},
            {
                **base,
                "nan": gives(reason(broken), *lacking),
                "constant": gives(lambda r, b, _s: abs(r.gain - b.gain) < 1e-12 and not r.reason),
                "one unit": gives(reason(TOO_FEW), "estimate.variance"),
                "group of one": gives(lambda r, b, _s: abs(r.gain - b.gain) < 1e-12 and not r.reason and r.estimate.n_units == 13),
            },
            variant=variant,
        )
    yield Metric(
        jackknife.estimate,
        lambda s: {"statistic": measured(s)},
        {
            **base,
            "nan": gives(lambda r, _b, _s: r.n_units == 12, "value", "variance"),
            "constant": gives(lambda r, _b, _s: (r.value, r.variance) == (0.5, 0.0)),
            "one unit": gives(lambda r, _b, _s: r.n_eff == 1, "variance"),
            "group of one": gives(lambda r, _b, _s: abs(r.n_eff - 72**2 / (1 + 25 + 11 * 36)) < 1e-9),
        },
        score=False,
    )
    yield Metric(
        jackknife.why_not_assessable,
        lambda s: {"statistic": measured(s)},
        {
            **base,
            "nan": gives(lambda r, _b, _s: r == broken),
            "constant": gives(lambda r, _b, _s: r == ""),
            "one unit": gives(lambda r, _b, _s: r == TOO_FEW),
            "group of one": gives(lambda r, _b, _s: r == ""),
        },
        score=False,
    )
    yield Metric(
        jackknife.interval,
        lambda s: {"statistic": measured(s)},
        {
            **base,
            "nan": gives(lambda r, _b, _s: r is None),
            "constant": gives(lambda r, _b, _s: r is None),
            "one unit": gives(lambda r, _b, _s: r is None),
            "group of one": gives(lambda r, _b, s: r[0] < s.values.mean() < r[1]),
        },
        score=False,
    )
    for function, arguments in (
        (jackknife.difference, lambda s: {"subject": measured(s), "control": row(s, -0.1, 9)}),
        (jackknife.mean_of, lambda s: {"seeds": [measured(s), row(s, -0.1, 9)]}),
    ):
        yield Metric(
            function,
            arguments,
            {
                **base,
                "nan": gives(lambda r, _b, _s: np.isnan(r.value), "value", "without"),
                "constant": gives(lambda r, _b, _s: r.n_units == 12),
                "one unit": gives(lambda r, b, _s: abs(r.value - b.value) < 1e-12, "without"),
                "group of one": gives(lambda r, b, _s: abs(r.value - b.value) < 1e-12),
            },
            score=False,
        )
    gap = {
        **base,
        "constant": gives(lambda r, _b, _s: r.low < r.value < r.high),
        "group of one": gives(lambda r, _b, _s: r.low < r.value < r.high),
        "nan": gives(lambda r, _b, _s: r.value is None and broken in r.note),
        "one unit": gives(lambda r, _b, _s: r.value is None and TOO_FEW in r.note),
    }
    yield Metric(
        ceiling.share_of_gap,
        lambda s: {"subject": measured(s), "floor": row(s, -0.5, 1), "ceiling": row(s, 0.5, 2), "floor_name": "f", "ceiling_name": "c"},
        gap,
    )
    yield Metric(shortcut.shortcut_share, lambda s: {"encoder": measured(s), "shortcut": row(s, -0.2, 1), "chance": 0.0}, gap)
    verdict = {
        **base,
        "nan": gives(
            lambda r, _b, _s: r.word == "not assessable" and broken in r.overall.reason,
            "value",
            "overall.gain",
            "twins.gain",
            "controls.gain",
            "comparisons.control_value",
            "comparisons.gain",
            "comparisons.se",
        ),
        "one unit": gives(lambda r, _b, _s: r.word == "not assessable" and TOO_FEW in r.overall.reason, "comparisons.se"),
        "constant": gives(lambda r, _b, _s: r.word == "beats"),
        "group of one": gives(lambda r, _b, _s: r.word == "beats" and r.n_units == 13),
    }
    yield Metric(
        verdicts.judge,
        lambda s: {
            "encoder": "e",
            "task": "t",
            "metric": "m",
            "subject": measured(s),
            "twins": {"fresh": draws_of(s)},
            "controls": {"a": row(s, -0.2, 9)},
            "positive": {"o": row(s, 0.4, 10)},
        },
        verdict,
    )
    yield Metric(information.judge_information, lambda s: {"encoder": "e", "task": "t", "found": judged_bits(s)}, verdict)
    yield Metric(
        verdicts.holm_table,
        lambda s: {"verdicts": [verdicts.judge("e", "t", "m", measured(s), controls={"a": row(s, -0.2, 9)})]},
        {
            **{
                case: gives(lambda r, _b, s, of=of: of.check(r[0], None, s), *(m for m in of.missing if m != "twins.gain"))
                for case, of in verdict.items()
                if isinstance(of, Gives)
            },
            **base,
        },
    )
    yield Metric(
        findings.find,
        lambda s: {"contrasts": [contrasts.contrast(measured(s), row(s, -0.2, 9), "a")], "alpha": 0.025, "margin": 0.02, "margin_first": False},
        {
            **base,
            "nan": gives(lambda r, _b, _s: r.word == "not assessable" and broken in r.reason, "gain"),
            "one unit": gives(lambda r, _b, _s: r.word == "not assessable" and TOO_FEW in r.reason),
            "constant": gives(lambda r, _b, _s: r.word == "beats"),
            "group of one": gives(lambda r, _b, _s: r.word == "beats"),
        },
    )
    yield Metric(
        statistic.image_mean,
        lambda s: {"values": s.values, "units": s.plates, "labels": s.labels, "n_classes": CLASSES},
        {
            **FINITE,
            "constant": gives(lambda r, _b, _s: r.value == 0.5 and np.allclose(r.without, 0.5)),
            "one class": gives(lambda r, b, _s: r.value == b.value and r.class_in_units == 0),
            "one unit": gives(lambda r, b, _s: r.value == b.value and r.share.tolist() == [1.0], "without"),
            "group of one": gives(lambda r, b, _s: r.value == b.value and r.share.min() == 1 / 72),
            "a unit is missing": Refused("Expected one label for each of 71 images"),
            "empty": NO_IMAGE,
        },
        score=False,
    )
    yield Metric(
        statistic.inflation_of,
        lambda s: {"folds": np.where(s.folds == 0, 0, -1), "units": s.plates},
        {
            "one unit": equals(1.25),
            "group of one": equals(1 + 5 / 8 / 4),
            "a unit is missing": Refused("Expected a unit name for each of 72 images"),
            "empty": NO_IMAGE,
        },
        score=False,
    )


def _ladders() -> Iterator[Metric]:
    series = Refused(r"Expected at least 2 finite values in one row, got shape \(\d+,\)")
    for function in (ladder.tau_b, ladder.spearman):
        yield Metric(
            function,
            lambda s: {"first": s.values, "second": s.probabilities[:, 0]},
            {"nan": series, "inf": series, "constant": equals(0.0), "empty": series},
            score=False,
        )
    yield Metric(
        ladder.order,
        lambda s: {"values": s.probabilities[:5]},
        {
            "nan": series,
            "inf": series,
            "constant": gives(lambda r, _b, _s: r.tau == 0 and r.low < 0 < r.high),
            "empty": Refused("at least 2 runs on at least 2 rungs"),
        },
        ordered={"": "of the first five images only"},
    )
    yield Metric(
        ladder.lead,
        lambda s: {"trained": s.values, "nothing": s.probabilities[:, 0]},
        {
            "nan": series,
            "inf": series,
            "constant": gives(lambda r, _b, _s: abs(r.gain - (0.5 - 1 / 3)) < 1e-12 and r.low == r.gain == r.high),
            "empty": series,
        },
    )
    yield Metric(
        ladder.rise,
        lambda s: {"orders": [climbs(s)], "leads": [{"noise": ladder.Lead(0.3, 0.1, 0.5)}], "n_rungs": CLASSES},
        {
            "nan": series,
            "inf": series,
            "constant": gives(lambda r, _b, _s: r.order.tau == 0 and not r.rises),
            "empty": Refused("at least 2 runs on at least 2 rungs"),
        },
        ordered={"": "of the first five images only"},
        score=False,
    )
    yield Metric(
        ladder.judge_metric,
        lambda s: {
            "orders": {"simclr": climbs(s)},
            "rises": {"simclr": ladder.Rise(ladder.order(np.tile(np.arange(4.0), (5, 1))), 1.0)},
            "leads": {"simclr": {"noise": ladder.Lead(0.3, 0.1, 0.5)}},
        },
        {
            "nan": series,
            "inf": series,
            "constant": gives(lambda r, _b, _s: r.word in ("blind", "undecided")),
            "empty": Refused("at least 2 runs on at least 2 rungs"),
        },
        ordered={"": "of the first five images only"},
        score=False,
    )
    yield Metric(
        ladder.agreement,
        lambda s: {"values": {"a": s.values, "log_loss_bits": s.probabilities[:, 0]}},
        {"nan": series, "inf": series, "constant": gives(lambda r, _b, _s: not r.kendall.any() and not r.spearman.any()), "empty": series},
        score=False,
    )
    yield Metric(
        ladder.permuted_labels,
        lambda s: {"codes": s.labels, "blocks": np.arange(len(s.labels)), "units": s.plates, "folds": s.folds, "seed": [0]},
        {
            "one class": gives(lambda r, _b, _s: (r.within, r.changeable) == ("", 0.0) and not r.codes.any()),
            "one unit": gives(lambda r, _b, _s: np.bincount(r.codes).tolist() == [24, 24, 24]),
            # alone in its unit its label cannot become another
            "group of one": gives(lambda r, _b, s: r.codes[0] == s.labels[0] and r.changeable == 71 / 72),
            "a unit is missing": NO_UNIT,
            "empty": Refused("Expected at least one image"),
        },
        score=False,
        ordered={"codes": "draws are dealt by row"},
    )


def _probes() -> Iterator[Metric]:
    probe = {"n_classes": CLASSES, "settings": PROBE}

    def guess(r: Any, _b: Any, _s: Screen) -> bool:
        return np.allclose(r.probabilities, 1 / CLASSES)

    def first(r: Any, _b: Any, _s: Screen) -> bool:
        return np.allclose(r.probabilities, [1, 0, 0]) and "training" in " ".join(r.notes)

    def rows(r: Any, _b: Any, _s: Screen) -> bool:
        return np.allclose(r.probabilities.sum(axis=1), 1) and r.probabilities.shape == (48, 3)

    absent = ("probes.0.linear.intercept", "probes.1.linear.intercept", "probes.0.c", "probes.1.c")
    unlike = Refused(r"Expected a label below 3, a fold and a group for each image, got shapes \(72,\), \(72,\) and \(71,\)")
    for kind in ("logistic", "knn"):
        c = ("probes.0.c", "probes.1.c") if kind == "logistic" else ()
        yield Metric(
            probes.out_of_fold,
            lambda s, kind=kind: {"features": s.x, "labels": s.labels, "folds": s.folds, "groups": s.plates, **probe, "kind": kind},
            {
                **FINITE,
                "constant column": gives(lambda r, b, _s: alike(r.probabilities, b.probabilities, 1e-6)),
                "constant": gives(guess, *c),
                "one class": gives(first, *(absent if kind == "logistic" else ())),
                "group of one": gives(rows),
                "more dimensions": gives(rows),
                "a unit is missing": unlike,
                "one unit": gives(rows),
                "empty": NO_TEST,
            },
            ordered={"": "rows of test images"},
            score=False,
            variant=kind,
        )
    one_class = gives(lambda r, _b, s: np.allclose(r.predict_proba(s.x), [1, 0, 0]) and "training" in " ".join(r.notes), "linear.intercept", "c")

    def told(r: Any, _b: Any, s: Screen) -> bool:
        return float((r.predict_proba(s.x).argmax(axis=1) == s.labels).mean()) > 0.8

    def uniform(r: Any, _b: Any, s: Screen) -> bool:
        return np.allclose(r.predict_proba(s.x), 1 / CLASSES)

    yield Metric(
        probes.fit_probe,
        lambda s: {"features": s.x, "labels": s.labels, "groups": s.plates, **probe},
        {
            **FINITE,
            "constant column": gives(told),
            "constant": gives(uniform, "c"),
            "one class": one_class,
            "one unit": gives(lambda r, _b, _s: "only one training group" in r.notes[0]),
            "group of one": gives(told),
            "more dimensions": gives(lambda r, _b, s: r.projection.dim == 8 and np.allclose(r.predict_proba(s.x).sum(axis=1), 1)),
            "a unit is missing": Refused("Expected one label for each of 71 images"),
            "empty": NO_TRAINING,
        },
        score=False,
        tolerance=1e-5,
    )
    yield Metric(
        probes.fit_knn,
        lambda s: {"features": s.x, "labels": s.labels, **probe},
        {
            **FINITE,
            "constant column": gives(told),
            "constant": gives(uniform),
            "one class": gives(lambda r, _b, s: np.allclose(r.predict_proba(s.x), [1, 0, 0]) and "training" in " ".join(r.notes)),
            "more dimensions": gives(lambda r, _b, s: np.allclose(r.predict_proba(s.x).sum(axis=1), 1)),
            "empty": NO_TRAINING,
        },
        score=False,
    )
    yield Metric(
        projection.fit_projection,
        lambda s: {"features": s.x, "max_dim": 4},
        {
            **FINITE,
            "constant column": gives(lambda r, b, _s: alike(r.components[:, :6], b.components, 1e-7) and not r.components[:, 6].any()),
            "constant": gives(lambda r, _b, _s: r.dim == 0),
            "more dimensions": gives(lambda r, _b, _s: np.allclose(r.components @ r.components.T, np.eye(4))),
            "empty": NO_TRAINING,
        },
        score=False,
        tolerance=1e-7,
    )

    def ridge_told(r: Any, _b: Any, s: Screen) -> bool:
        return float((r.predict(s.x) == s.labels).mean()) > 0.8 and np.allclose(r.scores(s.x).sum(axis=1), 1)

    yield Metric(
        ridge.fit_ridge,
        lambda s: {"z": s.x, "labels": s.labels, "groups": s.plates, "n_classes": CLASSES},
        {
            **FINITE,
            "constant column": gives(ridge_told),
            "constant": gives(lambda r, _b, s: np.allclose(r.scores(s.x), 1 / CLASSES)),
            "one class": gives(lambda r, _b, s: not r.predict(s.x).any(), "intercept", "penalty"),
            "one unit": gives(lambda r, _b, s: "only one training group" in r.notes[0] and ridge_told(r, _b, s)),
            "group of one": gives(ridge_told),
            "more dimensions": gives(ridge_told),
            "a unit is missing": Refused("Expected one label for each of 71 images"),
            "empty": NO_TRAINING,
        },
        score=False,
    )
    yield Metric(
        few_shot.class_means,
        lambda s: {"train": s.x, "labels": s.labels, "n_classes": CLASSES, "queries": s.x},
        {
            **FINITE,
            "constant column": UNCHANGED,
            "constant": equals(1 / 3),
            "one class": gives(lambda r, _b, _s: np.allclose(r, [1, 0, 0])),
            "more dimensions": gives(lambda r, _b, _s: np.allclose(r.sum(axis=1), 1)),
            "empty": NO_TRAINING,
        },
        score=False,
    )
    yield Metric(
        few_shot.few_shot,
        lambda s: {"features": s.x, "labels": s.labels, "folds": s.folds, "n_classes": CLASSES, "shots": (1, 4, 40), "draws": 2},
        {
            **FINITE,
            "constant column": unchanged("mean", "sd"),
            "constant": gives(lambda r, _b, _s: np.allclose(r.mean[:2], 1 / 3) and abs(r.whole - 1 / 3) < 1e-12, "mean", "sd"),
            "one class": gives(lambda r, _b, _s: r.whole == r.chance == 1),
            "more dimensions": gives(lambda r, _b, _s: 0 <= r.whole <= 1, "mean", "sd"),
            "empty": NO_TEST,
        },
        missing=frozenset({"mean", "sd"}),
        ordered={"mean": "shots are drawn by row", "sd": "the same"},
    )
    yield Metric(
        folds.inner_folds,
        lambda s: {"labels": s.labels, "groups": s.plates, "n_classes": CLASSES, "n_folds": 3},
        {
            "one class": gives(lambda r, _b, s: r.kind == "groups" and len({(p, f) for p, f in zip(s.plates, r.fold, strict=True)}) == PLATES),
            "one unit": gives(lambda r, _b, s: r.kind == "images" and np.bincount(r.fold * 3 + s.labels).tolist() == [8] * 9),
            "group of one": gives(lambda r, _b, s: r.kind == "groups" and len({(p, f) for p, f in zip(s.plates, r.fold, strict=True)}) == PLATES + 1),
            "a unit is missing": Refused("Expected one label for each of 71 images"),
            "empty": NO_IMAGE,
        },
        score=False,
    )

    def bits_chance(r: Any, _b: Any, _s: Screen) -> bool:
        return np.allclose(r.bits, np.log2(3)) and abs(r.compression.value - 1) < 1e-12

    yield Metric(
        code_length.online_code,
        lambda s: {"features": s.x, "labels": s.labels, "units": s.plates, **probe, "fractions": (0.5, 1.0)},
        {
            **FINITE,
            "constant column": gives(lambda r, b, _s: alike(r.bits, b.bits, 1e-6)),
            "constant": gives(bits_chance),
            # the others of the vocabulary are unseen and keep their share
            "one class": gives(bits_chance),
            "one unit": Refused("units for at least 2 blocks, got 3 classes and 1 units"),
            "group of one": gives(lambda r, _b, _s: len(r.order) == 13 and r.compression.value > 1),
            "more dimensions": gives(lambda r, b, _s: 0 < r.compression.value < b.compression.value),
            "a unit is missing": Refused("Expected a unit for each of 72 images, got 71"),
            "empty": NO_IMAGE,
        },
        tolerance=1e-5,
    )
    yield Metric(
        selectivity.control_labels,
        lambda s: {"labels": s.labels, "types": s.compounds, "n_classes": CLASSES},
        {
            "one class": Refused("Expected more types than the 1 classes, got 1"),
            "group of one": gives(lambda r, _b, s: len({(t, c) for t, c in zip(s.compounds, r, strict=True)}) == 7),
            "empty": NO_IMAGE,
        },
        score=False,
    )
    yield Metric(
        selectivity.selectivity,
        lambda s: {
            "features": s.x,
            "labels": s.labels,
            "types": s.compounds,
            "folds": s.folds,
            "groups": s.plates,
            **probe,
            "kind": "knn",
            "draws": 2,
        },
        {
            **FINITE,
            "constant column": UNCHANGED,
            "constant": equals(0.0, lambda r: r.selectivity.value),
            "one class": Refused("Expected more types than the 1 classes, got 1"),
            "one unit": gives(lambda r, b, _s: abs(r.selectivity.value - b.selectivity.value) < 1e-9, "selectivity.without", "task.without"),
            "group of one": gives(lambda r, _b, _s: r.recurring == 47 / 48),
            "more dimensions": between(-1, 1, lambda r: r.selectivity.value),
            "a unit is missing": unlike,
            "empty": NO_TEST,
        },
    )
    yield Metric(
        decoding.decode,
        lambda s: {
            "features": s.x,
            "column": "Plate",
            "columns": {"Plate": s.plates, "Well": s.wells},
            "units": s.plates,
            "settings": PROBE,
            "kind": "knn",
            "labels": s.classes,
        },
        {
            **FINITE,
            "constant column": UNCHANGED,
            "constant": equals(1 / PLATES, lambda r: r.statistic.value),
            # of one label every plate is as likely
            "one class": equals(1 / PLATES, lambda r: r.of_label),
            "one unit": gives(lambda r, _b, _s: r.statistic is None and "there are 1 values" in r.note, "chance"),
            "group of one": gives(lambda r, _b, _s: r.left_out == 1 and r.chance == 1 / PLATES),
            "more dimensions": between(0, 1, lambda r: r.statistic.value),
            "a unit is missing": Refused(r"Expected 72 values of `Plate`, got shape \(71,\)"),
            "empty": gives(lambda r, _b, _s: r.statistic is None and "there are 0 wells" in r.note, "chance"),
        },
    )
    gene = Refused("Expected finite features|raw counts of 0 or more, got negative or missing")
    yield Metric(
        expression.expression_scores,
        lambda s: {"features": s.x, "counts": s.counts, "units": s.plates, "folds": s.folds},
        {
            "nan": gene,
            "inf": gene,
            # the constant gene has r = 0 in both folds
            "constant column": gives(lambda r, b, _s: r.constant == 2 and r.per_gene[1] == 0 and 0 < r.r.value < b.r.value),
            "constant": gives(lambda r, _b, _s: r.r.value == 0 and r.constant == 8),
            "one unit": Refused("`p00` is among training and test spots of fold 0"),
            "group of one": gives(lambda r, b, _s: abs(r.r.value - b.r.value) < 0.1),
            "more dimensions": between(-1, 1, lambda r: r.r.value),
            "a unit is missing": NO_UNIT,
            "empty": Refused("Expected at least one image|got none"),
        },
        tolerance=1e-7,
    )


def _shapes() -> Iterator[Metric]:
    yield Metric(
        geometry.check_features,
        lambda s: {"features": s.x},
        {**FINITE, **{case: gives(lambda r, _b, s: np.array_equal(r, s.x)) for case in ("constant column", "constant", "more dimensions", "empty")}},
        score=False,
    )
    long = gives(lambda r, _b, _s: np.allclose(np.linalg.norm(r, axis=1), 1))
    yield Metric(
        geometry.directions,
        lambda s: {"features": s.x, "names": s.ids},
        {**FINITE, "constant column": long, "constant": long, "more dimensions": long, "empty": gives(lambda r, _b, _s: r.shape == (0, 6))},
        score=False,
    )
    yield Metric(
        geometry.describe,
        lambda s: {"features": s.x},
        {
            **FINITE,
            "constant column": gives(lambda r, b, _s: (r.d, r.varying, r.participation_ratio) == (7, 6, b.participation_ratio)),
            "constant": gives(lambda r, _b, _s: r.collapsed and r.low_rank and r.participation_ratio == 0),
            "more dimensions": gives(lambda r, _b, _s: 3 < r.participation_ratio <= 71),
            "empty": gives(lambda r, _b, _s: r.collapsed and r.n == 0),
        },
        score=False,
    )
    yield Metric(
        pairs.fitting_distance,
        lambda s: {"features": s.x},
        {
            **FINITE,
            "constant column": gives(lambda r, _b, _s: r == "cosine"),
            "constant": gives(lambda r, _b, _s: r == "euclidean"),
            "more dimensions": gives(lambda r, _b, _s: r == "cosine"),
            "empty": gives(lambda r, _b, _s: r == "euclidean"),
        },
        score=False,
    )
    yield Metric(
        shortcut.shortcut_features,
        lambda s: {"intensity": s.x, "histogram": s.counts},
        {
            **FINITE,
            **{
                case: gives(lambda r, _b, s: np.array_equal(r, np.hstack([s.x, s.counts])))
                for case in ("constant column", "constant", "more dimensions", "empty")
            },
        },
        score=False,
    )


def _retrieval() -> Iterator[Metric]:
    def args(s: Screen) -> dict[str, Any]:
        return {"features": s.x, "labels": s.labels, "units": s.plates, "n_classes": CLASSES}

    def chance(r: Any, _b: Any, _s: Screen) -> bool:
        return np.allclose(r.ap, r.chance) and abs(r.normalised.value) < 1e-12 and r.tie_rate == 1

    def bounded(r: Any, _b: Any, _s: Screen) -> bool:
        return 0 < r.map.value < 1 and r.normalised.value < r.map.value

    bad = {**FINITE, "one class": QUERY, "one unit": QUERY, "a unit is missing": NO_UNIT, "empty": Refused("Expected at least one image")}
    yield Metric(
        retrieval.retrieve,
        args,
        {**bad, "constant column": UNCHANGED, "constant": gives(chance), "group of one": gives(bounded), "more dimensions": gives(bounded)},
    )
    yield Metric(
        retrieval.retrieve,
        lambda s: {**args(s), "places": s.wells},
        {**bad, "constant column": UNCHANGED, "constant": gives(chance), "group of one": gives(bounded), "more dimensions": gives(bounded)},
        variant="in other wells",
    )
    yield Metric(
        retrieval.permutation_null,
        lambda s: {**args(s), "n_permutations": 19},
        {
            **bad,
            "constant column": UNCHANGED,
            "constant": gives(lambda r, _b, _s: r.p == 1.0),
            "group of one": equals(0.05, lambda r: r.p),
            "more dimensions": equals(0.05, lambda r: r.p),
        },
        ordered=dict.fromkeys(("p", "mean", "sd"), "draws are dealt by row"),
    )
    yield Metric(
        retrieval.permutation_null,
        lambda s: {**args(s), "strata": s.compounds, "n_permutations": 19},
        {
            **FINITE,
            "constant column": unchanged("mean", "sd"),
            "constant": gives(lambda r, _b, _s: r.p is None and "no unit holds two labels" in r.reason, "mean", "sd"),
            "group of one": gives(lambda r, _b, _s: r.p is None and "no unit holds two labels" in r.reason, "mean", "sd"),
            "more dimensions": gives(lambda r, _b, _s: r.p is None and "no unit holds two labels" in r.reason, "mean", "sd"),
            "one class": QUERY,
            "one unit": QUERY,
            "a unit is missing": NO_UNIT,
            "empty": Refused("Expected at least one image"),
        },
        missing=frozenset({"mean", "sd"}),
        variant="nothing to permute",
    )
    yield Metric(
        retrieval.has_query,
        lambda s: {"labels": s.labels, "units": s.plates, "folds": s.folds},
        {
            "one class": gives(lambda r, _b, _s: r is False),
            "one unit": gives(lambda r, _b, _s: r is False),
            "group of one": gives(lambda r, _b, _s: r is True),
            "a unit is missing": Refused("Expected a unit and a fold for each of 72 images"),
            "empty": gives(lambda r, _b, _s: r is False),
        },
        score=False,
    )
    column = Refused(r"Expected 72 values of `plate`, got shape \(71,\)")
    alone = gives(lambda r, _b, _s: np.isnan(r.ap[0]) and r.n_positive[0] == 0 and np.isfinite(r.ap[6:]).all(), "ap", "chance", "tied")
    ties = gives(lambda r, _b, _s: np.allclose(r.normalised, 0) and (r.tied == 1).all())
    yield Metric(
        pairs.pair_scores,
        lambda s: {"features": s.x, "columns": s.columns, "rule": RULE},
        {
            **FINITE,
            # a cosine is one of profiles of length 1
            "constant column": gives(lambda r, _b, s: alike(r, pairs.pair_scores(s.x / np.linalg.norm(s.x, axis=1)[:, None], s.columns, RULE))),
            "constant": ties,
            "one class": PAIR,
            "one unit": PAIR,
            "group of one": alone,
            "more dimensions": between(0, 1, lambda r: r.ap),
            "a unit is missing": column,
            "empty": PAIR,
        },
        ordered={"query": "rows"},
    )
    yield Metric(
        pairs.multilabel_scores,
        lambda s: {"features": s.x, "membership": np.eye(CLASSES, dtype=bool)[s.labels], "columns": s.columns, "rule": RULES["consistency"]},
        {
            **FINITE,
            "constant column": between(0, 1, lambda r: r.ap),
            "constant": ties,
            "one class": PAIR,
            # the rule does not ask for plates
            **dict.fromkeys(("one unit", "a unit is missing"), UNCHANGED),
            "group of one": between(0, 1, lambda r: r.ap),
            "more dimensions": between(0, 1, lambda r: r.ap),
            "empty": PAIR,
        },
        ordered={"query": "rows"},
    )
    yield Metric(
        multilabel.label_scores,
        lambda s: {"features": s.x, "membership": np.eye(CLASSES, dtype=bool)[s.labels], "names": ("a", "b", "c"), "permutations": 9},
        {
            **FINITE,
            "constant column": between(-1, 1, lambda r: r.normalised),
            "constant": equals(0.0, lambda r: r.value),
            "one class": Refused("Expected a label that two profiles have"),
            "more dimensions": between(-1, 1, lambda r: r.normalised),
            "empty": Refused("Expected a label that two profiles have"),
        },
    )

    def in_wells(r: Any, _b: Any, _s: Screen) -> bool:
        return len(r.elsewhere) == CLASSES and -1 <= r.value <= 1 and 0 < r.share <= 1 and 0 < r.dropped < 1 and not r.reason

    yield Metric(
        multilabel.label_position_control,
        lambda s: {
            "features": s.x,
            "membership": np.eye(CLASSES, dtype=bool)[s.labels],
            "names": ("a", "b", "c"),
            "places": s.wells[:, None] == np.unique(s.wells),
        },
        {
            **FINITE,
            "constant column": gives(in_wells),
            "constant": gives(lambda r, b, s: in_wells(r, b, s) and np.allclose([r.value, r.drop], 0)),
            "one class": Refused("Expected a label that two profiles have"),
            "more dimensions": gives(in_wells),
            "empty": Refused("Expected a label that two profiles have"),
        },
    )
    grouped = Groups(("perturbation",), ("plate",))
    nothing = gives(lambda r, _b, _s: np.allclose(r.normalised, 0) and (r.p == 1).all())

    def probabilities(r: Any, _b: Any, _s: Screen) -> bool:
        return len(r.names) == 6 and r.p.min() >= 0.05 and (r.p_adjusted >= r.p).all()

    yield Metric(
        groups.group_scores,
        lambda s: {"features": s.x, "columns": s.columns, "rule": RULE, "groups": grouped, "n_permutations": 19},
        {
            **FINITE,
            "constant column": gives(probabilities),
            "constant": nothing,
            "one class": PAIR,
            "one unit": PAIR,
            "group of one": gives(probabilities),
            "more dimensions": gives(probabilities),
            "a unit is missing": column,
            "empty": PAIR,
        },
        ordered={"p": "draws are dealt by row", "p_adjusted": "the same", "null": "the same"},
    )

    def scored(s: Screen) -> pairs.PairScores:
        return pairs.pair_scores(s.x, s.columns, RULE)

    def parity(r: Any, _b: Any, _s: Screen) -> bool:
        return len(r.names) == 6 and r.p.min() >= 1 / 101 and r.p.max() <= 1

    yield Metric(
        groups.copairs_group_scores,
        lambda s: {"scored": scored(s), "columns": s.columns, "groups": Groups(("perturbation",)), "null_size": 100},
        {
            **FINITE,
            "constant column": gives(parity, "null"),
            "constant": gives(parity, "null"),
            "one class": PAIR,
            "one unit": PAIR,
            "group of one": gives(parity, "null"),
            "more dimensions": gives(parity, "null"),
            "a unit is missing": column,
            "empty": PAIR,
        },
        missing=frozenset({"null"}),
    )
    yield Metric(
        groups.benjamini_hochberg,
        lambda s: {"p": s.probabilities[:, 1]},
        {
            "nan": gives(
                lambda r, _b, s: alike(np.delete(r, 3), groups.benjamini_hochberg(np.delete(s.probabilities[:, 1], 3))) and np.isnan(r[3]), ""
            ),
            "inf": Refused("Expected p-values from 0 to 1 .* got .*inf"),
            "constant": equals(1 / 3),
            "empty": gives(lambda r, _b, _s: r.shape == (0,)),
        },
        score=False,
    )
    yield Metric(
        groups.group_codes,
        lambda s: {"columns": s.columns, "sameby": ("perturbation",), "n": len(s.x)},
        {
            "one class": gives(lambda r, _b, _s: r[0] == ("c0",) and not r[1].any()),
            "group of one": gives(lambda r, _b, _s: r[0][-1] == "c99" and r[1][0] == 6),
            **dict.fromkeys(("one unit", "a unit is missing"), UNCHANGED),
            "empty": gives(lambda r, _b, _s: r[0] == ()),
        },
        score=False,
    )
    finite = Refused("Expected finite similarities")
    yield Metric(
        ranking.tie_aware_ap,
        lambda s: {"similarity": s.values, "relevant": s.labels == 0},
        {
            "nan": finite,
            "inf": finite,
            "constant": equals(ranking.expected_ap(24, 48)),
            "one class": equals(1.0),
            "empty": Refused("Expected at least one relevant candidate, got none"),
        },
    )
    yield Metric(
        ranking.expected_ap,
        lambda s: {"n_positive": int((s.labels == 0).sum()), "n_negative": int((s.labels != 0).sum())},
        {"one class": equals(1.0), "empty": Refused("Expected at least one positive .* got 0 and 0")},
    )


def in_places(s: Screen) -> Array:
    """(n, w) each image in one place, by its name, so that some that are six numbers apart share one."""
    return np.array([int(name[1:]) ** 2 % 7 for name in s.ids.tolist()], dtype=np.int64)[:, None] == np.arange(7)


def _knowledge() -> Iterator[Metric]:
    known = [(f"i{i:02d}", f"i{i + 6:02d}") for i in range(20)]
    yield Metric(
        relations.recall,
        lambda s: {"features": s.x, "names": s.ids, "known": known, "permutations": 9},
        {
            **FINITE,
            "constant column": between(0, 1, lambda r: r.value),
            # every cosine ties, and ties count against
            "constant": equals(0.0, lambda r: r.value),
            "more dimensions": between(0, 1, lambda r: r.value),
            "empty": Refused("Expected at least 20 entities for a null, got 0"),
        },
    )

    def apart(r: Any, _b: Any, _s: Screen) -> bool:
        return 0 <= r.value <= 1 and 0 < r.share < 1 and np.isclose(r.drop, r.anywhere - r.value) and not r.reason

    yield Metric(
        relations.recall_position_control,
        lambda s: {"features": s.x, "names": s.ids, "known": known, "places": in_places(s)},
        {
            **FINITE,
            "constant column": gives(apart),
            "constant": gives(lambda r, b, s: apart(r, b, s) and (r.anywhere, r.value) == (0, 0)),
            "more dimensions": gives(apart),
            "empty": Refused("Expected at least 20 entities for a null, got 0"),
        },
    )
    none = Refused("Expected a negative perturbation with enough replicates, got none")

    def signal(r: Any, _b: Any, _s: Screen) -> bool:
        return r.names[:5] == ("c0", "c1", "c2", "c3", "c4") and np.nanmin(r.p) >= 1 / (1 + r.null)

    lacking = ("p", "p_published")
    yield Metric(
        relations.consistency,
        lambda s: {"features": s.x, "names": s.compounds, "negatives": ["c4", "c5"]},
        {
            **FINITE,
            "constant column": gives(signal, *lacking),
            "constant": gives(lambda r, _b, _s: np.allclose(r.value, 1) and np.allclose(r.p[:4], 1), *lacking),
            "one class": none,
            "group of one": gives(lambda r, _b, _s: np.isnan(r.value[-1]) and r.names[-1] == "c99", "value", *lacking),
            "more dimensions": gives(signal, *lacking),
            "empty": none,
        },
        missing=frozenset(lacking),
    )
    control = Refused("Expected at least one control profile, got none")
    yield Metric(
        relations.magnitude,
        lambda s: {"features": s.x, "names": s.compounds, "controls": s.compounds == "c5", "negatives": ["c4"]},
        {
            **FINITE,
            "constant column": unchanged(*lacking),
            "constant": gives(lambda r, _b, _s: np.allclose(r.value, 0) and np.allclose(r.p[:4], 1), *lacking),
            "one class": control,
            "group of one": gives(lambda r, _b, _s: np.isnan(r.value[-1]) and r.names[-1] == "c99", "value", *lacking),
            "more dimensions": gives(signal, *lacking),
            "empty": control,
        },
        missing=frozenset(lacking),
    )

    def asked(s: Screen) -> dict[str, Any]:
        doses = {"d0": s.x[np.isin(s.ids, ["i00", "i30"])], "d1": s.x[s.ids == "i01"]}
        return {"profiles": doses, "genes": s.ids, "gene_profiles": s.x, "truth": truth(), "draws": 3}

    yield Metric(
        targets.target_scores,
        lambda s: asked(s) | {"permutations": 9},
        {
            **FINITE,
            "constant column": between(0, 1, lambda r: [*r.ap, *r.auroc]),
            "constant": gives(
                lambda r, _b, _s: np.allclose(r.auroc, 0.5) and np.allclose(r.ap, [ranking.expected_ap(2, 20), ranking.expected_ap(1, 20)])
            ),
            "more dimensions": between(0, 1, lambda r: [*r.ap, *r.auroc]),
            "empty": Refused("None of the 3 compounds of the truth could be scored"),
        },
    )

    def in_other_places(r: Any, _b: Any, _s: Screen) -> bool:
        return r.compounds == ("d0", "d1") and 0 <= r.ap.min() <= r.ap.max() <= 1 and (r.share, r.reason) == (1, "") and 0 < r.dropped < 1

    yield Metric(
        targets.target_position_control,
        lambda s: {
            **asked(s),
            "anywhere": targets.target_scores(**asked(s)),
            # one of the targets of the first lies in its place
            "places": {"d0": np.arange(7) == 4, "d1": np.arange(7) == 1},
            "gene_places": in_places(s),
        },
        {
            **FINITE,
            "constant column": gives(in_other_places),
            "constant": gives(lambda r, b, s: in_other_places(r, b, s) and np.allclose([*r.auroc, *(r.ap - r.chance)], [0.5, 0.5, 0, 0])),
            "more dimensions": gives(in_other_places),
            "empty": Refused("None of the 3 compounds of the truth could be scored"),
        },
    )


def _bits() -> Iterator[Metric]:
    def args(s: Screen) -> dict[str, Any]:
        cut = fold_zero(s)
        twins = {"fresh": [cut.x[:, ::-1]]}
        return {
            "controls": cut.counts,
            "encoder": cut.x,
            "twins": twins,
            "labels": cut.labels,
            "folds": cut.folds,
            "units": cut.plates,
            "n_classes": 2,
            "settings": BITS,
        }

    def bounded(r: Any, _b: Any, _s: Screen) -> bool:
        return abs(r.encoder.value) <= np.log2(2 / 1e-3) and r.prior.value > 0

    yield Metric(
        information.beyond_controls,
        args,
        {
            **FINITE,
            "constant column": gives(bounded),
            "constant": gives(lambda r, _b, _s: r.encoder.value == 0 and r.dropped == 1 and abs(r.baseline.value - r.prior.value) < 1e-6),
            "one class": Refused("Expected training images of at least two classes, got 1"),
            "one unit": gives(bounded, "encoder.without", "twins.fresh.without", "random_features.without", "baseline.without", "prior.without"),
            "group of one": gives(bounded),
            "more dimensions": gives(bounded),
            "a unit is missing": Refused("Expected a fold and a unit for each of 48 images"),
            "empty": NO_TEST,
        },
        tolerance=1e-5,
    )


CATALOGUE: dict[str, Metric] = {
    metric.name: metric
    for family in (
        _alignments,
        _canonical,
        _chosen,
        _classification,
        _confounds,
        _statistics,
        _ladders,
        _probes,
        _shapes,
        _retrieval,
        _knowledge,
        _bits,
    )
    for metric in family()
}


def digests() -> Iterator[str]:
    """A line for each metric and case."""
    for metric in CATALOGUE.values():
        for case in ["", *metric.expected]:
            found = outcome(metric, case)
            yield f"{metric.name} {case} {found if isinstance(found, BlankslideError) else digest(found)}"


if __name__ == "__main__":
    print("\n".join(digests()))

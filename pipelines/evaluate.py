"""Vectors to scores: probes and retrieval for every member of every row, one rule for all of them.

Everything fitted (standardisation, principal components, probes and their penalty) sees the training images of a fold only;
the fold's test images are scored once. What is scored is kept in a work folder beside the output until all is published, so that a killed
run goes on where it was.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipelines.benchmarks.index import Benchmark
from pipelines.beside.asking import ANSWERS, ask_beside
from pipelines.beside.wells import positions_of
from pipelines.embeddings import Row, read_rows
from pipelines.kept import Kept
from pipelines.made_by import write_made_by
from pipelines.metrics.choice import chance_loss, choose, inner_loss, side_by_side
from pipelines.metrics.classification import balanced_accuracy, calibration_error, log_loss, macro_auroc, macro_f1
from pipelines.metrics.few_shot import PROTOCOL as SIMPLESHOT
from pipelines.metrics.few_shot import class_means
from pipelines.metrics.geometry import describe
from pipelines.metrics.names import whole_names
from pipelines.metrics.probes import LogisticProbe, OutOfFold, ProbeSettings, out_of_fold
from pipelines.metrics.projection import fit_projection
from pipelines.metrics.retrieval import OTHER_WELLS as IN_OTHER_WELLS
from pipelines.metrics.retrieval import PROTOCOL, Retrieval, has_query, permutation_null, retrieve
from pipelines.metrics.ridge import fit_ridge
from pipelines.metrics.ridge import protocol_id as ridge_protocol
from pipelines.metrics.statistic import Statistic
from pipelines.params import Params
from pipelines.scores import Predictions, Scored, write_scores
from pipelines.tasks import FoldFeatures, Question, fold_features, inflated, probe_settings
from registry.arrays import Floats, Ints, Mask
from registry.bundle import write_arrays
from registry.cards import EncoderCard
from registry.errors import BenchmarkError
from registry.files import sha256_of_file, write_json
from registry.heads import Head

RETRIEVAL = "retrieval.map"
#: the same with positives in other wells only: whether the position on the plate alone would do
OTHER_WELLS = "retrieval.other_wells_map"
ORACLE = "oracle"
#: the row that is noise by construction; the positive control never needs to look at it
NOISE = "random"
#: candidate of the positive control
TOGETHER = "all rows together"
#: code that decides what is scored
SCORING = ("pipelines/evaluate.py", "pipelines/tasks.py", "pipelines/beside", "pipelines/scores.py", "pipelines/lines.py", "pipelines/metrics")
#: what -inf becomes in a head: a class that training did not have keeps probability 0 and the array stays finite
NEVER = -1e9


@dataclass(frozen=True)
class Outcome:
    """What one member gives on one task."""

    scored: list[Scored]
    predictions: list[Predictions]
    head: dict[str, NDArray[np.generic]]


def evaluate_cell(benchmark: Benchmark, folder: Path, params: Params, out: Path) -> None:
    """Score every row of one cell; publish scores, leave-one-unit-out statistics, predictions, heads, and what is asked beside the tasks.

    Raises:
        BenchmarkError: the cell was not extracted.
    """
    rows = [Row.read(path.parent) for path in sorted(folder.glob("*/manifest.json"))]
    if not rows:
        raise BenchmarkError(f"`{folder}` holds no rows. Run `blankslide extract` for that cell.")
    jobs = [(row, member) for row in rows if not row.manifest.not_applicable for member in row.manifest.members]
    questions = [Question.of(benchmark, task) for task in benchmark.card.tasks]
    for library in ("scipy.linalg", "scipy.sparse.csgraph"):
        importlib.import_module(library)  # once, before the workers fork
    kept = kept_of(benchmark, rows, params, out)
    # a task at a time: a cell of one member keeps all cores at work
    asked = {f"{row.name}/{member}/{question.task.name}": (row, member, question) for row, member in jobs for question in questions}
    found = list(kept.each("scores", partial(_evaluate, benchmark, params), asked, params.threads, "members and tasks"))
    scored = [row for row in rows if not row.manifest.not_applicable]
    ask_beside(benchmark, questions, scored, params, kept, out)
    write_made_by(out, scored)
    _publish(out, found)
    kept.done()


def kept_of(benchmark: Benchmark, rows: Iterable[Row], params: Params, out: Path) -> Kept:
    """What a run into `out` that was ended has scored of these rows."""
    facts = {
        "data": [benchmark.data_hash(), sha256_of_file(benchmark.folder / "card.json")],
        "vectors": {row.name: sha256_of_file(row.folder / "manifest.json") for row in rows},
        "evaluate": asdict(params.evaluate),
        "seed": params.seed,
    }
    stage = f"evaluate {benchmark.card.name}/{out.name}"
    return Kept(out.with_name(f".{out.name}.work"), stage, facts, SCORING, Outcome, Scored, Statistic, Predictions, *ANSWERS)


def _publish(out: Path, outcomes: list[Outcome]) -> None:
    out.mkdir(parents=True, exist_ok=True)
    write_arrays(out / "heads.npz", {name: array for outcome in outcomes for name, array in outcome.head.items()})
    write_scores(out, [s for o in outcomes for s in o.scored], [p for o in outcomes for p in o.predictions])


def _evaluate(benchmark: Benchmark, params: Params, job: tuple[Row, str, Question]) -> Outcome:
    row, member, question = job
    return score(row.name, member, question, fold_features(row, member, benchmark), benchmark, params)


def score(row: str, member: str, question: Question, features: FoldFeatures, benchmark: Benchmark, params: Params) -> Outcome:
    """All scores of one member on one task."""
    rule = probe_settings(params.evaluate)
    n_classes, name = len(question.classes), question.task.name
    flags = " ".join(describe(features[min(features)]).flags)
    found = {kind: out_of_fold(features, question.codes, question.folds, question.units, n_classes, rule, kind) for kind in ("logistic", "knn")}
    logistic, knn = found["logistic"], found["knn"]

    def entry(metric: str, protocol: str, chance: float, statistic: Statistic, note: str = "") -> Scored:
        return Scored(row, member, name, metric, protocol, chance, flags, statistic, note)

    linear, nearest = rule.protocol_id("logistic"), rule.protocol_id("knn")
    notes = " ".join(logistic.notes)
    scored = [
        entry("logistic.balanced_accuracy", linear, 1 / n_classes, probe_statistic("balanced_accuracy", logistic, question), notes),
        entry("logistic.auroc", linear, 0.5, probe_statistic("auroc", logistic, question)),
        entry("logistic.macro_f1", linear, _chance_f1(logistic.labels, n_classes), probe_statistic("macro_f1", logistic, question)),
        # a probe that says the same of all classes has none
        entry("logistic.calibration_error", linear, 0.0, probe_statistic("calibration_error", logistic, question)),
        entry("logistic.log_loss_bits", linear, float(np.log2(n_classes)), probe_statistic("log_loss_bits", logistic, question)),
        entry("simpleshot.balanced_accuracy", SIMPLESHOT, 1 / n_classes, _simpleshot(question, features)),
        entry("ridge.balanced_accuracy", ridge_protocol(rule), 1 / n_classes, _ridge(question, features, logistic, rule)),
        entry("knn.balanced_accuracy", nearest, 1 / n_classes, probe_statistic("balanced_accuracy", knn, question)),
    ]
    scored = [replace(s, statistic=inflated(s.statistic, question)) for s in scored]
    retrieval = _retrieval(question, features, benchmark, params)
    if retrieval is not None:
        found_anywhere = entry(RETRIEVAL, PROTOCOL, retrieval.chance, retrieval.raw, retrieval.note)
        scored += [replace(found_anywhere, no_position_control=retrieval.no_position_control)]
        scored += [entry("retrieval.normalised_map", PROTOCOL, 0.0, retrieval.normalised, retrieval.note)]
        if retrieval.elsewhere is not None:
            scored += [entry(OTHER_WELLS, IN_OTHER_WELLS, retrieval.chance_elsewhere, retrieval.elsewhere)]
    ids = whole_names(benchmark.index["image_id"], "images")
    predictions = [_predictions(row, member, question, kind, each, ids) for kind, each in found.items()]
    return Outcome(scored, predictions, _head(f"{row}/{member}/{name}", logistic, question))


def probe_statistic(metric: str, found: OutOfFold, question: Question) -> Statistic:
    """One metric of out-of-fold predictions: "balanced_accuracy", "macro_f1", "auroc", "calibration_error" or "log_loss_bits"."""
    units = question.units[found.images]
    if metric == "macro_f1":
        return macro_f1(found.labels, found.probabilities, units)
    if metric == "calibration_error":
        return calibration_error(found.labels, found.probabilities, units)
    if metric == "auroc":
        return macro_auroc(found.labels, found.probabilities, units)
    if metric == "log_loss_bits":
        return log_loss(found.labels, found.probabilities, units)
    return balanced_accuracy(found.labels, found.predicted, units, len(question.classes))


def _simpleshot(question: Question, features: FoldFeatures) -> Statistic:
    """Balanced accuracy of the nearest class mean, test images of all folds together."""
    tested = np.flatnonzero((question.codes >= 0) & (question.folds >= 0))
    predicted = np.full(len(question.codes), -1)
    for number in sorted(set(question.folds[tested].tolist())):
        train, test = question.train(number), (question.codes >= 0) & (question.folds == number)
        x = features[number]
        predicted[test] = class_means(x[train], question.codes[train], len(question.classes), x[test]).argmax(axis=1)
    return balanced_accuracy(question.codes[tested], predicted[tested], question.units[tested], len(question.classes))


def _ridge(question: Question, features: FoldFeatures, logistic: OutOfFold, rule: ProbeSettings) -> Statistic:
    """Balanced accuracy of the ridge probe on what the logistic probe sees: its projection is the same one, and costs more than the fit."""
    predicted = np.full(len(question.codes), -1)
    for number, probe in logistic.probes.items():
        train, test = question.train(number), (question.codes >= 0) & (question.folds == number)
        project, x = probe.projection.transform, features[number]
        ridge = fit_ridge(project(x[train]), question.codes[train], question.units[train], len(question.classes), rule.inner_folds)
        predicted[test] = ridge.predict(project(x[test]))
    return balanced_accuracy(logistic.labels, predicted[logistic.images], question.units[logistic.images], len(question.classes))


def _chance_f1(labels: Ints, n_classes: int) -> float:
    """Macro F1 of predictions that all classes share alike."""
    share = np.bincount(labels, minlength=n_classes) / len(labels)
    return float(np.mean(2 * share / (1 + n_classes * share)))


def _predictions(row: str, member: str, question: Question, probe: str, found: OutOfFold, ids: NDArray[np.str_]) -> Predictions:
    images = tuple(ids[found.images].tolist())
    return Predictions(row, member, question.task.name, probe, images, found.fold, found.labels, question.classes, found.probabilities)


def _head(key: str, logistic: OutOfFold, question: Question) -> dict[str, NDArray[np.generic]]:
    """The probe of the first fold, as a server applies it."""
    probe = logistic.probes[min(logistic.probes)]
    if not isinstance(probe, LogisticProbe):
        raise TypeError(type(probe))
    return served_head(probe, question.classes).as_arrays(key)


def served_head(probe: LogisticProbe, classes: tuple[str, ...]) -> Head:
    """The same probe as plain finite arrays; a probe of a constant embedding keeps one direction of weight 0."""
    projection, linear = probe.projection, probe.linear
    components, coefficients = projection.components, linear.coefficients
    if projection.dim == 0:
        components, coefficients = np.zeros((1, len(projection.mean))), np.zeros((len(classes), 1))
    return Head.of(classes, projection.mean, projection.scale, components, coefficients, np.maximum(linear.intercept, NEVER))


@dataclass(frozen=True)
class _Retrieved:
    """How well replicates are found, anywhere and in other wells; `elsewhere` is None where `no_position_control` says why."""

    raw: Statistic
    normalised: Statistic
    chance: float
    note: str
    elsewhere: Statistic | None
    chance_elsewhere: float
    no_position_control: str


def _retrieval(question: Question, features: FoldFeatures, benchmark: Benchmark, params: Params) -> _Retrieved | None:
    """Replicate retrieval; None where nothing is a replicate: every image is its own unit, or no label lies in two units of one space.

    Profiles are means of the images of one label in one well; distances are euclidean after standardisation. Labels are permuted within unit
    for the null. Beside it stands the same score with positives in other wells only, where the design has such pairs.
    """
    spaces = _spaces(question, features, benchmark)
    if benchmark.card.unit == "image" or not spaces:
        return None
    positions = positions_of(benchmark)
    vectors, labels, units, folds, places = [], [], [], [], []
    for number, (features_here, train, test) in spaces.items():
        standardised = fit_projection(features_here[train], params.evaluate.max_dim).transform(features_here[test])
        profiles, first, member_of = np.unique(question.profiles[test], return_index=True, return_inverse=True)
        sums = np.zeros((len(profiles), standardised.shape[1]))
        np.add.at(sums, member_of, standardised)
        vectors.append(sums / np.bincount(member_of)[:, None])
        labels.append(question.codes[test][first])
        units.append(question.units[test][first])
        folds.append(np.full(len(profiles), number))
        places.append(np.full(len(profiles), "") if positions is None else positions[test][first])
    # folds may keep different numbers of components; distances are only taken within a fold
    width = max(v.shape[1] for v in vectors)
    stacked = np.concatenate([np.pad(v, ((0, 0), (0, width - v.shape[1]))) for v in vectors])
    y, u, f = np.concatenate(labels), np.concatenate(units), np.concatenate(folds)
    if not has_query(y, u, f):
        return None
    n_classes = len(question.classes)
    found = retrieve(stacked, y, u, n_classes, f)
    note = ""
    if question.task.metric == RETRIEVAL:
        null = permutation_null(stacked, y, u, n_classes, strata=u, folds=f, n_permutations=params.evaluate.permutations, seed=params.seed)
        note = f"permutation p {null.p:.4g} ({null.n_permutations} permutations within {benchmark.card.unit})" if null.p is not None else null.reason
    wells = np.concatenate(places)
    missing = _no_position_control(y, u, f, wells, benchmark.card.unit)
    elsewhere = None if missing else retrieve(stacked, y, u, n_classes, f, wells)
    chance = np.nan if elsewhere is None else _chance_of(elsewhere, y, n_classes)
    values = (None if elsewhere is None else elsewhere.map, chance, missing)
    return _Retrieved(found.map, found.normalised, _chance_of(found, y, n_classes), note, *values)


def _chance_of(found: Retrieval, labels: Ints, n_classes: int) -> float:
    """Expected average precision of a random order, mean over the queries of a class and then over classes."""
    scored = ~np.isnan(found.ap)
    return float(np.mean([found.chance[scored & (labels == c)].mean() for c in range(n_classes) if (scored & (labels == c)).any()]))


def _no_position_control(labels: Ints, units: NDArray[np.str_], folds: Ints, wells: NDArray[np.str_], unit: str) -> str:
    """Why retrieval cannot be asked with positives in other wells only; "" where it can."""
    if not (wells != "").any():
        return "not estimable: the index names no wells"
    if not has_query(labels, units, folds, wells):
        of_known = "" if (wells != "").all() else " whose wells are known"
        return f"not estimable: all images of a label{of_known} lie in the same well of every {unit}, and position and label cannot be told apart"
    return ""


def _spaces(question: Question, features: FoldFeatures, benchmark: Benchmark) -> dict[int, tuple[Floats, Mask, Mask]]:
    """What is retrieved from what, by fold: vectors of all images, the images that standardise them, the queries and candidates.

    Where rows may be fitted to a fold's training images, a fold's test images are looked for among themselves, standardised by its training
    images. Vectors that were made elsewhere are fitted to none: all tested images lie in one space, standardised by all images, without a look at
    labels. Folds would tear them for nothing, and classes of few units with them. {} for a row that is another one in each fold even so (the
    positive control may be).
    """
    taking_part = question.codes >= 0
    if benchmark.card.image.present:
        return {n: (features[n], taking_part & (question.folds != n), taking_part & (question.folds == n)) for n in sorted(features)}
    first, *others = features.values()
    if not all(other is first or np.array_equal(other, first) for other in others):
        return {}
    return {0: (first, np.ones(len(first), dtype=bool), taking_part & (question.folds >= 0))}


def evaluate_oracle(benchmark: Benchmark, folder: Path, params: Params, out: Path) -> None:
    """Score the positive control and publish its card: for each task and fold the best of every row alone (one draw of each
    kind of twin) and of all rows together.

    It is a ceiling for what these representations hold. The choice is made on inner folds of the fold's training images, like
    the choice of a penalty, so no test image is looked at; see `pipelines.metrics.choice.choose` for rows that were trained on
    the labels. Those do not enter "all rows together", where columns that know the training labels by heart mislead the probe.

    Raises:
        BenchmarkError: the benchmark was not extracted.
    """
    from threadpoolctl import threadpool_limits

    rows = [row for row in read_rows(folder).values() if not row.manifest.not_applicable and row.name != NOISE]
    if not rows:
        raise BenchmarkError(f"`{folder}` holds no rows. Run `blankslide extract` for its cells.")
    candidates = {name: fold_features(row, member, benchmark) for row in rows for name, member in _draws(row)}
    saw_labels = [row.name for row in rows if row.manifest.card["training"].get("learned")]
    whole = [candidates[row.name] for row in rows if row.name in candidates and row.name not in saw_labels]
    if len(whole) > 1:
        with threadpool_limits(1):
            candidates[TOGETHER] = {
                f.number: side_by_side([part[f.number] for part in whole], f.train, params.evaluate.max_dim) for f in benchmark.folds
            }
    importlib.import_module("scipy.linalg")  # once, before the workers fork
    questions = [Question.of(benchmark, task) for task in benchmark.card.tasks]
    kept = kept_of(benchmark, rows, params, out)
    losses = dict(zip(candidates, kept.each("losses", partial(_inner_losses, questions, params), candidates, params.threads), strict=True))
    chosen = {q.task.name: _choose(q, losses, saw_labels, params) for q in questions}
    jobs = {q.task.name: (q, {fold: candidates[name][fold] for fold, name in chosen[q.task.name].items()}) for q in questions}
    found = list(kept.each("scores", partial(_score_oracle, benchmark, params), jobs, params.threads, "tasks"))
    write_made_by(out, rows, ORACLE)
    _publish(out, found)
    write_json(out / "card.json", oracle_card(benchmark, chosen).as_dict())
    kept.done()


def _draws(row: Row) -> list[tuple[str, str]]:
    """Candidate name and member: the row itself, or the first draw of each kind of a twin, fixed beforehand."""
    if row.manifest.members == ["main"]:
        return [(row.name, "main")]
    return [(f"{row.name}/{member}", member) for member in row.manifest.members if member.endswith("-00")]


def _inner_losses(questions: list[Question], params: Params, features: FoldFeatures) -> dict[tuple[str, int], float]:
    rule = probe_settings(params.evaluate)
    found = {}
    for q in questions:
        for number, vectors in features.items():
            train = q.train(number)
            found[q.task.name, number] = inner_loss(vectors[train], q.codes[train], q.units[train], len(q.classes), rule)
    return found


def _choose(question: Question, losses: Mapping[str, Mapping[tuple[str, int], float]], saw_labels: list[str], params: Params) -> dict[int, str]:
    """The chosen candidate of each fold."""
    chosen = {}
    for number in sorted(set(question.folds[question.folds >= 0].tolist())):
        train, task = question.train(number), question.task.name
        chance = chance_loss(question.codes[train], question.units[train], len(question.classes), probe_settings(params.evaluate))
        chosen[number] = choose({name: found[task, number] for name, found in losses.items()}, saw_labels, chance)
        print(f"[oracle] {task}, fold {number}: {chosen[number]}", flush=True)
    return chosen


def _score_oracle(benchmark: Benchmark, params: Params, job: tuple[Question, FoldFeatures]) -> Outcome:
    question, features = job
    return score(ORACLE, "main", question, features, benchmark, params)


def oracle_card(benchmark: Benchmark, chosen: Mapping[str, Mapping[int, str]]) -> EncoderCard:
    """The positive control's card: fitted to one benchmark and split, and what it chose is part of what it is."""
    facts = {
        "benchmark": benchmark.card.name,
        "data": benchmark.data_hash(),
        "chosen": {t: {str(f): n for f, n in c.items()} for t, c in chosen.items()},
    }
    return EncoderCard(
        ORACLE,
        "positive",
        "the best of every row alone and of all rows together, chosen for each task on the training images",
        weights="trained here",
        pooling="none",
        training=facts,
    )

"""What each protocol answers on small fixed inputs, asked by the functions that the stages ask with, by the id that the answer carries.

No answer hangs on the rule of another id, as far as the flow lets them be told apart: verdicts and shares are of statistics that are made up here,
not of probes. Inputs are small: a limit that no input reaches (1,500 images, say) is not watched.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from threadpoolctl import threadpool_limits

from pipelines import beyond, brightness
from pipelines.benchmarks.card import BenchmarkCard, Task
from pipelines.benchmarks.index import Benchmark, write_benchmark
from pipelines.benchmarks.known import RELATIONS, TARGETS
from pipelines.beside import confounding, expression, knowledge, probing, replicates
from pipelines.beside.wells import wells_of
from pipelines.board import Board
from pipelines.diagnose import judge_all
from pipelines.embeddings import Manifest, Row, read_rows
from pipelines.evaluate import score
from pipelines.metrics import verdicts
from pipelines.metrics.findings import Comparison
from pipelines.metrics.information import METRIC, Information, beyond_controls, judge_information
from pipelines.metrics.shortcut import shortcut_share
from pipelines.metrics.statistic import Statistic
from pipelines.params import Params
from pipelines.scores import Scored
from pipelines.sensitivity import common_rule, primary_statistic
from pipelines.tasks import Question, probe_settings
from registry.arrays import Floats
from registry.cards import EncoderCard
from registry.images import ImageSpec
from tests.pipelines.noise import SPEC, write_row

#: as a workspace has them that states nothing
PARAMS = Params(seed=0, threads=1, cells={}, compare=[])
#: free text: only whether there is any is an answer, so that a better sentence is no new rule
TEXT = {"note", "notes", "sentence", "reason", "drop_note", "controls_note", "no_position_control"}
#: said by the name of the answer, or by its id
SAID = {"row", "member", "protocol", "protocol_id", "task", "metric", "encoder", "question", "about", "alignment", "units", "unit"}

#: the id, what was asked, the answer
Answer = tuple[str, str, Any]


def plain(value: Any) -> Any:
    """An answer as JSON has it: eight digits of each number; arrays by their length, missing numbers, mean and root mean square weighted by place; of
    what has names only what is there; of comparisons, which are many, no names.
    """
    if isinstance(value, Comparison):
        return [plain(getattr(value, f.name)) for f in fields(value) if f.name not in TEXT]
    if is_dataclass(value) and not isinstance(value, type):
        return plain({f.name: getattr(value, f.name) for f in fields(value)})
    if isinstance(value, Mapping):
        found = {str(name): bool(each) if name in TEXT else plain(each) for name, each in value.items() if not _said(name, each)}
        return {name: each for name, each in found.items() if not (each is None or each is False or each in ("", "nan"))}
    if isinstance(value, np.ndarray) and value.dtype.kind in "fiub":
        known = value[np.isfinite(value)].astype(np.float64)
        place = np.arange(1, len(known) + 1) / max(len(known), 1)
        means = [known.mean(), np.sqrt((known**2 * place).mean())] if len(known) else []
        return [len(value.ravel()), int(value.size - len(known)), *map(plain, means)]
    if isinstance(value, (list, tuple)):
        return [plain(each) for each in value]
    if isinstance(value, (float, np.floating)):
        # what is 0 up to rounding is 0
        return float(f"{value if abs(value) > 1e-13 else 0:.8g}") if np.isfinite(value) else str(float(value))
    return value.item() if isinstance(value, np.generic) else value


def _said(name: str, value: Any) -> bool:
    return name in SAID and (name == "units" or isinstance(value, str))


# -- wells of labelled images --

PLATES, WELLS, TREATMENTS, WIDTH = 12, 16, 10, 140


def plates(folder: Path) -> Benchmark:
    """Images of ten treatments of three classes in wells of 12 plates; one treatment has no class. Wells have none to three sites, at random: where
    they are alike, which fold a well goes to can hang on rounding.
    """
    rng = np.random.default_rng(1)
    same, records = rng.permutation(WELLS), []
    for plate in range(PLATES):
        order = rng.permutation(WELLS) if plate % 4 == 0 else same
        for well in range(WELLS):
            treatment = int(order[well]) % TREATMENTS
            label = None if treatment == TREATMENTS - 1 else f"class-{treatment % 3}"
            records += [
                {
                    "image_id": f"p{plate:02d}-w{well:02d}-{site}",
                    "path": "none.png",
                    "sha256": "0" * 64,
                    "unit": f"p{plate:02d}",
                    "fold": plate % 3,
                    "label_kind": label,
                    "label_near": label,
                    "label_again": label,
                    "Metadata_Batch": f"b{plate // 3}",
                    "Metadata_Plate": f"p{plate:02d}",
                    "Metadata_Well": f"{'AB'[well // 8]}{1 + well % 8:02d}",
                    "Metadata_Row": "AB"[well // 8],
                    "Metadata_Column": 1 + well % 8,
                    "Metadata_Site": site,
                    "Metadata_Treatment": f"t{treatment}",
                }
                for site in range(1, 1 + rng.choice(4, p=[0.1, 0.5, 0.3, 0.1]))
            ]
    tasks = (Task("kind", "?"), Task("near", "?", "knn.balanced_accuracy"), Task("again", "?", "retrieval.map"))
    return write_benchmark(folder, BenchmarkCard("plates", "Plates", "cells", SPEC, "plate", tasks), pd.DataFrame(records))


#: how much vectors hold of what
TRACES = {"label_kind": 0.25, "Metadata_Treatment": 0.2, "Metadata_Batch": 0.3, "Metadata_Plate": 0.3, "Metadata_Well": 0.2}


def vectors(benchmark: Benchmark, width: int = WIDTH, seed: int = 2, **traces: float) -> Floats:
    """(n, width) noise of unequal columns with traces of class, treatment, batch, plate and well; a constant column, and images that are the same."""
    rng, index = np.random.default_rng(seed), benchmark.index
    x = rng.normal(size=(len(index), width))
    for column, size in {**TRACES, **traces}.items():
        names, codes = np.unique(index[column].fillna("").astype(str), return_inverse=True)
        x += size * rng.normal(size=(len(names), width))[codes]
    x *= np.exp(rng.normal(size=width))
    x[:, -1] = 0.5
    x[40:44] = x[:4]
    return x


@cache
def asked(root: Path) -> tuple[Benchmark, dict[str, Question], dict[int, Floats]]:
    """The plates, their questions, and vectors for every fold."""
    benchmark = plates(root / "plates")
    x = vectors(benchmark)
    return benchmark, {task.name: Question.of(benchmark, task) for task in benchmark.card.tasks}, {fold.number: x for fold in benchmark.folds}


def of_tasks(root: Path) -> Iterator[Answer]:
    """Probes and retrieval of few columns, and the permutations of a task that is about retrieval."""
    benchmark, questions, features = asked(root)
    few = {number: x[:, :5] for number, x in features.items()}
    for scored in score("row", "main", questions["again"], few, benchmark, PARAMS).scored:
        # the p of the permutations is only in the note
        permuted = [float(n) for pair in re.findall(r"permutation p ([\d.e-]+) \((\d+)", scored.note) for n in pair]
        yield scored.protocol_id, f"{scored.metric} of five columns", plain(scored) | ({"permuted": permuted} if permuted else {})


def of_many_columns(root: Path) -> Iterator[Answer]:
    """Probes and retrieval of more columns than are kept."""
    benchmark, questions, features = asked(root)
    for scored in score("row", "main", questions["kind"], features, benchmark, PARAMS).scored:
        yield scored.protocol_id, scored.metric, plain(scored)


def of_common_dimension(root: Path) -> Iterator[Answer]:
    """The primary metric of each task at the common dimension."""
    _, questions, features = asked(root)
    rule = common_rule(PARAMS)
    for metric in ("logistic.auroc", "knn.balanced_accuracy"):
        question = replace(questions["kind"], task=replace(questions["kind"].task, metric=metric))
        yield rule.protocol_id(metric.partition(".")[0]), metric, plain(primary_statistic(question, features, rule))


def of_bits(root: Path) -> Iterator[Answer]:
    """Bits beyond the controls."""
    benchmark, questions, features = asked(root)
    question, settings = questions["kind"], beyond.information_settings(PARAMS)
    x = features[0]
    rng = np.random.default_rng(4)
    controls = np.hstack([x[:, :6] + 0.5 * rng.normal(size=(len(x), 6)), rng.normal(size=(len(x), 2))])
    twins = {"untrained/fresh": [vectors(benchmark, 6, 50 + k, label_kind=0.1) for k in range(2)]}
    found = beyond_controls(
        controls,
        vectors(benchmark, 10, 5, label_kind=1.2),
        twins,
        # two of the three classes, tested on a third of the plates: networks take most of the time
        np.where(question.codes == 2, -1, question.codes),
        np.where(question.folds == 0, 0, -1),
        question.units,
        2,
        settings,
    )
    yield settings.protocol_id, "bits of a class", plain(found)


def of_batch_and_place(root: Path) -> Iterator[Answer]:
    """Decoding and mixing."""
    benchmark, _, features = asked(root)
    design, settings = confounding.Design.of(benchmark, PARAMS.seed), probe_settings(PARAMS.evaluate)
    # the second falls into clusters
    for name, x in {"": features[0][:, :12], ", clusters": vectors(benchmark, 3, 3, Metadata_Treatment=9.0, Metadata_Batch=3.0)}.items():
        for one in confounding.confounds_of("row", "main", x, design, settings):
            yield one.protocol_id, f"{one.score} of {one.column}{name}", plain(one)


def of_probing(root: Path) -> Iterator[Answer]:
    """Few-shot curves, code length, selectivity."""
    benchmark, questions, features = asked(root)
    question = questions["kind"]
    narrow = {number: x[:, :6] for number, x in features.items()}
    settings = probe_settings(PARAMS.evaluate)
    types = probing.types_of(benchmark, question)
    for one in probing.probed("row", "main", narrow, question, types, settings, benchmark.card.unit, PARAMS.seed):
        yield one.protocol_id, f"{one.score} {one.shots}", plain(one)


# -- a screen --

GENES, COMPOUNDS, CONTROLS, SCREENED = 10, 5, 10, 4


def screen(folder: Path, *left_out: str) -> Benchmark:
    """Plates of ten genes, five compounds and ten control wells, in two layouts, with relations, targets and mechanisms.

    Args:
        folder: of the benchmark.
        left_out: columns.
    """
    names = [*(f"g{i}" for i in range(GENES)), *(f"c{i}" for i in range(COMPOUNDS)), *["DMSO"] * CONTROLS]
    rng = np.random.default_rng(6)
    orders = [rng.permutation(len(names)) for _ in range(2)]
    records = [
        {
            "image_id": f"p{plate}-w{place:02d}",
            "path": "",
            "sha256": "",
            "unit": f"p{plate}",
            "fold": 0,
            "label_kind": "control" if names[i] == "DMSO" else "treated",
            "Metadata_Batch": f"b{plate // 2}",
            "Metadata_Plate": f"p{plate}",
            "Metadata_Well": f"{'ABCDE'[place // 5]}{1 + place % 5:02d}",
            "Metadata_Treatment": f"guide-{names[i]}" if names[i][0] == "g" else names[i],
            "Metadata_Entity": names[i] if names[i][0] == "g" else None,
            "Metadata_control": names[i] == "DMSO",
            "labels_moa": "|".join([*("x" for _ in "1" if i < 4), *("y" for _ in "1" if 2 <= i < 7), *("z" for _ in "1" if 10 <= i < 13)]) or None,
        }
        for plate in range(SCREENED)
        for place, i in enumerate(orders[plate == 3])
    ]
    known = {
        RELATIONS: pd.DataFrame([("paths", f"g{2 * i}", f"g{2 * i + 1}") for i in range(4)], columns=["source", "entity1", "entity2"]),
        TARGETS: pd.DataFrame(
            [*((f"c{i}", f"g{i}", 10.0) for i in range(COMPOUNDS)), *(("c0", f"g{i}", 1e5) for i in range(1, 6)), ("c1", "g7", 300.0)],
            columns=["compound", "gene", "nanomolar"],
        ),
    }
    card = BenchmarkCard("screen", "Screen", "cells", ImageSpec.none(), "plate", (Task("kind", "?"),))
    return write_benchmark(folder, card, pd.DataFrame(records).drop(columns=list(left_out)), known=known)


def screened(benchmark: Benchmark) -> Floats:
    """(n, 7) noise with a direction for each pair of genes, against which compounds turn, and for each plate and well."""
    rng, index = np.random.default_rng(7), benchmark.index
    x = rng.normal(size=(len(index), 7))
    shared, wells, place = rng.normal(size=(GENES, 7)), rng.normal(size=(25, 7)), index["image_id"].str[-2:].astype(int)
    for at, name in enumerate(index["Metadata_Treatment"].str.removeprefix("guide-")):
        if name[0] in "gc":
            x[at] += 1.1 * (1 if name[0] == "g" else -1) * shared[int(name[1:]) // 2]
    plate = index["image_id"].str[1].astype(int).to_numpy()
    return np.asarray(x + 0.5 * wells[place] + rng.normal(size=(SCREENED, 7))[plate])


def of_replicates(root: Path) -> Iterator[Answer]:
    """Whether replicates are found."""
    benchmark = screen(root / "replicates")
    wells = wells_of(benchmark)
    assert wells is not None
    for one in replicates.replicates("row", screened(benchmark), wells, seed=PARAMS.seed):
        yield one.protocol_id, one.question, plain(one)


def of_knowledge(root: Path) -> Iterator[Answer]:
    """What is known of the perturbations, by batch, by plate and by nothing."""
    rules = knowledge.Rules.of(PARAMS.evaluate)
    for name, left_out in (("batch", ()), ("plate", ("Metadata_Batch",)), ("nothing", ("Metadata_Batch", "Metadata_Plate", "Metadata_Well"))):
        benchmark = screen(root / f"knowledge-{name}", *left_out)
        wells = wells_of(benchmark)
        assert wells is not None
        for one in knowledge.knowledge("row", screened(benchmark), knowledge.Screen.of(benchmark, wells), seed=PARAMS.seed, rules=rules):
            yield one.protocol_id, f"{one.question} {one.about}".strip(), plain(one)


# -- tissue --


def tissue(folder: Path, spots: Sequence[tuple[str, int, str, int]], unit: str = "patient") -> Benchmark:
    """Spots with counts of four genes, one of which is not there.

    Args:
        folder: of the benchmark.
        spots: patient, fold, section ("" = not named) and number of spots.
        unit: what is independent, in words.
    """
    records = [
        {
            "image_id": f"s{number:02d}-{i:03d}",
            "path": "none.png",
            "sha256": "0" * 64,
            "unit": patient if unit == "patient" else f"s{number:02d}-{i:03d}",
            "fold": fold,
            "label_half": "ab"[i % 2],
            "Metadata_Batch": section or None,
        }
        for number, (patient, fold, section, n) in enumerate(spots)
        for i in range(n)
    ]
    index = pd.DataFrame(records)
    level = latent(len(index))
    rates = np.exp(np.column_stack([1 + 0.5 * level[:, 0], 0.5 + 0.4 * level[:, 1] - 0.3 * level[:, 0], np.ones(len(index))]))
    counts = pd.DataFrame(np.random.default_rng(8).poisson(rates), columns=["A", "B", "C"]).assign(NONE=0, image_id=index["image_id"])
    card = BenchmarkCard("tissue", "Tissue", "tissue", SPEC, unit, (Task("half", "?"),))
    return write_benchmark(folder, card, index, expression=counts)


def latent(n: int) -> Floats:
    """(n, 2) what counts and vectors of a spot have in common."""
    return np.random.default_rng(9).normal(size=(n, 2))


#: by what the penalty is chosen -> patient, fold, section and number of spots
DESIGNS: dict[str, list[tuple[str, int, str, int]]] = {
    "patients": [(f"P{i:02d}", i % 3, "", 18 + i) for i in range(12)],
    "patients of many columns": [("A", -1, "", 900), ("B", 0, "", 60), ("C", 1, "", 56)],
    "sections": [("A", 0, "a1", 12), ("A", 0, "a2", 9), ("B", 1, "b1", 10), ("B", 1, "b2", 8)],
    "fifths": [("A", 0, "", 21), ("B", 1, "", 17)],
    "sections and fifths": [("A", 0, "a1", 12), ("A", 0, "a2", 9), ("B", 1, "b1", 17)],
    "patients and sections": [("A", 1, "a1", 12), ("A", 1, "a2", 9), ("B", 0, "b1", 15), ("C", 0, "c1", 11)],
    "patients and fifths": [("A", 1, "a1", 21), ("B", 0, "b1", 15), ("C", 0, "c1", 11)],
}


def of_expression(root: Path) -> Iterator[Answer]:
    """Gene expression by every protocol, under every design that chooses the penalty in its own way, and under one that forbids it."""
    for name, spots in {**DESIGNS, "images": DESIGNS["fifths"]}.items():
        benchmark = tissue(root / name.replace(" ", "-"), spots, "image" if name == "images" else "patient")
        found = expression.Spots.of(benchmark, PARAMS.seed)
        assert found is not None
        n = len(benchmark.index)
        x = np.random.default_rng(10).normal(size=(n, 260 if name.endswith("columns") else 6))
        x[:, :2] += latent(n)
        answer = expression.expressed("row", "main", {fold.number: x for fold in benchmark.folds}, found, first=True)
        for one in answer.scores:
            yield one.protocol_id, f"{name}: {one.protocol}", plain(one)
        headline = answer.scores[-1].protocol_id
        yield headline, f"{name}: genes", plain(answer.genes)
        if answer.statistic is not None:
            yield headline, f"{name}: statistic", plain(answer.statistic)


# -- statistics that are made up --

UNITS = 24


def made_up(
    mean: float, seed: int, own: float = 0.03, units: int = UNITS, shared: float = 0.1, pairs: bool = False, inflation: float = 1.0
) -> Statistic:
    """A mean over units of unequal size, as of a row that scores `mean`; rows share what is easy and hard."""
    size = 1 + np.arange(units) % 3
    z = np.random.default_rng([seed, units]).normal(size=units)
    values = mean + shared * np.cos(np.arange(units)) + own * z
    values += mean - np.average(values, weights=size)
    without = (np.sum(size * values) - size * values) / (size.sum() - size)
    together = 1e-6 * np.outer(z, z) if pairs else None
    names = tuple(f"u{i:02d}" for i in range(units))
    return Statistic(mean, names, without, size / size.sum(), 10 * units, units, together, inflation)


def draws(mean: float, seed: int, n: int = 10, sd: float = 0.01, own: float = 0.03, **more: Any) -> list[Statistic]:
    """Seeds of a twin."""
    return [made_up(mean + sd * offset, seed + i, own, **more) for i, offset in enumerate(np.linspace(-1.5, 1.5, n))]


#: task -> (what its statistics are like, score of the twins, and of the controls, layout and oracle)
TASKS: dict[str, tuple[dict[str, Any], float, dict[str, float]]] = {
    "plain": ({"inflation": 1.6}, 0.6, {"intensity": 0.55, "texture": 0.5, "layout": 0.52, "oracle": 0.95}),
    "even": ({"own": 0.004, "sd": 0.001}, 0.6, {"intensity": 0.6, "layout": 0.9, "oracle": 0.603}),
    "scattered": ({"own": 0.006, "sd": 0.014}, 0.6, {"intensity": 0.598, "oracle": 0.7}),
    "of-pairs": ({"pairs": True}, 0.6, {"intensity": 0.57, "oracle": 0.64}),
    "few-units": ({"units": 8}, 0.6, {"intensity": 0.55, "oracle": 0.9}),
    "few-seeds": ({"n": 4}, 0.6, {"intensity": 0.55, "texture": 0.7, "oracle": 0.9}),
    "no-scatter": ({"own": 0.0, "sd": 0.0}, 0.6, {"intensity": 0.6, "oracle": 0.9}),
}
#: encoder -> its score on each task where it has one
ENCODERS: dict[str, dict[str, float]] = {
    "better": {"plain": 0.8, "even": 0.61, "scattered": 0.64, "of-pairs": 0.72, "few-units": 0.8, "few-seeds": 0.8, "no-scatter": 0.8},
    "worse": {"plain": 0.45, "even": 0.55, "few-seeds": 0.55},
    "alike": {"plain": 0.6, "even": 0.601, "scattered": 0.601, "of-pairs": 0.6, "no-scatter": 0.6},
    "hardly": {"plain": 0.65, "even": 0.6055, "scattered": 0.62, "of-pairs": 0.63},
}
NET = {"architecture": "cnn:small", "weights": "trained here"}


@cache
def board(folder: Path) -> Board:
    """Encoders, twins of two kinds, controls, `layout` and the oracle on tasks of all kinds; a nuisance decides nothing."""
    tasks = [Task(name, "?", "retrieval.map" if name == "of-pairs" else "logistic.balanced_accuracy") for name in TASKS]
    tasks.append(Task("place", "?", nuisance=True))
    records = [
        {"image_id": str(i), "path": "", "sha256": "", "unit": str(i), "fold": 0, **{task.column: "ab"[i % 2] for task in tasks}} for i in range(4)
    ]
    benchmark = write_benchmark(folder, BenchmarkCard("board", "Board", "cells", SPEC, "plate", tuple(tasks)), pd.DataFrame(records))
    roles = {**dict.fromkeys(ENCODERS, "encoder"), "net": "twin", "shuffled-net": "twin", "composition": "positive"}
    roles |= dict.fromkeys(("intensity", "texture", "layout"), "negative")
    scored: list[Scored] = []

    def put(row: str, member: str, task: str, metric: str, statistic: Statistic) -> None:
        scored.append(Scored(row, member, task, metric, "made up", 0.5, "", statistic))

    for task, (like, twins, rest) in zip(tasks, TASKS.values(), strict=False):
        alone = {key: value for key, value in like.items() if key not in ("sd", "n")}
        for k, (name, means) in enumerate(ENCODERS.items()):
            if task.name in means:
                put(name, "main", task.name, task.metric, made_up(means[task.name], 100 + k, **alone))
        for kind, row, offset in (("fresh", "net", 0.0), ("shuffled", "shuffled-net", 0.002)):
            for k, statistic in enumerate(draws(twins + offset, 200, **like)):
                put(row, f"{kind}-{k:02d}", task.name, task.metric, statistic)
        for k, (name, mean) in enumerate(rest.items()):
            put(name, "main", task.name, task.metric, made_up(mean, 300 + k, **alone))
        put("composition", "main", task.name, task.metric, made_up(0.99, 400, **alone))
    put("better", "main", "place", "logistic.balanced_accuracy", made_up(0.9, 105))
    twins_of = dict.fromkeys(ENCODERS, ("net", "shuffled-net"))
    rows = {
        name: Row(folder, Manifest(name, "board", EncoderCard(name, role, "made up", **NET, twins=twins_of.get(name, ())).as_dict(), "", "", {}))
        for name, role in roles.items()
    }
    return Board(benchmark, rows, {**roles, "oracle": "positive"}, scored)


def of_verdicts(root: Path) -> Iterator[Answer]:
    """Verdicts over a table of encoders and tasks, and those on bits."""
    for verdict in judge_all(board(root / "board"), PARAMS):
        yield verdicts.PROTOCOL, f"{verdict.encoder} on {verdict.task}", plain(verdict)
    control = made_up(0.6, 300)
    sizes = np.r_[300.0, np.ones(UNITS - 1)]
    for name, subject in {
        "without twins": made_up(0.7, 104),
        "units of very unequal size": replace(made_up(0.7, 104), share=sizes / sizes.sum()),
        "a class in two units": replace(made_up(0.7, 104), class_in_units=2),
        "a unit that cannot be left out": replace(made_up(0.7, 104), without=np.r_[np.nan, made_up(0.7, 104).without[1:]]),
    }.items():
        against = replace(control, share=subject.share)
        yield verdicts.PROTOCOL, name, plain(verdicts.judge("encoder", "task", "metric", subject, controls={"intensity": against}))
    for name, bits in {"better": 0.2, "hardly": 0.003, "nothing": 0.0, "worse": -0.1}.items():
        own = 0.002 if name == "hardly" else 0.02
        found = Information(
            encoder=made_up(bits, 500, own, shared=0.0),
            twins={"net/fresh": tuple(draws(0.0, 510, sd=0.0005, own=own, shared=0.0))},
            random_features=tuple(draws(-0.002, 530, sd=0.0005, own=own, shared=0.0)),
            baseline=made_up(0.6, 550),
            prior=made_up(1.0, 551),
            dropped=0.0,
            notes=(),
        )
        yield verdicts.PROTOCOL, f"{METRIC} {name}", plain(judge_information("encoder", "task", found, alpha=PARAMS.diagnose.alpha))


def of_brightness(root: Path) -> Iterator[Answer]:
    """The two controls side by side, and the share that they reach."""
    benchmark = plates(root / "brightness")
    for name, width in (("intensity", 3), ("histogram", 4)):
        write_row(root / "rows" / "cell", benchmark, name, {"main": vectors(benchmark, width, 60 + width)})
    for number, x in (brightness.brightness_features(benchmark, read_rows(root / "rows")) or {}).items():
        yield brightness.PROTOCOL, f"columns of fold {number}", [plain(column) for column in x.T]
    cases: dict[str, tuple[Statistic, Statistic]] = {
        "a part": (made_up(0.8, 1, inflation=1.6), made_up(0.65, 2, inflation=1.6)),
        "more": (made_up(0.8, 1, shared=0.0), made_up(0.85, 2, shared=0.0)),
        "wide": (made_up(0.55, 1, own=0.1, shared=0.05), made_up(0.52, 2, own=0.1, shared=0.05)),
        "at chance": (made_up(0.5, 1), made_up(0.5, 2)),
        "few units": (made_up(0.8, 1, units=8), made_up(0.65, 2, units=8)),
    }
    for name, (encoder, shortcut) in cases.items():
        share = shortcut_share(encoder, shortcut, 0.5, PARAMS.diagnose.alpha)
        found = brightness.described(share, shortcut, "plate")
        yield found["protocol_id"], name, plain(found)


#: what is asked together, by name
RULES: dict[str, Callable[[Path], Iterator[Answer]]] = {
    rule.__name__.removeprefix("of_").replace("_", " "): rule
    for rule in (
        of_tasks,
        of_many_columns,
        of_common_dimension,
        of_bits,
        of_batch_and_place,
        of_probing,
        of_replicates,
        of_knowledge,
        of_expression,
        of_verdicts,
        of_brightness,
    )
}


def answers(root: Path, rules: Sequence[str] = tuple(RULES)) -> dict[str, dict[str, Any]]:
    """Every answer by the id that it carries and what was asked; one thread, as in the workers of the stages.

    Args:
        root: a folder for the inputs.
        rules: names of `RULES`.
    """
    found: dict[str, dict[str, Any]] = {}
    with threadpool_limits(1):
        for rule in rules:
            for followed, asked_about, answer in RULES[rule](root):
                mine = found.setdefault(followed, {})
                assert asked_about not in mine, f"`{asked_about}` is asked twice"
                mine[asked_about] = answer
    return found

"""Every metric that the flow computes, of any vectors: plain values by task and metric, for labels as they are or drawn anew.

The same code as that of the stages, asked of embeddings that are no rows of a benchmark. What is asked about no label stands under a name of
its own where tasks are: treatments (replicates, known biology) and genes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from pipelines.benchmarks.index import Benchmark
from pipelines.beside import expression, knowledge, probing, replicates
from pipelines.beside.confounding import Design, decodings, mixing, permuted
from pipelines.beside.expression import Spots
from pipelines.beside.knowledge import Screen
from pipelines.beside.probing import Types
from pipelines.beside.wells import Wells, wells_of
from pipelines.beyond import controls_together, information_settings
from pipelines.brightness import brightness_features
from pipelines.embeddings import Row
from pipelines.evaluate import RETRIEVAL, score
from pipelines.metrics.geometry import describe
from pipelines.metrics.information import beyond_controls
from pipelines.metrics.ladder import permuted_labels
from pipelines.metrics.shortcut import shortcut_share
from pipelines.metrics.statistic import Statistic
from pipelines.params import Params
from pipelines.scores import Confound
from pipelines.sensitivity import METRICS, primary_statistic
from pipelines.tasks import Question, probe_settings
from registry.arrays import Floats

#: begin the names of metrics that look at no label, of those of batch and place, and of what is asked beside the scores of a task
GEOMETRY, CONFOUNDS, PROBING, INFORMATION, SHORTCUT = "geometry.", "confounds.", "probing.", "information.", "shortcut."
#: begin the names of metrics that are asked about no task
REPLICATES, KNOWLEDGE, EXPRESSION = "replicates.", "knowledge.", "expression."
#: end the names of metrics that stand beside another one: the share of treatments or labels that are found, the same by the p-value of copairs or by
#: the published p, the value with positives or pairs in other wells only, and how much lower that is
FOUND, BY_COPAIRS, PUBLISHED, ELSEWHERE, DROP = ".found", ".copairs", ".published", ".elsewhere", ".drop"
#: of control wells by position: looks at no treatment
CONTROLS_REPLICATING = f"{REPLICATES}controls_replicating"
#: what these are about; no task can have such a name
TREATMENTS, GENES = "all treatments", "gene expression"

#: of one embedding: value by task and metric, None where a metric does not exist
ByTask = dict[str, dict[str, float | None]]


@dataclass(frozen=True, eq=False)
class Controls:
    """The controls of a benchmark that were extracted.

    Attributes:
        together: all that an encoder's bits are measured beyond, side by side.
        brightness: `intensity` and `histogram` side by side; None where one of them is not there.
    """

    together: Mapping[int, Floats]
    brightness: Mapping[int, Floats] | None

    @classmethod
    def of(cls, benchmark: Benchmark, rows: Mapping[str, Row]) -> Controls | None:
        """Read them; None where none was extracted."""
        together = controls_together(benchmark, rows)
        return cls(together, brightness_features(benchmark, rows)) if together else None


@dataclass(frozen=True, eq=False)
class Asked:
    """What embeddings of one benchmark are asked.

    Attributes:
        questions: its tasks.
        types: what the images of each task that is no nuisance are of, by task, for control tasks.
        design: what is batch and place.
        wells: with their treatments; None where the benchmark names none, or no places.
        screen: what is known of the treatments; None where the benchmark names none.
        spots: the images with counts of genes; None where there are none.
        controls: None where none was extracted: bits and the share that brightness reaches are not asked.
        brightness: score of brightness alone on each task that has a share.
    """

    questions: tuple[Question, ...]
    types: Mapping[str, Types]
    design: Design
    wells: Wells | None
    screen: Screen | None
    spots: Spots | None
    controls: Controls | None
    brightness: Mapping[str, Statistic]

    @classmethod
    def of(cls, benchmark: Benchmark, rows: Mapping[str, Row], params: Params) -> Asked:
        """As the benchmark says.

        Args:
            benchmark: to ask about.
            rows: that were extracted for it.
            params: of the flow.
        """
        questions = tuple(Question.of(benchmark, task) for task in benchmark.card.tasks)
        wells, controls = wells_of(benchmark), Controls.of(benchmark, rows)
        return cls(
            questions,
            {q.task.name: probing.types_of(benchmark, q) for q in questions if not q.task.nuisance},
            Design.of(benchmark, params.seed),
            wells if wells is not None and wells.placed else None,
            Screen.of(benchmark, wells) if wells is not None else None,
            Spots.of(benchmark, params.seed),
            controls,
            _brightness(controls, questions, params),
        )

    def permuted(self, params: Params, *seed: int) -> Asked:
        """The same with labels, treatments and counts that say nothing; without what the design allows none for.

        Args:
            params: of the flow.
            seed: of the draw.
        """
        questions = tuple(drawn for question in self.questions if (drawn := permuted_question(question, *seed)) is not None)
        spots = self.spots
        if spots is not None:
            spots = replace(spots, counts=spots.counts[permuted(np.arange(len(spots.images)), spots.units, *seed)])
        return replace(
            self,
            questions=questions,
            wells=replicates.permuted_wells(self.wells, seed) if self.wells is not None else None,
            screen=knowledge.permuted_screen(self.screen, seed) if self.screen is not None else None,
            spots=spots,
            brightness=_brightness(self.controls, questions, params),
        )


def permuted_question(question: Question, *seed: int) -> Question | None:
    """The same question with labels that say nothing; None where the design allows none."""
    drawn = permuted_labels(question.codes, question.profiles, question.units, question.folds, seed)
    return replace(question, codes=drawn.codes) if drawn.within else None


def every_metric(
    embeddings: Sequence[Floats], benchmark: Benchmark, asked: Asked, params: Params, done: Callable[[int], None] = lambda _count: None
) -> list[ByTask]:
    """Every metric of every embedding; several cost less together, because bits are measured beyond the same controls.

    Args:
        embeddings: each (n, d) finite, of the n images of the benchmark.
        benchmark: whose images.
        asked: with true or other labels.
        params: how scores are computed.
        done: called with 1 after each embedding.
    """
    bits = _bits(embeddings, asked, params)
    found = []
    for number, vectors in enumerate(embeddings):
        values = _values(vectors, benchmark, asked, params)
        for task, each in bits.items():
            values[task][f"{INFORMATION}beyond_controls_bits"] = _known(each[number])
        found.append(values)
        done(1)
    return found


def _values(vectors: Floats, benchmark: Benchmark, asked: Asked, params: Params) -> ByTask:
    """Everything but bits."""
    shape = describe(vectors)
    geometry = {"participation_ratio": shape.participation_ratio, "participation_ratio_raw": shape.participation_ratio_raw}
    features, confounds = dict.fromkeys([fold.number for fold in benchmark.folds], vectors), of_confounds(vectors, asked, params)
    found: ByTask = {}
    for question in asked.questions:
        task = question.task
        scored = {s.metric: s for s in score("ladder", "main", question, features, benchmark, params).scored}
        found[task.name] = {
            **{name: _known(s.statistic.value) for name, s in scored.items()},
            **{f"{GEOMETRY}{name}": value for name, value in geometry.items()},
            **confounds[task.name],
        }
        if task.name in asked.types:
            found[task.name] |= _probing(features, question, asked.types[task.name], benchmark, params)
        if task.name in asked.brightness:
            primary = scored[task.metric]
            share = shortcut_share(primary.statistic, asked.brightness[task.name], primary.chance, params.diagnose.alpha)
            found[task.name][f"{SHORTCUT}share"] = share.value
    treatments = (_replicates(vectors, asked.wells, params) if asked.wells is not None else {}) | (
        _knowledge(vectors, asked.screen, params) if asked.screen is not None else {}
    )
    if treatments:
        found[TREATMENTS] = treatments
    if asked.spots is not None:
        answer = expression.expressed("ladder", "main", features, asked.spots, first=True)
        found[GENES] = {f"{EXPRESSION}{one.protocol}": _known(one.value) for one in answer.scores}
    return found


def of_confounds(vectors: Floats, asked: Asked, params: Params) -> ByTask:
    """By task and metric what is batch and place in (n, d) vectors, the classes being those of the task; None where a score does not exist."""
    rule = probe_settings(params.evaluate)
    decoded = decodings("ladder", "main", vectors, asked.design, rule)

    def name(one: Confound) -> str:
        return f"{CONFOUNDS}{'_'.join([*one.score.split(), *([one.column] if one.score == 'decoding' else [])])}"

    found = {}
    for question in asked.questions:
        mixed = mixing("ladder", "main", vectors, asked.design.about(question.codes), rule, reference=False)
        found[question.task.name] = {name(one): _known(one.value) for one in [*mixed, *decoded]}
    return found


def _replicates(vectors: Floats, wells: Wells, params: Params) -> dict[str, float | None]:
    """Of every question its value, the share of treatments found by either null, and the drop in other wells; percent replicating, also of control
    wells by position."""
    found = replicates.replicates("ladder", vectors, wells, seed=params.seed)
    parts = {
        f"{REPLICATES}{one.question}{part}": value
        for one in found
        for part, value in (("", one.value), (FOUND, one.significant), (BY_COPAIRS, one.copairs), (DROP, one.drop))
        # a question that is about other wells has no drop
        if part != DROP or not replicates.in_other_wells(one.question)
    }
    last = found[-1]
    parts |= {f"{REPLICATES}percent_replicating": last.replicating, CONTROLS_REPLICATING: last.controls_replicating}
    return {name: _known(value) for name, value in parts.items()}


def _knowledge(vectors: Floats, screen: Screen, params: Params) -> dict[str, float | None]:
    """Every question under the alignment that a reader meets first, by the published p too, or in other wells, where a question has that."""
    rules = knowledge.Rules.of(params.evaluate)
    found = knowledge.knowledge("ladder", vectors, screen, seed=params.seed, rules=rules, alignments=(knowledge.shown(screen),))
    parts: dict[str, float] = {}
    for one in found:
        name = f"{KNOWLEDGE}{' of '.join(filter(None, [one.question, one.about]))}"
        parts[name] = one.value
        if one.question in knowledge.WITH_PUBLISHED_P:
            parts[name + PUBLISHED] = one.published
        if one.question in knowledge.IN_OTHER_WELLS:
            parts |= {name + ELSEWHERE: one.elsewhere, name + DROP: one.drop}
    return {name: _known(value) for name, value in parts.items()}


def _probing(features: Mapping[int, Floats], question: Question, types: Types, benchmark: Benchmark, params: Params) -> dict[str, float | None]:
    """Few-shot scores (the end of their curve is the score `simpleshot`), code length, selectivity and what control tasks get."""
    found = probing.probed("ladder", "main", features, question, types, probe_settings(params.evaluate), benchmark.card.unit, params.seed)
    shots = {f"few_shot_{one.shots}": one.value for one in found if one.score == probing.FEW_SHOT and one.shots != probing.ALL}
    others = {one.score.replace(" ", "_"): one.value for one in found if one.score != probing.FEW_SHOT}
    return {f"{PROBING}{name}": _known(value) for name, value in {**shots, **others}.items()}


def _bits(embeddings: Sequence[Floats], asked: Asked, params: Params) -> dict[str, list[float]]:
    """By task the bits of each embedding beyond the controls; {} without controls."""
    if asked.controls is None:
        return {}
    settings, found = replace(information_settings(params), random_networks=0), {}
    for question in asked.questions:
        if question.task.nuisance or question.task.metric == RETRIEVAL:
            continue
        first, *others = embeddings
        labels = question.codes, question.folds, question.units
        of = beyond_controls(asked.controls.together, first, {"others": others}, *labels, len(question.classes), settings)
        found[question.task.name] = [of.encoder.value, *(one.value for one in of.twins["others"])]
    return found


def _brightness(controls: Controls | None, questions: Sequence[Question], params: Params) -> dict[str, Statistic]:
    """The primary score of brightness alone on every task that has a share."""
    if controls is None or controls.brightness is None:
        return {}
    rule = probe_settings(params.evaluate)
    asked = [q for q in questions if not q.task.nuisance and q.task.metric in METRICS]
    return {q.task.name: primary_statistic(q, controls.brightness, rule) for q in asked}


def _known(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None

"""What is known about the perturbations of a screen, asked of every row alike: relations, targets, mechanisms, and whether there is a signal.

| question | asked where | value | beside it |
|---|---|---|---|
| recall | `--entity` and `--relations` | share of known relations in the tails of all cosines between entities | mean after genes were permuted |
| consistency | treatments and control wells | share of treatments whose wells are more alike than control wells are | the share under no effect |
| magnitude | treatments and control wells | share of treatments farther from control wells than other such wells | the share under no effect |
| targets, AP and AUROC | `--entity` and `--targets` | how near a compound's target is, among other genes | a random order |
| labels | `--multilabel` | mean normalised AP of treatments that share a label, mean over labels | 0 |
| labels found | `--multilabel` | share of labels found at a false discovery rate of 5 % | 0 |

Profiles are means over the tested images of a well; the wells are aligned by every rule of `alignment.alignments` that the controls allow, then
averaged by treatment or entity, and compared by cosines. The batch of an alignment is `Metadata_Batch`, else `Metadata_Plate`.

Two treatments that are related, by a label, a relation or a target, may lie in the same wells of several plates and look alike for that. Beside these
scores stands the same in other wells only: positives of a label, and of recall and targets both sides, what is related and what it is compared with.
Two treatments or entities share a well where any of their wells have the same position, on whatever plates, because a mean keeps a trace of each.
Where they share none, nothing can drop, and that is said; a trace of wells that lie near each other is left to a comparison with `layout`.

Consistency and magnitude need perturbations that do nothing. Here they are control wells, put together as the wells of a treatment are: the first
control well of each plate, in order of position, the second of each, and so on. Where the layout is the same on every plate, so that a treatment
always lies in one position, so do they, and a score of the position is no signal. Every other one of these groups is a negative, and an alignment is
fitted to the other control wells: wells that it was fitted to lie together for that alone, and beside them noise would be a signal.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipelines.benchmarks.index import Benchmark
from pipelines.benchmarks.known import ENTITY, NANOMOLAR, PREFIX, label_sets
from pipelines.beside.replicates import permuted_order, permuted_wells
from pipelines.beside.wells import Wells
from pipelines.lines import lines_of_cells, read_lines, write_lines
from pipelines.metrics.alignment import EPSILON, Alignment, aggregate, alignments
from pipelines.metrics.canonical import PERTURBATION, PLATE, WELL
from pipelines.metrics.groups import least_found
from pipelines.metrics.multilabel import label_position_control, label_scores
from pipelines.metrics.names import whole_names
from pipelines.metrics.relations import THRESHOLDS, Signal, consistency, magnitude, recall, recall_position_control
from pipelines.metrics.targets import Interaction, target_position_control, target_scores
from pipelines.params import EvaluateParams
from registry.arrays import Floats, Mask
from registry.errors import InputError

#: names the rule in every result, beside the alignment and the batch
PROTOCOL = "knowledge:v5:well-means-cosine"
#: columns that alignments take for the batch: the first that is there
BATCHES = ("Metadata_Batch", "Metadata_Plate")
#: the alignment a reader meets first, and where the controls do not allow it
SHOWN, WITHOUT_CONTROLS = "centre-scale", "none"
#: of names or profiles, for each p
PERMUTATIONS = 999
#: of negatives of each compound
DRAWS = 100
FALSE_DISCOVERIES = 0.05
#: a treatment counts where its p is at most this, or the least one there can be
SIGNIFICANT = 0.05
#: groups of control wells below which there is no null
LEAST_NEGATIVES = 5
#: questions that are answered by the published p too, and in other wells
WITH_PUBLISHED_P, IN_OTHER_WELLS = ("consistency", "magnitude"), ("recall", "targets AP", "targets AUROC", "labels")
NO_CONTROLS = "the index names no control wells"
FILE = "knowledge.parquet"


@dataclass(frozen=True)
class Rules:
    """What may be set of the questions. What is not as published is in the name of the alignment or of the question.

    Attributes:
        recall: shares of the null below and above which a known pair counts as found, as `relations.recall` takes them.
        sphere_epsilon: as `alignment.spherize` takes it.
    """

    recall: tuple[float, float] = THRESHOLDS
    sphere_epsilon: float = EPSILON

    @classmethod
    def of(cls, settings: EvaluateParams) -> Rules:
        """As parameters say."""
        low, high = settings.recall
        return cls((low, high), settings.sphere_epsilon)

    @property
    def alignments(self) -> dict[str, Alignment]:
        """The rules of alignment by name."""
        return alignments(self.sphere_epsilon)

    def recalled(self, source: str, scope: str) -> str:
        """What a recall is about."""
        tails = "" if self.recall == THRESHOLDS else f", tails up to {self.recall[0]!r} and from {self.recall[1]!r}"
        return f"{source}, null over {scope}{tails}"


#: as published
PUBLISHED = Rules()


@dataclass(frozen=True)
class Knowledge:
    """One row, question and alignment.

    Attributes:
        row: name of the encoder or control.
        question: "recall", "consistency", "magnitude", "targets AP", "targets AUROC", "labels" or "labels found".
        about: the relation table, the scope of its null and tails that are not the published ones, or the column of labels; "" otherwise.
        alignment: one of `alignment.alignments`.
        protocol_id: names the rule.
        value: larger is better. NaN where it is not estimable.
        reference: what chance gives.
        p: how often chance gives as much; NaN where the reference has no such draws.
        n: pairs, treatments, compounds or labels it is a mean over.
        note: why it is not estimable; "".
        published: of consistency and magnitude the same share by the published p, which has no + 1 and can be 0: below 0.05, and for parity alone;
            NaN otherwise.
        elsewhere: of recall, targets and labels the value in other wells only; NaN where that is not estimable, and of other questions.
        drop: how much lower that is; NaN likewise. Of labels for the same treatments and labels; of targets for the same compounds, of the average
            precision above chance; of recall for the relations that are left, against all of them.
        drop_share: share of what is scored that the drop rests on: of pairs of a treatment and its label, of compounds, or of relations.
        drop_note: why there is no drop, or why there can be none.
        least: of labels found the smallest value, other than 0, that there can be with so many labels and draws (`groups.least_found`); above 1 where
            none can be found. NaN of other questions.
    """

    row: str
    question: str
    about: str
    alignment: str
    protocol_id: str
    value: float
    reference: float
    p: float
    n: int
    note: str
    published: float = np.nan
    elsewhere: float = np.nan
    drop: float = np.nan
    drop_share: float = np.nan
    drop_note: str = ""
    least: float = np.nan


@dataclass(frozen=True, eq=False)
class Screen:
    """What is known about the wells of a screen.

    Attributes:
        wells: the p tested wells.
        batch: the column that alignments take for the batch; "" where there is none.
        batches: (p,) its values.
        entities: (p,) what a well acts on; "" where that is not known, and for controls.
        relations: known pairs of entities, by source.
        targets: known targets of treatments without an entity.
        labels: by column, the labels of each well.
        negatives: (p,) the group of control wells that stands in for a treatment without effect; "" for all other wells.
    """

    wells: Wells
    batch: str
    batches: NDArray[np.str_]
    entities: NDArray[np.str_]
    relations: dict[str, list[tuple[str, str]]]
    targets: list[Interaction]
    labels: dict[str, list[frozenset[str]]]
    negatives: NDArray[np.str_]

    @classmethod
    def of(cls, benchmark: Benchmark, wells: Wells) -> Screen:
        """Look up what the index and the tables of a benchmark say of its tested wells."""
        rows = benchmark.index.iloc[wells.first]
        batch = next((column for column in BATCHES if column in rows), "")
        entity = rows[ENTITY].where(~wells.controls) if ENTITY in rows else pd.Series(index=rows.index, dtype=object)
        relations: dict[str, list[tuple[str, str]]] = {}
        for source, first, second in benchmark.relations.itertuples(index=False):
            relations.setdefault(str(source), []).append((str(first), str(second)))
        columns = ["compound", "gene", NANOMOLAR]
        return cls(
            wells=wells,
            batch=batch,
            batches=whole_names(rows[batch], batch, missing="") if batch else np.full(len(rows), ""),
            entities=whole_names(entity, ENTITY, missing=""),
            relations=relations,
            targets=[Interaction(str(c), str(g), float(n)) for c, g, n in benchmark.targets[columns].itertuples(index=False)],
            labels={column.removeprefix(PREFIX): label_sets(rows[column]) for column in map(str, rows) if column.startswith(PREFIX)},
            negatives=negatives_of(wells),
        )

    @property
    def treated(self) -> Mask:
        """(p,) wells that are no controls."""
        return ~self.wells.controls

    @property
    def treatments(self) -> NDArray[np.str_]:
        """(p,) what was done to each well."""
        return self.wells.columns[PERTURBATION]


@dataclass(frozen=True)
class Answer:
    """What one question gives: see `Knowledge`."""

    value: float
    reference: float
    p: float
    n: int
    published: float = np.nan
    elsewhere: float = np.nan
    drop: float = np.nan
    drop_share: float = np.nan
    drop_note: str = ""
    least: float = np.nan


@dataclass(frozen=True)
class Question:
    """A question that can be put to a screen.

    Attributes:
        names: of its answers.
        about: see `Knowledge`.
        ask: what answers it, of aligned wells.
        held_out: whether negatives must not have taken part in the alignment.
    """

    names: tuple[str, ...]
    about: str
    ask: Callable[[Floats], dict[str, Answer]]
    held_out: bool = False


def shown(screen: Screen) -> str:
    """The alignment that a reader of this screen meets first."""
    return SHOWN if screen.wells.controls.any() else WITHOUT_CONTROLS


def permuted_screen(screen: Screen, seed: Sequence[int]) -> Screen | None:
    """The same screen after treatments, with all that is known of them, were drawn anew among the wells of each plate.

    Args:
        screen: from `Screen.of`.
        seed: of the draw.

    Returns:
        None where no plate holds two treatments.
    """
    order, wells = permuted_order(screen.wells, seed), permuted_wells(screen.wells, seed)
    if order is None or wells is None:
        return None
    labels = {column: [sets[well] for well in order.tolist()] for column, sets in screen.labels.items()}
    return replace(screen, wells=wells, entities=screen.entities[order], labels=labels, negatives=negatives_of(wells))


def knowledge(
    row: str,
    vectors: Floats,
    screen: Screen,
    permutations: int = PERMUTATIONS,
    seed: int = 0,
    rules: Rules = PUBLISHED,
    alignments: Sequence[str] | None = None,
) -> list[Knowledge]:
    """Ask every question of one row under every alignment.

    Args:
        row: its name.
        vectors: (n, d) of all images of the benchmark.
        screen: from `Screen.of`.
        permutations: draws of every null.
        seed: of the draws.
        rules: what may be set.
        alignments: names of those that are asked under; all where none are given.
    """
    profiles = screen.wells.profiles(vectors)
    controls, first = screen.wells.controls, shown(screen)
    found: list[Knowledge] = []
    for alignment, align in rules.alignments.items():
        if alignments is not None and alignment not in alignments:
            continue
        everything = _aligned(alignment, align, profiles, screen, controls)
        held_out = _aligned(alignment, align, profiles, screen, controls & (screen.negatives == ""))
        # permuted labels cost most: the alignment that is shown first has them
        for question in _questions(screen, permutations, permutations if alignment == first else 0, seed, rules):
            aligned, why = held_out if question.held_out else everything
            answers: dict[str, Answer] = {}
            if aligned is not None:
                try:
                    answers = question.ask(aligned)
                except InputError as error:
                    why = str(error)
            for name in question.names:
                one = answers.get(name, Answer(np.nan, np.nan, np.nan, 0))
                note = "" if name in answers else f"not estimable: {why}"
                found.append(Knowledge(row, name, question.about, alignment, _protocol(alignment, screen.batch), note=note, **asdict(one)))
    return found


def not_asked(row: str, screen: Screen, reason: str, rules: Rules = PUBLISHED, alignments: Sequence[str] | None = None) -> list[Knowledge]:
    """Every question, with the reason it is not asked of this row; arguments as of `knowledge`."""
    note = f"not estimable: {reason}"
    return [
        Knowledge(row, name, question.about, alignment, _protocol(alignment, screen.batch), np.nan, np.nan, np.nan, 0, note)
        for alignment in rules.alignments
        if alignments is None or alignment in alignments
        for question in _questions(screen, 0, 0, 0, rules)
        for name in question.names
    ]


def protocol_ids(rules: Rules = PUBLISHED) -> tuple[str, ...]:
    """Every id that an answer may carry."""
    return tuple(_protocol(alignment, batch) for alignment in rules.alignments for batch in (*BATCHES, ""))


def _protocol(alignment: str, batch: str) -> str:
    return f"{PROTOCOL}:{alignment}:by-{batch or 'nothing'}"


def _aligned(alignment: str, align: Alignment, profiles: Floats, screen: Screen, controls: Mask) -> tuple[Floats | None, str]:
    """Profiles of the wells aligned on these controls, or None and why the design forbids it."""
    if alignment != WITHOUT_CONTROLS and not controls.any():
        return None, NO_CONTROLS
    try:
        return align(profiles, controls, screen.batches), ""
    except InputError as error:
        return None, str(error)


def _questions(screen: Screen, permutations: int, of_labels: int, seed: int, rules: Rules) -> Iterator[Question]:
    """The questions that can be put to this screen."""
    for source, known in screen.relations.items():
        for scope in ("genes", "all") if _nameless(screen).any() else ("genes",):
            yield Question(("recall",), rules.recalled(source, scope), partial(_recall, screen, known, scope, rules.recall, permutations, seed))
    if screen.wells.controls.any() and screen.treated.any():
        yield Question(("consistency",), "", partial(_consistency, screen), held_out=True)
        yield Question(("magnitude",), "", partial(_magnitude, screen, seed), held_out=True)
    if screen.targets:
        yield Question(("targets AP", "targets AUROC"), "", partial(_targets, screen, permutations, seed))
    for column, sets in screen.labels.items():
        names = ("labels", "labels found") if of_labels else ("labels",)
        yield Question(names, column, partial(_labels, screen, sets, of_labels, seed))


def _nameless(screen: Screen) -> Mask:
    """(p,) treated wells of which it is not known what they act on, in a screen where it is known of others."""
    return np.asarray(screen.treated & (screen.entities == ""))


def _recall(
    screen: Screen, known: Sequence[tuple[str, str]], scope: str, tails: tuple[float, float], permutations: int, seed: int, x: Floats
) -> dict[str, Answer]:
    named, nameless = screen.entities != "", _nameless(screen)
    names, profiles = aggregate(x[named], screen.entities[named])
    others, of_others = aggregate(x[nameless], screen.treatments[nameless])
    every = np.concatenate([profiles, of_others])
    # no treatment is taken for the entity that it is named like
    called = [*names, *(f"treatment\n{name}" for name in others)]
    genes = np.arange(len(called)) < len(names)
    found = recall(every, called, known, genes=genes, null_scope=scope, thresholds=tails, permutations=permutations, seed=seed)
    places = np.concatenate([_positions(screen, screen.entities, named), _positions(screen, screen.treatments, nameless)])
    position = recall_position_control(every, called, known, places, genes=genes, null_scope=scope, thresholds=tails)
    why = position.reason or ("not estimable: no known pair shares a well, so that nothing can drop" if np.isnan(position.drop) else "")
    return {
        "recall": Answer(found.value, found.permuted, found.p, found.pairs, np.nan, position.value, position.drop, position.share, why),
    }


def negatives_of(wells: Wells) -> NDArray[np.str_]:
    """(p,) names of groups of control wells, each on as many wells of the same plates as a treatment, every other group; "" for other wells.

    Sets of plates that treatments lie on come in order of how many treatments they have; plates that are used up are not used again.
    """
    names = np.full(len(wells.controls), "", dtype="<U40")
    plates, positions = wells.columns[PLATE], wells.columns[WELL]
    table = pd.crosstab(wells.columns[PERTURBATION][~wells.controls], plates[~wells.controls])
    designs = Counter(tuple((str(plate), int(k)) for plate, k in row.items() if k) for _, row in table.iterrows())
    used: set[str] = set()
    for number, (design, _) in enumerate(sorted(designs.items(), key=lambda one: (-one[1], one[0]))):
        if sum(k for _, k in design) < 2 or used & {plate for plate, _ in design}:
            continue
        used |= {plate for plate, _ in design}
        held = {plate: np.flatnonzero(wells.controls & (plates == plate)) for plate, _ in design}
        held = {plate: found[np.argsort(positions[found], kind="stable")] for plate, found in held.items()}
        for group in range(0, min(len(held[plate]) // k for plate, k in design), 2):
            for plate, k in design:
                names[held[plate][group * k : (group + 1) * k]] = f"control\n{number}-{group:05d}"
    return names


def _consistency(screen: Screen, x: Floats) -> dict[str, Answer]:
    negatives = _negatives(screen)
    kept = screen.treated | (screen.negatives != "")
    names = np.where(screen.treated, screen.treatments, screen.negatives)
    return {"consistency": _share(consistency(x[kept], names[kept], negatives))}


def _magnitude(screen: Screen, seed: int, x: Floats) -> dict[str, Answer]:
    negatives = _negatives(screen)
    names = np.where(screen.treated, screen.treatments, screen.negatives)
    reference = screen.wells.controls & (screen.negatives == "")
    return {"magnitude": _share(magnitude(x, names, reference, negatives, least_replicates=2, seed=seed))}


def _negatives(screen: Screen) -> list[str]:
    found: list[str] = np.unique(screen.negatives[screen.negatives != ""]).tolist()
    if len(found) < LEAST_NEGATIVES:
        raise InputError(
            f"Expected at least {2 * LEAST_NEGATIVES} control wells for each well of a treatment on its plate, got at most {2 * len(found)}: what"
            " no effect looks like is not known"
        )
    return found


def _share(signal: Signal) -> Answer:
    """The share of treatments whose p is at most 0.05, or the least there can be, that share where nothing has an effect, and the published one."""
    p, parity = signal.p[~np.isnan(signal.p)], signal.p_published[~np.isnan(signal.p)]
    if not len(p):
        raise InputError("Expected a treatment in two wells or more, got none. One well alone cannot be compared with itself.")
    steps = signal.null + 1
    level = max(int(SIGNIFICANT * steps), 1) / steps
    return Answer(float(np.mean(p <= level + 1e-12)), level, np.nan, len(p), float(np.mean(parity < SIGNIFICANT)))


def _targets(screen: Screen, permutations: int, seed: int, x: Floats) -> dict[str, Answer]:
    named, nameless = screen.entities != "", _nameless(screen)
    genes, of_genes = aggregate(x[named], screen.entities[named])
    compounds, of_compounds = aggregate(x[nameless], screen.treatments[nameless])
    profiles = {name: of_compounds[number : number + 1] for number, name in enumerate(compounds)}
    found = target_scores(profiles, genes, of_genes, screen.targets, draws=DRAWS, permutations=permutations, seed=seed)
    places = dict(zip(compounds, _positions(screen, screen.treatments, nameless), strict=True))
    gene_places = _positions(screen, screen.entities, named)
    position = target_position_control(found, profiles, genes, of_genes, screen.targets, places, gene_places, draws=DRAWS, seed=seed)
    why = position.reason or ("" if position.dropped else "not estimable: no target shares a well with its compound, so that nothing can drop")

    def answer(value: float, chance: float, p: float, elsewhere: Floats, drop: float) -> Answer:
        mean = float(elsewhere.mean()) if len(elsewhere) else np.nan
        return Answer(value, chance, p, len(found.compounds), np.nan, mean, drop, position.share, why)

    return {
        "targets AP": answer(float(found.ap.mean()), float(found.chance.mean()), np.nan, position.ap, position.ap_drop),
        "targets AUROC": answer(float(found.auroc.mean()), 0.5, found.p, position.auroc, position.auroc_drop),
    }


def _labels(screen: Screen, sets: Sequence[frozenset[str]], permutations: int, seed: int, x: Floats) -> dict[str, Answer]:
    """Consistency of the field, of all treatments that have a label.

    The field (copairs, CHAMMI-75, Arevalo et al. 2024) takes the median profile of each compound that is active, and leaves the others out. Which
    are active hangs on the row: every row would be asked about other compounds, and one that sees few of them only about those that it sees best.
    Here all rows are asked about the same treatments, and those without an effect pull every row towards 0. Profiles are means, as in all of
    these questions.
    """
    treated = screen.treated
    names, profiles = aggregate(x[treated], screen.treatments[treated])
    of_treatment: dict[str, set[str]] = {name: set() for name in names}
    for name, labels in zip(screen.treatments[treated].tolist(), (s for s, t in zip(sets, treated, strict=True) if t), strict=True):
        of_treatment[name] |= labels
    every = sorted(set().union(*of_treatment.values()))
    membership = np.array([[label in of_treatment[name] for label in every] for name in names], dtype=bool).reshape(len(names), len(every))
    asked = membership.any(axis=1)
    found = label_scores(profiles[asked], membership[asked], every, permutations=permutations, seed=seed)
    position = label_position_control(profiles[asked], membership[asked], every, _positions(screen, screen.treatments, treated)[asked])
    why = position.reason or ("" if position.dropped else "no two treatments of a label share a well, so that nothing can drop")
    n = len(found.names)
    least = least_found(n, permutations, FALSE_DISCOVERIES) / n if permutations else np.nan
    share = Answer(float(np.mean(found.p_adjusted < FALSE_DISCOVERIES)), 0.0, np.nan, n, least=least)
    mean = Answer(found.value, 0.0, found.p_value, n, np.nan, position.value, position.drop, position.share, why)
    return {"labels": mean, "labels found": share}


def _positions(screen: Screen, names: NDArray[np.str_], kept: Mask) -> Mask:
    """(t, w) in which well positions of the screen each of the t `names` of the wells that are kept lies, sorted, on any plate; none where the index
    does not name positions.
    """
    name = np.unique(names[kept], return_inverse=True)[1]
    position = np.unique(screen.wells.columns[WELL], return_inverse=True)[1]
    found = np.zeros((name.max(initial=-1) + 1, position.max(initial=-1) + 1), dtype=bool)
    if screen.wells.placed:
        found[name, position[kept]] = True
    return found


def write(folder: Path, found: Sequence[Knowledge]) -> None:
    """Publish `knowledge.parquet`; an empty table where nothing was asked."""
    write_lines(folder / FILE, Knowledge, found)


def read_all(folder: Path) -> list[Knowledge]:
    """What the cells of one benchmark found, in order of their names; a cell that was scored before these were asked has none."""
    return lines_of_cells(folder, FILE, Knowledge)


def read(folder: Path) -> list[Knowledge]:
    """Read what `write` wrote."""
    return read_lines(folder / FILE, Knowledge)

"""The field's questions about replicates of a screen, asked of every row alike: activity, replicability, the control for position.

They are those of `canonical` but for consistency, which is asked where labels are known (`knowledge`).

They apply where the index says what was done to a well (`Metadata_Treatment`, else `Metadata_Entity`) of which plate, and activity where it
says which wells are controls (`Metadata_control`). One rule for every row: profiles are means over the test images of a well; they are
standardised on all wells of their plate and compared by euclidean distance, because rows of few dimensions take part, of which a cosine
knows little but a sign. Not on control wells alone, as is usual: those lie nearer to the centre that they define than any other well, so that
wells without effect would look unlike them, and permuting who is a control would be no null. p-values permute treatments within plates, and the value
is what stands above the mean of that null: wells of one plate, standardised together, lie farther from each other than from wells of other
plates (noise of 64 columns would get 0.4 where negatives are those of the query's own plate).

Beside them, of screens with control wells, percent replicating of these by their position: what a position alone leaves in the row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipelines.beside.wells import Wells
from pipelines.lines import lines_of_cells, read_lines, write_lines
from pipelines.metrics.alignment import centre_scale
from pipelines.metrics.canonical import (
    KIND,
    PERTURBATION,
    PLATE,
    REFERENCE,
    RULES,
    WELL,
    control_positions,
    percent_replicating,
    position_control,
)
from pipelines.metrics.groups import Groups, copairs_group_scores, group_scores, least_found
from pipelines.metrics.pairs import NoQueryError
from registry.arrays import Floats, Ints
from registry.errors import InputError

#: draws of the null of each treatment
PERMUTATIONS = 999
#: random orders behind a p-value of copairs, as in the JUMP production pipeline (Arevalo et al. 2024)
COPAIRS_DRAWS = 10_000
QUESTIONS = ("activity", "activity-within-plates", "activity-other-wells", "replicability")
#: names the rule in every result
PROTOCOL = "replicates:v6:plate-standardised-euclidean:permuted-within-plates"
FALSE_DISCOVERIES = 0.05
NO_CONTROLS = "the index names no control wells"
FILE = "replicates.parquet"


@dataclass(frozen=True)
class Replicates:
    """One row and question.

    Attributes:
        row: name of the encoder or control.
        question: one of QUESTIONS.
        protocol_id: names the rule.
        value: mean over treatments of (AP - chance) / (1 - chance), where chance is what permuted treatments get: 0 is chance, 1 is perfect. NaN
            where it is not estimable.
        null: mean over treatments of the normalised average precision of permuted ones: what plates alone give, and is taken out.
        significant: share of the treatments that are found at a false discovery rate of 5 %.
        treatments: how many were scored.
        drop: of the normalised average precision of treated wells when positives must lie in other wells; NaN where that is not estimable, and where
            they must in the question itself.
        drop_share: share of the queries that the drop rests on: those with positives both ways; NaN of such a question.
        drop_note: why it is not.
        replicating: share of the treatments that correlate better than 95 % of pairs of different treatments, as the older literature has it.
        note: why the question is not estimable; "".
        controls_replicating: share of the positions whose control wells correlate from plate to plate better than 95 % of pairs of control wells of
            different positions; 0.05 is chance, and more is a trace of the position. The same for every question of a row; NaN where it is not
            estimable.
        control_positions: of how many positions.
        controls_note: why it is not.
        copairs: share of the treatments that are found at a false discovery rate of 5 % by the p-value of copairs (`groups.copairs_group_scores`, of
            these average precisions), for parity alone: its null is random orders and knows nothing of plates.
        ties: mean over queries of treatments of the share of their positives that tie with another candidate: 0 where nothing ties. Ties share their
            places in expectation; where they are many, `copairs` is not what the reference, which ranks positives first, would say.
        least: the smallest share, other than 0, that `significant` can be with so many treatments and draws, at best (`groups.least_found`); above 1
            where none can be found. NaN where no treatment has a p.
    """

    row: str
    question: str
    protocol_id: str
    value: float
    null: float
    significant: float
    treatments: int
    drop: float
    drop_share: float
    drop_note: str
    replicating: float
    note: str
    controls_replicating: float = np.nan
    control_positions: int = 0
    controls_note: str = ""
    copairs: float = np.nan
    ties: float = np.nan
    least: float = np.nan


def in_other_wells(question: str) -> bool:
    """Whether positives of a question lie in other wells by its own rule: it has no drop."""
    return WELL in RULES[question].pos_diffby


def permuted_order(wells: Wells, seed: Sequence[int]) -> Ints | None:
    """(p,) the well whose treatment each well gets where treatments say nothing; None where no plate holds two.

    Args:
        wells: from `wells.wells_of`.
        seed: of the draw.
    """
    plates = wells.columns[PLATE]
    if all(len(set(wells.columns[PERTURBATION][plates == plate].tolist())) < 2 for plate in np.unique(plates)):
        return None
    rng, order = np.random.default_rng(list(seed)), np.arange(len(wells.controls))
    for plate in np.unique(plates):
        inside = np.flatnonzero(plates == plate)
        order[inside] = rng.permutation(inside)
    return order


def permuted_wells(wells: Wells, seed: Sequence[int]) -> Wells | None:
    """Treatments, the control's among them, drawn anew among the wells of each plate; None where no plate holds two.

    Args:
        wells: from `wells.wells_of`.
        seed: of the draw.
    """
    order = permuted_order(wells, seed)
    if order is None:
        return None
    moved = {name: wells.columns[name][order] for name in (PERTURBATION, REFERENCE, KIND)}
    return replace(wells, columns={**wells.columns, **moved}, controls=wells.controls[order])


def replicates(
    row: str, vectors: Floats, wells: Wells, permutations: int = PERMUTATIONS, seed: int = 0, questions: Sequence[str] = QUESTIONS
) -> list[Replicates]:
    """Ask questions of one row.

    Args:
        row: its name.
        vectors: (n, d) of all images of the benchmark.
        wells: from `wells.wells_of`, with places.
        permutations: draws of the null of each treatment.
        seed: of the draws.
        questions: that are asked.
    """
    aligned = standardised(wells.profiles(vectors), wells)
    share, positions, why = _controls(aligned, wells, seed)
    asked = [_ask(row, question, aligned, wells, permutations, seed) for question in questions]
    return [replace(one, controls_replicating=share, control_positions=positions, controls_note=why) for one in asked]


def not_asked(row: str, reason: str, questions: Sequence[str] = QUESTIONS) -> list[Replicates]:
    """Questions, with the reason they are not asked of this row."""
    return [replace(_none(row, question, reason), controls_note=f"not estimable: {reason}") for question in questions]


def _none(row: str, question: str, reason: str) -> Replicates:
    return Replicates(row, question, PROTOCOL, np.nan, np.nan, np.nan, 0, np.nan, np.nan, "", np.nan, f"not estimable: {reason}")


def standardised(profiles: Floats, wells: Wells) -> Floats:
    """(p, d) z-scores on the wells of each plate."""
    return centre_scale(profiles, np.ones(len(profiles), dtype=bool), wells.columns[PLATE])


def _ask(row: str, question: str, profiles: Floats, wells: Wells, permutations: int, seed: int) -> Replicates:
    treated = ~wells.controls
    if question.startswith("activity") and not wells.controls.any():
        return _none(row, question, NO_CONTROLS)
    # control wells are no treatment whose replicates are looked for, but they are what activity is told from
    kept = np.ones(len(treated), dtype=bool) if question.startswith("activity") else treated
    columns, groups = {name: values[kept] for name, values in wells.columns.items()}, Groups((PERTURBATION,), (PLATE,))
    queries = np.isin(columns[PERTURBATION], columns[PERTURBATION][treated[kept]])
    elsewhere = in_other_wells(question)
    try:
        found = group_scores(
            profiles[kept],
            columns,
            RULES[question],
            groups,
            distance="euclidean",
            queries=queries,
            n_permutations=permutations,
            seed=seed,
        )
        position = position_control(profiles[kept], columns, RULES[question], distance="euclidean", queries=queries)
    except NoQueryError:
        return _none(row, question, f"no treatment has both replicates{' in other wells' if elsewhere else ''} and negatives")
    except InputError as error:
        return _none(row, question, str(error))
    scored = position.anywhere
    parity = copairs_group_scores(scored, columns, groups, null_size=COPAIRS_DRAWS, seed=seed)
    adjusted = found.p_adjusted[~np.isnan(found.p_adjusted)]
    # where nothing can be permuted, chance is that of random orders
    null = np.nan_to_num(found.null)
    # a treatment whose every permutation is perfect, as of two wells on a plate of two, cannot be told from chance
    telling = null < 1 - 1e-12
    if not telling.any():
        return _none(row, question, "treatments permuted within plates are found as well as true ones, always: the plates hold too few wells")
    return Replicates(
        row=row,
        question=question,
        protocol_id=PROTOCOL,
        value=float(np.mean((found.normalised[telling] - null[telling]) / (1 - null[telling]))),
        null=float(np.mean(null)),
        significant=float(np.mean(adjusted < FALSE_DISCOVERIES)) if len(adjusted) else np.nan,
        least=least_found(len(adjusted), permutations, FALSE_DISCOVERIES) / len(adjusted) if len(adjusted) else np.nan,
        treatments=len(found.names),
        copairs=float(np.mean(parity.p_adjusted < FALSE_DISCOVERIES)),
        ties=float(np.nanmean(scored.tied)),
        drop=np.nan if position.drop is None or elsewhere else position.drop,
        drop_share=np.nan if elsewhere else position.share,
        drop_note=position.reason,
        replicating=_replicating(profiles[treated], wells.columns[PERTURBATION][treated], seed),
        note="",
    )


def _replicating(profiles: Floats, treatments: NDArray[np.str_], seed: int) -> float:
    try:
        return percent_replicating(profiles, treatments, seed=seed).share
    except InputError:
        return np.nan


def _controls(profiles: Floats, wells: Wells, seed: int) -> tuple[float, int, str]:
    """Percent replicating of control wells by position, of how many positions, and why there is none."""
    if not wells.controls.any():
        return np.nan, 0, f"not estimable: {NO_CONTROLS}"
    try:
        found = control_positions(profiles[wells.controls], {name: wells.columns[name][wells.controls] for name in (PLATE, WELL)}, seed=seed)
    except InputError as error:
        return np.nan, 0, f"not estimable: {str(error).rstrip('.')}"
    return found.share, len(found.names), ""


def write(folder: Path, found: Sequence[Replicates]) -> None:
    """Publish `replicates.parquet`; an empty table where nothing was asked."""
    write_lines(folder / FILE, Replicates, found)


def read_all(folder: Path) -> list[Replicates]:
    """What the cells of one benchmark found, in order of their names; a cell that was scored before these were asked has none."""
    return lines_of_cells(folder, FILE, Replicates)


def read(folder: Path) -> list[Replicates]:
    """Read what `write` wrote."""
    return read_lines(folder / FILE, Replicates)

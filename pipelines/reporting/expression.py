"""What the report says of gene expression: every row by the headline, the parity protocols beside it, encoders against their controls, genes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipelines.beside import expression
from pipelines.beside.expression import HEADLINE, Expressed, Gene
from pipelines.embeddings import Row
from pipelines.metrics.expression import ONE_PATIENT, PROTOCOLS
from pipelines.metrics.findings import Finding
from pipelines.metrics.jackknife import interval, mean_of
from pipelines.metrics.statistic import Statistic
from pipelines.metrics.verdicts import Verdict
from pipelines.params import DiagnoseParams
from pipelines.reporting import words
from pipelines.reporting.lanes import Axis
from pipelines.reporting.plots import Strip, StripLine

#: shown beside the headline, in no comparison
PARITY = tuple(p for p in PROTOCOLS if p != HEADLINE)
METRIC = "Pearson's r between a gene's predicted and measured log(1 + count), mean over genes"


@dataclass(frozen=True)
class ExpressionLine:
    """One row beside the plot.

    Attributes:
        row: its name.
        reference: what permuted counts leave.
        constant: pairs of fold and gene with r = 0 because something does not vary.
        parity: (value, why there is none) of each parity protocol.
    """

    row: str
    reference: str
    constant: str
    parity: list[tuple[str, str]]


@dataclass(frozen=True)
class GeneLine:
    """One gene: r of each encoder, and of the control that predicts it best."""

    gene: str
    encoders: list[str]
    control: str
    value: str


@dataclass(frozen=True)
class ExpressionView:
    """Gene expression on one benchmark.

    Attributes:
        genes: how many.
        spots: tested.
        units: they are of.
        strip: all rows by the headline.
        lines: the first draw of each row, best first.
        gains: one sentence per encoder and set of controls.
        encoders: columns of `by_gene`.
        by_gene: genes, the one first that a control or encoder predicts best.
        penalty: how the headline's penalty was chosen.
        reasons: why something is not estimable, or has no interval, in any row.
    """

    genes: int
    spots: int
    units: int
    strip: Strip
    lines: list[ExpressionLine]
    gains: list[str]
    encoders: list[str]
    by_gene: list[GeneLine]
    penalty: str
    reasons: list[str]


def expression_view(folder: Path, rows: Mapping[str, Row], unit: str, rule: DiagnoseParams) -> ExpressionView | None:
    """Read what the cells of one benchmark found; None where nothing was asked.

    Args:
        folder: `W/out/scores/<benchmark>`.
        rows: extracted rows by name.
        unit: what is independent, in words.
        rule: level and margin of comparisons.
    """
    scores = [score for score in expression.read_scores(folder) if score.row in rows]
    if not scores:
        return None
    statistics = {row: found for row, found in expression.read_statistics(folder).items() if row in rows}
    cards = {name: row.manifest.card for name, row in rows.items()}
    roles = {name: str(card["role"]) for name, card in cards.items()}
    first = {(s.row, s.protocol): s for s in reversed(scores)}
    known = [s for s in scores if s.protocol == HEADLINE and not np.isnan(s.value)]
    order = sorted({s.row for s in scores}, key=lambda row: (-np.nan_to_num(first[row, HEADLINE].value, nan=-2.0), row))
    encoders = [row for row in order if roles[row] == "encoder"]
    return ExpressionView(
        genes=scores[0].n_genes,
        spots=max((s.n_spots for s in known), default=0),
        units=max((s.n_units for s in known), default=0),
        strip=_strip(statistics, roles),
        lines=[_line(row, first) for row in order],
        gains=[sentence for v in expression.compare(statistics, cards, unit, rule.alpha, rule.margin) for sentence in _sentences(v)],
        encoders=encoders,
        by_gene=_by_gene(expression.read_genes(folder), roles, encoders),
        penalty=_penalty([s.protocol_id for s in known], unit),
        reasons=_reasons(scores),
    )


def _strip(statistics: Mapping[str, Mapping[str, Sequence[Statistic]]], roles: Mapping[str, str]) -> Strip:
    found = [(row, kind, seeds, mean_of(seeds)) for row, kinds in statistics.items() for kind, seeds in kinds.items()]
    found.sort(key=lambda one: (-one[3].value, one[0], one[1]))
    bounds = [interval(centre) or (None, None) for *_, centre in found]
    axis = Axis.around([0.0, *(v for (*_, centre), ends in zip(found, bounds, strict=True) for v in (centre.value, *ends))])
    lines = [
        StripLine(row, roles[row], _draws(kind, seeds), words.number(centre.value), words.interval(*ends), axis.lane(centre.value, *ends))
        for (row, kind, seeds, centre), ends in zip(found, bounds, strict=True)
    ]
    return Strip(METRIC, axis.ticks(), axis.at(0.0), words.number(0.0, 0), lines)


def _draws(kind: str, seeds: Sequence[Statistic]) -> str:
    several = [f"{len(seeds)} draws", f"sd {words.number(float(np.std([s.value for s in seeds], ddof=1)))}"] if len(seeds) > 1 else []
    return ", ".join([*([] if kind == "main" else [kind]), *several])


def _line(row: str, first: Mapping[tuple[str, str], Expressed]) -> ExpressionLine:
    parity = [(words.number(s.value), "") if not np.isnan(s.value) else ("", s.note) for s in (first[row, p] for p in PARITY)]
    headline = first[row, HEADLINE]
    constant = "" if np.isnan(headline.value) else str(headline.constant)
    return ExpressionLine(row, "" if np.isnan(headline.reference) else words.number(headline.reference), constant, parity)


def _penalty(protocol_ids: Sequence[str], unit: str) -> str:
    """How the penalty was chosen: the folds of a benchmark, and so this, are the same for every row."""
    if not any(one.startswith(ONE_PATIENT) for one in protocol_ids):
        return f"by leaving out one training {unit} at a time"
    part = "a section" if any("section" in one for one in protocol_ids) else "a contiguous fifth of its images"
    return f"inside of the only training {unit} of a fold, by leaving out {part} at a time, so that it may be too weak"


def _sentences(verdict: Verdict) -> list[str]:
    sets = (("the controls", verdict.controls), ("its untrained twins", verdict.twins))
    return [_sentence(verdict, name, found) for name, found in sets if found is not None]


def _sentence(verdict: Verdict, name: str, found: Finding) -> str:
    said = f"{verdict.encoder} ({words.number(verdict.value)}) against {name}: smallest gain {words.signed(found.gain)}, over `{found.against}`"
    if found.word == "not assessable":
        return f"{said}; not assessable: {found.reason}."
    return f"{said}, {words.interval(*found.interval)}: {found.word}."


def _by_gene(found: Sequence[Gene], roles: Mapping[str, str], encoders: Sequence[str]) -> list[GeneLine]:
    values: dict[str, dict[str, float]] = {}
    for one in found:
        values.setdefault(one.gene, {})[one.row] = one.value
    lines = []
    for gene, of_row in sorted(values.items(), key=lambda item: (-max(v for row, v in item[1].items() if row in roles), item[0])):
        controls = {row: value for row, value in of_row.items() if roles.get(row) == "negative"}
        best = max(controls, key=lambda row: (controls[row], row), default="")
        mine = [words.number(of_row[row]) if row in of_row else "–" for row in encoders]
        lines.append(GeneLine(gene, mine, best, words.number(controls[best]) if best else "–"))
    return lines


def _reasons(scores: Sequence[Expressed]) -> list[str]:
    """What no row has, and why the headline has no interval."""
    reasons = []
    for protocol in PROTOCOLS:
        notes = [s.note for s in scores if s.protocol == protocol]
        if all(notes) or (protocol == HEADLINE and any(notes)):
            reasons.append(f"`{protocol}`: {next(note for note in notes if note)}")
    return reasons

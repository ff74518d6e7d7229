"""What is known about a screen's perturbations, as the report shows it: one table under the alignment met first, the others below it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipelines.beside.knowledge import SHOWN, Knowledge
from pipelines.reporting import words

#: what a score in other wells rests on, where it is no query
SCORED = {"recall": "relations", "targets AP": "compounds", "targets AUROC": "compounds"}


@dataclass(frozen=True)
class KnownCell:
    """One number; "" where it is not estimable, and `title` says why."""

    value: str
    chance: str
    title: str


@dataclass(frozen=True)
class KnownTable:
    """What the rows know.

    Attributes:
        alignment: under which it is shown first.
        headings: (text, meaning) of each column.
        lines: (row, its cells), in the order of the page.
        others: (alignment, such lines) of those that follow.
        reasons: what is not estimable in any row, and why.
    """

    alignment: str
    headings: list[tuple[str, str]]
    lines: list[tuple[str, list[KnownCell]]]
    others: list[tuple[str, list[tuple[str, list[KnownCell]]]]]
    reasons: list[str]


def known_table(rows: Sequence[str], found: Sequence[Knowledge]) -> KnownTable | None:
    """The table of one benchmark; None where nothing was asked.

    Args:
        rows: in the order of the page.
        found: of all of them.
    """
    if not found:
        return None
    alignments = list(dict.fromkeys(k.alignment for k in found))
    answered = [a for a in alignments if any(k.alignment == a and not k.note for k in found)]
    shown = SHOWN if SHOWN in answered or not answered else answered[0]
    keys = list(dict.fromkeys((k.question, k.about) for k in found))
    known = [key for key in keys if any(not k.note for k in found if (k.question, k.about) == key)]
    by_place = {(k.alignment, k.row, k.question, k.about): k for k in found}
    asked = [row for row in rows if any(k.row == row for k in found)]

    def lines(alignment: str) -> list[tuple[str, list[KnownCell]]]:
        return [(row, [_cell(by_place.get((alignment, row, *key))) for key in known]) for row in asked]

    reasons = [f"{_heading(*key)}: {next(k.note for k in found if (k.question, k.about) == key)}" for key in keys if key not in known]
    reasons += sorted({f"{_heading(k.question, k.about)} in other wells: {k.drop_note}" for k in found if k.drop_note})
    floors = [(k, words.floor_of_found(k.least, k.n, "labels")) for k in found]
    reasons += sorted({f"{_heading(k.question, k.about)}: {floor}" for k, floor in floors if floor})
    reasons += [f"`{a}`: {next(k.note for k in found if k.alignment == a)}" for a in alignments if a not in answered] if known else []
    return KnownTable(
        alignment=shown,
        headings=[(_heading(*key), words.KNOWN[key[0]]) for key in known],
        lines=lines(shown) if known else [],
        others=[(a, lines(a)) for a in answered if a != shown],
        reasons=reasons,
    )


def _heading(question: str, about: str) -> str:
    return f"{question}, {about}" if about else question


def _cell(found: Knowledge | None) -> KnownCell:
    if found is None or found.note:
        return KnownCell("", "", found.note if found else "")
    p = "" if np.isnan(found.p) else f", p {words.probability(found.p)}"
    parity = "" if np.isnan(found.published) else f", parity {words.number(found.published)}"
    left = words.elsewhere(found.drop, found.drop_share, SCORED.get(found.question, "queries"))
    drop = "" if np.isnan(found.drop) or found.drop_note else f", {left}"
    elsewhere = "" if np.isnan(found.elsewhere) else f"; in other wells {words.number(found.elsewhere)}"
    return KnownCell(words.number(found.value), f"{words.number(found.reference)}{p}{parity}{drop}", f"over {found.n}{elsewhere}")

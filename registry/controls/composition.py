"""`composition`: how many nuclei there are of each type, and nothing of where they lie."""

from __future__ import annotations

import numpy as np

from registry.arrays import Floats, Ints
from registry.controls.base import FormulaControl, control_card
from registry.controls.pattern import marks_of, tables_of
from registry.representation import Batch, Facts

NAME = "composition"


class Composition(FormulaControl):
    """Counts and fractions of nuclear types.

    Args:
        facts: the types there are.
    """

    def __init__(self, facts: Facts) -> None:
        card = control_card(NAME, "Count and fraction of each type of nucleus, and the entropy of the fractions.")
        super().__init__(card, facts, "it needs the table of nuclei, which a new image does not have")

    @property
    def columns(self) -> tuple[str, ...]:
        """Counts, fractions of the typed nuclei, entropy in bits, and whether there is no typed nucleus."""
        types = self.facts.nuclear_types
        return (*(f"count of {t}" for t in types), *(f"fraction of {t}" for t in types), "untyped", "entropy (bits)", "none typed")

    def describe(self, batch: Batch) -> Floats:
        """(n, 2 types + 3); without typed nuclei the fractions and the entropy are 0 and `none typed` is 1."""
        return np.stack([self._composition(mark) for mark in marks_of(tables_of(batch, self.facts), self.facts.nuclear_types)])

    def _composition(self, mark: Ints) -> Floats:
        typed = mark[mark >= 0]
        counts = np.bincount(typed, minlength=len(self.facts.nuclear_types)).astype(np.float64)
        fractions = counts / max(len(typed), 1)
        entropy = -float((fractions * np.log2(np.where(fractions > 0, fractions, 1))).sum())
        return np.array([*counts, *fractions, len(mark) - len(typed), entropy, not len(typed)])

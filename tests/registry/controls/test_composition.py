"""Counts of types."""

from __future__ import annotations

import numpy as np

from registry.controls.composition import Composition
from tests.registry.controls.samples import batch_of, facts_for, nuclei_table


def test_counts_fractions_and_entropy() -> None:
    control = Composition(facts_for(("a",), (8, 8), nuclei=True))
    tables = [
        nuclei_table(np.zeros((5, 2)), ["stroma", "tumour", "tumour", None, "tumour"]),
        nuclei_table(np.zeros((2, 2)), ["stroma", "tumour"]),
        nuclei_table(np.zeros((2, 2)), [None, None]),
    ]
    assert control.columns == (
        "count of stroma",
        "count of tumour",
        "fraction of stroma",
        "fraction of tumour",
        "untyped",
        "entropy (bits)",
        "none typed",
    )
    entropy = -(0.25 * np.log2(0.25) + 0.75 * np.log2(0.75))
    expected = [[1, 3, 0.25, 0.75, 1, entropy, 0], [1, 1, 0.5, 0.5, 0, 1, 0], [0, 0, 0, 0, 2, 0, 1]]
    np.testing.assert_allclose(control.embed(batch_of(np.zeros((3, 1, 8, 8), np.float32), tables)), expected, rtol=1e-6)


def test_where_nuclei_lie_does_not_matter() -> None:
    control = Composition(facts_for(("a",), (8, 8), nuclei=True))
    rng = np.random.default_rng(0)
    tables = [nuclei_table(rng.uniform(0, 16, (6, 2))) for _ in range(2)]
    one, other = control.embed(batch_of(np.zeros((2, 1, 8, 8), np.float32), tables))
    np.testing.assert_array_equal(one, other)

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from pipelines.metrics.classification import macro_auroc
from pipelines.metrics.ranking import expected_ap, tie_aware_ap
from pipelines.metrics.targets import Interaction, _scores, target_scores
from registry.errors import InputError

GENES = [f"G{i:03d}" for i in range(60)]


def truth(compounds: int = 6, actives: int = 2) -> list[Interaction]:
    rows = [Interaction(f"c{c}", GENES[c * actives + a], 10.0 * (a + 1)) for c in range(compounds) for a in range(actives)]
    rows += [Interaction("c0", GENES[30], 5_000.0)]
    # every gene is in the truth of some compound, so that it may be a negative of others
    return [*rows, *[Interaction("other", gene, 50_000.0) for gene in GENES]]


def profiles(strength: float, seed: int = 0) -> tuple[dict[str, np.ndarray], np.ndarray]:
    rng = np.random.default_rng(seed)
    genes = rng.normal(size=(len(GENES), 64))
    found = {}
    for c in range(6):
        toward = genes[2 * c] + genes[2 * c + 1]
        found[f"c{c}"] = np.stack([strength * dose * toward + rng.normal(size=64) for dose in (0.3, 1.0)])
    return found, genes


def test_the_golden_average_precision_of_the_reference() -> None:
    assert tie_aware_ap(np.array([0.9, 0.8, 0.3, 0.2]), np.array([True, False, False, True])) == 0.75


def test_targets_are_found_where_they_are_planted_and_not_where_not() -> None:
    there = target_scores(*_with(profiles(3.0)), draws=20)
    assert there.compounds == tuple(f"c{c}" for c in range(6))
    assert there.ap.mean() > 0.9
    assert there.auroc.mean() > 0.95
    nowhere = [target_scores(*_with(profiles(0.0, seed)), draws=5) for seed in range(20)]
    assert np.mean([n.auroc.mean() for n in nowhere]) == pytest.approx(0.5, abs=0.05)
    assert there.chance.tolist() == [expected_ap(2, 20)] * 6


def test_draws_are_scored_as_one_by_one() -> None:
    """Ties within actives, within negatives and between them; each draw by the functions of one list."""
    score = np.random.default_rng(3).integers(0, 9, 43) / 9.0
    ap, auroc = [], []
    rng = np.random.default_rng(5)
    labels = np.repeat([1, 0], [3, 20])
    for _ in range(12):
        drawn = np.concatenate([score[:3], score[3 + rng.choice(40, 20, replace=False)]])
        ap.append(tie_aware_ap(drawn, labels == 1))
        auroc.append(macro_auroc(labels, np.stack([-drawn, drawn], axis=1), np.full(23, "all")).value)
    found = _scores(score, 3, 20, 12, np.random.default_rng(5))
    np.testing.assert_allclose(found, [np.mean(ap), np.mean(auroc), expected_ap(3, 20), np.std(ap)], atol=1e-12)


def test_permuted_genes_are_quiet_and_planted_targets_are_not() -> None:
    assert target_scores(*_with(profiles(3.0)), draws=2, permutations=199).p == 1 / 200
    p = np.array([target_scores(*_with(profiles(0.0, seed)), draws=2, permutations=39, seed=seed).p for seed in range(100)])
    assert np.mean(p <= 0.1) == pytest.approx(0.1, abs=0.08)
    assert np.mean(p <= 0.5) == pytest.approx(0.5, abs=0.13)
    assert np.isnan(target_scores(*_with(profiles(0.0)), draws=2).p)


def test_genes_that_all_look_alike_are_chance() -> None:
    compounds, genes = profiles(3.0)
    genes[:] = 1.0
    found = target_scores(compounds, GENES, genes, truth(), draws=5, permutations=19)
    np.testing.assert_allclose(found.ap, found.chance, atol=1e-12)
    assert found.auroc.tolist() == [0.5] * 6
    assert found.p == 1.0


def test_the_sign_of_a_profile_says_nothing() -> None:
    compounds, genes = profiles(3.0)
    turned = target_scores({name: -x for name, x in compounds.items()}, GENES, genes, truth(), draws=5)
    np.testing.assert_array_equal(turned.ap, target_scores(compounds, GENES, genes, truth(), draws=5).ap)


def test_what_binds_weakly_is_neither_active_nor_negative() -> None:
    """GENES[30] binds c0 at 5,000 nM: made to look like c0, it must not count against it."""
    compounds, genes = profiles(3.0)
    before = target_scores(compounds, GENES, genes, truth(), draws=30).ap[0]
    genes[30] = compounds["c0"][1]
    after = target_scores(compounds, GENES, genes, truth(), draws=30)
    assert after.ap[0] == before


def test_a_compound_keeps_its_score_whatever_else_is_asked() -> None:
    compounds, genes = profiles(1.0)
    whole = target_scores(compounds, GENES, genes, truth(), draws=5)
    alone = target_scores({"c3": compounds["c3"]}, GENES, genes, truth(), draws=5)
    assert alone.ap[0] == whole.ap[3]
    assert alone.skipped["c0"] == "it has no profile"
    assert alone.skipped["other"] == "it has no profile"


def test_the_same_under_any_hash_seed() -> None:
    code = (
        "from tests.pipelines.metrics.test_targets import *\nfrom tests.pipelines.metrics.test_targets import _with\n"
        "print(target_scores(*_with(profiles(0.5)), draws=3).ap.tolist())"
    )
    said = {
        subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True).stdout
        for seed in ("1", "2")
    }
    assert len(said) == 1


@pytest.mark.parametrize("first", [True, False])
def test_a_concentration_that_is_none_is_refused_wherever_it_stands(first: bool) -> None:
    for odd in (np.nan, -1.0):
        with pytest.raises(InputError, match=f"Expected a concentration of at least 0 nM for `c0` and `G000`, got {odd}. Leave the row out"):
            target_scores(*_with(profiles(1.0))[:3], [Interaction("c0", "G000", value) for value in ((odd, 10.0) if first else (10.0, odd))])
    # of 0 it is only known that they interact, and what does not bind at all is a negative
    Interaction("c0", "G000", 0.0)
    compounds, genes = profiles(1.0)
    far = [replace(row, nanomolar=np.inf) if row.compound == "other" else row for row in truth()]
    np.testing.assert_array_equal(
        target_scores(compounds, GENES, genes, far, draws=5).ap, target_scores(compounds, GENES, genes, truth(), draws=5).ap
    )


def test_a_compound_that_is_given_without_a_profile_is_refused() -> None:
    compounds, genes = profiles(1.0)
    with pytest.raises(InputError, match=r"at least one profile of `c1`, of 64 dimensions as those of genes, got shape \(0, 64\)\. Leave out"):
        target_scores({**compounds, "c1": np.zeros((0, 64))}, GENES, genes, truth())
    with pytest.raises(InputError, match=r"of 64 dimensions as those of genes, got shape \(2, 63\)"):
        target_scores({**compounds, "c1": compounds["c1"][:, 1:]}, GENES, genes, truth())


def test_nothing_to_score() -> None:
    compounds, genes = profiles(1.0)
    with pytest.raises(InputError, match="None of the 1 compounds"):
        target_scores(compounds, GENES, genes, [Interaction("c0", GENES[0], 10.0)])
    with pytest.raises(InputError, match="different names, got 59"):
        target_scores(compounds, [GENES[1], *GENES[1:]], genes, truth())


def _with(made: tuple[dict[str, np.ndarray], np.ndarray]) -> tuple[dict[str, np.ndarray], list[str], np.ndarray, list[Interaction]]:
    return made[0], GENES, made[1], truth()

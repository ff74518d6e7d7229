from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from pipelines.metrics.classification import macro_auroc
from pipelines.metrics.ranking import expected_ap, tie_aware_ap
from pipelines.metrics.targets import Interaction, TargetPositionControl, _scores, target_position_control, target_scores
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


def test_rounding_does_not_say_which_gene_of_one_direction_is_nearer() -> None:
    rng = np.random.default_rng(0)
    for d in (5, 33, 64, 177):
        compounds = {f"c{c}": rng.normal(size=(2, d)) for c in range(6)}
        genes = rng.normal(size=d) * rng.lognormal(size=(len(GENES), 1))
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


def slow_elsewhere(
    compounds: dict[str, np.ndarray], genes: np.ndarray, places: dict[str, np.ndarray], of_genes: np.ndarray, draws: int
) -> dict[str, tuple[float, float, float]]:
    """AP, AUROC and chance of each compound among the genes in other wells, one draw at a time; wells that are not known are no other wells."""
    strongest: dict[tuple[str, str], float] = {}
    for row in truth():
        strongest[row.compound, row.gene] = min(row.nanomolar, strongest.get((row.compound, row.gene), np.inf))
    found = {}
    for name, x in compounds.items():
        own = set(np.flatnonzero(places[name]).tolist())
        apart = [i for i, row in enumerate(of_genes) if own and row.any() and not own & set(np.flatnonzero(row).tolist())]
        actives = [i for i in apart if strongest.get((name, GENES[i]), np.inf) <= 1000]
        others = [i for i in apart if strongest.get((name, GENES[i]), np.inf) > 10000]
        wanted = max(2 * len(actives), 20)
        if not actives or len(others) < wanted:
            continue
        cosine = np.abs((x @ genes.T) / np.outer(np.linalg.norm(x, axis=1), np.linalg.norm(genes, axis=1))).max(axis=0)
        rng, ap, auroc = np.random.default_rng([0, *name.encode()]), [], []
        labels = np.repeat([1, 0], [len(actives), wanted])
        for _ in range(draws):
            drawn = cosine[[*actives, *(others[i] for i in rng.choice(len(others), wanted, replace=False))]]
            ap.append(tie_aware_ap(drawn, labels == 1))
            auroc.append(macro_auroc(labels, np.stack([-drawn, drawn], axis=1), np.full(len(drawn), "all")).value)
        found[name] = float(np.mean(ap)), float(np.mean(auroc)), expected_ap(len(actives), wanted)
    return found


def test_genes_in_other_wells_are_scored_as_one_by_one() -> None:
    """Compounds and genes in one to three of nine wells; of one compound and some genes none is known."""
    rng = np.random.default_rng(6)
    compounds, genes = profiles(0.05)
    of_genes = rng.random((len(GENES), 9)) < 0.15
    places = {name: np.arange(9) == number for number, name in enumerate(compounds)} | {"c4": np.zeros(9, dtype=bool)}
    of_genes[[0, 1], 0] = True
    of_genes[[2, 3]], of_genes[3, 5] = False, True
    found = control(compounds, genes, places, of_genes, draws=7)
    slow = slow_elsewhere(compounds, genes, places, of_genes, 7)
    # both targets of the first lie in its well, and of the fifth no well is known
    assert found.compounds == tuple(slow)
    assert {"c0", "c4"}.isdisjoint(slow)
    assert "c1" in slow
    np.testing.assert_allclose(np.stack([found.ap, found.auroc, found.chance], axis=1), list(slow.values()), atol=1e-12)
    everywhere = target_scores(compounds, GENES, genes, truth(), draws=7)
    at = [everywhere.compounds.index(name) for name in slow]
    normalised = [(a - c) / (1 - c) for a, c in ((everywhere.ap[at], everywhere.chance[at]), (found.ap, found.chance))]
    assert found.ap_drop == pytest.approx(np.mean(normalised[0] - normalised[1]), abs=1e-12)
    assert found.auroc_drop == pytest.approx(np.mean(everywhere.auroc[at] - found.auroc), abs=1e-12)
    assert found.share == pytest.approx(len(slow) / 6)
    assert 0 < found.dropped < 1


def control(
    compounds: dict[str, np.ndarray], genes: np.ndarray, places: dict[str, np.ndarray], of_genes: np.ndarray, draws: int
) -> TargetPositionControl:
    known = target_scores(compounds, GENES, genes, truth(), draws=draws)
    return target_position_control(known, compounds, GENES, genes, truth(), places, of_genes, draws=draws)


def in_wells(of_target: float, of_well: float, seed: int) -> TargetPositionControl:
    """Each compound shares a well with one of its two targets and with three genes that are none."""
    rng = np.random.default_rng(seed)
    compounds, genes = profiles(of_target, seed)
    well = np.arange(len(GENES)) + 6
    for number in range(6):
        well[[2 * number, *range(40 + 3 * number, 43 + 3 * number)]] = number
    wells = rng.normal(size=(66, 64))
    compounds = {name: x + of_well * wells[number] for number, (name, x) in enumerate(compounds.items())}
    places = {name: np.arange(66) == number for number, name in enumerate(compounds)}
    return control(compounds, genes + of_well * wells[well], places, np.eye(66, dtype=bool)[well], draws=20)


def test_targets_that_are_found_by_their_well_are_lost_elsewhere_and_others_are_not() -> None:
    of_wells, of_targets, quiet = ([in_wells(target, well, seed) for seed in range(20)] for target, well in ((0.0, 3.0), (3.0, 0.0), (0.0, 0.0)))

    def drops(found: list[TargetPositionControl]) -> list[float]:
        return [float(np.mean([getattr(one, name) for one in found])) for name in ("ap_drop", "auroc_drop")]

    assert min(drops(of_wells)) > 0.1
    assert np.mean([one.auroc.mean() for one in of_wells]) == pytest.approx(0.5, abs=0.06)
    assert np.mean([one.ap.mean() - one.chance.mean() for one in of_wells]) == pytest.approx(0.0, abs=0.06)
    assert np.mean([one.auroc.mean() for one in of_targets]) > 0.95
    for found in (of_targets, quiet):
        assert drops(found) == pytest.approx([0.0, 0.0], abs=0.04)
    assert {(one.share, one.dropped) for one in (*of_wells, *of_targets, *quiet)} == {(1.0, 0.5)}


def test_the_order_of_genes_and_rows_says_nothing_about_other_wells() -> None:
    compounds, genes = profiles(1.0)
    of_genes = np.eye(8, dtype=bool)[np.arange(len(GENES)) % 8]
    places = {name: np.arange(8) == number for number, name in enumerate(compounds)}
    order = np.random.default_rng(1).permutation(len(GENES))
    found = control(compounds, genes, places, of_genes, draws=5)
    turned, names = dict(reversed(compounds.items())), [GENES[i] for i in order]
    known = target_scores(turned, names, genes[order], truth()[::-1], draws=5)
    moved = target_position_control(known, turned, names, genes[order], truth()[::-1], places, of_genes[order], draws=5)
    assert repr(found) == repr(moved)


def test_where_the_design_forbids_other_wells_it_says_why() -> None:
    compounds, genes = profiles(3.0)

    def ask(of_genes: np.ndarray, of_compounds: np.ndarray | None = None) -> TargetPositionControl:
        rows = np.eye(6, of_genes.shape[1], dtype=bool) if of_compounds is None else of_compounds
        return control(compounds, genes, dict(zip(compounds, rows, strict=True)), of_genes, draws=5)

    one_well = ask(np.ones((60, 1), dtype=bool), np.ones((6, 1), dtype=bool))
    assert one_well.reason == "not estimable: no compound and its target lie in different wells that are known"
    assert (one_well.compounds, one_well.share, one_well.dropped) == ((), 0.0, 1.0)
    assert np.isnan([one_well.ap_drop, one_well.auroc_drop]).all()
    for width in (0, 4):
        nowhere = ask(np.zeros((60, width), dtype=bool))
        assert nowhere.reason == "not estimable: it is not known in which wells profiles lie"
    # only the targets lie elsewhere
    few = ask(np.eye(7, dtype=bool)[np.where(np.arange(60) < 12, 6, 0)], np.eye(7, dtype=bool)[[0] * 6])
    assert few.reason == "not estimable: no compound has a target and 20 negatives or more in other wells"
    apart = ask(np.eye(66, dtype=bool)[6:])
    everywhere = target_scores(compounds, GENES, genes, truth(), draws=5)
    np.testing.assert_array_equal([apart.ap, apart.auroc, apart.chance], [everywhere.ap, everywhere.auroc, everywhere.chance])
    assert (apart.share, apart.dropped, apart.reason) == (1.0, 0.0, "")
    assert np.isnan([apart.ap_drop, apart.auroc_drop]).all()
    with pytest.raises(InputError, match="Expected places of `c0`, got none"):
        control(compounds, genes, {}, np.ones((60, 1), dtype=bool), draws=5)
    alone = target_scores({"c3": compounds["c3"]}, GENES, genes, truth(), draws=5)
    with pytest.raises(InputError, match="scores of the same 6 compounds, got scores of 1"):
        target_position_control(alone, compounds, GENES, genes, truth(), {}, np.ones((60, 1), dtype=bool), draws=5)
    with pytest.raises(InputError, match=r"one number of places for genes and compounds, got shapes \(60, 2\) and \(3,\)"):
        ask(np.ones((60, 2), dtype=bool), np.ones((6, 3), dtype=bool))


def _with(made: tuple[dict[str, np.ndarray], np.ndarray]) -> tuple[dict[str, np.ndarray], list[str], np.ndarray, list[Interaction]]:
    return made[0], GENES, made[1], truth()

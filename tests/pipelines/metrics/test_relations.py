from __future__ import annotations

import itertools

import numpy as np
import pytest

from pipelines.metrics import relations
from pipelines.metrics.relations import MIN_PAIRS, RecallPositionControl, _cuts, _null, consistency, magnitude, recall, recall_position_control
from registry.errors import InputError


def gene_map(n: int = 60, d: int = 16, pairs: int = 15, strength: float = 0.0, seed: int = 0) -> tuple[np.ndarray, list[str], list[tuple[str, str]]]:
    """Profiles of genes; the first `pairs` pairs of neighbours are alike by `strength`."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, d))
    for pair in range(pairs):
        x[2 * pair + 1] = strength * x[2 * pair] + (1 - strength) * x[2 * pair + 1]
    names = [f"g{i:03d}" for i in range(n)]
    return x, names, [(names[2 * pair], names[2 * pair + 1]) for pair in range(pairs)]


def slow_recall(x: np.ndarray, known: list[tuple[int, int]], inside: list[int], low: float, high: float) -> float:
    """Every pair in turn, and searchsorted as the reference calls it."""
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    null = np.sort([round(float(unit[a] @ unit[b]), 9) for a, b in itertools.combinations(inside, 2)])
    hits = []
    for a, b in known:
        q = round(float(unit[a] @ unit[b]), 9)
        right, left = np.searchsorted(null, q, side="right") / len(null), np.searchsorted(null, q, side="left") / len(null)
        hits.append(right <= low or left >= high)
    return float(np.mean(hits))


class TestRecall:
    def test_the_golden_ranks_of_the_reference(self) -> None:
        """Null 1..5, asked 1 and 5: recall 0 at (0.1, 0.9) and 1 at (0.2, 0.8)."""
        null, asked = np.arange(1.0, 6.0), np.array([1.0, 5.0])
        for thresholds, expected in (((0.1, 0.9), 0.0), ((0.2, 0.8), 1.0)):
            below, above = _cuts(null.copy(), thresholds)
            assert np.mean((asked < below) | (asked > above)) == expected

    def test_the_thresholds_are_the_ranks_of_the_reference(self) -> None:
        """Every null of 2 to 400 values, with ties, at thresholds that are no binary fractions: the same pairs as by searchsorted."""
        rng = np.random.default_rng(1)
        for total in range(2, 401):
            null = np.sort(rng.integers(0, 60, total).astype(np.float64))
            asked = np.arange(-1.0, 61.0, 0.5)
            for low, high in ((0.05, 0.95), (0.1, 0.9), (0.07, 0.43)):
                right, left = (np.searchsorted(null, asked, side=side) / total for side in ("right", "left"))
                below, above = _cuts(rng.permutation(null), (low, high))
                np.testing.assert_array_equal((asked < below) | (asked > above), (right <= low) | (left >= high), err_msg=f"{total} {low}")

    @pytest.mark.parametrize("strength", [0.0, 0.5, 0.9])
    def test_is_the_slow_one(self, strength: float) -> None:
        x, names, known = gene_map(strength=strength)
        place = {name: i for i, name in enumerate(names)}
        pairs = [(place[a], place[b]) for a, b in known]
        assert recall(x, names, known).value == slow_recall(x, pairs, list(range(60)), 0.05, 0.95)
        genes = np.arange(60) < 40
        assert recall(x, names, known, genes=genes).value == slow_recall(x, pairs, list(range(40)), 0.05, 0.95)
        assert recall(x, names, known, genes=genes, null_scope="all").value == slow_recall(x, pairs, list(range(60)), 0.05, 0.95)

    def test_blocks_count_every_pair_once(self) -> None:
        x = np.random.default_rng(2).normal(size=(1100, 4))
        unit = x / np.linalg.norm(x, axis=1, keepdims=True)
        expected = np.sort(np.round((unit @ unit.T)[np.triu_indices(1100, 1)], 9))
        np.testing.assert_allclose(np.sort(_null(unit)), expected, atol=1.5e-9)

    def test_known_truth(self) -> None:
        """Pairs that are alike are found; a random map has 0.1; a constant one finds nothing."""
        x, names, known = gene_map(strength=0.9)
        assert recall(x, names, known).value == 1.0
        random = [recall(*gene_map(seed=seed)) for seed in range(60)]
        assert np.mean([r.value for r in random]) == pytest.approx(0.1, abs=0.03)
        assert random[0].chance == pytest.approx(0.1)
        constant = recall(np.ones((60, 4)), names, known)
        assert constant.value == 0.0

    def test_permuted_names_are_what_a_slow_loop_gives(self) -> None:
        x, names, known = gene_map(strength=0.5)
        found = recall(x, names, known, permutations=49, seed=3)
        rng = np.random.default_rng(3)
        orders = [rng.permutation(60) for _ in range(49)]
        draws = [recall(x, [names[i] for i in np.argsort(order)], known).value for order in orders]
        assert found.permuted == pytest.approx(np.mean(draws), abs=1e-12)
        assert found.p == (1 + sum(draw >= found.value for draw in draws)) / 50
        assert found.value == recall(x, names, known).value

    def test_planted_relations_are_found_and_permuted_ones_are_quiet(self) -> None:
        assert recall(*gene_map(strength=0.9), permutations=199).p == 1 / 200
        p = np.array([recall(*gene_map(seed=seed), permutations=39, seed=seed).p for seed in range(100)])
        assert np.mean(p <= 0.1) <= 0.17
        assert np.mean(p <= 0.5) < 0.7  # recalls are few values, so that p is no smaller than uniform

    def test_a_map_of_signs_is_measured_by_its_own_chance(self) -> None:
        """Nearly all cosines are 1 and nearly all asked ones are -1, all of one hub: permuted names show that it is one finding, not 59."""
        x, names, _ = gene_map(n=60, d=1)
        x[:] = 1
        x[:2] = -1
        known = [(names[0], name) for name in names[1:]]
        found = recall(x, names, known, thresholds=(0.1, 0.95), permutations=199)
        assert (found.value, found.chance) == (58 / 59, pytest.approx(0.15))
        assert found.p > 0.01
        only_genes = recall(x, names, known, genes=np.arange(60) >= 30, permutations=9)
        assert only_genes.p == 1.0  # the hub is no gene: it keeps its name

    def test_pairs_are_undirected_and_counted_once(self) -> None:
        x, names, known = gene_map(strength=0.5)
        doubled = [*known, *[(b, a) for a, b in known], (names[0], names[0]), (names[0], "absent")]
        assert recall(x, names, doubled) == recall(x, names, known)
        assert recall(x, names, doubled).pairs == 15

    def test_what_the_reference_lets_pass_is_refused(self) -> None:
        x, names, known = gene_map()
        with pytest.raises(InputError, match="different names, got 59"):
            recall(x, [names[1], *names[1:]], known)
        with pytest.raises(InputError, match="at least 20 entities for a null, got 19"):
            recall(x, names, known, genes=np.arange(60) < 19)
        with pytest.raises(InputError, match="None of the 1 known pairs is in the map"):
            recall(x, names, [("TP53", "MDM2")])
        with pytest.raises(InputError, match="0 < low < high < 1"):
            recall(x, names, known, thresholds=(0.95, 0.05))
        x[3] = 0
        with pytest.raises(InputError, match="`g003` is 0"):
            recall(x, names, known)


def replicates(strength: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Twelve genes without effect and one with, six replicates each, and 50 controls."""
    rng = np.random.default_rng(seed)
    names = np.repeat([*[f"null{i:02d}" for i in range(12)], "real", "control"], [*[6] * 13, 50])
    x = rng.normal(size=(len(names), 8))
    x[names == "real"] += strength * np.ones(8)
    return x, names, [f"null{i:02d}" for i in range(12)]


def in_wells(n: int, wells: int, most: int, seed: int = 0) -> np.ndarray:
    """Entities that lie in one to `most` wells each, at random; two of them nowhere that is known."""
    rng = np.random.default_rng(seed)
    places = np.zeros((n, wells), dtype=bool)
    for row in places:
        row[rng.choice(wells, rng.integers(1, most + 1), replace=False)] = True
    places[[3, n - 1]] = False
    return places


def slow_elsewhere(x: np.ndarray, known: list[tuple[int, int]], inside: list[int], places: np.ndarray) -> float:
    """As `slow_recall`, of pairs whose wells are known and have none in common, on both sides."""
    wells = [set(np.flatnonzero(row).tolist()) for row in places]

    def apart(a: int, b: int) -> bool:
        return bool(wells[a]) and bool(wells[b]) and not wells[a] & wells[b]

    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    null = np.sort([round(float(unit[a] @ unit[b]), 9) for a, b in itertools.combinations(inside, 2) if apart(a, b)])
    asked = [round(float(unit[a] @ unit[b]), 9) for a, b in known if apart(a, b)]
    hits = [np.searchsorted(null, q, side="right") / len(null) <= 0.05 or np.searchsorted(null, q, side="left") / len(null) >= 0.95 for q in asked]
    return float(np.mean(hits))


class TestRecallInOtherWells:
    @pytest.mark.parametrize("wells", [4, 90])
    @pytest.mark.parametrize("block", [512, 7])
    def test_is_the_slow_one(self, monkeypatch: pytest.MonkeyPatch, wells: int, block: int) -> None:
        monkeypatch.setattr(relations, "_BLOCK", block)
        x, names, known = gene_map(strength=0.5)
        known += [(names[i], names[i + 30]) for i in range(25)]
        pairs, places, genes = [(names.index(a), names.index(b)) for a, b in known], in_wells(60, wells, 2), np.arange(60) < 45
        for scope, inside in (("genes", range(45)), ("all", range(60))):
            found = recall_position_control(x, names, known, places, genes=genes, null_scope=scope)
            assert found.value == slow_elsewhere(x, pairs, list(inside), places), scope
            assert found.anywhere == recall(x, names, known, genes=genes, null_scope=scope).value
            assert found.drop == pytest.approx(found.anywhere - found.value, abs=1e-12)
            shared = [bool((places[a] & places[b]).any() or not places[a].any() or not places[b].any()) for a, b in pairs]
            assert found.share == pytest.approx(1 - np.mean(shared))

    def test_a_recall_of_the_position_falls_and_one_of_relations_does_not(self) -> None:
        """Of 30 known pairs every other shares a well of its own, and so do 20 pairs that nothing is known of."""
        of_wells, of_pairs, quiet = ([planted(position, relation, seed) for seed in range(30)] for position, relation in ((0.9, 0), (0, 0.9), (0, 0)))

        def mean(found: list[RecallPositionControl], name: str) -> float:
            return float(np.mean([getattr(one, name) for one in found]))

        assert mean(of_wells, "anywhere") > 0.5
        assert mean(of_wells, "value") == pytest.approx(0.1, abs=0.03)
        assert mean(of_wells, "drop") > 0.4
        assert (mean(of_pairs, "anywhere"), mean(of_pairs, "value")) == (1.0, 1.0)
        assert mean(of_pairs, "drop") == 0.0
        # without an effect neither says anything
        assert mean(quiet, "value") == pytest.approx(0.1, abs=0.03)
        assert mean(quiet, "drop") == pytest.approx(0.0, abs=0.03)
        assert {one.share for one in (*of_wells, *of_pairs, *quiet)} == {0.5}

    def test_the_null_keeps_to_the_rule_of_the_pairs(self) -> None:
        """54 and 6 genes in two wells: all that is apart is unlike, and beside pairs of one well more than a quarter of it would lie in the tails."""
        rng = np.random.default_rng(0)
        group = (np.arange(60) >= 54).astype(int)
        x = rng.normal(size=(60, 16)) + 6 * rng.normal(size=(2, 16))[group]
        names = [f"g{i:03d}" for i in range(60)]
        apart = list(itertools.product(names[:54], names[54:]))
        found = recall_position_control(x, names, [*apart[::3], (names[0], names[1])], np.eye(2, dtype=bool)[group])
        assert found.value == pytest.approx(0.1, abs=0.05)
        assert recall(x, names, apart[::3]).value > 0.2

    def test_the_order_of_entities_and_pairs_says_nothing(self) -> None:
        x, names, known = gene_map(strength=0.5)
        places, order = in_wells(60, 8, 2), np.random.default_rng(2).permutation(60)
        found = recall_position_control(x, names, known, places)
        assert found == recall_position_control(x[order], [names[i] for i in order], [(b, a) for a, b in known[::-1]], places[order])

    def test_where_the_design_forbids_it_says_why(self) -> None:
        x, names, known = gene_map(strength=0.9)
        ends = np.repeat(np.arange(30), 2)
        everywhere = recall_position_control(x, names, known, np.eye(30, dtype=bool)[ends])
        assert everywhere.reason == "not estimable: no two entities of a known pair lie in different wells"
        assert (everywhere.anywhere, everywhere.share) == (1.0, 0.0)
        assert np.isnan([everywhere.value, everywhere.drop]).all()
        of_some = np.eye(30, dtype=bool)[ends] & (np.arange(60) % 2 == 0)[:, None]
        said = "not estimable: no two entities of a known pair whose wells are known lie in different wells"
        assert recall_position_control(x, names, known, of_some).reason == said
        for nowhere in (np.zeros((60, 4), dtype=bool), np.zeros((60, 0), dtype=bool)):
            assert recall_position_control(x, names, known, nowhere).reason == "not estimable: it is not known in which wells profiles lie"
        # one gene alone lies apart from all others: 59 pairs
        alone = recall_position_control(x, names, known, np.eye(2, dtype=bool)[(np.arange(60) == 0).astype(int)])
        assert alone.reason == f"not estimable: 59 pairs of the null share no well, at least {MIN_PAIRS} are needed for its tails"
        of_their_own = recall_position_control(x, names, known, np.eye(60, dtype=bool))
        assert (of_their_own.value, of_their_own.share, of_their_own.reason) == (of_their_own.anywhere, 1.0, "")
        assert np.isnan(of_their_own.drop)
        with pytest.raises(InputError, match=r"a row of places for each of 60 profiles, got shape \(59, 2\)"):
            recall_position_control(x, names, known, np.zeros((59, 2), dtype=bool))


def planted(position: float, relation: float, seed: int) -> RecallPositionControl:
    """30 known pairs of genes, of which every other shares a well, and 20 pairs that only share a well; what of a profile is its well or pair."""
    rng = np.random.default_rng(seed)
    n, pair = 100, np.repeat(np.arange(50), 2)
    well = np.where((pair < 30) & (pair % 2 == 1), 50 + np.arange(n), pair)
    of_well, of_pair = rng.normal(size=(150, 24))[well], rng.normal(size=(50, 24))[pair]
    related = (pair < 30)[:, None] * relation
    x = (1 - position) * (1 - related) * rng.normal(size=(n, 24)) + position * of_well + related * of_pair
    names = [f"g{i:03d}" for i in range(n)]
    return recall_position_control(x, names, [(names[2 * i], names[2 * i + 1]) for i in range(30)], np.eye(150, dtype=bool)[well])


class TestSignal:
    def test_consistency_is_the_mean_over_pairs(self) -> None:
        x, names, negatives = replicates(1.0)
        found = consistency(x, names, negatives)
        unit = x / np.linalg.norm(x, axis=1, keepdims=True)
        mine = unit[names == "real"]
        expected = np.mean([a @ b for a, b in itertools.combinations(mine, 2)])
        place = found.names.index("real")
        assert found.value[place] == pytest.approx(expected, abs=1e-12)
        null = [found.value[found.names.index(name)] for name in negatives]
        above = sum(value >= expected for value in null)
        assert found.p[place] == (1 + above) / 13
        assert found.p_published[place] == above / 12
        assert np.isnan(found.p[found.names.index("null00")])

    def test_one_replicate_has_no_consistency_and_does_not_dilute_the_null(self) -> None:
        x, names, negatives = replicates(3.0)
        names = np.where(np.arange(len(names)) == 0, "lonely", names)
        found = consistency(x, names, [*negatives, "lonely"])
        assert np.isnan(found.value[found.names.index("lonely")])
        assert found.null == 12

    def test_rounding_does_not_say_which_of_equal_profiles_are_more_alike(self) -> None:
        rng = np.random.default_rng(0)
        negatives = [f"g{number:02d}" for number in range(0, 40, 2)]
        for d in (3, 20, 57, 150):
            names = np.repeat([f"g{number:02d}" for number in range(40)], rng.integers(2, 9, size=40))
            found = consistency(rng.normal(size=d) * rng.lognormal(size=(len(names), 1)), names, negatives)
            assert found.value == pytest.approx(np.ones(40), abs=1e-12)
            assert np.nanmin(found.p) == np.nanmin(found.p_published) == 1.0

    def test_the_golden_energy_distance(self) -> None:
        """Rows [1..5] against rows [6..10] of the reference's test: 22.3607."""
        a, b = np.tile(np.arange(1.0, 6.0), (5, 1)), np.tile(np.arange(6.0, 11.0), (5, 1))
        names = np.repeat(["real", "null", "control"], 5)
        found = magnitude(np.concatenate([a, b + 1, b]), names, names == "control", ["null"])
        assert found.value[found.names.index("real")] == pytest.approx(22.3607, abs=1e-4)

    def test_an_effect_is_found_and_the_published_p_can_be_zero(self) -> None:
        x, names, negatives = replicates(2.0)
        for found in (consistency(x, names, negatives), magnitude(x, names, names == "control", negatives)):
            place = found.names.index("real")
            assert found.p[place] == pytest.approx(1 / 13)
            assert found.p_published[place] == 0.0

    def test_the_published_p_is_that_of_the_reference(self) -> None:
        """`1 - searchsorted(null, s) / n` of the reference's consistency; the share of the null above E of its magnitude."""
        for seed in range(5):
            x, names, negatives = replicates(0.4, seed)
            for found, of_reference in (
                (consistency(x, names, negatives), lambda null, s: 1 - np.searchsorted(null, s) / len(null)),
                (magnitude(x, names, names == "control", negatives), lambda null, e: sum(n > e for n in null) / len(null)),
            ):
                null = np.sort([found.value[found.names.index(name)] for name in negatives])
                place = found.names.index("real")
                assert found.p_published[place] == pytest.approx(of_reference(null, found.value[place]), abs=1e-12)

    def test_values_that_equal_the_null_count_in_the_published_p_of_consistency_and_not_of_magnitude(self) -> None:
        """Every perturbation has the same replicates: its p is 1, published 1 (`>=`) and 0 (`>`)."""
        names = np.repeat([*[f"null{i}" for i in range(4)], "real", "control"], [*[3] * 5, 6])
        x = np.concatenate([np.tile(np.random.default_rng(0).normal(size=(3, 4)), (5, 1)), np.random.default_rng(1).normal(size=(6, 4))])
        negatives = [f"null{i}" for i in range(4)]
        for found, published in (
            (consistency(x, names, negatives), lambda null, value: np.mean(null >= value)),
            (magnitude(x, names, names == "control", negatives, least_replicates=3), lambda null, value: np.mean(null > value)),
        ):
            place = found.names.index("real")
            null = np.array([found.value[found.names.index(name)] for name in negatives])
            assert (null == found.value[place]).all()
            assert found.p[place] == 1.0
            assert found.p_published[place] == published(null, found.value[place])

    def test_without_an_effect_p_is_uniform_over_its_steps(self) -> None:
        p = [consistency(*replicates(0.0, seed)).p for seed in range(200)]
        real = np.array([row[~np.isnan(row)][-1] for row in p])
        assert np.mean(real <= 2 / 13) == pytest.approx(2 / 13, abs=0.06)

    def test_too_few_replicates_for_a_magnitude(self) -> None:
        x, names, negatives = replicates(2.0)
        keep = (names != "real") | (np.cumsum(names == "real") <= 4)
        found = magnitude(x[keep], names[keep], names[keep] == "control", negatives)
        assert np.isnan(found.value[found.names.index("real")])

    def test_magnitude_is_the_mean_over_pairs_of_distances(self) -> None:
        x, names, negatives = replicates(1.0)
        found = magnitude(x + 1e3, names, names == "control", negatives, least_replicates=2)

        def mean(a: np.ndarray, b: np.ndarray) -> float:
            return float(np.mean([np.linalg.norm(p - q) for p in a for q in b]))

        mine, controls = x[names == "real"], x[names == "control"]
        expected = 2 * mean(mine, controls) - mean(mine, mine) - mean(controls, controls)
        assert found.value[found.names.index("real")] == pytest.approx(expected, abs=1e-7)

    def test_sampled_controls_depend_on_the_seed_alone(self) -> None:
        x, names, negatives = replicates(1.0)
        ask = [magnitude(x, names, names == "control", negatives, most_controls=20, seed=seed).value for seed in (0, 0, 1)]
        np.testing.assert_array_equal(ask[0], ask[1])
        assert not np.array_equal(ask[0], ask[2])

    def test_no_null_no_control(self) -> None:
        x, names, _ = replicates(1.0)
        with pytest.raises(InputError, match="Without a null"):
            consistency(x, names, ["absent"])
        with pytest.raises(InputError, match="at least one control"):
            magnitude(x, names, np.zeros(len(names), dtype=bool), ["null00"])

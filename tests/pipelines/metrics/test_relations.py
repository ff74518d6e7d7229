from __future__ import annotations

import itertools

import numpy as np
import pytest

from pipelines.metrics.relations import _in_tails, _ranks, consistency, magnitude, recall
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
        ranks = np.searchsorted(null, asked, side="left"), np.searchsorted(null, asked, side="right")
        assert _in_tails(*ranks, 5, (0.1, 0.9)).mean() == 0.0
        assert _in_tails(*ranks, 5, (0.2, 0.8)).mean() == 1.0

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
        below, not_above, total = _ranks(unit, np.array([2.0, -2.0]))
        assert (below.tolist(), not_above.tolist(), total) == ([total, 0], [total, 0], 1100 * 1099 // 2)

    def test_known_truth(self) -> None:
        """Pairs that are alike are found; a random map has 0.1; a constant one finds nothing."""
        x, names, known = gene_map(strength=0.9)
        assert recall(x, names, known).value == 1.0
        random = [recall(*gene_map(seed=seed)) for seed in range(60)]
        assert np.mean([r.value for r in random]) == pytest.approx(0.1, abs=0.03)
        assert random[0].chance == pytest.approx(0.1)
        constant = recall(np.ones((60, 4)), names, known)
        assert constant.value == 0.0

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

    def test_without_an_effect_p_is_uniform_over_its_steps(self) -> None:
        p = [consistency(*replicates(0.0, seed)).p for seed in range(200)]
        real = np.array([row[~np.isnan(row)][-1] for row in p])
        assert np.mean(real <= 2 / 13) == pytest.approx(2 / 13, abs=0.06)

    def test_too_few_replicates_for_a_magnitude(self) -> None:
        x, names, negatives = replicates(2.0)
        keep = (names != "real") | (np.cumsum(names == "real") <= 4)
        found = magnitude(x[keep], names[keep], names[keep] == "control", negatives)
        assert np.isnan(found.value[found.names.index("real")])

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

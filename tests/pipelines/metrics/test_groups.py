from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from pipelines.metrics.groups import Groups, _PermutationNull, benjamini_hochberg, copairs_group_scores, group_scores, least_found
from pipelines.metrics.pairs import PairRule, pair_scores
from registry.errors import InputError
from tests.pipelines.metrics.test_pairs import RULES, columns_of, screen

BY_PERT = Groups(("pert",), strata=("plate",))
ACTIVITY = RULES["activity"]


def wells(rng: np.random.Generator, groups: int = 1, members: int = 4, controls: int = 8, plates: int = 2) -> pd.DataFrame:
    """`members` wells of each group, spread evenly over plates, and `controls` on each plate."""
    records = [{"pert": f"g{g}", "plate": f"p{m % plates}", "well": f"w{rng.integers(4)}"} for g in range(groups) for m in range(members)]
    records += [{"pert": "DMSO", "plate": f"p{plate}", "well": f"w{rng.integers(4)}"} for plate in range(plates) for _ in range(controls)]
    table = pd.DataFrame(records)
    table["ref"] = [str(i) if pert == "DMSO" else "-1" for i, pert in enumerate(table["pert"])]
    return table


class TestCopairs:
    @pytest.mark.parametrize("name", RULES)
    def test_map_and_p_values_are_those_of_copairs(self, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HOME", str(tmp_path))
        from copairs.map import average_precision, mean_average_precision

        features, table = screen(plates=5, perts=8)
        rule = RULES[name]
        lists = [list(each) for each in (rule.pos_sameby, rule.pos_diffby, rule.neg_sameby, rule.neg_diffby)]
        theirs = average_precision(table, features, *lists, progress_bar=False)
        expected = mean_average_precision(
            theirs, ["pert"], null_size=2000, threshold=0.05, seed=3, progress_bar=False, cache_dir=str(tmp_path / "cache")
        ).set_index("pert")
        columns = columns_of(table)
        found = copairs_group_scores(pair_scores(features.astype(float), columns, rule), columns, Groups(("pert",)), null_size=2000, seed=3)
        mine = pd.DataFrame({"map": found.map, "nap": found.normalised, "p": found.p, "q": found.p_adjusted}, index=list(found.names))
        assert {f"c{number}" for number in range(8)} <= set(mine.index)
        assert list(mine.index) == list(expected.index)
        tied = name == "activity within plates"
        if tied:
            # two control wells are a positive and a negative pair at once there, which ties with itself: the parity is of what does not tie
            mine, expected = mine.drop("DMSO"), expected.drop("DMSO")
        np.testing.assert_allclose(mine["map"], expected["mean_average_precision"], rtol=0, atol=1e-12)
        np.testing.assert_allclose(mine["nap"], expected["mean_normalized_average_precision"], rtol=0, atol=1e-12)
        np.testing.assert_array_equal(mine["p"], expected["p_value"])
        if not tied:
            np.testing.assert_allclose(mine["q"], expected["corrected_p_value"], rtol=0, atol=1e-12)

    @pytest.mark.parametrize("rule", [ACTIVITY, PairRule(pos_sameby=("pert",), pos_diffby=("plate",), neg_sameby=("plate",), neg_diffby=("pert",))])
    def test_draws_of_the_same_ap_and_queries_without_negatives_count_as_in_copairs(
        self, rule: PairRule, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Compounds of two wells have the AP of many draws exactly; a plate of controls alone has no negatives of its own."""
        monkeypatch.setenv("HOME", str(tmp_path))
        from copairs.map import average_precision, mean_average_precision

        rng, lists = np.random.default_rng(0), [list(each) for each in (rule.pos_sameby, rule.pos_diffby, rule.neg_sameby, rule.neg_diffby)]
        for seed in range(3):
            table = pd.concat([wells(rng, groups=8, members=2, controls=3), wells(rng, groups=0, controls=2, plates=3).query("plate == 'p2'")])
            table = table.assign(ref=np.where(table["pert"] == "DMSO", np.arange(len(table)).astype(str), "-1")).reset_index(drop=True)
            features = rng.normal(size=(len(table), 12)).astype(np.float32)
            scores = average_precision(table, features, *lists, progress_bar=False)
            cache = str(tmp_path / f"cache-{seed}")
            expected = mean_average_precision(scores, ["pert"], null_size=500, threshold=0.05, seed=seed, progress_bar=False, cache_dir=cache)
            columns = columns_of(table)
            found = copairs_group_scores(pair_scores(features.astype(float), columns, rule), columns, Groups(("pert",)), null_size=500, seed=seed)
            assert list(found.names) == expected["pert"].tolist()
            np.testing.assert_allclose(found.map, expected["mean_average_precision"], rtol=0, atol=1e-12)
            np.testing.assert_allclose(found.normalised, expected["mean_normalized_average_precision"], rtol=0, atol=1e-12)
            np.testing.assert_array_equal(found.p, expected["p_value"])

    def test_its_null_is_that_of_one_list_and_so_conservative_for_replicates(self) -> None:
        """Over screens without an effect its p-values keep away from 0, where the permutation's are uniform."""
        rng = np.random.default_rng(0)
        theirs, ours = [], []
        for _ in range(150):
            table = wells(rng)
            columns, features = columns_of(table), rng.normal(size=(len(table), 6))
            scored = pair_scores(features, columns, ACTIVITY)
            theirs += copairs_group_scores(scored, columns, BY_PERT, null_size=499).p.tolist()
            ours += group_scores(features, columns, ACTIVITY, BY_PERT, n_permutations=499).p.tolist()
        assert np.mean(np.array(theirs) <= 0.1) < np.mean(np.array(ours) <= 0.1)
        assert np.std(theirs) < np.std(ours)


class TestPermutation:
    @pytest.mark.parametrize("ties", [False, True])
    @pytest.mark.parametrize(
        "rule",
        [
            ACTIVITY,
            PairRule(pos_sameby=("pert",), pos_diffby=("well",), neg_sameby=("plate",), neg_diffby=("pert",)),
            PairRule(pos_sameby=("pert",), pos_diffby=("plate",), neg_diffby=("pert", "plate")),
        ],
    )
    def test_a_draw_scores_what_the_rule_gives_when_labels_are_written_anew(self, rule: PairRule, ties: bool) -> None:
        rng = np.random.default_rng(4)
        table = wells(rng, members=5, controls=6)
        features = rng.normal(size=(len(table), 3))
        if ties:
            features = np.round(features)
        null = _PermutationNull(features, columns_of(table), rule, BY_PERT, "euclidean")
        pool = np.arange(len(table))
        drawn = null._draws(pool, pool < 5, 60, 4)
        assert drawn is not None
        means = null._means(pool, drawn)
        for members, mean in zip(drawn, means, strict=True):
            new = table.copy()
            new["pert"] = np.where(members, "g0", "DMSO")
            new["ref"] = [("-1" if inside else str(i)) for i, inside in enumerate(members)]
            scored = pair_scores(features, columns_of(new), rule, "euclidean")
            mine = np.isin(scored.query, np.flatnonzero(members)) & ~np.isnan(scored.ap)
            np.testing.assert_allclose(mean, scored.normalised[mine].mean() if mine.any() else 0.0, atol=1e-12)
        assert (drawn.sum(axis=1) == 5).all()
        assert (drawn[:, (table["plate"] == "p0").to_numpy()].sum(axis=1) == 3).all()

    def test_groups_that_could_take_each_others_places_share_their_draws_and_each_p_is_that_of_the_group_alone(self) -> None:
        rng = np.random.default_rng(5)
        table = pd.DataFrame({"pert": [f"g{i % 6}" for i in range(48)], "plate": [f"p{i // 12}" for i in range(48)]})
        features = rng.normal(size=(48, 3)) + 2 * (table["pert"] == "g0").to_numpy()[:, None]
        rule = PairRule(pos_sameby=("pert",), neg_sameby=("plate",), neg_diffby=("pert",))
        together = _PermutationNull(features, columns_of(table), rule, BY_PERT, "euclidean")
        for name in sorted(set(table["pert"])):
            members = np.flatnonzero((table["pert"] == name).to_numpy())
            alone = _PermutationNull(features, columns_of(table), rule, BY_PERT, "euclidean")
            assert together.test(members, 99, 0) == alone.test(members, 99, 0)
        assert len(together._drawn) == 1

    def test_p_is_uniform_without_an_effect(self) -> None:
        rng = np.random.default_rng(1)
        p = []
        for _ in range(300):
            table = wells(rng, members=int(rng.integers(3, 6)))
            # plates differ, which must not matter
            features = rng.normal(size=(len(table), 6)) + 2.0 * (table["plate"] == "p1").to_numpy()[:, None]
            p += group_scores(features, columns_of(table), ACTIVITY, BY_PERT, n_permutations=199, seed=len(p)).p.tolist()
        assert stats.kstest(p, "uniform").pvalue > 0.01

    def test_a_plate_is_no_effect_and_permuting_across_plates_takes_it_for_one(self) -> None:
        rng = np.random.default_rng(2)
        within, across = [], []
        for seed in range(60):
            table = pd.concat([wells(rng, members=4, plates=1), wells(rng, groups=0, controls=16, plates=1).assign(plate="p1")], ignore_index=True)
            table["ref"] = [str(i) if pert == "DMSO" else "-1" for i, pert in enumerate(table["pert"])]
            features = rng.normal(size=(len(table), 6)) + 3.0 * (table["plate"] == "p1").to_numpy()[:, None]
            columns = columns_of(table)
            within += group_scores(features, columns, ACTIVITY, BY_PERT, n_permutations=99, seed=seed, distance="euclidean").p.tolist()
            across += group_scores(features, columns, ACTIVITY, Groups(("pert",)), n_permutations=99, seed=seed, distance="euclidean").p.tolist()
        assert np.mean(np.array(within) <= 0.05) <= 0.15
        assert np.mean(np.array(across) <= 0.05) >= 0.5

    def test_an_effect_is_found(self) -> None:
        rng = np.random.default_rng(3)
        table = wells(rng, groups=6)
        features = rng.normal(size=(len(table), 6))
        features[(table["pert"] == "g2").to_numpy()] += 4.0
        found = group_scores(features, columns_of(table), ACTIVITY, BY_PERT, n_permutations=999)
        assert found.names[int(np.argmin(found.p_adjusted))] == "g2"
        assert found.p_adjusted.min() <= 0.02
        assert np.sort(found.p_adjusted)[1] > 0.05

    def test_a_group_has_its_p_value_whatever_else_is_asked(self) -> None:
        rng = np.random.default_rng(5)
        table = wells(rng, groups=3)
        features = rng.normal(size=(len(table), 5))
        whole = group_scores(features, columns_of(table), ACTIVITY, BY_PERT, n_permutations=99)
        keep = (table["pert"] != "g0").to_numpy()
        part = group_scores(features[keep], columns_of(table[keep]), ACTIVITY, BY_PERT, n_permutations=99)
        assert part.p.tolist() == whole.p[1:].tolist()

    def test_profiles_that_are_no_queries_stay_candidates_and_their_groups_are_not_tested(self) -> None:
        rng = np.random.default_rng(5)
        table = wells(rng, groups=3)
        # control wells agree with each other in the perturbation, so that they are a group unless nobody asks of them
        rule, columns, treated = PairRule(("pert",), (), ("plate",), ("pert",)), columns_of(table), (table["pert"] != "DMSO").to_numpy()
        features = rng.normal(size=(len(table), 5))
        whole = group_scores(features, columns, rule, BY_PERT, n_permutations=99)
        part = group_scores(features, columns, rule, BY_PERT, n_permutations=99, queries=treated)
        assert whole.names == ("DMSO", *part.names)
        assert part.p.tolist() == whole.p[1:].tolist()
        assert part.map.tolist() == whole.map[1:].tolist()
        assert part.p_adjusted.tolist() == benjamini_hochberg(part.p).tolist()
        with pytest.raises(InputError, match="some of `g0`"):
            group_scores(features, columns, rule, BY_PERT, queries=treated & (np.cumsum(table["pert"] == "g0") != 1))

    @pytest.mark.parametrize("distance", ["cosine", "euclidean"])
    def test_a_constant_embedding_is_at_chance_with_p_1(self, distance: str) -> None:
        table = wells(np.random.default_rng(6))
        found = group_scores(np.ones((len(table), 4)), columns_of(table), ACTIVITY, BY_PERT, n_permutations=99, distance=distance)
        np.testing.assert_allclose(found.normalised, 0.0, atol=1e-12)
        assert found.p.tolist() == [1.0]

    def test_where_nothing_can_be_permuted_there_is_no_p_value_but_a_reason(self) -> None:
        table = wells(np.random.default_rng(7), groups=2)
        table["plate"] = np.where(table["pert"] == "g0", "other", table["plate"])
        features = np.random.default_rng(8).normal(size=(len(table), 4))
        found = group_scores(features, columns_of(table), ACTIVITY, BY_PERT, n_permutations=99)
        assert np.isnan(found.p[0])
        assert found.reasons[0].startswith("not estimable: no stratum")
        assert found.p_adjusted[1] == found.p[1]
        mixed = group_scores(features, columns_of(table), RULES["activity within plates"], BY_PERT, n_permutations=99)
        assert "its members differ in `ref`" in mixed.reasons[mixed.names.index("DMSO")]


def test_adjusted_p_values_are_scipys() -> None:
    p = np.random.default_rng(9).random(40) ** 2
    np.testing.assert_allclose(benjamini_hochberg(p), stats.false_discovery_control(p), rtol=0, atol=1e-15)
    with_gaps = benjamini_hochberg(np.array([0.01, np.nan, 0.04]))
    np.testing.assert_allclose(with_gaps[[0, 2]], [0.02, 0.04])
    assert np.isnan(with_gaps[1])


@pytest.mark.parametrize("rate", [0.05, 0.1, 0.5])
def test_fewer_groups_than_the_least_cannot_be_found_and_so_many_can(rate: float) -> None:
    """Groups at the least p there can be, all others at 1."""
    for draws in (9, 19, 99, 199, 999):
        for n in (1, 2, 5, 20, 49, 50, 51, 320, 421):
            found = [int((benjamini_hochberg(np.repeat([1 / (1 + draws), 1.0], [k, n - k])) < rate).sum()) for k in range(n + 1)]
            least = least_found(n, draws, rate)
            assert next((k for k in found if k), n + 1) == least, (n, draws)
            assert not any(found[:least])
    assert (least_found(320, 999, 0.05), least_found(320, 9999, 0.05), least_found(0, 99, 0.05)) == (7, 1, 1)
    for wrong in ((5, 0, 0.05), (-1, 9, 0.05), (5, 9, 0.0), (5, 9, np.nan)):
        with pytest.raises(InputError, match="Expected a "):
            least_found(*wrong)


def test_a_group_needs_a_column_that_exists() -> None:
    features, table = screen()
    for sameby, words in ((("dose",), "no column `dose`"), ((), "at least one column")):
        with pytest.raises(InputError, match=words):
            group_scores(features, columns_of(table), ACTIVITY, Groups(sameby))

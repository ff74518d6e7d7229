from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import average_precision_score

from pipelines.metrics.pairs import PairRule, PairScores, fitting_distance, multilabel_scores, pair_scores
from pipelines.metrics.ranking import tie_aware_ap
from registry.errors import InputError

#: the canonical questions of the field
RULES = {
    "activity": PairRule(pos_sameby=("pert", "ref"), neg_diffby=("pert", "ref")),
    "activity within plates": PairRule(pos_sameby=("pert",), neg_sameby=("plate",), neg_diffby=("ref",)),
    "activity, other wells": PairRule(pos_sameby=("pert",), pos_diffby=("well",), neg_sameby=("plate",), neg_diffby=("kind", "pert")),
    "replicability": PairRule(pos_sameby=("pert",), neg_sameby=("plate",), neg_diffby=("pert",)),
    "replicability across plates": PairRule(pos_sameby=("pert",), pos_diffby=("plate", "well"), neg_diffby=("pert", "plate")),
}


def screen(plates: int = 4, perts: int = 6, controls: int = 5, d: int = 16, seed: int = 0) -> tuple[np.ndarray, pd.DataFrame]:
    """Wells of perturbations and of controls on every plate; float32 profiles in which perturbations leave a trace."""
    rng = np.random.default_rng(seed)
    records, profiles = [], []
    effects = rng.normal(size=(perts, d))
    for plate in range(plates):
        for number in range(perts + controls):
            pert = f"c{number}" if number < perts else "DMSO"
            records.append(
                {"plate": f"p{plate}", "well": f"w{(number + plate * 3) % 17}", "pert": pert, "kind": "control" if pert == "DMSO" else "trt"}
            )
            profiles.append(rng.normal(size=d) + (0.6 * effects[number] if number < perts else 0))
    table = pd.DataFrame(records)
    table["ref"] = [str(i) if kind == "control" else "-1" for i, kind in enumerate(table["kind"])]
    order = rng.permutation(len(table))
    return np.array(profiles, dtype=np.float32)[order], table.iloc[order].reset_index(drop=True)


def columns_of(table: pd.DataFrame) -> dict[str, np.ndarray]:
    return {name: table[name].to_numpy(dtype=np.str_) for name in table}


@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
@pytest.mark.parametrize("name", RULES)
def test_without_ties_the_scores_are_those_of_copairs(name: str, distance: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))  # copairs keeps caches there
    from copairs.map import average_precision

    features, table = screen()
    rule = RULES[name]
    lists = [list(each) for each in (rule.pos_sameby, rule.pos_diffby, rule.neg_sameby, rule.neg_diffby)]
    expected = average_precision(table, features, *lists, distance=distance, progress_bar=False)
    found = pair_scores(features.astype(float), columns_of(table), rule, distance)
    # within plates two control wells are a positive and a negative pair at once, which ties with itself
    keep = ~np.isnan(found.ap) & (found.tied == 0)
    assert keep.sum() >= 24
    theirs = expected["average_precision"].to_numpy()
    np.testing.assert_allclose(found.ap[keep], theirs[keep], rtol=0, atol=1e-12)
    np.testing.assert_array_equal(found.n_positive[keep], expected["n_pos_pairs"].to_numpy()[keep])
    np.testing.assert_array_equal(found.n_total[keep], expected["n_total_pairs"].to_numpy()[keep])
    np.testing.assert_allclose(found.normalised[keep], expected["normalized_average_precision"].to_numpy()[keep], atol=1e-12)


def test_several_labels_are_scored_as_copairs_scores_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    from copairs.map.multilabel import average_precision

    features, table = screen(perts=8)
    rng = np.random.default_rng(1)
    table = table[table["kind"] == "trt"]
    features, table = features[table.index], table.reset_index(drop=True)
    targets = {pert: sorted(rng.choice(list("ABCDE"), size=rng.integers(1, 3), replace=False).tolist()) for pert in sorted(set(table["pert"]))}
    table["target"] = [targets[pert] for pert in table["pert"]]
    expected = average_precision(table, features, ["target"], ["pert"], [], ["target"], multilabel_col="target", progress_bar=False)
    membership = np.array([[letter in own for letter in "ABCDE"] for own in table["target"]])
    found = multilabel_scores(features.astype(float), membership, columns_of(table[["pert"]]), PairRule(pos_diffby=("pert",)))
    theirs = {
        (w, p, t): ap for w, p, t, ap in zip(expected["well"], expected["plate"], expected["target"], expected["average_precision"], strict=True)
    }
    ours = {
        (table["well"][q], table["plate"][q], "ABCDE"[label]): ap
        for q, label, ap in zip(found.query, found.label, found.ap, strict=True)
        if not np.isnan(ap)
    }
    assert len(ours) > 20
    assert ours.keys() == theirs.keys()
    np.testing.assert_allclose([ours[key] for key in theirs], list(theirs.values()), rtol=0, atol=1e-12)


@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
def test_ties_are_counted_in_expectation_as_the_slow_way_does(distance: str) -> None:
    _, table = screen()
    features = np.random.default_rng(3).integers(0, 3, (len(table), 2)).astype(float)
    rule = RULES["replicability"]
    found = pair_scores(features, columns_of(table), rule, distance)
    for query, ap in zip(found.query, found.ap, strict=True):
        other = np.arange(len(table)) != query
        positive = other & (table["pert"] == table["pert"][query]).to_numpy()
        negative = other & ((table["plate"] == table["plate"][query]) & (table["pert"] != table["pert"][query])).to_numpy()
        candidates = positive | negative
        if distance == "cosine":
            norms = np.linalg.norm(features, axis=1)
            product = features @ features[query]
            similarity = np.divide(product, norms * norms[query], out=np.zeros(len(table)), where=norms * norms[query] > 0)
        else:
            similarity = -np.linalg.norm(features - features[query], axis=1)
        expected = tie_aware_ap(np.round(similarity[candidates], 9), positive[candidates])
        assert ap == pytest.approx(expected, abs=1e-12)
    assert found.tied.mean() > 0.5


@pytest.mark.parametrize("value", [0.0, 3.7])
@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
def test_a_constant_embedding_scores_chance_exactly(value: float, distance: str) -> None:
    _, table = screen()
    found = pair_scores(np.full((len(table), 16), value), columns_of(table), RULES["activity"], distance)
    keep = ~np.isnan(found.ap)
    np.testing.assert_allclose(found.normalised[keep], 0, atol=1e-12)
    assert (found.tied[keep] == 1).all()


@pytest.mark.parametrize("far", [1e5, 1e8])
def test_a_profile_far_out_does_not_make_all_others_tie(far: float) -> None:
    features, table = screen()
    features = features.astype(float)
    features[7, 3] = far
    columns, rule = columns_of(table), RULES["activity"]
    found, pairs = pair_scores(features, columns, rule, "euclidean"), rule.pairs(columns, len(features))
    for query in np.flatnonzero(~np.isnan(found.ap) & (np.arange(len(features)) != 7)):
        positive, negative = pairs.positive(int(query)), pairs.negative(int(query))
        candidates = np.flatnonzero(positive | negative)
        nearness = -np.linalg.norm(features[candidates] - features[query], axis=1)
        assert found.ap[query] == pytest.approx(average_precision_score(positive[candidates], nearness))


def test_random_counts_score_chance_where_the_reference_gives_them_everything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    from copairs.map import average_precision

    _, table = screen(plates=6, perts=20, controls=10)
    counts = np.random.default_rng(0).poisson(40, (len(table), 1)).astype(float)
    theirs = average_precision(table, counts.astype(np.float32), ["pert", "ref"], [], [], ["pert", "ref"], progress_bar=False)
    assert theirs["average_precision"].mean() == 1.0
    assert fitting_distance(counts) == "euclidean"
    for distance in ("cosine", "euclidean"):
        normalised = pair_scores(counts, columns_of(table), RULES["activity"], distance).normalised
        assert abs(np.nanmean(normalised)) < 0.05


def test_a_query_without_positives_or_negatives_has_no_score() -> None:
    table = {"pert": np.array(["a", "a", "b", "c"]), "plate": np.array(["1", "1", "1", "2"])}
    found: PairScores = pair_scores(np.random.default_rng(0).normal(size=(4, 5)), table, RULES["replicability"])
    assert np.isnan(found.ap).tolist() == [False, False, True, True]
    assert np.isnan(found.chance).tolist() == [False, False, True, True]
    assert found.n_positive.tolist() == [1, 1, 0, 0]


def test_what_cannot_be_scored_is_refused() -> None:
    features = np.random.default_rng(0).normal(size=(3, 4))
    table = {"pert": np.array(["a", "b", "c"]), "plate": np.array(["1", "1", "1"])}
    with pytest.raises(InputError, match="Expected a profile with a positive and a negative"):
        pair_scores(features, table, RULES["replicability"])
    with pytest.raises(InputError, match="no column `plate`, by which profiles are told apart; there are `pert`"):
        pair_scores(features, {"pert": table["pert"]}, RULES["replicability"])
    with pytest.raises(InputError, match="Expected 3 values of `plate`"):
        pair_scores(features, table | {"plate": np.array(["1"])}, RULES["replicability"])
    with pytest.raises(InputError, match="distance of cosine or euclidean, got `jaccard`"):
        pair_scores(features, table, RULES["replicability"], "jaccard")
    with pytest.raises(InputError, match=r"Expected 3 rows of labels, got shape \(2, 2\)"):
        multilabel_scores(features, np.ones((2, 2), bool), {}, PairRule())

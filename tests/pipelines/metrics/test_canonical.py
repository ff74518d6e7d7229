from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from pipelines.metrics.canonical import RULES, percent_replicating, position_control, reference_index
from pipelines.metrics.pairs import pair_scores
from registry.errors import InputError


def plates(layouts: int, effect: float, position: float, seed: int = 0, perts: int = 8, n: int = 6) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """n plates, a well per perturbation and four controls; `layouts` different layouts. Perturbations and positions leave traces."""
    rng = np.random.default_rng(seed)
    wells = [f"w{i:02d}" for i in range(perts + 4)]
    orders = [rng.permutation(len(wells)) for _ in range(layouts)]
    of_pert, of_well = rng.normal(size=(perts + 1, 12)), rng.normal(size=(len(wells), 12))
    of_pert[perts] = 0
    records, x = [], []
    for plate in range(n):
        for number, place in enumerate(orders[plate % layouts]):
            pert = min(number, perts)
            records.append({"perturbation": f"c{pert}" if pert < perts else "DMSO", "plate": f"p{plate}", "well": wells[place]})
            x.append(effect * of_pert[pert] + position * of_well[place] + rng.normal(size=12))
    table = pd.DataFrame(records)
    control = (table["perturbation"] == "DMSO").to_numpy()
    columns = {name: table[name].to_numpy(dtype=np.str_) for name in table}
    columns |= {"kind": np.where(control, "control", "trt").astype(np.str_), "reference": reference_index(control)}
    return np.array(x), columns


def test_reference_index_is_copairs() -> None:
    from copairs.matching import assign_reference_index

    table = pd.DataFrame({"pert": ["a", "DMSO", "b", "DMSO"]})
    theirs = assign_reference_index(table, "pert == 'DMSO'")["Metadata_Reference_Index"]
    assert reference_index((table["pert"] == "DMSO").to_numpy()).tolist() == theirs.astype(str).tolist()


@pytest.mark.parametrize("name", [name for name in RULES if name != "consistency"])
def test_every_question_finds_a_planted_effect_and_is_quiet_without_one(name: str) -> None:
    def mean(effect: float, seed: int) -> float:
        features, columns = plates(3, effect, 0.0, seed)
        treated = columns["kind"] == "trt"
        scored = pair_scores(features, columns, RULES[name])
        return float(np.nanmean(scored.normalised[treated[scored.query]]))

    assert mean(2.0, 0) > 0.6
    quiet = [mean(0.0, seed) for seed in range(60)]
    assert abs(np.mean(quiet)) <= 3 * np.std(quiet) / np.sqrt(60)


def test_a_score_of_the_position_falls_when_positives_must_lie_elsewhere() -> None:
    features, columns = plates(layouts=2, effect=0.0, position=2.0)
    found = position_control(features, columns, RULES["replicability"])
    assert found.drop is not None
    assert np.nanmean(found.anywhere.normalised) > 0.2
    assert found.drop > 0.2
    features, columns = plates(layouts=2, effect=2.0, position=0.0)
    found = position_control(features, columns, RULES["replicability"])
    assert found.drop == pytest.approx(0.0, abs=0.05)


def test_where_every_plate_has_one_layout_the_control_is_not_estimable() -> None:
    features, columns = plates(layouts=1, effect=1.0, position=1.0)
    # control wells lie in four positions of every plate and can be asked
    assert position_control(features, columns, RULES["replicability"]).share == pytest.approx(4 / 12)
    treated = columns["kind"] == "trt"
    found = position_control(features[treated], {name: values[treated] for name, values in columns.items()}, RULES["replicability"])
    assert (found.elsewhere, found.drop, found.share) == (None, None, 0.0)
    assert found.reason == "not estimable: all replicates lie in the same well of their plates"
    asked_already = position_control(*plates(2, 1.0, 0.0), RULES["activity-other-wells"])
    assert asked_already.drop == 0.0


class TestPercentReplicating:
    def test_medians_are_those_of_copairs(self, tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HOME", str(tmp_path))
        from copairs.replicating import correlation_test

        features, columns = plates(3, 1.0, 0.0)
        table = pd.DataFrame({"pert": columns["perturbation"], "plate": columns["plate"]})
        theirs = correlation_test(features.astype(np.float32), table, ["pert"], [], n_samples=200, progress_bar=False)
        found = percent_replicating(features, columns["perturbation"])
        expected = theirs.corr_df["median"].sort_index()
        assert list(found.names) == list(expected.index)
        np.testing.assert_allclose(found.medians, expected, atol=1e-6)
        # the null is drawn by another sampler: the thresholds agree as far as 200 draws can say
        assert found.threshold == pytest.approx(np.nanpercentile(theirs.null_dist, 95), abs=0.1)

    def test_known_truth(self) -> None:
        features, columns = plates(3, 2.0, 0.0)
        assert percent_replicating(features, columns["perturbation"]).share >= 8 / 9
        rng = np.random.default_rng(0)
        shares = [percent_replicating(rng.normal(size=(80, 30)), np.arange(80) // 4, samples=200).share for _ in range(40)]
        assert np.mean(shares) == pytest.approx(0.05, abs=0.03)

    def test_what_has_no_correlation(self) -> None:
        with pytest.raises(InputError, match="one that is constant"):
            percent_replicating(np.ones((6, 4)), ["a", "a", "b", "b", "c", "c"])
        with pytest.raises(InputError, match="Expected several groups"):
            percent_replicating(np.eye(3), ["a", "b", "c"])

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from pipelines.metrics.canonical import RULES, control_positions, percent_replicating, position_control, reference_index
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
    # and say nothing of wells that are treated
    of_treated = position_control(features, columns, RULES["activity-within-plates"], queries=treated)
    assert (of_treated.drop, of_treated.share) == (None, 0.0)
    assert of_treated.reason == "not estimable: all replicates lie in the same well of their plates"
    of_controls = position_control(features, columns, RULES["replicability"], queries=~treated)
    assert of_controls.share == 1.0
    assert of_controls.drop == position_control(features, columns, RULES["replicability"]).drop
    found = position_control(features[treated], {name: values[treated] for name, values in columns.items()}, RULES["replicability"])
    assert (found.elsewhere, found.drop, found.share) == (None, None, 0.0)
    assert found.reason == "not estimable: all replicates lie in the same well of their plates"
    asked_already = position_control(*plates(2, 1.0, 0.0), RULES["activity-other-wells"])
    assert asked_already.drop == 0.0


def test_positions_that_are_not_there_are_no_positions_in_common() -> None:
    features, columns = plates(layouts=2, effect=1.0, position=1.0)
    without = {name: values for name, values in columns.items() if name != "well"}
    missing = {
        "there is no column `well` of positions": without,
        "the positions in `well` are missing": {**columns, "well": np.full(len(features), None, dtype=object)},
    }
    for reason, other in missing.items():
        found = position_control(features, other, RULES["replicability"])
        assert (found.elsewhere, found.drop, found.share, found.reason) == (None, None, 0.0, f"not estimable: {reason}")
    with pytest.raises(InputError, match=r"Expected \d+ values of `well`"):
        position_control(features, {**columns, "well": columns["well"][1:]}, RULES["replicability"])
    with pytest.raises(InputError, match="Expected finite features"):
        position_control(np.full_like(features, np.nan), columns, RULES["replicability"])


def test_a_profile_without_a_position_is_asked_nothing_about_other_wells_and_is_still_a_negative() -> None:
    features, columns = plates(layouts=2, effect=1.0, position=1.0)
    lost = columns["perturbation"] == "c0"
    found = position_control(features, {**columns, "well": np.where(lost, "", columns["well"])}, RULES["replicability"])
    assert found.elsewhere is not None
    everything = position_control(features, columns, RULES["replicability"]).elsewhere
    assert everything is not None
    assert np.isnan(found.elsewhere.ap[lost]).all()
    np.testing.assert_array_equal(found.elsewhere.ap[~lost], everything.ap[~lost])
    # those that are known lie in one well each
    same, table = plates(layouts=1, effect=1.0, position=1.0)
    kept = table["kind"] == "trt"
    some = {name: values[kept] for name, values in table.items()}
    some["well"] = np.where(some["perturbation"] == "c0", None, some["well"])
    reason = position_control(same[kept], some, RULES["replicability"]).reason
    assert reason == "not estimable: all replicates whose positions are known lie in the same well of their plates"


def test_replicates_elsewhere_without_a_negative_are_not_said_to_lie_in_one_well() -> None:
    # a: two wells, alone on its plates; b and c: one well each, on one plate
    columns = {
        "perturbation": np.array(["a", "a", "b", "b", "c", "c"]),
        "plate": np.array(["p0", "p1", "p2", "p3", "p2", "p3"]),
        "well": np.array(["w0", "w1", "w2", "w2", "w3", "w3"]),
    }
    found = position_control(np.random.default_rng(0).normal(size=(6, 4)), columns, RULES["replicability"])
    assert found.reason == "not estimable: no query that has replicates in other wells has negatives"


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

    def test_rounding_lifts_no_correlation_above_its_equals(self) -> None:
        """Two columns correlate by 1 or -1, and so do profiles in one direction: none is above the others."""
        rng, compounds = np.random.default_rng(0), np.repeat([f"c{number}" for number in range(40)], 4)
        for _ in range(5):
            assert percent_replicating(rng.normal(size=(160, 2)), compounds).share == 0.0
            line = rng.normal(size=10) * rng.lognormal(size=(160, 1)) + rng.normal(size=(160, 1))
            assert percent_replicating(line, compounds).share == 0.0

    def test_what_has_no_correlation(self) -> None:
        with pytest.raises(InputError, match="one that is constant"):
            percent_replicating(np.ones((6, 4)), ["a", "a", "b", "b", "c", "c"])
        with pytest.raises(InputError, match="Expected several groups"):
            percent_replicating(np.eye(3), ["a", "b", "c"])


def controls(position: float, plate: float = 0.0, positions: int = 12, n: int = 5, seed: int = 0) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Control wells in the same positions of n plates; positions and plates leave traces."""
    rng = np.random.default_rng(seed)
    wells, plates = np.tile(np.arange(positions), n), np.repeat(np.arange(n), positions)
    x = position * rng.normal(size=(positions, 12))[wells] + plate * rng.normal(size=(n, 12))[plates] + rng.normal(size=(len(wells), 12))
    return x, {"well": np.array([f"w{i:02d}" for i in wells]), "plate": np.array([f"p{i}" for i in plates])}


class TestControlPositions:
    def test_it_is_the_correlation_test_of_copairs_across_plates(self, tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HOME", str(tmp_path))
        from copairs.replicating import correlation_test

        features, columns = controls(position=0.7, plate=1.0)
        theirs = correlation_test(features.astype(np.float32), pd.DataFrame(columns), ["well"], ["plate"], n_samples=1000, progress_bar=False)
        found = control_positions(features, columns)
        expected = theirs.corr_df["median"].sort_index()
        assert list(found.names) == list(expected.index)
        np.testing.assert_allclose(found.medians, expected, atol=1e-6)
        assert found.threshold == pytest.approx(np.nanpercentile(theirs.null_dist, 95), abs=0.05)
        assert found.share == pytest.approx(theirs.percent_score("right")[0], abs=1.5 / 12)

    def test_a_position_is_found_and_a_plate_is_none(self) -> None:
        assert control_positions(*controls(position=2.0)).share == 1.0
        quiet, plates = (
            np.mean([control_positions(*controls(0.0, plate, seed=seed), samples=400, seed=seed).share for seed in range(60)]) for plate in (0.0, 3.0)
        )
        assert quiet == pytest.approx(0.05, abs=0.04)
        assert plates < 0.05

    def test_a_position_that_is_missing_takes_no_part(self) -> None:
        features, columns = controls(position=1.0)
        found = control_positions(features, columns)
        more = {"well": np.array([*columns["well"], None, ""], dtype=object), "plate": np.array([*columns["plate"], "p0", "p1"])}
        again = control_positions(np.concatenate([features, features[:2]]), more)
        assert (again.names, again.share) == (found.names, found.share)

    def test_what_the_design_forbids_is_said(self) -> None:
        features, columns = controls(position=1.0)
        n = len(features)
        for other, reason in (
            ({"plate": np.repeat("p0", n)}, "control wells on several plates, got all of them at `p0`"),
            ({"well": np.repeat("A01", n)}, "control wells in several positions, got all of them at `A01`"),
            ({"well": np.array([f"{w}{p}" for w, p in zip(columns["well"], columns["plate"], strict=True)])}, "no position is met again"),
            ({"well": np.full(n, None, dtype=object)}, f"with a position, got {n} without"),
        ):
            with pytest.raises(InputError, match=reason):
                control_positions(features, {**columns, **other})
        with pytest.raises(InputError, match="no column `well`"):
            control_positions(features, {"plate": columns["plate"]})

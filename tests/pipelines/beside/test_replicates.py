from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pipelines.benchmarks.card import BenchmarkCard, Task
from pipelines.benchmarks.index import Benchmark, write_benchmark
from pipelines.beside.replicates import COPAIRS_DRAWS, QUESTIONS, Replicates, read, replicates, standardised, write
from pipelines.beside.wells import wells_of
from pipelines.metrics.canonical import RULES
from registry.arrays import Floats
from registry.images import ImageSpec

DIM = 6


def screen(folder: Path, layouts: int, plates: int = 4, treatments: int = 8, controls: int = 6) -> Benchmark:
    """Four tested plates of eight treatments and six control wells, two sites each, in one layout for all plates or in several."""
    rng = np.random.default_rng(0)
    wells = [f"{'ABCD'[i // 6]}{1 + i % 6:02d}" for i in range(treatments + controls)]
    orders = [rng.permutation(len(wells)) for _ in range(layouts)]
    rows = [
        {
            "image_id": f"p{plate}-{wells[place]}-{site}",
            "path": "",
            "sha256": "",
            "Metadata_Plate": f"p{plate}",
            "Metadata_Well": wells[place],
            "Metadata_Site": site,
            "Metadata_Treatment": f"t{number}" if number < treatments else "DMSO",
            "Metadata_control": number >= treatments,
            "unit": f"p{plate}",
            "fold": -1 if plate == plates else 0,
            "label_kind": "control" if number >= treatments else "treated",
        }
        for plate in range(plates + 1)
        for number, place in enumerate(orders[plate % layouts])
        for site in (1, 2)
    ]
    card = BenchmarkCard("screen", "Screen", "cells", ImageSpec.none(), "plate", (Task("kind", "?"),))
    return write_benchmark(folder, card, pd.DataFrame(rows))


def vectors(benchmark: Benchmark, effect: float, position: float = 0.0, seed: int = 0) -> Floats:
    """Noise, with a direction of its own for every treatment (none for controls), for every well name, and an offset for every plate."""
    rng = np.random.default_rng(seed)
    index = benchmark.index
    x = rng.normal(size=(len(index), DIM))
    for column, size in (("Metadata_Treatment", effect), ("Metadata_Well", position), ("Metadata_Plate", 3.0)):
        for name in sorted(index[column].unique()):
            if name != "DMSO":
                x[(index[column] == name).to_numpy()] += size * rng.normal(size=DIM)
    return x


def ask(benchmark: Benchmark, x: Floats, permutations: int = 199) -> dict[str, Replicates]:
    wells = wells_of(benchmark)
    assert wells is not None
    return {found.question: found for found in replicates("mine", x, wells, permutations, 0)}


def test_a_planted_effect_is_found_by_every_question(tmp_path: Path) -> None:
    found = ask(benchmark := screen(tmp_path, layouts=3), vectors(benchmark, effect=3.0))
    assert list(found) == list(QUESTIONS)
    for question, one in found.items():
        assert one.value > 0.6, question
        assert one.significant > 0.7, question
        assert (one.treatments, one.least) == (8, 1 / 8)
        # where positives lie in other wells anyway there is nothing to drop
        assert np.isnan(one.drop) if question == "activity-other-wells" else abs(one.drop) < 0.15, question
        assert one.drop_note == ""


def test_so_few_permutations_that_nothing_can_be_found_say_so(tmp_path: Path) -> None:
    benchmark = screen(tmp_path, layouts=3)
    x = vectors(benchmark, effect=3.0)
    few = ask(benchmark, x, permutations=19)["replicability"]
    assert (few.significant, few.least) == (0.0, 9 / 8)
    assert ask(benchmark, x, permutations=99)["replicability"].least == 2 / 8


def test_without_an_effect_nothing_is_found(tmp_path: Path) -> None:
    benchmark = screen(tmp_path, layouts=3)
    found = [ask(benchmark, vectors(benchmark, effect=0.0, seed=seed)) for seed in range(12)]
    for question in QUESTIONS:
        values = [each[question].value for each in found]
        # below 0 where negatives lie on the query's own plate, which its controls do not centre exactly
        assert np.mean(values) < 3 * np.std(values, ddof=1) / np.sqrt(12), question
        assert np.mean([each[question].significant for each in found]) < 0.05, question


def test_a_score_of_the_position_shows_in_the_drop_or_is_not_estimable(tmp_path: Path) -> None:
    several = screen(tmp_path / "several", layouts=2)
    one = ask(several, vectors(several, effect=0.0, position=3.0))["replicability"]
    assert one.value > 0.1
    assert one.drop > 0.3
    # one treatment lies in the same well in both layouts
    assert one.drop_share == 7 / 8
    same = screen(tmp_path / "same", layouts=1)
    other = ask(same, vectors(same, effect=0.0, position=3.0))["replicability"]
    # the same wells on every plate: the score is perfect, and the design cannot say of what
    assert other.value > 0.8
    assert np.isnan(other.drop)
    assert "same well" in other.drop_note
    assert other.drop_share == 0.0


def test_activity_in_other_wells_is_no_score_of_the_position(tmp_path: Path) -> None:
    several = screen(tmp_path / "several", layouts=2)
    position = ask(several, vectors(several, effect=0.0, position=3.0))
    assert position["activity-within-plates"].value > 0.1
    assert position["activity-other-wells"].value < 0.1
    assert position["activity-other-wells"].significant == 0
    # one treatment lies in the same well in both layouts
    assert [position[question].treatments for question in ("activity-within-plates", "activity-other-wells")] == [8, 7]
    same = screen(tmp_path / "same", layouts=1)
    one = ask(same, vectors(same, effect=3.0))["activity-other-wells"]
    assert one.note == "not estimable: no treatment has both replicates in other wells and negatives"
    # control wells lie in several positions, and the drop is not of them
    within = ask(same, vectors(same, effect=3.0))["activity-within-plates"]
    assert (within.drop_share, within.drop_note) == (0.0, "not estimable: all replicates lie in the same well of their plates")


def test_activity_in_other_wells_is_that_of_the_production_pipeline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    from copairs.map import average_precision

    benchmark = screen(tmp_path / "data", layouts=3)
    wells = wells_of(benchmark)
    assert wells is not None
    x = vectors(benchmark, effect=0.6)
    profiles = standardised(wells.profiles(x), wells)
    theirs = average_precision(
        pd.DataFrame(wells.columns),
        profiles.astype(np.float32),
        ["perturbation"],
        ["well"],
        ["plate"],
        ["kind", "perturbation"],
        distance="euclidean",
        progress_bar=False,
    )
    treated = theirs[theirs["kind"] == "treated"]
    of_treatment = treated.groupby("perturbation")["normalized_average_precision"].mean()
    one = ask(benchmark, x)["activity-other-wells"]
    # value = mean of (normalised AP - null) / (1 - null): taken back for a null that all treatments share
    assert one.treatments == len(of_treatment)
    assert one.value * (1 - one.null) + one.null == pytest.approx(of_treatment.mean(), abs=0.02)


@pytest.mark.parametrize("controls", [2, 6])
def test_what_plates_alone_give_is_taken_out_of_every_question(tmp_path: Path, controls: int) -> None:
    benchmark = screen(tmp_path, layouts=4, controls=controls)
    drawn = [ask(benchmark, np.random.default_rng(seed).normal(size=(len(benchmark.index), 64)), 99) for seed in range(12)]
    for question in QUESTIONS:
        values = [one[question].value for one in drawn]
        assert abs(np.mean(values)) < 3 * np.std(values) / np.sqrt(len(values)), question
    assert np.mean([one["replicability"].null for one in drawn]) > 0.2
    # a screen is looked through at a false discovery rate, so that a few draws of noise hold a treatment
    assert np.mean([one["activity"].significant > 0 for one in drawn]) < 0.3
    assert ask(benchmark, vectors(benchmark, effect=3.0))["replicability"].value > 0.8


def test_the_drop_says_how_many_queries_it_rests_on(tmp_path: Path) -> None:
    benchmark = screen(tmp_path, layouts=2)
    index = benchmark.index.copy()
    # three treatments lie in one well each
    index["Metadata_Well"] = index["Metadata_Well"].where(~index["Metadata_Treatment"].isin(["t0", "t1", "t2"]), index["Metadata_Treatment"])
    found = ask(replace(benchmark, index=index), vectors(benchmark, effect=1.0))["replicability"]
    assert 0 < found.drop_share < 1


def test_a_constant_embedding_scores_chance(tmp_path: Path) -> None:
    benchmark = screen(tmp_path, layouts=3)
    for one in ask(benchmark, np.ones((len(benchmark.index), 2))).values():
        assert one.value == pytest.approx(0.0, abs=1e-9)
        assert one.significant == 0.0


def test_plates_are_standardised_on_their_own_wells(tmp_path: Path) -> None:
    wells = wells_of(screen(tmp_path, layouts=3))
    assert wells is not None
    x = np.random.default_rng(0).normal(size=(len(wells.controls), 2)) * 5 + 100
    aligned = standardised(x, wells)
    for plate in np.unique(wells.columns["plate"]):
        own = aligned[wells.columns["plate"] == plate]
        np.testing.assert_allclose([own.mean(axis=0), own.std(axis=0)], [[0, 0], [1, 1]], atol=1e-9)


def test_training_images_take_no_part(tmp_path: Path) -> None:
    benchmark = screen(tmp_path, layouts=3)
    x = vectors(benchmark, effect=1.0)
    other = x.copy()
    other[(benchmark.index["fold"] < 0).to_numpy()] = 99
    assert ask(benchmark, x) == ask(benchmark, other)


def test_a_plate_effect_alone_is_no_replicability_unless_plates_are_taken_for_treatments(tmp_path: Path) -> None:
    benchmark = screen(tmp_path, layouts=3)
    x = vectors(benchmark, effect=0.0)
    wells = wells_of(benchmark)
    assert wells is not None
    swapped = replace(wells, columns=wells.columns | {"perturbation": wells.columns["plate"], "plate": wells.columns["perturbation"]})
    right, wrong = (replicates("mine", x, each, 99, 0)[-1] for each in (wells, swapped))
    assert right.value < 0.1
    assert wrong.value > 0.5


def test_what_cannot_be_asked_is_said(tmp_path: Path) -> None:
    benchmark = screen(tmp_path, layouts=3)
    bare = replace(benchmark, index=benchmark.index.drop(columns="Metadata_control"))
    found = ask(bare, vectors(benchmark, effect=3.0))
    assert found["activity"].note == "not estimable: the index names no control wells"
    assert found["replicability"].value > 0.3
    assert wells_of(replace(benchmark, index=benchmark.index.drop(columns="Metadata_Treatment"))) is None


def test_control_wells_of_one_position_are_compared_with_those_of_others_for_every_row(tmp_path: Path) -> None:
    same = screen(tmp_path / "same", layouts=1, controls=8)
    for position, least, most in ((3.0, 1.0, 1.0), (0.0, 0.0, 0.5)):
        found = ask(same, vectors(same, effect=2.0, position=position), 9)
        shares = {one.controls_replicating for one in found.values()}
        assert len(shares) == 1
        assert least <= shares.pop() <= most
        assert {(one.control_positions, one.controls_note) for one in found.values()} == {(8, "")}
    quiet = [ask(same, vectors(same, effect=2.0, seed=seed), 9)["activity"].controls_replicating for seed in range(20)]
    assert np.mean(quiet) < 0.15
    x = vectors(same, effect=2.0)
    for column, value, reason in (
        ("Metadata_Plate", "p0", "Expected control wells on several plates, got all of them at `p0`"),
        ("Metadata_Well", "A01", "Expected control wells in several positions, got all of them at `A01`"),
    ):
        index = same.index.copy()
        index.loc[index["Metadata_control"], column] = value
        one = ask(replace(same, index=index), x, 9)["replicability"]
        assert (one.controls_note, one.control_positions) == (f"not estimable: {reason}", 0)
        assert np.isnan(one.controls_replicating)
    bare = ask(replace(same, index=same.index.drop(columns="Metadata_control")), x, 9)
    assert {one.controls_note for one in bare.values()} == {"not estimable: the index names no control wells"}


def test_the_share_that_copairs_finds_stands_beside_for_parity(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    from copairs.map import average_precision, mean_average_precision

    benchmark = screen(tmp_path / "data", layouts=3)
    wells = wells_of(benchmark)
    assert wells is not None
    for effect in (0.0, 0.8, 3.0):
        x = vectors(benchmark, effect=effect)
        found = ask(benchmark, x, 99)
        table, profiles = pd.DataFrame(wells.columns), standardised(wells.profiles(x), wells)
        for question, kept in (("activity", np.ones(len(table), dtype=bool)), ("replicability", ~wells.controls)):
            rule = RULES[question]
            lists = [list(each) for each in (rule.pos_sameby, rule.pos_diffby, rule.neg_sameby, rule.neg_diffby)]
            theirs = average_precision(
                table[kept].reset_index(drop=True), profiles[kept].astype(np.float32), *lists, distance="euclidean", progress_bar=False
            )
            cache = str(tmp_path / f"{question}-{effect}")
            of_treatment = mean_average_precision(
                theirs, ["perturbation"], null_size=COPAIRS_DRAWS, threshold=0.05, seed=0, progress_bar=False, cache_dir=cache
            )
            assert found[question].copairs == pytest.approx(of_treatment["below_corrected_p"].mean()), (question, effect)
            assert found[question].ties == 0.0


def test_ties_stand_beside_the_scores(tmp_path: Path) -> None:
    benchmark = screen(tmp_path, layouts=3)
    constant = ask(benchmark, np.ones((len(benchmark.index), 2)), 9)
    assert {(one.ties, one.copairs) for one in constant.values()} == {(1.0, 0.0)}
    # wells of t0 to t3 are the same on every plate, all others are their own: half of the treatments tie
    x = np.random.default_rng(0).normal(size=(len(benchmark.index), 3))
    same = benchmark.index["Metadata_Treatment"].isin(["t0", "t1", "t2", "t3"]).to_numpy()
    x[same] = 50.0
    wells = wells_of(benchmark)
    assert wells is not None
    one = ask(benchmark, x, 9)["replicability"]
    profiles = standardised(wells.profiles(x), wells)[~wells.controls]
    distances = np.linalg.norm(profiles[:, None] - profiles[None], axis=2)
    names, plates = (wells.columns[name][~wells.controls] for name in ("perturbation", "plate"))
    shares = []
    for query in range(len(profiles)):
        positives = np.flatnonzero((names == names[query]) & (np.arange(len(names)) != query))
        candidates = [*positives, *np.flatnonzero((names != names[query]) & (plates == plates[query]))]
        far = distances[query]
        shares.append(np.mean([any(np.isclose(far[p], far[c], atol=1e-6) for c in candidates if c != p) for p in positives]))
    assert one.ties == pytest.approx(np.mean(shares))


def test_the_table_on_disk_is_what_was_found(tmp_path: Path) -> None:
    benchmark = screen(tmp_path / "data", layouts=1)
    found = list(ask(benchmark, vectors(benchmark, effect=3.0), permutations=49).values())
    write(tmp_path, found)
    assert repr(read(tmp_path)) == repr(found)
    write(tmp_path, [])
    assert read(tmp_path) == []


def test_plates_of_two_wells_cannot_tell_a_treatment_from_chance(tmp_path: Path) -> None:
    """The two are opposite after they were standardised together, so whichever is called treated is found, always."""
    benchmark = screen(tmp_path, layouts=1, plates=2, treatments=1, controls=1)
    asked = ask(benchmark, vectors(benchmark, effect=1.0), permutations=49)
    assert asked["activity-within-plates"].note.startswith("not estimable: treatments permuted within plates are found as well as true ones")
    assert np.isnan(asked["activity-within-plates"].value)
    assert np.isfinite(asked["activity"].value)

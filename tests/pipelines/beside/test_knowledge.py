from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pipelines.benchmarks.card import BenchmarkCard, Task
from pipelines.benchmarks.index import Benchmark, write_benchmark
from pipelines.benchmarks.known import RELATIONS, TARGETS
from pipelines.beside.knowledge import SHOWN, Knowledge, Rules, Screen, knowledge, negatives_of, not_asked, read, write
from pipelines.beside.wells import wells_of
from pipelines.metrics.alignment import ALIGNMENTS
from pipelines.metrics.targets import Interaction
from registry.arrays import Floats
from registry.errors import BenchmarkError
from registry.images import ImageSpec

GENES, COMPOUNDS, CONTROLS, PLATES, DIM = 30, 8, 20, 4, 24
#: genes 0 and 1, 2 and 3, ... of ten pairs work together
PAIRS = [(f"g{2 * i:02d}", f"g{2 * i + 1:02d}") for i in range(10)]
OTHERS = [(f"g{i:02d}", f"g{i + 11:02d}") for i in range(10)]


def screen(folder: Path, pairs: list[tuple[str, str]] = PAIRS, halves: bool = False) -> Benchmark:
    """Plates of 30 genes, 8 compounds and 20 control wells in one layout; by halves, even genes lie on the first two, odd ones on the others."""
    names = [*(f"g{i:02d}" for i in range(GENES)), *(f"c{i}" for i in range(COMPOUNDS)), *["DMSO"] * CONTROLS]
    order = np.random.default_rng(5).permutation(len(names))
    rows = [
        {
            "image_id": f"p{plate}-{'ABCDEF'[place // 10]}{1 + place % 10:02d}",
            "path": "",
            "sha256": "",
            "Metadata_Plate": f"p{plate}",
            "Metadata_Well": f"{'ABCDEF'[place // 10]}{1 + place % 10:02d}",
            "Metadata_Treatment": f"guide-{names[i]}" if names[i][0] == "g" else names[i],
            "Metadata_Entity": names[i] if names[i][0] == "g" else None,
            "Metadata_control": names[i] == "DMSO",
            "labels_moa": "|".join([*("ab"[(i - 20) // 4] for _ in "1" if 20 <= i < 28), *("x" for _ in "1" if i % 3 == 0 and i < GENES)]) or None,
            "unit": f"p{plate}",
            "fold": 0,
            "label_kind": "control" if names[i] == "DMSO" else "treated",
        }
        for plate in range(PLATES)
        for place, i in enumerate(order)
        if not (halves and i < GENES and (plate < PLATES // 2) != (i % 2 == 0))
    ]
    relations = pd.DataFrame(pairs, columns=["entity1", "entity2"]).assign(source="paths")[["source", "entity1", "entity2"]]
    targets = [*((f"c{i}", f"g{i:02d}", 10.0) for i in range(COMPOUNDS)), *(("c0", f"g{i:02d}", 1e5) for i in range(1, GENES))]
    known = {RELATIONS: relations, TARGETS: pd.DataFrame(targets, columns=["compound", "gene", "nanomolar"])}
    card = BenchmarkCard("screen", "Screen", "cells", ImageSpec.none(), "plate", (Task("kind", "?"),))
    return write_benchmark(folder, card, pd.DataFrame(rows), known=known)


def vectors(benchmark: Benchmark, effect: float, seed: int = 0, batch: float = 0.0) -> Floats:
    """Noise with a direction for each pair of genes, for each of the mechanisms a and b (four genes), and one of each gene's own.

    Compounds turn against their target. With a batch effect, plates mix and shift the columns.
    """
    rng = np.random.default_rng(seed)
    shared, own = rng.normal(size=(GENES, DIM)), 0.5 * rng.normal(size=(GENES, DIM))
    x = rng.normal(size=(len(benchmark.index), DIM))
    for at, name in enumerate(benchmark.index["Metadata_Treatment"].str.removeprefix("guide-")):
        if name[0] in "gc":
            gene = int(name[1:])
            x[at] += (1 if name[0] == "g" else -1) * effect * (shared[gene // 2 if gene < 20 else 10 + gene // 4] + own[gene])
    for plate in sorted(benchmark.index["Metadata_Plate"].unique()):
        inside = (benchmark.index["Metadata_Plate"] == plate).to_numpy()
        x[inside] = x[inside] @ (np.eye(DIM) + batch * rng.normal(size=(DIM, DIM)) / 5) + batch * 5 * rng.normal(size=DIM)
    return x


def ask(benchmark: Benchmark, x: Floats, permutations: int = 99, seed: int = 0) -> dict[tuple[str, str], Knowledge]:
    wells = wells_of(benchmark)
    assert wells is not None
    found = knowledge("mine", x, Screen.of(benchmark, wells), permutations, seed)
    return {(one.alignment, f"{one.question} {one.about}".strip()): one for one in found}


def test_what_is_planted_is_found_under_every_alignment(tmp_path: Path) -> None:
    found = ask(benchmark := screen(tmp_path), vectors(benchmark, effect=2.0))
    assert {alignment for alignment, _ in found} == set(ALIGNMENTS)
    assert not any(one.note for one in found.values())
    for (alignment, question), one in found.items():
        where = f"{question}, {alignment}"
        if question.startswith("recall"):
            assert (one.value > 0.6, one.n, one.p) == (True, 10, 0.01), where
            assert one.reference == pytest.approx(0.1, abs=0.05), where
        elif question in ("consistency", "magnitude"):
            assert (one.value > 0.8, one.n, one.reference) == (True, GENES + COMPOUNDS, 1 / 11), where
            # ten negatives: a published p is below 0.05 where it is 0, which is the least p of those with + 1
            assert one.published == pytest.approx(one.value), where
        elif question.startswith("targets"):
            assert (one.value > 0.6 + 0.2 * (question == "targets AUROC"), one.n) == (True, COMPOUNDS), where
        elif question == "labels moa":
            assert one.value > 0.4, where
            assert one.n == 3
    assert found[SHOWN, "targets AUROC"].p == found[SHOWN, "labels moa"].p == 0.01
    assert found[SHOWN, "labels found moa"].value == pytest.approx(2 / 3)  # a and b, and not x
    assert found[SHOWN, "labels found moa"].least == pytest.approx(1 / 3)
    few = ask(benchmark, vectors(benchmark, effect=2.0), permutations=9)[SHOWN, "labels found moa"]
    assert (few.value, few.least) == (0.0, pytest.approx(4 / 3))
    # names tell both nulls apart
    assert {question for _, question in found if question.startswith("recall")} == {"recall paths, null over genes", "recall paths, null over all"}


def test_without_an_effect_nothing_is_found(tmp_path: Path) -> None:
    """Of 24 dimensions and 80 control wells an alignment knows little: wells it was fitted to must be no measure of those it was not."""
    benchmark = screen(tmp_path)
    several = [ask(benchmark, vectors(benchmark, effect=0.0, seed=seed), permutations=9, seed=seed) for seed in range(6)]
    for key in several[0]:
        values, references = (np.array([getattr(found[key], name) for found in several]) for name in ("value", "reference"))
        gap = np.mean(values - references)
        assert gap < 0.01 + 3 * np.std(values - references, ddof=1) / np.sqrt(len(several)), key
    p = np.array([one.p for found in several for (_, question), one in found.items() if question.startswith("recall")])
    assert np.mean(p <= 0.1) < 0.3


def test_the_published_share_stands_beside_the_questions_that_have_one(tmp_path: Path) -> None:
    found = ask(benchmark := screen(tmp_path), vectors(benchmark, effect=0.3), permutations=9)
    for (_, question), one in found.items():
        if question in ("consistency", "magnitude"):
            assert one.published == pytest.approx(one.value), question
        else:
            assert np.isnan(one.published), question
    assert 0 < found[SHOWN, "magnitude"].published < 1
    assert all(one.protocol_id.startswith("knowledge:v5:") for one in found.values())


def test_relations_that_are_not_there_are_not_found(tmp_path: Path) -> None:
    found = ask(benchmark := screen(tmp_path, OTHERS), vectors(benchmark, effect=2.0))
    for alignment in ALIGNMENTS:
        one = found[alignment, "recall paths, null over genes"]
        assert one.p > 0.05, alignment
        assert one.value < 0.4, alignment


def test_typical_variation_takes_a_batch_effect_away_that_hides_relations(tmp_path: Path) -> None:
    benchmark = screen(tmp_path, halves=True)
    found = ask(benchmark, vectors(benchmark, effect=3.0, batch=1.0))
    question = "recall paths, null over genes"
    assert found["tvn", question].value > 0.4
    assert found["tvn", question].p == 0.01
    assert found["none", question].value < 0.3
    assert found["none", question].p > 0.1


def test_a_score_of_the_position_is_no_signal(tmp_path: Path) -> None:
    """Every well name has a vector of its own on all plates: wells of a treatment are the same, and so are control wells in one position."""
    benchmark = screen(tmp_path)
    of_well = np.random.default_rng(0).normal(size=(60, DIM))
    x = of_well[np.unique(benchmark.index["Metadata_Well"], return_inverse=True)[1]] + 0.3 * np.random.default_rng(1).normal(
        size=(len(benchmark.index), DIM)
    )
    found = ask(benchmark, x, permutations=9)
    assert found["none", "consistency"].value < 0.3
    assert found["none", "magnitude"].value < 0.3


def in_wells(benchmark: Benchmark, of: Mapping[str, str]) -> Benchmark:
    """The same screen with these treatments in other wells, the same on all plates."""
    wells = benchmark.index["Metadata_Treatment"].map(of)
    return changed(benchmark, {"Metadata_Well": wells.where(wells.notna(), benchmark.index["Metadata_Well"])})


def test_labels_whose_treatments_share_wells_are_asked_in_other_wells_too(tmp_path: Path) -> None:
    """Of the genes of a mechanism two lie in one well each, on plates of their own, and vectors know the well."""
    benchmark = screen(tmp_path, halves=True)
    shared = {f"guide-g{i:02d}": f"Z{(i - 20) // 2:02d}" for i in range(20, 28)}
    moved = in_wells(benchmark, shared)
    of_well = np.random.default_rng(0).normal(size=(80, DIM))
    positions = np.unique(moved.index["Metadata_Well"], return_inverse=True)[1]
    x = 2 * of_well[positions] + 0.5 * np.random.default_rng(1).normal(size=(len(positions), DIM))
    found = ask(moved, x, permutations=9)
    for alignment in ALIGNMENTS:
        one = found[alignment, "labels moa"]
        assert (one.note, one.drop_note) == ("", "")
        assert one.drop > 0.1, alignment
        assert one.drop_share == 1.0
        assert one.elsewhere < one.value
    signal = ask(moved, vectors(benchmark, effect=2.0), permutations=9)["none", "labels moa"]
    assert signal.value > 0.4
    assert abs(signal.drop) < 0.1
    assert signal.elsewhere == pytest.approx(signal.value, abs=0.1)
    # another question has no such answer
    assert np.isnan([getattr(found["none", "consistency"], name) for name in ("elsewhere", "drop", "drop_share")]).all()


def test_relations_and_targets_that_share_wells_are_asked_in_other_wells_too(tmp_path: Path) -> None:
    """Of the related pairs every other shares a well, on plates of its own, and half of the compounds share their target's; vectors know the well."""
    benchmark = screen(tmp_path, halves=True)
    pairs = {f"guide-g{i:02d}": f"Z{i // 2:02d}" for i in range(20) if i // 2 % 2 == 0}
    moved = in_wells(benchmark, pairs | {f"c{i}": pairs[f"guide-g{i:02d}"] for i in range(COMPOUNDS) if f"guide-g{i:02d}" in pairs})
    positions = np.unique(moved.index["Metadata_Well"], return_inverse=True)[1]
    recalls, targets = ("recall paths, null over genes", "recall paths, null over all"), ("targets AP", "targets AUROC")
    of_well, signal = [], []
    for seed in range(4):
        rng = np.random.default_rng(seed)
        x = 2 * rng.normal(size=(80, DIM))[positions] + 0.5 * rng.normal(size=(len(positions), DIM))
        of_well.append(ask(moved, x, permutations=9))
        signal.append(ask(moved, vectors(benchmark, effect=2.0, seed=seed), permutations=9))

    def mean(found: list[dict[tuple[str, str], Knowledge]], question: str, name: str) -> float:
        return float(np.mean([getattr(each["none", question], name) for each in found]))

    for question in (*recalls, *targets):
        assert {(each["none", question].note, each["none", question].drop_note) for each in (*of_well, *signal)} == {("", "")}, question
        assert {each["none", question].drop_share for each in (*of_well, *signal)} == {0.5}, question
        assert mean(of_well, question, "value") > mean(of_well, question, "elsewhere") + 0.15, question
        assert mean(signal, question, "elsewhere") == pytest.approx(mean(signal, question, "value"), abs=0.15), question
        assert mean(signal, question, "drop") == pytest.approx(0.0, abs=0.1), question
    for question in recalls:
        assert mean(of_well, question, "elsewhere") == pytest.approx(0.1, abs=0.1)
        assert mean(of_well, question, "drop") > 0.3
    assert mean(of_well, "targets AUROC", "elsewhere") == pytest.approx(0.5, abs=0.15)


def test_a_compound_with_a_target_in_its_well_and_one_elsewhere_drops(tmp_path: Path) -> None:
    """Of two targets each the first shares the compound's well, on all plates, and vectors know the well."""
    benchmark = screen(tmp_path)
    moved = in_wells(
        benchmark, {f"c{i}": benchmark.index.set_index("Metadata_Treatment")["Metadata_Well"][f"guide-g{i:02d}"].iloc[0] for i in range(8)}
    )
    wells = wells_of(moved)
    assert wells is not None
    of = Screen.of(moved, wells)
    two = replace(of, targets=[*of.targets, *(Interaction(f"c{i}", f"g{i + 15:02d}", 10.0) for i in range(COMPOUNDS))])
    positions = np.unique(moved.index["Metadata_Well"], return_inverse=True)[1]
    found = []
    for seed in range(4):
        rng = np.random.default_rng(seed)
        x = 2 * rng.normal(size=(80, DIM))[positions] + 0.5 * rng.normal(size=(len(positions), DIM))
        found += [one for one in knowledge("mine", x, two, 9, alignments=("none",)) if one.question.startswith("targets")]
    assert {(one.drop_share, one.drop_note) for one in found} == {(1.0, "")}
    for question, least in (("targets AP", 0.2), ("targets AUROC", 0.15)):
        assert np.mean([one.drop for one in found if one.question == question]) > least


def test_other_wells_that_the_design_forbids_are_said(tmp_path: Path) -> None:
    benchmark = screen(tmp_path)
    x = vectors(benchmark, effect=2.0)
    one_layout = ask(benchmark, x, permutations=9)
    everywhere = ask(changed(benchmark, {"Metadata_Well": "A01"}), x, permutations=9)
    unknown = ask(changed(benchmark, drop=("Metadata_Well",)), x, permutations=9)
    for question, pair, what in (
        ("recall paths, null over genes", "no two entities of a known pair lie in different wells", "known pair shares a well"),
        ("targets AUROC", "no compound and its target lie in different wells that are known", "target shares a well with its compound"),
    ):
        one = one_layout[SHOWN, question]
        assert (one.drop_note, one.drop_share) == (f"not estimable: no {what}, so that nothing can drop", 1.0)
        assert (one.elsewhere == one.value, np.isnan(one.drop)) == (True, True)
        assert everywhere["none", question].drop_note == f"not estimable: {pair}"
        assert unknown["none", question].drop_note == "not estimable: it is not known in which wells profiles lie"
        for found in (everywhere, unknown):
            assert np.isnan([found["none", question].elsewhere, found["none", question].drop]).all()
            assert found["none", question].value > 0.6
    of_their_own = ask(benchmark, x, permutations=9)[SHOWN, "labels moa"]
    assert (of_their_own.drop, of_their_own.drop_share, of_their_own.elsewhere) == (0.0, 1.0, of_their_own.value)
    assert of_their_own.drop_note == "no two treatments of a label share a well, so that nothing can drop"
    one_well = ask(changed(benchmark, {"Metadata_Well": "A01"}), x, permutations=9)["none", "labels moa"]
    assert one_well.value > 0.4
    assert np.isnan([one_well.drop, one_well.elsewhere]).all()
    assert one_well.drop_note == "not estimable: no two profiles of a label lie in different wells"
    unplaced = ask(changed(benchmark, drop=("Metadata_Well",)), x, permutations=9)["none", "labels moa"]
    assert unplaced.drop_note == "not estimable: it is not known in which wells profiles lie"


def test_negatives_are_put_together_as_treatments_are(tmp_path: Path) -> None:
    benchmark = screen(tmp_path)
    wells = wells_of(benchmark)
    assert wells is not None
    groups = negatives_of(wells)
    assert set(groups[~wells.controls]) == {""}
    names = sorted(set(groups) - {""})
    assert len(names) == CONTROLS // 2
    for name in names:
        assert sorted(wells.columns["plate"][groups == name]) == ["p0", "p1", "p2", "p3"]
        assert len(set(wells.columns["well"][groups == name])) == 1
    halves = wells_of(screen(tmp_path / "halves", halves=True))
    assert halves is not None
    by_half = negatives_of(halves)
    plates = [frozenset(halves.columns["plate"][by_half == name].tolist()) for name in sorted(set(by_half) - {""})]
    assert set(plates) == {frozenset({"p0", "p1"}), frozenset({"p2", "p3"})}


def changed(benchmark: Benchmark, columns: Mapping[str, object] | None = None, drop: tuple[str, ...] = ()) -> Benchmark:
    return replace(benchmark, index=benchmark.index.drop(columns=list(drop)).assign(**(columns or {})))


def test_what_the_design_forbids_is_said(tmp_path: Path) -> None:
    benchmark = screen(tmp_path)
    x = vectors(benchmark, effect=2.0)
    bare = ask(changed(benchmark, drop=("Metadata_control",)), x, permutations=9)
    assert bare["tvn", "labels moa"].note == "not estimable: the index names no control wells"
    assert not bare["none", "labels moa"].note
    assert not np.isnan(bare["none", "labels moa"].p)
    assert ("none", "consistency") not in bare
    index = benchmark.index
    one_plate = ask(changed(benchmark, {"Metadata_control": index["Metadata_control"] & (index["Metadata_Plate"] != "p2")}), x, permutations=9)
    assert one_plate["centre-scale", "labels moa"].note.startswith("not estimable: Batch `p2` has 0 controls")
    assert not one_plate["tvn-global", "labels moa"].note
    in_batches = changed(benchmark, {"Metadata_Batch": "b"})
    assert ask(in_batches, x, permutations=9)["tvn", "labels moa"].protocol_id.endswith(":tvn:by-Metadata_Batch")
    few = index["Metadata_control"] & index["Metadata_Well"].isin(sorted(index.loc[index["Metadata_control"], "Metadata_Well"].unique())[:8])
    fewer = ask(changed(benchmark, {"Metadata_control": few}), x, permutations=9)
    assert fewer["none", "consistency"].note.startswith("not estimable: Expected at least 10 control wells for each well of a treatment")
    constant = ask(benchmark, np.ones_like(x), permutations=9)
    assert "is 0 and has no direction" in constant["centre-scale", "recall paths, null over genes"].note
    assert constant["centre-scale", "labels moa"].value == pytest.approx(0.0, abs=1e-9)


def test_genes_alone_have_one_null_and_profiles_without_places_are_asked_too(tmp_path: Path) -> None:
    """A table of consensus profiles: a gene each, no plate, no well, no controls."""
    genes = [f"g{i:02d}" for i in range(GENES)]
    index = pd.DataFrame({"image_id": genes, "Metadata_Entity": genes, "label_kind": ["a", "b"] * 15})
    card = BenchmarkCard("map", "Map", "cells", ImageSpec.none(), "image", (Task("kind", "?"),))
    known = {RELATIONS: pd.DataFrame([("paths", *pair) for pair in PAIRS], columns=["source", "entity1", "entity2"])}
    benchmark = write_benchmark(tmp_path, card, index.assign(path="", sha256="", unit=genes, fold=0), known=known)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(GENES, DIM)) + 2 * rng.normal(size=(GENES, DIM))[np.arange(GENES) // 2]
    found = ask(benchmark, x)
    assert {question for _, question in found} == {"recall paths, null over genes"}
    assert found["none", "recall paths, null over genes"].p == 0.01


def test_training_images_take_no_part_and_the_table_on_disk_is_what_was_found(tmp_path: Path) -> None:
    benchmark = screen(tmp_path / "data")
    x = vectors(benchmark, effect=1.0)
    trained = changed(benchmark, {"fold": np.where(benchmark.index["Metadata_Plate"] == "p3", -1, 0)})
    other = x.copy()
    other[(benchmark.index["Metadata_Plate"] == "p3").to_numpy()] = 99
    found = ask(trained, x, permutations=9)
    assert repr(found) == repr(ask(trained, other, permutations=9))
    write(tmp_path, list(found.values()))
    assert repr(read(tmp_path)) == repr(list(found.values()))
    write(tmp_path, [])
    assert read(tmp_path) == []
    wells = wells_of(benchmark)
    assert wells is not None
    refitted = not_asked("mine", Screen.of(benchmark, wells), "it is fitted anew")
    assert {one.note for one in refitted} == {"not estimable: it is fitted anew"}
    assert {one.alignment for one in refitted} == set(ALIGNMENTS)


def test_what_is_set_otherwise_than_published_stands_under_another_name(tmp_path: Path) -> None:
    benchmark = screen(tmp_path)
    wells = wells_of(benchmark)
    assert wells is not None
    of, x = Screen.of(benchmark, wells), vectors(benchmark, effect=1.0)
    published = knowledge("mine", x, of, permutations=9)
    assert repr(knowledge("mine", x, of, permutations=9, rules=Rules((0.05, 0.95), 1e-6))) == repr(published)
    changed = knowledge("mine", x, of, permutations=9, rules=Rules((0.2, 0.8), 1e-3))
    before, after = ({(k.question, k.about, k.alignment): k for k in found} for found in (published, changed))
    # nothing that is computed otherwise has a name that there was
    same = before.keys() & after.keys()
    assert {repr(before[key]) for key in same} == {repr(after[key]) for key in same}
    assert {key for key in after.keys() - same if key[0] != "recall"} == {
        key for key in after if key[2].endswith("-epsilon-0.001") and key[0] != "recall"
    }
    recalls = {key: one for key, one in after.items() if key[0] == "recall"}
    assert all(about.endswith(", tails up to 0.2 and from 0.8") for _, about, _ in recalls)
    scope = "paths, null over genes"
    wide, narrow = after["recall", f"{scope}, tails up to 0.2 and from 0.8", "tvn"], before["recall", scope, "tvn"]
    assert wide.value >= narrow.value
    # what a random map has is the share of the tails: 0.4 and 0.1
    assert wide.reference == pytest.approx(0.4, abs=0.15)
    assert len({k.protocol_id for k in changed if k.alignment.startswith("spherize")} & {k.protocol_id for k in published}) == 0
    asked = not_asked("mine", of, "x", Rules((0.2, 0.8), 1e-3))
    # permuted labels are computed for one alignment alone
    assert {(k.question, k.about, k.alignment) for k in asked} >= after.keys() - {key for key in after if key[0] == "labels found"}


def test_a_table_that_was_changed_afterwards_is_refused(tmp_path: Path) -> None:
    screen(tmp_path)
    pd.DataFrame({"source": ["paths"], "entity1": ["g00"], "entity2": ["g09"]}).to_parquet(tmp_path / RELATIONS)
    with pytest.raises(BenchmarkError, match="is not the file that the card names"):
        _ = Benchmark.read(tmp_path).relations

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from pipelines.benchmarks.known import known_tables, label_columns, label_sets, read_relations, read_targets
from pipelines.benchmarks.options import ImportOptions, parse_multilabel
from registry.errors import BenchmarkError, ParamsError

INDEX = pd.DataFrame({"Metadata_Entity": ["A", "B", "C", None, None], "Metadata_Treatment": ["guide-A", "guide-B", "guide-C", "aspirin", "DMSO"]})


def csv(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_relations_are_kept_once_in_order_and_only_between_what_is_there(tmp_path: Path) -> None:
    first = csv(tmp_path / "Paths.v2.csv", "entity1,entity2\nB,A\nA,B\nB,B\nC,B\nA,TP53\n,A\n")
    second = csv(tmp_path / "string.tsv", "entity2\tscore\tentity1\nA\t9\tC\n")
    table, notes = read_relations((first, second), {"A", "B", "C"})
    assert table.to_numpy().tolist() == [["Paths", "A", "B"], ["Paths", "B", "C"], ["string", "A", "C"]]
    assert notes[0] == "`Paths`: 2 of its 3 relations are between two of the 3 entities here."
    with pytest.raises(BenchmarkError, match=r"is between two of the 2 entities here \(`C` there, `ENSG1`, `ENSG2` here\)"):
        read_relations((second,), {"ENSG1", "ENSG2"})
    with pytest.raises(BenchmarkError, match="There is no column `entity2` for the relations of `bad"):
        read_relations((csv(tmp_path / "bad.csv", "entity1,gene\nA,B\n"),), {"A", "B"})
    with pytest.raises(BenchmarkError, match="relation tables of different names, got `Paths`, `Paths`"):
        read_relations((first, csv(tmp_path / "Paths.csv", "entity1,entity2\nA,B\n")), {"A", "B"})


def test_targets_are_those_of_treatments_that_are_no_entity_themselves(tmp_path: Path) -> None:
    path = csv(tmp_path / "binds.csv", "compound,gene,nanomolar\naspirin,B,20\naspirin,A,5\naspirin,TP53,1\nguide-A,A,1\n")
    table, note = read_targets(path, {"A", "B"}, {"aspirin"})
    assert table.to_numpy().tolist() == [["aspirin", "A", 5.0], ["aspirin", "B", 20.0]]
    assert note == "`binds.csv`: 2 of its 4 pairs are of treatments and entities here, 1 compounds and 2 genes."
    without = csv(tmp_path / "plain.csv", "compound,gene\naspirin,A\n")
    assert read_targets(without, {"A"}, {"aspirin"})[0]["nanomolar"].tolist() == [0.0]
    with pytest.raises(BenchmarkError, match="A treatment whose wells name an entity is part of that entity's profile"):
        read_targets(path, {"A", "B"}, {"paracetamol"})
    for odd in ("<10", "-1"):
        with pytest.raises(BenchmarkError, match="1 values of `nanomolar` are no numbers of at least 0"):
            read_targets(csv(tmp_path / "bad.csv", f"compound,gene,nanomolar\naspirin,A,{odd}\n"), {"A"}, {"aspirin"})


def test_tables_go_with_the_columns_they_are_about(tmp_path: Path) -> None:
    relations = csv(tmp_path / "paths.csv", "entity1,entity2\nA,B\n")
    targets = csv(tmp_path / "binds.csv", "compound,gene\naspirin,A\nguide-B,B\n")
    tables, notes = known_tables(INDEX, ImportOptions(relations=(relations,), targets=targets))
    assert {name: len(table) for name, table in tables.items()} == {"relations.parquet": 1, "targets.parquet": 1}
    assert len(notes) == 2
    assert known_tables(INDEX, ImportOptions()) == ({}, [])
    with pytest.raises(ParamsError, match="Say with `--entity COLUMN`"):
        known_tables(INDEX.drop(columns="Metadata_Entity"), ImportOptions(relations=(relations,)))
    with pytest.raises(ParamsError, match="Say with `--treatment COLUMN`"):
        known_tables(INDEX.drop(columns="Metadata_Treatment"), ImportOptions(targets=targets))


def test_several_labels_are_sorted_and_named_after_their_column() -> None:
    rows = pd.DataFrame({"Metadata_MOA list": ["b; a;b", None, " ; ", "c|d"], "kind": ["x|y", "y", "x", None]})
    found = label_columns(rows.iloc[:3], (("Metadata_MOA list", ";"), ("kind", "|")))
    assert list(found) == ["labels_moa-list", "labels_kind"]
    assert found["labels_moa-list"].tolist() == ["a|b", None, None]
    assert label_sets(found["labels_kind"]) == [{"x", "y"}, {"y"}, {"x"}]
    assert label_sets(found["labels_moa-list"]) == [{"a", "b"}, set(), set()]
    with pytest.raises(BenchmarkError, match=r"expected labels without `\|` between `;`, got `c\|d`"):
        label_columns(rows, (("Metadata_MOA list", ";"),))
    with pytest.raises(BenchmarkError, match="There is no column `moa` for the several labels"):
        label_columns(rows, (("moa", "|"),))


def test_options_of_the_command_line_and_of_a_statement() -> None:
    assert parse_multilabel("moa") == ("moa", "|")
    assert parse_multilabel("moa=; ") == ("moa", "; ")
    with pytest.raises(ParamsError, match="`column=separator`, got `moa=`"):
        parse_multilabel("moa=")
    stated = ImportOptions.from_mapping({"entity": "gene", "relations": "paths.csv", "targets": "binds.csv", "multilabel": ["moa=;", "kind"]}, "here")
    assert stated.relations == (Path("paths.csv"),)
    assert stated.targets == Path("binds.csv")
    assert stated.multilabels == (("moa", ";"), ("kind", "|"))

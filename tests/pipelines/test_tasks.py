"""Names in an index that lacks some: each is read in full, and what has none takes no part."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import pipelines
from pipelines.benchmarks.card import BenchmarkCard, Task
from pipelines.benchmarks.index import Benchmark, write_benchmark
from pipelines.beside.wells import wells_of
from pipelines.tasks import Question
from registry.images import ImageSpec

LABELS = ("kinase inhibitor", "kinase activator", "proteasome")


def written(folder: Path, **columns: list[str | None]) -> Benchmark:
    """A benchmark of 24 images as it is read from its files, some columns replaced."""
    rows = pd.DataFrame(
        {
            "image_id": [f"image {i:02d}" for i in range(24)],
            "path": "",
            "sha256": "",
            "unit": [f"plate {i % 4}" for i in range(24)],
            "fold": [i % 4 // 2 for i in range(24)],
            "label_moa": [LABELS[i % 3] for i in range(24)],
            "Metadata_Plate": [f"plate {i % 4}" for i in range(24)],
            "Metadata_Well": [f"A{i % 12:02d}" for i in range(24)],
            "Metadata_Treatment": [f"drug {i % 6}" for i in range(24)],
            **columns,
        }
    )
    card = BenchmarkCard("names", "Names", "cells", ImageSpec.none(), "plate", (Task("moa", "?"),))
    write_benchmark(folder, card, rows)
    return Benchmark.read(folder)


def test_labels_keep_their_names_where_some_images_have_none(tmp_path: Path) -> None:
    labels = [None if i in (2, 7) else LABELS[i % 3] for i in range(24)]
    benchmark = written(tmp_path, label_moa=labels)
    question = Question.of(benchmark, benchmark.card.tasks[0])
    assert question.classes == tuple(sorted(LABELS))
    assert [question.classes[code] if code >= 0 else None for code in question.codes] == labels


def test_an_image_without_a_well_is_a_profile_of_its_own(tmp_path: Path) -> None:
    benchmark = written(tmp_path, Metadata_Well=[None if i in (0, 12) else f"A{i % 12:02d}" for i in range(24)])
    whole = written(tmp_path / "whole")
    profiles, others = (Question.of(b, b.card.tasks[0]).profiles for b in (benchmark, whole))
    assert others[0] == others[12]
    assert profiles[0] != profiles[12]
    rest = [i for i in range(24) if i not in (0, 12)]
    same = profiles[:, None] == profiles, others[:, None] == others
    assert (same[0][np.ix_(rest, rest)] == same[1][np.ix_(rest, rest)]).all()


@pytest.mark.parametrize("column", ["Metadata_Plate", "Metadata_Well"])
def test_wells_keep_their_names_where_some_images_have_no_place(tmp_path: Path, column: str) -> None:
    whole = written(tmp_path / "whole")
    places = whole.index[column].tolist()
    benchmark = written(tmp_path, **{column: [None if i == 5 else place for i, place in enumerate(places)]})
    wells, others = wells_of(benchmark), wells_of(whole)
    assert wells is not None
    assert others is not None
    assert (wells.left_out, others.left_out) == (1, 0)
    assert wells.codes[5] == -1

    def named(found: dict[str, np.ndarray], codes: np.ndarray) -> list[tuple[str, ...] | None]:
        return [tuple(str(values[code]) for values in found.values()) if code >= 0 else None for code in codes]

    assert named(wells.columns, wells.codes)[:5] == named(others.columns, others.codes)[:5]
    assert len(wells.first) == len(others.first) == 12


def test_no_column_is_made_text_by_what_cuts_names() -> None:
    """`to_numpy(dtype=np.str_)` of a pandas column that lacks some names cuts the others to their first letter."""
    assert np.asarray(pd.Series(["kinase a", None]).astype(str).to_numpy(dtype=np.str_)).tolist()[0] == "k"
    root = Path(pipelines.__file__).parents[1]
    files = [path for name in ("pipelines", "registry", "serving") for path in (root / name).rglob("*.py")]
    assert len(files) > 100
    found = [str(path) for path in files if re.search(r"to_numpy\((dtype=)?(np\.str_|str)\b", path.read_text(encoding="utf-8"))]
    assert found == [str(root / "pipelines/metrics/names.py")]  # which says so

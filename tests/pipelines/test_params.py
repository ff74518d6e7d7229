from __future__ import annotations

import math
import re
from pathlib import Path

import pytest
import yaml

from pipelines.metrics.alignment import EPSILON
from pipelines.metrics.relations import THRESHOLDS
from pipelines.params import EvaluateParams, ExtractParams, Params, parse
from registry.errors import NotFoundError, ParamsError

ROOT = Path(__file__).resolve().parents[2]


def test_the_committed_parameters_are_read() -> None:
    params = Params.read(ROOT / "params.yaml")
    assert params.cell("culture", "controls").rows[0] == "intensity"
    assert {cell.benchmark for cell in params.cells.values()} == set(params.compare) == set(params.benchmarks)


def test_every_encoder_of_the_default_is_compared_with_rows_that_are_extracted() -> None:
    params = Params.read(ROOT / "params.yaml")
    for cell in params.cells.values():
        rows = {row for other in params.cells_of(cell.benchmark) for row in other.rows}
        if cell.card is not None:
            assert set(cell.card.twins) <= rows


def test_an_unknown_key_is_refused_and_named() -> None:
    with pytest.raises(ParamsError, match=r"`extract`: unknown key `bacth`. Known: device, precision, batch"):
        parse(ExtractParams, {"bacth": 3}, "extract")


@pytest.mark.parametrize(("key", "value"), [("batch", "64"), ("batch", True), ("device", 3), ("tolerate", 0.5)])
def test_a_value_of_the_wrong_type_is_refused(key: str, value: object) -> None:
    with pytest.raises(ParamsError, match=f"`extract: {key}`: expected"):
        parse(ExtractParams, {key: value}, "extract")


@pytest.mark.parametrize(
    "values",
    [
        {"recall": [0.95, 0.05]},
        {"recall": [0.05]},
        {"recall": [0, 0.5]},
        {"recall": [0.5, 1.0]},
        {"sphere_epsilon": -1},
        {"sphere_epsilon": math.nan},
    ],
)
def test_what_known_biology_is_asked_by_is_checked(values: dict[str, object]) -> None:
    with pytest.raises(ParamsError, match=f"Expected `{next(iter(values))}` to be"):
        parse(EvaluateParams, values, "evaluate")


def test_published_settings_are_the_default() -> None:
    params = parse(EvaluateParams, {}, "evaluate")
    assert (tuple(params.recall), params.sphere_epsilon) == (THRESHOLDS, EPSILON)
    assert Params.read(ROOT / "params.yaml").evaluate == params


def test_a_cell_under_another_name_is_refused(tmp_path: Path) -> None:
    value = yaml.safe_load((ROOT / "params.yaml").read_text())
    value["cells"]["culture--other"] = value["cells"].pop("culture--controls")
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(value))
    with pytest.raises(ParamsError, match=r"`cells.culture--other` describes `culture--controls`"):
        Params.read(tmp_path / "params.yaml")


def test_a_miss_lists_what_there_is() -> None:
    params = Params.read(ROOT / "params.yaml")
    with pytest.raises(NotFoundError, match=r"There is no cell `culture--simcrl`. Known: .*`culture--simclr`"):
        params.cell("culture", "simcrl")


def test_a_missing_file_says_where_it_was_expected(tmp_path: Path) -> None:
    with pytest.raises(ParamsError, match=r"Expected `params.yaml`"):
        Params.read(tmp_path / "params.yaml")


def test_the_cells_of_the_import_page_can_be_read(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "import.md").read_text(encoding="utf-8")
    (block,) = (text for text in re.findall(r"```yaml\n(.*?)```", page, re.S) if "compare:" in text)
    stated, params = yaml.safe_load(block), yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params | {"compare": stated["compare"], "cells": params["cells"] | stated["cells"]}))
    assert {cell.cell for cell in Params.read(tmp_path / "params.yaml").cells_of("screen1")} == {"controls", "untrained", "mine"}

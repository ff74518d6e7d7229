"""Names as text: in full, and never "nan"."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from pipelines.metrics.names import whole_names
from pipelines.metrics.pairs import column_values
from pipelines.metrics.statistic import index_units
from registry.errors import InputError

MISSING = [None, float("nan"), np.nan, pd.NA, pd.NaT]


@pytest.mark.parametrize("make", [list, pd.Series, lambda values: np.array(values, dtype=object), lambda values: pd.Series(values, dtype="category")])
def test_names_are_whole(make: type) -> None:
    assert whole_names(make(["kinase a", "b", "kinase a"]), "labels").tolist() == ["kinase a", "b", "kinase a"]
    assert whole_names(make(["kinase a", None, "b"]), "labels", missing="").tolist() == ["kinase a", "", "b"]
    assert whole_names(make([10, 2]), "labels").tolist() == ["10", "2"]
    assert whole_names(make([]), "labels").shape == (0,)


@pytest.mark.parametrize("missing", MISSING, ids=str)
def test_a_missing_name_is_no_name(missing: object) -> None:
    with pytest.raises(InputError, match="Expected a name for each of 3 units, got none for 1, the first at 1"):
        index_units(["a", missing, "b"])  # type: ignore[list-item]  # what no type forbids at run time
    with pytest.raises(InputError, match="each of 3 values of `Metadata_Well`"):
        column_values({"Metadata_Well": np.array(["a", missing, "b"], dtype=object)}, "Metadata_Well", 3)

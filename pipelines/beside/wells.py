"""The tested wells of a screen and what the index says of them: what questions about replicates and about known biology are asked of."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipelines.benchmarks.index import Benchmark
from pipelines.benchmarks.known import ENTITY, TREATMENT
from pipelines.metrics.alignment import aggregate
from pipelines.metrics.canonical import KIND, PERTURBATION, PLATE, REFERENCE, WELL, reference_index
from pipelines.metrics.names import whole_names
from registry.arrays import Floats, Ints, Mask

CONTROL, POSITION = "Metadata_control", "Metadata_Well"


@dataclass(frozen=True, eq=False)
class Wells:
    """Profiles of wells.

    Attributes:
        codes: (n,) the well each tested image is in, -1 for the others.
        first: (p,) the place in the index of the first tested image of each well.
        columns: of the p wells, as `canonical.RULES` name them.
        controls: (p,) which are control wells.
        placed: whether the index names plates and wells; where it does not, each image is a well of one plate.
        left_out: images that would be tested and have no plate or no well where others have.
    """

    codes: Ints
    first: Ints
    columns: dict[str, NDArray[np.str_]]
    controls: Mask
    placed: bool
    left_out: int

    def profiles(self, vectors: Floats) -> Floats:
        """(p, d) means over the tested images of each well.

        Args:
            vectors: (n, d) of all images of the benchmark.
        """
        taking_part = self.codes >= 0
        return aggregate(vectors[taking_part], [f"{code:09d}" for code in self.codes[taking_part]])[1]


def positions_of(benchmark: Benchmark) -> NDArray[np.str_] | None:
    """(n,) the well of each image, "" where it is missing; None where the index names no wells."""
    if POSITION not in benchmark.index:
        return None
    return whole_names(benchmark.index[POSITION], "wells", missing="")


def wells_of(benchmark: Benchmark) -> Wells | None:
    """The tested wells of a benchmark that names what was done to them, a treatment or else what it acts on; None where it does not."""
    index = benchmark.index
    done = next((column for column in (TREATMENT, ENTITY) if column in index), None)
    if done is None:
        return None
    control = index[CONTROL].fillna(False).astype(bool) if CONTROL in index else pd.Series(False, index=index.index)
    tested = (index["fold"] >= 0) & (index[done].notna() | control)
    positions = positions_of(benchmark)
    placed = "Metadata_Plate" in index and positions is not None
    lost = tested & (index[["Metadata_Plate", POSITION]].isna().any(axis=1) if placed else False)
    tested &= ~lost
    plates = index["Metadata_Plate"] if "Metadata_Plate" in index else pd.Series("", index=index.index)
    values = {
        PERTURBATION: whole_names(index[done], done, missing="control"),
        PLATE: whole_names(plates, "plates", missing=""),
        WELL: positions if placed and positions is not None else whole_names(index["image_id"], "wells", missing=""),
    }
    keys = np.array(["\n".join(parts) for parts in zip(values[PLATE], values[WELL], values[PERTURBATION], strict=True)], dtype=np.str_)
    unique, first, codes = np.unique(keys[tested.to_numpy()], return_index=True, return_inverse=True)
    every = np.full(len(index), -1, dtype=np.int64)
    every[tested.to_numpy()] = codes
    first = np.flatnonzero(tested.to_numpy())[first] if len(unique) else np.zeros(0, dtype=np.int64)
    columns = {name: found[first] for name, found in values.items()}
    controls = control.to_numpy()[first]
    columns |= {REFERENCE: reference_index(controls), KIND: np.where(controls, "control", "treated").astype(np.str_)}
    return Wells(every, first, columns, controls, placed, int(lost.sum()))

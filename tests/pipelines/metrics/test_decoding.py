from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score
from sklearn.model_selection import LeaveOneGroupOut
from sklearn.neighbors import NearestCentroid

from pipelines.metrics.decoding import Decoded, decode
from pipelines.metrics.probes import ProbeSettings, out_of_fold
from registry.errors import InputError

SETTINGS = ProbeSettings(max_dim=16, neighbours=5)
NEAREST = ProbeSettings(max_dim=16, neighbours=1)


class Screen:
    """Plates of 4 x 6 wells with two sites each; a vector is noise, plus what its plate, row, column, well and (plate, well) add."""

    def __init__(self, plates: int = 12, seed: int = 0, d: int = 8) -> None:
        rng = np.random.default_rng(seed)
        plate, row, column, site = np.meshgrid(np.arange(plates), np.arange(4), np.arange(6), np.arange(2), indexing="ij")
        self.plate, self.row, self.column, self.site = (v.ravel() for v in (plate, row, column, site))
        self.well = self.row * 6 + self.column
        self.n, self.d, self.rng = len(self.plate), d, rng
        self.columns = {
            "Plate": [f"P{p:02d}" for p in self.plate],
            "Well": [f"{'ABCD'[r]}{c:02d}" for r, c in zip(self.row, self.column, strict=True)],
            "Row": [str(r) for r in self.row],
            "Column": [str(c) for c in self.column],
            "Site": [str(s) for s in self.site],
            "Batch": [str(p // 4) for p in self.plate],
        }

    def vectors(self, **effects: float) -> np.ndarray:
        x = self.rng.normal(size=(self.n, self.d))
        for name, effect in effects.items():
            codes = self.plate * 1000 + self.well if name == "spot" else getattr(self, name)
            x += effect * self.rng.normal(size=(codes.max() + 1, self.d))[codes]
        return x

    def ask(self, x: np.ndarray, column: str, kind: str = "logistic", labels: list[str] | None = None, settings: ProbeSettings = SETTINGS) -> Decoded:
        return decode(x, column, self.columns, self.columns["Plate"], settings, kind, labels)


def value(found: Decoded) -> float:
    assert found.statistic is not None
    return found.statistic.value


@pytest.mark.parametrize("kind", ["logistic", "knn"])
def test_what_is_planted_is_found_and_nothing_else(kind: str) -> None:
    screen = Screen()
    x = screen.vectors(row=2.0)
    assert value(screen.ask(x, "Row", kind)) > 0.9
    for column in ("Column", "Site", "Plate", "Batch"):
        found = screen.ask(x, column, kind)
        assert value(found) == pytest.approx(found.chance, abs=0.12), column
    x = screen.vectors(plate=2.0)
    assert value(screen.ask(x, "Plate", kind)) > 0.9
    assert value(screen.ask(x, "Batch", kind)) > 0.75
    assert value(screen.ask(x, "Row", kind)) == pytest.approx(1 / 4, abs=0.1)
    assert (screen.ask(x, "Row").held_out, screen.ask(x, "Plate").held_out) == ("plate", "well")


def test_sharing_a_spot_with_training_is_no_knowledge_of_its_plate_or_row() -> None:
    """Both sites of a well look alike and like nothing else: a split that tears wells decodes everything, a fair one nothing."""
    screen = Screen(seed=1)
    x = screen.vectors(spot=5.0)
    torn = np.arange(screen.n) % 2
    for column in ("Plate", "Row"):
        codes = np.unique(screen.columns[column], return_inverse=True)[1].astype(np.int64)
        unfair = out_of_fold(x, codes, torn, [str(i) for i in range(screen.n)], int(codes.max()) + 1, NEAREST, "knn")
        assert np.mean(unfair.predicted == codes) > 0.95
        found = screen.ask(x, column, "knn", settings=NEAREST)
        assert value(found) == pytest.approx(found.chance, abs=0.1)


def test_a_well_position_does_not_lie_on_both_sides_when_a_plate_is_decoded() -> None:
    """Plate p is bright in half of the wells and dark in the others, by a pattern of its own: only the same well tells plates apart."""
    screen = Screen(plates=2, seed=2)
    sign = np.where((screen.well % 2 == 0) == (screen.plate == 0), 1.0, -1.0)
    well = 6 * screen.rng.normal(size=(24, screen.d))[screen.well]
    x = well + np.outer(sign, np.eye(screen.d)[0]) * 3 + 0.1 * screen.rng.normal(size=(screen.n, screen.d))
    assert value(screen.ask(x, "Plate", "knn", settings=NEAREST)) < 0.7
    torn = np.arange(screen.n) % 2
    assert np.mean(out_of_fold(x, screen.plate, torn, screen.columns["Plate"], 2, NEAREST, "knn").predicted == screen.plate) > 0.95


def test_the_number_is_that_of_whole_groups_held_out() -> None:
    """With as many folds as groups the folds are those of scikit-learn, whatever the probe."""
    screen = Screen(plates=5, seed=3)
    x = screen.vectors(row=0.7)
    found = screen.ask(x, "Row", "knn")
    assert found.statistic is not None
    assert found.statistic.units == tuple(sorted(set(screen.columns["Plate"])))
    folds = np.empty(screen.n, dtype=np.int64)
    for number, (_, test) in enumerate(LeaveOneGroupOut().split(x, groups=screen.plate)):
        folds[test] = number
    same = out_of_fold(x, screen.row, folds, screen.columns["Plate"], 4, SETTINGS, "knn")
    assert found.statistic.value == pytest.approx(balanced_accuracy_score(screen.row, same.predicted))
    # a probe of another make agrees that something is there
    centroid = np.empty(screen.n, dtype=np.int64)
    for train, test in LeaveOneGroupOut().split(x, groups=screen.plate):
        centroid[test] = NearestCentroid().fit(x[train], screen.row[train]).predict(x[test])
    assert found.statistic.value > 0.3
    assert balanced_accuracy_score(screen.row, centroid) > 0.3


def test_what_the_label_gives_away_is_told() -> None:
    screen = Screen(seed=4)
    x = screen.vectors(row=2.0)
    by_row = [f"drug{r // 2}" for r in screen.row]
    found = screen.ask(x, "Row", "knn", by_row)
    # of two rows with one drug, half the guesses are right
    assert found.of_label == pytest.approx(0.5)
    mixed = screen.ask(x, "Row", "knn", [f"drug{i}" for i in screen.rng.integers(0, 4, screen.n)])
    assert mixed.of_label == pytest.approx(0.25, abs=0.08)
    assert screen.ask(x, "Row", "knn").of_label is None


def test_an_embedding_of_noise_is_rarely_above_chance_and_right_on_average() -> None:
    values, above = [], 0
    for seed in range(40):
        screen = Screen(seed=100 + seed)
        found = screen.ask(screen.vectors(), "Row", "knn")
        assert found.interval is not None
        values.append(value(found))
        above += found.interval[0] > found.chance
    assert np.mean(values) == pytest.approx(0.25, abs=0.01)
    assert above <= 3


def test_a_constant_embedding_decodes_nothing() -> None:
    screen = Screen()
    for kind in ("logistic", "knn"):
        assert value(screen.ask(np.ones((screen.n, 4)), "Row", kind)) == pytest.approx(0.25)


def test_what_the_design_forbids_has_a_reason() -> None:
    screen = Screen(plates=3)
    x = screen.vectors()
    units = screen.columns["Plate"]
    no_plates = {"Row": screen.columns["Row"], "Plate": ["P0"] * screen.n}
    assert decode(x, "Row", no_plates, units, SETTINGS).note == "not estimable: there are 1 plates to hold out, at least 2 are needed"
    assert decode(x, "Row", {"Row": screen.columns["Row"]}, units, SETTINGS).note.startswith("not estimable: there are 0 plates")
    # every plate is a unit and there are no wells
    found = decode(x, "Plate", {"Plate": units}, units, SETTINGS)
    assert (found.note, found.held_out) == ("not estimable: 3 of 3 values occur in one unit only", "unit")
    assert found.statistic is None
    assert found.interval is None
    assert decode(x, "Batch", {"Batch": ["b"] * screen.n}, units, SETTINGS).note == "not estimable: there are 1 values, at least 2 are needed"
    # a batch that only one donor was measured in is left out, as is an image without one
    donors = [f"d{i % 7}" for i in range(screen.n)]
    batches = ["alone" if d == "d0" else ("" if i < 30 else f"b{i % 2}") for i, d in enumerate(donors)]
    found = decode(x, "Batch", {"Batch": batches}, donors, SETTINGS, "knn")
    assert (found.left_out, found.chance) == (1, 0.5)
    assert found.statistic is not None
    assert found.statistic.n_images == sum(b in ("b0", "b1") for b in batches)


def test_bad_input() -> None:
    screen = Screen(plates=2)
    x = screen.vectors()
    with pytest.raises(InputError, match=r"Expected a column of `Plate`, .*, got `Day`"):
        screen.ask(x, "Day")
    with pytest.raises(InputError, match=r"values of `Row`, got shape"):
        decode(x, "Row", {"Row": ["a"], "Plate": ["b"]}, screen.columns["Plate"], SETTINGS)
    with pytest.raises(InputError, match=r"unit names, got shape"):
        decode(x, "Batch", {"Batch": screen.columns["Batch"]}, ["u"], SETTINGS)
    x[3, 1] = np.inf
    with pytest.raises(InputError, match="finite features"):
        screen.ask(x, "Row")

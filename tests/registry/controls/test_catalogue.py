"""Every control keeps the promises of `Representation`, whatever it computes."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from registry.controls.catalogue import CONTROLS, Catalogue, control_names, make_control, not_applicable
from registry.errors import BenchmarkError, CardError, InputError, NotFoundError
from registry.images import ImageSpec
from registry.representation import Batch, Facts, Representation
from tests.registry.controls.samples import batch_of, facts_for, nuclei_table, part, smooth_noise, tissue_batch

RGB = ("red", "green", "blue")
SERVED = ("intensity", "histogram", "spectrum", "pixels-pca")
FITTED = ("histogram", "pixels-pca")


@pytest.fixture(scope="module")
def facts() -> Facts:
    return facts_for(RGB, (48, 48), nuclei=True)


@pytest.fixture(scope="module")
def batch() -> Batch:
    return tissue_batch(9, 48, points=30)


def ready(name: str, facts: Facts, batch: Batch, seed: int = 0) -> Representation:
    control = make_control(name, facts, seed)
    if control.fitted:
        control.fit([batch])
    return control


def test_the_controls_there_are() -> None:
    tissue = ("composition", "point-process", "cell-graph")
    assert control_names() == ("intensity", "histogram", "density", "spectrum", "texture", "pixels-pca", "layout", "random", *tissue)


def test_a_name_is_taken_once() -> None:
    catalogue = Catalogue()
    catalogue.add(CONTROLS.entry("random"))
    with pytest.raises(CardError, match="There is a control `random` already"):
        catalogue.add(CONTROLS.entry("random"))


def test_a_miss_lists_the_names(facts: Facts) -> None:
    with pytest.raises(NotFoundError, match=r"There is no control `colour`. Known: `cell-graph`, .*`texture`\."):
        make_control("colour", facts, 0)
    with pytest.raises(NotFoundError):
        not_applicable("colour", facts)


def test_listing_controls_imports_no_heavy_library() -> None:
    code = (
        "import sys; from registry.controls.catalogue import control_names; control_names(); print({'torch', 'scipy', 'skimage'} & set(sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "set()"


@pytest.mark.parametrize(
    ("name", "change", "reason"),
    [
        ("density", {"cells_per_image": "one"}, "every image is one cell"),
        ("density", {"modality": "natural"}, "natural images hold no cells to count"),
        ("layout", {"metadata": ("Metadata_Plate", "Metadata_Row")}, "the index has no wells"),
        ("composition", {"nuclei": False}, "the benchmark has no table of nuclei"),
        ("composition", {"nuclear_types": ()}, "the table of nuclei names no types"),
        ("composition", {"nuclear_types": ("one",)}, "nuclei are of one type"),
        ("point-process", {"nuclei": False}, "the benchmark has no table of nuclei"),
        (
            "cell-graph",
            {"image": ImageSpec(RGB, "uint8", 48, 48, ((0.0, 255.0),) * 3, 2.0, "linear")},
            "images vary in size, so the window of their nuclei is not known",
        ),
    ],
)
def test_a_control_that_does_not_apply_says_why(facts: Facts, name: str, change: dict[str, object], reason: str) -> None:
    changed = replace(facts, **change)  # type: ignore[arg-type]
    assert not_applicable(name, facts) == ""
    assert not_applicable(name, changed) == reason
    with pytest.raises(BenchmarkError, match=f"`{name}` does not apply to `sample`: {reason}"):
        make_control(name, changed, 0)


@pytest.mark.parametrize("name", control_names())
def test_card_and_vectors(name: str, facts: Facts, batch: Batch) -> None:
    control = ready(name, facts, batch)
    vectors = control.embed(batch)
    assert control.card.name == name
    assert control.card.role == "negative"
    assert control.fitted == (name in FITTED)
    assert vectors.dtype == np.float32
    assert vectors.shape == (9, vectors.shape[1])
    assert np.isfinite(vectors).all()
    assert (vectors.std(axis=0) > 0).any()
    columns = getattr(control, "columns", None)
    if columns is not None:
        assert len(set(columns)) == len(columns) == vectors.shape[1]


@pytest.mark.parametrize("name", control_names())
def test_an_image_does_not_know_its_company(name: str, facts: Facts, batch: Batch) -> None:
    control = ready(name, facts, batch)
    together = control.embed(batch)
    alone = np.concatenate([control.embed(part(batch, [i])) for i in range(9)])
    shuffled = control.embed(part(batch, [8, 3, 5]))
    np.testing.assert_allclose(alone, together, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(shuffled, together[[8, 3, 5]], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", control_names())
def test_what_was_learned_survives_a_round_trip(name: str, facts: Facts, batch: Batch) -> None:
    control = ready(name, facts, batch)
    again = make_control(name, facts, 0)
    again.load_state(control.state())
    assert bool(control.state()) == control.fitted
    assert all(value.dtype == np.float32 for value in control.state().values())
    np.testing.assert_array_equal(again.embed(batch), control.embed(batch))


@pytest.mark.parametrize("name", control_names())
def test_a_foreign_state_is_refused(name: str, facts: Facts) -> None:
    with pytest.raises(InputError, match=f"`{name}`"):
        make_control(name, facts, 0).load_state({"edges": np.zeros((1, 2), np.float32)})


@pytest.mark.parametrize("name", FITTED)
def test_a_fitted_control_asks_to_be_fitted(name: str, facts: Facts, batch: Batch) -> None:
    control = make_control(name, facts, 0)
    for use in (lambda: control.embed(batch), control.state, control.network, lambda: control.fit([])):
        with pytest.raises(InputError, match=f"`{name}`"):
            use()


@pytest.mark.parametrize("name", control_names())
def test_it_can_be_served_or_says_why_not(name: str, facts: Facts, batch: Batch) -> None:
    control = ready(name, facts, batch)
    network = control.network()
    assert (network is not None) == (name in SERVED)
    assert (control.unservable() == "") == (name in SERVED)
    if network is not None:
        assert not network.training


@pytest.mark.parametrize("value", [0.0, 128.0, 255.0])
@pytest.mark.parametrize("name", control_names())
def test_constant_images_without_nuclei_give_finite_vectors(name: str, value: float, facts: Facts, batch: Batch) -> None:
    empty = batch_of(np.full((3, 3, 48, 48), value, np.float32), [nuclei_table(np.zeros((0, 2)))] * 3)
    vectors = ready(name, facts, batch).embed(empty)
    assert np.isfinite(vectors).all()
    if name in FITTED:
        assert np.isfinite(ready(name, facts, empty).embed(batch)).all()


@pytest.mark.parametrize("points", [1, 2, 3])
@pytest.mark.parametrize("name", ["density", "composition", "point-process", "cell-graph"])
def test_few_nuclei_give_finite_vectors(name: str, points: int, facts: Facts) -> None:
    corner = np.array([[1.0, 2.0], [30.0, 40.0], [80.0, 11.0]])[:points]
    collinear = np.stack([np.linspace(1, 90, points), np.linspace(1, 90, points)], axis=1)
    same = np.full((points, 2), 7.0)
    untyped = nuclei_table(corner, [None] * points)
    sample = batch_of(smooth_noise(4, 3, 48, 48), [nuclei_table(corner), nuclei_table(collinear), nuclei_table(same), untyped])
    assert np.isfinite(make_control(name, facts, 0).embed(sample)).all()


@pytest.mark.parametrize("name", ["intensity", "histogram", "spectrum", "texture"])
def test_a_quarter_turn_of_the_image_changes_nothing(name: str, facts: Facts, batch: Batch) -> None:
    control = ready(name, facts, batch)
    turned = replace(batch, pixels=np.ascontiguousarray(np.rot90(batch.pixels, axes=(2, 3))))
    np.testing.assert_allclose(control.embed(turned), control.embed(batch), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", ["point-process", "cell-graph", "composition"])
def test_a_quarter_turn_of_the_nuclei_changes_nothing(name: str, facts: Facts, batch: Batch) -> None:
    control = make_control(name, facts, 0)
    assert batch.nuclei is not None
    turned = tuple(table.assign(x_um=table["y_um"], y_um=96.0 - table["x_um"]) for table in batch.nuclei)
    np.testing.assert_allclose(control.embed(replace(batch, nuclei=turned)), control.embed(batch), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["layout", "random", "composition", "point-process", "cell-graph", "density"])
def test_what_is_not_of_pixels_ignores_them(name: str, facts: Facts, batch: Batch) -> None:
    control = make_control(name, facts, 0)
    other = replace(batch, pixels=np.zeros_like(batch.pixels))
    np.testing.assert_array_equal(control.embed(other), control.embed(batch))


def test_a_table_is_missing(facts: Facts, batch: Batch) -> None:
    with pytest.raises(BenchmarkError, match="`sample`: expected a table of nuclei for each image, got none"):
        make_control("point-process", facts, 0).embed(replace(batch, nuclei=None))


def test_a_nucleus_outside_its_image_is_named(facts: Facts, batch: Batch) -> None:
    assert batch.nuclei is not None
    far = batch.nuclei[4].assign(x_um=batch.nuclei[4]["x_um"] * 5)
    with pytest.raises(BenchmarkError, match=r"Image `image-004`: expected nuclei within 96 x 96 um \(x, y\), got one at \("):
        make_control("cell-graph", facts, 0).embed(replace(batch, nuclei=(*batch.nuclei[:4], far, *batch.nuclei[5:])))

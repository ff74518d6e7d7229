"""The simulated tissue: what is planted is there, what is matched is matched."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.benchmarks.drawing import radial_frequency, stream
from pipelines.benchmarks.index import Benchmark
from pipelines.benchmarks.simulate import simulate
from pipelines.benchmarks.tissue import CHANNELS, CLASSES, DRAW, Patch, draw_patient
from pipelines.benchmarks.tissue_design import TissueParameters
from pipelines.benchmarks.tissue_expression import GENES, TASKS, dark_neighbours, gene_counts
from pipelines.benchmarks.tissue_scene import (
    BLOCKS,
    SIDE,
    Nuclei,
    PatientStain,
    block_counts,
    cell_process_counts,
    cell_process_sites,
    coverage,
    random_sites,
    render,
)
from pipelines.metrics.expression import expression_scores
from registry.images import read_image

PARAMETERS = TissueParameters()
SIZE_PX = PARAMETERS.image_size_px
STAIN = PatientStain(1.0, np.array([0.78, 0.84, 0.35]), np.array([0.02, 0.30, 0.03]), 1.0)


def patterns(task: str, label: int, n: int, nuclei: int) -> list[Nuclei]:
    return [DRAW[task](PARAMETERS, stream(9, task, label, i), nuclei, label) for i in range(n)]


def torus_distances(nuclei: Nuclei) -> np.ndarray:
    """All ordered pairs, slowly and plainly."""
    points = np.stack([nuclei.y, nuclei.x], axis=1)
    away = np.abs(points[:, None] - points[None])
    distance = np.sqrt((np.minimum(away, SIZE_PX - away) ** 2).sum(axis=2))
    return distance[~np.eye(len(points), dtype=bool)]


def z_scores(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    spread = np.sqrt(first.var(axis=0) / len(first) + second.var(axis=0) / len(second))
    return (first.mean(axis=0) - second.mean(axis=0))[spread > 0] / spread[spread > 0]


@pytest.fixture(scope="module")
def benchmark_folder(tmp_path_factory: pytest.TempPathFactory) -> Benchmark:
    parameters = TissueParameters(train_patients=2, test_patients=1, patches_per_task=4)
    return simulate("tissue", tmp_path_factory.mktemp("tissue") / "tissue", parameters, 3)


@pytest.mark.parametrize("task", ["arrangement", "composition"])
def test_nuclei_keep_their_distance_on_the_torus(task: str) -> None:
    for label in (0, 1):
        assert all(torus_distances(p).min() >= PARAMETERS.min_distance_px for p in patterns(task, label, 5, 144))


def test_arrangement_holds_composition_and_sizes_and_clusters_the_dark() -> None:
    together: list[list[float]] = [[], []]
    for label in (0, 1):
        for nuclei in patterns("arrangement", label, 40, 128):
            assert nuclei.dark.sum() == round(0.4 * 128)
            dark = Nuclei(nuclei.y[nuclei.dark], nuclei.x[nuclei.dark], nuclei.radius_px[nuclei.dark], nuclei.dark[nuclei.dark])
            together[label].append(float((torus_distances(dark) < 12).mean()))
    assert np.mean(together[1]) > 1.2 * np.mean(together[0])
    assert np.median(together[1]) > np.quantile(together[0], 0.95)


def test_composition_differs_by_its_planted_fractions() -> None:
    for label, fraction in enumerate(PARAMETERS.composition_fraction):
        found = [nuclei.dark.mean() for nuclei in patterns("composition", label, 150, 128)]
        assert np.mean(found) == pytest.approx(fraction, abs=4 * np.std(found) / np.sqrt(150))


@given(st.integers(56, 72), st.integers(0, 2**32 - 1))
def test_rearranged_blocks_keep_the_number_of_nuclei_and_of_pairs(n: int, seed: int) -> None:
    counts = block_counts(random_sites(np.random.default_rng(seed), n))
    pairs = int((counts * (counts - 1)).sum())
    rearranged = cell_process_counts(n, pairs)
    assert len(rearranged) == BLOCKS
    assert rearranged.sum() == n
    assert (rearranged * (rearranged - 1)).sum() == pairs
    assert (rearranged >= 0).all()


def test_cell_process_sites_are_distinct_and_as_skewed_as_their_counts() -> None:
    third = []
    for draw in (random_sites, cell_process_sites):
        moments = []
        for i in range(300):
            sites = draw(np.random.default_rng(i), 64)
            assert len(np.unique(sites)) == 64
            assert sites.min() >= 0
            assert sites.max() < SIDE * SIDE
            counts = block_counts(sites)
            moments.append((counts * (counts - 1) * (counts - 2)).sum())
        third.append(np.mean(moments))
    assert third[1] > 4 * third[0]


def test_third_order_keeps_k_and_changes_nearest_neighbours() -> None:
    radii = np.arange(2.0, 30.0, 1.5)
    k: list[np.ndarray] = []
    fourth: list[np.ndarray] = []
    for label in (0, 1):
        drawn = patterns("third-order", label, 500, 64)
        k.append(np.stack([(torus_distances(p)[:, None] < radii).sum(axis=0) for p in drawn]).astype(float))
        fourth.append(np.array([np.quantile(np.sort(torus_distances(p).reshape(64, 63), axis=1)[:, 3], 0.05) for p in drawn]))
    z = z_scores(*k)
    assert np.abs(z).max() < 4
    assert np.median(fourth[1]) < np.quantile(fourth[0], 0.05)


def test_third_order_keeps_the_power_spectrum_of_the_ink() -> None:
    ring = np.minimum((radial_frequency(SIZE_PX) * 32).astype(int), 15)
    power: list[np.ndarray] = []
    for label in (0, 1):
        found = []
        for nuclei in patterns("third-order", label, 400, 64):
            transform = np.abs(np.fft.rfft2(coverage(nuclei, np.ones(64), SIZE_PX))) ** 2
            transform[0, 0] = 0
            found.append([transform[ring == r].mean() for r in range(16)])
        power.append(np.array(found))
    assert np.abs(z_scores(*power)).max() < 4


def test_light_is_linear_in_the_ink_also_where_nuclei_overlap() -> None:
    nuclei = patterns("third-order", 1, 1, 64)[0]
    halves = [Nuclei(nuclei.y[part], nuclei.x[part], nuclei.radius_px[part], nuclei.dark[part]) for part in (np.s_[:32], np.s_[32:])]
    whole = coverage(nuclei, np.ones(64), SIZE_PX)
    np.testing.assert_allclose(whole, sum(coverage(half, np.ones(32), SIZE_PX) for half in halves), atol=1e-6)
    shifted = Nuclei((nuclei.y + 20) % SIZE_PX, (nuclei.x - 31) % SIZE_PX, nuclei.radius_px, nuclei.dark)
    np.testing.assert_allclose(coverage(shifted, np.ones(64), SIZE_PX), np.roll(whole, (20, -31), axis=(0, 1)), atol=1e-9)


def test_next_to_nothing_is_clipped() -> None:
    pixels = np.stack([patch.pixels for patient in range(6) for patch in draw_patient(TissueParameters(patches_per_task=2), 4, patient)])
    assert np.mean((pixels == 0) | (pixels == 255)) < 1e-4


def test_stain_of_dark_nuclei_is_darker() -> None:
    nuclei = patterns("arrangement", 0, 1, 120)[0]
    red = render(nuclei, STAIN, PARAMETERS, stream(0, "render"))[0].astype(float)
    at = red[np.rint(nuclei.y).astype(int) % SIZE_PX, np.rint(nuclei.x).astype(int) % SIZE_PX]
    assert at[nuclei.dark].mean() < at[~nuclei.dark].mean() - 30
    assert at[~nuclei.dark].mean() < np.median(red) - 15


def test_both_patches_of_a_pair_hold_as_many_nuclei() -> None:
    patches: list[Patch] = list(draw_patient(TissueParameters(patches_per_task=6), 2, 0))
    assert [p.label for p in patches] == [0, 1] * 9
    for first, second in zip(patches[::2], patches[1::2], strict=True):
        assert first.task == second.task
        assert len(first.nuclei.y) == len(second.nuclei.y)


def test_index_card_and_nuclei(benchmark_folder: Benchmark) -> None:
    index, card = benchmark_folder.index, benchmark_folder.card
    assert len(index) == 3 * 3 * 4
    assert (index["unit"] == index["Metadata_Patient"]).all()
    assert index.groupby("unit")["fold"].first().tolist() == [-1, -1, 0]
    for task, classes in CLASSES.items():
        labels = index[f"label_{task}"]
        assert (labels.notna() == (index["Metadata_Set"] == task)).all()
        assert sorted(labels.dropna().unique()) == sorted(classes)
        assert (index.groupby(["unit", f"label_{task}"]).size() == 2).all()
    assert card.structure
    assert card.unit == "patient"
    assert card.truth["matched"] == {"third-order": ["intensity", "histogram", "density", "spectrum", "composition"]}
    assert all(task.expectation for task in card.tasks)
    assert set(benchmark_folder.nuclei) == set(index["image_id"])
    side_um = SIZE_PX * PARAMETERS.pixel_size_um
    for table in benchmark_folder.nuclei.values():
        assert table[["x_um", "y_um"]].min().min() >= 0
        assert table[["x_um", "y_um"]].max().max() < side_um
        assert set(table["type"]) <= {"lymphocyte", "tumour"}


def test_the_table_says_where_the_ink_is(benchmark_folder: Benchmark) -> None:
    row = int(np.flatnonzero((benchmark_folder.index["Metadata_Set"] == "third-order").to_numpy())[0])
    table = benchmark_folder.nuclei[benchmark_folder.index["image_id"].iloc[row]]
    red = benchmark_folder.pixels(row)[0]
    y, x = (np.rint(table[c].to_numpy() / PARAMETERS.pixel_size_um).astype(int) % SIZE_PX for c in ("y_um", "x_um"))
    assert red[y, x].mean() < np.quantile(red, 0.1)
    assert table["area_um2"].mean() == pytest.approx(np.pi * (PARAMETERS.lattice_radius_px * 2.5) ** 2, rel=0.4)


def test_files_are_ome_tiff_with_channel_names_and_pixel_size(benchmark_folder: Benchmark) -> None:
    from ome_types import from_tiff

    path = benchmark_folder.paths(0)[0]
    pixels = from_tiff(path).images[0].pixels
    assert tuple(channel.name for channel in pixels.channels) == CHANNELS
    assert (pixels.physical_size_x, pixels.physical_size_x_unit.value, pixels.type.value) == (2.5, "µm", "uint8")
    image = read_image(path)
    assert (image.channel_names, image.pixel_size_um, image.pixels.shape) == (CHANNELS, 2.5, (3, SIZE_PX, SIZE_PX))


def test_more_patients_and_patches_hold_the_fewer(benchmark_folder: Benchmark, tmp_path: Path) -> None:
    larger = simulate("tissue", tmp_path / "larger", TissueParameters(train_patients=3, test_patients=1, patches_per_task=6), 3)
    both = benchmark_folder.index.merge(larger.index, on="image_id", suffixes=("", "_larger"))
    assert len(both) == len(benchmark_folder.index)
    assert (both["sha256"] == both["sha256_larger"]).all()


def test_genes_follow_what_is_planted_and_one_follows_nothing() -> None:
    """By the truth itself, patients apart; and by a slow search for the nearest nucleus."""
    seen: list[list[float]] = []
    counts: list[list[int]] = []
    patients: list[int] = []
    for patient in range(8):
        for task in TASKS:
            for number in range(12):
                rng = stream(3, task, patient, number)
                nuclei = DRAW[task](PARAMETERS, rng, int(rng.integers(112, 145)), number % 2)
                seen.append([nuclei.dark.mean(), len(nuclei.y), dark_neighbours(nuclei, SIZE_PX)])
                counts.append(list(gene_counts(3, patient, task, number, nuclei, SIZE_PX).values()))
                patients.append(patient)
    away = np.where(np.eye(len(nuclei.y), dtype=bool), np.inf, 0.0)
    away[~np.eye(len(nuclei.y), dtype=bool)] += torus_distances(nuclei)
    assert dark_neighbours(nuclei, SIZE_PX) == np.mean(nuclei.dark[away.argmin(axis=1)][nuclei.dark])
    of_patient = np.eye(8)[patients]
    truth, y = (v - of_patient @ np.linalg.lstsq(of_patient, v, rcond=None)[0] for v in (np.array(seen), np.log1p(np.array(counts))))
    r = np.corrcoef(truth.T, y.T)[:3, 3:]
    assert (np.diag(r) > 0.7).all()
    assert np.abs(r[:, 3]).max() < 0.2
    # as the flow asks: composition (fraction and number) finds its two genes, and nothing finds the last
    composition = expression_scores(np.array(seen)[:, :2], np.array(counts), [f"p{p}" for p in patients], np.array(patients) % 2)
    assert composition.per_gene[:2].min() > 0.6
    assert composition.per_gene[2] < 0.5
    assert abs(composition.per_gene[3]) < 0.2
    assert list(GENES) == ["DARK", "CROWDED", "CLUSTERED", "NOTHING"]


def test_counts_lie_beside_the_images_of_two_tasks(benchmark_folder: Benchmark) -> None:
    found = benchmark_folder.expression
    assert found is not None
    assert set(found.index) == set(benchmark_folder.index.query("Metadata_Set != 'third-order'")["image_id"])
    assert set(found.columns) == set(benchmark_folder.card.truth["genes"])

"""What both simulators share: bytes, publication, parameters; and the page of pictures."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipelines.benchmarks.culture_design import CultureParameters
from pipelines.benchmarks.drawing import radial_frequency, random_field, stream
from pipelines.benchmarks.index import Benchmark
from pipelines.benchmarks.pictures import simulation_page
from pipelines.benchmarks.simulate import parameters, simulate
from pipelines.benchmarks.tissue_design import TissueParameters
from registry.errors import BenchmarkError, NotFoundError, ParamsError
from registry.files import sha256_of_file

SMALL = {
    "culture": CultureParameters(train_plates=1, test_plates=1, sites_per_well=1),
    "tissue": TissueParameters(train_patients=1, test_patients=1, patches_per_task=2),
}
SCRIPT = """
import sys
from pathlib import Path
from pipelines.benchmarks.simulate import parameters, simulate
from pipelines.benchmarks.pictures import simulation_page
for name, small in (("culture", {"train_plates": 1, "test_plates": 1, "sites_per_well": 1}),
                    ("tissue", {"train_patients": 1, "test_patients": 1, "patches_per_task": 2})):
    made = simulate(name, Path(sys.argv[1]) / name, parameters(name, small), 8, int(sys.argv[2]))
    simulation_page(made, Path(sys.argv[1]) / f"{name}.html")
"""


def hashes(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): sha256_of_file(path) for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.slow
def test_the_same_seed_gives_the_same_bytes_whatever_the_hash_seed_and_the_number_of_workers(tmp_path: Path) -> None:
    for number, hash_seed in enumerate(("0", "4242")):
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "OMP_NUM_THREADS": "1"}
        subprocess.run([sys.executable, "-c", SCRIPT, str(tmp_path / str(number)), str(number + 1)], check=True, env=environment, timeout=120)
    first, second = hashes(tmp_path / "0"), hashes(tmp_path / "1")
    assert len(first) == 32 + 12 + 2 + 4 + 2
    assert first == second


@pytest.mark.parametrize("name", ["culture", "tissue"])
def test_another_seed_gives_other_images(name: str, tmp_path: Path) -> None:
    one, two = (simulate(name, tmp_path / str(seed), SMALL[name], seed).index["sha256"] for seed in (1, 2))
    assert not set(one) & set(two)


def test_a_simulated_benchmark_is_replaced_and_anything_else_is_not(tmp_path: Path) -> None:
    out = tmp_path / "culture"
    out.mkdir()
    before = hashes(simulate("culture", out, SMALL["culture"], 1).folder)
    after = hashes(simulate("culture", out, SMALL["culture"], 2).folder)
    assert before.keys() == after.keys()
    assert before != after
    assert [path.name for path in tmp_path.iterdir()] == ["culture"]
    foreign = tmp_path / "thesis"
    foreign.mkdir()
    (foreign / "chapter.txt").write_text("years of work")
    with pytest.raises(BenchmarkError, match="expected an empty folder or a simulated benchmark"):
        simulate("culture", foreign, SMALL["culture"], 1)
    assert (foreign / "chapter.txt").read_text() == "years of work"


def test_a_run_that_was_killed_before_leaves_nothing_behind(tmp_path: Path) -> None:
    leftover = tmp_path / ".tissue.partial" / "images"
    leftover.mkdir(parents=True)
    (leftover / "half.ome.tiff").write_bytes(b"II*")
    simulate("tissue", tmp_path / "tissue", SMALL["tissue"], 1)
    assert [path.name for path in tmp_path.iterdir()] == ["tissue"]
    assert not (tmp_path / "tissue" / "images" / "half.ome.tiff").exists()


def test_parameters_are_checked() -> None:
    assert parameters("culture", {}) == CultureParameters()
    assert parameters("tissue", {"stain": [0.5, 1], "train_patients": 4}) == TissueParameters(stain=(0.5, 1.0), train_patients=4)
    with pytest.raises(NotFoundError, match="Known: `culture`, `tissue`"):
        parameters("organoid", {})
    with pytest.raises(ParamsError, match="unknown key `plates`"):
        parameters("culture", {"plates": 3})
    for wrong in ({"train_plates": 1.5}, {"train_plates": 0}, {"photons": -1.0}, {"cells": [5]}, {"cells": [6, 5]}, {"vignette": [0.1, 1.0]}):
        with pytest.raises(ParamsError):
            parameters("culture", wrong)
    for wrong in ({"patches_per_task": 3}, {"nuclei": [112, 400]}, {"lattice_nuclei": [56, 90]}, {"stain": [0.4, 1.2]}, {"noise": float("nan")}):
        with pytest.raises(ParamsError):
            parameters("tissue", wrong)
    with pytest.raises(ParamsError, match="seed of 0 or more"):
        simulate("culture", Path("unused"), CultureParameters(), -1)


def test_settings_of_the_card_make_the_benchmark_again(tmp_path: Path) -> None:
    first = simulate("tissue", tmp_path / "first", SMALL["tissue"], 4)
    truth = first.card.truth
    second = simulate("tissue", tmp_path / "second", parameters(truth["simulator"], truth["parameters"]), truth["seed"])
    assert hashes(first.folder) == hashes(second.folder)


def test_streams_differ_by_every_name() -> None:
    draws = {float(stream(*names).random()) for names in [(0, "a"), (1, "a"), (0, "b"), (0, "a", 1), (0, "a", 2), (0, "a", 1, "b")]}
    assert len(draws) == 6
    assert stream(3, "a", 1).random() == stream(3, "a", 1).random()


def test_random_fields_have_the_spectrum_they_are_given() -> None:
    transfer = np.exp(-2 * (np.pi * 4 * radial_frequency(64)) ** 2)
    power = np.mean([np.abs(np.fft.rfft2(random_field(stream(0, "field", i), transfer, 64))) ** 2 for i in range(300)], axis=0)
    inside = (transfer > 0.2) & (radial_frequency(64) > 0)
    ratio = power[inside] / transfer[inside] ** 2
    assert np.abs(ratio / ratio.mean() - 1).max() < 0.4
    assert random_field(stream(0, "one"), transfer, 64).std() == pytest.approx(1)


@pytest.mark.parametrize("name", ["culture", "tissue"])
def test_the_page_explains_every_task_and_needs_no_other_file(name: str, tmp_path: Path) -> None:
    made = simulate(name, tmp_path / name, SMALL[name], 1)
    simulation_page(made, tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    for task in made.card.tasks:
        assert f"<h2>{task.name}: " in page
    sources = re.findall(r'src="([^"]{0,30})', page)
    assert len(sources) >= len(made.card.tasks) + 2
    assert all(source.startswith("data:image/png;base64,") for source in sources)
    assert "http" not in re.sub(r"base64,[A-Za-z0-9+/=]+", "", page)
    assert "`" not in page
    real = Benchmark(made.folder, replace(made.card, truth={}), made.index)
    with pytest.raises(BenchmarkError, match="planted truth"):
        simulation_page(real, tmp_path / "none.html")

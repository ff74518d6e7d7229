"""Simulated benchmarks: known truth on disk, written like any other benchmark. The same seed and parameters give the same bytes."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.benchmarks.card import BenchmarkCard
from pipelines.benchmarks.index import Benchmark, write_benchmark
from pipelines.params import parse
from registry.errors import BenchmarkError, NotFoundError, ParamsError

if TYPE_CHECKING:
    from pipelines.benchmarks.culture_design import CultureParameters
    from pipelines.benchmarks.tissue_design import TissueParameters


def simulate(name: str, out: Path, parameters: CultureParameters | TissueParameters, seed: int, workers: int = 1) -> Benchmark:
    """Simulate a benchmark into the folder `out`; which one, the type of `parameters` says.

    The images are drawn in a folder beside `out` that takes its name only when everything is there: a killed run
    leaves `out` as it was.

    Args:
        name: the benchmark's name.
        out: the folder to publish; a simulated benchmark that is there already is replaced.
        parameters: the simulator's settings.
        seed: names the random streams; not negative.
        workers: processes that draw; the bytes do not depend on it.

    Raises:
        BenchmarkError: `out` holds something that is not a simulated benchmark.
        ParamsError: `seed` is negative.
    """
    from pipelines.benchmarks.culture import draw_culture
    from pipelines.benchmarks.culture_design import CultureParameters
    from pipelines.benchmarks.tissue import draw_tissue

    if seed < 0:
        raise ParamsError(f"`{name}`: expected a seed of 0 or more, got {seed}.")
    _refuse_foreign(out)
    partial = out.with_name(f".{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    if isinstance(parameters, CultureParameters):
        drawn = draw_culture(name, partial, parameters, seed, workers)
    else:
        drawn = draw_tissue(name, partial, parameters, seed, workers)
    write_benchmark(partial, drawn.card, drawn.index, drawn.nuclei, drawn.expression)
    if out.exists():
        shutil.rmtree(out)
    partial.rename(out)
    return Benchmark.read(out)


def _refuse_foreign(out: Path) -> None:
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not (out / "card.json").is_file() or not BenchmarkCard.read(out).truth:
        raise BenchmarkError(f"`{out}`: expected an empty folder or a simulated benchmark to replace, got something else. Choose another folder.")


def parameters(simulator: str, values: dict[str, Any]) -> CultureParameters | TissueParameters:
    """Settings of a simulator from plain values, such as a section of `params.yaml`; what is left out keeps its default.

    Raises:
        NotFoundError: there is no such simulator.
        ParamsError: an unknown key (lists the known), or a value of the wrong type or out of range.
    """
    from pipelines.benchmarks.culture_design import CultureParameters
    from pipelines.benchmarks.tissue_design import TissueParameters

    kinds: dict[str, type[CultureParameters | TissueParameters]] = {"culture": CultureParameters, "tissue": TissueParameters}
    if simulator not in kinds:
        raise NotFoundError("simulator", simulator, kinds)
    return parse(kinds[simulator], values, f"parameters of {simulator}")

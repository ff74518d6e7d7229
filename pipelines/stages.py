"""The stages by name: each reads and writes files of one workspace (docs/architecture.md) and imports its module only when it runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from pipelines.params import Params
from pipelines.workspace import Workspace, limit_threads
from registry.errors import NotFoundError, ParamsError


def run(name: str, root: Path, *arguments: str) -> None:
    """Run one stage.

    Raises:
        NotFoundError: no such stage, benchmark, cell or encoder.
    """
    if name not in STAGES:
        raise NotFoundError("stage", name, STAGES)
    workspace = Workspace(root)
    params = workspace.params()
    limit_threads(params.threads)
    STAGES[name](workspace, params, *arguments)


def _simulate(workspace: Workspace, params: Params, benchmark: str) -> None:
    from pipelines.benchmarks import pictures, simulate

    if benchmark not in params.benchmarks:
        raise NotFoundError("simulated benchmark", benchmark, params.benchmarks)
    wanted = params.benchmarks[benchmark]
    made = simulate.simulate(
        benchmark, workspace.data(benchmark), simulate.parameters(wanted.simulator, wanted.parameters), wanted.seed, params.threads
    )
    pictures.simulation_page(made, workspace.root / "reports" / "simulators" / f"{benchmark}.html")


def _train(workspace: Workspace, params: Params, benchmark: str, encoder: str) -> None:
    from pipelines import train
    from pipelines.benchmarks.index import Benchmark

    key = f"{benchmark}--{encoder}"
    if key not in params.train:
        raise NotFoundError("network to train", key, params.train)
    wanted = params.train[key]
    card = next((c.card for c in params.cells_of(benchmark) if c.card is not None and c.card.name == encoder), None)
    if card is None:
        raise ParamsError(f"`train.{key}` has no cell. Add one to `cells` with the card of `{encoder}`.")
    train.train(
        Benchmark.read(workspace.data(benchmark)),
        card,
        wanted.method,
        wanted.settings,
        workspace.weights(benchmark, encoder),
        params.seed,
        params.threads,
    )


def _extract(workspace: Workspace, params: Params, benchmark: str, cell: str) -> None:
    from pipelines import extract
    from pipelines.benchmarks.index import Benchmark

    extract.extract_cell(Benchmark.read(workspace.data(benchmark)), params.cell(benchmark, cell), params, workspace)


def _evaluate(workspace: Workspace, params: Params, benchmark: str, cell: str) -> None:
    from pipelines import evaluate
    from pipelines.benchmarks.index import Benchmark

    params.cell(benchmark, cell)
    evaluate.evaluate_cell(
        Benchmark.read(workspace.data(benchmark)), workspace.embeddings(benchmark) / cell, params, workspace.scores(benchmark) / cell
    )


def _oracle(workspace: Workspace, params: Params, benchmark: str) -> None:
    from pipelines import evaluate
    from pipelines.benchmarks.index import Benchmark

    evaluate.evaluate_oracle(Benchmark.read(workspace.data(benchmark)), workspace.embeddings(benchmark), params, workspace.oracle(benchmark))


def _diagnose(workspace: Workspace, params: Params, benchmark: str) -> None:
    from pipelines import diagnose

    diagnose.diagnose(workspace, params, benchmark)


def _package(workspace: Workspace, params: Params, benchmark: str) -> None:
    from pipelines import package

    package.package(workspace, params, benchmark)


def _report(workspace: Workspace, params: Params) -> None:
    from pipelines import report

    report.write_report(workspace, params)


STAGES: dict[str, Callable[..., None]] = {
    "simulate": _simulate,
    "train": _train,
    "extract": _extract,
    "evaluate": _evaluate,
    "oracle": _oracle,
    "diagnose": _diagnose,
    "package": _package,
    "report": _report,
}

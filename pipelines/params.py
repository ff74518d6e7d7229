"""params.yaml as frozen dataclasses; a section is a stage, unknown keys are refused."""

from __future__ import annotations

import dataclasses
import types
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import yaml

from registry.errors import NotFoundError, ParamsError

T = TypeVar("T")


@dataclass(frozen=True)
class BenchmarkParams:
    """A simulated benchmark: which simulator, its seed and its parameters."""

    simulator: str
    seed: int
    parameters: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class EncoderParams:
    """The card of one encoder: the fields of `registry.cards.EncoderCard` that a person states.

    `weights` is "trained" (by this workspace's train stage), "random", "file:<path from the workspace>" or "hub:<timm tag>".
    """

    name: str
    summary: str
    architecture: str
    weights: str
    role: str = "encoder"
    channel_strategy: str = "native"
    input_px: int = 0
    mean: list[float] = field(default_factory=lambda: [0.5])
    std: list[float] = field(default_factory=lambda: [0.5])
    twins: list[str] = field(default_factory=list)
    licence: str = "Apache-2.0"
    citation: str = ""


@dataclass(frozen=True)
class TrainParams:
    """One network that is trained here."""

    benchmark: str
    encoder: str
    method: str
    settings: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class CellParams:
    """One pass over a benchmark's images, and the rows it makes."""

    benchmark: str
    cell: str
    rows: list[str]
    made_from: str
    card: EncoderParams | None = None


@dataclass(frozen=True)
class ExtractParams:
    """How images are turned into vectors."""

    device: str = "auto"
    precision: str = "float32"
    batch: int = 64
    shard: int = 512
    tolerate: int = 0
    twin_seeds: int = 10


@dataclass(frozen=True)
class EvaluateParams:
    """How vectors are scored; part of the `protocol_id`, or of the names, of what it is about.

    `recall` and `sphere_epsilon` are about known biology (`beside.knowledge.Rules`): the tails of all pairs in which a known relation counts as
    found, and what is added to singular values when profiles are sphered.
    """

    max_dim: int = 128
    neighbours: int = 15
    inner_folds: int = 3
    permutations: int = 200
    recall: list[float] = field(default_factory=lambda: [0.05, 0.95])
    sphere_epsilon: float = 1e-6

    def __post_init__(self) -> None:
        if len(self.recall) != 2 or not 0 < self.recall[0] < self.recall[1] < 1:
            raise ParamsError(f"Expected `recall` to be two shares with 0 < low < high < 1, got {self.recall}.")
        if not 0 <= self.sphere_epsilon < float("inf"):
            raise ParamsError(f"Expected `sphere_epsilon` to be at least 0, got {self.sphere_epsilon}.")


@dataclass(frozen=True)
class DiagnoseParams:
    """How scores become verdicts."""

    alpha: float = 0.025
    margin: float = 0.02
    common_dim: int = 64
    beyond: bool = True


@dataclass(frozen=True)
class GateParams:
    """What a promotion needs."""

    max_loss: float = 0.02


@dataclass(frozen=True)
class LadderParams:
    """The encoders of known quality that metrics are tried on.

    `rungs` are shares of the epochs, `noise` is the number of draws. `settings` are those of training by "<benchmark>--<method>"; where none are
    stated, those by which a network of the benchmark is trained under `train`.
    """

    seeds: int = 5
    rungs: list[float] = field(default_factory=lambda: [0.0, 0.1, 0.3, 1.0])
    noise: int = 5
    architecture: str = "cnn:small"
    settings: dict[str, dict[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class Params:
    """Everything in params.yaml."""

    seed: int
    threads: int
    cells: dict[str, CellParams]
    compare: list[str]
    benchmarks: dict[str, BenchmarkParams] = field(default_factory=dict)
    train: dict[str, TrainParams] = field(default_factory=dict)
    extract: ExtractParams = field(default_factory=ExtractParams)
    evaluate: EvaluateParams = field(default_factory=EvaluateParams)
    diagnose: DiagnoseParams = field(default_factory=DiagnoseParams)
    gate: GateParams = field(default_factory=GateParams)
    ladder: LadderParams = field(default_factory=LadderParams)

    @classmethod
    def read(cls, path: Path) -> Params:
        """Read and check a params.yaml.

        Raises:
            ParamsError: missing file, unknown key, wrong type, or a name that points nowhere.
        """
        if not path.is_file():
            raise ParamsError(f"Expected `{path.name}` in `{path.parent}`. Run from a workspace or pass --workspace.")
        params = parse(cls, yaml.safe_load(path.read_text(encoding="utf-8")), path.name)
        for key, cell in params.cells.items():
            if key != f"{cell.benchmark}--{cell.cell}":
                raise ParamsError(f"`cells.{key}` describes `{cell.benchmark}--{cell.cell}`. Name it so.")
            if cell.card is not None and cell.card.name not in cell.rows:
                raise ParamsError(f"`cells.{key}`: its card is of `{cell.card.name}`, which is not among its rows {cell.rows}.")
        return params

    def cell(self, benchmark: str, cell: str) -> CellParams:
        """One cell by its names."""
        key = f"{benchmark}--{cell}"
        if key not in self.cells:
            raise NotFoundError("cell", key, self.cells)
        return self.cells[key]

    def cells_of(self, benchmark: str) -> list[CellParams]:
        """All cells of a benchmark, in order."""
        found = [cell for cell in self.cells.values() if cell.benchmark == benchmark]
        if not found:
            raise NotFoundError("benchmark", benchmark, {cell.benchmark for cell in self.cells.values()})
        return found


def parse(kind: type[T], value: Any, where: str) -> T:
    """Build a dataclass from plain values; refuses unknown and missing keys and wrong types, naming the place.

    Raises:
        ParamsError: with the place as a dotted path.
    """
    if not isinstance(value, dict):
        raise ParamsError(f"`{where}`: expected keys and values, got {value!r}.")
    fields = {f.name: f for f in dataclasses.fields(kind)}  # type: ignore[arg-type]  # every caller passes a dataclass
    hints = typing.get_type_hints(kind)
    unknown = sorted(set(value) - set(fields))
    if unknown:
        raise ParamsError(f"`{where}`: unknown key {', '.join(f'`{u}`' for u in unknown)}. Known: {', '.join(fields)}.")
    missing = [
        name for name, f in fields.items() if name not in value and f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise ParamsError(f"`{where}`: lacks {', '.join(f'`{m}`' for m in missing)}.")
    return kind(**{name: _cast(hints[name], item, f"{where}: {name}") for name, item in value.items()})


def _cast(hint: Any, value: Any, where: str) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return parse(hint, value, where)
    if hint is Any:
        return value
    if origin in (typing.Union, types.UnionType):
        return None if value is None else _cast(next(a for a in arguments if a is not type(None)), value, where)
    if origin is dict and isinstance(value, dict):
        return {str(k): _cast(arguments[1], v, f"{where}.{k}") for k, v in value.items()}
    if origin is list and isinstance(value, list):
        return [_cast(arguments[0], v, where) for v in value]
    if origin is tuple and isinstance(value, (list, tuple)):
        return tuple(_cast(arguments[0], v, where) for v in value)
    if hint is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    if isinstance(hint, type) and isinstance(value, hint) and not (hint is int and isinstance(value, bool)):
        return value
    name = getattr(hint, "__name__", str(hint))
    raise ParamsError(f"`{where}`: expected {name}, got {value!r}.")

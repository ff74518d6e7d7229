"""Encoders that come as tables of vectors: import them, give them controls, score, compare, register.

The workspace is like that of a study: repeating the command repeats no work, and a further table of the same profiles (or of a
benchmark's images) adds one encoder.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import yaml

from pipelines.benchmarks.annotations import METADATA
from pipelines.benchmarks.card import check_name
from pipelines.benchmarks.index import Benchmark
from pipelines.benchmarks.options import ImportOptions
from pipelines.benchmarks.profiles import Profiles, annotated, make_benchmark, read_profiles, vectors, write_table
from pipelines.benchmarks.publishing import track, track_again
from pipelines.params import CellParams, EncoderParams, Params
from pipelines.study import asdict_without_none
from pipelines.workspace_files import CODE, dvc, make_workspace, write_flow
from registry.arrays import Embedding
from registry.cards import TABLE
from registry.errors import BenchmarkError, ParamsError


@dataclass(frozen=True)
class TableEncoder:
    """An encoder as its tables.

    Attributes:
        name: of its row.
        tables: files, one below the other.
        features: patterns of the columns that are the vector; (): every numeric column.
        controls: (name, patterns): further rows, negative controls made of the same table's columns (counts, intensities).
        untrained: tables of untrained draws of the encoder, one file each; () if there are none.
        annotations: (file, "COLUMN" or "COLUMN=ITS_COLUMN"): tables whose columns are joined.
        obsm: of AnnData, the array that is the vector.
        image_id: column of the unique id.
        drop_incomplete: leave out columns with missing values.
        licence: of the encoder.
        citation: how to cite it.
    """

    name: str
    tables: tuple[Path, ...]
    features: tuple[str, ...] = ()
    controls: tuple[tuple[str, tuple[str, ...]], ...] = ()
    untrained: tuple[Path, ...] = ()
    annotations: tuple[tuple[Path, str], ...] = ()
    obsm: str | None = None
    image_id: str | None = None
    drop_incomplete: bool = False
    licence: str = "not stated"
    citation: str = ""


def study_profiles(root: Path, benchmark: str, encoder: TableEncoder, options: ImportOptions, threads: int) -> Benchmark:
    """Import an encoder's tables into the workspace `root` and run the whole flow on them.

    Args:
        root: the workspace.
        benchmark: its name: a new one, or one that is there and gets a further encoder.
        encoder: the tables.
        options: of a new benchmark: labels, unit, ...
        threads: for every stage.

    Raises:
        BenchmarkError: a table cannot be used, lacks images of the benchmark, or a stage failed.
        ParamsError: the options contradict each other, or the workspace's parameters are written by hand.
    """
    check_name(benchmark)
    profiles = read(encoder, options)
    make_workspace(root)
    made = _benchmark(root, benchmark, profiles, options)
    cells = write_rows(root, made, encoder, profiles)
    if root.resolve() == CODE:
        raise ParamsError(f"The parameters of this workspace are written by hand. Its tables are ready; add to params.yaml:\n{snippet(cells)}")
    write_flow(root, asdict_without_none(with_cells(root, made, cells, threads)))
    dvc(root, "repro")
    return made


def read(encoder: TableEncoder, options: ImportOptions) -> Profiles:
    """The encoder's tables, annotated.

    Raises:
        BenchmarkError: they cannot be used.
    """
    about = {*options.labels, *(c for c, _ in options.where), *(on.partition("=")[0] for _, on in encoder.annotations)}
    about |= {str(c) for c in (options.unit, *(getattr(options, name) for name in METADATA)) if c}
    about |= {c for c, _ in (*options.multilabels, *([options.negcon] if options.negcon else []))}
    profiles = read_profiles(encoder.tables, about, encoder.obsm, encoder.image_id, encoder.drop_incomplete)
    for path, on in encoder.annotations:
        profiles = annotated(profiles, path, on)
    return profiles


def _benchmark(root: Path, name: str, profiles: Profiles, options: ImportOptions) -> Benchmark:
    out = root / "data" / name
    if (out / "card.json").is_file() and not options.replace:
        there = Benchmark.read(out)
        if options.expression is not None and there.expression is None:
            raise ParamsError(f"`{name}` is there without expression, and a further encoder changes no benchmark. Import it again with `--replace`.")
        if options.labels:
            stated = {t.name for t in there.card.tasks}
            print(f"[profiles] `{name}` is there, with the tasks {', '.join(sorted(stated))}: this adds an encoder to it", flush=True)
        if root.resolve() != CODE:
            track_again(out)
        return there
    made = make_benchmark(profiles, name, out, options)
    track(out)
    return made


def write_rows(root: Path, benchmark: Benchmark, encoder: TableEncoder, profiles: Profiles) -> dict[str, CellParams]:
    """Publish the vectors of the encoder, its controls and its untrained draws under `tables/`; returns their cells."""
    name = benchmark.card.name
    taken = {encoder.name, *(control for control, _ in encoder.controls)}
    if len(taken) <= len(encoder.controls):
        raise ParamsError(f"Expected every row to have a name of its own, got `{encoder.name}` and {[c for c, _ in encoder.controls]}.")
    own = profiles.chosen(encoder.features or ("*",), f"the vector of `{encoder.name}`")
    names = list(own.columns)
    twin = f"untrained-{encoder.name}"
    cells = [
        _cell(root, benchmark, _card(encoder, len(names), (twin,) if encoder.untrained else ()), names, {"main": vectors(profiles, own, benchmark)}),
        *(_control(root, benchmark, control, patterns, profiles) for control, patterns in encoder.controls),
    ]
    if encoder.untrained:
        members = {f"fresh-{k:02d}": _draw(path, encoder, names, benchmark) for k, path in enumerate(encoder.untrained)}
        summary = f"`{encoder.name}` untrained: tables of {len(members)} draws"
        card = EncoderParams(twin, summary, TABLE, "", role="twin")
        cells.append(_cell(root, benchmark, card, names, members))
    print(f"[profiles] {name}/{encoder.name}: {len(benchmark.index)} vectors of {len(names)} columns, `{names[0]}` to `{names[-1]}`", flush=True)
    return {f"{name}--{cell.cell}": cell for cell in cells}


def _card(encoder: TableEncoder, columns: int, twins: tuple[str, ...]) -> EncoderParams:
    files = ", ".join(f"`{path.name}`" for path in encoder.tables)
    return EncoderParams(
        name=encoder.name,
        summary=f"vectors of {columns} columns, made elsewhere, from {files}",
        architecture=TABLE,
        weights="",
        twins=list(twins),
        licence=encoder.licence,
        citation=encoder.citation,
    )


def _control(root: Path, benchmark: Benchmark, name: str, patterns: tuple[str, ...], profiles: Profiles) -> CellParams:
    chosen = profiles.chosen(patterns, f"the control `{name}`", about=True)
    columns = list(chosen.columns)
    shown = ", ".join(f"`{c}`" for c in columns[:4]) + (f" and {len(columns) - 4} more" if len(columns) > 4 else "")
    card = EncoderParams(name=name, summary=f"a control made of columns of the table: {shown}", architecture=TABLE, weights="", role="negative")
    return _cell(root, benchmark, card, columns, {"main": vectors(profiles, chosen, benchmark)})


def _draw(path: Path, encoder: TableEncoder, columns: list[str], benchmark: Benchmark) -> Embedding:
    table = read_profiles([path], (), encoder.obsm, encoder.image_id)
    missing = [c for c in columns if c not in table.values.columns]
    if missing:
        raise BenchmarkError(f"`{path.name}`: expected the columns of `{encoder.name}`; it lacks {len(missing)} (first: `{missing[0]}`).")
    return vectors(table, table.values[columns], benchmark)


def _weights(benchmark: str, row: str) -> str:
    return f"tables/{benchmark}/{row}.npz"


def _cell(root: Path, benchmark: Benchmark, card: EncoderParams, columns: list[str], members: dict[str, Embedding]) -> CellParams:
    path = _weights(benchmark.card.name, card.name)
    write_table(root / path, benchmark, columns, members)
    return CellParams(benchmark.card.name, card.name, [card.name], path, replace(card, weights=f"file:{path}"))


def snippet(cells: dict[str, CellParams]) -> str:
    """Cells as they stand in params.yaml."""
    text: str = yaml.safe_dump({"cells": asdict_without_none(Params(0, 1, cells, []))["cells"]}, sort_keys=False, width=140)
    return text


def with_cells(root: Path, benchmark: Benchmark, cells: dict[str, CellParams], threads: int) -> Params:
    """The workspace's parameters with these cells, and the panel of controls of a benchmark that had none."""
    from registry.controls.catalogue import control_names

    name = benchmark.card.name
    before = Params.read(root / "params.yaml") if (root / "params.yaml").is_file() else Params(0, threads, {}, [])
    panel = CellParams(name, "controls", list(control_names()), str(CODE / "registry" / "controls"))
    compare = [*before.compare, *([] if name in before.compare else [name])]
    return replace(before, cells={f"{name}--controls": panel} | before.cells | cells, compare=compare)

"""A pretrained encoder, its twins and every control on each data set of a folder: import, extract, score, compare, register.

A study is a workspace of its own with the same flow as the embedded experiment, so that repeating it repeats no work and
adding a data set computes that data set only.
"""

from __future__ import annotations

import shutil
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from pipelines.benchmarks.card import BenchmarkCard
from pipelines.benchmarks.importer import import_folder
from pipelines.benchmarks.publishing import track, track_again
from pipelines.benchmarks.recipes import Recipe, find_datasets
from pipelines.params import CellParams, EncoderParams, EvaluateParams, ExtractParams, Params
from pipelines.workspace_files import CODE, dvc, make_workspace, write_flow
from registry.errors import BenchmarkError, InputError, ParamsError
from registry.files import published

PACKAGE = "registry"


@dataclass(frozen=True)
class StudiedEncoder:
    """The encoder on trial.

    Attributes:
        name: of its rows.
        architecture: "timm:<tag>" with options.
        weights: the weights' file; None for the hub.
        input_px: side of the square it sees; its twins see the same.
        mean: what is subtracted from intensities scaled to 0..1, one value or one per channel of the backbone; () for what timm
            states with weights from the hub, and 0.5 with weights from a file.
        std: what they are then divided by; () likewise.
    """

    name: str
    architecture: str
    weights: Path | None
    input_px: int
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()


def study(
    root: Path, folder: Path, recipes: Path | None, encoder: StudiedEncoder, only: list[str], extract: ExtractParams, threads: int
) -> list[str]:
    """Import every data set of `folder` into the workspace `root` and run the whole flow on them.

    A data set that cannot be imported is named with its reason and does not stop the others.

    Returns:
        The benchmarks that were compared.

    Raises:
        BenchmarkError: no data set could be imported, or a stage failed.
        ParamsError: `only` names a data set that is not there.
    """
    found = find_datasets(folder, recipes)
    unknown = sorted(set(only) - {recipe.name for recipe in found})
    if unknown:
        known = ", ".join(recipe.name for recipe in found)
        raise ParamsError(f"There is no data set {', '.join(f'`{u}`' for u in unknown)} in `{folder}`. There are: {known}.")
    wanted = [recipe for recipe in found if not only or recipe.name in only]
    make_workspace(root)
    keep_weights(root, encoder)
    benchmarks = [name for recipe in wanted if (name := import_one(root, recipe)) is not None]
    if not benchmarks:
        raise BenchmarkError(f"No data set of `{folder}` could be imported; the reasons are above.")
    write_flow(root, asdict_without_none(study_params(root, benchmarks, encoder, extract, threads)))
    dvc(root, "repro")
    return benchmarks


def import_one(root: Path, recipe: Recipe) -> str | None:
    """Import one data set unless the workspace has it already; None where it is skipped or cannot be imported (said)."""
    out = root / "data" / recipe.name
    if recipe.skipped:
        print(f"[study] {recipe.name}: skipped. {recipe.skipped}", flush=True)
        return None
    if (out / "card.json").is_file():
        print(f"[study] {recipe.name}: already imported", flush=True)
        track_again(out)
        return recipe.name
    for note in recipe.notes:
        print(f"[study] {recipe.name}: {note}", flush=True)
    try:
        import_folder(recipe.folder, recipe.name, out, recipe.options, recipe.notes)
    except InputError as error:
        print(f"[study] {recipe.name}: not imported. {error}", flush=True)
        return None
    track(out)
    return recipe.name


def keep_weights(root: Path, encoder: StudiedEncoder) -> None:
    """Copy the weights into the workspace, so that it stays whole when the original moves."""
    if encoder.weights is None:
        return
    if not encoder.weights.is_file():
        raise ParamsError(f"Expected the weights of `{encoder.name}` at `{encoder.weights}`; there is no such file.")
    kept = root / weights_path(encoder)
    kept.parent.mkdir(parents=True, exist_ok=True)
    if not kept.is_file() or kept.read_bytes() != encoder.weights.read_bytes():
        with published(kept) as temporary:
            shutil.copyfile(encoder.weights, temporary)


def weights_path(encoder: StudiedEncoder) -> str:
    """Where the weights lie, from the workspace."""
    return f"weights/{encoder.weights.name}" if encoder.weights else ""


def study_params(root: Path, benchmarks: list[str], encoder: StudiedEncoder, extract: ExtractParams, threads: int) -> Params:
    """Parameters of the workspace: three cells per benchmark (controls, untrained twins, the encoder with its shuffled twin)."""
    from registry.controls.catalogue import control_names

    cells: dict[str, CellParams] = {}
    for benchmark in benchmarks:
        channels = len(BenchmarkCard.read(root / "data" / benchmark).image.channels)
        card = encoder_params(encoder, "native" if channels == 3 else "each")
        twin = untrained_params(card)
        controls, networks = str(CODE / PACKAGE / "controls"), str(CODE / PACKAGE / "encoders")
        for cell in (
            CellParams(benchmark, "controls", list(control_names()), controls),
            CellParams(benchmark, "untrained", [twin.name], networks, twin),
            CellParams(benchmark, "encoder", [card.name, f"shuffled-{card.name}"], weights_path(encoder) or networks, card),
        ):
            cells[f"{benchmark}--{cell.cell}"] = cell
    return Params(seed=0, threads=threads, cells=cells, compare=benchmarks, extract=extract, evaluate=EvaluateParams())


def encoder_params(encoder: StudiedEncoder, strategy: str) -> EncoderParams:
    """The card of the encoder on benchmarks with that channel strategy."""
    from registry.encoders.architecture import Architecture

    architecture = Architecture.parse(encoder.architecture)
    # weights are used with the normalisation they were trained with
    mean, std = ((0.5,), (0.5,)) if encoder.weights else architecture.normalisation()
    return EncoderParams(
        name=encoder.name,
        summary=f"`{encoder.architecture}` with pretrained weights",
        architecture=encoder.architecture,
        weights=f"file:{weights_path(encoder)}" if encoder.weights else f"hub:{architecture.tag}",
        channel_strategy=strategy,
        input_px=encoder.input_px,
        mean=list(encoder.mean or mean),
        std=list(encoder.std or std),
        twins=[f"untrained-{architecture.label}", f"shuffled-{encoder.name}"],
        licence="as stated with the weights",
    )


def untrained_params(card: EncoderParams) -> EncoderParams:
    """The card of its untrained twin: same architecture, preprocessing and pooling."""
    return replace(
        card,
        name=card.twins[0],
        role="twin",
        summary=f"`{card.architecture}` as initialised, never trained; its BatchNorm as initialised and calibrated",
        weights="random",
        twins=[],
        licence="Apache-2.0",
    )


def asdict_without_none(params: Params) -> dict[str, Any]:
    """Plain values for YAML; a field that is None is left out."""

    def clean(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: clean(v) for k, v in value.items() if v is not None}
        return [clean(v) for v in value] if isinstance(value, list) else value

    cleaned: dict[str, Any] = clean(asdict(params))
    return cleaned

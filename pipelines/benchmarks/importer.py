"""A folder of images becomes a benchmark: index, card and checked copies of the images."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipelines.benchmarks.annotations import control_rows, metadata, settle_units
from pipelines.benchmarks.card import BenchmarkCard, Task, check_name
from pipelines.benchmarks.consensus import Consensus, settle
from pipelines.benchmarks.duplicates import copy_notes, exact_copies, near_copies, overlap_notes, overlapping_crops
from pipelines.benchmarks.expression import read_expression
from pipelines.benchmarks.index import Benchmark, write_benchmark
from pipelines.benchmarks.known import known_tables, label_columns
from pipelines.benchmarks.manifests import CLASS, Manifest
from pipelines.benchmarks.nuclei import NucleiTable, convert_nuclei
from pipelines.benchmarks.objects import crop_side, object_sides, read_mask
from pipelines.benchmarks.options import ImportOptions
from pipelines.benchmarks.preparing import Bad, Crops, Preparation, Say, prepare
from pipelines.benchmarks.publishing import published_folder
from pipelines.benchmarks.questions import ask
from pipelines.benchmarks.reading import inside, located, read_manifest, select
from pipelines.benchmarks.tables import ImageFiles, read_table, require
from registry.errors import BenchmarkError
from registry.images import conform, read_channels


def import_folder(folder: Path, name: str, out: Path, options: ImportOptions, notes: tuple[str, ...] = (), say: Say = print) -> Benchmark:
    """Import a folder of images as a benchmark.

    1. Read the table, the pattern or the class folders; select rows; check what is stated about them. 2. Decode, check and hash every image
    once; name each bad one. 3. Settle channels, dtype, size and intensities; apply the rule for rare labels; split by unit (5 folds, or one
    per unit under 5). 4. Look for copies, near copies and overlapping crops in different folds. 5. Publish images, index, nuclei and card
    together: everything is prepared in a folder beside `out` and renamed into place, so that an import that fails or is killed leaves nothing
    that could be taken for a benchmark, and an existing one as it was.

    Args:
        folder: where the images are; never changed.
        name: of the benchmark.
        out: the benchmark's folder, created here.
        options: what is known about the folder.
        notes: further sentences for the card.
        say: receives progress and warnings, a line at a time.

    Raises:
        BenchmarkError: the folder, table, labels or units cannot be used, or more images are bad than are tolerated.
        ParamsError: the options contradict each other.
    """
    check_name(name)
    if out.exists() and not options.replace:
        raise BenchmarkError(f"`{out}` already exists. Choose another name, or overwrite it with `--replace`.")
    manifest = select(read_manifest(folder, options), options)
    labels = options.labels or (CLASS,)
    for column in labels:
        require(manifest.rows, column, "labels")
    if isinstance(options.folds, str):
        require(manifest.rows, options.folds, "folds")
    if options.patches:
        patch_places(manifest.rows, options.patches)
    settle_units(manifest.rows, options.unit, manifest.rows["image_id"], control_rows(manifest.rows, options))
    options = replace(
        options, relations=tuple(located(t, folder) for t in options.relations), targets=options.targets and located(options.targets, folder)
    )
    label_columns(manifest.rows, options.multilabels)
    known_tables(metadata(manifest.rows, options), options)
    say(f"`{name}`: {len(manifest.rows)} images of `{folder}`, labelled by {', '.join(f'`{c}`' for c in labels)}.")
    with published_folder(out) as staging:
        try:
            benchmark = _build(folder, name, staging, manifest, labels, options, notes, say)
        except OSError as error:
            raise BenchmarkError(
                f"The images could not be written beside `{out}` ({error.strerror or error}). Make room there, then import again."
            ) from error
    for note in benchmark.card.notes:
        say(f"`{name}`: {note}")
    return Benchmark.read(out)


def _build(
    folder: Path, name: str, staging: Path, manifest: Manifest, labels: tuple[str, ...], options: ImportOptions, notes: tuple[str, ...], say: Say
) -> Benchmark:
    crops = _crops(manifest, folder, options)
    prepared = prepare(manifest, staging, options.workers, crops)
    common = _usable(prepared, manifest, options, say)
    _discard_unused(staging, common)
    index, tasks, remarks = _annotate(manifest, common, labels, options)
    copies = _copies(staging, index, manifest, common, crops, options)
    nuclei = _nuclei(folder, index, common, options)
    expression = read_expression(located(options.expression, folder), index["image_id"].tolist()) if options.expression else None
    known, about = known_tables(index, options)
    bad = len(prepared.bad) + len(common.bad)
    card = BenchmarkCard(
        name=name,
        title=options.title or name,
        modality=options.modality,
        image=common.spec,
        unit=str(options.unit),
        tasks=tasks,
        licence=options.licence,
        citation=options.citation,
        source=options.source,
        notes=(
            *notes,
            *remarks,
            *about,
            *copies,
            *([f"{bad} images could not be used and were left out."] if bad else []),
            *([f"Objects were cut out as squares of {crops.side} pixels around their centre."] if crops else []),
            *manifest.notes,
            *common.notes,
            *(nuclei.notes if nuclei else ()),
            *(expression.notes if expression else ()),
        ),
    )
    counts = expression.table if expression else None
    return write_benchmark(staging, card, index, nuclei.table if nuclei else None, counts, known)


def _crops(manifest: Manifest, folder: Path, options: ImportOptions) -> Crops | None:
    if options.mask is None or options.object is None:
        return None
    files = ImageFiles.scan(folder)
    beside = inside(options.table, folder).rpartition("/")[0] if options.table else ""
    masks = tuple(files.resolve(value, beside) for value in require(manifest.rows, options.mask, "mask"))
    numbers = tuple(manifest.rows[options.object].astype(str))
    return Crops(masks, numbers, options.crop or _side(masks))


def _side(masks: tuple[Path | None, ...]) -> int:
    paths = sorted({path for path in masks if path is not None})
    if not paths:
        raise BenchmarkError("None of the mask files was found. Expected paths from the folder or from the table's folder.")
    return crop_side([side for path in paths for side in object_sides(read_mask(path))])


def _usable(prepared: Preparation, manifest: Manifest, options: ImportOptions, say: Say) -> Consensus:
    """Settle what the images have in common; name every bad image, and give up if they are more than is tolerated."""
    common = None
    if prepared.images:
        channels = options.channels or manifest.channels
        common = settle(prepared.images, prepared.intensities, channels, options.pixel_size_um)
    bad = [*prepared.bad, *(common.bad if common else [])]
    for one in bad:
        say(f"unusable: `{manifest.rows['image_id'].iloc[one.rows[0]]}`{f' and {len(one.rows) - 1} more' if len(one.rows) > 1 else ''}: {one.reason}")
    if common is None or len(bad) > options.tolerate:
        raise BenchmarkError(_refusal(bad, manifest, options.tolerate))
    return common


def _refusal(bad: list[Bad], manifest: Manifest, tolerated: int) -> str:
    listed = "".join(f"\n  {manifest.rows['image_id'].iloc[one.rows[0]]}: {one.reason}" for one in bad[:50])
    more = f"\n  and {len(bad) - 50} more" if len(bad) > 50 else ""
    return (
        f"{len(bad)} of {len(manifest.rows)} images cannot be used, {tolerated} are tolerated. Repair them, take them out of the table, or leave"
        f" them out with `--tolerate {len(bad)}`:{listed}{more}"
    )


def _discard_unused(staging: Path, common: Consensus) -> None:
    """Take the files of images that are left out away again."""
    used = {staging / path for image in common.images for path in image.paths}
    for path in (staging / "images").rglob("*"):
        if path.is_file() and path not in used:
            path.unlink()


def _annotate(
    manifest: Manifest, common: Consensus, labels: tuple[str, ...], options: ImportOptions
) -> tuple[pd.DataFrame, tuple[Task, ...], list[str]]:
    """The index, its tasks and what must be said about labels, units and split."""
    rows = manifest.rows.iloc[[image.row for image in common.images]].reset_index(drop=True)
    same_pixels = pd.Series([image.pixel_sha256 for image in common.images])
    units = settle_units(rows, options.unit, _image_units(rows, manifest, common, same_pixels, options), control_rows(rows, options))
    asked = ask(rows, units, labels, options)
    index = asked.index
    index.insert(1, "path", [";".join(image.paths) for image in common.images])
    index["sha256"] = [image.sha256 for image in common.images]
    return index, asked.tasks, list(asked.notes)


def _image_units(rows: pd.DataFrame, manifest: Manifest, common: Consensus, same_pixels: pd.Series, options: ImportOptions) -> pd.Series:
    if options.object is None:
        return rows["image_id"].groupby(same_pixels).transform("min")
    return pd.Series([str(manifest.files[image.row][0]).rpartition("/")[2] for image in common.images])


def _copies(staging: Path, index: pd.DataFrame, manifest: Manifest, common: Consensus, crops: Crops | None, options: ImportOptions) -> list[str]:
    """What must be said about pictures that lie on both sides of a split."""
    hashes, folds, ids = [image.pixel_sha256 for image in common.images], index["fold"].to_numpy(np.int64), index["image_id"].tolist()

    def read(i: int) -> NDArray[np.float32]:
        return conform(read_channels([staging / path for path in common.images[i].paths], common.spec.channels), common.spec)

    near = near_copies(np.stack([image.thumbnail for image in common.images]), folds, hashes, read)
    return [*copy_notes(exact_copies(hashes, folds), near, hashes, ids), *_overlaps(index, manifest, common, crops, options)]


def _overlaps(index: pd.DataFrame, manifest: Manifest, common: Consensus, crops: Crops | None, options: ImportOptions) -> list[str]:
    sources: Sequence[Hashable]
    corners: Sequence[tuple[float, float]]
    if crops is not None:
        sources = [manifest.files[image.row] for image in common.images]
        corners = [image.corner or (0, 0) for image in common.images]
        sides = [(crops.side, crops.side)] * len(corners)
    elif options.patches:
        slides, places = patch_places(manifest.rows, options.patches)
        sources, corners = [slides[image.row] for image in common.images], [places[image.row] for image in common.images]
        sides = [image.shape[1:] for image in common.images]
    else:
        return []
    units = np.unique(index["unit"].astype(str), return_inverse=True)[1]
    return overlap_notes(overlapping_crops(sources, corners, sides, units), index["fold"].to_numpy(np.int64), index["image_id"].tolist())


def patch_places(rows: pd.DataFrame, patches: tuple[str, ...]) -> tuple[list[str], list[tuple[float, float]]]:
    """What each image was cut from and (y, x) of its first pixel there.

    Args:
        rows: of the table.
        patches: columns of the larger image, y and x.

    Raises:
        BenchmarkError: no such column, or a place that is missing or no number.
    """
    slides, *axes = (require(rows, column, "patches") for column in patches)
    values = [pd.to_numeric(axis, errors="coerce").to_numpy(np.float64) for axis in axes]
    bad = np.flatnonzero(slides.isna().to_numpy() | ~np.isfinite(values).all(axis=0))
    if len(bad):
        raise BenchmarkError(
            f"{len(bad)} of {len(rows)} images have no larger image or no place in it (`{'`, `'.join(patches)}`), the first is"
            f" `{rows['image_id'].iloc[bad[0]]}`. Expected pixels, as numbers. Fill them in, or leave out `--patches`."
        )
    return slides.astype(str).tolist(), list(zip(*(axis.tolist() for axis in values), strict=True))


def _nuclei(folder: Path, index: pd.DataFrame, common: Consensus, options: ImportOptions) -> NucleiTable | None:
    if options.nuclei is None:
        return None
    sizes = pd.DataFrame([image.shape[1:] for image in common.images], columns=["height", "width"], index=index["image_id"])
    return convert_nuclei(read_table(located(options.nuclei, folder)), sizes, common.spec.shape[1:], common.spec.pixel_size_um)

"""Every image decoded once: checked, hashed, measured and brought into the benchmark's folder."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from pipelines.benchmarks.duplicates import Thumbnail, thumbnail
from pipelines.benchmarks.intensities import Intensities
from pipelines.benchmarks.manifests import Manifest
from pipelines.benchmarks.objects import centroids, corner, crop, read_mask
from pipelines.benchmarks.tables import IMAGE_SUFFIXES
from registry.arrays import Ints, Pixels
from registry.errors import ImageError
from registry.files import sha256_of_bytes, sha256_of_file
from registry.images import Image, read_channels

Say = Callable[[str], None]


@dataclass(frozen=True)
class Prepared:
    """One image that can be used.

    Attributes:
        row: its row of the manifest.
        paths: where it now lies, relative to the benchmark's folder; several where one file holds one channel.
        shape: (c, y, x).
        dtype: as stored.
        channels: names the file carries, else ().
        pixel_size_um: as the file says, else None.
        sha256: of the file; of the files' hashes, one per line, where there are several.
        pixel_sha256: of the pixels, so that copies are found whatever their files' metadata say.
        thumbnail: what near copies are found by.
        corner: (y, x) in the image that an object was cut from of the first pixel of its square; None for a whole image.
    """

    row: int
    paths: tuple[str, ...]
    shape: tuple[int, int, int]
    dtype: str
    channels: tuple[str, ...]
    pixel_size_um: float | None
    sha256: str
    pixel_sha256: str
    thumbnail: Thumbnail = field(repr=False, compare=False)
    corner: tuple[int, int] | None = None


@dataclass(frozen=True)
class Bad:
    """One image that cannot be used: the rows it takes with it, and why."""

    rows: tuple[int, ...]
    reason: str


@dataclass
class Preparation:
    """What came of it: images in the order of the manifest, bad ones, and how bright they are."""

    images: list[Prepared] = field(default_factory=list)
    bad: list[Bad] = field(default_factory=list)
    intensities: Intensities = field(default_factory=Intensities)


@dataclass(frozen=True)
class _Job:
    """One image file (or one per channel) and the rows that are made of it."""

    files: tuple[Path | None, ...]
    rows: tuple[int, ...]
    names: tuple[str, ...]
    mask: Path | None = None
    objects: tuple[str, ...] = ()


@dataclass(frozen=True)
class Crops:
    """How objects are cut out: the mask file and object number of every row, and the side of the squares in pixels."""

    masks: tuple[Path | None, ...]
    objects: tuple[str, ...]
    side: int


def prepare(manifest: Manifest, folder: Path, workers: int, crops: Crops | None = None) -> Preparation:
    """Decode every image once with a pool of threads and put it under `folder/images`.

    Files are hard-linked where the file system allows and copied elsewhere, never moved; objects are written as TIFF. Memory does
    not grow with the number of images beyond these records (2 KB each). Progress goes to standard error, with images/s and the time left.
    """
    from tqdm import tqdm

    names = _target_names([str(v) for v in manifest.rows["image_id"]])
    jobs = _jobs(manifest, names, crops)
    result = Preparation()

    def work(job: _Job) -> list[Prepared | Bad]:
        return _prepare(job, folder, manifest.channels, crops.side if crops else 0, result.intensities)

    pool = ThreadPoolExecutor(workers)
    try:
        with tqdm(total=len(manifest.rows), unit="image", desc="checking images", mininterval=1.0) as bar:
            for job, outcome in zip(jobs, pool.map(work, jobs), strict=True):
                result.images += [o for o in outcome if isinstance(o, Prepared)]
                result.bad += [o for o in outcome if isinstance(o, Bad)]
                bar.update(len(job.rows))
    finally:
        # on a full disk or an interrupt, the images that wait are not worth waiting for
        pool.shutdown(cancel_futures=True)
    result.images.sort(key=lambda image: image.row)
    return result


def _jobs(manifest: Manifest, names: list[str], crops: Crops | None) -> list[_Job]:
    if crops is None:
        return [_Job(files, (row,), (names[row],)) for row, files in enumerate(manifest.files)]
    rows_of: dict[tuple[tuple[Path | None, ...], Path | None], list[int]] = {}
    for row, files in enumerate(manifest.files):
        rows_of.setdefault((files, crops.masks[row]), []).append(row)
    return [
        _Job(files, tuple(rows), tuple(names[row] for row in rows), mask, tuple(crops.objects[row] for row in rows))
        for (files, mask), rows in rows_of.items()
    ]


def _prepare(job: _Job, folder: Path, channels: tuple[str, ...], side: int, intensities: Intensities) -> list[Prepared | Bad]:
    try:
        files = _found(job.files, channels)
        image = read_channels(files, channels)
        if not job.objects:
            intensities.add(image.pixels, image.channel_names)
            paths = _place(files, folder, job.names[0], channels)
            return [_record(job.rows[0], paths, image, [sha256_of_file(folder / path) for path in paths])]
        if job.mask is None:
            raise ImageError(f"`{image.source}`: its mask was not found.")
        mask = read_mask(job.mask, (image.pixels.shape[1], image.pixels.shape[2]))
    except ImageError as error:
        return [Bad(job.rows, str(error))]
    return _cut(job, image, mask, folder, side, intensities)


def _found(files: tuple[Path | None, ...], channels: tuple[str, ...]) -> list[Path]:
    for number, path in enumerate(files):
        if path is None:
            raise ImageError(f"the file of {f'channel `{channels[number]}`' if channels else 'the image'} was not found.")
    return [path for path in files if path is not None]


def _cut(job: _Job, image: Image, mask: Ints, folder: Path, side: int, intensities: Intensities) -> list[Prepared | Bad]:
    centres = centroids(mask)
    outcome: list[Prepared | Bad] = []
    for row, name, number in zip(job.rows, job.names, job.objects, strict=True):
        try:
            centre = centres.get(int(number)) if number.isdigit() else None
            if centre is None:
                raise ImageError(f"`{job.mask}` has no object `{number}`.")
            cut = Image(crop(image.pixels, centre, side), image.channel_names, image.pixel_size_um, f"{image.source}, object {number}")
        except ImageError as error:
            outcome.append(Bad((row,), str(error)))
            continue
        intensities.add(cut.pixels, cut.channel_names)
        path = f"images/{name}.tif"
        outcome.append(_record(row, (path,), cut, [_write_tiff(folder / path, cut.pixels)], corner(centre, side)))
    return outcome


def _record(row: int, paths: tuple[str, ...], image: Image, hashes: list[str], cut_at: tuple[int, int] | None = None) -> Prepared:
    channels, height, width = image.pixels.shape
    identity = f"{image.pixels.dtype}{image.pixels.shape}".encode() + np.ascontiguousarray(image.pixels).tobytes()
    return Prepared(
        row,
        paths,
        (channels, height, width),
        image.pixels.dtype.name,
        image.channel_names,
        image.pixel_size_um,
        hashes[0] if len(hashes) == 1 else sha256_of_bytes("\n".join(hashes).encode()),
        sha256_of_bytes(identity),
        thumbnail(image.pixels),
        cut_at,
    )


def _place(files: list[Path], folder: Path, name: str, channels: tuple[str, ...]) -> tuple[str, ...]:
    paths = []
    for number, source in enumerate(files):
        suffix = next(s for s in IMAGE_SUFFIXES if source.name.lower().endswith(s))
        path = f"images/{name}{f'_{_safe(channels[number])}' if channels else ''}{suffix}"
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(source.resolve(), target)
        except OSError:
            shutil.copyfile(source, target)
        paths.append(path)
    return tuple(paths)


def _write_tiff(path: Path, pixels: Pixels) -> str:
    import tifffile

    path.parent.mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(path, pixels, photometric="minisblack")
    return sha256_of_file(path)


def _safe(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]", "_", text)


def _target_names(ids: list[str]) -> list[str]:
    """File names for image ids: nothing but letters, digits, `. _ - /`; where that or letter case makes two alike, a hash of the id is added."""
    parts = [[_safe(part) for part in name.split("/")] for name in ids]
    plain = ["/".join(f"_{p}" if p.strip(".") == "" else p for p in pieces) for pieces in parts]
    folded = _repeated([name.lower() for name in plain])
    return [f"{name}-{sha256_of_bytes(original.encode())[:8]}" if name.lower() in folded else name for name, original in zip(plain, ids, strict=True)]


def _repeated(names: Iterable[str]) -> set[str]:
    seen, again = set[str](), set[str]()
    for name in names:
        (again if name in seen else seen).add(name)
    return again

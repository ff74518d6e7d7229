"""Images to vectors: one pass over a benchmark's images serves all rows of a cell.

What is fitted is fitted first, to each fold's training images. Then the images go by in shards of a few hundred; a
finished shard is a file in a work folder beside the cell's, so that a killed run goes on where it was. At the end the
shards are joined into one Parquet file per member (docs/architecture.md) and the work folder is removed. No step holds
more than a few batches of images or one shard of vectors.
"""

from __future__ import annotations

import errno
import math
import shutil
import sys
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pipelines.benchmarks.index import Benchmark
from pipelines.embeddings import Manifest, Part, member_file, state_file, write_parts
from pipelines.extraction.fitting import TrainingImages, sample_size
from pipelines.extraction.plan import Draw, RowPlan, plan_cell
from pipelines.extraction.shards import Shard, Shards, code_digest
from pipelines.loading import ImageLoader, Unreadable, chunked, metadata_columns
from pipelines.made_by import vector_versions
from pipelines.memory import kept_memory
from pipelines.parallel import in_parallel, one_thread
from pipelines.params import CellParams, Params
from pipelines.progress import Progress
from registry.arrays import Embedding
from registry.bundle import read_arrays, write_arrays
from registry.cards import TABLE
from registry.errors import BlankslideError, InputError, ParamsError
from registry.files import sha256_of_file, sha256_of_json
from registry.representation import Batch

if TYPE_CHECKING:
    from pipelines.workspace import Workspace


#: shards for each process where there are so many batches
SHARDS_EACH = 8
#: the disk is full, or this user's share of it
NO_SPACE = (errno.ENOSPC, errno.EDQUOT)


@dataclass(frozen=True)
class ExtractSettings:
    """How a pass over the images is done.

    Attributes:
        batch: images of one forward pass.
        shard: images of one resumable shard at most; less where there are few images, so that all cores have work.
        threads: on a CPU, processes that compute, one core each; on a CUDA device, threads that decode.
        tolerance: unreadable images that do not fail the stage; they are left out of every file of the cell.
    """

    batch: int = 64
    shard: int = 512
    threads: int = 2
    tolerance: int = 0

    def __post_init__(self) -> None:
        if min(self.batch, self.shard, self.threads) < 1 or self.tolerance < 0:
            raise ParamsError(f"Expected `batch`, `shard` and `threads` of at least 1 and `tolerance` of at least 0, got {self}.")


def extract_cell(benchmark: Benchmark, cell: CellParams, params: Params, workspace: Workspace) -> None:
    """Extract one cell of a workspace into `out/embeddings/<benchmark>/<cell>`.

    Raises:
        BlankslideError: as `extract`; unknown controls, weights that are not there, a device that is not there.
    """
    wanted = params.extract
    rows = plan_cell(benchmark, cell, workspace.root, _device(wanted.device, cell), wanted.precision, wanted.twin_seeds, params.seed)
    settings = ExtractSettings(wanted.batch, wanted.shard, params.threads, wanted.tolerate)
    extract(benchmark, rows, workspace.embeddings(cell.benchmark) / cell.cell, settings)


def _device(wanted: str, cell: CellParams) -> str:
    if wanted != "auto":
        return wanted
    if cell.card is None or cell.card.architecture == TABLE:
        return "cpu"
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def extract(benchmark: Benchmark, rows: list[RowPlan], out: Path, settings: ExtractSettings) -> None:
    """Extract `rows` into `out/<row>/`; prints progress to stderr.

    Under several folds a fitted member gets a file for each fold, with all images embedded as it was fitted to that
    fold. Images that cannot be read, within the tolerance, are missing from every file of the cell and named with their
    reason in every manifest.

    Args:
        benchmark: whose images.
        rows: what to compute; a row that does not apply gets a manifest that says why.
        out: the cell's folder; shards of an unfinished run lie in `.<name>.work` beside it.
        settings: how.

    Raises:
        ImageError: more unreadable images than tolerated; all are counted and the first named.
        InputError: an embedding that is not finite.
        BlankslideError: the disk is full; finished shards are kept.
    """
    try:
        _Extraction(benchmark, rows, out, settings).run()
    except OSError as error:
        if error.errno not in NO_SPACE:
            raise
        raise BlankslideError(
            f"There is no space left on the disk of `{out.parent}`. Nothing is half-written and finished shards are kept:"
            " free some space and run the same command again."
        ) from error


class _Extraction:
    """One run of `extract`."""

    def __init__(self, benchmark: Benchmark, rows: list[RowPlan], out: Path, settings: ExtractSettings) -> None:
        self.benchmark, self.rows, self.out, self.settings = benchmark, rows, out, settings
        self.images = len(benchmark.index)
        self.name = f"[extract] {benchmark.card.name}/{out.name}"
        # side by side on a CPU, which is faster than one process on all cores and the same whatever their number;
        # a CUDA context does not survive a fork
        device = next((row.device for row in rows if row.device != "cpu"), "cpu")
        self.workers = settings.threads if device == "cpu" else 1
        self.unreadable = Unreadable(settings.tolerance)
        self.loader = ImageLoader(benchmark, settings.threads, self.unreadable, device)
        identity = {
            "data": benchmark.data_hash(),
            "rows": [[row.card.as_dict(), [member.name for member in row.members], row.device, row.precision] for row in rows],
            "settings": asdict(settings),
            "code": code_digest(),
            "versions": [vector_versions(row.card.architecture) for row in rows],
        }
        self.shards = Shards(out.with_name(f".{out.name}.work"), self.images, self._shard_size(), sha256_of_json(identity))

    def _shard_size(self) -> int:
        """Whole batches; where several processes work, so many shards for each that none waits long for the others at the end."""
        if self.workers == 1:
            return self.settings.shard
        batches = math.ceil(self.images / (SHARDS_EACH * self.workers * self.settings.batch))
        return min(self.settings.shard, batches * self.settings.batch)

    def run(self) -> None:
        draws = self._draws()
        self.shards.open()
        # pools of threads do not survive a fork, and cores are shared out by process
        with one_thread(), kept_memory():
            self._fit([draw for draw in draws if draw.representation.fitted])
            if draws:
                self._embed(draws)
        self._publish(draws)
        shutil.rmtree(self.shards.folder)

    def _draws(self) -> list[Draw]:
        """All members: one draw each, or one for each fold where there are several and the member is fitted."""
        folds = self.benchmark.folds
        draws = []
        for row in self.rows:
            for member in row.members:
                made = member.make()
                if not made.fitted or len(folds) == 1:
                    draws.append(Draw(row.name, member.name, None, made))
                else:
                    draws += [Draw(row.name, member.name, fold.number, made if fold is folds[0] else member.make()) for fold in folds]
        return draws

    def _fit(self, draws: list[Draw]) -> None:
        for fold in self.benchmark.folds:
            here = [draw for draw in draws if draw.fold in (None, fold.number)]
            missing = [draw for draw in here if not self.shards.state(draw.key, whole=True).is_file()]
            if missing:
                print(f"{self.name}: fitting {len(missing)} members to the training images of fold {fold.number}", file=sys.stderr, flush=True)
            sizes = {sample_size(draw.representation) for draw in missing}
            images = {size: TrainingImages(self.loader, fold, size, self.settings.batch) for size in sizes}
            for training in images.values():
                training.keep()
            # before a member is fitted to what is left, or fails because nothing is
            self._check_readable()
            for reasons in in_parallel(partial(self._fit_alone, images), missing, self.workers):
                self.unreadable.reasons.update(reasons)
            self._check_readable()
            for draw in here:
                draw.representation.load_state(read_arrays(self.shards.fitted(draw.key)))
        self.shards.keep_if_fitted_so(sha256_of_json([sha256_of_file(self.shards.fitted(draw.key)) for draw in draws]))

    def _fit_alone(self, images: dict[int | None, TrainingImages], draw: Draw) -> dict[str, str]:
        """Fit one member and publish its state; returns the images that could not be read."""
        draw.representation.fit(images[sample_size(draw.representation)])
        write_arrays(self.shards.state(draw.key, whole=not self.unreadable.reasons), draw.representation.state())
        return self.unreadable.reasons

    def _check_readable(self) -> None:
        """Fail if too many images were unreadable, once every image was looked at so that all can be counted."""
        if not self.unreadable.too_many:
            return
        for _ in self.loader.batches(chunked(range(self.images), self.settings.batch)):
            pass
        raise self.unreadable.error(self.images)

    def _embed(self, draws: list[Draw]) -> None:
        missing = self.shards.missing()
        progress = Progress(self.name, self.images, "images")
        progress.skip(self.images - sum(len(shard.rows) for shard in missing))
        if self.workers == 1:
            self._embed_in_order(missing, draws, progress)
            return
        for reasons in in_parallel(partial(self._embed_alone, draws, progress), missing, self.workers):
            self.unreadable.reasons.update(reasons)
            self._check_readable()

    def _embed_in_order(self, missing: list[Shard], draws: list[Draw], progress: Progress) -> None:
        """All shards in this process: while representations compute, the images of the next batches are decoded."""
        chunks = {shard.number: chunked(shard.rows, self.settings.batch) for shard in missing}
        stream = self.loader.batches(chunk for shard in missing for chunk in chunks[shard.number])
        for shard in missing:
            self._embed_shard(shard, draws, islice(stream, len(chunks[shard.number])), progress)
            self._check_readable()

    def _embed_alone(self, draws: list[Draw], progress: Progress, shard: Shard) -> dict[str, str]:
        """One shard in a process of its own; returns the images that could not be read."""
        loader = ImageLoader(self.benchmark, 0, Unreadable(self.images))
        self._embed_shard(shard, draws, loader.batches(chunked(shard.rows, self.settings.batch)), progress)
        return loader.unreadable.reasons

    def _embed_shard(self, shard: Shard, draws: list[Draw], batches: Iterable[Batch], progress: Progress) -> None:
        """Embed and publish one shard; every batch serves all draws while it is in memory."""
        vectors: dict[str, list[Embedding]] = {draw.key: [] for draw in draws}
        ids: list[str] = []
        for batch in batches:
            if not batch.image_ids:
                continue
            ids += batch.image_ids
            for draw in draws:
                vectors[draw.key].append(_checked(draw, batch, draw.representation.embed(batch)))
            progress.advance(len(batch.image_ids))
            # its memory serves the next one
            del batch
        positions = dict(zip(self.benchmark.index["image_id"].iloc[list(shard.rows)], shard.rows, strict=True))
        rows = np.array([positions[name] for name in ids], dtype=np.int64)
        self.shards.write(shard, rows, {key: np.concatenate(parts) for key, parts in vectors.items() if parts})

    def _publish(self, draws: list[Draw]) -> None:
        """Join the shards into the files of every row; a row's manifest comes last."""
        self._remove_former_rows()
        for row in self.rows:
            folder = self.out / row.name
            mine = [draw for draw in draws if draw.row == row.name]
            content = {}
            for draw in mine:
                name = member_file(draw.member, draw.fold)
                content[name] = write_parts(folder / name, self._parts(draw.key))
                if draw.representation.fitted:
                    write_arrays(folder / state_file(draw.member, draw.fold), draw.representation.state())
            self._manifest(row, mine, content).write(folder)

    def _remove_former_rows(self) -> None:
        """Remove rows of an earlier extraction into the same folder: none may be taken for one of this run."""
        planned = {row.name for row in self.rows}
        for folder in self.out.iterdir() if self.out.is_dir() else ():
            if folder.name in planned or (folder / "manifest.json").is_file():
                shutil.rmtree(folder)

    def _parts(self, key: str) -> Iterator[Part]:
        metadata = metadata_columns(self.benchmark)
        for piece in self.shards.pieces(key):
            rows = self.benchmark.index.iloc[piece.rows]
            yield Part(rows["image_id"].tolist(), rows[metadata], piece.values)

    def _manifest(self, row: RowPlan, draws: list[Draw], content: dict[str, str]) -> Manifest:
        card = row.card.as_dict()
        fitted = any(draw.representation.fitted for draw in draws)
        return Manifest(
            row=row.name,
            benchmark=self.benchmark.card.name,
            card=card,
            card_hash=sha256_of_json(card),
            data_hash=self.benchmark.data_hash(),
            image=self.benchmark.card.image.as_dict(),
            members=[member.name for member in row.members],
            fitted=fitted,
            folds=sorted({draw.fold for draw in draws if draw.fold is not None}),
            dim=next((piece.values.shape[1] for draw in draws for piece in self.shards.pieces(draw.key)), 0),
            device=row.device,
            precision=row.precision,
            unreadable=dict(sorted(self.unreadable.reasons.items())),
            not_applicable=row.not_applicable,
            unservable=draws[0].representation.unservable() if draws else row.not_applicable,
            content=content,
            versions={} if row.not_applicable else vector_versions(row.card.architecture),
        )


def _checked(draw: Draw, batch: Batch, values: Embedding) -> Embedding:
    """Refuse vectors that are not finite at once, not after hours.

    Raises:
        InputError: names the image.
    """
    if values.ndim != 2 or len(values) != len(batch.image_ids):
        raise InputError(f"`{draw.key}`: expected one vector for each of {len(batch.image_ids)} images, got shape {values.shape}.")
    broken = np.flatnonzero(~np.isfinite(values).all(axis=1))
    if len(broken):
        raise InputError(
            f"`{draw.key}`: the embedding of image `{batch.image_ids[int(broken[0])]}` is not finite. Under mixed precision try `float32`."
        )
    return values

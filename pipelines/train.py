"""Small networks trained on the outer-train images of one benchmark: by SimCLR, on weak labels, or on the tasks themselves.

Every epoch ends with a checkpoint in a work folder beside the output, so a killed run goes on where it was; an interrupted and
an uninterrupted run give the same bytes. Random numbers are drawn anew for each epoch from (seed, epoch), never carried over.
"""

from __future__ import annotations

import math
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pipelines.benchmarks.index import Benchmark
from pipelines.extraction.shards import code_digest
from pipelines.loading import ImageLoader, Unreadable, chunked
from pipelines.parallel import made_ahead
from pipelines.params import EncoderParams
from pipelines.progress import Progress
from pipelines.rows import stated_card
from pipelines.training.augment import view
from pipelines.training.checkpoints import Checkpoints, EpochRecord
from pipelines.training.objectives import UNLABELLED, Heads, Projection, batches, contrastive_loss
from pipelines.training.optimiser import AdamW
from pipelines.training.settings import TrainSettings, settings_for
from registry.arrays import Ints
from registry.cards import EncoderCard
from registry.encoders.architecture import Architecture
from registry.encoders.network import EncoderNetwork, backbone_channels
from registry.encoders.rows import draw_seed
from registry.encoders.weights import fresh_backbone
from registry.errors import BenchmarkError, BlankslideError, ParamsError
from registry.files import published, sha256_of_file, sha256_of_json, write_json

#: what is trained here is small by intent: it runs on two cores in a minute
MAX_PARAMETERS = 1_000_000
#: training images are held in memory, as stored
MAX_BYTES = 4_000_000_000
#: images in a step from which on a second thread helps; for fewer, threads wait for each other longer than they work
SHARED_BATCH = 32
#: begins the names of backbones that were kept on the way
KEPT = "after-"


def train(
    benchmark: Benchmark,
    encoder: EncoderParams,
    method: str,
    stated: dict[str, Any],
    out: Path,
    seed: int,
    threads: int,
    keep: Sequence[int] = (),
) -> EncoderCard:
    """Train one network on the training images of fold 0 and publish it.

    Writes `weights.safetensors` (the backbone alone), `history.csv` (epoch, loss in nats, learning rate) and, last,
    `card.json` into `out`; prints loss and time left to stderr.

    Args:
        benchmark: whose training images.
        encoder: the card as params.yaml states it.
        method: "simclr" (no labels), "weak" (the labels in `settings.labels`) or "supervised" (those of the tasks).
        stated: what differs from the method's default settings.
        out: the encoder's folder; checkpoints lie in `.<name>.work` beside it until the run is done.
        seed: of initial weights, order and views.
        threads: of torch, for batches of at least SHARED_BATCH images; smaller ones are computed by one. Another number may
            change the last bits.
        keep: epochs after which the backbone is also kept, as `after-<epoch>.safetensors`; 0 is as initialised. They change nothing else.

    Returns:
        The card, with the facts of the training.

    Raises:
        NotFoundError: unknown method or architecture.
        ParamsError: unknown settings, epochs to keep that there are not, or a network of more than a million parameters.
        BenchmarkError: several outer folds, labels that are not there, or more images than fit in memory.
        ImageError: a training image cannot be read.
    """
    if len(benchmark.folds) > 1:
        raise BenchmarkError(
            f"`{benchmark.card.name}` has {len(benchmark.folds)} outer folds; a network trained once would have seen the test images of all"
            " but one. Give the benchmark a single outer split to train on it."
        )
    settings = settings_for(method, benchmark.card.modality, stated)
    torch.set_num_threads(threads if settings.batch >= SHARED_BATCH else 1)
    run = _Training(benchmark, stated_card(encoder, None), method, settings, out.with_name(f".{out.name}.work"), seed, keep)
    history = run.train()
    card = _publish(run, history, out)
    shutil.rmtree(run.checkpoints.folder)
    return card


class _Training:
    """One training run in memory."""

    def __init__(
        self, benchmark: Benchmark, card: EncoderCard, method: str, settings: TrainSettings, work: Path, seed: int, keep: Sequence[int]
    ) -> None:
        self.benchmark, self.card, self.method, self.settings, self.keep = benchmark, card, method, settings, tuple(keep)
        if not set(keep) <= set(range(settings.epochs)):
            raise ParamsError(f"Expected epochs to keep from 0 to {settings.epochs - 1} (the last is kept anyway), got {list(keep)}.")
        self.seed = draw_seed(f"train/{method}", seed)
        self.rows: Ints = np.flatnonzero(benchmark.folds[0].train)
        architecture = Architecture.parse(card.architecture)
        backbone = fresh_backbone(architecture, backbone_channels(card, benchmark.card.image), self.seed)
        self.network = EncoderNetwork(card, benchmark.card.image, backbone)
        self.parameters = sum(parameter.numel() for parameter in self.network.parameters())
        if self.parameters > MAX_PARAMETERS:
            raise ParamsError(
                f"`{card.architecture}` has {self.parameters} parameters; what is trained here has at most {MAX_PARAMETERS}."
                " Train larger networks elsewhere and give their weights as `file:<path>`."
            )
        self.labels: Tensor | None = None
        self.classes: dict[str, int] = {}
        if method != "simclr":
            labels, self.classes = _labels(benchmark, settings, self.rows)
            taking_part = (labels != UNLABELLED).any(dim=1)
            self.rows, self.labels = self.rows[taking_part.numpy()], labels[taking_part]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed + 1)
            self.head: nn.Module = Heads(self.network.dim, self.classes) if self.classes else Projection(self.network.dim)
        self.modules = nn.ModuleDict({"network": self.network, "head": self.head})
        self.optimiser = AdamW(self.modules.parameters(), settings.weight_decay)
        facts = {
            "card": card.as_dict(),
            "method": method,
            "settings": asdict(settings),
            "seed": seed,
            "data": benchmark.data_hash(),
            "keep": list(keep),
        }
        self.checkpoints = Checkpoints(work, sha256_of_json({**facts, "threads": torch.get_num_threads(), "code": code_digest()}))
        self.groups = _groups(benchmark, settings, self.rows)
        self.steps_per_epoch = len(self._order(0))
        if not self.steps_per_epoch:
            raise ParamsError(f"There are {len(self.rows)} training images, too few for one batch of {settings.batch}. Set a smaller `batch`.")

    def train(self) -> list[EpochRecord]:
        """All epochs that are still to be done; returns the records of all."""
        history = self.checkpoints.restore(self.modules, self.optimiser)
        if not history:
            # those of another run have no checkpoint of this one beside them
            for path in self.checkpoints.folder.glob(f"{KEPT}*"):
                path.unlink()
            self._keep(0)
        if len(history) >= self.settings.epochs:
            return history
        images = _read(self.benchmark, self.rows)
        name = f"[train] {self.benchmark.card.name}/{self.card.name}"
        progress = Progress(name, self.settings.epochs, "epochs")
        progress.skip(len(history))
        for epoch in range(len(history), self.settings.epochs):
            record = self._epoch(epoch, images)
            history.append(record)
            # before the checkpoint, after which this epoch is not run again
            self._keep(record.epoch)
            self.checkpoints.save(self.modules, self.optimiser, history)
            progress.advance(1, f", loss {record.loss:.3f}")
        return history

    def _keep(self, epoch: int) -> None:
        if epoch in self.keep:
            save_backbone(self.network, self.checkpoints.folder / kept_file(epoch))

    def _order(self, epoch: int) -> list[Ints]:
        rng = np.random.default_rng([self.seed, epoch])
        return list(batches(self.groups, self.settings.groups, self.settings.batch, rng))

    def _epoch(self, epoch: int, images: NDArray[Any]) -> EpochRecord:
        self.modules.train()
        losses, rate = [], 0.0
        for number, (chosen, views) in enumerate(made_ahead(self._views(epoch, images))):
            rate = self._learning_rate(epoch * self.steps_per_epoch + number)
            loss = self._loss(views, chosen)
            if not torch.isfinite(loss):
                raise BlankslideError(f"The loss of `{self.card.name}` is not finite in epoch {epoch + 1}. Lower its `learning_rate`.")
            loss.backward()  # type: ignore[no-untyped-call]
            self.optimiser.step(rate)
            losses.append(loss.item())
        return EpochRecord(epoch + 1, float(np.mean(losses)), rate)

    def _views(self, epoch: int, images: NDArray[Any]) -> Iterator[tuple[Ints, Tensor]]:
        """The batches of an epoch: which images, and a random view of each; for SimCLR two, one after the other."""
        generator = torch.Generator().manual_seed(draw_seed(str(self.seed), epoch))
        for chosen in self._order(epoch):
            pixels = self.network.to_unit(torch.from_numpy(images[chosen].astype(np.float32)))
            views = [view(pixels, self.settings.augmentation, generator) for _ in range(1 if self.classes else 2)]
            yield chosen, self.network.normalise(torch.cat(views))

    def _loss(self, views: Tensor, chosen: Ints) -> Tensor:
        vectors = self.network.vectors(views)
        if isinstance(self.head, Heads) and self.labels is not None:
            return self.head.loss(vectors, self.labels[torch.from_numpy(chosen)])
        projected = self.head(vectors)
        return contrastive_loss(projected[: len(chosen)], projected[len(chosen) :], self.settings.temperature)

    def _learning_rate(self, step: int) -> float:
        """Up from a 25th of the peak in a straight line, down to nearly 0 along half a cosine (Smith and Topin 2017, arXiv 1708.07120)."""
        total = self.steps_per_epoch * self.settings.epochs
        peak, warm = self.settings.learning_rate, self.settings.warm_up * total
        if step < warm:
            return peak * (0.04 + 0.96 * step / warm)
        return peak * (0.001 + 0.999 * 0.5 * (1 + math.cos(math.pi * (step - warm) / (total - warm))))


def _read(benchmark: Benchmark, rows: Ints) -> NDArray[Any]:
    """(n, c, y, x) training images in the dtype of the files."""
    spec = benchmark.card.image
    # resampled images have values between the integers
    dtype = np.dtype(np.float32 if spec.resize == "linear" else spec.dtype)
    size = len(rows) * int(np.prod(spec.shape)) * dtype.itemsize
    if size > MAX_BYTES:
        raise BenchmarkError(
            f"The training images of `{benchmark.card.name}` need {size / 1e9:.1f} GB of memory, more than {MAX_BYTES / 1e9:.0f}."
            " Train on a subset, or elsewhere."
        )
    images = np.empty((len(rows), *spec.shape), dtype)
    unreadable = Unreadable()
    start = 0
    for batch in ImageLoader(benchmark, torch.get_num_threads(), unreadable).batches(chunked(rows.tolist(), 64)):
        images[start : start + len(batch.pixels)] = batch.pixels
        start += len(batch.pixels)
    if unreadable.too_many:
        raise unreadable.error(len(rows))
    return images


def _labels(benchmark: Benchmark, settings: TrainSettings, rows: Ints) -> tuple[Tensor, dict[str, int]]:
    """(n, questions) class indices of the training images, and the number of classes of each question."""
    columns = settings.labels or tuple(task.column for task in benchmark.card.tasks)
    _require(benchmark, columns)
    codes, classes = [], {}
    for column in columns:
        values = benchmark.index[column].iloc[rows]
        names = sorted(values.dropna().unique())
        if len(names) < 2:
            raise BenchmarkError(f"`{benchmark.card.name}`: the training images have {len(names)} class of `{column}`; expected at least two.")
        # pandas codes a missing label -1
        codes.append(pd.Categorical(values, categories=names).codes.astype(np.int64))
        classes[column] = len(names)
    labels = torch.from_numpy(np.stack(codes, axis=1))
    return torch.where(labels < 0, UNLABELLED, labels), classes


def _groups(benchmark: Benchmark, settings: TrainSettings, rows: Ints) -> Ints:
    """(n,) the group of each training image; all 0 where none are stated."""
    if not settings.group:
        return np.zeros(len(rows), np.int64)
    _require(benchmark, settings.group)
    return np.asarray(benchmark.index.iloc[rows].groupby(list(settings.group), sort=True).ngroup(), dtype=np.int64)


def _require(benchmark: Benchmark, columns: Sequence[str]) -> None:
    missing = [column for column in columns if column not in benchmark.index.columns]
    if missing:
        known = ", ".join(benchmark.index.columns)
        raise BenchmarkError(
            f"`{benchmark.card.name}`: the index lacks {', '.join(f'`{m}`' for m in missing)}, named in `settings`. It has: {known}."
        )


def kept_file(epoch: int) -> str:
    """Name of the backbone that was kept after an epoch."""
    return f"{KEPT}{epoch:04d}.safetensors"


def save_backbone(network: EncoderNetwork, path: Path) -> None:
    """Publish the weights of the backbone alone."""
    from safetensors.torch import save_file

    with published(path) as temporary:
        save_file({name: value.contiguous() for name, value in network.backbone.state_dict().items()}, temporary)


def _publish(run: _Training, history: list[EpochRecord], out: Path) -> EncoderCard:
    out.mkdir(parents=True, exist_ok=True)
    (out / "card.json").unlink(missing_ok=True)
    for path in out.glob(f"{KEPT}*"):
        path.unlink()
    for epoch in run.keep:
        # copied: should this run be killed here, the next still finds it in the work folder
        with published(out / kept_file(epoch)) as temporary:
            shutil.copyfile(run.checkpoints.folder / kept_file(epoch), temporary)
    weights = out / "weights.safetensors"
    save_backbone(run.network, weights)
    with published(out / "history.csv") as temporary:
        lines = ["epoch,loss,learning_rate", *(f"{r.epoch},{r.loss!r},{r.learning_rate!r}" for r in history)]
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")
    facts = {
        "method": run.method,
        "benchmark": run.benchmark.card.name,
        "data": run.benchmark.data_hash(),
        "fold": 0,
        "images": len(run.rows),
        "units": int(run.benchmark.index["unit"].iloc[run.rows].nunique()),
        "parameters": run.parameters,
        "learned": sorted(run.classes),
        "settings": asdict(run.settings),
    }
    card = replace(run.card, weights_sha256=sha256_of_file(weights), training=facts)
    write_json(out / "card.json", card.as_dict())
    print(f"[train] {run.benchmark.card.name}/{card.name}: {run.parameters} parameters, loss {history[-1].loss:.3f}", file=sys.stderr, flush=True)
    return card

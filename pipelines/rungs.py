"""Encoders of known quality, and embeddings that know nothing, through every metric of the flow.

The benchmark's small network is trained by several methods and seeds on the outer-train images, and its backbone is kept at several shares
of the epochs: the rungs of a ladder. Vectors that were made elsewhere cannot be trained; noise is added to them instead. What a run gave is a file
of its own, so a killed command goes on where it was.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipelines.benchmarks.index import Benchmark
from pipelines.embeddings import Row
from pipelines.every_metric import Asked, ByTask, every_metric, of_confounds
from pipelines.extract import ExtractSettings, extract
from pipelines.extraction.plan import MemberPlan, RowPlan
from pipelines.extraction.shards import code_digest
from pipelines.metrics.ladder import CONSTANT, DILUTION, EPOCHS, NOISE, PERMUTED
from pipelines.metrics.names import whole_names
from pipelines.parallel import in_parallel
from pipelines.params import EncoderParams, Params
from pipelines.progress import Progress
from pipelines.rows import facts_of, stated_card
from pipelines.training.settings import settings_for
from registry.arrays import Floats
from registry.errors import BenchmarkError, ParamsError
from registry.files import read_json, sha256_of_file, sha256_of_json, write_json
from registry.staleness import installed

#: how the network is trained: without labels, and with those of the tasks
METHODS = ("simclr", "supervised")
#: begins the name of a ladder of vectors that were made elsewhere
DILUTED = "diluted "
#: how much noise is added to vectors that were made elsewhere, most first, in standard deviations of each column
ADDED_NOISE = (8.0, 2.0, 0.5, 0.0)
#: of the table of all values
COLUMNS = ["ladder", "seed", "rung", "at", "labels", "task", "metric", "value"]
#: labels as they are, and on a trained end to which a batch was added
TRUE, BATCH = "true", "batch"
#: how much of it, most first, in standard deviations of each column; the trained end itself is the last rung of this ladder
ADDED = (2.0, 1.0, 0.5)
#: what a run's card names as its twin; the rung of no training is its own
TWIN = "untrained"
#: of several outer splits
FIRST_OF = "Trained and tested on the first of {} outer splits."
#: what is not asked where no control was extracted
WITHOUT_CONTROLS = "Bits beyond the controls and the share that brightness reaches were not asked: no control was extracted for this benchmark."
#: code that decides what a value is, beside that of training and extraction
SCORING = (
    "pipelines/rungs.py",
    "pipelines/every_metric.py",
    "pipelines/evaluate.py",
    "pipelines/tasks.py",
    "pipelines/beyond.py",
    "pipelines/brightness.py",
    "pipelines/sensitivity.py",
    "pipelines/beside",
    "pipelines/metrics",
)


def kept_epochs(epochs: int, shares: Sequence[float]) -> tuple[int, ...]:
    """The epochs after which a run is kept: the nearest to each share, and at least 1 but for the share 0.

    Raises:
        ParamsError: shares that do not rise from 0 to 1, or two that fall on one epoch.
    """
    if len(shares) < 2 or shares[0] != 0 or shares[-1] != 1 or list(shares) != sorted(set(shares)):
        raise ParamsError(f"`ladder.rungs`: expected shares of the epochs that rise from 0 to 1, got {list(shares)}.")
    found = tuple(max(math.floor(share * epochs + 0.5), int(share > 0)) for share in shares)
    if len(set(found)) < len(found):
        raise ParamsError(f"`ladder.rungs`: {list(shares)} of {epochs} epochs are {list(found)}, which cannot be told apart. Train more epochs.")
    return found


def stated_settings(params: Params, benchmark: str, method: str) -> dict[str, Any]:
    """What differs from a method's default settings: as stated under `ladder`, else as the benchmark's own network is trained by that method."""
    own = params.ladder.settings.get(f"{benchmark}--{method}")
    return own if own is not None else next((t.settings for t in params.train.values() if (t.benchmark, t.method) == (benchmark, method)), {})


@dataclass(frozen=True)
class Rungs:
    """The rungs of one ladder, least known first.

    Attributes:
        of: EPOCHS of training, or DILUTION: noise that was added, in standard deviations of each column.
        at: how many, or how much.
    """

    of: str
    at: tuple[float, ...]


@dataclass(frozen=True)
class Values:
    """Every value of one benchmark.

    Attributes:
        table: columns ladder, seed, rung, at, labels ("true", "permuted", or "batch"), task, metric, value; `ladder` is one of `rungs`, "constant" or
            "noise", and an embedding that knows nothing has rung -1. Where `labels` is "batch" the rung counts the amounts of ADDED.
        rungs: by ladder.
        learned: label columns that the runs of a ladder learned from.
        notes: sentences on what is not as usual.
    """

    table: pd.DataFrame
    rungs: dict[str, Rungs]
    learned: dict[str, list[str]]
    notes: list[str]


def ladder_values(benchmark: Benchmark, rows: Mapping[str, Row], params: Params, folder: Path) -> Values:
    """Make, embed and score every rung; prints progress to stderr.

    With images, networks are trained; of several outer splits on the first. Without images, noise is added to the vectors of the encoders:
    by the data-processing inequality they know no more than before, so that the order is known there too.

    Args:
        benchmark: with images or encoders.
        rows: that were extracted for it, by name: what bits are measured beyond, and what is diluted.
        params: its section `ladder` says how.
        folder: `runs/` in it keeps what each run gave, for as long as nothing that decides it changes.

    Raises:
        BenchmarkError: there are neither images nor encoders.
        ParamsError: fewer than 2 seeds, no draw of noise, or as `kept_epochs`.
        BlankslideError: as training and extraction.
    """
    wanted, name = params.ladder, benchmark.card.name
    if wanted.seeds < 2 or wanted.noise < 1:
        raise ParamsError(f"`ladder`: expected at least 2 `seeds` and 1 draw of `noise`, got {wanted.seeds} and {wanted.noise}.")
    splits = len(benchmark.folds)
    diluted = {} if benchmark.card.image.present else _encoders(name, rows)
    benchmark = first_split(benchmark) if benchmark.card.image.present else benchmark
    rungs = {f"{DILUTED}{row}": Rungs(DILUTION, ADDED_NOISE) for row in diluted} or {
        method: Rungs(EPOCHS, kept_epochs(settings_for(method, benchmark.card.modality, told).epochs, wanted.rungs))
        for method in METHODS
        for told in [stated_settings(params, name, method)]
    }
    # the permutation p of retrieval is no value of the ladder
    scoring = replace(params, evaluate=replace(params.evaluate, permutations=1))
    asked = Asked.of(benchmark, rows, params)
    total = wanted.seeds * sum(len(found.at) for found in rungs.values()) + 1 + wanted.noise
    progress = Progress(f"[ladder] {name}", total, "embeddings")
    work = _Work(benchmark, asked, scoring, folder / "runs", progress, diluted, next(iter(rungs)), _vectors_of(rows, asked))
    runs = [_Piece(ladder, seed, found) for seed in range(wanted.seeds) for ladder, found in rungs.items()]
    found = work.all(work.run, runs)
    # as wide as the network's own
    nothing = [_Piece(kind, draw, dim=found[0]["dim"]) for kind, draws in ((CONSTANT, 1), (NOISE, wanted.noise)) for draw in range(draws)]
    table = pd.DataFrame([record for piece in found + work.all(work.nothing, nothing) for record in piece["values"]], columns=COLUMNS)
    notes = [FIRST_OF.format(splits)] * (splits > len(benchmark.folds)) + [WITHOUT_CONTROLS] * (asked.controls is None)
    return Values(table, rungs, {ladder: found[number]["learned"] for number, ladder in enumerate(rungs)}, notes)


def first_split(benchmark: Benchmark) -> Benchmark:
    """The benchmark with its first outer split alone: all other images are for training."""
    number = benchmark.folds[0].number
    fold = benchmark.index["fold"].where(benchmark.index["fold"] == number, -1)
    return replace(benchmark, index=benchmark.index.assign(fold=fold)) if len(benchmark.folds) > 1 else benchmark


def _encoders(name: str, rows: Mapping[str, Row]) -> dict[str, Row]:
    """The encoders whose vectors can be diluted."""
    found = {row: each for row, each in rows.items() if each.manifest.card["role"] == "encoder" and not each.manifest.not_applicable}
    if not found:
        raise BenchmarkError(
            f"`{name}` has no images to train on and no vectors of an encoder to add noise to. Import vectors with `blankslide profiles`."
        )
    return found


def _vectors_of(rows: Mapping[str, Row], asked: Asked) -> dict[str, str]:
    """sha256 of the manifests of the controls that take part."""
    controls = {name: row for name, row in rows.items() if row.manifest.card["role"] == "negative" and asked.controls is not None}
    return {name: sha256_of_file(row.folder / "manifest.json") for name, row in controls.items()}


@dataclass(frozen=True)
class _Piece:
    """What is computed and published by itself: a run with all its rungs, or an embedding that knows nothing of `dim` columns."""

    kind: str
    seed: int
    rungs: Rungs = Rungs("", ())
    dim: int = 0

    @property
    def name(self) -> str:
        return f"{self.kind.replace(' ', '-')}-{self.seed}"

    @property
    def epochs(self) -> tuple[int, ...]:
        return tuple(map(int, self.rungs.at))


@dataclass(frozen=True)
class _Work:
    """What the pieces of one benchmark share: `diluted` are encoders without images, `batched` the ladder to whose ends a batch is added, `controls`
    names the vectors of the controls.
    """

    benchmark: Benchmark
    asked: Asked
    params: Params
    folder: Path
    progress: Progress
    diluted: Mapping[str, Row]
    batched: str
    controls: Mapping[str, str]

    def all(self, function: Callable[[_Piece], dict[str, Any]], pieces: Sequence[_Piece]) -> list[dict[str, Any]]:
        """What each piece gave; only what is not there yet is computed, several side by side."""
        finished = {piece.name: self._finished(piece) for piece in pieces}
        missing = [piece for piece in pieces if finished[piece.name] is None]
        self.progress.skip(sum(max(len(piece.rungs.at), 1) for piece in pieces if finished[piece.name] is not None))
        made = dict(zip([piece.name for piece in missing], in_parallel(function, missing, self.params.threads), strict=True))
        return [finished[piece.name] or made[piece.name] for piece in pieces]

    def run(self, piece: _Piece) -> dict[str, Any]:
        """Make one run, embed and score its rungs."""
        if piece.rungs.of == DILUTION:
            learned, every = [], dilutions(self._vectors(piece), piece.rungs.at, self.params.seed, piece.seed)
        else:
            learned, every = self._train(piece), self._embeddings(piece)
        records: list[dict[str, Any]] = []
        last = len(every) - 1
        keys = [{"ladder": piece.kind, "seed": piece.seed, "rung": rung, "at": at} for rung, at in enumerate(piece.rungs.at)]
        for key, found in zip(keys, every_metric(every, self.benchmark, self.asked, self.params, self.progress.advance), strict=True):
            records += _records({**key, "labels": TRUE}, found)
        drawn = self.asked.permuted(self.params, self.params.seed, piece.seed)
        (found,) = every_metric(every[last:], self.benchmark, drawn, self.params)
        records += _records({**keys[last], "labels": PERMUTED}, found)
        if piece.kind == self.batched:
            records += self._with_batch(every[last], {**keys[last], "labels": BATCH}, piece.seed)
        return self._finish(piece, {"dim": every[0].shape[1], "learned": learned, "values": records})

    def _with_batch(self, vectors: Floats, key: Mapping[str, Any], seed: int) -> list[dict[str, Any]]:
        """Scores of batch and place after a batch was added to the test images."""
        design = self.asked.design
        records: list[dict[str, Any]] = []
        for rung, amount in enumerate(ADDED):
            added = vectors.copy()
            added[design.images] = with_batch(vectors[design.images], design.batch, amount, self.params.seed, seed)
            records += _records({**key, "rung": rung}, of_confounds(added, self.asked, self.params))
        return records

    def nothing(self, piece: _Piece) -> dict[str, Any]:
        """Score an embedding that knows nothing."""
        shape = (len(self.benchmark.index), piece.dim)
        vectors = np.ones(shape) if piece.kind == CONSTANT else np.random.default_rng([self.params.seed, piece.seed]).normal(size=shape)
        key = {"ladder": piece.kind, "seed": piece.seed, "rung": -1, "at": -1, "labels": TRUE}
        (found,) = every_metric([vectors], self.benchmark, self.asked, self.params, self.progress.advance)
        return self._finish(piece, {"dim": piece.dim, "learned": [], "values": _records(key, found)})

    def _vectors(self, piece: _Piece) -> Floats:
        """(n, d) vectors that were made elsewhere."""
        row = self.diluted[piece.kind.removeprefix(DILUTED)]
        return row.embedding(row.manifest.members[0], 0, self.benchmark.index["image_id"].tolist()).astype(np.float64)

    def _train(self, piece: _Piece) -> list[str]:
        """Train a run unless it is there; returns the label columns it learned from."""
        from pipelines.train import train

        stamp, told = self.folder / piece.name / "trained.json", self._training(piece)
        if not stamp.is_file() or read_json(stamp)["identity"] != told:
            stamp.unlink(missing_ok=True)
            out = stamp.parent / "weights"
            # one thread: runs go side by side, and the bytes are the same for any number of them
            card = train(self.benchmark, self._facts(piece), piece.kind, self._settings(piece), out, piece.seed, 1, piece.epochs[:-1])
            write_json(stamp, {"identity": told, "learned": card.training["learned"]})
        learned: list[str] = read_json(stamp)["learned"]
        return learned

    def _embeddings(self, piece: _Piece) -> list[Floats]:
        """(n, d) vectors of each rung, in one pass over the images."""
        from pipelines.train import kept_file
        from registry.encoders.rows import encoder_members

        folder, facts, plans = self.folder / piece.name, self._facts(piece), []
        files = [folder / "weights" / name for name in (*map(kept_file, piece.epochs[:-1]), "weights.safetensors")]
        for rung, path in enumerate(files):
            card = replace(stated_card(facts, None), name=f"{piece.name}-rung-{rung}", weights_sha256=sha256_of_file(path))
            members = tuple(MemberPlan(m.name, m.make) for m in encoder_members(card, facts_of(self.benchmark), path))
            plans.append(RowPlan(card, members))
        extract(self.benchmark, plans, folder / "embeddings", ExtractSettings(threads=1))
        ids = self.benchmark.index["image_id"].tolist()
        return [Row.read(folder / "embeddings" / plan.name).embedding(plan.members[0].name, 0, ids).astype(np.float64) for plan in plans]

    def _facts(self, piece: _Piece) -> EncoderParams:
        architecture = self.params.ladder.architecture
        return EncoderParams(piece.name, "one run of the ladder", architecture, "trained", twins=[TWIN])

    def _settings(self, piece: _Piece) -> dict[str, Any]:
        return stated_settings(self.params, self.benchmark.card.name, piece.kind)

    def _training(self, piece: _Piece) -> str:
        """Names everything the weights of a run depend on."""
        facts = {"card": asdict(self._facts(piece)), "method": piece.kind, "settings": self._settings(piece), "seed": piece.seed}
        return sha256_of_json({**facts, "epochs": piece.epochs, "data": self.benchmark.data_hash(), "code": code_digest()})

    def _identity(self, piece: _Piece) -> str:
        """Names everything the values of a piece depend on."""
        scoring: dict[str, Any] = {"evaluate": asdict(self.params.evaluate), "alpha": self.params.diagnose.alpha, "seed": self.params.seed}
        made: dict[str, Any] = {"dim": piece.dim, "data": self.benchmark.data_hash()}
        if piece.rungs.of == DILUTION:
            made |= {"at": piece.rungs.at, "row": sha256_of_file(self.diluted[piece.kind.removeprefix(DILUTED)].folder / "manifest.json")}
        elif not piece.dim:
            made = {"training": self._training(piece)}
        scoring |= {"code": code_digest(SCORING), "controls": self.controls, "versions": installed()}
        return sha256_of_json({**scoring, "kind": piece.kind, "draw": piece.seed, **made})

    def _finished(self, piece: _Piece) -> dict[str, Any] | None:
        path = self.folder / piece.name / "values.json"
        found: dict[str, Any] | None = read_json(path) if path.is_file() else None
        return found if found is not None and found["identity"] == self._identity(piece) else None

    def _finish(self, piece: _Piece, made: dict[str, Any]) -> dict[str, Any]:
        write_json(self.folder / piece.name / "values.json", {"identity": self._identity(piece), **made})
        return made


def _records(key: Mapping[str, Any], found: ByTask) -> list[dict[str, Any]]:
    """Lines of the table, one for each value."""
    return [{**key, "task": task, "metric": metric, "value": value} for task, each in found.items() for metric, value in each.items()]


def dilutions(vectors: Floats, amounts: Sequence[float], *seed: int) -> list[Floats]:
    """(n, d) vectors to which noise was added, one array for each amount.

    Args:
        vectors: (n, d).
        amounts: standard deviations of the normal noise in units of those of each column.
        seed: of the draw; the noise of different amounts is proportional.
    """
    noise = np.random.default_rng(list(seed)).normal(size=vectors.shape) * vectors.std(axis=0)
    return [np.asarray(vectors + amount * noise) for amount in amounts]


def with_batch(vectors: Floats, batch: Sequence[str] | NDArray[np.str_], amount: float, *seed: int) -> Floats:
    """(n, d) vectors to which every batch has added an offset of its own: normal, `amount` standard deviations of a column.

    Args:
        vectors: (n, d).
        batch: n names.
        amount: of the offsets; those of different amounts and one seed are proportional.
        seed: of the draw.
    """
    names, codes = np.unique(whole_names(batch, "batches"), return_inverse=True)
    offsets = np.random.default_rng(list(seed)).normal(size=(len(names), vectors.shape[1]))
    return np.asarray(vectors + amount * vectors.std(axis=0) * offsets[codes])

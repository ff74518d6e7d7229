"""Encoders of known quality, and embeddings that know nothing, through every metric of the flow.

The benchmark's small network is trained by several methods and seeds on the outer-train images, and its backbone is kept at several shares
of the epochs: the rungs of a ladder. What a run gave is a file of its own, so a killed command goes on where it was.
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
from pipelines.beside import replicates
from pipelines.beside.confounding import Design, decodings, mixing
from pipelines.beside.wells import Wells, wells_of
from pipelines.embeddings import Row
from pipelines.evaluate import score
from pipelines.extract import ExtractSettings, extract
from pipelines.extraction.plan import MemberPlan, RowPlan
from pipelines.extraction.shards import code_digest
from pipelines.metrics.geometry import describe
from pipelines.metrics.ladder import CONSTANT, NOISE, PERMUTED, permuted_labels
from pipelines.metrics.names import whole_names
from pipelines.parallel import in_parallel
from pipelines.params import EncoderParams, Params
from pipelines.progress import Progress
from pipelines.rows import facts_of, stated_card
from pipelines.scores import Confound
from pipelines.tasks import Question, probe_settings
from pipelines.training.settings import settings_for
from registry.arrays import Floats
from registry.errors import BenchmarkError, ParamsError
from registry.files import read_json, sha256_of_file, sha256_of_json, write_json

#: how the network is trained: without labels, and with those of the tasks
METHODS = ("simclr", "supervised")
#: begin the names of metrics that look at no label, of those of batch and place, and of those of replicates
GEOMETRY, CONFOUNDS, REPLICATES = "geometry.", "confounds.", "replicates."
#: stands for a task where metrics of replicates are: they ask about the treatments and not about a label, and no task can have its name
TREATMENTS = "all treatments"
#: of the table of all values
COLUMNS = ["ladder", "seed", "rung", "epoch", "labels", "task", "metric", "value"]
#: labels as they are, and on a trained end to which a batch was added
TRUE, BATCH = "true", "batch"
#: how much of it, most first, in standard deviations of each column; the trained end itself is the last rung of this ladder
ADDED = (2.0, 1.0, 0.5)
#: what a run's card names as its twin; the rung of no training is its own
TWIN = "untrained"
#: code that decides what a value is, beside that of training and extraction
SCORING = ("pipelines/rungs.py", "pipelines/evaluate.py", "pipelines/tasks.py", "pipelines/beside", "pipelines/metrics")


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
class Values:
    """Every value of one benchmark.

    Attributes:
        table: columns ladder, seed, rung, epoch, labels ("true", "permuted", or "batch"), task, metric, value; `ladder` is a method of training,
            "constant" or "noise", and an embedding that knows nothing has rung -1. Where `labels` is "batch" the rung counts the amounts of ADDED.
        epochs: of each rung, by method.
        learned: label columns that a method learned from.
    """

    table: pd.DataFrame
    epochs: dict[str, tuple[int, ...]]
    learned: dict[str, list[str]]


def ladder_values(benchmark: Benchmark, params: Params, folder: Path) -> Values:
    """Train, embed and score every rung; prints progress to stderr.

    Args:
        benchmark: whose images, with a single outer split.
        params: its section `ladder` says how.
        folder: `runs/` in it keeps what each run gave, for as long as nothing that decides it changes.

    Raises:
        BenchmarkError: there are no images.
        ParamsError: fewer than 2 seeds, no draw of noise, or as `kept_epochs`.
        BlankslideError: as training and extraction.
    """
    wanted, name = params.ladder, benchmark.card.name
    if not benchmark.card.image.present:
        raise BenchmarkError(f"`{name}` has no images; encoders of known quality can only be trained on a benchmark that has.")
    if wanted.seeds < 2 or wanted.noise < 1:
        raise ParamsError(f"`ladder`: expected at least 2 `seeds` and 1 draw of `noise`, got {wanted.seeds} and {wanted.noise}.")
    epochs = {}
    for method in METHODS:
        settings = settings_for(method, benchmark.card.modality, stated_settings(params, name, method))
        epochs[method] = kept_epochs(settings.epochs, wanted.rungs)
    # the permutation p of retrieval is no value of the ladder
    scoring = replace(params, evaluate=replace(params.evaluate, permutations=1))
    asked = Asked.of(benchmark, params.seed)
    total = wanted.seeds * sum(len(found) for found in epochs.values()) + 1 + wanted.noise
    work = _Work(benchmark, asked, scoring, folder / "runs", Progress(f"[ladder] {name}", total, "embeddings"))
    runs = [_Piece(method, seed, epochs[method]) for seed in range(wanted.seeds) for method in METHODS]
    found = work.all(work.run, runs)
    # as wide as the network's own
    nothing = [_Piece(kind, draw, dim=found[0]["dim"]) for kind, draws in ((CONSTANT, 1), (NOISE, wanted.noise)) for draw in range(draws)]
    table = pd.DataFrame([record for piece in found + work.all(work.nothing, nothing) for record in piece["values"]], columns=COLUMNS)
    return Values(table, epochs, {method: found[number]["learned"] for number, method in enumerate(METHODS)})


@dataclass(frozen=True, eq=False)
class Asked:
    """What every embedding of one benchmark is asked.

    Attributes:
        questions: its tasks.
        design: what is batch and place.
        wells: with their treatments; None where the benchmark names none.
    """

    questions: tuple[Question, ...]
    design: Design
    wells: Wells | None

    @classmethod
    def of(cls, benchmark: Benchmark, seed: int) -> Asked:
        """As the benchmark says."""
        questions = tuple(Question.of(benchmark, task) for task in benchmark.card.tasks)
        wells = wells_of(benchmark)
        return cls(questions, Design.of(benchmark, seed), wells if wells is not None and wells.placed else None)

    def permuted(self, *seed: int) -> Asked:
        """The same with labels that say nothing, for tasks, and with treatments that say nothing; without what the design allows neither for."""
        drawn = [permuted(question, *seed) for question in self.questions]
        wells = replicates.permuted_wells(self.wells, seed) if self.wells is not None else None
        return replace(self, questions=tuple(question for question in drawn if question is not None), wells=wells)


@dataclass(frozen=True)
class _Piece:
    """What is computed and published by itself: a run with all its rungs, or an embedding that knows nothing of `dim` columns."""

    kind: str
    seed: int
    epochs: tuple[int, ...] = ()
    dim: int = 0

    @property
    def name(self) -> str:
        return f"{self.kind}-{self.seed}"


@dataclass(frozen=True)
class _Work:
    """What the pieces of one benchmark share."""

    benchmark: Benchmark
    asked: Asked
    params: Params
    folder: Path
    progress: Progress

    def all(self, function: Callable[[_Piece], dict[str, Any]], pieces: Sequence[_Piece]) -> list[dict[str, Any]]:
        """What each piece gave; only what is not there yet is computed, several side by side."""
        finished = {piece.name: self._finished(piece) for piece in pieces}
        missing = [piece for piece in pieces if finished[piece.name] is None]
        self.progress.skip(sum(max(len(piece.epochs), 1) for piece in pieces if finished[piece.name] is not None))
        made = dict(zip([piece.name for piece in missing], in_parallel(function, missing, self.params.threads), strict=True))
        return [finished[piece.name] or made[piece.name] for piece in pieces]

    def run(self, piece: _Piece) -> dict[str, Any]:
        """Train one run, embed and score its rungs."""
        learned = self._train(piece)
        records: list[dict[str, Any]] = []
        every = self._embeddings(piece)
        for rung, vectors in enumerate(every):
            key = {"ladder": piece.kind, "seed": piece.seed, "rung": rung, "epoch": piece.epochs[rung]}
            records += values(vectors, self.benchmark, self.asked, self.params, {**key, "labels": TRUE})
            if rung == len(every) - 1:
                drawn = self.asked.permuted(self.params.seed, piece.seed)
                records += values(vectors, self.benchmark, drawn, self.params, {**key, "labels": PERMUTED})
                if piece.kind == METHODS[0]:
                    records += self._with_batch(vectors, {**key, "labels": BATCH}, piece.seed)
            self.progress.advance(1)
        return self._finish(piece, {"dim": every[0].shape[1], "learned": learned, "values": records})

    def _with_batch(self, vectors: Floats, key: Mapping[str, Any], seed: int) -> list[dict[str, Any]]:
        """Scores of batch and place after a batch was added to the test images."""
        design, records = self.asked.design, []
        for rung, amount in enumerate(ADDED):
            added = vectors.copy()
            added[design.images] = with_batch(vectors[design.images], design.batch, amount, self.params.seed, seed)
            for task, found in of_confounds(added, self.asked, self.params).items():
                records += [{**key, "rung": rung, "task": task, "metric": metric, "value": value} for metric, value in found.items()]
        return records

    def nothing(self, piece: _Piece) -> dict[str, Any]:
        """Score an embedding that knows nothing."""
        shape = (len(self.benchmark.index), piece.dim)
        vectors = np.ones(shape) if piece.kind == CONSTANT else np.random.default_rng([self.params.seed, piece.seed]).normal(size=shape)
        key = {"ladder": piece.kind, "seed": piece.seed, "rung": -1, "epoch": -1, "labels": TRUE}
        records = values(vectors, self.benchmark, self.asked, self.params, key)
        self.progress.advance(1)
        return self._finish(piece, {"dim": piece.dim, "learned": [], "values": records})

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
        scoring = {"evaluate": asdict(self.params.evaluate), "seed": self.params.seed, "code": code_digest(SCORING)}
        made = {"dim": piece.dim, "data": self.benchmark.data_hash()} if piece.dim else {"training": self._training(piece)}
        return sha256_of_json({**scoring, "kind": piece.kind, "draw": piece.seed, **made})

    def _finished(self, piece: _Piece) -> dict[str, Any] | None:
        path = self.folder / piece.name / "values.json"
        found: dict[str, Any] | None = read_json(path) if path.is_file() else None
        return found if found is not None and found["identity"] == self._identity(piece) else None

    def _finish(self, piece: _Piece, made: dict[str, Any]) -> dict[str, Any]:
        write_json(self.folder / piece.name / "values.json", {"identity": self._identity(piece), **made})
        return made


def values(vectors: Floats, benchmark: Benchmark, asked: Asked, params: Params, key: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Every metric of one embedding on every task, one record each; `value` is None where a metric does not exist.

    Args:
        vectors: (n, d) finite.
        benchmark: whose n images.
        asked: with true or other labels.
        params: how scores are computed.
        key: what the records say of the embedding.
    """
    shape = describe(vectors)
    geometry = {"participation_ratio": shape.participation_ratio, "participation_ratio_raw": shape.participation_ratio_raw}
    features, confounds = dict.fromkeys([fold.number for fold in benchmark.folds], vectors), of_confounds(vectors, asked, params)
    found: dict[str, dict[str, float | None]] = {}
    for question in asked.questions:
        scored = {s.metric: s.statistic.value for s in score("ladder", "main", question, features, benchmark, params).scored}
        every = scored | {f"{GEOMETRY}{name}": value for name, value in geometry.items()}
        found[question.task.name] = {name: _known(value) for name, value in every.items()} | confounds[question.task.name]
    if asked.wells is not None:
        found[TREATMENTS] = of_replicates(vectors, asked.wells, params)
    return [{**key, "task": task, "metric": metric, "value": value} for task, each in found.items() for metric, value in each.items()]


def of_confounds(vectors: Floats, asked: Asked, params: Params) -> dict[str, dict[str, float | None]]:
    """By task and metric what is batch and place in (n, d) vectors, the classes being those of the task; None where a score does not exist."""
    rule = probe_settings(params.evaluate)
    decoded = decodings("ladder", "main", vectors, asked.design, rule)

    def name(one: Confound) -> str:
        return f"{CONFOUNDS}{'_'.join([*one.score.split(), *([one.column] if one.score == 'decoding' else [])])}"

    found = {}
    for question in asked.questions:
        mixed = mixing("ladder", "main", vectors, asked.design.about(question.codes), rule, reference=False)
        found[question.task.name] = {name(one): _known(one.value) for one in [*mixed, *decoded]}
    return found


def of_replicates(vectors: Floats, wells: Wells, params: Params) -> dict[str, float | None]:
    """By metric what (n, d) vectors say of replicates: of every question its value and the share of treatments found, and percent replicating."""
    found = replicates.replicates("ladder", vectors, wells, seed=params.seed)
    of_each = {f"{REPLICATES}{one.question}{part}": _known(value) for one in found for part, value in (("", one.value), (".found", one.significant))}
    return of_each | {f"{REPLICATES}percent_replicating": _known(found[-1].replicating)}


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


def _known(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def permuted(question: Question, *seed: int) -> Question | None:
    """The same question with labels that say nothing; None where the design allows none."""
    drawn = permuted_labels(question.codes, question.profiles, question.units, question.folds, seed)
    return replace(question, codes=drawn.codes) if drawn.within else None

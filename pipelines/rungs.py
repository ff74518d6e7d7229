"""Encoders of known quality, and embeddings that know nothing, through every metric of the flow.

The benchmark's small network is trained by several methods and seeds on the outer-train images, and its backbone is kept at several shares
of the epochs: the rungs of a ladder. What a run gave is a file of its own, so a killed command goes on where it was.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pipelines.benchmarks.index import Benchmark
from pipelines.embeddings import Row
from pipelines.evaluate import Question, score
from pipelines.extract import ExtractSettings, extract
from pipelines.extraction.plan import MemberPlan, RowPlan
from pipelines.extraction.shards import code_digest
from pipelines.metrics.geometry import describe
from pipelines.metrics.ladder import CONSTANT, NOISE, PERMUTED, permuted_labels
from pipelines.parallel import in_parallel
from pipelines.params import EncoderParams, Params
from pipelines.progress import Progress
from pipelines.rows import facts_of, stated_card
from pipelines.training.settings import settings_for
from registry.arrays import Floats
from registry.errors import BenchmarkError, ParamsError
from registry.files import read_json, sha256_of_file, sha256_of_json, write_json

#: how the network is trained: without labels, and with those of the tasks
METHODS = ("simclr", "supervised")
#: begins the names of metrics of an embedding that look at no label
GEOMETRY = "geometry."
#: of the table of all values
COLUMNS = ["ladder", "seed", "rung", "epoch", "labels", "task", "metric", "value"]
#: labels as they are
TRUE = "true"
#: what a run's card names as its twin; the rung of no training is its own
TWIN = "untrained"
#: code that decides what a value is, beside that of training and extraction
SCORING = ("pipelines/rungs.py", "pipelines/evaluate.py", "pipelines/metrics")


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
        table: columns ladder, seed, rung, epoch, labels ("true" or "permuted"), task, metric, value; `ladder` is a method of training, "constant"
            or "noise", and an embedding that knows nothing has rung -1.
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
    questions = [Question.of(benchmark, task) for task in benchmark.card.tasks]
    total = wanted.seeds * sum(len(found) for found in epochs.values()) + 1 + wanted.noise
    work = _Work(benchmark, questions, scoring, folder / "runs", Progress(f"[ladder] {name}", total, "embeddings"))
    runs = [_Piece(method, seed, epochs[method]) for seed in range(wanted.seeds) for method in METHODS]
    found = work.all(work.run, runs)
    # as wide as the network's own
    nothing = [_Piece(kind, draw, dim=found[0]["dim"]) for kind, draws in ((CONSTANT, 1), (NOISE, wanted.noise)) for draw in range(draws)]
    table = pd.DataFrame([record for piece in found + work.all(work.nothing, nothing) for record in piece["values"]], columns=COLUMNS)
    return Values(table, epochs, {method: found[number]["learned"] for number, method in enumerate(METHODS)})


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
    questions: list[Question]
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
            records += values(vectors, self.benchmark, self.questions, self.params, {**key, "labels": TRUE})
            if rung == len(every) - 1:
                drawn = [permuted(question, self.params.seed, piece.seed) for question in self.questions]
                records += values(vectors, self.benchmark, [q for q in drawn if q is not None], self.params, {**key, "labels": PERMUTED})
            self.progress.advance(1)
        return self._finish(piece, {"dim": every[0].shape[1], "learned": learned, "values": records})

    def nothing(self, piece: _Piece) -> dict[str, Any]:
        """Score an embedding that knows nothing."""
        shape = (len(self.benchmark.index), piece.dim)
        vectors = np.ones(shape) if piece.kind == CONSTANT else np.random.default_rng([self.params.seed, piece.seed]).normal(size=shape)
        key = {"ladder": piece.kind, "seed": piece.seed, "rung": -1, "epoch": -1, "labels": TRUE}
        records = values(vectors, self.benchmark, self.questions, self.params, key)
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


def values(vectors: Floats, benchmark: Benchmark, questions: Iterable[Question], params: Params, key: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Every metric of one embedding on every task, one record each; `value` is None where a metric does not exist.

    Args:
        vectors: (n, d) finite.
        benchmark: whose n images.
        questions: the tasks, with true or other labels.
        params: how scores are computed.
        key: what the records say of the embedding.
    """
    shape = describe(vectors)
    geometry = {"participation_ratio": shape.participation_ratio, "participation_ratio_raw": shape.participation_ratio_raw}
    features = dict.fromkeys([fold.number for fold in benchmark.folds], vectors)
    records = []
    for question in questions:
        scored = {s.metric: s.statistic.value for s in score("ladder", "main", question, features, benchmark, params).scored}
        for metric, value in (scored | {f"{GEOMETRY}{name}": found for name, found in geometry.items()}).items():
            known = float(value) if np.isfinite(value) else None
            records.append({**key, "task": question.task.name, "metric": metric, "value": known})
    return records


def permuted(question: Question, *seed: int) -> Question | None:
    """The same question with labels that say nothing; None where the design allows none."""
    drawn = permuted_labels(question.codes, question.profiles, question.units, question.folds, seed)
    return replace(question, codes=drawn.codes) if drawn.within else None

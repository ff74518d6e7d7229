"""The Scorer: the only place where a reading is computed. Doors translate bytes and errors, they compute nothing.

A reading follows the offline path step for step: `registry.images.decode_image` and `conform`, the exported network,
`registry.heads`. The same is done for the encoder's twin and for its best control that can be served, so that no
probability is returned without the probabilities of something that is supposed to know little.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from time import perf_counter
from typing import cast

import numpy as np
from numpy.typing import ArrayLike

from registry.arrays import Embedding, Floats, Mask, PixelBatch
from registry.bundle import Bundle, BundleCard, read_bundle
from registry.errors import BlankslideError, BundleError, ImageError, ProviderError
from registry.evidence import TaskEvidence
from registry.export import MAX_RELATIVE
from registry.heads import Head, heads_of
from registry.images import MAX_PIXELS, Image
from registry.licences import terms_of
from serving.embedders import Embedder, EmbedderKind, OnnxEmbedder
from serving.framing import WHOLE, Frames, Framing, frames_of
from serving.preview import channels_of
from serving.reference import Reference
from serving.schema import (
    Channels,
    EmbeddingAnswer,
    ImageExpected,
    Licence,
    ModelFacts,
    ModelPage,
    ModelRef,
    Opinion,
    Reading,
    TaskReading,
    TaskVerdict,
    Tile,
    UnservableControl,
    VerdictSaid,
)
from serving.sources import FileSource, Source

Answer = EmbeddingAnswer | Reading
#: which part of an image, and what is strange about the image
Take = tuple[Tile | None, list[str]]
#: takes the name of a stage and its seconds
Timed = Callable[[str, float], None]


def _untimed(_stage: str, _seconds: float) -> None:
    """Nobody asks how long it took."""


#: what is said of evidence where a bundle comes without its registry or workspace: it cannot know what changed after it was written
UNCHECKED = "not checked: a bundle alone does not say"
#: golden answers may come from another processor, which rounds otherwise: they may differ by this many tolerances
GOLDEN_SLACK = 5
#: largest difference of a probability from the golden one; a head can amplify the embedding's tolerance
PROBABILITY_TOLERANCE = 5e-3


@dataclass(frozen=True)
class Asked:
    """One image of a pass.

    Attributes:
        frames: the image as the model takes it.
        score: whether a reading is asked for, or the embedding alone.
    """

    frames: Frames
    score: bool


@dataclass(frozen=True)
class Voice:
    """One network with its heads: the encoder, its twin or a control."""

    card: BundleCard
    embedder: Embedder
    heads: dict[str, Head]

    def opinion(self, task: str, embedding: Embedding, benchmark_score: float | None) -> Opinion:
        """What its head says about one image; `embedding` is (d,)."""
        head = self.heads[task]
        probabilities = head.predict_proba(embedding[None])[0]
        return Opinion(
            row=self.card.name,
            role=self.card.card.role,
            member=self.card.member,
            predicted=head.classes[int(probabilities.argmax())],
            probabilities=dict(zip(head.classes, probabilities.tolist(), strict=True)),
            benchmark_score=benchmark_score,
        )


@dataclass(frozen=True)
class Beside:
    """What stands beside the encoder's probabilities of one task, the same for every image.

    Attributes:
        question: the task in words; "" where there is no evidence.
        score: the encoder's, on the benchmark.
        scores: its companions', by row; None where not recorded.
        twin: the row that is quoted as its twin.
        control: the row that is quoted as its control.
        unservable: stronger controls that cannot be computed here.
        verdict: on the benchmark.
    """

    question: str
    score: float | None
    scores: dict[str, float | None]
    twin: str | None
    control: str | None
    unservable: list[UnservableControl]
    verdict: VerdictSaid | None


class Scorer:
    """A verified bundle, ready to read images. Safe to call from several threads.

    Args:
        bundle: verified by `registry.bundle.read_bundle`.
        encoder: the encoder's network and heads.
        companions: those of its twin and controls, by row.
        max_pixels: largest image, over all channels.
        evidence: whether the scorecard is what would be computed now, in the words of `registry.staleness.Staleness`.

    Raises:
        BundleError: on its golden images the network or a head computes something else than its source, or an image cannot be read by all
            that is in the bundle.
    """

    def __init__(self, bundle: Bundle, encoder: Voice, companions: dict[str, Voice], max_pixels: int = MAX_PIXELS, evidence: str = UNCHECKED) -> None:
        self.bundle = bundle
        self.evidence = evidence
        self._encoder = encoder
        self._companions = companions
        self._max_pixels = max_pixels
        self._reference = Reference.of(bundle.reference, bundle.card.image) if bundle.reference is not None else None
        self._evidence = {task: bundle.scorecard.task(task) for task in encoder.heads}
        # no encoder stands without its controls: what it was not judged on (a confound such as a position) it is not asked
        self._tasks = [task for task in encoder.heads if self._evidence[task] or encoder.card.card.role != "encoder"]
        self._beside = {task: self._beside_of(task) for task in self._tasks}
        self._check_golden()
        self._try_out()

    @classmethod
    def open(
        cls,
        folder: Path,
        provider: str = "cpu",
        threads: int = 1,
        max_pixels: int = MAX_PIXELS,
        evidence: str = UNCHECKED,
        shared: bool = False,
        kind: EmbedderKind = OnnxEmbedder,
    ) -> Scorer:
        """Verify a bundle and load its networks.

        Args:
            folder: the bundle's directory.
            provider: "cpu", "cuda" or "tensorrt".
            threads: of a network.
            max_pixels: largest image, over all channels.
            evidence: in the words of `registry.staleness.Staleness`.
            shared: see `serving.embedders.OnnxEmbedder`.
            kind: what runs the networks.

        Raises:
            BundleError: altered, incomplete, of a row that cannot be served, or with data that something here cannot take.
            ProviderError: the provider asked for is not there.
        """
        try:
            return cls._opened(read_bundle(folder), provider, threads, max_pixels, evidence, shared, kind)
        except BlankslideError as error:
            if isinstance(error, BundleError | ProviderError):
                raise
            raise BundleError(f"`{folder}` cannot be opened: {error} Package the benchmark again.") from error
        except Exception as error:  # hashes say who wrote the data, not that a runtime or numpy can take it
            said = next(iter(str(error).splitlines()), "")
            raise BundleError(f"`{folder}` cannot be opened ({type(error).__name__}: {said}). Package the benchmark again.") from error

    @classmethod
    def _opened(cls, bundle: Bundle, provider: str, threads: int, max_pixels: int, evidence: str, shared: bool, kind: EmbedderKind) -> Scorer:
        if bundle.onnx is None:
            raise BundleError(f"`{bundle.name}` cannot be served: {bundle.card.unservable} Serve an encoder, or a control with an `encoder.onnx`.")

        def embedder(path: str, card: BundleCard) -> Embedder:
            return kind(bundle.verified_bytes(path), provider, threads, card.name, shared)

        encoder = Voice(bundle.card, embedder("encoder.onnx", bundle.card), heads_of(bundle.heads))
        companions = {
            row: Voice(found.card, embedder(f"companions/{row}/encoder.onnx", found.card), heads_of(found.heads))
            for row, found in bundle.companions.items()
        }
        return cls(bundle, encoder, companions, max_pixels, evidence)

    @property
    def name(self) -> str:
        """Name of the served row."""
        return self.bundle.name

    @cached_property
    def expected(self) -> ImageExpected:
        """The image it takes."""
        return ImageExpected.model_validate(self.bundle.card.image.as_dict())

    @cached_property
    def ref(self) -> ModelRef:
        """Which version answers."""
        return ModelRef(
            name=self.name,
            identity=self.bundle.identity,
            benchmark=self.bundle.card.benchmark,
            provider=self._encoder.embedder.provider,
            evidence=self.evidence,
        )

    @cached_property
    def facts(self) -> ModelFacts:
        """What there is to know before sending an image."""
        card = self.bundle.card
        return ModelFacts(
            **self.ref.model_dump(),
            role=card.card.role,
            summary=card.card.summary,
            dim=card.dim,
            tasks=self._tasks,
            companions=list(self._companions),
            image=self.expected,
        )

    @property
    def page(self) -> ModelPage:
        """Everything the bundle says."""
        card = self.bundle.card.card
        verdicts = [TaskVerdict(task=task, verdict=beside.verdict) for task, beside in self._beside.items() if beside.verdict is not None]
        scorecard = self.bundle.scorecard.as_dict()
        licence = Licence(**asdict(terms_of(card.licence)))
        return ModelPage(
            model=self.facts,
            licence=licence,
            citation=card.citation,
            example=f"There is no image: {self.withheld}." if self.withheld else self.example_terms[1],
            verdicts=verdicts,
            card=card.as_dict(),
            scorecard=scorecard,
        )

    @cached_property
    def voices(self) -> list[tuple[str, str, tuple[str, ...]]]:
        """What a reading holds probabilities of: task, "encoder", "twin" or "control", and labels in order."""
        found = []
        for task in self._tasks:
            rows = {"twin": self._beside[task].twin, "control": self._beside[task].control}
            found.append((task, "encoder", self._encoder.heads[task].classes))
            found += [(task, voice, self._companions[row].heads[task].classes) for voice, row in rows.items() if row is not None]
        return found

    @property
    def checked(self) -> str:
        """What its golden images said, in words that end a sentence."""
        if self.bundle.golden is None:
            return "it has no golden images to check"
        unchecked = [row for row, companion in self.bundle.companions.items() if companion.golden is None]
        if unchecked:
            rows = ", ".join(f"`{row}`" for row in unchecked)
            return f"its golden images agree, but it holds no golden answers of {rows}: write it again with `blankslide package`"
        return "its golden images agree"

    @property
    def withheld(self) -> str:
        """Why there is no example image, as a clause; "" if there is one."""
        return self.bundle.golden.withheld if self.bundle.golden is not None else "the bundle holds no images"

    @property
    def example_terms(self) -> tuple[str, str]:
        """Licence of the example image, and whose it is in a sentence; "" where there is none or the bundle does not say."""
        golden = self.bundle.golden
        return (golden.licence, golden.terms) if golden is not None and not golden.withheld else ("", "")

    def example(self) -> Image | None:
        """A real image the model takes, in the stored dtype; None if the bundle holds none that may be passed on (`withheld` says why)."""
        golden = self.bundle.golden
        if golden is None or golden.withheld:
            return None
        spec = self.bundle.card.image
        pixels = golden.pixels[0]
        stored = np.dtype(spec.dtype)
        if stored.kind == "u" and pixels.dtype != stored:
            pixels = np.clip(np.rint(pixels), 0, np.iinfo(stored).max)
        return Image(np.ascontiguousarray(pixels, dtype=stored), spec.channels, spec.pixel_size_um, "example")

    def embed(self, body: bytes) -> EmbeddingAnswer:
        """The embedding of one image file.

        Args:
            body: the bytes of a TIFF, OME-TIFF, PNG, JPEG or npy file.

        Raises:
            ImageError: not the image the model takes; says what was expected and what came.
        """
        frames = self.frames(FileSource(body))
        return self._embedding_answer(self._encoder.embedder.embed(frames.pixels)[0], (None, list(frames.warnings)))

    def read(self, body: bytes) -> Reading:
        """The reading of one image file; arguments and errors as `embed`."""
        answer = self.read_all([body])[0]
        if isinstance(answer, ImageError):
            raise answer
        return answer

    def read_all(self, bodies: Sequence[bytes]) -> list[Reading | ImageError]:
        """Readings of several image files in one pass through each network.

        Returns:
            One reading or error per body, in order: a bad image spoils no other.
        """
        found: dict[int, Reading | ImageError] = {}
        frames: dict[int, Frames] = {}
        for i, body in enumerate(bodies):
            try:
                frames[i] = self.frames(FileSource(body))
            except ImageError as error:
                found[i] = error
        answers = self.answers([Asked(frame, score=True) for frame in frames.values()])
        # what is asked for as a reading is answered by one
        found |= {i: cast(Reading | ImageError, answer) for i, (answer,) in zip(frames, answers, strict=True)}
        return [found[i] for i in range(len(bodies))]

    def channels(self, source: Source) -> Channels:
        """Pictures of an image's channels.

        Raises:
            ImageError: not an image, or of other channels.
        """
        return channels_of(source.image(self._max_pixels), self.bundle.card.image, self.ref)

    def frames(self, source: Source, framing: Framing = WHOLE) -> Frames:
        """Decode an image and bring it to what the model takes.

        Raises:
            ImageError: not the image the model takes; says what was expected and what came.
        """
        return frames_of(source.image(self._max_pixels), self.bundle.card.image, framing, self._max_pixels)

    def answers(self, asked: Sequence[Asked], alone: bool = True, timed: Timed = _untimed) -> list[list[Answer | ImageError]]:
        """Answers to several images in one pass through each network.

        Args:
            asked: the images.
            alone: whether nothing else is computed meanwhile, see `Embedder.embed`.
            timed: is told how long the stages "embed" (the encoder) and "score" (controls and heads) took.

        Returns:
            Per image, per tile, an `EmbeddingAnswer`, or a `Reading` where one was asked for, or an error.
        """
        if not asked:
            return []
        pixels = np.concatenate([a.frames.pixels for a in asked]) if len(asked) > 1 else asked[0].frames.pixels
        takes = [(tile, list(a.frames.warnings)) for a in asked for tile in a.frames.tiles]
        counts = [len(a.frames.tiles) for a in asked]
        flat = iter(self._pass(pixels, takes, np.repeat([a.score for a in asked], counts), alone, timed))
        return [list(islice(flat, count)) for count in counts]

    def _pass(self, pixels: PixelBatch, takes: Sequence[Take], scored: Mask, alone: bool, timed: Timed) -> list[Answer | ImageError]:
        """Answers to (n, c, y, x); if one image makes a network overflow, each is computed alone to find it."""
        which = np.flatnonzero(scored)
        try:
            start = perf_counter()
            encoder = self._encoder.embedder.embed(pixels, alone)
            timed("embed", perf_counter() - start)
            start = perf_counter()
            rest = pixels[which] if which.size < len(pixels) else pixels
            companions = {row: voice.embedder.embed(rest, alone) for row, voice in self._companions.items()} if which.size else {}
        except ImageError as error:
            if len(pixels) == 1:
                return [error]
            each = [slice(i, i + 1) for i in range(len(pixels))]
            return [answer for one in each for answer in self._pass(pixels[one], takes[one], scored[one], alone, timed)]
        place = {int(i): k for k, i in enumerate(which)}
        answers: list[Answer | ImageError] = [
            self._reading(pixels[i], encoder[i], {row: values[place[i]] for row, values in companions.items()}, take)
            if i in place
            else self._embedding_answer(encoder[i], take)
            for i, take in enumerate(takes)
        ]
        if which.size:
            timed("score", perf_counter() - start)
        return answers

    def _reading(self, pixels: PixelBatch, embedding: Embedding, companions: dict[str, Embedding], take: Take) -> Reading:
        placed = self._reference.place(embedding, pixels) if self._reference else None
        return Reading(
            model=self.ref,
            tile=take[0],
            warnings=take[1],
            embedding=embedding.tolist(),
            distance=placed.distance if placed else None,
            nearest=placed.nearest if placed else [],
            thumbnails=placed.thumbnails if placed else "",
            tasks=[self._task_reading(task, embedding, companions) for task in self._tasks],
            notes=self.bundle.scorecard.notes,
        )

    def _embedding_answer(self, embedding: Embedding, take: Take) -> EmbeddingAnswer:
        return EmbeddingAnswer(model=self.ref, tile=take[0], warnings=take[1], embedding=embedding.tolist())

    def _task_reading(self, task: str, embedding: Embedding, companions: dict[str, Embedding]) -> TaskReading:
        beside = self._beside[task]

        def said(row: str | None) -> Opinion | None:
            return self._companions[row].opinion(task, companions[row], beside.scores.get(row)) if row is not None else None

        return TaskReading(
            task=task,
            question=beside.question,
            encoder=self._encoder.opinion(task, embedding, beside.score),
            twin=said(beside.twin),
            control=said(beside.control),
            unservable=beside.unservable,
            verdict=beside.verdict,
        )

    def _beside_of(self, task: str) -> Beside:
        evidence = self._evidence[task]
        if evidence is None:
            return Beside("", None, {}, self._twin(task, {}), None, [], None)
        scores = {row: _benchmark_score(evidence, voice.card) for row, voice in self._companions.items()}
        control = evidence.servable_control
        served = control if control in self._companions and task in self._companions[control].heads else None
        unservable = [UnservableControl(name=u["name"], benchmark_score=u["value"], reason=u["reason"]) for u in evidence.unservable]
        if control and served is None:
            value = next((c.control_value for c in evidence.comparisons if c.control == control), None)
            unservable.append(UnservableControl(name=control, benchmark_score=value, reason="It was not packed into this bundle."))
        return Beside(evidence.question, evidence.value, scores, self._twin(task, scores), served, unservable, _verdict(evidence))

    def _twin(self, task: str, scores: dict[str, float | None]) -> str | None:
        """The twin with the best score: the verdict is against the stronger one."""

        def strength(row: str) -> float:
            score = scores.get(row)
            return score if score is not None else float("-inf")

        twins = [row for row, voice in self._companions.items() if voice.card.card.role == "twin" and task in voice.heads]
        return max(twins, key=strength, default=None)

    def _check_golden(self) -> None:
        """The bundle's own images must give the source framework's answers on this machine and provider."""
        golden = self.bundle.golden
        if golden is None:
            return
        embedding = self._encoder.embedder.embed(golden.pixels.astype(np.float32))
        _check(f"the embedding by `{self.name}`", embedding, golden.embedding, GOLDEN_SLACK * embedding_tolerance(golden.embedding))
        for task, expected in golden.probabilities.items():
            if task not in self._encoder.heads:
                raise BundleError(f"`{self.name}` has golden probabilities of task `{task}` and no head for it. Write the bundle again.")
            _check(f"`{task}` by `{self.name}`", self._encoder.heads[task].predict_proba(embedding), expected, PROBABILITY_TOLERANCE)
        # a reading weighs the encoder against them: where they compute wrong the encoder looks better than it is
        for row, companion in self.bundle.companions.items():
            if companion.golden is not None:
                came = self._companions[row].embedder.embed(golden.pixels.astype(np.float32))
                _check(f"the embedding by `{row}`", came, companion.golden, GOLDEN_SLACK * embedding_tolerance(companion.golden))

    def _try_out(self) -> None:
        """One image must be read, and the page said: what a companion, a head or the references cannot do is found here, not by a request."""
        golden, spec = self.bundle.golden, self.bundle.card.image
        middle = np.asarray([(low + high) / 2 for low, high in spec.intensity], np.float32)[:, None, None]
        pixels = golden.pixels[:1].astype(np.float32) if golden is not None else np.broadcast_to(middle, (1, *spec.shape)).copy()
        (answer,) = self._pass(pixels, [(None, [])], np.ones(1, np.bool_), True, _untimed)
        # an even image is no real one: what has no embedding of it may have one of all others
        if isinstance(answer, ImageError):
            if golden is not None:
                raise answer
            return
        answer.model_dump_json()
        self.page.model_dump_json()


def embedding_tolerance(embedding: ArrayLike) -> float:
    """Largest absolute difference allowed between offline and online on one machine: `MAX_RELATIVE` of the embeddings' root mean square."""
    values: Floats = np.asarray(embedding, np.float64)
    return MAX_RELATIVE * float(np.sqrt((values**2).mean()))


def _check(what: str, came: ArrayLike, expected: ArrayLike, tolerance: float) -> None:
    a, b = np.asarray(came, np.float64), np.asarray(expected, np.float64)
    if a.shape != b.shape:
        raise BundleError(f"Golden images: expected {what} of shape {b.shape}, got {a.shape}. Write the bundle again.")
    difference = float(np.abs(a - b).max())
    if not difference <= tolerance:
        raise BundleError(
            f"Golden images: expected {what} to agree with its source within {tolerance:.3g}, got a difference of {difference:.3g}."
            " This machine does not compute what was exported; it is not served."
        )


def _benchmark_score(evidence: TaskEvidence, companion: BundleCard) -> float | None:
    """The score of the companion's own kind of draw ("untrained-cnn/fresh" for member "fresh-03"), else of its row."""
    kind = companion.member.rstrip("0123456789").removesuffix("-")
    scores = {c.control: c.control_value for c in evidence.comparisons}
    return scores.get(f"{companion.name}/{kind}", scores.get(companion.name))


def _verdict(evidence: TaskEvidence) -> VerdictSaid:
    return VerdictSaid(word=evidence.word, sentence=evidence.sentence, detail=evidence.detail, metric=evidence.metric, confounded=evidence.confounded)

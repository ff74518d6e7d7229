"""What the service says, version 1. Both doors and the client share these models; a change that breaks a reader gets a new number."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, populate_by_name=True, serialize_by_alias=True, protected_namespaces=())


class _Answer(_Model):
    """Every top-level answer says which version of the schema it follows."""

    schema_version: Literal[1] = Field(default=1, alias="schema", description="Version of this schema.")


class ImageExpected(_Model):
    """The image a model takes."""

    formats: list[str] = Field(
        default=["TIFF", "OME-TIFF", "PNG", "JPEG", "npy"], description="Formats of the body, told apart by their first bytes."
    )
    channels: list[str] = Field(description="Channel names in order; a file that names its channels may hold them in another order.")
    dtype: str = Field(description="uint8, uint16 or float32, as stored.")
    height: int = Field(description="Rows, in pixels.")
    width: int = Field(description="Columns, in pixels.")
    intensity: list[tuple[float, float]] = Field(
        default=[], description="Per channel, the raw intensities (low, high) that the networks map to 0 and 1: the scale of the benchmark's images."
    )
    pixel_size_um: float | None = Field(description="Micrometres per pixel; null if the benchmark does not say.")
    resize: str = Field(description="`refuse`: other sizes are refused; `linear`: they are resampled.")


class ModelRef(_Model):
    """Which version answered."""

    name: str
    identity: str = Field(description="SHA-256 over card, weights and preprocessing: what makes a version a version.")
    benchmark: str = Field(description="The benchmark whose heads, scores and controls are quoted.")
    provider: str = Field(description="What it runs on: `cpu`, `cuda` or `tensorrt`; from TorchServe also `torch-cpu` or `torch-cuda`.")
    evidence: str = Field(
        default="not checked",
        description="Whether scores and verdicts are what would be computed when the service started: `current`, `stale: ...` or `not checked: ...`.",
    )


class ModelFacts(ModelRef):
    """One served model."""

    role: str
    summary: str
    dim: int = Field(description="Length of the embedding.")
    tasks: list[str]
    companions: list[str] = Field(description="Its twin and controls that a reading quotes.")
    image: ImageExpected


class Models(_Answer):
    """All served models."""

    models: list[ModelFacts]


class Tile(_Model):
    """Where in the image that was sent the answer comes from; pixels of the image after resampling, where it was resampled."""

    policy: Literal["whole", "grid", "centres"] = Field(description="How the field was cut: as the request asked.")
    y: int = Field(description="First row.")
    x: int = Field(description="First column.")
    height: int
    width: int
    resampled_from_um: float | None = Field(default=None, description="Micrometres per pixel of the image as sent, where it was resampled.")


class EmbeddingAnswer(_Answer):
    """The embedding of one image."""

    model: ModelRef
    tile: Tile | None = Field(default=None, description="null for the whole image as it was sent.")
    warnings: list[str] = Field(default=[], description="What is strange about the image as it was sent, such as intensities of another scale.")
    embedding: list[float] = Field(description="d numbers (float32), equal to the offline embedding within 1e-4 of its root mean square.")


class Opinion(_Model):
    """What one network's head says about the image."""

    row: str = Field(description="Name of the encoder or control.")
    role: str = Field(description="`encoder`, `twin`, `negative` or `positive`.")
    member: str = Field(description="Which draw of the row this is; of ten twins one is served.")
    predicted: str = Field(description="The most probable label.")
    probabilities: dict[str, float] = Field(description="Per label; they sum to 1.")
    benchmark_score: float | None = Field(description="The row's score on the benchmark, for weighing its opinion; null if not recorded.")


class UnservableControl(_Model):
    """A control that is stronger than the one quoted and cannot be computed on a single new image."""

    name: str
    benchmark_score: float | None
    reason: str


class VerdictSaid(_Model):
    """What the comparison with controls came to, on the benchmark; it does not depend on this image."""

    word: str = Field(description="`beats`, `loses`, `equivalent`, `undecided` or `not assessable`.")
    sentence: str
    detail: str
    metric: str
    confounded: bool = Field(description="Plate layout alone does better than the encoder: the task supports no conclusion.")


class TaskReading(_Model):
    """One task: the encoder's answer beside those of its controls."""

    task: str
    question: str
    encoder: Opinion
    twin: Opinion | None = Field(description="Its untrained (or shuffled) twin; null if none is in the bundle.")
    control: Opinion | None = Field(description="The best control that can be computed on a new image; null if there is none.")
    unservable: list[UnservableControl] = Field(description="Stronger controls that cannot be computed here, with the reason.")
    verdict: VerdictSaid | None = Field(description="null for a control, which is nothing to be judged.")


class Distance(_Model):
    """How far the image lies from the images the benchmark's heads were trained on."""

    nearest: float = Field(description="Euclidean distance to the nearest training image, every dimension standardised, divided by sqrt(d).")
    percentile: float = Field(description="Share of training images, in percent, that lie closer to their own nearest neighbour.")
    n_reference: int = Field(description="Training images compared with.")
    threshold: float | None = Field(default=None, description="Limit of `nearest`; null where it is not calibrated, `sentence` says why.")
    appearance: float | None = Field(
        default=None, description="As `nearest`, of what the image looks like (brightness, contrast, detail, channels) and not of its embedding."
    )
    appearance_threshold: float | None = Field(default=None, description="Limit of `appearance`.")
    unlike: bool | None = Field(
        default=None, description="Unlike anything scored before: beyond either limit, as 5 % of the images of a new unit are. null: not calibrated."
    )
    sentence: str


class Neighbour(_Model):
    """A training image that lies near."""

    image_id: str
    distance: float = Field(description="As `distance.nearest`.")
    labels: dict[str, str] = Field(description="Per task; tasks in which it takes no part are left out.")
    thumbnail: str | None = Field(
        description="A small picture as a data URI (JPEG); null where it may not travel or was not asked for, `thumbnails` says why."
    )


class Reading(EmbeddingAnswer):
    """What the service says about one image."""

    distance: Distance | None = Field(description="null if the bundle holds no reference embeddings.")
    nearest: list[Neighbour] = Field(default=[], description="The nearest training images, nearest first; [] if the bundle does not name them.")
    thumbnails: str = Field(default="", description="Whose the pictures of the nearest training images are, or why there are none.")
    tasks: list[TaskReading]
    notes: list[str] = Field(description="What belongs beside every result of this benchmark.")


class ErrorAnswer(_Answer):
    """What was wrong with a request."""

    error: str = Field(description="What was expected, what came, and the next step.")
    kind: str = Field(description="Class of the error.")
    status: int
    expected: dict[str, Any] | None = Field(default=None, description="What the model takes, where the image was at fault; else what is known.")
    request_id: str | None = Field(default=None, description="Under which the service's log has the request, where the service was at fault.")


class Licence(_Model):
    """A licence by what its name says."""

    stated: str
    open: bool = Field(description="Known to let anyone use, change and pass on for any purpose; a licence that is not known here is not.")
    noncommercial: bool = Field(description="Limits the purpose (NC).")
    no_derivatives: bool = Field(description="Forbids passing on changed copies (ND).")


class TaskVerdict(_Model):
    """The verdict of one task."""

    task: str
    verdict: VerdictSaid


class ModelPage(_Answer):
    """Everything the bundle says of one model."""

    model: ModelFacts
    licence: Licence = Field(description="Of the weights; whoever serves them is bound by it.")
    citation: str
    example: str = Field(default="", description="Whose the image of `/v1/example` is and under which licence, or why there is none.")
    verdicts: list[TaskVerdict] = Field(description="[] for a control, which is nothing to be judged.")
    card: dict[str, Any] = Field(description="The encoder card.")
    scorecard: dict[str, Any] = Field(description="Every score, comparison and note of the benchmark.")


class EmbeddedImage(_Model):
    """One image of several, or one tile of a field."""

    image: str = Field(description="Its file name in the request.")
    answer: EmbeddingAnswer | None = None
    error: ErrorAnswer | None = Field(default=None, description="Instead of an answer: one bad image spoils no other.")


class EmbeddingBatch(_Answer):
    """The embeddings of several images, in the order of the request; tiles of a field row by row, or in the order of their centres."""

    model: ModelRef
    images: list[EmbeddedImage]


class ReadImage(_Model):
    """One image of several, or one tile of a field."""

    image: str = Field(description="Its file name in the request.")
    answer: Reading | None = None
    error: ErrorAnswer | None = Field(default=None, description="Instead of an answer: one bad image spoils no other.")


class ReadingBatch(_Answer):
    """The readings of several images, in the order of the request; tiles of a field row by row, or in the order of their centres."""

    model: ModelRef
    images: list[ReadImage]


class ChannelPicture(_Model):
    """One channel for people to look at."""

    name: str
    low: float = Field(description="Intensity that is shown black.")
    high: float = Field(description="Intensity that is shown white.")
    png: str = Field(description="An 8-bit grey PNG as a data URI, at most 512 pixels a side.")


class Channels(_Answer):
    """The channels of one image, in the model's order."""

    model: ModelRef
    height: int = Field(description="Rows of the image as sent.")
    width: int = Field(description="Columns of the image as sent.")
    channels: list[ChannelPicture]


class Health(_Answer):
    """Whether the service runs (`live`) and answers for all its models (`ready`)."""

    live: bool
    ready: bool
    models: list[str]
    stale: dict[str, str] = Field(default={}, description="Models whose evidence is stale, with the reasons; they answer all the same.")

"""The evidence an encoder carries: its scorecard, one per benchmark, as data."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

WORDS = ("beats", "loses", "equivalent", "undecided", "not assessable")


@dataclass(frozen=True)
class ScoreEntry:
    """One number about one row on one task.

    Attributes:
        task: name of the task.
        metric: "<probe>.<metric>", for example "logistic.balanced_accuracy".
        variant: which draws, for rows of several kinds ("fresh", "calibrated"); "" otherwise.
        protocol_id: names every rule behind the number; numbers under different ids are never compared.
        value: the score; for a row of several members the mean over members.
        members: how many draws.
        sd_members: their standard deviation (ddof 1); 0 for one.
        low: lower end of the 95 % interval; None where the units or the metric do not allow one.
        high: upper end.
        n_images: images scored.
        n_units: units among them.
        n_eff: effective number of units.
        chance: the score of knowing nothing.
        primary: whether verdicts of the task are about this metric.
        other_wells: of replicate retrieval, the position control {"value", "low", "high", "chance", "n_images", "protocol_id", "note"}: the same
            score with positives in other wells only. Where the design forbids it, `value` is None and `note` says why. {} for other metrics and in
            evidence of before it was asked.
    """

    task: str
    metric: str
    variant: str
    protocol_id: str
    value: float
    members: int
    sd_members: float
    low: float | None
    high: float | None
    n_images: int
    n_units: int
    n_eff: float
    chance: float
    primary: bool
    other_wells: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Comparison:
    """The encoder against one control on one task.

    Attributes:
        control: the control's row.
        role: "twin", "negative", or "aside" (a confound or a positive control: shown, decides nothing).
        gain: encoder minus control.
        low: lower bound at alpha (0.025 one-sided).
        high: upper bound at alpha.
        high_corrected: upper bound at alpha / number of controls.
        p: one-sided p of "encoder is better".
        control_value: the control's score.
        low_of_mean: lower bound at alpha of the gain over the mean of the twin's draws, by which `equivalent` is decided; `low` where
            the control is a single row, None where the evidence does not say.
        high_of_mean: its upper bound.
    """

    control: str
    role: str
    gain: float
    low: float | None
    high: float | None
    high_corrected: float | None
    p: float | None
    control_value: float
    low_of_mean: float | None = None
    high_of_mean: float | None = None

    @property
    def several(self) -> bool:
        """Whether the control is several draws, and so has two intervals."""
        return self.low_of_mean is not None and (self.low_of_mean, self.high_of_mean) != (self.low, self.high)


@dataclass(frozen=True)
class AtCommonDim:
    """The verdict on one task once more, every row projected to at most `dim` principal components: does it hang on their sizes?

    Attributes:
        dim: most components, fitted on outer-train images.
        word: verdict over all negative controls and twins, one of WORDS, corrected over the same cells as the main one.
        value: the encoder's score.
        gain: smallest gain.
        low: lower bound of the interval that decided the word; None if not assessable.
        high: its upper bound.
        against: the control that gives the smallest gain.
        refitted: rows that had more components and were fitted again, of those compared; [] = nothing differs, by construction.
        sentence: this in words.
    """

    dim: int
    word: str
    value: float
    gain: float | None
    low: float | None
    high: float | None
    against: str
    refitted: list[str]
    sentence: str


@dataclass(frozen=True)
class TaskEvidence:
    """What the controls say about one encoder on one task.

    Attributes:
        task: name.
        question: the task in words.
        metric: the primary metric.
        protocol_id: of that metric.
        value: the encoder's score.
        word: verdict over all negative controls and twins, one of WORDS.
        twin_word: verdict against its twins alone.
        p: largest p over the controls (intersection-union); None if not assessable.
        p_holm: after Holm over the declared cells; None likewise.
        gain: smallest gain, None if not assessable.
        low: smallest lower bound.
        high: smallest upper bound at alpha / m.
        against: the control that gives the smallest gain.
        n_units: units.
        n_eff: effective number.
        sentence: the verdict in words.
        detail: why, what difference could have been detected, how many units it would take.
        comparisons: one per control.
        share_of_gap: {"value", "low", "high", "note"}: Fieller, against `oracle`.
        beyond: {"bits", "low", "high", "word", "sentence", "note"}: conditional usable information beyond the controls.
        servable_control: best control a server can compute on a new image; "" if none.
        unservable: controls better than it that a server cannot compute: {"name", "value", "reason"}.
        confounded: `layout` beats the encoder.
        per_unit: score of each unit, where the units are too few for an interval.
        low_of_mean: as `low`, over the means of the twins' draws: the interval by which `equivalent` is decided.
        high_of_mean: as `high`, likewise.
        negligible: that interval lies inside the margin, whatever the word.
        at_common_dim: the sensitivity run; None for a metric without a probe.
        shortcut: {"value", "low", "high", "note", "score", "sentence", "protocol_id"}: share of the score above chance that `intensity` and
            `histogram` reach together, Fieller; {} for a metric without a probe, and in evidence of before it was asked.
        verdict_protocol: names the rule that says the words; "" in evidence of before it was recorded.
    """

    task: str
    question: str
    metric: str
    protocol_id: str
    value: float
    word: str
    twin_word: str
    p: float | None
    p_holm: float | None
    gain: float | None
    low: float | None
    high: float | None
    against: str
    n_units: int
    n_eff: float
    sentence: str
    detail: str
    comparisons: list[Comparison] = field(default_factory=list)
    share_of_gap: dict[str, Any] = field(default_factory=dict)
    beyond: dict[str, Any] = field(default_factory=dict)
    servable_control: str = ""
    unservable: list[dict[str, Any]] = field(default_factory=list)
    confounded: bool = False
    per_unit: dict[str, float] = field(default_factory=dict)
    low_of_mean: float | None = None
    high_of_mean: float | None = None
    negligible: bool = False
    at_common_dim: AtCommonDim | None = None
    shortcut: dict[str, Any] = field(default_factory=dict)
    verdict_protocol: str = ""

    @property
    def by_mean(self) -> bool:
        """Whether the interval that decided is the one over the means of the twins' draws and differs from the other."""
        return self.word == "equivalent" and self.low_of_mean is not None and (self.low_of_mean, self.high_of_mean) != (self.low, self.high)

    @property
    def interval(self) -> tuple[float | None, float | None]:
        """The interval that decided the word: over the means of the twins' draws for `equivalent`, else [low, high]."""
        return (self.low_of_mean, self.high_of_mean) if self.by_mean else (self.low, self.high)


@dataclass(frozen=True)
class Scorecard:
    """All scores and verdicts of one row on one benchmark: what the registry stores and the server returns.

    Attributes:
        row: name of the encoder or control.
        role: its role.
        benchmark: name.
        benchmark_title: for people.
        data_hash: identifies pixels, labels and split.
        unit: what is independent, in words.
        notes: sentences that belong beside every result of the benchmark.
        not_applicable: why the row has no scores here; "" if it has.
        flags: "collapsed", "low_rank", per embedding.
        scores: every number.
        tasks: verdicts; [] for controls.
        provenance: package versions, parameters, card hash (no times, no paths, no run ids).
        modality: of the benchmark ("cells", "tissue", "natural"): what `beats_controls.<modality>` is tagged by.
        at_common_dim: the primary scores of a probe once more, at most `diagnose.common_dim` principal components: a sensitivity run.
        beside: protocol ids of what was asked of the row beside its tasks ("replicates", "knowledge", "hest_cv"), by what was asked; None in
            evidence of before they were recorded.
    """

    row: str
    role: str
    benchmark: str
    benchmark_title: str
    data_hash: str
    unit: str
    notes: list[str] = field(default_factory=list)
    not_applicable: str = ""
    flags: list[str] = field(default_factory=list)
    scores: list[ScoreEntry] = field(default_factory=list)
    tasks: list[TaskEvidence] = field(default_factory=list)
    provenance: dict[str, Any] = field(default_factory=dict)
    modality: str = ""
    at_common_dim: list[ScoreEntry] = field(default_factory=list)
    beside: dict[str, list[str]] | None = None

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> Scorecard:
        """The inverse of `as_dict`."""
        entries = {name: [ScoreEntry(**s) for s in value.get(name, [])] for name in ("scores", "at_common_dim")}
        return cls(**{**value, **entries, "tasks": [_task(task) for task in value["tasks"]]})

    def task(self, name: str) -> TaskEvidence | None:
        """The verdict on one task, None if there is none."""
        return next((task for task in self.tasks if task.task == name), None)


def _task(value: dict[str, Any]) -> TaskEvidence:
    again = value.get("at_common_dim")
    comparisons = [Comparison(**c) for c in value["comparisons"]]
    return TaskEvidence(**{**value, "comparisons": comparisons, "at_common_dim": AtCommonDim(**again) if again else None})

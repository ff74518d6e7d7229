"""The claims of the study "Deep Learning for BioImaging: What Are We Learning?" (arXiv 2603.13377), each tested on what is in this workspace.

A claim is not repeated here but computed: from the scorecards of every encoder on trial, by a rule that is printed with it. Its word is one of
`supported here`, `in part`, `not supported here`, `undecided` (there are data, and they cannot tell) and `not tested here` (there are none).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from registry.evidence import Comparison, Scorecard, ScoreEntry, TaskEvidence

SUPPORTED, IN_PART, NOT_SUPPORTED, UNDECIDED, NOT_TESTED = "supported here", "in part", "not supported here", "undecided", "not tested here"
NATURAL = "natural"
CONFOUND = "layout"
#: metrics of which less is better
SMALLER_IS_BETTER = ("log_loss_bits", "calibration_error")
#: scores closer than this are the same
SAME = 1e-9
#: what a control that is ahead says the encoder lacks
LACKS = {
    "density": "how many cells there are",
    "intensity": "brightness and its spread, channel by channel",
    "histogram": "the distribution of intensities",
    "spectrum": "how much structure there is at each scale",
    "texture": "local texture",
    "pixels-pca": "the coarse picture itself",
    "composition": "the proportions of cell types",
    "point-process": "how nuclei lie to each other",
    "cell-graph": "which cells are neighbours",
    "layout": "the place on the plate, which is no biology: the benchmark is confounded",
}
Line = tuple[str, ...]


@dataclass(frozen=True)
class Claim:
    """One claim and what became of it here.

    Attributes:
        name: short, for anchors.
        says: the claim as the study makes it.
        rule: by which the word is decided.
        word: supported here, in part, not supported here, undecided, not tested here.
        found: one sentence on what was found.
        columns: headings of the table.
        lines: the table.
        command: what makes the numbers.
    """

    name: str
    says: str
    rule: str
    word: str
    found: str
    columns: Line
    lines: tuple[Line, ...]
    command: str


@dataclass(frozen=True)
class Case:
    """One encoder on one task, with the scorecards of all rows of that benchmark."""

    card: Scorecard
    task: TaskEvidence
    rows: tuple[Scorecard, ...]

    @property
    def where(self) -> Line:
        """Encoder, benchmark, task."""
        return self.card.row, self.card.benchmark, self.task.task


def claims(cards: Sequence[Scorecard]) -> list[Claim]:
    """Every claim of the study, in its order, from the scorecards of a workspace."""
    cases = [
        Case(card, task, tuple(c for c in cards if c.benchmark == card.benchmark)) for card in cards if card.role == "encoder" for task in card.tasks
    ]
    biology = [case for case in cases if case.card.modality != NATURAL]
    return [comparable(biology), contrast(cases), masked(biology), missing(biology), improve(biology)]


# ------------------------------------------------------------------------------------------------ the claims


def comparable(cases: Sequence[Case]) -> Claim:
    """Trained encoders do about as well as untrained ones and structural baselines."""
    lines = [(*case.where, case.task.word, case.task.twin_word, _gain(case.task), case.task.against) for case in cases]
    words = [case.task.word for case in cases]
    for_it, against = sum(w in ("equivalent", "loses") for w in words), words.count("beats")
    return Claim(
        name="comparable",
        says="On microscopy, trained encoders are comparable to untrained networks and to simple structural baselines.",
        rule="A task is for it where a control is ahead (`loses`) or as good within the margin (`equivalent`), and against it where the encoder"
        " `beats` all of them; supported where all that are decided are for it, in part where some are.",
        word=_decide(for_it, against, len(words)),
        found=f"A control is as good or better on {for_it} of {_tasks(len(words))}, the encoder beats every control on {against},"
        f" and {len(words) - for_it - against} cannot be decided with these units.",
        columns=("encoder", "benchmark", "task", "verdict", "its twins alone", "smallest gain", "against"),
        lines=tuple(lines),
        command="dvc repro",
    )


def contrast(cases: Sequence[Case]) -> Claim:
    """On natural images training is worth more than on microscopy."""
    # the same network may be listed under several benchmarks; a pair is one encoder on two of them
    found = [(case, step) for case in cases if (step := _training_gain(case)) is not None]
    natural = [(case, step) for case, step in found if case.card.modality == NATURAL]
    lines, for_it, against, pairs = [], 0, 0, 0
    for case, step in found:
        for other, theirs in natural:
            if case.card.modality == NATURAL or other.card.row != case.card.row:
                continue
            pairs += 1
            gap = theirs.minus(step)
            for_it, against = for_it + (gap.low > 0), against + (gap.high < 0)
            lines.append((*case.where, step.text, f"{other.card.benchmark}/{other.task.task}", theirs.text, gap.text))
    return Claim(
        name="contrast",
        says="On natural images the same comparison comes out otherwise: there, trained encoders are clearly ahead of untrained ones.",
        rule="The gain over the stronger kind of untrained twin, as a share of what chance leaves, natural minus microscopy, for one encoder on both;"
        " intervals by MOVER (Zou and Donner 2008). Supported where every interval lies above 0, in part where some do. Numbers of"
        " classes and images are those of the benchmarks: nothing is matched unless the benchmarks are.",
        word=_decide_every(for_it, against, pairs),
        found="There is no benchmark of natural images with the same encoder in this workspace."
        if not pairs
        else f"Training is worth more on natural images in {for_it} of {pairs} comparisons, less in {against}.",
        columns=("encoder", "benchmark", "task", "gain of training", "natural images", "gain of training there", "difference"),
        lines=tuple(lines),
        command="blankslide --workspace study study FOLDER (with a folder of natural images)",
    )


def masked(cases: Sequence[Case]) -> Claim:
    """Usual metrics cannot tell an encoder from a baseline."""
    tally: dict[str, list[tuple[bool, bool]]] = {}
    for case in cases:
        for entry in case.card.scores:
            if entry.task == case.task.task:
                reached = [_reaches(entry, row, case.task.task) for row in case.rows if row.role in ("twin", "negative") and row.row != CONFOUND]
                twins = [_reaches(entry, row, case.task.task) for row in case.rows if row.role == "twin"]
                tally.setdefault(entry.metric, []).append((any(reached), any(twins)))
    lines, blind = [], 0
    for metric, pairs in tally.items():
        by_any, by_twins = sum(a for a, _ in pairs), sum(t for _, t in pairs)
        blind += 2 * by_any >= len(pairs)
        lines.append((metric, str(len(pairs)), f"{by_any} ({by_any / len(pairs):.0%})", f"{by_twins} ({by_twins / len(pairs):.0%})"))
    return Claim(
        name="masked",
        says="The usual metrics mask this: by them an encoder often cannot be told from a baseline.",
        rule="For each metric the share of encoder and task pairs in which some twin or control scores at least as high. Supported where that is half"
        " or more for most metrics, in part where it is for some. `blankslide ladder` tests the metrics themselves, on encoders of known quality.",
        word=_decide(blind, len(tally) - blind, len(tally)) if 2 * blind <= len(tally) or not tally else SUPPORTED,
        found=f"{blind} of {len(tally)} metrics put a control level with the encoder, or ahead, in at least half of {_tasks(len(cases))}.",
        columns=("metric", "pairs", "a control scores as high", "an untrained or shuffled twin does"),
        lines=tuple(lines),
        command="dvc repro",
    )


def missing(cases: Sequence[Case]) -> Claim:
    """Encoders lack features that could be learned."""
    lines, short, whole, told = [], 0, 0, 0
    for case in cases:
        gap, bits = case.task.share_of_gap, case.task.beyond
        low, high = gap.get("low"), gap.get("high")
        if low is not None and high is not None:
            told += 1
            short, whole = short + (high < 1), whole + (low >= 1)
        share = "–" if low is None or high is None else f"[{low:.2f}, {high:.2f}]"
        lines.append((*case.where, share, str(gap.get("note") or ""), _bits(bits)))
    return Claim(
        name="missing",
        says="Features that would need more than counting and texture are missing from the encoders.",
        rule="How far each encoder has come from its best control (0) to the positive control (1), by Fieller. Supported where the whole interval"
        " lies below 1 on every task that has one, in part where on some.",
        word=_decide_every(short, whole, told) if told else (UNDECIDED if cases else NOT_TESTED),
        found=f"The ceiling is clear of the best control on {told} of {_tasks(len(cases))}; on {short} the encoder falls short of it.",
        columns=("encoder", "benchmark", "task", "share of the gap", "why there is none", "bits beyond its controls"),
        lines=tuple(lines),
        command="dvc repro",
    )


def improve(cases: Sequence[Case]) -> Claim:
    """The comparison says what to improve."""
    lines = []
    for case in cases:
        known = [c for c in case.task.comparisons if c.role == "negative" or c.control == CONFOUND]
        ahead = [c for c in known if c.high_corrected is not None and c.high_corrected < 0]
        lines += [(*case.where, c.control, f"{-c.gain:.3f}", LACKS.get(c.control, "what it is made of")) for c in sorted(ahead, key=lambda c: c.gain)]
    named = {line[:3] for line in lines}
    return Claim(
        name="improve",
        says="Comparing an encoder with its baselines shows what to improve.",
        rule="Controls that are ahead of the encoder beyond doubt (upper bound of its gain below 0), and what each of them knows. Supported where"
        " there is one.",
        word=(SUPPORTED if lines else NOT_SUPPORTED) if cases else NOT_TESTED,
        found=f"On {len(named)} of {_tasks(len(cases))} a control is ahead, and names what the encoder lacks.",
        columns=("encoder", "benchmark", "task", "control ahead", "by", "what it knows"),
        lines=tuple(lines),
        command="dvc repro",
    )


# ------------------------------------------------------------------------------------------------ how a word is decided


def _decide(for_it: int, against: int, of: int) -> str:
    if not of:
        return NOT_TESTED
    if not for_it and not against:
        return UNDECIDED
    if for_it and against:
        return IN_PART
    return SUPPORTED if for_it else NOT_SUPPORTED


def _decide_every(for_it: int, against: int, of: int) -> str:
    """As `_decide`, but what is undecided stands in the way of more than `in part`."""
    word = _decide(for_it, against, of)
    return IN_PART if word == SUPPORTED and for_it < of else word


@dataclass(frozen=True)
class Step:
    """A gain with its interval."""

    gain: float
    low: float
    high: float

    @property
    def text(self) -> str:
        """ "0.120 [0.080, 0.160]"."""
        return f"{self.gain:.3f} [{self.low:.3f}, {self.high:.3f}]"

    def minus(self, other: Step) -> Step:
        """The difference of two independent gains; its interval from theirs (MOVER, Zou and Donner 2008)."""
        gain = self.gain - other.gain
        low = gain - math.hypot(self.gain - self.low, other.high - other.gain)
        high = gain + math.hypot(self.high - self.gain, other.gain - other.low)
        return Step(gain, low, high)


def _training_gain(case: Case) -> Step | None:
    """Over the mean of the stronger kind of untrained twin, as a share of what chance leaves; None without an interval."""
    untrained = [c for c in case.task.comparisons if c.role == "twin" and not c.control.startswith("shuffled-")]
    chance = next((s.chance for s in case.card.scores if s.task == case.task.task and s.primary), None)
    if not untrained or chance is None or chance >= 1:
        return None
    best: Comparison = max(untrained, key=lambda c: c.control_value)
    low, high = (best.low_of_mean, best.high_of_mean) if best.low_of_mean is not None else (best.low, best.high)
    if low is None or high is None:
        return None
    left = 1 - chance
    return Step(best.gain / left, low / left, high / left)


def _reaches(entry: ScoreEntry, row: Scorecard, task: str) -> bool:
    """Whether a row scores at least as well as an encoder under the same protocol."""
    better: Callable[[float], bool] = (
        (lambda v: v <= entry.value + SAME) if entry.metric.partition(".")[2] in SMALLER_IS_BETTER else (lambda v: v >= entry.value - SAME)
    )
    return any(better(s.value) for s in row.scores if (s.task, s.metric, s.protocol_id) == (task, entry.metric, entry.protocol_id))


def _gain(task: TaskEvidence) -> str:
    low, high = task.interval
    return "–" if task.gain is None else f"{task.gain:.3f}" + ("" if low is None or high is None else f" [{low:.3f}, {high:.3f}]")


def _bits(beyond: dict[str, object]) -> str:
    bits, low, high, word = (beyond.get(key) for key in ("bits", "low", "high", "word"))
    if not isinstance(bits, float):
        return "–"
    return f"{bits:.3f}" + (f" [{low:.3f}, {high:.3f}]" if isinstance(low, float) and isinstance(high, float) else "") + (f", {word}" if word else "")


def _tasks(n: int) -> str:
    return "1 task" if n == 1 else f"{n} tasks"

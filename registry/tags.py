"""What a user searches the registry by: tags, metrics and a description, from one scorecard.

| tag of a version | value |
|---|---|
| `blankslide.identity` | hash of card, weights and preprocessing |
| `role` | encoder, twin, negative, positive |
| `modality` | cells, tissue, natural |
| `servable` | true, false |
| `verdict.<benchmark>.<task>` | beats, loses, equivalent, undecided, not assessable |
| `twin_verdict.<benchmark>.<task>` | the same against its twins alone |
| `confounded.<benchmark>` | `layout` beats the encoder |
| `beats_controls.<modality>` | true if on some task of that modality it beats its twins and every negative control, Holm over its tasks |
| `beats_twins.<modality>` | true if on some task it beats its twins |
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from registry.bundle import Bundle
from registry.cards import EncoderCard
from registry.evidence import Scorecard
from registry.gates import task_lines

IDENTITY = "blankslide.identity"
BEATS = ("beats_controls", "beats_twins")


def fixed_tags(bundle: Bundle) -> dict[str, str]:
    """Tags that a version has from birth."""
    return {IDENTITY: bundle.identity, "role": bundle.card.card.role, "servable": "true" if bundle.onnx else "false"}


def evidence_tags(scorecard: Scorecard) -> dict[str, str]:
    """Tags that one benchmark's scorecard gives; `<beats>.<modality>.<benchmark>` are summed up by `summary_tags`."""
    name = scorecard.benchmark
    tags = {f"verdict.{name}.{task.task}": task.word for task in scorecard.tasks}
    tags |= {f"twin_verdict.{name}.{task.task}": task.twin_word for task in scorecard.tasks}
    if scorecard.modality:
        tags["modality"] = scorecard.modality
    if scorecard.role == "encoder":
        tags[f"confounded.{name}"] = _word(any(task.confounded for task in scorecard.tasks))
        wins = {"beats_controls": any(line.beats for line in task_lines([scorecard]))}
        wins["beats_twins"] = any(task.twin_word == "beats" for task in scorecard.tasks)
        tags |= {f"{kind}.{scorecard.modality}.{name}": _word(won) for kind, won in wins.items() if scorecard.modality}
    return tags


def summary_tags(tags: dict[str, str]) -> dict[str, str]:
    """`beats_controls.<modality>` and `beats_twins.<modality>` over all benchmarks of one version.

    Args:
        tags: all tags of the version.
    """
    summary: dict[str, bool] = {}
    for key, value in tags.items():
        parts = key.split(".")
        if len(parts) == 3 and parts[0] in BEATS:
            short = f"{parts[0]}.{parts[1]}"
            summary[short] = summary.get(short, False) or value == "true"
    return {key: _word(value) for key, value in summary.items()}


def model_tags(versions: Sequence[dict[str, str]]) -> dict[str, str]:
    """Tags of a registered model, by which the list of models is searched.

    Args:
        versions: tags of those versions that carry a benchmark's alias.
    """
    found: dict[str, bool] = {}
    for tags in versions:
        for key, value in tags.items():
            if key.count(".") == 1 and key.split(".")[0] in BEATS:
                found[key] = found.get(key, False) or value == "true"
        if "modality" in tags:
            found[f"modality.{tags['modality']}"] = True
    return {key: _word(value) for key, value in found.items()}


def metrics(scorecard: Scorecard) -> dict[str, float]:
    """Metrics of a run and of its logged model, `<task>/<metric>`; what is not a finite number is left out."""
    return {key: value for key, value in _metrics(scorecard) if value is not None and math.isfinite(value)}


def _metrics(scorecard: Scorecard) -> Iterator[tuple[str, float | None]]:
    primary = {(entry.task, entry.metric): entry.protocol_id for entry in scorecard.scores if entry.primary}
    for entry in scorecard.scores:
        name = f"{entry.task}/{entry.metric}{f'.{entry.variant}' if entry.variant else ''}"
        if primary.get((entry.task, entry.metric), entry.protocol_id) != entry.protocol_id:
            name += f".{entry.protocol_id}"
        yield from ((name, entry.value), (f"{name}.low", entry.low), (f"{name}.high", entry.high))
    for task in scorecard.tasks:
        yield from ((f"{task.task}/gain", task.gain), (f"{task.task}/gain.low", task.low), (f"{task.task}/gain.high", task.high))
        yield from ((f"{task.task}/p_holm", task.p_holm), (f"{task.task}/beyond.bits", task.beyond.get("bits")))


def params(card: EncoderCard, dim: int) -> dict[str, str]:
    """Parameters of a run and of its logged model."""
    return {
        "architecture": card.architecture,
        "weights": card.weights,
        "channel_strategy": card.channel_strategy,
        "input_px": str(card.input_px),
        "pooling": card.pooling,
        "dim": str(dim),
    }


def description(bundle: Bundle) -> str:
    """What a version's page says first, in Markdown."""
    scorecard = bundle.scorecard
    lines = [bundle.card.card.summary, "", f"**{scorecard.benchmark_title}** (unit: {scorecard.unit})", ""]
    lines += [f"- {task.sentence}" for task in scorecard.tasks]
    lines += [f"- not applicable: {scorecard.not_applicable}"] if scorecard.not_applicable else []
    lines += [f"- not servable: {bundle.card.unservable}"] if bundle.card.unservable else []
    lines += [f"- {note}" for note in scorecard.notes]
    return "\n".join(lines)


def _word(value: bool) -> str:
    return "true" if value else "false"

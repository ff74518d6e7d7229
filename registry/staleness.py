"""Is a scorecard still what would be computed now? A pure function from evidence and current facts to reasons in words.

Evidence is stale where the benchmark, a protocol, a setting or a library that numbers hang on is another one than it was
made with. The rule knows nothing of code: a change of a rule must change its protocol id, and a test sees to it
(docs/decisions/0020-counted-protocols.md). What counts, and why: docs/decisions/0010-stale-evidence.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from typing import Any

from registry.evidence import Scorecard

#: libraries whose release can change a number, by the step that records them: any other version counts, a patch release too
DECODERS = ("imagecodecs", "pillow", "tifffile")
NETWORK = ("numpy", "torch", *DECODERS)
TIMM_NETWORK = (*NETWORK, "timm")
FORMULA = ("numpy", "scipy", "scikit-image", "torch", *DECODERS)
SCORES = ("numpy", "scipy", "scikit-learn")
VERDICTS = (*SCORES, "onnxruntime-gpu")
#: the steps that make evidence, in order
STEPS = ("train", "extract", "evaluate", "diagnose")
#: what a verdict holds beside scores, in words
BITS, SHARE = "bits beyond the controls", "share that brightness reaches"
#: tags of a version
STALE, FRESH = "stale", "no"
#: reasons that a tag or a line names one by one
LISTED = 4


@dataclass(frozen=True)
class Current:
    """What evidence on one benchmark would be made with now.

    Attributes:
        data_hash: of the benchmark's index.
        benchmark_card: sha256 of its `card.json`; "" is not compared.
        protocols: protocol id by the first part of a metric's name ("logistic", "retrieval").
        common_dim: the same for the sensitivity run at a common dimension.
        beyond: protocol id of the bits beyond the controls; "" where they are not computed.
        shortcut: protocol id of the share that brightness reaches.
        other_wells: protocol id of retrieval with positives in other wells only.
        beside: every protocol id that an answer beside the tasks may carry, by what is asked ("replicates", "hest_cv").
        asked: what of that is asked of every row with vectors; evidence that records no id of it is of unknown rules.
        verdict: protocol id of the rule that says the words; "" is not compared.
        versions: of the installed libraries; one that is not there is not installed.
        settings: what the scorecard's provenance records under "evaluate", "diagnose" and "seed".
        card_hash: of the row's encoder card; "" is not compared.
    """

    data_hash: str
    benchmark_card: str = ""
    protocols: Mapping[str, str] = field(default_factory=dict)
    common_dim: Mapping[str, str] = field(default_factory=dict)
    beyond: str = ""
    shortcut: str = ""
    other_wells: str = ""
    beside: Mapping[str, Sequence[str]] = field(default_factory=dict)
    asked: Sequence[str] = ()
    verdict: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    card_hash: str = ""


@dataclass(frozen=True)
class Reason:
    """Why evidence is stale.

    Attributes:
        cause: "data", "card", "protocol", "settings" or "library".
        step: the first of STEPS that has to run again.
        sentence: what was found and what is so now, without a full stop.
    """

    cause: str
    step: str
    sentence: str


@dataclass(frozen=True)
class Staleness:
    """What is known about one piece of evidence.

    Attributes:
        reasons: why it is stale; () if it is not, or not known to be.
        unchecked: why it could not be checked here; "" if it was.
    """

    reasons: tuple[Reason, ...] = ()
    unchecked: str = ""

    @property
    def stale(self) -> bool:
        """Whether it is known to be stale."""
        return bool(self.reasons)

    @property
    def because(self) -> str:
        """The reasons in one line; `FRESH` where there are none."""
        if not self.reasons:
            return FRESH
        more = len(self.reasons) - LISTED
        return "; ".join([*(reason.sentence for reason in self.reasons[:LISTED]), *([f"and {more} more"] if more > 0 else [])])

    def __str__(self) -> str:
        if self.unchecked:
            return f"not checked: {self.unchecked}"
        return f"stale: {self.because}" if self.stale else "current"


#: what a workspace says about a scorecard; the second argument is the hash of the row's card, "" if it is not known
Judge = Callable[[Scorecard, str], Staleness]


def staleness(scorecard: Scorecard, current: Current) -> Staleness:
    """Whether a scorecard is what would be computed now.

    Args:
        scorecard: of one row on one benchmark.
        current: facts of now about that benchmark and row.
    """
    found = [*_data(scorecard, current), *_card(scorecard, current), *_protocols(scorecard, current), *_beside(scorecard, current)]
    found += _verdict(scorecard, current)
    if not any(reason.cause == "protocol" for reason in found):
        found += _settings(scorecard, current, "evaluate")
    found += [*_settings(scorecard, current, "diagnose"), *_seed(scorecard, current), *_libraries(scorecard, current)]
    return Staleness(tuple(found))


def installed() -> dict[str, str]:
    """Versions of the libraries that count, without importing them."""
    return versions_of(sorted({*TIMM_NETWORK, *FORMULA, *VERDICTS}))


def versions_of(names: Sequence[str]) -> dict[str, str]:
    """Versions of those of the named packages that are installed."""
    found = {}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def from_tags(tags: Mapping[str, str], benchmark: str) -> Staleness:
    """What the registry says about a version's evidence on one benchmark: the last check of a workspace that holds it."""
    said = tags.get(f"{STALE}.{benchmark}", "")
    if not said:
        return Staleness(unchecked="no workspace that holds the benchmark has looked yet")
    return Staleness() if said == FRESH else Staleness((Reason("", STEPS[0], said),))


def tags_of(found: Mapping[str, Staleness], known: Mapping[str, str]) -> dict[str, str]:
    """Tags of a version: `stale.<benchmark>` for each that was checked, and `stale` over all benchmarks.

    Args:
        found: by benchmark; one that could not be checked here keeps what was known.
        known: the version's tags.
    """
    tags = {f"{STALE}.{benchmark}": each.because for benchmark, each in found.items() if not each.unchecked}
    words = [value for key, value in {**known, **tags}.items() if key.startswith(f"{STALE}.") and value]
    return {**tags, STALE: "true" if any(word != FRESH for word in words) else "false"} if words else {}


def _data(scorecard: Scorecard, current: Current) -> Iterator[Reason]:
    name, recorded = scorecard.benchmark, scorecard.provenance.get("benchmark_card", "")
    if scorecard.data_hash != current.data_hash:
        yield Reason("data", "train", f"the index of `{name}` has sha256 {current.data_hash[:12]} now, it had {scorecard.data_hash[:12]}")
    elif recorded and current.benchmark_card and recorded != current.benchmark_card:
        yield Reason("data", "extract", f"the card of `{name}` has sha256 {current.benchmark_card[:12]} now, it had {recorded[:12]}")


def _card(scorecard: Scorecard, current: Current) -> Iterator[Reason]:
    recorded = scorecard.provenance.get("card_hash", "")
    if recorded and current.card_hash and recorded != current.card_hash:
        yield Reason("card", "extract", f"the card of `{scorecard.row}` has sha256 {current.card_hash[:12]} now, it had {recorded[:12]}")


def _protocols(scorecard: Scorecard, current: Current) -> Iterator[Reason]:
    pairs: dict[tuple[str, str, str], list[str]] = {}
    for step, entries, ids in (("evaluate", scorecard.scores, current.protocols), ("diagnose", scorecard.at_common_dim, current.common_dim)):
        for entry in entries:
            now = ids.get(entry.metric.partition(".")[0], "")
            if entry.protocol_id != now:
                pairs.setdefault((step, now, entry.protocol_id), []).append(entry.metric)
    for entry in scorecard.scores:
        was, now = entry.other_wells.get("protocol_id", ""), current.other_wells
        if was and was != now:
            pairs.setdefault(("evaluate", now, was), []).append(f"{entry.metric} in other wells")
    for task in scorecard.tasks:
        for name, part, now in ((BITS, task.beyond, current.beyond), (SHARE, task.shortcut, current.shortcut)):
            was = part.get("protocol_id", "")
            if was and was != now:
                pairs.setdefault(("diagnose", now, was), []).append(name)
    for (step, now, was), metrics in pairs.items():
        names = ", ".join(f"`{name}`" for name in dict.fromkeys(metrics))
        at = " at the common dimension" if step == "diagnose" and not {BITS, SHARE} & set(metrics) else ""
        sentence = f"{names}{at} follows `{now}` now, it followed `{was}`" if now else f"{names}{at} is not computed any more, it followed `{was}`"
        yield Reason("protocol", step, sentence)


def _beside(scorecard: Scorecard, current: Current) -> Iterator[Reason]:
    # nothing is asked of a row without vectors, nor of the positive control, which is another row for each task
    if not scorecard.not_applicable and scorecard.role != "positive":
        missing = [asked for asked in current.asked if asked not in (scorecard.beside or {})]
        if missing and scorecard.beside is None:
            yield Reason("protocol", "evaluate", "which protocols its answers beside the tasks follow was not recorded")
        elif missing:
            yield Reason(
                "protocol",
                "evaluate",
                f"which protocol {' and '.join(f'`{name}`' for name in missing)} follow{'s' * (len(missing) == 1)} was not recorded",
            )
    for asked, followed in (scorecard.beside or {}).items():
        now = current.beside.get(asked, ())
        was = ", ".join(f"`{name}`" for name in followed if name not in now)
        if was:
            follows = f"follows {f'`{now[0]}`' if len(now) == 1 else 'another protocol'} now" if now else "is not asked any more"
            yield Reason("protocol", "evaluate", f"`{asked}` {follows}, it followed {was}")


def _verdict(scorecard: Scorecard, current: Current) -> Iterator[Reason]:
    for was in dict.fromkeys(task.verdict_protocol for task in scorecard.tasks if current.verdict and task.verdict_protocol != current.verdict):
        sentence = f"its verdicts follow `{current.verdict}` now, they followed `{was}`" if was else "which rule its verdicts follow was not recorded"
        yield Reason("protocol", "diagnose", sentence)


def _settings(scorecard: Scorecard, current: Current, section: str) -> Iterator[Reason]:
    recorded, now = scorecard.provenance.get(section, {}), current.settings.get(section, {})
    for key in sorted(recorded.keys() & now.keys()):
        if recorded[key] != now[key]:
            yield Reason("settings", section, f"`{section}.{key}` is {now[key]} now, it was {recorded[key]}")


def _seed(scorecard: Scorecard, current: Current) -> Iterator[Reason]:
    recorded, now = scorecard.provenance.get("seed"), current.settings.get("seed")
    if None not in (recorded, now) and recorded != now:
        yield Reason("settings", "extract", f"`seed` is {now} now, it was {recorded}")


def _libraries(scorecard: Scorecard, current: Current) -> Iterator[Reason]:
    if scorecard.not_applicable:
        return  # nothing was computed
    provenance = scorecard.provenance
    versions, made_by = provenance.get("versions", {}), provenance.get("made_by", {})
    if not versions and not made_by:
        yield Reason("library", "extract", "the versions of its libraries were not recorded")
        return
    # evidence of before `made_by` says only what was installed when the verdict was reached
    vectors = made_by.get("vectors", {}) if made_by else {name: versions[name] for name in (*TIMM_NETWORK, *FORMULA) if name in versions}
    scores = made_by.get("scores", {}) if made_by else {}
    verdicts = {name: versions[name] for name in VERDICTS if name in versions}
    others = provenance.get("compared_with", {})
    said: set[str] = set()
    for step, what, recorded in (
        ("extract", "its vectors were made with", vectors),
        ("evaluate", "its scores were made with", scores),
        ("diagnose", "its verdicts and bundle were made with", verdicts),
        # those rows are stale themselves; of this one only the comparison has to be made again
        ("evaluate" if scorecard.role == "positive" else "diagnose", "rows it is made from or compared with were made with", others),
    ):
        changed = {name: words for name in sorted(recorded) if (words := _changed(name, recorded[name], current)) and words not in said}
        said |= set(changed.values())
        if changed:
            yield Reason("library", step, f"{what} {', '.join(changed.values())}")


def _changed(name: str, recorded: str | Sequence[str], current: Current) -> str:
    """ "torch 2.14.0 (2.14.1 is installed)"; "" where all recorded versions are the installed one."""
    now = current.versions.get(name, "")
    other = [version for version in ([recorded] if isinstance(recorded, str) else recorded) if version != now]
    return f"{name} {' and '.join(other)} ({now or 'none'} is installed)" if other else ""

"""A verdict in words, for people who do not read tables.

on `arrangement`, simclr-small is equivalent to its untrained twins (gain 0.004 [-0.012, 0.019] over their mean, 120 patients);
`cell-graph` beats it by 0.210

The interval printed is the one that decided the word: `equivalent` to twins is about their mean, the other words about one more draw.
"""

from __future__ import annotations

from pipelines.metrics.findings import Comparison, Finding
from pipelines.metrics.shortcut import Shortcut
from pipelines.metrics.verdicts import Verdict

_TWINS = {
    "fresh": "its untrained twins",
    "calibrated": "its calibrated untrained twins",
    "shuffled": "its weight-shuffled twins",
}
_PLURALS = {"patient": "patients", "plate": "plates", "donor": "donors", "image": "images", "unit": "units"}


def sentence(verdict: Verdict) -> str:
    """One sentence: the task, the encoder against its twins, against the other controls, and what a table correction changed."""
    if all(found is None or found.word == "not assessable" for found in (verdict.twins, verdict.controls)):
        return f"on `{verdict.task}`, {verdict.encoder} is not assessable: {_of_units(verdict.overall.reason, verdict.unit)}"
    clauses = []
    if verdict.twins is not None:
        clauses.append(f"{verdict.encoder} {_relation(verdict.twins, verdict, _twins(verdict.twins.against))}")
    if verdict.controls is not None:
        subject = "it" if clauses else verdict.encoder
        clauses.append(_against_controls(verdict.controls, verdict, subject, first=not clauses))
    text = f"on `{verdict.task}`, " + "; ".join(clauses)
    corrected = verdict.p_adjusted is not None and verdict.overall.p is not None and verdict.overall.p <= verdict.alpha < verdict.p_adjusted
    if corrected:
        text += f"; after correction for {verdict.family} cells the verdict is {verdict.word}"
    return text


def detail(verdict: Verdict) -> str:
    """What the sentence leaves out: the gain over all controls, what could have been detected, and the notes."""
    found = verdict.overall
    parts = []
    if found.p is not None:
        adjusted = "" if verdict.p_adjusted is None else f", {verdict.p_adjusted:.3g} after Holm over {verdict.family} cells"
        draw = f" (over the mean of its twins, which decides `equivalent`; as one more draw {_bounds(found.low, found.high)})"
        gain = f"{_gain(found)}{draw if found.by_mean else ''} against `{found.against}`"
        parts.append(f"Over all {found.m} controls: {found.word}, smallest gain {gain}, p {found.p:.3g}{adjusted}.")
    elif found.reason:
        parts.append(f"Not assessable against every control: {_of_units(found.reason, verdict.unit)}.")
    if found.word == "undecided":
        parts.append(_what_it_would_take(found, verdict))
    if found.negligible and found.word in ("beats", "loses"):
        parts.append(f"The difference is smaller than the margin of {verdict.margin:g}.")
    if verdict.share_of_gap is not None:
        gap = verdict.share_of_gap
        if gap.value is not None:
            parts.append(f"Share of the gap from `{gap.floor}` to `{gap.ceiling}`: {gap.value:.2f} [{gap.low:.2f}, {gap.high:.2f}].")
        elif gap.low is not None:
            parts.append(f"Share of the gap from `{gap.floor}` to `{gap.ceiling}`: between {gap.low:.2f} and {gap.high:.2f} ({gap.note}).")
        else:
            parts.append(f"Share of the gap: {gap.note}.")
    return " ".join([*parts, *verdict.notes])


def sensitivity_sentence(main: Verdict, again: Verdict, dim: int, *, refitted: bool) -> str:
    """What becomes of a verdict when every row has at most `dim` principal components."""
    found = again.overall
    if not refitted:
        return f"No row compared here has more than {dim} components, so the verdict is the same at that size."
    head = "The verdict is the same" if found.word == main.word else f"The verdict is `{found.word}`"
    return f"{head} with at most {dim} principal components of every row (smallest gain {_gain(found)} against `{found.against}`)."


def information_sentence(verdict: Verdict) -> str:
    """One sentence on bits beyond the controls, from `information.judge_information`.

    "on `count`, simclr-small adds 0.002 bits per image to its controls, nothing new within 0.02 bits (smallest gain ...)".
    """
    found, bits = verdict.overall, verdict.value
    if found.word == "not assessable":
        reason = _of_units(found.reason, verdict.unit)
        return f"on `{verdict.task}`, what {verdict.encoder} adds to its controls ({_number(bits)} bits per image) is not assessable: {reason}"
    head = f"on `{verdict.task}`, {verdict.encoder} adds {_number(bits)} bits per image to its controls"
    evidence = f"smallest gain {_gain(found)} over `{found.against}`{_count(verdict)}"
    over_twins = any(c.role == "twins" and c.control == found.against for c in verdict.comparisons)
    tail = {
        "beats": "more than nothing, than its twins and than random features of the controls",
        "loses": "fewer than its untrained twins" if over_twins else "less than a row that knows nothing new",
        "equivalent": f"{'no more than its untrained twins' if over_twins else 'nothing new'} within {verdict.margin:g} bits",
        "undecided": f"which cannot be told from nothing new (a difference of {found.detectable or 0:.3f} bits could have been detected)",
    }[found.word]
    return f"{head}, {tail} ({evidence})"


def unknown_information_sentence(encoder: str, task: str, reason: str, unit: str) -> str:
    """Of bits that were not computed: `reason` says why no interval could be given, `unit` what is counted."""
    return f"on `{task}`, what {encoder} adds to its controls is not assessable: {_of_units(reason, unit)}"


def shortcut_sentence(found: Shortcut, unit: str) -> str:
    """How far brightness alone reaches; `unit` is what is counted.

    "`intensity` and `histogram` together reach 0.63 [0.41, 0.92] of its score above chance."
    """
    if found.low is None or found.high is None:
        reason = _of_units(found.note.removeprefix("not estimable: "), unit)
        return f"What share of its score above chance `intensity` and `histogram` reach together is not estimable: {reason}."
    bounds = f"[{found.low:.2f}, {found.high:.2f}]"
    share = f"{found.value:.2f} {bounds}" if found.value is not None else f"a share somewhere in {bounds}"
    return f"`intensity` and `histogram` together reach {share} of its score above chance."


def _against_controls(found: Finding, verdict: Verdict, subject: str, *, first: bool) -> str:
    """The clause about the other controls; the control that gives the smallest gain is named."""
    if found.word == "loses":
        ahead = sorted((c for c in verdict.comparisons if c.role == "control" and (c.high_corrected or 0) < 0), key=lambda c: c.gain)
        if ahead and not first:
            lead = -ahead[0].gain
            return f"`{ahead[0].control}` beats it by {lead:.{2 if lead >= 0.095 else 3}f}{_small(found, verdict)}{_others(ahead)}"
        return f"{subject} loses to `{found.against}` (gain {_gain(found)}{_small(found, verdict)}{_count(verdict) if first else ''})"
    named = f"`{found.against}`"
    if found.word == "beats":
        whole = f"beats all {found.m} other controls, the closest {named}" if found.m > 1 else f"beats {named}"
        return f"{subject} {whole} (gain {_gain(found)}{_small(found, verdict)}{_count(verdict) if first else ''})"
    return f"{subject} {_relation(found, verdict, named, count=first)}"


def _relation(found: Finding, verdict: Verdict, other: str, *, count: bool = True) -> str:
    """ "is equivalent to its untrained twins (gain ..., 120 patients)"."""
    if found.word == "not assessable":
        return f"is not assessable against {other}: {_of_units(found.reason, verdict.unit)}"
    mean = " over their mean" if found.by_mean else ""
    evidence = f"(gain {_gain(found)}{mean}{_small(found, verdict)}{_count(verdict) if count else ''})"
    if found.word == "undecided":
        return f"cannot be told apart from {other} {evidence[:-1]}; {_short_power(found, verdict)})"
    verb = {"beats": "beats", "loses": "loses to", "equivalent": "is equivalent to"}[found.word]
    return f"{verb} {other} {evidence}"


def _small(found: Finding, verdict: Verdict) -> str:
    """A difference may be sure and still too small to matter."""
    return f", smaller than the margin of {verdict.margin:g}" if found.negligible and found.word in ("beats", "loses") else ""


def _short_power(found: Finding, verdict: Verdict) -> str:
    return f"undecided: a difference of {found.detectable or 0:.3f} could have been detected, the margin is {verdict.margin:g}"


def _what_it_would_take(found: Finding, verdict: Verdict) -> str:
    text = f"These {_plural(verdict.n_units, verdict.unit)} could have detected a difference of {found.detectable or 0:.3f}"
    if found.n_eff_needed is None:
        return f"{text}; `equivalent` within {verdict.margin:g} is out of reach with so few seeds of the twins."
    return f"{text}; equivalence within {verdict.margin:g} would take about {_plural(found.n_eff_needed, verdict.unit)} of equal size."


def _others(ahead: list[Comparison]) -> str:
    if len(ahead) == 1:
        return ""
    return f" and {len(ahead) - 1} more {'control does' if len(ahead) == 2 else 'controls do'} too"


def _gain(found: Finding) -> str:
    return f"{_number(found.gain)} {_bounds(*found.interval)}".strip()


def _bounds(low: float | None, high: float | None) -> str:
    return "" if low is None or high is None else f"[{_number(low)}, {_number(high)}]"


def _number(value: float) -> str:
    """Three decimals, never "-0.000"."""
    return f"{round(value, 3) + 0.0:.3f}"


def _count(verdict: Verdict) -> str:
    return f", {_plural(verdict.n_units, verdict.unit)}"


def _plural(n: int, unit: str) -> str:
    return f"{n} {unit if n == 1 else _PLURALS.get(unit, unit + 's')}"


def _of_units(reason: str, unit: str) -> str:
    """The reason with the benchmark's own word for a unit."""
    return reason.replace("units", _PLURALS.get(unit, unit + "s"))


def _twins(name: str) -> str:
    """Twins are named "<row>/<kind>" or "<kind>"."""
    return _TWINS.get(name.rpartition("/")[2], f"its `{name}` twins")

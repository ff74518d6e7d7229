"""Numbers and identifiers as people read them; every text of the report goes through these."""

from __future__ import annotations

import re

from markupsafe import Markup, escape

from registry.files import sha256_of_bytes

#: what each verdict says
VERDICTS = {
    "beats": "Better than every one of its controls, untrained twins included, by more than the scatter between units and between seeds explains.",
    "loses": "At least one control is better, by more than that scatter explains.",
    "equivalent": "No difference that matters: the whole interval of the gain lies inside the stated margin.",
    "undecided": (
        "These units cannot tell. That is not the same as “no difference”: the text says which difference they could have shown,"
        " and how many units it would take."
    ),
    "not assessable": "Too few units for an interval that means anything. The score of each unit is shown instead.",
}
ROLES = {"encoder": "encoder", "twin": "twin", "negative": "control", "positive": "positive control"}
MODALITIES = {"cells": "cell culture", "tissue": "tissue", "natural": "natural images, for contrast"}
FLAGS = {
    "collapsed": "the vectors hardly differ between images",
    "low_rank": "the vectors vary in very few directions",
}
_PROBES = {"logistic": "logistic-regression probe", "knn": "nearest-neighbour probe"}
_METRICS = {
    "balanced_accuracy": "balanced accuracy",
    "auroc": "AUROC",
    "log_loss_bits": "log loss in bits (smaller is better)",
    "map": "mean average precision",
}
_CODE = re.compile(r"`([^`]+)`")


def number(value: float | None, digits: int = 3) -> str:
    """ "0.912", "−0.031", "–" for None."""
    if value is None:
        return "–"
    text = f"{abs(value):.{digits}f}"
    return f"−{text}" if value < 0 and float(text) else text


def signed(value: float | None, digits: int = 3) -> str:
    """As `number`, with a plus sign."""
    text = number(value, digits)
    return f"+{text}" if value is not None and value > 0 and float(text) else text


def interval(low: float | None, high: float | None, digits: int = 3) -> str:
    """ "[−0.012, 0.019]", "" where there is none."""
    return "" if low is None or high is None else f"[{number(low, digits)}, {number(high, digits)}]"


def probability(value: float | None) -> str:
    """A p value: "0.013", "< 0.001", "–"."""
    if value is None:
        return "–"
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def plural(noun: str) -> str:
    """ "plates", "bodies", "classes"."""
    if re.search(r"[^aeiou]y$", noun):
        return noun[:-1] + "ies"
    return noun + ("es" if re.search(r"(s|x|ch|sh)$", noun) else "s")


def count(number_of: int, noun: str) -> str:
    """ "1 plate", "1,200 plates"."""
    return f"{number_of:,} {noun if number_of == 1 else plural(noun)}"


def metric(name: str) -> str:
    """ "logistic.balanced_accuracy" -> "balanced accuracy of a logistic-regression probe"."""
    probe, _, kind = name.partition(".")
    what = _METRICS.get(kind, kind or probe)
    return f"{what} of a {_PROBES[probe]}" if probe in _PROBES else f"{what} of retrieval" if probe == "retrieval" else name


def coded(text: str) -> Markup:
    """Escaped text in which `names` in backticks are set as code."""
    return Markup(_CODE.sub(r"<code>\1</code>", str(escape(text))))


def protocol(protocol_id: str) -> str:
    """A protocol in short: six digits that change whenever a rule does."""
    return f"#{sha256_of_bytes(protocol_id.encode('utf-8'))[:6]}"


def as_sentence(text: str) -> str:
    """A clause as a sentence of its own: a capital, a full stop."""
    return text[:1].upper() + text[1:].rstrip(".") + "." if text else ""


def slug(word: str) -> str:
    """A verdict as a CSS class: "not assessable" -> "not-assessable"."""
    return re.sub(r"[^a-z]+", "-", word.lower()).strip("-")

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
#: every other word of the page; `{dim}` and `{neighbours}` are parameters
_GLOSSARY = {
    "AUROC": "How often an image of a class is ranked above one that is not of it: 0.5 is chance, 1 is perfect.",
    "balanced accuracy": "The share of right answers, averaged over the classes so that a frequent one does not decide.",
    "bits beyond the controls": (
        "How much a probe that has all controls already learns from the encoder besides, in bits per image; 1 bit settles a question with two"
        " equally likely answers. It must be more than its untrained twins and than random features of the controls add; less than 0.02 bits"
        " is nothing new, however sure."
    ),
    "blind": "Of a metric: it does not tell trained encoders from untrained ones, or it scores a constant, noise or permuted labels as high.",
    "chance": "The score of knowing nothing; for balanced accuracy one over the number of classes.",
    "confounded": "`layout` beats the encoder: the place on the plate tells more than the image. Such a benchmark supports no promotion.",
    "draws, sd": "A row of several random draws (seeds) is shown by their mean; sd is the standard deviation between them.",
    "Holm": "A correction for having asked several questions: without it one in forty verdicts would be `beats` by luck.",
    "ladder": (
        "Encoders of known order: one training run kept as initialised, after a tenth, after a third and at its end, several runs of each kind."
        " A metric that sees anything must rise along it."
    ),
    "log loss": "How surprised a probe is by the true class, in bits; smaller is better.",
    "mean average precision (map)": (
        "Retrieval: the other wells are ranked by likeness, and 1 means that all replicates come first. Normalised: 0 is chance, 1 is perfect."
    ),
    "n_eff": "How many units of equal size these are worth; unequal units count for less.",
    "oracle": (
        "A positive control: for each task the best of every row alone, networks that were trained on the labels included, and of all rows"
        " together, chosen on the training images. What these rows can reach."
    ),
    "p of no gain": (
        "How likely a gain at least this large would be if the encoder were no better than that control; the largest over all controls is printed."
        " Small is evidence for the encoder; large is evidence of nothing."
    ),
    "PCA {dim}": (
        "A sensitivity run: every row is reduced to at most {dim} numbers per image (principal components of the training images), so that a"
        " verdict does not hang on how long the vectors are. Only scores of a probe are run again."
    ),
    "probe": (
        "A simple classifier on the vectors, fitted to training images and asked about test images: `logistic` weighs the numbers, `knn` asks"
        " the {neighbours} most similar training images. Every row meets the same probe."
    ),
    "protocol": "Everything that was done to get a number, as one identifier.",
    "row": "One encoder or control with its scores.",
    "share of the gap": "How far the encoder has come from its best control (0) to `oracle` (1), where that gap is clear and the answer sharp.",
    "task": "One question about an image whose answer is known.",
    "tau": "Kendall’s rank correlation: 1 where a metric puts all rungs of a ladder in order, 0 where it knows nothing of it, −1 upside down.",
    "twins": (
        "The encoder’s own network without its learning. `fresh`: new random weights; `calibrated`: those with BatchNorm statistics taken from"
        " training images; `shuffled`: the trained weights in random order."
    ),
    "unit": "What is independent in the experiment: a plate, a patient, a donor.",
}
#: what each score of confounds is, and which way it goes where the batch shows
CONFOUNDS = {
    "decoding": "balanced accuracy of nearest neighbours, whole plates or whole wells held out; larger where it shows",
    "component regression": "share of the variance between batches; larger where the batch shows",
    "kBET": "share of neighbourhoods as mixed as the whole, mean over classes; smaller where the batch shows",
    "iLISI": "how many batches a neighbourhood holds, 0 to 1; smaller where the batch shows",
    "cLISI": "how few classes a neighbourhood holds, 0 to 1; about the class, not the batch",
    "BRAS": "silhouette of batches within classes, 1 = they do not show; smaller where the batch shows",
    "connectivity": "share of a class in one connected part of the neighbour graph; about the class, not the batch",
    "robustness index": "neighbours of the same class and another batch, against another class and the same batch; smaller where the batch shows",
    "NSC": "right answers of the nearest image of another compound; above NSCB where a shared batch helps",
    "NSCB": "the same, of another compound and another batch",
}
#: what each number about how soon and how plainly a task can be read says
PROBING = {
    "few-shot": (
        "Balanced accuracy of the nearest class mean, from so many training images of each class, mean over draws: where a few images do as well"
        " as all, the task lies at the surface of the vectors."
    ),
    "code length": (
        "Bits of a label for one who holds the vectors and learns from the units sent before: below the grey number, which is knowing nothing, the"
        " vectors tell, and the shorter the code, the sooner."
    ),
    "selectivity": (
        "Accuracy on the task minus accuracy on control tasks, in which every treatment (or well) got a label by lot: near 0 or below, the probe"
        " knows treatments rather than the task; near accuracy minus chance, it learned the task."
    ),
    "brightness": (
        "Share of the encoder’s score above chance that `intensity` and `histogram` reach together under the same probe: near 1, brightness would do."
    ),
}
#: what each question about known biology counts
KNOWN = {
    "recall": (
        "share of known relations among the most similar and the most dissimilar twentieth of all pairs, or the tails that are named. Elsewhere: what"
        " becomes of it when pairs that share a well, on any plates, do not count, known or not"
    ),
    "consistency": "share of treatments whose wells are more alike than control wells put together like them; parity: by the published p, below 0.05",
    "magnitude": "share of treatments that lie farther from the control wells than other control wells do; parity: by the published p, below 0.05",
    "targets AP": (
        "average precision of a compound's targets among genes that are not. Elsewhere: what becomes of it, above chance, when genes that share a"
        " well with the compound, on any plates, do not count"
    ),
    "targets AUROC": "how often a compound's target is nearer to it than a gene that is not. Elsewhere: as of the average precision",
    "labels": (
        "mean normalised average precision of treatments that share a label, mean over labels; 1 is perfect. Elsewhere: what becomes of it when"
        " those that share a well, on any plates, do not count"
    ),
    "labels found": "share of labels that are found at a false discovery rate of 5 %",
}
ROLES = {"encoder": "encoder", "twin": "twin", "negative": "control", "positive": "positive control"}
MODALITIES = {"cells": "cell culture", "tissue": "tissue", "natural": "natural images, for contrast"}
FLAGS = {
    "collapsed": "the vectors hardly differ between images",
    "low_rank": "the vectors vary in very few directions",
}
_PROBES = {
    "logistic": "logistic-regression probe",
    "ridge": "ridge-regression probe",
    "knn": "nearest-neighbour probe",
    "simpleshot": "nearest class mean",
}
_METRICS = {
    "balanced_accuracy": "balanced accuracy",
    "auroc": "AUROC",
    "macro_f1": "macro F1",
    "calibration_error": "calibration error (smaller is better)",
    "log_loss_bits": "log loss in bits (smaller is better)",
    "map": "mean average precision",
}
_CODE = re.compile(r"`([^`]+)`")
_MINUS = re.compile(r"(?<=[\s\[(])-(?=\d)")


def glossary(dim: int, neighbours: int) -> list[tuple[str, str]]:
    """(term, meaning) of every word of the page that is not a verdict, in order."""
    return [(term.format(dim=dim), text.format(dim=dim, neighbours=neighbours)) for term, text in _GLOSSARY.items()]


def number(value: float | None, digits: int = 3) -> str:
    """ "0.912", "−0.031", "–" for None."""
    if value is None:
        return "–"
    text = f"{abs(value):.{digits}f}"
    return f"−{text}" if value < 0 and float(text) else text


def floor_of_found(least: float, n: int, what: str) -> str:
    """Why a small share found reads 0: "the share found is 0 or at least 2.2%, ..."; "" where one alone can be found.

    Args:
        least: smallest share that can be found, other than 0; above 1 where none can be.
        n: of what is looked for.
        what: that is, in the plural.
    """
    if not least * n > 1.5:
        return ""
    if least > 1:
        return f"none can be found, however strong: with {n} {what} the lowest p that there can be is too high at a false discovery rate of 5 %"
    return f"the share found is 0 or at least {least:.1%}: with so many {what} the lowest p that there can be is too high for fewer"


def elsewhere(drop: float, share: float, of: str = "queries") -> str:
    """What becomes of a value in other wells only, and on how many of them it rests: "−0.031 elsewhere (80% of queries)".

    Args:
        drop: of the value.
        share: of what is scored, such as the queries, those that can be scored there.
        of: what they are, in words.
    """
    few = "" if share > 0.995 else f" ({share:.0%} of {of})"
    return f"{signed(-drop)} elsewhere{few}"


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
    """Escaped text in which `names` in backticks are set as code and negative numbers have a minus sign."""
    return Markup(_CODE.sub(r"<code>\1</code>", _MINUS.sub("−", str(escape(text)))))


def protocol(protocol_id: str) -> str:
    """A protocol in short: six digits that change whenever a rule does."""
    return f"#{sha256_of_bytes(protocol_id.encode('utf-8'))[:6]}"


def as_sentence(text: str) -> str:
    """A clause as a sentence of its own: a capital, a full stop."""
    return text[:1].upper() + text[1:].rstrip(".") + "." if text else ""


def slug(word: str) -> str:
    """A verdict as a CSS class: "not assessable" -> "not-assessable"."""
    return re.sub(r"[^a-z]+", "-", word.lower()).strip("-")

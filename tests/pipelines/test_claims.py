from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from pipelines.claims import IN_PART, NOT_SUPPORTED, NOT_TESTED, SUPPORTED, UNDECIDED, Claim, Step, claims
from pipelines.report import render_claims, write_report
from registry.evidence import Comparison, Scorecard, ScoreEntry, TaskEvidence

from .report_workspace import make_workspace, scorecards


def score(metric: str, value: float, primary: bool = False, chance: float = 0.5) -> ScoreEntry:
    return ScoreEntry("t", metric, "", "p", value, 1, 0.0, value - 0.05, value + 0.05, 100, 20, 18.0, chance, primary)


def against(control: str, role: str, gain: float, half: float = 0.02) -> Comparison:
    return Comparison(control, role, gain, gain - half, gain + half, gain + half, 0.5, 0.7 - gain)


def encoder(word: str, comparisons: list[Comparison], benchmark: str = "screen", modality: str = "cells", **more: object) -> Scorecard:
    evidence = TaskEvidence(
        "t", "?", "logistic.balanced_accuracy", "p", 0.7, word, "beats", 0.1, 0.1, 0.0, -0.01, 0.01, "x", 20, 18.0, "s", "d", comparisons
    )
    scores = [score("logistic.balanced_accuracy", 0.7, primary=True), score("knn.balanced_accuracy", 0.6), score("logistic.log_loss_bits", 0.4)]
    return Scorecard("enc", "encoder", benchmark, "B", "h", "plate", scores=scores, tasks=[replace(evidence, **more)], modality=modality)


def row(name: str, role: str, *values: float, benchmark: str = "screen") -> Scorecard:
    metrics = ("logistic.balanced_accuracy", "knn.balanced_accuracy", "logistic.log_loss_bits")
    return Scorecard(name, role, benchmark, "B", "h", "plate", scores=[score(m, v) for m, v in zip(metrics, values, strict=True)])


def found(*cards: Scorecard) -> dict[str, Claim]:
    return {claim.name: claim for claim in claims(cards)}


@pytest.mark.parametrize(
    ("words", "word"),
    [
        (["loses", "equivalent"], SUPPORTED),
        (["beats", "beats"], NOT_SUPPORTED),
        (["beats", "loses"], IN_PART),
        (["undecided", "not assessable"], UNDECIDED),
        (["loses", "undecided"], SUPPORTED),
        ([], NOT_TESTED),
    ],
)
def test_comparable_hangs_on_the_verdicts(words: list[str], word: str) -> None:
    assert found(*(encoder(w, [], f"b{i}") for i, w in enumerate(words)))["comparable"].word == word


@pytest.mark.parametrize(("cells", "photos", "word"), [(0.05, 0.3, SUPPORTED), (0.3, 0.05, NOT_SUPPORTED), (0.2, 0.21, UNDECIDED)])
def test_the_contrast_is_the_gain_of_training_on_both(cells: float, photos: float, word: str) -> None:
    one = encoder("beats", [against("untrained/fresh", "twin", cells), against("shuffled-enc/shuffled", "twin", 0.9)])
    other = encoder("beats", [against("untrained/fresh", "twin", photos)], "photos", "natural")
    claim = found(one, other)["contrast"]
    assert claim.word == word
    assert len(claim.lines) == 1
    # the share of what chance leaves: a gain of 0.05 over a chance of 0.5 is a tenth
    assert claim.lines[0][3].startswith(f"{2 * cells:.3f}")
    assert found(one)["contrast"].word == NOT_TESTED
    assert found(one, replace(other, row="another"))["contrast"].word == NOT_TESTED


def test_what_is_undecided_stands_in_the_way_of_the_contrast() -> None:
    photos = encoder("beats", [against("untrained/fresh", "twin", 0.3)], "photos", "natural")
    clear, unclear = (encoder("beats", [against("untrained/fresh", "twin", gain)], f"b{gain}") for gain in (0.05, 0.29))
    assert found(photos, clear)["contrast"].word == SUPPORTED
    assert found(photos, clear, unclear)["contrast"].word == IN_PART


def test_mover_is_the_plain_interval_where_both_are_symmetric() -> None:
    gap = Step(0.5, 0.4, 0.6).minus(Step(0.2, 0.17, 0.23))
    half = (0.1**2 + 0.03**2) ** 0.5
    assert (gap.gain, gap.low, gap.high) == pytest.approx((0.3, 0.3 - half, 0.3 + half))


def test_masked_counts_the_metrics_by_which_a_control_is_level() -> None:
    encoders = encoder("loses", [])
    assert found(encoders, row("density", "negative", 0.8, 0.7, 0.3))["masked"].word == SUPPORTED
    assert found(encoders, row("density", "negative", 0.6, 0.5, 0.5))["masked"].word == NOT_SUPPORTED
    # of a loss less is better: 0.5 bits are worse than the encoder's 0.4
    assert found(encoders, row("density", "negative", 0.6, 0.7, 0.5))["masked"].word == IN_PART
    twin = found(encoders, row("untrained", "twin", 0.8, 0.5, 0.5))["masked"]
    assert twin.lines[0] == ("logistic.balanced_accuracy", "1", "1 (100%)", "1 (100%)")
    # what another protocol or a confound scores says nothing
    other = row("density", "negative", 0.8, 0.7, 0.3)
    assert found(encoders, replace(other, scores=[replace(s, protocol_id="q") for s in other.scores]))["masked"].word == NOT_SUPPORTED
    assert found(encoders, replace(other, row="layout"))["masked"].word == NOT_SUPPORTED


@pytest.mark.parametrize(
    ("gap", "word"),
    [
        ({"value": 0.3, "low": 0.1, "high": 0.5, "note": ""}, SUPPORTED),
        ({"value": 1.3, "low": 1.1, "high": 1.5, "note": ""}, NOT_SUPPORTED),
        ({"value": 0.9, "low": 0.7, "high": 1.2, "note": ""}, UNDECIDED),
        ({"value": None, "low": None, "high": None, "note": "ceiling not above floor"}, UNDECIDED),
    ],
)
def test_missing_is_the_distance_to_the_positive_control(gap: dict[str, object], word: str) -> None:
    assert found(encoder("beats", [], share_of_gap=gap))["missing"].word == word


def test_improve_names_the_controls_that_are_ahead_and_what_they_know() -> None:
    comparisons = [
        against("density", "negative", -0.2),
        against("counts", "negative", -0.1),
        against("oracle", "aside", -0.4),
        against("texture", "negative", -0.01),
        against("untrained/fresh", "twin", -0.3),
    ]
    claim = found(encoder("loses", comparisons))["improve"]
    assert claim.word == SUPPORTED
    assert claim.lines == (
        ("enc", "screen", "t", "density", "0.200", "how many cells there are"),
        ("enc", "screen", "t", "counts", "0.100", "what it is made of"),
    )
    assert found(encoder("beats", [against("density", "negative", 0.2)]))["improve"].word == NOT_SUPPORTED


def test_the_page_is_the_same_bytes_and_loads_nothing(tmp_path: Path) -> None:
    workspace = make_workspace(tmp_path)
    write_report(workspace, workspace.params())
    page = (tmp_path / "reports" / "claims.html").read_text(encoding="utf-8")
    assert page == render_claims(claims(scorecards(workspace)))
    for name in ("comparable", "contrast", "masked", "missing", "improve"):
        assert f'<section id="{name}"' in page
    assert "default-src" in page
    assert "http" not in page.partition("<style>")[0].replace("http-equiv", "")

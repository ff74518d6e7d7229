"""The gate: what it lets through, what it refuses and in which words, and how often it errs when nothing is there."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.errors import InputError
from registry.evidence import Scorecard
from registry.gates import decide, holm, task_lines
from tests.registry.scorecards import PARITY, Against, controls, scorecard, task


def of(*tasks: tuple[str, dict[str, Against]], **facts: object) -> Scorecard:
    return replace(scorecard(tasks=tuple(task(name, found) for name, found in tasks)), **facts)  # type: ignore[arg-type]


def test_an_encoder_that_beats_everything_on_one_task_passes() -> None:
    decision = decide([of(("chirality", controls(0.12)))], PARITY)
    assert decision.passed
    assert decision.reasons == (
        "On `chirality` (culture) it beats its twins and every negative control: p = 0.0001 after Holm over 1 task of this encoder.",
    )


def test_one_control_that_is_not_beaten_is_enough_to_refuse() -> None:
    for weak in ("untrained-cnn/fresh", "density", "texture"):
        found = controls(0.12)
        found[weak] = replace(found[weak], p=0.03)
        decision = decide([of(("chirality", found))], PARITY)
        assert not decision.passed
        assert decision.tasks[0].p == 0.03
        assert decision.reasons[0].startswith("On no task does it beat its twins and every negative control. The closest is `chirality`: p = 0.03")


def test_layout_and_positive_controls_are_not_controls_to_beat() -> None:
    found = controls(0.12, layout=Against(-0.2, p=1.0, role="aside"), oracle=Against(-0.3, p=1.0, role="aside"))
    assert decide([of(("chirality", found))], PARITY).passed
    found = controls(0.12, layout=Against(-0.2, p=1.0, role="negative"))
    assert decide([of(("chirality", found))], PARITY).passed


def test_a_confounded_benchmark_supports_no_promotion() -> None:
    card = of(("chirality", controls(0.12)), ("dose", controls(0.12)))
    confounded = replace(card, tasks=[card.tasks[0], replace(card.tasks[1], confounded=True)])
    decision = decide([confounded], PARITY)
    assert not decision.passed
    assert any("`culture` is confounded" in reason for reason in decision.reasons)
    other = replace(of(("arrangement", controls(0.12))), benchmark="tissue")
    decision = decide([confounded, other], PARITY)
    assert decision.passed
    assert "`arrangement` (tissue)" in decision.reasons[0]
    assert any("`culture` is confounded" in reason for reason in decision.reasons)


def test_a_loss_is_refused_and_a_loss_that_is_not_excluded_is_said() -> None:
    won = ("chirality", controls(0.12))
    lost = ("count", controls(0.12, density=Against(-0.10, half=0.02, p=1.0)))
    decision = decide([of(won, lost)], PARITY)
    assert not decision.passed
    assert decision.reasons == ("On `count` it loses more than 0.02 to `density`: the upper bound of its gain is -0.072.",)
    unsure = ("count", controls(0.12, density=Against(-0.01, half=0.05, p=0.6)))
    decision = decide([of(won, unsure)], PARITY)
    assert decision.passed
    assert "On `count` a loss of more than 0.02 is not excluded: the lower bound of its gain is -0.060." in decision.reasons
    assert decide([of(won, ("count", controls(0.12, density=Against(-0.01, half=0.005, p=0.99))))], PARITY).reasons[1:] == ()


def test_the_tolerated_loss_is_a_bound_on_the_upper_bound() -> None:
    lost = ("count", controls(0.12, density=Against(-0.10, half=0.05, p=1.0)))
    card = of(("chirality", controls(0.12)), lost)
    high = card.tasks[1].comparisons[1].high_corrected
    assert high == pytest.approx(-0.03)
    assert not decide([card], PARITY, max_loss=0.02).passed
    assert decide([card], PARITY, max_loss=0.031).passed
    with pytest.raises(InputError, match="at least 0"):
        decide([card], PARITY, max_loss=-0.1)


def test_a_task_that_cannot_be_assessed_is_no_win_and_counts_in_the_family() -> None:
    blind = ("rare", controls(0.3, density=Against(0.3, p=None)))
    decision = decide([of(blind)], PARITY)
    assert not decision.passed
    assert "On `rare` no interval can be given, so a loss of more than 0.02 is not excluded." in decision.reasons
    won = ("chirality", {name: replace(a, p=0.02) for name, a in controls(0.12).items()})
    assert decide([of(won)], PARITY).passed
    decision = decide([of(won, blind)], PARITY)
    assert not decision.passed
    assert [line.p_holm for line in decision.tasks] == [pytest.approx(0.04), 1.0]


def test_without_twins_or_without_controls_nothing_is_beaten() -> None:
    found = controls(0.12)
    for kept in ("untrained-cnn/fresh", "density"):
        assert not decide([of(("chirality", {kept: found[kept]}))], PARITY).passed


@pytest.mark.parametrize(("role", "words"), [("positive", "positive control"), ("negative", "negative control"), ("twin", "twin")])
def test_controls_are_never_promoted_whatever_they_beat(role: str, words: str) -> None:
    decision = decide([of(("chirality", controls(0.12)), role=role)], PARITY)
    assert not decision.passed
    assert words in decision.reasons[0]


def test_parity_is_needed() -> None:
    card = of(("chirality", controls(0.12)))
    assert not decide([card], {}).passed
    assert not decide([card], {**PARITY, "relative": 0.01}).passed
    assert "scale, got 0.01" in decide([card], {**PARITY, "relative": 0.01}).reasons[0]


def test_an_encoder_without_verdicts_is_refused_in_words() -> None:
    decision = decide([replace(of(), not_applicable="no cells")], PARITY)
    assert decision.reasons == (
        "It does not apply to `culture`: no cells",
        "On no task does it beat its twins and every negative control. It has no verdict on any task.",
    )


def test_evidence_that_does_not_belong_together_is_refused() -> None:
    card = of(("chirality", controls(0.12)))
    for cards in ([], [card, card], [card, replace(card, row="other", benchmark="tissue")]):
        with pytest.raises(InputError, match="one per benchmark"):
            decide(cards, PARITY)


def test_holm_runs_over_all_tasks_of_all_benchmarks() -> None:
    def at(p: float) -> dict[str, Against]:
        return {name: replace(a, p=p) for name, a in controls(0.12).items()}

    cells = of(("a", at(0.006)), ("b", at(0.008)))
    tissue = replace(of(("c", at(0.02)), ("d", at(0.7))), benchmark="tissue")
    lines = decide([cells, tissue], PARITY).tasks
    assert [line.p_holm for line in lines] == pytest.approx([0.024, 0.024, 0.04, 0.7])
    assert [line.beats for line in lines] == [True, True, False, False]


@given(st.lists(st.floats(0, 1), max_size=8))
def test_holm_is_the_definition(p_values: list[float]) -> None:
    def slow(i: int) -> float:
        """The largest, over hypotheses at most as large, of p times the number of hypotheses at least as large (Holm 1979)."""
        order = sorted(p_values)
        return min(1.0, max(p * (len(p_values) - order.index(p)) for p in order if p <= p_values[i]))

    assert holm(p_values) == pytest.approx([slow(i) for i in range(len(p_values))])


def test_the_gate_errs_at_most_as_often_as_alpha_says() -> None:
    """Encoders that are one more draw of their controls: p uniform on every task, only the family-wise error lets one through."""
    rng = np.random.default_rng(0)
    runs, passed = 3000, 0
    template = of(*[(f"t{i}", controls(0.0)) for i in range(5)])
    for _ in range(runs):
        tasks = [
            replace(t, comparisons=[replace(c, p=float(p)) for c in t.comparisons]) for t, p in zip(template.tasks, rng.uniform(size=5), strict=True)
        ]
        passed += any(line.beats for line in task_lines([replace(template, tasks=tasks)]))
    assert 0.012 < passed / runs < 0.034  # 0.025 +- 3 standard errors, from below for Holm


def test_a_decision_is_plain_data() -> None:
    import json

    value = json.loads(json.dumps(decide([of(("chirality", controls(0.12)))], PARITY).as_dict()))
    assert value["decision"] == "promoted"
    assert value["tasks"][0]["task"] == "chirality"

"""Taus against SciPy and against pairs counted one by one; planted ladders are found, nulls stay quiet, what rewards nothing is named."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kendalltau, spearmanr, ttest_1samp, ttest_ind, ttest_rel

from pipelines.metrics.ladder import (
    CONSTANT,
    NOISE,
    PERMUTED,
    Judged,
    Lead,
    Order,
    Rise,
    agreement,
    judge_metric,
    lead,
    order,
    orientation,
    permuted_labels,
    rise,
    spearman,
    summary,
    tau_b,
)
from registry.errors import InputError

RISING = np.array([[0.5, 0.6, 0.7, 0.9]] * 5) + np.linspace(0, 0.02, 5)[:, None]


# ------------------------------------------------------------------------------------------------ taus


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 25), st.integers(2, 8))
def test_taus_and_rank_correlations_are_scipys_with_ties(seed: int, n: int, levels: int) -> None:
    rng = np.random.default_rng(seed)
    x, y = rng.integers(0, levels, n).astype(float), rng.integers(0, levels, n).astype(float)
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        assert tau_b(x, y) == spearman(x, y) == 0.0
        return
    assert tau_b(x, y) == pytest.approx(kendalltau(x, y).statistic, abs=1e-12)
    assert spearman(x, y) == pytest.approx(spearmanr(x, y).statistic, abs=1e-12)


def test_tau_counts_pairs() -> None:
    rungs, values = np.arange(5.0), np.array([0.2, 0.1, 0.4, 0.4, 0.9])
    pairs = [np.sign(values[j] - values[i]) for i, j in combinations(range(5), 2)]
    assert tau_b(rungs, values) == pytest.approx(sum(pairs) / np.sqrt(10 * 9))


def test_rounding_is_a_tie_and_a_constant_orders_nothing() -> None:
    rungs = np.arange(4.0)
    assert tau_b(rungs, 0.5 + 1e-13 * rungs) == 0.0
    assert tau_b(rungs, 0.5 + 1e-6 * rungs) == 1.0
    assert tau_b(rungs, np.full(4, 0.5)) == 0.0


@pytest.mark.parametrize(
    ("first", "second"), [([1.0], [1.0]), ([1.0, np.nan], [1.0, 2.0]), ([1.0, 2.0], [1.0, np.inf]), ([1.0, 2.0, 3.0], [1.0, 2.0])]
)
def test_series_that_have_no_tau_are_refused(first: list[float], second: list[float]) -> None:
    for of in (tau_b, spearman):
        with pytest.raises(InputError, match="Expected"):
            of(np.array(first), np.array(second))


# ------------------------------------------------------------------------------------------------ orders


def test_tau_is_the_mean_over_runs_and_its_interval_the_jackknifes() -> None:
    values = np.random.default_rng(3).normal(size=(7, 4)) + 0.4 * np.arange(4)
    found = order(values)
    taus = np.array([kendalltau(np.arange(4), run).statistic for run in values])
    assert found.of_runs == pytest.approx(tuple(taus))
    assert found.tau == pytest.approx(taus.mean())
    # leave one run out, six of seven: the jackknife of a mean; and half a squared step of a third
    without = np.array([np.delete(taus, i).mean() for i in range(7)])
    jackknife = 6 / 7 * np.sum((without - without.mean()) ** 2)
    half = (ttest_1samp(taus, 0).confidence_interval(0.95).high - taus.mean()) * np.sqrt((jackknife + (1 / 3) ** 2 / 14) / jackknife)
    assert (found.low, found.high) == pytest.approx((taus.mean() - half, min(taus.mean() + half, 1.0)))


def test_rungs_and_runs_must_not_be_swapped() -> None:
    values = np.array([[0.1, 0.2, 0.3, 0.4, 0.5]] * 5) + 10.0 * np.array([3, 1, 4, 0, 2])[:, None]
    assert order(values).word == "orders"
    assert order(values.T).tau == pytest.approx(-0.2)


def test_a_planted_ladder_is_found_and_one_upside_down() -> None:
    assert (order(RISING).tau, order(RISING).word) == (1.0, "orders")
    assert (order(RISING[:, ::-1]).tau, order(RISING[:, ::-1]).word) == (-1.0, "reversed")
    # a loss falls as an encoder gets better
    assert order(-RISING, -1).word == "orders"
    # no interval is without width, however well five runs agree
    assert order(RISING).low == pytest.approx(0.708, abs=1e-3)
    # two of five runs have one pair of rungs the wrong way round
    swapped = RISING.copy()
    swapped[:2, [0, 1]] = RISING[:2, [1, 0]]
    assert order(swapped).tau == pytest.approx((3 + 2 * 2 / 3) / 5)
    assert order(swapped).word == "orders"


def test_a_metric_that_is_the_same_on_all_rungs_is_blind() -> None:
    found = order(np.full((5, 4), 0.5))
    assert (found.tau, found.word) == (0.0, "blind")
    assert found.low < 0 < found.high < 2 / 3


def test_too_few_runs_have_no_word() -> None:
    assert order(RISING[:4]).low > 0
    assert order(RISING[:4]).word == "undecided"


@pytest.mark.parametrize("shape", [(1, 4), (5, 1), (20,)])
def test_a_ladder_needs_two_runs_and_two_rungs(shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match="at least 2 runs on at least 2 rungs"):
        order(np.zeros(shape))


@pytest.mark.parametrize("kind", ["each rung by itself", "a run that wanders"])
def test_a_metric_that_knows_nothing_is_rarely_said_to_order(kind: str) -> None:
    """Nominal 0.025 on either side. The words are used as the flow uses them, on the smallest number of runs that gets a word."""
    rng, n = np.random.default_rng(11), 3000
    draws = rng.normal(size=(n, 5, 4))
    words = [order(values if kind == "each rung by itself" else np.cumsum(values, axis=1)).word for values in draws]
    share = {word: words.count(word) / n for word in ("orders", "reversed", "blind", "undecided")}
    assert share["orders"] <= 0.025
    assert share["reversed"] <= 0.025
    # and the test can fail: it does say so of some
    assert share["orders"] + share["reversed"] > 0.002
    assert share["blind"] + share["undecided"] > 0.95


# ------------------------------------------------------------------------------------------------ embeddings that know nothing


def test_a_lead_is_that_of_welch_or_of_pairs() -> None:
    rng = np.random.default_rng(5)
    trained, noise = rng.normal(0.8, 0.03, 5), rng.normal(0.5, 0.01, 4)
    found, reference = lead(trained, noise), ttest_ind(trained, noise, equal_var=False).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((reference.low, reference.high))
    assert found.clear
    permuted = trained - 0.3 + rng.normal(0, 0.01, 5)
    found, reference = lead(trained, permuted, paired=True), ttest_rel(trained, permuted).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((reference.low, reference.high))
    # one constant has no scatter of its own
    found, reference = lead(trained, np.array([0.5])), ttest_1samp(trained, 0.5).confidence_interval(0.95)
    assert found.low + 0.5 == pytest.approx(reference.low)


def test_a_loss_leads_by_being_smaller() -> None:
    assert lead(np.array([0.20, 0.21, 0.22]), np.array([1.0]), -1).clear
    assert not lead(np.array([0.20, 0.21, 0.22]), np.array([1.0])).clear


@pytest.mark.parametrize("nothing", [0.5, 0.5 + 1e-12, 0.9])
def test_equal_or_better_without_knowledge_is_not_clear(nothing: float) -> None:
    assert not lead(np.full(5, 0.5), np.array([nothing])).clear


def test_leads_that_do_not_exist_are_refused() -> None:
    with pytest.raises(InputError, match="at least one draw"):
        lead(np.zeros(5), np.zeros(0))
    with pytest.raises(InputError, match="in pairs one for each run"):
        lead(np.zeros(5), np.zeros(4), paired=True)
    with pytest.raises(InputError, match="at least 2 finite values"):
        lead(np.array([0.1, np.nan]), np.zeros(4))


# ------------------------------------------------------------------------------------------------ words

UP, DOWN, FLAT = order(RISING), order(RISING[:, ::-1]), order(np.full((5, 4), 0.5))
UNSURE = Order(0.4, -0.1, 0.9, (1.0, 0.0, 1.0, -0.33, 0.33))
AHEAD, BESIDE = Lead(0.3, 0.2, 0.4), Lead(0.0, -0.1, 0.1)


CLEARLY = {CONSTANT: AHEAD, NOISE: AHEAD, PERMUTED: AHEAD}
RISES, FALLS, STAYS = Rise(UP, 1.0), Rise(DOWN, 1.0), Rise(FLAT, 1.0)


def judged(orders: dict[str, Order], rises: dict[str, Rise], **leads: Lead) -> Judged:
    return judge_metric(orders, rises, dict.fromkeys(orders, CLEARLY | leads))


def test_a_ladder_rises_by_the_median_of_the_metrics_of_each_run() -> None:
    found = rise([UP, UP, DOWN], [CLEARLY] * 3, 4)
    assert (found.order.of_runs, found.ahead, found.rises) == ((1.0,) * 5, 1.0, True)
    assert not rise([UP, DOWN, DOWN], [CLEARLY] * 3, 4).rises
    assert not rise([UP, FLAT, DOWN], [CLEARLY] * 3, 4).rises
    # it goes up, but hardly anything can tell its end from knowing nothing
    lost = CLEARLY | {PERMUTED: BESIDE}
    assert rise([UP] * 4, [CLEARLY, CLEARLY, lost, lost], 4) == Rise(UP, 0.5)
    assert not rise([UP] * 4, [CLEARLY, lost, lost, lost], 4).rises
    for orders in ([], [UP, order(RISING[:4])]):
        with pytest.raises(InputError, match="at least one metric, all of the same runs"):
            rise(orders, [CLEARLY] * len(orders), 4)


def test_a_metric_is_judged_on_ladders_that_rise() -> None:
    both = {"simclr": RISES, "supervised": RISES}
    assert judged({"simclr": UP, "supervised": UP}, both) == Judged("orders", (), ("simclr", "supervised"))
    assert judged({"simclr": FLAT, "supervised": UP}, {"simclr": STAYS, "supervised": RISES}) == Judged("orders", (), ("supervised",))
    assert judged({"simclr": FLAT, "supervised": UP}, both).word == "blind"
    assert judged({"simclr": DOWN, "supervised": FLAT}, both).word == "reversed"
    assert judged({"simclr": UNSURE, "supervised": UP}, both).word == "undecided"
    assert judged({"simclr": FLAT, "supervised": UP}, {"simclr": STAYS, "supervised": FALLS}) == Judged("no ladder", (), ())


@pytest.mark.parametrize("kind", [CONSTANT, NOISE, PERMUTED])
def test_what_rewards_embeddings_that_know_nothing_is_blind_however_well_it_orders(kind: str) -> None:
    both = {"simclr": RISES, "supervised": RISES}
    assert judged({"simclr": UP, "supervised": UP}, both, **{kind: BESIDE}) == Judged("blind", (kind,), ("simclr", "supervised"))


def test_the_summary_names_what_is_blind_and_why() -> None:
    said = summary(
        {
            "a": {"count": Judged("orders", (), ("s",)), "texture": Judged("orders", (), ("s",)), "none": Judged("no ladder", (), ())},
            "b": {"count": Judged("blind", (CONSTANT, NOISE), ("s",)), "texture": Judged("blind", (), ("s",)), "none": Judged("no ladder", (), ())},
            "c": {"count": Judged("blind", (PERMUTED,), ("s",)), "texture": Judged("orders", (), ("s",)), "none": Judged("no ladder", (), ())},
            "d": {"count": Judged("reversed", (), ("s",)), "texture": Judged("undecided", (), ("s",)), "none": Judged("no ladder", (), ())},
        }
    )
    assert said == (
        "Blind here: `b` (scores a constant and noise as high, does not follow training)."
        " Blind on some tasks: `c` on `count` (scores permuted labels as high). Falls where the others rise: `d` on `count`."
        " Can tell wherever a ladder rises: `a`."
        " No ladder rises on `none`: no metric is judged there."
    )
    assert summary({"a": {"x": Judged("no ladder", (), ())}}) == "No ladder rises on any task, so nothing can be said of any metric here."
    assert summary({"a": {"x": Judged("orders", (), ("s",))}}).startswith("No metric is blind on every task.")


# ------------------------------------------------------------------------------------------------ agreement


def test_metrics_agree_by_their_ranks_with_losses_turned() -> None:
    rng = np.random.default_rng(2)
    quality = rng.normal(size=30)
    values = {
        "logistic.auroc": quality,
        "logistic.log_loss_bits": -np.exp(quality),
        "knn.auroc": quality + rng.normal(size=30),
        "constant": np.ones(30),
    }
    found = agreement(values)
    assert found.n == 30
    np.testing.assert_allclose(found.kendall, found.kendall.T)
    assert found.kendall[0, 1] == pytest.approx(1.0)
    assert found.kendall[0, 2] == pytest.approx(kendalltau(quality, values["knn.auroc"]).statistic)
    assert found.spearman[1, 2] == pytest.approx(spearmanr(quality, values["knn.auroc"]).statistic)
    assert found.kendall[3].tolist() == [0.0] * 4
    with pytest.raises(InputError, match="at least one metric"):
        agreement({})
    assert (orientation("logistic.calibration_error"), orientation("retrieval.map")) == (-1, 1)
    # what a position explains of a score is no merit; the score that is left is
    for metric in ("replicates.replicability", "knowledge.labels of moa", "knowledge.recall of paths, tails up to 0.1 and from 0.9"):
        assert [orientation(f"{metric}{part}") for part in ("", ".copairs", ".published", ".elsewhere", ".drop")] == [1, 1, 1, 1, -1]
    assert orientation("replicates.controls_replicating") == -1
    assert [orientation(f"confounds.{name}") for name in ("iLISI", "kBET", "BRAS", "component_regression", "decoding_plate")] == [1, 1, 1, -1, -1]


# ------------------------------------------------------------------------------------------------ permuted labels


def test_labels_change_places_by_well_within_their_plate() -> None:
    """Four plates of six wells of two sites; half of each class on every plate."""
    plates, wells = np.repeat(np.arange(4), 12), np.repeat(np.arange(24), 2)
    codes, folds = (wells + plates) % 2, np.where(plates < 2, -1, 0)
    codes[5] = -1
    found = permuted_labels(codes, wells, plates.astype(str), folds, [0, 1])
    assert (found.within, found.changeable) == ("units", 1.0)
    assert found.codes[5] == -1
    taking_part = codes >= 0
    for well in range(24):
        assert len(set(found.codes[(wells == well) & taking_part].tolist())) == 1
    first = np.unique(wells[taking_part], return_index=True)[1]
    for plate in range(4):
        mine = (plates == plate)[taking_part][first]
        assert sorted(found.codes[taking_part][first][mine]) == sorted(codes[taking_part][first][mine])
    assert (found.codes != codes).any()
    again = permuted_labels(codes, wells, plates.astype(str), folds, [0, 1])
    np.testing.assert_array_equal(again.codes, found.codes)
    assert (permuted_labels(codes, wells, plates.astype(str), folds, [0, 2]).codes != found.codes).any()
    # with wells for plates nothing could move: the two must not be swapped
    assert permuted_labels(codes, plates, wells.astype(str), folds, [0, 1]).within == "folds"


def test_where_a_unit_has_one_label_whole_units_trade_them_within_their_fold() -> None:
    patients = np.repeat(np.arange(8), 5)
    codes, folds = patients % 2, np.where(patients < 4, -1, 0)
    draws = [permuted_labels(codes, np.arange(40), patients.astype(str), folds, [seed]) for seed in range(30)]
    for found in draws:
        assert (found.within, found.changeable) == ("folds", 1.0)
        of_patient = found.codes.reshape(8, 5)
        assert (of_patient == of_patient[:, :1]).all()
        assert of_patient[:4, 0].sum() == of_patient[4:, 0].sum() == 2
    assert len({tuple(found.codes) for found in draws}) > 10


def test_every_place_of_a_label_is_as_likely() -> None:
    codes = np.array([0, 0, 0, 1])
    hits = sum(permuted_labels(codes, np.arange(4), ["p"] * 4, np.zeros(4, int), [7, seed]).codes for seed in range(1000))
    np.testing.assert_allclose(hits / 1000, 0.25, atol=0.04)


def test_a_design_that_allows_no_permutation_says_so() -> None:
    codes = np.array([0, 0, 1, 1])
    found = permuted_labels(codes, np.arange(4), ["a", "a", "b", "b"], np.array([-1, -1, 0, 0]), [0])
    assert (found.within, found.changeable) == ("", 0.0)
    np.testing.assert_array_equal(found.codes, codes)

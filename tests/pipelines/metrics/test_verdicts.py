from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.multitest import multipletests

from pipelines.metrics.sentences import detail, sentence
from pipelines.metrics.statistic import Statistic
from pipelines.metrics.verdicts import Verdict, holm_table, judge
from registry.errors import InputError
from registry.evidence import WORDS
from registry.gates import holm
from tests.pipelines.metrics.data import mean_statistic

UNITS = 60


def _row(mean: float, seed: int, *, own: float = 0.03, n_units: int = UNITS) -> Statistic:
    shared = 0.1 * np.random.default_rng(99).normal(size=n_units)
    z = np.random.default_rng(seed).normal(size=n_units)
    return mean_statistic(mean + shared + own * (z - z.mean()))


def _seeds(mean: float, first: int, *, sd: float = 0.01, own: float = 0.03, n_units: int = UNITS) -> list[Statistic]:
    offsets = sd * np.linspace(-1.5, 1.5, 10)
    return [_row(mean + offset, first + i, own=own, n_units=n_units) for i, offset in enumerate(offsets)]


def _judge(value: float, *, twins: float = 0.6, controls: dict[str, float] | None = None, own: float = 0.03, sd: float = 0.01) -> Verdict:
    controls = {"density": 0.55, "texture": 0.5} if controls is None else controls
    return judge(
        "simclr",
        "arrangement",
        "logistic.balanced_accuracy",
        _row(value, 1, own=own),
        twins={"untrained-cnn/fresh": _seeds(twins, 100, own=own, sd=sd)},
        controls={name: _row(mean, 50 + i, own=own) for i, (name, mean) in enumerate(controls.items())},
        unit="patient",
    )


def test_beats_means_every_control_with_the_largest_p_and_the_smallest_gain() -> None:
    found = _judge(0.8)
    assert (found.word, found.twins and found.twins.word, found.controls and found.controls.word) == ("beats", "beats", "beats")
    assert found.overall.p == max(c.p for c in found.comparisons if c.p is not None)
    assert found.overall.gain == min(c.gain for c in found.comparisons)
    assert found.overall.against == "untrained-cnn/fresh"
    assert found.overall.low == min(c.low for c in found.comparisons if c.low is not None)
    assert found.overall.high == min(c.high_corrected for c in found.comparisons if c.high_corrected is not None)
    assert all(c.high_corrected > c.high for c in found.comparisons if c.high_corrected is not None and c.high is not None)
    assert found.best_control == "density"


def test_one_stronger_control_is_a_loss_whatever_the_others_say() -> None:
    found = _judge(0.7, controls={"density": 0.55, "cell-graph": 0.91})
    assert (found.word, found.twins and found.twins.word, found.controls and found.controls.word) == ("loses", "beats", "loses")
    assert found.overall.against == "cell-graph"
    assert found.overall.high is not None
    assert found.overall.high < 0


def test_equivalent_needs_the_whole_interval_inside_the_margin() -> None:
    close = _judge(0.601, controls={"density": 0.6}, own=0.01, sd=0.002)
    assert close.word == "equivalent"
    assert close.twins is not None
    assert close.twins.word == "equivalent"
    wide = _judge(0.601, controls={"density": 0.6}, own=0.2, sd=0.002)
    assert wide.word == "undecided"
    assert wide.overall.n_eff_needed is not None
    assert wide.overall.n_eff_needed > UNITS
    assert wide.overall.detectable is not None
    assert wide.overall.detectable > 0.02


def test_a_small_sure_gain_beats_and_is_called_negligible() -> None:
    found = _judge(0.61, twins=0.6, controls={"density": 0.6}, own=0.005, sd=0.0005)
    assert found.word == "beats"
    assert found.overall.negligible
    assert "smaller than the margin" in detail(found)
    assert sentence(found).count("smaller than the margin of 0.02") == 2  # of its twins, and of the closest control
    assert "smaller than the margin" not in sentence(_judge(0.8))


@pytest.mark.parametrize(("gain", "plain", "first"), [(0.01, "beats", "equivalent"), (-0.01, "loses", "equivalent"), (0.1, "beats", "beats")])
def test_the_margin_may_come_first(gain: float, plain: str, first: str) -> None:
    """A sure difference inside the margin; one beyond it keeps its word either way."""
    words = [
        judge("e", "t", "m", _row(0.5 + gain, 1, own=0.005), controls={"c": _row(0.5, 2, own=0.005)}, margin_first=margin_first)
        for margin_first in (False, True)
    ]
    assert [found.word for found in words] == [plain, first]
    assert [found.comparison("c").word for found in words] == [plain, first]
    assert words[0].overall.p == words[1].overall.p


def test_equivalent_to_twins_prints_the_interval_over_their_mean() -> None:
    """Draws scatter by more than the margin, their mean is known to a part of it: one more draw cannot be told, the mean can."""
    encoder, seeds = _row(0.601, 1, own=0.01), _seeds(0.6, 100, own=0.01, sd=0.012)
    found = judge("simclr", "arrangement", "m", encoder, twins={"untrained-cnn/fresh": seeds}, unit="patient")
    gaps = encoder.without - np.mean([s.without for s in seeds], axis=0)
    variance = (UNITS - 1) / UNITS * np.sum((gaps - gaps.mean()) ** 2)
    spread = np.var([s.value for s in seeds], ddof=1) / 10
    df = (variance + spread) ** 2 / (variance**2 / (UNITS - 1) + spread**2 / 9)
    gain = encoder.value - np.mean([s.value for s in seeds])
    reach = stats.t.ppf(0.975, df) * np.sqrt(variance + spread)
    assert found.word == "equivalent"
    assert found.overall.interval == pytest.approx((gain - reach, gain + reach))
    assert found.overall.by_mean
    assert found.overall.low is not None
    assert found.overall.low < -0.02 < gain - reach
    printed = f"[{gain - reach:.3f}, {gain + reach:.3f}]"
    assert f"(gain {gain:.3f} {printed} over their mean, 60 patients)" in sentence(found)
    draw = f"(over the mean of its twins, which decides `equivalent`; as one more draw [{found.overall.low:.3f}, "
    assert f"smallest gain {gain:.3f} {printed} {draw}" in detail(found)
    line = found.comparison("untrained-cnn/fresh")
    assert (line.low_of_mean, line.high_of_mean) == pytest.approx((gain - reach, gain + reach))


def test_the_other_words_print_the_interval_of_one_more_draw() -> None:
    for found in (_judge(0.8), _judge(0.61, controls={"density": 0.6}, own=0.2)):
        assert not found.overall.by_mean
        assert found.overall.interval == (found.overall.low, found.overall.high)
        assert "over their mean" not in sentence(found)
    single = judge("e", "t", "m", _row(0.6, 1, own=0.005), controls={"c": _row(0.6, 2, own=0.005)})
    assert single.word == "equivalent"
    assert not single.overall.by_mean


def test_every_set_of_twins_must_be_beaten() -> None:
    kinds = {"net/fresh": _seeds(0.6, 100), "net/calibrated": _seeds(0.75, 200)}
    found = judge("simclr", "t", "m", _row(0.7, 1), twins=kinds)
    assert found.word == "loses"
    assert found.twins is not None
    assert found.twins.against == "net/calibrated"
    assert found.comparison("net/fresh").word == "beats"


def test_too_few_units_are_not_assessable() -> None:
    found = judge("simclr", "t", "m", _row(0.8, 1, n_units=8), controls={"density": _row(0.5, 2, n_units=8)}, unit="plate")
    assert found.word == "not assessable"
    assert (found.overall.p, found.overall.low, found.p_adjusted) == (None, None, None)
    assert sentence(found) == "on `t`, simclr is not assessable: 8 plates, at least 10 are needed"
    assert found.overall.gain == pytest.approx(0.3)


def test_a_control_without_scatter_leaves_a_loss_to_another_standing() -> None:
    encoder = _row(0.6, 1)
    flat = Statistic(encoder.value - 0.1, encoder.units, encoder.without - 0.1, encoder.share, encoder.n_images, 10)
    assert judge("e", "t", "m", encoder, controls={"flat": flat, "graph": _row(0.9, 2)}).word == "loses"
    assert judge("e", "t", "m", encoder, controls={"flat": flat, "graph": _row(0.3, 2)}).word == "not assessable"


def test_asides_and_positive_controls_decide_nothing() -> None:
    encoder = _row(0.8, 1)
    found = judge(
        "simclr",
        "t",
        "m",
        encoder,
        controls={"density": _row(0.5, 2)},
        aside={"layout": _row(0.95, 3)},
        positive={"oracle": _row(0.99, 4)},
        unit="plate",
    )
    assert found.word == "beats"
    assert found.comparison("layout").word == "loses"
    assert found.share_of_gap is not None
    assert (found.share_of_gap.floor, found.share_of_gap.ceiling) == ("density", "oracle")
    assert found.share_of_gap.value == pytest.approx(0.3 / 0.49, abs=1e-9)


def test_false_beats_over_several_tied_controls_and_twins_are_rare() -> None:
    """A/A: encoder, five controls and ten twins are all draws of one distribution."""
    words = []
    for seed in range(300):
        rng = np.random.default_rng(seed)
        shared = 0.1 * rng.normal(size=20)
        rows = [mean_statistic(0.7 + shared + 0.02 * rng.normal() + 0.05 * rng.normal(size=20)) for _ in range(16)]
        words.append(judge("e", "t", "m", rows[0], twins={"fresh": rows[1:11]}, controls={f"c{i}": rows[11 + i] for i in range(5)}).word)
    assert words.count("beats") <= 0.05 * 300


def test_a_single_tied_control_is_beaten_at_the_nominal_rate() -> None:
    words = []
    for seed in range(400):
        rng = np.random.default_rng(seed)
        shared = 0.1 * rng.normal(size=20)
        rows = [mean_statistic(0.7 + shared + 0.05 * rng.normal(size=20)) for _ in range(2)]
        words.append(judge("e", "t", "m", rows[0], controls={"c": rows[1]}).word)
    assert 0.005 <= words.count("beats") / 400 <= 0.05
    assert 0.005 <= words.count("loses") / 400 <= 0.05


@pytest.mark.parametrize("p", [[0.01, 0.04, 0.03, 0.005], [0.5], [0.02, 0.02, 1.0], [0.9, 0.001, 0.001]])
def test_holm_equals_statsmodels(p: list[float]) -> None:
    assert holm(p) == pytest.approx(multipletests(p, method="holm")[1])


def test_holm_can_take_a_word_back_and_says_over_how_many_cells() -> None:
    barely = _judge(0.63, controls={"density": 0.63 - 0.0115}, twins=0.5)
    assert barely.word == "beats"
    hopeless = [_judge(0.5, controls={"density": 0.6}) for _ in range(9)]
    table = holm_table([barely, *hopeless])
    assert table[0].word == "undecided"
    assert table[0].family == 10
    assert table[0].p_adjusted == pytest.approx(min(1.0, 10 * (barely.overall.p or 0)))
    assert "after correction for 10 cells the verdict is undecided" in sentence(table[0])
    assert holm_table([barely])[0].word == "beats"


def test_a_cell_that_is_not_assessable_stays_in_the_family() -> None:
    few = judge("simclr", "t", "m", _row(0.8, 1, n_units=8), controls={"density": _row(0.5, 2, n_units=8)})
    good = _judge(0.8)
    table = holm_table([few, good])
    assert (table[0].word, table[0].p_adjusted) == ("not assessable", None)
    assert table[1].p_adjusted == pytest.approx(2 * (good.overall.p or 0))


def test_words_are_those_of_the_scorecard_and_the_verdict_is_json() -> None:
    found = _judge(0.8)
    assert {found.word, *(c.word for c in found.comparisons)} <= set(WORDS)
    again = json.loads(json.dumps(found.as_dict()))
    assert again["overall"]["word"] == "beats"
    assert [c["control"] for c in again["comparisons"]] == ["untrained-cnn/fresh", "density", "texture"]


def test_a_verdict_without_controls_or_with_one_twice_is_refused() -> None:
    row = _row(0.5, 1)
    with pytest.raises(InputError, match="at least one control or set of twins"):
        judge("e", "t", "m", row)
    with pytest.raises(InputError, match="`density` more than once"):
        judge("e", "t", "m", row, controls={"density": row}, aside={"density": row})
    with pytest.raises(InputError, match=r"was not compared with `texture`\. It was with: density"):
        judge("e", "t", "m", row, controls={"density": row}).comparison("texture")


def test_sentence_for_an_encoder_that_equals_its_twins_and_loses_to_a_graph() -> None:
    found = _judge(0.602, controls={"density": 0.5, "cell-graph": 0.812}, own=0.01, sd=0.002)
    assert sentence(found).startswith("on `arrangement`, simclr is equivalent to its untrained twins (gain 0.002 [-0.00")
    assert sentence(found).endswith(", 60 patients); `cell-graph` beats it by 0.21")


def test_sentences_for_the_other_words() -> None:
    wins = sentence(_judge(0.8))
    assert wins.startswith("on `arrangement`, simclr beats its untrained twins (gain 0.200 [")
    assert "; it beats all 2 other controls, the closest `density` (gain 0.250 [" in wins
    open_ = sentence(_judge(0.61, controls={"density": 0.6}, own=0.2))
    assert "cannot be told apart from its untrained twins (gain 0.010 [" in open_
    assert "could have been detected, the margin is 0.02" in open_
    alone = sentence(judge("e", "t", "m", _row(0.5, 1), controls={"graph": _row(0.9, 2), "count": _row(0.8, 3)}, unit="plate"))
    assert alone.startswith("on `t`, e loses to `graph` (gain -0.400 [")
    assert alone.endswith(", 60 plates)")
    only = sentence(judge("e", "t", "m", _row(0.5, 1), twins={"x/shuffled": _seeds(0.9, 5)}, unit="plate"))
    assert "e loses to its weight-shuffled twins" in only


def test_detail_says_what_is_needed_and_names_every_caveat() -> None:
    found = judge("e", "t", "m", _row(0.61, 1, own=0.2), controls={"a": _row(0.6, 2, own=0.2), "b": _row(0.5, 3, own=0.2)}, unit="image")
    text = detail(found)
    assert "These 60 images could have detected a difference of" in text
    assert "images of equal size" in text
    assert "biased down by the choice of the best control" in text
    assert "Images as units: optimistic." in text
    assert "variances are multiplied" not in text
    folds = judge("e", "t", "m", replace(_row(0.61, 1), inflation=1.6), controls={"a": replace(_row(0.6, 2), inflation=1.6)}, unit="plate")
    assert "Which units train a probe is luck too: variances are multiplied by 1.6 for it." in detail(folds)

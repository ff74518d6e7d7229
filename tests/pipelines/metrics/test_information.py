from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import pytest
from sklearn.linear_model import Ridge

from pipelines.metrics.baseline import InformationSettings, enlarge
from pipelines.metrics.information import Information, beyond_controls, judge_information
from pipelines.metrics.sentences import information_sentence
from pipelines.metrics.statistic import Statistic
from pipelines.metrics.verdicts import Verdict
from pipelines.parallel import in_parallel
from registry.errors import InputError
from tests.pipelines.metrics.data import halves, mean_statistic

SETTINGS = InformationSettings(control_dims=16, product_dims=8, row_dims=24, random_networks=5)
DIRECTIONS, WIDTH = 10, 48


@dataclass(frozen=True, eq=False)
class Case:
    """Controls, a hidden variable that they lack, and labels."""

    controls: np.ndarray
    hidden: np.ndarray
    labels: np.ndarray
    units: np.ndarray


def _case(seed: int, *, n: int = 800, hidden: float = 0.0, squares: float = 0.0) -> Case:
    """Half the units are training units."""
    rng = np.random.default_rng(seed)
    controls, other = rng.normal(size=(n, DIRECTIONS)), rng.normal(size=n)
    logit = 1.2 * controls[:, 0] + hidden * other + squares * (controls[:, 1] ** 2 - 1 + controls[:, 2] * controls[:, 3])
    units = np.array([f"plate-{i % 40:02d}" for i in range(n)])
    return Case(controls, other, (rng.random(n) < 1 / (1 + np.exp(-logit))).astype(int), units)


def _network(case: Case, seed: int) -> np.ndarray:
    """A random network of the controls: what an untrained encoder knows, and a re-encoding without anything new."""
    rng = np.random.default_rng([7, seed])
    return np.tanh(1.5 * case.controls @ rng.normal(size=(DIRECTIONS, WIDTH)) / np.sqrt(DIRECTIONS) + rng.normal(size=WIDTH))


def _measure(case: Case, encoder: np.ndarray, settings: InformationSettings = SETTINGS) -> tuple[Information, Verdict]:
    twins = {"fresh": [_network(case, s) for s in range(5)]}
    found = beyond_controls(case.controls, encoder, twins, case.labels, halves(case.units), case.units, 2, settings)
    return found, judge_information("simclr", "count", found, unit="plate")


def _with_hidden(case: Case, seed: int = 0) -> np.ndarray:
    return _network(case, 100) + 0.5 * np.outer(case.hidden, np.random.default_rng(seed).normal(size=WIDTH))


def test_noise_knows_nothing_new() -> None:
    bits, words = [], []
    for seed in range(4):
        case = _case(seed)
        found, verdict = _measure(case, np.random.default_rng(seed + 50).normal(size=(len(case.labels), WIDTH)))
        bits.append(found.encoder.value)
        words.append(verdict.word)
    assert np.mean(bits) == pytest.approx(0, abs=0.006)
    assert "beats" not in words


def _crowded(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Controls that are many for the images, labels that two of them all but decide, and units."""
    rng = np.random.default_rng(seed)
    x, units = rng.normal(size=(300, 24)), np.array([f"plate-{i % 20:02d}" for i in range(300)])
    return x, (rng.random(300) < 1 / (1 + np.exp(-3.6 * x[:, 0] + 2.4 * x[:, 1]))).astype(int), units


@pytest.mark.slow
def test_noise_knows_nothing_new_where_controls_could_learn_the_training_labels_by_heart() -> None:
    """Without a penalty the controls lose more than there is to know, and noise beside them takes some of it back: 0.06 bits of nothing."""
    bits = []
    for seed in range(6):
        controls, labels, units = _crowded(seed)
        noise = np.random.default_rng(seed + 70).normal(size=(len(labels), 64))
        found = beyond_controls(controls, noise, {}, labels, np.arange(len(labels)) % 2, units, 2, InformationSettings(random_networks=0))
        assert found.baseline.value < 0.8 < found.prior.value
        bits.append(found.encoder.value)
    # to choose a penalty for nothing costs a little
    assert -0.02 < np.mean(bits) < 0.008


@pytest.mark.parametrize("what", ["two of them", "what decides", "all, turned"])
def test_no_control_escapes_its_penalty_by_being_copied(what: str) -> None:
    controls, labels, units = _crowded(3)
    copies = {
        "two of them": controls[:, :2],
        "what decides": controls[:, :1] - 2 / 3 * controls[:, 1:2],
        "all, turned": controls @ np.random.default_rng(0).normal(size=(24, 32)),
    }
    settings = InformationSettings(random_networks=0)
    found = beyond_controls(controls, copies[what], {}, labels, np.arange(len(labels)) % 2, units, 2, settings)
    assert found.encoder.value == 0.0
    assert found.dropped == 1.0
    blurred = copies[what] + 1e-3 * np.random.default_rng(1).normal(size=copies[what].shape)
    # what the blur adds is noise
    assert -0.03 < beyond_controls(controls, blurred, {}, labels, np.arange(len(labels)) % 2, units, 2, settings).encoder.value < 0.008


def test_what_is_left_of_a_row_is_that_of_ridge_regressions_written_out() -> None:
    """Each column by itself, scikit-learn's ridge, by the penalty that predicts best out of inner folds; training images out of theirs."""
    rng = np.random.default_rng(4)
    x, labels = rng.normal(size=(90, 5)), rng.integers(0, 2, 90)
    groups = [f"u{i % 9}" for i in range(90)]
    base = enlarge(x[:60], x[60:], labels[:60], groups[:60], 2, SETTINGS)
    row = np.column_stack([x @ rng.normal(size=5), x[:, 0] + rng.normal(size=90), rng.normal(size=90)])
    left, of_test = base.beside(row[:60], row[60:])
    for column in range(3):
        y = row[:60, column]
        tried: list[tuple[float, np.ndarray, np.ndarray]] = []
        for penalty in (1e-8, 1e-4, 1e-2, 0.1, 1.0, 10.0, 100.0, 1e4, 1e15):
            guess = np.zeros(60)
            for held in base.inner_held:
                guess[held] = Ridge((~held).sum() * penalty).fit(base.train[~held], y[~held]).predict(base.train[held])
            whole = Ridge(60 * penalty).fit(base.train, y).predict(base.test)
            tried.append((float(np.sum((y - guess) ** 2)), y - guess, row[60:, column] - whole))
        _, of_training, expected = min(tried, key=lambda one: one[0])
        assert left[:, column] == pytest.approx(of_training, abs=1e-6)
        assert of_test[:, column] == pytest.approx(expected, abs=1e-6)
    assert np.std(left[:, 0]) < 1e-4 < 0.5 < np.std(left[:, 2])


def test_a_linear_copy_of_the_controls_knows_nothing_new() -> None:
    case = _case(10)
    found, verdict = _measure(case, case.controls @ np.random.default_rng(0).normal(size=(DIRECTIONS, WIDTH)))
    assert found.encoder.value == pytest.approx(0, abs=0.006)
    assert verdict.word != "beats"


def test_a_nonlinear_re_encoding_knows_nothing_new_though_it_beats_the_plain_controls() -> None:
    """Labels hold squares and products of the controls: a linear probe on the controls alone would credit the network for them."""
    case = _case(11, n=1600, squares=1.0)
    encoder = _network(case, 100)
    found, verdict = _measure(case, encoder)
    assert abs(found.encoder.value) < 0.02
    assert verdict.word != "beats"
    assert found.baseline.value < found.prior.value - 0.15  # B+ has learned the nonlinear part itself


@pytest.mark.parametrize("seed", [2, 5])
def test_squares_of_the_controls_are_nothing_new_to_an_encoder_that_names_them(seed: int) -> None:
    """One square decides, and the encoder holds squares and no products: found only where squares enter the baseline as a block of their own."""
    rng = np.random.default_rng(seed)
    controls = rng.normal(size=(1000, 8))
    units = np.array([f"plate-{i % 20:02d}" for i in range(1000)])
    logit = 1.2 * controls[:, 0] - 0.8 * controls[:, 1] + controls[:, 0] ** 2 - 1
    labels = (rng.random(1000) < 1 / (1 + np.exp(-logit))).astype(int)
    encoder = np.hstack([controls, controls**2]) @ rng.normal(size=(16, 32))
    found = beyond_controls(controls, encoder, {}, labels, np.arange(1000) % 2, units, 2, InformationSettings(random_networks=2))
    assert abs(found.encoder.value) < 0.005
    assert judge_information("simclr", "count", found, unit="plate").word != "beats"


def test_true_information_is_found_and_said() -> None:
    case = _case(12, n=1600, hidden=1.2)
    found, verdict = _measure(case, _with_hidden(case))
    assert found.encoder.value > 0.06
    assert verdict.word == "beats"
    assert [c.control for c in verdict.comparisons] == ["fresh", "nothing", "random features of the controls"]
    assert max(s.value for s in (*found.twins["fresh"], *found.random_features)) < 0.02
    text = information_sentence(verdict)
    assert text.startswith(f"on `count`, simclr adds {found.encoder.value:.3f} bits per image to its controls, more than nothing")
    assert "20 plates" in text


@pytest.mark.slow
def test_twins_that_hold_the_same_information_take_the_claim_away() -> None:
    case = _case(13, n=800, hidden=1.2)
    twins = {"fresh": [_with_hidden(case, seed) for seed in range(1, 6)]}
    found = beyond_controls(case.controls, _with_hidden(case), twins, case.labels, halves(case.units), case.units, 2, SETTINGS)
    verdict = judge_information("simclr", "count", found, unit="plate")
    assert found.encoder.value > 0.04
    assert verdict.word != "beats"
    assert verdict.twins is not None
    assert verdict.comparison("nothing").word == "beats"


@pytest.mark.parametrize(
    ("bits", "word", "says"),
    [
        (6e-7, "equivalent", "nothing new within 0.02 bits"),
        (-6e-7, "equivalent", "nothing new within 0.02 bits"),
        (0.1, "beats", "more than nothing, than its twins and than random features"),
        (-0.1, "loses", "less than a row that knows nothing new"),
    ],
)
def test_bits_inside_the_margin_are_nothing_new_however_sure(bits: float, word: str, says: str) -> None:
    """On every plate the same sign: where the controls leave nothing to know, 0.0000006 bits have a p of 0.00005."""
    rng = np.random.default_rng(20)

    def row(scale: float) -> Statistic:
        return mean_statistic(scale * (1 + 0.1 * rng.normal(size=20)))

    left = mean_statistic(0.0008 + 1e-5 * rng.normal(size=20))
    twins = {"fresh": tuple(row(0.001 * bits) for _ in range(10))}
    found = Information(row(bits), twins, tuple(row(0.001 * bits) for _ in range(10)), left, row(1.0), 0.0, ())
    verdict = judge_information("simclr", "texture", found, unit="plate")
    assert verdict.overall.p is not None
    assert (verdict.overall.p < 1e-6) == (bits > 0)
    assert verdict.word == word
    assert says in information_sentence(verdict)


def test_no_more_than_its_twins_is_said_to_be_that() -> None:
    """The controls leave a bit, encoder and untrained twins both find a fifth of it."""
    rng = np.random.default_rng(21)
    encoder, *seeds = [mean_statistic(0.2 + 0.01 * rng.normal(size=60)) for _ in range(11)]
    found = Information(encoder, {"fresh": tuple(seeds)}, (), mean_statistic(np.ones(60)), mean_statistic(np.ones(60)), 0.0, ())
    verdict = judge_information("simclr", "texture", found)
    assert verdict.comparison("nothing").word == "beats"
    assert verdict.word == "equivalent"
    assert "adds 0.2" in information_sentence(verdict)
    assert "no more than its untrained twins within 0.02 bits" in information_sentence(verdict)


def test_several_classes_several_folds_and_features_per_fold() -> None:
    rng = np.random.default_rng(14)
    n = 360
    controls, hidden = rng.normal(size=(n, 4)), rng.normal(size=n)
    labels = np.argmax(np.column_stack([controls[:, 0], 1.5 * hidden, np.zeros(n)]) + rng.gumbel(size=(n, 3)), axis=1)
    labels[::11] = -1
    units = np.array([f"u{i % 30:02d}" for i in range(n)])
    folds = np.array([i % 30 % 3 for i in range(n)])
    encoder = {f: np.column_stack([hidden, rng.normal(size=(n, 5))]) for f in range(3)}
    settings = InformationSettings(penalties=(100.0, 1.0), random_networks=0)
    found = beyond_controls(controls, encoder, {}, labels, folds, units, 3, settings)
    assert found.encoder.n_images == (labels >= 0).sum()
    assert found.encoder.n_units == 30
    assert found.encoder.value > 0.1
    assert found.random_features == ()


def test_folds_side_by_side_give_the_same_bits() -> None:
    case = _case(3, n=300, hidden=1.0)
    twins = {"fresh": [_network(case, s) for s in range(2)]}
    folds = np.array([int(unit[-2:]) % 4 for unit in case.units])
    settings = replace(SETTINGS, penalties=(100.0, 1.0), random_networks=2)
    arguments = (case.controls, _with_hidden(case), twins, case.labels, folds, case.units, 2, settings)
    one, two = beyond_controls(*arguments), beyond_controls(*arguments, partial(in_parallel, workers=2))
    for first, second in ((one.encoder, two.encoder), (one.twins["fresh"][1], two.twins["fresh"][1]), (one.baseline, two.baseline)):
        assert second.value == pytest.approx(first.value, abs=1e-9)
        assert second.without == pytest.approx(first.without, abs=1e-9)
    assert one.notes == two.notes


def test_swapping_labels_and_batches_changes_the_answer() -> None:
    case = _case(15, hidden=1.2)
    encoder = _with_hidden(case)
    _, batch = np.unique(case.units, return_inverse=True)
    units = np.array([f"{label}-{i % 20:02d}" for i, label in enumerate(case.labels)])
    settings = InformationSettings(control_dims=16, product_dims=4, row_dims=24, penalties=(100.0,), random_networks=0)
    right = beyond_controls(case.controls, encoder, {}, case.labels, halves(case.units), case.units, 2, settings)
    swapped = beyond_controls(case.controls, encoder, {}, batch // 20, halves(units), units, 2, settings)
    assert right.encoder.value > 0.04
    assert swapped.encoder.value < 0.02


def test_everything_fitted_sees_training_images_only() -> None:
    case = _case(16, n=400)
    folds = halves(case.units)
    train, test = np.flatnonzero(folds < 0), np.flatnonzero(folds == 0)
    one = enlarge(case.controls[train], case.controls[test], case.labels[train], case.units[train], 2, SETTINGS)
    changed = case.controls[test] * 100
    changed[0] = case.controls[test][0]
    other = enlarge(case.controls[train], changed, case.labels[train], case.units[train], 2, SETTINGS)
    assert (one.train == other.train).all()
    assert one.test[0] == pytest.approx(other.test[0], abs=1e-12)


def test_constant_controls_and_a_constant_encoder_are_fine() -> None:
    case = _case(17, n=400)
    flat = np.ones((400, 3))
    folds = halves(case.units)
    found = beyond_controls(flat, case.controls, {}, case.labels, folds, case.units, 2, SETTINGS)
    assert found.baseline.value == pytest.approx(found.prior.value, abs=1e-6)
    assert found.encoder.value > 0.05
    nothing = beyond_controls(case.controls, flat, {"fresh": [flat] * 5}, case.labels, folds, case.units, 2, SETTINGS)
    assert nothing.encoder.value == 0.0
    assert nothing.dropped == 1.0
    verdict = judge_information("simclr", "count", nothing)
    assert verdict.comparison("nothing").gain == 0.0
    assert verdict.word in ("equivalent", "undecided")
    assert "simclr adds 0.000 bits per image to its controls" in information_sentence(verdict)


def test_bad_input_is_refused_in_words() -> None:
    case = _case(18, n=80)
    with pytest.raises(InputError, match="labelled images in a test fold, got none"):
        beyond_controls(case.controls, case.controls, {}, case.labels, np.full(80, -1), case.units, 2, SETTINGS)
    with pytest.raises(InputError, match="at least two classes, got 1"):
        beyond_controls(case.controls, case.controls, {}, np.zeros(80, dtype=int), halves(case.units), case.units, 2, SETTINGS)
    with pytest.raises(InputError, match="strongest first"):
        InformationSettings(penalties=(1.0, 10.0))


def test_protocol_id_names_every_rule() -> None:
    changes: list[dict[str, int]] = [
        {},
        {"control_dims": 8},
        {"product_dims": 8},
        {"row_dims": 8},
        {"inner_folds": 5},
        {"random_networks": 5},
        {"seed": 1},
    ]
    assert len({InformationSettings(**change).protocol_id for change in changes}) == len(changes)

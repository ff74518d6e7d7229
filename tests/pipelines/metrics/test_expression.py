from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import pearsonr
from sklearn.decomposition import PCA
from sklearn.linear_model import Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from pipelines.metrics.expression import COMPONENTS, GRID, ONE_PATIENT, expression_scores
from registry.errors import InputError


def tissue(
    d: int = 12, genes: int = 5, patients: int = 6, spots: int = 40, signal: float = 1.0, seed: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Features of spots, counts that follow some of them, patients who differ in both, two folds of whole patients."""
    rng = np.random.default_rng(seed)
    names = np.repeat([f"patient{i}" for i in range(patients)], spots)
    codes = np.repeat(np.arange(patients), spots)
    x = rng.normal(size=(len(names), d)) + 0.5 * rng.normal(size=(patients, d))[codes]
    rate = np.exp(1.0 + signal * x[:, :3] @ rng.normal(size=(3, genes)) / 2 + 0.3 * rng.normal(size=(patients, genes))[codes])
    return x, rng.poisson(rate).astype(float), names, codes % 2


@pytest.mark.parametrize(("protocol", "d", "spots"), [("hest_a1", 300, 120), ("hest_a2", 40, 40)])
def test_parity_protocols_are_the_recipe_in_scikit_learn(protocol: str, d: int, spots: int) -> None:
    x, counts, patients, folds = tissue(d=d, spots=spots)
    found = expression_scores(x, counts, patients, folds, protocol)
    for number in (0, 1):
        test = folds == number
        width = COMPONENTS if protocol == "hest_a1" else d
        ridge = Ridge(solver="lsqr", alpha=100 / (width * 5), fit_intercept=False, max_iter=1000, random_state=1)
        steps = [StandardScaler(), *([PCA(n_components=256, random_state=1)] if protocol == "hest_a1" else []), ridge]
        model = make_pipeline(*steps).fit(x[~test], np.log1p(counts[~test]))
        expected = [pearsonr(model.predict(x[test])[:, g], np.log1p(counts[test])[:, g])[0] for g in range(5)]
        # the same iterations rounded otherwise; they stop at a tolerance of 1e-4
        assert found.folds[number] == pytest.approx(np.mean(expected), abs=1e-7)
    assert found.r.value == pytest.approx(found.folds.mean())
    assert found.spread == pytest.approx(np.std(found.folds))


def test_the_alpha_of_the_leaderboard() -> None:
    x, counts, patients, folds = tissue(d=300, genes=50, spots=120)
    assert expression_scores(x, counts, patients, folds, "hest_a1").alphas == (0.0078125, 0.0078125)


def slow_fold(z: np.ndarray, y: np.ndarray, z_test: np.ndarray, y_test: np.ndarray, inner: list[np.ndarray]) -> tuple[float, float]:
    """The alpha that does best where each of `inner` is left out of training in turn, and the fold's score with it."""

    def r(predicted: np.ndarray, truth: np.ndarray) -> float:
        return float(np.mean([pearsonr(predicted[:, g], truth[:, g])[0] for g in range(truth.shape[1])]))

    scores = []
    for alpha in GRID:
        fits = [(held, Ridge(alpha=alpha).fit(np.delete(z, held, axis=0), np.delete(y, held, axis=0))) for held in inner]
        scores.append(sum(r(model.predict(z[held]), y[held]) for held, model in fits))
    alpha = GRID[int(np.argmax(scores))]
    return alpha, r(Ridge(alpha=alpha).fit(z, y).predict(z_test), y_test)


def test_hest_cv_is_the_slow_way() -> None:
    x, counts, patients, folds = tissue()
    found = expression_scores(x, counts, patients, folds)
    y = np.log1p(counts)
    for number in (0, 1):
        test = folds == number
        scaler = StandardScaler().fit(x[~test])
        z, z_test = scaler.transform(x[~test]), scaler.transform(x[test])
        inner = [np.flatnonzero(patients[~test] == name) for name in np.unique(patients[~test])]
        assert (found.alphas[number], found.folds[number]) == pytest.approx(slow_fold(z, y[~test], z_test, y[test], inner), abs=1e-9)


@pytest.mark.parametrize("sections", [None, 3])
def test_one_training_patient_is_divided_the_slow_way(sections: int | None) -> None:
    """Two patients, one left out: alpha is chosen over fifths of the other's spots in their order, or over its sections."""
    x, counts, patients, folds = tissue(patients=2, spots=43)
    slides = None if sections is None else np.array([f"{p}-{i % sections}" for i, p in enumerate(patients)])
    found = expression_scores(x, counts, patients, folds, sections=slides)
    y = np.log1p(counts)
    for number in (0, 1):
        test = folds == number
        scaler = StandardScaler().fit(x[~test])
        z, z_test = scaler.transform(x[~test]), scaler.transform(x[test])
        # 43 spots in fifths that differ by one spot at most
        inner = (
            [np.flatnonzero(slides[~test] == name) for name in np.unique(slides[~test])]
            if slides is not None
            else np.split(np.arange(43), [9, 18, 26, 35])
        )
        assert (found.alphas[number], found.folds[number]) == pytest.approx(slow_fold(z, y[~test], z_test, y[test], inner), abs=1e-9)
    assert found.protocol_id.startswith(f"{ONE_PATIENT}/alpha=1e-2..1e6x17-by-{'section' if sections else 'contiguous-fifths'}/")


def test_the_protocol_id_says_how_alpha_was_chosen_and_which_components() -> None:
    x, counts, patients, folds = tissue()
    slides = np.array([f"s{i % 4}" for i in range(len(folds))])
    several = expression_scores(x, counts, patients, folds)
    assert several.protocol_id == "hest_cv/alpha=1e-2..1e6x17-by-patient/log1p/pooled-r/v3"
    # where patients can be left out, sections are not looked at
    again = expression_scores(x, counts, patients, folds, sections=slides)
    assert (again.protocol_id, again.r.value) == (several.protocol_id, several.r.value)
    # three patients, one tested in one fold and two in the other
    three = np.isin(patients, ["patient0", "patient1", "patient2"])
    mixed = expression_scores(x[three], counts[three], patients[three], folds[three]).protocol_id
    assert mixed == f"{ONE_PATIENT}/alpha=1e-2..1e6x17-by-contiguous-fifths-or-patient/log1p/pooled-r/v3"
    # a section of two spots is no part that can be correlated
    two = np.isin(patients, ["patient0", "patient1"])
    lone = np.where(np.arange(80) % 40 < 2, "small", "large")
    assert "by-contiguous-fifths/" in expression_scores(x[two], counts[two], patients[two], folds[two], sections=lone).protocol_id
    with pytest.raises(InputError, match="Expected a section for each of 80 spots"):
        expression_scores(x[two], counts[two], patients[two], folds[two], sections=lone[1:])
    wide = tissue(d=300, spots=120)
    assert expression_scores(*wide, "hest_a1").protocol_id == "hest_a1/pca256-exact/log1p/pooled-r/v3"


def test_one_training_patient_finds_a_planted_gene_program_and_no_noise() -> None:
    assert expression_scores(*tissue(patients=2, spots=100)).r.value > 0.3
    noise = [expression_scores(*tissue(patients=2, spots=100, signal=0.0, seed=seed)).r.value for seed in range(12)]
    assert np.mean(noise) == pytest.approx(0.0, abs=0.06)


def test_the_components_of_the_leaderboard_are_exact_where_the_reference_draws_them() -> None:
    x, counts, patients, folds = tissue(d=600, spots=200)
    found = expression_scores(x, counts, patients, folds, "hest_a1")
    drawn = PCA(n_components=256, random_state=1).fit(StandardScaler().fit_transform(x[folds != 0]))
    assert drawn._fit_svd_solver == "randomized"
    for number in (0, 1):
        test = folds == number
        exact = PCA(n_components=256, svd_solver="full")
        ridge = Ridge(solver="lsqr", alpha=100 / (256 * 5), fit_intercept=False, max_iter=1000)
        model = make_pipeline(StandardScaler(), exact, ridge).fit(x[~test], np.log1p(counts[~test]))
        expected = [pearsonr(model.predict(x[test])[:, g], np.log1p(counts[test])[:, g])[0] for g in range(5)]
        assert found.folds[number] == pytest.approx(np.mean(expected), abs=1e-7)


def test_without_a_patient_is_the_score_of_the_others() -> None:
    x, counts, patients, folds = tissue()
    found = expression_scores(x, counts, patients, folds)
    assert found.r.units == tuple(sorted(set(patients)))
    assert found.r.share.sum() == pytest.approx(1.0)
    # the same fits scored on fewer spots: give the left-out patient to no fold is another fit, so recompute r by hand
    y = np.log1p(counts)
    for unit, without in zip(found.r.units, found.r.without, strict=True):
        values = []
        for number in (0, 1):
            test = folds == number
            scaler = StandardScaler().fit(x[~test])
            model = Ridge(alpha=found.alphas[number]).fit(scaler.transform(x[~test]), y[~test])
            kept = test & (patients != unit)
            predicted = model.predict(scaler.transform(x[kept]))
            values.append(np.mean([pearsonr(predicted[:, g], y[kept][:, g])[0] for g in range(5)]))
        assert without == pytest.approx(np.mean(values), abs=1e-9)


def test_a_planted_gene_program_is_found_and_noise_is_not() -> None:
    assert expression_scores(*tissue()).r.value > 0.4
    noise = [expression_scores(*tissue(signal=0.0, seed=seed)).r.value for seed in range(10)]
    assert np.mean(noise) == pytest.approx(0.0, abs=0.05)


def test_controls_of_any_dimension_are_scored_where_the_leaderboard_cannot() -> None:
    x, counts, patients, folds = tissue()
    assert -1 <= expression_scores(x[:, :1], counts, patients, folds).r.value <= 1
    with pytest.raises(InputError, match=r"`hest_a1` needs at least 256 dimensions .* got 12 .* Use `hest_cv`"):
        expression_scores(x, counts, patients, folds, "hest_a1")


def test_what_does_not_vary_scores_zero_and_is_counted() -> None:
    x, counts, patients, folds = tissue()
    constant = expression_scores(np.ones_like(x), counts, patients, folds)
    assert (constant.r.value, constant.constant) == (0.0, 10)
    counts[:, 0] = 3
    found = expression_scores(x, counts, patients, folds)
    assert found.constant == 2
    assert found.per_gene[0] == 0.0


def test_swapped_patients_and_folds_are_refused() -> None:
    x, counts, patients, folds = tissue()
    with pytest.raises(InputError, match="`patient0` is among training and test spots of fold 0"):
        expression_scores(x, counts, patients, np.arange(len(folds)) % 2)
    few = np.r_[0:40, 40:45]
    with pytest.raises(InputError, match="a single training patient, which needs at least 6 spots, got 5"):
        expression_scores(x[few], counts[few], patients[few], folds[few])
    with pytest.raises(InputError, match="The logarithm is taken here"):
        expression_scores(x, counts - 5, patients, folds)
    with pytest.raises(InputError, match="Expected a protocol"):
        expression_scores(x, counts, patients, folds, "hest")


def test_a_representation_fitted_for_every_fold_is_read_in_its_fold() -> None:
    x, counts, patients, folds = tissue()
    other = x[:, ::-1] * 3 + 1
    found = expression_scores({0: x, 1: other}, counts, patients, folds)
    assert found.folds[0] == expression_scores(x, counts, patients, folds).folds[0]
    assert found.folds[1] == expression_scores(other, counts, patients, folds).folds[1]


def test_spots_that_are_their_own_patients_are_refused() -> None:
    x, counts, _, folds = tissue(spots=4)
    with pytest.raises(InputError, match=r"none has 3 spots\. Name the patient"):
        expression_scores(x, counts, [f"spot{i:02d}" for i in range(len(x))], folds)

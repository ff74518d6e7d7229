from __future__ import annotations

import io

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler

from pipelines.metrics.classification import balanced_accuracy, macro_auroc
from pipelines.metrics.folds import inner_folds
from pipelines.metrics.probes import LogisticProbe, ProbeSettings, fit_knn, fit_probe, out_of_fold
from registry.errors import InputError
from tests.pipelines.metrics.data import halves, images

SETTINGS = ProbeSettings(grid=(1e-3, 1e-1, 10.0))
KINDS = ("logistic", "knn")


@pytest.mark.parametrize("k", [2, 4])
def test_logistic_probe_is_scikit_learns_on_standardised_features(k: int) -> None:
    data = images(240, 12, k, seed=k)
    x = data.noise + 0.8 * np.eye(8)[data.labels]
    found = fit_probe(x, data.labels, data.units, k, ProbeSettings(grid=(0.1,)))
    scaler = StandardScaler().fit(x)
    reference = LogisticRegression(C=0.1, class_weight="balanced", tol=1e-9, max_iter=5000).fit(scaler.transform(x), data.labels)
    assert found.predict_proba(x) == pytest.approx(reference.predict_proba(scaler.transform(x)), abs=1e-5)


@pytest.mark.parametrize("k", [2, 4])
@pytest.mark.parametrize("signal", [0.0, 0.15, 0.5, 3.0])
def test_the_penalty_is_the_one_a_search_of_the_whole_grid_finds(k: int, signal: float) -> None:
    data = images(240, 12, k, seed=k)
    x = np.hstack([data.noise + signal * np.eye(8)[data.labels], np.random.default_rng(k).normal(size=(240, 24))])
    z = StandardScaler().fit_transform(x)
    inner = inner_folds(data.labels, data.units, k, 3)
    slow = []
    for c in ProbeSettings().grid:
        total = 0.0
        for f in range(3):
            held = inner.fold == f
            model = LogisticRegression(C=c, class_weight="balanced", tol=1e-9, max_iter=5000).fit(z[~held], data.labels[~held])
            p = model.predict_proba(z[held])[np.arange(held.sum()), data.labels[held]]
            total -= np.mean([np.log(p[data.labels[held] == label]).mean() for label in range(k)])
        slow.append(total)
    assert fit_probe(x, data.labels, data.units, k, ProbeSettings()).c == ProbeSettings().grid[int(np.argmin(slow))]


def test_knn_probe_is_scikit_learns_where_classes_are_balanced() -> None:
    rng = np.random.default_rng(0)
    labels = np.arange(240) % 4
    x = rng.normal(size=(240, 6)) + np.eye(6)[labels]
    later = rng.normal(size=(50, 6))
    found = fit_knn(x, labels, 4, ProbeSettings(neighbours=9)).predict_proba(later)
    scaler = StandardScaler().fit(x)
    reference = KNeighborsClassifier(9).fit(scaler.transform(x), labels).predict_proba(scaler.transform(later))
    assert found == pytest.approx(reference, abs=1e-12)


def test_knn_votes_are_corrected_for_class_size() -> None:
    """19 of 20 training images are of class 0 and the features say nothing: plain votes would always name it."""
    rng = np.random.default_rng(1)
    labels = (np.arange(2000) % 20 == 0).astype(int)
    found = fit_knn(rng.normal(size=(2000, 2)), labels, 2, ProbeSettings(neighbours=50)).predict_proba(rng.normal(size=(500, 2)))
    assert found[:, 1].mean() == pytest.approx(0.45, abs=0.08)


def test_knn_ties_share_the_last_places() -> None:
    x = np.array([[0.0], [1.0], [1.0], [1.0], [5.0]])
    labels = np.array([0, 0, 1, 1, 1])
    found = fit_knn(x, labels, 2, ProbeSettings(neighbours=2)).predict_proba(np.array([[0.0]]))
    votes = np.array([1 + 1 / 3, 2 / 3]) / np.array([2, 3])
    assert found[0] == pytest.approx(votes / votes.sum())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("value", [0.0, -3.3])
def test_constant_features_are_at_chance_exactly(kind: str, value: float) -> None:
    data = images(200, 12, 3, seed=2)
    found = out_of_fold(np.full((200, 40), value), data.labels, halves(data.units), data.units, 3, SETTINGS, kind)
    units = data.units[found.images]
    assert balanced_accuracy(found.labels, found.predicted, units, 3).value == pytest.approx(1 / 3, abs=1e-15)
    assert macro_auroc(found.labels, found.probabilities, units).value == 0.5


@pytest.mark.parametrize("kind", KINDS)
def test_labels_planted_in_pure_noise_are_at_chance(kind: str) -> None:
    scores = []
    for seed in range(8):
        data = images(400, 16, 2, seed=100 + seed, d=30)
        _, codes = np.unique(data.units, return_inverse=True)
        found = out_of_fold(data.noise, data.labels, codes % 4, data.units, 2, SETTINGS, kind)
        units = data.units[found.images]
        scores.append((balanced_accuracy(found.labels, found.predicted, units, 2).value, macro_auroc(found.labels, found.probabilities, units).value))
    assert np.mean(scores, axis=0) == pytest.approx([0.5, 0.5], abs=0.025)  # 8 x 400 images: about 3 standard errors


@pytest.mark.parametrize("kind", KINDS)
def test_a_random_count_is_at_chance_and_a_count_that_carries_the_label_is_not(kind: str) -> None:
    rng = np.random.default_rng(3)
    data = images(800, 20, 2, seed=3)
    scores = []
    for mean in (np.full(800, 6.0), 4 + 4 * data.labels):
        count = rng.poisson(mean)[:, None].astype(float)
        found = out_of_fold(count, data.labels, halves(data.units), data.units, 2, SETTINGS, kind)
        scores.append(balanced_accuracy(found.labels, found.predicted, data.units[found.images], 2).value)
    assert scores[0] == pytest.approx(0.5, abs=0.08)
    assert scores[1] > 0.7


@pytest.mark.parametrize("kind", KINDS)
def test_swapping_labels_and_batches_changes_the_answer(kind: str) -> None:
    data = images(400, 8, 2, seed=4)
    _, batch = np.unique(data.units, return_inverse=True)
    x = data.noise + 2.0 * data.labels[:, None]
    rng = np.random.default_rng(0)
    folds = rng.integers(0, 2, 400)

    def score(labels: np.ndarray, groups: np.ndarray, k: int) -> float:
        found = out_of_fold(x, labels, folds, groups, k, SETTINGS, kind)
        return balanced_accuracy(found.labels, found.predicted, groups[found.images], k).value

    assert score(data.labels, data.units, 2) > 0.95
    assert score(batch, data.labels.astype(str), 8) < 0.3


@pytest.mark.parametrize("kind", KINDS)
def test_everything_fitted_sees_training_images_only(kind: str) -> None:
    """Changing the test images' labels, or all but one of their vectors, leaves the prediction of that one as it was."""
    data = images(200, 10, 2, seed=5, d=150)
    folds = halves(data.units)
    before = out_of_fold(data.noise, data.labels, folds, data.units, 2, SETTINGS, kind)
    labels, x = data.labels.copy(), data.noise.copy()
    labels[folds == 0] = 1 - labels[folds == 0]
    x[np.flatnonzero(folds == 0)[1:]] *= 100
    after = out_of_fold(x, labels, folds, data.units, 2, SETTINGS, kind)
    assert after.probabilities[0] == pytest.approx(before.probabilities[0], abs=1e-12)


def test_out_of_fold_covers_each_labelled_test_image_once_by_the_probe_of_its_fold() -> None:
    data = images(150, 9, 3, seed=6)
    _, codes = np.unique(data.units, return_inverse=True)
    folds, labels = codes % 4 - 1, data.labels.copy()
    labels[::7] = -1
    by_fold = {f: data.noise + f for f in range(3)}
    found = out_of_fold(by_fold, labels, folds, data.units, 3, SETTINGS)
    assert found.images.tolist() == np.flatnonzero((labels >= 0) & (folds >= 0)).tolist()
    assert (found.fold == folds[found.images]).all()
    assert (found.labels == labels[found.images]).all()
    for f, probe in found.probes.items():
        at = found.images[found.fold == f]
        train = (labels >= 0) & (folds != f)
        assert found.probabilities[found.fold == f] == pytest.approx(probe.predict_proba(by_fold[f][at]))
        again = fit_probe(by_fold[f][train], labels[train], data.units[train], 3, SETTINGS)
        assert probe.predict_proba(by_fold[f][at]) == pytest.approx(again.predict_proba(by_fold[f][at]))


def test_a_class_that_training_lacks_gets_probability_zero_and_is_reported() -> None:
    labels = np.array([0, 1] * 30 + [2] * 5)
    units = np.array([f"u{i % 6}" for i in range(60)] + ["last"] * 5)
    folds = np.where(units == "last", 0, -1)
    x = np.random.default_rng(0).normal(size=(65, 4))
    for kind in KINDS:
        found = out_of_fold(x, labels, folds, units, 3, SETTINGS, kind)
        assert (found.probabilities[:, 2] == 0).all()
        assert found.notes == ("fold 0: classes [2] have no training image and get probability 0.",)


def test_one_training_group_is_said_and_still_fitted() -> None:
    data = images(120, 1, 2, seed=7)
    found = fit_probe(data.noise + data.labels[:, None], data.labels, data.units, 2, SETTINGS)
    assert "only one training group" in found.notes[0]
    assert balanced_accuracy(data.labels, found.predict_proba(data.noise + data.labels[:, None]).argmax(axis=1), data.units, 2).value > 0.8


def test_more_columns_than_images_and_constant_columns_are_fine() -> None:
    data = images(60, 6, 2, seed=8, d=500)
    data.noise[:, :100] = 1.5
    data.noise[:, 200] += 20 * data.labels
    for kind in KINDS:
        found = out_of_fold(data.noise, data.labels, halves(data.units), data.units, 2, SETTINGS, kind)
        assert np.isfinite(found.probabilities).all()


def test_inner_folds_choose_a_strong_penalty_for_noise_and_a_weak_one_for_signal() -> None:
    data = images(300, 15, 2, seed=9, d=100)
    assert fit_probe(data.noise, data.labels, data.units, 2, SETTINGS).c == 1e-3
    clean = data.noise.copy()
    clean[:, 0] += 8 * data.labels
    assert fit_probe(clean[:, :2], data.labels, data.units, 2, SETTINGS).c == 10


def test_a_probe_survives_npz() -> None:
    data = images(100, 8, 3, seed=10, d=200)
    found = fit_probe(data.noise, data.labels, data.units, 3, ProbeSettings(max_dim=16, grid=(0.1, 1.0)))
    stored = io.BytesIO()
    np.savez(stored, **found.arrays())
    stored.seek(0)
    with np.load(stored, allow_pickle=False) as arrays:
        again = LogisticProbe.from_arrays(arrays)
    assert (again.predict_proba(data.noise) == found.predict_proba(data.noise)).all()
    assert again.c == found.c


@pytest.mark.parametrize("kind", KINDS)
def test_nan_is_refused_where_it_is(kind: str) -> None:
    data = images(60, 6, 2, seed=11)
    data.noise[7, 3] = np.nan
    with pytest.raises(InputError, match="got nan in image"):
        out_of_fold(data.noise, data.labels, halves(data.units), data.units, 2, SETTINGS, kind)


def test_bad_settings_and_folds_are_refused_in_words() -> None:
    data = images(60, 6, 2, seed=12)
    with pytest.raises(InputError, match="labelled images in a test fold, got none"):
        out_of_fold(data.noise, data.labels, np.full(60, -1), data.units, 2, SETTINGS)
    with pytest.raises(InputError, match=r"features for fold 0, got them for \[1\]"):
        out_of_fold({1: data.noise}, data.labels, halves(data.units), data.units, 2, SETTINGS)
    with pytest.raises(InputError, match="`logistic`, `knn`, got `svm`"):
        out_of_fold(data.noise, data.labels, halves(data.units), data.units, 2, SETTINGS, "svm")
    with pytest.raises(InputError, match="ascending"):
        ProbeSettings(grid=(1.0, 0.1))


def test_protocol_id_names_every_rule() -> None:
    assert ProbeSettings().protocol_id("knn") == "knn/standardise/pca128/k15/prior-corrected/v4"
    assert SETTINGS.protocol_id("logistic") == "logistic/standardise/pca128/balanced/C=0.001,0.1,10-until-two-rises/inner3-by-group/v6"
    assert len({ProbeSettings(**change).protocol_id("logistic") for change in ({}, {"max_dim": 64}, {"inner_folds": 5}, {"grid": (1.0,)})}) == 4

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from pipelines.metrics.code_length import OnlineCode, online_code
from pipelines.metrics.probes import ProbeSettings
from registry.errors import InputError
from tests.pipelines.metrics.data import images

SETTINGS = ProbeSettings(grid=(1e-3, 1e-1, 10.0))


def coded(signal: float, k: int = 3, seed: int = 0, n: int = 320) -> OnlineCode:
    data = images(n, 16, k, seed=seed)
    return online_code(data.noise + signal * np.eye(8)[data.labels], data.labels, data.units, k, SETTINGS)


def test_the_code_is_that_of_scikit_learns_probes_block_after_block() -> None:
    data = images(320, 16, 3, seed=1)
    x = data.noise + np.eye(8)[data.labels]
    found = online_code(x, data.labels, data.units, 3, ProbeSettings(grid=(0.1,)))
    assert found.ends == (1, 2, 4, 8, 16)
    total = 0.0
    for start, end in zip((0, *found.ends), found.ends, strict=False):
        block = np.isin(data.units, found.order[start:end])
        if start == 0:
            bits = np.full(block.sum(), np.log2(3))
        else:
            before = np.isin(data.units, found.order[:start])
            assert set(data.labels[before]) == {0, 1, 2}
            scaler = StandardScaler().fit(x[before])
            model = LogisticRegression(C=0.1, class_weight="balanced", tol=1e-10, max_iter=5000).fit(scaler.transform(x[before]), data.labels[before])
            p = 0.999 * model.predict_proba(scaler.transform(x[block]))[np.arange(block.sum()), data.labels[block]] + 0.001 / 3
            bits = -np.log2(p)
        np.testing.assert_allclose(found.bits[block], bits, atol=1e-4)
        total += bits.sum()
    assert found.online_bits == pytest.approx(total, abs=0.01)
    assert found.uniform_bits == pytest.approx(320 * np.log2(3))
    assert found.compression.value == pytest.approx(found.uniform_bits / total, abs=1e-4)


def test_a_planted_label_compresses_the_more_the_stronger_it_is() -> None:
    values = [coded(signal).compression.value for signal in (1.0, 2.0, 5.0)]
    assert values[0] > 1.1
    assert values == sorted(values)
    assert values[-1] > 3
    late = coded(2.0)
    assert late.block_bits[0] == late.uniform
    assert late.block_bits[-1] < late.uniform / 2


def test_noise_does_not_compress() -> None:
    values = [coded(0.0, k=2, seed=seed).compression.value for seed in range(20)]
    assert 0.85 < np.mean(values) < 1.005
    assert max(values) < 1.06


@pytest.mark.parametrize("value", [0.0, 7.3])
def test_a_constant_embedding_has_the_uniform_code(value: float) -> None:
    data = images(200, 10, 3, seed=2)
    assert online_code(np.full((200, 4), value), data.labels, data.units, 3, SETTINGS).compression.value == pytest.approx(1, abs=1e-12)


def test_unequal_classes_are_not_compressed_by_their_sizes() -> None:
    rng = np.random.default_rng(3)
    labels = (rng.random(400) < 0.1).astype(int)
    found = online_code(rng.normal(size=(400, 3)), labels, np.array([f"u{i % 16:02d}" for i in range(400)]), 2, SETTINGS)
    assert found.compression.value == pytest.approx(1, abs=0.08)


def test_a_class_that_comes_for_the_first_time_costs_the_uniform_code() -> None:
    """Each unit holds one class of its own: no probe ever knows the next one."""
    labels = np.repeat(np.arange(8), 10)
    units = np.array([f"u{label}" for label in labels])
    found = online_code(np.eye(8)[labels], labels, units, 8, SETTINGS, fractions=tuple(np.arange(1, 9) / 8))
    np.testing.assert_allclose(found.bits, 3, atol=1e-12)


def test_no_label_is_coded_by_a_probe_that_saw_its_unit_or_a_later_one() -> None:
    data = images(320, 16, 2, seed=4)
    x = data.noise + data.labels[:, None]
    before = online_code(x, data.labels, data.units, 2, SETTINGS)
    late = np.isin(data.units, before.order[8:])
    one = np.flatnonzero(late)[0]
    changed, labels = np.where(late[:, None], 100 * x, x), np.where(late, 1 - data.labels, data.labels)
    changed[one], labels[one] = x[one], data.labels[one]
    after = online_code(changed, labels, data.units, 2, SETTINGS)
    np.testing.assert_allclose(after.bits[~late], before.bits[~late], atol=1e-9)
    assert after.bits[one] == pytest.approx(before.bits[one], abs=1e-9)
    assert np.abs(after.bits[late] - before.bits[late]).max() > 1


def test_the_order_of_images_does_not_matter_and_that_of_units_comes_from_the_seed() -> None:
    data = images(240, 12, 2, seed=5)
    x, turned = data.noise + data.labels[:, None], np.random.default_rng(0).permutation(240)
    first = online_code(x, data.labels, data.units, 2, SETTINGS)
    again = online_code(x[turned], data.labels[turned], data.units[turned], 2, SETTINGS)
    assert again.order == first.order
    np.testing.assert_allclose(again.bits, first.bits[turned], atol=1e-6)
    other = online_code(x, data.labels, data.units, 2, SETTINGS, seed=1)
    assert other.order != first.order
    assert sorted(other.order) == sorted(first.order)


def test_without_a_unit_its_labels_are_not_counted() -> None:
    data = images(240, 12, 2, seed=6)
    found = online_code(data.noise + data.labels[:, None], data.labels, data.units, 2, SETTINGS)
    for unit, without, share in zip(found.compression.units, found.compression.without, found.compression.share, strict=True):
        others = data.units != unit
        assert without == pytest.approx(others.sum() / found.bits[others].sum())
        assert share == pytest.approx(1 - others.mean())


def test_swapping_labels_and_units_changes_the_answer() -> None:
    data = images(400, 8, 2, seed=7)
    x = data.noise + 3 * data.labels[:, None]
    _, unit = np.unique(data.units, return_inverse=True)
    assert online_code(x, data.labels, data.units, 2, SETTINGS).compression.value > 2.5
    assert online_code(x, unit, data.labels.astype(str), 8, SETTINGS).compression.value < 1.02


def test_what_cannot_be_coded_is_refused_in_words() -> None:
    data = images(60, 6, 2, seed=8)
    with pytest.raises(InputError, match="at least 2 classes and units for at least 2 blocks, got 2 classes and 1 units"):
        online_code(data.noise, data.labels, np.repeat("a", 60), 2, SETTINGS)
    with pytest.raises(InputError, match="got 1 classes"):
        online_code(data.noise, np.zeros(60), data.units, 1, SETTINGS)
    with pytest.raises(InputError, match="Expected ascending fractions"):
        online_code(data.noise, data.labels, data.units, 2, SETTINGS, fractions=(0.5, 0.9))
    with pytest.raises(InputError, match="a unit for each of 60 images, got 59"):
        online_code(data.noise, data.labels, data.units[1:], 2, SETTINGS)
    data.noise[7, 3] = np.nan
    with pytest.raises(InputError, match="got nan in image 7"):
        online_code(data.noise, data.labels, data.units, 2, SETTINGS)

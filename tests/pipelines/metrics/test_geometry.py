from __future__ import annotations

import numpy as np
import pytest

from pipelines.metrics.geometry import describe
from registry.errors import InputError


def test_participation_ratio_of_a_known_spectrum() -> None:
    """64 directions, one of them 20 times as wide: (400 + 63)^2 / (400^2 + 63) = 1.339; a shift changes nothing."""
    x = np.random.default_rng(0).normal(size=(20_000, 64))
    x[:, 0] *= 20
    assert describe(x).participation_ratio_raw == pytest.approx(463**2 / 160063, rel=0.02)
    assert describe(x + 50).participation_ratio_raw == pytest.approx(describe(x).participation_ratio_raw, rel=1e-9)
    assert describe(x).participation_ratio == pytest.approx(64, rel=0.02)


@pytest.mark.parametrize("n", [40, 400])
def test_participation_ratio_equals_that_of_the_eigenvalues(n: int) -> None:
    x = np.random.default_rng(1).normal(size=(n, 90)) @ np.diag(np.linspace(3, 0.1, 90))
    values = np.linalg.eigvalsh(np.cov(x.T))
    assert describe(x).participation_ratio_raw == pytest.approx(values.sum() ** 2 / (values**2).sum(), rel=1e-9)


def test_flags() -> None:
    rng = np.random.default_rng(2)
    assert describe(np.zeros((50, 8))).flags == ["collapsed", "low_rank"]
    assert describe(np.zeros((50, 0))).flags == ["collapsed", "low_rank"]
    assert describe(rng.normal(size=(50, 1)) * np.ones((1, 30))).flags == ["low_rank"]
    assert describe(rng.normal(size=(50, 2))).flags == ["low_rank"]
    assert describe(rng.normal(size=(500, 8))).flags == []


def test_a_value_that_is_not_finite_is_named() -> None:
    x = np.zeros((4, 3))
    x[2, 1] = np.inf
    with pytest.raises(InputError, match="got inf in image 2, column 1"):
        describe(x)

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from registry.cards import EncoderCard
from registry.images import ImageSpec
from registry.representation import Batch, Facts


@pytest.fixture(scope="package")
def spec() -> ImageSpec:
    """Two channels of 24 x 32 pixels."""
    return ImageSpec(("DNA", "ER"), "uint16", 24, 32, ((100.0, 1100.0), (0.0, 500.0)), 0.5)


@pytest.fixture(scope="package")
def facts(spec: ImageSpec) -> Facts:
    return Facts("b", "cells", spec)


@pytest.fixture
def card() -> EncoderCard:
    return EncoderCard("untrained-cnn-small", "twin", "s", architecture="cnn:small", weights="random")


def images(n: int, shape: tuple[int, int, int] = (2, 24, 32), seed: int = 0) -> Batch:
    pixels = np.random.default_rng(seed).uniform(0, 1000, (n, *shape)).astype(np.float32)
    return Batch(tuple(f"i{k}" for k in range(n)), pixels, pd.DataFrame(index=range(n)))

"""Controls that can be served compute the same in ONNX Runtime, and from the exported file in torch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from registry.controls.catalogue import make_control
from registry.export import cpu_session, export_onnx
from tests.registry.controls.samples import batch_of, facts_for, smooth_noise
from tests.serving.alike import assert_torch_computes_the_same

CULTURE = (("DNA", "ER", "RNA", "AGP", "Mito"), (64, 64), 4000.0)
TISSUE = (("red", "green", "blue"), (96, 96), 255.0)
ODD = (("grey",), (270, 41), 255.0)


@pytest.mark.parametrize(
    ("name", "sample"),
    [(name, sample) for name in ("intensity", "histogram", "spectrum", "pixels-pca") for sample in (CULTURE, TISSUE)] + [("spectrum", ODD)],
)
def test_parity(name: str, sample: tuple[tuple[str, ...], tuple[int, int], float], tmp_path: Path) -> None:
    channels, size_px, high = sample
    pixels = smooth_noise(14, len(channels), *size_px, high=high)
    pixels[0] = high / 2
    control = make_control(name, facts_for(channels, size_px, high), 0)
    if control.fitted:
        control.fit([batch_of(pixels)])
    network = control.network()
    assert network is not None
    export_onnx(network, pixels, tmp_path / "control.onnx")
    session, expected = cpu_session(tmp_path / "control.onnx"), control.embed(batch_of(pixels))
    for size in (1, 7):
        came = np.concatenate([session.run(None, {"pixels": pixels[i : i + size]})[0] for i in range(0, 14, size)])
        np.testing.assert_allclose(came, expected, rtol=1e-4, atol=2e-4)
    assert_torch_computes_the_same(tmp_path / "control.onnx", pixels)

"""How ONNX Runtime is run: by image or by operator, one by one or together; what comes out does not depend on it."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime
import pytest
from onnxruntime.capi.onnxruntime_pybind11_state import EPFail

from registry.arrays import Embedding, PixelBatch
from registry.errors import ProviderError
from serving import embedders
from serving.embedders import TOGETHER, OnnxEmbedder, runs_better_together
from serving.scoring import embedding_tolerance
from tests.serving.bundles import TinyBundle


@pytest.mark.parametrize(
    ("per_run_s", "per_image_s", "together"),
    [(0.01, 0.0, True), (0.004, 0.001, True), (0.0, 0.004, False), (0.0002, 0.004, False), (0.15, 0.0, False)],
    ids=["weights", "mostly weights", "maps", "mostly maps", "too long to look"],
)
def test_images_are_computed_together_where_that_is_faster(per_run_s: float, per_image_s: float, together: bool) -> None:
    sizes = []

    def run(pixels: PixelBatch) -> Embedding:
        assert pixels.shape[1:] == (3, 8, 6)
        sizes.append(len(pixels))
        time.sleep(per_run_s + len(pixels) * per_image_s)
        return np.zeros((len(pixels), 2), np.float32)

    assert runs_better_together((3, 8, 6), run) is together
    assert set(sizes) == ({1} if per_run_s > 0.1 else {1, TOGETHER})


def test_beside_others_the_answers_are_the_same(tiny: TinyBundle) -> None:
    model = (tiny.folder / "encoder.onnx").read_bytes()
    pixels = np.stack([image.astype(np.float32) for image in tiny.images[:8]])
    plain, shared = OnnxEmbedder(model), OnnxEmbedder(model, threads=2, shared=True)
    expected = plain.embed(pixels)
    for alone in (True, False):
        np.testing.assert_allclose(shared.embed(pixels, alone), expected, rtol=0, atol=embedding_tolerance(expected))
    shared._together = 1
    one_by_one = np.concatenate([plain.embed(pixels[i : i + 1]) for i in range(8)])
    np.testing.assert_array_equal(shared.embed(pixels, alone=False), one_by_one)


class Broken:
    """The inner side of a session whose device fails."""

    def __init__(self, whole: Any) -> None:
        self._whole = whole

    def __getattr__(self, name: str) -> Any:
        return getattr(self._whole, name)

    def run(self, *_: object) -> None:
        raise EPFail("the device is gone")


def test_a_pass_that_fails_on_its_device_is_not_done_elsewhere(tiny: TinyBundle) -> None:
    embedder = OnnxEmbedder((tiny.folder / "encoder.onnx").read_bytes())
    embedder._session._sess = Broken(embedder._session._sess)
    with pytest.raises(EPFail, match="the device is gone"):
        embedder.embed(tiny.images[:1].astype(np.float32))
    assert isinstance(embedder._session._sess, Broken)


def test_a_device_that_leaves_the_work_to_the_cpu_is_refused(tiny: TinyBundle, monkeypatch: pytest.MonkeyPatch) -> None:
    # a device that is none: the runtime says where every node went, as it does of a real one
    monkeypatch.setitem(embedders.PROVIDER_NAMES, "cuda", "CPUExecutionProvider")
    monkeypatch.setattr(embedders, "_CUDA", "CPUExecutionProvider")
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: None)
    with pytest.raises(ProviderError, match=r"it leaves .*Conv.* to the CPU"):
        OnnxEmbedder((tiny.folder / "encoder.onnx").read_bytes(), "cuda")


class Placed:
    """A session of which every node went where it is said."""

    def __init__(self, **kinds: str) -> None:
        self._kinds = kinds

    def get_provider_graph_assignment_info(self) -> list[Any]:
        return [
            SimpleNamespace(ep_name=f"{provider}ExecutionProvider", get_nodes=lambda ops=ops: [SimpleNamespace(op_type=op) for op in ops.split()])
            for provider, ops in self._kinds.items()
        ]


@pytest.mark.parametrize(
    ("on_device", "on_cpu", "left"),
    [
        # arithmetic on shapes belongs there
        ("Conv Gemm Relu", "Shape Gather Concat Reshape Slice", []),
        ("Conv", "", []),
        ("Relu", "FusedConv Shape", ["FusedConv"]),
        ("Conv", "MatMul Gemm MatMul", ["Gemm", "MatMul"]),
        ("Conv", "FusedMatMul MultiHeadAttention Einsum", ["Einsum", "FusedMatMul", "MultiHeadAttention"]),
    ],
)
def test_what_takes_time_is_told_from_arithmetic_on_shapes(on_device: str, on_cpu: str, left: list[str]) -> None:
    assert embedders.left_to_the_cpu(Placed(CUDA=on_device, CPU=on_cpu)) == left

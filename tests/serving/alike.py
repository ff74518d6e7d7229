"""An exported file under both that may run it."""

from __future__ import annotations

from pathlib import Path

from registry.arrays import PixelBatch
from serving.embedders import OnnxEmbedder
from serving.torch_embedder import MOST, TorchEmbedder, relative_difference


def assert_torch_computes_the_same(onnx: Path, images: PixelBatch) -> None:
    """Torch gives ONNX Runtime's embeddings, of many images and of one."""
    here, there = TorchEmbedder(onnx.read_bytes()), OnnxEmbedder(onnx.read_bytes())
    for part in (images, images[:1]):
        assert relative_difference(here.embed(part), there.embed(part)) <= MOST

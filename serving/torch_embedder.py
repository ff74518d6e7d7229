"""An exported network run by torch instead of ONNX Runtime, for TorchServe archives with torch inside.

Imported by TorchServe's workers and by what makes such an archive, never by the ONNX endpoint.
"""

from __future__ import annotations

import numpy as np
import torch

from registry.arrays import Embedding, Floats, PixelBatch
from registry.bundle import Bundle
from registry.errors import BundleError, ProviderError
from serving.embedders import OnnxEmbedder, in_parts
from serving.torch_graph import TorchGraph

DEVICES = ("cpu", "cuda")
#: largest difference from ONNX Runtime on the golden images, relative to the embeddings' root mean square
MOST = 1e-5


class TorchEmbedder:
    """See `serving.embedders.Embedder`.

    Args:
        model: bytes of `encoder.onnx`.
        provider: "cpu" or "cuda".
        threads: of torch, for all networks of the process.
        name: what to call it in messages.
        shared: not used: torch has one number of threads, for all that a process computes.

    Raises:
        ProviderError: torch has no such device here.
        BundleError: no ONNX file, or one that torch cannot compute.
    """

    def __init__(self, model: bytes, provider: str = "cpu", threads: int = 1, name: str = "encoder", shared: bool = False) -> None:
        del shared
        self.name = name
        self.provider = f"torch-{provider}"
        self._device = _device(provider, name)
        self._graph = TorchGraph(model, name, self._device)
        torch.set_num_threads(threads)

    def embed(self, pixels: PixelBatch, alone: bool = True) -> Embedding:
        """See `Embedder.embed`; `alone` changes nothing."""
        del alone
        with torch.inference_mode():
            return in_parts(self.name, pixels, lambda part: self._graph(torch.from_numpy(part).to(self._device)).cpu().numpy())


def _device(provider: str, name: str) -> torch.device:
    if provider not in DEVICES:
        raise ProviderError(f"Expected a provider of {', '.join(DEVICES)} for `{name}` with torch inside, got `{provider}`.")
    if provider == "cuda":
        if not torch.cuda.is_available():
            raise ProviderError(f"Expected `{name}` to run on `cuda`, torch finds no CUDA device here. Ask for `cpu`, or run where the device is.")
        # TF32 keeps 10 bits of mantissa
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    return torch.device(provider)


def check_torch(bundle: Bundle, provider: str = "cpu", threads: int = 1) -> None:
    """Refuse a bundle whose networks torch does not compute as ONNX Runtime does, here and now.

    The measure, for the encoder and every companion: the largest absolute difference between their embeddings of the golden images, over the
    root mean square of ONNX Runtime's; at most `MOST`.

    Args:
        bundle: verified, with an `encoder.onnx`.
        provider: "cpu" or "cuda".
        threads: of a network.

    Raises:
        BundleError: no golden images, an operator that is not computed here, or a larger difference.
        ProviderError: torch has no such device here.
    """
    if bundle.golden is None:
        raise BundleError(f"`{bundle.name}` holds no golden images, by which torch could be checked. Archive it with `--inside onnx`.")
    pixels = bundle.golden.pixels.astype(np.float32)
    for row in (None, *bundle.companions):
        name = row or bundle.name
        model = bundle.verified_bytes(f"companions/{row}/encoder.onnx" if row else "encoder.onnx")
        here = TorchEmbedder(model, provider, threads, name).embed(pixels)
        there = OnnxEmbedder(model, "cpu", threads, name).embed(pixels)
        difference = relative_difference(here, there)
        if not difference <= MOST:
            raise BundleError(
                f"`{name}`: expected torch to give the embeddings of ONNX Runtime within {MOST:g} of their root mean square, got {difference:.2g}."
                " Archive it with `--inside onnx`."
            )


def relative_difference(came: Embedding, expected: Embedding) -> float:
    """Largest absolute difference over the root mean square of what was expected."""
    a: Floats = came.astype(np.float64)
    b: Floats = expected.astype(np.float64)
    largest, scale = float(np.abs(a - b).max()), float(np.sqrt((b**2).mean()))
    return largest / scale if scale else float(largest > 0)

"""Where a network is run: one protocol, so that the Scorer does not know what computes an embedding."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from time import perf_counter
from typing import Any, Protocol

import numpy as np

from registry.arrays import Embedding, PixelBatch
from registry.errors import BundleError, ImageError, ProviderError
from registry.export import INPUT, OUTPUT
from registry.onnx_files import refuse_other_files

PROVIDER_NAMES = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider", "tensorrt": "TensorrtExecutionProvider"}
#: TF32 keeps 10 bits of mantissa: embeddings would leave the stated tolerance
_CUDA = ("CUDAExecutionProvider", {"use_tf32": "0"})
#: ONNX Runtime puts arithmetic on shapes on the CPU on purpose; of what takes the time, named so in whatever form it is fused, nothing may be there
_HEAVY = ("Conv", "Gemm", "MatMul", "Einsum", "Attention")
#: images per run: bounds the memory of a large batch
MAX_BATCH = 32
#: how `runs_better_together` finds out: images of one run, the gain that is worth it, and seconds of one image beyond which it does not look
TOGETHER = 4
WORTH_IT = 1.1
LONG_S = 0.1


class Embedder(Protocol):
    """Conformed pixels in, vectors out. Safe to call from several threads."""

    @property
    def provider(self) -> str:
        """What it runs on: "cpu", "cuda", "tensorrt", or "torch-cpu", "torch-cuda"."""

    def embed(self, pixels: PixelBatch, alone: bool = True) -> Embedding:
        """(n, d) float32 of (n, c, y, x) float32 raw intensities.

        Args:
            pixels: of the images.
            alone: whether nothing else is computed meanwhile, so that all threads may work on these.

        Raises:
            ImageError: an image's embedding is not finite.
        """


#: makes an embedder of bytes of `encoder.onnx`, provider, threads, name and `shared`, as `OnnxEmbedder`
EmbedderKind = Callable[[bytes, str, int, str, bool], Embedder]


class OnnxEmbedder:
    """An exported encoder under ONNX Runtime.

    Args:
        model: bytes of `encoder.onnx`.
        provider: "cpu", "cuda" or "tensorrt".
        threads: intra-operator threads.
        name: what to call it in messages.
        shared: whether calls come side by side. Then a second session computes what is not `alone` on the calling thread: threads that
            share the cores by image keep them busier than threads that share them by operator. It holds the weights once more, and takes
            several images in one run only where that is faster.

    Raises:
        ProviderError: the session does not run on the provider asked for, or leaves what takes time to the CPU; ONNX Runtime alone would do so
            silently.
        BundleError: the file is not an encoder.
    """

    def __init__(self, model: bytes, provider: str = "cpu", threads: int = 1, name: str = "encoder", shared: bool = False) -> None:
        self.name = name
        self.provider = provider
        refuse_other_files(model, name)
        self._session = _session(model, provider, threads, name)
        by_image = shared and threads > 1 and provider == "cpu"
        self._narrow = _session(model, provider, 1, name) if by_image else self._session
        inputs, outputs = ([value.name for value in values] for values in (self._session.get_inputs(), self._session.get_outputs()))
        if (inputs, outputs) != ([INPUT], [OUTPUT]):
            raise BundleError(f"`{name}`: expected an ONNX file from `{INPUT}` to `{OUTPUT}`, got {inputs} to {outputs}. Export it again.")
        shape = self._session.get_inputs()[0].shape[1:]
        tried = by_image and all(isinstance(side, int) for side in shape)
        self._together = 1 if tried and not runs_better_together(shape, lambda part: _run(self._narrow, part)) else MAX_BATCH

    def embed(self, pixels: PixelBatch, alone: bool = True) -> Embedding:
        """See `Embedder.embed`."""
        session, size = (self._session, MAX_BATCH) if alone else (self._narrow, self._together)
        return in_parts(self.name, pixels, lambda part: _run(session, part), size)


def runs_better_together(shape: Sequence[int], run: Callable[[PixelBatch], Embedding]) -> bool:
    """Whether one thread computes `TOGETHER` images in one run noticeably faster than one by one.

    Together, weights are read once for all images: small images gain. Large maps leave the processor's caches meanwhile and lose.

    Args:
        shape: (c, y, x) of an image.
        run: computes (n, d) of (n, c, y, x).
    """
    pixels = np.zeros((TOGETHER, *shape), np.float32)

    def shortest(count: int) -> float:
        times = []
        for _ in range(3):
            start = perf_counter()
            run(pixels[:count])
            times.append(perf_counter() - start)
        return min(times)

    run(pixels[:1])  # the first run makes room
    start = perf_counter()
    run(pixels[:1])
    return perf_counter() - start <= LONG_S and TOGETHER * shortest(1) >= WORTH_IT * shortest(TOGETHER)


def in_parts(name: str, pixels: PixelBatch, run: Callable[[PixelBatch], Embedding], size: int = MAX_BATCH) -> Embedding:
    """(n, d) float32 of (n, c, y, x), at most `size` images at a time; errors as `Embedder.embed`."""
    # ONNX Runtime accepts a batch of none and gives nonsense shapes for some graphs.
    if not len(pixels):
        raise ImageError(f"`{name}`: expected at least one image, got none.")
    embedding: Embedding = np.concatenate([run(pixels[i : i + size]) for i in range(0, len(pixels), size)]).astype(np.float32, copy=False)
    if not np.isfinite(embedding).all():
        raise ImageError(f"`{name}`: the embedding is not finite. The image's intensities are far outside what the encoder was made for.")
    return embedding


def _run(session: Any, pixels: PixelBatch) -> Embedding:
    found: Embedding = session.run([OUTPUT], {INPUT: pixels})[0]
    return found


def _session(model: bytes, provider: str, threads: int, name: str) -> Any:
    import onnxruntime

    wanted = PROVIDER_NAMES.get(provider)
    if wanted is None:
        raise ProviderError(f"Expected a provider of {', '.join(PROVIDER_NAMES)}, got `{provider}`.")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = 4
    # else the runtime's threads spin for a while after a run, on cores that decode the next image or carry it here
    options.add_session_config_entry("session.force_spinning_stop", "1")
    if provider != "cpu":
        options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
        if wanted in onnxruntime.get_available_providers():
            onnxruntime.preload_dlls()
    # what TensorRT has no kernel for runs on CUDA; which of them leads is checked below
    chosen: dict[str, list[Any]] = {"cpu": [wanted], "cuda": [_CUDA], "tensorrt": [wanted, _CUDA]}
    try:
        session = onnxruntime.InferenceSession(model, options, providers=chosen[provider])
    except (ValueError, RuntimeError) as error:
        raise ProviderError(f"`{name}` cannot be loaded on `{provider}` ({type(error).__name__}: {str(error).splitlines()[0]}).") from error
    except Exception as error:  # the runtime's own exceptions share no public base class
        raise BundleError(f"`{name}` is not an ONNX file that can be run ({type(error).__name__}). Export it again.") from error
    came = session.get_providers()[0]
    if came != wanted:
        raise ProviderError(
            f"Expected `{name}` to run on {wanted}, ONNX Runtime chose {came}: the device or its libraries are not there."
            " Ask for `--provider cpu`, or run where the device is."
        )
    if provider != "cpu" and (left := left_to_the_cpu(session)):
        raise ProviderError(f"Expected `{name}` to run on {wanted}, it leaves {', '.join(left)} to the CPU. Ask for `--provider cpu`.")
    # else a run that fails on a device is done again on the CPU, as are all that follow
    session.disable_fallback()
    return session


def left_to_the_cpu(session: Any) -> list[str]:
    """Operators that take time and that a session runs on the CPU; it was made with `session.record_ep_graph_assignment_info`."""
    parts = session.get_provider_graph_assignment_info()
    kinds = {node.op_type for part in parts if part.ep_name == PROVIDER_NAMES["cpu"] for node in part.get_nodes()}
    return sorted(kind for kind in kinds if any(heavy in kind for heavy in _HEAVY))

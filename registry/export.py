"""torch -> ONNX, with a parity check that can refuse.

The file takes raw pixels, holds the preprocessing, accepts any batch size and carries no local path, no time and no
name of a machine: the same weights give the same bytes.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from registry.arrays import Embedding, Floats, PixelBatch
from registry.errors import ParityError, ProviderError
from registry.files import published, sha256_of_file

if TYPE_CHECKING:
    from torch import nn

OPSET = 20
INPUT, OUTPUT = "pixels", "embedding"
#: largest difference, relative to the root mean square of the embedding
MAX_RELATIVE = 1e-4
#: smallest cosine between an image's two embeddings
MIN_COSINE = 0.99999
#: root mean square difference once every dimension is standardised, as probes see it
MAX_STANDARDISED = 1e-2
BATCH_SIZES = (1, 2, 7)
CPU = "CPUExecutionProvider"


@dataclass(frozen=True)
class ExportReport:
    """How close the exported file comes to its source on real images.

    Attributes:
        opset: ONNX operator set.
        images: images compared, each at every batch size.
        dim: embedding dimension.
        max_abs: largest absolute difference.
        relative: `max_abs` over the root mean square of the source's embedding.
        cosine: smallest cosine between an image's two embeddings.
        standardised: root mean square difference once every dimension is standardised over the images: a dimension of
            small scale counts as much as one of large scale. 0 where no dimension varies.
        batch: largest absolute difference of one image's embedding between batch sizes.
        sha256: of the file.
    """

    opset: int
    images: int
    dim: int
    max_abs: float
    relative: float
    cosine: float
    standardised: float
    batch: float
    sha256: str

    def as_dict(self) -> dict[str, Any]:
        """Plain values for a bundle's card."""
        return asdict(self)


def parity_faults(parity: dict[str, Any]) -> list[str]:
    """What in an `ExportReport.as_dict()` is out of bounds, in sentences; [] if parity holds.

    An empty report is itself a fault: nothing was compared.
    """
    if not parity:
        return ["No parity between the ONNX file and its source was recorded."]
    faults = []
    if not parity["relative"] <= MAX_RELATIVE:
        faults.append(f"Expected a largest difference of at most {MAX_RELATIVE:g} of the embedding's scale, got {parity['relative']:.3g}.")
    if not parity["cosine"] >= MIN_COSINE:
        faults.append(f"Expected a cosine of at least {MIN_COSINE:g}, got {parity['cosine']:.8f}.")
    if not parity["standardised"] <= MAX_STANDARDISED:
        faults.append(f"Expected a standardised difference of at most {MAX_STANDARDISED:g}, got {parity['standardised']:.3g}.")
    return faults


def export_onnx(network: nn.Module, example: PixelBatch, path: Path) -> ExportReport:
    """Export a network and compare the file with it on real images; the file exists only if they agree.

    Args:
        network: (n, c, y, x) float32 raw pixels -> (n, d) float32, preprocessing inside; exported in eval mode, its own
            mode is restored.
        example: (n, c, y, x) float32 real images, at least two and not all alike; more make the comparison sharper.
        path: the `.onnx` file.

    Returns:
        The comparison, within MAX_RELATIVE, MIN_COSINE and MAX_STANDARDISED.

    Raises:
        ParityError: the network cannot be exported, or the file does not compute what the network computes.
    """
    if example.ndim != 4 or len(example) < 2 or example.dtype != np.float32:
        raise ParityError(f"Expected at least two images (n, c, y, x) float32 to compare, got shape {example.shape} {example.dtype}.")
    with _evaluating(network), published(path) as temporary:
        _export(network, example[:2], temporary)
        report = _compare(network, example, temporary)
        faults = parity_faults(report.as_dict())
        if faults:
            raise ParityError(f"`{path.name}` does not compute what its source computes: {' '.join(faults)} Nothing was written.")
    return report


def cpu_session(onnx: Path | bytes, threads: int = 1) -> Any:
    """An ONNX Runtime session on the CPU.

    Args:
        onnx: the file or its bytes.
        threads: intra-operator threads.

    Raises:
        ProviderError: the runtime chose another provider.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(onnx if isinstance(onnx, bytes) else str(onnx), options, providers=[CPU])
    # what a build offers says nothing about what a session uses
    if session.get_providers()[0] != CPU:
        raise ProviderError(f"Expected the ONNX session to run on {CPU}, got {session.get_providers()[0]}.")
    return session


@contextmanager
def _evaluating(network: nn.Module) -> Iterator[None]:
    """Every module in eval mode, each back in its own mode afterwards: export in train mode would only warn."""
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def _export(network: nn.Module, example: PixelBatch, path: Path) -> None:
    import torch

    device = next((p.device for p in (*network.parameters(), *network.buffers())), torch.device("cpu"))
    pixels = torch.from_numpy(example).to(device)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # the exporter's own deprecations
        try:
            program = torch.onnx.export(
                network,
                (pixels,),
                dynamo=True,
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                input_names=[INPUT],
                output_names=[OUTPUT],
                opset_version=OPSET,
                external_data=False,
                verbose=False,
            )
        except torch.onnx.OnnxExporterError as error:
            raise ParityError(f"The network cannot be exported to ONNX: {str(error).splitlines()[0]}") from error
    if program is None:
        raise ParityError("The exporter returned no ONNX program.")
    model = program.model_proto
    strip_provenance(model)
    path.write_bytes(model.SerializeToString(deterministic=True))


def strip_provenance(model: Any) -> None:
    """Clear what the exporter writes of this machine: stack traces with local paths, module names, documentation.

    Args:
        model: an `onnx.ModelProto`, changed in place.
    """
    model.doc_string = ""
    del model.metadata_props[:]
    _strip_graph(model.graph)
    for function in model.functions:
        function.doc_string = ""
        del function.metadata_props[:]
        _strip_nodes(function.node)
        _strip_values(function.value_info)


def _strip_graph(graph: Any) -> None:
    graph.doc_string = ""
    del graph.metadata_props[:]
    _strip_nodes(graph.node)
    for values in (graph.input, graph.output, graph.value_info, graph.initializer):
        _strip_values(values)


def _strip_nodes(nodes: Any) -> None:
    for node in nodes:
        node.doc_string = ""
        del node.metadata_props[:]
        for attribute in node.attribute:
            attribute.doc_string = ""
            for graph in (attribute.g, *attribute.graphs) if attribute.HasField("g") or attribute.graphs else ():
                _strip_graph(graph)


def _strip_values(values: Any) -> None:
    for value in values:
        value.doc_string = ""
        del value.metadata_props[:]


def _compare(network: nn.Module, example: PixelBatch, path: Path) -> ExportReport:
    session = cpu_session(path)
    expected = _source_embedding(network, example)
    by_batch = [_onnx_embedding(session, example, size) for size in BATCH_SIZES]
    for size, came in zip(BATCH_SIZES, by_batch, strict=True):
        if came.shape != expected.shape:
            raise ParityError(f"Expected embeddings of shape {expected.shape} from batches of {size}, got {came.shape} from the ONNX file.")
    if not np.isfinite(expected).all():
        raise ParityError("The network gives an embedding that is not finite on the images given. Check its preprocessing.")
    difference = np.max([np.abs(came - expected) for came in by_batch], axis=0)
    max_abs, scale = float(difference.max()), math.sqrt(float((expected**2).mean()))
    return ExportReport(
        opset=OPSET,
        images=len(example),
        dim=expected.shape[1],
        max_abs=max_abs,
        relative=max_abs / scale if scale > 0 else (0.0 if max_abs == 0 else math.inf),
        cosine=min(_smallest_cosine(expected, came) for came in by_batch),
        standardised=_standardised(expected, difference),
        batch=float(np.ptp(by_batch, axis=0).max()),
        sha256=sha256_of_file(path),
    )


def _source_embedding(network: nn.Module, example: PixelBatch) -> Floats:
    import torch

    device = next((p.device for p in (*network.parameters(), *network.buffers())), torch.device("cpu"))
    with torch.inference_mode():
        parts = [network(torch.from_numpy(example[i : i + 16]).to(device)).cpu().numpy() for i in range(0, len(example), 16)]
    return np.concatenate(parts).astype(np.float64)


def _onnx_embedding(session: Any, example: PixelBatch, size: int) -> Floats:
    """Embeddings of all images, `size` at a time; the images are repeated to fill the last batch."""
    count = math.ceil(len(example) / size) * size
    filled = np.take(example, np.arange(count), axis=0, mode="wrap")
    parts: list[Embedding] = [session.run([OUTPUT], {INPUT: filled[i : i + size]})[0] for i in range(0, count, size)]
    return np.concatenate(parts)[: len(example)].astype(np.float64)


def _smallest_cosine(expected: Floats, came: Floats) -> float:
    lengths = np.linalg.norm(expected, axis=1) * np.linalg.norm(came, axis=1)
    both_zero = (np.abs(expected).max(axis=1) == 0) & (np.abs(came).max(axis=1) == 0)
    products = (expected * came).sum(axis=1)
    cosine = np.where(both_zero, 1.0, products / np.where(lengths > 0, lengths, 1.0))
    return float(cosine.min())


def _standardised(expected: Floats, difference: Floats) -> float:
    """Root mean square of the difference over each dimension's standard deviation across images.

    A dimension that varies by less than 1e-4 of its own size is constant as far as float32 can tell, and left out.
    """
    spread = expected.std(axis=0)
    varies = spread > 1e-4 * np.sqrt((expected**2).mean(axis=0))
    if not varies.any():
        return 0.0
    return math.sqrt(float(((difference[:, varies] / spread[varies]) ** 2).mean()))

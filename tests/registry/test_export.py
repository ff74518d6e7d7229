"""An exported file computes what its source computes, carries nothing of this machine, and otherwise does not exist."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper
from torch import nn

from registry.arrays import PixelBatch
from registry.errors import ParityError
from registry.export import BATCH_SIZES, CPU, MAX_RELATIVE, ExportReport, cpu_session, export_onnx, parity_faults, strip_provenance
from registry.images import resize_linear

ROOT = Path(__file__).resolve().parents[2]


class Network(nn.Module):
    """uint16-like intensities -> normalised -> two convolutions with BatchNorm -> pooled; its statistics are far from 0 and 1."""

    def __init__(self, seed: int = 0, channels: int = 3) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.body = nn.Sequential(
            nn.Conv2d(channels, 8, 3, stride=2, padding=1),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Conv2d(8, 12, 3, padding=1),
            nn.BatchNorm2d(12),
            nn.ReLU(),
        )
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.uniform_(module.weight, 0.3, 2.5)
                nn.init.normal_(module.bias)
                torch.nn.init.normal_(module.get_buffer("running_mean"), std=0.5)
                torch.nn.init.uniform_(module.get_buffer("running_var"), 0.05, 4.0)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.body((pixels / 4095.0 - 0.4) / 0.2).mean(dim=(2, 3))


def real_images(count: int, channels: int = 3, side: int = 32) -> PixelBatch:
    """Photographs that scikit-image ships, cropped and scaled to 12 bits: pixels with the statistics of pictures, not of noise."""
    from skimage import data

    pictures = [data.cell(), data.camera(), data.coins(), data.moon(), data.brick()]
    rng = np.random.default_rng(0)
    crops = []
    for i in range(count * channels):
        picture = pictures[i % len(pictures)].astype(np.float32) * 16
        y, x = (int(rng.integers(0, size - 96)) for size in picture.shape)
        crops.append(resize_linear(picture[y : y + 96, x : x + 96], side, side))
    return np.stack(crops).reshape(count, channels, side, side)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ExportReport]:
    path = tmp_path_factory.mktemp("export") / "encoder.onnx"
    network = Network().train()
    report = export_onnx(network, real_images(9), path)
    assert all(module.training for module in network.modules())
    return path, report


def test_it_agrees_with_torch_on_images_it_was_not_compared_on(exported: tuple[Path, ExportReport]) -> None:
    path, report = exported
    images = real_images(23)[9:]
    network = Network().eval()
    with torch.inference_mode():
        expected = network(torch.from_numpy(images)).numpy()
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    scale = np.sqrt((expected**2).mean())
    for size in (1, 2, 3, 7, 14):
        came = np.concatenate([session.run(None, {"pixels": images[i : i + size]})[0] for i in range(0, len(images), size)])
        assert np.abs(came - expected).max() <= MAX_RELATIVE * scale
    assert np.median(expected.std(axis=0)) > 0.05 * scale  # the images differ, so agreeing is not trivial
    assert report.images == 9
    assert report.dim == 12
    assert report.relative < 1e-5
    assert report.cosine > 0.999999
    assert parity_faults(report.as_dict()) == []


def test_batchnorm_statistics_are_in_the_file(tmp_path: Path, exported: tuple[Path, ExportReport]) -> None:
    network = Network()
    network.body[1].get_buffer("running_mean").add_(0.1)
    changed = export_onnx(network, real_images(2), tmp_path / "other.onnx")
    assert changed.sha256 != exported[1].sha256


def test_the_file_is_one_file_with_a_free_batch_and_the_stated_names(exported: tuple[Path, ExportReport]) -> None:
    path, report = exported
    assert [p.name for p in path.parent.iterdir()] == ["encoder.onnx"]
    model = onnx.load(path, load_external_data=False)
    onnx.checker.check_model(model, full_check=True)
    assert [(o.domain, o.version) for o in model.opset_import] == [("", report.opset)]
    (pixels,), (embedding,) = model.graph.input, model.graph.output
    assert (pixels.name, embedding.name) == ("pixels", "embedding")
    for value, rest in ((pixels, [3, 32, 32]), (embedding, [12])):
        dims = value.type.tensor_type.shape.dim
        assert dims[0].dim_param
        assert [d.dim_value for d in dims[1:]] == rest
        assert value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    assert all(not i.external_data for i in model.graph.initializer)


def test_the_file_carries_nothing_of_this_machine(exported: tuple[Path, ExportReport]) -> None:
    path, _ = exported
    data = path.read_bytes()
    words = {str(ROOT), sys.prefix, str(Path.home()), str(Path(torch.__file__).parent), "site-packages", "pytest", platform.node(), "test_export"}
    words |= {str(path.parent), "Traceback", "/registry/", "pkg.torch"}
    assert [word for word in words if word and len(word) > 3 and word.encode() in data] == []
    assert re.findall(rb"[A-Za-z0-9_./-]{3,}\.py\b", data) == []


def test_stripping_reaches_every_place_that_can_carry_text() -> None:
    node = onnx.helper.make_node("Identity", ["x"], ["y"], doc_string="/home/me")
    value = onnx.helper.make_tensor_value_info("x", 1, [1], doc_string="/home/me")
    inner = onnx.helper.make_graph([node], "inner", [], [value], doc_string="/home/me")
    branch = onnx.helper.make_node("If", ["c"], ["z"], then_branch=inner, else_branch=inner)
    function = onnx.helper.make_function("d", "f", ["x"], ["y"], [node], [onnx.helper.make_opsetid("", 20)], doc_string="/home/me")
    weights = numpy_helper.from_array(np.zeros(1, np.float32), "w")
    graph = onnx.helper.make_graph([node, branch], "outer", [value], [value], [weights], doc_string="/home/me", value_info=[value])
    model = onnx.helper.make_model(graph, functions=[function], doc_string="/home/me")
    holders = [model, model.graph, *model.graph.node, *model.graph.initializer, *model.functions, model.functions[0].node[0]]
    for holder in (*holders, model.graph.node[1].attribute[0].g, model.graph.node[1].attribute[0].g.node[0]):
        holder.metadata_props.append(onnx.StringStringEntryProto(key="trace", value="/home/me"))
    assert model.SerializeToString().count(b"/home/me") >= 15
    strip_provenance(model)
    assert b"/home/me" not in model.SerializeToString()


def test_the_same_weights_give_the_same_bytes(exported: tuple[Path, ExportReport], tmp_path: Path) -> None:
    assert export_onnx(Network(), real_images(3), tmp_path / "again.onnx").sha256 == exported[1].sha256


@pytest.mark.slow
def test_the_same_weights_give_the_same_bytes_in_another_process(exported: tuple[Path, ExportReport], tmp_path: Path) -> None:
    code = (
        "import pathlib\nfrom registry.export import export_onnx\nfrom tests.registry.test_export import Network, real_images\n"
        "print(export_onnx(Network(), real_images(3), pathlib.Path('again.onnx')).sha256)"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "7", "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split()[-1] == exported[1].sha256


class Drifting(Network):
    """Computes something else once it is traced: what a wrong export looks like."""

    def __init__(self, error: float) -> None:
        super().__init__()
        self.error = error

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        embedding = super().forward(pixels)
        return embedding * (1 + self.error) if torch.compiler.is_compiling() else embedding


class OneDimensionOff(Network):
    """Beside large dimensions one small one is wrong: invisible to the largest difference and to the cosine."""

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        embedding = super().forward(pixels)
        small = embedding[:, :1] * 1e-7
        return torch.cat([embedding * 1e3, -small if torch.compiler.is_compiling() else small], dim=1)


@pytest.mark.parametrize(
    ("network", "words"),
    [(Drifting(0.01), "of the embedding's scale"), (OneDimensionOff(), "standardised difference")],
    ids=["scale", "one dimension"],
)
def test_a_file_that_computes_something_else_is_refused_and_not_left(network: nn.Module, words: str, tmp_path: Path) -> None:
    with pytest.raises(ParityError, match=f"{words}.*Nothing was written"):
        export_onnx(network, real_images(8), tmp_path / "encoder.onnx")
    assert list(tmp_path.iterdir()) == []


def test_the_drift_that_is_refused_is_not_refused_for_another_reason(tmp_path: Path) -> None:
    assert export_onnx(Drifting(0.0), real_images(4), tmp_path / "encoder.onnx").relative < 1e-5


class Branching(nn.Module):
    """Control flow that depends on pixels cannot be one graph."""

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        means = pixels.mean(dim=(2, 3))
        return means * 2 if float(means.max()) > 100 else means


class Constant(nn.Module):
    """The same embedding for every image."""

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return torch.zeros_like(pixels.mean(dim=(2, 3)))


class Infinite(nn.Module):
    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return pixels.mean(dim=(2, 3)) / 0.0


def test_a_network_that_is_not_one_graph_is_refused_in_words(tmp_path: Path) -> None:
    with pytest.raises(ParityError, match="cannot be exported"):
        export_onnx(Branching(), real_images(2), tmp_path / "encoder.onnx")
    assert list(tmp_path.iterdir()) == []


def test_embeddings_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ParityError, match="not finite"):
        export_onnx(Infinite(), real_images(2), tmp_path / "encoder.onnx")


def test_a_collapsed_network_is_no_error_of_the_export(tmp_path: Path) -> None:
    report = export_onnx(Constant(), real_images(3), tmp_path / "encoder.onnx")
    assert (report.max_abs, report.relative, report.cosine, report.standardised) == (0.0, 0.0, 1.0, 0.0)


@pytest.mark.parametrize("images", [real_images(1), real_images(2).astype(np.float64), real_images(2)[:, 0]], ids=["one", "float64", "no channels"])
def test_too_little_to_compare_is_refused(images: PixelBatch, tmp_path: Path) -> None:
    with pytest.raises(ParityError, match="at least two images"):
        export_onnx(Network(), images, tmp_path / "encoder.onnx")


def test_every_bound_is_checked_and_nothing_compared_is_a_fault(exported: tuple[Path, ExportReport]) -> None:
    _, good = exported
    assert BATCH_SIZES == (1, 2, 7)
    assert len(parity_faults({})) == 1
    for bad in (replace(good, relative=2e-4), replace(good, cosine=0.9999), replace(good, standardised=0.02), replace(good, relative=float("nan"))):
        assert len(parity_faults(bad.as_dict())) == 1


def test_a_session_runs_where_it_says(exported: tuple[Path, ExportReport]) -> None:
    session = cpu_session(exported[0].read_bytes(), threads=1)
    assert session.get_providers() == [CPU]

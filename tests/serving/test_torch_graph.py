"""Torch computes every operator, and whole exported networks, as ONNX Runtime does; what it cannot compute is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import ArrayLike, NDArray
from onnx import TensorProto, helper, numpy_helper

from registry.bundle import read_bundle
from registry.cards import EncoderCard
from registry.encoders.network import EncoderNetwork
from registry.errors import BundleError, ImageError, ProviderError
from registry.export import OPSET, export_onnx
from registry.images import ImageSpec
from serving.embedders import OnnxEmbedder
from serving.torch_embedder import MOST, TorchEmbedder, check_torch, relative_difference
from serving.torch_graph import TorchGraph
from serving.torch_operators import OPERATORS
from tests.serving.alike import assert_torch_computes_the_same
from tests.serving.bundles import Exported, TinyBundle, tiny_images

RANDOM = np.random.default_rng(7)
Case = tuple[str, dict[str, Any], list[NDArray[Any] | None]]


def normal(*shape: int) -> NDArray[np.float32]:
    return RANDOM.normal(size=shape).astype(np.float32)


def ints(*values: int) -> NDArray[np.int64]:
    return np.array(values, np.int64)


def scalar(value: float) -> NDArray[np.float32]:
    return np.array(value, np.float32)


X = normal(2, 3, 4, 5)
POSITIVE = np.abs(X) + 0.1
BITS = X > 0
IMAGES = normal(2, 3, 9, 8)
PER_CHANNEL = [normal(3), normal(3)]
PADS, CROP = ints(0, 0, 1, 2, 0, 0, 3, 1), ints(0, 0, -1, 1, 0, 0, 1, -2)


def one_input(names: str, values: NDArray[Any]) -> list[Case]:
    return [(name, {}, [values]) for name in names.split()]


CASES: list[Case] = [
    *one_input("Abs Ceil Cos Erf Exp Floor HardSwish Identity Neg Relu Sigmoid Sin Softplus Tanh Softmax Elu LeakyRelu HardSigmoid Gelu Flatten", X),
    *one_input("Log Reciprocal Sqrt", POSITIVE),
    *one_input("GlobalAveragePool Transpose Shape", X),
    ("Round", {}, [np.array([-2.5, -1.5, 0.5, 1.5, 2.4], np.float32)]),
    ("Not", {}, [BITS]),
    *[(name, {}, [X, normal(4, 5)]) for name in ("Add", "Sub", "Mul", "Div", "Greater", "GreaterOrEqual", "Less", "LessOrEqual")],
    *[(name, {}, [BITS, np.roll(BITS, 1)]) for name in ("And", "Or")],
    ("Equal", {}, [ints(1, 2, 3), ints(1, 0, 3)]),
    ("Div", {}, [ints(7, -7, 6), ints(2, 2, -4)]),
    ("Pow", {}, [POSITIVE, scalar(1.7)]),
    *[(name, {}, [X, normal(4, 5), scalar(0.1)]) for name in ("Max", "Min")],
    ("MatMul", {}, [X, normal(5, 6)]),
    ("Where", {}, [BITS, X, scalar(0)]),
    ("Clip", {}, [X, scalar(-0.5), scalar(0.7)]),
    ("Clip", {}, [X, None, scalar(0.7)]),
    ("Clip", {}, [X, scalar(0)]),
    ("Clip", {}, [X]),
    ("Cast", {"to": TensorProto.INT64}, [X * 3]),
    ("Cast", {"to": TensorProto.FLOAT}, [BITS]),
    ("Gelu", {"approximate": "tanh"}, [X]),
    ("LeakyRelu", {"alpha": 0.3}, [X]),
    ("Elu", {"alpha": 0.5}, [X]),
    ("HardSigmoid", {"alpha": 0.3, "beta": 0.4}, [X]),
    ("Softmax", {"axis": 1}, [X]),
    ("Conv", {}, [IMAGES, normal(6, 3, 3, 3)]),
    ("Conv", {"strides": [2, 1], "pads": [1, 2, 1, 2], "dilations": [1, 2]}, [IMAGES, normal(6, 3, 3, 3), normal(6)]),
    ("Conv", {"group": 3, "pads": [0, 1, 1, 2]}, [IMAGES, normal(6, 1, 3, 3), normal(6)]),
    ("Conv", {"pads": [1, 1]}, [normal(2, 3, 9), normal(4, 3, 3)]),
    ("AveragePool", {"kernel_shape": [2, 3]}, [IMAGES]),
    *[
        ("AveragePool", {"kernel_shape": [2, 2], "strides": [2, 2], "ceil_mode": ceil, "pads": pads, "count_include_pad": counted}, [IMAGES])
        for ceil, pads, counted in ((1, [0, 0, 0, 0], 1), (0, [1, 1, 1, 1], 0), (0, [1, 1, 1, 1], 1))
    ],
    ("MaxPool", {"kernel_shape": [3, 2]}, [IMAGES]),
    ("MaxPool", {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1], "ceil_mode": 1}, [IMAGES]),
    ("MaxPool", {"kernel_shape": [2, 2], "dilations": [2, 2]}, [IMAGES]),
    ("Gemm", {}, [normal(3, 4), normal(4, 5)]),
    ("Gemm", {"transA": 1, "transB": 1, "alpha": 0.5, "beta": 2.0}, [normal(4, 3), normal(5, 4), normal(5)]),
    ("Einsum", {"equation": "bij,bjk->bik"}, [normal(2, 3, 4), normal(2, 4, 5)]),
    ("BatchNormalization", {"epsilon": 1e-3}, [X, *PER_CHANNEL, normal(3), np.abs(normal(3))]),
    ("LayerNormalization", {}, [X, normal(5), normal(5)]),
    ("LayerNormalization", {"axis": 2, "epsilon": 1e-3}, [X, normal(4, 5)]),
    ("InstanceNormalization", {"epsilon": 1e-3}, [X, *PER_CHANNEL]),
    *[(f"Reduce{name}", {"keepdims": 0}, [X, ints(1, -1)]) for name in ("Mean", "Sum", "Max", "Min", "L2")],
    ("ReduceMean", {}, [X]),
    ("ReduceSum", {"noop_with_empty_axes": 1}, [X]),
    ("Shape", {"start": 1, "end": -1}, [X]),
    ("Reshape", {}, [X, ints(0, -1, 5)]),
    ("Reshape", {"allowzero": 1}, [X, ints(6, 20)]),
    ("Flatten", {"axis": 2}, [X]),
    ("Transpose", {"perm": [0, 2, 3, 1]}, [X]),
    ("Squeeze", {}, [X[:1]]),
    ("Squeeze", {}, [X[:1, :1], ints(0)]),
    ("Unsqueeze", {}, [X, ints(0, -1)]),
    ("Expand", {}, [X[:, :1], ints(3, 1, 5)]),
    ("Expand", {}, [X[0], ints(2, 1, 1, 1)]),
    ("Tile", {}, [X, ints(1, 2, 1, 3)]),
    ("Concat", {"axis": -2}, [X, normal(2, 3, 2, 5)]),
    ("Split", {"axis": 3}, [X, ints(2, 3)]),
    ("Split", {"axis": 2, "num_outputs": 2}, [X]),
    ("Slice", {}, [X, ints(1, 1), ints(3, 4)]),
    ("Slice", {}, [X, ints(-3, 0), ints(9, 5), ints(2, -1), ints(1, 2)]),
    ("Slice", {}, [X, ints(-1), ints(-99), ints(3), ints(-2)]),
    ("Slice", {}, [X, ints(4), ints(0), ints(3), ints(-1)]),
    ("Gather", {"axis": 2}, [X, np.array([[0, -1], [2, 1]], np.int64)]),
    ("Gather", {}, [X, np.array(1, np.int64)]),
    ("Gather", {}, [ints(4, 5, 6), np.array(-1, np.int64)]),
    ("GatherND", {}, [X, np.array([[0, 1], [1, 2]], np.int64)]),
    ("Pad", {}, [X, PADS]),
    ("Pad", {}, [X, CROP, scalar(7)]),
    ("Pad", {"mode": "edge"}, [X, PADS]),
    ("Pad", {"mode": "reflect"}, [X, PADS]),
    ("Pad", {}, [X, ints(2, 1), scalar(1), ints(3)]),
    ("Range", {}, [np.array(v, np.int64) for v in (2, 11, 3)]),
    ("ConstantOfShape", {}, [ints(2, 3)]),
    ("ConstantOfShape", {"value": numpy_helper.from_array(np.array([7], np.int64))}, [ints(2)]),
    ("TopK", {"axis": 1}, [X, ints(2)]),
    ("TopK", {"axis": 3, "largest": 0}, [X, ints(4)]),
]


def model_of(nodes: list[Any], inputs: dict[str, ArrayLike], outputs: list[str], **parts: Any) -> bytes:
    """An ONNX file in which the types of outputs are inferred."""
    described = [helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(np.asarray(v).dtype), np.shape(v)) for name, v in inputs.items()]
    graph = helper.make_graph(nodes, "g", described, [helper.make_empty_tensor_value_info(name) for name in outputs], **parts)
    imports = [helper.make_opsetid("", OPSET), helper.make_opsetid("com.microsoft", 1)]
    made = helper.make_model(graph, opset_imports=imports, ir_version=10)
    return onnx.shape_inference.infer_shapes(made).SerializeToString()


def by_runtime(case: Case) -> list[NDArray[Any]]:
    name, attributes, values = case
    inputs = {f"i{i}": value for i, value in enumerate(values) if value is not None}
    outputs = [f"o{i}" for i in range({"TopK": 2, "Split": 2}.get(name, 1))]
    node = helper.make_node(name, [f"i{i}" if value is not None else "" for i, value in enumerate(values)], outputs, **attributes)
    session = onnxruntime.InferenceSession(model_of([node], inputs, outputs), providers=["CPUExecutionProvider"])
    return list(session.run(outputs, inputs))


def by_torch(case: Case) -> list[NDArray[Any]]:
    name, attributes, values = case
    # as the file gives them
    plain = {a.name: helper.get_attribute_value(a) for a in helper.make_node("N", [], [], **attributes).attribute}
    plain |= {key: torch.from_numpy(numpy_helper.to_array(v).copy()) for key, v in plain.items() if isinstance(v, TensorProto)}
    found = OPERATORS[name](plain, *(None if value is None else torch.from_numpy(value.copy()) for value in values))
    return [tensor.numpy() for tensor in (found if isinstance(found, tuple) else (found,))]


@pytest.mark.parametrize("case", CASES, ids=[f"{case[0]}-{i}" for i, case in enumerate(CASES)])
def test_an_operator(case: Case) -> None:
    expected, came = by_runtime(case), by_torch(case)
    for a, b in zip(came, expected, strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_every_operator_of_the_table_is_compared() -> None:
    assert {case[0] for case in CASES} == set(OPERATORS)


@pytest.mark.parametrize(
    ("name", "attributes"),
    [
        ("Conv", {"auto_pad": b"SAME_UPPER"}),
        ("AveragePool", {"kernel_shape": [2, 2], "pads": [0, 0, 1, 1]}),
        ("MaxPool", {"kernel_shape": [2, 2], "pads": [0, 0, 1, 1]}),
        ("MaxPool", {"kernel_shape": [2, 2, 2]}),
        ("BatchNormalization", {"training_mode": 1}),
        ("GatherND", {"batch_dims": 1}),
        ("Pad", {"mode": b"wrap"}),
    ],
)
def test_what_no_exported_network_asks_for_is_refused(name: str, attributes: dict[str, Any]) -> None:
    values = next(values for case, _, values in CASES if case == name)
    with pytest.raises(NotImplementedError):
        OPERATORS[name](attributes, *(torch.from_numpy(value.copy()) for value in values if value is not None))


SPEC = ImageSpec(("dna", "er", "actin"), "uint16", 41, 34, ((0.0, 4095.0),) * 3)


def test_an_exported_transformer(tmp_path: Path) -> None:
    """Convolutional networks and controls are compared where their export is tested."""
    torch.manual_seed(3)
    card = EncoderCard("e", "encoder", "An encoder.", architecture="timm:test_vit?img_size=32", twins=("t",), input_px=32, channel_strategy="each")
    network = EncoderNetwork(card, SPEC)
    for parameter in network.parameters():
        # a fresh network's biases are 0, and the exporter leaves such out
        parameter.data.add_(0.05 * torch.randn_like(parameter))
    images = np.random.default_rng(5).uniform(0, 4095, (9, *SPEC.shape)).astype(np.float32)
    export_onnx(network, images, tmp_path / "encoder.onnx")
    assert_torch_computes_the_same(tmp_path / "encoder.onnx", images)


def test_a_batch_larger_than_a_pass_and_none(exported: dict[str, Exported]) -> None:
    embedder = TorchEmbedder(exported["encoder"].onnx.read_bytes())
    images = tiny_images(70, 3).astype(np.float32)
    many = embedder.embed(images)
    assert many.shape == (70, 6)
    np.testing.assert_allclose(many[69], embedder.embed(images[69:])[0], rtol=1e-5)
    with pytest.raises(ImageError, match="expected at least one image"):
        embedder.embed(images[:0])
    with pytest.raises(ImageError, match="not finite"):
        embedder.embed(np.full((1, 3, 24, 20), 3e38, np.float32))


def test_devices_that_are_not_there(exported: dict[str, Exported]) -> None:
    model = exported["encoder"].onnx.read_bytes()
    with pytest.raises(ProviderError, match="Expected a provider of cpu, cuda for `encoder` with torch inside, got `tensorrt`"):
        TorchEmbedder(model, "tensorrt")
    if not torch.cuda.is_available():
        with pytest.raises(ProviderError, match="torch finds no CUDA device"):
            TorchEmbedder(model, "cuda")


@pytest.mark.gpu
def test_on_a_device(exported: dict[str, Exported]) -> None:
    model, images = exported["encoder"].onnx.read_bytes(), tiny_images(5, 3).astype(np.float32)
    assert relative_difference(TorchEmbedder(model, "cuda").embed(images), OnnxEmbedder(model).embed(images)) <= MOST


class TestRefused:
    def test_operators_that_are_not_computed_are_all_named(self) -> None:
        nodes = [helper.make_node("Det", ["pixels"], ["a"]), helper.make_node("Size", ["a"], ["b"]), helper.make_node("Relu", ["a"], ["embedding"])]
        with pytest.raises(BundleError, match=r"no ONNX operator `Det`, `Size` here\. Archive it with `--inside onnx`"):
            self.graph(nodes)

    def test_an_operator_of_another_domain(self) -> None:
        with pytest.raises(BundleError, match=r"`com\.microsoft\.Gelu`"):
            self.graph([helper.make_node("Gelu", ["pixels"], ["embedding"], domain="com.microsoft")])

    def test_weights_in_another_file(self, tmp_path: Path) -> None:
        (tmp_path / "secret").write_bytes(b"12345678")
        weight = numpy_helper.from_array(normal(2), "w")
        weight.ClearField("raw_data")
        weight.data_location = TensorProto.EXTERNAL
        weight.external_data.add(key="location", value=str(tmp_path / "secret"))
        with pytest.raises(BundleError, match="`w` lies in another file"):
            self.graph([helper.make_node("Add", ["pixels", "w"], ["embedding"])], initializer=[weight])

    def test_a_node_that_cannot_be_computed(self) -> None:
        graph = self.graph([helper.make_node("Conv", ["pixels", "pixels"], ["embedding"], auto_pad="SAME_UPPER")])
        with pytest.raises(BundleError, match="does not compute the node `Conv`"):
            graph(torch.zeros(1, 2, 3, 3))

    @pytest.mark.parametrize("model", [b"", b"nothing of the kind"])
    def test_no_onnx_file(self, model: bytes) -> None:
        with pytest.raises(BundleError, match=r"Export it again\."):
            TorchGraph(model, "e", torch.device("cpu"))

    def graph(self, nodes: list[Any], **parts: Any) -> TorchGraph:
        return TorchGraph(model_of(nodes, {"pixels": normal(1, 2, 3, 3)}, ["embedding"], **parts), "e", torch.device("cpu"))


class TestCheck:
    def test_the_bundle_is_what_onnx_runtime_computes(self, tiny: TinyBundle) -> None:
        check_torch(read_bundle(tiny.folder))

    def test_an_operator_that_torch_computes_otherwise(self, tiny: TinyBundle, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(OPERATORS, "Relu", lambda _attributes, x: torch.relu(x) * (1 + 3e-5))
        with pytest.raises(BundleError, match=r"within 1e-05 of their root mean square, got \d\.?\d*e-05\. Archive it with `--inside onnx`"):
            check_torch(read_bundle(tiny.folder))

    def test_a_companion_is_compared_too(self, tiny: TinyBundle, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delitem(OPERATORS, "Concat")
        with pytest.raises(BundleError, match="`intensity`: torch computes no ONNX operator `Concat`"):
            check_torch(read_bundle(tiny.folder))

    def test_no_golden_images(self, tiny: TinyBundle) -> None:
        bundle = read_bundle(tiny.folder)
        del bundle.files["golden.npz"]
        with pytest.raises(BundleError, match="holds no golden images"):
            check_torch(bundle)

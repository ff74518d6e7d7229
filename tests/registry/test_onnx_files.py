"""A network that leads to another file is refused, wherever in it the tensor is; ONNX Runtime alone would read it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from registry.errors import BundleError
from registry.onnx_files import refuse_other_files
from serving.embedders import OnnxEmbedder


def outside(name: str, shape: tuple[int, ...] = (4, 4)) -> Any:
    tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=shape, data_location=TensorProto.EXTERNAL)
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", "secret.bin"
    return tensor


def model(nodes: list[Any], tensors: list[Any], **more: Any) -> bytes:
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [None, 4]) for name in ("pixels", "embedding")]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], tensors, **more)
    return bytes(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10).SerializeToString())


def product(values: str) -> Any:
    return helper.make_node("MatMul", ["pixels", values], ["embedding"])


def conditional() -> bytes:
    """The tensor lies in a branch."""
    out = helper.make_tensor_value_info("v", TensorProto.FLOAT, [4, 4])
    branch = helper.make_graph([helper.make_node("Constant", [], ["v"], value=outside("hidden"))], "branch", [], [out])
    nodes = [helper.make_node("If", ["yes"], ["w"], then_branch=branch, else_branch=branch), product("w")]
    return model(nodes, [helper.make_tensor("yes", TensorProto.BOOL, [], [True])])


CASES = {
    "initializer": lambda: model([product("w")], [outside("w")]),
    "constant": lambda: model([helper.make_node("Constant", [], ["w"], value=outside("hidden")), product("w")], []),
    "branch": conditional,
}


@pytest.mark.parametrize("case", CASES)
def test_refused(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.eye(4, dtype=np.float32).tofile(tmp_path / "secret.bin")
    monkeypatch.chdir(tmp_path)
    data = CASES[case]()
    with pytest.raises(BundleError, match="are to be read from another file"):
        refuse_other_files(data, "tiny")
    with pytest.raises(BundleError, match="are to be read from another file"):
        OnnxEmbedder(data, name="tiny")


def engine() -> Any:
    """An operator that leads to a compiled engine."""
    return helper.make_node(
        "EPContext", ["pixels"], ["embedding"], domain="com.microsoft", embed_mode=0, ep_cache_context="/etc/engine", main_context=1
    )


def engine_in_a_branch() -> bytes:
    out = helper.make_tensor_value_info("embedding", TensorProto.FLOAT, [None, 4])
    branch = helper.make_graph([engine()], "branch", [], [out])
    nodes = [helper.make_node("If", ["yes"], ["embedding"], then_branch=branch, else_branch=branch)]
    return model(nodes, [helper.make_tensor("yes", TensorProto.BOOL, [], [True])])


def engine_in_a_function() -> bytes:
    proto = onnx.ModelProto.FromString(model([helper.make_node("hidden", ["pixels"], ["embedding"])], []))
    opsets = [helper.make_opsetid("com.microsoft", 1)]
    proto.functions.append(helper.make_function("", "hidden", ["pixels"], ["embedding"], [engine()], opsets))
    return bytes(proto.SerializeToString())


ENGINES = {"graph": lambda: model([engine()], []), "branch": engine_in_a_branch, "function": engine_in_a_function}


@pytest.mark.parametrize("case", ENGINES)
def test_an_operator_that_may_read_a_file_is_refused(case: str) -> None:
    data = ENGINES[case]()
    with pytest.raises(BundleError, match=r"expected standard operators alone, got `com\.microsoft\.EPContext`"):
        refuse_other_files(data, "tiny")
    with pytest.raises(BundleError, match="expected standard operators alone"):
        OnnxEmbedder(data, name="tiny")


def test_the_runtime_alone_would_read_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.eye(4, dtype=np.float32).tofile(tmp_path / "secret.bin")
    monkeypatch.chdir(tmp_path)
    session = onnxruntime.InferenceSession(CASES["initializer"](), providers=["CPUExecutionProvider"])
    np.testing.assert_array_equal(session.run(None, {"pixels": np.ones((1, 4), np.float32)})[0], np.ones((1, 4)))


def test_a_network_that_holds_its_values_passes() -> None:
    refuse_other_files(model([product("w")], [onnx.numpy_helper.from_array(np.eye(4, dtype=np.float32), "w")]), "tiny")


def test_not_onnx() -> None:
    with pytest.raises(BundleError, match="is not an ONNX file"):
        refuse_other_files(b"nothing of the kind", "tiny")

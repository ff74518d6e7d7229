"""An exported network as torch computes it: the nodes of the verified ONNX file one after another, its initializers as tensors.

The file is data and stays data: it names operators of `serving.torch_operators`, and what is not in that table is refused before anything is
computed. Nothing is generated, compiled or unpickled.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from registry.errors import BundleError
from registry.export import INPUT, OUTPUT
from serving.torch_operators import OPERATORS, Attributes, Operator


@dataclass(frozen=True)
class _Node:
    """One step.

    Attributes:
        kind: the operator's name.
        operator: what it computes.
        attributes: plain values, and tensors.
        inputs: names of values; "" for an optional one that is left out.
        outputs: names of values.
        done: names of values that no later node reads: their memory is let go.
    """

    kind: str
    operator: Operator
    attributes: Attributes
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    done: tuple[str, ...]


class TorchGraph:
    """Pixels (n, c, y, x) float32 to embeddings (n, d) float32.

    Args:
        model: bytes of `encoder.onnx`.
        name: what to call it in messages.
        device: where it computes; integers, which are shapes and places, stay on the CPU.

    Raises:
        BundleError: no ONNX file, or one with an operator that is not computed here; lists those.
    """

    def __init__(self, model: bytes, name: str, device: torch.device) -> None:
        self.name = name
        self._device = device
        graph = _parsed(model, name)
        self._constants = {value.name: self._placed(_tensor(value, name)) for value in graph.initializer}
        last = {value: i for i, node in enumerate(graph.node) for value in node.input}
        kept = {*self._constants, OUTPUT, ""}
        self._nodes = [
            self._node(node, tuple({value for value in node.input if last[value] == i and value not in kept})) for i, node in enumerate(graph.node)
        ]

    def __call__(self, pixels: Tensor) -> Tensor:
        """(n, d) of (n, c, y, x) on the same device.

        Raises:
            BundleError: a node cannot be computed; says which.
        """
        values: dict[str, Tensor] = {**self._constants, INPUT: pixels}
        for node in self._nodes:
            try:
                # an optional input that is left out has the name ""
                found = node.operator(node.attributes, *(values[name] if name else None for name in node.inputs))
                outputs: Sequence[Tensor] = (found,) if isinstance(found, Tensor) else found
                values.update(zip(node.outputs, outputs, strict=True))
            except (RuntimeError, ValueError, TypeError, LookupError) as error:
                raise BundleError(
                    f"`{self.name}`: torch does not compute the node `{node.kind}` of its ONNX file ({error}). Archive it with `--inside onnx`."
                ) from error
            for name in node.done:
                del values[name]
        return values[OUTPUT]

    def _placed(self, value: Tensor) -> Tensor:
        return value.to(self._device) if value.is_floating_point() else value

    def _node(self, node: Any, done: tuple[str, ...]) -> _Node:
        from onnx import TensorProto, helper

        attributes = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
        attributes = {key: self._placed(_tensor(value, self.name)) if isinstance(value, TensorProto) else value for key, value in attributes.items()}
        return _Node(node.op_type, OPERATORS[node.op_type], attributes, tuple(node.input), tuple(node.output), done)


def _parsed(model: bytes, name: str) -> Any:
    """The graph, once everything in it is known to be computable here."""
    import onnx
    from google.protobuf.message import DecodeError

    try:
        graph = onnx.load_model_from_string(model).graph
    except DecodeError as error:
        raise BundleError(f"`{name}` is not an ONNX file. Export it again.") from error
    inputs, outputs = [value.name for value in graph.input], [value.name for value in graph.output]
    if (inputs, outputs) != ([INPUT], [OUTPUT]):
        raise BundleError(f"`{name}`: expected an ONNX file from `{INPUT}` to `{OUTPUT}`, got {inputs} to {outputs}. Export it again.")
    kinds = {(node.domain, node.op_type) for node in graph.node}
    unknown = sorted(f"{domain}.{kind}" if domain else kind for domain, kind in kinds if domain not in ("", "ai.onnx") or kind not in OPERATORS)
    if unknown:
        raise BundleError(
            f"`{name}`: torch computes no ONNX operator {', '.join(f'`{kind}`' for kind in unknown)} here. Archive it with `--inside onnx`."
        )
    return graph


def _tensor(value: Any, name: str) -> Tensor:
    from onnx import TensorProto, numpy_helper

    if value.data_location == TensorProto.EXTERNAL:
        raise BundleError(f"`{name}`: `{value.name}` lies in another file. A bundle's ONNX file holds all of its weights; export it again.")
    try:
        return torch.from_numpy(numpy_helper.to_array(value).copy())
    except TypeError as error:
        raise BundleError(f"`{name}`: torch has no numbers of the kind of `{value.name}` ({error}). Archive it with `--inside onnx`.") from error

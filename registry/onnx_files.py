"""What an ONNX file may not do: lead to other files.

An ONNX tensor may name another file for its values, and ONNX Runtime looks for it relative to the process's working directory
where a model is loaded from bytes. A bundle's networks hold all their values, so such a tensor is refused before the runtime sees it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from registry.errors import BundleError


def refuse_external_data(model: bytes, name: str) -> None:
    """Check that every tensor of a model holds its own values.

    Args:
        model: bytes of an ONNX file.
        name: what to call it in messages.

    Raises:
        BundleError: not an ONNX file, or a tensor's values are to be read from another file.
    """
    import onnx
    from google.protobuf.message import DecodeError

    try:
        proto = onnx.ModelProto.FromString(model)
    except DecodeError as error:
        raise BundleError(f"`{name}` is not an ONNX file that can be run ({type(error).__name__}). Export it again.") from error
    for tensor in _tensors(proto):
        if tensor.data_location == onnx.TensorProto.EXTERNAL or tensor.external_data:
            raise BundleError(
                f"`{name}`: the values of `{tensor.name}` are to be read from another file. A bundle's network holds all of its values."
            )


def _tensors(proto: Any) -> Iterator[Any]:
    """Every tensor of a message, however deep: initializers, sparse ones, attributes, sub-graphs, functions."""
    for field, value in proto.ListFields():
        if field.message_type is None:
            continue
        for message in value if field.is_repeated else [value]:
            if field.message_type.name == "TensorProto":
                yield message
            else:
                yield from _tensors(message)

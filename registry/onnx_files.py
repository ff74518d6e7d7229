"""What an ONNX file may not do: lead to other files.

An ONNX tensor may name another file for its values, and ONNX Runtime looks for it relative to the process's working directory
where a model is loaded from bytes. An operator beyond the standard ones may name a file too: `com.microsoft.EPContext` leads to a compiled
engine. A bundle's networks hold all their values and consist of standard operators, so both are refused before the runtime sees them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from registry.errors import BundleError

#: two names of the standard operators, none of which reads a file; every network that `registry.export` writes consists of them
STANDARD = ("", "ai.onnx")


def refuse_other_files(model: bytes, name: str) -> None:
    """Check that every tensor of a model holds its own values, and that every operator is a standard one.

    Args:
        model: bytes of an ONNX file.
        name: what to call it in messages.

    Raises:
        BundleError: not an ONNX file, a tensor's values are to be read from another file, or an operator may read one.
    """
    import onnx
    from google.protobuf.message import DecodeError

    try:
        proto = onnx.ModelProto.FromString(model)
    except DecodeError as error:
        raise BundleError(f"`{name}` is not an ONNX file that can be run ({type(error).__name__}). Export it again.") from error
    for kind, part in _parts(proto):
        if kind == "TensorProto" and (part.data_location == onnx.TensorProto.EXTERNAL or part.external_data):
            raise BundleError(f"`{name}`: the values of `{part.name}` are to be read from another file. A bundle's network holds all of its values.")
        if kind == "NodeProto" and part.domain not in STANDARD:
            raise BundleError(
                f"`{name}`: expected standard operators alone, got `{part.domain}.{part.op_type}`, which may read another file. Export it again."
            )


def _parts(proto: Any) -> Iterator[tuple[str, Any]]:
    """Every tensor and node of a message with its kind, however deep: initializers, sparse ones, attributes, sub-graphs, functions."""
    for field, value in proto.ListFields():
        if field.message_type is None:
            continue
        for message in value if field.is_repeated else [value]:
            kind = field.message_type.name
            if kind in ("TensorProto", "NodeProto"):
                yield kind, message
            if kind != "TensorProto":
                yield from _parts(message)

"""Tensors of the Open Inference Protocol, version 2, with its binary extension: bytes of a request to pixels, answers to bytes.

A model takes one input, `pixels` (n, c, y, x) of the dtype its images are stored in, raw intensities. It gives `embedding`
(n, d) and, per task, `<task>`, `<task>.twin` and `<task>.control` (n, k): probabilities of the encoder, of its twin and of its best
servable control. The model's metadata lists the labels; an answer's `parameters` hold what is strange about each image, as JSON, the provider
and the evidence. https://github.com/kserve/open-inference-protocol
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson
from fastapi import Response
from numpy.typing import NDArray

from registry.errors import BundleError, InputError, NotFoundError
from registry.images import ImageSpec
from serving.errors import BodyTooLargeError
from serving.schema import EmbeddingAnswer, Reading
from serving.scoring import Scorer

HEADER_LENGTH = "inference-header-content-length"
INPUT = "pixels"
EMBEDDING = "embedding"
#: a number as text with all that surrounds it, in the most wasteful layout, and everything that is no number
NUMBER_BYTES = 64
OTHER_BYTES = 2**16
DATATYPES = {"uint8": "UINT8", "uint16": "UINT16", "float32": "FP32", "float64": "FP64"}


@dataclass(frozen=True)
class Wanted:
    """One output of a request.

    Attributes:
        name: of the tensor.
        binary: whether its numbers follow the JSON as bytes.
    """

    name: str
    binary: bool


@dataclass(frozen=True)
class Inference:
    """A parsed request.

    Attributes:
        id: the client's, sent back; None if there is none.
        pixels: (n, c, y, x) in the model's dtype.
        wanted: outputs in order.
    """

    id: str | None
    pixels: NDArray[Any]
    wanted: tuple[Wanted, ...]


@dataclass(frozen=True)
class Output:
    """A tensor of probabilities.

    Attributes:
        task: name.
        voice: "encoder", "twin" or "control".
        labels: of its columns.
    """

    task: str
    voice: str
    labels: tuple[str, ...]


def _probabilities(scorer: Scorer) -> dict[str, Output]:
    """Tensors of probabilities by name, in order."""
    suffix = {"encoder": "", "twin": ".twin", "control": ".control"}
    return {f"{task}{suffix[voice]}": Output(task, voice, labels) for task, voice, labels in scorer.voices}


def model_metadata(scorer: Scorer) -> dict[str, Any]:
    """The protocol's model metadata."""
    spec = scorer.bundle.card.image
    about = {"channels": ",".join(spec.channels), "intensity": json.dumps(spec.intensity)}
    inputs = [{"name": INPUT, "datatype": DATATYPES[spec.dtype], "shape": [-1, *spec.shape], "parameters": about}]
    outputs: list[dict[str, Any]] = [{"name": EMBEDDING, "datatype": "FP32", "shape": [-1, scorer.bundle.card.dim]}]
    for name, output in _probabilities(scorer).items():
        outputs.append({"name": name, "datatype": "FP64", "shape": [-1, len(output.labels)], "parameters": {"labels": json.dumps(output.labels)}})
    return {"name": scorer.name, "versions": [scorer.bundle.identity[:12]], "platform": "blankslide_onnx", "inputs": inputs, "outputs": outputs}


def parse(head: bytes, rest: bytes, scorer: Scorer, max_images: int) -> Inference:
    """A request of the protocol. Numbers as text take long: not for the event loop.

    Args:
        head: JSON.
        rest: the bytes behind it.
        scorer: of the model that is asked.
        max_images: of one request.

    Raises:
        BodyTooLargeError: longer than any request to the model has to be.
        InputError: not JSON, not the model's input, an output it does not have, or tensors of another size than stated.
    """
    _check_length(head, scorer.bundle.card.image, max_images)
    try:
        said = orjson.loads(head)
    except orjson.JSONDecodeError as error:
        raise InputError("Expected an inference request as JSON, which the body is not.") from error
    if not isinstance(said, dict):
        raise InputError("Expected an inference request as a JSON object.")
    pixels = _tensor(_only_input(said), rest, scorer.bundle.card.image, max_images)
    identity = said.get("id")
    return Inference(identity[:200] if isinstance(identity, str) else None, pixels, _wanted(said, [EMBEDDING, *_probabilities(scorer)]))


def split(body: bytes, header_length: str | None) -> tuple[bytes, bytes]:
    """The JSON of a request, and the bytes behind it.

    Raises:
        InputError: the body is shorter than is said.
    """
    if header_length is None:
        return body, b""
    if not header_length.isdecimal() or len(header_length) > 12 or int(header_length) > len(body):
        raise InputError(f"Expected `Inference-Header-Content-Length` of at most the body's {len(body)} bytes, got `{header_length[:20]}`.")
    return body[: int(header_length)], body[int(header_length) :]


def _check_length(head: bytes, spec: ImageSpec, max_images: int) -> None:
    """Before anything is built of it: a byte of JSON can become fifty in memory."""
    numbers = max_images * math.prod(spec.shape)
    longest, commas = numbers * NUMBER_BYTES + OTHER_BYTES, head.count(b",")
    if len(head) > longest or commas > numbers + OTHER_BYTES:
        raise BodyTooLargeError(
            f"Expected JSON of at most {longest} bytes and {numbers} numbers ({max_images} images), got {len(head)} bytes and {commas} commas."
            f" Send fewer images, or their numbers as bytes behind the JSON (`binary_data_size`)."
        )


def _only_input(said: Mapping[str, Any]) -> Mapping[str, Any]:
    inputs = said.get("inputs")
    if not isinstance(inputs, list) or len(inputs) != 1 or not isinstance(inputs[0], dict) or inputs[0].get("name") != INPUT:
        raise InputError(f"Expected one input named `{INPUT}`.")
    found: Mapping[str, Any] = inputs[0]
    return found


def _tensor(said: Mapping[str, Any], rest: bytes, spec: ImageSpec, max_images: int) -> NDArray[Any]:
    """(n, c, y, x)"""
    shape, kind = said.get("shape"), DATATYPES[spec.dtype]
    if not isinstance(shape, list) or len(shape) != 4 or not all(type(side) is int for side in shape) or tuple(shape[1:]) != spec.shape:
        raise InputError(f"Expected `{INPUT}` of shape {[-1, *spec.shape]}, got {str(shape)[:80]}.")
    if not 1 <= shape[0] <= max_images:
        raise InputError(f"Expected 1 to {max_images} images in one request, got {shape[0]}.")
    if said.get("datatype") != kind:
        raise InputError(f"Expected `{INPUT}` of datatype {kind}, got {str(said.get('datatype'))[:20]}. Intensities would mean something else.")
    dtype = np.dtype(spec.dtype).newbyteorder("<")
    count = math.prod(shape)
    parameters = said.get("parameters")
    size = parameters.get("binary_data_size") if isinstance(parameters, dict) else None
    if size is not None:
        if size != count * dtype.itemsize or len(rest) != size:
            raise InputError(
                f"Expected {count * dtype.itemsize} bytes of `{INPUT}` after the JSON, got {len(rest)} and `binary_data_size` {str(size)[:20]}."
            )
        return np.frombuffer(rest, dtype).reshape(shape).astype(spec.dtype, copy=False)
    values = np.asarray(_flat(said.get("data"), count), np.float64)
    if spec.dtype != "float32" and not ((values == np.rint(values)) & (values >= 0) & (values <= np.iinfo(spec.dtype).max)).all():
        raise InputError(f"Expected whole numbers of {kind} in `data`, got others.")
    return values.astype(spec.dtype).reshape(shape)


def _flat(data: Any, count: int) -> list[float]:
    """Numbers of a flat or nested list."""
    found: list[float] = []
    todo = [iter([data])]
    while todo:
        for value in todo[-1]:
            if isinstance(value, list):
                todo.append(iter(value))
                break
            if type(value) not in (int, float):
                raise InputError(f"Expected numbers in `data` of `{INPUT}`, got {type(value).__name__}.")
            if len(found) == count:
                raise InputError(f"Expected {count} numbers in `data` of `{INPUT}`, got more.")
            found.append(float(value))
        else:
            todo.pop()
    if len(found) != count:
        raise InputError(f"Expected {count} numbers in `data` of `{INPUT}`, got {len(found)}.")
    return found


def _wanted(said: Mapping[str, Any], known: Sequence[str]) -> tuple[Wanted, ...]:
    parameters = said.get("parameters")
    default = isinstance(parameters, dict) and parameters.get("binary_data_output") is True
    asked = said.get("outputs")
    if asked is None or asked == []:
        return tuple(Wanted(name, default) for name in known)
    if not isinstance(asked, list) or len(asked) > len(known) or not all(isinstance(one, dict) for one in asked):
        raise InputError(f"Expected `outputs` as a list of names of {', '.join(known)}.")
    wanted = []
    for one in asked:
        if one.get("name") not in known:
            raise NotFoundError("output", str(one.get("name"))[:80], known)
        own = one.get("parameters")
        binary = own.get("binary_data", default) if isinstance(own, dict) else default
        wanted.append(Wanted(one["name"], binary is True))
    return tuple(wanted)


def respond(inference: Inference, answers: Sequence[EmbeddingAnswer | Reading], scorer: Scorer) -> Response:
    """The protocol's answer: JSON, then the bytes of what was asked for as bytes."""
    outputs: list[dict[str, Any]] = []
    blobs: list[bytes] = []
    for one in inference.wanted:
        values = _output(one.name, answers, scorer)
        entry: dict[str, Any] = {"name": one.name, "datatype": DATATYPES[values.dtype.name], "shape": list(values.shape)}
        if one.binary:
            blobs.append(values.astype(values.dtype.newbyteorder("<")).tobytes())
            entry["parameters"] = {"binary_data_size": len(blobs[-1])}
        else:
            entry["data"] = values.ravel().tolist()
        outputs.append(entry)
    said = {
        "model_name": scorer.name,
        "model_version": scorer.bundle.identity[:12],
        # the protocol's parameters are words and numbers: a list is said in JSON, as the labels are
        "parameters": {"provider": scorer.ref.provider, "evidence": scorer.evidence, "warnings": json.dumps([answer.warnings for answer in answers])},
        "outputs": outputs,
    }
    head = orjson.dumps(said if inference.id is None else {"id": inference.id, **said})
    if not blobs:
        return Response(head, media_type="application/json")
    return Response(b"".join([head, *blobs]), media_type="application/octet-stream", headers={HEADER_LENGTH: str(len(head))})


def _output(name: str, answers: Sequence[EmbeddingAnswer | Reading], scorer: Scorer) -> NDArray[Any]:
    if name == EMBEDDING:
        return np.asarray([answer.embedding for answer in answers], np.float32)
    output = _probabilities(scorer)[name]
    return np.asarray([[_opinion(answer, output)[label] for label in output.labels] for answer in answers], np.float64)


def _opinion(answer: EmbeddingAnswer | Reading, output: Output) -> dict[str, float]:
    if isinstance(answer, Reading):
        task = next(t for t in answer.tasks if t.task == output.task)
        opinion = {"encoder": task.encoder, "twin": task.twin, "control": task.control}[output.voice]
        if opinion is not None:
            return opinion.probabilities
    raise BundleError(f"Expected a {output.voice}'s probabilities of `{output.task}` in the reading, there are none.")

"""Answers as JSON, npy or Arrow: one set of numbers in the form that was asked for."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from fastapi import Response

from registry.errors import BlankslideError
from serving.errors import AcceptError, status_of
from serving.schema import EmbeddedImage, EmbeddingAnswer, EmbeddingBatch, ErrorAnswer, ModelRef, ReadImage, Reading, ReadingBatch

JSON = "application/json"
NPY = "application/x-npy"
ARROW = "application/vnd.apache.arrow.stream"
KINDS = (JSON, NPY, ARROW)


@dataclass(frozen=True)
class Found:
    """The answer to one image or tile.

    Attributes:
        image: its name in the request.
        answer: what was computed, or what was wrong.
    """

    image: str
    answer: EmbeddingAnswer | Reading | BlankslideError


def accepted(header: str) -> str:
    """Which of `KINDS` an `Accept` header asks for: the first it names, JSON if any will do.

    Raises:
        AcceptError: none of them.
    """
    wanted = [part.partition(";")[0].strip().lower() for part in header.split(",") if part.strip()]
    for kind in wanted:
        if kind in KINDS:
            return kind
        if kind in ("*/*", "application/*"):
            return JSON
    if not wanted:
        return JSON
    raise AcceptError(f"Expected `Accept` to be one of {', '.join(KINDS)}, got `{header[:80]}`.")


def render(found: Sequence[Found], model: ModelRef, kind: str, several: bool, scored: bool) -> Response:
    """The response of a request.

    Args:
        found: answers in order.
        model: which version answered.
        kind: one of `KINDS`.
        several: whether the request may have several answers, by its form; otherwise `found` is one.
        scored: whether readings were asked for.

    Raises:
        BlankslideError: of the single image, or of the first bad one where the form has no place for errors.
        AcceptError: readings as npy.
    """
    if kind == JSON and several:
        return Response(_batch(found, model, scored).model_dump_json(), media_type=JSON)
    if kind == ARROW:
        return Response(arrow(found, scored), media_type=ARROW)
    answers = [_answer(one) for one in found]
    if kind == JSON:
        return Response(answers[0].model_dump_json(), media_type=JSON)
    if scored:
        raise AcceptError(f"A reading is no array: expected `Accept` to be {JSON} or {ARROW}. `/v1/embed` answers as npy.")
    stream = io.BytesIO()
    np.save(stream, np.asarray([answer.embedding for answer in answers], np.float32), allow_pickle=False)
    return Response(stream.getvalue(), media_type=NPY)


def error_answer(error: BlankslideError, expected: dict[str, Any] | None = None) -> ErrorAnswer:
    """What is said of an error."""
    return ErrorAnswer(error=str(error), kind=type(error).__name__, status=status_of(error), expected=expected)


def _answer(one: Found) -> EmbeddingAnswer | Reading:
    if isinstance(one.answer, BlankslideError):
        raise one.answer
    return one.answer


def _batch(found: Sequence[Found], model: ModelRef, scored: bool) -> EmbeddingBatch | ReadingBatch:
    # which of the two is told by what was asked, not by what came: all images may be bad
    parts = [
        {"image": one.image, "error": error_answer(one.answer)}
        if isinstance(one.answer, BlankslideError)
        else {"image": one.image, "answer": one.answer}
        for one in found
    ]
    if scored:
        return ReadingBatch(model=model, images=[ReadImage.model_validate(part) for part in parts])
    return EmbeddingBatch(model=model, images=[EmbeddedImage.model_validate(part) for part in parts])


def arrow(found: Sequence[Found], scored: bool) -> bytes:
    """A table as an Arrow stream: a line per image or tile; of readings one per task, voice and label."""
    import pyarrow

    place = [("image", pyarrow.string()), ("tile_y", pyarrow.int32()), ("tile_x", pyarrow.int32()), ("error", pyarrow.string())]
    if scored:
        texts = [(name, pyarrow.string()) for name in ("task", "role", "row", "member", "predicted", "label")]
        schema = pyarrow.schema([*place, *texts, ("probability", pyarrow.float64())])
        rows = [line for one in found for line in _lines(one)]
    else:
        dims = {len(one.answer.embedding) for one in found if isinstance(one.answer, EmbeddingAnswer)}
        schema = pyarrow.schema([*place, ("embedding", pyarrow.list_(pyarrow.float32(), dims.pop() if dims else -1))])
        rows = [{**_place(one), "embedding": one.answer.embedding if isinstance(one.answer, EmbeddingAnswer) else None} for one in found]
    sink = pyarrow.BufferOutputStream()
    with pyarrow.ipc.new_stream(sink, schema) as writer:
        writer.write_table(pyarrow.Table.from_pylist(rows, schema))
    return bytes(sink.getvalue())


def _place(one: Found) -> dict[str, Any]:
    tile = None if isinstance(one.answer, BlankslideError) else one.answer.tile
    error = str(one.answer) if isinstance(one.answer, BlankslideError) else None
    return {"image": one.image, "tile_y": tile.y if tile else None, "tile_x": tile.x if tile else None, "error": error}


def _lines(one: Found) -> Iterator[dict[str, Any]]:
    if not isinstance(one.answer, Reading):
        yield _place(one)
        return
    for task in one.answer.tasks:
        voices = [(role, voice) for role, voice in (("encoder", task.encoder), ("twin", task.twin), ("control", task.control)) if voice is not None]
        for role, voice in voices:
            facts = {"task": task.task, "role": role, "row": voice.row, "member": voice.member, "predicted": voice.predicted}
            for label, probability in voice.probabilities.items():
                yield {**_place(one), **facts, "label": label, "probability": probability}

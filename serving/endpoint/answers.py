"""Answers as JSON, npy or Arrow: one set of numbers in the form that was asked for."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from fastapi import Response

from registry.errors import BlankslideError
from registry.licences import address_of
from serving.errors import AcceptError, status_of
from serving.schema import (
    EmbeddedImage,
    EmbeddingAnswer,
    EmbeddingBatch,
    ErrorAnswer,
    ModelRef,
    ReadImage,
    Reading,
    ReadingBatch,
    TaskReading,
    UnservableControl,
)

JSON = "application/json"
NPY = "application/x-npy"
ARROW = "application/vnd.apache.arrow.stream"
KINDS = (JSON, NPY, ARROW)
#: where npy, which is numbers alone, has its warnings
WARNINGS = "X-Warnings"
#: and what its networks ran on
PROVIDER = "X-Provider"
#: whose an image is, as a JSON string
ATTRIBUTION = "X-Attribution"
#: characters of that header: what lies between may take no longer ones
MOST_HEADER = 4000
#: columns of a table, and what they hold: which image, of readings who says what, by which model, what the benchmark says, how far from known images
PLACE = {"image": "text", "tile_y": "count", "tile_x": "count", "error": "text"}
OPINION = {**dict.fromkeys(("task", "role", "row", "member", "predicted", "label"), "text"), "probability": "number"}
ABOUT = {
    "warnings": "text",
    "tile_policy": "text",
    "tile_height": "count",
    "tile_width": "count",
    "resampled_from_um": "number",
    **dict.fromkeys(("model", "identity", "benchmark", "provider", "evidence"), "text"),
}
JUDGED = {
    "row_role": "text",
    "benchmark_score": "number",
    "question": "text",
    **dict.fromkeys(("verdict", "verdict_sentence", "verdict_detail", "verdict_metric"), "text"),
    "confounded": "yes",
    "unservable": "text",
}
AWAY = {
    **dict.fromkeys(("distance_nearest", "distance_percentile"), "number"),
    "distance_n_reference": "count",
    **dict.fromkeys(("distance_threshold", "distance_appearance", "distance_appearance_threshold"), "number"),
    "unlike": "yes",
    **dict.fromkeys(("distance_sentence", "nearest_images", "nearest_distances", "nearest_labels", "thumbnails", "notes"), "text"),
}


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
        return Response(arrow(found, model, scored), media_type=ARROW)
    answers = [_answer(one) for one in found]
    if kind == JSON:
        return Response(answers[0].model_dump_json(), media_type=JSON)
    if scored:
        raise AcceptError(f"A reading is no array: expected `Accept` to be {JSON} or {ARROW}. `/v1/embed` answers as npy.")
    stream = io.BytesIO()
    np.save(stream, np.asarray([answer.embedding for answer in answers], np.float32), allow_pickle=False)
    said = warnings_header([answer.warnings for answer in answers])
    return Response(stream.getvalue(), media_type=NPY, headers={PROVIDER: model.provider, **({WARNINGS: said} if said else {})})


def warnings_header(warnings: Sequence[Sequence[str]]) -> str:
    """JSON of ASCII characters: warnings by row of the array, as long as there is room; under "more" how many other rows have some. "" for none."""
    strange = {str(i): list(texts) for i, texts in enumerate(warnings) if texts}
    for count in range(len(strange), -1, -1):
        rest = {"more": len(strange) - count} if count < len(strange) else {}
        said = json.dumps(dict(list(strange.items())[:count]) | rest)
        if len(said) <= MOST_HEADER:
            return said if strange else ""
    return ""


def attribution_headers(licence: str, terms: str) -> dict[str, str]:
    """What goes with an image of others: a link to its licence (RFC 8288) where that is known, and in ASCII whose it is; {} where nothing is said."""
    address, said = address_of(licence), json.dumps(terms)
    if len(said) > MOST_HEADER:
        # a character takes up to twelve
        said = json.dumps(f"{terms[: MOST_HEADER // 12 - 4]} ...")
    link = {"Link": f'<{address}>; rel="license"'} if address else {}
    return link | ({ATTRIBUTION: said} if terms else {})


def without_pictures(found: Sequence[Found]) -> list[Found]:
    """The same answers, the nearest training images by name alone; what had no pictures goes on to say why."""
    return [Found(one.image, _plain(one.answer)) if isinstance(one.answer, Reading) else one for one in found]


def _plain(reading: Reading) -> Reading:
    if not any(near.thumbnail for near in reading.nearest):
        return reading
    nearest = [near.model_copy(update={"thumbnail": None}) for near in reading.nearest]
    return reading.model_copy(update={"nearest": nearest, "thumbnails": "The request asked for no pictures."})


def error_answer(error: BlankslideError, expected: dict[str, Any] | None = None, request_id: str | None = None) -> ErrorAnswer:
    """What is said of an error; under `request_id` the log has more of it."""
    return ErrorAnswer(error=str(error), kind=type(error).__name__, status=status_of(error), expected=expected, request_id=request_id)


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


def arrow(found: Sequence[Found], model: ModelRef, scored: bool) -> bytes:
    """A table as an Arrow stream: a line per image or tile; of readings one per task, voice and label.

    Every fact of the answers is in it, in columns of text, number or yes and no, which CSV has too; what is true of a whole image is repeated on its
    lines. Left out are, of readings, the embedding (which `/v1/embed` gives) and pictures.
    """
    import pyarrow

    kinds = {"text": pyarrow.string(), "count": pyarrow.int32(), "number": pyarrow.float64(), "yes": pyarrow.bool_()}
    if scored:
        schema = pyarrow.schema([(name, kinds[kind]) for name, kind in (PLACE | OPINION | ABOUT | JUDGED | AWAY).items()])
        rows = [line for one in found for line in _lines(one, model)]
    else:
        dims = {len(one.answer.embedding) for one in found if isinstance(one.answer, EmbeddingAnswer)}
        embedding = pyarrow.list_(pyarrow.float32(), dims.pop() if dims else -1)
        place, about = ([(name, kinds[kind]) for name, kind in columns.items()] for columns in (PLACE, ABOUT))
        schema = pyarrow.schema([*place, ("embedding", embedding), *about])
        rows = [{**_about(one, model), "embedding": one.answer.embedding if isinstance(one.answer, EmbeddingAnswer) else None} for one in found]
    sink = pyarrow.BufferOutputStream()
    with pyarrow.ipc.new_stream(sink, schema) as writer:
        writer.write_table(pyarrow.Table.from_pylist(rows, schema))
    return bytes(sink.getvalue())


def _about(one: Found, model: ModelRef) -> dict[str, Any]:
    """Columns `PLACE` and `ABOUT`."""
    facts: dict[str, Any] = {"image": one.image}
    if isinstance(one.answer, BlankslideError):
        facts["error"] = str(one.answer)
    else:
        model = one.answer.model
        facts["warnings"] = " ".join(one.answer.warnings)
        if tile := one.answer.tile:
            facts |= {f"tile_{name}": getattr(tile, name) for name in ("policy", "y", "x", "height", "width")}
            facts["resampled_from_um"] = tile.resampled_from_um
    version = {"model": model.name, "identity": model.identity, "benchmark": model.benchmark}
    return {**facts, **version, "provider": model.provider, "evidence": model.evidence}


def _lines(one: Found, model: ModelRef) -> Iterator[dict[str, Any]]:
    about = _about(one, model)
    if not isinstance(one.answer, Reading):
        yield about
        return
    about |= _away(one.answer)
    if not one.answer.tasks:
        yield about
    for task in one.answer.tasks:
        judged = about | _judged(task, one.answer)
        for voice, opinion in (("encoder", task.encoder), ("twin", task.twin), ("control", task.control)):
            if opinion is None:
                continue
            facts = {name: getattr(opinion, name) for name in ("row", "member", "predicted", "benchmark_score")}
            for label, probability in opinion.probabilities.items():
                yield {**judged, **facts, "role": voice, "row_role": opinion.role, "label": label, "probability": probability}


def _away(reading: Reading) -> dict[str, Any]:
    """Columns `AWAY`."""
    distance = reading.distance.model_dump() if reading.distance else {}
    facts = {name if name in AWAY else f"distance_{name}": value for name, value in distance.items()}
    return {
        **facts,
        "nearest_images": _joined(near.image_id for near in reading.nearest),
        "nearest_distances": _joined(repr(near.distance) for near in reading.nearest),
        "thumbnails": reading.thumbnails,
        "notes": " ".join(reading.notes),
    }


def _judged(task: TaskReading, reading: Reading) -> dict[str, Any]:
    """Columns `JUDGED`, and the nearest images' labels of this task."""
    verdict = task.verdict
    said = {f"verdict_{name}": getattr(verdict, name) for name in ("sentence", "detail", "metric")} if verdict else {}
    return {
        "task": task.task,
        "question": task.question,
        "verdict": verdict.word if verdict else None,
        **said,
        "confounded": verdict.confounded if verdict else None,
        "unservable": " ".join(_unservable(control) for control in task.unservable),
        "nearest_labels": _joined(near.labels.get(task.task, "") for near in reading.nearest),
    }


def _unservable(control: UnservableControl) -> str:
    score = "" if control.benchmark_score is None else f" ({control.benchmark_score!r} on the benchmark)"
    return f"{control.name}{score}: {control.reason}"


def _joined(parts: Iterable[str]) -> str:
    return "; ".join(parts)

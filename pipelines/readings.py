"""Readings of many images as a file (JSON, CSV or Parquet) and as text for people."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from registry.errors import BlankslideError, ParamsError
from registry.files import published
from serving.endpoint.answers import Found, arrow, error_answer
from serving.errors import ServiceError
from serving.schema import ErrorAnswer, ModelRef, Opinion, ReadImage, Reading, TaskReading

SUFFIXES = (".json", ".csv", ".parquet")
#: answers that become lines of a table together
TOGETHER = 256
#: labels of a task that are printed, the most probable ones by the encoder
MOST_LABELS = 12

Write = Callable[[Found], None]


@contextmanager
def readings_file(path: Path, model: ModelRef) -> Iterator[Write]:
    """Yield what takes one answer after the other; the file is published when the block ends well, and is never held in memory.

    JSON is a `serving.schema.ReadingBatch`. CSV and Parquet are the endpoint's table: a line per image (or tile), task, voice and label.

    Raises:
        ParamsError: another kind of file.
    """
    kind = path.suffix.lower()
    if kind not in SUFFIXES:
        raise ParamsError(f"Expected a file {', '.join(SUFFIXES)}, got `{path}`.")
    with published(path) as temporary, _json(temporary, model) if kind == ".json" else _table(temporary, model, kind) as write:
        yield write


@contextmanager
def _json(path: Path, model: ModelRef) -> Iterator[Write]:
    with path.open("w", encoding="utf-8") as stream:
        stream.write(f'{{"schema": 1, "model": {json.dumps(model.model_dump())}, "images": [')
        comma = ""

        def write(found: Found) -> None:
            nonlocal comma
            stream.write(f"{comma}\n{_item(found).model_dump_json()}")
            comma = ","

        yield write
        stream.write("\n]}\n")


@contextmanager
def _table(path: Path, model: ModelRef, kind: str) -> Iterator[Write]:
    from pyarrow import csv, ipc, parquet

    waiting: list[Found] = []
    with ExitStack() as stack:
        schema = ipc.open_stream(arrow([], model, scored=True)).schema
        writer = csv.CSVWriter(path, schema) if kind == ".csv" else parquet.ParquetWriter(path, schema, compression="zstd")
        stack.enter_context(writer)

        def flush() -> None:
            writer.write_table(ipc.open_stream(arrow(waiting, model, scored=True)).read_all())
            waiting.clear()

        def write(found: Found) -> None:
            waiting.append(found)
            if len(waiting) >= TOGETHER:
                flush()

        yield write
        flush()


def _item(found: Found) -> ReadImage:
    if isinstance(found.answer, Reading):
        return ReadImage(image=found.image, answer=found.answer)
    if isinstance(found.answer, ServiceError):
        error = ErrorAnswer(error=str(found.answer), kind=found.answer.kind or "ServiceError", status=found.answer.status)
        return ReadImage(image=found.image, error=error)
    if isinstance(found.answer, BlankslideError):
        return ReadImage(image=found.image, error=error_answer(found.answer))
    raise TypeError(f"Expected a reading or an error, got {type(found.answer).__name__}.")


def said_of(found: Found) -> Iterator[str]:
    """Lines about one image: the encoder's probabilities beside those of twin and control, verdict, distance, warnings; or the error."""
    if not isinstance(found.answer, Reading):
        yield plain(f"{found.image}: {found.answer}")
        return
    reading, tile = found.answer, found.answer.tile
    yield plain(found.image) + (f"  (tile at y {tile.y}, x {tile.x}, {tile.height} x {tile.width})" if tile and tile.policy != "whole" else "")
    for task in reading.tasks:
        yield from (f"  {plain(line)}" for line in _task(task))
    if reading.distance is not None:
        yield f"  {plain(reading.distance.sentence)}"
    yield from (f"  Warning: {plain(text)}" for text in reading.warnings)


def said_once(reading: Reading) -> Iterator[str]:
    """Lines about what does not depend on the image: which version, stale evidence, controls that could not be computed, notes."""
    model = reading.model
    yield plain(f"`{model.name}` {model.identity[:12]}, benchmark `{model.benchmark}`, evidence {model.evidence}.")
    for task in reading.tasks:
        for control in task.unservable:
            score = "" if control.benchmark_score is None else f" ({control.benchmark_score:.3f} on the benchmark)"
            yield plain(
                f"`{task.task}`: `{control.name}`{score} is stronger than the control shown and cannot be computed on a new image. {control.reason}"
            )
    yield from map(plain, reading.notes)


def _task(task: TaskReading) -> Iterator[str]:
    yield f"{task.task}: {task.question}" if task.question else task.task
    voices = [(None, task.encoder), ("twin", task.twin), ("control", task.control)]
    there = [(role, voice) for role, voice in voices if voice is not None]
    heads = [voice.row if role is None else f"{voice.row} ({role})" for role, voice in there]
    labels = sorted(task.encoder.probabilities, key=lambda label: -task.encoder.probabilities[label])
    shown = [label for label in task.encoder.probabilities if label in labels[:MOST_LABELS]]
    rows = [[label, *(_share(voice, label) for _, voice in there)] for label in shown]
    scores = [["(score on the benchmark)", *("" if v.benchmark_score is None else f"{v.benchmark_score:.3f}" for _, v in there)]]
    yield from _aligned([["", *heads], *rows, *scores], task.encoder.predicted)
    if len(labels) > MOST_LABELS:
        yield f"  and {len(labels) - MOST_LABELS} labels that the encoder gives less"
    if task.verdict is not None:
        yield task.verdict.sentence + (" Plate layout alone does better: the task supports no conclusion." if task.verdict.confounded else "")


def _share(voice: Opinion, label: str) -> str:
    return f"{voice.probabilities[label]:.3f}" if label in voice.probabilities else ""


def _aligned(rows: Sequence[Sequence[str]], marked: str) -> Iterator[str]:
    widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
    for row in rows:
        cells = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        yield f"{'>' if row[0] == marked else ' '} {'  '.join(cells)}".rstrip()


def plain(text: str) -> str:
    """Text of a service or a file name without characters that would steer a terminal."""
    return "".join(c if c.isprintable() else "?" for c in text)

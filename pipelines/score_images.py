"""Ask a service for readings of image files: in order, each said and written as it comes; one that fails costs no other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

from pipelines.benchmarks.tables import IMAGE_SUFFIXES, ImageFiles
from pipelines.folder_parts import shown
from pipelines.readings import readings_file, said_of, said_once
from registry.errors import BlankslideError, ParamsError
from serving.client import ScoringClient
from serving.client.exchange import Field
from serving.endpoint.answers import Found
from serving.errors import ServiceError
from serving.schema import ModelFacts, ModelRef, Reading


@dataclass(frozen=True)
class Scored:
    """What came of the images.

    Attributes:
        images: how many were asked about.
        failed: how many of them have an error.
        stopped: why the service was not asked about all of them; "" if it was.
    """

    images: int
    failed: int
    stopped: str = ""


def find_images(given: Sequence[Path]) -> list[Path]:
    """Image files: those named, whatever their suffix, and all below the folders named, each once.

    Raises:
        ParamsError: a folder without an image that is read.
    """
    found: list[Path] = []
    for path in given:
        if not path.is_dir():
            found.append(path)
            continue
        inside = [path / name for name in ImageFiles.scan(path).paths]
        if not inside:
            raise ParamsError(f"`{path}` holds no image that is read ({', '.join(IMAGE_SUFFIXES)}).")
        found += inside
    return list(dict.fromkeys(found))


def choose_model(client: ScoringClient, name: str | None) -> ModelFacts:
    """The served model of that name, or the only one.

    Raises:
        ParamsError: none of that name, or no name where there are several.
        ServiceError: the service does not answer.
    """
    models = {model.name: model for model in client.models().models}
    if name is None and len(models) == 1:
        return next(iter(models.values()))
    if name not in models:
        asked = "no `--model`" if name is None else f"`--model {name}`"
        raise ParamsError(f"Expected one of the models that {client.url} serves ({', '.join(f'`{known}`' for known in models)}), got {asked}.")
    return models[name]


def score_images(
    client: ScoringClient,
    model: ModelRef,
    images: Sequence[Path],
    out: Path | None = None,
    say: Callable[[str], None] = print,
    warn: Callable[[str], None] = print,
    progress: bool = False,
    field: Field = "refuse",
    centres: Sequence[tuple[float, float]] = (),
    resample: bool = False,
) -> Scored:
    """Readings of image files.

    Args:
        client: of the service.
        model: which model is asked.
        images: the files.
        out: JSON, CSV or Parquet; every image is in it, with its readings or its error, also when the service stops answering.
        say: prints a line about readings for people.
        warn: prints a line about what failed.
        progress: whether a bar is drawn on stderr.
        field: what is done with a field larger than the model's input.
        centres: (y, x) in pixels with `field="centres"`.
        resample: whether an image of another pixel size is resampled.

    Raises:
        ServiceError: the service refuses every image for a reason that is not theirs (no access, a parameter).
        ParamsError: `out` is of another kind.
    """
    failed: set[str] = set()
    seen: set[str] = set()
    ended: BaseException | None = None
    last: Reading | None = None
    with readings_file(out, model) if out is not None else nullcontext(lambda _: None) as write:
        answers = client.score_many(model.name, images, progress=progress, field=field, centres=centres, resample=resample)
        try:
            for name, answer in answers:
                seen.add(name)
                if isinstance(answer, BlankslideError):
                    failed.add(name)
                else:
                    last = answer
                found = Found(shown(name), answer)
                write(found)
                for line in said_of(found):
                    (warn if isinstance(answer, BlankslideError) else say)(line)
        except (ServiceError, KeyboardInterrupt, BrokenPipeError) as error:
            if not seen:
                raise
            ended = error
            why = error if isinstance(error, ServiceError) else ServiceError("Not asked: the command was ended before.", 0)
            for path in images:
                if str(path) not in seen:
                    write(Found(shown(str(path)), why))
                    failed.add(str(path))
    if ended is not None and not isinstance(ended, ServiceError):
        raise ended
    if last is not None:
        for line in said_once(last):
            say(line)
    return Scored(len(images), len(failed), str(ended or ""))


def parse_centres(text: str) -> tuple[tuple[float, float], ...]:
    """Points from `y,x;y,x`.

    Raises:
        ParamsError: not pairs of numbers.
    """
    try:
        return tuple((float(y), float(x)) for y, x in (pair.split(",") for pair in text.split(";"))) if text else ()
    except ValueError as error:
        raise ParamsError(f"Expected `--centres` as `y,x;y,x` in pixels, got `{text[:60]}`.") from error

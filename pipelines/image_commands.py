"""What `blankslide score` and `blankslide embed` do: many image files, asked of a service or of a bundle. Each imports what it needs when it runs."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from typing import TYPE_CHECKING

from pipelines.commands import bundles
from registry.errors import ParamsError, SomeFailedError

if TYPE_CHECKING:
    from pipelines.embed_folder import Cutting, Embeds
    from serving.client import ScoringClient


def score(options: argparse.Namespace) -> None:
    """`blankslide score`.

    Raises:
        SomeFailedError: an image failed; the others are scored and written.
    """
    from pipelines.score_images import choose_model, find_images, parse_centres, score_images

    images, centres = find_images(options.images), parse_centres(options.centres)
    with _client(options) as client:
        model = choose_model(client, options.model)
        # a bar between printed readings would tear them apart
        say, bar = (_nothing, True) if options.quiet else (print, not sys.stdout.isatty())
        done = score_images(client, model, images, options.out, say, _warn, bar, options.field, centres, options.resample)
    if options.out is not None:
        print(f"{done.images - done.failed} of {done.images} images are scored by `{model.name}`, in {options.out}.")
    if done.failed:
        raise SomeFailedError(f"{done.failed} of {done.images} images failed, for the reasons given with each. {done.stopped}".rstrip())


def _nothing(_: str) -> None:
    """Say nothing."""


def _warn(line: str) -> None:
    """A line on stderr, above the bar if there is one."""
    from tqdm import tqdm

    tqdm.write(line, file=sys.stderr)


def embed(options: argparse.Namespace) -> None:
    """`blankslide embed`.

    Raises:
        SomeFailedError: an image failed; the others are written.
        ParamsError: not exactly one encoder is named, or the output is no Parquet file.
    """
    from pipelines.embed_folder import Cutting, embed_folder

    if options.out.suffix.lower() != ".parquet":
        raise ParamsError(f"Expected a Parquet file such as `vectors.parquet` as `-o`, got `{options.out}`.")
    cutting = Cutting(options.field, options.resample)
    with _embeds(options, cutting) as embeds:
        made = embed_folder(options.folder, options.out, embeds, cutting)
    if made.rows:
        print(f"{made.rows} vectors of {made.dim} numbers by `{embeds.model.name}` {embeds.model.identity[:12]}, in {options.out}.")
    if made.strange:
        print(f"Rows with a warning, in `Metadata_warnings`: {made.strange}.")
    if made.failed:
        kept = "" if made.rows else f" No image could be embedded, so `{options.out}` is not written."
        raise SomeFailedError(f"{made.failed} of {made.images} images failed; `{made.errors}` says why.{kept}")


@contextmanager
def _embeds(options: argparse.Namespace, cutting: Cutting) -> Iterator[Embeds]:
    """What `embed` was told to make vectors with: a bundle in this process, or a service."""
    from pipelines.embed_folder import Endpoint, Offline
    from pipelines.score_images import choose_model
    from serving.scoring import Scorer
    from serving.settings import Settings, available_cores

    named = [*options.bundle, *([options.names] if options.names else [])]
    if bool(named) == bool(options.server) or len(named) > 1:
        raise ParamsError("Expected one of NAME[@ALIAS], --bundle FOLDER and --server URL. `blankslide registry list` shows what is registered.")
    if options.server:
        with _client(options) as client:
            yield Endpoint(client, choose_model(client, options.model), cutting)
        return
    settings = Settings.from_environment()
    with bundles(options, [options.names] if options.names else []) as (folder,):
        # one thread per network: the numbers are the same for any number of threads beside it
        scorer = Scorer.open(folder, options.provider or settings.provider, threads=1, max_pixels=settings.max_pixels)
        yield Offline(scorer, cutting, options.threads or available_cores())


@contextmanager
def _client(options: argparse.Namespace) -> Iterator[ScoringClient]:
    """A client of the service that was named; a service that asks for a token is answered by where to put it."""
    from serving.client import ScoringClient
    from serving.errors import ServiceError

    token = None
    if options.token_file is not None:
        try:
            token = options.token_file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ParamsError(f"The token's file `{options.token_file}` cannot be read ({type(error).__name__}).") from error
    try:
        with ScoringClient(options.server, token) as client:
            yield client
    except ServiceError as error:
        if error.status != HTTPStatus.UNAUTHORIZED:
            raise
        message = f"{error} Give it by `--token-file FILE` or in the variable BLANKSLIDE_TOKEN."
        raise ServiceError(message, error.status, error.kind, error.request_id) from error

"""What the sub-commands do that are not stages: data, registry, serving, whole flows. Each imports what it needs when it runs."""

from __future__ import annotations

import argparse
import multiprocessing
import os
import shlex
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.workspace import Workspace, limit_threads
from registry.errors import BlankslideError, GateRefusedError, NotFoundError, ParamsError, StoreError

if TYPE_CHECKING:
    from registry.store import Store

DEFAULT_PORT = 8080


def tracking_uri(options: argparse.Namespace) -> str:
    """The tracking store: --tracking-uri, MLFLOW_TRACKING_URI, or `mlflow.db` in the workspace."""
    from registry.store import default_uri

    return options.tracking_uri or default_uri(options.workspace)


def open_store(options: argparse.Namespace) -> Store:
    """The store of `tracking_uri`; files of new experiments go to --artifact-location or to its default."""
    from registry.store import Store

    return Store(tracking_uri(options), options.artifact_location)


# ---------------------------------------------------------------------------------------------- data


def import_data(options: argparse.Namespace) -> None:
    """`blankslide data import`."""
    from pipelines.benchmarks.importer import import_folder
    from pipelines.benchmarks.options import ImportOptions, parse_where
    from pipelines.benchmarks.publishing import track

    stated = ImportOptions(
        table=options.table,
        path=tuple(options.path),
        pattern=options.pattern,
        image_id=options.image_id,
        labels=tuple(options.label),
        unit=options.unit,
        plate=options.plate,
        well=options.well,
        site=options.site,
        batch=options.batch,
        patient=options.patient,
        treatment=options.treatment,
        negcon=parse_where(options.negcon) if options.negcon else None,
        where=tuple(parse_where(text) for text in options.where),
        channels=tuple(options.channel),
        pixel_size_um=options.pixel_size_um,
        modality=options.modality,
        title=options.title,
        licence=options.licence,
        citation=options.citation,
        source=options.source,
        nuclei=options.nuclei,
        mask=options.mask,
        object=options.object,
        crop=options.crop,
        folds=options.folds,
        rare_labels=options.rare_labels,
        least_units=options.least_units,
        metric=options.metric,
        tolerate=options.tolerate,
        replace=options.replace,
    )
    out = Workspace(options.workspace).data(options.name)
    made = import_folder(options.folder, options.name, out, stated)
    tracked = track(out)
    print(f"`{options.name}`: {len(made.index)} images, {made.index['unit'].nunique()} units ({made.card.unit}), {len(made.folds)} folds, in {out}.")
    if tracked is not None:
        print(f"Tracked by DVC: commit `{tracked}`.")
    print("Next: add cells for it to params.yaml (docs/import.md) and run `dvc repro`, or `blankslide study` for a pretrained encoder.")


def get_data(options: argparse.Namespace) -> None:
    """`blankslide data get`."""
    from pipelines.benchmarks import gallery

    source = gallery.find_source(options.source)
    listing = gallery.list_objects(source, options.endpoint_url, options.limit, options.prefix)
    print(listing.summary())
    if not options.dry_run:
        out = options.out or options.workspace / "data" / "raw" / options.source
        got = gallery.get(source, listing.objects, out, options.endpoint_url)
        print(f"{len(got)} objects in {out}.")


# ---------------------------------------------------------------------------------------------- registry


def registry_sync(options: argparse.Namespace) -> None:
    """`blankslide registry sync`."""
    from pipelines.tracking import inside_mlflow_run

    with inside_mlflow_run(options.workspace, ["registry", "sync"]):
        _sync(open_store(options), options.workspace)


def _sync(store: Store, workspace: Path) -> None:
    from registry.receipts import sync

    report = sync(store, workspace, lambda line: print(f"[registry] {line}", flush=True))
    print(f"[registry] {len(report.registered)} registered, {len(report.already)} were there")


def registry_list(options: argparse.Namespace) -> None:
    """`blankslide registry list`."""
    store = open_store(options)
    names = store.models()
    if not names:
        print("Nothing is registered yet. Fill the registry with `blankslide registry sync`.")
    for name in names:
        for version in store.versions(name):
            print(f"{version}  {version.identity[:12]}  {', '.join(version.benchmarks)}")


def promote(options: argparse.Namespace) -> None:
    """`blankslide promote`."""
    from registry.promote import promote as promote_version

    params = Workspace(options.workspace).params()
    decision = promote_version(open_store(options), options.name, params.gate.max_loss, params.diagnose.alpha)
    print(f"`{options.name}`: {decision.word}")
    for reason in decision.reasons:
        print(f"  {reason}")


def reproduce(options: argparse.Namespace) -> None:
    """`blankslide reproduce`."""
    from registry.reproduce import reproduce as reproduce_version

    done = reproduce_version(open_store(options), options.name, options.workspace, say=print)
    print(f"`{options.name}`: {'the scorecard is byte-identical' if done.identical else 'the scorecard differs'}")
    for line in (*done.differences, *done.notes):
        print(f"  {line}")
    if not done.same_identity:
        print("  Card, weights or preprocessing are not those of the version.")
    if not done.identical:
        raise GateRefusedError(f"`{options.name}` was not reproduced.")


# ---------------------------------------------------------------------------------------------- serving


def serve(options: argparse.Namespace) -> None:
    """`blankslide serve`."""
    from dataclasses import replace

    from serving.server import serve as serve_bundles
    from serving.settings import Settings

    settings = Settings.from_environment()
    if options.provider:
        settings = replace(settings, provider=options.provider)
    with bundles(options, list(options.names)) as found:
        serve_bundles(found, options.host, options.port, settings)


def archive(options: argparse.Namespace) -> None:
    """`blankslide archive`."""
    from serving.archive import make_archive

    with bundles(options, [options.names] if options.names else []) as found:
        for bundle in found:
            print(make_archive(bundle, options.out))


def torchserve(options: argparse.Namespace) -> None:
    """`blankslide torchserve`."""
    from serving.torchserve import run

    with bundles(options, [options.names] if options.names else []) as found:
        run(found, options.port)


@contextmanager
def bundles(options: argparse.Namespace, names: list[str]) -> Iterator[list[Path]]:
    """Bundle folders for registered names (fetched into a private folder) and for --bundle.

    A server never talks to MLflow: names are resolved in a process that ends before it starts.

    Raises:
        ParamsError: neither a name nor a bundle.
        StoreError: a name is not in the registry, or it cannot be read.
    """
    if not names and not options.bundle:
        raise ParamsError("Expected a registered NAME[@ALIAS], or --bundle FOLDER. `blankslide registry list` shows what is registered.")
    with tempfile.TemporaryDirectory(prefix="blankslide-") as folder:
        found = list(options.bundle)
        if names:
            found += fetched(options, names, Path(folder))
        yield found


def fetched(options: argparse.Namespace, names: list[str], folder: Path) -> list[Path]:
    """Folders of registered bundles below `folder`; MLflow is imported in a process of its own."""
    stores = {name: getattr(options, name) for name in ("workspace", "tracking_uri", "artifact_location")}
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as child:
        found = child.submit(_fetch, stores, names, folder).result()
    if isinstance(found, str):
        raise StoreError(found)
    return found


def _fetch(stores: dict[str, Any], names: list[str], folder: Path) -> list[Path] | str:
    """Folders of bundles, or what went wrong in words: not every error survives the way between processes."""
    try:
        store = open_store(argparse.Namespace(**stores))
        return [store.fetch_bundle(name, folder / str(number)).folder for number, name in enumerate(names)]
    except BlankslideError as error:
        return str(error)


# ---------------------------------------------------------------------------------------------- whole flows


def experiment(options: argparse.Namespace) -> None:
    """`blankslide experiment`: everything one encoder's verdict on one benchmark needs, then the registry.

    The controls of the benchmark and its other encoders are brought up to date too: one table holds them all.

    Raises:
        NotFoundError: no such encoder on that benchmark.
    """
    from pipelines.tracking import inside_mlflow_run
    from pipelines.workspace_files import dvc

    encoder, benchmark = options.encoder, options.benchmark
    with inside_mlflow_run(options.workspace, ["experiment", encoder, benchmark], f"package@{benchmark}", whole=True) as run_id:
        cells = {c.card.name: c.cell for c in Workspace(options.workspace).params().cells_of(benchmark) if c.card is not None}
        if encoder not in cells:
            raise NotFoundError(f"encoder on `{benchmark}`", encoder, cells)
        with own_command():
            dvc(options.workspace, "repro", f"package@{benchmark}")
        store = open_store(options)
        _sync(store, options.workspace)
        if run_id is not None:
            from registry.bundle import read_bundle
            from registry.store import stamp_run
            from registry.tags import description

            bundle = read_bundle(Workspace(options.workspace).bundles(benchmark) / encoder)
            version = store.find(encoder, bundle.identity)
            stamp_run(run_id, {"blankslide.version": str(version), "mlflow.note.content": description(bundle)}, bundle=bundle)


@contextmanager
def own_command() -> Iterator[None]:
    """Put a `blankslide` on the path that is this interpreter with these packages.

    `mlflow run --env-manager=uv` makes an environment of the lock file's packages, in which this project is not installed: the
    stages would find no command, or that of another environment.
    """
    before = {name: os.environ.get(name) for name in ("PATH", "PYTHONPATH")}
    with tempfile.TemporaryDirectory(prefix="blankslide-") as folder:
        script = Path(folder) / "blankslide"
        script.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m pipelines.cli "$@"\n', encoding="utf-8")
        script.chmod(0o755)
        code = Path(__file__).resolve().parents[1]
        for name, first in (("PATH", folder), ("PYTHONPATH", str(code))):
            os.environ[name] = os.pathsep.join(filter(None, [first, before[name]]))
        try:
            yield
        finally:
            for name, value in before.items():
                if value is None:
                    os.environ.pop(name)
                else:
                    os.environ[name] = value


def study(options: argparse.Namespace) -> None:
    """`blankslide study`."""
    from pipelines.params import ExtractParams
    from pipelines.study import StudiedEncoder
    from pipelines.study import study as run_study

    limit_threads(options.threads)
    encoder = StudiedEncoder(options.encoder, options.architecture, options.weights, options.input_px, tuple(options.mean), tuple(options.std))
    extract = ExtractParams(twin_seeds=options.twin_seeds)
    run_study(options.workspace, options.folder, options.recipes, encoder, options.only, extract, options.threads)
    _sync(open_store(options), options.workspace)
    where(options)


def profiles(options: argparse.Namespace) -> None:
    """`blankslide profiles`."""
    from pipelines.benchmarks.options import ImportOptions, parse_where
    from pipelines.profiles import TableEncoder, study_profiles

    limit_threads(options.threads)
    if options.annotations and len(options.annotations) != len(options.on):
        raise ParamsError(f"Expected one `--on` for each `--annotations`, got {len(options.on)} for {len(options.annotations)}.")
    encoder = TableEncoder(
        name=options.encoder,
        tables=tuple(options.tables),
        features=tuple(options.features),
        controls=tuple(_parse_control(text) for text in options.control),
        untrained=tuple(options.untrained),
        annotations=tuple(zip(options.annotations, options.on, strict=True)),
        obsm=options.obsm,
        image_id=options.image_id,
        drop_incomplete=options.drop_incomplete,
        licence=options.licence,
        citation=options.citation,
    )
    stated = ImportOptions(
        labels=tuple(options.label),
        unit=options.unit,
        plate=options.plate,
        well=options.well,
        site=options.site,
        batch=options.batch,
        patient=options.patient,
        treatment=options.treatment,
        negcon=parse_where(options.negcon) if options.negcon else None,
        where=tuple(parse_where(text) for text in options.where),
        modality=options.modality,
        title=options.title,
        licence=options.licence,
        citation=options.citation,
        source=options.source,
        folds=options.folds,
        rare_labels=options.rare_labels,
        least_units=options.least_units,
        metric=options.metric,
        replace=options.replace,
    )
    study_profiles(options.workspace, options.name, encoder, stated, options.threads)
    _sync(open_store(options), options.workspace)
    where(options)


def _parse_control(text: str) -> tuple[str, tuple[str, ...]]:
    name, given, patterns = text.partition("=")
    if not given or not patterns:
        raise ParamsError(f"Expected `--control NAME=PATTERN[,PATTERN]`, got `{text}`.")
    return name, tuple(patterns.split(","))


def where(options: argparse.Namespace) -> None:
    """`blankslide where`."""
    root = options.workspace.resolve()
    print(f"report     {root / 'reports' / 'index.html'}")
    print(f"           xdg-open {root / 'reports' / 'index.html'}")
    print("MLflow UI  http://127.0.0.1:5000 after")
    print(f"           mlflow ui --backend-store-uri {tracking_uri(options)}")
    print(f"server     http://127.0.0.1:{DEFAULT_PORT}/docs after")
    print(f"           blankslide --workspace {root} serve NAME@BENCHMARK --port {DEFAULT_PORT}")

"""What the sub-commands do that are not stages: data, registry, serving, whole flows. Each imports what it needs when it runs."""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipelines.stages import Workspace, limit_threads
from registry.errors import GateRefusedError, ParamsError

DEFAULT_PORT = 8080


def tracking_uri(options: argparse.Namespace) -> str:
    """The tracking store: --tracking-uri, MLFLOW_TRACKING_URI, or `mlflow.db` in the workspace."""
    from registry.store import default_uri

    return options.tracking_uri or os.environ.get("MLFLOW_TRACKING_URI") or default_uri(options.workspace)


# ---------------------------------------------------------------------------------------------- data


def import_data(options: argparse.Namespace) -> None:
    """`blankslide data import`."""
    from pipelines.benchmarks.importer import import_folder, track
    from pipelines.benchmarks.options import ImportOptions, parse_where

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
        tolerate=options.tolerate,
        replace=options.replace,
    )
    out = Workspace(options.workspace).data(options.name)
    made = import_folder(options.folder, options.name, out, stated)
    tracked = track(out)
    print(f"`{options.name}`: {len(made.index)} images, {made.index['unit'].nunique()} units ({made.card.unit}), {len(made.folds)} folds, in {out}.")
    if tracked is not None:
        print(f"Tracked by DVC: commit `{tracked}`.")
    print("Next: add cells for it to params.yaml and run `dvc repro`, or `blankslide study` for a pretrained encoder and all controls.")


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
    from registry.receipts import sync
    from registry.store import Store

    report = sync(Store(tracking_uri(options)), options.workspace, lambda line: print(f"[registry] {line}", flush=True))
    print(f"[registry] {len(report.registered)} registered, {len(report.already)} were there")


def registry_list(options: argparse.Namespace) -> None:
    """`blankslide registry list`."""
    from registry.store import Store

    store = Store(tracking_uri(options))
    for name in store.models():
        for version in store.versions(name):
            print(f"{version}  {version.identity[:12]}  {', '.join(version.benchmarks)}")


def promote(options: argparse.Namespace) -> None:
    """`blankslide promote`."""
    from registry.promote import promote as promote_version
    from registry.store import Store

    params = Workspace(options.workspace).params()
    decision = promote_version(Store(tracking_uri(options)), options.name, params.gate.max_loss, params.diagnose.alpha)
    print(f"`{options.name}`: {decision.word}")
    for reason in decision.reasons:
        print(f"  {reason}")


def reproduce(options: argparse.Namespace) -> None:
    """`blankslide reproduce`."""
    from registry.reproduce import reproduce as reproduce_version
    from registry.store import Store

    done = reproduce_version(Store(tracking_uri(options)), options.name, options.workspace, say=print)
    print(f"`{options.name}`: {'the scorecard is byte-identical' if done.identical else 'the scorecard differs'}")
    for line in done.differences:
        print(f"  {line}")
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

    A server never talks to MLflow: names are resolved here.

    Raises:
        ParamsError: neither a name nor a bundle.
    """
    if not names and not options.bundle:
        raise ParamsError("Expected a registered NAME[@ALIAS], or --bundle FOLDER. `blankslide registry list` shows what is registered.")
    with tempfile.TemporaryDirectory(prefix="blankslide-") as folder:
        found = list(options.bundle)
        if names:
            from registry.store import Store

            store = Store(tracking_uri(options))
            for number, name in enumerate(names):
                found.append(store.fetch_bundle(name, Path(folder) / str(number)).folder)
        yield found


# ---------------------------------------------------------------------------------------------- whole flows


def experiment(options: argparse.Namespace) -> None:
    """`blankslide experiment`: everything one encoder's verdict on one benchmark needs, then the registry."""
    from pipelines.tracking import inside_mlflow_run
    from pipelines.workspace_files import dvc

    params = Workspace(options.workspace).params()
    cells = {c.card.name: c.cell for c in params.cells_of(options.benchmark) if c.card is not None}
    if options.encoder not in cells:
        from registry.errors import NotFoundError

        raise NotFoundError(f"encoder on `{options.benchmark}`", options.encoder, cells)
    with inside_mlflow_run(options.workspace, "package", {"benchmark": options.benchmark}):
        dvc(options.workspace, "repro", f"package@{options.benchmark}")
        options.tracking_uri = None
        registry_sync(options)


def study(options: argparse.Namespace) -> None:
    """`blankslide study`."""
    from pipelines.params import ExtractParams
    from pipelines.study import StudiedEncoder
    from pipelines.study import study as run_study

    limit_threads(options.threads)
    encoder = StudiedEncoder(options.encoder, options.architecture, options.weights, options.input_px)
    extract = ExtractParams(twin_seeds=options.twin_seeds)
    run_study(options.workspace, options.folder, options.recipes, encoder, options.only, extract, options.threads)
    options.tracking_uri = None
    registry_sync(options)
    where(options)


def where(options: argparse.Namespace) -> None:
    """`blankslide where`."""
    options.tracking_uri = getattr(options, "tracking_uri", None)
    root = options.workspace.resolve()
    print(f"report     {root / 'reports' / 'index.html'}")
    print(f"           xdg-open {root / 'reports' / 'index.html'}")
    print("MLflow UI  http://127.0.0.1:5000 after")
    print(f"           mlflow ui --backend-store-uri {tracking_uri(options)}")
    print(f"server     http://127.0.0.1:{DEFAULT_PORT}/docs after")
    print(f"           blankslide --workspace {root} serve NAME@BENCHMARK --port {DEFAULT_PORT}")

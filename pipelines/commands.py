"""What the sub-commands do that are not stages: data, registry, serving, whole flows. Each imports what it needs when it runs."""

from __future__ import annotations

import argparse
import multiprocessing
import os
import shlex
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.workspace import Workspace, limit_threads
from registry.errors import BlankslideError, BundleError, GateRefusedError, NotFoundError, ParamsError, StoreError

if TYPE_CHECKING:
    from pipelines.rescore import Survey
    from registry.store import Store
    from registry.upkeep import Standing

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
    from pipelines.benchmarks.options import ImportOptions
    from pipelines.benchmarks.publishing import track

    stated = ImportOptions(
        **stated_of(options),
        table=options.table,
        path=tuple(options.path),
        pattern=options.pattern,
        image_id=options.image_id,
        channels=tuple(options.channel),
        pixel_size_um=options.pixel_size_um,
        nuclei=options.nuclei,
        mask=options.mask,
        patches=tuple(options.patches.split(",")) if options.patches else (),
        object=options.object,
        crop=options.crop,
        tolerate=options.tolerate,
    )
    out = Workspace(options.workspace).data(options.name)
    made = import_folder(options.folder, options.name, out, stated)
    tracked = track(out)
    print(f"`{options.name}`: {len(made.index)} images, {made.index['unit'].nunique()} units ({made.card.unit}), {len(made.folds)} folds, in {out}.")
    if tracked is not None:
        print(f"Tracked by DVC: commit `{tracked}`.")
    print("Next: add cells for it to params.yaml (docs/import.md) and run `dvc repro`, or `blankslide study` for a pretrained encoder.")


def stated_of(options: argparse.Namespace) -> dict[str, Any]:
    """Fields of `ImportOptions` that images and tables of vectors are imported with alike."""
    from pipelines.benchmarks.options import parse_folds, parse_multilabel, parse_where

    return {
        "labels": tuple(options.label),
        "unit": options.unit,
        "plate": options.plate,
        "well": options.well,
        "site": options.site,
        "batch": options.batch,
        "patient": options.patient,
        "treatment": options.treatment,
        "entity": options.entity,
        "relations": tuple(options.relations),
        "targets": options.targets,
        "multilabels": tuple(parse_multilabel(text) for text in options.multilabel),
        "negcon": parse_where(options.negcon) if options.negcon else None,
        "where": tuple(parse_where(text) for text in options.where),
        "modality": options.modality,
        "title": options.title,
        "licence": options.licence,
        "citation": options.citation,
        "source": options.source,
        "folds": parse_folds(options.folds) if options.folds else None,
        "rare_labels": options.rare_labels,
        "least_units": options.least_units,
        "metric": options.metric,
        "expression": options.expression,
        "replace": options.replace,
    }


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
    from pipelines.current import Judge
    from registry.receipts import sync
    from registry.upkeep import mark

    report = sync(store, workspace, lambda line: print(f"[registry] {line}", flush=True))
    print(f"[registry] {len(report.registered)} registered, {len(report.already)} were there")
    standings = mark(store, Judge(workspace))
    stale = sorted({f"{s.version.name}@{name}" for s in standings for name, each in s.current.items() if each.stale})
    if stale:
        print(f"[registry] {len(stale)} are stale, `blankslide rescore --list` says why: {', '.join(stale)}")
    _warn(standings)


def _warn(standings: Sequence[Standing]) -> None:
    """Say which promoted versions must not be kept as they are."""
    for standing in standings:
        if standing.warning:
            print(f"blankslide: {standing.warning}", file=sys.stderr)


def registry_list(options: argparse.Namespace) -> None:
    """`blankslide registry list`."""
    from pipelines.current import Judge
    from registry.upkeep import look

    standings = look(open_store(options), Judge(options.workspace))
    if not standings:
        print("Nothing is registered yet. Fill the registry with `blankslide registry sync`.")
    for standing in standings:
        version = standing.version
        promoted = "  promoted" if standing.promoted else ""
        print(f"{version}  {version.identity[:12]}{promoted}  {', '.join(version.benchmarks)}")
        for name, found in standing.found.items():
            if found.stale:
                print(f"  {name}: {found}")
    _warn(standings)


def registry_show(options: argparse.Namespace) -> None:
    """`blankslide registry show`."""
    from pipelines.current import Judge
    from registry.promotions import movements
    from registry.records import Reference
    from registry.upkeep import look

    store, wanted = open_store(options), Reference.parse(options.name)
    standings = look(store, Judge(options.workspace), [wanted.name])
    if wanted.alias or wanted.version or not standings:
        number = store.version(options.name).number
        standings = [standing for standing in standings if standing.version.number == number]
    for standing in standings:
        version = standing.version
        print(f"{version}  {version.identity}  {version.tags.get('role', '')}")
        print(f"  aliases: {', '.join(version.aliases) or 'none'}")
        for name, found in standing.found.items():
            print(f"  {name}: evidence {version.evidence(name)[:12]}, {found}")
            for run in store.history(version, name):
                digest = run.tags.get("evidence", "")
                if digest != version.evidence(name):
                    print(f"    earlier: evidence {digest[:12]} in run {run.run_id}")
        if "gate.decision" in version.tags:
            print(f"  gate: {version.tags['gate.decision']} at {version.tags.get('gate.decided_at', '')}. {version.tags.get('gate.reasons', '')}")
    for movement in movements(store.model_tags(wanted.name), [standing.version for standing in standings]):
        print(f"{movement.moment:%Y-%m-%d %H:%M:%S} UTC  {movement.word} {wanted.name}/{movement.number}: {movement.reason}")
    _warn(standings)


def rescore(options: argparse.Namespace) -> None:
    """`blankslide rescore`."""
    from pipelines.current import Judge
    from pipelines.rescore import rescore as rescore_stale
    from pipelines.rescore import survey
    from pipelines.tracking import inside_mlflow_run
    from registry.upkeep import look

    store = open_store(options)
    if options.list:
        judge = Judge(options.workspace)
        _say_stale(survey(judge, look(store, judge), options.names))
        return
    with inside_mlflow_run(options.workspace, ["rescore", *options.names]), own_command():
        done = rescore_stale(store, options.workspace, options.names, lambda line: print(f"[rescore] {line}", flush=True))
    if done.stages or done.registered:
        print(f"[rescore] {len(done.stages)} stages ran, {len(done.registered)} rows registered")
    for version, decision in done.decisions.items():
        print(f"[rescore] `{version}` {'keeps' if decision.passed else 'has lost'} the alias `promoted`: {' '.join(decision.reasons)}")
    _say_stale(done.left)
    if lost := [version for version, decision in done.decisions.items() if not decision.passed]:
        raise GateRefusedError(f"The alias `promoted` was taken from {', '.join(f'`{version}`' for version in lost)}; the reasons are above.")


def _say_stale(found: Survey) -> None:
    for line in found.lines:
        print(line)
    for benchmark in found.unfinished:
        print(f"{benchmark}: an earlier run was not finished")
    for benchmark, reason in sorted(found.unchecked.items()):
        print(f"{benchmark}: not checked, {reason}")
    if not found.anything:
        print("Nothing is stale.")
    _warn(found.promoted)


def promote(options: argparse.Namespace) -> None:
    """`blankslide promote`."""
    from pipelines.current import Judge
    from registry.promote import promote as promote_version

    params = Workspace(options.workspace).params()
    judge = Judge(options.workspace)
    decision = promote_version(open_store(options), options.name, params.gate.max_loss, params.diagnose.alpha, judge)
    print(f"`{options.name}`: {decision.word}")
    for reason in decision.reasons:
        print(f"  {reason}")


def rollback(options: argparse.Namespace) -> None:
    """`blankslide rollback`."""
    from pipelines.current import Judge
    from registry.rollback import rollback as roll_back

    params = Workspace(options.workspace).params()
    done = roll_back(
        open_store(options),
        options.name,
        options.to,
        options.reason,
        options.force,
        params.gate.max_loss,
        params.diagnose.alpha,
        Judge(options.workspace),
    )
    print(done.sentence)
    for reason in done.decision.reasons:
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

    from serving.endpoint.server import serve as serve_bundles
    from serving.settings import Settings

    settings = Settings.from_environment()
    if options.provider:
        settings = replace(settings, provider=options.provider)
    settings.check_address(options.host)  # before bundles are fetched
    evidence: dict[Path, str] = {}
    with _live(options) as live, bundles(options, list(options.names), evidence, optional=live is not None) as found:
        serve_bundles(found, options.host, options.port, settings, evidence=evidence, live=live)


@contextmanager
def _live(options: argparse.Namespace) -> Iterator[Path | None]:
    """The folder that an endpoint looks at for other bundles: one that is kept up to date elsewhere (--live), or here (--follow); or None."""
    from pipelines.follower_process import followed
    from serving.live import names

    if options.live is not None and not options.follow and not names(options.live):
        raise ParamsError(f"Expected bundles in `{options.live}`, found none. `blankslide follow NAME --into {options.live}` puts them there.")
    if not options.follow:
        yield options.live
        return
    with tempfile.TemporaryDirectory(prefix="blankslide-live-") as private:
        root = options.live or Path(private)
        arguments = ["--tracking-uri", options.tracking_uri] if options.tracking_uri else []
        arguments += ["--poll", f"{options.poll:g}"] if options.poll is not None else []
        with followed(options.follow, root, ["--workspace", str(options.workspace)], arguments):
            yield root


def follow(options: argparse.Namespace) -> None:
    """`blankslide follow`."""
    from pipelines.current import Judge
    from pipelines.follow import POLL_S, Follower
    from pipelines.follow import follow as follow_all
    from registry.bundle import Bundle
    from registry.staleness import Staleness
    from registry.store import Store

    def judge(bundle: Bundle) -> Staleness:
        # a new one each time: what it compares with may have changed
        return Judge(options.workspace).bundle(bundle)

    uri, holds = tracking_uri(options), (options.workspace / "params.yaml").is_file()
    stop, followers = threading.Event(), []

    def going() -> bool:
        return not stop.is_set() and options.parent in (None, os.getppid())

    with ExitStack() as stack:
        for name in options.names:
            follower = Follower(lambda: Store.watched(uri), name, options.into, judge if holds else None, options.keep, _say_followed, going)
            followers.append(stack.enter_context(follower))
        if options.once:
            refused = [follower.refusal for follower in followers if follower.step() == "refused"]
            if refused:
                raise BundleError(" ".join(refused))
            return
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: stop.set())
        follow_all(followers, POLL_S if options.poll is None else options.poll, stop, going)


def _say_followed(line: str) -> None:
    print(f"[follow] {line}", flush=True)


def archive(options: argparse.Namespace) -> None:
    """`blankslide archive`."""
    from serving.archive import make_archive

    with bundles(options, [options.names] if options.names else []) as found:
        for bundle in found:
            print(make_archive(bundle, options.out, options.inside))


def torchserve(options: argparse.Namespace) -> None:
    """`blankslide torchserve`."""
    from serving.torchserve import run

    with bundles(options, [options.names] if options.names else []) as found:
        run(found, options.port, inside=options.inside, trust_handlers=options.trust_handler)


@contextmanager
def bundles(options: argparse.Namespace, names: list[str], evidence: dict[Path, str] | None = None, optional: bool = False) -> Iterator[list[Path]]:
    """Bundle folders for registered names (fetched into a private folder) and for --bundle.

    A server never talks to MLflow: names are resolved in a process that ends before it starts.

    Args:
        options: of the command.
        names: registered references.
        evidence: where given, it is filled with what is known of each bundle's evidence: by the workspace, else by the registry.
        optional: whether there may be none.

    Raises:
        ParamsError: neither a name nor a bundle.
        StoreError: a name is not in the registry, or it cannot be read.
    """
    if not names and not options.bundle and not optional:
        raise ParamsError("Expected a registered NAME[@ALIAS], or --bundle FOLDER. `blankslide registry list` shows what is registered.")
    with tempfile.TemporaryDirectory(prefix="blankslide-") as folder:
        found = list(options.bundle)
        ask = evidence is not None and (options.workspace / "params.yaml").is_file()
        if names or (found and ask):
            known = fetched(options, names, Path(folder), found if ask else [])
            found += [path for path in known if path not in found]
            if evidence is not None:
                evidence |= known
        yield found


def fetched(options: argparse.Namespace, names: list[str], folder: Path, given: Sequence[Path] = ()) -> dict[Path, str]:
    """Folders of registered bundles below `folder`, and those given, with what is known of their evidence.

    MLflow, and what it takes to judge evidence, are imported in a process of their own.
    """
    stores = {name: getattr(options, name) for name in ("workspace", "tracking_uri", "artifact_location")}
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as child:
        found = child.submit(_fetch, stores, names, folder, given).result()
    if isinstance(found, str):
        raise StoreError(found)
    return found


def _fetch(stores: dict[str, Any], names: list[str], folder: Path, given: Sequence[Path]) -> dict[Path, str] | str:
    """Bundles by their folder, or what went wrong in words: not every error survives the way between processes."""
    from pipelines.current import Judge
    from registry.bundle import read_bundle
    from registry.staleness import from_tags

    try:
        judge = Judge(stores["workspace"])
        found = {path: str(judge.bundle(read_bundle(path))) for path in given}
        if names:
            store = open_store(argparse.Namespace(**stores))
        for number, name in enumerate(names):
            bundle = store.fetch_bundle(name, folder / str(number))
            here, noted = judge.bundle(bundle), from_tags(store.version(name).tags, bundle.card.benchmark)
            found[bundle.folder] = str(noted if here.unchecked and not noted.unchecked else here)
        return found
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
    from pipelines.benchmarks.options import ImportOptions
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
    study_profiles(options.workspace, options.name, encoder, ImportOptions(**stated_of(options)), options.threads)
    _sync(open_store(options), options.workspace)
    where(options)


def _parse_control(text: str) -> tuple[str, tuple[str, ...]]:
    name, given, patterns = text.partition("=")
    if not given or not patterns:
        raise ParamsError(f"Expected `--control NAME=PATTERN[,PATTERN]`, got `{text}`.")
    return name, tuple(patterns.split(","))


def ladder(options: argparse.Namespace) -> None:
    """`blankslide ladder`."""
    from dataclasses import replace

    workspace = Workspace(options.workspace)
    params = workspace.params()
    limit_threads(params.threads)
    from pipelines.ladder import ladder as run_ladder
    from pipelines.rungs import METHODS, stated_settings
    from pipelines.tracking import inside_mlflow_run

    wanted = params.ladder
    if options.seeds is not None:
        wanted = replace(wanted, seeds=options.seeds)
    if options.epochs is not None:
        told = {f"{options.benchmark}--{m}": stated_settings(params, options.benchmark, m) | {"epochs": options.epochs} for m in METHODS}
        wanted = replace(wanted, settings=wanted.settings | told)
    with inside_mlflow_run(options.workspace, ["ladder", options.benchmark]):
        run_ladder(workspace, replace(params, ladder=wanted), options.benchmark)
    print("Next: `blankslide report` puts it into the report.")


def where(options: argparse.Namespace) -> None:
    """`blankslide where`."""
    root = options.workspace.resolve()
    print(f"report     {root / 'reports' / 'index.html'}")
    print(f"           xdg-open {root / 'reports' / 'index.html'}")
    print("MLflow UI  http://127.0.0.1:5000 after")
    print(f"           mlflow ui --backend-store-uri {tracking_uri(options)}")
    print(f"server     http://127.0.0.1:{DEFAULT_PORT}/docs after")
    print(f"           blankslide --workspace {root} serve NAME@BENCHMARK --port {DEFAULT_PORT}")

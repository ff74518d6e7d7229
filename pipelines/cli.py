"""The one command: what dvc's stages, MLproject's entry points and people call. Thin: it parses, calls one function, prints.

Exit codes: 0 done, 1 a gate or comparison said no or some of many images failed, 2 something was not as expected (a message says what).
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from registry.errors import BlankslideError, GateRefusedError, SomeFailedError

Command = Callable[[argparse.Namespace], None]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one sub-command; unknown options are refused."""
    options = _parser().parse_args(arguments)
    command: Command = options.command
    try:
        command(options)
    except (GateRefusedError, SomeFailedError) as error:
        print(f"blankslide: {error}", file=sys.stderr)
        return 1
    except BlankslideError as error:
        print(f"blankslide: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="blankslide", description="A registry of microscopy encoders in which no encoder stands without its controls."
    )
    parser.add_argument("--workspace", type=Path, default=Path(), help="folder that holds params.yaml, data/ and out/ (default: here)")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_stages(commands)
    _add_data(commands)
    _add_registry(commands)
    _add_serving(commands)
    _add_whole(commands)
    return parser


Subparsers = argparse._SubParsersAction  # argparse gives its own return type no public name


def _add(commands: Subparsers[argparse.ArgumentParser], name: str, function: Command, help_text: str) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=help_text, description=help_text)
    parser.set_defaults(command=function)
    return parser


# ---------------------------------------------------------------------------------------------- stages


def _add_stages(commands: Subparsers[argparse.ArgumentParser]) -> None:
    def stage(name: str, help_text: str, *names: str) -> None:
        parser = _add(commands, name, _stage(name, names), help_text)
        for argument in names:
            parser.add_argument(argument)

    stage("simulate", "write one simulated benchmark and its page of pictures", "benchmark")
    stage("train", "train one encoder on the outer-train images", "benchmark", "encoder")
    stage("extract", "turn the images of a benchmark into vectors, for all rows of one cell", "benchmark", "cell")
    stage("evaluate", "score the rows of one cell", "benchmark", "cell")
    stage("oracle", "score the positive control of a benchmark", "benchmark")
    stage("diagnose", "compare every encoder of a benchmark with its controls", "benchmark")
    stage("package", "make bundles and receipts for every row of a benchmark", "benchmark")
    stage("report", "write reports/index.html")


def _stage(name: str, names: tuple[str, ...]) -> Command:
    def run(options: argparse.Namespace) -> None:
        from pipelines import stages
        from pipelines.tracking import inside_mlflow_run, stage_name

        arguments = [str(getattr(options, argument)) for argument in names]
        with inside_mlflow_run(options.workspace, [name, *arguments], stage_name(name, arguments)):
            stages.run(name, options.workspace, *arguments)

    return run


# ---------------------------------------------------------------------------------------------- data


def _add_data(commands: Subparsers[argparse.ArgumentParser]) -> None:
    data = commands.add_parser("data", help="import and fetch benchmarks").add_subparsers(required=True, metavar="COMMAND")
    parser = _add(data, "import", _import, "make a benchmark of a folder of images")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--name", required=True, help="name of the benchmark")
    parser.add_argument("--table", type=Path, help="CSV, TSV or Parquet with one row per image; without it class folders are expected")
    parser.add_argument("--path", action="append", default=[], help="path column; repeat where every channel is a file of its own")
    parser.add_argument("--pattern", help="file names as `{well}_{site}_{channel}.tif`; each field becomes a column")
    parser.add_argument("--image-id", help="column of the unique id (default: image_id, else the file's name)")
    parser.add_argument("--channel", action="append", default=[], help="channel name, in order (default: what the files say)")
    parser.add_argument("--mask", help="column of a label mask; each row is then one object of its image")
    parser.add_argument("--object", help="column of the object's number in the mask")
    parser.add_argument("--crop", type=int, help="side in pixels of the square cut around each object")
    parser.add_argument(
        "--patches", default="", metavar="SLIDE,Y,X", help="columns: what each image was cut from, and its first pixel there; finds overlaps"
    )
    parser.add_argument("--nuclei", type=Path, help="table of nuclei (image_id, nucleus, x_px, y_px, area_px[, type])")
    parser.add_argument("--pixel-size-um", type=float)
    _add_stated(parser)
    parser.add_argument("--tolerate", type=int, default=0, help="unreadable images that do not fail the import")

    parser = _add(data, "get", _get, "list or fetch objects of a public collection")
    parser.add_argument("source", help="cpjump1")
    parser.add_argument("--dry-run", action="store_true", help="list and size, fetch nothing")
    parser.add_argument("--limit", type=int, default=10_000, help="stop listing after this many objects")
    parser.add_argument("--prefix", default="", help="only keys that go on like this")
    parser.add_argument("--endpoint-url", help="another S3 endpoint")
    parser.add_argument("--out", type=Path, help="folder for the objects (default: data/raw/SOURCE)")


def _add_stated(parser: argparse.ArgumentParser) -> None:
    """What is said about the rows of any benchmark that is imported (`commands.stated`)."""
    parser.add_argument("--label", action="append", default=[], help="label column; repeat for several tasks")
    parser.add_argument("--unit", help="column of what is independent (plate, patient, compound), or `image`")
    for column in ("plate", "well", "site", "batch", "patient", "treatment", "entity"):
        parser.add_argument(f"--{column}", help=f"column that becomes Metadata_{column.title()}")
    parser.add_argument("--negcon", metavar="COLUMN=VALUE", help="how control wells are known; they need no label, treatment or unit")
    about = "known relations between entities (columns entity1, entity2); repeat for several"
    parser.add_argument("--relations", type=Path, action="append", default=[], metavar="TABLE", help=about)
    parser.add_argument("--targets", type=Path, metavar="TABLE", help="known targets of treatments (columns compound, gene[, nanomolar])")
    several = "column of several labels of a treatment, such as mechanisms (default separator: |); repeat for several columns"
    parser.add_argument("--multilabel", action="append", default=[], metavar="COLUMN[=SEPARATOR]", help=several)
    parser.add_argument("--where", action="append", default=[], metavar="COLUMN=VALUE", help="keep these rows only")
    parser.add_argument("--expression", type=Path, metavar="TABLE", help="raw counts of genes: image_id and a column per gene, or AnnData")
    parser.add_argument("--modality", choices=("cells", "tissue", "natural"), default="cells")
    about = "outer folds (default: by the number of units), or the column that states in which fold an image is tested (-1, `train`: in none)"
    parser.add_argument("--folds", metavar="NUMBER|COLUMN", help=about)
    parser.add_argument("--rare-labels", choices=("exclude", "keep"), default="exclude", help="labels found in fewer than --least-units units")
    parser.add_argument("--least-units", type=int, default=2, help="units a label must occur in (an interval needs 3)")
    parser.add_argument("--metric", default="logistic.balanced_accuracy", help="what verdicts are about; also retrieval.map, knn.balanced_accuracy")
    parser.add_argument("--title", default="")
    parser.add_argument("--licence", default="not stated")
    parser.add_argument("--citation", default="")
    parser.add_argument("--source", default="")
    parser.add_argument("--replace", action="store_true", help="overwrite a benchmark of that name")


def _import(options: argparse.Namespace) -> None:
    from pipelines import commands

    commands.import_data(options)


def _get(options: argparse.Namespace) -> None:
    from pipelines import commands

    commands.get_data(options)


# ---------------------------------------------------------------------------------------------- registry


def _add_registry(commands: Subparsers[argparse.ArgumentParser]) -> None:
    registry = commands.add_parser("registry", help="the MLflow registry").add_subparsers(required=True, metavar="COMMAND")
    for name, help_text in (("sync", "register whatever the receipts name and the registry lacks"), ("list", "what is registered")):
        _add_store(_add(registry, name, _registry(name), help_text), writes=name == "sync")
    parser = _add(registry, "show", _registry("show"), "versions of one model: aliases, evidence of now and earlier, the gate's last decision")
    parser.add_argument("name", help="NAME, NAME/VERSION or NAME@ALIAS")
    _add_store(parser)
    parser = _add(commands, "promote", _registry("promote"), "move the alias `promoted` to a version, through the gate")
    parser.add_argument("name", help="NAME, NAME/VERSION or NAME@ALIAS")
    _add_store(parser)
    parser = _add(commands, "rollback", _registry("rollback"), "move the alias `promoted` back to the version that was promoted before")
    parser.add_argument("name", help="name of the registered model")
    parser.add_argument("--to", type=int, default=0, metavar="VERSION", help="another version that was promoted earlier")
    parser.add_argument("--reason", default="", metavar="WORDS", help="why; recorded with the decision")
    parser.add_argument("--force", action="store_true", help="also to a version that the gate refuses now; needs --reason")
    _add_store(parser)
    parser = _add(commands, "rescore", _registry("rescore"), "list stale evidence and make exactly that again")
    parser.add_argument("names", nargs="*", metavar="NAME[@BENCHMARK]", help="only benchmarks on which these are stale")
    parser.add_argument("--list", action="store_true", help="list what is stale and why, change nothing")
    _add_store(parser, writes=True)
    parser = _add(commands, "reproduce", _registry("reproduce"), "repeat a version from its commit and compare the scorecard's bytes")
    parser.add_argument("name", help="NAME@BENCHMARK or NAME/VERSION")
    _add_store(parser)


def _add_store(parser: argparse.ArgumentParser, writes: bool = False) -> None:
    parser.add_argument(
        "--tracking-uri", "--registry", metavar="URI", help="of the registry; default: MLFLOW_TRACKING_URI, else mlflow.db in the workspace"
    )
    parser.set_defaults(artifact_location="")
    if not writes:
        return
    parser.add_argument(
        "--artifact-location",
        metavar="URI",
        default="",
        help="a folder or s3://... for the files of new experiments; default: MLFLOW_DEFAULT_ARTIFACT_ROOT, else mlartifacts beside an SQLite file",
    )


def _registry(name: str) -> Command:
    def run(options: argparse.Namespace) -> None:
        from pipelines import commands

        getattr(commands, name if name in ("promote", "reproduce", "rescore", "rollback") else f"registry_{name}")(options)

    return run


# ---------------------------------------------------------------------------------------------- serving


def _add_serving(commands: Subparsers[argparse.ArgumentParser]) -> None:
    for name, help_text in (
        ("serve", "start the ONNX endpoint on loopback"),
        ("torchserve", "start TorchServe on loopback with tokens on"),
        ("archive", "make a .mar from a bundle"),
    ):
        parser = _add(commands, name, _serving(name), help_text)
        many = name == "serve"
        parser.add_argument(
            "names", nargs="*" if many else "?", metavar="NAME[@ALIAS]", help="registered encoder; NAME alone means its `promoted` alias"
        )
        given = "a bundle folder, or a .mar, instead of a registered name" if name == "torchserve" else "a bundle folder instead of a registered name"
        parser.add_argument("--bundle", type=Path, action="append", default=[], help=given)
        _add_store(parser)
        if name != "archive":
            parser.add_argument("--port", type=int, default=8080)
        if many:
            parser.add_argument("--host", default="127.0.0.1")
            parser.add_argument("--provider", choices=("cpu", "cuda", "tensorrt"), help="default: BLANKSLIDE_SERVE_PROVIDER, else cpu")
            parser.add_argument(
                "--follow",
                action="append",
                default=[],
                metavar="NAME[@ALIAS]",
                help="a registered encoder, and whatever its alias is moved to; repeat",
            )
            parser.add_argument("--poll", type=float, metavar="SECONDS", help="between looks at the registry (default: 10)")
            live = "folder that a follower keeps up to date; with --follow, where it lies (default: a private one, removed at the end)"
            parser.add_argument("--live", type=Path, metavar="ROOT", help=live)
        if not many:
            inside = "what runs the network: ONNX Runtime or torch (default: onnx)"
            parser.add_argument("--inside", choices=("onnx", "torch"), default="onnx", help=inside)
        if name == "torchserve":
            trusted = "run whatever code a .mar holds; without it only this version's own handler is run"
            parser.add_argument("--trust-handler", action="store_true", help=trusted)
        if name == "archive":
            parser.add_argument("--out", type=Path, default=Path("archives"))

    parser = _add(commands, "follow", _serving("follow"), "keep a folder at what aliases name, for an endpoint that serves it (serve --live ROOT)")
    parser.add_argument("names", nargs="+", metavar="NAME[@ALIAS]", help="NAME alone means its `promoted` alias")
    parser.add_argument("--into", type=Path, required=True, metavar="ROOT", help="folder of pointers and verified bundles")
    parser.add_argument("--poll", type=float, metavar="SECONDS", help="between looks at the registry (default: 10)")
    parser.add_argument("--keep", type=int, default=2, metavar="N", help="bundles of a name that stay beside the live one (default: 2)")
    parser.add_argument("--once", action="store_true", help="look once; exit code 2 if something is refused")
    parser.add_argument("--while", type=int, dest="parent", metavar="PID", help="end when that process, which started this one, is gone")
    _add_store(parser)
    _add_images(commands)


def _add_images(commands: Subparsers[argparse.ArgumentParser]) -> None:
    parser = _add(commands, "score", _of_images("score"), "readings of image files by a service, each beside twin and control")
    parser.add_argument("images", type=Path, nargs="+", metavar="IMAGE", help="image files, and folders of them")
    parser.add_argument("--server", required=True, metavar="URL", help="of the ONNX endpoint, such as http://127.0.0.1:8080")
    _add_client(parser)
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the readings to .json, .csv or .parquet")
    parser.add_argument("--field", choices=("refuse", "grid", "centres"), default="refuse", help="a field larger than the model's input: cut it")
    parser.add_argument("--centres", default="", metavar="Y,X;Y,X", help="with `--field centres`: around these points, in pixels")
    parser.add_argument("--resample", action="store_true", help="resample images of another pixel size")
    parser.add_argument("--quiet", action="store_true", help="print no readings")

    about = "vectors of a folder of images as one Parquet file, which `blankslide profiles` reads"
    parser = _add(commands, "embed", _of_images("embed"), about)
    parser.add_argument("folder", type=Path, help="folder of images")
    parser.add_argument("names", nargs="?", metavar="NAME[@ALIAS]", help="registered encoder; NAME alone means its `promoted` alias")
    parser.add_argument(
        "-o", "--out", type=Path, required=True, metavar="OUT.parquet", help="the table; what failed is listed in OUT.errors.csv beside OUT.parquet"
    )
    parser.add_argument("--bundle", type=Path, action="append", default=[], help="a bundle folder instead of a registered name")
    parser.add_argument("--server", metavar="URL", help="through an ONNX endpoint instead")
    _add_client(parser)
    parser.add_argument("--field", choices=("refuse", "grid"), default="refuse", help="a field larger than the model's input: cut it into tiles")
    parser.add_argument("--resample", action="store_true", help="resample images of another pixel size")
    parser.add_argument("--threads", type=int, default=0, help="threads without a server (default: all cores)")
    parser.add_argument("--provider", choices=("cpu", "cuda", "tensorrt"), help="without a server (default: BLANKSLIDE_SERVE_PROVIDER, else cpu)")
    _add_store(parser)


def _add_client(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", metavar="NAME", help="served model (default: the only one)")
    parser.add_argument("--token-file", type=Path, metavar="FILE", help="file that holds the service's token (default: BLANKSLIDE_TOKEN)")


def _serving(name: str) -> Command:
    def run(options: argparse.Namespace) -> None:
        from pipelines import commands

        getattr(commands, name)(options)

    return run


def _of_images(name: str) -> Command:
    def run(options: argparse.Namespace) -> None:
        from pipelines import image_commands

        getattr(image_commands, name)(options)

    return run


# ---------------------------------------------------------------------------------------------- whole flows


def _add_whole(commands: Subparsers[argparse.ArgumentParser]) -> None:
    parser = _add(commands, "experiment", _whole("experiment"), "one encoder against all its controls: extract, evaluate, compare, register")
    parser.add_argument("--encoder", required=True)
    parser.add_argument("--benchmark", required=True)
    _add_store(parser, writes=True)
    parser = _add(commands, "study", _whole("study"), "a pretrained encoder and its controls on every data set of a folder")
    parser.add_argument("folder", type=Path, help="one sub-folder per data set")
    parser.add_argument("--recipes", type=Path, help="YAML that states label, unit, ... per data set; otherwise chosen by rule and said")
    parser.add_argument("--weights", type=Path, help="weights file of the encoder (.pt state dict or .safetensors)")
    parser.add_argument("--architecture", default="timm:mobilenetv2_100?pad_type=same")
    parser.add_argument("--encoder", default="mobilenetv2-imagenet", help="name of the encoder")
    parser.add_argument("--input-px", type=int, default=128)
    for name in ("mean", "std"):
        given = "of intensities 0..1, as the weights were trained (default: what timm states for its hub's weights, 0.5 for a file)"
        parser.add_argument(f"--{name}", type=float, nargs="+", default=[], help=f"normalisation {given}")
    parser.add_argument("--only", action="append", default=[], help="this data set only; repeat for several")
    parser.add_argument("--twin-seeds", type=int, default=10, help="draws of each kind of twin")
    parser.add_argument("--threads", type=int, default=2)
    _add_store(parser, writes=True)
    _add_profiles(commands)
    parser = _add(commands, "ladder", _whole("ladder"), "can the metrics tell: encoders of known quality and embeddings that know nothing")
    parser.add_argument("benchmark")
    parser.add_argument("--seeds", type=int, help="runs of each kind of training (default: `ladder.seeds` of params.yaml)")
    parser.add_argument("--epochs", type=int, help="of every run (default: those of the settings)")
    _add_store(_add(commands, "where", _whole("where"), "say where the report, the MLflow UI and the server are"))


def _add_profiles(commands: Subparsers[argparse.ArgumentParser]) -> None:
    parser = _add(commands, "profiles", _whole("profiles"), "an encoder that comes as tables of vectors, and the controls that profiles allow")
    parser.add_argument("tables", type=Path, nargs="+", help="CSV, TSV, Parquet (Metadata_ columns beside numbers) or AnnData, one below the other")
    parser.add_argument("--name", required=True, help="name of the benchmark; one that is there gets a further encoder")
    parser.add_argument("--encoder", required=True, help="name of the encoder")
    parser.add_argument("--image-id", help="column of the unique id (default: image_id, else plate, well and site)")
    parser.add_argument("--features", action="append", default=[], metavar="PATTERN", help="columns of the vector (default: all numbers)")
    parser.add_argument("--obsm", help="array of an AnnData file that is the vector (default: X)")
    parser.add_argument("--drop-incomplete", action="store_true", help="leave out columns with missing values")
    parser.add_argument("--control", action="append", default=[], metavar="NAME=PATTERN[,PATTERN]", help="a negative control made of columns")
    parser.add_argument("--untrained", type=Path, action="append", default=[], metavar="TABLE", help="a draw of the untrained encoder; repeat")
    parser.add_argument("--annotations", type=Path, action="append", default=[], metavar="TABLE", help="a table whose columns are joined")
    parser.add_argument("--on", action="append", default=[], metavar="COLUMN[=ITS_COLUMN]", help="what it is joined on")
    _add_stated(parser)
    parser.add_argument("--threads", type=int, default=2)
    _add_store(parser, writes=True)


def _whole(name: str) -> Command:
    def run(options: argparse.Namespace) -> None:
        from pipelines import commands

        getattr(commands, name)(options)

    return run


if __name__ == "__main__":
    sys.exit(main())

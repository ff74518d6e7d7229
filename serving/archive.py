"""A bundle as a TorchServe archive (.mar), and back.

`torch-model-archiver` flattens folders, and a bundle's companions share file names: the bundle travels as one stored zip,
and the handler verifies the manifest after unpacking. ONNX or torch inside, the archive holds the same data: the bundle's ONNX files are
the networks, and `inside.json` says which of the two runs them.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Literal, get_args

from registry.bundle import Bundle, read_bundle, refuse_packed
from registry.errors import BundleError
from registry.files import published, read_json, write_json

BUNDLE = "bundle.zip"
HANDLER = "torchserve_handler.py"
INSIDE = "inside.json"
_MANIFEST = "MAR-INF/MANIFEST.json"
Inside = Literal["onnx", "torch"]
INSIDES: tuple[Inside, ...] = get_args(Inside)
#: bytes of a bundle: an ONNX file holds 2 GiB at most, and a bundle a few
MOST_BUNDLE = 16 * 2**30
#: bytes of everything else in an archive
MOST_BESIDE = 2**20
#: weights hardly shrink: what unpacks to so many times its size holds something else
MOST_TIMES = 100
#: they become lines of TorchServe's settings
_WORD = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")


@dataclass(frozen=True)
class ArchiveFacts:
    """What an archive, not necessarily of this product, says of itself.

    Attributes:
        name: of the model, which is not always the file's.
        version: of the model.
    """

    name: str
    version: str

    @classmethod
    def read(cls, archive: Path) -> ArchiveFacts:
        """From the manifest in a `.mar`.

        Raises:
            BundleError: there is no such file, or it is no archive of a model.
        """
        if not archive.is_file():
            raise BundleError(f"There is no archive `{archive}`. Make one with `blankslide archive NAME`.")
        try:
            with zipfile.ZipFile(archive) as found:
                model = json.loads(_read(found, _MANIFEST))["model"]
            facts = cls(str(model["modelName"]), str(model["modelVersion"]))
        except BundleError:
            raise
        except Exception as error:  # encrypted, damaged, nested without end
            raise BundleError(f"`{archive}`: expected a TorchServe archive, which it is not ({type(error).__name__}). Make it again.") from error
        if not _WORD.fullmatch(facts.name) or not _WORD.fullmatch(facts.version):
            raise BundleError(f"`{archive}`: expected a model's name and version of letters, digits, `_`, `.` and `-`, got {facts}.")
        return facts


def copy_trusted(archive: Path, target: Path) -> None:
    """Write an archive again with nothing in it but a bundle and the handler of this version.

    A `.mar` is code: TorchServe imports its handler and whatever else lies beside it. Everything but the data is written anew, so that no
    unzipper can find more in the copy than was looked at.

    Args:
        archive: a `.mar`, perhaps of someone else.
        target: the copy.

    Raises:
        BundleError: it holds another handler, or more than a bundle and a handler.
    """
    facts, own = ArchiveFacts.read(archive), _own_handler()
    try:
        with zipfile.ZipFile(archive) as found:
            names = sorted(found.namelist())
            handler = json.loads(_read(found, _MANIFEST))["model"].get("handler")
            parts = {name: _read(found, name) for name in (INSIDE, HANDLER) if name in names}
    except BundleError:
        raise
    except Exception as error:  # encrypted, damaged, nested without end
        raise BundleError(f"`{archive}`: expected a TorchServe archive, which it is not ({type(error).__name__}). Make it again.") from error
    if names != sorted((_MANIFEST, BUNDLE, INSIDE, HANDLER)) or handler != HANDLER or parts[HANDLER] != own:
        raise BundleError(
            f"`{archive}`: expected a bundle and this version's own handler, got other code ({', '.join(names)[:200]})."
            " TorchServe would run it. Make the archive here with `blankslide archive NAME`, or add `--trust-handler` if you trust whoever made it as"
            " you trust your own programs."
        )
    manifest = {"runtime": "python", "model": {"modelName": facts.name, "handler": HANDLER, "modelVersion": facts.version}}
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as copy:
        for name, data in {_MANIFEST: json.dumps(manifest).encode(), INSIDE: parts[INSIDE], HANDLER: own}.items():
            copy.writestr(zipfile.ZipInfo(name), data)
        try:
            _copy_bundle(archive, copy)
        except BundleError:
            raise
        except Exception as error:  # as above
            raise BundleError(f"`{archive}`: its bundle cannot be unpacked ({type(error).__name__}). Make the archive again.") from error


def _read(archive: zipfile.ZipFile, name: str) -> bytes:
    """A small entry; no more of it is unpacked than it says that it holds."""
    entry = archive.getinfo(name)
    if entry.file_size > MOST_BESIDE:
        raise BundleError(f"`{archive.filename}`: expected at most {MOST_BESIDE} bytes in `{name}`, got {entry.file_size}. Make the archive again.")
    with archive.open(entry) as stream:
        # with a length: without one all that is packed would be unpacked before it is cut to size
        return stream.read(entry.file_size + 1)


def _copy_bundle(archive: Path, copy: zipfile.ZipFile) -> None:
    """Write the bundle of an archive into its copy, piece by piece."""
    with zipfile.ZipFile(archive) as found:
        entry = found.getinfo(BUNDLE)
        if entry.file_size > min(MOST_BUNDLE, MOST_TIMES * entry.compress_size):
            raise BundleError(
                f"`{archive}`: expected a bundle of at most {MOST_BUNDLE} bytes and {MOST_TIMES} times what it is packed to, got {entry.file_size}"
                f" from {entry.compress_size}. Make the archive again."
            )
        with found.open(entry) as source, copy.open(zipfile.ZipInfo(BUNDLE), "w", force_zip64=True) as target:
            shutil.copyfileobj(source, target)


def _own_handler() -> bytes:
    return resources.files("serving").joinpath(HANDLER).read_bytes()


def make_archive(bundle: Path, out: Path, inside: Inside = "onnx") -> Path:
    """Pack a bundle with the handler into `out/NAME.mar`.

    Args:
        bundle: the bundle's directory.
        out: the folder of the archive: a TorchServe model store.
        inside: what runs the networks: ONNX Runtime or torch.

    Returns:
        The archive.

    Raises:
        BundleError: altered, incomplete, of a row that cannot be served, refused by the archiver, or torch shall run networks that it does not
            compute as ONNX Runtime does (see `serving.torch_embedder.check_torch`).
    """
    found = read_bundle(bundle)
    if found.onnx is None:
        raise BundleError(f"`{found.name}` cannot be archived: {found.card.unservable} Archive an encoder, or a control with an `encoder.onnx`.")
    if inside == "torch":
        from serving.torch_embedder import check_torch

        check_torch(found)
    with tempfile.TemporaryDirectory(prefix="archive-") as temporary:
        folder = Path(temporary)
        pack_bundle(found, folder / BUNDLE)
        write_json(folder / INSIDE, {"inside": inside})
        handler = folder / HANDLER
        handler.write_bytes(_own_handler())
        _run_archiver(found, folder, handler)
        with published(out / f"{found.name}.mar") as path:
            shutil.copyfile(folder / f"{found.name}.mar", path)
    return out / f"{found.name}.mar"


def _run_archiver(bundle: Bundle, folder: Path, handler: Path) -> None:
    options = {
        "--model-name": bundle.name,
        "--version": bundle.identity[:12],
        "--handler": str(handler),
        "--extra-files": f"{folder / BUNDLE},{folder / INSIDE}",
        "--export-path": str(folder),
    }
    command = [sys.executable, "-m", "model_archiver.model_packaging", *(part for option in options.items() for part in option)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise BundleError(f"`torch-model-archiver` refused `{bundle.name}` with status {done.returncode}: {last}")


def inside_of(folder: Path) -> Inside:
    """What runs the networks of an archive that lies unpacked in `folder`.

    Raises:
        BundleError: the archive does not say, or names something else.
    """
    try:
        said = read_json(folder / INSIDE)["inside"]
        return next(known for known in INSIDES if known == said)
    except (OSError, ValueError, TypeError, LookupError, StopIteration) as error:
        raise BundleError(f"`{INSIDE}`: expected one of {', '.join(INSIDES)} inside the archive, and got none. Make the archive again.") from error


def pack_bundle(bundle: Bundle, path: Path) -> None:
    """Write a verified bundle as one zip without compression or times: the same bundle gives the same bytes."""
    with published(path) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:
        for name in ("manifest.json", *sorted(bundle.files)):
            # a fresh ZipInfo is dated 1980
            with archive.open(zipfile.ZipInfo(name), "w", force_zip64=True) as target, (bundle.folder / name).open("rb") as source:
                shutil.copyfileobj(source, target)


def unpack_bundle(path: Path, folder: Path) -> Bundle:
    """Unpack and verify what `pack_bundle` wrote.

    Raises:
        BundleError: no such zip, a name that would leave `folder`, more than the zip's own bytes, or not the bundle its manifest describes.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                if not (folder / name).resolve().is_relative_to(folder.resolve()):
                    raise BundleError(f"`{path.name}`: `{name}` would be written outside its folder. Make the archive again.")
            refuse_packed(archive, path)
            archive.extractall(folder)
    except BundleError:
        raise
    except Exception as error:  # as in `ArchiveFacts.read`
        raise BundleError(f"`{path}`: expected a packed bundle, which it is not ({type(error).__name__}). Make the archive again.") from error
    return read_bundle(folder)

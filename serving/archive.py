"""A bundle as a TorchServe archive (.mar), and back.

`torch-model-archiver` flattens folders, and a bundle's companions share file names: the bundle travels as one stored zip,
and the handler verifies the manifest after unpacking.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import zipfile
from importlib import resources
from pathlib import Path

from registry.bundle import Bundle, read_bundle
from registry.errors import BundleError
from registry.files import published

BUNDLE = "bundle.zip"
HANDLER = "torchserve_handler.py"


def make_archive(bundle: Path, out: Path) -> Path:
    """Pack a bundle with the handler into `out/NAME.mar`.

    Args:
        bundle: the bundle's directory.
        out: the folder of the archive: a TorchServe model store.

    Returns:
        The archive.

    Raises:
        BundleError: altered, incomplete, of a row that cannot be served, or refused by the archiver.
    """
    found = read_bundle(bundle)
    if found.onnx is None:
        raise BundleError(f"`{found.name}` cannot be archived: {found.card.unservable} Archive an encoder, or a control with an `encoder.onnx`.")
    with tempfile.TemporaryDirectory(prefix="archive-") as temporary:
        folder = Path(temporary)
        pack_bundle(found, folder / BUNDLE)
        handler = folder / HANDLER
        handler.write_bytes(resources.files("serving").joinpath(HANDLER).read_bytes())
        _run_archiver(found, folder, handler)
        with published(out / f"{found.name}.mar") as path:
            shutil.copyfile(folder / f"{found.name}.mar", path)
    return out / f"{found.name}.mar"


def _run_archiver(bundle: Bundle, folder: Path, handler: Path) -> None:
    options = {
        "--model-name": bundle.name,
        "--version": bundle.identity[:12],
        "--handler": str(handler),
        "--extra-files": str(folder / BUNDLE),
        "--export-path": str(folder),
    }
    command = [sys.executable, "-m", "model_archiver.model_packaging", *(part for option in options.items() for part in option)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise BundleError(f"`torch-model-archiver` refused `{bundle.name}` with status {done.returncode}: {last}")


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
        BundleError: no such zip, a name that would leave `folder`, or not the bundle its manifest describes.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                if not (folder / name).resolve().is_relative_to(folder.resolve()):
                    raise BundleError(f"`{path.name}`: `{name}` would be written outside its folder. Make the archive again.")
            archive.extractall(folder)
    except (OSError, zipfile.BadZipFile) as error:
        raise BundleError(f"`{path}`: expected a packed bundle, which it is not ({type(error).__name__}). Make the archive again.") from error
    return read_bundle(folder)

"""The bundle: the directory that leaves the registry. Data only, every file hashed, written whole or not at all.

::

    manifest.json        {"format": 1, "files": {relative path: sha256}}; nothing else may lie in the directory
    card.json            BundleCard
    encoder.onnx         absent where the row cannot be served (card.json says why)
    heads.npz            "<task>/<array>": the probe of each task
    reference.npz        training images of fold 0: "embedding" (n, d) float32 and what `registry.reference` says of them
    golden.npz           "pixels" (n, c, y, x), "embedding" (n, d) float32, "<task>/probabilities" (n, k), "withheld" why they are drawn,
                         "licence" and "terms" of real ones
    scorecard.json       Scorecard
    companions/<row>/    card.json, encoder.onnx, heads.npz of a twin's member or of a control a reading quotes, and golden.npz: its "embedding"
                         (n, d) of the same golden images

`read_bundle` trusts nothing: names are checked against this list before a file is opened, hashes before a file is
parsed, and no array may need pickle.
"""

from __future__ import annotations

import math
import os
import re
import shutil
import tempfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from registry.arrays import Embedding
from registry.cards import EncoderCard, version_identity
from registry.errors import BundleError
from registry.evidence import Scorecard
from registry.files import published, read_json, sha256_of_bytes, sha256_of_file, write_json
from registry.images import ImageSpec
from registry.npy import MAX_READ, NpyHeader, read_header
from registry.reference import ReferenceSet

FORMAT = 1
#: arrays by name, "<task>/<array>" in heads
Arrays = Mapping[str, NDArray[Any]]
#: said of a bundle that was written before that was asked
NO_PERMISSION = "the bundle does not say whether its images may be passed on; write it again with `blankslide package`"

_TOP = ("card.json", "encoder.onnx", "heads.npz", "reference.npz", "golden.npz", "scorecard.json")
_COMPANION = re.compile(r"companions/[a-z0-9][a-z0-9_-]*/(card\.json|encoder\.onnx|heads\.npz|golden\.npz)")
_REQUIRED = ("card.json", "scorecard.json")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_FLOATS = ("float32", "float64")
#: words in golden.npz, each an array of one
_SAID = ("withheld", "licence", "terms")


@dataclass(frozen=True)
class BundleCard:
    """What a bundle (or a companion in it) is.

    Attributes:
        card: facts of the encoder or control.
        benchmark: the benchmark whose heads and scores lie in the bundle.
        image: what `encoder.onnx` takes, after `registry.images.conform`.
        fitted_to: what it was fitted to ({"benchmark", "data", "fold"}); {} if nothing was fitted here.
        weights_sha256: of `encoder.onnx`, or of the state of a row that has none; "" if there is neither.
        dim: embedding dimension d; 0 for a row that has no embedding of its own.
        member: the draw this is ("main", "fresh-00").
        unservable: why there is no `encoder.onnx`; "" if there is one.
        parity: `registry.export.ExportReport.as_dict()`; {} if there is no `encoder.onnx`.
    """

    card: EncoderCard
    benchmark: str
    image: ImageSpec
    dim: int
    fitted_to: dict[str, str] = field(default_factory=dict)
    weights_sha256: str = ""
    member: str = "main"
    unservable: str = ""
    parity: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The row's name, which is the registered model's name."""
        return self.card.name

    @cached_property
    def identity(self) -> str:
        """Hex SHA-256 over card, weights and preprocessing: what makes a version a version."""
        return version_identity(self.card, self.image, self.weights_sha256, self.fitted_to)

    def as_dict(self) -> dict[str, Any]:
        """Plain values for `card.json`."""
        return {
            "name": self.name,
            "identity": self.identity,
            "benchmark": self.benchmark,
            "card": self.card.as_dict(),
            "image": self.image.as_dict(),
            "dim": self.dim,
            "fitted_to": dict(self.fitted_to),
            "weights_sha256": self.weights_sha256,
            "member": self.member,
            "unservable": self.unservable,
            "parity": dict(self.parity),
        }

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> BundleCard:
        """The inverse of `as_dict`.

        Raises:
            BundleError: the name or the identity is not the one its own facts give.
        """
        facts = {key: item for key, item in value.items() if key not in ("name", "identity")}
        card = cls(**{**facts, "card": EncoderCard.from_dict(value["card"]), "image": ImageSpec.from_dict(value["image"])})
        if (card.name, card.identity) != (value["name"], value["identity"]):
            raise BundleError(
                f"`card.json` of `{value['name']}` says identity {value['identity']}, its own facts give `{card.name}` {card.identity}."
            )
        return card


@dataclass(frozen=True)
class Golden:
    """A few images and what the source framework computes on them: real ones, or drawn ones where those may not be passed on.

    Attributes:
        pixels: (n, c, y, x) in the stored dtype; float32 where conforming resampled them.
        embedding: (n, d) float32.
        probabilities: per task, (n, k).
        withheld: why no image of the benchmark may be handed out, as a clause; "" where its licence lets them be passed on. Then the
            images are real; else they are drawn (`registry.drawn`), but for bundles that were written before that was so.
        licence: of the images, as the benchmark's card states it; "" for drawn ones, and in a bundle that does not say.
        terms: whose they are and under which licence, a sentence; "" as `licence`.
    """

    pixels: NDArray[Any]
    embedding: Embedding
    probabilities: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    withheld: str = NO_PERMISSION
    licence: str = ""
    terms: str = ""


@dataclass(frozen=True)
class CompanionParts:
    """What `write_bundle` puts below `companions/<row>`.

    Attributes:
        card: its `weights_sha256` must be that of `onnx`.
        onnx: the exported file, copied in.
        heads: "<task>/<array>".
        golden: (n, d) embeddings of the bundle's golden images by its source; left out of a bundle without those.
    """

    card: BundleCard
    onnx: Path
    heads: Arrays
    golden: Embedding | None = None


@dataclass(frozen=True)
class Companion:
    """A twin's member or a control beside the encoder of a verified bundle; arrays are read when asked for."""

    folder: Path
    card: BundleCard

    @property
    def onnx(self) -> Path:
        """Its exported file."""
        return self.folder / "encoder.onnx"

    @cached_property
    def heads(self) -> dict[str, NDArray[Any]]:
        """ "<task>/<array>"."""
        return read_arrays(self.folder / "heads.npz")

    @cached_property
    def golden(self) -> Embedding | None:
        """(n, d) embeddings of the bundle's golden images by its source; None in a bundle of before they were kept."""
        path = self.folder / "golden.npz"
        return read_arrays(path)["embedding"] if path.is_file() else None


@dataclass(frozen=True)
class Bundle:
    """A verified bundle; arrays are read when asked for.

    Attributes:
        folder: where it lies.
        card: what it is.
        files: sha256 per relative path.
    """

    folder: Path
    card: BundleCard
    files: dict[str, str]

    @property
    def name(self) -> str:
        """The row's name."""
        return self.card.name

    @property
    def identity(self) -> str:
        """Identity of the registered version."""
        return self.card.identity

    @property
    def evidence_hash(self) -> str:
        """Hex SHA-256 of `scorecard.json`."""
        return self.files["scorecard.json"]

    @property
    def digest(self) -> str:
        """Hex SHA-256 of `manifest.json`, so of everything in the bundle."""
        return sha256_of_file(self.folder / "manifest.json")

    @property
    def onnx(self) -> Path | None:
        """`encoder.onnx`; None where the row cannot be served."""
        return self.folder / "encoder.onnx" if "encoder.onnx" in self.files else None

    @cached_property
    def heads(self) -> dict[str, NDArray[Any]]:
        """ "<task>/<array>"; {} where the row has no probe."""
        return read_arrays(self.folder / "heads.npz") if "heads.npz" in self.files else {}

    @cached_property
    def reference(self) -> ReferenceSet | None:
        """Training images of fold 0, None if there are none.

        Raises:
            BundleError: what is said of them contradicts itself.
        """
        return ReferenceSet.from_arrays(read_arrays(self.folder / "reference.npz")) if "reference.npz" in self.files else None

    @cached_property
    def golden(self) -> Golden | None:
        """Images with known answers, None if there are none."""
        if "golden.npz" not in self.files:
            return None
        arrays = read_arrays(self.folder / "golden.npz")
        tasks = {name.removesuffix("/probabilities"): array for name, array in arrays.items() if name.endswith("/probabilities")}
        said = {name: str(arrays[name][0]) for name in _SAID if name in arrays}
        return Golden(arrays["pixels"], arrays["embedding"], tasks, **said)

    @cached_property
    def scorecard(self) -> Scorecard:
        """Scores and verdicts on the bundle's benchmark."""
        return Scorecard.from_dict(read_json(self.folder / "scorecard.json"))

    @cached_property
    def companions(self) -> dict[str, Companion]:
        """Companions by row, in order."""
        rows = sorted({PurePosixPath(name).parts[1] for name in self.files if name.startswith("companions/")})
        folders = [self.folder / "companions" / row for row in rows]
        return {folder.name: Companion(folder, BundleCard.from_dict(read_json(folder / "card.json"))) for folder in folders}

    def verified_bytes(self, name: str) -> bytes:
        """A file's bytes, hashed again as they are read: a server loads exactly what was verified.

        Args:
            name: relative path, for example "encoder.onnx" or "companions/untrained-cnn/encoder.onnx".

        Raises:
            BundleError: no such file, or it changed since the bundle was read.
        """
        if name not in self.files:
            raise BundleError(f"`{self.name}` has no `{name}`. It has: {', '.join(sorted(self.files))}.")
        data = (self.folder / name).read_bytes()
        if sha256_of_bytes(data) != self.files[name]:
            raise BundleError(f"`{self.folder / name}` changed since its bundle was verified. Fetch the bundle again.")
        return data


def write_bundle(
    folder: Path,
    card: BundleCard,
    scorecard: Scorecard,
    *,
    onnx: Path | None = None,
    heads: Arrays | None = None,
    reference: ReferenceSet | None = None,
    golden: Golden | None = None,
    companions: Sequence[CompanionParts] = (),
) -> Bundle:
    """Write a bundle beside `folder`, verify it, and rename it into place; a bundle already there is replaced.

    The same parts give the same bytes.

    Args:
        folder: the bundle's directory; its parent is made.
        card: `weights_sha256` must be that of `onnx` where there is one.
        scorecard: of the same row and benchmark.
        onnx: the exported file, copied in; None for a row that cannot be served (`card.unservable` says why).
        heads: "<task>/<array>".
        reference: training images of fold 0.
        golden: images with known answers.
        companions: what a reading quotes beside the encoder.

    Raises:
        BundleError: the parts contradict each other, or one is not data.
    """
    _check_parts(card, scorecard, onnx)
    with _published_folder(folder) as temporary:
        write_json(temporary / "card.json", card.as_dict())
        write_json(temporary / "scorecard.json", scorecard.as_dict())
        if onnx is not None:
            _copy(onnx, temporary / "encoder.onnx", card)
        if heads:
            write_arrays(temporary / "heads.npz", heads)
        if reference is not None:
            write_arrays(temporary / "reference.npz", reference.as_arrays())
        if golden is not None:
            probabilities = {f"{task}/probabilities": array for task, array in golden.probabilities.items()}
            said = {name: np.array([getattr(golden, name)]) for name in _SAID}
            arrays = {"pixels": golden.pixels, "embedding": golden.embedding, **said, **probabilities}
            write_arrays(temporary / "golden.npz", arrays)
        for companion in companions:
            below = temporary / "companions" / companion.card.name
            write_json(below / "card.json", companion.card.as_dict())
            _copy(companion.onnx, below / "encoder.onnx", companion.card)
            write_arrays(below / "heads.npz", companion.heads)
            if golden is not None and companion.golden is not None:
                write_arrays(below / "golden.npz", {"embedding": companion.golden})
        files = {name: sha256_of_file(temporary / name) for name in sorted(_walk(temporary))}
        write_json(temporary / "manifest.json", {"format": FORMAT, "files": files})
        read_bundle(temporary)
    return read_bundle(folder)


def read_bundle(folder: Path) -> Bundle:
    """Verify a bundle and open it.

    Raises:
        BundleError: no manifest, a file missing, altered, not in the manifest or not of a kind a bundle holds, a link,
            a path out of the directory, an array that needs pickle, an identity its own facts do not give, golden images or
            reference embeddings of another shape than the card states; whatever else its data makes a reader raise.
    """
    files = _manifest(folder)
    present = set(_walk(folder)) - {"manifest.json"}
    extra, missing = sorted(present - set(files)), sorted(set(files) - present)
    if extra or missing:
        raise BundleError(
            f"`{folder}` is not what its manifest says: {_listing(missing)} missing, {_listing(extra)} not in the manifest. Fetch the bundle again."
        )
    headers: dict[str, dict[str, NpyHeader]] = {}
    for name, expected in files.items():
        came = sha256_of_file(folder / name)
        if came != expected:
            raise BundleError(f"`{folder / name}`: expected sha256 {expected}, got {came}. The file was altered; fetch the bundle again.")
        if name.endswith(".npz"):
            headers[name] = _headers(folder / name)
    try:
        bundle = Bundle(folder, BundleCard.from_dict(read_json(folder / "card.json")), files)
        _check_parts(bundle.card, bundle.scorecard, bundle.onnx)
        for companion in bundle.companions.values():
            if companion.card.weights_sha256 != files[f"companions/{companion.card.name}/encoder.onnx"]:
                raise BundleError(f"`{folder}`: the card of companion `{companion.card.name}` belongs to another `encoder.onnx`.")
        if bundle.onnx is not None:
            _check_golden(bundle.card, headers.get("golden.npz"))
            for row, companion in bundle.companions.items():
                _check_golden_of(companion, headers.get(f"companions/{row}/golden.npz"), headers.get("golden.npz"))
            _check_reference(bundle.card, headers.get("reference.npz"))
    except BundleError:
        raise
    except Exception as error:  # nesting without end, a card that contradicts itself: whatever it is, its data is at fault
        raise BundleError(
            f"`{folder}`: a card or scorecard cannot be read ({type(error).__name__}: {error}). Package the benchmark again."
        ) from error
    return bundle


def write_arrays(path: Path, arrays: Arrays) -> None:
    """Publish arrays as an npz file; names in order, no times, no pickle, so the same arrays give the same bytes.

    Raises:
        BundleError: an array of objects.
    """
    for name, array in arrays.items():
        if np.asarray(array).dtype.hasobject:
            raise BundleError(f"`{path.name}`: expected numbers or strings in `{name}`, got objects, which would need pickle.")
    with published(path) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(arrays):
            # a fresh ZipInfo is dated 1980: nothing of the clock enters the file
            with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as stream:
                np.lib.format.write_array(stream, np.ascontiguousarray(arrays[name]), allow_pickle=False)


def refuse_packed(archive: zipfile.ZipFile, path: Path) -> None:
    """Check that a zip holds no more bytes than it takes: a few packed ones could unpack to more than there is room for.

    Raises:
        BundleError: an entry is compressed, or entries share bytes.
    """
    entries = archive.infolist()
    packed = [entry.filename for entry in entries if entry.compress_type != zipfile.ZIP_STORED or entry.file_size != entry.compress_size]
    if packed or sum(entry.file_size for entry in entries) > path.stat().st_size:
        raise BundleError(f"`{path}`: expected entries as they are, got compressed or shared ones ({_listing(packed)}). Write the file again.")


def read_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """All arrays of an npz file that `write_arrays` wrote, without pickle.

    Raises:
        BundleError: damaged, compressed, or an array that needs pickle or says that it is larger than it is.
    """
    try:
        _headers(path)
        # numpy leaves a damaged file that it opened itself open
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except BundleError:
        raise
    except Exception as error:  # encrypted, packed in an unknown way: zipfile and numpy raise what they like
        raise _no_arrays(path, error) from error


def _check_parts(card: BundleCard, scorecard: Scorecard, onnx: Path | None) -> None:
    if (scorecard.row, scorecard.benchmark) != (card.name, card.benchmark):
        raise BundleError(f"Expected the scorecard of `{card.name}` on `{card.benchmark}`, got that of `{scorecard.row}` on `{scorecard.benchmark}`.")
    if (onnx is None) != bool(card.unservable):
        raise BundleError(f"`{card.name}`: expected either an `encoder.onnx` or a reason in `unservable`, got {onnx} and `{card.unservable}`.")
    if onnx is not None:
        _check_weights(onnx, card)


def _check_weights(onnx: Path, card: BundleCard) -> None:
    came = sha256_of_file(onnx)
    if came != card.weights_sha256:
        raise BundleError(f"`{card.name}`: its card expects weights {card.weights_sha256 or 'of no hash'}, `{onnx.name}` has {came}.")


def _copy(source: Path, target: Path, card: BundleCard) -> None:
    _check_weights(source, card)
    with published(target) as temporary:
        shutil.copyfile(source, temporary)


def _manifest(folder: Path) -> dict[str, str]:
    """The manifest's files, their names checked before any of them is opened."""
    path = folder / "manifest.json"
    if path.is_symlink() or not path.is_file():
        raise BundleError(f"`{folder}` is not a bundle: expected `manifest.json` in it.")
    try:
        value = read_json(path)
        version, files = value["format"], dict(value["files"].items())
    except Exception as error:  # nesting without end, say
        raise BundleError(
            f"`{path}`: expected a manifest with `format` and `files`, which it is not ({type(error).__name__}). Fetch the bundle again."
        ) from error
    if version != FORMAT:
        raise BundleError(f"`{path}`: expected bundle format {FORMAT}, got {version}. Read it with the release that wrote it.")
    for name, digest in files.items():
        _check_name(name, folder)
        if not isinstance(digest, str) or not _SHA256.fullmatch(digest):
            raise BundleError(f"`{path}`: expected a hex SHA-256 for `{name}`, got {digest!r}.")
    absent = [name for name in _REQUIRED if name not in files]
    if absent:
        raise BundleError(f"`{path}`: expected {_listing(absent)} in the bundle.")
    return files


def _check_name(name: str, folder: Path) -> None:
    if name not in _TOP and not _COMPANION.fullmatch(name):
        raise BundleError(
            f"`{folder}`: `{name}` does not belong in a bundle. A bundle holds data only: {', '.join(_TOP)} and the same below `companions/<row>`."
        )


def _walk(folder: Path) -> Iterator[str]:
    """Relative paths of all files, refusing links and everything that is neither file nor folder."""
    for base, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = Path(base, name)
            if path.is_symlink() or not (path.is_file() or path.is_dir()):
                raise BundleError(f"`{path}`: expected plain files and folders in a bundle, got a link or a special file.")
        yield from (Path(base, name).relative_to(folder).as_posix() for name in files)


def _headers(path: Path) -> dict[str, NpyHeader]:
    """What an npz file announces, by name of the array; arrays that need pickle are refused without reading them."""
    found: dict[str, NpyHeader] = {}
    try:
        with zipfile.ZipFile(path) as archive:
            refuse_packed(archive, path)
            for name in archive.namelist():
                with archive.open(name) as stream:
                    header = read_header(stream.read(MAX_READ))
                size = math.prod(header.shape) * header.dtype.itemsize
                if not header.dtype.hasobject and (min(header.shape, default=0) < 0 or size != archive.getinfo(name).file_size - header.start):
                    raise BundleError(f"`{path}`: `{name}` says that it holds {size} bytes, and does not. Write the file again.")
                if header.dtype.hasobject:
                    raise BundleError(f"`{path}`: `{name}` holds objects, which would need pickle. A bundle holds plain arrays only.")
                found[name.removesuffix(".npy")] = header
    except BundleError:
        raise
    except Exception as error:  # as in `read_arrays`
        raise _no_arrays(path, error) from error
    return found


def _no_arrays(path: Path, error: Exception) -> BundleError:
    return BundleError(f"`{path}`: expected an npz file of plain arrays, which it is not ({type(error).__name__}). Write the file again.")


def _check_golden(card: BundleCard, headers: Mapping[str, NpyHeader] | None) -> None:
    """Golden images and answers of the shapes that the card states, or none."""
    if headers is None:
        return
    pixels = _expect("golden.npz", headers, "pixels", (None, *card.image.shape), (card.image.dtype, "float32"))
    _expect("golden.npz", headers, "embedding", (pixels.shape[0], card.dim), _FLOATS)
    for name in sorted(set(headers) - {"pixels", "embedding", *_SAID}):
        if not name.endswith("/probabilities"):
            known = ", ".join(f"`{one}`" for one in ("pixels", "embedding", *_SAID))
            raise BundleError(f"`golden.npz`: expected {known} and `<task>/probabilities`, got `{name}`. Package the benchmark again.")
        _expect("golden.npz", headers, name, (pixels.shape[0], None), _FLOATS)
    for name in _SAID:
        said = headers.get(name)
        if said is not None and (said.shape != (1,) or said.dtype.kind != "U"):
            raise BundleError(
                f"`golden.npz`: expected `{name}` to be a sentence, got shape {said.shape} of {said.dtype}. Package the benchmark again."
            )


def _check_golden_of(companion: Companion, headers: Mapping[str, NpyHeader] | None, images: Mapping[str, NpyHeader] | None) -> None:
    """A companion's golden embeddings, one for each golden image, or none."""
    if headers is None:
        return
    if images is None:
        raise BundleError(f"`{companion.card.name}` has golden embeddings, and there are no golden images. Package the benchmark again.")
    _expect(f"companions/{companion.card.name}/golden.npz", headers, "embedding", (images["pixels"].shape[0], companion.card.dim), _FLOATS)


def _check_reference(card: BundleCard, headers: Mapping[str, NpyHeader] | None) -> None:
    """Reference embeddings as wide as the encoder's, or none: else no image could be compared with them."""
    if headers is not None:
        _expect("reference.npz", headers, "embedding", (None, card.dim), _FLOATS)


def _expect(file: str, headers: Mapping[str, NpyHeader], name: str, shape: Sequence[int | None], dtypes: Sequence[str]) -> NpyHeader:
    """The header of one array; None in `shape` is any number above 0."""
    header = headers.get(name)
    right = (
        header is not None
        and len(header.shape) == len(shape)
        and all(side > 0 if expected is None else side == expected for side, expected in zip(header.shape, shape, strict=True))
        and header.dtype.name in dtypes
    )
    if header is None or not right:
        expected = ", ".join("n" if side is None else str(side) for side in shape)
        came = f"shape {header.shape} of {header.dtype}" if header is not None else f"only {_listing(sorted(headers))}"
        raise BundleError(f"`{file}`: expected `{name}` of shape ({expected}) and {' or '.join(dtypes)}, got {came}. Package the benchmark again.")
    return header


def _listing(names: Sequence[str]) -> str:
    return ", ".join(f"`{name}`" for name in names) or "nothing"


@contextmanager
def _published_folder(folder: Path) -> Iterator[Path]:
    """Yield a temporary directory beside `folder`; rename it into place only when the block ends well."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".part", dir=folder.parent))
    replaced = temporary.with_suffix(".old")
    try:
        temporary.chmod(0o755)
        yield temporary
        if folder.exists():
            os.replace(folder, replaced)
        os.replace(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(replaced, ignore_errors=True)

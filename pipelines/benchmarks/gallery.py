"""Public image collections in S3 buckets: what there is, how large it is, and fetching chosen objects. Unsigned; no account is needed."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from registry.errors import HubUnreachableError, InputError, NotFoundError
from registry.files import published, read_json, sha256_of_file, write_json

#: hashes of what was fetched, beside the files
RECEIPT = "fetched.json"
_ATTEMPTS = 3
_CHUNK = 1 << 20


@dataclass(frozen=True)
class Source:
    """A public collection.

    Attributes:
        name: as the command line calls it.
        title: one line for people.
        bucket: the S3 bucket.
        prefix: where the collection begins in it.
        region: of the bucket.
        licence: of the images.
        citation: how to cite them.
    """

    name: str
    title: str
    bucket: str
    prefix: str
    region: str
    licence: str
    citation: str


SOURCES = {
    source.name: source
    for source in (
        Source(
            name="cpjump1",
            title="CPJUMP1 of the Cell Painting Gallery: A549 and U2OS cells, compounds, ORFs and CRISPR guides, five fluorescence channels",
            bucket="cellpainting-gallery",
            prefix="cpg0000-jump-pilot/source_4/images/2020_11_04_CPJUMP1/",
            region="us-east-1",
            licence="CC0-1.0",
            citation="Chandrasekaran et al., Nature Methods 21, 1114 (2024); Weisbart et al., Nature Methods 21, 1775 (2024)",
        ),
    )
}


@dataclass(frozen=True)
class RemoteObject:
    """One object: its key in the bucket, its size and its ETag (an MD5 only where it has no dash)."""

    key: str
    bytes: int
    etag: str


@dataclass(frozen=True)
class Listing:
    """Objects of a source, in the order of their keys.

    Attributes:
        source: where they are.
        prefix: what was listed.
        objects: at most as many as were asked for.
        complete: whether that is all there is under the prefix.
    """

    source: Source
    prefix: str
    objects: tuple[RemoteObject, ...]
    complete: bool

    @property
    def total_bytes(self) -> int:
        """Size of the listed objects."""
        return sum(item.bytes for item in self.objects)

    def by_folder(self) -> dict[str, tuple[int, int]]:
        """(objects, bytes) per folder that holds objects."""
        folders: dict[str, tuple[int, int]] = {}
        for item in self.objects:
            folder = item.key.rpartition("/")[0]
            count, size = folders.get(folder, (0, 0))
            folders[folder] = (count + 1, size + item.bytes)
        return folders

    def summary(self) -> str:
        """What `--dry-run` prints."""
        least = "" if self.complete else "at least "
        lines = [f"{self.source.title}", f"licence {self.source.licence}; cite {self.source.citation}"]
        lines += [f"  {folder}/: {count} objects, {size / 1e9:.3f} GB" for folder, (count, size) in self.by_folder().items()]
        lines.append(f"s3://{self.source.bucket}/{self.prefix}: {least}{len(self.objects)} objects, {least}{self.total_bytes / 1e9:.3f} GB")
        if not self.complete:
            lines.append("The listing stopped at its limit. Raise `--limit`, or narrow it with `--prefix`.")
        return "\n".join(lines)


def find_source(name: str) -> Source:
    """The source of that name.

    Raises:
        NotFoundError: there is none; lists those there are.
    """
    if name not in SOURCES:
        raise NotFoundError("public source", name, SOURCES)
    return SOURCES[name]


def list_objects(source: Source, endpoint_url: str | None = None, limit: int | None = 10_000, prefix: str = "") -> Listing:
    """List and size the objects of a source; nothing is downloaded.

    Args:
        source: the collection.
        endpoint_url: another S3 server than Amazon's (a mirror).
        limit: stop after this many objects; None lists all (CPJUMP1 holds more than a million).
        prefix: only keys that go on like this below the source's own prefix.

    Raises:
        HubUnreachableError: the server does not answer.
        InputError: the server answers with an error, or lists nothing there.
    """
    if limit is not None and limit < 1:
        raise InputError(f"Expected a limit of at least 1 object, got {limit}.")
    wanted = source.prefix + prefix
    objects: list[RemoteObject] = []
    complete = True
    with _reported(source, endpoint_url):
        pages = _client(source, endpoint_url).get_paginator("list_objects_v2").paginate(Bucket=source.bucket, Prefix=wanted)
        for entry in (entry for page in pages for entry in page.get("Contents", [])):
            if limit is not None and len(objects) == limit:
                complete = False
                break
            if not entry["Key"].endswith("/"):
                objects.append(RemoteObject(entry["Key"], int(entry["Size"]), str(entry["ETag"]).strip('"')))
    if not objects:
        raise InputError(f"There is nothing under s3://{source.bucket}/{wanted}. Check the prefix.")
    return Listing(source, wanted, tuple(objects), complete)


def get(
    source: Source, objects: Iterable[RemoteObject], out: Path, endpoint_url: str | None = None, say: Callable[[str], None] = print
) -> list[Path]:
    """Download objects; each file is published whole, or not at all.

    Size, MD5 (where the ETag is one) and the server's own SHA-256 (where it has one) are compared; the object must not have changed
    since it was listed. Hashes are kept in `fetched.json`: an object that is already there with its hash is not fetched again.

    Args:
        source: the collection.
        objects: as listed.
        out: folder; keys become paths below it, without the source's prefix.
        endpoint_url: as for `list_objects`.
        say: receives a line per file.

    Returns:
        The files, in the order of the objects.

    Raises:
        HubUnreachableError: the server does not answer, or broke off three times.
        InputError: an object is gone, was changed or does not have its announced size or hash; or its key leads out of the folder.
    """
    client = _client(source, endpoint_url)
    receipt = out / RECEIPT
    known: dict[str, str] = read_json(receipt) if receipt.is_file() else {}
    paths = []
    for item in objects:
        relative = item.key.removeprefix(source.prefix)
        path = out / relative
        if not relative or not path.resolve().is_relative_to(out.resolve()):
            raise InputError(f"The key `{item.key}` does not name a file below `{out}`.")
        if not _is_there(path, item, known.get(relative)):
            try:
                with _reported(source, endpoint_url):
                    known[relative] = _fetch(client, source, item, path)
                write_json(receipt, known)
            except OSError as error:
                raise InputError(
                    f"`{path}` could not be written ({error.strerror}). Make room there, then repeat: what is complete is kept."
                ) from error
            say(f"{relative}: {item.bytes} bytes, sha256 {known[relative]}")
        paths.append(path)
    return paths


def _is_there(path: Path, item: RemoteObject, sha256: str | None) -> bool:
    return sha256 is not None and path.is_file() and path.stat().st_size == item.bytes and sha256_of_file(path) == sha256


def _client(source: Source, endpoint_url: str | None) -> Any:
    import boto3
    from botocore import UNSIGNED
    from botocore.config import Config

    config = Config(signature_version=UNSIGNED, connect_timeout=5, read_timeout=30, retries={"mode": "standard", "total_max_attempts": _ATTEMPTS})
    return boto3.client("s3", region_name=source.region, endpoint_url=endpoint_url, config=config)


def _fetch(client: Any, source: Source, item: RemoteObject, path: Path) -> str:
    """Download one object, again where the connection broke off within the body (botocore does not repeat that); return its sha256."""
    from botocore.exceptions import IncompleteReadError, ReadTimeoutError, ResponseStreamingError

    attempt = 1
    while True:
        try:
            response = client.get_object(Bucket=source.bucket, Key=item.key, IfMatch=item.etag, ChecksumMode="ENABLED")
            with published(path) as temporary:
                return _store(response, item, temporary)
        except (IncompleteReadError, ReadTimeoutError, ResponseStreamingError):
            if attempt == _ATTEMPTS:
                raise
            attempt += 1


def _store(response: Mapping[str, Any], item: RemoteObject, path: Path) -> str:
    md5, sha256, size = hashlib.md5(usedforsecurity=False), hashlib.sha256(), 0
    with path.open("wb") as stream:
        for chunk in response["Body"].iter_chunks(_CHUNK):
            stream.write(chunk)
            md5.update(chunk)
            sha256.update(chunk)
            size += len(chunk)
    announced = response.get("ChecksumSHA256", "")
    checks = {
        "bytes": (item.bytes, size),
        "MD5": (item.etag, md5.hexdigest()) if "-" not in item.etag else ("", ""),
        "SHA-256": (announced, base64.b64encode(sha256.digest()).decode()) if announced and "-" not in announced else ("", ""),
    }
    for what, (expected, got) in checks.items():
        if expected != got:
            raise InputError(f"`{item.key}`: expected {what} {expected}, got {got}. The object was damaged on its way; fetch it again.")
    return sha256.hexdigest()


@contextmanager
def _reported(source: Source, endpoint_url: str | None) -> Iterator[None]:
    """botocore's errors in the product's words."""
    from botocore.exceptions import BotoCoreError, ClientError

    where = endpoint_url or f"s3://{source.bucket} (Amazon S3)"
    try:
        yield
    except ClientError as error:
        code = error.response.get("Error", {}).get("Code", "unknown")
        hint = {
            "PreconditionFailed": "The object has changed since it was listed: list again.",
            "NoSuchKey": "The object is gone: list again.",
            "NoSuchBucket": "The bucket does not exist there.",
        }.get(code, "Check that the bucket may be read without an account.")
        raise InputError(f"{where} refused with `{code}`. {hint}") from error
    except BotoCoreError as error:
        raise HubUnreachableError(
            f"{where} does not answer ({type(error).__name__}: {error}). Check the network, or name a mirror with `--endpoint-url`;"
            " everything else works without it."
        ) from error

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipelines.benchmarks.gallery import RECEIPT, SOURCES, Source, find_source, get, list_objects
from registry.errors import HubUnreachableError, InputError, NotFoundError
from registry.files import read_json, sha256_of_bytes

SOURCE = SOURCES["cpjump1"]
PLATE = f"{SOURCE.prefix}images/BR00117011__2020-11-08T19_57_47-Measurement1/"
CONTENT = {f"{PLATE}Images/r01c{c:02d}f01p01-ch1sk1fk1fl1.tiff": bytes([c]) * (1000 + c) for c in range(1, 13)}


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    """A real S3-protocol server over HTTP that lists five keys a page."""
    from moto.server import ThreadedMotoServer

    environment = pytest.MonkeyPatch()
    environment.setenv("MOTO_S3_DEFAULT_MAX_KEYS", "5")
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()
    environment.undo()


@pytest.fixture(scope="module")
def owner(endpoint: str) -> Any:
    """The bucket's owner, who may write; everyone else is unsigned."""
    import boto3

    client = boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1", aws_access_key_id="owner", aws_secret_access_key="secret")
    client.create_bucket(Bucket=SOURCE.bucket)
    for key, body in {**CONTENT, f"{PLATE}Index.idx.xml": b"<xml/>", "cpg0001/other.tiff": b"not ours", f"{PLATE}Images/": b""}.items():
        client.put_object(Bucket=SOURCE.bucket, Key=key, Body=body, ACL="public-read")
    return client


def test_objects_are_listed_and_sized_without_a_signature(endpoint: str, owner: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    listing = list_objects(SOURCE, endpoint)
    assert len(owner.list_objects_v2(Bucket=SOURCE.bucket, Prefix=SOURCE.prefix)["Contents"]) == 5
    assert [item.key for item in listing.objects] == sorted([*CONTENT, f"{PLATE}Index.idx.xml"])
    assert listing.total_bytes == sum(map(len, CONTENT.values())) + 6
    assert listing.complete
    assert listing.by_folder() == {f"{PLATE}Images": (12, listing.total_bytes - 6), PLATE.rstrip("/"): (1, 6)}
    assert "13 objects, 0.000 GB" in listing.summary()
    assert "CC0-1.0" in listing.summary()


def test_a_limited_listing_says_so(endpoint: str, owner: Any) -> None:
    assert owner
    listing = list_objects(SOURCE, endpoint, limit=5)
    assert (len(listing.objects), listing.complete) == (5, False)
    assert "at least 5 objects" in listing.summary()
    assert "The listing stopped at its limit" in listing.summary()
    assert list_objects(SOURCE, endpoint, limit=13).complete
    narrowed = list_objects(SOURCE, endpoint, prefix="images/BR00117011__2020-11-08T19_57_47-Measurement1/Index")
    assert [item.bytes for item in narrowed.objects] == [6]


def test_an_object_that_is_not_public_is_refused_in_words(endpoint: str, owner: Any, tmp_path: Path) -> None:
    source = replace(SOURCE, prefix="private/")
    owner.put_object(Bucket=SOURCE.bucket, Key="private/a.tiff", Body=b"secret")
    with pytest.raises(InputError, match=r"refused with `\w+`\. Check that the bucket may be read without an account"):
        get(source, list_objects(source, endpoint).objects, tmp_path, endpoint)


def test_objects_are_fetched_whole_and_not_twice(endpoint: str, owner: Any, tmp_path: Path) -> None:
    assert owner
    listing = list_objects(SOURCE, endpoint)
    said: list[str] = []
    paths = get(SOURCE, listing.objects, tmp_path, endpoint, said.append)
    assert len(said) == 13
    for item, path in zip(listing.objects, paths, strict=True):
        assert path == tmp_path / item.key.removeprefix(SOURCE.prefix)
        assert path.stat().st_size == item.bytes
    receipt = read_json(tmp_path / RECEIPT)
    assert receipt == {
        key.removeprefix(SOURCE.prefix): sha256_of_bytes(body) for key, body in {**CONTENT, f"{PLATE}Index.idx.xml": b"<xml/>"}.items()
    }
    paths[3].write_bytes(b"damaged")
    paths[4].unlink()
    assert get(SOURCE, listing.objects, tmp_path, endpoint, said.append) == paths
    assert len(said) == 15
    assert paths[3].read_bytes() == CONTENT[listing.objects[3].key]


def test_an_object_that_changed_since_it_was_listed_is_refused(endpoint: str, owner: Any, tmp_path: Path) -> None:
    source = replace(SOURCE, prefix="changing/")
    owner.put_object(Bucket=SOURCE.bucket, Key="changing/a.tiff", Body=b"first", ACL="public-read")
    listing = list_objects(source, endpoint)
    owner.put_object(Bucket=SOURCE.bucket, Key="changing/a.tiff", Body=b"other", ACL="public-read")
    with pytest.raises(InputError, match=r"refused with `PreconditionFailed`\. The object has changed since it was listed"):
        get(source, listing.objects, tmp_path, endpoint)
    with pytest.raises(InputError, match=r"expected bytes 3, got 5\. The object was damaged"):
        get(source, [replace(list_objects(source, endpoint).objects[0], bytes=3)], tmp_path, endpoint)
    owner.delete_object(Bucket=SOURCE.bucket, Key="changing/a.tiff")
    with pytest.raises(InputError, match="NoSuchKey"):
        get(source, listing.objects, tmp_path, endpoint)
    assert list(tmp_path.iterdir()) == []


def test_a_key_must_not_lead_out_of_the_folder(endpoint: str, owner: Any, tmp_path: Path) -> None:
    assert owner
    item = replace(list_objects(SOURCE, endpoint, limit=1).objects[0], key=f"{SOURCE.prefix}../../escape")
    with pytest.raises(InputError, match="does not name a file below"):
        get(SOURCE, [item], tmp_path / "out", endpoint)


def test_a_wrong_bucket_or_prefix_is_said(endpoint: str, owner: Any) -> None:
    assert owner
    with pytest.raises(InputError, match=r"NoSuchBucket`\. The bucket does not exist there"):
        list_objects(replace(SOURCE, bucket="no-such-bucket"), endpoint)
    with pytest.raises(InputError, match="There is nothing under s3://cellpainting-gallery/"):
        list_objects(SOURCE, endpoint, prefix="nothing/")
    with pytest.raises(InputError, match="at least 1 object, got 0"):
        list_objects(SOURCE, endpoint, limit=0)
    with pytest.raises(NotFoundError, match=r"There is no public source `jump`. Known: `cpjump1`"):
        find_source("jump")


def test_an_absent_network_is_said_with_the_next_step() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(HubUnreachableError, match=r"127\.0\.0\.1:\d+ does not answer .*Check the network, or name a mirror with `--endpoint-url`"):
        list_objects(find_source("cpjump1"), f"http://127.0.0.1:{port}")


class _Breaking:
    """An S3 server that announces 100 bytes, sends 40 and hangs up; the `heal_after`-th request gets all of them."""

    def __init__(self, heal_after: int) -> None:
        self.heal_after, self.requests = heal_after, 0
        self.server = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.server.getsockname()[1]}"
        self.thread = threading.Thread(target=self._serve, daemon=True)
        self.thread.start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self.server.accept()
            except OSError:
                return
            with connection:
                connection.recv(65536)
                self.requests += 1
                body = b"x" * (100 if self.requests >= self.heal_after else 40)
                connection.sendall(b'HTTP/1.1 200 OK\r\nContent-Length: 100\r\nETag: "multi-2"\r\nConnection: close\r\n\r\n' + body)


@pytest.mark.parametrize(("heal_after", "succeeds"), [(3, True), (99, False)])
def test_a_connection_that_breaks_off_is_tried_three_times(tmp_path: Path, heal_after: int, succeeds: bool) -> None:
    from pipelines.benchmarks.gallery import RemoteObject

    server = _Breaking(heal_after)
    source = Source("s", "s", "bucket", "", "us-east-1", "CC0", "")
    try:
        if succeeds:
            (path,) = get(source, [RemoteObject("a.bin", 100, "multi-2")], tmp_path, server.url)
            assert path.read_bytes() == b"x" * 100
        else:
            with pytest.raises(HubUnreachableError, match="does not answer"):
                get(source, [RemoteObject("a.bin", 100, "multi-2")], tmp_path, server.url)
            assert list(tmp_path.iterdir()) == []
        assert server.requests == 3
    finally:
        server.server.close()

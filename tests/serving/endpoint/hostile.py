"""Requests that nobody well-meaning sends, drawn from a seed: altered headers, bombs, wrong tensors, broken forms, slow and rude clients."""

from __future__ import annotations

import gzip
import io
import json
import re
import socket
import struct
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import tifffile
from numpy.random import Generator

from tests.serving.bundles import npy, ome, png, tiff
from tests.tiff_parts import LONG, START, indexed, nested, one_page, page, sharing, with_entries

PATHS = ("/v1/embed", "/v1/score", "/v1/channels")
INTERESTING = (0, 1, 2, 3, 127, 128, 255, 256, 32767, 32768, 65535, 65536, 2**31 - 1, 2**31, 2**32 - 1)


@dataclass(frozen=True)
class Request:
    """One request.

    Attributes:
        kind: what is wrong with it, for the report.
        path: with its query.
        body: as sent.
        headers: beside `Content-Length`.
        method: of HTTP.
        pace_s: seconds between pieces of the body; 0 = all at once.
        cut: send only so many bytes of the body and hang up; None = all.
        raw: instead of all the above, bytes for the connection.
        stays: with `raw`, does not say that nothing more comes.
    """

    kind: str
    path: str = "/v1/embed?model=tiny"
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    method: str = "POST"
    pace_s: float = 0.0
    cut: int | None = None
    raw: bytes | None = None
    stays: bool = False


def send(port: int, request: Request, timeout_s: float) -> int | None:
    """The answer's status; None where the service hung up without one, as it may on bytes that are no HTTP.

    Raises:
        TimeoutError: neither within `timeout_s`.
    """
    deadline = time.monotonic() + timeout_s
    with socket.create_connection(("127.0.0.1", port), timeout_s) as connection:
        try:
            _write(connection, request)
            if request.cut is not None:
                return None
            said = b""
            while b"\r\n\r\n" not in said:
                connection.settimeout(max(0.01, deadline - time.monotonic()))
                piece = connection.recv(65536)
                if not piece:
                    return None
                said += piece
            return int(said.split(b" ", 2)[1])
        except (ConnectionResetError, BrokenPipeError):
            return None


def _write(connection: socket.socket, request: Request) -> None:
    if request.raw is not None:
        connection.sendall(request.raw)
        if not request.stays:
            connection.shutdown(socket.SHUT_WR)
        return
    headers = {"Host": "127.0.0.1", "Connection": "close", "Content-Length": str(len(request.body)), **request.headers}
    head = "".join([f"{request.method} {request.path} HTTP/1.1\r\n", *(f"{name}: {value}\r\n" for name, value in headers.items()), "\r\n"])
    body = request.body if request.cut is None else request.body[: request.cut]
    if not request.pace_s:
        connection.sendall(head.encode("latin-1", "replace") + body)
        return
    connection.sendall(head.encode("latin-1", "replace"))
    step = max(1, len(body) // 20)
    for i in range(0, len(body), step):
        connection.sendall(body[i : i + step])
        time.sleep(request.pace_s)


class Hostile:
    """Draws requests.

    Args:
        image: (c, y, x) uint16 that the model takes.
        seed: of everything.
    """

    def __init__(self, image: np.ndarray[Any, Any], seed: int) -> None:
        self.rng: Generator = np.random.default_rng(seed)
        self.image = image
        grey = image[0]
        self.files: dict[str, bytes] = {
            "ome": ome(image),
            "tiff": tiff(image, photometric="minisblack"),
            "deflate": tiff(image, photometric="minisblack", compression="zlib"),
            "lzw": tiff(image, photometric="minisblack", compression="lzw"),
            "png": png(np.stack([grey] * 3).astype(np.uint8)),
            "deep png": _deep_png(grey),
            "jpeg": _jpeg(grey),
            "npy": npy(image),
        }
        self.kinds: list[Callable[[], Request]] = [
            self.flipped,
            self.flipped,
            self.truncated,
            self.altered_tiff,
            self.altered_tiff,
            self.altered_png,
            self.nested_tiff,
            self.altered_npy,
            self.altered_xml,
            self.odd_scale,
            self.bomb,
            self.noise,
            self.form,
            self.tensor,
            self.tensor,
            self.query,
            self.rude,
            self.endless,
            self.slow,
        ]

    def draw(self) -> Request:
        """One request."""
        return self.kinds[int(self.rng.integers(len(self.kinds)))]()

    def valid(self) -> Request:
        """One that must be answered."""
        name = ("ome", "tiff", "deflate", "npy")[int(self.rng.integers(4))]
        return Request("valid", self._path(), self.files[name])

    def _path(self, **query: str) -> str:
        given = "".join(f"&{name}={value}" for name, value in query.items())
        return f"{PATHS[int(self.rng.integers(len(PATHS)))]}?model=tiny{given}"

    def _file(self) -> tuple[str, bytearray]:
        names = sorted(self.files)
        name = names[int(self.rng.integers(len(names)))]
        return name, bytearray(self.files[name])

    def _number(self) -> int:
        return int(INTERESTING[int(self.rng.integers(len(INTERESTING)))])

    def flipped(self) -> Request:
        name, data = self._file()
        near = len(data) if self.rng.random() < 0.3 else min(len(data), 600)
        for _ in range(int(self.rng.integers(1, 9))):
            data[int(self.rng.integers(near))] = int(self.rng.integers(256))
        return Request(f"flipped bytes in {name}", self._path(field=("refuse", "grid")[int(self.rng.integers(2))]), bytes(data))

    def truncated(self) -> Request:
        name, data = self._file()
        return Request(f"truncated {name}", self._path(), bytes(data[: int(self.rng.integers(1, len(data)))]))

    def altered_tiff(self) -> Request:
        """One or two numbers of the first directory replaced: sides, offsets, counts, tags, types."""
        data = bytearray(self.files[("ome", "tiff", "deflate", "lzw")[int(self.rng.integers(4))]])
        start = struct.unpack_from("<I", data, 4)[0]
        entries = struct.unpack_from("<H", data, start)[0]
        for _ in range(int(self.rng.integers(1, 3))):
            entry = start + 2 + 12 * int(self.rng.integers(entries))
            place, code = ((0, "<H"), (2, "<H"), (4, "<I"), (8, "<I"))[int(self.rng.integers(4))]
            struct.pack_into(code, data, entry + place, self._number() & (0xFFFF if code == "<H" else 0xFFFFFFFF))
        return Request("altered TIFF directory", self._path(), bytes(data))

    def nested_tiff(self) -> Request:
        """A directory outside the chain with a number replaced, or many pages that share what they name."""
        if self.rng.random() < 0.3:
            shared = sharing(int(self.rng.integers(1, 200)), int(self.rng.choice([2, 500, 20_000])), tag=int(self.rng.choice([273, 330, 65_000])))
            return Request("TIFF pages that share", self._path(), shared)
        if self.rng.random() < 0.1:
            return Request("planes of Micro-Manager", self._path(), indexed([0, int(self.rng.choice([1, 50_000_000, 2**32 - 1]))]))
        payload = zlib.compress(bytes(960))
        entries = page(24, 20, START, len(payload), int(self.rng.choice([8, 8, 8, 5, 7, 34_925, 50_001])))
        for _ in range(int(self.rng.integers(0, 3))):
            tag = int(self.rng.choice([254, 256, 257, 258, 273, 277, 278, 279, 322, 323, 324, 325, 330, 32_997]))
            kind, value = int(self.rng.choice([LONG, LONG, LONG, 9, 12])), int(self.rng.choice([16_384, self._number()]))
            entries = with_entries(entries, (tag, kind, int(self.rng.choice([1, 1, 1, 2, 100])), value))
        data = nested(entries, payload, reduced=bool(self.rng.random() < 0.7))
        return Request("TIFF page outside the chain", self._path(), data if self.rng.random() < 0.7 else one_page(entries, payload))

    def altered_png(self) -> Request:
        """Other sides, depth or colour type under a right checksum; or another chunk length."""
        data = bytearray(self.files[("png", "deep png")[int(self.rng.integers(2))]])
        place, code = ((16, ">I"), (20, ">I"), (24, ">B"), (25, ">B"), (28, ">B"), (33, ">I"))[int(self.rng.integers(6))]
        struct.pack_into(code, data, place, self._number() & (0xFF if code == ">B" else 0xFFFFFFFF))
        struct.pack_into(">I", data, 29, zlib.crc32(data[12:29]))
        return Request("altered PNG header", self._path(), bytes(data))

    def altered_npy(self) -> Request:
        shapes = ["(3, 24, 20)", "(999999, 999999, 999999)", "(-3, 24, 20)", "(3, 24, 20,)", "()", "(1" + "0" * 60 + ",)", "(3.0, 24, 20)", "(" * 200]
        types = ["'<u2'", "'|O'", "'<f8'", "'<U5'", "[('a', '<u2')]", "__import__('os')", "'<u2' * 9", "None"]
        kind, shape = types[int(self.rng.integers(len(types)))], shapes[int(self.rng.integers(len(shapes)))]
        order = ("False", "True", "1 / 0")[int(self.rng.integers(3))]
        text = f"{{'descr': {kind}, 'fortran_order': {order}, 'shape': {shape}}}"
        header = text.encode() + b"\n"
        version = bytes([int(self.rng.choice([1, 2, 3, 9])), 0])
        length = struct.pack("<H" if version[0] == 1 else "<I", len(header) if self.rng.random() < 0.8 else self._number() & 0xFFFF)
        return Request("altered npy header", self._path(), b"\x93NUMPY" + version + length + header + self.image.tobytes())

    def altered_xml(self) -> Request:
        """Another number of planes, axes or places in OME-XML."""
        with tifffile.TiffFile(io.BytesIO(self.files["ome"])) as file:
            xml = file.ome_metadata or ""
        names = ("SizeX", "SizeY", "SizeC", "SizeZ", "SizeT", "IFD", "PlaneCount", "FirstC", "NumPlanes", "SamplesPerPixel", "DimensionOrder")
        for _ in range(int(self.rng.integers(1, 3))):
            name = names[int(self.rng.integers(len(names)))]
            value = "XYCCCCCCCC" if name == "DimensionOrder" else str(self.rng.choice([-1, 0, 2, 10**8, 10**18, self._number()]))
            pattern = f'(<[^>]*) {name}="[^"]*"' if f'{name}="' in xml else "(<TiffData)"
            xml = re.sub(pattern, rf'\1 {name}="{value}"', xml)
        return Request("altered OME-XML", self._path(), tiff(self.image, photometric="minisblack", description=xml.encode(), metadata=None))

    def odd_scale(self) -> Request:
        """A pixel size or centres that no image has, to be resampled."""
        size = float(self.rng.choice(["inf", "nan", "-1", "1e308", "5e-324", "0.3", "2"]))
        framings = ({}, {"field": "grid"}, {"field": "centres", "centres": "1e308,10"}, {"field": "centres", "centres": "12,-1e308"})
        framing = framings[int(self.rng.integers(len(framings)))]
        return Request("odd scale", self._path(resample="true", **framing), ome(self.image, size_um=size))

    def bomb(self) -> Request:
        """Few bytes that announce or unpack to many."""
        which = int(self.rng.integers(8))
        if which == 7:
            text = ("<a/>", "<a>", "x", "&amp;")[int(self.rng.integers(4))] * int(self.rng.choice([1000, 19_000, 400_000]))
            return Request("long OME-XML", self._path(), _described(text))
        if which == 6:
            return Request("bomb of JPEG scans", self._path(), _jpeg_of_scans(2000, int(self.rng.choice([15, 90, 500, 50_000]))))
        if which == 5:
            body = ome(np.zeros((3, 1000, 1000), np.uint16), size_um=4 * 0.65)
            return Request("bomb by resampling", self._path(field="grid", resample="true"), body)
        if which == 0:
            stream = io.BytesIO()
            tifffile.imwrite(stream, np.zeros((3, 3000, 3000), np.uint16), compression="zlib", photometric="minisblack")
            return Request("bomb of TIFF", self._path(field="grid"), stream.getvalue())
        if which == 1:
            return Request("bomb of PNG", self._path(), _png_of_zeros(20_000, 20_000))
        if which == 2:
            return Request("bomb of gzip", "/v2/models/tiny/infer", gzip.compress(bytes(80_000_000), 9), {"Content-Encoding": "gzip"})
        if which == 3:
            return Request("nested JSON", "/v2/models/tiny/infer", b"[" * 100_000)
        return Request("many centres", self._path(field="centres", centres=";".join(["12,10"] * 500)), self.files["npy"])

    def noise(self) -> Request:
        starts = (b"", b"II*\x00", b"MM\x00*", b"II+\x00", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"\x93NUMPY\x01\x00", b"PK\x03\x04", b"\x80\x04")
        start = starts[int(self.rng.integers(len(starts)))]
        return Request("noise", self._path(), start + self.rng.bytes(int(self.rng.integers(1, 3000))))

    def form(self) -> Request:
        boundary = "x" * int(self.rng.choice([1, 20, 70, 3000]))
        part = b'--%s\r\nContent-Disposition: form-data; name="image"; filename="a.npy"\r\n\r\n' % boundary.encode() + self.files["npy"] + b"\r\n"
        bodies = (
            part,
            part * 5 + b"--" + boundary.encode(),
            part * 200 + b"--%s--\r\n" % boundary.encode(),
            part.replace(b"\r\n", b"\n"),
            b"--%s\r\n" % boundary.encode() + b"X: " + b"y" * 200_000 + b"\r\n\r\n",
            part.replace(b"filename", b"filename*=utf-8''%ff%fe; filename", 1) + b"--%s--\r\n" % boundary.encode(),
            b"--%s--\r\n" % boundary.encode(),
            self.rng.bytes(500),
        )
        kinds = (f"multipart/form-data; boundary={boundary}", "multipart/form-data", 'multipart/form-data; boundary="', "multipart/mixed; boundary=x")
        kind = kinds[int(self.rng.choice(4, p=[0.85, 0.05, 0.05, 0.05]))]
        return Request("form", self._path(), bodies[int(self.rng.integers(len(bodies)))], {"Content-Type": kind})

    def tensor(self) -> Request:
        said: dict[str, Any] = {
            "inputs": [
                {"name": "pixels", "datatype": "UINT16", "shape": [1, *self.image.shape], "parameters": {"binary_data_size": self.image.nbytes}}
            ]
        }
        first = said["inputs"][0]
        wrong: list[tuple[str, Any]] = [
            ("shape", [self._number(), *self.image.shape]),
            ("shape", [1, 3, 24, -20]),
            ("shape", "1,3,24,20"),
            ("shape", []),
            ("shape", [None] * 4),
            ("datatype", "BYTES"),
            ("datatype", {"a": 1}),
            ("name", "x" * 10_000),
            ("parameters", {"binary_data_size": self._number()}),
            ("parameters", {"binary_data_size": "x"}),
            ("parameters", []),
            ("data", [[[1e400]]]),
            ("data", [[]] * 1000),
            ("data", "text"),
        ]
        name, value = wrong[int(self.rng.integers(len(wrong)))]
        first[name] = value
        if self.rng.random() < 0.2:
            said["outputs"] = [{"name": "embedding"}, 3, {"name": None}, {"name": "phase", "parameters": 7}][: int(self.rng.integers(1, 5))]
        if self.rng.random() < 0.1:
            said["inputs"] = {"pixels": first}
        head = json.dumps(said).encode()
        length = str(len(head) if self.rng.random() < 0.8 else self._number())
        return Request("tensor", "/v2/models/tiny/infer", head + self.image.tobytes(), {"Inference-Header-Content-Length": length})

    def query(self) -> Request:
        values = (
            "",
            "tiny",
            "%00",
            "..%2f..%2fetc%2fpasswd",
            "x" * 5000,
            "%f0%28%8c%28",
            "tiny&model=nobody",
            "true",
            "-1",
            "nan,nan",
            "1e999,1",
            "1,2;3",
        )
        names = ("model", "field", "centres", "resample", "nothing", "")
        query = "&".join(f"{names[int(self.rng.integers(6))]}={values[int(self.rng.integers(12))]}" for _ in range(int(self.rng.integers(1, 5))))
        paths = (
            *PATHS,
            "/v1/example",
            "/v1/models/tiny",
            "/v1/models/%2e%2e",
            "/v2/models/x%00/infer",
            "/../../etc/passwd",
            "/%ff",
            "//",
            "/metrics",
        )
        methods = ("POST", "GET", "PUT", "DELETE", "HEAD", "OPTIONS", "TRACE", "PATCH")
        path = paths[int(self.rng.integers(len(paths)))]
        return Request("query", f"{path}?{query}", self.files["npy"], method=methods[int(self.rng.choice(8, p=[0.5, 0.2] + [0.05] * 6))])

    def rude(self) -> Request:
        body = self.files["npy"]
        if self.rng.random() < 0.3:
            return Request("hangs up", self._path(), body, cut=int(self.rng.integers(len(body))))
        raws = (
            b"\x16\x03\x01\x02\x00\x01\x00",
            b"GET / HTTP/9.9\r\n\r\n",
            b"POST /v1/embed?model=tiny HTTP/1.1\r\nHost: localhost\r\nContent-Length: -5\r\n\r\n",
            b"POST /v1/embed?model=tiny HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabcde\r\n",
            b"POST /v1/embed?model=tiny HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nabcde\r\n0\r\n\r\n",
            b"POST /v1/embed?model=tiny HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\nabc",
            b"GET /healthz HTTP/1.1\r\n" + b"X: y\r\n" * 3000 + b"\r\n",
            b"GET /healthz HTTP/1.1\r\nX-Request-ID: " + b"a\x00b" + b"\r\n\r\n",
            b"GET /healthz HTTP/1.1\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nabcdef",
            b"\r\n" * 5000,
            self.rng.bytes(300),
        )
        return Request("not quite HTTP", raw=raws[int(self.rng.integers(len(raws)))])

    def endless(self) -> Request:
        """Headers that go on, or that stop before their end on a connection that stays open."""
        # few stop: each holds a client of the soak for as long as the service waits
        if self.rng.random() < 0.1:
            starts = (b"", b"\r\n", b"POST /v1/emb", b"GET /healthz HTTP/1.1\r\nX-A: b\r\n", b"GET /healthz HTTP/1.1\r\nX-A: ")
            return Request("headers that stop", raw=starts[int(self.rng.integers(5))], stays=True)
        start, more = (
            (b"GET /healthz HTTP/1.1\r\nX-A: ", b"a"),
            (b"GET /healthz HTTP/1.1\r\n", b"X-A: b\r\n"),
            (b"GET /", b"a"),
            (b"", b"\r\n"),
            (b"POST /v1/embed?model=tiny HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\nX-A: ", b"a"),
        )[int(self.rng.integers(5))]
        return Request("headers that go on", raw=start + more * (int(self.rng.choice([70_000, 2_000_000])) // len(more)), stays=True)

    def slow(self) -> Request:
        # one of many: each holds a client of the soak for as long as it takes
        if self.rng.random() < 0.9:
            headers = {"Content-Encoding": ("gzip", "br", "deflate", "gzip, gzip")[int(self.rng.integers(4))]}
            return Request("compressed", self._path(), gzip.compress(self.files["npy"]), headers)
        return Request("slow", self._path(), self.files["npy"], pace_s=float(self.rng.choice([0.02, 0.2])))


def large(size: int) -> list[Request]:
    """What takes long to take apart, in bodies of about `size` bytes."""
    kind = {"Content-Type": "multipart/form-data; boundary=x"}
    part, close = b"--x\r\nA:b\r\n\r\n\r\n", b"--x--\r\n"
    near = b"--x\r\nA:b\r\n\r\n" + b"\r\n--xa" * (size // 6) + b"\r\n" + close
    file = b'--x\r\nContent-Disposition: form-data; name="image"; filename="a.npy"\r\n\r\n' + bytes(size // 64) + b"\r\n"
    infer = "/v2/models/tiny/infer"

    def numbers(text: bytes) -> bytes:
        start = b'{"inputs": [{"name": "pixels", "datatype": "UINT16", "shape": [64, 3, 24, 20], "data": ['
        return start + (text + b",") * (size // (len(text) + 1)) + text + b"]}]}"

    return [
        Request("form of empty parts", "/v1/embed?model=tiny", part * (size // len(part)) + close, kind),
        Request("form of empty parts without end", "/v1/score?model=tiny", part * (size // len(part)), kind),
        Request("form of almost boundaries", "/v1/embed?model=tiny", near, kind),
        Request("form of large files", "/v1/score?model=tiny", file * 64 + close, kind),
        Request("numbers", infer, numbers(b"0")),
        Request("long numbers", infer, numbers(b"0." + b"1" * 300)),
        Request("nested numbers", infer, numbers(b"[[[0]]]")),
        Request("packed numbers", infer, gzip.compress(numbers(b"0"), 1), {"Content-Encoding": "gzip"}),
        Request("long OME-XML", "/v1/embed?model=tiny", _described("<a/>" * (size // 4))),
        Request("nested OME-XML", "/v1/embed?model=tiny", _described("<a>" * (size // 7) + "</a>" * (size // 7))),
        Request("OME-XML as long as may be", "/v1/embed?model=tiny", _described("<a/>" * 19_000 + " " * 1_500_000)),
        Request("JPEG of many scans", "/v1/channels?model=tiny", _jpeg_of_scans(7900, 80)),
        Request("JPEG of as many scans as may be", "/v1/channels?model=tiny", _jpeg_of_scans(7900, 9)),
        Request("headers", raw=b"GET /healthz HTTP/1.1\r\nX-A: " + b"a" * size, stays=True),
    ]


def _png_of_zeros(width: int, height: int) -> bytes:
    """Compressed row by row: the picture is never in memory here."""
    packer = zlib.compressobj(9)
    rows = [packer.compress(bytes(1 + width)) for _ in range(height)]
    data = b"".join(rows) + packer.flush()

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def _described(text: str) -> bytes:
    """A TIFF whose OME-XML holds `text` beside its image."""
    pixels = 'ID="Pixels:0" DimensionOrder="XYZCT" Type="uint16" SizeX="20" SizeY="24" SizeC="3" SizeZ="1" SizeT="1"'
    xml = f'<OME xmlns="http://www.openome.org/Schemas/OME/2016-06"><Image ID="Image:0"><Pixels {pixels}><TiffData/></Pixels></Image>{text}</OME>'
    return tiff(np.zeros((3, 24, 20), np.uint16), photometric="minisblack", description=xml, metadata=None)


def _jpeg_of_scans(side: int, scans: int) -> bytes:
    """Progressive: a scan that changes nothing has a few bytes, and costs a pass over the picture."""
    from PIL import Image as Pillow

    stream = io.BytesIO()
    Pillow.fromarray(np.zeros((side, side), np.uint8)).save(stream, "JPEG", progressive=True)
    data = stream.getvalue()
    return data[:-2] + data[data.rindex(b"\xff\xda") : -2] * scans + data[-2:]


def _deep_png(grey: np.ndarray[Any, Any]) -> bytes:
    import imagecodecs

    return bytes(imagecodecs.png_encode(grey))


def _jpeg(grey: np.ndarray[Any, Any]) -> bytes:
    from PIL import Image as Pillow

    stream = io.BytesIO()
    Pillow.fromarray(np.stack([grey] * 3, axis=-1).astype(np.uint8)).save(stream, "JPEG")
    return stream.getvalue()

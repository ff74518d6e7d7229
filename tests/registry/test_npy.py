"""Headers of npy files: as NumPy reads them, without the parser that several threads cannot share."""

from __future__ import annotations

import ast
import io
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from registry.images import decode_image
from registry.npy import NpyHeader, read_header

PLAIN = npst.scalar_dtypes() | st.just(np.dtype(object))


def written(header: dict[str, Any], version: tuple[int, int]) -> bytes:
    stream = io.BytesIO()
    writer = np.lib.format.write_array_header_1_0 if version == (1, 0) else np.lib.format.write_array_header_2_0
    writer(stream, header)
    return stream.getvalue()


@settings(max_examples=300, deadline=None)
@given(dtype=PLAIN, shape=st.lists(st.integers(0, 10**9), max_size=5).map(tuple), fortran=st.booleans(), version=st.sampled_from([(1, 0), (2, 0)]))
def test_as_numpy_reads_it(dtype: np.dtype[Any], shape: tuple[int, ...], fortran: bool, version: tuple[int, int]) -> None:
    data = written({"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": fortran, "shape": shape}, version)
    stream = io.BytesIO(data)
    np.lib.format.read_magic(stream)
    reader = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    if dtype.kind in "mM":  # their unit is no part of a plain number
        with pytest.raises(ValueError, match="of another form"):
            read_header(data)
        return
    expected = reader(stream)
    assert read_header(data + b"pixels") == NpyHeader(expected[0], expected[2], expected[1], stream.tell())


def header(text: str, version: int = 1) -> bytes:
    body = text.encode()
    return b"\x93NUMPY" + bytes([version, 0]) + len(body).to_bytes(2 if version == 1 else 4, "little") + body


@pytest.mark.parametrize(
    "text",
    [
        "{'descr': '<u2', 'fortran_order': False, 'shape': (5, 4, 3), }   \n",
        "{'shape': (5, 4, 3), 'descr': '<u2', 'fortran_order': False}",
        '{"descr":"<u2","fortran_order":False,"shape":(5,4,3)}',
    ],
)
@pytest.mark.parametrize("version", [1, 2, 3])
def test_other_writers(text: str, version: int) -> None:
    data = header(text, version)
    assert read_header(data) == NpyHeader((5, 4, 3), np.dtype("<u2"), False, len(data))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x93NUMPY",
        b"\x93NUMPY\x01\x00",
        b"\x93NUMPY\x09\x00\x02\x00{}",
        b"\x93NUMPY\x01\x01\x02\x00{}",
        header("{'descr': '<u2', 'fortran_order': False, 'shape': (5,)}")[:-1],
        header("{}"),
        header("{'descr': '<u2', 'fortran_order': False}"),
        header("{'descr': '<u2', 'descr': '<u2', 'fortran_order': False, 'shape': (5,)}"),
        header("{'descr': '<u2', 'fortran_order': False, 'shape': (5,), 'more': 1}"),
        header("{'descr': [('a', '<u2')], 'fortran_order': False, 'shape': (5,)}"),
        header("{'descr': '<q7', 'fortran_order': False, 'shape': (5,)}"),
        header("{'descr': False, 'fortran_order': '<u2', 'shape': (5,)}"),
        header("{'descr': '<u2', 'fortran_order': False, 'shape': (5, 4 4)}"),
        header("{'descr': '<u2', 'fortran_order': False, 'shape': (5,)} + {}"),
        header("(" * 3000),
        header("{" + " " * 20_000 + "}"),
    ],
)
def test_anything_else_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"not|truncated|entry|unknown|invalid"):
        read_header(data)


def test_an_image_is_decoded_without_pythons_own_parser(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise SystemError("AST constructor recursion depth mismatch (before=54, after=53)")

    stream = io.BytesIO()
    pixels = np.arange(60, dtype=np.uint16).reshape(3, 4, 5)
    np.save(stream, pixels)
    monkeypatch.setattr(ast, "parse", broken)
    np.testing.assert_array_equal(decode_image(stream.getvalue()).pixels, pixels)

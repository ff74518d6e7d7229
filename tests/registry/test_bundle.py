"""A bundle says what it holds, and one that was touched is not opened."""

from __future__ import annotations

import io
import json
import pickle
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from registry.bundle import Bundle, BundleCard, read_arrays, read_bundle, write_arrays, write_bundle
from registry.errors import BundleError
from registry.files import sha256_of_bytes, sha256_of_file
from tests.registry.scorecards import IMAGE, encoder_card, images, make_bundle, scorecard, tiny_onnx


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return make_bundle(tmp_path_factory.mktemp("bundle") / "simclr")


@pytest.fixture
def copy(made: Bundle, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made.folder, tmp_path / "simclr"))


def seal(folder: Path, **extra: str) -> None:
    """Write a manifest that is true of the folder: what an attacker who can write files would do."""
    files = {p.relative_to(folder).as_posix(): sha256_of_file(p) for p in sorted(folder.rglob("*")) if p.is_file() and p.name != "manifest.json"}
    (folder / "manifest.json").write_text(json.dumps({"format": 1, "files": {**files, **extra}}))


def test_everything_that_was_put_in_comes_out(made: Bundle) -> None:
    bundle = read_bundle(made.folder)
    assert bundle.name == "simclr"
    assert bundle.card == made.card
    assert bundle.scorecard == scorecard()
    assert bundle.onnx is not None
    assert bundle.card.weights_sha256 == sha256_of_file(bundle.onnx)
    assert bundle.heads["chirality/classes"].tolist() == ["left", "right"]
    golden = bundle.golden
    assert golden is not None
    assert golden.pixels.dtype == np.uint16
    np.testing.assert_array_equal(golden.pixels, images())
    assert bundle.reference is not None
    np.testing.assert_array_equal(bundle.reference.embedding, golden.embedding)
    assert list(golden.probabilities) == ["chirality"]
    companion = bundle.companions["untrained-cnn"]
    assert companion.card.member == "fresh-00"
    assert companion.onnx.is_file()
    assert set(companion.heads) == set(bundle.heads)
    assert sorted(p.name for p in made.folder.parent.iterdir()) == ["making-simclr-simclr", "simclr"]


def test_the_same_parts_give_the_same_bytes(made: Bundle, tmp_path: Path) -> None:
    assert make_bundle(tmp_path / "again").digest == made.digest


def test_golden_answers_are_those_of_the_onnx_file(made: Bundle) -> None:
    from registry.export import cpu_session

    golden = made.golden
    assert golden is not None
    came = cpu_session(made.verified_bytes("encoder.onnx")).run(None, {"pixels": golden.pixels.astype(np.float32)})[0]
    np.testing.assert_allclose(came, golden.embedding, rtol=1e-5)


def test_identity_is_of_card_weights_and_preprocessing_and_not_of_scores(made: Bundle) -> None:
    card = made.card
    assert replace(card, benchmark="tissue", parity={}, member="other").identity == card.identity
    for changed in (
        replace(card, weights_sha256="0" * 64),
        replace(card, fitted_to={"benchmark": "culture"}),
        replace(card, image=replace(IMAGE, pixel_size_um=0.5)),
        replace(card, card=replace(card.card, pooling="none")),
    ):
        assert changed.identity != card.identity


def test_a_bundle_that_cannot_be_served_says_why(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "layout", row="layout", role="negative", onnx=False, companion=False)
    assert bundle.onnx is None
    assert bundle.golden is None
    assert "plate layout" in bundle.card.unservable


def drop_file(folder: Path) -> None:
    (folder / "heads.npz").unlink()


def flip_a_bit(folder: Path) -> None:
    data = bytearray((folder / "encoder.onnx").read_bytes())
    data[len(data) // 2] ^= 1
    (folder / "encoder.onnx").write_bytes(bytes(data))


def change_a_score(folder: Path) -> None:
    text = (folder / "scorecard.json").read_text()
    (folder / "scorecard.json").write_text(text.replace("0.7", "0.9", 1))


def add_code(folder: Path) -> None:
    (folder / "handler.py").write_text("import os")
    seal(folder)


def add_unlisted(folder: Path) -> None:
    (folder / "companions" / "untrained-cnn" / "golden.npz").write_bytes(b"")


def add_pickle(folder: Path) -> None:
    (folder / "weights.pkl").write_bytes(pickle.dumps({"a": 1}))
    seal(folder)


def pickled_array(folder: Path) -> None:
    stream = io.BytesIO()
    np.lib.format.write_array(stream, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with zipfile.ZipFile(folder / "heads.npz", "w") as archive:
        archive.writestr("chirality/coef.npy", stream.getvalue())
    seal(folder)


def compressed_array(folder: Path) -> None:
    with zipfile.ZipFile(folder / "heads.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("chirality/coef.npy", npy_of(np.zeros(10**6)))
    seal(folder)


def array_larger_than_its_file(folder: Path) -> None:
    with zipfile.ZipFile(folder / "heads.npz", "w") as archive:
        archive.writestr("chirality/coef.npy", npy_of(np.zeros(10)).replace(b"(10,), }", b"(99,), }"))
    seal(folder)


def npy_of(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array(stream, array)
    return stream.getvalue()


def damaged_array(folder: Path) -> None:
    (folder / "heads.npz").write_bytes((folder / "heads.npz").read_bytes()[:100])
    seal(folder)


def link_file(folder: Path) -> None:
    target = folder.parent / "elsewhere.npz"
    shutil.move(folder / "heads.npz", target)
    (folder / "heads.npz").symlink_to(target)


def link_folder(folder: Path) -> None:
    shutil.move(folder / "companions", folder.parent / "elsewhere")
    (folder / "companions").symlink_to(folder.parent / "elsewhere")


def escape(folder: Path) -> None:
    (folder.parent / "secret").write_bytes(b"x")
    seal(folder, **{"../secret": sha256_of_bytes(b"x")})


def absolute(folder: Path) -> None:
    seal(folder, **{"/etc/passwd": "0" * 64})


def climb_in_companions(folder: Path) -> None:
    seal(folder, **{"companions/../../secret/card.json": "0" * 64})


def no_manifest(folder: Path) -> None:
    (folder / "manifest.json").unlink()


def not_json(folder: Path) -> None:
    (folder / "manifest.json").write_text("{")


def later_format(folder: Path) -> None:
    value = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**value, "format": 2}))


def other_identity(folder: Path) -> None:
    value = json.loads((folder / "card.json").read_text())
    (folder / "card.json").write_text(json.dumps({**value, "identity": "0" * 64}))
    seal(folder)


def other_weights(folder: Path) -> None:
    tiny_onnx(folder / "encoder.onnx", seed=5)
    seal(folder)


def other_companion_weights(folder: Path) -> None:
    tiny_onnx(folder / "companions" / "untrained-cnn" / "encoder.onnx", seed=5)
    seal(folder)


def other_row(folder: Path) -> None:
    value = json.loads((folder / "scorecard.json").read_text())
    (folder / "scorecard.json").write_text(json.dumps({**value, "row": "density"}))
    seal(folder)


def unknown_field(folder: Path) -> None:
    value = json.loads((folder / "card.json").read_text())
    (folder / "card.json").write_text(json.dumps({**value, "code": "os.system"}))
    seal(folder)


def nested(name: str) -> Callable[[Path], None]:
    def nest(folder: Path) -> None:
        (folder / name).write_text('{"row": ' + "[" * 100_000 + "]" * 100_000 + "}")
        if name != "manifest.json":
            seal(folder)

    nest.__name__ = f"nested_{name.partition('.')[0]}"
    return nest


def in_headers(local: int, central: int, value: int) -> Callable[[Path], None]:
    """Two bytes of every member's headers in the zip, where they begin."""

    def change(folder: Path) -> None:
        data = bytearray((folder / "golden.npz").read_bytes())
        for mark, place in ((b"PK\x03\x04", local), (b"PK\x01\x02", central)):
            at = data.find(mark)
            while at >= 0:
                data[at + place : at + place + 2] = value.to_bytes(2, "little")
                at = data.find(mark, at + 4)
        (folder / "golden.npz").write_bytes(bytes(data))
        seal(folder)

    return change


def arrays_of(file: str, **changed: np.ndarray | None) -> Callable[[Path], None]:
    """Other arrays in an npz file; None leaves one out."""

    def change(folder: Path) -> None:
        arrays = {**read_arrays(folder / file), **changed}
        write_arrays(folder / file, {name: array for name, array in arrays.items() if array is not None})
        seal(folder)

    return change


ODD = {
    "nested card": (nested("card.json"), "a card or scorecard cannot be read (RecursionError"),
    "nested scorecard": (nested("scorecard.json"), "a card or scorecard cannot be read (RecursionError"),
    "nested manifest": (nested("manifest.json"), "expected a manifest"),
    "encrypted": (in_headers(6, 8, 1), "expected an npz file of plain arrays, which it is not (RuntimeError)"),
    "packed in an unknown way": (in_headers(8, 10, 77), "expected entries as they are, got compressed or shared ones"),
    "golden without its answer": (arrays_of("golden.npz", embedding=None), "`golden.npz`: expected `embedding` of shape (4, 2)"),
    "golden of another size": (
        arrays_of("golden.npz", pixels=images()[:, :, :3]),
        "expected `pixels` of shape (n, 2, 6, 5) and uint16 or float32, got",
    ),
    "golden of nothing": (arrays_of("golden.npz", pixels=images()[:0]), "expected `pixels` of shape (n, 2, 6, 5)"),
    "golden of strings": (
        arrays_of("golden.npz", embedding=np.full((4, 2), "x")),
        "expected `embedding` of shape (4, 2) and float32 or float64, got",
    ),
    "golden of more": (arrays_of("golden.npz", other=np.zeros(3)), "and `<task>/probabilities`, got `other`"),
    "a reference of another width": (arrays_of("reference.npz", embedding=np.ones((4, 3), np.float32)), "expected `embedding` of shape (n, 2)"),
}


@pytest.mark.parametrize(("spoil", "words"), ODD.values(), ids=ODD)
def test_a_bundle_that_is_odd_inside_is_refused_in_words(copy: Path, spoil: Callable[[Path], None], words: str) -> None:
    spoil(copy)
    with pytest.raises(BundleError, match=words.replace("(", r"\(").replace(")", r"\)")) as caught:
        read_bundle(copy)
    assert str(caught.value).endswith(" again.")


def test_a_reference_of_odd_values_is_refused_in_words(copy: Path) -> None:
    arrays_of("reference.npz", **{f"limits/{name}": np.array(np.inf) for name in ("embedding", "rate", "units", "unit")})(copy)
    with pytest.raises(BundleError, match=r"`reference.npz` cannot be read \(OverflowError"):
        _ = read_bundle(copy).reference


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (drop_file, "`heads.npz` missing"),
        (flip_a_bit, "expected sha256"),
        (change_a_score, "expected sha256"),
        (add_code, "`handler.py` does not belong"),
        (add_unlisted, "not in the manifest"),
        (add_pickle, "`weights.pkl` does not belong"),
        (pickled_array, "would need pickle"),
        (compressed_array, "got compressed or shared ones"),
        (array_larger_than_its_file, "says that it holds 792 bytes, and does not"),
        (damaged_array, "npz file of plain arrays"),
        (link_file, "link or a special file"),
        (link_folder, "link or a special file"),
        (escape, "does not belong"),
        (absolute, "does not belong"),
        (climb_in_companions, "does not belong"),
        (no_manifest, "expected `manifest.json`"),
        (not_json, "expected a manifest"),
        (later_format, "format 1, got 2"),
        (other_identity, "its own facts give"),
        (other_weights, "`encoder.onnx` has"),
        (other_companion_weights, "belongs to another `encoder.onnx`"),
        (other_row, "Expected the scorecard of `simclr`"),
        (unknown_field, "cannot be read"),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_a_bundle_that_was_touched_is_refused(copy: Path, spoil: Callable[[Path], None], words: str) -> None:
    spoil(copy)
    with pytest.raises(BundleError, match=words.replace("(", r"\(")):
        read_bundle(copy)


def test_a_file_swapped_after_verification_is_noticed(copy: Path) -> None:
    bundle = read_bundle(copy)
    flip_a_bit(copy)
    with pytest.raises(BundleError, match="changed since"):
        bundle.verified_bytes("encoder.onnx")
    with pytest.raises(BundleError, match=r"has no `weights\.pkl`"):
        bundle.verified_bytes("weights.pkl")


def test_a_bundle_that_fails_leaves_the_old_one_and_nothing_else(made: Bundle, copy: Path) -> None:
    before = sorted(p.name for p in copy.parent.iterdir())
    with pytest.raises(BundleError, match="objects"):
        write_bundle(copy, made.card, made.scorecard, onnx=made.onnx, heads={"chirality/coef": np.array([{}], dtype=object)})
    assert sorted(p.name for p in copy.parent.iterdir()) == before
    assert read_bundle(copy).digest == made.digest


def test_a_bundle_replaces_an_old_one(made: Bundle, copy: Path) -> None:
    bundle = write_bundle(copy, made.card, made.scorecard, onnx=made.onnx)
    assert bundle.heads == {}
    assert "heads.npz" not in read_bundle(copy).files
    assert [p.name for p in copy.parent.iterdir()] == ["simclr"]


def test_parts_that_contradict_each_other_are_refused(made: Bundle, tmp_path: Path) -> None:
    card = BundleCard(encoder_card(), "culture", IMAGE, 2)
    with pytest.raises(BundleError, match="a reason in `unservable`"):
        write_bundle(tmp_path / "b", card, made.scorecard)
    with pytest.raises(BundleError, match="expects weights of no hash"):
        write_bundle(tmp_path / "b", card, made.scorecard, onnx=made.onnx)
    with pytest.raises(BundleError, match="on `tissue`"):
        write_bundle(tmp_path / "b", made.card, replace(made.scorecard, benchmark="tissue"), onnx=made.onnx)
    assert list(tmp_path.iterdir()) == []


def test_arrays_are_read_by_numpy_itself(tmp_path: Path) -> None:
    arrays = {"b/x": np.arange(6).reshape(2, 3), "a/names": np.array(["é", "ü"]), "scalar": np.array(2.5)}
    write_arrays(tmp_path / "arrays.npz", arrays)
    first = (tmp_path / "arrays.npz").read_bytes()
    with np.load(tmp_path / "arrays.npz", allow_pickle=False) as loaded:
        assert sorted(loaded.files) == sorted(arrays)
        for name, array in arrays.items():
            np.testing.assert_array_equal(loaded[name], array)
    write_arrays(tmp_path / "arrays.npz", dict(reversed(arrays.items())))
    assert (tmp_path / "arrays.npz").read_bytes() == first

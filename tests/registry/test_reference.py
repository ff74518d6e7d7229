"""Reference images come out as they were put in, and what contradicts itself is refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from registry.appearance import VERSION
from registry.errors import BundleError
from registry.reference import NO_LIMITS, NO_THUMBNAILS, OTHER_APPEARANCE, Limits, ReferenceSet, Thumbnails

Arrays = dict[str, np.ndarray]


def made(**changed: Any) -> ReferenceSet:
    facts: dict[str, Any] = {
        "embedding": np.arange(12, dtype=np.float32).reshape(4, 3),
        "image_id": np.array(["a", "bb", "ccc", "é"]),
        "unit": np.array([0, 0, 1, 1]),
        "labels": {"phase": np.array(["G1", "", "S", "S"])},
        "appearance": np.ones((4, 2), np.float32),
        "limits": Limits(1.5, 2.5, 0.05, 12, "plate"),
        "why_no_limits": "",
        "thumbnails": Thumbnails(tuple(b"\xff\xd8\xff" + bytes([n]) * n for n in range(4))),
        "terms": "Pictures of `cells`, CC0-1.0.",
    }
    return ReferenceSet(**facts | changed)


def test_what_was_put_in_comes_out() -> None:
    before = made()
    after = ReferenceSet.from_arrays(before.as_arrays())
    assert (after.limits, after.thumbnails, after.terms, after.why_no_limits) == (before.limits, before.thumbnails, before.terms, "")
    for name in ("embedding", "image_id", "unit", "appearance"):
        np.testing.assert_array_equal(getattr(after, name), getattr(before, name))
    assert after.labels["phase"].tolist() == ["G1", "", "S", "S"]


def test_what_is_not_there_stays_away() -> None:
    bare = ReferenceSet.from_arrays(made(appearance=None, limits=None, why_no_limits="there are 3 units", thumbnails=None, labels={}).as_arrays())
    assert (bare.appearance, bare.limits, bare.thumbnails, dict(bare.labels)) == (None, None, None, {})
    assert bare.why_no_limits == "there are 3 units"


def test_no_array_needs_pickle() -> None:
    assert not any(values.dtype.hasobject for values in made().as_arrays().values())


def test_an_old_bundle_has_embeddings_alone() -> None:
    old = ReferenceSet.from_arrays({"embedding": np.ones((3, 2), np.float32)})
    assert (old.image_id, old.unit, old.limits, old.thumbnails) == (None, None, None, None)
    assert (old.why_no_limits, old.terms) == (NO_LIMITS, NO_THUMBNAILS)


def test_appearances_of_another_release_are_not_compared_with() -> None:
    other = ReferenceSet.from_arrays({**made().as_arrays(), "appearance_version": np.array(VERSION + 1)})
    assert (other.appearance, other.limits, other.why_no_limits) == (None, None, OTHER_APPEARANCE)
    assert other.image_id is not None


def without(*names: str) -> Callable[[Arrays], Arrays]:
    return lambda arrays: {name: values for name, values in arrays.items() if name not in names}


def with_(**changed: np.ndarray) -> Callable[[Arrays], Arrays]:
    return lambda arrays: arrays | {name.replace("__", "/"): values for name, values in changed.items()}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (without("embedding"), "cannot be read"),
        (without("limits/rate"), "cannot be read"),
        (without("thumbnails/ends"), "cannot be read"),
        (with_(embedding=np.full((4, 3), np.nan, np.float32)), "`embedding` holds values that are not finite"),
        (with_(appearance=np.full((4, 2), np.inf, np.float32)), "`appearance` holds values that are not finite"),
        (with_(image_id=np.array(["a"])), "expected `image_id` of 1 axes for 4 images, got shape"),
        (with_(unit=np.zeros((4, 1), np.int64)), "expected `unit` of 1 axes"),
        (with_(labels__phase=np.array(["a"])), "expected `labels/phase`"),
        (with_(limits__embedding=np.array(np.nan)), "finite limits"),
        (with_(limits__rate=np.array(1.0)), "a rate below 1"),
        (without("limits/appearance"), "exactly where reference images have one"),
        (with_(thumbnails__ends=np.array([4, 3, 20, 22])), "rising ends"),
        (with_(thumbnails__ends=np.array([3, 7, 12, 99])), "rising ends"),
        (with_(thumbnails__ends=np.array([3, 7, 18])), "one thumbnail for each of 4"),
        (with_(thumbnails__bytes=np.zeros(18, np.uint8)), "JPEG"),
    ],
)
def test_what_contradicts_itself_is_refused(change: Callable[[Arrays], Arrays], words: str) -> None:
    with pytest.raises(BundleError, match=words):
        ReferenceSet.from_arrays(change(made().as_arrays()))


def test_a_limit_that_is_no_number_is_refused() -> None:
    with pytest.raises(BundleError, match="not negative"):
        replace(made().limits, embedding=-1.0)

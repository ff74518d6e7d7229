"""Where an image lies among the reference images, whether it is unlike them all, and which are nearest."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Callable
from dataclasses import replace

import httpx
import numpy as np
import pytest
from scipy.spatial.distance import cdist

from pipelines.reporting.contact import jpeg
from registry.appearance import appearance
from registry.bundle import read_bundle
from registry.errors import BundleError, ImageError
from registry.images import ImageSpec
from registry.reference import NO_LIMITS, NO_THUMBNAILS, Limits, ReferenceSet, Thumbnails
from serving.client import AsyncScoringClient, ScoringClient
from serving.endpoint.server import running
from serving.reference import NEIGHBOURS, Reference
from serving.schema import Reading
from serving.scoring import Scorer
from tests.serving.bundles import CELLS, Exported, TinyBundle, embed, npy, tiny_images

LIMITS = Limits(embedding=1.0, appearance=2.0, rate=0.05, units=12, unit="plate")
GREY = ImageSpec(("grey",), "uint8", 4, 4, ((0.0, 255.0),))
BLACK = np.zeros(GREY.shape, np.float32)


@pytest.fixture(scope="module")
def scorer(tiny: TinyBundle) -> Scorer:
    return Scorer.open(tiny.folder)


@pytest.fixture
def full(exported: dict[str, Exported]) -> ReferenceSet:
    """References of which everything is said, as `tests.serving.bundles` makes its training images."""
    train = tiny_images(90, 10)
    return ReferenceSet(
        embedding=embed(exported["encoder"].network, train),
        image_id=np.array([f"image-{i}" for i in range(90)]),
        unit=np.arange(90) // 9,
        labels={"phase": np.array(["G1", "", "S"] * 30), "treated": np.array(["yes"] * 90)},
        appearance=np.stack([appearance(image.astype(np.float32), CELLS) for image in train]).astype(np.float32),
        limits=LIMITS,
        why_no_limits="",
        thumbnails=Thumbnails(tuple(jpeg(np.full((8, 8, 3), i, np.uint8)) for i in range(90))),
        terms="Pictures of `cells`, CC0-1.0.",
    )


def reference(values: np.ndarray) -> Reference:
    made = Reference.of(ReferenceSet(values.astype(np.float32)), GREY)
    assert made is not None
    return made


def test_pictures_can_be_left_out_of_readings(altered: Callable[..., TinyBundle], full: ReferenceSet) -> None:
    bundle = altered(reference=full)
    body = npy(bundle.images[0])
    with running([Scorer.open(bundle.folder)]) as url, ScoringClient(url) as client:
        whole = client.score("tiny", body)
        plain = client.score("tiny", body, pictures=False)
        (many,) = client.score_many("tiny", [("a.npy", body)], pictures=False, progress=False)
        refused = httpx.post(f"{url}/v1/score?model=tiny&pictures=no", content=body)
        parameters = httpx.get(f"{url}/openapi.json").json()["paths"]["/v1/score"]["post"]["parameters"]

    async def asked() -> Reading:
        with running([Scorer.open(bundle.folder)]) as url:
            async with AsyncScoringClient(url) as client:
                return await client.score("tiny", body, pictures=False)

    assert [near.thumbnail is None for near in whole.nearest] == [False] * NEIGHBOURS
    for reading in (plain, many.answer, asyncio.run(asked())):
        assert isinstance(reading, Reading)
        assert [near.thumbnail for near in reading.nearest] == [None] * NEIGHBOURS
        assert reading.thumbnails == "The request asked for no pictures."
        assert [(near.image_id, near.labels) for near in reading.nearest] == [(near.image_id, near.labels) for near in whole.nearest]
        assert reading.distance == whole.distance
    assert (refused.status_code, "Expected `pictures` to be `true` or `false`, got `no`" in refused.json()["error"]) == (400, True)
    assert "pictures" in [parameter["name"] for parameter in parameters]


class TestDistance:
    def test_is_that_of_a_plain_computation(self, tiny: TinyBundle, scorer: Scorer) -> None:
        assert scorer.bundle.reference is not None
        known = np.asarray(scorer.bundle.reference.embedding, np.float64)
        scale = known.std(axis=0)
        points = (known[:, scale > 0] - known[:, scale > 0].mean(axis=0)) / scale[scale > 0]
        own = np.sort(cdist(points, points) + np.diag(np.full(len(points), np.inf)), axis=1)[:, 0]
        for n in range(8):
            new = (tiny.embedding[n][scale > 0] - known[:, scale > 0].mean(axis=0)) / scale[scale > 0]
            nearest = cdist(new[None], points).min()
            found = scorer.read(npy(tiny.images[n])).distance
            assert found is not None
            assert found.nearest == pytest.approx(nearest / np.sqrt((scale > 0).sum()), rel=1e-4)
            assert found.percentile == pytest.approx(100 * (own < nearest).mean(), abs=0.6)

    def test_dimensions_that_do_not_vary_take_no_part(self) -> None:
        generator = np.random.default_rng(0)
        values = generator.normal(size=(40, 3))
        padded = np.hstack([values, np.full((40, 2), 7.0)])
        point = generator.normal(size=3)
        wide, plain = reference(padded).place([*point, 7.0, 7.1], BLACK), reference(values).place(point, BLACK)
        assert wide.distance.nearest == pytest.approx(plain.distance.nearest)

    def test_too_few_or_constant_references_say_nothing(self) -> None:
        assert Reference.of(ReferenceSet(np.ones((2, 3), np.float32)), GREY) is None
        assert Reference.of(ReferenceSet(np.ones((20, 3), np.float32)), GREY) is None

    @pytest.mark.parametrize("bad", [np.nan, np.inf])
    def test_of_nothing_finite_is_refused_and_not_called_known(self, bad: float) -> None:
        known = reference(np.random.default_rng(0).normal(size=(40, 3)))
        with pytest.raises(ImageError, match="finite numbers"):
            known.place([0.0, bad, 0.0], BLACK)


class TestOldBundle:
    """A bundle that holds embeddings alone is served as it was."""

    def test_is_not_calibrated_and_says_so(self, scorer: Scorer, tiny: TinyBundle) -> None:
        reading = scorer.read(npy(tiny.train[5]))
        assert reading.distance is not None
        assert (reading.distance.unlike, reading.distance.threshold, reading.distance.appearance) == (None, None, None)
        assert reading.distance.sentence.endswith(f"not calibrated: {NO_LIMITS}.")
        assert (reading.nearest, reading.thumbnails) == ([], NO_THUMBNAILS)

    def test_tells_a_training_image_from_a_saturated_one(self, scorer: Scorer, tiny: TinyBundle) -> None:
        known = scorer.read(npy(tiny.train[5])).distance
        strange = scorer.read(npy(np.full(CELLS.shape, 65_535, np.uint16))).distance
        assert known is not None
        assert strange is not None
        assert known.percentile < 1
        assert strange.percentile == 100
        assert "an extrapolation" in strange.sentence
        assert "among the known data" in known.sentence

    def test_without_references_nothing_is_said(self, altered: Callable[..., TinyBundle]) -> None:
        bundle = altered(reference=None)
        reading = Scorer.open(bundle.folder).read(npy(bundle.images[0]))
        assert (reading.distance, reading.nearest, reading.thumbnails) == (None, [], "")

    def test_an_answer_of_an_older_service_is_read(self, scorer: Scorer, tiny: TinyBundle) -> None:
        answer = scorer.read(npy(tiny.images[0])).model_dump()
        for name in ("nearest", "thumbnails"):
            del answer[name]
        for name in ("threshold", "appearance", "appearance_threshold", "unlike"):
            del answer["distance"][name]
        read = Reading.model_validate(answer)
        assert read.distance is not None
        assert read.distance.unlike is None


class TestUnlike:
    @pytest.fixture
    def calibrated(self, altered: Callable[..., TinyBundle], full: ReferenceSet) -> Scorer:
        return Scorer.open(altered(reference=full).folder)

    def test_what_was_known_is_like_it(self, calibrated: Scorer, tiny: TinyBundle) -> None:
        found = calibrated.read(npy(tiny.train[5])).distance
        assert found is not None
        assert (found.unlike, found.threshold, found.appearance_threshold) == (False, 1.0, 2.0)
        assert found.nearest == pytest.approx(0, abs=1e-5)
        assert found.appearance == pytest.approx(0, abs=1e-5)
        assert found.sentence == "Like images scored before: it lies 0.00 from the nearest of 90 training images (limit 1.00)."

    def test_a_saturated_image_is_unlike_and_the_sentence_says_why(self, calibrated: Scorer) -> None:
        found = calibrated.read(npy(np.full(CELLS.shape, 65_535, np.uint16))).distance
        assert found is not None
        assert found.unlike is True
        assert found.sentence.startswith("Unlike anything scored before: to the encoder it lies ")
        assert "and it looks like none of them, least of all in the " in found.sentence
        assert found.sentence.endswith("The probabilities are an extrapolation; 5 % of images of a new plate like the known ones are called so too.")

    @pytest.mark.parametrize(("limits", "words"), [((1e-6, 1e6), "to the encoder"), ((1e6, 1e-6), "it looks like none of them")])
    def test_either_limit_is_enough(self, altered: Callable[..., TinyBundle], full: ReferenceSet, limits: tuple[float, float], words: str) -> None:
        narrow = replace(full, limits=replace(LIMITS, embedding=limits[0], appearance=limits[1]))
        bundle = altered(reference=narrow)
        found = Scorer.open(bundle.folder).read(npy(bundle.images[0])).distance
        assert found is not None
        assert found.unlike is True
        assert found.sentence.startswith(f"Unlike anything scored before: {words}")
        assert " and it" not in found.sentence

    def test_swapped_channels_that_an_encoder_overlooks_are_seen_in_the_appearance(self, full: ReferenceSet) -> None:
        """The embedding is that of a training image: only the pixels differ."""
        image = tiny_images(90, 10)[5].astype(np.float32)
        placed = Reference.of(replace(full, limits=replace(LIMITS, appearance=0.05)), CELLS)
        assert placed is not None
        assert placed.place(full.embedding[5], image).distance.unlike is False
        swapped = placed.place(full.embedding[5], image[[1, 0, 2]]).distance
        assert swapped.unlike is True
        assert swapped.nearest == 0

    def test_without_appearances_the_embedding_decides(self, altered: Callable[..., TinyBundle], full: ReferenceSet) -> None:
        blind = replace(full, appearance=None, limits=replace(LIMITS, appearance=None))
        bundle = altered(reference=blind)
        found = Scorer.open(bundle.folder).read(npy(bundle.train[5])).distance
        assert found is not None
        assert (found.unlike, found.appearance, found.appearance_threshold) == (False, None, None)

    def test_appearances_of_other_images_are_refused(self, full: ReferenceSet) -> None:
        with pytest.raises(BundleError, match="Expected 10 numbers for the appearance of 1 channels, the bundle has 33"):
            Reference.of(full, GREY)

    def test_the_same_bytes_give_the_same_reading(self, calibrated: Scorer, tiny: TinyBundle) -> None:
        body = npy(tiny.images[1])
        assert calibrated.read(body) == calibrated.read(body) == calibrated.read_all([npy(tiny.images[0]), body])[1]


class TestNearest:
    def test_are_those_of_a_plain_computation_with_what_is_known_of_them(
        self, altered: Callable[..., TinyBundle], full: ReferenceSet, tiny: TinyBundle
    ) -> None:
        scorer = Scorer.open(altered(reference=full).folder)
        for n in range(8):
            reading = scorer.read(npy(tiny.images[n]))
            scale = full.embedding.std(axis=0)
            away = np.linalg.norm((full.embedding - tiny.embedding[n]) / np.where(scale > 0, scale, np.inf), axis=1)
            expected = np.argsort(away)[:NEIGHBOURS]
            assert [near.image_id for near in reading.nearest] == [f"image-{i}" for i in expected]
            assert reading.distance is not None
            assert reading.nearest[0].distance == reading.distance.nearest
            assert [near.distance for near in reading.nearest] == sorted(near.distance for near in reading.nearest)
            for near, i in zip(reading.nearest, expected, strict=True):
                phase = full.labels["phase"][i]
                assert near.labels == ({"phase": phase} if phase else {}) | {"treated": "yes"}
            assert reading.thumbnails == "Pictures of `cells`, CC0-1.0."

    def test_come_with_their_own_pictures(self, altered: Callable[..., TinyBundle], full: ReferenceSet, tiny: TinyBundle) -> None:
        scorer = Scorer.open(altered(reference=full).folder)
        assert full.thumbnails is not None
        for near in scorer.read(npy(tiny.images[2])).nearest:
            assert near.thumbnail is not None
            head, _, data = near.thumbnail.partition(",")
            assert head == "data:image/jpeg;base64"
            assert base64.b64decode(data) == full.thumbnails.files[int(near.image_id.removeprefix("image-"))]

    def test_come_without_pictures_that_may_not_travel(self, altered: Callable[..., TinyBundle], full: ReferenceSet) -> None:
        bare = replace(full, thumbnails=None, terms="There are no pictures: `CC-BY-ND-4.0` forbids it.")
        bundle = altered(reference=bare)
        reading = Scorer.open(bundle.folder).read(npy(bundle.images[0]))
        assert [near.thumbnail for near in reading.nearest] == [None] * NEIGHBOURS
        assert reading.thumbnails == "There are no pictures: `CC-BY-ND-4.0` forbids it."

    def test_of_copies_the_first_in_order_is_named(self) -> None:
        values = np.repeat(np.random.default_rng(0).normal(size=(4, 3)), 3, axis=0).astype(np.float32)
        known = Reference.of(ReferenceSet(values, image_id=np.array(list("abcdefghijkl"))), GREY)
        assert known is not None
        assert [near.image_id for near in known.place(values[4], BLACK).nearest[:3]] == ["d", "e", "f"]


def test_everything_said_of_references_survives_the_bundle(altered: Callable[..., TinyBundle], full: ReferenceSet) -> None:
    bundle = read_bundle(altered(reference=full).folder)
    came = bundle.reference
    assert came is not None
    assert came.limits == LIMITS
    assert came.thumbnails == full.thumbnails
    assert came.terms == full.terms
    for name in ("embedding", "image_id", "unit", "appearance"):
        np.testing.assert_array_equal(getattr(came, name), getattr(full, name))
    assert {task: labels.tolist() for task, labels in came.labels.items()} == {task: labels.tolist() for task, labels in full.labels.items()}
    # what is said of references makes another bundle and no other version
    plain = read_bundle(altered(reference=ReferenceSet(full.embedding)).folder)
    assert plain.identity == bundle.identity
    assert plain.files["reference.npz"] != bundle.files["reference.npz"]
    again = read_bundle(altered(reference=full).folder)
    assert again.digest == bundle.digest

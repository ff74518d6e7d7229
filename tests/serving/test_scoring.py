"""A reading is what the source framework and scikit-learn compute, and a bundle that computes something else is not served."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import onnxruntime
import pytest
import torch

from registry.bundle import NO_PERMISSION, CompanionParts, Golden, read_arrays, read_bundle, write_arrays, write_bundle
from registry.errors import BundleError, ImageError, ProviderError
from serving.embedders import OnnxEmbedder
from serving.framing import Frames
from serving.scoring import GOLDEN_SLACK, Asked, Scorer, embedding_tolerance
from tests.serving.bundles import CELLS, TASKS, Exported, TinyBundle, embed, npy, ome, png, seal, tiff, tiny_images


@pytest.fixture(scope="module")
def scorer(tiny: TinyBundle) -> Scorer:
    return Scorer.open(tiny.folder)


class TestEmbedding:
    @pytest.mark.parametrize("n", range(8))
    def test_is_torchs_within_the_stated_tolerance(self, scorer: Scorer, tiny: TinyBundle, n: int) -> None:
        came = scorer.embed(ome(tiny.images[n])).embedding
        np.testing.assert_allclose(came, tiny.embedding[n], rtol=0, atol=embedding_tolerance(tiny.embedding))

    def test_is_the_same_in_every_format(self, scorer: Scorer, tiny: TinyBundle) -> None:
        image = tiny.images[3]
        expected = scorer.embed(npy(image)).embedding
        files = [
            ome(image),
            ome(image[[2, 0, 1]], ("actin", "dna", "er")),
            tiff(image, photometric="minisblack"),
            tiff(image, photometric="minisblack", compression="zlib", tile=(16, 16)),
            tiff(image, imagej=True, metadata={"axes": "CYX"}),
        ]
        assert [scorer.embed(file).embedding for file in files] == [expected] * len(files)

    def test_of_rgb_is_the_same_in_every_format(self, tissue: TinyBundle) -> None:
        scorer, image = Scorer.open(tissue.folder), tissue.images[3]
        files = [npy(image), png(image), tiff(np.moveaxis(image, 0, -1), photometric="rgb"), ome(image, ("red", "green", "blue"))]
        embeddings = [scorer.embed(file).embedding for file in files]
        assert embeddings == [embeddings[0]] * 4
        np.testing.assert_allclose(embeddings[0], tissue.embedding[3], rtol=0, atol=embedding_tolerance(tissue.embedding))

    def test_swapped_channels_would_be_noticed(self, scorer: Scorer, tiny: TinyBundle) -> None:
        came = scorer.embed(npy(tiny.images[3][[1, 0, 2]])).embedding
        assert np.abs(np.subtract(came, tiny.embedding[3])).max() > 100 * embedding_tolerance(tiny.embedding)


class TestReading:
    @pytest.mark.parametrize("n", range(8))
    def test_every_voice_gives_scikit_learns_probabilities(self, scorer: Scorer, tiny: TinyBundle, n: int) -> None:
        reading = scorer.read(ome(tiny.images[n]))
        assert [task.task for task in reading.tasks] == sorted(TASKS)
        for task in reading.tasks:
            for voice, row in ((task.encoder, "encoder"), (task.twin, "untrained-tiny"), (task.control, "intensity")):
                assert voice is not None
                expected = tiny.probabilities[row, task.task][n]
                classes = sorted(TASKS[task.task])
                assert list(voice.probabilities) == classes
                np.testing.assert_allclose(list(voice.probabilities.values()), expected, atol=1e-5)
                assert voice.predicted == classes[int(expected.argmax())]

    def test_names_who_speaks_and_what_stands_behind_it(self, scorer: Scorer, tiny: TinyBundle) -> None:
        reading = scorer.read(ome(tiny.images[0]))
        task = reading.tasks[0]
        assert task.twin is not None
        assert task.control is not None
        assert (task.encoder.row, task.encoder.role, task.encoder.benchmark_score) == ("tiny", "encoder", 0.8)
        assert (task.twin.row, task.twin.member, task.twin.benchmark_score) == ("untrained-tiny", "fresh-00", 0.6)
        assert (task.control.row, task.control.role, task.control.benchmark_score) == ("intensity", "negative", 0.7)
        assert [(u.name, u.benchmark_score) for u in task.unservable] == [("composition", 0.9)]
        assert "table of nuclei" in task.unservable[0].reason
        assert task.verdict is not None
        assert task.verdict.sentence == "On `phase`, tiny is undecided against its controls."
        assert reading.notes == ["Plates as units."]
        assert reading.schema_version == 1
        assert reading.model_dump()["schema"] == 1
        assert reading.model.identity == scorer.bundle.identity

    def test_says_whether_its_evidence_is_stale(self, tiny: TinyBundle) -> None:
        stale = Scorer.open(tiny.folder, evidence="stale: the index has changed")
        reading = stale.read(npy(tiny.images[0]))
        assert reading.model.evidence == stale.facts.evidence == stale.embed(npy(tiny.images[0])).model.evidence == "stale: the index has changed"
        known = Scorer.open(tiny.folder).read(npy(tiny.images[0]))
        assert known.model.evidence == "not checked: a bundle alone does not say"
        # nothing else is answered otherwise
        assert known.model_copy(update={"model": reading.model}) == reading

    def test_a_bad_image_spoils_no_other(self, scorer: Scorer, tiny: TinyBundle) -> None:
        answers = scorer.read_all([npy(tiny.images[0]), b"no image", npy(tiny.images[1])])
        assert answers[0] == scorer.read(npy(tiny.images[0]))
        assert isinstance(answers[1], ImageError)
        assert answers[2] == scorer.read(npy(tiny.images[1]))
        assert scorer.read_all([]) == []

    def test_a_control_that_was_not_packed_is_named(self, altered: Callable[..., TinyBundle]) -> None:
        bundle = altered(servable="texture")
        task = Scorer.open(bundle.folder).read(npy(bundle.images[0])).tasks[0]
        assert task.control is None
        assert [(u.name, u.reason) for u in task.unservable][1] == ("texture", "It was not packed into this bundle.")

    def test_an_encoder_gives_no_answer_to_what_it_was_not_judged_on(self, altered: Callable[..., TinyBundle]) -> None:
        bundle = altered(judged=("phase",))
        scorer = Scorer.open(bundle.folder)
        assert scorer.facts.tasks == ["phase"]
        assert [task.task for task in scorer.read(npy(bundle.images[0])).tasks] == ["phase"]

    def test_without_companions_there_is_only_the_encoder(self, altered: Callable[..., TinyBundle]) -> None:
        bundle = altered(companions=())
        reading = Scorer.open(bundle.folder).read(npy(bundle.images[0]))
        assert [(task.twin, task.control) for task in reading.tasks] == [(None, None)] * 2

    def test_expected_image(self, scorer: Scorer) -> None:
        expected = scorer.facts.image
        assert (expected.channels, expected.dtype, expected.height, expected.width) == (["dna", "er", "actin"], "uint16", 24, 20)

    def test_its_own_example_can_be_read(self, scorer: Scorer, tiny: TinyBundle) -> None:
        example = scorer.example()
        assert example is not None
        assert scorer.read(npy(example.pixels)) == scorer.read(ome(tiny.images[0]))

    def test_an_example_of_resampled_images_is_in_the_stored_dtype(self, altered: Callable[..., TinyBundle], exported: dict[str, Exported]) -> None:
        pixels = tiny_images(4, 5).astype(np.float32) + 0.25
        golden = Golden(pixels, embed(exported["encoder"].network, pixels), withheld="")
        example = Scorer.open(altered(golden=golden).folder).example()
        assert example is not None
        np.testing.assert_array_equal(example.pixels, tiny_images(4, 5)[0])

    @pytest.mark.parametrize("withheld", ["`CC-BY-NC-4.0` limits the purpose", NO_PERMISSION])
    def test_an_image_that_may_not_be_passed_on_is_no_example(self, altered: Callable[..., TinyBundle], tiny: TinyBundle, withheld: str) -> None:
        golden = read_bundle(tiny.folder).golden
        assert golden is not None
        scorer = Scorer.open(altered(golden=replace(golden, withheld=withheld)).folder)
        assert scorer.example() is None
        assert scorer.withheld == withheld

    def test_a_bundle_of_before_gives_no_example(self, altered: Callable[..., TinyBundle]) -> None:
        folder = altered().folder
        arrays = read_arrays(folder / "golden.npz")
        del arrays["withheld"]
        write_arrays(folder / "golden.npz", arrays)
        seal(folder)
        scorer = Scorer.open(folder)
        assert (scorer.example(), scorer.withheld) == (None, NO_PERMISSION)


class TestRefused:
    def test_an_embedding_that_is_not_its_sources(self, altered: Callable[..., TinyBundle], tiny: TinyBundle) -> None:
        golden = read_bundle(tiny.folder).golden
        assert golden is not None
        shifted = golden.embedding.copy()
        shifted[2, 1] += 2 * GOLDEN_SLACK * embedding_tolerance(golden.embedding)
        bundle = altered(golden=Golden(golden.pixels, shifted, golden.probabilities))
        with pytest.raises(BundleError, match=r"expected the embedding by `tiny` to agree with its source within .* it is not served"):
            Scorer.open(bundle.folder)

    def test_a_head_that_is_not_its_sources(self, altered: Callable[..., TinyBundle], tiny: TinyBundle) -> None:
        golden = read_bundle(tiny.folder).golden
        assert golden is not None
        bundle = altered(golden=Golden(golden.pixels, golden.embedding, {"phase": golden.probabilities["phase"][:, ::-1]}))
        with pytest.raises(BundleError, match="expected `phase` by `tiny` to agree"):
            Scorer.open(bundle.folder)

    @pytest.mark.parametrize("row", ["untrained-tiny", "intensity"])
    def test_a_companion_that_is_not_its_sources(self, altered: Callable[..., TinyBundle], tiny: TinyBundle, row: str) -> None:
        parts = []
        for name, found in read_bundle(tiny.folder).companions.items():
            assert found.golden is not None
            shift = (name == row) * 2 * GOLDEN_SLACK * embedding_tolerance(found.golden)
            parts.append(CompanionParts(found.card, found.onnx, found.heads, found.golden + np.float32(shift)))
        with pytest.raises(BundleError, match=rf"expected the embedding by `{row}` to agree with its source within .* it is not served"):
            Scorer.open(altered(companions=parts).folder)

    def test_golden_embeddings_of_a_companion_are_one_for_each_image(self, altered: Callable[..., TinyBundle], tiny: TinyBundle) -> None:
        found = read_bundle(tiny.folder).companions["intensity"]
        assert found.golden is not None
        for golden in (found.golden[:3], found.golden[:, :5]):
            with pytest.raises(BundleError, match=r"`companions/intensity/golden.npz`: expected `embedding` of shape \(4, 6\)"):
                altered(companions=[CompanionParts(found.card, found.onnx, found.heads, golden)])

    def test_a_bundle_of_before_is_served_and_says_what_is_not_checked(self, altered: Callable[..., TinyBundle], tiny: TinyBundle) -> None:
        parts = [CompanionParts(found.card, found.onnx, found.heads) for found in read_bundle(tiny.folder).companions.values()]
        assert Scorer.open(tiny.folder).checked == "its golden images agree"
        assert Scorer.open(altered(companions=parts).folder).checked == (
            "its golden images agree, but it holds no golden answers of `intensity`, `untrained-tiny`: write it again with `blankslide package`"
        )

    def test_an_altered_bundle(self, altered: Callable[..., TinyBundle]) -> None:
        bundle = altered()
        path = bundle.folder / "companions" / "intensity" / "encoder.onnx"
        path.write_bytes(path.read_bytes() + b"\x00")
        with pytest.raises(BundleError, match="was altered"):
            Scorer.open(bundle.folder)

    def test_a_companion_whose_head_is_of_another_width(self, altered: Callable[..., TinyBundle]) -> None:
        bundle = read_bundle(altered().folder)
        parts = [CompanionParts(found.card, found.onnx, bundle.heads) for found in bundle.companions.values()]
        heads = {
            name: np.concatenate([array, array], axis=-1) if name.endswith(("/mean", "/scale", "/coef")) else array
            for name, array in bundle.heads.items()
        }
        parts[0] = replace(parts[0], heads=heads)
        with pytest.raises(BundleError, match=r"Expected embeddings \(n, 12\) for this head"):
            Scorer.open(altered(companions=parts).folder)

    def test_a_scorecard_whose_words_are_no_words(self, altered: Callable[..., TinyBundle]) -> None:
        bundle = read_bundle(altered().folder)
        folder, parts = bundle.folder, {"onnx": bundle.onnx, "heads": bundle.heads, "reference": bundle.reference, "golden": bundle.golden}
        for golden in (bundle.golden, None):
            scorecard = replace(bundle.scorecard, notes=[5])  # type: ignore[list-item]  # a number where words belong is the point
            odd = write_bundle(folder.with_name("odd"), bundle.card, scorecard, **{**parts, "golden": golden})
            with pytest.raises(BundleError, match=r"cannot be opened \(ValidationError.* Package the benchmark again"):
                Scorer.open(odd.folder)

    def test_a_row_that_cannot_be_served(self, altered: Callable[..., TinyBundle]) -> None:
        bundle = read_bundle(altered().folder)
        card = replace(bundle.card, weights_sha256="", unservable="It needs nuclei.", parity={})
        write_bundle(bundle.folder, card, bundle.scorecard)
        with pytest.raises(BundleError, match="`tiny` cannot be served: It needs nuclei"):
            Scorer.open(bundle.folder)

    def test_a_provider_that_is_not_there_is_never_replaced(self, tiny: TinyBundle) -> None:
        model = (tiny.folder / "encoder.onnx").read_bytes()
        plain = onnxruntime.InferenceSession(model, providers=["CUDAExecutionProvider"])
        if plain.get_providers()[0] == "CUDAExecutionProvider":
            pytest.skip("this machine has a CUDA device")
        assert plain.get_providers()[0] == "CPUExecutionProvider"  # the trap: asked for CUDA alone, given the CPU
        with pytest.raises(ProviderError, match=r"Expected `tiny` to run on CUDAExecutionProvider.*`--provider cpu`"):
            Scorer.open(tiny.folder, provider="cuda")

    def test_bytes_that_are_no_network(self) -> None:
        with pytest.raises(BundleError, match="is not an ONNX file"):
            OnnxEmbedder(b"nothing of the kind")

    def test_an_overflowing_image_is_named_alone(self, scorer: Scorer) -> None:
        batch = np.full((3, *CELLS.shape), 100.0, np.float32)
        batch[1] = 3e38
        answers = [answer for (answer,) in scorer.answers([Asked(Frames(pixels[None], (None,)), score=True) for pixels in batch])]
        assert isinstance(answers[1], ImageError)
        assert "not finite" in str(answers[1])
        assert not isinstance(answers[0], ImageError)
        assert not isinstance(answers[2], ImageError)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no CUDA device")
def test_cuda_gives_the_golden_embedding(tiny: TinyBundle) -> None:
    scorer = Scorer.open(tiny.folder, provider="cuda")
    assert scorer.ref.provider == "cuda"
    came = scorer.embed(npy(tiny.images[5])).embedding
    np.testing.assert_allclose(came, tiny.embedding[5], rtol=0, atol=embedding_tolerance(tiny.embedding))

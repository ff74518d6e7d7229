from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from registry.cards import EncoderCard
from registry.encoders.architecture import Architecture
from registry.encoders.encoder import CALIBRATION_BATCH, Placement, TorchEncoder
from registry.encoders.network import EncoderNetwork, batch_norms
from registry.encoders.rows import draw_seed, encoder_members, shuffled_card, untrained_card
from registry.encoders.weights import fresh_backbone
from registry.errors import CardError, ParamsError, ProviderError
from registry.representation import Batch, Facts

from .conftest import images


def made(card: EncoderCard, facts: Facts, name: str) -> TorchEncoder:
    member = next(m for m in encoder_members(card, facts, seeds=2) if m.name == name).make()
    assert isinstance(member, TorchEncoder)
    return member


def parts(batch: Batch, size: int) -> list[Batch]:
    return [
        Batch(batch.image_ids[k : k + size], batch.pixels[k : k + size], batch.metadata.iloc[k : k + size])
        for k in range(0, len(batch.image_ids), size)
    ]


def test_embeddings_do_not_depend_on_the_batch_size(card: EncoderCard, facts: Facts) -> None:
    encoder, batch = made(card, facts, "fresh-00"), images(13)
    whole = encoder.embed(batch)
    assert whole.dtype == np.float32
    for size in (1, 4):
        pieces = np.concatenate([encoder.embed(part) for part in parts(batch, size)])
        assert np.abs(pieces - whole).max() <= 1e-5 * np.abs(whole).max()


def test_an_untrained_row_has_fresh_and_calibrated_draws_of_the_same_weights(card: EncoderCard, facts: Facts) -> None:
    names = [member.name for member in encoder_members(card, facts, seeds=2)]
    assert names == ["fresh-00", "fresh-01", "calibrated-00", "calibrated-01"]
    fresh, other, calibrated = (made(card, facts, name) for name in ("fresh-00", "fresh-01", "calibrated-00"))
    batch = images(4)
    assert not np.allclose(fresh.embed(batch), other.embed(batch))
    np.testing.assert_array_equal(fresh.embed(batch), calibrated.embed(batch))
    calibrated.fit([images(64, seed=1)])
    assert not np.allclose(fresh.embed(batch), calibrated.embed(batch))
    assert (fresh.fitted, calibrated.fitted) == (False, True)
    assert fresh.state() == {}


def test_a_network_without_batchnorm_has_no_calibrated_twins(card: EncoderCard, facts: Facts) -> None:
    vit = replace(card, architecture="timm:vit_tiny_patch16_224?img_size=32&depth=1", input_px=32)
    assert {member.name.split("-")[0] for member in encoder_members(vit, facts, seeds=2)} == {"fresh"}
    with pytest.raises(CardError, match="has no BatchNorm to calibrate"):
        TorchEncoder(vit, EncoderNetwork(vit, facts.image), calibrate=True)


def test_calibrated_statistics_are_those_of_the_first_layers_inputs(card: EncoderCard, facts: Facts) -> None:
    """The first BatchNorm sees the first convolution of raw images, whose mean and variance numpy can take."""
    encoder, batch = made(card, facts, "calibrated-00"), images(2 * CALIBRATION_BATCH)
    network = encoder.network()
    name, _ = next(iter(batch_norms(network).items()))
    grabbed: list[torch.Tensor] = []
    hook = network.get_submodule(name).register_forward_pre_hook(lambda _module, inputs: grabbed.append(inputs[0].clone()))
    encoder.embed(batch)
    hook.remove()
    halves = grabbed[0].numpy().astype(np.float64).reshape(2, CALIBRATION_BATCH, *grabbed[0].shape[1:])
    encoder.fit([batch])
    state = encoder.state()
    np.testing.assert_allclose(state[f"{name}.running_mean"], halves.mean(axis=(0, 1, 3, 4)), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(state[f"{name}.running_var"], halves.var(axis=(1, 3, 4), ddof=1).mean(axis=0), rtol=1e-4)


def test_a_calibration_does_not_depend_on_how_its_images_arrive(card: EncoderCard, facts: Facts) -> None:
    batch = images(80)
    one, other = made(card, facts, "calibrated-00"), made(card, facts, "calibrated-00")
    one.fit([batch])
    other.fit(parts(batch, 7))
    for name, value in one.state().items():
        np.testing.assert_array_equal(value, other.state()[name])


def test_a_calibration_stops_at_its_limit(card: EncoderCard, facts: Facts) -> None:
    taken = 0

    def endless() -> object:
        nonlocal taken
        while True:
            taken += 50
            yield images(50, seed=taken)

    made(card, facts, "calibrated-00").fit(endless())
    assert TorchEncoder.fit_images <= taken < TorchEncoder.fit_images + 100


def test_a_state_restores_the_calibration(card: EncoderCard, facts: Facts) -> None:
    fitted, restored = made(card, facts, "calibrated-01"), made(card, facts, "calibrated-01")
    fitted.fit([images(40)])
    restored.load_state(fitted.state())
    np.testing.assert_array_equal(fitted.embed(images(3)), restored.embed(images(3)))
    with pytest.raises(CardError, match="belong to another network"):
        restored.load_state({"stages.0.running_mean": np.zeros(3, np.float32)})


def test_trained_weights_give_main_and_shuffled_twins(card: EncoderCard, facts: Facts, tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    save_file(fresh_backbone(Architecture.parse("cnn:small"), 2, 4).state_dict(), path)
    trained = replace(card, name="trained", role="encoder", weights="trained here", twins=("untrained-cnn-small",))
    (main,) = encoder_members(trained, facts, path)
    assert main.name == "main"
    twin = shuffled_card(trained)
    assert (twin.name, twin.role) == ("shuffled-trained", "twin")
    shuffled = encoder_members(twin, facts, path, seeds=3)
    assert [member.name for member in shuffled] == ["shuffled-00", "shuffled-01", "shuffled-02"]
    vectors = [member.make().embed(images(2)) for member in (main, *shuffled)]
    assert len({value.tobytes() for value in vectors}) == 4
    with pytest.raises(CardError, match="expected the path of their file"):
        encoder_members(trained, facts)


def test_twins_keep_architecture_and_preprocessing(card: EncoderCard) -> None:
    trained = replace(card, name="m", role="encoder", architecture="timm:resnet18.a1_in1k", weights="hub:resnet18.a1_in1k", input_px=64, twins=("t",))
    twin = untrained_card(trained)
    assert (twin.name, twin.weights, twin.role, twin.twins) == ("untrained-resnet18", "random", "twin", ())
    assert (twin.architecture, twin.input_px, twin.mean, twin.channel_strategy) == (trained.architecture, 64, trained.mean, trained.channel_strategy)
    with pytest.raises(CardError, match="is computed, not a network"):
        untrained_card(EncoderCard("density", "negative", "s"))


def test_no_two_draws_share_a_seed() -> None:
    seeds = [draw_seed(kind, draw) for kind in ("fresh", "shuffled", "train/simclr") for draw in range(50)]
    assert len(set(seeds)) == len(seeds)
    assert min(seeds) > 1000


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")
def test_a_missing_device_is_an_error_and_never_a_fallback(card: EncoderCard, facts: Facts) -> None:
    with pytest.raises(ProviderError, match=r"`cuda` was asked for.*`extract.device: cpu`"):
        TorchEncoder(card, EncoderNetwork(card, facts.image), Placement("cuda"))


@pytest.mark.parametrize(("device", "precision"), [("tpu", "float32"), ("cpu", "float64"), ("cpu", "amp-float16")])
def test_placements_that_do_not_exist_are_refused(device: str, precision: str) -> None:
    with pytest.raises(ParamsError):
        Placement(device, precision)


def test_mixed_precision_stays_near_single(card: EncoderCard, facts: Facts) -> None:
    network = EncoderNetwork(card, facts.image, fresh_backbone(Architecture.parse("cnn:small"), 2, 0))
    single = TorchEncoder(card, network).embed(images(6))
    mixed = TorchEncoder(card, network, Placement("cpu", "amp-bfloat16")).embed(images(6))
    assert mixed.dtype == np.float32
    assert 0 < np.abs(mixed - single).max() < 0.05 * np.abs(single).max()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no CUDA device")
def test_a_gpu_gives_the_embeddings_of_the_cpu_in_full_single_precision(card: EncoderCard, facts: Facts) -> None:
    """TF32, which keeps ten bits of each factor, would differ by about 1e-3; a library may have turned it on before."""
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = True
    network = EncoderNetwork(card, facts.image, fresh_backbone(Architecture.parse("cnn:small"), 2, 0))
    here = TorchEncoder(card, network).embed(images(6))
    there = TorchEncoder(card, network, Placement("cuda")).embed(images(6))
    assert np.abs(there - here).max() <= 1e-4 * np.abs(here).max()

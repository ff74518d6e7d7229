from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from registry.cards import EncoderCard
from registry.encoders.network import EncoderNetwork, batch_norms
from registry.encoders.weights import shuffle_weights
from registry.errors import CardError
from registry.export import export_onnx
from registry.images import ImageSpec
from tests.serving.alike import assert_torch_computes_the_same

RGB = ImageSpec(("red", "green", "blue"), "uint8", 40, 56, ((0.0, 255.0),) * 3)


class Seen(nn.Module):
    """A backbone that shows what reaches it."""

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return inputs.flatten(1)


def pixels(spec: ImageSpec, n: int = 3, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).uniform(0, 900, (n, *spec.shape)).astype(np.float32))


@pytest.mark.parametrize("target", [20, 33, 96])
def test_resizing_agrees_with_torchs_antialiased_interpolation(card: EncoderCard, target: int) -> None:
    plain = replace(card, input_px=target, mean=(0.0,), std=(1.0,), architecture="cnn:small")
    network = EncoderNetwork(plain, RGB, Seen())
    raw = pixels(RGB)
    ours = network(raw).reshape(3, 3, target, target)
    theirs = nn.functional.interpolate(raw / 255, size=(target, target), mode="bilinear", antialias=True, align_corners=False)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-5)


def test_intensities_are_scaled_then_normalised_by_hand(card: EncoderCard, spec: ImageSpec) -> None:
    network = EncoderNetwork(replace(card, mean=(0.1, 0.2), std=(2.0, 4.0)), spec, Seen())
    raw = pixels(spec)
    by_hand = np.stack([((raw[:, 0] - 100) / 1000 - 0.1) / 2, (raw[:, 1] / 500 - 0.2) / 4], axis=1).reshape(3, -1)
    np.testing.assert_allclose(network(raw).numpy(), by_hand, rtol=1e-5, atol=1e-6)


def test_each_shows_every_channel_alone_and_joins_the_vectors(card: EncoderCard, spec: ImageSpec) -> None:
    torch.manual_seed(0)
    alone = replace(card, channel_strategy="each", architecture="timm:mobilenetv2_035", input_px=32, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4))
    network = EncoderNetwork(alone, spec)
    raw = pixels(spec)
    with torch.no_grad():
        together = network(raw)
        first = network.backbone(network.preprocess(raw)[0::2])
        second = network.backbone(network.preprocess(raw)[1::2])
    assert network.backbone_channels == 3
    assert network.dim == together.shape[1] == 2 * first.shape[1]
    torch.testing.assert_close(together, torch.cat([first, second], dim=1))
    three = network.preprocess(raw)[0]
    torch.testing.assert_close(three[0] * 0.2 + 0.4, three[2] * 0.4 + 0.6)


def test_tokens_are_averaged_without_the_class_token(card: EncoderCard) -> None:
    vit = replace(card, architecture="timm:vit_tiny_patch16_224?img_size=32&depth=1", input_px=32)
    network = EncoderNetwork(vit, RGB)
    raw = pixels(RGB)
    with torch.no_grad():
        tokens = network.backbone.forward_features(network.preprocess(raw))
        torch.testing.assert_close(network(raw), tokens[:, 1:].mean(1))


def test_a_size_the_backbone_cannot_take_says_what_to_do(card: EncoderCard) -> None:
    with pytest.raises(CardError, match=r"cannot take 3 channels of 40 x 56 pixels.*`input_px`.*img_size"):
        EncoderNetwork(replace(card, architecture="timm:vit_tiny_patch16_224?depth=1"), RGB)


def test_normalisation_for_other_channels_is_refused(card: EncoderCard, spec: ImageSpec) -> None:
    with pytest.raises(CardError, match="one `mean` or one for each of the backbone's 2 channels, got 3"):
        EncoderNetwork(replace(card, mean=(0.1, 0.2, 0.3)), spec)


def test_the_state_dict_is_the_backbones_alone(card: EncoderCard, spec: ImageSpec) -> None:
    names = EncoderNetwork(replace(card, input_px=16), spec).state_dict()
    assert names
    assert all(name.startswith("backbone.") for name in names)


@pytest.mark.parametrize(
    ("architecture", "strategy", "input_px"),
    [("cnn:small", "native", 0), ("cnn:small", "each", 48), ("timm:mobilenetv2_035?pad_type=same", "each", 32)],
)
def test_what_is_exported_computes_the_same_at_every_batch_size(
    card: EncoderCard, spec: ImageSpec, tmp_path: Path, architecture: str, strategy: str, input_px: int
) -> None:
    torch.manual_seed(1)
    network = EncoderNetwork(replace(card, architecture=architecture, channel_strategy=strategy, input_px=input_px), spec)
    with torch.no_grad():
        # BatchNorm as after training: the fresh one hides an export that drops it
        for layer in batch_norms(network).values():
            layer.running_mean.normal_(0, 0.3)
            layer.running_var.uniform_(0.5, 2.0)
            layer.weight.uniform_(0.5, 1.5)
            layer.bias.normal_(0, 0.3)
    shuffle_weights(network, 0)
    report = export_onnx(network, pixels(spec, 5).numpy(), tmp_path / "encoder.onnx")
    assert report.dim == network.dim
    assert report.cosine > 0.99999
    assert_torch_computes_the_same(tmp_path / "encoder.onnx", pixels(spec, 5).numpy())

from __future__ import annotations

import pytest
import timm
import torch

from registry.encoders.architecture import Architecture
from registry.errors import CardError, NotFoundError


def test_options_are_read_as_what_they_look_like() -> None:
    parsed = Architecture.parse("timm:resnet18?drop_path_rate=0.1&depth=3&norm_layer=groupnorm&block=true")
    assert (parsed.family, parsed.tag) == ("timm", "resnet18")
    assert dict(parsed.options) == {"drop_path_rate": 0.1, "depth": 3, "norm_layer": "groupnorm", "block": True}


@pytest.mark.parametrize("text", ["resnet18", "hub:resnet18", "timm:", "timm:a?b", "timm:a?b=1&b=2", "timm:a?1b=2"])
def test_another_form_is_refused(text: str) -> None:
    with pytest.raises(CardError, match=r"expected|Expected"):
        Architecture.parse(text)


@pytest.mark.parametrize("key", ["pretrained", "num_classes", "in_chans", "checkpoint_path"])
def test_an_option_the_product_sets_itself_is_refused(key: str) -> None:
    with pytest.raises(CardError, match=f"option `{key}`"):
        Architecture.parse(f"timm:resnet18?{key}=1")


def test_labels_are_encoder_names() -> None:
    assert Architecture.parse("timm:vit_tiny_patch16_224.augreg_in21k?img_size=64").label == "vit_tiny_patch16_224"
    assert Architecture.parse("cnn:small").label == "cnn-small"


def test_options_reach_timm() -> None:
    plain, same = (Architecture.parse(f"timm:mobilenetv2_050{options}").build(3) for options in ("", "?pad_type=same"))
    names = [{type(layer).__name__ for layer in network.modules()} for network in (plain, same)]
    assert "Conv2dSame" not in names[0]
    assert "Conv2dSame" in names[1]


def test_the_backbone_equals_timms_own() -> None:
    torch.manual_seed(3)
    ours = Architecture.parse("timm:mobilenetv2_050").build(5).eval()
    torch.manual_seed(3)
    theirs = timm.create_model("mobilenetv2_050", num_classes=0, in_chans=5).eval()
    pixels = torch.rand(2, 5, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(ours(pixels), theirs(pixels), rtol=0, atol=0)


def test_an_unknown_timm_model_lists_close_ones() -> None:
    with pytest.raises(NotFoundError, match=r"timm model .*`resnet18x`.*`resnet18`"):
        Architecture.parse("timm:resnet18x").build(3)


def test_an_unknown_own_network_lists_all() -> None:
    with pytest.raises(NotFoundError, match=r"`cnn:large`\. Known: .*`cnn:small`"):
        Architecture.parse("cnn:large").build(3)


def test_an_option_timm_does_not_know_is_a_card_error() -> None:
    with pytest.raises(CardError, match=r"timm cannot build `resnet18`.*wings"):
        Architecture.parse("timm:resnet18?wings=2").build(3)


def test_pretrained_weights_are_used_with_the_normalisation_timm_states() -> None:
    mean, std = Architecture.parse("timm:resnet50.a1_in1k").normalisation()
    assert (mean, std) == (pytest.approx((0.485, 0.456, 0.406)), pytest.approx((0.229, 0.224, 0.225)))
    assert Architecture.parse("timm:vit_tiny_patch16_224.augreg_in21k?img_size=64").normalisation() == ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    assert Architecture.parse("cnn:small").normalisation() == ((0.5,), (0.5,))

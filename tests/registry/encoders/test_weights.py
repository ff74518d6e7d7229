from __future__ import annotations

import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

from registry.encoders.architecture import Architecture
from registry.encoders.weights import fresh_backbone, load_backbone, read_weights, shuffle_weights
from registry.errors import InputError
from registry.files import sha256_of_file

MOBILE = Architecture.parse("timm:mobilenetv2_035")


class Evil:
    """Runs code when unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self.target}",)


def state(classes: int = 7, seed: int = 0) -> dict[str, torch.Tensor]:
    torch.manual_seed(seed)
    return {name: value.clone() for name, value in MOBILE.build(3, classes).state_dict().items()}


@pytest.mark.parametrize("protocol", ["torch", "pickle"])
def test_a_pickle_that_would_run_code_is_refused_and_runs_nothing(tmp_path: Path, protocol: str) -> None:
    target, path = tmp_path / "ran", tmp_path / "weights.pt"
    if protocol == "torch":
        torch.save({"conv.weight": Evil(target)}, path)
    else:
        path.write_bytes(pickle.dumps(Evil(target)))
    with pytest.raises(InputError, match=r"`weights\.pt`: expected tensors alone.*refused"):
        read_weights(path)
    assert not target.exists()


@pytest.mark.parametrize("wrapper", [None, "state_dict", "model"])
def test_pt_files_and_their_usual_wrappers_are_read(tmp_path: Path, wrapper: str | None) -> None:
    tensors = {f"module.{name}": value for name, value in state().items()}
    torch.save(tensors if wrapper is None else {wrapper: tensors}, tmp_path / "w.pth")
    found = read_weights(tmp_path / "w.pth")
    assert set(found) == set(state())
    torch.testing.assert_close(found["conv_stem.weight"], state()["conv_stem.weight"])


def test_a_state_dict_with_numbers_in_it_names_them(tmp_path: Path) -> None:
    torch.save({"epoch": 3, "conv.weight": torch.zeros(1)}, tmp_path / "w.pt")
    with pytest.raises(InputError, match="`epoch` are something else"):
        read_weights(tmp_path / "w.pt")


def test_damaged_missing_and_foreign_files_are_named(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(100)}, tmp_path / "w.safetensors")
    (tmp_path / "w.safetensors").write_bytes((tmp_path / "w.safetensors").read_bytes()[:-10])
    with pytest.raises(InputError, match=r"`w\.safetensors`: cannot be read as safetensors"):
        read_weights(tmp_path / "w.safetensors")
    with pytest.raises(InputError, match="There is no weights file"):
        read_weights(tmp_path / "absent.pt")
    (tmp_path / "w.h5").write_bytes(b"x")
    with pytest.raises(InputError, match=r"expected weights as .*got `\.h5`"):
        read_weights(tmp_path / "w.h5")


def test_altered_weights_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_file({"a": torch.zeros(3)}, path)
    assert set(read_weights(path, sha256_of_file(path))) == {"a"}
    with pytest.raises(InputError, match="not the one the card describes"):
        read_weights(path, "0" * 64)


def test_a_classifier_is_loaded_strictly_and_dropped() -> None:
    full = MOBILE.build(3, 7)
    full.load_state_dict(state())
    headless = load_backbone(MOBILE, 3, state(), "w.pt")
    pixels = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        expected = full.eval().forward_head(full.forward_features(pixels), pre_logits=True)
        torch.testing.assert_close(headless(pixels), expected, rtol=0, atol=0)
    assert not any(name.startswith("classifier") for name in headless.state_dict())


def test_a_state_dict_without_a_classifier_is_loaded_too() -> None:
    tensors = {name: value for name, value in state().items() if not name.startswith("classifier")}
    torch.testing.assert_close(load_backbone(MOBILE, 3, tensors, "w").state_dict()["bn2.weight"], tensors["bn2.weight"])


def test_half_precision_weights_become_single() -> None:
    halves = {name: value.half() if value.is_floating_point() else value for name, value in state().items()}
    loaded = load_backbone(MOBILE, 3, halves, "w").state_dict()["conv_stem.weight"]
    assert loaded.dtype == torch.float32
    torch.testing.assert_close(loaded, halves["conv_stem.weight"].float())


def test_names_that_differ_are_named() -> None:
    tensors = state()
    tensors["conv_stam.weight"] = tensors.pop("conv_stem.weight")
    with pytest.raises(InputError, match=r"`w\.pt` does not fit.*lacks `conv_stem.weight` and holds `conv_stam.weight`"):
        load_backbone(MOBILE, 3, tensors, "w.pt")


def test_shapes_that_differ_are_named_with_both_shapes() -> None:
    with pytest.raises(InputError, match=r"`conv_stem.weight` \(expected \(16, 5, 3, 3\), got \(16, 3, 3, 3\)\).*`each`"):
        load_backbone(MOBILE, 5, state(), "w.pt")


def test_fresh_weights_follow_the_seed_and_leave_the_global_state_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first = fresh_backbone(MOBILE, 3, 11).state_dict()["conv_stem.weight"]
    assert torch.equal(torch.rand(3), expected)
    assert torch.equal(first, fresh_backbone(MOBILE, 3, 11).state_dict()["conv_stem.weight"])
    assert not torch.equal(first, fresh_backbone(MOBILE, 3, 12).state_dict()["conv_stem.weight"])


def test_shuffling_keeps_each_layers_values_and_nothing_else() -> None:
    network: nn.Module = fresh_backbone(Architecture.parse("cnn:small"), 3, 0)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    shuffle_weights(network, 1)
    for name, value in network.state_dict().items():
        assert torch.equal(value.flatten().sort().values, before[name].flatten().sort().values), name
        if name.endswith("weight") and value.ndim == 4:
            assert not torch.equal(value, before[name])


UNREACHABLE = """
from registry.encoders.weights import hub_file
from registry.errors import HubUnreachableError
try:
    hub_file("mobilenetv2_100.ra_in1k", timeout_s=2.0)
except HubUnreachableError as error:
    print(error)
"""


def test_a_hub_that_cannot_be_reached_says_the_next_step(tmp_path: Path) -> None:
    environment = {**os.environ, "HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", UNREACHABLE], capture_output=True, text=True, check=True, env=environment)
    assert "`hub:mobilenetv2_100.ra_in1k` cannot be fetched from http://127.0.0.1:9" in done.stdout
    assert "`weights: file:<path>`" in done.stdout


CACHED = """
from registry.encoders.weights import hub_file, load_backbone, read_weights
from registry.encoders.architecture import Architecture
architecture = Architecture.parse("timm:resnet10t.c3_in1k")
backbone = load_backbone(architecture, 3, read_weights(hub_file(architecture.tag)), "hub")
print(float(backbone.state_dict()["conv1.0.weight"].sum()))
"""


def test_weights_in_the_hubs_cache_are_loaded_without_a_network(tmp_path: Path) -> None:
    """A cache as the hub's own client lays it out."""
    network = timm.create_model("resnet10t", pretrained=False, num_classes=1000)
    folder = tmp_path / "hub" / "models--timm--resnet10t.c3_in1k"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("0" * 40)
    (folder / "snapshots" / ("0" * 40)).mkdir(parents=True)
    save_file(network.state_dict(), folder / "snapshots" / ("0" * 40) / "model.safetensors")
    environment = {**os.environ, "HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", CACHED], capture_output=True, text=True, check=True, env=environment)
    assert float(done.stdout) == pytest.approx(float(network.state_dict()["conv1.0.weight"].sum()), rel=1e-5)

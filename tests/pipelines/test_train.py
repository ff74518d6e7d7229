from __future__ import annotations

import csv
import json
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional

from pipelines.benchmarks.index import Benchmark
from pipelines.params import EncoderParams
from pipelines.train import _Training, train
from pipelines.training.augment import Augmentation, view
from pipelines.training.checkpoints import Checkpoints, EpochRecord
from pipelines.training.objectives import UNLABELLED, Heads, batches, contrastive_loss
from pipelines.training.optimiser import AdamW
from pipelines.training.settings import METHODS, settings_for
from registry.cards import EncoderCard
from registry.encoders.rows import encoder_members
from registry.errors import BenchmarkError, CardError, ImageError, NotFoundError, ParamsError
from registry.files import read_json, sha256_of_file
from registry.representation import Facts

from .folder import repaint, write_images

CARD = EncoderParams("net", "s", "cnn:small", "trained", twins=["untrained-cnn-small"])
SHORT = {"epochs": 3, "batch": 4, "augmentation": {"crop_px": 0}}


@pytest.fixture(scope="module")
def benchmark(tmp_path_factory: pytest.TempPathFactory) -> Benchmark:
    return write_images(tmp_path_factory.mktemp("data") / "tiny")


def run(benchmark: Benchmark, out: Path, method: str = "weak", seed: int = 0, keep: Sequence[int] = (), **stated: Any) -> EncoderCard:
    return train(benchmark, CARD, method, {**SHORT, **stated}, out, seed, 2, keep)


def read_history(out: Path) -> list[dict[str, str]]:
    with (out / "history.csv").open() as stream:
        return list(csv.DictReader(stream))


# ------------------------------------------------------------------------------------------------ what is published


@pytest.mark.parametrize("method", METHODS)
def test_a_method_writes_weights_history_and_card(benchmark: Benchmark, tmp_path: Path, method: str) -> None:
    card = run(benchmark, tmp_path / "net", method)
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == ["card.json", "history.csv", "weights.safetensors"]
    assert read_json(tmp_path / "net" / "card.json") == json.loads(json.dumps(card.as_dict()))
    assert card.weights_sha256 == sha256_of_file(tmp_path / "net" / "weights.safetensors")
    assert (card.training["method"], card.training["images"], card.training["units"], card.training["fold"]) == (method, 10, 2, 0)
    assert card.training["parameters"] < 1_000_000
    history = read_history(tmp_path / "net")
    assert [row["epoch"] for row in history] == ["1", "2", "3"]
    losses = [float(row["loss"]) for row in history]
    # what a network that knows nothing pays, in nats: to tell two classes apart, or a view from the 7 others of its batch
    assert all(0.1 < loss < {"simclr": 4.0, "weak": 2.0, "supervised": 2.0}[method] for loss in losses)
    assert len(set(losses)) == 3
    # the last step stands at the foot of half a cosine
    rates = [float(row["learning_rate"]) for row in history]
    assert rates[-1] < rates[0]


def test_the_weights_are_those_of_a_backbone_that_extraction_loads(benchmark: Benchmark, tmp_path: Path) -> None:
    card = run(benchmark, tmp_path)
    facts = Facts("tiny", "cells", benchmark.card.image)
    network = encoder_members(card, facts, tmp_path / "weights.safetensors")[0].make().network()
    assert network is not None
    trained = load_file(tmp_path / "weights.safetensors")
    for name, value in network.state_dict().items():
        torch.testing.assert_close(value, trained[name.removeprefix("backbone.")])


def test_backbones_kept_on_the_way_are_those_of_shorter_runs_and_change_nothing(
    benchmark: Benchmark, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[dict[str, torch.Tensor]] = []
    epoch = _Training._epoch

    def watching(self: _Training, number: int, images: np.ndarray) -> EpochRecord:
        seen.append({name: value.clone() for name, value in self.network.backbone.state_dict().items()})
        return epoch(self, number, images)

    monkeypatch.setattr(_Training, "_epoch", watching)
    run(benchmark, tmp_path / "kept", keep=(0, 2))
    run(benchmark, tmp_path / "plain")
    assert sorted(path.name for path in (tmp_path / "kept").iterdir()) == [
        "after-0000.safetensors",
        "after-0002.safetensors",
        "card.json",
        "history.csv",
        "weights.safetensors",
    ]
    # the weights at the start of an epoch are those after the one before
    for number in (0, 2):
        kept = load_file(tmp_path / "kept" / f"after-{number:04d}.safetensors")
        assert all(torch.equal(value, seen[number][name]) for name, value in kept.items())
    assert any(not torch.equal(value, seen[2][name]) for name, value in seen[0].items())
    for name in ("weights.safetensors", "history.csv", "card.json"):
        assert (tmp_path / "kept" / name).read_bytes() == (tmp_path / "plain" / name).read_bytes()
    # a run that keeps none leaves none of another behind
    run(benchmark, tmp_path / "kept")
    assert not list((tmp_path / "kept").glob("after-*"))


@pytest.mark.parametrize("epoch", [-1, 3])
def test_an_epoch_that_is_not_on_the_way_cannot_be_kept(benchmark: Benchmark, tmp_path: Path, epoch: int) -> None:
    with pytest.raises(ParamsError, match=r"epochs to keep from 0 to 2 \(the last is kept anyway\), got"):
        run(benchmark, tmp_path / "net", keep=(epoch,))


def test_the_seed_decides_and_nothing_else_does(benchmark: Benchmark, tmp_path: Path) -> None:
    torch.manual_seed(1)
    run(benchmark, tmp_path / "a")
    torch.manual_seed(2)
    run(benchmark, tmp_path / "b")
    run(benchmark, tmp_path / "c", seed=1)
    weights = [(tmp_path / name / "weights.safetensors").read_bytes() for name in "abc"]
    assert weights[0] == weights[1]
    assert weights[0] != weights[2]


@pytest.mark.parametrize(("batch", "used"), [(31, 1), (32, 2)])
def test_a_second_thread_takes_part_only_in_batches_that_it_speeds_up(tmp_path: Path, batch: int, used: int) -> None:
    run(write_images(tmp_path / "data", wells=20), tmp_path / "net", batch=batch, epochs=1)
    assert torch.get_num_threads() == used


@pytest.mark.parametrize("method", METHODS)
def test_training_sees_training_images_only(tmp_path: Path, method: str) -> None:
    benchmark = write_images(tmp_path / "data")
    run(benchmark, tmp_path / "before", method)
    repaint(benchmark, np.flatnonzero(benchmark.folds[0].test))
    run(benchmark, tmp_path / "after", method)
    repaint(benchmark, np.flatnonzero(benchmark.folds[0].train))
    run(benchmark, tmp_path / "other", method)
    weights = [(tmp_path / name / "weights.safetensors").read_bytes() for name in ("before", "after", "other")]
    assert weights[0] == weights[1]
    assert weights[0] != weights[2]


def test_supervision_learns_a_planted_effect(benchmark: Benchmark, tmp_path: Path) -> None:
    """`bright` is the mean of one channel; held-out plates are told apart along the first discriminant of training plates."""
    card = run(benchmark, tmp_path, "supervised", labels=["label_bright"], epochs=30, learning_rate=3e-3)
    losses = [float(row["loss"]) for row in read_history(tmp_path)]
    assert losses[-1] < 0.3 * np.log(2)
    member = encoder_members(card, Facts("tiny", "cells", benchmark.card.image), tmp_path / "weights.safetensors")[0].make()
    network = member.network()
    assert network is not None
    with torch.no_grad():
        vectors = network(torch.from_numpy(np.stack([benchmark.pixels(row) for row in benchmark]))).numpy()
    train_rows, bright = benchmark.folds[0].train, (benchmark.index["label_bright"] == "bright").to_numpy()
    high, low = (vectors[train_rows & (bright == kind)].mean(axis=0) for kind in (True, False))
    predicted = (vectors - (high + low) / 2) @ (high - low) > 0
    assert (predicted == bright)[~train_rows].mean() >= 0.9


# ------------------------------------------------------------------------------------------------ kills


RUN = """
import sys
from pathlib import Path
from pipelines.benchmarks.index import Benchmark
from tests.pipelines.test_train import run
run(Benchmark.read(Path(sys.argv[1])), Path(sys.argv[2]), sys.argv[3], epochs=EPOCHS, keep=KEPT)
"""
#: epochs after which a killed run keeps its backbone
KEPT = (0, 1, 20)
EPOCHS = 40


@pytest.mark.parametrize("method", ["simclr", "supervised"])
def test_a_killed_training_goes_on_to_the_same_bytes(benchmark: Benchmark, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    killed, whole, work = tmp_path / "killed", tmp_path / "whole", tmp_path / ".killed.work"
    command = [sys.executable, "-c", RUN.replace("EPOCHS", str(EPOCHS)).replace("KEPT", str(KEPT)), str(benchmark.folder), str(killed), method]
    process = subprocess.Popen(command, cwd=Path(__file__).parents[2])
    deadline = time.monotonic() + 60
    while not list(work.glob("checkpoint-*.safetensors")) and time.monotonic() < deadline:
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.wait()
    # between the publication of a checkpoint and the removal of the one before there are two
    last = max(work.glob("checkpoint-*.safetensors")).stem
    done = int(last.removeprefix("checkpoint-"))
    assert 1 <= done < EPOCHS
    assert not killed.exists()

    counted: list[int] = []
    epoch = _Training._epoch

    def counting(self: _Training, number: int, images: np.ndarray) -> EpochRecord:
        counted.append(number)
        return epoch(self, number, images)

    monkeypatch.setattr(_Training, "_epoch", counting)
    run(benchmark, killed, method, epochs=EPOCHS, keep=KEPT)
    assert counted == list(range(done, EPOCHS))
    run(benchmark, whole, method, epochs=EPOCHS, keep=KEPT)
    assert counted[EPOCHS - done :] == list(range(EPOCHS))
    for name in ("weights.safetensors", "history.csv", "card.json", *(f"after-{number:04d}.safetensors" for number in KEPT)):
        assert (killed / name).read_bytes() == (whole / name).read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["killed", "whole"]


class Rig:
    """A small network with its optimiser, a few steps from its start."""

    def __init__(self, seed: int) -> None:
        torch.manual_seed(seed)
        self.modules = nn.ModuleDict({"network": nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)), "head": nn.Linear(4, 2)})
        self.optimiser = AdamW(self.modules.parameters(), 0.01)

    def step(self) -> None:
        inputs = torch.arange(15.0).view(5, 3)
        self.modules["head"](self.modules["network"](inputs)).square().sum().backward()
        self.optimiser.step(1e-2)


def test_a_step_is_that_of_torch_bit_for_bit() -> None:
    torch.manual_seed(0)
    start = [torch.randn(3, 4), torch.randn(5), torch.randn(2)]
    ours, theirs = ([nn.Parameter(value.clone()) for value in start] for _ in range(2))
    optimiser, reference = AdamW(ours, 0.05), torch.optim.AdamW(theirs, weight_decay=0.05, foreach=False, fused=False)
    for number in range(30):
        rate = 1e-2 * (1 + number % 7)
        # the last has a gradient in every third step only, as a head that no image of a batch is labelled for
        for i, (one, other) in enumerate(zip(ours, theirs, strict=True)):
            gradient = torch.randn_like(one) * 10.0 ** (number % 5 - 2)
            one.grad, other.grad = (None, None) if i == 2 and number % 3 else (gradient.clone(), gradient.clone())
        optimiser.step(rate)
        reference.param_groups[0]["lr"] = rate
        reference.step()
        assert all(torch.equal(one, other) for one, other in zip(ours, theirs, strict=True)), number
        assert all(one.grad is None for one in ours)


def test_training_does_not_load_the_compiler_of_torch(benchmark: Benchmark, tmp_path: Path) -> None:
    code = f"""
import sys
from pathlib import Path
from pipelines.benchmarks.index import Benchmark
from pipelines.params import EncoderParams
from pipelines.train import train
card = EncoderParams("net", "s", "cnn:small", "trained", twins=["untrained-cnn-small"])
train(Benchmark.read(Path({str(benchmark.folder)!r})), card, "weak", {SHORT!r}, Path({str(tmp_path / "net")!r}), 0, 1)
print(sorted({{"torch._dynamo", "torch._inductor", "sympy"}} & set(sys.modules)))
"""
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_a_checkpoint_restores_every_number(tmp_path: Path) -> None:
    one, other = Rig(0), Rig(1)
    one.step()
    history = [EpochRecord(1, 0.1 + 0.2, 1e-3)]
    Checkpoints(tmp_path, "run").save(one.modules, one.optimiser, history)
    assert Checkpoints(tmp_path, "run").restore(other.modules, other.optimiser) == history
    for rig in (one, other):
        rig.step()
    for name, value in one.modules.state_dict().items():
        assert torch.equal(value, other.modules.state_dict()[name]), name


def test_a_checkpoint_of_another_run_or_a_damaged_one_is_not_taken_up(tmp_path: Path) -> None:
    rig = Rig(0)
    rig.step()
    Checkpoints(tmp_path, "another").save(rig.modules, rig.optimiser, [EpochRecord(1, 1.0, 1e-3)])
    assert Checkpoints(tmp_path, "run").restore(rig.modules, rig.optimiser) == []
    Checkpoints(tmp_path, "run").save(rig.modules, rig.optimiser, [EpochRecord(1, 1.0, 1e-3)])
    path = tmp_path / "checkpoint-0001.safetensors"
    path.write_bytes(path.read_bytes()[:-20])
    assert Checkpoints(tmp_path, "run").restore(rig.modules, rig.optimiser) == []
    assert list(tmp_path.iterdir()) == []


def test_equal_checkpoints_have_equal_bytes(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        rig = Rig(0)
        rig.step()
        Checkpoints(tmp_path / folder, "run").save(rig.modules, rig.optimiser, [EpochRecord(1, 1.0, 1e-3)])
    contents = [(tmp_path / folder / "checkpoint-0001.safetensors").read_bytes() for folder in ("a", "b")]
    assert contents[0] == contents[1]


# ------------------------------------------------------------------------------------------------ what is refused


def test_an_unknown_method_lists_the_known(benchmark: Benchmark, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match=r"no training method `dino`\. Known: `simclr`, `supervised`, `weak`"):
        run(benchmark, tmp_path / "net", "dino")


@pytest.mark.parametrize("stated", [{"epoch": 3}, {"augmentation": {"flip": True}}])
def test_unknown_settings_are_refused(benchmark: Benchmark, tmp_path: Path, stated: dict[str, Any]) -> None:
    with pytest.raises(ParamsError, match=r"unknown key `(epoch|flip)`"):
        run(benchmark, tmp_path / "net", **stated)
    assert not (tmp_path / "net").exists()


def test_defaults_never_mirror_cells() -> None:
    """A reflection would teach a network that handedness means nothing."""
    for method in METHODS:
        assert not settings_for(method, "cells", {}).augmentation.mirror


def test_several_folds_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BenchmarkError, match=r"has 2 outer folds; .*single outer split"):
        run(write_images(tmp_path / "data", folds=2), tmp_path / "net")


def test_labels_that_are_not_there_are_named(benchmark: Benchmark, tmp_path: Path) -> None:
    with pytest.raises(BenchmarkError, match=r"the index lacks `Metadata_Dose`, named in `settings`\. It has: .*Metadata_Treatment"):
        run(benchmark, tmp_path / "net", labels=["Metadata_Dose"])
    with pytest.raises(BenchmarkError, match=r"lacks `Metadata_Donor`, named in `settings`"):
        run(benchmark, tmp_path / "net", "simclr", group=["Metadata_Donor"], groups=2)


def test_too_large_a_network_is_refused(benchmark: Benchmark, tmp_path: Path) -> None:
    large = EncoderParams("net", "s", "timm:resnet18", "trained", twins=["untrained-resnet18"])
    with pytest.raises(ParamsError, match="parameters; what is trained here has at most 1000000"):
        train(benchmark, large, "weak", SHORT, tmp_path / "net", 0, 1)


def test_an_encoder_without_twins_is_refused(benchmark: Benchmark, tmp_path: Path) -> None:
    with pytest.raises(CardError, match="no encoder stands without its controls"):
        train(benchmark, EncoderParams("net", "s", "cnn:small", "trained"), "weak", SHORT, tmp_path / "net", 0, 1)


def test_a_bad_training_image_is_named(tmp_path: Path) -> None:
    benchmark = write_images(tmp_path / "data")
    benchmark.paths(3)[0].write_bytes(b"II*\x00")
    with pytest.raises(ImageError, match="`p0-w3`"):
        run(benchmark, tmp_path / "net")


def test_fewer_images_than_a_batch_are_refused(benchmark: Benchmark, tmp_path: Path) -> None:
    with pytest.raises(ParamsError, match="10 training images, too few for one batch of 64"):
        run(benchmark, tmp_path / "net", batch=64)


# ------------------------------------------------------------------------------------------------ views and losses


def test_a_rotation_is_one_of_four_and_keeps_handedness() -> None:
    image = torch.arange(2 * 9.0).view(1, 2, 3, 3)
    turns = [torch.rot90(image[0], k, dims=(1, 2)) for k in range(4)]
    seen = set()
    for seed in range(40):
        (found,) = view(image, Augmentation(), torch.Generator().manual_seed(seed))
        matches = [k for k, turned in enumerate(turns) if torch.equal(found, turned)]
        assert len(matches) == 1
        seen.add(matches[0])
    assert seen == {0, 1, 2, 3}


def test_mirroring_and_rolling_keep_the_pixels() -> None:
    images = torch.rand(6, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    found = view(images, Augmentation(mirror=True, roll=True), torch.Generator().manual_seed(1))
    torch.testing.assert_close(found.flatten(2).sort(dim=2).values, images.flatten(2).sort(dim=2).values)
    assert not torch.equal(found, images)


def test_a_crop_lies_within_the_image_unless_it_rolls() -> None:
    image = torch.arange(64.0).view(1, 1, 8, 8)
    for seed in range(20):
        (crop,) = view(image, Augmentation(crop_px=5, rotate=False), torch.Generator().manual_seed(seed))
        assert torch.equal(crop[0, 1:] - crop[0, :-1], torch.full((4, 5), 8.0))
        assert torch.equal(crop[0, :, 1:] - crop[0, :, :-1], torch.ones(5, 4))


def test_gain_scales_light_and_density_scales_optical_density() -> None:
    images = torch.rand(4, 2, 5, 5, generator=torch.Generator().manual_seed(0)) * 0.8 + 0.1
    gain = view(images, Augmentation(rotate=False, gain_sd=0.3), torch.Generator().manual_seed(1)) / images
    density = torch.log(view(images, Augmentation(rotate=False, density_sd=0.3), torch.Generator().manual_seed(1))) / torch.log(images)
    for ratio in (gain, density):
        torch.testing.assert_close(ratio, ratio[:, :, :1, :1].expand_as(ratio), rtol=1e-4, atol=1e-4)
        assert len(torch.unique(ratio[:, :, 0, 0])) == 8


def test_views_that_cannot_be_are_refused() -> None:
    with pytest.raises(ParamsError, match="crop of at most 8 px, got 9"):
        view(torch.zeros(1, 1, 8, 8), Augmentation(crop_px=9), torch.Generator())
    with pytest.raises(ParamsError, match="8 x 6 px cannot be rotated"):
        view(torch.zeros(1, 1, 8, 6), Augmentation(), torch.Generator())
    with pytest.raises(ParamsError, match="at least 0"):
        Augmentation(gain_sd=-1.0)


def test_the_contrastive_loss_is_the_papers_formula() -> None:
    """Equation 1 of arXiv 2002.05709, written out pair by pair."""
    generator = torch.Generator().manual_seed(0)
    first, second = (functional.normalize(torch.randn(5, 8, generator=generator), dim=1) for _ in range(2))
    views = torch.cat([first, second]).numpy().astype(np.float64)
    losses = []
    for i in range(10):
        similar = np.exp(views @ views[i] / 0.2)
        losses.append(-np.log(similar[(i + 5) % 10] / (similar.sum() - similar[i])))
    assert contrastive_loss(first, second, 0.2).item() == pytest.approx(np.mean(losses), rel=1e-5)


def test_images_without_a_label_do_not_enter_the_loss() -> None:
    torch.manual_seed(0)
    heads, vectors = Heads(4, {"a": 2, "b": 3}), torch.randn(6, 4)
    labels = torch.tensor([[0, UNLABELLED], [1, 2], [UNLABELLED, 0], [0, UNLABELLED], [1, 1], [0, 2]])
    parts = []
    for number in range(2):
        known = labels[:, number] != UNLABELLED
        parts.append(functional.cross_entropy(heads.heads[number](vectors[known]), labels[known, number]))
    torch.testing.assert_close(heads.loss(vectors, labels), torch.stack(parts).mean())
    none = torch.full((6, 2), UNLABELLED)
    none[:, 0] = labels[:, 0]
    torch.testing.assert_close(heads.loss(vectors, none), parts[0])


def test_an_epoch_holds_every_image_at_most_once() -> None:
    order = list(batches(np.zeros(23, np.int64), 0, 5, np.random.default_rng(0)))
    assert [len(batch) for batch in order] == [5, 5, 5, 5]
    assert len(np.unique(np.concatenate(order))) == 20


def test_a_batch_holds_the_stated_number_of_groups_in_equal_parts() -> None:
    groups = np.repeat(np.arange(6), 8)
    order = list(batches(groups, 2, 8, np.random.default_rng(0)))
    for batch in order:
        assert sorted(np.unique(groups[batch], return_counts=True)[1]) == [4, 4]
    taken = np.concatenate(order)
    assert len(np.unique(taken)) == len(taken) == 48

"""A tiny real bundle: small torch networks exported by the product itself, heads fitted by scikit-learn, golden images by torch."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
import torch
from numpy.typing import NDArray
from PIL import Image as Pillow
from sklearn.linear_model import LogisticRegression
from torch import nn

from registry.bundle import Arrays, BundleCard, CompanionParts, Golden, write_bundle
from registry.cards import EncoderCard
from registry.evidence import Comparison, Scorecard, TaskEvidence
from registry.export import ExportReport, export_onnx
from registry.files import sha256_of_file, write_json
from registry.heads import Head
from registry.images import ImageSpec
from registry.reference import ReferenceSet

CELLS = ImageSpec(("dna", "er", "actin"), "uint16", 24, 20, ((0.0, 4095.0),) * 3, pixel_size_um=0.65)
TISSUE = ImageSpec(("red", "green", "blue"), "uint8", 24, 20, ((0.0, 255.0),) * 3)
TASKS = {"phase": ("G1", "S", "G2"), "treated": ("no", "yes")}


class TinyEncoder(nn.Module):
    """Raw pixels -> 6 numbers, with a BatchNorm whose statistics matter."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.convolution = nn.Conv2d(3, 6, 3, padding=1)
        self.norm = nn.BatchNorm2d(6)
        for tensor in (*self.parameters(), self.norm.running_mean):
            tensor.data.copy_(torch.randn(tensor.shape, generator=generator))
        self.norm.running_var.copy_(torch.rand(6, generator=generator) + 0.5)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.norm(self.convolution(pixels / 4095.0 - 0.5))).mean(dim=(2, 3))


class Intensity(nn.Module):
    """Raw pixels -> mean and mean square of each channel."""

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        scaled = pixels / 4095.0
        return torch.cat([scaled.mean(dim=(2, 3)), (scaled**2).mean(dim=(2, 3))], dim=1)


@dataclass(frozen=True)
class TinyBundle:
    """A bundle and what its source computes.

    Attributes:
        folder: the bundle.
        train: (m, c, y, x) images that its heads were fitted to.
        images: (n, c, y, x) that no head was fitted to.
        embedding: (n, d) of them by torch.
        probabilities: per voice and task, (n, k) by scikit-learn.
    """

    folder: Path
    train: NDArray[Any]
    images: NDArray[Any]
    embedding: NDArray[np.float32]
    probabilities: dict[tuple[str, str], NDArray[np.float64]]


def tiny_images(n: int, seed: int) -> NDArray[np.uint16]:
    generator = np.random.default_rng(seed)
    level = generator.uniform(200, 1500, (n, 3, 1, 1))
    return np.clip(generator.normal(level, 0.3 * level, (n, *CELLS.shape)), 0, 4095).astype(np.uint16)


def embed(network: nn.Module, images: NDArray[Any]) -> NDArray[np.float32]:
    with torch.inference_mode():
        return network.eval()(torch.from_numpy(images.astype(np.float32))).numpy()


def labels(images: NDArray[Any], task: str) -> NDArray[np.str_]:
    level = images[:, 0].mean(axis=(1, 2)) if task == "phase" else images[:, 1].mean(axis=(1, 2))
    classes = np.array(TASKS[task])
    return classes[np.searchsorted(np.quantile(level, np.arange(1, len(classes)) / len(classes)), level)]


def encoder_card(name: str, role: str) -> EncoderCard:
    return EncoderCard(name, role, f"A tiny {role}.", architecture="cnn:tiny", twins=("untrained-tiny",) if role == "encoder" else ())


def evidence(task: str, servable: str = "intensity") -> TaskEvidence:
    def against(control: str, role: str, value: float) -> Comparison:
        return Comparison(control, role, 0.8 - value, 0.0, 0.2, 0.21, 0.03, value)

    return TaskEvidence(
        task=task,
        question=f"Which {task} is the cell in?",
        metric="logistic.balanced_accuracy",
        protocol_id="logistic/v1",
        value=0.8,
        word="undecided",
        twin_word="beats",
        p=0.03,
        p_holm=0.06,
        gain=-0.1,
        low=-0.2,
        high=0.1,
        against="composition",
        n_units=12,
        n_eff=11.0,
        sentence=f"On `{task}`, tiny is undecided against its controls.",
        detail="These units could have detected a difference of 0.2.",
        comparisons=[
            against("untrained-tiny/fresh", "twin", 0.6),
            against("untrained-tiny/calibrated", "twin", 0.65),
            against("intensity", "negative", 0.7),
            against("composition", "negative", 0.9),
        ],
        servable_control=servable,
        unservable=[{"name": "composition", "value": 0.9, "reason": "It needs a table of nuclei, which an image alone does not give."}],
    )


@dataclass(frozen=True)
class Exported:
    """One voice: its network, its file and what the export measured."""

    role: str
    network: nn.Module
    onnx: Path
    report: ExportReport


def export_networks(folder: Path) -> dict[str, Exported]:
    """The encoder, its twin and a control, exported; by row, the encoder under "encoder"."""
    networks = {"encoder": ("encoder", TinyEncoder(1)), "untrained-tiny": ("twin", TinyEncoder(2)), "intensity": ("negative", Intensity())}
    images = tiny_images(7, 12).astype(np.float32)
    paths = {row: folder / f"{row}.onnx" for row in networks}
    return {row: Exported(role, network, paths[row], export_onnx(network, images, paths[row])) for row, (role, network) in networks.items()}


def make_bundle(
    folder: Path, exported: dict[str, Exported], spec: ImageSpec = CELLS, servable: str = "intensity", judged: Sequence[str] = TASKS, **changes: Any
) -> TinyBundle:
    """Build one bundle, named like its folder; `changes` replace arguments of `write_bundle`."""
    name = folder.name
    train, new = (tiny_images(n, seed).astype(spec.dtype) for n, seed in ((90, 10), (8, 11)))
    cards: dict[str, BundleCard] = {}
    heads: dict[str, Arrays] = {}
    probabilities = {}
    for row, voice in exported.items():
        cards[row] = BundleCard(
            card=encoder_card(name if row == "encoder" else row, voice.role),
            benchmark="cells",
            image=spec,
            dim=voice.report.dim,
            weights_sha256=voice.report.sha256,
            member="fresh-00" if voice.role == "twin" else "main",
            parity=voice.report.as_dict(),
        )
        known, unknown = embed(voice.network, train).astype(np.float64), embed(voice.network, new).astype(np.float64)
        arrays: dict[str, NDArray[Any]] = {}
        for task in TASKS:
            mean, scale = known.mean(axis=0), known.std(axis=0) + 1e-9
            model = LogisticRegression().fit((known - mean) / scale, labels(train, task))
            arrays |= Head.of(model.classes_, mean, scale, None, model.coef_, model.intercept_).as_arrays(task)
            probabilities[row, task] = model.predict_proba((unknown - mean) / scale)
        heads[row] = arrays
    encoder = exported["encoder"]
    known_answers = {task: probabilities["encoder", task][:4] for task in TASKS}
    golden = changes.get("golden", Golden(new[:4], embed(encoder.network, new[:4]), known_answers, withheld=""))
    companions = {row: exported[row] for row in ("untrained-tiny", "intensity")}
    answers = {row: embed(voice.network, golden.pixels) if golden is not None else None for row, voice in companions.items()}
    parts: dict[str, Any] = {
        "onnx": encoder.onnx,
        "heads": heads["encoder"],
        "reference": ReferenceSet(embed(encoder.network, train)),
        "golden": golden,
        "companions": [CompanionParts(cards[row], voice.onnx, heads[row], answers[row]) for row, voice in companions.items()],
        **changes,
    }
    tasks = [evidence(task, servable) for task in judged]
    card = Scorecard(name, "encoder", "cells", "Cells", "0" * 64, "plate", notes=["Plates as units."], tasks=tasks)
    write_bundle(folder, cards["encoder"], card, **parts)
    return TinyBundle(folder, train, new, embed(encoder.network, new), probabilities)


def seal(folder: Path) -> None:
    """Write the manifest of a bundle whose files were changed."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != "manifest.json")
    files = {path.relative_to(folder).as_posix(): sha256_of_file(path) for path in paths}
    write_json(folder / "manifest.json", {"format": 1, "files": files})


def npy(pixels: NDArray[Any]) -> bytes:
    stream = io.BytesIO()
    np.save(stream, pixels)
    return stream.getvalue()


def tiff(pixels: NDArray[Any], **options: Any) -> bytes:
    stream = io.BytesIO()
    tifffile.imwrite(stream, pixels, **options)
    return stream.getvalue()


def ome(pixels: NDArray[Any], names: tuple[str, ...] = CELLS.channels, size_um: float = 0.65) -> bytes:
    metadata = {"axes": "CYX", "Channel": {"Name": list(names)}, "PhysicalSizeX": size_um, "PhysicalSizeY": size_um}
    return tiff(pixels, ome=True, photometric="minisblack", metadata=metadata)


def png(pixels: NDArray[Any]) -> bytes:
    stream = io.BytesIO()
    Pillow.fromarray(np.moveaxis(pixels, 0, -1)).save(stream, "PNG")
    return stream.getvalue()

"""A bundle that can be served, made without torch: mean of each channel, a matrix product, heads by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from registry.bundle import BundleCard, CompanionParts, Golden, write_bundle
from registry.files import sha256_of_file
from registry.heads import Head
from registry.images import ImageSpec
from registry.reference import ReferenceSet
from tests.registry.scorecards import IMAGE, encoder_card, scorecard, tiny_onnx

RGB = ImageSpec(("red", "green", "blue"), "uint8", IMAGE.height, IMAGE.width, ((0.0, 255.0),) * 3)
CLASSES = ("left", "right")


def pixels(count: int, seed: int = 0, spec: ImageSpec = IMAGE) -> NDArray[np.generic]:
    """(n, c, y, x) images that the bundle takes."""
    high = 256 if spec.dtype == "uint8" else 4000
    return np.random.default_rng(seed).integers(0, high, (count, *spec.shape)).astype(spec.dtype)


def light_bundle(folder: Path, spec: ImageSpec = IMAGE, dim: int = 5) -> Path:
    """A bundle named like its folder, with an untrained twin."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    channels = len(spec.channels)

    def head(seed: int) -> Head:
        rng = np.random.default_rng(seed)
        return Head.of(np.array(CLASSES), np.full(dim, 100.0), np.full(dim, 2000.0), None, rng.normal(size=(1, dim)), np.zeros(1))

    files = {name: tiny_onnx(folder.parent / f"{folder.name}-{name}.onnx", seed, channels, dim) for name, seed in (("encoder", 0), ("twin", 99))}
    card = BundleCard(encoder_card(folder.name), "culture", spec, dim, weights_sha256=sha256_of_file(files["encoder"]))
    twin = BundleCard(encoder_card("untrained-cnn", "twin"), "culture", spec, dim, weights_sha256=sha256_of_file(files["twin"]), member="fresh-00")
    golden = pixels(4, 7, spec)

    def embed(seed: int) -> NDArray[np.float32]:
        weights = np.random.default_rng(seed).normal(size=(channels, dim)).astype(np.float32)
        return (golden.astype(np.float32).mean(axis=(2, 3)) @ weights).astype(np.float32)

    embedding = embed(0)
    evidence = scorecard(folder.name)
    judged = replace(evidence.tasks[0], unservable=[{"name": "density", "value": 0.8, "reason": "It counts nuclei."}])
    write_bundle(
        folder,
        card,
        replace(evidence, tasks=[judged], notes=["A note."]),
        onnx=files["encoder"],
        heads=head(0).as_arrays("chirality"),
        reference=ReferenceSet(embedding),
        golden=Golden(golden, embedding, {"chirality": head(0).predict_proba(embedding)}, withheld=""),
        companions=[CompanionParts(twin, files["twin"], head(99).as_arrays("chirality"), embed(99))],
    )
    return folder

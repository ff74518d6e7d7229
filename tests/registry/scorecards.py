"""Tiny but whole pieces of evidence: scorecards with stated gains, an ONNX file of four nodes, bundles made of both."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from registry.bundle import Bundle, BundleCard, CompanionParts, Golden, write_bundle
from registry.cards import EncoderCard
from registry.evidence import Comparison, Scorecard, ScoreEntry, TaskEvidence
from registry.files import sha256_of_file
from registry.images import ImageSpec
from registry.reference import ReferenceSet

IMAGE = ImageSpec(("dna", "actin"), "uint16", 6, 5, ((0.0, 4000.0), (100.0, 3000.0)), 0.65)
PARITY = {"opset": 20, "images": 4, "dim": 2, "max_abs": 1e-7, "relative": 1e-7, "cosine": 1.0, "standardised": 1e-6, "batch": 0.0, "sha256": ""}


@dataclass(frozen=True)
class Against:
    """One comparison in short: gain, half the width of its interval, p."""

    gain: float
    half: float = 0.01
    p: float | None = 0.0001
    role: str = "negative"


def comparison(control: str, against: Against) -> Comparison:
    low, high, corrected = against.gain - against.half, against.gain + against.half, against.gain + 1.4 * against.half
    if against.p is None:
        return Comparison(control, against.role, against.gain, None, None, None, None, 0.7 - against.gain)
    return Comparison(control, against.role, against.gain, low, high, corrected, against.p, 0.7 - against.gain)


def task(name: str, controls: Mapping[str, Against], *, word: str = "beats", twin_word: str = "beats", confounded: bool = False) -> TaskEvidence:
    found = [comparison(control, against) for control, against in controls.items()]
    deciding = [c for c in found if c.role != "aside"]
    p = max((1.0 if c.p is None else c.p) for c in deciding)
    worst = min(deciding, key=lambda c: c.gain)
    return TaskEvidence(
        task=name,
        question=f"which {name}?",
        metric="logistic.balanced_accuracy",
        protocol_id="p1",
        value=0.7,
        word=word,
        twin_word=twin_word,
        p=p,
        p_holm=p,
        gain=worst.gain,
        low=worst.low,
        high=worst.high_corrected,
        against=worst.control,
        n_units=24,
        n_eff=22.5,
        sentence=f"on `{name}`, the encoder {word} its controls",
        detail="",
        comparisons=found,
        beyond={"bits": 0.031, "low": 0.01, "high": 0.05, "word": "beats", "note": ""},
        confounded=confounded,
    )


def controls(gain: float, twin: float | None = None, **others: Against) -> dict[str, Against]:
    """A twin and two negative controls at one gain."""
    twin = gain if twin is None else twin
    p = {True: 0.0001, False: 0.6}
    return {
        "untrained-cnn/fresh": Against(twin, p=p[twin > 0.02], role="twin"),
        "density": Against(gain, p=p[gain > 0.02]),
        "texture": Against(gain + 0.05, p=p[gain > -0.03]),
        **others,
    }


def entry(name: str, metric: str = "logistic.balanced_accuracy", value: float = 0.7, variant: str = "", **changed: Any) -> ScoreEntry:
    found = ScoreEntry(name, metric, variant, "p1", value, 1, 0.0, value - 0.05, value + 0.05, 480, 24, 22.5, 0.5, True)
    return replace(found, **changed)


def scorecard(
    row: str = "simclr", *, role: str = "encoder", benchmark: str = "culture", modality: str = "cells", tasks: tuple[TaskEvidence, ...] | None = None
) -> Scorecard:
    tasks = (task("chirality", controls(0.12)),) if tasks is None and role == "encoder" else (tasks or ())
    return Scorecard(
        row=row,
        role=role,
        benchmark=benchmark,
        benchmark_title=f"Simulated {benchmark}",
        data_hash=f"{benchmark:0<64}",
        unit="plate",
        scores=[entry(t.task) for t in tasks] or [entry("chirality", value=0.52)],
        tasks=list(tasks),
        provenance={"numpy": np.__version__},
        modality=modality,
    )


def encoder_card(name: str = "simclr", role: str = "encoder", **changed: Any) -> EncoderCard:
    twins = ("untrained-cnn",) if role == "encoder" else ()
    return EncoderCard(name, role, f"{name} in a test", architecture="cnn:tiny", weights="trained", twins=twins, **changed)


def tiny_onnx(path: Path, seed: int = 0, channels: int = 2, dim: int = 2) -> Path:
    """(n, c, y, x) float32 -> mean over pixels -> matrix product -> (n, dim), written with onnx alone: no torch is loaded."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    weights = np.random.default_rng(seed).normal(size=(channels, dim)).astype(np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("ReduceMean", ["pixels", "axes"], ["means"], keepdims=0),
            helper.make_node("MatMul", ["means", "weights"], ["embedding"]),
        ],
        "tiny",
        [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["batch", channels, IMAGE.height, IMAGE.width])],
        [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["batch", dim])],
        [numpy_helper.from_array(weights, "weights"), numpy_helper.from_array(np.array([2, 3], np.int64), "axes")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    return path


def heads(seed: int = 0) -> dict[str, np.ndarray]:
    coefficients = np.random.default_rng(seed).normal(size=(1, 2))
    return {"chirality/coef": coefficients, "chirality/intercept": np.zeros(1), "chirality/classes": np.array(["left", "right"])}


def images(count: int = 4, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(100, 4000, size=(count, *IMAGE.shape)).astype(np.uint16)


def make_bundle(
    folder: Path,
    *,
    row: str = "simclr",
    role: str = "encoder",
    seed: int = 0,
    card: Scorecard | None = None,
    companion: bool = True,
    onnx: bool = True,
    nearer: float = 1.0,
    withheld: str = "",
) -> Bundle:
    """A bundle below `folder`, named after its row; its golden answers are computed in numpy."""
    evidence = card or scorecard(row, role=role)
    work = folder.parent / f"making-{folder.name}-{row}"
    work.mkdir(parents=True, exist_ok=True)
    encoder = tiny_onnx(work / "encoder.onnx", seed)
    facts = BundleCard(encoder_card(row, role), evidence.benchmark, IMAGE, 2, weights_sha256=sha256_of_file(encoder), parity=PARITY)
    if not onnx:
        facts = replace(facts, weights_sha256="", unservable="it needs the plate layout, which an image does not hold", parity={})
    pixels = images()
    weights = np.random.default_rng(seed).normal(size=(2, 2)).astype(np.float32)
    embedding = (pixels.astype(np.float32).mean(axis=(2, 3)) @ weights).astype(np.float32)
    whose = {} if withheld else {"licence": "CC-BY-4.0", "terms": "Image of `culture`, CC-BY-4.0: A. Author 2020."}
    twin = tiny_onnx(work / "twin.onnx", 99)
    twin_card = BundleCard(
        encoder_card("untrained-cnn", "twin"), evidence.benchmark, IMAGE, 2, weights_sha256=sha256_of_file(twin), member="fresh-00"
    )
    return write_bundle(
        folder,
        facts,
        evidence,
        onnx=encoder if onnx else None,
        heads=heads(seed),
        reference=ReferenceSet(nearer * embedding),
        golden=Golden(pixels, embedding, {"chirality": np.full((len(pixels), 2), 0.5)}, withheld, **whose) if onnx else None,
        companions=[CompanionParts(twin_card, twin, heads(99))] if companion else [],
    )

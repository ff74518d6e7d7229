"""A small workspace as the pipeline leaves it, for the tests of the report: real images and tables, every kind of verdict."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml
from PIL import Image

from pipelines.benchmarks.card import BenchmarkCard, Task
from pipelines.benchmarks.index import Benchmark, write_benchmark
from pipelines.beside.knowledge import Knowledge
from pipelines.beside.knowledge import write as write_knowledge
from pipelines.beside.probing import ALL, CODE_LENGTH, CONTROL_TASK, FEW_SHOT, SELECTIVITY, Probed
from pipelines.beside.probing import write as write_probing
from pipelines.beside.replicates import Replicates
from pipelines.beside.replicates import write as write_replicates
from pipelines.current import metric_facts
from pipelines.embeddings import Manifest
from pipelines.scores import Confound, write_confounds
from pipelines.workspace import Workspace
from registry.cards import EncoderCard
from registry.evidence import AtCommonDim, Comparison, Scorecard, ScoreEntry, TaskEvidence
from registry.files import sha256_of_file, write_json
from registry.images import ImageSpec

HOSTILE = "<script>alert('cells')</script> & \"quotes\""
PROTOCOL = "logistic/standardise/pca128/balanced/C=0.01,1,100-until-two-rises/inner3-by-group/v6"
#: benchmark -> task -> verdict
STORY = {
    "culture": {"count": "loses", "texture": "equivalent", "chirality": "beats", "position": "undecided"},
    "tissue": {"arrangement": "not assessable"},
    "everyday": {"class": "beats"},
}
#: a confound of the first benchmark: it has scores and no verdict
NUISANCE = "half"
NARROW = PROTOCOL.replace("pca128", "pca64")


def make_workspace(root: Path, title: str = "Simulated screen") -> Workspace:
    """Three benchmarks: five-channel fluorescence, H&E-like RGB with few patients, natural images with images as units."""
    workspace = Workspace(root)
    root.mkdir(parents=True, exist_ok=True)
    _culture(workspace.data("culture"), title)
    _tissue(workspace.data("tissue"))
    _everyday(workspace.data("everyday"))
    for name, story in STORY.items():
        _results(workspace, Benchmark.read(workspace.data(name)), story)
    values = {"seed": 0, "threads": 1, "cells": {}, "compare": list(STORY), "benchmarks": {"culture": {"simulator": "culture", "seed": 1}}}
    (root / "params.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
    write_json(workspace.ladder("culture") / "ladder.json", ladder(metric_facts(workspace, workspace.params(), "culture")))
    return workspace


def scorecards(workspace: Workspace) -> list[Scorecard]:
    """Every scorecard of the workspace, read without the code under test."""
    import json

    paths = sorted((workspace.root / "out" / "verdicts").glob("*/*.scorecard.json"))
    return [Scorecard.from_dict(json.loads(path.read_text(encoding="utf-8"))) for path in paths]


# ------------------------------------------------------------------------------------------------ metrics

BLIND = "Blind here: `logistic.calibration_error` (scores a constant as high). No ladder rises on `texture`: no metric is judged there."


def ladder(made_with: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """What `blankslide ladder` leaves: two tasks, three metrics, five runs of four rungs each."""
    tasks = [_ladder_task("count", {"simclr": True, "supervised": False}), _ladder_task("texture", {"simclr": False, "supervised": False})]
    names = ["logistic.balanced_accuracy", "logistic.calibration_error", "geometry.participation_ratio"]
    kendall = [[1.0, -0.42, 0.61], [-0.42, 1.0, 0.04], [0.61, 0.04, 1.0]]
    return {
        "benchmark": "culture",
        "made_with": made_with,
        "settings": {"seeds": 5},
        "notes": ["Trained and tested on the first of 3 outer splits."],
        "rungs": {"simclr": {"of": "epochs", "at": [0, 1, 2, 8]}, "supervised": {"of": "epochs", "at": [0, 2, 6, 20]}},
        "tasks": tasks,
        "summary": BLIND,
        "agreement": {
            "tasks": ["count"],
            "encoders": {"metrics": names, "n": 40, "kendall": kendall, "spearman": kendall},
            "rows": {"metrics": names[:2], "n": 8, "kendall": [[1.0, 0.87], [0.87, 1.0]], "spearman": [[1.0, 0.9], [0.9, 1.0]]},
        },
    }


def _ladder_task(task: str, rising: dict[str, bool]) -> dict[str, Any]:
    judged_on = [name for name, rises in rising.items() if rises]

    def metric(name: str, word: str, rewards: list[str], values: list[float], constant: float, larger: bool = True) -> dict[str, Any]:
        found = {"tau": 0.8, "low": 0.433, "high": 1.0, "values": [[v + 0.001 * seed for v in values] for seed in range(5)]}
        return {
            "metric": name,
            "word": word if judged_on else "no ladder",
            "rewards": rewards if judged_on else [],
            "judged_on": judged_on,
            "larger_is_better": larger,
            "ladders": dict.fromkeys(rising, found),
            "constant": constant,
            "noise": 0.497,
            "permuted": None if name.startswith("geometry.") else 0.512,
            "batch": None,
        }

    metrics = [
        metric("logistic.balanced_accuracy", "orders", [], [0.6, 0.65, 0.7, 0.9], 0.5),
        metric("logistic.calibration_error", "blind", ["constant"], [0.2, 0.15, 0.1, 0.05], 0.0, larger=False),
        metric("geometry.participation_ratio", "reversed", [], [7.0, 6.0, 5.0, 4.0], 0.0),
    ]
    return {"task": task, "ladders": {name: {"rises": rises} for name, rises in rising.items()}, "metrics": metrics}


# ------------------------------------------------------------------------------------------------ benchmarks


def _culture(folder: Path, title: str) -> None:
    rng = np.random.default_rng(1)
    (folder / "images").mkdir(parents=True)
    records = []
    for i in range(24):
        y, x = np.mgrid[:32, :32]
        cells = sum(np.exp(-((y - cy) ** 2 + (x - cx) ** 2) / 18) for cy, cx in rng.uniform(6, 26, (5 + i % 2, 2)))
        pixels = rng.poisson(np.stack([100 + 400 * cells * rng.uniform(0.3, 1) for _ in range(5)])).astype(np.uint16)
        np.save(folder / "images" / f"{i:02d}.npy", pixels)
        records.append(
            {
                "image_id": f"P{i // 2:02d}-{i % 2}",
                "path": f"images/{i:02d}.npy",
                "unit": f"P{i // 2:02d}",
                "Metadata_Plate": f"P{i // 2:02d}",
                "fold": -1 if i < 4 else 0,
                "label_count": f"{5 + i % 2} cells",
                "label_texture": ("fine", "coarse")[i // 2 % 2],
                "label_chirality": ("clockwise", "counterclockwise")[i // 3 % 2],
                "label_position": f"column {1 + i % 11}",
                f"label_{NUISANCE}": ("left", "right")[i % 2],
                "sha256": sha256_of_file(folder / "images" / f"{i:02d}.npy"),
            }
        )
    tasks = tuple(Task(name, f"What is the {name}?", expectation=f"`density` is at chance on {name}.") for name in STORY["culture"])
    tasks += (Task(NUISANCE, "In which half of the plate did it lie?", nuisance=True),)
    card = BenchmarkCard(
        name="culture",
        title=title,
        modality="cells",
        image=ImageSpec(("DNA", "ER", "RNA", "AGP", "Mito"), "uint16", 32, 32, ((100.0, 600.0),) * 5, 2.0),
        unit="plate",
        tasks=tasks,
        licence="CC0-1.0",
        notes=("Simulated: the truth is planted and known.",),
        truth={"simulator": "culture", "seed": 1, "effects": {"count": "5 or 6 cells, exactly"}, "matched": {"chirality": ["density", "spectrum"]}},
    )
    write_benchmark(folder, card, pd.DataFrame(records))


def _tissue(folder: Path) -> None:
    rng = np.random.default_rng(2)
    (folder / "images").mkdir(parents=True)
    records = []
    for i in range(16):
        pixels = np.clip(rng.normal((215, 150, 195), 12, (40, 48, 3)), 0, 255)
        for cy, cx in rng.uniform(3, 37, (14, 2)):
            y, x = np.mgrid[:40, :48]
            pixels[(y - cy) ** 2 + (x - cx) ** 2 < 7] = (90, 60, 140)
        Image.fromarray(pixels.astype(np.uint8)).save(folder / "images" / f"{i:02d}.png")
        records.append(
            {
                "image_id": f"t{i:02d}",
                "path": f"images/{i:02d}.png",
                "unit": f"patient {i // 4 + 1}",
                "fold": i // 4 % 2,
                "label_arrangement": ("random", "clustered")[i % 2] if i < 14 else None,
                "sha256": sha256_of_file(folder / "images" / f"{i:02d}.png"),
            }
        )
    card = BenchmarkCard(
        name="tissue",
        title="Tissue of four patients",
        modality="tissue",
        image=ImageSpec(("red", "green", "blue"), "uint8", 40, 48, ((0.0, 255.0),) * 3, 0.5),
        unit="patient",
        tasks=(Task("arrangement", "Are the dark nuclei clustered?"),),
    )
    write_benchmark(folder, card, pd.DataFrame(records))


def _everyday(folder: Path) -> None:
    rng = np.random.default_rng(3)
    (folder / "images").mkdir(parents=True)
    records = []
    for i in range(12):
        pixels = np.kron(rng.integers(0, 255, (8, 8, 3)), np.ones((4, 4, 1))).astype(np.uint8)
        Image.fromarray(pixels).save(folder / "images" / f"{i:02d}.png")
        records.append(
            {
                "image_id": f"n{i:02d}",
                "path": f"images/{i:02d}.png",
                "unit": f"n{i:02d}",
                "fold": i % 3,
                "label_class": ("cat", "dog & <b>wolf</b>", "ship")[i % 3 if i < 6 else (i + 1) % 3],
                "sha256": sha256_of_file(folder / "images" / f"{i:02d}.png"),
            }
        )
    card = BenchmarkCard(
        name="everyday",
        title="Everyday photographs",
        modality="natural",
        image=ImageSpec(("red", "green", "blue"), "uint8", 32, 32, ((0.0, 255.0),) * 3, None, "linear"),
        unit="image",
        tasks=(Task("class", "What is in the picture?"),),
        notes=("Images as units: optimistic.",),
    )
    write_benchmark(folder, card, pd.DataFrame(records))


# ------------------------------------------------------------------------------------------------ results


def _results(workspace: Workspace, benchmark: Benchmark, story: dict[str, str]) -> None:
    name = benchmark.card.name
    empty = Scorecard("", "negative", name, benchmark.card.title, benchmark.data_hash(), benchmark.card.unit, list(benchmark.card.notes))
    empty = replace(empty, modality=benchmark.card.modality, provenance={"versions": {"numpy": "2.4.6", "torch": "2.14.1"}, "card_hash": "c" * 64})
    level = 1 / 2 if name != "everyday" else 1 / 3
    tasks = [task.name for task in benchmark.card.tasks]
    judged = [_evidence(t, w, name) for t, w in story.items()]
    again = [replace(s, value=s.value - 0.0301, protocol_id=NARROW, primary=False) for s in _scores(list(story), 0.8, level) if s.primary]
    cards = [
        replace(
            empty,
            row="simclr",
            role="encoder",
            scores=_scores(tasks, 0.8, level) + (_retrieved() if name == "culture" else []),
            tasks=judged,
            at_common_dim=again,
        ),
        replace(
            empty,
            row="untrained-cnn",
            role="twin",
            scores=_scores(tasks, 0.71, level, "fresh") + _scores(tasks, 0.73, level, "calibrated"),
        ),
        replace(empty, row="density", scores=_scores(tasks, 0.69, level), flags=["low_rank"]),
        replace(empty, row="random", scores=_scores(tasks, 0.5, level)),
        replace(empty, row="constant", scores=_scores(tasks, 0.5, level), flags=["collapsed", "low_rank"]),
        replace(empty, row="composition", not_applicable="the benchmark has no `nuclei.parquet`"),
        replace(empty, row="layout", scores=_scores(tasks, 0.93, level))
        if name == "culture"
        else replace(empty, row="layout", not_applicable="no wells"),
        replace(empty, row="oracle", role="positive", scores=_scores(tasks, 0.97, level)),
    ]
    for card in cards:
        write_json(workspace.verdicts(name) / f"{card.row}.scorecard.json", card.as_dict())
        if card.row != "oracle":
            _manifest(card, benchmark).write(workspace.embeddings(name) / "cell" / card.row)
    if name != "everyday":
        write_confounds(_folder(workspace, name), _confounds(benchmark, [c.row for c in cards if c.scores and c.row != "oracle"]))
        rows_asked = [c.row for c in cards if c.scores and c.row != "oracle"]
        write_probing(workspace.scores(name) / "cell", _probing(benchmark.card.unit, rows_asked, list(story), selective=name == "culture"))
    if name == "culture":
        asked = [c.row for c in cards if c.scores and c.row != "oracle"]
        write_replicates(workspace.scores(name) / "cell", _replicates(asked))
        write_knowledge(workspace.scores(name) / "cell", _knowledge(asked))
    verdicts = [asdict(t) | {"encoder": c.row} for c in cards for t in c.tasks]
    write_json(workspace.verdicts(name) / "verdicts.json", {"benchmark": name, "verdicts": verdicts})


def _folder(workspace: Workspace, benchmark: str) -> Path:
    folder = workspace.scores(benchmark) / "cell"
    folder.mkdir(parents=True)
    return folder


def _confounds(benchmark: Benchmark, rows: list[str]) -> list[Confound]:
    """A decoded column with an interval, a score that no row has, and one that one row lacks."""
    batch, found = ("plate" if benchmark.card.name == "culture" else benchmark.card.unit), []
    none = float("nan")
    for number, row in enumerate(rows):
        value = 0.4321 + 0.01 * number
        found.append(Confound(row, "main", "decoding", "row", value, value - 0.05, value + 0.05, 0.25, 20, ""))
        lacking = "not estimable: the vectors do not differ between images" if row == "constant" else ""
        found.append(Confound(row, "main", "kBET", batch, none if lacking else 0.1234, none, none, none if lacking else 0.9513, 20, lacking))
        found.append(Confound(row, "main", "NSC", batch, none, none, none, none, 20, "not estimable: no column says which `compound` it is"))
    return found


def _replicates(rows: list[str]) -> list[Replicates]:
    """A question that all rows have but one, one that none has, and a position that the design does not tell apart."""
    none, found = float("nan"), []
    for row in rows:
        lacking = "not estimable: it is fitted anew" if row == "constant" else ""
        value = none if lacking else 0.4567
        same = "not estimable: all replicates lie in the same well of their plates"
        controls = (none, 0, "not estimable: a constant has no correlation") if lacking else (0.4286, 7, "")
        none_known = (none, none, none, 0, none, none, "", none, "not estimable: the index names no control wells")
        found.append(Replicates(row, "activity", "p", *none_known, *controls))
        numbers = (value, 0.0, none if lacking else 0.75, 8, none, none, "" if lacking else same, value, lacking)
        shares = (none, none, none) if lacking else (0.625, 0.0, 0.25)
        found.append(Replicates(row, "replicability", "p", *numbers, *controls, *shares))
    return found


def _probing(unit: str, rows: list[str], tasks: list[str], *, selective: bool) -> list[Probed]:
    """A curve whose longest step one row lacks, a code, and control tasks that the second benchmark does not allow."""
    none, found = float("nan"), []
    why = "" if selective else f"not estimable: no `treatment` is met in one {unit} and another"
    for number, row in enumerate(rows):
        better = 0.03 * (len(rows) - number)
        for task in tasks:
            for shots in (1, 4, 16, ALL):
                lacking = "not estimable: a class has fewer than 16 training images" if (row, shots) == ("constant", 16) else ""
                value = none if lacking else 0.5 + better * (0.2 + 0.01 * (shots or 60))
                found.append(Probed(row, "main", task, FEW_SHOT, shots, "", value, none, none, none if shots == ALL else 0.0123, 0.5, 20, lacking))
            found.append(Probed(row, "main", task, CODE_LENGTH, ALL, unit, 0.9876 - better, none, none, none, 1.0, 20, ""))
            low, high = (none, none) if why else (better - 0.05, better + 0.05)
            found.append(Probed(row, "main", task, SELECTIVITY, ALL, "treatment", none if why else better, low, high, 0.02, 0.0, 20, why))
            found.append(Probed(row, "main", task, CONTROL_TASK, ALL, "treatment", none if why else 0.5432, none, none, 0.02, 0.5, 20, why))
    return found


def _knowledge(rows: list[str]) -> list[Knowledge]:
    """Questions that all rows have but one under two alignments, one that none has, an alignment that the design forbids, and other wells.

    Of two columns of labels, treatments of one share wells, and those of the other never do; some related pairs do.
    """
    none, found = float("nan"), []
    apart = "no two treatments of a label share a well, so that nothing can drop"
    for row in rows:
        for alignment in ("none", "centre-scale", "tvn"):
            lacking = "not estimable: the profile of `t1` is 0" if row == "constant" else ""
            lacking = "not estimable: Batch `p1` has 1 controls" if alignment == "tvn" else lacking
            value = none if lacking else {"none": 0.2121, "centre-scale": 0.3434}[alignment]
            numbers = (value, none, none, 0) if lacking else (value, 0.1010, 0.0049, 17)
            in_wells = (none, none, none, "") if lacking else (value - 0.0717, 0.0717, 0.6, "")
            found.append(Knowledge(row, "recall", "paths, null over genes", alignment, "p", *numbers, lacking, none, *in_wells))
            of_wells = (none, none, none, 0) if lacking else (value, 0.0303, none, 12)
            found.append(Knowledge(row, "consistency", "", alignment, "p", *of_wells, lacking, none if lacking else 0.2929))
            for labels, elsewhere in (("moa", (value - 0.0414, 0.0404, 0.8, "")), ("target", (value, 0.0, 1.0, apart))):
                of_labels = (none, none, none, 0) if lacking else (value, 0.0, 0.0123, 9)
                control = (none, none, none, "") if lacking else elsewhere
                found.append(Knowledge(row, "labels", labels, alignment, "p", *of_labels, lacking, none, *control))
            share = (none, none, none, 0) if lacking else (0.0, 0.0, none, 9)
            found.append(Knowledge(row, "labels found", "moa", alignment, "p", *share, lacking, least=none if lacking else 10 / 9))
            few = lacking or "not estimable: too few control wells"
            found.append(Knowledge(row, "magnitude", "", alignment, "p", none, none, none, 0, few))
    return found


def _manifest(card: Scorecard, benchmark: Benchmark) -> Manifest:
    twins = ("untrained-cnn",) if card.role == "encoder" else ()
    encoder = EncoderCard(card.row, card.role, f"what `{card.row}` is, in one sentence", twins=twins)
    return Manifest(
        row=card.row,
        benchmark=card.benchmark,
        card=encoder.as_dict(),
        card_hash="c" * 64,
        data_hash=card.data_hash,
        image=benchmark.card.image.as_dict(),
        dim=0 if card.not_applicable else 64,
        not_applicable=card.not_applicable,
    )


def _scores(tasks: list[str], value: float, chance: float, variant: str = "") -> list[ScoreEntry]:
    members, sd = (10, 0.021) if variant else (1, 0.0)
    found = []
    for number, task in enumerate(tasks):
        known = number % 3 < 2  # one task in three without intervals
        shifted = min(value + 0.011 * number, 0.999)
        for metric, primary in (("logistic.balanced_accuracy", True), ("logistic.auroc", False), ("knn.balanced_accuracy", False)):
            low, high = (max(shifted - 0.06, 0.0), min(shifted + 0.05, 1.0)) if known else (None, None)
            entry = ScoreEntry(task, metric, variant, PROTOCOL, shifted, members, sd, low, high, 240, 12 + number, 10.4, chance, primary)
            found.append(entry)
    return found


def _retrieved() -> list[ScoreEntry]:
    """Retrieval of two tasks: one whose replicates lie in other wells too, one whose layout is the same on every plate."""
    entry = ScoreEntry("count", "retrieval.map", "", PROTOCOL, 0.6234, 1, 0.0, 0.58, 0.67, 240, 12, 10.4, 0.25, False)
    control = {"value": 0.2711, "low": 0.24, "high": 0.301, "chance": 0.24, "n_images": 96, "protocol_id": "elsewhere", "note": ""}
    why = "not estimable: all images of a label lie in the same well of every plate"
    nothing = dict.fromkeys(("value", "low", "high", "chance")) | {"n_images": 0, "protocol_id": "elsewhere", "note": why}
    return [replace(entry, other_wells=control), replace(entry, task="texture", other_wells=nothing)]


def _evidence(task: str, word: str, benchmark: str) -> TaskEvidence:
    known = word != "not assessable"
    centre, half = {"beats": (0.09, 0.04), "loses": (-0.21, 0.05), "equivalent": (0.003, 0.012), "undecided": (0.03, 0.07)}.get(word, (0.1, 0.0))
    controls = [
        ("untrained-cnn/fresh", "twin", 0.05),
        ("untrained-cnn/calibrated", "twin", 0.03),
        ("density", "negative", 0.0),
        ("random", "negative", 0.2),
        ("constant", "negative", 0.2),
        ("layout", "aside", -0.02),
        ("oracle", "aside", -0.25),
    ]
    return TaskEvidence(
        task=task,
        question=f"What is the {task}?",
        metric="logistic.balanced_accuracy",
        protocol_id=PROTOCOL,
        value=0.8,
        word=word,
        twin_word="beats" if known else "not assessable",
        p=0.0004 if known else None,
        p_holm=0.021 if known else None,
        gain=centre,
        low=centre - half if known else None,
        high=centre + half if known else None,
        against="density",
        n_units=12 if known else 4,
        n_eff=10.4 if known else 3.9,
        sentence=f"on `{task}`, simclr {word} `density` on {benchmark} (gain {centre:.3f} [{centre - half:.3f}, 0.2], 12 plates)",
        detail="Undecided: a gain of 0.070 would have been detected." if word == "undecided" else "",
        comparisons=[_comparison(control, role, centre + d, half + 0.02 * (role == "twin"), known) for control, role, d in controls],
        share_of_gap={"value": 0.41, "low": 0.22, "high": 0.61, "note": ""} if word == "beats" else {},
        beyond=_beyond(word) if known else {},
        servable_control="density",
        unservable=[{"name": "cell-graph", "value": 0.99, "reason": "needs `nuclei.parquet`"}] if word == "loses" else [],
        confounded=word == "undecided",
        per_unit={} if known else {f"patient {i}": 0.5 + 0.1 * i for i in range(1, 5)},
        low_of_mean=centre - MEAN * half if known else None,
        high_of_mean=centre + MEAN * half if known else None,
        negligible=word == "equivalent",
        at_common_dim=_again(word, centre, half) if known else None,
        shortcut=_share(word),
    )


#: width of an interval over the mean of the twins, of one as one more draw
MEAN = 0.6


def _again(word: str, centre: float, half: float) -> AtCommonDim:
    """One verdict changes at the common dimension, in one nothing is fitted again."""
    found = "undecided" if word == "beats" else word
    refitted = [] if word == "loses" else ["simclr", "untrained-cnn"]
    return AtCommonDim(64, found, 0.77, centre - 0.03, centre - half - 0.03, centre + half - 0.03, "density", refitted, f"It is `{found}` at 64.")


def _share(word: str) -> dict[str, Any]:
    """A share, one too wide for a number, one that is not estimable, and none."""
    values = {
        "beats": (0.37, 0.21, 0.55, ""),
        "loses": (None, -0.3, 1.2, "too wide"),
        "equivalent": (None, None, None, "not estimable: `histogram` lacks"),
    }
    if word not in values:
        return {}
    return dict(zip(("value", "low", "high", "note"), values[word], strict=True), score=0.6111, sentence="", protocol_id="s")


def _beyond(word: str) -> dict[str, float | str]:
    """Bits that are new, and bits that are not."""
    if word == "beats":
        return {"bits": 0.12, "low": 0.05, "high": 0.2, "word": "beats", "sentence": "it adds 0.120 bits", "note": "0.9 bits left."}
    return {"bits": 0.0004, "low": -0.001, "high": 0.002, "word": "equivalent", "sentence": "it adds 0.000 bits, nothing new", "note": "0.001 left."}


def _comparison(control: str, role: str, gain: float, half: float, known: bool) -> Comparison:
    bounds = (gain - half, gain + half, gain + 1.2 * half, 0.01) if known else (None, None, None, None)
    share = MEAN if role == "twin" else 1.0
    of_mean = (gain - share * half, gain + share * half) if known else (None, None)
    return Comparison(control, role, gain, *bounds, 0.8 - gain, *of_mean)

"""Every score and verdict of a large benchmark, and everything that is asked beside its tasks: time and memory.

    python benchmarks/bounds.py                 # 10,000 images x 10 rows x 384 dimensions
    python benchmarks/bounds.py --images 1000
    python benchmarks/bounds.py --folds 5       # every plate is tested once, as of imports without a split of their own

Vectors are drawn (the encoder knows the label, its ten untrained draws and eight controls, `intensity` and `histogram` among them, know less of
it), written as tables, and go through the flow's own stages: extract (a look-up here), evaluate, oracle, diagnose. 100 plates in ten batches and two
centres, a fifth of them tested; two tasks, of 4 and of 2 classes. It is a screen of 320 treatments and control wells in other places on every
plate, of which entities, relations, targets and mechanisms are known, and every image has counts of 50 genes. So all of it is asked: every position
and batch, replicates, what is known of perturbations, gene expression, bits and the share of brightness too.
Exit code 1 when it takes ten minutes or 4 GB (proportional set size of all processes together, sampled) or more, 2 when a stage fails or a question
got no answer. Processor seconds are told beside the clock: where others compute too, ten minutes of two cores are at most 1,200 of them.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import yaml

from pipelines.benchmarks.card import BenchmarkCard, Task
from pipelines.benchmarks.index import Benchmark, write_benchmark
from pipelines.benchmarks.known import RELATIONS, TARGETS
from pipelines.benchmarks.profiles import write_table
from pipelines.beside import expression, knowledge, probing, replicates
from pipelines.brightness import HISTOGRAM, INTENSITY
from pipelines.params import CellParams, EncoderParams, Params
from pipelines.scores import read_confounds
from pipelines.study import asdict_without_none
from registry.cards import TABLE
from registry.evidence import Scorecard
from registry.files import read_json
from registry.images import ImageSpec

MOST_S, MOST_GB = 600.0, 4.0
PLATES, DRAWS, CONTROLS = 100, 10, 8
WELLS, GUIDES, GENES = 96, 240, 50
NAME = "large"


def make(root: Path, images: int, dims: int, folds: int) -> None:
    """A benchmark without images, its tables and parameters."""
    rng = np.random.default_rng(0)
    plate, place = np.arange(images) % PLATES, np.arange(images) // PLATES % WELLS
    # a sixth of the wells are controls; which treatments a plate has, one plate in four shares, where they lie none
    on_plate = np.stack([rng.permutation(WELLS) for _ in range(PLATES)])[plate, place]
    control = on_plate < WELLS // 6
    number = on_plate - WELLS // 6 + (WELLS - WELLS // 6) * (plate // 5 % 4)
    treatment = np.where(control, on_plate, number) % 4
    gene = ~control & (number < GUIDES)
    index = pd.DataFrame(
        {
            "image_id": [f"i{i:06d}" for i in range(images)],
            "path": "",
            "sha256": "",
            "Metadata_Plate": [f"p{p:03d}" for p in plate],
            "Metadata_Well": [f"{'ABCDEFGH'[w // 12]}{1 + w % 12:02d}" for w in place],
            "Metadata_Row": ["ABCDEFGH"[w // 12] for w in place],
            "Metadata_Column": [f"{1 + w % 12:02d}" for w in place],
            "Metadata_Site": [f"s{1 + (w + p) % 4}" for w, p in zip(place, plate, strict=True)],
            "Metadata_Batch": [f"b{p // 10}" for p in plate],
            "Metadata_Centre": [f"c{p // 50}" for p in plate],
            "Metadata_Treatment": np.where(control, "DMSO", [f"t{t:03d}" for t in number]),
            "Metadata_Entity": pd.Series([f"g{t // 2:03d}" for t in number]).where(gene),
            "Metadata_control": control,
            "labels_mechanism": pd.Series([f"m{t % 30:02d}|m{t % 7:02d}" for t in number]).where(~control),
            "unit": [f"p{p:03d}" for p in plate],
            "fold": np.where(plate % 5 == 0, 0, -1) if folds == 1 else plate % folds,
            "label_kind": [f"k{t}" for t in treatment],
            "label_half": [f"h{t // 2}" for t in treatment],
        }
    )
    genes = [f"g{g:03d}" for g in range(GUIDES // 2)]
    pairs = pd.DataFrame(rng.choice(genes, (300, 2)), columns=["entity1", "entity2"]).query("entity1 != entity2").assign(source="drawn")
    compounds = sorted({f"t{t:03d}" for t in number[~control & ~gene]})
    aims = pd.DataFrame({"compound": compounds, "gene": rng.choice(genes, len(compounds)), "nanomolar": 10.0})
    counts = pd.DataFrame(rng.poisson(np.exp(1 + 0.3 * np.eye(GENES)[treatment])), columns=[f"e{g:02d}" for g in range(GENES)])
    tasks = (Task("kind", "Which kind?"), Task("half", "Which half?"))
    card = BenchmarkCard(NAME, "Large", "cells", ImageSpec.none(), "plate", tasks)
    known = {RELATIONS: pairs.loc[:, ["source", "entity1", "entity2"]], TARGETS: aims}
    benchmark = write_benchmark(root / "data" / NAME, card, index, expression=counts.assign(image_id=index["image_id"]), known=known)
    of_plate = rng.normal(size=(PLATES, dims))

    def vectors(signal: float) -> np.ndarray:
        x = rng.normal(size=(images, dims)) + of_plate[plate]
        x[:, :4] += signal * np.eye(4)[treatment]
        mixed: np.ndarray = (x @ rng.normal(size=(dims, dims)) / np.sqrt(dims)).astype(np.float32)
        return mixed

    cells = [row(root, benchmark, EncoderParams("encoder", "s", TABLE, "", twins=["untrained"]), {"main": vectors(2.0)}, dims)]
    draws = {f"fresh-{k:02d}": vectors(1.0) for k in range(DRAWS)}
    cells.append(row(root, benchmark, EncoderParams("untrained", "s", TABLE, "", role="twin"), draws, dims))
    cells += [
        row(root, benchmark, EncoderParams(name, "s", TABLE, "", role="negative"), {"main": vectors(0.1 * k)}, dims)
        for k, name in enumerate((INTENSITY, HISTOGRAM, *(f"control-{k}" for k in range(CONTROLS - 2))))
    ]
    params = Params(0, 2, {f"{NAME}--{cell.cell}": cell for cell in cells}, [NAME])
    (root / "params.yaml").write_text(yaml.safe_dump(asdict_without_none(params)))


def row(root: Path, benchmark: Benchmark, card: EncoderParams, members: dict[str, np.ndarray], dims: int) -> CellParams:
    path = f"tables/{card.name}.npz"
    write_table(root / path, benchmark, [f"f{i}" for i in range(dims)], members)
    stated = {**asdict_without_none(Params(0, 1, {"x": CellParams("x", "x", [], "", card)}, []))["cells"]["x"]["card"], "weights": f"file:{path}"}
    return CellParams(NAME, card.name, [card.name], path, EncoderParams(**stated))


def unanswered(root: Path) -> list[str]:
    """What was asked beside the tasks and got an answer of no row."""
    folder = root / "out" / "scores" / NAME
    answers = [(f"replicates, {one.question}", one.value) for one in replicates.read_all(folder)]
    answers += [(f"knowledge, {one.question}", one.value) for one in knowledge.read_all(folder)]
    answers += [(one.protocol, one.value) for one in expression.read_scores(folder)]
    asked = {what for what, _ in answers} | {"replicates, activity", "knowledge, recall", "hest_cv"}
    answers += [(f"confounds, {one.score} {one.column}", one.value) for one in read_confounds(folder)]
    answers += [(f"probing, {one.score}", one.value) for one in probing.read_all(folder)]
    asked |= {"confounds, kBET batch", *(f"confounds, decoding {column.lower()}" for column in ("Batch", "Plate", "Centre", "Row", "Column", "Site"))}
    asked |= {f"probing, {score}" for score in (probing.FEW_SHOT, probing.CODE_LENGTH, probing.SELECTIVITY)}
    judged = Scorecard.from_dict(read_json(root / "out" / "verdicts" / NAME / "encoder.scorecard.json")).tasks
    found = [(what, value) for task in judged for what, value in (("bits", task.beyond["bits"]), ("brightness", task.shortcut["value"]))]
    answers += [(what, np.nan if value is None else value) for what, value in found]
    return sorted((asked | {"bits", "brightness"}) - {what for what, value in answers if np.isfinite(value)})


@dataclass
class Watched:
    """Peak proportional set size of this process' children, in GB."""

    peak: float = 0.0
    done: bool = False

    def watch(self) -> None:
        me = psutil.Process()
        while not self.done:
            total = 0
            for child in me.children(recursive=True):
                try:
                    total += child.memory_full_info().pss
                except psutil.Error:
                    continue
            self.peak = max(self.peak, total / 1e9)
            time.sleep(0.5)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--dims", type=int, default=384)
    parser.add_argument("--folds", type=int, default=1, help="1 = a fifth of the plates is tested")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bounds-") as folder:
        root = Path(folder)
        make(root, options.images, options.dims, options.folds)
        cells = list(yaml.safe_load((root / "params.yaml").read_text())["cells"].values())
        stages = [[stage, NAME, cell["cell"]] for stage in ("extract", "evaluate") for cell in cells]
        stages += [[stage, NAME] for stage in ("oracle", "diagnose")]
        watched = Watched()
        thread = threading.Thread(target=watched.watch, daemon=True)
        thread.start()
        spent: dict[str, float] = {}
        for stage in stages:
            started = time.monotonic()
            done = subprocess.run([sys.executable, "-m", "pipelines.cli", "--workspace", folder, *stage], env={**os.environ}, check=False)
            if done.returncode:
                print(f"bounds: `blankslide {' '.join(stage)}` failed; the reason is above", file=sys.stderr)
                return 2
            spent[stage[0]] = spent.get(stage[0], 0.0) + time.monotonic() - started
        watched.done = True
        thread.join()
        if missing := unanswered(root):
            print(f"bounds: not answered for any row: {', '.join(missing)}", file=sys.stderr)
            return 2
    whole = sum(spent.values())
    print(f"{options.images:,} images x {2 + CONTROLS} rows x {options.dims} dimensions: {', '.join(f'{k} {v:.0f} s' for k, v in spent.items())}")
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    print(f"{used.ru_utime + used.ru_stime:.0f} processor seconds")
    print(f"{whole:.0f} s altogether (at most {MOST_S:.0f}), at most {watched.peak:.2f} GB at a time (at most {MOST_GB:g})")
    return 0 if whole < MOST_S and watched.peak < MOST_GB else 1


if __name__ == "__main__":
    sys.exit(main())

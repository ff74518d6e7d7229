"""A flow with the stages of the product and none of their work: real files, real receipts, real bundles, in a fraction of a second each.

Run as `python rescore_flow.py STAGE BENCHMARK [CELL]` in a workspace. What would be computed is read from `world.json`: the protocols and
library versions of now, and by how much the encoder beats its controls. Each stage says in `ran.log` that it ran.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any


def sha(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def write(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, sort_keys=True))


#: by benchmark and cell
CELLS = {"culture": {"controls": ["density"], "simclr": ["simclr"]}, "tissue": {"controls": ["density"], "net": ["net"]}}


def extract(world: dict[str, Any], benchmark: str, cell: str) -> None:
    for row in CELLS[benchmark][cell]:
        write(Path("out/embeddings", benchmark, cell, row, "manifest.json"), {"row": row, "versions": world["versions"][benchmark]})


def evaluate(world: dict[str, Any], benchmark: str, cell: str) -> None:
    rows = [read(path) for path in sorted(Path("out/embeddings", benchmark, cell).glob("*/manifest.json"))]
    folder = Path("out/scores", benchmark, cell)
    write(folder / "made_by.json", {"vectors": {row["row"]: row["versions"] for row in rows}, "scores": world["versions"][benchmark]})
    write(folder / "scores.json", {"protocols": world["protocols"]})


def oracle(world: dict[str, Any], benchmark: str) -> None:
    write(Path("out/oracle", benchmark, "scores.json"), {"protocols": world["protocols"], "scores": world["versions"][benchmark]})


def diagnose(world: dict[str, Any], benchmark: str) -> None:
    data = Path("data", benchmark)
    for cell, rows in CELLS[benchmark].items():
        scores = read(Path("out/scores", benchmark, cell, "scores.json"))["protocols"]
        made = read(Path("out/scores", benchmark, cell, "made_by.json"))
        for row in rows:
            write_card(world, benchmark, row, scores, {"vectors": made["vectors"][row], "scores": made["scores"]})
    made = read(Path("out/oracle", benchmark, "scores.json"))
    write_card(world, benchmark, "oracle", made["protocols"], {"vectors": {}, "scores": made["scores"]})
    write(Path("out/verdicts", benchmark, "data.json"), sha(data / "index.parquet"))


def write_card(world: dict[str, Any], benchmark: str, row: str, protocols: dict[str, str], made_by: dict[str, Any]) -> None:
    # imported here: most stages are done before this has been loaded
    from tests.registry.scorecards import controls, entry, scorecard, task

    role = {"density": "negative", "oracle": "positive"}.get(row, "encoder")
    gain = float((Path("data") / benchmark / "gain.txt").read_text())
    verdict = (task("chirality", controls(gain), word="beats" if gain > 0 else "loses"),) if role == "encoder" else ()
    made = scorecard(row, role=role, benchmark=benchmark, tasks=verdict).as_dict()
    metrics = {"logistic": "logistic.balanced_accuracy", "retrieval": "retrieval.map"}
    # one benchmark has no replicates, as where every image is its own unit
    kinds = metrics if benchmark == "culture" else {"logistic": metrics["logistic"]}
    made["scores"] = [vars(entry("chirality", metric, protocol_id=protocols[kind], primary=kind == "logistic")) for kind, metric in kinds.items()]
    # the other benchmark has no wells
    asked = ("confounds", "replicates") if benchmark == "culture" else ("confounds",)
    made["beside"] = {} if role == "positive" else {name: [protocols[name]] for name in asked}
    for found in made["tasks"]:
        found["beyond"], found["verdict_protocol"] = {}, protocols["verdict"]
    made["data_hash"] = sha(Path("data", benchmark, "index.parquet"))
    made["provenance"] = {
        "versions": world["versions"][benchmark],
        "made_by": made_by,
        "benchmark_card": sha(Path("data", benchmark, "card.json")),
    }
    write(Path("out/verdicts", benchmark, f"{row}.scorecard.json"), made)


def train(_world: dict[str, Any], benchmark: str, encoder: str) -> None:
    folder = Path("out/weights", benchmark, encoder)
    write(folder / "card.json", {"training": {"data": sha(Path("data", benchmark, "index.parquet"))}})
    (folder / "weights.safetensors").write_bytes(Path("data", benchmark, "index.parquet").read_bytes())


def package(_world: dict[str, Any], benchmark: str) -> None:
    from registry.evidence import Scorecard
    from registry.receipts import write_receipts
    from tests.registry.scorecards import make_bundle

    with tempfile.TemporaryDirectory() as scratch:
        for path in sorted(Path("out/verdicts", benchmark).glob("*.scorecard.json")):
            card = Scorecard.from_dict(read(path))
            weights = Path("out/weights", benchmark, card.row, "weights.safetensors")
            seed = int(sha(weights)[:6], 16) if weights.is_file() else 0
            # no folder of its own is left among the bundles
            made = make_bundle(Path(scratch) / card.row, row=card.row, role=card.role, seed=seed, card=card, onnx=card.row != "oracle")
            shutil.copytree(made.folder, Path("out/bundles", benchmark, card.row))
    write_receipts(Path(), benchmark)


def report(_world: dict[str, Any]) -> None:
    write(Path("reports/index.html"), "page")


def main() -> None:
    stage, *arguments = sys.argv[1:]
    name, world = f"{stage}{'@' if arguments else ''}{'--'.join(arguments)}", read(Path("world.json"))
    with Path("ran.log").open("a") as log:
        log.write(f"{name}\n")
    if world.get("dies_in") == name:
        # the whole of it: rescore, dvc and this stage
        os.killpg(os.getpgid(0), signal.SIGKILL)
    globals()[stage](world, *arguments)


if __name__ == "__main__":
    main()

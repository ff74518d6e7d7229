"""How often a bundle calls an image unlike anything scored before: false alarms on images of new units, and what it notices.

    python benchmarks/shifts.py                        # bundles of this repository after `make run`; minutes
    python benchmarks/shifts.py --workspace FOLDER     # of another workspace
    python benchmarks/shifts.py --write                # and write docs/shifts.md

False alarms three times: test images of fold 0, each unit against limits that were set without it; and, where the benchmark is simulated,
images of 60 units from another seed, against the limits in the bundle and against limits that were set by as many new units as the benchmark
holds out, in turn. The last is what the rule does, the second what it did this once. Beside them: what limits of the training units alone would
do, which a row that has learned from those units shows to be wrong. Shifts are made from test images of fold 0.

Exit code 1: false alarms under the rule (on held-out units where nothing is simulated), averaged over the bundles of a benchmark, are not 5 % +- 2 %,
or a bundle does not notice every blank image, flat field, photograph and image of another modality.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from altered import SEED, shifts, stored

from pipelines.benchmarks.index import Benchmark
from pipelines.references import HELD_OUT_IMAGES
from pipelines.unlike import RATE, Away, HeldOut, has_learned, new_unit_limit
from pipelines.workspace import Workspace, limit_threads
from registry.appearance import appearance
from registry.bundle import Bundle, read_bundle
from registry.images import Image, ImageSpec, conform
from registry.reference import Limits
from serving.embedders import OnnxEmbedder
from serving.reference import Reference

IMAGES = 96
#: 60 units of another seed
NEW_UNITS = {"culture": {"train_plates": 1, "test_plates": 60}, "tissue": {"train_patients": 1, "test_patients": 60, "patches_per_task": 8}}
NOTICED = ("blank", "flat field", "photographs", "other modality")
ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Shown:
    """Images as a model sees them, with what they look like, computed once for all models."""

    pixels: np.ndarray  # (n, c, y, x), conformed
    looks: np.ndarray  # (n, p)
    units: np.ndarray  # (n,) codes

    @classmethod
    def of(cls, images: np.ndarray, spec: ImageSpec, units: Sequence[str] | None = None) -> Shown:
        pixels = np.stack([conform(Image(image, spec.channels), spec) for image in images])
        looks = np.stack([appearance(image, spec) for image in pixels]).astype(np.float32)
        return cls(pixels, looks, np.unique(units if units is not None else [""] * len(images), return_inverse=True)[1].astype(np.int64))


@dataclass(frozen=True)
class Model:
    """A bundle that is asked about images."""

    bundle: Bundle
    reference: Reference
    limits: Limits
    embedder: OnnxEmbedder

    @classmethod
    def read(cls, folder: Path, threads: int) -> Model | None:
        """None where the row cannot be served or has no limits."""
        bundle = read_bundle(folder)
        if bundle.onnx is None or bundle.reference is None:
            return None
        reference = Reference.of(bundle.reference, bundle.card.image)
        if reference is None or bundle.reference.limits is None:
            print(f"{folder.parent.name}/{folder.name}: not calibrated: {bundle.reference.why_no_limits}", flush=True)
            return None
        return cls(bundle, reference, bundle.reference.limits, OnnxEmbedder(bundle.verified_bytes("encoder.onnx"), "cpu", threads, bundle.name))

    def away(self, shown: Shown, learned: bool | None = None) -> tuple[Away, np.ndarray]:
        """How far new units lie, those that are shown first; and the codes of the units that are shown.

        Training units are among the new ones if the row has not learned from them; `learned` says otherwise.
        """
        images, card = self.reference.images, self.bundle.card
        units = shown.units + (0 if images.unit is None else int(images.unit.max()) + 1)
        held_out = HeldOut(self.embedder.embed(shown.pixels), shown.looks, units)
        away = Away.of(images, held_out, learned=has_learned(card.card, fitted=bool(card.fitted_to)) if learned is None else learned)
        if away is None:
            raise SystemExit(f"`{self.bundle.name}` has limits, and its embeddings do not vary: that is a fault.")
        return away, units

    def said(self, shown: Shown, alone: float) -> tuple[float, float]:
        """The share that readings call unlike, and the share whose embedding lies beyond the limit `alone`."""
        vectors = self.embedder.embed(shown.pixels)
        found = [self.reference.place(vector, image).distance for vector, image in zip(vectors, shown.pixels, strict=True)]
        return float(np.mean([d.unlike for d in found])), float(np.mean([d.nearest > alone for d in found]))


def alarms(away: Away, units: np.ndarray, limits: Limits) -> float:
    """The share beyond limits, every one of these units with the same weight."""
    beyond = away.embedding > limits.embedding
    if away.appearance is not None and limits.appearance is not None:
        beyond |= away.appearance > limits.appearance
    return float(np.mean([beyond[away.unit == unit].mean() for unit in np.unique(units)]))


def held_out_alarms(away: Away, units: np.ndarray) -> float:
    """Of held-out units, each against limits that were set without it."""
    return float(np.mean([alarms(away, np.array([unit]), away.without(unit).limits("unit")) for unit in np.unique(units)]))


def rule_alarms(away: Away, units: np.ndarray, number: int) -> float:
    """Of new units against limits that `number` others of them have set (with the references, where these may help), in turn."""
    codes = np.unique(units)
    found = []
    for start in range(0, len(codes) - number + 1, number):
        setting = codes[start : start + number]
        rest = np.setdiff1d(codes, setting)
        found.append(alarms(away, rest, away.without(*rest.tolist()).limits("unit")))
    return float(np.mean(found))


def pixels_of(benchmark: Benchmark, rows: Sequence[int]) -> np.ndarray:
    return np.stack([stored(benchmark.pixels(int(row)), benchmark.card.image) for row in rows])


def new_units(benchmark: Benchmark, folder: Path, workers: int) -> Shown | None:
    """Test images of the same simulator with another seed; None of real data."""
    from pipelines.benchmarks.simulate import parameters, simulate

    truth = benchmark.card.truth
    name = truth.get("simulator", "")
    if name not in NEW_UNITS:
        return None
    settings = parameters(name, {**truth["parameters"], **NEW_UNITS[name]})
    drawn = simulate(benchmark.card.name, folder / benchmark.card.name, settings, truth["seed"] + SEED, workers)
    rows = np.flatnonzero(drawn.folds[0].test)
    return Shown.of(pixels_of(drawn, rows.tolist()), benchmark.card.image, drawn.index["unit"].to_numpy(dtype=np.str_)[rows].tolist())


def spread(rows: np.ndarray, most: int) -> list[int]:
    return [int(i) for i in rows[np.unique(np.linspace(0, len(rows) - 1, most).astype(int))]]


def another(workspace: Workspace, name: str) -> Benchmark | None:
    """Another benchmark of the workspace that has images."""
    for folder in sorted(workspace.data(name).parent.iterdir()):
        if folder.name != name and (folder / "card.json").is_file():
            found = Benchmark.read(folder)
            if found.card.image.present:
                return found
    return None


def measured(workspace: Workspace, name: str, fresh: Path, threads: int) -> Iterator[dict[str, Any]]:
    """One line per bundle of a benchmark; under "embedding: ..." what its embedding alone would notice."""
    benchmark, other = Benchmark.read(workspace.data(name)), another(workspace, name)
    if not benchmark.card.image.present:
        return
    spec, test = benchmark.card.image, np.flatnonzero(benchmark.folds[0].test)
    strange = pixels_of(other, spread(np.flatnonzero(other.folds[0].test), IMAGES)) if other is not None else None
    changed = shifts(pixels_of(benchmark, spread(test, IMAGES)), spec, strange, other.card.image if other is not None else None)
    shown = {shift: Shown.of(images, spec) for shift, images in changed.items()}
    rows = spread(test, HELD_OUT_IMAGES)
    held_out = Shown.of(pixels_of(benchmark, rows), spec, benchmark.index["unit"].to_numpy(dtype=np.str_)[rows].tolist())
    simulated = new_units(benchmark, fresh, threads)
    for folder in sorted(workspace.bundles(name).iterdir()):
        model = Model.read(folder, threads)
        if model is None:
            continue
        away, units = model.away(held_out)
        line: dict[str, Any] = {"bundle": folder.name, "role": model.bundle.card.card.role, "units": model.limits.units}
        line["held-out units"] = held_out_alarms(away, units)
        training = model.away(held_out, learned=False)[0].without(*np.unique(units).tolist())
        if training.units > 1:
            line["held-out units, limits of training units alone"] = alarms(away, units, training.limits("unit"))
        if simulated is not None:
            new, codes = model.away(simulated)
            line["new units, limits of the bundle"] = alarms(new, codes, model.limits)
            line["new units, limits of others of them"] = rule_alarms(new, codes, len(np.unique(units)))
        alone = new_unit_limit(away.embedding, away.unit)
        for shift, images in shown.items():
            line[shift], line[f"embedding: {shift}"] = model.said(images, alone)
        print(name, {k: round(v, 3) if isinstance(v, float) else v for k, v in line.items() if not k.startswith("embedding")}, flush=True)
        yield line


def percent(value: Any) -> str:
    return "" if pd.isna(value) else f"{100 * value:.0f}"


def page(tables: dict[str, pd.DataFrame]) -> str:
    """docs/shifts.md"""
    said = (
        "Percent of images that a bundle calls unlike anything scored before; in brackets what its embedding alone would notice at the same rate"
        f" of false alarms. The first lines are false alarms and should be {100 * RATE:g}: the limits of one bundle may be some percent off, as the"
        " few units that set them are, and so may the rate that a dozen held-out units show; the rule, over many draws of units, is not:"
        " [decision 0015](decisions/0015-unlike.md) has it by row (`python benchmarks/false_alarms.py`)."
        " Limits of training units alone are there to show what comes of"
        " them where a row has learned from these units. `none` are test images, whose units the limits were set with. A stain 1.2 times as strong is"
        " one standard deviation of a plate's or a patient's, except that here the noise grows with it, as with no stain."
    )
    lines = [
        "# What a service notices",
        "",
        "Written by `python benchmarks/shifts.py --write`, which says how it is measured. How limits are set:"
        " [decision 0015](decisions/0015-unlike.md).",
        "",
        textwrap.fill(said, 150),
    ]
    for name, table in tables.items():
        columns = [c for c in table.columns if c not in ("bundle", "role", "units") and not c.startswith("embedding: ")]
        lines += ["", f"## `{name}`", "", "| | " + " | ".join(f"`{b}`" for b in table["bundle"]) + " |", "|---" * (len(table) + 1) + "|"]
        lines.append("| role | " + " | ".join(table["role"]) + " |")
        lines.append("| units that set the limits | " + " | ".join(str(u) for u in table["units"]) + " |")
        for column in columns:
            alone = table.get(f"embedding: {column}")
            cells = [percent(value) + (f" ({percent(alone[i])})" if alone is not None else "") for i, value in enumerate(table[column])]
            lines.append(f"| {column} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def judged(name: str, table: pd.DataFrame) -> Iterator[str]:
    """What is not as it should be."""
    column = next(c for c in ("new units, limits of others of them", "held-out units") if c in table)
    rate = float(table[column].mean())
    if not RATE - 0.02 <= rate <= RATE + 0.02:
        yield f"{name}: {100 * rate:.1f} % false alarms ({column}), expected 3 to 7"
    for shift in NOTICED:
        if shift in table and not (table[shift] == 1).all():
            yield f"{name}: {shift}: a bundle notices {percent(table[shift].min())} %, expected 100"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workspace", type=Path, default=ROOT)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    workspace = Workspace(options.workspace)
    tables: dict[str, pd.DataFrame] = {}
    with tempfile.TemporaryDirectory(prefix="blankslide-") as fresh:
        for folder in sorted(p for p in workspace.bundles("any").parent.iterdir() if p.is_dir()):
            found = list(measured(workspace, folder.name, Path(fresh), options.threads))
            if found:
                tables[folder.name] = pd.DataFrame(found)
    print(page(tables))
    if options.write:
        (ROOT / "docs" / "shifts.md").write_text(page(tables), encoding="utf-8")
    wrong = [what for name, table in tables.items() for what in judged(name, table)]
    print("\n".join(wrong) or "as it should be")
    return 1 if wrong else 0


if __name__ == "__main__":
    limit_threads(2)
    sys.exit(main())

"""Which rule calls 5 % of the images of a new unit unlike anything scored before: the rules that were tried, on simulated units.

    python benchmarks/unlike.py            # the table of docs/decisions/0015-unlike.md; minutes
    python benchmarks/unlike.py --quick    # fewer draws

Embeddings of 16 dimensions: units differ in place (`apart`, in standard deviations of an image) and in spread, images are normal about their
unit. A row that has learned from its training units has them closer together than new ones. Distances are the product's. Each rule sets a limit
from 24 training units and some held-out units; its rate is the share of images of 60 further units beyond it, averaged over
200 draws (in brackets: what one draw in ten exceeds).

    per image      95th percentile of training images' distances to their nearest neighbour (what there was before)
    training       the same to the nearest image of another unit, units weighted alike
    held out       95th percentile of held-out images' distances to the nearest training image, units weighted alike
    conformal      held out, with the mass of one more unit at infinity: never too often, and no limit at all below 19 units
    normal         held out, log distances as a normal effect of the unit (Student's t) on top of the residuals as they are
    margin, plain  held out, with the margin by which images exceed that percentile of all other units, every image for one
    margin         likewise, images for what they are worth beside others of their unit: the product's rule
    margin, all    likewise, with training units as seen from all others: the product's rule for rows that have not learned from them

Exit code 1: the product's rule is outside 5 % +- 2 % anywhere, or no unit effect that is simulated misleads the rule per image.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass

import numpy as np
from scipy import stats

from pipelines.unlike import LEAST_UNITS, RATE, Away, HeldOut, new_unit_limit, quantile_of_units
from registry.reference import ReferenceSet
from serving.reference import Space

DIMENSIONS, TRAINING, NEW, OF_NEW = 16, 24, 60, 12


@dataclass(frozen=True)
class World:
    """What units are like."""

    held_out: int
    images: int
    apart: float
    spread: float
    learned: bool

    def units(self, rng: np.random.Generator, number: int, images: int, shrunk: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
        """(n, d) embeddings and (n,) unit codes."""
        places = shrunk * self.apart * rng.normal(size=(number, 1, DIMENSIONS))
        spreads = np.exp(self.spread * rng.normal(size=(number, 1, 1)))
        values = places + spreads * rng.normal(size=(number, images, DIMENSIONS))
        return values.reshape(-1, DIMENSIONS).astype(np.float32), np.repeat(np.arange(number), images)


def percentile(distances: np.ndarray, units: np.ndarray, share: float = 1 - RATE) -> float:
    """Over images, every unit with the same weight."""
    order = np.argsort(distances)
    counts = np.unique(units, return_counts=True)[1]
    upto = np.cumsum(1 / counts[np.searchsorted(np.unique(units), units)][order]) / len(counts)
    return float(distances[order][min(np.searchsorted(upto, share - 1e-12), len(order) - 1)])


def conformal(distances: np.ndarray, units: np.ndarray) -> float:
    number = len(np.unique(units))
    share = (1 - RATE) * (number + 1) / number
    return percentile(distances, units, share) if share <= 1 else np.inf


def plain_margin(distances: np.ndarray, units: np.ndarray) -> float:
    _, unit, counts = np.unique(units, return_inverse=True, return_counts=True)
    weights = 1.0 / counts[unit]
    others = np.array([quantile_of_units(distances[unit != u], weights[unit != u], 1 - RATE) for u in range(len(counts))])
    return max(0.0, quantile_of_units(distances, weights, 1 - RATE) + quantile_of_units(distances - others[unit], weights, 1 - RATE))


def normal(distances: np.ndarray, units: np.ndarray) -> float:
    values = np.log(distances)
    _, unit, counts = np.unique(units, return_inverse=True, return_counts=True)
    number, means = len(counts), np.bincount(unit, values) / counts
    residuals = values - means[unit]
    within = residuals.var() * len(values) / max(1, len(values) - number) if counts.max() > 1 else 0.0
    between = max(0.0, means.var(ddof=1) - within * np.mean(1 / counts))
    scale = max(np.sqrt(between * (1 + 1 / number) + within * np.mean(1 / counts) / number), 1e-9)
    low, high = values.min() - 40 * scale, values.max() + 40 * scale
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if stats.t.sf((middle - means.mean() - residuals) / scale, number - 1).mean() > RATE else (low, middle)
    return float(np.exp(high))


def limits(world: World, rng: np.random.Generator) -> tuple[dict[str, float], np.ndarray]:
    """The limit of every rule, and distances of images of new units."""
    train, unit = world.units(rng, TRAINING, max(world.images, 12), 0.3 if world.learned else 1.0)
    held, held_unit = world.units(rng, world.held_out, world.images)
    new, _ = world.units(rng, NEW, OF_NEW)
    references, held_out = ReferenceSet(train, unit=unit), HeldOut(held, None, held_unit + TRAINING)
    space = Space.of(train)
    away, everyone = (Away.of(references, held_out, learned=learned) for learned in (True, False))
    if space is None or away is None or everyone is None:
        raise SystemExit("Simulated embeddings vary.")
    crossed = everyone.embedding[len(held) :]
    found = {
        "per image": float(np.quantile(space.own(), 1 - RATE)),
        "training": percentile(crossed, unit),
        "held out": percentile(away.embedding, held_unit),
        "conformal": conformal(away.embedding, held_unit),
        "normal": normal(away.embedding, held_unit),
        "margin, plain": plain_margin(away.embedding, away.unit),
        "margin": new_unit_limit(away.embedding, away.unit),
        "margin, all": new_unit_limit(everyone.embedding, everyone.unit),
    }
    return found, np.array([space.distances(vector).min() for vector in new])


def rates(world: World, draws: int) -> tuple[dict[str, float], dict[str, float]]:
    """Mean over draws, and the rate that one draw in ten exceeds, by rule."""
    found: dict[str, list[float]] = {}
    for draw in range(draws):
        each, new = limits(world, np.random.default_rng([draw, world.held_out, world.images]))
        for rule, limit in each.items():
            found.setdefault(rule, []).append(float(np.mean(new > limit)))
    means = {rule: float(np.mean(values)) for rule, values in found.items()}
    return means, {rule: float(np.quantile(values, 0.9)) for rule, values in found.items()}


def worlds() -> list[World]:
    differ = ((0.0, 0.0), (1.0, 0.0), (1.0, 0.2))
    found = [World(units, images, apart, spread, False) for units in (LEAST_UNITS, 16, 32) for images in (24, 1) for apart, spread in differ]
    return [*found, *(World(units, 24, 1.0, 0.2, True) for units in (LEAST_UNITS, 16, 32))]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    draws = 30 if parser.parse_args().quick else 200
    wrong, misled = [], False
    for number, world in enumerate(worlds()):
        mean, high = rates(world, draws)
        if number == 0:
            print("| held-out units | images each | apart | spread | learned | " + " | ".join(mean) + " |")
            print("|---" * (5 + len(mean)) + "|")
        cells = [f"{100 * mean[rule]:.1f} ({100 * high[rule]:.0f})" for rule in mean]
        learned = "yes" if world.learned else "no"
        print(f"| {world.held_out} | {world.images} | {world.apart:g} | {world.spread:g} | {learned} | " + " | ".join(cells) + " |", flush=True)
        rule = "margin" if world.learned else "margin, all"
        if not RATE - 0.02 <= mean[rule] <= RATE + 0.02:
            wrong.append(f"{world}: `{rule}` {100 * mean[rule]:.1f} %")
        misled |= mean["per image"] > 4 * RATE
    print("\n".join(wrong) or "as it should be")
    return 0 if misled and not wrong else 1


if __name__ == "__main__":
    sys.exit(main())

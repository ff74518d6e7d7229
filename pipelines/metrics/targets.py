"""Zero-shot drug-target retrieval: is the gene that a compound acts on nearer to it than others?

Reference: the compound-gene benchmark of RxRx3-core (Kraus et al. 2025), as the pull request that brought it had it. Actives of a compound
are genes that bind it at 1,000 nM or less, those above that up to 10,000 nM are left out, negatives are drawn from all other genes of the truth.
Differences: candidates are sorted by name before they are drawn, so that the result does not depend on PYTHONHASHSEED (the reference draws from
a set); candidates that tie share their places in expectation; a compound whose profiles or genes are not in the map is counted as skipped.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipelines.metrics.classification import macro_auroc
from pipelines.metrics.geometry import check_features, directions
from pipelines.metrics.ranking import tie_aware_ap
from registry.arrays import Floats
from registry.errors import InputError

ACTIVE_NM, GREY_NM = 1_000.0, 10_000.0
LEAST_NEGATIVES = 20


@dataclass(frozen=True)
class Interaction:
    """One row of the truth: a compound, a gene and the concentration in nM at which they interact."""

    compound: str
    gene: str
    nanomolar: float


@dataclass(frozen=True, eq=False)
class TargetScores:
    """One entry per scored compound, means over draws of negatives.

    Attributes:
        compounds: sorted names.
        ap: (c,) average precision, 0..1, larger is better.
        auroc: (c,) likewise; chance is 0.5.
        chance: (c,) share of actives among the candidates, what a random order has about.
        sd: (c,) of the AP over draws.
        skipped: compounds of the truth that could not be scored, and why.
    """

    compounds: tuple[str, ...]
    ap: Floats
    auroc: Floats
    chance: Floats
    sd: Floats
    skipped: dict[str, str]


def target_scores(
    profiles: Mapping[str, Floats], genes: Sequence[str], gene_profiles: Floats, truth: Sequence[Interaction], *, draws: int = 100, seed: int = 0
) -> TargetScores:
    """Score every compound of the truth by |cosine| to genes, the largest over its concentrations for each gene.

    Args:
        profiles: (k, d) profiles of each compound, one per concentration.
        genes: g names.
        gene_profiles: (g, d).
        truth: known interactions; of several for one pair the strongest counts.
        draws: of negatives, max(2 x actives, 20) each time.
        seed: of the draws; a compound's draws depend on it and the compound's name alone.

    Raises:
        InputError: a gene twice, a zero profile, no compound that can be scored.
    """
    gene_profiles = check_features(gene_profiles)
    place = {name: number for number, name in enumerate(genes)}
    if len(place) < len(genes) or len(genes) != len(gene_profiles):
        raise InputError(f"Expected {len(gene_profiles)} genes of different names, got {len(place)} names.")
    binding: dict[str, dict[str, float]] = {}
    for row in truth:
        strongest = binding.setdefault(row.compound, {})
        strongest[row.gene] = min(row.nanomolar, strongest.get(row.gene, np.inf))
    pool = sorted({row.gene for row in truth} & set(place))
    of_genes = directions(gene_profiles, genes)
    found: dict[str, tuple[float, float, float, float]] = {}
    skipped: dict[str, str] = {}
    for compound, genes_of in sorted(binding.items()):
        actives = [gene for gene in pool if genes_of.get(gene, np.inf) <= ACTIVE_NM]
        others = [gene for gene in pool if genes_of.get(gene, np.inf) > GREY_NM]
        wanted = max(2 * len(actives), LEAST_NEGATIVES)
        if compound not in profiles:
            skipped[compound] = "it has no profile"
        elif not actives:
            skipped[compound] = f"no gene of the map binds it at {ACTIVE_NM:g} nM or less"
        elif len(others) < wanted:
            skipped[compound] = f"{wanted} negatives are needed, there are {len(others)}"
        else:
            doses = check_features(profiles[compound])
            score = np.abs(directions(doses, [compound] * len(doses)) @ of_genes.T).max(axis=0)
            rng = np.random.default_rng([seed, *compound.encode()])
            found[compound] = _scores(score, [place[g] for g in actives], [place[g] for g in others], wanted, draws, rng)
    if not found:
        raise InputError(f"None of the {len(binding)} compounds of the truth could be scored: {next(iter(skipped.values()), 'there is none')}.")
    ap, auroc, chance, sd = (np.array(column) for column in zip(*found.values(), strict=True))
    return TargetScores(tuple(found), ap, auroc, chance, sd, skipped)


def _scores(
    score: Floats, actives: Sequence[int], others: Sequence[int], wanted: int, draws: int, rng: np.random.Generator
) -> tuple[float, float, float, float]:
    """Mean AP, mean AUROC, share of actives and standard deviation of the AP over draws."""
    ap, auroc = np.empty(draws), np.empty(draws)
    labels = np.repeat([1, 0], [len(actives), wanted])
    units: NDArray[np.str_] = np.full(len(labels), "all")
    for draw in range(draws):
        candidates = [*actives, *rng.choice(np.asarray(others), wanted, replace=False).tolist()]
        ap[draw] = tie_aware_ap(score[candidates], labels == 1)
        auroc[draw] = macro_auroc(labels, np.stack([-score[candidates], score[candidates]], axis=1), units).value
    return float(ap.mean()), float(auroc.mean()), len(actives) / len(labels), float(ap.std())

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

from pipelines.metrics.counts import check_count
from pipelines.metrics.geometry import check_features, directions
from pipelines.metrics.ranking import chance_ap, contributions
from registry.arrays import Floats, Ints
from registry.errors import InputError

ACTIVE_NM, GREY_NM = 1_000.0, 10_000.0
LEAST_NEGATIVES = 20
#: permutations that equal what was found up to rounding count against it
_EQUAL = 1e-12


@dataclass(frozen=True)
class Interaction:
    """One row of the truth: a compound, a gene and the concentration in nM at which they interact.

    Attributes:
        compound: its name.
        gene: its name.
        nanomolar: at least 0; 0 = they interact, infinite = they do not, at any concentration.

    Raises:
        InputError: a concentration below 0, or NaN.
    """

    compound: str
    gene: str
    nanomolar: float

    def __post_init__(self) -> None:
        # of NaN and a number `min` takes whichever comes first, and so would the strongest of several rows
        if not self.nanomolar >= 0:
            raise InputError(
                f"Expected a concentration of at least 0 nM for `{self.compound}` and `{self.gene}`, got {self.nanomolar}. Leave the row out, or"
                " state 0 where it is only known that they interact."
            )


@dataclass(frozen=True, eq=False)
class TargetScores:
    """One entry per scored compound, means over draws of negatives.

    Attributes:
        compounds: sorted names.
        ap: (c,) average precision, 0..1, larger is better.
        auroc: (c,) likewise; chance is 0.5.
        chance: (c,) expected AP of a random order.
        sd: (c,) of the AP over draws.
        p: how often genes whose names were permuted lie at least as near, mean place of the actives among all genes of the truth:
            (1 + permutations at or above) / (1 + permutations); NaN without permutations.
        skipped: compounds of the truth that could not be scored, and why.
    """

    compounds: tuple[str, ...]
    ap: Floats
    auroc: Floats
    chance: Floats
    sd: Floats
    p: float
    skipped: dict[str, str]


def target_scores(
    profiles: Mapping[str, Floats],
    genes: Sequence[str],
    gene_profiles: Floats,
    truth: Sequence[Interaction],
    *,
    draws: int = 100,
    permutations: int = 0,
    seed: int = 0,
) -> TargetScores:
    """Score every compound of the truth by |cosine| to genes, the largest over its concentrations for each gene.

    Args:
        profiles: (k, d) profiles of each compound, one per concentration.
        genes: g names.
        gene_profiles: (g, d).
        truth: known interactions; of several for one pair the strongest counts.
        draws: of negatives, max(2 x actives, 20) each time.
        permutations: of the names of the genes of the truth, the same for all compounds.
        seed: of the draws and permutations; a compound's draws depend on it and the compound's name alone.

    Raises:
        InputError: a gene twice, a compound that is given without a profile or in other dimensions than genes, a zero profile, no compound that
            can be scored, no draw, fewer than 0 permutations.
    """
    check_count(draws, "a number of draws of negatives", instead="Without one there is no score.")
    check_count(permutations, "a number of permutations", 0, instead="With 0 there is no p-value.")
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
    places: list[tuple[Floats, Ints]] = []
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
            doses = _doses(compound, profiles[compound], of_genes.shape[1])
            score = np.abs(directions(doses, [compound] * len(doses)) @ of_genes.T).max(axis=0)
            rng = np.random.default_rng([seed, *compound.encode()])
            found[compound] = _scores(score[[place[g] for g in [*actives, *others]]], len(actives), wanted, draws, rng)
            places.append((_places(score[[place[g] for g in pool]]), np.array([pool.index(g) for g in actives])))
    if not found:
        raise InputError(f"None of the {len(binding)} compounds of the truth could be scored: {next(iter(skipped.values()), 'there is none')}.")
    ap, auroc, chance, sd = (np.array(column) for column in zip(*found.values(), strict=True))
    return TargetScores(tuple(found), ap, auroc, chance, sd, _p(places, permutations, seed), skipped)


def _doses(compound: str, profiles: Floats, d: int) -> Floats:
    doses = check_features(profiles)
    if not len(doses) or doses.shape[1] != d:
        raise InputError(
            f"Expected at least one profile of `{compound}`, of {d} dimensions as those of genes, got shape {doses.shape}. Leave out compounds"
            " without one."
        )
    return doses


def _scores(score: Floats, actives: int, wanted: int, draws: int, rng: np.random.Generator) -> tuple[float, float, float, float]:
    """Mean AP, mean AUROC, the AP of chance and the standard deviation of the AP over draws.

    Args:
        score: of the actives, then of all that may be a negative.
        actives: how many.
        wanted: negatives of each draw.
        draws: of negatives.
        rng: of the draws.
    """
    inside = np.zeros((draws, len(score)), dtype=bool)
    inside[:, :actives] = True
    for drawn in inside:
        drawn[actives + rng.choice(len(score) - actives, wanted, replace=False)] = True
    order = np.argsort(-score, kind="stable")
    opens = np.flatnonzero(np.concatenate([[True], np.diff(score[order]) != 0]))
    items = np.add.reduceat(inside[:, order].astype(np.int64), opens, axis=1)
    positives = np.add.reduceat((order < actives).astype(np.float64), opens)
    ap = contributions(items, np.cumsum(items, axis=1) - items, np.broadcast_to(positives, items.shape)).sum(axis=1) / actives
    negatives = items - positives
    behind = wanted - np.cumsum(negatives, axis=1)
    auroc = (positives * (behind + negatives / 2)).sum(axis=1) / (actives * wanted)
    chance = float(chance_ap(np.array([actives]), np.array([wanted]))[0])
    return float(ap.mean()), float(auroc.mean()), chance, float(ap.std())


def _places(score: Floats) -> Floats:
    """(g,) share of the genes that lie farther away, ties by half."""
    ordered = np.sort(score)
    return np.asarray((np.searchsorted(ordered, score, side="left") + np.searchsorted(ordered, score, side="right")) / (2 * len(score)))


def _p(places: Sequence[tuple[Floats, Ints]], permutations: int, seed: int) -> float:
    if not permutations:
        return np.nan
    table = np.stack([of_genes for of_genes, _ in places])
    compound = np.repeat(np.arange(len(places)), [len(actives) for _, actives in places])
    gene = np.concatenate([actives for _, actives in places])
    weight = np.concatenate([np.full(len(actives), 1 / len(actives)) for _, actives in places])
    rng = np.random.default_rng(seed)
    observed = float(weight @ table[compound, gene])
    draws = np.array([weight @ table[compound, rng.permutation(table.shape[1])[gene]] for _ in range(permutations)])
    return float((1 + (draws >= observed - _EQUAL * len(places)).sum()) / (1 + permutations))

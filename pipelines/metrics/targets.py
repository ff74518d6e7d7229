"""Zero-shot drug-target retrieval: is the gene that a compound acts on nearer to it than others?

Reference: the compound-gene benchmark of RxRx3-core (Kraus et al. 2025), as the pull request that brought it had it. Actives of a compound
are genes that bind it at 1,000 nM or less, those above that up to 10,000 nM are left out, negatives are drawn from all other genes of the truth.
Differences: candidates are sorted by name before they are drawn, so that the result does not depend on PYTHONHASHSEED (the reference draws from
a set); candidates that tie, by cosines rounded to 1e-9, share their places in expectation; a compound whose profiles or genes are not in the map is
counted as skipped.

A gene that lies in the same wells as a compound looks like it for that alone. `target_position_control` asks the same question with genes in other
wells only, and says where the design forbids to ask; the reference has no such control.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from pipelines.metrics.counts import check_count
from pipelines.metrics.geometry import check_features, directions
from pipelines.metrics.places import packed_places, together
from pipelines.metrics.ranking import chance_ap, contributions
from registry.arrays import Floats, Ints, Mask
from registry.errors import InputError

ACTIVE_NM, GREY_NM = 1_000.0, 10_000.0
LEAST_NEGATIVES = 20
#: decimals of a cosine: of genes that lie in one direction, rounding must not say which is nearer
_DECIMALS = 9
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
    lists, skipped = _lists(profiles, genes, gene_profiles, truth)
    found = {one.compound: one.scores(draws, seed) for one in lists}
    ap, auroc, chance, sd = (np.array(column) for column in zip(*found.values(), strict=True))
    places = [(_places(one.score), one.actives) for one in lists]
    return TargetScores(tuple(found), ap, auroc, chance, sd, _p(places, permutations, seed), skipped)


@dataclass(frozen=True, eq=False)
class TargetPositionControl:
    """The question of `target_scores` asked again, of the compounds that have genes to be told apart in other places.

    Attributes:
        compounds: their sorted names; () where the design forbids to ask.
        ap: (c,) average precision among genes that share no place with the compound, 0..1, larger is better.
        auroc: (c,) likewise; chance is 0.5.
        chance: (c,) expected AP of a random order of these.
        ap_drop: how much lower the normalised AP, (AP - chance) / (1 - chance), is than among all genes, mean over these compounds: lists of fewer
            actives have another chance. NaN where that is not estimable, and where no active shares a place with its compound: nothing can drop.
        auroc_drop: how much lower the AUROC is; NaN likewise.
        share: of the compounds that are scored, those that are scored in other places. A drop over few of them says little of the rest.
        dropped: share of the actives that share a place with their compound, or of which that is not known.
        reason: why it is not estimable; "".
    """

    compounds: tuple[str, ...]
    ap: Floats
    auroc: Floats
    chance: Floats
    ap_drop: float
    auroc_drop: float
    share: float
    dropped: float
    reason: str


def target_position_control(
    anywhere: TargetScores,
    profiles: Mapping[str, Floats],
    genes: Sequence[str],
    gene_profiles: Floats,
    truth: Sequence[Interaction],
    places: Mapping[str, Mask],
    gene_places: Mask,
    *,
    draws: int = 100,
    seed: int = 0,
) -> TargetPositionControl:
    """Score every compound of the truth among genes that share no place with it, actives and negatives alike.

    A compound and a gene share a place where any well of the one lies where any of the other does, because profiles are means and keep a trace of
    each. A compound is scored where an active is left, and as many negatives as are drawn for it.

    Args:
        anywhere: what `target_scores` gave for the arguments below: most of the time goes into its draws, which are not done again.
        profiles: as for `target_scores`.
        genes: as for `target_scores`.
        gene_profiles: as for `target_scores`.
        truth: as for `target_scores`.
        places: (w,) in which places each compound of `profiles` lies, with all its concentrations.
        gene_places: (g, w) in which places a gene lies.
        draws: as `anywhere` has; a compound whose genes all lie in other places has the same draws as there, and so the same score.
        seed: as `anywhere` has.

    Raises:
        InputError: as `target_scores`, for the question as it is; scores of other compounds; a compound without places; places of another shape.
    """
    check_count(draws, "a number of draws of negatives", instead="Without one there is no score.")
    lists, _ = _lists(profiles, genes, gene_profiles, truth)
    if anywhere.compounds != tuple(one.compound for one in lists):
        raise InputError(f"Expected scores of the same {len(lists)} compounds, got scores of {len(anywhere.compounds)}. Ask `target_scores` first.")
    if missing := sorted({one.compound for one in lists} - places.keys()):
        raise InputError(f"Expected places of `{missing[0]}`, got none. State a row without a place where they are not known.")
    n, gene_places = len(genes), np.asarray(gene_places, dtype=bool)
    rows = [np.asarray(places[one.compound], dtype=bool) for one in lists]
    if gene_places.ndim != 2 or any(row.shape != gene_places.shape[1:] for row in rows):
        raise InputError(f"Expected one number of places for genes and compounds, got shapes {gene_places.shape} and {rows[0].shape}.")
    packed = packed_places(np.concatenate([gene_places, rows]), n + len(rows))
    apart = [~together(packed, one.genes, np.array([n + number])) for number, one in enumerate(lists)]
    of_actives = np.concatenate([kept[one.actives] for one, kept in zip(lists, apart, strict=True)])
    left = [one.among(kept) for one, kept in zip(lists, apart, strict=True)]
    both = [number for number, one in enumerate(left) if not one.why_not]
    dropped = float(1 - of_actives.mean())
    if not both:
        reason, none = _why_nowhere(packed[:n], packed[n:], of_actives), np.zeros(0)
        return TargetPositionControl((), none, none, none, np.nan, np.nan, 0.0, dropped, f"not estimable: {reason}")
    everywhere = np.stack([anywhere.ap, anywhere.auroc, anywhere.chance], axis=1)[both]
    # a list that lost nothing has the same draws
    elsewhere = np.array(
        [left[at].scores(draws, seed)[:3] if len(left[at]) < len(lists[at]) else known for at, known in zip(both, everywhere, strict=True)]
    )
    normalised = [(each[:, 0] - each[:, 2]) / (1 - each[:, 2]) for each in (everywhere, elsewhere)]
    drops = np.mean(normalised[0] - normalised[1]), np.mean(everywhere[:, 1] - elsewhere[:, 1])
    ap_drop, auroc_drop = (float(drop) if dropped else np.nan for drop in drops)
    names, share = tuple(lists[at].compound for at in both), len(both) / len(lists)
    return TargetPositionControl(names, elsewhere[:, 0], elsewhere[:, 1], elsewhere[:, 2], ap_drop, auroc_drop, share, dropped, "")


@dataclass(frozen=True, eq=False)
class _List:
    """The genes that a compound is asked about.

    Attributes:
        compound: its name.
        genes: (g,) places in the map of the genes of the truth.
        score: (g,) how near each lies.
        actives: which of them are its targets.
        others: which may be negatives.
    """

    compound: str
    genes: Ints
    score: Floats
    actives: Ints
    others: Ints

    def __len__(self) -> int:
        """How many genes are actives or may be negatives."""
        return len(self.actives) + len(self.others)

    @property
    def wanted(self) -> int:
        """Negatives of each draw."""
        return max(2 * len(self.actives), LEAST_NEGATIVES)

    @property
    def why_not(self) -> str:
        """Why it cannot be scored; "" where it can."""
        if not len(self.actives):
            return f"no gene of the map binds it at {ACTIVE_NM:g} nM or less"
        if len(self.others) < self.wanted:
            return f"{self.wanted} negatives are needed, there are {len(self.others)}"
        return ""

    def among(self, kept: Mask) -> _List:
        """The same with some of its genes."""
        return replace(self, actives=self.actives[kept[self.actives]], others=self.others[kept[self.others]])

    def scores(self, draws: int, seed: int) -> tuple[float, float, float, float]:
        """As `_scores`."""
        rng = np.random.default_rng([seed, *self.compound.encode()])
        return _scores(self.score[np.concatenate([self.actives, self.others])], len(self.actives), self.wanted, draws, rng)


def _lists(
    profiles: Mapping[str, Floats], genes: Sequence[str], gene_profiles: Floats, truth: Sequence[Interaction]
) -> tuple[list[_List], dict[str, str]]:
    """The compounds that can be scored, sorted by name, and why others cannot; arguments and errors as of `target_scores`."""
    gene_profiles = check_features(gene_profiles)
    place = {name: number for number, name in enumerate(genes)}
    if len(place) < len(genes) or len(genes) != len(gene_profiles):
        raise InputError(f"Expected {len(gene_profiles)} genes of different names, got {len(place)} names.")
    binding: dict[str, dict[str, float]] = {}
    for row in truth:
        strongest = binding.setdefault(row.compound, {})
        strongest[row.gene] = min(row.nanomolar, strongest.get(row.gene, np.inf))
    pool = sorted({row.gene for row in truth} & set(place))
    of_pool = np.array([place[gene] for gene in pool], dtype=np.int64)
    of_genes = directions(gene_profiles, genes)
    found: list[_List] = []
    skipped: dict[str, str] = {}
    for compound, genes_of in sorted(binding.items()):
        if compound not in profiles:
            skipped[compound] = "it has no profile"
            continue
        strength = np.array([genes_of.get(gene, np.inf) for gene in pool])
        one = _List(compound, of_pool, np.zeros(len(pool)), np.flatnonzero(strength <= ACTIVE_NM), np.flatnonzero(strength > GREY_NM))
        if one.why_not:
            skipped[compound] = one.why_not
            continue
        doses = _doses(compound, profiles[compound], of_genes.shape[1])
        score = np.round(np.abs(directions(doses, [compound] * len(doses)) @ of_genes.T), _DECIMALS).max(axis=0)
        found.append(replace(one, score=score[of_pool]))
    if not found:
        raise InputError(f"None of the {len(binding)} compounds of the truth could be scored: {next(iter(skipped.values()), 'there is none')}.")
    return found, skipped


def _why_nowhere(genes: NDArray[np.uint64], compounds: NDArray[np.uint64], actives: Mask) -> str:
    """Why no compound is scored among genes in other places, where `actives` says which actives lie in other places."""
    if not genes.any() or not compounds.any():
        return "it is not known in which wells profiles lie"
    if not actives.any():
        return "no compound and its target lie in different wells that are known"
    return f"no compound has a target and {LEAST_NEGATIVES} negatives or more in other wells"


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

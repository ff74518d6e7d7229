from __future__ import annotations

from pathlib import Path

import networkx
import numpy as np
import pytest
from scipy.optimize import brentq
from scipy.stats import chisquare
from sklearn.decomposition import PCA
from sklearn.linear_model import LinearRegression
from sklearn.neighbors import NearestNeighbors

from pipelines.metrics.confounds import (
    bras,
    graph_connectivity,
    kbet,
    lisi,
    lisi_of,
    not_same_compound,
    principal_component_regression,
    robustness_index,
)
from registry.errors import InputError


def profiles(effect: float, shift: float, n: int = 240, d: int = 6, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Three classes and three batches, crossed: classes differ by `effect`, batches by `shift`."""
    rng = np.random.default_rng(seed)
    classes, batches = rng.integers(0, 3, n), rng.integers(0, 3, n)
    x = rng.normal(size=(n, d)) + effect * rng.normal(size=(3, d))[classes] + shift * rng.normal(size=(3, d))[batches]
    return x, np.array([f"c{c}" for c in classes]), np.array([f"b{b}" for b in batches])


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    """Scores of scib-metrics 0.5.10; `golden/scib_metrics_0_5_10.py` made them."""
    with np.load(Path(__file__).parent / "golden" / "scib_metrics_0_5_10.npz") as arrays:
        return {name: arrays[name].astype(float) if arrays[name].dtype == np.float32 else arrays[name] for name in arrays.files}


def nearest(x: np.ndarray, k: int, metric: str = "euclidean") -> np.ndarray:
    return np.asarray(NearestNeighbors(n_neighbors=k + 1, metric=metric, algorithm="brute").fit(x).kneighbors(x, return_distance=False)[:, 1:])


def test_component_regression_is_the_sum_over_components() -> None:
    x, _, batches = profiles(0.5, 1.0)
    one_hot = (batches[:, None] == np.unique(batches)).astype(float)
    pca = PCA(svd_solver="full").fit(x)
    scores = pca.transform(x)
    r2 = [LinearRegression().fit(one_hot, scores[:, i]).score(one_hot, scores[:, i]) for i in range(scores.shape[1])]
    found = principal_component_regression(x, batches)
    assert found.share == pytest.approx(np.sum(pca.explained_variance_ * r2) / np.sum(pca.explained_variance_))
    assert found.first == pytest.approx(r2[0])
    random = [principal_component_regression(*profiles(0.0, 0.0, seed=seed)[::2]).share for seed in range(40)]
    assert np.mean(random) == pytest.approx(found.expected, rel=0.15)
    assert principal_component_regression(np.full((6, 3), 0.3), list("aabbcc")).share == 0.0


def test_lisi_is_the_slow_one() -> None:
    x, classes, batches = profiles(1.0, 1.0, n=80)
    k, found = 30, lisi(x, batches, 30)
    for query in range(0, 80, 7):
        distance = np.sqrt(np.sum((x - x[query]) ** 2, axis=1))
        others = nearest(x, k)[query]
        gap = distance[others] - distance[others].min()

        def entropy(beta: float, gap: np.ndarray = gap) -> float:
            p = np.exp(-gap * beta) / np.exp(-gap * beta).sum()
            return float(-np.sum(p * np.log(p + 1e-300))) - np.log(k / 3)

        p = np.exp(-gap * brentq(entropy, 1e-6, 1e4))
        p /= p.sum()
        simpson = sum(p[batches[others] == b].sum() ** 2 for b in np.unique(batches))
        assert found[query] == pytest.approx((1 / simpson - 1) / 2, abs=1e-4)
    assert np.abs(found - lisi(x, classes, 30)).max() > 0.1
    assert np.array_equal(lisi_of(x, [classes, batches], 30), [lisi(x, classes, 30), found])


def test_kbet_is_the_slow_one() -> None:
    x, _, batches = profiles(0.0, 0.8, n=150)
    neighbours = nearest(x, 40)
    accepted = []
    for query in range(150):
        others = np.delete(batches, query)
        names = np.unique(batches)
        expected = 40 * np.array([np.mean(others == b) for b in names])
        observed = np.array([np.sum(batches[neighbours[query]] == b) for b in names])
        accepted.append(chisquare(observed, expected).pvalue >= 0.05)
    assert kbet(x, batches, 40) == pytest.approx(np.mean(accepted))


def test_a_profile_far_out_does_not_mix_the_batches_of_all_others() -> None:
    x, _, batches = profiles(0.0, 3.0, n=150)
    mixed = kbet(x, batches, 20), lisi(x, batches, 20).mean()
    x[0, 0] = 1e7
    assert (kbet(x, batches, 20), lisi(x, batches, 20).mean()) == pytest.approx(mixed, abs=0.03)
    assert mixed[0] < 0.5


def test_connectivity_is_networkx() -> None:
    x, classes, _ = profiles(1.5, 4.0, n=120)
    graph = networkx.Graph([(query, other) for query, row in enumerate(nearest(x, 5)) for other in row.tolist()])
    expected = []
    for name in np.unique(classes):
        inside = np.flatnonzero(classes == name)
        expected.append(max(len(part) for part in networkx.connected_components(graph.subgraph(inside.tolist()))) / len(inside))
    found = graph_connectivity(x, classes, 5)
    assert found == pytest.approx(np.mean(expected))
    assert found < 1


def slow_bras(x: np.ndarray, classes: np.ndarray, batches: np.ndarray) -> float:
    of_class = []
    for name in np.unique(classes):
        inside = np.flatnonzero(classes == name)
        scores = []
        for i in inside:
            distance = {j: 1 - x[i] @ x[j] / np.linalg.norm(x[i]) / np.linalg.norm(x[j]) for j in inside if j != i}
            own = [d for j, d in distance.items() if batches[j] == batches[i]]
            other = [d for j, d in distance.items() if batches[j] != batches[i]]
            if own and other:
                a, b = np.mean(own), np.mean(other)
                scores.append(1 - abs(b - a) / max(a, b))
        if scores:
            of_class.append(np.mean(scores))
    return float(np.mean(of_class))


def test_bras_is_the_slow_one() -> None:
    x, classes, batches = profiles(1.0, 1.0, n=90)
    batches[np.flatnonzero(classes == "c0")[0]] = "alone"
    found = bras(x, classes, batches)
    assert found == pytest.approx(slow_bras(x, classes, batches))
    assert abs(found - bras(x, batches, classes)) > 0.02
    # a class in one batch does not count
    assert bras(np.concatenate([x, x[:9] + 1]), np.append(classes, ["c9"] * 9), np.append(batches, ["b0"] * 9)) == pytest.approx(found)


def test_bras_falls_with_the_shift_between_batches_and_not_with_that_between_classes() -> None:
    none, classes, batches = profiles(0.0, 0.0, n=300)
    assert bras(none, classes, batches) > 0.9
    assert bras(profiles(6.0, 0.0, n=300)[0], classes, batches) > 0.9
    assert bras(profiles(0.0, 6.0, n=300)[0], classes, batches) < 0.3


def test_bras_has_no_score_where_there_is_nothing_to_compare() -> None:
    _, classes, batches = profiles(0.0, 0.0, n=30)
    assert np.isnan(bras(np.full((30, 4), 0.3), classes, batches))
    assert np.isnan(bras(np.zeros((30, 4)), classes, batches))
    # a cell count has no direction
    assert np.isnan(bras(np.arange(1.0, 31.0)[:, None], classes, batches))
    # every class in a batch of its own
    assert np.isnan(bras(profiles(1.0, 1.0, n=30)[0], batches, batches))
    with pytest.raises(InputError, match="singletons to `leave-out` or `perfect`, got `drop`"):
        bras(np.ones((30, 4)), classes, batches, "drop")


def test_the_scores_of_scib_metrics_are_given_back(golden: dict[str, np.ndarray]) -> None:
    x, classes, batches = golden["x"], golden["classes"], golden["batches"]
    for of, name in ((x, ""), (golden["mixed"], "_mixed")):
        assert kbet(of, batches, 50, with_self=True) == pytest.approx(float(golden[f"kbet{name}"]))
        assert bras(of, classes, batches) == pytest.approx(float(golden[f"bras{name}"]), rel=1e-9)
        assert principal_component_regression(of, batches).share == pytest.approx(float(golden[f"pcr{name}"]), rel=1e-9)
    before, after = (principal_component_regression(of, batches).share for of in (x, golden["mixed"]))
    assert (before - after) / before == pytest.approx(float(golden["pcr_comparison"]))
    of_batches, of_classes = lisi(x, batches, 89, perplexity=30), lisi(x, classes, 89, perplexity=30)
    # the search for the perplexity ends within 1e-5 here and there
    assert of_batches == pytest.approx((golden["lisi_batches"] - 1) / 2, abs=1e-5)
    assert of_classes == pytest.approx((golden["lisi_classes"] - 1) / 3, abs=1e-5)
    assert np.median(of_batches) == pytest.approx(float(golden["ilisi"]), abs=1e-5)
    assert 1 - np.median(of_classes) == pytest.approx(float(golden["clisi"]), abs=1e-5)
    assert graph_connectivity(x, classes, 14, "strong") == pytest.approx(float(golden["connectivity"]))
    assert graph_connectivity(x, classes, 4, "strong") == pytest.approx(float(golden["connectivity_sparse"]))
    assert bras(x, classes, golden["rare"], "perfect") == pytest.approx(float(golden["bras_rare"]), rel=1e-9)


def test_where_ours_differs_from_scib_metrics_by_how_much(golden: dict[str, np.ndarray]) -> None:
    x, classes, batches = golden["x"], golden["classes"], golden["batches"]
    # a profile is not its own neighbour: one more of 50 that may be of another batch
    assert kbet(x, batches, 50) - float(golden["kbet"]) == pytest.approx(0.025)
    assert kbet(golden["mixed"], batches, 50) - float(golden["kbet_mixed"]) == pytest.approx(-1 / 240)
    # the mean over profiles, not the median: the few in mixed neighbourhoods count
    assert lisi(x, batches).mean() - float(golden["ilisi"]) == pytest.approx(-0.004, abs=0.001)
    assert 1 - lisi(x, classes).mean() - float(golden["clisi"]) == pytest.approx(-0.047, abs=0.001)
    # an edge holds both ways
    assert graph_connectivity(x, classes, 15) - float(golden["connectivity"]) == pytest.approx(0.018, abs=0.001)
    assert graph_connectivity(x, classes, 5) - float(golden["connectivity_sparse"]) == pytest.approx(0.254, abs=0.001)
    # a profile that is alone with its batch is no evidence of mixing
    assert bras(x, classes, golden["rare"]) - float(golden["bras_rare"]) == pytest.approx(-0.0026, abs=0.0001)


def test_ties_do_not_go_by_the_order_of_the_file(golden: dict[str, np.ndarray]) -> None:
    """Two places, both well mixed. In a file ordered by batch the reference takes the first batch for the neighbours of all."""
    tied, batches = golden["tied"], golden["batches"]
    order = np.argsort(batches, kind="stable")
    assert kbet(tied, batches) == kbet(tied[order], batches[order]) == 1.0
    assert float(golden["kbet_tied_by_batch"]) == 0.0
    assert float(golden["kbet_tied"]) == 1.0
    mixed, ordered = lisi(tied, batches, 89, perplexity=30), lisi(tied[order], batches[order], 89, perplexity=30)
    assert ordered == pytest.approx(mixed[order])
    assert mixed.mean() > 0.85
    assert float(golden["ilisi_tied_by_batch"]) < 0.5


def test_connectivity_forth_and_back_is_networkx() -> None:
    x, classes, _ = profiles(1.5, 4.0, n=120)
    graph = networkx.DiGraph([(query, other) for query, row in enumerate(nearest(x, 5)) for other in row.tolist()])
    parts = []
    for name in np.unique(classes):
        inside = np.flatnonzero(classes == name)
        components = networkx.strongly_connected_components(graph.subgraph(inside.tolist()))
        parts.append(max(len(part) for part in components) / len(inside))
    assert graph_connectivity(x, classes, 5, "strong") == pytest.approx(np.mean(parts))
    assert graph_connectivity(x, classes, 5, "strong") < graph_connectivity(x, classes, 5)


def test_kbet_with_itself_is_the_slow_one() -> None:
    x, _, batches = profiles(0.0, 0.8, n=150)
    neighbours = nearest(x, 39)
    names = np.unique(batches)
    expected = 40 * np.array([np.mean(batches == b) for b in names])
    accepted = [chisquare([np.sum(np.append(batches[neighbours[q]], batches[q]) == b) for b in names], expected).pvalue >= 0.05 for q in range(150)]
    assert kbet(x, batches, 40, with_self=True) == pytest.approx(np.mean(accepted))


def test_robustness_index_is_the_slow_one() -> None:
    x, classes, batches = profiles(1.0, 1.5)
    so = os = 0
    for query, row in enumerate(nearest(x, 20, "cosine")):
        same_class, same_batch = classes[row] == classes[query], batches[row] == batches[query]
        so += int((same_class & ~same_batch).sum())
        os += int((~same_class & same_batch).sum())
    assert robustness_index(x, classes, batches, 20) == pytest.approx(so / (so + os))
    swapped = robustness_index(x, batches, classes, 20)
    assert swapped == pytest.approx(1 - so / (so + os))


def screen(effect: float, shift: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Four mechanisms of three compounds each on four batches; every mechanism leans to one batch."""
    rng = np.random.default_rng(seed)
    compound = np.repeat(np.arange(12), 6)
    mechanism = compound // 3
    batch = np.where(rng.random(72) < 0.6, mechanism, rng.integers(0, 4, 72))
    x = rng.normal(size=(72, 10)) + effect * rng.normal(size=(4, 10))[mechanism] + shift * rng.normal(size=(4, 10))[batch]
    return x, mechanism.astype(np.str_), compound.astype(np.str_), batch.astype(np.str_)


def test_a_leak_through_the_batch_is_measured() -> None:
    leaky = not_same_compound(*screen(0.0, 4.0))
    assert leaky.leak > 0.2
    clean = not_same_compound(*screen(4.0, 0.0))
    assert clean.nsc > 0.9
    assert abs(clean.leak) < 0.1
    x, mechanism, compound, batch = screen(1.0, 1.0)
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    right = []
    for query in range(72):
        other = np.flatnonzero((compound != compound[query]) & (batch != batch[query]))
        if (mechanism[other] == mechanism[query]).any():
            right.append(mechanism[other[np.argmax(unit[other] @ unit[query])]] == mechanism[query])
    assert not_same_compound(x, mechanism, compound, batch).nscb == pytest.approx(np.mean(right))
    with pytest.raises(InputError, match="a leak cannot be measured"):
        not_same_compound(x, compound, compound, batch)


def test_mixed_batches_are_mixed_and_separate_ones_are_not() -> None:
    mixed, classes, batches = profiles(0.0, 0.0, n=600)
    apart = profiles(0.0, 30.0, n=600)[0]
    # three names in some 20 effective neighbours are not quite alike by chance
    shuffled = np.random.default_rng(1).permutation(batches)
    assert lisi(mixed, batches).mean() == pytest.approx(lisi(mixed, shuffled).mean(), abs=0.02)
    assert lisi(mixed, batches).mean() > 0.75
    assert lisi(apart, batches).mean() < 0.01
    assert kbet(mixed, batches) == pytest.approx(0.95, abs=0.05)
    assert kbet(apart, batches) == 0.0
    assert robustness_index(mixed, classes, batches) == pytest.approx(0.5, abs=0.05)
    assert robustness_index(apart, classes, batches) < 0.05
    assert graph_connectivity(mixed, classes) > 0.98


def test_a_constant_embedding_is_as_mixed_as_the_whole_whatever_the_order_of_the_file() -> None:
    batches = np.repeat(["a", "b"], 60)
    x = np.ones((120, 3))
    assert lisi(x, batches, 30).mean() == pytest.approx(1.0, abs=1e-3)
    assert kbet(x, batches, 30) == 1.0
    assert robustness_index(x, np.tile(["u", "v"], 60), batches, 30) == pytest.approx(0.5, abs=0.01)


def test_what_cannot_be_compared() -> None:
    x, classes, batches = profiles(1.0, 1.0, n=40)
    with pytest.raises(InputError, match="at least 2 different names, got 1"):
        kbet(x, np.full(40, "one"), 10)
    with pytest.raises(InputError, match="more profiles than neighbours, got 40 and 50"):
        robustness_index(x, classes, batches)
    with pytest.raises(InputError, match="perplexity from 1 to 10, got 30"):
        lisi(x, batches, 10, perplexity=30)
    with pytest.raises(InputError, match="connection of `weak` or `strong`, got `both`"):
        graph_connectivity(x, classes, 5, "both")
    with pytest.raises(InputError, match="at least one neighbour and more profiles than neighbours, got 40 and 0"):
        kbet(x, batches, 1, with_self=True)
    for level in (0.0, 1.0, np.nan):
        with pytest.raises(InputError, match=f"level of the test between 0 and 1, got {level}"):
            kbet(x, batches, 10, level)
    x[0, 0] = np.nan
    with pytest.raises(InputError, match="finite features"):
        lisi(x, batches, 10)

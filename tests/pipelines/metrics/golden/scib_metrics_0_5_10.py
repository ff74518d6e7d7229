"""Makes `scib_metrics_0_5_10.npz`: scores of scib-metrics 0.5.10 on small arrays. The library needs jax, so it is run in an environment of its own:

    uv venv --python 3.11 scib && uv pip install --python scib/bin/python scib-metrics==0.5.10
    scib/bin/python tests/pipelines/metrics/golden/scib_metrics_0_5_10.py

Neighbours are exact here (scikit-learn, brute force, the profile itself first), so that what differs is the scores alone.
"""

from __future__ import annotations

from pathlib import Path

import jax
import numpy as np

# before anything computes: what is imported below is after it for this reason alone
jax.config.update("jax_enable_x64", True)

from scib_metrics import bras, clisi_knn, graph_connectivity, ilisi_knn, kbet, lisi_knn, pcr_comparison  # noqa: E402 - float64 is set first
from scib_metrics.nearest_neighbors import NeighborsResults  # noqa: E402 - float64 is set first
from scib_metrics.utils import principal_component_regression  # noqa: E402 - float64 is set first
from sklearn.neighbors import NearestNeighbors  # noqa: E402 - float64 is set first

KBET, LISI, GRAPH = 50, 90, 15


def neighbours(x: np.ndarray, k: int) -> NeighborsResults:
    distances, indices = NearestNeighbors(n_neighbors=k, algorithm="brute").fit(x).kneighbors(x)
    return NeighborsResults(indices=indices, distances=distances)


def main() -> None:
    rng = np.random.default_rng(0)
    n, d = 240, 8
    classes = rng.choice(4, n, p=[0.4, 0.3, 0.2, 0.1])
    batches = rng.choice(3, n, p=[0.5, 0.3, 0.2])
    x = rng.normal(size=(n, d)) + 1.5 * rng.normal(size=(4, d))[classes] + 0.8 * rng.normal(size=(3, d))[batches]
    x = x.astype(np.float32).astype(np.float64)
    mixed = (x - 0.7 * np.stack([x[batches == b].mean(axis=0) for b in range(3)])[batches]).astype(np.float32).astype(np.float64)
    # one profile is alone with its batch in its class
    rare = batches.copy()
    rare[np.flatnonzero(classes == 3)] = 0
    rare[np.flatnonzero(classes == 3)[:3]] = 1, 1, 2
    # two places only, both well mixed, so that all neighbours tie; the file is ordered by batch
    tied = rng.integers(0, 2, n)[:, None] * np.ones((1, 2))
    by_batch = np.argsort(batches, kind="stable")
    accepted, statistic, _ = kbet(neighbours(x, KBET), batches)
    np.savez_compressed(
        Path(__file__).with_suffix(".npz"),
        x=x.astype(np.float32),
        mixed=mixed.astype(np.float32),
        tied=tied.astype(np.float32),
        classes=classes,
        batches=batches,
        rare=rare,
        kbet=accepted,
        kbet_statistic=statistic,
        kbet_mixed=kbet(neighbours(mixed, KBET), batches)[0],
        lisi_batches=lisi_knn(neighbours(x, LISI), batches),
        lisi_classes=lisi_knn(neighbours(x, LISI), classes),
        ilisi=ilisi_knn(neighbours(x, LISI), batches),
        clisi=clisi_knn(neighbours(x, LISI), classes),
        bras=bras(x, classes, batches),
        bras_mixed=bras(mixed, classes, batches),
        bras_rare=bras(x, classes, rare),
        connectivity=graph_connectivity(neighbours(x, GRAPH), classes),
        connectivity_sparse=graph_connectivity(neighbours(x, 5), classes),
        pcr=principal_component_regression(x, batches, categorical=True),
        pcr_mixed=principal_component_regression(mixed, batches, categorical=True),
        pcr_comparison=pcr_comparison(x, mixed, batches, categorical=True),
        kbet_tied=kbet(neighbours(tied, KBET), batches)[0],
        kbet_tied_by_batch=kbet(neighbours(tied[by_batch], KBET), batches[by_batch])[0],
        ilisi_tied=ilisi_knn(neighbours(tied, LISI), batches),
        ilisi_tied_by_batch=ilisi_knn(neighbours(tied[by_batch], LISI), batches[by_batch]),
    )


if __name__ == "__main__":
    main()

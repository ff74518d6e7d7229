"""One number of every family on one small data set, to the last bit; run as a module it prints them."""

from __future__ import annotations

import hashlib
import json

import numpy as np

from pipelines.metrics.alignment import spherize, tvn
from pipelines.metrics.baseline import InformationSettings
from pipelines.metrics.classification import balanced_accuracy, macro_auroc
from pipelines.metrics.code_length import online_code
from pipelines.metrics.groups import Groups, group_scores
from pipelines.metrics.information import beyond_controls, judge_information
from pipelines.metrics.pairs import PairRule
from pipelines.metrics.probes import ProbeSettings, out_of_fold
from pipelines.metrics.relations import consistency, recall
from pipelines.metrics.retrieval import permutation_null, retrieve
from pipelines.metrics.ridge import fit_ridge
from pipelines.metrics.selectivity import selectivity
from pipelines.metrics.sentences import detail, sentence
from pipelines.metrics.verdicts import judge


def fingerprint() -> str:
    """JSON of hashed statistics, a verdict and its words."""
    rng = np.random.default_rng(0)
    units = np.array([f"plate-{i % 24}" for i in range(240)])
    labels = rng.integers(0, 3, 240)
    folds = np.array([i % 24 % 2 - 1 for i in range(240)])
    x = rng.normal(size=(240, 160)) + np.eye(3, 160)[labels]
    rows = []
    for kind in ("logistic", "knn"):
        found = out_of_fold(x, labels, folds, units, 3, ProbeSettings(max_dim=32, grid=(0.01, 1.0)), kind)
        tested = units[found.images]
        rows += [balanced_accuracy(found.labels, found.predicted, tested, 3), macro_auroc(found.labels, found.probabilities, tested)]
    retrieved = retrieve(x, labels, units, 3)
    verdict = judge("e", "t", "m", rows[0], controls={"a": rows[2], "b": rows[0]}, unit="plate")
    bits = beyond_controls(x[:, :4], x, {}, labels, folds, units, 3, InformationSettings(penalties=(100.0,), random_networks=2))
    digest = hashlib.sha256()
    for row in (*rows, retrieved.map, retrieved.normalised, bits.encoder):
        digest.update(np.float64(row.value).tobytes() + row.without.tobytes() + row.share.tobytes())
    columns = {"label": labels.astype(np.str_), "plate": units}
    groups = group_scores(x, columns, PairRule(("label",), ("plate",), (), ("label",)), Groups(("label", "plate")), n_permutations=9)
    names = [f"g{i}" for i in range(240)]
    related = recall(x, names, [(names[i], names[-i]) for i in range(1, 40)])
    digest.update(groups.map.tobytes() + groups.p.tobytes() + np.float64(related.value).tobytes())
    digest.update(consistency(x, units, ["plate-0", "plate-1"]).value.tobytes() + tvn(x[:, :8], np.arange(240) < 120, units).tobytes())
    digest.update(spherize(x[:, :8], np.arange(240) < 120).tobytes())
    digest.update(fit_ridge(x[:, :20], labels, units, 3).scores(x[:, :20]).tobytes())
    code = online_code(x, labels, units, 3, ProbeSettings(max_dim=16, grid=(0.01, 1.0)))
    digest.update(code.bits.tobytes() + code.compression.without.tobytes() + "".join(code.order).encode())
    treatments = np.array([f"t{i % 9}" for i in range(240)])
    heart = selectivity(x[:, :20], labels, treatments, folds, units, 3, ProbeSettings(grid=(0.01,)), draws=2)
    digest.update(heart.selectivity.without.tobytes() + heart.control.tobytes())
    null = permutation_null(x, labels, units, 3, n_permutations=9)
    of_bits = judge_information("e", "t", bits).as_dict()
    return json.dumps([digest.hexdigest(), null.p, sentence(verdict), detail(verdict), of_bits])


if __name__ == "__main__":
    print(fingerprint())

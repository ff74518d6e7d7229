"""Counts of genes in the simulated tissue: three follow what can be seen of the nuclei, one follows nothing."""

from __future__ import annotations

import numpy as np

from pipelines.benchmarks.drawing import stream
from pipelines.benchmarks.tissue_scene import Nuclei

#: tasks whose patches have counts; the patches of `third-order` look so different that any row would tell them by that
TASKS = ("arrangement", "composition")
#: gene -> what it follows, in words
GENES = {
    "DARK": "the fraction of dark nuclei",
    "CROWDED": "the number of nuclei",
    "CLUSTERED": "the fraction of dark nuclei whose nearest nucleus is dark",
    "NOTHING": "nothing",
}
#: mean and standard deviation of each over the default settings
TYPICAL = {"DARK": (0.43, 0.06), "CROWDED": (128.0, 9.5), "CLUSTERED": (0.48, 0.13)}
#: mean log count, and standard deviations of it: of what is followed, and between patients
LEVEL, EFFECT, PATIENT_SD = 3.4, 0.35, 0.15


def gene_counts(seed: int, patient: int, task: str, number: int, nuclei: Nuclei, size_px: int) -> dict[str, int]:
    """Poisson counts of one patch by gene; streams of their own, so that no image changes with them.

    Args:
        seed: of the benchmark.
        patient: number of the patient.
        task: the task of the patch.
        number: of the patch.
        nuclei: its nuclei.
        size_px: side of the torus.
    """
    offsets = stream(seed, "tissue", patient, "genes").normal(0, PATIENT_SD, len(GENES))
    seen = {"DARK": float(nuclei.dark.mean()), "CROWDED": float(len(nuclei.y)), "CLUSTERED": dark_neighbours(nuclei, size_px)}
    effects = [EFFECT * (seen[gene] - TYPICAL[gene][0]) / TYPICAL[gene][1] if gene in seen else 0.0 for gene in GENES]
    drawn = stream(seed, "tissue", patient, task, number, "genes").poisson(np.exp(LEVEL + np.array(effects) + offsets))
    return dict(zip(GENES, drawn.tolist(), strict=True))


def dark_neighbours(nuclei: Nuclei, size_px: int) -> float:
    """The fraction of dark nuclei whose nearest other nucleus, on the torus, is dark; 0 where none is dark or a nucleus is alone."""
    from scipy.spatial import cKDTree

    if len(nuclei.y) < 2 or not nuclei.dark.any():
        return 0.0
    points = np.stack([nuclei.y, nuclei.x], axis=1) % size_px
    found = cKDTree(points, boxsize=np.full(2, float(size_px))).query(points[nuclei.dark], k=2)
    return float(nuclei.dark[np.asarray(found[1])[:, 1]].mean())

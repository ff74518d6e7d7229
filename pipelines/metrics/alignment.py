"""Post-processing of profiles, by name: what is done to embeddings before perturbations are compared.

Every function takes (n, d) profiles and returns (n, k) aligned ones; nothing is fitted but on the profiles given, most of it on their
controls alone. The name of a rule belongs into every result made with it (`ALIGNMENTS`). Reference: EFAAR_benchmarking, `efaar.py` at
commit 2248f40 (Celik et al. 2024); where ours differs it says so.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from pipelines.metrics.geometry import check_features
from registry.arrays import Floats, Ints, Mask
from registry.errors import InputError

Batches = Sequence[str] | NDArray[np.str_]
#: what is added to the covariance of a batch's controls before it is inverted
_RIDGE = 0.5


def centre_scale(features: Floats, controls: Mask, batches: Batches) -> Floats:
    """(n, d) z-scores on the controls of each batch (`centerscale_on_controls`): 0 mean, 1 standard deviation (ddof 0); a constant keeps its scale.

    Args:
        features: (n, d) finite.
        controls: (n,) which profiles are controls.
        batches: n names, such as plates or experiments.

    Raises:
        InputError: a batch without controls, NaN or infinity.
    """
    features = check_features(features)
    aligned = np.empty_like(features)
    for batch in _batches(batches, controls, len(features)):
        aligned[batch] = _z(features[batch], features[batch & controls])
    return aligned


def pca_centre_scale(features: Floats, controls: Mask, batches: Batches, dims: int = 128) -> Floats:
    """(n, k) principal components of the controls, then `centre_scale` (PCA-CS).

    k is `dims`, or less where there are fewer controls or features. The published function is in no file that we could read; the order is
    that of its generated documentation and of the recipe of RxRx3-core. Components are exact (full SVD) and signed so that the largest
    loading is positive, which leaves every cosine as it is.
    """
    features = check_features(features)
    return centre_scale(_components(features, features[np.asarray(controls, dtype=bool)], dims), controls, batches)


def tvn(features: Floats, controls: Mask, batches: Batches) -> Floats:
    """(n, k) typical variation normalisation, as `efaar.py` has it since 2248f40.

    z-scores on all controls, all principal components of them, z-scores again, then for each batch CORAL: the covariance of its controls
    (ddof 1) plus half the identity becomes the identity.

    Raises:
        InputError: a batch with fewer than two controls.
    """
    features, controls = check_features(features), np.asarray(controls, dtype=bool)
    scaled = _z(features, features[controls])
    turned = _components(scaled, scaled[controls], min(int(controls.sum()), features.shape[1]))
    return _coral(_z(turned, turned[controls]), controls, batches)


def tvn_global(features: Floats, controls: Mask) -> Floats:
    """(n, k) the earlier version (7d87d20): no z-scores before the components, and one CORAL over all controls."""
    features, controls = check_features(features), np.asarray(controls, dtype=bool)
    turned = _components(features, features[controls], min(int(controls.sum()), features.shape[1]))
    return _coral(_z(turned, turned[controls]), controls, np.zeros(len(features), dtype=np.str_))


#: rule -> (profiles, controls, batches) to aligned profiles
ALIGNMENTS: dict[str, Callable[[Floats, Mask, Batches], Floats]] = {
    "none": lambda features, _controls, _batches: check_features(features),
    "centre-scale": centre_scale,
    "pca128-centre-scale": pca_centre_scale,
    "tvn": tvn,
    "tvn-global": lambda features, controls, _batches: tvn_global(features, controls),
}


def aggregate(features: Floats, names: Sequence[str] | NDArray[np.str_]) -> tuple[tuple[str, ...], Floats]:
    """Names, sorted, and the (p, d) mean profile of each."""
    unique, codes = np.unique(np.asarray(names, dtype=np.str_), return_inverse=True)
    sums = np.zeros((len(unique), features.shape[1]))
    np.add.at(sums, codes, features)
    return tuple(unique.tolist()), sums / np.bincount(codes)[:, None]


def _batches(batches: Batches, controls: Mask, n: int, least: int = 1) -> list[Mask]:
    """(n,) which profiles are in each batch.

    Raises:
        InputError: a batch with fewer than `least` controls.
    """
    names, controls = np.asarray(batches, dtype=np.str_), np.asarray(controls, dtype=bool)
    if names.shape != (n,) or controls.shape != (n,):
        raise InputError(f"Expected a batch and a control flag for each of {n} profiles, got {names.shape} and {controls.shape}.")
    codes: Ints = np.unique(names, return_inverse=True)[1]
    found = [codes == code for code in range(int(codes.max()) + 1)]
    for batch in found:
        if (batch & controls).sum() < least:
            held = int((batch & controls).sum())
            raise InputError(f"Batch `{names[batch][0]}` has {held} controls, at least {least} are needed. Leave it out or use another rule.")
    return found


def _z(features: Floats, reference: Floats) -> Floats:
    spread = reference.std(axis=0)
    return np.asarray((features - reference.mean(axis=0)) / np.where(spread > 1e-12 * np.abs(reference).max(axis=0, initial=1e-300), spread, 1.0))


def _components(features: Floats, reference: Floats, dims: int) -> Floats:
    """(n, k) scores on the leading principal components of the reference."""
    centre = reference.mean(axis=0)
    _, _, directions = np.linalg.svd(reference - centre, full_matrices=False)
    kept = directions[:dims]
    kept = kept * np.sign(kept[np.arange(len(kept)), np.abs(kept).argmax(axis=1)])[:, None]
    return np.asarray((features - centre) @ kept.T)


def _coral(features: Floats, controls: Mask, batches: Batches) -> Floats:
    aligned = np.empty_like(features)
    for batch in _batches(batches, controls, len(features), least=2):
        covariance = np.atleast_2d(np.cov(features[batch & controls], rowvar=False)) + _RIDGE * np.eye(features.shape[1])
        values, vectors = np.linalg.eigh(covariance)
        aligned[batch] = features[batch] @ (vectors / np.sqrt(values)) @ vectors.T
    return aligned

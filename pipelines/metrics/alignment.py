"""Post-processing of profiles, by name: what is done to embeddings before perturbations are compared.

Every function takes (n, d) profiles and returns (n, k) aligned ones; nothing is fitted but on the profiles given, most of it on their
controls alone. The name of a rule belongs into every result made with it (`ALIGNMENTS`). References: EFAAR_benchmarking, `efaar.py` at
commit 2248f40 (Celik et al. 2024), and for sphering pycytominer; where ours differs it says so.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from pipelines.metrics.counts import check_count
from pipelines.metrics.geometry import check_features, varying_columns
from pipelines.metrics.names import whole_names
from registry.arrays import Floats, Ints, Mask
from registry.errors import InputError

Batches = Sequence[str] | NDArray[np.str_]
#: what is added to the covariance of a batch's controls before it is inverted
_RIDGE = 0.5
#: what pycytominer's `normalize` adds to the singular values of controls
EPSILON = 1e-6
Alignment = Callable[[Floats, Mask, Batches], Floats]


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

    k is `dims`, or less where controls vary in fewer directions: m of them vary in m - 1 at most. The published function is in no file that we
    could read; the order is that of its generated documentation and of the recipe of RxRx3-core. Components are exact (full SVD) and signed so
    that the largest loading is positive, which leaves every cosine as it is.

    Args:
        features: (n, d) finite.
        controls: (n,) which profiles are controls.
        batches: n names, such as plates or experiments.
        dims: most components kept.

    Raises:
        InputError: a batch without controls, NaN or infinity, no component to keep.
    """
    check_count(dims, "a number of components", instead="128 are published.")
    features = check_features(features)
    _batches(batches, controls, len(features))
    return centre_scale(_components(features, features[np.asarray(controls, dtype=bool)], dims), controls, batches)


def tvn(features: Floats, controls: Mask, batches: Batches) -> Floats:
    """(n, k) typical variation normalisation, as `efaar.py` has it since 2248f40.

    z-scores on all controls, all principal components of them, z-scores again, then for each batch CORAL: the covariance of its controls
    (ddof 1) plus half the identity becomes the identity. Differs where there are no more controls than features: directions in which the
    controls do not vary are left out, where the reference divides by what rounding leaves of their spread.

    Args:
        features: (n, d) finite.
        controls: (n,) which profiles are controls.
        batches: n names, such as plates or experiments.

    Raises:
        InputError: a batch with fewer than two controls, NaN or infinity.
    """
    features, controls = check_features(features), np.asarray(controls, dtype=bool)
    _batches(batches, controls, len(features), least=2)
    scaled = _z(features, features[controls])
    turned = _components(scaled, scaled[controls])
    return _coral(_z(turned, turned[controls]), controls, batches)


def tvn_global(features: Floats, controls: Mask) -> Floats:
    """(n, k) the earlier version (7d87d20): no z-scores before the components, and one CORAL over all controls.

    Args:
        features: (n, d) finite.
        controls: (n,) which profiles are controls.

    Raises:
        InputError: fewer than two controls, NaN or infinity.
    """
    features, controls = check_features(features), np.asarray(controls, dtype=bool)
    everything: NDArray[np.str_] = np.full(len(features), "all")
    _batches(everything, controls, len(features), least=2)
    turned = _components(features, features[controls])
    return _coral(_z(turned, turned[controls]), controls, everything)


def spherize(features: Floats, controls: Mask, *, method: str = "ZCA-cor", epsilon: float = EPSILON, uncentred: bool = False) -> Floats:
    """(n, d) sphered profiles: the covariance of all controls together (ddof 1) becomes the identity; pycytominer's `normalize(method="spherize")`.

    Profiles are centred on the controls and, with "ZCA-cor", brought to their standard deviation (ddof 0). With the singular values S and
    directions V of the controls so treated, the result is x V diag(sqrt(n - 1) / (S + epsilon)) V', n being the number of controls. That is
    pycytominer 1.1.0 to 1.2.4, and again 1.7.1. The versions from 1.3.0 to 1.7.0 take S and V of the controls as they came, neither centred nor
    scaled, and apply them to the treated ones, so that the covariance becomes something else: `uncentred=True` gives their numbers. PROTOCOLS.md,
    finding 10, counts 1.2.1 among the uncentred: its `Spherize.fit` is that of 1.2.2, which centres before the decomposition, and the golden arrays
    of 1.2.2 are given back by the centred rule alone.

    With d or fewer controls, n - 1 directions are known and all others are taken to vary as little as the last of those; the covariance is then
    the identity in the n - 1 only. Both are the reference's rules. Its "PCA" and "PCA-cor" are the same profiles turned: no distance and no cosine
    differs, so they are not offered.

    Args:
        features: (n, d) finite.
        controls: (n,) which profiles are controls.
        method: "ZCA-cor", the default of `normalize`, or "ZCA": no standard deviations.
        epsilon: added to the singular values; 1e-6 is the default of `normalize`, CHAMMI-75 takes 1e-3 for CPJUMP1.
        uncentred: as pycytominer 1.3.0 to 1.7.0.

    Raises:
        InputError: fewer than two controls; a feature that is constant among them; controls that depend on each other linearly, for which
            the reference may return rounding errors times a million; NaN, infinity, an unknown method.
    """
    features, controls = check_features(features), np.asarray(controls, dtype=bool)
    _batches(np.full(len(features), "all"), controls, len(features), least=2)
    if method not in ("ZCA-cor", "ZCA") or not epsilon >= 0:
        raise InputError(f"Expected a method of `ZCA-cor`, `ZCA` and an epsilon of at least 0, got `{method}` and {epsilon}.")
    reference = features[controls]
    n, d = reference.shape
    if not d:
        raise InputError("Expected at least one feature to sphere, got none.")
    constant = np.flatnonzero(~varying_columns(reference))
    if len(constant):
        raise InputError(f"Column {constant[0]} is constant among the controls ({len(constant)} such columns). Leave it out before sphering.")
    centre, scale = reference.mean(axis=0), reference.std(axis=0) if method == "ZCA-cor" else np.ones(d)
    treated = (reference - centre) / scale
    _, sizes, directions = np.linalg.svd(treated, full_matrices=False)
    known = min(n - 1, d)
    if sizes[known - 1] <= sizes[0] * max(n, d) * np.finfo(np.float64).eps:
        raise InputError(f"The {n} controls span fewer than the {known} directions expected. Leave out copies and columns that follow from others.")
    if uncentred:
        _, sizes, directions = np.linalg.svd(reference, full_matrices=False)
    gain, kept = np.sqrt(n - 1) / (sizes[:known] + epsilon), directions[:known]
    x = (features - centre) / scale
    return np.asarray(gain[-1] * x + ((x @ kept.T) * (gain - gain[-1])) @ kept)


def alignments(epsilon: float = EPSILON) -> dict[str, Alignment]:
    """Every rule under its name: (profiles, controls, batches) to aligned profiles.

    Args:
        epsilon: of sphering, as `spherize` takes it. One that is not the published default is in the name of the rule, so that what two of them
            give never stands under one name.

    Raises:
        InputError: an epsilon below 0, or none.
    """
    if not 0 <= epsilon < np.inf:
        raise InputError(f"Expected an epsilon of at least 0, got {epsilon}.")
    of = "" if epsilon == EPSILON else f"-epsilon-{epsilon!r}"
    return {
        "none": lambda features, _controls, _batches: check_features(features),
        "centre-scale": centre_scale,
        "pca128-centre-scale": pca_centre_scale,
        "tvn": tvn,
        "tvn-global": lambda features, controls, _batches: tvn_global(features, controls),
        f"spherize-1.7.1{of}": lambda features, controls, _batches: spherize(features, controls, epsilon=epsilon),
        f"spherize-1.6.0{of}": lambda features, controls, _batches: spherize(features, controls, epsilon=epsilon, uncentred=True),
    }


#: the rules with their published settings
ALIGNMENTS = alignments()


def aggregate(features: Floats, names: Sequence[str] | NDArray[np.str_]) -> tuple[tuple[str, ...], Floats]:
    """Names, sorted, and the (p, d) mean profile of each.

    Args:
        features: (n, d) finite.
        names: n names, such as perturbations.

    Raises:
        InputError: another number of names, NaN or infinity.
    """
    features, values = check_features(features), whole_names(names, "names")
    if values.shape != (len(features),):
        raise InputError(f"Expected a name for each of {len(features)} profiles, got shape {values.shape}.")
    unique, codes = np.unique(values, return_inverse=True)
    sums = np.zeros((len(unique), features.shape[1]))
    np.add.at(sums, codes, features)
    return tuple(unique.tolist()), sums / np.bincount(codes)[:, None]


def _batches(batches: Batches, controls: Mask, n: int, least: int = 1) -> list[Mask]:
    """(n,) which profiles are in each batch.

    Raises:
        InputError: a batch with fewer than `least` controls.
    """
    names, controls = whole_names(batches, "batches"), np.asarray(controls, dtype=bool)
    if n == 0:
        raise InputError("Expected profiles to align, got none.")
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


def _components(features: Floats, reference: Floats, dims: int | None = None) -> Floats:
    """(n, k) scores on the leading principal components of the reference, at most `dims`, without directions in which it does not vary."""
    centre = reference.mean(axis=0)
    _, sizes, directions = np.linalg.svd(reference - centre, full_matrices=False)
    # m profiles vary in m - 1 directions; divided by a standard deviation that is rounding, scores on the last would be anything
    kept = directions[sizes > np.linalg.norm(reference) * max(reference.shape) * np.finfo(np.float64).eps][:dims]
    kept = kept * np.sign(kept[np.arange(len(kept)), np.abs(kept).argmax(axis=1)])[:, None]
    return np.asarray((features - centre) @ kept.T)


def _coral(features: Floats, controls: Mask, batches: Batches) -> Floats:
    aligned = np.empty_like(features)
    for batch in _batches(batches, controls, len(features), least=2):
        covariance = np.atleast_2d(np.cov(features[batch & controls], rowvar=False)) + _RIDGE * np.eye(features.shape[1])
        values, vectors = np.linalg.eigh(covariance)
        aligned[batch] = features[batch] @ (vectors / np.sqrt(values)) @ vectors.T
    return aligned

"""Classes of regions from their descriptors: a Gaussian mixture with one shared covariance."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.decomposition import PCA
from sklearn.mixture import GaussianMixture

Floats = NDArray[np.float64]

_REGULARISATION = 1e-3
_RESTARTS = 20
_SAMPLES_PER_DIMENSION = 4
_NORMAL_RATIO = 2 / 3


@dataclass(frozen=True)
class _Fit:
    """Probabilities (M, k) of the components, that with the lowest mean score first."""

    probabilities: Floats
    first_is_normal: bool


def mixture_probabilities(
    descriptors: ArrayLike,
    scores: ArrayLike,
    empty: ArrayLike,
    n_classes: int,
    *,
    dimensions: int = 16,
    seed: int = 0,
) -> Floats:
    """Return the class probabilities (M, n_classes) of regions; class 0 is normal.

    A sub-image without a region (`empty` (M,) bool: MEBin found nothing) is normal. The others,
    descriptors (M, F), go into a mixture of `n_classes` components; when the component with the
    lowest mean of `scores` (M,), the anomaly scores, has less than 2/3 of the mean of all others,
    or nothing is empty, it is normal as well. Otherwise the sub-images without a region are all of
    normal, and a mixture of one component less finds the defects. Defects follow by falling size.

    Descriptors are projected on their first `dimensions` principal components, fewer where there
    are not four regions a dimension. With fewer different regions than classes the last classes
    stay empty. Raises ValueError for lengths that differ and fewer than two classes.
    """
    x, s = np.asarray(descriptors, np.float64), np.asarray(scores, np.float64)
    without = np.asarray(empty, np.bool_)
    if x.ndim != 2 or not len(x) == len(s) == len(without):
        raise ValueError(f"{len(s)} scores, {len(without)} flags for descriptors {x.shape}")
    if n_classes < 2:
        raise ValueError(f"a mixture needs 2 classes or more, not {n_classes}")
    probabilities = np.zeros((len(x), n_classes))
    probabilities[without, 0] = 1.0
    x, s = x[~without], s[~without]
    if not len(x):
        return probabilities
    x = _project(x, dimensions, seed)
    fit = _fit(x, s, n_classes, seed)
    if fit.first_is_normal or not without.any():
        probabilities[~without, : fit.probabilities.shape[1]] = fit.probabilities
    else:
        found = _fit(x, s, n_classes - 1, seed).probabilities
        order = np.argsort(-found.sum(0), kind="stable")
        probabilities[~without, 1 : 1 + found.shape[1]] = found[:, order]
    return probabilities


def _project(x: Floats, dimensions: int, seed: int) -> Floats:
    if len(x) < 2:
        return x
    wanted = min(dimensions, x.shape[1], max(1, len(x) // _SAMPLES_PER_DIMENSION))
    return np.asarray(PCA(wanted, random_state=seed).fit_transform(x), np.float64)


def _fit(x: Floats, scores: Floats, n_components: int, seed: int) -> _Fit:
    k = min(n_components, len(np.unique(x, axis=0)))
    if k < 2:
        return _Fit(np.ones((len(x), 1)), first_is_normal=False)
    mixture = GaussianMixture(
        k,
        covariance_type="tied",
        n_init=_RESTARTS,
        reg_covar=_REGULARISATION,
        random_state=seed,
    ).fit(x)
    found = np.asarray(mixture.predict_proba(x), np.float64)  # (M, k)
    size = found.sum(0)
    score = (found * scores[:, None]).sum(0) / np.maximum(size, 1e-12)
    score[size < 0.5] = np.inf
    first = int(score.argmin())
    others = 1 - found[:, first]
    rest = float((others * scores).sum() / max(others.sum(), 1e-12))
    order = [first, *(j for j in np.argsort(-size, kind="stable").tolist() if j != first)]
    return _Fit(found[:, order], first_is_normal=bool(score[first] < _NORMAL_RATIO * rest))

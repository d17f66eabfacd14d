"""Classes of regions from their descriptors: a Gaussian mixture with one shared covariance."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.decomposition import PCA
from sklearn.mixture import GaussianMixture

_REGULARISATION = 1e-3
_RESTARTS = 5
_SAMPLES_PER_DIMENSION = 4


def mixture_probabilities(
    descriptors: ArrayLike,
    scores: ArrayLike,
    n_classes: int,
    *,
    dimensions: int = 16,
    seed: int = 0,
) -> NDArray[np.float64]:
    """Return the probabilities (M, n_classes) of a mixture fitted to descriptors (M, F).

    Descriptors are projected on their first `dimensions` principal components (fewer where there
    are fewer than four regions a dimension). Class 0, normal, is the component with the lowest mean
    of `scores` (M,), the anomaly scores; the others follow by falling size. With fewer different
    regions than classes the last classes stay empty. No regions give zero rows.
    """
    x = np.asarray(descriptors, np.float64)
    s = np.asarray(scores, np.float64)
    if x.ndim != 2 or len(s) != len(x):
        raise ValueError(f"{len(s)} scores for descriptors {x.shape}")
    probabilities = np.zeros((len(x), n_classes))
    k = min(n_classes, len(np.unique(x, axis=0)) if len(x) else 0)
    if k < 2:
        probabilities[:, 0] = 1.0
        return probabilities
    wanted = min(dimensions, x.shape[1], max(1, len(x) // _SAMPLES_PER_DIMENSION))
    projected = PCA(wanted, random_state=seed).fit_transform(x)
    mixture = GaussianMixture(
        k,
        covariance_type="tied",
        n_init=_RESTARTS,
        reg_covar=_REGULARISATION,
        random_state=seed,
    ).fit(projected)
    found = np.asarray(mixture.predict_proba(projected), np.float64)  # (M, k)
    size = found.sum(0)
    mean_score = (found * s[:, None]).sum(0) / np.maximum(size, 1e-12)
    mean_score[size < 0.5] = np.inf
    normal = int(mean_score.argmin())
    rest = [j for j in np.argsort(-size, kind="stable").tolist() if j != normal]
    probabilities[:, :k] = found[:, [normal, *rest]]
    return probabilities

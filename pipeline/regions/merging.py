"""From the logits of sub-images to one class per image (AnomalyNCD section 3.4)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

Weighting = Literal["area", "mean", "score"]


def class_probabilities(
    logits: ArrayLike, n_base: int, *, temperature: float
) -> NDArray[np.float64]:
    """Return the probabilities of the novel classes of sub-images.

    The softmax of ``logits / temperature`` over all C classes, its first `n_base` base classes
    removed and the rest renormalised, which is the softmax over the rest.

    Parameters
    ----------
    logits
        (M, C), base classes first.

    Returns
    -------
    (M, C - n_base) float64, rows summing to 1.

    Raises
    ------
    ValueError
        When no novel class is left.

    Examples
    --------
    >>> class_probabilities([[9.0, 0.3, 0.3]], 1, temperature=0.1).tolist()
    [[0.5, 0.5]]
    """
    novel = np.asarray(logits, np.float64)
    if novel.ndim != 2 or not 0 <= n_base < novel.shape[1]:
        raise ValueError(f"logits are {novel.shape}: with n_base {n_base} no novel class is left")
    novel = novel[:, n_base:] / temperature
    e = np.exp(novel - novel.max(1, keepdims=True))
    return np.asarray(e / e.sum(1, keepdims=True))


def region_weights(
    image_index: ArrayLike,
    areas: ArrayLike,
    scores: ArrayLike,
    *,
    rule: Weighting,
    temperature: float,
    n_images: int,
) -> NDArray[np.float64]:
    """Return the weight alpha (M,) of every sub-image, summing to 1 over each image's sub-images.

    `image_index` (M,) int in [0, n_images), in any order; `areas` (M,) mask pixels of the
    sub-image in the original image; `scores` (M,) in [0, 1]. By `rule`:

    * ``area``: the softmax of ``sqrt(area) / temperature`` over the image's sub-images, Eq. 6;
    * ``mean``: equal weights;
    * ``score``: proportional to the anomaly score; equal where all scores of an image are 0.

    `temperature` (in pixels of length) is used by ``area`` alone. Raises ValueError for an image
    without sub-images, a negative or non-finite area or score, and an unknown rule.
    """
    index = _check_index(image_index, n_images)
    values = {"area": areas, "mean": np.ones(len(index)), "score": scores}
    if rule not in values:
        raise ValueError(f"unknown rule {rule!r}: use one of {', '.join(values)}")
    value = np.asarray(values[rule], np.float64)
    if value.shape != index.shape:
        raise ValueError(f"{rule}: {value.shape} values for {index.shape} sub-images")
    if not np.all(np.isfinite(value) & (value >= 0)):
        raise ValueError(f"the {rule} of a sub-image is negative or not finite")
    if rule == "area":
        if temperature <= 0:
            raise ValueError(f"temperature must be positive, not {temperature}")
        value = np.sqrt(value) / temperature
    largest = np.zeros(n_images)
    np.maximum.at(largest, index, value)
    if rule == "area":
        value = np.exp(value - largest[index])
    else:
        flat = largest[index] == 0
        value = np.where(flat, 1.0, value / np.where(flat, 1.0, largest[index]))
    total = np.bincount(index, weights=value, minlength=n_images)
    return np.asarray(value / total[index])


def merge_regions(
    probabilities: ArrayLike,
    image_index: ArrayLike,
    areas: ArrayLike,
    scores: ArrayLike,
    *,
    rule: Weighting,
    temperature: float,
    n_images: int,
) -> NDArray[np.float64]:
    """Merge the probabilities of sub-images into those of their images (AnomalyNCD section 3.4).

    Parameters
    ----------
    probabilities
        (M, C) of the M sub-images.
    image_index, areas, scores
        (M,) each: image in [0, n_images), mask pixels, anomaly score; see `region_weights`.
    rule, temperature
        How sub-images are weighted; see `region_weights`.

    Returns
    -------
    (n_images, C) float64: ``p_i = sum_k alpha_ik p_ik``.

    Raises
    ------
    ValueError
        For an image without sub-images, and whatever else `region_weights` refuses.

    Examples
    --------
    >>> p = [[1.0, 0.0], [0.0, 1.0], [0.5, 0.5]]
    >>> options = {"rule": "mean", "temperature": 100.0, "n_images": 2}
    >>> merge_regions(p, [0, 0, 1], [9, 9, 4], [1, 1, 1], **options).tolist()
    [[0.5, 0.5], [0.5, 0.5]]
    """
    p = np.asarray(probabilities, np.float64)
    alpha = region_weights(
        image_index, areas, scores, rule=rule, temperature=temperature, n_images=n_images
    )
    if p.ndim != 2 or len(p) != len(alpha):
        raise ValueError(f"probabilities are {p.shape}, not ({len(alpha)}, C)")
    merged = np.zeros((n_images, p.shape[1]))
    np.add.at(merged, np.asarray(image_index), alpha[:, None] * p)
    return merged


def part_verdicts(
    image_classes: ArrayLike, image_part: ArrayLike, probabilities: ArrayLike
) -> NDArray[np.int64]:
    """Return one class for each of P parts: normal (0) only if all its images are.

    Otherwise it is the defect class with the highest probability of the part.

    Parameters
    ----------
    image_classes, image_part
        (N,) each: the class of an image, and its part in [0, P).
    probabilities
        (P, C) of the parts, merged from all their regions (`merge_regions`).

    Examples
    --------
    >>> part_verdicts([0, 0, 2], [0, 1, 1], [[0.9, 0.1, 0.0], [0.6, 0.1, 0.3]]).tolist()
    [0, 2]
    """
    p = np.asarray(probabilities, np.float64)
    defective = np.zeros(len(p), np.bool_)
    np.logical_or.at(defective, np.asarray(image_part), np.asarray(image_classes) != 0)
    return np.where(defective, p[:, 1:].argmax(1) + 1, 0).astype(np.int64)


def region_class_set(
    classes: ArrayLike, image_index: ArrayLike, *, n_images: int
) -> list[list[int]]:
    """Return for every image the sorted set of the classes (M,) of its sub-images.

    For images with several defect types, of which the merged class names only one. Normal (0) is
    listed like any other class. Raises ValueError for an image without sub-images.
    """
    index = _check_index(image_index, n_images)
    class_sets: list[set[int]] = [set() for _ in range(n_images)]
    for image, label in zip(index.tolist(), np.asarray(classes).tolist(), strict=True):
        class_sets[image].add(int(label))
    return [sorted(labels) for labels in class_sets]


def defect_class_set(class_sets: Sequence[Sequence[int]], *, normal: int = 0) -> list[list[int]]:
    """Return the sets of `region_class_set` without class `normal`; empty for a normal image.

    An image with several defect types ("combined") has two or more. The set is of its regions:
    weights and the merged class have no part in it.
    """
    return [[label for label in labels if label != normal] for labels in class_sets]


def _check_index(image_index: ArrayLike, n_images: int) -> NDArray[np.int64]:
    index: NDArray[Any] = np.asarray(image_index)
    if index.ndim != 1 or (index.size and index.dtype.kind not in "iu"):
        raise ValueError(f"image_index must be (M,) integers, not {index.dtype} {index.shape}")
    index = index.astype(np.int64)
    if index.size and not 0 <= index.min() <= index.max() < n_images:
        raise ValueError(f"image_index must lie in [0, {n_images})")
    missing = np.flatnonzero(np.bincount(index, minlength=n_images) == 0)
    if missing.size:
        raise ValueError(
            f"{missing.size} of {n_images} images have no sub-image (first: image {missing[0]}); "
            "an image without a region needs its whole as the one sub-image"
        )
    return index

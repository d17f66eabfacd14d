"""Classes of regions: what the networks see of sub-images, a classifier fitted to it, its answers.

Two classifiers (`predict.classifier`): the trained heads, as in the paper, or an ensemble of
mixtures over pooled tokens of the regions of this very set.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from pipeline.clustering.conformal import Limit
from pipeline.clustering.descriptors import descriptor_space, l2_normalise, one_row_a_part
from pipeline.clustering.ensemble import fit_ensemble
from pipeline.clustering.normal_images import known_normal
from pipeline.clustering.novelty import fit_novelty
from pipeline.clustering.taught import FREE
from pipeline.config.params import Compute, Predict
from pipeline.inference.region_features import fitted_rows, normal_of_set
from pipeline.io.networks import load_blocks, load_classifier, trained_sections
from pipeline.io.paths import ArtifactPaths
from pipeline.io.region_classifier import RegionModel
from pipeline.mgvit.attention import ClassBlock
from pipeline.mgvit.heads import MultiHead
from pipeline.mgvit.prediction import Predictions, predict
from pipeline.mgvit.tokens import ArrayLike as Crops
from pipeline.mgvit.tokens import FrozenBlocks, iter_plain
from pipeline.progress import Progress, silent
from pipeline.regions.merging import class_probabilities

_BLOCK = 65_536
"""Regions that are classified at once."""


@dataclass(frozen=True)
class TrainedNetwork:
    """The trained network of a category; `description` is its model.json."""

    blocks: FrozenBlocks
    block: ClassBlock
    heads: MultiHead
    description: dict[str, Any]

    @property
    def n_base_classes(self) -> int:
        """How many of the heads' classes, the first ones, are those of the labelled base set."""
        return int(self.description["n_base_classes"])

    @property
    def n_classes(self) -> int:
        """How many novel classes there are, normal included."""
        return int(self.description["n_classes"])

    @property
    def temperature(self) -> float:
        """The student's temperature."""
        return float(self.description["params"]["train"]["student_temperature"])

    def __call__(self, images: Crops, masks: Crops, *, progress: Progress = silent) -> Predictions:
        """Run the network over M sub-images (M, S, S, 3) uint8 with masks (M, S, S) in {0, 1}."""
        return predict(
            iter_plain(self.blocks, images, masks, progress=progress),
            self.block,
            self.heads,
            head=int(self.description["head"]),
            device=self.blocks.device,
        )


def load_network(paths: ArtifactPaths, category: str, compute: Compute) -> TrainedNetwork:
    """Return the trained network of a category; its settings are those of model.json."""
    train, views = trained_sections(paths, category)
    blocks = load_blocks(paths, views, compute)
    block, heads, description = load_classifier(
        paths.train(category), blocks.vit, fold_layerscale=train.fold_layerscale
    )
    return TrainedNetwork(blocks, block, heads, description)


@dataclass(frozen=True)
class Seen:
    """M sub-images as a classifier sees them.

    `pooled` (M, L, D) tokens for mixtures; for the heads `probabilities` (M, C) by the trained
    network, its `embeddings` (M, D) and its `attention` to all tokens (M, N).
    """

    pooled: NDArray[np.float32] | None = None
    probabilities: NDArray[np.float64] | None = None
    embeddings: NDArray[np.float32] | None = None
    attention: NDArray[np.float32] | None = None

    @property
    def features(self) -> NDArray[np.float64]:
        """Return what novelty is measured on before the mixtures' own space: (M, L, D)."""
        if self.pooled is not None:
            return np.asarray(self.pooled, np.float64)
        if self.embeddings is None:
            raise ValueError("neither pooled tokens nor embeddings were given")
        return np.asarray(self.embeddings[:, None], np.float64)

    def rows(self, rows: NDArray[np.int64]) -> Seen:
        """Return the sub-images `rows` (m,), without attention."""
        return Seen(
            None if self.pooled is None else self.pooled[rows],
            None if self.probabilities is None else self.probabilities[rows],
            None if self.embeddings is None else self.embeddings[rows],
        )


def seen_by_heads(network: TrainedNetwork, predictions: Predictions) -> Seen:
    """Return what the classifier `heads` sees."""
    probabilities = class_probabilities(
        predictions.logits, network.n_base_classes, temperature=network.temperature
    )
    return Seen(
        probabilities=probabilities,
        embeddings=predictions.embeddings,
        attention=predictions.attention,
    )


def fit_regions(
    seen: Seen,
    crops: pd.DataFrame,
    scores: NDArray[np.float64],
    references: NDArray[np.float64],
    n_classes: int,
    options: Predict,
    parts: NDArray[np.int64] | None = None,
    taught: NDArray[np.int64] | None = None,
) -> RegionModel:
    """Fit the classifier of regions to a set, without labels or with a few.

    Of more than `predict.sample` regions that are not normal, to a sample (`fitted_rows`).

    Parameters
    ----------
    seen
        The M sub-images; with `pooled` tokens a `MixtureEnsemble` is fitted, without only novelty.
    crops
        Their rows of crops.parquet.
    scores, references
        Anomaly scores (M,) of their images, and (R,) of parts of normal references.
    n_classes
        Classes, normal included.
    parts
        Numbers (M,) of the parts that their images show, each of which the mixtures see once; None:
        each image by itself.
    taught
        Classes (M,) that people gave to regions, or `FREE`; they are fixed in the mixtures,
        whatever the score of their image. None: of no region.
    """
    normal, limit = normal_of_set(
        options.normal,
        crops,
        scores,
        references,
        parts,
        false_alarms=options.false_alarms,
        assumed_normal=options.assumed_normal,
    )
    fixed = np.full(len(crops), FREE) if taught is None else np.asarray(taught, np.int64)
    normal &= fixed == FREE
    sampled = fitted_rows(crops, normal, options.sample, options.seed)
    rows = np.union1d(sampled, np.flatnonzero(fixed != FREE))
    seen = seen.rows(rows)
    if seen.pooled is None:
        return RegionModel(limit, fit_novelty(seen.features))
    space = descriptor_space(seen.pooled)
    descriptors = space(seen.pooled)
    images = pd.factorize(crops["sample_id"])[0][rows]
    shown = None if parts is None else parts[rows].copy()
    fixed = fixed[rows]
    if shown is not None:  # what people classified stands for itself
        known = np.flatnonzero(fixed != FREE)
        shown[known] = shown.max(initial=0) + 1 + np.arange(len(known))
    ensemble = fit_ensemble(
        one_row_a_part(descriptors, images, shown),
        one_row_a_part(crops["score"].to_numpy()[rows], images, shown),
        n_classes,
        normal_known=_all_normal_known(options, normal, limit),
        dimensions=options.dimensions,
        extra_components=options.extra_components,
        seed=options.seed,
        taught=one_row_a_part(fixed, images, shown).round().astype(np.int64),
    )
    return RegionModel(limit, fit_novelty(descriptors), space, ensemble)


def _all_normal_known(options: Predict, normal: NDArray[np.bool_], limit: Limit) -> bool:
    """Tell whether all normal regions are known, so that the others make up the defect classes."""
    if options.normal == "scores" and not limit.tells_defects:
        return False
    return bool(normal.any())


@dataclass(frozen=True)
class RegionClasses:
    """Classes of M sub-images.

    `probabilities` (M, C), rows summing to 1; `unknown` (M,) are unlike all regions of the run;
    `descriptors` (M, L, D), unit vectors, are what the classifier told them apart by, and
    `embeddings` (M, E) the space in which it did: principal components of all layers, or the
    network's embeddings.
    """

    probabilities: NDArray[np.float64]
    unknown: NDArray[np.bool_]
    descriptors: NDArray[np.float32]
    embeddings: NDArray[np.float64]


def classify_regions(
    seen: Seen,
    areas: ArrayLike,
    scores: ArrayLike,
    model: RegionModel,
    options: Predict,
) -> RegionClasses:
    """Classify sub-images by a fitted model, each for itself.

    Parameters
    ----------
    seen
        The M sub-images, as in `fit_regions`.
    areas
        Mask pixels (M,) of the sub-images in their images.
    scores
        Anomaly scores (M,) of their images.
    model
        What `fit_regions` returned.
    """
    sizes, values = np.asarray(areas), np.asarray(scores, np.float64)
    if len(values) <= _BLOCK:
        return _classify(seen, sizes, values, model, options)
    parts = [
        _classify(seen.rows(rows), sizes[rows], values[rows], model, options)
        for rows in np.array_split(np.arange(len(values)), -(-len(values) // _BLOCK))
    ]
    return RegionClasses(
        np.concatenate([part.probabilities for part in parts]),
        np.concatenate([part.unknown for part in parts]),
        np.concatenate([part.descriptors for part in parts]),
        np.concatenate([part.embeddings for part in parts]),
    )


def _classify(
    seen: Seen,
    areas: NDArray[Any],
    scores: NDArray[np.float64],
    model: RegionModel,
    options: Predict,
) -> RegionClasses:
    normal = known_normal(options.normal, areas, scores, model.score_limit)
    if model.space is not None and model.vote is not None and seen.pooled is not None:
        descriptors = model.space(seen.pooled)
        probabilities = model.vote.probabilities(descriptors)
        embeddings = model.vote.components(descriptors)
    elif seen.probabilities is not None:
        descriptors, probabilities = seen.features, seen.probabilities.copy()
        embeddings = descriptors[:, 0]
    else:
        raise ValueError("what was seen does not fit the model: one is of heads, one of mixtures")
    probabilities[normal] = np.eye(probabilities.shape[1])[0]
    if model.shaped is not None:
        probabilities = model.shaped.probabilities(probabilities, embeddings)
    unknown = model.known.unknown(descriptors) & ~normal
    unit = l2_normalise(np.asarray(descriptors, np.float32))
    return RegionClasses(probabilities, unknown, unit, embeddings)

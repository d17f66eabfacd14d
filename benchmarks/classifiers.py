"""Which layers, dimensions and components the mixture should use: measured on finished crops.

    python -m benchmarks.classifiers bottle

reads params.yaml, data/maps/<category> and data/crops/<category> (after `dvc repro
crops@<category>`), describes the regions once at all layers, and prints NMI/ARI/F1 over images for
every choice: the mean over seeds, and the standard deviation of NMI. Figures are those of predict,
merge and evaluate with `predict.classifier: mixture`. Labels are used for the figures alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import typer
from numpy.typing import NDArray

from pipeline.clustering.descriptors import region_descriptors
from pipeline.clustering.ensemble import mixture_probabilities
from pipeline.clustering.normal_images import NormalRule
from pipeline.config.params import ConfigError, Params, load_params
from pipeline.evaluation.clustering import clustering_scores
from pipeline.inference.region_features import normal_of_set, pooled_tokens
from pipeline.io.paths import ArtifactPaths
from pipeline.io.schemas import CROPS, LABELS
from pipeline.io.scores import scores_of_images, scores_of_references
from pipeline.io.tables import read_parquet
from pipeline.regions.merging import merge_regions

LAYERS = (5, 6, 7, 8, 9)


@dataclass(frozen=True)
class Choice:
    """One setting of section `predict`."""

    layers: tuple[int, ...] = LAYERS
    dimensions: tuple[int, ...] = (8, 16)
    extra_components: tuple[int, ...] = (0, 2)
    normal: NormalRule = "scores"

    def __str__(self) -> str:
        values = (list(self.layers), list(self.dimensions), list(self.extra_components))
        return " | ".join(str(value) for value in (*values, self.normal))


VOTE = Choice()
CHOICES = [
    *(Choice((layer,), (16,), (0,)) for layer in LAYERS),
    replace(VOTE, dimensions=(16,), extra_components=(0,)),
    replace(VOTE, extra_components=(0,)),
    replace(VOTE, dimensions=(16,)),
    replace(VOTE, extra_components=(0, 2, 4)),
    VOTE,
    replace(VOTE, normal="regions"),
    replace(VOTE, normal="none"),
]


def image_classes(
    params: Params,
    category: str,
    crops: pd.DataFrame,
    scores: NDArray[np.float64],
    references: NDArray[np.float64],
    pooled: NDArray[np.float32],
    choice: Choice,
    seed: int,
) -> NDArray[np.int64]:
    """Return the class of each image, in the order of `crops`."""
    normal, _ = normal_of_set(choice.normal, crops, scores, references)
    columns = [LAYERS.index(layer) for layer in choice.layers]
    described = region_descriptors(pooled[~normal][:, columns])
    return voted(params, category, crops, normal, described, choice, seed)


def voted(
    params: Params,
    category: str,
    crops: pd.DataFrame,
    normal: NDArray[np.bool_],
    described: NDArray[np.float64],
    choice: Choice,
    seed: int,
) -> NDArray[np.int64]:
    """Return the class of each image from the descriptors of the sub-images not `normal`."""
    index, ids = pd.factorize(crops["sample_id"])
    descriptors = np.zeros((len(crops), *described.shape[1:]))
    descriptors[~normal] = described
    n_classes = params.classes.n_classes(category)
    if n_classes is None:
        raise ConfigError("classes.count is auto: give the number, which these figures need")
    probabilities = mixture_probabilities(
        descriptors,
        crops["score"],
        normal,
        n_classes,
        dimensions=choice.dimensions,
        extra_components=choice.extra_components,
        seed=seed,
    )
    merged = merge_regions(
        probabilities,
        index,
        crops["area_px"],
        crops["score"],
        rule=params.merge.weights,
        temperature=params.merge.temperature,
        n_images=len(ids),
    )
    return np.asarray(merged.argmax(1))


def figures(
    true: Sequence[str], predicted: NDArray[np.int64], keep: NDArray[np.bool_]
) -> list[float]:
    """Return NMI, ARI and F1 over the images that are kept."""
    scores = clustering_scores([t for t, k in zip(true, keep, strict=True) if k], predicted[keep])
    return [scores.nmi, scores.ari, scores.f1]


def row(choice: Choice, runs: list[list[float]]) -> str:
    """Return a Markdown row from the figures (NMI, ARI, F1) of all seeds."""
    array = np.array(runs)
    text = "/".join(f"{value:.3f}" for value in array.mean(0))
    return f"| {choice} | {text} ± {array[:, 0].std():.3f} |"


def main(
    category: Annotated[str, typer.Argument(help="One of dataset.categories.")],
    seeds: Annotated[int, typer.Option(help="How many seeds, from 0.")] = 5,
    defects: Annotated[bool, typer.Option(help="Leave the normal images out.")] = False,
    only_vote: Annotated[bool, typer.Option(help="Only the default.")] = False,
    params_path: Annotated[Path, typer.Option("--params")] = Path("params.yaml"),
    data: Annotated[Path, typer.Option("--data")] = Path("data"),
) -> None:
    """Compare settings of the mixture on the crops of a category."""
    params, paths = load_params(params_path), ArtifactPaths(data)
    crops = read_parquet(paths.crops(category) / "crops.parquet", CROPS)
    scores = scores_of_images(paths, category, crops)
    known = scores_of_references(paths, category)
    labels: dict[str, Any] = dict(
        read_parquet(paths.manifest(category) / "labels.parquet", LABELS).to_numpy().tolist()
    )
    true = [labels[sample_id] for sample_id in pd.unique(crops["sample_id"])]
    normal = np.isin(true, params.manifest.normal_label)
    pooled = pooled_tokens(
        paths, category, params.compute, LAYERS, image_size=params.views.image_size
    )
    typer.echo(
        "| layers | dimensions | extra components | normal | NMI/ARI/F1 |\n|---|---|---|---|---|"
    )
    for choice in [VOTE] if only_vote else CHOICES:
        runs = []
        for seed in range(seeds):
            predicted = image_classes(params, category, crops, scores, known, pooled, choice, seed)
            runs.append(figures(true, predicted, ~normal if defects else np.ones_like(normal)))
        typer.echo(row(choice, runs))


if __name__ == "__main__":
    typer.run(main)

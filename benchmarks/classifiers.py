"""Compare layers, dimensions and components of the mixture: python -m benchmarks.classifiers bottle

reads params.yaml, data/maps/<category> and data/crops/<category> (after `dvc repro
crops@<category>`), and prints NMI/ARI/F1 over images for every choice: the mean over seeds, the
standard deviation of NMI, and how far the seeds agree (mean ARI of two, without labels). Predict,
merge and evaluate give the same with `predict.classifier: mixture`. Labels are used for the metrics
alone. `--masks` averages tokens under masks instead of with the weights of the maps. `--assumed`
compares shares of images that are assumed to be normal (`predict.assumed_normal`), with the shares
of defective images that are called normal and of good ones that are not.

`--heads` adds rows for the trained heads of the paper, on the same regions and under the same rule
for normal images, a `train.seed` a run. It reads the cached views too:
`dvc exp run -S predict.classifier=heads views@<category>`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from numpy.typing import NDArray
from sklearn.metrics import adjusted_rand_score

from benchmarks.case import LAYERS, Case, load_case
from pipeline.clustering.normal_images import NormalRule
from pipeline.config.params import Predict
from pipeline.evaluation.clustering import clustering_scores
from pipeline.inference.region_classes import (
    Seen,
    TrainedNetwork,
    classify_regions,
    fit_regions,
    seen_by_heads,
)
from pipeline.inference.training_run import describe_training, train_category
from pipeline.io.networks import crop_arrays, load_blocks, load_vit
from pipeline.io.schemas import BASE_CROPS
from pipeline.io.tables import read_parquet
from pipeline.mgvit.attention import ClassBlock


@dataclass(frozen=True)
class Choice:
    """One setting of section `predict`."""

    layers: tuple[int, ...] = LAYERS
    dimensions: tuple[int, ...] = (8, 16)
    extra_components: tuple[int, ...] = (0, 2)
    normal: NormalRule = "scores"
    assumed_normal: float = 0.3

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
    case: Case, choice: Choice, seed: int, n_classes: int | None = None
) -> NDArray[np.int64]:
    """Return the class of each image, in the order of `case.image_labels`."""
    settings = {**asdict(choice), "seed": seed, "classifier": "mixture"}
    options = case.params.predict.model_copy(update=settings)
    seen = Seen(pooled=case.pooled[:, [LAYERS.index(layer) for layer in choice.layers]])
    return classes_of_images(case, seen, options, n_classes or case.n_classes)


def image_classes_by_heads(case: Case, seed: int) -> NDArray[np.int64]:
    """Return the class of each image by heads trained with `train.seed` as given."""
    params, paths = case.params, case.paths
    train = params.train.model_copy(update={"seed": seed})
    base = read_parquet(paths.base() / "crops.parquet", BASE_CROPS)
    blocks = load_blocks(paths, params.views, params.compute)
    result = train_category(
        case.category,
        load_vit(paths, image_size=params.views.image_size),
        case.crops,
        base,
        case.n_classes,
        train,
        params.views,
        params.compute,
        paths,
    )
    described = describe_training({"n_classes": case.n_classes, "params": {}}, result, base, train)
    block, heads = result.network.block, result.network.heads
    assert isinstance(block, ClassBlock)
    network = TrainedNetwork(blocks, block, heads, described)
    seen = seen_by_heads(network, network(*crop_arrays(paths.crops(case.category))))
    options = params.predict.model_copy(update={"normal": VOTE.normal, "classifier": "heads"})
    return classes_of_images(case, seen, options, case.n_classes)


def classes_of_images(
    case: Case, seen: Seen, options: Predict, n_classes: int
) -> NDArray[np.int64]:
    model = fit_regions(
        seen, case.crops, case.scores, case.references, n_classes, options, case.parts
    )
    found = classify_regions(seen, case.crops["area_px"], case.scores, model, options)
    return case.image_classes(found.probabilities)


def _steps(case: Case) -> int:
    """Return the steps of a training: of each epoch's draws, a batch a step (`draw_batches`)."""
    train = case.params.train
    n_base = len(read_parquet(case.paths.base() / "crops.parquet", BASE_CROPS))
    return train.epochs * math.ceil((n_base + len(case.crops)) / train.batch)


def metrics(true: Sequence[str], predicted: NDArray[np.int64]) -> list[float]:
    """Return NMI, ARI and F1 over images."""
    scores = clustering_scores(true, predicted)
    return [scores.nmi, scores.ari, scores.f1]


def agreement(partitions: Sequence[NDArray[np.int64]]) -> float:
    """Return the mean adjusted Rand index of all pairs of partitions (N,); NaN for one."""
    pairs = list(combinations(partitions, 2))
    return float(np.mean([adjusted_rand_score(*pair) for pair in pairs])) if pairs else np.nan


def row(choice: Choice | str, runs: list[list[float]], agree: float) -> str:
    """Return a Markdown row from the metrics (NMI, ARI, F1) of all seeds and their agreement."""
    array = np.array(runs)
    text = "/".join(f"{value:.3f}" for value in array.mean(0))
    return f"| {choice} | {text} ± {array[:, 0].std():.3f} | {agree:.3f} |"


def _compare_assumed(case: Case, good: NDArray[np.bool_], shares: list[float], seeds: int) -> None:
    """Print a row for each share of images (N,) that is assumed to be normal, `good` or not."""
    typer.echo(
        "| assumed normal | NMI/ARI/F1 | defects called normal | good images shown |\n"
        "|---|---|---|---|"
    )
    for share in shares:
        choice = replace(VOTE, assumed_normal=share)
        found = [image_classes(case, choice, seed) for seed in range(seeds)]
        runs = np.array([metrics(case.image_labels, classes) for classes in found])
        text = "/".join(f"{value:.3f}" for value in runs.mean(0))
        hidden = np.mean([(classes[~good] == 0).mean() for classes in found])
        shown = np.mean([(classes[good] != 0).mean() for classes in found])
        typer.echo(f"| {share:g} | {text} ± {runs[:, 0].std():.3f} | {hidden:.2f} | {shown:.2f} |")


def main(
    category: Annotated[str, typer.Argument(help="One of dataset.categories.")],
    seeds: Annotated[int, typer.Option(help="How many seeds, from 0.")] = 5,
    defects: Annotated[bool, typer.Option(help="Leave the normal images out.")] = False,
    only_vote: Annotated[bool, typer.Option(help="Only the default.")] = False,
    assumed: Annotated[
        list[float] | None, typer.Option(help="Compare such predict.assumed_normal instead.")
    ] = None,
    heads: Annotated[bool, typer.Option(help="Train the heads of the paper, too.")] = False,
    masks: Annotated[
        bool, typer.Option(help="Average tokens under masks, not by weights.")
    ] = False,
    params: Path = Path("params.yaml"),
    data: Path = Path("data"),
) -> None:
    """Compare settings of the mixture on the crops of a category."""
    case = load_case(category, params, data)
    case = replace(case, inside="masks") if masks else case
    true = np.array(case.image_labels)
    good = np.isin(true, case.params.manifest.normal_label)
    if assumed:
        _compare_assumed(case, good, assumed, seeds)
        return
    keep = ~good | (not defects)
    typer.echo(
        "| layers | dimensions | extra components | normal | NMI/ARI/F1 | agreement |\n"
        "|---|---|---|---|---|---|"
    )
    for choice in [VOTE] if only_vote else CHOICES:
        found = [image_classes(case, choice, seed) for seed in range(seeds)]
        scores = [metrics(true[keep].tolist(), p[keep]) for p in found]
        typer.echo(row(choice, scores, agreement(found)))
    if heads:
        found = [image_classes_by_heads(case, seed) for seed in range(seeds)]
        name = f"heads, {_steps(case)} steps | | | {VOTE.normal}"
        scores = [metrics(true[keep].tolist(), p[keep]) for p in found]
        typer.echo(row(name, scores, agreement(found)))


if __name__ == "__main__":
    typer.run(main)

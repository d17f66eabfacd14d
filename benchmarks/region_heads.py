"""Compare trainings on region tokens with the vote: python -m benchmarks.region_heads bottle

reads params.yaml, data/maps/<category> and data/crops/<category> (after `dvc repro
crops@<category>`), draws augmented views of the regions that are not normal, pools their tokens as
the vote does, and prints a row for each classifier (`region_training`): NMI/ARI/F1 over images, the
standard deviation of NMI over seeds, and what can be known without labels: how far the seeds agree,
how far the mixtures or heads agree with their own consensus, and how far views get the classes of
plain regions (all adjusted Rand indices), and the silhouette of the classes. Labels are used for
the metrics alone. Parts of several images are no part of it: each image is by itself.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from sklearn.metrics import adjusted_rand_score, silhouette_score

from benchmarks.case import LAYERS, Case, load_case
from benchmarks.classifiers import VOTE, agreement, metrics
from benchmarks.region_training import (
    Answers,
    Array,
    HeadSettings,
    Index,
    train_heads,
    train_temi,
    vote_answers,
)
from pipeline.clustering.descriptors import PooledTokens, descriptor_space
from pipeline.clustering.ensemble import MixtureEnsemble, fit_ensemble
from pipeline.io.devices import Autocast, choose_device
from pipeline.io.networks import augmentations, crop_arrays, load_vit
from pipeline.mgvit.augmentation import augmented_view, view_rng
from pipeline.mgvit.tokens import stack

HEADS = {
    "heads, rate .03": HeadSettings(),
    "heads, rate .1": HeadSettings(lr=0.1, neighbours=0.8, last_vote=0.0),
}
Run = tuple[str, Array, Answers]
"""Name of a row, its probabilities (m, C) and where they are from."""


def view_tokens(case: Case, regions: Index, n_views: int) -> Array:
    """Return pooled tokens (V, m, L, D) of augmented views of the m `regions`."""
    views = case.params.views
    device = choose_device(case.params.compute.device)
    pooling = PooledTokens(
        load_vit(case.paths, image_size=views.image_size),
        LAYERS,
        device=device,
        autocast=Autocast(device, case.params.compute.dtype),
    )
    images, weights = crop_arrays(case.paths.crops(case.category), "weights")
    kinds = augmentations(views)
    rows = []
    for i in map(int, regions):
        drawn = [
            augmented_view(
                images[i],
                weights[i],
                view_rng(views.seed, i, view),
                size=views.image_size,
                augmentations=kinds,
            )
            for view in range(n_views)
        ]
        pixels, grey = stack(drawn)
        rows.append(pooling(pixels, grey / np.float32(255)))
    return np.stack(rows, 1).astype(np.float64)


def fit_vote(case: Case, descriptors: Array, scores: Array, seed: int) -> MixtureEnsemble:
    """Fit the default's vote to descriptors (m, L, D) of regions that are not known as normal."""
    return fit_ensemble(
        descriptors,
        scores,
        case.n_classes,
        normal_known=bool(case.normal().any()),
        dimensions=VOTE.dimensions,
        extra_components=VOTE.extra_components,
        seed=seed,
    )


def runs(case: Case, plain: Array, views: Array, seed: int) -> Iterator[Run]:
    """Yield the answers of all classifiers with one seed."""
    scores = case.crops["score"].to_numpy()[~case.normal()]
    vote = fit_vote(case, plain, scores, seed)
    voted = vote_answers(vote, plain, views)
    yield "vote", voted.plain, voted
    yield "vote, mean over plain and views", voted.views, voted
    for name, settings in HEADS.items():
        learned = train_heads(vote, plain, views, settings, seed)
        yield name, learned.plain, learned
        yield f"{name}, mean over views", learned.views, learned
    start = int(case.normal().any())
    classes = range(start, case.n_classes)
    temi = train_temi(plain, views, len(classes), classes, case.n_classes, seed)
    yield "TEMI", temi.plain, temi
    rows = np.concatenate([plain, *views])
    wide = fit_vote(case, rows, np.tile(scores, len(views) + 1), seed)
    fitted = vote_answers(wide, plain, views)
    yield "vote fitted to views too", fitted.plain, fitted


def image_classes(case: Case, probabilities: Array) -> Index:
    """Return the class of each image; `probabilities` (m, C) are of regions not known as normal."""
    every = np.repeat(np.eye(1, case.n_classes), len(case.crops), 0)
    every[~case.normal()] = probabilities
    return case.image_classes(every)


def unlabelled(probabilities: Array, answers: Answers, descriptors: Array) -> list[float]:
    """Return agreement of the members, of the views, and the silhouette: no label is read."""
    found = probabilities.argmax(1)
    members = float(np.mean([adjusted_rand_score(found, own) for own in answers.members]))
    views = float(adjusted_rand_score(answers.plain.argmax(1), answers.views.argmax(1)))
    flat = descriptors.reshape(len(descriptors), -1)
    several = 1 < len(np.unique(found)) < len(found)
    shape = float(silhouette_score(flat, found, metric="cosine")) if several else np.nan
    return [members, views, shape]


def main(
    category: Annotated[str, typer.Argument(help="One of dataset.categories.")],
    seeds: Annotated[int, typer.Option(help="How many seeds, from 0.")] = 5,
    views: Annotated[int, typer.Option(help="Augmented views of a region.")] = 2,
    params: Path = Path("params.yaml"),
    data: Path = Path("data"),
) -> None:
    """Compare classifiers of region tokens on the crops of a category."""
    case = load_case(category, params, data)
    kept = np.flatnonzero(~case.normal())
    space = descriptor_space(case.pooled[kept])
    plain = space(case.pooled[kept])
    of_views = np.stack([space(view) for view in view_tokens(case, kept, views)])
    typer.echo(f"{category}: {len(kept)} regions, {views} views of each")
    typer.echo(
        "| | NMI/ARI/F1 | sd | seeds | members | views | silhouette | s |\n" + "|---" * 8 + "|"
    )
    found: dict[str, list[tuple[Index, list[float], float]]] = {}
    for seed in range(seeds):
        begin = time.process_time()
        for name, probabilities, answers in runs(case, plain, of_views, seed):
            used, begin = time.process_time() - begin, time.process_time()
            own = unlabelled(probabilities, answers, plain)
            found.setdefault(name, []).append((image_classes(case, probabilities), own, used))
    for name, cells in found.items():
        scores = np.array([metrics(case.image_labels, classes) for classes, _, _ in cells])
        known = [agreement([c for c, _, _ in cells]), *np.mean([o for _, o, _ in cells], 0)]
        text = "/".join(f"{value:.3f}" for value in scores.mean(0))
        cells_text = " | ".join(f"{value:.3f}" for value in (scores[:, 0].std(), *known))
        typer.echo(f"| {name} | {text} | {cells_text} | {np.mean([u for *_, u in cells]):.1f} |")


if __name__ == "__main__":
    typer.run(main)

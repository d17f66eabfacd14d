"""What the cache of six views costs in NMI beside fresh augmentation, over five seeds."""

from __future__ import annotations

import numpy as np
import pandas as pd

from benchmarks.speed.harness import Row
from benchmarks.speed.inputs import Artifacts, Inputs
from benchmarks.speed.network import CPU, EPOCHS, VIEWS, Ours, our_network
from pipeline.config.params import ConfigError, Train
from pipeline.evaluation.clustering import clustering_scores
from pipeline.inference.training_inputs import training_settings
from pipeline.io.schemas import LABELS
from pipeline.io.tables import read_parquet
from pipeline.mgvit.augmentation import Augmentations
from pipeline.mgvit.network import new_network
from pipeline.mgvit.prediction import predict
from pipeline.mgvit.tokens import CachedViews, RaggedTokens, concatenate, iter_augmented, iter_plain
from pipeline.mgvit.training import TrainingSettings, train
from pipeline.progress import track
from pipeline.regions.merging import class_probabilities, merge_regions

FRESH = 2 * EPOCHS
"""Views a crop that stand for fresh ones: as many as a run draws of it on average."""


def quality(inputs: Inputs, *, quick: bool) -> Row:
    """Train on six cached views and on views that are hardly ever seen twice; compare NMI.

    The trained heads classify, as in the paper. Labels serve for the figures alone.
    """
    images, masks = inputs.crops(10**9)
    network = our_network(inputs)
    n_fresh, seeds, epochs = (VIEWS + 2, 1, 1) if quick else (FRESH, 5, EPOCHS)
    with track(f"{n_fresh} views of {inputs.name}") as progress:
        pieces = iter_augmented(
            network.blocks,
            images,
            masks,
            n_views=n_fresh,
            seed=0,
            augmentations=Augmentations(),
            progress=progress,
        )
        fresh = concatenate(list(pieces))
    cached = first_views(fresh, n_fresh, VIEWS)
    plain = concatenate(list(iter_plain(network.blocks, images, masks)))
    table = inputs.table().iloc[: len(images)]
    classes, labels = _truth(inputs, table)
    found: dict[str, list[float]] = {"fresh": [], "cached": []}
    for seed in range(seeds):
        settings = training_settings(Train(epochs=epochs, seed=seed))
        for name, source in (
            ("fresh", CachedViews(fresh, n_fresh)),
            ("cached", CachedViews(cached, VIEWS)),
        ):
            predicted = _classes(source, network, plain, table, classes, settings)
            found[name].append(clustering_scores(labels, predicted).nmi)
    fresh_nmi, cached_nmi = (float(np.mean(found[name])) for name in ("fresh", "cached"))
    return Row(
        f"NMI of {VIEWS} cached views, {len(images)} crops of {inputs.name}, {seeds} seeds",
        "within 0.02 of fresh augmentation",
        note=f"fresh: {n_fresh} views a crop, of which a run draws each once on average; heads",
        figures={
            "fresh": round(fresh_nmi, 3),
            "standard deviation of fresh": round(float(np.std(found["fresh"])), 3),
            "cached": round(cached_nmi, 3),
            "standard deviation of cached": round(float(np.std(found["cached"])), 3),
        },
    )


def first_views(tokens: RaggedTokens, n_views: int, kept: int) -> RaggedTokens:
    """Return the rows of the first `kept` of the `n_views` views of each sample."""
    lengths = np.diff(tokens.offsets).reshape(-1, n_views)
    rows = np.zeros(lengths.shape, bool)
    rows[:, :kept] = True
    flat = tokens.flat[np.repeat(rows.ravel(), lengths.ravel())]
    offsets = np.concatenate([[0], np.cumsum(lengths[:, :kept].ravel())]).astype(np.int64)
    return RaggedTokens(flat, offsets)


def _truth(inputs: Inputs, table: pd.DataFrame) -> tuple[int, list[str]]:
    """Return the number of classes and the label of each image, in the order of the crops."""
    names = pd.unique(table["sample_id"])
    if not isinstance(inputs, Artifacts):
        return 3, [str(k % 3) for k in range(len(names))]
    labels = read_parquet(inputs.artifacts.manifest(inputs.category) / "labels.parquet", LABELS)
    of = dict(zip(labels["sample_id"], labels["label"], strict=True))
    n_classes = inputs.params.classes.n_classes(inputs.category)
    if n_classes is None:
        raise ConfigError("classes.count is auto: give the number, which these figures need")
    return n_classes, [of[name] for name in names]


def _classes(
    source: CachedViews,
    network: Ours,
    plain: RaggedTokens,
    table: pd.DataFrame,
    classes: int,
    settings: TrainingSettings,
) -> np.ndarray:
    """Train and return the class of each image."""
    dim = int(network.blocks.vit.embed_dim)
    start = new_network(network.last, dim, classes, heads=settings.heads, seed=settings.seed)
    result = train(
        source,
        start,
        base_labels=np.zeros(0, np.int64),
        scores=table["score"].to_numpy(np.float32),
        n_base_classes=0,
        settings=settings,
        device=CPU,
    )
    block = result.network.block.eval()
    found = predict([plain], block, result.network.heads, head=result.best_head, device=CPU)  # type: ignore[arg-type]
    index, names = pd.factorize(table["sample_id"])
    merged = merge_regions(
        class_probabilities(found.logits, 0),
        index.astype(np.int64),
        table["area_px"],
        table["score"],
        n_images=len(names),
    )
    return np.asarray(merged.argmax(1))

"""What `train` learns from: settings and cached or fresh views, as params.yaml asks for them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pipeline.config.params import Compute, Train, Views
from pipeline.io.networks import augmentations, crop_arrays, load_blocks
from pipeline.io.paths import ArtifactPaths
from pipeline.io.view_cache import open_views, picked, sources
from pipeline.mgvit.tokens import CachedViews, FreshViews, Joined
from pipeline.mgvit.training import TokenSource, TrainingSettings

Index = NDArray[np.int64]


def training_settings(options: Train) -> TrainingSettings:
    """Return section `train` as the constants of `train`."""
    values = options.model_dump()
    return TrainingSettings(**{name: values[name] for name in TrainingSettings.__annotations__})


def token_source(
    category: str,
    views: Views,
    compute: Compute,
    paths: ArtifactPaths,
    *,
    n_base: int,
    rows: Index,
    seed: int,
) -> TokenSource:
    """Return the views of the base crops and of the novel ones `rows` (`training_rows`).

    They are from the cache of the stage `views`.

    With ``views.count: 0`` they are drawn on the spot, by `seed`. Raises `ArtifactError` for a
    cache that was made with other settings, from other crops or by another backbone.
    """
    if views.count == 0:
        base, novel = crop_arrays(paths.base()), crop_arrays(paths.crops(category))
        images, masks = (picked(crops, rows) for crops in novel)
        return FreshViews(
            load_blocks(paths, views, compute),
            Joined(base[0], images),
            Joined(base[1], masks),
            augmentations(views),
            seed,
        )
    made_from = sources(category, views, compute, paths)
    expected = {**made_from, "n_base": n_base, "n_novel": len(rows)}
    return CachedViews(open_views(paths.views(category), expected), views.count)

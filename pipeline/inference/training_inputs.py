"""What `train` learns from: settings and cached or fresh views, as params.yaml asks for them."""

from __future__ import annotations

from pipeline.config.params import Compute, Train, Views
from pipeline.io.networks import augmentations, crop_arrays, load_blocks
from pipeline.io.paths import ArtifactPaths
from pipeline.io.view_cache import open_views, sources
from pipeline.mgvit.tokens import CachedViews, FreshViews, Joined
from pipeline.mgvit.training import TokenSource, TrainingSettings


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
    n_novel: int,
    seed: int,
) -> TokenSource:
    """Return the views of a category's base and novel crops, from the cache of the stage `views`.

    With ``views.count: 0`` they are drawn on the spot, by `seed`. Raises `ArtifactError` for a
    cache that was made with other settings, from other crops or by another backbone.
    """
    if views.count == 0:
        base, novel = crop_arrays(paths.base()), crop_arrays(paths.crops(category))
        return FreshViews(
            load_blocks(paths, views, compute),
            Joined(base[0], novel[0]),
            Joined(base[1], novel[1]),
            augmentations(views),
            seed,
        )
    made_from = sources(category, views, compute, paths)
    expected = {**made_from, "n_base": n_base, "n_novel": n_novel}
    return CachedViews(open_views(paths.views(category), expected), views.count)

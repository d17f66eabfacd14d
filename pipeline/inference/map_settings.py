"""Section `maps` without `auto`, as it is for the images of a set."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import NamedTuple

from pipeline.config.detection import MOST_PIXELS, Maps
from pipeline.detectors.grids import (
    LEAST,
    choose_side,
    choose_tiles,
    median_aspect,
    median_side,
    tile_side,
)
from pipeline.io.paths import ArtifactPaths
from pipeline.io.schemas import IMAGES
from pipeline.io.stored import read_object
from pipeline.io.tables import read_parquet

log = logging.getLogger("anomalyncd")

ENOUGH_REFERENCES = 10


class Geometry(NamedTuple):
    """How images are seen: at `resolution` pixels squared a tile, height / width, tiles a side."""

    resolution: int
    aspect: float
    tiles: int


def settle(
    options: Maps,
    n_references: int,
    *,
    aspect: float = 1.0,
    image_side: int = LEAST,
    patch: int | None = None,
) -> Maps:
    """Return the section without ``auto``.

    Parameters
    ----------
    n_references
        From 10 on `method` is the nearest normal patch, else MuSc.
    aspect
        That of the set, height / width.
    image_side
        The side of the images in pixels: with `smallest_defect` it gives `resolution` and `tiles`.
    patch
        Pixels a side of the backbone's patches; None: not known, and `resolution` stays.
    """
    method = "nearest" if n_references >= ENOUGH_REFERENCES else "musc"
    found: dict[str, object] = {"method": method, "aspect": aspect, "tiles": 1}
    if options.resolution == "auto" and patch is not None:
        side = choose_side(options.smallest_defect, image_side, patch)
        tiles = choose_tiles(side, patch) if options.tiles == "auto" else options.tiles
        tile = min(tile_side(side, tiles), MOST_PIXELS // patch)
        found |= {"resolution": tile * patch, "tiles": tiles}
    settled = {name: value for name, value in found.items() if getattr(options, name) == "auto"}
    return options.model_copy(update=settled)


def geometry(options: Maps) -> Geometry:
    """Return how images are seen; 448 px, a square and one tile where `auto` was not settled."""
    return Geometry(
        LEAST if options.resolution == "auto" else options.resolution,
        1.0 if options.aspect == "auto" else options.aspect,
        1 if options.tiles == "auto" else options.tiles,
    )


def settled_for(category: str, options: Maps, paths: ArtifactPaths) -> Maps:
    """Return `settle` for the images of a category's manifest, and log what was chosen."""
    images = read_parquet(paths.manifest(category) / "images.parquet", IMAGES)
    n_references = int((images["split"] == "normal").sum())
    sizes = list(zip(images["height"], images["width"], strict=True))
    settled = settle(
        options,
        n_references,
        aspect=median_aspect(sizes),
        image_side=median_side(sizes),
        patch=_patch(options, paths),
    )
    if settled.detects:
        resolution, aspect, tiles = geometry(settled)
        log.info(
            "maps %s: %s, with %d references; %d px, height / width %g, %d x %d tiles",
            *(category, settled.method, n_references, resolution, aspect, tiles, tiles),
        )
    return settled


def backbone_of_maps(options: Maps, paths: ArtifactPaths) -> Path:
    """Return the folder of the maps' ViT: that of `maps.backbone`, or the pipeline's (null)."""
    return paths.backbone() if options.backbone is None else paths.maps_backbone()


def _patch(options: Maps, paths: ArtifactPaths) -> int | None:
    """Return the side of the patches, if the resolution hangs on it."""
    if options.resolution != "auto" or not options.detects:
        return None
    path = backbone_of_maps(options, paths) / "backbone.json"
    return int(read_object(path, {"patch_size": (int,)})["patch_size"])

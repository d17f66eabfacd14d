"""Stage `maps`: an anomaly map of every query image, normalised over the set."""

from __future__ import annotations

import logging
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Annotated

import numpy as np
from numpy.typing import NDArray

from pipeline.config.detection import Maps
from pipeline.config.params import Compute
from pipeline.config.section import Key
from pipeline.detectors.base import Detector
from pipeline.inference.detectors import new_detector
from pipeline.inference.given_maps import GivenMaps
from pipeline.inference.map_artifacts import make_maps
from pipeline.inference.map_settings import backbone_of_maps, settled_for
from pipeline.inference.patch_features import Resources
from pipeline.io import schemas
from pipeline.io.backbone_weights import saved_sha256
from pipeline.io.images import read_mask
from pipeline.io.inventory import images_at
from pipeline.io.map_files import find_maps, mask_to_map, read_map, resize_map
from pipeline.io.paths import ArtifactPaths
from pipeline.io.scratch import Scratch
from pipeline.io.storage import Place
from pipeline.io.tables import read_parquet
from pipeline.progress import Progress, track

log = logging.getLogger("anomalyncd")


def run(
    category: str,
    options: Maps,
    root: Annotated[str, Key("dataset.root")],
    compute: Compute,
    paths: ArtifactPaths,
) -> None:
    """Write `maps.zarr`, `scores.parquet`, `references.parquet` and `bank.safetensors`.

    Rows are in the order of the manifest. The score of an image is the maximum of its stored map.
    """
    options = settled_for(category, options, paths)
    files = _map_files(category, options, paths) if options.method == "precomputed" else None

    def tracker(step: str) -> AbstractContextManager[Progress]:
        return track(f"maps {category}: {step}")

    def make(scratch: Path) -> Detector:
        if files is not None:
            return _given(files, options.map_size)
        if options.method == "ground_truth":
            return _masks(category, images_at(root, category), options.map_size, paths)
        resources = Resources(
            backbone_of_maps(options, paths),
            compute,
            category,
            scratch=lambda: Scratch(scratch, compute.memory_mb / 2),
            tracker=tracker,
            folder=scratch,
        )
        return new_detector(options, resources)

    make_maps(
        category,
        root,
        paths,
        make,
        map_size=options.map_size,
        gamma=options.exponent,
        method=options.method,
        params={"maps": options.to_json()},
        backbone=saved_sha256(backbone_of_maps(options, paths)) if options.detects else None,
        files=files,
        tracker=tracker,
    )


def _map_files(category: str, options: Maps, paths: ArtifactPaths) -> dict[str, Path]:
    """Return the precomputed map of each query, by sample id."""
    manifest = paths.manifest(category)
    images = read_parquet(manifest / "images.parquet", schemas.IMAGES)
    rejected = read_parquet(manifest / "rejected.parquet", schemas.REJECTED)
    queries = images[images["split"] == "query"]
    others = [*images.loc[images["split"] == "normal", "path"], *rejected["path"]]
    files = find_maps(Path(options.precomputed_root), category, list(queries["path"]), others)
    return dict(zip(queries["sample_id"], files, strict=True))


def _given(files: dict[str, Path], size: int) -> Detector:
    return GivenMaps(lambda name: resize_map(read_map(files[name]), size), size)


def _masks(category: str, folder: Place, size: int, paths: ArtifactPaths) -> Detector:
    """Return the ground-truth masks as maps; zeros where an image has none."""
    table = read_parquet(paths.manifest(category) / "masks.parquet", schemas.MASKS)
    files = dict(zip(table["sample_id"], table["mask_path"], strict=True))
    if not files:
        log.warning("%s: no query image has a mask, all maps are zero", category)

    def read(name: str) -> NDArray[np.float32]:
        if name not in files:
            return np.zeros((size, size), np.float32)
        return mask_to_map(read_mask(folder / files[name]), size)

    return GivenMaps(read, size, scale=(0.0, 1.0))

"""The maps of a run on disk: a detector is fitted and its scores are written (`data/maps`)."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.detectors.base import Detector, Images, References, Scores
from pipeline.detectors.normalise import joint_range, rescale, stretching
from pipeline.inference.map_blocks import RawBlock, range_block, run_blocks, write_map_block
from pipeline.inference.map_scores import raw_maps
from pipeline.inference.patch_features import Tracker, untracked
from pipeline.io import schemas
from pipeline.io.arrays import ArraySpec, create_arrays, group_path
from pipeline.io.files import replacing_folder
from pipeline.io.images import ListedImages
from pipeline.io.inventory import images_at
from pipeline.io.paths import ArtifactPaths
from pipeline.io.storage import Place
from pipeline.io.stored import sha256_of, write_tensors
from pipeline.io.tables import image_bits, read_parquet, write_parquet

log = logging.getLogger("anomalyncd")

Floats = NDArray[np.float32]

BANK = "bank.safetensors"


def make_maps(
    category: str,
    root: Path | str,
    paths: ArtifactPaths,
    new_detector: Callable[[Path], Detector],
    *,
    map_size: int,
    gamma: float = 1.0,
    method: str,
    params: Mapping[str, object] | None = None,
    backbone: str | None = None,
    files: Mapping[str, Path] | None = None,
    tracker: Tracker = untracked,
) -> None:
    """Fit a detector, score the images of a category, and write `data/maps/<category>`.

    Parameters
    ----------
    category, root
        The images are those of the manifest, below `root`/`category`.
    paths
        Where the artifacts lie.
    new_detector
        Makes the detector, given a folder for scratch files.
    map_size, gamma
        Pixels a side of the maps; the power of the rescaled maps that is stored.
    method, params
        Name of the detector and parameters, kept with the maps for the stages that follow.
    backbone
        The SHA-256 of the detector's ViT, if it has one: new images need the same.
    files
        The map file of each sample id, for detectors that read them: named in warnings.

    Raises
    ------
    ArtifactError
        There is no manifest, or scores are not finite.
    """
    manifest = paths.manifest(category)
    bits, folder = image_bits(manifest), images_at(str(root), category)
    table = read_parquet(manifest / "images.parquet", schemas.IMAGES)
    queries, normals = (_images(table, split, folder, bits) for split in ("query", "normal"))
    with replacing_folder(paths.maps(category)) as output:
        output.mkdir()
        with tempfile.TemporaryDirectory(dir=output) as scratch:
            detector = new_detector(Path(scratch))
            detector.fit(normals)
            scores = detector.score_run(queries)
            references = detector.score_references()
            write_tensors(output / BANK, dict(detector.state()))
            sections = {"manifest": {"bits": bits}, **(params or {})}
            write_maps(
                output,
                queries.names,
                scores,
                references,
                map_size=map_size,
                gamma=gamma,
                category=category,
                method=method,
                params=sections,
                backbone=backbone,
                files=files,
                tracker=tracker,
            )


def _images(table: pd.DataFrame, split: str, folder: Place, bits: int) -> Images:
    rows = table[table["split"] == split]
    files = tuple(folder / path for path in rows["path"])
    ids, parts = rows["sample_id"].tolist(), rows["part"].tolist()
    return Images(ids, ListedImages(files, tuple(ids), bits), parts)


def write_maps(
    folder: Path,
    names: Sequence[str],
    scores: Scores,
    references: References,
    *,
    map_size: int,
    gamma: float = 1.0,
    category: str,
    method: str,
    params: Mapping[str, object],
    backbone: str | None = None,
    files: Mapping[str, Path] | None = None,
    tracker: Tracker = untracked,
) -> None:
    """Normalise raw maps over the set and write them: two passes, a shard in memory at a time.

    Rows are in the order of `names`. The score of an image is the maximum of its stored map. The
    bank of the detector is in `folder` already: its hash goes with the range that it gave.
    """
    minima, maxima = _extremes(scores, len(names), map_size, category, tracker)
    if files is not None:
        _warn_of_outliers([files[name] for name in names], minima, maxima, category)
    pairs = zip(minima.tolist(), maxima.tolist(), strict=True)
    low, high = joint_range(pairs) if scores.scale is None else scores.scale
    if not high > low:
        log.warning("%s: all maps are constant and equal; they are stored as zeros", category)
    attributes = {
        "method": method,
        "raw_min": low,
        "raw_max": high,
        "gamma": gamma,
        "bank_sha256": sha256_of(folder / BANK),
        "backbone_sha256": backbone,
    }
    largest = _write_zarr(folder / "maps.zarr", scores, len(names), map_size, attributes, tracker)
    columns = {"sample_id": names, "score": largest, "image_score": scores.image_scores(maxima)}
    frame = pd.DataFrame(columns)
    metadata = {**attributes, "params": params}
    write_parquet(folder / "scores.parquet", frame, schemas.MAP_SCORES, metadata)
    highest = _largest(references, map_size)
    known = {
        "sample_id": list(references.names),
        "score": rescale(highest, low, high) ** gamma,
        "image_score": references.scores.image_scores(highest),
    }
    frame = pd.DataFrame(known)
    write_parquet(folder / "references.parquet", frame, schemas.REFERENCE_SCORES)


def _extremes(
    scores: Scores, count: int, map_size: int, category: str, tracker: Tracker
) -> tuple[Floats, Floats]:
    """Return the minima and maxima (N,) of the raw maps; raise `ArtifactError` for NaN."""
    block = RawBlock(map_size, category)
    with tracker("range") as progress:
        found = run_blocks(range_block, scores, count, block, progress)
    minima, maxima = np.concatenate([np.zeros((2, 0), np.float32), *found], axis=1)
    return minima, maxima


def _write_zarr(
    path: Path,
    scores: Scores,
    count: int,
    map_size: int,
    attributes: Mapping[str, Any],
    tracker: Tracker,
) -> Floats:
    """Write the maps, rescaled from the raw range in `attributes`; return their maxima (N,)."""
    spec = ArraySpec((count, map_size, map_size), "float32")
    with (
        create_arrays(path, {"maps": spec}, attributes) as arrays,
        tracker("writing") as progress,
    ):
        low, high, gamma = (attributes[name] for name in ("raw_min", "raw_max", "gamma"))
        block = RawBlock(map_size, "", group_path(arrays["maps"]), low, high, gamma)
        found = run_blocks(write_map_block, scores, count, block, progress)
    return np.concatenate([np.zeros(0, np.float32), *found])


def _largest(references: References, map_size: int) -> Floats:
    """Return the maxima (R,) of the raw maps of references."""
    if len(references.names) == 0:
        return np.zeros(0, np.float32)
    raw = raw_maps(references.scores, slice(0, len(references.names)), map_size)
    return np.asarray(raw.max(axis=(1, 2)), np.float32)


def _warn_of_outliers(files: Sequence[Path], minima: Floats, maxima: Floats, category: str) -> None:
    """Name the maps whose values leave next to nothing of the scale to the others."""
    for i in stretching(minima, maxima):
        log.warning(
            "%s: %s has values from %g to %g, far outside those of the other maps, which become "
            "nearly flat beside it: is it broken? Make it anew, or leave its image out",
            category,
            files[i],
            minima[i],
            maxima[i],
        )

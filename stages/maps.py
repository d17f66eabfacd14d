"""Stage `maps`: an anomaly map of every query image, normalised over the set."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.config.params import Compute, Key, Maps
from pipeline.detectors import musc, patchcore
from pipeline.detectors.features import Array, Features, extract, squash, upsample
from pipeline.detectors.normalise import joint_range, rescale, stretching, value_range
from pipeline.io import schemas
from pipeline.io.arrays import ArraySpec, create_arrays, shard_items
from pipeline.io.backbone_weights import load_saved_vit
from pipeline.io.devices import choose_device
from pipeline.io.files import replacing_folder
from pipeline.io.images import read_image, read_mask
from pipeline.io.map_files import find_maps, mask_to_map, read_map, resize_map
from pipeline.io.paths import ArtifactError, ArtifactPaths
from pipeline.io.scratch import Scratch
from pipeline.io.stored import sha256_of, write_tensors
from pipeline.io.tables import image_bits, read_parquet, write_parquet
from pipeline.mgvit.backbone import forward_features, normalization
from pipeline.mgvit.precision import autocast_for, stores_half
from pipeline.progress import track

log = logging.getLogger("anomalyncd")

Floats = NDArray[np.float32]

BANK = "bank.safetensors"
_BANK_IMAGES = 100
"""MuSc: so many of the images are kept, at most, for new ones to be compared with."""
_REFERENCES = 50
"""So many of the normal references are scored, at most."""


@dataclass(frozen=True)
class Source:
    """Where raw maps come from: `block` makes those of [start, stop), (b, S, S), as often as asked
    (the caller may overwrite them).

    `image_scores` turns the maxima (N,) of the raw maps into the detector's own image scores.
    `normalise` is off where the maps are in [0, 1] by their nature. `bank` is what new images will
    be compared with. `references` are the maxima (R,) of the raw maps of normal references, by
    sample id, as a new image would be scored. `files` are those of precomputed maps.
    """

    block: Callable[[int, int], Floats]
    image_scores: Callable[[Floats], Floats] = lambda maxima: maxima
    normalise: bool = True
    bank: Mapping[str, Array] = field(default_factory=dict)
    references: Mapping[str, float] = field(default_factory=dict)
    files: Sequence[Path] = ()


@dataclass(frozen=True)
class Job:
    """What the methods share: a category's images and where scratch files may go."""

    category: str
    root: Path
    queries: pd.DataFrame
    normals: pd.DataFrame
    manifest: Path
    backbone: Path
    scratch: Path
    maps: Maps
    compute: Compute
    device: torch.device
    bits: int  # significant ones, of 16-bit images
    bank: Mapping[str, Array] | None = None  # of an earlier run, for new images


@dataclass(frozen=True)
class Frozen:
    """What new images need of the run that they are held against: its bank and raw range."""

    bank: Mapping[str, Array]
    low: float
    high: float


def run(
    category: str,
    options: Maps,
    root: Annotated[str, Key("dataset.root")],
    compute: Compute,
    paths: ArtifactPaths,
    frozen: Frozen | None = None,
) -> None:
    """Write `maps.zarr`, `scores.parquet`, `references.parquet` and `bank.safetensors`.

    Rows are in the order of the manifest. The score of an image is the maximum of its stored map.
    The group's attributes keep the method and the raw range. With `frozen` the images are new ones,
    compared with its bank and normalised by its range, each for itself.
    """
    manifest = paths.manifest(category)
    bits = image_bits(manifest)
    images = read_parquet(manifest / "images.parquet", schemas.IMAGES)
    queries = images[images["split"] == "query"]
    with replacing_folder(paths.maps(category)) as folder:
        folder.mkdir()
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            job = Job(
                category=category,
                root=Path(root) / category,
                queries=queries,
                normals=images[images["split"] == "normal"],
                manifest=manifest,
                backbone=paths.backbone(),
                scratch=Path(scratch),
                maps=options,
                compute=compute,
                device=choose_device(compute.device),
                bits=bits,
                bank=None if frozen is None else frozen.bank,
            )
            source = _METHODS[options.method](job)
            ends = None if frozen is None else (frozen.low, frozen.high)
            write_tensors(folder / BANK, source.bank)
            params = {"manifest": {"bits": bits}, "maps": options.to_json()}
            write(folder, list(queries["sample_id"]), source, options, category, ends, params)


def write(
    folder: Path,
    ids: Sequence[str],
    source: Source,
    maps: Maps,
    category: str,
    ends: tuple[float, float] | None = None,
    params: Mapping[str, object] | None = None,
) -> None:
    """Normalise raw maps over the set and write them: two passes, a shard in memory at a time.

    The bank of `source` is in `folder` already: its hash goes with the range that it gave.
    """
    spec = ArraySpec((len(ids), maps.map_size, maps.map_size), "float32")
    step = shard_items(spec)
    blocks = [(start, min(start + step, len(ids))) for start in range(0, len(ids), step)]
    minima, maxima = np.zeros((2, len(ids)), np.float32)
    with track(f"maps {category}: range") as progress:
        for start, stop in blocks:
            raw = source.block(start, stop)
            try:
                value_range(raw)  # raises for NaN and infinity
            except ValueError as error:  # NaN in the weights, or a precision that overflows
                raise ArtifactError(
                    f"{category}: {error}: try compute.dtype float32, or other weights"
                ) from error
            minima[start:stop], maxima[start:stop] = raw.min(axis=(1, 2)), raw.max(axis=(1, 2))
            progress(stop, len(ids))
    if source.files and ends is None:
        _warn_of_outliers(source.files, minima, maxima, category)
    whole = zip(minima.tolist(), maxima.tolist(), strict=True)
    low, high = ends or (joint_range(whole) if source.normalise else (0.0, 1.0))
    if not high > low:
        log.warning("%s: all maps are constant and equal; they are stored as zeros", category)
    scores = np.zeros(len(ids), np.float32)
    attributes = {
        "method": maps.method,
        "raw_min": low,
        "raw_max": high,
        "bank_sha256": sha256_of(folder / BANK),
    }
    with (
        create_arrays(folder / "maps.zarr", {"maps": spec}, attributes) as arrays,
        track(f"maps {category}: writing") as progress,
    ):
        for start, stop in blocks:
            block = source.block(start, stop)
            for i, raw in enumerate(block):  # in place: `rescale` works in float64
                block[i] = rescale(raw, low, high)
            scores[start:stop] = block.max(axis=(1, 2))
            arrays["maps"][start:stop] = block
            progress(stop, len(ids))
    columns = {"sample_id": ids, "score": scores, "image_score": source.image_scores(maxima)}
    frame = pd.DataFrame(columns)
    write_parquet(
        folder / "scores.parquet", frame, schemas.MAP_SCORES, {**attributes, "params": params}
    )
    maxima = np.array(list(source.references.values()), np.float32)
    known = pd.DataFrame(
        {"sample_id": list(source.references), "score": rescale(maxima, low, high)}
    )
    write_parquet(folder / "references.parquet", known, schemas.REFERENCE_SCORES)


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


def _musc(job: Job) -> Source:
    maps, device = job.maps, job.device
    memory = Scratch(job.scratch, job.compute.memory_mb / 2)
    features = _features(job, job.queries, "queries", memory)
    if job.bank is not None:  # image scores are not re-weighted, as that takes a set
        return Source(_against(job, features, job.bank, "comparing"))
    if len(job.queries) < 2:
        raise ArtifactError(
            f"{job.category}: maps.method musc compares images with each other and needs at least "
            "2: add images, or use patchcore with normal references"
        )
    with track(f"maps {job.category}: comparing") as progress:
        scores = musc.patch_scores(
            features.layers,
            features.grid,
            neighbourhoods=maps.neighbourhoods,
            fraction=maps.fraction,
            references=maps.references,
            seed=maps.seed,
            memory_mb=job.compute.memory_mb / 2,
            device=device,
            allocate=memory,
            progress=progress,
        )

    class_tokens = features.class_tokens  # not `features`: patch tokens must not live on here

    def image_scores(maxima: Floats) -> Floats:
        return musc.reweight_scores(maxima, class_tokens) if maps.reweight else maxima

    chosen = musc.choose_references(len(scores), _BANK_IMAGES, maps.seed)
    bank = {
        f"layer_{k}": layer[chosen].astype(np.float16) for k, layer in enumerate(features.layers)
    }
    upsampler = _upsampler(scores, features.grid, maps.map_size)
    del features  # no more patch tokens than needed from here on
    return Source(upsampler, image_scores, bank=bank, references=_musc_references(job, bank))


def _musc_references(job: Job, bank: Mapping[str, Array]) -> dict[str, float]:
    """Return the largest value of the raw maps of some normal references."""
    normals = _some(job.normals, job.maps.seed)
    if len(normals) == 0:
        return {}
    memory = Scratch(job.scratch, job.compute.memory_mb / 2)
    features = _features(job, normals, "normal references", memory)
    maps = _against(job, features, bank, "comparing normal references")
    return dict(zip(normals["sample_id"], maps(0, len(normals)).max(axis=(1, 2)), strict=True))


def _some(normals: pd.DataFrame, seed: int) -> pd.DataFrame:
    """Return `_REFERENCES` of the normal references at most, drawn at random, in their order."""
    return normals.sample(min(_REFERENCES, len(normals)), random_state=seed).sort_index()


def _against(
    job: Job, features: Features, bank: Mapping[str, Array], what: str
) -> Callable[[int, int], Floats]:
    """Compare images with a bank."""
    maps = job.maps
    with track(f"maps {job.category}: {what}") as progress:
        scores = musc.scores_against(
            features.layers,
            [_part(bank, f"layer_{k}") for k in range(len(features.layers))],
            features.grid,
            neighbourhoods=maps.neighbourhoods,
            fraction=maps.fraction,
            device=job.device,
            progress=progress,
        )
    return _upsampler(scores, features.grid, maps.map_size)


def _part(bank: Mapping[str, Array], name: str) -> Array:
    if name not in bank:
        raise ArtifactError(f"{BANK} has no {name!r}; run the stage 'maps' again")
    return bank[name]


def _patchcore_bank(job: Job, memory: Scratch) -> tuple[Floats, dict[str, float]]:
    """Return the memory bank of the normal references, and `Source.references`.

    A reference is compared with the patches of the others.
    """
    maps = job.maps
    if len(job.normals) == 0:
        raise ArtifactError(
            f"{job.category}: maps.method patchcore needs normal reference images and the "
            "manifest's split 'normal' is empty: add some (train/good, manifest.normal_list or "
            "manifest.normal_root) or use maps.method musc"
        )
    normals = _features(job, job.normals, "normal references", memory)
    with track(f"maps {job.category}: coreset") as progress:
        bank, owners = patchcore.bank(
            normals.layers,
            normals.grid,
            neighbourhoods=maps.neighbourhoods,
            ratio=maps.coreset_ratio,
            maximum=maps.coreset_max,
            seed=maps.seed,
            device=job.device,
            progress=progress,
        )
    if len(job.normals) == 1:
        return bank, {}
    places = job.normals.reset_index(drop=True)
    some = _some(places, maps.seed)
    with track(f"maps {job.category}: comparing normal references") as progress:
        distances = patchcore.held_out_distances(
            normals.layers,
            normals.grid,
            bank,
            owners,
            list(some.index),
            neighbourhoods=maps.neighbourhoods,
            device=job.device,
            progress=progress,
        )
    compared = np.isfinite(distances[:, 0])  # not so the one owner of a whole bank
    some, distances = some[compared], distances[compared]
    raw = _upsampler(distances, normals.grid, maps.map_size)(0, len(some))
    return bank, dict(zip(some["sample_id"], raw.max(axis=(1, 2)), strict=True))


def _patchcore(job: Job) -> Source:
    maps, device = job.maps, job.device
    known: dict[str, float] = {}
    if job.bank is None:
        bank, known = _patchcore_bank(job, Scratch(job.scratch, job.compute.memory_mb / 2))
    else:
        bank = np.asarray(_part(job.bank, "patches"), np.float32)
    memory = Scratch(job.scratch, job.compute.memory_mb / 2)
    features = _features(job, job.queries, "queries", memory)
    layers, grid = features.layers, features.grid
    with track(f"maps {job.category}: comparing") as progress:
        distances, nearest = patchcore.patch_distances(
            layers,
            grid,
            bank,
            neighbourhoods=maps.neighbourhoods,
            device=device,
            progress=progress,
        )
    scores = patchcore.image_scores(
        layers,
        grid,
        bank,
        distances,
        nearest,
        neighbourhoods=maps.neighbourhoods,
        reweight=maps.reweight,
    )
    upsampler = _upsampler(distances, grid, maps.map_size)
    return Source(upsampler, lambda maxima: scores, bank={"patches": bank}, references=known)


def _precomputed(job: Job) -> Source:
    rejected = read_parquet(job.manifest / "rejected.parquet", schemas.REJECTED)
    others = [*job.normals["path"], *rejected["path"]]
    root = Path(job.maps.precomputed_root)
    files = find_maps(root, job.category, list(job.queries["path"]), others)
    size = job.maps.map_size

    def block(start: int, stop: int) -> Floats:
        return np.stack([resize_map(read_map(file), size) for file in files[start:stop]])

    return Source(block, files=files)


def _ground_truth(job: Job) -> Source:
    table = read_parquet(job.manifest / "masks.parquet", schemas.MASKS)
    files = dict(zip(table["sample_id"], table["mask_path"], strict=True))
    ids = list(job.queries["sample_id"])
    if not files:
        log.warning("%s: no query image has a mask, all maps are zero", job.category)

    def block(start: int, stop: int) -> Floats:
        result = np.zeros((stop - start, job.maps.map_size, job.maps.map_size), np.float32)
        for row, sample_id in zip(result, ids[start:stop], strict=True):
            if sample_id in files:
                row[:] = mask_to_map(read_mask(job.root / files[sample_id]), job.maps.map_size)
        return result

    return Source(block, normalise=False)


_METHODS: dict[str, Callable[[Job], Source]] = {
    "musc": _musc,
    "patchcore": _patchcore,
    "precomputed": _precomputed,
    "ground_truth": _ground_truth,
}


def _upsampler(scores: Floats, grid: tuple[int, int], size: int) -> Callable[[int, int], Floats]:
    return lambda start, stop: upsample(scores[start:stop], grid, size)


def _features(job: Job, images: pd.DataFrame, what: str, memory: Scratch) -> Features:
    """Run the frozen ViT over some images of the manifest."""
    maps, device = job.maps, job.device
    vit = load_saved_vit(job.backbone, image_size=maps.resolution).to(device).eval()
    mean, std = normalization(vit)

    def encode(pixels: Tensor) -> tuple[Sequence[Tensor], Tensor]:
        with autocast_for(device, job.compute.dtype):
            tokens, heads = forward_features(vit, pixels, layers=maps.layers)
        return tokens, heads

    def squashed() -> Iterator[NDArray[np.uint8]]:
        for path in images["path"]:
            yield squash(read_image(job.root / path, job.bits), maps.resolution)

    with track(f"maps {job.category}: features of {what}") as progress:
        return extract(
            encode,
            squashed(),
            len(images),
            mean=mean,
            std=std,
            device=device,
            half=stores_half(device, job.compute.dtype),
            allocate=memory,
            progress=progress,
        )

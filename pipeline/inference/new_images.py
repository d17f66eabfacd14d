"""Classify images that were not in a run: `load_classifier` and what it returns."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.binarization.mebin import ScoreRange
from pipeline.clustering.descriptors import PooledTokens
from pipeline.config.params import (
    Compute,
    ConfigError,
    Crops,
    Maps,
    Mebin,
    Merge,
    Predict,
    Views,
)
from pipeline.curation.names import NAMES, ClassNames, names_or_numbers
from pipeline.detectors.base import Detector, Images
from pipeline.inference.anomaly_maps import (
    GivenMaps,
    Resources,
    raw_maps,
    rescale_maps,
)
from pipeline.inference.detectors import new_detector
from pipeline.inference.image_regions import ImageRegions, regions_of
from pipeline.inference.map_artifacts import BANK
from pipeline.inference.region_classes import Seen, classify_regions, load_network, seen_by_heads
from pipeline.io.devices import Autocast, choose_device
from pipeline.io.images import read_image
from pipeline.io.map_files import read_map, resize_map
from pipeline.io.networks import JSON as MODEL_JSON
from pipeline.io.networks import load_vit
from pipeline.io.paths import ArtifactError, ArtifactPaths, damaged
from pipeline.io.region_classifier import (
    JSON,
    RegionModel,
    check_network,
    load_region_model,
)
from pipeline.io.stored import (
    NUMBER,
    Fields,
    check_fields,
    check_sha256,
    parse_stored,
    read_object,
    read_tensors,
)
from pipeline.progress import Progress, silent
from pipeline.regions.merging import (
    merge_regions,
    region_class_set,
    region_weights,
)

Image = NDArray[np.uint8] | Path | str
AnomalyMap = NDArray[np.floating[Any]] | Path | str

See = Callable[[NDArray[np.uint8], NDArray[np.uint8]], Seen]
"""From sub-images (M, S, S, 3) and masks (M, S, S) to what a classifier needs of them."""

UNKNOWN = "unknown"
_BLOCK = 32
"""So many images are in work at a time."""
_RANGES = {
    f"{stage}.{end}": NUMBER
    for stage, ends in (("maps", ("raw_min", "raw_max")), ("mebin", ("s_min", "s_max")))
    for end in ends
}

_PARAMS: Fields = {
    "params.manifest.bits": (int,),
    **{f"params.{name}": (dict,) for name in ("maps", "mebin", "crops", "views", "predict")},
    "params.compute.dtype": (str,),
}


@dataclass(frozen=True)
class Classification:
    """Classes of N images and of their M regions, among the C classes of the run.

    Attributes
    ----------
    classes
        (N,) int64. 0 is normal, -1 unknown: most of the image's weight is on regions unlike all of
        the run.
    names
        The N names of `classes`.
    confidence
        (N,) float64: the probability of `nearest_classes`. Of an unknown image it says which class
        is nearest, not how sure it is that none fits.
    nearest_classes
        (N,) int64: the most probable class of the run; `classes` without -1.
    probabilities
        (N, C) float32, rows summing to 1.
    scores
        (N,) float32 anomaly scores in [0, 1]: the maxima of `maps`.
    image_scores
        (N,) float32 scores of the detector, on a scale of its own: an image is normal up to the
        run's limit.
    region_classes
        For each image the sorted classes of its regions.
    regions
        A row a region: image (0 to N - 1), x0, y0, side (its square, in pixels of the image;
        it may reach outside), area_px, score, class, confidence, unknown.
    maps
        (N, S, S) float32 in [0, 1], on the scale of the run; S is `maps.map_size`.
    """

    classes: NDArray[np.int64]
    names: list[str]
    confidence: NDArray[np.float64]
    nearest_classes: NDArray[np.int64]
    probabilities: NDArray[np.float32]
    scores: NDArray[np.float32]
    image_scores: NDArray[np.float32]
    region_classes: list[list[int]]
    regions: pd.DataFrame
    maps: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.classes)


@dataclass(frozen=True)
class RunOptions:
    """The parameters that a run was made with, as far as new images need them."""

    bits: int
    maps: Maps
    mebin: Mebin
    crops: Crops
    views: Views
    predict: Predict
    merge: Merge


class ImageClassifier:
    """Classifies images by a finished run; nothing is trained. See `load_classifier`."""

    def __init__(
        self,
        options: RunOptions,
        detector: Detector | None,
        raw_range: tuple[float, float],
        score_range: ScoreRange,
        see: See,
        model: RegionModel,
        names: ClassNames,
    ) -> None:
        self.options, self.names = options, names
        self._detector, self._see, self._model = detector, see, model
        self._raw_range, self._score_range = raw_range, score_range

    @property
    def takes_maps(self) -> bool:
        """Whether images come with their anomaly maps, as with `maps.method: precomputed`."""
        return self._detector is None

    def __call__(
        self,
        images: Sequence[Image],
        maps: Sequence[AnomalyMap] | None = None,
        *,
        progress: Progress = silent,
    ) -> Classification:
        """Classify images, each for itself: the others make no difference.

        Parameters
        ----------
        images
            N arrays (H, W, 3) uint8 RGB, of any sizes, or paths of image files.
        maps
            The N anomaly maps of the images, arrays (h, w) or paths, in the units of those of the
            run: only for a run with `maps.method: precomputed`.
        progress
            Called with how many images are done.

        Returns
        -------
        Classification
            In the order of `images`.

        Raises
        ------
        ConfigError
            No images; arrays of another shape or dtype; maps missing or not asked for.
        ImageError
            A file that is no readable image.
        """
        return _joined(list(self.blocks(images, maps, progress=progress)))

    def blocks(
        self,
        images: Sequence[Image],
        maps: Sequence[AnomalyMap] | None = None,
        *,
        progress: Progress = silent,
    ) -> Iterator[Classification]:
        """Yield the `Classification` of block after block, so that memory does not grow with N.

        Parameters and errors are those of a call. The rows of `regions` count the images of all
        blocks.
        """
        if isinstance(images, str | Path) or len(images) == 0:
            raise ConfigError("give a list of images, with one at least")
        if self.takes_maps != (maps is not None):
            raise ConfigError(
                f"the run's maps.method is {self.options.maps.method}: maps of the images are "
                "needed with precomputed and only then"
            )
        if maps is not None and len(maps) != len(images):
            raise ConfigError(f"{len(maps)} maps for {len(images)} images")
        for start in range(0, len(images), _BLOCK):
            stop = min(start + _BLOCK, len(images))
            block = Images(
                [str(i) for i in range(start, stop)],
                lambda i, start=start: _pixels(images[start + i], self.options.bits),  # type: ignore[misc]
            )
            yield self._block(block, self._detector or self._given(maps), start)
            progress(stop, len(images))

    def _given(self, maps: Sequence[AnomalyMap] | None) -> Detector:
        size = self.options.maps.map_size
        return GivenMaps(lambda name: _map((maps or [])[int(name)], size), size)

    def _block(self, images: Images, detector: Detector, first: int) -> Classification:
        scores = detector.score(images)
        amaps = raw_maps(scores, slice(0, len(images)), self.options.maps.map_size)
        if not np.isfinite(amaps).all():
            raise ArtifactError("anomaly maps hold NaN or infinity: try compute.dtype float32")
        image_scores = scores.image_scores(amaps.max(axis=(1, 2)))
        rescale_maps(amaps, *self._raw_range, self.options.maps.exponent)
        found = [self._regions(image, amap) for image, amap in zip(images, amaps, strict=True)]
        return self._merged(found, amaps, image_scores, first)

    def _regions(self, image: NDArray[np.uint8], amap: NDArray[np.float32]) -> ImageRegions:
        options = self.options
        return regions_of(image, amap, options.mebin, options.crops, self._score_range)

    def _merged(
        self,
        found: list[ImageRegions],
        amaps: NDArray[np.float32],
        image_scores: NDArray[np.float32],
        first: int,
    ) -> Classification:
        """Classify the sub-images of a block of images and merge their classes."""
        n_images, merge = len(found), self.options.merge
        counts = [len(image.squares) for image in found]
        index = np.repeat(np.arange(n_images), counts)
        areas, crop_scores = (
            np.concatenate([getattr(image, name) for image in found])
            for name in ("areas", "scores")
        )
        seen = self._see(
            np.concatenate([image.images for image in found]),
            np.concatenate([image.masks for image in found]),
        )
        regions = classify_regions(
            seen, areas, image_scores[index], self._model, self.options.predict
        )
        if not np.isfinite(regions.probabilities).all():
            raise ArtifactError(
                "probabilities of the regions are not finite: set a lower train.lr and run the "
                "stage 'train' again"
            )
        rule, temperature = merge.weights, merge.temperature
        weights = region_weights(
            index, areas, crop_scores, rule=rule, temperature=temperature, n_images=n_images
        )
        probabilities = merge_regions(
            regions.probabilities.astype(np.float32),  # as regions.parquet has them
            index,
            areas,
            crop_scores,
            rule=rule,
            temperature=temperature,
            n_images=n_images,
        )
        nearest = probabilities.argmax(1)
        unknown = np.bincount(index, weights=weights * regions.unknown, minlength=n_images) > 0.5
        classes = np.where(unknown, -1, nearest)
        region_classes = regions.probabilities.argmax(1)
        squares = np.concatenate([image.squares for image in found])
        table = pd.DataFrame(squares, columns=["x0", "y0", "side"])
        table.insert(0, "image", index + first)
        return Classification(
            classes=classes,
            names=[UNKNOWN if k < 0 else self.names[int(k)] for k in classes],
            confidence=probabilities.max(1),
            nearest_classes=nearest,
            probabilities=probabilities.astype(np.float32),
            scores=amaps.max(axis=(1, 2)),
            image_scores=image_scores,
            region_classes=region_class_set(region_classes, index, n_images=n_images),
            regions=table.assign(
                area_px=areas,
                score=crop_scores,
                **{"class": region_classes},
                confidence=regions.probabilities.max(1),
                unknown=regions.unknown,
            ),
            maps=amaps,
        )


def load_classifier(
    data: Path | str,
    category: str,
    *,
    names: Path | str | ClassNames = NAMES,
    merge: Merge | None = None,
    device: str = "auto",
    detector: Detector | None = None,
) -> ImageClassifier:
    """Return what classifies images by a finished run.

    Parameters
    ----------
    data
        The folder of the artifacts.
    category
        The product, one of `dataset.categories`.
    names
        The file of class names, or the names. Names of another run are left out.
    merge
        How regions become a class of their image (None: the defaults of section `merge`).
    device
        As `compute.device`.
    detector
        A detector of one's own that made the maps of the run; it takes the bank of the run by its
        method `load`. None: that of `maps.method`.

    Returns
    -------
    ImageClassifier
        Call it with images.

    Raises
    ------
    ArtifactError
        There is no finished run of `category`, or a file of it is damaged or of another run.
    ConfigError
        The maps of the run were made from ground-truth masks, which new images do not have; a
        device that is not there.

    Examples
    --------
    >>> classifier = load_classifier("data", "metal")  # doctest: +SKIP
    >>> classifier(["new/0001.png"]).names  # doctest: +SKIP
    ['class 3']
    """
    paths = ArtifactPaths(Path(data))
    model, stored = load_region_model(paths.predict(category))
    check_network(paths, category)
    options = _options(paths.predict(category) / JSON, stored, merge)
    compute = _compute(paths.predict(category) / JSON, stored["compute"], device)
    model_json = paths.train(category) / MODEL_JSON
    description = read_object(model_json, _RANGES)
    raw, searched = description["maps"], description["mebin"]
    bank_path = paths.maps(category) / BANK
    bank = read_tensors(bank_path)
    check_sha256(bank_path, raw.get("bank_sha256"), model_json)
    if detector is None and options.maps.method != "precomputed":
        detector = new_detector(options.maps, Resources(paths.backbone(), compute, category))
    if detector is not None:
        try:
            detector.load(bank)
        except KeyError as error:
            raise damaged(bank_path, f"lacks the tensor {error}") from error
    if not isinstance(names, ClassNames):
        names, _ = names_or_numbers(Path(names), category, paths)
    return ImageClassifier(
        options,
        detector,
        (raw["raw_min"], raw["raw_max"]),
        ScoreRange(searched["s_min"], searched["s_max"]),
        _eyes(paths, category, options, compute, model),
        model,
        names,
    )


def _options(path: Path, stored: dict[str, Any], merge: Merge | None) -> RunOptions:
    """Parse the parameters that classifier.json keeps."""
    check_fields(path, {"params": stored}, _PARAMS)
    if stored["maps"]["method"] == "ground_truth":
        raise ConfigError(
            "the run's maps were made from ground-truth masks, which new images do not have: run "
            "with maps.method musc, patchcore or precomputed"
        )
    return RunOptions(
        bits=stored["manifest"]["bits"],
        maps=parse_stored(path, "params.maps", Maps, stored["maps"]),
        mebin=parse_stored(path, "params.mebin", Mebin, stored["mebin"]),
        crops=parse_stored(path, "params.crops", Crops, stored["crops"]),
        views=parse_stored(path, "params.views", Views, stored["views"]),
        predict=parse_stored(path, "params.predict", Predict, stored["predict"]),
        merge=Merge() if merge is None else merge,
    )


def _compute(path: Path, stored: dict[str, Any], device: str) -> Compute:
    """Return the run's dtype on a device that may be another."""
    return parse_stored(path, "params.compute", Compute, {**stored, "device": device})


def _eyes(
    paths: ArtifactPaths, category: str, options: RunOptions, compute: Compute, model: RegionModel
) -> See:
    """Return what shows sub-images to the classifier of a run."""
    if model.vote is None:
        network = load_network(paths, category, compute)
        return lambda images, masks: seen_by_heads(network, network(images, masks))
    size = options.views.image_size
    vit, device = load_vit(paths, image_size=size), choose_device(compute.device)
    autocast = Autocast(device, compute.dtype)
    pooling = PooledTokens(vit, options.predict.layers, device=device, autocast=autocast)
    return lambda images, masks: Seen(pooled=pooling.over(images, masks, size=size))


def _pixels(image: Image, bits: int) -> NDArray[np.uint8]:
    if isinstance(image, str | Path):
        return read_image(Path(image), bits)
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise ConfigError(
            f"an image is {image.dtype} {image.shape}: give arrays (H, W, 3) uint8 RGB, or paths"
        )
    return image


def _map(amap: AnomalyMap, size: int) -> NDArray[np.float32]:
    if isinstance(amap, str | Path):
        return resize_map(read_map(Path(amap)), size)
    if amap.ndim != 2 or 0 in amap.shape:
        raise ConfigError(f"a map is {amap.shape}: give arrays (h, w), or paths")
    return resize_map(amap.astype(np.float32), size)


def _joined(blocks: list[Classification]) -> Classification:
    """Join the answers to several blocks of images."""
    joined: dict[str, Any] = {}
    for field in fields(Classification):
        parts = [getattr(block, field.name) for block in blocks]
        if field.name == "regions":
            joined[field.name] = pd.concat(parts, ignore_index=True)
        elif isinstance(parts[0], list):
            joined[field.name] = [item for part in parts for item in part]
        else:
            joined[field.name] = np.concatenate(parts)
    return Classification(**joined)

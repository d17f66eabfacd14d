"""Classify images that were not in a run, by its parts (`pipeline.inference.load_run`)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.binarization.mebin import ScoreRange
from pipeline.config.detection import Maps, Mebin
from pipeline.config.params import Crops, Merge, Predict, Views
from pipeline.config.section import ConfigError
from pipeline.curation.names import ClassNames
from pipeline.detectors.base import Detector, Images
from pipeline.inference.classification import Classification, joined
from pipeline.inference.given_maps import GivenMaps
from pipeline.inference.image_regions import ImageRegions, regions_of
from pipeline.inference.map_scores import raw_maps, rescale_maps
from pipeline.inference.region_classes import Seen, classify_regions
from pipeline.io.images import read_image
from pipeline.io.map_files import read_map, resize_map
from pipeline.io.paths import ArtifactError
from pipeline.io.region_classifier import RegionModel
from pipeline.progress import Progress, silent
from pipeline.regions.merging import merge_regions, region_class_set, region_weights

Image = NDArray[np.uint8] | Path | str
AnomalyMap = NDArray[np.floating[Any]] | Path | str
See = Callable[[NDArray[np.uint8], NDArray[np.uint8]], Seen]
"""From sub-images (M, S, S, 3) and weights (M, S, S) to what a classifier needs of them."""

UNKNOWN = "unknown"
_BLOCK = 32
"""So many images are in work at a time."""


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
        raw_range: tuple[float, float, float],
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
        return joined(list(self.blocks(images, maps, progress=progress)))

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
        rescale_maps(amaps, *self._raw_range)  # low, high and gamma of the run
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
            np.concatenate([image.weights for image in found]),
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

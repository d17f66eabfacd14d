"""The detectors of `maps.method`, by name."""

from __future__ import annotations

from collections.abc import Callable

from pipeline.config.detection import Maps
from pipeline.detectors.base import Detector
from pipeline.inference.musc_maps import MuSc
from pipeline.inference.nearest_patches import NearestPatches
from pipeline.inference.patch_features import Resources
from pipeline.inference.patchcore_maps import PatchCore

_DETECTORS: dict[str, Callable[[Maps, Resources], Detector]] = {
    "nearest": NearestPatches,
    "musc": MuSc,
    "patchcore": PatchCore,
}


def new_detector(options: Maps, resources: Resources) -> Detector:
    """Return the detector of `maps.method` nearest, musc or patchcore; KeyError for the others."""
    return _DETECTORS[options.method](options, resources)

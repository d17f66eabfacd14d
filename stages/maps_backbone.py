"""Stage `maps_backbone`: fetch the frozen ViT of the maps alone, if they have one of their own."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

from pipeline.config.detection import Backbone
from pipeline.config.section import Key
from pipeline.io.backbone_weights import load_backbone, save, save_reference
from pipeline.io.files import replacing_folder
from pipeline.io.paths import ArtifactPaths
from pipeline.io.pypi_backbone import WeightsError

log = logging.getLogger("anomalyncd")


def run(
    options: Annotated[Backbone | None, Key("maps.backbone")],
    paths: ArtifactPaths,
) -> None:
    """Write `maps_backbone/`: weights and description, or the hash of the pipeline's weights.

    That hash stands in for them, so that `maps` has one dependency and reruns when the weights
    that it uses change, and only then.
    """
    if options is None:
        with replacing_folder(paths.maps_backbone()) as folder:
            save_reference(folder, paths.backbone())
        return
    log.info("maps_backbone: %s from %s", options.name, options.source)
    try:
        state, info = load_backbone(options.source, options.name, Path(options.path))
    except WeightsError as error:
        raise WeightsError(f"maps.backbone: {error}") from error
    with replacing_folder(paths.maps_backbone()) as folder:
        save(folder, state, info)

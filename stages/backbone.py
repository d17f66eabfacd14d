"""Stage `backbone`: fetch the weights of the frozen ViT and keep them in timm's naming."""

from __future__ import annotations

import logging
from pathlib import Path

from pipeline.config.detection import Backbone
from pipeline.io.backbone_weights import load_backbone, save
from pipeline.io.paths import ArtifactPaths

log = logging.getLogger("anomalyncd")


def run(options: Backbone, paths: ArtifactPaths) -> None:
    """Write `backbone/weights.safetensors` and `backbone/backbone.json`."""
    log.info("backbone: %s from %s", options.name, options.source)
    state, info = load_backbone(options.source, options.name, Path(options.path))
    save(paths.backbone(), state, info)

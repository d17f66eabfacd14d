"""Stage `backbone`: fetch the weights of the frozen ViT and keep them in timm's naming."""

from __future__ import annotations

import logging
from pathlib import Path

from pipeline.config.params import Params
from pipeline.io.backbone_weights import load_backbone, save
from pipeline.io.paths import ArtifactPaths

log = logging.getLogger("anomalyncd")


def run(params: Params, paths: ArtifactPaths) -> None:
    """Write `backbone/weights.safetensors` and `backbone/backbone.json`."""
    options = params.backbone
    log.info("backbone: %s from %s", options.name, options.source)
    state, info = load_backbone(options.source, options.name, Path(options.path))
    save(paths.backbone(), state, info)

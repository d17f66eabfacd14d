"""Features in blocks, as a cluster makes them, are those of one process."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from pipeline.config.params import Params
from pipeline.config.reading import parse_params
from pipeline.detectors.base import Images
from pipeline.detectors.features import allocate_memory
from pipeline.executor import Local, using
from pipeline.inference.patch_features import PatchFeatures, Resources
from pipeline.io.images import ListedImages, inspect_image
from pipeline.io.paths import ArtifactPaths
from stages import backbone
from tests.distributed.workers import Block, Through
from tests.running import run_stage


def same(block: Block) -> Block:
    return block


def params() -> Params:
    return parse_params(
        {
            "backbone": {"source": "random", "name": "test_vit.r160_in1k"},
            "maps": {"resolution": 64, "aspect": 1.0, "tiles": 2, "layers": [0, 2]},
            "compute": {"device": "cpu", "dtype": "float32"},
        }
    )


def test_blocks_give_the_features_of_one_process(tmp_path: Path) -> None:
    """70 images in two blocks, in four tiles each; no file of a block is left."""
    options, paths = params(), ArtifactPaths(tmp_path / "data")
    run_stage(backbone, None, options, paths)
    rng, files = np.random.default_rng(0), []
    for i in range(70):
        files.append(tmp_path / f"{i}.png")
        cv2.imwrite(str(files[-1]), rng.integers(0, 255, (40, 40, 3), np.uint8))
    listed = ListedImages(tuple(files), tuple(inspect_image(file).sample_id for file in files))
    images = Images([file.name for file in files], listed)
    (tmp_path / "scratch").mkdir()
    resources = Resources(paths.backbone(), options.compute, "c", folder=tmp_path / "scratch")
    features = PatchFeatures(options.maps, resources, options.maps.layers)
    calls: list[str] = []
    whole = features(images, "queries", allocate_memory)
    with using(Through(Local(), same, calls)):
        blocks = features(images, "queries", allocate_memory)
    assert calls == ["feature_block"]
    assert whole.grid == blocks.grid
    assert len(blocks.layers) == 2
    for ours, theirs in zip(blocks.layers, whole.layers, strict=True):
        assert ours.shape[0] == 70
        np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_array_equal(blocks.class_tokens, whole.class_tokens)
    assert not list((tmp_path / "scratch").iterdir())

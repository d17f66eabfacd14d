"""What the stage `train` hands to the training: each crop with its own score, label and views."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from pipeline.config.params import Augment, Params
from pipeline.config.reading import parse_params
from pipeline.executor import blocks
from pipeline.inference import training_run, view_blocks
from pipeline.inference.view_blocks import ViewSettings
from pipeline.io.arrays import ArraySpec, create_arrays
from pipeline.io.networks import load_blocks, load_vit
from pipeline.io.paths import ArtifactPaths
from pipeline.mgvit.augmentation import plain_view
from stages import backbone
from tests.running import run_stage

BASE_LABELS = ["scratch", "dent", "scratch", "bent"]
SCORES = [0.1, 0.9, 0.4]
SIZE = 64


def write_crops(folder: Path, first: int, n: int) -> None:
    """Crops of one grey each, `first` and brighter, all under their mask."""
    images = np.stack([np.full((256, 256, 3), first + 20 * i, np.uint8) for i in range(n)])
    specs = {
        "images": ArraySpec(images.shape, "uint8"),
        "masks": ArraySpec(images.shape[:3], "uint8"),
    }
    with create_arrays(folder / "crops.zarr", specs) as arrays:
        arrays["images"][:] = images
        arrays["masks"][:] = 1


@pytest.fixture
def paths(tmp_path: Path) -> ArtifactPaths:
    return ArtifactPaths(tmp_path)


def params() -> Params:
    off = dict.fromkeys(
        ("crop", "flip", "rotate", "colour", "sharpness", "blur", "posterize"), False
    )
    return parse_params(
        {
            "backbone": {"source": "random", "name": "test_vit.r160_in1k"},
            "views": {"count": 0, "image_size": SIZE, "mask_layers": 2, "augment": off},
            "compute": {"device": "cpu", "dtype": "float32"},
        }
    )


@pytest.fixture
def given(paths: ArtifactPaths, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The arguments of `train` for 4 base and 3 novel crops."""
    chosen, handed = params(), {}
    run_stage(backbone, None, chosen, paths)
    write_crops(paths.base(), 10, 4)
    write_crops(paths.crops("c"), 130, 3)

    def record(source: Any, network: Any, **options: Any) -> None:
        handed.update(options, source=source, network=network)

    monkeypatch.setattr(training_run, "train", record)
    training_run.train_category(
        "c",
        load_vit(paths, image_size=SIZE),
        pd.DataFrame({"score": SCORES, "crop_id": ["a", "b", "c"]}),
        pd.DataFrame({"label": BASE_LABELS}),
        5,
        chosen.train,
        chosen.views,
        chosen.compute,
        paths,
    )
    return SimpleNamespace(**handed)


def test_scores_and_labels_are_those_of_their_crops(given: SimpleNamespace) -> None:
    assert given.scores.tolist() == pytest.approx(SCORES)
    assert given.base_labels.tolist() == [2, 1, 2, 0]  # of bent, dent, scratch
    assert given.n_base_classes == 3
    assert given.network.heads.weight.shape[1] == 3 + 5


def test_samples_are_the_base_crops_and_then_the_novel_ones(
    given: SimpleNamespace, paths: ArtifactPaths
) -> None:
    samples = np.array([5, 0, 3, 6])
    tokens, visible = given.source.pairs(samples, 0, np.random.default_rng(0), np.arange(8))
    greys = [130 + 20, 10, 10 + 60, 130 + 40]
    views = [
        plain_view(np.full((256, 256, 3), g, np.uint8), np.ones((256, 256), np.uint8), size=SIZE)
        for g in greys
    ]
    blocks = load_blocks(paths, params().views, params().compute)
    plain = blocks(np.stack([v for v, _ in views]), np.stack([m for _, m in views]))
    expected, _ = plain.gather(np.arange(4))
    assert visible.all()
    for half in (tokens[:4], tokens[4:]):  # without augmentations both views are the plain one
        np.testing.assert_allclose(half, expected, atol=2e-2)
    assert abs(expected[0] - expected[1]).max() > 0.1


def test_views_in_several_blocks_are_those_of_one(
    paths: ArtifactPaths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = params()
    augmented = chosen.views.model_copy(update={"count": 2, "augment": Augment()})
    run_stage(backbone, None, chosen, paths)
    write_crops(paths.base(), 10, 3)
    write_crops(paths.crops("c"), 60, 9)
    settings = ViewSettings(
        paths, "", augmented.model_dump_json(), chosen.compute.model_dump_json()
    )
    rows = np.array([0, 2, 3, 4, 8])
    found = []
    for crops, batch in ((256, 4), (2, 4)):  # 2 crops have 4 views
        monkeypatch.setattr(view_blocks, "_CROPS", crops)
        monkeypatch.setattr(view_blocks, "_BATCH", batch)
        monkeypatch.setattr(view_blocks, "blocks", lambda n, shard, batch: blocks(n, shard=shard))
        file = tmp_path / f"{crops}.bin"
        sets = (("base", paths.base(), np.arange(3)), ("c", paths.crops("c"), rows))
        found.append((view_blocks.write_views(file, settings, sets), file.read_bytes()))
    assert len(found[0][0]) == 2 * (3 + 5)
    np.testing.assert_array_equal(found[0][0], found[1][0])
    assert found[0][1] == found[1][1]
    assert not list(tmp_path.glob("*.part"))

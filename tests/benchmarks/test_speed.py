"""benchmarks/plain gives the same as the pipeline, and every command of benchmarks.speed runs."""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from timm.models.vision_transformer import VisionTransformer
from typer.testing import CliRunner

from benchmarks.plain import detectors, network
from benchmarks.plain.crops import image_crops
from benchmarks.plain.mebin import binarize_map
from benchmarks.plain.merging import merge_images
from benchmarks.plain.training import Trainer
from benchmarks.speed import detectors as speed
from benchmarks.speed import growth, harness
from benchmarks.speed.__main__ import MEASURED
from benchmarks.speed.inputs import Inputs
from benchmarks.speed.masks import our_crops
from benchmarks.speed.table import markdown
from pipeline.binarization import mebin
from pipeline.cli import app
from pipeline.config.reading import load_params
from pipeline.detectors import musc, patchcore
from pipeline.io.paths import ArtifactPaths
from pipeline.mgvit.attention import ClassBlock, frozen_tokens, patch_keep, visible_keys
from pipeline.mgvit.backbone import create_vit
from pipeline.regions.merging import merge_regions


def blobs(size: int, seed: int) -> NDArray[np.float32]:
    """Return a smooth random map (size, size) in [0, 1]."""
    noise = np.random.default_rng(seed).random((size, size)).astype(np.float32)
    smooth = cv2.GaussianBlur(noise, (0, 0), size / 16)
    low, high = smooth.min(), smooth.max()
    return np.asarray((smooth - low) / (high - low), np.float32)


@settings(max_examples=25)
@given(seed=st.integers(0, 999), tau=st.integers(1, 9), floor=st.floats(0, 0.9))
def test_plain_mebin_gives_the_same_masks(seed: int, tau: int, floor: float) -> None:
    amap = blobs(40, seed)
    mask, count = binarize_map(amap, floor, 1.0, tau=tau, erode_px=2)
    ends = mebin.ScoreRange(floor, 1.0)
    found = mebin.binarize_map(amap, ends, thresholds=64, tau=tau, erode_px=2, rule="paper")
    assert np.array_equal(mask, found.mask)
    assert count == found.n_regions


@pytest.mark.parametrize("seed", range(8))
def test_plain_crops_are_the_same(tmp_path: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    shape = (int(rng.integers(40, 300)), int(rng.integers(40, 300)), 3)
    Image.fromarray(rng.integers(0, 256, shape, np.uint8)).save(tmp_path / "a.png")
    amap = blobs(160, seed)
    plain = image_crops(tmp_path / "a.png", amap, 0.4, 1.0)
    ours = our_crops(tmp_path / "a.png", amap, mebin.ScoreRange(0.4, 1.0))
    assert [c.square for c in plain] == [c.square for c in ours]
    assert [c.area_px for c in plain] == [c.area_px for c in ours]
    for a, b in zip(plain, ours, strict=True):
        assert a.score == pytest.approx(b.score, abs=1e-6)
        assert np.array_equal(a.image, b.image)
        assert np.array_equal(a.mask, b.mask)


def test_plain_merging_is_the_same() -> None:
    rng = np.random.default_rng(0)
    owners = rng.permutation(np.r_[np.arange(9), rng.integers(0, 9, 21)])
    probabilities, areas = rng.dirichlet(np.ones(4), 30), rng.integers(0, 9000, 30).astype(float)
    plain = merge_images(probabilities, [str(k) for k in owners], areas, temperature=50)
    ours = merge_regions(
        probabilities, owners, areas, areas, rule="area", temperature=50, n_images=9
    )
    for k in range(9):
        np.testing.assert_allclose(plain[str(k)], ours[k], atol=1e-12)


def _network() -> tuple[VisionTransformer, torch.Tensor, torch.Tensor]:
    vit = create_vit("vit_tiny_patch16_224", None, image_size=64)
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randn(3, 3, 64, 64, generator=generator)
    masks = torch.rand(3, 1, 4, 4, generator=generator).repeat_interleave(16, 2)
    masks = masks.repeat_interleave(16, 3)[:, 0]
    masks[2] = 0
    return vit, pixels, masks


def test_explicit_attention_gives_the_same_class_tokens_and_gradients() -> None:
    vit, pixels, masks = _network()
    keep = patch_keep(masks, 16, threshold=0.5)
    tokens = frozen_tokens(vit, pixels, keep, mask_on="class", mask_layers=9)
    block = ClassBlock(vit, fold_layerscale=True)
    ours = block(tokens, visible_keys(vit, keep, mask_on="class"))
    trainer = Trainer(vit, 3, size=64)
    plain = network.last_block(trainer.vit, network.frozen_blocks(vit, pixels, masks), masks)
    torch.testing.assert_close(plain, ours, atol=1e-4, rtol=1e-4)
    (ours**2).sum().backward()
    (plain**2).sum().backward()
    expected = dict(trainer.vit.blocks[-1].named_parameters())
    for name, parameter in block.named_parameters():
        if name in expected:
            gradient = expected[name].grad
            torch.testing.assert_close(gradient, parameter.grad, atol=1e-4, rtol=1e-4)


def test_a_plain_step_of_training_learns_only_the_last_block_and_the_new_parts() -> None:
    vit, _, _ = _network()
    trainer = Trainer(vit, 3, size=64)
    before = {name: p.detach().clone() for name, p in trainer.vit.named_parameters()}
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (4, 73, 73, 3), np.uint8)
    masks = np.ones((4, 73, 73), np.uint8)
    assert np.isfinite(trainer.step(images, masks, np.ones(4, np.float32), rng))
    changed = {n for n, p in trainer.vit.named_parameters() if not torch.equal(p, before[n])}
    assert changed
    assert all(name.startswith("blocks.11.") for name in changed)


def test_plain_detectors_give_the_same() -> None:
    generator = torch.Generator().manual_seed(0)
    features = torch.nn.functional.normalize(torch.randn(9, 6, 5, generator=generator), dim=-1)
    ours = musc.mutual_scores(features.numpy())
    np.testing.assert_allclose(detectors.mutual_scores(features), ours, atol=1e-3)
    points = torch.randn(200, 8, generator=generator)
    assert (
        detectors.k_centre(points, 30, start=4) == patchcore.k_centre(points, 30, start=4).tolist()
    )
    near = detectors.nearest_distances(points[:50], points[60:90], rows=7)
    torch.testing.assert_close(near, torch.cdist(points[:50], points[60:90]).amin(1))


def test_a_ratio_is_the_median_over_pairs() -> None:
    row = harness.Timing((2.0, 30.0, 8.0), (1.0, 10.0, 2.0)).row("a", "")
    assert (row.ratio, row.plain_s, row.ours_s) == (3.0, 8.0, 2.0)


def test_peak_memory_is_what_a_call_takes() -> None:
    peak = harness.peak_mb(lambda: np.ones(2**22).sum())  # 32 MiB
    assert peak is None or 30 < peak < 60


def test_a_check_that_fails_says_why() -> None:
    with pytest.raises(harness.NotEqualError, match="masks differ"):
        harness.check(False, "masks differ")


def test_a_table_has_five_columns_and_names_every_stage(tmp_path: Path) -> None:
    for n in (1, 2):
        for stage in growth.STAGES:
            name = "all" if stage == "report" else growth.CATEGORY
            path = tmp_path / str(n) / "data" / "runs" / stage / f"{name}.json"
            path.parent.mkdir(parents=True)
            path.write_text(json.dumps({"wall_s": n * 1.26, "peak_memory_mib": 1000.0 + n}))
    rows = growth.stage_rows({n: tmp_path / str(n) for n in (1, 2)})
    assert len(rows) == 2 * len(growth.STAGES)
    timed = harness.Timing((0.3,), (0.1,)).row("a", ">= 2x", "map", ours_mb=7.0, notes=["b c"])
    harness.save(tmp_path, "growth", "many", rows)
    harness.save(tmp_path, "mebin", "many", [timed])
    text = markdown(harness.load(tmp_path))
    assert "| a | 300 ms per map | 100 ms per map | 3.0x | >= 2x |" in text
    assert "| a | - | 7 MiB | - |" in text
    assert "- a: b c" in text
    assert "| time of `maps` | 1.3 s | 2.5 s |  |" in text
    assert "| peak memory of `report` | 1001 MiB | 1002 MiB | flat from 1000 on |" in text
    assert "`python -m benchmarks.speed mebin --category many`" in text
    assert max(line.count("|") for line in text.splitlines()) == 6


def test_a_synthetic_checkout_has_images_and_masks(tmp_path: Path) -> None:
    growth.write_images(tmp_path, 7)
    assert len(list((tmp_path / "test" / "good").iterdir())) == 4
    assert len(list((tmp_path / "test" / "spot").iterdir())) == 3
    assert len(list((tmp_path / "ground_truth" / "spot").iterdir())) == 3


@dataclass(frozen=True)
class Tiny(Inputs):
    """Small random inputs in the place of artifacts."""

    folder: Path = Path()

    def maps(self, limit: int) -> tuple[list[NDArray[np.float32]], mebin.ScoreRange]:
        return [blobs(96, seed) for seed in range(3)], mebin.ScoreRange(0.5, 1.0)

    def images(self, limit: int) -> list[Path]:
        rng = np.random.default_rng(0)
        paths = [self.folder / f"{i}.png" for i in range(3)]
        for path in paths:
            Image.fromarray(rng.integers(0, 256, (120, 90, 3), np.uint8)).save(path)
        return paths

    def crops(self, limit: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        rng = np.random.default_rng(0)
        images = [cv2.blur(rng.integers(0, 256, (73, 73, 3), np.uint8), (9, 9)) for _ in range(4)]
        return np.stack(images), np.stack([blobs(73, seed) > 0.5 for seed in range(4)]).view(
            np.uint8
        )

    def table(self) -> pd.DataFrame:
        rng = np.random.default_rng(0)
        owners = np.sort(np.r_[np.arange(20), rng.integers(0, 20, 20)])
        areas = rng.integers(0, 9000, len(owners))
        return pd.DataFrame(
            {"sample_id": owners.astype(str), "area_px": areas, "score": rng.random(len(owners))}
        )

    def vit(self, image_size: int | None = None) -> VisionTransformer:
        return create_vit("vit_tiny_patch16_224", None, image_size=64)


def tiny_patches(inputs: Inputs, split: str, limit: int) -> speed.Patches:
    tokens = np.random.default_rng(len(split)).standard_normal((12, 16, 12)).astype(np.float32)
    masks = [(blobs(speed.MAP_SIZE, k) > 0.7).astype(np.float32) for k in range(12)]
    return speed.Patches((tokens,), (4, 4), masks)


@pytest.mark.parametrize("name", MEASURED)
def test_every_command_runs_on_tiny_input(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(speed, "patches_of", tiny_patches)
    found = MEASURED[name](Tiny("tiny", load_params(), ArtifactPaths(tmp_path), tmp_path))
    rows = found if isinstance(found, list) else [found]
    assert all(row.ratio and row.equal for row in rows)
    harness.save(tmp_path, name, "tiny", rows)
    assert rows[0].what in markdown(harness.load(tmp_path))


@pytest.mark.slow
def test_growth_runs_on_tiny_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its stages run in this process; `dvc repro` does in stages/test_end_to_end.py."""
    done: list[Path] = []

    def run(command: list[str], folder: Path) -> str:
        if command != ["dvc", "repro"] or folder in done:
            return "Data and pipelines are up to date."
        done.append(folder)
        with contextlib.chdir(folder):
            whole = ("backbone", "maps_backbone", "base")
            for stage in (*whole, *growth.STAGES):
                category = [] if stage in (*whole, "report") else [growth.CATEGORY]
                result = CliRunner().invoke(app, [stage, *category], catch_exceptions=False)
                assert result.exit_code == 0, result.output
        return ""

    monkeypatch.setattr(growth, "run", run)
    rows = growth.grown((4,), tmp_path, repeats=1)
    assert done == [tmp_path / "4"]
    assert len(rows) == 1 + 2 * len(growth.STAGES)
    assert all(row.metrics.keys() == {"N = 4"} for row in rows)

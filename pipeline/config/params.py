"""params.yaml as frozen models: parsed once at the edge, trusted everywhere else.

An unknown key, a wrong type or an impossible value is a `ConfigError` naming section and key.
"""

from __future__ import annotations

import re
import unicodedata
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from pipeline.config.comparison import Compare
from pipeline.config.detection import Backbone, Maps, Mebin
from pipeline.config.section import (
    CATEGORY_RULE,
    MOST_CLASSES,
    Block,
    Classifier,
    ConfigError,
    Count,
    CountOrZero,
    Dtype,
    Extra,
    FilePath,
    NotNegative,
    PositiveFloat,
    Section,
    Seed,
    Unit,
    is_category_name,
)


class Dataset(Section):
    """Which images: `<root>/<category>` holds one product."""

    root: FilePath = "data/raw/demo"
    categories: Annotated[list[str], Field(min_length=1)] = ["metal", "fabric"]

    @field_validator("categories")
    @classmethod
    def _names(cls, names: list[str]) -> list[str]:
        for name in names:
            if not is_category_name(name):
                raise ValueError(f"{name!r} cannot be a category ({CATEGORY_RULE})")
        if len(set(names)) != len(names):
            raise ValueError("a category is listed twice")
        if len({unicodedata.normalize("NFC", name).casefold() for name in names}) != len(names):
            raise ValueError(
                "two categories differ only in upper and lower case, or in how accents are "
                "encoded: some file systems keep both in one folder"
            )
        return names


DemoDefect = Literal["scratch", "dent", "stain", "crack", "hole", "missing_thread", "knot"]
"""The defects of both products of the demo."""


class Demo(Section):
    """The generated images."""

    seed: Seed = 0
    good: CountOrZero = 20
    per_defect: CountOrZero | dict[DemoDefect, CountOrZero] = 20
    normals: CountOrZero = 40

    def n_images(self, defect: str) -> int:
        """Return how many images of a defect there are; none of one that a mapping leaves out."""
        counts = self.per_defect
        if isinstance(counts, int):
            return counts
        return sum(number for name, number in counts.items() if name == defect)


class Manifest(Section):
    """How the folder of a category is read."""

    layout: Literal["auto", "mvtec", "mtd", "folder"] = "auto"
    normal_label: list[str] = ["good", "MT_Free"]
    exclude_labels: list[str] = ["combined"]
    normal_list: FilePath | None = None
    normal_root: FilePath = "data/raw/normal"
    part: FilePath | None = None
    bits: Annotated[int, Field(ge=8, le=16)] = 16

    @field_validator("part")
    @classmethod
    def _expression(cls, rule: str | None) -> str | None:
        if rule is not None and not rule.lower().endswith(".csv"):
            try:
                pattern = re.compile(rule)
            except re.error as error:
                raise ValueError(
                    f"neither a .csv file nor a regular expression ({error})"
                ) from None
            if pattern.search("") is not None:
                raise ValueError("the expression fits any path: no image would differ")
        return rule


class Base(Section):
    """The labelled base set D_l: other products' defects. No image in the folder: none."""

    root: FilePath = "data/raw/base"
    layout: Literal["auto", "mvtec", "mtd", "class_folders"] = "auto"
    normal_label: list[str] = ["good", "MT_Free"]
    per_image: Count = 2


class Crops(Section):
    """Sub-images (section 3.2 of the paper)."""

    enabled: bool = True
    padding: Annotated[float, Field(ge=0, le=100)] = 0.1
    smallest_side: Annotated[float, Field(ge=0, le=1)] = 0.2
    merge_distance: Annotated[float, Field(ge=0, le=100)] = 0.01
    keep: Literal["delta", "all"] | Count = "delta"
    size: Annotated[int, Field(ge=256, le=4096)] = 256


class Augment(Section):
    """Which augmentations a training view draws (each one on or off)."""

    crop: bool = True
    flip: bool = True
    rotate: bool = True
    colour: bool = True
    sharpness: bool = True
    blur: bool = True
    posterize: bool = True


_Classes = Annotated[int, Field(ge=2, le=MOST_CLASSES)] | Literal["auto"]


class Classes(Section):
    """How many novel classes there are, normal included."""

    count: _Classes | dict[str, _Classes] = 5

    def n_classes(self, category: str) -> int | None:
        """Return the number of classes of a category; None: estimate it."""
        number = self.count
        if isinstance(number, dict):
            if category not in number:
                raise ConfigError(f"classes.count: no entry for the category {category!r}")
            number = number[category]
        return None if number == "auto" else number


class Views(Section):
    """Augmented views of the sub-images, and what the frozen blocks see of them (section 3.3)."""

    count: Annotated[int, Field(ge=0, le=1000)] = 6
    sample: Count = 100_000
    seed: Seed = 0
    image_size: Annotated[int, Field(gt=0, le=2048)] = 224
    mask_on: Literal["class", "patch", "all", "none"] = "class"
    mask_layers: Annotated[int, Field(gt=0, le=1000)] = 9
    mask_threshold: Unit = 0.5
    augment: Augment = Augment()

    @field_validator("count")
    @classmethod
    def _pairs(cls, count: int) -> int:
        if count == 1:
            raise ValueError("training takes pairs: use 2 or more, or 0 for fresh views")
        return count


class Train(Section):
    """Self-supervised training of the last block and the heads (section 3.3 of the paper)."""

    ranks: Annotated[int, Field(gt=0, le=1024)] = 1
    fold_layerscale: bool = True
    heads: Annotated[int, Field(gt=0, le=256)] = 4
    epochs: Count = 50
    batch: Annotated[int, Field(ge=2, le=2**16)] = 32
    seed: Seed = 3407
    lambda_: Annotated[Unit, Field(alias="lambda")] = 0.3
    mu: NotNegative = 4.0
    views_summed: bool = False
    plc_threshold: Unit | None = 0.5
    student_temperature: PositiveFloat = 0.1
    teacher_temperature_start: PositiveFloat = 0.07
    teacher_temperature_end: PositiveFloat = 0.04
    teacher_steps: Count = 10
    teacher_hold: Count = 4
    contrast_temperature: PositiveFloat = 1.0
    contrast_temperature_labelled: PositiveFloat = 0.07
    lr: PositiveFloat = 0.003
    lr_end_factor: Unit = 0.001
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    weight_decay: NotNegative = 5e-5


class Predict(Section):
    """Which of the two classifiers names the regions, and what is normal beforehand."""

    classifier: Classifier = "mixture"
    normal: Literal["scores", "regions", "none"] = "scores"
    false_alarms: Annotated[float, Field(gt=0, lt=1)] = 0.05
    assumed_normal: Annotated[float, Field(ge=0, lt=1)] = 0.3
    layers: Annotated[list[Block], Field(min_length=1)] = [5, 6, 7, 8, 9]
    dimensions: Annotated[list[Count], Field(min_length=1)] = [8, 16]
    extra_components: Annotated[list[Extra], Field(min_length=1)] = [0, 2]
    sample: Count = 50_000
    seed: Seed = 0


class Merge(Section):
    """Region merging (section 3.4 of the paper)."""

    weights: Literal["area", "mean", "score"] = "area"
    temperature: PositiveFloat = 100.0


class Evaluate(Section):
    """Figures against labels and masks."""

    max_fpr: Annotated[float, Field(gt=0, le=1)] = 0.3
    region_iou: Unit = 0.1
    combined_label: list[str] = ["combined"]
    bootstrap: Annotated[int, Field(ge=0, le=100_000)] = 1000


class Report(Section):
    """The HTML page."""

    gallery: Count = 24
    examples: CountOrZero = 8


class Compute(Section):
    """Where stages and networks run, in which dtype, and how much memory `maps` may take.

    `engine`, `address` and `workers` change no result, and are part of no artifact.
    """

    device: str = "auto"
    dtype: Dtype = "auto"
    memory_mb: Annotated[int, Field(gt=0, le=2**20)] = 1024
    engine: Literal["local", "dask"] = "local"
    address: FilePath | None = None
    workers: Count | None = None


class Params(Section):
    """The whole of params.yaml."""

    dataset: Dataset = Dataset()
    demo: Demo = Demo()
    backbone: Backbone = Backbone()
    manifest: Manifest = Manifest()
    maps: Maps = Maps()
    mebin: Mebin = Mebin()
    base: Base = Base()
    crops: Crops = Crops()
    classes: Classes = Classes()
    views: Views = Views()
    train: Train = Train()
    predict: Predict = Predict()
    merge: Merge = Merge()
    evaluate: Evaluate = Evaluate()
    report: Report = Report()
    compare: Compare = Compare()
    compute: Compute = Compute()

    @model_validator(mode="after")
    def _crops_hold_views(self) -> Params:
        """Refuse views that would enlarge the stored crops (`augmentation.resized_side`)."""
        size, needed = self.views.image_size, round(self.views.image_size * 256 / 224)
        if needed > self.crops.size:
            raise ValueError(
                f"views.image_size {size} is cut out of {needed} pixels and crops.size stores "
                f"{self.crops.size}: set crops.size to {needed} or more"
            )
        return self

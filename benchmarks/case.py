"""What the quality benchmarks read: a category after `dvc repro crops@<category>`."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.clustering.normal_images import NormalRule
from pipeline.config.params import Params
from pipeline.config.reading import load_params
from pipeline.config.section import ConfigError
from pipeline.inference.region_features import normal_of_set, pooled_tokens
from pipeline.io.part_table import numbered, read_parts
from pipeline.io.paths import ArtifactPaths
from pipeline.io.schemas import CROPS, LABELS
from pipeline.io.scores import scores_of_images, scores_of_reference_parts
from pipeline.io.tables import read_parquet
from pipeline.regions.merging import merge_regions

LAYERS = (5, 6, 7, 8, 9)


@dataclass(frozen=True)
class Case:
    """The regions of a category. Labels serve for the metrics alone."""

    category: str
    params: Params
    paths: ArtifactPaths
    crops: pd.DataFrame
    labels: NDArray[np.str_]  # (M,), of the image of each region
    inside: Literal["masks", "weights"] = "weights"  # what tokens are averaged with

    @property
    def image_labels(self) -> list[str]:
        """Labels of the images, in the order of the regions."""
        first = ~self.crops["sample_id"].duplicated().to_numpy()
        return [str(label) for label in self.labels[first]]

    @property
    def n_classes(self) -> int:
        """The number of classes that params.yaml gives."""
        number = self.params.classes.n_classes(self.category)
        if number is None:
            raise ConfigError("classes.count is auto: set the number of classes")
        return number

    @cached_property
    def scores(self) -> NDArray[np.float64]:
        """Anomaly scores (M,) of the image of each region."""
        return scores_of_images(self.paths, self.category, self.crops)

    @cached_property
    def references(self) -> NDArray[np.float64]:
        """Anomaly scores (R,) of the parts of normal references."""
        return scores_of_reference_parts(self.paths, self.category)

    @cached_property
    def parts(self) -> NDArray[np.int64]:
        """Numbers (M,) of the part that the image of each region shows."""
        return numbered(read_parts(self.paths, self.category), self.crops["sample_id"])

    @cached_property
    def pooled(self) -> NDArray[np.float32]:
        """Tokens (M, L, D) of `LAYERS`, averaged with the weights of pixels or under the masks."""
        return pooled_tokens(
            self.paths,
            self.category,
            self.params.compute,
            LAYERS,
            image_size=self.params.views.image_size,
            inside=self.inside,
        )

    def normal(self) -> NDArray[np.bool_]:
        """Return which regions (M,) are normal by `predict.normal`."""
        return self.normal_by(self.params.predict.normal)

    def normal_by(self, rule: NormalRule) -> NDArray[np.bool_]:
        """Return which regions (M,) are normal by a rule."""
        options = self.params.predict
        return normal_of_set(
            rule,
            self.crops,
            self.scores,
            self.references,
            self.parts,
            false_alarms=options.false_alarms,
            assumed_normal=options.assumed_normal,
        )[0]

    def image_classes(self, probabilities: NDArray[np.floating]) -> NDArray[np.int64]:
        """Return the class (N,) of each image from the probabilities (M, C) of its regions."""
        index, ids = pd.factorize(self.crops["sample_id"])
        merged = merge_regions(
            probabilities,
            index,
            self.crops["area_px"],
            self.crops["score"],
            rule=self.params.merge.weights,
            temperature=self.params.merge.temperature,
            n_images=len(ids),
        )
        return np.asarray(merged.argmax(1))


def load_case(
    category: str, params_path: Path = Path("params.yaml"), data: Path = Path("data")
) -> Case:
    """Read the parameters, crops and labels of a category."""
    paths = ArtifactPaths(data)
    crops = read_parquet(paths.crops(category) / "crops.parquet", CROPS)
    labels = read_parquet(paths.manifest(category) / "labels.parquet", LABELS)
    of = labels.set_index("sample_id")["label"].reindex(crops["sample_id"])
    return Case(category, load_params(params_path), paths, crops, of.to_numpy(str))

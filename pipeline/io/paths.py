"""Paths of the artifacts, and errors about them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import AnomalyNCDError

_OF_CATEGORIES = (
    "manifest", "maps", "mebin", "crops", "classes",
    "views", "train", "predict", "shape", "merge", "evaluate",
    "features", "peer", "ours", "compare",
)  # fmt: skip


class ArtifactError(AnomalyNCDError):
    """An artifact is missing, unreadable or does not fit its schema."""


_KEPT = {"identity", "choices", "corrections"}
"""Folders of what people decided: no stage writes them."""


def missing(path: Path) -> ArtifactError:
    """Return the error for an artifact that does not exist."""
    stage = _stage_of(path)
    return ArtifactError(f"{path} does not exist: run the stage '{stage}' first (or `dvc repro`)")


def damaged(path: Path, what: str) -> ArtifactError:
    """Return the error for an artifact with unexpected content."""
    stage = _stage_of(path)
    if stage in _KEPT:
        return ArtifactError(f"{path}: {what}; take the file from git, or move it away")
    return ArtifactError(f"{path}: {what}; run the stage '{stage}' again (or `dvc repro`)")


def _stage_of(path: Path) -> str:
    """Return the stage that writes `path`: DATA/<stage>/<category>/FILE or DATA/<stage>/FILE."""
    folder = path.parent
    if folder.name in _KEPT:
        return folder.name
    return folder.parent.name if folder.parent.name in _OF_CATEGORIES else folder.name


@dataclass(frozen=True)
class ArtifactPaths:
    """Paths of all artifacts under `root`; `c` is a category."""

    root: Path = Path("data")

    def raw_demo(self) -> Path:
        """Folder of the generated demo images."""
        return self.root / "raw" / "demo"

    def backbone(self) -> Path:
        """`weights.safetensors` and `backbone.json`."""
        return self.root / "backbone"

    def maps_backbone(self) -> Path:
        """The same of the maps' own backbone, or `backbone.json` alone, with the hash of that."""
        return self.root / "maps_backbone"

    def base(self) -> Path:
        """`crops.parquet` and `crops.zarr` of the labelled base set."""
        return self.root / "base"

    def manifest(self, c: str) -> Path:
        """`images.parquet`, `labels.parquet`, `masks.parquet`, `rejected.parquet`."""
        return self.root / "manifest" / c

    def maps(self, c: str) -> Path:
        """`maps.zarr`, `scores.parquet`, `references.parquet` and `bank.safetensors`."""
        return self.root / "maps" / c

    def mebin(self, c: str) -> Path:
        """`masks.zarr` and `images.parquet`."""
        return self.root / "mebin" / c

    def crops(self, c: str) -> Path:
        """`crops.parquet` and `crops.zarr`."""
        return self.root / "crops" / c

    def views(self, c: str) -> Path:
        """Frozen-block tokens of the augmented views (a cache, never pushed)."""
        return self.root / "views" / c

    def classes(self, c: str) -> Path:
        """`classes.json` and `candidates.csv`."""
        return self.root / "classes" / c

    def train(self, c: str) -> Path:
        """`model.safetensors`, `model.json`, `history.csv`."""
        return self.root / "train" / c

    def predict(self, c: str) -> Path:
        """Regions, their descriptors and attention, and the fitted classifier."""
        return self.root / "predict" / c

    def shape(self, c: str) -> Path:
        """The tree of the classes, and regions with the classes that people chose."""
        return self.root / "shape" / c

    def merge(self, c: str) -> Path:
        """`images.parquet`."""
        return self.root / "merge" / c

    def evaluate(self, c: str | None = None) -> Path:
        """`metrics.json` of a category; `summary.json` lies in the folder above (`c` None)."""
        return self.root / "evaluate" / c if c else self.root / "evaluate"

    def features(self, c: str) -> Path:
        """`features.json` and the arrays that every peer of the comparison sees."""
        return self.root / "features" / c

    def peer(self, c: str) -> Path:
        """`<method>.parquet`: predictions of the rows of a method, with their cost."""
        return self.root / "peer" / c

    def ours(self, c: str) -> Path:
        """`ours.parquet`: predictions of this pipeline's own rows."""
        return self.root / "ours" / c

    def compare(self, c: str) -> Path:
        """`<method>.json` and `report.html`; metrics lie in `<c>.json` beside the folder."""
        return self.root / "compare" / c

    def report(self) -> Path:
        """`index.html`."""
        return self.root / "report"

"""Sets with only normal images, with none, or with one kind of defect.

python -m benchmarks.one_sided metal

Needs the demo's images and backbone (`dvc repro demo backbone`). Runs `manifest`, `maps` and
`mebin` on such parts of the demo, and prints how many images `predict.normal: scores` takes for
normal, and how many have a region.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from numpy.typing import NDArray
from ruamel.yaml import YAML

from pipeline.clustering.conformal import normal_limit
from pipeline.io.paths import ArtifactPaths
from pipeline.io.schemas import LABELS, MAP_SCORES, MEBIN_IMAGES
from pipeline.io.scores import scores_of_reference_parts
from pipeline.io.tables import read_parquet

WAYS = (("musc", False), ("musc", True), ("nearest", True))
"""Method, and whether the set has its normal references."""


def subsets(kinds: list[str]) -> dict[str, list[str]]:
    """Return the kinds of images of each set."""
    defects = [kind for kind in kinds if kind != "good"]
    return {
        "normal images only": ["good"],
        "no normal image": defects,
        "normal and one kind": ["good", defects[0]],
        "one kind only": [defects[0]],
    }


def outcome(source: Path, kinds: list[str], method: str, root: Path, *, references: bool) -> str:
    """Make the maps and masks of some kinds of a product; return two cells of the table."""
    category, params, paths = source.name, root / "params.yaml", ArtifactPaths(root / "data")
    for kind in kinds:
        shutil.copytree(source / "test" / kind, root / category / "test" / kind)
    if references:
        shutil.copytree(source / "train", root / category / "train")
    content = YAML().load(Path("params.yaml"))
    content["dataset"] = {"root": str(root), "categories": [category]}
    content["maps"]["method"] = method
    YAML().dump(content, params)
    for stage in ("manifest", "maps", "mebin"):
        options = ["--params", str(params), "--data", str(paths.root)]
        subprocess.run(["anomalyncd", stage, category, *options], check=True)
    scores = read_parquet(paths.maps(category) / "scores.parquet", MAP_SCORES)
    labels = read_parquet(paths.manifest(category) / "labels.parquet", LABELS)
    table = read_parquet(paths.mebin(category) / "images.parquet", MEBIN_IMAGES)
    known = scores_of_reference_parts(paths, category)
    limit = normal_limit(scores["image_score"], known).value
    of = labels.set_index("sample_id")["label"].reindex(scores["sample_id"])
    good = np.asarray(of == "good")
    normal = scores["image_score"].to_numpy() <= limit
    return f"{_count(normal, good)} | {_count((table['n_regions'] > 0).to_numpy(), good)}"


def _count(flags: NDArray[np.bool_], good: NDArray[np.bool_]) -> str:
    parts = [(good, "normal images"), (~good, "defects")]
    return ", ".join(f"{flags[s].sum()} of {s.sum()} {what}" for s, what in parts if s.any())


def main(category: Annotated[str, typer.Argument(help="metal or fabric")]) -> None:
    """Print what is taken for normal in one-sided parts of a demo product."""
    source, backbone = Path("data/raw/demo", category), ArtifactPaths().backbone()
    kinds = sorted(path.name for path in (source / "test").iterdir())
    typer.echo("| set | maps | taken for normal | with a region |\n|---|---|---|---|")
    for what, chosen in subsets(kinds).items():
        for method, references in WAYS:
            with tempfile.TemporaryDirectory() as folder:
                root = Path(folder)
                shutil.copytree(backbone, root / "data" / "backbone")
                cells = outcome(source, chosen, method, root, references=references)
            how = f"{method}, {'with' if references else 'no'} references"
            typer.echo(f"| {category}: {what} | {how} | {cells} |")


if __name__ == "__main__":
    typer.run(main)

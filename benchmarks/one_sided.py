"""Sets with only normal images, or none, or one kind of defect.

python -m benchmarks.one_sided metal

Needs the demo's images and backbone (`dvc repro demo backbone`). Takes such parts of the demo's
queries, makes their maps and masks, and prints how many images `predict.normal: scores` takes for
normal, and how many have a region.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
import typer

from pipeline.clustering.normal_images import normal_limit
from pipeline.config.params import Params, load_params
from pipeline.config.signature import arguments
from pipeline.io.paths import ArtifactPaths
from pipeline.io.schemas import LABELS, MAP_SCORES, MEBIN_IMAGES
from pipeline.io.scores import scores_of_references
from pipeline.io.tables import read_parquet
from stages import manifest, maps, mebin

WAYS = (("musc", False), ("musc", True), ("patchcore", True))
"""Method, and whether the set has its normal references."""


def subsets(kinds: list[str]) -> dict[str, list[str]]:
    """Return kinds of images by what the set is to show."""
    defects = [kind for kind in kinds if kind != "good"]
    return {
        "normal images only": ["good"],
        "no normal image": defects,
        "normal and one kind": ["good", defects[0]],
        "one kind only": [defects[0]],
    }


def outcome(
    source: Path, kinds: list[str], params: Params, paths: ArtifactPaths, *, references: bool
) -> str:
    """Make the maps of some kinds of a product; return who is taken for normal, and has regions."""
    category = source.name
    with tempfile.TemporaryDirectory() as root:
        for kind in kinds:
            shutil.copytree(source / "test" / kind, Path(root) / category / "test" / kind)
        if references:
            shutil.copytree(source / "train", Path(root) / category / "train")
        content = params.model_dump(by_alias=True)
        content["dataset"] = {"root": root, "categories": [category]}
        changed = Params.model_validate(content)
        for stage in (manifest, maps, mebin):
            stage.run(category, paths=paths, **arguments(stage.run, changed))
    scores = read_parquet(paths.maps(category) / "scores.parquet", MAP_SCORES)
    labels = read_parquet(paths.manifest(category) / "labels.parquet", LABELS)
    limit = normal_limit(scores["score"], scores_of_references(paths, category))
    normal = scores["score"].to_numpy() <= limit
    of = pd.Series(labels["label"].to_numpy(), labels["sample_id"]).reindex(scores["sample_id"])
    good = np.asarray(of == "good")
    table = read_parquet(paths.mebin(category) / "images.parquet", MEBIN_IMAGES)
    cut = (table["n_regions"] > 0).to_numpy()
    parts = [(good, "normal images"), (~good, "defects")]
    counts = [
        ", ".join(f"{flags[s].sum()} of {s.sum()} {what}" for s, what in parts if s.any())
        for flags in (normal, cut)
    ]
    return " | ".join(counts)


def main(
    category: Annotated[str, typer.Argument(help="metal or fabric")],
    params_path: Annotated[Path, typer.Option("--params")] = Path("params.yaml"),
    data: Annotated[Path, typer.Option("--data")] = Path("data"),
) -> None:
    """Print what is taken for normal in one-sided parts of a demo product."""
    params = load_params(params_path)
    source = data / "raw" / "demo" / category
    kinds = sorted(path.name for path in (source / "test").iterdir())
    typer.echo("| set | maps | taken for normal | with a region |\n|---|---|---|---|")
    for what, chosen in subsets(kinds).items():
        for method, references in WAYS:
            content = params.model_dump(by_alias=True)
            content["maps"]["method"] = method
            with tempfile.TemporaryDirectory() as folder:
                paths = ArtifactPaths(Path(folder))
                shutil.copytree(ArtifactPaths(data).backbone(), paths.backbone())
                found = outcome(
                    source, chosen, Params.model_validate(content), paths, references=references
                )
            how = f"{method}, {'with' if references else 'no'} references"
            typer.echo(f"| {category}: {what} | {how} | {found} |")


if __name__ == "__main__":
    typer.run(main)

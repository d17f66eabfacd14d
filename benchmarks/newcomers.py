"""Classify new images of the demo's products: python -m benchmarks.newcomers metal

Needs a finished `dvc repro`. Draws images that the run has not seen (another generator seed), runs
`anomalyncd classify` on them, and prints true kinds against classes, and how many images are in the
class that most images of their kind have in the run.
"""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path
from typing import Annotated

import cv2
import pandas as pd
import typer

from pipeline.demo.generate import generate
from pipeline.io.paths import ArtifactPaths
from pipeline.io.schemas import LABELS, MERGED
from pipeline.io.tables import read_parquet


def draw(folder: Path, category: str, seed: int, per_kind: int) -> dict[str, str]:
    """Write new images; return the true kind of each path."""
    kinds = {}
    for sample in generate(category, good=per_kind, per_defect=per_kind, normals=1, seed=seed):
        if sample.split == "test":
            name = f"{sample.label}_{sample.name}.png"
            cv2.imwrite(str(folder / name), sample.image[..., ::-1])
            kinds[name] = sample.label
    return kinds


def main(
    category: Annotated[str, typer.Argument(help="metal or fabric")],
    seed: Annotated[int, typer.Option(help="Seed of the generator; the run has 0.")] = 77,
    per_kind: Annotated[int, typer.Option(help="Images of each kind.")] = 5,
) -> None:
    """Classify new demo images with the finished run."""
    with tempfile.TemporaryDirectory() as work:
        folder, out = Path(work, "images"), Path(work, "new.parquet")
        folder.mkdir()
        kinds = draw(folder, category, seed, per_kind)
        command = ["anomalyncd", "classify", str(folder), "--category", category, "--out", str(out)]
        subprocess.run(command, check=True)
        found = pd.read_parquet(out)
    paths = ArtifactPaths()
    merged = read_parquet(paths.merge(category) / "images.parquet", MERGED)
    labels = read_parquet(paths.manifest(category) / "labels.parquet", LABELS)
    run = merged.merge(labels, on="sample_id")
    usual = run.groupby("label")["class"].agg(lambda classes: int(classes.mode()[0]))
    found["kind"] = found["path"].map(kinds)
    typer.echo(pd.crosstab(found["kind"], found["class"]).to_string())
    right = int((found["class"] == found["kind"].map(usual)).sum())
    unknown = int((found["class"] < 0).sum())
    typer.echo(f"{right} of {len(found)} in the class of their kind, {unknown} unknown")


if __name__ == "__main__":
    typer.run(main)

"""Good parts stopped, beside what was promised: python -m benchmarks.promise CATEGORY

Of a finished run with labels and normal references. The limit was made by the references alone, so
the good images of the run are unseen by it. `--draws` also takes the limit from ever other halves
of the references, for the spread that 40 instead of many references have.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from pipeline.clustering.conformal import conformal_limit, part_scores
from pipeline.config.reading import load_params
from pipeline.config.section import ConfigError
from pipeline.evaluation.drift import share_interval
from pipeline.evaluation.promise import promise_of
from pipeline.io.part_table import numbered, read_parts
from pipeline.io.paths import ArtifactPaths
from pipeline.io.schemas import LABELS, MAP_SCORES
from pipeline.io.scores import scores_of_reference_parts
from pipeline.io.tables import read_parquet


def main(
    category: Annotated[str, typer.Argument(help="A category with a finished stage maps.")],
    params: Annotated[Path, typer.Option("--params", help="Its parameters.")] = Path("params.yaml"),
    data: Annotated[Path, typer.Option("--data", help="Folder of the artifacts.")] = Path("data"),
    draws: Annotated[int, typer.Option("--draws", help="Halves of the references.")] = 0,
) -> None:
    """Print a row of a table for each rate: promised, stopped, and whether references suffice."""
    paths, options = ArtifactPaths(data), load_params(params)
    references = scores_of_reference_parts(paths, category)
    if not len(references):
        raise ConfigError(f"{category} has no normal references: nothing is promised")
    table = read_parquet(paths.maps(category) / "scores.parquet", MAP_SCORES)
    labels = read_parquet(paths.manifest(category) / "labels.parquet", LABELS)
    good = set(labels.loc[labels["label"].isin(options.manifest.normal_label), "sample_id"])
    table = table[table["sample_id"].isin(good)]
    parts = numbered(read_parts(paths, category), table["sample_id"])
    scores = part_scores(table["image_score"], parts)
    rng = np.random.default_rng(0)
    typer.echo("references | asked | promised | stopped of good parts | 95 % interval | enough")
    for asked in (0.01, 0.05, 0.1, 0.2):
        promise, (limit, _) = promise_of(len(references), asked), conformal_limit(references, asked)
        stopped = int((scores > limit).sum())
        low, high = share_interval(stopped, len(scores))
        typer.echo(
            f"{len(references)} | {asked:.0%} | {promise.expected:.1%} | {stopped} of {len(scores)}"
            f" | {low:.1%} to {high:.1%} | {'yes' if promise.kept else f'{promise.needed} needed'}"
        )
        if draws:
            half = len(references) // 2
            shares = []
            for _ in range(draws):
                some = rng.choice(references, half, replace=False)
                shares.append(float((scores > conformal_limit(some, asked)[0]).mean()))
            expected = promise_of(half, asked).expected
            typer.echo(
                f"{half} | {asked:.0%} | {expected:.1%} | {np.mean(shares):.1%} in the mean of "
                f"{draws} halves, {np.quantile(shares, 0.95):.1%} in 19 of 20 | - | -"
            )


if __name__ == "__main__":
    typer.run(main)

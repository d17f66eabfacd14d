"""Stage `peer`: the clusters that one method of the comparison finds. No label is read here."""

from __future__ import annotations

from typing import Annotated, Literal

from pipeline.config.params import Merge
from pipeline.config.section import ConfigError, Key
from pipeline.inference.peer_rows import Bench, number_of_classes, run_rows
from pipeline.io.paths import ArtifactPaths
from pipeline.io.peer_files import write_predictions
from pipeline.io.provenance import git_commit
from pipeline.io.schemas import CROPS
from pipeline.io.tables import read_parquet
from pipeline.peers.rows import methods


def run(
    category: str,
    method: str,
    inputs: Annotated[list[Literal["whole", "crop", "patch"]], Key("compare.input")],
    budget: Annotated[Literal["equal", "official"], Key("compare.budget")],
    seeds: Annotated[int, Key("compare.seeds")],
    open_set: Annotated[bool, Key("compare.open")],
    merging: Merge,
    paths: ArtifactPaths,
) -> None:
    """Write METHOD.parquet of a category: predictions of all rows of the method, and their cost."""
    if method not in methods():
        known = ", ".join(methods())
        raise ConfigError(f"compare.methods: {method!r} is no method: use some of {known}")
    bench = Bench(
        folder=paths.features(category),
        crops=read_parquet(paths.crops(category) / "crops.parquet", CROPS),
        merging=merging,
        n_classes=number_of_classes(paths, category),
        n_seeds=seeds,
        settings={"budget": budget, "open_set": open_set},
    )
    runs = run_rows(method, inputs, bench)
    write_predictions(paths.peer(category) / f"{method}.parquet", runs, git_commit())

"""Stages run from tests, as the command line runs them."""

from __future__ import annotations

from types import ModuleType

from pipeline.config.params import Params
from pipeline.config.signature import arguments
from pipeline.io.paths import ArtifactPaths


def run_stage(
    stage: ModuleType,
    category: str | None,
    params: Params,
    paths: ArtifactPaths,
    **options: object,
) -> None:
    """Run a stage with what its signature takes of `params`; a category for those that have one."""
    given: dict[str, object] = {} if category is None else {"category": category}
    stage.run(paths=paths, **given, **arguments(stage.run, params), **options)

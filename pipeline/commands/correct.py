"""`anomalyncd correct`: apply the corrections that the review page downloaded."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipeline.commands.errors import check_run, reported
from pipeline.commands.options import DATA, CategoryArgument, DataOption, NamesOption
from pipeline.commands.reshape import replace_choices
from pipeline.curation.choices import is_choices_file
from pipeline.curation.corrections import add_corrections, corrections_path, read_corrections
from pipeline.curation.names import NAMES
from pipeline.io.paths import ArtifactPaths
from pipeline.io.region_table import read_regions
from pipeline.terminal import say


def correct(
    category: CategoryArgument,
    file: Annotated[Path, typer.Argument(help="File downloaded from the review page.")],
    names: NamesOption = NAMES,
    data: DataOption = DATA,
) -> None:
    """Apply corrections, or choices about classes, from data/report/review-CATEGORY.html."""
    with reported("correct"):
        paths = ArtifactPaths(data)
        check_run(category, paths)
        if is_choices_file(file):
            replace_choices(category, file, names, paths)
            return
        regions = read_regions(paths, category)
        n_corrected = add_corrections(paths, category, file, regions)
        n_read = len(read_corrections(file).targets)
        say(
            f"{category}: read {n_read} corrections; {corrections_path(paths, category)} now "
            f"corrects {n_corrected} of {len(regions)} regions"
        )
        say("update the report with `dvc repro report` (or `anomalyncd report`)")
        say(f"let the next fit keep them with `anomalyncd teach {category}`")

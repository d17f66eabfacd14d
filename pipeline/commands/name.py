"""`anomalyncd name`: name a discovered class."""

from __future__ import annotations

from typing import Annotated

import typer

from pipeline.commands.errors import check_run, reported
from pipeline.commands.options import DATA, CategoryArgument, DataOption, NamesOption
from pipeline.config.section import ConfigError
from pipeline.curation.identity import remember_classes
from pipeline.curation.names import NAMES, names_for, names_or_numbers, run_of, set_name
from pipeline.io.paths import ArtifactPaths
from pipeline.io.region_table import n_classes, read_regions
from pipeline.terminal import say


def name(
    category: CategoryArgument,
    number: Annotated[int, typer.Argument(help="Class number, as in the report.")],
    text: Annotated[str, typer.Argument(metavar="NAME", help="Name of the class, as `scratch`.")],
    names: NamesOption = NAMES,
    data: DataOption = DATA,
) -> None:
    """Name a discovered class; the report, `classify` and `export` then show the name."""
    with reported("name"):
        paths = ArtifactPaths(data)
        check_run(category, paths)
        run = run_of(paths, category)
        regions = read_regions(paths, category)
        last = n_classes(regions) - 1
        if not 0 <= number <= last:
            raise ConfigError(
                f"{category} has no class {number}: its classes are 0 (normal) to {last}"
            )
        before, notes = names_or_numbers(names, category, paths)
        for note in notes:
            say(note)
        kept = set_name(names, category, number, text, run, before.names)
        remember_classes(paths, category, run)
        if kept is not None:
            say(f"{names} had names of an earlier run of {category}: kept them in {kept}")
        class_names = names_for(names, category, paths)
        n_regions = int((regions["class"] == number).sum())
        say(f"{category}: named class {number} ({n_regions} regions) {class_names[number]!r}")
        say("update the report with `dvc repro report` (or `anomalyncd report`)")

"""`anomalyncd merge CATEGORY 2 5` and `anomalyncd split CATEGORY 3`: shape classes by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from pipeline.clustering.class_choices import Merge, ShapedClasses, Split
from pipeline.commands.errors import check_run, reported
from pipeline.commands.options import DATA, CategoryArgument, DataOption, NamesOption
from pipeline.config.section import ConfigError
from pipeline.curation.choices import (
    Choices,
    check_category,
    choices_path,
    parse_choices,
    read_choices,
    shaped,
    stored_choices,
    write_choices,
)
from pipeline.curation.corrections import corrections_path, read_corrections
from pipeline.curation.names import NAMES, names_or_numbers, run_of
from pipeline.io.class_tree import JSON, read_start, read_tree
from pipeline.io.files import free_path
from pipeline.io.paths import ArtifactPaths, damaged
from pipeline.terminal import say

UndoOption = Annotated[
    bool, typer.Option("--undo", help="Take back the last choice, whether a merge or a split.")
]


def merge(
    category: str,
    classes: Sequence[int],
    *,
    undo: bool = False,
    names: Path = NAMES,
    data: Path = DATA,
) -> None:
    """Merge classes under the first of their numbers, or take the last choice back."""
    with reported("merge"):
        if undo and classes:
            raise ConfigError("--undo takes back the last choice: give no classes with it")
        _choose(category, None if undo else Merge(tuple(classes)), names, ArtifactPaths(data))


def split(
    category: CategoryArgument,
    number: Annotated[
        int | None, typer.Argument(help="Class number, as in the report.", show_default=False)
    ] = None,
    undo: UndoOption = False,
    names: NamesOption = NAMES,
    data: DataOption = DATA,
) -> None:
    """Split a class in two, where its tree divides; `merge CATEGORY 2 5` merges classes."""
    with reported("split"):
        if undo == (number is not None):
            raise ConfigError("give the number of a class, or --undo")
        choice = None if number is None else Split(number)
        _choose(category, choice, names, ArtifactPaths(data))


def replace_choices(category: str, file: Path, names: Path, paths: ArtifactPaths) -> None:
    """Store the choices of a file downloaded from the review page in place of the present ones.

    Raises `ConfigError` if the file is not for this run of the category, a choice is not possible,
    or a class with a name or corrections would go.
    """
    new = read_choices(file)
    check_category(file, new, category)
    run = run_of(paths, category)
    if new.run != run:
        raise ConfigError(
            f"{file}: these choices are about another run ({new.run}, this one is {run}): choose "
            "on the present review page"
        )
    after = _shape(paths, new, file)
    _check_uses(paths, stored_choices(paths, category, run)[0], after, names)
    _keep_others(paths, new)
    _store(paths, new)
    _say(category, new, after, paths)


def _choose(category: str, choice: Merge | Split | None, names: Path, paths: ArtifactPaths) -> None:
    """Add a choice to the stored ones (None: remove the last), if the classes allow it."""
    check_run(category, paths)
    stored, note = stored_choices(paths, category, run_of(paths, category))
    if note is not None:
        say(note, err=True, colour=typer.colors.YELLOW)
    changed = stored.without_last() if choice is None else stored.plus(choice)
    after = _shape(paths, changed, category)
    _check_uses(paths, stored, after, names)
    _store(paths, changed)
    _say(category, changed, after, paths)


def _shape(paths: ArtifactPaths, choices: Choices, where: Path | str) -> ShapedClasses:
    start = read_start(paths, choices.category)
    tree = read_tree(paths, choices.category)[0].tree
    return shaped(tree, choices, where, start.numbers, start.n_numbers)


def _check_uses(paths: ArtifactPaths, stored: Choices, after: ShapedClasses, names: Path) -> None:
    """Raise `ConfigError` if a class with a name or corrections would be gone, or another one.

    Else its number would go to the next class that is split, and name and corrections with it.
    """
    category = stored.category
    lost: set[int] = set()
    for before in (_founders(paths, stored), _founders(paths, _applied(paths, stored))):
        lost |= {number for number in before if after.founders.get(number) != before[number]}
    if not lost:
        return
    named = names_or_numbers(names, category, paths)[0].names
    for number in sorted(lost & set(named)):
        raise ConfigError(
            f"class {number} of {category} would be gone, or be another one, and is "
            f"{named[number]!r} in {names}: take the name out of that file first"
        )
    path = corrections_path(paths, category)
    corrections = read_corrections(path) if path.exists() else None
    if corrections is None or corrections.run != stored.run:
        return
    for number in sorted(lost & set(corrections.targets.values())):
        raise ConfigError(
            f"class {number} of {category} would be gone, or be another one, and {path} moves "
            "regions to it: give these another class on the review page first"
        )


def _founders(paths: ArtifactPaths, choices: Choices) -> Mapping[int, frozenset[int]]:
    """Return what each number stood for at first; nothing if the choices are not possible."""
    try:
        return _shape(paths, choices, choices.category).founders
    except ConfigError:  # edited by hand, and never applied
        return {}


def _applied(paths: ArtifactPaths, stored: Choices) -> Choices:
    """Return the choices that the stage `shape` applied."""
    path = paths.shape(stored.category) / JSON
    try:
        applied = parse_choices(path, read_tree(paths, stored.category)[1])
    except ConfigError as error:
        raise damaged(path, f"holds choices that are none ({error})") from None
    return Choices(stored.category, stored.run, applied)


def _keep_others(paths: ArtifactPaths, choices: Choices) -> None:
    """Keep the stored choices that the new ones do not begin with: someone else's, perhaps."""
    path = choices_path(paths, choices.category)
    if not path.exists():
        return
    stored = read_choices(path)
    if stored.run == choices.run and choices.choices[: len(stored.choices)] != stored.choices:
        _put_aside(path, "the choices that the file does not begin with")


def _store(paths: ArtifactPaths, choices: Choices) -> None:
    """Write the choices; those of another run are kept beside them."""
    path = choices_path(paths, choices.category)
    if path.exists() and read_choices(path).run != choices.run:
        _put_aside(path, "the choices about another run")
    write_choices(path, choices)


def _put_aside(path: Path, what: str) -> None:
    kept = free_path(path.with_name(f"{path.name}.old"))
    path.rename(kept)
    say(f"kept {what} as {kept}")


def _say(category: str, choices: Choices, classes: ShapedClasses, paths: ArtifactPaths) -> None:
    sizes = np.bincount(classes.members, classes.tree.sizes, classes.n_classes).astype(int)
    there = np.unique(classes.members)
    listed = ", ".join(f"{k} ({sizes[k]} regions)" for k in there)
    n = len(choices.choices)
    say(f"{category}: {n} choice{'' if n == 1 else 's'}; the classes will be {listed}")
    stages = "the stages shape, merge, evaluate and report"
    say(f"update with `dvc repro` (or {stages}); {_file(paths, category)}")


def _file(paths: ArtifactPaths, category: str) -> str:
    path = choices_path(paths, category)
    return f"commit {path}" if path.exists() else f"{path} is gone"

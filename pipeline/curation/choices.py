"""Choices of people about classes, in data/choices/<category>.json.

    {"category": "metal", "run": "0d3f5a1b2c4e",
     "choices": [{"merge": [2, 5]}, {"split": 3}]}

The stage `shape` applies them in this order, to the tree of the classes of this `run`. Numbers in a
choice are those that the choices before it left.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pipeline.clustering.class_choices import Choice, Merge, ShapedClasses, Split, apply_choices
from pipeline.clustering.class_tree import ClassTree
from pipeline.config.section import ConfigError
from pipeline.curation.downloads import read_download
from pipeline.file_checks import file_problem
from pipeline.io.files import write_text
from pipeline.io.paths import ArtifactPaths

LARGEST_FILE = 2**20


@dataclass(frozen=True)
class Choices:
    """The choices about one run of a category."""

    category: str
    run: str
    choices: tuple[Choice, ...] = ()

    def plus(self, *choices: Choice) -> Choices:
        """Return these and more choices."""
        return replace(self, choices=(*self.choices, *choices))

    def without_last(self) -> Choices:
        """Return these without the last; raise `ConfigError` if there is none."""
        if not self.choices:
            raise ConfigError(f"{self.category}: no choice to take back")
        return replace(self, choices=self.choices[:-1])


def choices_path(paths: ArtifactPaths, category: str) -> Path:
    """Return the file of a category's choices, which need not exist."""
    return paths.root / "choices" / f"{category}.json"


def stored_choices(paths: ArtifactPaths, category: str, run: str) -> tuple[Choices, str | None]:
    """Return the choices about `run`, and None; or none and a note if they are of another run.

    Raises `ConfigError` for a file that is not valid, or of another category.
    """
    path = choices_path(paths, category)
    if not path.exists():
        return Choices(category, run), None
    stored = read_choices(path)
    check_category(path, stored, category)
    if stored.run != run:
        return Choices(category, run), (
            f"{path}: these choices about classes of {category} are of another run ({stored.run}, "
            f"this one is {run}) and are not applied: choose again, or move the file away"
        )
    return stored, None


def check_category(path: Path, choices: Choices, category: str) -> None:
    """Raise `ConfigError` unless the choices are about this category."""
    if choices.category != category:
        raise ConfigError(f"{path}: is for {choices.category!r}, not for {category!r}")


def shaped(
    tree: ClassTree,
    choices: Choices,
    where: Path | str,
    numbers: Sequence[int] | None = None,
    n_numbers: int | None = None,
) -> ShapedClasses:
    """Apply choices to a tree; raise `ConfigError`, with `where`, for one that is not possible."""
    try:
        return apply_choices(tree, choices.choices, numbers, n_numbers)
    except ValueError as error:
        raise ConfigError(f"{where}: {error}") from None


def is_choices_file(path: Path) -> bool:
    """Tell whether a downloaded file holds choices rather than corrections."""
    try:
        if file_problem(path, LARGEST_FILE) is not None:
            return False
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(content, dict) and "choices" in content


def write_choices(path: Path, choices: Choices) -> None:
    """Write the file, a line a choice; no file without choices."""
    if not choices.choices:
        path.unlink(missing_ok=True)
        return
    head = ", ".join(
        f'"{key}": {json.dumps(value, ensure_ascii=False)}'
        for key, value in (("category", choices.category), ("run", choices.run))
    )
    lines = ",\n".join(f"  {json.dumps(to_json(choice))}" for choice in choices.choices)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, f'{{{head},\n "choices": [\n{lines}\n]}}\n')


def to_json(choice: Choice) -> dict[str, Any]:
    """Return a choice as an entry of the file."""
    if isinstance(choice, Merge):
        return {"merge": list(choice.classes)}
    return {"split": choice.number}


def read_choices(path: Path) -> Choices:
    """Read a file of choices; raise `ConfigError`, with file and entry, if it is not valid."""
    category, run, entries = read_download(path, "choices", LARGEST_FILE)
    return Choices(category, run, parse_choices(path, entries))


def parse_choices(path: Path, entries: Sequence[object]) -> tuple[Choice, ...]:
    """Return the choices of entries of a file; raise `ConfigError` for one that is none."""
    return tuple(_choice(path, i, entry) for i, entry in enumerate(entries))


def _choice(path: Path, i: int, entry: object) -> Choice:
    where = f"{path}: choices[{i}]"
    if isinstance(entry, Mapping) and set(entry) == {"merge"}:
        numbers = entry["merge"]
        if isinstance(numbers, Sequence) and all(_is_number(n) for n in numbers):
            return Merge(tuple(numbers))
    if isinstance(entry, Mapping) and set(entry) == {"split"} and _is_number(entry["split"]):
        return Split(entry["split"])
    raise ConfigError(f'{where}: must be {{"merge": [2, 5]}} or {{"split": 3}}, with class numbers')


def _is_number(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0

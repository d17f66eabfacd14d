"""Suggest a `manifest.part` from file names: several exposures or views of one thing.

Names tell it where a stem with a number is followed by a short counter or one of a few words
(`0012_1.png`, `0012_top.png`), or where numbered folders hold a few images each. Nothing is
opened, and nothing is applied unasked.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

_SUFFIX = r"(?:\d{1,2}|[A-Za-z]{1,10}\d{0,2})"
_WITH_FOLDER = rf"^(.+)[_\-. ]{_SUFFIX}\.\w+$"
_STEM = rf"([^/]+)[_\-. ]{_SUFFIX}\.\w+$"
_FOLDER = r"^(.*\d[^/]*)/[^/]+$"
_FEWEST_PARTS = 3
_FEWEST_FOLDERS = 10
_MOST_IMAGES = 24
_SHARE = 0.8
_EXAMPLES = 3


@dataclass(frozen=True)
class PartHint:
    """An expression for `manifest.part`, what it would group, and the files of one part."""

    expression: str
    n_parts: int
    n_images: int
    examples: tuple[str, ...]

    def sentence(self) -> str:
        """Return the suggestion for people to read."""
        return (
            f"names suggest {self.n_parts} parts of {self.n_images / self.n_parts:.1f} images each "
            f"({', '.join(self.examples)}, ...)"
        )

    def todo(self) -> str:
        """Return what to do, if the guess is right."""
        return f"if these are exposures or views of one thing: manifest.part: '{self.expression}'"


def suggest_parts(paths: Sequence[str], *, label_folders: bool) -> PartHint | None:
    """Return a hint if nearly all `paths` fall into small groups that look alike, else None.

    With `label_folders` a folder stands for a label or a split, and says nothing of a part.
    """
    suffixed = _groups(paths, _STEM)
    expression = _STEM
    if _collide(suffixed):
        suffixed, expression = _groups(paths, _WITH_FOLDER), _WITH_FOLDER
    if _regular(suffixed, len(paths), _FEWEST_PARTS) and _few_suffixes(suffixed):
        return _hint(expression, suffixed)
    folders = {} if label_folders else _groups(paths, _FOLDER)
    if _regular(folders, len(paths), _FEWEST_FOLDERS):
        return _hint(_FOLDER, folders)
    return None


def _groups(paths: Sequence[str], expression: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = defaultdict(list)
    pattern = re.compile(expression)
    for path in paths:
        match = pattern.search(path)
        if match:
            found[match.group(1)].append(path)
    return dict(found)


def _collide(groups: dict[str, list[str]]) -> bool:
    """Tell whether a name occurs in several folders: the same stem is another thing there."""
    names = [path.rsplit("/", 1)[-1] for members in groups.values() for path in members]
    return len(set(names)) < len(names)


def _regular(groups: dict[str, list[str]], n_images: int, fewest: int) -> bool:
    """Tell whether most images are in numbered groups of 2 to 24."""
    several = [m for stem, m in groups.items() if len(m) > 1 and re.search(r"\d", stem)]
    grouped = sum(len(members) for members in several)
    largest = max((len(members) for members in several), default=0)
    return len(several) >= fewest and grouped >= _SHARE * n_images and largest <= _MOST_IMAGES


def _few_suffixes(groups: dict[str, list[str]]) -> bool:
    endings = {path[path.rindex(stem) + len(stem) :] for stem, ms in groups.items() for path in ms}
    return len(endings) <= _MOST_IMAGES


def _hint(expression: str, groups: dict[str, list[str]]) -> PartHint:
    several = {stem: members for stem, members in groups.items() if len(members) > 1}
    first = sorted(several[min(several)])
    n_images = sum(len(members) for members in several.values())
    return PartHint(expression, len(several), n_images, tuple(first[:_EXAMPLES]))

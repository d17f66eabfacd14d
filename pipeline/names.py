"""Names that people give to discovered classes: names.yaml (an edge: it reads and writes it).

    metal:
      run: 0d3f5a1b2c4e     # the run whose classes these are; written by `anomalyncd name`
      3: scratch

A class has another number after the next training, so names of a `run` that is not the present one
are an error rather than a wrong name. Without `run`, as in a file edited by hand, they are taken as
they stand.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ruamel.yaml import YAML

from pipeline.artifacts import Layout, replacing
from pipeline.config import ConfigError
from pipeline.presets import read_yaml

NAMES = Path("names.yaml")
NORMAL = "normal"


@dataclass(frozen=True)
class ClassNames:
    """The names of one category's classes; class 0 is "normal" unless it has a name."""

    names: Mapping[int, str] = field(default_factory=dict)
    run: str | None = None

    def __getitem__(self, number: int) -> str:
        """Return the name of a class, "class 3" for one that has none."""
        default = NORMAL if number == 0 else f"class {number}"
        return self.names.get(int(number), default)


def run_of(layout: Layout, category: str) -> str:
    """Return what tells this run's classes from another's: 12 hex digits of regions.parquet."""
    path = layout.predict(category) / "regions.parquet"
    if not path.exists():
        raise ConfigError(f"{path} does not exist: run `dvc repro` first")
    return hashlib.sha256(path.read_bytes()).hexdigest()[:12]


def read_names(path: Path) -> dict[str, ClassNames]:
    """Return the names of every category; no file is no names.

    Raises `ConfigError` naming file and key for what is not a class number or not a name.
    """
    content = read_yaml(path) if path.exists() else None
    content = {} if content is None else content
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: must map categories to names, as `metal: {{3: scratch}}`")
    return {str(category): _category(path, category, of) for category, of in content.items()}


def names_for(path: Path, category: str, layout: Layout) -> ClassNames:
    """Return the names of a category's present classes; raise `ConfigError` for another run's."""
    names = read_names(path).get(category, ClassNames())
    if names.run is not None and names.run != run_of(layout, category):
        raise ConfigError(
            f"{path}: the names of {category} belong to an earlier run ({names.run}); look at the "
            f"report, name the classes again or remove `run` if they still fit"
        )
    return names


def set_name(path: Path, category: str, number: int, name: str, run: str) -> None:
    """Name a class of `run`, keeping what else the file holds; names of another run are dropped."""
    name = name.strip()
    if not name or number < 0:
        raise ConfigError(f"class {number} cannot be named {name!r}")
    every = read_names(path)
    kept = every.get(category, ClassNames())
    names = dict(kept.names) if kept.run in (None, run) else {}
    every[category] = ClassNames({**names, number: name}, run)
    content = {
        key: {**({} if of.run is None else {"run": of.run}), **dict(sorted(of.names.items()))}
        for key, of in every.items()
    }
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        YAML().dump(content, file)


def _category(path: Path, category: object, content: object) -> ClassNames:
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: {category}: must map class numbers to names")
    run = content.get("run")
    names = {}
    for key, name in content.items():
        if key == "run":
            continue
        if isinstance(key, bool) or not isinstance(key, int) or key < 0:
            raise ConfigError(f"{path}: {category}: {key!r} is not the number of a class")
        if not isinstance(name, str) or not name.strip():
            raise ConfigError(f"{path}: {category}.{key}: {name!r} is not a name")
        names[key] = name.strip()
    return ClassNames(names, None if run is None else str(run))

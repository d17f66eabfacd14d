"""Names that people give to discovered classes: names.yaml (an edge: it reads and writes it).

    metal:
      run: 0d3f5a1b2c4e     # the run whose classes these are; written by `anomalyncd name`
      3: scratch

A class may have another number, or other regions, after the next run, so names of a `run` that is
not the present one are an error rather than a wrong name. A run is which regions are in which
class, and nothing else: where those come out the same again, names stay. Without `run`, as in a
file edited by hand, they are taken as they stand.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap

from pipeline.config.params import ConfigError, read_yaml
from pipeline.io.files import free_path, replacing, write_text
from pipeline.io.paths import ArtifactPaths
from pipeline.io.region_table import read_regions
from pipeline.io.schemas import CROPS
from pipeline.io.tables import read_parquet

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


def run_of(paths: ArtifactPaths, category: str) -> str:
    """Return what tells this run's classes from another's: 12 hex digits.

    A hash of the crop_ids, their classes and their squares (where `crops.parquet` is there) in the
    order of the crop_ids. Confidences and embeddings have no part in it, so that names and
    corrections outlive a training after which the same regions are in the same classes. Raises
    `ConfigError` where nothing is predicted yet.
    """
    path = paths.predict(category) / "regions.parquet"
    if not path.exists():
        raise ConfigError(f"{path} does not exist: run `dvc repro` first")
    regions = read_regions(paths, category)
    table = regions[["crop_id", "class"]]
    cut = paths.crops(category) / "crops.parquet"
    if cut.exists():
        squares = read_parquet(cut, CROPS)[["crop_id", "x0", "y0", "side", "area_px"]]
        table = table.merge(squares, on="crop_id", how="left")
    lines = "".join(f"{row}\n" for row in sorted(table.to_numpy().tolist()))
    return hashlib.sha256(lines.encode()).hexdigest()[:12]


def read_names(path: Path) -> dict[str, ClassNames]:
    """Return the names of every category; no file is no names.

    Raises `ConfigError` naming file and key for what is not a class number or not a name.
    """
    content = read_yaml(path) if path.exists() else None
    content = {} if content is None else content
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: must map categories to names, as `metal: {{3: scratch}}`")
    return {str(category): _category(path, category, of) for category, of in content.items()}


def names_for(path: Path, category: str, paths: ArtifactPaths) -> ClassNames:
    """Return the names of a category's present classes; raise `ConfigError` for another run's."""
    names = read_names(path).get(category, ClassNames())
    problem = _problem(path, category, paths, names)
    if problem is not None:
        raise ConfigError(problem)
    return names


def names_or_numbers(
    path: Path, category: str, paths: ArtifactPaths
) -> tuple[ClassNames, tuple[str, ...]]:
    """Return the names of a category's present classes, or none and a note if they are another's.

    Raises `ConfigError` for a file that cannot be read.
    """
    names = read_names(path).get(category, ClassNames())
    problem = _problem(path, category, paths, names)
    if problem is not None:
        return ClassNames(), (f"Classes are shown by number: {problem}",)
    return names, ()


def _problem(path: Path, category: str, paths: ArtifactPaths, names: ClassNames) -> str | None:
    """Say that names belong to another run and what to do; None if they do not."""
    if names.run is None or names.run == run_of(paths, category):
        return None
    return (
        f"{path}: the names of {category} belong to an earlier run ({names.run}); look at the "
        f"report, name the classes again or remove `run` if they still fit"
    )


def set_name(path: Path, category: str, number: int, name: str, run: str) -> Path | None:
    """Name a class of `run`; what else the file holds stays, with its comments and its order.

    Names that the category has of another run are dropped. The file with them is kept beside, and
    its path is returned. Raises `ConfigError` for what is not a name and a file that is not valid.
    """
    name = name.strip()
    if not _is_name(name) or number < 0:
        raise ConfigError(f"class {number} cannot be named {name!r}: give one line of text")
    before = read_names(path).get(category, ClassNames())
    yaml = YAML()
    yaml.preserve_quotes, yaml.width = True, 4096
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    content = yaml.load(text)
    if content is None:  # nothing but comments, which no mapping would carry
        head, content = text, CommentedMap()
    else:
        head = ""
    key = next((key for key in content if str(key) == category), category)
    kept = None
    if before.run not in (None, run) and before.names:
        kept = free_path(path.with_name(f"{path.name}.old"))
        write_text(kept, text)
        content[key] = CommentedMap()
    _put(content, key, number, name, run)
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.write(head if not head or head.endswith("\n") else f"{head}\n")
        yaml.dump(content, file)
    return kept


def _put(content: CommentedMap, key: object, number: int, name: str, run: str) -> None:
    """Set a name and the run in a category's mapping, the run first and numbers in their order."""
    names = content.setdefault(key, CommentedMap())
    if "run" in names:
        names["run"] = run
    else:
        names.insert(0, "run", run)
    if number in names:
        names[number] = name
        return
    below = [i for i, k in enumerate(names) if k == "run" or k < number]
    names.insert(max(below) + 1, number, name)


def _is_name(name: str) -> bool:
    """Tell whether a name is one line without control characters, as corrections have them."""
    return bool(name) and name.isprintable()


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
        if not isinstance(name, str) or not _is_name(name.strip()):
            raise ConfigError(f"{path}: {category}.{key}: {name!r} is not a name, one line of text")
        names[key] = name.strip()
    return ClassNames(names, None if run is None else str(run))

"""Names of discovered classes, in names.yaml.

    metal:
      run: 0d3f5a1b2c4e     # the run whose classes these are; written by `anomalyncd name`
      3: scratch

Later runs give their classes the numbers of these (`pipeline.curation.identity`); names of another
`run` that were not compared with it are an error. The run id depends only on the regions and their
classes: if both stay the same, names stay valid. Names without `run`, as in a file edited by hand,
are always used.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap

from pipeline.config.reading import read_yaml
from pipeline.config.section import ConfigError
from pipeline.io.class_tree import has_tree, moved_classes, read_start
from pipeline.io.files import free_path, replacing, write_text
from pipeline.io.paths import ArtifactPaths
from pipeline.io.region_table import read_predicted
from pipeline.io.schemas import CROPS
from pipeline.io.tables import read_metadata, read_parquet

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
    """Return the run id: a 12-digit hash of each region's id, class and square.

    Classes are those of `predict`: names stay when people merge and split classes. Squares count if
    `crops.parquet` exists; the order of the regions, confidences and embeddings do not. So names
    and corrections stay valid after a training that gives the same classes. Raises `ConfigError` if
    nothing is predicted yet.
    """
    path = paths.predict(category) / "regions.parquet"
    if not path.exists():
        raise ConfigError(f"{path} does not exist: run `dvc repro` first")
    regions = read_predicted(paths, category)
    table = regions[["crop_id", "class"]]
    cut = paths.crops(category) / "crops.parquet"
    if cut.exists():
        squares = read_parquet(cut, CROPS)[["crop_id", "x0", "y0", "side", "area_px"]]
        table = table.merge(squares, on="crop_id", how="left")
    lines = "".join(f"{row}\n" for row in sorted(table.to_numpy().tolist()))
    return hashlib.sha256(lines.encode()).hexdigest()[:12]


def read_names(path: Path) -> dict[str, ClassNames]:
    """Read the names of every category; none if there is no file.

    Raises `ConfigError`, with file and key, for anything but class numbers and names.
    """
    content = read_yaml(path) if path.exists() else None
    content = {} if content is None else content
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: must map categories to names, as `metal: {{3: scratch}}`")
    return {str(category): _category(path, category, names) for category, names in content.items()}


def names_for(path: Path, category: str, paths: ArtifactPaths) -> ClassNames:
    """Return the class names of a category; raise `ConfigError` if they are of another run."""
    names = read_names(path).get(category, ClassNames())
    problem = _problem(path, category, paths, names)
    if problem is None:
        return _with_taught(names, category, paths, own=True)[0]
    carried = carried_names(category, paths, names)
    if carried is None:
        raise ConfigError(problem)
    return _with_taught(carried[0], category, paths, own=False)[0]


def names_or_numbers(
    path: Path, category: str, paths: ArtifactPaths
) -> tuple[ClassNames, tuple[str, ...]]:
    """Return the class names of a category; none and a note if they are of another run.

    Raises `ConfigError` for an unreadable file.
    """
    names = read_names(path).get(category, ClassNames())
    problem = _problem(path, category, paths, names)
    if problem is not None:
        carried = carried_names(category, paths, names)
        if carried is not None:
            found, notes = _with_taught(carried[0], category, paths, own=False)
            return found, (*carried[1], *notes)
        known, _ = _with_taught(ClassNames(), category, paths, own=False)
        return known, (f"Classes are shown by number: {problem}",)
    return _with_taught(names, category, paths, own=True)


def _with_taught(
    names: ClassNames, category: str, paths: ArtifactPaths, *, own: bool
) -> tuple[ClassNames, tuple[str, ...]]:
    """Return the names with those of classes that people taught by examples, and notes.

    Names given in this run (`own`) count more than those of examples; names carried over from an
    earlier one count less, and a note says where such a name went.
    """
    taught = taught_names(paths, category)
    if not taught:
        return names, ()
    if own:
        return ClassNames({**taught, **names.names}, names.run), ()
    where = {name: number for number, name in taught.items()}
    kept, notes = dict(taught), []
    for number, name in names.names.items():
        if number in taught:
            if taught[number] != name:
                notes.append(f"Class {number} was {name}, and is {taught[number]} by the examples.")
        elif name in where:
            notes.append(f"Class {number} was {name}; by the examples class {where[name]} is now.")
        else:
            kept[number] = name
    return ClassNames(kept, names.run), tuple(notes)


def taught_names(paths: ArtifactPaths, category: str) -> dict[int, str]:
    """Return the names of the classes that people taught by examples, by number."""
    path = paths.predict(category) / "regions.parquet"
    if not path.exists():
        return {}
    taught = read_metadata(path).get("taught")
    if not taught:
        return {}
    numbers = {int(number): str(name) for number, name in taught["names"].items()}
    if not has_tree(paths, category):
        return numbers
    start, moved = read_start(paths, category).numbers, moved_classes(paths, category)
    at = {start[number]: name for number, name in numbers.items() if number < len(start)}
    return {number: name for number, name in at.items() if number not in moved}


def carried_names(
    category: str, paths: ArtifactPaths, names: ClassNames
) -> tuple[ClassNames, tuple[str, ...]] | None:
    """Return names of an earlier run on the classes that have their numbers now, and notes.

    The notes say what became of the classes. None if the stage `shape` did not compare the classes
    with those of that run.
    """
    if names.run is None or not has_tree(paths, category):
        return None
    identity = read_start(paths, category).identity
    if identity is None or identity["run"] != names.run:
        return None
    fates = identity["fates"]
    passed = {f["number"] for f in fates if f["fate"] in _PASSED and f["other"] is None} | {0}
    kept = {number: name for number, name in names.names.items() if number in passed}
    notes = [f"{category}: classes have numbers and names of run {names.run} (history.parquet)."]
    notes += [_sentence(f, names) for f in fates if f["fate"] != "kept"]
    return ClassNames(kept, run_of(paths, category)), tuple(notes)


_PASSED = ("kept", "split", "merged")


def _sentence(fate: Mapping[str, Any], names: ClassNames) -> str:
    """Return what became of a class, or where it came from."""
    number, other, shared = fate["number"], fate["other"], fate["shared"]
    before, now = fate["before"], fate["now"]
    label = f"class {number}" + (f" ({names.names[number]})" if number in names.names else "")
    if fate["fate"] == "new":
        return f"New: {label}, of {now} regions."
    if fate["fate"] == "gone":
        return f"Gone: {label}; no class has most of its {before} regions."
    if other is None:
        done = "Split" if fate["fate"] == "split" else "Joined by others"
        return f"{done}: {label} has {shared} of its {before} regions, and {now} in all."
    if fate["fate"] == "merged":
        return f"Merged: {shared} of {before} regions of {label} are in class {other} now."
    return f"Split: {label} has {shared} of its {now} regions from class {other}."


def _problem(path: Path, category: str, paths: ArtifactPaths, names: ClassNames) -> str | None:
    """Return a message if the names are of another run, else None."""
    if names.run is None or names.run == run_of(paths, category):
        return None
    return (
        f"{path}: the names of {category} are of an earlier run ({names.run}); check the report, "
        f"then name the classes again, or remove `run` if the names still fit"
    )


def set_name(
    path: Path,
    category: str,
    number: int,
    name: str,
    run: str,
    carried: Mapping[int, str] | None = None,
) -> Path | None:
    """Name a class in names.yaml; comments and order of the file stay.

    Parameters
    ----------
    path
        The file; it need not exist.
    number, name
        The class and its name, one line of text.
    run
        The run id. Names of the category from another run are dropped.
    carried
        Names of another run that stay (`carried_names`).

    Returns
    -------
    The copy of the old file, if names were dropped; else None.

    Raises
    ------
    ConfigError
        `name` is not one line of text, `number` is negative, or the file is not valid.
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
        for old, text_of in (carried or {}).items():
            _put(content, key, old, text_of, run)
    _put(content, key, number, name, run)
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.write(head if not head or head.endswith("\n") else f"{head}\n")
        yaml.dump(content, file)
    return kept


def _put(content: CommentedMap, key: object, number: int, name: str, run: str) -> None:
    """Set a name and the run in a category's mapping: the run first, then numbers in order."""
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
    """Tell whether a name is one line of text without control characters."""
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
            raise ConfigError(f"{path}: {category}: {key!r} is not a class number")
        if not isinstance(name, str) or not _is_name(name.strip()):
            raise ConfigError(f"{path}: {category}.{key}: {name!r} is not a name, one line of text")
        names[key] = name.strip()
    return ClassNames(names, None if run is None else str(run))

"""The tree of a run's classes and what people made of it, on disk: tree.json, tree.safetensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from pipeline.clustering.class_choices import ShapedClasses
from pipeline.clustering.class_tree import ClassTree
from pipeline.io.paths import ArtifactError, ArtifactPaths, damaged
from pipeline.io.stored import (
    NONE,
    check_fields,
    check_sha256,
    read_object,
    read_tensors,
    sha256_of,
    write_tensors,
)
from pipeline.io.tables import write_json

JSON, TENSORS = "tree.json", "tree.safetensors"
_FIELDS = {
    "sha256": (str,),
    "regions_sha256": (str,),
    "n_classes": (int,),
    "nodes": (list,),
    "moved": (dict,),
    "numbers": (list,),
    "n_numbers": (int,),
    "identity": (dict, NONE),
    "choices": (list,),
}


_MOST = 10**6
"""No category has so many class numbers: more are a damaged file, and would fill the memory."""

_FATE = {
    "number": (int,),
    "fate": (str,),
    "other": (int, NONE),
    "before": (int,),
    "now": (int,),
    "shared": (int,),
}


@dataclass(frozen=True)
class Start:
    """`numbers` of the classes of the run before any choice, out of `n_numbers`.

    `identity` is null, or the earlier `run` that gave them their numbers, and the `fates` of the
    classes (rows of history.parquet).
    """

    numbers: Sequence[int]
    n_numbers: int
    identity: Mapping[str, Any] | None = None


def save_tree(
    folder: Path,
    shaped: ShapedClasses,
    start: Start,
    choices: list[dict[str, Any]],
    regions: Path,
) -> None:
    """Write tree and classes of the fine clusters; `regions` is the table they were made from."""
    tree = shaped.tree
    tensors: dict[str, NDArray[Any]] = {"centres": tree.centres, "owners": tree.owners}
    write_tensors(folder / TENSORS, tensors | {"sizes": tree.sizes, "members": shaped.members})
    nodes = [[a, b, round(h, 6)] for (a, b), h in zip(tree.nodes, tree.heights, strict=True)]
    content = {
        "sha256": sha256_of(folder / TENSORS),
        "regions_sha256": sha256_of(regions),
        "n_classes": shaped.n_classes,
        "moved": {str(number): into for number, into in shaped.moved.items()},
        "numbers": list(start.numbers),
        "n_numbers": start.n_numbers,
        "identity": start.identity,
        "choices": choices,
        "nodes": nodes,
    }
    write_json(folder / JSON, content)


def has_tree(paths: ArtifactPaths, category: str) -> bool:
    """Tell whether the stage `shape` has run."""
    return (paths.shape(category) / JSON).exists()


def read_tree(paths: ArtifactPaths, category: str) -> tuple[ShapedClasses, list[dict[str, Any]]]:
    """Return the shaped classes of a category and the choices that were applied.

    Raises `ArtifactError` if a file is missing or damaged, or of other regions than those of the
    stage `predict`.
    """
    folder = paths.shape(category)
    content = read_object(folder / JSON, _FIELDS)
    check_tree(paths, category, content["regions_sha256"])
    tensors = read_tensors(folder / TENSORS, ("centres", "owners", "sizes", "members"))
    check_sha256(folder / TENSORS, content["sha256"], folder / JSON)
    rows = _nodes(folder / JSON, content["nodes"], len(tensors["owners"]))
    tree = ClassTree(
        tensors["centres"],
        tensors["owners"],
        tensors["sizes"],
        [(a, b) for a, b, _ in rows],
        [h for _, _, h in rows],
    )
    n_classes, own = content["n_classes"], len(content["numbers"])
    if own != tree.n_classes:
        raise damaged(folder / JSON, f"has {own} numbers for {tree.n_classes} classes")
    if not tensors["members"].max(initial=0) < n_classes <= _MOST:
        raise damaged(folder / JSON, f"the key 'n_classes' is {n_classes}")
    moved = _moved(folder / JSON, content["moved"])
    shaped = ShapedClasses(tree, tensors["members"], n_classes, moved)
    return shaped, content["choices"]


def _nodes(path: Path, rows: list[Any], n_leaves: int) -> list[tuple[int, int, float]]:
    """Return the nodes; raise `ArtifactError` unless each joins two that none before has joined."""
    free = set(range(n_leaves))
    try:
        nodes = [(int(a), int(b), float(h)) for a, b, h in rows]
        for node, (a, b, _) in enumerate(nodes, start=n_leaves):
            free.remove(a)
            free.remove(b)
            free.add(node)
    except (KeyError, OverflowError, TypeError, ValueError) as error:
        raise damaged(path, f"the key 'nodes' is no tree ({error})") from None
    if len(free) > 1:
        raise damaged(path, f"the key 'nodes' is no tree: {len(free)} parts are not joined")
    return nodes


def _moved(path: Path, content: Mapping[str, Any]) -> dict[int, int]:
    try:
        return {int(number): int(into) for number, into in content.items()}
    except (TypeError, ValueError) as error:
        raise damaged(path, f"the key 'moved' is not of class numbers ({error})") from None


def check_numbers(path: Path, numbers: object, n_numbers: object) -> list[int]:
    """Return class numbers of a file; raise `ArtifactError` unless they are different ones.

    Class 0 comes first, and all are below `n_numbers`.
    """
    if type(n_numbers) is not int or not 0 < n_numbers <= _MOST:
        raise damaged(path, f"the key 'n_numbers' is {n_numbers!r}, not a number of classes")
    right = (
        isinstance(numbers, list)
        and all(type(k) is int and 0 <= k < n_numbers for k in numbers)
        and len(set(numbers)) == len(numbers)
        and numbers[:1] == [0]
    )
    if not (right and isinstance(numbers, list)):
        raise damaged(path, f"the key 'numbers' is {numbers!r}, not the numbers of the classes")
    return numbers


def read_start(paths: ArtifactPaths, category: str) -> Start:
    """Return the numbers of the classes before any choice, and where they come from."""
    path = paths.shape(category) / JSON
    content = read_object(path, _FIELDS)
    numbers = check_numbers(path, content["numbers"], content["n_numbers"])
    identity = content["identity"]
    if identity is not None:
        check_fields(path, identity, {"run": (str,), "fates": (list,)})
        for fate in identity["fates"]:
            check_fields(path, fate, _FATE)
    return Start(numbers, content["n_numbers"], identity)


def moved_classes(paths: ArtifactPaths, category: str) -> dict[int, int]:
    """Return the numbers that were merged into another class, and into which."""
    if not has_tree(paths, category):
        return {}
    path = paths.shape(category) / JSON
    return _moved(path, read_object(path, _FIELDS)["moved"])


def check_tree(paths: ArtifactPaths, category: str, made_from: str | None = None) -> None:
    """Raise `ArtifactError` unless the stage `shape` saw the regions that there are now."""
    folder = paths.shape(category)
    if made_from is None:
        made_from = read_object(folder / JSON, _FIELDS)["regions_sha256"]
    if sha256_of(paths.predict(category) / "regions.parquet") != made_from:
        raise ArtifactError(
            f"{folder}: made from other regions; run the stage 'shape' again (or `dvc repro`)"
        )

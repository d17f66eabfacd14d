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
    try:
        rows = [(int(a), int(b), float(h)) for a, b, h in content["nodes"]]
    except (TypeError, ValueError) as error:
        raise damaged(folder / JSON, f"the key 'nodes' is no tree ({error})") from None
    tree = ClassTree(
        tensors["centres"],
        tensors["owners"],
        tensors["sizes"],
        [(a, b) for a, b, _ in rows],
        [h for _, _, h in rows],
    )
    moved = {int(number): int(into) for number, into in content["moved"].items()}
    shaped = ShapedClasses(tree, tensors["members"], content["n_classes"], moved)
    return shaped, content["choices"]


def read_start(paths: ArtifactPaths, category: str) -> Start:
    """Return the numbers of the classes before any choice, and where they come from."""
    path = paths.shape(category) / JSON
    content = read_object(path, _FIELDS)
    numbers, identity = content["numbers"], content["identity"]
    if any(type(number) is not int for number in numbers):
        raise damaged(path, f"the key 'numbers' is {numbers}, not a list of integers")
    if identity is not None:
        check_fields(path, identity, {"run": (str,), "fates": (list,)})
    return Start(numbers, content["n_numbers"], identity)


def moved_classes(paths: ArtifactPaths, category: str) -> dict[int, int]:
    """Return the numbers that were merged into another class, and into which."""
    if not has_tree(paths, category):
        return {}
    moved = read_object(paths.shape(category) / JSON, _FIELDS)["moved"]
    return {int(number): int(into) for number, into in moved.items()}


def check_tree(paths: ArtifactPaths, category: str, made_from: str | None = None) -> None:
    """Raise `ArtifactError` unless the stage `shape` saw the regions that there are now."""
    folder = paths.shape(category)
    if made_from is None:
        made_from = read_object(folder / JSON, _FIELDS)["regions_sha256"]
    if sha256_of(paths.predict(category) / "regions.parquet") != made_from:
        raise ArtifactError(
            f"{folder}: made from other regions; run the stage 'shape' again (or `dvc repro`)"
        )

"""JSON objects and tensors that are checked when read, and the hashes that tie files together.

A truncated, empty, foreign or outdated file is an `ArtifactError` that names it and the stage to
run.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ValidationError
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from pipeline.io.files import FREE, replacing
from pipeline.io.paths import ArtifactError, damaged, missing
from pipeline.io.tables import read_json

Fields = Mapping[str, tuple[type, ...]]
NUMBER = (int, float)
NONE = type(None)

_Section = TypeVar("_Section", bound=BaseModel)


def read_object(path: Path, fields: Fields) -> dict[str, Any]:
    """Read a JSON object and check `fields`: each key, `a.b` for one inside another, and its types.

    Booleans, NaN and infinity are not numbers. Other keys are allowed.
    """
    content = read_json(path)
    if not isinstance(content, dict):
        raise damaged(path, f"holds {_shown(content)}, not an object")
    check_fields(path, content, fields)
    return content


def check_fields(path: Path, content: Mapping[str, Any], fields: Fields) -> None:
    """Check `fields` of what the file at `path` holds, as `read_object` does."""
    for key, kinds in fields.items():
        value: Any = content
        for part in key.split("."):
            if not isinstance(value, Mapping) or part not in value:
                raise damaged(path, f"the key {key!r} is missing")
            value = value[part]
        if not _is_one_of(value, kinds):
            expected = " or ".join(_NAMES.get(kind, kind.__name__) for kind in kinds)
            raise damaged(path, f"the key {key!r} is {_shown(value)}, not {expected}")


_NAMES: dict[type, str] = {
    int: "an integer",
    float: "a number",
    str: "text",
    dict: "an object",
    list: "a list",
    NONE: "null",
}


def _is_one_of(value: object, kinds: tuple[type, ...]) -> bool:
    if isinstance(value, bool):
        return bool in kinds
    return isinstance(value, kinds) and not (isinstance(value, float) and not math.isfinite(value))


def _shown(value: object) -> str:
    if isinstance(value, dict | list):
        return _NAMES[type(value)]
    return repr(value)


def parse_stored(path: Path, key: str, section: type[_Section], content: object) -> _Section:
    """Parse parameters that the file at `path` holds under `key`."""
    try:
        return section.model_validate(content)
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(str(part) for part in (key, *problem["loc"]))
        raise damaged(path, f"{where}: {problem['msg']}") from None


def write_tensors(path: Path, tensors: Mapping[str, NDArray[Any]]) -> None:
    """Write a .safetensors file; a full disk is an `ArtifactError`."""
    try:
        with replacing(path) as temporary:
            save_file({k: np.ascontiguousarray(v) for k, v in tensors.items()}, temporary)
    except SafetensorError as error:
        raise ArtifactError(f"{path.name} could not be written ({error}); {FREE}") from error


def read_tensors(path: Path, names: Iterable[str] = ()) -> dict[str, NDArray[Any]]:
    """Return the tensors of a .safetensors file, `names` among them."""
    if not path.exists():
        raise missing(path)
    try:
        tensors: dict[str, NDArray[Any]] = load_file(path)
    except (SafetensorError, OSError, TypeError) as error:  # TypeError: a dtype NumPy lacks
        raise damaged(path, f"not a readable safetensors file ({error})") from error
    lacking = [name for name in names if name not in tensors]
    if lacking:
        raise damaged(path, f"lacks the tensors {', '.join(lacking)}")
    return tensors


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file in hex digits."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        raise missing(path) from None


def check_sha256(path: Path, expected: object, by: Path) -> None:
    """Raise unless `path` has the hash stored in `by`; None, of an older file, is not checked."""
    if expected is not None and sha256_of(path) != expected:
        raise damaged(path, f"not the file that {by} was written with")

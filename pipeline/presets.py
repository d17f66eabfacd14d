"""Partial parameter files, as overrides for `dvc exp run -S` (an edge: it reads them)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from pipeline.config import ConfigError, Params, parse_params

_PLAIN = re.compile(r"[\w./:+-]+", re.ASCII)


def read_preset(path: Path) -> dict[str, Any]:
    """Read a file that holds some sections and keys of params.yaml; raise `ConfigError`.

    The keys and values must be possible ones beside the defaults of all others.
    """
    try:
        with path.open(encoding="utf-8") as file:
            content = YAML(typ="safe", pure=True).load(file)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from error
    except YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML ({error})") from error
    content = {} if content is None else content
    parse_params(content, source=str(path))
    return dict(content)


def flatten(content: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (dotted key, value) of nested mappings."""
    for key, value in content.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def nest(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Undo `flatten`."""
    nested: dict[str, Any] = {}
    for key, value in flat.items():
        *parents, last = key.split(".")
        level = nested
        for parent in parents:
            level = level.setdefault(parent, {})
        level[last] = value
    return nested


def with_overrides(params: Params, flat: Mapping[str, Any]) -> Params:
    """Return `params` with some keys, dotted, replaced; raise `ConfigError` as `parse_params`."""
    merged = params.model_dump(mode="python", by_alias=True)
    for key, value in flat.items():
        *parents, last = key.split(".")
        level = merged
        for parent in parents:
            found = level.get(parent)
            if not isinstance(found, dict):
                raise ConfigError(f"{key}: unknown key")
            level = found
        level[last] = value
    return parse_params(merged, source="overrides")


def as_override(key: str, value: object) -> str:
    """Return `key=value` in the grammar of `dvc exp run -S`, free of anything a shell would split.

    Raises `ConfigError` for a string with blanks or other characters that would need quotes.
    """
    return f"{key}={_literal(key, value)}"


def _literal(key: str, value: object) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, list):
        return "[" + ",".join(_literal(key, item) for item in value) + "]"
    text = str(value)
    if not _PLAIN.fullmatch(text):
        raise ConfigError(
            f"{key}: {text!r} would need quotes in a shell; pass it with `dvc exp run -S` by hand"
        )
    return text

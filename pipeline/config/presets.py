"""Partial parameter files, as overrides for `dvc exp run -S`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.config.params import Params
from pipeline.config.reading import parse_params, read_yaml
from pipeline.config.section import ConfigError
from pipeline.config.validation import unknown_key

_PLAIN = re.compile(r"[A-Za-z0-9_./:+-]+")
_TYPED = re.compile(r"true|false|null|[+-]?(inf|nan|[\d_.]+(e[+-]?[\d_]+)?)", re.IGNORECASE)


def read_preset(path: Path) -> dict[str, Any]:
    """Return `section.key` and value of a file that holds a part of params.yaml.

    They have to be possible beside the defaults of all other keys, or it is a `ConfigError`.
    """
    content = read_yaml(path)
    content = {} if content is None else content
    parse_params(content, source=str(path))
    assert isinstance(content, dict)  # parse_params has seen to it
    return {
        f"{section}.{key}": value
        for section, keys in content.items()
        for key, value in keys.items()
    }


def preset_options(path: Path) -> str:
    """Return a preset as `-S section.key=value ...`; raise `ConfigError` naming file and key."""
    overrides = read_preset(path)
    try:
        return " ".join(f"-S {as_override(key, value)}" for key, value in overrides.items())
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def with_overrides(params: Params, overrides: Mapping[str, Any]) -> Params:
    """Return `params` with some `section.key` replaced; raise `ConfigError` as `parse_params`.

    A mapping is merged into the mapping that is there, as `dvc exp run -S` does it.
    """
    merged = params.model_dump(by_alias=True)
    for name, value in overrides.items():
        section, _, key = name.partition(".")
        if key not in merged.get(section, {}):
            raise ConfigError(unknown_key(name))
        old = merged[section][key]
        both = isinstance(old, dict) and isinstance(value, dict)
        merged[section][key] = {**old, **value} if both else value
    return parse_params(merged, source="overrides")


def as_override(key: str, value: object) -> str:
    """Return `key=value` in the grammar of `dvc exp run -S`, free of what a shell would split.

    Raises `ConfigError` for a string that would need quotes, be it for the shell or because the
    grammar takes it for a number, a truth value or null.
    """
    return f"{key}={_literal(key, value)}"


def _literal(key: str, value: object) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, list):
        return "[" + ",".join(_literal(key, item) for item in value) + "]"
    if isinstance(value, Mapping):
        pairs = (f"{_text(key, name)}:{_literal(key, item)}" for name, item in value.items())
        return "{" + ",".join(pairs) + "}"
    return _text(key, value)


def _text(key: str, value: object) -> str:
    text = str(value)
    if not _PLAIN.fullmatch(text) or _TYPED.fullmatch(text):
        raise ConfigError(f"{key}: {text!r} would need quotes; give it to `dvc exp run -S` by hand")
    return text

"""Edit params.yaml: comments and order stay, and the old file is kept."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.representer import RoundTripRepresenter

import pipeline
from pipeline.config.params import Params
from pipeline.config.reading import load_params, parse_params
from pipeline.config.section import ConfigError
from pipeline.io.files import free_path, replacing, write_text

SHIPPED = Path(pipeline.__path__[0]).parent / "params.yaml"


class _WithNull(RoundTripRepresenter):
    """Writes None as `null`, as the shipped file does, not as nothing."""


_WithNull.add_representer(
    type(None), lambda self, _: self.represent_scalar("tag:yaml.org,2002:null", "null")
)


def template(path: Path) -> str:
    """Return params.yaml, or the packaged default if there is none."""
    for source in (path, SHIPPED):
        if source.is_file():
            load_params(source)  # a broken file is an error that names the key
            return source.read_text(encoding="utf-8")
    raise ConfigError(f"{path} does not exist: run inside a project folder or pass --params")


def changed(text: str, values: Mapping[str, Any]) -> str:
    """Return YAML `text` with each `section.key` of `values` set; `ConfigError` if invalid."""
    yaml = YAML()
    yaml.width = 4096
    yaml.Representer = _WithNull
    content = yaml.load(text)
    for name, value in values.items():
        section, _, key = name.partition(".")
        node = content.setdefault(section, {})
        old = node.get(key)
        if isinstance(old, list) and isinstance(value, list):
            old[:] = value  # keeps the brackets
        else:
            node[key] = value
    out = io.StringIO()
    yaml.dump(content, out)
    parse_params(YAML(typ="safe", pure=True).load(out.getvalue()), source="params")
    return out.getvalue()


def write_params(path: Path, text: str) -> Path | None:
    """Write params.yaml; keep the old file beside it unless all its values are defaults.

    Returns
    -------
    Where the old file is kept, or None if nothing had to be.
    """
    if path.exists() and path.read_text(encoding="utf-8") == text:
        return None
    kept = None
    if not _is_default(path):
        kept = free_path(path.with_name(f"{path.name}.old"))
        with replacing(kept) as temporary:
            temporary.write_bytes(path.read_bytes())
    write_text(path, text)
    return kept


def _is_default(path: Path) -> bool:
    """Tell whether `path` is missing or sets nothing."""
    if not path.exists():
        return True
    try:
        return load_params(path) == Params()
    except ConfigError:
        return False

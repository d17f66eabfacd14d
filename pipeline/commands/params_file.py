"""params.yaml changed in place: comments and order stay, and nothing that was set is lost."""

from __future__ import annotations

import io
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.representer import RoundTripRepresenter

import pipeline
from pipeline.config.params import ConfigError, Params, load_params, parse_params
from pipeline.io.files import free_path, replacing, write_text

SHIPPED = Path(pipeline.__path__[0]).parent / "params.yaml"


class _WithNull(RoundTripRepresenter):
    """Writes None as `null`, as the shipped file does, not as nothing."""


_WithNull.add_representer(
    type(None), lambda self, _: self.represent_scalar("tag:yaml.org,2002:null", "null")
)


def template(path: Path) -> str:
    """Return the file to start from: the one that is there, or else the one that came along."""
    for source in (path, SHIPPED):
        if source.is_file():
            load_params(source)  # a broken file is an error that names the key
            return source.read_text(encoding="utf-8")
    raise ConfigError(f"{path} does not exist: run inside a project folder or pass --params")


def changed(text: str, values: Mapping[str, Any]) -> str:
    """Return YAML `text` with some `section.key` set; check that it is a possible params.yaml."""
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


def replaceable(path: Path) -> bool:
    """Tell whether nothing would be lost with `path`: all default, or as committed to git."""
    if not path.exists():
        return True
    try:
        if load_params(path) == Params():
            return True
    except ConfigError:
        return False
    done = subprocess.run(
        ["git", "show", f"HEAD:./{path.name}"],
        cwd=path.resolve().parent,
        capture_output=True,
        check=False,
        timeout=30,
    )
    return done.returncode == 0 and done.stdout == path.read_bytes()


def write_params(path: Path, text: str, *, force: bool) -> Path | None:
    """Write params.yaml; what it replaces is kept beside unless it is replaceable.

    Returns where the old one lies. Raises `ConfigError` unless `force` or `replaceable`.
    """
    if path.exists() and path.read_text(encoding="utf-8") == text:
        return None
    kept = None
    if not replaceable(path):
        if not force:
            raise ConfigError(
                f"{path} was changed and is not committed: commit it, or use --force (the old one "
                "is kept beside)"
            )
        kept = free_path(path.with_name(f"{path.name}.old"))
        with replacing(kept) as temporary:
            temporary.write_bytes(path.read_bytes())
    write_text(path, text)
    return kept

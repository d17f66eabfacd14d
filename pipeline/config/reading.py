"""Read params.yaml: every problem is a `ConfigError` that names section and key."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from pipeline.config.params import Params
from pipeline.config.section import ConfigError, Section
from pipeline.config.validation import explain
from pipeline.file_checks import file_problem

SectionT = TypeVar("SectionT", bound=Section)

LARGEST_YAML = 2**20
"""Bytes; params.yaml has about 20 kB, and names of 1000 classes 40 kB."""


def read_yaml(path: Path) -> object:
    """Return what a YAML 1.2 file holds; raise `ConfigError` if it cannot be read."""
    try:
        problem = file_problem(path, LARGEST_YAML)
        if problem is not None:
            raise ConfigError(f"{path}: {problem}")
        with path.open(encoding="utf-8") as file:
            content: object = YAML(typ="safe", pure=True).load(file)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 text: save as UTF-8") from error
    except RecursionError as error:
        raise ConfigError(f"{path}: nested too deeply") from error
    except (YAMLError, ValueError) as error:  # ValueError: numbers and dates out of range
        raise ConfigError(f"{path}: not valid YAML ({' '.join(str(error).split())})") from error
    return content


def load_params(path: Path = Path("params.yaml")) -> Params:
    """Read params.yaml (YAML 1.2, as DVC writes it) into `Params`; raise `ConfigError`."""
    if not path.exists():
        raise ConfigError(f"{path} does not exist: run inside a project folder or pass --params")
    content = read_yaml(path)
    return parse_params(content if content is not None else {}, source=str(path))


def parse_params(content: object, *, source: str = "params") -> Params:
    """Validate a mapping of sections; every problem is named by section and key."""
    return parse_section(Params, content, source=source)


def parse_section(kind: type[SectionT], content: object, *, source: str) -> SectionT:
    """Validate the keys of a section, or the sections of `Params`, as `parse_params` does."""
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        raise ConfigError(f"{source}: {explain(error, content)}") from None

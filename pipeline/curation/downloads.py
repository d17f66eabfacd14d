"""Read the files that the review page hands out: choices or corrections of a category."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.config.section import ConfigError
from pipeline.file_checks import file_problem


class Download(NamedTuple):
    """The category and the run that a file is about, and its entries, which are not checked yet."""

    category: str
    run: str
    entries: list[Any]


def read_download(path: Path, key: str, largest: int) -> Download:
    """Read a JSON file of category, run and the list `key`, of at most `largest` bytes.

    Raises `ConfigError`, with the file, if it is anything else, or holds a key twice.
    """
    try:
        problem = file_problem(path, largest)
        if problem is not None:
            raise ConfigError(f"{path}: {problem}")
        content = json.loads(path.read_text(encoding="utf-8-sig"), object_pairs_hook=_once)
    except ConfigError:
        raise
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 text: save as UTF-8") from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: not valid JSON ({error})") from error
    if not isinstance(content, dict) or set(content) != {"category", "run", key}:
        raise ConfigError(f"{path}: must hold category, run and {key}")
    category, run, entries = content["category"], content["run"], content[key]
    if not (isinstance(category, str) and isinstance(run, str) and isinstance(entries, list)):
        raise ConfigError(f"{path}: category and run must be strings, {key} a list")
    return Download(category, run, entries)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return a JSON object as a dictionary; raise ValueError for a repeated key."""
    content = dict(pairs)
    if len(content) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key {next(k for k in keys if keys.count(k) > 1)!r} stands twice")
    return content

"""What a stage takes of params.yaml, as its signature says."""

from __future__ import annotations

from collections.abc import Callable
from operator import attrgetter
from typing import get_type_hints

from pipeline.config.params import Params
from pipeline.config.section import Key

_SECTIONS = {field.annotation: name for name, field in Params.model_fields.items()}


def keys_of(function: Callable[..., object]) -> dict[str, str]:
    """Return the section or `section.key` of params.yaml that fills each parameter of a function.

    A parameter takes a section by its type (`options: Mebin`), all of them as `params: Params`
    (`*`), and a single key as `Annotated[int, Key("maps.seed")]`. Other types are left out.
    """
    found: dict[str, str] = {}
    for name, hint in get_type_hints(function, include_extras=True).items():
        keys = [note.name for note in getattr(hint, "__metadata__", ()) if isinstance(note, Key)]
        if keys:
            found[name] = keys[0]
        elif hint is Params:
            found[name] = "*"
        elif hint in _SECTIONS and name != "return":
            found[name] = _SECTIONS[hint]
    return found


def arguments(function: Callable[..., object], params: Params) -> dict[str, object]:
    """Return the arguments that `params` give to the parameters of a function, by their names."""
    return {
        name: params if key == "*" else attrgetter(key)(params)
        for name, key in keys_of(function).items()
    }

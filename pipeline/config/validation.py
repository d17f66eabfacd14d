"""Problems that pydantic finds, in one line that names section and key."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError

_LONGEST = 60
"""Characters of a value that are shown."""
_WHOLE = "the file"
MOVED = {
    "maps.memory_mb": "compute.memory_mb",
    "maps.precision": "compute.dtype",
    "maps.reweight": "maps.image_score",
    "mebin.threshold": "mebin.fixed_threshold",
    "mebin.thresholds": "mebin.n_thresholds",
    "train.augment": "views.augment",
    "train.classes": "classes.count",
    "train.device": "compute.device",
    "train.image_size": "views.image_size",
    "train.mask_layers": "views.mask_layers",
    "train.mask_on": "views.mask_on",
    "train.mask_threshold": "views.mask_threshold",
    "train.precision": "compute.dtype",
    "train.view_seed": "views.seed",
    "train.views": "views.count",
}
"""Keys of earlier versions, and what they are called now."""


def explain(error: ValidationError, content: object) -> str:
    """Return the problems of `content`, one for each key, separated by semicolons."""
    messages: dict[str, list[str]] = {}
    values: dict[str, object] = {}
    for problem in error.errors():
        key = _key(problem["loc"], content)
        messages.setdefault(key, []).append(problem["msg"])
        values[key] = problem.get("input")
    return "; ".join(_explain(key, found, values[key]) for key, found in messages.items())


def unknown_key(key: str) -> str:
    """Return the message about a key that does not exist (any more)."""
    return f"{key}: unknown key" + (f": it is {MOVED[key]} now" if key in MOVED else "")


def _key(location: tuple[int | str, ...], content: Any) -> str:
    """Return section and key, without what pydantic adds for each type of a union."""
    parts: list[str] = []
    for part in location:
        if isinstance(content, dict):
            inside = part in content
        else:
            inside = isinstance(content, list) and isinstance(part, int)
        if not inside:
            break
        content = content[part]
        parts.append(str(part))
    return ".".join(parts) or _WHOLE


def _explain(key: str, messages: list[str], value: object) -> str:
    if messages[0].startswith("Extra inputs"):
        return unknown_key(key)
    first, *others = [message.removeprefix("Value error, ") for message in messages]
    if key == _WHOLE and messages[0].startswith(
        "Value error"
    ):  # of several sections: it names them
        return first
    texts = [first, *(other.removeprefix("Input should be ") for other in others)]
    shown = "" if isinstance(value, dict | list) else f" (got {_shown(value)})"
    return f"{key}: {' or '.join(texts)}{shown}"


def _shown(value: object) -> str:
    try:
        text = repr(value)
    except ValueError:  # an integer of more digits than Python prints
        return "a number that is too long"
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."

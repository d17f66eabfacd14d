"""What the sections of params.yaml are made of: keys, types of values, and the error."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from pipeline.errors import AnomalyNCDError


class ConfigError(AnomalyNCDError):
    """params.yaml cannot be used; the message names the section and key."""


@dataclass(frozen=True)
class Key:
    """The key of params.yaml that fills a parameter: `seed: Annotated[int, Key("maps.seed")]`."""

    name: str


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    def to_json(self) -> dict[str, Any]:
        """Return keys and values as in params.yaml."""
        return self.model_dump(mode="json", by_alias=True)


MOST_CLASSES = 1000


def _path(text: str) -> str:
    if "\0" in os.fsencode(text).decode("latin-1"):
        raise ValueError("a path cannot hold the character NUL")
    return text


# Upper bounds stop mistakes before they take all memory; no real run comes near them.
Count = Annotated[int, Field(gt=0, le=100_000)]
CountOrZero = Annotated[int, Field(ge=0, le=100_000)]
Block = Annotated[int, Field(ge=0, le=1000)]
Side = Annotated[int, Field(gt=0, le=99)]
Extra = Annotated[int, Field(ge=0, le=MOST_CLASSES)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Unit = Annotated[float, Field(ge=0, le=1)]
PositiveFloat = Annotated[float, Field(gt=0, le=1e9)]
NotNegative = Annotated[float, Field(ge=0, le=1e9)]
FilePath = Annotated[str, AfterValidator(_path)]
Dtype = Literal["auto", "float32", "bfloat16"]
Classifier = Literal["mixture", "heads"]


LONGEST_CATEGORY = 150
"""Bytes: file systems take names of 255, and files and folders of a category have longer ones."""

CATEGORY_RULE = (
    "not the name of a folder, or not printable, or with one of / \\ @ or with - at its front, or "
    f"longer than {LONGEST_CATEGORY} bytes"
)


def is_category_name(name: str) -> bool:
    """Tell whether folders, DVC's stage names and its command lines can carry a category's name.

    Shell characters may be in it (DVC quotes them), but no line break: DVC runs a command line by
    line.
    """
    plain = name.isprintable() and not set(name) & set("/\\@") and not name.startswith("-")
    if len(name.encode("utf-8", "surrogateescape")) > LONGEST_CATEGORY:
        return False
    return plain and name not in {"", ".", ".."}

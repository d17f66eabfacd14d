"""The section compare."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import Field, field_validator

from pipeline.config.section import Count, Section

_METHOD = re.compile(r"[a-z][a-z0-9_]*")
_METHODS = (
    "floors",
    "anomaly_clustering",
    "uniformaly",
    "gcd_kmeans",
    "iic",
    "gatcluster",
    "scan",
    "uno",
    "gcd",
    "simgcd",
    "amend",
    "temi",
    "turtle",
    "protogcd",
    "cms",
    "blca",
)


class Compare(Section):
    """The comparison with other methods, on the same images and features."""

    methods: Annotated[list[str], Field(min_length=1)] = [*_METHODS]
    input: Annotated[list[Literal["whole", "crop", "patch"]], Field(min_length=1)] = [
        "whole",
        "crop",
        "patch",
    ]
    budget: Literal["equal", "official"] = "equal"
    seeds: Count = 5
    open: bool = False

    @field_validator("methods")
    @classmethod
    def _known(cls, names: list[str]) -> list[str]:
        for name in names:
            if not _METHOD.fullmatch(name):
                raise ValueError(f"{name!r} is no module of pipeline/peers")
        if len(set(names)) != len(names):
            raise ValueError("a method is listed twice")
        return names

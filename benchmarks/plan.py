"""tables.yaml as frozen models, and what has to be run for a table."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from pipeline.config.params import ConfigError, Params, read_yaml
from pipeline.config.presets import as_override, with_overrides
from pipeline.errors import AnomalyNCDError

FILE = Path(__file__).with_name("tables.yaml")
Classifier = Literal["heads", "mixture"]


class TablesError(AnomalyNCDError):
    """A table cannot be run; the message says why."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Row(_Part):
    """One row: what it overrides (None: nothing is run) and the paper's figures for it."""

    name: str
    set: dict[str, Any] | None = None
    mvtec: list[float] | None = None
    mtd: list[float] | None = None


class Table(_Part):
    """One table of the paper."""

    title: str
    figures: list[str] = ["nmi", "ari", "f1"]
    heads_only: bool = False
    rows: list[Row] = Field(min_length=1)

    @model_validator(mode="after")
    def _consistent(self) -> Table:
        for row in self.rows:
            for paper in (row.mvtec, row.mtd):
                if paper is not None and len(paper) != len(self.figures):
                    raise ValueError(f"row {row.name!r} needs {len(self.figures)} figures")
        if len({row.name for row in self.rows}) != len(self.rows):
            raise ValueError("a row is there twice")
        return self


class Tables(_Part):
    """The whole of tables.yaml."""

    data: dict[str, dict[str, Any]]
    common: dict[str, Any]
    tables: dict[int, Table]

    def table(self, number: int) -> Table:
        """Return a table by the paper's number."""
        if number not in self.tables:
            raise TablesError(f"there is no table {number}: use {_listed(self.tables)} or all")
        return self.tables[number]


@dataclass(frozen=True)
class Job:
    """One run: a row with a seed."""

    table: int
    data: str
    row: str
    seed: int
    category: str
    settings: str  # key=value ... of all rows
    overrides: str  # key=value ... of the row
    options: tuple[str, ...]  # key=value of everything, the seed too
    params: str  # digest of all parameters that the run sees


_CLASSIFIERS: dict[Classifier, dict[str, Any]] = {
    "heads": {"predict.classifier": "heads", "predict.normal": "none"},
    "mixture": {"predict.classifier": "mixture", "predict.normal": "scores"},
}


def load_tables(path: Path = FILE) -> Tables:
    """Read tables.yaml."""
    try:
        return Tables.model_validate(read_yaml(path))
    except ValidationError as error:
        raise TablesError(f"{path}: {error}") from error


def plan(
    tables: Tables,
    number: int,
    data: str,
    *,
    seeds: Sequence[int],
    params: Params,
    environment: Mapping[str, str],
    classifier: Classifier | None = None,
    extra: Mapping[str, Any] | None = None,
) -> list[Job]:
    """Return the runs of a table on a data set, seeds innermost; `extra` goes below the rows'."""
    table = tables.table(number)
    if data not in tables.data:
        raise TablesError(f"there is no data set {data!r}: use {_listed(tables.data)}")
    chosen = {} if classifier is None else _CLASSIFIERS[classifier]
    settings = {**tables.common, **tables.data[data], **chosen, **(extra or {})}
    if table.heads_only and settings.get("predict.classifier") != "heads":
        raise TablesError(
            f"table {number} ({table.title}) varies what the trained heads alone use: "
            "run it with --classifier heads"
        )
    jobs = []
    for row in table.rows:
        for seed in dict.fromkeys(seeds):
            if row.set is not None:
                seeded = {**settings, **row.set, "train.seed": seed, "predict.seed": seed}
                try:
                    jobs.append(
                        _job(
                            number, data, row, seed, settings, _expand(seeded, environment), params
                        )
                    )
                except ConfigError as error:
                    raise TablesError(f"table {number}, row {row.name!r}: {error}") from error
    return jobs


def _job(
    number: int,
    data: str,
    row: Row,
    seed: int,
    settings: Mapping[str, Any],
    everything: Mapping[str, Any],
    params: Params,
) -> Job:
    merged = with_overrides(params, everything)
    if len(merged.dataset.categories) != 1:
        raise TablesError("dataset.categories: a table is run on one category")
    return Job(
        table=number,
        data=data,
        row=row.name,
        seed=seed,
        category=merged.dataset.categories[0],
        settings=_shown(settings),
        overrides=_shown(row.set or {}),
        options=tuple(as_override(key, value) for key, value in everything.items()),
        params=_digest(merged),
    )


def _shown(overrides: Mapping[str, Any]) -> str:
    """Return overrides to be read, environment variables by their names."""
    return " ".join(
        f"{key}={value}" if isinstance(value, str) else as_override(key, value)
        for key, value in overrides.items()
    )


def _digest(params: Params) -> str:
    text = json.dumps(params.model_dump(mode="json", by_alias=True), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _expand(overrides: Mapping[str, Any], environment: Mapping[str, str]) -> dict[str, Any]:
    """Put environment variables into the strings."""
    try:
        return {
            key: Template(value).substitute(environment) if isinstance(value, str) else value
            for key, value in overrides.items()
        }
    except KeyError as error:
        raise TablesError(
            f"the environment variable {error.args[0]} is not set; it names a folder with mvtec/, "
            "mtd/ and neu_seg_base/"
        ) from None


def _listed(names: Mapping[Any, object]) -> str:
    return ", ".join(str(name) for name in names)

"""Rows of the paper's tables that are one for each product: tables 10 to 12 and 17."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from string import Template
from typing import Any

Row = dict[str, Any]


def expand(table: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Return a table of tables.yaml with its `rows`; those of `rows_from` come from a CSV file.

    Such a row has the paper's `mvtec` metrics of one `category`. Its `set` is the table's, with
    `$base` replaced, or that of its detector; a detector without one is the paper's alone.
    """
    if "rows_from" not in table:
        return dict(table)
    with (folder / table["rows_from"]).open(encoding="utf-8", newline="") as file:
        records = list(csv.DictReader(file))
    make = _base_row if "base" in records[0] else _product_row
    return {**table, "rows": [make(record, table["set"]) for record in records]}


def _base_row(record: Mapping[str, str], shared: Mapping[str, Any]) -> Row:
    base, product = record["base"], record["product"]
    own = {key: Template(value).safe_substitute(base=base) for key, value in shared.items()}
    return {"name": f"{base} to {product}", "category": product, "set": own, **_paper(record)}


def _product_row(record: Mapping[str, str], by_detector: Mapping[str, Any]) -> Row:
    product, detector = record["product"], record["detector"]
    row = {"name": f"{product}, {detector}", "category": product, **_paper(record)}
    return {**row, "set": by_detector[detector]} if detector in by_detector else row


def _paper(record: Mapping[str, str]) -> Row:
    return {"mvtec": [float(record[metric]) for metric in ("nmi", "ari", "f1")]}

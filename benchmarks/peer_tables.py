"""Print the tables of docs/peers.md: python -m benchmarks.peer_tables metal fabric

reads what the stage `compare` wrote and prints a row a method and input, by falling mean of NMI,
and a column a product: NMI/ARI/F1, the deviation of NMI over seeds in brackets. A product of
another project is given with its data folder, as in bottle=../bottle/data.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from pipeline.io.paths import ArtifactPaths, missing
from pipeline.io.tables import read_json

Rows = Mapping[str, Mapping[str, Any]]
"""What JSON files of a product say of each row."""


def read_rows(category: str, data: Path) -> dict[str, Any]:
    """Return all rows of a product; raises ArtifactError without any."""
    folder = ArtifactPaths(data).compare(category)
    files = sorted(folder.glob("*.json"))
    if not files:
        raise missing(folder)
    return {name: row for file in files for name, row in read_json(file).items()}


def three(value: float) -> str:
    """Return .123 for 0.123."""
    text = f"{value:.3f}"
    return text[1:] if text.startswith("0.") else text.replace("-0.", "-.")


def cell(row: Mapping[str, Any] | None) -> str:
    """Return NMI/ARI/F1 of a row, and the deviation of NMI if there is one."""
    if row is None or not row["means"]:
        return "-"
    metrics = "/".join(three(row["means"][name]) for name in ("nmi", "ari", "f1"))
    spread = row["deviations"]
    return metrics if spread is None else f"{metrics} ({three(spread['nmi'])})"


def mean_nmi(name: str, products: Mapping[str, Rows]) -> float:
    """Return the mean NMI of a row over the products that have it; -1 without any."""
    found = [
        rows[name]["means"]["nmi"] for rows in products.values() if rows.get(name, {}).get("means")
    ]
    return float(np.mean(found)) if found else -1.0


def table(products: Mapping[str, Rows], inputs: Sequence[str], cost: bool) -> list[str]:
    """Return the lines of a markdown table, then a line for each reason why rows were skipped."""
    names = {name: row for rows in products.values() for name, row in rows.items()}
    kept = [name for name, row in names.items() if row["input"] in inputs]
    head = ["row", "uses", *products, *(["seconds, MiB"] if cost else [])]
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    skipped: dict[str, list[str]] = {}
    for name in sorted(kept, key=lambda name: -mean_nmi(name, products)):
        rows = {product: rows.get(name) for product, rows in products.items()}
        for product, row in rows.items():
            if row is not None and row["skipped"]:
                reason = f"{product}: {row['skipped']}"
                skipped.setdefault(reason, []).append(row["name"])
        if mean_nmi(name, products) < 0:
            continue
        about = names[name]
        cells = [about["name"], ", ".join(about["uses"]) or "-", *map(cell, rows.values())]
        if cost:
            costs = [row for row in rows.values() if row is not None and row["seconds"] is not None]
            most = [max(row[key] for row in costs) for key in ("seconds", "host_mib")]
            cells.append(f"{most[0]:.1f}, {most[1]:.0f}")
        lines.append(f"| {' | '.join(cells)} |")
    reasons = [f"Skipped, {reason}: {'; '.join(found)}" for reason, found in skipped.items()]
    return [*lines, *([""] if reasons else []), *reasons]


def main(
    products: Annotated[list[str], typer.Argument(help="Products, or PRODUCT=DATA_FOLDER.")],
    only: Annotated[str, typer.Option(help="Inputs, by commas.")] = "whole,crop,patch",
    cost: Annotated[bool, typer.Option(help="Seconds of a seed and memory, the largest.")] = False,
) -> None:
    """Print the table."""
    found = {}
    for product in products:
        category, _, data = product.partition("=")
        column = f"{category}, {Path(data).parent.name}" if category in found else category
        found[column] = read_rows(category, Path(data or "data"))
    typer.echo("\n".join(table(found, only.split(","), cost)))


if __name__ == "__main__":
    typer.run(main)

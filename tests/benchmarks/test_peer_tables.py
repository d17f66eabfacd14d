"""The tables of docs/peers.md, from made-up results."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks.peer_tables import main, read_rows
from pipeline.io.paths import ArtifactError
from pipeline.io.tables import write_json


def row(name: str, nmi: float | None, sd: float | None = None, given: str = "crop") -> Any:
    means = {} if nmi is None else {"nmi": nmi, "ari": 0.25, "f1": 1.0}
    return {
        "name": f"{name}, {given}",
        "input": given,
        "uses": ["M"],
        "means": means,
        "deviations": None if sd is None else {"nmi": sd},
        "seconds": None if nmi is None else 1.25,
        "host_mib": None if nmi is None else 300.4,
        "skipped": "took more than 10 minutes" if nmi is None else None,
    }


def write(data: Path, category: str, **rows: Any) -> None:
    folder = data / "compare" / category
    folder.mkdir(parents=True)
    write_json(folder / "method.json", rows)


def test_rows_by_mean_nmi_with_deviation_cost_and_reasons(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = tmp_path / "data", tmp_path / "other" / "data"
    write(first, "metal", low=row("Low", 0.5), high=row("High", 0.75, 0.01), slow=row("Slow", None))
    write(second, "metal", low=row("Low", 0.25), wide=row("Wide", 0.9, given="whole"))
    main([f"metal={first}", f"metal={second}"], only="crop", cost=True)
    assert capsys.readouterr().out.splitlines() == [
        "| row | uses | metal | metal, other | seconds, MiB |",
        "|---|---|---|---|---|",
        "| High, crop | M | .750/.250/1.000 (.010) | - | 1.2, 300 |",
        "| Low, crop | M | .500/.250/1.000 | .250/.250/1.000 | 1.2, 300 |",
        "",
        "Skipped, metal: took more than 10 minutes: Slow, crop",
    ]


def test_a_product_that_was_not_compared_is_named(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="compare"):
        read_rows("metal", tmp_path)

"""The results of data/benchmarks/ as the Markdown of docs/performance.md."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

Json = dict[str, Any]


def markdown(results: Sequence[Json]) -> str:
    """Return times, memory and equality, notes, growth, and the commands, as tables."""
    rows = [row for result in results for row in result["rows"]]
    timed = [row for row in rows if row["plain_s"] is not None]
    parts = [
        _table(["what", "plain", "ours", "ratio", "target"], [_time(row) for row in timed]),
        _table(["what", "memory, plain", "memory, ours", "equal"], [_memory(row) for row in timed]),
        [f"- {row['what']}: {note}" for row in timed for note in _notes(row)],
        _growth([row for row in rows if row["plain_s"] is None]),
        _table(["command", "commit, date", "CPU", "cores", "load"], [_command(r) for r in results]),
    ]
    return "\n\n".join("\n".join(lines) for lines in parts if lines)


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [f"| {' | '.join(cells)} |" for cells in (heads, *rows)]
    return [lines[0], "|---" * len(heads) + "|", *lines[1:]] if rows else []


def _time(row: Json) -> list[str]:
    unit = f" per {row['unit']}" if row["unit"] else ""
    plain, ours = (_duration(row[key]) + unit for key in ("plain_s", "ours_s"))
    return [row["what"], plain, ours, f"{row['ratio']:.1f}x", row["target"]]


def _memory(row: Json) -> list[str]:
    memory = ["-" if row[k] is None else f"{row[k]:.0f} MiB" for k in ("plain_mb", "ours_mb")]
    return [row["what"], *memory, row["equal"] or "-"]


def _notes(row: Json) -> list[str]:
    return [*row["notes"], *(f"{name} {value:g}" for name, value in row["metrics"].items())]


def _growth(rows: Sequence[Json]) -> list[str]:
    """Return a column for each number of images."""
    sizes = list(dict.fromkeys(size for row in rows for size in row["metrics"]))
    return _table(
        ["what", *sizes, "target"],
        [
            [
                row["what"],
                *(
                    f"{row['metrics'][s]:g} {row['unit']}" if s in row["metrics"] else ""
                    for s in sizes
                ),
                row["target"],
            ]
            for row in rows
        ],
    )


def _command(result: Json) -> list[str]:
    made = f"{result['commit']}, {result['date']}"
    return [f"`{result['command']}`", made, result["cpu"], str(result["cpus"]), str(result["load"])]


def _duration(value: float) -> str:
    if value < 1:
        return f"{value * 1000:.3g} ms"
    return f"{value:.3g} s" if value < 1000 else f"{value / 60:.0f} min"

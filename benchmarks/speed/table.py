"""The figures of data/benchmarks/ as Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

ORDER = (
    "mebin",
    "crops",
    "merging",
    "augmentation",
    "inference",
    "training",
    "rerun",
    "quality",
    "musc",
    "coreset",
    "growth",
)


def markdown(results: Sequence[dict[str, Any]]) -> str:
    """Return the table of all results, and what they were measured with."""
    ordered = sorted(results, key=lambda r: (ORDER.index(r["name"]), r["name"]))
    lines = [
        "| what | reach | plain | ours | ratio | peak memory, plain / ours | equal | commit |",
        "|---|---|---|---|---|---|---|---|",
    ]
    lines += [_line(row, result) for result in ordered for row in result["rows"]]
    lines += ["", "| command | date | CPU | cores, threads | load |", "|---|---|---|---|---|"]
    lines += [
        f"| `{r['command']}` | {r['date']} | {r['cpu']} | {r['cpus']}, {r['threads']} "
        f"| {r['load']} |"
        for r in ordered
    ]
    return "\n".join(lines)


def _line(row: dict[str, Any], result: dict[str, Any]) -> str:
    unit = f" per {row['unit']}" if row["unit"] else ""
    times = [
        "-" if row[key] is None else _duration(row[key]) + unit for key in ("plain_s", "ours_s")
    ]
    if row["ours_cpu_s"] is not None:
        times[1] += f" (CPU {_duration(row['ours_cpu_s'])})"
    ratio = "-" if row["ratio"] is None else f"{row['ratio']:.1f}x"
    memory = " / ".join(
        "-" if row[key] is None else f"{row[key]:.0f} MB" for key in ("plain_mb", "ours_mb")
    )
    notes = [row["note"]] if row["note"] else []
    notes += [f"{name} {value:g}" for name, value in row["figures"].items()]
    what = row["what"] + (f" ({'; '.join(notes)})" if notes else "")
    cells = [what, row["reach"], *times, ratio, memory, row["equal"] or "-", str(result["commit"])]
    return f"| {' | '.join(cells)} |"


def _duration(value: float) -> str:
    if value < 1:
        return f"{value * 1000:.3g} ms"
    return f"{value:.3g} s" if value < 1000 else f"{value / 60:.0f} min"

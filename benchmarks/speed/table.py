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
    """Return the tables of all results, and what they were measured with."""
    ordered = sorted(results, key=lambda r: (ORDER.index(r["name"]), r["name"]))
    compared = [r for r in ordered if r["name"] != "growth"]
    lines = _compared(compared) if compared else []
    for result in ordered[len(compared) :]:  # growth is the last of ORDER
        lines += [*_growing(result["rows"]), ""]
    lines += ["| command | date, commit | CPU | cores, threads | load |", "|---|---|---|---|---|"]
    lines += [
        f"| `{r['command']}` | {r['date']}, {r['commit']} | {r['cpu']} "
        f"| {r['cpus']}, {r['threads']} | {r['load']} |"
        for r in ordered
    ]
    return "\n".join(lines)


def _compared(results: Sequence[dict[str, Any]]) -> list[str]:
    return [
        "| what | reach | plain | ours | ratio | peak memory, plain / ours | equal |",
        "|---|---|---|---|---|---|---|",
        *(_line(row) for result in results for row in result["rows"]),
        "",
    ]


def _growing(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Return a column for each number of images."""
    sizes = list(dict.fromkeys(size for row in rows for size in row["figures"]))
    lines = [f"| what | reach | {' | '.join(sizes)} |", "|---" * (len(sizes) + 2) + "|"]
    for row in rows:
        cells = [
            f"{row['figures'][s]:g} {row['unit']}" if s in row["figures"] else "" for s in sizes
        ]
        lines.append(f"| {row['what']} | {row['reach']} | {' | '.join(cells)} |")
    return lines


def _line(row: dict[str, Any]) -> str:
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
    cells = [what, row["reach"], *times, ratio, memory, row["equal"] or "-"]
    return f"| {' | '.join(cells)} |"


def _duration(value: float) -> str:
    if value < 1:
        return f"{value * 1000:.3g} ms"
    return f"{value:.3g} s" if value < 1000 else f"{value / 60:.0f} min"

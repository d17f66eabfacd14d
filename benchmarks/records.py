"""Figures of the runs, one CSV a table and data set, and the tables as Markdown."""

from __future__ import annotations

import csv
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from benchmarks.plan import Job, Row, Table
from pipeline.io.files import replacing

_OWN = ("row", "seed", "error", "commit", "params", "settings", "overrides")


@dataclass(frozen=True)
class Record:
    """What one run gave: figures, or the reason why there are none."""

    row: str
    seed: int
    error: str
    commit: str
    params: str
    settings: str
    overrides: str
    metrics: dict[str, float | None] = field(default_factory=dict)

    @property
    def key(self) -> tuple[str, int, str, str]:
        """What a later run replaces."""
        return self.row, self.seed, self.settings, self.overrides


def record_of(
    job: Job, commit: str, *, metrics: dict[str, float | None] | None = None, error: str = ""
) -> Record:
    """Return the record of a run."""
    return Record(
        job.row, job.seed, error, commit, job.params, job.settings, job.overrides, metrics or {}
    )


def read_records(path: Path) -> list[Record]:
    """Read a CSV; none: an empty list."""
    if not path.exists():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return [_record(line) for line in csv.DictReader(file)]


def _record(line: dict[str, str]) -> Record:
    return Record(
        row=line["row"],
        seed=int(line["seed"]),
        error=line["error"],
        commit=line["commit"],
        params=line["params"],
        settings=line["settings"],
        overrides=line["overrides"],
        metrics={k: float(text) if text else None for k, text in line.items() if k not in _OWN},
    )


def add_record(path: Path, record: Record) -> None:
    """Put a record at the end of a CSV, in place of an older one of the same row and settings."""
    kept = [old for old in read_records(path) if old.key != record.key]
    records = [*kept, record]
    names = list(dict.fromkeys(name for one in records for name in one.metrics))
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*_OWN, *names])
        for one in records:
            writer.writerow(
                [*(getattr(one, name) for name in _OWN), *(one.metrics.get(n) for n in names)]
            )


def find_record(records: Iterable[Record], job: Job, commit: str) -> Record | None:
    """Return the figures of a run with the same parameters and commit, as the job's own record."""
    for record in records:
        if record.params == job.params and record.commit == commit and not record.error:
            return replace(record_of(job, commit), metrics=record.metrics)
    return None


def markdown(number: int, table: Table, data: str, records: Sequence[Record]) -> str:
    """Return a table for each of the settings in the records, in the order of the last runs."""
    groups: dict[str, list[Record]] = {}
    for record in records:
        groups.setdefault(record.settings, []).append(record)
    return "\n\n".join(
        _one(number, table, data, settings, group) for settings, group in groups.items()
    )


def _one(number: int, table: Table, data: str, settings: str, records: Sequence[Record]) -> str:
    papers = {"paper, MVTec AD": "mvtec", "paper, MTD": "mtd"}
    shown = {
        head: name
        for head, name in papers.items()
        if any(getattr(row, name) is not None for row in table.rows)
    }
    commits = ", ".join(dict.fromkeys(record.commit for record in records))
    lines = [
        f"### Table {number}, {table.title}: {data}",
        "",
        f"`{settings}`, commit {commits}. {'/'.join(table.figures)}: mean over the seeds, standard "
        "deviation of nmi in brackets.",
        "",
        _line(["row", "seeds", f"ours, {data}", *shown]),
        _line(["---"] * (3 + len(shown))),
    ]
    for row in table.rows:
        own = [record for record in records if record.row == row.name]
        paper = [_figures(getattr(row, name)) for name in shown.values()]
        lines.append(_line([*_ours(table, row, own), *paper]))
    return "\n".join(lines)


def _ours(table: Table, row: Row, records: Sequence[Record]) -> list[str]:
    good = [record for record in records if not record.error]
    failed = [record for record in records if record.error]
    seeds = ", ".join(str(record.seed) for record in good) or "-"
    if failed:
        seeds += f" (failed: {', '.join(str(record.seed) for record in failed)})"
    if not good:
        return [row.name, seeds, failed[-1].error if failed else "-"]
    columns = [[record.metrics.get(name) for record in good] for name in table.figures]
    means = [_mean(column) for column in columns]
    nmi = [x for record in good if (x := record.metrics.get("nmi")) is not None]
    spread = f" ({_number(statistics.stdev(nmi))})" if len(nmi) > 1 else ""
    return [row.name, seeds, _figures(means) + spread]


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known else None


def _figures(values: Sequence[float | None] | None) -> str:
    return "-" if values is None else "/".join(_number(value) for value in values)


def _number(value: float | None) -> str:
    """Return .613, -.013 or 1.000; a dash for None."""
    if value is None:
        return "-"
    text = f"{value:.3f}"
    return text.replace("0.", ".", 1) if text.lstrip("-").startswith("0.") else text


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"

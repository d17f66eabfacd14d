"""Runs of a table, one `dvc exp run` each, in the checkout of the project."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer

from benchmarks.plan import Job, TablesError
from benchmarks.records import add_record, find_record, read_records, record_of
from pipeline.io.paths import ArtifactError
from pipeline.io.tables import read_json

ROOT = Path(__file__).resolve().parent.parent
CODE = ("pipeline", "stages", "dvc.yaml")
Runner = Callable[[Sequence[str], Path], tuple[int, str]]
"""Runs a command in a folder; returns its exit status and what it wrote."""


def run_command(command: Sequence[str], folder: Path) -> tuple[int, str]:
    """Run a command, passing on what it writes to stderr; on Ctrl-C wait until it has ended."""
    written: list[str] = []
    with subprocess.Popen(
        command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout is not None
        try:
            for line in process.stdout:
                written.append(line)
                if command[0] != "git":
                    sys.stderr.write(line)
        except KeyboardInterrupt:  # the command has got it too
            process.communicate()
            raise
    return process.returncode, "".join(written)


@dataclass(frozen=True)
class Workspace:
    """A checkout of the project, and how commands are run in it."""

    root: Path = ROOT
    run: Runner = run_command

    def csv(self, number: int, data: str) -> Path:
        """Return where the figures of a table are kept."""
        return self.root / "data" / "tables" / f"{number}-{data}.csv"

    def commit(self) -> str:
        """Return the commit, with `-dirty` if code of the pipeline differs from it."""
        status, text = self.run(["git", "rev-parse", "--short=12", "HEAD"], self.root)
        if status:
            raise TablesError("this is no git repository with a commit")
        _, changed = self.run(["git", "status", "--porcelain", "--", *CODE], self.root)
        return text.strip() + ("-dirty" if changed.strip() else "")

    def check(self) -> None:
        """Refuse a params.yaml that differs from the committed one."""
        status, _ = self.run(["git", "diff", "--quiet", "HEAD", "--", "params.yaml"], self.root)
        if status:
            raise TablesError(
                "params.yaml differs from the committed one: `git checkout HEAD params.yaml`, and "
                "pass what you changed with --set"
            )

    @contextmanager
    def same_params(self) -> Iterator[Callable[[], None]]:
        """Yield a function that puts params.yaml back as it was, and call it at the end."""
        path = self.root / "params.yaml"
        content = path.read_bytes()

        def restore() -> None:
            path.write_bytes(content)

        try:
            yield restore
        finally:
            restore()


def command_of(job: Job, stamp: str) -> list[str]:
    """Return the DVC command of a run; the stamp keeps the name of the experiment unique."""
    row = re.sub(r"[^A-Za-z0-9]+", "-", job.row)
    name = f"table{job.table}-{job.data}-{row}-seed{job.seed}-{stamp}"
    options = [part for option in job.options for part in ("-S", option)]
    return ["dvc", "exp", "run", "-n", name, *options, f"evaluate@{job.category}"]


def run_jobs(jobs: Sequence[Job], workspace: Workspace, *, stamp: str, force: bool = False) -> None:
    """Run what is not there yet, one after the other; params.yaml is left as it was."""
    workspace.check()
    commit = workspace.commit()
    with workspace.same_params() as restore:
        for i, job in enumerate(jobs, 1):
            path = workspace.csv(job.table, job.data)
            known = [
                record
                for file in sorted(path.parent.glob(f"*-{job.data}.csv"))
                for record in read_records(file)
            ]
            record = None if force or "dirty" in commit else find_record(known, job, commit)
            where = f"[{i}/{len(jobs)}] table {job.table}, {job.row}, seed {job.seed}"
            typer.echo(f"{where}: {'running' if record is None else 'known'}", err=True)
            if record is None:
                restore()  # or the run would build on the parameters of the one before
                metrics, error = _figures(job, workspace, stamp)
                record = record_of(job, commit, metrics=metrics, error=error)
            add_record(path, record)


def _figures(job: Job, workspace: Workspace, stamp: str) -> tuple[dict[str, float | None], str]:
    """Run a job; return its metrics, or what went wrong."""
    try:
        status, text = workspace.run(command_of(job, stamp), workspace.root)
    except FileNotFoundError:
        raise TablesError("there is no command `dvc`: activate the environment first") from None
    if status:
        return {}, _reason(text) or f"exit status {status}"
    path = workspace.root / "data" / "evaluate" / job.category / "metrics.json"
    try:
        content: dict[str, Any] = read_json(path)
    except ArtifactError as error:
        return {}, str(error)
    figures = {
        name: None if value is None else float(value)
        for name, value in content.items()
        if value is None or isinstance(value, int | float)
    }
    return figures, ""


def _reason(text: str) -> str:
    """Return the line that says why a stage, or else DVC, stopped."""
    for pattern in (r"^anomalyncd \w+: .+", r"^\w*(?:Error|Exception): .+", r"^ERROR: .+"):
        if found := re.findall(pattern, text, re.MULTILINE):
            return str(found[-1]).strip()
    return ""
